//! Random programs.

use millstream::{DeadLetterOverflow, LaneFull, NoSubscribers, OnExpired, Overflow, Unsubscribe};
use proptest::prelude::*;

use crate::program::{How, Policy, SLOTS, Setup, Shape, Step, TICK};

pub fn policies() -> impl Strategy<Value = Policy> {
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

pub fn hows() -> impl Strategy<Value = How> {
    prop_oneof![
        3 => Just(How::Immediate),
        1 => Just(How::OneByOne),
        1 => Just(How::Panics),
        4 => (1..6_usize, prop::option::of(0..12_u64))
            .prop_map(|(size, linger)| How::Batched { size, linger }),
    ]
}

pub fn shapes(batches: bool) -> impl Strategy<Value = Shape> {
    let when_full = prop_oneof![
        4 => Just(LaneFull::Wait),
        1 => Just(LaneFull::DropOldest),
        1 => Just(LaneFull::DropNewest),
        1 => Just(LaneFull::DeadLetter),
    ];
    let own = prop::option::weighted(0.3, policies());
    let batch = prop::option::weighted(0.4, (1..4_usize, prop::option::of(0..8_u64)));
    let shapes =
        (1..5_usize, when_full, batch, own).prop_map(move |(capacity, when_full, batch, own)| {
            Shape {
                capacity,
                when_full,
                batches: batch
                    .filter(|_| batches && when_full == LaneFull::Wait)
                    .map(|(size, linger)| (size.min(capacity), linger)),
                own,
            }
        });
    // The topic would wait for the retries of a lane that the model doesn't know.
    shapes.prop_map(|shape| Shape {
        own: match shape.linger() {
            Some(_) => Some(Policy {
                base: 0,
                shape: 0,
                max: 1,
                cap: None,
                limit: None,
            }),
            None => shape.own,
        },
        ..shape
    })
}

pub fn setups() -> impl Strategy<Value = Setup> {
    let overflow = prop_oneof![
        Just(Overflow::Reject),
        Just(Overflow::DropOldest),
        Just(Overflow::DropNewest),
    ];
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
    any::<bool>().prop_flat_map(move |batches| {
        let shapes = [shapes(batches), shapes(batches), shapes(batches)];
        (
            (1..8_usize, overflow.clone(), no_subscribers.clone()),
            prop::option::weighted(0.3, 1..12_u64),
            prop_oneof![2 => Just(OnExpired::Drop), 1 => Just(OnExpired::DeadLetter)],
            (letters.clone(), evict.clone()),
            (hows(), policies()),
            shapes,
        )
            .prop_map(
                move |(
                    (capacity, overflow, no_subscribers),
                    ttl,
                    on_expired,
                    letters,
                    (how, policy),
                    shapes,
                )| {
                    Setup {
                        capacity,
                        overflow,
                        no_subscribers,
                        ttl: ttl.filter(|_| shapes.iter().all(|shape| shape.linger().is_none())),
                        on_expired,
                        letters: letters.0,
                        letter_overflow: letters.1,
                        how,
                        policy,
                        shapes,
                    }
                },
            )
    })
}

pub fn steps() -> impl Strategy<Value = Step> {
    let slot = 0..SLOTS;
    let modes = prop_oneof![
        Just(Unsubscribe::Cancel),
        Just(Unsubscribe::DeadLetter),
        Just(Unsubscribe::Drain { timeout: TICK }),
    ];
    let some_slot = prop::option::of(slot.clone());
    prop_oneof![
        8 => Just(Step::Publish),
        3 => prop::option::of(1..8_u64).prop_map(|ttl| Step::PublishKeyed { ttl }),
        4 => (0..7_usize).prop_map(Step::PublishBatch),
        3 => (0..12_u64).prop_map(Step::PublishAfter),
        10 => Just(Step::Run),
        6 => (0..9_u64).prop_map(Step::Advance),
        1 => (1_000..100_000_u64).prop_map(Step::Advance),
        2 => Just(Step::Flush),
        2 => hows().prop_map(Step::Swap),
        1 => policies().prop_map(Step::SetRetry),
        1 => (slot.clone(), policies()).prop_map(|(slot, policy)| Step::SetOwnRetry(slot, policy)),
        5 => slot.clone().prop_map(Step::Subscribe),
        1 => (slot.clone(), modes).prop_map(|(slot, mode)| Step::Unsubscribe(slot, mode)),
        1 => slot.prop_map(Step::Forget),
        2 => some_slot.clone().prop_map(Step::Redrive),
        1 => some_slot.prop_map(Step::Purge),
    ]
}
