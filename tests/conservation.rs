//! Promise 1, conservation: everything accepted is at every moment in exactly
//! one place, and is counted.
//!
//! - messages: published = queued + dropped + unrouted + dispatched
//! - deliveries: made = delivered + dead-lettered + dropped + expired + cancelled
//!   + queued + in flight + awaiting retry
//!
//! At rest the books balance exactly; while traffic runs, but for what they say is
//! moving, and they never show more
//! ends than beginnings. What was counted stays counted: after the subscription,
//! after the topic, after the broker. And what is counted is evented.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use crate::harness::{
    HANG, Log, advance, assert_balanced, assert_rests_balanced, manual, threaded,
};
use millstream::metrics::{DeliveryCounts, SubscriptionMetrics, TopicMetrics};
use millstream::{
    Backoff, Batched, Broker, Delivery, Histograms, Immediate, LaneFull, ManualClock, Nack,
    NoSubscribers, OnFailure, Overflow, Pull, Subscription, Topic, Unsubscribe,
};
use proptest::prelude::*;

const MS: Duration = Duration::from_millis(1);

/// The counts that are not zero, as a sentence.
fn say(counts: &[(&str, u64)]) -> String {
    let some = counts.iter().filter(|(_, count)| *count > 0);
    let said: Vec<_> = some
        .map(|(what, count)| format!("{count} {what}"))
        .collect();
    said.join(", ")
}

/// Where the topic's messages are, after checking that none is missing.
fn messages(topic: &Topic<u32>) -> String {
    let metrics = topic.metrics();
    metrics.balance().expect("the books balance at rest");
    say(&[
        ("published", metrics.published),
        ("rejected", metrics.rejected),
        ("queued", metrics.queued),
        ("delayed", metrics.delayed),
        ("dropped", metrics.dropped),
        ("unrouted", metrics.unrouted),
        ("dispatched", metrics.dispatched),
    ])
}

fn ends(counts: &DeliveryCounts) -> [(&'static str, u64); 14] {
    [
        ("made", counts.made),
        ("redriven", counts.redriven),
        ("attempts", counts.attempts),
        ("failed", counts.failed),
        ("requeued", counts.requeued),
        ("snoozed", counts.snoozed),
        ("retried", counts.retried),
        ("delivered", counts.delivered),
        ("dead-lettered", counts.dead_lettered),
        ("filtered", counts.filtered),
        ("dropped", counts.dropped),
        ("expired", counts.expired),
        ("cancelled", counts.cancelled),
        ("illegal", counts.illegal),
    ]
}

/// Where a subscription's deliveries are.
fn deliveries(metrics: &SubscriptionMetrics) -> String {
    let mut counts = ends(&metrics.counts).to_vec();
    counts.push(("queued", metrics.queued));
    counts.push(("in flight", metrics.counts.in_flight));
    counts.push(("awaiting retry", metrics.counts.awaiting_retry));
    say(&counts)
}

fn lane(topic: &Topic<u32>, name: &str) -> String {
    let metrics = topic.metrics();
    deliveries(metrics.subscription(name).expect("it is subscribed"))
}

#[test]
fn a_message_is_counted_in_each_place_on_its_way() {
    let (broker, clock) = manual();
    let topic = broker.topic::<u32>("t").open().expect("opens");
    let seen = Log::new();
    let _flaky = topic
        .subscribe("flaky", {
            let (topic, seen) = (topic.clone(), seen.clone());
            move |d| {
                seen.push(lane(&topic, "flaky"));
                match d.attempt() {
                    1 => Err(Nack::retry("not yet")),
                    _ => Ok(()),
                }
            }
        })
        .expect("subscribes");

    topic.publish(1).expect("there is room");
    assert_eq!(messages(&topic), "1 published, 1 queued");
    assert_eq!(lane(&topic, "flaky"), "");

    broker.run_until_idle();
    assert_eq!(messages(&topic), "1 published, 1 dispatched");
    assert_eq!(seen.take(), ["1 made, 1 in flight"]);
    assert_eq!(
        lane(&topic, "flaky"),
        "1 made, 1 attempts, 1 failed, 1 retried, 1 awaiting retry"
    );

    advance(&broker, &clock, 250 * MS);
    assert_eq!(
        seen.take(),
        ["1 made, 1 attempts, 1 failed, 1 retried, 1 in flight"]
    );
    assert_eq!(
        lane(&topic, "flaky"),
        "1 made, 2 attempts, 1 failed, 1 retried, 1 delivered"
    );
    assert_balanced(&broker);
}

#[test]
fn a_message_without_subscribers_is_unrouted_and_never_delivered() {
    let (broker, _clock) = manual();
    let topic = broker.topic::<u32>("t").open().expect("opens");
    topic.publish_batch([1, 2, 3]).expect("there is room");
    broker.run_until_idle();
    assert_eq!(messages(&topic), "3 published, 3 unrouted");
    assert_eq!(assert_balanced(&broker).deliveries().made, 0);
}

#[test]
fn a_message_refused_is_not_among_those_published() {
    let (broker, _clock) = manual();
    let topic = broker.topic::<u32>("t").capacity(2).open().expect("opens");
    for payload in 0..5 {
        let _ = topic.publish(payload);
    }
    assert_eq!(messages(&topic), "2 published, 3 rejected, 2 queued");
    broker.run_until_idle();
    assert_balanced(&broker);
}

#[test]
fn a_message_dropped_by_overflow_is_among_those_published() {
    let (broker, _clock) = manual();
    for (name, overflow) in [
        ("oldest", Overflow::DropOldest),
        ("newest", Overflow::DropNewest),
    ] {
        let topic = broker.topic(name).capacity(2).overflow(overflow);
        let topic = topic.open().expect("opens");
        let _reader = topic.subscribe("reader", |_| Ok(())).expect("subscribes");
        for payload in 0..5 {
            topic.publish(payload).expect("an old or a new one goes");
        }
        assert_eq!(messages(&topic), "5 published, 2 queued, 3 dropped");
        broker.run_until_idle();
        assert_eq!(messages(&topic), "5 published, 3 dropped, 2 dispatched");
        assert_eq!(lane(&topic, "reader"), "2 made, 2 attempts, 2 delivered");
    }
    assert_balanced(&broker);
}

#[test]
fn a_delayed_message_is_queued_until_it_is_due() {
    let (broker, clock) = manual();
    let topic = broker.topic::<u32>("t").open().expect("opens");
    let _reader = topic.subscribe("reader", |_| Ok(())).expect("subscribes");
    topic.publish_after(5 * MS, 1).expect("there is room");
    broker.run_until_idle();
    assert_eq!(messages(&topic), "1 published, 1 queued, 1 delayed");
    advance(&broker, &clock, 5 * MS);
    assert_eq!(messages(&topic), "1 published, 1 dispatched");
    assert_balanced(&broker);
}

#[test]
fn a_delivery_without_room_in_its_lane_is_made_and_dropped_or_dead_lettered() {
    let (broker, _clock) = manual();
    let topic = broker.topic::<u32>("t").open().expect("opens");
    let policies = [
        ("drop", LaneFull::DropNewest),
        ("letter", LaneFull::DeadLetter),
    ];
    let subscriptions = policies.map(|(name, policy)| {
        let narrow = topic.subscription(name).capacity(2).when_full(policy);
        narrow.subscribe(|_| Ok(())).expect("subscribes")
    });
    topic.publish_batch(0..5).expect("there is room");
    broker.run_until_idle();
    assert_eq!(messages(&topic), "5 published, 5 dispatched");
    assert_eq!(
        subscriptions.each_ref().map(|s| deliveries(&s.metrics())),
        [
            "5 made, 2 attempts, 2 delivered, 3 dropped",
            "5 made, 2 attempts, 2 delivered, 3 dead-lettered",
        ]
    );
    assert_balanced(&broker);
}

#[test]
fn a_redriven_letter_is_made_again_and_its_first_end_stands() {
    let (broker, _clock) = manual();
    let topic = broker.topic::<u32>("t").open().expect("opens");
    let _picky = topic
        .subscribe("picky", |d| match d.generation() {
            0 => Err(Nack::dead_letter("not today")),
            _ => Ok(()),
        })
        .expect("subscribes");
    topic.publish(1).expect("there is room");
    broker.run_until_idle();
    assert_eq!(
        lane(&topic, "picky"),
        "1 made, 1 attempts, 1 failed, 1 dead-lettered"
    );
    assert_eq!(topic.dead_letters().redrive(|_| true).redriven, 1);
    assert_eq!(
        lane(&topic, "picky"),
        "2 made, 1 redriven, 1 attempts, 1 failed, 1 dead-lettered, 1 queued"
    );
    broker.run_until_idle();
    assert_eq!(
        lane(&topic, "picky"),
        "2 made, 1 redriven, 2 attempts, 1 failed, 1 delivered, 1 dead-lettered"
    );
    assert_eq!(assert_balanced(&broker).topics[0].dead_letters, 0);
}

#[test]
fn a_letter_that_leaves_a_full_store_is_counted() {
    let (broker, _clock) = manual();
    let topic = broker.topic::<u32>("t").dead_letter_capacity(2);
    let topic = topic.retry(Backoff::none()).open().expect("opens");
    let _broken = topic
        .subscribe("broken", |_| Err(Nack::retry("no")))
        .expect("subscribes");
    topic.publish_batch(0..5).expect("there is room");
    broker.run_until_idle();
    let metrics = assert_balanced(&broker);
    let topic = &metrics.topics[0];
    assert_eq!((topic.dead_letters, topic.letters_evicted), (2, 3));
    assert_eq!(metrics.deliveries().dead_lettered, 5);
}

#[test]
fn a_delivery_expires_before_its_first_attempt_or_instead_of_its_retry() {
    let (broker, clock) = manual();
    let topic = broker.topic::<u32>("t").ttl(10 * MS).open().expect("opens");
    let _flaky = topic
        .subscribe("flaky", |_| Err(Nack::retry_after(8 * MS, "later")))
        .expect("subscribes");
    topic.publish(1).expect("there is room");
    advance(&broker, &clock, 10 * MS);
    assert_eq!(lane(&topic, "flaky"), "1 made, 1 expired");
    topic.publish(2).expect("there is room");
    broker.run_until_idle();
    advance(&broker, &clock, 8 * MS);
    assert_eq!(
        lane(&topic, "flaky"),
        "2 made, 2 attempts, 2 failed, 1 retried, 2 expired"
    );
    assert_balanced(&broker);
}

#[test]
fn a_discarded_delivery_is_counted_as_dropped() {
    let (broker, _clock) = manual();
    let topic = broker.topic::<u32>("t").open().expect("opens");
    let _careless = topic
        .subscribe("careless", |_| Err(Nack::discard("who cares")))
        .expect("subscribes");
    topic.publish(1).expect("there is room");
    broker.run_until_idle();
    assert_eq!(
        lane(&topic, "careless"),
        "1 made, 1 attempts, 1 failed, 1 dropped"
    );
    assert_balanced(&broker);
}

/// A subscription with one delivery delivered, one awaiting its retry, and one
/// in its lane that its batch handler waits to fill a batch with.
fn with_one_of_each(broker: &Broker, topic: &Topic<u32>) -> Subscription {
    let subscription = topic.subscription("s").subscribe_batches(
        Batched::of(2).until_full(),
        |batch: &mut millstream::DeliveryBatch<'_, u32>| {
            batch.nack(1, Nack::retry("later"));
            Ok(())
        },
    );
    topic.publish_batch(0..3).expect("there is room");
    broker.run_until_idle();
    assert_eq!(
        lane(topic, "s"),
        "3 made, 2 attempts, 1 failed, 1 retried, 1 delivered, 1 queued, 1 awaiting retry"
    );
    subscription.expect("subscribes")
}

#[test]
fn what_a_subscription_leaves_behind_is_cancelled_or_dead_lettered_and_stays_counted() {
    for (mode, end) in [
        (Unsubscribe::Cancel, "cancelled"),
        (Unsubscribe::DeadLetter, "dead-lettered"),
    ] {
        let (broker, _clock) = manual();
        let topic = broker.topic::<u32>("t").open().expect("opens");
        let subscription = with_one_of_each(&broker, &topic);
        let expected = format!("3 made, 2 attempts, 1 failed, 1 retried, 1 delivered, 2 {end}");
        match subscription.unsubscribe(mode) {
            millstream::Unsubscribed::Ended(last) => assert_eq!(deliveries(&last), expected),
            other => panic!("outside of a handler it waits, but: {other:?}"),
        }
        let metrics = topic.metrics();
        assert!(metrics.subscriptions.is_empty());
        assert_eq!(say(&ends(&metrics.ended)), expected);
        assert_eq!(assert_balanced(&broker).deliveries(), metrics.ended);
    }
}

#[test]
fn a_subscription_of_the_same_name_begins_its_own_count() {
    let (broker, _clock) = manual();
    let topic = broker.topic::<u32>("t").open().expect("opens");
    for round in 1..=3 {
        let subscription = topic.subscribe("s", |_| Ok(())).expect("subscribes");
        topic.publish(round).expect("there is room");
        broker.run_until_idle();
        assert_eq!(lane(&topic, "s"), "1 made, 1 attempts, 1 delivered");
        subscription.unsubscribe(Unsubscribe::Cancel);
        assert_eq!(topic.metrics().ended.delivered, u64::from(round));
    }
    assert_balanced(&broker);
}

#[test]
fn a_removed_topic_keeps_its_totals() {
    let (broker, _clock) = manual();
    for round in 1..=2_u64 {
        let topic = broker.topic::<u32>("short.lived").open().expect("opens");
        let subscription = topic.subscribe("s", |_| Ok(())).expect("subscribes");
        topic.publish_batch(0..3).expect("there is room");
        broker.run_until_idle();
        subscription.unsubscribe(Unsubscribe::Cancel);
        topic.publish(4).expect("there is room");
        broker.run_until_idle();
        drop(topic);
        broker
            .remove_topic("short.lived")
            .expect("nothing is left in it");
        let metrics = assert_balanced(&broker);
        assert!(metrics.topics.is_empty());
        let removed = metrics.removed.as_ref().expect("it was counted");
        assert_eq!(removed.published, 4 * round);
        assert_eq!((removed.dispatched, removed.unrouted), (3 * round, round));
        assert_eq!(metrics.deliveries().delivered, 3 * round);
    }
}

#[test]
fn a_shutdown_drops_what_was_not_dispatched_and_cancels_what_was() {
    let (broker, _clock) = manual();
    let retaining = broker.topic::<u32>("retaining");
    let retaining = retaining.no_subscribers(NoSubscribers::Retain).open();
    let retaining = retaining.expect("opens");
    retaining.publish_batch(0..100).expect("there is room");
    let topic = broker.topic::<u32>("t").open().expect("opens");
    topic
        .publish_after(3_600 * 1_000 * MS, 9)
        .expect("there is room");
    let _subscription = topic
        .subscribe("s", |_| Err(Nack::retry("later")))
        .expect("subscribes");
    topic.publish(0).expect("there is room");
    broker.run_until_idle();
    let report = *broker
        .drain(Duration::ZERO)
        .expect_err("a retry and a delayed message are due much later")
        .report();
    assert_eq!((report.messages_dropped, report.cancelled), (101, 1));
    assert_eq!(report.remaining, 0);
    assert_eq!(messages(&retaining), "100 published, 100 dropped");
    assert_eq!(messages(&topic), "2 published, 1 dropped, 1 dispatched");
    assert_balanced(&broker);
}

#[test]
fn a_live_snapshot_never_shows_more_ends_than_beginnings() {
    const LOOKS: u32 = 30;
    let broker = threaded(2);
    let topic = broker.topic::<u32>("t").capacity(64);
    let topic = topic.overflow(Overflow::Block { timeout: HANG });
    let topic = topic.retry(Backoff::fixed(MS)).open().expect("opens");
    let _all = topic.subscribe("all", |_| Ok(())).expect("subscribes");
    let _flaky = topic
        .subscribe("flaky", |d| match d.payload() % 10 {
            0 if d.attempt() == 1 => Err(Nack::retry("not yet")),
            1 => Err(Nack::dead_letter("never")),
            _ => Ok(()),
        })
        .expect("subscribes");
    let until = Instant::now() + HANG;
    let published = std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            for _ in 0..LOOKS {
                for topic in &broker.metrics().topics {
                    assert_plausible(topic);
                }
            }
        });
        let mut published = 0;
        while !watcher.is_finished() {
            assert!(Instant::now() < until, "so many looks take no such time");
            for payload in 0..100 {
                topic.publish(payload).expect("room comes in time");
            }
            published += 100;
        }
        watcher.join().expect("every snapshot was plausible");
        published
    });
    let counts = assert_rests_balanced(&broker).deliveries();
    assert_eq!(counts.made, 2 * published);
    assert_eq!(counts.dead_lettered, published / 10);
}

#[test]
fn snapshots_under_load_balance_but_for_what_they_say_is_moving() {
    const LOOKS: usize = 3_000;
    // Looks take place more often without histograms to sum up.
    let broker = Broker::builder().workers(3).histograms(Histograms::Off);
    let broker = broker.build().expect("builds");
    let topic = broker.topic::<u32>("t").capacity(256).partitions(2);
    let topic = topic.overflow(Overflow::Block { timeout: HANG });
    let topic = topic
        .retry(Backoff::fixed(MS / 10).max_attempts(3))
        .open()
        .expect("opens");
    let flaky = |d: &Delivery<'_, u32>| match d.payload() % 10 {
        0 if d.attempt() == 1 => Err(Nack::retry("not yet")),
        1 => Err(Nack::dead_letter("never")),
        2 if d.attempt() < 9 => Err(Nack::retry("never in time")),
        _ => Ok(()),
    };
    let of = |name: &str, capacity| topic.subscription(name).capacity(capacity);
    let _each = of("each", 100).subscribe(flaky).expect("subscribes");
    let _batches = of("batches", 200)
        .subscribe_batches(Batched::of(50).linger(MS), |_| Ok(()))
        .expect("subscribes");
    let slots = of("slots", 50).concurrency(3).subscribe_shared(flaky);
    let _seats = slots.expect("subscribes");
    let keyed = of("keyed", 50)
        .on_failure(OnFailure::BlockKey)
        .subscribe(flaky);
    let _keyed = keyed.expect("subscribes");
    for (name, when_full) in [
        ("oldest", LaneFull::DropOldest),
        ("newest", LaneFull::DropNewest),
        ("letters", LaneFull::DeadLetter),
    ] {
        let lane = of(name, 5).when_full(when_full).subscribe(flaky);
        lane.expect("subscribes").detach();
    }
    let pull = of("pull", 50).pull(Pull::default().credits(8));
    let pull = pull.expect("subscribes");
    let is_over = AtomicBool::new(false);
    let widest = std::thread::scope(|scope| {
        for publisher in 0..3 {
            let (topic, is_over) = (&topic, &is_over);
            scope.spawn(move || {
                for round in 0.. {
                    if is_over.load(Ordering::Relaxed) {
                        return;
                    }
                    let key = format!("key-{}", round % 7);
                    let keyed = topic.message(3 * round + publisher).key(key);
                    keyed.publish().expect("room comes in time");
                    topic.publish_batch(round..round + 20).expect("in time");
                }
            });
        }
        for _ in 0..2 {
            let pull = pull.clone();
            scope.spawn(move || {
                for lease in &pull {
                    let _ = match *lease.payload() % 5 {
                        0 => lease.nack(Nack::retry("no")),
                        _ => lease.ack(),
                    };
                }
            });
        }
        scope.spawn(|| {
            for round in 0.. {
                if is_over.load(Ordering::Relaxed) {
                    return;
                }
                let come = of("come", 30).subscribe(flaky).expect("subscribes");
                let _ = topic
                    .dead_letters()
                    .redrive(|letter| letter.attempts() % 2 == 0);
                topic.dead_letters().purge(|_| true);
                let mode = match round % 3 {
                    0 => Unsubscribe::Cancel,
                    1 => Unsubscribe::DeadLetter,
                    _ => Unsubscribe::Drain { timeout: MS },
                };
                drop(come.unsubscribe(mode));
            }
        });
        let watcher = scope.spawn(|| {
            let mut widest = 0;
            for _ in 0..LOOKS {
                let metrics = assert_balanced(&broker);
                for topic in &metrics.topics {
                    let lanes = topic.subscriptions.iter().map(|lane| lane.moving);
                    widest = lanes.chain([topic.moving, widest]).max().unwrap_or(0);
                }
            }
            widest
        });
        let widest = watcher.join();
        // Whatever it has seen, the others are not waited for in vain.
        is_over.store(true, Ordering::Relaxed);
        drop(pull.unsubscribe(Unsubscribe::Cancel));
        widest.expect("every snapshot balances")
    });
    // Nobody moves more at once than a few batches.
    assert!(widest < 1_000, "{widest} were moving at once");
    let metrics = assert_rests_balanced(&broker);
    assert!(metrics.topics[0].dispatched > 0);
}

/// No end before its beginning, at no stage.
fn assert_plausible(topic: &TopicMetrics) {
    let out = topic.dropped + topic.unrouted + topic.dispatched;
    assert!(out <= topic.published, "{topic:#?}");
    for subscription in &topic.subscriptions {
        let counts = &subscription.counts;
        assert!(counts.made <= topic.dispatched, "{topic:#?}");
        assert!(counts.ended() <= counts.made, "{topic:#?}");
        assert!(
            counts.delivered + counts.failed + counts.requeued + counts.snoozed <= counts.attempts,
            "{topic:#?}"
        );
        assert!(
            counts.retried + counts.dead_lettered <= counts.failed,
            "{topic:#?}"
        );
        assert_eq!(counts.illegal, 0, "{topic:#?}");
    }
}

/// Something that can happen to a broker.
#[derive(Clone, Debug)]
enum Act {
    Publish(u32),
    PublishBatch(Vec<u32>),
    PublishAfter(u32, u64),
    Run,
    Advance(u64),
    Subscribe(usize, usize),
    Unsubscribe(usize, usize),
    SwapStrategy(usize),
    Flush,
    Redrive,
    Purge,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        6 => any::<u32>().prop_map(Act::Publish),
        4 => prop::collection::vec(any::<u32>(), 0..90).prop_map(Act::PublishBatch),
        1 => (any::<u32>(), 0..20_u64).prop_map(|(payload, ms)| Act::PublishAfter(payload, ms)),
        6 => Just(Act::Run),
        4 => (0..300_u64).prop_map(Act::Advance),
        2 => (0..3_usize, 0..4_usize).prop_map(|(at, policy)| Act::Subscribe(at, policy)),
        1 => (0..3_usize, 0..4_usize).prop_map(|(at, mode)| Act::Unsubscribe(at, mode)),
        1 => (0..3_usize).prop_map(Act::SwapStrategy),
        1 => Just(Act::Flush),
        1 => Just(Act::Redrive),
        1 => Just(Act::Purge),
    ];
    prop::collection::vec(act, 1..60)
}

/// A broker under test, with what it must be asked to keep alive.
struct World {
    broker: Broker,
    clock: ManualClock,
    topic: Topic<u32>,
    subscriptions: [Option<Subscription>; 3],
}

impl World {
    fn act(&mut self, act: &Act) {
        match act {
            Act::Publish(payload) => drop(self.topic.publish(*payload)),
            Act::PublishBatch(payloads) => drop(self.topic.publish_batch(payloads.clone())),
            Act::PublishAfter(payload, ms) => {
                drop(
                    self.topic
                        .publish_after(Duration::from_millis(*ms), *payload),
                );
            }
            Act::Run => drop(self.broker.run_until_idle()),
            Act::Advance(ms) => advance(&self.broker, &self.clock, Duration::from_millis(*ms)),
            Act::Subscribe(at, policy) => self.subscribe(*at, *policy),
            Act::Unsubscribe(at, mode) => self.unsubscribe(*at, *mode),
            Act::SwapStrategy(which) => {
                match which {
                    0 => self.topic.set_strategy(Immediate),
                    1 => self.topic.set_strategy(Batched::of(7).until_full()),
                    _ => self.topic.set_strategy(Batched::of(20).linger(10 * MS)),
                }
                .expect("all of them are valid");
            }
            Act::Flush => self.topic.flush(),
            Act::Redrive => drop(self.topic.dead_letters().redrive(|l| l.payload() % 2 == 0)),
            Act::Purge => drop(self.topic.dead_letters().purge(|l| l.payload() % 3 == 0)),
        }
    }

    fn subscribe(&mut self, at: usize, policy: usize) {
        if self.subscriptions[at].is_some() {
            return;
        }
        let policies = [
            LaneFull::Wait,
            LaneFull::DropOldest,
            LaneFull::DropNewest,
            LaneFull::DeadLetter,
        ];
        let name = ["a", "b", "c"][at];
        let builder = self.topic.subscription(name).capacity(10);
        let builder = builder.when_full(policies[policy]);
        let builder = match at {
            1 => builder.filter(|d| d.payload() % 5 != 0),
            _ => builder,
        };
        let subscription = if at == 2 {
            builder.subscribe_batches(Batched::of(5).linger(5 * MS), |batch| {
                for (at, delivery) in batch.iter().enumerate() {
                    if delivery.payload() % 3 == 0 {
                        batch.nack(at, Nack::retry("a third fails"));
                    }
                }
                Ok(())
            })
        } else {
            builder.subscribe(|d| match d.payload() % 8 {
                0 => Err(Nack::retry("always")),
                1 if d.attempt() == 1 => Err(Nack::retry_after(3 * MS, "once")),
                2 => Err(Nack::dead_letter("poison")),
                3 => Err(Nack::discard("whatever")),
                4 => Err(Nack::snooze(7 * MS, "until its time to live ends")),
                _ => Ok(()),
            })
        };
        self.subscriptions[at] = Some(subscription.expect("the name is free"));
    }

    fn unsubscribe(&mut self, at: usize, mode: usize) {
        let Some(subscription) = self.subscriptions[at].take() else {
            return;
        };
        match mode {
            0 => drop(subscription.unsubscribe(Unsubscribe::Cancel)),
            1 => drop(subscription.unsubscribe(Unsubscribe::DeadLetter)),
            2 => drop(subscription.unsubscribe(Unsubscribe::Drain { timeout: MS })),
            _ => {
                drop(subscription);
                self.broker.run_until_idle();
            }
        }
    }
}

/// How often each kind of event came, those of subscriptions apart from those
/// of topics.
type Told = Arc<Mutex<BTreeMap<(&'static str, bool), u64>>>;

fn told(told: &Told, name: &'static str, of_subscription: bool) -> u64 {
    let told = told.lock().expect("observers don't panic");
    told.get(&(name, of_subscription)).copied().unwrap_or(0)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn whatever_happens_the_books_balance_and_agree_with_the_events(
        acts in acts(),
        overflow in 0..3_usize,
        no_subscribers in 0..3_usize,
    ) {
        let clock = ManualClock::new();
        let builder = Broker::builder().workers(0).manual_clock(&clock);
        let broker = builder.event_buffer(1 << 16).build().expect("builds");
        let events = Told::default();
        let observation = broker.observe({
            let events = Arc::clone(&events);
            move |event| {
                let key = (event.name(), event.subscription().is_some());
                *events.lock().expect("observers don't panic").entry(key).or_default() += 1;
            }
        });
        let _observation = observation.expect("observes");
        let overflow = [Overflow::Reject, Overflow::DropOldest, Overflow::DropNewest][overflow];
        let policies = [NoSubscribers::Discard, NoSubscribers::Retain, NoSubscribers::Reject];
        let topic = broker
            .topic::<u32>("t")
            .capacity(50)
            .overflow(overflow)
            .no_subscribers(policies[no_subscribers])
            .dead_letter_capacity(20)
            .ttl(1_000 * MS)
            .open()
            .expect("opens");
        let mut world = World { broker, clock, topic, subscriptions: [None, None, None] };
        for act in &acts {
            world.act(act);
            let metrics = assert_balanced(&world.broker);
            prop_assert!(metrics.topics[0].queued <= 50, "{metrics:#?}");
        }
        let _ = world.broker.drain(Duration::ZERO);
        let metrics = assert_balanced(&world.broker);
        let counts = metrics.deliveries();
        prop_assert_eq!(counts.open(), 0);
        prop_assert_eq!(metrics.events_missed, 0);
        let topic = &metrics.topics[0];
        prop_assert_eq!(topic.queued, 0);
        let of_topic = |name| told(&events, name, false);
        let of_lane = |name| told(&events, name, true);
        prop_assert_eq!(of_topic("dropped"), topic.dropped);
        prop_assert_eq!(of_topic("unrouted"), topic.unrouted);
        prop_assert_eq!(of_lane("delivering"), counts.attempts);
        prop_assert_eq!(of_lane("delivered"), counts.delivered);
        prop_assert_eq!(of_lane("failed"), counts.failed);
        prop_assert_eq!(of_lane("retry_scheduled"), counts.retried);
        prop_assert_eq!(of_lane("snoozed"), counts.snoozed);
        prop_assert_eq!(of_lane("dead_letter"), counts.dead_lettered);
        prop_assert_eq!(of_lane("redriven"), counts.redriven);
        prop_assert_eq!(of_lane("filtered"), counts.filtered);
        prop_assert_eq!(of_lane("dropped"), counts.dropped);
        prop_assert_eq!(of_lane("expired"), counts.expired);
        prop_assert_eq!(of_lane("cancelled"), counts.cancelled);
        prop_assert_eq!(of_lane("letter_evicted"), topic.letters_evicted);
    }
}

#[test]
fn the_checker_finds_a_message_that_is_in_no_place_or_in_two() {
    let (broker, _clock) = manual();
    let topic = broker.topic::<u32>("t").open().expect("opens");
    let _reader = topic.subscribe("s", |_| Ok(())).expect("subscribes");
    topic.publish_batch(0..3).expect("there is room");
    broker.run_until_idle();
    let honest = assert_balanced(&broker);

    let mut lost = honest.clone();
    lost.topics[0].dispatched -= 1;
    let imbalance = lost.balance().expect_err("a message is nowhere");
    assert_eq!(
        imbalance.to_string(),
        "t: 3 messages in, but 2 accounted for"
    );

    let mut doubled = honest.clone();
    doubled.topics[0].subscriptions[0].counts.cancelled += 1;
    let imbalance = doubled.balance().expect_err("a delivery ended twice");
    assert_eq!(
        imbalance.to_string(),
        "t/s: 3 deliveries in, but 4 accounted for"
    );

    let mut illegal = honest;
    illegal.topics[0].ended.illegal += 1;
    assert!(illegal.balance().is_err());
    assert_balanced(&broker);
}

#[test]
fn totals_survive_a_drain_on_threads() {
    let broker = threaded(2);
    let topic = broker.topic::<u32>("t").open().expect("opens");
    let _reader = topic.subscribe("s", |_| Ok(())).expect("subscribes");
    let until = Instant::now() + HANG;
    for payload in 0..2_000 {
        while topic.publish(payload).is_err() {
            assert!(Instant::now() < until, "no room in all that time");
            std::thread::yield_now();
        }
    }
    let report = broker.drain(HANG).expect("everything is delivered in time");
    assert_eq!((report.published, report.delivered), (2_000, 2_000));
    let metrics = assert_balanced(&broker);
    assert_eq!(metrics.deliveries().delivered, 2_000);
}

/// A payload that says when it is being dropped, and then waits.
struct Clingy {
    dropping: mpsc::Sender<()>,
    go: Mutex<mpsc::Receiver<()>>,
}

impl Drop for Clingy {
    fn drop(&mut self) {
        let _ = self.dropping.send(());
        let go = self.go.lock().expect("no test panics in here");
        let _ = go.recv_timeout(HANG);
    }
}

/// A worker that has come halfway with two deliveries for which a lane has no
/// place any more: the letter of the first has taken the place of another, and what
/// that one was about clings. Meanwhile the lane has become empty. The others have
/// places for the two, and don't have them yet.
struct Halfway {
    broker: Broker,
    narrow: Subscription,
    _others: Vec<Subscription>,
    go: mpsc::Sender<()>,
}

impl Halfway {
    fn come(others: usize) -> Self {
        let broker = threaded(2);
        let topic = broker.topic("t").dead_letter_capacity(1);
        let topic = topic.open().expect("opens");
        let (handler, returns) = mpsc::channel::<()>();
        let narrow = topic.subscription("narrow").capacity(1);
        let narrow = narrow
            .when_full(LaneFull::DeadLetter)
            .subscribe(move |d: &Delivery<'_, Option<Clingy>>| {
                if d.payload().is_some() {
                    return Err(Nack::dead_letter("not this one"));
                }
                let _ = returns.recv_timeout(HANG);
                Ok(())
            })
            .expect("subscribes");
        let others = (0..others).map(|n| topic.subscribe(&format!("other-{n}"), |_| Ok(())));
        let others = others.map(|other| other.expect("subscribes")).collect();
        let (dropping, is_dropping) = mpsc::channel();
        let (go, goes) = mpsc::channel();
        let goes = Mutex::new(goes);
        let clingy = Clingy { dropping, go: goes };
        topic.publish(Some(clingy)).expect("there is room");
        assert_rests_balanced(&broker);
        topic.publish(None).expect("there is room");
        wait_for(|| narrow.metrics().counts.in_flight == 1);
        topic.publish_batch([None, None]).expect("there is room");
        is_dropping.recv_timeout(HANG).expect("the letter goes");
        handler.send(()).expect("it waits");
        wait_for(|| narrow.metrics().counts.in_flight == 0);
        Self {
            broker,
            narrow,
            _others: others,
            go,
        }
    }
}

fn wait_for(done: impl Fn() -> bool) {
    let deadline = Instant::now() + HANG;
    while !done() {
        assert!(Instant::now() < deadline, "it never came to that");
        std::thread::yield_now();
    }
}

#[test]
fn a_dropped_broker_leaves_the_counts_to_the_handles_of_its_topics() {
    let broker = threaded(2);
    let topic = broker.topic::<u32>("t").open().expect("opens");
    let done = topic.subscribe("done", |_| Ok(())).expect("subscribes");
    topic.publish_batch(0..3).expect("there is room");
    assert_rests_balanced(&broker);
    let (handler, returns) = mpsc::channel::<()>();
    let busy = topic.subscribe("busy", move |_| {
        let _ = returns.recv_timeout(HANG);
        Ok(())
    });
    let busy = busy.expect("subscribes");
    topic.publish(3).expect("there is room");
    wait_for(|| busy.metrics().counts.in_flight == 1);
    wait_for(|| done.metrics().counts.delivered == 4);
    drop(broker);
    topic.metrics().balance().expect("one is in flight");
    handler.send(()).expect("it waits");
    wait_for(|| busy.has_ended());
    assert_eq!(messages(&topic), "4 published, 4 dispatched");
    assert_eq!(
        say(&ends(&topic.metrics().ended)),
        "5 made, 5 attempts, 5 delivered"
    );
}

#[test]
fn what_finds_no_place_is_counted_as_a_whole_when_its_subscription_ends() {
    let halfway = Halfway::come(0);
    let last = match halfway.narrow.unsubscribe(Unsubscribe::Cancel) {
        millstream::Unsubscribed::Ended(last) => last,
        other => panic!("outside of a handler it waits, but: {other:?}"),
    };
    assert_eq!(
        deliveries(&last),
        "4 made, 2 attempts, 1 failed, 1 delivered, 3 dead-lettered"
    );
    halfway.go.send(()).expect("it waits");
    let metrics = assert_rests_balanced(&halfway.broker);
    assert_eq!(metrics.deliveries(), last.counts);
}

#[test]
fn a_topic_is_not_at_rest_while_it_counts_what_found_no_place() {
    let halfway = Halfway::come(0);
    assert!(!halfway.broker.wait_until_idle(10 * MS));
    halfway.go.send(()).expect("it waits");
    assert_rests_balanced(&halfway.broker);
}

#[test]
fn what_a_worker_hands_on_after_the_end_ends_all_the_same() {
    let halfway = Halfway::come(3);
    let drained = halfway.broker.drain(Duration::ZERO);
    let report = *drained.expect_err("a worker is on its way").report();
    assert_eq!(report.remaining, 2, "{report}");
    halfway.go.send(()).expect("it waits");
    wait_for(|| halfway.broker.metrics().deliveries().cancelled == 6);
    assert_balanced(&halfway.broker);
}

/// The same on the caller's threads: one that runs the engine has come halfway when
/// another drains it.
#[test]
fn what_a_thread_hands_on_after_the_end_of_a_manual_broker_ends_all_the_same() {
    let (broker, _clock) = manual();
    let topic = broker.topic::<Option<Clingy>>("t").dead_letter_capacity(1);
    let topic = topic.open().expect("opens");
    let narrow = topic.subscription("narrow").capacity(1);
    let narrow = narrow.when_full(LaneFull::DeadLetter);
    let reject = |delivery: &Delivery<'_, Option<Clingy>>| match delivery.payload() {
        Some(_) => Err(Nack::dead_letter("not this one")),
        None => Ok(()),
    };
    narrow.subscribe(reject).expect("subscribes").detach();
    let captured = Arc::new(());
    for name in ["a", "b", "c"] {
        let captured = Arc::clone(&captured);
        let handler = move |_: &Delivery<'_, _>| {
            let _ = &captured;
            Ok(())
        };
        topic.subscribe(name, handler).expect("subscribes").detach();
    }
    let (dropping, is_dropping) = mpsc::channel();
    let (go, goes) = mpsc::channel();
    let go_on = Mutex::new(goes);
    let clingy = Clingy {
        dropping,
        go: go_on,
    };
    topic.publish(Some(clingy)).expect("there is room");
    broker.run_until_idle();
    topic.publish_batch([None, None]).expect("there is room");
    let runner = broker.clone();
    let runner = std::thread::spawn(move || runner.run_until_idle());
    is_dropping.recv_timeout(HANG).expect("the letter goes");
    let drained = broker.drain(Duration::ZERO);
    assert!(drained.is_err(), "the other thread is on its way");
    go.send(()).expect("it waits");
    runner.join().expect("it did not panic");
    assert_balanced(&broker);
    assert_eq!(broker.metrics().deliveries().open(), 0);
    drop((broker, topic));
    assert_eq!(Arc::strong_count(&captured), 1, "all handlers have gone");
}
