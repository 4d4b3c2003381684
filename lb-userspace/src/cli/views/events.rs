//! Events: a line each, so that a followed list lines up with what was printed before.

use crate::{
    api::types::{Event, EventKind},
    cli::{table::Tone, units::time},
};

/// The longest name of a kind, and a usual subject.
const KIND_WIDTH: usize = 21;
const SUBJECT_WIDTH: usize = 20;

pub(crate) fn event_list(events: &[Event]) -> String {
    if events.is_empty() {
        return "nothing has happened yet\n".to_owned();
    }
    events.iter().map(event).collect()
}

pub(crate) fn event(event: &Event) -> String {
    let kind = format!("{:<KIND_WIDTH$}", event.kind.to_string());
    let kind = match event.kind {
        EventKind::TargetUp | EventKind::Recovered => Tone::Good.paint(kind),
        EventKind::TargetDown | EventKind::AllDown | EventKind::Drift | EventKind::ConfigurationRefused => {
            Tone::Bad.paint(kind)
        }
        EventKind::Limit | EventKind::NextHop => Tone::Warning.paint(kind),
        _ => kind,
    };
    let at = Tone::Faint.paint(time(event.at));
    format!("{at}  {kind}  {:<SUBJECT_WIDTH$}  {}\n", event.subject, event.message)
}
