//! A model of a store: what its frames add up to, by plain lists and sets.

use std::collections::{BTreeMap, BTreeSet};

use crate::log::reader::TopicReader;
use crate::log::writer::Shared;
use crate::pure::log::format::frame::FrameBuffer;
use crate::pure::log::message::StoredMessage;
use crate::pure::log::ranges::put_ranges;
use crate::pure::log::record::Record;
use crate::pure::log::state::State;
use crate::pure::log::state::delayed::{FIRST_DELAYED, put_due};
use crate::sync::Arc;
use crate::types::error::store::StoreError;

/// The content of one record.
#[derive(Clone, Copy, Debug)]
pub(super) enum Entry {
    Topic(u32),
    Subscription,
    Publish {
        topic: u32,
        size: usize,
    },
    Done {
        from: u64,
        to: u64,
    },
    Failed {
        seq: u64,
        attempts: u32,
    },
    Letter {
        seq: u64,
    },
    Delayed {
        size: usize,
    },
    /// The first delayed message at this place or behind it is published, if any is delayed.
    Due {
        at: usize,
    },
    /// That message is cancelled.
    Cancelled {
        at: usize,
    },
}

/// The records of one commit.
pub(super) type Frame = Arc<Vec<Entry>>;

/// The content of a message.
#[derive(Clone, Copy, Debug)]
struct Body {
    /// The topic, or another number for what is no message of one.
    kind: u64,
    number: u64,
    size: usize,
}

/// The messages of topic 0 that are or were delayed.
#[derive(Clone, Debug, Default)]
struct Delays {
    /// How many numbers were given.
    given: u64,
    waiting: BTreeMap<u64, Body>,
    cancelled: BTreeSet<u64>,
}

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
    /// Each topic's messages.
    topics: Vec<Vec<Body>>,
    /// The numbers under which messages with a dedup id were accepted.
    remembered: Vec<Vec<u64>>,
    told: Option<Told>,
    delays: Delays,
}

impl Model {
    /// Returns how many messages topic 0 has had.
    pub(super) fn count(&self) -> u64 {
        self.topics.first().map_or(0, Vec::len) as u64
    }

    pub(super) fn topics(&self) -> u64 {
        self.topics.len() as u64
    }

    /// Returns the delayed message at this place.
    fn delayed_at(&self, at: usize) -> Option<Body> {
        let waiting = &self.delays.waiting;
        waiting.values().nth(at % waiting.len().max(1)).copied()
    }

    pub(super) fn apply(&mut self, entry: Entry) {
        let delayed = match entry {
            Entry::Due { at } | Entry::Cancelled { at } => self.delayed_at(at),
            _ => None,
        };
        let told = self.told.get_or_insert_default();
        match entry {
            Entry::Topic(_) => {
                self.topics.push(Vec::new());
                self.remembered.push(Vec::new());
            }
            Entry::Subscription => {}
            Entry::Publish { topic, size } => {
                let messages = &mut self.topics[topic as usize];
                let number = messages.len() as u64 + 1;
                let kind = topic.into();
                if dedup_id(kind, number).is_some() {
                    self.remembered[topic as usize].push(number);
                }
                messages.push(Body { kind, number, size });
            }
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
            Entry::Delayed { size } => {
                let number = FIRST_DELAYED + self.delays.given;
                let kind = DELAYED;
                let body = Body { kind, number, size };
                self.delays.given += 1;
                self.delays.waiting.insert(number, body);
                if dedup_id(kind, number).is_some() {
                    self.remembered[0].push(number);
                }
            }
            Entry::Due { .. } => {
                if let Some(due) = delayed {
                    self.topics[0].push(due);
                    self.delays.waiting.remove(&due.number);
                }
            }
            Entry::Cancelled { .. } => {
                if let Some(Body { number, .. }) = delayed {
                    self.delays.waiting.remove(&number);
                    self.delays.cancelled.insert(number);
                    self.remembered[0].retain(|seq| *seq != number);
                }
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
                let kind = topic.into();
                let number = seq;
                put_message(&mut message, Body { kind, number, size });
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
                put_message(&mut message, letter(seq));
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
            Entry::Delayed { size } => {
                let number = FIRST_DELAYED + self.delays.given;
                let kind = DELAYED;
                put_message(&mut message, Body { kind, number, size });
                Record::Delayed {
                    topic: 0,
                    id: number,
                    time_ms,
                    due_ms: number,
                    message: &message,
                }
            }
            Entry::Due { at } => {
                if let Some(due) = self.delayed_at(at) {
                    put_message(&mut message, due);
                    let seq = self.count() + 1;
                    put_due(0, due.number, seq, time_ms, &message, |record| {
                        record.put(frame.record());
                    });
                }
                return;
            }
            Entry::Cancelled { at } => match self.delayed_at(at) {
                Some(Body { number, .. }) => Record::DelayedGone {
                    topic: 0,
                    id: number,
                    seq: 0,
                },
                None => return,
            },
        };
        record.put(frame.record());
    }

    /// Returns whether a state says the same, but for what retention has taken.
    fn is(&self, state: &State) -> bool {
        let counts = self.topics.iter().map(|sizes| sizes.len() as u64 + 1);
        if !counts.eq(state.topics().map(|(_, topic)| topic.next_seq)) {
            return false;
        }
        for (ids, (_, topic)) in self.remembered.iter().zip(state.topics()) {
            let remembered = topic.remembered.iter();
            if !ids.iter().copied().eq(remembered.map(|one| one.seq)) {
                return false;
            }
        }
        if let Some(topic) = state.topic(0) {
            let delays = &self.delays;
            let mut each = delays.waiting.values().zip(&topic.delayed);
            if topic.next_delayed != FIRST_DELAYED + delays.given
                || !delays.waiting.keys().eq(topic.delayed.keys())
                || !each.all(|(body, (_, found))| is_message(&found.message, *body))
            {
                return false;
            }
        }
        let Some(one) = state.subscription(0) else {
            return self.told.as_ref().is_none_or(|told| {
                told.done.is_empty() && told.failed.is_empty() && told.letters.is_empty()
            });
        };
        let Some(told) = &self.told else {
            return false;
        };
        let done = (1..one.done.end()).filter(|seq| one.done.contains(*seq));
        let letters = one.letters.iter().map(|(seq, found)| {
            assert!(is_message(&found.message, letter(*seq)), "letter {seq}");
            assert_eq!((found.attempts, &*found.error), (3, "down"));
            *seq
        });
        done.eq(told.done.iter().copied())
            && one.failed == told.failed
            && letters.eq(told.letters.iter().copied())
    }

    /// Reads all messages that retention has left, and compares them.
    fn read(&self, shared: &Arc<Shared>, keeps: Option<u64>) -> Result<(), StoreError> {
        for (topic, messages) in (0..).zip(&self.topics) {
            let mut reader = TopicReader::new(Arc::clone(shared), topic, 1);
            let mut next = shared.state.lock().topic(topic).expect("it is").first_seq;
            let end = messages.len() as u64 + 1;
            let (gone, left) = messages.split_at(next as usize - 1);
            let mut delayed: Vec<_> = gone.iter().filter(|it| it.kind == DELAYED).collect();
            if next > 1 {
                let kept = left.iter().map(|body| {
                    let mut message = Vec::new();
                    put_message(&mut message, *body);
                    message.len() as u64
                });
                let kept: u64 = kept.sum();
                let most = keeps.expect("nobody asked for retention");
                assert!(kept >= most, "topic {topic} has only {kept} bytes left");
            }
            while reader.read_frame(end, |read| {
                assert_eq!(read.seq, next, "a gap in topic {topic}");
                let body = &messages[next as usize - 1];
                let is_same = is_message(read.message, *body);
                assert!(is_same, "message {next} of topic {topic} is another");
                delayed.extend((body.kind == DELAYED).then_some(body));
                next += 1;
            })? {}
            assert_eq!(next, end, "topic {topic} ends too early");
            if topic == 0 {
                self.account(&shared.state.lock(), &delayed);
            }
        }
        Ok(())
    }

    /// Every message that was ever delayed still is, or was published once, or was cancelled.
    fn account(&self, state: &State, published: &[&Body]) {
        let waiting = &state.topic(0).expect("it is there").delayed;
        for number in (FIRST_DELAYED..).take(self.delays.given as usize) {
            let published = published.iter().filter(|body| body.number == number);
            let waits = usize::from(waiting.contains_key(&number));
            let is_cancelled = usize::from(self.delays.cancelled.contains(&number));
            let places = published.count() + waits + is_cancelled;
            assert_eq!(places, 1, "delayed message {number}");
        }
    }
}

/// The kind of delayed messages.
const DELAYED: u64 = 8;

/// Returns the message of a dead letter.
fn letter(number: u64) -> Body {
    let (kind, size) = (7, 20);
    Body { kind, number, size }
}

/// Writes a message that no other is like.
fn put_message(out: &mut Vec<u8>, Body { kind, number, size }: Body) {
    let mut payload = (number << 8 | kind).to_le_bytes().to_vec();
    payload.resize(8 + size, number as u8);
    let id = dedup_id(kind, number);
    StoredMessage {
        dedup_id: id.as_deref(),
        payload: &payload,
        ..StoredMessage::default()
    }
    .put(out);
}

/// Some messages of topics have an id.
fn dedup_id(kind: u64, number: u64) -> Option<String> {
    let may_have = kind < 2 || kind == DELAYED;
    (may_have && number.is_multiple_of(4)).then(|| format!("req-{number}"))
}

fn is_message(bytes: &[u8], Body { kind, number, size }: Body) -> bool {
    let message = StoredMessage::read(bytes).expect("a message");
    let (head, rest) = message.payload.split_at(8);
    head == (number << 8 | kind).to_le_bytes()
        && message.dedup_id == dedup_id(kind, number).as_deref()
        && rest.len() == size
        && rest.iter().all(|byte| *byte == number as u8)
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
