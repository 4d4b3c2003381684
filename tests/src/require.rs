//! What the suites need of the machine. A missing thing is a loud error that says how to get it, never a skip.

use std::{
    fs, io,
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
};

use anyhow::{Context, Result, bail};
use nix::{
    mount::{MsFlags, mount, umount},
    sys::statfs::{BPF_FS_MAGIC, statfs},
    unistd::geteuid,
};

use crate::guard::Guard;

/// Where the BPF file system belongs.
pub const BPFFS: &str = "/sys/fs/bpf";

/// Checks everything that the end-to-end suites need, and names all that is missing at once.
pub fn everything() -> Result<()> {
    let checks = [root(), program("ip"), program("ethtool"), program("nginx"), xdp()];
    let missing: Vec<String> =
        checks.into_iter().filter_map(|check| Some(format!("{:#}", check.err()?))).collect();
    if !missing.is_empty() {
        bail!("this machine is not ready for the end-to-end tests:\n- {}", missing.join("\n- "));
    }
    Ok(())
}

/// Root is needed to make namespaces and to load programs.
pub fn root() -> Result<()> {
    if !geteuid().is_root() {
        bail!("root is needed: run `cargo xtask test`, which calls sudo, or run the tests as root");
    }
    Ok(())
}

/// A program on the path.
pub fn program(name: &str) -> Result<()> {
    let package = match name {
        "ip" => "iproute2",
        "setarch" | "setpriv" | "unshare" => "util-linux",
        other => other,
    };
    which::which(name).map(drop).with_context(|| {
        format!("`{name}` is not on the path: `apt-get install {package}`, or `cargo xtask setup`")
    })
}

/// A kernel and privileges that put XDP on a veth in driver mode: found out by doing it.
pub fn xdp() -> Result<()> {
    root()?;
    program("ip")?;
    let ns = crate::netns::NetNs::new("check")?;
    ns.ip_batch("link add left type veth peer name right\n")
        .context("veth devices are needed (CONFIG_VETH)")?;
    crate::xdp_pass::attach(&ns, "left").context("a kernel of 5.18 or later with XDP on veth is needed")
}

/// Mounts the BPF file system where it belongs, unless it is there already. The guard unmounts what was mounted here,
/// but only if nobody has a folder of pins in it: others may have begun to use it.
pub fn bpffs() -> Result<Option<Guard>> {
    let at = Path::new(BPFFS);
    let found = statfs(at)
        .with_context(|| format!("look at {BPFFS} (a kernel with CONFIG_BPF_SYSCALL is needed)"))?;
    if found.filesystem_type() == BPF_FS_MAGIC {
        return Ok(None);
    }
    mount(Some("bpf"), at, Some("bpf"), MsFlags::empty(), None::<&str>)
        .with_context(|| format!("mount the BPF file system: `mount -t bpf bpf {BPFFS}`"))?;
    Ok(Some(Guard::new(|| {
        // The kernel's own entries are files.
        let is_folder = |entry: io::Result<fs::DirEntry>| entry.is_ok_and(|entry| entry.path().is_dir());
        let used = fs::read_dir(BPFFS).is_ok_and(|mut entries| entries.any(is_folder));
        if !used && let Err(error) = umount(BPFFS) {
            eprintln!("cannot unmount {BPFFS}: {error}");
        }
    })))
}

/// Holds off the other tests of this binary: two loads at once would measure each other.
pub fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    // A test that failed while it held the lock says nothing about the next.
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}
