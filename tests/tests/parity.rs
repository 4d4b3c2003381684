//! The host-compiled packet path and the kernel's program, on the same packets: generated conversations through
//! changing configurations, so that every verdict occurs often. `PORTSIDE_SEED` replays a run.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result};
use lb_common::{
    abi::{TCP, UDP, handshake_state, target_flags},
    addr::{Port, V4, V6},
    tables::Tables,
    verdict::{Outcome, Verdict},
};
use lb_tests::{
    netns::NetNs,
    packet::{Body, Flags, Frame},
    program::{Pair, town},
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

/// Packets of a run.
const PACKETS: u32 = 120_000;
/// How often each verdict must have occurred.
const EACH: u64 = 100;
/// Conversations at a time.
const TALKS: usize = 40;
/// Port that sockets of the host's own hold on the first source address of each family.
const HOST_PORT: u16 = town::PORT_FIRST + 3;

#[test]
fn the_kernel_and_the_host_agree_on_every_packet() {
    lb_tests::require::root().unwrap();
    let seed = std::env::var("PORTSIDE_SEED").map_or_else(
        |_| SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64,
        |seed| seed.parse().expect("PORTSIDE_SEED is a number"),
    );
    println!("replay with PORTSIDE_SEED={seed}");
    let ns = NetNs::new("parity").unwrap();
    let counts = ns.run(|| run(&ns, seed)).unwrap().unwrap();
    for verdict in Verdict::ALL {
        println!("{:>8} {verdict:?}", counts.get(&verdict).copied().unwrap_or(0));
    }
    for verdict in Verdict::ALL {
        let count = counts.get(&verdict).copied().unwrap_or(0);
        match verdict {
            Verdict::DropInternal => assert_eq!(count, 0, "a defect"),
            _ => assert!(count >= EACH, "{verdict:?} occurred only {count} times with PORTSIDE_SEED={seed}"),
        }
    }
}

fn run(ns: &NetNs, seed: u64) -> Result<BTreeMap<Verdict, u64>> {
    let mut world = World::new(ns, seed)?;
    for packet in 0..PACKETS {
        world.turn(packet).with_context(|| format!("packet {packet} of PORTSIDE_SEED={seed}"))?;
    }
    world.pair.compare().with_context(|| format!("at the end of PORTSIDE_SEED={seed}"))?;
    Ok(world.counts)
}

/// A client's conversation with a VIP.
#[derive(Clone, Debug)]
struct Talk {
    v6: bool,
    tcp: bool,
    client: SocketAddr,
    vip: SocketAddr,
    /// What the target sees: source address and its own, once a packet went there.
    beyond: Option<(SocketAddr, SocketAddr)>,
    client_seq: u32,
    target_seq: u32,
    mac: u8,
    /// Layout of the TCP options, and the clock of the timestamps.
    options: (u8, u32),
}

struct World {
    pair: Pair,
    rng: StdRng,
    talks: Vec<Talk>,
    counts: BTreeMap<Verdict, u64>,
    _sockets: Vec<Box<dyn std::any::Any>>,
}

impl World {
    fn new(ns: &NetNs, seed: u64) -> Result<Self> {
        let mut pair = Pair::load(town::SIZES, town::CLOCK)?;
        pair.memory = town::build();
        let mut sockets: Vec<Box<dyn std::any::Any>> = Vec::new();
        for v6 in [false, true] {
            let (address, bits) = (town::snat(v6, 0), if v6 { 128 } else { 32 });
            ns.ip_batch(&format!("addr add {address}/{bits} dev lo{}\n", if v6 { " nodad" } else { "" }))?;
            let bound = SocketAddr::new(address, HOST_PORT);
            sockets.push(Box::new(std::net::TcpListener::bind(bound).context("listen")?));
            sockets.push(Box::new(std::net::UdpSocket::bind(bound).context("bind")?));
            for row in town::rows(v6) {
                for protocol in [TCP, UDP] {
                    let from = town::target(row);
                    if v6 {
                        pair.memory.v6.host_sockets.insert(town::key(from, bound, protocol));
                    } else {
                        pair.memory.v4.host_sockets.insert(town::key(from, bound, protocol));
                    }
                }
            }
        }
        pair.configure()?;
        let mut rng = StdRng::seed_from_u64(seed);
        let talks = (0..TALKS).map(|_| talk(&mut rng)).collect();
        Ok(Self { pair, rng, talks, counts: BTreeMap::new(), _sockets: sockets })
    }

    fn chance(&mut self, of: u32) -> bool {
        self.rng.random_range(0..of) == 0
    }

    fn turn(&mut self, packet: u32) -> Result<()> {
        if self.chance(60) {
            self.reconfigure()?;
        }
        if self.chance(80) {
            let control = &self.pair.memory.control;
            let lifetimes =
                [control.tcp_handshake, control.tcp_time_wait, control.udp_established, control.tcp_closing];
            let ticks = lifetimes[self.rng.random_range(0..4)];
            self.pair.age(self.rng.random_range(0..ticks + ticks / 2))?;
        }
        if self.chance(200) {
            self.pair.sweep()?;
        }
        if packet.is_multiple_of(2_000) {
            self.pair.compare()?;
        }
        let at = self.rng.random_range(0..TALKS);
        if self.chance(25) {
            self.talks[at] = talk(&mut self.rng);
        }
        if self.chance(30) {
            return self.oddity(at);
        }
        let frame = if self.talks[at].tcp { self.tcp(at)? } else { self.udp(at)? };
        let locked = self.chance(60) && self.holds_a_slot(at);
        if locked {
            self.lock(1)?;
        }
        self.send(at, &frame)?;
        if locked {
            self.lock(0)?;
        }
        Ok(())
    }

    /// Sends a frame through both, and notes what became of it.
    fn send(&mut self, at: usize, frame: &[u8]) -> Result<Verdict> {
        let (verdict, bytes) = self.pair.step(frame).with_context(|| format!("{:?}", self.talks[at]))?;
        *self.counts.entry(verdict).or_default() += 1;
        let talk = &mut self.talks[at];
        let to_vip = town::ends(frame, talk.v6).is_some_and(|(_, to)| to == talk.vip);
        if verdict.outcome() == Outcome::Forwarded && to_vip {
            talk.beyond = town::ends(&bytes, talk.v6);
        }
        Ok(verdict)
    }

    /// The next segment of a conversation: mostly what would come next, sometimes anything.
    fn tcp(&mut self, at: usize) -> Result<Vec<u8>> {
        let established = self.established(at);
        let talk = &mut self.talks[at];
        let rng = &mut self.rng;
        let step: u32 = if rng.random_range(0..100) < 70 {
            match (talk.beyond.is_some(), established) {
                (false, _) => 0,
                (true, false) => [0, 6, 6, 1, 1][rng.random_range(0..5)],
                (true, true) => [2, 2, 7, 7, 3, 8, 4, 9][rng.random_range(0..8)],
            }
        } else {
            rng.random_range(0..11)
        };
        talk.options.1 = talk.options.1.wrapping_add(rng.random_range(0..3)).wrapping_sub(1);
        let data: Vec<u8> = vec![0x5a; [0, 1, 33, 700][rng.random_range(0..4)]];
        let (flags, data) = match step {
            0 | 5 => {
                talk.client_seq = talk.client_seq.wrapping_add(rng.random_range(0..3) * 0x2000_0000);
                (Flags::SYN, &data[..0])
            }
            1 => (Flags::ACK, &data[..0]),
            2 | 7 => (Flags::ACK, &data[..]),
            3 | 8 => (Flags::FIN_ACK, &data[..]),
            4 | 9 => (Flags::RST, &data[..0]),
            6 => {
                talk.target_seq = rng.random();
                (Flags::SYN_ACK, &data[..0])
            }
            _ => (Flags::from_bits(rng.random_range(0..64)), &data[..]),
        };
        let from_target = step >= 6 && (step < 10 || rng.random());
        let (from, to) = match talk.beyond {
            Some((snat, target)) if from_target => (target, snat),
            _ => (talk.client, talk.vip),
        };
        let mut frame = Frame::tcp(from, to, flags).data(data);
        frame = if from == talk.client {
            frame.numbers(
                talk.client_seq.wrapping_add(1),
                talk.target_seq.wrapping_add(u32::from(rng.random_range(0..20) != 0)),
            )
        } else {
            frame.numbers(talk.target_seq, talk.client_seq.wrapping_add(1))
        };
        if let Body::Tcp { options, .. } = &mut frame.body {
            *options = tcp_options(talk.options.0, talk.options.1);
        }
        self.dress(at, frame)
    }

    fn udp(&mut self, at: usize) -> Result<Vec<u8>> {
        let talk = &self.talks[at];
        let (from, to) = match talk.beyond {
            Some((snat, target)) if self.rng.random_range(0..5) < 2 => (target, snat),
            _ => (talk.client, talk.vip),
        };
        let data: Vec<u8> = vec![0xa5; [0, 1, 33, 700][self.rng.random_range(0..4)]];
        let mut frame = Frame::udp(from, to, &data);
        if let Body::Udp { checksum, .. } = &mut frame.body {
            *checksum = self.rng.random_range(0..4) != 0;
        }
        self.dress(at, frame)
    }

    /// What any packet may have on it.
    fn dress(&mut self, at: usize, mut frame: Frame) -> Result<Vec<u8>> {
        frame.macs.0[5] = self.talks[at].mac;
        if self.chance(40) {
            frame.ttl = self.rng.random_range(0..3);
        }
        if self.chance(20) {
            self.talks[at].mac ^= 4;
        }
        let mut bytes = frame.bytes()?;
        if self.chance(60) {
            bytes.resize(bytes.len().max(60), 0);
        }
        Ok(bytes)
    }

    /// Packets that no conversation has.
    fn oddity(&mut self, at: usize) -> Result<()> {
        let Talk { client, vip, v6, .. } = self.talks[at].clone();
        let (from, to) = (client.ip(), vip.ip());
        let snat = town::snat(v6, self.rng.random_range(0..2));
        let mut frame = Frame::tcp(client, vip, Flags::SYN);
        let bytes = match self.rng.random_range(0..16) {
            0 => Frame::echo_request(from, to, self.rng.random(), 1).bytes()?,
            1 => Frame::icmp(from, [to, snat][self.rng.random_range(0..2)], 3, 1, &[0; 8]).bytes()?,
            2 => Frame::icmp(from, to, 135, 0, &[0; 20]).bytes()?,
            3 => {
                frame.body = Body::Raw(self.rng.random_range(140..255), vec![7; 24]);
                frame.bytes()?
            }
            4 => frame.data(&[1; 64]).fragment(0, Some(40), true).bytes()?,
            5 => frame.data(&[1; 64]).fragment(40, None, false).bytes()?,
            6 if v6 => {
                let number = [0, 43, 60, 51, 135][self.rng.random_range(0..5)];
                frame.extensions.push((number, vec![0; 8]));
                frame.bytes()?
            }
            6 => {
                frame.ip_options = vec![1; 4 * self.rng.random_range(1..10)];
                frame.bytes()?
            }
            7 => Frame::tcp(client, SocketAddr::new(to, town::port::UNDECLARED), Flags::SYN).bytes()?,
            8 => {
                let denied = town::client(v6, town::kind::DENIED, 1);
                Frame::tcp(SocketAddr::new(denied, 9), vip, Flags::SYN).bytes()?
            }
            9 => Frame::tcp(client, SocketAddr::new(from, 80), Flags::SYN).bytes()?,
            10 => {
                let mut bytes = frame.bytes()?;
                let ethertype = [[8, 6], [0x81, 0], [0, 0x2e]][self.rng.random_range(0..3)];
                bytes[12..14].copy_from_slice(&ethertype);
                bytes
            }
            11 => Frame::tcp(client, SocketAddr::new(snat, self.rng.random()), Flags::ACK).bytes()?,
            12 | 13 => {
                let mut bytes = if self.rng.random() { self.tcp(at)? } else { self.udp(at)? };
                bytes.truncate(self.rng.random_range(14..bytes.len()));
                bytes
            }
            _ => {
                let mut bytes = if self.rng.random() { self.tcp(at)? } else { self.udp(at)? };
                for _ in 0..self.rng.random_range(1..4) {
                    let bit = self.rng.random_range(12 * 8..bytes.len().min(70) * 8);
                    bytes[bit / 8] ^= 1 << (bit % 8);
                }
                bytes
            }
        };
        self.send(at, &bytes).map(drop)
    }

    /// The operator and the world change something.
    fn reconfigure(&mut self) -> Result<()> {
        let v6 = self.rng.random();
        let row = town::rows(v6)[self.rng.random_range(0..3)] as usize;
        let fresh = town::build();
        let memory = &mut self.pair.memory;
        match self.rng.random_range(0..12) {
            0 => memory.control.generation ^= 1,
            1 => {
                let all = [target_flags::END_TCP, target_flags::END_UDP, target_flags::NO_NEW_FLOWS, 7];
                memory.targets[row].flags ^= all[self.rng.random_range(0..4)];
            }
            2 => memory.targets[row].incarnation += 1,
            3 => memory.next_hops[row].ifindex = 0,
            4 => memory.next_hops = fresh.next_hops,
            5 => {
                let table = town::table(v6, self.rng.random_range(0..2));
                memory.tables.insert(table, vec![0; town::SLOTS as usize]);
            }
            6 | 7 => memory.tables = fresh.tables,
            8 | 9 => {
                let (ports, sources) = [(1, 1), (3, 1), (8, 2), (64, 2)][self.rng.random_range(0..4)];
                memory.control.port_count = ports;
                (memory.control.snat_v4, memory.control.snat_v6) = (sources, sources);
            }
            10 => memory.control.ring = [3, 12, 64][self.rng.random_range(0..3)],
            _ => {
                memory.targets.iter_mut().for_each(|target| target.flags = 0);
                memory.control.generation = 0;
            }
        }
        if self.rng.random_range(0..3) != 0 {
            memory.control.epoch += 1;
        }
        self.pair.configure()
    }

    fn established(&self, at: usize) -> bool {
        let talk = &self.talks[at];
        let protocol = if talk.tcp { TCP } else { UDP };
        if talk.v6 {
            Tables::<V6>::flow(&self.pair.memory, &town::key(talk.client, talk.vip, protocol)).is_some()
        } else {
            Tables::<V4>::flow(&self.pair.memory, &town::key(talk.client, talk.vip, protocol)).is_some()
        }
    }

    fn holds_a_slot(&mut self, at: usize) -> bool {
        let talk = &self.talks[at];
        let held = |client: IpAddr, port: Port, state| {
            state != handshake_state::FREE && SocketAddr::new(client, port.get()) == talk.client
        };
        let memory = &mut self.pair.memory;
        if talk.v6 {
            memory
                .v6
                .handshakes()
                .iter()
                .any(|s| held(std::net::Ipv6Addr::from(s.client).into(), s.client_port, s.state))
        } else {
            memory
                .v4
                .handshakes()
                .iter()
                .any(|s| held(std::net::Ipv4Addr::from(s.client).into(), s.client_port, s.state))
        }
    }

    /// Lets another processor hold every slot, or none.
    fn lock(&mut self, lock: u32) -> Result<()> {
        self.pair.edit_handshakes::<V4>(|slot| slot.lock = lock)?;
        self.pair.edit_handshakes::<V6>(|slot| slot.lock = lock)
    }
}

fn talk(rng: &mut StdRng) -> Talk {
    use town::{kind, port};
    let (v6, tcp) = (rng.random(), rng.random_range(0..3) != 0);
    let kind =
        [kind::PLAIN, kind::PLAIN, kind::ROUTED, kind::UNRESOLVED, kind::REVOCABLE][rng.random_range(0..5)];
    let client = town::client(v6, kind, rng.random_range(1..6));
    let port = if tcp {
        [port::TCP_REJECT, port::TCP_DROP, port::TCP_PASSING][rng.random_range(0..3)]
    } else {
        [port::UDP_REJECT, port::UDP_DROP][rng.random_range(0..2)]
    };
    Talk {
        v6,
        tcp,
        client: SocketAddr::new(client, 40_000 + rng.random_range(0..8)),
        vip: SocketAddr::new(town::vip(v6), port),
        beyond: None,
        client_seq: rng.random(),
        target_seq: rng.random(),
        mac: rng.random_range(0..2),
        options: (rng.random_range(0..5), rng.random()),
    }
}

/// The layouts in which stacks send the timestamp, none, and one in which it is not looked for.
fn tcp_options(layout: u8, timestamp: u32) -> Vec<u8> {
    let stamp = [&[8, 10][..], &timestamp.to_be_bytes(), &[0; 4]].concat();
    match layout {
        0 => Vec::new(),
        1 => [&[1, 1][..], &stamp].concat(),
        2 => [&[2, 4, 5, 180, 4, 2][..], &stamp, &[1, 3, 3, 7]].concat(),
        3 => [&[2, 4, 5, 180, 1, 3, 3, 7, 1, 1][..], &stamp].concat(),
        _ => [&[2, 4, 5, 180, 1, 1, 1, 1][..], &stamp, &[1, 1]].concat(),
    }
}
