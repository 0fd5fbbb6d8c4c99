//! The whole engine, with its threads, under schedulers that choose what runs next:
//! one at random, and one by PCT (Burckhardt and others, ASPLOS 2010), which finds a
//! bug of few preemptions with a known probability. A scenario passes if it comes
//! to its end by every schedule, and its books, counts and orders are right there.
//!
//! - `cargo shuttle [scenario]` runs the same schedules every time, and
//!   `MILLSTREAM_SEED=fresh` (or a number) others.
//! - A schedule that fails is printed; `MILLSTREAM_SCHEDULE="<it>" cargo shuttle
//!   <scenario>` runs that one and no other.
//! - `MILLSTREAM_SCHEDULES=<number>` runs so many by each scheduler.
//!
//! What these can't show: anything about the order of memory, because shuttle's
//! atomics are sequentially consistent and its fences do nothing (that is what
//! the models in `loom-tests/` are for); the insides of the containers, of which
//! every operation is one step here; and what takes longer than a scenario.
//!
//! Each of these breaks of the shipped source was tried by hand, and failed:
//!
//! | break | a scenario that fails |
//! |---|---|
//! | a publish rings nobody, or only a topic that is idle | `the_last_handles_go_inside_a_handler` |
//! | a turn that made room wakes no publisher | `handlers_that_publish_into_each_others_full_topic` |
//! | a close wakes no publisher | `a_drain_turns_waiting_publishers_away_at_once` |
//! | who waits for room looks before it counts itself in | `a_drain_meets_publishers_that_wait_for_room` |
//! | room in a lane rings no topic | `the_oldest_make_room` |
//! | a handler waits for room | `handlers_that_publish_into_each_others_full_topic` |
//! | a dispatcher, or a lane of batches, forgets its linger | `strategies_are_swapped_while_messages_wait` |
//! | a buffer forgets its linger | `buffers_are_flushed_by_their_publisher_and_by_workers` |
//! | a swap rings no topic | `a_batch_goes_when_it_is_full_or_no_longer_wanted` |
//! | what is newer goes first | `fan_out` |
//! | a lane that was notified while it ran is forgotten | `messages_meet_the_end_of_the_only_subscription` |
//! | a worker that found work wakes no successor | `fan_out` |
//! | nobody is told that a worker came to rest | `retries_meet_an_unsubscribe_and_a_drain` |
//! | a new deadline wakes no timer | `a_drain_meets_a_retry_that_is_just_due` |
//! | an unsubscribe does not wait | `subscriptions_end_while_deliveries_run` |
//! | a lane that is cancelled keeps what it has | `subscriptions_end_inside_handlers` |
//! | a letter is redriven twice | `letters_are_redriven_into_a_lane_that_is_full_or_ends` |
//! | new partitions go ahead of the old ones | `the_number_of_partitions_changes_while_keyed_messages_wait` |
//! | events ring no observer | `observers_come_and_go` |
//! | what was redriven behind a letter that fails again is not looked for | `keys_wait_for_their_retries_and_return_from_the_dead_letters_in_order` |
//! | nobody looks after what workers have lent | `a_handler_that_waits_delays_no_other_subscription` |
//! | a publish that waits for the rate has nobody called | `publishers_wait_for_the_rate` |
//! | a slot that goes schedules no lane | `members_come_and_go` |
//! | who puts a letter down calls no subscriber | `letters_are_handed_out_while_they_are_redriven_purged_and_evicted` |
//! | a permit that comes back is offered to nobody, unused ones do not come back, or a lane that ends keeps its own | `lanes_that_share_a_limit_get_to_their_end_and_give_all_permits_back` |
//! | a resume calls no lane | `pauses_come_and_go_while_messages_come_and_receivers_wait` |
//! | a dispatcher that finds nobody gives the places of an earlier part back | `one_that_comes_and_goes_at_once_gives_no_place_back_twice` |
#![cfg(millstream_shuttle)]

mod changes;
mod ends;
mod explore;
mod flow;
mod full;
mod gates;
#[path = "../harness/mod.rs"]
mod harness;
mod keys;
mod kinds;
mod late;
mod letters;
mod once;
mod requests;
mod settle;
mod side;
mod timed;
mod weigh;

use std::time::Duration;

use harness::{Log, assert_balanced};
use millstream::metrics::DrainReport;
use millstream::{Broker, Delivery, Histograms, Nack, Subscription, Topic};
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
