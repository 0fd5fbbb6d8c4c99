//! The accounts of attempts: the records and events of their beginning and their end. They
//! are the same for a run of calls, a batch, a single call, an async call, and a lease.
//!
//! Failed attempts are not settled here: see [`settle`](crate::engine::deliver::settle).

#[cfg(feature = "log")]
use crate::engine::outbox::lane_outbox::CallOutbox;
use crate::engine::parts::handler::FailedCall;
use crate::engine::parts::pending::{Attempts, Took};
use crate::engine::state::lane::Lane;
use crate::message::batch::Batch;
use crate::message::{Address, Delivery, MessageId};
use crate::observe::event::EventKind;
use crate::pure::decide::lifecycle::{Status, Step};
use crate::sync::Arc;

impl<T: Send + Sync + 'static> Lane<T> {
    /// The names of the topic and the subscription of its deliveries.
    pub(crate) fn address(&self) -> Address<'_> {
        Address {
            topic: &self.topic.name,
            subscription: &self.name,
            lane: Some(self),
            gaps: self.gaps.as_deref(),
            #[cfg(feature = "log")]
            outbox: None,
        }
    }

    /// The address of a call, with the outbox of a durable subscription.
    #[inline(always)]
    pub(crate) fn call_address(&self) -> Address<'_> {
        Address {
            #[cfg(feature = "log")]
            outbox: self.outbox().map(|lane| CallOutbox { lane, call: None }),
            ..self.address()
        }
    }

    /// The first attempt at a delivery, as a handler sees it.
    pub(crate) fn first_delivery<'d>(
        &'d self,
        batch: &'d Batch<T>,
        index: usize,
        now_ns: u64,
    ) -> Delivery<'d, T> {
        Delivery {
            batch,
            index,
            attempt: batch.tried() + 1,
            generation: 0,
            address: self.address(),
            now_ns,
        }
    }

    /// The first attempt at a delivery, which can publish with its ack.
    pub(crate) fn called_delivery<'d>(
        &'d self,
        batch: &'d Batch<T>,
        index: usize,
        now_ns: u64,
    ) -> Delivery<'d, T> {
        Delivery {
            address: self.call_address(),
            ..self.first_delivery(batch, index, now_ns)
        }
    }

    /// Tells observers of attempts that are about to be made.
    #[inline(always)]
    pub(crate) fn tell_attempts(&self, ids: impl Iterator<Item = MessageId>, attempts: Attempts) {
        if self.topic.bus().observed() {
            let (name, number) = (&self.name, attempts.number);
            let (status, kind) = (Status::Delivering, EventKind::Delivering);
            self.topic
                .tell_attempts(name, ids, number, status, attempts.began_ns, kind);
        }
    }

    /// Records how attempts have ended, and tells observers. All have succeeded but the
    /// `failed_calls`. Takes the id of each message and when it was accepted. Returns the
    /// number of successes.
    #[inline(always)]
    pub(crate) fn end_attempts(
        self: &Arc<Self>,
        ids: impl Iterator<Item = MessageId>,
        accepted_ns: impl ExactSizeIterator<Item = u64> + Clone,
        failed_calls: &[FailedCall],
        attempts: Attempts,
        took: Took,
    ) -> usize {
        let acked = accepted_ns.len() - failed_calls.len();
        self.record_latencies(accepted_ns, attempts, took);
        self.books
            .record(Status::Delivering, Step::Ack, acked as u64);
        if self.topic.bus().observed() {
            self.tell_acked(ids, failed_calls, attempts.number, took.ended_ns);
        }
        if !self.gate.holds.is_clear() {
            self.note_outcomes(acked, failed_calls, attempts, took);
        }
        acked
    }

    #[cold]
    fn tell_acked(
        &self,
        ids: impl Iterator<Item = MessageId>,
        failed_calls: &[FailedCall],
        number: u32,
        ended_ns: u64,
    ) {
        let mut acked = successes(usize::MAX, failed_calls).peekable();
        let ids = ids.enumerate();
        let acked = ids.filter_map(|(at, id)| acked.next_if_eq(&at).map(|_| id));
        let (status, kind) = (Status::Delivered, EventKind::Delivered);
        self.topic
            .tell_attempts(&self.name, acked, number, status, ended_ns, kind);
    }
}

/// Returns the numbers of the calls that have succeeded.
pub(crate) fn successes(calls: usize, failed_calls: &[FailedCall]) -> impl Iterator<Item = usize> {
    let failed = failed_calls.iter().map(|failed_call| failed_call.at);
    let mut failed = failed.peekable();
    (0..calls).filter(move |at| failed.next_if_eq(at).is_none())
}
