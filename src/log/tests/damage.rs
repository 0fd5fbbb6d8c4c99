//! A log that is not what was written: flipped bits, files that are cut, lost, swapped or another
//! store's.

use std::ops::Range;
use std::path::Path;

use crate::log::fs::Fs;
use crate::log::fs::sim::SimFs;
use crate::log::recover::{Opened, recover};
use crate::log::tests::Subject;
use crate::pure::log::frame::{FrameBuffer, Link};
use crate::pure::log::header::{SEGMENT_HEADER, STORE_FILE, SegmentHeader, seed, segment_name};
use crate::pure::log::state::State;
use crate::pure::log::walk::Walk;
use crate::types::error::store::StoreError;

/// A log of some small segments.
struct Recorded {
    fs: SimFs,
    store: u128,
    state: State,
    segments: u64,
}

impl Recorded {
    /// A log that was closed, with all of it synced.
    fn closed() -> Self {
        let recorded = Self::killed(&[(3, false), (2, true), (4, false), (1, true), (2, true)]);
        let subject = Subject::open_with(&recorded.fs, 400).expect("it opens");
        subject.log.close();
        Self::of(recorded.fs)
    }

    /// A log whose process was killed, after commits of so many messages, with a sync or without.
    fn killed(commits: &[(u64, bool)]) -> Self {
        let fs = SimFs::default();
        let mut subject = Subject::open_with(&fs, 400).expect("it opens");
        for (count, syncs) in commits {
            subject.publish(*count, *syncs, 30).expect("it is written");
        }
        Self::of(fs)
    }

    fn of(fs: SimFs) -> Self {
        let (state, opened, store) = open(&fs.after_kill()).expect("it is whole");
        assert_eq!(opened.torn, None);
        Self {
            fs,
            store,
            state,
            segments: opened.segments,
        }
    }

    fn content(&self, segment: u64) -> Vec<u8> {
        let content = self.fs.content(&segment_name(segment));
        content.expect("it is there")
    }

    /// Opens a copy of it in which a file has another content.
    fn open_with(&self, name: &str, bytes: Vec<u8>) -> Result<(State, Opened), StoreError> {
        let copy = self.fs.after_kill();
        copy.overwrite(name, bytes);
        open(&copy).map(|(state, opened, _)| (state, opened))
    }

    /// Returns the frames of a segment: where they lie, their place, and what they vouch for.
    fn frames(&self, segment: u64) -> Vec<(Range<usize>, Link, u64)> {
        let bytes = self.content(segment);
        let header = SegmentHeader::decode(&bytes).expect("it is whole");
        let walk = Walk::new(&bytes, seed(self.store, segment), header.before);
        walk.map(|(at, frame)| (at..at + frame.size(), frame.link, frame.synced))
            .collect()
    }
}

fn open(fs: &SimFs) -> Result<(State, Opened, u128), StoreError> {
    let recovered = recover(fs, Path::new("data"), &mut drop)?;
    Ok((recovered.state, recovered.opened, recovered.store))
}

fn flipped(bytes: &[u8], bit: usize) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[bit / 8] ^= 1 << (bit % 8);
    bytes
}

fn assert_refused<T: std::fmt::Debug>(opened: Result<T, StoreError>, what: &str) {
    match opened {
        Err(StoreError::Damaged { .. } | StoreError::Unnamed { .. }) => {}
        other => panic!("{what}: {other:?}"),
    }
}

/// Flips every bit of a log that was closed. It is refused, or nothing is lost.
pub(super) fn flip_everywhere() {
    let log = Recorded::closed();
    assert!(log.segments >= 3);
    let mut harmless = 0;
    for segment in 1..=log.segments {
        let name = segment_name(segment);
        let bytes = log.content(segment);
        for bit in 0..bytes.len() * 8 {
            match log.open_with(&name, flipped(&bytes, bit)) {
                Ok((state, _)) => {
                    assert_eq!(state, log.state, "bit {bit} of segment {segment}");
                    harmless += 1;
                }
                error => assert_refused(error, &name),
            }
        }
    }
    // Those of the last frame, which vouches for the others and has no records.
    assert!(harmless <= 8 * 40, "{harmless}");
    let bytes = log.fs.content(STORE_FILE).expect("it is there");
    for bit in 0..bytes.len() * 8 {
        assert_refused(log.open_with(STORE_FILE, flipped(&bytes, bit)), STORE_FILE);
    }
}

/// Flips every bit of the frames of a log that came to rest after a sync, and whose process was
/// killed.
pub(super) fn flip_at_rest() {
    let log = Recorded::killed(&[(3, true), (2, false), (1, true)]);
    for segment in 1..=log.segments {
        let bytes = log.content(segment);
        let frames = log.frames(segment);
        let (last, rest) = frames.split_last().expect("there are some");
        let is_last = segment == log.segments;
        for (at, ..) in rest.iter().chain((!is_last).then_some(last)) {
            for bit in at.start * 8..at.end * 8 {
                let opened = log.open_with(&segment_name(segment), flipped(&bytes, bit));
                assert_refused(opened, "it was synced");
            }
        }
    }
}

/// Replaces frames by others of the same place, as they may lie in a copy of the store that went
/// another way.
pub(super) fn replace_frames() {
    let one = Recorded::killed(&[(2, true)]);
    let ways = [30, 31].map(|size| {
        let fs = one.fs.after_kill();
        let mut subject = Subject::open_with(&fs, 4_000).expect("it opens");
        for _ in 0..3 {
            subject.publish(1, true, size).expect("it is written");
        }
        Recorded::of(fs)
    });
    let [one, other] = &ways;
    let segment = one.segments;
    let (frames, others) = (one.frames(segment), other.frames(segment));
    let mut replaced = 0;
    for ((at, link, _), (from, other_link, _)) in frames.iter().zip(&others).rev().skip(2) {
        if link != other_link && at == from {
            let mut bytes = one.content(segment);
            bytes[at.clone()].copy_from_slice(&other.content(segment)[from.clone()]);
            let opened = one.open_with(&segment_name(segment), bytes);
            assert_refused(opened, "a frame of another way");
            replaced += 1;
        }
    }
    assert!(replaced > 0);
}

/// Replaces segments by those of a copy of the store that went another way.
pub(super) fn replace_segments() {
    let one = Recorded::killed(&[(2, true)]);
    let ways = [30, 31].map(|size| {
        let fs = one.fs.after_kill();
        let mut subject = Subject::open_with(&fs, 400).expect("it opens");
        for _ in 0..6 {
            subject.publish(3, true, size).expect("it is written");
        }
        Recorded::of(fs)
    });
    let [one, other] = &ways;
    assert_eq!(one.segments, other.segments);
    for segment in 2..=one.segments {
        let opened = one.open_with(&segment_name(segment), other.content(segment));
        assert_refused(opened, "a segment of another way");
    }
}

#[test]
fn no_flipped_bit_of_a_closed_log_loses_anything_silently() {
    flip_everywhere();
}

#[test]
fn no_flipped_bit_of_a_log_at_rest_loses_anything_silently() {
    flip_at_rest();
}

/// A frame that no later one vouches for may be what a power cut left. So may it be damaged.
#[test]
fn after_a_kill_a_flipped_bit_is_seen_in_all_frames_but_those_that_nobody_vouches_for() {
    let commits = [(3, true), (2, false), (1, true), (2, false), (1, false)];
    let log = Recorded::killed(&commits);
    let last = log.segments;
    let frames = log.frames(last);
    let bytes = log.content(last);
    let mut unseen = 0;
    for (number, (at, link, _)) in frames.iter().enumerate() {
        let later = frames[number + 1..].iter();
        let vouched = later.map(|(_, _, synced)| *synced).max().unwrap_or(0);
        for bit in at.start * 8..at.end * 8 {
            let opened = log.open_with(&segment_name(last), flipped(&bytes, bit));
            if vouched >= link.lsn {
                assert_refused(opened, "a frame that is vouched for");
                continue;
            }
            let (state, opened) = opened.expect("it may be the work of a power cut");
            let torn = opened.torn.expect("it is cut");
            assert_eq!(torn.offset, at.start as u64);
            let before = log.open_with(&segment_name(last), bytes[..at.start].to_vec());
            assert_eq!(state, before.expect("it is whole").0);
            unseen += 1;
        }
    }
    assert!(unseen > 0);
}

/// Cuts the files of a log that was closed to every length.
pub(super) fn truncate_everywhere() {
    let log = Recorded::closed();
    for segment in 1..=log.segments {
        let name = segment_name(segment);
        let bytes = log.content(segment);
        for length in 0..bytes.len() {
            match log.open_with(&name, bytes[..length].to_vec()) {
                Ok((state, _)) => assert_eq!(state, log.state, "{name} cut at {length}"),
                error => assert_refused(error, &name),
            }
        }
    }
    let bytes = log.fs.content(STORE_FILE).expect("it is there");
    for length in 0..bytes.len() {
        let opened = log.open_with(STORE_FILE, bytes[..length].to_vec());
        assert_refused(opened, STORE_FILE);
    }
}

#[test]
fn no_truncation_of_a_closed_log_loses_anything_silently() {
    truncate_everywhere();
}

/// Loses each of the segments, or has it in the place of another.
pub(super) fn lose_segments() {
    let log = Recorded::closed();
    for segment in 1..=log.segments {
        let copy = log.fs.after_kill();
        copy.remove(&segment_name(segment)).expect("it is there");
        assert_refused(open(&copy), &format!("without segment {segment}"));
        for other in (1..=log.segments + 1).filter(|other| *other != segment) {
            let opened = log.open_with(&segment_name(other), log.content(segment));
            assert_refused(opened, &format!("segment {segment} as {other}"));
        }
    }
    let copy = log.fs.after_kill();
    copy.remove(STORE_FILE).expect("it is there");
    assert_refused(open(&copy), "without a name");
}

#[test]
fn a_lost_or_moved_segment_is_refused() {
    lose_segments();
}

#[test]
fn a_segment_of_another_store_is_refused() {
    let (log, other) = (Recorded::closed(), Recorded::closed());
    assert_ne!(log.store, other.store);
    for segment in 1..=log.segments {
        for from in 1..=other.segments {
            let opened = log.open_with(&segment_name(segment), other.content(from));
            assert_refused(opened, "a segment of another store");
        }
    }
    let opened = log.open_with(STORE_FILE, other.fs.content(STORE_FILE).expect("it is"));
    assert_refused(opened, "the name of another store");
}

#[test]
fn garbage_or_zeros_behind_the_last_segment_are_cut_and_refused_behind_others() {
    let log = Recorded::closed();
    let stranger = Recorded::closed().content(1);
    for (garbage, is_torn) in [
        (vec![0; 700], false),
        (vec![0xff; 700], true),
        (stranger, true),
    ] {
        for segment in 1..=log.segments {
            let name = segment_name(segment);
            let mut bytes = log.content(segment);
            bytes.extend_from_slice(&garbage);
            let opened = log.open_with(&name, bytes);
            if segment < log.segments {
                assert_refused(opened, "behind a segment that is closed");
                continue;
            }
            let (state, opened) = opened.expect("all is there");
            assert_eq!(state, log.state);
            assert_eq!(opened.torn.is_some(), is_torn);
        }
    }
}

/// Frames that vouch, in a payload, are no frames of the log.
#[test]
fn a_payload_that_holds_frames_is_a_payload() {
    let log = Recorded::closed();
    let (last, bytes) = (log.segments, log.content(log.segments));
    let mut subject = Subject::open_with(&log.fs, 1 << 20).expect("it opens");
    let mut forged = FrameBuffer::new();
    let (_, forged) = forged.seal(0, Link { lsn: 900, crc: 0 }, 900);
    for payload in [&bytes[SEGMENT_HEADER..], forged] {
        for shift in 0..8 {
            let mut shifted = vec![0; shift];
            shifted.extend_from_slice(payload);
            subject.publish_payload(&shifted);
        }
    }
    let whole = log.content(last);
    let log = Recorded::of(log.fs);
    // The last frame is gone, and the payloads in the others vouch for nothing.
    let length = log.frames(last).last().expect("there are some").0.start;
    let mut torn = whole[..length].to_vec();
    torn.extend_from_slice(&[1; 64]);
    let opened = log.open_with(&segment_name(last), torn);
    assert!(opened.is_ok(), "{opened:?}");
}
