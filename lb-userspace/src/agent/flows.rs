//! Flows as the API shows them.

use std::net::SocketAddr;

use lb_common::abi::{self, flow_flags};

use super::engine::Engine;
use crate::{
    api::{
        backend::BackendError,
        types::{FlowQuery, FlowState, FlowView, FlowsPage, Protocol},
    },
    dataplane::{
        FlowRecord,
        kernel::{FlowCursor, FlowFilter},
    },
};

/// Entries of the flow tables looked at for one page; a page may hold fewer flows than asked for.
const SCANNED: usize = 200_000;

impl Engine {
    pub(super) fn flows(&self, query: &FlowQuery) -> Result<FlowsPage, BackendError> {
        let cursor = match &query.cursor {
            None => None,
            Some(text) => Some(text.parse::<FlowCursor>().map_err(BackendError::Invalid)?),
        };
        if let Some((what, name)) = self.misnamed(query) {
            return Err(BackendError::NotFound { what, name });
        }
        let filter = FlowFilter {
            protocol: query.protocol.map(|protocol| match protocol {
                Protocol::Tcp => abi::TCP,
                Protocol::Udp => abi::UDP,
            }),
            client: query.client,
            vip: None,
            service_row: query
                .service
                .as_ref()
                .and_then(|name| self.core.service_rows().get(name))
                .map(|held| held.row),
            target_row: None,
        };
        let page =
            tokio::task::block_in_place(|| self.plane.flows(&filter, cursor, query.page_size(), SCANNED))
                .map_err(|error| BackendError::Failed(format!("the flows cannot be read: {error}")))?;
        let flows =
            page.flows.iter().map(|flow| self.view_flow(flow)).filter(|flow| query.matches(flow)).collect();
        Ok(FlowsPage { flows, next: page.next.map(|cursor| cursor.to_string()) })
    }

    /// The name in a query that the configuration in force does not have.
    fn misnamed(&self, query: &FlowQuery) -> Option<(&'static str, String)> {
        let config = self.core.config();
        let services: Vec<&str> =
            config.iter().flat_map(|config| &config.services).map(|service| service.name.as_str()).collect();
        let groups: Vec<(&str, Vec<&str>)> = config
            .iter()
            .flat_map(|config| &config.groups)
            .map(|group| {
                (group.name.as_str(), group.targets.iter().map(|target| target.name.as_str()).collect())
            })
            .collect();
        query.misnamed(&services, &groups)
    }

    fn view_flow(&self, flow: &FlowRecord) -> FlowView {
        let target = self
            .core
            .groups()
            .flat_map(|(group, state)| state.targets.iter().map(move |target| (group, target)))
            .find(|(_, target)| {
                (target.held.row, target.held.incarnation) == (flow.target_row, flow.incarnation)
            });
        let service = self.core.service_rows().iter().find(|(_, held)| held.row == flow.service_row);
        let millis = |millis: u64| std::time::Duration::from_millis(millis).as_secs_f64();
        FlowView {
            service: service.filter(|(_, held)| held.retired.is_none()).map(|(name, _)| name.to_owned()),
            group: target.map(|(group, _)| group.name.clone()),
            target: target.map(|(_, target)| target.config.name.clone()),
            protocol: if flow.protocol == abi::UDP { Protocol::Udp } else { Protocol::Tcp },
            client: SocketAddr::from(flow.client),
            vip: SocketAddr::from(flow.vip),
            source: SocketAddr::from(flow.snat),
            target_address: SocketAddr::from(flow.target),
            state: state(flow),
            age_seconds: Some(millis(flow.age_ms)),
            idle_seconds: millis(flow.idle_ms),
            packets_in: flow.from_client.0,
            bytes_in: flow.from_client.1,
            packets_out: flow.from_target.0,
            bytes_out: flow.from_target.1,
            epoch: flow.epoch,
        }
    }
}

/// Unfinished handshakes are not in the flow tables.
fn state(flow: &FlowRecord) -> FlowState {
    let (from_client, from_target) = flow.flags;
    if flow.protocol == abi::UDP {
        FlowState::Established
    } else if (from_client | from_target) & flow_flags::ENDED != 0 {
        FlowState::TimeWait
    } else if (from_client | from_target) & flow_flags::FIN != 0 {
        FlowState::Closing
    } else {
        FlowState::Established
    }
}
