//! Promise 5, fair shares: while deliveries that are due again (or were redriven) and
//! new ones wait in a subscription, they take turns, one for one, however it takes them.
//! Those that come back take theirs in the order in which they came back.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use proptest::prelude::*;

use crate::harness::{Log, advance, assert_balanced, manual};
use millstream::dead_letters::Redrive;
use millstream::{
    Backoff, Batched, Broker, Delivery, LaneFull, Nack, OnFailure, Pull, Subscription,
    SubscriptionBuilder, Topic,
};

const MS: Duration = Duration::from_millis(1);
/// What fails whenever it is tried.
const BAD: u32 = 0;

fn open(broker: &Broker) -> Topic<u32> {
    let retry = Backoff::fixed(MS).max_attempts(u32::MAX);
    broker.topic("t").retry(retry).open().expect("opens")
}

fn judge(payload: u32) -> Result<(), Nack> {
    match payload {
        BAD => Err(Nack::retry("it is down")),
        _ => Ok(()),
    }
}

/// Writes down what it is called with.
fn handler(
    log: &Log<u32>,
) -> impl Fn(&Delivery<'_, u32>) -> Result<(), Nack> + Send + Sync + use<> {
    let log = log.clone();
    move |d| {
        log.push(*d.payload());
        judge(*d.payload())
    }
}

type Subscribe = fn(SubscriptionBuilder<'_, u32>, &Log<u32>);

fn detach(subscribed: Result<Subscription, millstream::error::SubscribeError>) {
    subscribed.expect("subscribes").detach();
}

fn kinds() -> Vec<(&'static str, Subscribe)> {
    #[cfg_attr(not(feature = "async"), expect(unused_mut))]
    let mut kinds: Vec<(&'static str, Subscribe)> = vec![
        ("plain", |builder, log| {
            detach(builder.subscribe(handler(log)))
        }),
        ("one that drops", |builder, log| {
            let builder = builder.when_full(LaneFull::DropOldest);
            detach(builder.subscribe(handler(log)));
        }),
        ("keys in order", |builder, log| {
            let builder = builder.on_failure(OnFailure::BlockKey);
            detach(builder.subscribe(handler(log)));
        }),
        ("keys in order, few set aside", |builder, log| {
            let builder = builder.on_failure(OnFailure::BlockKey).hold(1);
            detach(builder.subscribe(handler(log)));
        }),
        ("concurrent", |builder, log| {
            detach(builder.concurrency(2).subscribe_shared(handler(log)));
        }),
        ("concurrent, few set aside", |builder, log| {
            detach(
                builder
                    .hold(2)
                    .concurrency(2)
                    .subscribe_shared(handler(log)),
            );
        }),
        ("a group", |builder, log| {
            let group = builder.group().expect("subscribes");
            group.join("one", handler(log)).expect("joins").detach();
            group.detach();
        }),
    ];
    #[cfg(feature = "async")]
    kinds.push(("async", |builder, log| {
        let log = log.clone();
        detach(builder.concurrency(2).subscribe_async(move |d| {
            log.push(*d.payload());
            let judged = judge(*d.payload());
            async move { judged }
        }));
    }));
    kinds
}

#[test]
fn a_hundred_that_always_fail_keep_no_new_one_waiting() {
    for (kind, subscribe) in kinds() {
        for keyed in [false, true] {
            let (broker, clock) = manual();
            let topic = open(&broker);
            let log = Log::new();
            subscribe(topic.subscription("s"), &log);
            for n in 0..100 {
                let message = topic.message(BAD);
                let message = match keyed {
                    true => message.key(format!("tenant {n}")),
                    false => message,
                };
                message.publish().expect("there is room");
            }
            broker.run_until_idle();
            assert_eq!(log.take().len(), 100, "{kind}");
            for good in 1..=50 {
                let message = topic.message(good);
                let message = match keyed {
                    true => message.key("well"),
                    false => message,
                };
                message.publish().expect("there is room");
                advance(&broker, &clock, MS);
                let calls = log.take();
                assert_eq!(calls.len(), 101, "{kind}");
                let at = calls.iter().position(|payload| *payload == good);
                assert!(
                    at < Some(2),
                    "{kind}: message {good} waited for {at:?} calls"
                );
            }
            assert_balanced(&broker);
        }
    }
}

#[test]
fn what_comes_back_and_batches_that_are_due_take_turns() {
    for on_failure in [OnFailure::Reorder, OnFailure::BlockKey] {
        let (broker, clock) = manual();
        let topic = open(&broker);
        let log = Log::new();
        let builder = topic.subscription("s").on_failure(on_failure);
        let calls = log.clone();
        let subscribed = builder.subscribe_batches(Batched::of(2).linger(9 * MS), move |batch| {
            let payloads: Vec<_> = batch.iter().map(|d| *d.payload()).collect();
            let judged = judge(payloads[0]);
            calls.push(payloads);
            judged
        });
        let _subscription = subscribed.expect("subscribes");
        topic.publish_batch([BAD; 100]).expect("there is room");
        broker.run_until_idle();
        log.take();
        for good in (1..40).step_by(4) {
            topic.publish_batch(good..good + 4).expect("there is room");
            advance(&broker, &clock, MS);
            let calls = log.take();
            let at = |batch: [u32; 2]| calls.iter().position(|call| *call == batch);
            assert!(at([good, good + 1]) < Some(2), "{on_failure:?}: {calls:?}");
            assert!(
                at([good + 2, good + 3]) < Some(4),
                "{on_failure:?}: {calls:?}"
            );
            assert_eq!(calls.len(), 102);
        }
        topic.publish(99).expect("there is room");
        advance(&broker, &clock, MS);
        assert_eq!(
            log.take(),
            vec![vec![BAD]; 100],
            "what lingers holds nobody up"
        );
        advance(&broker, &clock, 8 * MS);
        assert!(log.take().contains(&vec![99]));
        assert_balanced(&broker);
    }
}

#[test]
fn what_was_nacked_keeps_no_new_one_from_whoever_pulls() {
    let (broker, clock) = manual();
    let topic = open(&broker);
    let pull = topic.subscription("s").pull(Pull::default());
    let pull = pull.expect("subscribes");
    topic.publish_batch([BAD; 100]).expect("there is room");
    let fail_one = |tries: &mut BTreeMap<_, u32>| {
        let lease = pull.try_recv().expect("there is one");
        let (id, payload) = (lease.id(), *lease.payload());
        let settled = match judge(payload) {
            Ok(()) => lease.ack(),
            Err(nack) => {
                *tries.entry(id).or_insert(0) += 1;
                lease.nack(nack)
            }
        };
        settled.expect("in time");
        clock.advance(MS);
        payload
    };
    let mut before = BTreeMap::new();
    for _ in 0..300 {
        fail_one(&mut before);
    }
    for good in 1..=100 {
        topic.publish(good).expect("there is room");
        let next = [fail_one(&mut before), fail_one(&mut before)];
        assert!(next.contains(&good));
    }
    let mut tries = BTreeMap::new();
    for _ in 0..200 {
        assert_eq!(fail_one(&mut tries), BAD);
    }
    let tries: Vec<_> = tries.into_values().collect();
    assert_eq!(tries, [2; 100], "none starves another");
    assert_balanced(&broker);
}

#[test]
fn a_big_redrive_and_new_messages_take_turns() {
    for (kind, subscribe) in kinds() {
        let (broker, _clock) = manual();
        let topic = broker.topic::<u32>("t").retry(Backoff::none()).open();
        let topic = topic.expect("opens");
        let log = Log::new();
        subscribe(topic.subscription("s"), &log);
        topic.publish_batch([BAD; 50]).expect("there is room");
        broker.run_until_idle();
        assert_eq!(log.take().len(), 50);
        topic.publish_batch(1..=60).expect("there is room");
        let redriven: Redrive = topic.dead_letters().redrive(|_| true);
        assert_eq!(redriven.redriven, 50, "{kind}");
        broker.run_until_idle();
        let by_turns = (1..=50).flat_map(|n| [BAD, n]).chain(51..=60);
        assert_eq!(log.take(), by_turns.collect::<Vec<_>>(), "{kind}");
        assert_balanced(&broker);
    }
}

#[test]
fn keys_that_come_back_take_turns_whatever_their_age() {
    let (broker, clock) = manual();
    let topic = open(&broker);
    let builder = topic.subscription("s").on_failure(OnFailure::BlockKey);
    let pull = builder.pull(Pull::default()).expect("subscribes");
    for n in 0..100 {
        let message = topic.message(BAD).key(format!("tenant {}", n % 10));
        message.publish().expect("there is room");
    }
    let mut tries = BTreeMap::new();
    for round in 0..250 {
        let lease = pull.try_recv().expect("there is one");
        let key = lease.key().expect("it has one").to_owned();
        // The first of them wait for their first attempts by turns.
        *tries.entry(key).or_insert(0) += u32::from(round >= 50);
        lease.nack(Nack::retry("it is down")).expect("in time");
        clock.advance(MS);
    }
    assert_eq!(tries.into_values().collect::<Vec<_>>(), [20; 10]);
    assert_balanced(&broker);
}

#[test]
fn a_subscription_that_blocks_keeps_its_order_and_gives_no_turns() {
    let (broker, clock) = manual();
    let topic = open(&broker);
    let log = Log::new();
    let builder = topic.subscription("s");
    let builder = builder.on_failure(OnFailure::BlockSubscription);
    let subscribed = builder.subscribe({
        let log = log.clone();
        move |d| {
            log.push((d.id().get(), d.attempt()));
            match (d.id().get(), d.attempt()) {
                (1, 1..=2) => Err(Nack::retry("not yet")),
                _ => Ok(()),
            }
        }
    });
    let _subscription = subscribed.expect("subscribes");
    topic.publish_batch(1..=3).expect("there is room");
    broker.run_until_idle();
    advance(&broker, &clock, MS);
    topic.publish(4).expect("there is room");
    advance(&broker, &clock, MS);
    assert_eq!(log.take(), [(1, 1), (1, 2), (1, 3), (2, 1), (3, 1), (4, 1)]);
    assert_balanced(&broker);
}

/// What is done to a subscription that pulls.
#[derive(Clone, Debug)]
enum Act {
    Publish(usize),
    /// Of so many in a row the first fail.
    Take {
        failing: usize,
        passing: usize,
    },
    Advance(u32),
    Redrive,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        3 => (1..5_usize).prop_map(Act::Publish),
        4 => (0..4_usize, 0..4_usize).prop_map(|(failing, passing)| Act::Take { failing, passing }),
        3 => (1..4_u32).prop_map(Act::Advance),
        1 => Just(Act::Redrive),
    ]
}

proptest! {
    /// The rule as a sequential model: two queues that take turns.
    #[test]
    fn who_pulls_gets_exactly_what_two_queues_by_turns_would_give(
        acts in prop::collection::vec(act(), 1..80),
    ) {
        let (broker, clock) = manual();
        let retry = Backoff::fixed(2 * MS).max_attempts(3);
        let topic = broker.topic::<u64>("t").retry(retry).open().expect("opens");
        let pull = topic.subscription("s").pull(Pull::default()).expect("subscribes");
        let (mut new, mut again) = (VecDeque::new(), VecDeque::new());
        let (mut waiting, mut letters) = (VecDeque::new(), BTreeSet::new());
        let (mut now, mut issued, mut last_was_new) = (0, 0, true);
        for act in acts {
            match act {
                Act::Publish(count) => {
                    topic.publish_batch((1..=count as u64).map(|n| issued + n)).expect("there is room");
                    new.extend((1..=count as u64).map(|n| (issued + n, 1)));
                    issued += count as u64;
                }
                Act::Advance(by) => {
                    advance(&broker, &clock, by * MS);
                    now += by;
                    while waiting.front().is_some_and(|(due, _)| *due <= now) {
                        again.extend(waiting.pop_front().map(|(_, item)| item));
                    }
                }
                Act::Redrive => {
                    let redriven = topic.dead_letters().redrive(|_| true).redriven;
                    prop_assert_eq!(redriven, letters.len());
                    again.extend(std::mem::take(&mut letters).into_iter().map(|id| (id, 1)));
                }
                Act::Take { failing, passing } => {
                    for at in 0..failing + passing {
                        let next = match last_was_new {
                            true => again.pop_front().map(|item| (item, false)),
                            false => new.pop_front().map(|item| (item, true)),
                        };
                        let next = next.or_else(|| match last_was_new {
                            true => new.pop_front().map(|item| (item, true)),
                            false => again.pop_front().map(|item| (item, false)),
                        });
                        let lease = pull.try_recv().ok();
                        let real = lease.as_ref().map(|lease| (*lease.payload(), lease.attempt()));
                        prop_assert_eq!(real, next.map(|(item, _)| item));
                        let (Some(lease), Some(((id, attempt), was_new))) = (lease, next) else {
                            break;
                        };
                        last_was_new = was_new;
                        if at >= failing {
                            lease.ack().expect("in time");
                            continue;
                        }
                        lease.nack(Nack::retry("no")).expect("in time");
                        if attempt == 3 {
                            letters.insert(id);
                        } else {
                            waiting.push_back((now + 2, (id, attempt + 1)));
                        }
                    }
                }
            }
            assert_balanced(&broker);
        }
    }
}
