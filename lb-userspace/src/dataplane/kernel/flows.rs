//! Reading flows: both directions of each put together, filtered, in pages of bounded work.

use std::{fmt, net::IpAddr, str::FromStr};

use ipnet::IpNet;
use lb_common::{
    abi::{Flow, FlowKey, TICK_SHIFT, flow_flags, map},
    addr::{V4, V6},
    tcp,
};
use nix::time::{ClockId, clock_gettime};

use super::{KernelDataPlane, family::Family, sys::BatchCursor};
use crate::dataplane::{FlowRecord, WriteError};

/// Which flows are wanted; what is `None` is not asked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FlowFilter {
    /// IP protocol number.
    pub protocol: Option<u32>,
    /// Where the client is.
    pub client: Option<IpNet>,
    /// The VIP and, if not 0, its port in host order.
    pub vip: Option<(IpAddr, u16)>,
    /// Row of the service's counters.
    pub service_row: Option<u32>,
    /// Row of the target.
    pub target_row: Option<u32>,
}

/// A page of flows and where the next one begins.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FlowPage {
    /// The flows, in no particular order.
    pub flows: Vec<FlowRecord>,
    /// `None` if these were the last.
    pub next: Option<FlowCursor>,
}

/// A place in the flow tables. Flows that live throughout are each seen once by a walk from page to page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FlowCursor {
    family: u32,
    /// The kernel's bucket to go on at; 0 is the beginning.
    bucket: u32,
}

impl fmt::Display for FlowCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.family, self.bucket)
    }
}

impl FromStr for FlowCursor {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.split_once('.')
            .and_then(|(family, bucket)| {
                Some(Self { family: family.parse().ok()?, bucket: bucket.parse().ok()? })
            })
            .filter(|cursor| cursor.family < 2)
            .ok_or_else(|| format!("{text:?} is no cursor; use the one that the page before gave"))
    }
}

/// Entries read from the kernel at a time.
const STEP: u32 = 1024;
/// Smallest step; a bucket that holds more makes the step grow.
const LEAST_STEP: u32 = 16;

impl KernelDataPlane {
    /// Flows from `cursor` on, or from the beginning. A page ends at `limit` flows (a bucket's worth more at most), or when
    /// `max_scanned` entries were looked at, of which each flow has two.
    ///
    /// # Errors
    /// As for any read of a map.
    pub fn flows(
        &self,
        filter: &FlowFilter,
        cursor: Option<FlowCursor>,
        limit: usize,
        max_scanned: usize,
    ) -> Result<FlowPage, WriteError> {
        let mut walk = Walk {
            filter,
            limit,
            left: max_scanned.max(1),
            now: now()?,
            cursor: cursor.unwrap_or_default(),
            flows: Vec::new(),
        };
        let done = (walk.cursor.family > 0 || self.walk_family::<V4>(&mut walk)?)
            && self.walk_family::<V6>(&mut walk)?;
        Ok(FlowPage { flows: walk.flows, next: (!done).then_some(walk.cursor) })
    }

    /// Walks one family's table; true if it was walked to its end.
    fn walk_family<A: Family>(&self, walk: &mut Walk<'_>) -> Result<bool, WriteError> {
        let table = self.map(map::FLOWS[A::INDEX])?;
        loop {
            let room = walk.limit.saturating_sub(walk.flows.len());
            if walk.left == 0 || (room < LEAST_STEP as usize && !walk.flows.is_empty()) || walk.limit == 0 {
                return Ok(false);
            }
            let mut place = (walk.cursor.bucket != 0).then(|| {
                let mut place: BatchCursor = [0; 64];
                place[..4].copy_from_slice(&walk.cursor.bucket.to_ne_bytes());
                place
            });
            let count = (room.min(walk.left) as u32).clamp(LEAST_STEP, STEP);
            let step = table.walk::<FlowKey<A>, Flow<A>>(&mut place, count)?;
            for (key, flow) in &step.elements {
                if flow.flags & flow_flags::REVERSE != 0 || !walk.matches(key, flow) {
                    continue;
                }
                let reverse_key = FlowKey {
                    src: flow.dst,
                    dst: flow.src,
                    sport: flow.dport,
                    dport: flow.sport,
                    protocol: key.protocol,
                };
                // Without it the pair is just being removed.
                if let Some(reverse) = table.get::<_, Flow<A>>(&reverse_key)? {
                    walk.flows.push(record(key, flow, &reverse, walk.now));
                }
            }
            walk.left = walk.left.saturating_sub(step.elements.len().max(1));
            if step.done {
                walk.cursor = FlowCursor { family: A::INDEX as u32 + 1, bucket: 0 };
                return Ok(true);
            }
            let bucket = place.and_then(|place| place.first_chunk().copied()).map_or(0, u32::from_ne_bytes);
            walk.cursor = FlowCursor { family: A::INDEX as u32, bucket };
        }
    }
}

struct Walk<'a> {
    filter: &'a FlowFilter,
    limit: usize,
    /// Entries that may still be looked at.
    left: usize,
    /// Tick.
    now: u32,
    cursor: FlowCursor,
    flows: Vec<FlowRecord>,
}

impl Walk<'_> {
    fn matches<A: Family>(&self, key: &FlowKey<A>, flow: &Flow<A>) -> bool {
        let filter = self.filter;
        filter.protocol.is_none_or(|protocol| protocol == key.protocol)
            && filter.service_row.is_none_or(|row| row == flow.service)
            && filter.target_row.is_none_or(|row| row == flow.target)
            && filter.client.is_none_or(|net| net.contains(&key.src.to_ip()))
            && filter.vip.is_none_or(|(address, port)| {
                address == key.dst.to_ip() && (port == 0 || port == key.dport.get())
            })
    }
}

fn record<A: Family>(key: &FlowKey<A>, flow: &Flow<A>, reverse: &Flow<A>, now: u32) -> FlowRecord {
    let since = |tick: u32| millis(tcp::elapsed(now, tick));
    FlowRecord {
        protocol: key.protocol,
        client: (key.src.to_ip(), key.sport.get()),
        vip: (key.dst.to_ip(), key.dport.get()),
        snat: (flow.src.to_ip(), flow.sport.get()),
        target: (flow.dst.to_ip(), flow.dport.get()),
        service_row: flow.service,
        target_row: flow.target,
        incarnation: flow.incarnation,
        epoch: older(flow.epoch, reverse.epoch),
        flags: (flow.flags, reverse.flags),
        age_ms: since(flow.created),
        idle_ms: since(flow.seen).min(since(reverse.seen)),
        from_client: (flow.packets, flow.bytes),
        from_target: (reverse.packets, reverse.bytes),
    }
}

/// The one that comes first, in numbers that wrap.
fn older(a: u32, b: u32) -> u32 {
    if a.wrapping_sub(b) > u32::MAX / 2 { a } else { b }
}

/// The program's clock.
pub(super) fn now() -> Result<u32, WriteError> {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE).map_err(|error| WriteError {
        what: "read the coarse monotonic clock".to_owned(),
        reason: error.to_string(),
    })?;
    let nanoseconds = time.tv_sec().cast_unsigned() * 1_000_000_000 + time.tv_nsec().cast_unsigned();
    Ok((nanoseconds >> TICK_SHIFT) as u32)
}

/// Ticks as milliseconds. A tick in the future, from a clock read a little later, is now.
fn millis(ticks: u32) -> u64 {
    if ticks > u32::MAX / 2 { 0 } else { (u64::from(ticks) << TICK_SHIFT) / 1_000_000 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_survive_their_text() {
        let cursor = FlowCursor { family: 1, bucket: 4711 };
        assert_eq!(cursor.to_string().parse(), Ok(cursor));
        for text in ["", "1", "2.1", "0.x", "-1.0"] {
            assert!(text.parse::<FlowCursor>().unwrap_err().contains("is no cursor"), "{text}");
        }
    }

    #[test]
    fn ticks_become_milliseconds() {
        assert_eq!(millis(0), 0);
        assert_eq!(millis(954), 1000);
        assert_eq!(millis(u32::MAX), 0);
        assert_eq!(older(u32::MAX, 3), u32::MAX);
        assert_eq!(older(7, 3), 3);
    }
}
