//! Making a subscription to patterns of topics.

use std::any::type_name;
use std::fmt;
use std::marker::PhantomData;

use crate::engine::base::contain::Contained;
use crate::engine::parts::handler::{Handler, SharedFilter};
#[cfg(feature = "parallel")]
use crate::engine::parts::parallel::Parallel;
use crate::engine::patterns::plan::{PatternPlan, Template, check_when_full, fit_of_any};
use crate::engine::patterns::subscription::PatternSub;
use crate::engine::pull::sources::Sources;
use crate::engine::runtime::Engine;
#[cfg(feature = "async")]
use crate::engine::slots::async_calls;
use crate::engine::slots::slot;
use crate::message::Delivery;
use crate::message::delivery_batch::DeliveryBatch;
use crate::message::nack::Nack;
use crate::pure::order::rules::check_batch_size;
use crate::pure::policy::strategy::{Batched, Strategy};
use crate::subscription::group::pattern::PatternGroup;
use crate::subscription::options::{
    BATCHES_STAY, NO_CALLS, ONE_BATCH_AT_A_TIME, SubscriptionOptions, subscription_setters,
};
use crate::subscription::pattern::PatternSubscription;
use crate::subscription::pull::{Pull, PullSubscription};
use crate::sync::Arc;
use crate::types::error::{SettingError, SubscribeError};
use crate::types::name::PatternError;
use crate::types::range::in_range;

/// A subscription to patterns of topics, to be made.
///
/// Set what you care about, then call [`subscribe`](Self::subscribe) or another of the final
/// methods, which check all settings at once. Each setting holds in each topic by itself.
///
/// The subscription gets every message that a matching topic accepts after a final method has
/// returned, and no earlier message. [`Topic::subscribe`](crate::Topic::subscribe) says more. From
/// a topic that is opened later, it gets every message from the first on. No final method waits
/// for handlers.
///
/// The name must be free in all matching topics, and among the pattern subscriptions. From then on
/// it is taken in each matching topic: a [`Topic::subscribe`](crate::Topic::subscribe) with this
/// name is refused there.
#[must_use = "a builder does nothing until it subscribes"]
pub struct PatternSubscriptionBuilder<'b, T> {
    engine: &'b Arc<Engine>,
    name: String,
    patterns: Vec<String>,
    options: SubscriptionOptions,
    filter: Option<SharedFilter<T>>,
    carries: PhantomData<fn(T) -> T>,
}

impl<'b, T: Send + Sync + 'static> PatternSubscriptionBuilder<'b, T> {
    pub(crate) fn new(engine: &'b Arc<Engine>, name: &str) -> Self {
        Self {
            engine,
            name: name.to_owned(),
            patterns: Vec::new(),
            options: SubscriptionOptions::new(),
            filter: None,
            carries: PhantomData,
        }
    }

    /// Adds a [`Pattern`](crate::Pattern) of topics. At least one is needed.
    ///
    /// A topic that several patterns match is subscribed to once.
    pub fn matching(mut self, pattern: &str) -> Self {
        self.patterns.push(pattern.to_owned());
        self
    }

    /// Takes all settings from a value. Settings made before are replaced, except the patterns.
    pub fn options(mut self, options: &SubscriptionOptions) -> Self {
        self.options = options.clone();
        self
    }

    subscription_setters!();

    fn options_mut(&mut self) -> &mut SubscriptionOptions {
        &mut self.options
    }

    /// Sets which messages the subscription wants, in all topics. By default it wants all.
    ///
    /// [`SubscriptionBuilder::filter`](crate::SubscriptionBuilder::filter) says when it is asked.
    pub fn filter<F>(mut self, wanted: F) -> Self
    where
        F: Fn(&Delivery<'_, T>) -> bool + Send + Sync + 'static,
    {
        self.filter = Some(Arc::new(Contained::new(Box::new(wanted))));
        self
    }

    /// Subscribes with a handler that is called for each delivery.
    ///
    /// [`Delivery::topic`] tells the topic. In each topic, up to [`concurrency`](Self::concurrency)
    /// calls run at once. Without that setting they are one at a time, with first attempts in
    /// accept order. Calls for different topics may overlap, so the handler is `Fn` and `Sync`.
    ///
    /// # Errors
    ///
    /// Returns a [`SubscribeError`] for an invalid or taken name, an invalid pattern or setting, or
    /// a closed broker. Nothing has been subscribed to then.
    pub fn subscribe<F>(self, handler: F) -> Result<PatternSubscription, SubscribeError>
    where
        F: Fn(&Delivery<'_, T>) -> Result<(), Nack> + Send + Sync + 'static,
    {
        let concurrency = self.options.checked_concurrency()?;
        let handler = Arc::new(Contained::new(handler));
        let template = if self.options.concurrency.is_some() {
            let slots = move |concurrency| slot::share(&handler, concurrency);
            Template::Slots(Box::new(slots), concurrency)
        } else {
            Template::Runner(
                Box::new(move || {
                    let handler = Arc::clone(&handler);
                    let call = move |delivery: &Delivery<'_, T>| (**handler)(delivery);
                    Handler::Each(Box::new(call))
                }),
                None,
            )
        };
        self.with_handler(template)
    }

    /// Subscribes with an async function as the handler.
    ///
    /// In each topic, up to [`concurrency`](Self::concurrency) of its calls are in flight at once.
    /// [`SubscriptionBuilder::subscribe_async`](crate::SubscriptionBuilder::subscribe_async) says
    /// who polls them.
    ///
    /// # Errors
    ///
    /// The errors are those of [`subscribe`](Self::subscribe).
    #[cfg(feature = "async")]
    pub fn subscribe_async<F, R>(self, handler: F) -> Result<PatternSubscription, SubscribeError>
    where
        F: Fn(crate::OwnedDelivery<T>) -> R + Send + Sync + 'static,
        R: Future<Output = Result<(), Nack>> + Send + 'static,
    {
        let concurrency = self.options.checked_concurrency()?;
        let handler = Arc::new(Contained::new(handler));
        let hook = self.engine.poll_hook.clone();
        let slots = move |concurrency| async_calls::share(hook.clone(), &handler, concurrency);
        self.with_handler(Template::Slots(Box::new(slots), concurrency))
    }

    /// Subscribes with a handler that takes batches, each of them from one topic.
    ///
    /// Calls are one at a time per topic, and may overlap between topics.
    ///
    /// # Errors
    ///
    /// The errors are those of [`subscribe`](Self::subscribe), a concurrency above one, and batches
    /// larger than the [`capacity`](Self::capacity). In a topic whose lanes are smaller than a
    /// batch, a full lane makes a batch.
    pub fn subscribe_batches<F>(
        self,
        batches: Batched,
        handler: F,
    ) -> Result<PatternSubscription, SubscribeError>
    where
        F: Fn(&mut DeliveryBatch<'_, T>) -> Result<(), Nack> + Send + Sync + 'static,
    {
        self.options.check_one_at_a_time(ONE_BATCH_AT_A_TIME)?;
        self.options.check_untimed()?;
        self.check_batches(batches)?;
        let handler = Arc::new(Contained::new(handler));
        let template = Template::Runner(
            Box::new(move || {
                let handler = Arc::clone(&handler);
                let call = move |batch: &mut DeliveryBatch<'_, T>| (**handler)(batch);
                Handler::Batch(Box::new(call), batches)
            }),
            Some(batches.size()),
        );
        self.with_handler(template)
    }

    /// Subscribes with a handler whose calls for one batch run side by side.
    ///
    /// All topics share one pool of [`concurrency`](Self::concurrency) threads.
    /// [`SubscriptionBuilder::subscribe_parallel`](crate::SubscriptionBuilder::subscribe_parallel)
    /// says more.
    ///
    /// # Errors
    ///
    /// The errors are those of [`subscribe_batches`](Self::subscribe_batches), except that the
    /// concurrency may be up to 1,024. [`SubscribeError::Spawn`] means that the system refused a
    /// thread.
    #[cfg(feature = "parallel")]
    pub fn subscribe_parallel<F>(
        self,
        batches: Batched,
        handler: F,
    ) -> Result<PatternSubscription, SubscribeError>
    where
        F: Fn(&Delivery<'_, T>) -> Result<(), Nack> + Send + Sync + 'static,
    {
        self.options.check_untimed()?;
        self.check_batches(batches)?;
        let threads = self.options.checked_threads()?;
        crate::types::name::parse(&self.name)?;
        let parallel = Parallel::new(handler, threads, &self.name, self.engine.id())
            .map_err(|error| SubscribeError::Spawn(error.to_string()))?;
        let parallel = Arc::new(Contained::new(parallel));
        let template = Template::Runner(
            Box::new(move || Handler::Batch(Box::new(Arc::clone(&parallel)), batches)),
            Some(batches.size()),
        );
        self.with_handler(template)
    }

    /// Subscribes as a consumer group, which members join with their handlers.
    ///
    /// A member is one in every topic. In each topic the deliveries are shared among the members by
    /// key, as in a [`ConsumerGroup`](crate::ConsumerGroup).
    ///
    /// # Errors
    ///
    /// The errors are those of [`subscribe`](Self::subscribe).
    /// [`OnFailure::BlockSubscription`](crate::OnFailure::BlockSubscription) is refused, because
    /// one member would do under it.
    pub fn group(self) -> Result<PatternGroup<T>, SubscribeError> {
        let concurrency = self.options.checked_concurrency()?;
        let group = self.finish(Template::Members(concurrency as u16))?;
        Ok(PatternGroup::new(group, concurrency))
    }

    /// Subscribes without a handler: the caller's own threads take the deliveries of all topics.
    ///
    /// [`PullSubscription`] says how. Receivers take from the topics in turn. A batch of leases is
    /// of one topic. The settings of `pull` hold in each topic. So with 64 credits, 64 leases may
    /// be outstanding in each of them, or as many as its lane has places.
    ///
    /// # Errors
    ///
    /// The errors are those of [`subscribe`](Self::subscribe), and of
    /// [`SubscriptionBuilder::pull`](crate::SubscriptionBuilder::pull).
    pub fn pull(self, pull: Pull) -> Result<PullSubscription<T>, SubscribeError> {
        self.options.check_one_at_a_time(NO_CALLS)?;
        self.options.check_without_handler()?;
        let fit = fit_of_any(
            self.checked_capacity()?,
            self.options.asked_when_full().unwrap_or_default(),
        );
        let (leasing, _) = pull.checked(fit)?;
        let sources = Arc::new(Sources::new(Arc::clone(self.engine)));
        let sub = self.finish(Template::Callers(leasing, Arc::clone(&sources)))?;
        Ok(PullSubscription::of_patterns(sub, sources))
    }

    fn checked_capacity(&self) -> Result<Option<u32>, SettingError> {
        match self.options.capacity {
            None => Ok(None),
            asked => Ok(Some(in_range("capacity", asked, 0)? as u32)),
        }
    }

    fn check_batches(&self, batches: Batched) -> Result<(), SettingError> {
        batches.check()?;
        self.options.nature.check_conflates_not(BATCHES_STAY)?;
        match self.checked_capacity()? {
            Some(capacity) => check_batch_size(Some(batches.size()), capacity),
            None => Ok(()),
        }
    }

    fn with_handler(self, template: Template<T>) -> Result<PatternSubscription, SubscribeError> {
        let pattern_sub = self.finish(template)?;
        Ok(PatternSubscription::new(pattern_sub as _))
    }

    /// Checks the settings that all kinds of consumers share, and subscribes.
    fn finish(self, template: Template<T>) -> Result<Arc<PatternSub<T>>, SubscribeError> {
        let name = crate::types::name::parse(&self.name)?;
        if self.patterns.is_empty() {
            let rule = "must have at least one, or it would match nothing";
            return Err(SettingError::new("matching", "empty", rule).into());
        }
        let patterns = self.patterns.iter().map(|pattern| pattern.parse());
        let patterns = patterns.collect::<Result<_, PatternError>>()?;
        let capacity = self.checked_capacity()?;
        let when_full = check_when_full(self.options.asked_when_full().unwrap_or_default())?;
        if let Some(retry) = &self.options.retry {
            retry.check()?;
        }
        let is_pulled = matches!(template, Template::Callers(..));
        self.options.protection.check(is_pulled)?;
        let calling = self.options.calling(self.engine)?;
        let plan = PatternPlan {
            capacity,
            when_full,
            rules: self.options.rules(template.fit(capacity, when_full))?,
            retry: self.options.retry,
            protection: self.options.protection,
            calling,
            filter: self.filter,
            template,
        };
        let engine = Arc::clone(self.engine);
        let pattern_sub = Arc::new(PatternSub::new(name, engine, plan));
        pattern_sub.join(patterns)?;
        Ok(pattern_sub)
    }
}

impl<T> fmt::Debug for PatternSubscriptionBuilder<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PatternSubscriptionBuilder")
            .field("name", &self.name)
            .field("payload", &type_name::<T>())
            .field("patterns", &self.patterns)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}
