//! Delayed messages of a topic.
//!
//! Such a message has two numbers. It gets the first when it is accepted, which is its receipt's.
//! The second is its place in the topic, which it gets when it is due and published. Both kinds
//! count upward, from far apart. So the number of a receipt says what it is of, and names one
//! message for ever.

use crate::pure::log::message::StoredMessage;
use crate::pure::log::record::Record;
use crate::pure::log::state::{Inconsistent, TopicState};

/// The number of a topic's first delayed message. At a million messages a second, those that are
/// not delayed would come as far in 142 years. Numbers from here on are exact in JSON, too.
pub(crate) const FIRST_DELAYED: u64 = 1 << 52;

/// A message that waits until it is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DelayedState {
    /// When it was accepted.
    pub(crate) time_ms: u64,
    pub(crate) due_ms: u64,
    pub(crate) message: Box<[u8]>,
}

/// Calls `put` with the records by which a delayed message is published. They belong into one
/// frame: a crash leaves the message delayed, or published, and never both or neither.
pub(crate) fn put_due(
    topic: u32,
    id: u64,
    seq: u64,
    time_ms: u64,
    message: &[u8],
    mut put: impl FnMut(&Record<'_>),
) {
    step!(
        "publish what is due",
        put(&Record::Publish {
            topic,
            seq,
            time_ms,
            message,
        })
    );
    step!(
        "end the delay",
        put(&Record::DelayedGone { topic, id, seq })
    );
}

impl TopicState {
    /// Notes a message that waits until it is due. A new one is remembered by its dedup id.
    pub(super) fn delay(
        &mut self,
        id: u64,
        time_ms: u64,
        due_ms: u64,
        message: &[u8],
    ) -> Result<(), Inconsistent> {
        let next = id.checked_add(1).ok_or(Inconsistent)?;
        let dedup_id = StoredMessage::read_dedup_id(message)?;
        if id >= self.next_delayed {
            self.next_delayed = next;
            dedup_id
                .into_iter()
                .for_each(|dedup_id| self.remember(id, time_ms, dedup_id));
        }
        let state = DelayedState {
            time_ms,
            due_ms,
            message: message.into(),
        };
        self.delayed.insert(id, state);
        Ok(())
    }

    /// Notes that a message waits no more. It was published just now, with the number `seq`, or it
    /// was cancelled.
    pub(super) fn end_delay(&mut self, id: u64, seq: u64) {
        let gone = self.delayed.remove(&id);
        if seq > 0 {
            // It is remembered by the number that its publisher has, from when that was given.
            let is_same = self.remembered.back().is_some_and(|last| last.seq == seq);
            if step!("remember the receipt", is_same, false) {
                self.remembered.pop_back();
            }
            return;
        }
        let has_id = |gone: DelayedState| {
            let dedup_id = StoredMessage::read_dedup_id(&gone.message);
            matches!(dedup_id, Ok(Some(_)))
        };
        if gone.is_some_and(has_id) {
            // It may be published again.
            self.remembered.retain(|one| one.seq != id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pure::log::state::{Place, State};

    const PLACE: Place = Place {
        segment: 1,
        offset: 56,
    };

    fn message(dedup_id: Option<&str>) -> Vec<u8> {
        let mut bytes = Vec::new();
        let payload = b"late";
        StoredMessage {
            dedup_id,
            payload,
            ..StoredMessage::default()
        }
        .put(&mut bytes);
        bytes
    }

    fn with_topic() -> State {
        let mut state = State::default();
        let topic = Record::Topic {
            topic: 0,
            first_seq: 1,
            next_seq: 1,
            name: "orders",
        };
        state.apply(&topic, PLACE).expect("new");
        state
    }

    fn delay(state: &mut State, id: u64, dedup_id: Option<&str>) {
        let delayed = Record::Delayed {
            topic: 0,
            id,
            time_ms: 7,
            due_ms: 9,
            message: &message(dedup_id),
        };
        state.apply(&delayed, PLACE).expect("new");
    }

    fn due(state: &mut State, id: u64, seq: u64, dedup_id: Option<&str>) {
        put_due(0, id, seq, 9, &message(dedup_id), |record| {
            state.apply(record, PLACE).expect("the next");
        });
    }

    fn rebuilt(state: &State) -> State {
        let mut built = State::default();
        state.checkpoint(|record| built.apply(record, PLACE).expect("consistent"));
        built
    }

    fn remembered(state: &State) -> Vec<(u64, u64)> {
        let topic = state.topic(0).expect("it is there");
        let each = topic.remembered.iter();
        each.map(|one| (one.seq, one.time_ms)).collect()
    }

    #[test]
    fn a_message_is_delayed_or_published_or_cancelled() {
        let mut state = with_topic();
        for id in FIRST_DELAYED..FIRST_DELAYED + 3 {
            delay(&mut state, id, None);
        }
        due(&mut state, FIRST_DELAYED + 1, 1, None);
        let gone = Record::DelayedGone {
            topic: 0,
            id: FIRST_DELAYED,
            seq: 0,
        };
        state.apply(&gone, PLACE).expect("it waits");
        let topic = state.topic(0).expect("it is there");
        assert!(topic.delayed.keys().eq([&(FIRST_DELAYED + 2)]));
        assert_eq!(topic.next_seq, 2);
    }

    #[test]
    fn a_number_is_never_given_again() {
        let mut state = with_topic();
        delay(&mut state, FIRST_DELAYED, None);
        delay(&mut state, FIRST_DELAYED + 1, None);
        due(&mut state, FIRST_DELAYED + 1, 1, None);
        due(&mut state, FIRST_DELAYED, 2, None);
        let topic = rebuilt(&state);
        let topic = topic.topic(0).expect("it is there");
        assert_eq!(topic.next_delayed, FIRST_DELAYED + 2);
    }

    #[test]
    fn a_dedup_id_leads_to_the_receipt_from_when_it_was_accepted() {
        let mut state = with_topic();
        delay(&mut state, FIRST_DELAYED, Some("a"));
        delay(&mut state, FIRST_DELAYED + 1, Some("b"));
        delay(&mut state, FIRST_DELAYED + 2, None);
        let both = [(FIRST_DELAYED, 7), (FIRST_DELAYED + 1, 7)];
        assert_eq!(remembered(&state), both);
        assert_eq!(remembered(&rebuilt(&state)), both);
        due(&mut state, FIRST_DELAYED, 1, Some("a"));
        due(&mut state, FIRST_DELAYED + 2, 2, None);
        assert_eq!(remembered(&state), both);
        let gone = Record::DelayedGone {
            topic: 0,
            id: FIRST_DELAYED + 1,
            seq: 0,
        };
        state.apply(&gone, PLACE).expect("it waits");
        assert_eq!(remembered(&state), both[..1], "the other may come again");
        assert_eq!(remembered(&rebuilt(&state)), both[..1]);
    }

    #[test]
    fn a_message_that_can_not_be_is_refused() {
        let mut state = with_topic();
        let delayed = |id, message| Record::Delayed {
            topic: 0,
            id,
            time_ms: 0,
            due_ms: 0,
            message,
        };
        for record in [delayed(u64::MAX, &[0]), delayed(FIRST_DELAYED, &[])] {
            assert_eq!(state.apply(&record, PLACE), Err(Inconsistent));
        }
    }
}
