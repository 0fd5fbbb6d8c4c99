//! A file system in memory that can lose power.
//!
//! Its disk keeps what was synced. Of the rest, a power cut keeps whatever the seed says: any
//! subset of the written sectors, in any order; some of the lengths; some of the new, renamed and
//! removed names.

mod disk;

use std::io;

pub(crate) use disk::Change;
use disk::{Content, Disk, Inode};

use crate::log::fs::{Fs, LogFile};
use crate::sync::{Arc, Mutex};

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
    pub(crate) kind: FaultKind,
    /// Syncs return without having synced anything.
    pub(crate) lies: bool,
}

/// How an operation fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum FaultKind {
    /// The power goes: this operation and all later ones fail.
    #[default]
    PowerCut,
    /// The operation fails, and the next may succeed.
    Error,
    /// A write takes some of the bytes, and fails then, as a full disk does.
    NoSpace,
    /// Writes and reads take some of the bytes, and succeed.
    Short,
    /// A signal interrupts a write or a read.
    Interrupted,
}

#[derive(Default)]
struct Machine {
    disk: Disk,
    operations: u64,
    faults: Faults,
    is_off: bool,
    /// All changes of the disk, in order, if somebody wants them.
    journal: Option<Vec<Change>>,
}

/// A file system in memory that can lose power.
#[derive(Clone, Default)]
pub(crate) struct SimFs {
    machine: Arc<Mutex<Machine>>,
}

struct SimFile {
    machine: Arc<Mutex<Machine>>,
    inode: Inode,
}

impl SimFs {
    pub(crate) fn with(faults: Faults) -> Self {
        let fs = Self::default();
        fs.fail(faults);
        fs
    }

    /// Fails as this says from now on. Operations are counted anew.
    pub(crate) fn fail(&self, faults: Faults) {
        let mut machine = self.machine.lock();
        machine.faults = faults;
        machine.operations = 0;
    }

    /// Returns how many operations there were.
    pub(crate) fn operations(&self) -> u64 {
        self.machine.lock().operations
    }

    /// Returns whether the power went off.
    pub(crate) fn is_off(&self) -> bool {
        self.machine.lock().is_off
    }

    /// Keeps all changes from now on.
    pub(crate) fn record(&self) {
        self.machine.lock().journal = Some(Vec::new());
    }

    /// Returns how many changes there were.
    pub(crate) fn changes(&self) -> usize {
        self.machine.lock().journal.as_ref().map_or(0, Vec::len)
    }

    /// Returns all changes.
    pub(crate) fn journal(&self) -> Vec<Change> {
        self.machine.lock().journal.clone().unwrap_or_default()
    }

    /// Does what another disk recorded.
    pub(crate) fn apply(&self, change: &Change) {
        self.machine.lock().disk.apply(change);
    }

    /// Returns the content of a file.
    pub(crate) fn content(&self, name: &str) -> Option<Vec<u8>> {
        let disk = &self.machine.lock().disk;
        let inode = disk.names.get(name)?;
        Some(disk.files[inode].now.clone())
    }

    /// Replaces the content of a file, or makes one, on the disk, too.
    pub(crate) fn overwrite(&self, name: &str, bytes: Vec<u8>) {
        let disk = &mut self.machine.lock().disk;
        if !disk.names.contains_key(name) {
            let name = name.to_owned();
            disk.apply(&Change::Create { name });
            disk.apply(&Change::SyncNames);
        }
        let inode = disk.names[name];
        disk.files.insert(inode, Content::on_disk(bytes));
    }

    /// Returns the disk as it is when the process was killed: all that was written is there, and
    /// what was not synced is not safer than before.
    pub(crate) fn after_kill(&self) -> Self {
        Self::of(self.machine.lock().disk.clone())
    }

    /// Returns the disk as it may be after a power cut.
    pub(crate) fn after_power_cut(&self, random: &mut Random) -> Self {
        Self::of(self.machine.lock().disk.cut(random))
    }

    fn of(disk: Disk) -> Self {
        Self {
            machine: Arc::new(Mutex::new(Machine {
                disk,
                ..Machine::default()
            })),
        }
    }

    fn file(&self, inode: Inode) -> Arc<dyn LogFile> {
        let machine = Arc::clone(&self.machine);
        Arc::new(SimFile { machine, inode })
    }
}

impl Machine {
    /// Counts an operation. Returns whether it is the one that fails.
    fn count(&mut self) -> io::Result<bool> {
        if self.is_off {
            return Err(io::Error::other("the power is off"));
        }
        self.operations += 1;
        let fails = self.faults.at == Some(self.operations);
        match self.faults.kind {
            FaultKind::PowerCut if fails => {
                self.is_off = true;
                Err(io::Error::other("the power went off"))
            }
            FaultKind::Error if fails => Err(io::Error::other("the disk failed")),
            _ => Ok(fails),
        }
    }

    /// Counts an operation that can be interrupted.
    fn count_transfer(&mut self) -> io::Result<bool> {
        match self.count()? && self.faults.kind == FaultKind::Interrupted {
            true => Err(io::ErrorKind::Interrupted.into()),
            false => Ok(self.faults.at == Some(self.operations)),
        }
    }

    fn change(&mut self, change: Change) {
        self.disk.apply(&change);
        if let Some(journal) = &mut self.journal {
            journal.push(change);
        }
    }

    fn inode(&self, name: &str) -> io::Result<Inode> {
        let inode = self.disk.names.get(name).copied();
        inode.ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Fs for SimFs {
    fn names(&self) -> io::Result<Vec<String>> {
        let mut machine = self.machine.lock();
        machine.count()?;
        Ok(machine.disk.names.keys().cloned().collect())
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn LogFile>> {
        let mut machine = self.machine.lock();
        machine.count()?;
        if machine.disk.names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let inode = machine.disk.next();
        let name = name.to_owned();
        machine.change(Change::Create { name });
        drop(machine);
        Ok(self.file(inode))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn LogFile>> {
        let mut machine = self.machine.lock();
        machine.count()?;
        let inode = machine.inode(name)?;
        drop(machine);
        Ok(self.file(inode))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut machine = self.machine.lock();
        machine.count()?;
        machine.inode(from)?;
        let (from, to) = (from.to_owned(), to.to_owned());
        machine.change(Change::Rename { from, to });
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut machine = self.machine.lock();
        machine.count()?;
        machine.inode(name)?;
        let name = name.to_owned();
        machine.change(Change::Remove { name });
        Ok(())
    }

    fn sync_names(&self) -> io::Result<()> {
        let mut machine = self.machine.lock();
        machine.count()?;
        if !machine.faults.lies {
            machine.change(Change::SyncNames);
        }
        Ok(())
    }
}

impl LogFile for SimFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let mut machine = self.machine.lock();
        let fails = machine.count_transfer()?;
        let kind = machine.faults.kind;
        let taken = if fails {
            bytes.len().div_ceil(2)
        } else {
            bytes.len()
        };
        machine.change(Change::Write {
            inode: self.inode,
            offset: offset as usize,
            bytes: bytes[..taken].to_vec(),
        });
        match fails && kind == FaultKind::NoSpace {
            true => Err(io::ErrorKind::StorageFull.into()),
            false => Ok(taken),
        }
    }

    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut machine = self.machine.lock();
        let fails = machine.count_transfer()?;
        let content = &machine.disk.files[&self.inode].now;
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
        let mut machine = self.machine.lock();
        machine.count()?;
        Ok(machine.disk.files[&self.inode].now.len() as u64)
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        let mut machine = self.machine.lock();
        machine.count()?;
        machine.change(Change::Truncate {
            inode: self.inode,
            length: length as usize,
        });
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut machine = self.machine.lock();
        let inode = self.inode;
        if let Err(error) = machine.count() {
            if !machine.is_off {
                machine.change(Change::FailedSync { inode });
            }
            return Err(error);
        }
        if !machine.faults.lies {
            machine.change(Change::Sync { inode });
        }
        Ok(())
    }
}
