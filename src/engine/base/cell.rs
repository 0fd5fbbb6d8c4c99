//! The one compare-and-swap loop of the crate.

use std::fmt;
use std::marker::PhantomData;

use crate::pure::words::Packed;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Word, mutant};

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

/// A setting that may change while traffic runs. A read costs what a read of a field does.
pub(crate) struct Setting<S> {
    word: Word,
    state: PhantomData<S>,
}

impl<S: Packed> Setting<S> {
    pub(crate) fn new(value: S) -> Self {
        Self {
            word: Word::new(value.pack()),
            state: PhantomData,
        }
    }

    #[inline(always)]
    pub(crate) fn get(&self) -> S {
        S::unpack(self.word.load())
    }

    /// Sets it. The caller then notifies those that are to act on it.
    pub(crate) fn set(&self, value: S) {
        self.word.store(value.pack());
    }
}

/// Whether others than a queue's owner may take from it, too. They ask, and the owner agrees
/// between two takes of its own. From then on the owner takes as the others do. It is never taken
/// back.
///
/// The feared interleaving: the owner, which believes to be alone, takes a newer batch while
/// another thread has the older one in its hands. But nobody else takes before the owner has
/// agreed.
pub(crate) struct Shared(Word);

impl Shared {
    const ASKED: u64 = 1;
    const AGREED: u64 = 2;

    pub(crate) fn new(is_agreed: bool) -> Self {
        Self(Word::new(if is_agreed { Self::AGREED } else { 0 }))
    }

    /// Asks the owner. The caller then notifies it.
    pub(crate) fn ask(&self) {
        self.0.raise(Self::ASKED);
    }

    /// Agrees, for the owner, if somebody has asked. Returns `true` if it agrees only now.
    #[inline(always)]
    pub(crate) fn agree_if_asked(&self) -> bool {
        let is_asked = self.0.load() == Self::ASKED;
        if is_asked {
            self.0.raise(Self::AGREED);
        }
        is_asked
    }

    #[inline(always)]
    pub(crate) fn is_agreed(&self) -> bool {
        self.0.load() == Self::AGREED
    }
}

impl<S: Packed + fmt::Debug> fmt::Debug for Cell<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.load().fmt(f)
    }
}
