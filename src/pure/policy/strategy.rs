//! The decision when waiting messages are dispatched, and how many at once.
//!
//! A strategy holds no messages. It looks at the backlog and decides, so a swap can lose, strand or
//! reorder nothing. The next question goes to the new strategy, about the same messages at their
//! true age.

use std::time::Duration;

use crate::types::error::SettingError;
use crate::types::labels;

/// The facts that a strategy may know about the waiting messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backlog {
    waiting: usize,
    oldest_age: Duration,
    capacity: usize,
}

impl Backlog {
    /// Makes a backlog, so that a strategy of your own can be tested like any function.
    ///
    /// `waiting` messages wait in a queue of `capacity`, and the oldest was accepted `oldest_age`
    /// ago.
    pub fn new(waiting: usize, oldest_age: Duration, capacity: usize) -> Self {
        Self {
            waiting,
            oldest_age,
            capacity,
        }
    }

    /// Returns the number of messages that wait now, which is at least one.
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// Returns the time for which the oldest message has waited.
    pub fn oldest_age(&self) -> Duration {
        self.oldest_age
    }

    /// Returns the number of messages that the queue holds at most.
    pub fn capacity(&self) -> usize {
        self.capacity
    }
}

/// The plan of a strategy for a backlog.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Plan {
    /// Dispatch the oldest messages.
    Deliver {
        /// The most messages to dispatch; zero is read as one.
        at_most: usize,
    },
    /// Dispatch the oldest messages as a batch that was waited for. A `batch_flush` event tells of
    /// it.
    Flush {
        /// The most messages to dispatch; zero is read as one.
        at_most: usize,
        /// The reason why the batch goes now.
        cause: FlushCause,
    },
    /// Leave the messages where they are.
    Wait {
        /// The number of waiting messages at which the strategy is asked again.
        until_waiting: usize,
        /// The time after which the strategy is asked again at the latest. With `None`, only the
        /// number counts.
        at_most: Option<Duration>,
    },
}

/// The reason why a batch was dispatched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FlushCause {
    /// The batch had reached its size.
    Size,
    /// The oldest message of the batch had lingered long enough.
    Linger,
    /// The queue could take no more.
    Full,
    /// The program called `flush`.
    Requested,
    /// The broker is draining.
    Drain,
}

labels!(FlushCause {
    Self::Size => "size",
    Self::Linger => "linger",
    Self::Full => "full",
    Self::Requested => "requested",
    Self::Drain => "drain",
});

/// A strategy that decides when waiting messages are dispatched. Implement it for your own rules, or
/// make one of a closure with [`strategy_fn`](crate::strategy::strategy_fn). A `Box` or an `Arc` of a strategy
/// is a strategy, so it can be chosen at run time.
///
/// A worker asks it once per batch and never per message, so it should return quickly. If it
/// panics, the backlog is delivered as if it had returned [`Plan::Deliver`] of everything. A
/// `hook_panicked` event tells of that.
///
/// The engine overrules a [`Plan::Wait`] when waiting could never end: on a full queue, on `flush`
/// and on drain.
///
/// ```
/// use millstream::strategy::{Backlog, Plan, Strategy};
///
/// /// Dispatches everything, but only when at least a tenth of the queue is used.
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
    /// Decides what to do with this backlog.
    fn plan(&self, backlog: &Backlog) -> Plan;

    /// Returns the name under which events and metrics show the strategy.
    fn name(&self) -> &str;

    /// Refuses settings that could never take effect. By default it accepts everything.
    ///
    /// It is called once, when the strategy is installed.
    ///
    /// # Errors
    ///
    /// Returns [`SettingError`], with the setting's name and the rule that it breaks.
    fn check(&self) -> Result<(), SettingError> {
        Ok(())
    }

    /// Returns whether the other strategy decides as this one does in every case.
    ///
    /// [`open`](crate::TopicBuilder::open) asks it, when a call that joins a topic gives a strategy.
    /// By default it returns `false`: the two can't be compared. Strategies that are values compare
    /// themselves. An `Arc` agrees with its clones.
    fn same_as(&self, other: &Self) -> bool
    where
        Self: Sized,
    {
        let _ = other;
        false
    }
}

/// A strategy that dispatches all waiting messages at once. It is the default.
///
/// It is also the fastest under load, where messages form batches by themselves while a worker is
/// busy.
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

    fn same_as(&self, other: &Self) -> bool {
        self == other
    }
}

/// A strategy that waits for a number of messages *or* until the oldest has lingered.
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

/// The default linger: long enough to form batches, and short enough that nobody calls it a hang.
const DEFAULT_LINGER: Duration = Duration::from_millis(5);

impl Batched {
    /// Makes batches of `size` messages. A `size` of zero is refused when it is installed.
    ///
    /// Messages that were published as one chunk go as one, and a full queue goes whatever the
    /// size. A message lingers for at most 5 ms, unless [`linger`](Self::linger) or
    /// [`until_full`](Self::until_full) is called.
    pub const fn of(size: usize) -> Self {
        Self {
            size,
            linger: Some(DEFAULT_LINGER),
        }
    }

    /// Sets the longest time that the oldest message waits for the batch to fill.
    ///
    /// It is rounded up to a tick of the timer wheel (100 µs).
    #[must_use]
    pub const fn linger(self, linger: Duration) -> Self {
        Self {
            linger: Some(linger),
            ..self
        }
    }

    /// Removes the time limit. A partial batch waits until it is full, until a `flush`, a swap of
    /// the strategy, or a drain.
    #[must_use]
    pub const fn until_full(self) -> Self {
        Self {
            linger: None,
            ..self
        }
    }

    /// Returns the number of messages in a full batch.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Returns the longest time that the oldest message waits, if there is a limit.
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

    fn check(&self) -> Result<(), SettingError> {
        if self.size == 0 {
            return Err(SettingError::new("batch_size", 0, "must be at least 1"));
        }
        Ok(())
    }

    fn same_as(&self, other: &Self) -> bool {
        self == other
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
