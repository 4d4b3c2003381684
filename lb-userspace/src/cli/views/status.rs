//! The agent as a whole, and what is not as it should be.

use std::fmt::Write as _;

use jiff::Timestamp;

use crate::{
    api::types::{
        AdminState, DataPlaneState, GroupView, MapUsage, OnAllDown, Status, TargetView, Verdict,
        XdpAttachMode, XdpModeWanted,
    },
    cli::{
        table::{Table, Tone, or_dash},
        units::{bytes, count, duration, plural, share, since, time},
    },
};

/// Targets that are named; more are only counted.
const NAMED: usize = 10;

pub(crate) fn status(
    status: &Status,
    groups: &[GroupView],
    targets: &[TargetView],
    now: Timestamp,
) -> String {
    let mut text = String::new();
    let _ = writeln!(
        text,
        "{}  lbd {}  up {}  {}",
        Tone::Strong.paint(&status.node),
        status.version.version,
        duration(status.uptime_seconds),
        if status.readiness.ready { Tone::Good.paint("ready") } else { Tone::Bad.paint("not ready") },
    );
    for reason in &status.readiness.reasons {
        let _ = writeln!(text, "  {}", Tone::Bad.paint(reason));
    }
    text.push('\n');
    let mut lines = summary(status, now);
    lines.extend(groups.iter().filter(|group| group.all_down).map(|group| ("all down", all_down(group))));
    lines.extend(down(targets, now));
    for (name, told) in lines {
        let _ = writeln!(text, "{name:<12}{told}");
    }
    if !status.interfaces.is_empty() {
        text.push('\n');
        text.push_str(&interfaces(status));
    }
    if !status.maps.is_empty() {
        text.push('\n');
        text.push_str(&maps(&status.maps));
    }
    if !status.warnings.is_empty() {
        text.push('\n');
    }
    for warning in &status.warnings {
        let _ = writeln!(text, "{} {warning}", Tone::Warning.paint("warning:"));
    }
    text
}

fn summary(status: &Status, now: Timestamp) -> Vec<(&'static str, String)> {
    let mut lines = Vec::new();
    lines.push((
        "revision",
        match &status.revision {
            None => Tone::Warning.paint("none: apply one with `lbctl apply FILE`"),
            Some(revision) => {
                format!("{}, applied {} from {}", revision.number, time(revision.applied_at), revision.source)
            }
        },
    ));
    if let Some(file) = &status.file {
        let told = match (&file.error, file.differs) {
            (Some(error), _) => Tone::Warning.paint(format!("{}: {error}", file.path)),
            (None, true) => {
                let how = format!("differs from the revision; apply it with `lbctl apply {}`", file.path);
                Tone::Warning.paint(how)
            }
            (None, false) => format!("{}, as the revision", file.path),
        };
        lines.push(("file", told));
    }
    let plane = &status.data_plane;
    let state = match plane.state {
        DataPlaneState::InSync => Tone::Good.paint("in sync"),
        DataPlaneState::Drifted => Tone::Bad.paint("drifted"),
        DataPlaneState::Applying => Tone::Warning.paint("applying"),
        DataPlaneState::Unloaded => Tone::Bad.paint("unloaded"),
    };
    let numbers = format!("generation {}, epoch {}, abi {}", plane.generation, plane.epoch, plane.abi);
    lines.push(("data plane", format!("{state}, {numbers}")));
    for drift in &plane.drift {
        let age = since(drift.since, now);
        lines.push(("drift", Tone::Bad.paint(format!("{}: {} (for {age})", drift.map, drift.detail))));
    }
    let counts = &status.counts;
    let taking =
        format!("{} of {} take new flows", counts.targets_up, plural(counts.targets.into(), "target"));
    let held = [
        plural(counts.services.into(), "service"),
        plural(counts.groups.into(), "group"),
        match counts.targets_up {
            up if up == counts.targets => taking,
            0 => Tone::Bad.paint(taking),
            _ => Tone::Warning.paint(taking),
        },
        plural(counts.active_flows, "active flow"),
        format!("{} in the tables", count(counts.held_flows)),
    ];
    lines.push(("holds", held.join(", ")));
    lines
}

/// What becomes of the clients of a group without a target that takes new flows.
fn all_down(group: &GroupView) -> String {
    let clients = match group.on_all_down {
        OnAllDown::Reject => "new flows are rejected",
        OnAllDown::Drop => "new flows are dropped, their clients get no answer",
        OnAllDown::Open => "new flows go to its targets as if they were up",
    };
    let services = match group.services.as_slice() {
        [] => "no service".to_owned(),
        services => services.join(", "),
    };
    format!("{}: {clients} ({services})", Tone::Bad.paint(&group.name))
}

/// Targets that take no new flows although nobody took them out.
fn down(targets: &[TargetView], now: Timestamp) -> Vec<(&'static str, String)> {
    let meant: Vec<&TargetView> = targets
        .iter()
        .filter(|target| target.admin.state == AdminState::Ready && !target.takes_new_flows)
        .collect();
    let mut lines: Vec<_> = meant
        .iter()
        .take(NAMED)
        .map(|target| {
            let name = Tone::Bad.paint(format!("{}/{}", target.group, target.name));
            match (&target.why_not, target.health.verdict) {
                (Some(why), Verdict::Up) => ("down", format!("{name}: {why}")),
                _ => {
                    let age = since(target.health.since, now);
                    ("down", format!("{name} for {age}: {}", target.health.reason))
                }
            }
        })
        .collect();
    if let Some(more) = meant.len().checked_sub(NAMED).filter(|more| *more > 0) {
        lines.push(("", format!("and {more} more: see `lbctl targets`")));
    }
    lines
}

fn interfaces(status: &Status) -> String {
    let mut table = Table::new(&["INTERFACE", "XDP", "WANTED", "#PROGRAM", "TAG", "NOTE"]);
    for interface in &status.interfaces {
        let mode = match interface.xdp_mode {
            Some(XdpAttachMode::Native) => Tone::Good.paint("native"),
            Some(XdpAttachMode::Generic) => Tone::Warning.paint("generic"),
            None => Tone::Bad.paint("not attached"),
        };
        let wanted = match interface.xdp_mode_wanted {
            XdpModeWanted::Native => "native",
            XdpModeWanted::NativeOrGeneric => "native-or-generic",
            XdpModeWanted::Generic => "generic",
        };
        let adopted = interface.adopted.then_some("adopted");
        // What is a reason or a warning already is not said again.
        let said = |reason: &&str| {
            let known = status.readiness.reasons.iter().chain(&status.warnings);
            known.into_iter().any(|known| known.contains(*reason))
        };
        let reason = interface.reason.as_deref().filter(|reason| !said(reason));
        let notes: Vec<&str> = adopted.into_iter().chain(reason).collect();
        table.row([
            interface.name.clone(),
            mode,
            wanted.to_owned(),
            or_dash(interface.program_id.map(|id| id.to_string())),
            or_dash(interface.program_tag.clone()),
            notes.join("; "),
        ]);
    }
    table.render("no interfaces")
}

fn maps(maps: &[MapUsage]) -> String {
    let mut table = Table::new(&["MAP", "#USED", "#MAX", "#FULL", "#MEMORY"]);
    for map in maps {
        let full = or_dash(map.used.map(|used| share(used, map.max)));
        let nearly = map.used.is_some_and(|used| used.saturating_mul(10) >= map.max.saturating_mul(9));
        table.row([
            map.name.clone(),
            or_dash(map.used.map(count)),
            count(map.max),
            if nearly { Tone::Bad.paint(full) } else { full },
            or_dash(map.memory_bytes.map(bytes)),
        ]);
    }
    table.render("no maps")
}
