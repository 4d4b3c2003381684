//! What must be so after each step.

use std::{
    collections::BTreeMap,
    hash::Hash,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use lb_common::{
    abi::{Counters, NONE, Target, flow_flags, service_kind},
    addr::{Ip, V4, V6},
    memory::Family,
};
use lb_userspace::{api::types::TargetState as Wanted, config::model::OnAllDown, dataplane::DataPlane as _};

use super::{
    node::{LIMITS, Node},
    scenario::Simulation,
};

/// `fall` × interval + timeout, and a second for the simulation's own grain.
const DETECTED: Duration = Duration::from_secs(3 * 2 + 1 + 1);

/// Flows counted as open are the flows in the tables.
pub(crate) fn counters(simulation: &mut Simulation) {
    let memory = &mut simulation.node.plane.memory;
    let mut open: BTreeMap<(&str, u32), u64> = BTreeMap::new();
    count(&mut memory.v4, &mut open);
    count(&mut memory.v6, &mut open);
    for row in 1..=LIMITS.targets {
        let Counters { opened, closed, .. } = memory.target_counters(row);
        assert_eq!(opened - closed, open.get(&("target", row)).copied().unwrap_or(0), "target row {row}");
    }
    for row in 1..=LIMITS.services {
        let Counters { opened, closed, .. } = memory.service_counters(row);
        assert_eq!(opened - closed, open.get(&("service", row)).copied().unwrap_or(0), "service row {row}");
    }
}

fn count<A: Ip + Hash>(family: &mut Family<A>, open: &mut BTreeMap<(&'static str, u32), u64>) {
    let reverse = family.flows().into_iter().filter(|(_, flow)| flow.flags & flow_flags::REVERSE != 0);
    for (_, flow) in reverse.filter(|(_, flow)| flow.flags & flow_flags::ENDED == 0) {
        *open.entry(("target", flow.target)).or_default() += 1;
        *open.entry(("service", flow.service)).or_default() += 1;
    }
}

/// A flow that names a row names the target that is there, or one that is gone.
pub(crate) fn flows(simulation: &mut Simulation) {
    let memory = &mut simulation.node.plane.memory;
    let targets = memory.targets.clone();
    agree(&mut memory.v4, &targets);
    agree(&mut memory.v6, &targets);
}

fn agree<A: Ip + Hash>(family: &mut Family<A>, targets: &[Target]) {
    for (key, flow) in family.flows() {
        if flow.flags & flow_flags::REVERSE != 0 {
            continue;
        }
        let row = targets[flow.target as usize];
        if row.incarnation == flow.incarnation {
            assert_eq!((row.address, row.port), (flow.dst.words(), flow.dport), "{key:?} {flow:?}");
        }
    }
}

/// A target that has not answered for long enough takes no new flows, unless all are used as if they were up.
pub(crate) fn detection(simulation: &mut Simulation) {
    let Some(core) = &simulation.node.core else { return };
    for (group, state) in core.groups() {
        let open =
            group.on_all_down == OnAllDown::Open && state.targets.iter().all(|t| t.why_not().is_some());
        for target in state.targets.iter().filter(|_| !open) {
            let address = target.address();
            let dead = simulation.world.dead.contains(&address);
            let since = simulation.dead_since.get(&address).copied().unwrap_or_default();
            let seen = simulation.node.now - since.max(simulation.alive_since);
            if dead && seen > DETECTED {
                assert!(target.why_not().is_some(), "{address} has not answered for {seen:?}");
            }
        }
    }
}

/// Another node with the same configuration, whatever its history, gives new flows to the same targets.
pub(crate) fn peers_agree(simulation: &mut Simulation) {
    if simulation.node.core.is_none() {
        return;
    }
    simulation.pass(Duration::from_secs(15));
    let mut peer = Node::new(simulation.node.config.as_ref().clone(), &simulation.world);
    let asked: Vec<_> = simulation.asked.iter().filter(|(_, state)| **state != Wanted::Ready).collect();
    for ((group, target), state) in asked {
        peer.set_target(group, target, *state);
    }
    peer.pass(Duration::from_secs(15), &simulation.world);
    assert_eq!(choices(&simulation.node), choices(&peer));
}

/// By service, the target in each slot of its table.
fn choices(node: &Node) -> BTreeMap<SocketAddr, Vec<Option<SocketAddr>>> {
    let contents = node.plane.contents().expect("memory can be read");
    let address = |row: u32| -> Option<SocketAddr> {
        let target = contents.targets[row as usize];
        let ip: IpAddr = match target.address {
            [word, 0, 0, 0] => std::net::Ipv4Addr::from(V4::from_words([word, 0, 0, 0])).into(),
            words => std::net::Ipv6Addr::from(V6::from_words(words)).into(),
        };
        (row != NONE).then(|| SocketAddr::new(ip, target.port.get()))
    };
    let services = contents.services.iter().filter(|row| row.service.kind == service_kind::SERVICE);
    services
        .map(|row| {
            let table = node.plane.table(row.service.table).expect("memory can be read");
            (SocketAddr::new(row.address, row.port), table.into_iter().map(address).collect())
        })
        .collect()
}
