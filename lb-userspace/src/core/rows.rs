//! Which row of a map a named thing has.
//!
//! Flows in the kernel name rows, and outlive both the thing and the agent: a row stays with its name across
//! revisions and restarts, and a removed thing's row is given to another only after it has been released.

use std::collections::{BTreeMap, VecDeque};

use jiff::Timestamp;
use lb_common::abi::Counters;
use serde::{Deserialize, Serialize};

/// Rows of one map by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rows {
    held: BTreeMap<String, Held>,
    /// Released rows with the last incarnation of each, longest free first.
    free: VecDeque<(u32, u32)>,
    /// The lowest row never used.
    unused: u32,
    /// The row after the last.
    end: u32,
    /// Incarnation of a row's first holder.
    first_incarnation: u32,
}

/// A row that has a holder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// The row.
    pub row: u32,
    /// Counts the row's holders.
    pub incarnation: u32,
    /// Since when the holder is no longer configured; its flows may still be there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retired: Option<Timestamp>,
    /// The row's counters when the holder got it.
    #[serde(default)]
    pub(crate) baseline: [u64; 6],
}

impl Held {
    /// What the holder itself has carried, of the row's counters.
    #[must_use]
    pub fn counted(&self, row: Counters) -> Counters {
        let [packets_in, bytes_in, packets_out, bytes_out, opened, closed] = self.baseline;
        Counters {
            packets_in: row.packets_in.saturating_sub(packets_in),
            bytes_in: row.bytes_in.saturating_sub(bytes_in),
            packets_out: row.packets_out.saturating_sub(packets_out),
            bytes_out: row.bytes_out.saturating_sub(bytes_out),
            opened: row.opened.saturating_sub(opened),
            closed: row.closed.saturating_sub(closed),
        }
    }
}

/// No row is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

impl Rows {
    /// Rows `first` up to but not including `end`, none held.
    #[must_use]
    pub fn new(first: u32, end: u32, first_incarnation: u32) -> Self {
        Self {
            held: BTreeMap::new(),
            free: VecDeque::new(),
            unused: first,
            end,
            first_incarnation: first_incarnation.max(1),
        }
    }

    /// The row of a name; the one it had, if that was not released. A row never used is preferred, then the one
    /// longest free.
    ///
    /// # Errors
    /// If all rows are held.
    pub fn claim(&mut self, name: &str, counters: &[Counters]) -> Result<Held, Full> {
        if let Some(held) = self.held.get_mut(name) {
            held.retired = None;
            return Ok(*held);
        }
        let (row, incarnation) = if self.unused < self.end {
            self.unused += 1;
            (self.unused - 1, self.first_incarnation)
        } else {
            let (row, last) = self.free.pop_front().ok_or(Full)?;
            (row, last.wrapping_add(1).max(1))
        };
        let now = counters.get(row as usize).copied().unwrap_or_default();
        let baseline = [now.packets_in, now.bytes_in, now.packets_out, now.bytes_out, now.opened, now.closed];
        let held = Held { row, incarnation, retired: None, baseline };
        self.held.insert(name.to_owned(), held);
        Ok(held)
    }

    /// Gives a row that is known to be in use by an unnamed thing a name.
    pub(super) fn adopt(&mut self, name: String, row: u32, retired: Option<Timestamp>) {
        if row < self.unused || row >= self.end {
            return;
        }
        self.free.extend((self.unused..row).map(|row| (row, 0)));
        self.unused = row + 1;
        self.held.insert(name, Held { row, incarnation: self.first_incarnation, retired, baseline: [0; 6] });
    }

    /// Moves a row from one name to another.
    pub(super) fn rename(&mut self, from: &str, to: &str) {
        if let Some(mut held) = self.held.remove(from) {
            held.retired = None;
            self.held.insert(to.to_owned(), held);
        }
    }

    /// Retires every name that is not to be kept.
    pub fn retain(&mut self, now: Timestamp, mut keep: impl FnMut(&str) -> bool) {
        for (name, held) in &mut self.held {
            if held.retired.is_none() && !keep(name) {
                held.retired = Some(now);
            }
        }
    }

    /// Releases the retired rows that may go, and returns their names and rows.
    pub fn release(&mut self, mut may_go: impl FnMut(&Held) -> bool) -> Vec<(String, Held)> {
        let gone: Vec<(String, Held)> = self
            .held
            .iter()
            .filter(|(_, held)| held.retired.is_some() && may_go(held))
            .map(|(name, held)| (name.clone(), *held))
            .collect();
        for (name, held) in &gone {
            self.held.remove(name);
            self.free.push_back((held.row, held.incarnation));
        }
        gone
    }

    /// The holder of a name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Held> {
        self.held.get(name)
    }

    /// All names and rows, retired ones included.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Held)> {
        self.held.iter().map(|(name, held)| (name.as_str(), held))
    }

    /// How many more names can be given a row.
    #[must_use]
    pub fn room(&self) -> u32 {
        (self.end - self.unused) + self.free.len() as u32
    }

    /// The row after the last.
    #[must_use]
    pub fn end(&self) -> u32 {
        self.end
    }

    /// Whether no two names share a row and all rows are in range: what a damaged file may break.
    #[must_use]
    pub fn is_sound(&self, first: u32, end: u32) -> bool {
        let mut rows: Vec<u32> =
            self.held.values().map(|held| held.row).chain(self.free.iter().map(|(row, _)| *row)).collect();
        let count = rows.len();
        rows.sort_unstable();
        rows.dedup();
        let within = rows.iter().all(|row| (first..self.unused).contains(row));
        self.end == end && self.unused <= end && rows.len() == count && within
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn a_name_keeps_its_row_until_it_is_released() {
        let mut rows = Rows::new(1, 4, 1);
        let a = rows.claim("a", &[]).unwrap();
        let b = rows.claim("b", &[]).unwrap();
        assert_eq!((a.row, b.row, a.incarnation), (1, 2, 1));
        rows.retain(at(10), |name| name == "b");
        assert_eq!(rows.get("a").unwrap().retired, Some(at(10)));
        assert_eq!(rows.claim("a", &[]).unwrap(), a, "it comes back to its row and its flows");

        rows.retain(at(20), |name| name == "b");
        assert!(rows.release(|_| false).is_empty());
        assert_eq!(rows.release(|_| true).len(), 1);
        assert_eq!(rows.claim("c", &[]).unwrap().row, 3, "a row never used comes first");
        let again = rows.claim("a", &[]).unwrap();
        assert_eq!((again.row, again.incarnation), (1, 2), "another holder");
        assert_eq!(rows.claim("d", &[]), Err(Full));
        assert!(rows.is_sound(1, 4));
        assert!(!rows.is_sound(1, 5));
    }

    #[test]
    fn the_row_longest_free_comes_first() {
        let mut rows = Rows::new(1, 4, 1);
        for name in ["a", "b", "c"] {
            rows.claim(name, &[]).unwrap();
        }
        for gone in ["b", "a", "c"] {
            rows.retain(at(1), |name| name != gone);
            rows.release(|_| true);
        }
        let order: Vec<u32> = ["x", "y", "z"].map(|name| rows.claim(name, &[]).unwrap().row).to_vec();
        assert_eq!(order, [2, 1, 3]);
    }

    #[test]
    fn a_holder_is_counted_from_when_it_got_the_row() {
        let mut rows = Rows::new(0, 1, 1);
        let before = Counters { packets_in: 10, opened: 3, closed: 3, ..Counters::default() };
        let held = rows.claim("a", &[before]).unwrap();
        let counted = held.counted(Counters { packets_in: 15, opened: 4, closed: 3, ..before });
        assert_eq!((counted.packets_in, counted.opened, counted.closed), (5, 1, 0));
        assert_eq!(held.counted(Counters::default()), Counters::default(), "the maps were made anew");
    }

    #[test]
    fn a_saved_book_reads_back() {
        let mut rows = Rows::new(1, 9, 7);
        rows.claim("web/10.0.0.1:80", &[]).unwrap();
        rows.retain(at(5), |_| false);
        let text = serde_json::to_string(&rows).unwrap();
        assert_eq!(serde_json::from_str::<Rows>(&text).unwrap(), rows);
    }
}
