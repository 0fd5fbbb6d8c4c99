//! Concurrency and consumer groups: each delivery goes to one of the hands, those of one
//! key never to two at once and never out of order; members come and go without loss or
//! overlap; one that stalls is seen, and holds up nobody's keys but its own.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::{
    HANG, Log, advance, assert_balanced, assert_rests_balanced, manual, threaded,
};
use millstream::error::{SettingError, SubscribeError};
use millstream::{
    Backoff, Broker, ConsumerGroup, Member, Nack, OnExhausted, OnFailure, PublishError, Topic,
    Unsubscribe, Unsubscribed,
};

const MS: Duration = Duration::from_millis(1);

fn open(broker: &Broker) -> Topic<u32> {
    let retry = Backoff::fixed(MS / 10).max_attempts(9);
    let topic = broker.topic("orders").retry(retry).open();
    topic.expect("opens")
}

fn key(number: u32) -> String {
    format!("key-{}", number % 16)
}

/// Publishes a message with one of 16 keys, and tries again where there is no room.
fn publish(topic: &Topic<u32>, number: u32) {
    while let Err(refused) = topic.message(number).key(key(number)).publish() {
        assert!(matches!(refused, PublishError::Full(_)), "{refused:?}");
        thread::yield_now();
    }
}

/// Who handled what, in the order of success.
type Books = Log<(&'static str, u32)>;

fn join(group: &ConsumerGroup<u32>, name: &'static str, books: &Books) -> Member {
    let books = books.clone();
    let handler = move |d: &millstream::Delivery<'_, u32>| {
        books.push((name, *d.payload()));
        Ok(())
    };
    group.join(name, handler).expect("joins")
}

/// The member that has each key, as far as these entries tell.
fn owners(entries: &[(&'static str, u32)]) -> BTreeMap<String, &'static str> {
    let owners = entries.iter().map(|(name, number)| (key(*number), *name));
    owners.collect()
}

#[test]
fn each_delivery_goes_to_one_member_and_each_key_to_the_same() {
    let (broker, _clock) = manual();
    let (topic, books) = (open(&broker), Books::new());
    let group = topic.subscription("billing").group().expect("subscribes");
    let members = ["one", "two", "three"].map(|name| join(&group, name, &books));
    for number in 0..160 {
        publish(&topic, number);
    }
    broker.run_until_idle();
    let done = books.take();
    assert_eq!(done.len(), 160);
    let owners = owners(&done);
    assert!(
        done.iter()
            .all(|(name, number)| owners[&key(*number)] == *name)
    );
    for member in &members {
        assert!(member.metrics().taken > 0, "{} has no key", member.name());
    }
    assert_balanced(&broker);
}

#[test]
fn who_joins_or_leaves_moves_no_keys_but_its_own() {
    let (broker, _clock) = manual();
    let (topic, books) = (open(&broker), Books::new());
    let group = topic.subscription("billing").group().expect("subscribes");
    let round = || {
        for number in 0..16 {
            publish(&topic, number);
        }
        broker.run_until_idle();
        owners(&books.take())
    };
    let _one = join(&group, "one", &books);
    let two = join(&group, "two", &books);
    let before = round();
    let three = join(&group, "three", &books);
    let with_three = round();
    assert!(with_three.values().any(|name| *name == "three"));
    let stayed = |after: &BTreeMap<String, &str>, gone: &str| {
        let stays = before.iter().filter(|(_, name)| **name != gone);
        stays.clone().all(|(key, name)| after[key] == *name)
    };
    let others = with_three.iter().filter(|(_, name)| **name != "three");
    assert!(others.clone().all(|(key, name)| before[key] == *name));
    three.leave();
    assert_eq!(round(), before);
    two.leave();
    let after = round();
    assert!(stayed(&after, "two") && after.values().all(|name| *name == "one"));
    assert_balanced(&broker);
}

#[test]
fn without_members_deliveries_wait() {
    let (broker, _clock) = manual();
    let (topic, books) = (open(&broker), Books::new());
    let group = topic.subscription("billing").group().expect("subscribes");
    publish(&topic, 1);
    broker.run_until_idle();
    assert_eq!(group.metrics().queued, 1);
    let one = join(&group, "one", &books);
    broker.run_until_idle();
    assert_eq!(books.take(), [("one", 1)]);
    one.leave();
    publish(&topic, 2);
    broker.run_until_idle();
    assert_eq!(group.metrics().queued, 1);
    let _ = group.unsubscribe(Unsubscribe::Cancel);
    assert_eq!(broker.metrics().deliveries().cancelled, 1);
    assert_balanced(&broker);
}

#[test]
fn a_failing_key_waits_for_its_retry_whoever_has_it_then() {
    let (broker, clock) = manual();
    let topic = open(&broker);
    let books = Books::new();
    let group = topic
        .subscription("billing")
        .on_failure(OnFailure::BlockKey);
    let group = group.group().expect("subscribes");
    let failing = |name: &'static str| {
        let books = books.clone();
        group.join(name, move |d| {
            if d.attempt() == 1 && *d.payload() == 0 {
                return Err(Nack::retry("not yet"));
            }
            books.push((name, *d.payload()));
            Ok(())
        })
    };
    let one = failing("one").expect("joins");
    for number in [0, 16, 1, 32, 17] {
        publish(&topic, number);
    }
    broker.run_until_idle();
    assert_eq!(books.take(), [("one", 1), ("one", 17)]);
    let _two = failing("two").expect("joins");
    one.leave();
    advance(&broker, &clock, MS);
    assert_eq!(books.take(), [("two", 0), ("two", 16), ("two", 32)]);
    assert_balanced(&broker);
}

/// Members come and go while four threads publish: nothing is lost, no key is in two
/// hands or out of order.
#[test]
fn members_come_and_go_without_loss_overlap_or_reordering() {
    const EACH: u32 = 3_000;
    let broker = threaded(2);
    let topic = open(&broker);
    let group = topic
        .subscription("billing")
        .on_failure(OnFailure::BlockKey);
    let group = Arc::new(group.group().expect("subscribes"));
    let hands: Arc<Vec<AtomicBool>> = Arc::new((0..64).map(|_| AtomicBool::new(false)).collect());
    let done: Log<(u32, u32)> = Log::new();
    let member = |name: String| {
        let (hands, done) = (hands.clone(), done.clone());
        group.member(&name).concurrency(2).join_shared(move |d| {
            let (publisher, number) = (*d.payload() >> 16, *d.payload() & 0xffff);
            let hand = &hands[(publisher * 16 + number % 16) as usize];
            assert!(!hand.swap(true, Ordering::SeqCst), "two hands have one key");
            let fails = number % 11 == 0 && d.attempt() == 1;
            if !fails {
                done.push((publisher, number));
            }
            hand.store(false, Ordering::SeqCst);
            if fails {
                Err(Nack::retry("once"))
            } else {
                Ok(())
            }
        })
    };
    let publishers: Vec<_> = (0..4_u32)
        .map(|publisher| {
            let topic = topic.clone();
            thread::spawn(move || {
                for number in 0..EACH {
                    let payload = publisher << 16 | number;
                    let name = format!("{publisher}-{}", number % 16);
                    while topic.message(payload).key(name.as_str()).publish().is_err() {
                        thread::yield_now();
                    }
                }
            })
        })
        .collect();
    let mut here = vec![member("first".to_owned()).expect("joins")];
    let mut round = 0;
    while publishers.iter().any(|publisher| !publisher.is_finished()) {
        round += 1;
        here.push(member(format!("m{round}")).expect("joins"));
        if here.len() > 3 {
            here.remove(round % 3).leave();
        }
        let _ = here[0].set_concurrency(1 + round % 3);
    }
    for publisher in publishers {
        publisher.join().expect("publishes");
    }
    assert_rests_balanced(&broker);
    let mut last = BTreeMap::new();
    let done = done.take();
    assert_eq!(done.len(), 4 * EACH as usize);
    for (publisher, number) in done {
        let before = last.insert((publisher, number % 16), number);
        assert!(
            before.is_none_or(|before| before < number),
            "{number} after {before:?}"
        );
    }
    let counts = broker.metrics().deliveries();
    assert_eq!(
        counts.attempts,
        counts.delivered + counts.failed,
        "leaving is no attempt"
    );
}

#[test]
fn a_member_that_stalls_is_seen_and_holds_up_its_own_keys_only() {
    let broker = threaded(2);
    let (topic, books) = (open(&broker), Books::new());
    let group = topic.subscription("billing").group().expect("subscribes");
    let go = Arc::new(AtomicBool::new(false));
    let stalls = Arc::clone(&go);
    let slow = group.join("slow", move |_| {
        while !stalls.load(Ordering::SeqCst) {
            thread::sleep(MS);
        }
        Ok(())
    });
    let slow = slow.expect("joins");
    publish(&topic, 0);
    while group.metrics().counts.in_flight == 0 {
        thread::yield_now();
    }
    let _quick = join(&group, "quick", &books);
    for number in 0..64 {
        publish(&topic, number);
    }
    let began = Instant::now();
    while books.len() < 16 && began.elapsed() < HANG {
        thread::sleep(MS);
    }
    assert!(books.len() >= 16, "others go on");
    thread::sleep(MS);
    let metrics = slow.metrics();
    assert!(metrics.busy == 1 && metrics.busy_for >= MS, "{metrics:?}");
    let listed = group.metrics().members;
    assert_eq!(listed.len(), 2);
    go.store(true, Ordering::SeqCst);
    slow.leave();
    assert_rests_balanced(&broker);
}

#[test]
fn nothing_waits_behind_a_call_while_another_hand_is_free() {
    let broker = threaded(2);
    let topic = open(&broker);
    let stuck = Arc::new(AtomicBool::new(true));
    let (waits, done) = (Arc::clone(&stuck), Log::new());
    let log = done.clone();
    let subscription = topic
        .subscription("calls")
        .concurrency(2)
        .subscribe_shared(move |d| {
            while *d.payload() == 500 && waits.load(Ordering::SeqCst) {
                thread::sleep(MS);
            }
            log.push(*d.payload());
            Ok(())
        });
    let _calls = subscription.expect("subscribes");
    for number in 0..1_000 {
        while topic.publish(number).is_err() {
            thread::yield_now();
        }
    }
    let began = Instant::now();
    while done.len() < 999 && began.elapsed() < HANG {
        thread::sleep(MS);
    }
    assert_eq!(done.len(), 999);
    stuck.store(false, Ordering::SeqCst);
    assert_rests_balanced(&broker);
}

#[test]
fn as_many_calls_run_at_once_as_were_asked_for_and_no_more() {
    let broker = threaded(4);
    let topic = open(&broker);
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let count = (Arc::clone(&now), Arc::clone(&most));
    let expected = Arc::new(AtomicUsize::new(3));
    let meet = Arc::clone(&expected);
    let handler = move |_: &millstream::Delivery<'_, u32>| {
        let running = count.0.fetch_add(1, Ordering::SeqCst) + 1;
        count.1.fetch_max(running, Ordering::SeqCst);
        // Waits for as many as may run at once, and gives one more its chance.
        let began = Instant::now();
        while count.1.load(Ordering::SeqCst) < meet.load(Ordering::SeqCst) {
            assert!(began.elapsed() < HANG, "they never meet");
            thread::yield_now();
        }
        thread::sleep(MS);
        count.0.fetch_sub(1, Ordering::SeqCst);
        Ok(())
    };
    let subscription = topic.subscription("calls");
    let calls = subscription
        .concurrency(3)
        .subscribe_shared(handler)
        .expect("subscribes");
    for number in 0..60 {
        publish(&topic, number);
        topic.publish(number).expect("there is room");
    }
    assert_rests_balanced(&broker);
    expected.store(1, Ordering::SeqCst);
    assert_eq!(most.swap(0, Ordering::SeqCst), 3);
    calls.set_concurrency(1).expect("in range");
    // Calls that ran may still have finished beside the first of these.
    for number in 0..20 {
        publish(&topic, number);
    }
    assert_rests_balanced(&broker);
    assert_eq!(most.load(Ordering::SeqCst), 1);
    assert_eq!(calls.metrics().members[0].concurrency, 1);
    assert_eq!(calls.metrics().counts.delivered, 140);
}

#[test]
fn concurrent_calls_keep_the_order_of_each_key() {
    let broker = threaded(3);
    let topic = open(&broker);
    let done: Log<u32> = Log::new();
    let log = done.clone();
    let subscription = topic.subscription("calls").on_failure(OnFailure::BlockKey);
    let _calls = subscription
        .concurrency(4)
        .subscribe_shared(move |d| {
            if d.attempt() == 1 && *d.payload() % 13 == 0 {
                return Err(Nack::retry("once"));
            }
            log.push(*d.payload());
            Ok(())
        })
        .expect("subscribes");
    for number in 0..5_000 {
        publish(&topic, number);
    }
    assert_rests_balanced(&broker);
    let done = done.take();
    assert_eq!(done.len(), 5_000);
    for number in 0..16 {
        let of_key = done.iter().filter(|other| key(**other) == key(number));
        assert!(of_key.is_sorted());
    }
}

#[test]
fn unsubscribing_waits_for_all_calls_and_drops_the_handler() {
    for mode in [Unsubscribe::Cancel, Unsubscribe::Drain { timeout: HANG }] {
        let broker = threaded(2);
        let topic = open(&broker);
        let held = Arc::new(());
        let captured = Arc::clone(&held);
        let subscription = topic.subscription("calls");
        let calls = subscription
            .concurrency(2)
            .subscribe_shared(move |_| {
                let _captured = &captured;
                thread::sleep(MS / 10);
                Ok(())
            })
            .expect("subscribes");
        for number in 0..50 {
            publish(&topic, number);
        }
        let Unsubscribed::Ended(last) = calls.unsubscribe(mode) else {
            panic!("not inside a handler");
        };
        assert_eq!(Arc::strong_count(&held), 1);
        assert_eq!(last.counts.open(), 0);
        assert_rests_balanced(&broker);
    }
}

#[test]
fn a_member_may_leave_inside_its_handler() {
    let (broker, _clock) = manual();
    let topic = open(&broker);
    let group = topic.subscription("billing").group().expect("subscribes");
    let slot: Arc<parking_lot::Mutex<Option<Member>>> = Arc::default();
    let own = Arc::clone(&slot);
    let books = Books::new();
    let log = books.clone();
    let member = group.join("one", move |d| {
        log.push(("one", *d.payload()));
        if let Some(me) = own.lock().take() {
            me.leave();
        }
        Ok(())
    });
    *slot.lock() = Some(member.expect("joins"));
    for number in 0..3 {
        publish(&topic, number);
    }
    broker.run_until_idle();
    assert_eq!(books.take(), [("one", 0)]);
    let _two = join(&group, "two", &books);
    broker.run_until_idle();
    assert_eq!(books.take(), [("two", 1), ("two", 2)]);
    assert_balanced(&broker);
}

#[test]
fn a_panic_costs_one_attempt_and_no_seat() {
    let (broker, clock) = manual();
    let topic = open(&broker);
    let subscription = topic.subscription("calls");
    let calls = subscription
        .concurrency(2)
        .subscribe_shared(|d| {
            assert!(d.attempt() > 1, "the first time");
            Ok(())
        })
        .expect("subscribes");
    for number in 0..4 {
        publish(&topic, number);
    }
    broker.run_until_idle();
    advance(&broker, &clock, MS);
    assert_eq!(calls.metrics().counts.delivered, 4);
    assert_eq!(calls.metrics().counts.failed, 4);
    assert_balanced(&broker);
}

#[test]
fn what_makes_no_sense_is_refused() {
    let (broker, _clock) = manual();
    let topic = open(&broker);
    let ok = |_: &millstream::Delivery<'_, u32>| Ok(());
    let invalid = |error: SubscribeError| match error {
        SubscribeError::Invalid(invalid) => invalid.to_string(),
        other => panic!("{other}"),
    };
    let text = |refused: Result<(), SettingError>| refused.expect_err("refused").to_string();
    let whole = topic
        .subscription("s")
        .on_failure(OnFailure::BlockSubscription);
    assert_eq!(
        invalid(whole.group().expect_err("refused")),
        "on_failure is BlockSubscription, but it needs a subscription that handles one delivery at a time"
    );
    let whole = topic
        .subscription("s")
        .on_failure(OnFailure::BlockSubscription);
    assert!(whole.concurrency(2).subscribe_shared(ok).is_err());
    for concurrency in [0, 1_025] {
        let refused = topic
            .subscription("s")
            .concurrency(concurrency)
            .subscribe_shared(ok);
        assert_eq!(
            invalid(refused.expect_err("refused")),
            format!("concurrency is {concurrency}, but it must be between 1 and 1024")
        );
    }
    let plain = topic.subscribe("plain", ok).expect("subscribes");
    assert_eq!(
        text(plain.set_concurrency(2)),
        "concurrency is 2, but it needs a subscription whose handler can be called several times at once"
    );
    let group = topic.subscription("billing").group().expect("subscribes");
    assert!(group.set_on_failure(OnFailure::BlockSubscription).is_err());
    let one = group.join("one", ok).expect("joins");
    assert_eq!(
        text(one.set_concurrency(2)),
        "concurrency is 2, but it needs a member whose handler can be called several times at once"
    );
    let taken = SubscribeError::MemberTaken {
        name: "one".to_owned(),
    };
    assert_eq!(group.join("one", ok).expect_err("refused"), taken);
    assert!(matches!(
        group.join("a b", ok),
        Err(SubscribeError::Name(_))
    ));
    broker.drain(HANG).expect("drains");
    assert_eq!(
        group.join("two", ok).expect_err("refused"),
        SubscribeError::Closed
    );
    assert!(one.has_left());
}

#[test]
fn a_drain_of_the_broker_finishes_what_a_group_has() {
    let broker = threaded(2);
    let (topic, books) = (open(&broker), Books::new());
    let group = topic.subscription("billing").group().expect("subscribes");
    let _members = ["one", "two"].map(|name| join(&group, name, &books));
    for number in 0..500 {
        publish(&topic, number);
    }
    let report = broker.drain(HANG).expect("drains");
    assert_eq!(report.delivered, 500);
    assert_eq!(books.len(), 500);
    assert!(group.has_ended());
}

#[test]
fn events_tell_who_comes_and_goes() {
    let (broker, _clock) = manual();
    let (topic, books) = (open(&broker), Books::new());
    let told = Log::new();
    let log = told.clone();
    let _observer = broker.observe(move |event| log.push(event.to_string()));
    let group = topic.subscription("billing").group().expect("subscribes");
    join(&group, "one", &books).leave();
    broker.run_until_idle();
    assert_eq!(
        told.take(),
        [
            "subscription_added orders/billing",
            "member_joined orders/billing one",
            "member_left orders/billing one",
        ]
    );
}

/// Nobody but a member that joins looks into the lane then.
#[test]
fn what_waits_for_a_parked_key_follows_it_when_a_member_joins() {
    let (broker, _clock) = manual();
    let (topic, books) = (open(&broker), Books::new());
    let group = topic.subscription("billing");
    let group = group.on_failure(OnFailure::BlockKey);
    let group = group.on_exhausted(OnExhausted::ParkKey);
    let group = group.group().expect("subscribes");
    let refuses = group.join("refuses", |_| Err(Nack::dead_letter("never")));
    publish(&topic, 0);
    broker.run_until_idle();
    refuses.expect("joins").leave();
    publish(&topic, 16);
    broker.run_until_idle();
    assert_eq!(group.metrics().queued, 1);
    let _one = join(&group, "one", &books);
    broker.run_until_idle();
    assert_eq!(topic.dead_letters().len(), 2);
    assert_eq!(books.take(), []);
    assert_balanced(&broker);
}

/// Takes its time to go.
struct Slow(Arc<AtomicBool>);

impl Drop for Slow {
    fn drop(&mut self) {
        thread::sleep(50 * MS);
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Even of one that had begun to leave, and was not waited for.
#[test]
fn unsubscribing_waits_for_the_handlers_of_members_that_leave() {
    let broker = threaded(2);
    let topic = open(&broker);
    let group = topic.subscription("billing").group().expect("subscribes");
    let [gone, begun, go] = [(); 3].map(|()| Arc::new(AtomicBool::new(false)));
    let captured = Slow(Arc::clone(&gone));
    let inside = (Arc::clone(&begun), Arc::clone(&go));
    let member = group.join("one", move |_| {
        let _keep = &captured;
        inside.0.store(true, Ordering::SeqCst);
        while !inside.1.load(Ordering::SeqCst) {
            thread::yield_now();
        }
        Ok(())
    });
    publish(&topic, 0);
    while !begun.load(Ordering::SeqCst) {
        thread::yield_now();
    }
    drop(member);
    go.store(true, Ordering::SeqCst);
    let _ = group.unsubscribe(Unsubscribe::Cancel);
    assert!(gone.load(Ordering::SeqCst), "the handler is still there");
    assert_rests_balanced(&broker);
}

/// As those of any subscription: nobody waits for a worker that others keep busy.
#[test]
fn unsubscribing_needs_no_free_worker() {
    let broker = threaded(1);
    let topic = open(&broker);
    let others = broker.topic::<u32>("others").open().expect("opens");
    let [begun, go, leave] = [(); 3].map(|()| Arc::new(AtomicBool::new(false)));
    let wait = |flag: &AtomicBool| {
        while !flag.load(Ordering::SeqCst) {
            thread::yield_now();
        }
    };
    let inside = (Arc::clone(&begun), Arc::clone(&go));
    let lane = topic.subscription("calls");
    let calls = lane.concurrency(1).subscribe_shared(move |_| {
        inside.0.store(true, Ordering::SeqCst);
        wait(&inside.1);
        Ok(())
    });
    let busy = Arc::clone(&leave);
    let keeps_busy = others.subscribe("busy", move |_| {
        wait(&busy);
        Ok(())
    });
    publish(&topic, 0);
    wait(&begun);
    // It is next, once the one worker is free.
    others.publish(0).expect("there is room");
    let calls = calls.expect("subscribes");
    let unsubscribed = thread::spawn(move || calls.unsubscribe(Unsubscribe::Cancel));
    thread::sleep(20 * MS);
    go.store(true, Ordering::SeqCst);
    let began = Instant::now();
    while !unsubscribed.is_finished() && began.elapsed() < HANG {
        thread::sleep(MS);
    }
    let is_finished = unsubscribed.is_finished();
    leave.store(true, Ordering::SeqCst);
    let _ = unsubscribed.join();
    assert!(is_finished, "it waits for a worker");
    assert_rests_balanced(&broker);
    drop(keeps_busy);
}
