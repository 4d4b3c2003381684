//! The API's questions, carried to the engine.

use std::{sync::Arc, time::Duration};

use futures::{FutureExt as _, future::BoxFuture};
use tokio::sync::{mpsc, oneshot, watch};

use super::{
    engine::{Answer, Request},
    events::EventLog,
};
use crate::{
    api::{
        backend::{ApplyRequest, Backend, BackendError, EventFeed, Snapshot},
        types::{
            ApplyResult, ConfigView, FlowQuery, FlowsPage, HealthHistory, Readiness, TargetStateChange,
            TargetStateResult, Version,
        },
    },
    config,
};

/// Longest time that a request waits for the engine to take it.
const BUSY: Duration = Duration::from_secs(30);

/// What the server holds of the agent.
#[derive(Debug)]
pub(super) struct Handle {
    pub(super) requests: mpsc::Sender<Request>,
    pub(super) readiness: watch::Receiver<Readiness>,
    pub(super) events: Arc<EventLog>,
}

impl Handle {
    /// Once the engine has taken a request it carries it through, whether or not anybody waits for the answer.
    fn ask<T: Send + 'static>(
        &self,
        request: impl FnOnce(Answer<T>) -> Request + Send + 'static,
    ) -> BoxFuture<'_, Result<T, BackendError>> {
        async move {
            let stopping = || BackendError::Unavailable("the agent is stopping".to_owned());
            let (answer, answered) = oneshot::channel();
            match self.requests.send_timeout(request(answer), BUSY).await {
                Ok(()) => {}
                Err(mpsc::error::SendTimeoutError::Timeout(_)) => {
                    return Err(BackendError::Unavailable("the agent is busy; try again".to_owned()));
                }
                Err(mpsc::error::SendTimeoutError::Closed(_)) => return Err(stopping()),
            }
            answered.await.map_err(|_| stopping())?
        }
        .boxed()
    }
}

/// What is running.
pub(super) fn version() -> Version {
    Version {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        api: "v1".to_owned(),
        abi: lb_common::abi::VERSION,
    }
}

impl Backend for Handle {
    fn version(&self) -> Version {
        version()
    }

    fn readiness(&self) -> Readiness {
        self.readiness.borrow().clone()
    }

    fn snapshot(&self) -> BoxFuture<'_, Result<Snapshot, BackendError>> {
        self.ask(Request::Snapshot)
    }

    fn flows(&self, query: FlowQuery) -> BoxFuture<'_, Result<FlowsPage, BackendError>> {
        self.ask(|answer| Request::Flows(query, answer))
    }

    fn health(&self, group: String, target: String) -> BoxFuture<'_, Result<HealthHistory, BackendError>> {
        self.ask(|answer| Request::Health { group, target, answer })
    }

    fn set_target_state(
        &self,
        group: String,
        target: String,
        change: TargetStateChange,
    ) -> BoxFuture<'_, Result<TargetStateResult, BackendError>> {
        self.ask(|answer| Request::SetTargetState { group, target, change, answer })
    }

    fn configuration(&self) -> BoxFuture<'_, Result<ConfigView, BackendError>> {
        self.ask(Request::Configuration)
    }

    fn apply(&self, request: ApplyRequest) -> BoxFuture<'_, Result<ApplyResult, BackendError>> {
        self.ask(|answer| Request::Apply(request, answer))
    }

    fn configuration_schema(&self) -> serde_json::Value {
        config::schema()
    }

    fn events(&self, after: Option<u64>) -> EventFeed {
        self.events.feed(after)
    }
}
