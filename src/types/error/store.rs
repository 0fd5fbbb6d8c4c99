//! The errors of a store.

use std::io;
use std::path::PathBuf;

use crate::sync::Arc;
use crate::types::error::SettingError;

/// The reason why a [`Store`](crate::store::Store) could not be opened, read or written.
///
/// A store that failed to write or to sync refuses everything from then on. After a failed sync a
/// second one may succeed though the bytes are lost. Open the store again to go on.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// A setting is out of range.
    #[error(transparent)]
    Invalid(#[from] SettingError),
    /// Another process, or another `Store` in this one, has the directory open.
    #[error("the store in {} is in use", directory.display())]
    InUse {
        /// The store's directory.
        directory: PathBuf,
    },
    /// A record that was safe on the disk can't be read any more. Nothing was opened or changed.
    ///
    /// It is not the mark of a crash, which is a torn tail, and which opening a store mends.
    #[error("segment {segment} is damaged at byte {offset}, in the frame with lsn {lsn}")]
    Damaged {
        /// The number of the segment, which is the name of its file.
        segment: u64,
        /// The first byte in it that can't be used.
        offset: u64,
        /// The number of the frame that is to be there. Frames count the commits of the store.
        lsn: u64,
    },
    /// The file that names the store is missing or damaged, though there are segments.
    /// [`StoreBuilder::salvage`](crate::store::StoreBuilder::salvage) makes it anew.
    #[error("the file `store` in {} is missing or damaged", directory.display())]
    Unnamed {
        /// The store's directory.
        directory: PathBuf,
    },
    /// The store was written by another version, in a format that this one doesn't know.
    #[error("the store has format {found}, but this version knows format {known}")]
    Format {
        /// The version of the store's format.
        found: u32,
        /// The version that this crate reads and writes.
        known: u32,
    },
    /// The store has a kind of record that this version doesn't know and may not skip.
    #[error("the store has records of the unknown kind {kind}, at lsn {lsn}")]
    UnknownRecord {
        /// The kind of record.
        kind: u8,
        /// The number of the frame that has it.
        lsn: u64,
    },
    /// The operating system refused an operation. If it was a write or a sync, the store refuses
    /// everything from then on.
    #[error("can't {operation} {file}: {source}")]
    Io {
        /// The verb: `open`, `read`, `write`, `sync`, `remove`, ….
        operation: &'static str,
        /// The name of the file, in the store's directory.
        file: String,
        /// The system's error.
        source: Arc<io::Error>,
    },
    /// The disk is full, or a quota is used up. If it was a write or a sync, the store refuses
    /// everything from then on.
    ///
    /// To open a store takes some bytes of room. [`inspect`](crate::store::inspect) and
    /// [`read_records`](crate::store::read_records) need none.
    #[error("the disk is full: can't {operation} {file}. Make room, and open the store again")]
    Full {
        /// The verb: `create`, `write`, `sync`, ….
        operation: &'static str,
        /// The name of the file, in the store's directory.
        file: String,
    },
    /// Records were refused that can't follow those before them. It is a bug of this crate. They
    /// were not stored, and the store refuses everything from then on. Open it again to go on.
    #[error("the records of the frame with lsn {lsn} can't follow those before them")]
    Inconsistent {
        /// The number that their frame would have had.
        lsn: u64,
    },
    /// A payload can't be turned into bytes, or bytes into a payload.
    #[error("the codec failed: {0}")]
    Codec(#[source] Arc<dyn std::error::Error + Send + Sync>),
    /// A message is too large to be stored.
    #[error("a message of {bytes} bytes is too large: the most is {most}")]
    TooLarge {
        /// The size of the message with its key and headers.
        bytes: u64,
        /// The most bytes that a message may have.
        most: u64,
    },
    /// Retention has taken the message that was asked for.
    #[error("retention has taken the messages before {first_available}")]
    Trimmed {
        /// The number of the first message that is still there.
        first_available: u64,
    },
    /// The topic is open already, in another broker with the same store, or it was removed and is
    /// still in use.
    #[error("the topic {name} of the store is open already")]
    TopicOpen {
        /// The topic's name.
        name: Box<str>,
    },
    /// A durable topic doesn't store this.
    #[error("a durable topic doesn't store {what}")]
    Unsupported {
        /// The thing that was asked for.
        what: &'static str,
    },
    /// The store was closed.
    #[error("the store was closed")]
    Closed,
}

impl StoreError {
    pub(crate) fn io(operation: &'static str, file: &str, source: io::Error) -> Self {
        let file = file.to_owned();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Self::Full { operation, file }
            }
            _ => Self::Io {
                operation,
                file,
                source: Arc::new(source),
            },
        }
    }

    /// Returns whether a salvage opens what is left.
    pub(crate) fn can_be_salvaged(&self) -> bool {
        matches!(self, Self::Damaged { .. } | Self::Unnamed { .. })
    }

    /// Returns whether a record that was safe on the disk can't be read any more.
    pub fn is_damaged(&self) -> bool {
        matches!(self, Self::Damaged { .. })
    }
}

/// Errors are equal if they say the same.
impl PartialEq for StoreError {
    fn eq(&self, other: &Self) -> bool {
        self.to_string() == other.to_string()
    }
}

impl Eq for StoreError {}
