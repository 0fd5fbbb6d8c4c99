//! How much of a topic is kept.

use crate::pure::log::state::TopicState;

/// How much of a topic is kept. A topic without a limit is kept for ever.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Limits {
    /// At least this many of the newest bytes are kept.
    pub(crate) bytes: Option<u64>,
    /// Messages that are younger are kept.
    pub(crate) age_ms: Option<u64>,
}

/// How many dedup ids of a topic are kept, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Memory {
    pub(crate) window_ms: Option<u64>,
    pub(crate) ids: usize,
}

impl Default for Memory {
    /// Of a topic that is not open, so that its window is unknown.
    fn default() -> Self {
        Self {
            window_ms: None,
            ids: 100_000,
        }
    }
}

impl Memory {
    /// Forgets the ids of a topic that are too old, or too many.
    pub(crate) fn forget(&self, topic: &mut TopicState, now_ms: u64) {
        let ids = &mut topic.remembered;
        ids.drain(..ids.len().saturating_sub(self.ids));
        if let Some(window_ms) = self.window_ms {
            ids.retain(|one| one.time_ms.saturating_add(window_ms) > now_ms);
        }
    }
}

impl Limits {
    /// Returns the first message to keep, if there are others before it.
    ///
    /// Messages go by whole segments, so more than the limits say may be kept. The segment that is
    /// being written stays.
    pub(crate) fn first_kept(&self, topic: &TopicState, now_ms: u64) -> Option<u64> {
        let mut left: u64 = topic.pieces.iter().map(|piece| piece.bytes).sum();
        let mut first = None;
        let closed = topic.pieces.len().saturating_sub(1);
        for piece in topic.pieces.iter().take(closed) {
            left -= piece.bytes;
            let is_spare = self.bytes.is_some_and(|bytes| left >= bytes);
            let is_old = self
                .age_ms
                .is_some_and(|age_ms| piece.last_ms.saturating_add(age_ms) < now_ms);
            if !is_spare && !is_old {
                break;
            }
            first = Some(piece.end_seq);
        }
        first
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pure::log::message::StoredMessage;
    use crate::pure::log::record::Record;
    use crate::pure::log::state::{Place, State};

    #[test]
    fn ids_are_forgotten_that_are_too_many_or_too_old() {
        let forgets = |window_ms, ids| {
            let mut state = State::default();
            let place = Place {
                segment: 0,
                offset: 0,
            };
            let topic = Record::Topic {
                topic: 0,
                first_seq: 1,
                next_seq: 11,
                name: "orders",
            };
            state.apply(&topic, place).expect("new");
            for seq in 1..=10 {
                let remembered = Record::Remembered {
                    topic: 0,
                    seq,
                    time_ms: 100 + seq,
                    dedup_id: "id",
                };
                state.apply(&remembered, place).expect("known");
            }
            let (_, topic) = state.topics_mut().next().expect("one");
            Memory { window_ms, ids }.forget(topic, 115);
            let left = topic.remembered.iter().map(|one| one.seq);
            left.collect::<Vec<_>>()
        };
        assert_eq!(forgets(None, 3), [8, 9, 10]);
        assert_eq!(forgets(None, 10).len(), 10);
        assert_eq!(forgets(Some(8), 100), [8, 9, 10]);
        assert_eq!(forgets(Some(8), 2), [9, 10]);
        assert_eq!(forgets(Some(5), 100), [0; 0]);
    }

    /// A topic with four segments of ten messages, of 101 bytes each, one a millisecond.
    fn topic() -> State {
        let mut state = State::default();
        let mut message = Vec::new();
        StoredMessage {
            payload: &[0; 100],
            ..StoredMessage::default()
        }
        .put(&mut message);
        let place = |segment| Place { segment, offset: 0 };
        let topic = Record::Topic {
            topic: 0,
            first_seq: 1,
            next_seq: 1,
            name: "orders",
        };
        state.apply(&topic, place(0)).expect("new");
        for seq in 1..=40 {
            let publish = Record::Publish {
                topic: 0,
                seq,
                time_ms: seq,
                message: &message,
            };
            state
                .apply(&publish, place(seq.div_ceil(10)))
                .expect("the next");
        }
        state
    }

    #[test]
    fn at_least_as_many_bytes_are_kept_as_the_limit_says() {
        let state = topic();
        let kept = |bytes| {
            let limits = Limits {
                bytes: Some(bytes),
                age_ms: None,
            };
            limits.first_kept(state.topic(0).expect("it is there"), 0)
        };
        assert_eq!(kept(0), Some(31), "the last segment stays");
        assert_eq!(kept(1_010), Some(31));
        assert_eq!(kept(1_011), Some(21));
        assert_eq!(kept(3_030), Some(11));
        assert_eq!(kept(3_031), None);
        assert_eq!(kept(u64::MAX), None);
    }

    #[test]
    fn a_segment_goes_when_its_last_message_is_too_old() {
        let state = topic();
        let kept = |age_ms, now_ms| {
            let limits = Limits {
                bytes: None,
                age_ms: Some(age_ms),
            };
            limits.first_kept(state.topic(0).expect("it is there"), now_ms)
        };
        assert_eq!(kept(100, 110), None);
        assert_eq!(kept(100, 111), Some(11));
        assert_eq!(kept(100, 1_000), Some(31));
        assert_eq!(kept(u64::MAX, u64::MAX), None);
        assert_eq!(
            Limits::default().first_kept(state.topic(0).expect("it"), 9),
            None
        );
    }
}
