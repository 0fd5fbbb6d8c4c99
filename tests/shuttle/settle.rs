//! How deliveries are settled: put off, called back.

use millstream::Backoff;

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
