//! What became of a packet: one enum whose value is the counter's index.

/// What became of a packet. The discriminant is the row of the `VERDICTS` map, so its order is part of the ABI:
/// new ones go to the end.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
#[repr(u32)]
pub enum Verdict {
    /// Passed: not IPv4 or IPv6.
    PassNotIp = 0,
    /// Passed: to no address of ours.
    PassNotOurs = 1,
    /// Passed: to an address of ours, but the host's own business (its connections, neighbour discovery, other ICMP).
    PassHost = 2,
    /// Forwarded out of the interface it came in by.
    Transmitted = 3,
    /// Forwarded out of another interface.
    Redirected = 4,
    /// Answered: an echo request to a VIP.
    AnsweredEcho = 5,
    /// Answered with a TCP reset: no target can take the flow, its target was taken away, or no flow is known.
    AnsweredReset = 6,
    /// Answered with port unreachable: no target can take the UDP flow.
    AnsweredUnreachable = 7,
    /// Dropped: a header is cut short or contradicts itself.
    DropMalformed = 8,
    /// Dropped: a fragment.
    DropFragment = 9,
    /// Dropped: IPv4 options or an IPv6 extension header.
    DropUnsupportedHeader = 10,
    /// Dropped: neither TCP, UDP nor ICMP.
    DropUnknownProtocol = 11,
    /// Dropped: no service on this port of the VIP.
    DropUndeclaredPort = 12,
    /// Dropped: the service does not allow the source.
    DropAccessDenied = 13,
    /// Dropped: the source was allowed when the flow began and no longer is, or its service is gone.
    DropAccessRevoked = 14,
    /// Dropped: no target can take the flow, and the group says drop.
    DropNoTarget = 15,
    /// Dropped: the flow's target was taken away.
    DropFlowEnded = 16,
    /// Dropped: neither the start of a flow nor part of a known one.
    DropNoFlow = 17,
    /// Dropped: no free source port towards the target.
    DropSnatExhausted = 18,
    /// Dropped: the flow table holds as many live flows as it may.
    DropFlowTableFull = 19,
    /// Dropped: the next hop has no link-layer address.
    DropNextHopUnresolved = 20,
    /// Dropped: time to live or hop limit ran out.
    DropTtlExceeded = 21,
    /// Dropped: longer than the next hop's MTU.
    DropTooBig = 22,
    /// Dropped: another processor holds the handshake's slot.
    DropContended = 23,
    /// Dropped: a map or program of ours is missing or refused an operation; a defect, never traffic's fault.
    DropInternal = 24,
}

impl Verdict {
    /// Number of verdicts, and of rows of the `VERDICTS` map.
    pub const COUNT: u32 = 25;

    /// All of them, in the order of their rows.
    pub const ALL: [Self; Self::COUNT as usize] = [
        Self::PassNotIp,
        Self::PassNotOurs,
        Self::PassHost,
        Self::Transmitted,
        Self::Redirected,
        Self::AnsweredEcho,
        Self::AnsweredReset,
        Self::AnsweredUnreachable,
        Self::DropMalformed,
        Self::DropFragment,
        Self::DropUnsupportedHeader,
        Self::DropUnknownProtocol,
        Self::DropUndeclaredPort,
        Self::DropAccessDenied,
        Self::DropAccessRevoked,
        Self::DropNoTarget,
        Self::DropFlowEnded,
        Self::DropNoFlow,
        Self::DropSnatExhausted,
        Self::DropFlowTableFull,
        Self::DropNextHopUnresolved,
        Self::DropTtlExceeded,
        Self::DropTooBig,
        Self::DropContended,
        Self::DropInternal,
    ];

    /// What happens to the packet.
    #[inline(always)]
    pub const fn outcome(self) -> Outcome {
        match self {
            Self::PassNotIp | Self::PassNotOurs | Self::PassHost => Outcome::Passed,
            Self::Transmitted | Self::Redirected => Outcome::Forwarded,
            Self::AnsweredEcho | Self::AnsweredReset | Self::AnsweredUnreachable => Outcome::Answered,
            _ => Outcome::Dropped,
        }
    }

    /// The reason's name in the API and the metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::PassNotIp => "not_ip",
            Self::PassNotOurs => "not_ours",
            Self::PassHost => "host",
            Self::Transmitted => "transmitted",
            Self::Redirected => "redirected",
            Self::AnsweredEcho => "echo",
            Self::AnsweredReset => "reset",
            Self::AnsweredUnreachable => "unreachable",
            Self::DropMalformed => "malformed",
            Self::DropFragment => "fragment",
            Self::DropUnsupportedHeader => "unsupported_header",
            Self::DropUnknownProtocol => "unknown_protocol",
            Self::DropUndeclaredPort => "undeclared_port",
            Self::DropAccessDenied => "access_denied",
            Self::DropAccessRevoked => "access_revoked",
            Self::DropNoTarget => "no_target",
            Self::DropFlowEnded => "flow_ended",
            Self::DropNoFlow => "no_flow",
            Self::DropSnatExhausted => "snat_exhausted",
            Self::DropFlowTableFull => "flow_table_full",
            Self::DropNextHopUnresolved => "next_hop_unresolved",
            Self::DropTtlExceeded => "ttl_exceeded",
            Self::DropTooBig => "too_big",
            Self::DropContended => "contended",
            Self::DropInternal => "internal",
        }
    }

    /// One sentence for people.
    pub const fn description(self) -> &'static str {
        match self {
            Self::PassNotIp => "neither IPv4 nor IPv6; passed to the host",
            Self::PassNotOurs => "to no address of Portside's; passed to the host",
            Self::PassHost => "to an address of Portside's but the host's own business; passed to the host",
            Self::Transmitted => "forwarded out of the interface it came in by",
            Self::Redirected => "forwarded out of another interface",
            Self::AnsweredEcho => "an echo request to a VIP, answered",
            Self::AnsweredReset => "answered with a TCP reset",
            Self::AnsweredUnreachable => "answered with port unreachable",
            Self::DropMalformed => "a header is cut short or contradicts itself",
            Self::DropFragment => "a fragment",
            Self::DropUnsupportedHeader => "IPv4 options or an IPv6 extension header",
            Self::DropUnknownProtocol => "neither TCP, UDP nor ICMP",
            Self::DropUndeclaredPort => "no service on this port of the VIP",
            Self::DropAccessDenied => "the service does not allow the source",
            Self::DropAccessRevoked => "the flow's source is no longer allowed, or its service is gone",
            Self::DropNoTarget => "no target can take the flow",
            Self::DropFlowEnded => "the flow's target was taken away",
            Self::DropNoFlow => "neither the start of a flow nor part of a known one",
            Self::DropSnatExhausted => "no free source port towards the target",
            Self::DropFlowTableFull => "the flow table holds as many live flows as it may",
            Self::DropNextHopUnresolved => "the next hop has no link-layer address",
            Self::DropTtlExceeded => "time to live or hop limit ran out",
            Self::DropTooBig => "longer than the next hop's MTU",
            Self::DropContended => "another processor was at work on the same handshake",
            Self::DropInternal => "a map or program is missing; a defect",
        }
    }
}

/// The four things that can happen to a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Outcome {
    /// Left to the host's own stack.
    Passed,
    /// Sent on to a target or a client.
    Forwarded,
    /// Turned into an answer to its sender.
    Answered,
    /// Gone.
    Dropped,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_in_order_and_names_are_unique() {
        let mut names = std::collections::BTreeSet::new();
        for (row, verdict) in Verdict::ALL.iter().enumerate() {
            assert_eq!(*verdict as usize, row);
            assert!(names.insert(verdict.name()), "{} twice", verdict.name());
        }
    }
}
