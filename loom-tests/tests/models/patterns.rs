//! A topic that is opened while patterns come and go: it has exactly one lane for each
//! subscription that it matches, before anybody can publish to it.

use loom::thread;
use millstream::error::SubscribeError;
use millstream::{PublishError, Unsubscribe, Unsubscribed};
use millstream_loom_tests::{Log, Preemptions, assert_settled, manual, model};

/// A handler that writes what it gets, for several topics.
fn write(
    log: &Log,
) -> impl Fn(&millstream::Delivery<'_, u32>) -> Result<(), millstream::Nack> + Send + Sync + 'static
{
    let log = log.clone();
    move |delivery| {
        log.add(*delivery.payload());
        Ok(())
    }
}

#[test]
fn a_topic_opened_against_a_pattern_has_one_lane_and_misses_nothing() {
    model("open, subscribe pattern", Preemptions::ALL, || {
        let (broker, _clock) = manual();
        let log = Log::new();
        let opener = {
            let broker = broker.clone();
            thread::spawn(move || broker.topic::<u32>("a.b").open().unwrap())
        };
        let sub = broker.subscription("s").matching("a.*").matching("*.b");
        let sub = sub.subscribe(write(&log)).unwrap();
        let topic = opener.join().unwrap();
        // Both have returned.
        topic.publish(1).unwrap();
        broker.run_until_idle();
        assert_eq!(log.read(), [1]);
        assert_eq!(sub.topics().len(), 1);
        assert_eq!(topic.metrics().subscriptions.len(), 1);
        assert_settled(&broker);
    });
}

#[test]
fn who_finds_a_topic_finds_it_with_its_lanes() {
    model("open, publish by name", Preemptions::up_to(3), || {
        let (broker, _clock) = manual();
        let log = Log::new();
        let sub = broker.subscription("s").matching("*");
        let _sub = sub.subscribe(write(&log)).unwrap();
        let opener = {
            let broker = broker.clone();
            thread::spawn(move || drop(broker.topic::<u32>("t").open().unwrap()))
        };
        let published = match broker.publish("t", 1_u32) {
            Ok(_) => true,
            Err(PublishError::UnknownTopic(_)) => false,
            Err(other) => panic!("{other}"),
        };
        broker.run_until_idle();
        opener.join().unwrap();
        broker.run_until_idle();
        assert_eq!(log.read().len(), usize::from(published));
        assert_settled(&broker);
    });
}

#[test]
fn a_name_is_taken_by_one_subscription_as_a_whole() {
    model("subscribe, subscribe pattern", Preemptions::ALL, || {
        let (broker, _clock) = manual();
        let topic = broker.topic::<u32>("t").open().unwrap();
        let log = Log::new();
        let other = {
            let (topic, log) = (topic.clone(), log.clone());
            thread::spawn(move || topic.subscribe("s", log.handler()))
        };
        let ours = broker.subscription("s").matching("*");
        let ours = ours.subscribe(write(&log));
        let other = other.join().unwrap();
        match (&ours, &other) {
            (Ok(_), Err(SubscribeError::NameTaken { .. })) => {}
            (Err(SubscribeError::NameTakenOn { .. }), Ok(_)) => {}
            both => panic!("{both:?}"),
        }
        topic.publish(1).unwrap();
        broker.run_until_idle();
        assert_eq!(log.read(), [1]);
        assert_settled(&broker);
    });
}

#[test]
fn a_topic_opened_against_the_removal_of_its_pattern_has_a_lane_that_ends() {
    model("open, remove pattern", Preemptions::up_to(3), || {
        let (broker, _clock) = manual();
        let log = Log::new();
        let sub = broker.subscription("s").matching("*");
        let sub = sub.subscribe(write(&log)).unwrap();
        let opener = {
            let broker = broker.clone();
            thread::spawn(move || {
                let topic = broker.topic::<u32>("t").open().unwrap();
                topic.publish(1).unwrap();
                topic
            })
        };
        sub.remove("*", Unsubscribe::Cancel).unwrap();
        let topic = opener.join().unwrap();
        topic.publish(2).unwrap();
        broker.run_until_idle();
        assert_eq!(log.read(), [0; 0], "nobody ran it before");
        assert_eq!(sub.topics().len(), 0);
        assert_eq!(topic.metrics().subscriptions, []);
        assert_settled(&broker);
    });
}

#[test]
fn a_topic_opened_against_an_unsubscribe_has_no_lane_afterwards() {
    model("open, unsubscribe pattern", Preemptions::up_to(3), || {
        let (broker, _clock) = manual();
        let log = Log::new();
        let sub = broker.subscription("s").matching("*");
        let sub = sub.subscribe(write(&log)).unwrap();
        let opener = {
            let broker = broker.clone();
            thread::spawn(move || {
                let topic = broker.topic::<u32>("t").open().unwrap();
                topic.publish(1).unwrap();
                topic
            })
        };
        let Unsubscribed::Ended(last) = sub.unsubscribe(Unsubscribe::Cancel) else {
            panic!("outside a handler");
        };
        assert_eq!(last.counts.open(), 0);
        let calls = log.read().len();
        let topic = opener.join().unwrap();
        topic.publish(2).unwrap();
        broker.run_until_idle();
        assert_eq!(log.read().len(), calls, "none after it has ended");
        assert_eq!(topic.metrics().subscriptions, []);
        assert_settled(&broker);
    });
}

#[test]
fn a_topic_removed_against_a_pattern_is_followed_or_gone() {
    model(
        "remove topic, subscribe pattern",
        Preemptions::up_to(3),
        || {
            let (broker, _clock) = manual();
            drop(broker.topic::<u32>("t").open().unwrap());
            let log = Log::new();
            let remover = {
                let broker = broker.clone();
                thread::spawn(move || broker.remove_topic("t").unwrap())
            };
            let sub = broker.subscription("s").matching("*");
            let sub = sub.subscribe(write(&log)).unwrap();
            remover.join().unwrap();
            assert_eq!(sub.topics().len(), 0);
            let topic = broker.topic::<u32>("t").open().unwrap();
            topic.publish(1).unwrap();
            broker.run_until_idle();
            assert_eq!(log.read(), [1]);
            assert_settled(&broker);
        },
    );
}
