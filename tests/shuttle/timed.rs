//! Calls of handlers that have to end within a time, and return at about that time.

use millstream::metrics::SubscriptionMetrics;
use millstream::{Backoff, Unsubscribe, Unsubscribed};

use super::explore::explore;
use super::*;

/// A handler that takes about as long as its timeout, and counts its calls.
fn about_in_time(
    calls: &Log<Sent>,
) -> impl Fn(&Delivery<'_, Sent>) -> Result<(), Nack> + Clone + Send + Sync + 'static {
    let calls = calls.clone();
    move |delivery| {
        calls.push(*delivery.payload());
        for _ in 0..delivery.payload().0 {
            thread::yield_now();
        }
        match delivery.payload().1 {
            0 => Ok(()),
            _ => Err(Nack::retry("again")),
        }
    }
}

/// Each call had one ending, in time or not, and each late one came back once.
fn assert_each_ended_once(metrics: &SubscriptionMetrics, calls: &Log<Sent>) {
    let counts = metrics.counts;
    assert_eq!(counts.attempts, calls.len() as u64);
    assert_eq!(metrics.stale, metrics.timed_out);
    assert!(metrics.timed_out <= counts.attempts);
    assert_eq!(counts.ended(), counts.made);
    assert_eq!(counts.in_flight, 0);
}

#[test]
fn calls_return_at_their_deadline() {
    explore(|| {
        let broker = broker();
        let retry = Backoff::fixed(SOON).max_attempts(2);
        let topic = broker.topic::<Sent>("a").retry(retry).open().unwrap();
        let [one, several] = [(); 2].map(|()| Log::new());
        let first = topic.subscription("one").handler_timeout(SOON);
        let first = first.subscribe(about_in_time(&one)).unwrap();
        let second = topic.subscription("several").handler_timeout(SOON);
        let second = second
            .concurrency(2)
            .subscribe_shared(about_in_time(&several));
        let second = second.unwrap();
        join(publishers(move |publisher| {
            topic.publish((publisher, publisher % 2)).unwrap();
        }));
        let report = drain(&broker);
        assert_eq!(report.delivered + report.dead_lettered, 2 * PUBLISHERS);
        assert_each_ended_once(&first.metrics(), &one);
        assert_each_ended_once(&second.metrics(), &several);
    });
}

#[test]
fn a_subscription_ends_while_calls_time_out() {
    explore(|| {
        let broker = broker();
        let retry = Backoff::fixed(SOON).max_attempts(2);
        let topic = broker.topic::<Sent>("a").retry(retry).open().unwrap();
        let modes = [Unsubscribe::Cancel, Unsubscribe::DeadLetter];
        let subscribed = modes.map(|mode| {
            let calls = Log::new();
            let builder = topic
                .subscription(&format!("{mode:?}"))
                .handler_timeout(SOON);
            let subscription = builder
                .concurrency(2)
                .subscribe_shared(about_in_time(&calls));
            (subscription.unwrap(), mode, calls)
        });
        let mut threads = publishers(move |publisher| {
            topic.publish((publisher, publisher % 2)).unwrap();
        });
        for (subscription, mode, calls) in subscribed {
            threads.push(thread::spawn(move || {
                thread::yield_now();
                let Unsubscribed::Ended(last) = subscription.unsubscribe(mode) else {
                    panic!("it is outside of all handlers");
                };
                assert_each_ended_once(&last, &calls);
            }));
        }
        join(threads);
        drain(&broker);
    });
}

#[test]
fn handlers_of_a_pool_end_with_the_broker() {
    explore(|| {
        let broker = Broker::builder().workers(2).pool("p", 1);
        let broker = broker.histograms(Histograms::Off).build().unwrap();
        let topic = broker.topic::<Sent>("a").open().unwrap();
        let [own, several] = [(); 2].map(|()| Log::new());
        let first = topic.subscription("own").pool("p");
        first.subscribe(into(&own)).unwrap().detach();
        let second = topic.subscription("several").pool("p").concurrency(2);
        second
            .subscribe_shared(about_in_time(&several))
            .unwrap()
            .detach();
        join(publishers(move |publisher| {
            topic.publish((publisher, 0)).unwrap();
        }));
        let report = drain(&broker);
        assert_eq!(report.delivered, 2 * PUBLISHERS);
        assert_in_order(&own.take());
    });
}
