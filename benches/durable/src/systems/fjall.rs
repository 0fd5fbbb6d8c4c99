//! fjall: a log-structured merge tree. Its keys are the records' numbers.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};

use crate::measure::Outcome;
use crate::records::{Record, Tally};
use crate::systems::{Synced, Written};

pub struct Fjall {
    database: Database,
    log: Keyspace,
    next: AtomicU64,
    mode: PersistMode,
}

impl Fjall {
    pub fn open(path: &Path, mode: PersistMode) -> Outcome<Self> {
        let database = Database::builder(path).open()?;
        let log = database.keyspace("log", KeyspaceCreateOptions::default)?;
        Ok(Self {
            database,
            log,
            next: AtomicU64::new(0),
            mode,
        })
    }

    fn commit(&self, records: &[Record]) -> Outcome {
        let first = self.next.fetch_add(records.len() as u64, Ordering::Relaxed);
        let mut batch = self.database.batch().durability(Some(self.mode));
        for (seq, record) in (first..).zip(records) {
            batch.insert(&self.log, seq.to_be_bytes(), record);
        }
        Ok(batch.commit()?)
    }
}

impl Written for Fjall {
    fn append(&mut self, batch: &[Record]) -> Outcome {
        self.commit(batch)
    }

    fn replay(&mut self) -> Outcome<Tally> {
        let mut tally = Tally::default();
        for entry in self.log.iter() {
            tally.add(&entry.value()?);
        }
        Ok(tally)
    }
}

impl Synced for Fjall {
    fn append(&self, record: &Record) -> Outcome {
        self.commit(std::slice::from_ref(record))
    }
}
