//! The BPF toolchain: a compiler, the linker built for its LLVM, and the record that makes a second set-up instant.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::UNIX_EPOCH,
};

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::{
    compiler::{self, Compiler},
    process, workspace,
};

/// The target of the kernel object: little-endian BPF, like the machines that load it.
pub(crate) const TARGET: &str = "bpfel-unknown-none";

const LINKER_VERSION: &str = "0.13.0";
/// The versions of LLVM that this linker can be built for.
const LINKER_LLVMS: std::ops::RangeInclusive<u32> = 21..=23;

/// What a build of the kernel object needs; recorded once it has been found or made.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Toolchain {
    pub(crate) description: String,
    pub(crate) rustc: PathBuf,
    pub(crate) cargo: Option<PathBuf>,
    pub(crate) build_std: bool,
    pub(crate) linker: PathBuf,
    libraries: Option<PathBuf>,
    linker_version: String,
    /// Seconds since 1970 at which the compiler's file was made: another compiler in its place may use another LLVM.
    rustc_made: u64,
}

impl Toolchain {
    /// Lets a child process find the compiler's libraries.
    pub(crate) fn set_library_path(&self, command: &mut Command) {
        compiler::set_library_path(command, self.libraries.as_deref());
    }

    fn is_current(&self) -> bool {
        self.linker_version == LINKER_VERSION
            && self.linker.is_file()
            && self.cargo.as_deref().is_none_or(Path::is_file)
            && modified(&self.rustc).is_some_and(|made| made == self.rustc_made)
    }
}

/// The toolchain that is there, or a new one.
pub(crate) fn ensure() -> Result<Toolchain> {
    let record = workspace::toolchain().join("toolchain.json");
    if let Some(toolchain) = read(&record).filter(Toolchain::is_current) {
        return Ok(toolchain);
    }
    process::step("Looking for a BPF compiler");
    let compiler = compiler::find()?;
    process::note(&format!(
        "{}: release {}, LLVM {}",
        compiler.rustc.display(),
        compiler.version.release,
        compiler.version.llvm
    ));
    let linker = build_linker(&compiler)?;
    let toolchain = Toolchain {
        description: format!("{}, LLVM {}", compiler.version.release, compiler.version.llvm),
        rustc_made: modified(&compiler.rustc).context("the compiler's file has no time")?,
        rustc: compiler.rustc,
        cargo: compiler.cargo,
        build_std: compiler.build_std,
        linker,
        libraries: compiler.libraries,
        linker_version: LINKER_VERSION.to_owned(),
    };
    let text = serde_json::to_string_pretty(&toolchain)?;
    fs::write(&record, text).with_context(|| format!("cannot write {}", record.display()))?;
    Ok(toolchain)
}

/// Builds and installs a tool into a folder of its own, unless it is there.
pub(crate) fn cargo_install(
    folder: &Path,
    program: &str,
    arguments: &[&str],
    prepare: impl FnOnce(&mut Command),
) -> Result<PathBuf> {
    let path = folder.join("bin").join(program);
    if path.is_file() {
        return Ok(path);
    }
    let mut command = workspace::cargo();
    // A tool is built for a few runs: without optimisation that is done in half the time.
    command.args(["install", "--debug", "--locked", "--force", "--no-track", "--root"]).arg(folder);
    let build = workspace::toolchain().join("tool-build");
    command.arg("--target-dir").arg(&build).args(arguments);
    // Flags meant for the workspace must not reach a tool's build.
    command.env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS");
    prepare(&mut command);
    process::step(&format!("Building {program} (once; it takes a few minutes)"));
    process::run(&mut command)?;
    fs::remove_dir_all(&build).with_context(|| format!("cannot remove {}", build.display()))?;
    ensure!(path.is_file(), "cargo install left no {}", path.display());
    Ok(path)
}

fn build_linker(compiler: &Compiler) -> Result<PathBuf> {
    let llvm = compiler.version.llvm;
    ensure!(
        LINKER_LLVMS.contains(&llvm),
        "bpf-linker {LINKER_VERSION} cannot be built for LLVM {llvm}, which {} uses; it knows {} to {}",
        compiler.rustc.display(),
        LINKER_LLVMS.start(),
        LINKER_LLVMS.end()
    );
    let folder = workspace::toolchain().join(format!("bpf-linker-{LINKER_VERSION}-llvm-{llvm}"));
    let feature = format!("llvm-{llvm}");
    let arguments =
        ["bpf-linker", "--version", LINKER_VERSION, "--no-default-features", "--features", &feature];
    cargo_install(&folder, "bpf-linker", &arguments, |command| {
        command.env("LLVM_PREFIX", &compiler.llvm);
        compiler::set_library_path(command, compiler.libraries.as_deref());
    })
}

fn read(record: &Path) -> Option<Toolchain> {
    serde_json::from_slice(&fs::read(record).ok()?).ok()
}

fn modified(path: &Path) -> Option<u64> {
    let time = fs::metadata(path).ok()?.modified().ok()?;
    Some(time.duration_since(UNIX_EPOCH).ok()?.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_current_until_its_files_change() {
        let folder = tempfile::tempdir().unwrap();
        let rustc = folder.path().join("rustc");
        fs::write(&rustc, "").unwrap();
        let toolchain = Toolchain {
            description: String::new(),
            rustc_made: modified(&rustc).unwrap(),
            rustc: rustc.clone(),
            cargo: None,
            build_std: false,
            linker: rustc.clone(),
            libraries: None,
            linker_version: LINKER_VERSION.to_owned(),
        };
        let record = folder.path().join("toolchain.json");
        fs::write(&record, serde_json::to_vec(&toolchain).unwrap()).unwrap();
        assert_eq!(read(&record).as_ref(), Some(&toolchain));
        assert!(toolchain.is_current());
        assert!(!Toolchain { linker_version: "0.1.0".to_owned(), ..read(&record).unwrap() }.is_current());
        fs::remove_file(&rustc).unwrap();
        assert!(!toolchain.is_current());
    }
}
