//! What handlers return.

use millstream::Nack;

use crate::program::ticks;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    Ack,
    Retry,
    RetryAfter(u64),
    /// Only callers say it.
    Snooze(u64),
    DeadLetter,
    Discard,
    Panic,
}

/// What a handler answers: a pure function of message, subscription and attempt.
pub fn answer(id: u64, slot: usize, attempt: u32) -> Answer {
    let mut hash = id * 0x9e37_79b9 + slot as u64 * 0x85eb_ca6b + u64::from(attempt) * 0xc2b2_ae35;
    hash ^= hash >> 15;
    hash = hash.wrapping_mul(0x2c1b_3c6d_297a_2d39);
    hash ^= hash >> 29;
    match hash % 20 {
        0..=9 => Answer::Ack,
        10..=13 => Answer::Retry,
        14 => Answer::RetryAfter(hash / 20 % 9),
        15 => Answer::DeadLetter,
        16 => Answer::Discard,
        _ => Answer::Panic,
    }
}

/// What becomes of one element of a batch. It is nacked alone: which messages
/// share a batch is not the model's to know, so none may suffer for another.
pub fn batch_answer(id: u64, slot: usize) -> Answer {
    match answer(id, slot, 1) {
        Answer::Panic => Answer::Retry,
        said => said,
    }
}

pub fn nack(said: Answer) -> Result<(), Nack> {
    match said {
        Answer::Ack => Ok(()),
        Answer::Retry => Err(Nack::retry("again")),
        Answer::RetryAfter(after) => Err(Nack::retry_after(ticks(after), "again, later")),
        Answer::Snooze(after) => Err(Nack::snooze(ticks(after), "not yet")),
        Answer::DeadLetter => Err(Nack::dead_letter("never")),
        Answer::Discard => Err(Nack::discard("never mind")),
        Answer::Panic => std::panic::resume_unwind(Box::new("no")),
    }
}
