//! Servers on loopback that behave well or badly, and certificates for them.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use rcgen::{BasicConstraints, Certificate, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::{
    HandshakeKind, ServerConfig,
    sign::{CertifiedKey, SingleCertAndKey},
};
use rustls_pki_types::PrivateKeyDer;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::task::AbortOnDropHandle;

use super::{CompileError, Compiled, Compiler};
use crate::config::model::{HealthCheck, HttpProbe, Probe};

/// Far longer than a test's check takes unless it is meant to time out.
pub(super) const LONG: Duration = Duration::from_secs(10);

/// How long a check that is meant to time out has.
pub(super) const SHORT: Duration = Duration::from_millis(80);

pub(super) fn check(probe: Probe, timeout: Duration) -> HealthCheck {
    let interval = timeout.max(Duration::from_secs(1));
    HealthCheck { probe, port: None, interval, transition_interval: interval, timeout, rise: 2, fall: 3 }
}

/// A single check made ready.
pub(super) fn compile(check: &HealthCheck) -> Result<Compiled, CompileError> {
    Compiler::default().compile(check)
}

pub(super) fn http() -> HttpProbe {
    HttpProbe {
        method: "GET".into(),
        path: "/".into(),
        host: None,
        headers: Vec::new(),
        expect_status: vec![(200, 399)],
        expect_body: None,
    }
}

/// A server that ends, its connections too, when dropped.
pub(super) struct Server<T> {
    pub(super) address: SocketAddr,
    /// What the connections' handlers returned, in the order of their ends.
    pub(super) seen: mpsc::UnboundedReceiver<T>,
    _task: AbortOnDropHandle<()>,
}

/// Serves each connection by `handle`.
pub(super) async fn serve<T, F>(bind: &str, handle: impl Fn(TcpStream) -> F + Send + 'static) -> Server<T>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let listener = TcpListener::bind(bind).await.expect("a loopback address to listen on");
    let address = listener.local_addr().expect("its address");
    let (report, seen) = mpsc::unbounded_channel();
    let task = tokio::spawn(async move {
        let mut connections = tokio::task::JoinSet::new();
        loop {
            let (stream, _) = listener.accept().await.expect("a connection");
            let served = handle(stream);
            let report = report.clone();
            connections.spawn(async move { drop(report.send(served.await)) });
        }
    });
    Server { address, seen, _task: AbortOnDropHandle::new(task) }
}

/// Answers every request with these bytes, then closes; reports the request and what came after the answer.
pub(super) async fn answering(answer: &'static str) -> Server<Request> {
    serve("127.0.0.1:0", move |mut stream| async move {
        let head = read_head(&mut stream).await;
        stream.write_all(answer.as_bytes()).await.expect("the answer can be written");
        stream.shutdown().await.expect("the connection can be closed");
        Request { head, end: stream.read(&mut [0]).await.map_err(|error| error.kind()) }
    })
    .await
}

pub(super) struct Request {
    pub(super) head: String,
    /// Zero if the client closed in order.
    pub(super) end: Result<usize, std::io::ErrorKind>,
}

/// Reads up to the empty line that ends a request's head.
pub(super) async fn read_head(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8(head).expect("a request of text")
}

/// A certificate authority of the test's own.
pub(super) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: Certificate,
}

impl Authority {
    pub(super) fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate");
        Self { issuer: Issuer::new(params, key), certificate }
    }

    /// Its certificate as a file.
    pub(super) fn file(&self) -> tempfile::NamedTempFile {
        pem_file(&self.certificate)
    }

    /// An HTTPS server whose certificate is for these names and ends in this year.
    pub(super) async fn serve(&self, names: &[&str], not_after: i32, alpn: &[&[u8]]) -> Server<Handshake> {
        let key = KeyPair::generate().expect("a key");
        let certificate = params(names, not_after).signed_by(&key, &self.issuer).expect("a certificate");
        serve_tls(&certificate, &key, alpn).await
    }
}

/// A certificate as a PEM file.
pub(super) fn pem_file(certificate: &Certificate) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), certificate.pem()).expect("can be written");
    file
}

/// How a TLS handshake went at the server's side; `None` if it failed.
pub(super) type Handshake = Option<HandshakeKind>;

/// What a certificate says.
pub(super) fn params(names: &[&str], not_after: i32) -> CertificateParams {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let mut params = CertificateParams::new(names).expect("valid names");
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(not_after, 1, 1);
    params
}

/// An HTTPS server that shows this certificate and signs with this key, be it the certificate's or not.
pub(super) async fn serve_tls(certificate: &Certificate, key: &KeyPair, alpn: &[&[u8]]) -> Server<Handshake> {
    let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
    let key = rustls::crypto::ring::sign::any_supported_type(&key).expect("a usable key");
    let shown = CertifiedKey::new(vec![certificate.der().clone()], key);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(shown)));
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    serve("127.0.0.1:0", move |stream| {
        let acceptor = acceptor.clone();
        async move {
            // A client that does not trust the certificate ends the handshake.
            let mut stream = acceptor.accept(stream).await.ok()?;
            let kind = stream.get_ref().1.handshake_kind();
            read_head(&mut stream).await;
            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
            stream.write_all(answer).await.expect("the answer can be written");
            stream.shutdown().await.expect("the connection can be closed");
            kind
        }
    })
    .await
}
