//! Promise 6, order: for each subscription first attempts start in the order in
//! which the topic accepted the messages, through strategy swaps, through lanes
//! that fill and empty, whether published singly or in chunks. With several
//! publishers each one's own order is kept. After a failure later messages may
//! pass, but first attempts stay in order.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::harness::{
    HANG, Log, advance, assert_balanced, assert_rests_balanced, manual, threaded,
};
use millstream::{
    Backoff, Batched, Immediate, LaneFull, Nack, NoSubscribers, Overflow, Subscription, Topic,
};
use proptest::prelude::*;

const MS: Duration = Duration::from_millis(1);

/// Writes down the ids of first attempts.
fn firsts<T: Send + Sync + 'static>(topic: &Topic<T>, name: &str) -> (Log<u64>, Subscription) {
    let log = Log::new();
    let subscribed = topic.subscribe(name, {
        let log = log.clone();
        move |d| {
            log.push(d.id().get());
            Ok(())
        }
    });
    (log, subscribed.expect("subscribes"))
}

#[test]
fn ids_are_the_accept_order_without_gaps() {
    let (broker, _clock) = manual();
    let topic = broker
        .topic::<u32>("t")
        .capacity(100)
        .open()
        .expect("opens");
    let (log, _reader) = firsts(&topic, "s");
    assert_eq!(topic.publish(0).expect("there is room").id().get(), 1);
    let receipt = topic.publish_batch(0..70).expect("there is room");
    let range = (receipt.first().expect("70"), receipt.last().expect("70"));
    assert_eq!((range.0.get(), range.1.get()), (2, 71));
    assert_eq!(topic.publish(0).expect("there is room").id().get(), 72);
    broker.run_until_idle();
    assert_eq!(log.take(), (1..=72).collect::<Vec<_>>());
    assert_balanced(&broker);
}

#[test]
fn a_message_refused_takes_no_number() {
    let (broker, _clock) = manual();
    let topic = broker.topic::<u32>("t").capacity(2).open().expect("opens");
    let (log, _reader) = firsts(&topic, "s");
    for payload in 0..4 {
        let _ = topic.publish(payload);
    }
    broker.run_until_idle();
    topic.publish(4).expect("there is room");
    broker.run_until_idle();
    assert_eq!(log.take(), [1, 2, 3]);
    assert_balanced(&broker);
}

#[test]
fn chunks_and_singles_keep_their_places() {
    let (broker, _clock) = manual();
    let topic = broker.topic::<u32>("t").open().expect("opens");
    let (log, _reader) = firsts(&topic, "s");
    for round in 0..10 {
        topic.publish(0).expect("there is room");
        topic.publish_batch(0..round).expect("there is room");
        topic.message(0).key("k").publish().expect("there is room");
        topic.publish_batch([0]).expect("there is room");
    }
    let accepted = topic.metrics().published;
    broker.run_until_idle();
    assert_eq!(log.take(), (1..=accepted).collect::<Vec<_>>());
    assert_balanced(&broker);
}

#[test]
fn lanes_that_fill_and_empty_at_different_times_each_keep_the_order() {
    let (broker, clock) = manual();
    let topic = broker
        .topic::<u32>("t")
        .capacity(500)
        .open()
        .expect("opens");
    let (wide, _wide) = firsts(&topic, "wide");
    let narrow = Log::new();
    let _narrow = topic
        .subscription("narrow")
        .capacity(3)
        .subscribe({
            let narrow = narrow.clone();
            move |d| {
                if d.attempt() > 1 {
                    return Ok(());
                }
                narrow.push(d.id().get());
                match d.payload() % 4 {
                    0 => Err(Nack::retry_after(5 * MS, "holds its place")),
                    _ => Ok(()),
                }
            }
        })
        .expect("subscribes");
    for payload in 0..100 {
        topic.publish(payload).expect("there is room");
    }
    topic.publish_batch(0..200).expect("there is room");
    while assert_balanced(&broker).deliveries().delivered < 2 * 300 {
        advance(&broker, &clock, MS);
        assert!(clock.elapsed() < HANG, "stuck:\n{}", broker.metrics());
    }
    let all: Vec<_> = (1..=300).collect();
    assert_eq!(wide.take(), all);
    assert_eq!(narrow.take(), all);
    assert_balanced(&broker);
}

#[test]
fn after_a_failure_later_messages_pass_but_first_attempts_stay_in_order() {
    let (broker, clock) = manual();
    let topic = broker
        .topic::<u32>("t")
        .retry(Backoff::fixed(5 * MS))
        .open();
    let topic = topic.expect("opens");
    let log = Log::new();
    let _flaky = topic
        .subscribe("s", {
            let log = log.clone();
            move |d| {
                log.push((d.id().get(), d.attempt()));
                match d.payload() % 3 {
                    0 if d.attempt() == 1 => Err(Nack::retry("not yet")),
                    _ => Ok(()),
                }
            }
        })
        .expect("subscribes");
    topic.publish_batch(0..6).expect("there is room");
    broker.run_until_idle();
    topic.publish_batch(1..3).expect("there is room");
    advance(&broker, &clock, 5 * MS);
    let calls = log.take();
    let firsts: Vec<_> = calls.iter().filter(|(_, attempt)| *attempt == 1).collect();
    assert!(firsts.is_sorted(), "{calls:?}");
    assert_eq!(firsts.len(), 8);
    let passed = calls.iter().position(|call| *call == (6, 1));
    let retried = calls.iter().position(|call| *call == (1, 2));
    assert!(passed < retried && retried.is_some(), "{calls:?}");
    assert_balanced(&broker);
}

#[test]
fn retries_come_back_in_the_order_of_their_deadlines() {
    let (broker, clock) = manual();
    let topic = broker.topic::<u64>("t").open().expect("opens");
    let log = Log::new();
    let _asking = topic
        .subscribe("s", {
            let log = log.clone();
            move |d| match d.attempt() {
                1 => Err(Nack::retry_after(
                    Duration::from_millis(*d.payload()),
                    "then",
                )),
                _ => {
                    log.push(*d.payload());
                    Ok(())
                }
            }
        })
        .expect("subscribes");
    let delays = [900, 3, 50, 7_000, 1, 10, 400, 60_000, 51, 2];
    topic.publish_batch(delays).expect("there is room");
    broker.run_until_idle();
    advance(&broker, &clock, 100_000 * MS);
    let mut expected = delays;
    expected.sort_unstable();
    assert_eq!(log.take(), expected);
    assert_balanced(&broker);
}

#[test]
fn retained_messages_keep_the_order_ahead_of_those_published_later() {
    let (broker, _clock) = manual();
    let topic = broker
        .topic::<u32>("t")
        .no_subscribers(NoSubscribers::Retain);
    let topic = topic.open().expect("opens");
    topic.publish_batch(0..100).expect("there is room");
    topic.publish(0).expect("there is room");
    broker.run_until_idle();
    let (log, _reader) = firsts(&topic, "s");
    topic.publish(0).expect("there is room");
    topic.publish_batch(0..10).expect("there is room");
    broker.run_until_idle();
    assert_eq!(log.take(), (1..=112).collect::<Vec<_>>());
    assert_balanced(&broker);
}

#[test]
fn overflow_leaves_gaps_and_never_swaps_places() {
    let (broker, _clock) = manual();
    for overflow in [Overflow::DropOldest, Overflow::DropNewest] {
        let name = format!("{overflow:?}");
        let topic = broker.topic::<u32>(&name).capacity(10).overflow(overflow);
        let topic = topic.open().expect("opens");
        let (log, _reader) = firsts(&topic, "s");
        for round in 0..20 {
            topic.publish_batch(0..7).expect("some go");
            topic.publish(0).expect("one goes");
            if round % 3 == 0 {
                broker.run_until_idle();
            }
        }
        broker.run_until_idle();
        let seen = log.take();
        assert!(seen.len() > 60, "{overflow:?}: {seen:?}");
        assert!(seen.is_sorted_by(|a, b| a < b), "{overflow:?}: {seen:?}");
    }
    assert_balanced(&broker);
}

/// Something that could upset the order.
#[derive(Clone, Debug)]
enum Act {
    Single,
    Chunk(u32),
    Run,
    Advance(u64),
    Immediate,
    Batched(usize, u64),
    UntilFull(usize),
    Flush,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        8 => Just(Act::Single),
        3 => (1..100_u32).prop_map(Act::Chunk),
        4 => Just(Act::Run),
        3 => (0..12_u64).prop_map(Act::Advance),
        1 => Just(Act::Immediate),
        2 => (1..40_usize, 0..8_u64).prop_map(|(size, ms)| Act::Batched(size, ms)),
        1 => (1..40_usize).prop_map(Act::UntilFull),
        1 => Just(Act::Flush),
    ];
    prop::collection::vec(act, 1..80)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn no_sequence_of_swaps_flushes_and_chunks_upsets_the_order(acts in acts()) {
        let (broker, clock) = manual();
        let topic = broker.topic::<u32>("t").capacity(200).open().expect("opens");
        let (wide, _wide) = firsts(&topic, "wide");
        let (narrow, batches) = (Log::new(), Log::new());
        let _narrow = topic.subscription("narrow").capacity(5).subscribe({
            let narrow = narrow.clone();
            move |d| {
                if d.attempt() > 1 {
                    return Ok(());
                }
                narrow.push(d.id().get());
                match d.id().get() % 3 {
                    0 => Err(Nack::retry_after(2 * MS, "holds its place")),
                    _ => Ok(()),
                }
            }
        }).expect("subscribes");
        let batch = Batched::of(9).linger(MS);
        let _batches = topic.subscription("batches").subscribe_batches(batch, {
            let batches = batches.clone();
            move |batch| {
                batch.iter().for_each(|d| batches.push(d.id().get()));
                Ok(())
            }
        }).expect("subscribes");
        for act in &acts {
            match act {
                Act::Single => drop(topic.publish(0)),
                Act::Chunk(size) => drop(topic.publish_batch(0..*size)),
                Act::Run => drop(broker.run_until_idle()),
                Act::Advance(ms) => advance(&broker, &clock, Duration::from_millis(*ms)),
                Act::Immediate => topic.set_strategy(Immediate).expect("valid"),
                Act::Batched(size, ms) => topic
                    .set_strategy(Batched::of(*size).linger(Duration::from_millis(*ms)))
                    .expect("valid"),
                Act::UntilFull(size) => topic
                    .set_strategy(Batched::of(*size).until_full())
                    .expect("valid"),
                Act::Flush => topic.flush(),
            }
        }
        topic.set_strategy(Immediate).expect("valid");
        let accepted = topic.metrics().published;
        for _ in 0..1_000 {
            advance(&broker, &clock, 2 * MS);
        }
        let all: Vec<_> = (1..=accepted).collect();
        prop_assert_eq!(wide.take(), all.clone());
        prop_assert_eq!(narrow.take(), all.clone());
        prop_assert_eq!(batches.take(), all);
        assert_balanced(&broker);
    }
}

#[test]
fn each_publishers_order_is_kept_on_threads_through_swaps_and_full_lanes() {
    const PUBLISHERS: u32 = 4;
    const EACH: u32 = 2_000;
    let broker = threaded(2);
    let topic = broker.topic::<(u32, u32)>("t").capacity(64);
    let topic = topic.overflow(Overflow::Block { timeout: HANG });
    let topic = topic.open().expect("opens");
    let logs = ["wide", "narrow"].map(|name| {
        let log = Log::new();
        let capacity = if name == "narrow" { 5 } else { 1_024 };
        let builder = topic.subscription(name).capacity(capacity);
        let subscribed = builder.when_full(LaneFull::Wait).subscribe({
            let log = log.clone();
            move |d| {
                log.push((d.id().get(), *d.payload()));
                Ok(())
            }
        });
        (log, subscribed.expect("subscribes"))
    });
    let done = Arc::new(AtomicBool::new(false));
    let until = Instant::now() + HANG;
    std::thread::scope(|scope| {
        let swapper = scope.spawn(|| {
            for round in 0_u32.. {
                if done.load(Ordering::Relaxed) || Instant::now() > until {
                    return;
                }
                let swapped = match round % 3 {
                    0 => topic.set_strategy(Batched::of(10).linger(MS)),
                    1 => topic.set_strategy(Immediate),
                    _ => topic.set_strategy(Batched::of(40).until_full()),
                };
                swapped.expect("valid");
                std::thread::yield_now();
            }
        });
        let publishers: Vec<_> = (0..PUBLISHERS)
            .map(|publisher| {
                let topic = &topic;
                scope.spawn(move || {
                    let mut number = 0;
                    while number < EACH {
                        // Singles and chunks in turn.
                        let end = (number + 1 + number % 7).min(EACH);
                        let chunk = (number..end).map(|number| (publisher, number));
                        if number % 2 == 0 {
                            topic.publish_batch(chunk).expect("room comes in time");
                        } else {
                            for payload in chunk {
                                topic.publish(payload).expect("room comes in time");
                            }
                        }
                        number = end;
                    }
                })
            })
            .collect();
        for publisher in publishers {
            publisher.join().expect("it published all it has");
        }
        done.store(true, Ordering::Relaxed);
        swapper.join().expect("it only swaps");
    });
    topic.set_strategy(Immediate).expect("valid");
    assert_rests_balanced(&broker);
    for (log, _subscription) in &logs {
        let seen = log.take();
        assert_eq!(seen.len() as u32, PUBLISHERS * EACH);
        let mut next = [0; PUBLISHERS as usize];
        for (_, (publisher, number)) in &seen {
            let expected = &mut next[*publisher as usize];
            assert_eq!(number, expected, "of publisher {publisher}");
            *expected += 1;
        }
    }
}

#[test]
fn one_publishers_ids_are_delivered_in_order_on_threads() {
    let broker = threaded(2);
    let topic = broker.topic::<u32>("t").capacity(16);
    let topic = topic.overflow(Overflow::Block { timeout: HANG });
    let topic = topic.open().expect("opens");
    let (log, _reader) = firsts(&topic, "s");
    for payload in 0..10_000 {
        topic.publish(payload).expect("room comes in time");
    }
    assert_rests_balanced(&broker);
    assert_eq!(log.take(), (1..=10_000).collect::<Vec<_>>());
}

#[test]
fn a_bottleneck_takes_nothing_from_its_neighbors() {
    const LETTERS: usize = 300;
    let broker = threaded(2);
    let overflow = Overflow::Block { timeout: HANG };
    let topic = broker.topic("t").overflow(overflow).open().unwrap();
    let partial = Arc::new(AtomicU64::new(0));
    let partials = Arc::clone(&partial);
    let full = topic.subscription("full").capacity(64);
    let full = full.subscribe_batches(Batched::of(64).until_full(), move |batch| {
        partials.fetch_add(u64::from(batch.len() < 64), Ordering::Relaxed);
        Ok(())
    });
    let _full = full.unwrap();
    let progress = Arc::new(AtomicU64::new(0));
    let reached = Arc::clone(&progress);
    let fails = topic
        .subscription("fails")
        .capacity(1_024)
        .subscribe(move |delivery| {
            reached.fetch_max(delivery.id().get(), Ordering::Relaxed);
            if *delivery.payload() == 0 {
                return Err(Nack::dead_letter("again and again"));
            }
            Ok(())
        });
    let _fails = fails.unwrap();
    let _narrow = topic
        .subscription("narrow")
        .capacity(1)
        .subscribe(move |delivery| {
            // Never far ahead of "fails", whose lane could be full in earnest then.
            while progress.load(Ordering::Relaxed) + 64 < delivery.id().get() {
                std::thread::yield_now();
            }
            Ok(())
        })
        .unwrap();
    let (mut redriven, mut no_room) = (0, 0);
    for _ in 0..LETTERS {
        topic.publish_batch(0..64_u64).unwrap();
        let redrive = topic.dead_letters().redrive(|_| true);
        redriven += redrive.redriven;
        no_room += redrive.no_room;
    }
    assert_rests_balanced(&broker);
    assert_eq!(
        (partial.load(Ordering::Relaxed), no_room),
        (0, 0),
        "{redriven}"
    );
}
