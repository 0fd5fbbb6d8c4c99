//! Changes of the observer list, and the thread that calls them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use loom::thread;
use millstream::event::{Event, EventKind, Observation};
use millstream::{Broker, internals};
use millstream_loom_tests::{Preemptions, manual, model};

/// Counts the events of messages that were accepted.
fn listen(broker: &Broker) -> (Observation, Arc<AtomicU64>) {
    let heard = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&heard);
    let observer = move |event: &Event<'_>| {
        if matches!(event.kind(), EventKind::MessageEnqueued { .. }) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    };
    (broker.observe(observer).unwrap(), heard)
}

#[test]
fn observers_that_join_at_once_both_hear_what_follows() {
    model("two observers join", Preemptions::up_to(3), || {
        let (broker, _clock) = manual();
        let topic = broker.topic::<u32>("t").capacity(4).open().unwrap();
        let joiner = {
            let broker = broker.clone();
            thread::spawn(move || listen(&broker))
        };
        let (_ours, heard) = listen(&broker);
        let (_theirs, also_heard) = joiner.join().unwrap();
        topic.publish(1).unwrap();
        broker.run_until_idle();
        assert_eq!(heard.load(Ordering::Relaxed), 1);
        assert_eq!(also_heard.load(Ordering::Relaxed), 1);
    });
}

#[test]
fn an_observer_hears_all_while_another_leaves() {
    model("an observer leaves", Preemptions::up_to(3), || {
        let (broker, _clock) = manual();
        let topic = broker.topic::<u32>("t").capacity(4).open().unwrap();
        let (leaving, _) = listen(&broker);
        let (_staying, heard) = listen(&broker);
        let leaver = thread::spawn(move || drop(leaving));
        topic.publish(1).unwrap();
        broker.run_until_idle();
        leaver.join().unwrap();
        topic.publish(2).unwrap();
        broker.run_until_idle();
        assert_eq!(heard.load(Ordering::Relaxed), 2);
    });
}

#[test]
fn an_event_wakes_the_observers_thread() {
    model("observers' thread", Preemptions::up_to(2), || {
        let (broker, _clock) = manual();
        let topic = broker.topic::<u32>("t").capacity(4).open().unwrap();
        let (_observation, heard) = listen(&broker);
        let listener = {
            let broker = broker.clone();
            thread::spawn(move || internals::listen(&broker))
        };
        topic.publish(1).unwrap();
        // A lost wake-up shows as a deadlock, which loom reports.
        internals::flush_observers(&broker);
        assert_eq!(heard.load(Ordering::Relaxed), 1);
        assert!(broker.drain(Duration::MAX).is_ok());
        listener.join().unwrap();
    });
}
