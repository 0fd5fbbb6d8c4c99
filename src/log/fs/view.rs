//! A directory that is only looked at. Changes of it are pretended.

use std::io;
use std::ops::Range;

use crate::log::fs::{Fs, LogFile};
use crate::pure::log::format::header::{STORE_FILE, StoreFile, segment_number};
use crate::sync::Arc;

/// A directory with some of its segments. Whoever changes it is told that it is done.
pub(crate) struct View<'a> {
    fs: &'a dyn Fs,
    segments: Range<u64>,
    /// The store that it is said to be.
    store: Option<u128>,
}

/// A file that can only be read.
enum ViewFile {
    Real(Arc<dyn LogFile>),
    Pretended(Vec<u8>),
}

impl<'a> View<'a> {
    pub(crate) fn new(fs: &'a dyn Fs, segments: Range<u64>, store: Option<u128>) -> Self {
        Self {
            fs,
            segments,
            store,
        }
    }
}

impl Fs for View<'_> {
    fn names(&self) -> io::Result<Vec<String>> {
        let mut names = self.fs.names()?;
        names.retain(|name| match segment_number(name) {
            Some(number) => self.segments.contains(&number),
            None => name != STORE_FILE || self.store.is_none(),
        });
        names.extend(self.store.map(|_| STORE_FILE.to_owned()));
        Ok(names)
    }

    fn create(&self, _: &str) -> io::Result<Arc<dyn LogFile>> {
        Ok(Arc::new(ViewFile::Pretended(Vec::new())))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn LogFile>> {
        Ok(Arc::new(match self.store {
            Some(store) if name == STORE_FILE => {
                ViewFile::Pretended(StoreFile { store, synced: 0 }.encode())
            }
            _ => ViewFile::Real(self.fs.open(name)?),
        }))
    }

    fn rename(&self, _: &str, _: &str) -> io::Result<()> {
        Ok(())
    }

    fn remove(&self, _: &str) -> io::Result<()> {
        Ok(())
    }

    fn sync_names(&self) -> io::Result<()> {
        Ok(())
    }
}

impl LogFile for ViewFile {
    fn write_at(&self, bytes: &[u8], _: u64) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<usize> {
        let bytes = match self {
            Self::Real(file) => return file.read_at(into, offset),
            Self::Pretended(bytes) => bytes,
        };
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        let rest = bytes.get(offset..).unwrap_or_default();
        let read = rest.len().min(into.len());
        into[..read].copy_from_slice(&rest[..read]);
        Ok(read)
    }

    fn len(&self) -> io::Result<u64> {
        match self {
            Self::Real(file) => file.len(),
            Self::Pretended(bytes) => Ok(bytes.len() as u64),
        }
    }

    fn truncate(&self, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}
