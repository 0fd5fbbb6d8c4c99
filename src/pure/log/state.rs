//! The sum of a log's records.
//!
//! A running store applies each record it has written, as it lies in the log. A store that opens
//! applies the same records. So both have the same state by construction.
//!
//! A segment begins with a checkpoint: records that build this state from nothing, but for where
//! messages lie. So older segments may go.

mod checkpoint;
pub(crate) mod delayed;
mod lost;
mod pieces;

use std::collections::{BTreeMap, VecDeque};

use crate::pure::log::format::bytes::{Malformed, Reader};
use crate::pure::log::message::StoredMessage;
use crate::pure::log::ranges::{Done, read_ranges};
use crate::pure::log::record::Record;
use crate::pure::log::state::delayed::{DelayedState, FIRST_DELAYED};

/// How many bytes of a topic's messages lie between two marks.
const MARK_EVERY: u64 = 128 * 1024;

/// The place of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) segment: u64,
    pub(crate) offset: u32,
}

/// A record that can't follow those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Inconsistent;

impl From<Malformed> for Inconsistent {
    fn from(Malformed: Malformed) -> Self {
        Self
    }
}

/// Where a message starts to be looked for: in the frame at this offset or a later one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mark {
    seq: u64,
    offset: u32,
}

/// A topic's messages in one segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) segment: u64,
    pub(crate) first_seq: u64,
    /// The number after the last.
    pub(crate) end_seq: u64,
    pub(crate) last_ms: u64,
    pub(crate) bytes: u64,
    /// Sparse, in order; the first is that of the first message.
    marks: Vec<Mark>,
    since_mark: u64,
}

/// A message that was accepted under an id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Remembered {
    /// The number that its publisher got.
    pub(crate) seq: u64,
    pub(crate) time_ms: u64,
    pub(crate) dedup_id: Box<str>,
}

/// The facts about a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TopicState {
    pub(crate) name: Box<str>,
    /// The first message that retention has left.
    pub(crate) first_seq: u64,
    pub(crate) next_seq: u64,
    /// Ranges of messages that were lost to damage, in order.
    pub(crate) lost: Vec<(u64, u64)>,
    pub(crate) pieces: VecDeque<Piece>,
    /// Messages that wait until they are due.
    pub(crate) delayed: BTreeMap<u64, DelayedState>,
    /// The number that the next delayed message gets.
    pub(crate) next_delayed: u64,
    /// In the order in which they were accepted. Whoever knows the topic's window forgets the
    /// oldest.
    pub(crate) remembered: VecDeque<Remembered>,
}

/// A dead letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LetterState {
    pub(crate) attempts: u32,
    pub(crate) time_ms: u64,
    pub(crate) reason: u8,
    pub(crate) error: Box<str>,
    pub(crate) message: Box<[u8]>,
}

/// The facts about a durable subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SubscriptionState {
    pub(crate) topic: u32,
    pub(crate) name: Box<str>,
    pub(crate) done: Done,
    /// Calls of the handler so far, of messages that have failed and are not done.
    pub(crate) failed: BTreeMap<u64, u32>,
    pub(crate) letters: BTreeMap<u64, LetterState>,
}

/// The sum of a log's records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct State {
    topics: BTreeMap<u32, TopicState>,
    subscriptions: BTreeMap<u32, SubscriptionState>,
    /// The ids after the highest ever given.
    next_topic: u32,
    next_subscription: u32,
}

impl State {
    pub(crate) fn topic(&self, topic: u32) -> Option<&TopicState> {
        self.topics.get(&topic)
    }

    pub(crate) fn topics_mut(&mut self) -> impl Iterator<Item = (u32, &mut TopicState)> {
        self.topics.iter_mut().map(|(id, topic)| (*id, topic))
    }

    pub(crate) fn topic_mut(&mut self, topic: u32) -> Option<&mut TopicState> {
        self.topics.get_mut(&topic)
    }

    pub(crate) fn topics(&self) -> impl Iterator<Item = (u32, &TopicState)> {
        self.topics.iter().map(|(id, topic)| (*id, topic))
    }

    pub(crate) fn topic_named(&self, name: &str) -> Option<(u32, &TopicState)> {
        self.topics().find(|(_, topic)| *topic.name == *name)
    }

    pub(crate) fn subscription(&self, subscription: u32) -> Option<&SubscriptionState> {
        self.subscriptions.get(&subscription)
    }

    pub(crate) fn subscriptions(&self) -> impl Iterator<Item = (u32, &SubscriptionState)> {
        self.subscriptions.iter().map(|(id, one)| (*id, one))
    }

    pub(crate) fn subscription_named(
        &self,
        topic: u32,
        name: &str,
    ) -> Option<(u32, &SubscriptionState)> {
        self.subscriptions()
            .find(|(_, one)| one.topic == topic && *one.name == *name)
    }

    /// Returns an id for a new topic.
    pub(crate) fn next_topic(&self) -> u32 {
        self.next_topic
    }

    /// Returns an id for a new subscription.
    pub(crate) fn next_subscription(&self) -> u32 {
        self.next_subscription
    }

    /// Returns the oldest segment in which some topic has messages.
    pub(crate) fn oldest_needed(&self) -> Option<u64> {
        let fronts = self
            .topics
            .values()
            .filter_map(|topic| topic.pieces.front());
        fronts.map(|piece| piece.segment).min()
    }

    /// Returns whether the place of every message is known that retention has left.
    pub(crate) fn is_whole(&self) -> bool {
        self.topics.values().all(|topic| {
            let first = topic.pieces.front().map(|piece| piece.first_seq);
            first.unwrap_or(topic.next_seq) <= topic.first_not_lost()
        })
    }

    /// Applies the records of this frame. If one can't follow, the records before it
    /// stay applied.
    pub(crate) fn apply_all(&mut self, records: &[u8], place: Place) -> Result<(), Inconsistent> {
        let mut records = Reader::new(records);
        while !records.is_empty() {
            let record = Record::read(&mut records).map_err(|_| Inconsistent)?;
            record.map_or(Ok(()), |record| self.apply(&record, place))?;
        }
        Ok(())
    }

    /// Applies a record that lies in this frame.
    pub(crate) fn apply(&mut self, record: &Record<'_>, place: Place) -> Result<(), Inconsistent> {
        match *record {
            Record::Topic {
                topic,
                first_seq,
                next_seq,
                name,
            } => self.add_topic(topic, first_seq, next_seq, name),
            Record::Subscription {
                subscription,
                topic,
                next,
                name,
            } => self.add_subscription(subscription, topic, next, name),
            Record::Publish {
                topic,
                seq,
                time_ms,
                message,
            } => {
                let topic = self.topics.get_mut(&topic).ok_or(Inconsistent)?;
                topic.publish(seq, time_ms, message, place)
            }
            Record::Done {
                subscription,
                base,
                ranges,
            } => {
                let (one, topic) = self.both(subscription)?;
                read_ranges(Reader::new(ranges), base, |from, to| {
                    one.done.add(from, to);
                    one.letters.retain(|seq, _| !(from..to).contains(seq));
                })?;
                if one.done.end() > topic.next_seq {
                    return Err(Inconsistent);
                }
                one.failed.retain(|seq, _| !one.done.contains(*seq));
                Ok(())
            }
            Record::Failed {
                subscription,
                seq,
                attempts,
            } => {
                let (one, topic) = self.both(subscription)?;
                if seq >= topic.next_seq {
                    return Err(Inconsistent);
                }
                if seq >= topic.first_seq && !one.done.contains(seq) {
                    one.failed.insert(seq, attempts);
                }
                Ok(())
            }
            Record::Letter {
                subscription,
                seq,
                attempts,
                time_ms,
                reason,
                error,
                message,
            } => {
                let (one, topic) = self.both(subscription)?;
                if seq >= topic.next_seq {
                    return Err(Inconsistent);
                }
                one.done.add(seq, seq + 1);
                one.failed.remove(&seq);
                let letter = LetterState {
                    attempts,
                    time_ms,
                    reason,
                    error: error.into(),
                    message: message.into(),
                };
                one.letters.insert(seq, letter);
                Ok(())
            }
            Record::Delayed {
                topic,
                id,
                time_ms,
                due_ms,
                message,
            } => {
                let topic = self.topics.get_mut(&topic).ok_or(Inconsistent)?;
                topic.delay(id, time_ms, due_ms, message)
            }
            Record::DelayedGone { topic, id, seq } => {
                let topic = self.topics.get_mut(&topic).ok_or(Inconsistent)?;
                topic.end_delay(id, seq);
                Ok(())
            }
            Record::DelayedNext { topic, next } => {
                let topic = self.topics.get_mut(&topic).ok_or(Inconsistent)?;
                topic.next_delayed = topic.next_delayed.max(next);
                Ok(())
            }
            Record::Trim { topic, first_seq } => {
                let state = self.topics.get_mut(&topic).ok_or(Inconsistent)?;
                state.trim(first_seq)?;
                let all = self.subscriptions.values_mut();
                for one in all.filter(|one| one.topic == topic) {
                    one.failed = one.failed.split_off(&first_seq);
                }
                Ok(())
            }
            Record::Unsubscribed { subscription } => {
                let gone = self.subscriptions.remove(&subscription);
                gone.map(drop).ok_or(Inconsistent)
            }
            Record::Remembered {
                topic,
                seq,
                time_ms,
                dedup_id,
            } => {
                let topic = self.topics.get_mut(&topic).ok_or(Inconsistent)?;
                topic.remember(seq, time_ms, dedup_id);
                Ok(())
            }
            Record::Checkpointed => Ok(()),
            Record::Lost { topic, from, to } => self.lose(topic, from, to),
        }
    }

    fn add_topic(
        &mut self,
        topic: u32,
        first_seq: u64,
        next_seq: u64,
        name: &str,
    ) -> Result<(), Inconsistent> {
        let next_topic = topic.checked_add(1).ok_or(Inconsistent)?;
        let is_new = !self.topics.contains_key(&topic) && self.topic_named(name).is_none();
        if !is_new || first_seq == 0 || first_seq > next_seq {
            return Err(Inconsistent);
        }
        self.next_topic = self.next_topic.max(next_topic);
        let state = TopicState {
            name: name.into(),
            first_seq,
            next_seq,
            lost: Vec::new(),
            pieces: VecDeque::new(),
            delayed: BTreeMap::new(),
            next_delayed: FIRST_DELAYED,
            remembered: VecDeque::new(),
        };
        self.topics.insert(topic, state);
        Ok(())
    }

    fn add_subscription(
        &mut self,
        subscription: u32,
        topic: u32,
        next: u64,
        name: &str,
    ) -> Result<(), Inconsistent> {
        let next_subscription = subscription.checked_add(1).ok_or(Inconsistent)?;
        let of = self.topics.get(&topic).ok_or(Inconsistent)?;
        let is_new = subscription >= self.next_subscription
            && self.subscription_named(topic, name).is_none();
        if !is_new || next > of.next_seq {
            return Err(Inconsistent);
        }
        self.next_subscription = next_subscription;
        let mut done = Done::before(next);
        of.lost.iter().for_each(|(from, to)| done.add(*from, *to));
        let state = SubscriptionState {
            topic,
            name: name.into(),
            done,
            failed: BTreeMap::new(),
            letters: BTreeMap::new(),
        };
        self.subscriptions.insert(subscription, state);
        Ok(())
    }

    fn both(
        &mut self,
        subscription: u32,
    ) -> Result<(&mut SubscriptionState, &TopicState), Inconsistent> {
        let one = self.subscriptions.get_mut(&subscription);
        let one = one.ok_or(Inconsistent)?;
        let topic = self.topics.get(&one.topic).ok_or(Inconsistent)?;
        Ok((one, topic))
    }
}

impl TopicState {
    fn publish(
        &mut self,
        seq: u64,
        time_ms: u64,
        message: &[u8],
        place: Place,
    ) -> Result<(), Inconsistent> {
        if seq != self.next_seq {
            return Err(Inconsistent);
        }
        self.next_seq = seq.checked_add(1).ok_or(Inconsistent)?;
        if let Some(id) = StoredMessage::read_dedup_id(message)? {
            self.remember(seq, time_ms, id);
        }
        let bytes = message.len() as u64;
        match self.pieces.back_mut() {
            Some(piece) if piece.segment == place.segment => piece.add(seq, time_ms, bytes, place),
            _ => self.pieces.push_back(Piece {
                segment: place.segment,
                first_seq: seq,
                end_seq: seq + 1,
                last_ms: time_ms,
                bytes,
                marks: vec![Mark {
                    seq,
                    offset: place.offset,
                }],
                since_mark: bytes,
            }),
        }
        Ok(())
    }

    fn remember(&mut self, seq: u64, time_ms: u64, dedup_id: &str) {
        self.remembered.push_back(Remembered {
            seq,
            time_ms,
            dedup_id: dedup_id.into(),
        });
    }

    fn trim(&mut self, first_seq: u64) -> Result<(), Inconsistent> {
        if first_seq < self.first_seq || first_seq > self.next_seq {
            return Err(Inconsistent);
        }
        self.first_seq = first_seq;
        self.lost.retain(|(_, to)| *to > first_seq);
        let gone = self
            .pieces
            .partition_point(|piece| piece.end_seq <= first_seq);
        self.pieces.drain(..gone);
        Ok(())
    }

    /// Returns the frame from which on a message, or the first after it that is still there, is to
    /// be looked for. `None` if there is none yet.
    pub(crate) fn find(&self, seq: u64) -> Option<Place> {
        let at = self.pieces.partition_point(|piece| piece.end_seq <= seq);
        let piece = self.pieces.get(at)?;
        let mark = piece.marks.partition_point(|mark| mark.seq <= seq);
        let mark = piece.marks[mark.saturating_sub(1)];
        Some(Place {
            segment: piece.segment,
            offset: mark.offset,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PLACE: Place = Place {
        segment: 1,
        offset: 56,
    };

    fn message(dedup_id: Option<&str>) -> Vec<u8> {
        let mut bytes = Vec::new();
        StoredMessage {
            dedup_id,
            payload: &[0; 1000],
            ..StoredMessage::default()
        }
        .put(&mut bytes);
        bytes
    }

    fn with_topic_and_subscription() -> State {
        let mut state = State::default();
        let topic = Record::Topic {
            topic: 0,
            first_seq: 1,
            next_seq: 1,
            name: "orders",
        };
        let subscription = Record::Subscription {
            subscription: 0,
            topic: 0,
            next: 1,
            name: "billing",
        };
        state.apply(&topic, PLACE).expect("new");
        state.apply(&subscription, PLACE).expect("new");
        state
    }

    fn publish(state: &mut State, seq: u64, place: Place) -> Result<(), Inconsistent> {
        let id = seq.is_multiple_of(3).then(|| seq.to_string());
        let record = Record::Publish {
            topic: 0,
            seq,
            time_ms: seq,
            message: &message(id.as_deref()),
        };
        state.apply(&record, place)
    }

    #[test]
    fn a_gap_in_the_numbers_of_a_topic_is_inconsistent() {
        let mut state = with_topic_and_subscription();
        assert_eq!(publish(&mut state, 2, PLACE), Err(Inconsistent));
        assert_eq!(publish(&mut state, 1, PLACE), Ok(()));
        assert_eq!(publish(&mut state, 1, PLACE), Err(Inconsistent));
    }

    #[test]
    fn a_message_behind_lost_ones_is_found_in_the_segment_of_those_before_them() {
        let mut state = with_topic_and_subscription();
        publish(&mut state, 1, PLACE).expect("the next");
        let lost = Record::Lost {
            topic: 0,
            from: 2,
            to: 1_000,
        };
        state.apply(&lost, PLACE).expect("they are the next");
        publish(&mut state, 1_000, PLACE).expect("the next");
        let topic = state.topic(0).expect("it is there");
        for seq in [1, 2, 999, 1_000] {
            assert_eq!(topic.find(seq), Some(PLACE), "{seq}");
        }
        assert_eq!(topic.find(1_001), None);
    }

    #[test]
    fn what_was_not_published_is_not_done() {
        let mut state = with_topic_and_subscription();
        publish(&mut state, 1, PLACE).expect("the next");
        let done = |ranges| Record::Done {
            subscription: 0,
            base: 1,
            ranges,
        };
        assert_eq!(state.apply(&done(&[0, 2]), PLACE), Err(Inconsistent));
        let letter = Record::Letter {
            subscription: 0,
            seq: u64::MAX,
            attempts: 1,
            time_ms: 0,
            reason: 0,
            error: "",
            message: &[],
        };
        assert_eq!(state.apply(&letter, PLACE), Err(Inconsistent));
    }

    #[test]
    fn a_message_is_found_from_a_frame_at_or_before_its_own() {
        let mut state = with_topic_and_subscription();
        let place = |seq: u64| Place {
            segment: 1 + seq / 500,
            offset: 56 + (seq % 500) as u32 / 7 * 7000,
        };
        for seq in 1..=2_000_u64 {
            publish(&mut state, seq, place(seq)).expect("the next");
        }
        let topic = state.topic(0).expect("it is there");
        for seq in 1..=2_000 {
            let found = topic.find(seq).expect("it was published");
            assert_eq!(found.segment, place(seq).segment);
            assert!(found <= place(seq), "{seq}");
            assert!(place(seq).offset - found.offset <= 144 * 1024, "{seq}");
        }
        assert_eq!(topic.find(2_001), None);
    }

    #[test]
    fn trimmed_segments_are_needed_no_more() {
        let mut state = with_topic_and_subscription();
        for seq in 1..=30_u64 {
            let place = Place {
                segment: seq.div_ceil(10),
                offset: 56,
            };
            publish(&mut state, seq, place).expect("the next");
        }
        let trim = |first_seq| Record::Trim {
            topic: 0,
            first_seq,
        };
        state.apply(&trim(20), PLACE).expect("forward");
        assert_eq!(state.oldest_needed(), Some(2));
        state.apply(&trim(21), PLACE).expect("forward");
        assert_eq!(state.oldest_needed(), Some(3));
        assert_eq!(state.apply(&trim(20), PLACE), Err(Inconsistent));
        assert_eq!(state.apply(&trim(32), PLACE), Err(Inconsistent));
        state.apply(&trim(31), PLACE).expect("all");
        assert_eq!(state.oldest_needed(), None);
    }

    fn steps() -> impl Strategy<Value = Vec<(u8, u64, u64)>> {
        prop::collection::vec((0_u8..8, 0_u64..40, 1_u64..6), 0..80)
    }

    proptest! {
        #[test]
        fn a_checkpoint_builds_the_same_state(steps in steps()) {
            let mut state = with_topic_and_subscription();
            for (kind, seq, count) in steps {
                let stored = message(None);
                let mut ranges = Vec::new();
                crate::pure::log::ranges::put_ranges(
                    &mut ranges, seq, [(seq, seq + count)].into_iter(),
                );
                let next = state.topic(0).unwrap().next_seq;
                let record = match kind {
                    0 | 1 => {
                        publish(&mut state, next, PLACE).unwrap();
                        continue;
                    }
                    2 if seq + count <= next => Record::Done { subscription: 0, base: seq, ranges: &ranges },
                    3 => Record::Failed { subscription: 0, seq, attempts: count as u32 },
                    4 => Record::Letter {
                        subscription: 0, seq, attempts: 2, time_ms: count, reason: 1,
                        error: "down", message: &stored,
                    },
                    6 => Record::Delayed {
                        topic: 0, id: FIRST_DELAYED + seq, time_ms: count, due_ms: seq,
                        message: &message(Some("req-5")),
                    },
                    7 => Record::DelayedGone { topic: 0, id: FIRST_DELAYED + seq, seq: 0 },
                    _ => continue,
                };
                let _ = state.apply(&record, PLACE);
            }
            let mut built = State::default();
            state.checkpoint(|record| built.apply(record, PLACE).expect("a checkpoint is consistent"));
            for topic in state.topics.values_mut() {
                topic.pieces.clear();
            }
            prop_assert_eq!(built, state);
        }
    }
}
