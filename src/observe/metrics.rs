//! Snapshots of the counters, and the laws of conservation that they obey.

use std::fmt;
use std::time::Duration;

use crate::observe::latency::LatencySummary;
use crate::observe::letters::LetterSubscriptionMetrics;
use crate::types::duration::Short;

use crate::pure::protect::breaker::state::BreakerStatus;
use crate::pure::protect::gate::WaitingFor;

pub use crate::engine::base::counters::DeliveryCounts;

/// A snapshot of all counts of a broker.
///
/// A snapshot taken under load never shows more ends than beginnings. It says how much was
/// [moving](TopicMetrics::moving) meanwhile. [`balance`](Self::balance) holds at any time: exactly
/// at rest, and under load up to the number that was moving.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Metrics {
    /// The time of the snapshot, counted from when the broker was built.
    pub at: Duration,
    /// The open topics, by name.
    pub topics: Vec<TopicMetrics>,
    /// The counts of topics that have been removed since, so that totals never shrink.
    pub removed: Option<TopicMetrics>,
    /// The number of events that found the observers' buffer full.
    pub events_missed: u64,
    /// The number of panics of observers.
    pub observer_panics: u64,
}

/// The counts of one topic. They are of messages unless they say otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TopicMetrics {
    /// The topic's name.
    pub name: String,
    /// The name of the topic's strategy.
    pub strategy: String,
    /// Messages accepted, ever. Delayed messages that an earlier process has left in the log count
    /// when their durable topic is opened.
    pub published: u64,
    /// Publishes refused, for whatever reason.
    pub rejected: u64,
    /// The part of `rejected` that was refused for the topic's
    /// [rate limit](crate::TopicBuilder::rate_limit).
    pub rate_limited: u64,
    /// Publishes dropped because a message with their [dedup id](crate::Message::dedup_id) had been
    /// accepted. They count neither as published nor as rejected.
    pub duplicates: u64,
    /// Replies to [requests](crate::Topic::request) that were over by then, and were dropped.
    pub late_replies: u64,
    /// Ticks of [schedules](crate::Topic::every) for which no message was published.
    pub ticks_skipped: u64,
    /// Messages in the queue, or on their way into it, or delayed.
    pub queued: u64,
    /// The part of `queued` that waits for its time.
    pub delayed: u64,
    /// The weight of the messages in `queued`, in a topic with a
    /// [weight limit](crate::TopicBuilder::weight_limit), and zero in others.
    pub weight: u64,
    /// Messages dropped by overflow or by a shutdown, cancelled while they were delayed, or expired
    /// while they were retained for a first subscription.
    ///
    /// Delayed messages of a durable topic that stay in the log after a shutdown are among them.
    pub dropped: u64,
    /// The part of `dropped` whose place in the queue a newer message of their key has taken
    /// ([`Overflow::Conflate`](crate::Overflow::Conflate)).
    pub conflated: u64,
    /// Messages that found no subscription.
    pub unrouted: u64,
    /// Messages handed to every lane of the topic.
    pub dispatched: u64,
    /// Letters in the dead-letter store.
    pub dead_letters: usize,
    /// Letters that a full store evicted or did not keep.
    pub letters_evicted: u64,
    /// Messages that the topic keeps for subscriptions that come late
    /// ([`TopicBuilder::retain_last`](crate::TopicBuilder::retain_last)).
    pub retained: usize,
    /// Keys whose last message was given up, because the topic keeps those of a limited number of
    /// keys ([`TopicBuilder::retain_last_per_key`](crate::TopicBuilder::retain_last_per_key)).
    pub retained_evicted: u64,
    /// The subscribers to the topic's dead letters.
    pub letter_subscriptions: Vec<LetterSubscriptionMetrics>,
    /// Messages in each partition, with those under way to it. Empty if the topic is not split.
    ///
    /// While a change of the number of partitions is under way, messages in the former partitions
    /// are missing here.
    pub partitions: Vec<u64>,
    /// Messages that were between two counters while the snapshot was taken.
    ///
    /// [`balance`](Self::balance) tolerates this difference. It is zero at rest, and a batch or a
    /// few under load.
    pub moving: u64,
    /// The topic's subscriptions.
    pub subscriptions: Vec<SubscriptionMetrics>,
    /// The counts of subscriptions that have ended.
    pub ended: DeliveryCounts,
    /// The time from acceptance to the first attempt, over all subscriptions.
    pub queue_wait: LatencySummary,
    /// The time in the handler, or on lease.
    pub handler: LatencySummary,
    /// The time from acceptance to the end of an attempt.
    pub end_to_end: LatencySummary,
}

/// A wait of a subscription's deliveries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Waiting {
    /// The reason.
    pub reason: WaitingFor,
    /// The time for which it has held, if a gate holds the deliveries. Nobody keeps it for
    /// [keys](WaitingFor::Key) and [retries](WaitingFor::Retry).
    pub since: Option<Duration>,
}

/// The counts of one subscription. They are of deliveries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SubscriptionMetrics {
    /// The subscription's name.
    pub name: String,
    /// Deliveries that wait in the lane for the handler: the subscriber's lag.
    ///
    /// While no subscription of the topic is ready, up to 63 more wait in the topic's queue until a
    /// batch of them is full.
    pub queued: u64,
    /// The part of `queued` that is held back behind its key.
    ///
    /// An earlier delivery of the key waits for its retry, or is parked in a dead-letter store that
    /// has no room for the others.
    pub held: u64,
    /// The part of `queued` in each level, the lowest first, if the subscription has
    /// [priorities](crate::SubscriptionOptions::priorities).
    pub queued_by_priority: Option<[u64; 4]>,
    /// Keys that wait for a retry.
    pub blocked_keys: u64,
    /// Keys whose deliveries go to the dead letters because earlier ones are there.
    pub parked_keys: u64,
    /// The members of a consumer group, or one entry for a subscription with concurrency or with a
    /// handler timeout. Empty for others.
    pub members: Vec<MemberMetrics>,
    /// Leases that are outstanding; a part of `counts.in_flight`.
    pub leased: u64,
    /// Acks, nacks and extensions that came too late, and changed nothing. Results of calls that
    /// came at the handler's timeout or later count, too.
    pub stale: u64,
    /// Leases that outlived their deadline, and calls that outlived their handler's timeout.
    pub timed_out: u64,
    /// Leases that were dropped without being settled.
    pub abandoned: u64,
    /// Why the deliveries wait though a handler is free, if they do.
    ///
    /// For a subscription to patterns it is the reason that has held for longest in any topic.
    pub waiting_for: Option<Waiting>,
    /// The status of the circuit breaker, if there is one.
    ///
    /// For a subscription to patterns it is that of a breaker that isn't closed, if one isn't.
    pub breaker: Option<BreakerStatus>,
    /// Retries that were due, and that the [retry budget](crate::protect::RetryBudget) has put off.
    pub deferred: u64,
    /// Messages that a subscription that [only observes](crate::SubscriptionBuilder::observe_only) has
    /// skipped; a part of `counts.dropped`.
    pub missed: u64,
    /// Deliveries of a subscription that [conflates](crate::SubscriptionBuilder::conflate) whose place a
    /// newer one of their key has taken; a part of `counts.dropped`.
    pub conflated: u64,
    /// Deliveries that were between two counters while the snapshot was taken.
    ///
    /// [`TopicMetrics::balance`] tolerates this difference. It is zero at rest, and a few batches
    /// under load. While the lane is being ended, it is as many as the lane has.
    pub moving: u64,
    /// The counts of what happened to the subscription's deliveries.
    pub counts: DeliveryCounts,
    /// The time from acceptance to the first attempt.
    pub queue_wait: LatencySummary,
    /// The time in the handler, or on lease.
    pub handler: LatencySummary,
    /// The time from acceptance to the end of an attempt.
    pub end_to_end: LatencySummary,
}

/// The state of one consumer: a member of a group, or all slots of a subscription with concurrency.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemberMetrics {
    /// The member's name, or the subscription's where it has no group.
    pub name: String,
    /// The number of calls of the handler that may run at once.
    pub concurrency: usize,
    /// The number of calls that run now.
    pub busy: usize,
    /// The time for which the longest of these calls has been running.
    ///
    /// A member that stalls shows here, while its keys wait.
    pub busy_for: Duration,
    /// Deliveries that the member has taken, ever, including those that it put back untried.
    pub taken: u64,
}

/// A law of conservation that a snapshot breaks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {made} {what} in, but {found} accounted for")]
#[non_exhaustive]
pub struct ImbalanceError {
    /// The topic, or the topic and the subscription.
    pub place: String,
    /// The unit of the counts: messages, deliveries, or illegal steps.
    pub what: &'static str,
    /// The left side of the law.
    pub made: u64,
    /// The right side of the law.
    pub found: u64,
    /// The difference that is tolerated, which is zero at rest.
    ///
    /// This number of messages or deliveries was between two counters while the snapshot was taken.
    pub tolerated: u64,
}

impl Metrics {
    /// Returns the topic with this name.
    pub fn topic(&self, name: &str) -> Option<&TopicMetrics> {
        self.topics.iter().find(|topic| topic.name == name)
    }

    /// Checks the laws of conservation for every topic and subscription.
    ///
    /// - Messages: published = queued + dropped + unrouted + dispatched.
    /// - Deliveries: made = delivered + dead-lettered + filtered + dropped + expired + cancelled +
    ///   queued + in flight + awaiting retry.
    /// - Dead letters that subscribers were handed: see [`LetterSubscriptionMetrics`].
    ///
    /// The two sides are counted independently of each other. At rest they are equal. Under load, a
    /// snapshot catches some messages and deliveries between two counters, and counts them. Then
    /// the two sides differ by no more than the number that was moving: [of
    /// messages](TopicMetrics::moving), or [of deliveries](SubscriptionMetrics::moving).
    ///
    /// # Errors
    ///
    /// Returns the first [`ImbalanceError`], which is a bug of this crate at any time.
    pub fn balance(&self) -> Result<(), ImbalanceError> {
        self.all().try_for_each(TopicMetrics::balance)
    }

    /// Returns the counts of deliveries of all topics, removed ones included.
    pub fn deliveries(&self) -> DeliveryCounts {
        let mut sum = DeliveryCounts::default();
        for topic in self.all() {
            sum += topic.deliveries();
        }
        sum
    }

    /// Returns all topics, the removed ones included.
    pub(crate) fn all(&self) -> impl Iterator<Item = &TopicMetrics> {
        self.topics.iter().chain(&self.removed)
    }
}

impl MemberMetrics {
    /// Adds the work of the same member in another topic.
    pub(crate) fn add(&mut self, other: &Self) {
        self.concurrency += other.concurrency;
        self.busy += other.busy;
        self.busy_for = self.busy_for.max(other.busy_for);
        self.taken += other.taken;
    }
}

impl TopicMetrics {
    /// Returns the subscription with this name.
    pub fn subscription(&self, name: &str) -> Option<&SubscriptionMetrics> {
        let mut subscriptions = self.subscriptions.iter();
        subscriptions.find(|subscription| subscription.name == name)
    }

    /// Returns the counts of deliveries of all subscriptions, ended ones included.
    pub fn deliveries(&self) -> DeliveryCounts {
        let mut sum = self.ended;
        for subscription in &self.subscriptions {
            sum += subscription.counts;
        }
        sum
    }

    /// Checks the laws of conservation for this topic; see [`Metrics::balance`].
    ///
    /// # Errors
    ///
    /// Returns the first [`ImbalanceError`].
    pub fn balance(&self) -> Result<(), ImbalanceError> {
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
        for letters in &self.letter_subscriptions {
            let place = format!("{}/{}", self.name, letters.name);
            check(&place, "letters", letters.calls, letters.accounted(), 0)?;
        }
        check(&self.name, "illegal steps", self.deliveries().illegal, 0, 0)
    }

    /// Adds the counts of another topic, for the totals of removed ones.
    pub(crate) fn absorb(&mut self, other: &Self) {
        self.published += other.published;
        self.rejected += other.rejected;
        self.rate_limited += other.rate_limited;
        self.duplicates += other.duplicates;
        self.late_replies += other.late_replies;
        self.ticks_skipped += other.ticks_skipped;
        self.dropped += other.dropped;
        self.conflated += other.conflated;
        self.unrouted += other.unrouted;
        self.dispatched += other.dispatched;
        self.letters_evicted += other.letters_evicted;
        self.retained_evicted += other.retained_evicted;
        self.ended += other.deliveries();
    }
}

fn check(
    place: &str,
    what: &'static str,
    made: u64,
    found: u64,
    tolerated: u64,
) -> Result<(), ImbalanceError> {
    if made.abs_diff(found) <= tolerated {
        return Ok(());
    }
    Err(ImbalanceError {
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
