//! The client library, where `lbctl` does not show it.

use std::{path::Path, time::Duration};

use lb_userspace::api::{
    client::{Address, Client, ClientError},
    types::{EventKind, FlowQuery, TargetState, TargetStateChange},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixListener,
};

use crate::{
    fake::Misbehaviour,
    sample,
    support::{PATIENCE, Served, serve},
};

fn unix(path: &Path) -> Client {
    Client::new(Address::Unix(path.to_owned()), PATIENCE)
}

fn tcp(served: &Served) -> Client {
    Client::new(served.address.to_string().parse().unwrap(), PATIENCE)
}

#[tokio::test]
async fn everything_is_read_as_it_was_sent() {
    let served = serve().await;
    let whole = sample::snapshot();
    for client in [unix(&served.socket), tcp(&served)] {
        assert_eq!(client.version().await.unwrap(), sample::version());
        assert_eq!(client.status().await.unwrap(), whole.status);
        assert_eq!(client.services().await.unwrap(), whole.services);
        assert_eq!(client.groups().await.unwrap(), whole.groups);
        assert_eq!(client.targets(None).await.unwrap(), whole.targets);
        assert_eq!(client.targets(Some("web")).await.unwrap(), whole.targets);
        assert_eq!(client.target("web", "10.0.1.2:8080").await.unwrap(), whole.targets[1]);
        assert_eq!(client.health("web", "c").await.unwrap().checks.len(), 1);
        assert_eq!(client.drops().await.unwrap(), whole.drops);
        assert_eq!(client.configuration().await.unwrap().revision.number, 7);
        assert_eq!(client.events(Some(2)).await.unwrap().len(), 1);
        let query = FlowQuery {
            client: Some("192.0.2.0/30".parse().unwrap()),
            target: Some("c".to_owned()),
            ..FlowQuery::default()
        };
        assert_eq!(client.flows(&query).await.unwrap().flows.len(), 2);
    }
}

#[tokio::test]
async fn refusals_come_as_problems() {
    let served = serve().await;
    let change = TargetStateChange { state: TargetState::Drain, deadline_seconds: None };
    let refused = tcp(&served).set_target_state("web", "a", &change).await;
    let Err(ClientError::Problem(problem)) = refused else { panic!("{refused:?}") };
    assert_eq!(problem.status, 403);
    let refused = unix(&served.socket).apply("a: 1".to_owned(), "a.yaml", false, Some(1)).await;
    let Err(ClientError::Problem(problem)) = refused else { panic!("{refused:?}") };
    assert_eq!((problem.status, problem.current_revision), (412, Some(7)));
    let refused = unix(&served.socket).target("we/b", "a b?#%").await;
    let Err(ClientError::Problem(problem)) = refused else { panic!("{refused:?}") };
    assert_eq!(problem.detail, "there is no target `we/b/a b?#%`");
}

#[tokio::test]
async fn events_are_followed_until_the_agent_stops() {
    let mut served = serve().await;
    let mut stream = unix(&served.socket).follow_events(Some(2)).await.unwrap();
    assert_eq!(stream.next().await.unwrap().unwrap().id, 3);
    served.fake.happen(EventKind::Recovered, "web", "targets\r\nare — back");
    let event = tokio::time::timeout(PATIENCE, stream.next()).await.unwrap().unwrap().unwrap();
    assert_eq!((event.id, event.message.as_str()), (4, "targets\r\nare — back"));
    served.stop().await;
    assert_eq!(tokio::time::timeout(PATIENCE, stream.next()).await.unwrap().unwrap(), None);
}

#[tokio::test]
async fn a_follower_that_falls_behind_is_cut_off_and_catches_up() {
    let served = serve().await;
    let mut stream = unix(&served.socket).follow_events(None).await.unwrap();
    for number in 0..10 {
        // More at once than the agent's channel holds: the server's task does not run in between.
        served.fake.happen(EventKind::Limit, "lbd", &format!("{number}"));
    }
    let mut last = None;
    while let Some(event) = tokio::time::timeout(PATIENCE, stream.next()).await.unwrap().unwrap() {
        last = Some(event.id);
    }
    let mut stream = unix(&served.socket).follow_events(last).await.unwrap();
    let mut ids = Vec::from_iter(last);
    while ids.last() != Some(&13) {
        ids.push(tokio::time::timeout(PATIENCE, stream.next()).await.unwrap().unwrap().unwrap().id);
    }
    let first = ids[0];
    assert_eq!(ids, (first..=13).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_client_waits_no_longer_than_it_was_told() {
    let served = serve().await;
    served.fake.misbehave(Some(Misbehaviour::Hang));
    let client = Client::new(Address::Unix(served.socket.clone()), Duration::from_millis(100));
    let error = client.status().await.unwrap_err();
    assert!(matches!(error, ClientError::Timeout { .. }), "{error:?}");
    assert!(error.to_string().contains("did not answer within 0.1 s"), "{error}");
}

/// Serves one connection with these bytes, whatever is asked.
async fn answer_with(path: &Path, bytes: &'static [u8]) -> tokio::task::JoinHandle<()> {
    let listener = UnixListener::bind(path).unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut asked = [0; 1024];
        assert!(stream.read(&mut asked).await.unwrap() > 0);
        stream.write_all(bytes).await.unwrap();
    })
}

#[tokio::test]
async fn what_is_no_agent_is_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    for (number, (bytes, expected)) in [
        (&b"SSH-2.0-x\r\n"[..], "does not answer like lbd"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}", "missing field"),
        (b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 2\r\n\r\nno", "502 Bad Gateway without a problem"),
        (b"", "the connection broke"),
    ]
    .into_iter()
    .enumerate()
    {
        let path = folder.path().join(number.to_string());
        let task = answer_with(&path, bytes).await;
        let error = unix(&path).version().await.unwrap_err().to_string();
        assert!(error.contains(expected), "{expected:?} is not in {error:?}");
        task.await.unwrap();
    }
}
