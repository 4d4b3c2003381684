//! Packets that are dropped though nothing is wrong with their headers: each under its reason.

use lb_common::{
    addr::{V4, V6},
    verdict::Verdict::*,
};
use lb_tests::{
    packet::{Flags, Frame},
    program::town::{self, kind, port},
};

use crate::bench::{Ends, Moved::*, bench, only_target};

#[test]
fn undeclared_ports() {
    for v6 in [false, true] {
        let mut bench = bench(|_| ());
        let ends = Ends::tcp(v6);
        for undeclared in [port::UNDECLARED, 0, port::UDP_REJECT] {
            let mut to = ends.vip;
            to.set_port(undeclared);
            let frame = Frame::tcp(ends.client, to, Flags::SYN);
            bench.leaves("TCP", &ends, &frame, DropUndeclaredPort, &[]);
            let frame = Frame::tcp(ends.client, to, Flags::ACK);
            bench.leaves("TCP in the middle", &ends, &frame, DropUndeclaredPort, &[]);
        }
        let frame = Frame::udp(ends.client, ends.vip, b"");
        bench.leaves("UDP to a TCP service", &ends, &frame, DropUndeclaredPort, &[]);
    }
}

#[test]
fn access_denied() {
    for v6 in [false, true] {
        let mut bench = bench(|_| ());
        let denied = Ends::tcp(v6).client(kind::DENIED, 1);
        bench.leaves("SYN", &denied, &denied.up(Flags::SYN, 1, 0, b""), DropAccessDenied, &[]);
        bench.leaves("ACK", &denied, &denied.up(Flags::ACK, 1, 1, b""), DropAccessDenied, &[]);
        let denied = Ends::udp(v6).client(kind::DENIED, 1);
        bench.leaves("UDP", &denied, &denied.up_udp(b""), DropAccessDenied, &[]);
        let mut unnamed = Ends::tcp(v6);
        unnamed.client.set_ip(town::target(town::rows(v6)[0]).ip());
        bench.leaves("default", &unnamed, &unnamed.up(Flags::SYN, 1, 0, b""), DropAccessDenied, &[]);
    }
}

#[test]
fn access_revoked() {
    let revoke = |memory: &mut lb_common::memory::Memory| {
        memory.control.generation = 1;
        memory.control.epoch += 1;
    };
    for v6 in [false, true] {
        let mut bench = bench(|_| ());
        let ends = Ends::tcp(v6).client(kind::REVOCABLE, 1);
        let (up, down) = (ends.up(Flags::ACK, 1001, 5001, b"x"), ends.down(Flags::ACK, 5001, 1001, b"y"));
        for (first, second, then) in [(&up, &down, PassHost), (&down, &up, DropAccessDenied)] {
            bench.start(|_| ());
            bench.establish(&ends);
            bench.change(revoke);
            bench.leaves("the next packet", &ends, first, DropAccessRevoked, &[Closed]);
            bench.leaves("the other side's", &ends, second, then, &[]);
        }
        let ends = Ends::udp(v6).client(kind::REVOCABLE, 1);
        bench.start(|_| ());
        bench.establish(&ends);
        bench.change(revoke);
        bench.leaves("UDP", &ends, &ends.up_udp(b"x"), DropAccessRevoked, &[Closed]);
        // The service is gone.
        let ends = Ends::new(v6, 4, 0);
        bench.start(|_| ());
        bench.establish(&ends);
        bench.change(revoke);
        let frame = ends.up(Flags::ACK, 1001, 5001, b"x");
        bench.leaves("a service taken away", &ends, &frame, DropAccessRevoked, &[Closed]);
        // Others go on.
        let ends = Ends::tcp(v6);
        bench.start(|_| ());
        bench.establish(&ends);
        bench.change(revoke);
        bench.forwards("a client still allowed", &ends, &ends.up(Flags::ACK, 1001, 5001, b"x"), &[In]);
        bench.forwards("and its target", &ends, &ends.down(Flags::ACK, 5001, 1002, b"y"), &[Out]);
    }
}

#[test]
fn time_to_live() {
    for v6 in [false, true] {
        for ttl in [0, 1] {
            let mut bench = bench(|_| ());
            let ends = Ends::tcp(v6);
            let mut syn = ends.up(Flags::SYN, 1000, 0, b"");
            syn.ttl = ttl;
            bench.leaves("in a handshake", &ends, &syn, DropTtlExceeded, &[In]);
            bench.start(|_| ());
            bench.establish(&ends);
            let mut up = ends.up(Flags::ACK, 1001, 5001, b"");
            up.ttl = ttl;
            bench.leaves("up", &ends, &up, DropTtlExceeded, &[In]);
            let mut down = ends.down(Flags::ACK, 5001, 1001, b"");
            down.ttl = ttl;
            bench.leaves("down", &ends, &down, DropTtlExceeded, &[Out]);
            up.ttl = 2;
            bench.forwards("two hops are enough", &ends, &up, &[In]);
        }
    }
}

#[test]
fn longer_than_the_next_hop_takes() {
    for v6 in [false, true] {
        let mut bench = bench(|memory| only_target(memory, 2));
        let headers = if v6 { 60 } else { 40 };
        let ends = Ends::new(v6, 0, 2);
        bench.establish(&ends);
        let whole = vec![1; 601 - headers];
        let up = ends.up(Flags::ACK, 1001, 5001, &whole);
        bench.leaves("one byte too long", &ends, &up, DropTooBig, &[In]);
        let up = ends.up(Flags::ACK, 1001, 5001, &whole[1..]);
        bench.forwards("as long as it may be", &ends, &up, &[In]);
        let ends = Ends::new(v6, 2, 2);
        bench.start(|memory| only_target(memory, 2));
        bench.leaves("UDP", &ends, &ends.up_udp(&[1; 600]), DropTooBig, &[In]);
    }
}

#[test]
fn next_hop_unresolved() {
    for v6 in [false, true] {
        let mut bench = bench(|_| ());
        let ends = Ends::tcp(v6);
        bench.establish(&ends);
        bench.change(|memory| memory.next_hops[ends.row as usize].ifindex = 0);
        let up = ends.up(Flags::ACK, 1001, 5001, b"x");
        bench.leaves("established", &ends, &up, DropNextHopUnresolved, &[In]);
        bench.change(|memory| memory.next_hops = town::build().next_hops);
        bench.forwards("resolved again", &ends, &up, &[In]);
        bench.start(|memory| memory.next_hops[ends.row as usize].ifindex = 0);
        let syn = ends.up(Flags::SYN, 1000, 0, b"");
        bench.leaves("first", &ends, &syn, DropNextHopUnresolved, &[In]);
    }
}

#[test]
fn not_the_handshakes_answer() {
    for v6 in [false, true] {
        let mut bench = bench(|_| ());
        let ends = Ends::tcp(v6);
        bench.forwards("SYN", &ends, &ends.up(Flags::SYN, 1000, 0, b""), &[In]);
        let early = ends.up(Flags::ACK, 1001, 5001, b"");
        bench.leaves("before the target's answer", &ends, &early, DropNoFlow, &[]);
        bench.forwards("SYN-ACK", &ends, &ends.down(Flags::SYN_ACK, 5000, 1001, b""), &[Out]);
        let wrong = ends.up(Flags::ACK, 1001, 5000, b"");
        bench.leaves("another number", &ends, &wrong, DropNoFlow, &[]);
        bench.forwards("the right one", &ends, &ends.up(Flags::ACK, 1001, 5001, b"x"), &[In, Opened]);
    }
}

#[test]
fn no_source_port_left() {
    for v6 in [false, true] {
        for which in [0, 2] {
            let mut bench = bench(|_| ());
            let ends = Ends::new(v6, which, 0);
            bench.establish(&ends);
            let other = Ends::new(v6, which, 0).client(kind::PLAIN, 2);
            let frame = if which == 0 { other.up(Flags::SYN, 1, 0, b"") } else { other.up_udp(b"") };
            bench.leaves("the only port is taken", &other, &frame, DropSnatExhausted, &[]);
            bench.change(|memory| memory.control.port_count = 0);
            bench.leaves("there is none", &other, &frame, DropSnatExhausted, &[]);
        }
        // An unfinished handshake gives way to a newer one.
        let mut bench = bench(|_| ());
        let (ends, other) = (Ends::tcp(v6), Ends::tcp(v6).client(kind::PLAIN, 2));
        bench.forwards("SYN", &ends, &ends.up(Flags::SYN, 1000, 0, b""), &[In]);
        bench.forwards("another's SYN", &other, &other.up(Flags::SYN, 1000, 0, b""), &[In]);
        bench.forwards("is answered", &other, &other.down(Flags::SYN_ACK, 5, 1001, b""), &[Out]);
    }
}

#[test]
fn a_full_flow_table() {
    for v6 in [false, true] {
        let mut bench = bench(|memory| memory.control.ring = 1);
        let ends = Ends::tcp(v6);
        bench.establish(&ends);
        // The same port leads to another target.
        bench.change(|memory| only_target(memory, 1));
        let other = Ends::new(v6, 0, 1).client(kind::PLAIN, 2);
        bench.forwards("SYN", &other, &other.up(Flags::SYN, 1000, 0, b""), &[In]);
        bench.forwards("SYN-ACK", &other, &other.down(Flags::SYN_ACK, 5000, 1001, b""), &[Out]);
        let ack = other.up(Flags::ACK, 1001, 5001, b"");
        bench.leaves("the ACK that would complete it", &other, &ack, DropFlowTableFull, &[]);
        bench.forwards("the other goes on", &ends, &ends.up(Flags::ACK, 1001, 5001, b"x"), &[In]);
        bench.change(|memory| memory.control.ring = 2);
        bench.forwards("with room again", &other, &ack, &[In, Opened]);
    }
}

#[test]
fn a_slot_that_another_processor_holds() {
    for v6 in [false, true] {
        let mut bench = bench(|_| ());
        let ends = Ends::tcp(v6);
        let syn = ends.up(Flags::SYN, 1000, 0, b"");
        let hold = |bench: &mut crate::bench::Bench, lock| {
            bench.pair().edit_handshakes::<V4>(|slot| slot.lock = lock).unwrap();
            bench.pair().edit_handshakes::<V6>(|slot| slot.lock = lock).unwrap();
        };
        bench.forwards("SYN", &ends, &syn, &[In]);
        hold(&mut bench, 1);
        bench.leaves("SYN again", &ends, &syn, DropContended, &[]);
        let answer = ends.down(Flags::SYN_ACK, 5000, 1001, b"");
        bench.leaves("SYN-ACK", &ends, &answer, DropContended, &[]);
        hold(&mut bench, 0);
        bench.forwards("when it is free", &ends, &answer, &[Out]);
    }
}
