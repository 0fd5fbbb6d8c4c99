//! Redrives: letters that go back to the subscription that failed, or elsewhere.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use crate::engine::parts::pending::{PendingDelivery, Return};
use crate::engine::publish::ask::Wait;
use crate::engine::runtime::context;
use crate::engine::state::dead_letter_store::{Letter, notify};
use crate::engine::state::lane::Lane;
use crate::message::MessageId;
use crate::message::meta::{Meta, Value};
use crate::observe::event::{EventKind, Subject};
use crate::pure::decide::lifecycle::{Status, Step};
use crate::pure::words::room::Reserved;
use crate::sync::{Arc, Instant, mutant, sleep};
use crate::topic::Topic;
use crate::topic::letters::dead_letters::{DeadLetter, DeadLetters};
use crate::types::error::{PublishError, SettingError};

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
    wait: Duration,
    rate: Option<u32>,
    to: Option<Elsewhere<T>>,
}

/// Another topic for letters, and how their payloads are copied.
struct Elsewhere<T: Send + Sync + 'static> {
    topic: Topic<T>,
    copy: fn(&T) -> T,
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
    /// It waits for room in the lane of the subscription that failed, or in the other topic. Inside
    /// a handler of the broker it never waits. On a broker without workers it runs the broker once
    /// instead.
    #[must_use]
    pub fn wait(mut self, at_most: Duration) -> Self {
        self.wait = at_most;
        self
    }

    /// Sets how many letters go in a second, at most. By default there is no such limit.
    ///
    /// The call sleeps between two letters, on its own thread. So it can't be used inside a handler
    /// of the broker, nor with a manual clock.
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
    /// parks the key.
    pub behind: usize,
    /// Letters that stay because the topic that they were to go to is closed, or refuses messages
    /// for want of a subscription.
    pub refused: usize,
}

/// The reason why a letter stays in the store.
#[derive(Clone, Copy)]
enum Stays {
    NoRoom,
    NoSubscription,
    Behind,
    Refused,
}

/// The progress of a redrive for one key of one subscription.
///
/// The redrive goes through the key's letters in the order of their messages. No letter that
/// arrives meanwhile is looked at twice, so each letter costs the same, however many there are.
#[derive(Clone, Copy, Default)]
struct Line {
    /// The number of arrivals in the store that the redrive has looked at.
    seen: u64,
    /// The first message among those that have come back meanwhile and park the key.
    back: Option<MessageId>,
    /// The reason why a letter stayed. Later letters of the key stay as well.
    stays: Option<Stays>,
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
        let engine = &self.topic.core.engine;
        let refused = |rate: u32, rule| Err(SettingError::new("rate", rate, rule));
        match options.rate {
            Some(0) => return refused(0, "must be at least one letter a second"),
            Some(rate) if engine.clock.is_manual() => {
                return refused(rate, "needs a clock that moves by itself");
            }
            Some(rate) if context::is_inside(engine) => {
                return refused(rate, "can't be kept inside a handler, which never waits");
            }
            _ => {}
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
            interval: options
                .rate
                .map_or(Duration::ZERO, |rate| Duration::from_secs(1) / rate),
            next: None,
        };
        let mut outcome = Redrive::default();
        let store = self.topic.core.letters().lock();
        let (seen, letters) = (store.arrivals(), store.list());
        drop(store);
        let mut letters = self.show(letters);
        letters.sort_by_cached_key(DeadLetter::id);
        let new_line = || Line {
            seen,
            ..Line::default()
        };
        let mut lines: HashMap<(&str, &str), Line> = HashMap::new();
        let mut lanes = HashMap::new();
        for letter in &letters {
            if !filter(letter) {
                continue;
            }
            let mut alone = new_line();
            let line = match letter.key() {
                Some(key) => lines
                    .entry((letter.subscription(), key))
                    .or_insert_with(new_line),
                None => &mut alone,
            };
            pace.keep();
            let gone = match (line.stays, &options.to) {
                (Some(stays), _) => Err(stays),
                (None, None) => self.redrive_one(&letter.letter, line, &mut lanes, &mut pace),
                (None, Some(to)) => self.move_one(letter, to, &mut pace),
            };
            match gone {
                Ok(redriven) => {
                    outcome.redriven += usize::from(redriven);
                    pace.note();
                }
                Err(stays) => {
                    line.stays = Some(stays);
                    *match stays {
                        Stays::NoRoom => &mut outcome.no_room,
                        Stays::NoSubscription => &mut outcome.no_subscription,
                        Stays::Behind => &mut outcome.behind,
                        Stays::Refused => &mut outcome.refused,
                    } += 1;
                }
            }
        }
        outcome
    }

    /// Redrives a letter, and returns whether it did.
    ///
    /// It does not if another call has redriven or purged the letter. The letter stays if an
    /// earlier delivery of the same key is back and parks the key. `lanes` has the lanes that were
    /// found before.
    fn redrive_one<'l>(
        &self,
        letter: &'l Arc<Letter<T>>,
        line: &mut Line,
        lanes: &mut HashMap<&'l str, Arc<Lane<T>>>,
        pace: &mut Pace,
    ) -> Result<bool, Stays> {
        let core = &self.topic.core;
        let name = &*letter.subscription;
        if !lanes.get(name).is_some_and(|lane| lane.answers_to(name)) {
            let all = core.lanes.load();
            let found = all.iter().find(|lane| lane.answers_to(name));
            lanes.insert(name, Arc::clone(found.ok_or(Stays::NoSubscription)?));
        }
        let lane = &lanes[name];
        let reserve = |wait| {
            let motion = lane.books.motions.begin(1);
            (lane.reserve_for_letter(wait), motion)
        };
        let (reserved, _motion) = match reserve(false) {
            (Reserved::Full, _) => pace
                .patiently(|time| self.wait_for_room(time, reserve))
                .ok_or(Stays::NoRoom)?,
            at_once => at_once,
        };
        match reserved {
            Reserved::Granted(_) => {}
            Reserved::Full => return Err(Stays::NoRoom),
            Reserved::Closed => return Err(Stays::NoSubscription),
        }
        let mut letters = core.letters().lock();
        let since = letters.parking_since(letter, line.seen);
        line.back = line.back.into_iter().chain(since).min();
        line.seen = letters.arrivals();
        let is_behind = mutant!(
            line.back.is_some_and(|back| back < letter.id()),
            "letters.behind",
            false
        );
        let taken = if is_behind {
            None
        } else {
            letters.take(letter.arrival)
        };
        if !mutant!(taken.is_some(), "letters.take", true) {
            drop(letters);
            if lane.release(1) {
                lane.come_to_end();
            }
            core.engine.quiescence.notify();
            return if is_behind {
                Err(Stays::Behind)
            } else {
                Ok(false)
            };
        }
        let status = lane.books.record(Status::DeadLetter, Step::Redrive, 1);
        let id = letter.id();
        core.tell_of(
            Subject::of(&lane.name).message(id).status(status),
            EventKind::Redriven,
        );
        let mut again = PendingDelivery::first(&letter.batch, usize::from(letter.index), 0);
        again.generation = letter.generation.saturating_add(1);
        // The lock is held until the lane has the delivery. So a consumer that finds the key freed
        // finds this delivery before any that was published since.
        lane.push_return(Return::Redriven(Box::new(again)));
        drop(letters);
        lane.schedule_for_return();
        if let Some(left) = taken {
            notify(left.waiting);
        }
        if lane.phase().ends_at_once() {
            // The end may have passed by while the delivery was on its way.
            lane.come_to_end();
        }
        Ok(true)
    }

    /// Tries again until there is room, or the time is up.
    fn wait_for_room<M>(
        &self,
        time: Duration,
        reserve: impl Fn(bool) -> (Reserved, M),
    ) -> Option<(Reserved, M)> {
        let core = &self.topic.core;
        let engine = &core.engine;
        if time.is_zero() || context::is_inside(engine) {
            return None;
        }
        let attempt =
            |wait| Some(reserve(wait)).filter(|(reserved, _)| *reserved != Reserved::Full);
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
    fn move_one(
        &self,
        letter: &DeadLetter<T>,
        to: &Elsewhere<T>,
        pace: &mut Pace,
    ) -> Result<bool, Stays> {
        // The user's code runs before the letter is claimed.
        let payload = (to.copy)(letter.payload());
        let core = &self.topic.core;
        let Some(claim) = core.claim(&letter.letter) else {
            return Ok(false);
        };
        let publish = |time: Duration| {
            let wait = match time {
                Duration::ZERO => Wait::Never,
                time => Wait::For(time),
            };
            to.topic
                .core
                .publish(payload, Some(Box::new(meta_of(letter))), wait)
        };
        match pace.patiently(publish) {
            Ok(receipt) if !receipt.is_dropped() => {}
            Ok(_) | Err(PublishError::Full(_) | PublishError::TimedOut(_)) => {
                return Err(Stays::NoRoom);
            }
            Err(_) => return Err(Stays::Refused),
        }
        claim.end();
        core.tell_of(
            Subject::of(&letter.letter.subscription).message(letter.id()),
            EventKind::LetterMoved {
                to: Arc::clone(&to.topic.core.name),
            },
        );
        Ok(true)
    }
}

/// Returns the key and the headers of a letter that is to be a new message.
fn meta_of<T>(letter: &DeadLetter<T>) -> Meta {
    let origin = [
        ("dead-letter-topic", letter.topic().to_owned()),
        ("dead-letter-subscription", letter.subscription().to_owned()),
        ("dead-letter-id", letter.id().to_string()),
        ("dead-letter-reason", letter.reason().as_str().to_owned()),
    ];
    let kept = letter.headers();
    let kept = kept.map(|(name, value)| (Box::from(name), Value::from(value)));
    let origin = origin.map(|(name, value)| (Box::from(name), Value::Text(value.into())));
    Meta {
        key: letter.key().map(Box::from),
        headers: kept.chain(origin).collect(),
        ..Meta::default()
    }
}
