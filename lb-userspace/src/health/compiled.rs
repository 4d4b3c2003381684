//! A configured check made ready to run many times.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use rustls_pki_types::CertificateDer;

use super::{
    http::HttpCheck,
    tls::{SystemRoots, Tls},
};
use crate::config::model::{HealthCheck, Probe};

/// A check with all that can be prepared done: patterns compiled, request built, trust anchors loaded.
#[derive(Debug)]
pub struct Compiled {
    pub(super) question: Question,
    pub(super) timeout: Duration,
    port: Option<u16>,
}

/// What is asked of the target.
#[derive(Debug)]
pub(super) enum Question {
    /// To accept a connection.
    Tcp,
    /// To answer a request.
    Http(HttpCheck),
    /// To answer a request over TLS.
    Https(HttpCheck, Tls),
}

impl Compiled {
    /// The address that is asked about a target.
    #[must_use]
    pub fn address(&self, target: SocketAddr) -> SocketAddr {
        SocketAddr::new(target.ip(), self.port.unwrap_or(target.port()))
    }

    /// Whether both trust the same certificates.
    #[must_use]
    pub fn trusts_as(&self, other: &Self) -> bool {
        self.trusted() == other.trusted()
    }

    fn trusted(&self) -> &[CertificateDer<'static>] {
        match &self.question {
            Question::Https(_, tls) => tls.trusted(),
            Question::Tcp | Question::Http(_) => &[],
        }
    }
}

/// Why a check cannot be run at all.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// The method is not a token.
    #[error("health check method `{0}` is not an HTTP method; use GET, HEAD or another token")]
    Method(String),
    /// The path cannot be asked for.
    #[error(
        "health check path `{path}`: {error}; write a path that begins with `/`, special characters percent-encoded"
    )]
    Path {
        /// As configured.
        path: String,
        /// What is wrong with it.
        error: String,
    },
    /// A header cannot be sent.
    #[error("health check header `{name}`: {error}")]
    Header {
        /// The header's name as configured; `Host` for the host.
        name: String,
        /// What is wrong with its name or value.
        error: String,
    },
    /// The pattern of the body is no regular expression.
    #[error("health check body pattern: {0}")]
    Pattern(#[from] regex::Error),
    /// The name to verify is neither a DNS name nor an address.
    #[error("health check server name `{0}` is neither a DNS name nor an IP address")]
    ServerName(String),
    /// The file of trusted certificates cannot be used.
    #[error("health check CA file {}: {error}; it must hold at least one PEM certificate that the agent can read", path.display())]
    CaFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        error: String,
    },
    /// Nothing is trusted by this host.
    #[error(
        "this host has no trusted root certificates{0}; install ca-certificates, or name a CA file in the health check"
    )]
    NoSystemRoots(String),
    /// TLS cannot be set up.
    #[error("health check TLS: {0}")]
    Tls(#[from] rustls::Error),
}

/// Makes checks ready to run. The host's trusted roots are read once, for the first check that is verified by them.
#[derive(Debug, Default)]
pub struct Compiler {
    roots: Option<SystemRoots>,
}

impl Compiler {
    /// Makes a check ready to run. Reads the CA file or the system's roots: it blocks for as long as that takes.
    ///
    /// # Errors
    /// When the check could never succeed for a reason of its own; see [`CompileError`].
    pub fn compile(&mut self, check: &HealthCheck) -> Result<Compiled, CompileError> {
        let question = match &check.probe {
            Probe::Tcp => Question::Tcp,
            Probe::Http(http) => Question::Http(HttpCheck::compile(http)?),
            Probe::Https { http, tls } => {
                Question::Https(HttpCheck::compile(http)?, Tls::compile(tls, &mut self.roots)?)
            }
        };
        Ok(Compiled { question, timeout: check.timeout, port: check.port })
    }
}
