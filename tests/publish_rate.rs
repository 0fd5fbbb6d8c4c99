//! Promise: a topic with a rate limit accepts no more messages than that. Over the rate a publish is
//! refused, with the payload and the time of the next permit, or waits where it would wait for room.
//! Nothing is dropped for the rate, and a message that is refused has taken no permit.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::{
    HANG, HOUR, Log, advance, assert_balanced, assert_rests_balanced, manual, read, threaded,
};
use millstream::error::OpenError;
use millstream::event::EventKind;
use millstream::protect::RateLimit;
use millstream::{
    Backoff, Batched, Broker, Message, Nack, NoSubscribers, Overflow, PublishError, Topic,
    TopicBuilder, TopicOptions,
};

const MS: Duration = Duration::from_millis(1);

/// One message in each 10 ms, and two at once after a pause.
fn limit() -> RateLimit {
    RateLimit::new(1, 10 * MS).burst(2)
}

fn limited(broker: &Broker) -> Topic<u32> {
    broker.topic("t").rate_limit(limit()).open().expect("opens")
}

fn over<P>(payload: P, retry_after: Duration) -> PublishError<P> {
    PublishError::RateLimited {
        payload,
        retry_after,
    }
}

#[test]
fn over_the_rate_a_publish_is_refused_and_told_when_to_come_again() {
    let (broker, clock) = manual();
    let topic = limited(&broker);
    let (log, _subscription) = read(&topic, "s");
    let told = Log::new();
    let _observation = broker.observe({
        let told = told.clone();
        move |event| {
            if let EventKind::RateLimited { retry_after } = *event.kind() {
                told.push(retry_after);
            }
        }
    });
    topic.publish(1).expect("the burst");
    topic.try_publish(2).expect("the burst");
    assert_eq!(topic.publish(3), Err(over(3, 10 * MS)));
    clock.advance(9 * MS);
    let refused = topic.try_publish(3).expect_err("it is too early");
    assert_eq!(refused.retry_after(), Some(MS));
    assert!(!refused.is_full() && !refused.is_closed());
    let text = "the topic's rate limit is used up for 1ms";
    assert_eq!(refused.to_string(), text);
    assert_eq!(refused.into_inner(), 3);
    let late = topic.publish_after(HOUR, 3);
    assert_eq!(late, Err(over(3, MS)));
    assert_eq!(topic.message(3).key("k").publish(), Err(over(3, MS)));
    advance(&broker, &clock, MS);
    topic.publish(3).expect("its time has come");
    broker.run_until_idle();
    assert_eq!(log.take(), [1, 2, 3]);
    assert_eq!(told.take(), [10 * MS, MS, MS, MS]);
    let metrics = topic.metrics();
    assert_eq!((metrics.rejected, metrics.rate_limited), (4, 4));
    assert_eq!(metrics.published, 3);
    assert_balanced(&broker);
}

#[test]
fn every_kind_of_topic_accepts_exactly_the_rate() {
    type Kind = for<'b> fn(TopicBuilder<'b, u32>) -> TopicBuilder<'b, u32>;
    let kinds: [Kind; 5] = [
        |topic| topic,
        |topic| topic.partitions(4),
        |topic| topic.weight_limit(1_000, |_| 1),
        |topic| topic.no_subscribers(NoSubscribers::Reject),
        |topic| topic.overflow(Overflow::DropOldest).capacity(1),
    ];
    for (number, kind) in kinds.into_iter().enumerate() {
        let (broker, clock) = manual();
        let rate = RateLimit::new(100, Duration::from_secs(1)).burst(5);
        let topic = kind(broker.topic("t").rate_limit(rate));
        let topic = topic.open().expect("opens");
        let (_log, _subscription) = read(&topic, "s");
        let mut accepted = 0;
        for step in 0..1_000 {
            accepted += usize::from(topic.publish(step).is_ok());
            accepted += topic
                .publish_batch([step; 3])
                .map_or_else(|error| error.accepted, |receipt| receipt.accepted());
            advance(&broker, &clock, MS);
        }
        assert_eq!(accepted, 5 + 99, "kind {number}");
        assert_balanced(&broker);
    }
}

#[test]
fn a_batch_larger_than_the_burst_is_accepted_in_pieces() {
    let (broker, clock) = manual();
    let topic = limited(&broker);
    let (log, _subscription) = read(&topic, "s");
    let mut rest: Vec<u32> = (1..=5).collect();
    for accepted in [2, 1, 1] {
        let partial = topic.publish_batch(rest).expect_err("it is over the rate");
        assert_eq!(partial.accepted, accepted);
        assert_eq!(partial.error.retry_after(), Some(10 * MS));
        rest = partial.into_inner();
        advance(&broker, &clock, 10 * MS);
    }
    topic.publish_batch(rest).expect("the last one");
    broker.run_until_idle();
    assert_eq!(log.take(), [1, 2, 3, 4, 5]);
    clock.advance(20 * MS);
    let messages = || [Message::new(6), Message::new(7).after(MS), Message::new(8)];
    let partial = topic.publish_messages(messages()).expect_err("the third");
    assert_eq!(partial.accepted, 2);
    assert_eq!(partial.into_inner(), messages()[2..]);
    advance(&broker, &clock, MS);
    assert_eq!(log.take(), [6, 7]);
    // What is left of each batch counts.
    assert_eq!(topic.metrics().rate_limited, 3 + 2 + 1 + 1);
    assert_balanced(&broker);
}

#[test]
fn a_batch_pays_for_the_part_that_finds_room() {
    let (broker, _clock) = manual();
    let topic = broker.topic::<u32>("t").capacity(2);
    let topic = topic.rate_limit(RateLimit::new(1, HOUR).burst(5)).open();
    let topic = topic.expect("opens");
    let mut permits = 5;
    while permits > 0 {
        let partial = topic.publish_batch(0..9).expect_err("it is too large");
        assert_eq!(partial.accepted, permits.min(2));
        assert_eq!(partial.error.is_full(), permits > 2);
        permits -= partial.accepted;
        broker.run_until_idle();
    }
    assert!(
        topic
            .publish(9)
            .is_err_and(|error| error.retry_after() == Some(HOUR))
    );
    assert_balanced(&broker);
}

#[test]
fn a_topic_that_drops_when_it_is_full_drops_nothing_for_the_rate() {
    let policies = [
        Overflow::DropOldest,
        Overflow::DropNewest,
        Overflow::DeadLetter,
    ];
    for overflow in policies {
        let (broker, clock) = manual();
        let topic = broker.topic::<u32>("t").rate_limit(limit()).capacity(1);
        let topic = topic.overflow(overflow).open().expect("opens");
        let (log, _subscription) = read(&topic, "s");
        topic.publish(1).expect("there is room");
        topic.publish(2).expect("it meets the policy");
        let before = topic.metrics();
        assert_eq!(topic.publish(3), Err(over(3, 10 * MS)), "{overflow:?}");
        // Nobody waits where nobody would wait for room.
        assert_eq!(topic.publish_timeout(3, HANG), Err(over(3, 10 * MS)));
        let after = topic.metrics();
        let fates = |of: &millstream::metrics::TopicMetrics| {
            (of.published, of.queued, of.dropped, of.dead_letters)
        };
        assert_eq!(fates(&after), fates(&before), "{overflow:?}");
        clock.advance(10 * MS);
        topic.publish(3).expect("it meets the policy");
        broker.run_until_idle();
        assert_eq!(log.len(), 1, "{overflow:?}");
        assert_balanced(&broker);
    }
}

#[test]
fn only_a_message_that_is_accepted_takes_a_permit_and_only_once() {
    let (broker, clock) = manual();
    let topic = broker.topic::<u32>("t").rate_limit(limit()).capacity(2);
    let topic = topic
        .dedup(millstream::Dedup::window(HOUR))
        .retry(Backoff::fixed(MS).max_attempts(2))
        .open()
        .expect("opens");
    let failing = topic
        .subscription("s")
        .subscribe(|_| Err(Nack::retry("it fails")));
    let _failing = failing.expect("subscribes");
    let message = |payload| topic.message(payload).dedup_id("one");
    message(1).publish().expect("accepted");
    topic.publish_after(50 * MS, 2).expect("accepted");
    // Both permits are spent, and the duplicate needs none.
    assert!(message(1).publish().expect("a duplicate").is_duplicate());
    assert_eq!(topic.publish(3), Err(over(3, 10 * MS)));
    clock.advance(20 * MS);
    // The topic is full, and a message that finds no room has taken no permit.
    for _ in 0..5 {
        assert_eq!(topic.publish(3), Err(PublishError::Full(3)));
    }
    broker.run_until_idle();
    topic.publish(3).expect("two permits are there");
    advance(&broker, &clock, MS);
    topic.publish(4).expect("a retry has taken none");
    assert!(topic.publish(5).is_err());
    advance(&broker, &clock, 9 * MS);
    // A message that is due pays no more, and neither does a redrive.
    advance(&broker, &clock, 30 * MS);
    advance(&broker, &clock, MS);
    let redriven = topic.dead_letters().redrive_all();
    assert_eq!(redriven.redriven, 4);
    broker.run_until_idle();
    topic.publish_batch([6, 7]).expect("two permits are there");
    broker.run_until_idle();
    assert_balanced(&broker);
}

#[test]
fn a_handler_never_waits_and_its_messages_count() {
    let broker = threaded(1);
    let block = Overflow::Block { timeout: HOUR };
    let rate = RateLimit::new(1, HOUR);
    let onward = broker.topic::<u32>("onward").overflow(block);
    let onward = onward.rate_limit(rate).open().expect("opens");
    let topic = broker.topic::<u32>("t").open().expect("opens");
    let answers = Log::new();
    let _subscription = topic.subscribe("s", {
        let (onward, answers) = (onward.clone(), answers.clone());
        move |delivery| {
            let refused = onward.publish(*delivery.payload()).err();
            answers.push(refused.map(|error| error.retry_after().is_some()));
            Ok(())
        }
    });
    topic.publish_batch([1, 2]).expect("accepted");
    assert_rests_balanced(&broker);
    assert_eq!(answers.take(), [None, Some(true)]);
    assert_eq!(onward.metrics().rate_limited, 1);
}

#[test]
fn a_blocking_topic_waits_for_the_rate_and_no_message_is_early() {
    let broker = threaded(2);
    let block = Overflow::Block { timeout: HANG };
    let topic = broker.topic::<u32>("t").overflow(block);
    let topic = topic.rate_limit(RateLimit::new(1, 5 * MS).burst(1)).open();
    let topic = topic.expect("opens");
    let (log, _subscription) = read(&topic, "s");
    let began = Instant::now();
    thread::scope(|scope| {
        for publisher in 0..3 {
            let topic = &topic;
            scope.spawn(move || {
                topic.publish(publisher * 10).expect("its time comes");
                let rest = (1..5).map(|one| publisher * 10 + one);
                topic.publish_batch(rest).expect("their time comes");
            });
        }
    });
    // The broker's clock is another one, and may differ by a little.
    let elapsed = began.elapsed() + MS;
    assert!(elapsed >= 14 * 5 * MS, "{elapsed:?}");
    assert_eq!(topic.metrics().rejected, 0);
    topic
        .set_rate_limit(Some(RateLimit::new(1, HOUR)))
        .expect("valid");
    // A permit may have come since the last message.
    let refused = [98, 99].map(|payload| topic.try_publish(payload).is_err());
    assert!(refused[1]);
    assert_rests_balanced(&broker);
    let handled = log.take();
    for publisher in 0..3 {
        let own = handled.iter().filter(|payload| **payload / 10 == publisher);
        let own: Vec<u32> = own.copied().collect();
        assert_eq!(
            own,
            (0..5).map(|one| publisher * 10 + one).collect::<Vec<_>>()
        );
    }
    let count = refused.into_iter().filter(|refused| *refused).count() as u64;
    assert_eq!(topic.metrics().rate_limited, count);
}

#[test]
fn a_publisher_waits_by_the_clock_of_the_broker_for_as_long_as_it_says() {
    let (broker, clock) = manual();
    let topic = limited(&broker);
    let (log, _subscription) = read(&topic, "s");
    topic.publish_batch([1, 2]).expect("the burst");
    let waits = AtomicUsize::new(0);
    thread::scope(|scope| {
        for payload in [3, 4] {
            let (topic, waits) = (&topic, &waits);
            scope.spawn(move || {
                waits.fetch_add(1, Ordering::SeqCst);
                topic
                    .publish_timeout(payload, HOUR)
                    .expect("its time comes");
            });
        }
        while waits.load(Ordering::SeqCst) < 2 {
            thread::yield_now();
        }
        for accepted in [2, 3, 4] {
            let began = Instant::now();
            while topic.metrics().published < accepted {
                assert!(began.elapsed() < HANG, "nobody called the publisher");
                broker.run_until_idle();
                thread::yield_now();
            }
            assert_eq!(topic.metrics().published, accepted);
            clock.advance(10 * MS);
            broker.run_until_idle();
        }
    });
    // It knows at once that no permit comes in time.
    clock.advance(10 * MS);
    topic
        .set_rate_limit(Some(RateLimit::new(1, 2 * HOUR)))
        .expect("valid");
    topic.publish(5).expect("the limit before left a permit");
    let began = Instant::now();
    let refused = topic.publish_timeout(6, HOUR).expect_err("too early");
    assert!(refused.retry_after().is_some_and(|time| time > HOUR));
    assert!(began.elapsed() < HANG);
    broker.run_until_idle();
    let mut handled = log.take();
    handled.sort_unstable();
    assert_eq!(handled, [1, 2, 3, 4, 5]);
    assert_balanced(&broker);
}

#[test]
fn those_who_wait_for_the_rate_are_told_of_the_close() {
    for drains_topic in [true, false] {
        let broker = threaded(1);
        let block = Overflow::Block { timeout: 9 * HOUR };
        let topic = broker.topic::<u32>("t").overflow(block);
        let topic = topic.rate_limit(RateLimit::new(1, HOUR)).open();
        let topic = topic.expect("opens");
        topic.publish(1).expect("the burst");
        let told = Log::new();
        let _observation = broker.observe({
            let told = told.clone();
            move |event| {
                if event.name() == "rate_limited" {
                    told.push(());
                }
            }
        });
        thread::scope(|scope| {
            let one = scope.spawn(|| topic.publish(2));
            let many = scope.spawn(|| topic.publish_batch([3, 4]));
            while told.len() < 2 {
                thread::yield_now();
            }
            match drains_topic {
                true => drop(topic.drain(HANG).expect("drains")),
                false => drop(broker.drain(HANG).expect("drains")),
            }
            assert_eq!(one.join().expect("no panic"), Err(PublishError::Closed(2)));
            let many = many.join().expect("no panic").expect_err("closed");
            assert_eq!(many.error, PublishError::Closed(vec![3, 4]));
        });
        assert_eq!(topic.publish(5), Err(PublishError::Closed(5)));
        assert_balanced(&broker);
    }
}

#[test]
fn the_limit_changes_while_traffic_runs() {
    let (broker, clock) = manual();
    let topic = broker.topic::<u32>("t").open().expect("opens");
    let (log, _subscription) = read(&topic, "s");
    topic.publish_batch(0..100).expect("no limit");
    topic.set_rate_limit(Some(limit())).expect("valid");
    topic.publish_batch([100, 101]).expect("the burst");
    assert!(topic.publish(0).is_err());
    // What was spent stays spent.
    let slower = RateLimit::new(1, 40 * MS).burst(2);
    topic.set_rate_limit(Some(slower)).expect("valid");
    assert_eq!(topic.publish(0), Err(over(0, 40 * MS)));
    for wrong in [RateLimit::new(0, MS), limit().burst(0)] {
        let refused = topic.set_rate_limit(Some(wrong));
        refused.expect_err("it is out of range");
    }
    assert_eq!(topic.publish(0), Err(over(0, 40 * MS)), "nothing changed");
    topic.set_rate_limit(None).expect("valid");
    topic.publish_batch(102..200).expect("no limit");
    topic.set_rate_limit(Some(limit())).expect("valid");
    thread::scope(|scope| {
        topic.publish_batch([200, 201]).expect("the burst");
        let waits = scope.spawn(|| topic.publish_timeout(202, HOUR));
        while !waits.is_finished() {
            thread::yield_now();
            topic.set_rate_limit(None).expect("valid");
        }
        waits
            .join()
            .expect("no panic")
            .expect("the limit is lifted");
    });
    advance(&broker, &clock, MS);
    assert_eq!(log.take(), (0..203).collect::<Vec<_>>());
    assert_balanced(&broker);
}

#[test]
fn settings_that_make_no_sense_and_settings_that_differ_are_refused() {
    let (broker, _clock) = manual();
    let wrong = [
        (RateLimit::new(0, MS), "count"),
        (RateLimit::new(1, Duration::ZERO), "per"),
        (limit().burst(0), "burst"),
    ];
    for (rate, setting) in wrong {
        let options = TopicOptions::new().rate_limit(rate);
        match broker.topic::<u32>("t").options(&options).open() {
            Err(OpenError::Invalid(invalid)) => assert_eq!(invalid.setting(), setting),
            other => panic!("{setting}: {other:?}"),
        }
    }
    let topic = limited(&broker);
    limited(&broker);
    broker.topic::<u32>("t").open().expect("it doesn't ask");
    let faster = broker.topic::<u32>("t").rate_limit(limit().burst(3));
    let clash = OpenError::Clash {
        topic: "t".to_owned(),
        setting: "rate_limit",
    };
    assert_eq!(faster.open().expect_err("it differs"), clash);
    topic.set_rate_limit(None).expect("valid");
    let again = broker.topic::<u32>("t").rate_limit(limit());
    assert_eq!(again.open().expect_err("there is none now"), clash);
}

#[test]
fn a_buffer_that_lingers_is_published_as_the_rate_allows() {
    let (broker, clock) = manual();
    let topic = limited(&broker);
    let (log, _subscription) = read(&topic, "s");
    let mut buffers = [0, 10].map(|first| {
        let buffered = topic.buffered(Batched::of(8).linger(MS));
        let mut buffered = buffered.expect("valid");
        topic.publish(first).expect("the burst");
        for payload in first + 1..first + 4 {
            buffered.publish(payload).expect("the buffer has room");
        }
        buffered
    });
    advance(&broker, &clock, MS);
    assert_eq!(log.take(), [0, 10]);
    for waited in 0..6 {
        let step = if waited == 0 { 9 * MS } else { 10 * MS };
        advance(&broker, &clock, step);
        assert_eq!(log.len(), waited + 1, "one for each permit");
    }
    let mut handled = log.take();
    handled.sort_unstable();
    assert_eq!(handled, [1, 2, 3, 11, 12, 13]);
    for buffer in &mut buffers {
        assert_eq!(buffer.flush().expect("nothing is left").accepted(), 3);
    }
    assert_balanced(&broker);
}

#[cfg(feature = "async")]
mod futures {
    use super::*;
    use crate::harness::{bell, block_on, poll};
    use std::task::Poll;

    fn blocking(broker: &Broker, rate: RateLimit) -> Topic<u32> {
        let block = Overflow::Block { timeout: MS };
        let topic = broker.topic("t").overflow(block).rate_limit(rate);
        topic.open().expect("opens")
    }

    #[test]
    fn a_future_waits_for_its_permit_without_a_thread() {
        let broker = threaded(1);
        let topic = blocking(&broker, RateLimit::new(1, 5 * MS).burst(1));
        let (log, _subscription) = read(&topic, "s");
        let began = Instant::now();
        block_on(topic.publish_async(0)).expect("the burst");
        for payload in 1..5 {
            block_on(topic.publish_async(payload)).expect("its time comes");
        }
        let receipt = block_on(topic.publish_batch_async(5..10)).expect("their time comes");
        assert_eq!(receipt.accepted(), 5);
        assert!(began.elapsed() + MS >= 9 * 5 * MS);
        assert_rests_balanced(&broker);
        assert_eq!(log.take(), (0..10).collect::<Vec<_>>());
        assert_eq!(topic.metrics().rejected, 0);
    }

    #[test]
    fn a_future_that_is_dropped_or_never_polled_holds_up_no_other() {
        let broker = threaded(1);
        let topic = blocking(&broker, RateLimit::new(1, 5 * MS).burst(1));
        topic.publish(0).expect("the burst");
        let (_, deaf) = bell();
        let mut dropped = topic.publish_async(1);
        let mut forgotten = topic.publish_async(2);
        let _ = poll(&mut dropped, &deaf);
        let _ = poll(&mut forgotten, &deaf);
        block_on(topic.publish_async(3)).expect("its time comes");
        drop(dropped);
        block_on(topic.publish_async(4)).expect("its time comes");
        assert_rests_balanced(&broker);
    }

    #[test]
    fn a_future_that_waits_is_told_of_the_close_and_of_another_limit() {
        let broker = threaded(1);
        let topic = blocking(&broker, RateLimit::new(1, HOUR));
        topic.publish(0).expect("the burst");
        let (rung, waker) = bell();
        let mut waits = topic.publish_async(1);
        assert!(poll(&mut waits, &waker).is_pending());
        topic.set_rate_limit(None).expect("valid");
        assert_eq!(rung.count(), 1);
        let Poll::Ready(accepted) = poll(&mut waits, &waker) else {
            panic!("there is no limit");
        };
        accepted.expect("there is no limit");
        topic
            .set_rate_limit(Some(RateLimit::new(1, HOUR)))
            .expect("valid");
        topic.publish(2).expect("the burst");
        let mut waits = topic.publish_async(3);
        assert!(poll(&mut waits, &waker).is_pending());
        broker.drain(HANG).expect("drains");
        assert_eq!(rung.count(), 2);
        let refused = poll(&mut waits, &waker);
        assert_eq!(refused, Poll::Ready(Err(PublishError::Closed(3))));
        assert_balanced(&broker);
    }

    #[test]
    fn a_future_is_refused_at_once_where_none_waits() {
        let (broker, _clock) = manual();
        let topic = limited(&broker);
        topic.publish_batch([1, 2]).expect("the burst");
        let refused = block_on(topic.publish_async(3));
        assert_eq!(refused, Err(over(3, 10 * MS)));
        let partial = block_on(topic.publish_batch_async([3, 4]));
        let partial = partial.expect_err("it is over the rate");
        assert_eq!((partial.accepted, partial.into_inner()), (0, vec![3, 4]));
        broker.run_until_idle();
        assert_balanced(&broker);
    }
}

#[cfg(feature = "log")]
#[test]
fn a_durable_topic_keeps_its_rate_too() {
    use millstream::store::{Raw, Store};

    let clock = millstream::ManualClock::new();
    let name = format!("publish-rate-{}", std::process::id());
    let directory = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let store = Store::open(&directory);
    let builder = Broker::builder().workers(0).manual_clock(&clock);
    let broker = builder
        .store(store.expect("opens"))
        .build()
        .expect("builds");
    let topic = broker.topic::<String>("t").durable(Raw).rate_limit(limit());
    let topic = topic.open().expect("opens");
    let (log, _subscription) = read(&topic, "s");
    let texts = |range: std::ops::Range<u32>| range.map(|one| one.to_string());
    let partial = topic
        .publish_batch(texts(0..5))
        .expect_err("three are over");
    assert_eq!(partial.accepted, 2);
    assert_eq!(partial.error.retry_after(), Some(10 * MS));
    let late = topic.publish_after(HOUR, "late".to_owned());
    assert!(late.is_err_and(|error| error.retry_after().is_some()));
    advance(&broker, &clock, 10 * MS);
    topic.publish("2".to_owned()).expect("its time has come");
    broker.run_until_idle();
    assert_eq!(log.take(), texts(0..3).collect::<Vec<_>>());
    assert_balanced(&broker);
    drop((topic, broker));
    std::fs::remove_dir_all(directory).expect("it is there");
}
