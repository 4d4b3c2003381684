//! The distribution's packages, through apt: asked about, installed, or only unpacked into a folder.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{
    privilege,
    process::{self, find_program},
};

/// What apt knows of one package's candidate.
pub(crate) struct Package {
    fields: BTreeMap<String, String>,
}

impl Package {
    pub(crate) fn version(&self) -> &str {
        self.fields.get("Version").map_or("", String::as_str)
    }

    /// The names of the packages it depends on, without versions; the first of alternatives.
    pub(crate) fn depends(&self) -> impl Iterator<Item = &str> {
        let list = self.fields.get("Depends").map_or("", String::as_str);
        list.split(',').filter_map(|entry| entry.split_whitespace().next())
    }
}

pub(crate) fn available() -> bool {
    find_program("apt-get").is_some() && find_program("dpkg-deb").is_some()
}

/// The candidate of the package, if apt has one.
pub(crate) fn show(name: &str) -> Option<Package> {
    let text = process::output(Command::new("apt-cache").args(["show", "--no-all-versions", name])).ok()?;
    let fields = parse_fields(&text);
    (!fields.is_empty()).then_some(Package { fields })
}

/// Fetches the package lists anew. Needs root.
pub(crate) fn update() -> Result<()> {
    process::step("Fetching the distribution's package lists (apt-get update)");
    process::run(as_root()?.args(["-qq", "update"]))
}

/// Installs the packages beside what is there: an installation that would remove a package fails instead.
pub(crate) fn install(packages: &[&str]) -> Result<()> {
    if packages.iter().any(|name| show(name).is_none()) {
        update()?;
    }
    process::step(&format!("Installing {} (apt-get install)", packages.join(", ")));
    let arguments = ["install", "-y", "-qq", "--no-install-recommends", "--no-remove", "--no-upgrade"];
    process::run(as_root()?.args(arguments).args(packages))
}

/// The packages that an installation of `packages` would add to this system, these included. Changes nothing.
pub(crate) fn would_install(packages: &[&str]) -> Result<Vec<String>> {
    let arguments = ["-s", "-qq", "install", "--no-install-recommends"];
    let text = process::output(Command::new("apt-get").args(arguments).args(packages))?;
    Ok(parse_simulation(&text))
}

/// Downloads the packages and unpacks their files into `folder`, without the files that match an `except` pattern
/// of tar. Nothing is installed: no script runs, and the system's package database does not change.
pub(crate) fn unpack(packages: &[String], folder: &Path, except: &[&str]) -> Result<()> {
    let downloads = folder.with_extension("download");
    clear(&downloads)?;
    let result = download(packages, &downloads).or_else(|error| {
        // Lists older than the archive name files that are gone.
        process::note(&format!("the download failed ({error:#}): trying again with fresh lists"));
        update()?;
        clear(&downloads)?;
        download(packages, &downloads)
    });
    let result = result.and_then(|()| {
        for file in files(&downloads)? {
            unpack_one(&file, folder, except)?;
        }
        Ok(())
    });
    fs::remove_dir_all(&downloads).with_context(|| format!("cannot remove {}", downloads.display()))?;
    result
}

fn as_root() -> Result<Command> {
    let apt = find_program("apt-get").context("there is no apt-get on this system")?;
    privilege::as_root(&apt, [("DEBIAN_FRONTEND", "noninteractive")])
}

fn clear(folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))
}

fn download(packages: &[String], folder: &Path) -> Result<()> {
    let mut command = Command::new("apt-get");
    command.current_dir(folder).args(["-qq", "download"]);
    if privilege::is_root() {
        // Apt's own unprivileged user may be unable to write here, and warns of it.
        command.args(["-o", "APT::Sandbox::User=root"]);
    }
    process::output(command.args(packages)).map(drop)
}

fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        files.push(entry?.path());
    }
    files.retain(|path| path.extension().is_some_and(|end| end == "deb"));
    ensure!(!files.is_empty(), "apt-get download left no package in {}", folder.display());
    files.sort();
    Ok(files)
}

fn unpack_one(package: &Path, folder: &Path, except: &[&str]) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let mut archive = Command::new("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(package)
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start dpkg-deb")?;
    let bytes = archive.stdout.take().context("dpkg-deb has no output")?;
    let mut tar = Command::new("tar");
    tar.args(["--extract", "--no-same-owner", "--directory"]).arg(folder).stdin(bytes);
    tar.args(except.iter().map(|pattern| format!("--exclude={pattern}")));
    let unpacked = process::run(&mut tar);
    let status = archive.wait().context("cannot wait for dpkg-deb")?;
    unpacked?;
    if !status.success() {
        bail!("dpkg-deb cannot read {}: {status}", package.display());
    }
    Ok(())
}

/// The first paragraph of `Key: value` lines; continuation lines are left out.
fn parse_fields(text: &str) -> BTreeMap<String, String> {
    text.lines()
        .take_while(|line| !line.is_empty())
        .filter(|line| !line.starts_with(' '))
        .filter_map(|line| line.split_once(": "))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

fn parse_simulation(text: &str) -> Vec<String> {
    let names = text.lines().filter_map(|line| line.strip_prefix("Inst "));
    // An upgrade shows the version that is there in brackets: the package is not missing then.
    let added =
        names.filter(|rest| !rest.split_whitespace().nth(1).is_some_and(|word| word.starts_with('[')));
    added.filter_map(|rest| rest.split_whitespace().next()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_the_candidate_only() {
        let fields =
            parse_fields("Package: a\nDepends: b (>= 1), c | d, e\nDescription: x\n more: y\n\nPackage: z\n");
        let package = Package { fields };
        assert_eq!(package.fields.get("Package").unwrap(), "a");
        assert_eq!(package.depends().collect::<Vec<_>>(), ["b", "c", "e"]);
    }

    #[test]
    fn a_simulation_names_what_would_be_added_but_not_what_would_be_upgraded() {
        let text = "Inst libicu72 (72.1-3 Debian:12.11/oldstable [amd64])\n\
                    Inst libxml2 [2.9.14-1] (2.9.14-2 Debian [amd64])\n\
                    Conf libicu72 (72.1-3 Debian:12.11/oldstable [amd64])\n";
        assert_eq!(parse_simulation(text), ["libicu72"]);
    }
}
