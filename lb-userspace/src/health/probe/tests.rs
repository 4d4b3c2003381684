use std::net::Ipv4Addr;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::{
    super::testing::{LONG, SHORT, Server, answering, check, compile, http, read_head, serve},
    *,
};
use crate::{
    config::model::{HealthCheck, HttpProbe, Probe, TlsProbe, TlsVerify},
    core::health::StatusRanges,
};

pub(super) async fn outcome(check: &HealthCheck, target: SocketAddr) -> Outcome {
    let check = compile(check).expect("a check that can run");
    let result = probe(&check, target).await;
    assert!(result.took <= check.timeout + Duration::from_millis(500), "took {:?}", result.took);
    result.outcome
}

async fn http_outcome(probe: HttpProbe, target: SocketAddr) -> Outcome {
    outcome(&check(Probe::Http(probe), LONG), target).await
}

pub(super) fn with_body(pattern: &str) -> HttpProbe {
    HttpProbe { expect_body: Some(pattern.into()), ..http() }
}

/// Accepts and says nothing.
async fn silent() -> Server<()> {
    serve("127.0.0.1:0", |stream| async move {
        std::future::pending::<()>().await;
        drop(stream);
    })
    .await
}

/// Answers with a head, then with the same piece over and over until the client has enough.
async fn endless(head: &'static str, piece: &'static str) -> Server<usize> {
    serve("127.0.0.1:0", move |mut stream| async move {
        read_head(&mut stream).await;
        stream.write_all(head.as_bytes()).await.expect("the head can be written");
        let mut sent = 0;
        while stream.write_all(piece.as_bytes()).await.is_ok() {
            sent += piece.len();
        }
        sent
    })
    .await
}

#[tokio::test]
async fn tcp_asks_for_a_connection_and_closes_it_in_order() {
    let mut server = serve("127.0.0.1:0", |mut stream| async move { stream.read(&mut [0]).await }).await;
    assert_eq!(outcome(&check(Probe::Tcp, LONG), server.address).await, Ok(()));
    assert_eq!(server.seen.recv().await.expect("a connection").expect("closed in order"), 0);
}

#[tokio::test]
async fn another_port_is_asked_when_configured() {
    let mut server = answering("HTTP/1.1 200 OK\r\n\r\n").await;
    let check = HealthCheck { port: Some(server.address.port()), ..check(Probe::Http(http()), LONG) };
    assert_eq!(outcome(&check, SocketAddr::new(server.address.ip(), 1)).await, Ok(()));
    let request = server.seen.recv().await.expect("a request");
    assert!(request.head.contains(&format!("host: {}\r\n", server.address)), "{}", request.head);
}

#[tokio::test]
async fn nothing_listening_is_refused() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
    let target = listener.local_addr().expect("its address");
    drop(listener);
    assert_eq!(outcome(&check(Probe::Tcp, LONG), target).await, Err(Reason::Refused));
}

#[tokio::test]
async fn a_full_backlog_times_out_while_connecting() {
    let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
    socket.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).expect("an address");
    let listener = socket.listen(1).expect("a listener");
    let target = listener.local_addr().expect("its address");
    // Connections that nobody accepts, until one more finds no room.
    let mut waiting = Vec::new();
    while let Ok(stream) = tokio::time::timeout(SHORT, TcpStream::connect(target)).await {
        waiting.push(stream.expect("connected"));
        assert!(waiting.len() < 16, "the backlog is bounded");
    }
    assert_eq!(
        outcome(&check(Probe::Tcp, SHORT), target).await,
        Err(Reason::TimedOut { after: SHORT, phase: Phase::Connect })
    );
}

#[tokio::test]
async fn silence_times_out_in_the_phase_it_meets() {
    let server = silent().await;
    let https = Probe::Https { http: http(), tls: TlsProbe { server_name: None, verify: TlsVerify::None } };
    for (probe, phase) in [(Probe::Http(http()), Phase::Answer), (https, Phase::Tls)] {
        assert_eq!(
            outcome(&check(probe, SHORT), server.address).await,
            Err(Reason::TimedOut { after: SHORT, phase })
        );
    }
    let server = serve("127.0.0.1:0", |mut stream| async move {
        read_head(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf").await.expect("written");
        std::future::pending::<()>().await;
    })
    .await;
    assert_eq!(
        outcome(&check(Probe::Http(with_body("half")), SHORT), server.address).await,
        Err(Reason::TimedOut { after: SHORT, phase: Phase::Body })
    );
    // Without an expected body the status decides, and the body is not waited for.
    let begun = Instant::now();
    assert_eq!(outcome(&check(Probe::Http(http()), LONG), server.address).await, Ok(()));
    assert!(begun.elapsed() < LONG / 2);
}

#[tokio::test]
async fn a_reset_or_early_close_is_named() {
    let resetting = serve("127.0.0.1:0", |mut stream| async move {
        read_head(&mut stream).await;
        stream.set_zero_linger().expect("can be set");
    })
    .await;
    assert_eq!(http_outcome(http(), resetting.address).await, Err(Reason::Reset(Phase::Answer)));
    let cases = [
        ("", Phase::Answer),
        ("HTTP/1.1 200 OK\r\nContent-Le", Phase::Answer),
        ("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", Phase::Body),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n", Phase::Body),
    ];
    for (answer, phase) in cases {
        let server = answering(answer).await;
        let outcome = http_outcome(with_body("half"), server.address).await;
        assert_eq!(outcome, Err(Reason::Closed(phase)), "{answer:?}");
    }
}

#[tokio::test]
async fn the_request_is_the_configured_one() {
    let mut server = answering("HTTP/1.1 204 No Content\r\n\r\n").await;
    let probe = HttpProbe {
        method: "HEAD".into(),
        path: "/ready?deep=1".into(),
        host: Some("shop.internal".into()),
        headers: vec![("X-Check".into(), "a".into()), ("X-Check".into(), "b".into())],
        ..http()
    };
    assert_eq!(http_outcome(probe, server.address).await, Ok(()));
    let request = server.seen.recv().await.expect("a request");
    let mut lines: Vec<&str> = request.head.trim_end().split("\r\n").collect();
    assert_eq!(lines.remove(0), "HEAD /ready?deep=1 HTTP/1.1");
    lines.sort_unstable();
    assert_eq!(
        lines,
        [
            "connection: close",
            "host: shop.internal",
            "user-agent: portside-health",
            "x-check: a",
            "x-check: b"
        ]
    );
    assert_eq!(request.end, Ok(0), "closed in order");
}

#[tokio::test]
async fn the_host_is_the_targets_address_by_default() {
    let mut server = serve("[::1]:0", |mut stream| async move { read_head(&mut stream).await }).await;
    assert_eq!(http_outcome(http(), server.address).await, Err(Reason::Closed(Phase::Answer)));
    let head = server.seen.recv().await.expect("a request");
    assert!(head.contains(&format!("host: [::1]:{}\r\n", server.address.port())), "{head}");
}

#[tokio::test]
async fn the_status_must_be_in_a_range() {
    let cases = [("200", true), ("399", true), ("400", false), ("199", false), ("418", true), ("503", false)];
    let ranges = vec![(200, 399), (418, 418)];
    for (status, accepted) in cases {
        let answer = format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n");
        // A 1xx answer announces another one.
        let answer = if status == "199" { format!("{answer}HTTP/1.1 500 X\r\n\r\n") } else { answer };
        let server = answering(answer.leak()).await;
        let probe = HttpProbe { expect_status: ranges.clone(), ..http() };
        let got = if status == "199" { 500 } else { status.parse().expect("a number") };
        let expected = Reason::Status { got, expected: StatusRanges::new(&ranges) };
        let expected = if accepted { Ok(()) } else { Err(expected) };
        assert_eq!(http_outcome(probe, server.address).await, expected, "{status}");
    }
}

#[tokio::test]
async fn the_body_is_matched_however_it_is_delimited() {
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\nall is well\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nall \r\n8\r\nis well\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\n\r\nall is well\n",
        "HTTP/1.0 200 OK\r\n\r\nall is well\n",
    ] {
        let mut server = answering(answer).await;
        assert_eq!(http_outcome(with_body("^all is w[e]ll\n$"), server.address).await, Ok(()), "{answer}");
        let expected = Err(Reason::Body { pattern: "unwell".into() });
        assert_eq!(http_outcome(with_body("unwell"), server.address).await, expected, "{answer}");
        for _ in 0..2 {
            assert_eq!(server.seen.recv().await.expect("a request").end, Ok(0), "closed in order");
        }
    }
}

#[tokio::test]
async fn a_body_that_is_not_asked_for_is_taken_in_all_the_same() {
    let mut server = serve("127.0.0.1:0", |mut stream| async move {
        read_head(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab").await.expect("written");
        tokio::time::sleep(Duration::from_millis(10)).await;
        stream.write_all(b"cd").await.expect("written");
        stream.read(&mut [0]).await
    })
    .await;
    assert_eq!(http_outcome(http(), server.address).await, Ok(()));
    assert_eq!(server.seen.recv().await.expect("a connection").expect("closed in order"), 0);
}

#[tokio::test]
async fn endless_answers_are_read_only_so_far() {
    let body = "HTTP/1.1 200 OK\r\n\r\n";
    let no_match = Err(Reason::Body { pattern: "never".into() });
    let too_large = Err(Reason::Http("its head is larger than 64 KiB".into()));
    for (head, piece, probe, expected) in [
        (body, "all is well ", with_body("all is well"), Ok(())),
        (body, "all is well ", with_body("never"), no_match),
        (body, "all is well ", http(), Ok(())),
        ("HTTP/1.1 200 OK\r\nx: ", "0123456789abcdef", http(), too_large.clone()),
        ("HTTP/1.1 200 OK\r\n", "x: y\r\n", http(), too_large),
    ] {
        let mut server = endless(head, piece).await;
        assert_eq!(http_outcome(probe, server.address).await, expected, "{head:?}, {piece:?}");
        let sent = server.seen.recv().await.expect("the connection was ended");
        // What both sockets' buffers take is beyond the check's control.
        assert!(sent < 16 << 20, "{sent} bytes were taken");
    }
}

#[tokio::test]
async fn what_is_not_http_is_called_so() {
    for answer in ["SSH-2.0-server\r\n", "HTTP/1.1 abc\r\n\r\n", "\0\0\0\0\0\0\0\0\0\0"] {
        let server = answering(answer).await;
        let outcome = http_outcome(http(), server.address).await;
        assert!(matches!(outcome, Err(Reason::Http(_))), "{answer:?}: {outcome:?}");
    }
    let server = answering("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n").await;
    let outcome = http_outcome(with_body("ok"), server.address).await;
    assert!(matches!(outcome, Err(Reason::Http(_))), "{outcome:?}");
}

#[test]
fn checks_that_cannot_run_say_why() {
    let text = |probe: Probe| compile(&check(probe, LONG)).expect_err("cannot run").to_string();
    let http_text = |probe: HttpProbe| text(Probe::Http(probe));
    let tls_text = |server_name: Option<&str>, verify| {
        let tls = TlsProbe { server_name: server_name.map(Into::into), verify };
        text(Probe::Https { http: http(), tls })
    };
    let header = |name: &str, value: &str| vec![(name.to_owned(), value.to_owned())];
    let empty = tempfile::NamedTempFile::new().expect("a file");
    let empty_path = empty.path().to_owned();
    let cases = [
        (http_text(HttpProbe { method: "GE T".into(), ..http() }), "method `GE T`"),
        (http_text(HttpProbe { path: "ready".into(), ..http() }), "path `ready`: it does not begin with `/`"),
        (http_text(HttpProbe { path: "/a b".into(), ..http() }), "path `/a b`"),
        (http_text(HttpProbe { headers: header("a b", "c"), ..http() }), "header `a b`"),
        (http_text(HttpProbe { headers: header("a", "b\r\nc: d"), ..http() }), "header `a`"),
        (
            http_text(HttpProbe { host: Some("a".into()), headers: header("Host", "b"), ..http() }),
            "the host is given twice",
        ),
        (http_text(with_body("(")), "body pattern: "),
        (tls_text(Some("not a name"), TlsVerify::None), "server name `not a name`"),
        (tls_text(None, TlsVerify::CaFile("/nonexistent/ca.pem".into())), "CA file /nonexistent/ca.pem: "),
        (tls_text(None, TlsVerify::CaFile(empty_path)), "no certificate in it"),
    ];
    for (text, part) in cases {
        assert!(text.starts_with("health check ") && text.contains(part), "{text:?} should say {part:?}");
    }
}

#[test]
fn the_nodes_own_shortage_is_told_from_the_targets_faults() {
    for number in [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM, libc::EADDRNOTAVAIL] {
        let reason = io_reason(&io::Error::from_raw_os_error(number), Phase::Connect);
        assert!(reason.is_local(), "{reason}");
    }
    for number in [
        libc::ECONNREFUSED,
        libc::ECONNRESET,
        libc::ENETUNREACH,
        libc::EHOSTUNREACH,
        libc::ETIMEDOUT,
        libc::EPERM,
    ] {
        let reason = io_reason(&io::Error::from_raw_os_error(number), Phase::Connect);
        assert!(!reason.is_local(), "{reason}");
    }
}
