//! Redrives: letters that go back to the subscription that failed, or elsewhere.

use std::fmt;
use std::time::Duration;

use crate::engine::publish::ask::Wait;
use crate::engine::reading::redrive::Stays;
use crate::engine::runtime::context;
use crate::sync::{Instant, sleep};
use crate::topic::Topic;
use crate::topic::letters::dead_letters::{DeadLetter, DeadLetters};
use crate::topic::letters::redriver::{Redriver, meta_of};
use crate::types::error::SettingError;

/// How a redrive goes: whether it waits for room, at which rate, and where to.
///
/// By default it doesn't wait, has no rate, and sends letters back to the subscription that failed.
///
/// ```
/// use millstream::{Broker, Nack};
/// use millstream::dead_letters::RedriveOptions;
/// use std::time::Duration;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let broker = Broker::new()?;
/// let orders = broker.topic::<u64>("orders").open()?;
/// let by_hand = broker.topic::<u64>("orders.by-hand").open()?;
/// let _billing = orders.subscribe("billing", |_| Err(Nack::dead_letter("no such account")))?;
/// let _desk = by_hand.subscribe("desk", |order| {
///     assert_eq!(order.header("dead-letter-topic"), Some("orders"));
///     Ok(())
/// })?;
/// orders.publish_batch([7, 8])?;
/// # broker.wait_until_idle(Duration::from_secs(5));
///
/// let options = RedriveOptions::new()
///     .to(&by_hand)
///     .rate(100) // a second
///     .wait(Duration::from_secs(5)); // for room
/// let redrive = orders.dead_letters().redrive_with(options, |_| true)?;
/// assert_eq!(redrive.redriven, 2);
/// # Ok(())
/// # }
/// ```
pub struct RedriveOptions<T: Send + Sync + 'static> {
    pub(crate) wait: Duration,
    pub(crate) rate: Option<u32>,
    pub(crate) to: Option<Elsewhere<T>>,
}

/// Another topic for letters, and how their payloads are copied.
pub(crate) struct Elsewhere<T: Send + Sync + 'static> {
    pub(crate) topic: Topic<T>,
    pub(crate) copy: fn(&T) -> T,
}

impl<T: Send + Sync + 'static> RedriveOptions<T> {
    /// Makes the default options.
    pub fn new() -> Self {
        Self {
            wait: Duration::ZERO,
            rate: None,
            to: None,
        }
    }

    /// Sets how long the call may wait for room, in all. The default is zero.
    ///
    /// It waits for room in the lane of the subscription that failed, or in the other topic.
    /// [`redrive_with`](DeadLetters::redrive_with) never waits inside a handler of the broker. On a
    /// broker without workers it runs the broker once instead.
    #[must_use]
    pub fn wait(mut self, at_most: Duration) -> Self {
        self.wait = at_most;
        self
    }

    /// Sets how many letters go in a second, at most. By default there is no such limit.
    ///
    /// [`redrive_with`](DeadLetters::redrive_with) sleeps between two letters, on its own thread. So
    /// it can't keep a rate inside a handler of the broker, nor with a manual clock.
    #[must_use]
    pub fn rate(mut self, letters_per_second: u32) -> Self {
        self.rate = Some(letters_per_second);
        self
    }

    /// Sends the letters to another topic instead, as new messages with a copy of the payload.
    ///
    /// A message keeps its key and its headers. Headers that say where it came from are added:
    /// `dead-letter-topic`, `dead-letter-subscription`, `dead-letter-id` and `dead-letter-reason`.
    /// A message that is moved again has each of them twice, and
    /// [`header`](crate::Delivery::header) finds the first. A time to live of its own ends.
    ///
    /// A letter leaves the store once the topic has accepted it. Where the topic is full, its
    /// [`Overflow`](crate::Overflow) decides; a message that it drops at once leaves its letter in
    /// the store.
    #[must_use]
    pub fn to(mut self, topic: &Topic<T>) -> Self
    where
        T: Clone,
    {
        self.to = Some(Elsewhere {
            topic: topic.clone(),
            copy: T::clone,
        });
        self
    }

    pub(crate) fn check_rate(&self) -> Result<(), SettingError> {
        let rule = "must be at least one letter a second";
        match self.rate {
            Some(0) => Err(SettingError::new("rate", 0, rule)),
            _ => Ok(()),
        }
    }

    /// Returns the time that must lie between two letters.
    pub(crate) fn interval(&self) -> Duration {
        let rate = self.rate.map(|rate| Duration::from_secs(1) / rate);
        rate.unwrap_or_default()
    }
}

impl<T: Send + Sync + 'static> Default for RedriveOptions<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Send + Sync + 'static> Clone for RedriveOptions<T> {
    fn clone(&self) -> Self {
        Self {
            to: self.to.as_ref().map(|to| Elsewhere {
                topic: to.topic.clone(),
                copy: to.copy,
            }),
            ..*self
        }
    }
}

impl<T: Send + Sync + 'static> fmt::Debug for RedriveOptions<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let to = self.to.as_ref().map(|to| to.topic.name());
        f.debug_struct("RedriveOptions")
            .field("wait", &self.wait)
            .field("rate", &self.rate)
            .field("to", &to)
            .finish()
    }
}

/// The result of a redrive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
#[must_use = "a letter that could not be redriven stays in the store, and only this says so"]
pub struct Redrive {
    /// Letters that are on their way to the subscription that had failed, or to another topic.
    pub redriven: usize,
    /// Letters that stay because that subscription's lane, or that topic, is full, or was full for
    /// an earlier letter of the same key.
    pub no_room: usize,
    /// Letters that stay because no subscription with that name is open.
    pub no_subscription: usize,
    /// Letters that stay because an earlier delivery of the same key has failed again meanwhile and
    /// parks the key. Letters that a subscriber's handler has at the moment count here, too, and
    /// later ones of their key.
    pub behind: usize,
    /// Letters that stay because the topic that they were to go to is closed, or refuses messages
    /// for want of a subscription.
    pub refused: usize,
}

/// The rest of the patience of a redrive, and the time at which its next letter may go.
struct Pace {
    wait: Duration,
    interval: Duration,
    next: Option<Instant>,
}

impl Pace {
    /// Waits until the next letter may go.
    fn keep(&mut self) {
        let now = Instant::now();
        if let Some(next) = self.next {
            sleep(next.saturating_duration_since(now));
        }
    }

    /// Notes that a letter has gone.
    fn note(&mut self) {
        if !self.interval.is_zero() {
            self.next = Instant::now().checked_add(self.interval);
        }
    }

    /// Calls `attempt` with the time for which it may wait, and takes off what it has waited.
    fn patiently<R>(&mut self, attempt: impl FnOnce(Duration) -> R) -> R {
        let began = Instant::now();
        let result = attempt(self.wait);
        self.wait = self.wait.saturating_sub(began.elapsed());
        result
    }
}

impl<T: Send + Sync + 'static> DeadLetters<T> {
    /// Sends the letters that `filter` chooses back to the subscription that failed, and to no
    /// other.
    ///
    /// Letters go in the order of their messages. Each becomes a delivery of a new generation, with
    /// its attempts reset. Its time to live no longer counts: it is handled, or becomes a letter
    /// again, however old its message is.
    ///
    /// A letter stays if it can't go. Later letters of the same key then stay as well, to keep
    /// their order. The same holds behind a letter that has failed again and
    /// [parks](crate::OnExhausted::ParkKey) its key. The order of a key is lost if the filter
    /// passes over its first letter and chooses others.
    ///
    /// A full lane still takes one letter for each of its deliveries that wait for room in this
    /// store.
    pub fn redrive(&self, filter: impl FnMut(&DeadLetter<T>) -> bool) -> Redrive {
        self.send(&RedriveOptions::new(), filter)
    }

    /// Sends all letters back to the subscription that failed, as [`redrive`](Self::redrive) does.
    pub fn redrive_all(&self) -> Redrive {
        self.redrive(|_| true)
    }

    /// Sends the letters that `filter` chooses, as the options say.
    ///
    /// It does what [`redrive`](Self::redrive) does. Besides, it may wait for room, keep to a rate,
    /// and send the letters to another topic.
    ///
    /// # Errors
    ///
    /// Returns [`SettingError`] for a rate of zero. It also refuses a rate where the call can't
    /// keep it: inside a handler of the broker, and with a manual clock.
    ///
    /// # Panics
    ///
    /// Panics if the filter does, or the payload's `clone`. Letters that have not gone yet stay.
    pub fn redrive_with(
        &self,
        options: RedriveOptions<T>,
        filter: impl FnMut(&DeadLetter<T>) -> bool,
    ) -> Result<Redrive, SettingError> {
        options.check_rate()?;
        if let Some(rate) = options.rate {
            let engine = &self.topic.core.engine;
            if engine.clock.is_manual() {
                let rule = "needs a clock that moves by itself";
                return Err(SettingError::new("rate", rate, rule));
            }
            if context::is_inside(engine) {
                let rule = "can't be kept inside a handler, which never waits";
                return Err(SettingError::new("rate", rate, rule));
            }
        }
        Ok(self.send(&options, filter))
    }

    fn send(
        &self,
        options: &RedriveOptions<T>,
        mut filter: impl FnMut(&DeadLetter<T>) -> bool,
    ) -> Redrive {
        let mut pace = Pace {
            wait: options.wait,
            interval: options.interval(),
            next: None,
        };
        let letters = self.in_order();
        let mut redriver = Redriver::new(&self.topic, &letters);
        for letter in letters.all.iter().filter(|letter| filter(letter)) {
            pace.keep();
            let may_go = redriver.may_go(letter);
            let gone = may_go.and_then(|()| match &options.to {
                None => self.send_back(&mut redriver, letter, &mut pace),
                Some(to) => self.move_to(to, &redriver, letter, &mut pace),
            });
            if gone.is_ok() {
                pace.note();
            }
            redriver.count(letter, gone);
        }
        redriver.outcome()
    }

    /// Sends a letter back, and waits for room as long as it may.
    fn send_back<'l>(
        &self,
        redriver: &mut Redriver<'l, T>,
        letter: &'l DeadLetter<T>,
        pace: &mut Pace,
    ) -> Result<bool, Stays> {
        let lane = redriver.lane_of(letter)?;
        let mut attempt = |waits| redriver.send_back(letter, &lane, waits);
        let gone = attempt(false).or_else(|| pace.patiently(|time| self.wait(time, attempt)));
        gone.unwrap_or(Err(Stays::NoRoom))
    }

    /// Tries again until there is room, or the time is up.
    fn wait<R>(&self, time: Duration, mut attempt: impl FnMut(bool) -> Option<R>) -> Option<R> {
        let core = &self.topic.core;
        let engine = &core.engine;
        if time.is_zero() || context::is_inside(engine) {
            return None;
        }
        if engine.is_manual() {
            engine.run_until_idle();
            return attempt(false);
        }
        let until = Instant::now().checked_add(time);
        // All are called at once, so nobody passes a call on.
        core.redrives().wait_for(until, || attempt(true), || 0)
    }

    /// Publishes a letter to another topic, and returns whether it did. It does not if another call
    /// has taken the letter.
    fn move_to<'l>(
        &self,
        to: &Elsewhere<T>,
        redriver: &Redriver<'l, T>,
        letter: &'l DeadLetter<T>,
        pace: &mut Pace,
    ) -> Result<bool, Stays> {
        // The user's code runs before the letter is claimed.
        let payload = (to.copy)(letter.payload());
        let Some(claim) = redriver.claim(letter)? else {
            return Ok(false);
        };
        let published = pace.patiently(|time| {
            let wait = match time {
                Duration::ZERO => Wait::Never,
                time => Wait::For(time),
            };
            let core = &to.topic.core;
            core.publish(payload, Some(meta_of(letter)), wait)
        });
        redriver.moved(letter, &to.topic, claim, published)
    }
}
