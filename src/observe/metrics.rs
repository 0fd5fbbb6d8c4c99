//! A snapshot of the books.

use std::fmt;
use std::time::Duration;

use crate::observe::latency::LatencySummary;
use crate::types::duration::Short;

pub use crate::engine::base::counters::DeliveryCounts;

/// Everything counted, at one moment.
///
/// Taken while traffic runs, it never shows more ends than beginnings, and says how
/// much was [moving](TopicMetrics::moving) meanwhile. [`balance`](Self::balance) holds at
/// any time: exactly at rest, and under load up to what was moving.
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
    /// Messages that were between two counters while this was taken: what
    /// [`balance`](Self::balance) tolerates. Zero at rest, and a batch or a few under load.
    pub moving: u64,
    /// Its subscriptions.
    pub subscriptions: Vec<SubscriptionMetrics>,
    /// Deliveries of subscriptions that have ended.
    pub ended: DeliveryCounts,
    /// From acceptance to the first attempt, over its subscriptions.
    pub queue_wait: LatencySummary,
    /// In the handler, or leased.
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
    /// In its lane, waiting for the handler: the subscriber's lag. Where no subscription
    /// is ready, up to 63 more wait in the topic's queue until a batch of them is full.
    pub queued: u64,
    /// Of those, set aside because one before them of the same key awaits its retry, or
    /// is parked in a dead-letter store that has no room for them.
    pub held: u64,
    /// Keys that wait for a retry.
    pub blocked_keys: u64,
    /// Keys whose deliveries go to the dead letters because others are there.
    pub parked_keys: u64,
    /// Who handles them: the members of a consumer group, or the slots of a
    /// subscription with concurrency. Empty for others.
    pub members: Vec<MemberMetrics>,
    /// Leases that are out; part of `counts.in_flight`.
    pub leased: u64,
    /// Acks, nacks and extensions that came too late, and changed nothing.
    pub stale: u64,
    /// Leases that outlived their deadline.
    pub timed_out: u64,
    /// Leases that were dropped without being settled.
    pub abandoned: u64,
    /// Deliveries that were between two counters while this was taken: what
    /// [`TopicMetrics::balance`] tolerates. Zero at rest; under load a few batches, or as
    /// many as the lane has, while it is being ended.
    pub moving: u64,
    /// What happened to the deliveries made for it.
    pub counts: DeliveryCounts,
    /// From acceptance to the first attempt.
    pub queue_wait: LatencySummary,
    /// In the handler, or leased.
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
    /// What the two may differ by, because it was between two counters while the
    /// snapshot was taken: zero at rest.
    pub tolerated: u64,
}

impl Metrics {
    /// The topic of this name.
    pub fn topic(&self, name: &str) -> Option<&TopicMetrics> {
        self.topics.iter().find(|topic| topic.name == name)
    }

    /// Checks the laws of conservation for every topic and subscription:
    ///
    /// - messages: published = queued + dropped + unrouted + dispatched
    /// - deliveries: made = delivered + dead-lettered + dropped + expired +
    ///   cancelled + queued + in flight + awaiting retry
    ///
    /// The two sides are counted independently of each other. At rest they are equal.
    /// While traffic runs, a snapshot catches some between two counters, and counts how
    /// many at most: the two sides differ by no more than what was
    /// [moving](TopicMetrics::moving) ([of a subscription](SubscriptionMetrics::moving),
    /// for deliveries).
    ///
    /// # Errors
    ///
    /// The first [`Imbalance`], which is a bug of this crate at any time.
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
        check(&self.name, "messages", self.published, found, self.moving)?;
        let ended = &self.ended;
        check(&self.name, "ended deliveries", ended.made, ended.ended(), 0)?;
        for subscription in &self.subscriptions {
            let place = format!("{}/{}", self.name, subscription.name);
            let counts = &subscription.counts;
            let open = subscription.queued + counts.in_flight + counts.awaiting_retry;
            let found = counts.ended() + open;
            check(
                &place,
                "deliveries",
                counts.made,
                found,
                subscription.moving,
            )?;
        }
        check(&self.name, "illegal steps", self.deliveries().illegal, 0, 0)
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

fn check(
    place: &str,
    what: &'static str,
    made: u64,
    found: u64,
    tolerated: u64,
) -> Result<(), Imbalance> {
    if made.abs_diff(found) <= tolerated {
        return Ok(());
    }
    Err(Imbalance {
        place: place.to_owned(),
        what,
        made,
        found,
        tolerated,
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_moves_is_tolerated_and_what_is_lost_is_not() {
        let mut topic = TopicMetrics {
            published: 10,
            queued: 3,
            dispatched: 5,
            moving: 2,
            ..TopicMetrics::default()
        };
        assert_eq!(topic.balance(), Ok(()));
        topic.queued += 4;
        assert_eq!(topic.balance(), Ok(()), "to either side");
        topic.queued += 1;
        let seen = topic.balance().expect_err("three too many");
        assert_eq!((seen.made, seen.found, seen.tolerated), (10, 13, 2));
        topic.queued = 5;
        topic.moving = 0;
        let mut lane = SubscriptionMetrics {
            queued: 1,
            moving: 1,
            ..SubscriptionMetrics::default()
        };
        lane.counts.made = 2;
        topic.subscriptions = vec![lane];
        assert_eq!(topic.balance(), Ok(()));
        topic.subscriptions[0].moving = 0;
        let seen = topic.balance().expect_err("one is nowhere");
        assert_eq!((seen.made, seen.found, seen.tolerated), (2, 1, 0));
    }
}
