//! What a data plane holds, as a value.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use ipnet::IpNet;
#[cfg(test)]
use lb_common::abi::NONE;
use lb_common::abi::{Control, NextHop, Target, service_kind};

use crate::dataplane::{AccessRow, ServiceRow, Write};

/// What a data plane holds, but for flows and counters.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Image {
    /// Rows of the targets that hold one.
    pub targets: BTreeMap<u32, Target>,
    /// Rows of the next hops that are resolved.
    pub next_hops: BTreeMap<u32, NextHop>,
    /// Routes to clients.
    pub routes: BTreeMap<IpNet, u32>,
    /// Lookup tables that the generation in force names.
    pub tables: BTreeMap<u32, Arc<Vec<u32>>>,
    /// Source addresses in the order of their rows; `None` while unknown.
    pub sources: Option<Vec<IpAddr>>,
    /// Addresses that the program looks at; `None` while unknown.
    pub filter: Option<BTreeSet<IpAddr>>,
    /// Services and access of the generation in force.
    pub policy: Arc<Policy>,
    /// The control row.
    pub control: Control,
}

/// Services and access of a generation, each in the order of its keys.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    /// Services, VIPs, source addresses.
    pub services: Vec<ServiceRow>,
    /// Who may connect.
    pub access: Vec<AccessRow>,
}

impl Policy {
    /// In the order of the keys, so that two can be compared.
    #[must_use]
    pub fn new(mut services: Vec<ServiceRow>, mut access: Vec<AccessRow>) -> Self {
        for row in &mut access {
            row.prefix = row.prefix.trunc();
        }
        services.sort_by_key(|row| (row.address, row.port, row.protocol));
        access.sort_by_key(|row| (row.service, row.prefix));
        Self { services, access }
    }
}

impl Image {
    /// Does to the image what a data plane does to its maps. `pending` is the generation not in force.
    pub(super) fn change(&mut self, write: &Write, pending: &mut Option<Arc<Policy>>) {
        match write {
            Write::Target { row, target } if *target == Target::default() => {
                self.targets.remove(row);
            }
            Write::Target { row, target } => {
                self.targets.insert(*row, *target);
            }
            Write::NextHop { row, next_hop } if *next_hop == NextHop::default() => {
                self.next_hops.remove(row);
            }
            Write::NextHop { row, next_hop } => {
                self.next_hops.insert(*row, *next_hop);
            }
            Write::Route { prefix, row: Some(row) } => {
                self.routes.insert(*prefix, *row);
            }
            Write::Route { prefix, row: None } => {
                self.routes.remove(prefix);
            }
            Write::Table { table, slots } => {
                self.tables.insert(*table, Arc::new(slots.clone()));
            }
            Write::TableSlots { table, slots } => {
                let content = Arc::make_mut(self.tables.entry(*table).or_default());
                for &(slot, target) in slots {
                    if let Some(place) = content.get_mut(slot as usize) {
                        *place = target;
                    }
                }
            }
            Write::SourceAddresses(addresses) => self.sources = Some(addresses.clone()),
            Write::Filter(addresses) => self.filter = Some(addresses.iter().copied().collect()),
            Write::Generation { services, access, .. } => {
                *pending = Some(Arc::new(Policy::new(services.clone(), access.clone())));
            }
            Write::Control(control) => {
                if control.generation != self.control.generation
                    && let Some(policy) = pending.take()
                {
                    self.policy = policy;
                }
                self.control = *control;
            }
        }
    }

    /// Rows of tables that the services in force name.
    pub(super) fn tables_in_force(&self) -> BTreeSet<u32> {
        self.policy.tables().collect()
    }
}

impl Policy {
    /// Rows of the tables that the services name.
    pub fn tables(&self) -> impl Iterator<Item = u32> + '_ {
        self.services
            .iter()
            .filter(|row| row.service.kind == service_kind::SERVICE)
            .map(|row| row.service.table)
    }

    /// Source addresses in the order of their rows, IPv4 first.
    pub(super) fn sources(&self) -> Vec<IpAddr> {
        let marks = self.services.iter().filter(|row| row.service.kind == service_kind::SNAT);
        let mut sources: Vec<_> =
            marks.map(|row| (row.address.is_ipv6(), row.service.index, row.address)).collect();
        sources.sort_unstable();
        sources.into_iter().map(|(_, _, address)| address).collect()
    }
}

/// Whether every row that something names holds what is named.
#[cfg(test)]
pub(super) fn dangling(image: &Image) -> Option<String> {
    let in_force = image.tables_in_force();
    for (table, slots) in image.tables.iter().filter(|(table, _)| in_force.contains(table)) {
        for &row in slots.iter().filter(|row| **row != NONE) {
            if !image.targets.contains_key(&row) {
                return Some(format!("table {table} names target {row}, which is not there"));
            }
            if !image.next_hops.contains_key(&row) {
                return Some(format!("table {table} names target {row}, which has no next hop"));
            }
        }
    }
    for table in image.policy.tables() {
        if !image.tables.contains_key(&table) {
            return Some(format!("a service names table {table}, which is not there"));
        }
    }
    image
        .routes
        .iter()
        .find(|(_, row)| **row != NONE && !image.next_hops.contains_key(row))
        .map(|(prefix, row)| format!("route {prefix} names next hop {row}, which is not there"))
}
