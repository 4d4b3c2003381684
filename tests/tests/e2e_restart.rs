//! The data plane outlives the control plane: agents that die, stop, are replaced, under load.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use lb_tests::{
    http::{Report, Running},
    lbd::binary,
    require,
    testbed::{SOON, Testbed, WEB, entry},
    topology::{Family, INTERFACE, Shape, VIP4},
    transfer, upgrade,
};
use nix::sys::signal::Signal;
use serde_json::Value;

/// New connections a second, at least, of both families together.
const RATE: f64 = 3_000.0;
/// How long the data plane is left alone.
const WITHOUT: Duration = Duration::from_secs(60);

/// None failed in this phase, and there were as many as there should be.
fn expect_no_failures(reports: &[&Report], from: Duration, to: Duration, phase: &str) -> Result<()> {
    let mut total = 0;
    for report in reports {
        let part = report.started_between(from, to);
        part.expect_no_failures().with_context(|| phase.to_owned())?;
        total += part.total();
    }
    let rate = total as f64 / (to - from).as_secs_f64();
    eprintln!("{phase}: {total} requests, {rate:.0}/s");
    ensure!(
        rate >= RATE,
        "{phase}: {rate:.0} new connections a second are too few to tell; is the machine busy?"
    );
    Ok(())
}

/// Loads of both families, at the rate together that [`expect_no_failures`] asks for.
fn loads(bed: &Testbed) -> Result<[Running; 2]> {
    let start = |family| bed.load(family).rate(0.55 * RATE).concurrency(128).start(&bed.topology.client.ns);
    Ok([start(Family::V4)?, start(Family::V6)?])
}

fn let_run(loads: &[Running; 2], time: Duration) -> Result<()> {
    thread::sleep(time);
    loads.iter().try_for_each(|load| load.let_run(Duration::ZERO))
}

/// Ends the loads, none of whose requests may have failed; each phase has its name and its end.
fn finish(loads: [Running; 2], phases: [(&str, Duration); 3]) -> Result<[Report; 2]> {
    let [v4, v6] = loads.map(Running::finish);
    let (v4, v6) = (v4?, v6?);
    eprintln!("IPv4: {v4}\nIPv6: {v6}");
    let reports = [&v4, &v6];
    let mut from = Duration::ZERO;
    for (phase, to) in phases {
        expect_no_failures(&reports, from, to, phase)?;
        from = to;
    }
    reports.iter().try_for_each(|report| report.expect_no_failures())?;
    Ok([v4, v6])
}

#[test]
fn an_agent_killed_under_load_and_a_minute_without_cost_no_request() -> Result<()> {
    let _alone = require::alone();
    let mut bed = Testbed::new(Shape::SameLink, |_| Ok(()))?;
    let loads = loads(&bed)?;
    let_run(&loads, Duration::from_secs(5))?;
    bed.lbd.kill()?;
    let killed = loads[0].elapsed();
    let_run(&loads, WITHOUT)?;
    let restarted = loads[0].elapsed();
    bed.lbd.restart(&bed.topology.balancer)?;
    let_run(&loads, Duration::from_secs(5))?;
    let ended = loads[0].elapsed();

    let phases =
        [("with the agent", killed), ("without the agent", restarted), ("with the agent again", ended)];
    let [v4, _] = finish(loads, phases)?;

    // By now source ports were used again: no target still held one in TIME_WAIT and refused the SYN.
    for target in &bed.topology.targets {
        assert_eq!(target.ns.counter("TcpExtPAWSTimewait")?, 0, "{}", target.name);
    }

    // It took over what it found: the same program, the same counters.
    let status = bed.lbd.get("/v1/status")?;
    assert_eq!(status["interfaces"][0]["adopted"], true, "{status:#}");
    assert_eq!(bed.service_counter("web-v4", "new_flows")?, v4.total() as u64);
    Ok(())
}

#[test]
fn an_upgrade_that_replaces_the_program_keeps_flows_and_costs_no_request() -> Result<()> {
    let _alone = require::alone();
    // A download of ten seconds through the upgrade.
    let mut bed = Testbed::with_file(Shape::SameLink, 10 * transfer::SLOW_RATE, |_| Ok(()))?;
    let tag = |bed: &Testbed| -> Result<Value> {
        let interface = bed.lbd.get("/v1/status")?["interfaces"][0].clone();
        ensure!(interface["program_tag"].is_string(), "no tag: {interface:#}");
        Ok(interface["program_tag"].clone())
    };
    let other = bed.lbd.scratch("other-lbd");
    upgrade::other_lbd(&binary("lbd")?, &other)?;
    let before = tag(&bed)?;

    let loads = loads(&bed)?;
    let downloads = Family::BOTH.map(|family| {
        let from = family.vip(WEB);
        bed.topology
            .client
            .ns
            .spawn_task(move || async move { transfer::download(from, "/slow", |_| ()).await })
    });
    let_run(&loads, Duration::from_secs(5))?;
    let begun = loads[0].elapsed();
    bed.lbd.stop()?;
    bed.lbd.set_program(&other);
    bed.lbd.restart(&bed.topology.balancer)?;
    let upgraded = loads[0].elapsed();
    assert_ne!(tag(&bed)?, before, "the program was not replaced");
    let_run(&loads, Duration::from_secs(10))?;
    let ended = loads[0].elapsed();

    let phases =
        [("before the upgrade", begun), ("during the upgrade", upgraded), ("after the upgrade", ended)];
    let [v4, _] = finish(loads, phases)?;
    for download in downloads {
        let got = download?.join()?.context("a download through the upgrade")?;
        assert_eq!(Some(got.digest), bed.servers.digest);
    }
    assert_eq!(bed.service_counter("web-v4", "new_flows")?, v4.total() as u64 + 1);
    Ok(())
}

#[test]
fn a_download_goes_on_while_agents_come_and_go() -> Result<()> {
    let _alone = require::alone();
    // At 8 MiB/s: ten seconds.
    let bed = &mut Testbed::with_file(Shape::SameLink, 10 * transfer::SLOW_RATE, |_| Ok(()))?;
    let downloads = Family::BOTH.map(|family| {
        let from = family.vip(WEB);
        bed.topology
            .client
            .ns
            .spawn_task(move || async move { transfer::download(from, "/slow", |_| ()).await })
    });
    thread::sleep(Duration::from_secs(1));
    bed.lbd.kill()?;
    thread::sleep(Duration::from_secs(1));
    bed.lbd.restart(&bed.topology.balancer)?;
    bed.lbd.stop()?;
    thread::sleep(Duration::from_secs(1));
    bed.lbd.restart(&bed.topology.balancer)?;
    for download in downloads {
        let got = download?.join()??;
        assert_eq!(Some(got.digest), bed.servers.digest);
    }
    Ok(())
}

#[test]
fn a_stopped_agent_leaves_the_data_plane_and_unload_removes_every_trace() -> Result<()> {
    let _alone = require::alone();
    let mut bed = Testbed::new(Shape::SameLink, |_| Ok(()))?;
    let balancer = &bed.topology.balancer;
    let client = &bed.topology.client.ns;
    bed.lbd.stop()?;
    for family in Family::BOTH {
        bed.load(family).count(500).run(client)?.expect_no_failures()?;
    }
    ensure!(bed.lbd.pins().exists(), "nothing is pinned");

    bed.lbd.unload(balancer)?;
    ensure!(!bed.lbd.pins().exists(), "{} is still there", bed.lbd.pins().display());
    let link = balancer.ns.exec("ip", &["-details", "link", "show", "dev", INTERFACE])?;
    ensure!(!link.contains("xdp"), "a program is still attached: {link}");
    let addresses = balancer.ns.exec("ip", &["address", "show"])?;
    ensure!(!addresses.contains(&VIP4.to_string()), "the VIP is still there: {addresses}");
    assert_eq!(balancer.ns.read_sysctl("net.ipv4.ip_local_reserved_ports")?, "");
    let limit = Duration::from_millis(500);
    assert_eq!(bed.load(Family::V4).count(1).timeout(limit).run(client)?.failures().len(), 1);

    // And it can be started again from nothing.
    bed.lbd.restart(balancer)?;
    bed.wait_until_all_take_flows("web-v4")?;
    bed.load(Family::V4).count(500).run(client)?.expect_no_failures()
}

#[test]
fn a_stop_under_load_costs_no_request() -> Result<()> {
    let _alone = require::alone();
    let mut bed = Testbed::new(Shape::SameLink, |_| Ok(()))?;
    let load = bed.load(Family::V4).concurrency(16).start(&bed.topology.client.ns)?;
    for _ in 0..3 {
        load.let_run(Duration::from_secs(1))?;
        bed.lbd.stop()?;
        load.let_run(Duration::from_secs(1))?;
        bed.lbd.restart(&bed.topology.balancer)?;
    }
    load.finish()?.expect_no_failures()
}

#[test]
fn administrative_states_survive_a_restart() -> Result<()> {
    let _alone = require::alone();
    let mut bed = Testbed::new(Shape::SameLink, |_| Ok(()))?;
    let names: Vec<String> = bed.topology.targets.iter().map(|host| host.name.clone()).collect();
    bed.set_state("web-v4", &names[0], "drain")?;
    bed.set_state("web-v4", &names[1], "maintenance")?;
    let load = bed.load(Family::V4).concurrency(16).start(&bed.topology.client.ns)?;
    bed.lbd.kill()?;
    bed.lbd.restart(&bed.topology.balancer)?;
    load.let_run(Duration::from_secs(1))?;
    let report = load.finish()?;
    report.expect_no_failures()?;
    let spread = report.spread();
    ensure!(!spread.contains_key(&names[0]) && !spread.contains_key(&names[1]), "{report}");
    let state = |name: &str| Ok::<_, anyhow::Error>(bed.target("web-v4", name)?["admin"]["state"].clone());
    ensure!(
        ["draining", "drained"].iter().any(|wanted| state(&names[0]).is_ok_and(|state| state == *wanted))
    );
    assert_eq!(state(&names[1])?, "maintenance");
    assert_eq!(state(&names[2])?, "ready");
    Ok(())
}

#[test]
fn an_administrative_state_that_could_not_be_saved_survives_once_it_can_be() -> Result<()> {
    let _alone = require::alone();
    let mut bed = Testbed::new(Shape::SameLink, |_| Ok(()))?;
    let target = format!("web-v4/{}", bed.topology.targets[0].name);
    // Where the file is to be, there is a folder.
    let file = bed.lbd.scratch("state").join("target-states.json");
    fs::create_dir(&file)?;
    let failed = bed.lbd.lbctl_output(&["maintenance", &target])?;
    ensure!(!failed.status.success() && failed.stderr.contains("target-states.json"), "{failed:?}");
    let again = bed.lbd.lbctl_output(&["maintenance", &target])?;
    ensure!(!again.status.success(), "reported as done, but it is not kept: {again:?}");
    let warned = |status: &Value| status["warnings"].to_string().contains("target-states.json");
    bed.lbd.wait_for("/v1/status", SOON, warned)?;

    fs::remove_dir(&file)?;
    bed.lbd.wait_for("/v1/status", SOON, |status| !warned(status))?;
    bed.lbd.kill()?;
    bed.lbd.restart(&bed.topology.balancer)?;
    let view = bed.target("web-v4", &bed.topology.targets[0].name)?;
    assert_eq!(view["admin"]["state"], "maintenance", "{view:#}");
    Ok(())
}

#[test]
fn the_accepted_revision_is_what_a_restart_uses_and_a_hangup_reads_the_file() -> Result<()> {
    let _alone = require::alone();
    let mut bed = Testbed::new(Shape::SameLink, |_| Ok(()))?;
    let first = bed.lbd.get("/v1/status")?["revision"]["number"].as_u64().context("no revision")?;
    // A service more, through the API; the file stays as it was.
    let mut config = bed.configuration()?;
    let mut more = entry(&mut config, "services", "web-v4")?.clone();
    more["name"] = "more".into();
    more["port"] = 8888.into();
    config["services"].as_array_mut().context("no services")?.push(more);
    bed.apply(&config)?;
    let check = |bed: &Testbed, revision: u64, differs: bool| -> Result<()> {
        let status = bed.lbd.get("/v1/status")?;
        assert_eq!(status["revision"]["number"], revision, "{status:#}");
        assert_eq!(status["file"]["differs"], differs, "{status:#}");
        let report = lb_tests::http::Load::to(Family::V4.vip(8888)).count(50).run(&bed.topology.client.ns)?;
        report.expect_no_failures()
    };
    check(&bed, first + 1, true)?;
    bed.lbd.kill()?;
    bed.lbd.restart(&bed.topology.balancer)?;
    check(&bed, first + 1, true)?;

    // The file says the same now; with one target less, it is another revision.
    bed.lbd.write_config(&format!("{config:#}"))?;
    let group = entry(&mut config, "groups", "web-v4")?;
    let removed = group["targets"].as_array_mut().and_then(Vec::pop).context("no targets")?;
    bed.lbd.write_config(&format!("{config:#}"))?;
    bed.lbd.signal(Signal::SIGHUP)?;
    bed.lbd.wait_for("/v1/status", SOON, |status| status["revision"]["number"] == first + 2)?;
    check(&bed, first + 2, false)?;
    let report = bed.load(Family::V4).count(400).run(&bed.topology.client.ns)?;
    report.expect_no_failures()?;
    let name = removed["name"].as_str().context("no name")?;
    ensure!(!report.spread().contains_key(name), "a removed target got new flows: {report}");
    Ok(())
}

#[test]
fn a_restarted_agent_repairs_what_was_changed_behind_its_back() -> Result<()> {
    let _alone = require::alone();
    let mut bed = Testbed::new(Shape::SameLink, |_| Ok(()))?;
    bed.lbd.kill()?;
    // The VIP is taken off while nobody looks.
    bed.topology.balancer.ns.ip_batch(&format!("addr del {VIP4}/32 dev {INTERFACE}\n"))?;
    bed.lbd.restart(&bed.topology.balancer)?;
    let begun = Instant::now();
    let vip = format!(" {VIP4}/");
    while !bed.topology.balancer.ns.exec("ip", &["-4", "address", "show"])?.contains(&vip) {
        ensure!(begun.elapsed() < SOON, "the VIP is not back");
        thread::sleep(Duration::from_millis(50));
    }
    bed.load(Family::V4).count(200).run(&bed.topology.client.ns)?.expect_no_failures()
}
