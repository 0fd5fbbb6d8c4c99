//! Subscribers to the dead letters of all topics that a pattern matches.
//!
//! They are on the list of the subscriptions to patterns, whose protocol
//! `src/engine/patterns/subscription.rs` tells. So no topic is missed that is opened meanwhile.
//! Handlers are dropped where the lock of that list is not held.

use std::collections::BTreeMap;

use crate::engine::base::contain::Contained;
use crate::engine::letters::subscribers::AnyLetterReader;
use crate::engine::reading::reader::{LetterHandler, LetterReader};
use crate::engine::runtime::Engine;
use crate::engine::runtime::context::Inside;
use crate::engine::runtime::directory::{AnyPatternSub, AnyTopic};
use crate::engine::state::topic::TopicCore;
use crate::observe::letters::LetterSubscriptionMetrics;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Arc, Mutex};
use crate::types::error::SubscribeError;
use crate::types::pattern::Pattern;

/// Makes the handler for one more topic.
pub(crate) type MakeHandler<T> = Box<dyn Fn() -> LetterHandler<T> + Send + Sync>;

/// The subscriber of one name, in all topics.
pub(crate) struct PatternReaders<T> {
    name: Arc<str>,
    pub(crate) engine: Arc<Engine>,
    pattern: Pattern,
    state: Mutex<State<T>>,
    /// Whether its own reference to the handler is gone.
    is_released: AtomicBool,
}

struct State<T> {
    /// It is `None` from the moment at which the subscriber begins to end.
    make: Option<Contained<MakeHandler<T>>>,
    /// The readers, by the names of their topics.
    readers: BTreeMap<Arc<str>, Arc<LetterReader<T>>>,
    /// Readers in topics that were removed, which are to end.
    leaving: Vec<Arc<LetterReader<T>>>,
    /// The counts of those that have ended.
    ended: LetterSubscriptionMetrics,
}

impl<T: Send + Sync + 'static> PatternReaders<T> {
    pub(crate) fn new(
        name: Arc<str>,
        engine: Arc<Engine>,
        pattern: Pattern,
        make: MakeHandler<T>,
    ) -> Arc<Self> {
        let ended = LetterSubscriptionMetrics {
            name: name.to_string(),
            ..LetterSubscriptionMetrics::default()
        };
        Arc::new(Self {
            name,
            engine,
            pattern,
            state: Mutex::new(State {
                make: Some(Contained::new(make)),
                readers: BTreeMap::new(),
                leaving: Vec::new(),
                ended,
            }),
            is_released: AtomicBool::new(false),
        })
    }

    /// Subscribes. Either all matching topics get a reader or, on an error, none does.
    pub(crate) fn join(self: &Arc<Self>) -> Result<(), SubscribeError> {
        // Dropped after the lock is released.
        let topics;
        let mut pattern_subs = self.engine.pattern_subs.lock();
        if self.engine.is_ending() {
            return Err(SubscribeError::Closed);
        }
        if pattern_subs.iter().any(|other| *other.name() == *self.name) {
            let name = self.name.to_string();
            return Err(SubscribeError::PatternNameTaken { name });
        }
        topics = self.engine.topics.values();
        let matched = topics.iter().filter_map(|topic| self.matches(topic));
        let matched: Vec<_> = matched.filter(|topic| !topic.has_stopped()).collect();
        for topic in &matched {
            if topic.letters().lock().subscribers.has(&self.name) {
                return Err(SubscribeError::NameTakenOn {
                    name: self.name.to_string(),
                    topic: topic.name.to_string(),
                });
            }
        }
        let mut state = self.state.lock();
        for topic in &matched {
            self.add(&mut state, topic);
        }
        drop(state);
        pattern_subs.push(Arc::clone(self) as _);
        drop(pattern_subs);
        if !self.engine.has_stopped() {
            return Ok(());
        }
        // The end of the broker may have passed by before the readers were there.
        self.end();
        Err(SubscribeError::Closed)
    }

    /// Returns the topic if the pattern matches it, and it carries `T`.
    fn matches(&self, topic: &Arc<dyn AnyTopic>) -> Option<Arc<TopicCore<T>>> {
        let is_matched = self.pattern.matches(topic.name());
        let topic = is_matched.then(|| Arc::clone(topic).into_any().downcast());
        topic?.ok()
    }

    fn add(&self, state: &mut State<T>, topic: &Arc<TopicCore<T>>) {
        let Some(make) = &state.make else {
            return;
        };
        let name = Arc::clone(&self.name);
        let reader = LetterReader::new(name, Arc::clone(topic), true, make());
        if reader.join() {
            state.readers.insert(Arc::clone(&topic.name), reader);
        }
    }

    /// Begins the end in all topics.
    pub(crate) fn close(&self) {
        for reader in self.begin_end() {
            reader.close();
        }
    }

    /// Ends in all topics, on this thread where no worker is at work.
    pub(crate) fn end(&self) {
        for reader in self.begin_end() {
            reader.end();
        }
    }

    fn begin_end(&self) -> Vec<Arc<LetterReader<T>>> {
        let mut pattern_subs = self.engine.pattern_subs.lock();
        pattern_subs.retain(|other| !std::ptr::addr_eq(Arc::as_ptr(other), self));
        drop(pattern_subs);
        self.release_user_code();
        let state = self.state.lock();
        let all = state.readers.values().chain(&state.leaving);
        all.cloned().collect()
    }

    /// Returns whether no call runs or will start, and the handler is gone.
    pub(crate) fn has_ended(&self) -> bool {
        let state = self.state.lock();
        let mut all = state.readers.values().chain(&state.leaving);
        // ORDERING: a thread that sees the flag sees that the reference is gone.
        self.is_released.load(Ordering::Acquire) && all.all(|reader| reader.has_ended())
    }

    /// Returns the sum over its topics, the removed ones included.
    pub(crate) fn metrics(&self) -> LetterSubscriptionMetrics {
        let state = self.state.lock();
        let mut sum = state.ended.clone();
        for reader in state.readers.values().chain(&state.leaving) {
            sum.add(&reader.metrics());
        }
        sum
    }
}

impl<T: Send + Sync + 'static> AnyPatternSub for PatternReaders<T> {
    fn name(&self) -> &str {
        &self.name
    }

    fn on_topic_opened(&self, topic: &Arc<dyn AnyTopic>) {
        if let Some(topic) = self.matches(topic) {
            self.add(&mut self.state.lock(), &topic);
        }
    }

    fn on_topic_removed(&self, topic: &str) -> bool {
        let mut state = self.state.lock();
        let reader = state.readers.remove(topic);
        let had_one = reader.is_some();
        state.leaving.extend(reader);
        had_one
    }

    fn reap_ended(&self) {
        let leaving = self.state.lock().leaving.clone();
        for reader in &leaving {
            Arc::clone(reader).end();
        }
        let mut state = self.state.lock();
        let all = std::mem::take(&mut state.leaving);
        let (gone, here): (Vec<_>, _) = all.into_iter().partition(|reader| reader.has_ended());
        state.leaving = here;
        for reader in &gone {
            state.ended.add(&reader.metrics());
        }
    }

    fn release_user_code(&self) {
        let _inside = Inside::enter(&self.engine);
        let make = self.state.lock().make.take();
        if make.is_none() {
            return;
        }
        drop(make);
        self.is_released.store(true, Ordering::Release);
        self.engine.quiescence.notify();
    }
}
