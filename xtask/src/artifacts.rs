//! What a call of cargo builds, as cargo itself tells it.

use std::{
    io::BufReader,
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use cargo_metadata::{Message, Target, diagnostic::DiagnosticLevel};

use crate::process;

#[derive(Default)]
pub(crate) struct Artifacts {
    /// Programs.
    pub(crate) executables: Vec<(Target, PathBuf)>,
    /// Programs that run tests.
    pub(crate) tests: Vec<(Target, PathBuf)>,
    /// How many warnings there were; cargo repeats those of crates that it need not build again.
    pub(crate) warnings: usize,
}

/// Runs cargo and shows its messages as it would show them itself.
pub(crate) fn build(cargo: &mut Command) -> Result<Artifacts> {
    let format = if console::colors_enabled_stderr() { "json-diagnostic-rendered-ansi" } else { "json" };
    let line = process::line(cargo);
    cargo.arg(format!("--message-format={format}")).stdout(Stdio::piped());
    let mut child = cargo.spawn().with_context(|| format!("cannot start `{line}`"))?;
    let stdout = child.stdout.take().context("cargo has no output")?;
    let mut artifacts = Artifacts::default();
    for message in Message::parse_stream(BufReader::new(stdout)) {
        match message.context("cannot read what cargo says")? {
            Message::CompilerArtifact(artifact) => {
                let executable = artifact.executable.map(|path| (artifact.target, path.into_std_path_buf()));
                let list =
                    if artifact.profile.test { &mut artifacts.tests } else { &mut artifacts.executables };
                list.extend(executable);
            }
            Message::CompilerMessage(message) => {
                eprint!("{}", message.message.rendered.unwrap_or_default());
                // A crate's closing line, "2 warnings emitted", has no place in the source.
                let counts = matches!(message.message.level, DiagnosticLevel::Warning);
                artifacts.warnings += usize::from(counts && !message.message.spans.is_empty());
            }
            _ => {}
        }
    }
    let status = child.wait().context("cannot wait for cargo")?;
    ensure!(status.success(), "`{line}` failed: {status}");
    Ok(artifacts)
}
