//! A target's health verdict: a pure state machine fed with the results of checks, time passed in as a value.
//!
//! A new target is [`Verdict::Unknown`] and its first conclusive result decides at once, so that a group takes
//! flows as soon as its targets have answered once. From then on `rise` successes in a row make it up and `fall`
//! failures in a row make it down. [`Health::seeded`] starts from the verdict of an earlier run instead: a
//! restarted agent keeps its targets until the checks say otherwise.
//!
//! The first check is due soon; later ones are moved onto a grid whose offset is a hash of the target's identity,
//! so the checks of many targets spread over the interval. The gap between two starts never exceeds the interval,
//! hence a dead target is found within `fall` × interval + timeout.

mod reason;

use std::{
    collections::VecDeque,
    hash::{DefaultHasher, Hash, Hasher},
    time::Duration,
};

pub use self::reason::{Phase, Reason, StatusRanges};
use crate::config::model::HealthCheck;

/// A moment: the monotonic time passed since the agent started.
pub type Time = Duration;

/// How one check ended: `Ok` if the target answered as expected, or why it did not.
pub type Outcome = Result<(), Reason>;

/// Checks kept per target.
pub const HISTORY: usize = 16;

/// New targets are first checked within this time (or within their interval, if that is shorter).
const START_SPREAD: Duration = Duration::from_millis(200);

/// What is held of a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// No check has ended yet.
    Unknown,
    /// It answers as expected.
    Up,
    /// It does not.
    Down,
}

/// When to check, and how many results in a row decide.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// Between two starts for a settled target; above zero.
    pub interval: Duration,
    /// Between two starts while the verdict is changing; at most `interval`.
    pub transition_interval: Duration,
    /// Successes in a row that make a target up; at least 1.
    pub rise: u32,
    /// Failures in a row that make a target down; at least 1.
    pub fall: u32,
}

impl From<&HealthCheck> for Timing {
    fn from(check: &HealthCheck) -> Self {
        Self {
            interval: check.interval,
            transition_interval: check.transition_interval,
            rise: check.rise,
            fall: check.fall,
        }
    }
}

/// Names one check, so that the late result of an abandoned one is told from the awaited one's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CheckId {
    /// Which life of the target: given by the caller, never the same for two [`Health`] values of one target.
    pub incarnation: u64,
    /// Counts up within that life.
    pub sequence: u64,
}

/// The next check of a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Due {
    /// The check's name, to be given back with its result.
    pub check: CheckId,
    /// When to start it; a moment already past means at once.
    pub at: Time,
}

/// A check that has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// When it started.
    pub at: Time,
    /// How long it took.
    pub took: Duration,
    /// How it ended.
    pub outcome: Outcome,
}

/// A verdict that has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transition {
    /// The verdict until now.
    pub from: Verdict,
    /// The verdict from now on: up or down.
    pub to: Verdict,
    /// Why it is down; `None` when up.
    pub reason: Option<Reason>,
}

/// What a result leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The next check.
    pub next: Due,
    /// The change of the verdict, if it did change.
    pub transition: Option<Transition>,
}

/// The health of one target under one check configuration.
#[derive(Debug, Clone)]
pub struct Health {
    timing: Timing,
    /// Where in the interval this target's checks lie.
    identity: u64,
    verdict: Verdict,
    since: Time,
    /// Results in a row that agree with the verdict; counted from its beginning, saturating.
    agreeing: u32,
    /// Results in a row that contradict it.
    contrary: u32,
    reason: Option<Reason>,
    next: Due,
    history: VecDeque<Check>,
}

impl Health {
    /// A target never checked before. `identity` is what stays the same over restarts (group and target name).
    #[must_use]
    pub fn new(identity: &impl Hash, incarnation: u64, timing: Timing, now: Time) -> Self {
        Self::seeded(identity, incarnation, timing, Verdict::Unknown, now)
    }

    /// A target whose verdict is known from before: it holds until `rise` or `fall` results contradict it.
    #[must_use]
    pub fn seeded(
        identity: &impl Hash,
        incarnation: u64,
        timing: Timing,
        verdict: Verdict,
        now: Time,
    ) -> Self {
        let mut hasher = DefaultHasher::new();
        identity.hash(&mut hasher);
        let identity = hasher.finish();
        let next =
            Due { check: CheckId { incarnation, sequence: 0 }, at: first_check(identity, &timing, now) };
        Self {
            timing,
            identity,
            verdict,
            since: now,
            agreeing: 0,
            contrary: 0,
            reason: None,
            next,
            history: VecDeque::with_capacity(HISTORY),
        }
    }

    /// The check was configured anew: the verdict holds, counting starts again, and a check under the new
    /// configuration is due soon. The result of a check begun before is ignored from now on.
    pub fn reconfigure(&mut self, timing: Timing, now: Time) -> Due {
        self.timing = timing;
        self.agreeing = 0;
        self.contrary = 0;
        self.schedule(first_check(self.identity, &timing, now))
    }

    /// Takes a check's result, at the time `now`. `None` if it is not the one awaited: nothing changes then.
    pub fn probed(&mut self, id: CheckId, result: Check, now: Time) -> Option<Step> {
        if id != self.next.check {
            return None;
        }
        let started = result.at;
        let outcome = result.outcome.clone();
        if self.history.len() == HISTORY {
            self.history.pop_front();
        }
        self.history.push_back(result);

        let transition = self.judge(outcome, now);
        // A slow check may end after the next one was due: that one then starts at once.
        let next = self.schedule(self.next_start(started).max(now));
        Some(Step { next, transition })
    }

    /// What is held of the target.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// Since when.
    #[must_use]
    pub fn since(&self) -> Time {
        self.since
    }

    /// The last failure, while the target is not up or has not answered well since.
    #[must_use]
    pub fn reason(&self) -> Option<&Reason> {
        self.reason.as_ref()
    }

    /// The check that is awaited.
    #[must_use]
    pub fn due(&self) -> Due {
        self.next
    }

    /// Results in a row that contradict the verdict, and how many of them change it.
    #[must_use]
    pub fn contrary(&self) -> (u32, u32) {
        (self.contrary, self.needed(self.verdict != Verdict::Up))
    }

    /// The last checks, oldest first; at most [`HISTORY`].
    pub fn history(&self) -> impl DoubleEndedIterator<Item = &Check> + ExactSizeIterator {
        self.history.iter()
    }

    /// Counts one result and says whether the verdict changed.
    fn judge(&mut self, outcome: Outcome, now: Time) -> Option<Transition> {
        let success = outcome.is_ok();
        match outcome {
            Ok(()) if self.verdict == Verdict::Up => self.reason = None,
            Ok(()) => {}
            Err(reason) => {
                let local = reason.is_local();
                self.reason = Some(reason);
                // The node's own shortage says nothing about the target: nothing is counted.
                if local {
                    return None;
                }
            }
        }
        let verdict = if success { Verdict::Up } else { Verdict::Down };
        if verdict == self.verdict {
            self.agreeing = self.agreeing.saturating_add(1);
            self.contrary = 0;
            return None;
        }
        self.contrary += 1;
        if self.verdict != Verdict::Unknown && self.contrary < self.needed(success) {
            return None;
        }
        let from = std::mem::replace(&mut self.verdict, verdict);
        self.since = now;
        self.agreeing = self.contrary;
        self.contrary = 0;
        if success {
            self.reason = None;
        }
        Some(Transition { from, to: verdict, reason: self.reason.clone() })
    }

    /// Results in a row that it takes to become up (after successes) or down.
    fn needed(&self, success: bool) -> u32 {
        if success { self.timing.rise } else { self.timing.fall }
    }

    /// Whether enough results in a row speak for the verdict and none against it.
    fn settled(&self) -> bool {
        self.contrary == 0
            && self.verdict != Verdict::Unknown
            && self.agreeing >= self.needed(self.verdict == Verdict::Up)
    }

    /// When the check after the one that started at `started` is due.
    fn next_start(&self, started: Time) -> Time {
        let interval = self.timing.interval;
        if !self.settled() {
            return started + self.timing.transition_interval.min(interval);
        }
        let gap = until_slot(self.identity, interval, started);
        if gap >= interval / 2 {
            return started + gap;
        }
        // The slot is too near for another check, the one after it too far: half-way to that one, from where
        // it is between half an interval and a whole one.
        started + (gap + interval) / 2
    }

    fn schedule(&mut self, at: Time) -> Due {
        let CheckId { incarnation, sequence } = self.next.check;
        self.next = Due { check: CheckId { incarnation, sequence: sequence + 1 }, at };
        self.next
    }
}

/// When a target is checked first: soon, but not all targets in the same moment.
fn first_check(identity: u64, timing: &Timing, now: Time) -> Time {
    now + offset(identity, timing.interval.min(START_SPREAD))
}

/// From `at` to the target's next own moment in the interval: above zero, at most the interval.
fn until_slot(identity: u64, interval: Duration, at: Time) -> Duration {
    let passed = nanos(at) % nanos(interval);
    let slot = nanos(offset(identity, interval));
    let gap = if slot > passed { slot - passed } else { slot + nanos(interval) - passed };
    Duration::from_nanos(gap)
}

/// The target's place in a span of time, below its length.
fn offset(identity: u64, span: Duration) -> Duration {
    Duration::from_nanos(identity % nanos(span))
}

/// At least 1, so that it can divide.
fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX).max(1)
}

#[cfg(test)]
mod tests;
