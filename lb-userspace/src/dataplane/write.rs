//! What the control core asks of a data plane, and what it reads back: the one boundary between deciding and doing.

use std::net::IpAddr;

use ipnet::IpNet;
use lb_common::abi::{Control, Counters, NextHop, Service, Target};

/// One change to a data plane. Changes of a list are made in its order; each has been read back when it is reported
/// as made.
#[derive(Debug, Clone, PartialEq)]
pub enum Write {
    /// Row `row` of the targets.
    Target {
        /// Row, 1 and up.
        row: u32,
        /// Its content.
        target: Target,
    },
    /// Row `row` of the next hops; the default value unresolves it.
    NextHop {
        /// Row, 1 and up.
        row: u32,
        /// Its content.
        next_hop: NextHop,
    },
    /// A route to clients: added, or its row changed.
    Route {
        /// The clients meant.
        prefix: IpNet,
        /// Row of the next hops; `None` removes the route.
        row: Option<u32>,
    },
    /// A whole new lookup table, not yet in use by the current generation.
    Table {
        /// Row of the outer map.
        table: u32,
        /// Rows of the targets, `Control::table_slots` of them.
        slots: Vec<u32>,
    },
    /// Some slots of a lookup table in use, in place.
    TableSlots {
        /// Row of the outer map.
        table: u32,
        /// Slot and its new target row.
        slots: Vec<(u32, u32)>,
    },
    /// The source addresses of `nat` flows, whole; their order is the rows'.
    SourceAddresses(Vec<IpAddr>),
    /// Addresses that the program must look at, whole: those whose bit is not among them are cleared.
    Filter(Vec<IpAddr>),
    /// The whole content of the generation that is not in force.
    Generation {
        /// 0 or 1.
        generation: u32,
        /// Services, VIPs and source addresses.
        services: Vec<ServiceRow>,
        /// Who may connect to which service.
        access: Vec<AccessRow>,
    },
    /// The control row: the one write that puts a generation and an epoch in force.
    Control(Control),
}

/// A row of a generation's services; port and protocol 0 mark what the address is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceRow {
    /// The VIP or source address.
    pub address: IpAddr,
    /// Port, host order, or 0.
    pub port: u16,
    /// IP protocol number, or 0.
    pub protocol: u32,
    /// What is found.
    pub service: Service,
}

/// A row of a generation's access lists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessRow {
    /// [`Service::index`].
    pub service: u32,
    /// The sources.
    pub prefix: IpNet,
    /// Whether they may connect.
    pub allow: bool,
}

/// What a data plane holds, but for tables, flows and counters.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Contents {
    /// By row; row 0 is no target.
    pub targets: Vec<Target>,
    /// By row; row 0 is none.
    pub next_hops: Vec<NextHop>,
    /// Routes to clients and their rows of the next hops, in any order.
    pub routes: Vec<(IpNet, u32)>,
    /// Services, VIPs and source addresses of the generation in force, in any order.
    pub services: Vec<ServiceRow>,
    /// Access lists of the generation in force, in any order.
    pub access: Vec<AccessRow>,
}

/// Packet counters as read: by row, summed over processors.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CounterSnapshot {
    /// By row of the services.
    pub services: Vec<Counters>,
    /// By row of the targets.
    pub targets: Vec<Counters>,
    /// By [`lb_common::verdict::Verdict`].
    pub verdicts: Vec<u64>,
    /// Frames that could not be sent after the verdict, by interface index.
    pub transmit_failed: Vec<(u32, u64)>,
}

/// How full a map is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MapUsage {
    /// Its name.
    pub name: String,
    /// Entries in use.
    pub used: u64,
    /// Entries it can hold.
    pub limit: u64,
    /// Bytes of memory, as far as the kernel tells.
    pub bytes: u64,
}

/// One flow as the kernel holds it: both directions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlowRecord {
    /// IP protocol number.
    pub protocol: u32,
    /// The client's end.
    pub client: (IpAddr, u16),
    /// The VIP's end.
    pub vip: (IpAddr, u16),
    /// The balancer's end towards the target.
    pub snat: (IpAddr, u16),
    /// The target's end.
    pub target: (IpAddr, u16),
    /// Row of the service's counters.
    pub service_row: u32,
    /// Row of the target.
    pub target_row: u32,
    /// The target's incarnation when it was admitted.
    pub incarnation: u32,
    /// The policy epoch it was last checked under, of the older direction.
    pub epoch: u32,
    /// [`lb_common::abi::flow_flags`] of the client's and of the target's direction.
    pub flags: (u32, u32),
    /// Milliseconds since it was admitted.
    pub age_ms: u64,
    /// Milliseconds since its last packet in either direction.
    pub idle_ms: u64,
    /// Packets and bytes from the client.
    pub from_client: (u64, u64),
    /// Packets and bytes from the target.
    pub from_target: (u64, u64),
}

/// What the core and the agent need of a data plane; the kernel's and the twin in memory both are one.
pub trait DataPlane {
    /// Makes the changes in order and reads each back. At the first that fails the rest is not tried.
    ///
    /// # Errors
    /// Which change failed, and the system's reason.
    fn write(&mut self, changes: &[Write]) -> Result<(), WriteError>;

    /// The control row in force.
    ///
    /// # Errors
    /// As for any read of a map.
    fn control(&self) -> Result<Control, WriteError>;

    /// The slots of a lookup table; empty if there is none in this row.
    ///
    /// # Errors
    /// As for any read of a map.
    fn table(&self, table: u32) -> Result<Vec<u32>, WriteError>;

    /// What else is in force, but for flows and counters: to compare, and to adopt after a restart.
    ///
    /// # Errors
    /// As for any read of a map.
    fn contents(&self) -> Result<Contents, WriteError>;

    /// All counters.
    ///
    /// # Errors
    /// As for any read of a map.
    fn counters(&self) -> Result<CounterSnapshot, WriteError>;

    /// Examines every place of the rings once and reclaims expired flows.
    ///
    /// # Errors
    /// If the sweep program cannot be run.
    fn sweep(&mut self) -> Result<(), WriteError>;
}

/// A change or a read that the data plane refused.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {reason}")]
pub struct WriteError {
    /// The map, and what was wanted of it.
    pub what: String,
    /// The system's reason, or how what was read back differs.
    pub reason: String,
}
