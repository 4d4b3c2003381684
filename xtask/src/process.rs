//! Running other programs: what is run is shown, and a failure names the command line.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

/// Announces a step that may take a while.
pub(crate) fn step(what: &str) {
    eprintln!("{} {what}", console::style("==>").cyan().bold().for_stderr());
}

/// Adds a detail to the step before it.
pub(crate) fn note(what: &str) {
    eprintln!("    {what}");
}

/// Runs the command with the caller's standard streams; a failure is an error that names the command line.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start `{}`", line(command)))?;
    if !status.success() {
        bail!("`{}` failed: {status}", line(command));
    }
    Ok(())
}

/// Runs the command and returns its standard output; its standard error is part of a failure's message.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output =
        command.stdin(Stdio::null()).output().with_context(|| format!("cannot start `{}`", line(command)))?;
    if !output.status.success() {
        let error = String::from_utf8_lossy(&output.stderr);
        bail!("`{}` failed: {}\n{}", line(command), output.status, error.trim_end());
    }
    String::from_utf8(output.stdout).with_context(|| format!("`{}` wrote no UTF-8", line(command)))
}

/// The command as one would type it.
pub(crate) fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| quote(&word.to_string_lossy())).collect::<Vec<_>>().join(" ")
}

/// The program's place: on PATH, or in a folder of administration programs that users' PATHs often lack.
pub(crate) fn find_program(name: &str) -> Option<std::path::PathBuf> {
    which::which(name).ok().or_else(|| {
        ["/usr/sbin", "/sbin", "/usr/local/sbin"]
            .iter()
            .map(|folder| Path::new(folder).join(name))
            .find(|path| path.is_file())
    })
}

fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:+,@%~".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_can_be_typed_again() {
        let mut command = Command::new("/bin/echo");
        command.args(["plain", "two words", "it's", ""]);
        assert_eq!(line(&command), r"/bin/echo plain 'two words' 'it'\''s' ''");
    }

    #[test]
    fn a_failure_names_the_command_and_its_words() {
        let error =
            output(Command::new("sh").args(["-c", "echo reason >&2; exit 3"])).unwrap_err().to_string();
        assert!(error.contains("`sh -c 'echo reason >&2; exit 3'` failed"), "{error}");
        assert!(error.contains("reason"), "{error}");
    }
}
