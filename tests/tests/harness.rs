//! The harness itself: what the suites stand on does what it says, without any balancer.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};
use lb_tests::{
    guard,
    http::{Load, Servers},
    netns::{self, NetNs},
    ping::ping,
    process::Process,
    require, testbed,
    topology::{Family, INTERFACE, Shape, Topology},
    transfer::{self, UploadServer},
    udp::{self, UdpServer},
};
use nix::sys::{
    resource::{UsageWho, getrusage},
    signal::Signal,
    time::TimeVal,
};

const PORT: u16 = 8080;

#[test]
fn a_direct_client_reaches_every_target_in_every_shape() -> Result<()> {
    require::everything()?;
    let _alone = require::alone();
    for shape in Shape::ALL {
        let topology = Topology::new(shape)?;
        let servers = Servers::start(&topology, PORT)?;
        let _udp = UdpServer::on_all(&topology, PORT)?;
        // On another interface of the balancer, only the balancer has a way to the targets.
        let from = if shape == Shape::OtherInterface { &topology.balancer } else { &topology.client };
        for family in Family::BOTH {
            for (target, server) in topology.targets.iter().zip(&servers.all) {
                let to = target.address(family, PORT);
                let report = Load::to(to).count(20).concurrency(4).run(&from.ns);
                let report = report.with_context(|| format!("{shape:?}, {to}"))?;
                report.expect_no_failures().with_context(|| format!("{shape:?}, {to}"))?;
                assert_eq!(report.spread().get(server.name()), Some(&20), "{shape:?} {to}: {report}");
                for size in [64, 1400] {
                    let spread =
                        udp::exchanges(&from.ns, to, 5, size).with_context(|| format!("{shape:?}, {to}"))?;
                    assert_eq!(spread.get(&target.name), Some(&5));
                }
            }
        }
    }
    Ok(())
}

#[test]
fn the_load_generator_is_fast_enough_and_exact() -> Result<()> {
    require::everything()?;
    let _alone = require::alone();
    let topology = Topology::new(Shape::SameLink)?;
    let _servers = Servers::start(&topology, PORT)?;
    let to = topology.targets[0].address(Family::V4, PORT);
    let before = processor_time()?;
    let report = Load::to(to).count(20_000).concurrency(128).rate(4000.0).run(&topology.client.ns)?;
    // Processor time, for the rate depends on what else the machine does. It leaves half of two cores at 4,000 a second.
    let each = (processor_time()? - before) / 20_000;
    eprintln!("{each:?} of processor time each; {report}");
    report.expect_no_failures()?;
    assert_eq!(report.total(), 20_000);
    ensure!(each < Duration::from_micros(250), "{each:?} of processor time for each request");
    ensure!(report.rate() < 4_100.0, "faster than asked: {report}");
    let report = Load::to(to).count(10_000).concurrency(16).keep_alive().run(&topology.client.ns)?;
    eprintln!("{report}");
    report.expect_no_failures()?;
    assert_eq!(report.spread().values().sum::<u64>(), 10_000);
    Ok(())
}

/// Of this process: the load generator with its part of the network stack, without the servers.
fn processor_time() -> Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let time = |value: TimeVal| -> Result<Duration> {
        Ok(Duration::new(value.tv_sec().try_into()?, u32::try_from(value.tv_usec())? * 1000))
    };
    Ok(time(usage.user_time())? + time(usage.system_time())?)
}

#[test]
fn the_load_generator_counts_what_a_killed_server_costs() -> Result<()> {
    require::everything()?;
    let _alone = require::alone();
    let topology = Topology::new(Shape::SameLink)?;
    let mut servers = Servers::start(&topology, PORT)?;
    let to = topology.targets[0].address(Family::V4, PORT);
    let load = Load::to(to).rate(500.0).concurrency(32).start(&topology.client.ns)?;
    load.let_run(Duration::from_secs(1))?;
    let (before, killed) = (load.report(), load.elapsed());
    before.expect_no_failures()?;
    ensure!(before.total() > 400, "too few: {before}");
    servers.all[0].kill();
    load.let_run(Duration::from_secs(1))?;
    let again = load.elapsed();
    servers.all[0].start_again(&topology.targets[0])?;
    let back = load.elapsed();
    load.let_run(Duration::from_secs(1))?;
    let report = load.finish()?;
    eprintln!("{report}");
    let down = report.started_between(killed + Duration::from_millis(50), again);
    ensure!(down.total() > 400, "too few while down: {down}");
    assert_eq!(down.failures().len(), down.total(), "{down}");
    ensure!(down.failures()[0].error.contains("refused"), "{down}");
    report.started_between(back, report.elapsed).expect_no_failures()
}

#[test]
fn a_request_without_an_answer_fails_at_its_timeout() -> Result<()> {
    require::everything()?;
    let topology = Topology::build(Shape::SameLink, 1, None)?;
    // Nobody has the address of a tenth target.
    let nobody = "10.10.0.30:8080".parse()?;
    let limit = Duration::from_millis(300);
    let report = Load::to(nobody).count(3).concurrency(3).timeout(limit).run(&topology.client.ns)?;
    let failures = report.failures();
    assert_eq!(failures.len(), 3, "{report}");
    ensure!(failures.iter().all(|failure| failure.latency >= limit), "{report}");
    ensure!(failures[0].error.contains("connecting"), "{report}");
    Ok(())
}

#[test]
fn a_source_address_can_be_chosen() -> Result<()> {
    require::everything()?;
    let topology = Topology::build(Shape::SameLink, 1, None)?;
    let _servers = Servers::start(&topology, PORT)?;
    // The target knows the client's first address only: from the second nothing comes back.
    let target = &topology.targets[0];
    for family in Family::BOTH {
        let other = topology.other_client(family);
        let family_flag = if other.is_ipv4() { "-4" } else { "-6" };
        target.ns.exec("ip", &[family_flag, "route", "add", "blackhole", &other.to_string()])?;
        let load = Load::to(target.address(family, PORT)).count(1).timeout(Duration::from_millis(500));
        load.clone().run(&topology.client.ns)?.expect_no_failures()?;
        assert_eq!(load.from(other).run(&topology.client.ns)?.failures().len(), 1);
    }
    Ok(())
}

#[test]
fn large_transfers_arrive_whole() -> Result<()> {
    require::everything()?;
    let _alone = require::alone();
    const SIZE: u64 = (64 << 20) + 4321;
    let topology = Topology::build(Shape::SameLink, 1, None)?;
    let servers = Servers::with_file(&topology, PORT, SIZE)?;
    let target = &topology.targets[0];
    let _uploads = UploadServer::start(&target.ns, &target.name, 8081)?;
    for family in Family::BOTH {
        let from = target.address(family, PORT);
        let begun = Instant::now();
        let got = topology.client.ns.block_on(|| transfer::download(from, "/big", |_| ()))??;
        eprintln!("download: {:?}", begun.elapsed());
        assert_eq!((got.size, &got.target), (SIZE, &target.name));
        assert_eq!(Some(got.digest), servers.digest);
        let begun = Instant::now();
        let to = target.address(family, 8081);
        let name = topology.client.ns.block_on(|| transfer::upload(to, SIZE))??;
        eprintln!("upload: {:?}", begun.elapsed());
        assert_eq!(name, target.name);
    }
    Ok(())
}

#[test]
fn frames_from_hosts_have_whole_checksums_and_mac_addresses_can_change() -> Result<()> {
    require::everything()?;
    let topology = Topology::build(Shape::SameLink, 1, None)?;
    for host in [&topology.client, &topology.balancer, &topology.targets[0]] {
        let features = host.ns.exec("ethtool", &["-k", INTERFACE])?;
        ensure!(features.contains("tx-checksumming: off"), "{}: {features}", host.name);
    }
    let host = &topology.targets[0];
    let new = "02:00:00:00:00:aa";
    assert_ne!(host.mac(INTERFACE)?, new);
    host.set_mac(INTERFACE, new)?;
    assert_eq!(host.mac(INTERFACE)?, new);
    Ok(())
}

#[test]
fn everything_is_gone_after_drop_and_after_a_panic() -> Result<()> {
    require::everything()?;
    let gone = |names: &[String], pids: &[u32]| -> Result<()> {
        for name in names {
            ensure!(!netns::exists(name), "{name} is still there");
        }
        for pid in pids {
            ensure!(!Path::new("/proc").join(pid.to_string()).exists(), "process {pid} still runs");
        }
        Ok(())
    };
    let make = || -> Result<(Topology, Servers, Vec<String>, Vec<u32>)> {
        let topology = Topology::build(Shape::BehindRouter, 1, None)?;
        let servers = Servers::start(&topology, PORT)?;
        let names = topology.namespaces().map(|ns| ns.name().to_owned()).collect();
        let pids = servers.all.iter().filter_map(lb_tests::http::HttpServer::pid).collect();
        Ok((topology, servers, names, pids))
    };

    let (topology, servers, names, pids) = make()?;
    ensure!(names.iter().all(|name| netns::exists(name)) && pids.len() == 1 && names.len() == 6, "{names:?}");
    drop((topology, servers));
    gone(&names, &pids)?;

    let mut seen = None;
    let result = catch_unwind(AssertUnwindSafe(|| {
        let (_topology, _servers, names, pids) = make().unwrap();
        seen = Some((names, pids));
        panic!("on purpose");
    }));
    ensure!(result.is_err(), "the panic was lost");
    let (names, pids) = seen.context("nothing was made")?;
    gone(&names, &pids)
}

#[test]
fn the_standard_configuration_is_accepted_in_every_shape() -> Result<()> {
    require::everything()?;
    for shape in Shape::ALL {
        let topology = Topology::new(shape)?;
        let config = format!("{:#}", testbed::standard(&topology));
        let checked =
            lb_userspace::config::parse(&config, "standard").map_err(|faults| anyhow!("{faults}"))?;
        ensure!(checked.warnings.is_empty(), "{:?}", checked.warnings);
        assert_eq!((checked.config.services.len(), checked.config.groups.len()), (6, 6));
        // The balancer has what the configuration says it has.
        let addresses = topology.balancer.ns.exec("ip", &["address", "show"])?;
        for family in Family::BOTH {
            for address in topology.snat_pool(family) {
                ensure!(addresses.contains(&format!(" {address}/")), "no {address} in {addresses}");
            }
        }
    }
    Ok(())
}

#[test]
fn an_echo_request_is_answered_by_whom_it_is_for() -> Result<()> {
    require::everything()?;
    let topology = Topology::build(Shape::SameLink, 1, None)?;
    let (client, target) = (&topology.client, &topology.targets[0]);
    for family in Family::BOTH {
        let (from, to) = (client.address(family, 0).ip(), target.address(family, 0).ip());
        ping(&client.ns, from, to, Duration::from_secs(2))?;
        let nobody = topology.snat_pool(family)[0];
        topology.balancer.ns.ip_batch(&format!("link set {INTERFACE} down\n"))?;
        ensure!(ping(&client.ns, from, nobody, Duration::from_millis(200)).is_err(), "{nobody} answered");
        topology.balancer.ns.ip_batch(&format!("link set {INTERFACE} up\n"))?;
    }
    Ok(())
}

#[test]
fn a_panic_inside_a_namespace_is_passed_on() -> Result<()> {
    require::root()?;
    let ns = NetNs::new("panic")?;
    let result = catch_unwind(AssertUnwindSafe(|| ns.run(|| panic!("inside"))));
    let payload = result.err().context("the panic was lost")?;
    assert_eq!(payload.downcast_ref::<&str>(), Some(&"inside"));
    Ok(())
}

#[test]
fn a_guard_undoes_once_and_a_kept_one_never() {
    use std::sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    };
    let count = Arc::new(AtomicU32::new(0));
    let guarded = || {
        let count = Arc::clone(&count);
        guard::Guard::new(move || {
            count.fetch_add(1, Ordering::Relaxed);
        })
    };
    drop(guarded());
    assert_eq!(count.load(Ordering::Relaxed), 1);
    let kept = guarded();
    kept.keep();
    drop(kept);
    assert_eq!(count.load(Ordering::Relaxed), 1);
}

#[test]
fn children_are_killed_and_reaped_when_dropped() -> Result<()> {
    require::root()?;
    let ns = NetNs::new("child")?;
    let child = ns.spawn("sleep", &["1000"], None)?;
    let proc = Path::new("/proc").join(child.pid().to_string());
    ensure!(proc.exists() && child.is_running(), "it does not run");
    ensure!(child.wait(Duration::from_millis(20))?.is_none(), "it ended");
    drop(child);
    ensure!(!proc.exists(), "it still runs, or is not reaped");

    let child: Process = ns.spawn("true", &[], None)?;
    ensure!(child.wait(Duration::from_secs(5))?.is_some_and(|status| status.success()), "no success");
    ensure!(child.signal(Signal::SIGTERM).is_err(), "a signal to an ended child");
    let slow = ns.exec("sleep", &["0.01"]);
    thread::yield_now();
    slow.map(drop)
}
