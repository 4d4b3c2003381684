//! Keys and values of the maps, shared by the program and the agent.
//!
//! Addresses and ports are in network order behind opaque types; everything else is in host order. No type has
//! implicit padding: a size assertion beside each holds it to the sum of its fields.

use crate::addr::{Ip, Port, V4, V6};

/// Changes whenever a key, a value or the meaning of a map does.
pub const VERSION: u32 = 1;

/// Changes whenever `Flow`, `FlowKey` or `RingSlot` do: with it, flows cannot be kept across an upgrade.
pub const FLOW_VERSION: u32 = 1;

/// `target`, `next_hop`, … of something that is not there.
pub const NONE: u32 = 0;

/// Bits of the address filter; a power of two.
pub const FILTER_BITS: u32 = 1 << 16;

/// Source ports tried for a new flow before it is refused; a power of two.
pub const PORT_CANDIDATES: u32 = 32;

/// Places of the ring examined one after the other for a new flow.
pub const RING_STEPS: u32 = 8;

/// Places examined after those, spread over the whole ring, before the table is taken for full.
pub const RING_LEAPS: u32 = 16;

/// Time in the maps: nanoseconds of the coarse monotonic clock shifted right by this, so about a millisecond; as `u32` it
/// wraps after 52 days, and differences are taken wrapping.
pub const TICK_SHIFT: u32 = 20;

/// Ticks in so many milliseconds, rounded up.
pub const fn ticks_from_millis(millis: u64) -> u32 {
    let ticks = (millis * 1_000_000).div_ceil(1 << TICK_SHIFT);
    if ticks > (u32::MAX / 2) as u64 { u32::MAX / 2 } else { ticks as u32 }
}

/// The one row of the `CONTROL` map: what the program reads once a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Control {
    /// Which of the two inner maps of `SERVICES*` and `ACCESS*` is in force: 0 or 1.
    pub generation: u32,
    /// Policy epoch: flows admitted under another one are checked again at their next packet.
    pub epoch: u32,
    /// Rows of `SNAT4` in use.
    pub snat_v4: u32,
    /// Rows of `SNAT6` in use.
    pub snat_v6: u32,
    /// Lowest source port, host order.
    pub port_first: u32,
    /// Number of source ports.
    pub port_count: u32,
    /// Rows of `HANDSHAKES*`.
    pub handshakes: u32,
    /// Rows of `RING*`.
    pub ring: u32,
    /// Slots of every lookup table.
    pub table_slots: u32,
    /// Ticks after which an unfinished handshake is forgotten.
    pub tcp_handshake: u32,
    /// Ticks without a packet after which an established TCP flow is forgotten.
    pub tcp_established: u32,
    /// The same with one side closed.
    pub tcp_closing: u32,
    /// Ticks that the source port of a closed TCP flow rests.
    pub tcp_time_wait: u32,
    /// Ticks after which an unanswered UDP exchange is forgotten.
    pub udp_unanswered: u32,
    /// Ticks after which an answered UDP exchange is forgotten.
    pub udp_established: u32,
    /// Reserved, zero.
    pub reserved: u32,
}

/// A packet's five-tuple.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct FlowKey<A> {
    /// Source address.
    pub src: A,
    /// Destination address.
    pub dst: A,
    /// Source port.
    pub sport: Port,
    /// Destination port.
    pub dport: Port,
    /// IP protocol number: [`TCP`] or [`UDP`].
    pub protocol: u32,
}

/// IP protocol number of TCP.
pub const TCP: u32 = 6;
/// IP protocol number of UDP.
pub const UDP: u32 = 17;

/// Bits of [`Flow::flags`].
pub mod flow_flags {
    /// This entry is the direction from target to client.
    pub const REVERSE: u32 = 1 << 0;
    /// A FIN went in this entry's direction.
    pub const FIN: u32 = 1 << 1;
    /// The flow has ended and was counted so; set on the reverse entry alone.
    pub const ENDED: u32 = 1 << 2;
    /// The target closed first, so it may hold the flow in TIME_WAIT; set on the reverse entry alone.
    pub const TARGET_CLOSED_FIRST: u32 = 1 << 3;
    /// `client_ts` holds the client's last timestamp; set on the reverse entry alone.
    pub const CLIENT_TS: u32 = 1 << 4;
}

/// One direction of a flow: everything that a packet in this direction needs. The other direction's key is this
/// one's rewritten five-tuple, turned round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Flow<A> {
    /// Source address to write.
    pub src: A,
    /// Destination address to write.
    pub dst: A,
    /// Source port to write.
    pub sport: Port,
    /// Destination port to write.
    pub dport: Port,
    /// [`flow_flags`].
    pub flags: u32,
    /// What to add to the transport checksum, ones' complement.
    pub l4_delta: u32,
    /// What to add to the IPv4 header checksum, ones' complement; unused for IPv6.
    pub l3_delta: u32,
    /// Row of `NEXT_HOPS`; [`NONE`] on a reverse entry means back the way the client's packets come, as `mac_*` and
    /// `ifindex` say.
    pub next_hop: u32,
    /// Row of `TARGETS`.
    pub target: u32,
    /// The target's incarnation when the flow was admitted.
    pub incarnation: u32,
    /// Row of `SERVICE_COUNTERS`.
    pub service: u32,
    /// The policy epoch it was last checked under.
    pub epoch: u32,
    /// Tick of this direction's last packet.
    pub seen: u32,
    /// Tick of admission.
    pub created: u32,
    /// Its place in `RING*`; on both entries.
    pub ring: u32,
    /// Interface by which the client's packets come.
    pub ifindex: u32,
    /// The client side's link-layer address as its packets bear it.
    pub mac_client: [u8; 6],
    /// The link-layer address that they are sent to.
    pub mac_own: [u8; 6],
    /// TCP: the last acknowledgement number in this direction, host order. The other direction's next octet, as far as this
    /// side has it.
    pub acknowledged: u32,
    /// The client's timestamp on its last FIN, host order; on the reverse entry alone.
    pub client_ts: u32,
    /// Packets in this direction.
    pub packets: u64,
    /// Bytes of the frames in this direction.
    pub bytes: u64,
}

/// A place in the ring by which flows are found for reclaiming: the reverse entry's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct RingSlot<A> {
    /// The reverse entry's key; `protocol` is 0 where the place was never used.
    pub key: FlowKey<A>,
}

/// States of a [`Handshake`].
pub mod handshake_state {
    /// The slot is free.
    pub const FREE: u32 = 0;
    /// The client's SYN was sent on.
    pub const SYN_SENT: u32 = 1;
    /// The target's SYN-ACK was sent on.
    pub const SYN_RECEIVED: u32 = 2;
    /// A UDP exchange that was not answered yet.
    pub const UDP_UNANSWERED: u32 = 3;
}

/// An unfinished handshake: a slot of an array indexed by source address and port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Handshake<A> {
    /// 1 while a processor is at work on the slot.
    pub lock: u32,
    /// [`handshake_state`].
    pub state: u32,
    /// No less than the farthest place at which a flow with this slot as its first candidate was put, and below
    /// [`PORT_CANDIDATES`].
    pub reach: u32,
    /// First candidate of the flow that holds this slot.
    pub home: u32,
    /// Tick of its last packet.
    pub seen: u32,
    /// The client's address.
    pub client: A,
    /// The VIP.
    pub vip: A,
    /// The target's address.
    pub target_address: A,
    /// The source address towards the target.
    pub snat: A,
    /// The client's port.
    pub client_port: Port,
    /// The service's port.
    pub vip_port: Port,
    /// The target's port.
    pub target_port: Port,
    /// The source port towards the target.
    pub snat_port: Port,
    /// IP protocol number.
    pub protocol: u32,
    /// Row of `TARGETS`.
    pub target: u32,
    /// Its incarnation.
    pub incarnation: u32,
    /// Row of `SERVICE_COUNTERS`.
    pub service: u32,
    /// The policy epoch that the client was allowed under.
    pub epoch: u32,
    /// The client's initial sequence number, host order.
    pub client_isn: u32,
    /// The target's initial sequence number, host order; known from [`handshake_state::SYN_RECEIVED`] on.
    pub target_isn: u32,
    /// Row of `NEXT_HOPS` towards the client, or [`NONE`].
    pub client_next_hop: u32,
    /// As in [`Flow::ifindex`].
    pub ifindex: u32,
    /// As in [`Flow::mac_client`].
    pub mac_client: [u8; 6],
    /// As in [`Flow::mac_own`].
    pub mac_own: [u8; 6],
}

/// What a service is found by. Port and protocol 0 find what the address itself is: a VIP or a source address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct ServiceKey<A> {
    /// The VIP.
    pub address: A,
    /// Its port.
    pub port: Port,
    /// Explicit padding, zero.
    pub reserved: u16,
    /// IP protocol number.
    pub protocol: u32,
}

/// What kind of row a [`Service`] is.
pub mod service_kind {
    /// A service.
    pub const SERVICE: u32 = 1;
    /// The address is a VIP (port and protocol of the key are 0).
    pub const VIP: u32 = 2;
    /// The address is a source address of `nat` flows (port and protocol of the key are 0); `index` is its row in `SNAT*`.
    pub const SNAT: u32 = 3;
}

/// What becomes of a new flow when the lookup table has no target for it.
pub mod on_no_target {
    /// Dropped.
    pub const DROP: u32 = 0;
    /// Answered with a reset or port unreachable.
    pub const REJECT: u32 = 1;
}

/// A row of the current generation's services.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Service {
    /// [`service_kind`].
    pub kind: u32,
    /// Its row of `SERVICE_COUNTERS`, stable across revisions, and its id in `ACCESS*`; for a source address its row of `SNAT*`.
    pub index: u32,
    /// Row of `TABLES`.
    pub table: u32,
    /// [`on_no_target`].
    pub on_no_target: u32,
}

/// Key of `ACCESS*`, a longest-prefix trie: the prefix covers `service` whole, then the address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct AccessKey<A> {
    /// The service's index.
    pub service: u32,
    /// The source address.
    pub address: A,
}

/// Bits that `AccessKey::service` adds to a prefix length.
pub const ACCESS_SERVICE_BITS: u32 = 32;

/// Value of `ACCESS*`: the source may not connect.
pub const DENY: u32 = 0;
/// Value of `ACCESS*`: the source may connect.
pub const ALLOW: u32 = 1;

/// Bits of [`Target::flags`].
pub mod target_flags {
    /// Its established TCP flows are to be ended with a reset.
    pub const END_TCP: u32 = 1 << 0;
    /// Its established UDP flows are to be chosen a target anew.
    pub const END_UDP: u32 = 1 << 1;
    /// It takes no new flows (down, draining, in maintenance, removed): a handshake that it has not answered is chosen a
    /// target anew.
    pub const NO_NEW_FLOWS: u32 = 1 << 2;
}

/// A row of `TARGETS`. Its row of `NEXT_HOPS` and of `TARGET_COUNTERS` has the same index. Row 0 is no target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Target {
    /// Its address as [`Ip::words`].
    pub address: [u32; 4],
    /// Its port.
    pub port: Port,
    /// Explicit padding, zero.
    pub reserved: u16,
    /// Counts the targets that had this row; 0 is none.
    pub incarnation: u32,
    /// [`target_flags`].
    pub flags: u32,
}

/// A row of `NEXT_HOPS`: rows below `limits.targets` are the targets' own, those above are routes to clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct NextHop {
    /// Interface to send by; 0 while unresolved.
    pub ifindex: u32,
    /// Longest IP packet that fits.
    pub mtu: u32,
    /// Link-layer address of the next hop.
    pub destination: [u8; 6],
    /// Link-layer address of the interface.
    pub source: [u8; 6],
}

/// A row of `SERVICE_COUNTERS` or `TARGET_COUNTERS`, per processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Counters {
    /// Packets from clients.
    pub packets_in: u64,
    /// Bytes of frames from clients.
    pub bytes_in: u64,
    /// Packets from targets.
    pub packets_out: u64,
    /// Bytes of frames from targets.
    pub bytes_out: u64,
    /// Flows begun.
    pub opened: u64,
    /// Flows ended; `opened - closed` are active.
    pub closed: u64,
}

/// Names of the maps, as pinned. Those with a family in their name end in 4 or 6.
pub mod map {
    /// Array of one [`super::Control`].
    pub const CONTROL: &str = "CONTROL";
    /// Array of `u64`, [`super::FILTER_BITS`] bits: bit `hash & 63` of word `hash >> 6` says that an address may be ours
    /// (`hash` is [`crate::hash::filter`]).
    pub const FILTER: &str = "FILTER";
    /// Program array: row 0 admits IPv4, row 1 IPv6, row 2 logs.
    pub const PROGRAMS: &str = "PROGRAMS";
    /// Array of two hash maps, [`super::ServiceKey`] to [`super::Service`]: one a generation.
    pub const SERVICES: [&str; 2] = ["SERVICES4", "SERVICES6"];
    /// Array of two LPM tries, [`super::AccessKey`] to [`super::ALLOW`] or [`super::DENY`]: one a generation.
    pub const ACCESS: [&str; 2] = ["ACCESS4", "ACCESS6"];
    /// Array of arrays of `u32`: lookup tables of `Control::table_slots` rows of `TARGETS`; [`super::NONE`] where no target
    /// can take flows.
    pub const TABLES: &str = "TABLES";
    /// Array of [`super::Target`].
    pub const TARGETS: &str = "TARGETS";
    /// Array of [`super::NextHop`].
    pub const NEXT_HOPS: &str = "NEXT_HOPS";
    /// LPM trie, client address to row of `NEXT_HOPS`.
    pub const ROUTES: [&str; 2] = ["ROUTES4", "ROUTES6"];
    /// Array of source addresses.
    pub const SNAT: [&str; 2] = ["SNAT4", "SNAT6"];
    /// Hash map, [`super::FlowKey`] to [`super::Flow`]; two entries a flow.
    pub const FLOWS: [&str; 2] = ["FLOWS4", "FLOWS6"];
    /// Array of [`super::Handshake`].
    pub const HANDSHAKES: [&str; 2] = ["HANDSHAKES4", "HANDSHAKES6"];
    /// Array of [`super::RingSlot`], one a flow.
    pub const RING: [&str; 2] = ["RING4", "RING6"];
    /// Array of `u32`, rows named by [`super::cursor`].
    pub const CURSORS: &str = "CURSORS";
    /// Per-processor array of `u64`, a row a [`crate::verdict::Verdict`].
    pub const VERDICTS: &str = "VERDICTS";
    /// Per-processor array of [`super::Counters`].
    pub const SERVICE_COUNTERS: &str = "SERVICE_COUNTERS";
    /// Per-processor array of [`super::Counters`].
    pub const TARGET_COUNTERS: &str = "TARGET_COUNTERS";
    /// Hash map, interface index to `u64`: frames that could not be sent after the verdict, counted for the interfaces
    /// that the agent put in as keys.
    pub const TRANSMIT_FAILED: &str = "TRANSMIT_FAILED";
}

/// Names of the programs in the kernel object.
pub mod program {
    /// XDP: the entry, attached to interfaces.
    pub const ENTRY: &str = "portside";
    /// XDP: admission of IPv4 and IPv6, reached by tail call through `PROGRAMS`.
    pub const ADMIT: [&str; 2] = ["portside_admit4", "portside_admit6"];
    /// XDP: logs a packet's end, reached by tail call through `PROGRAMS` if the log level asks for it.
    pub const LOG: &str = "portside_log";
    /// XDP, only ever run by the agent: each run examines [`super::SWEEP_STEP`] places of `RING4` and `RING6` and reclaims
    /// what has expired.
    pub const SWEEP: &str = "portside_sweep";
    /// Tracepoints of the group `xdp`, which count failures after the verdict.
    pub const TRACEPOINTS: [(&str, &str); 4] = [
        ("portside_redirect_err", "xdp_redirect_err"),
        ("portside_exception", "xdp_exception"),
        ("portside_devmap_xmit", "xdp_devmap_xmit"),
        ("portside_bulk_tx", "xdp_bulk_tx"),
    ];
}

/// Places of each ring that one run of the sweep program examines.
pub const SWEEP_STEP: u32 = 32;

/// Rows of the `CURSORS` map.
pub mod cursor {
    /// Next place of `RING4` to look at.
    pub const RING4: u32 = 0;
    /// Next place of `RING6` to look at.
    pub const RING6: u32 = 1;
    /// Flow entries of IPv4 in the table.
    pub const FLOWS4: u32 = 2;
    /// Flow entries of IPv6 in the table.
    pub const FLOWS6: u32 = 3;
    /// Next place of `RING4` to sweep: apart from `RING4`, or new flows would look where the sweep is, at the live flows of
    /// an empty table.
    pub const SWEEP4: u32 = 4;
    /// Next place of `RING6` to sweep.
    pub const SWEEP6: u32 = 5;
    /// Number of rows.
    pub const COUNT: u32 = 6;
}

const _: () = {
    assert!(size_of::<Control>() == 16 * 4);
    assert!(size_of::<FlowKey<V4>>() == 16 && size_of::<FlowKey<V6>>() == 40);
    assert!(size_of::<Flow<V4>>() == 8 + 4 + 4 * 12 + 12 + 8 + 16);
    assert!(size_of::<Flow<V6>>() == size_of::<Flow<V4>>() + 24);
    assert!(size_of::<RingSlot<V6>>() == 40);
    assert!(size_of::<Handshake<V4>>() == 20 + 16 + 8 + 4 * 9 + 12);
    assert!(size_of::<Handshake<V6>>() == 20 + 64 + 8 + 4 * 9 + 12);
    assert!(size_of::<ServiceKey<V4>>() == 12 && size_of::<ServiceKey<V6>>() == 24);
    assert!(size_of::<Service>() == 16);
    assert!(size_of::<AccessKey<V4>>() == 8 && size_of::<AccessKey<V6>>() == 20);
    assert!(size_of::<Target>() == 28);
    assert!(size_of::<NextHop>() == 20);
    assert!(size_of::<Counters>() == 48);
};

impl<A: Ip> FlowKey<A> {
    /// The key with its ends exchanged.
    #[inline(always)]
    pub fn reversed(&self) -> Self {
        Self { src: self.dst, dst: self.src, sport: self.dport, dport: self.sport, protocol: self.protocol }
    }
}
