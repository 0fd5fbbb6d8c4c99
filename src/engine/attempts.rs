//! The accounts of attempts: what is written down and told when some begin, and when they end,
//! whoever makes them: a run of calls, a batch, a call by itself, an async call, or a lease.
//!
//! What has failed is not settled here: see [`settle`](super::settle).

use super::handler::Fault;
use super::lane::Lane;
use crate::batch::Batch;
use crate::config::Histograms;
use crate::event::EventKind;
use crate::latency::{self, Latencies};
use crate::message::{Address, Delivery, MessageId};
use crate::pure::lifecycle::{Status, Step};

/// Attempts that begin together, and end together.
#[derive(Clone, Copy)]
pub(super) struct Attempts {
    /// Which attempt at its delivery each of them is: 1 is the first.
    pub(super) number: u32,
    /// The deliveries have waited in the queue and nowhere else.
    pub(super) is_first: bool,
    pub(super) began_ns: u64,
}

/// How long attempts took.
#[derive(Clone, Copy)]
pub(super) struct Took {
    pub(super) ended_ns: u64,
    /// Each of them.
    pub(super) each_ns: u64,
}

impl Attempts {
    /// First attempts.
    pub(super) const fn first(began_ns: u64) -> Self {
        Self {
            number: 1,
            is_first: true,
            began_ns,
        }
    }

    /// They ended now, one after the other, so many of them.
    pub(super) fn until(self, ended_ns: u64, count: usize) -> Took {
        let all_ns = ended_ns.saturating_sub(self.began_ns);
        let each_ns = all_ns / (count as u64).max(1);
        Took { ended_ns, each_ns }
    }
}

impl<T: Send + Sync + 'static> Lane<T> {
    /// Where its deliveries go.
    pub(crate) fn address(&self) -> Address<'_> {
        Address {
            topic: &self.topic.name,
            subscription: &self.name,
        }
    }

    /// The first attempt at a delivery, as a handler sees it.
    pub(super) fn first_delivery<'d>(
        &'d self,
        batch: &'d Batch<T>,
        index: usize,
        now_ns: u64,
    ) -> Delivery<'d, T> {
        Delivery {
            batch,
            index,
            attempt: 1,
            generation: 0,
            address: self.address(),
            now_ns,
        }
    }

    /// Tells observers of attempts that are about to be made.
    #[inline(always)]
    pub(super) fn tell_attempts(&self, ids: impl Iterator<Item = MessageId>, attempts: Attempts) {
        if self.topic.bus().observed() {
            let (name, number) = (&self.name, attempts.number);
            let (status, kind) = (Status::Delivering, EventKind::Delivering);
            self.topic
                .tell_attempts(name, ids, number, status, attempts.began_ns, kind);
        }
    }

    /// Writes down, and tells, how attempts have ended, given the id of each message and when
    /// it was accepted: in success, but for those that `faults` are of. Returns the number of
    /// the successful.
    #[inline(always)]
    pub(super) fn end_attempts(
        &self,
        ids: impl Iterator<Item = MessageId>,
        accepted_ns: impl ExactSizeIterator<Item = u64> + Clone,
        faults: &[Fault],
        attempts: Attempts,
        took: Took,
    ) -> usize {
        let acked = accepted_ns.len() - faults.len();
        self.record_latencies(accepted_ns, attempts, took);
        self.books
            .record(Status::Delivering, Step::Ack, acked as u64);
        if self.topic.bus().observed() {
            self.tell_acked(ids, faults, attempts.number, took.ended_ns);
        }
        acked
    }

    #[cold]
    fn tell_acked(
        &self,
        ids: impl Iterator<Item = MessageId>,
        faults: &[Fault],
        number: u32,
        ended_ns: u64,
    ) {
        let mut failed = faults.iter().map(|fault| fault.at).peekable();
        let acked = ids.enumerate();
        let acked = acked.filter_map(|(at, id)| failed.next_if_eq(&at).is_none().then_some(id));
        let (status, kind) = (Status::Delivered, EventKind::Delivered);
        self.topic
            .tell_attempts(&self.name, acked, number, status, ended_ns, kind);
    }

    /// Records the times of attempts, given when the message of each was accepted.
    #[inline(always)]
    fn record_latencies(
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
