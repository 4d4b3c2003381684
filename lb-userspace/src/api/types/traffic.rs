//! Services, target groups, and what became of their packets.

use std::net::IpAddr;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{EstablishedFlows, OnAllDown, Protocol};

/// Packets, bytes and flows, counted by the program since its maps were made.
///
/// `in` is from clients to targets, `out` from targets to clients; bytes are those of whole frames.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TrafficCounters {
    /// Packets from clients.
    pub packets_in: u64,
    /// Bytes from clients.
    pub bytes_in: u64,
    /// Packets from targets.
    pub packets_out: u64,
    /// Bytes from targets.
    pub bytes_out: u64,
    /// Flows admitted.
    pub new_flows: u64,
    /// Flows that are open now; a closed one whose source port rests is not counted.
    pub active_flows: u64,
}

/// What clients connect to. `GET /v1/services`, `GET /v1/services/{service}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ServiceView {
    /// Unique name.
    pub name: String,
    /// The virtual address.
    pub address: IpAddr,
    /// Its protocol.
    pub protocol: Protocol,
    /// Its port.
    pub port: u16,
    /// The target group that new flows go to.
    pub group: String,
    /// The interface that the agent put the VIP on; left out when the operator routes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vip_interface: Option<String>,
    /// Whether the kernel's current generation holds this service.
    pub in_kernel: bool,
    /// Targets of the group that take new flows.
    pub targets_up: u32,
    /// Targets of the group.
    pub targets_total: u32,
    /// Whether no target can take new flows, so that the group's `on_all_down` acts.
    pub all_down: bool,
    /// What it has carried.
    pub counters: TrafficCounters,
}

/// Interchangeable targets. `GET /v1/groups`, `GET /v1/groups/{group}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct GroupView {
    /// Unique name.
    pub name: String,
    /// How packets reach the targets: `nat`.
    pub mode: String,
    /// Services whose new flows come here.
    pub services: Vec<String>,
    /// Targets that take new flows.
    pub targets_up: u32,
    /// Targets.
    pub targets_total: u32,
    /// Whether no target can take new flows, so that `on_all_down` acts.
    pub all_down: bool,
    /// What becomes of new flows when no target can take them.
    pub on_all_down: OnAllDown,
    /// What becomes of established TCP flows whose target is down.
    pub on_target_down_tcp: EstablishedFlows,
    /// What becomes of established UDP flows whose target is down.
    pub on_target_down_udp: EstablishedFlows,
    /// How long a draining target keeps its flows before they are ended.
    pub drain_deadline_seconds: f64,
    /// Slots of the group's Maglev table.
    pub table_slots: u32,
    /// How readiness is proved; left out when every target is taken for healthy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health_check: Option<GroupHealthCheck>,
}

/// A group's health check in short.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct GroupHealthCheck {
    /// `tcp`, `http` or `https`.
    pub kind: String,
    /// Time between two checks of a settled target.
    pub interval_seconds: f64,
    /// Longest time one check may take.
    pub timeout_seconds: f64,
    /// Successes in a row that make a target up.
    pub rise: u32,
    /// Failures in a row that make a target down.
    pub fall: u32,
}

/// `GET /v1/drops`: what became of every packet, and why some went no further.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DropsView {
    /// Every verdict and its packets, dropped ones included.
    pub verdicts: Vec<VerdictCount>,
    /// Every reason for a drop and its packets, zeros included.
    pub drops: Vec<DropView>,
    /// Packets that were forwarded and then failed to leave.
    pub transmit_failures: Vec<TransmitFailureView>,
}

/// Packets of one verdict.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct VerdictCount {
    /// The verdict's name, such as `redirected`.
    pub verdict: String,
    /// What it comes down to.
    pub outcome: PacketOutcome,
    /// What it means.
    pub description: String,
    /// Packets.
    pub packets: u64,
}

/// What a verdict comes down to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, strum::Display)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub enum PacketOutcome {
    /// It went to the host, untouched.
    Passed,
    /// It went on, rewritten.
    Forwarded,
    /// The program answered it.
    Answered,
    /// It went no further.
    Dropped,
}

/// Packets dropped for one reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DropView {
    /// The reason's name, such as `flow_table_full`.
    pub reason: String,
    /// What it means and what can be done about it.
    pub description: String,
    /// Packets.
    pub packets: u64,
    /// When its counter last moved, as far as the agent has seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<Timestamp>,
}

/// Packets that failed to leave after they were forwarded, from the kernel's XDP tracepoints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TransmitFailureView {
    /// The interface that they should have left by; if that is gone, the one they came in by.
    pub interface: String,
    /// Packets.
    pub packets: u64,
}
