//! Which maps there are, what each is made of, and how large the configuration wants it.

use std::collections::BTreeMap;

use aya_obj::Object;
use lb_common::abi::{self, map};

use super::{map::Plain, sys::MapShape};
use crate::config::model::Limits;

/// `BPF_MAP_TYPE_*` as far as we tell them apart.
pub(crate) mod kind {
    /// Array.
    pub(crate) const ARRAY: u32 = 2;
    /// Longest-prefix trie.
    pub(crate) const LPM_TRIE: u32 = 11;
}

/// Slots of an unfinished handshake's array: one a source port.
pub(crate) const HANDSHAKES: u32 = 1 << 16;

/// Our own map, which says what the others were made by and for.
pub(crate) const META: &str = "META";

/// What can be replaced without the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Class {
    /// Holds flows: kept as long as [`abi::FLOW_VERSION`] is.
    Flows,
    /// Holds counts by stable rows: kept as long as its shape is.
    Counters,
    /// Filled by the agent: kept as long as [`abi::VERSION`] is.
    Policy,
    /// A program version's own.
    Program,
}

/// How the maps were made; the one row of [`META`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct Meta {
    /// [`abi::VERSION`].
    pub(crate) version: u32,
    /// [`abi::FLOW_VERSION`].
    pub(crate) flow_version: u32,
    /// The sizes in force.
    pub(crate) flows: u32,
    pub(crate) services: u32,
    pub(crate) targets: u32,
    pub(crate) groups: u32,
    pub(crate) access_prefixes: u32,
    pub(crate) client_routes: u32,
    pub(crate) table_slots: u32,
    pub(crate) reserved: u32,
}

// SAFETY: ten `u32`.
unsafe impl Plain for Meta {}

impl Meta {
    /// What this program makes for a configuration.
    pub(crate) fn new(limits: &Limits, table_slots: u32) -> Self {
        Self {
            version: abi::VERSION,
            flow_version: abi::FLOW_VERSION,
            flows: limits.flows,
            services: limits.services,
            targets: limits.targets,
            groups: limits.groups,
            access_prefixes: limits.access_prefixes,
            client_routes: limits.client_routes,
            table_slots,
            reserved: 0,
        }
    }

    /// The limits that the maps in force hold to.
    pub(crate) fn limits(&self) -> Limits {
        Limits {
            flows: self.flows,
            services: self.services,
            targets: self.targets,
            groups: self.groups,
            access_prefixes: self.access_prefixes,
            client_routes: self.client_routes,
        }
    }

    /// What of a wanted configuration cannot take effect while these maps live.
    pub(crate) fn differences(&self, wanted: &Self) -> Vec<String> {
        let sizes = [
            ("limits.flows", wanted.flows, self.flows),
            ("limits.services", wanted.services, self.services),
            ("limits.targets", wanted.targets, self.targets),
            ("limits.groups", wanted.groups, self.groups),
            ("limits.client_routes", wanted.client_routes, self.client_routes),
            ("table_slots", wanted.table_slots, self.table_slots),
        ];
        sizes
            .iter()
            .filter(|(_, wanted, live)| wanted != live)
            .map(|(name, wanted, live)| {
                format!(
                    "{name} is {wanted}, the tables in force hold {live}; takes effect after `lbd unload`"
                )
            })
            .collect()
    }

    /// Entries of a map, if the configuration says so.
    fn entries(&self, name: &str) -> Option<u32> {
        // A hash map's elements wait in lists by processor; a little more than is ever used keeps them from running dry.
        let flows = self.flows.saturating_mul(2).saturating_add(1024);
        Some(match name {
            name if map::FLOWS.contains(&name) => flows,
            name if map::RING.contains(&name) => self.flows,
            name if map::HANDSHAKES.contains(&name) => HANDSHAKES,
            map::TARGETS | map::TARGET_COUNTERS => self.targets + 1,
            map::NEXT_HOPS => self.targets + 1 + 2 * self.client_routes,
            map::SERVICE_COUNTERS => self.services + 1,
            map::TABLES => 2 * self.groups,
            name if map::ROUTES.contains(&name) => self.client_routes,
            _ => return None,
        })
    }
}

/// A map as the kernel object and the configuration want it.
#[derive(Debug, Clone)]
pub(crate) struct MapPlan {
    pub(crate) class: Class,
    pub(crate) shape: MapShape,
    /// The template of a map of maps.
    pub(crate) inner: Option<MapShape>,
}

/// All maps of the object that are pinned, by name.
pub(crate) fn plan(object: &Object, meta: &Meta) -> BTreeMap<String, MapPlan> {
    let mut plans: BTreeMap<_, _> = object
        .maps
        .iter()
        .filter_map(|(name, map)| Some((name, map, class(name)?)))
        .map(|(name, map, class)| {
            let mut shape = shape_of(map);
            if let Some(entries) = meta.entries(name) {
                shape.max_entries = entries;
            }
            let inner = map.inner().map(|inner| {
                let mut shape = shape_of(&inner);
                if name == map::TABLES {
                    shape.max_entries = meta.table_slots;
                }
                shape
            });
            (name.clone(), MapPlan { class, shape, inner })
        })
        .collect();
    let shape = MapShape {
        kind: kind::ARRAY,
        key_size: 4,
        value_size: size_of::<Meta>() as u32,
        max_entries: 1,
        flags: 0,
    };
    plans.insert(META.to_owned(), MapPlan { class: Class::Policy, shape, inner: None });
    plans
}

fn shape_of(map: &aya_obj::Map) -> MapShape {
    MapShape {
        kind: map.map_type(),
        key_size: map.key_size(),
        value_size: map.value_size(),
        max_entries: map.max_entries(),
        flags: map.map_flags(),
    }
}

/// `None` for what belongs to one load of the program alone: its globals, its scratch room, the packet log's ring.
fn class(name: &str) -> Option<Class> {
    let flows = [map::FLOWS, map::RING, map::HANDSHAKES];
    let policy = [map::SERVICES, map::ACCESS, map::ROUTES, map::SNAT];
    match name {
        map::PROGRAMS => Some(Class::Program),
        map::VERDICTS | map::SERVICE_COUNTERS | map::TARGET_COUNTERS | map::TRANSMIT_FAILED => {
            Some(Class::Counters)
        }
        map::CURSORS => Some(Class::Flows),
        map::CONTROL | map::FILTER | map::TABLES | map::TARGETS | map::NEXT_HOPS => Some(Class::Policy),
        name if flows.as_flattened().contains(&name) => Some(Class::Flows),
        name if policy.as_flattened().contains(&name) => Some(Class::Policy),
        _ => None,
    }
}
