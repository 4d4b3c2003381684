//! Opening the data plane: adopting pinned maps and programs that fit, making the others beside them.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    fs,
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use aya_obj::Object;
use lb_common::abi;

use super::{
    KernelDataPlane, OpenError, PacketLogLevel,
    layout::{self, Class, MapPlan, Meta},
    map::Map,
    pins::{self, Pins},
    preflight,
    programs::{self, Programs, Source},
    sys,
};
use crate::config::model::{Limits, XdpMode};

/// Where the pins are unless told otherwise.
pub const DEFAULT_PIN_DIR: &str = "/sys/fs/bpf/portside";

/// What the data plane is opened with.
#[derive(Debug, Clone)]
pub struct KernelOptions {
    /// Where programs, maps and links are pinned; on a BPF file system.
    pub pin_dir: PathBuf,
    /// Interfaces whose receive path carries the program.
    pub interfaces: Vec<String>,
    /// How the program may be attached.
    pub xdp_mode: XdpMode,
    /// Sizes of the maps; of maps that live already, the sizes in force stay.
    pub limits: Limits,
    /// Slots of every lookup table; as for `limits`.
    pub table_slots: u32,
    /// Whether and how much the program logs.
    pub packet_log: Option<PacketLogLevel>,
    /// The kernel object, aligned to eight bytes.
    pub object: Cow<'static, [u8]>,
}

/// What of an earlier data plane goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Adopted {
    /// Flows, unfinished handshakes and their ports.
    pub flows: bool,
    /// Services, access, tables, targets, next hops, control. If not, all of them are to be written before
    /// [`KernelDataPlane::attach`].
    pub policy: bool,
    /// The program; if not, another one is put in its place by [`KernelDataPlane::attach`].
    pub program: bool,
}

impl KernelDataPlane {
    /// Makes maps and programs ready, adopting what fits. Packets are not touched before [`Self::attach`], which is also
    /// the first to ask whether every interface is there.
    ///
    /// # Errors
    /// [`OpenError`] says what is missing and what to do; nothing that was in force has changed then.
    pub fn open(options: KernelOptions) -> Result<Self, OpenError> {
        preflight::host(&options.pin_dir)?;
        let pins = Pins::new(&options.pin_dir);
        for name in &options.interfaces {
            if let Ok(ifindex) = preflight::interface(name) {
                preflight::no_foreign_program(&pins, name, ifindex)?;
            }
        }
        let object =
            Object::parse(&options.object).map_err(|error| OpenError::Object(programs::chain(&error)))?;
        pins.create()?;
        let lock = preflight::lock(pins.root())?;
        finish_or_discard_next(&pins)?;

        let Maps { maps, meta, mut adopted, new, warnings } = open_maps(&pins, &object, &options)?;
        let plans = layout::plan(&object, &meta);
        let version = programs::version(&options.object, options.packet_log);
        let found = new.is_empty().then(|| Programs::find(&pins, &version, &object, &maps)).flatten();
        adopted.program = found.is_some();
        let programs = match found {
            Some(programs) => programs,
            None => {
                let source = Source {
                    bytes: &options.object,
                    object: &object,
                    map_pins: &map_pins(&pins, &maps, &new),
                    tail_calls: plans.get(abi::map::PROGRAMS),
                    level: options.packet_log,
                };
                Programs::load(&pins, &version, &source)?
            }
        };
        Ok(Self {
            options,
            pins,
            _lock: lock,
            maps,
            programs,
            plans,
            meta,
            adopted,
            warnings,
            attachments: Vec::new(),
            settled: false,
            tables: BTreeMap::new(),
            watched: BTreeSet::new(),
            processors: processors()?,
        })
    }

    /// Makes the maps that wait in `next` the ones in force.
    pub(super) fn promote_next(&self) -> Result<(), OpenError> {
        promote(&self.pins)
    }
}

/// Processors that may ever be there: maps per processor have a value for each.
fn processors() -> Result<usize, OpenError> {
    aya::util::nr_cpus().map_err(|(path, error)| OpenError::system(format!("read {path}"))(error))
}

struct Maps {
    maps: BTreeMap<String, Map>,
    meta: Meta,
    adopted: Adopted,
    /// Those that were made.
    new: BTreeSet<String>,
    warnings: Vec<String>,
}

fn open_maps(pins: &Pins, object: &Object, options: &KernelOptions) -> Result<Maps, OpenError> {
    let wanted = Meta::new(&options.limits, options.table_slots);
    let live = live_meta(pins)?;
    let mut warnings = Vec::new();
    // Sizes stay while flows do: rows of targets and next hops are in the flows.
    let meta = match live {
        Some(live) if live.flow_version == wanted.flow_version => {
            warnings = live.differences(&wanted);
            Meta { version: wanted.version, access_prefixes: wanted.access_prefixes, ..live }
        }
        Some(live) => {
            warnings.push(format!(
                "the layout of flows changed from version {} to {}: established flows end",
                live.flow_version, wanted.flow_version
            ));
            wanted
        }
        None => wanted,
    };
    let plans = layout::plan(object, &meta);

    let mut maps = BTreeMap::new();
    for (name, plan) in plans.iter().filter(|(_, plan)| plan.class != Class::Program) {
        let pinned = Map::from_pin(name, &pins.maps().join(name))?;
        if let Some(map) = pinned.filter(|map| *map.shape() == plan.shape) {
            maps.insert(name.clone(), map);
        }
    }
    let adoptable = |class: Class| {
        plans.iter().filter(|(_, plan)| plan.class == class).all(|(name, _)| maps.contains_key(name))
    };
    let same_flows = live.is_some_and(|live| live.flow_version == wanted.flow_version);
    let adopted = Adopted {
        flows: same_flows && adoptable(Class::Flows),
        policy: same_flows
            && live.is_some_and(|live| live.version == wanted.version)
            && adoptable(Class::Policy),
        program: false,
    };
    maps.retain(|name, _| match plans[name].class {
        Class::Flows => adopted.flows,
        Class::Policy => adopted.policy,
        Class::Counters => same_flows && adopted.flows,
        Class::Program => false,
    });
    if live.is_some() && same_flows && !adopted.flows {
        warnings.push("the pinned flow tables do not fit this program: established flows end".to_owned());
    }

    let mut new = BTreeSet::new();
    for (name, plan) in plans.iter().filter(|(_, plan)| plan.class != Class::Program) {
        if !maps.contains_key(name) {
            let map = create(name, plan, &pins.next().join(name))?;
            new.insert(name.clone());
            maps.insert(name.clone(), map);
        }
    }
    if let Some(map) = maps.get(layout::META).filter(|_| !adopted.policy) {
        map.set(&0u32, &meta)?;
    }
    Ok(Maps { maps, meta, adopted, new, warnings })
}

fn live_meta(pins: &Pins) -> Result<Option<Meta>, OpenError> {
    let map = Map::from_pin(layout::META, &pins.maps().join(layout::META))?;
    // One of another size is another version's: nothing about it is known.
    match map.filter(|map| map.shape().value_size as usize == size_of::<Meta>()) {
        Some(map) => Ok(map.get(&0u32)?),
        None => Ok(None),
    }
}

/// Makes a map and pins it.
pub(super) fn create(name: &str, plan: &MapPlan, path: &Path) -> Result<Map, OpenError> {
    let template = match &plan.inner {
        Some(inner) => Some(Map::create("template", inner, None)?),
        None => None,
    };
    let map = Map::create(name, &plan.shape, template.as_ref())?;
    sys::pin(map.fd(), path).map_err(OpenError::system(format!("pin {}", path.display())))?;
    Ok(map)
}

fn map_pins(pins: &Pins, maps: &BTreeMap<String, Map>, new: &BTreeSet<String>) -> BTreeMap<String, PathBuf> {
    maps.keys()
        .map(|name| {
            let folder = if new.contains(name) { pins.next() } else { pins.maps() };
            (name.clone(), folder.join(name))
        })
        .collect()
}

/// Maps in `next` were left by an agent that ended while it changed the program: after the switch they are the ones in
/// force, before it they are nothing.
fn finish_or_discard_next(pins: &Pins) -> Result<(), OpenError> {
    let next: BTreeSet<u32> = pins::names(&pins.next())
        .iter()
        .filter_map(|name| Map::from_pin(name, &pins.next().join(name)).ok().flatten())
        .map(|map| map.id())
        .collect();
    if maps_of_attached_versions(pins).iter().any(|id| next.contains(id)) {
        return promote(pins);
    }
    for name in pins::names(&pins.next()) {
        pins::remove_pin(&pins.next().join(name))?;
    }
    Ok(())
}

/// Ids of the maps that any program of an attached version uses.
fn maps_of_attached_versions(pins: &Pins) -> BTreeSet<u32> {
    let attached = pins.attached_programs();
    let mut maps = BTreeSet::new();
    for version in pins::names(&pins.programs()) {
        let folder = pins.programs().join(version);
        let programs: Vec<_> = pins::names(&folder)
            .iter()
            .filter(|name| *name != abi::map::PROGRAMS)
            .filter_map(|name| sys::open_pin(&folder.join(name)).ok())
            .filter_map(|fd| sys::program_info(fd.as_fd()).ok())
            .collect();
        if programs.iter().any(|program| attached.contains(&program.id)) {
            maps.extend(programs.into_iter().flat_map(|program| program.maps));
        }
    }
    maps
}

fn promote(pins: &Pins) -> Result<(), OpenError> {
    for name in pins::names(&pins.next()) {
        let (from, to) = (pins.next().join(&name), pins.maps().join(&name));
        fs::rename(&from, &to).map_err(OpenError::system(format!("move {} to maps", from.display())))?;
    }
    Ok(())
}
