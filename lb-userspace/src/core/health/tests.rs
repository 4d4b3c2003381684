use proptest::{collection::vec, prelude::*};

use super::*;

const MS: fn(u64) -> Duration = Duration::from_millis;

fn timing(rise: u32, fall: u32) -> Timing {
    Timing { interval: MS(2000), transition_interval: MS(500), rise, fall }
}

/// Ends the awaited check at the moment it was due.
fn finish(health: &mut Health, outcome: Outcome) -> Step {
    let due = health.due();
    let result = Check { at: due.at, took: MS(1), outcome };
    health.probed(due.check, result, due.at + MS(1)).expect("the awaited check's result is taken")
}

#[test]
fn the_first_result_decides_at_once() {
    for (outcome, verdict) in [(Ok(()), Verdict::Up), (Err(Reason::Refused), Verdict::Down)] {
        let mut health = Health::new(&"web/a", 0, timing(3, 3), MS(0));
        assert_eq!(health.verdict(), Verdict::Unknown);
        let reason = outcome.clone().err();
        let step = finish(&mut health, outcome);
        let expected = Transition { from: Verdict::Unknown, to: verdict, reason: reason.clone() };
        assert_eq!(step.transition, Some(expected));
        assert_eq!(health.verdict(), verdict);
        assert_eq!(health.reason(), reason.as_ref());
    }
}

#[test]
fn a_seeded_verdict_takes_the_whole_number_of_failures() {
    let mut health = Health::seeded(&"web/a", 0, timing(2, 3), Verdict::Up, MS(0));
    assert_eq!(finish(&mut health, Err(Reason::Refused)).transition, None);
    assert_eq!(finish(&mut health, Err(Reason::Refused)).transition, None);
    assert_eq!(health.contrary(), (2, 3));
    assert!(finish(&mut health, Err(Reason::Refused)).transition.is_some());
    assert_eq!(health.verdict(), Verdict::Down);
    assert_eq!(health.contrary(), (0, 2));
}

#[test]
fn results_of_abandoned_checks_change_nothing() {
    let mut health = Health::seeded(&"web/a", 7, timing(1, 1), Verdict::Up, MS(0));
    let failure = Check { at: MS(0), took: MS(1), outcome: Err(Reason::Refused) };

    let abandoned = health.due().check;
    let due = health.reconfigure(timing(1, 1), MS(10));
    assert_eq!(health.probed(abandoned, failure.clone(), MS(20)), None);

    let other_life = CheckId { incarnation: 6, ..due.check };
    assert_eq!(health.probed(other_life, failure.clone(), MS(20)), None);

    assert_eq!((health.verdict(), health.history().len(), health.due()), (Verdict::Up, 0, due));
    assert!(health.probed(due.check, failure.clone(), MS(20)).is_some());
    assert_eq!(health.probed(due.check, failure, MS(20)), None, "a result counts once");
}

#[test]
fn the_nodes_own_shortage_is_recorded_but_not_counted() {
    let short = || Err(Reason::Local("too many open files".into()));
    let mut health = Health::new(&"web/a", 0, timing(1, 2), MS(0));
    assert_eq!(finish(&mut health, short()).transition, None);
    assert_eq!(health.verdict(), Verdict::Unknown);

    finish(&mut health, Ok(()));
    for _ in 0..5 {
        assert_eq!(finish(&mut health, short()).transition, None);
    }
    assert_eq!(health.verdict(), Verdict::Up);
    assert!(health.reason().is_some_and(Reason::is_local));
    assert_eq!(health.history().len(), 7);

    // Nor does it break a row of failures.
    finish(&mut health, Err(Reason::Refused));
    finish(&mut health, short());
    assert!(finish(&mut health, Err(Reason::Refused)).transition.is_some());
}

#[test]
fn checks_come_faster_while_the_verdict_is_changing() {
    let mut health = Health::new(&"web/a", 0, timing(2, 3), MS(0));
    let gap = |step: &Step, health: &Health| {
        step.next.at - health.history().next_back().expect("a check has ended").at
    };
    let steps: [(Outcome, bool); 8] = [
        (Ok(()), true),                // up by one success, not settled yet
        (Ok(()), false),               // settled
        (Err(Reason::Refused), true),  // one against
        (Err(Reason::Refused), true),  // two against
        (Ok(()), false),               // for it again
        (Err(Reason::Refused), true),  //
        (Err(Reason::Refused), true),  //
        (Err(Reason::Refused), false), // down, settled
    ];
    for (i, (outcome, fast)) in steps.into_iter().enumerate() {
        let step = finish(&mut health, outcome);
        let gap = gap(&step, &health);
        assert_eq!(gap == MS(500), fast, "step {i}: {gap:?}");
        assert!(gap <= MS(2000));
    }
}

#[test]
fn many_targets_are_first_checked_soon_and_then_spread_over_the_interval() {
    let interval = MS(2000);
    let mut slots = [0_u32; 10];
    for i in 0..1000 {
        let mut health = Health::new(&("web", i), 0, timing(1, 3), MS(123));
        assert!(health.due().at >= MS(123) && health.due().at < MS(323));
        for _ in 0..3 {
            finish(&mut health, Ok(()));
        }
        let before = health.due().at;
        finish(&mut health, Ok(()));
        assert_eq!(health.due().at - before, interval, "on the grid after three checks");
        slots[usize::try_from(before.as_millis() % 2000 / 200).expect("ten slots")] += 1;
    }
    assert!(slots.iter().all(|n| (60..=140).contains(n)), "{slots:?}");
}

#[test]
fn history_is_bounded_and_keeps_the_newest() {
    let mut health = Health::new(&"web/a", 0, timing(2, 3), MS(0));
    for _ in 0..HISTORY {
        finish(&mut health, Ok(()));
    }
    finish(&mut health, Err(Reason::Refused));
    assert_eq!(health.history().len(), HISTORY);
    assert_eq!(health.history().next_back().expect("not empty").outcome, Err(Reason::Refused));
    assert_eq!(health.history().filter(|check| check.outcome.is_ok()).count(), HISTORY - 1);
}

#[test]
fn reasons_read_well() {
    let cases = [
        (Reason::Refused, "refused", "connection refused"),
        (
            Reason::TimedOut { after: Duration::from_secs(1), phase: Phase::Connect },
            "timed_out",
            "timed out after 1s while connecting",
        ),
        (
            Reason::Status { got: 503, expected: StatusRanges::new(&[(200, 399), (418, 418)]) },
            "status",
            "status 503, expected 200-399, 418",
        ),
        (Reason::Body { pattern: "ok".into() }, "body", "body does not match `ok`"),
        (Reason::Reset(Phase::Tls), "reset", "connection reset during the TLS handshake"),
    ];
    for (reason, kind, text) in cases {
        assert_eq!((reason.kind(), reason.to_string().as_str()), (kind, text));
    }
}

/// The verdict by its definition, from the whole list of conclusive results.
fn naive_verdict(results: &[bool], rise: usize, fall: usize) -> Verdict {
    let Some((&first, rest)) = results.split_first() else { return Verdict::Unknown };
    let mut up = first;
    let mut begun = 0;
    for end in 1..=rest.len() {
        let needed = if up { fall } else { rise };
        let row = &rest[begun..end];
        if row.len() >= needed && row[row.len() - needed..].iter().all(|&result| result != up) {
            up = !up;
            begun = end;
        }
    }
    if up { Verdict::Up } else { Verdict::Down }
}

fn any_timing() -> impl Strategy<Value = (Timing, Duration)> {
    (1..5000_u64, 1..=100_u64, 1..=100_u64, 1..6_u32, 1..6_u32).prop_map(
        |(interval, fast, timeout, rise, fall)| {
            let part = |percent: u64| MS((interval * percent / 100).max(1));
            let timing = Timing { interval: MS(interval), transition_interval: part(fast), rise, fall };
            (timing, part(timeout))
        },
    )
}

proptest! {
    #[test]
    fn verdicts_are_those_of_the_definition((timing, _) in any_timing(), results in vec(0..5_u8, 0..60)) {
        let mut health = Health::new(&"web/a", 0, timing, MS(5));
        let mut conclusive = Vec::new();
        for result in results {
            let before = health.verdict();
            let outcome = match result {
                0 | 1 => Ok(()),
                2 | 3 => Err(Reason::Refused),
                _ => Err(Reason::Local("no ports left".into())),
            };
            if result < 4 {
                conclusive.push(outcome.is_ok());
            }
            let transition = finish(&mut health, outcome).transition;
            let expected = naive_verdict(&conclusive, timing.rise as usize, timing.fall as usize);
            prop_assert_eq!(health.verdict(), expected);
            prop_assert_eq!(transition.map(|t| (t.from, t.to)), (before != expected).then_some((before, expected)));
        }
    }

    #[test]
    fn a_dead_target_is_found_in_time(
        (timing, timeout) in any_timing(),
        identity: u32,
        took in vec(0..=1000_u32, 20),
        dies_after in 0..10_000_u64,
    ) {
        let mut took = took.into_iter().cycle();
        let mut health = Health::new(&identity, 0, timing, MS(0));
        let mut dead_at = None;
        for _ in 0..100_000 {
            let due = health.due();
            let now = due.at;
            // It dies the moment after a check has begun that it still answers: the worst case.
            let alive = now < MS(dies_after) || health.verdict() == Verdict::Unknown;
            let took = timeout * took.next().unwrap_or(0) / 1000;
            let (took, outcome) = if alive { (took, Ok(())) } else { (timeout, Err(Reason::Refused)) };
            if alive {
                dead_at = Some(now);
            }
            let step = health.probed(due.check, Check { at: now, took, outcome }, now + took);
            let step = step.expect("the awaited check's result is taken");
            prop_assert!(step.next.at >= now + took, "no check begins before the former has ended");
            prop_assert!(step.next.at <= now + timing.interval.max(took));
            prop_assert!(step.next.at > now);
            if health.verdict() == Verdict::Down {
                let dead_at = dead_at.expect("it lived at first");
                prop_assert!(now + took - dead_at <= timing.interval * timing.fall + timeout);
                return Ok(());
            }
        }
        prop_assert!(false, "never found");
    }
}
