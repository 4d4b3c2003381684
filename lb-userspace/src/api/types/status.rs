//! The state of the agent and its data plane as a whole.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `GET /v1/version`: what is running.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Version {
    /// The agent's version.
    pub version: String,
    /// The version of the API, `v1`.
    pub api: String,
    /// The version of the layout that the program and the agent share.
    pub abi: u32,
}

/// `GET /v1/status`: the agent and its data plane as a whole.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Status {
    /// What is running.
    pub version: Version,
    /// This node's host name.
    pub node: String,
    /// The agent's process id.
    pub pid: u32,
    /// When the agent started.
    pub started_at: Timestamp,
    /// How long it has been running.
    pub uptime_seconds: f64,
    /// Whether it balances as configured.
    pub readiness: Readiness,
    /// The configuration in force; none before the first was accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<Revision>,
    /// The file that seeds the configuration and is read on SIGHUP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<FileState>,
    /// The interfaces that carry the program.
    pub interfaces: Vec<InterfaceView>,
    /// The program's maps as the kernel holds them.
    pub data_plane: DataPlane,
    /// How full each map is.
    pub maps: Vec<MapUsage>,
    /// What an operator should look at, in whole sentences.
    pub warnings: Vec<String>,
    /// How many there are of each.
    pub counts: Counts,
}

/// Whether the agent balances as configured.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Readiness {
    /// Whether it does.
    pub ready: bool,
    /// Why it does not, in whole sentences; empty when it does.
    pub reasons: Vec<String>,
}

/// One accepted configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Revision {
    /// Its number; the first is 1.
    pub number: u64,
    /// SHA-256 of its text, in lower-case hexadecimal.
    pub sha256: String,
    /// When it was first read back from the kernel as in force; a restart of the agent does not change it.
    pub applied_at: Timestamp,
    /// Where it came from: a file's name as it was given, or `api`.
    pub source: String,
}

/// How the configuration file relates to the revision in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FileState {
    /// The file's path.
    pub path: String,
    /// Whether its text differs from the revision's.
    pub differs: bool,
    /// Why it cannot be applied, when it cannot: it cannot be read, or is faulty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// One interface that carries the program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct InterfaceView {
    /// Its name.
    pub name: String,
    /// Its index in the kernel.
    pub index: u32,
    /// How the configuration permits the program to be attached.
    pub xdp_mode_wanted: XdpModeWanted,
    /// How it is attached; left out when it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub xdp_mode: Option<XdpAttachMode>,
    /// Why it runs in generic mode although native was preferred, or why it is not attached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The kernel's id of the attached program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program_id: Option<u32>,
    /// The kernel's tag of the attached program, 16 hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program_tag: Option<String>,
    /// Whether the agent found the program attached when it started.
    pub adopted: bool,
}

/// How the configuration permits the program to be attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum XdpModeWanted {
    /// In the driver, or not at all.
    Native,
    /// In the driver; where the driver cannot, in the kernel's generic hook.
    NativeOrGeneric,
    /// In the kernel's generic hook.
    Generic,
}

/// How the program is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum XdpAttachMode {
    /// In the driver.
    Native,
    /// In the kernel's generic hook, which is slower.
    Generic,
}

/// The program's maps as the kernel holds them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DataPlane {
    /// Whether the kernel holds what the revision says.
    pub state: DataPlaneState,
    /// The generation that new flows read, from the kernel.
    pub generation: u32,
    /// The policy epoch that flows are checked against, from the kernel.
    pub epoch: u32,
    /// The layout version of the maps.
    pub abi: u32,
    /// Where the kernel's maps differ from the revision; empty when they do not.
    pub drift: Vec<Drift>,
}

/// Whether the kernel holds what the revision says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum DataPlaneState {
    /// Read back and equal.
    InSync,
    /// Read back and different; being repaired.
    Drifted,
    /// A change is being written.
    Applying,
    /// No program and maps are loaded.
    Unloaded,
}

/// One difference between the kernel's maps and the revision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Drift {
    /// The map's name, or `program` and `link`.
    pub map: String,
    /// What differs, in words.
    pub detail: String,
    /// When it was first seen.
    pub since: Timestamp,
}

/// How full one of the program's maps is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MapUsage {
    /// The map's name.
    pub name: String,
    /// Entries in use; left out for a map whose entries cannot be told apart from free ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used: Option<u64>,
    /// Entries it can hold.
    pub max: u64,
    /// Kernel memory it takes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
}

/// How many there are of each.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Counts {
    /// Services.
    pub services: u32,
    /// Target groups.
    pub groups: u32,
    /// Targets over all groups.
    pub targets: u32,
    /// Targets that take new flows.
    pub targets_up: u32,
    /// Flows that are open.
    pub active_flows: u64,
    /// Flows in the kernel's tables: those that are open, and those that are closed and whose source ports rest.
    #[serde(default)]
    pub held_flows: u64,
}
