//! One agent for each network namespace, and for each state folder.

use std::{
    fs::{DirBuilder, File, OpenOptions},
    io::{Read as _, Write as _},
    os::{
        linux::net::SocketAddrExt as _,
        unix::{
            fs::{DirBuilderExt as _, OpenOptionsExt as _},
            net::{SocketAddr, UnixListener, UnixStream},
        },
    },
    path::Path,
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
    sys::socket::{getsockopt, sockopt::PeerCredentials},
};

use super::error::AgentError;

/// Held as long as the value lives.
#[derive(Debug)]
pub(super) struct Lock(#[expect(dead_code, reason = "holding it is all it is for")] Flock<File>);

/// Name of the abstract socket (unix(7)) whose holder is the agent of a network namespace. It has no file: each network
/// namespace has such names of its own, and a process that ends has let go of them.
const HOST_LOCK: &str = "portside";

/// Held as long as the value lives.
#[derive(Debug)]
pub(super) struct HostLock(#[expect(dead_code, reason = "holding it is all it is for")] UnixListener);

/// Locks the network namespace: VIPs, reserved ports and interfaces are its own, whatever the folders.
pub(super) fn lock_host() -> Result<HostLock, AgentError> {
    hold(HOST_LOCK)
}

fn hold(name: &str) -> Result<HostLock, AgentError> {
    let failed = || AgentError::system("lock the network namespace");
    let name = SocketAddr::from_abstract_name(name).map_err(failed())?;
    match UnixListener::bind_addr(&name) {
        Ok(listener) => Ok(HostLock(listener)),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
            let holder = UnixStream::connect_addr(&name)
                .and_then(|stream| Ok(getsockopt(&stream, PeerCredentials)?.pid()))
                .map_or_else(|_| "which is about to end".to_owned(), |pid| format!("process {pid}"));
            Err(AgentError::HostInUse { holder })
        }
        Err(error) => Err(failed()(error)),
    }
}

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
    fn a_second_agent_on_a_host_is_told_of_the_first() {
        // An agent may be at work on the host that runs this.
        let own = format!("process {}", std::process::id());
        let name = format!("portside-test-{own}");
        let held = hold(&name).unwrap();
        let error = hold(&name).unwrap_err();
        assert!(error.to_string().contains(&own), "{error}");
        assert_eq!(error.exit_code(), 5);
        drop(held);
        hold(&name).unwrap();
    }

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
