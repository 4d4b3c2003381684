//! Targets.

use std::{collections::BTreeMap, fmt::Write as _, net::SocketAddr};

use jiff::Timestamp;

use crate::{
    api::types::{AdminState, AdminView, HealthHistory, NextHop, TargetView, Verdict},
    cli::{
        table::{Table, Tone, or_dash},
        units::{bytes, count, duration, plural, share, since, time},
    },
};

pub(crate) fn targets(targets: &[TargetView], now: Timestamp) -> String {
    let mut slots: BTreeMap<&str, u64> = BTreeMap::new();
    for target in targets {
        *slots.entry(&target.group).or_default() += u64::from(target.table_slots);
    }
    let mut table = Table::new(&[
        "GROUP",
        "TARGET",
        "ADDRESS",
        "ZONE",
        "#WEIGHT",
        "HEALTH",
        "#FOR",
        "STATE",
        "NEW FLOWS",
        "#SHARE",
        "#ACTIVE",
        "#NEW",
        "#BYTES IN",
        "#BYTES OUT",
    ]);
    for target in targets {
        let all_slots = slots.get(target.group.as_str()).copied().unwrap_or_default();
        table.row([
            target.group.clone(),
            target.name.clone(),
            SocketAddr::new(target.address, target.port).to_string(),
            or_dash(target.zone.clone()),
            target.weight.to_string(),
            verdict(target.health.verdict),
            since(target.health.since, now),
            admin(&target.admin, now),
            takes(target),
            share(target.table_slots.into(), all_slots),
            count(target.counters.active_flows),
            count(target.counters.new_flows),
            bytes(target.counters.bytes_in),
            bytes(target.counters.bytes_out),
        ]);
    }
    table.render("no targets")
}

/// One target with its last checks.
pub(crate) fn target(target: &TargetView, history: &HealthHistory, now: Timestamp) -> String {
    let health = &target.health;
    let counters = &target.counters;
    let lines = [
        ("target", Tone::Strong.paint(format!("{}/{}", target.group, target.name))),
        ("address", SocketAddr::new(target.address, target.port).to_string()),
        ("zone", or_dash(target.zone.clone())),
        ("weight", target.weight.to_string()),
        (
            "health",
            match health.verdict {
                Verdict::Unchecked => verdict(health.verdict),
                known => format!("{} for {}: {}", verdict(known), since(health.since, now), health.reason),
            },
        ),
        ("state", admin(&target.admin, now)),
        ("new flows", takes(target)),
        ("next hop", next_hop(&target.next_hop)),
        ("table", plural(target.table_slots.into(), "slot")),
        ("flows", format!("{} active, {} admitted", count(counters.active_flows), count(counters.new_flows))),
        ("in", format!("{}, {}", plural(counters.packets_in, "packet"), bytes(counters.bytes_in))),
        ("out", format!("{}, {}", plural(counters.packets_out, "packet"), bytes(counters.bytes_out))),
    ];
    let mut text = String::new();
    for (name, told) in lines {
        let _ = writeln!(text, "{name:<12}{told}");
    }
    let mut transitions = Table::new(&["VERDICT SINCE", "FROM", "TO", "REASON"]);
    for change in &history.transitions {
        transitions.row([time(change.at), verdict(change.from), verdict(change.to), change.reason.clone()]);
    }
    let mut checks = Table::new(&["CHECKED", "RESULT", "#TOOK", "REASON"]);
    for check in &history.checks {
        let result = if check.passed { Tone::Good.paint("passed") } else { Tone::Bad.paint("failed") };
        checks.row([time(check.at), result, duration(check.duration_seconds), check.reason.clone()]);
    }
    let tables = [transitions.render("its verdict has not changed"), checks.render("it was not checked yet")];
    format!("{text}\n{}", tables.join("\n"))
}

fn verdict(verdict: Verdict) -> String {
    match verdict {
        Verdict::Unchecked => return Tone::Faint.paint("not checked"),
        Verdict::Up => Tone::Good,
        Verdict::Down => Tone::Bad,
        Verdict::Checking => Tone::Warning,
    }
    .paint(verdict.to_string())
}

fn admin(admin: &AdminView, now: Timestamp) -> String {
    let state = admin.state.to_string();
    if admin.state == AdminState::Ready {
        return state;
    }
    let mut text = Tone::Warning.paint(state);
    if admin.state == AdminState::Draining {
        if let Some(left) = admin.remaining_flows {
            let _ = write!(text, ", {} left", plural(left, "flow"));
        }
        if let Some(deadline) = admin.deadline.filter(|deadline| *deadline > now) {
            let _ = write!(text, " for {}", duration(deadline.duration_since(now).as_secs_f64()));
        }
    }
    text
}

fn takes(target: &TargetView) -> String {
    if target.as_if_up {
        return Tone::Warning.paint("yes: no target is up");
    }
    if target.takes_new_flows {
        return Tone::Good.paint("yes");
    }
    let why = target.why_not.as_deref().map(|why| format!("no: {why}"));
    Tone::Warning.paint(why.unwrap_or_else(|| "no".to_owned()))
}

fn next_hop(hop: &NextHop) -> String {
    if !hop.resolved {
        return Tone::Bad.paint(hop.reason.clone().unwrap_or_else(|| "not resolved".to_owned()));
    }
    let parts = [
        hop.mac.clone(),
        hop.via.map(|via| format!("via {via}")),
        hop.interface.as_ref().map(|name| format!("by {name}")),
        hop.mtu.map(|mtu| format!("MTU {mtu}")),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}
