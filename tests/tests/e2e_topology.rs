//! Networks: where targets may be, what changes under way, and who and what is let through.

use std::{
    net::IpAddr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use lb_tests::{
    http::{HttpServer, Load},
    ping::ping,
    require,
    testbed::{ECHO, SOON, Testbed, WEB, entry},
    topology::{BACK_INTERFACE, Family, Host, INTERFACE, Shape, Topology},
    transfer, udp,
};
use serde_json::{Value, json};

const SECOND: Duration = Duration::from_secs(1);
const FAMILIES: [(Family, &str); 2] = [(Family::V4, "web-v4"), (Family::V6, "web-v6")];

#[test]
fn targets_on_the_link_behind_a_router_and_on_another_interface_all_work() -> Result<()> {
    let _alone = require::alone();
    for shape in Shape::ALL {
        let bed = Testbed::new(shape, |_| Ok(()))?;
        for (family, group) in FAMILIES {
            let report = bed.load(family).count(800).concurrency(16).run(&bed.topology.client.ns)?;
            report.expect_no_failures().with_context(|| format!("{shape:?}"))?;
            assert_eq!(report.spread().len(), bed.topology.targets.len(), "{shape:?}: {report}");
            for size in [64, 1400] {
                udp::exchanges(&bed.topology.client.ns, family.vip(ECHO), 50, size)
                    .with_context(|| format!("{shape:?}"))?;
            }
            let next_hop = bed.target(group, &bed.topology.targets[0].name)?["next_hop"].clone();
            let (interface, neighbour) = match (shape, &bed.topology.router) {
                (Shape::OtherInterface, _) => ("eth1", &bed.topology.targets[0]),
                (_, Some(router)) => ("eth0", router),
                (_, None) => ("eth0", &bed.topology.targets[0]),
            };
            assert_eq!(next_hop["resolved"], true, "{shape:?}: {next_hop}");
            assert_eq!(next_hop["interface"], interface, "{shape:?}: {next_hop}");
            assert_eq!(next_hop["mac"], neighbour.mac(INTERFACE)?, "{shape:?}: {next_hop}");
            assert_eq!(next_hop.get("via").is_some(), shape == Shape::BehindRouter, "{shape:?}: {next_hop}");
        }
        let verdicts = bed.verdicts()?;
        assert_eq!(verdicts.of("redirected") > 0, shape == Shape::OtherInterface, "{shape:?}: {verdicts:?}");
        ensure!(verdicts.failures.values().all(|packets| *packets == 0), "{shape:?}: {verdicts:?}");
        ensure!(verdicts.drops.values().all(|packets| *packets == 0), "{shape:?}: {verdicts:?}");
    }
    Ok(())
}

fn a_changed_mac_address_moves_nothing(shape: Shape, whose: impl Fn(&Topology) -> &Host) -> Result<()> {
    let _alone = require::alone();
    // A download of five seconds through the change, and new connections all the while.
    let bed = Testbed::with_file(shape, 5 * transfer::SLOW_RATE, |_| Ok(()))?;
    for (round, (family, group)) in FAMILIES.into_iter().enumerate() {
        let from = family.vip(WEB);
        let client = &bed.topology.client.ns;
        let download =
            client.spawn_task(move || async move { transfer::download(from, "/slow", |_| ()).await })?;
        let load = bed.load(family).rate(200.0).concurrency(64).keep_alive().start(client)?;
        load.let_run(SECOND)?;
        let mac = format!("02:00:00:00:aa:{round:02x}");
        whose(&bed.topology).set_mac(INTERFACE, &mac)?;
        let name = &bed.topology.targets[0].name;
        let path = format!("/v1/groups/{group}/targets/{name}");
        bed.lbd.wait_for(&path, 2 * SOON, |target| target["next_hop"]["mac"] == mac.as_str())?;
        load.let_run(SECOND)?;
        load.finish()?.expect_no_failures().with_context(|| format!("{shape:?}, {family:?}"))?;
        let got = download.join()?.with_context(|| format!("{shape:?}, {family:?}: the download"))?;
        assert_eq!(Some(got.digest), bed.servers.digest);
    }
    Ok(())
}

#[test]
fn a_targets_new_mac_address_moves_no_established_flow() -> Result<()> {
    a_changed_mac_address_moves_nothing(Shape::SameLink, |topology| &topology.targets[0])
}

#[test]
fn a_routers_new_mac_address_moves_no_established_flow() -> Result<()> {
    a_changed_mac_address_moves_nothing(Shape::BehindRouter, |topology| {
        topology.router.as_ref().unwrap_or(&topology.balancer)
    })
}

#[test]
fn only_whom_the_service_allows_gets_through_and_the_longest_prefix_decides() -> Result<()> {
    let _alone = require::alone();
    let bed = Testbed::new(Shape::SameLink, |config| {
        config["segments"] =
            json!({ "clients": ["10.10.0.0/24", "fd00:10::/64"], "one": ["10.10.0.11", "fd00:10::b"] });
        // Allowed by the segment but for one address.
        for name in ["web-v4", "web-v6"] {
            let service = entry(config, "services", name)?;
            service["allow"] = json!(["clients"]);
            service["deny"] = json!(["one"]);
        }
        // Nobody, since nobody is named.
        for name in ["upload-v4", "upload-v6"] {
            entry(config, "services", name)?.as_object_mut().context("an object")?.remove("allow");
        }
        Ok(())
    })?;
    let client = &bed.topology.client.ns;
    for family in Family::BOTH {
        bed.load(family).count(50).run(client)?.expect_no_failures()?;
        for load in [
            bed.load(family).from(bed.topology.other_client(family)),
            Load::to(family.vip(lb_tests::testbed::UPLOAD)),
        ] {
            let before = bed.verdicts()?;
            let report = load.count(5).concurrency(5).timeout(Duration::from_millis(500)).run(client)?;
            assert_eq!(report.failures().len(), 5, "{family:?}: {report}");
            ensure!(report.failures()[0].error.contains("no end within"), "answered: {report}");
            let drops = bed.verdicts()?.drops_since(&before);
            ensure!(drops.len() == 1 && drops.get("access_denied") >= Some(&5), "{family:?}: {drops:?}");
        }
    }
    Ok(())
}

#[test]
fn a_client_whose_permission_is_revoked_is_cut_off_at_its_next_packet() -> Result<()> {
    let _alone = require::alone();
    let bed = Testbed::new(Shape::SameLink, |_| Ok(()))?;
    let client = &bed.topology.client.ns;
    for (family, service) in FAMILIES {
        let load = |load: Load| load.keep_alive().rate(50.0).concurrency(4).timeout(SECOND).start(client);
        let revoked = load(bed.load(family).from(bed.topology.other_client(family)))?;
        let allowed = load(bed.load(family))?;
        revoked.let_run(SECOND)?;
        revoked.report().expect_no_failures()?;

        let before = bed.verdicts()?;
        let mut config = bed.configuration()?;
        entry(&mut config, "services", service)?["deny"] = json!([bed.topology.other_client(family)]);
        bed.apply(&config)?;
        let (at, applied) = (revoked.elapsed(), allowed.elapsed());
        allowed.let_run(2 * SECOND)?;
        let report = revoked.finish()?;
        let after = report.started_between(at, report.elapsed);
        ensure!(after.total() >= 4 && after.failures().len() == after.total(), "{family:?}: {after}");
        let report = allowed.finish()?;
        report.expect_no_failures()?;
        ensure!(report.started_between(applied, report.elapsed).total() > 50, "{family:?}: {report}");
        let drops = bed.verdicts()?.drops_since(&before);
        ensure!(drops.contains_key("access_revoked"), "{family:?}: {drops:?}");
    }
    Ok(())
}

#[test]
fn an_undeclared_port_is_dropped_and_counted() -> Result<()> {
    let _alone = require::alone();
    let bed = Testbed::new(Shape::SameLink, |_| Ok(()))?;
    let client = &bed.topology.client.ns;
    for family in Family::BOTH {
        let before = bed.verdicts()?;
        let limit = Duration::from_millis(500);
        let report = Load::to(family.vip(9999)).count(5).concurrency(5).timeout(limit).run(client)?;
        assert_eq!(report.failures().len(), 5);
        ensure!(report.failures()[0].error.contains("no end within"), "answered: {report}");
        // The port is declared for TCP, not for UDP.
        udp::exchanges(client, family.vip(WEB), 1, 64).err().context("UDP was answered")?;
        let drops = bed.verdicts()?.drops_since(&before);
        ensure!(drops.len() == 1 && drops.get("undeclared_port") >= Some(&6), "{family:?}: {drops:?}");
    }
    Ok(())
}

#[test]
fn echo_requests_to_a_vip_are_answered() -> Result<()> {
    let _alone = require::alone();
    let bed = Testbed::new(Shape::SameLink, |_| Ok(()))?;
    let client = &bed.topology.client;
    for family in Family::BOTH {
        let before = bed.verdicts()?;
        for _ in 0..5 {
            ping(&client.ns, client.address(family, 0).ip(), family.vip(0).ip(), SECOND)?;
        }
        assert_eq!(bed.verdicts()?.of("echo") - before.of("echo"), 5, "{family:?}");
    }
    Ok(())
}

fn has_address(host: &Host, address: IpAddr) -> Result<bool> {
    Ok(host.ns.exec("ip", &["address", "show"])?.contains(&format!(" {address}/")))
}

fn without_vip(config: &mut Value, vip: IpAddr) -> Result<()> {
    let services = config["services"].as_array_mut().context("no services")?;
    services.retain(|service| service["address"] != json!(vip));
    Ok(())
}

#[test]
fn a_vip_comes_and_goes_with_its_service_and_takes_over_at_once() -> Result<()> {
    let _alone = require::alone();
    let bed = Testbed::new(Shape::SameLink, |_| Ok(()))?;
    let (client, balancer) = (&bed.topology.client.ns, &bed.topology.balancer);
    let full = bed.configuration()?;
    for family in Family::BOTH {
        let vip = family.vip(WEB).ip();
        ensure!(has_address(balancer, vip)?, "{vip} is not on the interface");
        let mut less = full.clone();
        without_vip(&mut less, vip)?;
        bed.apply(&less)?;
        ensure!(!has_address(balancer, vip)?, "{vip} is still on the interface");
        let report = bed.load(family).count(1).timeout(Duration::from_millis(500)).run(client)?;
        assert_eq!(report.failures().len(), 1, "{report}");

        // Another host had the address last, as far as the client knows.
        client.ip_batch(&format!(
            "neigh replace {vip} lladdr 02:00:00:00:00:99 dev {INTERFACE} nud reachable\n"
        ))?;
        // The kernel heeds no announcement within a second of an entry's last change.
        thread::sleep(Duration::from_millis(1100));
        bed.apply(&full)?;
        let begun = Instant::now();
        let report = bed.load(family).count(20).concurrency(20).run(client)?;
        report.expect_no_failures()?;
        ensure!(begun.elapsed() < SECOND, "{family:?}: the take-over took {:?}", begun.elapsed());
        let neighbour = client.exec("ip", &["neigh", "show", &vip.to_string()])?;
        ensure!(neighbour.contains(&balancer.mac(INTERFACE)?), "{neighbour}");
        ensure!(!balancer.ns.exec("ip", &["-6", "address", "show", "tentative"])?.contains(&vip.to_string()));
    }
    Ok(())
}

#[test]
fn a_routed_vip_is_left_to_the_operator() -> Result<()> {
    let _alone = require::alone();
    let routed = [("203.0.113.10", "web-v4"), ("2001:db8::10", "web-v6")];
    let bed = Testbed::new(Shape::SameLink, |config| {
        config["vips"] = "routed".into();
        config["services"] = json!(routed.map(|(address, group)| json!({
            "name": group, "address": address, "protocol": "tcp", "port": WEB, "allow": "any", "group": group,
        })));
        Ok(())
    })?;
    let (client, balancer) = (&bed.topology.client.ns, &bed.topology.balancer);
    client.ip_batch(&format!(
        "route add 203.0.113.10/32 via {}\nroute add 2001:db8::10/128 via {}\n",
        balancer.v4, balancer.v6
    ))?;
    for (address, _) in routed {
        let address: IpAddr = address.parse()?;
        ensure!(!has_address(balancer, address)?, "{address} was put on the interface");
        Load::to((address, WEB).into()).count(200).run(client)?.expect_no_failures()?;
    }
    Ok(())
}

#[test]
fn what_is_not_for_a_vip_passes_untouched() -> Result<()> {
    let _alone = require::alone();
    let bed = Testbed::new(Shape::SameLink, |_| Ok(()))?;
    let balancer = &bed.topology.balancer;
    let _own = HttpServer::start(balancer, 9000, None)?;
    let load = bed.load(Family::V4).rate(200.0).concurrency(16).start(&bed.topology.client.ns)?;
    for family in Family::BOTH {
        let before = bed.verdicts()?;
        let own = Load::to(balancer.address(family, 9000)).count(200).run(&bed.topology.client.ns)?;
        own.expect_no_failures()?;
        assert_eq!(own.spread().get("balancer"), Some(&200), "{own}");
        let (client, own) = (&bed.topology.client, balancer.address(family, 0).ip());
        ping(&client.ns, client.address(family, 0).ip(), own, SECOND)?;
        // All find each other anew: ARP and neighbour discovery pass, and the balancer knows its way meanwhile.
        for host in [client, balancer] {
            host.ns.ip_batch(&format!("neigh flush dev {INTERFACE}\n"))?;
        }
        ping(&client.ns, client.address(family, 0).ip(), own, SECOND)?;
        let drops = bed.verdicts()?.drops_since(&before);
        ensure!(drops.is_empty(), "{family:?}: {drops:?}");
    }
    load.finish()?.expect_no_failures()
}

#[test]
fn what_fails_to_leave_after_the_verdict_is_counted_by_its_interface() -> Result<()> {
    let _alone = require::alone();
    for (shape, interface) in [(Shape::SameLink, INTERFACE), (Shape::OtherInterface, BACK_INTERFACE)] {
        let bed = Testbed::new(shape, |_| Ok(()))?;
        let failed = || Ok::<_, anyhow::Error>(bed.verdicts()?.failures.get(interface).copied());
        assert_eq!(failed()?, Some(0), "{shape:?}");
        // A veth's peer without a program takes no frames from one.
        let switch = bed.topology.switches.last().context("no switch")?;
        switch.ip_batch("link set balancer xdp off\n")?;
        let limit = Duration::from_millis(300);
        let report = bed.load(Family::V4).count(10).timeout(limit).run(&bed.topology.client.ns)?;
        assert_eq!(report.failures().len(), 10, "{shape:?}: {report}");
        ensure!(failed()? >= Some(10), "{shape:?}: {:?}", bed.verdicts()?.failures);
        let forwarded = if shape == Shape::SameLink { "transmitted" } else { "redirected" };
        ensure!(bed.verdicts()?.of(forwarded) >= 10, "{shape:?}: the program did its part");
    }
    Ok(())
}

#[test]
fn an_interface_that_goes_is_missed_at_once_and_told_of_once() -> Result<()> {
    let _alone = require::alone();
    let bed = Testbed::new(Shape::SameLink, |_| Ok(()))?;
    bed.topology.balancer.ns.ip_batch(&format!("link del {INTERFACE}\n"))?;
    let status =
        bed.lbd.wait_for("/v1/status", 2 * SECOND, |status| status["readiness"]["ready"] == false)?;
    let text = status["readiness"].to_string() + &status["warnings"].to_string();
    let told = "the program is not on every interface";
    assert_eq!(text.matches(told).count(), 1, "{text}");
    Ok(())
}

#[test]
fn a_target_without_a_next_hop_takes_no_flows_and_says_why() -> Result<()> {
    let _alone = require::alone();
    let bed = Testbed::not_all_up(Shape::SameLink, 0, |config| {
        for (name, address) in [("web-v4", "10.10.0.77"), ("web-v6", "fd00:10::77")] {
            let group = entry(config, "groups", name)?;
            // Without a health check, only the missing neighbour speaks against it.
            group.as_object_mut().context("an object")?.remove("health");
            let targets = group["targets"].as_array_mut().context("no targets")?;
            targets.push(json!({ "name": "nobody", "address": address, "port": 8080 }));
        }
        Ok(())
    })?;
    for (family, group) in FAMILIES {
        for target in &bed.topology.targets {
            bed.wait_until_takes_flows(group, &target.name, true, SOON)?;
        }
        let nobody = bed.target(group, "nobody")?;
        assert_eq!(
            (&nobody["takes_new_flows"], &nobody["table_slots"]),
            (&false.into(), &0.into()),
            "{nobody:#}"
        );
        assert_eq!(nobody["next_hop"]["resolved"], false, "{nobody:#}");
        ensure!(nobody["why_not"].as_str().is_some_and(|why| why.contains("next hop")), "{nobody:#}");
        let report = bed.load(family).count(400).run(&bed.topology.client.ns)?;
        report.expect_no_failures()?;
    }
    Ok(())
}

#[test]
fn a_target_that_leaves_the_link_gets_no_more_and_one_that_comes_back_does() -> Result<()> {
    let _alone = require::alone();
    let bed = Testbed::new(Shape::SameLink, |config| {
        for name in ["web-v4", "web-v6"] {
            entry(config, "groups", name)?.as_object_mut().context("an object")?.remove("health");
        }
        Ok(())
    })?;
    // The kernel asks for a neighbour again when it was confirmed half a minute ago: for new entries here, two seconds.
    let balancer = &bed.topology.balancer.ns;
    for family in ["ipv4", "ipv6"] {
        balancer.sysctl(&format!("net.{family}.neigh.{INTERFACE}.base_reachable_time_ms"), "2000")?;
        balancer.sysctl(&format!("net.{family}.neigh.{INTERFACE}.delay_first_probe_time"), "1")?;
    }
    balancer.ip_batch(&format!("neigh flush dev {INTERFACE}\n"))?;
    bed.load(Family::V4).count(100).run(&bed.topology.client.ns)?.expect_no_failures()?;
    let host = &bed.topology.targets[2];
    host.ns.ip_batch(&format!("link set {INTERFACE} down\n"))?;
    for (family, group) in FAMILIES {
        let gone = bed.wait_until_takes_flows(group, &host.name, false, Duration::from_secs(90))?;
        ensure!(gone["why_not"].as_str().is_some_and(|why| why.contains("next hop")), "{gone:#}");
        assert_eq!(gone["next_hop"]["resolved"], false, "{gone:#}");
        let report = bed.load(family).count(300).run(&bed.topology.client.ns)?;
        report.expect_no_failures()?;
        ensure!(!report.spread().contains_key(&host.name), "{report}");
    }
    // Going down took its IPv6 addresses.
    host.ns
        .ip_batch(&format!("link set {INTERFACE} up\naddr replace {}/64 dev {INTERFACE} nodad\n", host.v6))?;
    for (family, group) in FAMILIES {
        bed.wait_until_takes_flows(group, &host.name, true, Duration::from_secs(30))?;
        bed.load(family).count(300).run(&bed.topology.client.ns)?.expect_no_failures()?;
    }
    Ok(())
}
