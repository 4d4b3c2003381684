//! Sizes of the kernel's maps, and whether the configuration fits them.

use super::elements;
use crate::config::{
    fault::{Collector, Place},
    model::Limits,
    raw::Document,
    read::At,
    scalar::Whole,
};

/// The limits, with a fault for each that the configuration exceeds; that of access prefixes is seen to where they
/// are gathered.
pub(super) fn check(document: &Document, faults: &mut Collector) -> Limits {
    let raw = document.limits.as_ref().map(|at| &at.value);
    let limits = Limits {
        flows: raw.map_or(262_144, |raw| number(&raw.flows, 262_144)),
        services: raw.map_or(1024, |raw| number(&raw.services, 1024)),
        targets: raw.map_or(4096, |raw| number(&raw.targets, 4096)),
        groups: raw.map_or(256, |raw| number(&raw.groups, 256)),
        access_prefixes: raw.map_or(16_384, |raw| number(&raw.access_prefixes, 16_384)),
        client_routes: raw.map_or(16_384, |raw| number(&raw.client_routes, 16_384)),
    };
    let targets = elements(&document.groups).iter().map(|group| elements(&group.value.targets).len()).sum();
    let services_place = document.services.as_ref().map(|at| &at.place);
    let groups_place = document.groups.as_ref().map(|at| &at.place);
    let mut fits = |count: usize, limit: u32, what: &str, key: &str, place: Option<&Place>| {
        if let Some(place) = place.filter(|_| u32::try_from(count).unwrap_or(u32::MAX) > limit) {
            faults.fault(place, format!("{count} {what} are more than `limits.{key}`, {limit}; raise it"));
        }
    };
    fits(elements(&document.services).len(), limits.services, "services", "services", services_place);
    fits(elements(&document.groups).len(), limits.groups, "groups", "groups", groups_place);
    fits(targets, limits.targets, "targets", "targets", groups_place);
    limits
}

fn number<const MIN: u32, const MAX: u32>(key: &Option<At<Whole<MIN, MAX>>>, default: u32) -> u32 {
    key.as_ref().map_or(default, |at| at.value.0)
}
