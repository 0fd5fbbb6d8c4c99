//! Payloads by value: up to 16 KiB they go every way there is, on stacks of the default
//! size and in a build without optimization; larger ones are refused where the topic is
//! opened. They never end the process.

use std::time::Duration;

use crate::harness::{HANG, Log, assert_rests_balanced, threaded};
use millstream::error::OpenError;
use millstream::{
    Backoff, Batched, Broker, LaneFull, MAX_PAYLOAD, Nack, Overflow, Pull, Subscription, Topic,
    TopicBuilder, Unkeyed,
};

const MS: Duration = Duration::from_millis(1);

/// As large as a payload may be; numbered by its first byte.
type Large = [u8; MAX_PAYLOAD];

fn large(number: u8) -> Large {
    [number; MAX_PAYLOAD]
}

fn builder(broker: &Broker) -> TopicBuilder<'_, Large> {
    broker.topic("t").capacity(64)
}

fn read(topic: &Topic<Large>) -> (Log<u8>, Subscription) {
    let log = Log::new();
    let subscribed = topic.subscribe("s", {
        let log = log.clone();
        move |d| {
            log.push(d.payload()[MAX_PAYLOAD - 1]);
            Ok(())
        }
    });
    (log, subscribed.expect("subscribes"))
}

fn publish_ten(topic: &Topic<Large>) {
    for n in 0..10 {
        topic.publish(large(n)).expect("there is room");
    }
}

/// What ten messages look like once each has been handled.
fn assert_all(broker: &Broker, log: &Log<u8>) {
    assert_rests_balanced(broker);
    let mut seen = log.take();
    seen.sort_unstable();
    assert_eq!(seen, (0..10).collect::<Vec<_>>());
}

#[test]
fn a_topic_of_payloads_that_would_overflow_a_stack_is_refused() {
    let broker = threaded(1);
    let refused = broker.topic::<[u8; MAX_PAYLOAD + 1]>("t").open();
    let OpenError::Invalid(invalid) = refused.expect_err("it is too large") else {
        panic!("it says something else");
    };
    assert_eq!(invalid.setting(), "payload");
    let said: String = invalid.to_string().replace(',', "");
    assert!(
        said.contains(&format!("exceed {MAX_PAYLOAD} bytes")),
        "{said}"
    );
    let boxed = broker.topic::<Box<[u8; 1 << 20]>>("t").open();
    boxed.expect("a box is small");
}

#[test]
fn a_payload_at_the_limit_is_published_in_every_way() {
    type Publish = fn(&Topic<Large>);
    let ways: [Publish; 6] = [
        publish_ten,
        |topic| {
            let published = topic.publish_batch((0..10).map(large));
            published.expect("there is room");
        },
        |topic| {
            let linger = Batched::of(4).linger(MS);
            let mut buffered = topic.buffered(linger).expect("buffers");
            (0..10).for_each(|n| buffered.publish(large(n)).expect("there is room"));
            buffered.flush().expect("there is room");
        },
        |topic| {
            for n in 0..10 {
                topic.publish_after(MS, large(n)).expect("there is room");
            }
        },
        |topic| {
            for n in 0..10 {
                let message = topic.message(large(n)).key("k").header("a", "b");
                message.publish().expect("there is room");
            }
        },
        |topic| {
            for n in 0..10 {
                let message = topic.message(large(n)).key("k").after(MS);
                message.publish().expect("there is room");
            }
        },
    ];
    for publish in ways {
        for split in [false, true] {
            let broker = threaded(2);
            let builder = builder(&broker);
            let builder = match split {
                true => builder.partitions(3).unkeyed(Unkeyed::Sticky),
                false => builder,
            };
            let topic = builder.open().expect("opens");
            let (log, _subscription) = read(&topic);
            publish(&topic);
            assert_all(&broker, &log);
        }
    }
}

#[test]
fn a_payload_at_the_limit_is_handled_in_every_way() {
    type Subscribe = fn(&Topic<Large>, Log<u8>) -> Subscription;
    let ways: [Subscribe; 3] = [
        |topic, log| {
            let batches = topic.subscription("s").subscribe_batches(
                Batched::of(4).linger(MS),
                move |batch| {
                    batch.iter().for_each(|d| log.push(d.payload()[0]));
                    Ok(())
                },
            );
            batches.expect("subscribes")
        },
        |topic, log| {
            let concurrent = topic
                .subscription("s")
                .concurrency(2)
                .subscribe_shared(move |d| {
                    log.push(d.payload()[0]);
                    Ok(())
                });
            concurrent.expect("subscribes")
        },
        |topic, log| {
            let narrow = topic.subscription("s").capacity(16);
            let narrow = narrow.when_full(LaneFull::DropOldest);
            let narrow = narrow.retry(Backoff::fixed(MS).max_attempts(2));
            let narrow = narrow.subscribe(move |d| match d.attempt() {
                1 => Err(Nack::retry("once")),
                _ => {
                    log.push(d.payload()[0]);
                    Ok(())
                }
            });
            narrow.expect("subscribes")
        },
    ];
    for subscribe in ways {
        let broker = threaded(2);
        let topic = builder(&broker).open().expect("opens");
        let log = Log::new();
        let _subscription = subscribe(&topic, log.clone());
        publish_ten(&topic);
        assert_all(&broker, &log);
    }
}

#[cfg(feature = "async")]
#[test]
fn a_payload_at_the_limit_is_handled_by_async_functions() {
    let broker = threaded(2);
    let topic = builder(&broker).open().expect("opens");
    let log = Log::new();
    let seen = log.clone();
    let calls = topic
        .subscription("s")
        .concurrency(2)
        .subscribe_async(move |d| {
            let seen = seen.clone();
            async move {
                seen.push(d.payload()[0]);
                Ok(())
            }
        });
    let _calls = calls.expect("subscribes");
    publish_ten(&topic);
    assert_all(&broker, &log);
}

#[test]
fn a_payload_at_the_limit_is_pulled_redriven_and_dropped() {
    let broker = threaded(2);
    let topic = builder(&broker).capacity(10).overflow(Overflow::DropOldest);
    let topic = topic.retry(Backoff::none()).open().expect("opens");
    let pull = topic.subscription("s").pull(Pull::default());
    let pull = pull.expect("subscribes");
    for n in 0..10 {
        topic.publish(large(n)).expect("it makes room");
        let lease = pull.recv_timeout(HANG).expect("it has come");
        lease.nack(Nack::dead_letter("not now")).expect("in time");
    }
    assert_rests_balanced(&broker);
    assert_eq!(topic.dead_letters().redrive(|_| true).redriven, 10);
    let log = Log::new();
    // A batch is what has come back by then.
    while log.len() < 10 {
        for lease in pull.recv_batch(10, HANG).expect("they come back") {
            log.push(lease.payload()[0]);
            lease.ack().expect("in time");
        }
    }
    assert_all(&broker, &log);
    drop(pull);
    let metrics = assert_rests_balanced(&broker);
    assert_eq!(metrics.deliveries().open(), 0);
}
