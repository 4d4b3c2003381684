//! Targets that die, drain, are taken out and come back, under load.

use std::{
    net::SocketAddr,
    sync::mpsc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use hyper::Method;
use lb_tests::{
    http::{Report, Running, read_response},
    netns::Task,
    require,
    testbed::{SOON, Testbed, WEB, detection, entry},
    topology::{Family, Shape},
    transfer::{self, Download},
};
use serde_json::Value;
use tokio::{io::AsyncWriteExt, net::TcpStream, time::timeout};

/// A slow download takes eight seconds.
const SLOW: u64 = 8 * transfer::SLOW_RATE;
/// Between what a client sees happen and what the test does about it, on a busy machine.
const SLACK: Duration = Duration::from_millis(500);

/// A download at work: it knows its target as soon as that answers.
struct Slow {
    target: String,
    task: Task<Result<Download>>,
}

impl Slow {
    fn start(bed: &Testbed, family: Family) -> Result<Self> {
        let (tell, told) = mpsc::channel();
        let from = family.vip(WEB);
        let task = bed.topology.client.ns.spawn_task(move || async move {
            transfer::download(from, "/slow", |target| {
                // Nobody listens any more if the test has given up.
                let _ = tell.send(target.to_owned());
            })
            .await
        })?;
        let target = told.recv_timeout(SOON).context("a download did not begin")?;
        Ok(Self { target, task })
    }

    /// Downloads from at least two targets.
    fn several(bed: &Testbed, family: Family) -> Result<Vec<Self>> {
        let mut downloads = vec![Self::start(bed, family)?, Self::start(bed, family)?];
        while downloads.iter().all(|download| download.target == downloads[0].target) {
            ensure!(downloads.len() < 32, "32 connections all reached {}", downloads[0].target);
            downloads.push(Self::start(bed, family)?);
        }
        Ok(downloads)
    }

    fn finish(self, bed: &Testbed) -> Result<()> {
        let got = self.task.join()?.with_context(|| format!("a download from {}", self.target))?;
        assert_eq!(
            (got.size, Some(&got.digest)),
            (SLOW, bed.servers.digest.as_ref()),
            "from {}",
            self.target
        );
        Ok(())
    }
}

fn answered(report: &Report, target: &str) -> u64 {
    report.spread().get(target).copied().unwrap_or_default()
}

/// Lets the load run until `target` has answered a request that was started from `since` on.
fn wait_for_answer(load: &Running, target: &str, since: Duration) -> Result<()> {
    let deadline = Instant::now() + SOON;
    while Instant::now() < deadline {
        load.let_run(Duration::from_millis(100))?;
        if answered(&load.report().started_between(since, Duration::MAX), target) > 0 {
            return Ok(());
        }
    }
    bail!("{target} has not answered for {SOON:?}: {}", load.report());
}

#[test]
fn a_killed_server_costs_nothing_after_its_detection() -> Result<()> {
    let _alone = require::alone();
    let mut bed = Testbed::with_file(Shape::SameLink, SLOW, |_| Ok(()))?;
    let load = bed.load(Family::V4).rate(500.0).concurrency(64).start(&bed.topology.client.ns)?;
    let downloads = Slow::several(&bed, Family::V4)?;
    load.let_run(Duration::from_secs(1))?;
    let victim = bed.servers.all.iter().position(|server| server.name() == downloads[0].target);
    let victim = victim.context("an unknown target")?;
    let name = downloads[0].target.clone();

    let killed = load.elapsed();
    bed.servers.all[victim].kill();
    load.let_run(detection() + Duration::from_secs(2))?;
    let down = bed.target("web-v4", &name)?;
    assert_eq!(
        (&down["health"]["verdict"], &down["takes_new_flows"]),
        (&"down".into(), &false.into()),
        "{down:#}"
    );
    ensure!(
        down["health"]["reason"].as_str().is_some_and(|reason| !reason.is_empty()),
        "no reason: {down:#}"
    );
    assert_eq!(down["table_slots"], 0, "{down:#}");

    let back = load.elapsed();
    bed.servers.all[victim].start_again(&bed.topology.targets[victim])?;
    bed.wait_until_takes_flows("web-v4", &name, true, Duration::from_secs(10))?;
    wait_for_answer(&load, &name, back)?;
    let report = load.finish()?;
    eprintln!("{report}");

    let detected = killed + detection() + SLACK;
    // What was under way when it was killed fails too, however long ago it was started.
    for failure in report.failures() {
        ensure!(failure.at + failure.latency + SLACK >= killed, "before the server was killed: {failure:?}");
        ensure!(failure.at <= detected, "after the detection, {detected:?}: {failure:?}");
    }
    ensure!(
        answered(&report.started_between(detected, back), &name) == 0,
        "{name} answered while it was dead"
    );
    for download in downloads {
        if download.target == name {
            ensure!(download.task.join()?.is_err(), "a download from the killed server completed");
        } else {
            download.finish(&bed)?;
        }
    }
    Ok(())
}

#[test]
fn a_server_that_says_it_is_unhealthy_is_left_alone_without_a_failed_request() -> Result<()> {
    let _alone = require::alone();
    let bed = Testbed::new(Shape::SameLink, |_| Ok(()))?;
    for (family, group) in [(Family::V4, "web-v4"), (Family::V6, "web-v6")] {
        let load = bed.load(family).rate(300.0).concurrency(32).start(&bed.topology.client.ns)?;
        let (server, name) = (&bed.servers.all[1], bed.servers.all[1].name());
        wait_for_answer(&load, name, Duration::ZERO)?;
        server.set_healthy(false)?;
        bed.wait_until_takes_flows(group, name, false, detection() + SOON)?;
        let out = load.elapsed();
        load.let_run(Duration::from_secs(1))?;
        let history = bed.lbd.get(&format!("/v1/groups/{group}/targets/{name}/health"))?;
        ensure!(history["checks"][0]["reason"].to_string().contains("404"), "why is not said: {history:#}");
        ensure!(history["checks"][0]["duration_seconds"].is_number(), "how long is not said: {history:#}");
        ensure!(history["transitions"].as_array().is_some_and(|list| !list.is_empty()), "{history:#}");
        let again = load.elapsed();
        server.set_healthy(true)?;
        bed.wait_until_takes_flows(group, name, true, SOON)?;
        wait_for_answer(&load, name, again)?;
        let report = load.finish()?;
        report.expect_no_failures()?;
        assert_eq!(answered(&report.started_between(out, again), name), 0, "{family:?}: {report}");
    }
    Ok(())
}

#[test]
fn a_drained_target_gets_no_new_connection_and_finishes_its_download() -> Result<()> {
    let _alone = require::alone();
    let bed = Testbed::with_file(Shape::SameLink, SLOW, |_| Ok(()))?;
    let load = bed.load(Family::V4).rate(500.0).concurrency(64).start(&bed.topology.client.ns)?;
    let download = Slow::start(&bed, Family::V4)?;
    let name = download.target.clone();
    wait_for_answer(&load, &name, Duration::ZERO)?;

    bed.lbd.lbctl(&["drain", &format!("web-v4/{name}")])?;
    let drained = load.elapsed();
    let target = bed.target("web-v4", &name)?;
    assert_eq!((&target["admin"]["state"], &target["takes_new_flows"]), (&"draining".into(), &false.into()));
    ensure!(target["admin"]["remaining_flows"].as_u64() >= Some(1), "its download is not shown: {target:#}");
    load.let_run(Duration::from_secs(2))?;
    download.finish(&bed)?;
    let path = format!("/v1/groups/web-v4/targets/{name}");
    bed.lbd.wait_for(&path, Duration::from_secs(10), |target| target["admin"]["state"] == "drained")?;

    let ready = load.elapsed();
    bed.lbd.lbctl(&["ready", &format!("web-v4/{name}")])?;
    wait_for_answer(&load, &name, ready)?;
    let report = load.finish()?;
    report.expect_no_failures()?;
    assert_eq!(answered(&report.started_between(drained, ready), &name), 0, "{report}");
    Ok(())
}

#[test]
fn a_drain_ends_at_its_deadline() -> Result<()> {
    let _alone = require::alone();
    let bed = Testbed::new(Shape::SameLink, |config| {
        entry(config, "groups", "web-v4")?["drain_deadline"] = "2s".into();
        Ok(())
    })?;
    let name = bed.topology.targets[0].name.clone();
    bed.topology.client.ns.block_on(|| async {
        let mut held = Held::open(Family::V4.vip(WEB), 32).await?;
        bed.set_state("web-v4", &name, "drain")?;
        held.expect_same_targets().await.context("before the deadline")?;
        tokio::time::sleep(Duration::from_secs(3)).await;
        held.expect_resets(&name).await?;
        let path = format!("/v1/groups/web-v4/targets/{name}");
        let drained = |target: &Value| target["admin"]["state"] == "drained";
        bed.lbd.wait_for(&path, SOON, drained).map(drop)
    })?
}

#[test]
fn maintenance_gives_a_target_no_more_and_ends_what_it_has_where_the_group_says_so() -> Result<()> {
    let _alone = require::alone();
    let bed = Testbed::new(Shape::SameLink, |config| {
        entry(config, "groups", "web-v4")?["on_target_down"] = serde_json::json!({ "tcp": "end" });
        Ok(())
    })?;
    let name = bed.topology.targets[0].name.clone();
    bed.topology.client.ns.block_on(|| async {
        let mut ends = Held::open(Family::V4.vip(WEB), 32).await?;
        let mut stays = Held::open(Family::V6.vip(WEB), 32).await?;
        for group in ["web-v4", "web-v6"] {
            bed.lbd.lbctl(&["maintenance", &format!("{group}/{name}")])?;
        }
        stays.expect_same_targets().await?;
        ends.expect_resets(&name).await
    })??;
    for (family, group) in [(Family::V4, "web-v4"), (Family::V6, "web-v6")] {
        let report = bed.load(family).count(200).run(&bed.topology.client.ns)?;
        report.expect_no_failures()?;
        assert_eq!(answered(&report, &name), 0, "{report}");
        bed.lbd.lbctl(&["ready", &format!("{group}/{name}")])?;
        bed.wait_until_takes_flows(group, &name, true, SOON)?;
    }
    Ok(())
}

#[test]
fn established_flows_of_a_dead_target_are_ended_where_the_group_says_so() -> Result<()> {
    let _alone = require::alone();
    let bed = Testbed::new(Shape::SameLink, |config| {
        entry(config, "groups", "web-v4")?["on_target_down"] = serde_json::json!({ "tcp": "end" });
        Ok(())
    })?;
    // Unhealthy but alive: what is established works on, unless it is ended.
    let server = &bed.servers.all[0];
    bed.topology.client.ns.block_on(|| async {
        let mut ends = Held::open(Family::V4.vip(WEB), 32).await?;
        let mut stays = Held::open(Family::V6.vip(WEB), 32).await?;
        server.set_healthy(false)?;
        for group in ["web-v4", "web-v6"] {
            bed.wait_until_takes_flows(group, server.name(), false, detection() + SOON)?;
        }
        stays.expect_same_targets().await?;
        ends.expect_resets(server.name()).await
    })?
}

#[test]
fn with_all_targets_down_the_choice_of_the_group_acts_and_recovers() -> Result<()> {
    let _alone = require::alone();
    let bed = Testbed::new(Shape::SameLink, |config| {
        entry(config, "groups", "web-v6")?["on_all_down"] = "drop".into();
        Ok(())
    })?;
    bed.servers.all.iter().try_for_each(|server| server.set_healthy(false))?;
    for group in ["web-v4", "web-v6"] {
        bed.lbd.wait_for(&format!("/v1/groups/{group}"), detection() + SOON, |group| {
            group["all_down"] == true
        })?;
    }
    let client = &bed.topology.client.ns;
    let limit = Duration::from_secs(2);
    let rejected = bed.load(Family::V4).count(20).timeout(limit).run(client)?.failures();
    assert_eq!(rejected.len(), 20);
    ensure!(
        rejected.iter().all(|failure| failure.error.contains("refused")),
        "not refused: {:?}",
        rejected[0]
    );
    let before = bed.verdicts()?;
    let dropped = bed.load(Family::V6).count(20).concurrency(20).timeout(limit).run(client)?.failures();
    assert_eq!(dropped.len(), 20);
    ensure!(
        dropped.iter().all(|failure| failure.error.contains("no end within")),
        "answered: {:?}",
        dropped[0]
    );
    let drops = bed.verdicts()?.drops_since(&before);
    ensure!(drops.get("no_target").is_some_and(|packets| *packets >= 20) && drops.len() == 1, "{drops:?}");

    bed.servers.all.iter().try_for_each(|server| server.set_healthy(true))?;
    for (family, group) in [(Family::V4, "web-v4"), (Family::V6, "web-v6")] {
        bed.wait_until_all_take_flows(group)?;
        bed.load(family).count(100).run(client)?.expect_no_failures()?;
    }
    Ok(())
}

#[test]
fn with_all_targets_down_an_open_group_goes_on() -> Result<()> {
    let _alone = require::alone();
    let bed = Testbed::new(Shape::SameLink, |config| {
        entry(config, "groups", "web-v4")?["on_all_down"] = "open".into();
        Ok(())
    })?;
    bed.servers.all.iter().try_for_each(|server| server.set_healthy(false))?;
    bed.lbd.wait_for("/v1/groups/web-v4", detection() + SOON, |group| group["all_down"] == true)?;
    let report = bed.load(Family::V4).count(400).run(&bed.topology.client.ns)?;
    report.expect_no_failures()?;
    assert_eq!(report.spread().len(), bed.topology.targets.len(), "{report}");

    // What is shown is what is done.
    let name = &bed.topology.targets[0].name;
    let target = bed.target("web-v4", name)?;
    ensure!(target["takes_new_flows"] == true && target["as_if_up"] == true, "{target:#}");
    ensure!(target["health"]["verdict"] == "down" && target["why_not"].is_null(), "{target:#}");
    let (_, metrics) = bed.lbd.request(Method::GET, "/metrics", None)?;
    let metric = format!("portside_target_takes_new_flows{{group=\"web-v4\",target=\"{name}\"}} 1.0");
    ensure!(metrics.lines().any(|line| line == metric), "{metric} is not in {metrics}");
    ensure!(bed.lbd.lbctl(&["targets", "web-v4"])?.contains("yes: no target is up"), "lbctl says otherwise");
    Ok(())
}

/// Connections held open, each answered again and again.
struct Held {
    connections: Vec<(TcpStream, Option<String>)>,
}

impl Held {
    async fn open(to: SocketAddr, count: usize) -> Result<Self> {
        let mut connections = Vec::new();
        for _ in 0..count {
            connections.push((TcpStream::connect(to).await?, None));
        }
        let mut held = Self { connections };
        held.expect_same_targets().await?;
        Ok(held)
    }

    /// Asks on each connection: those to `target` are reset, the others answered as before.
    async fn expect_resets(&mut self, target: &str) -> Result<()> {
        let (mut ended, mut kept) = (0, 0);
        for (stream, first) in &mut self.connections {
            let first = first.as_deref().unwrap_or_default().trim_end();
            let asked = stream.write_all(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n").await;
            let answer = match asked {
                Ok(()) => {
                    timeout(SOON, read_response(stream)).await.context("neither an answer nor a reset")?
                }
                Err(error) => Err(error.into()),
            };
            match answer {
                Ok(body) => {
                    let name = String::from_utf8(body)?;
                    ensure!(name.trim_end() == first && first != target, "{first}: answered by {name}");
                    kept += 1;
                }
                Err(error) => {
                    ensure!(first == target, "a connection to {first} was ended: {error:#}");
                    ensure!(format!("{error:#}").contains("reset"), "not by a reset: {error:#}");
                    ended += 1;
                }
            }
        }
        ensure!(ended > 0 && kept > 0, "{ended} connections were ended, {kept} kept: too few to tell");
        Ok(())
    }

    /// Asks on each connection; whoever answers must be who answered first.
    async fn expect_same_targets(&mut self) -> Result<()> {
        for (stream, first) in &mut self.connections {
            stream.write_all(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n").await?;
            let body = timeout(SOON, read_response(stream)).await.context("no answer")??;
            let name = String::from_utf8(body)?;
            let first = first.get_or_insert_with(|| name.clone());
            ensure!(*first == name, "a connection went from {first} to {name}");
        }
        Ok(())
    }
}

#[test]
fn changes_of_a_groups_targets_move_no_established_connection() -> Result<()> {
    let _alone = require::alone();
    let bed = Testbed::new(Shape::SameLink, |_| Ok(()))?;
    for (family, group) in [(Family::V4, "web-v4"), (Family::V6, "web-v6")] {
        let full = bed.configuration()?;
        let (mut less, mut other) = (full.clone(), full.clone());
        entry(&mut less, "groups", group)?["targets"].as_array_mut().context("no targets")?.remove(1);
        entry(&mut other, "groups", group)?["targets"][0]["weight"] = 7.into();
        // With a table of another size every slot is chosen anew.
        entry(&mut other, "groups", group)?["table_slots"] = 8191.into();
        bed.topology.client.ns.block_on(|| async {
            let mut held = Held::open(family.vip(WEB), 64).await?;
            for config in [&less, &full, &other, &full] {
                bed.apply(config)?;
                held.expect_same_targets().await.with_context(|| format!("{family:?}"))?;
            }
            anyhow::Ok(())
        })??;
    }
    Ok(())
}
