//! Packets that are sent on: connections and exchanges from their begin to their end.

use lb_common::abi::NONE;
use lb_tests::{
    packet::{Body, Flags, Frame},
    program::town::{self, kind},
};

use crate::bench::{Ends, Moved::*, bench, only_target};

fn unsummed(mut frame: Frame) -> Frame {
    if let Body::Udp { checksum, .. } = &mut frame.body {
        *checksum = false;
    }
    frame
}

#[test]
fn a_connection_from_syn_to_the_last_ack() {
    for v6 in [false, true] {
        let mut bench = bench(|_| ());
        let ends = Ends::tcp(v6);
        let syn = ends.up(Flags::SYN, 1000, 0, b"");
        bench.forwards("SYN", &ends, &syn, &[In]);
        bench.forwards("SYN again", &ends, &syn, &[In]);
        let answer = ends.down(Flags::SYN_ACK, 5000, 1001, b"");
        bench.forwards("SYN-ACK", &ends, &answer, &[Out]);
        bench.forwards("SYN-ACK again", &ends, &answer, &[Out]);
        bench.forwards("ACK", &ends, &ends.up(Flags::ACK, 1001, 5001, b""), &[In, Opened]);
        let push = Flags { psh: true, ..Flags::ACK };
        bench.forwards("data up", &ends, &ends.up(push, 1001, 5001, b"GET /"), &[In]);
        bench.forwards("data down", &ends, &ends.down(push, 5001, 1006, &[7; 1000]), &[Out]);
        let urgent = Flags { urg: true, ..Flags::ACK };
        bench.forwards("urgent data", &ends, &ends.up(urgent, 1006, 6001, b"!"), &[In]);
        bench.forwards("client's FIN", &ends, &ends.up(Flags::FIN_ACK, 1007, 6001, b""), &[In]);
        bench.forwards("its ACK", &ends, &ends.down(Flags::ACK, 6001, 1008, b""), &[Out]);
        let fin = ends.down(Flags::FIN_ACK, 6001, 1008, b"bye");
        bench.forwards("target's FIN", &ends, &fin, &[Out, Closed]);
        bench.forwards("target's FIN again", &ends, &fin, &[Out]);
        bench.forwards("last ACK", &ends, &ends.up(Flags::ACK, 1008, 6005, b""), &[In]);
    }
}

#[test]
fn a_connection_that_the_target_closes_first() {
    for v6 in [false, true] {
        let mut bench = bench(|_| ());
        let ends = Ends::tcp(v6);
        bench.establish(&ends);
        bench.forwards("target's FIN", &ends, &ends.down(Flags::FIN_ACK, 5001, 1001, b""), &[Out]);
        bench.forwards("data up still", &ends, &ends.up(Flags::ACK, 1001, 5002, b"more"), &[In]);
        bench.forwards("client's FIN", &ends, &ends.up(Flags::FIN_ACK, 1005, 5002, b""), &[In, Closed]);
    }
}

#[test]
fn resets() {
    for v6 in [false, true] {
        let mut bench = bench(|_| ());
        let ends = Ends::tcp(v6);
        bench.establish(&ends);
        bench.forwards("client's RST", &ends, &ends.up(Flags::RST, 1001, 0, b""), &[In, Closed]);
        bench.forwards("again", &ends, &ends.up(Flags::RST, 1001, 0, b""), &[In]);
        bench.start(|_| ());
        bench.establish(&ends);
        bench.forwards("target's RST", &ends, &ends.down(Flags::RST, 5001, 0, b""), &[Out, Closed]);
        bench.start(|_| ());
        bench.forwards("SYN", &ends, &ends.up(Flags::SYN, 1000, 0, b""), &[In]);
        let refused = Flags { rst: true, ..Flags::ACK };
        bench.forwards("the target refuses", &ends, &ends.down(refused, 0, 1001, b""), &[Out]);
        bench.start(|_| ());
        bench.forwards("SYN", &ends, &ends.up(Flags::SYN, 1000, 0, b""), &[In]);
        bench.forwards("the client gives up", &ends, &ends.up(Flags::RST, 1001, 0, b""), &[In]);
    }
}

#[test]
fn exchanges_over_udp() {
    for v6 in [false, true] {
        let mut bench = bench(|_| ());
        let ends = Ends::udp(v6);
        bench.forwards("first", &ends, &ends.up_udp(b"one"), &[In]);
        bench.forwards("second", &ends, &ends.up_udp(b"two"), &[In]);
        bench.forwards("reply", &ends, &ends.down_udp(b"three"), &[Out, Opened]);
        bench.forwards("after the reply", &ends, &ends.up_udp(&[4; 1400]), &[In]);
        bench.forwards("empty", &ends, &ends.down_udp(b""), &[Out]);
        bench.forwards("no checksum up", &ends, &unsummed(ends.up_udp(b"five")), &[In]);
        bench.forwards("no checksum down", &ends, &unsummed(ends.down_udp(b"six")), &[Out]);
        bench.start(|_| ());
        bench.forwards("no checksum first", &ends, &unsummed(ends.up_udp(b"one")), &[In]);
    }
}

#[test]
fn a_checksum_that_comes_to_zero_is_sent_as_all_ones() {
    for v6 in [false, true] {
        let mut bench = bench(|_| ());
        let ends = Ends::udp(v6);
        let at = if v6 { 60 } else { 40 };
        let frame = (0..=u16::MAX)
            .map(|data| ends.up_udp(&data.to_be_bytes()))
            .find(|frame| ends.after(frame).1.bytes().unwrap()[at..at + 2] == [0xff, 0xff])
            .expect("one datagram in 65,536");
        bench.forwards("0xffff", &ends, &frame, &[In]);
    }
}

#[test]
fn another_interface() {
    for v6 in [false, true] {
        for which in [0, 2] {
            let mut bench = bench(|memory| only_target(memory, 1));
            bench.establish(&Ends::new(v6, which, 1));
        }
    }
}

#[test]
fn clients_behind_routers() {
    for v6 in [false, true] {
        for which in [0, 2] {
            let mut bench = bench(|_| ());
            let mut ends = Ends::new(v6, which, 0).client(kind::ROUTED, 1);
            ends.route = Some(town::ROUTE);
            bench.establish(&ends);
            bench.start(|_| ());
            // The route's next hop is unresolved: replies go the way that the client's packets came.
            bench.establish(&Ends::new(v6, which, 0).client(kind::UNRESOLVED, 1));
            bench.start(|memory| memory.next_hops[town::ROUTE as usize].ifindex = NONE);
            bench.establish(&Ends::new(v6, which, 0).client(kind::ROUTED, 1));
        }
    }
}

#[test]
fn link_layer_addresses_that_change() {
    for v6 in [false, true] {
        let mut bench = bench(|_| ());
        let mut ends = Ends::tcp(v6);
        bench.establish(&ends);
        ends.macs = ([2, 9, 9, 9, 9, 9], [2, 8, 8, 8, 8, 8]);
        bench.forwards("from another router", &ends, &ends.up(Flags::ACK, 1001, 5001, b"x"), &[In]);
        bench.forwards("back by it", &ends, &ends.down(Flags::ACK, 5001, 1002, b"y"), &[Out]);
        bench.change(|memory| memory.next_hops[ends.row as usize].destination = [2, 7, 7, 7, 7, 7]);
        let frame = ends.up(Flags::ACK, 1002, 5002, b"z");
        let (verdict, mut after) = ends.after(&frame);
        after.macs.1 = [2, 7, 7, 7, 7, 7];
        let (frame, after) = (frame.bytes().unwrap(), after.bytes().unwrap());
        bench.row("to the target's new address", &frame, verdict, &after, (&ends, &[In]));
    }
}

#[test]
fn bytes_behind_the_ip_packet_are_kept() {
    for v6 in [false, true] {
        let mut bench = bench(|_| ());
        let ends = Ends::tcp(v6);
        let frame = ends.up(Flags::SYN, 1000, 0, b"");
        let (verdict, after) = ends.after(&frame);
        let padding = [0xee; 6];
        let frame = [&frame.bytes().unwrap()[..], &padding].concat();
        let after = [&after.bytes().unwrap()[..], &padding].concat();
        bench.row("padding", &frame, verdict, &after, (&ends, &[In]));
    }
}

#[test]
fn fields_that_are_not_rewritten_are_kept() {
    for v6 in [false, true] {
        let mut bench = bench(|_| ());
        let ends = Ends::tcp(v6);
        let mut frame = ends.up(Flags::SYN, u32::MAX, 0, b"");
        (frame.tos, frame.id, frame.dont_fragment) = (0b1011_1001, 0xbeef, false);
        if let Body::Tcp { options, .. } = &mut frame.body {
            *options = vec![2, 4, 5, 180, 4, 2, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 1, 3, 3, 7];
        }
        bench.forwards("traffic class, id, options", &ends, &frame, &[In]);
    }
}
