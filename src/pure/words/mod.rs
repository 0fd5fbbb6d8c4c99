//! State that fits one atomic word, and the steps from one such state to the next.
//!
//! Each step is a pure function. `engine/base/cell.rs` applies it to the shared word.

pub(crate) mod ending;
pub(crate) mod handles;
pub(crate) mod idle;
pub(crate) mod news;
pub(crate) mod room;
pub(crate) mod schedule;
pub(crate) mod start;
pub(crate) mod tickets;

/// A state that fits one machine word, so that a single compare-and-swap can move it. The machines
/// of this directory implement it.
pub trait Packed: Copy {
    /// Returns the word that stands for this state.
    fn pack(self) -> u64;
    /// Returns the state that a word stands for.
    fn unpack(word: u64) -> Self;
}

impl Packed for u64 {
    fn pack(self) -> u64 {
        self
    }

    #[inline(always)]
    fn unpack(word: u64) -> Self {
        word
    }
}

impl Packed for u32 {
    fn pack(self) -> u64 {
        u64::from(self)
    }

    #[inline(always)]
    fn unpack(word: u64) -> Self {
        word as u32
    }
}

impl Packed for bool {
    fn pack(self) -> u64 {
        u64::from(self)
    }

    #[inline(always)]
    fn unpack(word: u64) -> Self {
        word != 0
    }
}

impl Packed for Option<std::num::NonZeroU64> {
    fn pack(self) -> u64 {
        self.map_or(0, std::num::NonZeroU64::get)
    }

    fn unpack(word: u64) -> Self {
        std::num::NonZeroU64::new(word)
    }
}
