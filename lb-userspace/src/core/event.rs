//! What the core is told and what it answers.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use ipnet::IpNet;
use jiff::Timestamp;
use lb_common::abi::{Control, NextHop, service_kind};

use super::{
    health::{Check, CheckId, Due},
    saved::{SavedAdmin, SavedRows},
};
use crate::{
    api::types::{EventKind, TargetState},
    config::model::{Config, HealthCheck, Limits},
    dataplane::{Contents, CounterSnapshot, DataPlane, Write, WriteError},
};

/// Something that happened.
#[derive(Debug, Clone)]
pub enum Event {
    /// A configuration was accepted. The first one is applied to whatever the kernel holds.
    Apply {
        /// It.
        config: Arc<Config>,
        /// What the network says of its targets.
        facts: Arc<Facts>,
    },
    /// A check ended.
    Probed {
        /// Which.
        check: CheckId,
        /// How.
        result: Check,
    },
    /// The network's picture changed.
    Network(Arc<Facts>),
    /// An operator changes a target's administrative state.
    SetTargetState {
        /// Its group.
        group: String,
        /// Its name.
        target: String,
        /// The state asked for.
        state: TargetState,
        /// When a drain ends, at the latest; the group's deadline from now if `None`.
        deadline: Option<Timestamp>,
    },
    /// The packet counters were read.
    Counters(CounterSnapshot),
    /// What the kernel holds was read.
    ReadBack(Box<Kernel>),
    /// A second or so has passed.
    Tick,
    /// The administrative states of [`Command::SaveAdmin`] could not be kept; they are to be saved again.
    AdminNotSaved,
    /// All writes of the last commands were made and read back.
    Written,
    /// One of them was not; those after it were not tried.
    WriteFailed {
        /// What was refused and why.
        error: String,
        /// The control row in force, if it could be read.
        control: Option<Control>,
    },
}

/// What the core starts from.
#[derive(Debug, Clone, Default)]
pub struct Start {
    /// The wall clock at the monotonic time zero.
    pub wall: Timestamp,
    /// Sizes of the data plane's maps.
    pub sizes: Sizes,
    /// What the kernel holds; `None` if its maps are new.
    pub kernel: Option<Kernel>,
    /// The rows as saved; `None` if there are none, or they could not be read.
    pub rows: Option<SavedRows>,
    /// The administrative states as saved.
    pub admin: SavedAdmin,
}

/// Sizes of the data plane's maps; fixed while they live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Limits in force.
    pub limits: Limits,
    /// Slots of every lookup table.
    pub table_slots: u32,
    /// Rows of the handshakes.
    pub handshakes: u32,
    /// Rows of the rings.
    pub ring: u32,
}

impl Default for Sizes {
    fn default() -> Self {
        let limits = Limits {
            flows: 262_144,
            services: 1024,
            targets: 4096,
            groups: 256,
            access_prefixes: 16_384,
            client_routes: 16_384,
        };
        Self { limits, table_slots: 16_381, handshakes: 65_536, ring: 262_144 }
    }
}

/// What the kernel holds, as read.
#[derive(Debug, Clone, Default)]
pub struct Kernel {
    /// The control row.
    pub control: Control,
    /// Rows, routes, services and access in force.
    pub contents: Contents,
    /// The lookup tables that the services in force name, by row of the outer map.
    pub tables: BTreeMap<u32, Vec<u32>>,
}

impl Kernel {
    /// Reads all that is compared.
    ///
    /// # Errors
    /// As for any read of a map.
    pub fn read(plane: &impl DataPlane) -> Result<Self, WriteError> {
        let contents = plane.contents()?;
        let named = contents.services.iter().filter(|row| row.service.kind == service_kind::SERVICE);
        let rows: BTreeSet<u32> = named.map(|row| row.service.table).collect();
        let tables =
            rows.into_iter().map(|row| Ok((row, plane.table(row)?))).collect::<Result<_, WriteError>>()?;
        Ok(Self { control: plane.control()?, contents, tables })
    }
}

/// What the network says.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Facts {
    /// The way to each target's address, or why there is none.
    pub targets: BTreeMap<IpAddr, Result<Hop, String>>,
    /// Prefixes of clients and the way back to them.
    pub client_routes: Vec<(IpNet, Hop)>,
    /// Prefixes within which no way is known but those of longer prefixes.
    pub client_gaps: Vec<IpNet>,
}

/// The way to an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hop {
    /// As the program wants it.
    pub next_hop: NextHop,
    /// The router, if the address is not on the link.
    pub gateway: Option<IpAddr>,
}

/// Something to be done. Commands are carried out in their order.
#[derive(Debug, Clone)]
pub enum Command {
    /// Keep the rows before any write that follows is made.
    SaveRows(SavedRows),
    /// Keep the administrative states; [`Event::AdminNotSaved`] if that fails.
    SaveAdmin(SavedAdmin),
    /// Change the data plane; answered by [`Event::Written`] or [`Event::WriteFailed`].
    Write(Vec<Write>),
    /// Read what the kernel holds; answered by [`Event::ReadBack`].
    ReadBack,
    /// Check a target so from now on.
    StartChecks(Checks),
    /// Check it once, at this time.
    Probe(Due),
    /// Check it no more.
    StopChecks {
        /// [`CheckId::incarnation`].
        life: u64,
    },
    /// The VIPs to be put on the first interface and announced; all others of ours are taken off.
    Vips(BTreeSet<IpAddr>),
    /// Addresses whose next hops must be kept resolved, whole.
    KeepWarm(BTreeSet<IpAddr>),
    /// Tell whoever watches.
    Notify(Notice),
    /// The configuration cannot be applied to these maps; nothing was changed.
    Refuse(Vec<String>),
}

/// How a target is checked.
#[derive(Debug, Clone)]
pub struct Checks {
    /// [`CheckId::incarnation`].
    pub life: u64,
    /// Its group, whose check it is.
    pub group: String,
    /// Its own address and port.
    pub address: SocketAddr,
    /// The check.
    pub check: Arc<HealthCheck>,
}

/// Something worth telling.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// Of what kind.
    pub kind: EventKind,
    /// What it happened to.
    pub subject: String,
    /// What happened.
    pub message: String,
}

/// A difference between the kernel's maps and what they should hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The map's name.
    pub map: String,
    /// What differs.
    pub detail: String,
    /// When it was first seen.
    pub since: Timestamp,
}
