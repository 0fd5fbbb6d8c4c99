//! All that the log asks of a file system, so that tests can stand in for it.

pub(crate) mod real;
#[cfg(test)]
pub(crate) mod sim;

use std::io;

use crate::sync::Arc;

/// A directory with files.
pub(crate) trait Fs: Send + Sync {
    /// Returns the names of the files, in any order.
    fn names(&self) -> io::Result<Vec<String>>;

    /// Makes a file that must not be there.
    fn create(&self, name: &str) -> io::Result<Arc<dyn LogFile>>;

    /// Opens a file that must be there, to read and to write.
    fn open(&self, name: &str) -> io::Result<Arc<dyn LogFile>>;

    /// Gives a file another name, in place of the file that has it.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    fn remove(&self, name: &str) -> io::Result<()>;

    /// Returns when the names of the files are safe from a power cut. Their content may not be.
    fn sync_names(&self) -> io::Result<()>;
}

/// A file of a directory.
pub(crate) trait LogFile: Send + Sync {
    /// Writes some of the bytes, at this offset, and returns how many.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize>;

    /// Reads some bytes from this offset on, and returns how many. None are left if it returns 0.
    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<usize>;

    fn len(&self) -> io::Result<u64>;

    /// Cuts the file to this length.
    fn truncate(&self, length: u64) -> io::Result<()>;

    /// Returns when the file's content and length are safe from a power cut.
    fn sync(&self) -> io::Result<()>;
}

/// Writes all of the bytes.
pub(crate) fn write_all(file: &dyn LogFile, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match file.write_at(bytes, offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                bytes = &bytes[written..];
                offset += written as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Fills `into` from this offset on, as far as the file goes. Returns how many bytes it read.
pub(crate) fn read_up_to(file: &dyn LogFile, into: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < into.len() {
        match file.read_at(&mut into[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Reads the whole file.
pub(crate) fn read_all(file: &dyn LogFile) -> io::Result<Vec<u8>> {
    let length = usize::try_from(file.len()?).map_err(|_| io::ErrorKind::FileTooLarge)?;
    let mut bytes = vec![0; length];
    let read = read_up_to(file, &mut bytes, 0)?;
    bytes.truncate(read);
    Ok(bytes)
}
