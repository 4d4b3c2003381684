//! `lbctl` itself: what it prints and how it exits.

use std::{path::Path, process::Stdio, time::Duration};

use jiff::{SignedDuration, Timestamp};
use lb_userspace::api::{
    backend::BackendError,
    types::{
        AdminState, EventKind, FlowState, FlowView, Readiness, ServiceView, Status, TargetView, Verdict,
    },
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    process::Command,
};

use crate::{
    fake::Misbehaviour,
    sample,
    support::{PATIENCE, Served, serve},
};

struct Ran {
    code: i32,
    out: String,
    err: String,
}

fn lbctl(socket: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lbctl"));
    command
        .args(args)
        .env_remove("NO_COLOR")
        .env("TZ", "UTC")
        .env("PORTSIDE_SOCKET", socket)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

async fn run(socket: &Path, args: &[&str]) -> Ran {
    ended(lbctl(socket, args).spawn().unwrap()).await
}

async fn ended(child: tokio::process::Child) -> Ran {
    let output = tokio::time::timeout(PATIENCE, child.wait_with_output()).await.unwrap().unwrap();
    Ran {
        code: output.status.code().unwrap(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

/// A served agent whose ages stay the same while a test runs.
async fn steady() -> Served {
    let served = serve().await;
    let earlier = Timestamp::now() - SignedDuration::from_secs(3 * 3600 + 90);
    served.fake.change(|snapshot| {
        for target in &mut snapshot.targets {
            target.health.since = earlier;
        }
        for drop in snapshot.drops.drops.iter_mut().filter(|drop| drop.last_seen.is_some()) {
            drop.last_seen = Some(earlier);
        }
        snapshot.status.data_plane.drift[0].since = earlier;
    });
    served
}

#[track_caller]
fn assert_prints(ran: &Ran, expected: &str) {
    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{}", ran.out);
    assert!(ran.out == expected, "printed:\n{}\nexpected:\n{expected}", ran.out);
}

#[tokio::test]
async fn status_shows_the_whole() {
    let served = steady().await;
    assert_prints(&run(&served.socket, &["status"]).await, STATUS);
}

const STATUS: &str = "\
lb1  lbd 0.1.0  up 1d 2h  ready

revision    7, applied 2026-03-04 05:06:07 from /etc/portside/lb.yaml
file        differs from the revision; apply it with `lbctl apply /etc/portside/lb.yaml`
data plane  drifted, generation 3, epoch 9, abi 1
drift       services: service web is missing (for 3h 1m)
holds       2 services, 1 group, 1 of 3 targets take new flows, 1,500 active flows, 1,723 in the tables
down        web/c for 3h 1m: connection refused

INTERFACE  XDP      WANTED             PROGRAM  TAG               NOTE
eth0       generic  native-or-generic       77  0123456789abcdef  adopted; the driver has no native XDP

MAP           USED      MAX  FULL    MEMORY
flows4       1,500  262,144  0.6%  24.0 MiB
handshakes4      -   65,536     -         -

warning: eth0 runs the program in generic mode
";

#[tokio::test]
async fn status_names_what_is_down_and_what_becomes_of_clients() {
    let served = steady().await;
    served.fake.change(|snapshot| {
        snapshot.status.counts.targets_up = 0;
        snapshot.groups[0].all_down = true;
        snapshot.targets[0].takes_new_flows = false;
        snapshot.targets[0].why_not = Some("no next hop: 10.0.1.1 does not answer".to_owned());
    });
    let text = run(&served.socket, &["status"]).await.out;
    let expected = "\
holds       2 services, 1 group, 0 of 3 targets take new flows, 1,500 active flows, 1,723 in the tables
all down    web: new flows are rejected (web, web6)
down        web/a: no next hop: 10.0.1.1 does not answer
down        web/c for 3h 1m: connection refused
";
    assert!(text.contains(expected), "{text}");
    let coloured = run(&served.socket, &["status", "--color", "always"]).await.out;
    assert!(coloured.contains("\x1b[31m0 of 3 targets take new flows\x1b[0m"), "{coloured:?}");
    served.fake.change(|snapshot| {
        snapshot.targets = (0..13)
            .map(|number| TargetView { name: format!("c{number}"), ..snapshot.targets[2].clone() })
            .collect();
    });
    let text = run(&served.socket, &["status"]).await.out;
    assert!(text.contains("down        web/c9 for") && !text.contains("web/c10"), "{text}");
    assert!(text.contains("            and 3 more: see `lbctl targets`\n"), "{text}");
}

#[tokio::test]
async fn status_says_each_thing_once() {
    let served = steady().await;
    let reason = "the program is not on every interface: there is no interface eth0; correct `interfaces`";
    served.fake.change(|snapshot| {
        snapshot.status.readiness = Readiness { ready: false, reasons: vec![reason.to_owned()] };
        let interface = &mut snapshot.status.interfaces[0];
        interface.xdp_mode = None;
        interface.program_id = None;
        interface.program_tag = None;
        interface.adopted = false;
        interface.reason = Some(reason.to_owned());
    });
    let text = run(&served.socket, &["status"]).await.out;
    assert_eq!(text.matches("there is no interface eth0").count(), 1, "{text}");
    assert!(text.contains("eth0       not attached  native-or-generic        -  -\n"), "{text}");
}

#[tokio::test]
async fn services_are_a_table() {
    let served = steady().await;
    served.fake.change(|snapshot| snapshot.services[1].all_down = true);
    assert_prints(&run(&served.socket, &["services"]).await, SERVICES);
}

const SERVICES: &str = "\
SERVICE  ADDRESS            STATE     GROUP  TAKING  ACTIVE      NEW  PACKETS IN   BYTES IN  PACKETS OUT  BYTES OUT
web      tcp 10.0.0.10:80   degraded  web       1/3   1,500  123,456   1,234,567  117.7 MiB    1,234,567    1.7 GiB
web6     tcp [fd00::10]:80  all down  web       1/3   1,500        0           7      700 B            7   10.3 KiB
";

#[tokio::test]
async fn targets_are_a_table() {
    let served = steady().await;
    assert_prints(&run(&served.socket, &["targets", "web"]).await, TARGETS);
}

const TARGETS: &str = "\
GROUP  TARGET         ADDRESS        ZONE  WEIGHT  HEALTH    FOR  STATE                   NEW FLOWS      SHARE  ACTIVE  NEW  BYTES IN  BYTES OUT
web    a              10.0.1.1:8080  z1         2  up      3h 1m  ready                   yes           100.0%       4   12   2.0 KiB    5.0 GiB
web    10.0.1.2:8080  10.0.1.2:8080  -          2  up      3h 1m  draining, 9 flows left  no: draining    0.0%       4   12   2.0 KiB    5.0 GiB
web    c              10.0.1.3:8080  z2         2  down    3h 1m  ready                   no: down        0.0%       4   12   2.0 KiB    5.0 GiB
";

#[tokio::test]
async fn one_target_is_shown_with_its_checks() {
    let served = steady().await;
    assert_prints(&run(&served.socket, &["targets", "web/c"]).await, TARGET);
    served.fake.change(|snapshot| {
        for target in &mut snapshot.targets {
            (target.takes_new_flows, target.as_if_up, target.why_not) = (true, true, None);
        }
    });
    let open = TARGET.replace("no: down", "yes: no target is up");
    assert_prints(&run(&served.socket, &["targets", "web/c"]).await, &open);
}

const TARGET: &str = "\
target      web/c
address     10.0.1.3:8080
zone        z2
weight      2
health      down for 3h 1m: connection refused
state       ready
new flows   no: down
next hop    02:00:00:00:00:01, by eth0, MTU 1500
table       0 slots
flows       4 active, 12 admitted
in          1,000 packets, 2.0 KiB
out         900 packets, 5.0 GiB

VERDICT SINCE        FROM      TO    REASON
2026-03-04 05:06:07  checking  down  connection refused

CHECKED              RESULT  TOOK  REASON
2026-03-04 05:06:07  failed  12ms  connection refused
";

#[tokio::test]
async fn a_target_in_maintenance_is_not_said_to_be_checked() {
    let served = steady().await;
    served.fake.change(|snapshot| {
        snapshot.targets[0].health.verdict = Verdict::Unchecked;
        snapshot.targets[0].admin.state = AdminState::Maintenance;
    });
    let text = run(&served.socket, &["targets", "web/a"]).await.out;
    assert!(text.contains("health      not checked\nstate       maintenance\n"), "{text}");
}

#[tokio::test]
async fn flows_are_a_table() {
    let served = steady().await;
    assert_prints(&run(&served.socket, &["flows", "--client", "192.0.2.0/31"]).await, FLOWS);
}

const FLOWS: &str = "\
SERVICE  CLIENT          VIP               SOURCE          TARGET  STATE          AGE   IDLE  PACKETS IN  BYTES IN  PACKETS OUT  BYTES OUT
web      192.0.2.0:4000  tcp 10.0.0.10:80  10.0.0.2:20000  web/a   handshake    1h 1m  250ms          10   1.5 KiB            8   10.0 MiB
web      192.0.2.1:4000  tcp 10.0.0.10:80  10.0.0.2:20001  web/c   established  1h 1m  250ms          10   1.5 KiB            8   10.0 MiB
";

#[tokio::test]
async fn drops_are_tables() {
    let served = steady().await;
    assert_prints(&run(&served.socket, &["drops"]).await, DROPS);
    let all = run(&served.socket, &["drops", "--all"]).await.out;
    assert!(all.contains("flow_table_full        0  -"), "{all}");
}

const DROPS: &str = "\
OUTCOME    VERDICT        PACKETS  MEANING
passed     not_ours         1,000  to no address of ours
forwarded  transmitted  2,469,134  forwarded

DROPPED FOR      PACKETS  LAST       MEANING
access_denied         42  3h 1m ago  the source may not connect: see the service's `allow`
undeclared_port        3  3h 1m ago  no service has this port of the virtual address

NOT TRANSMITTED BY  PACKETS
eth0                      5
";

#[tokio::test]
async fn events_are_lines() {
    let served = steady().await;
    assert_prints(&run(&served.socket, &["events"]).await, EVENTS);
}

const EVENTS: &str = "\
2026-03-04 05:06:07  agent                  lbd                   lbd 0.1.0 started
2026-03-04 05:06:07  target-up              web/a                 up: 200 OK
2026-03-04 05:06:07  target-down            web/c                 down: connection refused
";

#[tokio::test]
async fn flows_are_fetched_page_by_page_up_to_the_limit() {
    let served = serve().await;
    let ran = run(&served.socket, &["flows", "-o", "json", "--limit", "120"]).await;
    let flows: Vec<FlowView> = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(flows, sample::flows(120));
    assert_eq!(ran.err, "more flows match than these 120: show more with --limit\n");
    let ran = run(&served.socket, &["flows", "-o", "json", "--limit", "100000", "--target", "web/c"]).await;
    assert_eq!(serde_json::from_str::<Vec<FlowView>>(&ran.out).unwrap().len(), 125);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    let ran = run(&served.socket, &["flows", "--state", "closing"]).await;
    assert_eq!(ran.out, "no flows\n");
}

#[tokio::test]
async fn flows_at_work_are_shown_first_and_the_newest_of_them() {
    let served = serve().await;
    served.fake.show_flows(vec![
        FlowView { state: FlowState::TimeWait, age_seconds: Some(1.0), ..sample::flows(1)[0].clone() },
        FlowView { state: FlowState::Established, age_seconds: Some(9.0), ..sample::flows(1)[0].clone() },
        FlowView { state: FlowState::Established, age_seconds: Some(2.0), ..sample::flows(1)[0].clone() },
        FlowView { state: FlowState::Closing, age_seconds: Some(4.0), ..sample::flows(1)[0].clone() },
    ]);
    let ran = run(&served.socket, &["flows", "-o", "json"]).await;
    let flows: Vec<FlowView> = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(flows.iter().map(|flow| flow.age_seconds.unwrap()).collect::<Vec<_>>(), [2.0, 4.0, 9.0, 1.0]);
}

#[tokio::test]
async fn json_and_yaml_say_the_same_as_the_api() {
    let served = serve().await;
    let whole = sample::snapshot();
    let json = run(&served.socket, &["status", "-o", "json"]).await.out;
    assert_eq!(serde_json::from_str::<Status>(&json).unwrap(), whole.status);
    let yaml = run(&served.socket, &["-o", "yaml", "targets"]).await.out;
    assert_eq!(serde_saphyr::from_str::<Vec<TargetView>>(&yaml).unwrap(), whole.targets);
    let tcp = served.address.to_string();
    let json = run(Path::new("/nowhere"), &["--address", &tcp, "services", "--output=json"]).await.out;
    assert_eq!(serde_json::from_str::<Vec<ServiceView>>(&json).unwrap(), whole.services);
}

#[tokio::test]
async fn colours_are_for_terminals_or_on_demand() {
    let served = serve().await;
    let coloured = run(&served.socket, &["services", "--color", "always"]).await.out;
    assert!(coloured.contains("\x1b[33mdegraded\x1b[0m"), "{coloured:?}");
    let plain = run(&served.socket, &["services"]).await.out;
    assert_eq!(console::strip_ansi_codes(&coloured), plain, "colours do not move the columns");
    assert!(!plain.contains('\x1b'));
}

#[tokio::test]
async fn the_last_line_of_help_lists_the_exit_codes() {
    let ran = run(Path::new("/nowhere"), &["--help"]).await;
    assert_eq!(ran.code, 0);
    assert!(ran.out.contains("  5  there is no such service, group or target"), "{}", ran.out);
}

#[tokio::test]
async fn exit_codes_tell_what_went_wrong() {
    let served = serve().await;
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let stale = folder.path().join("stale.sock");
    drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
    let absent = folder.path().join("absent.sock");
    let (faulty, good) = (file("faulty.yaml", "fault"), file("good.yaml", "a: 1"));
    let socket = served.socket.as_path();
    let tcp = served.address.to_string();
    let cases: &[(&Path, &[&str], i32, &str)] = &[
        (socket, &["statuses"], 2, "unrecognized subcommand"),
        (socket, &["drain", "web"], 2, "GROUP/TARGET"),
        (socket, &["drain", "web/a", "--deadline", "soon"], 2, "is not a time"),
        (socket, &["flows", "--client", "10.0.0.0/40"], 2, "neither an address nor a prefix"),
        (socket, &["flows", "--state", "open"], 2, "time-wait"),
        (socket, &["events", "--watch"], 2, "--watch"),
        (socket, &["status", "--watch=0"], 2, "at least 0.1 seconds"),
        (socket, &["status", "--address", "https://a:1"], 2, "https is not supported"),
        (socket, &["apply", "/nowhere/at/all.yaml"], 2, "cannot read /nowhere/at/all.yaml"),
        (&absent, &["status"], 3, "no such file; is lbd running?"),
        (&stale, &["status"], 3, "nobody answers on it"),
        (socket, &["apply", &faulty], 4, "services[0].port: 70000 is not a port"),
        (socket, &["targets", "none"], 5, "there is no group `none`"),
        (socket, &["targets", "web/"], 2, "a name is missing"),
        (socket, &["flows", "--target", "/a"], 2, "a name is missing"),
        (socket, &["flows", "--service", "nope"], 5, "there is no service `nope`"),
        (socket, &["flows", "--target", "web/nope"], 5, "there is no target `web/nope`"),
        (socket, &["targets", "web/z"], 5, "there is no target `web/z`"),
        (socket, &["ready", "web/z"], 5, "there is no target `web/z`"),
        (socket, &["apply", &good, "--if-revision", "3"], 1, "revision 7 is in force"),
        (socket, &["--address", &tcp, "apply", &good], 1, "use the Unix socket"),
    ];
    for (socket, args, code, message) in cases {
        let ran = run(socket, args).await;
        assert_eq!(ran.code, *code, "{args:?}: {}", ran.err);
        assert!(ran.err.contains(message), "{args:?}: {message:?} is not in {:?}", ran.err);
        assert_eq!(ran.out, "", "{args:?}");
    }
    served.fake.misbehave(Some(Misbehaviour::Panic));
    assert_eq!(run(socket, &["status"]).await.code, 1);
    served.fake.misbehave(Some(Misbehaviour::Hang));
    let ran = run(socket, &["status", "--timeout", "0.2"]).await;
    assert_eq!(ran.code, 3, "{}", ran.err);
}

#[tokio::test]
async fn faults_are_printed_with_their_place() {
    let served = serve().await;
    let mut child = lbctl(&served.socket, &["apply", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"fault").await.unwrap();
    let ran = ended(child).await;
    assert_eq!(
        ran.err,
        "<stdin>:3:11: services[0].port: 70000 is not a port\n    give a number from 1 to 65535\n\
         <stdin>: there is no interface\n\
         error: the configuration has 2 faults; nothing was changed\n"
    );
    assert_eq!(ran.code, 4);
}

#[tokio::test]
async fn reasons_are_printed_a_line_each() {
    let served = serve().await;
    let reasons = ["5 services; there is room for 4", "9 targets; there is room for 8"].map(str::to_owned);
    served.fake.misbehave(Some(Misbehaviour::Fail(BackendError::Refused(reasons.to_vec()))));
    let ran = run(&served.socket, &["apply", "/dev/null"]).await;
    assert_eq!(
        (ran.code, ran.err.as_str()),
        (1, "error: 5 services; there is room for 4\nerror: 9 targets; there is room for 8\n")
    );
}

#[tokio::test]
async fn apply_shows_what_changes() {
    let served = serve().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lb.yaml");
    std::fs::write(&path, "interfaces: [eth1]\n").unwrap();
    let file = path.display().to_string();
    let changes = "+ service new\n~ target web/a: weight 2 → 3\n\
                   warning: limits.flows takes effect when the maps are made anew\n";
    let checked = run(&served.socket, &["apply", &file, "--dry-run"]).await;
    assert_prints(&checked, &format!("{changes}2 changes to make, none made; revision 7 is in force\n"));
    let applied = run(&served.socket, &["apply", &file, "--if-revision", "7"]).await;
    assert_prints(&applied, &format!("{changes}2 changes made; revision 8 is in force\n"));
    assert_eq!(served.fake.in_force().source, file);
    let again = run(&served.socket, &["apply", &file]).await.out;
    assert!(again.ends_with("nothing to change; revision 8 is in force\n"), "{again}");
    std::fs::write(&path, "interfaces: [eth1] # a comment\n").unwrap();
    let noted = run(&served.socket, &["apply", &file]).await.out;
    assert!(noted.ends_with("only the text is another; revision 9 is in force\n"), "{noted}");
}

#[tokio::test]
async fn targets_change_their_state() {
    let served = serve().await;
    let ran = run(&served.socket, &["drain", "web/a", "--deadline", "5m"]).await;
    assert_prints(&ran, "web/a is draining: 4 flows left\n");
    let drained = served.fake.target("web", "a").unwrap();
    assert_eq!(drained.admin.deadline, Some(sample::moment() + SignedDuration::from_secs(300)));
    assert_prints(&run(&served.socket, &["maintenance", "web/a"]).await, "web/a is in maintenance\n");
    assert_prints(&run(&served.socket, &["ready", "web/a"]).await, "web/a is ready\n");
    assert_prints(
        &run(&served.socket, &["ready", "web/c"]).await,
        "web/c is already ready, but takes no new flows yet: down\n",
    );
}

#[tokio::test]
async fn drain_waits_for_the_last_flow() {
    let served = serve().await;
    let args = ["drain", "web/a", "--wait", "--deadline", "999999999"];
    let waiting = tokio::spawn(ended(lbctl(&served.socket, &args[..3]).spawn().unwrap()));
    let set = async |state: AdminState| {
        let draining = || served.fake.target("web", "a").unwrap().admin.state == AdminState::Draining;
        while !draining() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        served.fake.change(|snapshot| {
            snapshot.targets[0].admin.deadline = None;
            snapshot.targets[0].admin.remaining_flows = Some(1);
        });
        tokio::time::sleep(Duration::from_millis(700)).await;
        if state == AdminState::Drained {
            let told = "drained: the deadline passed, 1 flow ended";
            served.fake.happen(EventKind::TargetDrained, "web/a", told);
        }
        served.fake.change(|snapshot| snapshot.targets[0].admin.state = state);
    };
    set(AdminState::Drained).await;
    let ran = waiting.await.unwrap();
    assert_prints(
        &ran,
        "web/a is draining: 4 flows left\nweb/a is drained: the deadline passed, 1 flow ended\n",
    );
    let waiting = tokio::spawn(ended(lbctl(&served.socket, &args[..3]).spawn().unwrap()));
    set(AdminState::Ready).await;
    let ran = waiting.await.unwrap();
    assert_eq!((ran.code, ran.err.as_str()), (1, "error: web/a was made ready meanwhile\n"));
}

#[tokio::test]
async fn events_are_followed_across_a_restart() {
    let mut served = serve().await;
    let mut child = lbctl(&served.socket, &["events", "--follow", "-o", "json"]).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut remarks = BufReader::new(child.stderr.take().unwrap()).lines();
    for id in 1..=3 {
        let line = tokio::time::timeout(PATIENCE, lines.next_line()).await.unwrap().unwrap().unwrap();
        assert!(line.starts_with(&format!("{{\"id\":{id},")), "{line}");
    }
    served.stop().await;
    let remark = tokio::time::timeout(PATIENCE, remarks.next_line()).await.unwrap().unwrap().unwrap();
    assert!(remark.ends_with("is gone; waiting for it"), "{remark}");
    served.start_again().await;
    served.fake.happen(EventKind::TargetUp, "web/c", "up: 200 OK");
    let line = tokio::time::timeout(PATIENCE, lines.next_line()).await.unwrap().unwrap().unwrap();
    assert!(line.contains("\"kind\":\"target-up\",\"subject\":\"web/c\""), "{line}");
}

#[tokio::test]
async fn a_watch_shows_it_again() {
    let served = serve().await;
    let mut child = lbctl(&served.socket, &["services", "--watch=0.1", "-o", "json"]).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    for _ in 0..3 {
        let line = tokio::time::timeout(PATIENCE, lines.next_line()).await.unwrap().unwrap().unwrap();
        assert_eq!(serde_json::from_str::<Vec<ServiceView>>(&line).unwrap().len(), 2);
    }
}

#[tokio::test]
async fn a_watch_that_is_piped_outlives_a_restart() {
    let mut served = serve().await;
    let mut child = lbctl(&served.socket, &["services", "--watch=0.1", "-o", "json"]).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut remarks = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(tokio::time::timeout(PATIENCE, lines.next_line()).await.unwrap().unwrap().is_some());
    served.stop().await;
    let remark = tokio::time::timeout(PATIENCE, remarks.next_line()).await.unwrap().unwrap().unwrap();
    assert!(remark.ends_with("; trying again"), "{remark}");
    served.start_again().await;
    served.fake.change(|snapshot| snapshot.services.truncate(1));
    loop {
        let line = tokio::time::timeout(PATIENCE, lines.next_line()).await.unwrap().unwrap().unwrap();
        if serde_json::from_str::<Vec<ServiceView>>(&line).unwrap().len() == 1 {
            break;
        }
    }
}

#[tokio::test]
async fn a_reader_that_has_seen_enough_is_no_error() {
    let served = serve().await;
    let mut child = lbctl(&served.socket, &["services", "--watch=0.1"]).spawn().unwrap();
    drop(child.stdout.take());
    let ran = ended(child).await;
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
}

#[tokio::test]
async fn versions_of_both_are_shown() {
    let served = serve().await;
    let own = env!("CARGO_PKG_VERSION");
    let both = format!("lbctl  {own}\nlbd    0.1.0, API v1, ABI 1\n");
    assert_prints(&run(&served.socket, &["version"]).await, &both);
    let ran = run(Path::new("/nowhere/lbd.sock"), &["version"]).await;
    assert_eq!((ran.code, ran.out), (3, format!("lbctl  {own}\n")));
}

#[tokio::test]
async fn completions_name_the_commands() {
    for shell in ["bash", "zsh", "fish"] {
        let ran = run(Path::new("/nowhere"), &["completions", shell]).await;
        assert_eq!(ran.code, 0);
        assert!(ran.out.contains("maintenance"), "{shell}");
    }
}
