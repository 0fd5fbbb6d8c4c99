//! Writes without any of the promises.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use crate::measure::Outcome;
use crate::records::{BATCH, Record, SIZE, Tally};
use crate::systems::Written;

/// The bytes that each record takes in our log, beside its own.
const RECORD_HEAD: usize = 13;

/// The bytes of a frame beside its records.
const FRAME_HEAD: usize = 32;

/// The bytes of a frame of 64 records in our log.
pub const FRAME: usize = FRAME_HEAD + BATCH * (RECORD_HEAD + SIZE);

/// One write for each batch, as long as ours.
pub struct Bare {
    file: File,
    frame: Vec<u8>,
}

impl Bare {
    pub fn open(path: &Path) -> Outcome<Self> {
        let file = create(path)?;
        Ok(Self {
            file,
            frame: Vec::new(),
        })
    }
}

fn create(path: &Path) -> Outcome<File> {
    fs::create_dir(path)?;
    let mut options = File::options();
    Ok(options
        .read(true)
        .write(true)
        .create_new(true)
        .open(path.join("log"))?)
}

fn put(frame: &mut Vec<u8>, records: &[Record]) {
    frame.clear();
    frame.extend_from_slice(&[0; FRAME_HEAD]);
    for record in records {
        frame.extend_from_slice(&[0; RECORD_HEAD]);
        frame.extend_from_slice(record);
    }
}

impl Written for Bare {
    fn append(&mut self, batch: &[Record]) -> Outcome {
        put(&mut self.frame, batch);
        Ok(self.file.write_all(&self.frame)?)
    }

    fn replay(&mut self) -> Outcome<Tally> {
        let mut tally = Tally::default();
        self.file.seek(SeekFrom::Start(0))?;
        let mut buffer = vec![0; FRAME * 32];
        loop {
            let mut filled = 0;
            while filled < buffer.len() {
                match self.file.read(&mut buffer[filled..])? {
                    0 => break,
                    read => filled += read,
                }
            }
            if filled == 0 {
                return Ok(tally);
            }
            for frame in buffer[..filled].chunks(FRAME) {
                let records = frame[FRAME_HEAD..].chunks(RECORD_HEAD + SIZE);
                records.for_each(|record| tally.add(&record[RECORD_HEAD..]));
            }
        }
    }
}

/// Groups of records, each of which is written and synced.
pub struct Group {
    file: File,
    frame: Vec<u8>,
    room: u64,
    at: u64,
}

impl Group {
    /// Makes a file with this many zeros in it.
    pub fn open(path: &Path, room: u64) -> Outcome<Self> {
        let mut file = create(path)?;
        let zeros = vec![0; 1 << 20];
        for _ in 0..room / zeros.len() as u64 {
            file.write_all(&zeros)?;
        }
        file.sync_all()?;
        file.seek(SeekFrom::Start(0))?;
        Ok(Self {
            file,
            frame: Vec::new(),
            room,
            at: 0,
        })
    }

    pub fn write(&mut self, records: &[Record]) -> Outcome {
        put(&mut self.frame, records);
        let length = self.frame.len() as u64;
        if self.room > 0 && self.at + length > self.room {
            self.file.seek(SeekFrom::Start(0))?;
            self.at = 0;
        }
        self.at += length;
        Ok(self.file.write_all(&self.frame)?)
    }

    pub fn sync(&self) -> Outcome {
        Ok(self.file.sync_data()?)
    }
}
