//! Routes, errors, listeners.

use std::{os::unix::fs::PermissionsExt as _, time::Duration};

use lb_userspace::api::{
    backend::BackendError,
    server::{BindError, Endpoint, ServerLimits},
    types::{
        AdminState, ApplyResult, ConfigView, DropsView, Event, EventKind, FlowsPage, GroupView,
        HealthHistory, Problem, ServiceView, Status, TargetStateResult, TargetView, Version,
    },
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    net::UnixStream,
};

use crate::{
    fake::{Misbehaviour, faults},
    sample,
    support::{PATIENCE, Reply, Served, serve, serve_with},
};

const JSON: &str = "content-type: application/json";

fn read<T: serde::de::DeserializeOwned>(reply: &Reply) -> T {
    assert_eq!(reply.status, 200, "{reply:?}");
    serde_json::from_str(&reply.body).unwrap()
}

#[tokio::test]
async fn every_resource_is_read_over_both_listeners() {
    let served = serve().await;
    let whole = sample::snapshot();
    for tcp in [false, true] {
        let get = async |path: &str| match tcp {
            true => served.ask_tcp("GET", path, &[]).await,
            false => served.ask("GET", path).await,
        };
        assert_eq!(read::<Version>(&get("/v1/version").await), sample::version());
        assert_eq!(read::<Status>(&get("/v1/status").await), whole.status);
        assert_eq!(read::<Vec<ServiceView>>(&get("/v1/services").await), whole.services);
        assert_eq!(read::<ServiceView>(&get("/v1/services/web6").await), whole.services[1]);
        assert_eq!(read::<Vec<GroupView>>(&get("/v1/groups").await), whole.groups);
        assert_eq!(read::<GroupView>(&get("/v1/groups/web").await), whole.groups[0]);
        assert_eq!(read::<Vec<TargetView>>(&get("/v1/targets").await), whole.targets);
        assert_eq!(read::<Vec<TargetView>>(&get("/v1/groups/web/targets").await), whole.targets);
        let named = get("/v1/groups/web/targets/10.0.1.2%3A8080").await;
        assert_eq!(read::<TargetView>(&named), whole.targets[1]);
        let history = read::<HealthHistory>(&get("/v1/groups/web/targets/c/health").await);
        assert_eq!(history.checks[0].reason, "connection refused");
        assert_eq!(read::<DropsView>(&get("/v1/drops").await), whole.drops);
        assert_eq!(read::<Vec<Event>>(&get("/v1/events?follow=false").await).len(), 3);
        let configuration = get("/v1/configuration").await;
        assert_eq!(configuration.header("etag"), Some("\"7\""));
        assert_eq!(read::<ConfigView>(&configuration).text, "interfaces: [eth0]\n");
        let schema = get("/v1/configuration/schema").await;
        assert_eq!(schema.header("content-type"), Some("application/schema+json"));
        assert_eq!(schema.json()["type"], "object");
        assert_eq!(get("/healthz").await.body, "ok\n");
        assert_eq!(get("/readyz").await.json()["ready"], true);
        let metrics = get("/metrics").await;
        assert!(metrics.header("content-type").unwrap().starts_with("application/openmetrics-text"));
        assert!(metrics.body.ends_with("# EOF\n"));
    }
}

#[tokio::test]
async fn flows_are_filtered_and_paged() {
    let served = serve().await;
    let get = async |query: &str| read::<FlowsPage>(&served.ask("GET", &format!("/v1/flows?{query}")).await);
    let first = get("").await;
    assert_eq!((first.flows.len(), first.next.as_deref()), (100, Some("100")));
    assert_eq!(get("cursor=200").await, FlowsPage { flows: sample::flows(250)[200..].to_vec(), next: None });
    assert_eq!(get("client=192.0.2.7").await.flows, sample::flows(8)[7..]);
    assert_eq!(get("client=192.0.2.0/29&limit=5").await.next.as_deref(), Some("5"));
    assert_eq!(get("target=c&limit=1000").await.flows.len(), 125);
    assert_eq!(get("state=handshake&service=web&protocol=tcp").await.flows.len(), 1);
    assert_eq!(get("service=web6").await.flows, []);
}

/// A refused request: method, path, headers, body, and the answer's status, kind, and a part of its detail.
type Refused =
    (&'static str, &'static str, &'static [&'static str], &'static str, u16, &'static str, &'static str);

const REFUSED: &[Refused] = &[
    ("GET", "/v1/nothing", &[], "", 404, "not-found", "/v1/nothing"),
    ("GET", "/v1/services/none", &[], "", 404, "not-found", "no service `none`"),
    ("GET", "/v1/groups/none", &[], "", 404, "not-found", "no group `none`"),
    ("GET", "/v1/groups/none/targets", &[], "", 404, "not-found", "no group `none`"),
    ("GET", "/v1/groups/web/targets/z", &[], "", 404, "not-found", "no target `web/z`"),
    ("GET", "/v1/groups/web/targets/z/health", &[], "", 404, "not-found", "no target `web/z`"),
    ("GET", "/v1/flows?service=none", &[], "", 404, "not-found", "no service `none`"),
    ("GET", "/v1/flows?group=none&target=a", &[], "", 404, "not-found", "no group `none`"),
    ("GET", "/v1/flows?group=web&target=z", &[], "", 404, "not-found", "no target `web/z`"),
    ("GET", "/v1/services/%ff", &[], "", 400, "bad-request", "UTF-8"),
    ("DELETE", "/v1/services/web", &[], "", 405, "method-not-allowed", "DELETE"),
    ("POST", "/v1/configuration", &[], "", 405, "method-not-allowed", "POST"),
    ("GET", "/v1/flows?limit=0", &[], "", 400, "bad-request", "1 to 10000"),
    ("GET", "/v1/flows?limit=many", &[], "", 400, "bad-request", "invalid digit"),
    ("GET", "/v1/flows?state=open", &[], "", 400, "bad-request", "time-wait"),
    ("GET", "/v1/flows?client=10.0.0.0/33", &[], "", 400, "bad-request", "neither an address nor a prefix"),
    ("GET", "/v1/flows?taget=a", &[], "", 400, "bad-request", "taget"),
    ("GET", "/v1/flows?cursor=x", &[], "", 422, "invalid", "`x` is not a cursor"),
    ("GET", "/v1/events?follow=maybe", &[], "", 400, "bad-request", "true"),
    ("GET", "/v1/events", &["last-event-id: x"], "", 400, "bad-request", "Last-Event-ID"),
    ("PUT", "/v1/groups/web/targets/a/state", &[], "{}", 415, "media-type", "Content-Type"),
    ("PUT", "/v1/groups/web/targets/a/state", &[JSON], "{", 400, "bad-request", "not JSON"),
    ("PUT", "/v1/groups/web/targets/a/state", &[JSON], r#"{"state":"off"}"#, 422, "invalid", "maintenance"),
    (
        "PUT",
        "/v1/groups/web/targets/a/state",
        &[JSON],
        r#"{"state":"ready","deadline_seconds":1}"#,
        422,
        "invalid",
        "only goes with",
    ),
    (
        "PUT",
        "/v1/groups/web/targets/a/state",
        &[JSON],
        r#"{"state":"drain","deadline_seconds":-1}"#,
        422,
        "invalid",
        "must be from 0",
    ),
    ("PUT", "/v1/groups/web/targets/z/state", &[JSON], r#"{"state":"drain"}"#, 404, "not-found", "web/z"),
    ("PUT", "/v1/configuration?dry=1", &[], "a", 400, "bad-request", "dry_run"),
    ("PUT", "/v1/configuration?source=", &[], "a", 400, "bad-request", "source must be a name"),
    ("PUT", "/v1/configuration?source=a%0Ab", &[], "a", 400, "bad-request", "without control characters"),
    ("PUT", "/v1/configuration", &["if-match: x"], "a", 400, "bad-request", "If-Match"),
    (
        "PUT",
        "/v1/configuration",
        &["if-match: \"6\""],
        "a",
        412,
        "revision-differs",
        "revision 7 is in force",
    ),
    ("PUT", "/v1/configuration", &[], "fault", 422, "faulty-configuration", "2 faults"),
];

#[tokio::test]
async fn every_refusal_is_a_problem_document() {
    let mut served = serve().await;
    for (method, path, headers, body, status, kind, detail) in REFUSED {
        let reply = served.send(method, path, headers, body).await;
        assert_problem(&reply, *status, kind, detail);
        let instance = path.split('?').next();
        assert_eq!(serde_json::from_str::<Problem>(&reply.body).unwrap().instance.as_deref(), instance);
    }
    served.stop().await;
}

fn assert_problem(reply: &Reply, status: u16, kind: &str, detail: &str) -> Problem {
    assert_eq!(reply.status, status, "{reply:?}");
    assert_eq!(reply.header("content-type"), Some("application/problem+json"), "{reply:?}");
    let problem: Problem = serde_json::from_str(&reply.body).unwrap();
    assert_eq!(problem.status, status, "{problem:?}");
    assert_eq!(problem.kind, format!("urn:portside:problem:{kind}"), "{problem:?}");
    assert!(problem.detail.contains(detail), "{detail:?} is not in {problem:?}");
    problem
}

#[tokio::test]
async fn a_wrong_method_names_the_right_ones() {
    let served = serve().await;
    let reply = served.ask("POST", "/v1/configuration").await;
    assert_eq!(reply.header("allow"), Some("GET,HEAD,PUT"));
}

#[tokio::test]
async fn a_refused_configuration_lists_its_faults_and_changes_nothing() {
    let served = serve().await;
    let reply = served.send("PUT", "/v1/configuration", &[], "fault").await;
    assert_eq!(assert_problem(&reply, 422, "faulty-configuration", "nothing was changed").faults, faults());
    let reply = served.send("PUT", "/v1/configuration", &["if-match: \"9\""], "new").await;
    assert_eq!(assert_problem(&reply, 412, "revision-differs", "9").current_revision, Some(7));
    let view = read::<ConfigView>(&served.ask("GET", "/v1/configuration").await);
    assert_eq!((view.revision.number, view.text.as_str()), (7, "interfaces: [eth0]\n"));
}

#[tokio::test]
async fn a_configuration_is_applied_once_checked_and_once_for_real() {
    let served = serve().await;
    let put = async |path: &str, headers: &[&str]| {
        read::<ApplyResult>(&served.send("PUT", path, headers, "interfaces: [eth1]\n").await)
    };
    let checked = put("/v1/configuration?dry_run=true", &[]).await;
    assert_eq!((checked.dry_run, checked.revision.unwrap().number, checked.changes.len()), (true, 7, 2));
    let applied = put("/v1/configuration", &["if-match: \"7\""]).await;
    let revision = applied.revision.unwrap();
    assert_eq!((applied.dry_run, revision.number, revision.source.as_str()), (false, 8, "api"));
    assert_eq!(put("/v1/configuration", &["if-match: *"]).await.changes, []);
    let named =
        served.send("PUT", "/v1/configuration?source=%2Fetc%2Flb%20one.yaml", &[], "interfaces: [eth2]\n");
    assert_eq!(read::<ApplyResult>(&named.await).revision.unwrap().source, "/etc/lb one.yaml");
}

#[tokio::test]
async fn a_body_may_be_as_long_as_is_said_and_not_longer() {
    let served = serve().await;
    let longest = "#".repeat(16 << 20);
    assert_eq!(served.send("PUT", "/v1/configuration", &[], &longest).await.status, 200);
    let reply = served.send("PUT", "/v1/configuration", &[], &format!("{longest}#")).await;
    assert_problem(&reply, 413, "too-large", "nothing was changed");
    let state = format!("{{{}}}", " ".repeat(64 << 10));
    let reply = served.send("PUT", "/v1/groups/web/targets/a/state", &[JSON], &state).await;
    assert_problem(&reply, 413, "too-large", "longer than is accepted");
    let mut stream = UnixStream::connect(&served.socket).await.unwrap();
    let head = "PUT /v1/configuration HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 3\r\n\r\n";
    stream.write_all(&[head.as_bytes(), b"a\xffb"].concat()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("wrong from byte 1 on"), "{answer}");
}

#[tokio::test]
async fn a_target_is_drained() {
    let served = serve().await;
    let path = "/v1/groups/web/targets/a/state";
    let reply = served.send("PUT", path, &[JSON], r#"{"state":"drain","deadline_seconds":1.5}"#).await;
    let result = read::<TargetStateResult>(&reply);
    assert_eq!((result.changed, result.target.admin.state), (true, AdminState::Draining));
    let now = served.fake.target("web", "a").unwrap();
    assert_eq!(now.admin.deadline.unwrap().duration_since(sample::moment()).as_secs_f64(), 1.5);
}

#[tokio::test]
async fn tcp_changes_nothing_and_serves_nobody_elses_pages() {
    let served = serve().await;
    for (method, path) in [
        ("PUT", "/v1/configuration"),
        ("PUT", "/v1/groups/web/targets/a/state"),
        ("POST", "/v1/status"),
        ("DELETE", "/nothing"),
    ] {
        assert_problem(&served.ask_tcp(method, path, &[]).await, 403, "read-only", "use the Unix socket");
    }
    assert_eq!(served.fake.target("web", "a").unwrap().admin.state, AdminState::Ready);
    for host in ["host: evil.example", "host: 10.0.0.1", "host: [fd00::1]:80"] {
        assert_problem(&served.ask_tcp("GET", "/v1/status", &[host]).await, 421, "wrong-host", "loopback");
    }
    for host in ["host: 127.0.0.1:9", "host: [::1]:9", "host: LOCALHOST"] {
        assert_eq!(served.ask_tcp("GET", "/v1/status", &[host]).await.status, 200, "{host}");
    }
}

#[tokio::test]
async fn an_agent_that_is_not_ready_says_why() {
    let served = serve().await;
    served.fake.change(|snapshot| {
        snapshot.status.readiness.ready = false;
        snapshot.status.readiness.reasons = vec!["eth0 is gone".to_owned(), "no revision".to_owned()];
    });
    let problem =
        assert_problem(&served.ask("GET", "/readyz").await, 503, "not-ready", "eth0 is gone; no revision");
    assert_eq!(problem.reasons, ["eth0 is gone", "no revision"]);
    assert_eq!(served.ask("GET", "/healthz").await.status, 200);
}

#[tokio::test]
async fn an_agent_that_fails_says_so_and_goes_on() {
    let served =
        serve_with(ServerLimits { request_timeout: Duration::from_millis(200), ..ServerLimits::default() })
            .await;
    let ask = async |how: Misbehaviour| {
        served.fake.misbehave(Some(how));
        served.ask("GET", "/v1/status").await
    };
    assert_problem(&ask(Misbehaviour::Hang).await, 504, "timeout", "0.2 s");
    assert_problem(&ask(Misbehaviour::Panic).await, 500, "failed", "log");
    let reasons = vec!["an apply is in progress".to_owned(), "another reason".to_owned()];
    let refused = ask(Misbehaviour::Fail(BackendError::Refused(reasons.clone()))).await;
    assert_eq!(assert_problem(&refused, 409, "refused", "in progress; another").reasons, reasons);
    let unavailable = Misbehaviour::Fail(BackendError::Unavailable("starting".to_owned()));
    assert_problem(&ask(unavailable).await, 503, "unavailable", "starting");
    let failed = Misbehaviour::Fail(BackendError::Failed("map services: EPERM".to_owned()));
    assert_problem(&ask(failed).await, 500, "failed", "EPERM");
    served.fake.misbehave(None);
    assert_eq!(served.ask("GET", "/v1/status").await.status, 200);
}

/// Opens an event stream and reads past its head.
async fn follow(served: &Served, header: &str) -> Lines<BufReader<UnixStream>> {
    let mut stream = UnixStream::connect(&served.socket).await.unwrap();
    let request = format!("GET /v1/events HTTP/1.1\r\nhost: x\r\n{header}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut lines = BufReader::new(stream).lines();
    let head = next_with(&mut lines, "HTTP/1.1").await.unwrap();
    assert_eq!(head, "HTTP/1.1 200 OK");
    lines
}

async fn next_with(lines: &mut Lines<BufReader<UnixStream>>, start: &str) -> Option<String> {
    let found = async {
        while let Some(line) = lines.next_line().await.unwrap() {
            if line.starts_with(start) {
                return Some(line);
            }
        }
        None
    };
    tokio::time::timeout(PATIENCE, found).await.unwrap()
}

#[tokio::test]
async fn events_are_streamed_from_the_last_one_seen() {
    let mut served = serve().await;
    let mut lines = follow(&served, "last-event-id: 2\r\n").await;
    assert_eq!(next_with(&mut lines, "id:").await.unwrap(), "id: 3");
    assert_eq!(next_with(&mut lines, "event:").await.unwrap(), "event: target-down");
    served.fake.happen(EventKind::AllDown, "web", "no target is left: new flows are rejected");
    let data = next_with(&mut lines, "data: {\"id\":4").await.unwrap();
    let event: Event = serde_json::from_str(data.trim_start_matches("data: ")).unwrap();
    assert_eq!((event.kind, event.subject.as_str()), (EventKind::AllDown, "web"));
    served.stop().await;
    assert_eq!(next_with(&mut lines, "id:").await, None, "the stream ends when the server stops");
}

#[tokio::test]
async fn event_streams_are_few_and_leave_room_for_others() {
    let served = serve_with(ServerLimits { event_streams: 1, ..ServerLimits::default() }).await;
    let lines = follow(&served, "").await;
    assert_problem(&served.ask("GET", "/v1/events").await, 503, "busy", "follow=false");
    assert_eq!(
        served.ask("GET", "/v1/events?follow=false&after=2").await.json().as_array().unwrap().len(),
        1
    );
    drop(lines);
    let gone = async {
        // The server notices at its next write.
        while served.fake.followers() > 0 {
            served.fake.happen(EventKind::Agent, "lbd", "still here");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.unwrap();
    drop(follow(&served, "").await);
}

#[tokio::test]
async fn connections_beyond_the_limit_wait_their_turn() {
    let served = serve_with(ServerLimits {
        connections: 1,
        header_timeout: Duration::from_millis(300),
        ..ServerLimits::default()
    })
    .await;
    let mut idle = UnixStream::connect(&served.socket).await.unwrap();
    idle.write_all(b"GET /heal").await.unwrap();
    let started = std::time::Instant::now();
    assert_eq!(served.ask("GET", "/healthz").await.status, 200);
    assert!(started.elapsed() >= Duration::from_millis(250), "it did not wait: {:?}", started.elapsed());
}

#[tokio::test]
async fn a_peer_that_does_not_read_loses_its_connection() {
    let served = serve_with(ServerLimits {
        connections: 1,
        write_timeout: Duration::from_millis(200),
        ..ServerLimits::default()
    })
    .await;
    let mut stuck = UnixStream::connect(&served.socket).await.unwrap();
    // More than the socket's buffers hold.
    let many = "GET /v1/flows?limit=250 HTTP/1.1\r\nhost: x\r\n\r\n".repeat(100);
    stuck.write_all(many.as_bytes()).await.unwrap();
    assert_eq!(served.ask("GET", "/healthz").await.status, 200, "the slot is free again");
    let mut answers = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stuck.read_to_end(&mut answers)).await.unwrap();
    assert!(read.is_err() || answers.len() < 100 * 50_000, "it was answered in full: {}", answers.len());
}

#[tokio::test]
async fn stopping_lets_a_request_end_and_removes_the_socket() {
    let mut served =
        serve_with(ServerLimits { shutdown_grace: Duration::from_millis(300), ..ServerLimits::default() })
            .await;
    let mut busy = UnixStream::connect(&served.socket).await.unwrap();
    busy.write_all(b"PUT /v1/configuration HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\r\n").await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let (socket, finish) = (served.socket.clone(), async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        busy.write_all(b"#").await.unwrap();
        let mut answer = String::new();
        busy.read_to_string(&mut answer).await.unwrap();
        answer
    });
    let (answer, ()) = tokio::join!(finish, served.stop());
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    assert!(!socket.exists());
}

#[tokio::test]
async fn a_hanging_request_does_not_hold_up_the_stop() {
    let mut served =
        serve_with(ServerLimits { shutdown_grace: Duration::from_millis(100), ..ServerLimits::default() })
            .await;
    served.fake.misbehave(Some(Misbehaviour::Hang));
    let mut stuck = UnixStream::connect(&served.socket).await.unwrap();
    stuck.write_all(b"GET /v1/status HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    served.stop().await;
    let mut answer = String::new();
    stuck.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "");
}

#[tokio::test]
async fn the_socket_is_its_groups_and_only_one_agents() {
    let mut served = serve().await;
    let mode = std::fs::metadata(&served.socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o660);
    let error = Endpoint::unix(&served.socket).unwrap_err();
    assert!(matches!(error, BindError::Served { .. }));
    assert!(error.to_string().starts_with("another lbd serves "), "{error}");
    assert_eq!(served.ask("GET", "/healthz").await.status, 200, "the first one goes on");
    served.stop().await;
}

#[tokio::test]
async fn a_socket_that_nobody_answers_on_is_replaced_and_any_other_file_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lbd.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    drop(Endpoint::unix(&path).unwrap());
    assert!(!path.exists());
    std::fs::write(&path, "precious").unwrap();
    let error = Endpoint::unix(&path).unwrap_err().to_string();
    assert!(error.contains("is not a socket"), "{error}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    let long = folder.path().join("x".repeat(120));
    let error = Endpoint::unix(&long).unwrap_err().to_string();
    assert!(error.contains("107 bytes"), "{error}");
}

#[tokio::test]
async fn tcp_listens_on_loopback_only() {
    let error = Endpoint::tcp("192.0.2.1:80".parse().unwrap()).await.unwrap_err();
    assert!(matches!(error, BindError::NotLoopback { .. }), "{error}");
    let served = serve().await;
    let error = Endpoint::tcp(served.address).await.unwrap_err().to_string();
    assert!(error.contains("another process listens there"), "{error}");
}
