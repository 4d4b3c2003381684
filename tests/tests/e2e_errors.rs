//! What a user reads when something stands in the way: what is wrong, where, and what to do. Nothing else changes.

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use hyper::{Method, StatusCode};
use lb_tests::{
    lbd::{Lbd, binary},
    process::{self, Output},
    require,
    testbed::{SOON, Testbed, entry, standard},
    topology::{Family, INTERFACE, Shape, Topology},
    xdp_pass,
};
use nix::sys::signal::Signal;

const LIMIT: Duration = Duration::from_secs(20);

/// An agent about to be started in a network without servers.
fn prepared() -> Result<(Lbd, Topology)> {
    require::everything()?;
    let topology = Topology::build(Shape::SameLink, 1, None)?;
    let config = standard(&topology);
    Ok((Lbd::prepare(&topology.balancer, &format!("{config:#}"))?, topology))
}

/// Checks that the agent gave up, and that what it said holds each of `parts`.
fn expect_refusal(output: &Output, parts: &[&str]) -> Result<()> {
    let said = format!("{}{}", output.stdout, output.stderr);
    eprintln!("{}: {said}", output.status);
    ensure!(!output.status.success(), "it ended with success");
    ensure!(output.status.code().is_some(), "it was ended by a signal");
    for part in parts {
        ensure!(
            said.to_lowercase().contains(&part.to_lowercase()),
            "`{part}` is not in what it said:\n{said}"
        );
    }
    ensure!(!said.contains("panicked"), "it panicked:\n{said}");
    Ok(())
}

/// Runs the agent through another program that takes something away from it first.
fn run_through(lbd: &Lbd, topology: &Topology, program: &str, args: &[&str]) -> Result<Output> {
    require::program(program)?;
    let mut command = topology.balancer.ns.command(program)?;
    command.args(args).arg(binary("lbd")?).args(lbd.arguments());
    process::output(&mut command, LIMIT)
}

fn nothing_is_left(lbd: &Lbd, topology: &Topology) -> Result<()> {
    ensure!(!lbd.pins().exists(), "{} is left", lbd.pins().display());
    let link = topology.balancer.ns.exec("ip", &["-details", "link", "show", "dev", INTERFACE])?;
    ensure!(!link.contains("xdp"), "a program is left: {link}");
    Ok(())
}

#[test]
fn a_second_agent_on_the_node() -> Result<()> {
    let _alone = require::alone();
    let bed = Testbed::new(Shape::SameLink, |_| Ok(()))?;
    let balancer = &bed.topology.balancer;
    let pid = format!("process {}", bed.lbd.pid().context("it does not run")?);
    let expected = ["another agent is at work on this host", &pid, "stop it first"];
    expect_refusal(&bed.lbd.run_to_end(balancer)?, &expected)?;
    // Folders of its own make no difference: VIPs, ports and interfaces are the host's.
    let other = Lbd::prepare(balancer, &format!("{:#}", standard(&bed.topology)))?;
    expect_refusal(&other.run_to_end(balancer)?, &expected)?;
    expect_refusal(&other.run_unload(balancer)?, &expected)?;
    // The same folders do in another network namespace.
    let state = bed.lbd.scratch("state").to_string_lossy().into_owned();
    expect_refusal(
        &bed.lbd.run_to_end(&bed.topology.client)?,
        &["another agent is at work", &state, "--state-dir"],
    )?;
    // The first one goes on.
    bed.lbd.wait_ready(SOON)?;
    bed.load(Family::V4).count(100).run(&bed.topology.client.ns)?.expect_no_failures()
}

#[test]
fn a_foreign_program_on_the_interface() -> Result<()> {
    let _alone = require::alone();
    let (lbd, topology) = prepared()?;
    xdp_pass::attach(&topology.balancer.ns, INTERFACE)?;
    let output = lbd.run_to_end(&topology.balancer)?;
    expect_refusal(
        &output,
        &["eth0 already carries an XDP program", "test_pass", "ip link set dev eth0 xdpdrv off"],
    )?;
    let link = topology.balancer.ns.exec("ip", &["-details", "link", "show", "dev", INTERFACE])?;
    ensure!(link.contains("prog/xdp"), "the foreign program is gone: {link}");
    ensure!(!lbd.pins().exists(), "{} is left", lbd.pins().display());
    Ok(())
}

#[test]
fn no_bpf_file_system() -> Result<()> {
    let _alone = require::alone();
    let (lbd, topology) = prepared()?;
    let script = format!("umount {} && exec \"$0\" \"$@\"", require::BPFFS);
    let output = run_through(
        &lbd,
        &topology,
        "unshare",
        &["--mount", "--propagation", "private", "sh", "-c", &script],
    )?;
    expect_refusal(&output, &["BPF file system", "mount -t bpf bpf /sys/fs/bpf"])?;
    nothing_is_left(&lbd, &topology)
}

#[test]
fn no_privilege() -> Result<()> {
    let _alone = require::alone();
    let (lbd, topology) = prepared()?;
    let output = run_through(&lbd, &topology, "setpriv", &["--bounding-set=-all", "--inh-caps=-all"])?;
    expect_refusal(&output, &["CAP_NET_ADMIN", "CAP_BPF", "CAP_PERFMON", "run lbd as root"])?;
    nothing_is_left(&lbd, &topology)
}

#[test]
fn the_capabilities_that_are_asked_for_are_enough() -> Result<()> {
    let _alone = require::alone();
    require::program("setpriv")?;
    let mut bed = Testbed::new(Shape::SameLink, |_| Ok(()))?;
    // From the first start on, and for taking over what such an agent left.
    bed.lbd.stop()?;
    bed.lbd.unload(&bed.topology.balancer)?;
    let script = bed.lbd.scratch("lbd-with-few-capabilities");
    let text = format!(
        "#!/bin/sh\nexec setpriv --bounding-set=-all,+bpf,+net_admin,+perfmon {} \"$@\"\n",
        binary("lbd")?.display()
    );
    fs::write(&script, text)?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    bed.lbd.set_program(&script);
    for adopted in [false, true] {
        bed.lbd.restart(&bed.topology.balancer)?;
        bed.wait_until_all_take_flows("web-v4")?;
        let status = bed.lbd.get("/v1/status")?;
        assert_eq!(status["interfaces"][0]["adopted"], adopted, "{status:#}");
        assert_eq!(status["data_plane"]["drift"], serde_json::json!([]), "{status:#}");
        // What it cannot do without more is said.
        let warnings = status["warnings"].to_string();
        ensure!(warnings.contains("transmit failures"), "{status:#}");
        bed.load(Family::V4).count(200).run(&bed.topology.client.ns)?.expect_no_failures()?;
        bed.verdicts()?;
        bed.lbd.kill()?;
    }
    Ok(())
}

#[test]
fn what_the_host_lacks_keeps_a_first_start_away_but_no_accepted_revision() -> Result<()> {
    let _alone = require::alone();
    let (mut lbd, topology) = prepared()?;
    let balancer = &topology.balancer;
    let listen = SocketAddr::from(([127, 0, 0, 1], 9100));
    let mut config = standard(&topology);
    config["api"] = serde_json::json!({ "listen": listen });
    config["interfaces"] = serde_json::json!([INTERFACE, "extra"]);
    lbd.write_config(&config.to_string())?;
    let taken = || balancer.ns.run(|| TcpListener::bind(listen))?.context("take the API's port");

    balancer
        .ns
        .ip_batch("link add extra type veth peer name other\nlink set extra up\nlink set other up\n")?;
    let taker = taken()?;
    expect_refusal(&lbd.run_to_end(balancer)?, &["127.0.0.1:9100", "in use"])?;
    nothing_is_left(&lbd, &topology)?;
    assert_eq!(balancer.ns.read_sysctl("net.ipv4.ip_local_reserved_ports")?, "");
    drop(taker);
    lbd.restart(balancer)?;
    lbd.kill()?;

    let _taker = taken()?;
    balancer.ns.ip_batch("link del extra\n")?;
    lbd.launch(balancer)?;
    // It is not ready, but it answers.
    let begun = Instant::now();
    while lbd.get("/v1/version").is_err() {
        ensure!(begun.elapsed() < LIMIT, "it does not answer:\n{}", lbd.log());
        thread::sleep(Duration::from_millis(50));
    }
    let status = lbd.get("/v1/status")?;
    assert_eq!(status["interfaces"][0]["adopted"], true, "{status:#}");
    let said = status.to_string();
    for part in ["there is no interface extra", "api.listen: ", "127.0.0.1:9100"] {
        ensure!(said.contains(part), "`{part}` is not in {status:#}");
    }
    // The API that there is can mend it.
    config["interfaces"] = serde_json::json!([INTERFACE]);
    let (code, answer) =
        lbd.request(Method::PUT, "/v1/configuration", Some(("application/yaml", &config.to_string())))?;
    assert_eq!(code, StatusCode::OK, "{answer}");
    lbd.wait_ready(LIMIT)
}

#[test]
fn a_kernel_that_is_too_old() -> Result<()> {
    let _alone = require::alone();
    let (lbd, topology) = prepared()?;
    // The kernel then names itself 2.6.
    let output = run_through(&lbd, &topology, "setarch", &["--uname-2.6"])?;
    expect_refusal(&output, &["the kernel is 2.6.", "Linux 6.1 or newer"])?;
    nothing_is_left(&lbd, &topology)
}

#[test]
fn an_interface_that_does_not_exist() -> Result<()> {
    let _alone = require::alone();
    let (lbd, topology) = prepared()?;
    let mut config = standard(&topology);
    config["interfaces"] = serde_json::json!(["eth7"]);
    lbd.write_config(&config.to_string())?;
    expect_refusal(&lbd.run_to_end(&topology.balancer)?, &["interfaces", "there is no eth7", INTERFACE])?;
    nothing_is_left(&lbd, &topology)
}

#[test]
fn a_faulty_configuration_at_the_start_names_every_fault_and_its_line() -> Result<()> {
    let _alone = require::alone();
    let (lbd, topology) = prepared()?;
    lbd.write_config(
        "interfaces: [eth0]\n\
         snat: { ipv4: [10.10.0.2], ports: 30000-40000 }\n\
         services:\n\
         \x20 - { name: web, address: 10.10.0.100, protocol: tcp, port: 70000, allow: any, group: web }\n\
         \x20 - { name: more, address: 10.10.0.300, protocol: tcp, port: 80, allow: any, group: nowhere }\n\
         groups:\n\
         \x20 - { name: web, colour: red, targets: [{ address: 10.10.0.21, port: 8080 }] }\n",
    )?;
    let output = lbd.run_to_end(&topology.balancer)?;
    expect_refusal(&output, &["70000", "10.10.0.300", "nowhere", "colour", ":4:", ":5:", ":7:"])?;
    nothing_is_left(&lbd, &topology)
}

#[test]
fn source_ports_that_the_host_uses_itself() -> Result<()> {
    let _alone = require::alone();
    let (lbd, topology) = prepared()?;
    let mut config = standard(&topology);
    // The default ephemeral range begins within it.
    config["snat"]["ports"] = "30000-40000".into();
    lbd.write_config(&config.to_string())?;
    expect_refusal(
        &lbd.run_to_end(&topology.balancer)?,
        &["30000-40000", "ephemeral ports 32768-60999", "choose ports outside"],
    )?;
    nothing_is_left(&lbd, &topology)
}

#[test]
fn a_return_path_without_the_program() -> Result<()> {
    let _alone = require::alone();
    require::everything()?;
    let topology = Topology::new(Shape::OtherInterface)?;
    let mut config = standard(&topology);
    config["interfaces"] = serde_json::json!([INTERFACE]);
    let lbd = Lbd::prepare(&topology.balancer, &config.to_string())?;
    expect_refusal(&lbd.run_to_end(&topology.balancer)?, &["eth1", "interfaces", "target-1"])?;
    nothing_is_left(&lbd, &topology)
}

#[test]
fn a_faulty_change_changes_nothing_and_names_every_fault() -> Result<()> {
    let _alone = require::alone();
    let bed = Testbed::new(Shape::SameLink, |_| Ok(()))?;
    let load = bed.load(Family::V4).rate(300.0).concurrency(32).start(&bed.topology.client.ns)?;
    let revision = bed.lbd.get("/v1/status")?["revision"].clone();
    let generation = bed.lbd.get("/v1/status")?["data_plane"]["generation"].clone();
    let mut config = bed.configuration()?;
    entry(&mut config, "services", "web-v4")?["group"] = "nowhere".into();
    entry(&mut config, "services", "web-v6")?["port"] = 0.into();
    entry(&mut config, "groups", "web-v4")?["table_slots"] = 100.into();
    let faulty = format!("{config:#}");

    // Through the API.
    let (status, answer) = bed.put_configuration(&faulty)?;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{answer}");
    let problem: serde_json::Value = serde_json::from_str(&answer)?;
    let faults = problem["faults"].as_array().context("no faults")?;
    ensure!(faults.len() >= 3, "not all faults are named: {problem:#}");
    ensure!(
        faults.iter().all(|fault| fault["line"].is_number() && fault["message"].is_string()),
        "{problem:#}"
    );
    for part in ["nowhere", "port", "table_slots"] {
        ensure!(answer.contains(part), "no {part} in {problem:#}");
    }

    // Through lbctl, which points into the file.
    let file = bed.lbd.scratch("faulty.yaml");
    fs::write(&file, &faulty)?;
    let output = bed.lbd.lbctl_output(&["apply", &file.to_string_lossy()])?;
    expect_refusal(&output, &["nowhere", "table_slots", "faulty.yaml"])?;

    // Through the file and a signal; the agent goes on.
    bed.lbd.write_config(&faulty)?;
    bed.lbd.signal(Signal::SIGHUP)?;
    let refused = |status: &serde_json::Value| {
        status["file"]["error"].as_str().is_some_and(|error| error.starts_with("it has "))
    };
    bed.lbd.wait_for("/v1/status", SOON, refused)?;
    let begun = Instant::now();
    while !bed.lbd.log().contains("nowhere") {
        ensure!(begun.elapsed() < SOON, "the log does not say why the file was refused:\n{}", bed.lbd.log());
        thread::sleep(Duration::from_millis(50));
    }

    let log = bed.lbd.log();
    let place = format!("{}:", bed.lbd.config_path().display());
    let told = log.lines().find_map(|line| line.split_once(&place)).context("no place in the log")?;
    ensure!(told.1.starts_with(|first: char| first.is_ascii_digit()), "no line: {}", told.1);

    let status = bed.lbd.get("/v1/status")?;
    assert_eq!(
        (&status["revision"], &status["data_plane"]["generation"]),
        (&revision, &generation),
        "{status:#}"
    );
    load.finish()?.expect_no_failures()
}

#[test]
fn a_new_interface_that_does_not_take_the_program_refuses_the_whole_change() -> Result<()> {
    let _alone = require::alone();
    let bed = Testbed::not_all_up(Shape::SameLink, 0, |_| Ok(()))?;
    let ns = &bed.topology.balancer.ns;
    ns.ip_batch("link add nic1 type veth peer name nic1p\nlink set nic1 up\nlink set nic1p up\n")?;
    xdp_pass::attach(ns, "nic1")?;
    let in_force = || -> Result<[serde_json::Value; 3]> {
        let status = bed.lbd.get("/v1/status")?;
        let names = status["interfaces"].as_array().into_iter().flatten().map(|found| found["name"].clone());
        Ok([status["revision"].clone(), status["data_plane"]["generation"].clone(), names.collect()])
    };
    let before = in_force()?;
    let mut config = bed.configuration()?;
    config["interfaces"] = serde_json::json!([INTERFACE, "nic1"]);
    entry(&mut config, "services", "web-v4")?["port"] = 8888.into();

    let (status, answer) = bed.put_configuration(&config.to_string())?;
    assert_eq!(status, StatusCode::CONFLICT, "{answer}");
    for part in ["nic1", "already carries an XDP program", "xdpdrv off", "nothing was changed"] {
        ensure!(answer.contains(part), "no {part} in {answer}");
    }
    assert_eq!(in_force()?, before);
    bed.lbd.wait_ready(SOON)?;

    let program = || ns.exec("ip", &["-details", "link", "show", "dev", "nic1"]);
    ns.exec("ip", &["link", "set", "dev", "nic1", "xdpdrv", "off"])?;
    bed.apply(&config)?;
    ensure!(program()?.contains("prog/xdp"), "{}", program()?);
    config["interfaces"] = serde_json::json!([INTERFACE]);
    bed.apply(&config)?;
    ensure!(!program()?.contains("prog/xdp"), "{}", program()?);
    ensure!(!bed.lbd.pins().join("links/nic1").exists(), "its link is left");
    bed.lbd.wait_ready(SOON)
}

#[test]
fn a_client_without_an_agent() -> Result<()> {
    let mut command = Command::new(binary("lbctl")?);
    command.args(["--socket", "/nonexistent/lbd.sock", "status"]);
    let output = process::output(&mut command, LIMIT)?;
    expect_refusal(&output, &["/nonexistent/lbd.sock", "lbd"])
}

#[test]
fn what_does_not_exist_is_told_apart() -> Result<()> {
    let _alone = require::alone();
    let bed = Testbed::new(Shape::SameLink, |_| Ok(()))?;
    let none = bed.lbd.lbctl_output(&["drain", "web-v4/nobody"])?;
    expect_refusal(&none, &["nobody"])?;
    let unserved = bed.lbd.lbctl_output(&["flows", "--service", "nothing"])?;
    expect_refusal(&unserved, &["there is no service `nothing`"])?;
    assert_eq!(unserved.status.code(), none.status.code());
    let away = {
        let mut command = Command::new(binary("lbctl")?);
        command.args(["--socket", "/nonexistent/lbd.sock", "status"]);
        process::output(&mut command, LIMIT)?
    };
    let usage = bed.lbd.lbctl_output(&["dance"])?;
    let codes = [none.status.code(), away.status.code(), usage.status.code()];
    ensure!(codes[0] != codes[1] && codes[1] != codes[2] && codes[0] != codes[2], "exit codes {codes:?}");
    Ok(())
}

#[test]
fn generic_mode_only_where_it_is_permitted_and_never_in_silence() -> Result<()> {
    let _alone = require::alone();
    // A bridge has no driver hook.
    let bridge = |mode: &str| -> Result<(Lbd, Topology)> {
        require::everything()?;
        let topology = Topology::build(Shape::SameLink, 1, None)?;
        topology.balancer.ns.ip_batch("link add br9 type bridge\nlink set br9 up\n")?;
        let mut config = standard(&topology);
        config["interfaces"] = serde_json::json!([INTERFACE, "br9"]);
        config["xdp"] = mode.into();
        let lbd = Lbd::prepare(&topology.balancer, &config.to_string())?;
        Ok((lbd, topology))
    };
    let (lbd, topology) = bridge("native")?;
    expect_refusal(&lbd.run_to_end(&topology.balancer)?, &["br9", "native", "native-or-generic"])?;
    nothing_is_left(&lbd, &topology)?;
    drop((lbd, topology));

    let (mut lbd, topology) = bridge("native-or-generic")?;
    lbd.restart(&topology.balancer)?;
    let status = lbd.get("/v1/status")?;
    let mode = |index: usize| status["interfaces"][index]["xdp_mode"].clone();
    assert_eq!((mode(0), mode(1)), ("native".into(), "generic".into()), "{status:#}");
    ensure!(status["interfaces"][1]["reason"].is_string(), "it is not said why: {status:#}");
    ensure!(lbd.log().contains("generic"), "the log is silent:\n{}", lbd.log());
    Ok(())
}

#[test]
fn generic_mode_balances_too() -> Result<()> {
    let _alone = require::alone();
    let bed = Testbed::new(Shape::SameLink, |config| {
        config["xdp"] = "generic".into();
        Ok(())
    })?;
    for family in Family::BOTH {
        bed.load(family).count(1_000).concurrency(16).run(&bed.topology.client.ns)?.expect_no_failures()?;
    }
    assert_eq!(bed.lbd.get("/v1/status")?["interfaces"][0]["xdp_mode"], "generic");
    Ok(())
}

#[test]
fn the_socket_is_not_for_everybody() -> Result<()> {
    let _alone = require::alone();
    let bed = Testbed::new(Shape::SameLink, |_| Ok(()))?;
    let mode = fs::metadata::<&Path>(&bed.lbd.socket())?.permissions().mode() & 0o777;
    assert_eq!(mode, 0o660);
    Ok(())
}
