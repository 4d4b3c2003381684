//! A served fake, and requests to it by hand: what the client library hides is what these tests look at.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use lb_userspace::api::server::{Endpoint, ServerLimits};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, UnixStream},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use crate::fake::Fake;

/// Longest that a test waits for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// A fake agent, served on a Unix socket and on loopback TCP.
pub(crate) struct Served {
    pub(crate) fake: Arc<Fake>,
    pub(crate) socket: PathBuf,
    pub(crate) address: SocketAddr,
    _folder: TempDir,
    cancel: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
}

pub(crate) async fn serve() -> Served {
    serve_with(ServerLimits::default()).await
}

pub(crate) async fn serve_with(limits: ServerLimits) -> Served {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("run/lbd.sock");
    let fake = Arc::new(Fake::new());
    let unix = Endpoint::unix(&socket).unwrap();
    let tcp = Endpoint::tcp("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = tcp.tcp_address().unwrap();
    let cancel = CancellationToken::new();
    let tasks = [unix, tcp]
        .map(|endpoint| tokio::spawn(endpoint.serve(Arc::clone(&fake) as _, limits, cancel.clone())));
    Served { fake, socket, address, _folder: folder, cancel, tasks: tasks.into() }
}

impl Served {
    /// Stops the server; returns once it has.
    pub(crate) async fn stop(&mut self) {
        self.cancel.cancel();
        for task in self.tasks.drain(..) {
            tokio::time::timeout(PATIENCE, task).await.unwrap().unwrap();
        }
    }

    /// Sends a request over the Unix socket.
    pub(crate) async fn ask(&self, method: &str, path: &str) -> Reply {
        self.send(method, path, &[], "").await
    }

    /// Sends a request with a body over the Unix socket.
    pub(crate) async fn send(&self, method: &str, path: &str, headers: &[&str], body: &str) -> Reply {
        exchange(UnixStream::connect(&self.socket).await.unwrap(), method, path, headers, body).await
    }

    /// Sends a request over TCP.
    pub(crate) async fn ask_tcp(&self, method: &str, path: &str, headers: &[&str]) -> Reply {
        exchange(TcpStream::connect(self.address).await.unwrap(), method, path, headers, "").await
    }
}

impl Served {
    /// Serves on the Unix socket again after a stop.
    pub(crate) async fn start_again(&mut self) {
        self.cancel = CancellationToken::new();
        let unix = Endpoint::unix(&self.socket).unwrap();
        let serving = unix.serve(Arc::clone(&self.fake) as _, ServerLimits::default(), self.cancel.clone());
        self.tasks.push(tokio::spawn(serving));
    }
}

/// A response.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Reply {
    /// A header's value.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(": ")?;
            key.eq_ignore_ascii_case(name).then_some(value)
        })
    }

    /// The body as JSON.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error} in {:?}", self.body))
    }
}

async fn exchange<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin>(
    mut stream: S,
    method: &str,
    path: &str,
    headers: &[&str],
    body: &str,
) -> Reply {
    let mut request = format!("{method} {path} HTTP/1.1\r\nconnection: close\r\n");
    if !headers.iter().any(|header| header.starts_with("host:")) {
        request.push_str("host: localhost\r\n");
    }
    for header in headers {
        request.push_str(header);
        request.push_str("\r\n");
    }
    request.push_str(&format!("content-length: {}\r\n\r\n{body}", body.len()));
    // A server that refuses a body early may close before it has taken all of it.
    let _ = stream.write_all(request.as_bytes()).await;
    let mut bytes = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut bytes)).await;
    if let Err(error) = read.unwrap() {
        assert!(!bytes.is_empty(), "{method} {path}: {error}");
    }
    parse(&String::from_utf8(bytes).unwrap())
}

fn parse(text: &str) -> Reply {
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no response in {text:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Reply { status, head: head.to_owned(), body: body.to_owned() }
}
