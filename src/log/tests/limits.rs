//! The bounds of a log: what a frame takes, what is kept for a log that takes no more, and what a
//! full disk allows.

use std::path::Path;

use crate::log::commit::{Due, Log};
use crate::log::cursor::{Cursor, NewLetter};
use crate::log::fs::sim::{FaultKind, Faults, SimFs};
use crate::log::inspect::records::count_in;
use crate::log::inspect::{Health, inspect_in};
use crate::log::recover::recover;
use crate::log::tests::{Subject, commit};
use crate::log::writer::Writer;
use crate::pure::log::format::frame::{FULL_FRAME, FrameBuffer, MOST_RECORDS};
use crate::pure::log::format::header::segment_name;
use crate::pure::log::record::Record;
use crate::pure::log::retention::Limits;
use crate::sync::Arc;
use crate::types::error::store::StoreError;

/// A log with a topic of so many messages, and the cursor of a subscription to it.
fn with_cursor(fs: &SimFs, messages: u64) -> (Arc<Log>, Arc<Cursor>) {
    let mut subject = Subject::open(fs).expect("it opens");
    let subscription = Record::Subscription {
        subscription: 0,
        topic: 0,
        next: 1,
        name: "billing",
    };
    let put = |frame: &mut FrameBuffer| subscription.put(frame.record());
    commit(&subject.log, true, put).expect("it is written");
    subject.publish(messages, true, 1).expect("it is written");
    let log = Arc::new(subject.log);
    let cursor = Cursor::new(Arc::clone(&log), 0);
    (log, cursor)
}

fn letter(seq: u64, error: &str) -> NewLetter {
    NewLetter {
        seq,
        attempts: 1,
        time_ms: 0,
        reason: 0,
        error: error.into(),
    }
}

#[test]
fn a_store_that_takes_no_more_keeps_no_news_of_its_cursors() {
    for closes in [false, true] {
        let fs = SimFs::default();
        let (log, cursor) = with_cursor(&fs, 300);
        if closes {
            log.close();
        } else {
            fs.fail(Faults {
                at: Some(1),
                kind: FaultKind::Error,
                lies: false,
            });
            // These are in the frame that is refused.
            cursor.done([1].into_iter());
            cursor.letter(letter(3, "down"));
            log.flush().expect_err("the disk fails");
        }
        for seq in 50..150 {
            cursor.done([2 * seq].into_iter());
            cursor.letter(letter(2 * seq + 1, "down"));
        }
        assert_eq!(cursor.untold(), 0);
    }
}

#[test]
fn letters_that_one_frame_has_no_room_for_go_with_the_next() {
    let fs = SimFs::default();
    let (log, cursor) = with_cursor(&fs, 40);
    let before = Subject::open(&fs.after_kill()).expect("it opens").opened;
    for seq in 1..=30 {
        cursor.letter(letter(seq, &"x".repeat(100)));
    }
    // Its end is told after it.
    cursor.done([30].into_iter());
    log.write_out().expect("it is written");
    assert_eq!(cursor.untold(), 0);
    let again = Subject::open(&fs.after_kill()).expect("it opens");
    let frames = again.opened.frames - before.frames;
    let least = (30 * 100 / (FULL_FRAME + 200)) as u64;
    assert!((least..40).contains(&frames), "{frames} frames");
    let state = again.log.shared.state.lock();
    let one = state.subscription(0).expect("it is there");
    assert_eq!(one.letters.len(), 29);
    assert_eq!(one.done.next(), 31);
}

#[test]
fn a_long_error_is_stored_up_to_a_bound() {
    let fs = SimFs::default();
    let (log, cursor) = with_cursor(&fs, 1);
    cursor.letter(letter(1, &"é".repeat(1 << 20)));
    log.write_out().expect("it is written");
    let again = Subject::open(&fs.after_kill()).expect("it opens");
    let state = again.log.shared.state.lock();
    let letters = &state.subscription(0).expect("it is there").letters;
    assert_eq!(&*letters[&1].error, "é".repeat(32 << 10));
}

#[test]
fn a_commit_that_no_frame_takes_is_refused_before_anything_is_written() {
    let fs = SimFs::default();
    let mut subject = Subject::open(&fs).expect("it opens");
    subject.publish(3, true, 10).expect("it is written");
    fs.record();
    let put = |frame: &mut FrameBuffer| {
        frame.record().resize(MOST_RECORDS + 64, 0);
    };
    let refused = commit(&subject.log, true, put).expect_err("it is too large");
    let most = MOST_RECORDS as u64;
    assert!(
        matches!(refused, StoreError::TooLarge { most: told, bytes } if told == most && bytes > most),
        "{refused}"
    );
    assert_eq!(fs.changes(), 0);
    let again = Subject::open(&fs.after_kill()).expect("it opens");
    assert_eq!(again.messages().expect("whole"), [1, 2, 3]);
}

/// Each of them has its message with it when retention takes that.
#[test]
fn letters_that_outlive_their_messages_fill_several_frames() {
    let fs = SimFs::default();
    let (log, cursor) = with_cursor(&fs, 40);
    for seq in 1..=40 {
        cursor.letter(letter(seq, "down"));
    }
    log.write_out().expect("it is written");
    drop((log, cursor));
    let disk = Arc::new(fs.after_kill());
    let recovered = recover(&*disk, Path::new("data"), &mut drop).expect("it opens");
    let mut writer = Writer::new(Arc::clone(&disk) as _, recovered, 256);
    let bytes = Some(0);
    let age_ms = None;
    writer.limit(0, Limits { bytes, age_ms });
    let mut log = Log::new(writer, None);
    for seq in 41..=60 {
        let publish = Record::Publish {
            topic: 0,
            seq,
            time_ms: seq,
            message: &[0; 300],
        };
        commit(&log, true, |frame| publish.put(frame.record())).expect("it is written");
    }
    for _ in 0..2 {
        let state = log.shared.state.lock();
        assert!(state.topic(0).expect("it is").first_seq > 40);
        let letters = &state.subscription(0).expect("it is there").letters;
        assert_eq!(letters.len(), 40);
        assert!(letters.values().all(|letter| !letter.message.is_empty()));
        drop(state);
        log = Subject::open(&disk.after_kill()).expect("it opens").log;
    }
}

#[test]
fn records_that_cannot_follow_end_the_log_and_are_not_in_it() {
    let fs = SimFs::default();
    let mut subject = Subject::open(&fs).expect("it opens");
    subject.publish(3, true, 10).expect("it is written");
    subject.log.flush().expect("it is synced");
    let before = fs.content(&segment_name(1));
    let stray = Record::Trim {
        topic: 7,
        first_seq: 1,
    };
    let put = |frame: &mut FrameBuffer| stray.put(frame.record());
    let refused = commit(&subject.log, true, put).expect_err("there is no such topic");
    assert!(
        matches!(refused, StoreError::Inconsistent { .. }),
        "{refused}"
    );
    assert_eq!(subject.log.failure(), Some(refused.clone()));
    let again = subject.publish(1, true, 10).expect_err("it has failed");
    assert_eq!(again, refused);
    assert!(before.is_some());
    // A file grows ahead of its frames, by zeros.
    let without_zeros = |content: Option<Vec<u8>>| {
        let content = content.unwrap_or_default();
        let end = content.iter().rposition(|byte| *byte != 0);
        content[..end.map_or(0, |last| last + 1)].to_vec()
    };
    let after = fs.content(&segment_name(1));
    assert_eq!(without_zeros(after), without_zeros(before));
    let again = Subject::open(&fs.after_kill()).expect("it opens");
    assert_eq!(again.messages().expect("whole"), [1, 2, 3]);
}

#[test]
fn a_store_on_a_full_disk_says_so_and_can_be_looked_into() {
    let mut refusals = 0;
    for at in 1..60 {
        let fs = SimFs::default();
        let mut subject = Subject::open_with(&fs, 300).expect("it opens");
        subject.publish(3, true, 10).expect("it is written");
        subject.publish(2, false, 200).expect("it is written");
        let fs = fs.after_kill();
        fs.fail(Faults {
            at: Some(at),
            kind: FaultKind::NoSpace,
            lies: false,
        });
        if let Err(refused) = Subject::open_with(&fs, 300).map(drop) {
            assert!(matches!(refused, StoreError::Full { .. }), "{refused}");
            assert!(refused.to_string().contains("Make room"));
            refusals += 1;
        }
        fs.record();
        let found = inspect_in(&fs, Path::new("data")).expect("it needs no room");
        assert_ne!(found.segments.len(), 0);
        assert!(!matches!(found.health, Health::Damaged(_)));
        assert_eq!(found.topics[0].messages, 5);
        let records = count_in(&fs, Path::new("data")).expect("it needs no room");
        assert!(records >= 6, "{records}");
        assert_eq!(fs.changes(), 0, "it changes nothing");
        // With room it is as it was.
        fs.fail(Faults::default());
        let again = Subject::open_with(&fs, 300).expect("there is room");
        assert_eq!(again.messages().expect("whole"), [1, 2, 3, 4, 5]);
    }
    assert!(refusals > 0, "opening writes something");
}

#[test]
fn a_group_takes_no_more_than_a_frame_and_one_commit() {
    let fs = SimFs::default();
    let mut subject = Subject::open(&fs).expect("it opens");
    subject.publish(1, true, 10).expect("it is written");
    let delayed = Record::Delayed {
        topic: 0,
        id: 1,
        time_ms: 0,
        due_ms: 0,
        message: &[0; 100],
    };
    let mut sizes = Vec::new();
    for _ in 0..50 {
        let put = |frame: &mut FrameBuffer| {
            delayed.put(frame.record());
            sizes.push(frame.len());
        };
        let submitted = subject.log.submit(false, Due::Waits, put, None);
        assert!(submitted.is_ok());
    }
    assert!(
        sizes.iter().all(|size| *size < FULL_FRAME + 120),
        "{sizes:?}"
    );
}
