//! What the demo runs on: the network, the servers and the agent.

use std::{
    io::ErrorKind,
    net::{IpAddr, SocketAddr},
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr as SocketName, UnixListener},
    },
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use lb_tests::{
    http::Servers,
    lbd::Lbd,
    netns, require,
    topology::{Family, Shape, Topology},
};
use lb_userspace::{
    api::types::{AdminState, TargetView, Verdict},
    config::{
        self,
        model::{HealthCheck, TargetGroup},
    },
};
use serde_json::Value;

use crate::{
    interrupt::Interrupt,
    screen::{Screen, command, seconds},
    watcher,
};

const CONFIG: &str = include_str!("../../../../examples/demo.yaml");
/// What the namespaces' names begin with.
const PREFIX: &str = "portside";
const LOCK: &str = "portside-demo";
/// The port of the service.
const WEB: u16 = 80;
const START: Duration = Duration::from_secs(20);

/// Network, servers and agent. Dropped in the order agent, servers, network.
pub(crate) struct Network {
    pub(crate) lbd: Lbd,
    pub(crate) servers: Servers,
    pub(crate) topology: Topology,
    /// The targets as the configuration has them.
    pub(crate) targets: Vec<Target>,
    /// The groups that these targets are in: one for each family.
    pub(crate) groups: Vec<String>,
    /// How long it may take to find out that a server is dead.
    pub(crate) detection: Duration,
    _lock: UnixListener,
}

/// A target as the configuration has it.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) name: String,
    pub(crate) zone: String,
    pub(crate) weight: u32,
}

impl Network {
    /// Makes everything, and waits until every target is up.
    pub(crate) fn build(screen: &Screen, interrupt: &Interrupt) -> Result<Self> {
        require::root()?;
        require::everything()?;
        let lock = lock()?;
        remove_leftovers(screen)?;

        let checked = config::parse(CONFIG, "examples/demo.yaml").map_err(|faults| anyhow!("{faults}"))?;
        let groups = &checked.config.groups;
        let first = groups.first().context("a configuration without groups")?;
        let targets: Vec<Target> = first
            .targets
            .iter()
            .map(|target| Target {
                name: target.name.clone(),
                zone: target.zone.clone().unwrap_or_default(),
                weight: target.weight,
            })
            .collect();

        screen.heading("Setting up");
        let step = Step::begin();
        let topology = Topology::build(Shape::SameLink, u8::try_from(targets.len())?, Some(PREFIX))?;
        step.done(
            screen,
            &format!(
                "network: a client, a balancer and {} targets in two zones, each a network namespace",
                targets.len()
            ),
        );
        interrupt.check()?;

        let step = Step::begin();
        let port = first.targets.first().context("a group without targets")?.port;
        for (group, family) in groups.iter().zip(Family::BOTH) {
            ensure!(
                matches(group, &topology, family),
                "the targets of group `{}` in examples/demo.yaml are not those of the network",
                group.name
            );
        }
        let servers = Servers::start(&topology, port)?;
        step.done(screen, &format!("servers: nginx on each target, port {port}, IPv4 and IPv6"));
        interrupt.check()?;

        let step = Step::begin();
        let mut lbd = Lbd::prepare(&topology.balancer, CONFIG)?;
        lbd.quiet();
        lbd.launch(&topology.balancer)?;
        lbd.wait_ready(START)?;
        let network = Self {
            groups: groups.iter().map(|group| group.name.clone()).collect(),
            detection: first.health.as_ref().map(detection).context("a group without a health check")?,
            lbd,
            servers,
            topology,
            targets,
            _lock: lock,
        };
        let up = interrupt.wait(START, || Ok(network.all_take_flows(&network.views()?)))?;
        ensure!(up, "not every target is up after {}; the agent's log:\n{}", seconds(START), network.log());
        step.done(screen, &format!("agent: {}", network.agent()?));
        for (family, service) in Family::BOTH.into_iter().zip(&checked.config.services) {
            let address = family.vip(WEB);
            ensure!(
                service.address == address.ip(),
                "the address of `{}` is not the network's",
                service.name
            );
        }
        Ok(network)
    }

    /// Where clients connect to.
    pub(crate) fn services() -> Vec<SocketAddr> {
        Family::BOTH.map(|family| family.vip(WEB)).to_vec()
    }

    /// Every target of every group as the agent now shows it.
    pub(crate) fn views(&self) -> Result<Vec<TargetView>> {
        watcher::targets(&self.lbd.socket())
    }

    /// What is said of each target: `up`, `down`, `draining`…
    pub(crate) fn states(&self, views: Option<&[TargetView]>) -> Vec<String> {
        let Some(views) = views else { return vec!["no agent".to_owned(); self.targets.len()] };
        let state = |target: &Target| {
            let mut states = views.iter().filter(|view| view.name == target.name).map(state);
            let first = states.next().unwrap_or_default();
            // The families differ for moments only.
            let other = states.next().filter(|other| *other != first);
            other.map_or(first.clone(), |other| format!("{first}/{other}"))
        };
        self.targets.iter().map(state).collect()
    }

    /// Whether every target of every group takes new flows.
    pub(crate) fn all_take_flows(&self, views: &[TargetView]) -> bool {
        views.len() == self.groups.len() * self.targets.len() && views.iter().all(|view| view.takes_new_flows)
    }

    /// Runs an `lbctl` command for a target in each of its groups, and shows it.
    pub(crate) fn lbctl(&self, screen: &Screen, verb: &str, target: &str) -> Result<()> {
        for group in &self.groups {
            let name = format!("{group}/{target}");
            screen.line(&command(&format!("lbctl {verb} {name}")));
            self.lbd.lbctl(&[verb, &name])?;
        }
        Ok(())
    }

    /// What the agent says of itself, in a line.
    pub(crate) fn agent(&self) -> Result<String> {
        let status = self.lbd.get("/v1/status")?;
        let interface = &status["interfaces"][0];
        let text = |value: &Value| value.as_str().unwrap_or("unknown").to_owned();
        Ok(format!(
            "lbd {}, XDP on {} in {} mode, revision {}, {} of {} targets up",
            text(&status["version"]["version"]),
            text(&interface["name"]),
            text(&interface["xdp_mode"]),
            status["revision"]["number"],
            status["counts"]["targets_up"],
            status["counts"]["targets"],
        ))
    }

    /// What the agent has logged.
    pub(crate) fn log(&self) -> String {
        self.lbd.log()
    }

    /// Removes everything; fails if something is left.
    pub(crate) fn remove(mut self) -> Result<()> {
        if self.lbd.is_running() {
            self.lbd.stop()?;
        }
        self.lbd.unload(&self.topology.balancer)?;
        let pins = self.lbd.pins().to_owned();
        let names: Vec<String> = self.topology.namespaces().map(|ns| ns.name().to_owned()).collect();
        drop(self);
        ensure!(!pins.exists(), "{} is left", pins.display());
        let left: Vec<String> = names.into_iter().filter(|name| netns::exists(name)).collect();
        ensure!(left.is_empty(), "network namespaces are left: {}", left.join(", "));
        Ok(())
    }
}

fn state(view: &TargetView) -> String {
    match view.admin.state {
        AdminState::Ready => view.health.verdict.to_string(),
        _ if view.health.verdict == Verdict::Down => view.health.verdict.to_string(),
        state => admin_state(state).to_owned(),
    }
}

/// An administrative state, for people.
pub(crate) fn admin_state(state: AdminState) -> &'static str {
    match state {
        AdminState::Ready => "ready",
        AdminState::Draining => "draining",
        AdminState::Drained => "drained",
        AdminState::Maintenance => "maintenance",
    }
}

fn matches(group: &TargetGroup, topology: &Topology, family: Family) -> bool {
    group.targets.len() == topology.targets.len()
        && group.targets.iter().zip(&topology.targets).all(|(target, host)| {
            let address: IpAddr = host.address(family, target.port).ip();
            (target.address, &target.name, target.zone.as_ref()) == (address, &host.name, Some(&host.zone))
        })
}

fn detection(health: &HealthCheck) -> Duration {
    health.interval * health.fall + health.timeout
}

/// One demo at a time: its networks have names for people to use. An abstract name leaves no file behind.
fn lock() -> Result<UnixListener> {
    let name = SocketName::from_abstract_name(LOCK).context("make a socket's name")?;
    match UnixListener::bind_addr(&name) {
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            bail!("another demo is running: end it with Ctrl-C first")
        }
        bound => bound.context("bind a socket as a lock"),
    }
}

/// What a killed demo left: it holds the lock no more.
fn remove_leftovers(screen: &Screen) -> Result<()> {
    let labels = ["front", "client", "balancer"].map(str::to_owned).into_iter();
    for label in labels.chain((1..=4).map(|number| format!("target-{number}"))) {
        let name = format!("{PREFIX}-{label}");
        if netns::exists(&name) {
            screen.line(&format!("removing {name}, which an earlier demo has left"));
            netns::remove_left(&name)?;
        }
    }
    Ok(())
}

struct Step(Instant);

impl Step {
    fn begin() -> Self {
        Self(Instant::now())
    }

    fn done(self, screen: &Screen, what: &str) {
        let time = console::style(format!("({})", seconds(self.0.elapsed()))).dim();
        screen.line(&format!("  {} {what} {time}", console::style("✓").green()));
    }
}

/// The agent's socket, for people.
pub(crate) fn socket(lbd: &Lbd) -> String {
    let socket = lbd.socket();
    Path::new(&socket).display().to_string()
}
