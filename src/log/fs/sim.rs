//! A file system in memory that can lose power.
//!
//! Its disk keeps what was synced. Of the rest, a power cut keeps whatever the seed says: any
//! subset of the written sectors, in any order; some of the lengths; some of the new, renamed and
//! removed names.

use std::collections::BTreeMap;
use std::io;

use crate::log::fs::{Fs, LogFile};
use crate::sync::{Arc, Mutex};

/// What reaches the disk by itself: all of a sector, or nothing.
const SECTOR: usize = 512;

/// A small generator of numbers, so that a seed is a run (Steele's splitmix64).
#[derive(Clone, Debug)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub(crate) fn one_in(&mut self, chances: u64) -> bool {
        self.below(chances) == 0
    }
}

/// How the disk fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Faults {
    /// The number of the operation that fails, counted from one. All after it fail, too, when the
    /// failure is a power cut.
    pub(crate) at: Option<u64>,
    pub(crate) kind: Fault,
    /// Syncs return without having synced anything.
    pub(crate) lies: bool,
}

/// How an operation fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The power goes: this operation and all later ones fail.
    #[default]
    PowerCut,
    /// The operation fails, and the next may succeed.
    Error,
    /// A write takes some of the bytes, and fails then, as a full disk does.
    NoSpace,
    /// Writes and reads take some of the bytes, and succeed.
    Short,
}

#[derive(Clone, Debug, Default)]
struct Content {
    /// What a reader sees.
    now: Vec<u8>,
    /// What the disk has for sure.
    synced: Vec<u8>,
}

type Inode = u64;

#[derive(Default)]
struct Disk {
    files: BTreeMap<Inode, Content>,
    /// What names are now.
    names: BTreeMap<String, Inode>,
    /// What names are for sure.
    synced_names: BTreeMap<String, Inode>,
    next: Inode,
    operations: u64,
    faults: Faults,
    is_off: bool,
}

/// A file system in memory that can lose power.
#[derive(Clone, Default)]
pub(crate) struct SimFs {
    disk: Arc<Mutex<Disk>>,
}

struct SimFile {
    disk: Arc<Mutex<Disk>>,
    inode: Inode,
}

impl SimFs {
    pub(crate) fn with(faults: Faults) -> Self {
        let fs = Self::default();
        fs.disk.lock().faults = faults;
        fs
    }

    /// Returns how many operations there were.
    pub(crate) fn operations(&self) -> u64 {
        self.disk.lock().operations
    }

    /// Returns the content of a file.
    pub(crate) fn content(&self, name: &str) -> Option<Vec<u8>> {
        let disk = self.disk.lock();
        let inode = disk.names.get(name)?;
        Some(disk.files[inode].now.clone())
    }

    /// Replaces the content of a file, on the disk, too.
    pub(crate) fn overwrite(&self, name: &str, bytes: Vec<u8>) {
        let mut disk = self.disk.lock();
        let inode = disk.names[name];
        let content = Content {
            now: bytes.clone(),
            synced: bytes,
        };
        disk.files.insert(inode, content);
    }

    /// Returns the disk as it is when the process was killed: all that was written is there.
    pub(crate) fn after_kill(&self) -> Self {
        let disk = self.disk.lock();
        Self::of(disk.files.clone(), disk.names.clone())
    }

    /// Returns the disk as it may be after a power cut.
    pub(crate) fn after_power_cut(&self, random: &mut Random) -> Self {
        let disk = self.disk.lock();
        let survives = |content: &Content, random: &mut Random| {
            // A length is written apart from the bytes. Where it alone survives, zeros are read.
            let (shorter, longer) = (content.synced.len(), content.now.len());
            let length = match random.below(3) {
                0 => shorter,
                1 => longer,
                _ => {
                    let (least, most) = (shorter.min(longer), shorter.max(longer));
                    least + random.below((most - least) as u64 + 1) as usize
                }
            };
            let mut bytes = content.synced.clone();
            bytes.resize(length, 0);
            for start in (0..length).step_by(SECTOR) {
                let end = (start + SECTOR).min(length).min(content.now.len());
                if start < end && random.one_in(2) {
                    bytes[start..end].copy_from_slice(&content.now[start..end]);
                }
            }
            Content {
                now: bytes.clone(),
                synced: bytes,
            }
        };
        let files = disk.files.iter();
        let files = files
            .map(|(inode, content)| (*inode, survives(content, random)))
            .collect();
        let mut names = BTreeMap::new();
        let all = disk.names.keys().chain(disk.synced_names.keys());
        for name in all {
            let kept = match random.one_in(2) {
                true => disk.names.get(name),
                false => disk.synced_names.get(name),
            };
            names.extend(kept.map(|inode| (name.clone(), *inode)));
        }
        Self::of(files, names)
    }

    fn of(files: BTreeMap<Inode, Content>, names: BTreeMap<String, Inode>) -> Self {
        let next = files.keys().next_back().map_or(0, |last| last + 1);
        Self {
            disk: Arc::new(Mutex::new(Disk {
                files,
                synced_names: names.clone(),
                names,
                next,
                ..Disk::default()
            })),
        }
    }
}

impl Disk {
    /// Counts an operation. Returns whether it is the one that fails.
    fn count(&mut self) -> io::Result<bool> {
        if self.is_off {
            return Err(io::Error::other("the power is off"));
        }
        self.operations += 1;
        let fails = self.faults.at == Some(self.operations);
        match self.faults.kind {
            Fault::PowerCut if fails => {
                self.is_off = true;
                Err(io::Error::other("the power went off"))
            }
            Fault::Error if fails => Err(io::Error::other("the disk failed")),
            _ => Ok(fails),
        }
    }

    fn inode(&self, name: &str) -> io::Result<Inode> {
        let inode = self.names.get(name).copied();
        inode.ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Fs for SimFs {
    fn names(&self) -> io::Result<Vec<String>> {
        let mut disk = self.disk.lock();
        disk.count()?;
        Ok(disk.names.keys().cloned().collect())
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn LogFile>> {
        let mut disk = self.disk.lock();
        disk.count()?;
        if disk.names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let inode = disk.next;
        disk.next += 1;
        disk.files.insert(inode, Content::default());
        disk.names.insert(name.to_owned(), inode);
        drop(disk);
        let disk = Arc::clone(&self.disk);
        Ok(Arc::new(SimFile { disk, inode }))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn LogFile>> {
        let mut disk = self.disk.lock();
        disk.count()?;
        let inode = disk.inode(name)?;
        drop(disk);
        let disk = Arc::clone(&self.disk);
        Ok(Arc::new(SimFile { disk, inode }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut disk = self.disk.lock();
        disk.count()?;
        let inode = disk.inode(from)?;
        disk.names.remove(from);
        disk.names.insert(to.to_owned(), inode);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut disk = self.disk.lock();
        disk.count()?;
        disk.inode(name)?;
        disk.names.remove(name);
        Ok(())
    }

    fn sync_names(&self) -> io::Result<()> {
        let mut disk = self.disk.lock();
        disk.count()?;
        if !disk.faults.lies {
            disk.synced_names = disk.names.clone();
        }
        Ok(())
    }
}

impl LogFile for SimFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let mut disk = self.disk.lock();
        let fails = disk.count()?;
        let kind = disk.faults.kind;
        let content = disk.files.get_mut(&self.inode).expect("it was made");
        let taken = if fails { bytes.len() / 2 } else { bytes.len() };
        let start = offset as usize;
        let end = start + taken;
        if content.now.len() < end {
            content.now.resize(end, 0);
        }
        content.now[start..end].copy_from_slice(&bytes[..taken]);
        match fails && kind == Fault::NoSpace {
            true => Err(io::ErrorKind::StorageFull.into()),
            false => Ok(taken),
        }
    }

    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut disk = self.disk.lock();
        let fails = disk.count()?;
        let content = &disk.files[&self.inode].now;
        let rest = content.get(offset as usize..).unwrap_or_default();
        let most = if fails {
            into.len().div_ceil(2)
        } else {
            into.len()
        };
        let read = rest.len().min(most);
        into[..read].copy_from_slice(&rest[..read]);
        Ok(read)
    }

    fn len(&self) -> io::Result<u64> {
        let mut disk = self.disk.lock();
        disk.count()?;
        Ok(disk.files[&self.inode].now.len() as u64)
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        let mut disk = self.disk.lock();
        disk.count()?;
        let content = disk.files.get_mut(&self.inode).expect("it was made");
        content.now.resize(length as usize, 0);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut disk = self.disk.lock();
        disk.count()?;
        let lies = disk.faults.lies;
        let content = disk.files.get_mut(&self.inode).expect("it was made");
        if !lies {
            content.synced = content.now.clone();
        }
        Ok(())
    }
}
