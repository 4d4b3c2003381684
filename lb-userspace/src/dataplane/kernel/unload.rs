//! Removing every trace.

use std::path::Path;

use super::{
    OpenError, attach,
    pins::{self, Pins},
    preflight,
};

/// What [`unload`] found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Unloaded {
    /// Interfaces that the program was taken off.
    pub interfaces: Vec<String>,
    /// Whether there was anything at all.
    pub found: bool,
}

/// Takes the program off every interface and removes programs, maps and pins. Having nothing to do, or half of it
/// missing, is fine.
///
/// # Errors
/// [`OpenError::InUse`] while an agent is running; otherwise what the system refused.
pub fn unload(pin_dir: &Path) -> Result<Unloaded, OpenError> {
    if !pin_dir.exists() {
        return Ok(Unloaded::default());
    }
    preflight::bpf_file_system(pin_dir)?;
    let pins = Pins::new(pin_dir);
    let _lock = preflight::lock(pin_dir)?;
    let interfaces = pins.linked_interfaces();
    for interface in &interfaces {
        attach::detach(&pins, interface)?;
    }
    pins::remove_folder(pin_dir)?;
    Ok(Unloaded { interfaces, found: true })
}
