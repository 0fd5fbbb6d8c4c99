//! Opening a topic.

use std::any::type_name;
use std::fmt;

use crate::engine::runtime::Engine;
use crate::engine::runtime::directory::AnyTopic;
use crate::engine::state::topic::{Policies, TopicCore};
use crate::engine::terms::weights::{Weigh, Weights};
use crate::sync::Arc;
use crate::topic::Topic;
use crate::topic::options::{TopicOptions, check_conflate, check_weight_limit, topic_setters};
#[cfg(feature = "log")]
use crate::topic::stored::StoredTopic;
#[cfg(feature = "log")]
use crate::types::error::store::StoreError;
use crate::types::error::{OpenError, SettingError};

/// The largest payload by value, in bytes. A topic of larger payloads is refused.
///
/// A build without optimization moves a message through a score of places on a worker's stack. The
/// stack has 2 MiB, unless [`stack_size`](crate::BrokerBuilder::stack_size) says otherwise.
/// Contents behind a [`Box`] or an [`Arc`] don't count.
pub const MAX_PAYLOAD: usize = 16 * 1_024;
/// How often a durable topic is tried to be opened while the store says that it is open.
#[cfg(feature = "log")]
const MOST_TRIES: u32 = 1_000;

/// A topic to be opened.
///
/// Set what you care about, then call [`open`](Self::open), which checks all settings at once.
#[must_use = "a builder does nothing until the topic is opened"]
pub struct TopicBuilder<'b, T> {
    engine: &'b Arc<Engine>,
    name: String,
    options: TopicOptions,
    weight: Option<(u64, Weigh<T>)>,
    #[cfg(feature = "log")]
    pub(crate) stored: StoredTopic<T>,
}

impl<'b, T: Send + Sync + 'static> TopicBuilder<'b, T> {
    pub(crate) fn new(engine: &'b Arc<Engine>, name: &str) -> Self {
        Self {
            engine,
            name: name.to_owned(),
            options: TopicOptions::new(),
            weight: None,
            #[cfg(feature = "log")]
            stored: StoredTopic::default(),
        }
    }

    /// Takes all settings from a value. Settings made before are replaced.
    pub fn options(mut self, options: &TopicOptions) -> Self {
        self.options = options.clone();
        self
    }

    topic_setters!();

    /// Bounds the messages that wait for dispatch by their weight, besides their number.
    ///
    /// `weigh` says what a payload weighs, in a unit of your own, such as bytes. By default messages
    /// have no weight. The weight of all messages in the topic's queue, delayed ones included, never
    /// exceeds the limit. A message keeps its weight until it has gone to the lanes, which don't
    /// weigh. A message that doesn't fit now meets the topic's overflow policy, as in a topic whose
    /// capacity is used up. A lighter one may pass it meanwhile.
    ///
    /// A message that is heavier than the whole limit is refused at once
    /// ([`PublishError::Invalid`](crate::PublishError::Invalid)). So is a message for which `weigh`
    /// panics, and observers are told. `weigh` is called once for each publish of a message, on the
    /// publisher's thread. A message of such a topic costs an allocation and a lock more. Others pay
    /// nothing.
    ///
    /// [`Topic::set_weight_limit`] changes the limit while traffic runs. A call that
    /// [joins](Self::open) the topic agrees if its limit does, whatever its closure says.
    ///
    /// ```
    /// # use millstream::Broker;
    /// # let broker = Broker::builder().workers(0).build()?;
    /// let uploads = broker.topic::<Vec<u8>>("uploads");
    /// let uploads = uploads.weight_limit(1_000_000, |upload| upload.len() as u64).open()?;
    /// uploads.publish(vec![0; 600_000])?;
    /// assert!(uploads.publish(vec![0; 600_000]).is_err_and(|error| error.is_full()));
    /// uploads.publish(vec![0; 400_000])?;
    /// assert_eq!(uploads.metrics().weight, 1_000_000);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn weight_limit(
        mut self,
        limit: u64,
        weigh: impl Fn(&T) -> u64 + Send + Sync + 'static,
    ) -> Self {
        self.weight = Some((limit, Arc::new(weigh)));
        self
    }

    fn options_mut(&mut self) -> &mut TopicOptions {
        &mut self.options
    }

    /// Opens the topic, or joins it if it is open.
    ///
    /// A call that joins may give settings, as long as they agree with those that the topic has
    /// now. Setters such as [`Topic::set_strategy`] may have changed them since it was opened.
    /// Settings that are not given agree.
    ///
    /// Strategies and retry policies agree if they are of one type and
    /// [say that they decide alike](crate::retry::RetryPolicy::same_as).
    /// [`Immediate`](crate::Immediate), [`Batched`](crate::Batched) and [`Backoff`](crate::Backoff)
    /// compare their settings, and an [`Arc`] agrees with its clones. Two closures, or two boxes,
    /// never agree. The policy of a [`TopicOptions`] agrees with itself.
    ///
    /// ```
    /// # use millstream::{Backoff, Broker};
    /// # use std::time::Duration;
    /// # let broker = Broker::builder().workers(0).build()?;
    /// let retry = Backoff::fixed(Duration::from_secs(1)).max_attempts(5);
    /// let _opened = broker.topic::<u64>("orders").retry(retry.clone()).open()?;
    /// let _joined = broker.topic::<u64>("orders").retry(retry).open()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Returns an [`OpenError`]: an invalid name or setting, another payload type, settings that
    /// clash, or a closed broker. A payload of more than [`MAX_PAYLOAD`] bytes by value is
    /// [`OpenError::Invalid`]: it would overflow a worker's stack. Publish a [`Box`] or an [`Arc`]
    /// of it.
    pub fn open(self) -> Result<Topic<T>, OpenError> {
        let name = crate::types::name::parse(&self.name)?;
        if size_of::<T>() > MAX_PAYLOAD {
            let rule = "must not exceed 16,384 bytes by value: publish a Box or an Arc of it";
            return Err(SettingError::new("payload", size_of::<T>(), rule).into());
        }
        let options = &self.options;
        let (settings, mut live) = options.checked(self.engine)?;
        if let Some((limit, _)) = self.weight {
            check_weight_limit(limit)?;
            check_conflate(live.overflow, false, true)?;
            live.weight_limit = Some(limit);
        }
        #[cfg(feature = "log")]
        self.stored.checked(self.engine, &settings, live)?;
        #[cfg(feature = "log")]
        let mut tries = 0;
        loop {
            if self.engine.is_ending() {
                return Err(OpenError::Closed);
            }
            let Some(found) = self.engine.topics.get(&name) else {
                let strategy = options.strategy.clone();
                let retry = options.retry.clone();
                let weights = self.weight.clone();
                #[cfg(feature = "log")]
                let stored = match self.stored.open(self.engine, &name, live.dedup) {
                    // Somebody opens it at this moment, or it is being removed.
                    Err(OpenError::Store(StoreError::TopicOpen { .. })) if tries < MOST_TRIES => {
                        tries += 1;
                        crate::sync::yield_now();
                        continue;
                    }
                    opened => opened?,
                };
                let core = TopicCore::<T>::new(
                    Arc::clone(&name),
                    Arc::clone(self.engine),
                    settings.clone(),
                    live,
                    weights.map(|(limit, weigh)| Weights::new(limit, weigh)),
                    Policies {
                        strategy: strategy.unwrap_or_else(|| self.engine.strategy.load()),
                        retry: retry.unwrap_or_else(|| Arc::clone(&self.engine.retry)),
                    },
                    #[cfg(feature = "log")]
                    stored,
                );
                // The handle is taken before anybody can find and remove the topic.
                let topic = Topic::join(Arc::clone(&core));
                let ours: Arc<dyn AnyTopic> = core;
                if let Some(topic) = topic
                    && self.engine.register(&ours)
                {
                    #[cfg(feature = "log")]
                    topic.core.restore_delayed();
                    return Ok(topic);
                }
                continue;
            };
            options.check_clash(&self.name, &*found, &settings, live)?;
            let existing = found.payload_type();
            let core = found.into_any().downcast::<TopicCore<T>>();
            let core = core.map_err(|_| OpenError::WrongType {
                topic: self.name.clone(),
                existing,
                requested: type_name::<T>(),
            })?;
            #[cfg(feature = "log")]
            self.stored.check_clash(&self.name, core.stored())?;
            if let Some(topic) = Topic::join(core) {
                return Ok(topic);
            }
            // The topic is being removed at this moment, and will be gone.
            crate::sync::yield_now();
        }
    }
}

impl<T> fmt::Debug for TopicBuilder<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TopicBuilder")
            .field("name", &self.name)
            .field("payload", &type_name::<T>())
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}
