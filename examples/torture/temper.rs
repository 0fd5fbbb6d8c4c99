//! What handlers do.

use std::fmt;
use std::panic::{panic_any, set_hook, take_hook};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Condvar, Mutex};
use std::thread::sleep;
use std::time::Duration;

use fastrand::Rng;
use millstream::{Delivery, DeliveryBatch, Nack};

use crate::meddler::Meddler;
use crate::shot::{Bang, Shot};
use crate::source::{Sent, Source};
use crate::watch;
use crate::witness::Witness;

/// What every panic of ours begins with.
const OURS: &str = "torture: ";

/// How a call is to end.
#[derive(Clone, Copy, Debug)]
pub enum Outcome {
    Ack,
    Retry,
    RetryAfter(Duration),
    /// An error that panics when it is printed.
    Unprintable,
    DeadLetter,
    Discard,
    /// Not now; said by those handlers only whose calls one witness sees.
    Requeue,
    /// Later; said by the same.
    Snooze(Duration),
    Text,
    Owned,
    /// A panic whose payload panics when it is dropped.
    Grenade,
}

struct Grenade;

impl Drop for Grenade {
    fn drop(&mut self) {
        panic_any(Bang);
    }
}

struct Unprintable;

impl fmt::Debug for Unprintable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Unprintable")
    }
}

impl fmt::Display for Unprintable {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        panic_any(Bang);
    }
}

impl std::error::Error for Unprintable {}

impl Outcome {
    /// How a call ends of which so many of a thousand fail.
    pub fn any(of_1000: u32, panics: bool, random: &mut Rng) -> Self {
        if random.u32(..1_000) >= of_1000 {
            Self::Ack
        } else if panics && random.bool() {
            Self::panic(random)
        } else {
            Self::error(random)
        }
    }

    fn error(random: &mut Rng) -> Self {
        match random.u32(..10) {
            0 => Self::DeadLetter,
            1 => Self::Discard,
            2 => Self::Unprintable,
            3 => Self::RetryAfter(Duration::from_micros(random.u64(..5_000))),
            _ => Self::Retry,
        }
    }

    fn panic(random: &mut Rng) -> Self {
        match random.u32(..3) {
            0 => Self::Text,
            1 => Self::Owned,
            _ => Self::Grenade,
        }
    }

    fn panics(self) -> bool {
        matches!(self, Self::Text | Self::Owned | Self::Grenade)
    }

    /// How long until the retry, if the policy's is `delay`; `None`: there is none.
    pub fn delay(self, delay: Duration) -> Option<Duration> {
        match self {
            Self::Ack | Self::DeadLetter | Self::Discard => None,
            Self::Requeue | Self::Snooze(_) => None,
            Self::RetryAfter(own) => Some(own),
            _ => Some(delay),
        }
    }

    pub fn carry_out(self) -> Result<(), Nack> {
        match self {
            Self::Ack => Ok(()),
            Self::Retry => Err(Nack::retry("not now")),
            Self::RetryAfter(delay) => Err(Nack::retry_after(delay, "a little later")),
            Self::Unprintable => Err(Unprintable.into()),
            Self::DeadLetter => Err(Nack::dead_letter("never")),
            Self::Discard => Err(Nack::discard("who cares")),
            Self::Requeue => Err(Nack::requeue("after the others")),
            Self::Snooze(delay) => Err(Nack::snooze(delay, "a little later")),
            Self::Text => panic!("torture: a text"),
            Self::Owned => panic_any(format!("{OURS}a string")),
            Self::Grenade => panic_any(Grenade),
        }
    }
}

/// Says nothing of panics that are meant.
pub fn quiet_panics() {
    let loud = take_hook();
    set_hook(Box::new(move |info| {
        let payload = info.payload();
        let meant = payload.is::<Bang>()
            || payload.is::<Grenade>()
            || (payload.downcast_ref::<&str>()).is_some_and(|text| text.starts_with(OURS))
            || (payload.downcast_ref::<String>()).is_some_and(|text| text.starts_with(OURS));
        if meant {
            watch::PANICS.fetch_add(1, Relaxed);
        } else {
            crate::verdict::fail("panics", "nobody meant this one:");
            loud(info);
        }
    }));
}

/// What those wait for that never return by themselves.
#[derive(Default)]
pub struct Latch {
    open: Mutex<bool>,
    opened: Condvar,
}

impl Latch {
    fn wait(&self) {
        let open = self.open.lock().expect("nothing panics in here");
        drop(self.opened.wait_while(open, |open| !*open));
    }

    pub fn open(&self) {
        *self.open.lock().expect("nothing panics in here") = true;
        self.opened.notify_all();
    }
}

/// The character of a handler.
pub enum Temper {
    Calm,
    /// So many of a thousand calls fail; some of those by a panic, if there are any.
    Failing {
        of_1000: u32,
        panics: bool,
    },
    Slow,
    Stuck(Arc<Latch>),
    /// Publishes what it gets to the next topic.
    Relay(Source),
    Meddler(Box<Meddler>),
}

impl Temper {
    fn act(&mut self, delivery: &Delivery<'_, Shot>, random: &mut Rng) -> Outcome {
        match self {
            Self::Calm => Outcome::Ack,
            Self::Failing { .. } if random.u32(..20) == 0 => Outcome::Requeue,
            Self::Failing { .. } if random.u32(..20) == 0 => {
                Outcome::Snooze(Duration::from_micros(random.u64(1..5_000)))
            }
            Self::Failing { of_1000, panics } => Outcome::any(*of_1000, *panics, random),
            Self::Slow => {
                sleep(match random.u32(..200) {
                    0 => Duration::from_millis(random.u64(..500)),
                    _ => Duration::from_micros(random.u64(..500)),
                });
                Outcome::Ack
            }
            Self::Stuck(latch) => {
                watch::STUCK.fetch_add(1, Relaxed);
                latch.wait();
                watch::STUCK.fetch_sub(1, Relaxed);
                Outcome::Ack
            }
            Self::Relay(source) => match delivery.payload().hops.checked_sub(1) {
                None => Outcome::Ack,
                Some(hops) => match source.relay(hops, random) {
                    Sent::Accepted => Outcome::Ack,
                    Sent::Refused if random.bool() => Outcome::Ack,
                    Sent::Refused | Sent::Closed => Outcome::Retry,
                },
            },
            Self::Meddler(meddler) => {
                if random.u32(..50) == 0 {
                    meddler.meddle(random);
                }
                Outcome::Ack
            }
        }
    }

    /// Whether the broker's end has refused it a publish.
    fn was_closed(&self) -> bool {
        matches!(self, Self::Relay(source) if source.was_closed)
    }
}

/// A handler, and who watches it.
pub struct Handler {
    pub witness: Witness,
    pub temper: Temper,
    pub random: Rng,
}

impl Handler {
    pub fn call(&mut self, delivery: &Delivery<'_, Shot>) -> Result<(), Nack> {
        let _call = self.witness.begin();
        self.witness.enter(delivery);
        let outcome = self.temper.act(delivery, &mut self.random);
        self.leave(delivery, outcome);
        outcome.carry_out()
    }

    /// Fails all of a batch, or some of it.
    pub fn call_batch(&mut self, batch: &mut DeliveryBatch<'_, Shot>) -> Result<(), Nack> {
        let _call = self.witness.begin();
        batch
            .iter()
            .for_each(|delivery| self.witness.enter(&delivery));
        let acts = batch.iter().map(|delivery| {
            let outcome = self.temper.act(&delivery, &mut self.random);
            (delivery, outcome)
        });
        let acts: Vec<_> = acts.collect();
        let first = acts.first().map(|(_, outcome)| *outcome);
        let whole = first.filter(|first| first.panics() || self.random.u8(..4) == 0);
        for (at, (delivery, own)) in acts.into_iter().enumerate() {
            let outcome = match whole {
                Some(whole) => whole,
                None if own.panics() => Outcome::Retry,
                None => own,
            };
            self.leave(&delivery, outcome);
            if whole.is_none()
                && let Err(nack) = outcome.carry_out()
            {
                batch.nack(at, nack);
            }
        }
        whole.map_or(Ok(()), Outcome::carry_out)
    }

    fn leave(&mut self, delivery: &Delivery<'_, Shot>, outcome: Outcome) {
        self.witness.leave(delivery, &outcome);
        if self.temper.was_closed() {
            self.witness.excuse(&outcome);
        }
    }
}
