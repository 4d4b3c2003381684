//! What travels over the REST API: the serde types of `/v1`.
//!
//! Times are RFC 3339, durations are seconds as decimal numbers (fields ending in `_seconds`), sizes are bytes,
//! ports are numbers in host order, addresses are text. A field that does not apply is left out.

mod configuration;
mod event;
mod flow;
mod problem;
mod status;
mod target;
mod traffic;

pub use configuration::{ApplyResult, ChangeKind, ConfigView, Fault, ResourceChange};
pub use event::{Event, EventKind};
pub use flow::{FlowQuery, FlowState, FlowView, FlowsPage, parse_prefix};
pub use problem::Problem;
pub use status::{
    Counts, DataPlane, DataPlaneState, Drift, FileState, InterfaceView, MapUsage, Readiness, Revision,
    Status, Version, XdpAttachMode, XdpModeWanted,
};
pub use target::{
    AdminState, AdminView, CheckRecord, HealthHistory, HealthView, NextHop, TargetState, TargetStateChange,
    TargetStateResult, TargetView, Transition, Verdict,
};
pub use traffic::{
    DropView, DropsView, GroupHealthCheck, GroupView, PacketOutcome, ServiceView, TrafficCounters,
    TransmitFailureView, VerdictCount,
};

pub use crate::config::model::{EstablishedFlows, OnAllDown, Protocol};
