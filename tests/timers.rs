//! Timers never fire early, fire at most a tick late, and in the order of their
//! deadlines. A broker with nothing to do makes no wake-ups at all.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::harness::{HANG, Log, assert_balanced, assert_rests_balanced, manual, threaded};
use millstream::{Backoff, Batched, Nack};

const US: Duration = Duration::from_micros(1);
const MS: Duration = Duration::from_millis(1);
const TICK: Duration = Duration::from_micros(100);

/// Numbers without a pattern (xorshift64), the same in every run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

/// Asserts that what was due at `due` came neither early nor more than a tick
/// and a `step` of the clock late.
fn assert_punctual(what: &str, due: Duration, came: Duration, step: Duration) {
    assert!(came >= due, "{what} due at {due:?} came early, at {came:?}");
    let late = came - due;
    assert!(
        late < TICK + step,
        "{what} due at {due:?} was {late:?} late"
    );
}

#[test]
fn retries_and_delayed_messages_are_never_early_and_at_most_a_tick_late() {
    let (broker, clock) = manual();
    let mut numbers = Numbers(42);
    // On every level of the wheel up to seconds, and not on ticks.
    let mut delay = |scale: u32| US * numbers.below(10_u64.pow(scale)) as u32;
    let topic = broker
        .topic::<(Duration, Duration)>("t")
        .capacity(500)
        .open()
        .unwrap();
    let log = Log::new();
    let (calls, time) = (log.clone(), clock.clone());
    let _s = topic.subscribe("s", move |d| {
        let (accepted, retry) = *d.payload();
        calls.push((accepted, retry, d.attempt(), time.elapsed()));
        match d.attempt() {
            1 => Err(Nack::retry_after(retry, "again")),
            _ => Ok(()),
        }
    });
    let mut messages = 0;
    for scale in 1..=6 {
        for _ in 0..20 {
            let (first, retry) = (delay(scale), delay(scale));
            let due = clock.elapsed() + first;
            topic.publish_after(first, (due, retry)).unwrap();
            messages += 1;
        }
    }
    // A step that is no divisor of a tick; the engine says when to look again,
    // and in between there is nothing.
    let step = US * 7;
    while let Some(next) = broker.next_deadline() {
        clock.advance(next.saturating_sub(step));
        broker.run_until_idle();
        clock.advance(step);
        broker.run_until_idle();
    }
    let calls = log.take();
    assert_eq!(calls.len(), 2 * messages);
    let mut first_came = std::collections::HashMap::new();
    for (due, retry, attempt, came) in calls {
        if attempt == 1 {
            assert_punctual("a message", due, came, step);
            first_came.insert((due, retry), came);
        } else {
            let due = first_came[&(due, retry)] + retry;
            assert_punctual("a retry", due, came, step);
        }
    }
    assert_balanced(&broker);
}

#[test]
fn a_linger_ends_neither_early_nor_more_than_a_tick_late() {
    for linger in [0, 1, 99, 100, 101, 5_000, 77_777] {
        let linger = US * linger;
        let (broker, clock) = manual();
        clock.advance(US * 33);
        let log = Log::new();
        let by_topic = broker
            .topic::<u64>("by-topic")
            .strategy(Batched::of(9).linger(linger))
            .open()
            .unwrap();
        let by_lane = broker.topic::<u64>("by-lane").open().unwrap();
        let (calls, time) = (log.clone(), clock.clone());
        let _a = by_topic.subscribe("a", move |_| {
            calls.push(time.elapsed());
            Ok(())
        });
        let (calls, time) = (log.clone(), clock.clone());
        let _b = by_lane
            .subscription("b")
            .subscribe_batches(Batched::of(9).linger(linger), move |_| {
                calls.push(time.elapsed());
                Ok(())
            })
            .unwrap();
        let due = clock.elapsed() + linger;
        by_topic.publish(1).unwrap();
        by_lane.publish(1).unwrap();
        broker.run_until_idle();
        while let Some(next) = broker.next_deadline() {
            clock.advance(next.saturating_sub(US));
            broker.run_until_idle();
            clock.advance(US);
            broker.run_until_idle();
        }
        let came = log.take();
        assert_eq!(came.len(), 2);
        came.iter()
            .for_each(|came| assert_punctual("a batch", due, *came, US));
        assert_balanced(&broker);
    }
}

#[test]
fn tick_by_tick_retries_and_delayed_messages_come_in_the_order_of_their_deadlines() {
    let (broker, clock) = manual();
    let topic = broker.topic::<Duration>("t").open().unwrap();
    let other = broker.topic::<Duration>("other").open().unwrap();
    let log = Log::new();
    let mut numbers = Numbers(7);
    for topic in [&topic, &other] {
        let (calls, time) = (log.clone(), clock.clone());
        topic
            .subscribe("s", move |d| {
                // A message without a delay fails and waits, the others are late.
                if d.attempt() == 1 && *d.payload() > Duration::ZERO && d.key().is_some() {
                    return Err(Nack::retry_after(*d.payload(), "in its time"));
                }
                calls.push((*d.payload(), time.elapsed()));
                Ok(())
            })
            .unwrap()
            .detach();
    }
    for round in 0..200 {
        let delay = TICK * (1 + numbers.below(1_000) as u32);
        let topic = if round % 2 == 0 { &topic } else { &other };
        if round % 3 == 0 {
            topic.message(delay).key("retry").publish().unwrap();
        } else {
            topic.publish_after(delay, delay).unwrap();
        }
    }
    broker.run_until_idle();
    for _ in 0..1_001 {
        clock.advance(TICK);
        broker.run_until_idle();
    }
    let came = log.take();
    assert_eq!(came.len(), 200);
    assert!(came.is_sorted_by_key(|(due, _)| *due), "{came:?}");
    assert!(
        came.iter().all(|(due, came)| due == came),
        "on ticks they are exact"
    );
    assert_balanced(&broker);
}

#[test]
fn in_one_leap_of_the_clock_the_order_of_deadlines_still_holds() {
    let (broker, clock) = manual();
    let topic = broker.topic::<Duration>("t").open().unwrap();
    let log = Log::new();
    let calls = log.clone();
    let _s = topic.subscribe("s", move |d| {
        if d.attempt() == 1 && d.key().is_some() {
            return Err(Nack::retry_after(*d.payload(), "in its time"));
        }
        calls.push((d.key().is_some(), *d.payload()));
        Ok(())
    });
    let mut numbers = Numbers(11);
    for round in 0..200 {
        // Below a tick apart, too: they share a slot of the wheel.
        let delay = US * (1 + numbers.below(3_000_000)) as u32 / (1 + round % 5) / 1_000 * 37;
        if round % 2 == 0 {
            topic.message(delay).key("retry").publish().unwrap();
        } else {
            topic.publish_after(delay, delay).unwrap();
        }
    }
    broker.run_until_idle();
    clock.advance(Duration::from_secs(3_600));
    broker.run_until_idle();
    let came = log.take();
    assert_eq!(came.len(), 200);
    for retried in [false, true] {
        let mut of = came.iter().filter(|(kind, _)| *kind == retried);
        assert!(of.by_ref().is_sorted_by_key(|(_, due)| *due));
    }
    assert_balanced(&broker);
}

#[test]
fn equal_deadlines_come_in_the_order_in_which_they_were_set() {
    let (broker, clock) = manual();
    let topic = broker.topic::<u32>("t").open().unwrap();
    let log = Log::new();
    let calls = log.clone();
    let _s = topic.subscribe("s", move |d| {
        calls.push(*d.payload());
        Ok(())
    });
    (0..100).for_each(|at| {
        topic.publish_after(MS * 500, at).unwrap();
    });
    clock.advance(MS * 500);
    broker.run_until_idle();
    assert!(log.take().is_sorted());
    assert_balanced(&broker);
}

#[test]
fn an_earlier_deadline_that_is_set_later_is_not_slept_through() {
    let broker = threaded(1);
    let topic = broker.topic::<u32>("t").open().unwrap();
    let (came, arrived) = mpsc::channel();
    let _s = topic.subscribe("s", move |d| {
        came.send(*d.payload())?;
        Ok(())
    });
    topic.publish_after(HANG * 2, 2).unwrap();
    // Time for the timer thread to lie down until then.
    assert!(arrived.recv_timeout(MS * 20).is_err());
    topic.publish_after(MS * 20, 1).unwrap();
    assert_eq!(arrived.recv_timeout(HANG), Ok(1));
    let report = *broker.drain(Duration::ZERO).unwrap_err().report();
    assert_eq!(report.messages_dropped, 1);
    assert_balanced(&broker);
}

#[test]
fn on_threads_a_retry_after_20_ms_comes_and_does_not_come_early() {
    let broker = threaded(2);
    let topic = broker
        .topic::<u32>("t")
        .retry(Backoff::fixed(MS * 20).max_attempts(3))
        .open()
        .unwrap();
    let (came, arrived) = mpsc::channel();
    let _s = topic.subscribe("s", move |d| {
        came.send((*d.payload(), d.attempt(), Instant::now()))?;
        match d.attempt() {
            3 => Ok(()),
            _ => Err(Nack::retry("again")),
        }
    });
    topic.publish_batch(0..20).unwrap();
    let mut last = std::collections::HashMap::new();
    for _ in 0..60 {
        let (payload, attempt, at) = arrived.recv_timeout(HANG).expect("it never fires");
        if let Some(before) = last.insert(payload, at) {
            let waited: Duration = at - before;
            assert!(waited >= MS * 20, "attempt {attempt} came after {waited:?}");
        }
    }
    assert_rests_balanced(&broker);
}

#[test]
fn a_cancelled_timer_leaves_nothing_to_wake_up_for() {
    let (broker, _clock) = manual();
    let topic = broker
        .topic::<u32>("t")
        .strategy(Batched::of(2).linger(MS * 5))
        .open()
        .unwrap();
    let sub = topic.subscribe("s", |_| Err(Nack::retry_after(HANG, "later")));
    topic.publish(1).unwrap();
    broker.run_until_idle();
    assert!(broker.next_deadline().is_some());
    topic.publish(2).unwrap();
    broker.run_until_idle();
    assert_eq!(broker.next_deadline(), Some(HANG), "the linger is gone");
    drop(sub);
    broker.run_until_idle();
    assert_eq!(broker.next_deadline(), None, "the retries are gone");
    assert_balanced(&broker);
}

/// How often each thread whose name begins with `prefix` has gone to sleep and
/// been woken.
#[cfg(target_os = "linux")]
fn switches(prefix: &str) -> std::collections::BTreeMap<String, u64> {
    use std::fs;
    let mut found = std::collections::BTreeMap::new();
    for task in fs::read_dir("/proc/self/task").unwrap().flatten() {
        // A thread of another test may end while we look.
        let Ok(status) = fs::read_to_string(task.path().join("status")) else {
            continue;
        };
        let field = |name: &str| {
            let mut lines = status.lines();
            lines
                .find_map(|line| line.strip_prefix(name))
                .map(str::trim)
        };
        let (Some(name), Some(count)) = (field("Name:"), field("voluntary_ctxt_switches:")) else {
            continue;
        };
        if name.starts_with(prefix) {
            found.insert(name.to_owned(), count.parse().unwrap());
        }
    }
    found
}

#[test]
#[cfg(target_os = "linux")]
fn an_idle_broker_makes_no_wake_ups() {
    let broker = millstream::Broker::builder()
        .workers(2)
        .thread_name("idler")
        .build()
        .unwrap();
    let topic = broker
        .topic::<u32>("t")
        .strategy(Batched::of(100).until_full())
        .open()
        .unwrap();
    let _s = topic.subscribe("s", |d| match d.attempt() {
        1 => Err(Nack::retry("once")),
        _ => Ok(()),
    });
    let _watching = broker.observe(|_| {});
    // It has worked before, and something waits for a far deadline now.
    topic.publish_batch(0..100).unwrap();
    assert_rests_balanced(&broker);
    topic.publish_after(HANG * 10, 0).unwrap();
    topic.publish(0).unwrap();
    // There is no clock to step here: idleness itself is the subject. On a busy machine
    // they take their time to lie down, so it is looked for until it is found; whoever
    // wakes now and then is never found idle for so long.
    let until = Instant::now() + HANG;
    let mut before = switches("idler");
    loop {
        let look = Instant::now() + MS * 300;
        while Instant::now() < look {
            std::thread::park_timeout(MS * 50);
        }
        let after = switches("idler");
        assert_eq!(after.len(), 4, "two workers, timer, observer: {after:?}");
        if after == before {
            break;
        }
        assert!(Instant::now() < until, "never idle: {before:?}, {after:?}");
        before = after;
    }
    let report = *broker.drain(Duration::ZERO).unwrap_err().report();
    assert_eq!(report.published, 102);
    assert_balanced(&broker);
}
