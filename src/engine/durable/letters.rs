//! Dead letters that an earlier process, or an earlier subscription of the name, has left.

use std::collections::BTreeSet;

use crate::engine::journal::lane_log::LaneLog;
use crate::engine::journal::topic_log::TopicLog;
use crate::engine::parts::pending::Failure;
use crate::engine::state::dead_letter_store::Letter;
use crate::engine::state::lane::Lane;
use crate::engine::state::topic::{Lanes, TopicCore};
use crate::log::cursor::Cursor;
use crate::message::MessageId;
use crate::message::batch::{Accepted, Batch, Stamp};
use crate::pure::decide::lifecycle::{Status, Step};
use crate::pure::policy::retry::FailureKind;
use crate::pure::words::room::Phase;
use crate::sync::{Arc, unix_ms};
use crate::types::durable::earlier::Earlier;
use crate::types::error::store::StoreError;
use crate::types::reason::DeadReason;

impl<T: Send + Sync + 'static> TopicCore<T> {
    /// Puts the letters of a subscription into the dead-letter store, before its lane is made. A
    /// lane that parks keys finds them there. Returns how many there are.
    ///
    /// Letters that are in the store stay as they are. A letter that was redriven, and whose delivery
    /// was then cancelled, is a letter in the log alone, so it is restored, too. A letter that can't be decoded stays in the log.
    pub(crate) fn restore_letters(
        &self,
        stored: &TopicLog<T>,
        cursor: &Arc<Cursor>,
        subscription: u32,
        name: &Arc<str>,
        parks: bool,
    ) -> Result<u64, StoreError> {
        let is_taken = |lanes: &Lanes<T>| {
            let mut lanes = lanes.iter();
            lanes.any(|lane| lane.name == *name && lane.phase() == Phase::Open)
        };
        if self.lanes.peek(is_taken) {
            // What it has redriven is its own to end, and nobody else gets the name.
            return Ok(0);
        }
        let listed = self.letters().lock().list();
        let own = listed.iter().filter(|letter| letter.subscription == *name);
        let kept: BTreeSet<u64> = own.map(|letter| letter.id().get()).collect();
        drop(listed);
        let mut count = 0;
        let (now_ns, now_ms) = (self.engine.clock.now_ns(), unix_ms());
        for (seq, left) in stored.letters_left(subscription) {
            if kept.contains(&seq) {
                continue;
            }
            let message = match left.message.is_empty() {
                true => stored.read_one(seq)?,
                false => Some(left.message.to_vec()),
            };
            let decoded = message.map(|message| stored.decode(&message));
            let Some(Ok((payload, meta))) = decoded else {
                continue;
            };
            let age_ms = now_ms.saturating_sub(left.time_ms);
            let buried_ns = now_ns.saturating_sub(age_ms.saturating_mul(1_000_000));
            let stamp = Stamp {
                id: MessageId::new(seq),
                accepted_ns: buried_ns,
            };
            let earlier = Earlier {
                tried: 0,
                had: true,
            };
            let batch = Batch::replayed(vec![(Accepted { stamp, payload }, meta)], None, earlier);
            let failure = Failure {
                at_ns: buried_ns,
                text: left.error.into(),
                attempt: left.attempts,
                kind: FailureKind::Error,
                previous: None,
            };
            let reason = DeadReason::numbered(left.reason);
            self.bury(Letter {
                parks: parks && reason.parks(),
                arrival: 0,
                batch: Arc::new(batch),
                index: 0,
                generation: 0,
                attempts: left.attempts,
                subscription: Arc::clone(name),
                reason,
                history: (left.attempts > 0).then(|| Box::new(failure)),
                buried_ns,
                cursor: Some(Arc::clone(cursor)),
            });
            count += 1;
        }
        Ok(count)
    }
}

impl<T: Send + Sync + 'static> Lane<T> {
    /// Counts the letters that were restored for it, as if it had made them.
    pub(crate) fn count_restored(&self, stored: &LaneLog<T>) {
        if stored.letters > 0 {
            let _motion = self.books.motions.begin(stored.letters);
            let queued = self
                .books
                .record(Status::Created, Step::Accept, stored.letters);
            self.books.record(queued, Step::Bury, stored.letters);
        }
    }
}
