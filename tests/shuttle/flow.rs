//! Messages on their way: fan-out, full topics, strategies, overflow, buffers.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use millstream::{
    Batched, Immediate, LaneFull, Message, NoSubscribers, Overflow, PublishError, Pull,
};

use shuttle::future::block_on;
use shuttle::sync::{Condvar, Mutex};

use super::explore::explore;
use super::*;

const BLOCK: Overflow = Overflow::Block { timeout: FOREVER };

#[test]
fn fan_out() {
    explore(|| {
        let broker = broker();
        let topics = ["a", "b"].map(|name| broker.topic(name).open().unwrap());
        let logs = [(0, "x"), (0, "y"), (1, "x")].map(|(topic, name)| log(&topics[topic], name));
        join(publishers(move |publisher| {
            for number in 0..2 {
                topics[0].publish((publisher, number)).unwrap();
            }
            topics[1].publish((publisher, 0)).unwrap();
        }));
        let report = drain(&broker);
        assert_eq!((report.published, report.delivered), (12, 20));
        let [x, y, of_b] = logs.map(|log| log.take());
        assert_in_order(&x);
        assert_eq!(x, y, "one order for all subscriptions of a topic");
        assert_eq!((x.len(), of_b.len()), (8, 4));
    });
}

#[test]
fn subscriptions_start_when_they_come() {
    explore(|| {
        let broker = broker();
        let topic = broker.topic::<Sent>("a").open().unwrap();
        let first = log(&topic, "first");
        let mut threads = publishers({
            let topic = topic.clone();
            move |publisher| {
                for number in 0..2 {
                    topic.publish((publisher, number)).unwrap();
                }
            }
        });
        let joined = Log::new();
        for (me, name) in [(PUBLISHERS, "x"), (PUBLISHERS + 1, "y")] {
            let (topic, joined) = (topic.clone(), joined.clone());
            threads.push(thread::spawn(move || {
                topic.publish((me, 0)).unwrap();
                joined.push((me, log(&topic, name)));
                topic.publish((me, 1)).unwrap();
            }));
        }
        join(threads);
        drain(&broker);
        assert_eq!(first.len(), 12);
        for (me, log) in joined.take() {
            let mine: Vec<_> = log.take().into_iter().filter(|sent| sent.0 == me).collect();
            assert_eq!(mine, [(me, 1)]);
        }
    });
}

/// Workers that waited for room which only workers make would never wake.
#[test]
fn handlers_that_publish_into_each_others_full_topic() {
    explore(|| {
        let broker = broker();
        let open = |name| {
            let topic = broker.topic::<u64>(name).capacity(1).overflow(BLOCK);
            topic.lane_capacity(1).open().unwrap()
        };
        let topics = [open("a"), open("b")];
        let refused = Log::new();
        for (from, to) in [(0, 1), (1, 0)] {
            let (to, refused) = (topics[to].clone(), refused.clone());
            let subscription = topics[from].subscribe("s", move |delivery| {
                for hops in 0..*delivery.payload() {
                    match to.publish(hops) {
                        Ok(_) => {}
                        Err(PublishError::Full(hops)) => refused.push(hops),
                        Err(other) => panic!("{other}"),
                    }
                }
                Ok(())
            });
            subscription.unwrap().detach();
        }
        join(publishers(move |publisher| {
            topics[publisher as usize % 2].publish(2).unwrap();
        }));
        assert!(broker.wait_until_idle(FOREVER));
        let report = drain(&broker);
        // Two hops mean three more messages, unless one with a hop left is refused.
        let refused: u64 = refused.take().iter().map(|hops| hops + 1).sum();
        assert_eq!(report.published, 4 * 4 - refused);
        assert_eq!(report.delivered, report.published);
    });
}

/// A message that waited for the slow handler to return would never come, because that
/// waits for the message.
#[test]
fn a_handler_that_waits_delays_no_other_subscription() {
    explore(|| {
        let broker = broker();
        let topic = broker.topic("a").open().unwrap();
        let arrived = Arc::new((Mutex::new(false), Condvar::new()));
        let waits = Arc::clone(&arrived);
        let slow = topic.subscribe("slow", move |delivery: &Delivery<'_, u64>| {
            let (has_arrived, bell) = &*waits;
            let mut has_arrived = has_arrived.lock().unwrap();
            while *delivery.payload() == 2 && !*has_arrived {
                has_arrived = bell.wait(has_arrived).unwrap();
            }
            Ok(())
        });
        slow.unwrap().detach();
        let other = topic.subscribe("other", move |delivery| {
            if *delivery.payload() == 3 {
                *arrived.0.lock().unwrap() = true;
                arrived.1.notify_all();
            }
            Ok(())
        });
        other.unwrap().detach();
        for number in 0..4 {
            topic.publish(number).unwrap();
            // Workers may find one at a time, and stay with the topic.
            thread::yield_now();
        }
        assert_eq!(drain(&broker).delivered, 8);
    });
}

#[test]
fn strategies_are_swapped_while_messages_wait() {
    explore(|| {
        let broker = broker();
        let topic = broker.topic("a").strategy(Batched::of(3).linger(SOON));
        let topic = topic.open().unwrap();
        let log = log(&topic, "x");
        let batches = Log::new();
        let subscription = {
            let (batches, linger) = (batches.clone(), Batched::of(3).linger(SOON));
            topic
                .subscription("y")
                .subscribe_batches(linger, move |batch| {
                    batches.push(batch.iter().map(|delivery| *delivery.payload()).collect());
                    Ok(())
                })
        };
        subscription.unwrap().detach();
        let mut threads = publishers({
            let topic = topic.clone();
            move |publisher| {
                for number in 0..2 {
                    topic.publish((publisher, number)).unwrap();
                }
            }
        });
        threads.push(thread::spawn(move || {
            topic.set_strategy(Immediate).unwrap();
            topic.set_strategy(Batched::of(64).linger(SOON)).unwrap();
            topic.set_strategy(Batched::of(2)).unwrap();
            topic.set_strategy(Batched::of(5).linger(2 * SOON)).unwrap();
        }));
        join(threads);
        // Nothing but the linger brings the last of them on their way.
        assert!(broker.wait_until_idle(FOREVER));
        let firsts = log.take();
        assert_in_order(&firsts);
        let batches: Vec<Vec<Sent>> = batches.take();
        assert!(batches.iter().all(|batch| (1..=3).contains(&batch.len())));
        assert_eq!(batches.concat(), firsts);
        assert_eq!((firsts.len(), drain(&broker).delivered), (8, 16));
    });
}

/// Without a linger no time helps who has missed his moment.
#[test]
fn a_batch_goes_when_it_is_full_or_no_longer_wanted() {
    explore(|| {
        let broker = broker();
        let topics = [("full", 4), ("swapped", 64)].map(|(name, size)| {
            let topic = broker
                .topic::<Sent>(name)
                .strategy(Batched::of(size).until_full());
            topic.open().unwrap()
        });
        let logs = [0, 1].map(|at| log(&topics[at], "x"));
        join(publishers({
            let topics = topics.clone();
            move |publisher| {
                for topic in &topics {
                    topic.publish((publisher, 0)).unwrap();
                }
            }
        }));
        topics[1].set_strategy(Immediate).unwrap();
        assert!(broker.wait_until_idle(FOREVER));
        assert_eq!(logs.map(|log| log.len()), [4, 4]);
        drain(&broker);
    });
}

#[test]
fn the_number_of_partitions_changes_while_keyed_messages_wait() {
    explore(|| {
        let broker = broker();
        let topic = broker.topic("t").capacity(4).overflow(BLOCK);
        let topic = topic.partitions(2).lane_capacity(2).open().unwrap();
        let logs = ["x", "y"].map(|name| log(&topic, name));
        let mut threads = publishers({
            let topic = topic.clone();
            move |publisher| {
                for number in 0..2 {
                    let message = topic.message((publisher, number));
                    message.key(publisher.to_string()).publish().unwrap();
                }
            }
        });
        threads.push(thread::spawn(move || {
            for partitions in [3, 1, 2] {
                // Refused while the last change is under way.
                let _ = topic.set_partitions(partitions);
            }
        }));
        join(threads);
        assert!(broker.wait_until_idle(FOREVER));
        for firsts in logs.map(|log| log.take()) {
            assert_in_order(&firsts);
            assert_eq!(firsts.len(), 8);
        }
        assert_eq!(drain(&broker).delivered, 16);
    });
}

#[test]
fn the_oldest_make_room() {
    explore(|| {
        let broker = broker();
        let topic = broker.topic("a").capacity(2).overflow(Overflow::DropOldest);
        let topic = topic.open().unwrap();
        let logs = [LaneFull::Wait, LaneFull::DropOldest].map(|when_full| {
            let log = Log::new();
            let lane = topic.subscription(&format!("{when_full:?}")).capacity(1);
            let subscription = lane.when_full(when_full).subscribe(into(&log));
            subscription.unwrap().detach();
            log
        });
        let evicted = Log::new();
        join(publishers({
            let (topic, evicted) = (topic.clone(), evicted.clone());
            move |publisher| {
                for number in 0..2 {
                    let receipt = topic.publish((publisher, number)).unwrap();
                    evicted.push(u64::from(receipt.evicted()));
                }
            }
        }));
        let report = drain(&broker);
        assert_eq!(report.published, 8);
        assert_eq!(report.messages_dropped, evicted.take().iter().sum::<u64>());
        assert_eq!(report.dispatched, 8 - report.messages_dropped);
        let [all, newest] = logs.map(|log| log.take());
        assert_in_order(&all);
        assert_in_order(&newest);
        assert_eq!(all.len() as u64, report.dispatched);
        assert_eq!(all.len() - newest.len(), report.dropped as usize);
    });
}

#[test]
fn buffers_are_flushed_by_their_publisher_and_by_workers() {
    explore(|| {
        let broker = broker();
        let topic = broker
            .topic("a")
            .capacity(4)
            .overflow(BLOCK)
            .open()
            .unwrap();
        let log = log(&topic, "x");
        join(publishers({
            let topic = topic.clone();
            move |publisher| {
                let batches = Batched::of(2).linger(SOON);
                let mut buffer = topic.buffered(batches).unwrap();
                for number in 0..3 {
                    buffer.publish((publisher, number)).unwrap();
                }
                if publisher % 2 == 0 {
                    assert_eq!(buffer.flush().unwrap().accepted(), 3);
                    buffer.publish((publisher, 3)).unwrap();
                }
            }
        }));
        // Two that stay: only their linger can bring them on their way.
        let mut left = topic.buffered(Batched::of(4).linger(SOON)).unwrap();
        for number in 4..6 {
            left.publish((0, number)).unwrap();
        }
        while log.len() < 16 {
            thread::yield_now();
        }
        assert_eq!(left.buffered(), 0);
        let firsts = log.take();
        assert_in_order(&firsts);
        drop(left);
        assert_eq!((firsts.len(), drain(&broker).delivered), (16, 16));
    });
}

/// A lane that nobody takes from, and a topic that nobody subscribes to, are full of
/// what will have expired: publishers wait for its room, and an idle broker for its end.
#[test]
fn what_expires_makes_room_by_itself() {
    explore(|| {
        let broker = broker();
        let topic = broker.topic("a").capacity(1).overflow(BLOCK).ttl(SOON);
        let topic = topic.open().unwrap();
        let idle = topic.subscription("idle").capacity(1);
        let idle = idle.pull(Pull::default()).unwrap();
        let log = log(&topic, "x");
        let retained = broker.topic("b").capacity(1).overflow(BLOCK);
        let retained = retained.no_subscribers(NoSubscribers::Retain);
        let retained = retained.open().unwrap();
        join(publishers(move |publisher| {
            topic.publish((publisher, 0)).unwrap();
            let message = retained.message((publisher, 0)).ttl(SOON);
            message.publish().unwrap();
        }));
        assert!(broker.wait_until_idle(FOREVER));
        assert_eq!(idle.metrics().counts.expired, 4);
        // The last one retained may be there still.
        let report = match broker.drain(FOREVER) {
            Ok(report) => report,
            Err(error) => *error.report(),
        };
        assert_balanced(&broker);
        assert_eq!((report.dispatched, report.messages_dropped), (4, 4));
        assert_eq!((report.made, report.delivered), (8, log.len() as u64));
        assert_eq!(report.delivered + report.expired, report.made);
    });
}

/// A future that was called for room and gives up must pass the call on, or the others wait for
/// ever.
#[test]
fn batches_that_are_awaited_share_the_room_with_publishers_that_wait_and_some_give_up() {
    explore(|| {
        let broker = broker();
        let topic = broker.topic("a").capacity(2).overflow(BLOCK);
        let topic = topic.open().unwrap();
        let log = log(&topic, "x");
        let left = Log::new();
        let threads = publishers({
            let left = left.clone();
            move |publisher| {
                let batch = (0..4).map(|number| Message::new((publisher, number)).key("k"));
                match publisher {
                    0 => {
                        let all = topic.publish_messages_async(batch);
                        assert_eq!(block_on(all).unwrap().accepted(), 4);
                    }
                    1 => {
                        let mut some = topic.publish_messages_async(batch);
                        let mut polled = 0;
                        let given_up = block_on(poll_fn(|context| {
                            polled += 1;
                            match Pin::new(&mut some).poll(context) {
                                Poll::Pending if polled == 2 => Poll::Ready(true),
                                polled => polled.map(|all| all.is_err()),
                            }
                        }));
                        let rest = some.into_inner();
                        assert!(given_up || rest.is_empty());
                        left.push(rest.len());
                    }
                    _ => {
                        for number in 0..4 {
                            topic.publish((publisher, number)).unwrap();
                        }
                    }
                }
            }
        });
        join(threads);
        drain(&broker);
        let came = log.take();
        assert_in_order(&came);
        assert_eq!(came.len() + left.take()[0], 16);
    });
}

/// A message that is taken back while its timer fires would come as well, or let another come
/// early. Who waits for its place would wait for ever.
#[test]
fn delayed_messages_are_taken_back_while_they_become_due() {
    explore(|| {
        let broker = broker();
        let topic = broker.topic("a").capacity(2).overflow(BLOCK);
        let topic = topic.open().unwrap();
        let log = log(&topic, "x");
        let back = Log::new();
        let threads = publishers({
            let back = back.clone();
            move |publisher| {
                for number in 0..2 {
                    let delay = SOON * (1 + number as u32);
                    let receipt = topic.publish_after(delay, (publisher, number)).unwrap();
                    if publisher % 2 == 0 {
                        thread::yield_now();
                    }
                    if let Ok(message) = topic.cancel_delayed(receipt.id()) {
                        back.push(message.into_inner());
                    }
                }
            }
        });
        join(threads);
        let report = drain(&broker);
        let mut all = log.take();
        assert_eq!(report.messages_dropped as usize, back.len());
        all.extend(back.take());
        all.sort_unstable();
        let sent = (0..PUBLISHERS).flat_map(|publisher| [(publisher, 0), (publisher, 1)]);
        assert_eq!(all, sent.collect::<Vec<_>>());
    });
}

/// Whoever waits for the end of a message would wait for ever if an end were counted twice, never,
/// or before the last of them.
#[test]
fn publishers_wait_until_the_last_delivery_of_their_messages_has_ended() {
    explore(|| {
        let broker = broker();
        let topic = broker.topic("a").open().unwrap();
        let first = log(&topic, "x");
        let dead = topic.subscribe("dead", |_: &Delivery<'_, Sent>| {
            Err(Nack::dead_letter("no"))
        });
        dead.unwrap().detach();
        let lossy = topic.subscription("lossy").capacity(1);
        let lossy = lossy.when_full(LaneFull::DropOldest).subscribe(|_| Ok(()));
        lossy.unwrap().detach();
        let leaves = topic.subscribe("leaves", |_| Ok(())).unwrap();
        let mut threads = publishers({
            let topic = topic.clone();
            move |publisher| {
                let tracker = topic.tracker();
                let message = |number| Message::new((publisher, number)).tracked(&tracker);
                let both = topic.publish_messages([0, 1].map(message));
                assert_eq!(both.unwrap().accepted(), 2);
                let outcome = match publisher % 2 {
                    0 => tracker.wait().unwrap(),
                    _ => block_on(tracker),
                };
                assert!((6..=8).contains(&outcome.ends()), "{outcome}");
                assert_eq!(outcome.dead_lettered, 2);
                assert!(outcome.delivered > 0, "{outcome}");
            }
        });
        threads.push(thread::spawn(move || drop(leaves)));
        join(threads);
        drain(&broker);
        assert_eq!(first.len() as u64, 2 * PUBLISHERS);
    });
}
