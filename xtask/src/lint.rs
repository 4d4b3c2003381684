//! `cargo xtask lint`: format, lints, documentation, licences.

use std::path::PathBuf;

use anyhow::Result;

use crate::{build, lock, process, toolchain, workspace};

const DENY_VERSION: &str = "0.20.2";

/// The target of host checks for the kernel crate is its library alone: its program exists for BPF only.
const KERNEL_CRATE: &str = "lb-ebpf";

pub(crate) fn run() -> Result<()> {
    process::step("Format");
    process::run(workspace::cargo().args(["fmt", "--all", "--check"]))?;

    // The agent embeds the object, and the compiler's warnings about the kernel program are errors here as well.
    build::object_without_warnings()?;

    process::step("Lints");
    let deny = ["--", "-D", "warnings"];
    let mut command = workspace::cargo();
    process::run(
        command.args(["clippy", "--workspace", "--exclude", KERNEL_CRATE, "--all-targets"]).args(deny),
    )?;
    process::run(workspace::cargo().args(["clippy", "--package", KERNEL_CRATE, "--lib"]).args(deny))?;

    process::step("Documentation");
    let mut command = workspace::cargo();
    process::run(command.args(["doc", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings"))?;

    process::step("Licences, sources and duplicate crates");
    process::run(std::process::Command::new(cargo_deny()?).current_dir(workspace::root()).args([
        "--workspace",
        "check",
        "bans",
        "licenses",
        "sources",
    ]))?;
    process::note(
        "known vulnerabilities need the advisory database from the network: `cargo deny check advisories`",
    );
    Ok(())
}

fn cargo_deny() -> Result<PathBuf> {
    let folder = workspace::toolchain();
    let _lock = lock::acquire(&folder)?;
    let folder = folder.join(format!("cargo-deny-{DENY_VERSION}"));
    let arguments = ["cargo-deny", "--version", DENY_VERSION];
    toolchain::cargo_install(&folder, "cargo-deny", &arguments, |_| ())
}
