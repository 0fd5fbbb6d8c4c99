//! Who sees every call of one handler, and checks it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use millstream::Delivery;
use millstream::metrics::DeliveryCounts;

use crate::shot::Shot;
use crate::temper::Outcome;
use crate::verdict::{check, fail, same};
use crate::watch;

/// What one subscription was promised.
#[derive(Clone, Copy, Debug)]
pub struct Promise {
    pub capacity: usize,
    pub max_attempts: u32,
    /// No retry comes sooner after its failure.
    pub delay: Duration,
    /// A failure that may be retried is, at least until the attempts are used up.
    pub retried: bool,
    /// It was there before the first message, and nothing on its way is dropped:
    /// it sees all of every stream.
    pub gapless: bool,
    /// Several are handled at once, and only those of one key in order.
    pub by_key: bool,
    /// It came after the message with this id had been accepted.
    pub after: u64,
}

/// What we have counted of one subscription, for all to see.
pub struct Seat {
    pub name: String,
    pub promise: Promise,
    pub entries: AtomicU64,
    pub acks: AtomicU64,
    pub failures: AtomicU64,
    /// Failures that may have been laid at the broker's end instead.
    pub excused: AtomicU64,
    /// Retries may have been called back before their time.
    pub hastened: AtomicBool,
    /// No call may come any more.
    pub ended: AtomicBool,
    /// The handler has been dropped.
    pub gone: AtomicBool,
    busy: AtomicBool,
    /// The last sequence seen of each stream, or if it has no order, how many were;
    /// there once the handler is gone.
    pub seen: Mutex<Vec<u64>>,
}

impl Seat {
    pub fn new(name: String, promise: Promise) -> Arc<Self> {
        Arc::new(Self {
            name,
            promise,
            entries: AtomicU64::new(0),
            acks: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            excused: AtomicU64::new(0),
            hastened: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            gone: AtomicBool::new(false),
            busy: AtomicBool::new(false),
            seen: Mutex::new(Vec::new()),
        })
    }

    /// A call has begun, for one delivery or for several.
    pub fn begin(self: &Arc<Self>) -> Call {
        check(
            !self.ended.load(Relaxed),
            "unsubscribe",
            format_args!("{} was called after its end", self.name),
        );
        watch::RUNNING.fetch_add(1, Relaxed);
        Call {
            seat: Arc::clone(self),
        }
    }

    /// Looks at a delivery whose attempt begins.
    pub fn enter(&self, delivery: &Delivery<'_, Shot>) {
        let shot = delivery.payload();
        self.entries.fetch_add(1, Relaxed);
        if !shot.is_whole() {
            fail(
                "payloads",
                format_args!("{delivery:?} is not what was published"),
            );
        }
        let most = self.promise.max_attempts;
        if delivery.attempt() > most {
            fail("attempts", format_args!("{delivery:?} of {most}"));
        }
        // A letter that was redriven may be a predecessor's.
        if delivery.generation() == 0 && delivery.id().get() <= self.promise.after {
            fail("starts", format_args!("{delivery:?} was accepted before"));
        }
        if let Some(due) = shot.due
            && Instant::now() < due
        {
            fail("timers", format_args!("{delivery:?} came too early"));
        }
    }

    /// Counts what the handler is about to say.
    pub fn count(&self, outcome: &Outcome) {
        match outcome {
            Outcome::Ack => self.acks.fetch_add(1, Relaxed),
            Outcome::Requeue | Outcome::Snooze(_) => return,
            _ => self.failures.fetch_add(1, Relaxed),
        };
    }

    /// The engine says that this subscription has ended, with these counts.
    pub fn end(&self, last: &DeliveryCounts) {
        self.ended.store(true, Relaxed);
        let name = &self.name;
        check(
            self.gone.load(Relaxed),
            "unsubscribe",
            format_args!("the handler of {name} is still there"),
        );
        same(
            "unsubscribe",
            format_args!("deliveries of {name} that ended"),
            last.ended(),
            last.made,
        );
        let mut counted = Counted::default();
        counted.add(self);
        counted.compare(name, last);
    }
}

/// What our handlers have counted.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counted {
    entries: u64,
    acks: u64,
    failures: u64,
    excused: u64,
}

impl Counted {
    pub fn add(&mut self, seat: &Seat) {
        self.entries += seat.entries.load(Relaxed);
        self.acks += seat.acks.load(Relaxed);
        self.failures += seat.failures.load(Relaxed);
        self.excused += seat.excused.load(Relaxed);
    }

    pub fn add_all(&mut self, others: &Self) {
        self.entries += others.entries;
        self.acks += others.acks;
        self.failures += others.failures;
        self.excused += others.excused;
    }

    /// Holds them against the engine's, at rest.
    pub fn compare(&self, place: &str, engine: &DeliveryCounts) {
        same(
            "accounts",
            format_args!("attempts of {place}"),
            engine.attempts,
            self.entries,
        );
        same(
            "accounts",
            format_args!("acks of {place}"),
            engine.delivered,
            self.acks,
        );
        let least = self.failures.saturating_sub(self.excused);
        check(
            (least..=self.failures).contains(&engine.failed),
            "accounts",
            format_args!(
                "failures of {place}: the engine says {}, we counted {least} to {}",
                engine.failed, self.failures
            ),
        );
    }
}

/// A failed delivery that must come again.
struct Pending {
    attempt: u32,
    not_before: Instant,
}

/// Lives in the handler. When that is dropped it leaves its notes at the seat.
pub struct Witness {
    pub seat: Arc<Seat>,
    seen: Vec<u64>,
    /// Failures come again, so far as we know.
    retried: bool,
    /// By message and generation.
    pending: HashMap<(u64, u16), Pending>,
    /// Those that were put back or put off at their first attempt, and until when.
    put_off: HashMap<(u64, u16), Instant>,
}

impl Witness {
    pub fn new(seat: &Arc<Seat>) -> Self {
        Self {
            seat: Arc::clone(seat),
            seen: Vec::new(),
            retried: seat.promise.retried,
            pending: HashMap::new(),
            put_off: HashMap::new(),
        }
    }

    /// A call has begun, for one delivery or for several.
    pub fn begin(&self) -> Call {
        let call = self.seat.begin();
        check(
            !self.seat.busy.swap(true, Relaxed),
            "one at a time",
            format_args!("two calls of {}", self.seat.name),
        );
        call
    }

    /// Looks at a delivery whose attempt begins.
    pub fn enter(&mut self, delivery: &Delivery<'_, Shot>) {
        self.seat.enter(delivery);
        let key = (delivery.id().get(), delivery.generation());
        if delivery.attempt() > 1 {
            self.enter_again(delivery);
        } else if let Some(not_before) = self.put_off.remove(&key) {
            // It was looked at before.
            self.check_time(delivery, not_before);
        } else if delivery.generation() == 0 && delivery.payload().due.is_none() {
            self.enter_first(delivery);
        }
    }

    fn enter_first(&mut self, delivery: &Delivery<'_, Shot>) {
        let shot = delivery.payload();
        let stream = shot.stream as usize;
        if stream >= self.seen.len() {
            self.seen.resize(stream + 1, 0);
        }
        if self.seat.promise.by_key && delivery.key().is_none() {
            return;
        }
        if !shot.in_order {
            self.seen[stream] += 1;
            return;
        }
        let last = std::mem::replace(&mut self.seen[stream], shot.sequence);
        if shot.sequence <= last {
            fail(
                "order",
                format_args!("{delivery:?}: {stream}#{} after #{last}", shot.sequence),
            );
        } else if self.seat.promise.gapless && shot.sequence != last + 1 {
            fail(
                "gaps",
                format_args!("{delivery:?}: {stream}#{} after #{last}", shot.sequence),
            );
        }
    }

    fn enter_again(&mut self, delivery: &Delivery<'_, Shot>) {
        if !self.retried {
            return;
        }
        let key = (delivery.id().get(), delivery.generation());
        match self.pending.remove(&key) {
            None => fail(
                "retries",
                format_args!("{delivery:?} had not failed, or came twice"),
            ),
            Some(pending) => {
                same(
                    "retries",
                    format_args!("{delivery:?}"),
                    delivery.attempt(),
                    pending.attempt + 1,
                );
                self.check_time(delivery, pending.not_before);
            }
        }
    }

    /// Notes what the handler is about to say.
    pub fn leave(&mut self, delivery: &Delivery<'_, Shot>, outcome: &Outcome) {
        let promise = self.seat.promise;
        self.seat.count(outcome);
        match outcome {
            Outcome::Requeue => return self.put_off(delivery, Duration::ZERO),
            Outcome::Snooze(delay) => return self.put_off(delivery, *delay),
            _ => {}
        }
        let Some(delay) = outcome.delay(promise.delay) else {
            return;
        };
        if !self.retried || delivery.attempt() >= promise.max_attempts {
            return;
        }
        let pending = Pending {
            attempt: delivery.attempt(),
            not_before: Instant::now() + delay,
        };
        let key = (delivery.id().get(), delivery.generation());
        self.pending.insert(key, pending);
        if self.pending.len() > promise.capacity {
            fail(
                "retries",
                format_args!(
                    "{} has more of them than places: some never came",
                    self.seat.name
                ),
            );
            self.pending.clear();
        }
    }

    fn check_time(&self, delivery: &Delivery<'_, Shot>, not_before: Instant) {
        let hastened = self.seat.hastened.load(Relaxed);
        check(
            hastened || Instant::now() >= not_before,
            "timers",
            format_args!("{delivery:?} came again too early"),
        );
    }

    /// It comes again as the same attempt.
    fn put_off(&mut self, delivery: &Delivery<'_, Shot>, delay: Duration) {
        let key = (delivery.id().get(), delivery.generation());
        let not_before = Instant::now() + delay;
        match delivery.attempt().checked_sub(1) {
            None | Some(0) => {
                self.put_off.insert(key, not_before);
            }
            Some(attempt) if self.retried => {
                let pending = Pending {
                    attempt,
                    not_before,
                };
                self.pending.insert(key, pending);
            }
            Some(_) => {}
        }
    }

    /// A publish of this handler was refused because the broker ends: failures from
    /// here on may be laid at that, and then nothing comes again.
    pub fn excuse(&mut self, outcome: &Outcome) {
        self.retried = false;
        self.pending.clear();
        if !matches!(outcome, Outcome::Ack) {
            self.seat.excused.fetch_add(1, Relaxed);
        }
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        *self.seat.seen.lock().expect("nothing panics in here") = std::mem::take(&mut self.seen);
        self.seat.gone.store(true, Relaxed);
    }
}

/// While it lives, the handler runs.
pub struct Call {
    seat: Arc<Seat>,
}

impl Drop for Call {
    fn drop(&mut self) {
        watch::RUNNING.fetch_sub(1, Relaxed);
        self.seat.busy.store(false, Relaxed);
    }
}
