//! The twin of the kernel's data plane in memory: the same writes and reads over the same tables' contents, and packets
//! through the same pipeline, compiled for the host. What the simulation runs the control core against.

use std::{collections::HashSet, hash::Hash, net::IpAddr};

use ipnet::IpNet;
use lb_common::{
    abi::{Control, SWEEP_STEP, ServiceKey},
    addr::{Ip, Port, V4, V6},
    hash,
    memory::{self, Bytes, Memory},
    pipeline::{self, Action, reclaim},
    verdict::Verdict,
};

use super::{
    AccessRow, Contents, CounterSnapshot, DataPlane, ServiceRow, Write, WriteError, kernel::family::Family,
};
use crate::config::model::Limits;

/// A data plane in memory. Time stands still but for [`Self::set_clock`].
pub struct MemoryDataPlane {
    /// The tables, open to be looked at and to be put in a state.
    pub memory: Memory,
    limits: Limits,
    table_slots: u32,
}

impl std::fmt::Debug for MemoryDataPlane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryDataPlane").field("limits", &self.limits).finish_non_exhaustive()
    }
}

impl MemoryDataPlane {
    /// Empty tables of these sizes; `handshakes` rows for unfinished ones.
    pub fn new(limits: Limits, table_slots: u32, handshakes: u32) -> Self {
        let next_hops = limits.targets + 1 + 2 * limits.client_routes;
        let mut memory = Memory::new(limits.flows, handshakes, limits.targets + 1, next_hops);
        // As in the kernel: zero until it is written.
        memory.control = Control::default();
        Self { memory, limits, table_slots }
    }

    /// The limits that the tables hold to.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// Slots of every lookup table.
    pub fn table_slots(&self) -> u32 {
        self.table_slots
    }

    /// Sets the clock, in ticks ([`lb_common::abi::TICK_SHIFT`]).
    pub fn set_clock(&mut self, tick: u32) {
        self.memory.clock.set(tick);
    }

    /// Sends one frame through the packet path, which changes it as the program would.
    pub fn receive(&mut self, frame: &mut Bytes) -> Action {
        pipeline::run(frame, &self.memory)
    }

    fn write_one(&mut self, change: &Write) -> Result<(), WriteError> {
        match change {
            Write::Target { row, target } => *row_of(&mut self.memory.targets, "TARGETS", *row)? = *target,
            Write::NextHop { row, next_hop } => {
                *row_of(&mut self.memory.next_hops, "NEXT_HOPS", *row)? = *next_hop;
            }
            Write::Route { prefix, row } => {
                let room = self.limits.client_routes as usize;
                write_route(&mut self.memory.v4.routes, *prefix, *row, room)?;
                write_route(&mut self.memory.v6.routes, *prefix, *row, room)?;
            }
            Write::Table { table, slots } => {
                self.check_table(*table, slots.len())?;
                self.memory.tables.insert(*table, slots.clone());
            }
            Write::TableSlots { table, slots } => {
                let Some(rows) = self.memory.tables.get_mut(table) else {
                    return Err(refused(&format!("table {table}"), "there is none to change"));
                };
                for (slot, row) in slots {
                    *row_of(rows, "a table", *slot)? = *row;
                }
            }
            Write::SourceAddresses(addresses) => {
                self.memory.v4.snat = of_family(addresses);
                self.memory.v6.snat = of_family(addresses);
            }
            Write::Filter(addresses) => {
                let bits = addresses.iter().map(|address| match address {
                    IpAddr::V4(address) => hash::filter(V4::from(*address)),
                    IpAddr::V6(address) => hash::filter(V6::from(*address)),
                });
                self.memory.set_filter(bits);
            }
            Write::Generation { generation, services, access } => {
                write_generation(&mut self.memory.v4, *generation, services, access)?;
                write_generation(&mut self.memory.v6, *generation, services, access)?;
            }
            Write::Control(control) => self.memory.control = *control,
        }
        Ok(())
    }

    fn check_table(&self, table: u32, slots: usize) -> Result<(), WriteError> {
        if slots != self.table_slots as usize {
            let reason = format!("it has {slots} slots, the tables in force have {}", self.table_slots);
            return Err(refused(&format!("table {table}"), &reason));
        }
        if table >= 2 * self.limits.groups {
            return Err(refused("map TABLES", &format!("there is no row {table}")));
        }
        Ok(())
    }
}

impl DataPlane for MemoryDataPlane {
    fn write(&mut self, changes: &[Write]) -> Result<(), WriteError> {
        changes.iter().try_for_each(|change| self.write_one(change))
    }

    fn control(&self) -> Result<Control, WriteError> {
        Ok(self.memory.control)
    }

    fn table(&self, table: u32) -> Result<Vec<u32>, WriteError> {
        Ok(self.memory.tables.get(&table).cloned().unwrap_or_default())
    }

    fn contents(&self) -> Result<Contents, WriteError> {
        let generation = self.memory.control.generation;
        let mut contents = Contents {
            targets: self.memory.targets.clone(),
            next_hops: self.memory.next_hops.clone(),
            ..Contents::default()
        };
        read_family(&self.memory.v4, generation, &mut contents);
        read_family(&self.memory.v6, generation, &mut contents);
        Ok(contents)
    }

    fn counters(&self) -> Result<CounterSnapshot, WriteError> {
        let verdicts = self.memory.verdicts();
        Ok(CounterSnapshot {
            services: (0..=self.limits.services).map(|row| self.memory.service_counters(row)).collect(),
            targets: (0..=self.limits.targets).map(|row| self.memory.target_counters(row)).collect(),
            verdicts: Verdict::ALL
                .iter()
                .map(|verdict| verdicts.get(verdict).copied().unwrap_or(0))
                .collect(),
            transmit_failed: Vec::new(),
        })
    }

    fn sweep(&mut self) -> Result<(), WriteError> {
        for _ in 0..self.limits.flows.div_ceil(SWEEP_STEP) {
            reclaim::sweep::<V4, _>(&self.memory, SWEEP_STEP);
            reclaim::sweep::<V6, _>(&self.memory, SWEEP_STEP);
        }
        Ok(())
    }
}

fn row_of<'a, V>(rows: &'a mut [V], map: &str, row: u32) -> Result<&'a mut V, WriteError> {
    rows.get_mut(row as usize).ok_or_else(|| refused(map, &format!("there is no row {row}")))
}

fn refused(what: &str, reason: &str) -> WriteError {
    WriteError { what: what.to_owned(), reason: reason.to_owned() }
}

fn of_family<A: Family>(addresses: &[IpAddr]) -> Vec<A> {
    addresses.iter().filter_map(|address| A::from_ip(*address)).collect()
}

fn write_route<A: Family>(
    routes: &mut Vec<(A, u32, u32)>,
    prefix: IpNet,
    row: Option<u32>,
    room: usize,
) -> Result<(), WriteError> {
    let Some(prefix) = A::from_net(prefix) else { return Ok(()) };
    routes.retain(|(address, bits, _)| (*address, *bits) != (prefix.key(), prefix.bits()));
    if let Some(row) = row {
        if routes.len() >= room {
            return Err(refused("the routes to clients", &format!("all {room} are in use")));
        }
        routes.push((prefix.key(), prefix.bits(), row));
    }
    Ok(())
}

fn write_generation<A: Family + Hash>(
    family: &mut memory::Family<A>,
    generation: u32,
    services: &[ServiceRow],
    access: &[AccessRow],
) -> Result<(), WriteError> {
    let place = row_of(&mut family.services, "the generations", generation)?;
    *place = services
        .iter()
        .filter_map(|row| Some((service_key(A::from_ip(row.address)?, row), row.service)))
        .collect();
    let mut seen = HashSet::new();
    let rows = access.iter().filter_map(|row| {
        let prefix = A::from_net(row.prefix)?;
        Some((row.service, prefix.key(), prefix.bits(), row.allow))
    });
    // In a trie the last of equal prefixes stays.
    let mut rows: Vec<_> =
        rows.rev().filter(|(service, address, bits, _)| seen.insert((*service, *address, *bits))).collect();
    rows.reverse();
    *row_of(&mut family.access, "the generations", generation)? = rows;
    Ok(())
}

fn service_key<A: Ip>(address: A, row: &ServiceRow) -> ServiceKey<A> {
    ServiceKey { address, port: Port::new(row.port), reserved: 0, protocol: row.protocol }
}

fn read_family<A: Family + Hash>(family: &memory::Family<A>, generation: u32, contents: &mut Contents) {
    let routes = family.routes.iter();
    contents.routes.extend(routes.filter_map(|(address, bits, row)| Some((address.net(*bits)?, *row))));
    let services = family.services.get(generation as usize).into_iter().flatten();
    contents.services.extend(services.map(|(key, service)| ServiceRow {
        address: key.address.to_ip(),
        port: key.port.get(),
        protocol: key.protocol,
        service: *service,
    }));
    let access = family.access.get(generation as usize).into_iter().flatten();
    contents.access.extend(access.filter_map(|(service, address, bits, allow)| {
        Some(AccessRow { service: *service, prefix: address.net(*bits)?, allow: *allow })
    }));
}

#[cfg(test)]
mod tests {
    use lb_common::abi::{NextHop, Service, Target, service_kind};

    use super::*;

    const LIMITS: Limits =
        Limits { flows: 64, services: 4, targets: 8, groups: 2, access_prefixes: 16, client_routes: 2 };

    fn twin() -> MemoryDataPlane {
        MemoryDataPlane::new(LIMITS, 7, 256)
    }

    #[test]
    fn what_was_written_is_read() {
        let mut twin = twin();
        let service = ServiceRow {
            address: "10.9.0.1".parse().unwrap(),
            port: 80,
            protocol: 6,
            service: Service { kind: service_kind::SERVICE, index: 1, table: 3, on_no_target: 0 },
        };
        let rule = |prefix: &str, allow| AccessRow { service: 1, prefix: prefix.parse().unwrap(), allow };
        let target = Target { incarnation: 2, ..Target::default() };
        let next_hop = NextHop { ifindex: 4, ..NextHop::default() };
        twin.write(&[
            Write::Target { row: 8, target },
            Write::NextHop { row: 12, next_hop },
            Write::Route { prefix: "10.1.2.3/16".parse().unwrap(), row: Some(9) },
            Write::Route { prefix: "fd00::/8".parse().unwrap(), row: Some(10) },
            Write::Table { table: 3, slots: vec![8; 7] },
            Write::TableSlots { table: 3, slots: vec![(6, 1)] },
            Write::Generation {
                generation: 1,
                services: vec![service.clone()],
                access: vec![rule("10.0.0.0/8", false), rule("10.0.0.0/8", true), rule("fd00::/8", true)],
            },
            Write::Control(Control { generation: 1, epoch: 5, ..Control::default() }),
        ])
        .unwrap();
        let contents = twin.contents().unwrap();
        assert_eq!((contents.targets[8], contents.next_hops[12]), (target, next_hop));
        assert_eq!(contents.routes, [("10.1.0.0/16".parse().unwrap(), 9), ("fd00::/8".parse().unwrap(), 10)]);
        assert_eq!(contents.services, [service]);
        assert_eq!(contents.access, [rule("10.0.0.0/8", true), rule("fd00::/8", true)]);
        assert_eq!(twin.table(3).unwrap(), [8, 8, 8, 8, 8, 8, 1]);
        assert_eq!(twin.control().unwrap().epoch, 5);
        assert_eq!(twin.counters().unwrap().verdicts.len(), Verdict::COUNT as usize);
        twin.sweep().unwrap();
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        for write in [
            Write::Target { row: 9, target: Target::default() },
            Write::NextHop { row: 13, next_hop: NextHop::default() },
            Write::Table { table: 0, slots: vec![0; 6] },
            Write::Table { table: 4, slots: vec![0; 7] },
            Write::TableSlots { table: 0, slots: vec![(0, 1)] },
            Write::Generation { generation: 2, services: Vec::new(), access: Vec::new() },
        ] {
            let mut twin = twin();
            let later = Write::Control(Control { epoch: 9, ..Control::default() });
            twin.write(&[write.clone(), later]).unwrap_err();
            assert_eq!(twin.control().unwrap().epoch, 0, "{write:?}");
        }
    }
}
