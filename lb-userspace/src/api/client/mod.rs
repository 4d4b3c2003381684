//! Typed requests to a running agent.
//!
//! Each request makes a connection of its own: a client asks rarely, and a restarted agent is then reached at once.

mod address;
mod error;
mod events;
mod transport;

use std::time::Duration;

pub use address::Address;
pub use error::ClientError;
pub use events::EventStream;
use http::{HeaderValue, Method, header};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Serialize, de::DeserializeOwned};

use self::transport::Call;
use super::types::{
    ApplyResult, ConfigView, DropsView, Event, FlowQuery, FlowsPage, GroupView, HealthHistory, ServiceView,
    Status, TargetStateChange, TargetStateResult, TargetView, Version,
};

/// A way to one agent.
#[derive(Debug, Clone)]
pub struct Client {
    address: Address,
    timeout: Duration,
}

impl Client {
    /// A client that waits this long for each answer.
    pub fn new(address: Address, timeout: Duration) -> Self {
        Self { address, timeout }
    }

    /// Where the agent is.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// What is running.
    pub async fn version(&self) -> Result<Version, ClientError> {
        self.get("/v1/version").await
    }

    /// The agent and its data plane as a whole.
    pub async fn status(&self) -> Result<Status, ClientError> {
        self.get("/v1/status").await
    }

    /// Every service.
    pub async fn services(&self) -> Result<Vec<ServiceView>, ClientError> {
        self.get("/v1/services").await
    }

    /// Every target group.
    pub async fn groups(&self) -> Result<Vec<GroupView>, ClientError> {
        self.get("/v1/groups").await
    }

    /// Every target, or those of one group.
    pub async fn targets(&self, group: Option<&str>) -> Result<Vec<TargetView>, ClientError> {
        match group {
            None => self.get("/v1/targets").await,
            Some(group) => self.get(&format!("/v1/groups/{}/targets", segment(group))).await,
        }
    }

    /// One target.
    pub async fn target(&self, group: &str, target: &str) -> Result<TargetView, ClientError> {
        self.get(&target_path(group, target)).await
    }

    /// A target's last checks.
    pub async fn health(&self, group: &str, target: &str) -> Result<HealthHistory, ClientError> {
        self.get(&format!("{}/health", target_path(group, target))).await
    }

    /// Changes a target's administrative state.
    pub async fn set_target_state(
        &self,
        group: &str,
        target: &str,
        change: &TargetStateChange,
    ) -> Result<TargetStateResult, ClientError> {
        let body = serde_json::to_vec(change).map_err(|error| self.protocol(&error))?;
        let json = (header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let path = format!("{}/state", target_path(group, target));
        self.send(Call { headers: vec![json], body: body.into(), ..Call::new(Method::PUT, path) }).await
    }

    /// One page of flows.
    pub async fn flows(&self, query: &FlowQuery) -> Result<FlowsPage, ClientError> {
        self.get(&self.with_query("/v1/flows", query)?).await
    }

    /// What became of every packet.
    pub async fn drops(&self) -> Result<DropsView, ClientError> {
        self.get("/v1/drops").await
    }

    /// The configuration in force.
    pub async fn configuration(&self) -> Result<ConfigView, ClientError> {
        self.get("/v1/configuration").await
    }

    /// Makes a text the next revision, or only checks and compares it. With `if_revision`, only if that one is in force.
    /// `source` is what faults and the revision call it, such as the file's name.
    pub async fn apply(
        &self,
        text: String,
        source: &str,
        dry_run: bool,
        if_revision: Option<u64>,
    ) -> Result<ApplyResult, ClientError> {
        let mut headers = vec![(header::CONTENT_TYPE, HeaderValue::from_static("application/yaml"))];
        if let Some(revision) = if_revision {
            let quoted = HeaderValue::try_from(format!("\"{revision}\""));
            headers.push((header::IF_MATCH, quoted.map_err(|error| self.protocol(&error))?));
        }
        let dry_run = dry_run.to_string();
        let path =
            self.with_query("/v1/configuration", &[("dry_run", dry_run.as_str()), ("source", source)])?;
        self.send(Call { headers, body: text.into(), ..Call::new(Method::PUT, path) }).await
    }

    /// The kept events with an id above `after`.
    pub async fn events(&self, after: Option<u64>) -> Result<Vec<Event>, ClientError> {
        let after = after.map(|id| format!("&after={id}")).unwrap_or_default();
        self.get(&format!("/v1/events?follow=false{after}")).await
    }

    /// The kept events with an id above `after`, and those that follow.
    pub async fn follow_events(&self, after: Option<u64>) -> Result<EventStream, ClientError> {
        let last = after.map(|id| (header::HeaderName::from_static("last-event-id"), HeaderValue::from(id)));
        let call = Call { headers: Vec::from_iter(last), ..Call::new(Method::GET, "/v1/events".to_owned()) };
        Ok(EventStream::new(self.open(call).await?, self.address.clone()))
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.send(Call::new(Method::GET, path.to_owned())).await
    }

    fn with_query(&self, path: &str, query: &impl Serialize) -> Result<String, ClientError> {
        let query = serde_urlencoded::to_string(query).map_err(|error| self.protocol(&error))?;
        Ok(format!("{path}?{query}"))
    }

    fn protocol(&self, error: &dyn std::error::Error) -> ClientError {
        ClientError::Protocol { address: self.address.clone(), cause: error.to_string() }
    }
}

fn target_path(group: &str, target: &str) -> String {
    format!("/v1/groups/{}/targets/{}", segment(group), segment(target))
}

/// A name as one segment of a path.
fn segment(name: &str) -> String {
    utf8_percent_encode(name, NON_ALPHANUMERIC).to_string()
}
