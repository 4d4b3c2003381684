//! What becomes of a configuration that is offered, and what the agent then says of the one in force.

use std::fs;

use anyhow::{Context, Result, ensure};
use lb_tests::{
    require,
    testbed::{SOON, Testbed, entry},
    topology::Shape,
};
use serde_json::json;

#[test]
fn a_dry_run_refuses_what_an_apply_would() -> Result<()> {
    let _alone = require::alone();
    let bed = Testbed::new(Shape::SameLink, |config| {
        config["limits"] = json!({ "services": 6, "groups": 6 });
        Ok(())
    })?;
    let before = bed.lbd.get("/v1/status")?["revision"].clone();
    let mut config = bed.configuration()?;
    config["limits"] = json!({});
    for list in ["services", "groups"] {
        let mut more = entry(&mut config, list, "web-v4")?.clone();
        more["name"] = "more".into();
        if list == "services" {
            more["port"] = 82.into();
        }
        config[list].as_array_mut().context("no list")?.push(more);
    }
    let file = bed.lbd.scratch("more.json");
    fs::write(&file, config.to_string())?;
    let file = file.to_string_lossy();
    let tried = bed.lbd.lbctl_output(&["apply", "--dry-run", &file])?;
    let applied = bed.lbd.lbctl_output(&["apply", &file])?;
    assert_eq!((tried.status.code(), &tried.stderr), (Some(1), &applied.stderr));
    let lines: Vec<&str> = applied.stderr.lines().collect();
    ensure!(
        lines.len() == 2 && lines[0].contains("7 services") && lines[1].contains("7 target groups"),
        "{lines:?}"
    );
    assert_eq!(bed.lbd.get("/v1/status")?["revision"], before);
    Ok(())
}

#[test]
fn a_restart_is_no_deployment() -> Result<()> {
    let _alone = require::alone();
    let mut bed = Testbed::new(Shape::SameLink, |_| Ok(()))?;
    let before = bed.lbd.get("/v1/status")?["revision"].clone();
    bed.lbd.restart(&bed.topology.balancer)?;
    assert_eq!(bed.lbd.get("/v1/status")?["revision"], before);
    Ok(())
}

#[test]
fn a_configuration_that_comes_to_nothing_gives_its_source_ports_back() -> Result<()> {
    let _alone = require::alone();
    let bed = Testbed::new(Shape::SameLink, |config| {
        config["snat"]["ports"] = "2000-20000".into();
        Ok(())
    })?;
    let balancer = &bed.topology.balancer;
    let reserved = || balancer.ns.read_sysctl("net.ipv4.ip_local_reserved_ports");
    let state = bed.lbd.scratch("state");
    let kept = fs::read_to_string(state.join("ports.json"))?;
    let mut config = bed.configuration()?;
    config["snat"]["ports"] = "15000-31000".into();
    let mut more = entry(&mut config, "services", "web-v4")?.clone();
    (more["name"], more["port"]) = ("more".into(), 82.into());
    config["services"].as_array_mut().context("no services")?.push(more);

    // The new service's row cannot be kept.
    let rows = state.join("rows.json");
    fs::remove_file(&rows)?;
    fs::create_dir(&rows)?;
    let (status, answer) = bed.put_configuration(&config.to_string())?;
    ensure!(status.is_server_error() && answer.contains("nothing was changed"), "{status}: {answer}");
    assert_eq!(reserved()?, "2000-20000");
    assert_eq!(fs::read_to_string(state.join("ports.json"))?, kept);

    fs::remove_dir(&rows)?;
    bed.lbd.wait_ready(SOON)?;
    bed.apply(&config)?;
    assert_eq!(reserved()?, "15000-31000");
    Ok(())
}

#[test]
fn warnings_are_those_of_the_configuration_in_force() -> Result<()> {
    let _alone = require::alone();
    let bed = Testbed::new(Shape::SameLink, |config| {
        config["timeouts"] = json!({ "tcp_time_wait": "5s" });
        Ok(())
    })?;
    let warned = || {
        let status = bed.lbd.get("/v1/status")?;
        let warnings = status["warnings"].as_array().context("no warnings")?;
        let of = |key: &str| warnings.iter().filter(|told| told.to_string().contains(key)).count();
        anyhow::Ok((of("tcp_time_wait"), of("limits.flows")))
    };
    assert_eq!(warned()?, (1, 0));
    let first = bed.configuration()?;
    // Nothing to be said of the configuration, but of the maps on this host.
    let mut config = first.clone();
    config["timeouts"] = json!({});
    config["limits"] = json!({ "flows": 2000 });
    bed.apply(&config)?;
    assert_eq!(warned()?, (0, 1));
    bed.apply(&first)?;
    assert_eq!(warned()?, (1, 0));
    // What is refused leaves them as they are.
    config["snat"]["ports"] = "30000-40000".into();
    let (status, answer) = bed.put_configuration(&config.to_string())?;
    ensure!(status.is_client_error(), "{status}: {answer}");
    assert_eq!(warned()?, (1, 0));
    Ok(())
}
