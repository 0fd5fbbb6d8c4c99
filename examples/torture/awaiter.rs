//! An async handler whose calls wait, and the thread that wakes them.

use std::collections::HashSet;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::thread::sleep;
use std::time::{Duration, Instant};

use fastrand::Rng;
use millstream::futures::UnsubscribeFuture;
use millstream::{LaneFull, Nack, OwnedDelivery, Subscription, Unsubscribe, Unsubscribed};

use crate::end::End;
use crate::end::SLACK;
use crate::faults::Fault;
use crate::ledger::Ledger;
use crate::life::{Actor, Life};
use crate::shot::Shot;
use crate::temper::Outcome;
use crate::verdict::{check, fail, same};
use crate::witness::{Seat, Witness};

const MOST: usize = 16;
/// Calls of a life that are never woken: fewer than may be under way at once.
const LOST: u32 = 3;
const TICK: Duration = Duration::from_micros(100);

/// Subscribes with an async handler, wakes its calls, and changes how many there may
/// be at once.
pub fn awaiter(life: &Life, actor: &Actor, mut random: Rng) {
    let ledger = &life.ledgers[random.usize(..life.ledgers.len())];
    let Some((subscription, seat, calls)) = begin(life, ledger, &mut random) else {
        return;
    };
    let mut refused = false;
    while actor.goes_on(life) {
        if random.u32(..20) == 0 {
            let most = random.usize(LOST as usize + 1..=MOST);
            refused |= subscription.set_concurrency(most).is_err();
        }
        calls.wake(Instant::now(), &mut random);
        sleep(TICK);
    }
    if refused {
        let began = Instant::now();
        while !subscription.has_ended() && began.elapsed() < SLACK {
            sleep(TICK);
        }
        let has_ended = subscription.has_ended();
        check(
            has_ended,
            "async",
            "a concurrency was refused before the end",
        );
    }
    // Whoever waits now, or would, is not to wait for a thread that is gone.
    calls.is_over.store(true, Relaxed);
    calls.wake(Instant::now() + Duration::from_secs(3_600), &mut random);
    if matches!(life.end, End::Rest) && random.bool() {
        // It comes to rest only if every call that was woken has been polled.
        return subscription.detach();
    }
    let mode = match random.u32(..3) {
        0 => Unsubscribe::Cancel,
        1 => Unsubscribe::DeadLetter,
        _ => Unsubscribe::Drain {
            timeout: Duration::from_millis(random.u64(..20)),
        },
    };
    let ended = match random.bool() {
        true => subscription.unsubscribe(mode),
        false => await_end(subscription.unsubscribe_async(mode)),
    };
    match ended {
        Unsubscribed::Ended(last) => seat.end(&last.counts),
        _ => fail("unsubscribe", "it did not wait outside of a handler"),
    }
    same("async", "calls left", calls.under_way.load(Relaxed), 0);
}

/// Polls the end until it has come.
fn await_end(mut end: UnsubscribeFuture) -> Unsubscribed {
    loop {
        let polled = Pin::new(&mut end).poll(&mut Context::from_waker(Waker::noop()));
        match polled {
            Poll::Ready(ended) => return ended,
            Poll::Pending => sleep(TICK),
        }
    }
}

fn begin(
    life: &Life,
    ledger: &Arc<Ledger>,
    random: &mut Rng,
) -> Option<(Subscription, Arc<Seat>, Arc<Calls>)> {
    let capacity = [16, 64, 256][random.usize(..3)];
    let mut promise = ledger.promise(capacity);
    promise.by_key = true;
    let seat = Seat::new("awaiter".to_owned(), promise);
    ledger.join(&seat);
    let calls = Arc::new(Calls {
        witness: Mutex::new(None),
        random: Mutex::new(random.fork()),
        busy: Mutex::default(),
        under_way: AtomicI64::new(0),
        alarms: Mutex::default(),
        is_over: AtomicBool::new(false),
        // The end drops them; at rest all have to have ended before.
        to_lose: AtomicU32::new(if matches!(life.end, End::Rest) {
            0
        } else {
            LOST
        }),
        of_1000: [0, 10, 300][random.usize(..3)] * u32::from(life.faults.has(Fault::Errors)),
        panics: life.faults.has(Fault::Panics),
    });
    *lock(&calls.witness) = Some(Witness::new(&seat));
    let handler = Handler {
        calls: Arc::clone(&calls),
        seat: Arc::clone(&seat),
    };
    let when_full = match random.u32(..3) {
        0 => LaneFull::DropOldest,
        _ => LaneFull::Wait,
    };
    let topic = ledger.topic();
    let builder = topic.subscription(&seat.name);
    let subscribed = builder
        .capacity(capacity)
        .when_full(when_full)
        .concurrency(random.usize(LOST as usize + 1..=MOST))
        .subscribe_async(move |delivery| handler.call(delivery));
    // Refused after the end.
    Some((subscribed.ok()?, seat, calls))
}

/// What the calls of one handler share, with the thread that wakes them.
struct Calls {
    /// There until the handler is dropped.
    witness: Mutex<Option<Witness>>,
    random: Mutex<Rng>,
    /// The keys whose calls are under way.
    busy: Mutex<HashSet<Box<str>>>,
    under_way: AtomicI64,
    alarms: Mutex<Vec<(Instant, Waker)>>,
    is_over: AtomicBool,
    to_lose: AtomicU32,
    of_1000: u32,
    panics: bool,
}

impl Calls {
    /// Wakes those that are due, and now and then others.
    fn wake(&self, now: Instant, random: &mut Rng) {
        let mut due = Vec::new();
        lock(&self.alarms).retain(|(at, waker)| {
            let is_due = *at <= now;
            if is_due || random.u32(..20) == 0 {
                due.push(waker.clone());
            }
            !is_due
        });
        due.iter().for_each(Waker::wake_by_ref);
    }

    /// How a call waits.
    fn nap(&self, delivery: &OwnedDelivery<Shot>) -> Nap {
        let mut random = lock(&self.random);
        match random.u32(..40) {
            0..=2 => Nap::Again(random.u32(1..4)),
            3 => Nap::until(Duration::from_micros(random.u64(..5_000)), &mut random),
            // A key would wait as long.
            4 if delivery.delivery().key().is_none() && self.lose() => Nap::ForEver,
            _ => Nap::Again(0),
        }
    }

    fn lose(&self) -> bool {
        let left = |left: u32| left.checked_sub(1);
        (self.to_lose.fetch_update(Relaxed, Relaxed, left)).is_ok()
    }

    fn poll(&self, nap: &mut Nap, context: &Context<'_>) -> Poll<()> {
        match nap {
            Nap::Again(0) => return Poll::Ready(()),
            Nap::Again(times) => {
                *times -= 1;
                context.waker().wake_by_ref();
            }
            Nap::Until { at, wakers } => {
                let mut alarms = lock(&self.alarms);
                if self.is_over.load(Relaxed) || *at <= Instant::now() {
                    return Poll::Ready(());
                }
                for _ in 0..std::mem::take(wakers) {
                    alarms.push((*at, context.waker().clone()));
                }
            }
            Nap::ForEver => {}
        }
        Poll::Pending
    }
}

/// What a call waits for before it ends.
enum Nap {
    /// To be polled so many more times.
    Again(u32),
    /// To be woken at this time, by so many wakers.
    Until { at: Instant, wakers: u32 },
    /// Nobody wakes it.
    ForEver,
}

impl Nap {
    fn until(wait: Duration, random: &mut Rng) -> Self {
        Self::Until {
            at: Instant::now() + wait,
            wakers: random.u32(1..4),
        }
    }
}

/// A call, until it ends or is dropped.
struct Call {
    calls: Arc<Calls>,
    delivery: OwnedDelivery<Shot>,
}

impl Call {
    fn begin(calls: &Arc<Calls>, delivery: OwnedDelivery<Shot>) -> Self {
        calls.under_way.fetch_add(1, Relaxed);
        if let Some(key) = delivery.delivery().key() {
            let is_alone = lock(&calls.busy).insert(key.into());
            check(
                is_alone,
                "one at a time",
                format_args!("two calls of the key {key:?}"),
            );
        }
        let mut witness = lock(&calls.witness);
        match &mut *witness {
            Some(witness) => witness.enter(&delivery.delivery()),
            None => fail("unsubscribe", "a call after the handler was dropped"),
        }
        drop(witness);
        Self {
            calls: Arc::clone(calls),
            delivery,
        }
    }

    async fn run(self) -> Result<(), Nack> {
        let calls = &self.calls;
        let mut nap = calls.nap(&self.delivery);
        poll_fn(|context| calls.poll(&mut nap, context)).await;
        let outcome = Outcome::any(calls.of_1000, calls.panics, &mut lock(&calls.random));
        if let Some(witness) = &mut *lock(&calls.witness) {
            witness.leave(&self.delivery.delivery(), &outcome);
        }
        outcome.carry_out()
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if let Some(key) = self.delivery.delivery().key() {
            lock(&self.calls.busy).remove(key);
        }
        self.calls.under_way.fetch_sub(1, Relaxed);
    }
}

struct Handler {
    calls: Arc<Calls>,
    seat: Arc<Seat>,
}

impl Handler {
    fn call(
        &self,
        delivery: OwnedDelivery<Shot>,
    ) -> impl Future<Output = Result<(), Nack>> + use<> {
        check(
            !self.seat.ended.load(Relaxed),
            "unsubscribe",
            "an async handler was called after its end",
        );
        Call::begin(&self.calls, delivery).run()
    }
}

impl Drop for Handler {
    fn drop(&mut self) {
        // It says at its seat that the handler is gone.
        let witness = lock(&self.calls.witness).take();
        drop(witness);
    }
}

fn lock<V>(mutex: &Mutex<V>) -> MutexGuard<'_, V> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
