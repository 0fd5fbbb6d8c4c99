//! Who keeps a broker alive, and until when: what it holds and that holds a handle of
//! it. A drain lets go of all that but the dead letters.

use std::sync::{Arc, Mutex, Weak};

use crate::harness::{HANG, Log, manual, threaded};
use millstream::retry::{Decision, FailedAttempt, RetryPolicy};
use millstream::strategy::{Backlog, Plan, Strategy};
use millstream::{Backoff, Batched, Broker, Nack, Topic, Unsubscribe};

/// What shows whether it is still there, and holds a broker.
type Held = (Arc<()>, Broker);

struct Keeps(Held);

impl Strategy for Keeps {
    fn plan(&self, backlog: &Backlog) -> Plan {
        let (_, broker) = &self.0;
        assert!(broker.metrics().topics.len() <= 1);
        millstream::Immediate.plan(backlog)
    }

    fn name(&self) -> &str {
        "keeps"
    }
}

impl RetryPolicy for Keeps {
    fn decide(&self, _: &FailedAttempt<'_>) -> Decision {
        let _ = &self.0;
        Decision::Exhausted
    }
}

fn is_there(what: &Weak<()>) -> bool {
    what.strong_count() > 0
}

/// A broker that is held by `keep`, and drained.
fn drained(keep: impl Fn(&Broker, &Topic<u32>, Held)) -> Vec<bool> {
    [0, 2]
        .map(|workers| {
            let broker = Broker::builder().workers(workers).build().unwrap();
            let topic = broker.topic("t").open().unwrap();
            let marker = Arc::new(());
            let watched = Arc::downgrade(&marker);
            keep(&broker, &topic, (marker, broker.clone()));
            topic.publish(1).unwrap();
            assert!(broker.drain(HANG).is_ok());
            drop((broker, topic));
            is_there(&watched)
        })
        .to_vec()
}

#[test]
fn a_drain_lets_go_of_observers_that_hold_the_broker() {
    let kept = drained(|broker, _, held| {
        let observer = broker.observe(move |_| assert!(held.1.metrics().topics.len() == 1));
        observer.unwrap().detach();
    });
    assert_eq!(kept, [false, false]);
}

#[test]
fn a_drain_lets_go_of_strategies_that_hold_the_broker() {
    let kept = drained(|_, topic, held| topic.set_strategy(Keeps(held)).unwrap());
    assert_eq!(kept, [false, false]);
    let kept = drained(|broker, _, held| broker.set_strategy(Keeps(held)).unwrap());
    assert_eq!(kept, [false, false]);
}

#[test]
fn the_metrics_still_say_which_strategy_it_was() {
    let (broker, _clock) = manual();
    let topic = broker.topic::<u32>("t").strategy(Batched::of(8));
    let topic = topic.open().unwrap();
    let before = topic.metrics().strategy;
    broker.drain(HANG).unwrap();
    assert_eq!(topic.metrics().strategy, before);
    drop(broker);
    assert_eq!(topic.metrics().strategy, before);
}

#[test]
fn a_drain_lets_go_of_retry_policies_that_hold_the_broker() {
    let kept = drained(|_, topic, held| {
        topic.set_retry(Keeps(held)).unwrap();
        let fails = topic.subscribe("s", |_| Err(Nack::retry("always")));
        fails.unwrap().detach();
    });
    assert_eq!(kept, [false, false]);
    let kept = drained(|_, topic, held| {
        let fails = topic.subscription("s").retry(Keeps(held));
        let fails = fails.subscribe(|_| Err(Nack::retry("always")));
        fails.unwrap().detach();
    });
    assert_eq!(kept, [false, false]);
    let kept = drained(|broker, _, held| {
        let fails = broker.subscription::<u32>("s").matching("*");
        let fails = fails.retry(Keeps(held));
        let fails = fails.subscribe(|_| Err(Nack::retry("always")));
        fails.unwrap().detach();
    });
    assert_eq!(kept, [false, false]);
}

#[test]
fn a_drain_lets_go_of_handlers_that_hold_the_broker_and_more() {
    let kept = drained(|_, topic, held| {
        // Their own subscription, a buffer of their own topic, a pull of it.
        let own = Arc::new(Mutex::new(None));
        let pull = topic.subscription("p").pull(millstream::Pull::default());
        let buffer = topic.buffered(Batched::of(8)).unwrap();
        let more = (own.clone(), pull.unwrap(), Mutex::new(buffer));
        let s = topic.subscribe("s", move |_| {
            let (own, pull, buffer) = &more;
            assert!(own.lock().unwrap().is_some());
            buffer.lock().unwrap().flush().unwrap();
            if let Ok(lease) = pull.try_recv() {
                lease.ack().unwrap();
            }
            let _ = &held;
            Ok(())
        });
        *own.lock().unwrap() = Some(s.unwrap());
    });
    assert_eq!(kept, [false, false]);
    let kept = drained(|broker, _, held| {
        let pattern = broker.subscription::<u32>("s").matching("*");
        let pattern = pattern.subscribe(move |_| {
            let _ = &held;
            Ok(())
        });
        pattern.unwrap().detach();
    });
    assert_eq!(kept, [false, false]);
}

#[test]
fn without_a_drain_a_detached_observer_that_holds_the_broker_keeps_it_running() {
    let broker = threaded(1);
    let topic = broker.topic::<u32>("t").open().unwrap();
    let log = Log::new();
    let inner = log.clone();
    let handler = topic.subscribe("s", move |delivery| {
        inner.push(*delivery.payload());
        Ok(())
    });
    let holder = Arc::new(Mutex::new(Some(broker.clone())));
    let inner = holder.clone();
    let observer = broker.observe(move |_| assert!(inner.lock().is_ok()));
    observer.unwrap().detach();
    drop(broker);
    topic.publish(1).unwrap();
    let held = holder.lock().unwrap().take().unwrap();
    assert!(held.wait_until_idle(HANG));
    assert_eq!(log.take(), [1]);
    // It was the last one.
    drop(held);
    assert!(topic.publish(2).is_err());
    drop(handler);
}

/// A payload that shows whether it is still there, and holds its own topic.
struct Own {
    _marker: Arc<()>,
    topic: Arc<Mutex<Option<Topic<Own>>>>,
}

impl Own {
    fn new(marker: &Arc<()>, topic: &Topic<Own>) -> Self {
        Self {
            _marker: marker.clone(),
            topic: Arc::new(Mutex::new(Some(topic.clone()))),
        }
    }
}

#[test]
fn a_dead_letter_that_holds_its_own_topic_stays_until_it_is_purged() {
    for is_purged in [true, false] {
        let (broker, _clock) = manual();
        let topic = broker.topic::<Own>("t").retry(Backoff::none());
        let topic = topic.open().unwrap();
        let fails = topic
            .subscribe("s", |_| Err(Nack::retry("always")))
            .unwrap();
        let marker = Arc::new(());
        let payload = Own::new(&marker, &topic);
        let own = payload.topic.clone();
        topic.publish(payload).unwrap();
        broker.run_until_idle();
        fails.unsubscribe(Unsubscribe::Cancel);
        drop(broker);
        // The broker has ended, and its letters can still be looked at.
        let letters = topic.dead_letters().list();
        let held = letters[0].payload().topic.lock().unwrap().clone();
        assert_eq!(held.expect("it is held").name(), "t");
        drop(letters);
        if is_purged {
            assert_eq!(topic.dead_letters().purge(|_| true), 1);
        }
        drop(topic);
        let kept = Arc::strong_count(&marker) - 1;
        assert_eq!(kept, usize::from(!is_purged));
        // Whoever takes the handle out of the letter lets go of both.
        let held = own.lock().unwrap().take();
        drop(held);
        assert_eq!(Arc::strong_count(&marker), 1);
    }
}

#[test]
fn a_queued_or_delayed_payload_that_holds_its_own_topic_goes_with_the_broker() {
    let (broker, _clock) = manual();
    let topic = broker.topic::<Own>("t");
    let topic = topic.no_subscribers(millstream::NoSubscribers::Retain);
    let topic = topic.open().unwrap();
    let marker = Arc::new(());
    let payload = || Own::new(&marker, &topic);
    topic.publish(payload()).unwrap();
    topic.publish_after(HANG, payload()).unwrap();
    let mut buffer = topic.buffered(Batched::of(8)).unwrap();
    buffer.publish(payload()).unwrap();
    drop((broker, buffer));
    drop(topic);
    assert_eq!(Arc::strong_count(&marker), 1);
}
