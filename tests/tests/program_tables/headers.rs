//! Packets that are told apart by their headers alone.

use lb_common::verdict::Verdict::{self, *};
use lb_tests::{
    packet::{Body, Flags, Frame},
    program::town,
};

use crate::bench::{Bench, Ends, bench};

#[track_caller]
fn untouched(bench: &mut Bench, name: &str, frame: &[u8], verdict: Verdict) {
    bench.row(name, frame, verdict, frame, (&Ends::tcp(false), &[]));
}

#[test]
fn frames_cut_short_at_every_byte() {
    for v6 in [false, true] {
        let mut bench = bench(|_| ());
        let frames = [Ends::tcp(v6).up(Flags::SYN, 1, 0, b"data"), Ends::udp(v6).up_udp(b"data")];
        for frame in frames {
            let frame = frame.bytes().unwrap();
            let network = 14 + if v6 { 40 } else { 20 };
            for length in 14..frame.len() {
                let verdict = if length < network { PassNotOurs } else { DropMalformed };
                untouched(&mut bench, &format!("{length} bytes"), &frame[..length], verdict);
            }
        }
    }
}

/// IP packets that are whole but too short for the transport header, and transport headers that say too much.
#[test]
fn transport_headers_cut_short() {
    for v6 in [false, true] {
        let mut bench = bench(|_| ());
        let network = 14 + if v6 { 40 } else { 20 };
        let tcp = Ends::tcp(v6).up(Flags::SYN, 1, 0, b"");
        let udp = Ends::udp(v6).up_udp(b"");
        for (protocol, whole, frame) in [(6, 20, tcp), (17, 8, udp)] {
            let bytes = frame.bytes().unwrap();
            for length in 0..whole {
                let mut cut = frame.clone();
                cut.body = Body::Raw(protocol, bytes[network..network + length].to_vec());
                let cut = cut.bytes().unwrap();
                untouched(&mut bench, &format!("{length} bytes of {protocol}"), &cut, DropMalformed);
                // Bytes behind the IP packet do not make it longer.
                let padded = [&cut[..], &[0; 32]].concat();
                untouched(&mut bench, &format!("{length} and padding"), &padded, DropMalformed);
            }
        }
        for words in (0..5).chain(6..16) {
            let mut frame = Ends::tcp(v6).up(Flags::SYN, 1, 0, b"").bytes().unwrap();
            frame[network + 12] = words << 4;
            untouched(&mut bench, &format!("data offset {words}"), &frame, DropMalformed);
        }
        for length in (0..8u16).chain([13, 1000, u16::MAX]) {
            let mut frame = Ends::udp(v6).up_udp(b"four").bytes().unwrap();
            frame[network + 4..network + 6].copy_from_slice(&length.to_be_bytes());
            untouched(&mut bench, &format!("UDP length {length}"), &frame, DropMalformed);
        }
    }
}

#[test]
fn network_headers_that_contradict_themselves() {
    let mut bench = bench(|_| ());
    let whole = Ends::tcp(false).up(Flags::SYN, 1, 0, b"").bytes().unwrap();
    for first in (0..=0x45u8).chain(0x50..=0xff).filter(|first| *first != 0x45) {
        let mut frame = whole.clone();
        frame[14] = first;
        untouched(&mut bench, &format!("version and length {first:#x}"), &frame, DropMalformed);
    }
    for length in (0..40u16).chain([41, 1000, u16::MAX]) {
        let mut frame = whole.clone();
        frame[16..18].copy_from_slice(&length.to_be_bytes());
        untouched(&mut bench, &format!("total length {length}"), &frame, DropMalformed);
    }
    let whole = Ends::tcp(true).up(Flags::SYN, 1, 0, b"").bytes().unwrap();
    for version in (0..16u8).filter(|version| *version != 6) {
        let mut frame = whole.clone();
        frame[14] = version << 4;
        untouched(&mut bench, &format!("version {version}"), &frame, DropMalformed);
    }
    for length in (0..20u16).chain([21, 1000, u16::MAX]) {
        let mut frame = whole.clone();
        frame[18..20].copy_from_slice(&length.to_be_bytes());
        untouched(&mut bench, &format!("payload length {length}"), &frame, DropMalformed);
    }
}

#[test]
fn fragments() {
    for v6 in [false, true] {
        let mut bench = bench(|_| ());
        for frame in [Ends::tcp(v6).up(Flags::SYN, 1, 0, &[1; 64]), Ends::udp(v6).up_udp(&[1; 64])] {
            for (offset, length, more) in [(0, Some(48), true), (48, Some(8), true), (56, None, false)] {
                let piece = frame.clone().fragment(offset, length, more).bytes().unwrap();
                untouched(&mut bench, &format!("fragment at {offset}"), &piece, DropFragment);
            }
        }
        let mut frame = Ends::tcp(v6).up(Flags::SYN, 1, 0, b"");
        frame.source = town::target(town::rows(v6)[0]).ip();
        frame.destination = town::snat(v6, 0);
        let piece = frame.fragment(0, Some(8), true).bytes().unwrap();
        untouched(&mut bench, "fragment to a source address", &piece, PassHost);
    }
}

#[test]
fn options_and_extension_headers() {
    let mut bench = bench(|_| ());
    for words in 1..=10 {
        let mut frame = Ends::tcp(false).up(Flags::SYN, 1, 0, b"");
        frame.ip_options = vec![1; words * 4];
        untouched(&mut bench, &format!("{words} words"), &frame.bytes().unwrap(), DropUnsupportedHeader);
    }
    for number in [0, 43, 51, 60, 135, 139, 140] {
        let mut frame = Ends::tcp(true).up(Flags::SYN, 1, 0, b"");
        frame.extensions.push((number, vec![0; 8]));
        untouched(&mut bench, &format!("header {number}"), &frame.bytes().unwrap(), DropUnsupportedHeader);
    }
}

#[test]
fn protocols_that_are_not_ours() {
    for v6 in [false, true] {
        let mut bench = bench(|_| ());
        let ends = Ends::tcp(v6);
        for protocol in [2, 4, 41, 47, 50, 89, 112, 132, 136, 255] {
            let frame = Frame::new(ends.client.ip(), ends.vip.ip(), Body::Raw(protocol, vec![0; 40]))
                .bytes()
                .unwrap();
            untouched(&mut bench, &format!("protocol {protocol}"), &frame, DropUnknownProtocol);
            let to_host = Frame::new(ends.client.ip(), ends.snat.ip(), Body::Raw(protocol, vec![0; 40]))
                .bytes()
                .unwrap();
            untouched(&mut bench, &format!("{protocol} to a source address"), &to_host, PassHost);
        }
        // The other family's ICMP is none.
        let other = Body::Raw(if v6 { 1 } else { 58 }, vec![8, 0, 0, 0, 0, 0, 0, 0]);
        let frame = Frame::new(ends.client.ip(), ends.vip.ip(), other).bytes().unwrap();
        untouched(&mut bench, "the other family's ICMP", &frame, DropUnknownProtocol);
    }
}

#[test]
fn what_the_host_gets() {
    for v6 in [false, true] {
        let mut bench = bench(|_| ());
        let Ends { client, vip, snat, target, .. } = Ends::tcp(v6);
        let mut arp = Frame::tcp(client, vip, Flags::SYN).bytes().unwrap();
        for ethertype in [0x0806u16, 0x8100, 0x88a8, 0x88cc, 0x8847, 0x002e, 0] {
            arp[12..14].copy_from_slice(&ethertype.to_be_bytes());
            untouched(&mut bench, &format!("EtherType {ethertype:#x}"), &arp, PassNotIp);
        }
        let tagged = Frame::tcp(client, vip, Flags::SYN).vlan(7).bytes().unwrap();
        untouched(&mut bench, "VLAN tag", &tagged, PassNotIp);
        untouched(&mut bench, "Ethernet header alone", &arp[..14], PassNotIp);
        let strange = Frame::tcp(client, target, Flags::SYN).bytes().unwrap();
        untouched(&mut bench, "to a target's own address", &strange, PassNotOurs);
        let solicit = |to| Frame::icmp(client.ip(), to, 135, 0, &[0; 20]).bytes().unwrap();
        if v6 {
            untouched(&mut bench, "neighbour solicitation to the VIP", &solicit(vip.ip()), PassHost);
            let group = "ff02::1:ff00:100".parse().unwrap();
            untouched(&mut bench, "to its group", &solicit(group), PassNotOurs);
        }
        for (kind, code) in [(3, 4), (11, 0), (0, 0), (129, 0), (1, 4), (2, 0), (136, 0)] {
            let frame = Frame::icmp(client.ip(), vip.ip(), kind, code, &[0; 40]).bytes().unwrap();
            untouched(&mut bench, &format!("ICMP {kind}/{code} to the VIP"), &frame, PassHost);
        }
        let echo = Frame::echo_request(client.ip(), snat.ip(), 1, 1).bytes().unwrap();
        untouched(&mut bench, "echo to a source address", &echo, PassHost);
        let host = [
            Frame::tcp(target, snat, Flags::ACK).bytes().unwrap(),
            Frame::tcp(target, snat, Flags::SYN_ACK).bytes().unwrap(),
            Frame::udp(target, snat, b"x").bytes().unwrap(),
        ];
        for frame in host {
            untouched(&mut bench, "the host's own connections", &frame, PassHost);
        }
    }
}

/// An address may share its bit of the filter with a VIP.
#[test]
fn what_only_the_filter_takes_for_ours() {
    for v6 in [false, true] {
        let Ends { client, target, .. } = Ends::tcp(v6);
        let mut bench = bench(|memory| {
            if v6 {
                memory.look_at::<lb_common::addr::V6>(town::ip(target.ip()));
            } else {
                memory.look_at::<lb_common::addr::V4>(town::ip(target.ip()));
            }
        });
        for frame in [
            Frame::tcp(client, target, Flags::SYN),
            Frame::udp(client, target, b""),
            Frame::echo_request(client.ip(), target.ip(), 1, 1),
            Frame::tcp(client, target, Flags::SYN).data(&[1; 32]).fragment(0, Some(24), true),
        ] {
            untouched(&mut bench, "the filter's mistake", &frame.bytes().unwrap(), PassNotOurs);
        }
    }
}
