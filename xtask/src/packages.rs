//! The programs that building, testing and the demo call.

use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use crate::{apt, privilege, process, workspace};

struct Program {
    /// The file that is called.
    name: &'static str,
    /// The package of Debian and Ubuntu that has it.
    package: &'static str,
    purpose: &'static str,
}

const PROGRAMS: &[Program] = &[
    Program { name: "cc", package: "gcc", purpose: "linking, and the C parts of crates" },
    // Brings the headers of the C library and libstdc++ with it.
    Program { name: "c++", package: "g++", purpose: "the fuzzer's runtime" },
    Program { name: "ip", package: "iproute2", purpose: "the networks of tests and demo" },
    Program { name: "ethtool", package: "ethtool", purpose: "the offloads of test interfaces" },
    Program { name: "curl", package: "curl", purpose: "real clients in tests and demo" },
    Program { name: "ps", package: "procps", purpose: "tests that look at processes" },
];

const NGINX: Program = Program { name: "nginx", package: "nginx", purpose: "real servers in tests and demo" };

/// Installs the programs that are missing, or says which commands do it.
pub(crate) fn ensure() -> Result<()> {
    let missing: Vec<&Program> =
        PROGRAMS.iter().filter(|program| process::find_program(program.name).is_none()).collect();
    if !missing.is_empty() {
        for program in &missing {
            process::step(&format!("{} is missing ({})", program.name, program.purpose));
        }
        let packages: Vec<&str> = missing.iter().map(|program| program.package).collect();
        if !apt::available() || !privilege::can_become_root() {
            bail!("{}", advice(&missing));
        }
        apt::install(&packages).with_context(|| advice(&missing))?;
    }
    if nginx().is_none() {
        unpack_nginx().with_context(|| advice(&[&NGINX]))?;
    }
    Ok(())
}

/// PATH for tests and demo: the caller's, the folders of administration programs, and set-up's own programs last.
pub(crate) fn search_path() -> Result<OsString> {
    let path = env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = env::split_paths(&path).collect();
    for folder in [PathBuf::from("/usr/sbin"), PathBuf::from("/sbin"), own_programs()] {
        if !folders.contains(&folder) {
            folders.push(folder);
        }
    }
    env::join_paths(folders).context("a folder of PATH has a colon in its name")
}

fn nginx() -> Option<PathBuf> {
    let own = own_programs().join(NGINX.name);
    process::find_program(NGINX.name).or_else(|| own.is_file().then_some(own))
}

fn own_folder() -> PathBuf {
    workspace::toolchain().join("programs")
}

fn own_programs() -> PathBuf {
    own_folder().join("usr/sbin")
}

/// Unpacks nginx instead of installing it: the package would start a server that was not asked for.
fn unpack_nginx() -> Result<()> {
    process::step(&format!("nginx is missing ({}): unpacking it, without its service", NGINX.purpose));
    if !apt::available() {
        bail!("there is no apt on this system");
    }
    if apt::show(NGINX.package).is_none() {
        apt::update()?;
    }
    // Its libraries are shared with other programs, start nothing, and go where the loader finds them.
    let missing = apt::would_install(&[NGINX.package])?;
    let libraries: Vec<&str> =
        missing.iter().map(String::as_str).filter(|name| name.starts_with("lib")).collect();
    if !libraries.is_empty() {
        apt::install(&libraries)?;
    }
    let partial = workspace::toolchain().join("programs.partial");
    remove_if_there(&partial)?;
    apt::unpack(&[NGINX.package.to_owned()], &partial, &["./etc", "./usr/share", "./var", "./lib"])?;
    remove_if_there(&own_folder())?;
    fs::rename(&partial, own_folder()).with_context(|| format!("cannot rename {}", partial.display()))?;
    if nginx().is_none() {
        bail!(
            "the package {} of this distribution has no {}",
            NGINX.package,
            own_programs().join(NGINX.name).display()
        );
    }
    Ok(())
}

fn remove_if_there(folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    Ok(())
}

/// What to type when the programs cannot be installed from here.
fn advice(missing: &[&Program]) -> String {
    let names: Vec<&str> = missing.iter().map(|program| program.name).collect();
    let packages: Vec<&str> = missing.iter().map(|program| program.package).collect();
    format!(
        "{} missing, and cannot be installed from here. On Debian and Ubuntu type, as root:\n\n    \
         apt-get update\n    apt-get install --no-install-recommends {}\n\n\
         Elsewhere install the packages of your system that have these programs. Then run this again.",
        names.join(", "),
        packages.join(" "),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_names_programs_and_packages() {
        let text = advice(&[&PROGRAMS[2], &NGINX]);
        assert!(text.contains("ip, nginx missing"), "{text}");
        assert!(text.contains("apt-get install --no-install-recommends iproute2 nginx\n"), "{text}");
    }

    #[test]
    fn own_programs_come_last() {
        let path = search_path().unwrap();
        assert_eq!(env::split_paths(&path).last().unwrap(), own_programs());
    }
}
