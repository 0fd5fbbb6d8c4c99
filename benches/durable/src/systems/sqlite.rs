//! SQLite with a write-ahead log. Its keys are the records' numbers.

use std::path::Path;
use std::sync::Mutex;

use rusqlite::Connection;

use crate::measure::Outcome;
use crate::records::{Record, Tally};
use crate::systems::{Synced, Written};

pub struct Sqlite(Connection);

impl Sqlite {
    pub fn open(path: &Path, synchronous: &str) -> Outcome<Self> {
        std::fs::create_dir(path)?;
        let connection = Connection::open(path.join("sqlite"))?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", synchronous)?;
        connection
            .execute_batch("CREATE TABLE log (seq INTEGER PRIMARY KEY, record BLOB NOT NULL)")?;
        Ok(Self(connection))
    }
}

impl Written for Sqlite {
    fn append(&mut self, batch: &[Record]) -> Outcome {
        let transaction = self.0.transaction()?;
        {
            let mut insert = transaction.prepare_cached("INSERT INTO log (record) VALUES (?1)")?;
            for record in batch {
                insert.execute([&record[..]])?;
            }
        }
        Ok(transaction.commit()?)
    }

    fn replay(&mut self) -> Outcome<Tally> {
        let mut tally = Tally::default();
        let mut select = self.0.prepare("SELECT record FROM log ORDER BY seq")?;
        let mut rows = select.query([])?;
        while let Some(row) = rows.next()? {
            tally.add(row.get_ref(0)?.as_blob()?);
        }
        Ok(tally)
    }
}

/// One connection for many threads. More of them would wait for each other, and by the clock.
pub struct Shared(Mutex<Sqlite>);

impl Shared {
    pub fn open(path: &Path, synchronous: &str) -> Outcome<Self> {
        Ok(Self(Mutex::new(Sqlite::open(path, synchronous)?)))
    }
}

impl Synced for Shared {
    fn append(&self, record: &Record) -> Outcome {
        let mut sqlite = self.0.lock().map_err(|_| "a publisher panicked")?;
        Written::append(&mut *sqlite, std::slice::from_ref(record))
    }
}
