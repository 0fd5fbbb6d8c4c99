//! Promise: a subscription with priorities takes its deliveries by the levels of their messages. By
//! weights none starves, strict levels go by rank, and aging bounds their wait. Order within a key and
//! within a level stands, retries keep their level, and a full lane drops from the lowest.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::time::Duration;

use crate::harness::{
    HANG, Log, advance, assert_balanced, assert_rests_balanced, manual, read_by, threaded,
};
use Priority::{High, Low, Normal, Urgent};
use millstream::protect::{Breaker, Priorities, Priority};
use millstream::{
    Backoff, Batched, Broker, Delivery, DeliveryBatch, LaneFull, Message, Nack, OnFailure, Pull,
    PullSubscription, Subscription, SubscriptionBuilder, SubscriptionOptions, Topic,
};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

fn open(broker: &Broker) -> Topic<u32> {
    let retry = Backoff::fixed(SECOND).max_attempts(3);
    let builder = broker.topic("t").retry(retry).capacity(100_000);
    builder.lane_capacity(100_000).open().expect("opens")
}

/// The level of a payload is its number modulo four.
fn level(payload: u32) -> Priority {
    Priority::ALL[payload as usize % 4]
}

fn messages(payloads: impl IntoIterator<Item = u32>) -> Vec<Message<u32>> {
    let payloads = payloads.into_iter();
    payloads
        .map(|payload| Message::new(payload).priority(level(payload)))
        .collect()
}

fn publish(topic: &Topic<u32>, payloads: impl IntoIterator<Item = u32>) {
    let published = topic.publish_messages(messages(payloads));
    published.expect("there is room");
}

fn shares(payloads: &[u32]) -> [usize; 4] {
    Priority::ALL.map(|one| {
        payloads
            .iter()
            .filter(|payload| level(**payload) == one)
            .count()
    })
}

/// A lane whose deliveries are taken one by one.
fn pulled(topic: &Topic<u32>, options: &SubscriptionOptions) -> PullSubscription<u32> {
    let builder = topic.subscription("s").options(options);
    builder.pull(Pull::default()).expect("subscribes")
}

fn next(pull: &PullSubscription<u32>) -> u32 {
    let lease = pull.try_recv().expect("there is one");
    let payload = *lease.payload();
    assert_eq!(lease.priority(), level(payload));
    lease.ack().expect("in time");
    payload
}

fn rest(pull: &PullSubscription<u32>) -> Vec<u32> {
    let each = std::iter::from_fn(|| pull.try_recv().ok());
    let each = each.map(|lease| {
        let payload = *lease.payload();
        lease.ack().expect("in time");
        payload
    });
    each.collect()
}

fn queued(subscription: &Subscription) -> [u64; 4] {
    let metrics = subscription.metrics();
    let queued = metrics.queued_by_priority.expect("it has priorities");
    assert_eq!(queued.iter().sum::<u64>(), metrics.queued);
    queued
}

#[test]
fn shares_under_overload_are_those_of_the_weights_whoever_takes() {
    for kind in [
        "own",
        "keyed",
        "shared",
        "batches",
        "group",
        "batch group",
        "pattern",
    ] {
        let (broker, _clock) = manual();
        let topic = open(&broker);
        let log = Log::new();
        let calls = log.clone();
        let each = move |delivery: &Delivery<'_, u32>| {
            calls.push(*delivery.payload());
            Ok(())
        };
        let calls = log.clone();
        let batch = move |batch: &mut DeliveryBatch<'_, u32>| {
            let payloads = batch.iter().map(|delivery| *delivery.payload());
            payloads.for_each(|payload| calls.push(payload));
            Ok(())
        };
        let options = SubscriptionOptions::new().priorities(Priorities::weighted());
        topic.pause();
        let builder = topic.subscription("s").options(&options);
        let mut kept: Vec<Box<dyn std::any::Any>> = Vec::new();
        match kind {
            "own" => kept.push(Box::new(builder.subscribe(each))),
            "keyed" => {
                let keyed = builder.on_failure(OnFailure::BlockKey);
                kept.push(Box::new(keyed.subscribe(each)));
            }
            "shared" => kept.push(Box::new(builder.concurrency(3).subscribe_shared(each))),
            "batches" => kept.push(Box::new(builder.subscribe_batches(Batched::of(8), batch))),
            "group" | "batch group" => {
                let group = builder.group().expect("subscribes");
                match kind {
                    "group" => {
                        kept.push(Box::new(group.join("a", each.clone())));
                        kept.push(Box::new(group.join("b", each)));
                    }
                    _ => kept.push(Box::new(
                        group.member("a").join_batches(Batched::of(8), batch),
                    )),
                }
                kept.push(Box::new(group));
            }
            _ => {
                let pattern = broker.subscription("p").matching("*").options(&options);
                kept.push(Box::new(pattern.subscribe(each)));
            }
        }
        publish(&topic, 0..2_400);
        broker.run_until_idle();
        assert_eq!(log.len(), 0, "{kind}");
        topic.resume();
        broker.run_until_idle();
        let taken = log.take();
        for (share, weight) in shares(&taken[..1_050]).into_iter().zip([1, 2, 4, 8]) {
            let fair = 1_050.0 * f64::from(weight) / 15.0;
            let off = (share as f64 - fair).abs() / fair;
            assert!(off <= 0.05, "{kind}: {share} where {fair} are fair");
        }
        for one in Priority::ALL {
            let of_level = taken.iter().filter(|payload| level(**payload) == one);
            assert!(of_level.is_sorted(), "{kind}: a level keeps its order");
        }
        assert_eq!(taken.len(), 2_400, "{kind}");
        assert_rests_balanced(&broker);
    }
}

#[test]
fn by_weights_no_level_starves_though_the_others_never_run_dry() {
    let (broker, _clock) = manual();
    let topic = open(&broker);
    let weighted = SubscriptionOptions::new().priorities(Priorities::default());
    let pull = pulled(&topic, &weighted);
    publish(&topic, [0]);
    let taken = (0..100).map(|_| {
        publish(&topic, [1, 2, 3]); // more than is taken
        next(&pull)
    });
    let taken: Vec<u32> = taken.collect();
    let at = taken.iter().position(|payload| *payload == 0);
    assert!(at.expect("the low one is taken") <= 15);
    rest(&pull);
    assert_rests_balanced(&broker);
}

#[test]
fn strict_levels_go_by_rank_and_a_step_of_aging_bounds_the_wait() {
    let (broker, clock) = manual();
    let topic = open(&broker);
    let strict = SubscriptionOptions::new().priorities(Priorities::strict());
    let pull = pulled(&topic, &strict);
    publish(&topic, 0..12);
    assert_eq!(rest(&pull), [3, 7, 11, 2, 6, 10, 1, 5, 9, 0, 4, 8]);
    for (aging, waits) in [(None, 50), (Some(SECOND), 3), (Some(4 * SECOND), 12)] {
        let priorities = match aging {
            None => Priorities::strict(),
            Some(step) => Priorities::strict().aging(step),
        };
        pull.set_priorities(Some(priorities)).expect("in range");
        publish(&topic, [0]);
        let taken_after = (0..50).find(|_| {
            publish(&topic, [3]); // an urgent one at every moment
            let is_low = next(&pull) == 0;
            clock.advance(SECOND);
            is_low
        });
        assert_eq!(taken_after.unwrap_or(50), waits, "{aging:?}");
        rest(&pull);
    }
    assert_rests_balanced(&broker);
}

#[test]
fn an_urgent_message_goes_before_all_that_came_without_a_level() {
    let (broker, _clock) = manual();
    let topic = open(&broker);
    let weighted = Priorities::weighted();
    let pull = pulled(&topic, &SubscriptionOptions::new().priorities(weighted));
    let (log, _own) = read_by(topic.subscription("own").priorities(weighted));
    for late in [3, 7] {
        for _ in 0..300 {
            topic.publish(1).expect("there is room");
        }
        publish(&topic, [late]);
        assert_eq!(next(&pull), late);
        assert_eq!(rest(&pull), [1; 300]);
        broker.run_until_idle();
        let handled = log.take();
        assert_eq!((handled[0], handled.len()), (late, 301));
    }
    assert_rests_balanced(&broker);
}

#[test]
fn the_first_failure_ends_a_run_and_a_breaker_holds_the_rest() {
    let (broker, clock) = manual();
    let topic = open(&broker);
    let calls = Arc::new(AtomicU32::new(0));
    let of_handler = Arc::clone(&calls);
    let breaker = Breaker::new().consecutive_failures(1).open_for(SECOND);
    let builder = topic.subscription("s").priorities(Priorities::weighted());
    let subscription = builder
        .breaker(breaker)
        .subscribe(move |_| match of_handler.fetch_add(1, SeqCst) {
            19 => Err(Nack::retry("the dependency is down")),
            _ => Ok(()),
        })
        .expect("subscribes");
    publish(&topic, 0..100);
    broker.run_until_idle();
    assert_eq!(calls.load(SeqCst), 20, "no attempt follows the failure");
    let counts = subscription.metrics().counts;
    assert_eq!(
        (counts.delivered, counts.attempts, counts.failed),
        (19, 20, 1)
    );
    assert_balanced(&broker);
    for _ in 0..10 {
        advance(&broker, &clock, SECOND);
    }
    let counts = subscription.metrics().counts;
    assert_eq!((counts.delivered, counts.attempts), (100, 101));
    assert_rests_balanced(&broker);
}

#[test]
fn nothing_overtakes_within_a_key_whatever_its_level() {
    for kind in ["blocks", "shared", "pull"] {
        let (broker, clock) = manual();
        let topic = open(&broker);
        let log = Log::new();
        let calls = log.clone();
        let options = SubscriptionOptions::new()
            .priorities(Priorities::strict())
            .on_failure(OnFailure::BlockKey);
        // The first attempt at each message of key 0 fails.
        let handler = move |delivery: &Delivery<'_, u32>| {
            let key = delivery.key().expect("each has one").to_owned();
            if key == "0" && delivery.attempt() == 1 {
                return Err(Nack::retry("not yet"));
            }
            calls.push((key, *delivery.payload()));
            Ok(())
        };
        topic.pause();
        let builder = topic.subscription("s").options(&options);
        let (mut subscription, mut pull) = (None, None);
        match kind {
            "blocks" => subscription = Some(builder.subscribe(handler).expect("subscribes")),
            "shared" => {
                let shared = builder.concurrency(3).subscribe_shared(handler);
                subscription = Some(shared.expect("subscribes"));
            }
            _ => pull = Some(builder.pull(Pull::default()).expect("subscribes")),
        }
        // The messages of a key become ever more urgent.
        let payloads = (0..40).map(|number| (number % 5, number));
        let each = payloads.map(|(key, number)| {
            let rising = Priority::ALL[(number / 10) as usize];
            Message::new(number).key(key.to_string()).priority(rising)
        });
        topic.publish_messages(each).expect("there is room");
        broker.run_until_idle();
        topic.resume();
        for _ in 0..20 {
            advance(&broker, &clock, SECOND);
            while let Some(Ok(lease)) = pull.as_ref().map(PullSubscription::try_recv) {
                let key = lease.key().expect("each has one").to_owned();
                if key == "0" && lease.attempt() == 1 {
                    lease.nack(Nack::retry("not yet")).expect("in time");
                    continue;
                }
                log.push((key, *lease.payload()));
                lease.ack().expect("in time");
            }
        }
        let mut by_key: BTreeMap<String, Vec<u32>> = BTreeMap::new();
        for (key, payload) in log.take() {
            by_key.entry(key).or_default().push(payload);
        }
        assert_eq!(by_key.len(), 5, "{kind}");
        for (key, payloads) in by_key {
            assert!(payloads.is_sorted(), "{kind}: {key}: {payloads:?}");
            assert_eq!(payloads.len(), 8, "{kind}");
        }
        assert_rests_balanced(&broker);
        drop((subscription, pull));
    }
}

#[test]
fn a_retry_and_a_redrive_keep_their_level() {
    let (broker, clock) = manual();
    let topic = open(&broker);
    let log = Log::new();
    let (fails, calls) = (Arc::new(AtomicBool::new(true)), log.clone());
    let is_down = Arc::clone(&fails);
    let subscription = topic
        .subscription("s")
        .priorities(Priorities::strict())
        .subscribe(move |delivery| {
            if is_down.load(SeqCst) {
                return Err(Nack::retry("down"));
            }
            calls.push(*delivery.payload());
            Ok(())
        })
        .expect("subscribes");
    publish(&topic, [2, 0]); // high and low
    broker.run_until_idle();
    subscription.pause();
    fails.store(false, SeqCst);
    publish(&topic, [1, 3, 1]);
    advance(&broker, &clock, SECOND);
    assert_eq!(
        queued(&subscription),
        [1, 2, 1, 1],
        "retries that are due count, too"
    );
    subscription.resume();
    broker.run_until_idle();
    assert_eq!(log.take(), [3, 2, 1, 1, 0]);

    fails.store(true, SeqCst);
    publish(&topic, [0, 2]);
    broker.run_until_idle();
    (0..3).for_each(|_| advance(&broker, &clock, SECOND));
    let letters = topic.dead_letters().list();
    assert_eq!(
        letters
            .iter()
            .map(|letter| letter.priority())
            .collect::<Vec<_>>(),
        [High, Low]
    );
    drop(letters);
    fails.store(false, SeqCst);
    subscription.pause();
    publish(&topic, [1]);
    let redriven = topic.dead_letters().redrive_all();
    assert_eq!(redriven.redriven, 2);
    broker.run_until_idle();
    subscription.resume();
    broker.run_until_idle();
    assert_eq!(log.take(), [2, 1, 0]);
    assert_rests_balanced(&broker);
}

#[test]
fn a_full_lane_drops_its_oldest_from_the_lowest_level() {
    let (broker, _clock) = manual();
    let topic = open(&broker);
    let log = Log::new();
    let calls = log.clone();
    let options = SubscriptionOptions::new()
        .capacity(6)
        .when_full(LaneFull::DropOldest)
        .priorities(Priorities::strict());
    let subscription = topic.subscription("s").options(&options);
    let subscription = subscription
        .subscribe(move |delivery| {
            calls.push(*delivery.payload());
            Ok(())
        })
        .expect("subscribes");
    subscription.pause();
    let step = |payloads: &[u32], left: [u64; 4], dropped: u64| {
        publish(&topic, payloads.iter().copied());
        broker.run_until_idle();
        assert_eq!(queued(&subscription), left, "{payloads:?}");
        assert_eq!(
            subscription.metrics().counts.dropped,
            dropped,
            "{payloads:?}"
        );
        assert_balanced(&broker);
    };
    step(&[3, 0, 1, 0, 2, 1], [2, 2, 1, 1], 0);
    step(&[7], [1, 2, 1, 2], 1);
    step(&[4, 8], [1, 2, 1, 2], 3); // the newest of the lowest level stays
    step(&[11], [0, 2, 1, 3], 4);
    step(&[12], [0, 2, 1, 3], 5); // it is the lowest itself
    step(&[5, 16, 6, 20, 9], [0, 1, 2, 3], 10);
    subscription.resume();
    broker.run_until_idle();
    assert_eq!(log.take(), [3, 7, 11, 2, 6, 9]);
    assert_rests_balanced(&broker);
}

#[test]
fn deliveries_expire_at_every_level() {
    let (broker, clock) = manual();
    let topic = broker.topic("t").ttl(SECOND).open().expect("opens");
    let pull = pulled(
        &topic,
        &SubscriptionOptions::new().priorities(Priorities::strict()),
    );
    publish(&topic, 0..8);
    assert_eq!(next(&pull), 3);
    clock.advance(500 * MS);
    publish(&topic, [0, 3]);
    advance(&broker, &clock, 600 * MS);
    assert_eq!(rest(&pull), [3, 0]);
    assert_eq!(pull.metrics().counts.expired, 7);
    assert_rests_balanced(&broker);
}

#[test]
fn priorities_come_and_go_while_deliveries_wait() {
    let (broker, clock) = manual();
    let topic = open(&broker);
    let log = Log::new();
    let calls = log.clone();
    let subscription = topic
        .subscribe("s", move |delivery| {
            if *delivery.payload() == 2 && delivery.attempt() == 1 {
                return Err(Nack::retry("not yet"));
            }
            calls.push(*delivery.payload());
            Ok(())
        })
        .expect("subscribes");
    publish(&topic, 0..8);
    broker.run_until_idle();
    assert_eq!(log.take(), [0, 1, 3, 4, 5, 6, 7], "levels are ignored");
    assert_eq!(subscription.metrics().queued_by_priority, None);
    let strict = Some(Priorities::strict());
    subscription.pause();
    publish(&topic, 8..12);
    broker.run_until_idle();
    subscription.set_priorities(strict).expect("in range");
    publish(&topic, 12..16);
    advance(&broker, &clock, SECOND);
    assert_eq!(queued(&subscription), [2, 2, 3, 2]);
    subscription.resume();
    broker.run_until_idle();
    assert_eq!(log.take(), [11, 15, 2, 10, 14, 9, 13, 8, 12]);
    subscription.pause();
    publish(&topic, 16..24);
    broker.run_until_idle();
    subscription
        .set_priorities(Some(Priorities::weighted()))
        .expect("in range");
    assert_eq!(queued(&subscription), [2; 4]);
    subscription.set_priorities(None).expect("in range");
    assert_eq!(subscription.metrics().queued_by_priority, None);
    subscription.resume();
    broker.run_until_idle();
    assert_eq!(log.take(), (16..24).collect::<Vec<_>>());
    assert_rests_balanced(&broker);
}

#[test]
fn a_subscription_to_patterns_has_levels_in_each_topic() {
    let (broker, _clock) = manual();
    let topics = ["a", "b"].map(|name| broker.topic::<u32>(name).open().expect("opens"));
    let log = Log::new();
    let calls = log.clone();
    let pattern = broker.subscription("p").matching("*");
    let pattern = pattern
        .priorities(Priorities::strict())
        .subscribe(move |delivery: &Delivery<'_, u32>| {
            calls.push((delivery.topic().to_owned(), *delivery.payload()));
            Ok(())
        })
        .expect("subscribes");
    pattern.pause();
    topics.iter().for_each(|topic| publish(topic, 0..8));
    broker.run_until_idle();
    assert_eq!(pattern.metrics().queued_by_priority, Some([4; 4]));
    pattern.set_priorities(None).expect("in range");
    assert_eq!(pattern.metrics().queued_by_priority, None);
    pattern
        .set_priorities(Some(Priorities::strict()))
        .expect("in range");
    let late = broker.topic::<u32>("c").open().expect("opens");
    publish(&late, 0..4);
    broker.run_until_idle();
    assert_eq!(pattern.metrics().queued_by_priority, Some([5; 4]));
    pattern.resume();
    broker.run_until_idle();
    let taken = log.take();
    let of = |name: &str| -> Vec<u32> {
        let of = taken.iter().filter(|(topic, _)| topic == name);
        of.map(|(_, payload)| *payload).collect()
    };
    for name in ["a", "b"] {
        assert_eq!(of(name), [3, 7, 2, 6, 1, 5, 0, 4]);
    }
    assert_eq!(of("c"), [3, 2, 1, 0]);
    assert_rests_balanced(&broker);
}

#[test]
fn every_way_to_publish_carries_the_priority() {
    let (broker, clock) = manual();
    let topic = open(&broker);
    let pull = pulled(
        &topic,
        &SubscriptionOptions::new().priorities(Priorities::strict()),
    );
    topic.publish(1).expect("there is room"); // normal
    topic
        .message(0)
        .priority(Low)
        .publish()
        .expect("there is room");
    topic
        .publish_messages(messages([2]))
        .expect("there is room");
    let mut buffer = topic.buffered(Batched::of(16)).expect("in range");
    buffer
        .publish_message(Message::new(3).priority(Urgent))
        .expect("there is room");
    buffer.flush().expect("there is room");
    let later = Message::new(7).priority(Urgent).key("k").after(SECOND);
    topic.publish_messages([later]).expect("there is room");
    assert_eq!(Message::new(5).priority(Normal), Message::new(5));
    let taken: Vec<u32> = (0..4).map(|_| next(&pull)).collect();
    assert_eq!(taken, [3, 2, 1, 0]);
    publish(&topic, [2]);
    advance(&broker, &clock, SECOND);
    assert_eq!((next(&pull), next(&pull)), (7, 2));
    assert_rests_balanced(&broker);
}

#[test]
fn priorities_that_make_no_sense_are_refused() {
    let (broker, _clock) = manual();
    let topic = open(&broker);
    let with = |priorities| topic.subscription("s").priorities(priorities);
    let refused = |builder: SubscriptionBuilder<'_, u32>| {
        let refused = builder.subscribe(|_| Ok(())).expect_err("refused");
        refused.to_string()
    };
    let (weighted, strict) = (Priorities::weighted(), Priorities::strict());
    let whole = OnFailure::BlockSubscription;
    let texts = [
        refused(with(weighted).on_failure(whole)),
        refused(with(strict).on_failure(OnFailure::BlockKey).hold(10)),
        refused(with(weighted.aging(SECOND))),
        refused(with(strict.aging(Duration::ZERO))),
    ];
    let said = [
        "none overtakes",
        "hold is 10",
        "Priorities::strict",
        "must be longer",
    ];
    for (text, said) in texts.iter().zip(said) {
        assert!(text.contains(said), "{text}");
    }
    let pattern = broker.subscription::<u32>("p").matching("*");
    let pattern = pattern.priorities(weighted).on_failure(whole);
    pattern.subscribe(|_| Ok(())).expect_err("refused");
    let pull = topic
        .subscription("s")
        .priorities(weighted)
        .on_failure(whole);
    pull.pull(Pull::default()).expect_err("refused");

    // What is refused while traffic runs leaves the settings as they were.
    let keyed = topic.subscription("s").on_failure(OnFailure::BlockKey);
    let keyed = keyed
        .priorities(strict)
        .subscribe(|_| Ok(()))
        .expect("fits");
    keyed.set_on_failure(whole).expect_err("refused");
    keyed.set_hold(10).expect_err("refused");
    keyed
        .set_priorities(Some(weighted.aging(SECOND)))
        .expect_err("refused");
    assert_eq!(queued(&keyed), [0; 4]);
    keyed.set_capacity(10).expect("the hold follows");
    keyed.set_priorities(None).expect("fits");
    keyed.set_hold(5).expect("fits");
    keyed.set_priorities(Some(strict)).expect_err("refused");
    keyed.set_on_failure(OnFailure::Reorder).expect("fits");
}

#[test]
fn many_threads_lose_nothing_and_keep_each_key_in_order() {
    let broker = threaded(4);
    let topic: Topic<u32> = broker
        .topic("t")
        .capacity(4_000)
        .retry(Backoff::fixed(MS))
        .open()
        .expect("opens");
    let log = Log::new();
    let calls = log.clone();
    let handler = move |delivery: &Delivery<'_, u32>| {
        if delivery.attempt() == 1 && delivery.payload().is_multiple_of(7) {
            return Err(Nack::retry("once"));
        }
        calls.push((delivery.key().map(str::to_owned), *delivery.payload()));
        Ok(())
    };
    let options = SubscriptionOptions::new().priorities(Priorities::weighted());
    let blocking = options
        .clone()
        .on_failure(OnFailure::BlockKey)
        .concurrency(3);
    let builder = topic.subscription("blocks").options(&blocking);
    let blocks = builder.subscribe_shared(handler).expect("subscribes");
    let dropping = options
        .capacity(8)
        .when_full(LaneFull::DropOldest)
        .concurrency(2);
    let builder = topic.subscription("drops").options(&dropping);
    let drops = builder.subscribe_shared(|_| Ok(())).expect("subscribes");
    for turn in 0..40 {
        let each = (turn * 50..(turn + 1) * 50).map(|payload| {
            let message = Message::new(payload).priority(level(payload / 3));
            message.key((payload % 11).to_string())
        });
        topic.publish_messages(each).expect("there is room");
        let priorities = [Priorities::weighted(), Priorities::strict()][turn as usize % 2];
        blocks.set_priorities(Some(priorities)).expect("in range");
        drops
            .set_priorities((turn % 3 > 0).then_some(priorities))
            .expect("in range");
        let metrics = drops.metrics();
        assert!(metrics.queued_by_priority.is_some() == (turn % 3 > 0));
    }
    assert!(broker.wait_until_idle(HANG));
    let taken = log.take();
    assert_eq!(taken.len(), 2_000);
    let mut last = BTreeMap::new();
    for (key, payload) in taken {
        let before = last.insert(key.clone(), payload);
        assert!(
            before < Some(payload),
            "{key:?}: {payload} after {before:?}"
        );
    }
    let counts = drops.metrics().counts;
    assert_eq!(counts.delivered + counts.dropped, 2_000);
    assert_rests_balanced(&broker);
}
