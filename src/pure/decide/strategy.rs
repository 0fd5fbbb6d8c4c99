//! When waiting messages are handed on, and how many at once.
//!
//! A strategy holds no messages. It looks at the backlog and decides, so a swap
//! can lose, strand or reorder nothing: the next question simply goes to the
//! new strategy, about the same messages at their true age.

use std::time::Duration;

use crate::types::error::InvalidSetting;

/// What a strategy may know about the messages that wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backlog {
    waiting: usize,
    oldest_age: Duration,
    capacity: usize,
}

impl Backlog {
    /// A backlog of `waiting` messages, the oldest of which was accepted
    /// `oldest_age` ago, in a queue of `capacity`. Public so that a strategy of
    /// your own can be tested like any function.
    pub fn new(waiting: usize, oldest_age: Duration, capacity: usize) -> Self {
        Self {
            waiting,
            oldest_age,
            capacity,
        }
    }

    /// Messages waiting now; at least one.
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// How long the oldest of them has waited.
    pub fn oldest_age(&self) -> Duration {
        self.oldest_age
    }

    /// How many messages the queue holds at most.
    pub fn capacity(&self) -> usize {
        self.capacity
    }
}

/// What to do with a backlog.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Plan {
    /// Hand on the oldest messages.
    Deliver {
        /// How many at most; zero is read as one.
        at_most: usize,
    },
    /// Hand on the oldest messages as a batch that was waited for; announced by
    /// a `batch_flush` event.
    Flush {
        /// How many at most; zero is read as one.
        at_most: usize,
        /// Why now.
        cause: FlushCause,
    },
    /// Leave them where they are.
    Wait {
        /// Ask again as soon as so many wait.
        until_waiting: usize,
        /// Ask again after this time at the latest; `None`: only the number counts.
        at_most: Option<Duration>,
    },
}

/// Why a batch was handed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FlushCause {
    /// It had reached its size.
    Size,
    /// Its oldest message had lingered long enough.
    Linger,
    /// The queue could take no more.
    Full,
    /// Somebody called `flush`.
    Requested,
    /// The broker is draining.
    Drain,
}

/// Decides when waiting messages are handed on. Implement it for your own.
///
/// It is asked by a worker, once per batch and never per message, and should
/// return quickly. If it panics, the backlog is delivered as if it had returned
/// [`Plan::Deliver`] of everything, and a `hook_panicked` event is emitted.
///
/// The engine overrules a [`Plan::Wait`] when waiting could never end: on a full
/// queue, on `flush` and on drain.
///
/// ```
/// use millstream::{Backlog, Plan, Strategy};
///
/// /// Consumers on everything, but only when at least a tenth of the queue is used.
/// struct Tenth;
///
/// impl Strategy for Tenth {
///     fn plan(&self, backlog: &Backlog) -> Plan {
///         let enough = backlog.capacity() / 10;
///         if backlog.waiting() >= enough {
///             Plan::Deliver { at_most: backlog.waiting() }
///         } else {
///             Plan::Wait { until_waiting: enough, at_most: None }
///         }
///     }
///     fn name(&self) -> &str {
///         "tenth"
///     }
/// }
/// ```
pub trait Strategy: Send + Sync + 'static {
    /// Looks at the backlog and decides.
    fn plan(&self, backlog: &Backlog) -> Plan;

    /// The name under which events and metrics show it.
    fn name(&self) -> &str;

    /// Refuses settings that could never take effect. Called once, when the
    /// strategy is installed; accepts everything by default.
    ///
    /// # Errors
    ///
    /// [`InvalidSetting`], with the setting's name and the rule it breaks.
    fn check(&self) -> Result<(), InvalidSetting> {
        Ok(())
    }
}

/// Consumers on whatever waits, at once. The default: it is also the fastest under
/// load, where messages form batches by themselves while a worker is busy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Immediate;

impl Strategy for Immediate {
    fn plan(&self, backlog: &Backlog) -> Plan {
        Plan::Deliver {
            at_most: backlog.waiting,
        }
    }

    fn name(&self) -> &str {
        "immediate"
    }
}

/// Waits for a number of messages *or* until the oldest has lingered.
///
/// ```
/// use millstream::Batched;
/// use std::time::Duration;
///
/// let by_size_or_time = Batched::of(256).linger(Duration::from_micros(200));
/// let only_full_ones = Batched::of(256).until_full();
/// # let _ = (by_size_or_time, only_full_ones);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batched {
    size: usize,
    linger: Option<Duration>,
}

/// Long enough to form batches, short enough that nobody calls it a hang.
const DEFAULT_LINGER: Duration = Duration::from_millis(5);

impl Batched {
    /// Batches of `size` messages; zero is refused when it is installed. A chunk
    /// published as one goes as one, and a full queue goes whatever the size. A
    /// message lingers 5 ms at most unless [`linger`](Self::linger) or
    /// [`until_full`](Self::until_full) say otherwise.
    pub const fn of(size: usize) -> Self {
        Self {
            size,
            linger: Some(DEFAULT_LINGER),
        }
    }

    /// The longest that the oldest message waits for the batch to fill. Rounded
    /// up to a tick of the timer wheel (100 µs).
    #[must_use]
    pub const fn linger(self, linger: Duration) -> Self {
        Self {
            linger: Some(linger),
            ..self
        }
    }

    /// No time limit: a partial batch waits until it is full, until a `flush`, a
    /// swap of the strategy, or a drain.
    #[must_use]
    pub const fn until_full(self) -> Self {
        Self {
            linger: None,
            ..self
        }
    }

    /// Messages in a full batch.
    pub fn size(&self) -> usize {
        self.size
    }

    /// The longest that the oldest message waits, if there is a limit.
    pub(crate) fn lingers(&self) -> Option<Duration> {
        self.linger
    }
}

impl Strategy for Batched {
    fn plan(&self, backlog: &Backlog) -> Plan {
        if backlog.waiting >= self.size {
            return Plan::Flush {
                at_most: self.size,
                cause: FlushCause::Size,
            };
        }
        match self.linger {
            Some(linger) if backlog.oldest_age >= linger => Plan::Flush {
                at_most: backlog.waiting,
                cause: FlushCause::Linger,
            },
            linger => Plan::Wait {
                until_waiting: self.size,
                at_most: linger.map(|linger| linger - backlog.oldest_age),
            },
        }
    }

    fn name(&self) -> &str {
        "batched"
    }

    fn check(&self) -> Result<(), InvalidSetting> {
        if self.size == 0 {
            return Err(InvalidSetting::new("batch size", 0, "must be at least 1"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn backlog(waiting: usize, age: Duration) -> Backlog {
        Backlog::new(waiting, age, 1_024)
    }

    #[test]
    fn immediate_takes_all_there_is() {
        assert_eq!(
            Immediate.plan(&backlog(7, Duration::ZERO)),
            Plan::Deliver { at_most: 7 }
        );
    }

    #[test]
    fn a_batch_goes_when_it_is_full_whatever_its_age() {
        let strategy = Batched::of(4).linger(MS);
        assert_eq!(
            strategy.plan(&backlog(9, Duration::ZERO)),
            Plan::Flush {
                at_most: 4,
                cause: FlushCause::Size
            }
        );
    }

    #[test]
    fn a_partial_batch_goes_exactly_when_its_oldest_has_lingered() {
        let strategy = Batched::of(4).linger(MS * 3);
        assert_eq!(
            strategy.plan(&backlog(2, MS)),
            Plan::Wait {
                until_waiting: 4,
                at_most: Some(MS * 2)
            }
        );
        assert_eq!(
            strategy.plan(&backlog(2, MS * 3)),
            Plan::Flush {
                at_most: 2,
                cause: FlushCause::Linger
            }
        );
    }

    #[test]
    fn without_linger_only_the_size_counts() {
        assert_eq!(
            Batched::of(4)
                .until_full()
                .plan(&backlog(3, Duration::from_secs(3_600))),
            Plan::Wait {
                until_waiting: 4,
                at_most: None
            }
        );
    }

    #[test]
    fn what_is_set_can_be_read_and_the_names_are_those_of_the_metrics() {
        let backlog = backlog(7, MS);
        assert_eq!((backlog.waiting(), backlog.oldest_age()), (7, MS));
        assert_eq!(backlog.capacity(), 1_024);
        let batched = Batched::of(4).linger(MS);
        assert_eq!((batched.size(), batched.lingers()), (4, Some(MS)));
        assert_eq!(batched.until_full().lingers(), None);
        assert_eq!((Immediate.name(), batched.name()), ("immediate", "batched"));
    }

    #[test]
    fn an_empty_batch_size_is_refused() {
        assert!(Batched::of(0).check().is_err());
        assert!(Batched::of(1).check().is_ok());
    }
}
