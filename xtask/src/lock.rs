//! One set-up or kernel build at a time.

use std::{fs::File, path::Path};

use anyhow::{Context as _, Result};
use nix::fcntl::{Flock, FlockArg};

use crate::process;

/// Held until it is dropped; the kernel releases it if this process dies.
pub(crate) struct Lock(#[expect(dead_code, reason = "held for its drop")] Flock<File>);

/// Waits for the lock of `folder`, which is made if it is missing.
pub(crate) fn acquire(folder: &Path) -> Result<Lock> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let path = folder.join(".lock");
    let file = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Lock(lock)),
        Err((file, nix::errno::Errno::EWOULDBLOCK)) => {
            process::step(&format!("Waiting for another xtask that holds {}", path.display()));
            let locked = Flock::lock(file, FlockArg::LockExclusive);
            locked
                .map(Lock)
                .map_err(|(_, error)| error)
                .with_context(|| format!("cannot lock {}", path.display()))
        }
        Err((_, error)) => Err(error).with_context(|| format!("cannot lock {}", path.display())),
    }
}
