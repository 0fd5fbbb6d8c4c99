//! Durable topics: a program of its own, with a model of its own.
//!
//! Two topics share a store. It is closed and opened again, or its process dies: a copy of its
//! files is opened, as they are at any moment. A plain list of acknowledged messages says what
//! is read back. Of each subscription the model knows what has become of every message. It
//! follows the engine's calls and letters, and judges each. At rest nothing may be left.

mod calls;
mod letters;
mod reference;
mod run;
mod store;
mod subscribe;

use millstream::{OnExhausted, OnFailure, Unsubscribe};
use proptest::prelude::*;

use crate::program::{LINES, Policy, TICK};
use run::Pair;

const TOPICS: [&str; 2] = ["orders", "notes"];
const SLOTS: usize = 3;
const NAMES: [&str; SLOTS] = ["a", "b", "c"];

/// Where a subscription starts the first time.
#[derive(Clone, Copy, Debug)]
enum From {
    Latest,
    Earliest,
    Seq(u64),
}

#[derive(Clone, Copy, Debug)]
struct Shape {
    /// It has a cursor. Otherwise it starts from its message each time.
    is_durable: bool,
    from: From,
    capacity: usize,
    /// If it has no cursor, whether its full lane holds up the topic.
    waits: bool,
    /// The size of its batches, if it takes some.
    batches: Option<usize>,
    on_failure: OnFailure,
    on_exhausted: OnExhausted,
    /// It refuses each message whose id this divides.
    refuses: Option<u64>,
}

#[derive(Clone, Debug)]
struct Setup {
    capacity: usize,
    /// Messages without subscriptions are rejected.
    rejects: bool,
    /// How many dedup ids it remembers.
    ids: usize,
    policy: Policy,
    shapes: [Shape; SLOTS],
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Publish(usize, Option<u8>),
    /// With this dedup id.
    PublishOnce(usize, u8),
    PublishBatch(usize, usize),
    /// So many, every other of which has this key.
    PublishMessages(usize, usize, u8),
    /// So many, whose receipts are waited for together.
    Submit(usize, usize),
    Run,
    Advance(u64),
    /// Runs, and moves the clock, until all is done.
    Settle,
    Subscribe(usize, usize),
    Unsubscribe(usize, usize, Unsubscribe),
    Forget(usize, usize),
    Redrive(usize),
    Purge(usize),
    /// Reads the stored messages from this one on.
    Read(usize, u64),
    /// Closes the store, and opens it again; subscriptions that were there may come again.
    Restart(bool),
    /// The process dies.
    Crash(bool),
}

fn shapes() -> impl Strategy<Value = Shape> {
    let from = prop_oneof![
        2 => Just(From::Latest),
        2 => Just(From::Earliest),
        1 => (1..20_u64).prop_map(From::Seq),
    ];
    let modes = prop_oneof![
        3 => Just((OnFailure::Reorder, OnExhausted::FreeKey)),
        1 => Just((OnFailure::BlockKey, OnExhausted::FreeKey)),
        1 => Just((OnFailure::BlockKey, OnExhausted::ParkKey)),
        1 => Just((OnFailure::BlockSubscription, OnExhausted::FreeKey)),
    ];
    let batches = prop::option::weighted(0.2, 1..5_usize);
    let refuses = prop::option::weighted(0.2, 2..4_u64);
    let is_durable = prop::bool::weighted(0.75);
    let lane = (1..6_usize, prop::bool::weighted(0.3));
    (is_durable, from, lane, batches, modes, refuses).prop_map(
        |(is_durable, from, (capacity, waits), batches, (on_failure, on_exhausted), refuses)| {
            Shape {
                is_durable,
                from,
                capacity,
                waits: waits && !is_durable,
                // A batch would fail together with what must wait for each other.
                batches: batches.filter(|_| on_failure == OnFailure::Reorder),
                on_failure,
                on_exhausted,
                refuses,
            }
        },
    )
}

fn setups() -> impl Strategy<Value = Setup> {
    let policy = (0..6_u64, 1..4_u32).prop_map(|(base, max)| Policy {
        base,
        max,
        ..Policy::NEVER_AGAIN
    });
    let shapes = [shapes(), shapes(), shapes()];
    let rejects = prop::bool::weighted(0.2);
    (2..12_usize, rejects, 1..5_usize, policy, shapes).prop_map(
        |(capacity, rejects, ids, policy, shapes)| Setup {
            capacity,
            rejects,
            ids,
            policy,
            shapes,
        },
    )
}

fn steps() -> impl Strategy<Value = Step> {
    let (topic, slot) = (0..TOPICS.len(), 0..SLOTS);
    let key = prop::option::weighted(0.6, 0..LINES);
    let mode = prop_oneof![
        Just(Unsubscribe::Cancel),
        Just(Unsubscribe::DeadLetter),
        Just(Unsubscribe::Drain { timeout: TICK }),
    ];
    prop_oneof![
        10 => (topic.clone(), key).prop_map(|(topic, key)| Step::Publish(topic, key)),
        5 => (topic.clone(), 0..6_u8).prop_map(|(topic, id)| Step::PublishOnce(topic, id)),
        4 => (topic.clone(), 0..7_usize).prop_map(|(topic, n)| Step::PublishBatch(topic, n)),
        4 => (topic.clone(), 0..7_usize, 0..LINES)
            .prop_map(|(topic, n, key)| Step::PublishMessages(topic, n, key)),
        2 => (topic.clone(), 1..4_usize).prop_map(|(topic, n)| Step::Submit(topic, n)),
        10 => Just(Step::Run),
        4 => (0..9_u64).prop_map(Step::Advance),
        2 => Just(Step::Settle),
        6 => (topic.clone(), slot.clone()).prop_map(|(topic, slot)| Step::Subscribe(topic, slot)),
        1 => (topic.clone(), slot.clone(), mode)
            .prop_map(|(topic, slot, mode)| Step::Unsubscribe(topic, slot, mode)),
        1 => (topic.clone(), slot).prop_map(|(topic, slot)| Step::Forget(topic, slot)),
        2 => topic.clone().prop_map(Step::Redrive),
        1 => topic.clone().prop_map(Step::Purge),
        1 => (topic, 0..30_u64).prop_map(|(topic, from)| Step::Read(topic, from)),
        2 => any::<bool>().prop_map(Step::Restart),
        2 => any::<bool>().prop_map(Step::Crash),
    ]
}

/// An eighth of the cases that others have, because each opens files.
fn config() -> ProptestConfig {
    let config = crate::config();
    ProptestConfig {
        cases: config.cases.div_ceil(8),
        ..config
    }
}

fn run_program(setup: Setup, steps: &[Step]) {
    let mut pair = Pair::new(setup);
    for slot in 0..SLOTS {
        pair.step(Step::Subscribe(0, slot));
    }
    for step in steps {
        pair.step(*step);
    }
    pair.finish();
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn what_was_acknowledged_is_stored_and_handled_through_restarts_and_crashes(
        setup in setups(),
        steps in prop::collection::vec(steps(), 1..80),
    ) {
        run_program(setup, &steps);
    }
}
