//! Removing every trace of Portside from the host.

use std::path::{Path, PathBuf};

use super::{
    engine::ReservedPorts,
    error::AgentError,
    lock::{lock, lock_host},
};
use crate::{
    config::state::Kept,
    dataplane::kernel,
    net::{Vips, ports},
};

/// What is to be removed.
#[derive(Debug, Clone)]
pub struct UnloadOptions {
    /// The agent's state folder; it says which ports were reserved.
    pub state_dir: PathBuf,
    /// Where programs, maps and links are pinned.
    pub pin_dir: PathBuf,
}

/// Takes the program off every interface, the VIPs off this host, gives the reserved ports back, and removes the
/// pins. Revisions and target states are kept. Returns what was done, a line each.
///
/// # Errors
/// If an agent is running, or the system refuses something.
pub async fn unload(options: &UnloadOptions) -> Result<Vec<String>, AgentError> {
    kernel::privileged()?;
    let _host = lock_host()?;
    let _lock = lock(&options.state_dir, &options.pin_dir)?;
    let mut done = Vec::new();
    let vips = Vips::open()?;
    for vip in vips.ours().await? {
        if vips.remove_ours(vip).await? {
            let interface = nix::net::if_::if_indextoname(vip.ifindex)
                .map_or_else(|_| vip.ifindex.to_string(), |name| name.to_string_lossy().into_owned());
            done.push(format!("took VIP {} off {interface}", vip.address));
        }
    }
    let unloaded = tokio::task::block_in_place(|| kernel::unload(&options.pin_dir))?;
    for interface in &unloaded.interfaces {
        done.push(format!("took the program off {interface}"));
    }
    if unloaded.found {
        done.push(format!("removed {}", options.pin_dir.display()));
    }
    if let Some(kept) = give_ports_back(&options.state_dir)? {
        done.push(format!("gave ports {}-{} back", kept.first, kept.last));
    }
    // Rows mean nothing without the maps.
    let rows = options.state_dir.join("rows.json");
    match std::fs::remove_file(&rows) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(AgentError::system(format!("remove {}", rows.display()))(error)),
    }
    Ok(done)
}

/// Gives the host the source ports back, but for those that were reserved before the agent came.
pub(super) fn give_ports_back(state_dir: &Path) -> Result<Option<ReservedPorts>, AgentError> {
    let Some(kept) = Kept::<ReservedPorts>::open(state_dir, "ports")?.load()? else { return Ok(None) };
    ports::release(&kept.range(), &kept.before())?;
    let path = state_dir.join("ports.json");
    std::fs::remove_file(&path).map_err(AgentError::system(format!("remove {}", path.display())))?;
    Ok(Some(kept))
}
