//! Random programs: a session with a store after another, each with commits of all kinds.

use std::path::Path;

use crate::log::commit::{Due, Log};
use crate::log::fs::sim::{FaultKind, Faults, Random, SimFs};
use crate::log::recover::{Opened, recover};
use crate::log::tests::model::{Entry, Frame, Model, compare};
use crate::log::writer::Writer;
use crate::pure::log::retention::Limits;
use crate::sync::{Arc, Mutex};
use crate::types::error::store::StoreError;

#[derive(Clone, Copy, Debug)]
pub(super) struct Settings {
    segment_size: u64,
    /// Bytes that retention keeps of topic 0.
    pub(super) keeps: Option<u64>,
}

impl Settings {
    pub(super) fn random(random: &mut Random) -> Self {
        Self {
            segment_size: [256, 600, 1_100, 3_000][random.below(4) as usize],
            keeps: [None, Some(0), Some(700)][random.below(3) as usize],
        }
    }
}

/// The frames that were submitted to a store, and how many it acknowledged.
#[derive(Clone, Default)]
pub(super) struct Books {
    pub(super) frames: Vec<Frame>,
    /// How many frames are acknowledged as written.
    pub(super) written: usize,
    /// How many frames are acknowledged as synced.
    pub(super) synced: usize,
    /// The changes of the disk so far, and the three numbers from then on.
    marks: Vec<(usize, [usize; 3])>,
}

impl Books {
    fn mark(&mut self, fs: &SimFs) {
        let numbers = [self.frames.len(), self.written, self.synced];
        self.marks.push((fs.changes(), numbers));
    }

    /// Returns the books as they were after so many changes of the disk.
    pub(super) fn after(&self, changes: usize) -> Self {
        let marks = &self.marks;
        let count = marks.partition_point(|(at, _)| *at <= changes);
        let last = marks[..count].last();
        let [submitted, written, synced] = last.map_or([0; 3], |(_, numbers)| *numbers);
        Self {
            frames: self.frames[..submitted].to_vec(),
            written,
            synced,
            marks: Vec::new(),
        }
    }
}

/// A store that is open.
pub(super) struct Session {
    pub(super) fs: SimFs,
    pub(super) log: Log,
    pub(super) books: Arc<Mutex<Books>>,
    pub(super) opened: Opened,
    pub(super) settings: Settings,
    model: Model,
}

impl Session {
    /// Opens the store on a disk. Of the frames in the books at least so many are there, or it
    /// panics.
    pub(super) fn open(
        fs: &SimFs,
        settings: Settings,
        books: Books,
        least: usize,
    ) -> Result<Self, StoreError> {
        let shared_fs = Arc::new(fs.clone());
        let recovered = recover(&*shared_fs, Path::new("data"), &mut drop)?;
        let opened = recovered.opened.clone();
        let mut writer = Writer::new(shared_fs, recovered, settings.segment_size);
        writer.vouch()?;
        let bytes = settings.keeps;
        writer.limit(
            0,
            Limits {
                bytes,
                age_ms: None,
            },
        );
        let log = Log::new(writer, None);
        let (has, model) = compare(&log.shared, &books.frames, least, settings.keeps)?;
        let mut books = books;
        books.frames.truncate(has);
        (books.written, books.synced) = (has, has);
        books.mark(fs);
        Ok(Self {
            fs: fs.clone(),
            log,
            books: Arc::new(Mutex::new(books)),
            opened,
            settings,
            model,
        })
    }

    /// Commits these records, and keeps the books.
    pub(super) fn commit(&mut self, entries: Vec<Entry>, syncs: bool) -> Result<(), StoreError> {
        let (fs, books) = (self.fs.clone(), Arc::clone(&self.books));
        let number = books.lock().frames.len() + 1;
        let hook = move |result: &Result<(), StoreError>| {
            let mut books = books.lock();
            if result.is_ok() {
                books.written = number;
                if syncs {
                    books.synced = number;
                }
                books.mark(&fs);
            }
        };
        let model = &mut self.model;
        let books = &self.books;
        let fs = &self.fs;
        let put = |frame: &mut _| {
            for entry in &entries {
                model.put(*entry, frame);
                model.apply(*entry);
            }
            let mut books = books.lock();
            books.frames.push(Arc::new(entries));
            books.mark(fs);
        };
        let ticket = self
            .log
            .submit(syncs, Due::Waits, put, Some(Box::new(hook)))
            .map_err(|(error, hook)| {
                assert!(hook.is_some(), "the hook comes back");
                error
            })?;
        self.log.wait(ticket)
    }

    /// Commits something.
    pub(super) fn step(&mut self, random: &mut Random) -> Result<(), StoreError> {
        let entries = self.entries(random);
        let syncs = random.one_in(2);
        self.commit(entries, syncs)
    }

    fn entries(&self, random: &mut Random) -> Vec<Entry> {
        let topics = self.model.topics();
        if topics == 0 {
            return vec![Entry::Topic(0), Entry::Subscription];
        }
        if topics == 1 && random.one_in(40) {
            return vec![Entry::Topic(1)];
        }
        let kinds = if random.one_in(8) { 3 } else { 1 };
        let mut entries = Vec::new();
        for _ in 0..kinds {
            self.add_entries(random, &mut entries);
        }
        entries
    }

    fn add_entries(&self, random: &mut Random, entries: &mut Vec<Entry>) {
        // The numbers of messages before this commit.
        let count = self.model.count();
        let kind = if count == 0 { 0 } else { random.below(15) };
        let seq = 1 + random.below(count.max(1));
        match kind {
            0..=5 => {
                let topic = random.below(self.model.topics()) as u32;
                let (messages, most) = match random.below(16) {
                    0 => (64, 8),
                    1 => (1, 3 * self.settings.segment_size),
                    2 => (3, 1),
                    _ => (1 + random.below(4), 200),
                };
                for _ in 0..messages {
                    let size = random.below(most) as usize;
                    entries.push(Entry::Publish { topic, size });
                }
            }
            6..=7 => {
                let to = (seq + 1 + random.below(4)).min(count + 1);
                entries.push(Entry::Done { from: seq, to });
            }
            8 => {
                let attempts = 1 + random.below(4) as u32;
                entries.push(Entry::Failed { seq, attempts });
            }
            9 => entries.push(Entry::Letter { seq }),
            10 => entries.push(Entry::Done {
                from: seq,
                to: (seq + 1).min(count + 1),
            }),
            12 => {
                // A handler has published with its ack.
                let topics = self.model.topics();
                for _ in 0..1 + random.below(3) {
                    let (topic, size) = (random.below(topics) as u32, random.below(90) as usize);
                    entries.push(Entry::Publish { topic, size });
                }
                let to = seq + 1;
                entries.push(Entry::Done { from: seq, to });
            }
            11 => {
                let at = random.below(8) as usize;
                entries.push(match random.one_in(3) {
                    true => Entry::Cancelled { at },
                    false => Entry::Due { at },
                });
            }
            _ => entries.push(Entry::Delayed {
                size: random.below(60) as usize,
            }),
        }
    }

    /// Ends the session in one of the ways that lose nothing, and begins the next.
    fn reopen(self, is_killed: bool) -> Result<Self, StoreError> {
        if !is_killed {
            self.log.close();
            if let Some(error) = self.log.failure()
                && !matches!(error, StoreError::Closed)
            {
                return Err(error);
            }
        }
        let was_whole = match self.log.failure() {
            None | Some(StoreError::Closed) => true,
            Some(_) => false,
        };
        let books = self.books.lock().clone();
        let all = books.frames.len();
        let again = Self::open(&self.fs, self.settings, books, all)?;
        if was_whole {
            assert_eq!(again.opened.torn, None, "nothing was torn");
        }
        // What the records add up to is the same for the one that wrote them.
        assert_eq!(
            *again.log.shared.state.lock(),
            *self.log.shared.state.lock()
        );
        Ok(again)
    }
}

/// The end of a program.
pub(super) struct Outcome {
    pub(super) settings: Settings,
    pub(super) books: Books,
    /// The last session, unless opening failed.
    pub(super) session: Option<Session>,
    pub(super) error: Option<StoreError>,
}

/// Runs the program of a seed to its end, or to the first error.
pub(super) fn run(seed: u64, fs: &SimFs) -> Outcome {
    let mut random = Random(seed);
    let settings = Settings::random(&mut random);
    let mut outcome = Outcome {
        settings,
        books: Books::default(),
        session: None,
        error: None,
    };
    let mut session = match Session::open(fs, settings, Books::default(), 0) {
        Ok(session) => session,
        Err(error) => {
            outcome.error = Some(error);
            return outcome;
        }
    };
    for _ in 0..6 + random.below(16) {
        let books = Arc::clone(&session.books);
        if random.one_in(9) {
            match session.reopen(random.one_in(2)) {
                Ok(again) => session = again,
                Err(error) => {
                    outcome.books = books.lock().clone();
                    outcome.error = Some(error);
                    return outcome;
                }
            }
        }
        if let Err(error) = session.step(&mut random) {
            outcome.error = Some(error);
            break;
        }
    }
    if outcome.error.is_none() && random.one_in(2) {
        session.log.close();
    }
    outcome.books = session.books.lock().clone();
    outcome.session = Some(session);
    outcome
}

/// How many frames a disk has for sure.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sure {
    /// Now.
    pub(super) now: usize,
    /// After a power cut.
    pub(super) synced: usize,
}

/// Opens a disk after a crash, goes on for a while, crashes again, and so on. Returns how often the
/// store was opened.
pub(super) fn go_on(
    mut disk: SimFs,
    settings: Settings,
    mut books: Books,
    mut sure: Sure,
    random: &mut Random,
) -> u64 {
    for opened in 1.. {
        let is_last = random.below(8) < 2 + 2 * opened;
        if !is_last {
            disk.fail(Faults {
                at: Some(1 + random.below(30 + 30 * opened)),
                kind: FaultKind::PowerCut,
                lies: false,
            });
        }
        match Session::open(&disk, settings, books.clone(), sure.now) {
            Ok(mut session) => {
                let mut steps = random.below(4);
                while steps > 0 && session.step(random).is_ok() {
                    steps -= 1;
                }
                let failure = session.log.failure();
                assert!(failure.is_none() || disk.is_off(), "{failure:?}");
                if random.one_in(3) {
                    session.log.close();
                }
                books = session.books.lock().clone();
                (sure.now, sure.synced) = (books.written, books.synced);
            }
            Err(error) => assert!(disk.is_off(), "a crash is refused: {error}"),
        }
        if is_last {
            let disk = disk.after_power_cut(random);
            let again = Session::open(&disk, settings, books, sure.synced);
            again.unwrap_or_else(|error| panic!("a crash is refused: {error}"));
            return opened + 1;
        }
        if random.one_in(4) {
            disk = disk.after_kill();
        } else {
            disk = disk.after_power_cut(random);
            sure.now = sure.synced;
        }
    }
    unreachable!("one is the last")
}
