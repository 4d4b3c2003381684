//! The API's requests: paths, queries and bodies as a client may send them.

use std::{str::FromStr as _, sync::Arc, sync::LazyLock};

use futures::{FutureExt as _, future::BoxFuture};
use http::{HeaderName, HeaderValue, Method, Request, Uri, header};
use http_body_util::BodyExt as _;
use lb_userspace::{
    api::{
        backend::{ApplyRequest, Backend, BackendError, EventFeed, Snapshot},
        server::{ServerLimits, routes},
        types::{
            ApplyResult, ConfigView, Fault, FlowQuery, FlowsPage, HealthHistory, Problem, Readiness,
            TargetState, TargetStateChange, TargetStateResult, Version,
        },
    },
    config,
};
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

/// Sends one request to the API's routes. The input reads like HTTP: a line with method and target, header lines, an
/// empty line, the body.
///
/// Whatever is sent, what reaches the agent is in range, and what is refused is refused with a problem document.
pub fn api_bodies(data: &[u8]) {
    static RUNTIME: LazyLock<tokio::runtime::Runtime> = LazyLock::new(|| {
        tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime")
    });
    let Some(request) = request(data) else { return };
    let streams = request.uri().path() == "/v1/events";
    let routes = routes(Arc::new(Agent), ServerLimits::default(), CancellationToken::new());
    RUNTIME.block_on(async {
        let response = routes.oneshot(request).await.unwrap_or_else(|never| match never {});
        let (status, media) = (response.status(), response.headers().get(header::CONTENT_TYPE).cloned());
        if status.is_success() {
            // The stream of events has no end.
            assert!(streams || response.into_body().collect().await.is_ok());
            return;
        }
        let body = response.into_body().collect().await.expect("a whole body").to_bytes();
        if media.is_some_and(|media| media == "application/problem+json") {
            // An answer to HEAD has no body.
            if !body.is_empty() {
                let problem: Problem = serde_json::from_slice(&body).expect("a problem document");
                assert_eq!(problem.status, status.as_u16());
                assert!(!problem.title.is_empty() && !problem.detail.is_empty());
            }
            assert_ne!(status, 500, "the agent's own fault");
        } else {
            assert!(status.is_client_error() || status.is_redirection(), "{status} is no problem document");
        }
    });
}

fn request(data: &[u8]) -> Option<Request<axum::body::Body>> {
    let (head, body) = data.split_at(data.windows(2).position(|two| two == b"\n\n").unwrap_or(data.len()));
    let head = std::str::from_utf8(head).ok()?;
    let mut lines = head.lines();
    let (method, target) = lines.next()?.split_once(' ')?;
    let body = body.get(2..).unwrap_or_default().to_vec();
    let mut request = Request::new(axum::body::Body::from(body));
    *request.method_mut() = Method::from_str(method).ok()?;
    // As it comes from a client: the path alone.
    *request.uri_mut() = Uri::from_str(target).ok().filter(|uri| uri.path().starts_with('/'))?;
    for line in lines {
        let (name, value) = line.split_once(':')?;
        let value = HeaderValue::from_str(value.trim()).ok()?;
        request.headers_mut().append(HeaderName::from_str(name).ok()?, value);
    }
    Some(request)
}

/// An agent that checks what reaches it, and has nothing to show.
struct Agent;

fn unavailable<T: Send + 'static>() -> BoxFuture<'static, Result<T, BackendError>> {
    async { Err(BackendError::Unavailable("nothing is loaded".to_owned())) }.boxed()
}

impl Backend for Agent {
    fn version(&self) -> Version {
        Version { version: "0".to_owned(), api: "v1".to_owned(), abi: 0 }
    }

    fn readiness(&self) -> Readiness {
        Readiness { ready: true, reasons: Vec::new() }
    }

    fn snapshot(&self) -> BoxFuture<'_, Result<Snapshot, BackendError>> {
        unavailable()
    }

    fn flows(&self, query: FlowQuery) -> BoxFuture<'_, Result<FlowsPage, BackendError>> {
        assert!(query.limit.is_none_or(|limit| (1..=FlowQuery::MAX_LIMIT).contains(&limit)));
        unavailable()
    }

    fn health(&self, group: String, target: String) -> BoxFuture<'_, Result<HealthHistory, BackendError>> {
        let name = format!("{group}/{target}");
        async { Err(BackendError::NotFound { what: "target", name }) }.boxed()
    }

    fn set_target_state(
        &self,
        _: String,
        _: String,
        change: TargetStateChange,
    ) -> BoxFuture<'_, Result<TargetStateResult, BackendError>> {
        if let Some(seconds) = change.deadline_seconds {
            assert_eq!(change.state, TargetState::Drain);
            assert!(seconds >= 0.0 && seconds.is_finite());
        }
        unavailable()
    }

    fn configuration(&self) -> BoxFuture<'_, Result<ConfigView, BackendError>> {
        unavailable()
    }

    fn apply(&self, request: ApplyRequest) -> BoxFuture<'_, Result<ApplyResult, BackendError>> {
        let answer = match config::parse(&request.text, &request.source) {
            Ok(checked) => Ok(ApplyResult {
                revision: None,
                dry_run: request.dry_run,
                new_revision: false,
                changes: Vec::new(),
                warnings: checked.warnings.iter().map(ToString::to_string).collect(),
            }),
            Err(faults) => Err(BackendError::Faults(faults.faults.into_iter().map(fault).collect())),
        };
        async { answer }.boxed()
    }

    fn configuration_schema(&self) -> serde_json::Value {
        config::schema()
    }

    fn events(&self, _: Option<u64>) -> EventFeed {
        EventFeed { backlog: Vec::new(), live: broadcast::channel(1).1 }
    }
}

fn fault(fault: config::Fault) -> Fault {
    let config::Fault { line, column, path, message, .. } = fault;
    Fault { path, line: Some(line), column: Some(column), message, hint: None }
}
