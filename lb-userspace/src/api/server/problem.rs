//! Errors as problem documents (RFC 9457).

use std::{any::Any, panic::AssertUnwindSafe, time::Duration};

use axum::{
    extract::{FromRequest, FromRequestParts, Request, State, rejection},
    http::{HeaderValue, StatusCode, header, request::Parts},
    middleware::Next,
    response::{IntoResponse, Response},
};
use futures::FutureExt as _;
use serde::de::DeserializeOwned;

use crate::api::{backend::BackendError, types::Problem};

/// The media type of every error.
const MEDIA_TYPE: HeaderValue = HeaderValue::from_static("application/problem+json");

/// A kind of problem: its name, its title, its status.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kind(&'static str, &'static str, StatusCode);

pub(super) const BAD_REQUEST: Kind =
    Kind("bad-request", "The request cannot be understood", StatusCode::BAD_REQUEST);
pub(super) const READ_ONLY: Kind = Kind("read-only", "This address only reads", StatusCode::FORBIDDEN);
pub(super) const NOT_FOUND: Kind = Kind("not-found", "There is no such thing", StatusCode::NOT_FOUND);
pub(super) const METHOD: Kind =
    Kind("method-not-allowed", "The method does not apply here", StatusCode::METHOD_NOT_ALLOWED);
pub(super) const REFUSED: Kind = Kind("refused", "This cannot be done now", StatusCode::CONFLICT);
pub(super) const REVISION: Kind =
    Kind("revision-differs", "Another revision is in force", StatusCode::PRECONDITION_FAILED);
pub(super) const TOO_LARGE: Kind =
    Kind("too-large", "The request's body is too large", StatusCode::PAYLOAD_TOO_LARGE);
pub(super) const MEDIA: Kind =
    Kind("media-type", "The body's media type is not understood", StatusCode::UNSUPPORTED_MEDIA_TYPE);
pub(super) const WRONG_HOST: Kind =
    Kind("wrong-host", "The request is for another host", StatusCode::MISDIRECTED_REQUEST);
pub(super) const FAULTS: Kind =
    Kind("faulty-configuration", "The configuration is faulty", StatusCode::UNPROCESSABLE_ENTITY);
pub(super) const INVALID: Kind =
    Kind("invalid", "The request cannot be meant like this", StatusCode::UNPROCESSABLE_ENTITY);
pub(super) const FAILED: Kind = Kind("failed", "The agent failed", StatusCode::INTERNAL_SERVER_ERROR);
pub(super) const UNAVAILABLE: Kind =
    Kind("unavailable", "The agent cannot answer now", StatusCode::SERVICE_UNAVAILABLE);
pub(super) const NOT_READY: Kind =
    Kind("not-ready", "The agent does not balance as configured", StatusCode::SERVICE_UNAVAILABLE);
pub(super) const BUSY: Kind = Kind("busy", "Too many event streams", StatusCode::SERVICE_UNAVAILABLE);
pub(super) const TIMEOUT: Kind = Kind("timeout", "The agent took too long", StatusCode::GATEWAY_TIMEOUT);

impl Kind {
    /// A problem of this kind.
    pub(super) fn with(self, detail: impl Into<String>) -> Refusal {
        Refusal(Box::new(Problem {
            kind: format!("urn:portside:problem:{}", self.0),
            title: self.1.to_owned(),
            status: self.2.as_u16(),
            detail: detail.into(),
            ..Problem::default()
        }))
    }
}

/// Why a request is not answered as asked.
#[derive(Debug, Clone)]
pub(super) struct Refusal(Box<Problem>);

impl Refusal {
    /// Adds each reason by itself.
    pub(super) fn reasons(mut self, reasons: Vec<String>) -> Self {
        self.0.reasons = reasons;
        self
    }
}

impl From<BackendError> for Refusal {
    fn from(error: BackendError) -> Self {
        let detail = error.to_string();
        match error {
            BackendError::NotFound { .. } => NOT_FOUND.with(detail),
            BackendError::Faults(faults) => {
                let mut refusal = FAULTS.with(detail);
                refusal.0.faults = faults;
                refusal
            }
            BackendError::RevisionDiffers { current, .. } => {
                let mut refusal = REVISION.with(detail);
                refusal.0.current_revision = Some(current);
                refusal
            }
            BackendError::Invalid(_) => INVALID.with(detail),
            BackendError::Refused(reasons) => REFUSED.with(detail).reasons(reasons),
            BackendError::Unavailable(_) => UNAVAILABLE.with(detail),
            BackendError::Failed(_) => FAILED.with(detail),
        }
    }
}

impl IntoResponse for Refusal {
    /// The document itself is written by [`finish`], which knows the request.
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

/// Outermost: bounds a request's time, turns a panic into an error, writes problem documents.
pub(super) async fn finish(State(limit): State<Duration>, request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    let answer = AssertUnwindSafe(next.run(request)).catch_unwind();
    let mut response = match tokio::time::timeout(limit, answer).await {
        Ok(Ok(response)) => response,
        Ok(Err(panic)) => panicked(panic.as_ref(), &path).into_response(),
        Err(_) => {
            TIMEOUT.with(format!("no answer within {} s; try again", limit.as_secs_f64())).into_response()
        }
    };
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    let Some(Refusal(mut problem)) = response.extensions_mut().remove() else { return response };
    problem.instance = Some(path);
    let (mut parts, _) = response.into_parts();
    parts.headers.remove(header::CONTENT_LENGTH);
    parts.headers.insert(header::CONTENT_TYPE, MEDIA_TYPE);
    let body = serde_json::to_vec(&problem).unwrap_or_default();
    (parts, body).into_response()
}

fn panicked(panic: &(dyn Any + Send), path: &str) -> Refusal {
    let message = panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "without a message".to_owned());
    tracing::error!("the handler of {path} panicked: {message}");
    FAILED.with("a fault in the agent; its log says more")
}

/// A query string, its faults as problems.
#[derive(Debug)]
pub(super) struct Query<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let query = axum::extract::Query::<T>::from_request_parts(parts, state).await;
        query.map(|axum::extract::Query(value)| Self(value)).map_err(|rejected| match rejected {
            rejection::QueryRejection::FailedToDeserializeQueryString(error) => {
                BAD_REQUEST.with(format!("the query is wrong: {}", innermost(&error)))
            }
            other => BAD_REQUEST.with(other.body_text()),
        })
    }
}

/// The names in a path, their faults as problems.
#[derive(Debug)]
pub(super) struct Path<T>(pub(super) T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        match axum::extract::Path::<T>::from_request_parts(parts, state).await {
            Ok(axum::extract::Path(value)) => Ok(Self(value)),
            Err(rejected) => Err(BAD_REQUEST.with(rejected.body_text())),
        }
    }
}

/// A JSON body, its faults as problems.
#[derive(Debug)]
pub(super) struct Json<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refusal> {
        use rejection::JsonRejection;
        let body = axum::Json::<T>::from_request(request, state).await;
        body.map(|axum::Json(value)| Self(value)).map_err(|rejected| match rejected {
            JsonRejection::JsonDataError(error) => {
                INVALID.with(format!("the body is wrong: {}", innermost(&error)))
            }
            JsonRejection::JsonSyntaxError(error) => {
                BAD_REQUEST.with(format!("the body is not JSON: {}", innermost(&error)))
            }
            JsonRejection::MissingJsonContentType(_) => {
                MEDIA.with("the body must be JSON: send `Content-Type: application/json`")
            }
            JsonRejection::BytesRejection(error) => bytes_problem(&error),
            other => BAD_REQUEST.with(other.body_text()),
        })
    }
}

/// A body of UTF-8 text, whatever media type it is sent as.
#[derive(Debug)]
pub(super) struct Text(pub(super) String);

impl<S: Send + Sync> FromRequest<S> for Text {
    type Rejection = Refusal;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refusal> {
        let body = bytes::Bytes::from_request(request, state).await.map_err(|error| bytes_problem(&error))?;
        String::from_utf8(body.into()).map(Self).map_err(|error| {
            let at = error.utf8_error().valid_up_to();
            BAD_REQUEST.with(format!("the body is not UTF-8 text: wrong from byte {at} on"))
        })
    }
}

fn bytes_problem(rejected: &rejection::BytesRejection) -> Refusal {
    if rejected.status() == StatusCode::PAYLOAD_TOO_LARGE {
        TOO_LARGE.with("the body is longer than is accepted here; nothing was changed")
    } else {
        BAD_REQUEST.with(format!("the body could not be read: {}", rejected.body_text()))
    }
}

/// What the parser itself said, without the extractor's words around it.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}
