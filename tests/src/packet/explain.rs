//! The parser.

use std::{fmt, net::IpAddr};

use anyhow::{Context, Result, bail, ensure};
use etherparse::{IpNumber, NetSlice, SlicedPacket, TransportSlice, checksum::Sum16BitWords, ip_number};

use super::{build::Flags, transport_checksum};

/// Ports: source, destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    /// Source port.
    pub source: u16,
    /// Destination port.
    pub destination: u16,
}

/// What a frame says; made only of frames whose lengths and checksums are all right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explained {
    /// Source MAC address.
    pub source_mac: [u8; 6],
    /// Destination MAC address.
    pub destination_mac: [u8; 6],
    /// VLAN ids, outermost first.
    pub vlans: Vec<u16>,
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// IPv4 time to live, IPv6 hop limit.
    pub ttl: u8,
    /// IPv4 type of service, IPv6 traffic class.
    pub tos: u8,
    /// Whether it is a fragment.
    pub fragmented: bool,
    /// The transport protocol's number.
    pub protocol: u8,
    /// Of TCP and UDP, if the fragment holds them.
    pub ports: Option<Ports>,
    /// Flags of TCP.
    pub flags: Option<Flags>,
    /// Sequence and acknowledgment numbers of TCP.
    pub numbers: Option<(u32, u32)>,
    /// Type and code of ICMP.
    pub icmp: Option<(u8, u8)>,
    /// All after the IP headers.
    pub body: Vec<u8>,
}

/// Parses `frame` and verifies each checksum it has in full. Of fragments only the IP header's can be.
pub fn explain(frame: &[u8]) -> Result<Explained> {
    let packet = SlicedPacket::from_ethernet(frame).context("not a frame of known layout")?;
    let Some(etherparse::LinkSlice::Ethernet2(link)) = &packet.link else { bail!("not an Ethernet frame") };
    let vlans = packet.vlan_ids().iter().map(|id| id.value()).collect();
    let (source, destination, ttl, tos, payload) = match &packet.net {
        Some(NetSlice::Ipv4(ip)) => {
            let header = ip.header();
            let sum = Sum16BitWords::new().add_slice(header.slice()).ones_complement();
            ensure!(sum == 0, "wrong IPv4 header checksum {:#06x}", header.header_checksum());
            let tos = (header.dcp().value() << 2) | header.ecn().value();
            let (source, destination) = (header.source_addr().into(), header.destination_addr().into());
            (source, destination, header.ttl(), tos, ip.payload())
        }
        Some(NetSlice::Ipv6(ip)) => {
            let header = ip.header();
            let (source, destination) = (header.source_addr().into(), header.destination_addr().into());
            (source, destination, header.hop_limit(), header.traffic_class(), ip.payload())
        }
        Some(NetSlice::Arp(_)) => bail!("ARP, not IP"),
        None => bail!("not IP: EtherType {:?}", link.ether_type()),
    };
    let mut explained = Explained {
        source_mac: link.source(),
        destination_mac: link.destination(),
        vlans,
        source,
        destination,
        ttl,
        tos,
        fragmented: payload.fragmented,
        protocol: payload.ip_number.0,
        ports: None,
        flags: None,
        numbers: None,
        icmp: None,
        body: payload.payload.to_vec(),
    };
    if !payload.fragmented {
        verify(&explained, payload.ip_number)?;
    }
    match &packet.transport {
        Some(TransportSlice::Tcp(tcp)) => {
            explained.ports = Some(Ports { source: tcp.source_port(), destination: tcp.destination_port() });
            explained.numbers = Some((tcp.sequence_number(), tcp.acknowledgment_number()));
            explained.flags = Some(Flags {
                syn: tcp.syn(),
                ack: tcp.ack(),
                fin: tcp.fin(),
                rst: tcp.rst(),
                psh: tcp.psh(),
                urg: tcp.urg(),
            });
        }
        Some(TransportSlice::Udp(udp)) => {
            explained.ports = Some(Ports { source: udp.source_port(), destination: udp.destination_port() });
        }
        Some(TransportSlice::Icmpv4(icmp)) => explained.icmp = Some((icmp.type_u8(), icmp.code_u8())),
        Some(TransportSlice::Icmpv6(icmp)) => explained.icmp = Some((icmp.type_u8(), icmp.code_u8())),
        Some(TransportSlice::Igmp(_)) | None => {}
    }
    Ok(explained)
}

fn verify(packet: &Explained, protocol: IpNumber) -> Result<()> {
    let body = &packet.body[..];
    let sum = match protocol {
        ip_number::ICMP => Sum16BitWords::new().add_slice(body).ones_complement(),
        ip_number::UDP if packet.source.is_ipv4() && body.get(6..8) == Some(&[0, 0]) => return Ok(()),
        ip_number::UDP if body.get(6..8) == Some(&[0, 0]) => bail!("UDP over IPv6 without a checksum"),
        ip_number::TCP | ip_number::UDP | ip_number::IPV6_ICMP => {
            transport_checksum(packet.source, packet.destination, protocol.0, body)
        }
        _ => return Ok(()),
    };
    ensure!(sum == 0, "wrong checksum in protocol {}, of {packet}", protocol.0);
    Ok(())
}

impl fmt::Display for Explained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mac = |mac: [u8; 6]| mac.map(|byte| format!("{byte:02x}")).join(":");
        write!(f, "{} > {}", mac(self.source_mac), mac(self.destination_mac))?;
        for vlan in &self.vlans {
            write!(f, ", VLAN {vlan}")?;
        }
        match self.ports {
            Some(ports) => {
                write!(
                    f,
                    ", [{}]:{} > [{}]:{}",
                    self.source, ports.source, self.destination, ports.destination
                )?;
            }
            None => write!(f, ", {} > {}", self.source, self.destination)?,
        }
        write!(f, ", ttl {}, protocol {}, {} bytes", self.ttl, self.protocol, self.body.len())?;
        if self.fragmented {
            f.write_str(", fragment")?;
        }
        if let Some(flags) = self.flags {
            let names = [
                (flags.syn, "SYN"),
                (flags.ack, "ACK"),
                (flags.fin, "FIN"),
                (flags.rst, "RST"),
                (flags.psh, "PSH"),
                (flags.urg, "URG"),
            ];
            names.iter().filter(|(set, _)| *set).try_for_each(|(_, name)| write!(f, " {name}"))?;
        }
        if let Some((seq, ack)) = self.numbers {
            write!(f, ", seq {seq}, ack {ack}")?;
        }
        if let Some((kind, code)) = self.icmp {
            write!(f, ", ICMP type {kind} code {code}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::{super::Frame, *};

    fn ends(v6: bool) -> (SocketAddr, SocketAddr) {
        if v6 {
            ("[fd00::1]:1234".parse().unwrap(), "[fd00::2]:80".parse().unwrap())
        } else {
            ("10.0.0.1:1234".parse().unwrap(), "10.0.0.2:80".parse().unwrap())
        }
    }

    fn whole(frame: &Frame) -> Explained {
        explain(&frame.bytes().unwrap()).unwrap()
    }

    #[test]
    fn what_is_built_is_what_is_read() {
        for (from, to) in [ends(false), ends(true)] {
            let frame = Frame::tcp(from, to, Flags::SYN_ACK).numbers(7, 9).data(b"hello").vlan(5).vlan(6);
            let read = whole(&frame);
            assert_eq!((read.source, read.destination), (from.ip(), to.ip()));
            assert_eq!(read.ports, Some(Ports { source: 1234, destination: 80 }));
            assert_eq!((read.flags, read.numbers), (Some(Flags::SYN_ACK), Some((7, 9))));
            assert_eq!(read.vlans, [5, 6]);
            assert!(read.body.ends_with(b"hello"));

            let read = whole(&Frame::udp(from, to, b"odd"));
            assert_eq!((read.protocol, read.body.len()), (17, 11));
            let read = whole(&Frame::echo_request(from.ip(), to.ip(), 1, 2));
            assert_eq!(read.icmp, Some((if from.is_ipv4() { 8 } else { 128 }, 0)));
        }
    }

    #[test]
    fn any_changed_byte_of_the_checked_parts_is_noticed() {
        for (from, to) in [ends(false), ends(true)] {
            for frame in [Frame::tcp(from, to, Flags::ACK).data(b"data"), Frame::udp(from, to, b"data")] {
                let bytes = frame.bytes().unwrap();
                let body = explain(&bytes).unwrap().body.len();
                // The last byte of each address, and the first of the data.
                let addresses = bytes.len() - body - 1;
                for at in [addresses, addresses - if from.is_ipv4() { 4 } else { 16 }, bytes.len() - 4] {
                    let mut changed = bytes.clone();
                    changed[at] ^= 0x40;
                    assert!(explain(&changed).is_err(), "byte {at} of {frame:?}");
                }
            }
        }
    }

    #[test]
    fn fragments_and_extensions() {
        for (from, to) in [ends(false), ends(true)] {
            let frame = Frame::udp(from, to, &[1; 100]);
            let first = whole(&frame.clone().fragment(0, Some(48), true));
            assert!(first.fragmented && first.body.len() == 48);
            let last = whole(&frame.fragment(48, None, false));
            assert!(last.fragmented && last.body.len() == 60 && last.ports.is_none());
        }
        let (from, to) = ends(true);
        let mut frame = Frame::tcp(from, to, Flags::SYN);
        // An eight-byte hop-by-hop header of padding, then destination options.
        frame.extensions = vec![(0, vec![0, 0, 1, 4, 0, 0, 0, 0]), (60, vec![0, 0, 1, 4, 0, 0, 0, 0])];
        let read = whole(&frame);
        assert_eq!((read.protocol, read.flags), (6, Some(Flags::SYN)));
        let (from, to) = ends(false);
        let mut frame = Frame::tcp(from, to, Flags::SYN);
        frame.ip_options = vec![1; 8];
        assert_eq!(whole(&frame).ports, Some(Ports { source: 1234, destination: 80 }));
    }
}
