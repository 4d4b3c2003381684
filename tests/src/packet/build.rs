//! The builder.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, ensure};
use etherparse::{
    EtherType, Ethernet2Header, IpFragOffset, IpNumber, Ipv4Header, Ipv4Options, Ipv6FragmentHeader,
    Ipv6Header, SingleVlanHeader, TcpHeader, UdpHeader, VlanId, VlanPcp, checksum::Sum16BitWords, ip_number,
};

use super::transport_checksum;

/// TCP flags.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(
    missing_docs,
    clippy::struct_excessive_bools,
    reason = "the flags of RFC 9293, under their own names"
)]
pub struct Flags {
    pub syn: bool,
    pub ack: bool,
    pub fin: bool,
    pub rst: bool,
    pub psh: bool,
    pub urg: bool,
}

impl Flags {
    /// A connection's first segment.
    pub const SYN: Self = Self { syn: true, ..Self::NONE };
    /// The answer to it.
    pub const SYN_ACK: Self = Self { syn: true, ack: true, ..Self::NONE };
    /// An ordinary segment.
    pub const ACK: Self = Self { ack: true, ..Self::NONE };
    /// The end of one direction.
    pub const FIN_ACK: Self = Self { fin: true, ack: true, ..Self::NONE };
    /// The end of both.
    pub const RST: Self = Self { rst: true, ..Self::NONE };
    /// No flag at all.
    pub const NONE: Self = Self { syn: false, ack: false, fin: false, rst: false, psh: false, urg: false };

    /// From the low bits of the header's flags byte: FIN, SYN, RST, PSH, ACK, URG upwards.
    #[must_use]
    pub const fn from_bits(bits: u8) -> Self {
        Self {
            fin: bits & 1 != 0,
            syn: bits & 2 != 0,
            rst: bits & 4 != 0,
            psh: bits & 8 != 0,
            ack: bits & 16 != 0,
            urg: bits & 32 != 0,
        }
    }
}

/// What the IP packet carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// A TCP segment.
    Tcp {
        /// Ports: source, destination.
        ports: (u16, u16),
        /// Flags.
        flags: Flags,
        /// Sequence number.
        seq: u32,
        /// Acknowledgment number.
        ack: u32,
        /// Options, a multiple of four bytes, at most 40.
        options: Vec<u8>,
        /// Data.
        data: Vec<u8>,
    },
    /// A UDP datagram.
    Udp {
        /// Ports: source, destination.
        ports: (u16, u16),
        /// Whether it has a checksum; it may lack one over IPv4.
        checksum: bool,
        /// Data.
        data: Vec<u8>,
    },
    /// An ICMP message of the packet's family. The checksum is computed.
    Icmp {
        /// Type.
        kind: u8,
        /// Code.
        code: u8,
        /// All after the checksum: at least four bytes.
        rest: Vec<u8>,
    },
    /// Any protocol, bytes as they are.
    Raw(u8, Vec<u8>),
}

impl Body {
    fn protocol(&self, source: IpAddr) -> u8 {
        match self {
            Self::Tcp { .. } => ip_number::TCP,
            Self::Udp { .. } => ip_number::UDP,
            Self::Icmp { .. } if source.is_ipv4() => ip_number::ICMP,
            Self::Icmp { .. } => ip_number::IPV6_ICMP,
            Self::Raw(protocol, _) => return *protocol,
        }
        .0
    }

    fn bytes(&self, source: IpAddr, destination: IpAddr) -> Result<Vec<u8>> {
        let (mut bytes, at) = match self {
            Self::Tcp { ports, flags, seq, ack, options, data } => {
                let mut header = TcpHeader::new(ports.0, ports.1, *seq, 65_000);
                header.acknowledgment_number = *ack;
                (header.syn, header.ack, header.fin) = (flags.syn, flags.ack, flags.fin);
                (header.rst, header.psh, header.urg) = (flags.rst, flags.psh, flags.urg);
                header.set_options_raw(options).context("TCP options")?;
                ([&header.to_bytes()[..], data].concat(), Some(16))
            }
            Self::Udp { ports, checksum, data } => {
                let length =
                    u16::try_from(8 + data.len()).context("a UDP datagram of more than 65,535 bytes")?;
                let header =
                    UdpHeader { source_port: ports.0, destination_port: ports.1, length, checksum: 0 };
                ([&header.to_bytes()[..], data].concat(), checksum.then_some(6))
            }
            Self::Icmp { kind, code, rest } => ([&[*kind, *code, 0, 0], &rest[..]].concat(), Some(2)),
            Self::Raw(_, bytes) => (bytes.clone(), None),
        };
        if let Some(at) = at {
            let protocol = self.protocol(source);
            let sum = if protocol == ip_number::ICMP.0 {
                Sum16BitWords::new().add_slice(&bytes).ones_complement().to_be()
            } else {
                transport_checksum(source, destination, protocol, &bytes)
            };
            // Zero would say "no checksum" in UDP; its other representation is sent instead.
            let sum = if sum == 0 && matches!(self, Self::Udp { .. }) { 0xffff } else { sum };
            bytes[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        }
        Ok(bytes)
    }
}

/// A frame to build. Its fields can be set directly; the methods are for tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// MAC addresses: source, destination.
    pub macs: ([u8; 6], [u8; 6]),
    /// VLAN ids, outermost first.
    pub vlans: Vec<u16>,
    /// Source address.
    pub source: IpAddr,
    /// Destination address, of the same family.
    pub destination: IpAddr,
    /// IPv4 time to live, IPv6 hop limit.
    pub ttl: u8,
    /// IPv4 type of service, IPv6 traffic class: DSCP and ECN.
    pub tos: u8,
    /// Fragment identification.
    pub id: u32,
    /// IPv4 don't-fragment.
    pub dont_fragment: bool,
    /// IPv4 options, a multiple of four bytes.
    pub ip_options: Vec<u8>,
    /// IPv6 extension headers before the fragment header: number, and the whole header with its first byte (the next
    /// header) filled in here.
    pub extensions: Vec<(u8, Vec<u8>)>,
    /// For a fragment: its offset in bytes, a multiple of eight; its length, if not the rest; whether more follow.
    pub fragment: Option<(u16, Option<u16>, bool)>,
    /// What it carries; for a fragment, the whole, of which a piece is taken.
    pub body: Body,
}

impl Frame {
    /// A frame between two addresses of one family.
    #[must_use]
    pub fn new(source: IpAddr, destination: IpAddr, body: Body) -> Self {
        Self {
            macs: ([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]),
            vlans: Vec::new(),
            source,
            destination,
            ttl: 64,
            tos: 0,
            id: 1,
            dont_fragment: true,
            ip_options: Vec::new(),
            extensions: Vec::new(),
            fragment: None,
            body,
        }
    }

    /// A TCP segment without data.
    #[must_use]
    pub fn tcp(from: SocketAddr, to: SocketAddr, flags: Flags) -> Self {
        let ports = (from.port(), to.port());
        let body = Body::Tcp { ports, flags, seq: 1000, ack: 0, options: Vec::new(), data: Vec::new() };
        Self::new(from.ip(), to.ip(), body)
    }

    /// A UDP datagram.
    #[must_use]
    pub fn udp(from: SocketAddr, to: SocketAddr, data: &[u8]) -> Self {
        let body = Body::Udp { ports: (from.port(), to.port()), checksum: true, data: data.to_vec() };
        Self::new(from.ip(), to.ip(), body)
    }

    /// An ICMP message of the addresses' family.
    #[must_use]
    pub fn icmp(from: IpAddr, to: IpAddr, kind: u8, code: u8, rest: &[u8]) -> Self {
        Self::new(from, to, Body::Icmp { kind, code, rest: rest.to_vec() })
    }

    /// An echo request of the addresses' family.
    #[must_use]
    pub fn echo_request(from: IpAddr, to: IpAddr, id: u16, seq: u16) -> Self {
        let kind = if from.is_ipv4() { 8 } else { 128 };
        let rest = [&id.to_be_bytes()[..], &seq.to_be_bytes(), b"portside"].concat();
        Self::icmp(from, to, kind, 0, &rest)
    }

    /// Sets sequence and acknowledgment numbers of a TCP segment.
    #[must_use]
    pub fn numbers(mut self, new_seq: u32, new_ack: u32) -> Self {
        if let Body::Tcp { seq, ack, .. } = &mut self.body {
            (*seq, *ack) = (new_seq, new_ack);
        }
        self
    }

    /// Sets the data of a TCP segment or a UDP datagram.
    #[must_use]
    pub fn data(mut self, bytes: &[u8]) -> Self {
        if let Body::Tcp { data, .. } | Body::Udp { data, .. } = &mut self.body {
            *data = bytes.to_vec();
        }
        self
    }

    /// Adds a VLAN tag inside those there are.
    #[must_use]
    pub fn vlan(mut self, id: u16) -> Self {
        self.vlans.push(id);
        self
    }

    /// Makes it a fragment of the body from `offset` on, of `length` bytes or to the end.
    #[must_use]
    pub fn fragment(mut self, offset: u16, length: Option<u16>, more: bool) -> Self {
        self.fragment = Some((offset, length, more));
        self.dont_fragment = false;
        self
    }

    /// The bytes on the wire, without the frame check sequence and without padding.
    pub fn bytes(&self) -> Result<Vec<u8>> {
        let whole = self.body.bytes(self.source, self.destination)?;
        let payload = match self.fragment {
            None => &whole[..],
            Some((offset, length, _)) => {
                let from = usize::from(offset);
                let to = length.map_or(whole.len(), |length| from + usize::from(length));
                whole
                    .get(from..to)
                    .with_context(|| format!("a fragment {from}..{to} of {} bytes", whole.len()))?
            }
        };
        let protocol = self.body.protocol(self.source);
        let (ether_type, packet) = match (self.source, self.destination) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                (EtherType::IPV4, self.ipv4(protocol, from.octets(), to.octets(), payload)?)
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                (EtherType::IPV6, self.ipv6(protocol, from.octets(), to.octets(), payload)?)
            }
            (from, to) => anyhow::bail!("{from} and {to} are of different families"),
        };
        let mut frame = Vec::with_capacity(64 + packet.len());
        let (source, destination) = self.macs;
        let outer = if self.vlans.is_empty() { ether_type } else { tag_type(0, self.vlans.len()) };
        frame.extend(Ethernet2Header { source, destination, ether_type: outer }.to_bytes());
        for (at, id) in self.vlans.iter().enumerate() {
            let last = at + 1 == self.vlans.len();
            let inner = if last { ether_type } else { tag_type(at + 1, self.vlans.len()) };
            let vlan_id = VlanId::try_new(*id).context("VLAN id")?;
            let tag = SingleVlanHeader {
                pcp: VlanPcp::ZERO,
                drop_eligible_indicator: false,
                vlan_id,
                ether_type: inner,
            };
            frame.extend(tag.to_bytes());
        }
        frame.extend(packet);
        Ok(frame)
    }

    fn fragment_offset(&self) -> Result<(IpFragOffset, bool)> {
        let (offset, _, more) = self.fragment.unwrap_or_default();
        ensure!(offset.is_multiple_of(8), "a fragment's offset is a multiple of eight, not {offset}");
        Ok((IpFragOffset::try_new(offset / 8).context("fragment offset")?, more))
    }

    fn ipv4(&self, protocol: u8, from: [u8; 4], to: [u8; 4], payload: &[u8]) -> Result<Vec<u8>> {
        let mut header = Ipv4Header::new(0, self.ttl, IpNumber(protocol), from, to).context("IPv4 header")?;
        header.options = Ipv4Options::try_from(&self.ip_options[..]).context("IPv4 options")?;
        header.dscp = etherparse::IpDscp::try_new(self.tos >> 2).context("DSCP")?;
        header.ecn = etherparse::IpEcn::try_new(self.tos & 3).context("ECN")?;
        header.identification = (self.id & 0xffff) as u16;
        header.dont_fragment = self.dont_fragment;
        (header.fragment_offset, header.more_fragments) = self.fragment_offset()?;
        header.set_payload_len(payload.len()).context("IPv4 length")?;
        header.header_checksum = header.calc_header_checksum();
        Ok([&header.to_bytes()[..], payload].concat())
    }

    fn ipv6(&self, protocol: u8, from: [u8; 16], to: [u8; 16], payload: &[u8]) -> Result<Vec<u8>> {
        let mut headers = self.extensions.clone();
        if self.fragment.is_some() {
            let (fragment_offset, more_fragments) = self.fragment_offset()?;
            let next_header = IpNumber(0);
            let header =
                Ipv6FragmentHeader { next_header, fragment_offset, more_fragments, identification: self.id };
            headers.push((ip_number::IPV6_FRAGMENTATION_HEADER.0, header.to_bytes().to_vec()));
        }
        let mut rest = Vec::new();
        for at in 0..headers.len() {
            let next = headers.get(at + 1).map_or(protocol, |(number, _)| *number);
            let mut bytes = headers[at].1.clone();
            *bytes.first_mut().context("an empty extension header")? = next;
            rest.extend(bytes);
        }
        rest.extend_from_slice(payload);
        let header = Ipv6Header {
            traffic_class: self.tos,
            payload_length: u16::try_from(rest.len()).context("IPv6 length")?,
            next_header: IpNumber(headers.first().map_or(protocol, |(number, _)| *number)),
            hop_limit: self.ttl,
            source: from,
            destination: to,
            ..Ipv6Header::default()
        };
        Ok([&header.to_bytes()[..], &rest].concat())
    }
}

/// 802.1ad for an outer tag, 802.1Q for the innermost.
fn tag_type(at: usize, tags: usize) -> EtherType {
    if at + 1 == tags { EtherType::VLAN_TAGGED_FRAME } else { EtherType::PROVIDER_BRIDGING }
}
