//! The checked configuration: what the rest of the agent works with.
//!
//! Nothing here needs validating again: names referred to exist, lists that must not be empty are not, families
//! of a service and its targets agree, durations and sizes are in range.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use ipnet::IpNet;
use serde::Serialize;

/// One whole accepted configuration.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Config {
    /// Names of the interfaces whose receive path carries the program; at least one. The first one carries the VIPs.
    pub interfaces: Vec<String>,
    /// How the program may be attached.
    pub xdp_mode: XdpMode,
    /// Who makes a VIP reachable.
    pub vip_placement: VipPlacement,
    /// Where `nat` flows are sourced from.
    pub snat: Snat,
    /// Named sets of source prefixes.
    pub segments: BTreeMap<String, Vec<IpNet>>,
    /// What clients connect to, in the file's order; names are unique, and so is (address, protocol, port).
    pub services: Vec<Service>,
    /// Interchangeable targets, in the file's order; names are unique.
    pub groups: Vec<TargetGroup>,
    /// Idle expiry by protocol and state.
    pub timeouts: Timeouts,
    /// Sizes of the kernel's maps.
    pub limits: Limits,
    /// Where the API listens.
    pub api: Api,
}

/// How the program may be attached to an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum XdpMode {
    /// In the driver, or not at all.
    Native,
    /// In the driver; where the driver cannot, in the kernel's generic hook, logged and shown in status.
    NativeOrGeneric,
    /// In the kernel's generic hook.
    Generic,
}

/// Who makes a VIP reachable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum VipPlacement {
    /// The agent puts it on the first interface, announces it, and takes it off with its service.
    Interface,
    /// The operator routes it to this node.
    Routed,
}

/// The source addresses and ports of `nat` flows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Snat {
    /// Source addresses of IPv4 flows; not empty if an IPv4 service has a `nat` group.
    pub ipv4: Vec<Ipv4Addr>,
    /// Source addresses of IPv6 flows; not empty if an IPv6 service has a `nat` group.
    pub ipv6: Vec<Ipv6Addr>,
    /// Source ports, for each address.
    pub ports: PortRange,
}

/// An inclusive range of ports, in host order; `first <= last`, `first >= 1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct PortRange {
    /// The lowest port.
    pub first: u16,
    /// The highest port.
    pub last: u16,
}

/// What clients connect to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Service {
    /// Unique name.
    pub name: String,
    /// The virtual address.
    pub address: IpAddr,
    /// Its protocol.
    pub protocol: Protocol,
    /// Its port, in host order.
    pub port: u16,
    /// The name of the target group that new flows go to.
    pub group: String,
    /// Who may connect; a source that no prefix matches may not. Each prefix occurs once and is of the
    /// address's family; `any` has become the zero-length prefix; the longest matching prefix decides.
    pub access: Vec<AccessRule>,
}

/// One prefix's permission.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AccessRule {
    /// The sources meant.
    pub prefix: IpNet,
    /// Whether they may connect.
    pub allow: bool,
    /// The segment that the prefix was written through, if any.
    pub segment: Option<String>,
}

/// A transport protocol.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    serde::Deserialize,
    schemars::JsonSchema,
    strum::Display,
)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub enum Protocol {
    /// RFC 9293.
    Tcp,
    /// RFC 768.
    Udp,
}

/// A named set of interchangeable targets.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TargetGroup {
    /// Unique name.
    pub name: String,
    /// How packets reach the targets.
    pub mode: Mode,
    /// The targets, at least one, all of one family; (address, port) is unique within the group.
    pub targets: Vec<Target>,
    /// How readiness is proved; `None` takes every target for healthy.
    pub health: Option<HealthCheck>,
    /// What becomes of established flows whose target is down or gone.
    pub on_target_down: OnTargetDown,
    /// What becomes of new flows when no target can take them.
    pub on_all_down: OnAllDown,
    /// How long a draining target may keep its flows before they are ended.
    pub drain_deadline: Duration,
    /// Slots of the group's Maglev table: a prime number.
    pub table_slots: u32,
}

/// A forwarding mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Both endpoints rewritten; replies come back through the balancer.
    Nat,
}

/// One address and port that does the work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Target {
    /// Unique within the group; `address:port` when the file gives none.
    pub name: String,
    /// Where it is.
    pub address: IpAddr,
    /// The port it serves on, in host order.
    pub port: u16,
    /// Failure domain.
    pub zone: Option<String>,
    /// Share of new flows relative to the group's other targets, 0 to 1000; 0 takes none.
    pub weight: u32,
}

/// What becomes of established flows whose target is down or was removed, per protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct OnTargetDown {
    /// TCP flows (default keep).
    pub tcp: EstablishedFlows,
    /// UDP flows (default end).
    pub udp: EstablishedFlows,
}

/// What becomes of an established flow whose target is down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum EstablishedFlows {
    /// It stays with its target.
    Keep,
    /// TCP is answered with a reset at its next packet, of either side; UDP is chosen a target anew.
    End,
}

/// What becomes of a new flow when no target of the group can take it.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Serialize, serde::Deserialize, schemars::JsonSchema, strum::Display,
)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub enum OnAllDown {
    /// Answered: TCP with a reset, UDP with port unreachable.
    Reject,
    /// Dropped and counted.
    Drop,
    /// Sent to the targets as if they were all up.
    Open,
}

/// How readiness is proved.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct HealthCheck {
    /// What is asked of the target.
    pub probe: Probe,
    /// The port asked, where it is not the target's own.
    pub port: Option<u16>,
    /// Time between two checks of a settled target (default 2 s).
    pub interval: Duration,
    /// Time between two checks while the verdict is changing; at most `interval` (default: `interval`).
    pub transition_interval: Duration,
    /// Longest time one check may take; at most `interval` (default 1 s).
    pub timeout: Duration,
    /// Successes in a row that make a target up (default 2).
    pub rise: u32,
    /// Failures in a row that make a target down (default 3).
    pub fall: u32,
}

/// What is asked of the target.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "lowercase", tag = "kind")]
pub enum Probe {
    /// A connection is accepted.
    Tcp,
    /// An HTTP/1.1 request is answered as expected.
    Http(HttpProbe),
    /// The same over TLS.
    Https {
        /// The request and what is expected of the answer.
        http: HttpProbe,
        /// How the server proves who it is.
        tls: TlsProbe,
    },
}

/// An HTTP request and what is expected of its answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct HttpProbe {
    /// Request method, a token (default GET).
    pub method: String,
    /// Path and query, beginning with a slash (default `/`).
    pub path: String,
    /// The `Host` header; the target's `address:port` when `None`.
    pub host: Option<String>,
    /// Further headers.
    pub headers: Vec<(String, String)>,
    /// Inclusive ranges of status codes taken for healthy (default 200-399).
    pub expect_status: Vec<(u16, u16)>,
    /// A regular expression that the first 64 KiB of the body must match (already compiled once when checked).
    pub expect_body: Option<String>,
}

/// How an HTTPS server proves who it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TlsProbe {
    /// The name sent (SNI) and verified; the target's address when `None`.
    pub server_name: Option<String>,
    /// How the certificate is verified.
    pub verify: TlsVerify,
}

/// How a certificate is verified.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum TlsVerify {
    /// Against the host's trusted roots.
    System,
    /// Against the certificates of this PEM file.
    CaFile(PathBuf),
    /// Not at all.
    None,
}

/// Idle expiry by protocol and state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Timeouts {
    /// A TCP handshake not yet finished (default 30 s).
    pub tcp_handshake: Duration,
    /// An established TCP connection without packets (default 350 s).
    pub tcp_established: Duration,
    /// A TCP connection of which one side has closed (default 120 s).
    pub tcp_closing: Duration,
    /// A closed TCP connection whose target may still hold it in TIME_WAIT: its port is not used again (default 66 s).
    pub tcp_time_wait: Duration,
    /// A UDP exchange that was not answered yet (default 30 s).
    pub udp_unanswered: Duration,
    /// A UDP exchange that was answered (default 120 s).
    pub udp_established: Duration,
}

/// Sizes of the kernel's maps; fixed while the maps live.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Limits {
    /// Flows, for each address family (default 262144).
    pub flows: u32,
    /// Services (default 1024).
    pub services: u32,
    /// Targets over all groups, those still holding flows of removed ones included (default 4096).
    pub targets: u32,
    /// Target groups (default 256).
    pub groups: u32,
    /// Access prefixes over all services, for each family (default 16384).
    pub access_prefixes: u32,
    /// Routes and neighbours that replies to clients may use, for each family (default 16384).
    pub client_routes: u32,
}

/// Where the API listens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Api {
    /// A loopback address that serves the read-only part of the API.
    pub listen: Option<SocketAddr>,
}
