//! Names in the pin directory.
//!
//! - `maps/NAME`: the maps in force.
//! - `next/NAME`: maps that the next program uses, while they are filled; they move to `maps` once it is attached.
//! - `tables/ROW` and `generations/NAME-ROW`: the maps in the maps of maps, so that they can be opened without the right to
//!   open any map by its id.
//! - `programs/VERSION/NAME`: the programs of one version and its program array.
//! - `links/INTERFACE` and `tracepoints/NAME`: what keeps the programs attached.

use std::{
    collections::BTreeSet,
    fs, io,
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use super::{error::OpenError, sys};

/// The pin directory.
#[derive(Debug, Clone)]
pub(crate) struct Pins {
    root: PathBuf,
}

impl Pins {
    pub(crate) fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// Makes the folders.
    pub(crate) fn create(&self) -> Result<(), OpenError> {
        for folder in [
            self.maps(),
            self.next(),
            self.tables(),
            self.generations(),
            self.programs(),
            self.links(),
            self.tracepoints(),
        ] {
            fs::create_dir_all(&folder).map_err(OpenError::system(format!("make {}", folder.display())))?;
        }
        Ok(())
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn maps(&self) -> PathBuf {
        self.root.join("maps")
    }

    pub(crate) fn next(&self) -> PathBuf {
        self.root.join("next")
    }

    pub(crate) fn programs(&self) -> PathBuf {
        self.root.join("programs")
    }

    pub(crate) fn links(&self) -> PathBuf {
        self.root.join("links")
    }

    pub(crate) fn tracepoints(&self) -> PathBuf {
        self.root.join("tracepoints")
    }

    pub(crate) fn tables(&self) -> PathBuf {
        self.root.join("tables")
    }

    /// The pin of the lookup table in a row.
    pub(crate) fn table(&self, row: u32) -> PathBuf {
        self.tables().join(row.to_string())
    }

    pub(crate) fn generations(&self) -> PathBuf {
        self.root.join("generations")
    }

    /// The pin of a generation's map in a map of maps.
    pub(crate) fn generation(&self, outer: &str, generation: u32) -> PathBuf {
        self.generations().join(format!("{outer}-{generation}"))
    }

    /// The pin of an interface's link.
    pub(crate) fn link(&self, interface: &str) -> PathBuf {
        // The BPF file system keeps names with dots for itself, and VLAN interfaces have them.
        self.links().join(interface.replace('%', "%25").replace('.', "%2e"))
    }

    /// The interfaces that have a pinned link.
    pub(crate) fn linked_interfaces(&self) -> Vec<String> {
        let name = |name: &String| name.replace("%2e", ".").replace("%25", "%");
        names(&self.links()).iter().map(name).collect()
    }

    /// The id of the program behind an interface's pinned link.
    pub(crate) fn link_program(&self, interface: &str) -> Option<u32> {
        let fd = sys::open_pin(&self.link(interface)).ok()?;
        sys::link_program(fd.as_fd()).ok()
    }

    /// Ids of all programs behind pinned links.
    pub(crate) fn attached_programs(&self) -> BTreeSet<u32> {
        self.linked_interfaces().iter().filter_map(|interface| self.link_program(interface)).collect()
    }
}

/// Names in a folder, sorted; none if it is not there.
pub(crate) fn names(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut names: Vec<_> =
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort_unstable();
    names
}

/// Removes a pin; nothing to remove is fine.
pub(crate) fn remove_pin(path: &Path) -> Result<(), OpenError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(OpenError::system(format!("remove {}", path.display()))(error))
        }
        _ => Ok(()),
    }
}

/// Removes a folder of pins and folders; nothing to remove is fine.
pub(crate) fn remove_folder(path: &Path) -> Result<(), OpenError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(OpenError::system(format!("remove {}", path.display()))(error))
        }
        _ => Ok(()),
    }
}
