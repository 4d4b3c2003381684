//! The bench that rows are run on.

use std::{
    net::SocketAddr,
    sync::{LazyLock, Mutex, MutexGuard, PoisonError},
};

use lb_common::{
    abi::{Counters, TCP},
    memory::Memory,
    verdict::Verdict,
};
use lb_tests::{
    packet::{Body, Flags, Frame},
    program::{Pair, town},
};
use nix::sched::{CloneFlags, unshare};

/// A counter that a row moves, besides its verdict's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moved {
    /// A packet from the client.
    In,
    /// A packet from the target.
    Out,
    /// A flow's begin.
    Opened,
    /// A flow's end.
    Closed,
}

/// Both sides of the packet path, loaded once for all tables.
pub(crate) struct Bench {
    pair: Pair,
}

static BENCH: LazyLock<Mutex<Bench>> = LazyLock::new(|| {
    lb_tests::require::root().unwrap();
    Mutex::new(Bench { pair: Pair::load(town::SIZES, town::CLOCK).unwrap() })
});

/// The bench, its tables empty, with one source port and one target a family, changed as said. The thread gets a network
/// namespace of its own, which ends with it, so no socket of the machine's is in the way.
pub(crate) fn bench(edit: impl FnOnce(&mut Memory)) -> MutexGuard<'static, Bench> {
    let mut bench = BENCH.lock().unwrap_or_else(PoisonError::into_inner);
    unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace of one's own (needs root)");
    bench.start(edit);
    bench
}

impl Bench {
    /// Starts anew.
    pub(crate) fn start(&mut self, edit: impl FnOnce(&mut Memory)) {
        let mut memory = town::build();
        memory.control.port_count = 1;
        (memory.control.snat_v4, memory.control.snat_v6) = (1, 1);
        only_target(&mut memory, 0);
        edit(&mut memory);
        self.pair.start(memory).unwrap();
    }

    /// Changes the configuration.
    pub(crate) fn change(&mut self, edit: impl FnOnce(&mut Memory)) {
        edit(&mut self.pair.memory);
        self.pair.configure().unwrap();
    }

    pub(crate) fn pair(&mut self) -> &mut Pair {
        &mut self.pair
    }

    /// One row: the packet comes to this verdict, leaves these bytes, and moves these counters of the ends' service and
    /// target, and no others.
    #[track_caller]
    pub(crate) fn row(
        &mut self,
        name: &str,
        frame: &[u8],
        verdict: Verdict,
        after: &[u8],
        moved: (&Ends, &[Moved]),
    ) {
        let before = self.counters();
        let (is, bytes) = self.pair.step(frame).unwrap_or_else(|error| panic!("{name}: {error:#}"));
        assert_eq!(is, verdict, "{name}: the verdict on {frame:02x?}");
        assert_eq!(bytes, after, "{name}: the bytes after {verdict:?}\n    {bytes:02x?}\nnot {after:02x?}");
        let mut expected = before;
        let (ends, moved) = moved;
        for counters in [&mut expected.0[ends.service as usize], &mut expected.1[ends.row as usize]] {
            for what in moved {
                match what {
                    Moved::In => {
                        counters.packets_in += 1;
                        counters.bytes_in += frame.len() as u64;
                    }
                    Moved::Out => {
                        counters.packets_out += 1;
                        counters.bytes_out += frame.len() as u64;
                    }
                    Moved::Opened => counters.opened += 1,
                    Moved::Closed => counters.closed += 1,
                }
            }
        }
        assert_eq!(self.counters(), expected, "{name}: counters of services and targets after {verdict:?}");
        self.pair.compare().unwrap_or_else(|error| panic!("{name}: {error:#}"));
    }

    /// A row of a packet that is sent on.
    #[track_caller]
    pub(crate) fn forwards(&mut self, name: &str, ends: &Ends, frame: &Frame, moved: &[Moved]) {
        let (verdict, after) = ends.after(frame);
        self.row(name, &frame.bytes().unwrap(), verdict, &after.bytes().unwrap(), (ends, moved));
    }

    /// A row of a packet that is left as it is.
    #[track_caller]
    pub(crate) fn leaves(
        &mut self,
        name: &str,
        ends: &Ends,
        frame: &Frame,
        verdict: Verdict,
        moved: &[Moved],
    ) {
        let bytes = frame.bytes().unwrap();
        self.row(name, &bytes, verdict, &bytes, (ends, moved));
    }

    /// Makes the ends' flow established: three rows for TCP, two for UDP.
    #[track_caller]
    pub(crate) fn establish(&mut self, ends: &Ends) {
        if ends.protocol == TCP {
            self.forwards("SYN", ends, &ends.up(Flags::SYN, 1000, 0, b""), &[Moved::In]);
            self.forwards("SYN-ACK", ends, &ends.down(Flags::SYN_ACK, 5000, 1001, b""), &[Moved::Out]);
            let ack = ends.up(Flags::ACK, 1001, 5001, b"");
            self.forwards("handshake's ACK", ends, &ack, &[Moved::In, Moved::Opened]);
        } else {
            self.forwards("first datagram", ends, &ends.up_udp(b"ask"), &[Moved::In]);
            let reply = ends.down_udp(b"answer");
            self.forwards("first reply", ends, &reply, &[Moved::Out, Moved::Opened]);
        }
    }

    fn counters(&self) -> (Vec<Counters>, Vec<Counters>) {
        let program = &self.pair.program;
        (program.service_counters().unwrap(), program.target_counters().unwrap())
    }
}

/// Puts one target of each family, by its place in [`town::rows`], in all slots.
pub(crate) fn only_target(memory: &mut Memory, at: usize) {
    for v6 in [false, true] {
        for which in 0..2 {
            memory.tables.insert(town::table(v6, which), vec![town::rows(v6)[at]; town::SLOTS as usize]);
        }
    }
}

/// The ends of a flow, and what its packets are counted by.
#[derive(Clone, Debug)]
pub(crate) struct Ends {
    pub(crate) v6: bool,
    pub(crate) protocol: u32,
    pub(crate) client: SocketAddr,
    pub(crate) vip: SocketAddr,
    pub(crate) snat: SocketAddr,
    pub(crate) target: SocketAddr,
    /// Rows of its counters.
    pub(crate) service: u32,
    pub(crate) row: u32,
    /// The client's link-layer address and the one it sends to.
    pub(crate) macs: ([u8; 6], [u8; 6]),
    /// The next hop to the client, if the replies go by one.
    pub(crate) route: Option<u32>,
}

/// Link-layer addresses of targets' packets: source, destination.
const TARGET_MACS: ([u8; 6], [u8; 6]) = ([2, 3, 3, 3, 3, 3], [2, 4, 4, 4, 4, 4]);

impl Ends {
    /// A client of the service `which` (in the order of [`town::port`]) with the target at `at`.
    pub(crate) fn new(v6: bool, which: u32, at: usize) -> Self {
        use town::port::{TCP_DROP, TCP_PASSING, TCP_REJECT, UDP_DROP, UDP_REJECT};
        let port = [TCP_REJECT, TCP_DROP, UDP_REJECT, UDP_DROP, TCP_PASSING][which as usize];
        let row = town::rows(v6)[at];
        Self {
            v6,
            protocol: if matches!(which, 2 | 3) { lb_common::abi::UDP } else { TCP },
            client: SocketAddr::new(town::client(v6, town::kind::PLAIN, 1), 40_000),
            vip: SocketAddr::new(town::vip(v6), port),
            snat: SocketAddr::new(town::snat(v6, 0), town::PORT_FIRST),
            target: town::target(row),
            service: town::service(v6, which),
            row,
            macs: ([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]),
            route: None,
        }
    }

    pub(crate) fn tcp(v6: bool) -> Self {
        Self::new(v6, 0, 0)
    }

    pub(crate) fn udp(v6: bool) -> Self {
        Self::new(v6, 2, 0)
    }

    /// The same from another client of the kind.
    pub(crate) fn client(mut self, kind: u8, number: u8) -> Self {
        self.client.set_ip(town::client(self.v6, kind, number));
        self
    }

    /// A segment from the client.
    pub(crate) fn up(&self, flags: Flags, seq: u32, ack: u32, data: &[u8]) -> Frame {
        let mut frame = Frame::tcp(self.client, self.vip, flags).numbers(seq, ack).data(data);
        frame.macs = self.macs;
        frame
    }

    /// A segment from the target.
    pub(crate) fn down(&self, flags: Flags, seq: u32, ack: u32, data: &[u8]) -> Frame {
        let mut frame = Frame::tcp(self.target, self.snat, flags).numbers(seq, ack).data(data);
        frame.macs = TARGET_MACS;
        frame
    }

    /// A datagram from the client.
    pub(crate) fn up_udp(&self, data: &[u8]) -> Frame {
        let mut frame = Frame::udp(self.client, self.vip, data);
        frame.macs = self.macs;
        frame
    }

    /// A datagram from the target.
    pub(crate) fn down_udp(&self, data: &[u8]) -> Frame {
        let mut frame = Frame::udp(self.target, self.snat, data);
        frame.macs = TARGET_MACS;
        frame
    }

    /// What one of the above becomes on its way.
    pub(crate) fn after(&self, frame: &Frame) -> (Verdict, Frame) {
        let mut after = frame.clone();
        after.ttl -= 1;
        let to_vip = frame.destination == self.vip.ip();
        let (from, to) = if to_vip { (self.snat, self.target) } else { (self.vip, self.client) };
        (after.source, after.destination) = (from.ip(), to.ip());
        if let Body::Tcp { ports, .. } | Body::Udp { ports, .. } = &mut after.body {
            *ports = (from.port(), to.port());
        }
        let hop = if to_vip { Some(self.row) } else { self.route };
        after.macs = match hop {
            Some(row) => {
                let (destination, source) = town::macs(row);
                (source, destination)
            }
            None => (self.macs.1, self.macs.0),
        };
        let elsewhere = matches!(hop, Some(2 | 5 | town::ROUTE));
        (if elsewhere { Verdict::Redirected } else { Verdict::Transmitted }, after)
    }
}
