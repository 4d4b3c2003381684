//! The configuration, and what an apply did.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Revision;

/// `GET /v1/configuration`: the configuration in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ConfigView {
    /// Its revision; its number is the response's `ETag` too.
    pub revision: Revision,
    /// Its text as it was given, YAML or JSON.
    pub text: String,
}

/// `PUT /v1/configuration`: what an apply did, sent once the change has been read back from the kernel.
///
/// The query may hold `dry_run=true`, to check and compare only, and `source`, what faults and the revision are to call the
/// text, such as the name of the file that it was read from (`api` when left out).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ApplyResult {
    /// The revision in force now: the new one, or the one before after a dry run or when nothing changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<Revision>,
    /// Whether it was only checked and compared.
    pub dry_run: bool,
    /// Whether it made the revision in force, be it that only its text is another.
    #[serde(default)]
    pub new_revision: bool,
    /// What differs from the revision before; empty when nothing does.
    pub changes: Vec<ResourceChange>,
    /// What an operator should know of, in whole sentences.
    pub warnings: Vec<String>,
}

/// One thing that an apply adds, changes or removes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ResourceChange {
    /// What becomes of it.
    pub change: ChangeKind,
    /// What it is, such as `service web`, `group web`, `target web/a`, `limits`.
    pub subject: String,
    /// What is different, in words; empty for what is added or removed whole.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

/// What becomes of a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, strum::Display)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub enum ChangeKind {
    /// It is new.
    Added,
    /// It is different.
    Changed,
    /// It is gone.
    Removed,
}

/// One fault of a configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Fault {
    /// Where in the configuration's structure, such as `services[0].port`; empty for the whole file.
    pub path: String,
    /// The line in the text, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
    /// The column in that line, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub column: Option<u32>,
    /// What is wrong.
    pub message: String,
    /// What would be right.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl Fault {
    /// The fault with its place in a file of this name, in the form that editors jump to.
    pub fn in_file(&self, file: &str) -> String {
        let Self { path, line, column, message, .. } = self;
        let place = [line, column].into_iter().flatten().map(|number| format!(":{number}"));
        let path = if path.is_empty() { String::new() } else { format!("{path}: ") };
        format!("{file}{}: {path}{message}", place.collect::<String>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_says_as_much_of_its_place_as_is_known() {
        let fault = Fault {
            path: "xdp".to_owned(),
            line: Some(3),
            column: Some(6),
            message: "there is no natve".to_owned(),
            hint: None,
        };
        assert_eq!(fault.in_file("live.yaml"), "live.yaml:3:6: xdp: there is no natve");
        let whole = Fault { path: String::new(), line: None, column: None, ..fault };
        assert_eq!(whole.in_file("live.yaml"), "live.yaml: there is no natve");
    }
}
