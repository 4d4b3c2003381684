//! Configurations, and a kernel that is a value.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use ipnet::IpNet;
use jiff::Timestamp;
use lb_common::abi::{Control, Counters, NextHop, Target};

use super::super::{
    image::{Image, Policy, dangling},
    *,
};
use crate::{
    config::model::{self, *},
    core::health::{Check, CheckId, Due, Reason},
    dataplane::{Contents, CounterSnapshot, Write},
};

pub(super) const SLOTS: u32 = 251;

pub(super) fn limits() -> Limits {
    Limits { flows: 1024, services: 4, targets: 8, groups: 4, access_prefixes: 16, client_routes: 8 }
}

pub(super) fn sizes() -> Sizes {
    Sizes { limits: limits(), table_slots: SLOTS, handshakes: 64, ring: 1024 }
}

pub(super) fn target(index: u8, weight: u32) -> model::Target {
    let address = IpAddr::from([10, 0, 1, index]);
    model::Target { name: format!("t{index}"), address, port: 8080, zone: None, weight }
}

pub(super) fn group(name: &str, targets: &[(u8, u32)]) -> TargetGroup {
    TargetGroup {
        name: name.to_owned(),
        mode: Mode::Nat,
        targets: targets.iter().map(|(index, weight)| target(*index, *weight)).collect(),
        health: Some(HealthCheck {
            probe: Probe::Tcp,
            port: None,
            interval: Duration::from_secs(2),
            transition_interval: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            rise: 2,
            fall: 3,
        }),
        on_target_down: OnTargetDown { tcp: EstablishedFlows::Keep, udp: EstablishedFlows::End },
        on_all_down: OnAllDown::Reject,
        drain_deadline: Duration::from_secs(300),
        table_slots: SLOTS,
    }
}

pub(super) fn service(name: &str, last: u8, group: &str) -> Service {
    Service {
        name: name.to_owned(),
        address: IpAddr::from([10, 0, 0, last]),
        protocol: Protocol::Tcp,
        port: 80,
        group: group.to_owned(),
        access: vec![AccessRule {
            prefix: "0.0.0.0/0".parse::<IpNet>().unwrap(),
            allow: true,
            segment: None,
        }],
    }
}

pub(super) fn config(services: Vec<Service>, groups: Vec<TargetGroup>) -> Config {
    let second = Duration::from_secs(1);
    Config {
        interfaces: vec!["eth0".to_owned()],
        xdp_mode: XdpMode::Native,
        vip_placement: VipPlacement::Interface,
        snat: Snat {
            ipv4: vec!["10.0.0.2".parse().unwrap()],
            ipv6: vec![],
            ports: PortRange { first: 1024, last: 2047 },
        },
        segments: BTreeMap::new(),
        services,
        groups,
        timeouts: Timeouts {
            tcp_handshake: 30 * second,
            tcp_established: 350 * second,
            tcp_closing: 120 * second,
            tcp_time_wait: 60 * second,
            udp_unanswered: 30 * second,
            udp_established: 120 * second,
        },
        limits: limits(),
        api: Api { listen: None },
    }
}

pub(super) fn web(targets: &[(u8, u32)]) -> Config {
    config(vec![service("web", 100, "web")], vec![group("web", targets)])
}

pub(super) fn hop(seed: u8) -> Hop {
    let next_hop = NextHop { ifindex: 2, mtu: 1500, destination: [2, 0, 0, 0, 0, seed], source: [2; 6] };
    Hop { next_hop, gateway: None }
}

/// Every target of the configuration is on the link.
pub(super) fn facts(config: &Config) -> Facts {
    let targets = config.groups.iter().flat_map(|group| &group.targets);
    let targets = targets.map(|target| (target.address, Ok(hop(last(target.address))))).collect();
    Facts { targets, ..Facts::default() }
}

pub(super) fn last(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(address) => address.octets()[3],
        IpAddr::V6(address) => address.octets()[15],
    }
}

/// A core, the kernel it writes to, and what it asked for.
#[derive(Debug, Clone)]
pub(super) struct World {
    pub(super) core: Core,
    pub(super) kernel: Image,
    pub(super) counters: CounterSnapshot,
    pub(super) now: Duration,
    pub(super) saved_rows: Option<SavedRows>,
    pub(super) saved_admin: SavedAdmin,
    pub(super) notices: Vec<Notice>,
    pub(super) writes: Vec<Write>,
    pub(super) commands: Vec<Command>,
    pub(super) probes: BTreeMap<u64, (SocketAddr, Option<Due>)>,
    /// How many more writes succeed before one fails.
    pub(super) fails_after: Option<usize>,
    /// Whether administrative states cannot be saved.
    pub(super) saves_fail: bool,
}

impl World {
    pub(super) fn new() -> Self {
        let start =
            Start { wall: Timestamp::from_second(1_000_000).unwrap(), sizes: sizes(), ..Start::default() };
        let rows = |count: u32| vec![Counters::default(); count as usize + 1];
        let counters = CounterSnapshot {
            services: rows(limits().services),
            targets: rows(limits().targets),
            ..CounterSnapshot::default()
        };
        Self {
            core: Core::new(start),
            kernel: Image {
                sources: Some(Default::default()),
                filter: Some(Default::default()),
                ..Image::default()
            },
            counters,
            now: Duration::ZERO,
            saved_rows: None,
            saved_admin: SavedAdmin::new(),
            notices: Vec::new(),
            writes: Vec::new(),
            commands: Vec::new(),
            probes: BTreeMap::new(),
            fails_after: None,
            saves_fail: false,
        }
    }

    pub(super) fn apply(&mut self, config: &Config) -> &[Command] {
        self.handle(Event::Apply { config: Arc::new(config.clone()), facts: Arc::new(facts(config)) })
    }

    /// What an agent does with an event; returns the commands.
    pub(super) fn handle(&mut self, event: Event) -> &[Command] {
        self.writes.clear();
        self.commands.clear();
        let mut events = vec![event];
        while let Some(event) = events.pop() {
            let commands = self.core.handle(self.now, event);
            let write = commands.iter().position(|command| matches!(command, Command::Write(_)));
            assert!(write.is_none_or(|index| index + 1 == commands.len()), "a write is the last command");
            for command in commands {
                self.commands.push(command.clone());
                match command {
                    Command::SaveRows(rows) => self.saved_rows = Some(rows),
                    Command::SaveAdmin(_) if self.saves_fail => events.push(Event::AdminNotSaved),
                    Command::SaveAdmin(admin) => self.saved_admin = admin,
                    Command::Write(writes) => match self.write(&writes) {
                        true => events.push(Event::Written),
                        false => {
                            let error = "no memory".to_owned();
                            events.push(Event::WriteFailed { error, control: Some(self.kernel.control) });
                        }
                    },
                    Command::ReadBack => events.push(Event::ReadBack(Box::new(self.read()))),
                    Command::StartChecks(checks) => {
                        self.probes.insert(checks.life, (checks.address, None));
                    }
                    Command::Probe(due) => {
                        self.probes.get_mut(&due.check.incarnation).expect("checks were begun").1 = Some(due);
                    }
                    Command::StopChecks { life } => assert!(self.probes.remove(&life).is_some()),
                    Command::Notify(notice) => self.notices.push(notice),
                    Command::Vips(_) | Command::KeepWarm(_) | Command::Refuse(_) => {}
                }
            }
        }
        self.check();
        &self.commands
    }

    fn write(&mut self, writes: &[Write]) -> bool {
        let mut pending = None;
        for write in writes {
            if let Some(left) = &mut self.fails_after {
                if *left == 0 {
                    self.fails_after = None;
                    return false;
                }
                *left -= 1;
            }
            if let Write::Table { table, .. } = write {
                assert!(
                    !self.kernel.policy.tables().any(|in_force| in_force == *table)
                        || !self.kernel.tables.contains_key(table),
                    "table {table} is in force and must be changed in place"
                );
            }
            if let Write::Generation { generation, .. } = write {
                assert_ne!(*generation, self.kernel.control.generation, "the generation in force is written");
            }
            self.kernel.change(write, &mut pending);
            self.writes.push(write.clone());
            // What is in force is whole after each single write.
            assert_eq!(dangling(&self.kernel), None, "after {write:?}");
        }
        true
    }

    /// What holds after every event.
    fn check(&self) {
        if !self.core.is_sure() || self.core.config().is_none() {
            return;
        }
        let mut want = self.core.desired();
        want.control = self.core.control();
        let mut have = self.kernel.clone();
        have.tables.retain(|table, _| want.tables.contains_key(table));
        assert_eq!(have, want);
        let flows = |row: u32| self.counters.targets[row as usize];
        for (name, held) in self.core.target_rows().iter() {
            let active = flows(held.row).opened - flows(held.row).closed;
            let there =
                self.kernel.targets.get(&held.row).is_some_and(|row| row.incarnation == held.incarnation);
            assert!(active == 0 || there, "{name} has flows and no row");
        }
    }

    pub(super) fn read(&self) -> Kernel {
        fn by_row<T: Copy + Default>(rows: &BTreeMap<u32, T>, count: u32) -> Vec<T> {
            (0..count).map(|row| rows.get(&row).copied().unwrap_or_default()).collect()
        }
        let Policy { services, access } = (*self.kernel.policy).clone();
        let tables =
            self.kernel.policy.tables().map(|row| (row, self.kernel.tables[&row].to_vec())).collect();
        Kernel {
            control: self.kernel.control,
            contents: Contents {
                targets: by_row::<Target>(&self.kernel.targets, limits().targets + 1),
                next_hops: by_row::<NextHop>(
                    &self.kernel.next_hops,
                    limits().targets + 1 + 2 * limits().client_routes,
                ),
                routes: self.kernel.routes.iter().map(|(prefix, row)| (*prefix, *row)).collect(),
                services,
                access,
            },
            tables,
        }
    }

    /// The agent is killed and comes back.
    pub(super) fn restart(&mut self, config: &Config) {
        let start = Start {
            wall: self.core.wall(self.now),
            sizes: sizes(),
            kernel: Some(self.read()),
            rows: self.saved_rows.clone(),
            admin: self.saved_admin.clone(),
        };
        self.core = Core::new(start);
        self.now = Duration::ZERO;
        self.probes.clear();
        self.apply(config);
    }

    pub(super) fn pass(&mut self, time: Duration) -> &[Command] {
        self.now += time;
        self.handle(Event::Tick)
    }

    pub(super) fn count(&mut self) -> &[Command] {
        self.handle(Event::Counters(self.counters.clone()))
    }

    /// The target's awaited check ends so.
    pub(super) fn probe(&mut self, target: u8, up: bool) {
        let awaited =
            self.probes.values().find(|(address, _)| last(address.ip()) == target).and_then(|(_, due)| *due);
        let Some(Due { check, at }) = awaited else { return };
        self.now = self.now.max(at);
        self.report(check, up);
    }

    fn report(&mut self, check: CheckId, up: bool) {
        let outcome = if up { Ok(()) } else { Err(Reason::Refused) };
        let result = Check { at: self.now, took: Duration::from_millis(1), outcome };
        self.handle(Event::Probed { check, result });
    }

    /// All targets answer their first check.
    pub(super) fn all_up(&mut self) {
        let targets: Vec<u8> = self.probes.values().map(|(address, _)| last(address.ip())).collect();
        for target in targets {
            self.probe(target, true);
        }
    }

    pub(super) fn down(&mut self, target: u8) {
        for _ in 0..3 {
            self.probe(target, false);
        }
    }

    /// The target that each slot of the first service's table names, by its address' last octet; 0 is none.
    pub(super) fn slots(&self) -> Vec<u8> {
        let table = self.kernel.policy.tables().next().expect("a service");
        let octet =
            |row: &u32| self.kernel.targets.get(row).map_or(0, |target| target.address[0].to_ne_bytes()[3]);
        self.kernel.tables[&table].iter().map(octet).collect()
    }

    pub(super) fn shares(&self) -> BTreeMap<u8, usize> {
        let mut shares = BTreeMap::new();
        for target in self.slots() {
            *shares.entry(target).or_default() += 1;
        }
        shares
    }

    pub(super) fn row(&self, target: u8) -> u32 {
        let address = SocketAddr::from(([10, 0, 1, target], 8080));
        let rows = self.core.target_rows();
        rows.iter().find(|(name, _)| name.ends_with(&format!("/{address}"))).expect("it has a row").1.row
    }

    pub(super) fn control(&self) -> Control {
        self.kernel.control
    }
}
