//! The packet path: a sequence of packets, clock ticks and policy changes through the whole pipeline, on tables in memory.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
};

use lb_common::{
    abi::{FlowKey, TCP, UDP, flow_flags, target_flags},
    addr::{Ip, Port, V4, V6},
    memory::{Bytes, Family, Memory},
    pipeline::{self, Action, flow::twin_key, reclaim},
    tables::Tables,
    verdict::{Outcome, Verdict},
};

use crate::{
    frames::{self, Read, Spec, flags},
    world::{self, INTERFACES, PORTS, TARGETS},
};

/// Longest frame made or taken.
const MAX_FRAME: usize = 1700;
/// Most steps of one input.
const MAX_STEPS: usize = 96;

/// Reads the input as a sequence of steps, each a byte that says what it is and a few that say how, and holds every
/// packet's end to what the design promises: one verdict counted, nothing but headers changed, checksums kept right,
/// nobody served who may not be, no reply to another client than the one that asked.
pub fn packet(data: &[u8]) {
    let mut input = Input(data);
    let mut state = State { memory: world::world(), last: None, to_target: None, owners: HashMap::new() };
    for _ in 0..MAX_STEPS {
        let Some(step) = input.byte() else { break };
        match step % 8 {
            0 => state.raw(&mut input),
            1 | 2 => state.client_sends(&mut input),
            3 => state.target_answers(&mut input),
            4 => state.damaged(&mut input),
            5 => state.time(&mut input),
            6 => state.policy(&mut input),
            _ => state.cut(&mut input),
        }
    }
    state.flows_hold();
}

/// The input, taken from its front; what is missing at its end is zero.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn next(&mut self) -> u8 {
        self.byte().unwrap_or(0)
    }

    fn pair(&mut self) -> u16 {
        u16::from_be_bytes([self.next(), self.next()])
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken.to_vec()
    }
}

/// The ends of a flow as the target sees it: target, source address and port, protocol.
type Outer = (SocketAddr, SocketAddr, bool);

struct State {
    memory: Memory,
    /// The last frame sent in.
    last: Option<Bytes>,
    /// The last frame that went to a target.
    to_target: Option<Read>,
    /// Whose flow each tuple towards a target is: the client and the VIP.
    owners: HashMap<Outer, (SocketAddr, SocketAddr)>,
}

impl State {
    /// Any bytes as a frame.
    fn raw(&mut self, input: &mut Input<'_>) {
        let (ingress, length) = (input.next(), usize::from(input.pair()) % MAX_FRAME);
        let bytes = input.bytes(length);
        self.send(Bytes { bytes, ingress: INTERFACES[usize::from(ingress % 2)] });
    }

    /// A client's packet to the VIP.
    fn client_sends(&mut self, input: &mut Input<'_>) {
        let (who, what, flags) = (input.next(), input.next(), input.next());
        let v6 = who & 0x80 != 0;
        let port = PORTS[usize::from(what & 7) % PORTS.len()];
        let tail = input.next();
        let spec = Spec {
            from: SocketAddr::new(world::client(v6, who & 0xf), 1000 + u16::from(who >> 4 & 7)),
            to: SocketAddr::new(world::vip(v6), port),
            tcp: what & 8 == 0,
            flags,
            sequence: u32::from(what >> 4) * 1000,
            // What a target's SYN-ACK of sequence 0 is acknowledged with, or not.
            acknowledgement: u32::from(tail & 3),
            ttl: if tail & 4 == 0 { 64 } else { tail >> 4 & 3 },
            payload: usize::from(tail >> 3) * usize::from(flags & 0x40 != 0) * 8,
        };
        let interface = INTERFACES[usize::from(tail >> 7)];
        self.send_built(&spec, interface);
    }

    /// What the last target reached answers.
    fn target_answers(&mut self, input: &mut Input<'_>) {
        let (flags, tail) = (input.next(), input.next());
        let Some(Read { from, to, tcp, sequence, .. }) = self.to_target.as_ref() else { return };
        let spec = Spec {
            from: *to,
            to: *from,
            tcp: *tcp,
            flags,
            sequence: u32::from(tail >> 4),
            acknowledgement: sequence.wrapping_add(1),
            ttl: if tail & 4 == 0 { 64 } else { 1 },
            payload: usize::from(tail & 3) * 40,
        };
        self.send_built(&spec, INTERFACES[usize::from(tail >> 3 & 1)]);
    }

    /// The last frame once more with one byte changed.
    fn damaged(&mut self, input: &mut Input<'_>) {
        let (place, change) = (usize::from(input.pair()), input.next());
        let Some(mut frame) = self.last.clone() else { return };
        if let Some(byte) = frame.bytes.get_mut(place % 128) {
            *byte ^= change;
        }
        self.send(frame);
    }

    /// The last frame once more, cut short or lengthened.
    fn cut(&mut self, input: &mut Input<'_>) {
        let length = usize::from(input.pair()) % MAX_FRAME;
        let Some(mut frame) = self.last.clone() else { return };
        frame.bytes.resize(length.min(frame.bytes.len() + 20), 0);
        self.send(frame);
    }

    /// Time goes on, and the agent may sweep.
    fn time(&mut self, input: &mut Input<'_>) {
        let (ticks, sweep) = (input.next(), input.next());
        let now = self.memory.clock.get();
        self.memory.clock.set(now.wrapping_add(u32::from(ticks) * 2));
        reclaim::sweep::<V4, _>(&self.memory, u32::from(sweep & 0xf));
        reclaim::sweep::<V6, _>(&self.memory, u32::from(sweep >> 4));
    }

    /// Another policy: generation and epoch move on together; a target changes.
    fn policy(&mut self, input: &mut Input<'_>) {
        let (what, row) = (input.next(), 1 + usize::from(input.next()) % (2 * TARGETS as usize));
        let control = &mut self.memory.control;
        if what & 1 != 0 {
            control.generation ^= 1;
        }
        control.epoch = control.epoch.wrapping_add(1);
        let target = &mut self.memory.targets[row];
        target.flags = u32::from(what >> 1)
            & (target_flags::END_TCP | target_flags::END_UDP | target_flags::NO_NEW_FLOWS);
        if what & 0x10 != 0 {
            target.incarnation += 1;
        }
        if what & 0x20 != 0 {
            self.memory.next_hops[row].ifindex = 0;
        }
    }

    fn send_built(&mut self, spec: &Spec, ingress: u32) {
        if let Some(bytes) = frames::build(spec) {
            self.send(Bytes { bytes, ingress });
        }
    }

    fn send(&mut self, frame: Bytes) {
        if frame.bytes.len() > MAX_FRAME {
            return;
        }
        let before = self.memory.verdicts();
        let established = self.established(&frame.bytes);
        let mut after = frame.clone();
        let action = pipeline::run(&mut after, &self.memory);
        self.counted_once(&before, action.verdict);
        match action.verdict.outcome() {
            Outcome::Passed => assert_eq!(frame, after, "the host sees another packet than came"),
            Outcome::Dropped => {}
            Outcome::Forwarded => self.forwarded(&frame, &after, action, established),
            Outcome::Answered => answered(&frame, &after),
        }
        self.last = Some(frame);
    }

    fn counted_once(&self, before: &HashMap<Verdict, u64>, verdict: Verdict) {
        // One processor, complete tables: neither can be.
        assert!(!matches!(verdict, Verdict::DropInternal | Verdict::DropContended), "{verdict:?}");
        let mut expected = before.clone();
        *expected.entry(verdict).or_default() += 1;
        assert_eq!(self.memory.verdicts(), expected);
    }

    fn forwarded(&mut self, before: &Bytes, after: &Bytes, action: Action, established: bool) {
        assert_eq!(before.bytes.len(), after.bytes.len());
        assert!(action.verdict != Verdict::Redirected || INTERFACES.contains(&action.ifindex));
        let (Some(old), Some(new)) = (frames::read(&before.bytes), frames::read(&after.bytes)) else {
            // The other reader is stricter about lengths; then neither takes the packet.
            assert_eq!(frames::read(&before.bytes).is_some(), frames::read(&after.bytes).is_some());
            return;
        };
        assert_eq!((new.tcp, new.flags, new.sequence), (old.tcp, old.flags, old.sequence));
        assert_eq!((new.ttl, &new.payload), (old.ttl - 1, &old.payload));
        assert!(new.valid || !old.valid, "a right checksum was made wrong: {old:?} became {new:?}");
        assert!(
            old.valid || !new.valid || !old.tcp,
            "a wrong checksum was made right: {old:?} became {new:?}"
        );
        let v6 = old.to.is_ipv6();
        if old.to.ip() == world::vip(v6) {
            self.went_to_target(&old, new, v6);
        } else {
            self.went_to_client(&old, &new, v6, established);
        }
    }

    fn went_to_target(&mut self, old: &Read, new: Read, v6: bool) {
        assert!((0..2).any(|row| world::source(v6, row) == new.from.ip()), "{new:?}");
        let rows = 1 + u32::from(v6) * TARGETS..1 + u32::from(v6) * TARGETS + TARGETS;
        let is_target = rows.clone().any(|row| world::target(v6, row) == (new.to.ip(), new.to.port()));
        assert!(is_target, "sent to no target: {new:?}");
        assert!(self.allowed(old.from.ip(), old.to, old.tcp), "served although not allowed: {old:?}");
        let owner = (old.from, old.to);
        let before = self.owners.insert((new.to, new.from, new.tcp), owner);
        let opens = !new.tcp || new.flags & (flags::SYN | flags::ACK) == flags::SYN;
        assert!(
            before.is_none_or(|before| before == owner) || opens,
            "two flows on one tuple: {before:?}, {owner:?}"
        );
        self.to_target = Some(new);
    }

    fn went_to_client(&mut self, old: &Read, new: &Read, v6: bool, established: bool) {
        assert_eq!(new.from.ip(), world::vip(v6));
        // What answers a flow's first packet was allowed with it; the flow's next packet is checked.
        let allowed = !established || self.allowed(new.to.ip(), new.from, new.tcp);
        assert!(allowed, "answered although not allowed: {new:?}");
        let owner = self.owners.get(&(old.from, old.to, old.tcp));
        assert_eq!(
            owner,
            Some(&(new.to, new.from)),
            "a reply went to another client: {old:?} became {new:?}"
        );
    }

    /// Whether the frame belongs to an established flow.
    fn established(&self, frame: &[u8]) -> bool {
        let Some(Read { from, to, tcp, .. }) = frames::read(frame) else { return false };
        let (sport, dport) = (Port::new(from.port()), Port::new(to.port()));
        let protocol = if tcp { TCP } else { UDP };
        match (from.ip(), to.ip()) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let key = FlowKey { src: V4::from(src), dst: V4::from(dst), sport, dport, protocol };
                self.memory.flow(&key).is_some()
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let key = FlowKey { src: V6::from(src), dst: V6::from(dst), sport, dport, protocol };
                self.memory.flow(&key).is_some()
            }
            _ => false,
        }
    }

    /// What the policy in force says.
    fn allowed(&self, client: IpAddr, vip: SocketAddr, tcp: bool) -> bool {
        let service = match (vip.port(), tcp) {
            (port, true) if port == PORTS[0] => 1,
            (port, false) if port == PORTS[1] => 2,
            // The others have no target.
            _ => return false,
        };
        let generation = self.memory.control.generation;
        match client {
            IpAddr::V4(client) => Tables::<V4>::allowed(&self.memory, generation, service, V4::from(client)),
            IpAddr::V6(client) => Tables::<V6>::allowed(&self.memory, generation, service, V6::from(client)),
        }
    }

    /// At the end: the table holds whole flows, no more than it may, and they are counted.
    fn flows_hold(&mut self) {
        let open = family_holds(&mut self.memory.v4) + family_holds(&mut self.memory.v6);
        let counters: Vec<_> = (0..16).map(|row| self.memory.service_counters(row)).collect();
        let (opened, closed) =
            counters.iter().fold((0, 0), |sum, row| (sum.0 + row.opened, sum.1 + row.closed));
        assert_eq!(opened - closed, open, "the count of open flows is wrong");
    }
}

/// Checks one family's flow table; how many flows in it are open.
fn family_holds<A: Ip + std::hash::Hash>(family: &mut Family<A>) -> u64 {
    let flows: HashMap<_, _> = family.flows().into_iter().collect();
    assert!(flows.len() <= family.flow_limit);
    for (key, flow) in &flows {
        let twin = flows.get(&twin_key(flow, key.protocol));
        if flow.flags & flow_flags::REVERSE == 0 {
            let twin = twin.expect("a forward entry has its reverse one");
            assert!(twin.flags & flow_flags::REVERSE != 0);
            assert_eq!((twin.service, twin.target, twin.ring), (flow.service, flow.target, flow.ring));
        }
    }
    flows
        .values()
        .filter(|flow| flow.flags & flow_flags::REVERSE != 0 && flow.flags & flow_flags::ENDED == 0)
        .count() as u64
}

/// An answer goes back where the packet came from, with right checksums, and is not longer than a minimal MTU.
fn answered(before: &Bytes, after: &Bytes) {
    assert_eq!(before.bytes.get(0..6), after.bytes.get(6..12), "from another link-layer address");
    assert_eq!(before.bytes.get(6..12), after.bytes.get(0..6), "to another link-layer address");
    if let (Some(old), Some(new)) = (frames::read(&before.bytes), frames::read(&after.bytes)) {
        assert_eq!((old.from, old.to), (new.to, new.from));
        assert!(new.valid, "a wrong checksum: {new:?}");
        assert_eq!((new.flags & flags::RST, new.payload.len()), (flags::RST, 0));
    }
}
