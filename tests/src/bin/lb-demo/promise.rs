//! What must be true of the requests of a phase, judged by all of them.

use std::time::Duration;

use crate::{
    screen::seconds,
    traffic::{Log, Request, Spread},
};

/// By how much a target's share may differ from its weight's, in percentage points.
pub(crate) const TOLERANCE: f64 = 3.0;

/// A span of time on the traffic's clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    pub(crate) from: Duration,
    pub(crate) to: Duration,
}

/// A promise about the requests that belong to a span: see [`Log::within`].
#[derive(Clone, Debug)]
pub(crate) enum Promise {
    /// None fails.
    NoFailure(Span),
    /// None fails, but for those started before `detected` that the kill at `killed` may have met.
    NoFailureButWhileDetecting { span: Span, killed: Duration, detected: Duration },
    /// They spread by weight, over the targets whose weight is not 0.
    Spread { span: Span, weights: Vec<u32> },
    /// None is answered by this target.
    Silent { span: Span, target: usize, name: String },
}

/// A statement, and whether it is true.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(crate) holds: bool,
    pub(crate) text: String,
}

impl Claim {
    pub(crate) fn new(holds: bool, text: impl Into<String>) -> Self {
        Self { holds, text: text.into() }
    }
}

impl Promise {
    /// The promise as a claim about what has happened.
    pub(crate) fn judge(&self, log: &Log) -> Claim {
        match self {
            Self::NoFailure(span) => {
                let spread = log.spread(span.from, span.to);
                let first = first_failure(log, *span, |_| false);
                let asked = spread.total() > 0;
                let text = format!("{} requests, {} failed", spread.total(), spread.failed);
                Claim::new(asked && first.is_none(), text + &first.unwrap_or_default())
            }
            Self::NoFailureButWhileDetecting { span, killed, detected } => {
                let excused = |request: &Request| request.at < *detected && request.end >= *killed;
                let spread = log.spread(span.from, span.to);
                let first = first_failure(log, *span, excused);
                let last = log.within(span.from, span.to).filter(|request| request.outcome.is_err());
                let last = last.map(|request| request.at).max();
                let when = last.map_or_else(String::new, |last| {
                    format!(
                        ", the last of them started {} after the kill",
                        seconds(last.saturating_sub(*killed))
                    )
                });
                let text = format!(
                    "{} requests, {} failed{when}; detection may take {}",
                    spread.total(),
                    spread.failed,
                    seconds(detected.saturating_sub(*killed))
                );
                Claim::new(spread.total() > 0 && first.is_none(), text + &first.unwrap_or_default())
            }
            Self::Spread { span, weights } => judge_spread(&log.spread(span.from, span.to), weights),
            Self::Silent { span, target, name } => {
                let spread = log.spread(span.from, span.to);
                let got = spread.answers[*target];
                let asked = spread.total() > 0;
                let number = if got == 0 { "none".to_owned() } else { got.to_string() };
                Claim::new(
                    asked && got == 0,
                    format!("of the {} requests since, {number} went to {name}", spread.total()),
                )
            }
        }
    }
}

fn judge_spread(spread: &Spread, weights: &[u32]) -> Claim {
    let sum: u32 = weights.iter().sum();
    let shares: Vec<f64> = (0..weights.len()).map(|target| 100.0 * spread.share(target)).collect();
    let wanted = weights.iter().map(|weight| 100.0 * f64::from(*weight) / f64::from(sum.max(1)));
    let worst = shares.iter().zip(wanted).map(|(share, wanted)| (share - wanted).abs()).fold(0.0, f64::max);
    let list = |values: Vec<String>| values.join(" : ");
    let text = format!(
        "spread {} % over weights {}, off by {worst:.1} percentage points at most (allowed: {TOLERANCE:.0})",
        list(shares.iter().map(|share| format!("{share:.1}")).collect()),
        list(weights.iter().map(u32::to_string).collect()),
    );
    Claim::new(spread.total() > 0 && worst <= TOLERANCE, text)
}

/// The first failure that is not excused, for the end of a sentence.
fn first_failure(log: &Log, span: Span, excused: impl Fn(&Request) -> bool) -> Option<String> {
    let mut failures =
        log.within(span.from, span.to).filter(|request| request.outcome.is_err() && !excused(request));
    let first = failures.next()?;
    let error = first.outcome.as_ref().err().map(AsRef::as_ref).unwrap_or_default();
    let more = failures.count();
    Some(format!(
        "; at {}, {} into the phase: {error} (and {more} more that are not allowed)",
        seconds(first.at),
        seconds(first.at.saturating_sub(span.from))
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: Span = Span { from: Duration::ZERO, to: Duration::from_secs(10) };

    /// Requests that were started at these seconds, took 10 ms, and were answered by a target or failed.
    fn log(requests: &[(f64, Option<usize>)]) -> Log {
        let requests = requests.iter().map(|(at, target)| {
            let at = Duration::from_secs_f64(*at);
            let outcome = target.ok_or_else(|| "connection refused".into());
            Request { at, end: at + Duration::from_millis(10), outcome }
        });
        Log { targets: ["a", "b"].map(str::to_owned).to_vec(), requests: requests.collect() }
    }

    fn holds(promise: &Promise, requests: &[(f64, Option<usize>)]) -> bool {
        promise.judge(&log(requests)).holds
    }

    #[test]
    fn one_failure_breaks_a_promise_of_none_and_is_shown() {
        let promise = Promise::NoFailure(WHOLE);
        assert!(holds(&promise, &[(1.0, Some(0)), (10.5, None)]));
        let claim = promise.judge(&log(&[(1.0, Some(0)), (2.0, None), (3.0, None)]));
        assert!(
            !claim.holds && claim.text.contains("2 failed") && claim.text.contains("refused"),
            "{claim:?}"
        );
        assert!(!holds(&promise, &[]), "without a request nothing is shown");
    }

    #[test]
    fn while_a_dead_server_is_found_out_failures_are_allowed_but_not_before_or_after() {
        let second = Duration::from_secs_f64;
        let promise =
            Promise::NoFailureButWhileDetecting { span: WHOLE, killed: second(2.0), detected: second(3.5) };
        // The first was at work when the server was killed.
        assert!(holds(&promise, &[(1.995, None), (2.5, None), (3.49, None), (4.0, Some(1))]));
        assert!(!holds(&promise, &[(1.5, None), (4.0, Some(1))]));
        assert!(!holds(&promise, &[(2.5, None), (3.51, None)]));
        // Not what was done with before the phase.
        assert!(holds(
            &Promise::NoFailure(Span { from: Duration::ZERO, to: second(2.0) }),
            &[(1.0, Some(1)), (1.995, None)]
        ));
    }

    #[test]
    fn the_spread_follows_the_weights() {
        let promise = |weights: [u32; 2]| Promise::Spread { span: WHOLE, weights: weights.to_vec() };
        let requests = [(1.0, Some(0)), (2.0, Some(1)), (3.0, Some(1)), (4.0, Some(1))];
        assert!(holds(&promise([1, 3]), &requests));
        assert!(!holds(&promise([1, 2]), &requests));
        assert!(!holds(&promise([0, 1]), &requests));
        assert!(!holds(&promise([1, 1]), &[]));
    }

    #[test]
    fn one_answer_breaks_a_silence() {
        let promise = Promise::Silent { span: WHOLE, target: 1, name: "b".to_owned() };
        assert!(holds(&promise, &[(1.0, Some(0)), (11.0, Some(1))]));
        assert!(!holds(&promise, &[(1.0, Some(0)), (2.0, Some(1))]));
        assert!(!holds(&promise, &[]), "without a request nothing is shown");
    }
}
