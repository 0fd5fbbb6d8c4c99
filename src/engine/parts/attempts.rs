//! Attempts, and how long they took.

/// Attempts that begin together, and end together.
#[derive(Clone, Copy)]
pub(crate) struct Attempts {
    /// The number of each attempt at its delivery: 1 is the first.
    pub(crate) number: u32,
    /// The deliveries have waited in the queue and nowhere else.
    pub(crate) is_first: bool,
    pub(crate) began_ns: u64,
}

/// The duration of attempts that ended together.
#[derive(Clone, Copy)]
pub(crate) struct Took {
    pub(crate) ended_ns: u64,
    /// The time for each of them.
    pub(crate) each_ns: u64,
}

impl Attempts {
    /// Makes first attempts.
    pub(crate) const fn first(began_ns: u64) -> Self {
        Self {
            number: 1,
            is_first: true,
            began_ns,
        }
    }

    /// Ends `count` attempts now, which were made one after the other.
    pub(crate) fn until(self, ended_ns: u64, count: usize) -> Took {
        let all_ns = ended_ns.saturating_sub(self.began_ns);
        let each_ns = all_ns / (count as u64).max(1);
        Took { ended_ns, each_ns }
    }
}
