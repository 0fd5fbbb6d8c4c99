//! Subscriptions to dead letters, as users hold them.

use std::error::Error;
use std::fmt;

use crate::engine::letters::subscribers::AnyLetterReader;
use crate::engine::reading::pattern::PatternReaders;
use crate::engine::reading::reader::{LetterHandler, LetterReader};
use crate::engine::registry::drain::MOMENT;
use crate::engine::runtime::{Engine, context};
use crate::engine::state::dead_letter_store::Letter;
use crate::engine::state::topic::TopicCore;
use crate::message::error_text::error_text;
use crate::observe::letters::LetterSubscriptionMetrics;
use crate::sync::{Arc, Instant};
use crate::topic::letters::dead_letters::{DeadLetter, DeadLetters};
use crate::types::error::SubscribeError;
use crate::types::reason::LetterAction;

/// The result of a handler of dead letters. `?` turns any error into one of it.
type Decided = Result<LetterAction, Box<dyn Error + Send + Sync>>;

/// Makes a handler for the engine.
pub(crate) fn handler_of<T, F>(mut decide: F) -> LetterHandler<T>
where
    T: Send + Sync + 'static,
    F: FnMut(&DeadLetter<T>) -> Decided + Send + 'static,
{
    Box::new(move |core: &TopicCore<T>, letter: &Arc<Letter<T>>| {
        let letter = DeadLetter::shown(core, Arc::clone(letter), core.engine.clock.now_ns());
        decide(&letter).map_err(|error| error_text(&error, error.source()))
    })
}

impl<T: Send + Sync + 'static> DeadLetters<T> {
    /// Calls `handler` with each dead letter of the topic, which decides about the letter.
    ///
    /// Letters that are in the store come first, oldest first, and then new ones as they arrive.
    /// Each subscriber sees each letter. One call of a handler runs at a time, on a worker and
    /// never in the turn that failed. While it runs, nobody else can take the letter: a full store
    /// evicts others, a purge passes it by, and a redrive leaves it behind. Other subscribers wait
    /// for it.
    ///
    /// If the handler returns an error or panics, its letter stays and comes again. The first pause
    /// is a second, and each further one is twice as long, up to five minutes. Other letters go on
    /// meanwhile. There is no limit to that. A handler that wants another pause returns
    /// [`Snooze`](LetterAction::Snooze), and one that gives up returns [`Keep`](LetterAction::Keep).
    /// The times are kept by the subscriber, so a new one of its name sees all letters at once.
    ///
    /// A drain hands out what is due before its deadline. [`Broker::wait_until_idle`] waits for
    /// calls, and not for letters that come again later.
    ///
    /// ```
    /// use millstream::dead_letters::LetterAction;
    /// use millstream::{Broker, Nack};
    /// use std::time::Duration;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let broker = Broker::new()?;
    /// let orders = broker.topic::<u64>("orders").open()?;
    /// let desk = orders.dead_letters().subscribe("desk", |letter| {
    ///     eprintln!("{}: {:?}", letter.payload(), letter.error());
    ///     Ok(match letter.generation() {
    ///         0 => LetterAction::Redrive, // once more
    ///         _ => LetterAction::Keep,    // for a person to look at
    ///     })
    /// })?;
    /// let _billing = orders.subscribe("billing", |_| Err(Nack::dead_letter("no such account")))?;
    /// orders.publish(7)?;
    /// assert!(broker.wait_until_idle(Duration::from_secs(5)));
    /// let counts = desk.metrics();
    /// assert_eq!((counts.redriven, counts.kept, orders.dead_letters().len()), (1, 1, 1));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// [`Broker::wait_until_idle`]: crate::Broker::wait_until_idle
    ///
    /// # Errors
    ///
    /// Returns a [`SubscribeError`] for an invalid name, for one that another subscriber to these
    /// letters has, or for a closed broker or topic.
    pub fn subscribe<F>(&self, name: &str, handler: F) -> Result<LetterSubscription, SubscribeError>
    where
        F: FnMut(&DeadLetter<T>) -> Result<LetterAction, Box<dyn Error + Send + Sync>>
            + Send
            + 'static,
    {
        let core = &self.topic.core;
        let handler = handler_of(handler);
        let reader = LetterReader::new(
            crate::types::name::parse(name)?,
            Arc::clone(core),
            false,
            handler,
        );
        if core.engine.is_ending() || core.gate.is_sealed() {
            return Err(SubscribeError::Closed);
        }
        if !reader.join() {
            let name = name.to_owned();
            return Err(SubscribeError::NameTaken { name });
        }
        if core.has_stopped() {
            // The end may have passed by before the subscriber was there.
            reader.end();
            return Err(SubscribeError::Closed);
        }
        Ok(LetterSubscription::new(reader))
    }
}

/// A subscription to dead letters, of a topic or of all that a pattern matches.
///
/// Dropping it unsubscribes, without waiting: a call of the handler that is running finishes, and
/// its decision is carried out. The letters stay.
#[must_use = "dropping a subscription unsubscribes at once; call `detach` to keep it"]
pub struct LetterSubscription {
    of: Arc<dyn AnyLetterSubscription>,
    detached: bool,
}

/// A subscription to letters of any payload type.
pub(crate) trait AnyLetterSubscription: Send + Sync {
    fn engine(&self) -> &Engine;
    fn metrics(&self) -> LetterSubscriptionMetrics;
    /// Begins the end.
    fn close(&self);
    /// Ends it on this thread where no worker is at work.
    fn end(&self);
    fn has_ended(&self) -> bool;
}

impl LetterSubscription {
    pub(crate) fn new(of: impl AnyLetterSubscription + 'static) -> Self {
        Self {
            of: Arc::new(of),
            detached: false,
        }
    }

    /// Returns a snapshot of its counts.
    pub fn metrics(&self) -> LetterSubscriptionMetrics {
        self.of.metrics()
    }

    /// Returns whether no call of its handler runs or will start, and the handler is gone.
    pub fn has_ended(&self) -> bool {
        self.of.has_ended()
    }

    /// Keeps the subscription for as long as the broker lives.
    pub fn detach(mut self) {
        self.detached = true;
    }

    /// Ends the subscription, waits until no call of its handler runs or will start, and returns
    /// its last counts.
    ///
    /// The call waits for a handler even if that never returns. Inside any handler of this broker,
    /// the call only begins the end, and returns `None`.
    pub fn unsubscribe(mut self) -> Option<LetterSubscriptionMetrics> {
        self.detached = true;
        let engine = self.of.engine();
        if context::is_inside(engine) {
            self.of.close();
            return None;
        }
        loop {
            self.of.end();
            // Another thread that runs a manual engine may leave the rest to this one.
            let soon = engine.is_manual().then(Instant::now);
            let soon = soon.and_then(|now| now.checked_add(MOMENT));
            if engine.quiescence.wait(soon, || self.of.has_ended()) {
                return Some(self.of.metrics());
            }
        }
    }
}

impl Drop for LetterSubscription {
    fn drop(&mut self) {
        if !self.detached {
            self.of.close();
        }
    }
}

impl fmt::Debug for LetterSubscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LetterSubscription")
            .field("metrics", &self.metrics())
            .field("ended", &self.has_ended())
            .finish_non_exhaustive()
    }
}

impl<T: Send + Sync + 'static> AnyLetterSubscription for Arc<LetterReader<T>> {
    fn engine(&self) -> &Engine {
        &self.topic.engine
    }

    fn metrics(&self) -> LetterSubscriptionMetrics {
        AnyLetterReader::metrics(&**self)
    }

    fn close(&self) {
        LetterReader::close(self);
    }

    fn end(&self) {
        AnyLetterReader::end(Arc::clone(self));
    }

    fn has_ended(&self) -> bool {
        LetterReader::has_ended(self)
    }
}

impl<T: Send + Sync + 'static> AnyLetterSubscription for Arc<PatternReaders<T>> {
    fn engine(&self) -> &Engine {
        &self.engine
    }

    fn metrics(&self) -> LetterSubscriptionMetrics {
        PatternReaders::metrics(self)
    }

    fn close(&self) {
        PatternReaders::close(self);
    }

    fn end(&self) {
        PatternReaders::end(self);
    }

    fn has_ended(&self) -> bool {
        PatternReaders::has_ended(self)
    }
}
