//! The routes and what answers them.

use std::{net::IpAddr, sync::Arc};

use axum::{
    Json as JsonBody, Router,
    extract::{DefaultBodyLimit, Request, State},
    http::{HeaderMap, HeaderValue, Method, header, uri::Authority},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, put},
};
use serde::Deserialize;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::{
    Access, MAX_CONFIGURATION_BYTES, ServerLimits, events,
    problem::{
        BAD_REQUEST, INVALID, Json, METHOD, NOT_FOUND, NOT_READY, Path, Query, READ_ONLY, Refusal, Text,
        WRONG_HOST, finish,
    },
};
use crate::{
    api::{
        backend::{ApplyRequest, Backend, BackendError},
        types::{
            ApplyResult, DropsView, FlowQuery, FlowsPage, GroupView, HealthHistory, Readiness, ServiceView,
            Status, TargetState, TargetStateChange, TargetStateResult, TargetView, Version,
        },
    },
    metrics,
};

/// The largest body of anything but a configuration, in bytes.
const MAX_SMALL_BODY_BYTES: usize = 64 << 10;
/// The longest name of a configuration's source, in bytes: that of a path.
const MAX_SOURCE_BYTES: usize = 4096;
/// The longest time a target may be told to drain: a year.
const MAX_DRAIN_SECONDS: f64 = 366.0 * 86_400.0;

/// What the handlers share.
#[derive(Clone)]
pub(super) struct Api {
    pub(super) backend: Arc<dyn Backend>,
    /// One permit for each event stream.
    pub(super) streams: Arc<Semaphore>,
    pub(super) cancel: CancellationToken,
}

type Answer<T> = Result<JsonBody<T>, Refusal>;

pub(super) fn router(
    backend: Arc<dyn Backend>,
    access: Access,
    limits: ServerLimits,
    cancel: CancellationToken,
) -> Router {
    let api = Api { backend, streams: Arc::new(Semaphore::new(limits.event_streams)), cancel };
    let router = Router::new()
        .route("/v1/version", get(version))
        .route("/v1/status", get(status))
        .route("/v1/services", get(services))
        .route("/v1/services/{service}", get(service))
        .route("/v1/groups", get(groups))
        .route("/v1/groups/{group}", get(group))
        .route("/v1/groups/{group}/targets", get(group_targets))
        .route("/v1/groups/{group}/targets/{target}", get(target))
        .route("/v1/groups/{group}/targets/{target}/state", put(set_target_state))
        .route("/v1/groups/{group}/targets/{target}/health", get(health))
        .route("/v1/targets", get(targets))
        .route("/v1/flows", get(flows))
        .route("/v1/drops", get(drops))
        .route("/v1/events", get(events::events))
        .route(
            "/v1/configuration",
            get(configuration).put(put_configuration).layer(DefaultBodyLimit::max(MAX_CONFIGURATION_BYTES)),
        )
        .route("/v1/configuration/schema", get(schema))
        .route("/metrics", get(metrics_text))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .fallback(no_such_path)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(MAX_SMALL_BODY_BYTES))
        .with_state(api);
    let router = match access {
        Access::ReadWrite => router,
        Access::ReadOnly => router.layer(middleware::from_fn(only_local_reads)),
    };
    router.layer(middleware::from_fn_with_state(limits.request_timeout, finish))
}

/// Nobody is authenticated over TCP: nothing may be changed, and a web page that had its own name resolve to
/// this host may not read either.
async fn only_local_reads(request: Request, next: Next) -> Result<Response, Refusal> {
    if ![Method::GET, Method::HEAD, Method::OPTIONS].contains(request.method()) {
        return Err(READ_ONLY.with(format!(
            "{} is not served over TCP, where nobody is authenticated: use the Unix socket",
            request.method()
        )));
    }
    if let Some(host) = request.headers().get(header::HOST)
        && !is_local(host)
    {
        return Err(WRONG_HOST.with(format!(
            "the Host header {host:?} is not a loopback address or `localhost`: use http://127.0.0.1:PORT"
        )));
    }
    Ok(next.run(request).await)
}

fn is_local(host: &HeaderValue) -> bool {
    let Some(authority) = host.to_str().ok().and_then(|text| text.parse::<Authority>().ok()) else {
        return false;
    };
    let name = authority.host().trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

async fn no_such_path(request: Request) -> Refusal {
    NOT_FOUND.with(format!("there is nothing at {}; the API is under /v1/", request.uri().path()))
}

async fn wrong_method(request: Request) -> Refusal {
    METHOD.with(format!("{} does not apply to {}", request.method(), request.uri().path()))
}

async fn version(State(api): State<Api>) -> JsonBody<Version> {
    JsonBody(api.backend.version())
}

async fn healthz() -> &'static str {
    "ok\n"
}

async fn readyz(State(api): State<Api>) -> Answer<Readiness> {
    let readiness = api.backend.readiness();
    if readiness.ready {
        return Ok(JsonBody(readiness));
    }
    let detail = match readiness.reasons.as_slice() {
        [] => "the agent gives no reason".to_owned(),
        reasons => reasons.join("; "),
    };
    Err(NOT_READY.with(detail).reasons(readiness.reasons))
}

async fn status(State(api): State<Api>) -> Answer<Status> {
    Ok(JsonBody(api.backend.snapshot().await?.status))
}

async fn services(State(api): State<Api>) -> Answer<Vec<ServiceView>> {
    Ok(JsonBody(api.backend.snapshot().await?.services))
}

async fn service(State(api): State<Api>, Path(name): Path<String>) -> Answer<ServiceView> {
    let services = api.backend.snapshot().await?.services;
    find(services, |service| service.name == name, "service", &name)
}

async fn groups(State(api): State<Api>) -> Answer<Vec<GroupView>> {
    Ok(JsonBody(api.backend.snapshot().await?.groups))
}

async fn group(State(api): State<Api>, Path(name): Path<String>) -> Answer<GroupView> {
    let groups = api.backend.snapshot().await?.groups;
    find(groups, |group| group.name == name, "group", &name)
}

async fn targets(State(api): State<Api>) -> Answer<Vec<TargetView>> {
    Ok(JsonBody(api.backend.snapshot().await?.targets))
}

async fn group_targets(State(api): State<Api>, Path(name): Path<String>) -> Answer<Vec<TargetView>> {
    let snapshot = api.backend.snapshot().await?;
    if !snapshot.groups.iter().any(|group| group.name == name) {
        return Err(BackendError::NotFound { what: "group", name }.into());
    }
    Ok(JsonBody(snapshot.targets.into_iter().filter(|target| target.group == name).collect()))
}

async fn target(State(api): State<Api>, Path((group, target)): Path<(String, String)>) -> Answer<TargetView> {
    let targets = api.backend.snapshot().await?.targets;
    let is_meant = |found: &TargetView| found.group == group && found.name == target;
    find(targets, is_meant, "target", &format!("{group}/{target}"))
}

fn find<T>(list: Vec<T>, is_meant: impl Fn(&T) -> bool, what: &'static str, name: &str) -> Answer<T> {
    let found = list.into_iter().find(is_meant).map(JsonBody);
    found.ok_or_else(|| BackendError::NotFound { what, name: name.to_owned() }.into())
}

async fn health(
    State(api): State<Api>,
    Path((group, target)): Path<(String, String)>,
) -> Answer<HealthHistory> {
    Ok(JsonBody(api.backend.health(group, target).await?))
}

async fn set_target_state(
    State(api): State<Api>,
    Path((group, target)): Path<(String, String)>,
    Json(change): Json<TargetStateChange>,
) -> Answer<TargetStateResult> {
    if let Some(seconds) = change.deadline_seconds {
        if change.state != TargetState::Drain {
            return Err(INVALID.with("deadline_seconds only goes with the state `drain`"));
        }
        if !(0.0..=MAX_DRAIN_SECONDS).contains(&seconds) {
            return Err(INVALID
                .with(format!("deadline_seconds is {seconds}; it must be from 0 to {MAX_DRAIN_SECONDS}")));
        }
    }
    Ok(JsonBody(api.backend.set_target_state(group, target, change).await?))
}

async fn flows(State(api): State<Api>, Query(query): Query<FlowQuery>) -> Answer<FlowsPage> {
    if let Some(limit) = query.limit
        && !(1..=FlowQuery::MAX_LIMIT).contains(&limit)
    {
        return Err(BAD_REQUEST.with(format!("limit is {limit}; it must be 1 to {}", FlowQuery::MAX_LIMIT)));
    }
    Ok(JsonBody(api.backend.flows(query).await?))
}

async fn drops(State(api): State<Api>) -> Answer<DropsView> {
    Ok(JsonBody(api.backend.snapshot().await?.drops))
}

async fn configuration(State(api): State<Api>) -> Result<Response, Refusal> {
    let view = api.backend.configuration().await?;
    Ok((etag(view.revision.number), JsonBody(view)).into_response())
}

async fn schema(State(api): State<Api>) -> Response {
    let media = HeaderValue::from_static("application/schema+json");
    ([(header::CONTENT_TYPE, media)], JsonBody(api.backend.configuration_schema())).into_response()
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PutQuery {
    #[serde(default)]
    dry_run: bool,
    /// What faults and the revision call the text, such as the name of the file that it was read from.
    source: Option<String>,
}

async fn put_configuration(
    State(api): State<Api>,
    Query(query): Query<PutQuery>,
    headers: HeaderMap,
    Text(text): Text,
) -> Result<Response, Refusal> {
    let source = query.source.unwrap_or_else(|| "api".to_owned());
    if source.is_empty() || source.len() > MAX_SOURCE_BYTES || source.chars().any(char::is_control) {
        return Err(BAD_REQUEST.with(format!(
            "source must be a name of 1 to {MAX_SOURCE_BYTES} bytes, without control characters"
        )));
    }
    let request =
        ApplyRequest { text, source, dry_run: query.dry_run, if_revision: expected_revision(&headers)? };
    let result: ApplyResult = api.backend.apply(request).await?;
    let tag = result.revision.as_ref().map(|revision| etag(revision.number));
    Ok((tag, JsonBody(result)).into_response())
}

fn etag(revision: u64) -> [(header::HeaderName, String); 1] {
    [(header::ETAG, format!("\"{revision}\""))]
}

/// The revision of `If-Match`; `*` matches any.
fn expected_revision(headers: &HeaderMap) -> Result<Option<u64>, Refusal> {
    let Some(value) = headers.get(header::IF_MATCH) else { return Ok(None) };
    let text = value.to_str().unwrap_or_default().trim();
    if text == "*" {
        return Ok(None);
    }
    let number = text.trim_matches('"').parse();
    number.map(Some).map_err(|_| {
        BAD_REQUEST.with(format!("If-Match is {value:?}; it must be one revision's number, such as \"7\""))
    })
}

async fn metrics_text(State(api): State<Api>) -> Result<Response, Refusal> {
    let snapshot = api.backend.snapshot().await?;
    let text = metrics::render(snapshot).map_err(|error| BackendError::Failed(error.to_string()))?;
    Ok(([(header::CONTENT_TYPE, metrics::MEDIA_TYPE)], text).into_response())
}
