//! Which worker to wake, and when to wake none.
//!
//! Waking a parked thread costs the waker microseconds and the sleeper tens of them. So nobody is
//! woken while a worker is awake and looking for work: that one will find it. At most one worker
//! looks at a time; the others sleep.
//!
//! The feared interleaving: a publisher sees a searching worker and wakes nobody. Meanwhile that
//! worker has just looked for the last time and goes to sleep. It cannot happen. A worker that goes
//! to sleep first announces it here and *then* looks once more. If it finds something, it acts as a
//! waker. The publisher pushes first and *then* reads this word. Both sides have a sequentially
//! consistent fence between the two steps, so at least one of them sees the other. The shell is
//! [`crate::engine::base::sleep`]; the model is `loom-tests/tests/models/sleep.rs`. The idea is
//! rayon's and tokio's.

const HALF: u32 = 32;

/// The workers that are not working.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Idle {
    /// Workers that are awake and looking for work, or woken and about to look.
    pub searching: u32,
    /// Workers that sleep, and that nobody has promised to wake.
    pub sleeping: u32,
}

impl Idle {
    /// No worker searches or sleeps.
    pub const NOBODY: Self = Self {
        searching: 0,
        sleeping: 0,
    };

    /// Lets a worker without work look around. Returns `false` if another one does already.
    pub fn search(self) -> (Self, bool) {
        if self.searching > 0 {
            return (self, false);
        }
        (
            Self {
                searching: 1,
                ..self
            },
            true,
        )
    }

    /// Ends a worker's search, because it found something.
    pub fn found(self) -> (Self, ()) {
        self.assert_searching();
        let next = Self {
            searching: self.searching - 1,
            ..self
        };
        (next, ())
    }

    /// Sends a worker to sleep, `searching` or not.
    pub fn sleep(self, searching: bool) -> (Self, ()) {
        if searching {
            self.assert_searching();
        }
        let next = Self {
            searching: self.searching - u32::from(searching),
            sleeping: self.sleeping + 1,
        };
        (next, ())
    }

    /// Announces work. Returns `true` if the caller is to wake one sleeper. That one counts as
    /// searching already, so that two pieces of work don't wake two workers for one.
    pub fn wake(self) -> (Self, bool) {
        if self.searching > 0 || self.sleeping == 0 {
            return (self, false);
        }
        let next = Self {
            searching: 1,
            sleeping: self.sleeping - 1,
        };
        (next, true)
    }

    /// Checks that a worker searches, in release builds, too. Past zero, four thousand million
    /// workers would be searching, and nobody would be woken ever again.
    fn assert_searching(self) {
        assert!(self.searching > 0, "nobody searches: {self:?}");
    }
}

impl crate::pure::words::Packed for Idle {
    fn pack(self) -> u64 {
        u64::from(self.searching) | u64::from(self.sleeping) << HALF
    }

    fn unpack(word: u64) -> Self {
        Self {
            searching: word as u32,
            sleeping: (word >> HALF) as u32,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pure::words::Packed;

    #[test]
    fn every_count_survives_packing() {
        let idle = Idle {
            searching: 3,
            sleeping: 70_000,
        };
        assert_eq!(Idle::unpack(idle.pack()), idle);
    }

    #[test]
    fn only_one_worker_searches() {
        let (idle, searching) = Idle::NOBODY.search();
        assert!(searching);
        assert!(!idle.search().1);
        assert_eq!(idle.found().0, Idle::NOBODY);
    }

    #[test]
    fn nobody_is_woken_while_somebody_searches() {
        let (idle, ()) = Idle::NOBODY.sleep(false);
        let (searching, _) = idle.search();
        assert!(!searching.wake().1);
        let (woken, wake) = idle.wake();
        assert!(wake);
        assert_eq!((woken.searching, woken.sleeping), (1, 0));
        assert!(!woken.wake().1, "the woken one counts as searching");
    }

    #[test]
    #[should_panic = "nobody searches: Idle { searching: 0, sleeping: 2 }"]
    fn who_finds_without_searching_is_told_the_state() {
        let (idle, ()) = Idle::NOBODY.sleep(false);
        let _ = idle.sleep(false).0.found();
    }

    #[test]
    #[should_panic = "nobody searches: Idle { searching: 0, sleeping: 0 }"]
    fn who_falls_asleep_without_searching_is_told_the_state() {
        let _ = Idle::NOBODY.sleep(true);
    }

    #[test]
    fn a_searcher_that_sleeps_can_be_woken() {
        let (idle, _) = Idle::NOBODY.search();
        let (idle, ()) = idle.sleep(true);
        assert_eq!((idle.searching, idle.sleeping), (0, 1));
        assert!(idle.wake().1);
    }
}
