//! One module per protocol. What each shows, and what none does, is in README.md.
#![cfg(millstream_loom)]

mod books;
mod buffer;
mod drain;
mod eviction;
mod gate;
mod group;
mod handles;
mod keys;
mod lag;
mod lanes;
mod loans;
mod mutants;
mod observers;
mod partitions;
mod patterns;
mod pull;
mod quiet;
mod redrive;
mod requests;
mod retry;
mod room;
mod schedule;
mod sleep;
mod snapshot;
mod swap;
mod tail;
mod threads;
mod unsubscribe;
mod waiters;
