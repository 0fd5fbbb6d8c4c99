//! The decision after a failed attempt: another one, when, or none.

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::pure::decide::key_hash::{fnv1a, mix};
use crate::types::error::SettingError;
use crate::types::labels;

/// One failed attempt, as a [`RetryPolicy`] sees it.
pub struct FailedAttempt<'a> {
    pub(crate) attempt: u32,
    pub(crate) elapsed: Duration,
    pub(crate) kind: FailureKind,
    pub(crate) text: &'a str,
    pub(crate) error: Option<&'a (dyn Error + Send + Sync + 'static)>,
    pub(crate) random: u64,
}

/// The way in which an attempt failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
#[non_exhaustive]
pub enum FailureKind {
    /// The handler returned an error, or the lease was nacked.
    Error,
    /// The handler panicked.
    Panic,
    /// The handler's call outlived its timeout, or the lease its ack deadline.
    Timeout,
    /// The delivery was leased, and its lease was dropped without being settled.
    Abandoned,
}

labels!(FailureKind {
    Self::Error => "error",
    Self::Panic => "panic",
    Self::Timeout => "timeout",
    Self::Abandoned => "abandoned",
});

impl<'a> FailedAttempt<'a> {
    /// Makes a failure to test a policy with. Its kind is [`FailureKind::Error`].
    pub fn new(attempt: u32, elapsed: Duration, text: &'a str) -> Self {
        Self {
            attempt,
            elapsed,
            kind: FailureKind::Error,
            text,
            error: None,
            random: 0,
        }
    }

    /// Returns the same failure, with the error that a handler returned.
    #[must_use]
    pub fn with_error(self, error: &'a (dyn Error + Send + Sync + 'static)) -> Self {
        Self {
            error: Some(error),
            ..self
        }
    }

    /// Returns the same failure, as a panic.
    #[must_use]
    pub fn as_panic(self) -> Self {
        Self {
            kind: FailureKind::Panic,
            ..self
        }
    }

    /// Returns the same failure, with these bits for jitter.
    #[must_use]
    pub fn with_random(self, random: u64) -> Self {
        Self { random, ..self }
    }

    /// Returns the number of the attempt that failed: 1 is the first.
    ///
    /// It counts entries into the handler, or leases. Attempts that ended by
    /// [`Nack::requeue`](crate::Nack::requeue) or [`Nack::snooze`](crate::Nack::snooze) are not
    /// counted.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// Returns the time since the first attempt began.
    pub fn elapsed(&self) -> Duration {
        self.elapsed
    }

    /// Returns the way in which the attempt failed.
    pub fn kind(&self) -> FailureKind {
        self.kind
    }

    /// Returns the text of the failure.
    ///
    /// It is the text of the error and its [sources](Error::source), as in "a: b: c", the panic's
    /// message, or the fate of the lease. A text of more than 4,096 bytes is cut, and ends with an
    /// ellipsis.
    pub fn text(&self) -> &str {
        self.text
    }

    /// Returns the error itself, if the handler or the nack of the lease gave one.
    ///
    /// A classifier can downcast it.
    pub fn error(&self) -> Option<&(dyn Error + 'static)> {
        self.error.map(|error| error as &(dyn Error + 'static))
    }

    /// Returns sixty-four bits for jitter.
    ///
    /// They differ for each broker, topic, subscription, message, redrive and attempt. They depend
    /// on nothing else, neither on time nor on threads. So a broker with the same
    /// [`seed`](crate::BrokerBuilder::seed) can repeat a run.
    pub fn random(&self) -> u64 {
        self.random
    }
}

impl fmt::Debug for FailedAttempt<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FailedAttempt")
            .field("attempt", &self.attempt)
            .field("elapsed", &self.elapsed)
            .field("kind", &self.kind)
            .field("text", &self.text)
            .finish_non_exhaustive()
    }
}

/// The decision of a [`RetryPolicy`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Decision {
    /// Try again after this time.
    RetryAfter(Duration),
    /// The limits are used up: dead-letter the delivery as exhausted.
    Exhausted,
    /// Trying again can't help: dead-letter the delivery as rejected.
    DeadLetter,
    /// Drop the delivery. It is counted as dropped.
    Discard,
}

/// A policy that decides what follows a failed attempt. Implement it for your own rules, or make one
/// of a closure with [`retry_fn`](crate::retry::retry_fn). A `Box` or an `Arc` of a policy is a policy, so it
/// can be chosen at run time.
///
/// It decides once per failure, outside every lock. A worker calls it, or a thread that receives or
/// settles leases. If it panics, the delivery is dead-lettered with that as the reason, and nothing
/// is lost.
pub trait RetryPolicy: Send + Sync + 'static {
    /// Decides what follows this failure.
    fn decide(&self, failed: &FailedAttempt<'_>) -> Decision;

    /// Decides what follows a failure whose nack asked for a delay of its own.
    ///
    /// [`Nack::retry_after`](crate::Nack::retry_after) asks for that delay. This method is then
    /// called instead of [`decide`](Self::decide), and has the last word.
    ///
    /// By default, a retry that `decide` grants comes after `requested`. Implement this method for
    /// a policy whose limits depend on the delay, or that wraps another.
    fn decide_requested(&self, failed: &FailedAttempt<'_>, requested: Duration) -> Decision {
        match self.decide(failed) {
            Decision::RetryAfter(_) => Decision::RetryAfter(requested),
            otherwise => otherwise,
        }
    }

    /// Refuses settings that could never take effect. By default it accepts everything.
    ///
    /// It is called once, when the policy is installed.
    ///
    /// # Errors
    ///
    /// Returns [`SettingError`], with the setting's name and the rule that it breaks.
    fn check(&self) -> Result<(), SettingError> {
        Ok(())
    }

    /// Returns whether the other policy decides as this one does in every case.
    ///
    /// [`open`](crate::TopicBuilder::open) asks it, when a call that joins a topic gives a policy.
    /// By default it returns `false`: the two can't be compared. Policies that are values compare
    /// themselves. An `Arc` agrees with its clones.
    fn same_as(&self, other: &Self) -> bool
    where
        Self: Sized,
    {
        let _ = other;
        false
    }
}

/// The classifier's verdict on an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Class {
    /// The error may pass: try again within the limits.
    Retry,
    /// The error won't pass: dead-letter the delivery now.
    DeadLetter,
    /// The delivery doesn't matter: drop it.
    Discard,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    Fixed,
    Linear,
    Exponential,
}

type Classifier = Arc<dyn Fn(&FailedAttempt<'_>) -> Class + Send + Sync>;

/// The usual retry policies: a delay that is fixed, grows linearly or doubles.
///
/// [`Backoff::default`] is linear: 250 ms times the attempt, and three attempts in all.
///
/// ```
/// use millstream::Backoff;
/// use millstream::retry::Class;
/// use std::time::Duration;
///
/// let policy = Backoff::exponential(Duration::from_millis(10))
///     .cap(Duration::from_secs(5))
///     .jitter()
///     .max_attempts(8)
///     .max_elapsed(Duration::from_secs(60))
///     .classify(|failed| match failed.error() {
///         Some(error) if error.is::<std::num::ParseIntError>() => Class::DeadLetter,
///         _ => Class::Retry,
///     });
/// # let _ = policy;
/// ```
#[derive(Clone)]
pub struct Backoff {
    shape: Shape,
    base: Duration,
    cap: Option<Duration>,
    jitter_seed: Option<u64>,
    max_attempts: u32,
    max_elapsed: Option<Duration>,
    classifier: Option<Classifier>,
}

const DEFAULT_FACTOR: Duration = Duration::from_millis(250);
const DEFAULT_ATTEMPTS: u32 = 3;

impl Backoff {
    fn of(shape: Shape, base: Duration) -> Self {
        Self {
            shape,
            base,
            cap: None,
            jitter_seed: None,
            max_attempts: DEFAULT_ATTEMPTS,
            max_elapsed: None,
            classifier: None,
        }
    }

    /// Returns a policy without retries: the first failure is dead-lettered.
    pub fn none() -> Self {
        Self::of(Shape::Fixed, Duration::ZERO).max_attempts(1)
    }

    /// Returns a policy with the same delay before every retry.
    pub fn fixed(delay: Duration) -> Self {
        Self::of(Shape::Fixed, delay)
    }

    /// Returns a policy whose delay is `factor` × the number of the attempt that failed.
    pub fn linear(factor: Duration) -> Self {
        Self::of(Shape::Linear, factor)
    }

    /// Returns a policy whose delay is `base` after the first failure, and doubles after each
    /// further one.
    ///
    /// The delay grows up to the [`cap`](Self::cap) or, without one, the longest duration there is.
    pub fn exponential(base: Duration) -> Self {
        Self::of(Shape::Exponential, base)
    }

    /// Sets the longest delay. The default is none.
    ///
    /// It also limits a delay that the handler [asked for](crate::Nack::retry_after).
    #[must_use]
    pub fn cap(self, cap: Duration) -> Self {
        Self {
            cap: Some(cap),
            ..self
        }
    }

    /// Spreads each delay evenly between zero and its full length.
    ///
    /// So deliveries that failed together don't come back together ("full jitter", AWS Architecture
    /// Blog 2015, "Exponential Backoff And Jitter"). Jitter is drawn from
    /// [`FailedAttempt::random`]. So a broker with a [`seed`](crate::BrokerBuilder::seed) repeats
    /// its delays, and others don't.
    #[must_use]
    pub fn jitter(self) -> Self {
        self.full_jitter(0)
    }

    /// Spreads delays as [`jitter`](Self::jitter) does, with a number of the policy's own mixed in.
    ///
    /// Policies with different numbers draw different delays for the same failure. The number alone
    /// does not make delays repeatable; the broker's [`seed`](crate::BrokerBuilder::seed) does.
    #[must_use]
    pub fn full_jitter(self, seed: u64) -> Self {
        Self {
            jitter_seed: Some(seed),
            ..self
        }
    }

    /// Sets the most entries into the handler, the first included. The default is 3.
    ///
    /// Attempts that ended by [`Nack::requeue`](crate::Nack::requeue) or
    /// [`Nack::snooze`](crate::Nack::snooze) are not counted. `u32::MAX` is no limit.
    #[must_use]
    pub fn max_attempts(self, n: u32) -> Self {
        Self {
            max_attempts: n,
            ..self
        }
    }

    /// Sets the longest time from the beginning of the first attempt to a retry. The default is
    /// none.
    ///
    /// The policy judges by the delay that the retry would really have, which may be the one that
    /// the handler [asked for](crate::Nack::retry_after). So a limit below the policy's own first
    /// delay leaves the retries that handlers ask for. A limit of zero would leave none and is
    /// refused.
    #[must_use]
    pub fn max_elapsed(self, limit: Duration) -> Self {
        Self {
            max_elapsed: Some(limit),
            ..self
        }
    }

    /// Sets the classifier, which sorts errors into those worth another attempt and others.
    ///
    /// Without one, every failure is worth another attempt.
    #[must_use]
    pub fn classify(
        self,
        classifier: impl Fn(&FailedAttempt<'_>) -> Class + Send + Sync + 'static,
    ) -> Self {
        Self {
            classifier: Some(Arc::new(classifier)),
            ..self
        }
    }

    /// Decides. `requested` is the delay that the handler asked for.
    fn judge(&self, failed: &FailedAttempt<'_>, requested: Option<Duration>) -> Decision {
        match self.classifier.as_ref().map(|classify| classify(failed)) {
            Some(Class::DeadLetter) => return Decision::DeadLetter,
            Some(Class::Discard) => return Decision::Discard,
            Some(Class::Retry) | None => {}
        }
        if failed.attempt >= self.max_attempts {
            return Decision::Exhausted;
        }
        let delay = match requested {
            Some(requested) => self.capped(requested),
            None => self.delay(failed),
        };
        match self.max_elapsed {
            Some(limit) if failed.elapsed.saturating_add(delay) > limit => Decision::Exhausted,
            _ => Decision::RetryAfter(delay),
        }
    }

    fn capped(&self, delay: Duration) -> Duration {
        self.cap.map_or(delay, |cap| delay.min(cap))
    }

    fn delay(&self, failed: &FailedAttempt<'_>) -> Duration {
        let delay = match self.shape {
            Shape::Fixed => self.base,
            Shape::Linear => self.base.saturating_mul(failed.attempt),
            Shape::Exponential => doubled(self.base, failed.attempt.saturating_sub(1)),
        };
        let delay = self.capped(delay);
        match self.jitter_seed {
            Some(seed) => scaled(delay, mix(seed ^ failed.random)),
            None => delay,
        }
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self::linear(DEFAULT_FACTOR)
    }
}

impl RetryPolicy for Backoff {
    fn decide(&self, failed: &FailedAttempt<'_>) -> Decision {
        self.judge(failed, None)
    }

    fn decide_requested(&self, failed: &FailedAttempt<'_>, requested: Duration) -> Decision {
        self.judge(failed, Some(requested))
    }

    fn check(&self) -> Result<(), SettingError> {
        if self.max_attempts == 0 {
            return Err(SettingError::new(
                "max_attempts",
                0,
                "must be at least 1: the first delivery is an attempt",
            ));
        }
        if let Some(cap) = self.cap.filter(|cap| *cap < self.base) {
            return Err(SettingError::new(
                "cap",
                format_args!("{cap:?}"),
                "must not be below the first delay, which could never take effect",
            ));
        }
        if self.max_elapsed == Some(Duration::ZERO) {
            return Err(SettingError::new(
                "max_elapsed",
                "zero",
                "must be longer, or no retry could ever be made",
            ));
        }
        Ok(())
    }

    fn same_as(&self, other: &Self) -> bool {
        self == other
    }
}

/// Two policies are equal if all their settings are.
///
/// Classifiers can't be compared. So a policy with one equals only its clones.
impl PartialEq for Backoff {
    fn eq(&self, other: &Self) -> bool {
        let is_shared = match (&self.classifier, &other.classifier) {
            (None, None) => true,
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            _ => false,
        };
        is_shared
            && self.shape == other.shape
            && self.base == other.base
            && self.cap == other.cap
            && self.jitter_seed == other.jitter_seed
            && self.max_attempts == other.max_attempts
            && self.max_elapsed == other.max_elapsed
    }
}

impl Eq for Backoff {}

impl fmt::Debug for Backoff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Backoff")
            .field("shape", &self.shape)
            .field("base", &self.base)
            .field("cap", &self.cap)
            .field("jitter_seed", &self.jitter_seed)
            .field("max_attempts", &self.max_attempts)
            .field("max_elapsed", &self.max_elapsed)
            .field("classified", &self.classifier.is_some())
            .finish()
    }
}

/// Hashes the names of a topic and a subscription with the broker's seed.
///
/// It keeps jitter apart between messages that have the same ids, and never changes.
pub(crate) fn salt(seed: u64, names: [&str; 2]) -> u64 {
    names
        .iter()
        .fold(seed, |salt, name| mix(salt ^ fnv1a(name.as_bytes())))
}

/// Returns the bits for jitter of one failed attempt.
pub(crate) fn random(salt: u64, id: u64, generation: u16, attempt: u32) -> u64 {
    let try_of_all = u64::from(generation) << 32 | u64::from(attempt);
    mix(mix(salt ^ id) ^ try_of_all)
}

/// A nanosecond that is doubled this often is longer than any duration.
const MOST_DOUBLINGS: u32 = 94;

/// Returns `delay` × 2^`times`, or the longest duration if that is less.
fn doubled(delay: Duration, times: u32) -> Duration {
    (0..times.min(MOST_DOUBLINGS)).fold(delay, |delay, _| delay.saturating_mul(2))
}

/// Returns `delay` × `random` / 2⁶⁴.
///
/// Seconds and nanoseconds are scaled apart, because their sum in nanoseconds times 64 bits would
/// not fit.
fn scaled(delay: Duration, random: u64) -> Duration {
    let seconds = u128::from(delay.as_secs()) * u128::from(random);
    // The part of a second that is left over, in units of 2⁻⁶⁴ s.
    let rest = u128::from(seconds as u64) * 1_000_000_000;
    let nanos = u128::from(delay.subsec_nanos()) * u128::from(random);
    Duration::from_secs((seconds >> 64) as u64)
        + Duration::from_nanos(((rest + nanos) >> 64) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn failed(attempt: u32) -> FailedAttempt<'static> {
        FailedAttempt::new(attempt, MS * attempt, "no luck")
    }

    fn delays(policy: &Backoff) -> Vec<Duration> {
        (1..)
            .map_while(|attempt| match policy.decide(&failed(attempt)) {
                Decision::RetryAfter(delay) => Some(delay),
                _ => None,
            })
            .collect()
    }

    #[test]
    fn the_default_is_linear_with_three_attempts() {
        assert_eq!(delays(&Backoff::default()), [MS * 250, MS * 500]);
    }

    #[test]
    fn max_attempts_counts_the_first_delivery() {
        assert!(delays(&Backoff::none()).is_empty());
        assert_eq!(delays(&Backoff::fixed(MS).max_attempts(4)), [MS; 3]);
    }

    #[test]
    fn exponential_doubles_up_to_its_cap_and_never_overflows() {
        let policy = Backoff::exponential(MS).cap(MS * 5).max_attempts(6);
        assert_eq!(delays(&policy), [MS, MS * 2, MS * 4, MS * 5, MS * 5]);
        let endless = Backoff::exponential(Duration::MAX).max_attempts(u32::MAX);
        assert_eq!(
            endless.decide(&failed(1_000_000)),
            Decision::RetryAfter(Duration::MAX)
        );
    }

    #[test]
    fn exponential_doubles_for_as_long_as_a_duration_holds_it() {
        let policy = Backoff::exponential(Duration::from_nanos(1)).max_attempts(u32::MAX);
        let delay = |policy: &Backoff, attempt| match policy.decide(&failed(attempt)) {
            Decision::RetryAfter(delay) => delay,
            other => panic!("expected a retry, got {other:?}"),
        };
        for attempt in 1..94 {
            let before = delay(&policy, attempt);
            assert_eq!(delay(&policy, attempt + 1), before * 2, "attempt {attempt}");
        }
        for attempt in [95, 96, 1_000_000, u32::MAX - 1] {
            assert_eq!(delay(&policy, attempt), Duration::MAX, "attempt {attempt}");
        }
        let capped = policy.cap(Duration::from_secs(3_600));
        assert_eq!(delay(&capped, 64), Duration::from_secs(3_600));
        let zero = Backoff::exponential(Duration::ZERO).max_attempts(u32::MAX);
        assert_eq!(delay(&zero, 1_000), Duration::ZERO);
    }

    #[test]
    fn jitter_spreads_delays_of_any_length() {
        let all = u64::MAX;
        let ns = Duration::from_nanos;
        assert_eq!(scaled(ns(8), 1 << 63), ns(4));
        assert_eq!(scaled(ns(3_000_000_000), 1 << 63), ns(1_500_000_000));
        assert_eq!(scaled(Duration::MAX, 0), Duration::ZERO);
        assert_eq!(scaled(Duration::MAX, 1 << 63), Duration::MAX / 2);
        assert!(scaled(Duration::MAX, all) > Duration::MAX - Duration::from_secs(3));
        assert!(scaled(MS, all) < MS && scaled(MS, all) >= MS - ns(1));
    }

    #[test]
    fn a_retry_past_max_elapsed_is_not_made() {
        let policy = Backoff::fixed(MS * 10)
            .max_attempts(100)
            .max_elapsed(MS * 13);
        assert_eq!(delays(&policy).len(), 3);
    }

    #[test]
    fn a_requested_delay_is_judged_as_the_one_that_is_used() {
        let policy = Backoff::fixed(MS * 120).cap(MS * 150).max_attempts(4);
        let asked =
            |policy: &Backoff, attempt, delay| policy.decide_requested(&failed(attempt), delay);
        assert_eq!(asked(&policy, 1, MS), Decision::RetryAfter(MS));
        assert_eq!(asked(&policy, 1, MS * 900), Decision::RetryAfter(MS * 150));
        assert_eq!(asked(&policy, 4, MS), Decision::Exhausted);
        let limited = policy.max_elapsed(MS * 60).jitter();
        // The first attempt failed after 1 ms.
        assert_eq!(asked(&limited, 1, MS * 59), Decision::RetryAfter(MS * 59));
        assert_eq!(asked(&limited, 1, MS * 60), Decision::Exhausted);
        let picky = limited.classify(|_| Class::Discard);
        assert_eq!(asked(&picky, 1, MS), Decision::Discard);
    }

    #[test]
    fn full_jitter_stays_within_the_delay_and_repeats_with_its_seed() {
        let policy = |seed| Backoff::fixed(MS * 100).full_jitter(seed);
        let delay = |seed, random| match policy(seed).decide(&failed(1).with_random(random)) {
            Decision::RetryAfter(delay) => delay,
            other => panic!("expected a retry, got {other:?}"),
        };
        let some: Vec<_> = (0..100).map(|random| delay(7, random)).collect();
        let again: Vec<_> = (0..100).map(|random| delay(7, random)).collect();
        let other: Vec<_> = (0..100).map(|random| delay(8, random)).collect();
        assert_eq!(some, again);
        assert_ne!(some, other);
        assert!(some.iter().all(|delay| *delay <= MS * 100));
        let mean = some.iter().sum::<Duration>() / 100;
        assert!(mean > MS * 35 && mean < MS * 65, "mean {mean:?}");
    }

    #[test]
    fn what_jitter_is_drawn_from_is_frozen() {
        let salt = salt(42, ["orders", "billing"]);
        assert_eq!(random(salt, 7, 3, 2), 0x5bd3_d879_f340_2adb);
    }

    #[test]
    fn a_classifier_comes_before_the_limits() {
        let policy = Backoff::fixed(MS).classify(|failed| match failed.text() {
            "no luck" => Class::Discard,
            _ => Class::DeadLetter,
        });
        assert_eq!(policy.decide(&failed(1)), Decision::Discard);
        assert_eq!(
            policy.decide(&FailedAttempt::new(1, MS, "poison")),
            Decision::DeadLetter
        );
    }

    #[test]
    fn settings_without_effect_are_refused() {
        assert!(Backoff::fixed(MS).max_attempts(0).check().is_err());
        assert!(Backoff::fixed(MS * 2).cap(MS).check().is_err());
        assert!(Backoff::fixed(MS).cap(MS).check().is_ok());
        let limited = |limit| Backoff::fixed(MS).max_elapsed(limit).check();
        assert!(limited(Duration::ZERO).is_err());
        assert!(limited(MS / 2).is_ok(), "a handler may ask for less");
        assert!(Backoff::none().check().is_ok());
    }
}
