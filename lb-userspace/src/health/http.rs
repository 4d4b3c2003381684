//! One HTTP/1.1 request over a connection, and whether its answer is the expected one.

use std::{
    io::{self, ErrorKind},
    net::SocketAddr,
    pin::pin,
    sync::Arc,
    time::Duration,
};

use ::http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version,
    header::{CONNECTION, HOST, USER_AGENT},
    uri::PathAndQuery,
};
use bytes::Bytes;
use futures::future::{Either, join, select};
use http_body_util::{BodyExt, Empty};
use hyper::{
    body::Incoming,
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use regex::bytes::Regex;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{Instant, timeout_at},
};

use super::{
    compiled::CompileError,
    probe::{Answered, Deadline, find, io_reason},
};
use crate::{
    config::model::HttpProbe,
    core::health::{Outcome, Phase, Reason, StatusRanges},
};

/// How much of an answer is read: of its head, and of its body.
const ANSWER_LIMIT: usize = 64 * 1024;

/// How long the rest of an answer is waited for once the outcome is known.
const CLOSING: Duration = Duration::from_millis(100);

/// A request, and what is expected of its answer.
#[derive(Debug)]
pub(super) struct HttpCheck {
    method: Method,
    uri: Uri,
    /// Without `Host` where that is the target's address.
    headers: HeaderMap,
    status: StatusRanges,
    body: Option<(Arc<str>, Regex)>,
}

impl HttpCheck {
    pub(super) fn compile(probe: &HttpProbe) -> Result<Self, CompileError> {
        let method = Method::from_bytes(probe.method.as_bytes())
            .map_err(|_| CompileError::Method(probe.method.clone()))?;
        let path_error = |error: String| CompileError::Path { path: probe.path.clone(), error };
        if !probe.path.starts_with('/') {
            return Err(path_error("it does not begin with `/`".into()));
        }
        let path: PathAndQuery = probe.path.parse().map_err(|e| path_error(format!("{e}")))?;
        let pattern =
            |pattern: &String| Regex::new(pattern).map(|regex| (Arc::from(pattern.as_str()), regex));
        Ok(Self {
            method,
            uri: Uri::from(path),
            headers: headers(probe)?,
            status: StatusRanges::new(&probe.expect_status),
            body: probe.expect_body.as_ref().map(pattern).transpose()?,
        })
    }

    /// Sends the request and judges the answer. The connection is closed in order if the server lets it.
    pub(super) async fn exchange<S>(&self, stream: S, address: SocketAddr, deadline: &Deadline) -> Answered
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let handshake = http1::Builder::new().max_buf_size(ANSWER_LIMIT).handshake(TokioIo::new(stream));
        let (sender, connection) = match handshake.await {
            Ok(parts) => parts,
            Err(error) => return Answered::now(Err(hyper_reason(&error, Phase::Answer))),
        };
        let connection = pin!(connection);
        let asking = pin!(self.ask(sender, address, deadline));
        let ((outcome, body), connection) = match select(asking, connection).await {
            Either::Left((asked, connection)) => (asked, Some(connection)),
            // The connection's own error, if any, has reached `asking` too.
            Either::Right((_, asking)) => (asking.await, None),
        };
        let answered = Answered::now(outcome);

        // A server whose answer is cut off logs a failed request: take the rest of a short answer, briefly.
        let closing = join(drain(body), async {
            if let Some(connection) = connection {
                drop(connection.await);
            }
        });
        drop(timeout_at(deadline.at.min(Instant::now() + CLOSING), closing).await);
        answered
    }

    /// The outcome, and what is left unread of the answer.
    async fn ask(
        &self,
        mut sender: SendRequest<Empty<Bytes>>,
        address: SocketAddr,
        deadline: &Deadline,
    ) -> (Outcome, Option<Incoming>) {
        let request = match self.request(address) {
            Ok(request) => request,
            Err(reason) => return (Err(reason), None),
        };
        let response = match deadline.bound(Phase::Answer, sender.send_request(request)).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return (Err(hyper_reason(&error, Phase::Answer)), None),
            Err(reason) => return (Err(reason), None),
        };
        let status = response.status().as_u16();
        let mut body = response.into_body();
        if !self.status.contains(status) {
            let reason = Reason::Status { got: status, expected: self.status.clone() };
            return (Err(reason), Some(body));
        }
        let Some((pattern, regex)) = &self.body else {
            return (Ok(()), Some(body));
        };
        let outcome = match deadline.bound(Phase::Body, read(&mut body)).await {
            Ok(Ok(text)) if regex.is_match(&text) => Ok(()),
            Ok(Ok(_)) => Err(Reason::Body { pattern: Arc::clone(pattern) }),
            Ok(Err(error)) => Err(hyper_reason(&error, Phase::Body)),
            Err(reason) => Err(reason),
        };
        (outcome, Some(body))
    }

    fn request(&self, address: SocketAddr) -> Result<Request<Empty<Bytes>>, Reason> {
        let mut request = Request::new(Empty::new());
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.uri.clone();
        *request.version_mut() = Version::HTTP_11;
        *request.headers_mut() = self.headers.clone();
        if !self.headers.contains_key(HOST) {
            let host = HeaderValue::try_from(address.to_string());
            request.headers_mut().insert(HOST, host.map_err(|e| Reason::Http(e.to_string()))?);
        }
        Ok(request)
    }
}

/// The configured headers, and those that a check sends by itself where they are not configured.
fn headers(probe: &HttpProbe) -> Result<HeaderMap, CompileError> {
    let mut headers = HeaderMap::new();
    let host = probe.host.iter().map(|host| (HOST.as_str(), host.as_str()));
    let further = probe.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    for (name, value) in host.chain(further) {
        let error = |error: String| CompileError::Header { name: name.to_owned(), error };
        let key = HeaderName::try_from(name).map_err(|e| error(e.to_string()))?;
        let value = HeaderValue::try_from(value).map_err(|e| error(e.to_string()))?;
        if key == HOST && headers.contains_key(HOST) {
            return Err(error("the host is given twice; remove one".into()));
        }
        headers.append(key, value);
    }
    headers.entry(USER_AGENT).or_insert(HeaderValue::from_static("portside-health"));
    // A check that kept its connection would prove nothing about accepting new ones.
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    Ok(headers)
}

/// The body, or its first [`ANSWER_LIMIT`] bytes.
async fn read(body: &mut Incoming) -> Result<Vec<u8>, hyper::Error> {
    let mut text = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        let room = ANSWER_LIMIT - text.len();
        text.extend_from_slice(&data[..data.len().min(room)]);
        if text.len() == ANSWER_LIMIT {
            break;
        }
    }
    Ok(text)
}

/// Takes in what is left of a body, if that is not much.
async fn drain(body: Option<Incoming>) {
    if let Some(mut body) = body {
        drop(read(&mut body).await);
    }
}

/// What an error of the HTTP client means.
fn hyper_reason(error: &hyper::Error, phase: Phase) -> Reason {
    if error.is_parse_too_large() {
        return Reason::Http(format!("its head is larger than {} KiB", ANSWER_LIMIT / 1024));
    }
    if let Some(io) = find::<io::Error>(error) {
        // The decoder of chunked bodies reports what is not a chunk as an IO error of its own.
        let own = io.raw_os_error().is_none() && find::<rustls::Error>(io).is_none();
        if own && matches!(io.kind(), ErrorKind::InvalidInput | ErrorKind::InvalidData) {
            return Reason::Http(io.to_string());
        }
        return io_reason(io, phase);
    }
    if error.is_incomplete_message() || error.is_canceled() || error.is_closed() {
        return Reason::Closed(phase);
    }
    if error.is_parse() {
        return Reason::Http(error.to_string());
    }
    Reason::Io { error: error.to_string(), phase }
}
