//! Salvages of logs that were really damaged.

mod crashes;
mod damage;
mod looking;

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::path::Path;

use crate::log::fs::Fs;
use crate::log::fs::sim::{Random, SimFs};
use crate::log::inspect::report::Salvage;
use crate::log::inspect::survey::{list, records};
use crate::log::inspect::{Health, inspect_in};
use crate::log::reader::TopicReader;
use crate::log::recover::Recovered;
use crate::log::salvage::{open, settle};
use crate::log::writer::Writer;
use crate::pure::log::format::frame::FrameBuffer;
use crate::pure::log::format::header::{
    STORE_FILE, SegmentHeader, seed, segment_name, segment_number,
};
use crate::pure::log::message::StoredMessage;
use crate::pure::log::ranges::put_ranges;
use crate::pure::log::record::Record;
use crate::pure::log::salvage::scan::{Found, Scan};
use crate::pure::log::state::State;
use crate::pure::log::state::delayed::FIRST_DELAYED;
use crate::sync::Arc;
use crate::types::error::store::StoreError;

const SEGMENT_SIZE: u64 = 4 << 10;
/// How many messages there are.
const STEPS: u64 = 60;
const TOPICS: [&str; 2] = ["orders", "bills"];

/// Messages by topic and number.
type Messages = BTreeMap<(u32, u64), Vec<u8>>;

/// Topics and numbers of messages.
type Numbers = Vec<(u32, u64)>;

fn directory() -> &'static Path {
    Path::new("data")
}

fn open_log(fs: &SimFs, salvages: bool) -> Result<Recovered, StoreError> {
    open(fs, directory(), salvages, &mut drop)
}

fn write(writer: &mut Writer, records: &[Record<'_>]) -> Result<(), StoreError> {
    let mut frame = FrameBuffer::new();
    for record in records {
        record.put(frame.record());
    }
    writer.write(&mut frame, true, 0)
}

/// Writes a log of several segments, with all that a state has in it. Each message is a frame of
/// its own. Returns what it adds up to.
fn build(fs: &SimFs, steps: u64) -> Result<(State, Messages), StoreError> {
    let recovered = open_log(fs, false)?;
    let mut writer = Writer::new(Arc::new(fs.clone()), recovered, SEGMENT_SIZE);
    let mut messages = Messages::new();
    for (topic, name) in (0..).zip(TOPICS) {
        let topic_record = Record::Topic {
            topic,
            first_seq: 1,
            next_seq: 1,
            name,
        };
        let subscription = Record::Subscription {
            subscription: topic,
            topic,
            next: 1,
            name: "billing",
        };
        write(&mut writer, &[topic_record, subscription])?;
    }
    for step in 0..steps {
        let topic = u32::from(step % 3 == 0);
        let seq = messages.keys().filter(|(of, _)| *of == topic).count() as u64 + 1;
        let id = format!("req-{step}");
        let mut message = Vec::new();
        StoredMessage {
            dedup_id: (step % 4 == 0).then_some(id.as_str()),
            payload: &[step as u8; 150],
            ..StoredMessage::default()
        }
        .put(&mut message);
        let publish = Record::Publish {
            topic,
            seq,
            time_ms: step,
            message: &message,
        };
        write(&mut writer, &[publish])?;
        messages.insert((topic, seq), message.clone());
        let mut ranges = Vec::new();
        put_ranges(&mut ranges, seq, [(seq, seq + 1)].into_iter());
        let subscription = topic;
        let further = match step % 7 {
            0 => Record::Letter {
                subscription,
                seq,
                attempts: 3,
                time_ms: step,
                reason: 1,
                error: "down",
                message: &message,
            },
            1 => Record::Failed {
                subscription,
                seq,
                attempts: 1,
            },
            2 => Record::Delayed {
                topic,
                id: FIRST_DELAYED + step,
                time_ms: step,
                due_ms: step,
                message: &message,
            },
            3 => continue,
            _ => Record::Done {
                subscription,
                base: seq,
                ranges: &ranges,
            },
        };
        write(&mut writer, &[further])?;
    }
    writer.vouch()?;
    writer.close();
    let state = writer.shared().state.lock().clone();
    Ok((state, messages))
}

/// A log on a disk that doesn't fail.
fn built() -> (SimFs, State, Messages) {
    let fs = SimFs::default();
    let (state, messages) = build(&fs, STEPS).expect("the disk doesn't fail");
    (fs, state, messages)
}

fn segments(fs: &SimFs) -> Vec<u64> {
    let names = list(fs, directory()).expect("it is on");
    let mut numbers: Vec<_> = names.iter().filter_map(|it| segment_number(it)).collect();
    numbers.sort_unstable();
    numbers
}

fn content(fs: &SimFs, segment: u64) -> Vec<u8> {
    fs.content(&segment_name(segment)).expect("it is there")
}

/// The frames of a segment: where each is, and the messages in it.
fn frames(fs: &SimFs, segment: u64) -> Vec<(Range<usize>, Numbers)> {
    let bytes = content(fs, segment);
    let header = SegmentHeader::decode(&bytes).expect("it is whole");
    let scan = Scan::new(&bytes, seed(header.store, segment), header.before.lsn);
    let frames = scan.map(|(offset, found)| {
        let Found::Frame(frame) = found else {
            panic!("it is whole");
        };
        let records = records(&frame).expect("they are whole");
        let messages = records.iter().filter_map(|record| match record {
            Record::Publish { topic, seq, .. } => Some((*topic, *seq)),
            _ => None,
        });
        (offset..offset + frame.size(), messages.collect())
    });
    frames.collect()
}

/// Flips a bit in the middle of these bytes.
fn damage(fs: &SimFs, segment: u64, bytes: &Range<usize>) {
    let mut content = content(fs, segment);
    content[bytes.start + bytes.len() / 2] ^= 4;
    fs.overwrite(&segment_name(segment), content);
}

/// All messages that readers get.
fn read_messages(fs: &SimFs) -> Messages {
    let recovered = open_log(fs, false).expect("it is whole");
    let writer = Writer::new(Arc::new(fs.clone()), recovered, SEGMENT_SIZE);
    let shared = writer.shared();
    let mut messages = Messages::new();
    for topic in 0..2 {
        let until = shared.state.lock().topic(topic).map_or(1, |it| it.next_seq);
        let mut reader = TopicReader::new(Arc::clone(&shared), topic, 1);
        let take = |messages: &mut Messages, reader: &mut TopicReader| {
            reader
                .read_frame(until, |read| {
                    messages.insert((topic, read.seq), read.message.to_owned());
                })
                .expect("it is whole")
        };
        while take(&mut messages, &mut reader) {}
    }
    messages
}

fn lost(report: &Salvage) -> Numbers {
    let topics = report.topics.iter().flat_map(|topic| {
        let id = TOPICS.iter().position(|name| *name == topic.topic);
        let id = id.expect("its name is known") as u32;
        let numbers = topic.lost.iter().cloned().flatten();
        numbers.map(move |seq| (id, seq))
    });
    topics.collect()
}

fn skipped(report: &Salvage, topic: u32) -> Range<u64> {
    let mut topics = report.topics.iter();
    let topic = topics.find(|it| it.topic == TOPICS[topic as usize]);
    topic.and_then(|it| it.skipped.clone()).unwrap_or(0..0)
}

/// Salvages, and holds that what is not reported is there.
fn assert_salvaged(fs: &SimFs, messages: &Messages) -> (Salvage, State) {
    let before: Vec<_> = segments(fs)
        .into_iter()
        .map(|number| (number, content(fs, number)))
        .collect();
    let refused = open_log(fs, false).map(|it| it.opened);
    assert!(refused.is_err(), "{refused:?}");
    let looked = inspect_in(fs, directory()).expect("it can be read");
    let opened = open_log(fs, true).expect("it is salvaged");
    let report = opened.opened.salvage.expect("it was damaged");
    assert!(!report.damages.is_empty(), "{report}");
    for (number, bytes) in before {
        let name = segment_name(number);
        assert_eq!(fs.content(&name), None, "{name} makes room");
        let kept = format!("damaged-1.{name}");
        assert_eq!(fs.content(&kept), Some(bytes), "{kept}");
        assert!(report.kept.contains(&kept), "{report}");
    }
    let text = fs.content("damaged-1.report").expect("it is kept");
    assert_eq!(text, report.to_string().into_bytes());
    let Health::Damaged(mut promised) = looked.health else {
        panic!("{:?}", looked.health);
    };
    promised.kept.clone_from(&report.kept);
    assert_eq!(promised, report, "looking tells the same");

    let mut left = messages.clone();
    for message in lost(&report) {
        assert!(left.remove(&message).is_some(), "{message:?}: {report}");
    }
    left.retain(|(topic, seq), _| !skipped(&report, *topic).contains(seq));
    assert!(read_messages(fs) == left, "{report}");
    let again = open_log(fs, false).expect("it is whole");
    assert_eq!(again.opened.salvage, None);
    assert_eq!(again.state, opened.state);
    (report, again.state)
}

/// A damaged frame takes its own messages, and nothing else that a checkpoint behind it knows.
#[test]
fn each_frame_that_is_damaged_loses_its_messages_and_no_others() {
    let (whole, state, messages) = built();
    let numbers = segments(&whole);
    let (last, before_last) = numbers.split_last().expect("there are some");
    assert!(before_last.len() > 3, "{numbers:?}");
    for number in &numbers {
        let all = frames(&whole, *number);
        // The last frame of all only vouches for the others.
        let count = all.len() - usize::from(number == last);
        for (bytes, held) in &all[..count] {
            let fs = whole.after_kill();
            damage(&fs, *number, bytes);
            let (report, salvaged) = assert_salvaged(&fs, &messages);
            let gone = lost(&report);
            assert!(gone.iter().all(|it| held.contains(it)), "{report}");
            for (topic, seq) in held {
                let is_skipped = skipped(&report, *topic).contains(seq);
                assert!(gone.contains(&(*topic, *seq)) || is_skipped, "{report}");
            }
            for (id, topic) in salvaged.topics() {
                let was = state.topic(id).expect("it was there");
                assert_eq!(topic.name, was.name);
                assert!(topic.next_seq >= was.next_seq, "no number is given twice");
            }
            if number == last {
                continue;
            }
            for (id, topic) in salvaged.topics() {
                let was = state.topic(id).expect("it was there");
                assert_eq!(
                    (topic.next_seq, &topic.delayed),
                    (was.next_seq, &was.delayed)
                );
                // Whoever publishes a lost message again is not refused.
                let ids = was.remembered.iter();
                let ids = ids.filter(|one| !gone.contains(&(id, one.seq)));
                let mut ids: Vec<_> = ids.collect();
                // Those of delayed messages come last.
                ids.sort_by_key(|one| one.seq);
                assert!(topic.remembered.iter().eq(ids));
            }
            for (id, one) in salvaged.subscriptions() {
                let was = state.subscription(id).expect("it was there");
                assert_eq!((&one.name, &one.letters), (&was.name, &was.letters));
                for seq in 1..=40 {
                    let is_lost = gone.contains(&(one.topic, seq));
                    assert_eq!(one.done.contains(seq), was.done.contains(seq) || is_lost);
                }
            }
            let missed: u64 = report.subscriptions.iter().map(|it| it.missed).sum();
            let open = |(topic, seq): &&(u32, u64)| {
                let one = state.subscription(*topic).expect("it was there");
                !one.done.contains(*seq)
            };
            assert_eq!(missed, gone.iter().filter(open).count() as u64, "{report}");
            assert!(report.subscriptions.iter().all(|it| !it.may_repeat));
        }
    }
}

#[test]
fn a_missing_file_loses_its_messages_and_no_others() {
    let (whole, state, messages) = built();
    let numbers = segments(&whole);
    for number in &numbers[1..numbers.len() - 1] {
        let fs = whole.after_kill();
        fs.remove(&segment_name(*number)).expect("it was there");
        let (report, salvaged) = assert_salvaged(&fs, &messages);
        let held: Vec<_> = frames(&whole, *number)
            .into_iter()
            .flat_map(|(_, held)| held)
            .collect();
        let mut gone = lost(&report);
        gone.sort_by_key(|(topic, seq)| held.iter().position(|it| it == &(*topic, *seq)));
        assert_eq!(gone, held);
        for (id, topic) in salvaged.topics() {
            assert_eq!(topic.next_seq, state.topic(id).expect("it").next_seq);
        }
    }
}

#[test]
fn a_damaged_header_loses_nothing() {
    let (whole, state, messages) = built();
    for number in segments(&whole) {
        let fs = whole.after_kill();
        damage(&fs, number, &(0..56));
        if open_log(&fs.after_kill(), false).is_ok() {
            continue;
        }
        let (report, salvaged) = assert_salvaged(&fs, &messages);
        assert_eq!(lost(&report), [], "{report}");
        for (id, one) in state.subscriptions() {
            assert_eq!(Some(one), salvaged.subscription(id));
        }
    }
}

#[test]
fn a_store_that_lost_its_name_gets_it_back() {
    for is_missing in [true, false] {
        let (fs, state, messages) = built();
        match is_missing {
            true => fs.remove(STORE_FILE).expect("it was there"),
            false => fs.overwrite(STORE_FILE, vec![7; 30]),
        }
        assert!(matches!(
            open_log(&fs, false).map(drop),
            Err(StoreError::Unnamed { .. })
        ));
        let opened = open_log(&fs, true).expect("it is salvaged");
        let report = opened.opened.salvage.expect("it was damaged");
        assert_eq!(lost(&report), [], "{report}");
        let kept = fs.content("damaged-1.store");
        assert_eq!(kept.is_some(), !is_missing);
        assert!(read_messages(&fs) == messages);
        for (id, one) in state.subscriptions() {
            assert_eq!(Some(one), opened.state.subscription(id));
        }
    }
}

#[test]
fn a_salvaged_log_goes_on_and_can_be_salvaged_again() {
    let (fs, _, messages) = built();
    damage(&fs, 2, &frames(&fs, 2)[3].0);
    let (first, state) = assert_salvaged(&fs, &messages);
    let mut left = messages.clone();
    lost(&first).iter().for_each(|it| drop(left.remove(it)));
    let next = state.topic(0).expect("it is there").next_seq;
    let mut message = Vec::new();
    StoredMessage::default().put(&mut message);
    let publish = Record::Publish {
        topic: 0,
        seq: next,
        time_ms: 0,
        message: &message,
    };
    let recovered = open_log(&fs, false).expect("it is whole");
    let mut writer = Writer::new(Arc::new(fs.clone()), recovered, SEGMENT_SIZE);
    write(&mut writer, &[publish]).expect("it is the next");
    drop(writer);
    left.insert((0, next), message);
    let number = segments(&fs)[1];
    let (bytes, held) = &frames(&fs, number)[2];
    damage(&fs, number, bytes);
    let opened = open_log(&fs, true).expect("it is salvaged");
    let report = opened.opened.salvage.expect("it was damaged");
    assert_eq!(&lost(&report), held, "the first loss is not told again");
    held.iter().for_each(|it| drop(left.remove(it)));
    assert!(read_messages(&fs) == left);
    assert!(fs.content("damaged-2.report").is_some());
}

#[test]
fn a_store_that_is_whole_is_not_salvaged() {
    let (fs, state, _) = built();
    let opened = open_log(&fs, true).expect("it is whole");
    assert_eq!(opened.opened.salvage, None);
    assert_eq!(opened.state, state);
    settle(&fs, directory()).expect("there is nothing to do");
}
