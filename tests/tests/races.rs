//! Two processors at once, and other ways in which two could want the same: no packet may reach a wrong place, and each
//! refusal is counted under its reason.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    collections::HashMap,
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Barrier, Mutex,
        atomic::{AtomicU32, AtomicU64, Ordering::SeqCst},
    },
    thread,
};

use lb_common::{
    abi::{TCP, UDP, cursor, flow_flags},
    addr::{Ip, V4, V6},
    memory::Memory,
    pipeline::flow::twin_key,
    verdict::Verdict,
};
use lb_tests::{
    netns::NetNs,
    packet::{Flags, Frame},
    program::{Output, Program, action_of, town},
    require,
};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};
use socket2::{Domain, Socket, Type};

/// Rounds of both processors together.
const ROUNDS: u32 = 100_000;

/// The program in a namespace of its own, in this environment, with its clock at this tick, or going if it is 0.
fn with(
    label: &str,
    clock: u32,
    edit: impl FnOnce(&mut Memory),
    run: impl FnOnce(&Program, &Mutex<Memory>, &NetNs) + Send,
) {
    require::root().unwrap();
    let _alone = require::alone();
    let ns = NetNs::new(label).unwrap();
    let mut memory = town::build();
    edit(&mut memory);
    ns.run(|| {
        let program = Program::load(town::SIZES, clock).unwrap();
        program.configure(&memory).unwrap();
        run(&program, &Mutex::new(memory), &ns);
        consistent::<V4>(&program);
        consistent::<V6>(&program);
        assert_eq!(counted(&program, Verdict::DropInternal), 0);
    })
    .unwrap();
}

/// Runs `f` on two processors at once.
fn on_two<T: Send>(f: impl Fn(u32) -> T + Sync) -> [T; 2] {
    assert!(thread::available_parallelism().unwrap().get() >= 2, "two processors are needed");
    thread::scope(|scope| {
        [0, 1]
            .map(|number| {
                let f = &f;
                scope.spawn(move || {
                    let mut processors = CpuSet::new();
                    processors.set(number as usize).unwrap();
                    sched_setaffinity(Pid::from_raw(0), &processors).expect("processors 0 and 1");
                    f(number)
                })
            })
            .map(|thread| thread.join().unwrap())
    })
}

fn counted(program: &Program, verdict: Verdict) -> u64 {
    program.verdicts().unwrap()[verdict as usize]
}

fn forwarded(output: &Output) -> bool {
    output.action == action_of(Verdict::Transmitted) || output.action == action_of(Verdict::Redirected)
}

/// A flow's two entries are each other's, its tuple has no other owner, and what is counted is what is there.
fn consistent<A: Ip + std::hash::Hash>(program: &Program) {
    let flows: HashMap<_, _> = program.flows::<A>().unwrap().into_iter().collect();
    let mut open = 0;
    for (key, flow) in &flows {
        let twin = flows.get(&twin_key(flow, key.protocol));
        if flow.flags & flow_flags::REVERSE == 0 {
            let twin = twin.unwrap_or_else(|| panic!("{key:?} has no reverse entry: {flow:?}"));
            assert_eq!(twin_key(twin, key.protocol), *key, "the twins of {key:?}");
            assert_eq!((twin.target, twin.service), (flow.target, flow.service), "the twins of {key:?}");
        } else if flow.flags & flow_flags::ENDED == 0 {
            open += 1;
            let twin = twin.unwrap_or_else(|| panic!("{key:?} has no forward entry: {flow:?}"));
            assert_eq!(twin_key(twin, key.protocol), *key, "the twins of {key:?}");
        }
    }
    let rows = program.service_counters().unwrap();
    let rows = (0..5).map(|at| rows[town::service(A::IS_V6, at) as usize]);
    let counted: u64 = rows.map(|row| row.opened - row.closed).sum();
    assert_eq!(counted, open, "flows opened and not closed");
    let cursors = program.map("CURSORS").all::<u32>().unwrap();
    let entries = cursors[if A::IS_V6 { cursor::FLOWS6 } else { cursor::FLOWS4 } as usize];
    assert_eq!(entries as usize, flows.len(), "entries counted in the flow table");
    for slot in program.handshakes::<A>().unwrap() {
        assert_eq!(slot.lock, 0, "a slot left locked: {slot:?}");
    }
}

/// A connection's ends, and its segments. Checksums are not the program's to verify.
#[derive(Clone, Copy, Debug)]
struct Client {
    v6: bool,
    address: SocketAddr,
    vip: SocketAddr,
    isn: u32,
}

/// Source address and target.
type Tuple = (SocketAddr, SocketAddr);

impl Client {
    fn new(v6: bool, number: u8, port: u16, isn: u32) -> Self {
        let address = SocketAddr::new(town::client(v6, town::kind::PLAIN, number), port);
        Self { v6, address, vip: SocketAddr::new(town::vip(v6), town::port::TCP_REJECT), isn }
    }

    fn up(&self, flags: Flags) -> Vec<u8> {
        let ack = if flags.ack { self.isn.wrapping_add(1) } else { 0 };
        Frame::tcp(self.address, self.vip, flags).numbers(2, ack).bytes().unwrap()
    }

    fn down(&self, tuple: Tuple, flags: Flags) -> Vec<u8> {
        Frame::tcp(tuple.1, tuple.0, flags).numbers(self.isn, 2).bytes().unwrap()
    }

    fn ends(&self, output: &Output) -> Tuple {
        town::ends(&output.bytes, self.v6).unwrap()
    }

    /// Sends the SYN; where it went.
    fn open(&self, program: &Program) -> Option<Tuple> {
        let output = program.run(&self.up(Flags::SYN)).unwrap();
        forwarded(&output).then(|| {
            let tuple = self.ends(&output);
            assert!(town::rows(self.v6).map(town::target).contains(&tuple.1), "a SYN went to {tuple:?}");
            tuple
        })
    }

    /// Goes through the whole handshake; the flow's tuple if it was admitted.
    fn establish(&self, program: &Program) -> Option<Tuple> {
        let tuple = self.open(program)?;
        let output = program.run(&self.down(tuple, Flags::SYN_ACK)).unwrap();
        if !forwarded(&output) || self.ends(&output) != (self.vip, self.address) {
            // A newer handshake took the slot over.
            return None;
        }
        let output = program.run(&self.up(Flags::ACK)).unwrap();
        // A reset says that the slot was taken over after all.
        (forwarded(&output) && self.ends(&output) != (self.vip, self.address)).then(|| {
            assert_eq!(self.ends(&output), tuple, "the ACK of {self:?}");
            tuple
        })
    }

    /// Data in both directions goes where it belongs.
    fn talk(&self, program: &Program, tuple: Tuple) {
        let output = program.run(&self.up(Flags::ACK)).unwrap();
        assert!(forwarded(&output), "{output:?} of {self:?}");
        assert_eq!(self.ends(&output), tuple, "data of {self:?}");
        let output = program.run(&self.down(tuple, Flags::ACK)).unwrap();
        assert!(forwarded(&output), "{output:?} to {self:?}");
        assert_eq!(self.ends(&output), (self.vip, self.address), "data to {self:?}");
    }
}

/// Many clients want few ports, on two processors.
#[test]
fn no_tuple_has_two_owners() {
    // Time goes on here, so that handshakes that were taken over make room.
    let few = |memory: &mut Memory| {
        memory.control.tcp_handshake = 2;
        memory.control.port_count = 4;
        (memory.control.snat_v4, memory.control.snat_v6) = (1, 1);
    };
    with("owners", 0, few, |program, _, _| {
        for v6 in [false, true] {
            let owners: [AtomicU32; 64] = std::array::from_fn(|_| AtomicU32::new(0));
            let sent = AtomicU64::new(0);
            let admitted = on_two(|processor| {
                let mut admitted = 0;
                for round in 0..ROUNDS / 4 {
                    let me = 1 + round * 2 + processor;
                    let client = Client::new(v6, processor as u8 + 1, 1024 + round as u16 % 60_000, me << 8);
                    let Some(tuple) = client.establish(program) else { continue };
                    admitted += 1;
                    let row = (tuple.1.port() - 8080) as usize * 4;
                    let owner = &owners[row + (tuple.0.port() - town::PORT_FIRST) as usize];
                    let before = owner.swap(me, SeqCst);
                    assert_eq!(before, 0, "{tuple:?} belongs to {before} and to {client:?}");
                    client.talk(program, tuple);
                    client.talk(program, tuple);
                    assert_eq!(owner.swap(0, SeqCst), me, "{tuple:?} was taken from {client:?}");
                    assert!(forwarded(&program.run(&client.up(Flags::RST)).unwrap()));
                    sent.fetch_add(5, SeqCst);
                }
                admitted
            });
            println!("IPv6 {v6}: admitted {admitted:?} of {} each", ROUNDS / 4);
            assert!(
                admitted.iter().all(|admitted| *admitted > ROUNDS / 400),
                "hardly any got through: {admitted:?}"
            );
        }
    });
}

/// The same client's packets on two processors at once.
#[test]
fn one_client_on_two_processors() {
    with(
        "client",
        town::CLOCK,
        // Ports enough that no handshake has to give way to another.
        |memory| memory.control.port_count = 128,
        |program, _, _| {
            const BATCH: u32 = 50;
            for v6 in [false, true] {
                let (barrier, strayed) = (Barrier::new(2), AtomicU32::new(0));
                let [opens, resets, hosts] = [const { AtomicU64::new(0) }; 3];
                let results = on_two(|processor| {
                    let mut tuples = Vec::new();
                    for batch in 0..ROUNDS / 4 / BATCH {
                        let clients: Vec<_> = (0..BATCH)
                            .map(|at| Client::new(v6, 1, 1024 + at as u16, (batch * BATCH + at) << 8))
                            .collect();
                        let send = |frame: Vec<u8>| program.run(&frame).unwrap();
                        barrier.wait();
                        let opened: Vec<_> = clients.iter().map(|client| client.open(program)).collect();
                        barrier.wait();
                        for (client, tuple) in clients.iter().zip(&opened) {
                            let Some(tuple) = *tuple else { continue };
                            // A panic here would leave the other processor waiting.
                            let output = send(client.down(tuple, Flags::SYN_ACK));
                            if forwarded(&output) && client.ends(&output) != (client.vip, client.address) {
                                strayed.fetch_add(1, SeqCst);
                            }
                        }
                        barrier.wait();
                        for client in &clients {
                            send(client.up(Flags::ACK));
                        }
                        barrier.wait();
                        if processor == 0 {
                            // Ends each batch, so that none meets the flows of another.
                            consistent::<V4>(program);
                            consistent::<V6>(program);
                            opens.fetch_add(opened_flows(program, v6), SeqCst);
                            resets.fetch_add(counted(program, Verdict::AnsweredReset), SeqCst);
                            hosts.fetch_add(counted(program, Verdict::PassHost), SeqCst);
                            program.reset().unwrap();
                        }
                        barrier.wait();
                        tuples.extend(opened);
                    }
                    tuples
                });
                assert_eq!(strayed.into_inner(), 0, "SYN-ACKs reached a wrong place");
                let doubled = results[0]
                    .iter()
                    .zip(&results[1])
                    .filter(|(a, b)| a.is_some() && b.is_some() && a != b)
                    .count();
                println!("IPv6 {v6}: {doubled} of {} SYNs got two source ports", results[0].len());
                let clients = u64::from(ROUNDS / 4);
                // A segment of a connection that neither processor opened is answered with a reset.
                let refused =
                    results[0].iter().zip(&results[1]).filter(|ends| *ends == (&None, &None)).count() as u64;
                let resets = resets.into_inner();
                println!("IPv6 {v6}: {refused} not opened at all, {resets} resets");
                assert!(resets <= 2 * refused, "live connections were reset");
                assert_eq!(hosts.into_inner(), 0, "the host got packets of live connections");
                let established = opens.into_inner();
                assert!(established <= clients, "{established} flows of {clients} connections");
                assert!(
                    established >= clients - clients / 10,
                    "only {established} of {clients} were established"
                );
            }
        },
    );
}

fn opened_flows(program: &Program, v6: bool) -> u64 {
    program.service_counters().unwrap()[town::service(v6, 0) as usize].opened
}

/// Every port towards the target is held by a live flow: refused, counted, and nobody is disturbed.
#[test]
fn source_ports_run_out() {
    let one_target = |memory: &mut Memory| {
        memory.control.port_count = 8;
        (memory.control.snat_v4, memory.control.snat_v6) = (2, 2);
        for v6 in [false, true] {
            memory.tables.insert(town::table(v6, 0), vec![town::rows(v6)[0]; town::SLOTS as usize]);
        }
    };
    with("ports", town::CLOCK, one_target, |program, _, _| {
        for v6 in [false, true] {
            let mut held = Vec::new();
            for port in 0..1000 {
                let client = Client::new(v6, 1, 1024 + port, u32::from(port) << 8);
                held.extend(client.establish(program).map(|tuple| (client, tuple)));
            }
            assert_eq!(held.len(), 16, "as many flows as there are ports");
            let before = counted(program, Verdict::DropSnatExhausted);
            let refused: u64 = on_two(|processor| {
                (0..5_000u16)
                    .filter(|port| {
                        let client = Client::new(v6, 2 + processor as u8, 1024 + port, 7);
                        assert_eq!(
                            client.open(program),
                            None,
                            "a port that is taken was given to {client:?}"
                        );
                        true
                    })
                    .count() as u64
            })
            .iter()
            .sum();
            let contended = counted(program, Verdict::DropContended);
            assert_eq!(
                counted(program, Verdict::DropSnatExhausted) - before,
                refused,
                "refusals, {contended} contended"
            );
            held.iter().for_each(|(client, tuple)| client.talk(program, *tuple));
        }
    });
}

/// The flow table is full: refused, counted, and nobody is disturbed.
#[test]
fn the_flow_table_is_full() {
    with(
        "full",
        town::CLOCK,
        |memory| memory.control.ring = 32,
        |program, _, _| {
            for v6 in [false, true] {
                let mut held = Vec::new();
                for port in 0..32 {
                    let client = Client::new(v6, 1, 1024 + port, u32::from(port) << 8);
                    held.extend(client.establish(program).map(|tuple| (client, tuple)));
                }
                assert_eq!(held.len(), 32, "as many flows as there are places");
                let before = counted(program, Verdict::DropFlowTableFull);
                on_two(|processor| {
                    for port in 0..2_000 {
                        let client = Client::new(v6, 2 + processor as u8, 1024 + port, 7);
                        assert_eq!(
                            client.establish(program),
                            None,
                            "{client:?} was admitted to a full table"
                        );
                    }
                });
                let refused = counted(program, Verdict::DropFlowTableFull) - before;
                println!("IPv6 {v6}: refused {refused}");
                assert!(refused >= 1_000, "only {refused} refusals were counted");
                held.iter().for_each(|(client, tuple)| client.talk(program, *tuple));
            }
        },
    );
}

/// Ports that the host's own sockets use are not taken, and the host's packets stay the host's.
#[test]
fn the_hosts_own_connections() {
    let four = |memory: &mut Memory| {
        memory.control.port_count = 4;
        (memory.control.snat_v4, memory.control.snat_v6) = (1, 1);
    };
    with("host", town::CLOCK, four, |program, _, ns| {
        for v6 in [false, true] {
            let (bits, nodad) = if v6 { (128, " nodad") } else { (32, "") };
            for address in
                town::rows(v6).map(|row| town::target(row).ip()).into_iter().chain([town::snat(v6, 0)])
            {
                ns.ip_batch(&format!("addr add {address}/{bits} dev lo{nodad}\n")).unwrap();
            }
            let source = |at| SocketAddr::new(town::snat(v6, 0), town::PORT_FIRST + at);
            // An established connection from the first port to the first target; a listener on the second; a UDP socket on the third.
            let target = town::target(town::rows(v6)[0]);
            let listener = TcpListener::bind(target).unwrap();
            let socket = Socket::new(Domain::for_address(target), Type::STREAM, None).unwrap();
            socket.bind(&source(0).into()).unwrap();
            socket.connect(&target.into()).unwrap();
            let _connection = (TcpStream::from(socket), listener.accept().unwrap());
            let _listener = TcpListener::bind(source(1)).unwrap();
            let _udp = UdpSocket::bind(source(2)).unwrap();
            let mut seen = HashMap::new();
            for port in 0..2_000u16 {
                let client = Client::new(v6, 1, 1024 + port, 7);
                if let Some(tuple) = client.open(program) {
                    *seen.entry((tuple.0.port() - town::PORT_FIRST, tuple.1 == target, TCP)).or_insert(0) +=
                        1;
                }
                let to = SocketAddr::new(town::vip(v6), town::port::UDP_REJECT);
                let output = program.run(&Frame::udp(client.address, to, b"x").bytes().unwrap()).unwrap();
                if forwarded(&output) {
                    let tuple = client.ends(&output);
                    *seen.entry((tuple.0.port() - town::PORT_FIRST, tuple.1 == target, UDP)).or_insert(0) +=
                        1;
                }
            }
            println!("IPv6 {v6}: (port, to the first target, protocol): flows {seen:?}");
            for (taken, why) in [
                ((0, true, TCP), "the host's own connection"),
                ((1, true, TCP), "the host's listener"),
                ((1, false, TCP), "the host's listener"),
                ((2, true, UDP), "the host's UDP socket"),
                ((2, false, UDP), "the host's UDP socket"),
            ] {
                assert!(!seen.contains_key(&taken), "{why} collides with {taken:?}");
            }
            for free in [
                (0, false, TCP),
                (2, true, TCP),
                (3, true, TCP),
                (0, true, UDP),
                (1, false, UDP),
                (3, true, UDP),
            ] {
                assert!(seen.contains_key(&free), "{free:?} was never given");
            }
            let before = counted(program, Verdict::PassHost);
            let frame = Frame::tcp(target, source(0), Flags::ACK).bytes().unwrap();
            // The slot of this port belongs to a handshake with another target.
            let output = program.run(&frame).unwrap();
            assert_eq!(
                (output.action, output.bytes),
                (action_of(Verdict::PassHost), frame),
                "the host's packet"
            );
            assert_eq!(counted(program, Verdict::PassHost) - before, 1);
        }
    });
}

/// A target is replaced by another with the same address and port while its flows are busy.
#[test]
fn a_target_replaced_by_its_namesake() {
    with(
        "namesake",
        town::CLOCK,
        |_| (),
        |program, memory, _| {
            for v6 in [false, true] {
                for turn in 0..20u16 {
                    program.reset().unwrap();
                    let clients: Vec<_> = (0..32)
                        .map(|at| Client::new(v6, 1, 1024 + turn * 32 + at, u32::from(at) << 8))
                        .collect();
                    let flows: Vec<_> = clients
                        .iter()
                        .filter_map(|client| Some((client, client.establish(program)?)))
                        .collect();
                    assert_eq!(flows.len(), clients.len());
                    let waiting = Client::new(v6, 2, 1024 + turn, 99);
                    let half = waiting.open(program).unwrap();
                    assert!(forwarded(&program.run(&waiting.down(half, Flags::SYN_ACK)).unwrap()));
                    let mut changed = memory.lock().unwrap();
                    for row in town::rows(v6) {
                        changed.targets[row as usize].incarnation += 1;
                    }
                    changed.control.epoch += 1;
                    drop(changed);
                    let replaced = AtomicU32::new(0);
                    on_two(|processor| {
                        if processor == 0 {
                            program.configure(&memory.lock().unwrap()).unwrap();
                            replaced.store(1, SeqCst);
                            return;
                        }
                        let mut after = 0;
                        while after < 2 {
                            let done = replaced.load(SeqCst);
                            for (client, tuple) in &flows {
                                let up = program.run(&client.up(Flags::ACK)).unwrap();
                                let to = client.ends(&up);
                                if done == 1 {
                                    assert_eq!(
                                        to,
                                        (client.vip, client.address),
                                        "the old flow's packet went on to {to:?}"
                                    );
                                } else {
                                    assert!(
                                        to == *tuple || to == (client.vip, client.address),
                                        "{client:?} reached {to:?}"
                                    );
                                }
                                let down = program.run(&client.down(*tuple, Flags::ACK)).unwrap();
                                if done == 1 {
                                    assert!(!forwarded(&down), "the old flow's reply went on: {down:?}");
                                }
                            }
                            after += done;
                        }
                    });
                    // An unfinished handshake with the old one does not become a flow with the new one.
                    let output = program.run(&waiting.up(Flags::ACK)).unwrap();
                    if forwarded(&output) {
                        assert_eq!(
                            waiting.ends(&output),
                            (waiting.vip, waiting.address),
                            "the namesake got a strange ACK"
                        );
                    }
                    let fresh = Client::new(v6, 3, 1024, 5);
                    let tuple = fresh.establish(program).expect("the new target takes flows");
                    fresh.talk(program, tuple);
                }
            }
            assert!(counted(program, Verdict::AnsweredReset) > 0, "clients were not told");
        },
    );
}
