//! Revisions: the configurations that were accepted, numbered and kept.

use std::{
    fs,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    parse,
    state::{StateError, open_folder, read_json, read_text, sha256, sync_folder, write_json},
};
use crate::words::plural;

/// Revisions kept, the one in force included.
pub const REVISIONS_KEPT: usize = 20;
/// A revision's file is this, its number, and `.json`.
const PREFIX: &str = "revision-";

/// One accepted configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revision {
    /// Its number; the first is 1.
    pub number: u64,
    /// SHA-256 of its text, in lower-case hexadecimal.
    pub sha256: String,
    /// When it was accepted.
    pub accepted_at: Timestamp,
    /// Where it came from: a file's name as it was given, or `api`.
    pub source: String,
    /// Its text, as it was given.
    pub text: String,
}

impl Revision {
    /// Whether a configuration file's text is another than the revision's.
    ///
    /// # Errors
    /// Why the file cannot be applied, without its name: it cannot be read, or is faulty.
    pub fn differs_from(&self, file: &Path) -> Result<bool, String> {
        let text = read_text(file).map_err(|error| error.reason())?;
        if text == self.text {
            return Ok(false);
        }
        let name = file.display().to_string();
        parse(&text, &name).map(|_| true).map_err(|faults| {
            let found = (faults.faults.len() + faults.omitted) as u64;
            format!("it has {}; `lbd check {name}` says where", plural(found, "fault"))
        })
    }
}

/// The revisions in the state folder. The one with the highest number is in force.
#[derive(Debug)]
pub struct Revisions {
    folder: PathBuf,
    /// Numbers of those kept, in order.
    numbers: Vec<u64>,
    current: Option<Revision>,
}

impl Revisions {
    /// Opens the state folder, making it if it is missing, and reads the revision in force.
    ///
    /// # Errors
    /// If the folder cannot be used, or the file of the revision in force is damaged: an older one does not take its
    /// place unasked.
    pub fn open(folder: &Path) -> Result<Self, StateError> {
        open_folder(folder)?;
        let listed = |source| StateError::Io { path: folder.to_owned(), action: "list", source };
        let mut numbers = Vec::new();
        for entry in fs::read_dir(folder).map_err(listed)? {
            let name = entry.map_err(listed)?.file_name();
            let number = name.to_str().and_then(|name| {
                let number: u64 = name.strip_prefix(PREFIX)?.strip_suffix(".json")?.parse().ok()?;
                // Not `revision-007.json`, which the agent did not write.
                (name == file_name(number)).then_some(number)
            });
            numbers.extend(number);
        }
        numbers.sort_unstable();
        let mut revisions = Self { folder: folder.to_owned(), numbers, current: None };
        if let Some(number) = revisions.numbers.last() {
            revisions.current = revisions.get(*number)?;
        }
        Ok(revisions)
    }

    /// The revision in force; `None` before the first.
    #[must_use]
    pub fn current(&self) -> Option<&Revision> {
        self.current.as_ref()
    }

    /// The numbers of the revisions kept, the oldest first.
    #[must_use]
    pub fn numbers(&self) -> &[u64] {
        &self.numbers
    }

    /// A revision by its number; `None` if it is not kept.
    ///
    /// # Errors
    /// If its file cannot be read or is damaged.
    pub fn get(&self, number: u64) -> Result<Option<Revision>, StateError> {
        let path = self.path(number);
        let Some(revision) = read_json::<Revision>(&path)? else { return Ok(None) };
        if revision.number != number {
            let reason = format!("it holds revision {}", revision.number);
            return Err(StateError::damaged(&path, reason));
        }
        Ok(Some(revision))
    }

    /// Makes an accepted text the revision in force: once this returns, a crash does not lose it; if it fails, the
    /// one before is still in force. The oldest beyond [`REVISIONS_KEPT`] is removed.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn next(&mut self, text: &str, source: &str, now: Timestamp) -> Result<&Revision, StateError> {
        let revision = Revision {
            number: self.numbers.last().map_or(1, |last| last.saturating_add(1)),
            sha256: sha256(text.as_bytes()),
            accepted_at: now,
            source: source.to_owned(),
            text: text.to_owned(),
        };
        write_json(&self.path(revision.number), &revision)?;
        self.numbers.push(revision.number);
        self.forget_oldest();
        Ok(self.current.insert(revision))
    }

    /// Removes what is too old. The new revision is in force whether or not that succeeds, so it is only logged.
    fn forget_oldest(&mut self) {
        let surplus = self.numbers.len().saturating_sub(REVISIONS_KEPT);
        for number in self.numbers.drain(..surplus).collect::<Vec<_>>() {
            let path = self.path(number);
            if let Err(error) = fs::remove_file(&path) {
                tracing::warn!(path = %path.display(), %error, "an old revision's file could not be removed");
            }
        }
        if surplus > 0
            && let Err(error) = sync_folder(&self.folder)
        {
            tracing::warn!(%error, "the state folder could not be synchronised");
        }
    }

    fn path(&self, number: u64) -> PathBuf {
        self.folder.join(file_name(number))
    }
}

fn file_name(number: u64) -> String {
    format!("{PREFIX}{number}.json")
}
