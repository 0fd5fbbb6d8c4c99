//! The counts of subscribers to dead letters.

/// The counts of a subscriber to dead letters, in one topic or in all that its pattern matches.
///
/// At any time, calls = kept + purged + redriven + snoozed + failed + running.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LetterSubscriptionMetrics {
    /// The subscriber's name.
    pub name: String,
    /// Calls of its handler, ever.
    pub calls: u64,
    /// Calls that run now.
    pub running: u64,
    /// Calls that left their letter in the store.
    pub kept: u64,
    /// Calls whose letter has left the store for good.
    pub purged: u64,
    /// Calls whose letter has gone back to the subscription that failed.
    pub redriven: u64,
    /// Calls that put their letter off.
    pub snoozed: u64,
    /// Calls that returned an error, panicked, or wanted a redrive that could not be.
    pub failed: u64,
    /// Letters that are handed out again when their time comes, after a failure or a snooze.
    pub put_off: u64,
}

impl LetterSubscriptionMetrics {
    /// Returns the calls that are accounted for.
    pub(crate) fn accounted(&self) -> u64 {
        self.kept + self.purged + self.redriven + self.snoozed + self.failed + self.running
    }

    /// Adds the counts of the same subscriber in another topic.
    pub(crate) fn add(&mut self, other: &Self) {
        self.calls += other.calls;
        self.running += other.running;
        self.kept += other.kept;
        self.purged += other.purged;
        self.redriven += other.redriven;
        self.snoozed += other.snoozed;
        self.failed += other.failed;
        self.put_off += other.put_off;
    }
}
