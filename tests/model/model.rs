//! Many promises at once: whatever a program does, the engine ends up where a
//! simple sequential model of it does.
//!
//! Random programs publish, subscribe, unsubscribe, fail, swap, flush, redrive, purge and
//! move the clock on an engine that runs on the test's thread. The model below handles
//! one message at a time, with plain lists. After every step the books must
//! balance and agree with the model.
//!
//! What the model predicts exactly: all counts of the topic; all counts, every
//! call and the order of first attempts of subscriptions whose lane makes the
//! topic wait ([`LaneFull::Wait`]); the order of all attempts where failures hold others up;
//! what a redrive and a purge come to.
//!
//! The programs have one topic and one thread. They use no patterns,
//! async handlers or observers: other tests do.
//!
//! What it doesn't predict: which deliveries a lane drops or dead-letters when it is full.
//! That depends on how many messages travel together, which nobody promises. For
//! those lanes the test checks what must hold all the same: as many deliveries as
//! messages dispatched, never more than the capacity at once, first attempts in
//! accept order, attempts without gaps and only after failures. The same goes for
//! batch handlers with a linger: which messages share a batch, and so which one
//! begins the next, is nobody's to know, only that none lingers too long. They
//! never retry here, so that the topic never waits for them. Which letters a full
//! dead-letter store keeps is checked as an invariant, too.

mod answers;
mod compare;
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
use program::Step;
use run::Pair;

/// What has failed is written down beside the test, and tried first the next time.
fn config() -> ProptestConfig {
    let file = FileFailurePersistence::WithSource("proptest-regressions");
    ProptestConfig {
        failure_persistence: Some(Box::new(file)),
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn the_engine_does_what_the_model_does(
        setup in setups(),
        steps in prop::collection::vec(steps(), 1..60),
    ) {
        let mut pair = Pair::new(setup);
        pair.step(&Step::Subscribe(0));
        for step in &steps {
            pair.step(step);
        }
        pair.step(&Step::Run);
        pair.finish();
    }
}
