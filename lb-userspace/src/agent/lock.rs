//! One agent for each state folder.

use std::{
    fs::{DirBuilder, File, OpenOptions},
    io::{Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::Path,
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};

use super::error::AgentError;

/// Held as long as the value lives.
#[derive(Debug)]
pub(super) struct Lock(#[expect(dead_code, reason = "holding it is all it is for")] Flock<File>);

/// Locks a state folder, making it if it is missing.
/// `pins` is told to whoever finds it locked.
pub(super) fn lock(folder: &Path, pins: &Path) -> Result<Lock, AgentError> {
    let path = folder.join("lock");
    let failed = |what: &str| AgentError::system(format!("{what} {}", path.display()));
    DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed("make the folder of"))?;
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .mode(0o600)
        .open(&path)
        .map_err(failed("open"))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(mut lock) => {
            let holder = format!("process {}, pins in {}", std::process::id(), pins.display());
            lock.set_len(0).and_then(|()| lock.write_all(holder.as_bytes())).map_err(failed("write"))?;
            Ok(Lock(lock))
        }
        Err((file, Errno::EWOULDBLOCK)) => {
            // Who holds it may be about to write who it is.
            let mut holder = String::new();
            let _ = file.take(4096).read_to_string(&mut holder);
            Err(AgentError::StateInUse { folder: folder.to_owned(), holder })
        }
        Err((_, errno)) => Err(failed("lock")(errno.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_agent_is_told_of_the_first() {
        let folder = tempfile::tempdir().unwrap();
        let held = lock(folder.path(), Path::new("/pins")).unwrap();
        let error = lock(folder.path(), Path::new("/pins")).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("another agent is at work") && text.contains("pins in /pins"), "{text}");
        assert_eq!(error.exit_code(), 5);
        drop(held);
        lock(folder.path(), Path::new("/pins")).unwrap();
    }
}
