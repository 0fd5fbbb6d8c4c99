//! The tool on directories with stores, one of which is really damaged.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Parser;
use millstream::store::{Store, StoreError};

use crate::{Args, State, run, text};

/// A directory on a real disk, for one test.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let program = std::env::current_exe().expect("it runs");
        let target = program
            .ancestors()
            .nth(2)
            .expect("it is in a target directory");
        let path = target.join("log-tool").join(name);
        let _ = fs::remove_dir_all(&path);
        Self(path)
    }

    /// All files with their content.
    fn files(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let entries = fs::read_dir(&self.0).expect("it is there");
        let paths = entries.map(|entry| entry.expect("readable").path());
        let mut files: Vec<_> = paths
            .map(|path| (path.clone(), fs::read(path).expect("readable")))
            .collect();
        files.sort();
        files
    }

    fn run(&self, verb: &str, options: &[&str]) -> (State, String) {
        let directory = self.0.to_str().expect("it is text");
        let words = ["log", verb, directory];
        let args = Args::try_parse_from(words.iter().chain(options)).expect("they are options");
        let mut out = Vec::new();
        let state = run(&args.verb, &mut out).expect("there is a store");
        (state, String::from_utf8(out).expect("it is text"))
    }

    fn refused(&self, verb: &str) -> StoreError {
        let directory = self.0.to_str().expect("it is text");
        let args = Args::try_parse_from(["log", verb, directory]).expect("they are options");
        let error = run(&args.verb, &mut Vec::new()).expect_err("it is refused");
        *error.downcast().expect("it is of the store")
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A segment that is written by hand, so that a change of the format shows here.
struct Segment {
    path: PathBuf,
    bytes: Vec<u8>,
    seed: u32,
    lsn: u64,
    crc: u32,
    /// Where the frames start.
    frames: Vec<usize>,
}

const HEADER: usize = 56;

impl Segment {
    fn open(directory: &Path) -> Self {
        let path = directory.join("00000000000000000001.seg");
        let bytes = fs::read(&path).expect("it is there");
        // The store's number follows the magic and the version, and the segment's follows it.
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&bytes[12..36]);
        let mut segment = Self {
            path,
            seed: hasher.finalize(),
            bytes,
            lsn: 0,
            crc: 0,
            frames: Vec::new(),
        };
        let mut at = HEADER;
        while at < segment.bytes.len() {
            segment.frames.push(at);
            let number = |from: usize| {
                let bytes = segment.bytes[at + from..][..4].try_into();
                u32::from_le_bytes(bytes.expect("four"))
            };
            (segment.lsn, segment.crc) = (number(8).into(), number(4));
            at += 32 + number(0).next_multiple_of(8) as usize;
        }
        segment
    }

    /// Appends a frame that says that everything before it is synced.
    fn append(&mut self, records: &[Vec<u8>]) {
        let mut content = Vec::new();
        for record in records {
            let length = u8::try_from(record.len()).expect("it is short");
            content.push(length);
            content.extend_from_slice(record);
        }
        let length = content.len() as u32;
        content.resize(content.len().next_multiple_of(8), 0);
        let mut rest = (self.lsn + 1).to_le_bytes().to_vec();
        rest.extend_from_slice(&self.lsn.to_le_bytes());
        rest.extend_from_slice(&self.crc.to_le_bytes());
        rest.extend_from_slice(&(records.len() as u32).to_le_bytes());
        rest.extend_from_slice(&content);
        let mut hasher = crc32fast::Hasher::new_with_initial(self.seed);
        hasher.update(&length.to_le_bytes());
        hasher.update(&rest);
        self.crc = hasher.finalize();
        self.lsn += 1;
        self.frames.push(self.bytes.len());
        self.bytes.extend_from_slice(&length.to_le_bytes());
        self.bytes.extend_from_slice(&self.crc.to_le_bytes());
        self.bytes.extend_from_slice(&rest);
        fs::write(&self.path, &self.bytes).expect("it is writable");
    }

    /// Damages a byte of a frame's records.
    fn damage(&mut self, frame: usize) {
        self.bytes[self.frames[frame] + 40] ^= 1;
        fs::write(&self.path, &self.bytes).expect("it is writable");
    }
}

fn publish(seq: u8, payload: &str) -> Vec<u8> {
    // The kind, topic 0, the number, the time, and flags for a key.
    let mut record = vec![3, 0, seq, 100, 2, 3];
    record.extend_from_slice(b"ada");
    record.extend_from_slice(payload.as_bytes());
    record
}

/// A store with a topic of four messages, of which its subscription is done with two.
fn store(name: &str) -> (Directory, Segment) {
    let directory = Directory::new(name);
    drop(Store::open(&directory.0).expect("it is made"));
    let mut segment = Segment::open(&directory.0);
    let topic = [&[1, 0, 1, 1][..], b"orders"].concat();
    let subscription = [&[2, 0, 0, 1][..], b"billing"].concat();
    segment.append(&[topic, subscription]);
    for seq in 1..=4 {
        segment.append(&[publish(seq, &format!("order\n{seq}"))]);
    }
    // Done with one from 2 on, which is 2, and with one more after a gap of one.
    segment.append(&[vec![4, 0, 2, 0, 1, 1, 1]]);
    segment.append(&[]);
    (directory, segment)
}

/// Holds that a text has these lines, whatever is between.
fn assert_lines(text: &str, lines: &[&str]) {
    let mut rest = text.lines();
    for line in lines {
        assert!(rest.any(|it| it == *line), "no `{line}` in\n{text}");
    }
}

#[test]
fn a_whole_store_is_told_as_it_is_and_not_changed() {
    let (directory, _) = store("whole");
    let before = directory.files();
    let (state, text) = directory.run("verify", &[]);
    assert_eq!(state, State::Whole);
    assert!(text.ends_with("\nOK\n"), "{text}");
    let (state, text) = directory.run("stat", &[]);
    assert_eq!(state, State::Whole);
    assert_lines(
        &text,
        &[
            "OK",
            "topic   first  next  messages  bytes  delayed",
            "orders      1     5         4     48        0",
            "subscription  topic   cursor  done above  failed  letters  lag",
            "billing       orders       1           2       0        0    2",
        ],
    );
    let (state, text) = directory.run("dump", &["--topic", "orders", "--from", "3"]);
    assert_eq!(state, State::Whole);
    let told: Vec<_> = text
        .lines()
        .map(|line| &line[line.find("orders").expect("it")..])
        .collect();
    assert_eq!(
        told,
        [
            r"orders  publish 3 at 1970-01-01T00:00:00.100Z, key ada: order\n3",
            r"orders  publish 4 at 1970-01-01T00:00:00.100Z, key ada: order\n4",
            "orders/billing  done 2, 4",
        ]
    );
    let options = ["--until", "2", "--payload", "hex", "--bytes", "3"];
    let (_, text) = directory.run("dump", &options);
    assert!(text.ends_with("key ada: 6f7264… and 4 bytes\n"), "{text}");
    assert_eq!(directory.files(), before);
}

#[test]
fn a_torn_tail_is_told_from_damage() {
    let (directory, segment) = store("torn");
    let mut bytes = segment.bytes.clone();
    let whole = bytes.len();
    bytes.extend_from_slice(b"half a frame");
    fs::write(&segment.path, bytes).expect("it is writable");
    let before = directory.files();
    let (state, text) = directory.run("verify", &[]);
    assert_eq!(state, State::Torn);
    assert_eq!(directory.run("dump", &[]).0, State::Torn);
    assert!(
        text.contains(&format!("cuts segment 1 at byte {whole}")),
        "{text}"
    );
    assert_eq!(directory.files(), before);
}

#[test]
fn a_damaged_store_is_salvaged_with_all_that_is_left() {
    let (directory, mut segment) = store("damaged");
    // The second message.
    segment.damage(segment.frames.len() - 5);
    let before = directory.files();
    assert!(matches!(
        Store::open(&directory.0),
        Err(StoreError::Damaged { .. })
    ));
    let (state, text) = directory.run("verify", &[]);
    assert_eq!(state, State::Damaged);
    assert_lines(
        &text,
        &[
            "DAMAGED: only a salvage opens the store",
            "topic `orders`: 1 message lost: 2",
            "subscription `billing` of `orders`: its cursor may be behind",
        ],
    );
    assert_eq!(directory.run("dump", &[]).0, State::Damaged);
    assert_eq!(directory.files(), before);

    let (state, text) = directory.run("salvage", &[]);
    assert_eq!(state, State::Whole);
    assert_lines(
        &text,
        &[
            "topic `orders`: 1 message lost: 2",
            "the damaged files are kept as:",
            "  damaged-1.00000000000000000001.seg",
        ],
    );
    let kept = directory.0.join("damaged-1.00000000000000000001.seg");
    assert_eq!(fs::read(kept).expect("it is kept"), segment.bytes);
    assert_eq!(directory.run("verify", &[]).0, State::Whole);
    let (_, text) = directory.run("stat", &[]);
    assert_lines(
        &text,
        &[
            "orders      1     5         3     36        0",
            "billing       orders       1           2       0        0    2",
        ],
    );
    let (_, text) = directory.run("salvage", &[]);
    assert_eq!(text, "nothing is damaged\n");
}

#[test]
fn an_open_store_and_a_missing_one_are_refused() {
    let directory = Directory::new("open");
    for verb in ["verify", "stat", "dump", "salvage"] {
        let missing = directory.refused(verb);
        assert!(matches!(missing, StoreError::Io { .. }), "{missing}");
        assert!(!directory.0.exists(), "it was made");
    }
    let store = Store::open(&directory.0).expect("it is made");
    for verb in ["verify", "stat", "dump", "salvage"] {
        let refused = directory.refused(verb);
        assert!(matches!(refused, StoreError::InUse { .. }), "{refused}");
    }
    drop(store);
    assert_eq!(directory.run("verify", &[]).0, State::Whole);
}

#[test]
fn times_are_those_of_the_calendar() {
    for (ms, time) in [
        (0, "1970-01-01T00:00:00.000Z"),
        (951_782_400_000, "2000-02-29T00:00:00.000Z"),
        (1_796_083_199_999, "2026-11-30T23:59:59.999Z"),
    ] {
        assert_eq!(text::time(ms), time);
    }
}
