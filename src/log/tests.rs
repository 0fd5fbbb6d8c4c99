//! The log by itself, on a file system in memory.

use std::path::Path;

use crate::log::commit::{Due, Log};
use crate::log::fs::sim::SimFs;
use crate::log::reader::TopicReader;
use crate::log::recover::{Opened, recover};
use crate::log::writer::Writer;
use crate::pure::log::format::frame::FrameBuffer;
use crate::pure::log::message::StoredMessage;
use crate::pure::log::record::Record;
use crate::sync::Arc;
use crate::types::error::store::StoreError;

mod arbitrary;
mod breaks;
mod damage;
mod faults;
mod group_commit;
mod lies;
mod limits;
mod model;
mod power_cuts;
mod program;
mod readers;

/// A log with one topic, whose messages are numbers.
struct Subject {
    log: Log,
    opened: Opened,
    next: u64,
}

impl Subject {
    fn open(fs: &SimFs) -> Result<Self, StoreError> {
        Self::open_with(fs, 4 << 10)
    }

    fn open_with(fs: &SimFs, segment_size: u64) -> Result<Self, StoreError> {
        let fs = Arc::new(fs.clone());
        let recovered = recover(&*fs, Path::new("data"), &mut drop)?;
        let opened = recovered.opened.clone();
        let next = recovered.state.topic(0).map(|topic| topic.next_seq);
        let mut writer = Writer::new(fs, recovered, segment_size);
        writer.vouch()?;
        let log = Log::new(writer, None);
        if next.is_none() {
            let topic = Record::Topic {
                topic: 0,
                first_seq: 1,
                next_seq: 1,
                name: "orders",
            };
            commit(&log, true, |frame| topic.put(frame.record()))?;
        }
        Ok(Self {
            log,
            opened,
            next: next.unwrap_or(1),
        })
    }

    /// Publishes as many messages as one commit, and returns the number of the last.
    fn publish(&mut self, count: u64, syncs: bool, size: usize) -> Result<u64, StoreError> {
        let first = self.next;
        commit(&self.log, syncs, |frame| {
            for seq in first..first + count {
                let mut payload = seq.to_le_bytes().to_vec();
                payload.resize(8 + size, seq as u8);
                let mut message = Vec::new();
                StoredMessage {
                    payload: &payload,
                    ..StoredMessage::default()
                }
                .put(&mut message);
                let publish = Record::Publish {
                    topic: 0,
                    seq,
                    time_ms: seq,
                    message: &message,
                };
                publish.put(frame.record());
            }
        })?;
        self.next += count;
        Ok(self.next - 1)
    }

    /// Publishes one message with this payload, and syncs it.
    fn publish_payload(&mut self, payload: &[u8]) {
        let mut message = Vec::new();
        StoredMessage {
            payload,
            ..StoredMessage::default()
        }
        .put(&mut message);
        let publish = Record::Publish {
            topic: 0,
            seq: self.next,
            time_ms: 0,
            message: &message,
        };
        let put = |frame: &mut FrameBuffer| publish.put(frame.record());
        commit(&self.log, true, put).expect("it is written");
        self.next += 1;
    }

    /// Returns the numbers of all messages, each of which has its own as payload.
    fn messages(&self) -> Result<Vec<u64>, StoreError> {
        let until = self
            .log
            .shared
            .state
            .lock()
            .topic(0)
            .map_or(1, |topic| topic.next_seq);
        let mut reader = TopicReader::new(Arc::clone(&self.log.shared), 0, 1);
        let mut found = Vec::new();
        while reader.read_frame(until, |read| {
            let message = StoredMessage::read(read.message).expect("it was written");
            assert_eq!(message.payload[..8], read.seq.to_le_bytes());
            assert!(
                message.payload[8..]
                    .iter()
                    .all(|byte| *byte == read.seq as u8)
            );
            found.push(read.seq);
        })? {}
        assert!(reader.next() >= until, "{} of {until}", reader.next());
        Ok(found)
    }
}

fn commit(log: &Log, syncs: bool, put: impl FnOnce(&mut FrameBuffer)) -> Result<(), StoreError> {
    let ticket = log
        .submit(syncs, Due::Waits, put, None)
        .map_err(|(error, _)| error)?;
    log.wait(ticket)
}

#[test]
fn what_was_committed_is_there_after_a_kill() {
    let fs = SimFs::default();
    let mut subject = Subject::open(&fs).expect("it opens");
    for count in [1, 5, 64, 2] {
        subject.publish(count, false, 50).expect("it is written");
    }
    let again = Subject::open(&fs.after_kill()).expect("it opens");
    assert_eq!(
        again.messages().expect("whole"),
        (1..=72).collect::<Vec<_>>()
    );
    assert_eq!(again.opened.torn, None);
    assert!(again.opened.segments > 1, "{:?}", again.opened);
}

#[test]
fn a_reader_sees_messages_up_to_the_number_asked_for() {
    let fs = SimFs::default();
    let mut subject = Subject::open(&fs).expect("it opens");
    subject.publish(10, false, 50).expect("it is written");
    let mut reader = TopicReader::new(Arc::clone(&subject.log.shared), 0, 3);
    let mut found = Vec::new();
    for until in [5, 5, 6, 11] {
        reader
            .read_frame(until, |read| found.push(read.seq))
            .expect("whole");
        assert_eq!(found, (3..until).collect::<Vec<_>>());
    }
}

/// A large state is not written again with each commit.
#[test]
fn a_segment_holds_as_much_as_its_checkpoint() {
    let fs = SimFs::default();
    let mut subject = Subject::open_with(&fs, 300).expect("it opens");
    for id in 0..20 {
        let delayed = Record::Delayed {
            topic: 0,
            id,
            time_ms: 0,
            due_ms: 0,
            message: &[0; 100],
        };
        let put = |frame: &mut FrameBuffer| delayed.put(frame.record());
        commit(&subject.log, false, put).expect("it is written");
    }
    let before = subject.log.shared.segments.count();
    for _ in 0..40 {
        subject.publish(1, false, 50).expect("it is written");
    }
    let more = subject.log.shared.segments.count() - before;
    assert!((1..4).contains(&more), "{more} more segments");
}
