//! Gates of lanes: permits that lanes share, breakers that open and close, and pauses that meet
//! turns, receivers and ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

use millstream::protect::{Breaker, Limiter, RateLimit};
use millstream::{Backoff, Pull};

use super::explore::explore;
use super::*;

/// A lane that is offered a permit takes it or passes it on, whatever becomes of its deliveries.
#[test]
fn lanes_that_share_a_limit_get_to_their_end_and_give_all_permits_back() {
    explore(|| {
        let broker = broker();
        let limit = Limiter::new(1).unwrap();
        let (now, most) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
        let handler = {
            let (now, most) = (Arc::clone(&now), Arc::clone(&most));
            move |_: &Delivery<'_, Sent>| {
                most.fetch_max(now.fetch_add(1, SeqCst) + 1, SeqCst);
                thread::yield_now();
                now.fetch_sub(1, SeqCst);
                Ok(())
            }
        };
        let topic = broker.topic::<Sent>("a").open().unwrap();
        let one = topic.subscription("one").limiter(&limit);
        let one = one.subscribe(handler.clone()).unwrap();
        let two = topic.subscription("two").limiter(&limit).concurrency(2);
        two.subscribe_shared(handler.clone()).unwrap().detach();
        let three = topic.subscription("three").limiter(&limit).concurrency(2);
        let three = three.subscribe_shared(handler).unwrap();
        let mut threads = publishers({
            let topic = topic.clone();
            move |publisher| {
                topic.publish((publisher, 0)).unwrap();
            }
        });
        threads.push(thread::spawn(move || drop(one)));
        threads.push(thread::spawn({
            let limit = limit.clone();
            move || {
                three.set_limiter(None).unwrap();
                three.set_limiter(Some(&limit)).unwrap();
                three.detach();
            }
        }));
        join(threads);
        let report = drain(&broker);
        assert!(report.delivered >= 2 * u64::from(PUBLISHERS as u32));
        drop(topic);
        assert_eq!(limit.in_use(), 0, "{limit:?}");
    });
}

/// A breaker that opens while others publish, is reset, and is removed strands nothing.
#[test]
fn a_breaker_opens_and_closes_by_itself_and_by_hand_while_messages_come() {
    explore(|| {
        let broker = broker();
        let retry = Backoff::fixed(SOON).max_attempts(100);
        let topic = broker.topic::<Sent>("a").retry(retry).open().unwrap();
        let handler = || {
            let failures = AtomicU32::new(3);
            move |_: &Delivery<'_, Sent>| {
                let one_less = |left: u32| left.checked_sub(1);
                match failures.fetch_update(SeqCst, SeqCst, one_less) {
                    Ok(_) => Err(Nack::retry("down")),
                    Err(_) => Ok(()),
                }
            }
        };
        let breaker = Breaker::new()
            .consecutive_failures(2)
            .open_for(SOON)
            .max_open(SOON)
            .probes(2);
        // A turn asks for more probes than it has deliveries.
        let turns = topic.subscription("turns").breaker(breaker.clone());
        turns.subscribe(handler()).unwrap().detach();
        let builder = topic.subscription("s").breaker(breaker).concurrency(2);
        let subscription = builder.subscribe_shared(handler()).unwrap();
        let mut threads = publishers({
            let topic = topic.clone();
            move |publisher| {
                topic.publish((publisher, 0)).unwrap();
            }
        });
        threads.push(thread::spawn(move || {
            subscription.isolate_breaker();
            subscription.reset_breaker();
            subscription.detach();
        }));
        join(threads);
        assert_eq!(drain(&broker).delivered, 2 * PUBLISHERS);
    });
}

/// No failure and no retry calls these lanes. Time opens the gates of one, and a hand those of the
/// other.
#[test]
fn gates_that_open_by_time_or_by_hand_call_their_lanes() {
    explore(|| {
        let broker = broker();
        let topic = broker.topic::<Sent>("a").open().unwrap();
        let rate = RateLimit::new(1, SOON).burst(1);
        let rated = topic.subscription("rated").rate_limit(rate);
        rated.subscribe(|_| Ok(())).unwrap().detach();
        let isolated = topic.subscription("isolated").breaker(Breaker::new());
        let isolated = isolated.concurrency(2).subscribe_shared(|_| Ok(()));
        let isolated = isolated.unwrap();
        let mut threads = publishers({
            let topic = topic.clone();
            move |publisher| {
                topic.publish((publisher, 0)).unwrap();
            }
        });
        threads.push(thread::spawn(move || {
            isolated.isolate_breaker();
            (0..8).for_each(|_| thread::yield_now());
            isolated.reset_breaker();
            isolated.detach();
        }));
        join(threads);
        assert_eq!(drain(&broker).delivered, 2 * PUBLISHERS);
    });
}

/// A pause that meets turns, slots and receivers ends with the resume, and strands nobody.
#[test]
fn pauses_come_and_go_while_messages_come_and_receivers_wait() {
    explore(|| {
        let broker = broker();
        let topic = broker.topic::<Sent>("a").open().unwrap();
        let log = log(&topic, "plain");
        let shared = topic.subscription("shared").concurrency(2);
        let shared = shared.subscribe_shared(|_| Ok(())).unwrap();
        let pull = topic
            .subscription("pull")
            .pull(Pull::default().ack_deadline(FOREVER))
            .unwrap();
        let mut threads = publishers({
            let topic = topic.clone();
            move |publisher| {
                topic.publish((publisher, 0)).unwrap();
            }
        });
        threads.push(thread::spawn({
            let (broker, topic) = (broker.clone(), topic.clone());
            move || {
                topic.pause();
                shared.pause();
                broker.pause();
                topic.resume();
                broker.resume();
                shared.resume();
                shared.detach();
            }
        }));
        for _ in 0..PUBLISHERS {
            pull.recv().unwrap().ack().unwrap();
        }
        join(threads);
        assert_eq!(drain(&broker).delivered, 3 * PUBLISHERS);
        assert_eq!(log.len() as u64, PUBLISHERS);
    });
}
