//! What became of every request, and the summaries that tests and people look at.

use std::{collections::BTreeMap, fmt, time::Duration};

use anyhow::{Result, bail};

/// One request.
#[derive(Clone, Debug)]
pub struct Record {
    /// When it was started, since the load's start.
    pub at: Duration,
    /// From its start to its last byte, or to its failure.
    pub latency: Duration,
    /// The index in [`Report::targets`] of the target that answered, or what went wrong.
    pub outcome: Result<u16, Box<str>>,
}

/// A failed request.
#[derive(Clone, Debug)]
pub struct Failure {
    /// When it was started, since the load's start.
    pub at: Duration,
    /// From its start to its failure.
    pub latency: Duration,
    /// What went wrong.
    pub error: String,
}

/// A finished load, or a look at a running one.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Requests in the order of their end.
    pub records: Vec<Record>,
    /// The names that targets answered with.
    pub targets: Vec<String>,
    /// How long the load has run.
    pub elapsed: Duration,
}

impl Report {
    /// Requests that have ended, either way.
    #[must_use]
    pub fn total(&self) -> usize {
        self.records.len()
    }

    /// The failed requests.
    #[must_use]
    pub fn failures(&self) -> Vec<Failure> {
        let failure = |record: &Record| {
            let error = record.outcome.as_ref().err()?.to_string();
            Some(Failure { at: record.at, latency: record.latency, error })
        };
        self.records.iter().filter_map(failure).collect()
    }

    /// Answers by target.
    #[must_use]
    pub fn spread(&self) -> BTreeMap<String, u64> {
        let mut spread: BTreeMap<String, u64> = self.targets.iter().map(|name| (name.clone(), 0)).collect();
        for record in &self.records {
            let name = record.outcome.as_ref().ok().and_then(|index| self.targets.get(usize::from(*index)));
            if let Some(count) = name.and_then(|name| spread.get_mut(name)) {
                *count += 1;
            }
        }
        spread
    }

    /// Requests ended per second.
    #[must_use]
    pub fn rate(&self) -> f64 {
        self.total() as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }

    /// The latency that `percent` of the answered requests stayed within; zero without any.
    #[must_use]
    pub fn percentile(&self, percent: f64) -> Duration {
        let mut latencies: Vec<Duration> = self
            .records
            .iter()
            .filter(|record| record.outcome.is_ok())
            .map(|record| record.latency)
            .collect();
        latencies.sort_unstable();
        let rank = (percent / 100.0 * latencies.len() as f64).ceil() as usize;
        latencies.get(rank.saturating_sub(1)).copied().unwrap_or_default()
    }

    /// The requests started from `from` on and before `to`, since the load's start.
    #[must_use]
    pub fn started_between(&self, from: Duration, to: Duration) -> Self {
        let records = self.records.iter().filter(|record| (from..to).contains(&record.at)).cloned().collect();
        Self { records, targets: self.targets.clone(), elapsed: to.min(self.elapsed).saturating_sub(from) }
    }

    /// An error that shows the failures, if there are any.
    pub fn expect_no_failures(&self) -> Result<()> {
        if self.failures().is_empty() {
            return Ok(());
        }
        bail!("{self}");
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let failures = self.failures();
        writeln!(
            f,
            "{} requests in {:.1} s ({:.0}/s), {} failed; latency p50 {:?}, p99 {:?}, most {:?}",
            self.total(),
            self.elapsed.as_secs_f64(),
            self.rate(),
            failures.len(),
            self.percentile(50.0),
            self.percentile(99.0),
            self.percentile(100.0),
        )?;
        for (name, count) in self.spread() {
            writeln!(f, "  {name}: {count} ({:.1} %)", 100.0 * count as f64 / self.total().max(1) as f64)?;
        }
        for failure in failures.iter().take(10) {
            writeln!(
                f,
                "  at {:.3} s, after {:?}: {}",
                failure.at.as_secs_f64(),
                failure.latency,
                failure.error
            )?;
        }
        if failures.len() > 10 {
            writeln!(f, "  and {} more failures", failures.len() - 10)?;
        }
        Ok(())
    }
}
