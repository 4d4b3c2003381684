//! Target groups.

use std::{net::SocketAddr, time::Duration};

use super::{
    DAY,
    address::{family, usable},
    elements, health, time_within, unique, value_or,
};
use crate::config::{
    fault::Collector,
    model::{EstablishedFlows, Mode, OnAllDown, OnTargetDown, Target, TargetGroup},
    raw::{self, Document},
    read::At,
};

/// A prime of which a target among a hundred still gets its share to within a percent.
const DEFAULT_SLOTS: u32 = 16_381;

/// Checks every group. Those with a fault are left out.
pub(super) fn check(document: &Document, faults: &mut Collector) -> Vec<TargetGroup> {
    let groups = elements(&document.groups);
    let names = groups.iter().filter_map(|group| group.value.name.as_ref());
    unique(names.map(|at| (&at.value.0, &at.place)), |name| format!("the group name `{name}`"), faults);
    groups.iter().filter_map(|group| one(&group.value, faults)).collect()
}

fn one(group: &raw::Group, faults: &mut Collector) -> Option<TargetGroup> {
    let targets = targets(group, faults);
    let table_slots = table_slots(group, faults);
    let health = group.health.as_ref().map(|at| health::check(at, faults));
    let drain_bounds = (Duration::from_secs(1), 30 * DAY);
    let drain_deadline = time_within(&group.drain_deadline, Duration::from_secs(300), drain_bounds, faults);
    let down = group.on_target_down.as_ref().map(|at| &at.value);
    Some(TargetGroup {
        name: group.name.as_ref()?.value.0.clone(),
        mode: value_or(&group.mode, Mode::Nat),
        targets,
        health: match health {
            Some(health) => Some(health?),
            None => None,
        },
        on_target_down: OnTargetDown {
            tcp: down.map_or(EstablishedFlows::Keep, |down| value_or(&down.tcp, EstablishedFlows::Keep)),
            udp: down.map_or(EstablishedFlows::End, |down| value_or(&down.udp, EstablishedFlows::End)),
        },
        on_all_down: value_or(&group.on_all_down, OnAllDown::Reject),
        drain_deadline: drain_deadline?,
        table_slots,
    })
}

fn targets(group: &raw::Group, faults: &mut Collector) -> Vec<Target> {
    let Some(list) = &group.targets else { return Vec::new() };
    let targets: Vec<Target> =
        list.value.iter().filter_map(|target| one_target(&target.value, faults)).collect();
    if list.value.is_empty() {
        faults.fault(&list.place, "has no target; give at least one");
    } else if targets.len() == list.value.len() && targets.iter().all(|target| target.weight == 0) {
        faults.fault(
            &list.place,
            "every target has weight 0; give at least one of them a weight from 1 to 1000",
        );
    }
    let names = list.value.iter().filter_map(|target| target.value.name.as_ref());
    unique(names.map(|at| (&at.value.0, &at.place)), |name| format!("the target name `{name}`"), faults);
    let endpoints = list.value.iter().filter_map(|target| {
        let (address, port) = (target.value.address.as_ref()?, target.value.port.as_ref()?);
        Some((SocketAddr::new(address.value.0, port.value.0), &address.place))
    });
    unique(endpoints, |endpoint| format!("the target {endpoint}"), faults);
    let mut addresses = list.value.iter().filter_map(|target| target.value.address.as_ref());
    if let Some(first) = addresses.next() {
        for other in addresses.filter(|other| other.value.0.is_ipv4() != first.value.0.is_ipv4()) {
            let (theirs, ours) = (family(other.value.0), family(first.value.0));
            let message =
                format!("{} is an {theirs} address, but the group's first target is {ours}", other.value.0);
            faults.fault(&other.place, format!("{message}; use a group for each family"));
        }
    }
    targets
}

fn one_target(target: &raw::Target, faults: &mut Collector) -> Option<Target> {
    if let Some(At { value, place }) = &target.address {
        usable(value.0, place, faults);
    }
    let (address, port) = (target.address.as_ref()?.value.0, target.port.as_ref()?.value.0);
    let name = target.name.as_ref().map(|at| at.value.0.clone());
    Some(Target {
        name: name.unwrap_or_else(|| SocketAddr::new(address, port).to_string()),
        address,
        port,
        zone: target.zone.as_ref().map(|at| at.value.0.clone()),
        weight: target.weight.as_ref().map_or(1, |at| at.value.0),
    })
}

fn table_slots(group: &raw::Group, faults: &mut Collector) -> u32 {
    let slots = group.table_slots.as_ref().map_or(DEFAULT_SLOTS, |at| at.value.0);
    if let Some(At { place, .. }) = &group.table_slots
        && !is_prime(slots)
    {
        let below = (2..slots).rev().find(|slots| is_prime(*slots)).unwrap_or(2);
        let above = (slots..).find(|slots| is_prime(*slots)).unwrap_or(2);
        let near = if above <= 131_071 { format!("{below} and {above}") } else { below.to_string() };
        faults.fault(place, format!("{slots} is no prime number; near it are {near}"));
    }
    let count = elements(&group.targets).len();
    if u32::try_from(count).unwrap_or(u32::MAX) > slots
        && let Some(place) =
            group.table_slots.as_ref().map(|at| &at.place).or(group.targets.as_ref().map(|at| &at.place))
    {
        let message = format!("{count} targets do not fit a table of {slots} slots");
        faults.fault(place, format!("{message}; give a prime of at least a hundred times the targets"));
    }
    slots
}

fn is_prime(number: u32) -> bool {
    number >= 2
        && (2..)
            .take_while(|divisor| divisor * divisor <= number)
            .all(|divisor| !number.is_multiple_of(divisor))
}
