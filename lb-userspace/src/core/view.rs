//! What others may read of the core's state.

use std::{fmt, sync::Arc};

use jiff::{SignedDuration, Timestamp};
use lb_common::abi::{Control, Counters};

use super::{
    event::{Difference, Sizes},
    health::Time,
    image::Image,
    rows::Rows,
    state::Core,
    target::TargetState,
};
use crate::{
    config::model::{Config, TargetGroup},
    dataplane::CounterSnapshot,
};

/// Why a target takes no new flows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WhyNot {
    /// Its checks fail.
    Down,
    /// It has not been checked yet.
    Checking,
    /// An operator drains it.
    Draining,
    /// An operator has it in maintenance.
    Maintenance,
    /// Its weight is 0.
    Weight,
    /// The way to it is not known.
    NextHop(String),
}

impl fmt::Display for WhyNot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Down => f.write_str("down"),
            Self::Checking => f.write_str("checking"),
            Self::Draining => f.write_str("draining"),
            Self::Maintenance => f.write_str("maintenance"),
            Self::Weight => f.write_str("weight is 0"),
            Self::NextHop(reason) => write!(f, "next hop: {reason}"),
        }
    }
}

/// One configured group.
#[derive(Debug, Clone)]
pub struct GroupState {
    /// In the configuration's order.
    pub targets: Vec<TargetState>,
    /// Its row of the tables; `None` if no service sends flows to it.
    pub table: Option<u32>,
    /// Whether no target takes new flows by itself, as was last announced.
    pub all_down: bool,
    /// Whether targets are used as if they were all up, because none is.
    pub open: bool,
    /// What the table was made from, and what it should hold.
    pub(super) lookup: super::desired::Lookup,
}

impl GroupState {
    /// Why one of its targets takes no new flows, if it does not: its own reason, unless the group is open.
    #[must_use]
    pub fn why_not(&self, target: &TargetState) -> Option<WhyNot> {
        if self.open { target.barred() } else { target.why_not() }
    }
}

impl Core {
    /// The configuration in force.
    #[must_use]
    pub fn config(&self) -> Option<&Arc<Config>> {
        self.config.as_ref()
    }

    /// The groups and what is known of them, in the configuration's order.
    pub fn groups(&self) -> impl Iterator<Item = (&TargetGroup, &GroupState)> {
        self.config.iter().flat_map(|config| &config.groups).zip(&self.groups)
    }

    /// One target.
    #[must_use]
    pub fn target(&self, group: &str, target: &str) -> Option<(&TargetGroup, &GroupState, &TargetState)> {
        let (config, group) = self.groups().find(|(config, _)| config.name == group)?;
        group.targets.iter().find(|state| state.config.name == target).map(|state| (config, group, state))
    }

    /// Rows of the services, by name.
    #[must_use]
    pub fn service_rows(&self) -> &Rows {
        &self.services
    }

    /// Rows of the targets.
    #[must_use]
    pub fn target_rows(&self) -> &Rows {
        &self.targets
    }

    /// What a target has carried.
    #[must_use]
    pub fn target_counters(&self, target: &TargetState) -> Counters {
        target.held.counted(row_of(&self.counters.targets, target.held.row))
    }

    /// What a service has carried.
    #[must_use]
    pub fn service_counters(&self, service: &str) -> Counters {
        self.services
            .get(service)
            .map(|held| held.counted(row_of(&self.counters.services, held.row)))
            .unwrap_or_default()
    }

    /// The counters as last read.
    #[must_use]
    pub fn counters(&self) -> &CounterSnapshot {
        &self.counters
    }

    /// Takes newer counters for what is shown; drains are looked at with the next [`super::Event::Counters`].
    pub fn see_counters(&mut self, counters: CounterSnapshot) {
        self.counters = counters;
    }

    /// What the kernel is believed to hold.
    #[must_use]
    pub fn image(&self) -> &Image {
        &self.have
    }

    /// The control row as last written.
    #[must_use]
    pub fn control(&self) -> Control {
        self.have.control
    }

    /// Whether the kernel holds what was last written, as far as is known: `false` after a failed write.
    #[must_use]
    pub fn is_sure(&self) -> bool {
        self.sure
    }

    /// What the last reading differed in.
    #[must_use]
    pub fn differences(&self) -> &[Difference] {
        &self.differences
    }

    /// Sizes of the data plane.
    #[must_use]
    pub fn sizes(&self) -> Sizes {
        self.sizes
    }

    /// The wall clock at a monotonic time.
    #[must_use]
    pub fn wall(&self, time: Time) -> Timestamp {
        SignedDuration::try_from(time)
            .ok()
            .and_then(|time| self.wall.checked_add(time).ok())
            .unwrap_or(self.wall)
    }
}

/// Flows that have begun and not ended.
pub(super) fn active(counters: Counters) -> u64 {
    counters.opened.saturating_sub(counters.closed)
}

pub(super) fn row_of(rows: &[Counters], row: u32) -> Counters {
    rows.get(row as usize).copied().unwrap_or_default()
}
