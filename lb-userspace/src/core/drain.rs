//! Administrative states, drains that end, and rows that become free.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp, Unit};

use super::{
    event::Command,
    state::{Core, notify},
    target::{Admin, DrainEnd},
    view::{active, row_of},
};
use crate::{
    api::types::{EventKind, TargetState as Wanted},
    config::model::Config,
    words::plural,
};

/// Time after which the counters have seen all flows that were admitted before: a handshake that was under way is
/// counted when it is finished, within a second or so where the target answers at all.
const LATE_HANDSHAKES: SignedDuration = SignedDuration::from_secs(2);

/// Time between two readings of what the kernel holds.
const READ_EVERY: Duration = Duration::from_secs(10);

impl Core {
    pub(super) fn set_target_state(
        &mut self,
        group: &str,
        target: &str,
        wanted: Wanted,
        deadline: Option<Timestamp>,
        out: &mut Vec<Command>,
    ) {
        let today = self.today();
        let Some(config) = self.config.clone() else { return };
        let Some(g) = config.groups.iter().position(|candidate| candidate.name == group) else { return };
        let group = &config.groups[g];
        let Some(t) = self.groups[g].targets.iter().position(|state| state.config.name == target) else {
            return;
        };
        let mut state = self.groups[g].targets[t].clone();
        let given = deadline;
        let deadline = deadline.unwrap_or_else(|| later(today, group.drain_deadline));
        state.admin = match (state.admin, wanted) {
            (admin @ Admin::Ready { .. }, Wanted::Ready)
            | (admin @ Admin::Maintenance { .. }, Wanted::Maintenance) => admin,
            // Draining already: only a deadline that is asked for moves the one there is.
            (admin @ Admin::Drain { .. }, Wanted::Drain) if given.is_none() => admin,
            (Admin::Drain { since, .. }, Wanted::Drain) => Admin::Drain { since, deadline, ended: None },
            (_, Wanted::Ready) => Admin::Ready { since: today },
            (_, Wanted::Drain) => Admin::Drain { since: today, deadline, ended: None },
            (_, Wanted::Maintenance) => Admin::Maintenance { since: today },
        };
        if state.admin == self.groups[g].targets[t].admin {
            // What an earlier request could not keep is no more kept for being asked again.
            return self.save_admin(out);
        }
        let mut checks = Vec::new();
        self.set_checks(group, &mut state, false, &mut checks);
        let subject = format!("{}/{}", group.name, state.config.name);
        let message = match state.admin {
            Admin::Ready { .. } => "ready".to_owned(),
            Admin::Maintenance { .. } => "maintenance: no new flows, no checks".to_owned(),
            Admin::Drain { deadline, .. } => {
                let flows = active(self.target_counters(&state));
                let until = deadline.round(Unit::Second).unwrap_or(deadline);
                format!("draining: no new flows; {} left, until {until} at the latest", plural(flows, "flow"))
            }
        };
        self.groups[g].targets[t] = state;
        self.index_lives();
        // Kept first: a state that was reported must survive a restart.
        self.save_admin(out);
        out.push(notify(EventKind::TargetState, subject, message));
        out.append(&mut checks);
        self.reconcile(out);
    }

    pub(super) fn tick(&mut self, out: &mut Vec<Command>) {
        if self.config.is_none() {
            return;
        }
        self.settle(out);
        let due = if self.sure { self.read_at + READ_EVERY } else { self.retry_at };
        // What is read while a write waits to be made would look like drift.
        if self.now >= due && !matches!(out.last(), Some(Command::Write(_))) {
            self.read_at = self.now;
            self.retry_at = self.now + super::state::RETRY;
            out.push(Command::ReadBack);
        }
    }

    /// Ends what time or the counters have ended.
    pub(super) fn settle(&mut self, out: &mut Vec<Command>) {
        let Some(config) = self.config.clone() else { return };
        let drained = self.end_drains(&config, out);
        self.save_admin(out);
        if self.unconfirmed.is_none() && self.sure {
            let released = self.release_targets(&config) | self.release_services(&config);
            let routes = self.release_routes();
            if released {
                self.save_rows(out);
                self.keep_warm(out);
            }
            if drained || released || routes {
                self.reconcile(out);
            }
        }
    }

    fn end_drains(&mut self, config: &Config, out: &mut Vec<Command>) -> bool {
        let today = self.today();
        let mut any = false;
        for (group, state) in config.groups.iter().zip(&mut self.groups) {
            for target in &mut state.targets {
                let Admin::Drain { since, deadline, ended } = &mut target.admin else { continue };
                let flows = active(target.held.counted(row_of(&self.counters.targets, target.held.row)));
                let counted = self.counted_at.is_some() && today.duration_since(*since) >= LATE_HANDSHAKES;
                let end = match ended {
                    Some(DrainEnd::Deadline) => continue,
                    Some(DrainEnd::Empty) if flows == 0 => continue,
                    // A flow was counted late: it too has until the deadline.
                    Some(DrainEnd::Empty) | None if today >= *deadline => DrainEnd::Deadline,
                    None if flows == 0 && counted => DrainEnd::Empty,
                    _ => continue,
                };
                *ended = Some(end);
                any = true;
                let message = match end {
                    DrainEnd::Empty => "drained: no flow is left".to_owned(),
                    DrainEnd::Deadline => {
                        format!("drained: the deadline passed, {} ended", plural(flows, "flow"))
                    }
                };
                let subject = format!("{}/{}", group.name, target.config.name);
                out.push(notify(EventKind::TargetDrained, subject, message));
            }
        }
        any
    }

    /// Frees the rows of removed targets without flows.
    fn release_targets(&mut self, config: &Config) -> bool {
        let may_go = self.may_go(config);
        let counters = std::mem::take(&mut self.counters);
        let gone = self
            .targets
            .release(|held| may_go(held, active(held.counted(row_of(&counters.targets, held.row)))));
        self.counters = counters;
        for (_, held) in &gone {
            self.retired.remove(&held.row);
        }
        let flows: u64 = self.counters.targets.iter().map(|row| active(*row)).sum();
        let sources = flows == 0 && self.counted_at.is_some() && !self.retired_sources.is_empty();
        if sources {
            self.retired_sources.clear();
        }
        !gone.is_empty() || sources
    }

    fn release_services(&mut self, config: &Config) -> bool {
        let may_go = self.may_go(config);
        let counters = std::mem::take(&mut self.counters);
        let gone = self
            .services
            .release(|held| may_go(held, active(held.counted(row_of(&counters.services, held.row)))));
        self.counters = counters;
        !gone.is_empty()
    }

    /// Whether a retired row may be given to another: no flow is counted on it, and what was under way when it was
    /// retired has been forgotten or counted.
    fn may_go(&self, config: &Config) -> impl Fn(&super::Held, u64) -> bool + use<> {
        let timeouts = config.timeouts;
        let rest = timeouts.tcp_time_wait.max(timeouts.tcp_handshake).max(timeouts.udp_unanswered);
        let today = self.today();
        let counted = self.counted_at.is_some();
        move |held, flows| {
            counted && flows == 0 && held.retired.is_some_and(|since| today > later(since, rest))
        }
    }
}

fn later(time: Timestamp, by: Duration) -> Timestamp {
    SignedDuration::try_from(by).ok().and_then(|by| time.checked_add(by).ok()).unwrap_or(Timestamp::MAX)
}
