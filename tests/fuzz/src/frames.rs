//! Frames: made whole, and read by another library than the packet path's own reader.

use std::net::{IpAddr, SocketAddr};

use etherparse::{IpHeaders, NetSlice, PacketBuilder, PacketBuilderStep, SlicedPacket, TransportSlice};

/// TCP flags as the header has them.
pub(crate) mod flags {
    pub(crate) const FIN: u8 = 1;
    pub(crate) const SYN: u8 = 2;
    pub(crate) const RST: u8 = 4;
    pub(crate) const ACK: u8 = 16;
}

/// What a frame is made from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spec {
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    pub(crate) tcp: bool,
    pub(crate) flags: u8,
    pub(crate) sequence: u32,
    pub(crate) acknowledgement: u32,
    pub(crate) ttl: u8,
    pub(crate) payload: usize,
}

/// A TCP or UDP frame with valid lengths and checksums; `None` if the ends' families differ.
pub(crate) fn build(spec: &Spec) -> Option<Vec<u8>> {
    let link = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
    let ip = match (spec.from.ip(), spec.to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => link.ipv4(from.octets(), to.octets(), spec.ttl),
        (IpAddr::V6(from), IpAddr::V6(to)) => link.ipv6(from.octets(), to.octets(), spec.ttl),
        _ => return None,
    };
    let payload = vec![0x5a; spec.payload];
    let mut frame = Vec::new();
    let written = if spec.tcp {
        tcp(ip, spec).write(&mut frame, &payload)
    } else {
        ip.udp(spec.from.port(), spec.to.port()).write(&mut frame, &payload)
    };
    written.ok().map(|()| frame)
}

fn tcp(ip: PacketBuilderStep<IpHeaders>, spec: &Spec) -> PacketBuilderStep<etherparse::TcpHeader> {
    let mut tcp = ip.tcp(spec.from.port(), spec.to.port(), spec.sequence, 1000);
    if spec.flags & flags::FIN != 0 {
        tcp = tcp.fin();
    }
    if spec.flags & flags::SYN != 0 {
        tcp = tcp.syn();
    }
    if spec.flags & flags::RST != 0 {
        tcp = tcp.rst();
    }
    if spec.flags & flags::ACK != 0 {
        tcp = tcp.ack(spec.acknowledgement);
    }
    tcp
}

/// What is in a frame.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Read {
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    pub(crate) tcp: bool,
    pub(crate) flags: u8,
    pub(crate) sequence: u32,
    pub(crate) ttl: u8,
    pub(crate) destination_mac: [u8; 6],
    pub(crate) payload: Vec<u8>,
    /// Whether it has a transport checksum: UDP over IPv4 may do without.
    pub(crate) has_checksum: bool,
    /// Whether every checksum is right.
    pub(crate) valid: bool,
}

/// Whether a checksum is right: in ones' complement, all zeros and all ones are one number.
fn right(found: u16, computed: Option<u16>) -> bool {
    let one = |sum: u16| if sum == 0 { 0xffff } else { sum };
    computed.is_some_and(|computed| one(computed) == one(found))
}

/// Reads a TCP or UDP frame; `None` if it is none, or not whole.
pub(crate) fn read(frame: &[u8]) -> Option<Read> {
    let packet = SlicedPacket::from_ethernet(frame).ok()?;
    let link = match &packet.link {
        Some(etherparse::LinkSlice::Ethernet2(link)) => link.destination(),
        _ => return None,
    };
    let (from, to, ttl, header_valid) = match &packet.net {
        Some(NetSlice::Ipv4(ip)) => {
            let header = ip.header();
            let valid = right(header.header_checksum(), Some(header.to_header().calc_header_checksum()));
            (IpAddr::V4(header.source_addr()), IpAddr::V4(header.destination_addr()), header.ttl(), valid)
        }
        Some(NetSlice::Ipv6(ip)) => {
            let header = ip.header();
            let (from, to) = (IpAddr::V6(header.source_addr()), IpAddr::V6(header.destination_addr()));
            (from, to, header.hop_limit(), true)
        }
        _ => return None,
    };
    let sum = |tcp: bool| -> Option<u16> {
        match (&packet.net, &packet.transport) {
            (Some(NetSlice::Ipv4(ip)), Some(TransportSlice::Tcp(segment))) if tcp => {
                segment.calc_checksum_ipv4(ip.header().source(), ip.header().destination()).ok()
            }
            (Some(NetSlice::Ipv6(ip)), Some(TransportSlice::Tcp(segment))) if tcp => {
                segment.calc_checksum_ipv6(ip.header().source(), ip.header().destination()).ok()
            }
            (Some(NetSlice::Ipv4(ip)), Some(TransportSlice::Udp(datagram))) => {
                let (from, to) = (ip.header().source(), ip.header().destination());
                datagram.to_header().calc_checksum_ipv4_raw(from, to, datagram.payload()).ok()
            }
            (Some(NetSlice::Ipv6(ip)), Some(TransportSlice::Udp(datagram))) => {
                let (from, to) = (ip.header().source(), ip.header().destination());
                datagram.to_header().calc_checksum_ipv6_raw(from, to, datagram.payload()).ok()
            }
            _ => None,
        }
    };
    let read = match &packet.transport {
        Some(TransportSlice::Tcp(segment)) => Read {
            from: SocketAddr::new(from, segment.source_port()),
            to: SocketAddr::new(to, segment.destination_port()),
            tcp: true,
            flags: segment.slice().get(13).copied()?,
            sequence: segment.sequence_number(),
            ttl,
            destination_mac: link,
            payload: segment.payload().to_vec(),
            has_checksum: true,
            valid: header_valid && right(segment.checksum(), sum(true)),
        },
        Some(TransportSlice::Udp(datagram)) => Read {
            from: SocketAddr::new(from, datagram.source_port()),
            to: SocketAddr::new(to, datagram.destination_port()),
            tcp: false,
            flags: 0,
            sequence: 0,
            ttl,
            destination_mac: link,
            payload: datagram.payload().to_vec(),
            // 0 says that there is none (RFC 768); over IPv6 there must be one (RFC 8200, section 8.1).
            has_checksum: datagram.checksum() != 0,
            valid: header_valid
                && if datagram.checksum() == 0 {
                    from.is_ipv4()
                } else {
                    right(datagram.checksum(), sum(false))
                },
        },
        _ => return None,
    };
    Some(read)
}
