//! A redrive that waits for room, keeps to a rate, or goes to another topic. A letter leaves
//! the store only if its new place has taken it, and no letter goes twice.

use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::{
    HANG, assert_balanced, assert_rests_balanced, manual, read, threaded, with_time_enough,
};
use millstream::dead_letters::{DeadLetterOverflow, Redrive, RedriveOptions};
use millstream::{Broker, Delivery, LaneFull, Nack, NoSubscribers, Overflow, Topic};

const MS: Duration = Duration::from_millis(1);

fn open(broker: &Broker) -> Topic<u32> {
    broker.topic("t").open().expect("opens")
}

/// Fails the first generation of everything.
fn failing(delivery: &Delivery<'_, u32>) -> Result<(), Nack> {
    match delivery.generation() {
        0 => Err(Nack::dead_letter("in its first life")),
        _ => Ok(()),
    }
}

/// Makes letters of these payloads on a manual broker, and leaves the lane as it is.
fn letters(broker: &Broker, topic: &Topic<u32>, payloads: &[u32]) {
    for payload in payloads {
        let message = topic.message(*payload).key("k").header("a", "b");
        message.publish().expect("there is room");
    }
    broker.run_until_idle();
    assert_eq!(topic.dead_letters().len(), payloads.len());
}

fn counts(redrive: Redrive) -> [usize; 5] {
    [
        redrive.redriven,
        redrive.no_room,
        redrive.no_subscription,
        redrive.behind,
        redrive.refused,
    ]
}

#[test]
fn a_redrive_waits_for_room_and_no_longer_than_it_may() {
    let broker = threaded(2);
    let topic = open(&broker);
    let (go, gate) = mpsc::channel::<()>();
    let builder = topic.subscription("s").capacity(1);
    let builder = builder.when_full(LaneFull::DeadLetter);
    let subscribed = builder.subscribe(move |delivery| match *delivery.payload() {
        0 => {
            let _ = gate.recv();
            Ok(())
        }
        _ => failing(delivery),
    });
    let _subscription = subscribed.expect("subscribes");
    topic.publish(1).expect("there is room");
    assert!(broker.wait_until_idle(HANG));
    topic.publish(0).expect("there is room");
    let letters = topic.dead_letters();
    while broker.metrics().deliveries().in_flight == 0 {
        thread::yield_now();
    }
    assert_eq!(counts(letters.redrive_all()), [0, 1, 0, 0, 0]);
    let began = Instant::now();
    let short = RedriveOptions::new().wait(20 * MS);
    let redrive = letters.redrive_with(short, |_| true).expect("sound");
    assert_eq!(counts(redrive), [0, 1, 0, 0, 0]);
    assert!(began.elapsed() >= 20 * MS);
    assert_eq!(letters.len(), 1, "it stays");
    let waiting = thread::spawn({
        let letters = letters.clone();
        move || letters.redrive_with(RedriveOptions::new().wait(HANG), |_| true)
    });
    // Time enough for it to fall asleep; it must not be done by then.
    let began = Instant::now();
    while began.elapsed() < 20 * MS {
        assert!(!waiting.is_finished(), "there is no room");
        thread::yield_now();
    }
    go.send(()).expect("it is waited for");
    let redrive = waiting.join().expect("no panic").expect("sound");
    assert_eq!(counts(redrive), [1, 0, 0, 0, 0]);
    assert_rests_balanced(&broker);
    assert!(letters.is_empty());
}

#[test]
fn without_workers_a_redrive_runs_the_broker_for_room() {
    let (broker, _clock) = manual();
    let topic = open(&broker);
    let builder = topic.subscription("s").capacity(1);
    let _subscription = builder.subscribe(failing).expect("subscribes");
    letters(&broker, &topic, &[1, 2]);
    let options = RedriveOptions::new().wait(MS);
    let redrive = topic.dead_letters().redrive_with(options, |_| true);
    assert_eq!(counts(redrive.expect("sound")), [2, 0, 0, 0, 0]);
    assert_rests_balanced(&broker);
}

#[test]
fn a_letter_goes_to_another_topic_with_its_key_and_headers_and_where_it_came_from() {
    let (broker, _clock) = manual();
    let topic = open(&broker);
    let other = broker.topic::<u32>("other").open().expect("opens");
    let _failing = topic.subscribe("s", failing).expect("subscribes");
    let (sender, received) = mpsc::channel();
    let subscribed = other.subscribe("desk", move |d| {
        let headers = d.headers().map(|(name, value)| format!("{name}={value}"));
        let headers: Vec<_> = headers.collect();
        let _ = sender.send((*d.payload(), d.key().map(str::to_owned), headers));
        Ok(())
    });
    let _desk = subscribed.expect("subscribes");
    letters(&broker, &topic, &[7, 8]);
    let options = RedriveOptions::new().to(&other);
    let redrive = topic
        .dead_letters()
        .redrive_with(options, |letter| *letter.payload() == 7);
    assert_eq!(counts(redrive.expect("sound")), [1, 0, 0, 0, 0]);
    broker.run_until_idle();
    let headers = [
        "a=b",
        "dead-letter-topic=t",
        "dead-letter-subscription=s",
        "dead-letter-id=1",
        "dead-letter-reason=rejected",
    ];
    let expected = (7, Some("k".to_owned()), headers.map(str::to_owned).to_vec());
    assert_eq!(received.try_iter().collect::<Vec<_>>(), [expected]);
    assert_eq!(topic.dead_letters().list()[0].payload(), &8);
    assert_eq!(topic.dead_letters().len(), 1);
    assert_rests_balanced(&broker);
}

#[test]
fn a_letter_stays_in_its_place_if_the_other_topic_refuses_it() {
    for (overflow, no_subscribers) in [
        (Overflow::Reject, NoSubscribers::Retain),
        (Overflow::DropNewest, NoSubscribers::Retain),
        (Overflow::Reject, NoSubscribers::Reject),
    ] {
        let (broker, _clock) = manual();
        let topic = open(&broker);
        let builder = broker.topic::<u32>("other").capacity(1).overflow(overflow);
        let other = builder
            .no_subscribers(no_subscribers)
            .open()
            .expect("opens");
        let _failing = topic.subscribe("s", failing).expect("subscribes");
        letters(&broker, &topic, &[7, 8, 9]);
        let options = RedriveOptions::new().to(&other);
        let redrive = topic.dead_letters().redrive_with(options, |_| true);
        let expected = match no_subscribers {
            NoSubscribers::Reject => [0, 0, 0, 0, 3],
            _ => [1, 2, 0, 0, 0],
        };
        assert_eq!(counts(redrive.expect("sound")), expected);
        let left = topic.dead_letters().list();
        let left: Vec<_> = left.iter().map(|letter| *letter.payload()).collect();
        assert_eq!(left, [7, 8, 9][expected[0]..]);
        assert_balanced(&broker);
    }
}

#[test]
fn two_that_move_the_same_letters_move_each_once() {
    let broker = threaded(2);
    let topic = open(&broker);
    let other = broker
        .topic::<u32>("other")
        .capacity(8)
        .open()
        .expect("opens");
    let _failing = topic.subscribe("s", failing).expect("subscribes");
    let (log, _desk) = read(&other, "desk");
    topic.publish_batch(0..500).expect("there is room");
    assert!(broker.wait_until_idle(HANG));
    let options = RedriveOptions::new().to(&other).wait(HANG);
    let letters = topic.dead_letters();
    let moved: usize = thread::scope(|scope| {
        let movers = [(); 2].map(|()| {
            let (letters, options) = (letters.clone(), options.clone());
            scope.spawn(move || letters.redrive_with(options, |_| true))
        });
        let moved = movers.map(|mover| mover.join().expect("no panic").expect("sound"));
        moved.iter().map(|redrive| redrive.redriven).sum()
    });
    assert_eq!((moved, letters.len()), (500, 0));
    assert_rests_balanced(&broker);
    let mut payloads = log.take();
    payloads.sort_unstable();
    assert!(payloads.into_iter().eq(0..500));
}

/// While a letter is on its way, the store fills up. It comes back, or it does not.
#[test]
fn a_letter_on_its_way_keeps_its_room_and_nothing_is_lost_uncounted() {
    with_time_enough(|time| is_pushed_out_on_its_way(time, true));
    assert!(is_pushed_out_on_its_way(HANG, false));
}

/// Returns whether both letters were seen at once in a store for one.
fn is_pushed_out_on_its_way(time: Duration, comes_back: bool) -> bool {
    let broker = threaded(2);
    let builder = broker.topic::<u32>("t").dead_letter_capacity(1);
    let builder = builder.dead_letter_overflow(DeadLetterOverflow::EvictOldest);
    let topic = builder.open().expect("opens");
    let builder = broker.topic::<u32>("other").capacity(1);
    let other = builder.no_subscribers(NoSubscribers::Retain).open();
    let other = other.expect("opens");
    let _failing = topic.subscribe("s", failing).expect("subscribes");
    let letters = topic.dead_letters();
    topic.publish(7).expect("there is room");
    assert!(broker.wait_until_idle(HANG));
    other.publish(0).expect("there is room");
    let (tell, told) = mpsc::channel();
    let observed = broker.observe(move |event| {
        if event.name() == "backpressure" {
            let _ = tell.send(());
        }
    });
    let _observation = observed.expect("observes");
    let mover = thread::spawn({
        let options = RedriveOptions::new().to(&other).wait(time);
        let letters = letters.clone();
        move || letters.redrive_with(options, |_| true).expect("sound")
    });
    told.recv_timeout(HANG).expect("there is no room");
    assert_eq!(letters.list().len(), 1, "it is seen on its way");
    topic.publish(8).expect("there is room");
    let mut seen = 1;
    while seen == 1 && !mover.is_finished() {
        thread::yield_now();
        seen = letters.list().len();
    }
    let desk = (!comes_back).then(|| read(&other, "desk"));
    let redrive = mover.join().expect("no panic");
    drop(desk);
    assert!(broker.wait_until_idle(HANG));
    let left: Vec<_> = letters.list().iter().map(|l| *l.payload()).collect();
    let evicted = broker.metrics().topic("t").expect("open").letters_evicted;
    let moved = usize::from(!comes_back);
    assert_eq!((left, redrive.redriven), (vec![8], moved));
    assert_eq!(evicted, u64::from(comes_back));
    assert_balanced(&broker);
    seen == 2
}

#[test]
fn a_redrive_keeps_to_its_rate() {
    let broker = threaded(2);
    let topic = open(&broker);
    let _failing = topic.subscribe("s", failing).expect("subscribes");
    topic.publish_batch(0..5).expect("there is room");
    assert!(broker.wait_until_idle(HANG));
    let began = Instant::now();
    let options = RedriveOptions::new().rate(100);
    let redrive = topic.dead_letters().redrive_with(options, |_| true);
    assert_eq!(redrive.expect("sound").redriven, 5);
    assert!(began.elapsed() >= 40 * MS, "four times 10 ms lie between");
    assert_rests_balanced(&broker);
}

#[test]
fn a_rate_that_nobody_can_keep_is_refused() {
    let (manual, _clock) = manual();
    let refused = |topic: &Topic<u32>, rate| {
        let options = RedriveOptions::new().rate(rate);
        let redrive = topic.dead_letters().redrive_with(options, |_| true);
        redrive.expect_err("it can't be kept").to_string()
    };
    assert!(refused(&open(&manual), 0).contains("at least one letter a second"));
    assert!(refused(&open(&manual), 1).contains("moves by itself"));
    let broker = threaded(1);
    let topic = open(&broker);
    let (sender, received) = mpsc::channel();
    let inner = topic.clone();
    let subscribed = topic.subscribe("s", move |_| {
        let _ = sender.send(refused(&inner, 1));
        Ok(())
    });
    let _subscription = subscribed.expect("subscribes");
    topic.publish(7).expect("there is room");
    let told = received.recv_timeout(HANG).expect("it is called");
    assert!(told.contains("inside a handler"));
    assert_rests_balanced(&broker);
}

#[test]
fn all_letters_are_redriven_or_purged_at_once() {
    let (broker, _clock) = manual();
    let topic = open(&broker);
    let _failing = topic.subscribe("s", failing).expect("subscribes");
    letters(&broker, &topic, &[1, 2, 3]);
    assert_eq!(topic.dead_letters().redrive_all().redriven, 3);
    broker.run_until_idle();
    letters(&broker, &topic, &[1, 2]);
    assert_eq!(topic.dead_letters().purge_all(), 2);
    assert!(topic.dead_letters().is_empty());
    assert_rests_balanced(&broker);
}
