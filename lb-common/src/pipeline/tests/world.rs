//! A VIP, two targets and few source ports, in memory.

use core::{hash::Hash, marker::PhantomData};

use crate::{
    abi::{Flow, FlowKey, NextHop, Service, ServiceKey, TCP, Target, UDP, service_kind},
    addr::{Ip, Port, V4, V6},
    memory::{Bytes, Families, Family, Memory},
    parse::{self, ETHERNET, IPV4, IPV6, transport},
    pipeline,
    tables::Tables,
    verdict::Verdict,
    wire::{Ethernet, Ipv4, Ipv6, Packet as _, Tcp, Udp, tcp_flags},
};

/// An address family that the tables in memory have.
pub(super) trait In: Ip + Hash {
    fn family(memory: &mut Memory) -> &mut Family<Self>;
}

impl In for V4 {
    fn family(memory: &mut Memory) -> &mut Family<Self> {
        &mut memory.v4
    }
}

impl In for V6 {
    fn family(memory: &mut Memory) -> &mut Family<Self> {
        &mut memory.v6
    }
}

pub(super) const ACK: u8 = tcp_flags::ACK;
pub(super) const SYN: u8 = tcp_flags::SYN;
pub(super) const SYN_ACK: u8 = tcp_flags::SYN | tcp_flags::ACK;
pub(super) const FIN: u8 = tcp_flags::FIN | tcp_flags::ACK;
pub(super) const RST: u8 = tcp_flags::RST;

/// The service's row, and the lookup table's.
pub(super) const SERVICE: u32 = 3;
const TABLE: u32 = 1;
/// Interface and link-layer addresses of clients: source, destination.
pub(super) const INGRESS: u32 = 4;
pub(super) const MACS: ([u8; 6], [u8; 6]) = ([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
const PORT_FIRST: u16 = 30_000;

/// A segment of the client's or the target's.
#[derive(Clone, Copy)]
pub(super) struct Segment {
    pub(super) flags: u8,
    pub(super) seq: u32,
    pub(super) ack: u32,
    pub(super) timestamp: Option<u32>,
}

/// A segment without a timestamp.
pub(super) const fn segment(flags: u8, seq: u32, ack: u32) -> Segment {
    Segment { flags, seq, ack, timestamp: None }
}

pub(super) struct World<A> {
    pub(super) memory: Memory,
    /// Where the client's packets come by.
    pub(super) way: (u32, ([u8; 6], [u8; 6])),
    family: PhantomData<A>,
}

/// What a packet came to: the verdict, the five-tuple, the TCP flags and the link-layer destination afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Came<A> {
    pub(super) verdict: Verdict,
    pub(super) key: FlowKey<A>,
    pub(super) flags: u8,
    pub(super) mac: [u8; 6],
}

/// 10.0.0.N, or fd00::N.
pub(super) fn address<A: Ip>(number: u8) -> A {
    let number = u32::from(number);
    if A::IS_V6 {
        A::from_words([0xfd00_0000u32.to_be(), 0, 0, number.to_be()])
    } else {
        A::from_words([(0x0a00_0000 + number).to_be(), 0, 0, 0])
    }
}

impl<A: In> World<A>
where
    Memory: Tables<A> + Families<A>,
{
    /// So many source ports; all flows go to target 1.
    pub(super) fn new(ports: u32) -> Self {
        let mut memory = Memory::new(16, 64, 8, 8);
        memory.clock.set(1 << 30);
        let control = &mut memory.control;
        (control.epoch, control.snat_v4, control.snat_v6) = (1, 1, 1);
        (control.port_first, control.port_count, control.table_slots) = (PORT_FIRST.into(), ports, 1);
        (control.tcp_handshake, control.tcp_established) = (100, 10_000);
        (control.tcp_closing, control.tcp_time_wait) = (1_000, 500);
        (control.udp_unanswered, control.udp_established) = (100, 2_000);
        for row in 1..=2u8 {
            memory.targets[row as usize] = Target {
                address: address::<A>(100 + row).words(),
                port: Port::new(8080),
                incarnation: 1,
                ..Target::default()
            };
            memory.next_hops[row as usize] = NextHop {
                ifindex: INGRESS,
                mtu: 1500,
                destination: [2, 1, 0, 0, 0, row],
                source: [2, 2, 0, 0, 0, row],
            };
        }
        memory.look_at(address::<A>(1));
        memory.look_at(address::<A>(2));
        let family = A::family(&mut memory);
        family.snat = vec![address(2)];
        let mut put = |number, port, protocol, service| {
            let key = ServiceKey { address: address(number), port: Port::new(port), reserved: 0, protocol };
            family.services[0].insert(key, service);
        };
        put(1, 0, 0, Service { kind: service_kind::VIP, ..Service::default() });
        put(2, 0, 0, Service { kind: service_kind::SNAT, ..Service::default() });
        let service =
            Service { kind: service_kind::SERVICE, index: SERVICE, table: TABLE, ..Service::default() };
        put(1, 80, TCP, service);
        put(1, 80, UDP, service);
        family.access[0].push((SERVICE, address(0), 0, true));
        memory.tables.insert(TABLE, vec![1]);
        Self { memory, way: (INGRESS, MACS), family: PhantomData }
    }

    /// Lets new flows go to another target; 0 is none.
    pub(super) fn choose(&mut self, target: u32) {
        self.memory.tables.insert(TABLE, vec![target]);
    }

    pub(super) fn wait(&self, ticks: u32) {
        self.memory.clock.set(self.memory.clock.get() + ticks);
    }

    /// The five-tuple of a client's flow.
    pub(super) fn client(port: u16, protocol: u32) -> FlowKey<A> {
        FlowKey { src: address(50), dst: address(1), sport: Port::new(port), dport: Port::new(80), protocol }
    }

    /// Sends a packet of this five-tuple.
    pub(super) fn send(&mut self, key: &FlowKey<A>, segment: Segment) -> Came<A> {
        let mut packet = frame(key, segment, self.way.1);
        packet.ingress = self.way.0;
        let action = pipeline::run(&mut packet, &self.memory);
        let network = parse::network::<A>(&packet).expect("a network header");
        let (key, segment) = parse::segment::<A>(&packet, &network).expect("a transport header");
        let mac = packet.load::<Ethernet>(0).expect("an Ethernet header").destination;
        Came { verdict: action.verdict, key, flags: segment.flags, mac }
    }

    /// Goes through a handshake: the tuple as the target sees it.
    pub(super) fn establish(&mut self, client: &FlowKey<A>) -> FlowKey<A> {
        let there = self.sends(client, segment(SYN, 1000, 0));
        assert_eq!(self.sends(&there.reversed(), segment(SYN_ACK, 5000, 1001)), client.reversed());
        assert_eq!(self.sends(client, segment(ACK, 1001, 5001)), there);
        there
    }

    /// Sends a packet that must be sent on; its five-tuple afterwards.
    #[track_caller]
    pub(super) fn sends(&mut self, key: &FlowKey<A>, segment: Segment) -> FlowKey<A> {
        let came = self.send(key, segment);
        assert_eq!(came.verdict, Verdict::Transmitted, "{key:?}");
        came.key
    }

    /// Flows opened and closed, of the service and of all targets together, which must agree.
    #[track_caller]
    pub(super) fn flows(&self) -> (u64, u64) {
        let service = self.memory.service_counters(SERVICE);
        let targets = [1, 2].map(|row| self.memory.target_counters(row));
        assert_eq!(service.opened, targets.iter().map(|target| target.opened).sum::<u64>());
        assert_eq!(service.closed, targets.iter().map(|target| target.closed).sum::<u64>());
        (service.opened, service.closed)
    }

    pub(super) fn entry(&self, key: &FlowKey<A>) -> Option<Flow<A>> {
        Tables::<A>::flow(&self.memory, key).map(|flow| *flow)
    }

    pub(super) fn entries(&mut self) -> usize {
        A::family(&mut self.memory).flows().len()
    }
}

fn frame<A: Ip>(key: &FlowKey<A>, segment: Segment, macs: ([u8; 6], [u8; 6])) -> Bytes {
    let options = if segment.timestamp.is_some() { 12 } else { 0 };
    let payload = if key.protocol == TCP { 20 + options } else { 8 };
    let mut packet = Bytes { bytes: vec![0; transport::<A>() + payload], ingress: INGRESS };
    let (source, destination) = macs;
    let mut put = || {
        packet.store(0, Ethernet { destination, source, ethertype: if A::IS_V6 { IPV6 } else { IPV4 } })?;
        if A::IS_V6 {
            let ip = Ipv6 {
                version_class_label: (6u32 << 28).to_be(),
                payload_length: (payload as u16).to_be(),
                next_header: key.protocol as u8,
                hop_limit: 64,
                source: key.src.words(),
                destination: key.dst.words(),
            };
            packet.store(ETHERNET, ip)?;
        } else {
            let ip = Ipv4 {
                version_ihl: 0x45,
                tos: 0,
                total_length: (20 + payload as u16).to_be(),
                id: 0,
                fragment: 0,
                ttl: 64,
                protocol: key.protocol as u8,
                checksum: 0,
                source: key.src.words()[0],
                destination: key.dst.words()[0],
            };
            packet.store(ETHERNET, ip)?;
        }
        let (sport, dport) = (key.sport.wire(), key.dport.wire());
        if key.protocol == UDP {
            let udp = Udp { source: sport, destination: dport, length: 8u16.to_be(), checksum: 1 };
            return packet.store(transport::<A>(), udp);
        }
        let tcp = Tcp {
            source: sport,
            destination: dport,
            sequence: segment.seq.to_be(),
            acknowledgement: segment.ack.to_be(),
            offset: (5 + options as u8 / 4) << 4,
            flags: segment.flags,
            window: 0xffff,
            checksum: 0,
            urgent: 0,
        };
        packet.store(transport::<A>(), tcp)?;
        if let Some(timestamp) = segment.timestamp {
            packet.store(transport::<A>() + 20, [0x0101u16, u16::from_ne_bytes([8, 10])])?;
            packet.store(transport::<A>() + 24, timestamp.to_be())?;
        }
        Some(())
    };
    put().expect("room for all headers");
    packet
}

/// Runs a test of one family for both.
macro_rules! both {
    ($($name:ident),* $(,)?) => {
        $(
            #[test]
            fn $name() {
                super::world::in_both(cases::$name::<crate::addr::V4>, cases::$name::<crate::addr::V6>);
            }
        )*
    };
}
pub(super) use both;

pub(super) fn in_both(v4: impl FnOnce(), v6: impl FnOnce()) {
    v4();
    v6();
}
