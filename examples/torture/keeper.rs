//! A durable topic under load, in a store that is closed and opened again and again.
//!
//! It has a broker of its own beside the one that is tortured. Its subscription falls behind,
//! fails, panics and dawdles, and is cut off wherever it is. At the end every message that was
//! acknowledged has been handled, first attempts in order, and is read back as it was.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use fastrand::Rng;
use millstream::store::{Durability, Raw, Start, Store, StoreError};
use millstream::{
    Backoff, BatchReceipt, Broker, Delivery, Nack, Overflow, PublishError, Subscription, Topic,
};

use crate::end::SLACK;
use crate::faults::Fault;
use crate::life::{Actor, Life};
use crate::verdict::{check, fail, same};

/// Bytes of a file, so that there are many.
const SEGMENT: u64 = 64 << 10;
const PUBLISHERS: usize = 2;
/// The last attempt always succeeds.
const ATTEMPTS: u32 = 4;
/// Messages of a life, which are read back at its end.
const MOST: u64 = 100_000;

/// A directory of this life's own, which goes with it.
struct Directory(PathBuf);

impl Directory {
    fn of(life: &Life) -> Self {
        let name = format!("millstream-torture-{}-{}", std::process::id(), life.number);
        Self(std::env::temp_dir().join(name))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// What was promised and what was done.
#[derive(Default)]
struct Kept {
    /// The payloads that were acknowledged, with the ids that were told.
    acknowledged: Mutex<BTreeMap<u64, Option<u64>>>,
    /// Those that were handled to their end.
    handled: Mutex<BTreeSet<u64>>,
    payloads: AtomicU64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How a handler behaves.
#[derive(Clone, Copy)]
struct Mood {
    of_1000: u32,
    panics: bool,
    is_slow: bool,
}

/// Opens the store, has it used under load, and closes it, until the life is over.
pub fn keeper(life: &Life, actor: &Actor, mut random: Rng) {
    let (directory, kept) = (Directory::of(life), Arc::new(Kept::default()));
    let mood = Mood {
        of_1000: [0, 10, 300][random.usize(..3)] * u32::from(life.faults.has(Fault::Errors)),
        panics: life.faults.has(Fault::Panics),
        is_slow: life.faults.has(Fault::Slow),
    };
    while actor.goes_on(life) {
        let Some((broker, topic)) = open(&directory, &mut random) else {
            return;
        };
        let _billing = subscribe(&topic, &kept, mood, &mut random);
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            for _ in 0..PUBLISHERS {
                let random = random.fork();
                scope.spawn(|| publish(&topic, &kept, &is_over, random));
            }
            let time = Duration::from_millis(random.u64(20..600));
            let began = Instant::now();
            while began.elapsed() < time && actor.goes_on(life) {
                sleep(Duration::from_millis(1));
            }
            if random.bool() {
                // The broker ends under load. Otherwise its publishers do first.
                let _ = broker.drain(Duration::from_millis(random.u64(..20)));
            }
            is_over.store(true, Relaxed);
        });
    }
    finish(&directory, &kept, &mut random);
}

fn open(directory: &Directory, random: &mut Rng) -> Option<(Broker, Topic<Vec<u8>>)> {
    let began = Instant::now();
    let store = loop {
        let store = Store::builder(&directory.0).segment_size(SEGMENT).open();
        // A thread of the log may be about to let go of it, or a child that has yet to begin.
        let is_in_use = matches!(store, Err(StoreError::InUse { .. }));
        if !is_in_use || began.elapsed() > SLACK {
            break store;
        }
        sleep(Duration::from_millis(1));
    };
    let store = store.inspect_err(|error| fail("log", format_args!("no store: {error}")));
    let broker = Broker::builder().workers(random.usize(1..=2));
    let broker = broker.store(store.ok()?).build();
    let broker = broker.expect("the system has threads to spare");
    let topic = broker
        .topic::<Vec<u8>>("kept")
        .durable(Raw)
        .durability(Durability::Written)
        .capacity([1, 16, 256][random.usize(..3)])
        .overflow(Overflow::Block {
            timeout: Duration::from_millis(20),
        })
        .retry(Backoff::fixed(Duration::from_micros(random.u64(1..500))).max_attempts(ATTEMPTS))
        .open();
    let topic = topic.inspect_err(|error| fail("log", format_args!("no topic: {error}")));
    Some((broker, topic.ok()?))
}

fn publish(topic: &Topic<Vec<u8>>, kept: &Kept, is_over: &AtomicBool, mut random: Rng) {
    let payload = |random: &mut Rng| {
        let number = kept.payloads.fetch_add(1, Relaxed);
        let mut payload = number.to_le_bytes().to_vec();
        payload.resize(8 + random.usize(..200), 0x5a);
        (number, payload)
    };
    while !is_over.load(Relaxed) && kept.payloads.load(Relaxed) < MOST {
        let count = [1, 1, 7, 64][random.usize(..4)];
        let (numbers, payloads): (Vec<_>, Vec<_>) =
            (0..count).map(|_| payload(&mut random)).unzip();
        let published = match (count, random.bool()) {
            (1, true) => publish_one(topic, payloads),
            (1, false) => submit_one(topic, payloads),
            // Of one that is cut short it isn't told which were accepted.
            _ => match topic.publish_batch(payloads) {
                Ok(receipt) => Ok(ids(&receipt)),
                Err(partial) => Err(partial.error.is_closed()),
            },
        };
        if let Ok(first) = published {
            let ids = (0..).map(|at| Some(first? + at));
            lock(&kept.acknowledged).extend(numbers.into_iter().zip(ids));
        }
        if published == Err(true) {
            return;
        }
    }
}

/// The id of the first if the others follow it, or whether they were refused because the topic is
/// closed.
type Published = Result<Option<u64>, bool>;

/// The id of the first, unless others came in between.
fn ids(receipt: &BatchReceipt) -> Option<u64> {
    let (first, last) = (receipt.first()?.get(), receipt.last()?.get());
    (last - first + 1 == receipt.accepted() as u64).then_some(first)
}

fn publish_one(topic: &Topic<Vec<u8>>, payloads: Vec<Vec<u8>>) -> Published {
    let payload = payloads.into_iter().next().unwrap_or_default();
    let published = topic.publish(payload).map_err(|error| refused(&error))?;
    Ok(Some(published.id().get()))
}

fn submit_one(topic: &Topic<Vec<u8>>, payloads: Vec<Vec<u8>>) -> Published {
    let payload = payloads.into_iter().next().unwrap_or_default();
    let pending = topic.submit(payload).map_err(|error| refused(&error))?;
    let stored = pending.wait().map_err(|error| refused(&error))?;
    Ok(Some(stored.id().get()))
}

fn refused(error: &PublishError<Vec<u8>>) -> bool {
    let is_meant = error.is_full() || error.is_closed();
    check(is_meant, "log", format_args!("the store refuses: {error}"));
    error.is_closed()
}

fn subscribe(
    topic: &Topic<Vec<u8>>,
    kept: &Arc<Kept>,
    mood: Mood,
    random: &mut Rng,
) -> Option<Subscription> {
    let (kept, mut random, mut last) = (Arc::clone(kept), random.fork(), 0);
    let billing = topic
        .subscription("billing")
        .durable()
        .from(Start::Earliest);
    let billing = billing.capacity([1, 8, 64][random.usize(..3)]);
    let subscribed = billing.subscribe(move |delivery: &Delivery<'_, Vec<u8>>| {
        let id = delivery.id().get();
        if delivery.attempt() == 1 {
            let is_later = id > last;
            check(
                is_later,
                "order",
                format_args!("{id} after {last} from the log"),
            );
            last = id;
        }
        if mood.is_slow && random.u32(..500) == 0 {
            sleep(Duration::from_millis(random.u64(..50)));
        }
        if delivery.attempt() < ATTEMPTS && random.u32(..1_000) < mood.of_1000 {
            match mood.panics && random.bool() {
                // Unwinds like any panic, but without a word from the panic hook.
                true => std::panic::resume_unwind(Box::new("on purpose")),
                false => return Err(Nack::retry("on purpose")),
            }
        }
        lock(&kept.handled).insert(id);
        Ok(())
    });
    let refused = |error: &_| fail("log", format_args!("no subscription: {error}"));
    subscribed.inspect_err(refused).ok()
}

/// Opens the store for the last time, and holds it against what was promised.
fn finish(directory: &Directory, kept: &Arc<Kept>, random: &mut Rng) {
    let calm = Mood {
        of_1000: 0,
        panics: false,
        is_slow: false,
    };
    let Some((broker, topic)) = open(directory, random) else {
        return;
    };
    let _billing = subscribe(&topic, kept, calm, random);
    let is_idle = broker.wait_until_idle(SLACK);
    check(is_idle, "log", "the subscription does not catch up");
    let balanced = broker.metrics().balance();
    check(balanced.is_ok(), "log", format_args!("{balanced:?}"));
    same("log", "letters", topic.dead_letters().len(), 0);
    let acknowledged = lock(&kept.acknowledged);
    let handled = lock(&kept.handled);
    let Ok(records) = topic.read(Start::Earliest) else {
        return fail("log", "nothing can be read back");
    };
    let mut found = 0;
    let mut payloads = BTreeSet::new();
    for (next, record) in (1_u64..).zip(records) {
        let Ok(record) = record else {
            return fail("log", format_args!("{next} can't be read back"));
        };
        same("log", "the id of a record", record.id.get(), next);
        let payload = record.message.into_inner();
        let number = payload
            .first_chunk()
            .map_or(u64::MAX, |bytes| u64::from_le_bytes(*bytes));
        check(
            payloads.insert(number),
            "log",
            format_args!("{number} is stored twice"),
        );
        if let Some(told) = acknowledged.get(&number) {
            same("log", "the id of a message", next, told.unwrap_or(next));
            found += 1;
        }
        check(
            handled.contains(&next),
            "log",
            format_args!("{next} was never handled"),
        );
    }
    same("log", "messages read back", found, acknowledged.len());
}
