//! TLS to a target, and how the target proves who it is.

use std::{io, net::IpAddr, path::Path, sync::Arc, time::Duration};

use rustls::{CertificateError, ClientConfig, RootCertStore, client::Resumption, crypto};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{
    compiled::CompileError,
    verify::{AnyCertificate, FileVerifier, is_authority},
};
use crate::{
    config::model::{TlsProbe, TlsVerify},
    core::health::Reason,
};

/// A TLS client ready to connect.
pub(super) struct Tls {
    connector: TlsConnector,
    /// The target's address when `None`.
    name: Option<ServerName<'static>>,
    /// What was read to verify the target's certificate.
    trusted: Arc<[CertificateDer<'static>]>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Tls {
    /// `roots` are read if they are needed and were not read before.
    pub(super) fn compile(probe: &TlsProbe, roots: &mut Option<SystemRoots>) -> Result<Self, CompileError> {
        let name = probe.server_name.as_ref().map(|name| {
            ServerName::try_from(name.clone()).map_err(|_| CompileError::ServerName(name.clone()))
        });
        let provider = Arc::new(crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()?;
        let trusted: Arc<[_]>;
        let builder = match &probe.verify {
            TlsVerify::System => {
                let roots = match roots {
                    Some(roots) => roots,
                    None => roots.insert(SystemRoots::read()?),
                };
                trusted = Arc::clone(&roots.certificates);
                builder.with_root_certificates(Arc::clone(&roots.store))
            }
            TlsVerify::CaFile(path) => {
                trusted = certificates_of(path)?.into();
                let verifier = FileVerifier::new(Arc::clone(&trusted), provider)
                    .map_err(|error| CompileError::CaFile { path: path.clone(), error })?;
                builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier))
            }
            TlsVerify::None => {
                trusted = Arc::default();
                builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyCertificate { provider }))
            }
        };
        let mut config = builder.with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        // A resumed session shows no certificate: an expired one would pass for as long as tickets last.
        config.resumption = Resumption::disabled();
        Ok(Self { connector: TlsConnector::from(Arc::new(config)), name: name.transpose()?, trusted })
    }

    pub(super) fn trusted(&self) -> &[CertificateDer<'static>] {
        &self.trusted
    }

    pub(super) async fn connect(&self, stream: TcpStream, ip: IpAddr) -> io::Result<TlsStream<TcpStream>> {
        let name = self.name.clone().unwrap_or_else(|| ServerName::from(ip));
        self.connector.connect(name, stream).await
    }
}

/// The host's trusted roots, as they were read.
#[derive(Debug)]
pub(super) struct SystemRoots {
    certificates: Arc<[CertificateDer<'static>]>,
    store: Arc<RootCertStore>,
}

impl SystemRoots {
    fn read() -> Result<Self, CompileError> {
        let found = rustls_native_certs::load_native_certs();
        let certificates: Arc<[_]> = found.certs.into();
        let mut store = RootCertStore::empty();
        // A host's bundle may hold certificates that are of no use to TLS; the others still are.
        let (added, _) = store.add_parsable_certificates(certificates.iter().cloned());
        if added == 0 {
            let error = found.errors.first().map(|error| format!(" ({error})"));
            return Err(CompileError::NoSystemRoots(error.unwrap_or_default()));
        }
        Ok(Self { certificates, store: Arc::new(store) })
    }
}

/// The certificates of a PEM file.
fn certificates_of(path: &Path) -> Result<Vec<CertificateDer<'static>>, CompileError> {
    CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error| CompileError::CaFile { path: path.to_owned(), error: error.to_string() })
}

/// What an error of TLS means.
pub(super) fn reason(error: &rustls::Error) -> Reason {
    let rustls::Error::InvalidCertificate(fault) = error else {
        return Reason::Tls(error.to_string());
    };
    Reason::Certificate(match fault {
        CertificateError::UnknownIssuer => "unknown issuer".into(),
        CertificateError::BadSignature => "its signature is by another key than expected".into(),
        CertificateError::Expired => "expired".into(),
        CertificateError::ExpiredContext { time, not_after } => {
            format!("expired {} ago", rough(time.as_secs().saturating_sub(not_after.as_secs())))
        }
        CertificateError::NotValidYet => "not valid yet".into(),
        CertificateError::NotValidYetContext { time, not_before } => {
            format!("not valid for another {}", rough(not_before.as_secs().saturating_sub(time.as_secs())))
        }
        CertificateError::NotValidForName => "not valid for the name asked for".into(),
        CertificateError::NotValidForNameContext { expected, presented } => {
            format!("not valid for {}, but for {}", expected.to_str(), names(presented))
        }
        CertificateError::Other(fault) if is_authority(fault) => {
            "an authority's certificate, not a server's, and not the one trusted".into()
        }
        other => other.to_string(),
    })
}

/// The names that a certificate is for, which rustls gives as `DnsName("a.example")`.
fn names(presented: &[String]) -> String {
    if presented.is_empty() {
        return "no name at all".into();
    }
    let bare = |name: &String| {
        let inner = name.split_once('(').map_or(name.as_str(), |(_, inner)| inner.trim_end_matches(')'));
        inner.trim_matches('"').to_owned()
    };
    presented.iter().map(bare).collect::<Vec<_>>().join(", ")
}

/// A span in its largest unit.
fn rough(seconds: u64) -> String {
    match seconds {
        0..3600 => format!("{:?}", Duration::from_secs(seconds)),
        3600..86400 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86400),
    }
}
