//! Subscriptions to durable topics: those that resume, and those that start earlier.

use crate::engine::journal::lane_log::{LaneLog, Past};
use crate::engine::journal::topic_log::TopicLog;
use crate::engine::state::topic::TopicCore;
use crate::log::cursor::Cursor;
use crate::pure::log::ranges::Done;
use crate::pure::order::rules::Nature;
use crate::subscription::builder::SubscriptionBuilder;
use crate::sync::Arc;
use crate::types::config::LaneFull;
use crate::types::durable::start::Start;
use crate::types::error::store::StoreError;
use crate::types::error::{SettingError, SubscribeError};

/// Where a subscription to a durable topic starts.
#[derive(Clone, Copy, Default)]
pub(crate) struct StoredStart {
    is_durable: bool,
    from: Option<Start>,
}

impl<T: Send + Sync + 'static> SubscriptionBuilder<'_, T> {
    /// Keeps a cursor in the store, so that the subscription resumes where it was (feature `log`).
    ///
    /// Its name is its identity. The first time, it starts with the next message, or
    /// [`from`](Self::from) another. Later, in this process or the next, it goes on with the
    /// messages that it is not done with. The messages that it had begun come again.
    ///
    /// It is done with a delivery that was handled, discarded, dropped, filtered or has expired. The
    /// cursor costs no sync of its own. So a crash may bring the last deliveries again, and a
    /// handler must bear that. Its dead letters are back in the store of letters when it resumes.
    ///
    /// A full lane holds nobody up: see [`LaneFull::CatchUp`](crate::LaneFull::CatchUp). Ending the
    /// subscription keeps the cursor.
    pub fn durable(mut self) -> Self {
        self.stored.is_durable = true;
        self
    }

    /// Starts with an earlier message of a durable topic (feature `log`).
    ///
    /// The deliveries of messages that were stored before say so by
    /// [`Delivery::is_replayed`](crate::Delivery::is_replayed). Between them and new ones there is
    /// no gap, and none comes twice. A [`durable`](Self::durable) subscription that has a cursor
    /// goes on from there instead.
    ///
    /// Subscribing fails with [`StoreError::Trimmed`](crate::store::StoreError::Trimmed) if
    /// retention has taken that message.
    pub fn from(mut self, start: Start) -> Self {
        self.stored.from = Some(start);
        self
    }
}

impl StoredStart {
    /// Returns the policy of the full lane.
    pub(crate) fn when_full(self, asked: Option<LaneFull>) -> Result<LaneFull, SettingError> {
        let is_fed = self.is_durable || self.from.is_some();
        match asked {
            None if is_fed => Ok(LaneFull::CatchUp),
            Some(LaneFull::CatchUp) if !is_fed => {
                let rule = "needs a subscription that is durable, or starts from a message";
                Err(SettingError::new("when_full", LaneFull::CatchUp, rule))
            }
            Some(policy) if self.is_durable && policy != LaneFull::CatchUp => {
                let rule = "must be catch_up in a durable subscription, which loses nothing";
                Err(SettingError::new("when_full", policy, rule))
            }
            asked => Ok(asked.unwrap_or_default()),
        }
    }

    /// Refuses to read from the log and to leave messages out.
    pub(crate) fn check(self, nature: Nature) -> Result<(), SettingError> {
        if !self.is_durable && self.from.is_none() {
            return Ok(());
        }
        let rule = "can't be used with a subscription that reads from the log";
        nature.check_conflates_not(rule)?;
        match nature.observes {
            true => Err(SettingError::new("observe_only", "set", rule)),
            false => Ok(()),
        }
    }

    /// Finds where the subscription starts, and adds it to the store if it is new and durable.
    pub(crate) fn open<T: Send + Sync + 'static>(
        self,
        topic: &TopicCore<T>,
        name: &Arc<str>,
        parks: bool,
    ) -> Result<Option<Box<LaneLog<T>>>, SubscribeError> {
        if !self.is_durable && self.from.is_none() {
            return Ok(None);
        }
        let Some(stored) = topic.stored() else {
            let setting = if self.is_durable { "durable" } else { "from" };
            let rule = "needs a durable topic";
            return Err(SettingError::new(setting, "set", rule).into());
        };
        let start = self.from.unwrap_or_default();
        if !self.is_durable {
            let past = Past::new(Done::before(stored.seek(start)?));
            return Ok(Some(Box::new(LaneLog::new(past, None, false))));
        }
        // An earlier subscription of this name may have left ends that are not written yet.
        stored.log().write_out()?;
        let (subscription, mut past) = match stored.find_subscription(name) {
            Some(found) => found,
            None => stored.add_subscription(name, stored.seek(start)?)?,
        };
        let first_available = stored.look(|topic| topic.first_seq);
        let next = past.done.next();
        if next < first_available {
            // Messages that it has never had are gone. The user has to say that this is all right.
            if self.from.is_none() {
                return Err(StoreError::Trimmed { first_available }.into());
            }
            past.done.add(next, first_available);
        }
        let cursor = Cursor::new(Arc::clone(&stored.store.log), subscription);
        let waits = topic.engine.is_manual();
        let mut log = LaneLog::new(past, Some(Arc::clone(&cursor)), waits);
        log.letters = topic.restore_letters(stored, &cursor, subscription, name, parks)?;
        Ok(Some(Box::new(log)))
    }
}

impl<T: Send + Sync + 'static> TopicLog<T> {
    /// Returns the number of the message that this is about.
    pub(crate) fn seek(&self, start: Start) -> Result<u64, StoreError> {
        let (first_available, next) = (self.look(|topic| topic.first_seq), self.visible());
        match start {
            Start::Latest => Ok(self.last_given() + 1),
            Start::Earliest => Ok(first_available),
            // Numbers start at one. Before it nothing was, and nothing was taken.
            Start::Seq(seq) if seq.max(1) < first_available => {
                Err(StoreError::Trimmed { first_available })
            }
            Start::Seq(seq) => Ok(seq.clamp(1, next)),
            Start::Time(time) => self.seek_time(time, first_available, next),
        }
    }
}
