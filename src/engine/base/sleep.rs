//! Parking workers and waking them; the word and its argument are in [`crate::pure::words::idle`].

use crate::engine::base::cell::Cell;
use crate::pure::words::idle::Idle;
use crate::sync::atomic::Ordering;
use crate::sync::{Condvar, Mutex, fence, mutant};

/// The parked workers of a pool.
pub struct Sleep {
    idle: Cell<Idle>,
    permits: Mutex<usize>,
    condvar: Condvar,
}

impl Sleep {
    /// Makes it for a pool in which nobody sleeps.
    pub fn new() -> Self {
        Self {
            idle: Cell::new(Idle::NOBODY),
            permits: Mutex::new(0),
            condvar: Condvar::new(),
        }
    }

    /// Returns whether a worker without work should look around for a while.
    pub fn search(&self) -> bool {
        self.idle.update(Idle::search)
    }

    /// Ends a worker's search, because it found work. Others may have trusted in it to find theirs
    /// too, so if `more` returns `true`, it wakes a successor.
    pub fn found(&self, more: impl FnOnce() -> bool) {
        self.idle.update(Idle::found);
        // ORDERING: as in `sleep`: give up the role first, then look.
        fence(Ordering::SeqCst);
        if mutant!(more(), "sleep.successor", false) {
            self.wake_fenced();
        }
    }

    /// Parks the worker until it is woken. On return the worker counts as searching.
    pub fn sleep(&self, searching: bool, more: impl FnOnce() -> bool) {
        self.idle.update(|idle| idle.sleep(searching));
        // ORDERING: pairs with the fence in `wake`: we announced, now we look.
        mutant!(fence(Ordering::SeqCst), "sleep.fence");
        if mutant!(more(), "sleep.look", false) {
            self.wake_fenced();
        }
        let mut permits = self.permits.lock();
        while *permits == 0 {
            self.condvar.wait(&mut permits, None);
        }
        *permits -= 1;
    }

    /// Wakes a worker if need be. The caller has pushed work where workers look.
    pub fn wake(&self) {
        // ORDERING: pairs with the fence in `sleep`: we pushed, now we look.
        mutant!(fence(Ordering::SeqCst), "sleep.wake-fence");
        self.wake_fenced();
    }

    fn wake_fenced(&self) {
        if self.idle.update(Idle::wake) {
            *self.permits.lock() += 1;
            self.condvar.notify_one();
        }
    }

    /// Wakes all workers, for the end, which the caller has announced where workers look.
    pub fn wake_all(&self) {
        // ORDERING: pairs with the fence in `sleep`: we announced, now we look.
        mutant!(fence(Ordering::SeqCst), "sleep.wake-all-fence");
        let sleeping = self.idle.update(|idle| {
            let woken = Idle {
                searching: idle.searching + idle.sleeping,
                sleeping: 0,
            };
            (woken, idle.sleeping)
        });
        *self.permits.lock() += sleeping as usize;
        self.condvar.notify_all();
    }
}
