//! Dead letters: look into them, redrive them, purge them.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use crate::engine::parts::pending::{PendingDelivery, Return};
use crate::engine::state::dead_letter_store::{Letter, notify};
use crate::engine::state::lane::Lane;
use crate::message::{Address, Delivery, MessageId};
use crate::observe::event::{EventKind, Subject};
use crate::pure::decide::lifecycle::{Status, Step};
use crate::pure::policy::retry::FailureKind;
use crate::pure::words::room::Reserved;
use crate::sync::{Arc, mutant};
use crate::topic::Topic;
use crate::types::reason::DeadReason;

/// The dead-letter store of a topic, which has the deliveries that failed for good.
///
/// The store is bounded. The topic's [`DeadLetterOverflow`](crate::DeadLetterOverflow) decides what
/// a full one does.
pub struct DeadLetters<T> {
    topic: Topic<T>,
}

impl<T> Clone for DeadLetters<T> {
    fn clone(&self) -> Self {
        Self {
            topic: self.topic.clone(),
        }
    }
}

impl<T: Send + Sync + 'static> fmt::Debug for DeadLetters<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeadLetters")
            .field("topic", &self.topic.name())
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}

/// The result of a redrive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
#[must_use = "a letter that could not be redriven stays in the store, and only this says so"]
pub struct Redrive {
    /// Letters that are on their way to the subscription that had failed.
    pub redriven: usize,
    /// Letters that stay because that subscription's lane is full, or was full for an earlier
    /// letter of the same key.
    pub no_room: usize,
    /// Letters that stay because no subscription with that name is open.
    pub no_subscription: usize,
    /// Letters that stay because an earlier delivery of the same key has failed again meanwhile and
    /// parks the key.
    pub behind: usize,
}

/// The reason why a letter stays in the store.
#[derive(Clone, Copy)]
enum Stays {
    NoRoom,
    NoSubscription,
    Behind,
}

/// The progress of a redrive for one key of one subscription.
///
/// The redrive goes through the key's letters in the order of their messages. No letter that
/// arrives meanwhile is looked at twice, so each letter costs the same, however many there are.
#[derive(Default)]
struct Line {
    /// The number of arrivals in the store that the redrive has looked at.
    seen: u64,
    /// The first message among those that have come back meanwhile and park the key.
    back: Option<MessageId>,
    /// The reason why a letter stayed. Later letters of the key stay as well.
    stays: Option<Stays>,
}

impl<T: Send + Sync + 'static> DeadLetters<T> {
    pub(crate) fn new(topic: Topic<T>) -> Self {
        Self { topic }
    }

    /// Returns the number of letters in the store.
    pub fn len(&self) -> usize {
        self.topic.core.letter_counts().0
    }

    /// Returns whether the store has no letters.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the letters, oldest first. They share their payloads with the store.
    pub fn list(&self) -> Vec<DeadLetter<T>> {
        let letters = self.topic.core.letters().lock().list();
        self.show(letters)
    }

    fn show(&self, letters: Vec<Arc<Letter<T>>>) -> Vec<DeadLetter<T>> {
        let core = &self.topic.core;
        let now_ns = core.engine.clock.now_ns();
        let show = |letter| DeadLetter {
            letter,
            topic: Arc::clone(&core.name),
            now_ns,
        };
        letters.into_iter().map(show).collect()
    }

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
    pub fn redrive(&self, mut filter: impl FnMut(&DeadLetter<T>) -> bool) -> Redrive {
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
            let gone = match line.stays {
                Some(stays) => Err(stays),
                None => self.redrive_one(&letter.letter, line, &mut lanes),
            };
            match gone {
                Ok(redriven) => outcome.redriven += usize::from(redriven),
                Err(Stays::NoSubscription) => outcome.no_subscription += 1,
                Err(stays @ Stays::NoRoom) => {
                    outcome.no_room += 1;
                    line.stays = Some(stays);
                }
                Err(stays @ Stays::Behind) => {
                    outcome.behind += 1;
                    line.stays = Some(stays);
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
    ) -> Result<bool, Stays> {
        let core = &self.topic.core;
        let name = &*letter.subscription;
        if !lanes.get(name).is_some_and(|lane| lane.answers_to(name)) {
            let all = core.lanes.load();
            let found = all.iter().find(|lane| lane.answers_to(name));
            lanes.insert(name, Arc::clone(found.ok_or(Stays::NoSubscription)?));
        }
        let lane = &lanes[name];
        let _motion = lane.books.motions.begin(1);
        match lane.reserve_for_letter() {
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
            letters.take(letter)
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

    /// Forgets the letters that `filter` chooses, and returns their number.
    pub fn purge(&self, mut filter: impl FnMut(&DeadLetter<T>) -> bool) -> usize {
        let chosen = self.list().into_iter().filter(|letter| filter(letter));
        let taken = chosen.filter(|chosen| {
            let left = self.topic.core.letters().lock().take(&chosen.letter);
            left.map(|left| notify(left.waiting)).is_some()
        });
        taken.count()
    }
}

/// A delivery in the dead-letter store.
pub struct DeadLetter<T> {
    letter: Arc<Letter<T>>,
    topic: Arc<str>,
    /// The time when the letter was listed.
    now_ns: u64,
}

impl<T> DeadLetter<T> {
    /// Returns the letter's delivery, as its handler would see it.
    fn delivery(&self) -> Delivery<'_, T> {
        Delivery {
            batch: &self.letter.batch,
            index: usize::from(self.letter.index),
            attempt: self.letter.attempts,
            generation: self.letter.generation,
            address: Address {
                topic: &self.topic,
                subscription: &self.letter.subscription,
            },
            now_ns: self.now_ns,
        }
    }

    /// Returns the payload that was published.
    pub fn payload(&self) -> &T {
        self.delivery().payload()
    }

    /// Returns the message's id within its topic.
    pub fn id(&self) -> MessageId {
        self.letter.id()
    }

    /// Returns the topic's name.
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// Returns the name of the subscription whose delivery failed.
    pub fn subscription(&self) -> &str {
        &self.letter.subscription
    }

    /// Returns the key that the publisher gave, if any.
    pub fn key(&self) -> Option<&str> {
        self.letter.key()
    }

    /// Returns the value of the first header with this name, if any.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.delivery().header(name)
    }

    /// Returns all headers, in the publisher's order.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &str)> {
        self.delivery().headers()
    }

    /// Returns the time from the acceptance of the message until the letter was listed.
    pub fn age(&self) -> Duration {
        self.delivery().age()
    }

    /// Returns the reason why the delivery is here.
    pub fn reason(&self) -> DeadReason {
        self.letter.reason
    }

    /// Returns the text of the last error and its causes, or `None` if no attempt has failed.
    ///
    /// The text is as in [`FailedAttempt::text`](crate::FailedAttempt::text).
    pub fn error(&self) -> Option<&str> {
        Some(&*self.letter.history.as_ref()?.text)
    }

    /// Returns the number of attempts in this generation: entries into the handler, or leases.
    ///
    /// Attempts that ended by a requeue don't count.
    pub fn attempts(&self) -> u32 {
        self.letter.attempts
    }

    /// Returns the number of times that the delivery had been redriven before.
    pub fn generation(&self) -> u16 {
        self.letter.generation
    }

    /// Returns the time when the letter entered the store, counted from when the broker was built.
    pub fn at(&self) -> Duration {
        Duration::from_nanos(self.letter.buried_ns)
    }

    /// Returns the last eight failures of this generation, latest first.
    pub fn failures(&self) -> impl Iterator<Item = PastFailure<'_>> {
        let chain = self.letter.history.iter().flat_map(|latest| latest.chain());
        chain.map(|failure| PastFailure {
            attempt: failure.attempt,
            at: Duration::from_nanos(failure.at_ns),
            kind: failure.kind,
            error: &failure.text,
        })
    }
}

impl<T> Clone for DeadLetter<T> {
    fn clone(&self) -> Self {
        Self {
            letter: Arc::clone(&self.letter),
            topic: Arc::clone(&self.topic),
            now_ns: self.now_ns,
        }
    }
}

impl<T> fmt::Debug for DeadLetter<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeadLetter")
            .field("topic", &self.topic())
            .field("subscription", &self.subscription())
            .field("id", &self.id())
            .field("reason", &self.reason())
            .field("attempts", &self.attempts())
            .field("error", &self.error())
            .finish_non_exhaustive()
    }
}

/// A failed attempt in a letter's history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PastFailure<'a> {
    /// The number of the attempt.
    pub attempt: u32,
    /// The time when the attempt ended, counted from when the broker was built.
    pub at: Duration,
    /// The kind of failure.
    pub kind: FailureKind,
    /// The text of the error, as in [`DeadLetter::error`].
    pub error: &'a str,
}
