//! A file system in memory.

use std::collections::BTreeMap;
use std::io;

use crate::log::fs::{Fs, LogFile};
use crate::sync::{Arc, Mutex};

type Inode = u64;

#[derive(Clone, Default)]
struct Disk {
    files: BTreeMap<Inode, Vec<u8>>,
    names: BTreeMap<String, Inode>,
    next: Inode,
}

/// A file system in memory.
#[derive(Clone, Default)]
pub(crate) struct SimFs {
    disk: Arc<Mutex<Disk>>,
}

struct SimFile {
    disk: Arc<Mutex<Disk>>,
    inode: Inode,
}

impl SimFs {
    /// Returns the disk as it is when the process was killed: all that was written is there.
    pub(crate) fn after_kill(&self) -> Self {
        let disk = self.disk.lock().clone();
        Self {
            disk: Arc::new(Mutex::new(disk)),
        }
    }
}

impl Disk {
    fn inode(&self, name: &str) -> io::Result<Inode> {
        let inode = self.names.get(name).copied();
        inode.ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Fs for SimFs {
    fn names(&self) -> io::Result<Vec<String>> {
        let disk = self.disk.lock();
        Ok(disk.names.keys().cloned().collect())
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn LogFile>> {
        let mut disk = self.disk.lock();
        if disk.names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let inode = disk.next;
        disk.next += 1;
        disk.files.insert(inode, Vec::new());
        disk.names.insert(name.to_owned(), inode);
        drop(disk);
        let disk = Arc::clone(&self.disk);
        Ok(Arc::new(SimFile { disk, inode }))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn LogFile>> {
        let inode = self.disk.lock().inode(name)?;
        let disk = Arc::clone(&self.disk);
        Ok(Arc::new(SimFile { disk, inode }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut disk = self.disk.lock();
        let inode = disk.inode(from)?;
        disk.names.remove(from);
        disk.names.insert(to.to_owned(), inode);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut disk = self.disk.lock();
        disk.inode(name)?;
        disk.names.remove(name);
        Ok(())
    }

    fn sync_names(&self) -> io::Result<()> {
        Ok(())
    }
}

impl LogFile for SimFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let mut disk = self.disk.lock();
        let content = disk.files.get_mut(&self.inode).expect("it was made");
        let start = offset as usize;
        let end = start + bytes.len();
        if content.len() < end {
            content.resize(end, 0);
        }
        content[start..end].copy_from_slice(bytes);
        Ok(bytes.len())
    }

    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<usize> {
        let disk = self.disk.lock();
        let content = &disk.files[&self.inode];
        let rest = content.get(offset as usize..).unwrap_or_default();
        let read = rest.len().min(into.len());
        into[..read].copy_from_slice(&rest[..read]);
        Ok(read)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.lock().files[&self.inode].len() as u64)
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        let mut disk = self.disk.lock();
        let content = disk.files.get_mut(&self.inode).expect("it was made");
        content.resize(length as usize, 0);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}
