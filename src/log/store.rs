//! A store: the user's handle of a log.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::log::commit::{Due, Log};
use crate::log::fs::Fs;
use crate::log::fs::real::RealFs;
use crate::log::recover::{Opened, Progress};
use crate::log::salvage;
use crate::log::writer::Writer;
use crate::pure::log::format::frame::FrameBuffer;
use crate::pure::log::record::Record;
use crate::sync::{Arc, JoinHandle, Mutex, Thread, is_current, spawn};
use crate::types::error::SettingError;
use crate::types::error::store::StoreError;

/// The size of a segment unless the builder says otherwise.
const SEGMENT_SIZE: u64 = 64 << 20;

/// The smallest size of a segment.
const LEAST_SEGMENT: u64 = 4 << 10;

/// The largest size of a segment.
const MOST_SEGMENT: u64 = 1 << 30;

/// A directory with the log of the durable topics of one broker.
///
/// One process at a time has it open, with one `Store`. Clones of that are the same store. It is
/// closed when the last clone, and the last broker with it, has been dropped. Then everything in it
/// has been synced.
///
/// ```
/// use millstream::store::Store;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let directory = std::env::temp_dir().join(format!("millstream-store-{}", std::process::id()));
/// let store = Store::open(&directory)?;
/// if let Some(torn) = store.opened().torn {
///     eprintln!("a crash had left {} bytes unfinished", torn.bytes);
/// }
/// # drop(store);
/// # std::fs::remove_dir_all(&directory)?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Store {
    pub(crate) inner: Arc<Inner>,
}

/// A log with its flusher. It closes when it is dropped.
pub(crate) struct Inner {
    pub(crate) log: Arc<Log>,
    opened: Opened,
    directory: PathBuf,
    flusher: Mutex<Option<JoinHandle<()>>>,
    /// Held while a topic or a subscription is added, so that none is added twice.
    adding: Mutex<()>,
    /// The topics that are open. Each numbers its messages, so it is open once.
    open: Mutex<BTreeSet<u32>>,
}

impl Store {
    /// Opens the store in a directory, with the defaults of its [builder](Self::builder). Makes
    /// both if they aren't there.
    ///
    /// It reads and checks everything that is stored, which takes about a second for a gigabyte.
    ///
    /// # Errors
    ///
    /// Returns a [`StoreError`]: `InUse`, `Damaged`, `Full`, or another. Nothing that was safe is
    /// changed then.
    pub fn open(directory: impl AsRef<Path>) -> Result<Self, StoreError> {
        StoreBuilder::new(directory.as_ref()).start()
    }

    /// Starts to describe a store in a directory.
    pub fn builder(directory: impl AsRef<Path>) -> StoreBuilder {
        StoreBuilder::new(directory.as_ref())
    }

    /// Returns what the store found when it was opened.
    pub fn opened(&self) -> &Opened {
        &self.inner.opened
    }

    /// Returns the directory.
    pub fn directory(&self) -> &Path {
        &self.inner.directory
    }

    /// Returns the reason why the store refuses everything, if it does: an earlier write or sync
    /// has failed.
    pub fn failure(&self) -> Option<StoreError> {
        self.inner.log.failure()
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store")
            .field("directory", &self.inner.directory)
            .finish_non_exhaustive()
    }
}

impl Inner {
    /// Opens a topic, unless it is open. Returns its number in the store, and the number of its next
    /// message. Adds the topic if it is new.
    pub(crate) fn open_topic(&self, name: &str) -> Result<(u32, u64), StoreError> {
        let _adding = self.adding.lock();
        let (topic, next) = self.find_or_add(name)?;
        match self.open.lock().insert(topic) {
            true => Ok((topic, next)),
            false => Err(StoreError::TopicOpen { name: name.into() }),
        }
    }

    /// Lets others open a topic.
    pub(crate) fn close_topic(&self, topic: u32) {
        self.open.lock().remove(&topic);
    }

    fn find_or_add(&self, name: &str) -> Result<(u32, u64), StoreError> {
        let (found, topic) = {
            let state = self.log.shared.state.lock();
            let found = state
                .topic_named(name)
                .map(|(id, topic)| (id, topic.next_seq));
            (found, state.next_topic())
        };
        if let Some(found) = found {
            return Ok(found);
        }
        let (first_seq, next_seq) = (1, 1);
        self.commit(&Record::Topic {
            topic,
            first_seq,
            next_seq,
            name,
        })?;
        Ok((topic, next_seq))
    }

    /// Adds a subscription unless it is there.
    pub(crate) fn add_subscription(
        &self,
        topic: u32,
        name: &str,
        next: u64,
    ) -> Result<(), StoreError> {
        let _adding = self.adding.lock();
        let (is_there, subscription) = {
            let state = self.log.shared.state.lock();
            let found = state.subscription_named(topic, name);
            (found.is_some(), state.next_subscription())
        };
        if is_there {
            return Ok(());
        }
        self.commit(&Record::Subscription {
            subscription,
            topic,
            next,
            name,
        })
    }

    /// Writes and syncs a record.
    fn commit(&self, record: &Record<'_>) -> Result<(), StoreError> {
        let put = |frame: &mut FrameBuffer| record.put(frame.record());
        let submitted = self.log.submit(true, Due::Waits, put, None);
        let ticket = submitted.map_err(|(error, _)| error)?;
        self.log.wait(ticket)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        match self.flusher.lock().take() {
            // A hook that it has called was the last holder.
            Some(flusher) if is_current(&flusher) => self.log.close_soon(),
            flusher => {
                self.log.close();
                // A flusher doesn't panic: it calls no user code but wakers.
                flusher.map(JoinHandle::join);
            }
        }
    }
}

/// Settings of a [`Store`], from [`Store::builder`].
#[must_use = "a builder does nothing until it is opened"]
pub struct StoreBuilder {
    directory: PathBuf,
    segment_size: u64,
    sync_every: Option<Duration>,
    salvages: bool,
    progress: Option<Box<dyn FnMut(Progress) + Send>>,
}

impl std::fmt::Debug for StoreBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StoreBuilder")
            .field("directory", &self.directory)
            .field("segment_size", &self.segment_size)
            .field("sync_every", &self.sync_every)
            .field("salvages", &self.salvages)
            .finish_non_exhaustive()
    }
}

impl StoreBuilder {
    fn new(directory: &Path) -> Self {
        Self {
            directory: directory.to_owned(),
            segment_size: SEGMENT_SIZE,
            sync_every: None,
            salvages: false,
            progress: None,
        }
    }

    /// Sets the size in bytes at which a file is closed and the next begins. The default is 64 MiB.
    ///
    /// Retention takes whole files. So small ones give room back sooner, and large ones cost fewer
    /// checkpoints. A file grows larger if its checkpoint alone takes more than half of this. It is
    /// from 4 KiB to 1 GiB.
    pub fn segment_size(mut self, bytes: u64) -> Self {
        self.segment_size = bytes;
        self
    }

    /// Syncs at least this often what was written without a sync. The default is not to.
    ///
    /// It bounds how much of a topic of [`Durability::Written`](crate::store::Durability::Written)
    /// a power cut takes. A topic of `Synced` doesn't need it.
    pub fn sync_every(mut self, interval: Duration) -> Self {
        self.sync_every = Some(interval);
        self
    }

    /// Sets a function that is told how far the opening has come, once for each file.
    pub fn progress(mut self, told: impl FnMut(Progress) + Send + 'static) -> Self {
        self.progress = Some(Box::new(told));
        self
    }

    /// Opens what is left of a damaged store. The default is to refuse it.
    ///
    /// If the store is damaged, [`Opened::salvage`] reports all that is lost. The rest is
    /// written anew, and keeps its sequence numbers. The damaged files stay beside it, unchanged,
    /// with the report: `damaged-1.` precedes their names. So it needs as much room as the store
    /// has. A crash leaves the damaged store or the salvaged one. A store that is not damaged is
    /// opened as ever.
    ///
    /// Subscriptions go on at their cursors. They never wait for a message that is lost. The dedup
    /// ids of lost messages are forgotten, so that these can be published again.
    ///
    /// ```
    /// use millstream::store::Store;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let directory = std::env::temp_dir().join(format!("millstream-salvage-{}", std::process::id()));
    /// let store = Store::builder(&directory).salvage().open()?;
    /// if let Some(report) = &store.opened().salvage {
    ///     eprintln!("{report}"); // ranges of lost messages by topic, and affected subscriptions
    /// }
    /// # drop(store);
    /// # std::fs::remove_dir_all(&directory)?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn salvage(mut self) -> Self {
        self.salvages = true;
        self
    }

    /// Opens the store, or makes it.
    ///
    /// # Errors
    ///
    /// Returns a [`StoreError`]: `Invalid` for a setting out of range, `InUse`, `Damaged`, `Full`, or
    /// another. Nothing that was safe is changed then.
    pub fn open(self) -> Result<Store, StoreError> {
        if !(LEAST_SEGMENT..=MOST_SEGMENT).contains(&self.segment_size) {
            let rule = "must be from 4 KiB to 1 GiB";
            return Err(SettingError::new("segment_size", self.segment_size, rule).into());
        }
        if self.sync_every == Some(Duration::ZERO) {
            let rule = "must be longer than zero";
            return Err(SettingError::new("sync_every", "0 ns", rule).into());
        }
        self.start()
    }

    fn start(self) -> Result<Store, StoreError> {
        let fs = Arc::new(RealFs::open(&self.directory)?);
        self.start_in(fs)
    }

    pub(crate) fn start_in(mut self, fs: Arc<dyn Fs>) -> Result<Store, StoreError> {
        let mut progress = self.progress.take().unwrap_or_else(|| Box::new(drop));
        let recovered = salvage::open(&*fs, &self.directory, self.salvages, &mut *progress)?;
        let opened = recovered.opened.clone();
        let mut writer = Writer::new(fs, recovered, self.segment_size);
        writer.vouch()?;
        let log = Arc::new(Log::new(writer, self.sync_every));
        let flushed = Arc::clone(&log);
        let thread = Thread {
            name: "millstream-log".to_owned(),
            stack_size: None,
        };
        let flusher = spawn(thread, move || flushed.flush_when_due())
            .map_err(|source| StoreError::io("start a thread for", "the log", source))?;
        Ok(Store {
            inner: Arc::new(Inner {
                log,
                opened,
                directory: self.directory,
                flusher: Mutex::new(Some(flusher)),
                adding: Mutex::new(()),
                open: Mutex::default(),
            }),
        })
    }
}
