//! Messages with a dedup id, each of which is accepted once.
//!
//! Steps. A publisher takes the lock of the topic's ids and claims the id. Under the lock, it takes
//! its step at the gate, and commits the id with its ticket or abandons it. So a claim is never seen pending: the next
//! publisher with this id finds the first one's ticket, or a new id. No publisher keeps its claim
//! while it waits for room. It claims the id anew with each step that it takes at the gate.
//!
//! The feared interleavings. A duplicate is told of a message that is refused in the end. It can't
//! be, because a ticket that was taken is never given back. Two publishers wait for room with one
//! id. The one that is called first gets the ticket, and the other finds it. A publisher that waits
//! holds others up. It can't, because it holds nothing. No user code runs under the lock.

use crate::engine::publish::ask::Refused;
use crate::engine::state::topic::TopicCore;
use crate::message::MessageId;
use crate::message::meta::Meta;
use crate::message::outgoing::Message;
use crate::observe::event::{EventKind, Subject};
use crate::pure::policy::dedup::{Claim, Dedup, DedupIds};
use crate::pure::words::tickets::Refusal;
use crate::types::error::SettingError;

impl<T: Send + Sync + 'static> TopicCore<T> {
    /// Refuses a message that this topic can't accept at any time.
    pub(crate) fn check(&self, message: &Message<T>) -> Result<(), Refused> {
        if message.is_stillborn() {
            return Err(Refused::ZeroTtl);
        }
        match message.has_dedup_id() && self.dedup.is_none() {
            true => Err(Refused::NoDedup),
            false => Ok(()),
        }
    }

    /// Takes a step at the gate for a message with these parts, unless a message with its dedup id
    /// was accepted before. Then returns the id of that one, and zero for the number of tickets.
    #[inline(always)]
    pub(crate) fn once(
        &self,
        meta: Option<&Meta>,
        step: impl FnOnce() -> Result<(u64, u64), Refusal>,
    ) -> Result<(u64, u64), Refusal> {
        match meta {
            Some(meta) if meta.dedup_id.is_some() => self.once_by_id(meta, step),
            _ => step(),
        }
    }

    #[cold]
    fn once_by_id(
        &self,
        meta: &Meta,
        step: impl FnOnce() -> Result<(u64, u64), Refusal>,
    ) -> Result<(u64, u64), Refusal> {
        let (Some(ids), Some(id)) = (&self.dedup, &meta.dedup_id) else {
            return step();
        };
        let mut ids = ids.lock();
        let now_ns = self.engine.clock.now_ns();
        match ids.claim(id, now_ns) {
            Claim::Duplicate(first) => return Ok((first, 0)),
            Claim::Pending => debug_assert!(false, "a claim ends under the lock it began under"),
            Claim::New => {}
        }
        let admitted = step();
        match admitted {
            Ok((first, _)) => ids.commit(id.clone(), first, now_ns),
            Err(_) => ids.abandon(id),
        }
        admitted
    }

    /// Counts a message that is dropped because one with its dedup id was accepted: this one.
    pub(crate) fn note_duplicate(&self, first: MessageId) {
        self.books.duplicates.add(1);
        self.tell_of(Subject::default().message(first), EventKind::Duplicate);
    }

    /// Forgets the dedup id of a message that was taken back, so that it can be published again.
    pub(crate) fn forget_dedup_id(&self, id: MessageId, meta: Option<&Meta>) {
        if let (Some(ids), Some(Some(dedup_id))) = (&self.dedup, meta.map(|meta| &meta.dedup_id)) {
            ids.lock().forget(dedup_id, &id.get());
        }
    }

    /// Changes the window and the number of the ids, and keeps those that are within both.
    pub(crate) fn set_dedup(&self, dedup: Dedup) -> Result<(), SettingError> {
        let Some(ids) = &self.dedup else {
            let rule = "can't be set for a topic that was opened without";
            return Err(SettingError::new("dedup", format!("{dedup:?}"), rule));
        };
        let mut ids = ids.lock();
        let mut kept = DedupIds::new(dedup);
        for (id, first, at_ns) in ids.iter() {
            kept.commit(id.clone(), *first, at_ns);
        }
        *ids = kept;
        Ok(())
    }
}
