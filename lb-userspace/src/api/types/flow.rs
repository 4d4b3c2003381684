//! Flows in the kernel's tables.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Protocol;

/// Where a flow is in its life.
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
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum FlowState {
    /// TCP: the handshake is not finished.
    Handshake,
    /// TCP: open on both sides. UDP: answered.
    Established,
    /// TCP: one side has closed.
    Closing,
    /// TCP: both sides have closed, or it was reset; its port is not used again yet.
    TimeWait,
    /// UDP: not answered yet.
    Unanswered,
}

/// One flow in the kernel's tables.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct FlowView {
    /// The service it was made to; left out when that service is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// The target's group; left out when that target is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// The target it was given; left out when that target is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// Its protocol.
    pub protocol: Protocol,
    /// The client's address and port.
    #[schemars(with = "String")]
    pub client: SocketAddr,
    /// The virtual address and port.
    #[schemars(with = "String")]
    pub vip: SocketAddr,
    /// The address and port that the target sees (`nat`).
    #[schemars(with = "String")]
    pub source: SocketAddr,
    /// The target's address and port.
    #[schemars(with = "String")]
    pub target_address: SocketAddr,
    /// Where it is in its life.
    pub state: FlowState,
    /// How long since it was admitted; left out when the kernel does not hold it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age_seconds: Option<f64>,
    /// How long since its last packet.
    pub idle_seconds: f64,
    /// Packets from the client.
    pub packets_in: u64,
    /// Bytes from the client.
    pub bytes_in: u64,
    /// Packets from the target.
    pub packets_out: u64,
    /// Bytes from the target.
    pub bytes_out: u64,
    /// The policy epoch it was admitted or last checked under.
    pub epoch: u32,
}

/// The query of `GET /v1/flows`; what is left out matches everything.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FlowQuery {
    /// Flows made to this service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// Flows to targets of this group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Flows to targets of this name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// Flows from clients within this prefix; an address alone means itself.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "prefix")]
    #[schemars(with = "Option<String>")]
    pub client: Option<IpNet>,
    /// Flows in this state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<FlowState>,
    /// Flows of this protocol.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    /// Flows to return at most, 1 to 10000 (default 100).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// The `next` of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

impl FlowQuery {
    /// Flows returned when the query does not say.
    pub const DEFAULT_LIMIT: u32 = 100;
    /// Most flows that one page may hold.
    pub const MAX_LIMIT: u32 = 10_000;

    /// How many flows to return at most.
    pub fn page_size(&self) -> usize {
        self.limit.unwrap_or(Self::DEFAULT_LIMIT).clamp(1, Self::MAX_LIMIT) as usize
    }

    /// The query's name that nothing has, and of what it should be the name, given the services' names and each group's
    /// with those of its targets: no flow matches it, and never will.
    pub fn misnamed(
        &self,
        services: &[&str],
        groups: &[(&str, Vec<&str>)],
    ) -> Option<(&'static str, String)> {
        if let Some(service) = self.service.as_ref().filter(|name| !services.contains(&name.as_str())) {
            return Some(("service", service.clone()));
        }
        let mut meant =
            groups.iter().filter(|(group, _)| self.group.as_deref().is_none_or(|name| name == *group));
        match (&self.group, &self.target) {
            (Some(group), _) if meant.clone().next().is_none() => Some(("group", group.clone())),
            (group, Some(target)) if !meant.any(|(_, targets)| targets.contains(&target.as_str())) => {
                let within = group.iter().flat_map(|group| [group.as_str(), "/"]).collect::<String>();
                Some(("target", within + target))
            }
            _ => None,
        }
    }

    /// Whether a flow is meant, by all but paging.
    pub fn matches(&self, flow: &FlowView) -> bool {
        fn named(wanted: Option<&String>, actual: Option<&String>) -> bool {
            wanted.is_none() || wanted == actual
        }
        named(self.service.as_ref(), flow.service.as_ref())
            && named(self.group.as_ref(), flow.group.as_ref())
            && named(self.target.as_ref(), flow.target.as_ref())
            && self.client.is_none_or(|prefix| prefix.contains(&flow.client.ip()))
            && self.state.is_none_or(|state| state == flow.state)
            && self.protocol.is_none_or(|protocol| protocol == flow.protocol)
    }
}

/// `GET /v1/flows`: one page of flows, in the kernel's order.
///
/// The tables change while they are read: a flow that lives through all pages is returned at least once.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct FlowsPage {
    /// The flows.
    pub flows: Vec<FlowView>,
    /// The cursor of the next page; left out after the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// Reads a prefix, or an address alone as the prefix that holds only it.
pub fn parse_prefix(text: &str) -> Result<IpNet, String> {
    text.parse::<IpNet>()
        .or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
        .map_err(|_| format!("`{text}` is neither an address nor a prefix such as 10.0.0.0/8 or fd00::/64"))
}

mod prefix {
    use ipnet::IpNet;
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(prefix: &Option<IpNet>, out: S) -> Result<S::Ok, S::Error> {
        prefix.serialize(out)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(input: D) -> Result<Option<IpNet>, D::Error> {
        let text = Option::<String>::deserialize(input)?;
        text.map(|text| super::parse_prefix(&text)).transpose().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_alone_is_a_prefix() {
        assert_eq!(parse_prefix("10.1.2.3").unwrap().to_string(), "10.1.2.3/32");
        assert_eq!(parse_prefix("fd00::1").unwrap().to_string(), "fd00::1/128");
        assert_eq!(parse_prefix("10.0.0.0/8").unwrap().to_string(), "10.0.0.0/8");
        assert!(parse_prefix("10.0.0.0/33").unwrap_err().contains("10.0.0.0/33"));
    }

    #[test]
    fn a_query_for_what_does_not_exist_is_told_apart_from_one_without_flows() {
        let misnamed = |service: Option<&str>, group: Option<&str>, target: Option<&str>| {
            let owned = |name: Option<&str>| name.map(str::to_owned);
            let query = FlowQuery {
                service: owned(service),
                group: owned(group),
                target: owned(target),
                ..FlowQuery::default()
            };
            query.misnamed(&["web", "dns"], &[("web", vec!["a", "b"]), ("dns", vec!["c"]), ("idle", vec![])])
        };
        let is = |what: &'static str, name: &str| Some((what, name.to_owned()));
        assert_eq!(misnamed(None, None, None), None);
        assert_eq!(misnamed(Some("web"), Some("web"), Some("a")), None);
        assert_eq!(misnamed(None, None, Some("c")), None);
        assert_eq!(misnamed(None, Some("idle"), None), None);
        assert_eq!(misnamed(Some("nope"), None, None), is("service", "nope"));
        assert_eq!(misnamed(None, Some("nope"), Some("a")), is("group", "nope"));
        assert_eq!(misnamed(None, Some("web"), Some("c")), is("target", "web/c"));
        assert_eq!(misnamed(None, None, Some("nope")), is("target", "nope"));
    }
}
