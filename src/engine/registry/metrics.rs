//! Reading the metrics of lanes and topics from their counters.

use crate::engine::base::counters::{DeliveryCounts, Motions};
use crate::engine::runtime::Engine;
use crate::engine::state::lane::Lane;
use crate::engine::state::topic::{Lanes, TopicCore};
use crate::observe::latency::{Latencies, LatencySummary};
use crate::observe::metrics::{Metrics, SubscriptionMetrics, TopicMetrics, Waiting};
use crate::pure::protect::gate::WaitingFor;
use crate::sync::Arc;
use std::time::Duration;

/// How many times a snapshot is tried in the hope that nothing moves meanwhile. Under a
/// scheduler that may put anything between two looks, one try shows as much as all.
const TRIES: usize = if cfg!(any(millstream_loom, millstream_shuttle)) {
    1
} else {
    8
};

/// Reads until nothing moves meanwhile. After the last try returns the reading with the
/// least motion.
fn read_still<V>(read: impl Fn() -> (V, u64)) -> (V, u64) {
    let mut best = read();
    for _ in 1..TRIES {
        if best.1 == 0 {
            break;
        }
        let again = read();
        if again.1 < best.1 {
            best = again;
        }
    }
    best
}

impl<T: Send + Sync + 'static> Lane<T> {
    pub(crate) fn read_metrics(&self, into: &mut Latencies) -> SubscriptionMetrics {
        let ((counts, occupied), moving) = read_still(|| {
            // The finished motions are read first, then the counters of later stages before
            // those of earlier ones; see `engine/base/counters.rs`.
            let motions = [&self.books.motions, &self.topic.books.motions];
            let done = motions.map(Motions::done);
            let counts = self.books.read();
            let occupied = u64::from(self.room.load().occupied);
            let moving = motions.iter().zip(done).map(|(of, done)| of.since(done));
            ((counts, occupied), moving.sum())
        });
        let mut metrics = SubscriptionMetrics {
            name: self.name.to_string(),
            queued: occupied.saturating_sub(counts.in_flight + counts.awaiting_retry),
            moving,
            counts,
            waiting_for: self.read_waiting(),
            breaker: self.breaker_status(),
            deferred: self.deferred(),
            missed: self.missed(),
            conflated: self.replaced(),
            ..SubscriptionMetrics::default()
        };
        if let Some(keyed) = self.keyed.get() {
            keyed.read_metrics(self, &mut metrics);
        }
        if metrics.waiting_for.is_none() {
            metrics.waiting_for = waiting_by_itself(&metrics);
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

/// Returns why the deliveries of a lane wait that no gate holds: for their key, or for their retry.
fn waiting_by_itself(metrics: &SubscriptionMetrics) -> Option<Waiting> {
    let counts = &metrics.counts;
    let reason = match (metrics.queued, counts.awaiting_retry) {
        (queued, _) if queued > 0 && queued == metrics.held => WaitingFor::Key,
        (0, awaiting) if awaiting > 0 && counts.in_flight == 0 => WaitingFor::Retry,
        _ => return None,
    };
    let since = None;
    Some(Waiting { reason, since })
}

impl<T: Send + Sync + 'static> TopicCore<T> {
    pub(crate) fn read_metrics(&self) -> TopicMetrics {
        let mut latencies = Latencies::new();
        let (lanes, ended) = self.lanes_and_ended();
        let subscriptions = lanes
            .iter()
            .map(|lane| lane.read_metrics(&mut latencies))
            .collect();
        // The delayed messages are part of the queue, so they are read before it.
        let delayed = self.books.delayed.get();
        let ((dispatched, unrouted, dropped, (queued, published)), moving) = read_still(|| {
            // The order is that of a lane's reading.
            let done = self.books.motions.done();
            let dispatched = self.books.dispatched.get();
            let unrouted = self.books.unrouted.get();
            let dropped = self.books.dropped.get();
            let read = (dispatched, unrouted, dropped, self.gate.counts());
            (read, self.books.motions.since(done))
        });
        let (dead_letters, letters_evicted) = self.letter_counts();
        let retained = self.retained.as_ref();
        let (retained, retained_evicted) = retained.map_or((0, 0), |retained| retained.counts());
        TopicMetrics {
            name: self.name.to_string(),
            strategy: self.strategy.load().name.to_string(),
            rejected: self.books.rejected.get(),
            rate_limited: self.rate.get().map_or(0, |rate| rate.refused()),
            duplicates: self.books.duplicates.get(),
            late_replies: self.books.late_replies.get(),
            ticks_skipped: self.books.ticks_skipped.get(),
            queued,
            weight: self
                .weights
                .as_ref()
                .map_or(0, |weights| weights.load().held()),
            delayed,
            dropped,
            conflated: self.books.conflated.get(),
            unrouted,
            dispatched,
            dead_letters,
            letters_evicted,
            retained,
            retained_evicted,
            letter_subscriptions: self
                .letter_readers()
                .iter()
                .map(|reader| reader.metrics())
                .collect(),
            partitions: self
                .split
                .as_ref()
                .map_or(Vec::new(), |split| split.depths()),
            subscriptions,
            ended,
            queue_wait: LatencySummary::of(&latencies.queue_wait),
            handler: LatencySummary::of(&latencies.handler),
            end_to_end: LatencySummary::of(&latencies.end_to_end),
            published: published - self.earlier_tickets(),
            moving,
        }
    }

    /// Returns how many tickets were given out before this process opened the topic.
    fn earlier_tickets(&self) -> u64 {
        #[cfg(feature = "log")]
        if let Some(stored) = self.stored() {
            return stored.first_own - 1;
        }
        0
    }

    fn lanes_and_ended(&self) -> (Arc<Lanes<T>>, DeliveryCounts) {
        let ended = self.ended.lock();
        (
            self.lanes.load(),
            ended.as_deref().copied().unwrap_or_default(),
        )
    }
}

impl Engine {
    /// Returns a snapshot of everything that is counted.
    pub(crate) fn read_metrics(&self) -> Metrics {
        // The lock is held over both reads, so that each topic is counted in exactly one of
        // them.
        let removed = self.removed.lock();
        let topics = self.topics.values();
        let mut topics: Vec<_> = topics.iter().map(|topic| topic.metrics()).collect();
        topics.sort_by(|a, b| a.name.cmp(&b.name));
        Metrics {
            at: Duration::from_nanos(self.clock.now_ns()),
            topics,
            removed: removed.clone(),
            events_missed: self.bus.missed(),
            observer_panics: self.bus.panicked(),
        }
    }
}
