//! Targets: their health, administrative state and next hop.

use std::net::IpAddr;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::TrafficCounters;

/// One address and port that does the work. `GET /v1/targets`, `GET /v1/groups/{group}/targets[/{target}]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TargetView {
    /// The group it belongs to.
    pub group: String,
    /// Its name, unique within the group.
    pub name: String,
    /// Where it is.
    pub address: IpAddr,
    /// The port it serves on.
    pub port: u16,
    /// Failure domain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// Share of new flows relative to the group's other targets.
    pub weight: u32,
    /// What its checks say.
    pub health: HealthView,
    /// What the operator says.
    pub admin: AdminView,
    /// How packets reach it.
    pub next_hop: NextHop,
    /// Whether it takes new flows.
    pub takes_new_flows: bool,
    /// Whether it does only because no target of its group is up and the group's `on_all_down` is `open`.
    #[serde(default)]
    pub as_if_up: bool,
    /// Why it takes none: `down`, `checking`, `draining`, `maintenance`, `weight is 0`, `next hop: …`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why_not: Option<String>,
    /// Slots of the group's lookup table that hold it, counted in the kernel.
    pub table_slots: u32,
    /// What it has carried.
    pub counters: TrafficCounters,
}

/// What a target's checks say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, strum::Display)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub enum Verdict {
    /// It passed its last checks, or the group has no check.
    Up,
    /// It failed its last checks.
    Down,
    /// It has not been checked enough to tell; it is not up yet.
    Checking,
    /// It is in maintenance, where nothing is checked.
    Unchecked,
}

/// A target's health now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct HealthView {
    /// What its checks say.
    pub verdict: Verdict,
    /// Why, in words: the last failure's for a target that is down.
    pub reason: String,
    /// Since when the verdict holds.
    pub since: Timestamp,
    /// Successes (up to `rise`) or failures (up to `fall`) in a row that speak against the verdict.
    pub against: u32,
    /// The last check, if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_check: Option<CheckRecord>,
}

/// One finished check.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CheckRecord {
    /// When it ended.
    pub at: Timestamp,
    /// Whether it passed.
    pub passed: bool,
    /// What was answered, or what failed, in words.
    pub reason: String,
    /// How long it took.
    pub duration_seconds: f64,
}

/// One change of a target's verdict.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Transition {
    /// When.
    pub at: Timestamp,
    /// The verdict before.
    pub from: Verdict,
    /// The verdict since.
    pub to: Verdict,
    /// Why.
    pub reason: String,
}

/// `GET /v1/groups/{group}/targets/{target}/health`: a target's last checks and verdicts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct HealthHistory {
    /// The group.
    pub group: String,
    /// The target.
    pub target: String,
    /// Its health now.
    pub health: HealthView,
    /// The last checks, newest first.
    pub checks: Vec<CheckRecord>,
    /// The last changes of verdict, newest first.
    pub transitions: Vec<Transition>,
}

/// What an operator may ask of a target.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Serialize,
    Deserialize,
    JsonSchema,
    strum::Display,
    strum::EnumString,
    strum::VariantNames,
)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub enum TargetState {
    /// It takes flows if it is up.
    Ready,
    /// It takes no new flows and keeps those it has, until a deadline.
    Drain,
    /// It takes no new flows and its checks stop; those it has go by the group's `on_target_down`.
    Maintenance,
}

/// Where a target stands between what the operator asked and what is so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, strum::Display)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub enum AdminState {
    /// It takes flows if it is up.
    Ready,
    /// It takes no new flows; some are left.
    Draining,
    /// Drained: no flow is left.
    Drained,
    /// It takes no new flows and is not checked.
    Maintenance,
}

/// A target's administrative state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AdminView {
    /// Where it stands.
    pub state: AdminState,
    /// Since when.
    pub since: Timestamp,
    /// When the flows left on a draining target are ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Timestamp>,
    /// Flows left on a draining target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remaining_flows: Option<u64>,
}

/// `PUT /v1/groups/{group}/targets/{target}/state`: what an operator asks of a target.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TargetStateChange {
    /// The state asked for.
    pub state: TargetState,
    /// How long a draining target may keep its flows; the group's `drain_deadline` when left out. Only with `drain`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_seconds: Option<f64>,
}

/// The answer to a [`TargetStateChange`], sent once the change has been read back from the kernel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TargetStateResult {
    /// Whether anything changed.
    pub changed: bool,
    /// The target as it is now.
    pub target: TargetView,
}

/// How packets reach a target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NextHop {
    /// Whether the next hop's link-layer address is known.
    pub resolved: bool,
    /// Why it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The interface that packets leave by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// The router, when the target is not on the link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<IpAddr>,
    /// The link-layer address that packets are sent to, six octets in hexadecimal, colons between.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// The largest packet the way carries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
}
