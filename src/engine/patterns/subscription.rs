//! Subscriptions to patterns, and the lanes they have.
//!
//! A pattern is resolved when a topic or a subscription appears. Each topic that it matches
//! gets a lane of its own, so a message pays nothing for the pattern.
//!
//! Steps. *Opening* a topic happens under the lock of the pattern subscriptions. It gives
//! the topic a lane for each subscription that matches it, then puts the topic on the map.
//! *Subscribing* happens under the same lock. It gives lanes to the topics on the map, then
//! puts the subscription on the list. Two interleavings are feared. Each looks before the
//! other is there, and the topic has no lane. Or somebody finds the topic and publishes to
//! it before it has its lanes. Neither can happen: one of the two comes first as a whole,
//! and a topic has its lanes before it can be found. Model:
//! `loom-tests/tests/models/patterns.rs`.
//!
//! No user code runs under that lock. A value that may be the last reference to a handler,
//! a policy or a payload is dropped after the lock is released.

use std::collections::BTreeMap;

use crate::engine::base::contain::discard;
use crate::engine::base::counters::DeliveryCounts;
use crate::engine::gates::protection::ProtectionSettings;
use crate::engine::parts::handler::SharedFilter;
use crate::engine::patterns::members::PatternMember;
use crate::engine::patterns::plan::{PatternPlan, Template};
use crate::engine::pull::sources::Sources;
use crate::engine::registry::equip::LanePlan;
use crate::engine::runtime::Engine;
use crate::engine::runtime::context::Inside;
use crate::engine::runtime::directory::{AnyPatternSub, AnyTopic};
use crate::engine::state::lane::{Calling, Lane, Policy};
use crate::engine::state::topic::TopicCore;
use crate::engine::wait::holds::Hold;
use crate::observe::event::EventKind;
use crate::observe::latency::{Latencies, LatencySummary};
use crate::observe::metrics::{MemberMetrics, SubscriptionMetrics, Waiting};
use crate::pure::order::rules::Rules;
use crate::pure::protect::breaker::state::BreakerStatus;
use crate::pure::words::room::Phase;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Arc, Mutex, in_order, mutant};
use crate::types::config::LaneFull;
use crate::types::error::SubscribeError;
use crate::types::pattern::Pattern;

/// One subscription to patterns.
pub(crate) struct PatternSub<T> {
    pub(crate) name: Arc<str>,
    pub(crate) engine: Arc<Engine>,
    /// The lanes to receive from, only if callers pull.
    pub(crate) sources: Option<Arc<Sources<T>>>,
    pub(super) resolved: Mutex<PatternLanes<T>>,
    /// Whether its own reference to the handler is gone.
    is_released: AtomicBool,
}

pub(super) struct PatternLanes<T> {
    pub(super) capacity: Option<u32>,
    pub(super) when_full: LaneFull,
    pub(super) is_paused: bool,
    patterns: Vec<Pattern>,
    /// The template is `None` from the moment at which the subscription begins to end.
    pub(super) template: Option<Template<T>>,
    pub(super) members: Vec<Arc<PatternMember<T>>>,
    pub(super) retry: Policy,
    pub(super) protection: ProtectionSettings,
    pub(super) calling: Calling,
    filter: Option<SharedFilter<T>>,
    pub(super) rules: Rules,
    /// The lanes, by the names of their topics.
    pub(super) lanes: BTreeMap<Arc<str>, Arc<Lane<T>>>,
    /// Lanes that are ending, because no pattern matches any more or their topic was removed.
    /// Each such end removes the ended lanes before it, so the list stays short.
    leaving: Vec<Arc<Lane<T>>>,
    /// The counts of the lanes that left and have ended.
    ended: DeliveryCounts,
}

impl<T> PatternLanes<T> {
    fn is_matched(&self, topic: &str) -> bool {
        self.patterns.iter().any(|pattern| pattern.matches(topic))
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Arc<Lane<T>>> {
        self.lanes.values().chain(&self.leaving)
    }
}

impl<T: Send + Sync + 'static> PatternSub<T> {
    pub(crate) fn new(name: Arc<str>, engine: Arc<Engine>, plan: PatternPlan<T>) -> Self {
        let sources = match &plan.template {
            Template::Callers(_, sources) => Some(Arc::clone(sources)),
            _ => None,
        };
        let resolved = PatternLanes {
            capacity: plan.capacity,
            when_full: plan.when_full,
            is_paused: false,
            patterns: Vec::new(),
            template: Some(plan.template),
            members: Vec::new(),
            retry: plan.retry,
            protection: plan.protection,
            calling: plan.calling,
            filter: plan.filter,
            rules: plan.rules,
            lanes: BTreeMap::new(),
            leaving: Vec::new(),
            ended: DeliveryCounts::default(),
        };
        Self {
            name,
            engine,
            sources,
            resolved: Mutex::new(resolved),
            is_released: AtomicBool::new(false),
        }
    }

    /// Subscribes. Either all matching topics get a lane or, on an error, none does.
    pub(crate) fn join(self: &Arc<Self>, patterns: Vec<Pattern>) -> Result<(), SubscribeError> {
        // These are dropped after the lock is released.
        let (topics, lanes);
        let mut pattern_subs = self.engine.pattern_subs.lock();
        if self.engine.is_ending() {
            return Err(SubscribeError::Closed);
        }
        if pattern_subs.iter().any(|other| *other.name() == *self.name) {
            let name = self.name.to_string();
            return Err(SubscribeError::PatternNameTaken { name });
        }
        topics = self.engine.topics.values();
        lanes = self.resolve(&topics, patterns)?;
        pattern_subs.push(Arc::clone(self) as _);
        drop(pattern_subs);
        self.confirm(lanes)
    }

    /// Adds a pattern, and lanes for the topics that it matches.
    pub(crate) fn add(&self, pattern: Pattern) -> Result<(), SubscribeError> {
        // These are dropped after the lock is released.
        let (topics, lanes);
        let pattern_subs = self.engine.pattern_subs.lock();
        if self.engine.is_ending() {
            return Err(SubscribeError::Closed);
        }
        topics = self.engine.topics.values();
        lanes = self.resolve(&topics, vec![pattern])?;
        drop(pattern_subs);
        self.confirm(lanes)
    }

    /// Gives lanes to the topics on the map that the patterns match and that have none. Returns
    /// the new lanes.
    fn resolve(
        &self,
        topics: &[Arc<dyn AnyTopic>],
        patterns: Vec<Pattern>,
    ) -> Result<Vec<Arc<Lane<T>>>, SubscribeError> {
        let mut resolved = self.resolved.lock();
        let is_new = |topic: &&Arc<dyn AnyTopic>| {
            let name = topic.name();
            patterns.iter().any(|pattern| pattern.matches(name))
                && !resolved.lanes.contains_key(name)
        };
        let matched = topics.iter().filter(is_new);
        let matched = matched.filter_map(carries);
        // A topic that was drained stays on the map, and takes no subscription.
        let matched: Vec<Arc<TopicCore<T>>> =
            matched.filter(|topic| !topic.has_stopped()).collect();
        for topic in &matched {
            if topic.find_open(&self.name).is_some() {
                return Err(SubscribeError::NameTakenOn {
                    name: self.name.to_string(),
                    topic: topic.name.to_string(),
                });
            }
        }
        let added = matched
            .iter()
            .filter_map(|topic| self.add_lane(&mut resolved, topic));
        let added: Vec<_> = added.collect();
        for lane in &added {
            lane.announce();
        }
        for pattern in patterns {
            if !resolved.patterns.contains(&pattern) {
                resolved.patterns.push(pattern);
            }
        }
        Ok(added)
    }

    fn add_lane(
        &self,
        resolved: &mut PatternLanes<T>,
        topic: &Arc<TopicCore<T>>,
    ) -> Option<Arc<Lane<T>>> {
        let equipment = resolved.template.as_ref()?.equip();
        let capacity = resolved.capacity.unwrap_or(topic.live.lane_capacity.get());
        let plan = LanePlan {
            capacity,
            when_full: resolved.when_full,
            retry: resolved.retry.clone(),
            protection: resolved.protection.clone(),
            calling: resolved.calling,
            filter: resolved.filter.clone(),
            rules: resolved.rules.within(capacity),
            by_pattern: true,
            #[cfg(feature = "log")]
            stored: None,
        };
        let name = Arc::clone(&self.name);
        let lane = Lane::equipped(name, Arc::clone(topic), plan, equipment);
        lane.gate.holds.set(Hold::Subscription, resolved.is_paused);
        for member in &resolved.members {
            member.join(&lane);
        }
        let joined = topic.join(&lane);
        assert!(joined, "a name is given out under one lock");
        let name = Arc::clone(&topic.name);
        resolved.lanes.insert(name, Arc::clone(&lane));
        self.note_lanes(resolved);
        Some(lane)
    }

    /// Has receivers look at the present lanes, if callers pull.
    fn note_lanes(&self, resolved: &PatternLanes<T>) {
        if let Some(sources) = &self.sources {
            sources.set_lanes(resolved.all().cloned().collect());
        }
    }

    /// Gives the new lanes what their topics have kept. Ends them if the broker has stopped. Its end
    /// may have passed by before the lanes were on the lists of their topics.
    fn confirm(&self, added: Vec<Arc<Lane<T>>>) -> Result<(), SubscribeError> {
        for lane in &added {
            lane.topic.welcome(lane);
        }
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

    /// Removes a pattern. Returns the lanes that no pattern matches any more, which are to end,
    /// or `None` if it has no such pattern.
    pub(crate) fn remove(&self, pattern: &str) -> Option<Vec<Arc<Lane<T>>>> {
        let mut resolved = self.resolved.lock();
        let mut patterns = resolved.patterns.iter();
        let at = patterns.position(|known| known.as_str() == pattern)?;
        resolved.patterns.remove(at);
        let topics = resolved.lanes.keys();
        let lost: Vec<_> = topics
            .filter(|topic| !resolved.is_matched(topic))
            .cloned()
            .collect();
        let lanes = lost.iter().filter_map(|topic| resolved.lanes.remove(topic));
        let lanes: Vec<_> = lanes.collect();
        resolved.leaving.extend(lanes.iter().cloned());
        Some(lanes)
    }

    /// Ends the subscription to further topics and releases the handler. Returns all its lanes,
    /// which are to end.
    pub(crate) fn begin_end(&self) -> Vec<Arc<Lane<T>>> {
        let mut pattern_subs = self.engine.pattern_subs.lock();
        pattern_subs.retain(|other| !std::ptr::addr_eq(Arc::as_ptr(other), self));
        drop(pattern_subs);
        self.release_user_code();
        self.resolved.lock().all().cloned().collect()
    }

    /// Whether no call of the handler runs or will start, and the handler is gone.
    pub(crate) fn has_ended(&self) -> bool {
        // ORDERING: a thread that sees the flag sees that the reference is gone.
        self.is_released.load(Ordering::Acquire)
            && self.resolved.lock().all().all(|lane| lane.is_retired())
    }

    pub(crate) fn patterns(&self) -> Vec<Pattern> {
        self.resolved.lock().patterns.clone()
    }

    pub(crate) fn topics(&self) -> Vec<Arc<str>> {
        self.resolved.lock().lanes.keys().cloned().collect()
    }

    /// Returns the sum over its lanes, the ended ones included.
    pub(crate) fn read_metrics(&self) -> SubscriptionMetrics {
        let mut latencies = Latencies::new();
        let resolved = self.resolved.lock();
        let mut sum = SubscriptionMetrics {
            name: self.name.to_string(),
            counts: resolved.ended,
            ..SubscriptionMetrics::default()
        };
        for lane in resolved.all() {
            let metrics = lane.read_metrics(&mut latencies);
            sum.queued += metrics.queued;
            sum.moving += metrics.moving;
            sum.queued_by_priority = added(sum.queued_by_priority, metrics.queued_by_priority);
            sum.held += metrics.held;
            sum.blocked_keys += metrics.blocked_keys;
            sum.parked_keys += metrics.parked_keys;
            sum.leased += metrics.leased;
            sum.stale += metrics.stale;
            sum.timed_out += metrics.timed_out;
            sum.abandoned += metrics.abandoned;
            sum.deferred += metrics.deferred;
            sum.missed += metrics.missed;
            sum.conflated += metrics.conflated;
            sum.breaker = not_closed(sum.breaker, metrics.breaker);
            sum.waiting_for = longest(sum.waiting_for, metrics.waiting_for);
            add_members(&mut sum.members, metrics.members);
            sum.counts += metrics.counts;
        }
        sum.queue_wait = LatencySummary::of(&latencies.queue_wait);
        sum.handler = LatencySummary::of(&latencies.handler);
        sum.end_to_end = LatencySummary::of(&latencies.end_to_end);
        sum
    }
}

/// Adds the counts of each level, where there are any.
fn added(one: Option<[u64; 4]>, other: Option<[u64; 4]>) -> Option<[u64; 4]> {
    match (one, other) {
        (Some(one), Some(other)) => Some(std::array::from_fn(|level| one[level] + other[level])),
        (one, other) => one.or(other),
    }
}

impl<T: Send + Sync + 'static> AnyPatternSub for PatternSub<T> {
    fn name(&self) -> &str {
        &self.name
    }

    fn on_topic_opened(&self, topic: &Arc<dyn AnyTopic>) {
        let mut resolved = self.resolved.lock();
        if resolved.is_matched(topic.name())
            && let Some(topic) = carries(topic)
        {
            self.add_lane(&mut resolved, &topic);
        }
    }

    fn on_topic_removed(&self, topic: &str) -> bool {
        let mut resolved = self.resolved.lock();
        let lane = resolved.lanes.remove(topic);
        let had_one = lane.is_some();
        resolved.leaving.extend(lane);
        had_one
    }

    fn reap_ended(&self) {
        let mut resolved = self.resolved.lock();
        let leaving = std::mem::take(&mut resolved.leaving);
        let (gone, leaving): (Vec<_>, _) = leaving.into_iter().partition(|lane| lane.is_retired());
        resolved.leaving = leaving;
        for lane in &gone {
            resolved.ended += lane.books.read();
        }
        if !gone.is_empty() {
            self.note_lanes(&resolved);
        }
        drop(resolved);
        // The last reference to a policy may go with them.
        drop(gone);
    }

    fn release_user_code(&self) {
        let mut resolved = self.resolved.lock();
        let template = resolved.template.take();
        let members = std::mem::take(&mut resolved.members);
        let (retry, filter) = (resolved.retry.take(), resolved.filter.take());
        drop(resolved);
        let Some(template) = template else {
            return;
        };
        let _inside = Inside::enter(&self.engine);
        for member in members {
            // It works on until its lanes have ended.
            member.release_handler();
        }
        discard((template, retry, filter));
        if let Some(sources) = &self.sources {
            sources.complete();
        }
        self.is_released.store(true, Ordering::Release);
        self.engine.quiescence.notify();
    }
}

/// Returns the wait that has lasted for longer, if there is one.
fn longest(one: Option<Waiting>, other: Option<Waiting>) -> Option<Waiting> {
    let since = |waiting: &Waiting| waiting.since;
    one.into_iter().chain(other).max_by_key(since)
}

/// Returns the status of a breaker that isn't closed, if one isn't.
fn not_closed(one: Option<BreakerStatus>, other: Option<BreakerStatus>) -> Option<BreakerStatus> {
    let is_closed = |status: &BreakerStatus| *status == BreakerStatus::Closed;
    one.filter(|status| !is_closed(status)).or(other).or(one)
}

/// Adds the members of one topic to those of others, by their names.
fn add_members(sum: &mut Vec<MemberMetrics>, members: Vec<MemberMetrics>) {
    for member in members {
        match sum.iter_mut().find(|other| other.name == member.name) {
            Some(other) => other.add(&member),
            None => sum.push(member),
        }
    }
}

/// Returns the topic if it carries `T`.
fn carries<T: Send + Sync + 'static>(topic: &Arc<dyn AnyTopic>) -> Option<Arc<TopicCore<T>>> {
    Arc::clone(topic).into_any().downcast().ok()
}

impl Engine {
    /// Puts a new topic on the map, with a lane for each subscription that matches it. Returns
    /// `false` if the name is taken or the broker ends. The broker's end lists the topics under
    /// this lock, so it finds every topic there will ever be.
    pub(crate) fn register(&self, topic: &Arc<dyn AnyTopic>) -> bool {
        let pattern_subs = self.pattern_subs.lock();
        if self.is_ending() || self.topics.get(topic.name()).is_some() {
            return false;
        }
        topic.set_paused(Hold::Broker, self.pauses.is_paused());
        in_order!(
            {
                pattern_subs
                    .iter()
                    .for_each(|pattern_sub| pattern_sub.on_topic_opened(topic));
                mutant!((), "patterns.map-lock", drop(pattern_subs));
            },
            // The insertion announces the topic in one step. An observer that hears of the
            // topic finds it, and nobody finds it before it was announced.
            self.topics
                .insert(Arc::clone(topic.name()), Arc::clone(topic), || {
                    topic.announce(EventKind::TopicOpened);
                    topic.announce_lanes();
                }),
            "patterns.lanes-then-map",
        );
        true
    }

    /// Releases the handlers of all subscriptions to patterns, for the end of the broker.
    pub(crate) fn release_pattern_subs(&self) {
        let pattern_subs = self.pattern_subs.lock().clone();
        for pattern_sub in pattern_subs {
            pattern_sub.release_user_code();
        }
    }
}
