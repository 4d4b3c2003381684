//! What a change did.

use std::fmt::Write as _;

use jiff::Timestamp;

use crate::{
    api::types::{AdminState, ApplyResult, ChangeKind, TargetStateResult},
    cli::{
        table::Tone,
        units::{duration, plural},
    },
};

pub(crate) fn applied(result: &ApplyResult) -> String {
    let mut text = String::new();
    for change in &result.changes {
        let (sign, tone) = match change.change {
            ChangeKind::Added => ("+", Tone::Good),
            ChangeKind::Changed => ("~", Tone::Warning),
            ChangeKind::Removed => ("-", Tone::Bad),
        };
        let detail = if change.detail.is_empty() { String::new() } else { format!(": {}", change.detail) };
        let _ = writeln!(text, "{}{detail}", tone.paint(format!("{sign} {}", change.subject)));
    }
    for warning in &result.warnings {
        let _ = writeln!(text, "{} {warning}", Tone::Warning.paint("warning:"));
    }
    let revision = result.revision.as_ref().map_or_else(
        || "no revision is in force".to_owned(),
        |revision| format!("revision {} is in force", revision.number),
    );
    let changes = plural(result.changes.len() as u64, "change");
    let _ = match (result.changes.is_empty(), result.dry_run) {
        (true, _) if result.new_revision => writeln!(text, "only the text is another; {revision}"),
        (true, _) => writeln!(text, "nothing to change; {revision}"),
        (false, true) => writeln!(text, "{changes} to make, none made; {revision}"),
        (false, false) => writeln!(text, "{changes} made; {revision}"),
    };
    text
}

pub(crate) fn state_changed(result: &TargetStateResult, now: Timestamp) -> String {
    let target = &result.target;
    let admin = &target.admin;
    let mut text = format!("{}/{} is ", target.group, target.name);
    if !result.changed {
        text.push_str("already ");
    }
    text.push_str(&match admin.state {
        AdminState::Maintenance => "in maintenance".to_owned(),
        state => state.to_string(),
    });
    if admin.state == AdminState::Draining {
        let left = admin.remaining_flows.unwrap_or_default();
        let _ = write!(text, ": {} left", plural(left, "flow"));
        if let Some(deadline) = admin.deadline.filter(|deadline| *deadline > now) {
            let for_long = duration(deadline.duration_since(now).as_secs_f64());
            let _ = write!(text, ", for {for_long} at most");
        }
    }
    if admin.state == AdminState::Ready && !target.takes_new_flows {
        let why = target.why_not.as_deref().unwrap_or("its checks do not pass");
        let _ = write!(text, ", but takes no new flows yet: {why}");
    }
    text.push('\n');
    text
}
