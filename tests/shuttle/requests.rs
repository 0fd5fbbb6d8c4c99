//! Requests that meet replies, their timeout, dead letters and the end of the responder. Schedules
//! that end while they tick.

use std::sync::Arc;

use millstream::request::{Gather, Replied, RepliesEnd};
use millstream::schedule::MissedTicks;
use millstream::{Backoff, Pull, RequestError, Unsubscribe};

use super::explore::explore;
use super::*;

/// A reply that says whether it was dropped.
type Reply = (Sent, Arc<()>);

#[test]
fn requests_meet_replies_their_time_and_dead_letters() {
    explore(|| {
        let broker = broker();
        let retry = Backoff::fixed(SOON).max_attempts(2);
        let topic = broker.topic::<Sent>("a").retry(retry).open().unwrap();
        let (mark, replied, outcomes) = (Arc::new(()), Log::new(), Log::new());
        let responder = topic.subscription("x").concurrency(2);
        let responder = responder.subscribe_shared({
            let (mark, replied) = (Arc::clone(&mark), replied.clone());
            move |asked: &Delivery<'_, Sent>| {
                let sent = *asked.payload();
                match sent.0 % 4 {
                    0 => {}
                    1 => return Err(Nack::dead_letter("no")),
                    2 if asked.attempt() == 1 => return Err(Nack::retry("not yet")),
                    _ => thread::yield_now(),
                }
                if sent.0 % 4 > 1 {
                    let reply: Reply = (sent, Arc::clone(&mark));
                    replied.push(asked.reply(reply));
                }
                Ok(())
            }
        });
        let threads = publishers({
            let (topic, outcomes) = (topic.clone(), outcomes.clone());
            move |publisher| {
                for (number, timeout) in [FOREVER, SOON].into_iter().enumerate() {
                    let sent = (publisher, number as u64);
                    let outcome = topic.request::<Reply>(sent, timeout);
                    match (publisher % 4, &outcome) {
                        (0, Err(RequestError::Unanswered(ends))) => assert!(ends.is_delivered()),
                        (1, Err(RequestError::Unanswered(ends))) => {
                            assert_eq!((ends.dead_lettered, ends.ends()), (1, 1));
                        }
                        (2 | 3, Ok((reply, _))) => assert_eq!(*reply, sent),
                        (_, Err(RequestError::TimedOut)) => assert_eq!(timeout, SOON),
                        (_, other) => panic!("{other:?}"),
                    }
                    outcomes.push(outcome.is_ok());
                }
            }
        });
        join(threads);
        drain(&broker);
        drop(responder);
        let (replied, outcomes) = (replied.take(), outcomes.take());
        let taken = replied.iter().filter(|one| one.is_taken()).count();
        assert_eq!(taken, outcomes.iter().filter(|is_ok| **is_ok).count());
        let late = topic.metrics().late_replies;
        assert_eq!(replied.len() - taken, late as usize);
        drop((topic, broker));
        assert_eq!(Arc::strong_count(&mark), 1, "no reply stays behind");
    });
}

#[test]
fn a_request_to_many_meets_the_end_of_a_responder() {
    explore(|| {
        let broker = broker();
        let topic = broker.topic::<Sent>("a").open().unwrap();
        let ready = topic.subscribe("x", |asked| {
            asked.reply(1_u64);
            Ok(())
        });
        let worker = topic.subscription("y").pull(Pull::default()).unwrap();
        let asks = topic.clone();
        let requester = thread::spawn(move || {
            let many = asks.request_many::<u64>((0, 0), Gather::within(FOREVER).max(3));
            let many = many.unwrap();
            assert!(matches!(many.end, RepliesEnd::Ended(_)), "{many:?}");
            many.replies.len()
        });
        let lease = worker.recv().unwrap();
        let ends = thread::spawn(move || worker.unsubscribe(Unsubscribe::Cancel));
        let replied = lease.reply(2_u64);
        let _ = lease.ack();
        ends.join().unwrap();
        let expected = 1 + usize::from(replied == Replied::Taken);
        assert_eq!(requester.join().unwrap(), expected);
        drop(ready);
        assert!(broker.wait_until_idle(FOREVER));
        assert_balanced(&broker);
    });
}

#[test]
fn a_schedule_ends_while_it_ticks() {
    explore(|| {
        let broker = broker();
        let topic = broker.topic::<Sent>("a").capacity(1).open().unwrap();
        let log = log(&topic, "x");
        let mark = Arc::new(());
        let [one, other] = [0, 1].map(|number| {
            let (held, mut tick) = (Arc::clone(&mark), 0);
            let every = topic.every(SOON).missed(MissedTicks::All(2));
            let schedule = every.publish(move || {
                assert!(Arc::strong_count(&held) > 1);
                thread::yield_now();
                tick += 1;
                (number, tick)
            });
            schedule.unwrap()
        });
        while one.published() < 2 {
            shuttle::thread::sleep(SOON);
            thread::yield_now();
        }
        let cancels = thread::spawn(move || one.cancel());
        other.detach();
        let report = drain(&broker);
        cancels.join().unwrap();
        assert_eq!(report.published, report.delivered);
        assert_eq!(log.len() as u64, report.delivered);
        drop((topic, broker));
        assert_eq!(Arc::strong_count(&mark), 1, "their closures are gone");
    });
}
