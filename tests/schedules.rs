//! Schedules keep their grid, make up for missed ticks as they were told, never wait, and end with
//! their handle, their topic or their broker. Messages for a time of day come at that time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, SystemTime};

use crate::harness::{
    HANG, HOUR, Log, advance, assert_balanced, assert_rests_balanced, manual, read, threaded,
};
use millstream::schedule::MissedTicks;
use millstream::{Broker, Message, NoSubscribers, Overflow, Pull, Topic};

const MS: Duration = Duration::from_millis(1);
const PERIOD: Duration = Duration::from_millis(10);

fn open(broker: &Broker) -> Topic<u32> {
    broker.topic("t").open().expect("opens")
}

/// What counts from zero.
fn counter() -> impl FnMut() -> u32 + Send + 'static {
    let mut next = 0;
    move || {
        next += 1;
        next - 1
    }
}

#[test]
fn a_message_comes_in_each_period_and_a_late_look_moves_no_later_tick() {
    let (broker, clock) = manual();
    let topic = open(&broker);
    let (log, _reads) = read(&topic, "log");
    let schedule = topic.every(PERIOD).publish(counter()).unwrap();
    assert_eq!(
        broker.next_deadline(),
        Some(PERIOD),
        "the first after one period"
    );
    advance(&broker, &clock, PERIOD - MS);
    assert_eq!(log.len(), 0);
    advance(&broker, &clock, MS);
    assert_eq!(log.take(), [0]);
    advance(&broker, &clock, PERIOD + 7 * MS);
    assert_eq!(log.take(), [1]);
    assert_eq!(broker.next_deadline(), Some(3 * MS), "it stays on the grid");
    advance(&broker, &clock, 3 * MS);
    assert_eq!(log.take(), [2]);
    assert_eq!((schedule.published(), schedule.skipped()), (3, 0));
    assert_balanced(&broker);
}

#[test]
fn missed_ticks_are_skipped_or_made_up_for() {
    let table = [
        (MissedTicks::Skip, 1, 4),
        (MissedTicks::Once, 2, 3),
        (MissedTicks::All(3), 4, 1),
        (MissedTicks::All(100), 5, 0),
    ];
    for (missed, published, skipped) in table {
        let (broker, clock) = manual();
        let told = Log::new();
        let tells = told.clone();
        let hears = broker.observe(move |event| {
            if event.name() == "ticks_skipped" {
                tells.push(event.to_string());
            }
        });
        let topic = open(&broker);
        let (log, _reads) = read(&topic, "log");
        let every = topic.every(PERIOD).missed(missed);
        let schedule = every.publish(counter()).unwrap();
        advance(&broker, &clock, 5 * PERIOD);
        assert_eq!(log.take(), (0..published).collect::<Vec<_>>(), "{missed:?}");
        assert_eq!(schedule.skipped(), skipped);
        assert_eq!(topic.metrics().ticks_skipped, skipped);
        let lines = match skipped {
            0 => vec![],
            _ => vec![format!("ticks_skipped t {skipped} (missed)")],
        };
        assert_eq!(told.take(), lines);
        assert_eq!(broker.next_deadline(), Some(PERIOD));
        assert_balanced(&broker);
        drop(hears);
    }
}

#[test]
fn a_tick_that_finds_the_topic_full_follows_its_policy_and_waits_for_nothing() {
    let policies = [
        (Overflow::Reject, 1, 2),
        (Overflow::DropOldest, 3, 0),
        (Overflow::DropNewest, 3, 0),
    ];
    for (overflow, published, skipped) in policies {
        let (broker, clock) = manual();
        let topic = broker
            .topic("t")
            .capacity(1)
            .overflow(overflow)
            .open()
            .unwrap();
        let held = topic
            .subscription("held")
            .capacity(1)
            .pull(Pull::default())
            .unwrap();
        topic.publish(7).unwrap();
        broker.run_until_idle();
        let schedule = topic.every(PERIOD).publish(counter()).unwrap();
        for _ in 0..3 {
            advance(&broker, &clock, PERIOD);
        }
        assert_eq!(
            (schedule.published(), schedule.skipped()),
            (published, skipped)
        );
        assert_eq!(topic.metrics().ticks_skipped, skipped);
        assert_balanced(&broker);
        drop(held);
    }
    // One worker: if the tick waited, nothing else would run.
    let broker = threaded(1);
    let block = Overflow::Block { timeout: HOUR };
    let topic = broker
        .topic("t")
        .capacity(1)
        .overflow(block)
        .open()
        .unwrap();
    let held = topic
        .subscription("held")
        .capacity(1)
        .pull(Pull::default())
        .unwrap();
    let other = broker.topic::<u32>("other").open().unwrap();
    let (log, _reads) = read(&other, "log");
    let schedule = topic.every(MS).publish(counter()).unwrap();
    while schedule.skipped() < 3 {
        thread::yield_now();
    }
    other.publish(1).unwrap();
    assert!(other.drain(HANG).is_ok());
    assert_eq!(log.take(), [1]);
    drop((schedule, held));
    assert_rests_balanced(&broker);
}

#[test]
fn a_tick_without_a_subscription_is_refused_where_the_topic_rejects() {
    let (broker, clock) = manual();
    let topic = broker
        .topic("t")
        .no_subscribers(NoSubscribers::Reject)
        .open()
        .unwrap();
    let schedule = topic.every(PERIOD).publish(counter()).unwrap();
    advance(&broker, &clock, PERIOD);
    assert_eq!((schedule.published(), schedule.skipped()), (0, 1));
    let (log, _reads) = read(&topic, "log");
    advance(&broker, &clock, PERIOD);
    assert_eq!(log.take(), [1], "it goes on");
}

#[test]
fn a_closure_that_panics_skips_its_tick_alone() {
    let (broker, clock) = manual();
    let topic = open(&broker);
    let (log, _reads) = read(&topic, "log");
    let mut count = counter();
    let every = topic.every(PERIOD).missed(MissedTicks::All(9));
    let schedule = every.publish(move || match count() {
        1 => panic!("no message this time"),
        number => number,
    });
    advance(&broker, &clock, 3 * PERIOD);
    assert_eq!(log.take(), [0, 2]);
    let schedule = schedule.unwrap();
    assert_eq!((schedule.published(), schedule.skipped()), (2, 1));
}

#[test]
fn a_schedule_ends_with_its_handle_and_drops_its_closure() {
    let (broker, clock) = manual();
    let topic = open(&broker);
    let (log, _reads) = read(&topic, "log");
    let held = Arc::new(());
    let start = || {
        let held = Arc::clone(&held);
        let keeps = move || u32::from(Arc::strong_count(&held) > 99);
        topic.every(PERIOD).publish(keeps).unwrap()
    };
    start().cancel();
    drop(start());
    assert_eq!(Arc::strong_count(&held), 1);
    assert_eq!(broker.next_deadline(), None);
    advance(&broker, &clock, PERIOD);
    assert_eq!(log.len(), 0);
    start().detach();
    advance(&broker, &clock, PERIOD);
    assert_eq!(log.take(), [0]);
    drop((topic, _reads, broker));
    assert_eq!(Arc::strong_count(&held), 1, "it ends with the broker");
}

#[test]
fn a_closure_may_end_its_own_schedule() {
    let (broker, clock) = manual();
    let topic = open(&broker);
    let (log, _reads) = read(&topic, "log");
    let slot = Arc::new(parking_lot::Mutex::new(None));
    let own = Arc::clone(&slot);
    let schedule = topic.every(PERIOD).publish(move || {
        drop(own.lock().take());
        7
    });
    *slot.lock() = Some(schedule.unwrap());
    advance(&broker, &clock, PERIOD);
    advance(&broker, &clock, PERIOD);
    assert_eq!(log.len(), 0, "the message was being made");
    assert_eq!(Arc::strong_count(&slot), 1);
    assert_balanced(&broker);
}

#[test]
fn a_drain_ends_schedules_and_waits_for_no_tick() {
    for drains_topic in [true, false] {
        let broker = threaded(2);
        let topic = open(&broker);
        let (_log, _reads) = read(&topic, "log");
        let ticks = topic.every(MS).publish(counter()).unwrap();
        let never = topic.every(HOUR).publish(counter()).unwrap();
        while ticks.published() < 3 {
            thread::yield_now();
        }
        let report = match drains_topic {
            true => topic.drain(HANG),
            false => broker.drain(HANG),
        };
        assert!(report.is_ok());
        while !ticks.has_ended() {
            thread::yield_now();
        }
        let published = topic.metrics().published;
        assert_eq!((ticks.published(), never.published()), (published, 0));
        assert_balanced(&broker);
    }
}

#[test]
fn keys_and_headers_go_along() {
    let (broker, clock) = manual();
    let topic = open(&broker);
    let keys = Log::new();
    let log = keys.clone();
    let _reads = topic.subscribe("log", move |delivery| {
        log.push(delivery.key().map(str::to_owned));
        Ok(())
    });
    let every = topic.every(PERIOD);
    let _schedule = every
        .publish_message(|| Message::new(1).key("beat"))
        .unwrap();
    advance(&broker, &clock, PERIOD);
    assert_eq!(keys.take(), [Some("beat".to_owned())]);
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    let (broker, _clock) = manual();
    let topic = open(&broker);
    let short = topic.every(MS / 2).publish(counter()).unwrap_err();
    assert_eq!(
        short.to_string(),
        "every is 500µs, but it must be at least 1 ms"
    );
    let all = topic.every(MS).missed(MissedTicks::All(1_025));
    assert_eq!(all.publish(counter()).unwrap_err().setting(), "missed");
}

/// Schedules of several topics under threads: none runs twice at a time, and each tick counts once.
#[test]
fn threads_tick_once_for_each_period_and_never_twice_at_a_time() {
    let broker = threaded(2);
    let topic = open(&broker);
    let (log, _reads) = read(&topic, "log");
    let inside = Arc::new(AtomicU32::new(0));
    let enters = Arc::clone(&inside);
    let mut count = counter();
    let every = topic.every(MS).missed(MissedTicks::All(5));
    let schedule = every.publish(move || {
        assert_eq!(enters.fetch_add(1, Ordering::SeqCst), 0);
        thread::sleep(2 * MS);
        enters.fetch_sub(1, Ordering::SeqCst);
        count()
    });
    let schedule = schedule.unwrap();
    while schedule.published() < 10 {
        thread::yield_now();
    }
    schedule.cancel();
    assert_rests_balanced(&broker);
    let numbers = log.take();
    assert_eq!(numbers, (0..numbers.len() as u32).collect::<Vec<_>>());
}

#[test]
fn a_message_for_a_time_of_day_comes_at_that_time() {
    let (broker, clock) = manual();
    let topic = open(&broker);
    let (log, _reads) = read(&topic, "log");
    clock.advance(HOUR);
    let at = |hours: u32| SystemTime::UNIX_EPOCH + HOUR * hours;
    topic.publish_at(at(3), 3).unwrap();
    topic.message(2).at(at(2)).publish().unwrap();
    topic.publish_messages([Message::new(0).at(at(0))]).unwrap();
    let taken = topic.publish_at(at(4), 4).unwrap();
    broker.run_until_idle();
    assert_eq!(log.take(), [0], "what has passed is due at once");
    advance(&broker, &clock, HOUR - MS);
    assert_eq!(log.len(), 0);
    advance(&broker, &clock, MS);
    assert_eq!(log.take(), [2]);
    assert_eq!(topic.cancel_delayed(taken.id()).unwrap().into_inner(), 4);
    advance(&broker, &clock, 2 * HOUR);
    assert_eq!(log.take(), [3]);
    assert_balanced(&broker);
}

#[test]
fn a_time_of_day_is_that_of_the_system() {
    let broker = threaded(1);
    let topic = open(&broker);
    let (log, _reads) = read(&topic, "log");
    topic.publish_at(SystemTime::now() + HOUR, 2).unwrap();
    topic.publish_at(SystemTime::now() + MS, 1).unwrap();
    topic.publish_at(SystemTime::now() - HOUR, 0).unwrap();
    while log.len() < 2 {
        thread::yield_now();
    }
    let mut numbers = log.take();
    numbers.sort_unstable();
    assert_eq!(numbers, [0, 1]);
    assert_eq!(topic.metrics().delayed, 1);
    assert_balanced(&broker);
}
