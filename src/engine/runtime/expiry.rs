//! When something that waits in a place may have outlived its time to live, so that
//! it ends by itself.
//!
//! The places are the lanes, the topics and their partitions. Each knows the first
//! expiry of what waits in it, or a time before that; it is never late. Steps. Who
//! *adds* something that can expire puts it there, then *notes* its expiry. Who
//! *looks* forgets the first expiry, looks through what is there, ends what has
//! expired, and notes the first of what is left. Who leaves something there to rest
//! has the wheel *call* at the first expiry. Whoever needs the room asks whether that
//! *has come*, and looks.
//!
//! The feared interleaving: what is added is not seen by a look that forgets its expiry.
//! All that change the word are read-modify-writes: a look that forgets what was noted has
//! read it, and so sees what was put there before.
//!
//! What can't expire costs one load for each turn.

use crate::engine::runtime::Engine;
use crate::engine::runtime::linger::Linger;
use crate::engine::wait::fire::Fire;
use crate::pure::decide::expiry::NEVER;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Arc, Mutex};

/// The first expiry in one place.
pub(crate) struct Expiry {
    first_ns: AtomicU64,
    call: Mutex<Linger>,
}

impl Expiry {
    pub(crate) fn new() -> Self {
        Self {
            first_ns: AtomicU64::new(NEVER),
            call: Mutex::new(Linger::default()),
        }
    }

    /// Something that is there expires then, or never. `true`: it is the first.
    pub(crate) fn note(&self, expires_ns: u64) -> bool {
        // ORDERING: release, with the acquire in `forget`; see the module's text.
        expires_ns != NEVER && expires_ns < self.first_ns.fetch_min(expires_ns, Ordering::AcqRel)
    }

    /// Whoever calls this looks now, and notes what is left.
    pub(crate) fn begin_look(&self, engine: &Engine) {
        self.forget();
        self.cancel(engine);
    }

    /// Whoever calls this says what is there.
    pub(crate) fn forget(&self) -> u64 {
        self.first_ns.swap(NEVER, Ordering::AcqRel)
    }

    /// Whether anything there is known to expire.
    pub(crate) fn is_known(&self) -> bool {
        self.first_ns.load(Ordering::Relaxed) != NEVER
    }

    /// Whether to look.
    pub(crate) fn has_come(&self, engine: &Engine) -> bool {
        let first_ns = self.first_ns.load(Ordering::Relaxed);
        first_ns != NEVER && engine.clock.now_ns() >= first_ns
    }

    /// Has `target` look again when the first of what waits expires.
    pub(crate) fn call(&self, engine: &Engine, target: Arc<dyn Fire>) {
        let first_ns = self.first_ns.load(Ordering::Relaxed);
        if first_ns != NEVER {
            let delay_ns = first_ns.saturating_sub(engine.clock.now_ns());
            self.call.lock().set(engine, Some(delay_ns), target);
        }
    }

    /// Nothing waits there any more.
    pub(crate) fn cancel(&self, engine: &Engine) {
        self.call.lock().cancel(engine);
    }
}
