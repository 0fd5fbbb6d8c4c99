//! The whole engine, with its threads, under schedulers that choose what runs next.
//! Run them with `cargo shuttle`.
#![cfg(millstream_shuttle)]

mod explore;
#[path = "../harness/mod.rs"]
mod harness;

use std::time::Duration;

use explore::explore;
use harness::{Log, assert_balanced};
use millstream::{Broker, DrainReport, Histograms, Topic};
use shuttle::thread::{self, JoinHandle};

const PUBLISHERS: u64 = 4;
/// No end: who waits in vain is a deadlock, which shuttle reports.
const FOREVER: Duration = Duration::MAX;

fn broker() -> Broker {
    let broker = Broker::builder().workers(3).histograms(Histograms::Off);
    broker.build().expect("shuttle has threads to spare")
}

/// Runs `publish` on a thread for each publisher.
fn publishers(publish: impl Fn(u64) + Clone + Send + 'static) -> Vec<JoinHandle<()>> {
    let start = |number| {
        let publish = publish.clone();
        thread::spawn(move || publish(number))
    };
    (0..PUBLISHERS).map(start).collect()
}

fn join(threads: Vec<JoinHandle<()>>) {
    for thread in threads {
        thread.join().expect("it did not panic");
    }
}

/// Drains to the end and checks the books.
fn drain(broker: &Broker) -> DrainReport {
    let report = broker.drain(FOREVER).expect("all of it was worked off");
    assert_balanced(broker);
    report
}

/// Who published it, and which of its messages it is.
type Sent = (u64, u64);

/// A subscription that writes down its first attempts.
fn log(topic: &Topic<Sent>, name: &str) -> Log<Sent> {
    let log = Log::new();
    let firsts = log.clone();
    let subscription = topic.subscribe(name, move |delivery| {
        firsts.push(*delivery.payload());
        Ok(())
    });
    subscription.unwrap().detach();
    log
}

/// What one publisher sent comes in the order in which it was sent.
fn assert_in_order(firsts: &[Sent]) {
    for publisher in 0..PUBLISHERS {
        let of = firsts.iter().filter(|(from, _)| *from == publisher);
        assert!(of.is_sorted_by(|(_, a), (_, b)| a < b), "{firsts:?}");
    }
}

#[test]
fn fan_out() {
    explore(|| {
        let broker = broker();
        let topics = ["a", "b"].map(|name| broker.topic(name).open().unwrap());
        let logs = [
            log(&topics[0], "x"),
            log(&topics[0], "y"),
            log(&topics[1], "x"),
        ];
        join(publishers(move |publisher| {
            for number in 0..2 {
                topics[0].publish((publisher, number)).unwrap();
            }
            topics[1].publish((publisher, 0)).unwrap();
        }));
        let report = drain(&broker);
        assert_eq!((report.published, report.delivered), (12, 20));
        let [x, y, of_b] = logs.map(|log| log.take());
        assert_in_order(&x);
        assert_eq!(x, y, "one order for all subscriptions of a topic");
        assert_eq!((x.len(), of_b.len()), (8, 4));
    });
}
