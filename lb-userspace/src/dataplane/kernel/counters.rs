//! Reading what the program counts, and how full the maps are.

use lb_common::{
    abi::{Counters, Handshake, Target, cursor, handshake_state, map},
    addr::{V4, V6},
    pipeline::handshake::stale,
};

use super::{KernelDataPlane, family::Family, flows::now, map::Plain};
use crate::dataplane::{CounterSnapshot, MapUsage, WriteError};

impl KernelDataPlane {
    pub(super) fn read_counters(&self) -> Result<CounterSnapshot, WriteError> {
        Ok(CounterSnapshot {
            services: self.sums(map::SERVICE_COUNTERS, add)?,
            targets: self.sums(map::TARGET_COUNTERS, add)?,
            verdicts: self.sums(map::VERDICTS, |sum: &mut u64, value| *sum = sum.wrapping_add(*value))?,
            transmit_failed: self.map(map::TRANSMIT_FAILED)?.all::<u32, u64>()?,
        })
    }

    fn sums<V: Plain + Default>(&self, name: &str, add: impl Fn(&mut V, &V)) -> Result<Vec<V>, WriteError> {
        let rows = self.map(name)?.rows_per_processor::<V>(self.processors)?;
        Ok(rows
            .iter()
            .map(|values| {
                let mut sum = V::default();
                values.iter().for_each(|value| add(&mut sum, value));
                sum
            })
            .collect())
    }

    /// How full the maps are that can fill up.
    ///
    /// # Errors
    /// As for any read of a map.
    pub fn usage(&self) -> Result<Vec<MapUsage>, WriteError> {
        let mut usage = Vec::new();
        let flows = self.flow_counts()?;
        for (family, flows) in flows.into_iter().enumerate() {
            usage.push(self.usage_of(map::FLOWS[family], flows * 2)?);
            usage.push(self.usage_of(map::RING[family], flows)?);
        }
        usage.push(self.usage_of(map::HANDSHAKES[0], self.handshakes::<V4>()?)?);
        usage.push(self.usage_of(map::HANDSHAKES[1], self.handshakes::<V6>()?)?);
        let targets = self.map(map::TARGETS)?.rows::<Target>()?;
        let targets = targets.iter().filter(|target| target.incarnation != 0).count() as u64;
        usage.push(self.usage_of(map::TARGETS, targets)?);
        let tables = self.map(map::TABLES)?.all::<u32, u32>()?.len() as u64;
        usage.push(self.usage_of(map::TABLES, tables)?);
        usage.push(self.usage_of(map::ROUTES[0], self.routes::<V4>()?.len() as u64)?);
        usage.push(self.usage_of(map::ROUTES[1], self.routes::<V6>()?.len() as u64)?);
        Ok(usage)
    }

    /// Flows in the table, by family: IPv4, IPv6.
    ///
    /// # Errors
    /// As for any read of a map.
    pub fn flow_counts(&self) -> Result<[u64; 2], WriteError> {
        let rows = self.map(map::CURSORS)?.rows::<u32>()?;
        let entries = |row: u32| u64::from(rows.get(row as usize).copied().unwrap_or(0));
        // A flow has an entry for each direction.
        Ok([entries(cursor::FLOWS4) / 2, entries(cursor::FLOWS6) / 2])
    }

    /// Counts frames that cannot be sent by this interface after the verdict, from now on. Where there is no room for it,
    /// a warning says so: forwarding goes on.
    pub fn watch_transmit(&mut self, ifindex: u32) {
        if !self.watched.insert(ifindex) {
            return;
        }
        let result = self.map(map::TRANSMIT_FAILED).and_then(|map| match map.get::<u32, u64>(&ifindex)? {
            Some(_) => Ok(()),
            None => map.set_all(&[ifindex], &[0u64]),
        });
        if let Err(error) = result {
            let text = format!("transmit failures of interface {ifindex} are not counted: {error}");
            tracing::warn!("{text}");
            self.warnings.push(text);
        }
    }

    /// Slots with a handshake that is still waited for; one that has expired is as good as free.
    fn handshakes<A: Family>(&self) -> Result<u64, WriteError> {
        let (control, now) = (self.read_control()?, now()?);
        let map = self.map(map::HANDSHAKES[A::INDEX])?;
        let (mut used, mut place) = (0, None);
        loop {
            let step = map.walk::<u32, Handshake<A>>(&mut place, super::map::BATCH)?;
            let in_use =
                |slot: &Handshake<A>| slot.state != handshake_state::FREE && !stale(&control, now, slot);
            used += step.elements.iter().filter(|(_, slot)| in_use(slot)).count() as u64;
            if step.done {
                return Ok(used);
            }
        }
    }

    fn usage_of(&self, name: &str, used: u64) -> Result<MapUsage, WriteError> {
        let map = self.map(name)?;
        Ok(MapUsage {
            name: name.to_owned(),
            used,
            limit: u64::from(map.shape().max_entries),
            bytes: map.memory(),
        })
    }
}

fn add(sum: &mut Counters, value: &Counters) {
    sum.packets_in = sum.packets_in.wrapping_add(value.packets_in);
    sum.bytes_in = sum.bytes_in.wrapping_add(value.bytes_in);
    sum.packets_out = sum.packets_out.wrapping_add(value.packets_out);
    sum.bytes_out = sum.bytes_out.wrapping_add(value.bytes_out);
    sum.opened = sum.opened.wrapping_add(value.opened);
    sum.closed = sum.closed.wrapping_add(value.closed);
}
