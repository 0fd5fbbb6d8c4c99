//! Who sees every call of a subscription that several hands may share, and checks
//! that keys stay in one hand and in order.

use std::collections::HashMap;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::sleep;
use std::time::Duration;

use fastrand::Rng;
use millstream::{Delivery, Nack};

use crate::crowd::Style;
use crate::shot::Shot;
use crate::temper::Outcome;
use crate::verdict::{check, fail};
use crate::witness::Seat;

/// What is handled in order, whatever fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeps {
    /// Its mode is switched all the time.
    Nothing,
    /// What one publisher sends of one key.
    Keys,
    /// What one publisher sends.
    Everything,
}

/// What is known of one key, or of all messages where they are kept in order together.
#[derive(Default)]
struct Line {
    is_out: bool,
    /// The last sequence of each stream that was handled.
    handled: HashMap<u32, u64>,
}

/// Lives in the handlers of one subscription.
pub struct Hands {
    seat: Arc<Seat>,
    style: Style,
    random: Mutex<Rng>,
    lines: Mutex<HashMap<Box<str>, Line>>,
}

impl Hands {
    pub fn new(seat: &Arc<Seat>, style: &Style, random: &mut Rng) -> Arc<Self> {
        Arc::new(Self {
            seat: Arc::clone(seat),
            style: style.clone(),
            random: Mutex::new(random.fork()),
            lines: Mutex::default(),
        })
    }

    pub fn call(&self, delivery: &Delivery<'_, Shot>) -> Result<(), Nack> {
        let _call = self.seat.begin();
        self.seat.enter(delivery);
        let line = match self.style.keeps {
            Keeps::Everything => Some(""),
            Keeps::Keys | Keeps::Nothing => delivery.key(),
        };
        if let Some(line) = line {
            let mut lines = self.lines();
            let was_out =
                std::mem::replace(&mut lines.entry(line.into()).or_default().is_out, true);
            check(
                !was_out,
                "overlap",
                format_args!("{delivery:?} of {line:?}"),
            );
        }
        let outcome = self.act();
        self.seat.count(&outcome);
        if let Some(line) = line
            && let Some(line) = self.lines().get_mut(line)
        {
            line.is_out = false;
            if matches!(outcome, Outcome::Ack) && self.style.keeps != Keeps::Nothing {
                line.handle(delivery);
            }
        }
        outcome.carry_out()
    }

    fn act(&self) -> Outcome {
        let mut random = self.random.lock().expect("nothing panics in here");
        let naps = random.u32(..100) == 0;
        let outcome = Outcome::any(self.style.of_1000, self.style.panics, &mut random);
        let nap = Duration::from_micros(random.u64(..300));
        drop(random);
        if naps {
            sleep(nap);
        }
        outcome
    }

    fn lines(&self) -> MutexGuard<'_, HashMap<Box<str>, Line>> {
        self.lines.lock().expect("nothing panics in here")
    }
}

impl Line {
    fn handle(&mut self, delivery: &Delivery<'_, Shot>) {
        let shot = delivery.payload();
        // What is due later has no place in the order of its stream.
        if shot.due.is_some() {
            return;
        }
        let last = self.handled.insert(shot.stream, shot.sequence);
        if last.is_some_and(|last| last >= shot.sequence) {
            let (stream, sequence) = (shot.stream, shot.sequence);
            fail(
                "order",
                format_args!("{delivery:?}: {stream}#{sequence} was handled after {last:?}"),
            );
        }
    }
}

impl Drop for Hands {
    fn drop(&mut self) {
        self.seat.gone.store(true, Relaxed);
    }
}
