//! Messages with a dedup id, each of which is accepted once, and topics that weigh their messages.
//!
//! Steps. A publisher takes the lock of the topic's ids and claims the id. Under the lock, it takes
//! its step at the gate, and commits the id with its ticket or abandons it. So a claim is never seen
//! pending: the next publisher with this id finds the first one's ticket, or a new id. No publisher
//! keeps its claim while it waits for room. It claims the id anew with each step that it takes at the
//! gate. In a durable topic the claim stays pending until the log has the message
//! (`src/engine/durable/dedup.rs`).
//!
//! The feared interleavings. A duplicate is told of a message that is refused in the end. It can't
//! be, because a ticket that was taken is never given back. Two publishers wait for room with one
//! id. The one that is called first gets the ticket, and the other finds it. A publisher that waits
//! holds others up. It can't, because it holds nothing.
//!
//! The *weight* of a payload is asked for once, before any lock is taken. It stays with the message
//! until that has left the topic. Under the lock of the load, a publisher finds how many of its
//! messages fit, takes that many tickets, and adds their weight. So two publishers never take the
//! same room. The thread that takes a message out of the topic lets go of its weight before it
//! releases the ticket. So a publisher that is called for the ticket finds the weight gone, too.
//!
//! A publisher that finds no room marks the load as *short*, and then schedules the dispatcher. Its
//! strategy may wait for more messages than the limit has room for, and a short load makes it go on.
//! The feared interleaving: the dispatcher rests, a publisher that was called for room still finds
//! too little, and both wait for each other. It can't happen, because each such look schedules.
//!
//! No user code runs under either lock. The rate of the topic is the last term
//! (`src/engine/publish/terms/rate.rs`). So a message that can't be accepted at any time is told so at
//! once, and a duplicate passes.

mod rate;

use crate::engine::publish::ask::{Ask, Refused, Wait};
use crate::engine::state::topic::TopicCore;
use crate::engine::terms::weights::Weights;
use crate::message::chunk::Chunk;
use crate::message::meta::Meta;
use crate::message::outgoing::Message;
use crate::message::{MessageId, Receipt};
use crate::observe::event::Hook;
use crate::observe::event::{EventKind, Subject};
use crate::pure::decide::load::Fit;
use crate::pure::policy::dedup::{Claim, Dedup, DedupIds};
use crate::pure::words::tickets::Refusal;
use crate::sync::Arc;
use crate::types::error::{PublishError, SettingError};

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

    /// Takes a step at the gate, for as many tickets as it is given. If a message with the same dedup
    /// id was accepted before, returns the id of that one, and zero for the number of tickets.
    #[inline(always)]
    pub(crate) fn by_terms(
        self: &Arc<Self>,
        ask: Ask<'_>,
        step: impl FnOnce(u64) -> Result<(u64, u64), Refusal>,
    ) -> Result<(u64, u64), Refused> {
        let has_parts = ask.alone.is_some() || !ask.together.is_empty();
        match has_parts && (self.dedup.is_some() || self.weights.is_some()) {
            true => self.by_dedup_id(ask, step),
            false => self.by_rate(ask, ask.wanted, step),
        }
    }

    #[cold]
    fn by_dedup_id(
        self: &Arc<Self>,
        ask: Ask<'_>,
        step: impl FnOnce(u64) -> Result<(u64, u64), Refusal>,
    ) -> Result<(u64, u64), Refused> {
        let (Some(ids), Some(id)) = (&self.dedup, ask.dedup_id()) else {
            return self.by_weight(ask, step);
        };
        let mut ids = ids.lock();
        let now_ns = self.dedup_now_ns();
        match ids.claim(id, now_ns) {
            Claim::Duplicate(first) => return Ok((first, 0)),
            Claim::Pending => return Err(Refused::Claimed),
            Claim::New => {}
        }
        let admitted = self.by_weight(ask, step);
        match admitted {
            Ok(_) if self.is_stored() => {}
            Ok((first, _)) => ids.commit(id.clone(), first, now_ns),
            Err(_) => ids.abandon(id),
        }
        admitted
    }

    fn by_weight(
        self: &Arc<Self>,
        ask: Ask<'_>,
        step: impl FnOnce(u64) -> Result<(u64, u64), Refusal>,
    ) -> Result<(u64, u64), Refused> {
        let weights = self.weights.as_ref().filter(|_| !ask.is_weightless);
        let Some(weights) = weights else {
            return self.by_rate(ask, ask.wanted, step);
        };
        let mut load = weights.load();
        let wanted = match load.fit(ask.weights()) {
            Fit::Count(count) => count.min(ask.wanted),
            Fit::Short => {
                drop(load);
                self.schedule();
                return Err(Refused::Full);
            }
            Fit::Never => return Err(Refused::TooHeavy),
        };
        let (first, granted) = self.by_rate(ask, wanted, step)?;
        load.add(ask.weights().take(granted as usize).sum());
        Ok((first, granted))
    }

    /// Publishes a message as [`publish`](Self::publish) does, in a topic that weighs it.
    #[cold]
    #[inline(never)]
    pub(crate) fn publish_weighed(
        self: &Arc<Self>,
        payload: T,
        meta: Option<Box<Meta>>,
        wait: Wait,
    ) -> Result<Receipt, PublishError<T>> {
        let meta = self.weigh(&payload, meta);
        let published = self.publish_to(None, payload, meta, wait);
        published.map_err(|(refused, payload, _)| refused.error(payload))
    }

    /// Returns the time by which the topic counts the windows of its dedup ids.
    fn dedup_now_ns(&self) -> u64 {
        let now_ns = self.engine.clock.now_ns();
        #[cfg(feature = "log")]
        if let Some(stored) = self.stored() {
            return stored.began_ns.saturating_add(now_ns);
        }
        now_ns
    }

    /// Claims a dedup id, for a message that has its ticket already.
    #[cfg(feature = "log")]
    pub(crate) fn claim_id(&self, id: &Arc<str>) -> Claim<u64> {
        match &self.dedup {
            Some(ids) => ids.lock().claim(id, self.dedup_now_ns()),
            None => Claim::New,
        }
    }

    /// Gives up the claim of an id.
    #[cfg(feature = "log")]
    pub(crate) fn abandon_id(&self, id: &Arc<str>) {
        if let Some(ids) = &self.dedup {
            ids.lock().abandon(id);
        }
    }

    /// Returns the number of the message that was accepted with this id, if there is one.
    #[cfg(feature = "log")]
    pub(crate) fn accepted_as(&self, id: &Arc<str>) -> Option<u64> {
        let mut ids = self.dedup.as_ref()?.lock();
        match ids.claim(id, self.dedup_now_ns()) {
            Claim::Duplicate(first) => Some(first),
            Claim::Pending => None,
            Claim::New => {
                ids.abandon(id);
                None
            }
        }
    }

    /// Commits the claims of these messages, the first of which has this number in the log, or
    /// abandons them if there is none.
    #[cfg(feature = "log")]
    pub(crate) fn settle_claims(&self, chunk: &Chunk<T>, first: Option<u64>) {
        let Some(ids) = &self.dedup else {
            return;
        };
        let now_ns = self.dedup_now_ns();
        for (at, meta) in &chunk.meta {
            if let Some(id) = &meta.dedup_id {
                let mut ids = ids.lock();
                match first {
                    Some(first) => ids.commit(id.clone(), first + u64::from(*at), now_ns),
                    None => ids.abandon(id),
                }
            }
        }
    }

    /// Adds what the payload weighs to its parts, if the topic wants to know and doesn't yet.
    pub(crate) fn weigh(&self, payload: &T, meta: Option<Box<Meta>>) -> Option<Box<Meta>> {
        match &self.weights {
            None => meta,
            Some(weights) => {
                let mut meta = meta.unwrap_or_default();
                let weigh = || self.weight_of(weights, payload);
                meta.weight.get_or_insert_with(weigh);
                Some(meta)
            }
        }
    }

    /// Notes what a message weighs, if the topic wants to know.
    pub(crate) fn weigh_message(&self, message: &mut Message<T>) {
        if let Some(weights) = &self.weights
            && message.meta().is_none_or(|meta| meta.weight.is_none())
        {
            message.set_weight(self.weight_of(weights, message.payload()));
        }
    }

    /// Notes what the payloads of a chunk weigh, if the topic wants to know.
    #[cold]
    pub(crate) fn weigh_chunk(&self, chunk: &mut Chunk<T>) {
        if let Some(weights) = &self.weights {
            chunk.weigh(|payload| self.weight_of(weights, payload));
        }
    }

    /// Returns what a payload weighs. Where the user's code panics, it is as heavy as can be.
    fn weight_of(&self, weights: &Weights<T>, payload: &T) -> u64 {
        weights.weigh(payload).unwrap_or_else(|| {
            let hook = Hook::Weigh;
            self.tell(EventKind::HookPanicked { hook });
            u64::MAX
        })
    }

    /// Lets go of the weight of a message that was delayed and goes nowhere.
    pub(crate) fn unload_delayed(&self, meta: Option<&Meta>) {
        if let (Some(weights), Some(meta)) = (&self.weights, meta) {
            weights.load().remove(meta.weight.unwrap_or(0));
        }
    }

    /// Lets go of the weight of messages that had their tickets when the log refused them.
    #[cfg(feature = "log")]
    pub(crate) fn unload_refused(&self, chunk: &Chunk<T>) {
        if let Some(weights) = &self.weights {
            let each = chunk.meta.iter().filter_map(|(_, meta)| meta.weight);
            weights.load().remove(each.sum());
        }
    }

    /// Changes the limit of the weight that may wait here.
    pub(crate) fn set_weight_limit(&self, limit: u64) -> Result<(), SettingError> {
        let Some(weights) = &self.weights else {
            let rule = "can't be set for a topic that was opened without";
            return Err(SettingError::new("weight_limit", limit, rule));
        };
        weights.load().set_limit(limit);
        // Some may have become too heavy. And buffers may find room.
        self.waiters.wake_all();
        Ok(())
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
        drop(ids);
        #[cfg(feature = "log")]
        if let Some(stored) = self.stored() {
            stored.remember(dedup);
        }
        Ok(())
    }
}
