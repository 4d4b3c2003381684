//! `cargo xtask build`: the kernel object, then the binaries that embed it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    artifacts, lock, process, setup,
    toolchain::{TARGET, Toolchain},
    workspace,
};

#[derive(Clone, Copy)]
pub(crate) enum Profile {
    Debug,
    Release,
}

/// The binaries that a build made.
pub(crate) struct Binaries {
    pub(crate) lbd: PathBuf,
    pub(crate) lbctl: PathBuf,
}

/// Sets up, then builds everything.
pub(crate) fn run(profile: Profile) -> Result<Binaries> {
    object()?;
    binaries(profile)
}

/// Builds the kernel object; its file is only touched when its content changes, so cargo builds nothing in vain.
pub(crate) fn object() -> Result<()> {
    build_object().map(drop)
}

/// As [`object`], but a warning about the workspace's code is an error.
pub(crate) fn object_without_warnings() -> Result<()> {
    let warnings = build_object()?;
    ensure!(warnings == 0, "the kernel object builds with warnings ({warnings})");
    Ok(())
}

fn build_object() -> Result<usize> {
    let toolchain = setup::ensure()?;
    let root = workspace::root();
    let folder = root.join("target/bpf");
    let _lock = lock::acquire(&folder)?;
    process::step("Building the kernel object");
    let warnings = artifacts::build(&mut kernel_build(&toolchain, &folder))?.warnings;
    let built = folder.join(TARGET).join("bpf/portside");
    install_if_changed(&built, &workspace::object())?;
    Ok(warnings)
}

fn binaries(profile: Profile) -> Result<Binaries> {
    process::step("Building lbd and lbctl");
    let mut command = workspace::cargo();
    command.args(["build", "--package", "lb-userspace", "--bins"]);
    let folder = match profile {
        Profile::Debug => "debug",
        Profile::Release => {
            command.arg("--release");
            "release"
        }
    };
    process::run(&mut command)?;
    let folder = workspace::target().join(folder);
    let binaries = Binaries { lbd: folder.join("lbd"), lbctl: folder.join("lbctl") };
    process::note(&format!("{}\n    {}", binaries.lbd.display(), binaries.lbctl.display()));
    Ok(binaries)
}

fn kernel_build(toolchain: &Toolchain, folder: &Path) -> Command {
    let mut command = toolchain.cargo.as_deref().map_or_else(workspace::cargo, workspace::cargo_at);
    command
        .args(["build", "--package", "lb-ebpf", "--bin", "portside", "--profile", "bpf", "--target", TARGET])
        .arg("--target-dir")
        .arg(folder)
        .env("RUSTC", &toolchain.rustc)
        // The kernel program needs unstable features of aya-ebpf; nothing else is built with this variable.
        .env("RUSTC_BOOTSTRAP", "1")
        .env_remove("CARGO_TARGET_DIR")
        .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", &toolchain.linker)
        // The encoded form wins over every other place of flags, so the caller's own cannot reach the kernel object.
        .env("CARGO_ENCODED_RUSTFLAGS", "-Cdebuginfo=2\x1f-Clink-arg=--btf\x1f-Ctarget-cpu=v3");
    if toolchain.build_std {
        command.args(["-Z", "build-std=core"]);
    }
    toolchain.set_library_path(&mut command);
    command
}

fn install_if_changed(from: &Path, to: &Path) -> Result<()> {
    let new = fs::read(from).with_context(|| format!("the build left no {}", from.display()))?;
    if fs::read(to).is_ok_and(|old| old == new) {
        return Ok(());
    }
    // Renamed into place: a cargo that embeds it meanwhile sees the old one or the new one.
    let partial = to.with_extension("partial");
    fs::write(&partial, &new).with_context(|| format!("cannot write {}", partial.display()))?;
    fs::rename(&partial, to).with_context(|| format!("cannot write {}", to.display()))?;
    process::note(&format!("{} ({} bytes)", to.display(), new.len()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unchanged_object_keeps_its_time() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("built"), folder.path().join("portside.o"));
        fs::write(&from, b"one").unwrap();
        install_if_changed(&from, &to).unwrap();
        let past = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000);
        fs::File::options().write(true).open(&to).unwrap().set_modified(past).unwrap();
        install_if_changed(&from, &to).unwrap();
        assert_eq!(fs::metadata(&to).unwrap().modified().unwrap(), past);
        fs::write(&from, b"two").unwrap();
        install_if_changed(&from, &to).unwrap();
        assert_eq!(fs::read(&to).unwrap(), b"two");
        assert_ne!(fs::metadata(&to).unwrap().modified().unwrap(), past);
    }
}
