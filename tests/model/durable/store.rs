//! Where a program has its store.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// A directory of a program's own, which goes with it.
pub struct Directory(PathBuf);

impl Directory {
    pub fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("millstream-model-{}-{number}", std::process::id());
        // Nothing here asks what a sync has done, so memory is as good as a disk, and quicker.
        let memory = Path::new("/dev/shm");
        let parent = match memory.is_dir() {
            true => memory,
            false => Path::new(env!("CARGO_TARGET_TMPDIR")),
        };
        Self(parent.join(name))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// A copy of the files as they are, which is what a process that is killed now leaves.
    pub fn copy(&self) -> Self {
        let copy = Self::new();
        fs::create_dir_all(&copy.0).expect("a directory of our own");
        let files = fs::read_dir(&self.0).expect("the store is there");
        for file in files {
            let file = file.expect("it is readable");
            match fs::copy(file.path(), copy.0.join(file.file_name())) {
                Ok(_) => {}
                // It had a name for the time being, and has its own now.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => panic!("{error}"),
            }
        }
        copy
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
