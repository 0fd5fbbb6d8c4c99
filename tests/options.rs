//! Settings are a value that any number of subscriptions share, and every kind of consumer
//! goes with every kind of subscription: handlers that calls share, async ones, batches,
//! groups and pulls, for one topic and for patterns.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crate::harness::{
    HANG, HOUR, Log, advance, assert_balanced, assert_rests_balanced, manual, threaded,
};
use millstream::error::{OpenError, RecvError, RecvTimeoutError, SubscribeError, TryRecvError};
use millstream::{
    Backoff, Batched, Broker, Delivery, DeliveryBatch, LaneFull, Nack, OnExhausted, OnFailure,
    PublishError, Pull, PullSubscription, SubscriptionOptions, Topic, TopicOptions, Unsubscribe,
    Unsubscribed,
};

const MS: Duration = Duration::from_millis(1);

fn ok(_: &Delivery<'_, u32>) -> Result<(), Nack> {
    Ok(())
}

fn open(broker: &Broker, name: &str) -> Topic<u32> {
    broker.topic(name).open().expect("opens")
}

fn invalid<T: std::fmt::Debug>(refused: Result<T, SubscribeError>) -> String {
    match refused.expect_err("refused") {
        SubscribeError::Invalid(invalid) => invalid.to_string(),
        other => panic!("{other:?}"),
    }
}

/// Counts the calls that run at once, and the most there were.
#[derive(Clone, Default)]
struct Overlap(Arc<(AtomicUsize, AtomicUsize)>);

impl Overlap {
    fn enter(&self) {
        let now = self.0.0.fetch_add(1, Ordering::SeqCst) + 1;
        self.0.1.fetch_max(now, Ordering::SeqCst);
    }

    fn leave(&self) {
        self.0.0.fetch_sub(1, Ordering::SeqCst);
    }

    fn most(&self) -> usize {
        self.0.1.load(Ordering::SeqCst)
    }
}

// One value for all.

#[test]
fn one_value_sets_up_topics_patterns_groups_and_pulls_alike() {
    let (broker, _clock) = manual();
    let topic = open(&broker, "orders");
    let options = SubscriptionOptions::new()
        .capacity(2)
        .when_full(LaneFull::DropNewest)
        .retry(Backoff::fixed(MS).max_attempts(1));
    let fails = |_: &Delivery<'_, u32>| Err(Nack::retry("no"));
    let one = topic.subscription("one").options(&options);
    let _one = one.subscribe(fails).expect("subscribes");
    let shared = topic.subscription("shared").options(&options);
    let _shared = shared.subscribe_shared(fails).expect("subscribes");
    let pattern = broker
        .subscription("pattern")
        .matching("*")
        .options(&options);
    let _pattern = pattern.subscribe(fails).expect("subscribes");
    let group = topic.subscription("group").options(&options).group();
    let group = group.expect("subscribes");
    let _member = group.join("one", fails).expect("joins");
    let pull = topic.subscription("pull").options(&options);
    let pull = pull.pull(Pull::default()).expect("subscribes");
    topic.publish_batch(0..5).expect("there is room");
    broker.run_until_idle();
    while let Ok(lease) = pull.try_recv() {
        lease.nack(Nack::retry("no")).expect("in time");
    }
    for subscription in &topic.metrics().subscriptions {
        let counts = &subscription.counts;
        // Each has room for two, drops what is too many, and tries once.
        assert_eq!(
            (counts.dead_lettered, counts.dropped),
            (2, 3),
            "{}",
            subscription.name
        );
    }
    assert_balanced(&broker);
}

#[test]
fn a_setting_of_the_builder_replaces_the_one_of_the_value() {
    let (broker, _clock) = manual();
    let topic = open(&broker, "orders");
    let options = SubscriptionOptions::new()
        .capacity(2)
        .when_full(LaneFull::DropNewest);
    let wider = topic.subscription("s").options(&options).capacity(4);
    let subscription = wider.group().expect("subscribes");
    topic.publish_batch(0..5).expect("there is room");
    broker.run_until_idle();
    assert_eq!(subscription.metrics().counts.dropped, 1);
    assert_balanced(&broker);
}

#[test]
fn settings_that_make_no_sense_together_are_refused() {
    let (broker, _clock) = manual();
    let topic = open(&broker, "orders");
    let two = SubscriptionOptions::new().concurrency(2);
    let by = || topic.subscription("s").options(&two);
    let of = || broker.subscription::<u32>("p").matching("*").options(&two);
    let batches = || Batched::of(2);
    let one_call = "concurrency is 2, but it needs a handler that calls can share, as the shared \
                    and async ones are";
    let one_batch =
        "concurrency is 2, but it can't be used with a handler that takes one batch at a time";
    let no_calls = "concurrency is 2, but it needs a handler; credits bound how much callers pull";
    let batch = |_: &mut DeliveryBatch<'_, u32>| Ok(());
    assert_eq!(invalid(by().subscribe(ok)), one_call);
    assert_eq!(invalid(by().subscribe_batches(batches(), batch)), one_batch);
    assert_eq!(invalid(by().pull(Pull::default())), no_calls);
    assert_eq!(invalid(of().subscribe_batches(batches(), batch)), one_batch);
    assert_eq!(invalid(of().pull(Pull::default())), no_calls);
    let whole = OnFailure::BlockSubscription;
    assert!(by().on_failure(whole).subscribe_shared(ok).is_err());
    assert!(of().on_failure(whole).subscribe(ok).is_err());
    assert!(of().on_failure(whole).group().is_err());
    for concurrency in [0, 1_025] {
        let text = format!("concurrency is {concurrency}, but it must be between 1 and 1024");
        assert_eq!(invalid(by().concurrency(concurrency).subscribe(ok)), text);
        assert_eq!(invalid(of().concurrency(concurrency).subscribe(ok)), text);
        assert_eq!(invalid(by().concurrency(concurrency).group()), text);
        assert_eq!(invalid(of().concurrency(concurrency).group()), text);
    }
    let large = Batched::of(5);
    assert!(
        of().capacity(4)
            .concurrency(1)
            .subscribe_batches(large, batch)
            .is_err()
    );
    assert!(
        of().capacity(4)
            .concurrency(1)
            .hold(2)
            .subscribe(ok)
            .is_ok(),
        "several may call"
    );
    assert!(
        of().capacity(4)
            .concurrency(1)
            .hold(5)
            .subscribe(ok)
            .is_err()
    );
    let none = broker.subscription::<u32>("p").group();
    assert_eq!(
        invalid(none),
        "matching is empty, but it must have at least one, or it would match nothing"
    );
    let zero = Pull::default().credits(0);
    assert!(of().concurrency(1).pull(zero).is_err());
    // Nothing of all that is there.
    broker.run_until_idle();
    assert!(topic.metrics().subscriptions.is_empty());
    let group = topic.subscription("g").options(&two).capacity(4).group();
    let group = group.expect("subscribes");
    let member = || group.member("m");
    assert_eq!(invalid(member().join(ok)), one_call);
    assert_eq!(invalid(member().join_batches(batches(), batch)), one_batch);
    assert!(member().concurrency(1).join_batches(large, batch).is_err());
    assert_eq!(
        member()
            .join_shared(ok)
            .expect("joins")
            .metrics()
            .concurrency,
        2
    );
}

// Patterns.

#[test]
fn calls_for_one_topic_of_a_pattern_overlap_as_far_as_its_concurrency_says() {
    let broker = threaded(4);
    let overlap = Overlap::default();
    let counted = overlap.clone();
    let builder = broker.subscription("s").matching("*").concurrency(3);
    let subscription = builder
        .subscribe(move |_: &Delivery<'_, u32>| {
            counted.enter();
            let until = std::time::Instant::now() + HANG;
            // The others come as well, or this call waits in vain.
            while counted.most() < 3 && std::time::Instant::now() < until {
                thread::yield_now();
            }
            counted.leave();
            Ok(())
        })
        .expect("subscribes");
    open(&broker, "late")
        .publish_batch(0..3)
        .expect("there is room");
    assert_rests_balanced(&broker);
    assert_eq!(overlap.most(), 3);
    assert_eq!(subscription.metrics().members[0].concurrency, 3);
    subscription.set_concurrency(2).expect("it may be changed");
    open(&broker, "later").publish(1).expect("there is room");
    assert_rests_balanced(&broker);
    // In both topics.
    assert_eq!(subscription.metrics().members[0].concurrency, 4);
    assert_eq!(subscription.metrics().members[0].taken, 4);
}

#[test]
fn a_pattern_of_one_call_at_a_time_cannot_be_given_more() {
    let (broker, _clock) = manual();
    let plain = broker.subscription("s").matching("*").subscribe(ok);
    let refused = plain.expect("subscribes").set_concurrency(2);
    assert!(refused.is_err());
}

#[test]
fn keys_of_a_pattern_keep_their_order_in_each_topic_though_calls_overlap() {
    let broker = threaded(4);
    let seen: Log<(String, u32)> = Log::new();
    let log = seen.clone();
    let options = SubscriptionOptions::new()
        .concurrency(4)
        .on_failure(OnFailure::BlockKey)
        .retry(Backoff::fixed(MS / 10).max_attempts(9));
    let builder = broker.subscription("s").matching("*").options(&options);
    let _subscription = builder
        .subscribe(move |delivery: &Delivery<'_, u32>| {
            if delivery.attempt() == 1 && delivery.payload().is_multiple_of(7) {
                return Err(Nack::retry("later"));
            }
            let key = delivery.key().expect("all have one");
            log.push((format!("{}/{key}", delivery.topic()), *delivery.payload()));
            Ok(())
        })
        .expect("subscribes");
    let topics = ["a", "b"].map(|name| open(&broker, name));
    for number in 0..400 {
        for topic in &topics {
            let message = || topic.message(number).key(format!("{}", number % 8));
            while let Err(PublishError::Full(_)) = message().publish() {
                thread::yield_now();
            }
        }
    }
    assert_rests_balanced(&broker);
    let mut lines: BTreeMap<String, Vec<u32>> = BTreeMap::new();
    for (line, number) in seen.take() {
        lines.entry(line).or_default().push(number);
    }
    assert_eq!(lines.len(), 16);
    for (line, numbers) in lines {
        assert_eq!(numbers.len(), 50, "{line}");
        assert!(numbers.is_sorted(), "{line}: {numbers:?}");
    }
}

#[test]
fn a_batch_of_a_pattern_is_of_one_topic() {
    let (broker, _clock) = manual();
    let seen: Log<(String, usize)> = Log::new();
    let log = seen.clone();
    let builder = broker.subscription("s").matching("*");
    let _subscription = builder
        .subscribe_batches(Batched::of(3).linger(HOUR), move |batch| {
            let topics: Vec<_> = batch.iter().map(|d: Delivery<'_, u32>| d.topic()).collect();
            assert!(topics.iter().all(|topic| *topic == topics[0]));
            log.push((topics[0].to_owned(), topics.len()));
            Ok(())
        })
        .expect("subscribes");
    let (first, second) = (open(&broker, "a"), open(&broker, "b"));
    first.publish_batch(0..4).expect("there is room");
    second.publish_batch(0..2).expect("there is room");
    broker.run_until_idle();
    assert_eq!(seen.take(), [("a".to_owned(), 3)]);
    second.publish(2).expect("there is room");
    first.flush();
    broker.run_until_idle();
    let mut rest = seen.take();
    rest.sort();
    assert_eq!(rest, [("a".to_owned(), 1), ("b".to_owned(), 3)]);
    assert_balanced(&broker);
}

#[cfg(feature = "parallel")]
#[test]
fn the_topics_of_a_pattern_share_one_pool() {
    let broker = threaded(2);
    let names: Log<String> = Log::new();
    let log = names.clone();
    let builder = broker.subscription("pool").matching("*").concurrency(2);
    let subscription = builder
        .subscribe_parallel(Batched::of(4), move |_: &Delivery<'_, u32>| {
            log.push(thread::current().name().unwrap_or_default().to_owned());
            Ok(())
        })
        .expect("subscribes");
    for name in ["a", "b", "c"] {
        open(&broker, name)
            .publish_batch(0..16)
            .expect("there is room");
    }
    assert_rests_balanced(&broker);
    let names = names.take();
    assert_eq!(names.len(), 48);
    assert!(
        names
            .iter()
            .all(|name| ["pool-0", "pool-1"].contains(&&**name))
    );
    assert_eq!(subscription.metrics().counts.delivered, 48);
}

#[cfg(feature = "async")]
#[test]
fn a_pattern_has_async_handlers() {
    let broker = threaded(1);
    let overlap = Overlap::default();
    let counted = overlap.clone();
    let builder = broker.subscription("s").matching("*").concurrency(2);
    let _subscription = builder
        .subscribe_async(move |_: millstream::OwnedDelivery<u32>| {
            let counted = counted.clone();
            async move {
                counted.enter();
                // Waits for a call for the other topic, though there is one worker.
                std::future::poll_fn(|context| {
                    if counted.most() >= 4 {
                        return std::task::Poll::Ready(());
                    }
                    context.waker().wake_by_ref();
                    std::task::Poll::Pending
                })
                .await;
                counted.leave();
                Ok(())
            }
        })
        .expect("subscribes");
    for name in ["a", "b"] {
        open(&broker, name)
            .publish_batch(0..2)
            .expect("there is room");
    }
    assert_rests_balanced(&broker);
    assert_eq!(overlap.most(), 4);
}

#[test]
fn a_pattern_holds_no_more_behind_blocked_keys_than_it_may() {
    let (broker, clock) = manual();
    let topic = open(&broker, "a");
    let options = SubscriptionOptions::new()
        .on_failure(OnFailure::BlockKey)
        .on_exhausted(OnExhausted::ParkKey)
        .hold(2)
        .retry(Backoff::fixed(MS).max_attempts(2));
    let builder = broker.subscription("s").matching("*").options(&options);
    let subscription = builder
        .subscribe(|delivery: &Delivery<'_, u32>| match delivery.attempt() {
            1 if *delivery.payload() == 0 => Err(Nack::retry("later")),
            _ => Ok(()),
        })
        .expect("subscribes");
    for number in 0..6 {
        let key = if number < 5 { "one" } else { "two" };
        topic
            .message(number)
            .key(key)
            .publish()
            .expect("there is room");
    }
    broker.run_until_idle();
    // Two are held, so the other key waits as well.
    let metrics = subscription.metrics();
    assert_eq!((metrics.held, metrics.counts.delivered), (2, 0));
    subscription.set_hold(5).expect("it may hold all");
    broker.run_until_idle();
    assert_eq!(subscription.metrics().counts.delivered, 1);
    advance(&broker, &clock, MS);
    assert_eq!(subscription.metrics().counts.delivered, 6);
    assert_balanced(&broker);
}

// Pulling by pattern.

fn pulled(broker: &Broker, credits: usize) -> PullSubscription<u32> {
    let builder = broker.subscription("puller").matching("*");
    let pull = Pull::default().credits(credits);
    builder.pull(pull).expect("subscribes")
}

#[test]
fn a_pull_by_pattern_takes_from_all_topics_in_turn_and_from_later_ones() {
    let (broker, _clock) = manual();
    let first = open(&broker, "a");
    let worker = pulled(&broker, 8);
    assert_eq!(worker.try_recv().err(), Some(TryRecvError::Empty));
    first.publish_batch([1, 2, 3]).expect("there is room");
    open(&broker, "b")
        .publish_batch([4, 5])
        .expect("there is room");
    let mut seen = Vec::new();
    while let Ok(lease) = worker.try_recv() {
        seen.push((lease.topic().to_owned(), *lease.payload()));
        lease.ack().expect("in time");
    }
    let topics: Vec<_> = seen.iter().map(|(topic, _)| topic.as_str()).collect();
    assert_eq!(topics, ["a", "b", "a", "b", "a"]);
    let patterns = worker.pattern_subscription().expect("it is by pattern");
    assert_eq!(patterns.topics().len(), 2);
    assert_eq!(worker.metrics().counts.delivered, 5);
    assert_balanced(&broker);
}

#[test]
fn a_batch_of_leases_is_of_one_topic_and_acked_at_once() {
    let (broker, _clock) = manual();
    let worker = pulled(&broker, 64);
    for name in ["a", "b"] {
        open(&broker, name)
            .publish_batch(0..8)
            .expect("there is room");
    }
    for _ in 0..2 {
        let batch = worker
            .recv_batch(16, Duration::ZERO)
            .expect("all are there");
        let topics: Vec<_> = batch.iter().map(|d| d.topic().to_owned()).collect();
        assert_eq!(topics.len(), 8);
        assert!(topics.iter().all(|topic| *topic == topics[0]));
        batch.ack_all().expect("in time");
    }
    assert!(
        worker
            .recv_batch(0, Duration::ZERO)
            .expect("none was wanted")
            .is_empty()
    );
    assert_eq!(
        worker.recv_batch(1, Duration::ZERO).err(),
        Some(RecvTimeoutError::WouldBlock)
    );
    assert_balanced(&broker);
}

#[test]
fn credits_bound_the_leases_of_each_topic_and_change_in_all_of_them() {
    let (broker, _clock) = manual();
    let worker = pulled(&broker, 2);
    let topics = ["a", "b"].map(|name| open(&broker, name));
    for topic in &topics {
        topic.publish_batch(0..8).expect("there is room");
    }
    let take = || -> Vec<_> { std::iter::from_fn(|| worker.try_recv().ok()).collect() };
    let mut held = take();
    assert_eq!(held.len(), 4);
    worker.set_credits(3).expect("valid");
    held.extend(take());
    assert_eq!((held.len(), worker.metrics().leased), (6, 6));
    assert!(worker.set_credits(0).is_err());
    let third = open(&broker, "c");
    third.publish_batch(0..8).expect("there is room");
    held.extend(take());
    assert_eq!(held.len(), 9);
    held.into_iter()
        .for_each(|lease| lease.ack().expect("in time"));
    assert_balanced(&broker);
}

#[test]
fn a_lease_by_pattern_that_is_late_has_failed() {
    let (broker, clock) = manual();
    let worker = pulled(&broker, 2);
    let topic = open(&broker, "a");
    worker.set_ack_deadline(MS).expect("valid");
    topic.publish(1).expect("there is room");
    let lease = worker.try_recv().expect("it is there");
    advance(&broker, &clock, 2 * MS);
    assert!(lease.ack().is_err());
    assert_eq!(worker.metrics().timed_out, 1);
    assert_balanced(&broker);
}

#[test]
fn receivers_by_pattern_wait_for_messages_in_topics_that_do_not_exist_yet() {
    let broker = threaded(2);
    let worker = pulled(&broker, 64);
    let received: Log<u32> = Log::new();
    thread::scope(|scope| {
        for _ in 0..3 {
            let (worker, received) = (worker.clone(), received.clone());
            scope.spawn(move || {
                for lease in &worker {
                    received.push(*lease.payload());
                    lease.ack().expect("in time");
                }
                assert_eq!(worker.recv().err(), Some(RecvError::Ended));
            });
        }
        for number in 0..60 {
            let topic = open(&broker, &format!("topic-{}", number % 6));
            topic.publish(number).expect("there is room");
        }
        assert!(broker.wait_until_idle(HANG));
        let ended = worker.unsubscribe(Unsubscribe::Drain { timeout: HANG });
        assert!(matches!(ended, Unsubscribed::Ended(_)));
    });
    let mut received = received.take();
    received.sort_unstable();
    assert_eq!(received, (0..60).collect::<Vec<_>>());
    assert_rests_balanced(&broker);
}

#[test]
fn a_pull_by_pattern_without_topics_ends_with_its_subscription_and_its_broker() {
    for by_broker in [false, true] {
        let broker = threaded(1);
        let worker = pulled(&broker, 1);
        let waits = thread::spawn({
            let worker = worker.clone();
            move || worker.recv().err()
        });
        if by_broker {
            broker.drain(HANG).expect("drains");
        } else {
            worker.unsubscribe(Unsubscribe::Cancel);
        }
        assert_eq!(waits.join().expect("no panic"), Some(RecvError::Ended));
        assert!(worker.has_ended());
    }
}

#[test]
fn dropping_the_last_handle_of_a_pull_by_pattern_unsubscribes() {
    let (broker, _clock) = manual();
    let topic = open(&broker, "a");
    let worker = pulled(&broker, 1);
    let other = worker.clone();
    drop(worker);
    topic.publish(1).expect("there is room");
    broker.run_until_idle();
    assert_eq!(topic.metrics().subscriptions[0].queued, 1);
    drop(other);
    broker.run_until_idle();
    assert!(topic.metrics().subscriptions.is_empty());
    assert_eq!(topic.metrics().ended.cancelled, 1);
    assert_balanced(&broker);
}

#[test]
fn a_removed_pattern_takes_its_topics_from_a_pull() {
    let (broker, _clock) = manual();
    let topic = open(&broker, "a");
    let worker = pulled(&broker, 4);
    topic.publish_batch([1, 2]).expect("there is room");
    let lease = worker.try_recv().expect("it is there");
    let patterns = worker.pattern_subscription().expect("it is by pattern");
    patterns.add("b").expect("adds");
    patterns
        .remove("*", Unsubscribe::Cancel)
        .expect("it has it");
    assert!(lease.ack().is_err(), "it ended with the pattern");
    assert_eq!(worker.try_recv().err(), Some(TryRecvError::Empty));
    open(&broker, "b").publish(3).expect("there is room");
    assert_eq!(*worker.try_recv().expect("it matches").payload(), 3);
    broker.run_until_idle();
    assert_balanced(&broker);
}

#[cfg(feature = "async")]
#[test]
fn a_stream_by_pattern_is_woken_by_any_topic_and_ends() {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use futures_core::Stream;

    let (broker, _clock) = manual();
    let worker = pulled(&broker, 4);
    let mut stream = pin!(worker.stream());
    let mut context = Context::from_waker(Waker::noop());
    assert!(stream.as_mut().poll_next(&mut context).is_pending());
    open(&broker, "a").publish(1).expect("there is room");
    let Poll::Ready(Some(lease)) = stream.as_mut().poll_next(&mut context) else {
        panic!("it is there");
    };
    lease.ack().expect("in time");
    assert!(stream.as_mut().poll_next(&mut context).is_pending());
    worker.unsubscribe(Unsubscribe::Cancel);
    assert!(matches!(stream.poll_next(&mut context), Poll::Ready(None)));
    assert_balanced(&broker);
}

// Groups.

#[test]
fn a_group_by_pattern_shares_each_topic_among_its_members_and_has_them_in_later_ones() {
    let (broker, _clock) = manual();
    let seen: Log<(&'static str, String)> = Log::new();
    let group = broker.subscription("g").matching("*").group();
    let group = group.expect("subscribes");
    let join = |name: &'static str| {
        let log = seen.clone();
        let handler = move |delivery: &Delivery<'_, u32>| {
            let key = delivery.key().expect("all have one");
            log.push((name, format!("{}/{key}", delivery.topic())));
            Ok(())
        };
        group.join(name, handler).expect("joins")
    };
    let first = open(&broker, "a");
    let (one, two) = (join("one"), join("two"));
    let second = open(&broker, "b");
    for number in 0..64 {
        for topic in [&first, &second] {
            let message = topic.message(number).key(format!("{}", number % 16));
            message.publish().expect("there is room");
        }
    }
    broker.run_until_idle();
    let mut owners: BTreeMap<String, &str> = BTreeMap::new();
    for (member, line) in seen.take() {
        let owner = owners.entry(line).or_insert(member);
        assert_eq!(*owner, member, "a key has one owner in a topic");
    }
    assert_eq!(owners.len(), 32);
    let metrics = group.subscription().metrics();
    assert_eq!(metrics.members.len(), 2);
    assert_eq!(
        metrics
            .members
            .iter()
            .map(|member| member.taken)
            .sum::<u64>(),
        128
    );
    assert_eq!(two.metrics().taken + one.metrics().taken, 128);
    assert!(two.metrics().taken > 0 && one.metrics().taken > 0);
    let taken = group.join("one", ok).expect_err("refused");
    assert!(matches!(taken, SubscribeError::MemberTaken { .. }));
    two.leave();
    first.message(0).key("0").publish().expect("there is room");
    second.message(0).key("0").publish().expect("there is room");
    broker.run_until_idle();
    assert!(seen.take().iter().all(|(member, _)| *member == "one"));
    let ended = group.unsubscribe(Unsubscribe::Cancel);
    assert!(matches!(ended, Unsubscribed::Ended(_)));
    assert!(one.has_left());
    assert_balanced(&broker);
}

#[test]
fn a_group_by_pattern_drains_with_its_members() {
    let (broker, _clock) = manual();
    let group = broker.subscription::<u32>("g").matching("*").group();
    let group = group.expect("subscribes");
    let topic = open(&broker, "a");
    topic.publish_batch(0..100).expect("there is room");
    broker.run_until_idle();
    assert_eq!(group.subscription().metrics().queued, 100);
    let captured = Arc::new(());
    let kept = Arc::clone(&captured);
    let handler = move |_: &Delivery<'_, u32>| {
        let _kept = &kept;
        Ok(())
    };
    let member = group.member("one").concurrency(2).join(handler);
    member.expect("joins").detach();
    let ended = group.unsubscribe(Unsubscribe::Drain { timeout: HANG });
    let Unsubscribed::Ended(last) = ended else {
        panic!("it waits outside of handlers");
    };
    assert_eq!(last.counts.delivered, 100);
    assert_eq!(Arc::strong_count(&captured), 1, "the handler is gone");
    assert_balanced(&broker);
}

#[test]
fn a_member_by_pattern_is_resized_in_all_topics() {
    let (broker, _clock) = manual();
    let group = broker.subscription::<u32>("g").matching("*").group();
    let group = group.expect("subscribes");
    let _first = open(&broker, "a");
    let member = group.member("one").concurrency(2).join(ok).expect("joins");
    member.set_concurrency(3).expect("its handler is shared");
    let _second = open(&broker, "b");
    assert_eq!(member.metrics().concurrency, 6);
    let batches = group.member("two");
    let batches = batches
        .join_batches(Batched::of(2), |_| Ok(()))
        .expect("joins");
    assert!(batches.set_concurrency(2).is_err());
}

#[test]
fn a_member_takes_batches_of_its_own_keys_and_lingers_for_them() {
    let (broker, clock) = manual();
    let topic = open(&broker, "orders");
    let group = topic.subscription("g").group().expect("subscribes");
    let seen: Log<(&'static str, Vec<u32>)> = Log::new();
    let join = |name: &'static str| {
        let log = seen.clone();
        let batches = Batched::of(4).linger(MS);
        let handler = move |batch: &mut DeliveryBatch<'_, u32>| {
            log.push((name, batch.iter().map(|d| *d.payload()).collect()));
            Ok(())
        };
        group
            .member(name)
            .join_batches(batches, handler)
            .expect("joins")
    };
    let members = [join("one"), join("two")];
    for number in 0..40 {
        let message = topic.message(number).key(format!("{}", number % 20));
        message.publish().expect("there is room");
    }
    broker.run_until_idle();
    let full = seen.take();
    assert!(full.iter().all(|(_, batch)| batch.len() == 4), "{full:?}");
    // Fewer than a batch are left of each.
    assert!(full.len() >= 9 - 1, "{full:?}");
    advance(&broker, &clock, MS);
    let all: Vec<_> = full.into_iter().chain(seen.take()).collect();
    let mut owners: BTreeMap<u32, (&str, Vec<u32>)> = BTreeMap::new();
    for (name, batch) in all {
        for number in batch {
            let (owner, numbers) = owners.entry(number % 20).or_insert((name, Vec::new()));
            assert_eq!(*owner, name, "a key has one owner");
            numbers.push(number);
        }
    }
    let numbers = owners.values().map(|(_, numbers)| numbers);
    assert!(numbers.clone().all(|numbers| numbers.is_sorted()));
    assert_eq!(numbers.map(Vec::len).sum::<usize>(), 40);
    let taken = members.iter().map(|member| member.metrics().taken);
    assert_eq!(taken.sum::<u64>(), 40);
    assert_balanced(&broker);
}

#[test]
fn members_of_all_kinds_share_a_group() {
    let broker = threaded(3);
    let retry = Backoff::fixed(MS / 10).max_attempts(9);
    let topic: Topic<u32> = broker.topic("orders").retry(retry).open().expect("opens");
    let group = topic.subscription("g").on_failure(OnFailure::BlockKey);
    let group = group.group().expect("subscribes");
    let done: Log<u32> = Log::new();
    let once = |number: u32, attempt: u32| match number.is_multiple_of(11) && attempt == 1 {
        true => Err(Nack::retry("later")),
        false => Ok(()),
    };
    let each = {
        let done = done.clone();
        move |delivery: &Delivery<'_, u32>| {
            once(*delivery.payload(), delivery.attempt())?;
            done.push(*delivery.payload());
            Ok(())
        }
    };
    let batch = {
        let done = done.clone();
        move |batch: &mut DeliveryBatch<'_, u32>| {
            for at in 0..batch.len() {
                let delivery = batch.get(at).expect("it has so many");
                let (number, attempt) = (*delivery.payload(), delivery.attempt());
                match once(number, attempt) {
                    Ok(()) => done.push(number),
                    Err(nack) => {
                        batch.nack(at, nack);
                    }
                }
            }
            Ok(())
        }
    };
    let _each = group.join("each", each.clone()).expect("joins");
    let shared = group.member("shared").concurrency(2);
    let _shared = shared.join_shared(each).expect("joins");
    let batches = Batched::of(8).linger(MS);
    let _batch = group.member("batch").join_batches(batches, batch);
    let _batch = _batch.expect("joins");
    #[cfg(feature = "async")]
    let _calls = {
        let done = done.clone();
        let calls = move |delivery: millstream::OwnedDelivery<u32>| {
            let done = done.clone();
            async move {
                once(*delivery.payload(), delivery.attempt())?;
                done.push(*delivery.payload());
                Ok(())
            }
        };
        let member = group.member("async").concurrency(2);
        member.join_async(calls).expect("joins")
    };
    for number in 0..2_000 {
        let message = || topic.message(number).key(format!("{}", number % 50));
        while let Err(PublishError::Full(_)) = message().publish() {
            thread::yield_now();
        }
    }
    assert_rests_balanced(&broker);
    let mut lines: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for number in done.take() {
        lines.entry(number % 50).or_default().push(number);
    }
    for (key, numbers) in &lines {
        assert_eq!(numbers.len(), 40, "{key}");
        assert!(numbers.is_sorted(), "{key}: {numbers:?}");
    }
    let metrics = group.metrics();
    assert!(
        metrics.members.iter().all(|member| member.taken > 0),
        "{metrics:#?}"
    );
    group.unsubscribe(Unsubscribe::Cancel);
    assert_balanced(&broker);
}

// Topics.

#[test]
fn a_hundred_topics_share_one_value_and_are_joined_by_it() {
    let (broker, _clock) = manual();
    let options = TopicOptions::new()
        .capacity(2)
        .ttl(HOUR)
        .strategy(Batched::of(2).linger(HOUR))
        .retry(millstream::retry::retry_fn(|_| {
            unreachable!("nothing fails")
        }));
    let open = |number: u32| {
        let topic = broker.topic::<u32>(&format!("tenant.{number}"));
        topic.options(&options).open().expect("opens, or joins")
    };
    let topics: Vec<_> = (0..100).map(open).collect();
    for (number, topic) in topics.iter().enumerate() {
        topic.publish_batch([1, 2]).expect("there is room");
        let full = open(number as u32).publish(3);
        assert!(
            matches!(full, Err(PublishError::Full(3))),
            "the capacity is the value's"
        );
    }
    let larger = broker
        .topic::<u32>("tenant.0")
        .options(&options)
        .capacity(3);
    let clash = larger.open().expect_err("another capacity");
    assert!(matches!(
        clash,
        OpenError::Clash {
            setting: "capacity",
            ..
        }
    ));
    let larger = broker.topic::<u32>("larger").options(&options).capacity(3);
    let larger = larger.open().expect("it is the builder's own");
    larger.publish_batch([1, 2, 3]).expect("there is room");
    broker.run_until_idle();
    assert_balanced(&broker);
}

#[test]
fn a_value_that_makes_no_sense_is_refused_when_a_topic_is_opened() {
    let (broker, _clock) = manual();
    let refused = |options: &TopicOptions| {
        let topic = broker.topic::<u32>("t").options(options);
        match topic.open().expect_err("refused") {
            OpenError::Invalid(invalid) => invalid.setting().to_owned(),
            other => panic!("{other:?}"),
        }
    };
    let options = TopicOptions::new();
    assert_eq!(refused(&options.clone().capacity(0)), "capacity");
    assert_eq!(refused(&options.clone().partitions(0)), "partitions");
    assert_eq!(refused(&options.clone().ttl(Duration::ZERO)), "ttl");
    assert_eq!(
        refused(&options.clone().strategy(Batched::of(0))),
        "batch_size"
    );
    broker
        .topic::<u32>("t")
        .options(&options)
        .open()
        .expect("it is the default");
}
