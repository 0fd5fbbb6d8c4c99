//! Programs that failed once, as they were shrunk.

use millstream::dead_letters::DeadLetterOverflow;
use millstream::{LaneFull, NoSubscribers, OnExhausted, OnExpired, OnFailure, Overflow};

use crate::program::{Hands, How, Policy, Retain, Setup, Shape, Step};
use crate::run_program;

/// The plainest handler, in a lane of one place.
const PLAIN: Shape = Shape {
    capacity: 1,
    when_full: LaneFull::Wait,
    hands: Hands::One,
    on_failure: OnFailure::Reorder,
    on_exhausted: OnExhausted::FreeKey,
    hold: None,
    own: None,
    refuses: None,
    conflates: false,
    by_level: false,
};

const PUBLISH: Step = Step::Publish(None, None);

fn twice_after(base: u64) -> Policy {
    Policy {
        base,
        max: 2,
        ..Policy::NEVER_AGAIN
    }
}

/// A topic of so many places, with nothing special.
fn topic(capacity: usize) -> Setup {
    Setup {
        capacity,
        overflow: Overflow::Reject,
        no_subscribers: NoSubscribers::Discard,
        ttl: None,
        on_expired: OnExpired::Drop,
        dedup: None,
        weight_limit: None,
        retain: None,
        letters: 3,
        letter_overflow: DeadLetterOverflow::EvictOldest,
        partitions: None,
        subscribed: 1,
        how: How::Immediate,
        policy: Policy::NEVER_AGAIN,
        shapes: [PLAIN; 3],
    }
}

#[test]
fn letters_that_find_no_room_are_redriven_later() {
    let steps = [
        Step::PublishBatch(3),
        Step::Run,
        Step::PublishAfter(0),
        Step::Run,
        Step::Redrive(None),
        Step::Run,
        Step::Redrive(None),
    ];
    run_program(topic(3), &steps);
}

#[test]
fn a_letter_without_room_keeps_those_behind_it() {
    let mut setup = topic(2);
    setup.how = How::Batched {
        size: 2,
        linger: None,
    };
    setup.policy = twice_after(3);
    setup.shapes[0].when_full = LaneFull::DeadLetter;
    let keyed = Step::Publish(Some(0), None);
    let steps = [
        PUBLISH,
        keyed,
        Step::Run,
        Step::Swap(How::Immediate),
        Step::PublishAfter(0),
        PUBLISH,
        Step::Run,
        keyed,
        Step::Run,
        Step::Redrive(None),
    ];
    run_program(setup, &steps);
}

#[test]
fn what_has_expired_in_a_full_topic_makes_room() {
    let mut setup = topic(1);
    setup.ttl = Some(1);
    run_program(setup, &[PUBLISH, Step::Advance(1), PUBLISH]);
}

#[test]
fn a_retry_that_has_expired_ends_with_its_subscription() {
    let mut setup = topic(1);
    setup.ttl = Some(5);
    setup.shapes[0].own = Some(twice_after(1));
    let mut steps = [PUBLISH, Step::Run].repeat(3);
    steps.extend([Step::Advance(1_000), Step::Forget(0)]);
    run_program(setup, &steps);
}

#[test]
fn what_came_back_to_a_full_lane_forces_no_batch() {
    let mut setup = topic(2);
    setup.letters = 2;
    setup.shapes[0].when_full = LaneFull::DropOldest;
    setup.shapes[1].capacity = 2;
    setup.shapes[1].hands = Hands::Batches {
        size: 2,
        linger: None,
    };
    let steps = [
        PUBLISH,
        Step::Subscribe(1),
        PUBLISH,
        Step::Run,
        Step::SetOwnRetry(1, twice_after(0)),
        Step::PublishBatch(2),
        Step::Run,
        PUBLISH,
        PUBLISH,
        Step::Run,
        PUBLISH,
        Step::Redrive(None),
    ];
    run_program(setup, &steps);
}

#[test]
fn a_kept_message_that_expires_forces_no_batch() {
    let mut setup = topic(2);
    setup.retain = Some(Retain::Last(1));
    setup.subscribed = 0;
    setup.shapes[0].capacity = 2;
    setup.shapes[0].hands = Hands::Batches {
        size: 2,
        linger: None,
    };
    let steps = [
        Step::Publish(None, Some(1)),
        Step::Run,
        Step::Subscribe(0),
        Step::Advance(1),
        PUBLISH,
    ];
    run_program(setup, &steps);
}
