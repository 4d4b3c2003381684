//! Admission: everything about a packet that is not simply the next one of an established flow.
//!
//! First what is to become of the packet is found out (`Found`), then it is done, in one place: each way of doing it is
//! inlined once.

use crate::{
    abi::{
        self, Control, Flow, Handshake, NONE, Service, ServiceKey, flow_flags,
        handshake_state::{FREE, SYN_RECEIVED, SYN_SENT},
        on_no_target, service_kind, target_flags,
    },
    addr::{Ip, Port},
    hash,
    parse::{self, Network, Segment},
    pipeline::{Action, answer, flow, handshake, modulo, reclaim, rewrite},
    tables::{Scratch, Tables},
    tcp::{self, State},
    verdict::Verdict,
    wire::{Packet, tcp_flags},
};

/// Decides on one packet of one family. Counts it.
#[inline(always)]
pub fn admit<A: Ip, P: Packet, T: Tables<A>>(packet: &mut P, tables: &T) -> Action {
    let action = decide(packet, tables);
    tables.count(action.verdict);
    action
}

/// What is to become of a packet.
enum Found<'t, A> {
    /// This.
    Verdict(Verdict),
    /// It goes along its flow.
    Flow(&'t mut Flow<A>),
    /// It comes from a target that was taken away: it goes along its flow as a reset, and the flow is no more.
    LastOfFlow(&'t mut Flow<A>),
    /// It completes a handshake, whose slot is locked, and goes along the flow that this becomes.
    Promote(&'t mut Handshake<A>),
    /// It goes to the target of an unfinished handshake, whose slot is locked; the slot is free afterwards if so said.
    ToTarget(&'t mut Handshake<A>, bool),
    /// The same to the client.
    ToClient(&'t mut Handshake<A>, bool),
    /// Its sender is told that there is no such connection.
    Reset,
    /// Its sender is told that nobody listens.
    Unreachable,
}

#[inline(always)]
fn decide<A: Ip, P: Packet, T: Tables<A>>(packet: &mut P, tables: &T) -> Action {
    let (Some(control), Some(scratch)) = (tables.control(), tables.scratch()) else {
        return Verdict::DropInternal.into();
    };
    let Some(network) = parse::network::<A>(packet) else {
        return Verdict::PassNotOurs.into();
    };
    scratch.service = ServiceKey { address: network.dst, port: Port::default(), reserved: 0, protocol: 0 };
    let address = match tables.service(control.generation, &scratch.service) {
        Some(address) => (address.kind, address.index),
        None => (0, 0),
    };
    let mut segment = match parse::segment(packet, &network) {
        Ok((key, segment)) => {
            scratch.key = key;
            segment
        }
        Err(verdict) => return odd(packet, &network, address.0, verdict).into(),
    };
    let now = tables.now();
    let found = find(packet, tables, control, now, address, &segment, scratch);
    let Scratch { flow, key, reverse, forward, best, .. } = scratch;
    let key = &*key;
    let found = match found {
        Found::Promote(slot) => {
            let promoted = handshake::promote(tables, control, now, slot, (flow, reverse, forward, best));
            tables.unlock(&mut slot.lock);
            match (promoted, tables.flow(key)) {
                (Ok(()), Some(flow)) => Found::Flow(flow),
                (Ok(()), None) => Found::Verdict(Verdict::DropInternal),
                (Err(verdict), _) => Found::Verdict(verdict),
            }
        }
        found => found,
    };
    let (slot, free, (rewrite, route), from_target) = match found {
        Found::Verdict(verdict) => return verdict.into(),
        Found::Promote(_) => return Verdict::DropInternal.into(),
        Found::Flow(flow) => {
            return flow::forward(packet, tables, now, &network, key, &segment, flow, forward);
        }
        Found::LastOfFlow(flow) => {
            if answer::turn_to_reset::<A, P>(packet, &mut segment).is_none() {
                return Verdict::DropInternal.into();
            }
            let action = flow::forward(packet, tables, now, &network, key, &segment, flow, forward);
            reclaim::remove_pair(tables, key, forward);
            return action;
        }
        Found::ToTarget(slot, free) => {
            let way = handshake::to_target(slot);
            (slot, free, way, false)
        }
        Found::ToClient(slot, free) => {
            let way = handshake::to_client(slot);
            (slot, free, way, true)
        }
        Found::Reset if segment.flags & tcp_flags::RST != 0 => return Verdict::DropNoFlow.into(),
        Found::Reset => {
            return answer::reset(packet, &network, key, &segment).unwrap_or(Verdict::DropInternal).into();
        }
        Found::Unreachable => {
            return answer::unreachable(packet, key).unwrap_or(Verdict::DropInternal).into();
        }
    };
    tables.count_flow(slot.service, slot.target, from_target, packet.length() as u64);
    let action = rewrite::apply(packet, tables, &network, key.protocol, &segment, &rewrite, &route);
    if free {
        slot.state = FREE;
    }
    tables.unlock(&mut slot.lock);
    action
}

/// A packet whose transport we do not look into.
#[inline(always)]
fn odd<A: Ip, P: Packet>(packet: &mut P, network: &Network<A>, kind: u32, verdict: Verdict) -> Verdict {
    match kind {
        service_kind::VIP => {
            if network.oddity.is_none() && parse::is_icmp(network) {
                // Neighbour discovery and errors are the host's.
                answer::echo(packet, network).unwrap_or(Verdict::PassHost)
            } else {
                verdict
            }
        }
        service_kind::SNAT => Verdict::PassHost,
        _ => Verdict::PassNotOurs,
    }
}

#[inline(always)]
fn find<'t, A: Ip, P: Packet, T: Tables<A>>(
    packet: &P,
    tables: &'t T,
    control: &Control,
    now: u32,
    (kind, index): (u32, u32),
    segment: &Segment,
    scratch: &mut Scratch<A>,
) -> Found<'t, A> {
    let known = tables.flow(&scratch.key);
    // A closed flow's source port may already belong to a handshake, whose packets come first.
    let open = known.as_ref().is_some_and(|flow| flow.flags & flow_flags::ENDED == 0);
    if kind == service_kind::SNAT
        && !open
        && let Some(found) = from_target(tables, control, now, segment, index, scratch)
    {
        return found;
    }
    let permit = match &known {
        Some(flow) if flow.flags & flow_flags::REVERSE != 0 => {
            permit(tables, control, (flow.dst, flow.src, flow.sport), scratch)
        }
        _ => permit(tables, control, (scratch.key.src, scratch.key.dst, scratch.key.dport), scratch),
    };
    if let Some(flow) = known
        && let Some(found) = of_flow(tables, control, now, segment, flow, &permit, scratch)
    {
        return found;
    }
    match kind {
        service_kind::VIP => from_client(packet, tables, control, now, segment, &permit, scratch),
        // Another processor may have completed the handshake meanwhile: the host would reset the flow.
        service_kind::SNAT if tables.flow(&scratch.key).is_some() => Found::Verdict(Verdict::DropContended),
        service_kind::SNAT => Found::Verdict(Verdict::PassHost),
        _ => Found::Verdict(Verdict::PassNotOurs),
    }
}

/// What the policy in force says of a client and a VIP's port.
struct Permit<'t> {
    /// The service, if the port is declared.
    service: Option<&'t Service>,
    /// Whether the client may connect to it.
    allowed: bool,
}

#[inline(always)]
fn permit<'t, A: Ip, T: Tables<A>>(
    tables: &'t T,
    control: &Control,
    (client, vip, port): (A, A, Port),
    scratch: &mut Scratch<A>,
) -> Permit<'t> {
    scratch.service = ServiceKey { address: vip, port, reserved: 0, protocol: scratch.key.protocol };
    let service = tables.service(control.generation, &scratch.service);
    let allowed = match service {
        Some(service) => tables.allowed(control.generation, service.index, client),
        None => false,
    };
    Permit { service, allowed }
}

/// A packet whose five-tuple is in the flow table; `None` if it starts a new flow.
#[inline(always)]
fn of_flow<'t, A: Ip, T: Tables<A>>(
    tables: &'t T,
    control: &Control,
    now: u32,
    segment: &Segment,
    flow: &'t mut Flow<A>,
    permit: &Permit<'t>,
    scratch: &mut Scratch<A>,
) -> Option<Found<'t, A>> {
    let Scratch { key, reverse, forward, .. } = scratch;
    let from_target = flow.flags & flow_flags::REVERSE != 0;
    *reverse = if from_target { *key } else { flow::twin_key(flow, key.protocol) };
    let entry = match tables.flow(reverse) {
        Some(entry) if from_target || reclaim::is_twin(entry, key) => entry,
        // Another processor is taking the flow away, and may be putting the next one in its place.
        _ if from_target => return Some(Found::Verdict(Verdict::DropContended)),
        _ => {
            // Half a flow, whose source port may be another's by now.
            tables.remove_flow(key);
            return None;
        }
    };
    let (state, idle) = reclaim::standing(tables, now, reverse, forward, entry);
    let expired = idle > tcp::lifetime(control, key.protocol, state);
    let first_syn = !from_target && segment.is_first_syn();
    if first_syn && state == State::Closed && !expired {
        // The source port goes on resting under the reverse entry alone.
        tables.remove_flow(key);
        return None;
    }
    // The client's own FIN frees its port for a new flow, and so does the old one's expiry.
    let anew = (first_syn && (expired || flow.flags & flow_flags::FIN != 0))
        || (expired && key.protocol == abi::UDP);
    let policy = if anew {
        Policy::Anew
    } else if flow.epoch == control.epoch {
        Policy::Keep
    } else {
        policy(tables, flow, key.protocol, permit)
    };
    if let Policy::Keep = policy {
        flow.epoch = control.epoch;
        return Some(Found::Flow(flow));
    }
    // Its client may only be listening, and would wait for ever.
    if let Policy::TargetGone = policy
        && from_target
        && key.protocol == abi::TCP
    {
        return Some(Found::LastOfFlow(flow));
    }
    reclaim::remove_pair(tables, reverse, forward);
    match policy {
        Policy::Revoked => Some(Found::Verdict(Verdict::DropAccessRevoked)),
        Policy::TargetGone if from_target => Some(Found::Verdict(Verdict::DropFlowEnded)),
        Policy::TargetGone if key.protocol == abi::TCP => Some(Found::Reset),
        _ => None,
    }
}

/// What the policy in force says of a flow admitted under an earlier one.
enum Policy {
    Keep,
    Anew,
    Revoked,
    TargetGone,
}

#[inline(always)]
fn policy<A: Ip, T: Tables<A>>(tables: &T, flow: &Flow<A>, protocol: u32, permit: &Permit<'_>) -> Policy {
    if !permit.allowed || permit.service.is_none_or(|service| service.index != flow.service) {
        return Policy::Revoked;
    }
    let end = if protocol == abi::TCP { target_flags::END_TCP } else { target_flags::END_UDP };
    match tables.target(flow.target) {
        Some(target) if target.incarnation == flow.incarnation && target.flags & end == 0 => Policy::Keep,
        _ => Policy::TargetGone,
    }
}

/// A packet to a VIP that belongs to no flow in the table.
#[inline(always)]
fn from_client<'t, A: Ip, P: Packet, T: Tables<A>>(
    packet: &P,
    tables: &'t T,
    control: &Control,
    now: u32,
    segment: &Segment,
    permit: &Permit<'t>,
    scratch: &mut Scratch<A>,
) -> Found<'t, A> {
    let Scratch { key, reverse, forward, best, wanted, .. } = scratch;
    let Some(service) = permit.service else {
        return Found::Verdict(Verdict::DropUndeclaredPort);
    };
    if !permit.allowed {
        return Found::Verdict(Verdict::DropAccessDenied);
    }
    let all = handshake::candidates::<A>(control);
    if all == 0 || control.handshakes == 0 || control.table_slots == 0 {
        return Found::Verdict(Verdict::DropSnatExhausted);
    }
    let hash = hash::flow(key);
    let home = modulo(hash as u32, all);
    let slot = match handshake::find(tables, control, key, home) {
        Ok(slot) => slot,
        Err(verdict) => return Found::Verdict(verdict),
    };
    let opens = key.protocol == abi::UDP || segment.is_first_syn();
    match slot {
        Some(slot) if !opens && is_current(tables, slot) => {
            slot.seen = now;
            if segment.flags & tcp_flags::RST != 0 {
                let ends = handshake::client_resets(slot, segment);
                return Found::ToTarget(slot, ends);
            }
            if handshake::completes(slot, segment) {
                return Found::Promote(slot);
            }
            tables.unlock(&mut slot.lock);
            return Found::Verdict(Verdict::DropNoFlow);
        }
        Some(slot) if opens && keeps_target(tables, slot) => {
            slot.seen = now;
            slot.client_isn = segment.sequence;
            return Found::ToTarget(slot, false);
        }
        Some(slot) => {
            slot.state = FREE;
            tables.unlock(&mut slot.lock);
        }
        None => {}
    }
    if !opens {
        // Another processor may have completed the handshake since the flow was looked for. Otherwise the sender is told, so
        // that it does not wait for a flow that is no more.
        return match tables.flow(key) {
            Some(_) => Found::Verdict(Verdict::DropContended),
            None => Found::Reset,
        };
    }
    let row = tables.choose(service.table, modulo((hash >> 32) as u32, control.table_slots));
    let target = match tables.target(row) {
        Some(target) if row != NONE => target,
        _ if service.on_no_target != on_no_target::REJECT => return Found::Verdict(Verdict::DropNoTarget),
        _ if key.protocol == abi::TCP => return Found::Reset,
        _ => return Found::Unreachable,
    };
    handshake::want::<A, P>(wanted, packet, key.protocol, segment, (service.index, row, home));
    match handshake::reserve(tables, control, now, key, wanted, target, (reverse, forward, best)) {
        Ok(slot) => {
            handshake::note_client(packet, tables, slot);
            Found::ToTarget(slot, false)
        }
        Err(verdict) => Found::Verdict(verdict),
    }
}

/// Whether an unfinished handshake stays with its target: unless the target has not answered and takes no new flows.
#[inline(always)]
fn keeps_target<A: Ip, T: Tables<A>>(tables: &T, slot: &Handshake<A>) -> bool {
    match tables.target(slot.target) {
        Some(target) if target.incarnation == slot.incarnation => {
            slot.state == SYN_RECEIVED || target.flags & target_flags::NO_NEW_FLOWS == 0
        }
        _ => false,
    }
}

/// Whether the target of an unfinished handshake is still the one that its SYN went to.
#[inline(always)]
fn is_current<A: Ip, T: Tables<A>>(tables: &T, slot: &Handshake<A>) -> bool {
    tables.target(slot.target).is_some_and(|target| target.incarnation == slot.incarnation)
}

/// A packet to a source address of ours: `None` if no unfinished handshake expects it.
#[inline(always)]
fn from_target<'t, A: Ip, T: Tables<A>>(
    tables: &'t T,
    control: &Control,
    now: u32,
    segment: &Segment,
    row: u32,
    scratch: &Scratch<A>,
) -> Option<Found<'t, A>> {
    let key = &scratch.key;
    let slot = match handshake::find_by_source(tables, control, key, row) {
        Ok(slot) => slot?,
        Err(verdict) => return Some(Found::Verdict(verdict)),
    };
    slot.seen = now;
    if key.protocol == abi::UDP {
        return Some(Found::Promote(slot));
    }
    let opens = tcp_flags::SYN | tcp_flags::ACK;
    if segment.flags & opens == opens {
        if slot.state == SYN_SENT {
            slot.state = SYN_RECEIVED;
        }
        slot.target_isn = segment.sequence;
    }
    let ends = handshake::target_resets(slot, segment);
    Some(Found::ToClient(slot, ends))
}
