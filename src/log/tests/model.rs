//! A model of a store: what its frames add up to, by plain lists and sets.

use std::collections::{BTreeMap, BTreeSet};

use crate::log::reader::TopicReader;
use crate::log::writer::Shared;
use crate::pure::log::format::frame::FrameBuffer;
use crate::pure::log::message::StoredMessage;
use crate::pure::log::ranges::put_ranges;
use crate::pure::log::record::Record;
use crate::pure::log::state::State;
use crate::sync::Arc;
use crate::types::error::store::StoreError;

/// The content of one record.
#[derive(Clone, Copy, Debug)]
pub(super) enum Entry {
    Topic(u32),
    Subscription,
    Publish { topic: u32, size: usize },
    Done { from: u64, to: u64 },
    Failed { seq: u64, attempts: u32 },
    Letter { seq: u64 },
    Delayed { id: u64, size: usize },
    DelayedGone { id: u64 },
}

/// The records of one commit.
pub(super) type Frame = Arc<Vec<Entry>>;

/// The state of a subscription to topic 0.
#[derive(Clone, Debug, Default)]
struct Told {
    done: BTreeSet<u64>,
    failed: BTreeMap<u64, u32>,
    letters: BTreeSet<u64>,
}

/// The state to which frames add up.
#[derive(Clone, Debug, Default)]
pub(super) struct Model {
    /// The sizes of each topic's messages.
    pub(super) topics: Vec<Vec<usize>>,
    told: Option<Told>,
    delayed: BTreeMap<u64, usize>,
}

impl Model {
    /// Returns how many messages topic 0 has had.
    pub(super) fn count(&self) -> u64 {
        self.topics.first().map_or(0, Vec::len) as u64
    }

    pub(super) fn apply(&mut self, entry: Entry) {
        let told = self.told.get_or_insert_default();
        match entry {
            Entry::Topic(_) => self.topics.push(Vec::new()),
            Entry::Subscription => {}
            Entry::Publish { topic, size } => self.topics[topic as usize].push(size),
            Entry::Done { from, to } => {
                told.done.extend(from..to);
                told.failed.retain(|seq, _| !(from..to).contains(seq));
                told.letters.retain(|seq| !(from..to).contains(seq));
            }
            Entry::Failed { seq, attempts } => {
                if !told.done.contains(&seq) {
                    told.failed.insert(seq, attempts);
                }
            }
            Entry::Letter { seq } => {
                told.done.insert(seq);
                told.failed.remove(&seq);
                told.letters.insert(seq);
            }
            Entry::Delayed { id, size } => {
                self.delayed.insert(id, size);
            }
            Entry::DelayedGone { id } => {
                self.delayed.remove(&id);
            }
        }
    }

    /// Writes the record that says this next.
    pub(super) fn put(&self, entry: Entry, frame: &mut FrameBuffer) {
        let (subscription, time_ms) = (0, self.count());
        let mut ranges = Vec::new();
        let mut message = Vec::new();
        let record = match entry {
            Entry::Topic(topic) => Record::Topic {
                topic,
                first_seq: 1,
                next_seq: 1,
                name: ["orders", "bills"][topic as usize],
            },
            Entry::Subscription => Record::Subscription {
                subscription,
                topic: 0,
                next: 1,
                name: "billing",
            },
            Entry::Publish { topic, size } => {
                let seq = self.topics[topic as usize].len() as u64 + 1;
                put_message(&mut message, topic.into(), seq, size);
                Record::Publish {
                    topic,
                    seq,
                    time_ms,
                    message: &message,
                }
            }
            Entry::Done { from, to } => {
                put_ranges(&mut ranges, 1, [(from, to)].into_iter());
                Record::Done {
                    subscription,
                    base: 1,
                    ranges: &ranges,
                }
            }
            Entry::Failed { seq, attempts } => Record::Failed {
                subscription,
                seq,
                attempts,
            },
            Entry::Letter { seq } => {
                put_message(&mut message, 7, seq, 20);
                Record::Letter {
                    subscription,
                    seq,
                    attempts: 3,
                    time_ms,
                    reason: 1,
                    error: "down",
                    message: &message,
                }
            }
            Entry::Delayed { id, size } => {
                put_message(&mut message, 8, id, size);
                Record::Delayed {
                    topic: 0,
                    id,
                    due_ms: id,
                    message: &message,
                }
            }
            Entry::DelayedGone { id } => Record::DelayedGone { topic: 0, id },
        };
        record.put(frame.record());
    }

    /// Returns whether a state says the same, but for what retention has taken.
    fn is(&self, state: &State) -> bool {
        let counts = self.topics.iter().map(|sizes| sizes.len() as u64 + 1);
        if !counts.eq(state.topics().map(|(_, topic)| topic.next_seq)) {
            return false;
        }
        for (_, topic) in state.topics() {
            let remembered = topic.remembered.iter();
            let ids = (1..topic.next_seq).filter(|seq: &u64| seq.is_multiple_of(4));
            if !ids.eq(remembered.map(|one| one.seq)) {
                return false;
            }
        }
        let delayed = state.topic(0).into_iter().flat_map(|topic| &topic.delayed);
        if !self.delayed.keys().eq(delayed.clone().map(|(id, _)| id)) {
            return false;
        }
        let mut delayed = self.delayed.iter().zip(delayed);
        if !delayed.all(|((id, size), (_, found))| is_message(&found.message, 8, *id, *size)) {
            return false;
        }
        let Some(one) = state.subscription(0) else {
            return self.told.as_ref().is_none_or(|told| {
                told.done.is_empty() && told.failed.is_empty() && told.letters.is_empty()
            });
        };
        let Some(told) = &self.told else {
            return false;
        };
        // Retention forgets the attempts at what it takes.
        let first_seq = state.topic(0).map_or(1, |topic| topic.first_seq);
        let done = (1..one.done.end()).filter(|seq| one.done.contains(*seq));
        let letters = one.letters.iter().map(|(seq, letter)| {
            assert!(is_message(&letter.message, 7, *seq, 20), "letter {seq}");
            assert_eq!((letter.attempts, &*letter.error), (3, "down"));
            *seq
        });
        done.eq(told.done.iter().copied())
            && one.failed.iter().eq(told.failed.range(first_seq..))
            && letters.eq(told.letters.iter().copied())
    }

    /// Reads all messages that retention has left, and compares them.
    fn read(&self, shared: &Arc<Shared>, keeps: Option<u64>) -> Result<(), StoreError> {
        for (topic, sizes) in (0..).zip(&self.topics) {
            let mut reader = TopicReader::new(Arc::clone(shared), topic, 1);
            let mut next = shared.state.lock().topic(topic).expect("it is").first_seq;
            let end = sizes.len() as u64 + 1;
            if next > 1 {
                let kept = (next..).zip(&sizes[next as usize - 1..]);
                let kept = kept.map(|(seq, size)| {
                    let mut message = Vec::new();
                    put_message(&mut message, topic.into(), seq, *size);
                    message.len() as u64
                });
                let kept: u64 = kept.sum();
                let most = keeps.expect("nobody asked for retention");
                assert!(kept >= most, "topic {topic} has only {kept} bytes left");
            }
            while reader.read_frame(end, |read| {
                assert_eq!(read.seq, next, "a gap in topic {topic}");
                let size = sizes[next as usize - 1];
                let is_same = is_message(read.message, topic.into(), next, size);
                assert!(is_same, "message {next} of topic {topic} is another");
                next += 1;
            })? {}
            assert_eq!(next, end, "topic {topic} ends too early");
        }
        Ok(())
    }
}

/// Writes a message that no other is like.
fn put_message(out: &mut Vec<u8>, kind: u64, seq: u64, size: usize) {
    let mut payload = (seq << 8 | kind).to_le_bytes().to_vec();
    payload.resize(8 + size, seq as u8);
    let id = dedup_id(kind, seq);
    StoredMessage {
        dedup_id: id.as_deref(),
        payload: &payload,
        ..StoredMessage::default()
    }
    .put(out);
}

/// Some messages of topics have an id.
fn dedup_id(kind: u64, seq: u64) -> Option<String> {
    (kind < 2 && seq.is_multiple_of(4)).then(|| format!("req-{seq}"))
}

fn is_message(bytes: &[u8], kind: u64, seq: u64, size: usize) -> bool {
    let message = StoredMessage::read(bytes).expect("a message");
    let (head, rest) = message.payload.split_at(8);
    head == (seq << 8 | kind).to_le_bytes()
        && message.dedup_id == dedup_id(kind, seq).as_deref()
        && rest.len() == size
        && rest.iter().all(|byte| *byte == seq as u8)
}

/// Compares a log with the frames that were submitted to it, in order. Returns how many of them it
/// has, and what they add up to.
///
/// It has all or a prefix; at least so many; and every message of them is what was published.
pub(super) fn compare(
    shared: &Arc<Shared>,
    frames: &[Frame],
    least: usize,
    keeps: Option<u64>,
) -> Result<(usize, Model), StoreError> {
    let mut model = Model::default();
    let mut has = 0;
    for frame in &frames[..least] {
        frame.iter().for_each(|entry| model.apply(*entry));
        has += 1;
    }
    while !model.is(&shared.state.lock()) {
        let frame = frames.get(has);
        let frame = frame.unwrap_or_else(|| {
            panic!("the log has no prefix of {has} frames that has {least}: {frames:?}")
        });
        frame.iter().for_each(|entry| model.apply(*entry));
        has += 1;
    }
    model.read(shared, keeps)?;
    Ok((has, model))
}
