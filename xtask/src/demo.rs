//! `cargo xtask demo`: builds, then shows Portside at work on a network of its own.

use std::{os::unix::process::CommandExt as _, path::Path};

use anyhow::{Context as _, Result};

use crate::{artifacts, build, packages, privilege, process, workspace};

/// The package and the name of the program that does it.
const PACKAGE: &str = "lb-tests";
const PROGRAM: &str = "lb-demo";

pub(crate) fn run(keep: bool, record: Option<&Path>, profile: build::Profile) -> Result<()> {
    let binaries = build::run(profile)?;
    process::step("Building the demo");
    let mut command = workspace::cargo();
    command.args(["build", "--package", PACKAGE, "--bin", PROGRAM]);
    if let build::Profile::Release = profile {
        command.arg("--release");
    }
    let built = artifacts::build(&mut command)?.executables;
    let program = built.into_iter().find(|(target, _)| target.name == PROGRAM);
    let (_, program) = program.with_context(|| format!("the build left no {PROGRAM}"))?;

    let variables = [
        ("PATH", packages::search_path()?),
        ("PORTSIDE_LBD", binaries.lbd.into_os_string()),
        ("PORTSIDE_LBCTL", binaries.lbctl.into_os_string()),
    ];
    let mut command = privilege::as_root(&program, variables)?;
    if keep {
        command.arg("--keep");
    }
    if let Some(file) = record {
        command.arg("--record").arg(file);
    }
    process::step(&process::line(&command));
    // In place of this program: Ctrl-C and the exit code are the demo's own.
    Err(command.exec()).with_context(|| format!("cannot start `{}`", process::line(&command)))
}
