//! Subscriptions to patterns, and the lanes they have.
//!
//! A pattern is resolved when a topic or a subscription appears, and each topic that
//! it matches gets a lane of its own. So a message pays nothing for it.
//!
//! Steps. *Opening* a topic: under the lock of the followers, give it a lane for each
//! of them that it matches, then put it on the map. *Following*: under the same lock,
//! give lanes to the topics on the map, then put the follower on the list. The feared
//! interleavings: each looks before the other is there, and the topic has no lane; or
//! somebody finds the topic and publishes to it before it has its lanes. Neither can
//! happen: one of the two comes first as a whole, and a topic has its lanes before it
//! can be found. Model: `loom-tests/tests/models/patterns.rs`.
//!
//! No code of the user's runs under that lock. What may be the last reference to a
//! handler, a policy or a payload is dropped after it.

use std::collections::BTreeMap;

use crate::engine::base::contain::{SharedPolicy, discard};
use crate::engine::base::counters::DeliveryCounts;
use crate::engine::parts::handler::Handler;
use crate::engine::runtime::Engine;
use crate::engine::runtime::context::Inside;
use crate::engine::runtime::directory::{AnyTopic, Follow};
use crate::engine::state::keyed::{Consumers, Keyed};
use crate::engine::state::lane::{Lane, LaneSettings, Policy};
use crate::engine::state::topic::TopicCore;
use crate::observe::event::EventKind;
use crate::observe::latency::{Latencies, LatencySummary};
use crate::observe::metrics::SubscriptionMetrics;
use crate::pure::decide::rules::{Fit, Rules};
use crate::pure::words::room::Phase;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Arc, Mutex, breakable, in_order};
use crate::types::config::{LaneFull, OnExhausted, OnFailure};
use crate::types::error::{InvalidSetting, SubscribeError};
use crate::types::pattern::Pattern;

/// What failures mean for those behind them, in each of its lanes.
#[derive(Clone, Copy, Default)]
pub(crate) struct Order {
    pub(crate) on_failure: OnFailure,
    pub(crate) on_exhausted: OnExhausted,
}

impl Order {
    /// The rules of a lane that may set aside so many.
    pub(crate) fn rules(self, hold: u32) -> Rules {
        Rules {
            on_failure: self.on_failure,
            on_exhausted: self.on_exhausted,
            hold,
        }
    }

    /// Whether it makes sense for such lanes.
    pub(crate) fn check(self, when_full: LaneFull) -> Result<(), InvalidSetting> {
        let fit = Fit {
            when_full,
            capacity: 1,
            is_shared: false,
            credits: None,
        };
        self.rules(1).checked(fit).map(drop)
    }
}

/// Makes a lane's handler of the one that all its lanes share.
pub(crate) type MakeHandler<T> = Box<dyn Fn() -> Handler<T> + Send + Sync>;

/// One subscription to patterns.
pub(crate) struct Follower<T> {
    pub(crate) name: Arc<str>,
    pub(crate) engine: Arc<Engine>,
    capacity: Option<u32>,
    when_full: LaneFull,
    following: Mutex<Following<T>>,
    /// Its own reference to the handler is gone.
    let_go: AtomicBool,
}

struct Following<T> {
    patterns: Vec<Pattern>,
    /// `None` from the moment at which it begins to end.
    make: Option<MakeHandler<T>>,
    retry: Policy,
    order: Order,
    /// By the names of their topics.
    lanes: BTreeMap<Arc<str>, Arc<Lane<T>>>,
    /// Lanes that are ending because no pattern matches any more or their topic was
    /// removed. Bounded by what such ends take: each looks for those before it.
    leaving: Vec<Arc<Lane<T>>>,
    /// The counts of those that left and have ended.
    ended: DeliveryCounts,
}

impl<T> Following<T> {
    fn is_matched(&self, topic: &str) -> bool {
        self.patterns.iter().any(|pattern| pattern.matches(topic))
    }

    fn all(&self) -> impl Iterator<Item = &Arc<Lane<T>>> {
        self.lanes.values().chain(&self.leaving)
    }
}

impl<T: Send + Sync + 'static> Follower<T> {
    pub(crate) fn new(
        name: Arc<str>,
        engine: Arc<Engine>,
        capacity: Option<u32>,
        when_full: LaneFull,
        retry: Policy,
        order: Order,
        make: MakeHandler<T>,
    ) -> Self {
        let following = Following {
            patterns: Vec::new(),
            make: Some(make),
            retry,
            order,
            lanes: BTreeMap::new(),
            leaving: Vec::new(),
            ended: DeliveryCounts::default(),
        };
        Self {
            name,
            engine,
            capacity,
            when_full,
            following: Mutex::new(following),
            let_go: AtomicBool::new(false),
        }
    }

    /// Begins to follow. Either all topics that match get a lane or, on an error,
    /// none does.
    pub(crate) fn join(self: &Arc<Self>, patterns: Vec<Pattern>) -> Result<(), SubscribeError> {
        // Dropped after the lock.
        let (topics, lanes);
        let mut followers = self.engine.followers.lock();
        if self.engine.is_ending() {
            return Err(SubscribeError::Closed);
        }
        if followers.iter().any(|other| *other.name() == *self.name) {
            let name = self.name.to_string();
            return Err(SubscribeError::PatternNameTaken { name });
        }
        topics = self.engine.topics.values();
        lanes = self.follow(&topics, patterns)?;
        followers.push(Arc::clone(self) as _);
        drop(followers);
        self.confirm(lanes)
    }

    /// Follows what one more pattern matches.
    pub(crate) fn add(&self, pattern: Pattern) -> Result<(), SubscribeError> {
        // Dropped after the lock.
        let (topics, lanes);
        let followers = self.engine.followers.lock();
        if self.engine.is_ending() {
            return Err(SubscribeError::Closed);
        }
        topics = self.engine.topics.values();
        lanes = self.follow(&topics, vec![pattern])?;
        drop(followers);
        self.confirm(lanes)
    }

    /// Gives lanes to those topics on the map that the patterns match and that have
    /// none; returns the lanes.
    fn follow(
        &self,
        topics: &[Arc<dyn AnyTopic>],
        patterns: Vec<Pattern>,
    ) -> Result<Vec<Arc<Lane<T>>>, SubscribeError> {
        let mut following = self.following.lock();
        let is_new = |topic: &&Arc<dyn AnyTopic>| {
            let name = topic.name();
            patterns.iter().any(|pattern| pattern.matches(name))
                && !following.lanes.contains_key(name)
        };
        let matched = topics.iter().filter(is_new);
        let matched: Vec<Arc<TopicCore<T>>> = matched.filter_map(carries).collect();
        for topic in &matched {
            if topic.has_open(&self.name) {
                return Err(SubscribeError::NameTakenOn {
                    name: self.name.to_string(),
                    topic: topic.name.to_string(),
                });
            }
        }
        let added = matched
            .iter()
            .filter_map(|topic| self.add_lane(&mut following, topic));
        let added: Vec<_> = added.collect();
        for topic in &matched {
            topic.tell_of(Some(&self.name), None, 0, None, EventKind::SubscriberAdded);
        }
        for pattern in patterns {
            if !following.patterns.contains(&pattern) {
                following.patterns.push(pattern);
            }
        }
        Ok(added)
    }

    fn add_lane(
        &self,
        following: &mut Following<T>,
        topic: &Arc<TopicCore<T>>,
    ) -> Option<Arc<Lane<T>>> {
        let make = following.make.as_ref()?;
        let capacity = self.capacity.unwrap_or(topic.settings.lane_capacity);
        let rules = following.order.rules(capacity);
        let settings = LaneSettings {
            capacity,
            when_full: self.when_full,
            retry: following.retry.clone(),
            by_pattern: true,
            keyed: rules
                .blocks()
                .then(|| Keyed::new(rules, Consumers::Runner, self.when_full)),
        };
        let name = Arc::clone(&self.name);
        let lane = Arc::new(Lane::new(name, Arc::clone(topic), settings, make()));
        if let Some(keyed) = lane.keyed() {
            keyed.park_by_letters();
        }
        let joined = topic.join(&lane);
        assert!(joined, "a name is given out under one lock");
        let name = Arc::clone(&topic.name);
        following.lanes.insert(name, Arc::clone(&lane));
        Some(lane)
    }

    /// The end of the broker may have passed by before these lanes were on the lists
    /// of their topics.
    fn confirm(&self, added: Vec<Arc<Lane<T>>>) -> Result<(), SubscribeError> {
        if !self.engine.has_stopped() {
            return Ok(());
        }
        for lane in added {
            lane.close(Phase::Cancelling);
            lane.end(&self.engine);
            lane.topic.leave(&lane);
        }
        Err(SubscribeError::Closed)
    }

    /// Takes a pattern away. Returns the lanes that are to end, which no pattern
    /// matches any more; `None`: it has no such pattern.
    pub(crate) fn remove(&self, pattern: &str) -> Option<Vec<Arc<Lane<T>>>> {
        let mut following = self.following.lock();
        let mut patterns = following.patterns.iter();
        let at = patterns.position(|known| known.as_str() == pattern)?;
        following.patterns.remove(at);
        let topics = following.lanes.keys();
        let lost: Vec<_> = topics
            .filter(|topic| !following.is_matched(topic))
            .cloned()
            .collect();
        let lanes = lost
            .iter()
            .filter_map(|topic| following.lanes.remove(topic));
        let lanes: Vec<_> = lanes.collect();
        following.leaving.extend(lanes.iter().cloned());
        Some(lanes)
    }

    /// Follows no more topics, and lets go of the handler; returns all lanes it has,
    /// which are to end.
    pub(crate) fn begin_end(&self) -> Vec<Arc<Lane<T>>> {
        let mut followers = self.engine.followers.lock();
        followers.retain(|other| !std::ptr::addr_eq(Arc::as_ptr(other), self));
        drop(followers);
        self.let_go();
        self.following.lock().all().cloned().collect()
    }

    /// Whether no call of the handler runs or will start, and the handler is gone.
    pub(crate) fn has_ended(&self) -> bool {
        // ORDERING: who sees it sees that the reference is gone.
        self.let_go.load(Ordering::Acquire)
            && self.following.lock().all().all(|lane| lane.is_retired())
    }

    pub(crate) fn patterns(&self) -> Vec<Pattern> {
        self.following.lock().patterns.clone()
    }

    pub(crate) fn topics(&self) -> Vec<Arc<str>> {
        self.following.lock().lanes.keys().cloned().collect()
    }

    pub(crate) fn set_retry(&self, policy: SharedPolicy) {
        // Dropped after the lock.
        let mut before = Vec::new();
        let mut following = self.following.lock();
        for lane in following.all() {
            before.push(lane.retry.swap(Arc::new(Some(Arc::clone(&policy)))));
        }
        before.push(Arc::new(following.retry.replace(policy)));
    }

    /// Changes the order of all lanes, those to come included.
    pub(crate) fn set_order(&self, change: &dyn Fn(&mut Order)) -> Result<(), InvalidSetting> {
        let mut following = self.following.lock();
        let mut order = following.order;
        change(&mut order);
        order.check(self.when_full)?;
        following.order = order;
        let lanes: Vec<_> = following.all().cloned().collect();
        drop(following);
        for lane in lanes {
            lane.set_rules(&move |rules, fit| order.rules(rules.hold).checked(fit))?;
        }
        Ok(())
    }

    /// The sum over its lanes, and those that have ended.
    pub(crate) fn read_metrics(&self) -> SubscriptionMetrics {
        let mut latencies = Latencies::new();
        let following = self.following.lock();
        let mut sum = SubscriptionMetrics {
            name: self.name.to_string(),
            counts: following.ended,
            ..SubscriptionMetrics::default()
        };
        for lane in following.all() {
            let metrics = lane.read_metrics(&mut latencies);
            sum.queued += metrics.queued;
            sum.moving += metrics.moving;
            sum.held += metrics.held;
            sum.blocked_keys += metrics.blocked_keys;
            sum.parked_keys += metrics.parked_keys;
            sum.counts.add(&metrics.counts);
        }
        sum.queue_wait = LatencySummary::of(&latencies.queue_wait);
        sum.handler = LatencySummary::of(&latencies.handler);
        sum.end_to_end = LatencySummary::of(&latencies.end_to_end);
        sum
    }
}

impl<T: Send + Sync + 'static> Follow for Follower<T> {
    fn name(&self) -> &str {
        &self.name
    }

    fn meet(&self, topic: &Arc<dyn AnyTopic>) {
        let mut following = self.following.lock();
        if following.is_matched(topic.name())
            && let Some(topic) = carries(topic)
        {
            self.add_lane(&mut following, &topic);
        }
    }

    fn forget(&self, topic: &str) -> bool {
        let mut following = self.following.lock();
        let lane = following.lanes.remove(topic);
        let had_one = lane.is_some();
        following.leaving.extend(lane);
        had_one
    }

    fn put_away(&self) {
        let mut following = self.following.lock();
        let leaving = std::mem::take(&mut following.leaving);
        let (gone, leaving): (Vec<_>, _) = leaving.into_iter().partition(|lane| lane.is_retired());
        following.leaving = leaving;
        for lane in &gone {
            following.ended.add(&lane.books.read());
        }
        drop(following);
        // With them goes what may be the last reference to a policy.
        drop(gone);
    }

    fn let_go(&self) {
        let mut following = self.following.lock();
        let (make, retry) = (following.make.take(), following.retry.take());
        drop(following);
        if let Some(make) = make {
            let _inside = Inside::enter(&self.engine);
            discard((make, retry));
            self.let_go.store(true, Ordering::Release);
            self.engine.quiescence.notify();
        }
    }
}

/// The topic, if it carries `T`.
fn carries<T: Send + Sync + 'static>(topic: &Arc<dyn AnyTopic>) -> Option<Arc<TopicCore<T>>> {
    Arc::clone(topic).into_any().downcast().ok()
}

impl Engine {
    /// Puts a new topic on the map, with the lanes of all who follow it. `false`: one
    /// of its name is there, or the broker ends. As the end asks for the topics under
    /// this lock, it finds all there will ever be.
    pub(crate) fn introduce(&self, topic: &Arc<dyn AnyTopic>) -> bool {
        let followers = self.followers.lock();
        if self.is_ending() || self.topics.get(topic.name()).is_some() {
            return false;
        }
        in_order!(
            "patterns: the lanes, then the map",
            {
                followers.iter().for_each(|follower| follower.meet(topic));
                breakable!("patterns: on the map after the lock", (), drop(followers));
            },
            // Who hears of the topic finds it, and who finds it has been preceded by that.
            self.topics
                .insert(Arc::clone(topic.name()), Arc::clone(topic), || {
                    topic.announce(EventKind::TopicOpened);
                    topic.announce_lanes();
                }),
        );
        true
    }

    /// Has those who follow topics let go of their handlers, for the end of the
    /// broker.
    pub(crate) fn let_followers_go(&self) {
        let followers = self.followers.lock().clone();
        for follower in followers {
            follower.let_go();
        }
    }
}
