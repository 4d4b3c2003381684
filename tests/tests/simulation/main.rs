//! The control core and the packet path together, from a seed: packets run through the pipeline as it is compiled for
//! the host, while targets fail, configurations change, writes are refused, and the agent is killed and restarted.
//! After each step the promises are checked.
//!
//! A run that fails names its seed; `PORTSIDE_SEED=… cargo test -p lb-tests --test simulation` runs that one again.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed test panics")]

mod checks;
mod configs;
mod node;
mod scenario;
mod traffic;

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    time::{Duration, Instant},
};

use scenario::Account;

/// Steps of one run.
const STEPS: usize = 250;
/// Seeds that are always run.
const SEEDS: u64 = 12;
/// Time for further seeds, new ones each time.
const EXPLORE: Duration = Duration::from_secs(10);

/// What must happen in the seeds that are always run.
const HAPPEN: [&str; 13] = [
    "opened",
    "opened without an agent",
    "refused for want of a target",
    "delivered",
    "waits for its next hop",
    "revoked",
    "ended",
    "applied",
    "taken back",
    "restarted",
    "compared",
    "down",
    "drained by the deadline",
];

#[test]
fn the_promises_hold() {
    if let Ok(seed) = std::env::var("PORTSIDE_SEED") {
        let seed = seed.parse().expect("PORTSIDE_SEED is a number");
        scenario::run(seed, STEPS);
        return;
    }
    let mut tally = BTreeMap::<_, u64>::new();
    for seed in 0..SEEDS {
        for (what, count) in replayable(seed).tally {
            *tally.entry(what).or_default() += count;
        }
    }
    println!("{tally:#?}");
    for what in HAPPEN {
        assert!(tally.contains_key(what), "{what}: never happened, so nothing was checked of it");
    }
    let start = Instant::now();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    let mut seed = now.as_secs();
    while start.elapsed() < EXPLORE {
        seed = seed.wrapping_add(0x9e37_79b9);
        replayable(seed);
    }
}

#[test]
fn a_seed_is_a_whole_run() {
    assert_eq!(scenario::run(7, 60), scenario::run(7, 60), "the same seed leads to the same packets");
}

fn replayable(seed: u64) -> Account {
    catch_unwind(AssertUnwindSafe(|| scenario::run(seed, STEPS))).unwrap_or_else(|panic| {
        eprintln!(
            "to replay: PORTSIDE_SEED={seed} cargo test -p lb-tests --test simulation the_promises_hold"
        );
        resume_unwind(panic)
    })
}
