//! Root for the few steps that need it, and for nothing else.

use std::{ffi::OsStr, path::Path, process::Command};

use anyhow::{Context as _, Result};

use crate::process;

pub(crate) fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Whether a step that needs root can be tried at all.
pub(crate) fn can_become_root() -> bool {
    is_root() || process::find_program("sudo").is_some()
}

/// A command that runs `program` as root with these variables set: directly when the caller is root, else through sudo.
pub(crate) fn as_root<K: AsRef<OsStr>, V: AsRef<OsStr>>(
    program: &Path,
    variables: impl IntoIterator<Item = (K, V)>,
) -> Result<Command> {
    if is_root() {
        let mut command = Command::new(program);
        command.envs(variables);
        return Ok(command);
    }
    let sudo = process::find_program("sudo")
        .with_context(|| format!("{} needs root: run this as root, or install sudo", program.display()))?;
    Ok(through_sudo(&sudo, program, variables))
}

fn through_sudo<K: AsRef<OsStr>, V: AsRef<OsStr>>(
    sudo: &Path,
    program: &Path,
    variables: impl IntoIterator<Item = (K, V)>,
) -> Command {
    let mut command = Command::new(sudo);
    // sudo drops the caller's environment: `env` sets the variables on the other side of it.
    command.arg("--").arg("env");
    for (key, value) in variables {
        let mut word = key.as_ref().to_owned();
        word.push("=");
        word.push(value);
        command.arg(word);
    }
    command.arg(program);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_pass_through_sudo() {
        let command =
            through_sudo(Path::new("sudo"), Path::new("target/lbd"), [("PATH", "/bin"), ("A", "b c")]);
        assert_eq!(process::line(&command), "sudo -- env PATH=/bin 'A=b c' target/lbd");
    }
}
