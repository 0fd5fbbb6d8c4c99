//! Consumers of all kinds: members that take batches, and callers that pull by pattern.

use std::sync::Arc;

use millstream::error::RecvError;
use millstream::{Batched, Pull, Unsubscribe};

use super::explore::explore;
use super::*;

/// Each publisher has a key of its own, and sends this many messages of it.
const EACH: u64 = 3;

#[test]
fn members_that_take_batches_wait_for_no_member_and_lose_nothing() {
    explore(|| {
        let broker = broker();
        let topic = broker.topic::<Sent>("a").open().unwrap();
        let group = topic.subscription("x").capacity(4).group().unwrap();
        let done = Log::new();
        let members = ["one", "two"].map(|name| {
            let log = done.clone();
            // No batch fills by itself, so each waits for its linger or for a full lane.
            let batches = Batched::of(4).linger(SOON);
            group.member(name).join_batches(batches, move |batch| {
                thread::yield_now();
                for delivery in batch.iter() {
                    log.push(*delivery.payload());
                }
                Ok(())
            })
        });
        let mut threads = publishers({
            let topic = topic.clone();
            move |publisher| {
                for number in 0..EACH {
                    let message = topic.message((publisher, number));
                    message.key(publisher.to_string()).publish().unwrap();
                }
            }
        });
        let [stays, leaves] = members.map(|member| member.unwrap());
        threads.push(thread::spawn(move || leaves.leave()));
        join(threads);
        assert!(broker.wait_until_idle(FOREVER));
        drop(stays);
        let done = done.take();
        assert_in_order(&done);
        assert_eq!(done.len() as u64, PUBLISHERS * EACH);
        drop(group);
        drain(&broker);
    });
}

#[test]
fn callers_pull_from_topics_that_open_and_end_with_their_subscription() {
    explore(|| {
        let broker = Arc::new(broker());
        let pull = Pull::default().credits(2).ack_deadline(FOREVER);
        let worker = broker.subscription::<Sent>("x").matching("*").pull(pull);
        let worker = worker.unwrap();
        let done = Log::new();
        let mut threads: Vec<_> = (0..2)
            .map(|_| {
                let (worker, done) = (worker.clone(), done.clone());
                thread::spawn(move || {
                    let end = loop {
                        match worker.recv() {
                            Ok(lease) => {
                                done.push(*lease.payload());
                                lease.ack().unwrap();
                            }
                            Err(end) => break end,
                        }
                    };
                    assert_eq!(end, RecvError::Ended);
                })
            })
            .collect();
        join(publishers({
            let broker = Arc::clone(&broker);
            move |publisher| {
                let name = format!("topic-{}", publisher % 2);
                let topic = broker.topic::<Sent>(&name).open().unwrap();
                for number in 0..EACH {
                    topic.publish((publisher, number)).unwrap();
                }
            }
        }));
        threads.push(thread::spawn(move || {
            // The others receive what is there, before and while this ends.
            worker.unsubscribe(Unsubscribe::Drain { timeout: FOREVER });
        }));
        join(threads);
        let report = drain(&broker);
        let done = done.take();
        assert_eq!(report.delivered, done.len() as u64);
        assert_eq!(report.delivered + report.unrouted, PUBLISHERS * EACH);
    });
}
