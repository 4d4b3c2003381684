//! The file's shape, key by key. The first line of each key's documentation is what the JSON Schema shows.

use serde_json::json;

use super::{
    fault::{Collector, Place},
    model::{EstablishedFlows, Mode, OnAllDown, Protocol, VipPlacement, XdpMode},
    read::{At, Definitions, Dictionary, Read, record},
    scalar::{
        Address, Address4, Address6, FilePath, HeaderName, HeaderValue, HostText, InterfaceName, Listen,
        Method, Name, Pattern, Port, Ports, Prefix, RequestPath, SegmentName, ServerNameText, Source,
        Statuses, Time, Verify, Whole,
    },
    tree::{Node, Value},
};

record! {
    /// The whole file.
    Document {
        /// The interfaces whose receive path carries the program; the first one carries the VIPs.
        required interfaces: Vec<At<InterfaceName>>,
        /// How the program may be attached (default native): in the driver, in the driver or else in the kernel's
        /// slower generic hook, or in the generic hook.
        optional xdp: XdpMode,
        /// Who makes a VIP reachable (default interface): the agent puts it on the first interface, or the operator
        /// routes it to this node.
        optional vips: VipPlacement,
        /// The source addresses and ports that flows to targets of `nat` groups have.
        optional snat: Snat,
        /// Named sets of source prefixes, to be used in `allow` and `deny`.
        optional segments: Dictionary<SegmentName, Vec<At<Prefix>>>,
        /// What clients connect to.
        required services: Vec<At<Service>>,
        /// Named sets of interchangeable targets.
        required groups: Vec<At<Group>>,
        /// How long a flow may be idle, by protocol and state.
        optional timeouts: Timeouts,
        /// Sizes of the kernel's maps, which keep them while they live.
        optional limits: Limits,
        /// Where the API listens beside its Unix socket.
        optional api: Api,
    }
}

record! {
    /// The source addresses and ports that flows to targets of `nat` groups have.
    Snat {
        /// IPv4 addresses of this node; needed by IPv4 services.
        optional ipv4: Vec<At<Address4>>,
        /// IPv6 addresses of this node; needed by IPv6 services.
        optional ipv6: Vec<At<Address6>>,
        /// The ports used on each address; the host's own ephemeral ports must lie outside.
        required ports: Ports,
    }
}

record! {
    /// A virtual address (VIP), a protocol and a port, who may connect, and where to.
    Service {
        /// The service's name.
        required name: Name,
        /// The virtual address.
        required address: Address,
        /// The protocol.
        required protocol: Protocol,
        /// The port.
        required port: Port,
        /// Who may connect: segments and prefixes, or the word any. Nobody may without it. The longest prefix that
        /// holds the client's address decides.
        optional allow: Allow,
        /// Who of them may not, again as segments and prefixes.
        optional deny: Vec<At<Source>>,
        /// The name of the target group that connections go to.
        required group: Name,
    }
}

record! {
    /// A named set of interchangeable targets with one health check.
    Group {
        /// The group's name.
        required name: Name,
        /// How packets reach the targets (default nat): both endpoints are rewritten, replies come back this way.
        optional mode: Mode,
        /// The targets, all of one address family.
        required targets: Vec<At<Target>>,
        /// How readiness is proved. Without it every target counts as healthy.
        optional health: Health,
        /// What becomes of established flows whose target is down or was removed.
        optional on_target_down: OnTargetDown,
        /// What becomes of new flows when no target can take them (default reject): answered with a refusal,
        /// dropped, or sent to the targets as if they were all up.
        optional on_all_down: OnAllDown,
        /// How long a draining target may keep its flows (default 300s).
        optional drain_deadline: Time,
        /// Slots of the group's lookup table, a prime number (default 16381): more share flows out more exactly.
        optional table_slots: Whole<2, 131_071>,
    }
}

record! {
    /// One address and port that does the work.
    Target {
        /// The target's name within its group (default its address:port).
        optional name: Name,
        /// The address.
        required address: Address,
        /// The port it serves on.
        required port: Port,
        /// The failure domain it is in.
        optional zone: Name,
        /// Its share of new flows relative to the others' (default 1); 0 takes none.
        optional weight: Whole<0, 1000>,
    }
}

record! {
    /// A health check: exactly one of tcp, http and https, and how often.
    Health {
        /// A connection is accepted.
        optional tcp: TcpProbe,
        /// An HTTP/1.1 request is answered as expected.
        optional http: HttpProbe,
        /// The same over TLS.
        optional https: HttpProbe,
        /// How the server proves who it is, for https.
        optional tls: Tls,
        /// The port to ask, where it is not the target's own.
        optional port: Port,
        /// Time between two checks (default 2s).
        optional interval: Time,
        /// Time between two checks while the verdict is changing (default the interval).
        optional transition_interval: Time,
        /// Longest time one check may take (default 1s, or the interval if that is shorter).
        optional timeout: Time,
        /// Successes in a row that make a target up (default 2).
        optional rise: Whole<1, 100>,
        /// Failures in a row that make a target down (default 3).
        optional fall: Whole<1, 100>,
    }
}

record! {
    /// A connection is accepted; there is nothing to set.
    TcpProbe {}
}

record! {
    /// An HTTP/1.1 request and what is expected of its answer.
    HttpProbe {
        /// The method (default GET).
        optional method: Method,
        /// The path and query (default /).
        optional path: RequestPath,
        /// The Host header (default the target's address:port).
        optional host: HostText,
        /// Further headers.
        optional headers: Dictionary<HeaderName, HeaderValue>,
        /// Status codes and ranges of them that are healthy (default 200-399).
        optional expect_status: Vec<At<Statuses>>,
        /// A regular expression that the body's first 64 KiB must match.
        optional expect_body: Pattern,
    }
}

record! {
    /// How an HTTPS server proves who it is.
    Tls {
        /// The name that is sent and that the certificate must be for (default the target's address).
        optional server_name: ServerNameText,
        /// How the certificate is verified (default system): against the host's trusted roots, or not at all.
        optional verify: Verify,
        /// A PEM file with the certificates to verify against instead of the host's; an absolute path.
        /// Read again on SIGHUP and by every apply.
        optional ca_file: FilePath,
    }
}

record! {
    /// What becomes of established flows whose target is down or was removed, per protocol.
    OnTargetDown {
        /// TCP connections (default keep); end answers with a reset.
        optional tcp: EstablishedFlows,
        /// UDP exchanges (default end); end chooses a target anew.
        optional udp: EstablishedFlows,
    }
}

record! {
    /// How long a flow may be idle, by protocol and state.
    Timeouts {
        /// A TCP handshake not yet finished (default 30s).
        optional tcp_handshake: Time,
        /// An established TCP connection (default 350s).
        optional tcp_established: Time,
        /// A TCP connection of which one side has closed (default 120s).
        optional tcp_closing: Time,
        /// A closed TCP connection whose port is not used again yet; longer than the targets hold it in TIME_WAIT (default 66s).
        optional tcp_time_wait: Time,
        /// A UDP exchange that was not answered yet (default 30s).
        optional udp_unanswered: Time,
        /// A UDP exchange that was answered (default 120s).
        optional udp_established: Time,
    }
}

record! {
    /// Sizes of the kernel's maps, which keep them while they live.
    Limits {
        /// Flows, for each address family (default 262144).
        optional flows: Whole<1024, 16_777_216>,
        /// Services (default 1024).
        optional services: Whole<1, 65_536>,
        /// Targets over all groups, those still holding flows after their removal included (default 4096).
        optional targets: Whole<1, 65_536>,
        /// Target groups (default 256).
        optional groups: Whole<1, 4096>,
        /// Prefixes over all services, for each address family (default 16384).
        optional access_prefixes: Whole<1, 1_048_576>,
        /// Routes and neighbours that replies to clients may use, for each family (default 16384).
        optional client_routes: Whole<1, 1_048_576>,
    }
}

record! {
    /// Where the API listens beside its Unix socket.
    Api {
        /// A loopback address and port that serve the read-only part of the API.
        optional listen: Listen,
    }
}

/// Who may connect.
#[derive(Debug)]
pub(super) enum Allow {
    /// Everybody.
    Any,
    /// These.
    Sources(Vec<At<Source>>),
}

impl Read for Allow {
    fn read(node: &Node, place: &Place, faults: &mut Collector) -> Option<Self> {
        match &node.value {
            Value::Text(word) if word == "any" => Some(Self::Any),
            Value::List(_) => Vec::read(node, place, faults).map(Self::Sources),
            other => {
                faults.fault(
                    place,
                    format!("is {}; give a list of segments and prefixes, or the word any", other.kind()),
                );
                None
            }
        }
    }

    fn schema(definitions: &mut Definitions) -> serde_json::Value {
        json!({ "anyOf": [{ "const": "any" }, <Vec<At<Source>> as Read>::schema(definitions)] })
    }
}
