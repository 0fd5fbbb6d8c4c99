//! Hands that share a lane: no key in two of them, nothing out of order or stranded;
//! one that ends is gone with its handler when that is said, and leaves what it had to
//! the others.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use loom::thread;
use millstream::{
    Backoff, Broker, ConsumerGroup, Delivery, ManualClock, Nack, OnFailure, Topic, Unsubscribe,
    Unsubscribed,
};
use millstream_loom_tests::{Log, Preemptions, assert_settled, manual, model, worker};

const DELAY: Duration = Duration::from_millis(1);

/// One that stays with the first member, and one that the second takes over when it
/// joins.
const KEYS: [&str; 2] = ["b", "a"];

fn open() -> (Broker, ManualClock, Topic<u32>) {
    let (broker, clock) = manual();
    let retry = Backoff::fixed(DELAY).max_attempts(2);
    let topic = broker.topic("t").capacity(8).retry(retry).open().unwrap();
    (broker, clock, topic)
}

/// Odd numbers have the one key, even numbers the other.
fn publish(topic: &Topic<u32>, number: u32) {
    let message = topic.message(number);
    message.key(KEYS[number as usize % 2]).publish().unwrap();
}

/// What the handlers of one subscription share. Not loom's, so it orders nothing.
#[derive(Clone, Default)]
struct Hands {
    log: Log,
    busy: Arc<[AtomicBool; 2]>,
}

impl Hands {
    /// A handler that writes what it succeeds with, all but the first attempt of
    /// number `fails`, until it has `ended`. Its drop is seen in `gone`.
    fn handler(
        &self,
        fails: u32,
        end: &End,
    ) -> impl Fn(&Delivery<'_, u32>) -> Result<(), Nack> + Send + Sync + 'static {
        let (hands, end) = (self.clone(), end.clone());
        let captured = Captured(Arc::clone(&end.gone));
        move |delivery| {
            let _keep = &captured;
            let number = *delivery.payload();
            let busy = &hands.busy[number as usize % 2];
            assert!(!busy.swap(true, Ordering::Relaxed), "two hands have a key");
            // Somewhere in here other threads may go on.
            thread::yield_now();
            assert!(!end.told.load(Ordering::Relaxed), "it has been told");
            let is_retried = number == fails && delivery.attempt() == 1;
            if !is_retried {
                hands.log.add(number);
            }
            busy.store(false, Ordering::Relaxed);
            match is_retried {
                true => Err(Nack::retry("not yet")),
                false => Ok(()),
            }
        }
    }

    /// What was handled of each key.
    fn by_key(&self) -> [Vec<u32>; 2] {
        [0, 1].map(|key| {
            let all = self.log.read().into_iter();
            all.filter(|number| number % 2 == key).collect()
        })
    }
}

/// The end of a handler.
#[derive(Clone, Default)]
struct End {
    gone: Arc<AtomicBool>,
    told: Arc<AtomicBool>,
}

impl End {
    /// Somebody has been told that it has come.
    fn tell(&self) {
        self.told.store(true, Ordering::Relaxed);
        assert!(self.gone.load(Ordering::Relaxed), "the handler is there");
    }
}

/// Is noticed when it goes, which is when the handler does.
struct Captured(Arc<AtomicBool>);

impl Drop for Captured {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn group(topic: &Topic<u32>) -> ConsumerGroup<u32> {
    topic.subscription("s").group().unwrap()
}

#[test]
fn two_seats_and_two_keys() {
    model(
        "two slots, two keys",
        Preemptions {
            plain: Some(1),
            rmw: Some(2),
        },
        || {
            let (broker, _clock, topic) = open();
            let hands = Hands::default();
            let lane = topic.subscription("s");
            let handler = hands.handler(0, &End::default());
            let subscription = lane.concurrency(2).subscribe_shared(handler).unwrap();
            publish(&topic, 1);
            publish(&topic, 2);
            publish(&topic, 3);
            let worker = worker(&broker);
            broker.run_until_idle();
            worker.join().unwrap();
            broker.run_until_idle();
            assert_eq!(hands.by_key(), [vec![2], vec![1, 3]]);
            assert_settled(&broker);
            subscription.detach();
        },
    );
}

#[test]
fn a_failure_in_one_hand_holds_its_key_for_all() {
    model(
        "two slots, a failure",
        Preemptions {
            plain: Some(1),
            rmw: Some(2),
        },
        || {
            let (broker, clock, topic) = open();
            let hands = Hands::default();
            let lane = topic.subscription("s").on_failure(OnFailure::BlockKey);
            let handler = hands.handler(1, &End::default());
            let subscription = lane.concurrency(2).subscribe_shared(handler).unwrap();
            for number in 1..=3 {
                publish(&topic, number);
            }
            let worker = worker(&broker);
            broker.run_until_idle();
            worker.join().unwrap();
            broker.run_until_idle();
            clock.advance(DELAY);
            broker.run_until_idle();
            assert_eq!(hands.by_key(), [vec![2], vec![1, 3]]);
            assert_settled(&broker);
            subscription.detach();
        },
    );
}

#[test]
fn a_key_moves_to_a_member_that_joins_when_it_is_put_down() {
    model("a member joins", Preemptions::up_to(2), || {
        let (broker, _clock, topic) = open();
        let hands = Hands::default();
        let group = group(&topic);
        let end = End::default();
        let one = group.join("one", hands.handler(0, &end)).unwrap();
        publish(&topic, 1);
        publish(&topic, 3);
        let worker = worker(&broker);
        let two = group.join("two", hands.handler(0, &end)).unwrap();
        broker.run_until_idle();
        worker.join().unwrap();
        broker.run_until_idle();
        assert_eq!(hands.log.read(), [1, 3]);
        assert_settled(&broker);
        drop((one, two, group));
    });
}

#[test]
fn a_member_that_has_left_is_gone_and_others_have_its_keys() {
    model("a member leaves", Preemptions::up_to(4), || {
        let (broker, _clock, topic) = open();
        let hands = Hands::default();
        let group = group(&topic);
        let (first, second) = (End::default(), End::default());
        let one = group.join("one", hands.handler(0, &first)).unwrap();
        let two = group.join("two", hands.handler(0, &second)).unwrap();
        for number in 1..=3 {
            publish(&topic, number);
        }
        let worker = worker(&broker);
        two.leave();
        second.tell();
        worker.join().unwrap();
        broker.run_until_idle();
        assert_eq!(hands.by_key(), [vec![2], vec![1, 3]]);
        assert_settled(&broker);
        drop((one, group));
    });
}

#[test]
fn an_unsubscribe_waits_for_all_seats() {
    model("two slots, unsubscribe", Preemptions::up_to(2), || {
        let (broker, _clock, topic) = open();
        let (hands, end) = (Hands::default(), End::default());
        let lane = topic.subscription("s");
        let handler = hands.handler(0, &end);
        let subscription = lane.concurrency(2).subscribe_shared(handler).unwrap();
        for number in 1..=3 {
            publish(&topic, number);
        }
        let worker = worker(&broker);
        let ended = subscription.unsubscribe(Unsubscribe::Cancel);
        end.tell();
        let Unsubscribed::Ended(last) = ended else {
            panic!("it was called outside of any handler");
        };
        assert_eq!(last.counts.open(), 0);
        worker.join().unwrap();
        broker.run_until_idle();
        assert_settled(&broker);
    });
}

#[test]
fn an_unsubscribe_waits_for_a_member_that_was_let_go() {
    model(
        "a member let go, unsubscribe",
        Preemptions::up_to(2),
        || {
            let (broker, _clock, topic) = open();
            let (hands, end) = (Hands::default(), End::default());
            let group = group(&topic);
            let one = group.join("one", hands.handler(0, &end)).unwrap();
            publish(&topic, 1);
            let worker = worker(&broker);
            drop(one);
            let ended = group.unsubscribe(Unsubscribe::Cancel);
            end.tell();
            assert!(matches!(ended, Unsubscribed::Ended(_)));
            worker.join().unwrap();
            broker.run_until_idle();
            assert_settled(&broker);
        },
    );
}
