//! Sequences of events, and what they must lead to.

use std::time::Duration;

use lb_common::abi::target_flags::{END_TCP, END_UDP};

use super::{super::*, fixture::*};
use crate::{
    api::types::{EventKind, TargetState as Wanted},
    config::model::{EstablishedFlows, OnAllDown},
    dataplane::Write,
};

fn set(world: &mut World, target: u8, state: Wanted) {
    let event =
        Event::SetTargetState { group: "web".into(), target: format!("t{target}"), state, deadline: None };
    world.handle(event);
}

fn names(writes: &[Write]) -> Vec<&'static str> {
    writes
        .iter()
        .map(|write| match write {
            Write::Target { .. } => "target",
            Write::NextHop { .. } => "next hop",
            Write::Route { .. } => "route",
            Write::Table { .. } => "table",
            Write::TableSlots { .. } => "slots",
            Write::SourceAddresses(_) => "sources",
            Write::Filter(_) => "filter",
            Write::Generation { .. } => "generation",
            Write::Control(_) => "control",
        })
        .collect()
}

fn kinds(world: &World) -> Vec<EventKind> {
    world.notices.iter().map(|notice| notice.kind).collect()
}

#[test]
fn a_first_configuration_is_one_switch() {
    let mut world = World::new();
    world.apply(&web(&[(1, 1), (2, 1)]));
    assert_eq!(
        names(&world.writes),
        ["next hop", "next hop", "target", "target", "table", "sources", "filter", "generation", "control"]
    );
    assert_eq!((world.control().generation, world.control().epoch), (1, 1));
    assert_eq!(world.shares().keys().collect::<Vec<_>>(), [&0], "nothing has been checked yet");
    world.all_up();
    assert_eq!(names(&world.writes), ["slots"]);
    assert_eq!(world.control().epoch, 1, "no established flow is concerned");
    assert_eq!(world.shares().values().min(), Some(&125));
}

#[test]
fn the_same_configuration_again_writes_nothing() {
    let mut world = World::new();
    world.apply(&web(&[(1, 1), (2, 1)]));
    world.all_up();
    world.apply(&web(&[(1, 1), (2, 1)]));
    assert!(world.writes.is_empty(), "{:?}", world.writes);
}

#[test]
fn a_target_that_goes_down_and_comes_back_moves_its_own_slots() {
    let mut world = World::new();
    world.apply(&web(&[(1, 1), (2, 1), (3, 1)]));
    world.all_up();
    let before = world.slots();
    world.down(2);
    // Its UDP flows are to be chosen a target anew, after the table has let go of it.
    assert_eq!(names(&world.writes), ["slots", "target", "control"]);
    assert_eq!(world.kernel.targets[&world.row(2)].flags, END_UDP);
    let without = world.slots();
    assert!(before.iter().zip(&without).all(|(a, b)| if *a == 2 { *b != 2 } else { a == b }));
    let epoch = world.control().epoch;

    world.probe(2, true);
    world.probe(2, true);
    assert_eq!(world.slots(), before);
    assert_eq!(world.kernel.targets[&world.row(2)].flags, 0);
    assert_eq!(world.control().epoch, epoch + 1);
    assert_eq!(kinds(&world)[3..], [EventKind::TargetDown, EventKind::TargetUp]);
}

#[test]
fn what_becomes_of_flows_is_the_groups_choice() {
    for (tcp, udp, flags) in [
        (EstablishedFlows::Keep, EstablishedFlows::Keep, 0),
        (EstablishedFlows::End, EstablishedFlows::Keep, END_TCP),
        (EstablishedFlows::Keep, EstablishedFlows::End, END_UDP),
        (EstablishedFlows::End, EstablishedFlows::End, END_TCP | END_UDP),
    ] {
        let mut config = web(&[(1, 1), (2, 1)]);
        config.groups[0].on_target_down.tcp = tcp;
        config.groups[0].on_target_down.udp = udp;
        let mut world = World::new();
        world.apply(&config);
        world.all_up();
        let epoch = world.control().epoch;
        world.down(1);
        assert_eq!(world.kernel.targets[&world.row(1)].flags, flags);
        assert_eq!(world.control().epoch, epoch + u32::from(flags != 0));

        set(&mut world, 2, Wanted::Maintenance);
        assert_eq!(world.kernel.targets[&world.row(2)].flags, flags, "maintenance follows the same choice");
        let row = world.row(1);
        config.groups[0].targets.remove(0);
        world.apply(&config);
        assert_eq!(world.kernel.targets[&row].flags, flags, "and so does removal");
    }
}

#[test]
fn with_all_down_the_group_decides() {
    for (choice, share_of_none) in [(OnAllDown::Reject, 251), (OnAllDown::Drop, 251), (OnAllDown::Open, 0)] {
        let mut config = web(&[(1, 1), (2, 1)]);
        config.groups[0].on_all_down = choice;
        config.groups[0].on_target_down.tcp = EstablishedFlows::End;
        let mut world = World::new();
        world.apply(&config);
        world.all_up();
        world.down(1);
        world.down(2);
        assert_eq!(world.shares().get(&0).copied().unwrap_or(0), share_of_none);
        let flags = if choice == OnAllDown::Open { 0 } else { END_TCP | END_UDP };
        assert_eq!(world.kernel.targets[&world.row(1)].flags, flags, "flows are not begun to be ended");
        let (_, group, target) = world.core.target("web", "t1").unwrap();
        assert_eq!(
            group.why_not(target).is_none(),
            choice == OnAllDown::Open,
            "what is shown is what is done"
        );
        assert_eq!(world.notices.last().unwrap().kind, EventKind::AllDown);
        world.probe(1, true);
        world.probe(1, true);
        assert_eq!(world.shares().keys().collect::<Vec<_>>(), [&1]);
        assert_eq!(world.notices.last().unwrap().kind, EventKind::Recovered);
    }
}

#[test]
fn without_a_next_hop_no_flows() {
    let config = web(&[(1, 1), (2, 1)]);
    let mut world = World::new();
    world.apply(&config);
    world.all_up();
    let mut lost = facts(&config);
    let address = config.groups[0].targets[0].address;
    lost.targets.insert(address, Err("neighbour 10.0.1.1 on eth0 is failed".into()));
    world.handle(Event::Network(lost.into()));
    assert_eq!(names(&world.writes), ["slots", "next hop"], "the way is taken away after the slots");
    assert!(!world.shares().contains_key(&1));
    let (_, _, state) = world.core.target("web", "t1").unwrap();
    assert_eq!(state.why_not().unwrap().to_string(), "next hop: neighbour 10.0.1.1 on eth0 is failed");

    let mut moved = facts(&config);
    moved.targets.insert(address, Ok(hop(77)));
    world.handle(Event::Network(moved.into()));
    assert_eq!(names(&world.writes), ["next hop", "slots"]);
    world.handle(Event::Network(facts(&config).into()));
    assert_eq!(
        names(&world.writes),
        ["next hop"],
        "a neighbour's new address reaches established flows by its row"
    );
}

#[test]
fn a_drain_ends_when_no_flow_is_left() {
    let mut world = World::new();
    world.apply(&web(&[(1, 1), (2, 1)]));
    world.all_up();
    let row = world.row(1) as usize;
    world.counters.targets[row].opened = 5;
    world.counters.targets[row].closed = 2;
    world.count();
    let epoch = world.control().epoch;
    set(&mut world, 1, Wanted::Drain);
    assert_eq!(world.shares().keys().collect::<Vec<_>>(), [&2]);
    assert!(world.saved_admin["web"].contains_key("t1"));
    world.pass(Duration::from_secs(60));
    world.count();
    assert_eq!(world.kernel.targets[&(row as u32)].flags, 0);
    world.counters.targets[row].closed = 5;
    world.count();
    assert_eq!(world.notices.last().unwrap().message, "drained: no flow is left");
    assert_eq!(world.control().epoch, epoch, "nothing was ended");

    set(&mut world, 1, Wanted::Ready);
    assert_eq!(world.shares().len(), 2);
    assert!(world.saved_admin.is_empty());
}

#[test]
fn a_drain_ends_at_its_deadline() {
    let mut world = World::new();
    let config = web(&[(1, 1), (2, 1)]);
    world.apply(&config);
    world.all_up();
    let row = world.row(1) as usize;
    world.counters.targets[row].opened = 5;
    world.count();
    world.pass(Duration::from_millis(1234));
    set(&mut world, 1, Wanted::Drain);
    let begun = world.notices.iter().find(|notice| notice.message.starts_with("draining")).unwrap();
    assert!(
        begun.message.contains("5 flows left, until ") && !begun.message.contains('.'),
        "{}",
        begun.message
    );
    world.pass(Duration::from_secs(200));
    world.count();
    // The deadline is a moment of the clock on the wall: it passes while the agent is dead, too.
    world.now += Duration::from_secs(101);
    world.restart(&config);
    world.count();
    assert_eq!(world.kernel.targets[&(row as u32)].flags, END_TCP | END_UDP);
    assert!(
        world.notices.iter().any(|notice| notice.message == "drained: the deadline passed, 5 flows ended")
    );
    assert!(!world.shares().contains_key(&1));
}

#[test]
fn maintenance_stops_the_checks() {
    let mut world = World::new();
    world.apply(&web(&[(1, 1), (2, 1)]));
    world.all_up();
    assert_eq!(world.probes.len(), 2);
    set(&mut world, 1, Wanted::Maintenance);
    assert_eq!(world.probes.len(), 1);
    assert!(!world.shares().contains_key(&1));
    set(&mut world, 1, Wanted::Ready);
    assert_eq!(world.probes.len(), 2);
    assert!(!world.shares().contains_key(&1), "it has to answer first");
    world.probe(1, true);
    assert!(world.shares().contains_key(&1));
}

#[test]
fn a_removed_targets_row_waits_for_its_flows() {
    let mut world = World::new();
    world.apply(&web(&[(1, 1), (2, 1)]));
    world.all_up();
    let row = world.row(1);
    world.counters.targets[row as usize].opened = 1;
    world.count();
    world.apply(&web(&[(2, 1), (3, 1)]));
    world.pass(Duration::from_secs(1000));
    world.count();
    assert!(world.kernel.targets.contains_key(&row) && world.kernel.next_hops.contains_key(&row));
    world.counters.targets[row as usize].closed = 1;
    world.count();
    assert!(!world.kernel.targets.contains_key(&row) && !world.kernel.next_hops.contains_key(&row));
}

#[test]
fn a_removed_target_that_comes_back_finds_its_flows() {
    let mut world = World::new();
    world.apply(&web(&[(1, 1), (2, 1)]));
    world.all_up();
    let (row, before) = (world.row(1), world.kernel.targets[&world.row(1)]);
    world.apply(&web(&[(2, 1)]));
    assert_ne!(world.kernel.targets[&row].flags, before.flags);
    world.apply(&web(&[(1, 1), (2, 1)]));
    assert_eq!((world.row(1), world.kernel.targets[&row]), (row, before));
}

#[test]
fn a_restart_moves_no_slot() {
    let mut world = World::new();
    let config = web(&[(1, 1), (2, 2), (3, 1)]);
    world.apply(&config);
    world.all_up();
    set(&mut world, 3, Wanted::Drain);
    let (slots, epoch) = (world.slots(), world.control().epoch);
    world.restart(&config);
    assert_eq!(names(&world.writes), ["sources", "filter"], "these cannot be read back");
    assert_eq!((world.slots(), world.control().epoch), (slots, epoch));
    world.down(1);
    assert!(!world.shares().contains_key(&1), "what it was before does not outlive its checks");
}

#[test]
fn a_restart_without_saved_rows_takes_no_flow_for_another() {
    let mut world = World::new();
    let config = web(&[(1, 1), (2, 1)]);
    world.apply(&config);
    world.all_up();
    let before = world.kernel.targets[&world.row(1)].incarnation;
    world.saved_rows = None;
    world.restart(&config);
    assert_ne!(world.kernel.targets[&world.row(1)].incarnation, before);
}

#[test]
fn a_failed_apply_changes_nothing() {
    let before = web(&[(1, 1), (2, 1)]);
    let after = web(&[(2, 3), (3, 1)]);
    let mut count = World::new();
    count.apply(&before);
    count.all_up();
    let writes = {
        let mut world = count.clone();
        world.apply(&after);
        world.writes.len()
    };
    for fails_after in 0..writes {
        let mut world = count.clone();
        let slots = world.slots();
        world.fails_after = Some(fails_after);
        world.apply(&after);
        let in_force = world.control().generation != count.control().generation;
        assert!(!world.core.is_sure());
        if !in_force {
            assert_eq!(world.slots(), slots, "new flows are not concerned");
            assert_eq!(world.core.config().unwrap().groups, before.groups);
        }
        world.pass(Duration::from_secs(2));
        assert!(world.core.is_sure(), "repaired");
        if !in_force {
            assert_eq!(world.slots(), slots);
            assert_eq!(world.saved_rows, count.saved_rows);
        }
        world.apply(&after);
        assert_eq!(world.core.config().unwrap().groups, after.groups);
        assert!(world.shares().contains_key(&2));
    }
}

#[test]
fn drift_is_told_and_repaired() {
    let mut world = World::new();
    world.apply(&web(&[(1, 1), (2, 1)]));
    world.all_up();
    let good = world.kernel.clone();
    let row = world.row(1);
    world.kernel.targets.get_mut(&row).unwrap().flags = END_TCP;
    let table = world.kernel.policy.tables().next().unwrap();
    std::sync::Arc::make_mut(world.kernel.tables.get_mut(&table).unwrap())[7] = 0;
    world.pass(Duration::from_secs(11));
    let maps: Vec<_> = world.core.differences().iter().map(|found| found.map.clone()).collect();
    assert_eq!(maps, ["TARGETS".to_owned(), format!("TABLES {table}")]);
    assert_eq!((&world.kernel.targets, &world.kernel.tables), (&good.targets, &good.tables));
    world.pass(Duration::from_secs(11));
    assert!(world.core.differences().is_empty());
    let drift: Vec<_> = world.notices.iter().filter(|notice| notice.kind == EventKind::Drift).collect();
    assert_eq!(drift.len(), 3, "{drift:?}");
}

#[test]
fn what_does_not_fit_is_refused_whole() {
    let mut world = World::new();
    let config = web(&[(1, 1), (2, 1)]);
    world.apply(&config);
    world.all_up();
    let many: Vec<(u8, u32)> = (1..=9).map(|index| (index, 1)).collect();
    // No row is missed for what is beyond the limit: one reason each is enough.
    let mut beyond = web(&many);
    beyond.services = (1..=5).map(|last| service(&format!("s{last}"), last, "web")).collect();
    let foretold = world.core.refusals(&beyond);
    let commands = world.apply(&beyond).to_vec();
    let [Command::Refuse(reasons)] = commands.as_slice() else { panic!("{commands:?}") };
    assert_eq!((&foretold, reasons.len()), (reasons, 2));
    assert!(reasons[0].starts_with("5 services") && reasons[1].starts_with("9 targets"), "{reasons:?}");
    assert_eq!(world.core.config().unwrap().groups, config.groups);

    // All rows are held: by the configured ones and by those whose flows have not ended.
    world.apply(&web(&[(3, 1), (4, 1), (5, 1), (6, 1), (7, 1), (8, 1)]));
    let held = web(&[(9, 1), (10, 1)]);
    let foretold = world.core.refusals(&held);
    let commands = world.apply(&held).to_vec();
    let [Command::Refuse(reasons)] = commands.as_slice() else { panic!("{commands:?}") };
    assert_eq!(&foretold, reasons);
    assert!(reasons.len() == 1 && reasons[0].contains("`web/t9` and 1 more"), "{reasons:?}");
    world.pass(Duration::from_secs(100));
    world.count();
    assert!(world.core.refusals(&held).is_empty());
    world.apply(&web(&[(9, 1)]));
    assert_eq!(world.core.config().unwrap().groups[0].targets.len(), 1);
    assert_eq!(world.kernel.targets[&world.row(9)].incarnation, 2);
}

#[test]
fn a_smaller_table_is_spread_over_the_kernels() {
    let mut config = web(&[(1, 1), (2, 2)]);
    config.groups[0].table_slots = 31;
    let mut world = World::new();
    world.apply(&config);
    world.all_up();
    let shares = world.shares();
    assert_eq!(world.slots().len(), SLOTS as usize);
    assert!((75..95).contains(&shares[&1]) && shares[&1] + shares[&2] == SLOTS as usize, "{shares:?}");
}

#[test]
fn ways_back_to_clients_keep_their_rows() {
    let mut world = World::new();
    let config = web(&[(1, 1)]);
    world.apply(&config);
    let mut facts = facts(&config);
    let gateway = "10.0.0.1".parse().unwrap();
    facts.client_routes = vec![
        ("10.9.0.0/16".parse().unwrap(), Hop { gateway: Some(gateway), ..hop(1) }),
        ("10.8.0.0/16".parse().unwrap(), Hop { gateway: Some(gateway), ..hop(1) }),
        ("10.0.0.7/32".parse().unwrap(), hop(7)),
    ];
    facts.client_gaps = vec!["10.0.0.0/24".parse().unwrap()];
    world.handle(Event::Network(facts.clone().into()));
    let rows: Vec<u32> = world.kernel.routes.values().copied().collect();
    assert_eq!(rows, [0, 10, 9, 9], "one row for one router; none for a network of neighbours");

    world.restart(&config);
    world.handle(Event::Network(facts.clone().into()));
    assert_eq!(world.kernel.routes.values().copied().collect::<Vec<_>>(), rows, "recognised after a restart");

    // A router that is gone is still where flows send; the row is another's only after a long rest.
    facts.client_routes.truncate(2);
    world.handle(Event::Network(facts.clone().into()));
    assert!(world.kernel.next_hops.contains_key(&10));
    world.pass(Duration::from_secs(4000));
    assert!(!world.kernel.next_hops.contains_key(&10));
}

#[test]
fn source_addresses_keep_their_order_and_stay_visible() {
    let mut config = web(&[(1, 1)]);
    let address = |last: u8| std::net::Ipv4Addr::new(10, 0, 0, last);
    config.snat.ipv4 = vec![address(2), address(3)];
    let mut world = World::new();
    world.apply(&config);
    let row = world.row(1) as usize;
    world.counters.targets[row].opened = 1;
    world.count();
    config.snat.ipv4 = vec![address(4), address(3)];
    world.apply(&config);
    assert_eq!(world.kernel.sources.as_deref(), Some(&[address(3).into(), address(4).into()][..]));
    assert!(world.kernel.filter.as_ref().unwrap().contains(&address(2).into()), "its flows are not over");
    world.restart(&config);
    assert!(world.kernel.filter.as_ref().unwrap().contains(&address(2).into()));
    world.counters.targets[row].closed = 1;
    world.count();
    assert!(!world.kernel.filter.as_ref().unwrap().contains(&address(2).into()));
}

#[test]
fn source_addresses_that_a_failure_leaves_unsure_are_written_again() {
    let before = web(&[(1, 1)]);
    let mut after = before.clone();
    after.snat.ipv4 = vec!["10.0.0.3".parse().unwrap()];
    let mut good = World::new();
    good.apply(&before);
    let mut world = good.clone();
    world.fails_after = Some(1);
    world.apply(&after);
    assert_eq!(names(&world.writes), ["sources"]);
    assert_eq!(world.core.config().unwrap().snat, before.snat);
    let mut killed = world.clone();
    world.pass(Duration::from_secs(2));
    assert_eq!(world.kernel, good.kernel);

    // An agent killed just there has saved the new rows, and services still show the old address.
    let mut whole = good.clone();
    whole.apply(&after);
    killed.saved_rows = whole.saved_rows;
    killed.restart(&before);
    assert_eq!(killed.kernel.sources, good.kernel.sources);
}

#[test]
fn an_administrative_state_that_could_not_be_saved_is_saved_as_soon_as_it_can_be() {
    let config = web(&[(1, 1), (2, 1)]);
    let mut world = World::new();
    world.apply(&config);
    world.all_up();
    let tries = |world: &World| {
        world.commands.iter().filter(|command| matches!(command, Command::SaveAdmin(_))).count()
    };
    world.saves_fail = true;
    set(&mut world, 1, Wanted::Maintenance);
    assert_eq!(tries(&world), 1);
    set(&mut world, 1, Wanted::Maintenance);
    assert_eq!(tries(&world), 1, "asked again, it still has to be saved");
    world.pass(Duration::from_secs(1));
    assert_eq!(tries(&world), 1);
    assert!(world.saved_admin.is_empty());
    world.saves_fail = false;
    world.pass(Duration::from_secs(1));
    assert_eq!(tries(&world), 1);
    world.pass(Duration::from_secs(1));
    assert_eq!(tries(&world), 0, "it is saved");
    world.restart(&config);
    world.all_up();
    assert_eq!(world.shares().keys().collect::<Vec<_>>(), [&2]);
}
