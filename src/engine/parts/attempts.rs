//! Attempts, and how long they took.

/// Attempts that begin together, and end together.
#[derive(Clone, Copy)]
pub(crate) struct Attempts {
    /// Which attempt at its delivery each of them is: 1 is the first.
    pub(crate) number: u32,
    /// The deliveries have waited in the queue and nowhere else.
    pub(crate) is_first: bool,
    pub(crate) began_ns: u64,
}

/// How long attempts took.
#[derive(Clone, Copy)]
pub(crate) struct Took {
    pub(crate) ended_ns: u64,
    /// Each of them.
    pub(crate) each_ns: u64,
}

impl Attempts {
    /// First attempts.
    pub(crate) const fn first(began_ns: u64) -> Self {
        Self {
            number: 1,
            is_first: true,
            began_ns,
        }
    }

    /// They ended now, one after the other, so many of them.
    pub(crate) fn until(self, ended_ns: u64, count: usize) -> Took {
        let all_ns = ended_ns.saturating_sub(self.began_ns);
        let each_ns = all_ns / (count as u64).max(1);
        Took { ended_ns, each_ns }
    }
}
