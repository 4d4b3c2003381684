//! Why a check failed, as a value and as the words a user reads.

use std::{fmt, sync::Arc, time::Duration};

/// What a check was doing when it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// The TCP handshake.
    Connect,
    /// The TLS handshake.
    Tls,
    /// The request was sent, the head of the answer awaited.
    Answer,
    /// The answer's body was read.
    Body,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connect => "while connecting",
            Self::Tls => "during the TLS handshake",
            Self::Answer => "while waiting for the answer",
            Self::Body => "while reading the answer's body",
        })
    }
}

/// Inclusive ranges of status codes, written as in the configuration: `200-399, 418`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusRanges(Arc<[(u16, u16)]>);

impl StatusRanges {
    /// The ranges as pairs of lowest and highest code.
    #[must_use]
    pub fn new(ranges: &[(u16, u16)]) -> Self {
        Self(ranges.into())
    }

    /// Whether one of the ranges holds the code.
    #[must_use]
    pub fn contains(&self, status: u16) -> bool {
        self.0.iter().any(|&(first, last)| (first..=last).contains(&status))
    }
}

impl fmt::Display for StatusRanges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (first, last)) in self.0.iter().enumerate() {
            let comma = if i == 0 { "" } else { ", " };
            if first == last {
                write!(f, "{comma}{first}")?;
            } else {
                write!(f, "{comma}{first}-{last}")?;
            }
        }
        Ok(())
    }
}

/// Why a check failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum Reason {
    /// Nothing listens on the port.
    #[error("connection refused")]
    Refused,
    /// The network could not carry the connection.
    #[error("{0}")]
    Unreachable(&'static str),
    /// The target sent a reset.
    #[error("connection reset {0}")]
    Reset(Phase),
    /// The target closed the connection before it had answered in full.
    #[error("connection closed {0}")]
    Closed(Phase),
    /// The check's time ran out.
    #[error("timed out after {after:?} {phase}")]
    TimedOut {
        /// The time given.
        after: Duration,
        /// What was being waited for.
        phase: Phase,
    },
    /// The status code is not one of those expected.
    #[error("status {got}, expected {expected}")]
    Status {
        /// The code answered.
        got: u16,
        /// The codes taken for healthy.
        expected: StatusRanges,
    },
    /// The body lacks what was expected.
    #[error("body does not match `{pattern}`")]
    Body {
        /// The regular expression.
        pattern: Arc<str>,
    },
    /// What was answered is not HTTP/1.
    #[error("not a valid HTTP answer: {0}")]
    Http(String),
    /// The certificate does not prove that the server is who it should be.
    #[error("certificate: {0}")]
    Certificate(String),
    /// TLS could not be agreed on.
    #[error("TLS: {0}")]
    Tls(String),
    /// The node lacks the means to check; says nothing about the target.
    #[error("not checked, this node is short of means: {0}")]
    Local(String),
    /// Any other failure of the connection.
    #[error("{error} {phase}")]
    Io {
        /// The system's words.
        error: String,
        /// What was being done.
        phase: Phase,
    },
}

impl Reason {
    /// A stable short name: `timed_out`, `status`…
    #[must_use]
    pub fn kind(&self) -> &'static str {
        self.into()
    }

    /// Whether the failure is this node's own, so that it must not count against the target.
    #[must_use]
    pub fn is_local(&self) -> bool {
        matches!(self, Self::Local(_))
    }
}
