use super::*;
use proptest::prelude::*;
use std::time::Duration;

const SUCCEEDED: Outcome = Outcome::Success;
const FAILED: Outcome = Outcome::Failure {
    retry_after_ns: None,
};

/// A breaker whose times are short: a window of 100 ns, and 20 ns doubling to 60 ns of being open.
fn settings() -> Breaker {
    let ns = Duration::from_nanos;
    let settings = Breaker::new().window(ns(100)).min_endings(4);
    let settings = settings.consecutive_failures(3).probes(4);
    settings
        .open_for(ns(20))
        .max_open(ns(60))
        .half_open_for(ns(50))
}

fn breaker() -> BreakerState {
    BreakerState::new(settings(), 7)
}

fn permit(breaker: &mut BreakerState, now: u64) -> Permit {
    match breaker.may_pass(now).0 {
        Pass::Yes(permit) | Pass::Probe(permit) => permit,
        Pass::Until(until) => panic!("held until {until} by {breaker:?}"),
    }
}

fn held_until(breaker: &mut BreakerState, now: u64) -> u64 {
    match breaker.may_pass(now) {
        (Pass::Until(until), None) => until,
        other => panic!("expected to be held without a change, got {other:?}"),
    }
}

/// Takes a permit and ends its call at once.
fn call(breaker: &mut BreakerState, outcome: Outcome, now: u64) -> Option<Change> {
    let permit = permit(breaker, now);
    breaker.end(permit, outcome, now).change
}

/// Opens a closed breaker, and returns until when it is open.
fn trip(breaker: &mut BreakerState, now: u64) -> u64 {
    for _ in 0..100 {
        if let Some(change) = call(breaker, FAILED, now) {
            let Change::Opened { until_ns, .. } = change else {
                panic!("it opens, not {change:?}");
            };
            return until_ns;
        }
    }
    panic!("a hundred failures don't open {breaker:?}");
}

#[test]
fn a_closed_breaker_opens_by_failures_in_a_row_or_by_their_percentage() {
    use Outcome::Ignored;
    let table: [(&str, &[Outcome], Option<OpenCause>); 7] = [
        ("too few in a row", &[FAILED, FAILED], None),
        ("three in a row", &[FAILED; 3], Some(OpenCause::Consecutive)),
        (
            "an ignored ending ends no row",
            &[FAILED, Ignored, FAILED, Ignored, FAILED],
            Some(OpenCause::Consecutive),
        ),
        (
            "half of four",
            &[FAILED, SUCCEEDED, SUCCEEDED, FAILED],
            Some(OpenCause::Percentage),
        ),
        (
            "a success never opens it",
            &[FAILED, FAILED, SUCCEEDED, SUCCEEDED],
            None,
        ),
        (
            "less than half",
            &[SUCCEEDED, SUCCEEDED, SUCCEEDED, FAILED, FAILED],
            None,
        ),
        (
            "ignored endings are not among all",
            &[FAILED, Ignored, Ignored, SUCCEEDED, FAILED],
            None,
        ),
    ];
    for (why, outcomes, expected) in table {
        let mut breaker = breaker();
        let mut changes = outcomes
            .iter()
            .filter_map(|outcome| call(&mut breaker, *outcome, 5));
        let cause = match changes.next() {
            Some(Change::Opened { cause, .. }) => Some(cause),
            None => None,
            other => panic!("{why}: {other:?}"),
        };
        assert_eq!(cause, expected, "{why}");
    }
}

#[test]
fn a_limit_of_the_greatest_number_is_none() {
    let endless = settings()
        .consecutive_failures(u32::MAX)
        .min_endings(u32::MAX);
    let mut breaker = BreakerState::new(endless, 7);
    breaker.streak = u32::MAX;
    breaker.window.add(FAILURE, u32::MAX - 2, 0);
    assert_eq!(call(&mut breaker, FAILED, 0), None);
}

#[test]
fn failures_that_have_left_the_window_open_nothing() {
    let mut breaker = breaker();
    for (now, outcome) in [(0, FAILED), (1, SUCCEEDED), (2, FAILED), (3, SUCCEEDED)] {
        let change = call(&mut breaker, outcome, now);
        assert_eq!(change, None);
    }
    // By now the window holds this failure alone.
    assert_eq!(call(&mut breaker, FAILED, 100), None);
}

#[test]
fn open_times_double_up_to_the_longest_and_are_spread_over_their_upper_half() {
    for salt in 0..50 {
        let mut breaker = BreakerState::new(settings(), salt);
        let mut now = 0;
        let mut until = trip(&mut breaker, now);
        for full in [20, 40, 60, 60] {
            let time = until - now;
            assert!((full / 2..=full).contains(&time), "{time} of {full}");
            assert_eq!(held_until(&mut breaker, until - 1), until);
            now = until;
            let (pass, change) = breaker.may_pass(now);
            assert_eq!(change, Some(Change::HalfOpened));
            let Pass::Probe(permit) = pass else {
                panic!("a probe passes, not {pass:?}");
            };
            match breaker.end(permit, FAILED, now).change {
                Some(Change::Opened {
                    cause: OpenCause::Probes,
                    until_ns,
                }) => until = until_ns,
                other => panic!("a failed probe opens it, not {other:?}"),
            }
        }
    }
    let at_its_ends = [spread(20, 0), spread(20, u64::MAX), spread(1, 0)];
    assert_eq!(at_its_ends, [10, 19, 1]);
    let longest = spread(u64::MAX, u64::MAX);
    assert_eq!(longest, u64::MAX - 1, "and nothing overflows");
}

#[test]
fn breakers_of_different_salts_probe_at_different_times() {
    let long = || {
        settings()
            .open_for(Duration::from_secs(1))
            .max_open(Duration::from_secs(1))
    };
    let until = |salt| trip(&mut BreakerState::new(long(), salt), 0);
    assert_eq!(until(1), until(1));
    assert_ne!(until(1), until(2));
}

#[test]
fn a_delay_that_the_handler_asked_for_is_the_open_time() {
    let by_itself = trip(&mut breaker(), 1_000);
    for (told, until) in [
        (35, 1_035),
        (1, 1_001),
        (60, 1_060),
        (u64::MAX, 1_060),
        (0, by_itself),
    ] {
        let mut breaker = breaker();
        call(&mut breaker, FAILED, 1_000);
        call(&mut breaker, FAILED, 1_000);
        let outcome = Outcome::Failure {
            retry_after_ns: Some(told),
        };
        let opened = Change::Opened {
            cause: OpenCause::Consecutive,
            until_ns: until,
        };
        assert_eq!(call(&mut breaker, outcome, 1_000), Some(opened), "{told}");
    }
}

#[test]
fn probes_double_until_the_last_round_closes_it() {
    for (probes, rounds) in [
        (1, &[1][..]),
        (2, &[1, 2]),
        (5, &[1, 2, 4, 5]),
        (8, &[1, 2, 4, 8]),
    ] {
        let mut breaker = BreakerState::new(settings().probes(probes), 7);
        let now = trip(&mut breaker, 0);
        for size in rounds {
            let out: Vec<_> = (0..*size).map(|_| permit(&mut breaker, now)).collect();
            assert_eq!(held_until(&mut breaker, now + 1), now + 50, "all are out");
            assert_eq!(breaker.status(), BreakerStatus::HalfOpen);
            for permit in out {
                let ended = breaker.end(permit, SUCCEEDED, now + 1);
                // Only the end of the round makes room.
                let is_new = ended.change.is_some()
                    || matches!(breaker.phase, Phase::HalfOpen(round) if round.passed == 0);
                assert_eq!(ended.ask_again, is_new);
            }
        }
        assert_eq!(breaker.status(), BreakerStatus::Closed, "{probes}");
        // It starts anew: the first open time is the short one again.
        let until = trip(&mut breaker, now + 1);
        assert!(until <= now + 1 + 20);
    }
}

#[test]
fn a_round_fails_by_the_same_percentage() {
    let mut breaker = breaker();
    let now = trip(&mut breaker, 0);
    for (outcome, status) in [
        (SUCCEEDED, BreakerStatus::HalfOpen), // the round of one
        (SUCCEEDED, BreakerStatus::HalfOpen), // the round of two
        (SUCCEEDED, BreakerStatus::HalfOpen),
        (FAILED, BreakerStatus::HalfOpen), // the round of four
        (SUCCEEDED, BreakerStatus::HalfOpen),
        (FAILED, BreakerStatus::Open),
    ] {
        call(&mut breaker, outcome, now);
        assert_eq!(breaker.status(), status);
    }
}

#[test]
fn every_ending_gives_a_probes_permit_back() {
    for outcome in [SUCCEEDED, FAILED, Outcome::Ignored] {
        let mut breaker = breaker();
        let now = trip(&mut breaker, 0);
        let probe = permit(&mut breaker, now);
        assert_eq!(
            held_until(&mut breaker, now),
            now + 50,
            "it is the only one"
        );
        let ended = breaker.end(probe, outcome, now);
        assert_eq!(ended.ask_again, outcome != FAILED, "{outcome:?}");
        let later = now + 60;
        assert!(!matches!(breaker.may_pass(later).0, Pass::Until(_)));
    }
}

#[test]
fn a_probe_that_never_ends_holds_it_half_open_for_a_limited_time() {
    let mut breaker = breaker();
    let now = trip(&mut breaker, 0);
    let hung = permit(&mut breaker, now);
    assert_eq!(held_until(&mut breaker, now + 49), now + 50);
    let (pass, change) = breaker.may_pass(now + 50);
    let Some(Change::Opened { cause, until_ns }) = change else {
        panic!("it opens, not {change:?}");
    };
    assert_eq!(cause, OpenCause::Overdue);
    assert_eq!(pass, Pass::Until(until_ns));
    let probe = permit(&mut breaker, until_ns);
    // The late result of the hung one counts for nothing, and its permit is void.
    assert_eq!(breaker.end(hung, FAILED, until_ns), Ended::NOTHING);
    held_until(&mut breaker, until_ns);
    assert!(breaker.end(probe, SUCCEEDED, until_ns).ask_again);
}

#[test]
fn a_round_is_timed_from_its_first_probe_that_is_still_out() {
    let mut breaker = breaker();
    let now = trip(&mut breaker, 0);
    let unused = permit(&mut breaker, now);
    let _ = breaker.end(unused, Outcome::Ignored, now);
    let first = permit(&mut breaker, now + 40);
    assert_eq!(held_until(&mut breaker, now + 60), now + 40 + 50);
    let _ = breaker.end(first, SUCCEEDED, now + 60);
    let _ = permit(&mut breaker, now + 70);
    let _ = permit(&mut breaker, now + 90);
    assert_eq!(held_until(&mut breaker, now + 90), now + 70 + 50);
}

#[test]
fn a_round_that_is_larger_than_the_new_last_one_is_the_last() {
    let mut breaker = breaker();
    let now = trip(&mut breaker, 0);
    call(&mut breaker, SUCCEEDED, now);
    breaker.set(settings().probes(1));
    assert_eq!(call(&mut breaker, SUCCEEDED, now), None, "one of two");
    let closed = call(&mut breaker, SUCCEEDED, now);
    assert_eq!(closed, Some(Change::Closed));
}

#[test]
fn a_half_open_breaker_without_traffic_waits_for_it() {
    let mut breaker = breaker();
    let now = trip(&mut breaker, 0);
    let unused = permit(&mut breaker, now);
    let _ = breaker.end(unused, Outcome::Ignored, now);
    assert_eq!(breaker.may_pass(now + 1_000).1, None);
    assert_eq!(breaker.status(), BreakerStatus::HalfOpen);
}

#[test]
fn results_of_calls_that_began_before_a_change_are_not_counted() {
    type Step = fn(&mut BreakerState, u64) -> u64;
    let ways: [(&str, Step); 3] = [
        ("open", trip),
        ("half-open", |breaker, now| {
            let until = trip(breaker, now);
            let probe = permit(breaker, until);
            let _ = breaker.end(probe, Outcome::Ignored, until);
            until
        }),
        ("closed again", |breaker, now| {
            breaker.isolate(now);
            breaker.reset(now);
            now
        }),
    ];
    for (name, way) in ways {
        for outcome in [SUCCEEDED, FAILED] {
            let mut breaker = breaker();
            let early: Vec<_> = (0..9).map(|_| permit(&mut breaker, 0)).collect();
            let now = way(&mut breaker, 0);
            let before = format!("{breaker:?}");
            for permit in early {
                assert_eq!(breaker.end(permit, outcome, now), Ended::NOTHING, "{name}");
            }
            assert_eq!(format!("{breaker:?}"), before, "{name}");
        }
    }
}

#[test]
fn by_hand_it_is_isolated_and_reset_in_every_phase() {
    type Step = fn(&mut BreakerState) -> u64;
    let ways: [Step; 4] = [
        |_| 0,
        |breaker| trip(breaker, 0) - 1,
        |breaker| {
            let now = trip(breaker, 0);
            let _ = permit(breaker, now);
            now
        },
        |breaker| {
            breaker.isolate(0);
            0
        },
    ];
    for way in ways {
        let mut breaker = breaker();
        let now = way(&mut breaker);
        let was = breaker.status();
        let change = breaker.isolate(now);
        let is_new = was != BreakerStatus::Isolated;
        assert_eq!(change, is_new.then_some(Change::Isolated));
        assert_eq!(held_until(&mut breaker, NEVER - 1), NEVER);
        assert_eq!(breaker.isolate(now), None);
        assert_eq!(breaker.reset(now), Some(Change::Closed));
        assert_eq!(call(&mut breaker, FAILED, now), None, "all is forgotten");
        assert_eq!(breaker.reset(now), None, "it was closed");
        assert_eq!(breaker.window.sums(now), [0, 0]);
    }
}

#[test]
fn new_settings_keep_the_phase_and_the_time_that_runs() {
    let mut breaker = breaker();
    let until = trip(&mut breaker, 0);
    let longer = Duration::from_nanos(500);
    breaker.set(settings().open_for(longer).max_open(longer).probes(1));
    assert_eq!(held_until(&mut breaker, 0), until);
    let probe = permit(&mut breaker, until);
    let ended = breaker.end(probe, SUCCEEDED, until);
    assert_eq!(ended.change, Some(Change::Closed), "the new last round");
    assert!(trip(&mut breaker, until) >= until + 250);
}

#[test]
fn a_window_of_another_length_begins_empty_and_another_setting_keeps_it() {
    for (window, held) in [(100, [0, 2]), (200, [0, 0])] {
        let mut breaker = breaker();
        call(&mut breaker, FAILED, 0);
        call(&mut breaker, FAILED, 0);
        breaker.set(settings().window(Duration::from_nanos(window)).probes(2));
        assert_eq!(breaker.window.sums(0), held);
    }
}

#[derive(Clone, Debug)]
enum Op {
    Ask,
    /// Ends one of the calls that are out.
    End(usize, Outcome),
    /// Loses one of them for good.
    Hang(usize),
    Wait(u64),
    Isolate,
    Reset,
}

fn outcome() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        2 => Just(SUCCEEDED),
        3 => Just(FAILED),
        1 => (0_u64..100).prop_map(|ns| Outcome::Failure { retry_after_ns: Some(ns) }),
        2 => Just(Outcome::Ignored),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => Just(Op::Ask),
        8 => (any::<usize>(), outcome()).prop_map(|(at, outcome)| Op::End(at, outcome)),
        1 => any::<usize>().prop_map(Op::Hang),
        5 => (0_u64..40).prop_map(Op::Wait),
        1 => Just(Op::Isolate),
        1 => Just(Op::Reset),
    ]
}

proptest! {
    /// Whatever was taken, ended or lost, the breaker knows which probes are out, and lets
    /// something pass again in time.
    #[test]
    fn permits_never_leak(
        ops in prop::collection::vec(op(), 0..100),
        salt in any::<u64>(),
        is_lost in any::<bool>(),
    ) {
        let mut breaker = BreakerState::new(settings(), salt);
        let mut out: Vec<Permit> = Vec::new();
        let mut hung: Vec<Permit> = Vec::new();
        let mut now = 0;
        for op in ops {
            match op {
                Op::Ask => {
                    let before = breaker.status();
                    let (pass, change) = breaker.may_pass(now);
                    prop_assert_eq!(change.is_some(), before != breaker.status());
                    match pass {
                        Pass::Yes(permit) => {
                            prop_assert_eq!(breaker.status(), BreakerStatus::Closed);
                            out.push(permit);
                        }
                        Pass::Probe(permit) => {
                            prop_assert_eq!(breaker.status(), BreakerStatus::HalfOpen);
                            out.push(permit);
                        }
                        Pass::Until(until) => prop_assert!(until > now),
                    }
                }
                Op::End(at, outcome) if !out.is_empty() => {
                    let before = breaker.status();
                    let permit = out.swap_remove(at % out.len());
                    let ended = breaker.end(permit, outcome, now);
                    prop_assert_eq!(ended.change.is_some(), before != breaker.status());
                }
                Op::Hang(at) if !out.is_empty() => {
                    let permit = out.swap_remove(at % out.len());
                    hung.push(permit);
                }
                Op::End(..) | Op::Hang(_) => {}
                Op::Wait(ns) => now += ns,
                Op::Isolate => {
                    breaker.isolate(now);
                }
                Op::Reset => {
                    breaker.reset(now);
                }
            }
            if let Phase::HalfOpen(round) = breaker.phase {
                let is_valid = |permit: &&Permit| permit.epoch == breaker.epoch;
                let really = out.iter().chain(&hung).filter(is_valid).count();
                prop_assert_eq!(round.out as usize, really);
                prop_assert!(round.out + round.passed + round.failed <= round.size);
                prop_assert!(round.size <= 4);
            }
        }
        if breaker.status() == BreakerStatus::Isolated {
            breaker.reset(now);
        }
        if !is_lost {
            for permit in out.into_iter().chain(hung) {
                let _ = breaker.end(permit, Outcome::Ignored, now);
            }
            // The longest open time, and no question meanwhile.
            let (pass, _) = breaker.may_pass(now + 60);
            prop_assert!(!matches!(pass, Pass::Until(_)));
            return Ok(());
        }
        // Even if nothing ever comes back: a round's time, then the longest open time.
        let overdue = breaker.may_pass(now + 50);
        if let (Pass::Until(until), _) = overdue {
            prop_assert!(until <= now + 50 + 60);
            let (pass, _) = breaker.may_pass(until);
            prop_assert!(!matches!(pass, Pass::Until(_)));
        }
    }

    /// The model keeps every ending, and judges all of them anew.
    #[test]
    fn a_closed_breaker_opens_when_a_list_of_all_endings_says_so(
        endings in prop::collection::vec((0_u64..30, outcome()), 0..60),
        percent in 1_u32..=100,
        min_endings in 1_u32..12,
        consecutive in 1_u32..8,
    ) {
        let settings = settings()
            .failure_percent(percent)
            .min_endings(min_endings)
            .consecutive_failures(consecutive);
        let mut breaker = BreakerState::new(settings, 7);
        let mut list: Vec<(u64, bool)> = Vec::new();
        let mut now = 0;
        for (passed, outcome) in endings {
            now += passed;
            let opened = match call(&mut breaker, outcome, now) {
                Some(Change::Opened { cause, .. }) => Some(cause),
                other => {
                    prop_assert_eq!(other, None);
                    None
                }
            };
            if outcome != Outcome::Ignored {
                list.push((now, outcome != SUCCEEDED));
            }
            let is_failure = !matches!(outcome, Outcome::Success | Outcome::Ignored);
            let row = list.iter().rev().take_while(|(_, failed)| *failed).count();
            let within = list.iter().filter(|(at, _)| at / 10 + 10 > now / 10);
            let all = within.clone().count();
            let failures = within.filter(|(_, failed)| *failed).count();
            let expected = if is_failure && row >= consecutive as usize {
                Some(OpenCause::Consecutive)
            } else if is_failure
                && all >= min_endings as usize
                && failures * 100 >= percent as usize * all
            {
                Some(OpenCause::Percentage)
            } else {
                None
            };
            prop_assert_eq!(opened, expected);
            if opened.is_some() {
                break;
            }
        }
    }
}
