//! Subscriptions that come while messages are published, to a topic that keeps its last ones.

use millstream::{Overflow, SubscriptionBuilder, Unsubscribe};

use super::explore::explore;
use super::*;

const EACH: u64 = 4;

/// A subscription that writes down what it gets, and whether that was kept for it.
fn come(subscription: SubscriptionBuilder<'_, Sent>) -> Log<(Sent, bool)> {
    let log = Log::new();
    let seen = log.clone();
    let subscribed = subscription.subscribe(move |delivery| {
        seen.push((*delivery.payload(), delivery.is_retained()));
        Ok(())
    });
    subscribed.unwrap().detach();
    log
}

/// Publishers meet a subscription that comes, one that comes with a filter, and one that comes and
/// goes. One that was there before tells in which order the topic has dispatched.
fn meet(partitions: Option<usize>) {
    let broker = broker();
    let block = Overflow::Block { timeout: FOREVER };
    let topic = broker.topic::<Sent>("a").capacity(4).overflow(block);
    let topic = partitions
        .into_iter()
        .fold(topic, |topic, count| topic.partitions(count));
    let topic = topic.retain_last(2).open().unwrap();
    let early = log(&topic, "early");
    let mut threads = publishers({
        let topic = topic.clone();
        move |publisher| {
            for number in 0..EACH {
                let message = topic.message((publisher, number));
                message.key(publisher.to_string()).publish().unwrap();
            }
        }
    });
    let logs = Log::new();
    for name in ["x", "y"] {
        let (topic, logs) = (topic.clone(), logs.clone());
        threads.push(thread::spawn(move || {
            let builder = topic.subscription(name);
            logs.push(come(match name {
                "x" => builder,
                _ => builder.filter(|_| true),
            }));
        }));
    }
    threads.push(thread::spawn({
        let topic = topic.clone();
        move || drop(topic.subscription("z").subscribe(|_| Ok(())).unwrap())
    }));
    join(threads);
    assert!(broker.wait_until_idle(FOREVER));
    // Nothing is moving, so these are the very last.
    logs.push(come(topic.subscription("last")));
    drain(&broker);
    let all = early.take();
    for (at, log) in logs.take().into_iter().enumerate() {
        let seen = log.take();
        let firsts = seen.iter().take_while(|(_, retained)| *retained).count();
        assert!(firsts <= 2 && seen[firsts..].iter().all(|(_, retained)| !retained));
        assert!(at < 2 || (firsts, seen.len()) == (2, 2), "{seen:?}");
        let seen: Vec<Sent> = seen.into_iter().map(|(sent, _)| sent).collect();
        // Lanes of a topic that is split get its partitions in different orders.
        let alike = |of: &dyn Fn(&Sent) -> bool| {
            let chosen = |from: &[Sent]| from.iter().copied().filter(|sent| of(sent)).collect();
            let (seen, all): (Vec<Sent>, Vec<Sent>) = (chosen(&seen), chosen(&all));
            assert!(all.ends_with(&seen), "{seen:?} is not the end of {all:?}");
        };
        match partitions {
            None => alike(&|_| true),
            Some(_) => (0..PUBLISHERS).for_each(|of| alike(&|sent| sent.0 == of)),
        }
    }
}

#[test]
fn a_subscription_that_comes_late_misses_nothing_and_gets_nothing_twice() {
    explore(|| meet(None));
}

#[test]
fn a_subscription_that_comes_late_to_partitions_misses_nothing() {
    explore(|| meet(Some(2)));
}

/// Subscriptions come and go at once, each the only one of its time.
#[test]
fn one_that_comes_and_goes_at_once_gives_no_place_back_twice() {
    explore(|| {
        let broker = broker();
        let topic = broker.topic::<Sent>("a").retain_last(2).open().unwrap();
        topic.publish((0, 0)).unwrap();
        let come_and_go = {
            let topic = topic.clone();
            move || {
                for _ in 0..3 {
                    let subscription = topic.subscription("s").subscribe(|_| Ok(()));
                    subscription.unwrap().unsubscribe(Unsubscribe::Cancel);
                }
            }
        };
        let publish = {
            let topic = topic.clone();
            move || {
                for number in 1..EACH {
                    topic.publish((0, number)).unwrap();
                }
            }
        };
        join(vec![thread::spawn(come_and_go), thread::spawn(publish)]);
        assert!(broker.wait_until_idle(FOREVER));
        let last = come(topic.subscription("last"));
        drain(&broker);
        assert_eq!(last.take(), [((0, EACH - 2), true), ((0, EACH - 1), true)]);
    });
}
