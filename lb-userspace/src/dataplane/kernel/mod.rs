//! The data plane in the kernel: programs, maps and links, all pinned, so that they outlive the agent.
//!
//! [`KernelDataPlane::open`] makes maps and programs ready; when [`Adopted::policy`] is false the maps are empty and are
//! to be written first; [`KernelDataPlane::attach`] is the switch. Dropping the value leaves everything running;
//! [`unload()`] removes it.

mod attach;
mod contents;
mod counters;
mod error;
pub(super) mod family;
mod flows;
mod layout;
mod loader;
mod map;
mod netlink;
mod packet_log;
mod pins;
mod preflight;
mod programs;
mod sweep;
mod sys;
mod tracepoints;
mod unload;
mod writes;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
};

use lb_common::abi::Control;

pub use self::{
    attach::{AttachMode, Attachment},
    error::OpenError,
    flows::{FlowCursor, FlowFilter, FlowPage},
    loader::{Adopted, DEFAULT_PIN_DIR, KernelOptions},
    packet_log::{PACKET_LOG_TARGET, PacketLog, PacketLogLevel},
    preflight::privileged,
    unload::{Unloaded, unload},
};
use self::{
    layout::{MapPlan, Meta},
    map::Map,
    pins::Pins,
    programs::Programs,
    sys::MapShape,
};
use super::{Contents, CounterSnapshot, DataPlane, Write, WriteError};
use crate::config::model::{Limits, XdpMode};

/// The kernel's data plane.
#[derive(Debug)]
pub struct KernelDataPlane {
    options: KernelOptions,
    pins: Pins,
    /// Held as long as this value lives: one agent at a time.
    _lock: File,
    maps: BTreeMap<String, Map>,
    programs: Programs,
    plans: BTreeMap<String, MapPlan>,
    meta: Meta,
    adopted: Adopted,
    warnings: Vec<String>,
    attachments: Vec<Attachment>,
    /// Whether all that the interfaces' links have replaced is gone.
    settled: bool,
    /// Lookup tables opened so far, by their row of `TABLES`.
    tables: BTreeMap<u32, Map>,
    /// Interfaces with a row in `TRANSMIT_FAILED`.
    watched: BTreeSet<u32>,
    /// Processors that the kernel keeps a value for.
    processors: usize,
}

impl KernelDataPlane {
    /// What of an earlier data plane goes on.
    pub fn adopted(&self) -> Adopted {
        self.adopted
    }

    /// What of the configuration is not in force, and other things that the operator should see in status.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The limits that the maps in force hold to; those of an adopted data plane differ from the configured ones until it is
    /// unloaded. Rows are to be given out by these.
    pub fn limits(&self) -> Limits {
        self.meta.limits()
    }

    /// Slots of every lookup table in force.
    pub fn table_slots(&self) -> u32 {
        self.meta.table_slots
    }

    /// Slots for unfinished handshakes, for each family.
    pub fn handshake_slots(&self) -> u32 {
        layout::HANDSHAKES
    }

    /// The program on each interface, as last read from the kernel.
    pub fn attachments(&self) -> &[Attachment] {
        &self.attachments
    }

    /// Names the interfaces that are to carry the program. [`Self::ensure_attached`] puts it there; others keep it until
    /// the next [`Self::attach`]. Naming the same again changes nothing.
    pub fn set_interfaces(&mut self, interfaces: &[String], xdp_mode: XdpMode) {
        if self.options.interfaces != interfaces || self.options.xdp_mode != xdp_mode {
            self.options.interfaces = interfaces.to_vec();
            self.options.xdp_mode = xdp_mode;
            self.settled = false;
        }
    }

    /// Opens the program's packet log; only with [`KernelOptions::packet_log`] are there lines in it.
    ///
    /// # Errors
    /// If the program has none, or the process may not open it.
    pub fn packet_log(&self) -> Result<PacketLog, OpenError> {
        PacketLog::open(&self.programs)
    }

    fn map(&self, name: &str) -> Result<&Map, WriteError> {
        self.maps.get(name).ok_or_else(|| WriteError {
            what: format!("map {name}"),
            reason: "the kernel object has none".to_owned(),
        })
    }

    fn inner_shape(&self, outer: &str) -> Result<MapShape, WriteError> {
        self.plans.get(outer).and_then(|plan| plan.inner).ok_or_else(|| WriteError {
            what: format!("map {outer}"),
            reason: "the kernel object has no template for its inner maps".to_owned(),
        })
    }
}

impl DataPlane for KernelDataPlane {
    fn write(&mut self, changes: &[Write]) -> Result<(), WriteError> {
        self.make(changes)
    }

    fn control(&self) -> Result<Control, WriteError> {
        self.read_control()
    }

    fn table(&self, table: u32) -> Result<Vec<u32>, WriteError> {
        match self.tables.get(&table) {
            Some(inner) => inner.rows(),
            None => self.table_map(table)?.map_or(Ok(Vec::new()), |inner| inner.rows()),
        }
    }

    fn contents(&self) -> Result<Contents, WriteError> {
        self.read_contents()
    }

    fn counters(&self) -> Result<CounterSnapshot, WriteError> {
        self.read_counters()
    }

    fn sweep(&mut self) -> Result<(), WriteError> {
        self.run_sweep()
    }
}
