//! Ten million messages from four publishers over three topics to seven
//! subscriptions, one call in a hundred failing: nothing is lost, nothing comes
//! twice but retries, and the books balance. (In a debug build fewer.)

mod harness;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use harness::{HANG, assert_balanced, assert_rests_balanced, manual, threaded};
use millstream::{
    Backoff, Batched, Immediate, Nack, OnExhausted, OnFailure, Overflow, Subscription, Topic,
};

const MESSAGES: u64 = if cfg!(debug_assertions) {
    200_000
} else {
    10_000_000
};
const PUBLISHERS: u64 = 4;
const TOPICS: u64 = 3;

/// A payload: who published it, and its number among theirs on this topic.
type Payload = (u8, u64);

/// What one subscription has seen.
#[derive(Default)]
struct Seen {
    acked: AtomicU64,
    failed: AtomicU64,
    sum: AtomicU64,
    /// Marks, one bit for each message: none may be acked twice.
    marks: Vec<AtomicU64>,
}

impl Seen {
    fn new() -> Arc<Self> {
        let words = MESSAGES / 64 + 1;
        Arc::new(Self {
            marks: (0..words).map(|_| AtomicU64::new(0)).collect(),
            ..Self::default()
        })
    }

    fn ack(&self, id: u64) {
        let bit = 1 << (id % 64);
        let before = self.marks[(id / 64) as usize].fetch_or(bit, Ordering::Relaxed);
        assert_eq!(before & bit, 0, "message {id} was acked twice");
        self.acked.fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(id, Ordering::Relaxed);
    }

    /// Whether the call fails: one in a hundred, each at its first attempt.
    fn fails(&self, id: u64, attempt: u32) -> bool {
        let fails = attempt == 1 && id % 100 == 17;
        if fails {
            self.failed.fetch_add(1, Ordering::Relaxed);
        }
        fails
    }
}

fn subscribe(topic: &Topic<Payload>, name: &str, seen: &Arc<Seen>) -> Subscription {
    let seen = Arc::clone(seen);
    // First attempts of one publisher come in the order of its publishes.
    let mut last = [None; PUBLISHERS as usize];
    let sub = topic.subscribe(name, move |d| {
        let (who, number) = *d.payload();
        if d.attempt() == 1 {
            let before = last[usize::from(who)].replace(number);
            assert!(before < Some(number), "{number} of {who} after {before:?}");
        }
        if seen.fails(d.id().get(), d.attempt()) {
            return Err(Nack::retry("one in a hundred"));
        }
        seen.ack(d.id().get());
        Ok(())
    });
    sub.unwrap()
}

fn subscribe_batches(topic: &Topic<Payload>, name: &str, seen: &Arc<Seen>) -> Subscription {
    let seen = Arc::clone(seen);
    let batches = Batched::of(128).linger(Duration::from_millis(1));
    let sub = topic
        .subscription(name)
        .subscribe_batches(batches, move |batch| {
            for (at, d) in batch.iter().enumerate() {
                if seen.fails(d.id().get(), d.attempt()) {
                    batch.nack(at, Nack::retry("one in a hundred"));
                } else {
                    seen.ack(d.id().get());
                }
            }
            Ok(())
        });
    sub.unwrap()
}

/// Publishes this publisher's share to the three topics in turn, one by one and
/// in batches.
fn publish(topics: &[Topic<Payload>], who: u8) -> [u64; TOPICS as usize] {
    let mut published = [0; TOPICS as usize];
    let share = MESSAGES / PUBLISHERS;
    let mut sent = 0;
    while sent < share {
        let turn = (sent / 16 % TOPICS) as usize;
        let number = published[turn];
        let count = if sent % 3 == 0 {
            16.min(share - sent)
        } else {
            1
        };
        if count == 1 {
            topics[turn].publish((who, number)).unwrap();
        } else {
            let batch = (number..number + count).map(|number| (who, number));
            topics[turn].publish_batch(batch).unwrap();
        }
        published[turn] += count;
        sent += count;
    }
    published
}

#[test]
fn nothing_is_lost_and_nothing_comes_twice_but_retries() {
    let broker = threaded(2);
    let topics: Vec<_> = ["one", "two", "three"]
        .into_iter()
        .map(|name| {
            let builder = broker
                .topic::<Payload>(name)
                .capacity(4_096)
                .lane_capacity(4_096);
            builder
                .overflow(Overflow::Block { timeout: HANG * 10 })
                .retry(Backoff::fixed(Duration::from_millis(1)))
                .open()
                .unwrap()
        })
        .collect();
    // Three, two and two; one of each topic's takes batches.
    let seen = [0, 0, 0, 1, 1, 2, 2].map(|topic| (Seen::new(), topic));
    let subs: Vec<_> = seen
        .iter()
        .enumerate()
        .map(|(at, (seen, topic))| {
            let name = format!("s{at}");
            match at {
                2 | 4 | 6 => subscribe_batches(&topics[*topic], &name, seen),
                _ => subscribe(&topics[*topic], &name, seen),
            }
        })
        .collect();
    let publishers: Vec<_> = (0..PUBLISHERS)
        .map(|who| {
            let topics = topics.clone();
            thread::spawn(move || publish(&topics, who as u8))
        })
        .collect();
    // Strategies are swapped under way.
    for round in 0..20 {
        let topic = &topics[round % 3];
        match round % 2 {
            0 => topic.set_strategy(Batched::of(64).linger(Duration::from_micros(200))),
            _ => topic.set_strategy(Immediate),
        }
        .unwrap();
        thread::yield_now();
    }
    let mut published = [0; TOPICS as usize];
    for publisher in publishers {
        let of = publisher.join().unwrap();
        published
            .iter_mut()
            .zip(of)
            .for_each(|(sum, of)| *sum += of);
    }
    assert_eq!(published.iter().sum::<u64>(), MESSAGES);

    assert!(broker.wait_until_idle(HANG * 4), "it never came to rest");
    let metrics = assert_rests_balanced(&broker);
    for ((seen, topic), sub) in seen.iter().zip(&subs) {
        let expected = published[*topic];
        let counts = sub.metrics().counts;
        assert_eq!(seen.acked.load(Ordering::Relaxed), expected);
        // Ids are contiguous from 1: with none twice, none is missing.
        let sum = expected * (expected + 1) / 2;
        assert_eq!(seen.sum.load(Ordering::Relaxed), sum);
        let failed = seen.failed.load(Ordering::Relaxed);
        assert!(failed >= expected / 101, "one in a hundred fails");
        assert_eq!((counts.made, counts.delivered), (expected, expected));
        assert_eq!((counts.failed, counts.retried), (failed, failed));
        assert_eq!(counts.attempts, expected + failed);
    }
    for (topic, published) in topics.iter().zip(published) {
        let counts = metrics.topic(topic.name()).unwrap();
        assert_eq!(
            (counts.published, counts.dispatched),
            (published, published)
        );
        assert_eq!(counts.dropped + counts.unrouted + counts.rejected, 0);
    }
}

/// A search of the store for each letter, or of the passed-over letters of its key, would take
/// minutes.
#[test]
fn purging_and_redriving_by_filter_cost_the_same_for_each_letter_however_many_there_are() {
    const LETTERS: u32 = if cfg!(debug_assertions) {
        200_000
    } else {
        1_000_000
    };
    let (broker, _clock) = manual();
    let room = LETTERS as usize;
    let topic = broker
        .topic::<u32>("t")
        .capacity(room)
        .lane_capacity(room)
        .dead_letter_capacity(room)
        .retry(Backoff::none())
        .open()
        .expect("opens");
    let keyed = topic.subscription("s").on_failure(OnFailure::BlockKey);
    let parking = keyed.on_exhausted(OnExhausted::ParkKey);
    let _s = parking
        .subscribe(|d| match d.generation() {
            0 => Err(Nack::dead_letter("no")),
            _ => Ok(()),
        })
        .expect("subscribes");
    for number in 0..LETTERS {
        let message = topic.message(number).key("the only one");
        message.publish().expect("there is room");
    }
    broker.run_until_idle();
    let letters = topic.dead_letters();
    let began = Instant::now();
    let purged = letters.purge(|letter| *letter.payload() >= LETTERS / 4 * 3);
    let redriven = letters.redrive(|letter| *letter.payload() >= LETTERS / 2);
    assert!(began.elapsed() < HANG);
    let quarter = LETTERS as usize / 4;
    assert_eq!((purged, redriven.redriven), (quarter, quarter));
    broker.run_until_idle();
    assert_eq!(letters.len(), 2 * quarter);
    assert_balanced(&broker);
}
