//! The first expiry in a place where deliveries or messages wait, so that they end by themselves.
//!
//! The places are the lanes, the topics and their partitions. Each knows the first expiry of what
//! waits in it, or a time before that; it is never late.
//!
//! Steps. To *add* something that can expire, a thread puts it there, then *notes* its expiry. To
//! *look*, a thread forgets the first expiry, looks through the place, ends what has expired, and
//! notes the first expiry of the rest. A thread that leaves something there to rest has the wheel
//! *call* at the first expiry. A thread that needs the room asks whether that *has come*, and
//! looks.
//!
//! The feared interleaving: a look forgets the expiry of something that it doesn't see. All changes
//! of the word are read-modify-writes. A look that forgets a noted expiry has read it, and so sees
//! what was put there before.
//!
//! A place where nothing can expire costs one load for each turn.

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

    /// Notes that something in the place expires then, or never. Returns `true` if it is the first.
    pub(crate) fn note(&self, expires_ns: u64) -> bool {
        // ORDERING: release, with the acquire in `forget`; see the module's text.
        expires_ns != NEVER && expires_ns < self.first_ns.fetch_min(expires_ns, Ordering::AcqRel)
    }

    /// Begins a look. The caller looks now, and notes what is left.
    pub(crate) fn begin_look(&self, engine: &Engine) {
        self.forget();
        self.cancel(engine);
    }

    /// Forgets the first expiry and returns it. The caller notes what is still there.
    pub(crate) fn forget(&self) -> u64 {
        self.first_ns.swap(NEVER, Ordering::AcqRel)
    }

    /// Returns whether anything in the place is known to expire.
    pub(crate) fn is_known(&self) -> bool {
        self.first_ns.load(Ordering::Relaxed) != NEVER
    }

    /// Returns whether it is time to look.
    pub(crate) fn has_come(&self, engine: &Engine) -> bool {
        let first_ns = self.first_ns.load(Ordering::Relaxed);
        first_ns != NEVER && engine.clock.now_ns() >= first_ns
    }

    /// Has `target` look again at the first expiry.
    pub(crate) fn call(&self, engine: &Engine, target: Arc<dyn Fire>) {
        let first_ns = self.first_ns.load(Ordering::Relaxed);
        if first_ns != NEVER {
            let delay_ns = first_ns.saturating_sub(engine.clock.now_ns());
            self.call.lock().set(engine, Some(delay_ns), target);
        }
    }

    /// Takes the call back, because nothing waits in the place any more.
    pub(crate) fn cancel(&self, engine: &Engine) {
        self.call.lock().cancel(engine);
    }
}
