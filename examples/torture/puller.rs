//! A thread that pulls: it keeps leases, settles them in time or too late, and drops
//! them.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::sleep;
use std::time::{Duration, Instant};

use fastrand::Rng;
use millstream::error::{RecvTimeoutError, StaleError, TryRecvError};
use millstream::pull::LeaseBatch;
use millstream::{
    Delivery, LaneFull, Lease, OnFailure, Pull, PullSubscription, Unsubscribe, Unsubscribed,
};

use crate::end::End;
use crate::faults::Fault;
use crate::ledger::Ledger;
use crate::life::{Actor, Life};
use crate::shot::Shot;
use crate::temper::Outcome;
use crate::verdict::{check, fail, same};
use crate::witness::{Promise, Seat, Witness};

/// Acks that it remembers, so that none of them comes again.
const REMEMBERED: usize = 10_000;
const TICK: Duration = Duration::from_micros(100);
/// What two clocks may differ by.
const SLACK: Duration = Duration::from_millis(5);

/// Subscribes, and pulls until the end.
pub fn puller(life: &Life, actor: &Actor, mut random: Rng) {
    let ledger = &life.ledgers[random.usize(..life.ledgers.len())];
    let Some(mut puller) = Puller::begin(life, ledger, &mut random) else {
        return;
    };
    while actor.goes_on(life) {
        match random.u32(..40) {
            0 if random.bool() => puller.reattach(ledger),
            0 => puller.change(&mut random),
            1..=15 => puller.receive(&mut random),
            _ => puller.settle(&mut random),
        }
    }
    puller.end(&mut random);
}

struct Puller {
    subscription: PullSubscription<Shot>,
    seat: Arc<Seat>,
    witness: Witness,
    held: Vec<Lease<Shot>>,
    acked: HashSet<(u64, u16)>,
    credits: usize,
    /// Something wakes it when nothing comes any more.
    may_wait: bool,
    of_1000: u32,
    nacks: u64,
    stale: u64,
}

impl Puller {
    fn begin(life: &Life, ledger: &Arc<Ledger>, random: &mut Rng) -> Option<Self> {
        let capacity = [16, 64, 256][random.usize(..3)];
        let by_key = random.bool();
        let promise = Promise {
            // Whether a lease that is late has failed is seen when it comes again.
            retried: false,
            by_key,
            ..ledger.promise(capacity)
        };
        let seat = Seat::new(format!("puller-{}", random.u32(..)), promise);
        ledger.join(&seat);
        let credits = random.usize(1..=capacity);
        let topic = ledger.topic();
        let builder = topic
            .subscription(&seat.name)
            .capacity(capacity)
            .when_full(match by_key || random.bool() {
                true => LaneFull::Wait,
                false => LaneFull::DropOldest,
            })
            .on_failure(match by_key {
                true => OnFailure::BlockKey,
                false => OnFailure::Reorder,
            });
        let pull = Pull::default()
            .credits(credits)
            .ack_deadline(deadline(random));
        // Refused after the end.
        let subscription = builder.pull(pull).ok()?;
        Some(Self {
            subscription,
            witness: Witness::new(&seat),
            seat,
            held: Vec::new(),
            acked: HashSet::new(),
            credits,
            may_wait: !matches!(life.end, End::Rest),
            of_1000: [10, 300][random.usize(..2)] * u32::from(life.faults.has(Fault::Errors)),
            nacks: 0,
            stale: 0,
        })
    }

    fn change(&mut self, random: &mut Rng) {
        let credits = random.usize(1..=self.seat.promise.capacity);
        let set = self.subscription.set_credits(credits);
        let set = set.and_then(|()| self.subscription.set_ack_deadline(deadline(random)));
        check(set.is_ok(), "pull", format_args!("{set:?}"));
        self.credits = credits;
    }

    /// Lets go of the subscription, and takes it up again by its name.
    fn reattach(&mut self, ledger: &Ledger) {
        self.subscription.clone().detach();
        // After the end it is gone.
        if let Ok(again) = ledger.topic().attach_pull(&self.seat.name) {
            self.subscription = again;
        }
    }

    fn receive(&mut self, random: &mut Rng) {
        let wait = Duration::from_micros(random.u64(..2_000));
        let (from, most) = (&self.subscription, random.usize(1..=8));
        match random.u32(..5) {
            0 => match from.try_recv() {
                Ok(lease) => self.take(lease),
                Err(TryRecvError::Empty) => {}
                Err(TryRecvError::Ended) => sleep(TICK),
            },
            1 => match from.recv_timeout(wait) {
                Ok(lease) => self.take(lease),
                Err(error) => self.pause(error),
            },
            2 if self.may_wait && self.held.is_empty() => match from.recv() {
                Ok(lease) => self.take(lease),
                Err(error) => self.pause(error.into()),
            },
            #[cfg(feature = "async")]
            3 => match at_once(from.recv_batch_async(most)) {
                Some(Ok(batch)) => self.take_batch(batch, random),
                Some(Err(millstream::error::EndedError)) => sleep(TICK),
                // Dropped while it waits: it has taken nothing.
                None => {}
            },
            _ => match from.recv_batch(most, wait) {
                Ok(batch) => self.take_batch(batch, random),
                Err(error) => self.pause(error),
            },
        }
    }

    /// Waits before the next call to a subscription that has ended. No other call may say that
    /// it can't wait, because pullers are no handlers.
    fn pause(&self, error: RecvTimeoutError) {
        match error {
            RecvTimeoutError::TimedOut => {}
            RecvTimeoutError::Ended => sleep(TICK),
            RecvTimeoutError::WouldBlock => check(false, "pull", format_args!("{error}")),
        }
    }

    fn take(&mut self, lease: Lease<Shot>) {
        self.look(&lease.delivery(), usize::from(is_good(&lease)));
        self.held.push(lease);
    }

    /// Keeps some of it, and acks the others at once, in time or too late.
    fn take_batch(&mut self, mut batch: LeaseBatch<Shot>, random: &mut Rng) {
        // The clock is read first: whoever is held up in between is not late too early.
        let now = Instant::now();
        let left = batch.remaining();
        let due = now + left;
        let out = if left.is_zero() { 0 } else { batch.len() };
        for delivery in batch.iter() {
            self.look(&delivery, out);
        }
        self.held.extend(batch.extract_if(|_| random.bool()));
        if random.u32(..4) == 0 {
            sleep(Duration::from_micros(random.u64(..2_000)));
        }
        let identities: Vec<_> = batch.iter().map(|delivery| identity(&delivery)).collect();
        let settled = batch.ack_all();
        for identity in identities {
            match self.judge(due, identity, settled) {
                Ok(()) => self.acknowledge(identity),
                Err(StaleError) => self.lose(),
            }
        }
    }

    /// Looks at one that it has received, with which so many are out now besides those held.
    fn look(&mut self, delivery: &Delivery<'_, Shot>, now_out: usize) {
        self.witness.enter(delivery);
        let again = self.acked.contains(&identity(delivery));
        check(!again, "pull", format_args!("{delivery:?} had been acked"));
        let good = || self.held.iter().filter(|held| is_good(held));
        let out = good().count() + now_out;
        let credits = self.credits;
        check(
            out <= credits,
            "pull",
            format_args!("{out} leases are out for {credits} credits"),
        );
        let by_key = self.seat.promise.by_key;
        for held in good() {
            let same_one = identity(&held.delivery()) == identity(delivery);
            let same_key = by_key && delivery.key().is_some() && held.key() == delivery.key();
            check(
                !same_one && !same_key,
                "one at a time",
                format_args!("{delivery:?} while {held:?} is out"),
            );
        }
    }

    /// One has been acked.
    fn acknowledge(&mut self, identity: (u64, u16)) {
        self.seat.count(&Outcome::Ack);
        if self.acked.len() == REMEMBERED {
            self.acked.clear();
        }
        self.acked.insert(identity);
    }

    /// Does something with one that it has.
    fn settle(&mut self, random: &mut Rng) {
        if self.held.is_empty() {
            return;
        }
        let mut lease = self.held.swap_remove(random.usize(..self.held.len()));
        let due = Instant::now() + lease.remaining();
        match random.u32(..20) {
            0 => {
                self.lose();
                drop(lease);
            }
            1 | 2 => {
                let extended = lease.extend(deadline(random));
                // Settled later, which says again what it is.
                let _ = self.judge(due, &lease, extended);
                self.held.push(lease);
            }
            // It waits, and may be late.
            3..=6 => self.held.push(lease),
            _ => self.say(lease, due, Outcome::any(self.of_1000, false, random)),
        }
    }

    fn say(&mut self, lease: Lease<Shot>, due: Instant, outcome: Outcome) {
        let identity = identity(&lease.delivery());
        let settled = match outcome.carry_out() {
            Ok(()) => lease.ack(),
            Err(nack) => lease.nack(nack),
        };
        if self.judge(due, identity, settled).is_err() {
            return self.lose();
        }
        if matches!(outcome, Outcome::Ack) {
            return self.acknowledge(identity);
        }
        self.seat.count(&outcome);
        self.nacks += 1;
    }

    /// Only what is late may be stale, or what the end has taken.
    fn judge(
        &mut self,
        due: Instant,
        what: impl std::fmt::Debug,
        said: Result<(), StaleError>,
    ) -> Result<(), StaleError> {
        said.inspect_err(|_| {
            self.stale += 1;
            let late = Instant::now() + SLACK >= due;
            check(
                late || ends_soon(&self.subscription),
                "pull",
                format_args!("{what:?} is stale before its deadline"),
            );
        })
    }

    /// A lease that fails by being dropped or late, or is cancelled before.
    fn lose(&self) {
        self.seat.failures.fetch_add(1, Relaxed);
        self.seat.excused.fetch_add(1, Relaxed);
    }

    /// Unsubscribes, with leases in its hands.
    fn end(self, random: &mut Rng) {
        let mode = match random.u32(..3) {
            0 => Unsubscribe::Cancel,
            1 => Unsubscribe::DeadLetter,
            _ => Unsubscribe::Drain {
                timeout: Duration::from_millis(random.u64(..20)),
            },
        };
        self.held.iter().for_each(|_| self.lose());
        drop(self.witness);
        let Unsubscribed::Ended(last) = self.subscription.unsubscribe(mode) else {
            return fail("unsubscribe", "it did not wait outside of a handler");
        };
        self.seat.end(&last.counts);
        let failed = self.nacks + last.abandoned + last.timed_out;
        same("pull", "failed leases", last.counts.failed, failed);
        same("pull", "stale leases", last.stale, self.stale);
        same("pull", "leases that are out", last.leased, 0);
        for lease in self.held {
            let text = format!("{lease:?}");
            check(
                lease.ack().is_err(),
                "pull",
                format_args!("{text} outlived the end"),
            );
        }
    }
}

/// Polls a future once, and drops it if it would wait.
#[cfg(feature = "async")]
fn at_once<F: Future>(future: F) -> Option<F::Output> {
    use std::task::{Context, Poll, Waker};

    match std::pin::pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}

fn deadline(random: &mut Rng) -> Duration {
    match random.bool() {
        true => Duration::from_micros(random.u64(1..5_000)),
        false => Duration::from_millis(random.u64(20..500)),
    }
}

fn identity(delivery: &Delivery<'_, Shot>) -> (u64, u16) {
    (delivery.id().get(), delivery.generation())
}

fn is_good(lease: &Lease<Shot>) -> bool {
    !lease.remaining().is_zero()
}

/// What takes leases away may not have told that it ends.
fn ends_soon(subscription: &PullSubscription<Shot>) -> bool {
    let began = Instant::now();
    while !subscription.has_ended() && began.elapsed() < crate::end::SLACK {
        sleep(TICK);
    }
    subscription.has_ended()
}
