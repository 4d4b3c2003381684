//! The last events, and whoever watches for more.

use std::{collections::VecDeque, sync::Mutex};

use jiff::Timestamp;
use tokio::sync::broadcast;

use crate::{
    api::{
        backend::EventFeed,
        types::{Event, EventKind},
    },
    core::Notice,
};

/// Events kept for those who come later.
const KEPT: usize = 1000;

/// Numbers events and hands them out.
#[derive(Debug)]
pub(super) struct EventLog {
    /// The last number given out, and the last events.
    kept: Mutex<(u64, VecDeque<Event>)>,
    live: broadcast::Sender<Event>,
}

impl EventLog {
    pub(super) fn new() -> Self {
        Self::begun(Timestamp::now())
    }

    /// Numbers count on from the microsecond in which the agent starts: no agent's life uses those of the one before, so
    /// that whoever asks for what follows the last event seen misses nothing when the agent was restarted meanwhile.
    fn begun(at: Timestamp) -> Self {
        let number = u64::try_from(at.as_microsecond()).unwrap_or_default();
        Self { kept: Mutex::new((number, VecDeque::new())), live: broadcast::channel(KEPT).0 }
    }

    /// Numbers an event, logs it and hands it to whoever watches.
    pub(super) fn push(&self, at: Timestamp, notice: Notice) {
        let Notice { kind, subject, message } = notice;
        match kind {
            EventKind::TargetDown
            | EventKind::AllDown
            | EventKind::Drift
            | EventKind::Limit
            | EventKind::ConfigurationRefused => tracing::warn!(event = %kind, %subject, "{message}"),
            _ => tracing::info!(event = %kind, %subject, "{message}"),
        }
        let mut kept = self.lock();
        kept.0 += 1;
        let event = Event { id: kept.0, at, kind, subject, message };
        if kept.1.len() == KEPT {
            kept.1.pop_front();
        }
        kept.1.push_back(event.clone());
        // Under the lock, so that a feed has neither a gap nor an overlap. Nobody watching is fine.
        let _ = self.live.send(event);
    }

    pub(super) fn feed(&self, after: Option<u64>) -> EventFeed {
        let kept = self.lock();
        // A number that is not given out yet is of a life before the clock was set back.
        let after = after.filter(|after| *after <= kept.0).unwrap_or(0);
        EventFeed {
            backlog: kept.1.iter().filter(|event| event.id > after).cloned().collect(),
            live: self.live.subscribe(),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, (u64, VecDeque<Event>)> {
        // A panic while it was held leaves whole events behind.
        self.kept.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(log: &EventLog, message: &str) {
        let notice = Notice { kind: EventKind::Agent, subject: "lbd".into(), message: message.into() };
        log.push(Timestamp::UNIX_EPOCH, notice);
    }

    fn ids(log: &EventLog, after: Option<u64>) -> Vec<u64> {
        log.feed(after).backlog.iter().map(|event| event.id).collect()
    }

    #[test]
    fn a_feed_has_neither_gap_nor_overlap() {
        let log = EventLog::begun(Timestamp::UNIX_EPOCH);
        (0..KEPT + 5).for_each(|i| push(&log, &i.to_string()));
        let mut feed = log.feed(Some(1000));
        push(&log, "later");
        let backlog: Vec<u64> = feed.backlog.iter().map(|event| event.id).collect();
        assert_eq!(backlog, [1001, 1002, 1003, 1004, 1005]);
        assert_eq!(feed.live.try_recv().unwrap().id, 1006);
        assert_eq!(ids(&log, None).len(), KEPT);
        assert_eq!(ids(&log, Some(9999)).len(), KEPT, "a number of another agent's life");
    }

    #[test]
    fn who_followed_the_agent_before_misses_nothing_of_the_next() {
        let before = EventLog::begun(Timestamp::from_second(1_700_000_000).unwrap());
        (0..3).for_each(|i| push(&before, &i.to_string()));
        let last = *ids(&before, None).last().unwrap();
        let next = EventLog::begun(Timestamp::from_second(1_700_000_001).unwrap());
        (0..5).for_each(|i| push(&next, &i.to_string()));
        assert_eq!(ids(&next, Some(last)).len(), 5);
        let set_back = EventLog::begun(Timestamp::from_second(1_600_000_000).unwrap());
        (0..5).for_each(|i| push(&set_back, &i.to_string()));
        assert_eq!(ids(&set_back, Some(last)).len(), 5);
    }
}
