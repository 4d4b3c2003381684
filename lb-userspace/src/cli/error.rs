//! What can go wrong in `lbctl`, and its exit codes.

use std::{fmt::Write as _, io, path::PathBuf, process::ExitCode};

use crate::api::{client::ClientError, types::Problem};

/// Why a command was not carried out.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The agent could not be asked, or refused.
    Client(ClientError),
    /// The agent found the configuration faulty.
    Faults {
        /// The file as the user named it.
        file: String,
        problem: Box<Problem>,
    },
    /// The configuration's file could not be read.
    File { path: PathBuf, source: io::Error },
    /// Standard output could not be written.
    Output(io::Error),
    /// What was waited for did not come.
    Waited(String),
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        Self::Client(error)
    }
}

impl Failure {
    /// The process's exit code, as `--help` lists them.
    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Client(ClientError::Problem(problem)) if problem.status == 404 => 5,
            Self::Client(ClientError::Problem(problem)) if !problem.faults.is_empty() => 4,
            Self::Client(ClientError::Unreachable { .. } | ClientError::Timeout { .. }) => 3,
            Self::Faults { .. } => 4,
            Self::File { .. } => 2,
            // Who reads no further, as `head` does, has seen enough.
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => 0,
            Self::Client(_) | Self::Output(_) | Self::Waited(_) => 1,
        })
    }

    /// What to print on standard error, if anything.
    pub(crate) fn message(&self) -> Option<String> {
        let told = match self {
            Self::Client(ClientError::Problem(problem)) if !problem.reasons.is_empty() => {
                let lines = problem.reasons.iter().map(|reason| format!("{} {reason}\n", label("error:")));
                return Some(lines.collect());
            }
            Self::Client(error) => error.to_string(),
            Self::Faults { file, problem } => return Some(faults(file, problem)),
            Self::File { path, source } => format!("cannot read {}: {source}", path.display()),
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => return None,
            Self::Output(error) => format!("cannot write: {error}"),
            Self::Waited(what) => what.clone(),
        };
        Some(format!("{} {told}\n", label("error:")))
    }
}

/// Every fault with its place, in the form that editors jump to.
fn faults(file: &str, problem: &Problem) -> String {
    let mut text = String::new();
    for fault in &problem.faults {
        let _ = writeln!(text, "{}", fault.in_file(file));
        if let Some(hint) = &fault.hint {
            let _ = writeln!(text, "    {hint}");
        }
    }
    let _ = writeln!(text, "{} {}", label("error:"), problem.detail);
    text
}

fn label(text: &str) -> String {
    console::style(text).for_stderr().red().bold().to_string()
}
