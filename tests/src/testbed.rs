//! A network with servers and an agent that balances over them: what the end-to-end suites start from.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, Result, ensure};
use hyper::{Method, StatusCode};
use serde_json::{Value, json};

use crate::{
    http::{Load, Servers},
    lbd::Lbd,
    require,
    topology::{Family, Shape, Topology},
    transfer::UploadServer,
    udp::UdpServer,
};

/// The port that the web services have on the virtual addresses.
pub const WEB: u16 = 80;
/// The port that web servers have on the targets: another, so ports are mapped.
pub const WEB_TARGET: u16 = 8080;
/// The same for uploads.
pub const UPLOAD: u16 = 81;
/// The same for uploads.
pub const UPLOAD_TARGET: u16 = 8081;
/// The same for UDP.
pub const ECHO: u16 = 7;
/// The same for UDP.
pub const ECHO_TARGET: u16 = 7007;
/// How long the agent may take to see and show a change that needs no health check.
pub const SOON: Duration = Duration::from_secs(5);

/// Network, servers and agent. Dropped in the order agent, servers, network.
#[derive(Debug)]
pub struct Testbed {
    /// The agent.
    pub lbd: Lbd,
    /// The web servers.
    pub servers: Servers,
    /// The network.
    pub topology: Topology,
    _uploads: Vec<UploadServer>,
    _echoes: Vec<UdpServer>,
}

impl Testbed {
    /// A network of this shape with all servers and an agent that runs [`standard`], as `change` changes it, with every
    /// web target up.
    pub fn new(shape: Shape, change: impl FnOnce(&mut Value) -> Result<()>) -> Result<Self> {
        Self::with_file(shape, 0, change)
    }

    /// The same with a file of `size` bytes at `/big` and `/slow` of each web server.
    pub fn with_file(shape: Shape, size: u64, change: impl FnOnce(&mut Value) -> Result<()>) -> Result<Self> {
        let testbed = Self::not_all_up(shape, size, change)?;
        for group in ["web-v4", "web-v6"] {
            testbed.wait_until_all_take_flows(group)?;
        }
        Ok(testbed)
    }

    /// The same, but with an agent that is only ready: it may be that not every target takes flows.
    pub fn not_all_up(
        shape: Shape,
        size: u64,
        change: impl FnOnce(&mut Value) -> Result<()>,
    ) -> Result<Self> {
        require::everything()?;
        let topology = Topology::new(shape)?;
        let servers = Servers::with_file(&topology, WEB_TARGET, size)?;
        let uploads =
            topology.targets.iter().map(|host| UploadServer::start(&host.ns, &host.name, UPLOAD_TARGET));
        let uploads = uploads.collect::<Result<_>>()?;
        let echoes = UdpServer::on_all(&topology, ECHO_TARGET)?;
        let mut config = standard(&topology);
        change(&mut config)?;
        let lbd = Lbd::start(&topology.balancer, &format!("{config:#}"))?;
        Ok(Self { lbd, servers, topology, _uploads: uploads, _echoes: echoes })
    }

    /// A load on the web service of a family.
    #[must_use]
    pub fn load(&self, family: Family) -> Load {
        Load::to(family.vip(WEB))
    }

    /// Waits until every target of a group takes new flows.
    pub fn wait_until_all_take_flows(&self, group: &str) -> Result<()> {
        let path = format!("/v1/groups/{group}");
        let all = |group: &Value| group["targets_up"] == group["targets_total"];
        self.lbd.wait_for(&path, Duration::from_secs(15), all).map(drop)
    }

    /// One target as the API shows it.
    pub fn target(&self, group: &str, target: &str) -> Result<Value> {
        self.lbd.get(&format!("/v1/groups/{group}/targets/{target}"))
    }

    /// Waits until one target takes new flows, or takes none.
    pub fn wait_until_takes_flows(
        &self,
        group: &str,
        target: &str,
        takes: bool,
        limit: Duration,
    ) -> Result<Value> {
        let path = format!("/v1/groups/{group}/targets/{target}");
        self.lbd.wait_for(&path, limit, |target| target["takes_new_flows"] == takes)
    }

    /// Asks a target to be `ready`, `drain` or `maintenance`; returns it as it then is.
    pub fn set_state(&self, group: &str, target: &str, state: &str) -> Result<Value> {
        let path = format!("/v1/groups/{group}/targets/{target}/state");
        let body = json!({ "state": state }).to_string();
        let (status, answer) = self.lbd.request(Method::PUT, &path, Some(("application/json", &body)))?;
        ensure!(status == StatusCode::OK, "PUT {path} answered {status}: {answer}");
        serde_json::from_str(&answer).with_context(|| format!("PUT {path} answered no JSON: {answer}"))
    }

    /// Makes a configuration the next revision; fails unless it is accepted.
    pub fn apply(&self, config: &Value) -> Result<Value> {
        let (status, answer) = self.put_configuration(&config.to_string())?;
        ensure!(status == StatusCode::OK, "the configuration was refused with {status}: {answer}");
        serde_json::from_str(&answer).with_context(|| format!("an apply answered no JSON: {answer}"))
    }

    /// Offers a configuration; returns the answer, whatever it is.
    pub fn put_configuration(&self, text: &str) -> Result<(StatusCode, String)> {
        self.lbd.request(Method::PUT, "/v1/configuration", Some(("application/yaml", text)))
    }

    /// The configuration in force.
    pub fn configuration(&self) -> Result<Value> {
        let view = self.lbd.get("/v1/configuration")?;
        let text = view["text"].as_str().context("a configuration without text")?;
        serde_json::from_str(text).context("the configuration in force is not the JSON that was given")
    }

    /// Packets by verdict and by reason of a drop, all since the maps were made.
    pub fn verdicts(&self) -> Result<Verdicts> {
        let view = self.lbd.get("/v1/drops")?;
        let table = |list: &str, key: &str| -> BTreeMap<String, u64> {
            let rows = view[list].as_array().into_iter().flatten();
            rows.filter_map(|row| Some((row[key].as_str()?.to_owned(), row["packets"].as_u64()?))).collect()
        };
        let (verdicts, drops) = (table("verdicts", "verdict"), table("drops", "reason"));
        ensure!(!verdicts.is_empty() && !drops.is_empty(), "no counters in {view}");
        let failures = table("transmit_failures", "interface");
        Ok(Verdicts { verdicts, drops, failures })
    }

    /// One of the counters of a service, for instance `new_flows`.
    pub fn service_counter(&self, service: &str, counter: &str) -> Result<u64> {
        let view = self.lbd.get(&format!("/v1/services/{service}"))?;
        view["counters"][counter].as_u64().with_context(|| format!("no {counter} in {view}"))
    }

    /// The flows that a query (`service=web&client=…`) selects, of the first page.
    pub fn flows(&self, query: &str) -> Result<Vec<Value>> {
        let view = self.lbd.get(&format!("/v1/flows?limit=10000&{query}"))?;
        view["flows"].as_array().cloned().with_context(|| format!("no flows in {view}"))
    }
}

/// Counters of the program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdicts {
    /// Packets by verdict.
    pub verdicts: BTreeMap<String, u64>,
    /// Packets by reason of a drop.
    pub drops: BTreeMap<String, u64>,
    /// Packets that failed after the verdict, by interface.
    pub failures: BTreeMap<String, u64>,
}

impl Verdicts {
    /// Packets dropped for one reason.
    #[must_use]
    pub fn dropped(&self, reason: &str) -> u64 {
        self.drops.get(reason).copied().unwrap_or_default()
    }

    /// Packets of one verdict.
    #[must_use]
    pub fn of(&self, verdict: &str) -> u64 {
        self.verdicts.get(verdict).copied().unwrap_or_default()
    }

    /// The reasons whose counters have moved since `before`, and by how much.
    #[must_use]
    pub fn drops_since(&self, before: &Self) -> BTreeMap<String, u64> {
        let moved =
            |(reason, now): (&String, &u64)| (reason.clone(), now.saturating_sub(before.dropped(reason)));
        self.drops.iter().map(moved).filter(|(_, packets)| *packets > 0).collect()
    }
}

/// A configuration for a network: web, upload and UDP services in both families, all open to anyone, over all targets,
/// with a health check on the web servers that detects within [`detection`].
#[must_use]
pub fn standard(topology: &Topology) -> Value {
    let mut services = Vec::new();
    let mut groups = Vec::new();
    for (family, suffix) in [(Family::V4, "v4"), (Family::V6, "v6")] {
        for (kind, protocol, port, target_port) in [
            ("web", "tcp", WEB, WEB_TARGET),
            ("upload", "tcp", UPLOAD, UPLOAD_TARGET),
            ("echo", "udp", ECHO, ECHO_TARGET),
        ] {
            let name = format!("{kind}-{suffix}");
            let address = family.vip(port).ip();
            services.push(json!({
                "name": name, "address": address, "protocol": protocol, "port": port, "allow": "any", "group": name,
            }));
            let targets = topology.targets.iter().map(|host| {
                let address = host.address(family, target_port).ip();
                json!({ "name": host.name, "address": address, "port": target_port, "zone": host.zone })
            });
            let mut group = json!({ "name": name, "targets": targets.collect::<Vec<_>>() });
            if kind == "web" {
                group["health"] = json!({
                    "http": { "path": "/health" }, "interval": "500ms", "timeout": "500ms", "rise": 2, "fall": 2,
                });
            }
            groups.push(group);
        }
    }
    json!({
        "interfaces": topology.balancer_interfaces(),
        "snat": {
            "ipv4": topology.snat_pool(Family::V4),
            "ipv6": topology.snat_pool(Family::V6),
            "ports": "2000-31999",
        },
        "services": services,
        "groups": groups,
    })
}

/// How long the health check of [`standard`] may take to take a dead target out: fall × interval + timeout.
#[must_use]
pub fn detection() -> Duration {
    Duration::from_millis(2 * 500 + 500)
}

/// An entry of a configuration's list (`services` or `groups`) by its name.
pub fn entry<'a>(config: &'a mut Value, list: &str, name: &str) -> Result<&'a mut Value> {
    let entries = config[list].as_array_mut().with_context(|| format!("no {list} in the configuration"))?;
    let found = entries.iter_mut().find(|entry| entry["name"] == name);
    found.with_context(|| format!("no `{name}` among the {list}"))
}
