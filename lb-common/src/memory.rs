//! The tables in memory: what tests, fuzzers, the simulation and the twin of the data plane run the packet path on.
//!
//! One thread only; the maps' sharing between processors is what the kernel's own tests are for.

use std::{
    cell::{Cell, RefCell, UnsafeCell},
    collections::{HashMap, HashSet},
    hash::Hash,
    vec::Vec,
};

use crate::{
    abi::{
        Control, Counters, FILTER_BITS, Flow, FlowKey, Handshake, NONE, NextHop, RingSlot, Service,
        ServiceKey, Target,
    },
    addr::{Ip, Port, V4, V6},
    hash,
    tables::{Best, Common, Refused, Scratch, Tables, Wanted},
    verdict::Verdict,
    wire::{Packet, Wire},
};

/// The maps of both families.
#[derive(Default)]
pub struct Memory {
    /// The control row.
    pub control: Control,
    /// The clock, in ticks.
    pub clock: Cell<u32>,
    /// Lookup tables by row.
    pub tables: HashMap<u32, Vec<u32>>,
    /// Targets by row.
    pub targets: Vec<Target>,
    /// Next hops by row.
    pub next_hops: Vec<NextHop>,
    /// IPv4.
    pub v4: Family<V4>,
    /// IPv6.
    pub v6: Family<V6>,
    filter: Vec<u64>,
    verdicts: RefCell<HashMap<Verdict, u64>>,
    services: RefCell<HashMap<u32, Counters>>,
    target_counters: RefCell<HashMap<u32, Counters>>,
}

/// An entry of the flow table: boxed, so that it stays where it is.
type Entry<A> = Box<UnsafeCell<Flow<A>>>;

/// The maps of one family.
pub struct Family<A: Ip> {
    /// Services of the two generations.
    pub services: [HashMap<ServiceKey<A>, Service>; 2],
    /// Access lists of the two generations: (service, address, prefix length, allowed).
    pub access: [Vec<(u32, A, u32, bool)>; 2],
    /// Routes to clients: (address, prefix length, row).
    pub routes: Vec<(A, u32, u32)>,
    /// Source addresses.
    pub snat: Vec<A>,
    /// Five-tuples, source remote, that the host's own sockets answer to.
    pub host_sockets: HashSet<FlowKey<A>>,
    /// Entries that the flow table can hold.
    pub flow_limit: usize,
    flows: UnsafeCell<HashMap<FlowKey<A>, Entry<A>>>,
    /// Removed entries, kept because references to them may be about, as in a preallocated map.
    removed: UnsafeCell<Vec<Entry<A>>>,
    handshakes: Vec<UnsafeCell<Handshake<A>>>,
    ring: Vec<UnsafeCell<RingSlot<A>>>,
    hand: Cell<u32>,
    swept: Cell<u32>,
    scratch: UnsafeCell<Scratch<A>>,
}

impl<A: Ip + Hash> Default for Family<A> {
    fn default() -> Self {
        Self {
            services: Default::default(),
            access: Default::default(),
            routes: Vec::new(),
            snat: Vec::new(),
            host_sockets: HashSet::new(),
            flow_limit: 0,
            flows: UnsafeCell::default(),
            removed: UnsafeCell::default(),
            handshakes: Vec::new(),
            ring: Vec::new(),
            hand: Cell::new(0),
            swept: Cell::new(0),
            scratch: UnsafeCell::new(empty_scratch()),
        }
    }
}

impl<A: Ip + Hash> Family<A> {
    /// Sizes the tables; what they held is gone.
    pub fn size(&mut self, flows: u32, handshakes: u32) {
        let zero = A::from_words([0; 4]);
        let key = no_key();
        self.flow_limit = flows as usize * 2;
        self.ring = (0..flows).map(|_| UnsafeCell::new(RingSlot { key })).collect();
        self.handshakes = (0..handshakes)
            .map(|_| {
                UnsafeCell::new(Handshake {
                    lock: 0,
                    state: 0,
                    reach: 0,
                    home: 0,
                    seen: 0,
                    client: zero,
                    vip: zero,
                    target_address: zero,
                    snat: zero,
                    client_port: Port::new(0),
                    vip_port: Port::new(0),
                    target_port: Port::new(0),
                    snat_port: Port::new(0),
                    protocol: 0,
                    target: 0,
                    incarnation: 0,
                    service: 0,
                    epoch: 0,
                    client_isn: 0,
                    target_isn: 0,
                    client_next_hop: 0,
                    ifindex: 0,
                    mac_client: [0; 6],
                    mac_own: [0; 6],
                })
            })
            .collect();
        self.flows.get_mut().clear();
        self.removed.get_mut().clear();
    }

    /// All entries of the flow table, in no order.
    pub fn flows(&mut self) -> Vec<(FlowKey<A>, Flow<A>)> {
        self.removed.get_mut().clear();
        self.flows.get_mut().iter_mut().map(|(key, flow)| (*key, *flow.get_mut())).collect()
    }

    /// All slots that hold a handshake.
    pub fn handshakes(&mut self) -> Vec<Handshake<A>> {
        self.handshakes
            .iter_mut()
            .map(|slot| *slot.get_mut())
            .filter(|slot| slot.state != crate::abi::handshake_state::FREE)
            .collect()
    }

    /// Puts an entry into the flow table whatever its limit, as a test's starting point.
    pub fn put_flow(&mut self, key: FlowKey<A>, flow: Flow<A>) {
        self.flows.get_mut().insert(key, Box::new(UnsafeCell::new(flow)));
    }

    fn longest(rows: &[(A, u32, u32)], address: A) -> Option<u32> {
        rows.iter()
            .filter(|(network, length, _)| covers(*network, *length, address))
            .max_by_key(|(_, length, _)| *length)
            .map(|(_, _, value)| *value)
    }
}

/// The key of nothing.
fn no_key<A: Ip>() -> FlowKey<A> {
    let zero = A::from_words([0; 4]);
    FlowKey { src: zero, dst: zero, sport: Port::new(0), dport: Port::new(0), protocol: 0 }
}

fn empty_scratch<A: Ip>() -> Scratch<A> {
    let key = no_key();
    let flow = Flow {
        src: key.src,
        dst: key.dst,
        sport: key.sport,
        dport: key.dport,
        flags: 0,
        l4_delta: 0,
        l3_delta: 0,
        next_hop: 0,
        target: 0,
        incarnation: 0,
        service: 0,
        epoch: 0,
        seen: 0,
        created: 0,
        ring: 0,
        ifindex: 0,
        mac_client: [0; 6],
        mac_own: [0; 6],
        acknowledged: 0,
        client_ts: 0,
        packets: 0,
        bytes: 0,
    };
    let service = ServiceKey { address: key.src, port: key.sport, reserved: 0, protocol: 0 };
    Scratch {
        flow,
        key,
        reverse: key,
        forward: key,
        service,
        best: Best::default(),
        wanted: Wanted::default(),
    }
}

/// Whether a prefix covers an address.
fn covers<A: Ip>(network: A, length: u32, address: A) -> bool {
    let whole = |address: A| {
        address.words().iter().fold(0u128, |value, word| value << 32 | u128::from(u32::from_be(*word)))
    };
    // An IPv4 address is the first of four words.
    let shift = 128 - length;
    length == 0 || whole(network) >> shift == whole(address) >> shift
}

impl Memory {
    /// Tables of this size, and a filter that says that nothing is ours.
    pub fn new(flows: u32, handshakes: u32, targets: u32, next_hops: u32) -> Self {
        let mut memory = Self {
            filter: vec![0; FILTER_BITS as usize / 64],
            targets: vec![Target::default(); targets as usize],
            next_hops: vec![NextHop::default(); next_hops as usize],
            ..Self::default()
        };
        memory.control.ring = flows;
        memory.control.handshakes = handshakes;
        memory.v4.size(flows, handshakes);
        memory.v6.size(flows, handshakes);
        memory
    }

    /// Sets the filter to exactly these addresses' bits.
    pub fn set_filter(&mut self, bits: impl IntoIterator<Item = u32>) {
        self.filter.fill(0);
        for bit in bits {
            self.filter[bit as usize >> 6] |= 1 << (bit & 63);
        }
    }

    /// Adds an address to the filter.
    pub fn look_at<A: Ip>(&mut self, address: A) {
        let bit = hash::filter(address);
        self.filter[bit as usize >> 6] |= 1 << (bit & 63);
    }

    /// Packets by verdict; those never seen are absent.
    pub fn verdicts(&self) -> HashMap<Verdict, u64> {
        self.verdicts.borrow().clone()
    }

    /// A service's counters.
    pub fn service_counters(&self, row: u32) -> Counters {
        self.services.borrow().get(&row).copied().unwrap_or_default()
    }

    /// A target's counters.
    pub fn target_counters(&self, row: u32) -> Counters {
        self.target_counters.borrow().get(&row).copied().unwrap_or_default()
    }

    fn counters(&self, service: u32, target: u32, change: impl Fn(&mut Counters)) {
        change(self.services.borrow_mut().entry(service).or_default());
        change(self.target_counters.borrow_mut().entry(target).or_default());
    }
}

impl Common for Memory {
    fn now(&self) -> u32 {
        self.clock.get()
    }

    fn control(&self) -> Option<&Control> {
        Some(&self.control)
    }

    fn filter(&self, index: u32) -> u64 {
        self.filter.get(index as usize).copied().unwrap_or(0)
    }

    fn choose(&self, table: u32, slot: u32) -> u32 {
        self.tables.get(&table).and_then(|slots| slots.get(slot as usize)).copied().unwrap_or(NONE)
    }

    fn target(&self, row: u32) -> Option<&Target> {
        self.targets.get(row as usize)
    }

    fn next_hop(&self, row: u32) -> Option<&NextHop> {
        self.next_hops.get(row as usize)
    }

    fn count(&self, verdict: Verdict) {
        *self.verdicts.borrow_mut().entry(verdict).or_default() += 1;
    }

    fn count_flow(&self, service: u32, target: u32, from_target: bool, bytes: u64) {
        self.counters(service, target, |counters| {
            if from_target {
                counters.packets_out += 1;
                counters.bytes_out += bytes;
            } else {
                counters.packets_in += 1;
                counters.bytes_in += bytes;
            }
        });
    }

    fn count_opened(&self, service: u32, target: u32) {
        self.counters(service, target, |counters| counters.opened += 1);
    }

    fn count_closed(&self, service: u32, target: u32) {
        self.counters(service, target, |counters| counters.closed += 1);
    }

    fn fetch_or(&self, word: &mut u32, bits: u32) -> u32 {
        let before = *word;
        *word |= bits;
        before
    }

    fn try_lock(&self, word: &mut u32) -> bool {
        core::mem::replace(word, 1) == 0
    }

    fn unlock(&self, word: &mut u32) {
        *word = 0;
    }
}

/// The family's part of the tables.
pub trait Families<A: Ip + Hash> {
    /// Its maps.
    fn family(&self) -> &Family<A>;
}

impl Families<V4> for Memory {
    fn family(&self) -> &Family<V4> {
        &self.v4
    }
}

impl Families<V6> for Memory {
    fn family(&self) -> &Family<V6> {
        &self.v6
    }
}

impl<A: Ip + Hash> Tables<A> for Memory
where
    Self: Families<A>,
{
    fn scratch(&self) -> Option<&mut Scratch<A>> {
        // SAFETY: one thread, and the packet path asks once a run.
        Some(unsafe { &mut *self.family().scratch.get() })
    }

    fn flow(&self, key: &FlowKey<A>) -> Option<&mut Flow<A>> {
        let family = self.family();
        // SAFETY: one thread, and no reference to the map itself outlives a method. Entries are boxed and kept in `removed`, so
        // references to them stay valid; the packet path holds two only to different entries.
        unsafe { (*family.flows.get()).get(key).map(|flow| &mut *flow.get()) }
    }

    fn insert_flow(&self, key: &FlowKey<A>, flow: &Flow<A>, replace: bool) -> Result<(), Refused> {
        let family = self.family();
        // SAFETY: as in `flow`.
        let flows = unsafe { &mut *family.flows.get() };
        if let Some(old) = flows.get(key) {
            if !replace {
                return Err(Refused::Exists);
            }
            // SAFETY: as in `flow`.
            unsafe { *old.get() = *flow };
            return Ok(());
        }
        if flows.len() >= family.flow_limit {
            return Err(Refused::Full);
        }
        flows.insert(*key, Box::new(UnsafeCell::new(*flow)));
        Ok(())
    }

    fn remove_flow(&self, key: &FlowKey<A>) -> bool {
        let family = self.family();
        // SAFETY: as in `flow`.
        let (flows, removed) = unsafe { (&mut *family.flows.get(), &mut *family.removed.get()) };
        match flows.remove(key) {
            Some(flow) => {
                removed.push(flow);
                true
            }
            None => false,
        }
    }

    fn handshake(&self, slot: u32) -> Option<&mut Handshake<A>> {
        // SAFETY: one thread; the packet path locks a slot before it writes it and holds one at a time, but for the first candidate's
        // `reach`, which is one word.
        self.family().handshakes.get(slot as usize).map(|slot| unsafe { &mut *slot.get() })
    }

    fn ring(&self, place: u32) -> Option<&mut RingSlot<A>> {
        // SAFETY: one thread; the packet path holds one place at a time.
        self.family().ring.get(place as usize).map(|slot| unsafe { &mut *slot.get() })
    }

    fn next_ring(&self, by: u32) -> u32 {
        advance(&self.family().hand, by)
    }

    fn next_sweep(&self) -> u32 {
        advance(&self.family().swept, 1)
    }

    fn service(&self, generation: u32, key: &ServiceKey<A>) -> Option<&Service> {
        self.family().services.get(generation as usize)?.get(key)
    }

    fn allowed(&self, generation: u32, service: u32, source: A) -> bool {
        let Some(rows) = self.family().access.get(generation as usize) else {
            return false;
        };
        rows.iter()
            .filter(|(of, network, length, _)| *of == service && covers(*network, *length, source))
            .max_by_key(|(_, _, length, _)| *length)
            .is_some_and(|(.., allowed)| *allowed)
    }

    fn route(&self, client: A) -> u32 {
        Family::longest(&self.family().routes, client).unwrap_or(NONE)
    }

    fn source_address(&self, row: u32) -> Option<A> {
        self.family().snat.get(row as usize).copied()
    }

    fn host_owns(&self, key: &FlowKey<A>) -> bool {
        self.family().host_sockets.contains(key)
    }
}

/// A frame in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bytes {
    /// The frame.
    pub bytes: Vec<u8>,
    /// The interface that it came in by.
    pub ingress: u32,
}

impl Packet for Bytes {
    fn length(&self) -> usize {
        self.bytes.len()
    }

    fn ingress(&self) -> u32 {
        self.ingress
    }

    fn load<T: Wire>(&self, offset: usize) -> Option<T> {
        let bytes = self.bytes.get(offset..)?.get(..size_of::<T>())?;
        // SAFETY: the slice holds as many bytes as a `T` has, and any bytes are one.
        Some(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
    }

    fn store<T: Wire>(&mut self, offset: usize, value: T) -> Option<()> {
        let bytes = self.bytes.get_mut(offset..)?.get_mut(..size_of::<T>())?;
        // SAFETY: the slice holds as many bytes as a `T` has, which has no padding.
        unsafe { bytes.as_mut_ptr().cast::<T>().write_unaligned(value) };
        Some(())
    }

    fn resize(&mut self, length: usize) -> Option<()> {
        // An Ethernet header at least, as the kernel wants it.
        if length < crate::parse::ETHERNET {
            return None;
        }
        self.bytes.resize(length, 0);
        Some(())
    }
}

/// Counts on; the number before.
fn advance(counter: &Cell<u32>, by: u32) -> u32 {
    counter.replace(counter.get().wrapping_add(by))
}
