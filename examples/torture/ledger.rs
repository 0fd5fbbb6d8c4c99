//! One topic, and all that we know of it ourselves.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fastrand::Rng;
use millstream::dead_letters::DeadLetterOverflow;
use millstream::error::{OpenError, SubscribeError};
use millstream::metrics::TopicMetrics;
use millstream::{
    Backoff, Batched, Broker, Dedup, LaneFull, NoSubscribers, OnExpired, Overflow, Subscription,
    Topic, Tracker,
};

use crate::partitions::{self, Split};
use crate::shot::Shot;
use crate::temper::{Handler, Temper};
use crate::verdict::{check, fail, same};
use crate::witness::{Counted, Promise, Seat, Witness};

/// How a topic is opened.
#[derive(Clone, Debug)]
pub struct Terms {
    pub capacity: usize,
    pub overflow: Overflow,
    pub no_subscribers: NoSubscribers,
    pub letters: usize,
    pub letter_overflow: DeadLetterOverflow,
    /// Messages may expire.
    pub expires: bool,
    /// How much its messages may weigh, if it weighs them.
    pub weight_limit: Option<u64>,
    /// Messages may have dedup ids.
    pub dedups: bool,
    /// How many messages it keeps for subscriptions that come late, if it does, and whether those
    /// are the last of each key.
    pub retain: Option<(usize, bool)>,
    pub max_attempts: u32,
    /// The shortest delay of a retry.
    pub delay: Duration,
    /// Its retry policies may panic.
    pub hostile: bool,
    pub split: Option<Split>,
}

/// Of a subscription.
pub struct Offer {
    pub name: String,
    pub capacity: usize,
    pub when_full: LaneFull,
    pub batches: Option<Batched>,
    pub temper: Temper,
    /// It is there before the first message.
    pub lasting: bool,
}

/// Ids that a topic remembers: far more than come between two publishes of one.
const DEDUP_IDS: usize = 8_192;
/// Trackers that are remembered.
const MOST_TRACKED: usize = 4_096;

/// A topic and our own books of it.
pub struct Ledger {
    pub number: u32,
    pub terms: Terms,
    topic: Mutex<Option<Topic<Shot>>>,
    pub accepted: AtomicU64,
    pub refused: AtomicU64,
    pub duplicates: AtomicU64,
    /// Messages, as the receipts tell.
    pub dropped: AtomicU64,
    /// The receipts have not told everything.
    pub unsure: AtomicBool,
    /// Letters that we have taken out of its store.
    pub purged: AtomicU64,
    pub redriven: AtomicU64,
    streams: AtomicU32,
    /// The last accepted sequence of each stream.
    ends: Mutex<Vec<u64>>,
    slots: Mutex<Vec<Arc<Seat>>>,
    /// Subscriptions made by handlers.
    pub guests: Mutex<Vec<(Subscription, Arc<Seat>)>>,
    /// Messages whose end their publishers want to know.
    tracked: Mutex<Vec<(Tracker, u64)>>,
}

impl Ledger {
    pub fn open(
        broker: &Broker,
        name: &str,
        number: u32,
        terms: Terms,
    ) -> Result<Arc<Self>, OpenError> {
        let builder = broker
            .topic::<Shot>(name)
            .capacity(terms.capacity)
            .overflow(terms.overflow)
            .no_subscribers(terms.no_subscribers)
            .dead_letter_capacity(terms.letters)
            .dead_letter_overflow(terms.letter_overflow)
            .retry(Backoff::fixed(terms.delay).max_attempts(terms.max_attempts));
        let builder = match terms.expires {
            true => builder
                .ttl(Duration::from_millis(30))
                .on_expired(match number % 2 {
                    0 => OnExpired::Drop,
                    _ => OnExpired::DeadLetter,
                }),
            false => builder,
        };
        let builder = match terms.weight_limit {
            Some(limit) => builder.weight_limit(limit, Shot::weight),
            None => builder,
        };
        let builder = match terms.dedups {
            true => builder.dedup(Dedup::window(Duration::from_secs(3_600)).ids(DEDUP_IDS)),
            false => builder,
        };
        let builder = match terms.retain {
            Some((keys, true)) => builder.retain_last_per_key(keys),
            Some((messages, false)) => builder.retain_last(messages),
            None => builder,
        };
        let builder = match terms.split {
            Some(split) => builder.partitions(split.count).unkeyed(split.unkeyed),
            None => builder,
        };
        Ok(Arc::new(Self {
            number,
            terms,
            topic: Mutex::new(Some(builder.open()?)),
            accepted: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            duplicates: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            unsure: AtomicBool::new(false),
            purged: AtomicU64::new(0),
            redriven: AtomicU64::new(0),
            streams: AtomicU32::new(0),
            ends: Mutex::new(Vec::new()),
            slots: Mutex::new(Vec::new()),
            guests: Mutex::new(Vec::new()),
            tracked: Mutex::new(Vec::new()),
        }))
    }

    /// A handle; there until [`close`](Self::close).
    pub fn topic(&self) -> Topic<Shot> {
        let topic = self.topic.lock().expect("nothing panics in here");
        topic.clone().expect("nobody publishes to a closed ledger")
    }

    /// Gives up the handle. The counts stay.
    pub fn close(&self) {
        let topic = self.topic.lock().expect("nothing panics in here").take();
        drop(topic);
    }

    /// Remembers how many messages were accepted with a tracker. Their ends are looked at when all
    /// is over.
    pub fn track(&self, tracker: Option<Tracker>, accepted: usize) {
        let mut tracked = self.tracked.lock().expect("nothing panics in here");
        if tracked.len() < MOST_TRACKED {
            tracked.extend(tracker.map(|tracker| (tracker, accepted as u64)));
        }
    }

    /// Every message has ended. Its end may be told a moment after the books have it.
    fn compare_tracked(&self) {
        for (tracker, accepted) in &*self.tracked.lock().expect("nothing panics in here") {
            let outcome = tracker.wait_timeout(Duration::from_secs(5));
            check(
                outcome.is_ok_and(|outcome| outcome.ends() >= *accepted),
                "tracked",
                format_args!("{accepted} messages have not all ended: {tracker:?}"),
            );
        }
    }

    pub fn new_stream(&self) -> u32 {
        self.streams.fetch_add(1, Relaxed)
    }

    pub fn close_stream(&self, stream: u32, last: u64) {
        let mut ends = self.ends.lock().expect("nothing panics in here");
        let stream = stream as usize;
        if stream >= ends.len() {
            ends.resize(stream + 1, 0);
        }
        ends[stream] = last;
    }

    /// Subscribes, with a witness.
    pub fn subscribe(
        &self,
        offer: Offer,
        random: &mut Rng,
    ) -> Result<(Subscription, Arc<Seat>), SubscribeError> {
        let terms = &self.terms;
        let keeps_all = matches!(terms.overflow, Overflow::Reject | Overflow::Block { .. });
        let topic = self.topic();
        let promise = Promise {
            after: match (terms.no_subscribers, terms.retain) {
                (NoSubscribers::Retain, _) | (_, Some(_)) => 0,
                _ => topic.metrics().published,
            },
            gapless: offer.lasting
                && keeps_all
                && !terms.expires
                && offer.when_full == LaneFull::Wait,
            ..self.promise(offer.capacity)
        };
        let seat = Seat::new(offer.name, promise);
        let mut handler = Handler {
            witness: Witness::new(&seat),
            temper: offer.temper,
            random: random.fork(),
        };
        let builder = topic
            .subscription(&seat.name)
            .capacity(offer.capacity)
            .when_full(offer.when_full);
        let subscription = match offer.batches {
            None => builder.subscribe(move |delivery| handler.call(delivery)),
            Some(batches) => {
                builder.subscribe_batches(batches, move |batch| handler.call_batch(batch))
            }
        }?;
        self.join(&seat);
        Ok((subscription, seat))
    }

    /// What every subscription is promised here that has a lane of this capacity.
    pub fn promise(&self, capacity: usize) -> Promise {
        Promise {
            capacity,
            max_attempts: self.terms.max_attempts,
            delay: self.terms.delay,
            retried: !self.terms.expires && !self.terms.hostile,
            gapless: false,
            by_key: false,
            after: 0,
        }
    }

    /// The books of a subscription that several hands may share.
    pub fn seat(&self, name: String, capacity: usize) -> Arc<Seat> {
        let promise = Promise {
            retried: false,
            ..self.promise(capacity)
        };
        Seat::new(name, promise)
    }

    /// Counts with what is counted at this seat.
    pub fn join(&self, seat: &Arc<Seat>) {
        let mut slots = self.slots.lock().expect("nothing panics in here");
        slots.push(Arc::clone(seat));
    }

    /// At rest, or after the end: the engine's books against ours.
    pub fn compare(&self, metrics: &TopicMetrics, ended: bool) {
        if ended {
            self.compare_tracked();
        }
        let name = &metrics.name;
        if let Err(imbalance) = metrics.balance() {
            fail("conservation", imbalance);
        }
        let accepted = self.accepted.load(Relaxed);
        same(
            "accounts",
            format_args!("published to {name}"),
            metrics.published,
            accepted,
        );
        same(
            "accounts",
            format_args!("refused by {name}"),
            metrics.rejected,
            self.refused.load(Relaxed),
        );
        same(
            "accounts",
            format_args!("duplicates in {name}"),
            metrics.duplicates,
            self.duplicates.load(Relaxed),
        );
        let limit = self.terms.weight_limit.unwrap_or(0);
        let is_gone = metrics.queued > 0 || metrics.weight == 0;
        check(
            metrics.weight <= limit && is_gone,
            "weight",
            format_args!(
                "{} of {limit} in {name} for {}",
                metrics.weight, metrics.queued
            ),
        );
        let most = self.terms.retain.map_or(0, |(most, _)| most);
        check(
            metrics.retained <= most,
            "accounts",
            format_args!("{} of {most} kept by {name}", metrics.retained),
        );
        let dropped = self.dropped.load(Relaxed);
        // What expires while it is retained is dropped, too. And a publish that has made room, and
        // lost it to others again and again, is refused: no receipt tells what it dropped.
        let unsure = self.unsure.load(Relaxed) || self.refused.load(Relaxed) > 0;
        if ended || self.terms.expires || unsure {
            let enough = metrics.dropped >= dropped;
            check(
                enough,
                "accounts",
                format_args!("{name} dropped {} of {dropped}", metrics.dropped),
            );
        } else {
            same(
                "accounts",
                format_args!("dropped by {name}"),
                metrics.dropped,
                dropped,
            );
        }
        let counts = metrics.deliveries();
        let open = format_args!("open deliveries of {name}");
        same("accounts", open, counts.open(), 0);
        self.counted().compare(name, &counts);
        let (purged, redriven) = (self.purged.load(Relaxed), self.redriven.load(Relaxed));
        let left = metrics.letters_evicted + purged + redriven;
        let letters = metrics.dead_letters as u64 + left;
        let written = format_args!("letters of {name}");
        same("accounts", written, counts.dead_lettered, letters);
        same(
            "accounts",
            format_args!("redriven in {name}"),
            counts.redriven,
            redriven,
        );
        let slots = self.slots.lock().expect("nothing panics in here");
        for lane in &metrics.subscriptions {
            let is_gapless = |seat: &Arc<Seat>| seat.name == lane.name && seat.promise.gapless;
            if slots.iter().any(is_gapless) {
                let made = lane.counts.made - lane.counts.redriven;
                // When a broker is cut off, its lanes end one after the other.
                let fits = made == metrics.dispatched || ended && made < metrics.dispatched;
                check(
                    fits,
                    "accounts",
                    format_args!(
                        "{made} made for {name}/{}, {} dispatched",
                        lane.name, metrics.dispatched
                    ),
                );
            }
        }
    }

    /// After an end at which nothing was cut off: who was there from the beginning
    /// has seen all of every stream.
    pub fn compare_streams(&self) {
        let ends = self.ends.lock().expect("nothing panics in here");
        for seat in self.slots.lock().expect("nothing panics in here").iter() {
            if seat.promise.gapless && seat.gone.load(Relaxed) {
                let mut seen = seat.seen.lock().expect("nothing panics in here").clone();
                seen.resize(ends.len(), 0);
                same("at least once", &seat.name, seen, ends.clone());
            }
        }
    }

    /// Bytes that it can take at the most, beside its subscriptions.
    pub fn bound(&self) -> usize {
        let split = self.terms.split.map_or(0, |_| partitions::BOUND);
        let ids = if self.terms.dedups {
            DEDUP_IDS * 256
        } else {
            0
        };
        let kept = self.terms.retain.map_or(0, |(most, _)| most);
        let pinned = (self.terms.letters + kept) * PINNED;
        self.terms.capacity * QUEUED + pinned + split + ids
    }

    /// What its handlers have counted.
    pub fn counted(&self) -> Counted {
        let mut sum = Counted::default();
        for seat in self.slots.lock().expect("nothing panics in here").iter() {
            sum.add(seat);
        }
        sum
    }
}

/// A message in the queue with all that can be added to it, in a batch of its own.
const QUEUED: usize = 512;
/// A letter or a retry, with the batch of 64 that it may keep.
pub const PINNED: usize = 64 * (size_of::<Shot>() + 16) + 512;
