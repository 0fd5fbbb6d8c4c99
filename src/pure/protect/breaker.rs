//! The settings of a circuit breaker, and which endings count.

pub(crate) mod state;

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::types::duration::nanos;
use crate::types::error::SettingError;
use crate::types::labels;

/// The settings of a circuit breaker, which holds deliveries while their dependency fails.
///
/// A *closed* breaker lets every delivery pass, and counts how they end. It *opens* when too many
/// of them fail: by their [percentage](Self::failure_percent) within a [window](Self::window), or
/// by a number of [failures in a row](Self::consecutive_failures). While it is open, deliveries
/// stay in their lane, and no attempt is made.
///
/// After [a while](Self::open_for) the breaker is *half-open*: it lets one delivery pass, as a
/// probe. If that one succeeds, the next round has two probes, then four, and so on. After the round
/// of as many as [`probes`](Self::probes) says, the breaker is closed. A round of probes in which
/// too many fail opens it again, for twice as long.
///
/// A breaker that neither number may open is still of use: it can be isolated by hand.
///
/// ```
/// use millstream::protect::{Breaker, EndKind};
/// use std::time::Duration;
///
/// let breaker = Breaker::new()
///     .failure_percent(25)
///     .window(Duration::from_secs(60))
///     .open_for(Duration::from_secs(1))
///     .count_if(|end| match end.error() {
///         Some(error) if error.is::<std::num::ParseIntError>() => false, // the message's fault
///         _ => end.kind().counts_by_default(),
///     });
/// # let _ = breaker;
/// ```
#[derive(Clone)]
#[must_use = "it does nothing until a subscription has it"]
pub struct Breaker {
    failure_percent: u32,
    window: Duration,
    min_endings: u32,
    consecutive_failures: u32,
    open_for: Duration,
    max_open: Duration,
    probes: u32,
    half_open_for: Duration,
    slow_after: Option<Duration>,
    counts: Option<Predicate>,
}

type Predicate = Arc<dyn Fn(&CallEnd<'_>) -> bool + Send + Sync>;

impl Breaker {
    /// Returns the default settings, which each method names.
    pub fn new() -> Self {
        Self {
            failure_percent: 50,
            window: Duration::from_secs(30),
            min_endings: 20,
            consecutive_failures: 10,
            open_for: Duration::from_secs(5),
            max_open: Duration::from_secs(60),
            probes: 8,
            half_open_for: Duration::from_secs(60),
            slow_after: None,
            counts: None,
        }
    }

    /// Sets the percentage of failures that opens the breaker, of all endings that count. The
    /// default is 50, and the range is 1 to 100.
    ///
    /// Only a failure opens the breaker, never a success. A round of probes fails by the same
    /// percentage.
    pub fn failure_percent(self, percent: u32) -> Self {
        Self {
            failure_percent: percent,
            ..self
        }
    }

    /// Sets the time over which endings are counted. The default is 30 seconds.
    ///
    /// Endings leave the window by tenths of it.
    pub fn window(self, window: Duration) -> Self {
        Self { window, ..self }
    }

    /// Sets how many endings the window must hold before their percentage can open the breaker. The
    /// default is 20, and the least is 1.
    ///
    /// `u32::MAX` is never reached, so that only failures in a row open it.
    pub fn min_endings(self, endings: u32) -> Self {
        Self {
            min_endings: endings,
            ..self
        }
    }

    /// Sets how many failures in a row open the breaker, however long that takes. The default is
    /// 10, and the least is 1.
    ///
    /// It serves a subscription that is too quiet for the window. `u32::MAX` is no limit.
    pub fn consecutive_failures(self, failures: u32) -> Self {
        Self {
            consecutive_failures: failures,
            ..self
        }
    }

    /// Sets how long the breaker is open the first time. The default is 5 seconds.
    ///
    /// The time doubles with each opening that follows before the breaker was closed, up to
    /// [`max_open`](Self::max_open). It is spread evenly between its half and its full length. So
    /// subscriptions that share a dependency don't all probe it at once.
    ///
    /// If the failure that opens the breaker [asked for a delay](crate::Nack::retry_after), that
    /// delay is the open time, without spread and up to `max_open`.
    pub fn open_for(self, time: Duration) -> Self {
        Self {
            open_for: time,
            ..self
        }
    }

    /// Sets the longest time that the breaker is open between two probes. The default is 60
    /// seconds.
    pub fn max_open(self, time: Duration) -> Self {
        Self {
            max_open: time,
            ..self
        }
    }

    /// Sets the size of the last round of probes, after which the breaker is closed. The default is
    /// 8, and the least is 1.
    ///
    /// The first round has one probe, and each further one twice as many. So a dependency that has
    /// just come back isn't flooded.
    pub fn probes(self, probes: u32) -> Self {
        Self { probes, ..self }
    }

    /// Sets how long a round of probes may take. The default is 60 seconds.
    ///
    /// The time begins with the first probe of the round. A round that takes longer has failed, and
    /// the results of its probes no longer count. So choose a time that is longer than any call of
    /// the handler that deserves to succeed.
    pub fn half_open_for(self, time: Duration) -> Self {
        Self {
            half_open_for: time,
            ..self
        }
    }

    /// Counts a success as a failure if the call took at least this long. By default none does.
    ///
    /// The delivery is acked all the same.
    pub fn slow_after(self, time: Duration) -> Self {
        Self {
            slow_after: Some(time),
            ..self
        }
    }

    /// Sets which endings are failures, apart from acks, for which it isn't asked.
    ///
    /// An ending for which it returns `false` is ignored: it is neither a failure nor a success.
    /// Without it, [`EndKind::counts_by_default`] decides, and so it does if this one panics.
    pub fn count_if(self, counts: impl Fn(&CallEnd<'_>) -> bool + Send + Sync + 'static) -> Self {
        Self {
            counts: Some(Arc::new(counts)),
            ..self
        }
    }

    /// Sorts an ending, of a call that took this long, by the rules of the user.
    ///
    /// It may panic where the user's predicate does.
    pub(crate) fn outcome(&self, end: &CallEnd<'_>, took: Duration) -> Outcome {
        let is_failure = match (end.kind, &self.counts) {
            (EndKind::Acked, _) => match self.slow_after {
                Some(limit) if took >= limit => true,
                _ => return Outcome::Success,
            },
            (kind, None) => kind.counts_by_default(),
            (_, Some(counts)) => counts(end),
        };
        match is_failure {
            true => Outcome::Failure {
                retry_after_ns: end.retry_after.map(nanos),
            },
            false => Outcome::Ignored,
        }
    }

    /// Refuses settings that are out of range or could never take effect.
    pub(crate) fn check(&self) -> Result<(), SettingError> {
        if !(1..=100).contains(&self.failure_percent) {
            let rule = "must be between 1 and 100";
            let percent = self.failure_percent;
            return Err(SettingError::new("failure_percent", percent, rule));
        }
        let counts = [
            ("min_endings", self.min_endings),
            ("consecutive_failures", self.consecutive_failures),
            ("probes", self.probes),
        ];
        if let Some((setting, _)) = counts.into_iter().find(|(_, count)| *count == 0) {
            return Err(SettingError::new(setting, 0, "must be at least 1"));
        }
        let times = [
            (
                "window",
                self.window,
                "must be longer, or it would hold no ending",
            ),
            (
                "open_for",
                self.open_for,
                "must be longer, or the breaker would never hold anything",
            ),
            (
                "half_open_for",
                self.half_open_for,
                "must be longer, or no probe would succeed",
            ),
            (
                "slow_after",
                self.slow_after.unwrap_or(Duration::MAX),
                "must be longer, or every success would be slow",
            ),
        ];
        if let Some((setting, _, rule)) = times.into_iter().find(|(_, time, _)| time.is_zero()) {
            return Err(SettingError::new(setting, "zero", rule));
        }
        if self.max_open < self.open_for {
            let rule = "must not be below the first open time, which could never take effect";
            let longest = format_args!("{:?}", self.max_open);
            return Err(SettingError::new("max_open", longest, rule));
        }
        Ok(())
    }
}

impl Default for Breaker {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Breaker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Breaker")
            .field("failure_percent", &self.failure_percent)
            .field("window", &self.window)
            .field("min_endings", &self.min_endings)
            .field("consecutive_failures", &self.consecutive_failures)
            .field("open_for", &self.open_for)
            .field("max_open", &self.max_open)
            .field("probes", &self.probes)
            .field("half_open_for", &self.half_open_for)
            .field("slow_after", &self.slow_after)
            .field("counts", &self.counts.is_some())
            .finish()
    }
}

/// The way in which a call of a handler ended, or the lease of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EndKind {
    /// The handler succeeded, or the lease was acked.
    Acked,
    /// The handler returned an error or a [nack](crate::Nack::retry) that asks for another attempt.
    Nacked,
    /// The nack [asked for the dead letters](crate::Nack::dead_letter).
    DeadLettered,
    /// The nack [asked to discard](crate::Nack::discard) the delivery.
    Discarded,
    /// The nack put the delivery off, by a [requeue](crate::Nack::requeue) or a
    /// [snooze](crate::Nack::snooze).
    PutOff,
    /// The handler panicked.
    Panicked,
    /// The call or the lease took longer than its deadline.
    TimedOut,
    /// The lease was dropped without being settled.
    Abandoned,
    /// The call was cut off, because its subscription or the broker ended.
    Cancelled,
}

labels!(EndKind {
    Self::Acked => "acked",
    Self::Nacked => "nacked",
    Self::DeadLettered => "dead_lettered",
    Self::Discarded => "discarded",
    Self::PutOff => "put_off",
    Self::Panicked => "panicked",
    Self::TimedOut => "timed_out",
    Self::Abandoned => "abandoned",
    Self::Cancelled => "cancelled",
});

impl EndKind {
    /// Returns whether a breaker without a predicate counts such an ending as a failure.
    ///
    /// Nacks that ask for another attempt, panics and timeouts count: they suggest that a
    /// dependency fails. A delivery that is dead-lettered or discarded at once has a fault of its
    /// own. The other endings say nothing about a dependency.
    pub fn counts_by_default(self) -> bool {
        matches!(self, Self::Nacked | Self::Panicked | Self::TimedOut)
    }
}

/// One ending, as the predicate of a [`Breaker`] sees it.
#[derive(Clone, Copy)]
pub struct CallEnd<'a> {
    kind: EndKind,
    retry_after: Option<Duration>,
    error: Option<&'a (dyn Error + Send + Sync + 'static)>,
}

impl<'a> CallEnd<'a> {
    /// Makes an ending without an error, to test a predicate with.
    pub fn new(kind: EndKind) -> Self {
        Self {
            kind,
            retry_after: None,
            error: None,
        }
    }

    /// Returns the same ending, with the error that the handler returned.
    #[must_use]
    pub fn with_error(self, error: &'a (dyn Error + Send + Sync + 'static)) -> Self {
        Self {
            error: Some(error),
            ..self
        }
    }

    /// Returns the same ending, with the delay that its nack asked for.
    #[must_use]
    pub fn with_retry_after(self, delay: Duration) -> Self {
        Self {
            retry_after: Some(delay),
            ..self
        }
    }

    /// Returns the way in which the call ended.
    pub fn kind(&self) -> EndKind {
        self.kind
    }

    /// Returns the delay that the nack [asked for](crate::Nack::retry_after), if it did.
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// Returns the error itself, if the handler or the nack of the lease gave one.
    ///
    /// A predicate can downcast it.
    pub fn error(&self) -> Option<&(dyn Error + 'static)> {
        self.error.map(|error| error as &(dyn Error + 'static))
    }
}

impl fmt::Debug for CallEnd<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallEnd")
            .field("kind", &self.kind)
            .field("retry_after", &self.retry_after)
            .field("error", &self.error.is_some())
            .finish()
    }
}

/// The meaning of an ending for the breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Success,
    /// A failure, and the delay that the handler asked for.
    Failure {
        retry_after_ns: Option<u64>,
    },
    /// Neither: only the permit comes back.
    Ignored,
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const FAILURE: Outcome = Outcome::Failure {
        retry_after_ns: None,
    };

    #[test]
    fn what_suggests_a_failing_dependency_counts_by_default() {
        let table = [
            (EndKind::Acked, Outcome::Success),
            (EndKind::Nacked, FAILURE),
            (EndKind::Panicked, FAILURE),
            (EndKind::TimedOut, FAILURE),
            (EndKind::DeadLettered, Outcome::Ignored),
            (EndKind::Discarded, Outcome::Ignored),
            (EndKind::PutOff, Outcome::Ignored),
            (EndKind::Abandoned, Outcome::Ignored),
            (EndKind::Cancelled, Outcome::Ignored),
        ];
        for (kind, outcome) in table {
            let end = CallEnd::new(kind);
            assert_eq!(Breaker::new().outcome(&end, MS), outcome, "{kind}");
        }
    }

    #[test]
    fn a_predicate_decides_on_everything_but_acks() {
        let picky = Breaker::new().count_if(|end| {
            let is_parse = |error: &(dyn Error + 'static)| error.is::<std::num::ParseIntError>();
            end.kind() == EndKind::DeadLettered || end.error().is_some_and(is_parse)
        });
        let error = "x".parse::<u8>().expect_err("x is no number");
        let nacked = CallEnd::new(EndKind::Nacked);
        let table = [
            (nacked, Outcome::Ignored),
            (nacked.with_error(&fmt::Error), Outcome::Ignored),
            (nacked.with_error(&error), FAILURE),
            (CallEnd::new(EndKind::DeadLettered), FAILURE),
            (CallEnd::new(EndKind::Acked), Outcome::Success),
        ];
        for (end, outcome) in table {
            assert_eq!(picky.outcome(&end, MS), outcome, "{end:?}");
        }
    }

    #[test]
    fn a_slow_success_is_a_failure_if_that_was_asked_for() {
        let acked = CallEnd::new(EndKind::Acked);
        let slow = Breaker::new().slow_after(MS * 10);
        assert_eq!(slow.outcome(&acked, MS * 9), Outcome::Success);
        assert_eq!(slow.outcome(&acked, MS * 10), FAILURE);
        assert_eq!(slow.count_if(|_| false).outcome(&acked, MS * 10), FAILURE);
    }

    #[test]
    fn a_failure_keeps_the_delay_that_its_nack_asked_for() {
        let end = CallEnd::new(EndKind::Nacked).with_retry_after(MS);
        let told = Outcome::Failure {
            retry_after_ns: Some(1_000_000),
        };
        assert_eq!(Breaker::new().outcome(&end, MS), told);
    }

    #[test]
    fn settings_out_of_range_or_without_effect_are_refused_by_their_name() {
        let zero = Duration::ZERO;
        let table = [
            ("", Breaker::new()),
            ("", Breaker::new().open_for(MS).max_open(MS)),
            (
                "",
                Breaker::new()
                    .min_endings(u32::MAX)
                    .consecutive_failures(u32::MAX),
            ),
            ("failure_percent", Breaker::new().failure_percent(0)),
            ("failure_percent", Breaker::new().failure_percent(101)),
            ("min_endings", Breaker::new().min_endings(0)),
            (
                "consecutive_failures",
                Breaker::new().consecutive_failures(0),
            ),
            ("probes", Breaker::new().probes(0)),
            ("window", Breaker::new().window(zero)),
            ("open_for", Breaker::new().open_for(zero)),
            ("half_open_for", Breaker::new().half_open_for(zero)),
            ("slow_after", Breaker::new().slow_after(zero)),
            ("max_open", Breaker::new().open_for(MS).max_open(MS / 2)),
        ];
        for (setting, breaker) in table {
            let refused = breaker.check().err();
            let refused = refused.as_ref().map_or("", SettingError::setting);
            assert_eq!(refused, setting, "{breaker:?}");
        }
    }
}
