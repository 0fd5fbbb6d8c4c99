//! A snapshot of the books.

use std::fmt;
use std::time::Duration;

use crate::engine::Engine;
use crate::engine::lane::Lane;
use crate::engine::topic::TopicCore;
use crate::latency::{Latencies, LatencySummary, Short};
use crate::sync::Arc;

pub use crate::engine::books::DeliveryCounts;

/// Everything counted, at one moment.
///
/// Taken while traffic runs, it never shows more ends than beginnings. Taken at
/// rest, [`balance`](Self::balance) holds exactly.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Metrics {
    /// When: time since the broker was built.
    pub at: Duration,
    /// Open topics, by name.
    pub topics: Vec<TopicMetrics>,
    /// What topics had counted that have been removed since, so that totals
    /// never shrink.
    pub removed: Option<TopicMetrics>,
    /// Events that found the observers' buffer full.
    pub events_missed: u64,
    /// Panics of observers.
    pub observer_panics: u64,
}

/// One topic. Counts are of messages unless they say otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TopicMetrics {
    /// Its name.
    pub name: String,
    /// The name of its strategy.
    pub strategy: String,
    /// Accepted, ever.
    pub published: u64,
    /// Publishes refused, for whatever reason.
    pub rejected: u64,
    /// In the queue, or on their way into it, or delayed.
    pub queued: u64,
    /// Of those, waiting for their time.
    pub delayed: u64,
    /// Dropped by overflow or by a shutdown, or expired while they were retained for a
    /// first subscription.
    pub dropped: u64,
    /// Found no subscription.
    pub unrouted: u64,
    /// Handed to every lane there was.
    pub dispatched: u64,
    /// Letters in the dead-letter store.
    pub dead_letters: usize,
    /// Letters that left it because it was full.
    pub letters_evicted: u64,
    /// Messages in each of its partitions, those under way to it included; empty if
    /// the topic is not split. While a change of their number is under way, those in
    /// the former ones are missing here.
    pub partitions: Vec<u64>,
    /// Its subscriptions.
    pub subscriptions: Vec<SubscriptionMetrics>,
    /// Deliveries of subscriptions that have ended.
    pub ended: DeliveryCounts,
    /// From acceptance to the first attempt, over its subscriptions.
    pub queue_wait: LatencySummary,
    /// In the handler.
    pub handler: LatencySummary,
    /// From acceptance to the end of an attempt.
    pub end_to_end: LatencySummary,
}

/// One subscription. Counts are of deliveries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SubscriptionMetrics {
    /// Its name.
    pub name: String,
    /// In its lane, waiting for the handler: the subscriber's lag.
    pub queued: u64,
    /// Of those, set aside because one before them of the same key awaits its retry, or
    /// is parked in a dead-letter store that has no room for them.
    pub held: u64,
    /// Keys that wait for a retry.
    pub blocked_keys: u64,
    /// Keys whose deliveries go to the dead letters because others are there.
    pub parked_keys: u64,
    /// Who handles them: the members of a consumer group, or the seats of a
    /// subscription with concurrency. Empty for others.
    pub members: Vec<MemberMetrics>,
    /// Leases that are out; part of `counts.in_hand`.
    pub leased: u64,
    /// Acks, nacks and extensions that came too late, and changed nothing.
    pub stale: u64,
    /// Leases that outlived their deadline.
    pub timed_out: u64,
    /// Leases that were dropped without being settled.
    pub abandoned: u64,
    /// What happened to the deliveries made for it.
    pub counts: DeliveryCounts,
    /// From acceptance to the first attempt.
    pub queue_wait: LatencySummary,
    /// In the handler.
    pub handler: LatencySummary,
    /// From acceptance to the end of an attempt.
    pub end_to_end: LatencySummary,
}

/// One who takes deliveries of a subscription: a member of a consumer group, or all
/// that a subscription with concurrency has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemberMetrics {
    /// Its name; the subscription's, where that has no group.
    pub name: String,
    /// Calls of its handler that may run at once.
    pub concurrency: usize,
    /// Calls that run now.
    pub busy: usize,
    /// How long the longest of them has been running: a member that stalls shows
    /// here, while its keys wait.
    pub busy_for: Duration,
    /// Deliveries it has taken, ever; those included that it put back, untried.
    pub taken: u64,
}

/// A law of conservation that a snapshot breaks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {made} {what} in, but {found} accounted for")]
#[non_exhaustive]
pub struct Imbalance {
    /// The topic, or the topic and the subscription.
    pub place: String,
    /// Messages, deliveries, or illegal steps.
    pub what: &'static str,
    /// The left side of the law.
    pub made: u64,
    /// The right side.
    pub found: u64,
}

impl Metrics {
    pub(crate) fn read(engine: &Engine) -> Self {
        // Held over both, so that a topic is counted in one of them.
        let removed = engine.removed.lock();
        let topics = engine.topics.values();
        let mut topics: Vec<_> = topics.iter().map(|topic| topic.metrics()).collect();
        topics.sort_by(|a, b| a.name.cmp(&b.name));
        Self {
            at: Duration::from_nanos(engine.clock.now_ns()),
            topics,
            removed: removed.clone(),
            events_missed: engine.bus.missed(),
            observer_panics: engine.bus.panicked(),
        }
    }

    /// The topic of this name.
    pub fn topic(&self, name: &str) -> Option<&TopicMetrics> {
        self.topics.iter().find(|topic| topic.name == name)
    }

    /// Checks the laws of conservation for every topic and subscription:
    ///
    /// - messages: published = queued + dropped + unrouted + dispatched
    /// - deliveries: made = delivered + dead-lettered + dropped + expired +
    ///   cancelled + queued + in hand + awaiting retry
    ///
    /// The two sides are counted independently of each other.
    ///
    /// # Errors
    ///
    /// The first [`Imbalance`]. While traffic runs, a snapshot may catch a
    /// message between two counters; at rest an imbalance is a bug.
    pub fn balance(&self) -> Result<(), Imbalance> {
        self.all().try_for_each(TopicMetrics::balance)
    }

    /// Deliveries of all topics, those that have ended included.
    pub fn deliveries(&self) -> DeliveryCounts {
        let mut sum = DeliveryCounts::default();
        for topic in self.all() {
            sum.add(&topic.deliveries());
        }
        sum
    }

    /// All topics, the removed ones included.
    pub(crate) fn all(&self) -> impl Iterator<Item = &TopicMetrics> {
        self.topics.iter().chain(&self.removed)
    }
}

impl TopicMetrics {
    /// The subscription of this name.
    pub fn subscription(&self, name: &str) -> Option<&SubscriptionMetrics> {
        let mut subscriptions = self.subscriptions.iter();
        subscriptions.find(|subscription| subscription.name == name)
    }

    /// Deliveries of all its subscriptions, those that have ended included.
    pub fn deliveries(&self) -> DeliveryCounts {
        let mut sum = self.ended;
        for subscription in &self.subscriptions {
            sum.add(&subscription.counts);
        }
        sum
    }

    /// Checks the laws for this topic; see [`Metrics::balance`].
    ///
    /// # Errors
    ///
    /// The first [`Imbalance`].
    pub fn balance(&self) -> Result<(), Imbalance> {
        let found = self.queued + self.dropped + self.unrouted + self.dispatched;
        check(&self.name, "messages", self.published, found)?;
        let ended = &self.ended;
        check(&self.name, "ended deliveries", ended.made, ended.ended())?;
        for subscription in &self.subscriptions {
            let place = format!("{}/{}", self.name, subscription.name);
            let counts = &subscription.counts;
            let open = subscription.queued + counts.in_hand + counts.awaiting_retry;
            check(&place, "deliveries", counts.made, counts.ended() + open)?;
        }
        check(&self.name, "illegal steps", self.deliveries().illegal, 0)
    }

    /// Adds the counts of another topic: for totals over removed ones.
    pub(crate) fn absorb(&mut self, other: &Self) {
        self.published += other.published;
        self.rejected += other.rejected;
        self.dropped += other.dropped;
        self.unrouted += other.unrouted;
        self.dispatched += other.dispatched;
        self.letters_evicted += other.letters_evicted;
        self.ended.add(&other.deliveries());
    }
}

fn check(place: &str, what: &'static str, made: u64, found: u64) -> Result<(), Imbalance> {
    if made == found {
        return Ok(());
    }
    Err(Imbalance {
        place: place.to_owned(),
        what,
        made,
        found,
    })
}

impl<T: Send + Sync + 'static> Lane<T> {
    pub(crate) fn read_metrics(&self, into: &mut Latencies) -> SubscriptionMetrics {
        // Later stages first; see `engine::books`.
        let counts = self.books.read();
        let occupied = u64::from(self.room.load().occupied);
        let mut metrics = SubscriptionMetrics {
            name: self.name.to_string(),
            queued: occupied.saturating_sub(counts.in_hand + counts.awaiting_retry),
            counts,
            ..SubscriptionMetrics::default()
        };
        if let Some(crew) = self.crew.get() {
            crew.read_metrics(self, &mut metrics);
        }
        if let Some(latencies) = self.latencies.lock().as_deref() {
            metrics.queue_wait = LatencySummary::of(&latencies.queue_wait);
            metrics.handler = LatencySummary::of(&latencies.handler);
            metrics.end_to_end = LatencySummary::of(&latencies.end_to_end);
            into.add(latencies);
        }
        metrics
    }
}

impl<T: Send + Sync + 'static> TopicCore<T> {
    pub(crate) fn read_metrics(&self) -> TopicMetrics {
        let mut latencies = Latencies::new();
        let (lanes, ended) = self.lanes_and_ended();
        let subscriptions = lanes
            .iter()
            .map(|lane| lane.read_metrics(&mut latencies))
            .collect();
        let dispatched = self.books.dispatched.get();
        let unrouted = self.books.unrouted.get();
        let dropped = self.books.dropped.get();
        let delayed = self.books.delayed.get();
        let queued = self.gate.outstanding();
        let (dead_letters, letters_evicted) = {
            let letters = self.letters.lock();
            (letters.len(), letters.evicted())
        };
        TopicMetrics {
            name: self.name.to_string(),
            strategy: self.strategy.load().name.to_string(),
            rejected: self.books.rejected.get(),
            queued,
            delayed,
            dropped,
            unrouted,
            dispatched,
            dead_letters,
            letters_evicted,
            partitions: self
                .split
                .as_ref()
                .map_or(Vec::new(), |split| split.depths()),
            subscriptions,
            ended,
            queue_wait: LatencySummary::of(&latencies.queue_wait),
            handler: LatencySummary::of(&latencies.handler),
            end_to_end: LatencySummary::of(&latencies.end_to_end),
            published: self.gate.issued(),
        }
    }

    fn lanes_and_ended(&self) -> (Arc<crate::engine::topic::Lanes<T>>, DeliveryCounts) {
        let ended = self.ended.lock();
        (
            self.lanes.load(),
            ended.as_deref().copied().unwrap_or_default(),
        )
    }
}

/// Prints a table that a person can read.
impl fmt::Display for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |topic: &TopicMetrics| topic.name.len();
        let lane = |topic: &TopicMetrics| {
            let names = topic.subscriptions.iter().map(|lane| lane.name.len() + 2);
            names.max().unwrap_or(0)
        };
        let widths = self.topics.iter().map(|topic| name(topic).max(lane(topic)));
        let width = widths.max().unwrap_or(0).max("topic / subscription".len());
        writeln!(
            f,
            "{:width$} {:>9} {:>9} {:>7} {:>6} {:>7} {:>6} {:>7} {:>5} {:>5} {:>5}",
            "topic / subscription",
            "published",
            "delivered",
            "failed",
            "dead",
            "dropped",
            "queued",
            "waiting",
            "p50",
            "p99",
            "max",
        )?;
        for topic in &self.topics {
            topic.write_row(f, width)?;
            for subscription in &topic.subscriptions {
                subscription.write_row(f, width)?;
            }
        }
        if let Some(removed) = &self.removed {
            writeln!(f, "removed topics: {} messages", removed.published)?;
        }
        Ok(())
    }
}

impl TopicMetrics {
    fn write_row(&self, f: &mut fmt::Formatter<'_>, width: usize) -> fmt::Result {
        let counts = self.deliveries();
        writeln!(
            f,
            "{:width$} {:>9} {:>9} {:>7} {:>6} {:>7} {:>6} {:>7} {:>5} {:>5} {:>5}",
            self.name,
            self.published,
            counts.delivered,
            counts.failed,
            counts.dead_lettered,
            self.dropped + counts.dropped,
            self.queued,
            self.delayed,
            Short(self.end_to_end.p50),
            Short(self.end_to_end.p99),
            Short(self.end_to_end.max),
        )
    }
}

impl SubscriptionMetrics {
    fn write_row(&self, f: &mut fmt::Formatter<'_>, width: usize) -> fmt::Result {
        let counts = &self.counts;
        writeln!(
            f,
            "{:width$} {:>9} {:>9} {:>7} {:>6} {:>7} {:>6} {:>7} {:>5} {:>5} {:>5}",
            format_args!("  {}", self.name).to_string(),
            "",
            counts.delivered,
            counts.failed,
            counts.dead_lettered,
            counts.dropped,
            self.queued,
            counts.awaiting_retry,
            Short(self.end_to_end.p50),
            Short(self.end_to_end.p99),
            Short(self.end_to_end.max),
        )
    }
}
