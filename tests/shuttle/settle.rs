//! How deliveries are settled: put off, called back.

use millstream::dead_letters::RedriveOptions;
use millstream::{Backoff, LaneFull, Unsubscribe};

use super::explore::explore;
use super::*;

#[test]
fn retries_and_snoozes_are_called_back_while_their_time_comes() {
    explore(|| {
        let broker = broker();
        let retry = Backoff::fixed(SOON).max_attempts(2);
        let topic = broker.topic::<Sent>("a").retry(retry).open().unwrap();
        let done = Log::new();
        let of_handler = done.clone();
        let mut snoozed = Vec::new();
        let subscription = topic.subscribe("x", move |delivery| {
            let sent = *delivery.payload();
            if sent.0 % 2 == 0 && !snoozed.contains(&sent) {
                snoozed.push(sent);
                return Err(Nack::snooze(SOON, "not yet"));
            }
            if sent.0 < 2 && delivery.attempt() == 1 {
                return Err(Nack::retry("again"));
            }
            of_handler.push(sent);
            Ok(())
        });
        let subscription = subscription.unwrap();
        let mut threads = publishers({
            let topic = topic.clone();
            move |publisher| {
                topic.publish((publisher, 0)).unwrap();
            }
        });
        threads.push(thread::spawn(move || {
            for _ in 0..3 {
                subscription.retry_all_now();
                thread::yield_now();
            }
            subscription.detach();
        }));
        join(threads);
        let report = drain(&broker);
        assert_eq!(report.delivered, PUBLISHERS);
        let mut done = done.take();
        done.sort_unstable();
        assert!(done.into_iter().eq((0..PUBLISHERS).map(|of| (of, 0))));
        let counts = broker.metrics().deliveries();
        assert_eq!((counts.snoozed, counts.failed), (2, 2));
        assert_eq!(counts.attempts, PUBLISHERS + 4, "each comes back once");
    });
}

#[test]
fn redrives_wait_for_room_in_a_lane_and_in_another_topic() {
    explore(|| {
        let broker = broker();
        let topic = broker.topic::<Sent>("a").open().unwrap();
        let other = broker.topic::<Sent>("b").capacity(1).open().unwrap();
        let [done, moved] = [(); 2].map(|()| Log::new());
        other.subscribe("y", into(&moved)).unwrap().detach();
        let of_handler = done.clone();
        let lane = topic.subscription("x").capacity(1);
        let lane = lane.when_full(LaneFull::DeadLetter);
        let subscribed = lane.subscribe(move |delivery| {
            if delivery.generation() == 0 {
                return Err(Nack::dead_letter("not in this life"));
            }
            thread::yield_now();
            of_handler.push(*delivery.payload());
            Ok(())
        });
        subscribed.unwrap().detach();
        for number in 0..PUBLISHERS {
            topic.publish((number, 0)).unwrap();
        }
        assert!(broker.wait_until_idle(FOREVER));
        let letters = topic.dead_letters();
        let back = RedriveOptions::new().wait(FOREVER);
        let away = back.clone().to(&other);
        let redrives = [back.clone(), away.clone(), back, away].map(|options| {
            let letters = letters.clone();
            thread::spawn(move || {
                let _ = letters.redrive_with(options, |_| true).unwrap();
            })
        });
        join(redrives.into());
        assert!(letters.is_empty(), "all had time enough");
        drain(&broker);
        let mut all = [done.take(), moved.take()].concat();
        all.sort_unstable();
        assert!(all.into_iter().eq((0..PUBLISHERS).map(|of| (of, 0))));
    });
}

#[test]
fn filters_refuse_while_subscriptions_come_and_go() {
    explore(|| {
        let broker = broker();
        let topic = broker.topic::<Sent>("a").open().unwrap();
        let done = Log::new();
        let stays = topic.subscription("x").capacity(1);
        let stays = stays.filter(|delivery| delivery.payload().0 % 2 == 0);
        stays.subscribe(into(&done)).unwrap().detach();
        let mut threads = publishers({
            let topic = topic.clone();
            move |publisher| {
                topic
                    .publish_batch([(publisher, 0), (publisher, 1)])
                    .unwrap();
            }
        });
        threads.push(thread::spawn({
            let topic = topic.clone();
            move || {
                let passes = topic
                    .subscription("y")
                    .filter(|delivery| delivery.payload().1 == 0);
                let passes = passes.subscribe(|_| Ok(())).unwrap();
                thread::yield_now();
                passes.unsubscribe(Unsubscribe::Cancel);
            }
        }));
        join(threads);
        let report = drain(&broker);
        assert_eq!((report.dispatched, report.unrouted), (2 * PUBLISHERS, 0));
        let done = done.take();
        assert_in_order(&done);
        assert_eq!(done.len() as u64, PUBLISHERS);
        assert!(done.iter().all(|(publisher, _)| publisher % 2 == 0));
    });
}
