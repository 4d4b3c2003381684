//! The configurations that a run draws from.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use lb_userspace::config::model::*;
use rand::{RngExt as _, rngs::StdRng};

use super::node::{LIMITS, SLOTS};

const SECOND: Duration = Duration::from_secs(1);
pub(crate) const TIMEOUTS: Timeouts = Timeouts {
    tcp_handshake: Duration::from_secs(10),
    tcp_established: Duration::from_secs(60),
    tcp_closing: Duration::from_secs(30),
    tcp_time_wait: Duration::from_secs(20),
    udp_unanswered: Duration::from_secs(10),
    udp_established: Duration::from_secs(30),
};

/// Every target that a configuration may have.
pub(crate) fn all_targets() -> Vec<SocketAddr> {
    POOLS.iter().flat_map(|pool| (1..=pool.count).map(|index| pool.address(index))).collect()
}

struct Pool {
    group: &'static str,
    v6: bool,
    net: u8,
    count: u8,
    port: u16,
    tcp: EstablishedFlows,
    udp: EstablishedFlows,
    on_all_down: OnAllDown,
}

const POOLS: [Pool; 4] = [
    pool("web", false, 1, 7, 8080, EstablishedFlows::Keep, OnAllDown::Reject),
    pool("dns", false, 2, 6, 53, EstablishedFlows::End, OnAllDown::Drop),
    pool("six", true, 3, 6, 8080, EstablishedFlows::End, OnAllDown::Open),
    pool("log", false, 4, 4, 514, EstablishedFlows::Keep, OnAllDown::Reject),
];

const fn pool(
    group: &'static str,
    v6: bool,
    net: u8,
    count: u8,
    port: u16,
    established: EstablishedFlows,
    on_all_down: OnAllDown,
) -> Pool {
    Pool { group, v6, net, count, port, tcp: established, udp: established, on_all_down }
}

impl Pool {
    fn address(&self, index: u8) -> SocketAddr {
        let address = if self.v6 {
            Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, self.net.into(), index.into()).into()
        } else {
            IpAddr::from(Ipv4Addr::new(10, 0, self.net, index))
        };
        SocketAddr::new(address, self.port)
    }
}

/// One configuration.
pub(crate) fn config(rng: &mut StdRng) -> Config {
    let groups: Vec<TargetGroup> = POOLS.iter().map(|pool| group(rng, pool)).collect();
    let mut services = vec![
        service(rng, "web", "10.9.0.1", Protocol::Tcp, 80),
        service(rng, "dns", "10.9.0.1", Protocol::Udp, 53),
        service(rng, "six", "fd00::9", Protocol::Tcp, 80),
    ];
    if rng.random_bool(0.7) {
        services.push(service(rng, "log", "10.9.0.2", Protocol::Udp, 514));
    }
    Config {
        interfaces: vec!["eth0".to_owned()],
        xdp_mode: XdpMode::Native,
        vip_placement: VipPlacement::Interface,
        snat: Snat {
            ipv4: vec![Ipv4Addr::new(10, 9, 1, 1)],
            ipv6: vec![Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2)],
            ports: PortRange { first: 1024, last: 3071 },
        },
        segments: BTreeMap::new(),
        services,
        groups,
        timeouts: TIMEOUTS,
        limits: LIMITS,
        api: Api { listen: None },
    }
}

fn group(rng: &mut StdRng, pool: &Pool) -> TargetGroup {
    let mut targets = Vec::new();
    for index in 1..=pool.count {
        if rng.random_bool(0.7) || (index == pool.count && targets.is_empty()) {
            let address = pool.address(index);
            targets.push(Target {
                name: format!("t{index}"),
                address: address.ip(),
                port: address.port(),
                zone: None,
                weight: if rng.random_bool(0.1) { 0 } else { rng.random_range(1..4) },
            });
        }
    }
    TargetGroup {
        name: pool.group.to_owned(),
        mode: Mode::Nat,
        targets,
        health: Some(HealthCheck {
            probe: Probe::Tcp,
            port: None,
            interval: 2 * SECOND,
            transition_interval: SECOND,
            timeout: SECOND,
            rise: 2,
            fall: 3,
        }),
        on_target_down: OnTargetDown { tcp: pool.tcp, udp: pool.udp },
        on_all_down: pool.on_all_down,
        drain_deadline: Duration::from_secs(30),
        table_slots: SLOTS,
    }
}

fn service(rng: &mut StdRng, name: &str, address: &str, protocol: Protocol, port: u16) -> Service {
    let address: IpAddr = address.parse().expect("an address");
    let prefixes =
        if address.is_ipv4() { ["10.50.0.0/16", "10.60.0.0/16"] } else { ["fd50::/16", "fd60::/16"] };
    let second = rng.random_bool(0.6);
    let access = prefixes.into_iter().zip([true, second]).map(|(prefix, allow)| AccessRule {
        prefix: prefix.parse().expect("a prefix"),
        allow,
        segment: None,
    });
    Service {
        name: name.to_owned(),
        address,
        protocol,
        port,
        group: name.to_owned(),
        access: access.collect(),
    }
}
