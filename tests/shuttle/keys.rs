//! Order that survives failures, and hands that share a subscription.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use millstream::protect::{Priorities, Priority};
use millstream::{Backoff, LaneFull, OnExhausted, OnFailure, SubscriptionOptions, Unsubscribe};

use super::explore::explore;
use super::*;

/// Each publisher has a key of its own, and sends this many messages of it.
const EACH: u64 = 2;

fn publish_keyed(topic: &Topic<Sent>) -> Vec<JoinHandle<()>> {
    let topic = topic.clone();
    publishers(move |publisher| {
        for number in 0..EACH {
            let message = topic.message((publisher, number));
            message.key(publisher.to_string()).publish().unwrap();
        }
    })
}

fn assert_complete(done: &[Sent]) {
    assert_in_order(done);
    assert_eq!(done.len() as u64, PUBLISHERS * EACH);
}

#[test]
fn keys_wait_for_their_retries_and_return_from_the_dead_letters_in_order() {
    explore(|| {
        let broker = broker();
        let retry = Backoff::fixed(SOON).max_attempts(2);
        let topic = broker.topic::<Sent>("a").retry(retry).open().unwrap();
        let [blocks, parks] = [(); 2].map(|()| Log::new());
        let lane = topic.subscription("blocks").on_failure(OnFailure::BlockKey);
        let done = blocks.clone();
        let subscription = lane.subscribe(move |delivery| {
            if delivery.payload().1 == 0 && delivery.attempt() == 1 {
                return Err(Nack::retry("not yet"));
            }
            done.push(*delivery.payload());
            Ok(())
        });
        subscription.unwrap().detach();
        let lane = topic.subscription("parks").on_failure(OnFailure::BlockKey);
        let lane = lane.on_exhausted(OnExhausted::ParkKey);
        let done = parks.clone();
        let subscription = lane.concurrency(2).subscribe_shared(move |delivery| {
            // The first of each key comes back once, or twice.
            let (publisher, number) = *delivery.payload();
            if number == 0 && u64::from(delivery.generation()) <= publisher % 2 {
                return Err(Nack::dead_letter("never before"));
            }
            thread::yield_now();
            done.push((publisher, number));
            Ok(())
        });
        subscription.unwrap().detach();
        let mut threads = publish_keyed(&topic);
        let letters = topic.dead_letters();
        threads.push(thread::spawn({
            let letters = letters.clone();
            move || {
                for _ in 0..3 {
                    let _ = letters.redrive(|_| true);
                    thread::yield_now();
                }
            }
        }));
        join(threads);
        assert!(broker.wait_until_idle(FOREVER));
        while !letters.is_empty() {
            let _ = letters.redrive(|_| true);
            assert!(broker.wait_until_idle(FOREVER));
        }
        assert_complete(&blocks.take());
        assert_complete(&parks.take());
        drain(&broker);
    });
}

#[test]
fn members_come_and_go() {
    explore(|| {
        let broker = broker();
        let retry = Backoff::fixed(SOON).max_attempts(2);
        let topic = broker.topic::<Sent>("a").retry(retry).open().unwrap();
        let group = topic.subscription("x").on_failure(OnFailure::BlockKey);
        let group = Arc::new(group.group().unwrap());
        let done = Log::new();
        let hands: Arc<Vec<AtomicBool>> =
            Arc::new((0..PUBLISHERS).map(|_| AtomicBool::new(false)).collect());
        let captured = Arc::new(());
        let handler = |told: &Arc<AtomicBool>| {
            let (done, hands, told) = (done.clone(), Arc::clone(&hands), Arc::clone(told));
            let captured = Arc::clone(&captured);
            move |delivery: &Delivery<'_, Sent>| {
                let _keep = &captured;
                let (publisher, number) = *delivery.payload();
                let hand = &hands[publisher as usize];
                assert!(!hand.swap(true, Ordering::Relaxed), "two hands have a key");
                thread::yield_now();
                assert!(!told.load(Ordering::Relaxed), "a call after the end");
                let fails = number == 0 && publisher < 2 && delivery.attempt() == 1;
                if !fails {
                    done.push((publisher, number));
                }
                hand.store(false, Ordering::Relaxed);
                match fails {
                    true => Err(Nack::retry("not yet")),
                    false => Ok(()),
                }
            }
        };
        let [stays, first, second, third] = [(); 4].map(|()| Arc::default());
        let member = group
            .member("stays")
            .concurrency(2)
            .join_shared(handler(&stays))
            .unwrap();
        let mut threads = publish_keyed(&topic);
        let leaves = [("first", first), ("second", second)].map(|(name, told)| {
            let handler = handler(&told);
            (name, told, handler)
        });
        threads.push(thread::spawn({
            let group = Arc::clone(&group);
            move || {
                for (name, told, handler) in leaves {
                    let member = group.join(name, handler).unwrap();
                    thread::yield_now();
                    member.leave();
                    told.store(true, Ordering::Relaxed);
                }
                member.set_concurrency(1).unwrap();
                member.detach();
            }
        }));
        let third = group.join("third", handler(&third)).unwrap();
        join(threads);
        // It begins to leave, and the others finish.
        drop(third);
        let group = Arc::into_inner(group).expect("the thread has ended");
        group.unsubscribe(Unsubscribe::Drain { timeout: FOREVER });
        assert_eq!(Arc::strong_count(&captured), 1, "a handler is there");
        let report = drain(&broker);
        let done = done.take();
        assert_in_order(&done);
        assert_eq!(report.delivered + report.unrouted, PUBLISHERS * EACH);
    });
}

/// Members of both ways, and one that drops from the lowest level, take by level while the levels are
/// switched on and off. Keys keep their order, and nothing is lost.
#[test]
fn levels_are_switched_while_messages_of_all_levels_come_and_fail() {
    explore(|| {
        let broker = broker();
        let retry = Backoff::fixed(SOON).max_attempts(3);
        let topic = broker.topic::<Sent>("a").retry(retry).open().unwrap();
        let options = SubscriptionOptions::new().priorities(Priorities::weighted());
        let done = Log::new();
        let calls = done.clone();
        let blocks = options.clone().on_failure(OnFailure::BlockKey);
        let builder = topic.subscription("blocks").options(&blocks).concurrency(2);
        let blocks = builder.subscribe_shared(move |delivery: &Delivery<'_, Sent>| {
            if delivery.payload().1 == 0 && delivery.attempt() == 1 {
                return Err(Nack::retry("not yet"));
            }
            calls.push(*delivery.payload());
            Ok(())
        });
        let drops = options.capacity(2).when_full(LaneFull::DropOldest);
        let builder = topic.subscription("drops").options(&drops);
        let drops = builder.subscribe(|_| Ok(())).unwrap();
        let (blocks, sends) = (blocks.unwrap(), topic.clone());
        let mut threads = publishers(move |publisher| {
            for number in 0..EACH {
                let level = Priority::ALL[((publisher + number) % 4) as usize];
                let message = sends.message((publisher, number)).priority(level);
                message.key(publisher.to_string()).publish().unwrap();
            }
        });
        threads.push(thread::spawn(move || {
            for subscription in [&blocks, &drops] {
                let strict = Priorities::strict().aging(SOON);
                subscription.set_priorities(Some(strict)).unwrap();
                subscription.set_priorities(None).unwrap();
                let weighted = Priorities::weighted();
                subscription.set_priorities(Some(weighted)).unwrap();
            }
            blocks.detach();
            drops.detach();
        }));
        join(threads);
        drain(&broker);
        assert_complete(&done.take());
    });
}
