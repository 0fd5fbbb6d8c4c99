//! Whom it compares.

pub mod bare;
mod fjall;
pub mod ours;
mod redb;
mod sqlite;

use std::path::Path;

use crate::Plan;
use crate::measure::Outcome;
use crate::records::{Record, Tally};

/// A store that one thread writes to, in batches.
pub trait Written {
    /// Returns when a kill of the process can't take the batch, unless the system's note says
    /// otherwise.
    fn append(&mut self, batch: &[Record]) -> Outcome;

    /// Reads everything from the start.
    fn replay(&mut self) -> Outcome<Tally>;
}

/// A store that many threads write to.
pub trait Synced: Sync {
    /// Returns when a power cut can't take the record.
    fn append(&self, record: &Record) -> Outcome;
}

/// How to open a system in an empty directory.
pub struct System<S: ?Sized> {
    pub name: &'static str,
    pub note: &'static str,
    pub open: fn(&Path) -> Outcome<Box<S>>,
}

/// Returns the systems that write in batches, ours first.
pub fn written() -> Vec<System<dyn Written>> {
    vec![
        System {
            name: "millstream",
            note: "Durability::Written, payloads by value",
            open: |path| Ok(Box::new(ours::Ours::written(path)?)),
        },
        System {
            name: "millstream, Vec<u8>",
            note: "the same, and each payload is allocated",
            open: |path| Ok(Box::new(ours::Ours::allocated(path)?)),
        },
        System {
            name: "millstream, a subscriber",
            note: "by value, and a handler is called for each",
            open: |path| Ok(Box::new(ours::Subscribed::open(path)?)),
        },
        System {
            name: "fjall",
            note: "a batch with PersistMode::Buffer",
            open: |path| {
                Ok(Box::new(fjall::Fjall::open(
                    path,
                    ::fjall::PersistMode::Buffer,
                )?))
            },
        },
        System {
            name: "redb",
            note: "Durability::None, the level below Immediate: a kill takes it",
            open: |path| Ok(Box::new(redb::Redb::open(path, ::redb::Durability::None)?)),
        },
        System {
            name: "SQLite",
            note: "WAL, synchronous=OFF",
            open: |path| Ok(Box::new(sqlite::Sqlite::open(path, "OFF")?)),
        },
        System {
            name: "bare writes",
            note: "the same bytes, a write for each batch",
            open: |path| Ok(Box::new(bare::Bare::open(path)?)),
        },
    ]
}

/// Returns the systems that sync, ours first.
pub fn synced() -> Vec<System<dyn Synced>> {
    vec![
        System {
            name: "millstream",
            note: "Durability::Synced",
            open: |path| Ok(Box::new(ours::Ours::synced(path)?)),
        },
        System {
            name: "fjall",
            note: "a batch with PersistMode::SyncData",
            open: |path| {
                Ok(Box::new(fjall::Fjall::open(
                    path,
                    ::fjall::PersistMode::SyncData,
                )?))
            },
        },
        System {
            name: "redb",
            note: "Durability::Immediate",
            open: |path| {
                Ok(Box::new(redb::Redb::open(
                    path,
                    ::redb::Durability::Immediate,
                )?))
            },
        },
        System {
            name: "SQLite",
            note: "WAL, synchronous=FULL, one connection",
            open: |path| Ok(Box::new(sqlite::Shared::open(path, "FULL")?)),
        },
    ]
}

impl Plan {
    /// Returns whether a system is to be measured. Ours is, with whatever else.
    pub fn takes(&self, name: &str) -> bool {
        let wanted = self.system.as_deref();
        wanted.is_none_or(|wanted| name == "millstream" || name.contains(wanted))
    }
}
