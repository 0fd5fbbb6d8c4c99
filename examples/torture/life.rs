//! One broker, from its birth to its end, and everything that happens to it.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle, sleep};
use std::time::{Duration, Instant};

use fastrand::Rng;
use millstream::dead_letters::DeadLetterOverflow;
use millstream::{
    Batched, Broker, Histograms, Idle, LaneFull, NoSubscribers, Overflow, Subscription,
};

use crate::actors;
use crate::asker;
#[cfg(feature = "async")]
use crate::awaiter;
use crate::crowd::{Crowd, Style};
use crate::end::End;
use crate::faults::{Fault, Faults};
use crate::gates;
#[cfg(feature = "log")]
use crate::keeper;
use crate::ledger::{Ledger, Offer, PINNED, Terms};
use crate::meddler::Meddler;
use crate::partitions::{self, Split};
use crate::patterns;
use crate::process;
use crate::puller;
use crate::shot::Shot;
use crate::source::Source;
use crate::temper::{Latch, Temper};

/// Messages that may wait in the first topic.
const RIVER: usize = 8_192;
const EVENTS: usize = 1 << 16;
/// What a subscription takes once it is active, beside its deliveries.
const LANE: usize = 90 << 10;
/// Subscriptions of a handful of deliveries that come and go.
const PASSING: usize = 48;
/// Our own books.
const OURS: usize = 8 << 20;

/// Where the broker is, until it is dropped.
#[derive(Default)]
pub struct Slot(Mutex<Option<Broker>>);

impl Slot {
    pub fn broker(&self) -> Option<Broker> {
        self.0.lock().expect("nothing panics in here").clone()
    }

    pub fn take(&self) -> Option<Broker> {
        self.0.lock().expect("nothing panics in here").take()
    }
}

/// A thread that makes trouble.
pub struct Actor {
    name: String,
    beats: AtomicU64,
    done: AtomicBool,
}

impl Actor {
    /// Asked before each of its deeds.
    pub fn goes_on(&self, life: &Life) -> bool {
        self.beats.fetch_add(1, Relaxed);
        !life.over.load(Relaxed)
    }
}

/// A broker and what there is around it.
pub struct Life {
    pub number: u64,
    pub faults: Faults,
    pub end: End,
    pub slot: Arc<Slot>,
    /// The first one is the river.
    pub ledgers: Vec<Arc<Ledger>>,
    /// Of topics that come and go.
    pub short: Arc<Mutex<Vec<Arc<Ledger>>>>,
    pub over: AtomicBool,
    /// Meddlers may begin the drain.
    pub ending: Arc<AtomicBool>,
    pub latch: Arc<Latch>,
    /// Subscriptions of the last topic.
    pub crowds: Mutex<Vec<Crowd>>,
    pub workers: usize,
    idle: Idle,
    actors: Mutex<Vec<Arc<Actor>>>,
    /// Bytes on the heap before it.
    base: i64,
    lanes: AtomicU64,
}

impl fmt::Display for Life {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            number,
            workers,
            idle,
            end,
            faults,
            ..
        } = self;
        let topics = self.ledgers.len();
        write!(
            f,
            "life {number}: {workers} workers ({idle:?}), {topics} topics, {end}; {faults}"
        )
    }
}

impl Life {
    /// Makes a broker with its topics.
    pub fn begin(number: u64, random: &mut Rng, faults: Faults) -> Arc<Self> {
        let base = process::heap_bytes();
        let workers = random.usize(3..=6);
        let idle = if random.u32(..4) == 0 {
            Idle::Spin
        } else {
            Idle::Park
        };
        let histograms = if random.u32(..4) == 0 {
            Histograms::Off
        } else {
            Histograms::On
        };
        let builder = Broker::builder()
            .workers(workers)
            .idle(idle)
            .histograms(histograms)
            .event_buffer(if random.bool() { EVENTS } else { 64 });
        // The second call must have no effect.
        #[cfg(feature = "async")]
        let builder = match random.bool() {
            true => builder.around_polls(|poll| (0..2).for_each(|_| poll())),
            false => builder,
        };
        let broker = builder.build().expect("the system has threads to spare");
        let mut life = Self {
            number,
            faults,
            end: End::any(random, faults),
            slot: Arc::new(Slot(Mutex::new(Some(broker.clone())))),
            ledgers: Vec::new(),
            short: Arc::default(),
            over: AtomicBool::new(false),
            ending: Arc::default(),
            latch: Arc::default(),
            crowds: Mutex::default(),
            workers,
            idle,
            actors: Mutex::default(),
            base,
            lanes: AtomicU64::new(0),
        };
        for number in 0..random.u32(3..=6) {
            let mut terms = life.terms(random);
            let name = match number {
                0 => "river".to_owned(),
                n => format!("topic.{n}"),
            };
            if number == 0 {
                terms.capacity = RIVER;
                terms.overflow = Overflow::Block {
                    timeout: Duration::from_millis(20),
                };
                terms.expires = false;
            }
            if number == 1 && faults.has(Fault::Full) {
                terms.capacity = random.usize(1..16);
            }
            terms.split = (life.faults.has(Fault::Partitions) && random.bool())
                .then(|| Split::any(terms.capacity, random));
            let ledger = Ledger::open(&broker, &name, number, terms);
            life.ledgers
                .push(ledger.expect("a new broker opens topics"));
        }
        if life.has_crowds() {
            let mut terms = life.terms(random);
            terms.expires = false;
            let number = life.ledgers.len() as u32;
            let ledger = Ledger::open(&broker, "keyed", number, terms);
            life.ledgers
                .push(ledger.expect("a new broker opens topics"));
        }
        Arc::new(life)
    }

    pub fn has_crowds(&self) -> bool {
        self.faults.has(Fault::Order) || self.faults.has(Fault::Groups)
    }

    /// The topic of messages with keys, if there is one.
    pub fn keyed(&self) -> Option<&Arc<Ledger>> {
        self.ledgers.last().filter(|_| self.has_crowds())
    }

    /// One in eight is long enough for what builds up.
    pub fn is_long(&self) -> bool {
        self.number % 8 == 7
    }

    pub fn river(&self) -> &Arc<Ledger> {
        &self.ledgers[0]
    }

    pub fn terms(&self, random: &mut Rng) -> Terms {
        let storm = self.faults.has(Fault::Retries);
        let delay = random.u64(if storm { 0..300 } else { 1_000..5_000 });
        Terms {
            capacity: [1, 16, 64, 1_024][random.usize(..4)],
            overflow: match random.u32(..4) {
                0 => Overflow::Reject,
                1 => Overflow::Block {
                    timeout: Duration::from_millis(random.u64(..20)),
                },
                2 => Overflow::DropOldest,
                _ => Overflow::DropNewest,
            },
            no_subscribers: match random.u32(..4) {
                0 => NoSubscribers::Retain,
                1 => NoSubscribers::Reject,
                _ => NoSubscribers::Discard,
            },
            letters: [1, 64, 1_024][random.usize(..3)],
            letter_overflow: match random.bool() {
                true => DeadLetterOverflow::EvictOldest,
                false => DeadLetterOverflow::EvictNewest,
            },
            expires: self.faults.has(Fault::Expiry) && random.u32(..3) == 0,
            weight_limit: (random.u32(..3) == 0).then(|| random.u64(Shot::HEAVIEST..256)),
            dedups: random.u32(..3) == 0,
            retain: (random.u32(..3) == 0).then(|| (random.usize(1..100), random.bool())),
            max_attempts: random.u32(1..=5),
            delay: Duration::from_micros(delay),
            hostile: self.faults.has(Fault::Hooks) && random.bool(),
            split: None,
        }
    }

    /// The subscriptions that are there from the first message to the last.
    pub fn subscribe(&self, random: &mut Rng) -> Vec<Subscription> {
        let mut subscriptions = Vec::new();
        if let Some(ledger) = self.keyed() {
            for style in Style::all(self.faults, random) {
                self.lanes
                    .fetch_add((style.capacity * PINNED + LANE) as u64, Relaxed);
                let crowd = Crowd::open(ledger, style, random);
                let mut crowds = self.crowds.lock().expect("nothing panics in here");
                crowds.push(crowd.expect("a new topic takes subscriptions"));
            }
        }
        for (at, ledger) in self.ledgers.iter().enumerate() {
            let mut tempers: Vec<_> = match at {
                0 => (0..4).map(|_| Temper::Calm).collect(),
                _ => (0..random.usize(..=4))
                    .map(|_| self.temper(at, random))
                    .collect(),
            };
            if at == 1 && self.faults.has(Fault::Stuck) {
                // One, or as many as there are workers: then all stands still, which
                // is no life for long.
                let all = random.bool() && !self.is_long();
                let count = if all { self.workers } else { 1 };
                tempers.extend((0..count).map(|_| Temper::Stuck(Arc::clone(&self.latch))));
            }
            for (number, temper) in tempers.into_iter().enumerate() {
                let offer = offer(number, temper, random);
                self.lanes
                    .fetch_add((offer.capacity * PINNED + LANE) as u64, Relaxed);
                let made = ledger.subscribe(offer, random);
                subscriptions.push(made.expect("a new topic takes subscriptions").0);
            }
        }
        subscriptions
    }

    fn temper(&self, at: usize, random: &mut Rng) -> Temper {
        let has = |fault| self.faults.has(fault);
        match random.u32(..8) {
            0 if has(Fault::Slow) => Temper::Slow,
            1 | 2 if has(Fault::Cycles) => {
                // Round and round, never into the river.
                let next = at % (self.ledgers.len() - 1) + 1;
                Temper::Relay(Source::new(&self.ledgers[next]))
            }
            3 | 4 if has(Fault::Meddling) => Temper::Meddler(Box::new(Meddler {
                ledger: Arc::clone(&self.ledgers[at]),
                broker: Arc::clone(&self.slot),
                end: Arc::clone(&self.ending),
            })),
            5.. if has(Fault::Errors) || has(Fault::Panics) => Temper::Failing {
                of_1000: [10, 500, 1_000][random.usize(..3)],
                panics: has(Fault::Panics),
            },
            _ => Temper::Calm,
        }
    }

    /// Starts the threads that make trouble.
    pub fn start(self: &Arc<Self>, random: &mut Rng) -> Vec<JoinHandle<()>> {
        type Deed = fn(&Life, &Actor, Rng);
        let casts: &[(&str, usize, Option<Fault>, Deed)] = &[
            ("river", 1, None, actors::river),
            ("publisher", 2, None, actors::publisher),
            ("flood", 16, Some(Fault::Full), actors::flood),
            ("swapper", 2, Some(Fault::Swaps), actors::swapper),
            ("churner", 2, Some(Fault::Churn), actors::churner),
            ("opener", 1, Some(Fault::Topics), actors::opener),
            ("keyed", 2, None, actors::keyed),
            ("asker", 1, None, asker::asker),
            ("musterer", 1, None, actors::musterer),
            ("redriver", 1, Some(Fault::Redrive), actors::redriver),
            ("splitter", 1, Some(Fault::Partitions), partitions::splitter),
            ("follower", 2, Some(Fault::Patterns), patterns::follower),
            #[cfg(feature = "async")]
            ("awaiter", 1, Some(Fault::Async), awaiter::awaiter),
            ("puller", 2, Some(Fault::Pull), puller::puller),
            #[cfg(feature = "log")]
            ("keeper", 1, Some(Fault::Log), keeper::keeper),
            ("warden", 1, Some(Fault::Gates), gates::warden),
            ("stopper", 1, Some(Fault::Stop), actors::stopper),
        ];
        let mut handles = Vec::new();
        for &(role, count, fault, deed) in casts {
            if fault.is_some_and(|fault| !self.faults.has(fault)) {
                continue;
            }
            for number in 0..count {
                let actor = Arc::new(Actor {
                    name: format!("{role}-{number}"),
                    beats: AtomicU64::new(0),
                    done: AtomicBool::new(false),
                });
                self.actors
                    .lock()
                    .expect("nothing panics in here")
                    .push(Arc::clone(&actor));
                let (life, random) = (Arc::clone(self), random.fork());
                let thread = thread::Builder::new().name(actor.name.clone());
                let handle = thread.spawn(move || {
                    deed(&life, &actor, random);
                    actor.done.store(true, Relaxed);
                });
                handles.push(handle.expect("the system has threads to spare"));
            }
        }
        handles
    }

    /// The threads that have not ended, and how far they had come.
    pub fn silent(&self) -> Vec<String> {
        let actors = self.actors.lock().expect("nothing panics in here");
        let there = actors.iter().filter(|actor| !actor.done.load(Relaxed));
        there
            .map(|actor| {
                format!(
                    "{} is there after {} deeds",
                    actor.name,
                    actor.beats.load(Relaxed)
                )
            })
            .collect()
    }

    /// The most that all this can take, computed from what it was given.
    pub fn memory_bound(&self) -> i64 {
        let topics: usize = self.ledgers.iter().map(|ledger| ledger.bound()).sum();
        let lanes = self.lanes.load(Relaxed) as usize;
        let kinds = 1 + usize::from(self.faults.has(Fault::Patterns));
        let passing = kinds * PASSING * (LANE + 200 * PINNED);
        let events = EVENTS * (128 + 64 * 8);
        self.base + (topics + lanes + passing + events + OURS) as i64
    }
}

fn offer(number: usize, temper: Temper, random: &mut Rng) -> Offer {
    let dawdles = matches!(temper, Temper::Slow | Temper::Stuck(_));
    let capacity = match temper {
        Temper::Slow | Temper::Stuck(_) => 16,
        Temper::Failing { .. } => [64, 1_024][random.usize(..2)],
        _ => [1, 64, 1_024][random.usize(..3)],
    };
    Offer {
        name: format!("lane-{number}"),
        capacity,
        when_full: match random.u32(..6) {
            0 => LaneFull::DropOldest,
            1 => LaneFull::DropNewest,
            2 => LaneFull::DeadLetter,
            // Nobody may hold a topic back for seconds.
            _ if dawdles => LaneFull::DropNewest,
            _ => LaneFull::Wait,
        },
        batches: (random.u32(..3) == 0).then(|| Batched::of(capacity.min(32))),
        temper,
        lasting: true,
    }
}

/// Waits while the trouble goes on.
pub fn last(life: &Life, random: &mut Rng) {
    let most_ms = if life.is_long() { 15_000 } else { 3_000 };
    let time = Duration::from_millis(random.u64(most_ms / 3..most_ms));
    let began = Instant::now();
    while began.elapsed() < time && crate::verdict::failures() == 0 {
        sleep(Duration::from_millis(10));
    }
    life.ending
        .store(matches!(life.end, End::DrainInside), Relaxed);
}
