use std::sync::atomic::{AtomicUsize, Ordering};

use tokio_util::task::AbortOnDropHandle;

use super::{
    super::testing::{LONG, SHORT, check, compile, http, serve},
    *,
};
use crate::{
    config::model::{HealthCheck, Probe},
    core::health::{Health, Phase, Timing, Verdict},
};

const MS: fn(u64) -> Duration = Duration::from_millis;

struct Running {
    commands: mpsc::Sender<Command<&'static str>>,
    reports: mpsc::UnboundedReceiver<Report<&'static str>>,
    epoch: Instant,
    stop: CancellationToken,
    task: AbortOnDropHandle<()>,
}

fn start(concurrency: usize) -> Running {
    let (commands, received) = mpsc::channel(8);
    let (report, reports) = mpsc::unbounded_channel();
    let epoch = Instant::now();
    let stop = CancellationToken::new();
    let task = tokio::spawn(Prober::new(epoch, concurrency, report).run(received, stop.clone()));
    Running { commands, reports, epoch, stop, task: AbortOnDropHandle::new(task) }
}

impl Running {
    async fn tell(&self, command: Command<&'static str>) {
        self.commands.send(command).await.expect("the prober runs");
    }

    async fn know(&self, target: &'static str, address: SocketAddr, check: &HealthCheck) {
        let check = Arc::new(compile(check).expect("a check that can run"));
        self.tell(Command::Start { target, address, check }).await;
    }

    async fn ask(&self, target: &'static str, sequence: u64, at: Time) {
        self.tell(Command::Probe { target, check: id(sequence), at }).await;
    }

    async fn report(&mut self) -> Report<&'static str> {
        tokio::time::timeout(LONG, self.reports.recv()).await.expect("a report in time").expect("it runs")
    }
}

fn id(sequence: u64) -> CheckId {
    CheckId { incarnation: 1, sequence }
}

/// Accepts connections and holds them.
async fn silent() -> super::super::testing::Server<()> {
    serve("127.0.0.1:0", |stream| async move {
        std::future::pending::<()>().await;
        drop(stream);
    })
    .await
}

#[tokio::test]
async fn checks_run_at_their_moment() {
    let server = silent().await;
    let mut prober = start(8);
    prober.know("late", server.address, &check(Probe::Tcp, LONG)).await;
    prober.know("soon", server.address, &check(Probe::Tcp, LONG)).await;
    prober.ask("late", 3, MS(60)).await;
    prober.ask("soon", 4, MS(0)).await;
    let soon = prober.report().await;
    let late = prober.report().await;
    assert_eq!((soon.target, soon.check, &soon.result.outcome), ("soon", id(4), &Ok(())));
    assert_eq!((late.target, late.check, &late.result.outcome), ("late", id(3), &Ok(())));
    assert!(late.result.at >= MS(60) && late.result.at <= prober.epoch.elapsed());
}

#[tokio::test]
async fn replaced_and_stopped_checks_are_not_reported() {
    let server = silent().await;
    let mut prober = start(8);
    let slow = check(Probe::Http(http()), LONG);
    for target in ["replaced", "restarted", "stopped"] {
        prober.know(target, server.address, &slow).await;
        prober.ask(target, 1, MS(0)).await;
    }
    prober.ask("unknown", 1, MS(0)).await;
    let fast = check(Probe::Http(http()), SHORT);
    prober.know("restarted", server.address, &fast).await;
    prober.ask("restarted", 2, MS(0)).await;
    prober.tell(Command::Stop { target: "stopped" }).await;
    let report = prober.report().await;
    assert_eq!((report.target, report.check), ("restarted", id(2)));
    assert_eq!(
        report.result.outcome,
        Err(Reason::TimedOut { after: SHORT, phase: Phase::Answer }),
        "under the new check"
    );

    let refusing = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a listener");
        listener.local_addr().expect("its address")
    };
    prober.know("replaced", refusing, &slow).await;
    prober.ask("replaced", 2, LONG * 100).await;
    prober.ask("replaced", 3, MS(0)).await;
    let report = prober.report().await;
    assert_eq!((report.target, report.check), ("replaced", id(3)));
    assert_eq!(report.result.outcome, Err(Reason::Refused), "at the new address");
    assert!(prober.reports.try_recv().is_err(), "nothing else was reported");
}

#[tokio::test]
async fn no_more_checks_run_at_a_time_than_permitted() {
    static OPEN: AtomicUsize = AtomicUsize::new(0);
    static MOST: AtomicUsize = AtomicUsize::new(0);
    let server = serve("127.0.0.1:0", |mut stream| async move {
        let open = OPEN.fetch_add(1, Ordering::SeqCst) + 1;
        MOST.fetch_max(open, Ordering::SeqCst);
        super::super::testing::read_head(&mut stream).await;
        tokio::time::sleep(MS(20)).await;
        // Before the answer: the next check may begin as soon as the client has it.
        OPEN.fetch_sub(1, Ordering::SeqCst);
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
        tokio::io::AsyncWriteExt::write_all(&mut stream, answer).await
    })
    .await;
    let mut prober = start(2);
    let targets = ["a", "b", "c", "d", "e", "f"];
    for target in targets {
        prober.know(target, server.address, &check(Probe::Http(http()), LONG)).await;
        prober.ask(target, 1, MS(0)).await;
    }
    for _ in targets {
        assert_eq!(prober.report().await.result.outcome, Ok(()));
    }
    assert_eq!(MOST.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn it_stops_in_the_middle_of_checks_and_leaves_none_running() {
    let mut server = serve("127.0.0.1:0", |mut stream| async move {
        super::super::testing::read_head(&mut stream).await;
        tokio::io::AsyncReadExt::read(&mut stream, &mut [0]).await.expect("closed in order")
    })
    .await;
    for by_token in [true, false] {
        let prober = start(8);
        prober.know("a", server.address, &check(Probe::Http(http()), LONG)).await;
        prober.ask("a", 1, MS(0)).await;
        prober.know("b", server.address, &check(Probe::Http(http()), LONG)).await;
        prober.ask("b", 1, LONG * 100).await;
        tokio::time::sleep(MS(20)).await;
        let Running { commands, stop, task, .. } = prober;
        let commands = if by_token {
            stop.cancel();
            Some(commands)
        } else {
            drop(commands);
            None
        };
        tokio::time::timeout(LONG / 2, task).await.expect("it stops").expect("in order");
        assert_eq!(server.seen.recv().await, Some(0), "the running check's connection was closed");
        drop(commands);
    }
}

#[tokio::test]
async fn core_and_prober_find_a_target_dead_and_alive_again_in_time() {
    let check = HealthCheck {
        interval: MS(60),
        transition_interval: MS(20),
        timeout: MS(40),
        rise: 2,
        fall: 3,
        ..check(Probe::Tcp, LONG)
    };
    let server = silent().await;
    let address = server.address;
    let mut prober = start(8);
    prober.know("a", address, &check).await;
    let mut health = Health::new(&"a", 1, Timing::from(&check), prober.epoch.elapsed());
    let mut server = Some(server);
    let mut changed_at = prober.epoch.elapsed();
    let mut seen = Vec::new();
    let due = health.due();
    prober.tell(Command::Probe { target: "a", check: due.check, at: due.at }).await;
    while seen.len() < 3 {
        let report = prober.report().await;
        let now = prober.epoch.elapsed();
        let step = health.probed(report.check, report.result, now).expect("the awaited result");
        prober.tell(Command::Probe { target: "a", check: step.next.check, at: step.next.at }).await;
        let Some(transition) = step.transition else { continue };
        // Generous to a busy machine; the exact bound is the core's own test.
        assert!(now - changed_at < check.interval * check.fall + check.timeout + MS(1000));
        seen.push(transition.to);
        changed_at = now;
        server = match server {
            Some(_) => None,
            None => Some(serve(&address.to_string(), |_| async {}).await),
        };
    }
    assert_eq!(seen, [Verdict::Up, Verdict::Down, Verdict::Up]);
}

#[tokio::test]
async fn a_check_replaced_after_it_ended_is_not_reported_either() {
    let server = silent().await;
    let (report, mut reports) = mpsc::unbounded_channel();
    let mut prober = Prober::new(Instant::now(), 8, report);
    let compiled = Arc::new(compile(&check(Probe::Tcp, LONG)).expect("a check that can run"));
    prober.carry_out(Command::Start { target: "a", address: server.address, check: compiled });
    prober.carry_out(Command::Probe { target: "a", check: id(1), at: MS(0) });
    let (_, first) = prober.targets["a"].awaited.clone().expect("a check is awaited");
    while !first.is_finished() {
        tokio::time::sleep(MS(1)).await;
    }
    prober.carry_out(Command::Probe { target: "a", check: id(2), at: MS(0) });
    let mut ended = Vec::new();
    while let Some(Ok(report)) = prober.tasks.join_next().await {
        ended.push(report.check);
        prober.report(report);
    }
    assert_eq!(ended, [id(1), id(2)]);
    assert_eq!(reports.try_recv().expect("the second check's report").check, id(2));
    assert!(reports.try_recv().is_err(), "and no other");
}
