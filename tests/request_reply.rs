//! A request has exactly one outcome: a reply, or the reason why there is none. It ends at once
//! when nobody is left who could reply, and late replies are counted.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crate::harness::{HANG, HOUR, Log, assert_balanced, assert_rests_balanced, manual, threaded};
use millstream::request::{Gather, Replied, RepliesEnd};
use millstream::{
    Backoff, Batched, Broker, DeliveryBatch, Nack, NoSubscribers, OnExpired, Outcome, Overflow,
    Pull, RequestError, Topic,
};
use parking_lot::Mutex;

const MS: Duration = Duration::from_millis(1);

fn open(broker: &Broker) -> Topic<u32> {
    broker.topic("t").open().expect("opens")
}

#[track_caller]
fn assert_late(topic: &Topic<u32>, late: u64) {
    assert_eq!(topic.metrics().late_replies, late);
}

#[track_caller]
fn unanswered(asked: Result<u64, RequestError<u32>>) -> Outcome {
    match asked {
        Err(RequestError::Unanswered(outcome)) => outcome,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_handler_replies_and_the_requester_has_it() {
    for broker in [threaded(2), manual().0] {
        let topic = open(&broker);
        let _squares = topic.subscribe("squares", |asked| {
            assert!(asked.is_request());
            assert!(asked.reply(u64::from(*asked.payload()).pow(2)).is_taken());
            Ok(())
        });
        for number in 1..50 {
            let square = topic.request(number, HANG);
            assert_eq!(square, Ok(u64::from(number).pow(2)));
        }
        broker.run_until_idle();
        assert_rests(&broker);
        assert_late(&topic, 0);
    }
}

fn assert_rests(broker: &Broker) {
    match broker.run_until_idle() {
        0 => assert_rests_balanced(broker),
        _ => assert_balanced(broker),
    };
}

#[test]
fn each_kind_of_subscription_can_reply() {
    let broker = threaded(2);
    let topic = open(&broker);
    let ask = |who: &str| {
        let reply = topic.message(7).key(who).request::<String>(HANG);
        assert_eq!(reply.as_deref(), Ok(who));
    };
    let batch = topic.subscription("batch").subscribe_batches(
        Batched::of(1),
        |asked: &mut DeliveryBatch<'_, u32>| {
            for each in asked.iter() {
                each.reply("batch".to_owned());
            }
            Ok(())
        },
    );
    ask("batch");
    drop(batch);

    let group = topic.subscription("group").group().expect("opens");
    let members = ["a", "b"].map(|name| {
        group.join(name, |asked| {
            asked.reply("group".to_owned());
            Ok(())
        })
    });
    ask("group");
    let counts = assert_rests_balanced(&broker).deliveries();
    assert_eq!(counts.delivered, 2, "one member replied");
    drop((members, group));

    let pattern = broker
        .subscription::<u32>("pattern")
        .matching("*")
        .subscribe(|asked| {
            asked.reply("pattern".to_owned());
            Ok(())
        });
    ask("pattern");
    drop(pattern);
    assert_rests_balanced(&broker);
}

#[test]
fn a_lease_replies_before_its_ack() {
    let broker = threaded(2);
    let topic = open(&broker);
    let worker = topic.subscription("worker").pull(Pull::default()).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            let lease = worker.recv_timeout(HANG).expect("it was asked");
            assert!(lease.is_request());
            assert_eq!(lease.reply(u64::from(*lease.payload()) + 1), Replied::Taken);
            assert_eq!(lease.reply(0_u64), Replied::Late, "the first reply counts");
            lease.ack().expect("in time");
        });
        assert_eq!(topic.request(6, HANG), Ok(7_u64));
    });
    assert_rests_balanced(&broker);
    assert_late(&topic, 1);
}

#[test]
fn nobody_subscribes_so_the_payload_comes_back_at_once() {
    for policy in [
        NoSubscribers::Retain,
        NoSubscribers::Discard,
        NoSubscribers::Reject,
    ] {
        let broker = threaded(1);
        let topic = broker
            .topic::<u32>("t")
            .no_subscribers(policy)
            .open()
            .unwrap();
        let asked = topic.request::<u64>(7, HOUR);
        assert_eq!(asked, Err(RequestError::NoResponder(7)));
        assert_eq!(asked.unwrap_err().into_inner(), Some(7));
        let metrics = topic.metrics();
        assert_eq!((metrics.published, metrics.rejected), (0, 1));
        assert_rests_balanced(&broker);
    }
}

#[test]
fn the_wait_ends_at_once_with_the_end_of_the_last_delivery() {
    type Handler = fn(&millstream::Delivery<'_, u32>) -> Result<(), Nack>;
    type Count = fn(Outcome) -> u64;
    let table: [(Handler, Count); 5] = [
        (|_| Ok(()), |outcome| outcome.delivered),
        (
            |_| Err(Nack::dead_letter("no")),
            |outcome| outcome.dead_lettered,
        ),
        (|_| Err(Nack::discard("no")), |outcome| outcome.dropped),
        (|_| Err(Nack::retry("no")), |outcome| outcome.dead_lettered),
        (|_| panic!("no"), |outcome| outcome.dead_lettered),
    ];
    for (handler, count) in table {
        let broker = threaded(2);
        let retry = Backoff::fixed(MS).max_attempts(2);
        let topic = broker.topic("t").retry(retry).open().unwrap();
        let _responder = topic.subscribe("responder", handler);
        let outcome = unanswered(topic.request(1, HOUR));
        assert_eq!((count(outcome), outcome.ends()), (1, 1), "{outcome}");
        assert_rests_balanced(&broker);
    }
}

#[test]
fn a_filter_a_cancel_and_an_expiry_end_the_wait() {
    let broker = threaded(2);
    let topic = open(&broker);
    let picky = topic
        .subscription("picky")
        .filter(|_| false)
        .subscribe(|_| Ok(()));
    let outcome = unanswered(topic.request(1, HOUR));
    assert_eq!((outcome.filtered, outcome.ends()), (1, 0));
    drop(picky);

    let worker = topic.subscription("worker").pull(Pull::default()).unwrap();
    thread::scope(|scope| {
        let asked = scope.spawn(|| unanswered(topic.request(1, HOUR)));
        while worker.metrics().queued == 0 {
            thread::yield_now();
        }
        drop(worker);
        assert_eq!(asked.join().expect("it ends").cancelled, 1);
    });
    assert_rests_balanced(&broker);

    let broker = threaded(2);
    let topic = broker
        .topic("t")
        .on_expired(OnExpired::Drop)
        .open()
        .unwrap();
    let _worker = topic.subscription("worker").pull(Pull::default()).unwrap();
    let asked = topic.message(1).ttl(MS).request(HOUR);
    assert_eq!(unanswered(asked).expired, 1);
    assert_rests_balanced(&broker);
}

#[test]
fn a_retry_goes_on_waiting() {
    let broker = threaded(2);
    let topic = broker.topic("t").retry(Backoff::fixed(MS)).open().unwrap();
    let _responder = topic.subscribe("responder", |asked| match asked.attempt() {
        1 | 2 => Err(Nack::retry("not yet")),
        third => {
            asked.reply(u64::from(third));
            Ok(())
        }
    });
    assert_eq!(topic.request(1_u32, HOUR), Ok(3_u64));
    assert_rests_balanced(&broker);
}

#[test]
fn with_several_subscriptions_the_wait_ends_when_none_is_left() {
    let broker = threaded(2);
    let topic = open(&broker);
    let _dead = topic.subscribe("dead", |_| Err(Nack::dead_letter("no")));
    let _audit = topic.subscribe("audit", |_| Ok(()));
    let outcome = unanswered(topic.request(1, HOUR));
    assert_eq!((outcome.delivered, outcome.dead_lettered), (1, 1));
    let _slow = topic.subscribe("slow", |asked| {
        thread::sleep(20 * MS);
        asked.reply(3_u64);
        Ok(())
    });
    assert_eq!(topic.request(1, HOUR), Ok(3_u64), "one was left");
    assert_rests_balanced(&broker);
}

#[test]
fn a_reply_that_comes_too_late_is_dropped_counted_and_told() {
    let broker = threaded(2);
    let told = Log::new();
    let tells = told.clone();
    let hears = broker.observe(move |event| {
        if event.name() == "late_reply" {
            tells.push((event.topic().map(str::to_owned), event.id().map(u64::from)));
        }
    });
    let topic = open(&broker);
    let worker = topic.subscription("worker").pull(Pull::default()).unwrap();
    let asked = topic.request::<Arc<()>>(1, MS);
    assert!(matches!(asked, Err(RequestError::TimedOut)));
    assert!(asked.unwrap_err().is_timeout());
    let lease = worker.recv_timeout(HANG).expect("it was accepted");
    let reply = Arc::new(());
    assert_eq!(lease.reply(Arc::clone(&reply)), Replied::Late);
    assert_eq!(Arc::strong_count(&reply), 1, "it was dropped");
    lease.ack().expect("the ack counts all the same");
    assert_late(&topic, 1);
    let metrics = assert_rests_balanced(&broker);
    assert_eq!(metrics.deliveries().delivered, 1);
    drop(topic);
    assert!(broker.drain(HANG).is_ok());
    drop((hears, broker));
    assert_eq!(told.take(), [(Some("t".to_owned()), Some(1))]);
}

#[test]
fn a_reply_of_another_type_is_an_error_of_both() {
    let broker = threaded(2);
    let topic = open(&broker);
    let found = Log::new();
    let finds = found.clone();
    let _responder = topic.subscribe("responder", move |asked| {
        finds.push(asked.reply("text"));
        finds.push(asked.reply(7_u64));
        Ok(())
    });
    match topic.request::<u64>(1, HOUR) {
        Err(RequestError::WrongType { expected, found }) => {
            assert_eq!((expected, found), ("u64", "&str"));
        }
        other => panic!("{other:?}"),
    }
    assert_rests_balanced(&broker);
    assert_eq!(found.take(), [Replied::WrongType, Replied::Late]);
}

#[test]
fn a_message_that_is_no_request_takes_no_reply() {
    let (broker, _clock) = manual();
    let topic = open(&broker);
    let replied = Log::new();
    let log = replied.clone();
    let _responder = topic.subscribe("responder", move |asked| {
        assert!(!asked.is_request());
        log.push(asked.reply(7_u64));
        Ok(())
    });
    topic.publish(1).unwrap();
    let tracker = topic.tracker();
    topic.message(2).tracked(&tracker).publish().unwrap();
    broker.run_until_idle();
    assert_eq!(replied.take(), [Replied::NotRequested; 2]);
    assert_late(&topic, 0);
}

#[test]
fn a_request_inside_a_handler_is_refused_and_deadlocks_nothing() {
    for broker in [threaded(1), manual().0] {
        let topic = open(&broker);
        let inner = topic.clone();
        let _responder = topic.subscribe("responder", move |asked| {
            let refused = inner.request::<u64>(2, HOUR);
            asked.reply(refused == Err(RequestError::WouldBlock(2)));
            Ok(())
        });
        assert_eq!(topic.request(1, HANG), Ok(true));
        assert_eq!(topic.metrics().published, 1);
        broker.run_until_idle();
        assert_balanced(&broker);
    }
}

#[test]
fn without_workers_the_time_is_up_when_nothing_is_left_to_do_now() {
    let (broker, clock) = manual();
    let topic = broker
        .topic("t")
        .retry(Backoff::fixed(HOUR))
        .open()
        .unwrap();
    let _responder = topic.subscribe("responder", |asked| match asked.attempt() {
        1 => Err(Nack::retry("not yet")),
        _ => {
            assert_eq!(asked.reply(7_u64), Replied::Late);
            Ok(())
        }
    });
    assert_eq!(topic.request::<u64>(1, HOUR), Err(RequestError::TimedOut));
    clock.advance(HOUR);
    broker.run_until_idle();
    assert_late(&topic, 1);
    assert_balanced(&broker);
}

#[test]
fn a_topic_that_is_full_or_closed_hands_the_payload_back() {
    let broker = threaded(1);
    for overflow in [Overflow::Reject, Overflow::Block { timeout: HOUR }] {
        let topic = broker.topic("full").capacity(1).overflow(overflow);
        let topic = topic.open().unwrap();
        let held = topic
            .subscription("held")
            .capacity(1)
            .pull(Pull::default())
            .unwrap();
        topic.publish(0).unwrap();
        while topic.metrics().queued > 0 {
            thread::yield_now();
        }
        topic.publish(0).unwrap();
        let refused = topic.request::<u64>(7, 5 * MS);
        assert!(matches!(&refused, Err(RequestError::Refused(error)) if error.is_full()));
        assert_eq!(refused.unwrap_err().into_inner(), Some(7));
        drop(held);
        assert!(broker.wait_until_idle(HANG));
        assert!(topic.drain(HANG).is_ok());
        let refused = topic.request::<u64>(7, HANG);
        assert!(matches!(&refused, Err(RequestError::Refused(error)) if error.is_closed()));
        drop(topic);
        broker.remove_topic("full").unwrap();
    }
}

#[test]
fn many_reply_and_the_call_ends_by_the_first_of_its_bounds() {
    let broker = threaded(2);
    let topic = open(&broker);
    let _replies = ["a", "b", "c"].map(|name| {
        topic.subscribe(name, move |asked| {
            asked.reply(name);
            Ok(())
        })
    });
    let many = topic.request_many::<&str>(1, Gather::within(HOUR)).unwrap();
    assert!(matches!(many.end, RepliesEnd::Ended(outcome) if outcome.delivered == 3));
    let mut names = many.replies;
    names.sort_unstable();
    assert_eq!(names, ["a", "b", "c"]);

    let many = topic
        .request_many::<&str>(1, Gather::within(HOUR).max(2))
        .unwrap();
    assert_eq!((many.replies.len(), many.end), (2, RepliesEnd::Complete));

    let worker = topic.subscription("silent").pull(Pull::default()).unwrap();
    let many = topic
        .request_many::<&str>(1, Gather::within(HOUR).stall(5 * MS))
        .unwrap();
    assert_eq!(many.end, RepliesEnd::Stalled);
    assert!(!many.replies.is_empty());
    let many = topic
        .request_many::<&str>(1, Gather::within(5 * MS))
        .unwrap();
    assert_eq!(many.end, RepliesEnd::TimedOut);
    let many = topic.request_many::<u64>(1, Gather::within(HOUR)).unwrap();
    assert!(
        matches!(many.end, RepliesEnd::WrongType { found: "&str", .. }),
        "{many:?}"
    );
    let none = topic.request_many::<&str>(7, Gather::within(HOUR).max(0));
    assert_eq!(none.unwrap_err().into_inner(), Some(7));
    drop(worker);
    assert_rests_balanced(&broker);
}

#[test]
fn one_handler_may_reply_several_times() {
    let broker = threaded(1);
    let topic = open(&broker);
    let _counts = topic.subscribe("counts", |asked| {
        for number in 0..*asked.payload() {
            asked.reply(number);
        }
        Ok(())
    });
    let many = topic.request_many::<u32>(5, Gather::within(HOUR)).unwrap();
    assert_eq!(many.into_iter().collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
    let bounded = topic
        .request_many::<u32>(5, Gather::within(HOUR).max(2))
        .unwrap();
    assert_eq!(bounded.replies, [0, 1]);
    assert_rests_balanced(&broker);
    assert_late(&topic, 3);
}

#[test]
fn a_reply_that_panics_when_it_is_dropped_harms_nobody() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("a reply that won't go quietly");
        }
    }
    let broker = threaded(1);
    let topic = broker
        .topic("t")
        .retry(Backoff::fixed(MS).max_attempts(1))
        .open()
        .unwrap();
    let _responder = topic.subscribe("responder", |asked| {
        asked.reply(Bomb);
        Ok(())
    });
    for _ in 0..2 {
        // Its type is wrong, so the reply is dropped in the handler, which fails.
        let asked = topic.request::<u64>(1, HOUR);
        assert!(matches!(asked, Err(RequestError::WrongType { .. })));
    }
    let metrics = assert_rests_balanced(&broker);
    assert_eq!(metrics.deliveries().dead_lettered, 2);
}

#[test]
fn the_end_of_the_broker_ends_the_wait() {
    let broker = threaded(2);
    let topic = open(&broker);
    let held = topic.subscription("held").pull(Pull::default()).unwrap();
    thread::scope(|scope| {
        let asked = scope.spawn(|| topic.request::<u64>(1, HOUR));
        while held.metrics().queued == 0 {
            thread::yield_now();
        }
        let _ = broker.drain(MS);
        assert_eq!(unanswered(asked.join().expect("it ends")).cancelled, 1);
    });
}

/// Requests by many threads to responders that reply, fail, reply twice, forget, or reply late.
#[test]
fn every_request_of_a_crowd_has_one_outcome() {
    const EACH: u32 = 200;
    let broker = threaded(2);
    let retry = Backoff::fixed(MS).max_attempts(2);
    let topic = broker.topic("t").retry(retry).open().unwrap();
    let kept = Arc::new(Mutex::new(Vec::new()));
    let keeps = Arc::clone(&kept);
    let _faulty = topic
        .subscription("faulty")
        .concurrency(2)
        .subscribe_shared(move |asked: &millstream::Delivery<'_, u32>| {
            match asked.payload() % 5 {
                0 => {
                    asked.reply(*asked.payload());
                }
                1 if asked.attempt() == 1 => return Err(Nack::retry("once")),
                1 | 2 => {
                    keeps.lock().push(asked.reply(*asked.payload()));
                    keeps.lock().push(asked.reply(*asked.payload()));
                }
                3 => return Err(Nack::dead_letter("no")),
                _ => {}
            }
            Ok(())
        });
    thread::scope(|scope| {
        for first in 0..4 {
            let topic = topic.clone();
            scope.spawn(move || {
                for number in (first * EACH..).take(EACH as usize) {
                    match (number % 5, topic.request::<u32>(number, HANG)) {
                        (0..=2, Ok(reply)) => assert_eq!(reply, number),
                        (3, Err(RequestError::Unanswered(outcome))) => {
                            assert_eq!(outcome.dead_lettered, 1);
                        }
                        (4, Err(RequestError::Unanswered(outcome))) => {
                            assert_eq!(outcome.delivered, 1);
                        }
                        (_, other) => panic!("{other:?}"),
                    }
                }
            });
        }
    });
    assert_rests_balanced(&broker);
    let kept = kept.lock();
    assert_eq!(kept.len() as u32, 4 * EACH / 5 * 4);
    let taken = kept.iter().filter(|replied| replied.is_taken()).count();
    assert_eq!(taken * 2, kept.len(), "of each two replies one is taken");
    assert_late(&topic, u64::from(4 * EACH / 5 * 2));
}

#[cfg(feature = "log")]
#[test]
fn a_durable_topic_refuses_requests() {
    use millstream::store::{Raw, Store, StoreError};
    let directory = tempfile();
    let store = Store::open(&directory).expect("opens");
    let broker = Broker::builder().store(store).build().expect("builds");
    let topic = broker.topic::<String>("t").durable(Raw).open().unwrap();
    let _responder = topic.subscribe("responder", |_| Ok(()));
    match topic.request::<u64>("payload".to_owned(), HANG) {
        Err(RequestError::Refused(millstream::PublishError::NotStored { payload, error })) => {
            assert_eq!(payload, "payload");
            assert!(matches!(
                *error,
                StoreError::Unsupported { what: "a request" }
            ));
        }
        other => panic!("{other:?}"),
    }
    drop((topic, broker));
    std::fs::remove_dir_all(&directory).expect("it is there");
}

#[cfg(feature = "log")]
fn tempfile() -> std::path::PathBuf {
    std::env::temp_dir().join(format!("millstream-request-{}", std::process::id()))
}

#[cfg(feature = "async")]
mod as_futures {
    use std::task::Poll;

    use super::*;
    use crate::harness::{advance, bell, block_on, poll};

    #[test]
    fn a_future_is_answered_by_an_async_handler() {
        let broker = threaded(2);
        let topic = open(&broker);
        let _doubles = topic
            .subscription("doubles")
            .subscribe_async(async |asked| {
                asked.reply(asked.payload() * 2);
                Ok(())
            });
        assert_eq!(block_on(topic.request_async(21, HANG)), Ok(42_u32));
        let many = topic.request_many_async::<u32>(1, Gather::within(HANG).max(1));
        assert_eq!(block_on(many).expect("accepted").replies, [2]);
        assert_rests_balanced(&broker);
    }

    /// The handler of the one topic awaits the reply of the other one.
    #[test]
    fn a_request_may_be_awaited_inside_an_async_handler() {
        let broker = threaded(1);
        let (outer, inner) = (open(&broker), broker.topic::<u32>("inner").open().unwrap());
        let _inner = inner.subscribe("inner", |asked| {
            asked.reply(asked.payload() + 1);
            Ok(())
        });
        let asks = inner.clone();
        let _outer = outer.subscription("outer").subscribe_async(move |asked| {
            let asks = asks.clone();
            async move {
                let reply = asks.request_async::<u32>(*asked.payload(), HANG).await;
                asked.reply(reply.expect("it replies"));
                Ok(())
            }
        });
        assert_eq!(outer.request(1, HANG), Ok(2_u32));
        assert_rests_balanced(&broker);
    }

    #[test]
    fn a_future_keeps_its_time_by_the_manual_clock() {
        let (broker, clock) = manual();
        let topic = open(&broker);
        let worker = topic.subscription("worker").pull(Pull::default()).unwrap();
        let (woken, waker) = bell();
        let mut asked = topic.request_async::<u64>(1, 10 * MS);
        assert!(poll(&mut asked, &waker).is_pending());
        advance(&broker, &clock, 9 * MS);
        assert_eq!(woken.count(), 0);
        assert!(poll(&mut asked, &waker).is_pending());
        advance(&broker, &clock, MS);
        assert_eq!(woken.count(), 1);
        assert_eq!(
            poll(&mut asked, &waker),
            Poll::Ready(Err(RequestError::TimedOut))
        );
        let lease = worker.recv().expect("it was accepted");
        assert_eq!(lease.reply(1_u64), Replied::Late);
        lease.ack().expect("in time");
        assert_balanced(&broker);
    }

    #[test]
    fn replies_that_pause_end_the_future_at_the_pause() {
        let (broker, clock) = manual();
        let topic = open(&broker);
        let worker = topic.subscription("worker").pull(Pull::default()).unwrap();
        let (woken, waker) = bell();
        let gather = Gather::within(HOUR).stall(5 * MS);
        let mut asked = topic.request_many_async::<u64>(1, gather);
        assert!(poll(&mut asked, &waker).is_pending());
        let lease = worker.recv().expect("it was accepted");
        for reply in [1_u64, 2] {
            advance(&broker, &clock, 4 * MS);
            assert!(lease.reply(reply).is_taken());
            assert!(poll(&mut asked, &waker).is_pending());
        }
        let before = woken.count();
        advance(&broker, &clock, 5 * MS);
        assert_eq!(woken.count(), before + 1);
        let Poll::Ready(Ok(many)) = poll(&mut asked, &waker) else {
            panic!("the pause has ended");
        };
        assert_eq!((many.replies, many.end), (vec![1, 2], RepliesEnd::Stalled));
        lease.ack().expect("in time");
        assert_balanced(&broker);
    }

    #[test]
    fn a_future_that_is_dropped_leaves_nothing_behind() {
        let (broker, clock) = manual();
        let topic = open(&broker);
        let worker = topic.subscription("worker").pull(Pull::default()).unwrap();
        let (woken, waker) = bell();
        let mut asked = topic.request_many_async::<Arc<()>>(1, Gather::within(HOUR));
        assert!(poll(&mut asked, &waker).is_pending());
        let lease = worker.recv().expect("it was accepted");
        let reply = Arc::new(());
        assert!(lease.reply(Arc::clone(&reply)).is_taken());
        drop(asked);
        assert_eq!(Arc::strong_count(&reply), 1, "nobody will ask for it");
        assert_eq!(lease.reply(Arc::clone(&reply)), Replied::Late);
        assert_eq!(Arc::strong_count(&reply), 1);
        drop(waker);
        assert_eq!(Arc::strong_count(&woken), 1, "its waker is gone");
        assert_eq!(
            broker.next_deadline(),
            lease_deadline(&broker),
            "so is its alarm"
        );
        lease.ack().expect("in time");
        advance(&broker, &clock, HOUR);
        assert_balanced(&broker);
    }

    fn lease_deadline(broker: &Broker) -> Option<Duration> {
        broker.next_deadline().filter(|next| *next < HOUR)
    }

    #[test]
    fn a_future_waits_for_room_no_longer_than_its_time() {
        let broker = threaded(1);
        let topic = broker.topic("t").capacity(1);
        let topic = topic
            .overflow(Overflow::Block { timeout: HOUR })
            .open()
            .unwrap();
        let held = topic
            .subscription("held")
            .capacity(1)
            .pull(Pull::default())
            .unwrap();
        topic.publish(0).unwrap();
        while topic.metrics().queued > 0 {
            thread::yield_now();
        }
        topic.publish(0).unwrap();
        let refused = block_on(topic.request_async::<u64>(7, 5 * MS)).unwrap_err();
        assert!(refused.is_timeout());
        assert_eq!(refused.into_inner(), Some(7));
        drop(held);
        assert_rests_balanced(&broker);
        assert_eq!(topic.metrics().rejected, 1);
    }
}
