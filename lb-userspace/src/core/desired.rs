//! From the configuration and what is known to what the kernel should hold.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use lb_common::abi::{self, Control, NONE, Service, on_no_target, service_kind, ticks_from_millis};

use super::{
    image::{Image, Policy},
    maglev::{self, Member},
    state::Core,
    target::TargetState,
    view::GroupState,
};
use crate::{
    config::model::{Config, OnAllDown, Protocol, TargetGroup, Timeouts},
    dataplane::{AccessRow, ServiceRow},
};

/// A group's lookup table: what it is made from, kept so that it is made again only when that changes.
#[derive(Debug, Clone, Default)]
pub(super) struct Lookup {
    members: Vec<Member>,
    slots: u32,
    /// Indexes of members.
    base: Arc<Vec<u32>>,
    takes: Vec<bool>,
    rows: Vec<u32>,
    /// Rows of targets, as many as the kernel's tables have slots.
    pub(super) content: Arc<Vec<u32>>,
}

impl Lookup {
    /// Makes the table again where something changed.
    fn refresh(&mut self, targets: &[TargetState], takes: Vec<bool>, slots: u32, size: u32) {
        let members: Vec<Member> = targets
            .iter()
            .map(|target| Member { address: target.address(), weight: target.config.weight })
            .collect();
        let rows: Vec<u32> = targets.iter().map(|target| target.held.row).collect();
        let slots = slots.min(size);
        let new = (&members, slots) != (&self.members, self.slots);
        if new {
            self.base = Arc::new(maglev::base(&members, slots));
        }
        let size = size as usize;
        if new || takes != self.takes || rows != self.rows || self.content.len() != size {
            let table = maglev::available(&self.base, &members, &takes);
            // A table with fewer slots than the kernel's is spread over them.
            let slot = |place: usize| place * table.len() / size.max(1);
            let target = |place| table.get(slot(place)).and_then(|index| rows.get(*index as usize));
            self.content = Arc::new((0..size).map(|place| target(place).copied().unwrap_or(NONE)).collect());
        }
        (self.members, self.slots, self.takes, self.rows) = (members, slots, takes, rows);
    }
}

impl GroupState {
    /// Brings the table up to date with the targets.
    fn refresh(&mut self, group: &TargetGroup, size: u32) {
        let none_up = self.targets.iter().all(|target| target.why_not().is_some());
        self.open = group.on_all_down == OnAllDown::Open && none_up;
        let takes = self.targets.iter().map(|target| self.why_not(target).is_none()).collect();
        self.lookup.refresh(&self.targets, takes, group.table_slots, size);
    }
}

impl Core {
    /// Brings the groups' lookup tables up to date.
    pub(super) fn refresh_tables(&mut self) {
        let Some(config) = self.config.clone() else { return };
        for (group, state) in config.groups.iter().zip(&mut self.groups) {
            state.refresh(group, self.sizes.table_slots);
        }
    }

    /// Gives every group that a service names a row of the tables. A table that is in force and as it should be keeps
    /// its row; the others get rows that are not in force, so that they take effect together.
    pub(super) fn assign_tables(&mut self) {
        let Some(config) = self.config.clone() else { return };
        let in_force = self.have.tables_in_force();
        let named: BTreeSet<&str> = config.services.iter().map(|service| service.group.as_str()).collect();
        let mut taken = BTreeSet::new();
        let mut without = Vec::new();
        for (index, (group, state)) in config.groups.iter().zip(&mut self.groups).enumerate() {
            let before = state.table.take();
            if !named.contains(group.name.as_str()) {
                continue;
            }
            let content = &state.lookup.content;
            let fits = |row: &u32| {
                in_force.contains(row) && !taken.contains(row) && self.have.tables.get(row) == Some(content)
            };
            state.table = before.filter(&fits).or_else(|| in_force.iter().copied().find(fits));
            match state.table {
                Some(row) => drop(taken.insert(row)),
                None => without.push(index),
            }
        }
        let mut free =
            (0..2 * self.sizes.limits.groups).filter(|row| !in_force.contains(row) && !taken.contains(row));
        for index in without {
            self.groups[index].table = free.next();
        }
    }

    /// What the kernel should hold.
    pub(super) fn desired(&self) -> Image {
        let mut image = Image { control: self.have.control, ..Image::default() };
        let Some(config) = &self.config else { return self.have.clone() };
        for (group, state) in config.groups.iter().zip(&self.groups) {
            for target in &state.targets {
                image.targets.insert(target.held.row, target.row(group.on_target_down, state.open));
                self.put_next_hop(&mut image, target.held.row, target.config.address);
            }
            if let Some(table) = state.table {
                image.tables.insert(table, Arc::clone(&state.lookup.content));
            }
        }
        for (&row, &(address, target)) in &self.retired {
            image.targets.insert(row, target);
            self.put_next_hop(&mut image, row, address);
        }
        image.next_hops.extend(self.route_hops.iter().map(|(row, hop)| (*row, *hop)));
        image.routes.clone_from(&self.client_routes);
        image.sources = Some(self.sources.clone());
        image.policy = Arc::new(self.policy(config));
        image.filter = Some(
            image
                .policy
                .services
                .iter()
                .map(|row| row.address)
                .chain(self.retired_sources.iter().copied())
                .collect(),
        );
        image.control = self.wanted_control(config);
        image
    }

    fn put_next_hop(&self, image: &mut Image, row: u32, address: IpAddr) {
        let next_hop = match self.facts.targets.get(&address) {
            Some(found) => found.as_ref().ok().map(|hop| hop.next_hop),
            // Not looked up yet: what flows use until then is no worse.
            None => self.have.next_hops.get(&row).copied(),
        };
        if let Some(next_hop) = next_hop.filter(|next_hop| next_hop.ifindex != 0) {
            image.next_hops.insert(row, next_hop);
        }
    }

    fn policy(&self, config: &Config) -> Policy {
        let groups: BTreeMap<&str, (&TargetGroup, &GroupState)> =
            self.groups().map(|(group, state)| (group.name.as_str(), (group, state))).collect();
        let mut services = Vec::new();
        let mut access = Vec::new();
        for service in &config.services {
            let Some(held) = self.services.get(&service.name) else { continue };
            let Some((group, state)) = groups.get(service.group.as_str()) else { continue };
            services.push(ServiceRow {
                address: service.address,
                port: service.port,
                protocol: protocol(service.protocol),
                service: Service {
                    kind: service_kind::SERVICE,
                    index: held.row,
                    table: state.table.unwrap_or(0),
                    on_no_target: match group.on_all_down {
                        OnAllDown::Drop => on_no_target::DROP,
                        OnAllDown::Reject | OnAllDown::Open => on_no_target::REJECT,
                    },
                },
            });
            let rules = service.access.iter();
            access.extend(rules.map(|rule| AccessRow {
                service: held.row,
                prefix: rule.prefix,
                allow: rule.allow,
            }));
        }
        let vips: BTreeSet<IpAddr> = config.services.iter().map(|service| service.address).collect();
        services.extend(vips.into_iter().map(|vip| mark(vip, service_kind::VIP, 0)));
        for v6 in [false, true] {
            let family = self.sources.iter().filter(|address| address.is_ipv6() == v6);
            services.extend(family.zip(0..).map(|(address, row)| mark(*address, service_kind::SNAT, row)));
        }
        Policy::new(services, access)
    }

    /// Generation and epoch are the ones in force.
    fn wanted_control(&self, config: &Config) -> Control {
        let ports = config.snat.ports;
        let v6 = self.sources.iter().filter(|address| address.is_ipv6()).count() as u32;
        Control {
            snat_v4: self.sources.len() as u32 - v6,
            snat_v6: v6,
            port_first: u32::from(ports.first),
            port_count: u32::from(ports.last - ports.first) + 1,
            handshakes: self.sizes.handshakes,
            ring: self.sizes.ring,
            table_slots: self.sizes.table_slots,
            ..timeouts(&config.timeouts, self.have.control)
        }
    }
}

fn timeouts(timeouts: &Timeouts, control: Control) -> Control {
    let ticks = |time: std::time::Duration| {
        ticks_from_millis(u64::try_from(time.as_millis()).unwrap_or(u64::MAX / 1_000_000))
    };
    Control {
        tcp_handshake: ticks(timeouts.tcp_handshake),
        tcp_established: ticks(timeouts.tcp_established),
        tcp_closing: ticks(timeouts.tcp_closing),
        tcp_time_wait: ticks(timeouts.tcp_time_wait),
        udp_unanswered: ticks(timeouts.udp_unanswered),
        udp_established: ticks(timeouts.udp_established),
        ..control
    }
}

/// What the address itself is, whatever the port.
fn mark(address: IpAddr, kind: u32, index: u32) -> ServiceRow {
    let service = Service { kind, index, table: 0, on_no_target: 0 };
    ServiceRow { address, port: 0, protocol: 0, service }
}

/// The IP protocol number.
pub(super) fn protocol(protocol: Protocol) -> u32 {
    match protocol {
        Protocol::Tcp => abi::TCP,
        Protocol::Udp => abi::UDP,
    }
}

/// The addresses whose next hops are needed: those of targets configured and of targets with flows left.
pub(super) fn destinations(core: &Core) -> BTreeSet<IpAddr> {
    let configured = core.groups.iter().flat_map(|group| &group.targets).map(TargetState::address);
    configured
        .map(|address: SocketAddr| address.ip())
        .chain(core.retired.values().map(|(address, _)| *address))
        .collect()
}
