//! The life of a request: which replies it takes, and when its wait is over.
//!
//! A request is open until its requester has looked and found a reason to end, or has gone away.
//! Replies that come later are late. The first reason in the order of [`AskEnd`] counts. So a reply
//! that came in time is never lost to a deadline that passed before the requester looked.

/// The reason why the wait for replies is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AskEnd {
    /// As many replies came as were asked for.
    Complete,
    /// A reply of another type came.
    WrongType,
    /// All deliveries have ended, so nobody is left to reply.
    Ended,
    /// No reply followed the last one for too long.
    Stalled,
    /// The deadline has passed.
    TimedOut,
}

/// The answer to a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Offer {
    /// It is taken.
    Take,
    /// It has another type than the one that was asked for.
    Misfit,
    /// It is not wanted any more.
    Late,
}

/// The result of a requester's look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// Nothing to do before this time, unless something happens.
    WaitUntil(u64),
    /// The wait is over. No reply is taken from now on.
    Over(AskEnd),
}

/// A request, and the replies to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Asking {
    /// The most replies; one at least.
    most: usize,
    stall_ns: Option<u64>,
    deadline_ns: u64,
    taken: usize,
    last_ns: u64,
    has_misfit: bool,
    is_closed: bool,
}

impl Asking {
    /// Asks for at most so many replies before the deadline, and at most `stall_ns` apart.
    pub(crate) fn new(most: usize, stall_ns: Option<u64>, deadline_ns: u64) -> Self {
        Self {
            most,
            stall_ns,
            deadline_ns,
            taken: 0,
            last_ns: 0,
            has_misfit: false,
            is_closed: false,
        }
    }

    /// Returns what is to be done with a reply that comes now.
    pub(crate) fn offer(&mut self, fits: bool, now_ns: u64) -> Offer {
        if self.is_closed || self.has_misfit || self.taken >= self.most {
            return Offer::Late;
        }
        if !fits {
            self.has_misfit = true;
            return Offer::Misfit;
        }
        self.taken += 1;
        self.last_ns = now_ns;
        Offer::Take
    }

    /// Says whether the wait is over, and closes the request if it is. `all_ended` says that nobody
    /// is left to reply.
    pub(crate) fn look(&mut self, all_ended: bool, now_ns: u64) -> Look {
        let until_ns = self.until_ns();
        let end = if self.taken >= self.most {
            AskEnd::Complete
        } else if self.has_misfit {
            AskEnd::WrongType
        } else if all_ended {
            AskEnd::Ended
        } else if now_ns < until_ns {
            return Look::WaitUntil(until_ns);
        } else if now_ns < self.deadline_ns {
            AskEnd::Stalled
        } else {
            AskEnd::TimedOut
        };
        self.is_closed = true;
        Look::Over(end)
    }

    /// Returns the time at which it ends at the latest.
    #[cfg(feature = "async")]
    pub(crate) fn deadline_ns(&self) -> u64 {
        self.deadline_ns
    }

    /// Takes no more replies, because the requester has gone away.
    #[cfg(any(test, feature = "async"))]
    pub(crate) fn close(&mut self) {
        self.is_closed = true;
    }

    fn until_ns(&self) -> u64 {
        match self.stall_ns {
            Some(stall_ns) if self.taken > 0 => {
                self.last_ns.saturating_add(stall_ns).min(self.deadline_ns)
            }
            _ => self.deadline_ns,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_reason_counts_and_a_reply_in_time_beats_them_all() {
        use AskEnd::{Complete, Ended, TimedOut, WrongType};
        // Replies by whether they fit, whether all has ended, the time; the look.
        let table: [(&[bool], bool, u64, Look); 10] = [
            (&[], false, 9, Look::WaitUntil(10)),
            (&[], false, 10, Look::Over(TimedOut)),
            (&[], true, 9, Look::Over(Ended)),
            (&[], true, 10, Look::Over(Ended)),
            (&[true], false, 9, Look::Over(Complete)),
            (&[true], true, 99, Look::Over(Complete)),
            (&[true, false], false, 9, Look::Over(Complete)),
            (&[false], false, 9, Look::Over(WrongType)),
            (&[false], true, 99, Look::Over(WrongType)),
            (&[false, true], false, 9, Look::Over(WrongType)),
        ];
        for (replies, all_ended, now_ns, look) in table {
            let mut asking = Asking::new(1, None, 10);
            for fits in replies {
                asking.offer(*fits, 1);
            }
            assert_eq!(
                asking.look(all_ended, now_ns),
                look,
                "{replies:?} at {now_ns}"
            );
        }
    }

    #[test]
    fn many_replies_end_at_a_stall_that_counts_from_the_last_one() {
        let mut asking = Asking::new(3, Some(4), 20);
        assert_eq!(
            asking.look(false, 9),
            Look::WaitUntil(20),
            "the first may take its time"
        );
        assert_eq!(asking.offer(true, 10), Offer::Take);
        assert_eq!(asking.look(false, 13), Look::WaitUntil(14));
        assert_eq!(asking.offer(true, 13), Offer::Take);
        assert_eq!(asking.look(false, 16), Look::WaitUntil(17));
        assert_eq!(asking.look(false, 17), Look::Over(AskEnd::Stalled));
        let mut asking = Asking::new(3, Some(4), 20);
        asking.offer(true, 18);
        assert_eq!(
            asking.look(false, 19),
            Look::WaitUntil(20),
            "the deadline is first"
        );
        assert_eq!(asking.look(false, 20), Look::Over(AskEnd::TimedOut));
    }

    #[test]
    fn a_reply_to_a_request_that_is_over_is_late() {
        let ways: [fn(&mut Asking); 5] = [
            |asking| asking.close(),
            |asking| assert_eq!(asking.look(true, 0), Look::Over(AskEnd::Ended)),
            |asking| assert_eq!(asking.look(false, 10), Look::Over(AskEnd::TimedOut)),
            |asking| assert_eq!(asking.offer(true, 0), Offer::Take),
            |asking| assert_eq!(asking.offer(false, 0), Offer::Misfit),
        ];
        for way in ways {
            let mut asking = Asking::new(1, None, 10);
            way(&mut asking);
            for fits in [true, false] {
                assert_eq!(asking.offer(fits, 5), Offer::Late);
            }
        }
    }
}
