//! The kernel program run on frames, in an environment that is written down once: [`Memory`]. What is in it is copied
//! to the maps, so the host-compiled packet path and the kernel's start from the same.
//!
//! Runs happen in the calling thread's network namespace; the frame comes in by its loopback device.

mod map;
mod pair;
mod sys;
pub mod town;

use std::{
    collections::{BTreeMap, HashMap},
    hash::Hash,
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    sync::Mutex,
};

use anyhow::{Context, Result, bail};
use aya::{
    EbpfLoader,
    maps::{Map as AyaMap, MapData},
    programs::{Program as AyaProgram, Xdp},
};
use lb_common::{
    abi::{
        self, ACCESS_SERVICE_BITS, AccessKey, Counters, FILTER_BITS, Flow, FlowKey, Handshake, RingSlot,
        Service, ServiceKey,
    },
    addr::{Ip, V4, V6},
    memory::{Families, Memory},
    tables::Common,
    verdict::{Outcome, Verdict},
};

pub use self::{map::Map, pair::Pair};

/// Index of the interface that frames come in by: the loopback device of every namespace.
pub const INGRESS: u32 = 1;
/// Rows of the inner maps of `TABLES`, as the object's template has them.
const TABLE_ROWS: u32 = 16_381;
/// Entries of the inner maps of `SERVICES*` and `ACCESS*`.
const INNER_ROWS: u32 = 256;
/// `BPF_MAP_TYPE_*`.
const HASH: u32 = 1;
/// The same.
const ARRAY: u32 = 2;
/// The same.
const LPM_TRIE: u32 = 11;
/// `BPF_F_NO_PREALLOC`, without which there are no tries.
const NO_PREALLOC: u32 = 1;

/// Sizes of the maps.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Flows of each family; the flow table has twice as many entries.
    pub flows: u32,
    /// Handshake slots of each family.
    pub handshakes: u32,
    /// Rows of targets and their counters.
    pub targets: u32,
    /// Rows of next hops.
    pub next_hops: u32,
}

impl Sizes {
    /// Tables in memory of this size.
    #[must_use]
    pub fn memory(&self) -> Memory {
        Memory::new(self.flows, self.handshakes, self.targets, self.next_hops)
    }
}

/// What a run did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// The XDP action.
    pub action: u32,
    /// The frame afterwards.
    pub bytes: Vec<u8>,
}

/// The XDP action that a verdict comes to.
#[must_use]
pub fn action_of(verdict: Verdict) -> u32 {
    const DROP: u32 = 1;
    const PASS: u32 = 2;
    const TX: u32 = 3;
    const REDIRECT: u32 = 4;
    match (verdict.outcome(), verdict) {
        (Outcome::Passed, _) => PASS,
        (Outcome::Forwarded, Verdict::Redirected) => REDIRECT,
        (Outcome::Forwarded | Outcome::Answered, _) => TX,
        (Outcome::Dropped, _) => DROP,
    }
}

/// The loaded object.
#[derive(Debug)]
pub struct Program {
    entry: OwnedFd,
    sweep: OwnedFd,
    maps: HashMap<String, Map>,
    /// Inner maps by outer map's name and row.
    inner: Mutex<BTreeMap<(&'static str, u32), Map>>,
    processors: usize,
}

impl Program {
    /// Loads the object. `clock` is the tick at which time stands still, or 0 for the kernel's own time.
    ///
    /// # Errors
    /// What is missing, or what the kernel refused.
    pub fn load(sizes: Sizes, clock: u32) -> Result<Self> {
        crate::require::root()?;
        let mut loader = EbpfLoader::new();
        loader.override_global("PORTSIDE_FIXED_CLOCK", &clock, true);
        loader.override_global("AYA_LOG_LEVEL", &0u8, false);
        for family in 0..2 {
            loader.map_max_entries(abi::map::FLOWS[family], sizes.flows * 2);
            loader.map_max_entries(abi::map::HANDSHAKES[family], sizes.handshakes);
            loader.map_max_entries(abi::map::RING[family], sizes.flows);
        }
        loader.map_max_entries(abi::map::TARGETS, sizes.targets);
        loader.map_max_entries(abi::map::NEXT_HOPS, sizes.next_hops);
        loader.map_max_entries(abi::map::TARGET_COUNTERS, sizes.targets);
        loader.map_max_entries(abi::map::SERVICE_COUNTERS, sizes.targets);
        let mut object = loader
            .load(lb_userspace::dataplane::object::OBJECT)
            .context("the kernel object (`cargo xtask build` makes it)")?;
        let mut load = |name: &str| -> Result<OwnedFd> {
            let program: &mut Xdp = match object.program_mut(name) {
                Some(AyaProgram::Xdp(program)) => program,
                _ => bail!("the object has no XDP program {name}"),
            };
            program.load().with_context(|| format!("load {name}"))?;
            Ok(program.fd()?.as_fd().try_clone_to_owned()?)
        };
        let entry = load(abi::program::ENTRY)?;
        let sweep = load(abi::program::SWEEP)?;
        let admit = [load(abi::program::ADMIT[0])?, load(abi::program::ADMIT[1])?];
        let mut maps = HashMap::new();
        for (name, map) in object.maps() {
            let Some(data) = data(map) else { continue };
            let info = data.info()?;
            maps.insert(
                name.to_owned(),
                Map {
                    fd: data.fd().as_fd().try_clone_to_owned()?,
                    key_size: info.key_size() as usize,
                    value_size: info.value_size() as usize,
                    entries: info.max_entries(),
                },
            );
        }
        let program = Self {
            entry,
            sweep,
            maps,
            inner: Mutex::default(),
            processors: aya::util::nr_cpus().map_err(|(path, error)| anyhow::anyhow!("{path}: {error}"))?,
        };
        for (row, program_fd) in admit.iter().enumerate() {
            program
                .map(abi::map::PROGRAMS)
                .set(row as u32, program_fd.as_raw_fd())
                .context("fill the program array")?;
        }
        Ok(program)
    }

    /// A map by its name.
    ///
    /// # Panics
    /// If the object has none.
    #[must_use]
    #[expect(clippy::panic, reason = "the test is written for another object")]
    pub fn map(&self, name: &str) -> &Map {
        self.maps.get(name).unwrap_or_else(|| panic!("the object has no map {name}"))
    }

    /// Runs the entry on a frame. The frame must have an Ethernet header at least.
    ///
    /// # Errors
    /// What the kernel says to the run.
    pub fn run(&self, frame: &[u8]) -> io::Result<Output> {
        let mut bytes = vec![0; 4096];
        let (action, length) = sys::test_run(self.entry.as_fd(), frame, &mut bytes)?;
        bytes.truncate(length);
        Ok(Output { action, bytes })
    }

    /// Runs the entry on a frame, and gives the one verdict that was counted since `counts`, which is [`Self::verdicts`] of
    /// before and then of after. Nothing else may run meanwhile.
    ///
    /// # Errors
    /// What the kernel says, and if not exactly one verdict was counted, once.
    pub fn verdict(&self, frame: &[u8], counts: &mut Vec<u64>) -> Result<(Verdict, Output)> {
        let output = self.run(frame)?;
        let after = self.verdicts()?;
        let before = std::mem::replace(counts, after.clone());
        let moved: Vec<_> = Verdict::ALL
            .into_iter()
            .zip(after.iter().zip(&before).map(|(after, before)| after - before))
            .filter(|(_, by)| *by != 0)
            .collect();
        match moved[..] {
            [(verdict, 1)] => Ok((verdict, output)),
            _ => bail!("one packet, but these verdicts were counted: {moved:?}"),
        }
    }

    /// Runs the agent's housekeeping once.
    ///
    /// # Errors
    /// What the kernel says to the run.
    pub fn sweep(&self) -> io::Result<()> {
        sys::test_run(self.sweep.as_fd(), &[0; 64], &mut [0; 256]).map(drop)
    }

    /// Packets by verdict, in the order of the rows.
    ///
    /// # Errors
    /// What the kernel says; so for the other readers.
    pub fn verdicts(&self) -> io::Result<Vec<u64>> {
        let rows = self.map(abi::map::VERDICTS).per_processor::<u64>(self.processors)?;
        Ok(rows.into_iter().map(|row| row.iter().sum()).collect())
    }

    /// Counters by service.
    pub fn service_counters(&self) -> io::Result<Vec<Counters>> {
        self.counters(abi::map::SERVICE_COUNTERS)
    }

    /// Counters by target.
    pub fn target_counters(&self) -> io::Result<Vec<Counters>> {
        self.counters(abi::map::TARGET_COUNTERS)
    }

    fn counters(&self, name: &str) -> io::Result<Vec<Counters>> {
        let rows = self.map(name).per_processor::<Counters>(self.processors)?;
        Ok(rows
            .into_iter()
            .map(|row| {
                row.into_iter().fold(Counters::default(), |a, b| Counters {
                    packets_in: a.packets_in + b.packets_in,
                    bytes_in: a.bytes_in + b.bytes_in,
                    packets_out: a.packets_out + b.packets_out,
                    bytes_out: a.bytes_out + b.bytes_out,
                    opened: a.opened + b.opened,
                    closed: a.closed + b.closed,
                })
            })
            .collect())
    }

    /// All entries of the flow table, in no order.
    pub fn flows<A: Ip>(&self) -> io::Result<Vec<(FlowKey<A>, Flow<A>)>> {
        self.map(abi::map::FLOWS[A::IS_V6 as usize]).entries()
    }

    /// All handshake slots.
    pub fn handshakes<A: Ip>(&self) -> io::Result<Vec<Handshake<A>>> {
        self.map(abi::map::HANDSHAKES[A::IS_V6 as usize]).all()
    }

    /// All places of the ring.
    pub fn ring<A: Ip>(&self) -> io::Result<Vec<RingSlot<A>>> {
        self.map(abi::map::RING[A::IS_V6 as usize]).all()
    }

    /// Takes away all flows, handshakes and counts.
    pub fn reset(&self) -> io::Result<()> {
        for family in 0..2 {
            self.map(abi::map::FLOWS[family]).clear()?;
            self.map(abi::map::HANDSHAKES[family]).zero(1)?;
            self.map(abi::map::RING[family]).zero(1)?;
        }
        self.map(abi::map::CURSORS).zero(1)?;
        for name in [abi::map::VERDICTS, abi::map::SERVICE_COUNTERS, abi::map::TARGET_COUNTERS] {
            self.map(name).zero(self.processors)?;
        }
        Ok(())
    }

    /// Copies everything that the agent would have written: control, filter, services, access, tables, targets, next hops,
    /// routes, source addresses.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn configure(&self, from: &Memory) -> Result<()> {
        let filter: Vec<u64> = (0..FILTER_BITS / 64).map(|word| from.filter(word)).collect();
        self.map(abi::map::FILTER).set_all(&filter).context("the filter")?;
        self.map(abi::map::TARGETS).set_all(&from.targets).context("targets")?;
        self.map(abi::map::NEXT_HOPS).set_all(&from.next_hops).context("next hops")?;
        for (row, slots) in &from.tables {
            let shape = (ARRAY, 4, 4, TABLE_ROWS, 0);
            self.inner(abi::map::TABLES, *row, shape, |table| table.set_all(slots)).context("tables")?;
        }
        self.configure_family::<V4>(from)?;
        self.configure_family::<V6>(from)?;
        self.map(abi::map::CONTROL).set(0u32, from.control).context("control")
    }

    fn configure_family<A: Ip + Hash>(&self, from: &Memory) -> Result<()>
    where
        Memory: Families<A>,
    {
        let (family, of) = (A::IS_V6 as usize, Families::<A>::family(from));
        for generation in 0..2 {
            let sizes = (size_of::<ServiceKey<A>>(), size_of::<Service>());
            let shape = (HASH, sizes.0, sizes.1, INNER_ROWS, 0);
            self.inner(abi::map::SERVICES[family], generation, shape, |services| {
                services.clear()?;
                let rows = &of.services[generation as usize];
                rows.iter().try_for_each(|(key, service)| services.set(*key, *service))
            })
            .context("services")?;
            let shape = (LPM_TRIE, 4 + size_of::<AccessKey<A>>(), 4, INNER_ROWS, NO_PREALLOC);
            self.inner(abi::map::ACCESS[family], generation, shape, |access| {
                access.clear()?;
                of.access[generation as usize].iter().try_for_each(|&(service, address, length, allowed)| {
                    let key = Prefix {
                        length: ACCESS_SERVICE_BITS + length,
                        value: AccessKey { service, address },
                    };
                    access.set(key, u32::from(allowed))
                })
            })
            .context("access")?;
        }
        let routes = self.map(abi::map::ROUTES[family]);
        routes.clear().context("routes")?;
        for &(address, length, row) in &of.routes {
            routes.set(Prefix { length, value: address }, row).context("routes")?;
        }
        self.map(abi::map::SNAT[family]).set_all(&of.snat).context("source addresses")
    }

    /// Does something to an inner map, which is made if it is not there.
    fn inner(
        &self,
        outer: &'static str,
        row: u32,
        (kind, key, value, entries, flags): (u32, usize, usize, u32, u32),
        act: impl FnOnce(&Map) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut inner = self.inner.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(map) = inner.get(&(outer, row)) {
            return act(map);
        }
        let fd = sys::create(kind, key, value, entries, flags)?;
        self.map(outer).set(row, fd.as_raw_fd())?;
        let map = Map { fd, key_size: key, value_size: value, entries };
        act(&map)?;
        inner.insert((outer, row), map);
        Ok(())
    }
}

/// Key of a trie: how many bits of the value count.
#[derive(Clone, Copy)]
#[repr(C)]
struct Prefix<T> {
    length: u32,
    value: T,
}

/// The data of the kinds of map that the object has.
fn data(map: &AyaMap) -> Option<&MapData> {
    match map {
        AyaMap::Array(data)
        | AyaMap::ArrayOfMaps(data)
        | AyaMap::HashMap(data)
        | AyaMap::LpmTrie(data)
        | AyaMap::PerCpuArray(data)
        | AyaMap::ProgramArray(data) => Some(data),
        _ => None,
    }
}
