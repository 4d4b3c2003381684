//! Weighted Maglev lookup tables (Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer",
//! NSDI 2016, section 3.4).
//!
//! A group's [`base`] table is made of all its configured targets; [`available`] then hands the slots of those that
//! take no flows to the others. So a target that goes and comes back moves its own slots and no others, while a
//! table built anew of the remaining targets would move some of theirs as well.
//!
//! Everything here follows from the targets' addresses, ports and weights alone, so that every node and every run of
//! the agent makes the same table.

use std::{
    cmp::{Ordering, Reverse},
    collections::BinaryHeap,
    net::SocketAddr,
};

use sha2::{Digest, Sha256};

/// What a slot holds where no target can take it.
pub const NOBODY: u32 = u32::MAX;

/// Slots looked at in place of one whose target takes no flows, before a table of the remaining targets decides:
/// enough for the share of the remaining ones to be small otherwise.
const REPLACEMENTS: u32 = 64;

/// One target as the table sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// Where it is: from this its preferences are derived. Unique among the members.
    pub address: SocketAddr,
    /// Its share relative to the others; 0 takes no slots.
    pub weight: u32,
}

/// The table of all members: `slots` indexes of `members`, or [`NOBODY`] in all of them if no weight is above 0.
///
/// `slots` must be prime. A member's number of slots is its exact share, rounded up or down.
#[must_use]
pub fn base(members: &[Member], slots: u32) -> Vec<u32> {
    let mut table = vec![NOBODY; slots as usize];
    let mut turns: BinaryHeap<Reverse<Turn>> = members
        .iter()
        .zip(0..)
        .filter(|(member, _)| member.weight > 0)
        .map(|(member, index)| Reverse(Turn::first(member, index, slots)))
        .collect();
    for _ in 0..slots {
        let Some(mut next) = turns.peek_mut() else { break };
        let turn = &mut next.0;
        while table[turn.place as usize] != NOBODY {
            turn.advance(slots);
        }
        table[turn.place as usize] = turn.member;
        turn.count += 1;
    }
    table
}

/// The base table with the slots of members that take no flows handed to those that do. All slots are [`NOBODY`] if
/// none does.
///
/// A slot's replacement is found by walking the base table along the slot's own path to the first member that takes
/// flows: one member's change then moves only slots that it has or had.
#[must_use]
pub fn available(base: &[u32], members: &[Member], takes_flows: &[bool]) -> Vec<u32> {
    let takes = |index: u32| takes_flows.get(index as usize).copied().unwrap_or(false);
    let slots = base.len() as u32;
    if !members.iter().zip(takes_flows).any(|(member, takes)| *takes && member.weight > 0) {
        return vec![NOBODY; base.len()];
    }
    let mut remaining: Option<Vec<u32>> = None;
    (0..slots)
        .map(|slot| {
            let held = base[slot as usize];
            if takes(held) {
                return held;
            }
            replacement(base, slot, takes).unwrap_or_else(|| {
                remaining.get_or_insert_with(|| only(members, takes_flows, slots))[slot as usize]
            })
        })
        .collect()
}

/// A table of the members that take flows.
fn only(members: &[Member], takes_flows: &[bool], slots: u32) -> Vec<u32> {
    let members: Vec<Member> = members
        .iter()
        .zip(takes_flows)
        .map(|(member, takes)| Member { weight: if *takes { member.weight } else { 0 }, ..*member })
        .collect();
    base(&members, slots)
}

fn replacement(base: &[u32], slot: u32, takes: impl Fn(u32) -> bool) -> Option<u32> {
    let slots = base.len() as u32;
    if slots < 2 {
        return None;
    }
    let skip = (mix(u64::from(slot)) % u64::from(slots - 1)) as u32 + 1;
    let mut place = slot;
    (0..REPLACEMENTS).find_map(|_| {
        place = step(place, skip, slots);
        let held = base[place as usize];
        takes(held).then_some(held)
    })
}

/// One member's place in the order of turns, and in its own permutation of the slots.
struct Turn {
    /// Slots taken.
    count: u64,
    weight: u32,
    /// Decides between members whose turn comes at the same time.
    tie: u64,
    member: u32,
    /// The slot it would like next.
    place: u32,
    skip: u32,
}

impl Turn {
    fn first(member: &Member, index: u32, slots: u32) -> Self {
        let digest = Sha256::digest(member.address.to_string());
        let word = |i: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&digest[i * 8..(i + 1) * 8]);
            u64::from_le_bytes(bytes)
        };
        Self {
            count: 0,
            weight: member.weight,
            tie: word(2),
            member: index,
            place: (word(0) % u64::from(slots)) as u32,
            skip: if slots > 1 { (word(1) % u64::from(slots - 1)) as u32 + 1 } else { 0 },
        }
    }

    fn advance(&mut self, slots: u32) {
        self.place = step(self.place, self.skip, slots);
    }
}

/// A member's n-th turn comes at (n + ½) / weight: whoever is farthest behind its share is next. Compared exactly, by
/// cross-multiplication.
impl Ord for Turn {
    fn cmp(&self, other: &Self) -> Ordering {
        let mine = (2 * self.count + 1) * u64::from(other.weight);
        let theirs = (2 * other.count + 1) * u64::from(self.weight);
        mine.cmp(&theirs).then(self.tie.cmp(&other.tie)).then(self.member.cmp(&other.member))
    }
}

impl PartialOrd for Turn {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Turn {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Turn {}

fn step(place: u32, skip: u32, slots: u32) -> u32 {
    let next = u64::from(place) + u64::from(skip);
    (if next >= u64::from(slots) { next - u64::from(slots) } else { next }) as u32
}

/// The finaliser of splitmix64.
fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests;
