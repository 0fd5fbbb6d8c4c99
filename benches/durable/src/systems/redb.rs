//! redb: a copy-on-write B-tree. Its keys are the records' numbers.

use std::path::Path;

use redb::{
    Database, Durability, ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition,
};

use crate::measure::Outcome;
use crate::records::{Record, Tally};
use crate::systems::{Synced, Written};

const LOG: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("log");

pub struct Redb {
    database: Database,
    durability: Durability,
}

impl Redb {
    pub fn open(path: &Path, durability: Durability) -> Outcome<Self> {
        std::fs::create_dir(path)?;
        let database = Database::create(path.join("redb"))?;
        Ok(Self {
            database,
            durability,
        })
    }

    fn commit(&self, records: &[Record]) -> Outcome {
        let mut transaction = self.database.begin_write()?;
        transaction.set_durability(self.durability)?;
        {
            let mut log = transaction.open_table(LOG)?;
            let first = log.len()?;
            for (seq, record) in (first..).zip(records) {
                log.insert(seq, &record[..])?;
            }
        }
        Ok(transaction.commit()?)
    }
}

impl Written for Redb {
    fn append(&mut self, batch: &[Record]) -> Outcome {
        self.commit(batch)
    }

    fn replay(&mut self) -> Outcome<Tally> {
        let mut tally = Tally::default();
        let log = self.database.begin_read()?.open_table(LOG)?;
        for entry in log.iter()? {
            tally.add(entry?.1.value());
        }
        Ok(tally)
    }
}

impl Synced for Redb {
    fn append(&self, record: &Record) -> Outcome {
        self.commit(std::slice::from_ref(record))
    }
}
