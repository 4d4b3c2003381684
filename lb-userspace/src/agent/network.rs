//! From the picture of the host's network to the facts that the core decides by.

use std::{collections::BTreeSet, net::IpAddr};

use lb_common::abi;

use crate::{
    config::Config,
    core::{Facts, Hop},
    net::{self, NetState},
};

/// The facts about some addresses. `interfaces` are the ones that carry the program.
pub(super) fn facts(state: &NetState, addresses: &BTreeSet<IpAddr>, interfaces: &[String]) -> Facts {
    let carrying = indexes(state, interfaces);
    let targets = addresses.iter().map(|address| (*address, way(state, *address, &carrying))).collect();
    let client_routes = state.client_routes(&carrying);
    Facts {
        targets,
        client_routes: client_routes.into_iter().map(|(prefix, found)| (prefix, hop(&found))).collect(),
        client_gaps: state.client_gaps(&carrying),
    }
}

/// Indexes of the named interfaces that there are.
pub(super) fn indexes(state: &NetState, interfaces: &[String]) -> Vec<u32> {
    interfaces
        .iter()
        .filter_map(|name| state.interface_named(name))
        .map(|interface| interface.index)
        .collect()
}

/// What of a configuration cannot work on this host: interfaces that are not there, VIPs that would cut the host off,
/// targets whose replies would not meet the program.
pub(super) fn unfit(state: &NetState, config: &Config) -> Vec<String> {
    let missing = config.interfaces.iter().filter(|name| state.interface_named(name).is_none());
    let there: Vec<&str> = state.interfaces().map(|interface| interface.name.as_str()).collect();
    let mut found: Vec<String> = missing
        .map(|name| format!("interfaces: there is no {name} on this host; there are {}", there.join(", ")))
        .collect();
    if !found.is_empty() {
        return found;
    }
    let vips: BTreeSet<IpAddr> = config.services.iter().map(|service| service.address).collect();
    for vip in vips {
        if let Some(ifindex) = state.interface_in_network(vip) {
            found.push(format!(
                "services: {vip} is this host's own address on {}: all its ports but the services' would be cut off, \
                 SSH too; give the services an address of their own (as /32 or /128 if you put it on the host yourself)",
                name(state, ifindex)
            ));
        }
    }
    let carrying = indexes(state, &config.interfaces);
    for group in &config.groups {
        for target in &group.targets {
            if let Ok(next) = state.next_hop_address(target.address)
                && !carrying.contains(&next.ifindex)
            {
                let reason = elsewhere(state, target.address, next.ifindex);
                found.push(format!("target {}/{}: {reason}", group.name, target.name));
            }
        }
    }
    found
}

fn name(state: &NetState, ifindex: u32) -> String {
    state.interface(ifindex).map_or_else(|| ifindex.to_string(), |interface| interface.name.clone())
}

fn elsewhere(state: &NetState, address: IpAddr, ifindex: u32) -> String {
    let name = name(state, ifindex);
    format!(
        "{address} is reached by interface {name}, where its replies would not meet the program; add {name} to \
         `interfaces`"
    )
}

fn way(state: &NetState, address: IpAddr, carrying: &[u32]) -> Result<Hop, String> {
    let found = state.resolve(address).map_err(|reason| reason.to_string())?;
    if !carrying.contains(&found.ifindex) {
        return Err(elsewhere(state, address, found.ifindex));
    }
    Ok(hop(&found))
}

fn hop(found: &net::Hop) -> Hop {
    Hop {
        next_hop: abi::NextHop {
            ifindex: found.ifindex,
            mtu: found.mtu,
            destination: found.destination_mac,
            source: found.source_mac,
        },
        gateway: found.gateway,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::{Interface, Neighbour, NeighbourState, Route, RouteHop, RouteKind, RouteTable};

    fn state() -> NetState {
        let mut state = NetState::default();
        for (index, name) in [(2, "eth0"), (3, "eth1")] {
            let name = name.to_owned();
            state.insert_interface(Interface {
                index,
                name,
                mac: Some([2; 6]),
                mtu: 1500,
                up: true,
                kind: None,
            });
            state.insert_route(Route {
                table: RouteTable::Main,
                prefix: format!("10.0.{index}.0/24").parse().unwrap(),
                kind: RouteKind::Unicast,
                metric: 0,
                mtu: None,
                hops: vec![RouteHop { ifindex: index, gateway: None, dead: false, encapsulated: false }],
            });
            state.insert_neighbour(Neighbour {
                ifindex: index,
                address: format!("10.0.{index}.1").parse().unwrap(),
                state: NeighbourState::Reachable,
                mac: Some([6; 6]),
            });
        }
        state
    }

    #[test]
    fn a_vip_must_not_be_the_hosts_own_address() {
        let text = include_str!("../../../examples/portside.yaml");
        let config = crate::config::parse(text, "portside.yaml").unwrap().config;
        let unfit_with = |prefix_len| {
            let mut state = state();
            state.insert_address(2, config.services[0].address, prefix_len);
            unfit(&state, &config)
                .into_iter()
                .filter(|reason| reason.starts_with("services:"))
                .collect::<Vec<_>>()
        };
        assert_eq!(unfit_with(32), Vec::<String>::new(), "as the agent puts it there, or an operator");
        let reasons = unfit_with(24);
        assert!(reasons[0].contains("10.0.0.100 is this host's own address on eth0"), "{reasons:?}");
    }

    #[test]
    fn a_target_must_be_reached_where_its_replies_meet_the_program() {
        let addresses =
            ["10.0.2.1", "10.0.2.9", "10.0.3.1"].map(|address| address.parse::<IpAddr>().unwrap());
        let facts = facts(&state(), &BTreeSet::from(addresses), &["eth0".to_owned()]);
        let hop = facts.targets[&addresses[0]].clone().unwrap().next_hop;
        assert_eq!((hop.ifindex, hop.mtu, hop.destination, hop.source), (2, 1500, [6; 6], [2; 6]));
        assert!(facts.targets[&addresses[1]].is_err(), "its neighbour is not known");
        let elsewhere = facts.targets[&addresses[2]].clone().unwrap_err();
        assert!(elsewhere.contains("add eth1 to `interfaces`"), "{elsewhere}");
    }
}
