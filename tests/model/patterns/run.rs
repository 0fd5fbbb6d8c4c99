//! Takes the steps on the engine and on the model, and compares them.

use std::collections::BTreeMap;

use millstream::error::{RemoveError, SubscribeError};
use millstream::{Broker, Delivery, Nack, PatternSubscription, Subscription, Topic};

use super::reference::{Call, Model};
use super::{NAMES, PATTERNS, Step, TOPICS};
use crate::harness::{Log, manual};

/// A handle to a topic of either type.
enum Handle {
    Typed(Topic<u64>),
    Other(Topic<u8>),
}

pub struct Pair {
    broker: Broker,
    topics: BTreeMap<usize, Handle>,
    followers: BTreeMap<usize, PatternSubscription>,
    own: BTreeMap<(usize, usize), Subscription>,
    log: Log<Call>,
    published: u64,
    model: Model,
}

impl Pair {
    pub fn new() -> Self {
        let (broker, _) = manual();
        Self {
            broker,
            topics: BTreeMap::new(),
            followers: BTreeMap::new(),
            own: BTreeMap::new(),
            log: Log::new(),
            published: 0,
            model: Model::default(),
        }
    }

    pub fn step(&mut self, step: &Step) {
        match step {
            Step::Open(topic) => self.open(*topic),
            Step::RemoveTopic(topic) => self.remove_topic(*topic),
            Step::Publish(topic) => self.publish(*topic),
            Step::Run => self.run(),
            Step::Follow(name, patterns) => self.follow(*name, patterns),
            Step::Add(name, pattern) => {
                if let Some(follower) = self.followers.get(name) {
                    let added = follower.add(PATTERNS[*pattern]);
                    assert_eq!(added.is_ok(), self.model.add(*name, *pattern), "{added:?}");
                }
            }
            Step::Remove(name, pattern, mode) => {
                if let Some(follower) = self.followers.get(name) {
                    let removed = follower.remove(PATTERNS[*pattern], *mode);
                    assert_eq!(removed.is_ok(), self.model.remove(*name, *pattern));
                    self.run();
                }
            }
            Step::Unfollow(name, mode) => {
                if let Some(follower) = self.followers.remove(name) {
                    follower.unsubscribe(*mode);
                    self.model.unfollow(*name);
                    self.run();
                }
            }
            Step::Subscribe(topic, name) => self.subscribe(*topic, *name),
            Step::Unsubscribe(topic, name) => {
                if let Some(own) = self.own.remove(&(*topic, *name)) {
                    own.unsubscribe(millstream::Unsubscribe::Cancel);
                    let topic = self.model.topics.get_mut(topic).expect("it is open");
                    topic.own.remove(name);
                    topic.lanes.remove(name);
                    self.run();
                }
            }
        }
        self.check();
    }

    fn open(&mut self, topic: usize) {
        let handle = match topic + 1 < TOPICS.len() {
            true => Handle::Typed(self.broker.topic(TOPICS[topic]).open().expect("it opens")),
            false => Handle::Other(self.broker.topic(TOPICS[topic]).open().expect("it opens")),
        };
        self.topics.insert(topic, handle);
        self.model.open(topic);
    }

    fn remove_topic(&mut self, topic: usize) {
        let was_open = self.topics.remove(&topic).is_some();
        let removed = self.broker.remove_topic(TOPICS[topic]);
        let Some(model) = self.model.topics.get(&topic) else {
            assert_eq!(removed, Err(RemoveError::Unknown));
            return;
        };
        assert!(was_open);
        if model.queue.is_empty() && model.own.is_empty() {
            removed.expect("nothing refers to it");
            self.model.topics.remove(&topic);
        } else {
            let is_refused = matches!(removed, Err(RemoveError::NotEmpty { .. }));
            assert!(is_refused, "{removed:?}");
            self.open(topic);
        }
    }

    fn publish(&mut self, topic: usize) {
        self.published += 1;
        match self.topics.get(&topic) {
            None => return,
            Some(Handle::Typed(handle)) => {
                handle.publish(self.published).expect("there is room");
            }
            Some(Handle::Other(handle)) => {
                handle.publish(0).expect("there is room");
            }
        }
        self.model.publish(topic, self.published);
    }

    fn script(
        &self,
        name: usize,
    ) -> impl Fn(&Delivery<'_, u64>) -> Result<(), Nack> + Send + Sync + 'static {
        let log = self.log.clone();
        move |delivery| {
            let topic = TOPICS.iter().position(|topic| *topic == delivery.topic());
            let topic = topic.expect("there are no others");
            log.push((name, topic, *delivery.payload()));
            Ok(())
        }
    }

    fn follow(&mut self, name: usize, patterns: &[usize]) {
        let builder = self.broker.subscription::<u64>(NAMES[name]);
        let builder = patterns
            .iter()
            .fold(builder, |builder, at| builder.matching(PATTERNS[*at]));
        let real = builder.subscribe(self.script(name));
        assert_eq!(real.is_ok(), self.model.follow(name, patterns), "{real:?}");
        if let Ok(follower) = real {
            self.followers.insert(name, follower);
        }
    }

    fn subscribe(&mut self, topic: usize, name: usize) {
        let Some(Handle::Typed(handle)) = self.topics.get(&topic) else {
            return;
        };
        let real = handle.subscribe(NAMES[name], self.script(name));
        let model = self.model.topics.get_mut(&topic).expect("it is open");
        if model.lanes.contains_key(&name) {
            assert!(
                matches!(real, Err(SubscribeError::NameTaken { .. })),
                "{real:?}"
            );
            return;
        }
        model.lanes.insert(name, model.issued);
        model.own.insert(name);
        self.own
            .insert((topic, name), real.expect("the name is free"));
    }

    /// Whoever waits for an end on a broker without workers runs it, too.
    fn run(&mut self) {
        self.broker.run_until_idle();
        self.model.run();
        self.check_calls();
    }

    /// The calls since the last time are those that the model made, in each topic in order.
    fn check_calls(&mut self) {
        let in_order = |mut calls: Vec<Call>| {
            calls.sort_by_key(|(name, topic, _)| (*name, *topic));
            calls
        };
        let model = std::mem::take(&mut self.model.calls);
        assert_eq!(in_order(self.log.take()), in_order(model));
        for (name, follower) in &self.followers {
            let counts = follower.metrics().counts;
            let made = self.model.made[name];
            assert_eq!((counts.made, counts.delivered), (made, made));
        }
    }

    fn check(&self) {
        let metrics = self.broker.metrics();
        metrics.balance().expect("the books balance");
        for (name, follower) in &self.followers {
            let topics = follower.topics();
            let topics: Vec<_> = topics.iter().map(|topic| &**topic).collect();
            assert_eq!(
                topics,
                self.model.followed(*name),
                "topics of {}",
                NAMES[*name]
            );
            let patterns = follower.patterns();
            let patterns: Vec<_> = patterns.iter().map(ToString::to_string).collect();
            let model = self.model.followers[name].iter();
            let model: Vec<_> = model.map(|at| PATTERNS[*at]).collect();
            assert_eq!(patterns, model, "patterns of {}", NAMES[*name]);
        }
        for (at, model) in &self.model.topics {
            let real = metrics.topic(TOPICS[*at]).expect("it is open");
            let counts = (real.published, real.unrouted, real.queued);
            let waiting = model.queue.len() as u64;
            assert_eq!(counts, (model.issued, model.unrouted, waiting));
            let lanes: Vec<_> = real.subscriptions.iter().map(|lane| &*lane.name).collect();
            let expected = model.lanes.keys().map(|name| NAMES[*name]);
            assert_eq!(lanes.len(), model.lanes.len());
            assert!(expected.into_iter().all(|name| lanes.contains(&name)));
        }
    }
}
