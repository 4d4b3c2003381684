//! Clients and targets: connections that are opened, used and closed, packet by packet, and what each packet must lead
//! to.

use std::{net::SocketAddr, time::Duration};

use lb_common::{memory::Bytes, verdict::Verdict};
use lb_tests::packet::{Explained, Flags, Frame, explain};
use lb_userspace::config::model::Protocol;

use super::node::Node;

/// The interface that all packets come in by.
const INGRESS: u32 = 2;

/// One connection or UDP exchange, as client and target see it.
#[derive(Debug, Clone)]
pub(crate) struct Connection {
    pub(crate) service: String,
    pub(crate) group: String,
    pub(crate) protocol: Protocol,
    pub(crate) client: SocketAddr,
    pub(crate) vip: SocketAddr,
    /// What the balancer chose: its own end, and the target.
    pub(crate) snat: SocketAddr,
    pub(crate) target: SocketAddr,
    pub(crate) client_seq: u32,
    pub(crate) target_seq: u32,
    /// Time of its last packet.
    pub(crate) used: Duration,
    /// Something has happened that may end it: its target was taken away and the group says end, or it was idle too
    /// long.
    pub(crate) may_end: bool,
}

/// What became of a packet.
#[derive(Debug, Clone)]
pub(crate) struct Outcome {
    pub(crate) verdict: Verdict,
    pub(crate) explained: Option<Explained>,
}

impl Outcome {
    pub(crate) fn forwarded(&self) -> Option<(SocketAddr, SocketAddr)> {
        let explained = self.explained.as_ref()?;
        let ports = explained.ports?;
        matches!(self.verdict, Verdict::Transmitted | Verdict::Redirected).then(|| {
            (
                SocketAddr::new(explained.source, ports.source),
                SocketAddr::new(explained.destination, ports.destination),
            )
        })
    }
}

/// Sends one packet; what comes out is right down to its checksums.
pub(crate) fn send(node: &mut Node, frame: &Frame) -> Outcome {
    let before = node.plane.memory.verdicts();
    let sent = frame.bytes().expect("a frame can be built");
    let mut bytes = Bytes { bytes: sent.clone(), ingress: INGRESS };
    let action = node.plane.receive(&mut bytes);
    // Every packet ends in one counted verdict.
    let mut expected = before;
    *expected.entry(action.verdict).or_default() += 1;
    assert_eq!(node.plane.memory.verdicts(), expected, "{frame:?}");
    let changed = match action.verdict.outcome() {
        lb_common::verdict::Outcome::Forwarded | lb_common::verdict::Outcome::Answered => true,
        lb_common::verdict::Outcome::Passed => {
            assert_eq!(bytes.bytes, sent, "a passed packet is untouched");
            false
        }
        lb_common::verdict::Outcome::Dropped => false,
    };
    let explained =
        changed.then(|| explain(&bytes.bytes).unwrap_or_else(|error| panic!("{error:#}: {frame:?}")));
    Outcome { verdict: action.verdict, explained }
}

/// A new connection's first packet, and the rest of its handshake if a target was chosen.
pub(crate) fn open(
    node: &mut Node,
    (service, group): (&str, &str),
    protocol: Protocol,
    client: SocketAddr,
    vip: SocketAddr,
    seq: u32,
) -> Result<Connection, Verdict> {
    let first = match protocol {
        Protocol::Tcp => Frame::tcp(client, vip, Flags::SYN).numbers(seq, 0),
        Protocol::Udp => Frame::udp(client, vip, b"question"),
    };
    let outcome = send(node, &first);
    let Some((snat, target)) = outcome.forwarded() else { return Err(outcome.verdict) };
    let mut connection = Connection {
        service: service.to_owned(),
        group: group.to_owned(),
        protocol,
        client,
        vip,
        snat,
        target,
        client_seq: seq.wrapping_add(1),
        target_seq: seq.wrapping_mul(31).wrapping_add(7),
        used: node.now,
        may_end: false,
    };
    // A retransmission goes where the first one went.
    let again = send(node, &first);
    assert_eq!(again.forwarded(), Some((snat, target)), "{:?} {connection:?}", again.verdict);
    match protocol {
        Protocol::Tcp => {
            let (isn, ack) = (connection.target_seq, connection.client_seq);
            let answer = send(node, &Frame::tcp(target, snat, Flags::SYN_ACK).numbers(isn, ack));
            assert_eq!(answer.forwarded(), Some((vip, client)), "{:?} {connection:?}", answer.verdict);
            connection.target_seq = isn.wrapping_add(1);
            let last = Frame::tcp(client, vip, Flags::ACK).numbers(ack, connection.target_seq);
            let last = send(node, &last);
            assert_eq!(last.forwarded(), Some((snat, target)), "{:?} {connection:?}", last.verdict);
        }
        Protocol::Udp => {
            let answer = send(node, &Frame::udp(target, snat, b"answer"));
            assert_eq!(answer.forwarded(), Some((vip, client)), "{:?} {connection:?}", answer.verdict);
        }
    }
    Ok(connection)
}

/// What became of an established connection's packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It went where the connection's packets go.
    Delivered,
    /// The way to the target is not known: the connection stays.
    Waits,
    /// The connection is over.
    Over(Verdict),
}

impl Connection {
    /// The client sends something; the target answers if it came through.
    pub(crate) fn exchange(&mut self, node: &mut Node, data: &[u8]) -> Fate {
        let frame = match self.protocol {
            Protocol::Tcp => Frame::tcp(self.client, self.vip, Flags::ACK)
                .numbers(self.client_seq, self.target_seq)
                .data(data),
            Protocol::Udp => Frame::udp(self.client, self.vip, data),
        };
        match self.send_to_target(node, &frame) {
            Fate::Delivered => {}
            other => return other,
        }
        self.client_seq = self.client_seq.wrapping_add(data.len() as u32);
        let frame = match self.protocol {
            Protocol::Tcp => Frame::tcp(self.target, self.snat, Flags::ACK)
                .numbers(self.target_seq, self.client_seq)
                .data(data),
            Protocol::Udp => Frame::udp(self.target, self.snat, data),
        };
        self.target_seq = self.target_seq.wrapping_add(data.len() as u32);
        self.send_to_client(node, &frame)
    }

    /// Both sides of a TCP connection close, the client first; or the client resets it.
    pub(crate) fn close(&mut self, node: &mut Node, reset: bool) -> Fate {
        let flags = if reset { Flags::RST } else { Flags::FIN_ACK };
        let frame = Frame::tcp(self.client, self.vip, flags).numbers(self.client_seq, self.target_seq);
        let fate = self.send_to_target(node, &frame);
        if reset || fate != Fate::Delivered {
            return fate;
        }
        self.client_seq = self.client_seq.wrapping_add(1);
        let frame =
            Frame::tcp(self.target, self.snat, Flags::FIN_ACK).numbers(self.target_seq, self.client_seq);
        let fate = self.send_to_client(node, &frame);
        if fate != Fate::Delivered {
            return fate;
        }
        self.target_seq = self.target_seq.wrapping_add(1);
        let frame = Frame::tcp(self.client, self.vip, Flags::ACK).numbers(self.client_seq, self.target_seq);
        self.send_to_target(node, &frame)
    }

    fn send_to_target(&mut self, node: &mut Node, frame: &Frame) -> Fate {
        self.judge(&send(node, frame), node.now, |connection| (connection.snat, connection.target))
    }

    fn send_to_client(&mut self, node: &mut Node, frame: &Frame) -> Fate {
        self.judge(&send(node, frame), node.now, |connection| (connection.vip, connection.client))
    }

    fn judge(
        &mut self,
        outcome: &Outcome,
        now: Duration,
        ends: impl Fn(&Self) -> (SocketAddr, SocketAddr),
    ) -> Fate {
        match outcome.forwarded() {
            Some(found) if found == ends(self) => {
                self.used = now;
                Fate::Delivered
            }
            // A UDP exchange whose target was taken away is chosen another.
            Some((snat, target))
                if self.protocol == Protocol::Udp && self.may_end && target != self.client =>
            {
                (self.snat, self.target, self.used) = (snat, target, now);
                Fate::Over(outcome.verdict)
            }
            Some(found) => panic!("sent to {found:?}, not to {:?}: {self:?}", ends(self)),
            None if outcome.verdict == Verdict::DropNextHopUnresolved => Fate::Waits,
            None => Fate::Over(outcome.verdict),
        }
    }
}
