//! A message keeps its key, its headers and its time to live, whether it is published alone, in a
//! batch or through a buffer. A refusal hands it back whole.

use std::time::Duration;

use crate::harness::{Log, advance, assert_balanced, manual};
use millstream::{
    Batched, Broker, HeaderValue, Message, Nack, NoSubscribers, Overflow, PublishError, Pull,
    Subscription, Topic,
};

const MS: Duration = Duration::from_millis(1);

/// Payload, key, and the header `h`.
type Seen = (u64, Option<String>, Option<String>);

fn see(topic: &Topic<u64>) -> (Log<Seen>, Subscription) {
    let log = Log::new();
    let seen = log.clone();
    let subscription = topic.subscribe("s", move |delivery| {
        let text = |text: &str| text.to_owned();
        let (key, header) = (delivery.key().map(text), delivery.header("h").map(text));
        seen.push((*delivery.payload(), key, header));
        Ok(())
    });
    (log, subscription.unwrap())
}

/// Some of each kind.
fn message(number: u64) -> Message<u64> {
    let message = Message::new(number);
    match number % 3 {
        0 => message,
        1 => message.key(format!("key {}", number % 5)),
        _ => message.header("h", number.to_string()).ttl(MS),
    }
}

fn seen(number: u64) -> Seen {
    let key = (number % 3 == 1).then(|| format!("key {}", number % 5));
    (number, key, (number % 3 == 2).then(|| number.to_string()))
}

#[test]
fn a_batch_of_any_size_keeps_keys_and_headers_with_their_payloads() {
    for partitions in [None, Some(4)] {
        for count in [0, 1, 2, 32, 33, 64, 65, 200] {
            let (broker, _clock) = manual();
            let mut builder = broker.topic("t");
            if let Some(partitions) = partitions {
                builder = builder.partitions(partitions);
            }
            let topic = builder.open().unwrap();
            let (log, _subscription) = see(&topic);
            topic.publish(1_000).unwrap();
            let receipt = topic.publish_messages((0..count).map(message)).unwrap();
            assert_eq!(receipt.accepted() as u64, count);
            let first = (count > 0).then_some(2);
            assert_eq!(receipt.first().map(|id| id.get()), first);
            broker.run_until_idle();
            let mut came = log.take();
            came.retain(|(number, ..)| *number < 1_000);
            if partitions.is_some() {
                came.sort_by_key(|(number, ..)| *number);
            }
            assert_eq!(came, (0..count).map(seen).collect::<Vec<_>>());
            assert_balanced(&broker);
        }
    }
}

#[test]
fn messages_of_a_batch_go_to_the_partitions_of_their_keys() {
    let (broker, _clock) = manual();
    let topic = broker.topic("t").partitions(4).open().unwrap();
    let mut buffer = topic.buffered(Batched::of(50).until_full()).unwrap();
    let mut depths = [0; 4];
    for number in 0..20_u64 {
        depths[topic.partition_of(&format!("key {number}"))] += 2;
    }
    let keyed = |number: u64| Message::new(number).key(format!("key {number}"));
    topic.publish_messages((0..20).map(keyed)).unwrap();
    for message in (0..20).map(keyed) {
        buffer.publish_message(message).unwrap();
    }
    buffer.flush().unwrap();
    assert_eq!(topic.metrics().partitions, depths);
    broker.run_until_idle();
    assert_balanced(&broker);
}

fn small(broker: &Broker, overflow: Overflow) -> Topic<u64> {
    let topic = broker.topic("t").capacity(3).overflow(overflow);
    topic.no_subscribers(NoSubscribers::Retain).open().unwrap()
}

#[test]
fn a_refused_batch_hands_back_whole_messages() {
    for partitions in [None, Some(2)] {
        let (broker, _clock) = manual();
        let mut builder = broker.topic("t").capacity(3);
        if let Some(partitions) = partitions {
            builder = builder.partitions(partitions);
        }
        let retained = builder.no_subscribers(NoSubscribers::Retain);
        let topic = retained.open().unwrap();
        let partial = topic.publish_messages((0..100).map(message)).unwrap_err();
        assert_eq!(partial.accepted, 3);
        assert!(matches!(partial.error, PublishError::Full(_)));
        let rest: Vec<_> = (3..100).map(message).collect();
        assert_eq!(partial.into_inner(), rest);
        assert_eq!(topic.metrics().rejected, 97);
        broker.drain(Duration::ZERO).unwrap_err();
        let partial = topic.publish_messages(rest.clone()).unwrap_err();
        assert!(matches!(partial.error, PublishError::Closed(_)));
        assert_eq!(partial.into_inner(), rest);
        assert_balanced(&broker);
    }
}

#[test]
fn a_batch_goes_as_far_as_the_first_message_that_makes_no_sense() {
    let (broker, _clock) = manual();
    let topic = broker.topic("t").open().unwrap();
    let (log, _subscription) = see(&topic);
    let batch = [
        Message::new(1),
        Message::new(2).key("k"),
        Message::new(3).ttl(Duration::ZERO),
        Message::new(4),
    ];
    let partial = topic.publish_messages(batch.clone()).unwrap_err();
    assert_eq!(partial.accepted, 2);
    assert_eq!(
        partial.to_string(),
        "2 messages of the batch were accepted, then ttl is zero, but it must be longer, or every \
         message would expire at once"
    );
    assert!(matches!(partial.error, PublishError::Invalid { .. }));
    assert_eq!(partial.into_inner(), batch[2..]);
    broker.run_until_idle();
    let came: Vec<_> = log.take().into_iter().map(|(number, ..)| number).collect();
    assert_eq!(came, [1, 2]);
    assert_eq!(topic.metrics().rejected, 0);
    assert_balanced(&broker);
}

#[test]
fn a_delayed_message_of_a_batch_has_its_id_now_and_comes_in_its_time() {
    let (broker, clock) = manual();
    let topic = broker.topic("t").capacity(5).open().unwrap();
    let (log, _subscription) = see(&topic);
    let late = |number| message(number).after(MS);
    let batch = [message(0), late(1), message(2), late(4)];
    let receipt = topic.publish_messages(batch).unwrap();
    assert_eq!(receipt.last().unwrap().get(), 4);
    broker.run_until_idle();
    assert_eq!(log.take(), [0, 2].map(seen));
    // The two hold their places, so three more are too many in either order.
    let batch = [late(5), message(6), message(7), message(8), late(10)];
    let partial = topic.publish_messages(batch.clone()).unwrap_err();
    assert_eq!(partial.into_inner(), batch[3..]);
    let partial = topic.publish_messages([late(10), message(11)]).unwrap_err();
    assert_eq!(partial.into_inner(), [late(10), message(11)]);
    advance(&broker, &clock, MS);
    let mut came = log.take();
    came.sort();
    assert_eq!(came, [1, 4, 5, 6, 7].map(seen));
    assert_balanced(&broker);
}

#[test]
fn messages_of_one_batch_expire_each_in_its_time() {
    for (partitions, count) in [(None, 4), (None, 40), (Some(2), 40)] {
        let (broker, clock) = manual();
        let mut builder = broker.topic("t").capacity(count);
        if let Some(partitions) = partitions {
            builder = builder.partitions(partitions);
        }
        let retained = builder.no_subscribers(NoSubscribers::Retain);
        let topic = retained.open().unwrap();
        let batch = (0..count as u64).map(|number| match number % 2 {
            0 => Message::new(number).ttl(MS * (1 + number as u32 % 4)),
            _ => Message::new(number),
        });
        topic.publish_messages(batch).unwrap();
        broker.run_until_idle();
        advance(&broker, &clock, MS * 2);
        assert_eq!(topic.metrics().dropped as usize, count / 4);
        advance(&broker, &clock, MS * 2);
        assert_eq!(topic.metrics().dropped as usize, count / 2);
        let (log, _subscription) = see(&topic);
        broker.run_until_idle();
        let mut came: Vec<_> = log.take().into_iter().map(|(number, ..)| number).collect();
        came.sort_unstable();
        let odd = (0..count as u64).filter(|number| number % 2 == 1);
        assert_eq!(came, odd.collect::<Vec<_>>());
        assert_balanced(&broker);
    }
}

#[test]
fn a_buffer_keeps_keys_and_headers_with_their_payloads() {
    let (broker, _clock) = manual();
    let topic = broker.topic("t").open().unwrap();
    let (log, _subscription) = see(&topic);
    let mut buffer = topic.buffered(Batched::of(7).until_full()).unwrap();
    for number in 0..40 {
        match number % 3 {
            0 => buffer.publish(number).unwrap(),
            _ => buffer.publish_message(message(number)).unwrap(),
        }
    }
    assert_eq!(buffer.flush().unwrap().accepted(), 40);
    broker.run_until_idle();
    assert_eq!(log.take(), (0..40).map(seen).collect::<Vec<_>>());
    assert_balanced(&broker);
}

#[test]
fn a_buffer_hands_back_whole_messages() {
    let (broker, _clock) = manual();
    let topic = small(&broker, Overflow::Reject);
    let mut buffer = topic.buffered(Batched::of(2).until_full()).unwrap();
    for number in 1..=5 {
        buffer.publish_message(message(number)).unwrap();
    }
    // Three are in the topic, and two in the buffer.
    let Err(PublishError::Full(back)) = buffer.publish_message(message(7)) else {
        panic!("there is no room");
    };
    assert_eq!(back, message(7));
    let back = buffer.publish_message(message(8).after(MS)).unwrap_err();
    assert_eq!(back.into_inner(), message(8).after(MS));
    let zero = message(9).ttl(Duration::ZERO);
    let Err(PublishError::Invalid { payload, .. }) = buffer.publish_message(zero.clone()) else {
        panic!("it makes no sense");
    };
    assert_eq!(payload, zero);
    assert_eq!(topic.metrics().rejected, 2);
    let rest = buffer.flush().unwrap_err().into_inner();
    assert_eq!(rest, [message(4), message(5)]);
    assert_balanced(&broker);
}

#[test]
fn a_delayed_message_does_not_wait_in_a_buffer() {
    let (broker, clock) = manual();
    let topic = broker.topic("t").open().unwrap();
    let (log, _subscription) = see(&topic);
    topic.publish(0).unwrap();
    let mut buffer = topic.buffered(Batched::of(9).until_full()).unwrap();
    buffer.publish_message(message(1)).unwrap();
    buffer.publish_message(message(4).after(MS)).unwrap();
    assert_eq!((buffer.buffered(), topic.metrics().published), (1, 2));
    advance(&broker, &clock, MS);
    assert_eq!(log.take(), [0, 4].map(seen));
    assert_eq!(buffer.flush().unwrap().accepted(), 2);
    broker.run_until_idle();
    assert_eq!(log.take(), [seen(1)]);
    assert_balanced(&broker);
}

#[test]
fn a_message_shows_its_payload_and_prints_none() {
    let message = Message::from(7).key("k").header("a", "b");
    assert_eq!(*message.payload(), 7);
    assert!(!format!("{message:?}").contains('7'));
    assert_eq!(message.into_inner(), 7);
}

#[test]
fn a_header_of_bytes_reaches_handlers_leases_and_letters_as_it_was_published() {
    let (broker, _clock) = manual();
    let topic = broker.topic::<u64>("t").open().unwrap();
    let log = Log::new();
    let seen = log.clone();
    let _handler = topic.subscribe("handler", move |delivery| {
        let value = |value: HeaderValue<'_>| (value.as_str().is_some(), value.as_bytes().to_vec());
        let all = delivery.headers();
        let all: Vec<_> = all.map(|(name, of)| (name.to_owned(), value(of))).collect();
        seen.push(all);
        assert_eq!(delivery.header("digest"), None, "it is no text");
        assert_eq!(delivery.header_bytes("digest"), Some(&b"\xca\xfe"[..]));
        assert_eq!(delivery.header("text"), Some("é"));
        assert_eq!(delivery.header_bytes("text"), Some("é".as_bytes()));
        assert_eq!(delivery.header_bytes("none"), None);
        Err(Nack::dead_letter("to be read again"))
    });
    let worker = topic.subscription("worker").pull(Pull::default()).unwrap();
    let message = || {
        let message = Message::new(7).header_bytes("digest", b"\xca\xfe");
        let message = message.header("text", "é").header("digest", "again");
        message.header_bytes("utf-8", "é").header_bytes("empty", [])
    };
    topic.publish_messages([message()]).unwrap();
    broker.run_until_idle();
    let expected = [
        ("digest", HeaderValue::from(&b"\xca\xfe"[..])),
        ("text", HeaderValue::from("é")),
        ("digest", HeaderValue::from("again")),
        ("utf-8", HeaderValue::Bytes("é".as_bytes())),
        ("empty", HeaderValue::Bytes(b"")),
    ];
    let lease = worker.try_recv().unwrap();
    assert_eq!(lease.headers().collect::<Vec<_>>(), expected);
    assert_eq!(lease.header_bytes("utf-8"), Some("é".as_bytes()));
    assert_eq!(lease.header("utf-8"), None);
    lease.ack().unwrap();
    let letters = topic.dead_letters().list();
    assert_eq!(letters[0].headers().collect::<Vec<_>>(), expected);
    assert_eq!(letters[0].header_bytes("digest"), Some(&b"\xca\xfe"[..]));
    let owned = |(name, value): (&str, HeaderValue<'_>)| {
        let is_text = matches!(value, HeaderValue::Text(_));
        (name.to_owned(), (is_text, value.as_bytes().to_vec()))
    };
    assert_eq!(log.take(), [expected.map(owned).to_vec()]);
    assert_eq!(expected[0].1.to_string(), "\\xca\\xfe");
    assert_eq!(format!("[{:>3}]", expected[1].1), "[  é]");
    assert_ne!(message(), message().header("more", ""));
    assert_balanced(&broker);
}
