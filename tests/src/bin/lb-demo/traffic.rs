//! The clients' requests, of both families together, on one clock.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use lb_tests::{
    http::{Load, Report, Running},
    netns::NetNs,
};

/// When a request has failed. Short: whatever hangs shows within its phase.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(2);
/// Requests at once at most, for each address.
const CONCURRENCY: usize = 128;

/// One request that has ended.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// When it was started.
    pub(crate) at: Duration,
    /// When it ended.
    pub(crate) end: Duration,
    /// The index of the target that answered, or what went wrong.
    pub(crate) outcome: Result<usize, Box<str>>,
}

/// All requests so far, each a connection of its own. Times are since its beginning.
pub(crate) struct Traffic {
    begun: Instant,
    loads: Vec<Source>,
    /// Every request that has been taken in.
    pub(crate) log: Log,
}

struct Source {
    load: Running,
    /// When this load was started, on the common clock.
    offset: Duration,
    seen: usize,
}

impl Traffic {
    /// Starts clients in `ns` that make `rate` requests a second to these addresses, the same share to each.
    pub(crate) fn start(ns: &NetNs, to: &[SocketAddr], rate: f64, targets: &[String]) -> Result<Self> {
        let begun = Instant::now();
        let mut loads = Vec::new();
        for address in to {
            let load = Load::to(*address).rate(rate / to.len() as f64);
            let load = load.concurrency(CONCURRENCY).timeout(TIMEOUT).start(ns)?;
            let offset = begun.elapsed().saturating_sub(load.elapsed());
            loads.push(Source { load, offset, seen: 0 });
        }
        Ok(Self { begun, loads, log: Log { targets: targets.to_vec(), requests: Vec::new() } })
    }

    pub(crate) fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Takes in the requests that have ended since the last call.
    pub(crate) fn poll(&mut self) -> Result<()> {
        for source in &mut self.loads {
            // Fails if the load has ended by itself.
            source.load.let_run(Duration::ZERO)?;
            let report = source.load.since(source.seen);
            source.seen += report.total();
            self.log.take_in(source.offset, report)?;
        }
        Ok(())
    }

    /// Starts no more requests, and waits for those at work.
    pub(crate) fn finish(&mut self) -> Result<()> {
        for Source { load, offset, seen } in self.loads.drain(..) {
            let mut report = load.finish()?;
            report.records.drain(..seen);
            self.log.take_in(offset, report)?;
        }
        Ok(())
    }

    /// What ended within the last `time`.
    pub(crate) fn last(&self, time: Duration) -> Spread {
        self.log.ended_since(self.now().saturating_sub(time))
    }
}

/// Requests that have ended, nearly in the order of their end.
#[derive(Default)]
pub(crate) struct Log {
    /// The names of the targets.
    pub(crate) targets: Vec<String>,
    pub(crate) requests: Vec<Request>,
}

impl Log {
    /// Requests that belong to the time from `from` on and before `to`: those answered that were started then, and those
    /// failed that failed then. What fails a request is what happens at its end, not what was before it.
    pub(crate) fn within(&self, from: Duration, to: Duration) -> impl Iterator<Item = &Request> {
        self.requests.iter().filter(move |request| {
            let time = if request.outcome.is_ok() { request.at } else { request.end };
            (from..to).contains(&time)
        })
    }

    /// Where those went.
    pub(crate) fn spread(&self, from: Duration, to: Duration) -> Spread {
        Spread::of(self.targets.len(), self.within(from, to))
    }

    fn ended_since(&self, from: Duration) -> Spread {
        // The loads are taken in one after the other, so neighbours may be out of order by the time between two polls.
        let disorder = Duration::from_secs(1);
        let recent = self.requests.iter().rev().take_while(|request| request.end + disorder >= from);
        Spread::of(self.targets.len(), recent.filter(|request| request.end >= from))
    }

    fn take_in(&mut self, offset: Duration, report: Report) -> Result<()> {
        for record in report.records {
            let outcome = match record.outcome {
                Ok(index) => {
                    let name = report.targets.get(usize::from(index)).map_or("", String::as_str);
                    let known = self.targets.iter().position(|target| target == name);
                    Ok(known.with_context(|| format!("an answer that names no target: `{name}`"))?)
                }
                Err(error) => Err(error),
            };
            let at = offset + record.at;
            self.requests.push(Request { at, end: at + record.latency, outcome });
        }
        Ok(())
    }
}

/// How many requests went where.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Spread {
    /// Answers of each target.
    pub(crate) answers: Vec<usize>,
    /// Requests that failed.
    pub(crate) failed: usize,
}

impl Spread {
    pub(crate) fn of<'a>(targets: usize, requests: impl Iterator<Item = &'a Request>) -> Self {
        let mut spread = Self { answers: vec![0; targets], failed: 0 };
        for request in requests {
            match &request.outcome {
                Ok(target) => spread.answers[*target] += 1,
                Err(_) => spread.failed += 1,
            }
        }
        spread
    }

    pub(crate) fn total(&self) -> usize {
        self.answers.iter().sum::<usize>() + self.failed
    }

    /// A target's share of the answers, from 0 to 1.
    pub(crate) fn share(&self, target: usize) -> f64 {
        let answered: usize = self.answers.iter().sum();
        self.answers[target] as f64 / answered.max(1) as f64
    }
}
