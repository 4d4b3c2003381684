//! A temporary directory that is removed on every way out.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::guard::Guard;

/// A directory of its own, removed with its content when dropped.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    guard: Guard,
}

impl Scratch {
    /// Makes an empty directory.
    pub fn new() -> Result<Self> {
        let dir =
            tempfile::Builder::new().prefix("portside-").tempdir().context("make a temporary directory")?;
        let path = dir.path().to_owned();
        let guard = Guard::new(move || {
            let path = dir.path().to_owned();
            if let Err(error) = dir.close() {
                eprintln!("cannot remove {}: {error}", path.display());
            }
        });
        Ok(Self { path, guard })
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A path in it.
    #[must_use]
    pub fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Lets the directory outlive this process.
    pub fn keep(&self) {
        self.guard.keep();
    }
}
