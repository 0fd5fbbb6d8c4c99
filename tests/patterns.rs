//! A subscription to patterns has a lane in every topic of its type that one of them
//! matches, present or future, from before anybody can publish to it until the pattern,
//! the topic or the subscription goes; and never two.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier, mpsc};
use std::thread;
use std::time::Duration;

use crate::harness::{
    HANG, Log, advance, assert_balanced, assert_rests_balanced, manual, threaded,
};
use millstream::error::{NameError, OpenError, PatternError, RemoveError, SubscribeError};
use millstream::retry::Class;
use millstream::{
    Backoff, Broker, Delivery, LaneFull, Nack, NoSubscribers, OnExhausted, OnFailure,
    PatternSubscription, PublishError, Unsubscribe, Unsubscribed,
};
use parking_lot::Mutex;

const MS: Duration = Duration::from_millis(1);

/// What a handler got: the topic and the payload.
type Seen = Log<(String, u64)>;

fn write(log: &Seen) -> impl Fn(&Delivery<'_, u64>) -> Result<(), Nack> + Send + Sync + 'static {
    let log = log.clone();
    move |delivery| {
        log.push((delivery.topic().to_owned(), *delivery.payload()));
        Ok(())
    }
}

fn follow(broker: &Broker, patterns: &[&str], log: &Seen) -> PatternSubscription {
    let builder = patterns
        .iter()
        .fold(broker.subscription("s"), |builder, pattern| {
            builder.matching(pattern)
        });
    builder.subscribe(write(log)).expect("a free name")
}

fn seen(log: &Seen) -> Vec<(String, u64)> {
    let mut seen = log.take();
    seen.sort();
    seen
}

fn of(topic: &str, payload: u64) -> (String, u64) {
    (topic.to_owned(), payload)
}

fn topics(sub: &PatternSubscription) -> Vec<String> {
    sub.topics().iter().map(ToString::to_string).collect()
}

fn assert_ended(unsubscribed: &Unsubscribed) {
    assert!(matches!(unsubscribed, Unsubscribed::Ended(_)));
}

// What it gets.

#[test]
fn topics_that_are_there_and_topics_opened_later_are_followed_alike() {
    let (broker, _clock) = manual();
    let eu = broker.topic::<u64>("orders.eu").open().unwrap();
    let other = broker.topic::<u64>("returns.eu").open().unwrap();
    let log = Seen::new();
    let sub = follow(&broker, &["orders.*"], &log);
    let us = broker.topic::<u64>("orders.us").open().unwrap();
    let deep = broker.topic::<u64>("orders.us.paid").open().unwrap();
    for (topic, payload) in [(&eu, 1), (&other, 2), (&us, 3), (&deep, 4)] {
        topic.publish(payload).unwrap();
    }
    broker.run_until_idle();
    assert_eq!(seen(&log), [of("orders.eu", 1), of("orders.us", 3)]);
    assert_eq!(topics(&sub), ["orders.eu", "orders.us"]);
    let metrics = assert_balanced(&broker);
    let lane = metrics.topic("orders.us").unwrap().subscription("s");
    assert_eq!(lane.unwrap().counts.delivered, 1);
    assert_eq!(metrics.topic("returns.eu").unwrap().unrouted, 1);
    let sum = sub.metrics();
    assert_eq!((sum.counts.made, sum.counts.delivered), (2, 2));
    assert_eq!(sum.end_to_end.count, 2);
}

#[test]
fn two_patterns_that_match_make_one_delivery_and_two_subscriptions_two() {
    let (broker, _clock) = manual();
    let before = broker.topic::<u64>("a.b").open().unwrap();
    let (log, other) = (Seen::new(), Seen::new());
    let sub = follow(&broker, &["a.>", "*.b", "a.b", "a.>"], &log);
    let second = broker.subscription("t").matching("*.*");
    let _second = second.subscribe(write(&other)).unwrap();
    let after = broker.topic::<u64>("a.c.b").open().unwrap();
    before.publish(1).unwrap();
    after.publish(2).unwrap();
    broker.run_until_idle();
    assert_eq!(seen(&log), [of("a.b", 1), of("a.c.b", 2)]);
    assert_eq!(seen(&other), [of("a.b", 1)]);
    let patterns: Vec<_> = sub.patterns().iter().map(ToString::to_string).collect();
    assert_eq!(patterns, ["a.>", "*.b", "a.b"]);
    assert_balanced(&broker);
}

#[test]
fn topics_of_another_type_are_passed_by() {
    let (broker, _clock) = manual();
    let text = broker.topic::<&str>("a.text").open().unwrap();
    let log = Seen::new();
    let sub = follow(&broker, &["a.*"], &log);
    let later = broker.topic::<i32>("a.later").open().unwrap();
    let number = broker.topic::<u64>("a.number").open().unwrap();
    text.publish("x").unwrap();
    later.publish(-1).unwrap();
    number.publish(1).unwrap();
    broker.run_until_idle();
    assert_eq!(seen(&log), [of("a.number", 1)]);
    assert_eq!(topics(&sub), ["a.number"]);
    assert_balanced(&broker);
}

#[test]
fn it_counts_as_a_subscription_for_topics_that_want_one() {
    let (broker, _clock) = manual();
    let log = Seen::new();
    let open = |name, policy| {
        let topic = broker.topic::<u64>(name).no_subscribers(policy);
        topic.open().unwrap()
    };
    let retains = open("a.retain", NoSubscribers::Retain);
    let rejects = open("a.reject", NoSubscribers::Reject);
    retains.publish(1).unwrap();
    let refused = rejects.publish(2);
    assert!(matches!(refused, Err(PublishError::NoSubscribers(2))));
    let sub = follow(&broker, &["a.*"], &log);
    rejects.publish(3).unwrap();
    broker.run_until_idle();
    assert_eq!(seen(&log), [of("a.reject", 3), of("a.retain", 1)]);
    assert_ended(&sub.unsubscribe(Unsubscribe::Cancel));
    let refused = rejects.publish(4);
    assert!(matches!(refused, Err(PublishError::NoSubscribers(4))));
    assert_balanced(&broker);
}

#[test]
fn a_topic_that_fails_or_is_slow_delays_no_other() {
    let broker = threaded(2);
    let slow = broker.topic::<u64>("a.slow").open().unwrap();
    let fast = broker.topic::<u64>("a.fast").open().unwrap();
    let (calls, arrivals) = mpsc::channel();
    let gate = Arc::new(Barrier::new(2));
    let open = Arc::clone(&gate);
    let sub = broker.subscription("s").matching("a.>").capacity(1);
    let sub = sub.subscribe(move |delivery: &Delivery<'_, u64>| {
        if delivery.topic() == "a.slow" {
            open.wait();
        }
        calls.send(*delivery.payload())?;
        Ok(())
    });
    let sub = sub.unwrap();
    slow.publish(0).unwrap();
    for payload in 1..=5 {
        fast.publish(payload).unwrap();
    }
    for expected in 1..=5 {
        assert_eq!(arrivals.recv_timeout(HANG), Ok(expected), "in order");
    }
    gate.wait();
    assert_eq!(arrivals.recv_timeout(HANG), Ok(0));
    assert_rests_balanced(&broker);
    assert_ended(&sub.unsubscribe(Unsubscribe::Cancel));
}

#[test]
fn capacity_and_a_full_lane_are_of_each_topic() {
    let (broker, _clock) = manual();
    let log = Seen::new();
    let sub = broker.subscription("s").matching("*").capacity(2);
    let sub = sub.when_full(LaneFull::DropNewest);
    let _sub = sub.subscribe(write(&log)).unwrap();
    for name in ["a", "b"] {
        let topic = broker.topic::<u64>(name).open().unwrap();
        topic.publish_batch(0..5).unwrap();
    }
    broker.run_until_idle();
    let kept = [of("a", 0), of("a", 1), of("b", 0), of("b", 1)];
    assert_eq!(seen(&log), kept);
    assert_eq!(assert_balanced(&broker).deliveries().dropped, 6);
}

#[test]
fn retries_go_by_its_policy_which_is_swapped_for_present_and_future_topics() {
    let (broker, clock) = manual();
    let fails = |delivery: &Delivery<'_, u64>| Err(Nack::retry(delivery.topic().to_owned()));
    let present = broker.topic::<u64>("a.present").open().unwrap();
    let sub = broker
        .subscription("s")
        .matching("a.*")
        .retry(Backoff::fixed(MS).max_attempts(2));
    let sub = sub.subscribe(fails).unwrap();
    present.publish(1).unwrap();
    broker.run_until_idle();
    advance(&broker, &clock, MS);
    assert_eq!(sub.metrics().counts.attempts, 2);

    sub.set_retry(Backoff::fixed(MS).max_attempts(1)).unwrap();
    let future = broker.topic::<u64>("a.future").open().unwrap();
    present.publish(2).unwrap();
    future.publish(3).unwrap();
    broker.run_until_idle();
    assert_eq!(sub.metrics().counts.attempts, 4);
    assert_eq!(sub.metrics().counts.dead_lettered, 3);
    let refused = sub.set_retry(Backoff::fixed(MS).max_attempts(0));
    refused.expect_err("no attempt at all");
    assert_balanced(&broker);
}

#[test]
fn a_letter_is_redriven_to_the_topic_it_came_from() {
    let (broker, _clock) = manual();
    let log = Seen::new();
    let healed = Arc::new(AtomicBool::new(false));
    let works = Arc::clone(&healed);
    let wrote = write(&log);
    let sub = broker.subscription("s").matching("*");
    let _sub = sub.subscribe(move |delivery| {
        if works.load(Ordering::Relaxed) {
            return wrote(delivery);
        }
        Err(Nack::dead_letter("not yet"))
    });
    let [a, b] = ["a", "b"].map(|name| broker.topic::<u64>(name).open().unwrap());
    a.publish(1).unwrap();
    b.publish(2).unwrap();
    broker.run_until_idle();
    healed.store(true, Ordering::Relaxed);
    assert_eq!(b.dead_letters().redrive(|_| true).redriven, 1);
    broker.run_until_idle();
    assert_eq!(log.take(), [of("b", 2)]);
    assert_eq!(a.dead_letters().len(), 1);
    assert_balanced(&broker);
}

// Changes while it runs.

#[test]
fn patterns_are_added_and_removed_while_it_runs() {
    let (broker, _clock) = manual();
    let [a, b] = ["a.x", "b.x"].map(|name| broker.topic::<u64>(name).open().unwrap());
    let log = Seen::new();
    let sub = follow(&broker, &["a.*"], &log);
    sub.add("*.x").unwrap();
    sub.add("*.x").unwrap();
    assert_eq!(topics(&sub), ["a.x", "b.x"]);
    b.publish(1).unwrap();
    broker.run_until_idle();
    // What `*.x` alone matched ends; what `a.*` matches, too, goes on.
    a.publish(2).unwrap();
    sub.remove("*.x", Unsubscribe::Cancel).unwrap();
    b.publish(3).unwrap();
    let c = broker.topic::<u64>("c.x").open().unwrap();
    c.publish(4).unwrap();
    broker.run_until_idle();
    assert_eq!(seen(&log), [of("a.x", 2), of("b.x", 1)]);
    assert_eq!(topics(&sub), ["a.x"]);
    assert_eq!(sub.metrics().counts.delivered, 2, "what it left is counted");
    sub.add("b.>").unwrap();
    b.publish(5).unwrap();
    broker.run_until_idle();
    assert_eq!(seen(&log), [of("b.x", 5)]);
    assert!(!sub.has_ended());
    assert_balanced(&broker);
}

#[test]
fn what_a_removed_pattern_leaves_is_cancelled_dead_lettered_or_drained() {
    let drain = Unsubscribe::Drain { timeout: MS };
    let modes = [Unsubscribe::Cancel, Unsubscribe::DeadLetter, drain];
    let came_to = modes.map(|mode| {
        let (broker, clock) = manual();
        let [a, b] = ["a", "b"].map(|name| broker.topic::<u64>(name).open().unwrap());
        let sub = broker.subscription("s").matching("a").matching("b");
        let sub = sub.retry(Backoff::fixed(MS).max_attempts(2));
        let sub = sub.subscribe(|delivery: &Delivery<'_, u64>| match delivery.attempt() {
            1 => Err(Nack::retry("once more")),
            _ => Ok(()),
        });
        let sub = sub.unwrap();
        a.publish(1).unwrap();
        b.publish(2).unwrap();
        broker.run_until_idle();
        clock.advance(MS);
        sub.remove("b", mode).unwrap();
        assert_eq!(broker.metrics().topic("b").unwrap().subscriptions, []);
        broker.run_until_idle();
        let counts = sub.metrics().counts;
        let there = broker.metrics().topic("a").unwrap().deliveries();
        assert_eq!(there.delivered, 1, "the other topic notices nothing");
        assert_eq!(b.dead_letters().len() as u64, counts.dead_lettered);
        assert_balanced(&broker);
        (counts.delivered, counts.dead_lettered, counts.cancelled)
    });
    assert_eq!(came_to, [(1, 0, 1), (1, 1, 0), (2, 0, 0)]);
}

#[test]
fn traffic_topics_and_patterns_come_and_go_and_nothing_is_unaccounted_for() {
    let broker = threaded(2);
    let calls = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&calls);
    let sub = broker.subscription("s").matching("a.*");
    let sub = sub.subscribe(move |_: &Delivery<'_, u64>| {
        counted.fetch_add(1, Ordering::Relaxed);
        Ok(())
    });
    let sub = sub.unwrap();
    thread::scope(|scope| {
        for lane in 0..2 {
            let broker = &broker;
            scope.spawn(move || {
                for round in 0..300_u64 {
                    let name = format!("{}.{lane}-{}", ["a", "b"][(round % 2) as usize], round % 5);
                    let topic = broker.topic::<u64>(&name).open().unwrap();
                    topic.publish_batch(0..10).unwrap();
                    drop(topic);
                    let _ = broker.remove_topic(&name);
                }
            });
        }
        scope.spawn(|| {
            for _ in 0..100 {
                sub.add("b.*").unwrap();
                sub.remove("b.*", Unsubscribe::DeadLetter).unwrap();
            }
        });
    });
    let metrics = assert_rests_balanced(&broker);
    let last = match sub.unsubscribe(Unsubscribe::Cancel) {
        Unsubscribed::Ended(last) => last.counts,
        other => panic!("{other:?} outside a handler"),
    };
    assert_eq!(last.open(), 0);
    assert_eq!(last.made, metrics.deliveries().made);
    assert_eq!(last.attempts, calls.load(Ordering::Relaxed));
    assert_eq!(last.delivered + last.dead_lettered, last.made);
    // Every message to an `a` topic found its lane: from the first on.
    assert!(last.delivered >= 2 * 150 * 10, "{last:?}");
    assert_rests_balanced(&broker);
}

// Its end.

/// Is noticed when it goes, which is when the handler does.
struct Captured(Arc<AtomicBool>);

impl Drop for Captured {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn unsubscribing_ends_all_topics_and_drops_the_handler_with_or_without_topics() {
    for names in [&[][..], &["a.x"][..], &["a.x", "a.y"][..]] {
        let broker = threaded(2);
        let open = |name: &&str| broker.topic::<u64>(name).open().unwrap();
        let opened: Vec<_> = names.iter().map(open).collect();
        let gone = Arc::new(AtomicBool::new(false));
        let captured = Captured(Arc::clone(&gone));
        let sub = broker.subscription("s").matching("a.*");
        let sub = sub.subscribe(move |_: &Delivery<'_, u64>| {
            assert!(!captured.0.load(Ordering::Relaxed));
            Ok(())
        });
        let sub = sub.unwrap();
        for topic in &opened {
            topic.publish_batch(0..100).unwrap();
        }
        let Unsubscribed::Ended(last) = sub.unsubscribe(Unsubscribe::Drain { timeout: HANG })
        else {
            panic!("outside a handler");
        };
        assert!(gone.load(Ordering::Relaxed), "the handler has gone");
        assert_eq!(last.counts.made, last.counts.delivered);
        broker.topic::<u64>("a.z").open().unwrap();
        let metrics = assert_rests_balanced(&broker);
        for topic in &metrics.topics {
            assert_eq!(topic.subscriptions, [], "{}", topic.name);
        }
        // The name is free again.
        let _heir = follow(&broker, &["a.*"], &Seen::new());
    }
}

#[test]
fn inside_its_own_handler_an_unsubscribe_only_marks() {
    for mode in [Unsubscribe::Cancel, Unsubscribe::Drain { timeout: MS }] {
        let (broker, clock) = manual();
        let [a, b] = ["a", "b"].map(|name| broker.topic::<u64>(name).open().unwrap());
        let own = Arc::new(Mutex::new(None::<PatternSubscription>));
        let held = Arc::clone(&own);
        let calls = Seen::new();
        let wrote = write(&calls);
        let sub = broker.subscription("s").matching("*");
        let sub = sub.subscribe(move |delivery| {
            wrote(delivery)?;
            if let Some(own) = held.lock().take() {
                assert_eq!(own.unsubscribe(mode), Unsubscribed::Ending);
            }
            Err(Nack::retry_after(Duration::from_secs(1), "never again"))
        });
        *own.lock() = Some(sub.unwrap());
        a.publish(1).unwrap();
        broker.run_until_idle();
        b.publish(2).unwrap();
        broker.run_until_idle();
        advance(&broker, &clock, MS);
        assert_eq!(calls.take(), [of("a", 1)]);
        assert_eq!(Arc::strong_count(&own), 1, "the handler has gone");
        let metrics = assert_balanced(&broker);
        assert_eq!(metrics.deliveries().cancelled, 1);
        assert!(metrics.topics.iter().all(|it| it.subscriptions.is_empty()));
    }
}

#[test]
fn inside_its_own_handler_a_pattern_is_removed_and_another_added() {
    let (broker, _clock) = manual();
    let [a, b] = ["a", "b"].map(|name| broker.topic::<u64>(name).open().unwrap());
    let own = Arc::new(Mutex::new(None::<PatternSubscription>));
    let held = Arc::clone(&own);
    let calls = Seen::new();
    let wrote = write(&calls);
    let sub = broker.subscription("s").matching("a");
    let sub = sub.subscribe(move |delivery| {
        if let Some(own) = &*held.lock()
            && delivery.topic() == "a"
        {
            own.remove("a", Unsubscribe::Cancel)?;
            own.add("b")?;
        }
        wrote(delivery)
    });
    *own.lock() = Some(sub.unwrap());
    a.publish_batch([1, 2]).unwrap();
    broker.run_until_idle();
    b.publish(3).unwrap();
    broker.run_until_idle();
    assert_eq!(calls.take(), [of("a", 1), of("b", 3)]);
    assert_eq!(assert_balanced(&broker).deliveries().cancelled, 1);
    let sub = own.lock().take().unwrap();
    assert_eq!(sub.metrics().counts.made, 3);
}

#[test]
fn dropped_it_ends_and_detached_it_lives_with_the_broker() {
    let (broker, _clock) = manual();
    let topic = broker.topic::<u64>("a").open().unwrap();
    let log = Seen::new();
    drop(follow(&broker, &["*"], &log));
    topic.publish(1).unwrap();
    broker.run_until_idle();
    assert_eq!(log.len(), 0);

    let gone = Arc::new(AtomicBool::new(false));
    let captured = Captured(Arc::clone(&gone));
    let sub = broker.subscription("s").matching("*");
    let sub = sub.subscribe(move |_: &Delivery<'_, u64>| {
        let _ = &captured;
        Ok(())
    });
    sub.unwrap().detach();
    topic.publish(2).unwrap();
    broker.run_until_idle();
    assert_eq!(assert_balanced(&broker).deliveries().delivered, 1);
    drop((broker, topic));
    assert!(gone.load(Ordering::Relaxed), "nothing is left");
}

#[test]
fn after_the_drain_of_its_broker_it_has_ended() {
    let broker = threaded(2);
    let log = Seen::new();
    let sub = follow(&broker, &["a.*"], &log);
    let topic = broker.topic::<u64>("a.x").open().unwrap();
    topic.publish_batch(0..100).unwrap();
    assert!(!sub.has_ended());
    let report = broker.drain(HANG).unwrap();
    assert_eq!(report.delivered, 100);
    assert!(sub.has_ended());
    assert_eq!(sub.metrics().counts.delivered, 100);
    assert_eq!(sub.add("b.*"), Err(SubscribeError::Closed));
    let late = broker.subscription("t").matching("*");
    let late = late.subscribe(write(&log));
    assert_eq!(late.err(), Some(SubscribeError::Closed));
    let late = broker.topic::<u64>("a.late").open();
    assert_eq!(late.err(), Some(OpenError::Closed));
    assert_ended(&sub.unsubscribe(Unsubscribe::Cancel));
    assert_balanced(&broker);
}

// Names, topics that go, and what is refused.

#[test]
fn a_name_that_a_matching_topic_has_is_refused_with_nothing_half_subscribed() {
    let (broker, _clock) = manual();
    let opened = ["a.1", "a.2", "a.3", "b.1"];
    let opened = opened.map(|name| broker.topic::<u64>(name).open().unwrap());
    let log = Seen::new();
    let own = opened[1].subscribe("s", |_| Ok(())).unwrap();
    let clash = SubscribeError::NameTakenOn {
        name: "s".into(),
        topic: "a.2".into(),
    };
    let refused = broker.subscription("s").matching("a.*");
    let refused = refused.subscribe(write(&log)).unwrap_err();
    assert_eq!(refused, clash);
    assert_eq!(refused.to_string(), "topic a.2 has a subscription named s");
    let lanes = |name: &str| broker.metrics().topic(name).unwrap().subscriptions.len();
    assert_eq!(["a.1", "a.2", "a.3"].map(lanes), [0, 1, 0]);

    let sub = follow(&broker, &["b.*"], &log);
    assert_eq!(sub.add("*.2"), Err(clash));
    assert_eq!(
        (topics(&sub), sub.patterns().len()),
        (vec!["b.1".into()], 1)
    );
    let again = broker.subscription("s").matching("c");
    let again = again.subscribe(write(&log)).unwrap_err();
    let taken = SubscribeError::PatternNameTaken { name: "s".into() };
    assert_eq!(again, taken);

    assert_ended(&own.unsubscribe(Unsubscribe::Cancel));
    sub.add("a.*").unwrap();
    assert_eq!(topics(&sub), ["a.1", "a.2", "a.3", "b.1"]);
    assert_balanced(&broker);
}

#[test]
fn in_topics_that_it_follows_its_name_is_taken() {
    let (broker, _clock) = manual();
    let _sub = follow(&broker, &["*"], &Seen::new());
    let topic = broker.topic::<u64>("a").open().unwrap();
    let refused = topic.subscribe("s", |_| Ok(())).unwrap_err();
    assert_eq!(refused, SubscribeError::NameTaken { name: "s".into() });
    let _other = topic.subscribe("t", |_| Ok(())).unwrap();
    assert_balanced(&broker);
}

#[test]
fn topics_it_follows_come_and_go() {
    let (broker, clock) = manual();
    let sub = broker.subscription("s").matching("sessions.*");
    let sub = sub.retry(Backoff::fixed(MS).max_attempts(2));
    let sub = sub.subscribe(|delivery: &Delivery<'_, u64>| match delivery.attempt() {
        1 if *delivery.payload() == 7 => Err(Nack::retry("once more")),
        _ => Ok(()),
    });
    let sub = sub.unwrap();
    let events = Log::new();
    let told = events.clone();
    let observer = move |event: &millstream::event::Event<'_>| told.push(event.to_string());
    let _observation = broker.observe(observer).unwrap();
    for round in 0..3 {
        let topic = broker.topic::<u64>("sessions.42").open().unwrap();
        topic.publish(round).unwrap();
        let used = RemoveError::InUse { handles: 1 };
        assert_eq!(broker.remove_topic("sessions.42"), Err(used));
        drop(topic);
        let not_empty = |what| Err(RemoveError::NotEmpty { what });
        let removed = broker.remove_topic("sessions.42");
        assert_eq!(removed, not_empty("messages"));
        broker.run_until_idle();
        broker.remove_topic("sessions.42").unwrap();
        assert_eq!(topics(&sub), [""; 0]);
    }
    broker.run_until_idle();
    let told = events.take();
    let of_lanes = told
        .iter()
        .filter(|event| event.starts_with("subscription_"));
    let rounds = ["added", "removed"].map(|what| format!("subscription_{what} sessions.42/s"));
    assert!(of_lanes.eq(rounds.iter().cycle().take(6)), "{told:#?}");

    let topic = broker.topic::<u64>("sessions.7").open().unwrap();
    topic.publish(7).unwrap();
    drop(topic);
    broker.run_until_idle();
    let removed = broker.remove_topic("sessions.7");
    let what = "deliveries";
    assert_eq!(removed, Err(RemoveError::NotEmpty { what }));
    advance(&broker, &clock, MS);
    broker.remove_topic("sessions.7").unwrap();

    let metrics = assert_balanced(&broker);
    assert_eq!(metrics.removed.as_ref().unwrap().published, 4);
    assert_eq!(metrics.deliveries().delivered, 4);
    let counts = sub.metrics().counts;
    assert_eq!((counts.made, counts.delivered), (4, 4));
    // A subscription of its own keeps a topic, as ever.
    let topic = broker.topic::<u64>("sessions.8").open().unwrap();
    topic.subscribe("own", |_| Ok(())).unwrap().detach();
    drop(topic);
    let what = "subscriptions";
    let removed = broker.remove_topic("sessions.8");
    assert_eq!(removed, Err(RemoveError::NotEmpty { what }));
}

#[test]
fn a_topic_that_is_removed_after_the_drain_leaves_nothing_behind() {
    for unsubscribes in [false, true] {
        let broker = threaded(1);
        let policy = Arc::new(());
        let topic = broker.topic::<u64>("sessions.9").retry({
            let policy = Arc::clone(&policy);
            Backoff::default().classify(move |_| {
                let _ = &policy;
                Class::Retry
            })
        });
        let topic = topic.open().unwrap();
        let sub = follow(&broker, &["sessions.*"], &Log::new());
        topic.publish(1).unwrap();
        broker.drain(HANG).unwrap();
        drop(topic);
        if unsubscribes {
            assert_ended(&sub.unsubscribe(Unsubscribe::Cancel));
        } else {
            sub.detach();
        }
        broker.remove_topic("sessions.9").unwrap();
        assert_balanced(&broker);
        drop(broker);
        assert_eq!(Arc::strong_count(&policy), 1);
    }
}

#[test]
fn what_makes_no_sense_is_refused_by_name() {
    let (broker, _clock) = manual();
    let begin = |name, patterns: &[&str]| {
        let builder = broker.subscription::<u64>(name);
        patterns
            .iter()
            .fold(builder, |builder, it| builder.matching(it))
    };
    let refused =
        |name, patterns: &[&str]| begin(name, patterns).subscribe(|_| Ok(())).unwrap_err();
    assert_eq!(refused("", &["*"]), NameError::Empty.into());
    let part = PatternError::PartOfLevel { at: 5 };
    assert_eq!(refused("s", &["a", "a.ord*"]), part.clone().into());
    let none = refused("s", &[]);
    let said = "matching is empty, but it must have at least one, or it would match nothing";
    assert_eq!(none.to_string(), said);
    for capacity in [0, 1 << 30] {
        let builder = begin("s", &["*"]).capacity(capacity);
        let refused = builder.subscribe(|_| Ok(())).unwrap_err();
        assert!(matches!(refused, SubscribeError::Invalid(why) if why.setting() == "capacity"));
    }
    let builder = begin("s", &["*"]).retry(Backoff::fixed(MS).max_attempts(0));
    let refused = builder.subscribe(|_| Ok(())).unwrap_err();
    assert!(matches!(refused, SubscribeError::Invalid(_)));

    let sub = begin("s", &["*"]).subscribe(|_| Ok(())).unwrap();
    assert_eq!(sub.add("a.ord*"), Err(part.into()));
    let unknown = sub.remove("a\n", Unsubscribe::Cancel).unwrap_err();
    let said = "the subscription has no pattern \"a\\n\"";
    assert_eq!(unknown.to_string(), said);
    assert_eq!(sub.patterns().len(), 1);
}

#[test]
fn a_handler_that_panics_or_panics_when_it_goes_stops_nobody() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("a handler that won't go quietly");
        }
    }
    let broker = threaded(2);
    let [a, b] = ["a", "b"].map(|name| broker.topic::<u64>(name).open().unwrap());
    let bomb = Bomb;
    let sub = broker.subscription("s").matching("*");
    let sub = sub.retry(Backoff::fixed(MS).max_attempts(1));
    let sub = sub.subscribe(move |delivery: &Delivery<'_, u64>| {
        let _ = &bomb;
        assert!(delivery.topic() == "b", "an unlucky topic");
        Ok(())
    });
    let sub = sub.unwrap();
    a.publish(1).unwrap();
    b.publish(2).unwrap();
    let counts = assert_rests_balanced(&broker).deliveries();
    assert_eq!((counts.delivered, counts.dead_lettered), (1, 1));
    assert_ended(&sub.unsubscribe(Unsubscribe::Cancel));
    assert_rests_balanced(&broker);
}

#[test]
fn failures_hold_up_their_key_in_their_topic_alone() {
    let (broker, clock) = manual();
    let open = |name: &str| {
        let retry = Backoff::fixed(MS).max_attempts(3);
        broker
            .topic::<u64>(name)
            .retry(retry)
            .open()
            .expect("opens")
    };
    let one = open("orders.one");
    let log = Seen::new();
    let handler = write(&log);
    let builder = broker.subscription("s").matching("orders.*");
    let sub = builder.on_failure(OnFailure::BlockKey).subscribe(move |d| {
        if *d.payload() == 1 && d.attempt() == 1 {
            return Err(Nack::retry("not yet"));
        }
        handler(d)
    });
    let sub = sub.expect("a free name");
    let two = open("orders.two");
    for topic in [&one, &two] {
        for payload in if topic.name() == "orders.one" {
            [1, 2]
        } else {
            [3, 4]
        } {
            topic
                .message(payload)
                .key("k")
                .publish()
                .expect("there is room");
        }
    }
    broker.run_until_idle();
    assert_eq!(seen(&log), [of("orders.two", 3), of("orders.two", 4)]);
    assert_eq!((sub.metrics().blocked_keys, sub.metrics().held), (1, 1));
    advance(&broker, &clock, MS);
    assert_eq!(log.take(), [of("orders.one", 1), of("orders.one", 2)]);

    sub.set_on_failure(OnFailure::Reorder).expect("makes sense");
    one.message(1).key("k").publish().expect("there is room");
    one.message(2).key("k").publish().expect("there is room");
    broker.run_until_idle();
    assert_eq!(log.take(), [of("orders.one", 2)]);
    assert!(sub.set_on_exhausted(OnExhausted::ParkKey).is_err());
    let builder = broker.subscription::<u64>("t").matching(">");
    let builder = builder
        .on_failure(OnFailure::BlockKey)
        .when_full(LaneFull::DropOldest);
    assert!(matches!(
        builder.subscribe(|_| Ok(())),
        Err(SubscribeError::Invalid(_))
    ));
    advance(&broker, &clock, MS);
    assert_balanced(&broker);
}
