//! The packet's way, the same for both families:
//!
//! ```text
//! parse → ours? ─no→ pass          entry program: [`receive`]
//!           │
//!           ├─ flow hit ────────────→ [`flow`] → [`rewrite`] → transmit
//!           └─ miss, new epoch, SYN   admission programs: [`admit`]
//!                └→ service → access → choose → [`handshake`] → [`rewrite`] → transmit
//! ```
//!
//! Every step is generic over the packet and the tables, so that what runs in the kernel is what the tests run.

pub mod admit;
pub mod answer;
pub mod flow;
pub mod handshake;
pub mod reclaim;
pub mod rewrite;
#[cfg(test)]
mod tests;

use crate::{
    addr::{Ip, V4, V6},
    hash, parse,
    tables::{Common, Tables},
    verdict::Verdict,
    wire::{Ethernet, Packet},
};

/// What becomes of a packet, and where it goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Action {
    /// What became of it.
    pub verdict: Verdict,
    /// For [`Verdict::Redirected`], the interface to send it by.
    pub ifindex: u32,
}

impl From<Verdict> for Action {
    #[inline(always)]
    fn from(verdict: Verdict) -> Self {
        Self { verdict, ifindex: 0 }
    }
}

/// What the entry leaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    /// The packet's end.
    Done(Action),
    /// To the admission of IPv4.
    Admit4,
    /// To the admission of IPv6.
    Admit6,
}

/// The entry: ends packets that are not ours and those of established flows. Counts what it ends.
#[inline(always)]
pub fn receive<P: Packet, T: Tables<V4> + Tables<V6>>(packet: &mut P, tables: &T) -> Next {
    let next = match packet.load::<Ethernet>(0).map(|ethernet| ethernet.ethertype) {
        Some(parse::IPV4) => family::<V4, P, T>(packet, tables).map_or(Next::Admit4, Next::Done),
        Some(parse::IPV6) => family::<V6, P, T>(packet, tables).map_or(Next::Admit6, Next::Done),
        _ => Next::Done(Verdict::PassNotIp.into()),
    };
    if let Next::Done(action) = next {
        tables.count(action.verdict);
    }
    next
}

/// The entry's steps for one family; `None` sends the packet to admission.
#[inline(always)]
fn family<A: Ip, P: Packet, T: Tables<A>>(packet: &mut P, tables: &T) -> Option<Action> {
    let Some(network) = parse::network::<A>(packet) else {
        return Some(Verdict::PassNotOurs.into());
    };
    let bit = hash::filter(network.dst);
    if tables.filter(bit >> 6) >> (bit & 63) & 1 == 0 {
        return Some(Verdict::PassNotOurs.into());
    }
    let (key, segment) = parse::segment(packet, &network).ok()?;
    let flow = tables.flow(&key)?;
    let Some(control) = tables.control() else {
        return Some(Verdict::DropInternal.into());
    };
    let now = tables.now();
    if flow::needs_admission(now, control, key.protocol, &segment, flow) {
        return None;
    }
    let mut twin = key;
    Some(flow::forward(packet, tables, now, &network, &key, &segment, flow, &mut twin))
}

/// The remainder, 0 of division by 0: the control row is not the program's to trust, and a reachable panic is none.
#[inline(always)]
fn modulo(dividend: u32, divisor: u32) -> u32 {
    dividend.checked_rem(divisor).unwrap_or(0)
}

/// The quotient, 0 of division by 0.
#[inline(always)]
fn divide(dividend: u32, divisor: u32) -> u32 {
    dividend.checked_div(divisor).unwrap_or(0)
}

/// Runs the whole pipeline as the programs do together: what tests and the twin call.
pub fn run<P: Packet, T: Tables<V4> + Tables<V6> + Common>(packet: &mut P, tables: &T) -> Action {
    match receive(packet, tables) {
        Next::Done(action) => action,
        Next::Admit4 => admit::admit::<V4, P, T>(packet, tables),
        Next::Admit6 => admit::admit::<V6, P, T>(packet, tables),
    }
}
