//! What goes beside the messages: observers and dead letters.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;

use millstream::dead_letters::{DeadLetter, RedriveOptions};
use millstream::{LaneFull, NoSubscribers, Unsubscribe};
use shuttle::future::block_on;

use super::explore::explore;
use super::*;

#[test]
fn observers_come_and_go() {
    explore(|| {
        let broker = Broker::builder().workers(3).event_buffer(2);
        let broker = broker.histograms(Histograms::Off).build().unwrap();
        let topic = broker.topic::<Sent>("a").open().unwrap();
        let log = log(&topic, "x");
        let heard = Log::new();
        let of_observer = heard.clone();
        let observer =
            move |event: &millstream::event::Event<'_>| of_observer.push(event.sequence());
        let _observation = broker.observe(observer).unwrap();
        let mut threads = publishers({
            let topic = topic.clone();
            move |publisher| {
                topic.publish((publisher, 0)).unwrap();
            }
        });
        threads.push(thread::spawn({
            let broker = broker.clone();
            move || {
                for _ in 0..2 {
                    let calls = Arc::new(AtomicU64::new(0));
                    let of_observer = Arc::clone(&calls);
                    let observer = move |_: &millstream::event::Event<'_>| {
                        of_observer.fetch_add(1, Ordering::Relaxed);
                    };
                    drop(broker.observe(observer).unwrap());
                }
            }
        }));
        join(threads);
        assert!(broker.wait_until_idle(FOREVER));
        let missed = broker.metrics().events_missed;
        let told = heard.len() as u64;
        drain(&broker);
        let (mut heard, all_missed) = (heard.take(), broker.metrics().events_missed);
        heard.sort_unstable();
        assert!(heard.is_sorted_by(|a, b| a < b), "twice: {heard:?}");
        // Four messages enqueued, delivering and delivered: each was told or missed.
        assert!(told + missed >= 12, "{told} told, {missed} missed");
        let last = heard.last().copied().unwrap_or_default();
        assert!(heard.len() as u64 + all_missed >= last);
        assert_eq!((log.len(), broker.metrics().observer_panics), (4, 0));
    });
}

#[test]
fn letters_are_redriven_into_a_lane_that_is_full_or_ends() {
    explore(|| {
        let broker = broker();
        let topic = broker.topic::<Sent>("a").open().unwrap();
        let delivered = Log::new();
        let of_handler = delivered.clone();
        let lane = topic.subscription("x").capacity(2);
        let subscription = lane
            .when_full(LaneFull::DeadLetter)
            .subscribe(move |delivery| {
                if delivery.generation() == 0 && delivery.payload().0 < 2 {
                    return Err(Nack::dead_letter("not in this life"));
                }
                of_handler.push(*delivery.payload());
                Ok(())
            });
        let subscription = subscription.unwrap();
        let mut threads = publishers({
            let topic = topic.clone();
            move |publisher| {
                topic.publish((publisher, 0)).unwrap();
            }
        });
        let redriven = Arc::new(AtomicU64::new(0));
        let redrive = || {
            let (letters, redriven) = (topic.dead_letters(), Arc::clone(&redriven));
            thread::spawn(move || {
                let redrive = letters.redrive(|_| true);
                redriven.fetch_add(redrive.redriven as u64, Ordering::Relaxed);
            })
        };
        threads.push(redrive());
        join(threads);
        // Two at once for the letters that are left, if the lane takes them.
        assert!(broker.wait_until_idle(FOREVER));
        let mut threads = vec![redrive(), redrive()];
        threads.push(thread::spawn(move || {
            let mode = Unsubscribe::Drain { timeout: FOREVER };
            subscription.unsubscribe(mode);
        }));
        join(threads);
        let report = drain(&broker);
        let (letters, redriven) = (topic.dead_letters().len(), redriven.load(Ordering::Relaxed));
        assert_eq!(report.dead_lettered - redriven, letters as u64);
        assert_eq!(report.made, report.delivered + report.dead_lettered);
        assert_eq!(report.made - redriven + report.unrouted, 4);
        let mut delivered = delivered.take();
        assert_eq!(delivered.len() as u64, report.delivered);
        delivered.sort_unstable();
        assert!(delivered.is_sorted_by(|a, b| a < b), "twice: {delivered:?}");
    });
}

/// Futures that redrive wait for room and for their time beside a thread that does, and some give
/// up. Each letter must go once, to one place, and nobody may wait in vain.
#[test]
fn letters_are_redriven_by_futures_and_some_give_up() {
    explore(|| {
        let broker = broker();
        let topic = broker.topic::<Sent>("a").open().unwrap();
        let delivered = Log::new();
        let of_handler = delivered.clone();
        let subscribed = topic.subscription("x").capacity(1).subscribe(move |d| {
            if d.generation() == 0 {
                return Err(Nack::dead_letter("not in this life"));
            }
            of_handler.push(*d.payload());
            Ok(())
        });
        subscribed.unwrap().detach();
        let other = broker.topic::<Sent>("b").capacity(1);
        let other = other.no_subscribers(NoSubscribers::Retain).open().unwrap();
        let elsewhere = log(&other, "y");
        join(publishers({
            let topic = topic.clone();
            move |publisher| {
                topic.publish((publisher, 0)).unwrap();
            }
        }));
        assert!(broker.wait_until_idle(FOREVER));
        let all = |_: &DeadLetter<Sent>| true;
        let letters = topic.dead_letters();
        let options = RedriveOptions::new().wait(FOREVER);
        let threads = publishers(move |number| match number {
            0 => {
                let paced = options.clone().rate(1_000);
                let redrive = block_on(letters.redrive_with_async(paced, all));
                assert_eq!(redrive.unwrap().no_room, 0);
            }
            1 | 2 => {
                let options = match number {
                    1 => options.clone(),
                    _ => options.clone().to(&other).rate(1_000),
                };
                let mut redrive = letters.redrive_with_async(options, all);
                let mut polled = 0;
                block_on(poll_fn(|context| {
                    polled += 1;
                    let ready = Pin::new(&mut redrive).poll(context).is_ready();
                    match ready || polled == 2 {
                        true => Poll::Ready(()),
                        false => Poll::Pending,
                    }
                }));
            }
            _ => {
                let redrive = letters.redrive_with(options.clone(), all);
                assert_eq!(redrive.unwrap().no_room, 0);
            }
        });
        join(threads);
        // A letter that was claimed while the others looked may have come back.
        let left = topic.dead_letters().list();
        drain(&broker);
        let mut came = delivered.take();
        came.extend(elsewhere.take());
        came.extend(left.iter().map(|letter| *letter.payload()));
        came.sort_unstable();
        let sent = (0..PUBLISHERS).map(|publisher| (publisher, 0));
        assert!(came.into_iter().eq(sent));
    });
}
