//! Bytes that are no log: whatever they are, they are refused or read, with memory in proportion to
//! them, and nothing panics.

use std::path::Path;

use proptest::prelude::*;

use crate::log::fs::Fs;
use crate::log::fs::sim::{Random, SimFs};
use crate::log::reader::TopicReader;
use crate::log::recover::recover;
use crate::log::tests::program::run;
use crate::log::writer::{Shared, Writer};
use crate::pure::log::bytes::Reader;
use crate::pure::log::frame;
use crate::pure::log::header::{SegmentHeader, StoreFile};
use crate::pure::log::message::StoredMessage;
use crate::pure::log::record::Record;
use crate::pure::log::state::{Place, State};
use crate::pure::log::walk::vouched;
use crate::sync::Arc;

/// Reads bytes as everything that a log is made of.
fn read_all_ways(bytes: &[u8]) {
    let _ = StoreFile::decode(bytes);
    let _ = SegmentHeader::decode(bytes);
    let _ = frame::read(1, bytes, 0);
    let _ = (frame::size(bytes), frame::lsn(bytes));
    let _ = vouched(bytes, 1, 0);
    if let Ok(message) = StoredMessage::read(bytes) {
        assert!(message.headers.len() <= bytes.len());
    }
    let mut state = State::default();
    let mut reader = Reader::new(bytes);
    while let Ok(record) = Record::read(&mut reader) {
        let place = Place {
            segment: 1,
            offset: 0,
        };
        if record.is_some_and(|record| state.apply(&record, place).is_err()) {
            break;
        }
    }
    let mut built = State::default();
    state.checkpoint(|record| {
        let place = Place {
            segment: 2,
            offset: 0,
        };
        built
            .apply(record, place)
            .expect("a state that was built can be built again");
    });
}

/// Changes some of the files of a log in one of the ways in which files change.
fn mutate(fs: &SimFs, random: &mut Random) {
    let names = fs.names().expect("it lists");
    for _ in 0..1 + random.below(3) {
        let name = &names[random.below(names.len() as u64) as usize];
        let mut bytes = fs.content(name).expect("it is there");
        let at = random.below(bytes.len().max(1) as u64) as usize;
        match random.below(6) {
            0 => bytes.truncate(at),
            1 => bytes.extend((0..at).map(|_| random.next() as u8)),
            2 => {
                let other = &names[random.below(names.len() as u64) as usize];
                bytes = fs.content(other).expect("it is there");
            }
            3 => {
                let to = (at + 8 * random.below(20) as usize).min(bytes.len());
                bytes.drain(at..to);
            }
            _ => {
                for _ in 0..1 + random.below(8) {
                    let at = random.below(bytes.len().max(1) as u64) as usize;
                    if let Some(byte) = bytes.get_mut(at) {
                        *byte = random.next() as u8;
                    }
                }
            }
        }
        fs.overwrite(name, bytes);
    }
}

/// Reads all messages of all topics, until one can't be read.
fn read_messages(shared: &Arc<Shared>) {
    let ends: Vec<_> = {
        let state = shared.state.lock();
        let topics = state.topics().map(|(topic, state)| (topic, state.next_seq));
        topics.collect()
    };
    for (topic, end) in ends {
        let mut reader = TopicReader::new(Arc::clone(shared), topic, 1);
        while matches!(reader.read_frame(end, |_| {}), Ok(true)) {}
    }
}

#[test]
fn a_log_that_was_changed_is_opened_or_refused() {
    let (mut opened, mut refused) = (0, 0);
    for seed in 0..60 {
        let fs = SimFs::default();
        let program = run(seed, &fs);
        assert!(program.error.is_none());
        let mut random = Random(seed);
        for _ in 0..40 {
            // Before it is opened.
            let changed = fs.after_kill();
            mutate(&changed, &mut random);
            match recover(&changed, Path::new("data"), &mut drop) {
                Ok(recovered) => {
                    let writer = Writer::new(Arc::new(changed), recovered, 4_096);
                    read_messages(&writer.shared());
                    opened += 1;
                }
                Err(_) => refused += 1,
            }
            // While it is open.
            let changed = fs.after_kill();
            let recovered = recover(&changed, Path::new("data"), &mut drop).expect("it is whole");
            mutate(&changed, &mut random);
            let writer = Writer::new(Arc::new(changed), recovered, 4_096);
            read_messages(&writer.shared());
        }
    }
    assert!(
        opened > 0 && refused > 0,
        "{opened} opened, {refused} refused"
    );
}

/// Bytes with many zeros, small numbers and large ones: lengths and kinds of records.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![
        4 => 0_u8..16,
        1 => Just(0x80_u8),
        1 => Just(0xff_u8),
        2 => any::<u8>(),
    ];
    prop::collection::vec(byte, 0..300)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn arbitrary_bytes_are_read_or_refused(bytes in bytes()) {
        read_all_ways(&bytes);
    }

    #[test]
    fn a_segment_of_arbitrary_bytes_is_read_or_refused(
        bytes in bytes(),
        number in 1_u64..4,
        has_header in any::<bool>(),
    ) {
        let fs = SimFs::default();
        let recovered = recover(&fs, Path::new("data"), &mut drop).expect("a new one");
        let mut content = match has_header {
            true => SegmentHeader {
                store: recovered.store,
                number,
                before: frame::Link { lsn: 0, crc: 0 },
            }
            .encode(),
            false => Vec::new(),
        };
        content.extend_from_slice(&bytes);
        fs.overwrite(&crate::pure::log::header::segment_name(number), content);
        let _ = recover(&fs, Path::new("data"), &mut drop);
    }

    /// Records whose frame is whole, though nothing in them is.
    #[test]
    fn a_whole_frame_of_arbitrary_records_is_read_or_refused(bytes in bytes()) {
        let fs = SimFs::default();
        let recovered = recover(&fs, Path::new("data"), &mut drop).expect("a new one");
        let active = &recovered.active;
        let mut forged = frame::FrameBuffer::new();
        forged.record().extend_from_slice(&bytes);
        let (_, forged) = forged.seal(active.seed, active.last, 0);
        crate::log::fs::write_all(&*active.file, forged, active.length).expect("it is written");
        let _ = recover(&fs, Path::new("data"), &mut drop);
    }
}
