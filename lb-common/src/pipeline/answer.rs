//! Answers that the program makes of the packet itself: echo replies, resets, port unreachable.

use crate::{
    abi::FlowKey,
    addr::Ip,
    checksum::{self, Delta},
    parse::{ETHERNET, IPV4, IPV6, Network, Segment, transport},
    verdict::Verdict,
    wire::{Ethernet, Icmp, Ipv4, Ipv6, Packet, Tcp, tcp_flags},
};

/// Time to live of what the program itself sends.
const TTL: u8 = 64;

/// Types of echo messages: (IPv4 request, reply), (IPv6 request, reply).
const ECHO: [(u8, u8); 2] = [(8, 0), (128, 129)];

/// Makes an echo request its reply. `None` if it is no whole echo request.
#[inline(always)]
pub fn echo<A: Ip, P: Packet>(packet: &mut P, network: &Network<A>) -> Option<Verdict> {
    let (request, reply) = ECHO[A::IS_V6 as usize];
    if network.length < A::HEADER + size_of::<Icmp>() {
        return None;
    }
    let mut icmp: Icmp = packet.load(transport::<A>())?;
    if icmp.kind != request || icmp.code != 0 {
        return None;
    }
    let old = u16::from_ne_bytes([icmp.kind, icmp.code]);
    icmp.kind = reply;
    let new = u16::from_ne_bytes([icmp.kind, icmp.code]);
    // Exchanging the addresses does not change ICMPv6's pseudo-header sum.
    let delta = Delta::new().remove(old as u64).insert(new as u64).get();
    icmp.checksum = checksum::apply(icmp.checksum, delta);
    packet.store(transport::<A>(), icmp)?;
    turn_ethernet::<A, P>(packet)?;
    if A::IS_V6 {
        let mut ip: Ipv6 = packet.load(ETHERNET)?;
        (ip.source, ip.destination) = (ip.destination, ip.source);
        ip.hop_limit = TTL;
        packet.store(ETHERNET, ip)?;
    } else {
        let mut ip: Ipv4 = packet.load(ETHERNET)?;
        (ip.source, ip.destination) = (ip.destination, ip.source);
        let old = u16::from_ne_bytes([ip.ttl, ip.protocol]);
        ip.ttl = TTL;
        let new = u16::from_ne_bytes([ip.ttl, ip.protocol]);
        ip.checksum = checksum::apply(ip.checksum, Delta::new().remove(old as u64).insert(new as u64).get());
        packet.store(ETHERNET, ip)?;
    }
    Some(Verdict::AnsweredEcho)
}

/// Makes a TCP segment the reset that its sender believes (RFC 9293, section 3.10.7.1).
#[inline(always)]
pub fn reset<A: Ip, P: Packet>(
    packet: &mut P,
    network: &Network<A>,
    key: &FlowKey<A>,
    segment: &Segment,
) -> Option<Verdict> {
    let length = transport::<A>() + size_of::<Tcp>();
    let payload = (network.length - A::HEADER - segment.header) as u32;
    let opens = (segment.flags & (tcp_flags::SYN | tcp_flags::FIN)).count_ones();
    let (sequence, acknowledgement, flags) = if segment.flags & tcp_flags::ACK != 0 {
        (segment.acknowledgement, 0, tcp_flags::RST)
    } else {
        (0, segment.sequence.wrapping_add(payload + opens), tcp_flags::RST | tcp_flags::ACK)
    };
    packet.resize(length)?;
    turn_ethernet::<A, P>(packet)?;
    fresh_network(packet, key.dst, key.src, crate::abi::TCP as u8, size_of::<Tcp>() as u16)?;
    let tcp = Tcp {
        source: key.dport.wire(),
        destination: key.sport.wire(),
        sequence: sequence.to_be(),
        acknowledgement: acknowledgement.to_be(),
        offset: 5 << 4,
        flags,
        window: 0,
        checksum: 0,
        urgent: 0,
    };
    packet.store(transport::<A>(), tcp)?;
    let sum = pseudo(key.src, key.dst, crate::abi::TCP as u16, size_of::<Tcp>() as u16)
        + sum::<5>(packet, transport::<A>())?;
    packet.store(transport::<A>() + 16, !checksum::fold(sum))?;
    Some(Verdict::AnsweredReset)
}

/// Makes a segment a reset for its receiver, in place: a reset may bear data (RFC 1122, section 4.2.2.12).
#[inline(always)]
pub fn turn_to_reset<A: Ip, P: Packet>(packet: &mut P, segment: &mut Segment) -> Option<()> {
    let at = transport::<A>() + 12;
    let old: u16 = packet.load(at)?;
    let [offset, flags] = old.to_ne_bytes();
    segment.flags = flags & tcp_flags::ACK | tcp_flags::RST;
    let new = u16::from_ne_bytes([offset, segment.flags]);
    segment.checksum =
        checksum::apply(segment.checksum, Delta::new().remove(old as u64).insert(new as u64).get());
    packet.store(at, new)
}

/// Makes a UDP datagram the "port unreachable" for its sender (RFC 792; RFC 4443, section 3.1), which quotes its network
/// header and first eight bytes.
#[inline(always)]
pub fn unreachable<A: Ip, P: Packet>(packet: &mut P, key: &FlowKey<A>) -> Option<Verdict> {
    let quote = A::HEADER + 8;
    let payload = size_of::<Icmp>() + quote;
    let at = transport::<A>();
    let quoted = at + size_of::<Icmp>();
    packet.resize(at + payload)?;
    turn_ethernet::<A, P>(packet)?;
    let first: [u32; 2] = packet.load(at)?;
    if A::IS_V6 {
        let ip: [u32; 10] = packet.load(ETHERNET)?;
        packet.store(quoted, ip)?;
    } else {
        let ip: [u32; 5] = packet.load(ETHERNET)?;
        packet.store(quoted, ip)?;
    }
    packet.store(quoted + A::HEADER, first)?;
    let (kind, code, protocol) = if A::IS_V6 { (1, 4, 58) } else { (3, 3, 1) };
    fresh_network(packet, key.dst, key.src, protocol, payload as u16)?;
    packet.store(at, Icmp { kind, code, checksum: 0, rest: 0 })?;
    let sum = if A::IS_V6 {
        pseudo(key.src, key.dst, protocol as u16, payload as u16) + sum::<14>(packet, at)?
    } else {
        sum::<9>(packet, at)?
    };
    packet.store(at + 2, !checksum::fold(sum))?;
    Some(Verdict::AnsweredUnreachable)
}

/// Sends the frame back where it came from.
#[inline(always)]
fn turn_ethernet<A: Ip, P: Packet>(packet: &mut P) -> Option<()> {
    let Ethernet { destination, source, .. } = packet.load(0)?;
    let ethertype = if A::IS_V6 { IPV6 } else { IPV4 };
    packet.store(0, Ethernet { destination: source, source: destination, ethertype })
}

/// Writes a network header without options.
#[inline(always)]
fn fresh_network<A: Ip, P: Packet>(packet: &mut P, src: A, dst: A, protocol: u8, payload: u16) -> Option<()> {
    if A::IS_V6 {
        return packet.store(
            ETHERNET,
            Ipv6 {
                version_class_label: (6u32 << 28).to_be(),
                payload_length: payload.to_be(),
                next_header: protocol,
                hop_limit: TTL,
                source: src.words(),
                destination: dst.words(),
            },
        );
    }
    packet.store(
        ETHERNET,
        Ipv4 {
            version_ihl: 0x45,
            tos: 0,
            total_length: (A::HEADER as u16 + payload).to_be(),
            id: 0,
            fragment: 0x4000u16.to_be(),
            ttl: TTL,
            protocol,
            checksum: 0,
            source: src.words()[0],
            destination: dst.words()[0],
        },
    )?;
    let sum = sum::<5>(packet, ETHERNET)?;
    packet.store(ETHERNET + 10, !checksum::fold(sum))
}

/// Sum of the pseudo-header.
#[inline(always)]
fn pseudo<A: Ip>(one: A, other: A, protocol: u16, length: u16) -> u64 {
    one.sum() + other.sum() + protocol.to_be() as u64 + length.to_be() as u64
}

/// Sum of `N` words of the packet.
#[inline(always)]
fn sum<const N: usize>(packet: &impl Packet, offset: usize) -> Option<u64> {
    let words: [u32; N] = packet.load(offset)?;
    let mut sum = 0;
    for word in words {
        sum += word as u64;
    }
    Some(sum)
}
