//! What the packet path reads and writes besides the packet: maps, clock and counters, behind one trait for each family.

use crate::{
    abi::{Control, Flow, FlowKey, Handshake, NextHop, RingSlot, Service, ServiceKey, Target},
    addr::Ip,
    verdict::Verdict,
};

/// What no family has to itself.
pub trait Common {
    /// The clock, in ticks.
    fn now(&self) -> u32;
    /// The control row.
    fn control(&self) -> Option<&Control>;
    /// Word `index` of the address filter.
    fn filter(&self, index: u32) -> u64;
    /// Slot `slot` of a lookup table; [`crate::abi::NONE`] if there is no such table.
    fn choose(&self, table: u32, slot: u32) -> u32;
    /// A row of the targets.
    fn target(&self, row: u32) -> Option<&Target>;
    /// A row of the next hops.
    fn next_hop(&self, row: u32) -> Option<&NextHop>;
    /// Counts a packet's end.
    fn count(&self, verdict: Verdict);
    /// Counts a packet of a flow.
    fn count_flow(&self, service: u32, target: u32, from_target: bool, bytes: u64);
    /// Counts a flow's begin.
    fn count_opened(&self, service: u32, target: u32);
    /// Counts a flow's end.
    fn count_closed(&self, service: u32, target: u32);
    /// Sets bits atomically; the value before.
    fn fetch_or(&self, word: &mut u32, bits: u32) -> u32;
    /// Sets a word from 0 to 1 atomically; whether this call did it.
    fn try_lock(&self, word: &mut u32) -> bool;
    /// Sets a locked word back to 0.
    fn unlock(&self, word: &mut u32);
}

/// Why an entry could not be put into the flow table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// There is an entry of this key.
    Exists,
    /// There is no room.
    Full,
}

/// Room for what does not fit the BPF stack: one a processor, free for use by each program run.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Scratch<A> {
    /// A value to be put into the flow table.
    pub flow: Flow<A>,
    /// The packet's five-tuple.
    pub key: FlowKey<A>,
    /// The key of a reverse entry.
    pub reverse: FlowKey<A>,
    /// The key of a forward entry.
    pub forward: FlowKey<A>,
    /// The key of a service.
    pub service: ServiceKey<A>,
    /// The best candidate port so far: see `crate::pipeline::handshake`.
    pub best: Best,
    /// What a new handshake is for.
    pub wanted: Wanted,
}

/// What a new handshake is for.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub struct Wanted {
    /// Row of the service's counters.
    pub service: u32,
    /// Row of the target.
    pub row: u32,
    /// The first candidate, from the flow's hash.
    pub home: u32,
    /// The client's first sequence number, host order.
    pub sequence: u32,
    /// Whether the client sent a timestamp: 0 or 1.
    pub has_timestamp: u32,
    /// The timestamp, host order, or 0.
    pub timestamp: u32,
}

/// The best candidate port so far. In memory, since the verifier would follow every value that it can take in registers.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub struct Best {
    /// How good it is, the lower the better.
    pub rank: u32,
    /// Ticks since it was last used.
    pub age: u32,
    /// Its place among the candidates.
    pub place: u32,
}

/// What is there once for each family.
///
/// Lookups give references to memory that other processors read and write at the same time, as maps do: single
/// aligned words are whole, anything larger is kept whole by the handshake's lock or by being written before its
/// entry can be found.
#[expect(clippy::mut_from_ref, reason = "a map's values are shared memory, not the tables' own")]
pub trait Tables<A: Ip>: Common {
    /// The scratch room. Asked for once a run: a second reference would be to the same.
    fn scratch(&self) -> Option<&mut Scratch<A>>;
    /// An entry of the flow table.
    fn flow(&self, key: &FlowKey<A>) -> Option<&mut Flow<A>>;
    /// Puts an entry into the flow table.
    ///
    /// # Errors
    /// [`Refused::Exists`] unless `replace`, [`Refused::Full`].
    fn insert_flow(&self, key: &FlowKey<A>, flow: &Flow<A>, replace: bool) -> Result<(), Refused>;
    /// Takes an entry out of the flow table; whether it was there.
    fn remove_flow(&self, key: &FlowKey<A>) -> bool;
    /// A handshake's slot.
    fn handshake(&self, slot: u32) -> Option<&mut Handshake<A>>;
    /// A place of the ring.
    fn ring(&self, place: u32) -> Option<&mut RingSlot<A>>;
    /// The next place of the ring to look at, counting on without end; the one after it is `by` further.
    fn next_ring(&self, by: u32) -> u32;
    /// The next place of the ring to sweep, counting on without end.
    fn next_sweep(&self) -> u32;
    /// A service, or what an address is, in a generation.
    fn service(&self, generation: u32, key: &ServiceKey<A>) -> Option<&Service>;
    /// Whether a source may connect to a service, in a generation.
    fn allowed(&self, generation: u32, service: u32, source: A) -> bool;
    /// Row of the next hop towards a client, or [`crate::abi::NONE`].
    fn route(&self, client: A) -> u32;
    /// A row of the source addresses.
    fn source_address(&self, row: u32) -> Option<A>;
    /// Whether a socket of the host's own answers to packets of this five-tuple.
    fn host_owns(&self, key: &FlowKey<A>) -> bool;
}
