//! Many promises at once: whatever a program does, the engine ends up where a
//! simple sequential model of it does.
//!
//! Random programs publish with and without keys, subscribe in every way, unsubscribe, fail,
//! lease and settle, join and leave groups, swap, split, flush, redrive, purge, pause, limit
//! rates, break circuits and move the clock, on an engine that runs on the test's thread. The
//! model handles one message at a time, with plain lists. After every step the books must balance
//! and agree with the model.
//!
//! The model predicts all counts of the topic. Of a subscription it predicts all counts,
//! every call, the order of first attempts, the order of all attempts where failures hold
//! others up, and each letter with its reason. It predicts what a redrive and a purge come
//! to, and which leases are stale. Where nobody promises one outcome, it follows the engine
//! and judges whether that outcome may be.
//!
//! [`exclusions`] lists what the model does not know. A second program, in [`patterns`], has
//! many topics and the subscriptions that follow them. A third, in [`durable`], has topics in
//! a store, which is closed or killed and opened again.
//!
//! | where | what it has |
//! |---|---|
//! | `program`, `answers`, `generate` | settings and steps, what handlers return, random programs |
//! | `exclusions` | what programs do without, and why |
//! | `reference` | the model |
//! | `run` | each step, on the engine and on the model |
//! | `compare` | what has to agree after it |
//! | `cases`, `found` | what has failed once |
//! | `patterns` | the second program, with its model |
//! | `durable` | the third, with its model (feature `log`) |

mod answers;
mod cases;
mod compare;
#[cfg(feature = "log")]
mod durable;
mod exclusions;
mod found;
mod generate;
#[path = "../harness/mod.rs"]
mod harness;
mod patterns;
mod program;
mod reference;
mod run;

use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;

use generate::{setups, steps};
use program::{Setup, Step};
use run::Pair;

/// What has failed is written down beside the test, and tried first the next time.
fn config() -> ProptestConfig {
    let file = FileFailurePersistence::WithSource("proptest-regressions");
    ProptestConfig {
        failure_persistence: Some(Box::new(file)),
        ..ProptestConfig::default()
    }
}

fn run_program(setup: Setup, steps: &[Step]) {
    let first = (0..setup.subscribed).map(Step::Subscribe);
    let mut pair = Pair::new(setup);
    first.for_each(|subscribe| pair.step(&subscribe));
    for step in steps {
        pair.step(step);
    }
    pair.step(&Step::Run);
    pair.finish();
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn the_engine_does_what_the_model_does(
        setup in setups(),
        steps in prop::collection::vec(steps(), 1..100),
    ) {
        run_program(setup, &steps);
    }
}
