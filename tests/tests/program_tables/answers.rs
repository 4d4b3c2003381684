//! Packets that the program answers itself.

use std::net::{IpAddr, SocketAddr};

use etherparse::TcpHeader;
use lb_common::{abi::target_flags, verdict::Verdict};
use lb_tests::{
    packet::{Body, Flags, Frame},
    program::town,
};

use crate::bench::{Ends, Moved::*, bench};

/// The reset for what came `from` a client `to` a VIP, as a frame.
fn reset(from: SocketAddr, to: SocketAddr, macs: ([u8; 6], [u8; 6]), seq: u32, ack: Option<u32>) -> Frame {
    let mut tcp = TcpHeader::new(to.port(), from.port(), seq, 0);
    tcp.rst = true;
    if let Some(ack) = ack {
        (tcp.ack, tcp.acknowledgment_number) = (true, ack);
    }
    tcp.checksum = match (to.ip(), from.ip()) {
        (IpAddr::V4(a), IpAddr::V4(b)) => tcp.calc_checksum_ipv4_raw(a.octets(), b.octets(), &[]),
        (IpAddr::V6(a), IpAddr::V6(b)) => tcp.calc_checksum_ipv6_raw(a.octets(), b.octets(), &[]),
        _ => panic!("two families"),
    }
    .unwrap();
    fresh(from, to, macs, Body::Raw(6, tcp.to_bytes().to_vec()))
}

fn fresh(from: SocketAddr, to: SocketAddr, macs: ([u8; 6], [u8; 6]), body: Body) -> Frame {
    let mut frame = Frame::new(to.ip(), from.ip(), body);
    frame.macs = (macs.1, macs.0);
    frame.id = 0;
    frame
}

/// The port unreachable for a datagram: its network header and eight bytes quoted.
fn unreachable(ends: &Ends, datagram: &Frame) -> Frame {
    let quote = if ends.v6 { 48 } else { 28 };
    let rest = [&[0; 4][..], &datagram.bytes().unwrap()[14..14 + quote]].concat();
    let (kind, code) = if ends.v6 { (1, 4) } else { (3, 3) };
    fresh(ends.client, ends.vip, ends.macs, Body::Icmp { kind, code, rest })
}

#[test]
fn echo_requests() {
    for v6 in [false, true] {
        let mut bench = bench(|_| ());
        let ends = Ends::tcp(v6);
        for (id, ttl) in [(0, 64), (0x1234, 1), (0xffff, 255)] {
            let mut request = Frame::echo_request(ends.client.ip(), ends.vip.ip(), id, 9);
            request.ttl = ttl;
            let mut reply = request.clone();
            (reply.source, reply.destination) = (request.destination, request.source);
            reply.macs = (request.macs.1, request.macs.0);
            reply.ttl = 64;
            if let Body::Icmp { kind, .. } = &mut reply.body {
                *kind = if v6 { 129 } else { 0 };
            }
            let (request, reply) = (request.bytes().unwrap(), reply.bytes().unwrap());
            bench.row("echo", &request, Verdict::AnsweredEcho, &reply, (&ends, &[]));
        }
        let short = Frame::new(
            ends.client.ip(),
            ends.vip.ip(),
            Body::Raw(if v6 { 58 } else { 1 }, vec![if v6 { 128 } else { 8 }, 0, 0, 0, 0]),
        );
        bench.leaves("too short for one", &ends, &short, Verdict::PassHost, &[]);
    }
}

/// Segments of no flow: the reset must be one that their sender believes.
#[test]
fn segments_of_no_flow() {
    for v6 in [false, true] {
        let mut bench = bench(|_| ());
        let ends = Ends::tcp(v6);
        let syn_fin = Flags { fin: true, ..Flags::SYN };
        for (flags, seq, ack, data, expected) in [
            (Flags::ACK, 10, 77, &b""[..], (77, None)),
            (Flags::ACK, 10, 77, b"some data", (77, None)),
            (Flags::FIN_ACK, 10, u32::MAX, b"", (u32::MAX, None)),
            (Flags::SYN_ACK, 10, 77, b"", (77, None)),
            (Flags::NONE, 10, 77, b"12345", (0, Some(15))),
            (Flags { fin: true, ..Flags::NONE }, u32::MAX, 0, b"12", (0, Some(2))),
            (syn_fin, 10, 0, b"", (0, Some(12))),
        ] {
            let frame = ends.up(flags, seq, ack, data);
            let after = reset(ends.client, ends.vip, ends.macs, expected.0, expected.1);
            let (frame, after) = (frame.bytes().unwrap(), after.bytes().unwrap());
            bench.row(&format!("{flags:?}"), &frame, Verdict::AnsweredReset, &after, (&ends, &[]));
        }
        let rst = ends.up(Flags::RST, 10, 0, b"");
        bench.leaves("a reset is not answered", &ends, &rst, Verdict::DropNoFlow, &[]);
    }
}

#[test]
fn no_target() {
    for v6 in [false, true] {
        let mut bench = bench(|memory| memory.tables.values_mut().for_each(|slots| slots.fill(0)));
        let ends = Ends::new(v6, 0, 0);
        for (seq, data) in [(1000, &b""[..]), (u32::MAX, b""), (5, b"fast open")] {
            let syn = ends.up(Flags::SYN, seq, 0, data);
            let ack = seq.wrapping_add(1 + data.len() as u32);
            let after = reset(ends.client, ends.vip, ends.macs, 0, Some(ack)).bytes().unwrap();
            let syn = syn.bytes().unwrap();
            bench.row("reject TCP", &syn, Verdict::AnsweredReset, &after, (&ends, &[]));
        }
        let ends = Ends::new(v6, 2, 0);
        for data in [&b""[..], b"1", &[7; 1400]] {
            let datagram = ends.up_udp(data);
            let after = unreachable(&ends, &datagram).bytes().unwrap();
            let datagram = datagram.bytes().unwrap();
            bench.row("reject UDP", &datagram, Verdict::AnsweredUnreachable, &after, (&ends, &[]));
        }
        let ends = Ends::new(v6, 1, 0);
        bench.leaves("drop TCP", &ends, &ends.up(Flags::SYN, 1, 0, b""), Verdict::DropNoTarget, &[]);
        let ends = Ends::new(v6, 3, 0);
        bench.leaves("drop UDP", &ends, &ends.up_udp(b"?"), Verdict::DropNoTarget, &[]);
    }
}

#[test]
fn flows_whose_target_is_to_end_them() {
    for v6 in [false, true] {
        let end = |memory: &mut lb_common::memory::Memory| {
            memory.targets[town::rows(v6)[0] as usize].flags = target_flags::END_TCP | target_flags::END_UDP;
            memory.control.epoch += 1;
        };
        let mut bench = bench(|_| ());
        let ends = Ends::tcp(v6);
        bench.establish(&ends);
        bench.change(end);
        let frame = ends.up(Flags::ACK, 1001, 5001, b"more").bytes().unwrap();
        let after = reset(ends.client, ends.vip, ends.macs, 5001, None).bytes().unwrap();
        bench.row("from the client", &frame, Verdict::AnsweredReset, &after, (&ends, &[Closed]));
        bench.start(|_| ());
        bench.establish(&ends);
        bench.change(end);
        let frame = ends.down(Flags { psh: true, ..Flags::ACK }, 5001, 1001, b"more").bytes().unwrap();
        let (verdict, last) = ends.after(&ends.down(Flags { rst: true, ..Flags::ACK }, 5001, 1001, b"more"));
        let last = last.bytes().unwrap();
        bench.row("from the target", &frame, verdict, &last, (&ends, &[Out, Closed]));
        let frame = ends.up(Flags::ACK, 1001, 5001, b"more").bytes().unwrap();
        bench.row("then the client", &frame, Verdict::AnsweredReset, &after, (&ends, &[]));
        bench.start(|_| ());
        let ends = Ends::udp(v6);
        bench.establish(&ends);
        bench.change(end);
        bench.forwards("UDP is chosen anew", &ends, &ends.up_udp(b"again"), &[In, Closed]);
        bench.forwards("and answered", &ends, &ends.down_udp(b"yes"), &[Out, Opened]);
        bench.start(|_| ());
        bench.establish(&ends);
        bench.change(end);
        bench.leaves(
            "UDP from the target",
            &ends,
            &ends.down_udp(b"late"),
            Verdict::DropFlowEnded,
            &[Closed],
        );
    }
}
