//! Promise 8, swap: changing a strategy loses nothing, reorders nothing and
//! strands nothing. What waits is judged by the new strategy at once, at its true
//! age. A strategy that would wait for ever is overruled by a full queue, a flush
//! and a drain. A batch lingers as long as it was told to: not shorter, and a tick
//! longer at most.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Barrier, mpsc};
use std::time::{Duration, Instant};

use crate::harness::{
    HANG, Log, advance, assert_balanced, assert_rests_balanced, manual, read, threaded,
};
use millstream::error::SettingError;
use millstream::event::{EventKind, Observation};
use millstream::strategy::{Backlog, FlushCause, Plan, Strategy, strategy_fn};
use millstream::{Batched, Broker, Immediate, ManualClock, Nack, Overflow, Subscription, Topic};

const MS: Duration = Duration::from_millis(1);

/// A topic with this strategy, and what its subscriber gets.
fn topic_with(broker: &Broker, strategy: impl Strategy) -> (Topic<u32>, Log<u32>, Subscription) {
    let topic = broker.topic("t").strategy(strategy).open().expect("opens");
    let (log, subscription) = read(&topic, "s");
    (topic, log, subscription)
}

fn publish(topic: &Topic<u32>, payloads: impl IntoIterator<Item = u32>) {
    for payload in payloads {
        topic.publish(payload).expect("there is room");
    }
}

/// The batches that were waited for, as events tell.
fn flushes(broker: &Broker) -> (Log<(usize, FlushCause)>, Observation) {
    let log = Log::new();
    let observation = broker.observe({
        let log = log.clone();
        move |event| {
            if let EventKind::BatchFlush { size, cause } = *event.kind() {
                log.push((size, cause));
            }
        }
    });
    (log, observation.expect("observes"))
}

#[test]
fn a_batch_waits_until_it_is_full() {
    let (broker, _clock) = manual();
    let (topic, log, _reader) = topic_with(&broker, Batched::of(4).until_full());
    let (flushed, _observation) = flushes(&broker);
    for n in 0..9 {
        publish(&topic, [n]);
        broker.run_until_idle();
        let expected = (n + 1) % 4 == 0;
        assert_eq!(log.take().len(), if expected { 4 } else { 0 }, "after {n}");
    }
    assert_eq!(flushed.take(), [(4, FlushCause::Size); 2]);
    assert_eq!(topic.metrics().queued, 1);
    assert_balanced(&broker);
}

#[test]
fn a_partial_batch_goes_when_its_oldest_has_lingered_and_not_before() {
    let (broker, clock) = manual();
    let (topic, log, _reader) = topic_with(&broker, Batched::of(10).linger(5 * MS));
    let (flushed, _observation) = flushes(&broker);
    publish(&topic, [0]);
    advance(&broker, &clock, 3 * MS);
    publish(&topic, [1, 2]);
    advance(&broker, &clock, 2 * MS - Duration::from_nanos(1));
    assert_eq!(log.len(), 0, "a nanosecond early");
    advance(&broker, &clock, Duration::from_micros(100));
    assert_eq!(log.take(), [0, 1, 2]);
    assert_eq!(flushed.take(), [(3, FlushCause::Linger)]);
    publish(&topic, [3]);
    advance(&broker, &clock, 4 * MS);
    assert_eq!(log.len(), 0, "the next batch has its own time");
    advance(&broker, &clock, MS + Duration::from_micros(100));
    assert_eq!(log.take(), [3]);
    assert_balanced(&broker);
}

#[test]
fn what_waits_goes_at_once_when_the_new_strategy_is_immediate() {
    let (broker, _clock) = manual();
    let (topic, log, _reader) = topic_with(&broker, Batched::of(10).until_full());
    publish(&topic, 0..3);
    broker.run_until_idle();
    assert_eq!(log.len(), 0);
    topic.set_strategy(Immediate).expect("valid");
    broker.run_until_idle();
    assert_eq!(log.take(), [0, 1, 2]);
    assert_eq!(topic.metrics().strategy, "immediate");
    assert_balanced(&broker);
}

#[test]
fn what_waits_goes_at_once_when_the_new_batch_is_already_full() {
    let (broker, _clock) = manual();
    let (topic, log, _reader) = topic_with(&broker, Batched::of(10).until_full());
    publish(&topic, 0..7);
    broker.run_until_idle();
    topic
        .set_strategy(Batched::of(3).until_full())
        .expect("valid");
    broker.run_until_idle();
    assert_eq!(
        log.take(),
        [0, 1, 2, 3, 4, 5],
        "two full batches, and one waits"
    );
    assert_balanced(&broker);
}

#[test]
fn a_shorter_linger_counts_from_when_the_message_was_accepted() {
    let (broker, clock) = manual();
    let (topic, log, _reader) = topic_with(&broker, Batched::of(10).linger(50 * MS));
    publish(&topic, [0]);
    advance(&broker, &clock, 6 * MS);
    topic
        .set_strategy(Batched::of(20).linger(8 * MS))
        .expect("valid");
    advance(&broker, &clock, MS);
    assert_eq!(log.len(), 0);
    advance(&broker, &clock, MS);
    assert_eq!(log.take(), [0]);
    publish(&topic, [1]);
    advance(&broker, &clock, 6 * MS);
    topic
        .set_strategy(Batched::of(20).linger(5 * MS))
        .expect("valid");
    broker.run_until_idle();
    assert_eq!(log.take(), [1], "it is older than that already");
    assert_balanced(&broker);
}

#[test]
fn a_linger_instead_of_none_counts_from_when_the_message_was_accepted() {
    let (broker, clock) = manual();
    let (topic, log, _reader) = topic_with(&broker, Batched::of(10).until_full());
    publish(&topic, [0]);
    advance(&broker, &clock, 6 * MS);
    topic
        .set_strategy(Batched::of(10).linger(8 * MS))
        .expect("valid");
    advance(&broker, &clock, MS);
    assert_eq!(log.len(), 0);
    advance(&broker, &clock, MS);
    assert_eq!(log.take(), [0]);
    assert_balanced(&broker);
}

#[test]
fn a_longer_linger_is_kept_too() {
    let (broker, clock) = manual();
    let (topic, log, _reader) = topic_with(&broker, Batched::of(10).linger(5 * MS));
    publish(&topic, [0]);
    advance(&broker, &clock, 2 * MS);
    topic
        .set_strategy(Batched::of(10).linger(20 * MS))
        .expect("valid");
    for _ in 0..17 {
        advance(&broker, &clock, MS);
        assert_eq!(log.len(), 0, "after {:?}", clock.elapsed());
    }
    advance(&broker, &clock, MS);
    assert_eq!(log.take(), [0], "stranded: no deadline is set any more");
    assert_balanced(&broker);
}

#[test]
fn a_swap_under_a_full_lane_is_minded_by_what_still_waits() {
    let (broker, clock) = manual();
    let topic = broker.topic::<u32>("t").open().expect("opens");
    let log = Log::new();
    let _flaky = topic
        .subscription("s")
        .capacity(1)
        .subscribe({
            let log = log.clone();
            move |d| match d.attempt() {
                1 if *d.payload() == 0 => Err(Nack::retry("holds its place")),
                _ => {
                    log.push(*d.payload());
                    Ok(())
                }
            }
        })
        .expect("subscribes");
    publish(&topic, 0..5);
    broker.run_until_idle();
    assert_eq!(topic.metrics().queued, 4);
    topic
        .set_strategy(Batched::of(100).until_full())
        .expect("valid");
    advance(&broker, &clock, 250 * MS);
    assert_eq!(log.take(), [0], "four are no batch of a hundred");
    topic.flush();
    broker.run_until_idle();
    assert_eq!(log.take(), [1, 2, 3, 4]);
    assert_balanced(&broker);
}

#[test]
fn a_broker_wide_swap_reaches_every_topic_and_those_opened_later() {
    let (broker, _clock) = manual();
    let waiting = Batched::of(10).until_full();
    broker.set_strategy(waiting).expect("valid");
    let topics = ["a", "b"].map(|name| {
        let topic = broker.topic::<u32>(name).open().expect("opens");
        let (log, subscription) = read(&topic, "s");
        publish(&topic, 0..3);
        (topic, log, subscription)
    });
    let own = broker
        .topic::<u32>("own")
        .strategy(Batched::of(3).until_full());
    let own = own.open().expect("opens");
    let (own_log, _own) = read(&own, "s");
    publish(&own, 0..2);
    broker.run_until_idle();
    for (topic, log, _) in &topics {
        assert_eq!(
            (log.len(), topic.metrics().strategy.as_str()),
            (0, "batched")
        );
    }
    broker.set_strategy(Immediate).expect("valid");
    broker.run_until_idle();
    for (topic, log, _) in &topics {
        assert_eq!(log.take(), [0, 1, 2]);
        assert_eq!(topic.metrics().strategy, "immediate");
    }
    assert_eq!(own_log.take(), [0, 1], "every topic means every topic");
    let later = broker.topic::<u32>("later").open().expect("opens");
    assert_eq!(later.metrics().strategy, "immediate");
    assert_balanced(&broker);
}

#[test]
fn a_flush_hands_on_what_was_accepted_before_it_and_nothing_else() {
    let (broker, _clock) = manual();
    let (topic, log, _reader) = topic_with(&broker, Batched::of(10).until_full());
    let (flushed, _observation) = flushes(&broker);
    publish(&topic, 0..3);
    topic.flush();
    publish(&topic, 3..5);
    broker.run_until_idle();
    assert_eq!(log.take(), [0, 1, 2]);
    assert_eq!(flushed.take(), [(3, FlushCause::Requested)]);
    broker.run_until_idle();
    assert_eq!(log.len(), 0);
    topic.flush();
    broker.run_until_idle();
    assert_eq!(log.take(), [3, 4]);
    topic.flush();
    broker.run_until_idle();
    assert_eq!(log.len(), 0, "there was nothing to hand on");
    assert_balanced(&broker);
}

#[test]
fn a_flush_reaches_the_batches_that_subscriptions_accumulate() {
    let (broker, clock) = manual();
    let topic = broker.topic::<u32>("t").open().expect("opens");
    let log = Log::new();
    let _batches = topic
        .subscription("s")
        .subscribe_batches(Batched::of(10).linger(5 * MS), {
            let log = log.clone();
            move |batch| {
                log.push(batch.iter().map(|d| *d.payload()).collect::<Vec<_>>());
                Ok(())
            }
        })
        .expect("subscribes");
    publish(&topic, 0..3);
    broker.run_until_idle();
    assert_eq!(log.len(), 0);
    topic.flush();
    broker.run_until_idle();
    assert_eq!(log.take(), [vec![0, 1, 2]]);
    publish(&topic, 3..5);
    advance(&broker, &clock, 5 * MS - Duration::from_nanos(1));
    assert_eq!(log.len(), 0, "a nanosecond early");
    advance(&broker, &clock, Duration::from_micros(100));
    assert_eq!(log.take(), [vec![3, 4]]);
    assert_balanced(&broker);
}

/// Never hands anything on by itself.
struct Never;

#[test]
fn a_strategy_may_be_a_closure_or_chosen_at_run_time() {
    let (broker, _clock) = manual();
    let in_threes = strategy_fn("in threes", |backlog| match backlog.waiting() {
        waiting @ 3.. => Plan::Deliver { at_most: waiting },
        _ => Plan::Wait {
            until_waiting: 3,
            at_most: None,
        },
    });
    let (topic, log, _subscription) = topic_with(&broker, in_threes);
    assert_eq!(topic.metrics().strategy, "in threes");
    publish(&topic, 0..2);
    broker.run_until_idle();
    assert!(log.take().is_empty());
    publish(&topic, 2..3);
    broker.run_until_idle();
    assert_eq!(log.take(), [0, 1, 2]);
    let chosen: Box<dyn Strategy> = Box::new(Immediate);
    topic.set_strategy(chosen).expect("valid");
    publish(&topic, 3..4);
    broker.run_until_idle();
    assert_eq!(log.take(), [3]);
    let too_small: Arc<dyn Strategy> = Arc::new(Batched::of(0));
    let refused = topic.set_strategy(too_small);
    assert!(refused.is_err(), "it is checked behind its pointer, too");
    assert_balanced(&broker);
}

impl Strategy for Never {
    fn plan(&self, _: &Backlog) -> Plan {
        Plan::Wait {
            until_waiting: usize::MAX,
            at_most: None,
        }
    }

    fn name(&self) -> &str {
        "never"
    }
}

#[test]
fn a_strategy_that_waits_for_ever_is_overruled_by_a_full_queue() {
    let (broker, _clock) = manual();
    let topic = broker.topic::<u32>("t").capacity(4).strategy(Never);
    let topic = topic.open().expect("opens");
    let (log, _reader) = read(&topic, "s");
    let (flushed, _observation) = flushes(&broker);
    publish(&topic, 0..3);
    broker.run_until_idle();
    assert_eq!(log.len(), 0);
    publish(&topic, [3]);
    broker.run_until_idle();
    assert_eq!(log.take(), [0, 1, 2, 3]);
    assert_eq!(flushed.take(), [(4, FlushCause::Full)]);
    assert_balanced(&broker);
}

#[test]
fn a_strategy_that_waits_for_ever_is_overruled_when_delayed_messages_fill_the_queue() {
    let (broker, _clock) = manual();
    let topic = broker.topic::<u32>("t").capacity(4).strategy(Never);
    let topic = topic.open().expect("opens");
    let (log, _reader) = read(&topic, "s");
    topic.publish_after(HANG, 9).expect("there is room");
    publish(&topic, 0..3);
    broker.run_until_idle();
    assert_eq!(log.take(), [0, 1, 2], "the queue can take no more");
    assert_balanced(&broker);
}

#[test]
fn a_strategy_that_waits_for_ever_is_overruled_by_a_flush_and_by_a_drain() {
    let (broker, _clock) = manual();
    let (topic, log, _reader) = topic_with(&broker, Never);
    let (flushed, _observation) = flushes(&broker);
    publish(&topic, 0..2);
    topic.flush();
    broker.run_until_idle();
    assert_eq!(log.take(), [0, 1]);
    publish(&topic, 2..5);
    broker.run_until_idle();
    assert_eq!(log.len(), 0);
    broker.drain(HANG).expect("nothing is left");
    assert_eq!(log.take(), [2, 3, 4]);
    assert_eq!(
        flushed.take(),
        [(2, FlushCause::Requested), (3, FlushCause::Drain)]
    );
    assert_balanced(&broker);
}

#[test]
fn a_drain_hands_on_pending_batches_of_topics_and_subscriptions_on_threads() {
    let broker = threaded(2);
    let (topic, log, _reader) = topic_with(&broker, Never);
    let batched = broker.topic::<u32>("batched").open().expect("opens");
    let batches = Log::new();
    let _batches = batched
        .subscription("s")
        .subscribe_batches(Batched::of(10).until_full(), {
            let batches = batches.clone();
            move |batch| {
                batch.iter().for_each(|d| batches.push(*d.payload()));
                Ok(())
            }
        })
        .expect("subscribes");
    publish(&topic, 0..3);
    publish(&batched, 0..3);
    let report = broker.drain(HANG).expect("nothing is left");
    assert_eq!(report.delivered, 6);
    assert_eq!((log.take(), batches.take()), (vec![0, 1, 2], vec![0, 1, 2]));
    assert_balanced(&broker);
}

#[test]
fn a_strategy_that_asks_to_be_asked_again_is_asked_again() {
    /// Looks every millisecond, and hands on at the fourth look.
    struct Fourth(AtomicU32);
    impl Strategy for Fourth {
        fn plan(&self, backlog: &Backlog) -> Plan {
            let looks = self.0.fetch_add(1, Ordering::Relaxed) + 1;
            match looks {
                4.. => Plan::Deliver {
                    at_most: backlog.waiting(),
                },
                _ => Plan::Wait {
                    until_waiting: usize::MAX,
                    at_most: Some(MS),
                },
            }
        }
        fn name(&self) -> &str {
            "fourth"
        }
    }
    let (broker, clock) = manual();
    let (topic, log, _reader) = topic_with(&broker, Fourth(AtomicU32::new(0)));
    publish(&topic, [0]);
    broker.run_until_idle();
    for _ in 0..10 {
        advance(&broker, &clock, MS);
    }
    assert_eq!(log.take(), [0], "stranded: no deadline is set any more");
    assert_balanced(&broker);
}

#[test]
fn a_strategy_sees_the_backlog_as_it_is() {
    struct Looking(Log<(usize, Duration, usize)>);
    impl Strategy for Looking {
        fn plan(&self, backlog: &Backlog) -> Plan {
            self.0
                .push((backlog.waiting(), backlog.oldest_age(), backlog.capacity()));
            Plan::Wait {
                until_waiting: 3,
                at_most: None,
            }
        }
        fn name(&self) -> &str {
            "looking"
        }
    }
    let (broker, clock) = manual();
    let looks = Log::new();
    let topic = broker.topic::<u32>("t").capacity(8);
    let topic = topic
        .strategy(Looking(looks.clone()))
        .open()
        .expect("opens");
    let (log, _reader) = read(&topic, "s");
    publish(&topic, [0]);
    broker.run_until_idle();
    advance(&broker, &clock, 5 * MS);
    publish(&topic, [1]);
    broker.run_until_idle();
    assert_eq!(looks.take(), [(1, Duration::ZERO, 8)], "two are not three");
    publish(&topic, [2]);
    broker.run_until_idle();
    assert_eq!(looks.take().first(), Some(&(3, 5 * MS, 8)));
    topic.set_strategy(Immediate).expect("valid");
    broker.run_until_idle();
    assert_eq!(log.take(), [0, 1, 2]);
    assert_balanced(&broker);
}

#[test]
fn a_strategy_that_panics_hands_on_what_there_is() {
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
    let (topic, log, _reader) = topic_with(&broker, Broken);
    publish(&topic, 0..3);
    broker.run_until_idle();
    assert_eq!(log.take(), [0, 1, 2]);
    assert_balanced(&broker);
}

#[test]
fn a_strategy_that_refuses_its_own_settings_leaves_the_old_one_in_place() {
    let (broker, _clock) = manual();
    let (topic, log, _reader) = topic_with(&broker, Batched::of(2).until_full());
    let refused: SettingError = topic.set_strategy(Batched::of(0)).expect_err("empty");
    assert_eq!(refused.setting(), "batch_size");
    broker.set_strategy(Batched::of(0)).expect_err("empty");
    publish(&topic, 0..3);
    broker.run_until_idle();
    assert_eq!(log.take(), [0, 1]);
    assert_balanced(&broker);
}

#[test]
fn a_handler_may_swap_the_strategy_of_its_own_topic() {
    let (broker, _clock) = manual();
    let topic = broker.topic::<u32>("t").open().expect("opens");
    let log = Log::new();
    let _swapping = topic
        .subscribe("s", {
            let (topic, log) = (topic.clone(), log.clone());
            move |d| {
                log.push(*d.payload());
                match d.payload() {
                    0 => topic.set_strategy(Batched::of(3).until_full())?,
                    3 => topic.set_strategy(Immediate)?,
                    _ => {}
                }
                Ok(())
            }
        })
        .expect("subscribes");
    for n in 0..=4 {
        publish(&topic, [n]);
        broker.run_until_idle();
    }
    assert_eq!(log.take(), [0, 1, 2, 3, 4]);
    assert_balanced(&broker);
}

/// Swaps back and forth `times` often with messages in between, and never runs
/// anything until the end.
fn swap_back_and_forth(topic: &Topic<u32>, clock: &ManualClock, times: u32) {
    for n in 0..times {
        publish(topic, [2 * n]);
        topic
            .set_strategy(Batched::of(7).linger(MS))
            .expect("valid");
        publish(topic, [2 * n + 1]);
        topic.set_strategy(Never).expect("valid");
        clock.advance(MS);
    }
}

#[test]
fn swaps_that_nobody_saw_lose_and_reorder_nothing() {
    let (broker, clock) = manual();
    let (topic, log, _reader) = topic_with(&broker, Immediate);
    swap_back_and_forth(&topic, &clock, 100);
    broker.run_until_idle();
    assert_eq!(log.len(), 0);
    topic.set_strategy(Immediate).expect("valid");
    broker.run_until_idle();
    assert_eq!(log.take(), (0..200).collect::<Vec<_>>());
    assert_eq!(broker.next_deadline(), None);
    assert_balanced(&broker);
}

#[test]
fn a_batch_that_publishers_fill_together_goes_without_further_help() {
    const PUBLISHERS: u32 = 4;
    const ROUNDS: u32 = 15_000;
    let broker = threaded(1);
    let topic = broker
        .topic::<u32>("t")
        .strategy(Batched::of(PUBLISHERS as usize).until_full());
    let topic = topic.open().expect("opens");
    let (delivered, deliveries) = mpsc::channel();
    let _reader = topic
        .subscribe("s", move |d| Ok(delivered.send(*d.payload())?))
        .expect("subscribes");
    let start = Barrier::new(PUBLISHERS as usize + 1);
    let stranded = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..PUBLISHERS {
            scope.spawn(|| {
                for round in 0..ROUNDS {
                    start.wait();
                    if stranded.load(Ordering::Relaxed) {
                        return;
                    }
                    topic.publish(round).expect("there is room");
                }
            });
        }
        for round in 0..ROUNDS {
            start.wait();
            for _ in 0..PUBLISHERS {
                if deliveries.recv_timeout(HANG) != Ok(round) {
                    // Lets the publishers go before it fails.
                    stranded.store(true, Ordering::Relaxed);
                    if round + 1 < ROUNDS {
                        start.wait();
                    }
                    panic!("stranded in round {round}:\n{:#?}", topic.metrics());
                }
            }
        }
    });
    assert_rests_balanced(&broker);
}

#[test]
fn lingering_batches_reach_everybody_in_time_on_threads() {
    let broker = threaded(2);
    let linger = 2 * MS;
    let (topic, log, _reader) = topic_with(&broker, Batched::of(1_000).linger(linger));
    let began = Instant::now();
    for round in 0..20 {
        std::thread::scope(|scope| {
            for publisher in 0..3 {
                let topic = &topic;
                scope.spawn(move || publish(topic, [3 * round + publisher]));
            }
        });
        assert_rests_balanced(&broker);
        assert_eq!(log.take().len(), 3, "in round {round}");
    }
    assert!(began.elapsed() >= 20 * linger, "no batch goes early");
}

#[test]
fn a_storm_of_swaps_under_traffic_loses_and_strands_nothing() {
    const PUBLISHERS: u32 = 3;
    const EACH: u32 = 3_000;
    let broker = threaded(2);
    let topic = broker.topic::<u32>("t").capacity(128);
    let topic = topic.overflow(Overflow::Block { timeout: HANG });
    let topic = topic.open().expect("opens");
    let (log, _reader) = read(&topic, "s");
    let done = Arc::new(AtomicBool::new(false));
    let began = Instant::now();
    std::thread::scope(|scope| {
        let swapper = scope.spawn(|| {
            let mut swaps = 0_u32;
            // A storm even if it is only let on the processor when all is published.
            while (!done.load(Ordering::Relaxed) || swaps <= 20) && began.elapsed() < HANG {
                let swapped = match swaps % 5 {
                    0 => topic.set_strategy(Batched::of(50).linger(HANG)),
                    1 => topic.set_strategy(Immediate),
                    2 => topic.set_strategy(Never),
                    3 => broker.set_strategy(Batched::of(7).until_full()),
                    _ => topic.set_strategy(Batched::of(1_000).linger(MS)),
                };
                swapped.expect("valid");
                swaps += 1;
            }
            swaps
        });
        let publishers: Vec<_> = (0..PUBLISHERS)
            .map(|_| scope.spawn(|| publish(&topic, 0..EACH)))
            .collect();
        for publisher in publishers {
            publisher.join().expect("it published all it has");
        }
        done.store(true, Ordering::Relaxed);
        let swaps = swapper.join().expect("it only swaps");
        assert!(swaps > 20, "a storm of {swaps} swaps");
    });
    // The last word is one that waits; what is pending must still obey it.
    topic
        .set_strategy(Batched::of(1_000).linger(MS))
        .expect("valid");
    let metrics = assert_rests_balanced(&broker);
    assert!(began.elapsed() < HANG);
    assert_eq!(metrics.deliveries().delivered, u64::from(PUBLISHERS * EACH));
    assert_eq!(log.len() as u32, PUBLISHERS * EACH);
}
