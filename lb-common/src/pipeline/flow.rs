//! A packet of a flow in the table: follow TCP's state, count, rewrite.

use crate::{
    abi::{Control, Flow, FlowKey, UDP, flow_flags},
    addr::Ip,
    parse::{self, Network, Segment},
    pipeline::{
        Action,
        rewrite::{self, Rewrite, Route},
    },
    tables::Tables,
    tcp,
    wire::{Ethernet, Packet, tcp_flags},
};

/// Key of the flow's other direction.
#[inline(always)]
pub fn twin_key<A: Ip>(flow: &Flow<A>, protocol: u32) -> FlowKey<A> {
    FlowKey { src: flow.dst, dst: flow.src, sport: flow.dport, dport: flow.sport, protocol }
}

/// Whether the packet must be decided on anew although the table knows its flow: policy has changed, a client opens a new
/// connection from the same port, or a source port that rests may belong to a new handshake.
#[inline(always)]
pub fn needs_admission<A: Ip>(
    now: u32,
    control: &Control,
    protocol: u32,
    segment: &Segment,
    flow: &Flow<A>,
) -> bool {
    flow.epoch != control.epoch
        || flow.flags & flow_flags::ENDED != 0
        || (segment.flags & (tcp_flags::SYN | tcp_flags::ACK) == tcp_flags::SYN
            && flow.flags & flow_flags::REVERSE == 0)
        || (protocol == UDP && tcp::elapsed(now, flow.seen) > control.udp_established)
}

/// Sends the packet on along its flow. `twin` is room for the other direction's key.
#[inline(always)]
#[expect(
    clippy::too_many_arguments,
    reason = "one value each; a struct would be copied through the BPF stack"
)]
pub fn forward<A: Ip, P: Packet, T: Tables<A>>(
    packet: &mut P,
    tables: &T,
    now: u32,
    network: &Network<A>,
    key: &FlowKey<A>,
    segment: &Segment,
    flow: &mut Flow<A>,
    twin: &mut FlowKey<A>,
) -> Action {
    // A shared line is written only when it changes.
    if flow.seen != now {
        flow.seen = now;
    }
    flow.packets += 1;
    let length = packet.length() as u64;
    flow.bytes += length;
    let reverse = flow.flags & flow_flags::REVERSE != 0;
    tables.count_flow(flow.service, flow.target, reverse, length);
    if segment.flags & (tcp_flags::FIN | tcp_flags::RST) != 0 {
        close(packet, tables, key, segment, flow, twin);
    }
    if segment.flags & tcp_flags::ACK != 0 {
        flow.acknowledged = segment.acknowledgement;
    }
    let mut route =
        Route { next_hop: flow.next_hop, ifindex: 0, destination: flow.mac_client, source: flow.mac_own };
    if reverse {
        route.ifindex = flow.ifindex;
    } else {
        follow_client(packet, tables, key, flow, twin);
    }
    let rewrite = Rewrite {
        src: flow.src,
        dst: flow.dst,
        sport: flow.sport,
        dport: flow.dport,
        l3_delta: flow.l3_delta,
        l4_delta: flow.l4_delta,
    };
    rewrite::apply(packet, tables, network, key.protocol, segment, &rewrite, &route)
}

/// Notes a FIN or a reset on both entries, and the flow's end once. A reset that the other side would not take ends
/// nothing: it may be of an older connection, or anybody's.
#[inline(always)]
fn close<A: Ip, P: Packet, T: Tables<A>>(
    packet: &P,
    tables: &T,
    key: &FlowKey<A>,
    segment: &Segment,
    flow: &mut Flow<A>,
    twin: &mut FlowKey<A>,
) {
    let own = if segment.flags & tcp_flags::FIN != 0 { flow_flags::FIN } else { 0 };
    if own != 0 {
        tables.fetch_or(&mut flow.flags, own);
    }
    *twin = twin_key(flow, key.protocol);
    let Some(twin) = tables.flow(twin) else {
        return;
    };
    let is_reverse = flow.flags & flow_flags::REVERSE != 0;
    let reset = segment.flags & tcp_flags::RST != 0 && tcp::resets(twin.acknowledged, segment.sequence);
    let closed = reset || (own | flow.flags) & twin.flags & flow_flags::FIN != 0;
    let mut set = if closed { flow_flags::ENDED } else { 0 };
    let reverse = if is_reverse {
        if own != 0 && twin.flags & flow_flags::FIN == 0 {
            set |= flow_flags::TARGET_CLOSED_FIRST;
        }
        flow
    } else {
        if own != 0
            && let Some(timestamp) = parse::timestamp::<A>(packet, segment)
        {
            twin.client_ts = timestamp;
            set |= flow_flags::CLIENT_TS;
        }
        twin
    };
    if set != 0 && tables.fetch_or(&mut reverse.flags, set) & flow_flags::ENDED == 0 && closed {
        tables.count_closed(reverse.service, reverse.target);
    }
}

/// Notes that the client's packets now come another way (its router's address changed), for the replies.
#[inline(always)]
fn follow_client<A: Ip, P: Packet, T: Tables<A>>(
    packet: &P,
    tables: &T,
    key: &FlowKey<A>,
    flow: &mut Flow<A>,
    twin: &mut FlowKey<A>,
) {
    let Some(ethernet) = packet.load::<Ethernet>(0) else {
        return;
    };
    if ethernet.source == flow.mac_client && packet.ingress() == flow.ifindex {
        return;
    }
    flow.mac_client = ethernet.source;
    flow.mac_own = ethernet.destination;
    flow.ifindex = packet.ingress();
    *twin = twin_key(flow, key.protocol);
    if let Some(twin) = tables.flow(twin) {
        twin.mac_client = ethernet.source;
        twin.mac_own = ethernet.destination;
        twin.ifindex = packet.ingress();
        twin.next_hop = tables.route(key.src);
    }
}
