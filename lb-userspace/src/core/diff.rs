//! From what a data plane holds to what it should hold: the writes, in an order that is right at every moment.
//!
//! What something names is written before what names it, and taken away after. New flows change over by the one write
//! of the control row; what that write puts in force is complete by then.

use std::{collections::BTreeSet, net::IpAddr};

use lb_common::abi::{Control, NextHop, Target};

use super::image::Image;
use crate::dataplane::Write;

/// The writes that make `have` into `want`. Of the wanted control row, generation and epoch are not looked at: they
/// follow from what changes.
pub(super) fn diff(have: &Image, want: &Image) -> Vec<Write> {
    let mut writes = Vec::new();
    found_next_hops(have, want, &mut writes);
    targets(have, want, &mut writes, Late::No);
    routes(have, want, &mut writes);
    tables(have, want, &mut writes);
    if let Some(sources) = want.sources.as_ref().filter(|sources| have.sources.as_ref() != Some(sources)) {
        writes.push(Write::SourceAddresses(sources.clone()));
    }
    let passing = filter_while_changing(have, want);
    if have.filter.as_ref() != Some(&passing) {
        writes.push(Write::Filter(passing.iter().copied().collect()));
    }
    targets(have, want, &mut writes, Late::Yes);
    control(have, want, &mut writes);
    if want.filter.as_ref().is_some_and(|filter| *filter != passing) {
        writes.push(Write::Filter(want.filter.iter().flatten().copied().collect()));
    }
    lost(have, want, &mut writes);
    writes
}

fn found_next_hops(have: &Image, want: &Image, writes: &mut Vec<Write>) {
    for (&row, &next_hop) in &want.next_hops {
        if have.next_hops.get(&row) != Some(&next_hop) {
            writes.push(Write::NextHop { row, next_hop });
        }
    }
}

/// Whether a target's row waits until no new flow is given to it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Late {
    No,
    Yes,
}

/// A target whose flows are to be ended is marked so after the tables have let go of it.
fn targets(have: &Image, want: &Image, writes: &mut Vec<Write>, late: Late) {
    for (&row, &target) in &want.targets {
        let before = have.targets.get(&row);
        let ends = before.is_some_and(|before| same(before, &target) && target.flags & !before.flags != 0);
        if before != Some(&target) && ends == (late == Late::Yes) {
            writes.push(Write::Target { row, target });
        }
    }
}

fn same(a: &Target, b: &Target) -> bool {
    (a.address, a.port, a.incarnation) == (b.address, b.port, b.incarnation)
}

fn routes(have: &Image, want: &Image, writes: &mut Vec<Write>) {
    for (&prefix, &row) in &want.routes {
        if have.routes.get(&prefix) != Some(&row) {
            writes.push(Write::Route { prefix, row: Some(row) });
        }
    }
}

fn tables(have: &Image, want: &Image, writes: &mut Vec<Write>) {
    for (&table, content) in &want.tables {
        match have.tables.get(&table) {
            Some(held) if std::sync::Arc::ptr_eq(held, content) => {}
            Some(held) if held.len() == content.len() => {
                let slots: Vec<(u32, u32)> = (0..)
                    .zip(held.iter().zip(content.iter()))
                    .filter(|(_, (held, wanted))| held != wanted)
                    .map(|(slot, (_, wanted))| (slot, *wanted))
                    .collect();
                if !slots.is_empty() {
                    writes.push(Write::TableSlots { table, slots });
                }
            }
            _ => writes.push(Write::Table { table, slots: content.to_vec() }),
        }
    }
}

/// All that either generation needs the program to look at.
fn filter_while_changing(have: &Image, want: &Image) -> BTreeSet<IpAddr> {
    let wanted = want.filter.clone().unwrap_or_default();
    if have.policy == want.policy && (have.filter.is_none() || have.filter == want.filter) {
        return wanted;
    }
    let in_force = have.policy.services.iter().map(|row| row.address);
    wanted.into_iter().chain(have.filter.iter().flatten().copied()).chain(in_force).collect()
}

fn control(have: &Image, want: &Image, writes: &mut Vec<Write>) {
    let switch = have.policy != want.policy;
    let reflagged = want.targets.iter().any(|(row, target)| {
        have.targets.get(row).is_some_and(|before| same(before, target) && before.flags != target.flags)
    });
    let Control { generation, epoch, .. } = have.control;
    let settings = Control { generation, epoch, ..want.control };
    if switch {
        writes.push(Write::Generation {
            generation: generation ^ 1,
            services: want.policy.services.clone(),
            access: want.policy.access.clone(),
        });
        let epoch = epoch.wrapping_add(1);
        writes.push(Write::Control(Control { generation: generation ^ 1, epoch, ..settings }));
    } else if reflagged {
        writes.push(Write::Control(Control { epoch: epoch.wrapping_add(1), ..settings }));
    } else if have.control != settings {
        writes.push(Write::Control(settings));
    }
}

/// What nothing names any more.
fn lost(have: &Image, want: &Image, writes: &mut Vec<Write>) {
    for &prefix in have.routes.keys().filter(|prefix| !want.routes.contains_key(prefix)) {
        writes.push(Write::Route { prefix, row: None });
    }
    for &row in have.next_hops.keys().filter(|row| !want.next_hops.contains_key(row)) {
        writes.push(Write::NextHop { row, next_hop: NextHop::default() });
    }
    for &row in have.targets.keys().filter(|row| !want.targets.contains_key(row)) {
        writes.push(Write::Target { row, target: Target::default() });
    }
}
