//! From bytes to what the pipeline decides on.

use crate::{
    abi::{FlowKey, TCP, UDP},
    addr::{Ip, Port},
    verdict::Verdict,
    wire::{Ipv4, Ipv6, Packet, Tcp, Udp, tcp_flags},
};

/// Length of the Ethernet header.
pub const ETHERNET: usize = 14;
/// EtherType of IPv4, as the wire has it.
pub const IPV4: u16 = 0x0800u16.to_be();
/// EtherType of IPv6, as the wire has it.
pub const IPV6: u16 = 0x86ddu16.to_be();

/// Protocol numbers of ICMP and ICMPv6.
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

/// More fragments, or an offset.
const FRAGMENT: u16 = 0x3fffu16.to_be();

/// Offset of the transport header.
#[inline(always)]
pub const fn transport<A: Ip>() -> usize {
    ETHERNET + A::HEADER
}

/// The network header, of either family.
#[derive(Clone, Copy)]
pub struct Network<A> {
    /// Source address.
    pub src: A,
    /// Destination address.
    pub dst: A,
    /// Protocol of the payload.
    pub protocol: u8,
    /// Time to live or hop limit.
    pub ttl: u8,
    /// Length of header and payload, bytes.
    pub length: usize,
    /// Checksum of the IPv4 header; 0 for IPv6.
    pub checksum: u16,
    /// What keeps the packet from being looked into further.
    pub oddity: Option<Verdict>,
}

/// The transport header's part in the decisions.
#[derive(Clone, Copy)]
pub struct Segment {
    /// TCP: [`tcp_flags`]. UDP: 0.
    pub flags: u8,
    /// TCP: sequence number, host order.
    pub sequence: u32,
    /// TCP: acknowledgement number, host order.
    pub acknowledgement: u32,
    /// TCP: header length in bytes, 20 to 60. UDP: 8.
    pub header: usize,
    /// The transport checksum.
    pub checksum: u16,
}

impl Segment {
    /// Whether this opens a TCP connection.
    #[inline(always)]
    pub fn is_first_syn(&self) -> bool {
        self.flags & (tcp_flags::SYN | tcp_flags::ACK | tcp_flags::RST | tcp_flags::FIN) == tcp_flags::SYN
    }
}

/// Reads the network header; `None` if the frame ends before the addresses do.
#[inline(always)]
pub fn network<A: Ip>(packet: &impl Packet) -> Option<Network<A>> {
    if A::IS_V6 {
        let ip: Ipv6 = packet.load(ETHERNET)?;
        let length = A::HEADER + u16::from_be(ip.payload_length) as usize;
        let oddity = if u32::from_be(ip.version_class_label) >> 28 != 6 || ETHERNET + length > packet.length()
        {
            Some(Verdict::DropMalformed)
        } else {
            match ip.next_header {
                // Hop-by-hop, routing, destination options, authentication, mobility, host identity, shim6.
                0 | 43 | 60 | 51 | 135 | 139 | 140 => Some(Verdict::DropUnsupportedHeader),
                44 => Some(Verdict::DropFragment),
                _ => None,
            }
        };
        Some(Network {
            src: A::from_words(ip.source),
            dst: A::from_words(ip.destination),
            protocol: ip.next_header,
            ttl: ip.hop_limit,
            length,
            checksum: 0,
            oddity,
        })
    } else {
        let ip: Ipv4 = packet.load(ETHERNET)?;
        let length = u16::from_be(ip.total_length) as usize;
        let oddity = if ip.version_ihl == 0x45 {
            if length < A::HEADER || ETHERNET + length > packet.length() {
                Some(Verdict::DropMalformed)
            } else if ip.fragment & FRAGMENT != 0 {
                Some(Verdict::DropFragment)
            } else {
                None
            }
        } else if (0x46..=0x4f).contains(&ip.version_ihl) {
            Some(Verdict::DropUnsupportedHeader)
        } else {
            Some(Verdict::DropMalformed)
        };
        Some(Network {
            src: A::from_words([ip.source, 0, 0, 0]),
            dst: A::from_words([ip.destination, 0, 0, 0]),
            protocol: ip.protocol,
            ttl: ip.ttl,
            length,
            checksum: ip.checksum,
            oddity,
        })
    }
}

/// Reads the transport header: the five-tuple, and the rest apart from it, since the key may have to live elsewhere than on
/// the stack.
///
/// # Errors
/// The verdict on a packet to a VIP that has none that we know.
#[inline(always)]
pub fn segment<A: Ip>(packet: &impl Packet, network: &Network<A>) -> Result<(FlowKey<A>, Segment), Verdict> {
    if let Some(verdict) = network.oddity {
        return Err(verdict);
    }
    let payload = network.length - A::HEADER;
    let key = |source, destination, protocol| FlowKey {
        src: network.src,
        dst: network.dst,
        sport: Port::from_wire(source),
        dport: Port::from_wire(destination),
        protocol,
    };
    match network.protocol as u32 {
        TCP => {
            let tcp: Tcp = packet.load(transport::<A>()).ok_or(Verdict::DropMalformed)?;
            let header = (tcp.offset >> 4) as usize * 4;
            if header < size_of::<Tcp>() || header > payload {
                return Err(Verdict::DropMalformed);
            }
            let segment = Segment {
                flags: tcp.flags,
                sequence: u32::from_be(tcp.sequence),
                acknowledgement: u32::from_be(tcp.acknowledgement),
                header,
                checksum: tcp.checksum,
            };
            Ok((key(tcp.source, tcp.destination, TCP), segment))
        }
        UDP => {
            let udp: Udp = packet.load(transport::<A>()).ok_or(Verdict::DropMalformed)?;
            let length = u16::from_be(udp.length) as usize;
            if length < size_of::<Udp>() || length > payload {
                return Err(Verdict::DropMalformed);
            }
            let segment = Segment {
                flags: 0,
                sequence: 0,
                acknowledgement: 0,
                header: size_of::<Udp>(),
                checksum: udp.checksum,
            };
            Ok((key(udp.source, udp.destination, UDP), segment))
        }
        _ => Err(Verdict::DropUnknownProtocol),
    }
}

/// Whether the payload is the family's ICMP.
#[inline(always)]
pub fn is_icmp<A: Ip>(network: &Network<A>) -> bool {
    network.protocol == if A::IS_V6 { ICMPV6 } else { ICMP }
}

/// The client's timestamp (RFC 7323) in one of the layouts that stacks send: after two no-ops (every segment but the
/// SYN), after MSS and SACK-permitted (Linux SYN), after MSS, window scale and no-ops (BSD, macOS and Windows SYNs).
/// Host order.
#[inline(always)]
pub fn timestamp<A: Ip>(packet: &impl Packet, segment: &Segment) -> Option<u32> {
    /// Kind 8, length 10, as they lie in memory.
    const OPTION: u16 = u16::from_ne_bytes([8, 10]);
    let options = transport::<A>() + size_of::<Tcp>();
    let room = segment.header - size_of::<Tcp>();
    if room >= 12 && packet.load::<u16>(options + 2)? == OPTION {
        return packet.load::<u32>(options + 4).map(u32::from_be);
    }
    if room >= 16 && packet.load::<u16>(options + 6)? == OPTION {
        return packet.load::<u32>(options + 8).map(u32::from_be);
    }
    if room >= 20 && packet.load::<u16>(options + 10)? == OPTION {
        return packet.load::<u32>(options + 12).map(u32::from_be);
    }
    None
}
