//! What the server asks of the agent.

use futures::future::BoxFuture;
use tokio::sync::broadcast;

use crate::words::plural;

use super::types::{
    ApplyResult, ConfigView, DropsView, Event, Fault, FlowQuery, FlowsPage, GroupView, HealthHistory,
    Readiness, ServiceView, Status, TargetStateChange, TargetStateResult, TargetView, Version,
};

/// What the agent answers and does. The server holds it as `Arc<dyn Backend>`.
///
/// Every future is given up by the server after its request timeout: a change must then either be carried
/// through or have changed nothing.
pub trait Backend: Send + Sync + 'static {
    /// What is running.
    fn version(&self) -> Version;

    /// Whether the agent balances as configured. Answered from memory, also while the rest is busy.
    fn readiness(&self) -> Readiness;

    /// Everything but flows, with the kernel's truth, taken at one time. The lists are in the configuration's order.
    fn snapshot(&self) -> BoxFuture<'_, Result<Snapshot, BackendError>>;

    /// One page of flows. `query.limit` is in range; an unusable cursor is [`BackendError::Invalid`].
    fn flows(&self, query: FlowQuery) -> BoxFuture<'_, Result<FlowsPage, BackendError>>;

    /// A target's last checks.
    fn health(&self, group: String, target: String) -> BoxFuture<'_, Result<HealthHistory, BackendError>>;

    /// Changes a target's administrative state; returns once that has been read back from the kernel.
    fn set_target_state(
        &self,
        group: String,
        target: String,
        change: TargetStateChange,
    ) -> BoxFuture<'_, Result<TargetStateResult, BackendError>>;

    /// The configuration in force.
    fn configuration(&self) -> BoxFuture<'_, Result<ConfigView, BackendError>>;

    /// Makes a text the next revision; returns once that has been read back from the kernel.
    fn apply(&self, request: ApplyRequest) -> BoxFuture<'_, Result<ApplyResult, BackendError>>;

    /// The JSON Schema of the configuration.
    fn configuration_schema(&self) -> serde_json::Value;

    /// The kept events with an id above `after`, and those that follow. All that are kept when `after` is `None` or
    /// above the newest id, as it is for a client of the agent before this one.
    fn events(&self, after: Option<u64>) -> EventFeed;
}

/// Everything but flows, taken at one time.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// The agent and its data plane as a whole.
    pub status: Status,
    /// Every service.
    pub services: Vec<ServiceView>,
    /// Every target group.
    pub groups: Vec<GroupView>,
    /// Every target, group by group.
    pub targets: Vec<TargetView>,
    /// What became of every packet.
    pub drops: DropsView,
}

/// A configuration to be applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApplyRequest {
    /// YAML or JSON.
    pub text: String,
    /// Where it comes from, for the revision and its faults: a file's name as it was given, or `api`.
    pub source: String,
    /// Check and compare only.
    pub dry_run: bool,
    /// Refuse with [`BackendError::RevisionDiffers`] unless this revision is in force.
    pub if_revision: Option<u64>,
}

/// The kept events and those that follow, without a gap or an overlap between them.
#[derive(Debug)]
pub struct EventFeed {
    /// Kept events, oldest first.
    pub backlog: Vec<Event>,
    /// Events from then on.
    pub live: broadcast::Receiver<Event>,
}

/// Why the agent did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BackendError {
    /// A named thing does not exist.
    #[error("there is no {what} `{name}`")]
    NotFound {
        /// `service`, `group`, `target` or `revision`.
        what: &'static str,
        /// Its name; a target's as `group/target`.
        name: String,
    },
    /// The configuration is faulty; nothing was changed.
    #[error("the configuration has {}; nothing was changed", plural(.0.len() as u64, "fault"))]
    Faults(Vec<Fault>),
    /// Another revision is in force than the caller expected; nothing was changed.
    #[error("revision {expected} was expected, but revision {current} is in force; nothing was changed")]
    RevisionDiffers {
        /// What the caller expected.
        expected: u64,
        /// What is in force; 0 before the first.
        current: u64,
    },
    /// The request cannot be meant as it is.
    #[error("{0}")]
    Invalid(String),
    /// The request is understood but cannot be done in the present state; nothing was changed. Every reason is given.
    #[error("{}", .0.join("; "))]
    Refused(Vec<String>),
    /// The agent cannot answer now: starting, stopping, or its data plane is not loaded.
    #[error("{0}")]
    Unavailable(String),
    /// The kernel or the state folder failed.
    #[error("{0}")]
    Failed(String),
}
