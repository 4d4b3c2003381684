//! What has happened, for whoever watches.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One thing that happened. `GET /v1/events`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Event {
    /// Its number; grows with each event. No agent's life uses the numbers of another.
    pub id: u64,
    /// When it happened.
    pub at: Timestamp,
    /// Of what kind it is.
    pub kind: EventKind,
    /// What it happened to: a target as `group/target`, a service, an interface, or `lbd`.
    pub subject: String,
    /// What happened, in words.
    pub message: String,
}

/// Of what kind an event is.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, strum::Display, strum::EnumString,
)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum EventKind {
    /// The agent started, or stops.
    Agent,
    /// A configuration was applied.
    Configuration,
    /// A configuration was refused.
    ConfigurationRefused,
    /// A target came up.
    TargetUp,
    /// A target went down.
    TargetDown,
    /// An operator changed a target's state.
    TargetState,
    /// A target's drain ended.
    TargetDrained,
    /// A target's next hop was found or lost.
    NextHop,
    /// A group has no target left that takes flows: its `on_all_down` acts.
    AllDown,
    /// A group has targets again.
    Recovered,
    /// The kernel's maps differed from the revision, or were repaired.
    Drift,
    /// The program was attached, adopted or replaced on an interface.
    Program,
    /// A limit is reached or near.
    Limit,
}
