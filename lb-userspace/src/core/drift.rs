//! What the kernel holds against what it should hold: after a failed write, and every few seconds.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
};

use lb_common::abi::{Control, map};

use super::{
    apply::image,
    event::{Command, Difference, Kernel},
    image::Image,
    state::{Core, RETRY, Unconfirmed, notify},
};
use crate::api::types::EventKind;

impl Core {
    /// A write was refused. A configuration whose control row did not come into force is taken back.
    pub(super) fn write_failed(&mut self, error: &str, control: Option<Control>, out: &mut Vec<Command>) {
        let in_force = control.is_some_and(|control| control.generation == self.have.control.generation);
        // An apply that switches no generation is taken back, too: repairing it undoes what was written of it.
        match self.unconfirmed.take() {
            Some(Unconfirmed { before, then }) if before.have.policy != self.have.policy && in_force => {
                drop(before);
                out.extend(then);
            }
            Some(Unconfirmed { before, .. }) => self.take_back(*before, out),
            None => {}
        }
        self.sure = false;
        self.retry_at = self.now + RETRY;
        out.push(notify(
            EventKind::Drift,
            "lbd".to_owned(),
            format!("a write to the kernel's maps failed: {error}; will be repaired"),
        ));
    }

    fn take_back(&mut self, before: Self, out: &mut Vec<Command>) {
        let now = self.now;
        let saved = self.saved_rows.take();
        *self = before;
        self.now = now;
        self.saved_rows = saved;
        if self.config.is_some() {
            self.save_rows(out);
        }
    }

    /// Compares what was read with what was last written, and repairs it.
    pub(super) fn read_back(&mut self, kernel: &Kernel, out: &mut Vec<Command>) {
        if self.config.is_none() {
            return;
        }
        let today = self.today();
        // After a failure, nothing is known of what cannot be read: it is written again.
        let read = image(kernel, self.sure.then_some(&self.have));
        if !self.sure {
            self.have = read;
            self.sure = true;
            self.reconcile(out);
            return;
        }
        let found = differences(&read, &self.have);
        if found.is_empty() {
            if !self.differences.is_empty() {
                self.differences.clear();
                out.push(notify(
                    EventKind::Drift,
                    "lbd".to_owned(),
                    "repaired: the kernel's maps hold what they should".to_owned(),
                ));
            }
            return;
        }
        let since: BTreeMap<String, _> =
            self.differences.drain(..).map(|known| (known.map, known.since)).collect();
        for (map, detail) in found {
            if !since.contains_key(&map) {
                out.push(notify(EventKind::Drift, map.clone(), format!("{detail}; being repaired")));
            }
            let since = since.get(&map).copied().unwrap_or(today);
            self.differences.push(Difference { map, detail, since });
        }
        self.have = read;
        self.reconcile(out);
    }
}

/// Where what was read is not what was written, by map.
fn differences(read: &Image, written: &Image) -> Vec<(String, String)> {
    let mut found = Vec::new();
    if read.control != written.control {
        found.push((map::CONTROL.to_owned(), format!("{:?}, not {:?}", read.control, written.control)));
    }
    rows(map::TARGETS, &read.targets, &written.targets, &mut found);
    rows(map::NEXT_HOPS, &read.next_hops, &written.next_hops, &mut found);
    rows("ROUTES", &read.routes, &written.routes, &mut found);
    if read.policy.services != written.policy.services {
        found.push(("SERVICES".to_owned(), "the services in force are others".to_owned()));
    }
    if read.policy.access != written.policy.access {
        found.push(("ACCESS".to_owned(), "the access lists in force are others".to_owned()));
    }
    for (table, slots) in &written.tables {
        let other = read.tables.get(table).map_or(slots.len(), |read| {
            read.iter().zip(slots.iter()).filter(|(read, written)| read != written).count()
        });
        if other > 0 {
            found.push((
                format!("{} {table}", map::TABLES),
                format!("{other} slots of {} are others", slots.len()),
            ));
        }
    }
    found
}

fn rows<K: Ord + Debug + Copy, V: PartialEq>(
    map: &str,
    read: &BTreeMap<K, V>,
    written: &BTreeMap<K, V>,
    found: &mut Vec<(String, String)>,
) {
    let keys: BTreeSet<K> = read.keys().chain(written.keys()).copied().collect();
    let other: Vec<K> = keys.into_iter().filter(|key| read.get(key) != written.get(key)).collect();
    if let Some(first) = other.first() {
        found.push((map.to_owned(), format!("{} rows are others, the first of them {first:?}", other.len())));
    }
}
