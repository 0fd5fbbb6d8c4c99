//! The dead letters of all topics.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use crate::broker::Broker;
use crate::engine::base::contain::Contained;
use crate::engine::reading::pattern::PatternReaders;
use crate::engine::runtime::directory::{AnyLetter, AnyTopic};
use crate::message::MessageId;
use crate::message::meta::HeaderValue;
use crate::sync::Arc;
use crate::topic::letters::dead_letters::DeadLetter;
use crate::topic::letters::subscription::{LetterSubscription, handler_of};
use crate::types::error::SubscribeError;
use crate::types::name::parse;
use crate::types::reason::{DeadReason, LetterAction};

/// The dead letters of all topics of a broker.
///
/// Queries show them without their payloads. Subscribers get these, too.
#[derive(Clone)]
pub struct BrokerDeadLetters {
    broker: Broker,
}

impl BrokerDeadLetters {
    pub(crate) fn new(broker: Broker) -> Self {
        Self { broker }
    }

    /// Returns the number of letters in all stores.
    pub fn len(&self) -> usize {
        let topics = self.broker.owner.engine.topics.values();
        topics.iter().map(|topic| topic.letter_count()).sum()
    }

    /// Returns whether no store has a letter.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the letters, by the name of the topic, and then oldest first.
    pub fn list(&self) -> Vec<DeadLetterInfo> {
        self.each().map(|(_, letter)| letter).collect()
    }

    fn each(&self) -> impl Iterator<Item = (Arc<dyn AnyTopic>, DeadLetterInfo)> {
        let engine = &self.broker.owner.engine;
        let now_ns = engine.clock.now_ns();
        let mut topics = engine.topics.values();
        topics.sort_unstable_by(|one, other| one.name().cmp(other.name()));
        topics.into_iter().flat_map(move |topic| {
            let letters = topic.letters();
            let show = move |letter| {
                let info = DeadLetterInfo {
                    letter,
                    topic: Arc::clone(topic.name()),
                    now_ns,
                };
                (Arc::clone(&topic), info)
            };
            letters.into_iter().map(show)
        })
    }

    /// Forgets the letters that `filter` chooses, and returns their number.
    ///
    /// Letters that somebody has redriven or purged meanwhile are not among them, nor are letters
    /// that a subscriber has at the moment.
    pub fn purge(&self, mut filter: impl FnMut(&DeadLetterInfo) -> bool) -> usize {
        let chosen = self.each().filter(|(_, letter)| filter(letter));
        let purged = chosen.filter(|(topic, chosen)| topic.purge_letter(chosen.letter.arrival()));
        purged.count()
    }

    /// Calls `handler` with each dead letter of the topics of payload type `T` whose names match a
    /// pattern, with its payload.
    ///
    /// It covers topics that are opened later. In each topic it is a subscriber as by
    /// [`DeadLetters::subscribe`], which says when letters come, and when they come again. Calls
    /// for different topics may overlap, so the handler is `Fn` and `Sync`. The name must be free
    /// among the broker's subscriptions to patterns, and among the subscribers of these letters.
    /// The topics can be removed while they have no letters.
    ///
    /// ```
    /// use millstream::dead_letters::{DeadLetter, LetterAction};
    /// use millstream::{Broker, Nack};
    /// # let broker = Broker::builder().workers(0).build()?;
    ///
    /// let alerts = broker.dead_letters().subscribe("alerts", "orders.>", |letter: &DeadLetter<u64>| {
    ///     eprintln!("{}: {} {:?}", letter.topic(), letter.payload(), letter.error());
    ///     Ok(LetterAction::Keep)
    /// })?;
    /// let orders = broker.topic("orders.eu").open()?;
    /// let _billing = orders.subscribe("billing", |_| Err(Nack::dead_letter("no such account")))?;
    /// orders.publish(7_u64)?;
    /// broker.run_until_idle();
    /// assert_eq!((alerts.metrics().kept, broker.dead_letters().len()), (1, 1));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// [`DeadLetters::subscribe`]: crate::DeadLetters::subscribe
    ///
    /// # Errors
    ///
    /// Returns a [`SubscribeError`] for an invalid or taken name, an invalid pattern, or a closed
    /// broker. Nothing has been subscribed to then.
    pub fn subscribe<T, F>(
        &self,
        name: &str,
        pattern: &str,
        handler: F,
    ) -> Result<LetterSubscription, SubscribeError>
    where
        T: Send + Sync + 'static,
        F: Fn(&DeadLetter<T>) -> Result<LetterAction, Box<dyn Error + Send + Sync>>
            + Send
            + Sync
            + 'static,
    {
        let handler = Arc::new(Contained::new(handler));
        let (name, pattern) = (parse(name)?, pattern.parse()?);
        let make = move || {
            let handler = Arc::clone(&handler);
            handler_of(move |letter: &DeadLetter<T>| (**handler)(letter))
        };
        let engine = Arc::clone(&self.broker.owner.engine);
        let readers = PatternReaders::new(name, engine, pattern, Box::new(make));
        readers.join()?;
        Ok(LetterSubscription::new(readers))
    }

    /// Forgets all letters, and returns their number.
    ///
    /// Letters that arrive meanwhile may stay.
    pub fn purge_all(&self) -> usize {
        self.purge(|_| true)
    }
}

impl fmt::Debug for BrokerDeadLetters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BrokerDeadLetters")
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}

/// A delivery in the dead-letter store of some topic, without its payload.
#[derive(Clone)]
pub struct DeadLetterInfo {
    letter: Arc<dyn AnyLetter>,
    topic: Arc<str>,
    /// The time when the letter was listed.
    now_ns: u64,
}

impl DeadLetterInfo {
    /// Returns the topic's name.
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// Returns the name of the subscription whose delivery failed.
    pub fn subscription(&self) -> &str {
        self.letter.subscription()
    }

    /// Returns the message's id within its topic.
    pub fn id(&self) -> MessageId {
        self.letter.id()
    }

    /// Returns the key that the publisher gave, if any.
    pub fn key(&self) -> Option<&str> {
        self.letter.meta()?.key.as_deref()
    }

    /// Returns the text of the first header with this name, if it is there and is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers();
        let (_, value) = headers.find(|(other, _)| *other == name)?;
        value.as_str()
    }

    /// Returns all headers, in the publisher's order.
    pub fn headers(&self) -> impl Iterator<Item = (&str, HeaderValue<'_>)> {
        let meta = self.letter.meta();
        let headers = meta.map(|meta| &meta.headers[..]).unwrap_or_default();
        headers
            .iter()
            .map(|(name, value)| (&**name, HeaderValue::of(value)))
    }

    /// Returns the time from the acceptance of the message until the letter was listed.
    pub fn age(&self) -> Duration {
        Duration::from_nanos(self.now_ns.saturating_sub(self.letter.accepted_ns()))
    }

    /// Returns the reason why the delivery is in the store.
    pub fn reason(&self) -> DeadReason {
        self.letter.reason()
    }

    /// Returns the text of the last error and its causes, or `None` if no attempt has failed.
    ///
    /// The text is as in [`FailedAttempt::text`](crate::retry::FailedAttempt::text).
    pub fn error(&self) -> Option<&str> {
        self.letter.error()
    }

    /// Returns the number of attempts in this generation, as
    /// [`DeadLetter::attempts`](crate::dead_letters::DeadLetter::attempts) does.
    pub fn attempts(&self) -> u32 {
        self.letter.attempts()
    }

    /// Returns the number of times that the delivery had been redriven before.
    pub fn generation(&self) -> u16 {
        self.letter.generation()
    }

    /// Returns the time when the letter entered the store, counted from when the broker was built.
    pub fn at(&self) -> Duration {
        Duration::from_nanos(self.letter.buried_ns())
    }
}

impl fmt::Debug for DeadLetterInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeadLetterInfo")
            .field("topic", &self.topic())
            .field("subscription", &self.subscription())
            .field("id", &self.id())
            .field("reason", &self.reason())
            .field("attempts", &self.attempts())
            .field("error", &self.error())
            .finish_non_exhaustive()
    }
}
