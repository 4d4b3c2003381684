//! `cargo xtask load`: builds, then runs the agent on an interface.

use std::{os::unix::process::CommandExt as _, path::Path};

use anyhow::{Context as _, Result};

use crate::{build, privilege, process};

pub(crate) fn run(interface: &str, config: Option<&Path>, profile: build::Profile) -> Result<()> {
    let binaries = build::run(profile)?;
    let variables = std::env::var_os("RUST_LOG").map(|level| ("RUST_LOG", level));
    let mut command = privilege::as_root(&binaries.lbd, variables)?;
    command.args(["run", "--interface", interface]);
    if let Some(config) = config {
        command.arg("--config").arg(config);
    }
    process::step(&process::line(&command));
    // Takes this process's place, so that signals reach the agent and its exit code reaches the caller.
    Err(command.exec()).with_context(|| format!("cannot start `{}`", process::line(&command)))
}
