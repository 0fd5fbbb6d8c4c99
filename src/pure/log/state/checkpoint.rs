//! The records that build a state from nothing, as they lie at the head of each segment.

use crate::pure::log::record::Record;
use crate::pure::log::state::State;
use crate::pure::log::state::delayed::FIRST_DELAYED;

impl State {
    /// Calls `put` with the records that build this state from nothing, but for where messages lie.
    pub(crate) fn checkpoint(&self, mut put: impl FnMut(&Record<'_>)) {
        for (topic, state) in self.topics() {
            put(&Record::Topic {
                topic,
                first_seq: state.first_seq,
                next_seq: state.next_seq,
                name: &state.name,
            });
            for (from, to) in state.lost.iter().copied() {
                put(&Record::Lost { topic, from, to });
            }
            // It comes before the delayed messages. A message whose number was given is not new, and
            // what is known of its dedup id comes below.
            if step!(
                "keep the numbers given",
                state.next_delayed > FIRST_DELAYED,
                false
            ) {
                put(&Record::DelayedNext {
                    topic,
                    next: state.next_delayed,
                });
            }
            for (id, delayed) in &state.delayed {
                put(&Record::Delayed {
                    topic,
                    id: *id,
                    time_ms: delayed.time_ms,
                    due_ms: delayed.due_ms,
                    message: &delayed.message,
                });
            }
            for one in &state.remembered {
                put(&Record::Remembered {
                    topic,
                    seq: one.seq,
                    time_ms: one.time_ms,
                    dedup_id: &one.dedup_id,
                });
            }
        }
        let mut ranges = Vec::new();
        for (subscription, state) in self.subscriptions() {
            put(&Record::Subscription {
                subscription,
                topic: state.topic,
                next: state.done.next(),
                name: &state.name,
            });
            for (seq, attempts) in &state.failed {
                put(&Record::Failed {
                    subscription,
                    seq: *seq,
                    attempts: *attempts,
                });
            }
            if step!("keep the ranges", state.done.gaps() > 0, false) {
                ranges.clear();
                state.done.put_above(&mut ranges);
                put(&Record::Done {
                    subscription,
                    base: state.done.next(),
                    ranges: &ranges,
                });
            }
            // Letters come after the ranges, which would say that they are gone.
            for (seq, letter) in &state.letters {
                put(&Record::Letter {
                    subscription,
                    seq: *seq,
                    attempts: letter.attempts,
                    time_ms: letter.time_ms,
                    reason: letter.reason,
                    error: &letter.error,
                    message: &letter.message,
                });
            }
        }
        put(&Record::Checkpointed);
    }
}
