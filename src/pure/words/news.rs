//! Numbers for events, and whether the thread that tells them sleeps.
//!
//! An emitter draws numbers first, then pushes its events, then notifies if it has found the teller
//! asleep. The teller sleeps only if every number drawn stands for an event that was told or
//! missed.
//!
//! The feared interleaving: the teller has found nothing and goes to sleep. Meanwhile an emitter
//! that believes it awake pushes an event, which waits for the next one. It cannot happen, because
//! both decide by one word, whose steps have one order. If the numbers were drawn first, the teller
//! sees that something is on its way and stays awake. If it was asleep first, the emitter sees
//! that. The shell is [`crate::engine::runtime::bus`]; the model is
//! `loom-tests/tests/models/observers.rs`.

const ASLEEP: u64 = 1 << 63;

/// The numbers of a broker's events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct News {
    /// Numbers given to events so far, which is also the last of them.
    pub drawn: u64,
    /// The teller sleeps, and nobody has promised to wake it.
    pub asleep: bool,
}

impl News {
    /// No event yet, and a teller that is awake.
    pub const NONE: Self = Self {
        drawn: 0,
        asleep: false,
    };

    /// Draws numbers for `events` events. Returns the first, and whether the teller is to be woken
    /// once they are pushed.
    pub fn draw(self, events: u64) -> (Self, (u64, bool)) {
        let next = Self {
            drawn: self.drawn + events,
            asleep: false,
        };
        (next, (self.drawn + 1, self.asleep))
    }

    /// Sends the teller to sleep, which has accounted for `known` events. Returns `false` if there
    /// are more, though they may not have been pushed yet.
    pub fn sleep(self, known: u64) -> (Self, bool) {
        let is_all = known == self.drawn;
        let next = Self {
            asleep: is_all,
            ..self
        };
        (next, is_all)
    }
}

impl crate::pure::words::Packed for News {
    fn pack(self) -> u64 {
        self.drawn | if self.asleep { ASLEEP } else { 0 }
    }

    fn unpack(word: u64) -> Self {
        Self {
            drawn: word & !ASLEEP,
            asleep: word & ASLEEP != 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::News;
    use crate::pure::words::Packed;

    #[test]
    fn every_state_survives_packing() {
        for (drawn, asleep) in [(0, false), (0, true), (7, false), ((1 << 63) - 1, true)] {
            let news = News { drawn, asleep };
            assert_eq!(News::unpack(news.pack()), news);
        }
    }

    #[test]
    fn numbers_follow_each_other_from_1() {
        let (news, (first, _)) = News::NONE.draw(3);
        let (news, (second, _)) = news.draw(1);
        assert_eq!((first, second, news.drawn), (1, 4, 4));
    }

    #[test]
    fn the_teller_sleeps_only_when_it_knows_of_every_event() {
        let (drawn, _) = News::NONE.draw(2);
        assert_eq!(drawn.sleep(1), (drawn, false));
        let (asleep, slept) = drawn.sleep(2);
        assert!(slept && asleep.asleep);
        assert_eq!(asleep.drawn, 2);
    }

    #[test]
    fn one_of_those_who_draw_wakes_the_teller() {
        let (asleep, _) = News::NONE.sleep(0);
        let (woken, (_, first_wakes)) = asleep.draw(1);
        let (_, (_, second_wakes)) = woken.draw(1);
        assert!(first_wakes && !second_wakes);
    }
}
