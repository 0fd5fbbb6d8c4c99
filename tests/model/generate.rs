//! Random programs.

use millstream::dead_letters::DeadLetterOverflow;
use millstream::{
    LaneFull, NoSubscribers, OnExhausted, OnExpired, OnFailure, Overflow, Unsubscribe,
};
use proptest::prelude::*;

use crate::answers::Answer;
use crate::exclusions::within_the_model;
use crate::program::{
    Breaking, Hands, How, LINES, MEMBERS, Policy, Rate, Retain, SLOTS, Scope, Settle, Setup, Shape,
    Step, TICK,
};

fn policies() -> impl Strategy<Value = Policy> {
    let shape = (0..6_u64, 0..3_u8, 1..4_u32);
    let cap = prop::option::weighted(0.3, 0..6_u64);
    let limit = prop::option::weighted(0.3, 1..12_u64);
    (shape, cap, limit).prop_map(|((base, shape, max), cap, limit)| Policy {
        base,
        shape,
        max,
        cap,
        limit,
    })
}

fn hows() -> impl Strategy<Value = How> {
    prop_oneof![
        3 => Just(How::Immediate),
        1 => Just(How::OneByOne),
        1 => Just(How::Panics),
        4 => (1..6_usize, prop::option::of(0..12_u64))
            .prop_map(|(size, linger)| How::Batched { size, linger }),
    ]
}

fn hands() -> impl Strategy<Value = Hands> {
    prop_oneof![
        4 => Just(Hands::One),
        2 => (1..4_usize, prop::option::of(0..8_u64))
            .prop_map(|(size, linger)| Hands::Batches { size, linger }),
        1 => (1..4_usize).prop_map(Hands::Several),
        3 => (0..4_usize).prop_map(Hands::Members),
        3 => (1..5_usize, 1..12_u64)
            .prop_map(|(credits, deadline)| Hands::Callers { credits, deadline }),
    ]
}

fn modes() -> impl Strategy<Value = (OnFailure, OnExhausted)> {
    prop_oneof![
        3 => Just((OnFailure::Reorder, OnExhausted::FreeKey)),
        3 => Just((OnFailure::BlockKey, OnExhausted::FreeKey)),
        4 => Just((OnFailure::BlockKey, OnExhausted::ParkKey)),
        1 => Just((OnFailure::BlockSubscription, OnExhausted::FreeKey)),
    ]
}

fn shapes() -> impl Strategy<Value = Shape> {
    let when_full = prop_oneof![
        6 => Just(LaneFull::Wait),
        1 => Just(LaneFull::DropOldest),
        1 => Just(LaneFull::DropNewest),
        1 => Just(LaneFull::DeadLetter),
    ];
    let capacity = prop_oneof![1 => 1..5_usize, 1 => 5..12_usize];
    let hold = prop::option::weighted(0.5, 1..4_usize);
    let own = prop::option::weighted(0.3, policies());
    let refuses = prop::option::weighted(0.3, 1..4_u64);
    let conflates = prop::bool::weighted(0.1);
    let by_level = prop::bool::weighted(0.2);
    let rest = (hold, own, refuses, conflates, by_level);
    (capacity, when_full, hands(), modes(), rest).prop_map(
        |(capacity, when_full, hands, (on_failure, on_exhausted), rest)| Shape {
            capacity,
            when_full,
            hands,
            on_failure,
            on_exhausted,
            hold: rest.0,
            own: rest.1,
            refuses: rest.2,
            conflates: rest.3,
            by_level: rest.4,
        },
    )
}

pub fn setups() -> impl Strategy<Value = Setup> {
    let overflow = overflows();
    let no_subscribers = prop_oneof![
        Just(NoSubscribers::Discard),
        Just(NoSubscribers::Retain),
        Just(NoSubscribers::Reject),
    ];
    let letters = prop_oneof![1..4_usize, Just(1_000)];
    let evict = prop_oneof![
        Just(DeadLetterOverflow::EvictOldest),
        Just(DeadLetterOverflow::EvictNewest),
    ];
    let expired = prop_oneof![2 => Just(OnExpired::Drop), 1 => Just(OnExpired::DeadLetter)];
    let partitions = prop::option::weighted(0.2, 1..5_usize);
    let subscribed = prop_oneof![1 => 0..SLOTS, 2 => Just(SLOTS)];
    let topic = (
        1..10_usize,
        overflow,
        no_subscribers,
        partitions,
        subscribed,
    );
    let dedup = prop::option::weighted(0.5, memories());
    let weight = prop::option::weighted(0.4, weights());
    let retain = prop_oneof![
        (1..9_usize).prop_map(Retain::Last),
        (1..4_usize).prop_map(Retain::PerKey),
    ];
    let ttl = (
        prop::option::weighted(0.3, 1..12_u64),
        expired,
        dedup,
        weight,
        prop::option::weighted(0.4, retain),
    );
    let shapes = [shapes(), shapes(), shapes()];
    let setups = (topic, ttl, (letters, evict), (hows(), policies()), shapes);
    setups.prop_map(|(topic, ttl, letters, (how, policy), shapes)| {
        within_the_model(Setup {
            capacity: topic.0,
            overflow: topic.1,
            no_subscribers: topic.2,
            partitions: topic.3,
            subscribed: topic.4,
            ttl: ttl.0,
            on_expired: ttl.1,
            dedup: ttl.2,
            weight_limit: ttl.3,
            retain: ttl.4,
            letters: letters.0,
            letter_overflow: letters.1,
            how,
            policy,
            shapes,
        })
    })
}

fn memories() -> impl Strategy<Value = (u64, usize)> {
    (1..20_u64, 1..5_usize)
}

/// From what is less than most messages to what is more than most batches.
fn weights() -> impl Strategy<Value = u64> {
    5..40_u64
}

fn settles() -> impl Strategy<Value = Settle> {
    prop_oneof![
        3 => Just(Settle::Ack),
        2 => prop_oneof![
            2 => Just(Answer::Retry),
            1 => (0..9_u64).prop_map(Answer::RetryAfter),
            1 => (1..9_u64).prop_map(Answer::Snooze),
            1 => Just(Answer::DeadLetter),
            1 => Just(Answer::Discard),
        ].prop_map(Settle::Nack),
        1 => Just(Settle::Drop),
        1 => (0..9_u64).prop_map(Settle::Extend),
    ]
}

fn overflows() -> impl Strategy<Value = Overflow> {
    prop_oneof![
        Just(Overflow::Reject),
        Just(Overflow::DropOldest),
        Just(Overflow::DropNewest),
        Just(Overflow::DeadLetter),
    ]
}

fn rates() -> impl Strategy<Value = Option<Rate>> {
    let rate = (1..6_u64, 1..4_u32).prop_map(|(interval, burst)| Rate { interval, burst });
    prop::option::weighted(0.7, rate)
}

fn breakings() -> impl Strategy<Value = Breaking> {
    prop_oneof![
        3 => (1..5_u32).prop_map(Breaking::Set),
        1 => Just(Breaking::Remove),
        1 => Just(Breaking::Isolate),
        4 => Just(Breaking::Reset),
    ]
}

fn scopes() -> impl Strategy<Value = Scope> {
    prop_oneof![
        4 => (0..SLOTS).prop_map(Scope::Subscription),
        1 => Just(Scope::Topic),
        1 => Just(Scope::Broker),
    ]
}

pub fn steps() -> impl Strategy<Value = Step> {
    let slot = 0..SLOTS;
    let modes = prop_oneof![
        Just(Unsubscribe::Cancel),
        Just(Unsubscribe::DeadLetter),
        Just(Unsubscribe::Drain { timeout: TICK }),
    ];
    let some_slot = prop::option::of(slot.clone());
    let key = prop::option::weighted(0.8, 0..LINES);
    let ttl = prop::option::weighted(0.25, 1..8_u64);
    prop_oneof![
        16 => (key, ttl.clone()).prop_map(|(key, ttl)| Step::Publish(key, ttl)),
        5 => (0..6_u8).prop_map(Step::PublishOnce),
        3 => (0..7_usize).prop_map(Step::PublishBatch),
        3 => (0..7_usize, 0..LINES, ttl.clone())
            .prop_map(|(count, key, ttl)| Step::PublishMessages(count, key, ttl)),
        3 => (0..12_u64).prop_map(Step::PublishAfter),
        2 => (0..8_usize).prop_map(Step::CancelDelayed),
        10 => Just(Step::Run),
        8 => (0..9_u64).prop_map(Step::Advance),
        1 => (1_000..100_000_u64).prop_map(Step::Advance),
        2 => Just(Step::Flush),
        2 => hows().prop_map(Step::Swap),
        3 => (1..5_usize).prop_map(Step::Split),
        1 => policies().prop_map(Step::SetRetry),
        2 => (1..9_usize).prop_map(Step::SetCapacity),
        2 => overflows().prop_map(Step::SetOverflow),
        1 => weights().prop_map(Step::SetWeightLimit),
        1 => memories().prop_map(|(window, ids)| Step::SetDedup(window, ids)),
        2 => (slot.clone(), 1..4_usize).prop_map(|(slot, by)| Step::Widen(slot, by)),
        1 => slot.clone().prop_map(Step::Reattach),
        1 => (slot.clone(), policies()).prop_map(|(slot, policy)| Step::SetOwnRetry(slot, policy)),
        5 => slot.clone().prop_map(Step::Subscribe),
        1 => (slot.clone(), modes).prop_map(|(slot, mode)| Step::Unsubscribe(slot, mode)),
        1 => slot.clone().prop_map(Step::Forget),
        5 => (slot.clone(), prop::option::weighted(0.4, 1..5_usize))
            .prop_map(|(slot, most)| Step::Receive(slot, most)),
        5 => (0..6_usize, settles()).prop_map(|(place, settle)| Step::Settle(place, settle)),
        3 => (slot.clone(), 0..MEMBERS.len()).prop_map(|(slot, name)| Step::Join(slot, name)),
        // What is paused is resumed more often, so that programs do not come to a halt.
        4 => (scopes(), prop::bool::weighted(0.3))
            .prop_map(|(scope, is_paused)| Step::SetPaused(scope, is_paused)),
        2 => (slot.clone(), 0..9_u64).prop_map(|(slot, time)| Step::HoldOff(slot, time)),
        4 => (slot.clone(), breakings()).prop_map(|(slot, breaking)| Step::Break(slot, breaking)),
        2 => (slot.clone(), rates()).prop_map(|(slot, rate)| Step::SetRate(slot, rate)),
        2 => slot.clone().prop_map(Step::RetryAllNow),
        2 => (slot, 0..MEMBERS.len()).prop_map(|(slot, name)| Step::Leave(slot, name)),
        2 => some_slot.clone().prop_map(Step::Redrive),
        1 => some_slot.prop_map(Step::Purge),
        2 => Just(Step::Read),
    ]
}
