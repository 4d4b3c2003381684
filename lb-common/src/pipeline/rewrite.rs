//! The rewrite: addresses, ports, checksums, time to live, link-layer addresses.

use crate::{
    abi::{NONE, TCP},
    addr::{Ip, Port},
    checksum::{self, Delta},
    parse::{ETHERNET, Network, Segment, transport},
    pipeline::Action,
    tables::Tables,
    verdict::Verdict,
    wire::{Ethernet, Ipv4, Ipv6, Packet},
};

/// What to make of a packet's header.
#[derive(Clone, Copy)]
pub struct Rewrite<A> {
    /// New source address.
    pub src: A,
    /// New destination address.
    pub dst: A,
    /// New source port.
    pub sport: Port,
    /// New destination port.
    pub dport: Port,
    /// Change of the IPv4 header's checksum.
    pub l3_delta: u32,
    /// Change of the transport checksum.
    pub l4_delta: u32,
}

/// Where to send a packet.
#[derive(Clone, Copy)]
pub struct Route {
    /// Row of the next hops, or [`NONE`] to use what follows.
    pub next_hop: u32,
    /// Interface to send by.
    pub ifindex: u32,
    /// Link-layer address to send to.
    pub destination: [u8; 6],
    /// Link-layer address to send from.
    pub source: [u8; 6],
}

/// The deltas of a rewrite from `old` to `new` ends: (network, transport).
#[inline(always)]
pub fn deltas<A: Ip>(old: (A, A, Port, Port), new: (A, A, Port, Port)) -> (u32, u32) {
    let addresses = Delta::new().remove(old.0.sum() + old.1.sum()).insert(new.0.sum() + new.1.sum());
    let ports = addresses
        .remove(old.2.wire() as u64 + old.3.wire() as u64)
        .insert(new.2.wire() as u64 + new.3.wire() as u64);
    (addresses.get(), ports.get())
}

/// Ones'-complement change of the IPv4 header when the time to live goes down by one.
const TTL_STEP: u32 = !(u16::from_ne_bytes([1, 0])) as u32;

/// Rewrites the packet and says by which interface it goes.
#[inline(always)]
pub fn apply<A: Ip, P: Packet, T: Tables<A>>(
    packet: &mut P,
    tables: &T,
    network: &Network<A>,
    protocol: u32,
    segment: &Segment,
    rewrite: &Rewrite<A>,
    route: &Route,
) -> Action {
    if network.ttl <= 1 {
        return Verdict::DropTtlExceeded.into();
    }
    let (mut ifindex, mut destination, mut source) = (route.ifindex, route.destination, route.source);
    if route.next_hop != NONE {
        match tables.next_hop(route.next_hop) {
            Some(hop) if hop.ifindex != 0 => {
                if network.length > hop.mtu as usize {
                    return Verdict::DropTooBig.into();
                }
                (ifindex, destination, source) = (hop.ifindex, hop.destination, hop.source);
            }
            // The way the client's packets come is known even while the kernel's neighbour is not.
            _ if ifindex == 0 => return Verdict::DropNextHopUnresolved.into(),
            _ => {}
        }
    }
    if write(packet, network, protocol, segment, rewrite, destination, source).is_none() {
        return Verdict::DropMalformed.into();
    }
    if ifindex == packet.ingress() {
        Verdict::Transmitted.into()
    } else {
        Action { verdict: Verdict::Redirected, ifindex }
    }
}

/// Writes the headers. Every offset was read before, so `None` cannot happen to a parsed packet.
#[inline(always)]
fn write<A: Ip, P: Packet>(
    packet: &mut P,
    network: &Network<A>,
    protocol: u32,
    segment: &Segment,
    rewrite: &Rewrite<A>,
    destination: [u8; 6],
    source: [u8; 6],
) -> Option<()> {
    let ethertype = if A::IS_V6 { crate::parse::IPV6 } else { crate::parse::IPV4 };
    packet.store(0, Ethernet { destination, source, ethertype })?;
    if A::IS_V6 {
        let mut ip: Ipv6 = packet.load(ETHERNET)?;
        ip.hop_limit = network.ttl - 1;
        ip.source = rewrite.src.words();
        ip.destination = rewrite.dst.words();
        packet.store(ETHERNET, ip)?;
    } else {
        let mut ip: Ipv4 = packet.load(ETHERNET)?;
        ip.ttl = network.ttl - 1;
        ip.checksum = checksum::apply(network.checksum, rewrite.l3_delta + TTL_STEP);
        ip.source = rewrite.src.words()[0];
        ip.destination = rewrite.dst.words()[0];
        packet.store(ETHERNET, ip)?;
    }
    let at = transport::<A>();
    packet.store(at, [rewrite.sport.wire(), rewrite.dport.wire()])?;
    if protocol == TCP {
        packet.store(at + 16, checksum::apply(segment.checksum, rewrite.l4_delta))
    } else if segment.checksum != 0 {
        // A computed 0 is sent as all ones: 0 says that there is no checksum (RFC 768).
        let sum = checksum::apply(segment.checksum, rewrite.l4_delta);
        packet.store(at + 6, if sum == 0 { 0xffff } else { sum })
    } else {
        Some(())
    }
}
