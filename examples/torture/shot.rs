//! What is published: a payload that can be told apart, and that can be nasty.

use std::panic::panic_any;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Instant;

/// Payloads that exist now. Each must be dropped exactly once.
static ALIVE: AtomicI64 = AtomicI64::new(0);

/// The panic of a payload's destructor: nothing to allocate, nothing to leak.
pub struct Bang;

/// A payload.
pub struct Shot {
    pub topic: u32,
    /// Whose it is: in its topic, each publisher numbers its own.
    pub stream: u32,
    /// The first of a stream is 1.
    pub sequence: u64,
    /// Before this, no handler may see it. Such ones are not part of their stream.
    pub due: Option<Instant>,
    /// It comes after those of its stream that were accepted before it.
    pub in_order: bool,
    /// How often a handler may still pass it on.
    pub hops: u8,
    /// Its destructor panics.
    pub bomb: bool,
    seal: u64,
}

impl Shot {
    pub fn new(topic: u32, stream: u32, sequence: u64) -> Self {
        ALIVE.fetch_add(1, Ordering::Relaxed);
        Self {
            topic,
            stream,
            sequence,
            due: None,
            in_order: true,
            hops: 0,
            bomb: false,
            seal: seal(topic, stream, sequence),
        }
    }

    /// The most that any weighs.
    pub const HEAVIEST: u64 = 7;

    pub fn weight(&self) -> u64 {
        self.sequence % (Self::HEAVIEST + 1)
    }

    /// Whether it is what was published.
    pub fn is_whole(&self) -> bool {
        self.seal == seal(self.topic, self.stream, self.sequence)
    }

    /// Takes it back from a publish that was refused.
    pub fn defuse(mut self) {
        self.bomb = false;
    }

    pub fn alive() -> i64 {
        ALIVE.load(Ordering::Relaxed)
    }
}

impl Drop for Shot {
    fn drop(&mut self) {
        ALIVE.fetch_sub(1, Ordering::Relaxed);
        self.seal = 0;
        if self.bomb {
            panic_any(Bang);
        }
    }
}

fn seal(topic: u32, stream: u32, sequence: u64) -> u64 {
    let place = u64::from(topic) << 32 | u64::from(stream);
    (sequence ^ place.rotate_left(17)).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1
}
