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
    kept: Mutex<(u64, VecDeque<Event>)>,
    live: broadcast::Sender<Event>,
}

impl EventLog {
    pub(super) fn new() -> Self {
        Self { kept: Mutex::default(), live: broadcast::channel(KEPT).0 }
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

    #[test]
    fn a_feed_has_neither_gap_nor_overlap() {
        let log = EventLog::new();
        (0..KEPT + 5).for_each(|i| push(&log, &i.to_string()));
        let mut feed = log.feed(Some(1000));
        push(&log, "later");
        let ids: Vec<u64> = feed.backlog.iter().map(|event| event.id).collect();
        assert_eq!(ids, [1001, 1002, 1003, 1004, 1005]);
        assert_eq!(feed.live.try_recv().unwrap().id, 1006);
        assert_eq!(log.feed(None).backlog.len(), KEPT);
        assert_eq!(log.feed(Some(9999)).backlog.len(), KEPT, "a number of another agent's life");
    }
}
