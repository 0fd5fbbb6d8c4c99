//! A handler that does to the engine what others do from outside.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use fastrand::Rng;
use millstream::error::DrainError;
use millstream::{Immediate, LaneFull, Unsubscribe, Unsubscribed};

use crate::hooks;
use crate::ledger::{Ledger, Offer};
use crate::life::Slot;
use crate::temper::Temper;
use crate::verdict::{check, fail};

/// Subscriptions that handlers have made and not ended, on one topic.
const MAX_GUESTS: usize = 8;
static NEXT: AtomicU32 = AtomicU32::new(0);

pub struct Meddler {
    pub ledger: Arc<Ledger>,
    pub broker: Arc<Slot>,
    /// It is time to begin the drain.
    pub end: Arc<AtomicBool>,
}

impl Meddler {
    pub fn meddle(&mut self, random: &mut Rng) {
        let broker = self.broker.broker();
        if self.end.load(Relaxed)
            && let Some(broker) = broker
        {
            let drained = broker.drain(Duration::from_secs(1));
            let inside = matches!(drained, Err(DrainError::InsideHandler(_)));
            return check(
                inside,
                "meddling",
                format_args!("a drain inside a handler: {drained:?}"),
            );
        }
        match (random.u32(..5), broker) {
            (0, _) => self.invite(random),
            (1, _) => self.dismiss(random),
            (2, Some(broker)) => {
                let waited = broker.wait_until_idle(Duration::from_secs(1));
                check(
                    !waited,
                    "meddling",
                    "a wait inside a handler says that all is idle",
                );
                check(
                    broker.run_until_idle() == 0,
                    "meddling",
                    "a handler ran the engine",
                );
            }
            (3, Some(broker)) => drop(broker.metrics()),
            _ => {
                // A closed broker has no use for it, which is fine.
                let _ = self.ledger.topic().set_strategy(Immediate);
                hooks::swap_retry(&self.ledger, random);
                hooks::swap_capacity(&self.ledger, random);
                self.ledger.topic().flush();
            }
        }
    }

    fn invite(&self, random: &mut Rng) {
        let mut guests = self.ledger.guests.lock().expect("nothing panics in here");
        if guests.len() >= MAX_GUESTS {
            return;
        }
        let offer = Offer {
            name: format!("guest-{}", NEXT.fetch_add(1, Relaxed)),
            capacity: 16,
            when_full: LaneFull::DropNewest,
            batches: None,
            temper: Temper::Calm,
            lasting: false,
        };
        // After the end it is refused.
        guests.extend(self.ledger.subscribe(offer, random).ok());
    }

    fn dismiss(&self, random: &mut Rng) {
        let guest = self
            .ledger
            .guests
            .lock()
            .expect("nothing panics in here")
            .pop();
        let Some((subscription, _)) = guest else {
            return;
        };
        let mode = match random.u32(..3) {
            0 => Unsubscribe::Cancel,
            1 => Unsubscribe::DeadLetter,
            _ => Unsubscribe::Drain {
                timeout: Duration::from_millis(random.u64(..20)),
            },
        };
        let answer = subscription.unsubscribe(mode);
        if answer != Unsubscribed::Ending {
            fail("meddling", "an unsubscribe inside a handler has waited");
        }
    }
}
