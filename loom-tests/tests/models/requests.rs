//! Requests and schedules: a request has one outcome, and nobody sleeps through its reply. A schedule
//! that was cancelled while it ticked has no deadline and no closure any more.

use std::sync::Arc;
use std::time::Duration;

use loom::sync::Notify;
use loom::thread;
use millstream::request::Replied;
use millstream::{Broker, Lease, Pull, PullSubscription, RequestError, Topic};
use millstream_loom_tests::{Preemptions, assert_settled, manual, model, threaded};

const SECOND: Duration = Duration::from_secs(1);
/// For models whose time jumps while somebody waits for a lock.
const NEVER: Duration = Duration::MAX;
const FEW: Preemptions = Preemptions {
    plain: Some(0),
    rmw: Some(1),
};

fn asked(broker: &Broker) -> (Topic<u32>, PullSubscription<u32>) {
    let topic = broker.topic("t").capacity(4).open().unwrap();
    let pull = Pull::default().ack_deadline(NEVER);
    let worker = topic.subscription("s").pull(pull).unwrap();
    (topic, worker)
}

/// Replies, and keeps the lease.
fn responder(worker: PullSubscription<u32>) -> thread::JoinHandle<(Lease<u32>, Replied)> {
    thread::spawn(move || {
        let lease = worker.recv().unwrap();
        let replied = lease.reply(lease.payload() + 1);
        (lease, replied)
    })
}

#[test]
fn a_requester_that_falls_asleep_hears_of_the_reply() {
    model("request, reply", FEW, || {
        let broker = threaded();
        let topic = broker.topic::<u32>("t").capacity(4).open().unwrap();
        let heard = Arc::new(Notify::new());
        let waits = Arc::clone(&heard);
        let responder = topic.subscribe("s", move |asked| {
            asked.reply(asked.payload() + 1);
            // The end of the delivery would wake the requester, too.
            waits.wait();
            Ok(())
        });
        assert_eq!(topic.request(1, NEVER), Ok(2_u32));
        heard.notify();
        drop(responder);
        drop(broker);
    });
}

#[test]
fn a_reply_and_the_timeout_have_one_outcome() {
    model("request, timeout", FEW, || {
        let broker = threaded();
        let (topic, worker) = asked(&broker);
        let responder = responder(worker);
        let outcome = topic.request::<u32>(1, SECOND);
        let (lease, replied) = responder.join().unwrap();
        match outcome {
            Ok(reply) => assert_eq!((reply, replied), (2, Replied::Taken)),
            Err(RequestError::TimedOut) => assert_eq!(replied, Replied::Late),
            Err(other) => panic!("{other:?}"),
        }
        let late = u64::from(replied == Replied::Late);
        assert_eq!(topic.metrics().late_replies, late);
        // Time may have jumped to its deadline.
        let _ = lease.ack();
        drop(broker);
    });
}

#[test]
fn a_schedule_that_is_cancelled_while_it_ticks_is_gone() {
    model("schedule, cancel", Preemptions::up_to(3), || {
        let (broker, clock) = manual();
        let topic = broker.topic::<u32>("t").capacity(4).open().unwrap();
        let held = Arc::new(());
        let schedule = topic.every(SECOND).publish({
            let held = Arc::clone(&held);
            move || Arc::strong_count(&held) as u32
        });
        clock.advance(SECOND);
        let runner = {
            let broker = broker.clone();
            thread::spawn(move || {
                broker.run_until_idle();
            })
        };
        schedule.unwrap().cancel();
        runner.join().unwrap();
        assert_eq!(broker.next_deadline(), None);
        assert_eq!(Arc::strong_count(&held), 1);
        assert!(topic.metrics().published <= 1);
        broker.run_until_idle();
        assert_settled(&broker);
    });
}
