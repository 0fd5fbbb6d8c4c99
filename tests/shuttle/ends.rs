//! Ends: of subscriptions, of the broker, and of both at once.

use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Waker};

use millstream::{Backoff, NoSubscribers, Overflow, PublishError, Unsubscribe, Unsubscribed};
use shuttle::sync::mpsc;

use super::explore::explore;
use super::*;

/// Says that it was dropped.
struct Guard(mpsc::Sender<()>);

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.send(());
    }
}

#[test]
fn subscriptions_end_while_deliveries_run() {
    explore(|| {
        let broker = broker();
        let topic = broker.topic::<Sent>("a").open().unwrap();
        let timeout = FOREVER;
        let modes = [
            ("cancelled", Unsubscribe::Cancel),
            ("buried", Unsubscribe::DeadLetter),
            ("drained", Unsubscribe::Drain { timeout }),
        ];
        let log = log(&topic, "stays");
        let mut threads = publishers({
            let topic = topic.clone();
            move |publisher| {
                for number in 0..2 {
                    topic.publish((publisher, number)).unwrap();
                }
            }
        });
        for (name, mode) in modes {
            let calls = Log::new();
            let subscription = topic.subscribe(name, into(&calls)).unwrap();
            threads.push(thread::spawn(move || {
                let Unsubscribed::Ended(last) = subscription.unsubscribe(mode) else {
                    panic!("it is outside of all handlers");
                };
                let (counts, called) = (last.counts, calls.len() as u64);
                assert_eq!((counts.ended(), counts.delivered), (counts.made, called));
                match mode {
                    Unsubscribe::Cancel => assert_eq!(counts.dead_lettered, 0),
                    Unsubscribe::DeadLetter => assert_eq!(counts.cancelled, 0),
                    _ => assert_eq!(counts.delivered, counts.made),
                }
                thread::yield_now();
                assert_eq!(calls.len() as u64, called, "a call after the end");
            }));
        }
        join(threads);
        let letters = topic.dead_letters().len() as u64;
        assert_eq!(drain(&broker).dead_lettered, letters);
        assert_eq!(log.len(), 8);
        assert_in_order(&log.take());
    });
}

/// What no subscription takes is unrouted, or waits for the next one.
#[test]
fn messages_meet_the_end_of_the_only_subscription() {
    explore(|| {
        let broker = broker();
        let policies = [("a", NoSubscribers::Discard), ("b", NoSubscribers::Retain)];
        let topics = policies.map(|(name, policy)| {
            let topic = broker.topic::<Sent>(name).no_subscribers(policy);
            topic.open().unwrap()
        });
        let firsts = [0, 1].map(|at| topics[at].subscribe("first", |_| Ok(())).unwrap());
        let threads = publishers({
            let topics = topics.clone();
            move |publisher| {
                for topic in &topics {
                    topic.publish((publisher, 0)).unwrap();
                }
            }
        });
        for first in firsts {
            first.unsubscribe(Unsubscribe::Drain { timeout: FOREVER });
        }
        join(threads);
        let next = topics[1].subscribe("next", |_| Ok(()));
        next.unwrap().detach();
        drain(&broker);
        let [discards, retains] = topics.map(|topic| topic.metrics());
        assert_eq!(discards.deliveries().delivered + discards.unrouted, 4);
        assert_eq!(retains.deliveries().delivered, 4);
    });
}

#[test]
fn subscriptions_end_inside_handlers() {
    explore(|| {
        let broker = broker();
        let topic = broker.topic::<Sent>("a").open().unwrap();
        let modes = [
            ("cancelled", Unsubscribe::Cancel),
            ("buried", Unsubscribe::DeadLetter),
            ("drained", Unsubscribe::Drain { timeout: SOON }),
        ];
        let (gone, ended) = mpsc::channel();
        for (name, mode) in modes {
            let own = Arc::new(Mutex::new(None));
            let (guard, taken) = (Guard(gone.clone()), Arc::clone(&own));
            let subscription = topic.subscribe(name, move |_| {
                let _keep = &guard;
                let own: Option<Subscription> = taken.lock().unwrap().take();
                let ending = own.map(|own| own.unsubscribe(mode));
                assert_ne!(ending.map(|end| end == Unsubscribed::Ending), Some(false));
                Ok(())
            });
            *own.lock().unwrap() = Some(subscription.unwrap());
        }
        join(publishers({
            let topic = topic.clone();
            move |publisher| {
                topic.publish((publisher, 0)).unwrap();
            }
        }));
        for _ in modes {
            ended.recv().expect("a handler that has ended is dropped");
        }
        let report = drain(&broker);
        assert_eq!(
            report.made,
            report.delivered + report.cancelled + report.dead_lettered
        );
        assert!(broker.metrics().topics[0].subscriptions.is_empty());
    });
}

#[test]
fn a_drain_meets_publishers_that_wait_for_room() {
    explore(|| {
        let broker = broker();
        let topics = [("a", FOREVER), ("b", SOON)].map(|(name, timeout)| {
            let topic = broker.topic(name).capacity(1).lane_capacity(1);
            topic.overflow(Overflow::Block { timeout }).open().unwrap()
        });
        let logs = [0, 1].map(|at| log(&topics[at], "x"));
        let accepted = Log::new();
        let threads = publishers({
            let accepted = accepted.clone();
            move |publisher| {
                for number in 0..3 {
                    let at = publisher as usize % 2;
                    match topics[at].publish((publisher, number)) {
                        Ok(receipt) => accepted.push(receipt.id()),
                        Err(PublishError::TimedOut(_)) => assert_eq!(at, 1),
                        Err(refused) => return assert!(matches!(refused, PublishError::Closed(_))),
                    }
                }
            }
        });
        let report = drain(&broker);
        join(threads);
        assert_eq!(report.published, accepted.len() as u64);
        assert_eq!(report.delivered, report.published);
        assert_balanced(&broker);
        for log in logs {
            assert_in_order(&log.take());
        }
    });
}

/// The last handler's publish meets the end of its stage.
#[test]
fn a_drain_by_stages_meets_publishers() {
    explore(|| {
        let broker = broker();
        let stages = ["a", "b", "c"].map(|name| broker.topic::<Sent>(name).open().unwrap());
        for pair in stages.windows(2) {
            let onward = pair[1].clone();
            let stage = pair[0].subscribe("x", move |delivery| {
                onward.publish(*delivery.payload())?;
                Ok(())
            });
            stage.unwrap().detach();
        }
        let log = log(&stages[2], "y");
        let accepted = Log::new();
        let threads = publishers({
            let (topic, accepted) = (stages[0].clone(), accepted.clone());
            move |publisher| {
                for number in 0..2 {
                    match topic.publish((publisher, number)) {
                        Ok(receipt) => accepted.push(receipt.id()),
                        Err(refused) => return assert!(matches!(refused, PublishError::Closed(_))),
                    }
                }
            }
        });
        let report = broker
            .drain_pipeline(FOREVER)
            .expect("no stage was refused");
        join(threads);
        assert_eq!(report.published, 3 * accepted.len() as u64);
        assert_eq!(report.delivered, report.published);
        assert_eq!(log.len(), accepted.len());
        assert_balanced(&broker);
    });
}

/// Not only once there is room, which here there is none of until one of them has
/// been turned away.
#[test]
fn a_drain_turns_waiting_publishers_away_at_once() {
    explore(|| {
        let broker = broker();
        let topic = broker.topic::<Sent>("a").capacity(1).lane_capacity(1);
        let topic = topic.overflow(Overflow::Block { timeout: FOREVER });
        let topic = topic.open().unwrap();
        let (turned_away, first) = mpsc::channel();
        let mut waits = true;
        let subscription = topic.subscribe("x", move |_| {
            if std::mem::take(&mut waits) {
                first.recv().expect("a publisher that is turned away");
            }
            Ok(())
        });
        subscription.unwrap().detach();
        let threads = publishers(move |publisher| match topic.publish((publisher, 0)) {
            Ok(_) => {}
            Err(PublishError::Closed(_)) => turned_away.send(()).unwrap_or_default(),
            Err(other) => panic!("{other}"),
        });
        let report = drain(&broker);
        join(threads);
        assert_eq!(report.delivered, report.published);
    });
}

#[test]
fn retries_meet_an_unsubscribe_and_a_drain() {
    explore(|| {
        let broker = broker();
        let retry = Backoff::fixed(SOON).max_attempts(2);
        let topic = broker.topic::<Sent>("a").retry(retry).open().unwrap();
        let subscribe = |name| {
            let calls = Log::new();
            let of_handler = calls.clone();
            let subscription = topic.subscribe(name, move |delivery| {
                of_handler.push(*delivery.payload());
                match (delivery.payload().0, delivery.attempt()) {
                    (0, _) | (1 | 2, 1) => Err(Nack::retry("again")),
                    _ => Ok(()),
                }
            });
            (calls, subscription.unwrap())
        };
        let (calls, stays) = subscribe("stays");
        let (_, cancelled) = subscribe("cancelled");
        let (_, drained) = subscribe("drained");
        let mut threads = publishers({
            let topic = topic.clone();
            move |publisher| {
                topic.publish((publisher, 0)).unwrap();
            }
        });
        let timeout = FOREVER;
        let ends = [
            (cancelled, Unsubscribe::Cancel),
            (drained, Unsubscribe::Drain { timeout }),
        ];
        for (subscription, mode) in ends {
            threads.push(thread::spawn(move || {
                let Unsubscribed::Ended(last) = subscription.unsubscribe(mode) else {
                    panic!("it is outside of all handlers");
                };
                let counts = last.counts;
                assert_eq!((counts.ended(), counts.awaiting_retry), (counts.made, 0));
                let cancels = mode == Unsubscribe::Cancel;
                assert!(cancels || counts.cancelled == 0, "{counts:?}");
            }));
        }
        join(threads);
        drain(&broker);
        let counts = stays.metrics().counts;
        assert_eq!((counts.delivered, counts.dead_lettered), (3, 1));
        assert_eq!((counts.attempts, calls.len()), (7, 7));
    });
}

/// A retry that leaves the timer's wheel while a drain asks whether any is to come.
#[test]
fn a_drain_meets_a_retry_that_is_just_due() {
    explore(|| {
        let broker = Broker::builder().workers(1).histograms(Histograms::Off);
        let broker = broker.build().unwrap();
        let topic = broker.topic::<Sent>("a").open().unwrap();
        let lane = topic.subscription("x").retry(Backoff::fixed(SOON));
        let subscription = lane.subscribe(|delivery| match delivery.attempt() {
            1 => Err(Nack::retry("again")),
            _ => Ok(()),
        });
        subscription.unwrap().detach();
        topic.publish((0, 0)).unwrap();
        let report = drain(&broker);
        assert_eq!((report.delivered, report.cut_off), (1, 0));
    });
}

/// The thread that drains for a future, which somebody else drops after its first poll.
#[test]
fn a_drain_that_is_awaited_meets_publishers_and_one_that_is_given_up() {
    explore(|| {
        let broker = broker();
        let topic = broker.topic::<Sent>("a").open().unwrap();
        let log = log(&topic, "all");
        let mut threads = publishers(move |publisher| {
            for number in 0..2 {
                let _ = topic.publish((publisher, number));
            }
        });
        let other = broker.clone();
        threads.push(thread::spawn(move || {
            let mut given_up = pin!(other.drain_async(FOREVER));
            let _ = given_up
                .as_mut()
                .poll(&mut Context::from_waker(Waker::noop()));
        }));
        let report = shuttle::future::block_on(broker.drain_async(FOREVER)).unwrap();
        join(threads);
        assert_eq!(report.delivered, log.len() as u64);
        assert_eq!(report.published, report.delivered);
        assert_in_order(&log.take());
        assert_balanced(&broker);
    });
}

#[test]
fn a_drain_with_a_deadline_accounts_for_everything() {
    explore(|| {
        let broker = broker();
        let retry = Backoff::fixed(2 * SOON).max_attempts(3);
        let topic = broker.topic::<Sent>("a").retry(retry).open().unwrap();
        let subscription = topic.subscribe("x", |delivery| match delivery.attempt() {
            1 => Err(Nack::retry("again")),
            _ => Ok(()),
        });
        let subscription = subscription.unwrap();
        let threads = publishers(move |publisher| {
            for number in 0..2 {
                match topic.publish((publisher, number)) {
                    Ok(_) | Err(PublishError::Closed(_)) => {}
                    Err(other) => panic!("{other}"),
                }
            }
        });
        let drained = broker.drain(3 * SOON);
        join(threads);
        let report = drained.unwrap_or_else(|incomplete| *incomplete.report());
        let of_deliveries = report.delivered + report.cancelled + report.remaining;
        let of_messages = report.messages_dropped + report.unrouted;
        assert_eq!(of_deliveries + of_messages, report.published, "{report:?}");
        while !subscription.has_ended() {
            thread::yield_now();
        }
        let counts = subscription.metrics().counts;
        assert_eq!((counts.ended(), counts.awaiting_retry), (counts.made, 0));
    });
}

/// The broker's last handle, and with it the broker, ends inside a handler of its
/// own: nobody may wait for whoever runs that.
#[test]
fn the_last_handles_go_inside_a_handler() {
    explore(|| {
        let broker = broker();
        let topic = broker.topic::<Sent>("a").capacity(2).open().unwrap();
        let (gone, ended) = mpsc::channel();
        let everything = Arc::new(Mutex::new(None));
        let (guard, held) = (Guard(gone), Arc::clone(&everything));
        let subscription = topic.subscribe("x", move |_| {
            let _keep = &guard;
            let all: Option<(Broker, Topic<Sent>, Subscription)> = held.lock().unwrap().take();
            drop(all);
            Ok(())
        });
        let threads = publishers({
            let topic = topic.clone();
            move |publisher| match topic.publish((publisher, 0)) {
                Ok(_) | Err(PublishError::Full(_) | PublishError::Closed(_)) => {}
                Err(other) => panic!("{other}"),
            }
        });
        *everything.lock().unwrap() = Some((broker, topic.clone(), subscription.unwrap()));
        // One more, in case the others were handled before.
        let _ = topic.publish((0, 1));
        join(threads);
        drop((topic, everything));
        ended.recv().expect("a handler that has ended is dropped");
    });
}
