//! Subscriptions to patterns that come and go, as topics do, and who watches them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread::sleep;
use std::time::Duration;

use fastrand::Rng;
use millstream::error::SubscribeError;
use millstream::group::PatternGroup;
use millstream::{
    Broker, Delivery, LaneFull, Nack, Pattern, PatternSubscription, PatternSubscriptionBuilder,
    Unsubscribe, Unsubscribed,
};

use crate::faults::Fault;
use crate::ledger::Ledger;
use crate::life::{Actor, Life};
use crate::shot::Shot;
use crate::temper::{Handler, Temper};
use crate::verdict::{check, fail, same};
use crate::witness::{Counted, Promise, Seat, Witness};

/// Subscriptions that a follower has at a time.
const HELD: usize = 3;
const PATTERNS: [&str; 8] = [
    ">", "*", "topic.*", "topic.>", "*.1", "topic.2", "short.*", "river",
];
static NEXT: AtomicU32 = AtomicU32::new(0);

/// Subscribes, changes patterns and unsubscribes.
pub fn follower(life: &Life, actor: &Actor, mut random: Rng) {
    let mut held = Vec::new();
    while actor.goes_on(life) {
        if held.len() < HELD {
            let Some(broker) = life.slot.broker() else {
                break;
            };
            held.extend(Followed::begin(&broker, life, &mut random));
        } else {
            let at = random.usize(..held.len());
            let followed = &held[at];
            match random.u32(..8) {
                0..=2 => followed.add(&mut random),
                3..=5 => followed.remove(&mut random),
                6 => held.swap_remove(at).end(&mut random),
                // What it has is cancelled.
                _ => drop(held.swap_remove(at)),
            }
        }
        sleep(Duration::from_micros(random.u64(..6_000)));
    }
    // Some stay until the end of the broker.
    for followed in held {
        if random.bool() {
            followed.held.detach();
        }
    }
}

/// Who handles the deliveries, one call at a time in each topic.
enum Held {
    One(PatternSubscription),
    /// A group of one member.
    Group(PatternGroup<Shot>),
}

impl Held {
    fn begin(
        builder: PatternSubscriptionBuilder<'_, Shot>,
        eyes: Eyes,
        kind: u32,
    ) -> Result<Self, SubscribeError> {
        let call = move |delivery: &Delivery<'_, Shot>| eyes.call(delivery);
        match kind {
            0 => builder.subscribe(call).map(Self::One),
            1 => builder.concurrency(1).subscribe(call).map(Self::One),
            _ => {
                let group = builder.group()?;
                group.join("only", call)?.detach();
                Ok(Self::Group(group))
            }
        }
    }

    fn subscription(&self) -> &PatternSubscription {
        match self {
            Self::One(subscription) => subscription,
            Self::Group(group) => group.subscription(),
        }
    }

    fn unsubscribe(self, mode: Unsubscribe) -> Unsubscribed {
        match self {
            Self::One(subscription) => subscription.unsubscribe(mode),
            Self::Group(group) => group.unsubscribe(mode),
        }
    }

    fn detach(self) {
        match self {
            Self::One(subscription) => subscription.detach(),
            Self::Group(group) => group.detach(),
        }
    }
}

/// A subscription to patterns.
struct Followed {
    held: Held,
    notes: Arc<Notes>,
    lasting: Vec<Arc<Ledger>>,
}

impl Followed {
    /// `None`: the broker is at its end.
    fn begin(broker: &Broker, life: &Life, random: &mut Rng) -> Option<Self> {
        let name = format!("pattern-{}", NEXT.fetch_add(1, Relaxed));
        let patterns: Vec<_> = (0..random.u32(1..=2)).map(|_| any(random)).collect();
        let capacity = random.usize(1..64);
        let kind = random.u32(..3);
        let notes = Arc::new(Notes {
            capacity,
            by_key: kind > 0,
            fails: life.faults.has(Fault::Errors) && random.bool(),
            panics: life.faults.has(Fault::Panics),
            patterns: Mutex::new(patterns.iter().map(|text| parsed(text)).collect()),
            slots: Mutex::default(),
            gone: AtomicBool::new(false),
        });
        let eyes = Eyes {
            notes: Arc::clone(&notes),
            lasting: life.ledgers.clone(),
            short: Arc::clone(&life.short),
            handlers: Mutex::default(),
            random: Mutex::new(random.fork()),
        };
        let when_full = [
            LaneFull::Wait,
            LaneFull::DropOldest,
            LaneFull::DropNewest,
            LaneFull::DeadLetter,
        ];
        let mut builder = broker
            .subscription(&name)
            .capacity(capacity)
            .when_full(when_full[random.usize(..4)]);
        for pattern in patterns {
            builder = builder.matching(pattern);
        }
        let held = is_open(Held::begin(builder, eyes, kind))?;
        let followed = Self {
            held,
            notes,
            lasting: life.ledgers.clone(),
        };
        followed.compare_topics();
        Some(followed)
    }

    fn add(&self, random: &mut Rng) {
        let pattern = any(random);
        // Calls may come before `add` returns. Taken back if it is refused: after the
        // end none come.
        let was_known = !self.notes.know(pattern);
        let added = self.held.subscription().add(pattern);
        if is_open(added).is_some() {
            self.compare_topics();
        } else if !was_known {
            self.notes.forget(pattern);
        }
    }

    fn remove(&self, random: &mut Rng) {
        let pattern = any(random);
        let is_known = self.notes.patterns().contains(&parsed(pattern));
        let removed = self.held.subscription().remove(pattern, mode(random));
        let is_as_known = removed.is_ok() == is_known;
        check(
            is_as_known,
            "patterns",
            format_args!("{pattern}, known: {is_known}, removed: {removed:?}"),
        );
        self.notes.forget(pattern);
        self.compare_topics();
    }

    /// It has lanes in those topics that it matches. Those that come and go may be
    /// on their way.
    fn compare_topics(&self) {
        let patterns = self.notes.patterns();
        let topics = self.held.subscription().topics();
        for ledger in &self.lasting {
            let topic = ledger.topic();
            let is_there = topics.iter().any(|name| **name == *topic.name());
            let is_meant = patterns.iter().any(|known| known.matches(topic.name()));
            same(
                "patterns",
                format_args!("whether {patterns:?} have {}", topic.name()),
                is_there,
                is_meant,
            );
        }
    }

    fn end(self, random: &mut Rng) {
        let Unsubscribed::Ended(last) = self.held.unsubscribe(mode(random)) else {
            return fail("unsubscribe", "it did not wait outside of a handler");
        };
        let name = &last.name;
        check(
            self.notes.gone.load(Relaxed),
            "unsubscribe",
            format_args!("the handler of {name} is still there"),
        );
        // No call may come any more, for whatever topic.
        self.notes.patterns().clear();
        let open = format_args!("deliveries of {name} that ended");
        same("unsubscribe", open, last.counts.ended(), last.counts.made);
        let mut counted = Counted::default();
        for seat in lock(&self.notes.slots).iter() {
            seat.ended.store(true, Relaxed);
            counted.add(seat);
        }
        counted.compare(name, &last.counts);
    }
}

/// What is known of one subscription, for all to see.
struct Notes {
    capacity: usize,
    /// Only messages of one key come in order.
    by_key: bool,
    fails: bool,
    panics: bool,
    /// A call for a topic that none of them matches is one too many.
    patterns: Mutex<Vec<Pattern>>,
    /// One for each topic it was called for, and for each time that it has been given
    /// a lane there.
    slots: Mutex<Vec<Arc<Seat>>>,
    gone: AtomicBool,
}

impl Notes {
    fn patterns(&self) -> MutexGuard<'_, Vec<Pattern>> {
        lock(&self.patterns)
    }

    /// `false`: it is known already.
    fn know(&self, pattern: &str) -> bool {
        let (mut patterns, pattern) = (self.patterns(), parsed(pattern));
        let is_new = !patterns.contains(&pattern);
        if is_new {
            patterns.push(pattern);
        }
        is_new
    }

    /// What no pattern matches any more has ended. It may begin again.
    fn forget(&self, pattern: &str) {
        let mut patterns = self.patterns();
        patterns.retain(|known| known.as_str() != pattern);
        for seat in lock(&self.slots).iter() {
            if !patterns.iter().any(|known| known.matches(&seat.name)) {
                seat.ended.store(true, Relaxed);
            }
        }
    }
}

type Watched = (Arc<Seat>, Arc<Mutex<Handler>>);

/// The handler: a witness for each topic, because the calls for one are one at a time,
/// and those for several may be at once.
struct Eyes {
    notes: Arc<Notes>,
    lasting: Vec<Arc<Ledger>>,
    short: Arc<Mutex<Vec<Arc<Ledger>>>>,
    /// By the numbers of the topics.
    handlers: Mutex<HashMap<u32, Watched>>,
    random: Mutex<Rng>,
}

impl Eyes {
    fn call(&self, delivery: &Delivery<'_, Shot>) -> Result<(), Nack> {
        let topic = delivery.topic();
        let is_meant = (self.notes.patterns().iter()).any(|pattern| pattern.matches(topic));
        check(
            is_meant,
            "unsubscribe",
            format_args!("a call for {topic}, which no pattern matches"),
        );
        let Some(handler) = self.handler(delivery) else {
            fail("patterns", format_args!("a call for {topic}: whose is it?"));
            return Ok(());
        };
        let mut handler = match handler.try_lock() {
            Ok(handler) => handler,
            // Its last call has panicked.
            Err(TryLockError::Poisoned(panicked)) => panicked.into_inner(),
            Err(TryLockError::WouldBlock) => {
                fail("one at a time", format_args!("two calls for {topic}"));
                lock(&handler)
            }
        };
        handler.call(delivery)
    }

    fn handler(&self, delivery: &Delivery<'_, Shot>) -> Option<Arc<Mutex<Handler>>> {
        let number = delivery.payload().topic;
        let mut handlers = lock(&self.handlers);
        if let Some((seat, handler)) = handlers.get(&number)
            && !seat.ended.load(Relaxed)
        {
            return Some(Arc::clone(handler));
        }
        let ledger = self.ledger(number)?;
        let promise = Promise {
            by_key: self.notes.by_key,
            ..ledger.promise(self.notes.capacity)
        };
        let seat = Seat::new(delivery.topic().to_owned(), promise);
        ledger.join(&seat);
        lock(&self.notes.slots).push(Arc::clone(&seat));
        let temper = match self.notes.fails {
            true => Temper::Failing {
                of_1000: 300,
                panics: self.notes.panics,
            },
            false => Temper::Calm,
        };
        let handler = Arc::new(Mutex::new(Handler {
            witness: Witness::new(&seat),
            temper,
            random: lock(&self.random).fork(),
        }));
        handlers.insert(number, (seat, Arc::clone(&handler)));
        Some(handler)
    }

    /// Topics that come and go are listed before anything is published to them.
    fn ledger(&self, number: u32) -> Option<Arc<Ledger>> {
        let is_it = |ledger: &&Arc<Ledger>| ledger.number == number;
        let lasting = self.lasting.iter().find(is_it).cloned();
        lasting.or_else(|| lock(&self.short).iter().rev().find(is_it).cloned())
    }
}

impl Drop for Eyes {
    fn drop(&mut self) {
        self.notes.gone.store(true, Relaxed);
    }
}

/// Locks what may have been held when a handler panicked.
fn lock<V>(mutex: &Mutex<V>) -> MutexGuard<'_, V> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn any(random: &mut Rng) -> &'static str {
    PATTERNS[random.usize(..PATTERNS.len())]
}

fn parsed(pattern: &str) -> Pattern {
    pattern.parse().expect("all of ours are valid")
}

fn mode(random: &mut Rng) -> Unsubscribe {
    match random.u32(..3) {
        0 => Unsubscribe::Cancel,
        1 => Unsubscribe::DeadLetter,
        _ => Unsubscribe::Drain {
            timeout: Duration::from_millis(random.u64(..20)),
        },
    }
}

/// Nothing but the end of the broker refuses what we ask for.
fn is_open<V>(asked: Result<V, SubscribeError>) -> Option<V> {
    match asked {
        Ok(value) => return Some(value),
        Err(SubscribeError::Closed) => {}
        Err(error) => fail("patterns", error),
    }
    None
}
