//! The end of what has outlived its time to live.

use super::lane::{Lane, Redelivery};
use crate::batch::Batch;
use crate::event::EventKind;
use crate::pure::lifecycle::{Status, Step};

impl<T> Redelivery<T> {
    /// When it is no longer worth handling. A redrive is the user's word that it
    /// still is, so what was redriven has no time to live any more.
    pub(super) fn expires_ns(&self, topic_ttl_ns: Option<u64>) -> Option<u64> {
        if self.generation > 0 {
            return None;
        }
        let index = usize::from(self.index);
        self.batch.expires_ns(index, topic_ttl_ns)
    }
}

impl<T: Send + Sync + 'static> Lane<T> {
    /// Whether a first attempt comes too late.
    pub(super) fn has_expired(&self, batch: &Batch<T>, index: usize, now_ns: u64) -> bool {
        let expires_ns = batch.expires_ns(index, self.topic.settings.ttl_ns);
        expires_ns.is_some_and(|expires_ns| now_ns >= expires_ns)
    }

    /// Whether any attempt comes too late.
    pub(super) fn is_past(&self, again: &Redelivery<T>, now_ns: u64) -> bool {
        let expires_ns = again.expires_ns(self.topic.settings.ttl_ns);
        expires_ns.is_some_and(|expires_ns| now_ns >= expires_ns)
    }

    /// Ends a queued delivery that was never tried.
    pub(super) fn expire(&self, batch: &Batch<T>, index: usize) {
        let status = self.books.record(Status::Queued, Step::Expire, 1);
        let id = batch.stamp(index).id;
        self.tell(id, 0, status, EventKind::Expired);
    }

    /// Ends a queued delivery, tried before or not.
    pub(super) fn expire_again(&self, again: Redelivery<T>) {
        let status = self.books.record(Status::Queued, Step::Expire, 1);
        self.tell(again.id(), again.attempts, status, EventKind::Expired);
    }
}
