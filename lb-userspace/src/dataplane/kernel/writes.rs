//! Making changes in the kernel's maps, each read back before it is reported as made.

use std::{collections::BTreeMap, net::IpAddr, os::fd::AsRawFd, path::Path};

use ipnet::IpNet;
use lb_common::{
    abi::{self, AccessKey, Control, ServiceKey, map},
    addr::{Port, V4, V6},
    hash,
};

use super::{
    KernelDataPlane,
    family::Family,
    map::{Map, Plain, Prefix, bytes_of, bytes_of_slice, zeroed},
    pins, sys,
};
use crate::dataplane::{AccessRow, ServiceRow, Write, WriteError};

impl KernelDataPlane {
    /// Makes one run of changes. Tables in a row become one batch: each outer write waits for the kernel's grace period.
    pub(super) fn make(&mut self, changes: &[Write]) -> Result<(), WriteError> {
        let mut rest = changes;
        while let Some(first) = rest.first() {
            let tables = rest.iter().map_while(|change| {
                if let Write::Table { table, slots } = change {
                    Some((*table, slots.as_slice()))
                } else {
                    None
                }
            });
            let tables: Vec<_> = tables.collect();
            if tables.is_empty() {
                self.make_one(first)?;
                rest = rest.get(1..).unwrap_or_default();
            } else {
                self.write_tables(&tables)?;
                rest = rest.get(tables.len()..).unwrap_or_default();
            }
        }
        Ok(())
    }

    fn make_one(&mut self, change: &Write) -> Result<(), WriteError> {
        match change {
            Write::Target { row, target } => self.map(map::TARGETS)?.set(row, target),
            Write::NextHop { row, next_hop } => {
                if next_hop.ifindex != 0 {
                    self.watch_transmit(next_hop.ifindex);
                }
                self.map(map::NEXT_HOPS)?.set(row, next_hop)
            }
            Write::Route { prefix, row } => match prefix {
                IpNet::V4(_) => self.write_route::<V4>(*prefix, *row),
                IpNet::V6(_) => self.write_route::<V6>(*prefix, *row),
            },
            Write::Table { table, slots } => self.write_tables(&[(*table, slots.as_slice())]),
            Write::TableSlots { table, slots } => self.write_slots(*table, slots),
            Write::SourceAddresses(addresses) => {
                self.write_sources::<V4>(addresses)?;
                self.write_sources::<V6>(addresses)
            }
            Write::Filter(addresses) => self.write_filter(addresses),
            Write::Generation { generation, services, access } => {
                self.write_generation::<V4>(*generation, services, access)?;
                self.write_generation::<V6>(*generation, services, access)
            }
            Write::Control(control) => self.write_control(control),
        }
    }

    /// The lookup table in a row, if there is one.
    pub(super) fn table_map(&self, table: u32) -> Result<Option<Map>, WriteError> {
        self.inner_map(map::TABLES, table, &table_name(table), &self.pins.table(table))
    }

    /// A generation's inner map of `outer`, if there is one.
    pub(super) fn generation_map(&self, outer: &str, generation: u32) -> Result<Option<Map>, WriteError> {
        self.inner_map(outer, generation, outer, &self.pins.generation(outer, generation))
    }

    /// The map in a row of a map of maps, if there is one.
    fn inner_map(&self, outer: &str, row: u32, name: &str, pin: &Path) -> Result<Option<Map>, WriteError> {
        let outer = self.map(outer)?;
        let Some(id) = outer.get::<u32, u32>(&row)? else { return Ok(None) };
        // The pin serves agents that may not open maps by their id.
        let pinned = Map::from_pin(name, pin)?;
        if let Some(map) = pinned.filter(|map| map.id() == id) {
            return Ok(Some(map));
        }
        let fd =
            sys::map_by_id(id).map_err(|error| outer.error(&format!("open the map in row {row}"), &error))?;
        Map::from_fd(name, fd).map(Some)
    }

    fn write_route<A: Family>(&self, prefix: IpNet, row: Option<u32>) -> Result<(), WriteError> {
        let map = self.map(map::ROUTES[A::INDEX])?;
        let Some(key) = A::from_net(prefix) else { return Ok(()) };
        match row {
            Some(row) => map.set(&key, &row),
            None => map.remove(&key),
        }
    }

    fn write_tables(&mut self, tables: &[(u32, &[u32])]) -> Result<(), WriteError> {
        let slots_wanted = self.meta.table_slots as usize;
        let shape = self.inner_shape(map::TABLES)?;
        let mut inners: BTreeMap<u32, Map> = BTreeMap::new();
        for (table, slots) in tables {
            if slots.len() != slots_wanted {
                return Err(WriteError {
                    what: format!("table {table}"),
                    reason: format!("it has {} slots, the tables in force have {slots_wanted}", slots.len()),
                });
            }
            let inner = Map::create(&table_name(*table), &shape, None)?;
            let keys: Vec<u32> = (0..shape.max_entries).collect();
            inner.set_all(&keys, slots)?;
            if inner.rows::<u32>()? != *slots {
                return Err(inner.differs("its slots"));
            }
            inners.insert(*table, inner);
        }
        let outer = self.map(map::TABLES)?;
        let rows: Vec<u32> = inners.keys().copied().collect();
        let fds: Vec<u32> = inners.values().map(|inner| inner.fd().as_raw_fd().cast_unsigned()).collect();
        sys::update_batch(outer.fd(), bytes_of_slice(&rows), bytes_of_slice(&fds), rows.len() as u32)
            .map_err(|error| outer.error("put tables in place", &error))?;
        for (table, inner) in inners {
            if self.map(map::TABLES)?.get::<u32, u32>(&table)? != Some(inner.id()) {
                return Err(inner.differs("its place in TABLES"));
            }
            pin_anew(&self.pins.table(table), &inner)?;
            self.tables.insert(table, inner);
        }
        Ok(())
    }

    fn write_slots(&mut self, table: u32, slots: &[(u32, u32)]) -> Result<(), WriteError> {
        if !self.tables.contains_key(&table) {
            let inner = self.table_map(table)?.ok_or_else(|| WriteError {
                what: format!("table {table}"),
                reason: "there is none to change".to_owned(),
            })?;
            self.tables.insert(table, inner);
        }
        let inner = &self.tables[&table];
        let (keys, values): (Vec<u32>, Vec<u32>) = slots.iter().copied().unzip();
        inner.set_all(&keys, &values)?;
        let wanted: BTreeMap<u32, u32> = slots.iter().copied().collect();
        let same = if wanted.len() < 256 {
            wanted.iter().try_fold(true, |same, (slot, row)| {
                Ok::<_, WriteError>(same && inner.get::<u32, u32>(slot)? == Some(*row))
            })?
        } else {
            let rows = inner.rows::<u32>()?;
            wanted.iter().all(|(slot, row)| rows.get(*slot as usize) == Some(row))
        };
        if same { Ok(()) } else { Err(inner.differs("its slots")) }
    }

    fn write_sources<A: Family>(&self, addresses: &[IpAddr]) -> Result<(), WriteError> {
        let map = self.map(map::SNAT[A::INDEX])?;
        let mut rows: Vec<A> = addresses.iter().filter_map(|address| A::from_ip(*address)).collect();
        let room = map.shape().max_entries as usize;
        if rows.len() > room {
            return Err(WriteError {
                what: format!("map {}", map.name()),
                reason: format!("{} source addresses are configured, it holds {room}", rows.len()),
            });
        }
        rows.resize(room, zeroed());
        write_rows(map, &rows)
    }

    fn write_filter(&self, addresses: &[IpAddr]) -> Result<(), WriteError> {
        let mut words = vec![0u64; abi::FILTER_BITS as usize / 64];
        for address in addresses {
            let bit = match address {
                IpAddr::V4(address) => hash::filter(V4::from(*address)),
                IpAddr::V6(address) => hash::filter(V6::from(*address)),
            };
            words[bit as usize / 64] |= 1 << (bit % 64);
        }
        write_rows(self.map(map::FILTER)?, &words)
    }

    fn write_generation<A: Family>(
        &self,
        generation: u32,
        services: &[ServiceRow],
        access: &[AccessRow],
    ) -> Result<(), WriteError> {
        let services: Vec<_> = services
            .iter()
            .filter_map(|row| {
                let key = ServiceKey {
                    address: A::from_ip(row.address)?,
                    port: Port::new(row.port),
                    reserved: 0,
                    protocol: row.protocol,
                };
                Some((key, row.service))
            })
            .collect();
        let access: Vec<_> = access
            .iter()
            .filter_map(|row| {
                let prefix = A::from_net(row.prefix)?;
                let key = AccessKey { service: row.service, address: prefix.key() };
                let verdict = if row.allow { abi::ALLOW } else { abi::DENY };
                Some((Prefix::new(abi::ACCESS_SERVICE_BITS + prefix.bits(), key), verdict))
            })
            .collect();
        // Twice the room keeps the hash map's buckets short: there are as many as entries.
        self.replace_inner(map::SERVICES[A::INDEX], generation, services.len() * 2, &services)?;
        self.replace_inner(map::ACCESS[A::INDEX], generation, access.len(), &access)
    }

    /// Fills a new inner map, reads it back, and puts it in its place.
    fn replace_inner<K: Plain, V: Plain>(
        &self,
        outer: &str,
        generation: u32,
        room: usize,
        rows: &[(K, V)],
    ) -> Result<(), WriteError> {
        let mut shape = self.inner_shape(outer)?;
        shape.max_entries = u32::try_from(room).unwrap_or(u32::MAX).max(1);
        let inner = Map::create(outer, &shape, None)?;
        let (keys, values): (Vec<K>, Vec<V>) = rows.iter().copied().unzip();
        inner.set_all(&keys, &values)?;
        if as_bytes(&inner.all::<K, V>()?) != as_bytes(rows) {
            return Err(inner.differs("a generation"));
        }
        let outer = self.map(outer)?;
        let fd = inner.fd().as_raw_fd().cast_unsigned();
        sys::update(outer.fd(), bytes_of(&generation), bytes_of(&fd))
            .map_err(|error| outer.error(&format!("put generation {generation} in place"), &error))?;
        if outer.get::<u32, u32>(&generation)? != Some(inner.id()) {
            return Err(outer.differs("a generation's place"));
        }
        pin_anew(&self.pins.generation(outer.name(), generation), &inner)
    }

    fn write_control(&self, control: &Control) -> Result<(), WriteError> {
        self.map(map::CONTROL)?.set(&0u32, control)
    }
}

/// Pins a map in the place of another.
fn pin_anew(path: &Path, map: &Map) -> Result<(), WriteError> {
    let error = |reason: String| WriteError { what: format!("pin {}", path.display()), reason };
    pins::remove_pin(path).map_err(|reason| error(reason.to_string()))?;
    sys::pin(map.fd(), path).map_err(|reason| error(reason.to_string()))
}

fn write_rows<V: Plain + PartialEq>(map: &Map, rows: &[V]) -> Result<(), WriteError> {
    let keys: Vec<u32> = (0..map.shape().max_entries).collect();
    map.set_all(&keys, rows)?;
    if map.rows::<V>()? == rows { Ok(()) } else { Err(map.differs("its rows")) }
}

fn as_bytes<K: Plain, V: Plain>(rows: &[(K, V)]) -> BTreeMap<Vec<u8>, Vec<u8>> {
    rows.iter().map(|(key, value)| (bytes_of(key).to_vec(), bytes_of(value).to_vec())).collect()
}

fn table_name(table: u32) -> String {
    format!("TABLE_{table}")
}
