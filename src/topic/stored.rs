//! Durable topics: how they are described, and what is read back from them.

use std::collections::VecDeque;
use std::fmt;
use std::time::{Duration, SystemTime};

use crate::engine::journal::topic_log::{SharedCodec, TopicLog};
use crate::engine::runtime::Engine;
use crate::engine::runtime::directory::{LiveSettings, TopicSettings};
use crate::log::reader::TopicReader;
use crate::message::MessageId;
use crate::message::outgoing::Message;
use crate::pure::log::retention::Limits;
use crate::pure::policy::dedup::Dedup;
use crate::sync::Arc;
use crate::topic::Topic;
use crate::topic::builder::TopicBuilder;
use crate::types::config::Overflow;
use crate::types::durable::codec::Codec;
use crate::types::durable::durability::Durability;
use crate::types::durable::start::Start;
use crate::types::error::store::StoreError;
use crate::types::error::{OpenError, SettingError};

/// How much of a durable topic is kept. By default everything is, for ever.
///
/// Messages go by whole segments, the oldest first, when a new segment begins. So more may be kept
/// than these limits say, but never less. A subscription whose next message was taken is told so
/// when it subscribes again: [`StoreError::Trimmed`](crate::store::StoreError::Trimmed).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use = "a retention does nothing until a topic has it"]
pub struct Retention(Limits);

impl Retention {
    /// Keeps everything.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets the oldest messages go when more than this many bytes are younger.
    pub fn bytes(mut self, bytes: u64) -> Self {
        self.0.bytes = Some(bytes);
        self
    }

    /// Lets messages go that are older.
    pub fn age(mut self, age: Duration) -> Self {
        self.0.age_ms = Some(u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
        self
    }
}

/// The settings of a topic that is to be durable, if it is.
pub(crate) struct StoredTopic<T> {
    codec: Option<SharedCodec<T>>,
    level: Option<Durability>,
    retention: Option<Retention>,
}

impl<T> Default for StoredTopic<T> {
    fn default() -> Self {
        Self {
            codec: None,
            level: None,
            retention: None,
        }
    }
}

impl<T: Send + Sync + 'static> TopicBuilder<'_, T> {
    /// Keeps the topic's messages in the broker's store, by this codec (feature `log`).
    ///
    /// A publish returns when its message has reached the topic's
    /// [`durability`](Self::durability), and nothing is delivered before. Messages are numbered on
    /// from run to run. [Durable](crate::SubscriptionBuilder::durable) subscriptions resume where
    /// they were. A call that [joins](Self::open) a topic agrees if that is durable, whatever its
    /// codec.
    ///
    /// A durable topic loses nothing, so [`Overflow`] is `Reject` or `Block`. It has no partitions.
    ///
    /// ```
    /// use millstream::store::{Raw, Start, Store};
    /// use millstream::Broker;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let directory = std::env::temp_dir().join(format!("millstream-durable-{}", std::process::id()));
    /// let broker = Broker::builder().workers(0).store(Store::open(&directory)?).build()?;
    /// let notes = broker.topic::<String>("notes").durable(Raw).open()?;
    /// notes.publish("remember this".to_owned())?;
    /// let all = notes.subscription("all").from(Start::Earliest).subscribe(|note| {
    ///     println!("{}", note.payload());
    ///     Ok(())
    /// })?;
    /// broker.run_until_idle();
    /// assert_eq!(all.metrics().counts.delivered, 1);
    /// # drop((all, notes, broker));
    /// # std::fs::remove_dir_all(&directory)?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn durable(mut self, codec: impl Codec<T>) -> Self {
        self.stored.codec = Some(Arc::new(codec));
        self
    }

    /// Sets how far a message has to come before its publish returns. The default is
    /// [`Durability::Synced`].
    ///
    /// `Synced` costs a sync of the disk for each commit, which is some milliseconds on many disks.
    /// Publishers that wait at the same time share it. `Written` costs a write.
    pub fn durability(mut self, level: Durability) -> Self {
        self.stored.level = Some(level);
        self
    }

    /// Sets how much of the topic is kept. By default everything is.
    pub fn retention(mut self, retention: Retention) -> Self {
        self.stored.retention = Some(retention);
        self
    }
}

impl<T: Send + Sync + 'static> StoredTopic<T> {
    /// Checks the settings, and what they ask of the others.
    pub(crate) fn checked(
        &self,
        engine: &Engine,
        settings: &TopicSettings,
        live: LiveSettings,
    ) -> Result<(), SettingError> {
        if self.codec.is_none() {
            let rule = "needs a topic that is durable";
            if let Some(level) = self.level {
                return Err(SettingError::new("durability", level, rule));
            }
            if self.retention.is_some() {
                return Err(SettingError::new("retention", "set", rule));
            }
            return Ok(());
        }
        if engine.store.is_none() {
            let rule = "needs a broker with a store";
            return Err(SettingError::new("durable", "set", rule));
        }
        if self.level == Some(Durability::Volatile) {
            let rule = "must be written or synced in a durable topic";
            return Err(SettingError::new("durability", Durability::Volatile, rule));
        }
        check_lossless(live.overflow)?;
        if let Some(partitions) = settings.partitions {
            let rule = "must not be set in a durable topic";
            return Err(SettingError::new("partitions", partitions.count, rule));
        }
        if let Some(retain) = live.retain {
            return Err(retain.refuse_durable());
        }
        Ok(())
    }

    /// Refuses settings that differ from those of a topic that is open.
    pub(crate) fn check_clash(
        &self,
        name: &str,
        open: Option<&TopicLog<T>>,
    ) -> Result<(), OpenError> {
        let retention = self.retention.map(|retention| retention.0);
        let clashes = [
            ("durable", self.codec.is_some() && open.is_none()),
            (
                "durability",
                self.level.is_some() && self.level != open.map(|open| open.level),
            ),
            (
                "retention",
                retention.is_some() && retention != open.map(|open| open.limits),
            ),
        ];
        match clashes.into_iter().find(|(_, clashes)| *clashes) {
            None => Ok(()),
            Some((setting, _)) => Err(OpenError::Clash {
                topic: name.to_owned(),
                setting,
            }),
        }
    }

    /// Opens the topic's side of the log, if it is durable.
    pub(crate) fn open(
        &self,
        engine: &Engine,
        name: &str,
        dedup: Option<Dedup>,
    ) -> Result<Option<Box<TopicLog<T>>>, OpenError> {
        let (Some(codec), Some(store)) = (&self.codec, &engine.store) else {
            return Ok(None);
        };
        let inner = Arc::clone(&store.inner);
        let (topic, next) = inner.open_topic(name)?;
        let limits = self.retention.unwrap_or_default().0;
        inner.log.limit(topic, limits);
        let level = self.level.unwrap_or_default();
        let codec = Arc::clone(codec);
        let now_ns = engine.clock.now_ns();
        let mut stored = TopicLog::new(inner, topic, next, codec, level, now_ns);
        stored.limits = limits;
        if let Some(dedup) = dedup {
            stored.remember(dedup);
        }
        Ok(Some(Box::new(stored)))
    }
}

/// Refuses a policy by which a durable topic would lose messages.
pub(crate) fn check_lossless(overflow: Overflow) -> Result<(), SettingError> {
    match overflow {
        Overflow::Reject | Overflow::Block { .. } => Ok(()),
        Overflow::DropOldest | Overflow::DropNewest | Overflow::DeadLetter | Overflow::Conflate => {
            let rule = "must be Reject or Block in a durable topic, which loses nothing";
            Err(SettingError::new("overflow", format!("{overflow:?}"), rule))
        }
    }
}

/// A message as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoredRecord<T> {
    /// Its number, which is its id.
    pub id: MessageId,
    /// When it was published, by its publisher's clock, to the millisecond.
    pub time: SystemTime,
    /// The payload, with key and headers.
    pub message: Message<T>,
}

/// The stored messages of a topic, oldest first, from [`Topic::read`].
///
/// It ends with the last message that had reached the topic's level when it was made.
#[must_use = "it reads nothing until it is iterated"]
pub struct StoredRecords<T: Send + Sync + 'static> {
    topic: Topic<T>,
    reader: TopicReader,
    until: u64,
    /// Read, and not yet returned.
    held: VecDeque<Result<StoredRecord<T>, StoreError>>,
}

impl<T: Send + Sync + 'static> Topic<T> {
    /// Reads stored messages of a durable topic, for export and inspection (feature `log`).
    ///
    /// It blocks for the disk. A message that can't be decoded is an error, after which the
    /// iterator goes on.
    ///
    /// ```
    /// # use millstream::{Broker, store::{Raw, Start, Store}};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let directory = std::env::temp_dir().join(format!("millstream-read-{}", std::process::id()));
    /// # let broker = Broker::builder().workers(0).store(Store::open(&directory)?).build()?;
    /// let notes = broker.topic::<String>("notes").durable(Raw).open()?;
    /// notes.publish_batch(["one", "two", "three"].map(String::from))?;
    /// for record in notes.read(Start::Seq(2))? {
    ///     let record = record?;
    ///     println!("{}: {}", record.id, record.message.payload());
    /// }
    /// # assert_eq!(notes.read(Start::Seq(2))?.count(), 2);
    /// # drop((notes, broker));
    /// # std::fs::remove_dir_all(&directory)?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns [`StoreError::Trimmed`] if retention has taken the message to start with, and
    /// [`StoreError::Unsupported`] if the topic is not durable.
    pub fn read(&self, start: Start) -> Result<StoredRecords<T>, StoreError> {
        let Some(stored) = self.core.stored() else {
            let what = "messages unless it is opened as durable";
            return Err(StoreError::Unsupported { what });
        };
        Ok(StoredRecords {
            reader: stored.reader(stored.seek(start)?),
            until: stored.visible(),
            topic: self.clone(),
            held: VecDeque::new(),
        })
    }
}

impl<T: Send + Sync + 'static> Iterator for StoredRecords<T> {
    type Item = Result<StoredRecord<T>, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        let Self {
            topic,
            reader,
            until,
            held,
        } = self;
        if held.is_empty() {
            let stored = topic.core.stored()?;
            let read = reader.read_frame(*until, |read| {
                let record = stored
                    .decode(read.message)
                    .map(|(payload, meta)| StoredRecord {
                        id: MessageId::new(read.seq),
                        time: SystemTime::UNIX_EPOCH + Duration::from_millis(read.time_ms),
                        message: Message::from_parts((payload, meta)),
                    });
                held.push_back(record);
            });
            if let Err(error) = read {
                // What lies behind it can't be found.
                *until = 0;
                return Some(Err(error));
            }
        }
        held.pop_front()
    }
}

impl<T: Send + Sync + 'static> fmt::Debug for StoredRecords<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoredRecords")
            .field("topic", &self.topic.name())
            .field("next", &self.reader.next())
            .finish_non_exhaustive()
    }
}
