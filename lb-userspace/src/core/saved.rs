//! What the agent keeps over a restart, beside the revision.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use serde::{Deserialize, Serialize};

use super::{rows::Rows, target::Admin};

/// Which rows of the kernel's maps things have; the kernel's flows name these rows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedRows {
    /// Services, by name.
    pub services: Rows,
    /// Targets, by group, address and port.
    pub targets: Rows,
    /// Source addresses in the order of their rows.
    pub sources: Vec<IpAddr>,
    /// Source addresses no longer configured that flows may still use.
    pub retired_sources: BTreeSet<IpAddr>,
}

/// Administrative states that are not `ready`, by group and target name.
pub type SavedAdmin = BTreeMap<String, BTreeMap<String, Admin>>;
