//! A recorded store whose files were changed, or are any bytes at all: it is opened or refused,
//! its messages are read or refused, and salvage opens what was refused.
//!
//! A frame with any records can be sealed behind the others, so that bytes come past the checksums.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use arbitrary::{Arbitrary, Unstructured};
use millstream::store::{self, Durability, Health, Raw, Start, Store, StoreError};
use millstream::{Broker, ManualClock, Nack, Topic};

use super::{check_books, check_text};

/// The recorded files. [`record`] makes them.
const FILES: [(&str, &[u8]); 4] = [
    ("store", include_bytes!("../recorded/store")),
    (
        "00000000000000000001.seg",
        include_bytes!("../recorded/00000000000000000001.seg"),
    ),
    (
        "00000000000000000002.seg",
        include_bytes!("../recorded/00000000000000000002.seg"),
    ),
    (
        "00000000000000000003.seg",
        include_bytes!("../recorded/00000000000000000003.seg"),
    ),
];
const TOPICS: [&str; 2] = ["orders", "notes"];
/// Files take no more than these bytes each, so that a run is quick.
const MOST: usize = 1 << 16;

#[derive(Debug, Arbitrary)]
enum Change {
    /// Instead of a file. Its checksums may be made to hold.
    Replace {
        file: u8,
        bytes: Vec<u8>,
        seals: bool,
    },
    Overwrite {
        file: u8,
        at: u16,
        bytes: Vec<u8>,
    },
    Flip {
        file: u8,
        at: u16,
        bit: u8,
    },
    Truncate {
        file: u8,
        to: u16,
    },
    Append {
        file: u8,
        bytes: Vec<u8>,
    },
    Remove {
        file: u8,
    },
    /// One file in the place of another.
    Copy {
        from: u8,
        to: u8,
    },
    /// A frame with these records, behind the last one.
    Forge {
        records: Vec<u8>,
        count: u8,
        synced: u8,
    },
}

/// The files of a store in memory.
struct Files(Vec<(&'static str, Option<Vec<u8>>)>);

impl Files {
    fn recorded() -> Self {
        let files = FILES.iter();
        Self(
            files
                .map(|(name, bytes)| (*name, Some(bytes.to_vec())))
                .collect(),
        )
    }

    fn at(&mut self, file: u8) -> &mut Option<Vec<u8>> {
        let at = usize::from(file) % self.0.len();
        &mut self.0[at].1
    }

    fn change(&mut self, change: Change) {
        match change {
            Change::Replace { file, bytes, seals } => {
                let bytes = match seals {
                    true => [&bytes[..], &crc(0, &[&bytes]).to_le_bytes()[..]].concat(),
                    false => bytes,
                };
                *self.at(file) = Some(bytes);
            }
            Change::Overwrite { file, at, bytes } => {
                for (byte, new) in self
                    .at(file)
                    .iter_mut()
                    .flatten()
                    .skip(at.into())
                    .zip(bytes)
                {
                    *byte = new;
                }
            }
            Change::Flip { file, at, bit } => {
                let byte = self.at(file).iter_mut().flatten().nth(at.into());
                byte.into_iter().for_each(|byte| *byte ^= 1 << (bit % 8));
            }
            Change::Truncate { file, to } => {
                let file = self.at(file).iter_mut();
                file.for_each(|bytes| bytes.truncate(to.into()));
            }
            Change::Append { file, bytes } => {
                let file = self.at(file).iter_mut();
                file.for_each(|other| other.extend_from_slice(&bytes));
            }
            Change::Remove { file } => *self.at(file) = None,
            Change::Copy { from, to } => *self.at(to) = self.at(from).clone(),
            Change::Forge {
                records,
                count,
                synced,
            } => self.forge(&records, count, synced),
        }
        for bytes in self.0.iter_mut().filter_map(|(_, bytes)| bytes.as_mut()) {
            bytes.truncate(MOST);
        }
    }

    /// Seals a frame behind the last whole one of the last segment. The layout is that of
    /// `src/pure/log/format/`, said once more.
    fn forge(&mut self, records: &[u8], count: u8, synced: u8) {
        let Some(segment) = self.0.last_mut().and_then(|(_, bytes)| bytes.as_mut()) else {
            return;
        };
        let Some(head) = segment.first_chunk::<56>() else {
            return;
        };
        // The seed of checksums: the number of the store, and that of the segment.
        let seed = crc(0, &[&head[12..36]]);
        let number = |bytes: &[u8]| {
            let mut eight = [0; 8];
            eight[..bytes.len()].copy_from_slice(bytes);
            u64::from_le_bytes(eight)
        };
        let (mut lsn, mut chain) = (number(&head[36..44]), number(&head[44..48]) as u32);
        let mut end = head.len();
        while let Some(frame) = segment.get(end..end + 32) {
            let size = 32 + (number(&frame[..4]) as usize).next_multiple_of(8);
            let is_whole = number(&frame[8..16]) == lsn + 1 && end + size <= segment.len();
            if !is_whole {
                break;
            }
            (lsn, chain) = (lsn + 1, number(&frame[4..8]) as u32);
            end += size;
        }
        segment.truncate(end);
        let mut frame = (records.len() as u32).to_le_bytes().to_vec();
        frame.extend_from_slice(&[0; 4]);
        frame.extend_from_slice(&(lsn + 1).to_le_bytes());
        frame.extend_from_slice(&(lsn - u64::from(synced).min(lsn)).to_le_bytes());
        frame.extend_from_slice(&chain.to_le_bytes());
        frame.extend_from_slice(&u32::from(count).to_le_bytes());
        frame.extend_from_slice(records);
        frame.resize(frame.len().next_multiple_of(8), 0);
        let sum = crc(seed, &[&frame[..4], &frame[8..]]);
        frame[4..8].copy_from_slice(&sum.to_le_bytes());
        segment.extend_from_slice(&frame);
    }

    /// How many bytes there are.
    fn size(&self) -> usize {
        let bytes = self.0.iter().filter_map(|(_, bytes)| bytes.as_ref());
        bytes.map(Vec::len).sum()
    }
}

fn crc(seed: u32, parts: &[&[u8]]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(seed);
    parts.iter().for_each(|part| hasher.update(part));
    hasher.finalize()
}

/// A directory of a run's own, which goes with it. It is in memory if it can be.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("millstream-fuzz-{}-{number}", std::process::id());
        let memory = Path::new("/dev/shm");
        let parent = match memory.is_dir() {
            true => memory.to_owned(),
            false => std::env::temp_dir(),
        };
        let directory = Self(parent.join(name));
        fs::create_dir_all(&directory.0).expect("a directory of our own");
        directory
    }

    fn write(&self, files: &Files) {
        for (name, bytes) in &files.0 {
            if let Some(bytes) = bytes {
                fs::write(self.0.join(name), bytes).expect("there is room");
            }
        }
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

pub fn fuzz(bytes: &[u8]) {
    let Ok(changes) = Vec::<Change>::arbitrary_take_rest(Unstructured::new(bytes)) else {
        return;
    };
    let mut files = Files::recorded();
    changes.into_iter().for_each(|change| files.change(change));
    let directory = Directory::new();
    directory.write(&files);
    let inspected = store::inspect(&directory.0);
    match Store::open(&directory.0) {
        Ok(store) => {
            if let Ok(inspection) = inspected {
                let is_damaged = matches!(inspection.health, Health::Damaged(_));
                assert!(!is_damaged, "it opens what an inspection calls damaged");
            }
            use_it(store, files.size());
        }
        Err(error) => {
            check_text(&error);
            if let Ok(inspection) = inspected {
                let is_damaged = matches!(inspection.health, Health::Damaged(_));
                assert!(is_damaged, "{error}, though an inspection finds it sound");
            }
            if error.is_damaged() {
                salvage(&directory, files.size());
            }
            return;
        }
    }
    // What was opened was made whole.
    let again = Store::open(&directory.0).expect("it was opened before");
    assert_eq!(again.opened().torn, None);
}

fn salvage(directory: &Directory, size: usize) {
    match Store::builder(&directory.0).salvage().open() {
        Ok(store) => {
            let report = store.opened().salvage.as_ref().expect("it was damaged");
            report.to_string().lines().for_each(|line| {
                assert!(!line.contains(char::is_control), "{line:?}");
            });
            use_it(store, size);
            Store::open(&directory.0).expect("it was salvaged");
        }
        Err(error) => check_text(error),
    }
}

fn broker(store: Store) -> Broker {
    let clock = ManualClock::new();
    let builder = Broker::builder().workers(0).manual_clock(&clock).seed(0);
    builder.store(store).build().expect("it starts no threads")
}

fn open(broker: &Broker, name: &str) -> Option<Topic<Vec<u8>>> {
    let topic = broker.topic::<Vec<u8>>(name).durable(Raw);
    let topic = topic.durability(Durability::Written).open();
    topic.inspect_err(|error| check_text(error)).ok()
}

/// Reads everything, and goes on with it.
fn use_it(store: Store, size: usize) {
    let broker = broker(store);
    for name in TOPICS {
        let Some(topic) = open(&broker, name) else {
            continue;
        };
        read(&topic, size);
        let billing = topic.subscription("billing").durable();
        let billing = billing.from(Start::Earliest).subscribe(|_| Ok(()));
        let billing = billing.inspect_err(|error| check_text(error));
        match topic.publish(b"another".to_vec()) {
            Ok(receipt) => {
                let last = topic.read(Start::Seq(receipt.id().get()));
                let mut last = last.expect("it was just stored");
                let record = last.next().expect("one").expect("it is whole");
                assert_eq!(record.message.payload(), b"another");
            }
            Err(error) => check_text(error),
        }
        broker.run_until_idle();
        for letter in topic.dead_letters().list() {
            assert!(letter.payload().len() <= size);
        }
        drop(billing);
    }
    check_books(&broker);
}

/// Nothing is read that isn't there.
fn read(topic: &Topic<Vec<u8>>, size: usize) {
    let records = match topic.read(Start::Earliest) {
        Ok(records) => records,
        Err(error) => return check_text(error),
    };
    let mut total = 0;
    for record in records {
        match record {
            Ok(record) => total += record.message.payload().len() + 1,
            Err(error) => {
                check_text(&error);
                if !matches!(error, StoreError::Codec(_)) {
                    break;
                }
                total += 1;
            }
        }
        assert!(total <= 2 * size, "more is read than there is");
    }
}

/// Records the files. It is for a change of the format.
#[allow(
    dead_code,
    reason = "a test of its own calls it, and the fuzzer doesn't"
)]
pub fn record(into: &Path) {
    let directory = Directory::new();
    let store = Store::builder(&directory.0).segment_size(4 << 10).open();
    let broker = broker(store.expect("it opens"));
    for name in TOPICS {
        let topic = open(&broker, name).expect("it opens");
        let billing =
            topic
                .subscription("billing")
                .durable()
                .subscribe(|one| match one.id().get() % 8 {
                    3 => Err(Nack::dead_letter("no such account")),
                    7 => Err(Nack::retry("not now")),
                    _ => Ok(()),
                });
        let billing = billing.expect("subscribed");
        for number in 0..10_u8 {
            let message = topic.message(vec![number; 150]).key("k").header("h", "v");
            message.publish().expect("stored");
            let batch = (0..4_u8).map(|at| vec![at; usize::from(at) * 20]);
            topic.publish_batch(batch).expect("stored");
            broker.run_until_idle();
        }
        drop(billing);
    }
    drop(broker);
    fs::create_dir_all(into).expect("a directory of ours");
    for (name, _) in FILES {
        fs::copy(directory.0.join(name), into.join(name)).expect("so many segments");
    }
    let files = fs::read_dir(&directory.0).expect("it is there").count();
    assert_eq!(files, FILES.len() + 1, "these, and the lock");
}
