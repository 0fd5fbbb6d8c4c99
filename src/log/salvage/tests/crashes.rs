//! Salvages that are interrupted: the power goes, the disk fails, or keeps something else.

use super::*;
use crate::log::fs::LogFile;
use crate::log::fs::sim::{FaultKind, Faults};

/// How many messages there are where a test salvages often.
const FEW_STEPS: u64 = 24;

/// The segment that is damaged there.
const DAMAGED: u64 = 2;

/// Salvages a damaged log on a disk that fails at an operation of the salvage. Returns `None` if the
/// salvage has no more operations.
fn fail_at(operation: u64, kind: FaultKind) -> Option<(SimFs, Messages)> {
    let counted = SimFs::default();
    let (_, messages) = build(&counted, FEW_STEPS).expect("it doesn't fail");
    let at = counted.operations() + operation;
    let faults = Faults {
        at: Some(at),
        kind,
        lies: false,
    };
    let fs = SimFs::with(faults);
    build(&fs, FEW_STEPS).expect("it fails later");
    let frames = frames(&counted, DAMAGED);
    let with_message = frames.iter().find(|(_, held)| !held.is_empty());
    damage(&fs, DAMAGED, &with_message.expect("there is one").0);
    let salvaged = open_log(&fs, true);
    drop(salvaged);
    (fs.operations() >= at).then_some((fs, messages))
}

/// The store after a crash is the damaged one, which is refused, or the salvaged one.
fn assert_damaged_or_salvaged(fs: &SimFs, messages: &Messages) -> bool {
    let looked = inspect_in(fs, directory()).expect("it can be read");
    let is_salvaged = match open_log(fs, false) {
        Err(StoreError::Damaged {
            segment: DAMAGED, ..
        }) => false,
        Ok(opened) => {
            assert_eq!(opened.opened.torn, None);
            true
        }
        Err(other) => panic!("{other}"),
    };
    assert_eq!(looked.health == Health::Whole, is_salvaged);
    let names = list(fs, directory()).expect("it is on");
    let left = names.iter().filter(|name| name.starts_with("salvage"));
    assert_eq!(left.count(), 0, "{names:?}");
    open_log(fs, true).expect("it can be salvaged");
    let left = read_messages(fs);
    assert_eq!(left.len() + 1, messages.len());
    assert!(left.iter().all(|(at, message)| messages[at] == *message));
    is_salvaged
}

#[test]
fn a_crash_at_any_step_leaves_the_damaged_store_or_the_salvaged_one() {
    let mut random = Random(7);
    let mut seen = [0; 2];
    for operation in 1.. {
        let Some((fs, messages)) = fail_at(operation, FaultKind::PowerCut) else {
            break;
        };
        let killed = fs.after_kill();
        seen[usize::from(assert_damaged_or_salvaged(&killed, &messages))] += 1;
        for _ in 0..3 {
            let cut = fs.after_power_cut(&mut random);
            seen[usize::from(assert_damaged_or_salvaged(&cut, &messages))] += 1;
        }
    }
    assert!(seen.iter().all(|times| *times > 20), "{seen:?}");
}

#[test]
fn a_disk_that_fails_leaves_the_damaged_store_or_the_salvaged_one() {
    for kind in [
        FaultKind::Error,
        FaultKind::NoSpace,
        FaultKind::Short,
        FaultKind::Interrupted,
    ] {
        for operation in 1.. {
            let Some((fs, messages)) = fail_at(operation, kind) else {
                break;
            };
            // The disk goes on after the failure.
            assert_damaged_or_salvaged(&fs, &messages);
        }
    }
}

/// A disk that keeps the head of a file of this name, and forgets what is appended.
struct Forgetful(SimFs, String);

struct ForgetfulFile(Arc<dyn LogFile>);

impl Fs for Forgetful {
    fn names(&self) -> io::Result<Vec<String>> {
        self.0.names()
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn LogFile>> {
        let file = self.0.create(name)?;
        Ok(match name == self.1 {
            true => Arc::new(ForgetfulFile(file)),
            false => file,
        })
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn LogFile>> {
        self.0.open(name)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.0.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.0.remove(name)
    }

    fn sync_names(&self) -> io::Result<()> {
        self.0.sync_names()
    }
}

impl LogFile for ForgetfulFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        match offset {
            0 => self.0.write_at(bytes, 0),
            _ => Ok(bytes.len()),
        }
    }

    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(into, offset)
    }

    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        self.0.truncate(length)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync()
    }
}

#[test]
fn a_fresh_log_that_lacks_something_takes_no_place() {
    let (fs, _, messages) = built();
    damage(&fs, DAMAGED, &frames(&fs, DAMAGED)[1].0);
    let copy = fs.after_kill();
    open_log(&copy, true).map(drop).expect("it is salvaged");
    let last = *segments(&copy).last().expect("there are some");
    let forgetful = Forgetful(fs.clone(), segment_name(last));
    let opened = open(&forgetful, directory(), true, &mut drop);
    let error = opened.map(drop).expect_err("it is not what was written");
    assert!(error.to_string().starts_with("can't verify"), "{error}");
    settle(&fs, directory()).expect("it is undone");
    assert_salvaged(&fs, &messages);
}
