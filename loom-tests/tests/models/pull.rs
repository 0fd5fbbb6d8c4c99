//! Deliveries on lease: each is settled by exactly one, and no receiver sleeps through
//! what it waits for.

use std::time::Duration;

use loom::thread;
use millstream::error::RecvError;
use millstream::{Backoff, Broker, Pull, PullSubscription, Topic, Unsubscribe};
use millstream_loom_tests::{Preemptions, assert_settled, manual, model, threaded};

const SECOND: Duration = Duration::from_secs(1);
/// For models whose time jumps while somebody waits for a lock: no lease ends by it.
const NEVER: Duration = Duration::MAX;

fn pulled(broker: &Broker, pull: Pull) -> (Topic<u32>, PullSubscription<u32>) {
    let topic = broker.topic("t").capacity(4).retry(Backoff::none());
    let topic = topic.open().unwrap();
    let worker = topic.subscription("s").pull(pull).unwrap();
    (topic, worker)
}

#[test]
fn an_ack_and_the_deadline_settle_a_lease_once() {
    model("pull, deadline", Preemptions::up_to(2), || {
        let (broker, clock) = manual();
        let (topic, worker) = pulled(&broker, Pull::default().ack_deadline(SECOND));
        topic.publish(1).unwrap();
        let lease = worker.recv().unwrap();
        let runner = {
            let broker = broker.clone();
            thread::spawn(move || {
                clock.advance(2 * SECOND);
                broker.run_until_idle();
            })
        };
        let acked = lease.ack().is_ok();
        runner.join().unwrap();
        broker.run_until_idle();
        let metrics = worker.metrics();
        let (timed_out, stale) = (metrics.timed_out == 1, metrics.stale == 1);
        assert_eq!((timed_out, stale), (!acked, !acked));
        assert_eq!(metrics.counts.delivered, u64::from(acked));
        assert_settled(&broker);
    });
}

#[test]
fn an_old_lease_and_its_timer_leave_the_next_tenant_alone() {
    model("pull, next tenant", Preemptions::up_to(2), || {
        let (broker, clock) = manual();
        let retry = Backoff::fixed(Duration::from_nanos(1)).max_attempts(2);
        let topic = broker.topic("t").capacity(4).retry(retry).open().unwrap();
        let pull = Pull::default().ack_deadline(SECOND);
        let worker = topic.subscription("s").pull(pull).unwrap();
        topic.publish(1).unwrap();
        let old = worker.recv().unwrap();
        clock.advance(SECOND + Duration::from_millis(1));
        broker.run_until_idle();
        clock.advance(Duration::from_millis(1));
        let late = thread::spawn(move || old.ack());
        let new = worker.recv().unwrap();
        assert!(late.join().unwrap().is_err());
        assert_eq!(new.ack(), Ok(()));
        assert_eq!(worker.metrics().counts.delivered, 1);
        assert_settled(&broker);
    });
}

#[test]
fn a_timer_that_fires_for_an_extended_lease_does_not_end_it() {
    model("pull, extend", Preemptions::up_to(2), || {
        let (broker, clock) = manual();
        let (topic, worker) = pulled(&broker, Pull::default().ack_deadline(SECOND / 4));
        topic.publish_batch([1, 2]).unwrap();
        let mut first = worker.recv().unwrap();
        first.extend(SECOND / 2).unwrap();
        worker.set_ack_deadline(SECOND).unwrap();
        let runner = {
            let broker = broker.clone();
            thread::spawn(move || {
                clock.advance(SECOND / 2 + Duration::from_millis(1));
                broker.run_until_idle();
            })
        };
        // It makes room for another in its slot, whose deadline is later.
        let acked = first.ack().is_ok();
        let second = worker.try_recv();
        runner.join().unwrap();
        broker.run_until_idle();
        let second = second.or_else(|_| worker.try_recv()).unwrap();
        assert_eq!(second.ack(), Ok(()));
        let metrics = worker.metrics();
        assert_eq!(metrics.timed_out, u64::from(!acked));
        assert_settled(&broker);
    });
}

#[test]
fn an_ack_of_a_batch_and_the_deadline_settle_all_of_it_once() {
    model("pull, batch", Preemptions::up_to(2), || {
        let (broker, clock) = manual();
        let (topic, worker) = pulled(&broker, Pull::default().ack_deadline(SECOND));
        topic.publish_batch([1, 2]).unwrap();
        let batch = worker.recv_batch(2, Duration::ZERO).unwrap();
        let runner = {
            let broker = broker.clone();
            thread::spawn(move || {
                clock.advance(2 * SECOND);
                broker.run_until_idle();
            })
        };
        let acked = batch.ack_all().is_ok();
        runner.join().unwrap();
        broker.run_until_idle();
        let metrics = worker.metrics();
        let (all, none) = if acked { (2, 0) } else { (0, 2) };
        assert_eq!((metrics.timed_out, metrics.stale), (none, none));
        assert_eq!(metrics.counts.delivered, all);
        assert_settled(&broker);
    });
}

#[test]
fn a_receiver_that_falls_asleep_hears_of_a_message() {
    let most = Preemptions {
        plain: Some(0),
        rmw: Some(1),
    };
    model("pull, publish", most, || {
        let broker = threaded();
        let (topic, worker) = pulled(&broker, Pull::default().ack_deadline(NEVER));
        let publisher = thread::spawn(move || topic.publish(1).map(drop).unwrap());
        assert_eq!(worker.recv().unwrap().ack(), Ok(()));
        publisher.join().unwrap();
        drop(worker);
        drop(broker);
    });
}

#[test]
fn two_receivers_share_one_credit() {
    let most = Preemptions {
        plain: Some(0),
        rmw: Some(1),
    };
    model("pull, one credit", most, || {
        let broker = threaded();
        let (topic, worker) = pulled(&broker, Pull::default().credits(1).ack_deadline(NEVER));
        topic.publish_batch([1, 2]).unwrap();
        let other = {
            let worker = worker.clone();
            thread::spawn(move || {
                let lease = worker.recv().unwrap();
                // Where it waits for a lock on its way, time may jump to the deadline.
                let _ = lease.ack();
            })
        };
        let lease = worker.recv().unwrap();
        assert_eq!(worker.metrics().leased, 1);
        assert_eq!(lease.ack(), Ok(()));
        other.join().unwrap();
        drop(worker);
        drop(broker);
    });
}

#[test]
fn a_receiver_that_waits_hears_of_the_end() {
    let most = Preemptions {
        plain: Some(0),
        rmw: Some(1),
    };
    model("pull, end", most, || {
        let broker = threaded();
        let (_topic, worker) = pulled(&broker, Pull::default());
        let receiver = {
            let worker = worker.clone();
            thread::spawn(move || worker.recv().err())
        };
        worker.unsubscribe(Unsubscribe::Cancel);
        assert_eq!(receiver.join().unwrap(), Some(RecvError::Ended));
        drop(broker);
    });
}
