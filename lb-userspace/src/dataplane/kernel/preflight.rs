//! What must be so before anything is loaded, checked in an order in which each error is the first that helps.

use std::{
    fs::{self, File},
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use nix::{net::if_::if_nametoindex, sys::statfs::statfs, sys::utsname::uname};

use lb_common::abi;

use super::{error::OpenError, netlink, pins::Pins, sys};

/// `BPF_FS_MAGIC` of the kernel's `magic.h`.
const BPF_FS_MAGIC: i64 = 0xcafe_4a11;
/// The oldest kernel that is tested.
const OLDEST_KERNEL: (u32, u32) = (6, 1);

/// Capabilities by their bit in `CapEff` (`capability.h`).
const CAP_NET_ADMIN: u32 = 12;
const CAP_SYS_ADMIN: u32 = 21;
const CAP_PERFMON: u32 = 38;
const CAP_BPF: u32 = 39;

/// Fails unless the process has the capabilities that everything here needs.
pub fn privileged() -> Result<(), OpenError> {
    privilege(effective_capabilities()?)
}

/// Checks privilege, kernel and file system.
pub(crate) fn host(pin_dir: &Path) -> Result<(), OpenError> {
    privileged()?;
    kernel(&uname().map_err(|error| OpenError::system("uname")(error.into()))?.release().to_string_lossy())?;
    bpf_file_system(pin_dir)
}

/// The index of an interface.
pub(crate) fn interface(name: &str) -> Result<u32, OpenError> {
    if_nametoindex(name).map_err(|_| OpenError::NoInterface { name: name.to_owned() })
}

/// Fails if the interface carries a program that none of our links holds.
pub(crate) fn no_foreign_program(pins: &Pins, name: &str, ifindex: u32) -> Result<(), OpenError> {
    let programs = netlink::xdp_programs(ifindex)
        .map_err(OpenError::system(format!("ask which programs interface {name} carries")))?;
    let ours = pins.link_program(name);
    match programs.by_keyword().find(|(_, id)| Some(*id) != ours) {
        None => Ok(()),
        Some((kind, id)) => {
            let program = sys::program_by_id(id).and_then(|fd| sys::program_info(fd.as_fd()));
            let program_name = program.map(|program| program.name).unwrap_or_default();
            let advice = match sys::xdp_link_of(id, ifindex) {
                _ if program_name == abi::program::ENTRY => {
                    "another Portside's pins hold it: lbd unload --pin-dir ITS_FOLDER".to_owned()
                }
                Some(link) => format!("end what holds its BPF link, or: bpftool link detach id {link}"),
                None => {
                    format!("stop what loaded it, or take it off with: ip link set dev {name} {kind} off")
                }
            };
            Err(OpenError::ForeignProgram { interface: name.to_owned(), id, name: program_name, advice })
        }
    }
}

/// Takes the pin directory for this process as long as the file lives.
pub(crate) fn lock(pin_dir: &Path) -> Result<File, OpenError> {
    let directory = File::open(pin_dir).map_err(OpenError::system(format!("open {}", pin_dir.display())))?;
    match directory.try_lock() {
        Ok(()) => Ok(directory),
        Err(fs::TryLockError::WouldBlock) => Err(OpenError::InUse { pin_dir: pin_dir.to_owned() }),
        Err(fs::TryLockError::Error(error)) => {
            Err(OpenError::system(format!("lock {}", pin_dir.display()))(error))
        }
    }
}

/// Fails unless `pin_dir`, or where it is to be made, is on a BPF file system.
pub(crate) fn bpf_file_system(pin_dir: &Path) -> Result<(), OpenError> {
    let existing = pin_dir.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let magic = statfs(existing)
        .map_err(|error| OpenError::system(format!("statfs {}", existing.display()))(error.into()))?
        .filesystem_type()
        .0;
    if magic == BPF_FS_MAGIC {
        return Ok(());
    }
    let usual = Path::new("/sys/fs/bpf");
    let mount = if pin_dir.starts_with(usual) { usual } else { pin_dir.parent().unwrap_or(usual) };
    Err(OpenError::NoBpfFileSystem { pin_dir: pin_dir.to_owned(), mount: PathBuf::from(mount) })
}

fn effective_capabilities() -> Result<u64, OpenError> {
    let status =
        fs::read_to_string("/proc/self/status").map_err(OpenError::system("read /proc/self/status"))?;
    let hex = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    Ok(hex.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0))
}

fn privilege(effective: u64) -> Result<(), OpenError> {
    let has = |bit: u32| effective & (1 << bit) != 0;
    // CAP_SYS_ADMIN stands for the two that were split off it in Linux 5.8.
    let missing: Vec<_> = [
        ("CAP_NET_ADMIN", has(CAP_NET_ADMIN)),
        ("CAP_BPF", has(CAP_BPF) || has(CAP_SYS_ADMIN)),
        ("CAP_PERFMON", has(CAP_PERFMON) || has(CAP_SYS_ADMIN)),
    ]
    .into_iter()
    .filter_map(|(name, has)| (!has).then_some(name))
    .collect();
    if missing.is_empty() { Ok(()) } else { Err(OpenError::NotPrivileged { missing }) }
}

fn kernel(release: &str) -> Result<(), OpenError> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version >= OLDEST_KERNEL {
        Ok(())
    } else {
        Err(OpenError::KernelTooOld { release: release.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_compared_by_number() {
        for release in ["6.1.0-13-amd64", "6.18.44-fc", "10.0", "6.1"] {
            kernel(release).unwrap();
        }
        for release in ["5.10.0", "6.0.19-generic", "4.19", "unheard-of"] {
            let text = kernel(release).unwrap_err().to_string();
            assert!(text.contains(release) && text.contains("6.1 or newer"), "{text}");
        }
    }

    #[test]
    fn missing_capabilities_are_named() {
        privilege(u64::MAX).unwrap();
        privilege(1 << CAP_NET_ADMIN | 1 << CAP_BPF | 1 << CAP_PERFMON).unwrap();
        privilege(1 << CAP_NET_ADMIN | 1 << CAP_SYS_ADMIN).unwrap();
        let text = privilege(1 << CAP_BPF | 1 << CAP_PERFMON).unwrap_err().to_string();
        assert!(text.starts_with("not privileged: CAP_NET_ADMIN missing; run lbd as root"), "{text}");
        let text = privilege(0).unwrap_err().to_string();
        assert!(text.contains("CAP_NET_ADMIN and CAP_BPF and CAP_PERFMON missing"), "{text}");
    }

    #[test]
    fn an_ordinary_file_system_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let text = bpf_file_system(&folder.path().join("deep/er")).unwrap_err().to_string();
        assert!(text.contains("is not on a BPF file system") && text.contains("mount -t bpf bpf"), "{text}");
    }
}
