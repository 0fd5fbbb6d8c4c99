//! The process from outside: its memory, its threads, and stopping it.

use std::alloc::System;
use std::fs;
use std::process::{Child, Command};
use std::time::Duration;

use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// What [`fs`] shows of the memory's pages.
const PAGE: u64 = 4_096;

/// Bytes asked of the allocator and not given back.
pub fn heap_bytes() -> i64 {
    let stats = ALLOCATOR.stats();
    stats.bytes_allocated as i64 - stats.bytes_deallocated as i64
}

/// Bytes of memory the process occupies; `None` where the system doesn't say.
pub fn resident_bytes() -> Option<u64> {
    let statm = fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split(' ').nth(1)?.parse().ok()?;
    Some(pages * PAGE)
}

/// Threads of the process; `None` where the system doesn't say.
pub fn threads() -> Option<usize> {
    Some(fs::read_dir("/proc/self/task").ok()?.count())
}

/// Has somebody else stop this process, and let it go on after `pause`.
pub fn stop_for(pause: Duration) -> Option<Child> {
    if !cfg!(unix) {
        return None;
    }
    let id = std::process::id();
    let seconds = pause.as_secs_f64();
    let script = format!("kill -STOP {id}; sleep {seconds:.3}; kill -CONT {id}");
    Command::new("sh").arg("-c").arg(script).spawn().ok()
}
