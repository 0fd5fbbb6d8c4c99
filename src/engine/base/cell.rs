//! The one compare-and-swap loop of the crate.

use std::fmt;
use std::marker::PhantomData;

use crate::pure::words::Packed;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::mutant;

/// A pure machine in one machine word.
pub struct Cell<S> {
    word: AtomicU64,
    state: PhantomData<S>,
}

impl<S: Packed> Cell<S> {
    /// Makes a cell in this state.
    pub fn new(state: S) -> Self {
        Self {
            word: AtomicU64::new(state.pack()),
            state: PhantomData,
        }
    }

    /// Returns the state now. The caller sees everything that happened before the cell entered it.
    pub fn load(&self) -> S {
        // ORDERING: acquire pairs with the release half of `update`.
        S::unpack(self.word.load(Ordering::Acquire))
    }

    /// Takes one step and returns what the step returned.
    ///
    /// All steps on one cell have one order. A step that changes nothing writes nothing, so it
    /// publishes nothing either. A caller that must be seen by the next step fences first, as
    /// [`TaskState`](crate::engine::base::task_state::TaskState) does.
    pub fn update<A>(&self, mut step: impl FnMut(S) -> (S, A)) -> A {
        let mut word = self.word.load(Ordering::Acquire);
        loop {
            let (next, answer) = step(S::unpack(word));
            let next = next.pack();
            if next == word {
                return answer;
            }
            // ORDERING: release publishes what was done before the step to every thread that sees
            // the new state. Acquire shows us what was done before the state that we leave.
            let order = mutant!(Ordering::AcqRel, "cell.order", Ordering::Relaxed);
            let moved = mutant!(
                self.word
                    .compare_exchange_weak(word, next, order, Ordering::Acquire),
                "cell.swap",
                {
                    self.word.store(next, order);
                    Ok(word)
                }
            );
            match moved {
                Ok(_) => return answer,
                Err(found) => word = found,
            }
        }
    }

    /// Takes one step, as [`update`](Self::update) does, for a caller that is the only writer.
    /// Every other thread that changes the cell holds a lock that the caller holds. Readers need
    /// none.
    #[inline(always)]
    pub fn update_alone<A>(&self, step: impl FnOnce(S) -> (S, A)) -> A {
        let (next, answer) = step(S::unpack(self.word.load(Ordering::Relaxed)));
        // ORDERING: release, as in `update`; the lock orders the writers.
        self.word.store(next.pack(), Ordering::Release);
        answer
    }
}

impl<S: Packed + fmt::Debug> fmt::Debug for Cell<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.load().fmt(f)
    }
}
