//! What travels: a number that says where it belongs, the time it was meant to
//! be sent at, and a checksum over all of it.

/// A payload of `WORDS` times eight bytes; at least two.
///
/// | word | holds |
/// |---|---|
/// | 0 | publisher (12 bits), topic (16), sequence (36) |
/// | 1 | intended send time in nanoseconds (40 bits, zero: not stamped), checksum (24) |
/// | others | filler that follows from word 0 |
#[derive(Clone, Copy)]
pub struct Payload<const WORDS: usize>([u64; WORDS]);

/// Which message of whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    pub publisher: usize,
    pub topic: usize,
    /// Counts what this publisher sent to this topic, from zero.
    pub sequence: u64,
}

pub const MAX_PUBLISHERS: usize = 1 << 12;
pub const MAX_TOPICS: usize = 1 << 16;
/// Stamps count from the start of a run and wrap after 18 minutes.
pub const MAX_RUN_SECONDS: u64 = (1 << TIME_BITS) / 1_000_000_000;

const SEQUENCE_BITS: u32 = 36;
const TOPIC_BITS: u32 = 16;
const TIME_BITS: u32 = 40;
const SUM_BITS: u32 = 24;
/// Odd and well mixed: the golden ratio in 64 bits.
const SPREAD: u64 = 0x9E37_79B9_7F4A_7C15;

impl Head {
    /// Everything in one word.
    pub fn word(self) -> u64 {
        let publisher = (self.publisher as u64) << (SEQUENCE_BITS + TOPIC_BITS);
        publisher | (self.topic as u64) << SEQUENCE_BITS | self.sequence
    }

    fn of(word: u64) -> Self {
        let field = |shift: u32, bits: u32| word >> shift & ((1 << bits) - 1);
        Self {
            publisher: (word >> (SEQUENCE_BITS + TOPIC_BITS)) as usize,
            topic: field(SEQUENCE_BITS, TOPIC_BITS) as usize,
            sequence: field(0, SEQUENCE_BITS),
        }
    }
}

impl<const WORDS: usize> Payload<WORDS> {
    /// What a ring is filled with before anything was sent.
    #[cfg(feature = "peers")]
    pub const EMPTY: Self = Self([0; WORDS]);

    const FILLER: [u64; WORDS] = {
        assert!(WORDS >= 2, "word 0 and word 1 are always there");
        let mut filler = [0; WORDS];
        let mut at = 2;
        while at < WORDS {
            filler[at] = SPREAD.wrapping_mul(at as u64);
            at += 1;
        }
        filler
    };

    /// `sent_ns` of zero: not stamped.
    #[inline]
    pub fn new(head: Head, sent_ns: u64) -> Self {
        let mut words = Self::FILLER;
        words[0] = head.word();
        for word in &mut words[2..] {
            *word ^= words_key(head.word());
        }
        words[1] = sent_ns << SUM_BITS;
        words[1] |= sum(&words);
        Self(words)
    }

    #[inline]
    pub fn head(&self) -> Head {
        Head::of(self.0[0])
    }

    /// When it was meant to be sent, if it was stamped.
    #[inline]
    pub fn sent_ns(&self) -> Option<u64> {
        let sent_ns = self.0[1] >> SUM_BITS;
        (sent_ns != 0).then_some(sent_ns)
    }

    /// Whether every byte is as it was sent.
    #[inline]
    pub fn is_sound(&self) -> bool {
        self.0[1] & ((1 << SUM_BITS) - 1) == sum(&self.0)
    }
}

fn words_key(head: u64) -> u64 {
    head.wrapping_mul(SPREAD)
}

/// Adding up is enough for what could go wrong here (a torn, stale or foreign
/// slot), and cheap enough not to hide the systems behind it.
#[inline]
fn sum(words: &[u64]) -> u64 {
    let sent = words[1] >> SUM_BITS;
    let rest = words[2..].iter().fold(0_u64, |sum, w| sum.wrapping_add(*w));
    let all = words[0]
        .wrapping_add(sent.rotate_left(17))
        .wrapping_add(rest);
    all.wrapping_mul(SPREAD) >> (u64::BITS - SUM_BITS)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: Head = Head {
        publisher: MAX_PUBLISHERS - 1,
        topic: MAX_TOPICS - 1,
        sequence: (1 << SEQUENCE_BITS) - 1,
    };

    #[test]
    fn a_payload_says_what_it_was_made_of() {
        let payload = Payload::<8>::new(HEAD, 123_456_789);
        assert_eq!(payload.head(), HEAD);
        assert_eq!(payload.sent_ns(), Some(123_456_789));
        assert!(payload.is_sound());
        assert_eq!(Payload::<2>::new(HEAD, 0).sent_ns(), None);
    }

    #[test]
    fn sizes_are_what_they_say() {
        assert_eq!(size_of::<Payload<2>>(), 16);
        assert_eq!(size_of::<Payload<128>>(), 1_024);
    }

    #[test]
    fn one_flipped_bit_is_noticed() {
        for bit in 0..8 * 64 {
            let mut payload = Payload::<8>::new(HEAD, 77);
            payload.0[bit / 64] ^= 1 << (bit % 64);
            // A carry may hide in the 40 bits that the checksum leaves out.
            let hidden = bit / 64 != 1 && payload.is_sound();
            assert!(!hidden, "bit {bit}");
        }
    }

    #[test]
    fn a_slot_torn_between_two_messages_is_noticed() {
        let next = Head {
            sequence: 7,
            ..HEAD
        };
        let (a, b) = (Payload::<8>::new(HEAD, 1), Payload::<8>::new(next, 2));
        for seam in 1..8 {
            let mut torn = a;
            torn.0[seam..].copy_from_slice(&b.0[seam..]);
            assert!(!torn.is_sound(), "torn at word {seam}");
        }
    }
}
