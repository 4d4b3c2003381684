//! Connections, requests and answers.

use std::io;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
};
use tokio_util::task::AbortOnDropHandle;

use super::{Address, Client, ClientError};
use crate::api::types::Problem;

/// The longest answer that is read, in bytes.
const MAX_ANSWER_BYTES: usize = 256 << 20;

/// A request to be made.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) headers: Vec<(header::HeaderName, HeaderValue)>,
    pub(super) body: Bytes,
}

impl Call {
    pub(super) fn new(method: Method, path: String) -> Self {
        Self { method, path, headers: Vec::new(), body: Bytes::new() }
    }
}

/// An answer whose head has come; its connection lives as long as it does.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) response: Response<Incoming>,
    _connection: AbortOnDropHandle<()>,
}

impl Client {
    /// Makes a request and reads its whole answer.
    pub(super) async fn send<T: DeserializeOwned>(&self, call: Call) -> Result<T, ClientError> {
        let bytes = self.in_time(async { self.read(self.call(call).await?).await }).await?;
        serde_json::from_slice(&bytes).map_err(|error| self.protocol(&error))
    }

    /// Makes a request whose answer is read bit by bit.
    pub(super) async fn open(&self, call: Call) -> Result<Opened, ClientError> {
        self.in_time(self.call(call)).await
    }

    async fn in_time<T>(&self, work: impl Future<Output = Result<T, ClientError>>) -> Result<T, ClientError> {
        let late = |_| ClientError::Timeout { address: self.address.clone(), limit: self.timeout };
        tokio::time::timeout(self.timeout, work).await.map_err(late)?
    }

    async fn call(&self, call: Call) -> Result<Opened, ClientError> {
        let unreachable = |source| ClientError::Unreachable { address: self.address.clone(), source };
        let opened = match &self.address {
            Address::Unix(path) => {
                let stream = UnixStream::connect(path).await.map_err(unreachable)?;
                exchange(stream, "localhost", call).await
            }
            Address::Http { host, port } => {
                let stream = TcpStream::connect((host.as_str(), *port)).await.map_err(unreachable)?;
                let authority = self.address.to_string();
                exchange(stream, authority.trim_start_matches("http://"), call).await
            }
        };
        let opened = opened.map_err(|error| self.broken(&error))?;
        if opened.response.status().is_success() {
            return Ok(opened);
        }
        let status = opened.response.status();
        let problem = serde_json::from_slice::<Problem>(&self.read(opened).await?);
        Err(problem.map_or_else(|_| self.unlike(status), |problem| ClientError::Problem(Box::new(problem))))
    }

    async fn read(&self, opened: Opened) -> Result<Bytes, ClientError> {
        let body = Limited::new(opened.response.into_body(), MAX_ANSWER_BYTES).collect().await;
        body.map(http_body_util::Collected::to_bytes).map_err(|error| self.protocol(error.as_ref()))
    }

    fn broken(&self, error: &hyper::Error) -> ClientError {
        if error.is_parse() {
            return self.protocol(error);
        }
        let source = io::Error::other(format!("the connection broke ({error}); see lbd's log"));
        ClientError::Unreachable { address: self.address.clone(), source }
    }

    fn unlike(&self, status: StatusCode) -> ClientError {
        let cause = format!("status {status} without a problem document");
        ClientError::Protocol { address: self.address.clone(), cause }
    }
}

async fn exchange<S>(stream: S, host: &str, call: Call) -> Result<Opened, hyper::Error>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = AbortOnDropHandle::new(tokio::spawn(async move {
        // Its errors come out of the request and of the body.
        let _ = connection.await;
    }));
    let mut request = Request::new(Full::new(call.body));
    *request.method_mut() = call.method;
    // Segments and queries are encoded, so the path is one.
    *request.uri_mut() = call.path.parse().unwrap_or_default();
    request.headers_mut().extend(call.headers);
    if let Ok(host) = HeaderValue::from_str(host) {
        request.headers_mut().insert(header::HOST, host);
    }
    let response = sender.send_request(request).await?;
    Ok(Opened { response, _connection: connection })
}
