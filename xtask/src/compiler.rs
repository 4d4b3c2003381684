//! A compiler for `bpfel-unknown-none`: found on the system, in rustup, or unpacked from the distribution's packages.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::{apt, process, toolchain::TARGET, workspace};

/// The oldest compiler that builds the workspace, as its manifest says.
const OLDEST: (u32, u32) = (1, 95);

/// The distribution's compiler, and the compiled core for BPF that belongs to it.
const PACKAGE: &str = "rustc-web";
const CORE_PACKAGE: &str = "libstd-rust-web-dev-bpf";

/// Not needed here, and more than half of what the packages hold.
const LEFT_OUT: &[&str] = &[
    "./usr/share",
    "./usr/lib/llvm-*/lib/*.a",
    "./usr/lib/rustlib/bpfeb-*",
    "./usr/lib/llvm-*/share",
    "./usr/lib/llvm-*/build",
];

pub(crate) struct Compiler {
    pub(crate) rustc: PathBuf,
    /// The cargo that belongs to it, if its sources must be built with that.
    pub(crate) cargo: Option<PathBuf>,
    /// Where its libraries are, if the loader does not know.
    pub(crate) libraries: Option<PathBuf>,
    /// Whether core must be compiled from source.
    pub(crate) build_std: bool,
    pub(crate) version: Version,
    /// The prefix of an LLVM of that version, for the linker.
    pub(crate) llvm: PathBuf,
}

/// What `rustc -vV` says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Version {
    pub(crate) release: String,
    pub(crate) llvm: u32,
}

impl Version {
    fn of(rustc: &Path, libraries: Option<&Path>) -> Result<Self> {
        let mut command = Command::new(rustc);
        command.arg("-vV");
        set_library_path(&mut command, libraries);
        let text = process::output(&mut command)?;
        Self::parse(&text)
            .with_context(|| format!("{} -vV says no release and LLVM version", rustc.display()))
    }

    fn parse(text: &str) -> Option<Self> {
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
        let llvm = field("LLVM version: ")?.split('.').next()?.parse().ok()?;
        Some(Self { release: field("release: ")?.trim().to_owned(), llvm })
    }

    fn is_recent(&self) -> bool {
        major_minor(&self.release).is_some_and(|version| version >= OLDEST)
    }
}

/// Finds a compiler, or unpacks one.
pub(crate) fn find() -> Result<Compiler> {
    if let Some(compiler) = system() {
        return Ok(compiler);
    }
    if let Some(compiler) = nightly() {
        return Ok(compiler);
    }
    unpacked().with_context(advice)
}

pub(crate) fn set_library_path(command: &mut Command, libraries: Option<&Path>) {
    if let Some(libraries) = libraries {
        let mut path = libraries.as_os_str().to_owned();
        if let Some(old) = std::env::var_os("LD_LIBRARY_PATH") {
            path.push(":");
            path.push(old);
        }
        command.env("LD_LIBRARY_PATH", path);
    }
}

/// The distribution's compiler, if it is installed with its core for BPF.
fn system() -> Option<Compiler> {
    let rustc = PathBuf::from("/usr/bin/rustc");
    let core = Path::new("/usr/lib/rustlib").join(TARGET).join("lib");
    if !rustc.is_file() || !core.is_dir() {
        return None;
    }
    let version = Version::of(&rustc, None).ok()?;
    let llvm = system_llvm(version.llvm)?;
    version.is_recent().then_some(Compiler {
        rustc,
        cargo: None,
        libraries: None,
        build_std: false,
        version,
        llvm,
    })
}

/// A nightly of rustup that has the sources of core, if there is an LLVM of its version.
fn nightly() -> Option<Compiler> {
    let names = process::output(Command::new("rustup").args(["toolchain", "list", "--quiet"])).ok()?;
    names.lines().filter(|name| name.starts_with("nightly")).find_map(|name| {
        let sysroot =
            process::output(Command::new("rustup").args(["run", name, "rustc", "--print", "sysroot"]))
                .ok()?;
        let sysroot = PathBuf::from(sysroot.trim());
        let rustc = sysroot.join("bin/rustc");
        let version = Version::of(&rustc, None).ok()?;
        let has_sources = sysroot.join("lib/rustlib/src/rust/library/core").is_dir();
        let llvm = system_llvm(version.llvm)?;
        (has_sources && version.is_recent()).then_some(Compiler {
            rustc,
            cargo: Some(sysroot.join("bin/cargo")),
            libraries: None,
            build_std: true,
            version,
            llvm,
        })
    })
}

fn system_llvm(version: u32) -> Option<PathBuf> {
    let prefix = PathBuf::from(format!("/usr/lib/llvm-{version}"));
    prefix.join("bin/llvm-config").exists().then_some(prefix)
}

/// The distribution's compiler, unpacked below the target folder: the system's packages stay as they are.
fn unpacked() -> Result<Compiler> {
    let folder = workspace::toolchain().join("compiler");
    if !folder.is_dir() {
        unpack(&folder)?;
    }
    let usr = folder.join("usr");
    let rustc = usr.join("bin/rustc");
    let libraries = library_folder(&usr.join("lib"))?;
    let version = Version::of(&rustc, Some(&libraries))?;
    let llvm = usr.join(format!("lib/llvm-{}", version.llvm));
    Ok(Compiler { rustc, cargo: None, libraries: Some(libraries), build_std: false, version, llvm })
}

fn unpack(folder: &Path) -> Result<()> {
    if !apt::available() {
        bail!("this system has no apt");
    }
    if apt::show(CORE_PACKAGE).is_none() {
        apt::update()?;
    }
    let packages = packages()?;
    process::step("Unpacking the distribution's BPF compiler (about 190 MB to fetch; nothing is installed)");
    process::note(&packages.join(" "));
    let partial = folder.with_extension("partial");
    if partial.exists() {
        fs::remove_dir_all(&partial).with_context(|| format!("cannot remove {}", partial.display()))?;
    }
    apt::unpack(&packages, &partial, LEFT_OUT)?;
    fs::rename(&partial, folder).with_context(|| format!("cannot rename {}", partial.display()))
}

/// The packages that make the compiler and its LLVM run, with those libraries that this system lacks.
fn packages() -> Result<Vec<String>> {
    let show =
        |name: &str| apt::show(name).with_context(|| format!("this distribution has no package {name}"));
    let rustc = show(PACKAGE)?;
    show(CORE_PACKAGE)?;
    let Some((major, minor)) = major_minor(rustc.version()).filter(|version| *version >= OLDEST) else {
        bail!("{PACKAGE} is version {}, and {}.{} is needed", rustc.version(), OLDEST.0, OLDEST.1);
    };
    let driver = format!("libstd-rust-web-{major}.{minor}");
    let llvm = show(&driver)?
        .depends()
        .find_map(|name| name.strip_prefix("libllvm")?.parse::<u32>().ok())
        .with_context(|| format!("{driver} depends on no LLVM"))?;
    let mut packages: Vec<String> =
        [PACKAGE, "libstd-rust-web-dev", CORE_PACKAGE].into_iter().map(str::to_owned).collect();
    let library = format!("libllvm{llvm}");
    packages.extend([driver, library.clone(), format!("llvm-{llvm}"), format!("llvm-{llvm}-dev")]);
    packages.extend(apt::would_install(&[&library])?);
    packages.sort();
    packages.dedup();
    Ok(packages)
}

/// `usr/lib/<architecture>`: where the unpacked packages keep their shared libraries.
fn library_folder(lib: &Path) -> Result<PathBuf> {
    let entries = fs::read_dir(lib).with_context(|| format!("cannot read {}", lib.display()))?;
    let mut folders = entries.flatten().map(|entry| entry.path());
    folders.find(|path| path.to_string_lossy().ends_with("-linux-gnu")).with_context(|| {
        format!("{} has no folder of shared libraries: remove {0} and try again", lib.display())
    })
}

fn major_minor(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

fn advice() -> String {
    format!(
        "found no compiler for {TARGET}, and cannot unpack the distribution's. Either of these makes one; then run \
         `cargo xtask setup` again.\n\n\
         On Debian 12 with its security archive, as root:\n\n    \
         apt-get update\n\n\
         Elsewhere, a nightly with its sources, and the LLVM that `rustc +nightly -vV` names (here 22):\n\n    \
         rustup toolchain install nightly --profile minimal --component rust-src\n    \
         apt-get install llvm-22-dev    # from your distribution or from apt.llvm.org\n\n\
         The reason"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "rustc 1.96.0 (ac68faa20 2026-05-25) (built from a source tarball)\nbinary: rustc\n\
                        host: x86_64-unknown-linux-gnu\nrelease: 1.96.0\nLLVM version: 22.1.8\n";

    #[test]
    fn reads_release_and_llvm_from_what_rustc_says() {
        assert_eq!(Version::parse(SAID), Some(Version { release: "1.96.0".to_owned(), llvm: 22 }));
        assert_eq!(Version::parse("rustc 1.96.0\nrelease: 1.96.0\n"), None);
    }

    #[test]
    fn a_compiler_older_than_the_workspace_is_no_use() {
        let version = |release: &str| Version { release: release.to_owned(), llvm: 20 };
        assert!(!version("1.85.0").is_recent());
        assert!(version("1.95.0").is_recent());
        assert!(version("1.99.0-nightly").is_recent());
        assert!(version("2.0.0").is_recent());
    }

    #[test]
    fn debian_versions_have_a_major_and_a_minor_number() {
        assert_eq!(major_minor("1.96.0+dfsg1-1~deb12u2"), Some((1, 96)));
        assert_eq!(major_minor("none"), None);
    }
}
