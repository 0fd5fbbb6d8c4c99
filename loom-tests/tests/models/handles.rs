//! The last handle of a topic and of a broker, and who lets go of it when.

use std::sync::Arc;

use loom::thread;
use millstream::error::{OpenError, RemoveError};
use millstream_loom_tests::{Log, Preemptions, assert_settled, manual, model, worker};

#[test]
fn nobody_publishes_into_a_topic_that_is_removed() {
    model("remove topic, open", Preemptions::up_to(3), || {
        let (broker, _clock) = manual();
        drop(broker.topic::<u32>("t").open().unwrap());
        let publisher = {
            let broker = broker.clone();
            thread::spawn(move || match broker.topic::<u32>("t").open() {
                Ok(topic) => topic.publish(1).unwrap(),
                Err(OpenError::Closed) => panic!("nobody closes it"),
                Err(other) => panic!("{other}"),
            })
        };
        let removed = broker.remove_topic("t");
        publisher.join().unwrap();
        // It was removed before it was opened anew, or not at all.
        let there = broker.metrics().topic("t").map(|topic| topic.published);
        assert_eq!(there, Some(1), "removed: {removed:?}");
        match removed {
            Ok(()) | Err(RemoveError::InUse { .. } | RemoveError::NotEmpty { .. }) => {}
            Err(other) => panic!("{other}"),
        }
        broker.run_until_idle();
        assert_eq!(broker.metrics().balance(), Ok(()));
    });
}

#[test]
fn a_handler_may_hold_the_last_handle_of_its_topic_and_broker() {
    model("last handles in a handler", Preemptions::up_to(2), || {
        let (broker, _clock) = manual();
        let topic = broker.topic("t").capacity(4).open().unwrap();
        let log = Log::new();
        let mut held = Some((topic.clone(), broker.clone()));
        let captured = Arc::new(());
        let with_handler = Arc::clone(&captured);
        let mut write = log.handler();
        let subscription = topic.subscribe("s", move |delivery| {
            write(delivery)?;
            let _ = &with_handler;
            drop(held.take());
            Ok(())
        });
        subscription.unwrap().detach();
        topic.publish(1).unwrap();
        let worker = worker(&broker);
        drop(topic);
        broker.run_until_idle();
        worker.join().unwrap();
        broker.run_until_idle();
        assert_eq!(log.read(), [1]);
        assert_settled(&broker);
        drop(broker);
        assert_eq!(Arc::strong_count(&captured), 1, "the handler has gone");
    });
}
