//! Leases that are taken at once: acked together, all or none; taken out of their batch and
//! settled by themselves; and whatever becomes of one, its neighbors are as if they had been
//! leased one by one.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use crate::harness::{
    HANG, HOUR, Log, advance, assert_balanced, assert_rests_balanced, manual, threaded,
};
use millstream::error::{StaleError, TryRecvError};
use millstream::event::EventKind;
use millstream::pull::LeaseBatch;
use millstream::{
    Backoff, Broker, Lease, ManualClock, Nack, OnFailure, Pull, PullSubscription, Topic,
    Unsubscribe,
};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

fn open(broker: &Broker) -> Topic<u32> {
    let retry = Backoff::fixed(10 * MS).max_attempts(2);
    broker.topic("jobs").retry(retry).open().expect("opens")
}

fn pull_with(topic: &Topic<u32>, settings: Pull) -> PullSubscription<u32> {
    let settings = settings.ack_deadline(SECOND);
    let worker = topic.subscription("worker").pull(settings);
    worker.expect("subscribes")
}

/// A manual broker with a few messages for one pull subscription.
fn pulled(messages: u32) -> (Broker, ManualClock, Topic<u32>, PullSubscription<u32>) {
    let (broker, clock) = manual();
    let topic = open(&broker);
    let worker = pull_with(&topic, Pull::default());
    topic.publish_batch(1..=messages).expect("there is room");
    (broker, clock, topic, worker)
}

/// All there is now.
fn take(worker: &PullSubscription<u32>) -> LeaseBatch<u32> {
    let batch = worker.recv_batch(usize::MAX, Duration::ZERO);
    batch.expect("there is something")
}

fn payloads(batch: &LeaseBatch<u32>) -> Vec<u32> {
    batch.iter().map(|delivery| *delivery.payload()).collect()
}

fn payload_of(lease: &Lease<u32>) -> u32 {
    *lease.payload()
}

#[test]
fn what_is_acked_together_is_delivered_once() {
    let (broker, clock, topic, worker) = pulled(40);
    // Of several batches, and of messages that have come singly.
    for number in 41..=50 {
        topic.publish(number).expect("there is room");
        broker.run_until_idle();
    }
    let batch = take(&worker);
    assert_eq!(batch.len(), 50);
    assert!(payloads(&batch).into_iter().eq(1..=50));
    assert_eq!(worker.metrics().leased, 50);
    clock.advance(5 * MS);
    assert_eq!(batch.remaining(), SECOND - 5 * MS);
    assert_eq!(batch.ack_all(), Ok(()));
    let metrics = worker.metrics();
    assert_eq!((metrics.leased, metrics.counts.delivered), (0, 50));
    assert_eq!((metrics.stale, metrics.counts.failed), (0, 0));
    let times = [metrics.handler, metrics.end_to_end, metrics.queue_wait];
    assert_eq!(times.map(|times| times.count), [50; 3]);
    let held = metrics.handler.p50;
    assert!(held.abs_diff(5 * MS) < MS, "each was out for {held:?}");
    assert_eq!(broker.next_deadline(), None, "the alarm is silent");
    assert_eq!(worker.try_recv().err(), Some(TryRecvError::Empty));
    assert_balanced(&broker);
}

#[test]
fn observers_hear_of_each_that_is_acked_with_others() {
    let (broker, _clock) = manual();
    let topic = open(&broker);
    let worker = pull_with(&topic, Pull::default());
    let log = Log::new();
    let heard = log.clone();
    let observing = broker.observe(move |event| match event.kind() {
        EventKind::Delivering | EventKind::Delivered => {
            heard.push((event.kind().as_str(), event.id().map(|id| id.get())));
        }
        _ => {}
    });
    let _observation = observing.expect("the broker is open");
    topic.publish_batch([7, 8]).expect("there is room");
    take(&worker).ack_all().expect("in time");
    broker.run_until_idle();
    let each = [
        ("delivering", Some(1)),
        ("delivering", Some(2)),
        ("delivered", Some(1)),
        ("delivered", Some(2)),
    ];
    assert_eq!(log.take(), each);
    assert_balanced(&broker);
}

#[test]
fn a_batch_that_is_late_is_stale_as_a_whole_and_each_of_it_is_told() {
    let (broker, clock, _topic, worker) = pulled(3);
    let log = Log::new();
    let heard = log.clone();
    let observing = broker.observe(move |event| {
        if matches!(event.kind(), EventKind::StaleSettlement) {
            heard.push(event.id().map(|id| id.get()));
        }
    });
    let _observation = observing.expect("the broker is open");
    let batch = take(&worker);
    // Nobody has noticed yet.
    clock.advance(SECOND);
    assert_eq!(batch.remaining(), Duration::ZERO);
    assert_eq!(batch.ack_all(), Err(StaleError));
    broker.run_until_idle();
    assert_eq!(log.take(), [Some(1), Some(2), Some(3)]);
    let metrics = worker.metrics();
    assert_eq!((metrics.stale, metrics.timed_out), (3, 3));
    assert_eq!(metrics.counts.delivered, 0);
    advance(&broker, &clock, 10 * MS);
    let again = take(&worker);
    let attempts: Vec<_> = again.iter().map(|delivery| delivery.attempt()).collect();
    assert_eq!(attempts, [2; 3]);
    assert_eq!(again.ack_all(), Ok(()), "of retries, too");
    assert_eq!(worker.metrics().counts.delivered, 3);
    assert_balanced(&broker);
}

#[test]
fn what_is_extracted_is_settled_by_itself_and_the_others_together() {
    let (broker, clock, topic, worker) = pulled(6);
    let mut batch = take(&worker);
    let mut odd = batch.extract_if(|delivery| delivery.payload() % 2 == 1);
    assert_eq!(odd.iter().map(payload_of).collect::<Vec<_>>(), [1, 3, 5]);
    assert_eq!((batch.len(), payloads(&batch)), (3, vec![2, 4, 6]));
    assert_eq!(worker.metrics().leased, 6);

    odd[2].extend(2 * SECOND).expect("in time");
    let mut odd = odd.into_iter();
    let mut next = || odd.next().expect("there is another");
    next().nack(Nack::dead_letter("never")).expect("in time");
    let (third, fifth) = (next(), next());
    assert_eq!(batch.ack_all(), Ok(()));
    assert_eq!(worker.metrics().counts.delivered, 3);
    // One of the same run ends by its deadline, another has a later one.
    advance(&broker, &clock, SECOND);
    assert_eq!(third.ack(), Err(StaleError));
    assert_eq!(worker.metrics().timed_out, 1);
    assert_eq!(fifth.ack(), Ok(()));
    assert_eq!(topic.dead_letters().len(), 1);
    advance(&broker, &clock, 10 * MS);
    let again = worker.try_recv().expect("it is due");
    assert_eq!((payload_of(&again), again.attempt()), (3, 2));
    again.ack().expect("in time");
    assert_eq!(worker.metrics().leased, 0);
    assert_balanced(&broker);
}

#[test]
fn one_that_is_extended_leaves_its_neighbors_their_deadline() {
    let (broker, clock, _topic, worker) = pulled(3);
    let mut leases = take(&worker).into_iter();
    let mut next = || leases.next().expect("there is another");
    let (first, mut second, third) = (next(), next(), next());
    second.extend(3 * SECOND).expect("in time");
    assert_eq!(worker.metrics().leased, 3);
    assert_eq!(first.ack(), Ok(()));
    advance(&broker, &clock, SECOND);
    assert_eq!(
        (worker.metrics().timed_out, third.ack()),
        (1, Err(StaleError))
    );
    second.extend(MS).expect("it is good for longer");
    assert_eq!(second.remaining(), 2 * SECOND);
    advance(&broker, &clock, 2 * SECOND);
    assert_eq!(
        (worker.metrics().timed_out, second.ack()),
        (2, Err(StaleError))
    );
    advance(&broker, &clock, 10 * MS);
    // Not for the dead letters: each had one attempt.
    assert_eq!(worker.metrics().counts.delivered, 1);
    assert_balanced(&broker);
}

#[test]
fn a_choice_that_panics_takes_nothing_out() {
    let (broker, clock, _topic, worker) = pulled(3);
    let mut batch = take(&worker);
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        batch.extract_if(|delivery| match delivery.payload() {
            3 => panic!("undecided"),
            _ => true,
        })
    }));
    assert!(panicked.is_err());
    assert_eq!(payloads(&batch), [1, 2, 3]);
    drop(batch);
    assert_eq!(worker.metrics().abandoned, 3);
    advance(&broker, &clock, 10 * MS);
    take(&worker).ack_all().expect("in time");
    assert_balanced(&broker);
}

#[test]
fn what_is_left_of_a_batch_is_abandoned_when_it_is_dropped() {
    let (broker, clock, _topic, worker) = pulled(5);
    let mut leases = take(&worker).into_iter();
    assert_eq!(leases.len(), 5);
    let first = leases.next().expect("there is one");
    assert_eq!((payload_of(&first), leases.len()), (1, 4));
    drop(leases);
    let metrics = worker.metrics();
    assert_eq!((metrics.leased, metrics.abandoned), (1, 4));
    first.ack().expect("it has left them before");
    advance(&broker, &clock, 10 * MS);
    let again = take(&worker);
    assert_eq!(payloads(&again), [2, 3, 4, 5]);
    drop(again);
    assert_eq!(worker.metrics().abandoned, 8);
    assert_eq!(
        worker.metrics().counts.dead_lettered,
        4,
        "two attempts each"
    );
    assert_balanced(&broker);
}

#[test]
fn an_empty_batch_changes_nothing() {
    let (broker, _clock, _topic, worker) = pulled(1);
    let none = worker.recv_batch(0, HANG).expect("none is asked for");
    assert!(none.is_empty());
    assert_eq!(none.remaining(), Duration::ZERO);
    assert_eq!(none.ack_all(), Ok(()));
    let mut one = take(&worker);
    let all = one.extract_if(|_| true);
    assert!(one.is_empty());
    assert_eq!(one.ack_all(), Ok(()));
    all.into_iter()
        .for_each(|lease| lease.ack().expect("in time"));
    assert_eq!(worker.metrics().counts.delivered, 1);
    assert_balanced(&broker);
}

#[test]
fn keys_are_free_when_their_batch_is_acked() {
    let (broker, _clock) = manual();
    let topic = open(&broker);
    let builder = topic.subscription("worker").on_failure(OnFailure::BlockKey);
    let worker = builder.pull(Pull::default()).expect("subscribes");
    for (key, number) in [("a", 1), ("b", 2), ("a", 3), ("c", 4), ("b", 5)] {
        let message = topic.message(number).key(key);
        message.publish().expect("there is room");
    }
    topic.publish(6).expect("there is room");
    let batch = take(&worker);
    assert_eq!(payloads(&batch), [1, 2, 4, 6]);
    assert_eq!(worker.try_recv().err(), Some(TryRecvError::Empty));
    assert_eq!(batch.ack_all(), Ok(()));
    let followers = take(&worker);
    assert_eq!(payloads(&followers), [3, 5]);
    assert_eq!(followers.ack_all(), Ok(()));
    assert_eq!(worker.metrics().counts.delivered, 6);
    assert_balanced(&broker);
}

#[test]
fn credits_bound_what_is_out_of_runs_too() {
    let (broker, _clock) = manual();
    let topic = open(&broker);
    let worker = pull_with(&topic, Pull::default().credits(100));
    topic.publish_batch(1..=200).expect("there is room");
    let mut batch = take(&worker);
    assert_eq!(batch.len(), 100, "as many as there are credits");
    assert_eq!(worker.try_recv().err(), Some(TryRecvError::Empty));
    let few = batch.extract_if(|delivery| *delivery.payload() <= 3);
    few.into_iter()
        .for_each(|lease| lease.ack().expect("in time"));
    let next = take(&worker);
    assert_eq!(payloads(&next), [101, 102, 103]);
    batch.ack_all().expect("in time");
    next.ack_all().expect("in time");
    let last = take(&worker);
    assert_eq!(last.len(), 97);
    last.into_iter()
        .for_each(|lease| lease.ack().expect("in time"));
    assert_eq!(worker.metrics().counts.delivered, 200);
    assert_balanced(&broker);
}

#[test]
fn what_has_expired_in_the_middle_of_a_run_is_left_out() {
    let (broker, clock) = manual();
    let topic = open(&broker);
    let worker = pull_with(&topic, Pull::default());
    for number in 1..=6 {
        let message = topic.message(number);
        let message = match number {
            1 | 4 | 6 => message.ttl(MS),
            _ => message,
        };
        message.publish().expect("there is room");
    }
    clock.advance(2 * MS);
    let batch = take(&worker);
    assert_eq!(payloads(&batch), [2, 3, 5]);
    batch.ack_all().expect("in time");
    let counts = assert_balanced(&broker).deliveries();
    assert_eq!((counts.delivered, counts.expired), (3, 3));
}

/// One ack, and as many go on as there are credits.
#[test]
fn an_ack_of_a_batch_wakes_as_many_receivers_as_it_frees() {
    const RECEIVERS: u32 = 3;
    let broker = threaded(1);
    let topic = open(&broker);
    let worker = topic.subscription("worker");
    let credits = Pull::default().credits(RECEIVERS as usize);
    // So that no deadline wakes them.
    let worker = worker.pull(credits.ack_deadline(HOUR));
    let worker = worker.expect("subscribes");
    topic.publish_batch(1..=RECEIVERS).expect("there is room");
    let batch = worker.recv_batch(9, HANG).expect("it is on its way");
    assert_eq!(batch.len(), RECEIVERS as usize);
    topic.publish_batch(1..=RECEIVERS).expect("there is room");
    let (said, heard) = mpsc::channel();
    let receivers: Vec<_> = (0..RECEIVERS)
        .map(|_| {
            let (worker, said) = (worker.clone(), said.clone());
            thread::spawn(move || said.send(worker.recv().expect("there is one")).is_ok())
        })
        .collect();
    // So that they sleep, most likely.
    thread::sleep(5 * MS);
    batch.ack_all().expect("in time");
    let next = || heard.recv_timeout(HANG).expect("each is woken");
    // None is settled before all are there, which would wake another.
    let leases: Vec<_> = (0..RECEIVERS).map(|_| next()).collect();
    for lease in leases {
        lease.ack().expect("in time");
    }
    for receiver in receivers {
        assert!(receiver.join().expect("it ends"));
    }
    assert_rests_balanced(&broker);
}

#[test]
fn an_unsubscribe_ends_runs_that_are_out() {
    for mode in [Unsubscribe::Cancel, Unsubscribe::DeadLetter] {
        let (broker, _clock, topic, worker) = pulled(4);
        let mut batch = take(&worker);
        let second = batch.extract_if(|delivery| *delivery.payload() == 2);
        second
            .into_iter()
            .for_each(|lease| lease.ack().expect("in time"));
        drop(worker.unsubscribe(mode));
        assert_eq!(batch.ack_all(), Err(StaleError));
        let counts = assert_balanced(&broker).deliveries();
        let letters = match mode {
            Unsubscribe::DeadLetter => 3,
            _ => 0,
        };
        assert_eq!(topic.dead_letters().len(), letters);
        assert_eq!((counts.delivered, counts.open()), (1, 0));
    }
}

#[test]
fn batches_deadlines_and_the_end_race_without_a_loss() {
    let broker = threaded(2);
    let retry = Backoff::fixed(Duration::from_micros(200)).max_attempts(3);
    let topic = broker.topic("jobs").retry(retry).capacity(4_096).open();
    let topic: Topic<u32> = topic.expect("opens");
    let settings = Pull::default().credits(100).ack_deadline(MS);
    let worker = topic.subscription("worker").pull(settings);
    let worker = worker.expect("subscribes");
    let receivers: Vec<_> = (0..3_u32)
        .map(|number| {
            let worker = worker.clone();
            thread::spawn(move || {
                let (mut acked, mut kept) = (0, None);
                let mut most = 1;
                while let Ok(mut batch) = worker.recv_batch(most, HANG) {
                    most = most % 70 + 1;
                    let out = batch.extract_if(|delivery| (delivery.payload() + number) % 8 == 0);
                    for mut lease in out {
                        match payload_of(&lease) % 3 {
                            0 => drop(lease),
                            1 => _ = lease.nack(Nack::retry("no")),
                            _ => {
                                let extended = lease.extend(MS);
                                acked += u64::from(extended.and_then(|()| lease.ack()).is_ok());
                            }
                        }
                    }
                    // Some are kept past their deadline.
                    let ready = match most % 5 {
                        0 => kept.replace(batch),
                        _ => Some(batch),
                    };
                    if let Some(batch) = ready {
                        let count = batch.len() as u64;
                        acked += batch.ack_all().map_or(0, |()| count);
                    }
                }
                acked
            })
        })
        .collect();
    for number in 0..10_000 {
        while topic.publish(number).is_err() {
            thread::yield_now();
        }
    }
    drop(worker.unsubscribe(Unsubscribe::Drain { timeout: 200 * MS }));
    let acked: u64 = receivers
        .into_iter()
        .map(|receiver| receiver.join().expect("it ends"))
        .sum();
    let counts = assert_rests_balanced(&broker).deliveries();
    assert_eq!((counts.open(), counts.illegal), (0, 0));
    assert_eq!(counts.delivered, acked, "each that was said to be acked");
}
