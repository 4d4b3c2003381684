//! Unfinished handshakes: a slot for each source address and port, found by the flow's hash, so that neither a flood nor
//! a lost reply takes anything from established flows.

use crate::{
    abi::{
        Control, Flow, FlowKey, Handshake, PORT_CANDIDATES, RingSlot, TCP, Target, flow_flags,
        handshake_state::{FREE, SYN_RECEIVED, SYN_SENT, UDP_UNANSWERED},
    },
    addr::{Ip, Port},
    parse::{self, Segment},
    pipeline::{
        divide,
        flow::twin_key,
        modulo, reclaim,
        rewrite::{self, Rewrite, Route},
    },
    tables::{Best, Refused, Tables, Wanted},
    tcp::{self, State},
    verdict::Verdict,
    wire::{Ethernet, Packet, tcp_flags},
};

/// The source addresses and ports there are to choose from, numbered through.
#[inline(always)]
pub fn candidates<A: Ip>(control: &Control) -> u32 {
    control.port_count * if A::IS_V6 { control.snat_v6 } else { control.snat_v4 }
}

/// Whether the slot's handshake is older than such a one may be.
#[inline(always)]
pub fn stale<A: Ip>(control: &Control, now: u32, slot: &Handshake<A>) -> bool {
    let lifetime = if slot.protocol == TCP { control.tcp_handshake } else { control.udp_unanswered };
    tcp::elapsed(now, slot.seen) > lifetime
}

/// Whether the slot holds this client's handshake.
#[inline(always)]
fn is_of<A: Ip>(slot: &Handshake<A>, key: &FlowKey<A>) -> bool {
    slot.state != FREE
        && slot.client_port == key.sport
        && slot.vip_port == key.dport
        && slot.protocol == key.protocol
        && slot.client == key.src
        && slot.vip == key.dst
}

/// The client's handshake, its slot locked; or `None`.
///
/// # Errors
/// [`Verdict::DropContended`] while another processor holds the slot.
#[inline(always)]
pub fn find<'t, A: Ip, T: Tables<A>>(
    tables: &'t T,
    control: &Control,
    key: &FlowKey<A>,
    home: u32,
) -> Result<Option<&'t mut Handshake<A>>, Verdict> {
    let all = candidates::<A>(control);
    let Some(reach) = tables.handshake(modulo(home, control.handshakes)).map(|slot| slot.reach) else {
        return Ok(None);
    };
    for step in 0..PORT_CANDIDATES {
        if step > reach {
            break;
        }
        let Some(slot) = tables.handshake(modulo(modulo(home + step, all), control.handshakes)) else {
            break;
        };
        if !is_of(slot, key) {
            continue;
        }
        if !tables.try_lock(&mut slot.lock) {
            return Err(Verdict::DropContended);
        }
        if is_of(slot, key) {
            return Ok(Some(slot));
        }
        tables.unlock(&mut slot.lock);
    }
    Ok(None)
}

/// How good a candidate is: the lower the better, then the older.
mod rank {
    /// A closed flow's port whose target takes the SYN all the same.
    pub(super) const RESTING: u32 = 0;
    /// A port that another unfinished handshake holds.
    pub(super) const UNFINISHED: u32 = 1;
    /// Not to be had.
    pub(super) const NONE: u32 = 2;
}

/// Reserves a source address and port towards the target: the first free candidate, else the one that rests longest,
/// else the oldest unfinished handshake's. The slot comes back locked and filled but for the way back to the client.
///
/// The slot is reserved before the table is asked for an established owner: the other order would let two processors
/// own one tuple.
///
/// # Errors
/// [`Verdict::DropSnatExhausted`] if established flows hold every candidate, [`Verdict::DropContended`].
#[inline(always)]
pub fn reserve<'t, A: Ip, T: Tables<A>>(
    tables: &'t T,
    control: &Control,
    now: u32,
    key: &FlowKey<A>,
    wanted: &Wanted,
    target: &Target,
    (reverse_key, forward_key, best): (&mut FlowKey<A>, &mut FlowKey<A>, &mut Best),
) -> Result<&'t mut Handshake<A>, Verdict> {
    let all = candidates::<A>(control);
    *best = Best { rank: rank::NONE, age: 0, place: 0 };
    // One more round than there are candidates: the last takes the best of those that were looked at.
    for step in 0..PORT_CANDIDATES + 1 {
        let last = step >= all || step == PORT_CANDIDATES;
        let place = if last {
            if best.rank == rank::NONE {
                return Err(Verdict::DropSnatExhausted);
            }
            best.place
        } else {
            step
        };
        let candidate = modulo(wanted.home + place, all);
        let Some(slot) = tables.handshake(modulo(candidate, control.handshakes)) else {
            return Err(Verdict::DropInternal);
        };
        let Some(snat) = tables.source_address(divide(candidate, control.port_count)) else {
            return Err(Verdict::DropInternal);
        };
        if !tables.try_lock(&mut slot.lock) {
            if last {
                return Err(Verdict::DropContended);
            }
            continue;
        }
        *reverse_key = FlowKey {
            src: A::from_words(target.address),
            dst: snat,
            sport: target.port,
            dport: Port::new((control.port_first + modulo(candidate, control.port_count)) as u16),
            protocol: key.protocol,
        };
        let unfinished = slot.state != FREE && !stale(control, now, slot);
        let owner = owner(tables, control, now, wanted, reverse_key, forward_key);
        let takes = match owner {
            Owner::None => !unfinished || last,
            Owner::Resting(_) => last,
            Owner::Live => false,
        };
        if takes && !tables.host_owns(reverse_key) {
            fill(tables, control, now, slot, key, wanted, target.incarnation, reverse_key, place);
            return Ok(slot);
        }
        if !takes {
            let (rank, age) = match owner {
                Owner::None => (rank::UNFINISHED, tcp::elapsed(now, slot.seen)),
                Owner::Resting(idle) if !unfinished => (rank::RESTING, idle),
                Owner::Resting(_) | Owner::Live => (rank::NONE, 0),
            };
            if rank < best.rank || (rank == best.rank && age > best.age) {
                *best = Best { rank, age, place };
            }
        }
        tables.unlock(&mut slot.lock);
        if last {
            // It changed hands since it was looked at.
            return Err(Verdict::DropSnatExhausted);
        }
    }
    Err(Verdict::DropSnatExhausted)
}

/// Who holds a source port towards a target.
enum Owner {
    /// Nobody.
    None,
    /// A closed flow, so many ticks since its last packet; the target takes the wanted connection all the same.
    Resting(u32),
    /// A live flow, or a closed one for which the target would refuse the wanted connection.
    Live,
}

#[inline(always)]
fn owner<A: Ip, T: Tables<A>>(
    tables: &T,
    control: &Control,
    now: u32,
    wanted: &Wanted,
    reverse_key: &FlowKey<A>,
    forward_key: &mut FlowKey<A>,
) -> Owner {
    let Some(reverse) = tables.flow(reverse_key) else {
        return Owner::None;
    };
    let (state, idle) = reclaim::standing(tables, now, reverse_key, forward_key, reverse);
    if idle > tcp::lifetime(control, reverse_key.protocol, state) {
        reclaim::remove_pair(tables, reverse_key, forward_key);
        return Owner::None;
    }
    if state != State::Closed {
        return Owner::Live;
    }
    let old_timestamp = (reverse.flags & flow_flags::CLIENT_TS != 0).then_some(reverse.client_ts);
    let timestamp = (wanted.has_timestamp != 0).then_some(wanted.timestamp);
    if reverse.flags & flow_flags::TARGET_CLOSED_FIRST == 0
        || tcp::reopens(reverse.acknowledged, old_timestamp, wanted.sequence, timestamp)
    {
        Owner::Resting(idle)
    } else {
        Owner::Live
    }
}

#[inline(always)]
#[expect(
    clippy::too_many_arguments,
    reason = "one value each; a struct would be copied through the BPF stack"
)]
fn fill<A: Ip, T: Tables<A>>(
    tables: &T,
    control: &Control,
    now: u32,
    slot: &mut Handshake<A>,
    key: &FlowKey<A>,
    wanted: &Wanted,
    incarnation: u32,
    reverse_key: &FlowKey<A>,
    step: u32,
) {
    slot.state = if key.protocol == TCP { SYN_SENT } else { UDP_UNANSWERED };
    slot.home = wanted.home;
    slot.seen = now;
    slot.client = key.src;
    slot.vip = key.dst;
    slot.target_address = reverse_key.src;
    slot.snat = reverse_key.dst;
    slot.client_port = key.sport;
    slot.vip_port = key.dport;
    slot.target_port = reverse_key.sport;
    slot.snat_port = reverse_key.dport;
    slot.protocol = key.protocol;
    slot.target = wanted.row;
    slot.incarnation = incarnation;
    slot.service = wanted.service;
    slot.epoch = control.epoch;
    slot.client_isn = wanted.sequence;
    slot.target_isn = 0;
    if let Some(first) = tables.handshake(modulo(wanted.home, control.handshakes))
        && first.reach | step != first.reach
    {
        // At least as far as the farthest, also if two processors do this at once: places have five bits.
        tables.fetch_or(&mut first.reach, step);
    }
}

/// Notes the way back to the client: the kernel's route if the agent knows it, else the way its packet came.
#[inline(always)]
pub fn note_client<A: Ip, P: Packet, T: Tables<A>>(packet: &P, tables: &T, slot: &mut Handshake<A>) {
    if let Some(ethernet) = packet.load::<Ethernet>(0) {
        slot.mac_client = ethernet.source;
        slot.mac_own = ethernet.destination;
    }
    slot.ifindex = packet.ingress();
    slot.client_next_hop = tables.route(slot.client);
}

/// What the slot says of a packet from the client: its rewrite and where it goes.
#[inline(always)]
pub fn to_target<A: Ip>(slot: &Handshake<A>) -> (Rewrite<A>, Route) {
    let (l3_delta, l4_delta) = rewrite::deltas(
        (slot.client, slot.vip, slot.client_port, slot.vip_port),
        (slot.snat, slot.target_address, slot.snat_port, slot.target_port),
    );
    let (src, dst, sport, dport) = (slot.snat, slot.target_address, slot.snat_port, slot.target_port);
    let route = Route { next_hop: slot.target, ifindex: 0, destination: [0; 6], source: [0; 6] };
    (Rewrite { src, dst, sport, dport, l3_delta, l4_delta }, route)
}

/// What the slot says of a packet from the target.
#[inline(always)]
pub fn to_client<A: Ip>(slot: &Handshake<A>) -> (Rewrite<A>, Route) {
    let (l3_delta, l4_delta) = rewrite::deltas(
        (slot.target_address, slot.snat, slot.target_port, slot.snat_port),
        (slot.vip, slot.client, slot.vip_port, slot.client_port),
    );
    let (src, dst, sport, dport) = (slot.vip, slot.client, slot.vip_port, slot.client_port);
    let route = Route {
        next_hop: slot.client_next_hop,
        ifindex: slot.ifindex,
        destination: slot.mac_client,
        source: slot.mac_own,
    };
    (Rewrite { src, dst, sport, dport, l3_delta, l4_delta }, route)
}

/// Whether this is the client's answer to the target's SYN-ACK.
#[inline(always)]
pub fn completes<A: Ip>(slot: &Handshake<A>, segment: &Segment) -> bool {
    slot.state == SYN_RECEIVED && segment.acknowledgement == slot.target_isn.wrapping_add(1)
}

/// Whether the client's reset ends the handshake: it must be the one that the target takes (RFC 9293, section 3.5.3).
#[inline(always)]
pub fn client_resets<A: Ip>(slot: &Handshake<A>, segment: &Segment) -> bool {
    segment.flags & tcp_flags::RST != 0 && segment.sequence == slot.client_isn.wrapping_add(1)
}

/// Whether the target's reset ends the handshake: it answers the client's SYN, or follows the target's own.
#[inline(always)]
pub fn target_resets<A: Ip>(slot: &Handshake<A>, segment: &Segment) -> bool {
    let answers =
        segment.flags & tcp_flags::ACK != 0 && segment.acknowledgement == slot.client_isn.wrapping_add(1);
    let follows = slot.state == SYN_RECEIVED && segment.sequence == slot.target_isn.wrapping_add(1);
    segment.flags & tcp_flags::RST != 0 && (answers || follows)
}

/// Makes the handshake of a locked slot an established flow and frees the slot.
///
/// # Errors
/// [`Verdict::DropFlowTableFull`], [`Verdict::DropSnatExhausted`] if the tuple has got another owner, or
/// [`Verdict::DropContended`] if the client has got another flow.
#[inline(always)]
pub fn promote<A: Ip, T: Tables<A>>(
    tables: &T,
    control: &Control,
    now: u32,
    slot: &mut Handshake<A>,
    scratch: (&mut Flow<A>, &mut FlowKey<A>, &mut FlowKey<A>, &mut Best),
) -> Result<(), Verdict> {
    let (flow, reverse_key, forward_key, best) = scratch;
    let room = (&mut *reverse_key, &mut *forward_key);
    let Some(place) = reclaim::take_place::<A, T>(tables, control, now, room, best) else {
        return Err(Verdict::DropFlowTableFull);
    };
    *reverse_key = FlowKey {
        src: slot.target_address,
        dst: slot.snat,
        sport: slot.target_port,
        dport: slot.snat_port,
        protocol: slot.protocol,
    };
    // A closed flow kept its port until the handshake that follows it was done.
    if let Some(old) = tables.flow(reverse_key) {
        if old.flags & flow_flags::ENDED == 0 {
            return Err(Verdict::DropSnatExhausted);
        }
        reclaim::remove_pair(tables, reverse_key, forward_key);
    }
    match tables.ring(place) {
        Some(ring) => *ring = RingSlot { key: *reverse_key },
        None => return Err(Verdict::DropInternal),
    }
    entry(flow, now, slot, place);
    tables.insert_flow(reverse_key, flow, false).map_err(|refused| match refused {
        Refused::Exists => Verdict::DropSnatExhausted,
        Refused::Full => Verdict::DropFlowTableFull,
    })?;
    *forward_key = twin_key(flow, slot.protocol);
    let (rewrite, _) = to_target(slot);
    turn(flow, &rewrite, slot.target, slot.target_isn);
    if let Err(refused) = tables.insert_flow(forward_key, flow, false) {
        tables.remove_flow(reverse_key);
        if refused == Refused::Full {
            return Err(Verdict::DropFlowTableFull);
        }
        // The client's first packet came to two processors at once, each gave it a port, and the other's flow came first.
        slot.state = FREE;
        return Err(Verdict::DropContended);
    }
    tables.count_opened(slot.service, slot.target);
    slot.state = FREE;
    Ok(())
}

/// Writes the reverse entry of the slot's flow.
#[inline(always)]
fn entry<A: Ip>(flow: &mut Flow<A>, now: u32, slot: &Handshake<A>, place: u32) {
    let (rewrite, _) = to_client(slot);
    *flow = Flow {
        src: rewrite.src,
        dst: rewrite.dst,
        sport: rewrite.sport,
        dport: rewrite.dport,
        flags: flow_flags::REVERSE,
        l4_delta: rewrite.l4_delta,
        l3_delta: rewrite.l3_delta,
        next_hop: slot.client_next_hop,
        target: slot.target,
        incarnation: slot.incarnation,
        service: slot.service,
        // The policy may have changed since: then the flow's next packet is checked.
        epoch: slot.epoch,
        seen: now,
        created: now,
        ring: place,
        ifindex: slot.ifindex,
        mac_client: slot.mac_client,
        mac_own: slot.mac_own,
        acknowledged: slot.client_isn.wrapping_add(1),
        client_ts: 0,
        packets: 0,
        bytes: 0,
    };
}

/// Makes a reverse entry the forward one, in place: two such values do not fit the BPF stack.
#[inline(always)]
fn turn<A: Ip>(flow: &mut Flow<A>, rewrite: &Rewrite<A>, next_hop: u32, target_isn: u32) {
    flow.src = rewrite.src;
    flow.dst = rewrite.dst;
    flow.sport = rewrite.sport;
    flow.dport = rewrite.dport;
    flow.l3_delta = rewrite.l3_delta;
    flow.l4_delta = rewrite.l4_delta;
    flow.flags = 0;
    flow.acknowledged = target_isn.wrapping_add(1);
    flow.next_hop = next_hop;
}

/// The handshake that a packet to a source address and port belongs to, its slot locked.
///
/// # Errors
/// [`Verdict::DropContended`] while another processor holds the slot.
#[inline(always)]
pub fn find_by_source<'t, A: Ip, T: Tables<A>>(
    tables: &'t T,
    control: &Control,
    key: &FlowKey<A>,
    row: u32,
) -> Result<Option<&'t mut Handshake<A>>, Verdict> {
    let offset = (key.dport.get() as u32).wrapping_sub(control.port_first);
    if offset >= control.port_count {
        return Ok(None);
    }
    let candidate = row * control.port_count + offset;
    let Some(slot) = tables.handshake(modulo(candidate, control.handshakes)) else {
        return Ok(None);
    };
    let matches = |slot: &Handshake<A>| {
        slot.state != FREE
            && slot.snat_port == key.dport
            && slot.target_port == key.sport
            && slot.protocol == key.protocol
            && slot.target_address == key.src
            && slot.snat == key.dst
    };
    if !matches(slot) {
        return Ok(None);
    }
    if !tables.try_lock(&mut slot.lock) {
        return Err(Verdict::DropContended);
    }
    if matches(slot) {
        return Ok(Some(slot));
    }
    tables.unlock(&mut slot.lock);
    Ok(None)
}

/// Notes what a new handshake is for, with the first sequence number and timestamp by which its target is known to take
/// it.
#[inline(always)]
pub fn want<A: Ip, P: Packet>(
    wanted: &mut Wanted,
    packet: &P,
    protocol: u32,
    segment: &Segment,
    (service, row, home): (u32, u32, u32),
) {
    *wanted = Wanted { service, row, home, sequence: segment.sequence, has_timestamp: 0, timestamp: 0 };
    if protocol == TCP
        && let Some(timestamp) = parse::timestamp::<A>(packet, segment)
    {
        wanted.has_timestamp = 1;
        wanted.timestamp = timestamp;
    }
}
