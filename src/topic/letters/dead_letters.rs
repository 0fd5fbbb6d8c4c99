//! Dead letters: look into them, purge them.

use std::fmt;
use std::time::Duration;

use crate::engine::state::dead_letter_store::{Letter, notify};
use crate::engine::state::topic::TopicCore;
use crate::message::meta::HeaderValue;
use crate::message::{Address, Delivery, MessageId};
use crate::pure::policy::retry::FailureKind;
use crate::sync::Arc;
use crate::topic::Topic;
use crate::types::reason::DeadReason;

/// The dead-letter store of a topic, which has the deliveries that failed for good.
///
/// The store is bounded. The topic's [`DeadLetterOverflow`](crate::dead_letters::DeadLetterOverflow) decides what
/// a full one does.
pub struct DeadLetters<T> {
    pub(crate) topic: Topic<T>,
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

    pub(crate) fn show(&self, letters: Vec<Arc<Letter<T>>>) -> Vec<DeadLetter<T>> {
        let core = &self.topic.core;
        let now_ns = core.engine.clock.now_ns();
        let show = |letter| DeadLetter::shown(core, letter, now_ns);
        letters.into_iter().map(show).collect()
    }

    /// Forgets the letters that `filter` chooses, and returns their number.
    ///
    /// A letter that a subscriber has at the moment stays, and doesn't count.
    pub fn purge(&self, mut filter: impl FnMut(&DeadLetter<T>) -> bool) -> usize {
        let chosen = self.list().into_iter().filter(|letter| filter(letter));
        let taken = chosen.filter(|chosen| {
            let left = self.topic.core.letters().lock().take(chosen.letter.arrival);
            left.map(|left| {
                left.letter.note_gone();
                notify(left.waiting);
            })
            .is_some()
        });
        taken.count()
    }

    /// Forgets all letters, and returns their number.
    ///
    /// Letters that arrive meanwhile may stay.
    pub fn purge_all(&self) -> usize {
        self.purge(|_| true)
    }
}

/// A delivery in the dead-letter store.
pub struct DeadLetter<T> {
    pub(crate) letter: Arc<Letter<T>>,
    topic: Arc<str>,
    /// The time when the letter was listed, or handed to a subscriber.
    now_ns: u64,
}

impl<T> DeadLetter<T> {
    pub(crate) fn shown(core: &TopicCore<T>, letter: Arc<Letter<T>>, now_ns: u64) -> Self {
        Self {
            letter,
            topic: Arc::clone(&core.name),
            now_ns,
        }
    }

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
                lane: None,
                gaps: None,
                #[cfg(feature = "log")]
                outbox: None,
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

    /// Returns the priority that the publisher gave, which is
    /// [`Normal`](crate::protect::Priority::Normal) by default.
    pub fn priority(&self) -> crate::protect::Priority {
        self.delivery().priority()
    }

    /// Returns the text of the first header with this name, or `None` if there is none or it has
    /// bytes.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.delivery().header(name)
    }

    /// Returns the value of the first header with this name as bytes, whether it is text or bytes.
    pub fn header_bytes(&self, name: &str) -> Option<&[u8]> {
        self.delivery().header_bytes(name)
    }

    /// Returns all headers, in the publisher's order.
    pub fn headers(&self) -> impl Iterator<Item = (&str, HeaderValue<'_>)> {
        self.delivery().headers()
    }

    /// Returns the time from the acceptance of the message until the letter was listed, or was
    /// handed to a subscriber.
    pub fn age(&self) -> Duration {
        self.delivery().age()
    }

    /// Returns the reason why the delivery is here.
    pub fn reason(&self) -> DeadReason {
        self.letter.reason
    }

    /// Returns the text of the last error and its causes, or `None` if no attempt has failed.
    ///
    /// The text is as in [`FailedAttempt::text`](crate::retry::FailedAttempt::text).
    pub fn error(&self) -> Option<&str> {
        Some(&*self.letter.history.as_ref()?.text)
    }

    /// Returns the number of attempts in this generation: entries into the handler, or leases.
    ///
    /// Attempts that ended by a requeue or a snooze don't count.
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

impl<T: Send + Sync + 'static> Topic<T> {
    /// Returns the dead-letter store, which has the deliveries that failed for good.
    pub fn dead_letters(&self) -> DeadLetters<T> {
        DeadLetters::new(self.clone())
    }
}
