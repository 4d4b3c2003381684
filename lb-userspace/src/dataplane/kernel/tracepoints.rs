//! Attaching the programs that count failures after the verdict.

use std::{
    fs::{self, File},
    io::{self, Read},
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use nix::{
    fcntl::{OFlag, openat},
    sys::stat::Mode,
};

use super::{programs::Program, sys};

/// Attaches a program to the tracepoint `xdp:tracepoint` and pins the link; the same program stays attached.
pub(crate) fn attach(program: &Program, tracepoint: &str, pin: &Path) -> io::Result<()> {
    if let Ok(link) = sys::open_pin(pin) {
        if sys::link_program(link.as_fd())? == program.info.id {
            return Ok(());
        }
        fs::remove_file(pin)?;
    }
    let link = sys::tracepoint_link_create(program.fd(), number(tracepoint)?)?;
    sys::pin(link.as_fd(), pin)
}

/// The kernel's number for a tracepoint.
fn number(tracepoint: &str) -> io::Result<u64> {
    let file = format!("events/xdp/{tracepoint}/id");
    let mounted = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"]
        .iter()
        .find_map(|mount| fs::read_to_string(Path::new(mount).join(&file)).ok());
    let text = match mounted {
        Some(text) => text,
        // Many hosts do not mount it, and mounting it for all to see is not ours to do.
        None => read_at(&sys::private_tracefs()?, &file)?,
    };
    text.trim().parse().map_err(io::Error::other)
}

fn read_at(folder: &OwnedFd, file: &str) -> io::Result<String> {
    let mut text = String::new();
    File::from(openat(folder, file, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?)
        .read_to_string(&mut text)?;
    Ok(text)
}
