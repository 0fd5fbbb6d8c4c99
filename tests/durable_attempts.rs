//! Attempts, dead letters and parked keys of durable subscriptions outlive the process.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use millstream::store::{Raw, Start, Store};
use millstream::{
    Backoff, Batched, Broker, DeadReason, Delivery, Message, Nack, OnExhausted, OnFailure, Pull,
    Subscription, Topic,
};
use parking_lot::Mutex;

const LATER: Duration = Duration::from_secs(3_600);

/// A directory of a test's own, which goes with it.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("durable-attempts-{}-{number}", std::process::id());
        Self(PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name))
    }

    fn open(&self) -> (Broker, Topic<String>) {
        let store = Store::open(&self.0).expect("it opens");
        let broker = Broker::builder().workers(0).store(store).build();
        let broker = broker.expect("it builds");
        let topic = broker.topic::<String>("notes").durable(Raw);
        let topic = topic.retry(Backoff::fixed(LATER).max_attempts(3));
        let topic = topic.open().expect("it opens");
        (broker, topic)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The payload, the attempt, and whether it was redelivered, in the order of the calls.
type Seen = Arc<Mutex<Vec<(String, u32, bool)>>>;

fn note(seen: &Seen, delivery: &Delivery<'_, String>) -> Result<(), Nack> {
    let payload = delivery.payload().clone();
    let is_bad = payload.starts_with("bad");
    let call = (payload, delivery.attempt(), delivery.is_redelivered());
    seen.lock().push(call);
    match is_bad {
        true => Err(Nack::retry("bad")),
        false => Ok(()),
    }
}

fn texts<const N: usize>(texts: [&str; N]) -> [String; N] {
    texts.map(String::from)
}

/// Runs a durable subscription in three processes, one after the other. Each fails once. Checks that
/// the attempts are counted on, and that the last one makes a letter.
fn counts_on<S>(subscribe: impl Fn(&Topic<String>, Seen) -> S, run: impl Fn(&Broker, &S)) {
    let directory = Directory::new();
    for attempt in 1..=4 {
        let (broker, topic) = directory.open();
        let seen = Seen::default();
        let subscription = subscribe(&topic, Arc::clone(&seen));
        if attempt == 1 {
            let all = texts(["1", "bad", "3"]);
            topic.publish_batch(all).expect("stored");
        }
        run(&broker, &subscription);
        let bad = ("bad".to_owned(), attempt, attempt > 1);
        let mut calls = std::mem::take(&mut *seen.lock());
        calls.sort();
        match attempt {
            1 => assert_eq!(
                calls,
                [("1".to_owned(), 1, false), ("3".to_owned(), 1, false), bad]
            ),
            2 | 3 => assert_eq!(calls, [bad]),
            _ => assert_eq!(calls, []),
        }
        let letters = topic.dead_letters().list();
        assert_eq!(letters.len(), usize::from(attempt > 2), "after {attempt}");
        for letter in &letters {
            assert_eq!(
                (letter.attempts(), letter.reason()),
                (3, DeadReason::Exhausted)
            );
        }
        broker.metrics().balance().expect("balanced");
    }
}

fn run(broker: &Broker, _: &Subscription) {
    broker.run_until_idle();
}

#[test]
fn attempts_are_counted_over_all_processes_until_the_limit() {
    counts_on(
        |topic, seen| {
            let all = topic.subscription("all").durable();
            all.subscribe(move |text| note(&seen, text))
                .expect("subscribed")
        },
        run,
    );
}

#[test]
fn attempts_are_counted_over_all_processes_where_keys_keep_their_order() {
    for on_failure in [OnFailure::BlockKey, OnFailure::Reorder] {
        counts_on(
            |topic, seen| {
                let all = topic.subscription("all").durable().on_failure(on_failure);
                let all = all.concurrency(if on_failure == OnFailure::Reorder {
                    2
                } else {
                    1
                });
                all.subscribe_shared(move |text| note(&seen, text))
                    .expect("subscribed")
            },
            run,
        );
    }
}

#[test]
fn attempts_of_batches_are_counted_over_all_processes() {
    counts_on(
        |topic, seen| {
            let all = topic.subscription("all").durable();
            let all = all.subscribe_batches(Batched::of(1), move |batch| {
                for (at, text) in batch.iter().enumerate() {
                    if let Err(nack) = note(&seen, &text) {
                        batch.nack(at, nack);
                    }
                }
                Ok(())
            });
            all.expect("subscribed")
        },
        run,
    );
}

#[test]
fn attempts_of_leases_are_counted_over_all_processes() {
    counts_on(
        |topic, seen| {
            let all = topic.subscription("all").durable();
            (all.pull(Pull::default()).expect("subscribed"), seen)
        },
        |broker, (all, seen)| {
            broker.run_until_idle();
            while let Ok(lease) = all.try_recv() {
                let settled = match note(seen, &lease.delivery()) {
                    Ok(()) => lease.ack(),
                    Err(nack) => lease.nack(nack),
                };
                settled.expect("held");
                broker.run_until_idle();
            }
        },
    );
}

#[test]
fn a_redriven_letter_begins_anew_though_it_was_counted_on() {
    let directory = Directory::new();
    for process in 1..=3 {
        let (broker, topic) = directory.open();
        let seen = Seen::default();
        let _all = topic.subscription("all").durable().subscribe({
            let seen = Arc::clone(&seen);
            move |text| note(&seen, text)
        });
        if process == 1 {
            topic.publish("bad".to_owned()).expect("stored");
        }
        broker.run_until_idle();
        if process == 3 {
            seen.lock().clear();
            assert_eq!(topic.dead_letters().redrive(|_| true).redriven, 1);
            broker.run_until_idle();
            assert_eq!(*seen.lock(), [("bad".to_owned(), 1, true)]);
        }
    }
}

#[test]
fn only_what_a_subscription_may_have_had_is_redelivered() {
    let directory = Directory::new();
    let (broker, topic) = directory.open();
    let seen = Seen::default();
    let subscribe = |topic: &Topic<String>| {
        let seen = Arc::clone(&seen);
        let all = topic.subscription("all").durable().from(Start::Earliest);
        all.subscribe(move |text| note(&seen, text))
            .expect("subscribed")
    };
    topic.publish("before it came".to_owned()).expect("stored");
    drop(subscribe(&topic));
    drop((broker, topic));

    let (broker, topic) = directory.open();
    topic.publish("in this process".to_owned()).expect("stored");
    let all = subscribe(&topic);
    topic.publish("to it".to_owned()).expect("stored");
    broker.run_until_idle();
    let expected = [
        ("before it came".to_owned(), 1, true),
        ("in this process".to_owned(), 1, false),
        ("to it".to_owned(), 1, false),
    ];
    assert_eq!(*seen.lock(), expected);
    drop(all);
}

#[test]
fn parked_keys_are_parked_again_so_nothing_overtakes_their_letters() {
    let directory = Directory::new();
    let parking = |topic: &Topic<String>, seen: &Seen| {
        let seen = Arc::clone(seen);
        let all = topic.subscription("all").durable();
        let all = all.on_failure(OnFailure::BlockKey);
        let all = all.on_exhausted(OnExhausted::ParkKey);
        let all = all.retry(Backoff::fixed(LATER).max_attempts(1));
        let all = all.subscribe(move |text| match text.generation() {
            0 => note(&seen, text),
            _ => {
                let payload = text.payload().clone();
                seen.lock().push((payload, text.attempt(), true));
                Ok(())
            }
        });
        all.expect("subscribed")
    };
    let publish = |topic: &Topic<String>, texts: [&str; 2]| {
        let messages = texts.map(|text| Message::new(text.to_owned()).key("ada"));
        topic.publish_messages(messages).expect("stored");
        let other = topic.message("other".to_owned()).key("bob");
        other.publish().expect("stored");
    };
    let calls = |seen: &Seen| -> Vec<String> {
        let calls = std::mem::take(&mut *seen.lock());
        calls.into_iter().map(|(payload, ..)| payload).collect()
    };
    let seen = Seen::default();
    let (broker, topic) = directory.open();
    let all = parking(&topic, &seen);
    publish(&topic, ["bad 1", "2"]);
    broker.run_until_idle();
    assert_eq!(calls(&seen), ["bad 1", "other"]);
    drop((all, broker, topic));

    let (broker, topic) = directory.open();
    publish(&topic, ["3", "4"]);
    let all = parking(&topic, &seen);
    assert_eq!(all.metrics().parked_keys, 1);
    publish(&topic, ["5", "6"]);
    broker.run_until_idle();
    assert_eq!(calls(&seen), ["other", "other"]);
    drop((all, broker, topic));

    let (broker, topic) = directory.open();
    let _all = parking(&topic, &seen);
    broker.run_until_idle();
    assert_eq!(topic.dead_letters().len(), 6);
    assert_eq!(topic.dead_letters().redrive(|_| true).redriven, 6);
    broker.run_until_idle();
    assert_eq!(calls(&seen), ["bad 1", "2", "3", "4", "5", "6"]);
    broker.metrics().balance().expect("balanced");
}
