//! The suites that libtest runs: built by cargo as the caller, run as root where they need it.

use std::{
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use cargo_metadata::TargetKind;

use crate::{artifacts, build::Binaries, packages, privilege, process, workspace};

/// The package of the integration suites.
const INTEGRATION: &str = "lb-tests";

/// What became of one suite.
#[derive(Debug, Clone)]
pub(crate) struct Outcome {
    pub(crate) name: String,
    pub(crate) success: bool,
    pub(crate) passed: u32,
    pub(crate) failed: u32,
    pub(crate) ignored: u32,
    pub(crate) time: Duration,
    pub(crate) remark: Option<String>,
}

impl Outcome {
    pub(crate) fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            success: true,
            passed: 0,
            failed: 0,
            ignored: 0,
            time: Duration::ZERO,
            remark: None,
        }
    }
}

/// The crates' own tests and the examples in their documentation.
pub(crate) fn unit(filter: Option<&str>) -> Result<Outcome> {
    process::step("Unit tests");
    let mut command = workspace::cargo();
    // The fuzz targets' corpus is replayed here as well, on a plain build.
    command.args(["test", "--workspace", "--exclude", INTEGRATION, "--no-fail-fast"]);
    command.args(filter);
    command.env("PATH", packages::search_path()?);
    run("unit", &mut command)
}

/// The integration suites: all, or those named. Serial, since they make networks of one name space.
pub(crate) fn integration(
    binaries: &Binaries,
    names: &[String],
    filter: Option<&str>,
) -> Result<Vec<Outcome>> {
    process::step("Building the integration suites");
    let suites = build()?;
    for name in names {
        ensure!(
            suites.iter().any(|suite| suite.name == *name),
            "there is no integration suite {name}; there are: {}",
            suites.iter().map(|suite| suite.name.as_str()).collect::<Vec<_>>().join(", ")
        );
    }
    let chosen = suites.iter().filter(|suite| names.is_empty() || names.contains(&suite.name));
    let mut outcomes = Vec::new();
    for suite in chosen {
        let name = format!("integration/{}", suite.name);
        process::step(&format!("{name} (as root)"));
        let variables = [
            ("PATH", packages::search_path()?),
            ("PORTSIDE_LBD", binaries.lbd.clone().into_os_string()),
            ("PORTSIDE_LBCTL", binaries.lbctl.clone().into_os_string()),
        ];
        let mut command = privilege::as_root(&suite.executable, variables)?;
        command.current_dir(workspace::root().join("tests")).arg("--test-threads=1").args(filter);
        let mut outcome = run(&name, &mut command)?;
        if filter.is_none() && suite.must_have_tests && outcome.passed + outcome.failed == 0 {
            outcome.success = false;
            outcome.remark = Some("it has no test".to_owned());
        }
        outcomes.push(outcome);
    }
    Ok(outcomes)
}

struct Suite {
    name: String,
    executable: PathBuf,
    must_have_tests: bool,
}

fn build() -> Result<Vec<Suite>> {
    let mut command = workspace::cargo();
    command.args(["test", "--package", INTEGRATION, "--no-run"]);
    let mut suites: Vec<Suite> = artifacts::build(&mut command)?
        .tests
        .into_iter()
        .map(|(target, executable)| Suite {
            must_have_tests: target.kind.contains(&TargetKind::Test),
            name: target.name,
            executable,
        })
        .collect();
    suites.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(suites)
}

/// Runs the command, shows its output as it comes, and counts the tests that libtest says it ran.
fn run(name: &str, command: &mut Command) -> Result<Outcome> {
    let start = Instant::now();
    let mut outcome = Outcome::new(name);
    let program = Path::new(command.get_program()).display().to_string();
    let mut child =
        command.stdout(Stdio::piped()).spawn().with_context(|| format!("cannot start {program}"))?;
    let stdout = child.stdout.take().with_context(|| format!("{program} has no output"))?;
    for line in BufReader::new(stdout).split(b'\n') {
        let line = line.with_context(|| format!("cannot read the output of {program}"))?;
        let line = String::from_utf8_lossy(&line);
        println!("{line}");
        if let Some(count) = Count::parse(&line) {
            outcome.passed += count.passed;
            outcome.failed += count.failed;
            outcome.ignored += count.ignored;
        }
    }
    let status = child.wait().with_context(|| format!("cannot wait for {program}"))?;
    outcome.success = status.success();
    outcome.remark = (!status.success()).then(|| status.to_string());
    outcome.time = start.elapsed();
    Ok(outcome)
}

/// libtest's closing line: `test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; …`.
#[derive(Debug, PartialEq, Eq)]
struct Count {
    passed: u32,
    failed: u32,
    ignored: u32,
}

impl Count {
    fn parse(line: &str) -> Option<Self> {
        let (_, counts) = line.strip_prefix("test result: ")?.split_once(". ")?;
        let of = |word: &str| {
            counts.split("; ").find_map(|part| part.strip_suffix(word)?.trim_end().parse::<u32>().ok())
        };
        Some(Self { passed: of("passed")?, failed: of("failed")?, ignored: of("ignored")? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_what_libtest_says() {
        let line = "test result: FAILED. 12 passed; 1 failed; 2 ignored; 0 measured; 3 filtered out; finished in 0.02s";
        assert_eq!(Count::parse(line), Some(Count { passed: 12, failed: 1, ignored: 2 }));
        assert_eq!(Count::parse("test tests::one ... ok"), None);
    }

    #[test]
    fn a_failing_program_is_a_failed_outcome_with_its_counts() {
        let script =
            "echo 'test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out'; exit 101";
        let outcome = run("suite", Command::new("sh").args(["-c", script])).unwrap();
        assert!(!outcome.success);
        assert_eq!((outcome.passed, outcome.failed), (1, 2));
        assert!(outcome.remark.unwrap().contains("101"));
    }
}
