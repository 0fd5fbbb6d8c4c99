//! Promise 3, lifecycle, and what observers are told of it.
//!
//! CREATED → QUEUED → DELIVERING → DELIVERED | FAILED; FAILED → RETRY_SCHEDULED →
//! QUEUED | DEAD_LETTER; also the finals DROPPED, EXPIRED and CANCELLED. DEAD_LETTER
//! → QUEUED only by a redrive, as a new generation. The events of one delivery come
//! in this order. An observer that is slow or panics costs events, never
//! deliveries; what it missed is counted, and its sequence shows the gap.

use std::collections::BTreeMap;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::harness::{
    HANG, Log, advance, assert_balanced, assert_rests_balanced, manual, threaded,
};
use millstream::dead_letters::DeadLetterOverflow;
use millstream::event::{EventKind, Observation, Status};
use millstream::strategy::{Backlog, FlushCause, Plan, Strategy};
use millstream::{
    Backoff, Batched, Broker, LaneFull, ManualClock, MessageId, Nack, Overflow, Unsubscribe,
};

const MS: Duration = Duration::from_millis(1);

/// Writes down every event as the line it prints.
fn listen(broker: &Broker) -> (Log<String>, Observation) {
    let log = Log::new();
    let observation = broker.observe({
        let log = log.clone();
        move |event| log.push(event.to_string())
    });
    (log, observation.expect("observes"))
}

/// A manual broker whose buffer holds so many events.
fn with_buffer(events: usize) -> (Broker, ManualClock) {
    let clock = ManualClock::new();
    let builder = Broker::builder().workers(0).manual_clock(&clock);
    let broker = builder.event_buffer(events).build().expect("builds");
    (broker, clock)
}

#[test]
fn a_success_is_told_step_by_step() {
    let (broker, _clock) = manual();
    let (log, _observation) = listen(&broker);
    let topic = broker.topic::<u32>("orders").open().expect("opens");
    let subscription = topic.subscribe("billing", |_| Ok(())).expect("subscribes");
    topic.publish(1).expect("there is room");
    topic.publish(2).expect("there is room");
    broker.run_until_idle();
    subscription.unsubscribe(Unsubscribe::Cancel);
    drop(topic);
    broker.remove_topic("orders").expect("nothing is in it");
    broker.run_until_idle();
    assert_eq!(
        log.take(),
        [
            "topic_opened orders",
            "subscription_added orders/billing",
            "message_enqueued orders #1 QUEUED depth 1",
            "message_enqueued orders #2 QUEUED depth 2",
            "delivering orders/billing #1 attempt 1 DELIVERING",
            "delivered orders/billing #1 attempt 1 DELIVERED",
            "delivering orders/billing #2 attempt 1 DELIVERING",
            "delivered orders/billing #2 attempt 1 DELIVERED",
            "subscription_removed orders/billing",
            "topic_removed orders",
        ]
    );
    assert_balanced(&broker);
}

#[test]
fn a_failure_is_told_then_its_retry_then_the_success() {
    let (broker, clock) = manual();
    let topic = broker.topic::<u32>("t").open().expect("opens");
    let _flaky = topic
        .subscribe("s", |d| match d.attempt() {
            1 => Err(Nack::retry("not yet")),
            2 => panic!("boom"),
            _ => Ok(()),
        })
        .expect("subscribes");
    let (log, _observation) = listen(&broker);
    topic.publish(1).expect("there is room");
    broker.run_until_idle();
    assert_eq!(
        log.take(),
        [
            "message_enqueued t #1 QUEUED depth 1",
            "delivering t/s #1 attempt 1 DELIVERING",
            "failed t/s #1 attempt 1 FAILED: not yet",
            "retry_scheduled t/s #1 attempt 1 RETRY_SCHEDULED in 250ms",
        ]
    );
    advance(&broker, &clock, 250 * MS);
    assert_eq!(
        log.take(),
        [
            "delivering t/s #1 attempt 2 DELIVERING",
            "failed t/s #1 attempt 2 FAILED: boom",
            "retry_scheduled t/s #1 attempt 2 RETRY_SCHEDULED in 500ms",
        ]
    );
    advance(&broker, &clock, 500 * MS);
    assert_eq!(
        log.take(),
        [
            "delivering t/s #1 attempt 3 DELIVERING",
            "delivered t/s #1 attempt 3 DELIVERED",
        ]
    );
    assert_balanced(&broker);
}

#[test]
fn an_exhausted_delivery_ends_in_the_dead_letters_and_a_redrive_begins_a_new_generation() {
    let (broker, _clock) = manual();
    let topic = broker
        .topic::<u32>("t")
        .retry(Backoff::fixed(Duration::ZERO).max_attempts(2));
    let topic = topic.open().expect("opens");
    let generations = Log::new();
    let _picky = topic
        .subscribe("s", {
            let generations = generations.clone();
            move |d| {
                generations.push((d.generation(), d.attempt()));
                match d.generation() {
                    0 | 1 => Err(Nack::retry("no")),
                    _ => Ok(()),
                }
            }
        })
        .expect("subscribes");
    let (log, _observation) = listen(&broker);
    topic.publish(1).expect("there is room");
    broker.run_until_idle();
    let a_life_in_vain = [
        "delivering t/s #1 attempt 1 DELIVERING",
        "failed t/s #1 attempt 1 FAILED: no",
        "retry_scheduled t/s #1 attempt 1 RETRY_SCHEDULED in 0ns",
        "delivering t/s #1 attempt 2 DELIVERING",
        "failed t/s #1 attempt 2 FAILED: no",
        "dead_letter t/s #1 attempt 2 DEAD_LETTER: attempts exhausted",
    ];
    let events = log.take();
    assert_eq!(events[0], "message_enqueued t #1 QUEUED depth 1");
    assert_eq!(events[1..], a_life_in_vain);

    let _ = topic.dead_letters().redrive(|_| true);
    broker.run_until_idle();
    let events = log.take();
    assert_eq!(events[0], "redriven t/s #1 QUEUED");
    assert_eq!(events[1..], a_life_in_vain);

    let _ = topic
        .dead_letters()
        .redrive(|letter| letter.generation() == 1);
    broker.run_until_idle();
    assert_eq!(
        log.take(),
        [
            "redriven t/s #1 QUEUED",
            "delivering t/s #1 attempt 1 DELIVERING",
            "delivered t/s #1 attempt 1 DELIVERED",
        ]
    );
    assert_eq!(generations.take(), [(0, 1), (0, 2), (1, 1), (1, 2), (2, 1)]);
    assert!(topic.dead_letters().is_empty());
    assert_balanced(&broker);
}

#[test]
fn a_nack_that_knows_better_ends_the_delivery_at_once() {
    let (broker, _clock) = manual();
    let topic = broker.topic::<u32>("t").open().expect("opens");
    let _picky = topic
        .subscribe("s", |d| match d.payload() {
            1 => Err(Nack::dead_letter("poison")),
            _ => Err(Nack::discard("noise")),
        })
        .expect("subscribes");
    let (log, _observation) = listen(&broker);
    topic.publish(1).expect("there is room");
    topic.publish(2).expect("there is room");
    broker.run_until_idle();
    assert_eq!(
        log.take()[2..],
        [
            "delivering t/s #1 attempt 1 DELIVERING",
            "failed t/s #1 attempt 1 FAILED: poison",
            "dead_letter t/s #1 attempt 1 DEAD_LETTER: rejected",
            "delivering t/s #2 attempt 1 DELIVERING",
            "failed t/s #2 attempt 1 FAILED: noise",
            "dropped t/s #2 attempt 1 DROPPED (discarded)",
        ]
    );
    assert_balanced(&broker);
}

#[test]
fn each_subscription_has_a_life_of_its_own_for_the_same_message() {
    let (broker, _clock) = manual();
    let topic = broker.topic::<u32>("t").open().expect("opens");
    let _good = topic.subscribe("good", |_| Ok(())).expect("subscribes");
    let _bad = topic
        .subscribe("bad", |_| Err(Nack::dead_letter("no")))
        .expect("subscribes");
    let (log, _observation) = listen(&broker);
    topic.publish(1).expect("there is room");
    broker.run_until_idle();
    let events = log.take();
    let of = |name: &str| -> Vec<_> {
        let of = events.iter().filter(|event| event.contains(name));
        of.cloned().collect()
    };
    assert_eq!(
        of("t/good"),
        [
            "delivering t/good #1 attempt 1 DELIVERING",
            "delivered t/good #1 attempt 1 DELIVERED",
        ]
    );
    assert_eq!(
        of("t/bad"),
        [
            "delivering t/bad #1 attempt 1 DELIVERING",
            "failed t/bad #1 attempt 1 FAILED: no",
            "dead_letter t/bad #1 attempt 1 DEAD_LETTER: rejected",
        ]
    );
    assert_balanced(&broker);
}

#[test]
fn what_happens_to_a_message_before_any_delivery_is_told_too() {
    let (broker, clock) = manual();
    let (log, _observation) = listen(&broker);
    let topic = broker
        .topic::<u32>("t")
        .capacity(2)
        .overflow(Overflow::DropOldest);
    let topic = topic.ttl(MS).open().expect("opens");
    for payload in 1..=3 {
        topic.publish(payload).expect("an older one goes");
    }
    broker.run_until_idle();
    let subscription = topic.subscribe("s", |_| Ok(())).expect("subscribes");
    topic.publish(4).expect("there is room");
    advance(&broker, &clock, MS);
    drop(subscription);
    broker.run_until_idle();
    assert_eq!(
        log.take(),
        [
            "topic_opened t",
            "message_enqueued t #1 QUEUED depth 1",
            "message_enqueued t #2 QUEUED depth 2",
            "backpressure t depth 2",
            "dropped t #1 DROPPED (overflow)",
            "message_enqueued t #3 QUEUED depth 2",
            "unrouted t #2",
            "unrouted t #3",
            "subscription_added t/s",
            "message_enqueued t #4 QUEUED depth 1",
            "expired t/s #4 EXPIRED",
            "subscription_removed t/s",
        ]
    );
    assert_balanced(&broker);
}

#[test]
fn swaps_flushes_and_the_end_of_the_broker_are_told() {
    let (broker, _clock) = manual();
    let topic = broker.topic::<u32>("t").open().expect("opens");
    let _pending = topic
        .subscribe("s", |_| Err(Nack::retry("no")))
        .expect("subscribes");
    let (log, observation) = listen(&broker);
    observation.detach();
    topic
        .set_strategy(Batched::of(2).until_full())
        .expect("valid");
    topic.publish(1).expect("there is room");
    topic.publish(2).expect("there is room");
    broker.run_until_idle();
    broker
        .drain(Duration::ZERO)
        .expect_err("two retries are cut off");
    let mut events = log.take();
    events.retain(|event| !event.contains('#') || event.contains("cancelled"));
    assert_eq!(
        events,
        [
            "strategy_swapped t immediate -> batched",
            "batch_flush t of 2 (size)",
            "drain_started",
            "cancelled t/s #1 attempt 1 CANCELLED",
            "cancelled t/s #2 attempt 1 CANCELLED",
            "subscription_removed t/s",
            "drained",
        ]
    );
    assert_balanced(&broker);
}

#[test]
fn a_hook_that_panics_is_told_by_its_name() {
    struct Broken;
    impl Strategy for Broken {
        fn plan(&self, _: &Backlog) -> Plan {
            panic!("no plan")
        }
        fn name(&self) -> &str {
            "broken"
        }
    }
    let (broker, _clock) = manual();
    let topic = broker.topic::<u32>("t").strategy(Broken);
    let topic = topic.retry(Backoff::none().classify(|_| panic!("no class")));
    let topic = topic.open().expect("opens");
    let _failing = topic
        .subscribe("s", |_| Err(Nack::retry("no")))
        .expect("subscribes");
    let (log, _observation) = listen(&broker);
    topic.publish(1).expect("there is room");
    broker.run_until_idle();
    assert_eq!(
        log.take(),
        [
            "message_enqueued t #1 QUEUED depth 1",
            "hook_panicked t (strategy)",
            "delivering t/s #1 attempt 1 DELIVERING",
            "failed t/s #1 attempt 1 FAILED: no",
            "hook_panicked t (retry_policy)",
            "dead_letter t/s #1 attempt 1 DEAD_LETTER: the retry policy panicked",
        ]
    );
    assert_balanced(&broker);
}

#[test]
fn a_letter_is_told_to_leave_a_full_store_after_it_was_told_to_have_come() {
    for (overflow, leaver) in [
        (DeadLetterOverflow::EvictOldest, 1),
        (DeadLetterOverflow::EvictNewest, 2),
    ] {
        let (broker, _clock) = manual();
        let topic = broker.topic::<u32>("t").dead_letter_capacity(1);
        let topic = topic.dead_letter_overflow(overflow).open().expect("opens");
        let _bad = topic
            .subscribe("s", |_| Err(Nack::dead_letter("no")))
            .expect("subscribes");
        let (log, _observation) = listen(&broker);
        topic.publish_batch([1, 2]).expect("there is room");
        broker.run_until_idle();
        let events = log.take();
        let at = |event: String| events.iter().position(|other| *other == event);
        let came = at(format!(
            "dead_letter t/s #{leaver} attempt 1 DEAD_LETTER: rejected"
        ));
        let left = at(format!(
            "letter_evicted t/s #{leaver} attempt 1 DEAD_LETTER"
        ));
        assert!(came.is_some() && left.is_some(), "{events:#?}");
        assert!(came < left, "{overflow:?}: {events:#?}");
        assert_balanced(&broker);
    }
}

#[test]
fn an_event_says_when_it_happened_and_what_to() {
    let (broker, clock) = manual();
    let topic = broker.topic::<u32>("t").open().expect("opens");
    let _flaky = topic
        .subscribe("s", |_| Err(Nack::retry("no")))
        .expect("subscribes");
    let log = Log::new();
    let _observation = broker
        .observe({
            let log = log.clone();
            move |event| {
                if let EventKind::RetryScheduled { delay } = event.kind() {
                    let of = (event.topic(), event.subscription());
                    assert_eq!(of, (Some("t"), Some("s")));
                    assert_eq!(event.status(), Some(Status::RetryScheduled));
                    let id = event.id().expect("it is of a message").get();
                    log.push((event.at(), id, event.attempt(), *delay));
                }
            }
        })
        .expect("observes");
    topic.publish(1).expect("there is room");
    advance(&broker, &clock, 7 * MS);
    advance(&broker, &clock, 250 * MS);
    assert_eq!(
        log.take(),
        [
            (7 * MS, 1, Some(1), 250 * MS),
            (257 * MS, 1, Some(2), 500 * MS)
        ]
    );
    assert_eq!(assert_balanced(&broker).observer_panics, 0);
}

#[test]
fn without_observers_nothing_is_kept_for_them() {
    let (broker, _clock) = with_buffer(1);
    let topic = broker.topic::<u32>("t").open().expect("opens");
    let _reader = topic.subscribe("s", |_| Ok(())).expect("subscribes");
    topic.publish_batch(0..100).expect("there is room");
    broker.run_until_idle();
    assert_eq!(assert_balanced(&broker).events_missed, 0);
    let (log, _observation) = listen(&broker);
    broker.run_until_idle();
    assert_eq!(
        log.len(),
        0,
        "an observer hears only what happens from now on"
    );
    assert_balanced(&broker);
}

#[test]
fn an_observer_hears_nothing_of_what_happened_before_it() {
    let (broker, _clock) = manual();
    let topic = broker.topic::<u32>("t").open().expect("opens");
    let (_, first) = listen(&broker);
    topic.publish(1).expect("there is room");
    drop(first);
    let (log, _second) = listen(&broker);
    broker.run_until_idle();
    assert_eq!(log.take(), ["unrouted t #1"]);
    assert_balanced(&broker);
}

#[test]
fn several_observers_hear_the_same_in_the_same_order() {
    let (broker, _clock) = manual();
    let (first, _first) = listen(&broker);
    let (second, _second) = listen(&broker);
    let topic = broker.topic::<u32>("t").open().expect("opens");
    let _reader = topic.subscribe("s", |_| Ok(())).expect("subscribes");
    topic.publish_batch(0..10).expect("there is room");
    broker.run_until_idle();
    let heard = first.take();
    assert_eq!(heard.len(), 2 + 3 * 10);
    assert_eq!(second.take(), heard);
    assert_balanced(&broker);
}

#[test]
fn dropping_an_observation_ends_it_and_no_other() {
    let (broker, _clock) = manual();
    let (first, observation) = listen(&broker);
    let (second, _second) = listen(&broker);
    let topic = broker.topic::<u32>("t").open().expect("opens");
    broker.run_until_idle();
    drop(observation);
    topic.publish(1).expect("there is room");
    broker.run_until_idle();
    assert_eq!(first.take(), ["topic_opened t"]);
    assert_eq!(second.len(), 3);
    assert_balanced(&broker);
}

#[test]
fn a_panic_of_an_observer_is_counted_and_costs_nobody_else_anything() {
    let (broker, _clock) = manual();
    let _broken = broker
        .observe(|event| assert_ne!(event.name(), "delivered", "boom"))
        .expect("observes");
    let (log, _observation) = listen(&broker);
    let topic = broker.topic::<u32>("t").open().expect("opens");
    let _reader = topic.subscribe("s", |_| Ok(())).expect("subscribes");
    topic.publish_batch(0..10).expect("there is room");
    broker.run_until_idle();
    let metrics = assert_balanced(&broker);
    assert_eq!((metrics.observer_panics, metrics.events_missed), (10, 0));
    assert_eq!(metrics.deliveries().delivered, 10);
    assert_eq!(log.len(), 2 + 3 * 10);
}

#[test]
fn events_beyond_the_buffer_are_missed_and_counted_and_leave_a_gap() {
    let (broker, _clock) = with_buffer(4);
    let sequence = Log::new();
    let _observation = broker
        .observe({
            let sequence = sequence.clone();
            move |event| sequence.push(event.sequence())
        })
        .expect("observes");
    let topic = broker.topic::<u32>("t").open().expect("opens");
    let _reader = topic.subscribe("s", |_| Ok(())).expect("subscribes");
    for payload in 0..10 {
        topic.publish(payload).expect("there is room");
    }
    // Two were of the topic and its subscription, eight messages are too many.
    broker.run_until_idle();
    let metrics = assert_balanced(&broker);
    assert_eq!(metrics.deliveries().delivered, 10);
    // The lane finds the buffer empty and four places in it, for both events of
    // the first message, and for both of the next two, which share their places.
    assert_eq!(metrics.events_missed, 8 + 14);
    assert_eq!(sequence.take(), [1, 2, 3, 4, 13, 14, 15, 16, 17, 18]);
}

#[test]
fn a_slow_observer_misses_events_but_deliveries_go_on() {
    const MESSAGES: u64 = 1_000;
    let broker = Broker::builder().workers(2).event_buffer(8).build();
    let broker = broker.expect("builds");
    let topic = broker.topic::<u64>("t").open().expect("opens");
    let (delivered, all_delivered) = mpsc::channel();
    let _reader = topic
        .subscribe("s", move |d| {
            if *d.payload() + 1 == MESSAGES {
                delivered.send(()).expect("the test listens");
            }
            Ok(())
        })
        .expect("subscribes");
    let (go_on, gate) = mpsc::channel::<()>();
    let gate = std::sync::Mutex::new(gate);
    let sequence = Log::new();
    let _stuck = broker
        .observe({
            let sequence = sequence.clone();
            move |event| {
                sequence.push(event.sequence());
                // Answers at once, and with an error, when the test lets go.
                let _ = gate.lock().expect("one thread calls it").recv();
            }
        })
        .expect("observes");
    topic.publish_batch(0..MESSAGES).expect("there is room");
    let arrived = all_delivered.recv_timeout(HANG);
    arrived.expect("every message is delivered while the observer is stuck");
    drop(go_on);
    assert_rests_balanced(&broker);
    topic.publish(0).expect("there is room");
    let metrics = assert_rests_balanced(&broker);
    assert_eq!(metrics.deliveries().delivered, MESSAGES + 1);
    let mut heard = sequence.take();
    heard.sort_unstable();
    assert!(heard.is_sorted_by(|a, b| a < b), "each once: {heard:?}");
    // One enqueued, one delivering, one delivered for each message.
    let told = heard.len() as u64;
    assert_eq!(told + metrics.events_missed, 3 * (MESSAGES + 1));
    let last = heard[heard.len() - 1];
    assert!(last > told, "the sequence has a gap: {heard:?}");
}

#[test]
fn the_events_of_each_delivery_come_in_order_on_threads() {
    const PUBLISHERS: u32 = 3;
    const EACH: u32 = 300;
    let broker = Broker::builder().workers(2).event_buffer(1 << 16).build();
    let broker = broker.expect("builds");
    let topic = broker.topic::<u32>("t").capacity(4_096);
    let topic = topic.retry(Backoff::fixed(MS)).open().expect("opens");
    let names = ["a", "b"];
    let _subscriptions = names.map(|name| {
        let builder = topic.subscription(name).when_full(LaneFull::DropNewest);
        let subscribed = builder.capacity(64).subscribe(|d| match d.payload() % 5 {
            0 if d.attempt() == 1 => Err(Nack::retry("not yet")),
            1 => Err(Nack::dead_letter("poison")),
            2 => panic!("boom"),
            _ => Ok(()),
        });
        subscribed.expect("subscribes")
    });
    let lives = Log::new();
    let _observation = broker
        .observe({
            let lives = lives.clone();
            move |event| {
                if let Some(id) = event.id() {
                    let subscription = event.subscription().map(str::to_owned);
                    let status = event.status().expect("each of a message has one");
                    lives.push((id.get(), subscription, event.attempt(), status));
                }
            }
        })
        .expect("observes");
    std::thread::scope(|scope| {
        for _ in 0..PUBLISHERS {
            scope.spawn(|| {
                for payload in 0..EACH {
                    topic.publish(payload).expect("there is room");
                }
            });
        }
    });
    let metrics = assert_rests_balanced(&broker);
    assert_eq!(metrics.events_missed, 0);
    let mut queued = BTreeMap::new();
    let mut deliveries: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for (at, (id, subscription, attempt, status)) in lives.take().into_iter().enumerate() {
        match subscription {
            None => {
                assert_eq!(status, Status::Queued);
                assert_eq!(queued.insert(id, at), None, "#{id} was enqueued twice");
            }
            Some(name) => {
                assert!(
                    queued.contains_key(&id),
                    "#{id} came before it was enqueued"
                );
                deliveries
                    .entry((name, id))
                    .or_default()
                    .push((attempt.unwrap_or(0), status));
            }
        }
    }
    assert_eq!(queued.len() as u32, PUBLISHERS * EACH);
    assert_eq!(deliveries.len() as u32, 2 * PUBLISHERS * EACH);
    for ((name, id), life) in deliveries {
        assert_legal(&life, &format!("{name} #{id}"));
    }
}

#[test]
fn a_message_is_told_to_be_enqueued_before_a_worker_can_tell_of_its_delivery() {
    let broker = threaded(2);
    let topic = broker.topic::<u32>("t").open().expect("opens");
    let _reader = topic.subscribe("s", |_| Ok(())).expect("subscribes");
    let names = Log::new();
    let _observation = broker
        .observe({
            let names = names.clone();
            move |event| names.push((event.id().map(MessageId::get), event.name()))
        })
        .expect("observes");
    // Workers that are at rest start at once with a chunk that is yet to be told.
    for _ in 0..100 {
        topic.publish_batch(0..64).expect("there is room");
        assert_rests_balanced(&broker);
    }
    let mut lives: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for (id, name) in names.take() {
        lives.entry(id).or_default().push(name);
    }
    assert_eq!(lives.len(), 64 * 100);
    for (id, life) in lives {
        let expected = ["message_enqueued", "delivering", "delivered"];
        assert_eq!(life, expected, "{id:?}");
    }
}

#[test]
fn a_redrive_is_told_after_the_dead_letter_it_redrives() {
    const MESSAGES: u32 = 200;
    let broker = threaded(1);
    let topic = broker
        .topic::<u32>("t")
        .capacity(4_096)
        .lane_capacity(4_096);
    let topic = topic.open().expect("opens");
    let _picky = topic
        .subscribe("s", |d| match d.generation() {
            0 => Err(Nack::dead_letter("not today")),
            _ => Ok(()),
        })
        .expect("subscribes");
    let names = Log::new();
    let _observation = broker
        .observe({
            let names = names.clone();
            move |event| {
                if matches!(event.name(), "dead_letter" | "redriven") {
                    names.push((event.id().map(MessageId::get), event.name()));
                }
            }
        })
        .expect("observes");
    let mut redriven = 0;
    let until = Instant::now() + HANG;
    for payload in 0..MESSAGES {
        topic.publish(payload).expect("there is room");
        while redriven <= payload as usize {
            assert!(Instant::now() < until, "only {redriven} were redriven");
            redriven += topic.dead_letters().redrive(|_| true).redriven;
            std::thread::yield_now();
        }
    }
    assert_rests_balanced(&broker);
    let mut lives: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for (id, name) in names.take() {
        lives.entry(id).or_default().push(name);
    }
    assert_eq!(lives.len() as u32, MESSAGES);
    for (id, life) in lives {
        assert_eq!(life, ["dead_letter", "redriven"], "{id:?}");
    }
}

/// Each step follows from the one before, each attempt from the one before, and
/// nothing follows the end.
fn assert_legal(life: &[(u32, Status)], whose: &str) {
    use Status::{DeadLetter, Delivered, Delivering, Dropped, Failed, RetryScheduled};
    let mut before = (0, Status::Queued);
    for &(attempt, status) in life {
        let (attempt_before, status_before) = before;
        let expected_attempt = match (status_before, status) {
            (Status::Queued | RetryScheduled, Delivering) => attempt_before + 1,
            (Delivering, Delivered | Failed)
            | (Failed, RetryScheduled | DeadLetter)
            | (Status::Queued, Dropped) => attempt_before,
            _ => panic!("{whose}: {status} after {status_before} in {life:?}"),
        };
        assert_eq!(attempt, expected_attempt, "{whose}: {life:?}");
        before = (attempt, status);
    }
    assert!(before.1.is_final(), "{whose} never ended: {life:?}");
}

#[test]
fn a_flush_event_says_how_many_messages_it_hands_on() {
    let (broker, clock) = manual();
    let topic = broker.topic::<u32>("t").capacity(6);
    let topic = topic
        .strategy(Batched::of(4).linger(MS))
        .open()
        .expect("opens");
    let _reader = topic.subscribe("s", |_| Ok(())).expect("subscribes");
    let log = Log::new();
    let _observation = broker
        .observe({
            let log = log.clone();
            move |event| {
                if let EventKind::BatchFlush { size, cause } = *event.kind() {
                    log.push((size, cause));
                }
            }
        })
        .expect("observes");
    for payload in 0..6 {
        topic.publish(payload).expect("there is room");
    }
    broker.run_until_idle();
    assert_eq!(log.take(), [(4, FlushCause::Size)]);
    advance(&broker, &clock, MS);
    assert_eq!(log.take(), [(2, FlushCause::Linger)]);
    topic.publish(6).expect("there is room");
    topic.flush();
    broker.run_until_idle();
    assert_eq!(log.take(), [(1, FlushCause::Requested)]);
    topic.publish(7).expect("there is room");
    broker.drain(HANG).expect("nothing is left");
    assert_eq!(log.take(), [(1, FlushCause::Drain)]);
    assert_balanced(&broker);
}

#[test]
fn an_observation_can_be_kept_and_ends_with_its_broker() {
    let broker = threaded(1);
    let (log, observation) = listen(&broker);
    observation.detach();
    let topic = broker.topic::<u32>("t").open().expect("opens");
    topic.publish(1).expect("there is room");
    broker.drain(HANG).expect("nothing is left");
    let heard = log.take();
    assert_eq!(heard[0], "topic_opened t");
    assert_eq!(heard.last().map(String::as_str), Some("drained"));
    assert!(
        broker.observe(|_| {}).is_err(),
        "nothing is left to observe"
    );
    assert_balanced(&broker);
}

// Whatever is told is true by then: who hears of something finds it.

#[test]
fn who_hears_of_a_dead_letter_finds_it_and_a_redrive_comes_after_it() {
    let broker = threaded(1);
    let topic = broker.topic::<u32>("t").retry(Backoff::none());
    let topic = topic.dead_letter_capacity(10_000).open().expect("opens");
    let fails = topic.subscribe("fails", |_| Err(Nack::retry("always")));
    fails.expect("subscribes").detach();
    let (told, missing) = (Log::new(), Log::new());
    let (letters, of_told, of_missing) = (topic.dead_letters(), told.clone(), missing.clone());
    let observed = broker.observe(move |event| {
        if matches!(event.kind(), EventKind::DeadLetter { .. }) {
            let id = event.id().expect("it is of one message");
            of_told.push(id);
            if letters.list().iter().all(|letter| letter.id() != id) {
                of_missing.push(id);
            }
        }
    });
    observed.expect("observes").detach();
    for n in 0..300 {
        topic.publish(n).expect("there is room");
        if n % 10 == 0 {
            assert!(broker.wait_until_idle(HANG));
        }
    }
    assert_rests_balanced(&broker);
    assert_eq!((told.len(), missing.take()), (300, vec![]));
}

#[test]
fn of_a_letter_that_is_redriven_again_and_again_death_and_return_take_turns() {
    let broker = threaded(2);
    let topic = broker.topic::<u32>("t").retry(Backoff::none()).open();
    let topic = topic.expect("opens");
    let fails = topic.subscribe("fails", |_| Err(Nack::retry("always")));
    fails.expect("subscribes").detach();
    let log = Log::new();
    let inner = log.clone();
    let observed = broker.observe(move |event| match event.kind() {
        EventKind::DeadLetter { .. } => inner.push("dead"),
        EventKind::Redriven => inner.push("redriven"),
        _ => {}
    });
    observed.expect("observes").detach();
    topic.publish(1).expect("there is room");
    let mut redriven = 0;
    while redriven < 300 {
        redriven += topic.dead_letters().redrive(|_| true).redriven;
        std::thread::yield_now();
    }
    assert_rests_balanced(&broker);
    let log = log.take();
    assert_eq!(log.len(), 601);
    let is_right = |(at, told): (usize, &&str)| *told == ["dead", "redriven"][at % 2];
    assert!(log.iter().enumerate().all(is_right));
}

#[test]
fn who_hears_of_a_topic_finds_it_and_its_subscriptions_and_nothing_of_it_comes_before() {
    let broker = threaded(1);
    let audit = broker.subscription::<u32>("audit").matching("t.>");
    audit.subscribe(|_| Ok(())).expect("subscribes").detach();
    let (log, missing) = (Log::new(), Log::new());
    let held = broker.clone();
    let (of_log, of_missing) = (log.clone(), missing.clone());
    let observation = broker.observe(move |event| {
        let topic = event.topic().expect("the broker goes on");
        of_log.push((topic.to_owned(), event.kind().as_str()));
        let is_there = match event.kind() {
            EventKind::TopicOpened => held.publish(topic, 1_u32).is_ok(),
            EventKind::SubscriptionAdded => {
                let topic = held.topic::<u32>(topic).open().expect("is open");
                topic.metrics().subscriptions.len() == 1
            }
            _ => true,
        };
        if !is_there {
            of_missing.push(event.to_string());
        }
    });
    let observation = observation.expect("observes");
    for n in 0..300 {
        let topic = broker.topic::<u32>(&format!("t.{n}")).open();
        topic.expect("opens").publish(2).expect("there is room");
    }
    assert_rests_balanced(&broker);
    assert_eq!(missing.take(), Vec::<String>::new());
    let mut kinds: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for (topic, kind) in log.take() {
        kinds.entry(topic).or_default().push(kind);
    }
    for (topic, kinds) in kinds {
        assert_eq!(
            kinds[..2],
            ["topic_opened", "subscription_added"],
            "{topic}"
        );
    }
    drop(observation);
}

#[test]
fn who_hears_of_a_retry_finds_its_deadline() {
    let broker = threaded(1);
    let hour = Duration::from_secs(3_600);
    let topic = broker.topic::<u32>("t").retry(Backoff::fixed(hour)).open();
    let topic = topic.expect("opens");
    let fails = topic.subscribe("fails", |_| Err(Nack::retry("always")));
    fails.expect("subscribes").detach();
    let (told, missing) = (Log::new(), Log::new());
    let held = broker.clone();
    let (of_told, of_missing) = (told.clone(), missing.clone());
    let observation = broker.observe(move |event| {
        if matches!(event.kind(), EventKind::RetryScheduled { .. }) {
            of_told.push(());
            if held.next_deadline().is_none() {
                of_missing.push(event.to_string());
            }
        }
    });
    let observation = observation.expect("observes");
    // The first is the one whose deadline could be missing.
    topic.publish(1).expect("there is room");
    let deadline = Instant::now() + HANG;
    while told.len() == 0 {
        assert!(Instant::now() < deadline, "it was never told");
        std::thread::yield_now();
    }
    assert_eq!(missing.take(), Vec::<String>::new());
    drop(observation);
}
