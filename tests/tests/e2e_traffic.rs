//! Real clients and servers through the balancer: nothing fails, everything arrives whole, and it spreads as asked.

use std::{
    collections::BTreeMap,
    io::ErrorKind,
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use lb_tests::{
    http::read_response,
    require,
    testbed::{ECHO, Testbed, UPLOAD, WEB, entry},
    topology::{Family, Shape},
    transfer::{self, GIB},
    udp::{self, UdpClient},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::timeout,
};

const SECOND: Duration = Duration::from_secs(1);

/// SYNs that the client host had to send again.
fn repeated_syns(bed: &Testbed) -> Result<u64> {
    let table = bed.topology.client.ns.run(|| std::fs::read_to_string("/proc/thread-self/net/netstat"))??;
    let mut rows = table.lines().filter(|line| line.starts_with("TcpExt:")).map(str::split_whitespace);
    let (names, values) = (rows.next().context("no names")?, rows.next().context("no values")?);
    let value = names.zip(values).find(|(name, _)| *name == "TCPSynRetrans").context("no TCPSynRetrans")?.1;
    Ok(value.parse()?)
}

fn twenty_thousand_requests(family: Family, group: &str) -> Result<()> {
    let _alone = require::alone();
    let bed = Testbed::new(Shape::SameLink, |config| {
        let group = entry(config, "groups", group)?;
        for (target, weight) in [1, 1, 2, 4].into_iter().enumerate() {
            group["targets"][target]["weight"] = weight.into();
        }
        // A busy machine must not make a check fail and so disturb the spread.
        group.as_object_mut().context("a group is an object")?.remove("health");
        Ok(())
    })?;
    let before = bed.verdicts()?;
    let report = bed.load(family).count(20_000).concurrency(64).run(&bed.topology.client.ns)?;
    eprintln!("{report}");
    report.expect_no_failures()?;
    assert_eq!(report.total(), 20_000);
    assert_eq!(repeated_syns(&bed)?, 0, "a lost or refused SYN costs a client a second");

    let spread = report.spread();
    for (index, weight) in [1.0, 1.0, 2.0, 4.0].into_iter().enumerate() {
        let name = &bed.topology.targets[index].name;
        let share = 100.0 * spread.get(name).copied().unwrap_or_default() as f64 / 20_000.0;
        let wanted = 100.0 * weight / 8.0;
        ensure!(
            (share - wanted).abs() <= 3.0,
            "{name} has {share:.1} % where {wanted:.1} % was asked: {report}"
        );
        // What the program counted for the target is what the client saw.
        let counted = bed.target(group, name)?["counters"]["new_flows"].as_u64();
        assert_eq!(counted, spread.get(name).copied(), "{name}");
    }
    assert_eq!(bed.service_counter(group, "new_flows")?, 20_000);
    let drops = bed.verdicts()?.drops_since(&before);
    ensure!(drops.is_empty(), "packets were dropped: {drops:?}");
    Ok(())
}

#[test]
fn twenty_thousand_requests_over_ipv4_do_not_fail_and_spread_by_weight() -> Result<()> {
    twenty_thousand_requests(Family::V4, "web-v4")
}

#[test]
fn twenty_thousand_requests_over_ipv6_do_not_fail_and_spread_by_weight() -> Result<()> {
    twenty_thousand_requests(Family::V6, "web-v6")
}

#[test]
fn a_gibibyte_arrives_whole_in_both_directions() -> Result<()> {
    let _alone = require::alone();
    let bed = Testbed::with_file(Shape::SameLink, GIB, |_| Ok(()))?;
    let client = &bed.topology.client.ns;
    for family in Family::BOTH {
        let begun = Instant::now();
        let got = client.block_on(|| transfer::download(family.vip(WEB), "/big", |_| ()))??;
        eprintln!("{family:?} download in {:?}", begun.elapsed());
        assert_eq!(got.size, GIB);
        assert_eq!(Some(&got.digest), bed.servers.digest.as_ref(), "other bytes arrived than were sent");
        let begun = Instant::now();
        client.block_on(|| transfer::upload(family.vip(UPLOAD), GIB))??;
        eprintln!("{family:?} upload in {:?}", begun.elapsed());
    }
    // Bytes are counted per service, those from clients apart from those to them.
    let down = bed.service_counter("web-v4", "bytes_out")?;
    let up = bed.service_counter("upload-v4", "bytes_in")?;
    for bytes in [down, up] {
        ensure!((GIB..GIB + GIB / 8).contains(&bytes), "{bytes} bytes counted of a transfer of {GIB}");
    }
    Ok(())
}

#[test]
fn udp_is_answered_at_small_and_large_sizes() -> Result<()> {
    let _alone = require::alone();
    let bed = Testbed::new(Shape::SameLink, |_| Ok(()))?;
    let client = &bed.topology.client.ns;
    for family in Family::BOTH {
        for size in [64, 1400] {
            let spread = udp::exchanges(client, family.vip(ECHO), 200, size)?;
            assert_eq!(spread.values().sum::<u64>(), 200, "{family:?}, {size} bytes");
            assert_eq!(
                spread.len(),
                bed.topology.targets.len(),
                "200 sockets reach every target: {spread:?}"
            );
        }
        // One socket is one flow, and stays with its target.
        let names = client.block_on(|| async {
            let socket = UdpClient::new(family.vip(ECHO)).await?;
            let mut names = BTreeMap::<_, u32>::new();
            for number in 0..50_u32 {
                *names.entry(socket.exchange(&number.to_be_bytes(), SECOND).await?).or_default() += 1;
            }
            anyhow::Ok(names)
        })??;
        assert_eq!(names.into_values().collect::<Vec<_>>(), [50], "{family:?}");
    }
    // A few sockets may have had the port of an earlier one.
    let flows = bed.service_counter("echo-v4", "new_flows")?;
    ensure!((380..=401).contains(&flows), "{flows} flows of 401 sockets");
    Ok(())
}

#[test]
fn a_kept_connection_stays_with_its_target() -> Result<()> {
    let _alone = require::alone();
    let bed = Testbed::new(Shape::SameLink, |_| Ok(()))?;
    for family in Family::BOTH {
        let load = bed.load(family).keep_alive().count(2_000).concurrency(1);
        let report = load.run(&bed.topology.client.ns)?;
        report.expect_no_failures()?;
        assert_eq!(report.spread().len(), 1, "one connection reached several targets: {report}");
    }
    assert_eq!(bed.service_counter("web-v4", "new_flows")?, 1);
    Ok(())
}

/// One request on a connection from a chosen port, closed by the client first if asked. `false` if the port is not
/// free yet.
async fn request_from(port: u16, to: SocketAddr, client_closes: bool) -> Result<bool> {
    let socket = if to.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    let any = if to.is_ipv4() { "0.0.0.0".parse()? } else { "::".parse()? };
    socket.bind(SocketAddr::new(any, port)).with_context(|| format!("bind to port {port}"))?;
    let mut stream = match timeout(SECOND, socket.connect(to)).await.context("connecting took a second")? {
        // The last connection's end is still on its way.
        Err(error) if error.kind() == ErrorKind::AddrNotAvailable => return Ok(false),
        result => result?,
    };
    let connection = if client_closes { "keep-alive" } else { "close" };
    let request = format!("GET / HTTP/1.1\r\nHost: test\r\nConnection: {connection}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    timeout(SECOND, read_response(&mut stream)).await.context("the answer took a second")??;
    if client_closes {
        // No lingering TIME_WAIT at the client, which would keep the port from being used again: a reset.
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
        return Ok(true);
    }
    let more = timeout(SECOND, stream.read(&mut [0])).await.context("the close took a second")??;
    ensure!(more == 0, "bytes after the answer");
    Ok(true)
}

#[test]
fn a_client_port_used_again_starts_a_new_flow() -> Result<()> {
    let _alone = require::alone();
    let bed = Testbed::new(Shape::SameLink, |_| Ok(()))?;
    for family in Family::BOTH {
        bed.topology.client.ns.block_on(|| async {
            // At once after a close by the server (it waits in TIME_WAIT), and after a reset by the client.
            for round in 0..30 {
                let mut done = false;
                while !done {
                    let result = request_from(5555, family.vip(WEB), round % 2 == 0).await;
                    done = result.with_context(|| format!("{family:?}, use {round} of the same port"))?;
                }
            }
            anyhow::Ok(())
        })??;
    }
    assert_eq!(bed.service_counter("web-v4", "new_flows")?, 30);
    assert_eq!(bed.service_counter("web-v6", "new_flows")?, 30);
    Ok(())
}

#[test]
fn source_ports_used_again_cost_no_client_a_retry() -> Result<()> {
    let _alone = require::alone();
    // Few source ports and one address: targets meet ports again while they still hold the last connection there in
    // TIME_WAIT.
    let bed = Testbed::new(Shape::SameLink, |config| {
        config["snat"]["ipv4"] = serde_json::json!([config["snat"]["ipv4"][0]]);
        config["snat"]["ports"] = "20000-20511".into();
        Ok(())
    })?;
    let load = bed.load(Family::V4).count(6_000).rate(400.0).concurrency(16);
    let report = load.run(&bed.topology.client.ns)?;
    eprintln!("{report}");
    report.expect_no_failures()?;
    assert_eq!(repeated_syns(&bed)?, 0, "{report}");
    Ok(())
}

#[test]
fn the_hosts_own_connections_go_on_beside_the_balancer() -> Result<()> {
    let _alone = require::alone();
    let bed = Testbed::new(Shape::SameLink, |_| Ok(()))?;
    let load = bed.load(Family::V4).concurrency(16).start(&bed.topology.client.ns)?;
    // The balancer host's own connections, to the very targets and ports that flows go to.
    for family in Family::BOTH {
        for target in &bed.topology.targets {
            let direct = lb_tests::http::Load::to(target.address(family, 8080)).count(200).concurrency(4);
            direct.run(&bed.topology.balancer.ns)?.expect_no_failures()?;
        }
    }
    load.finish()?.expect_no_failures()?;
    // The source ports of flows are kept from the host's sockets.
    let reserved = bed.topology.balancer.ns.read_sysctl("net.ipv4.ip_local_reserved_ports")?;
    assert_eq!(reserved, "2000-31999");
    Ok(())
}

#[test]
fn a_connection_open_while_others_come_and_go_is_undisturbed() -> Result<()> {
    let _alone = require::alone();
    let bed = Testbed::new(Shape::SameLink, |_| Ok(()))?;
    for family in Family::BOTH {
        let load = bed.load(family).concurrency(32).start(&bed.topology.client.ns)?;
        let held = bed.topology.client.ns.block_on(|| async {
            let mut stream = TcpStream::connect(family.vip(WEB)).await?;
            let mut names = Vec::new();
            for _ in 0..20 {
                stream.write_all(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n").await?;
                names.push(timeout(SECOND, read_response(&mut stream)).await??);
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            names.dedup();
            anyhow::Ok(names.len())
        })??;
        assert_eq!(held, 1, "it was answered by several targets");
        load.finish()?.expect_no_failures()?;
    }
    Ok(())
}
