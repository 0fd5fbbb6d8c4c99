//! Events can be kept, compared and sent on, and say only what there is to say.

use std::sync::mpsc;

use crate::harness::{assert_balanced, manual};
use millstream::Nack;
use millstream::event::{EventKind, OwnedEvent, Status};
use millstream::retry::FailureKind;

#[test]
fn an_event_outlives_the_call_and_equals_what_was_heard() {
    fn goes<V: Send + Sync + Clone + 'static>(_: &V) {}
    let (broker, _clock) = manual();
    let topic = broker.topic::<u32>("orders").open().expect("opens");
    let (tell, told) = mpsc::channel::<OwnedEvent>();
    let observation = broker.observe(move |event| {
        let owned = event.into_owned();
        assert_eq!(owned.event(), *event);
        assert_eq!(owned.to_string(), event.to_string());
        tell.send(owned).expect("the test listens");
    });
    let observation = observation.expect("observes");
    let _billing = topic.subscribe("billing", |_| Err(Nack::dead_letter("no")));
    topic.publish(1).expect("there is room");
    broker.run_until_idle();
    drop(observation);
    let heard: Vec<_> = told.iter().collect();
    heard.iter().for_each(goes);
    assert_eq!(broker.metrics().observer_panics, 0);
    let failed = EventKind::Failed {
        kind: FailureKind::Error,
        error: "no".into(),
    };
    let of_failed: Vec<_> = heard
        .iter()
        .map(OwnedEvent::event)
        .filter(|event| *event.kind() == failed)
        .map(|event| (event.topic(), event.subscription(), event.attempt()))
        .collect();
    assert_eq!(of_failed, [(Some("orders"), Some("billing"), Some(1))]);
    assert!(heard.windows(2).all(|two| two[0] != two[1]));
    assert_balanced(&broker);
}

#[test]
fn an_event_has_neither_a_topic_nor_an_attempt_that_it_is_not_about() {
    let (broker, _clock) = manual();
    let (tell, told) = mpsc::channel();
    let observation = broker.observe(move |event| drop(tell.send(event.into_owned())));
    let observation = observation.expect("observes");
    let topic = broker.topic::<u32>("orders").open().expect("opens");
    topic.publish(1).expect("there is room");
    drop(broker.drain(std::time::Duration::ZERO));
    drop(observation);
    let heard: Vec<_> = told.iter().collect();
    let about = |kind: &str| {
        let mut events = heard.iter().map(OwnedEvent::event);
        let event = events.find(|event| event.kind().as_str() == kind);
        event.map(|event| (event.topic(), event.attempt(), event.status()))
    };
    assert_eq!(about("drain_started"), Some((None, None, None)));
    assert_eq!(about("topic_opened"), Some((Some("orders"), None, None)));
    let enqueued = (Some("orders"), None, Some(Status::Queued));
    assert_eq!(about("message_enqueued"), Some(enqueued));
    assert_balanced(&broker);
}
