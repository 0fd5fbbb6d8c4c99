//! The whole engine, with its threads, under schedulers that choose what runs next.
//! Run them with `cargo shuttle`.
#![cfg(millstream_shuttle)]

mod ends;
mod explore;
mod flow;
#[path = "../harness/mod.rs"]
mod harness;
mod side;

use std::time::Duration;

use harness::{Log, assert_balanced};
use millstream::{Broker, Delivery, DrainReport, Histograms, Nack, Subscription, Topic};
use shuttle::thread::{self, JoinHandle};

const PUBLISHERS: u64 = 4;
/// A time that passes.
const SOON: Duration = Duration::from_millis(1);
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

/// A handler that writes down what it gets.
fn into(log: &Log<Sent>) -> impl FnMut(&Delivery<'_, Sent>) -> Result<(), Nack> + Send + 'static {
    let log = log.clone();
    move |delivery| {
        log.push(*delivery.payload());
        Ok(())
    }
}

/// A subscription, for as long as the broker lives, that writes down what it gets.
fn log(topic: &Topic<Sent>, name: &str) -> Log<Sent> {
    let log = Log::new();
    topic.subscribe(name, into(&log)).unwrap().detach();
    log
}

/// What one publisher sent comes in the order in which it was sent.
fn assert_in_order(firsts: &[Sent]) {
    for publisher in 0..PUBLISHERS {
        let of = firsts.iter().filter(|(from, _)| *from == publisher);
        assert!(of.is_sorted_by(|(_, a), (_, b)| a < b), "{firsts:?}");
    }
}
