//! The disk of the simulated file system: what is on it for sure, and what only the system's memory
//! has.

use std::collections::{BTreeMap, BTreeSet};

use crate::log::fs::sim::Random;

/// What reaches the disk by itself: all of a sector, or nothing.
const SECTOR: usize = 512;

pub(super) type Inode = u64;

/// What changes a disk, or makes a change safe.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    Create {
        name: String,
    },
    Write {
        inode: Inode,
        offset: usize,
        bytes: Vec<u8>,
    },
    Truncate {
        inode: Inode,
        length: usize,
    },
    Sync {
        inode: Inode,
    },
    /// A sync that failed. The system takes the pages for clean, though they are not on the disk.
    FailedSync {
        inode: Inode,
    },
    Rename {
        from: String,
        to: String,
    },
    Remove {
        name: String,
    },
    SyncNames,
}

/// A file's content.
#[derive(Clone, Debug, Default)]
pub(super) struct Content {
    /// What a reader sees.
    pub(super) now: Vec<u8>,
    /// What the disk has for sure.
    synced: Vec<u8>,
    /// The sectors that the next sync writes. Until then each may reach the disk at any time.
    dirty: BTreeSet<usize>,
}

impl Content {
    pub(super) fn on_disk(bytes: Vec<u8>) -> Self {
        Self {
            now: bytes.clone(),
            synced: bytes,
            dirty: BTreeSet::new(),
        }
    }

    fn write(&mut self, offset: usize, bytes: &[u8]) {
        let end = offset + bytes.len();
        if self.now.len() < end {
            self.now.resize(end, 0);
        }
        self.now[offset..end].copy_from_slice(bytes);
        self.dirty.extend(offset / SECTOR..end.div_ceil(SECTOR));
    }

    fn truncate(&mut self, length: usize) {
        self.now.resize(length, 0);
        self.dirty.split_off(&length.div_ceil(SECTOR));
    }

    fn sync(&mut self) {
        self.synced.resize(self.now.len(), 0);
        for sector in std::mem::take(&mut self.dirty) {
            copy_sector(sector, &self.now, &mut self.synced);
        }
    }

    /// Returns what a power cut leaves of it.
    fn cut(&self, odds: u64, random: &mut Random) -> Self {
        // A length is written apart from the bytes. Where it alone survives, zeros are read.
        let (synced, now) = (self.synced.len(), self.now.len());
        let length = match random.below(3) {
            0 => synced,
            1 => now,
            _ => {
                let (least, most) = (synced.min(now), synced.max(now));
                least + random.below((most - least) as u64 + 1) as usize
            }
        };
        let mut bytes = self.synced.clone();
        bytes.resize(length, 0);
        for sector in &self.dirty {
            if random.below(8) < odds {
                copy_sector(*sector, &self.now, &mut bytes);
            }
        }
        Self::on_disk(bytes)
    }
}

fn copy_sector(sector: usize, from: &[u8], to: &mut [u8]) {
    let start = sector * SECTOR;
    let end = (start + SECTOR).min(from.len()).min(to.len());
    if start < end {
        to[start..end].copy_from_slice(&from[start..end]);
    }
}

#[derive(Clone, Default)]
pub(super) struct Disk {
    pub(super) files: BTreeMap<Inode, Content>,
    /// What names are now.
    pub(super) names: BTreeMap<String, Inode>,
    /// What names are for sure.
    synced_names: BTreeMap<String, Inode>,
    next: Inode,
}

impl Disk {
    /// Returns the inode that the next file gets.
    pub(super) fn next(&self) -> Inode {
        self.next
    }

    fn file(&mut self, inode: Inode) -> &mut Content {
        self.files.get_mut(&inode).expect("it was made")
    }

    pub(super) fn apply(&mut self, change: &Change) {
        match change {
            Change::Create { name } => {
                self.files.insert(self.next, Content::default());
                self.names.insert(name.clone(), self.next);
                self.next += 1;
            }
            Change::Write {
                inode,
                offset,
                bytes,
            } => self.file(*inode).write(*offset, bytes),
            Change::Truncate { inode, length } => self.file(*inode).truncate(*length),
            Change::Sync { inode } => self.file(*inode).sync(),
            Change::FailedSync { inode } => self.file(*inode).dirty.clear(),
            Change::Rename { from, to } => {
                let inode = self.names.remove(from).expect("it has this name");
                self.names.insert(to.clone(), inode);
            }
            Change::Remove { name } => {
                self.names.remove(name);
            }
            Change::SyncNames => self.synced_names.clone_from(&self.names),
        }
    }

    /// Returns the disk as it may be after a power cut.
    pub(super) fn cut(&self, random: &mut Random) -> Self {
        let odds = [0, 1, 4, 7, 8][random.below(5) as usize];
        let mut names = BTreeMap::new();
        for name in self.names.keys().chain(self.synced_names.keys()) {
            let kept = match random.below(8) < odds {
                true => self.names.get(name),
                false => self.synced_names.get(name),
            };
            names.extend(kept.map(|inode| (name.clone(), *inode)));
        }
        let files = names.values();
        Self {
            files: files
                .map(|inode| (*inode, self.files[inode].cut(odds, random)))
                .collect(),
            synced_names: names.clone(),
            names,
            next: self.next,
        }
    }
}
