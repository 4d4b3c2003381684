//! The fuzz targets: coverage-guided on the pinned toolchain, each replaying its corpus before it looks for more.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context as _, Result, bail, ensure};
use cargo_metadata::TargetKind;

use crate::{artifacts, process, suites::Outcome, workspace};

const PACKAGE: &str = "lb-fuzz";

#[derive(clap::Args)]
pub(crate) struct Options {
    /// How long each target runs after its corpus
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    seconds: u32,
    /// Add the inputs that reached new code to the committed corpus, minimised
    #[arg(long)]
    grow: bool,
    /// Run this target only
    target: Option<String>,
}

/// `cargo xtask fuzz`.
pub(crate) fn command(options: &Options) -> Result<()> {
    process::step("Building the fuzz targets");
    let mut targets = build()?;
    if let Some(name) = &options.target {
        let names = targets.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>().join(", ");
        targets.retain(|(target, _)| target == name);
        ensure!(!targets.is_empty(), "there is no fuzz target {name}; there are: {names}");
    }
    let mut failed = Vec::new();
    for (name, program) in targets {
        let outcome = run_target(&name, &program, options.seconds, options.grow)?;
        if !outcome.success {
            failed.push(format!("{}: {}", outcome.name, outcome.remark.unwrap_or_default()));
        }
    }
    if !failed.is_empty() {
        bail!("{}", failed.join("\n"));
    }
    Ok(())
}

/// Replays every target's corpus, then lets each look for new inputs for that many seconds.
pub(crate) fn run(seconds: u32) -> Result<Vec<Outcome>> {
    process::step("Building the fuzz targets");
    let targets = build()?;
    targets.iter().map(|(name, program)| run_target(name, program, seconds, false)).collect()
}

/// Builds the targets, only this workspace's own crates with the fuzzer's instrumentation: the dependencies are those of
/// an ordinary build.
fn build() -> Result<Vec<(String, PathBuf)>> {
    let mut command = workspace::cargo();
    command
        .args(["build", "--package", PACKAGE, "--bins", "--features", "fuzzing"])
        .env("RUSTC_WORKSPACE_WRAPPER", workspace::root().join("xtask/src/fuzz-rustc"));
    let mut targets: Vec<(String, PathBuf)> = artifacts::build(&mut command)?
        .executables
        .into_iter()
        .filter(|(target, _)| target.kind.contains(&TargetKind::Bin))
        .map(|(target, program)| (target.name, program))
        .collect();
    targets.sort();
    ensure!(!targets.is_empty(), "the package {PACKAGE} has no fuzz target");
    Ok(targets)
}

fn run_target(name: &str, program: &Path, seconds: u32, grow: bool) -> Result<Outcome> {
    let start = Instant::now();
    let mut outcome = Outcome::new(format!("fuzz/{name}"));
    let corpus = workspace::root().join("tests/fuzz/corpus").join(name);
    let inputs = fs::read_dir(&corpus).map_or(0, Iterator::count);
    let finding = workspace::root().join("target/fuzz/findings").join(name);
    fs::create_dir_all(&finding).with_context(|| format!("cannot make {}", finding.display()))?;
    if inputs == 0 {
        outcome.success = false;
        outcome.remark = Some(format!("no corpus in {}", corpus.display()));
        return Ok(outcome);
    }
    process::step(&format!("{} ({inputs} inputs, then {seconds} s)", outcome.name));
    let replay = fuzzer(program, &finding, &["-runs=0".to_owned()], &[&corpus]);
    // New inputs go to a folder of their own: a test run does not change the committed corpus.
    let found = tempfile::tempdir().context("cannot make a temporary folder")?;
    // Long enough for every key of a configuration, and for a hundred packets; from the start, since runs are short.
    let mut limits =
        vec![format!("-max_total_time={seconds}"), "-max_len=3000".to_owned(), "-len_control=0".to_owned()];
    let words = workspace::root().join("tests/fuzz/dictionaries").join(format!("{name}.dict"));
    if words.is_file() {
        limits.push(format!("-dict={}", words.display()));
    }
    let mut search = replay.and_then(|()| fuzzer(program, &finding, &limits, &[found.path(), &corpus]));
    if grow && search.is_ok() {
        search = self::grow(program, &finding, found.path(), &corpus);
    }
    match search {
        Ok(()) => {
            outcome.passed = 1;
            outcome.remark = Some(format!("{inputs} inputs replayed"));
        }
        Err(error) => {
            outcome.failed = 1;
            outcome.success = false;
            outcome.remark = Some(format!("{error:#}; the input is in {}", finding.display()));
        }
    }
    outcome.time = start.elapsed();
    Ok(outcome)
}

/// Replaces the corpus by the fewest inputs that reach all the code that it and the new ones reach. Inputs that a person
/// named stay; the fuzzer calls its own by their SHA-1.
fn grow(program: &Path, finding: &Path, found: &Path, corpus: &Path) -> Result<()> {
    let least = tempfile::tempdir().context("cannot make a temporary folder")?;
    fuzzer(
        program,
        finding,
        &["-merge=1".to_owned(), "-use_counters=0".to_owned()],
        &[least.path(), corpus, found],
    )?;
    let list = |folder: &Path| {
        fs::read_dir(folder)?
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<std::io::Result<Vec<_>>>()
    };
    let is_named = |path: &Path| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.len() != 40 || !name.bytes().all(|byte| byte.is_ascii_hexdigit())
    };
    for old in list(corpus).with_context(|| format!("cannot list {}", corpus.display()))? {
        if is_named(&old) {
            continue;
        }
        fs::remove_file(&old).with_context(|| format!("cannot remove {}", old.display()))?;
    }
    let new = list(least.path()).with_context(|| format!("cannot list {}", least.path().display()))?;
    for new in new {
        let name = new.file_name().context("an input has no name")?;
        fs::copy(&new, corpus.join(name)).with_context(|| format!("cannot copy {}", new.display()))?;
    }
    Ok(())
}

fn fuzzer(program: &Path, finding: &Path, arguments: &[String], folders: &[&Path]) -> Result<()> {
    let mut command = std::process::Command::new(program);
    // One input may take no longer than this many seconds, nor more memory than this many megabytes.
    command
        .args(["-timeout=10", "-rss_limit_mb=2048", "-print_final_stats=1", "-verbosity=0"])
        .args(arguments);
    command.arg(format!("-artifact_prefix={}/", finding.display())).args(folders);
    process::run(&mut command)
}
