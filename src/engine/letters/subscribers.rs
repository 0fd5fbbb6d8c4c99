//! The list of a store's subscribers, which the lock of the store guards.

use crate::observe::letters::LetterSubscriptionMetrics;
use crate::pure::order::reading::Reading;
use crate::sync::Arc;

/// A subscriber to the letters of a topic.
pub(crate) trait AnyLetterReader: Send + Sync {
    fn name(&self) -> &str;
    /// Returns whether it came by a pattern of topics.
    fn is_by_pattern(&self) -> bool;
    /// Returns whether it has not begun to end. Callers hold the lock of the store.
    fn is_open(&self) -> bool;
    /// Returns whether it has nothing to do now.
    fn is_idle(&self) -> bool;
    /// Has it look for a letter. It runs no user code, so callers may hold locks.
    fn look(self: Arc<Self>);
    /// Has it end, on the calling thread unless a worker runs it.
    fn end(self: Arc<Self>);
    fn metrics(&self) -> LetterSubscriptionMetrics;
}

/// The subscribers, and what each has still to see.
pub(crate) struct Subscribers(Vec<(Arc<dyn AnyLetterReader>, Reading)>);

fn are_one(one: &Arc<dyn AnyLetterReader>, other: &dyn AnyLetterReader) -> bool {
    std::ptr::addr_eq(Arc::as_ptr(one), other)
}

impl Subscribers {
    pub(crate) fn new() -> Self {
        Self(Vec::new())
    }

    /// Adds a subscriber, unless an open one of its name is there.
    pub(crate) fn add(&mut self, reader: Arc<dyn AnyLetterReader>) -> bool {
        let is_free = !self.has(reader.name());
        if is_free {
            self.0.push((reader, Reading::default()));
        }
        is_free
    }

    /// Takes one off. The caller drops it where no lock is held.
    pub(crate) fn remove(
        &mut self,
        reader: &dyn AnyLetterReader,
    ) -> Option<Arc<dyn AnyLetterReader>> {
        let at = self
            .0
            .iter()
            .position(|(other, _)| are_one(other, reader))?;
        Some(self.0.remove(at).0)
    }

    /// Returns whether an open one has this name.
    pub(crate) fn has(&self, name: &str) -> bool {
        let mut readers = self.0.iter().map(|(reader, _)| reader);
        readers.any(|reader| reader.name() == name && reader.is_open())
    }

    pub(crate) fn list(&self) -> Vec<Arc<dyn AnyLetterReader>> {
        let readers = self.0.iter().map(|(reader, _)| Arc::clone(reader));
        readers.collect()
    }

    /// Has them all look, because a letter has arrived, or somebody has put one down.
    pub(crate) fn call(&self) {
        for (reader, _) in &self.0 {
            Arc::clone(reader).look();
        }
    }

    /// Forgets a letter that has left the store.
    pub(crate) fn forget(&mut self, arrival: u64) {
        for (_, reading) in &mut self.0 {
            reading.forget(arrival);
        }
    }

    /// Returns what this one has still to see.
    pub(crate) fn reading(&mut self, reader: &dyn AnyLetterReader) -> Option<&mut Reading> {
        let mut all = self.0.iter_mut();
        let found = all.find(|(other, _)| are_one(other, reader));
        found.map(|(_, reading)| reading)
    }

    /// Returns the number of its next letter, and how often that has failed in a row. If there is
    /// none now, returns the time at which there may be.
    ///
    /// `has` says whether a letter can be taken, and `first` which is the first from a number on.
    pub(crate) fn take_next(
        &mut self,
        reader: &dyn AnyLetterReader,
        now_ns: u64,
        has: impl Fn(u64) -> bool,
        first: impl FnOnce(u64) -> Option<u64>,
    ) -> Result<(u64, u32), Option<u64>> {
        let reading = self.reading(reader).ok_or(None)?;
        let due = reading.due(now_ns).find(|arrival| has(*arrival));
        let next = due.or_else(|| first(reading.next()));
        let arrival = next.ok_or_else(|| reading.next_due_ns(now_ns))?;
        Ok((arrival, reading.take(arrival)))
    }
}
