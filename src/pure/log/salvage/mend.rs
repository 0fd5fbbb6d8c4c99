//! The state that the records of a damaged log add up to.
//!
//! Each record says more than it does: a message with the number 9 says that there were eight
//! before it. So the records behind a hole tell which messages were in it.
//!
//! A checkpoint behind a hole says all that the records in the hole had changed, and puts an end to
//! the *doubt*. Otherwise, the hole may have held more than the records behind it tell: the last
//! messages of a topic, ends of deliveries. A topic's numbers that may have been given are skipped
//! then.

use std::collections::{BTreeMap, BTreeSet};

use crate::pure::log::format::bytes::Reader;
use crate::pure::log::ranges::{Done, missing, put_ranges, read_ranges};
use crate::pure::log::record::Record;
use crate::pure::log::state::delayed::FIRST_DELAYED;
use crate::pure::log::state::{Inconsistent, Place, State};

/// The fewest bytes that a message takes in a frame.
const LEAST_MESSAGE: u64 = 6;

/// More messages than one file holds.
const MOST_MESSAGES: u64 = 1 << 30;

/// A state that grows by records of a log with holes.
#[derive(Default)]
pub(crate) struct Mender {
    state: State,
    topics: BTreeMap<u32, Messages>,
    /// How many messages the holes may have held. Zero if nothing is in doubt.
    doubt: u64,
    /// Topics of which the next number is known, because something came after the last hole.
    sure: BTreeSet<u32>,
    /// Whether the last record told of others that the log doesn't have.
    jumped: bool,
    unplaced: u64,
}

/// The numbers of a topic's messages.
struct Messages {
    present: Done,
    /// Numbers that an earlier salvage reported.
    lost_before: Done,
}

impl Default for Messages {
    fn default() -> Self {
        Self {
            present: Done::before(0),
            lost_before: Done::before(0),
        }
    }
}

/// The state of a damaged log.
pub(crate) struct Mended {
    pub(crate) state: State,
    pub(crate) topics: BTreeMap<u32, Gaps>,
    /// Whether a hole held records of which nothing tells.
    pub(crate) in_doubt: bool,
    /// Records that belong to subscriptions of which nothing else is left.
    pub(crate) unplaced: u64,
}

/// The messages that a topic has, and those that it has lost.
pub(crate) struct Gaps {
    /// The messages that are there.
    pub(crate) present: Done,
    /// Ranges of messages that are not.
    pub(crate) lost: Vec<(u64, u64)>,
    /// Numbers that may have been given to messages that are not there, either.
    pub(crate) skipped: Option<(u64, u64)>,
}

impl Mender {
    /// Notes that frames are lost: so many bytes, or an unknown number of them if it is zero.
    pub(crate) fn lose(&mut self, bytes: u64) {
        let most = match bytes {
            0 => MOST_MESSAGES,
            bytes => bytes.div_ceil(LEAST_MESSAGE),
        };
        self.doubt = self.doubt.saturating_add(most);
        self.sure.clear();
    }

    /// Returns whether records may be lost of which nothing has told yet.
    pub(crate) fn in_doubt(&self) -> bool {
        self.doubt > 0
    }

    /// Ends the doubt by a checkpoint.
    pub(crate) fn replace(&mut self, checkpoint: State) {
        self.state = checkpoint;
        self.doubt = 0;
    }

    /// Adds a record. Returns whether it can follow those before it, if they are all there.
    pub(crate) fn add(&mut self, record: &Record<'_>, place: Place) -> bool {
        self.jumped = false;
        let placed = self.place(record, place).is_ok();
        self.unplaced += u64::from(!placed);
        placed && !self.jumped
    }

    fn place(&mut self, record: &Record<'_>, place: Place) -> Result<(), Inconsistent> {
        match *record {
            Record::Topic {
                topic,
                first_seq,
                next_seq,
                name,
            } => {
                let Some(known) = self.state.topic_mut(topic) else {
                    self.sure.insert(topic);
                    return self.state.apply(record, place);
                };
                if *known.name != *name {
                    known.name = name.into();
                }
                self.reach(topic, next_seq, place)?;
                self.trim(topic, first_seq, place)
            }
            Record::Subscription {
                subscription,
                topic,
                next,
                name,
            } => {
                self.make_topic(topic, place)?;
                self.reach(topic, next, place)?;
                if let Some(known) = self.state.subscription(subscription) {
                    return match known.topic == topic {
                        true => self.finish_before(subscription, next, place),
                        false => Err(Inconsistent),
                    };
                }
                let namesake = self.state.subscription_named(topic, name);
                if let Some((subscription, _)) = namesake {
                    let gone = Record::Unsubscribed { subscription };
                    self.state.apply(&gone, place)?;
                }
                self.state.apply(record, place)
            }
            Record::Publish { topic, seq, .. } => {
                self.make_topic(topic, place)?;
                self.reach(topic, seq, place)?;
                self.state.apply(record, place)?;
                let messages = self.topics.entry(topic).or_default();
                messages.present.add(seq, seq.saturating_add(1));
                self.sure.insert(topic);
                Ok(())
            }
            Record::Done {
                subscription,
                base,
                ranges,
            } => {
                let mut end = 0;
                read_ranges(Reader::new(ranges), base, |_, to| end = to)?;
                self.reach_of(subscription, end, place)?;
                self.state.apply(record, place)
            }
            Record::Failed {
                subscription, seq, ..
            }
            | Record::Letter {
                subscription, seq, ..
            } => {
                let after = seq.checked_add(1).ok_or(Inconsistent)?;
                self.reach_of(subscription, after, place)?;
                self.state.apply(record, place)
            }
            Record::Delayed { topic, .. }
            | Record::DelayedGone { topic, .. }
            | Record::DelayedNext { topic, .. } => {
                self.make_topic(topic, place)?;
                self.state.apply(record, place)
            }
            Record::Trim { topic, first_seq } => {
                self.make_topic(topic, place)?;
                self.reach(topic, first_seq, place)?;
                self.trim(topic, first_seq, place)
            }
            Record::Remembered { topic, seq, .. } => {
                self.make_topic(topic, place)?;
                let known = self.state.topic(topic).ok_or(Inconsistent)?;
                // Every checkpoint says it. Delayed messages have numbers of their own.
                let is_delayed = seq >= FIRST_DELAYED;
                let mut alike = known.remembered.iter().rev();
                match alike.find(|one| (one.seq >= FIRST_DELAYED) == is_delayed) {
                    Some(last) if last.seq >= seq => Ok(()),
                    _ => self.state.apply(record, place),
                }
            }
            Record::Lost { topic, from, to } => {
                self.make_topic(topic, place)?;
                self.reach(topic, from, place)?;
                let messages = self.topics.entry(topic).or_default();
                messages.lost_before.add(from, to);
                let known = self.state.topic(topic).ok_or(Inconsistent)?;
                match known.next_seq < to {
                    true => self.state.apply(record, place),
                    false => Ok(()),
                }
            }
            Record::Unsubscribed { .. } | Record::Checkpointed => self.state.apply(record, place),
        }
    }

    /// Makes a topic of which there is a record, but not the one with its name.
    fn make_topic(&mut self, topic: u32, place: Place) -> Result<(), Inconsistent> {
        if self.state.topic(topic).is_some() {
            return Ok(());
        }
        self.jumped = true;
        let named = Record::Topic {
            topic,
            first_seq: 1,
            next_seq: 1,
            name: &format!("unnamed-{topic}"),
        };
        self.state.apply(&named, place)
    }

    /// Takes messages before this one for lost that were not there.
    fn reach(&mut self, topic: u32, to: u64, place: Place) -> Result<(), Inconsistent> {
        let from = self.state.topic(topic).ok_or(Inconsistent)?.next_seq;
        if from >= to {
            return Ok(());
        }
        self.jumped = true;
        self.state.apply(&Record::Lost { topic, from, to }, place)
    }

    fn reach_of(&mut self, subscription: u32, to: u64, place: Place) -> Result<(), Inconsistent> {
        let known = self.state.subscription(subscription);
        let topic = known.ok_or(Inconsistent)?.topic;
        self.reach(topic, to, place)
    }

    fn trim(&mut self, topic: u32, first_seq: u64, place: Place) -> Result<(), Inconsistent> {
        let known = self.state.topic(topic).ok_or(Inconsistent)?;
        if first_seq <= known.first_seq {
            return Ok(());
        }
        self.state.apply(&Record::Trim { topic, first_seq }, place)
    }

    fn finish_before(
        &mut self,
        subscription: u32,
        next: u64,
        place: Place,
    ) -> Result<(), Inconsistent> {
        let mut ranges = Vec::new();
        put_ranges(&mut ranges, 0, (next > 0).then_some((0, next)).into_iter());
        let done = Record::Done {
            subscription,
            base: 0,
            ranges: &ranges,
        };
        self.state.apply(&done, place)
    }

    /// Tells what is lost.
    pub(crate) fn finish(mut self) -> Mended {
        let mut topics = BTreeMap::new();
        let ids: Vec<u32> = self.state.topics().map(|(id, _)| id).collect();
        for id in ids {
            let messages = self.topics.remove(&id).unwrap_or_default();
            let Some(topic) = self.state.topic_mut(id) else {
                continue;
            };
            let mut known = messages.present.clone();
            for (from, to) in messages.lost_before.above() {
                known.add(from, to);
            }
            let lost = missing(&known, topic.first_seq, topic.next_seq);
            // A number of a delayed message is not given twice, either.
            topic.next_delayed = topic.next_delayed.saturating_add(self.doubt);
            let mut skipped = None;
            if self.doubt > 0 && !self.sure.contains(&id) {
                let from = topic.next_seq;
                topic.next_seq = from.saturating_add(self.doubt);
                skipped = Some((from, topic.next_seq));
            }
            let gaps = Gaps {
                present: messages.present,
                lost,
                skipped,
            };
            topics.insert(id, gaps);
        }
        Mended {
            state: self.state,
            topics,
            in_doubt: self.doubt > 0,
            unplaced: self.unplaced,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::pure::log::message::StoredMessage;

    const PLACE: Place = Place {
        segment: 1,
        offset: 56,
    };

    fn mender() -> Mender {
        let mut mender = Mender::default();
        for (topic, name) in [(0, "orders"), (1, "bills")] {
            let topic = Record::Topic {
                topic,
                first_seq: 1,
                next_seq: 1,
                name,
            };
            assert!(mender.add(&topic, PLACE));
        }
        let subscription = Record::Subscription {
            subscription: 0,
            topic: 0,
            next: 1,
            name: "billing",
        };
        assert!(mender.add(&subscription, PLACE));
        mender
    }

    fn publish(mender: &mut Mender, topic: u32, seq: u64) -> bool {
        let mut message = Vec::new();
        StoredMessage::default().put(&mut message);
        let publish = Record::Publish {
            topic,
            seq,
            time_ms: 0,
            message: &message,
        };
        mender.add(&publish, PLACE)
    }

    fn done(mender: &mut Mender, from: u64, to: u64) -> bool {
        let mut ranges = Vec::new();
        put_ranges(&mut ranges, from, [(from, to)].into_iter());
        let done = Record::Done {
            subscription: 0,
            base: from,
            ranges: &ranges,
        };
        mender.add(&done, PLACE)
    }

    #[test]
    fn a_log_without_holes_loses_nothing() {
        let mut mender = mender();
        assert!((1..=5).all(|seq| publish(&mut mender, 0, seq)));
        assert!(done(&mut mender, 1, 3));
        let mended = mender.finish();
        assert!(!mended.in_doubt);
        let gaps = mended.topics.values();
        assert!(gaps.clone().all(|gaps| gaps.lost.is_empty()));
        assert!(gaps.clone().all(|gaps| gaps.skipped.is_none()));
    }

    #[test]
    fn a_number_behind_a_hole_tells_which_messages_were_in_it() {
        let mut mender = mender();
        publish(&mut mender, 0, 1);
        mender.lose(600);
        assert!(!publish(&mut mender, 0, 5), "it tells of others");
        assert!(publish(&mut mender, 0, 6));
        let mended = mender.finish();
        assert_eq!(mended.topics[&0].lost, [(2, 5)]);
        assert_eq!(mended.topics[&0].skipped, None);
        // Nothing came of the other topic, which may have had a hundred.
        assert_eq!(mended.topics[&1].lost, []);
        assert_eq!(mended.topics[&1].skipped, Some((1, 101)));
        assert!(mended.in_doubt);
    }

    #[test]
    fn what_a_subscription_is_done_with_was_there() {
        let mut mender = mender();
        publish(&mut mender, 0, 1);
        mender.lose(6);
        assert!(!done(&mut mender, 1, 4));
        let mended = mender.finish();
        assert_eq!(mended.topics[&0].lost, [(2, 4)]);
        assert_eq!(mended.topics[&0].skipped, Some((4, 5)));
    }

    #[test]
    fn a_checkpoint_behind_a_hole_ends_the_doubt() {
        let mut whole = mender();
        assert!((1..=5).all(|seq| publish(&mut whole, 0, seq)));
        let mut mender = mender();
        publish(&mut mender, 0, 1);
        mender.lose(0);
        let mut built = State::default();
        let checkpoint = whole.finish().state;
        checkpoint.checkpoint(|record| built.apply(record, PLACE).expect("consistent"));
        mender.replace(built);
        assert!(publish(&mut mender, 0, 6));
        let mended = mender.finish();
        assert_eq!(mended.topics[&0].lost, [(2, 6)]);
        assert!(mended.topics.values().all(|gaps| gaps.skipped.is_none()));
        assert!(!mended.in_doubt);
    }

    #[test]
    fn a_topic_whose_name_is_lost_keeps_its_messages() {
        let mut mender = mender();
        mender.lose(600);
        assert!(!publish(&mut mender, 7, 3));
        // Its number is lower than one that is known.
        assert!(!publish(&mut mender, 4, 1));
        let mended = mender.finish();
        let topic = mended.state.topic(7).expect("it is there");
        assert_eq!((&*topic.name, topic.next_seq), ("unnamed-7", 4));
        assert_eq!(mended.topics[&7].lost, [(1, 3)]);
        assert_eq!(mended.topics[&4].lost, []);
        assert_eq!(mended.unplaced, 0);
    }

    #[test]
    fn what_an_earlier_salvage_reported_is_not_lost_again() {
        let mut mender = mender();
        publish(&mut mender, 0, 1);
        let lost = Record::Lost {
            topic: 0,
            from: 2,
            to: 9,
        };
        assert!(mender.add(&lost, PLACE));
        assert!(publish(&mut mender, 0, 9));
        assert_eq!(mender.finish().topics[&0].lost, []);
    }

    #[test]
    fn numbers_of_delayed_messages_that_may_have_been_given_are_skipped() {
        let mut mender = mender();
        let delayed = |id| Record::Delayed {
            topic: 0,
            id,
            time_ms: 1,
            due_ms: 2,
            message: &[0],
        };
        assert!(mender.add(&delayed(FIRST_DELAYED), PLACE));
        mender.lose(600);
        assert!(mender.add(&delayed(FIRST_DELAYED + 9), PLACE));
        let mended = mender.finish();
        let topic = mended.state.topic(0).expect("it is there");
        assert_eq!(topic.delayed.len(), 2);
        assert_eq!(topic.next_delayed, FIRST_DELAYED + 110);
    }

    #[test]
    fn records_of_an_unknown_subscription_are_counted() {
        let mut mender = mender();
        mender.lose(600);
        let failed = Record::Failed {
            subscription: 3,
            seq: 1,
            attempts: 1,
        };
        assert!(!mender.add(&failed, PLACE));
        assert_eq!(mender.finish().unplaced, 1);
    }

    /// A number that is near those that were given, or anywhere.
    fn numbers() -> impl Strategy<Value = u64> {
        prop_oneof![8 => 0_u64..12, 1 => any::<u64>()]
    }

    fn steps() -> impl Strategy<Value = Vec<(u8, u32, u64, u64)>> {
        prop::collection::vec((0_u8..18, 0_u32..3, numbers(), numbers()), 0..60)
    }

    proptest! {
        #[test]
        fn whatever_is_left_is_consistent_and_all_numbers_are_accounted_for(steps in steps()) {
            let mut mender = Mender::default();
            let mut message = Vec::new();
            StoredMessage::default().put(&mut message);
            for (kind, id, from, to) in steps {
                let name = &format!("name-{id}");
                let mut ranges = Vec::new();
                if from < to {
                    put_ranges(&mut ranges, from, [(from, to)].into_iter());
                }
                let (topic, subscription, time_ms) = (id, id, 0);
                let record = match kind {
                    0 => {
                        mender.lose(from);
                        continue;
                    }
                    1 => Record::Topic { topic, first_seq: from, next_seq: to, name },
                    2 => Record::Subscription { subscription, topic: from as u32 % 3, next: to, name },
                    3 => Record::Done { subscription, base: from, ranges: &ranges },
                    4 => Record::Failed { subscription, seq: from, attempts: 1 },
                    5 => Record::Letter {
                        subscription, seq: from, attempts: 1, time_ms, reason: 0, error: "", message: &message,
                    },
                    6 => Record::Done { subscription, base: from, ranges: &ranges },
                    7 => Record::Delayed { topic, id: from, time_ms, due_ms: to, message: &message },
                    12 => Record::DelayedGone { topic, id: from, seq: to },
                    13 => Record::DelayedNext { topic, next: from },
                    8 => Record::Trim { topic, first_seq: from },
                    9 => Record::Unsubscribed { subscription },
                    10 => Record::Remembered { topic, seq: from, time_ms, dedup_id: "id" },
                    11 => Record::Lost { topic, from, to },
                    _ => Record::Publish { topic, seq: from, time_ms, message: &message },
                };
                mender.add(&record, PLACE);
            }
            let before: BTreeMap<_, _> =
                mender.topics.iter().map(|(id, all)| (*id, all.lost_before.clone())).collect();
            let mended = mender.finish();
            let mut built = State::default();
            let mut applied = Ok(());
            mended.state.checkpoint(|record| applied = applied.and(built.apply(record, PLACE)));
            prop_assert_eq!(applied, Ok(()));
            for (id, topic) in mended.state.topics() {
                let gaps = &mended.topics[&id];
                let mut known = gaps.present.clone();
                gaps.lost.iter().chain(&gaps.skipped).for_each(|(from, to)| known.add(*from, *to));
                if let Some(before) = before.get(&id) {
                    before.above().for_each(|(from, to)| known.add(from, to));
                }
                prop_assert_eq!(missing(&known, topic.first_seq, topic.next_seq), []);
                for (from, to) in &gaps.lost {
                    prop_assert_eq!(missing(&gaps.present, *from, *to), [(*from, *to)]);
                }
            }
        }
    }
}
