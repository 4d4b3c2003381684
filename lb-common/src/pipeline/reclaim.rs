//! Who reclaims: the program itself. Expired flows are met in the ring, and closed ones when their source port is
//! wanted again; so the table and the ports come back while no agent runs.

use crate::{
    abi::{Control, Flow, FlowKey, RING_LEAPS, RING_STEPS, flow_flags},
    addr::Ip,
    pipeline::{flow::twin_key, modulo},
    tables::{Best, Tables},
    tcp::{self, State},
};

/// Takes a flow out of the table by its reverse key, and counts its end unless that was done. `forward_key` is room for the
/// other key.
#[inline(always)]
pub fn remove_pair<A: Ip, T: Tables<A>>(tables: &T, reverse_key: &FlowKey<A>, forward_key: &mut FlowKey<A>) {
    let Some(reverse) = tables.flow(reverse_key) else {
        return;
    };
    *forward_key = twin_key(reverse, reverse_key.protocol);
    let (service, target) = (reverse.service, reverse.target);
    let ended = tables.fetch_or(&mut reverse.flags, flow_flags::ENDED) & flow_flags::ENDED != 0;
    // Only one processor gets to remove an entry, so the end is counted once.
    if !tables.remove_flow(reverse_key) {
        return;
    }
    // The client may have opened another flow from the same port since.
    if tables.flow(forward_key).is_some_and(|forward| is_twin(forward, reverse_key)) {
        tables.remove_flow(forward_key);
    }
    if !ended {
        tables.count_closed(service, target);
    }
}

/// Whether an entry is the other direction of the flow at `key`, word by word rather than by a key in memory.
#[inline(always)]
pub fn is_twin<A: Ip>(entry: &Flow<A>, key: &FlowKey<A>) -> bool {
    entry.sport == key.dport && entry.dport == key.sport && entry.src == key.dst && entry.dst == key.src
}

/// The state of the flow with this reverse entry, and the ticks since its last packet.
#[inline(always)]
pub fn standing<A: Ip, T: Tables<A>>(
    tables: &T,
    now: u32,
    reverse_key: &FlowKey<A>,
    forward_key: &mut FlowKey<A>,
    reverse: &Flow<A>,
) -> (State, u32) {
    *forward_key = twin_key(reverse, reverse_key.protocol);
    let idle = tcp::elapsed(now, reverse.seen);
    match tables.flow(forward_key) {
        Some(forward) if is_twin(forward, reverse_key) => {
            (tcp::state(forward.flags, reverse.flags), idle.min(tcp::elapsed(now, forward.seen)))
        }
        _ => (tcp::state(0, reverse.flags), idle),
    }
}

/// What a place of the ring is worth to a new flow.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// It is free, or was made so.
    Free,
    /// Its flow is closed, but its source port rests.
    Resting,
    /// Its flow lives.
    Live,
}

/// Makes a place of the ring free if its flow has expired, or, if `pressed`, only rests. The keys are room.
#[inline(always)]
fn reclaim_place<A: Ip, T: Tables<A>>(
    tables: &T,
    control: &Control,
    now: u32,
    place: u32,
    pressed: bool,
    (key, forward_key): (&mut FlowKey<A>, &mut FlowKey<A>),
) -> Place {
    match tables.ring(place) {
        Some(slot) => *key = slot.key,
        None => return Place::Live,
    }
    if key.protocol == 0 {
        return Place::Free;
    }
    match tables.flow(key) {
        Some(reverse) if reverse.ring == place => {
            let (state, idle) = standing(tables, now, key, forward_key, reverse);
            let resting = state == State::Closed;
            if idle <= tcp::lifetime(control, key.protocol, state) && !(pressed && resting) {
                return if resting { Place::Resting } else { Place::Live };
            }
            remove_pair(tables, key, forward_key);
            Place::Free
        }
        _ => Place::Free,
    }
}

/// A free place of the ring. The hand goes round, so the oldest places come first; out of a run of live flows it leaps, so
/// that many idle ones in a row do not refuse new ones while there is room elsewhere. If none is free the first
/// closed flow gives up its rest. `None` if all that were looked at hold live flows. The keys are room, and so is `best`.
#[inline(always)]
pub fn take_place<A: Ip, T: Tables<A>>(
    tables: &T,
    control: &Control,
    now: u32,
    (key, forward_key): (&mut FlowKey<A>, &mut FlowKey<A>),
    best: &mut Best,
) -> Option<u32> {
    if control.ring == 0 {
        return None;
    }
    let leap = control.ring / RING_LEAPS + 1;
    best.rank = Place::Live as u32;
    for step in 0..RING_STEPS + RING_LEAPS + 1 {
        let last = step == RING_STEPS + RING_LEAPS;
        let place = if last {
            if best.rank != Place::Resting as u32 {
                return None;
            }
            best.place
        } else {
            modulo(tables.next_ring(if step < RING_STEPS { 1 } else { leap }), control.ring)
        };
        match reclaim_place(tables, control, now, place, last, (&mut *key, &mut *forward_key)) {
            Place::Free => return Some(place),
            Place::Resting if best.rank == Place::Live as u32 => {
                best.rank = Place::Resting as u32;
                best.place = place;
            }
            Place::Resting | Place::Live => {}
        }
    }
    None
}

/// Looks at the next `steps` places of the ring and reclaims what has expired: the agent's housekeeping, which keeps
/// counts and memory true while no new flows come.
#[inline(always)]
pub fn sweep<A: Ip, T: Tables<A>>(tables: &T, steps: u32) {
    let Some(control) = tables.control() else {
        return;
    };
    let Some(scratch) = tables.scratch() else {
        return;
    };
    let now = tables.now();
    if control.ring == 0 {
        return;
    }
    for _ in 0..steps {
        let place = modulo(tables.next_sweep(), control.ring);
        reclaim_place(tables, control, now, place, false, (&mut scratch.reverse, &mut scratch.forward));
    }
}
