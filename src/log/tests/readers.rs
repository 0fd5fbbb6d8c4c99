//! Readers beside a writer, by real threads or by shuttle's schedules.

use std::path::Path;

use crate::log::commit::{Due, Log};
use crate::log::fs::sim::SimFs;
use crate::log::reader::TopicReader;
use crate::log::recover::recover;
use crate::log::tests::group_commit::{join, start};
use crate::log::writer::Writer;
use crate::pure::log::frame::FrameBuffer;
use crate::pure::log::message::StoredMessage;
use crate::pure::log::record::Record;
use crate::pure::log::retention::Limits;
use crate::sync::{Arc, explore};

fn commit(log: &Log, record: &Record<'_>) {
    let put = |frame: &mut FrameBuffer| record.put(frame.record());
    let ticket = log.submit(false, Due::Waits, put, None);
    let ticket = ticket.map_err(|(error, _)| error).expect("it is open");
    log.wait(ticket).expect("it is written");
}

fn publish(log: &Log, seq: u64) {
    let mut message = Vec::new();
    StoredMessage {
        payload: &[seq as u8; 100],
        ..StoredMessage::default()
    }
    .put(&mut message);
    let publish = Record::Publish {
        topic: 0,
        seq,
        time_ms: 0,
        message: &message,
    };
    commit(log, &publish);
}

/// Retention takes segments from under a reader. It goes on with what is left.
#[test]
fn a_reader_comes_to_the_end_though_retention_takes_what_it_reads() {
    explore(|| {
        let fs = SimFs::default();
        let recovered = recover(&fs, Path::new("data"), &mut drop).expect("a new one");
        let mut writer = Writer::new(Arc::new(fs.clone()), recovered, 250);
        let bytes = Some(0);
        writer.limit(
            0,
            Limits {
                bytes,
                age_ms: None,
            },
        );
        let log = Arc::new(Log::new(writer, None));
        let topic = Record::Topic {
            topic: 0,
            first_seq: 1,
            next_seq: 1,
            name: "orders",
        };
        commit(&log, &topic);
        publish(&log, 1);
        publish(&log, 2);
        let written = Arc::clone(&log);
        let writes = start(move || (3..6).for_each(|seq| publish(&written, seq)));
        let shared = Arc::clone(&log.shared);
        let reads = start(move || {
            let mut reader = TopicReader::new(Arc::clone(&shared), 0, 1);
            let mut last = 0;
            for _ in 0..2 {
                let until = shared.state.lock().topic(0).expect("it is").next_seq;
                while reader.next() < until {
                    let has_read = reader.read_frame(until, |read| {
                        let first = shared.state.lock().topic(0).expect("it is").first_seq;
                        let follows = read.seq == last + 1;
                        // Or retention has taken those between.
                        let jumps = read.seq > last && read.seq <= first;
                        assert!(follows || jumps, "{} after {last}", read.seq);
                        last = read.seq;
                        let message = StoredMessage::read(read.message).expect("whole");
                        assert_eq!(message.payload, [read.seq as u8; 100]);
                    });
                    let is_past = reader.next() >= until;
                    assert!(has_read.expect("it reads") || is_past, "it stops early");
                }
            }
        });
        join(vec![writes, reads]);
    });
}
