//! `--keep`: how to play with what is running.

use anyhow::{Context, Result};
use lb_tests::lbd;

use crate::{
    network::{Network, socket},
    screen::{Screen, command},
    shown,
};

/// Says what can be typed in another terminal.
pub(crate) fn explain(network: &Network, screen: &Screen) -> Result<()> {
    let lbctl = format!("sudo {} --socket {}", shown(&lbd::binary("lbctl")?), socket(&network.lbd));
    let client = format!("sudo nsenter --net={}", network.topology.client.ns.path().display());
    let balancer = format!("sudo nsenter --net={}", network.topology.balancer.ns.path().display());
    let (group, target) = (&network.groups[0], network.targets.last().context("no targets")?);
    let target = &target.name;
    let server = network.servers.all.first().context("no servers")?;
    let pid = server.pid().context("a server has ended")?;

    screen.heading(
        "Everything keeps running, with its clients, until Ctrl-C. In another terminal, for instance:",
    );
    let section = |title: &str, commands: &[String]| {
        screen.line(&format!("  {title}"));
        commands.iter().for_each(|text| screen.line(&format!("  {}", command(text))));
    };
    let requests = Network::services().into_iter().map(|to| format!("{client} curl -sg http://{to}/"));
    section("Be a client", &requests.collect::<Vec<_>>());
    section("Look", &["status", "targets", "flows", "drops"].map(|view| format!("{lbctl} {view}")));
    section(
        "Take a target out for a while, and back",
        &["drain", "ready"].map(|verb| format!("{lbctl} {verb} {group}/{target}")),
    );
    section(
        &format!("Let the server of {} hang, and go on", server.name()),
        &["STOP", "CONT"].map(|signal| format!("sudo kill -{signal} {pid}")),
    );
    section(
        "Change the configuration",
        &[format!("sudo $EDITOR {0} && {lbctl} apply {0}", network.lbd.config_path().display())],
    );
    section("See the balancer's network", &[format!("{balancer} ip address")]);
    Ok(())
}
