//! The steps by which a broker ends. It never goes back.

/// How far a broker is on its way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Ending {
    /// The broker accepts and delivers.
    Running = 0,
    /// The broker opens no more topics, and closes those it has, one after the other.
    Closing = 1,
    /// All its topics are closed, at least to publishers outside of its handlers, and it delivers
    /// what it has.
    Draining = 2,
    /// The broker cancels what it has.
    Stopped = 3,
    /// Nobody holds the broker any more.
    Dropped = 4,
}

/// The publishes that an ending broker refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refuse {
    /// Publishes from outside of its own handlers, for now.
    Outside,
    /// All publishes.
    All,
}

impl Ending {
    /// Moves on to `next`. Returns `false` if it was there already, or further.
    pub fn advance(self, next: Self) -> (Self, bool) {
        (self.max(next), next > self)
    }
}

impl crate::pure::words::Packed for Ending {
    fn pack(self) -> u64 {
        self as u64
    }

    fn unpack(word: u64) -> Self {
        match word {
            0 => Self::Running,
            1 => Self::Closing,
            2 => Self::Draining,
            3 => Self::Stopped,
            _ => Self::Dropped,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Ending::{self, Closing, Draining, Dropped, Running, Stopped};
    use crate::pure::words::Packed;

    #[test]
    fn its_word_tells_every_stage() {
        for stage in [Running, Closing, Draining, Stopped, Dropped] {
            assert_eq!(Ending::unpack(stage.pack()), stage);
        }
    }

    #[test]
    fn an_end_is_reached_once_and_never_taken_back() {
        assert_eq!(Running.advance(Closing), (Closing, true));
        assert_eq!(Closing.advance(Closing), (Closing, false));
        assert_eq!(Closing.advance(Draining), (Draining, true));
        assert_eq!(Draining.advance(Draining), (Draining, false));
        assert_eq!(Running.advance(Stopped), (Stopped, true));
        assert_eq!(Stopped.advance(Draining), (Stopped, false));
        assert_eq!(Stopped.advance(Dropped), (Dropped, true));
    }
}
