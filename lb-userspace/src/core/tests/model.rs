//! Random sequences of events: after each, the model's maps are exactly what they should be, and after each single
//! write what is in force is whole (both are checked by the fixture).

use std::time::Duration;

use proptest::prelude::*;

use super::{super::*, fixture::*};
use crate::{api::types::TargetState as Wanted, config::model::Config};

#[derive(Debug, Clone)]
enum Step {
    Apply { targets: Vec<(u8, u32)>, pool: Vec<u8>, second: bool, deny: bool, fails_after: Option<usize> },
    Probe { target: u8, up: bool, fails: bool },
    Lose { target: u8 },
    Find,
    Set { target: u8, state: u8 },
    Open { target: u8 },
    Close,
    Pass { seconds: u64 },
    Restart,
    Drift { slot: usize },
}

fn step() -> impl Strategy<Value = Step> {
    let targets = proptest::collection::btree_map(1_u8..8, 0_u32..4, 1..5);
    let pool = proptest::collection::btree_set(2_u8..5, 1..3);
    let fails_after = proptest::option::weighted(0.2, 0_usize..12);
    prop_oneof![
        2 => (targets, pool, any::<bool>(), any::<bool>(), fails_after).prop_map(
            |(targets, pool, second, deny, fails_after)| Step::Apply {
                targets: targets.into_iter().collect(),
                pool: pool.into_iter().collect(),
                second,
                deny,
                fails_after,
            }
        ),
        6 => (1_u8..8, any::<bool>(), proptest::bool::weighted(0.05))
            .prop_map(|(target, up, fails)| Step::Probe { target, up, fails }),
        1 => (1_u8..8).prop_map(|target| Step::Lose { target }),
        1 => Just(Step::Find),
        1 => (1_u8..8, 0_u8..3).prop_map(|(target, state)| Step::Set { target, state }),
        2 => (1_u8..8).prop_map(|target| Step::Open { target }),
        1 => Just(Step::Close),
        2 => (1_u64..400).prop_map(|seconds| Step::Pass { seconds }),
        1 => Just(Step::Restart),
        1 => (0_usize..SLOTS as usize).prop_map(|slot| Step::Drift { slot }),
    ]
}

fn build(targets: &[(u8, u32)], pool: &[u8], second: bool, deny: bool) -> Config {
    let mut services = vec![service("web", 100, "web")];
    let mut groups = vec![group("web", targets)];
    if second {
        services.push(service("other", 101, "other"));
        groups.push(group("other", &targets[..1]));
    }
    services[0].access[0].allow = !deny;
    let mut config = config(services, groups);
    config.snat.ipv4 = pool.iter().map(|last| [10, 0, 0, *last].into()).collect();
    config
}

fn run(steps: Vec<Step>) {
    let mut world = World::new();
    let mut current = build(&[(1, 1), (2, 1)], &[2], false, false);
    world.apply(&current);
    for step in steps {
        match step {
            Step::Apply { targets, pool, second, deny, fails_after } => {
                let next = build(&targets, &pool, second, deny);
                let before = world.slots();
                world.fails_after = fails_after;
                world.apply(&next);
                world.fails_after = None;
                let in_force = world.core.config().expect("a configuration").as_ref().clone();
                assert!(in_force == next || in_force == current, "one configuration or the other");
                if in_force != next {
                    assert_eq!(world.slots(), before);
                }
                current = in_force;
            }
            Step::Probe { target, up, fails } => {
                world.fails_after = fails.then_some(0);
                world.probe(target, up);
                world.fails_after = None;
            }
            Step::Lose { target } => {
                let mut facts = facts(&current);
                for (_, way) in facts.targets.iter_mut().filter(|(address, _)| last(**address) == target) {
                    *way = Err("no route".to_owned());
                }
                world.handle(Event::Network(facts.into()));
            }
            Step::Find => drop(world.handle(Event::Network(facts(&current).into())).len()),
            Step::Set { target, state } => {
                let state = [Wanted::Ready, Wanted::Drain, Wanted::Maintenance][usize::from(state)];
                let (group, target) = ("web".to_owned(), format!("t{target}"));
                world.handle(Event::SetTargetState { group, target, state, deadline: None });
            }
            Step::Open { target } => {
                // Only a target that a slot names can be given a flow.
                if world.slots().contains(&target) {
                    let row = world.row(target) as usize;
                    world.counters.targets[row].opened += 1;
                }
                world.count();
            }
            Step::Close => {
                for row in &mut world.counters.targets {
                    row.closed = row.opened;
                }
                world.count();
            }
            Step::Pass { seconds } => drop(world.pass(Duration::from_secs(seconds)).len()),
            Step::Restart => world.restart(&current),
            Step::Drift { slot } => {
                let table = world.kernel.policy.tables().next().expect("a service");
                let content = world.kernel.tables.get_mut(&table).expect("in force");
                std::sync::Arc::make_mut(content)[slot] = 0;
                // Not by a tick: one that has a row to release writes, and reads a second later only.
                let read = world.read();
                world.handle(Event::ReadBack(Box::new(read)));
            }
        }
        // Whatever failed is repaired within two ticks.
        world.pass(Duration::from_secs(2));
        world.pass(Duration::from_secs(2));
        assert!(world.core.is_sure());
        agree(&world);
    }
}

/// A slot names only a target that takes new flows, and every slot does if there is one.
fn agree(world: &World) {
    for (config, group) in world.core.groups() {
        let Some(table) = group.table else { continue };
        let takes: Vec<u32> = group
            .targets
            .iter()
            .filter(|target| target.why_not().is_none())
            .map(|target| target.held.row)
            .collect();
        for row in world.kernel.tables[&table].iter() {
            assert!(
                takes.contains(row) || takes.is_empty() && *row == 0,
                "{}: {row}, {takes:?}",
                config.name
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_kernel_holds_what_it_should(steps in proptest::collection::vec(step(), 1..40)) {
        run(steps);
    }
}
