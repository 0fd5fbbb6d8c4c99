//! How much of a topic is kept.

use crate::pure::log::state::TopicState;

/// How much of a topic is kept. What has no limit is kept for ever.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Limits {
    /// At least this many of the newest bytes are kept.
    pub(crate) bytes: Option<u64>,
    /// Messages that are younger are kept.
    pub(crate) age_ms: Option<u64>,
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
