//! The latencies of attempts, on their way into the lane's histograms.

use crate::engine::parts::pending::{Attempts, Took};
use crate::engine::state::lane::Lane;
use crate::observe::latency;
use crate::observe::latency::Latencies;
use crate::types::config::Histograms;

impl<T: Send + Sync + 'static> Lane<T> {
    /// Records the times of attempts. `accepted_ns` has the time at which each message was
    /// accepted.
    #[inline(always)]
    pub(crate) fn record_latencies(
        &self,
        accepted_ns: impl ExactSizeIterator<Item = u64> + Clone,
        attempts: Attempts,
        took: Took,
    ) {
        let count = accepted_ns.len() as u64;
        if count == 0 || self.engine().histograms == Histograms::Off {
            return;
        }
        let mut latencies = self.latencies.lock();
        let latencies = latencies.get_or_insert_with(|| Box::new(Latencies::new()));
        latency::record(&mut latencies.handler, took.each_ns, count);
        if attempts.is_first {
            let queue_wait = &mut latencies.queue_wait;
            latency::record_since(queue_wait, attempts.began_ns, accepted_ns.clone());
        }
        latency::record_since(&mut latencies.end_to_end, took.ended_ns, accepted_ns);
    }
}
