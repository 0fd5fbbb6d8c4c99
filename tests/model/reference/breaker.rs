//! A breaker that opens by failures in a row, and closes by hand.

use crate::answers::Answer;
use crate::program::Breaking;

pub struct Breaker {
    most: u32,
    failures: u32,
    pub is_open: bool,
}

impl Breaker {
    /// What becomes of the breaker of a subscription.
    pub fn change(breaker: Option<Self>, how: Breaking) -> Option<Self> {
        let closed = |most| Self {
            most,
            failures: 0,
            is_open: false,
        };
        match (breaker, how) {
            (None, Breaking::Set(most)) => Some(closed(most)),
            // What it has counted stays.
            (Some(breaker), Breaking::Set(most)) => Some(Self { most, ..breaker }),
            (Some(breaker), Breaking::Isolate) => Some(Self {
                is_open: true,
                ..breaker
            }),
            (Some(breaker), Breaking::Reset) => Some(closed(breaker.most)),
            (_, Breaking::Remove) | (None, _) => None,
        }
    }

    /// An attempt ends. Whoever says that a message is at fault, or when to come again, does not
    /// count.
    pub fn note(&mut self, said: Answer) {
        match said {
            _ if self.is_open => {}
            Answer::Ack => self.failures = 0,
            Answer::Retry | Answer::Panic => {
                self.failures += 1;
                self.is_open = self.failures >= self.most;
            }
            _ => {}
        }
    }
}
