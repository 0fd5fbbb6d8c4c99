//! A message for which no handler is ready waits in a full batch, wherever it waits; and
//! whoever is ready for it gets it.

use std::sync::Arc;
use std::thread;
use std::time::Instant;

use crate::harness::{HANG, Log, assert_rests_balanced, read, threaded};
use millstream::{Batched, Broker, OnFailure, Subscription, Topic, Unsubscribe};
use parking_lot::Mutex;

/// More than fill a batch, fewer than the queue has places.
const MANY: u64 = 500;
/// Messages of a batch that is full.
const BATCH: u64 = 64;

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < HANG, "{what}");
        thread::yield_now();
    }
}

/// A broker whose only subscription is stuck as long as the lock is held, and what it has
/// handled since.
struct Stuck {
    broker: Broker,
    topic: Topic<u64>,
    lock: Arc<Mutex<()>>,
    log: Log<u64>,
}

impl Stuck {
    /// Runs `body` while many messages wait, which were published one by one.
    fn behind(body: impl FnOnce(&Self, Subscription)) {
        let broker = threaded(2);
        let topic: Topic<u64> = broker.topic("t").open().expect("opens");
        let (lock, log) = (Arc::new(Mutex::new(())), Log::new());
        let (waits, handled) = (Arc::clone(&lock), log.clone());
        let subscription = topic.subscribe("stuck", move |delivery| {
            drop(waits.lock());
            handled.push(*delivery.payload());
            Ok(())
        });
        let subscription = subscription.expect("subscribes");
        let stuck = Self {
            broker,
            topic,
            lock,
            log,
        };
        let shut = stuck.lock.lock();
        for number in 0..MANY {
            stuck.topic.publish(number).expect("there is room");
            thread::yield_now();
        }
        wait_until("full batches stay in the queue", || {
            stuck.topic.metrics().queued < BATCH
        });
        body(&stuck, subscription);
        drop(shut);
        let is_idle = stuck.broker.wait_until_idle(HANG);
        assert!(is_idle, "it goes on");
        assert_rests_balanced(&stuck.broker);
    }

    fn assert_nothing_is_queued(&self, because: &str) {
        wait_until(because, || self.topic.metrics().queued == 0);
    }
}

#[test]
fn what_waited_behind_a_stuck_handler_comes_in_order() {
    let mut handled = Log::new();
    Stuck::behind(|stuck, subscription| {
        handled = stuck.log.clone();
        subscription.detach();
    });
    assert!(handled.take().into_iter().eq(0..MANY));
}

#[test]
fn a_subscription_that_is_ready_gets_each_message_while_another_is_stuck() {
    Stuck::behind(|stuck, subscription| {
        let (log, ready) = read(&stuck.topic, "ready");
        for number in MANY..MANY + 2 * BATCH {
            stuck.topic.publish(number).expect("there is room");
            wait_until("it is ready", || log.len() as u64 == number + 1 - MANY);
        }
        ready.detach();
        subscription.detach();
    });
}

#[test]
fn a_flush_hands_on_what_waits_behind_a_stuck_handler() {
    Stuck::behind(|stuck, subscription| {
        stuck.topic.flush();
        stuck.assert_nothing_is_queued("a flush hands on everything");
        subscription.detach();
    });
}

#[test]
fn rules_for_a_stuck_subscription_let_the_queue_go_on() {
    Stuck::behind(|stuck, subscription| {
        subscription
            .set_on_failure(OnFailure::BlockKey)
            .expect("it may");
        stuck.assert_nothing_is_queued("its lane has rules of its own now");
        subscription.detach();
    });
}

#[test]
fn the_end_of_a_stuck_subscription_lets_the_queue_go_on() {
    Stuck::behind(|stuck, subscription| {
        let end = Unsubscribe::Drain { timeout: HANG };
        thread::spawn(move || subscription.unsubscribe(end));
        stuck.assert_nothing_is_queued("nobody subscribes any more");
    });
}

#[test]
fn a_batch_in_a_topic_that_batches_is_not_left() {
    Stuck::behind(|stuck, subscription| {
        let strategy = Batched::of(8);
        stuck
            .topic
            .set_strategy(strategy)
            .expect("it may be changed");
        stuck.assert_nothing_is_queued("its strategy says when");
        subscription.detach();
    });
}
