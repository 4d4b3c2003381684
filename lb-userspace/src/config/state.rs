//! Files of the state folder: each is written whole or not at all, and known to be damaged when it is.

use std::{
    fs::{self, DirBuilder, File},
    io::{self, Read as _, Write as _},
    marker::PhantomData,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use serde::{Serialize, de::DeserializeOwned};
use sha2::{Digest as _, Sha256};

/// Names of files that are being written; one that is left over was never finished.
const UNFINISHED: &str = ".unfinished-";
/// Largest file read, in bytes: a configuration as JSON text, every character of it escaped.
const MAX_FILE: u64 = 7 * super::MAX_TEXT as u64;

/// Why the state folder, or a file in it, cannot be used.
#[derive(Debug)]
pub enum StateError {
    /// The system refused.
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was to be done, such as "read" or "write".
        action: &'static str,
        /// The system's reason.
        source: io::Error,
    },
    /// The file is not what was written there.
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The file cannot be a configuration.
    NoText {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

impl StateError {
    /// What is wrong, without the name of what it is wrong with.
    #[must_use]
    pub fn reason(&self) -> String {
        match self {
            Self::Io { action, source, .. } => format!("cannot {action} it: {source}"),
            Self::Damaged { reason, .. } => format!(
                "this file is damaged ({reason}); nothing was changed. Restore it from a backup, or move it away to go \
                 on without what it holds"
            ),
            Self::NoText { reason, .. } => reason.clone(),
        }
    }

    fn io(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, action, source }
    }

    pub(super) fn damaged(path: &Path, reason: impl Into<String>) -> Self {
        Self::Damaged { path: path.to_owned(), reason: reason.into() }
    }
}

impl std::fmt::Display for StateError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (Self::Io { path, .. } | Self::Damaged { path, .. } | Self::NoText { path, .. }) = self;
        write!(f, "{}: {}", path.display(), self.reason())
    }
}

impl std::error::Error for StateError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            Self::Damaged { .. } | Self::NoText { .. } => None,
        }
    }
}

/// Makes the folder if it is missing, readable by its owner only, and clears away what a crash left unfinished.
///
/// # Errors
/// If the folder cannot be made or read.
pub(super) fn open_folder(folder: &Path) -> Result<(), StateError> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(StateError::io(folder, "create"))?;
    for entry in fs::read_dir(folder).map_err(StateError::io(folder, "list"))? {
        let entry = entry.map_err(StateError::io(folder, "list"))?;
        if entry.file_name().as_encoded_bytes().starts_with(UNFINISHED.as_bytes()) {
            fs::remove_file(entry.path()).map_err(StateError::io(&entry.path(), "remove"))?;
        }
    }
    Ok(())
}

/// A small value kept in one file of the state folder, such as the administrative states of targets.
#[derive(Debug)]
pub struct Kept<T> {
    path: PathBuf,
    value: PhantomData<fn() -> T>,
}

impl<T: Serialize + DeserializeOwned> Kept<T> {
    /// The value kept under a name, which becomes the file's.
    ///
    /// # Errors
    /// If the folder cannot be made or read.
    pub fn open(folder: &Path, name: &str) -> Result<Self, StateError> {
        open_folder(folder)?;
        Ok(Self { path: folder.join(format!("{name}.json")), value: PhantomData })
    }

    /// The value stored last; `None` if there never was one.
    ///
    /// # Errors
    /// If the file cannot be read or is damaged.
    pub fn load(&self) -> Result<Option<T>, StateError> {
        read_json(&self.path)
    }

    /// Stores the value: once this returns, a crash does not lose it; if it fails, the one before is still there.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn store(&self, value: &T) -> Result<(), StateError> {
        write_json(&self.path, value)
    }
}

/// A JSON file's value together with its checksum. JSON alone would not show every damage: a changed digit is JSON.
#[derive(serde::Serialize, serde::Deserialize)]
struct Sealed<T> {
    /// Of the value's JSON text.
    sha256: String,
    value: T,
}

/// Reads what [`write_json`] wrote; `None` if there is no such file.
pub(super) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, StateError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(StateError::io(path, "open")(error)),
    };
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(StateError::io(path, "read"))?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(StateError::damaged(path, "it is too large"));
    }
    let sealed: Sealed<Box<serde_json::value::RawValue>> =
        serde_json::from_slice(&bytes).map_err(|error| StateError::damaged(path, error.to_string()))?;
    if sealed.sha256 != sha256(sealed.value.get().as_bytes()) {
        return Err(StateError::damaged(path, "its checksum is wrong"));
    }
    serde_json::from_str(sealed.value.get())
        .map(Some)
        .map_err(|error| StateError::damaged(path, error.to_string()))
}

/// Writes a JSON file so that it holds either the new value or, after a failure or a crash, the one before.
pub(super) fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<(), StateError> {
    let failed = |error: io::Error| StateError::io(path, "write")(error);
    let value = serde_json::value::to_raw_value(value).map_err(|error| failed(error.into()))?;
    let sealed = Sealed { sha256: sha256(value.get().as_bytes()), value };
    let folder = path.parent().unwrap_or(Path::new("/"));
    let mut file = tempfile::Builder::new().prefix(UNFINISHED).tempfile_in(folder).map_err(failed)?;
    serde_json::to_writer(&mut file, &sealed).map_err(|error| failed(error.into()))?;
    file.write_all(b"\n").map_err(failed)?;
    // The content must be on the disk before the name is, and the name before anyone is told.
    file.as_file().sync_all().map_err(failed)?;
    file.persist(path).map_err(|error| failed(error.error))?;
    sync_folder(folder)
}

/// Puts a folder's names on the disk.
pub(super) fn sync_folder(folder: &Path) -> Result<(), StateError> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(StateError::io(folder, "write"))
}

/// A text's SHA-256 in lower-case hexadecimal.
pub(super) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Reads a configuration file, at most as much of it as a configuration may have.
///
/// # Errors
/// If there is no such file, or it cannot be read, is too large, or is not UTF-8.
pub fn read_text(path: &Path) -> Result<String, StateError> {
    let file = File::open(path).map_err(StateError::io(path, "open"))?;
    let mut bytes = Vec::new();
    file.take(super::MAX_TEXT as u64 + 1).read_to_end(&mut bytes).map_err(StateError::io(path, "read"))?;
    let no_text = |reason: String| StateError::NoText { path: path.to_owned(), reason };
    if bytes.len() > super::MAX_TEXT {
        return Err(no_text(format!("is too large; a configuration has at most {} bytes", super::MAX_TEXT)));
    }
    String::from_utf8(bytes).map_err(|error| {
        let valid = error.as_bytes().get(..error.utf8_error().valid_up_to()).unwrap_or_default();
        let line = valid.iter().filter(|byte| **byte == b'\n').count() + 1;
        no_text(format!("line {line} is not UTF-8 text"))
    })
}
