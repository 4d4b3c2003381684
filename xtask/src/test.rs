//! `cargo xtask test`: every test there is, and a summary of what ran.

use std::time::Instant;

use anyhow::{Result, bail};
use clap::ValueEnum;

use crate::{
    build, fuzz, process,
    suites::{self, Outcome},
};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Run these kinds only
    #[arg(long, value_enum, value_name = "KIND")]
    only: Vec<Kind>,
    /// Run only the integration suites of these names (the files of tests/tests)
    #[arg(long, value_name = "NAME")]
    suite: Vec<String>,
    /// How long each fuzz target runs after its corpus
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    fuzz_seconds: u32,
    /// Test binaries built without optimisation
    #[arg(long)]
    debug: bool,
    /// Run only the tests whose name contains this
    filter: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// What needs neither root nor a network: the crates' own tests
    Unit,
    /// What runs real programs in real networks, as root
    Integration,
    /// The fuzz targets: their corpus, then a short run
    Fuzz,
}

impl Options {
    fn wants(&self, kind: Kind) -> bool {
        if !self.suite.is_empty() {
            return kind == Kind::Integration;
        }
        // A fuzz target has no named tests to choose from.
        (self.only.is_empty() && (kind != Kind::Fuzz || self.filter.is_none())) || self.only.contains(&kind)
    }
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let start = Instant::now();
    let profile = if options.debug { build::Profile::Debug } else { build::Profile::Release };
    let binaries = build::run(profile)?;
    let filter = options.filter.as_deref();
    let mut outcomes = Vec::new();
    if options.wants(Kind::Unit) {
        outcomes.extend(or_failed("unit", suites::unit(filter).map(|outcome| vec![outcome])));
    }
    if options.wants(Kind::Integration) {
        outcomes.extend(or_failed("integration", suites::integration(&binaries, &options.suite, filter)));
    }
    if options.wants(Kind::Fuzz) {
        outcomes.extend(or_failed("fuzz", fuzz::run(options.fuzz_seconds)));
    }
    process::step(&format!("What ran, in {:.0} s", start.elapsed().as_secs_f64()));
    eprint!("{}", summary(&outcomes));
    let failed: Vec<&str> =
        outcomes.iter().filter(|outcome| !outcome.success).map(|outcome| outcome.name.as_str()).collect();
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    let ran: u32 = outcomes.iter().map(|outcome| outcome.passed + outcome.failed).sum();
    if ran == 0 {
        bail!(
            "no test ran{}",
            filter.map(|name| format!(": none has `{name}` in its name")).unwrap_or_default()
        );
    }
    Ok(())
}

/// Suites that could not be built or started are failed ones: the others still run, and the summary shows both.
fn or_failed(kind: &str, outcomes: Result<Vec<Outcome>>) -> Vec<Outcome> {
    outcomes.unwrap_or_else(|error| {
        process::note(&format!("{error:#}"));
        vec![Outcome { success: false, remark: Some("could not run".to_owned()), ..Outcome::new(kind) }]
    })
}

fn summary(outcomes: &[Outcome]) -> String {
    let width = outcomes.iter().map(|outcome| outcome.name.len()).max().unwrap_or(0);
    let line = |outcome: &Outcome| {
        let verdict = if outcome.success { "ok    " } else { "FAILED" };
        let ignored =
            if outcome.ignored == 0 { String::new() } else { format!(", {} NOT RUN", outcome.ignored) };
        format!(
            "    {verdict} {:width$}  {} passed, {} failed{ignored} {:>7.1} s{}\n",
            outcome.name,
            outcome.passed,
            outcome.failed,
            outcome.time.as_secs_f64(),
            outcome.remark.as_deref().map(|remark| format!("  ({remark})")).unwrap_or_default(),
        )
    };
    outcomes.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_suite_that_could_not_run_has_failed() {
        let outcomes = or_failed("fuzz", Err(anyhow::anyhow!("no linker")));
        assert_eq!(outcomes.len(), 1);
        assert!(!outcomes[0].success);
        assert_eq!(outcomes[0].name, "fuzz");
    }

    #[test]
    fn the_summary_shows_failures_and_what_was_not_run() {
        let good = Outcome { passed: 3, time: Duration::from_secs(1), ..Outcome::new("unit") };
        let bad =
            Outcome { success: false, passed: 1, failed: 2, ignored: 1, ..Outcome::new("integration/nat") };
        let text = summary(&[good, bad]);
        assert!(text.contains("ok     unit             3 passed, 0 failed     1.0 s\n"), "{text}");
        assert!(text.contains("FAILED integration/nat  1 passed, 2 failed, 1 NOT RUN"), "{text}");
    }
}
