//! What happens in a run, drawn from its seed.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use lb_common::verdict::Verdict;
use lb_tests::packet::{Flags, Frame};
use lb_userspace::{
    api::types::{EventKind, TargetState as Wanted},
    config::model::*,
    core::health::Verdict as Health,
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use super::{
    checks,
    configs::{TIMEOUTS, all_targets, config},
    node::{Node, World},
    traffic::{Connection, Fate, open},
};

const SECOND: Duration = Duration::from_secs(1);
/// A run's state: the balancer, the world around it, and what clients remember.
pub(crate) struct Simulation {
    pub(crate) rng: StdRng,
    pub(crate) node: Node,
    pub(crate) world: World,
    pub(crate) connections: Vec<Connection>,
    /// Targets that new flows may go to, as last known to a living agent.
    pub(crate) eligible: BTreeMap<String, BTreeSet<SocketAddr>>,
    /// Since when a target does not answer.
    pub(crate) dead_since: BTreeMap<SocketAddr, Duration>,
    /// Since when the agent lives.
    pub(crate) alive_since: Duration,
    /// What operators asked of targets, by group and name.
    pub(crate) asked: BTreeMap<(String, String), Wanted>,
    next_port: u16,
    notices_seen: usize,
    trace: DefaultHasher,
    /// How often things happened.
    tally: BTreeMap<&'static str, u64>,
}

/// What happened in a run.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Account {
    /// A hash of everything.
    trace: u64,
    /// How often each kind of thing happened.
    pub(crate) tally: BTreeMap<&'static str, u64>,
}

/// Runs one seed.
pub(crate) fn run(seed: u64, steps: usize) -> Account {
    let mut rng = StdRng::seed_from_u64(seed);
    let world = World::default();
    let node = Node::new(config(&mut rng), &world);
    let mut simulation = Simulation {
        rng,
        node,
        world,
        connections: Vec::new(),
        eligible: BTreeMap::new(),
        dead_since: BTreeMap::new(),
        alive_since: Duration::ZERO,
        asked: BTreeMap::new(),
        next_port: 1024,
        notices_seen: 0,
        trace: DefaultHasher::new(),
        tally: BTreeMap::new(),
    };
    simulation.pass(2 * SECOND);
    for step in 0..steps {
        simulation.step();
        simulation.after(step);
    }
    Account { trace: simulation.trace.finish(), tally: simulation.tally }
}

impl Simulation {
    fn step(&mut self) {
        match self.rng.random_range(0..100) {
            0..30 => self.open(),
            30..58 => self.exchange(),
            58..64 => self.close(),
            64..70 => self.fail_or_recover(),
            70..72 => self.lose_or_find(),
            72..78 => self.apply(),
            78..81 => self.set_target(),
            81..84 => self.kill_or_restart(),
            84..86 => self.stray(),
            86..97 => {
                let time = Duration::from_millis(self.rng.random_range(50..4000));
                self.pass(time);
            }
            97..99 => {
                let time = Duration::from_secs(self.rng.random_range(20..90));
                self.pass(time);
            }
            _ => {
                self.tally("compared");
                checks::peers_agree(self);
            }
        }
    }

    fn after(&mut self, step: usize) {
        self.read_notices();
        checks::counters(self);
        checks::flows(self);
        checks::detection(self);
        self.learn();
        (step, self.node.now, self.connections.len(), self.node.notices.len()).hash(&mut self.trace);
    }

    pub(crate) fn pass(&mut self, time: Duration) {
        self.node.pass(time, &self.world);
        for connection in &mut self.connections {
            let lifetime = match connection.protocol {
                Protocol::Tcp => TIMEOUTS.tcp_established,
                Protocol::Udp => TIMEOUTS.udp_established,
            };
            connection.may_end |= self.node.now - connection.used >= lifetime;
        }
        self.read_notices();
        self.learn();
    }

    /// Which targets new flows may go to from now on.
    fn learn(&mut self) {
        let Some(core) = self.node.core.as_ref().filter(|core| core.is_sure()) else { return };
        self.eligible.clear();
        let mut down = Vec::new();
        for (group, state) in core.groups() {
            // A target that was used although it was down is down again once another one is up.
            let none_up = state.targets.iter().all(|target| target.why_not().is_some());
            if !(none_up && group.on_all_down == OnAllDown::Open) {
                let found = state.targets.iter().filter(|target| target.verdict() == Health::Down);
                down.extend(found.map(|target| (group.clone(), target.config.clone())));
            }
            let up = state.targets.iter().filter(|target| target.why_not().is_none());
            let mut up: BTreeSet<SocketAddr> = up.map(lb_userspace::core::TargetState::address).collect();
            if up.is_empty() && group.on_all_down == OnAllDown::Open {
                let open = state.targets.iter().filter(|target| target.barred().is_none());
                up = open.map(lb_userspace::core::TargetState::address).collect();
            }
            self.eligible.insert(group.name.clone(), up);
        }
        for (group, target) in down {
            self.permit_end(&group, &target, false);
        }
    }

    /// What became of targets that the group wants flows to be ended for.
    fn read_notices(&mut self) {
        let notices = self.node.notices[self.notices_seen..].to_vec();
        self.notices_seen = self.node.notices.len();
        for notice in notices {
            notice.message.hash(&mut self.trace);
            let down = notice.kind == EventKind::TargetDown;
            let deadline = notice.kind == EventKind::TargetDrained && notice.message.contains("deadline");
            if !down && !deadline {
                continue;
            }
            let found = self.node.targets().find(|(g, t)| format!("{}/{}", g.name, t.name) == notice.subject);
            let Some((group, target)) = found.map(|(g, t)| (g.clone(), t.clone())) else { continue };
            self.tally(if down { "down" } else { "drained by the deadline" });
            self.permit_end(&group, &target, deadline);
        }
    }

    /// From now on the target's connections may be ended as the group says, or all of them.
    fn permit_end(&mut self, group: &TargetGroup, target: &Target, all: bool) {
        let address = SocketAddr::new(target.address, target.port);
        for connection in &mut self.connections {
            let choice = match connection.protocol {
                Protocol::Tcp => group.on_target_down.tcp,
                Protocol::Udp => group.on_target_down.udp,
            };
            if connection.group == group.name && connection.target == address {
                connection.may_end |= all || choice == EstablishedFlows::End;
            }
        }
    }

    fn open(&mut self) {
        let index = self.rng.random_range(0..self.node.config.services.len());
        let service = self.node.config.services[index].clone();
        let denied_net = self.rng.random_bool(0.3);
        let host = self.rng.random_range(1..50);
        let client: IpAddr = match (service.address.is_ipv4(), denied_net) {
            (true, false) => Ipv4Addr::new(10, 50, 0, host).into(),
            (true, true) => Ipv4Addr::new(10, 60, 0, host).into(),
            (false, false) => Ipv6Addr::new(0xfd50, 0, 0, 0, 0, 0, 0, host.into()).into(),
            (false, true) => Ipv6Addr::new(0xfd60, 0, 0, 0, 0, 0, 0, host.into()).into(),
        };
        self.next_port = if self.next_port == u16::MAX { 1024 } else { self.next_port + 1 };
        let client = SocketAddr::new(client, self.next_port);
        let vip = SocketAddr::new(service.address, service.port);
        let seq = self.rng.random();
        // A handshake to a target whose next hop is lost while the agent is dead goes nowhere.
        let lost = self.node.core.is_none() && !self.world.unreachable.is_empty();
        let names = (service.name.as_str(), service.group.as_str());
        let eligible = self.eligible.get(&service.group).cloned().unwrap_or_default();
        let opened = open(&mut self.node, names, service.protocol, client, vip, seq);
        format!("{opened:?}").hash(&mut self.trace);
        let allowed = allows(&service, client.ip());
        match opened {
            Ok(connection) => {
                assert!(allowed, "{client} may not connect to {}", service.name);
                assert!(
                    eligible.contains(&connection.target),
                    "{} takes no new flows; {eligible:?} do",
                    connection.target
                );
                self.connections.push(connection);
                self.tally(if self.node.core.is_some() { "opened" } else { "opened without an agent" });
            }
            Err(Verdict::DropAccessDenied) => assert!(!allowed, "{client} may connect to {}", service.name),
            Err(verdict) => {
                self.tally("refused for want of a target");
                assert!(allowed, "{client} is denied, not {verdict:?}");
                let none = match self.group(&service.group).on_all_down {
                    OnAllDown::Drop => Verdict::DropNoTarget,
                    _ if service.protocol == Protocol::Tcp => Verdict::AnsweredReset,
                    _ => Verdict::AnsweredUnreachable,
                };
                let why = verdict == none && eligible.is_empty();
                assert!(why || lost, "{verdict:?} although {eligible:?} take new flows");
            }
        }
    }

    fn group(&self, name: &str) -> TargetGroup {
        self.node.config.groups.iter().find(|group| group.name == name).expect("it is configured").clone()
    }

    fn exchange(&mut self) {
        let Some(index) = self.pick_connection() else { return };
        let mut connection = self.connections.swap_remove(index);
        let fate = connection.exchange(&mut self.node, b"0123456789");
        if self.judge(&connection, fate) {
            self.connections.push(connection);
        }
    }

    fn close(&mut self) {
        let Some(index) = self.pick_connection() else { return };
        let mut connection = self.connections.swap_remove(index);
        if connection.protocol == Protocol::Udp {
            return;
        }
        let reset = self.rng.random_bool(0.3);
        let fate = connection.close(&mut self.node, reset);
        self.judge(&connection, fate);
    }

    fn pick_connection(&mut self) -> Option<usize> {
        let count = self.connections.len();
        (count > 0).then(|| self.rng.random_range(0..count))
    }

    /// Whether what became of a connection's packet is what was promised; whether the connection goes on.
    fn judge(&mut self, connection: &Connection, fate: Fate) -> bool {
        (format!("{fate:?}"), connection.target).hash(&mut self.trace);
        let service = self.node.config.services.iter().find(|service| service.name == connection.service);
        let allowed = service.is_some_and(|service| allows(service, connection.client.ip()));
        match fate {
            Fate::Delivered => {
                assert!(allowed, "{} is no longer allowed: {connection:?}", connection.client);
                assert!(!self.must_end(connection), "its target was taken away: {connection:?}");
                self.tally("delivered");
                true
            }
            Fate::Waits => {
                self.tally("waits for its next hop");
                let known = self.world.unreachable.contains(&connection.target.ip());
                assert!(known || self.node.core.is_none(), "the way is known: {connection:?}");
                true
            }
            Fate::Over(Verdict::DropAccessRevoked | Verdict::DropUndeclaredPort | Verdict::PassNotOurs)
                if !allowed =>
            {
                self.tally("revoked");
                false
            }
            Fate::Over(Verdict::DropAccessDenied) if !allowed && connection.may_end => false,
            Fate::Over(verdict) => {
                self.tally("ended");
                assert!(connection.may_end, "ended by {verdict:?} unasked: {connection:?}");
                false
            }
        }
    }

    /// Whether a living agent has had the connection's target's flows ended.
    fn must_end(&self, connection: &Connection) -> bool {
        let Some(core) = self.node.core.as_ref().filter(|core| core.is_sure()) else { return false };
        let Some((group, state)) = core.groups().find(|(group, _)| group.name == connection.group) else {
            return false;
        };
        let choice = match connection.protocol {
            Protocol::Tcp => group.on_target_down.tcp,
            Protocol::Udp => group.on_target_down.udp,
        };
        let none_up = state.targets.iter().all(|target| target.why_not().is_some());
        let open = none_up && group.on_all_down == OnAllDown::Open;
        let gone = match state.targets.iter().find(|target| target.address() == connection.target) {
            None => true,
            Some(target) => {
                let asked = self.asked.get(&(group.name.clone(), target.config.name.clone()));
                asked == Some(&Wanted::Maintenance) || (target.verdict() == Health::Down && !open)
            }
        };
        gone && choice == EstablishedFlows::End
    }

    fn tally(&mut self, what: &'static str) {
        *self.tally.entry(what).or_default() += 1;
    }

    fn fail_or_recover(&mut self) {
        let all = all_targets();
        let target = all[self.rng.random_range(0..all.len())];
        if !self.world.dead.remove(&target) {
            self.world.dead.insert(target);
            self.dead_since.insert(target, self.node.now);
        }
    }

    fn lose_or_find(&mut self) {
        let all = all_targets();
        let address = all[self.rng.random_range(0..all.len())].ip();
        if !self.world.unreachable.remove(&address) {
            self.world.unreachable.insert(address);
        }
        self.node.network(&self.world);
    }

    fn apply(&mut self) {
        if self.node.core.as_ref().is_none_or(|core| !core.is_sure()) {
            return;
        }
        let before = Arc::clone(&self.node.config);
        let next = Arc::new(config(&mut self.rng));
        self.node.refuse_after = self.rng.random_bool(0.25).then(|| self.rng.random_range(0..14));
        let in_force = self.node.apply(&next, &self.world);
        self.node.refuse_after = None;
        in_force.hash(&mut self.trace);
        self.tally(if in_force { "applied" } else { "taken back" });
        if in_force {
            let after = Arc::clone(&self.node.config);
            for group in &before.groups {
                let now = after.groups.iter().find(|now| now.name == group.name);
                for target in &group.targets {
                    let stays = now.is_some_and(|now| {
                        now.targets.iter().any(|now| (now.address, now.port) == (target.address, target.port))
                    });
                    if !stays {
                        self.permit_end(group, target, false);
                        self.asked.remove(&(group.name.clone(), target.name.clone()));
                    }
                }
            }
        }
        self.read_notices();
        // What was refused is repaired.
        self.pass(3 * SECOND);
        assert!(self.node.core.as_ref().is_some_and(lb_userspace::core::Core::is_sure));
    }

    fn set_target(&mut self) {
        if self.node.core.is_none() {
            return;
        }
        let targets: Vec<_> = self.node.targets().map(|(g, t)| (g.clone(), t.clone())).collect();
        let (group, target) = &targets[self.rng.random_range(0..targets.len())];
        let state = match self.rng.random_range(0..5) {
            0 => Wanted::Drain,
            1 => Wanted::Maintenance,
            _ => Wanted::Ready,
        };
        self.node.set_target(&group.name, &target.name, state);
        self.asked.insert((group.name.clone(), target.name.clone()), state);
        if state == Wanted::Maintenance {
            self.permit_end(group, target, false);
        }
    }

    fn kill_or_restart(&mut self) {
        if self.node.core.is_some() {
            self.node.kill();
        } else {
            self.node.restart(&self.world);
            self.alive_since = self.node.now;
            self.tally("restarted");
        }
    }

    /// Packets that nobody should see.
    fn stray(&mut self) {
        let service = self.node.config.services[0].clone();
        let client = SocketAddr::from(([10, 50, 0, 60], 40_000));
        let vip = |port| SocketAddr::new(service.address, port);
        let cases = [
            (Frame::tcp(client, vip(4444), Flags::SYN), Verdict::DropUndeclaredPort),
            (Frame::tcp(client, SocketAddr::from(([10, 0, 1, 1], 8080)), Flags::SYN), Verdict::PassNotOurs),
            (Frame::echo_request(client.ip(), service.address, 1, 1), Verdict::AnsweredEcho),
        ];
        for (frame, expected) in cases {
            assert_eq!(super::traffic::send(&mut self.node, &frame).verdict, expected, "{frame:?}");
        }
    }
}

/// Longest prefix decides; none denies.
fn allows(service: &Service, client: IpAddr) -> bool {
    let matching = service.access.iter().filter(|rule| rule.prefix.contains(&client));
    matching.max_by_key(|rule| rule.prefix.prefix_len()).is_some_and(|rule| rule.allow)
}
