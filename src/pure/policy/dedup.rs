//! Ids that publishers gave to messages, so that a message that is published again is accepted once.
//!
//! Steps. A publisher *claims* the id of its message. The id is new, or some publisher has a claim
//! that is pending, or a message with this id was accepted. The publisher that has the claim tries to
//! get its message accepted. It *commits* the id if the message was, and *abandons* it if not. So an
//! id is remembered only for a message that was accepted, and one claim is pending at most.
//!
//! The feared interleaving: two publishers find that an id is new, and both messages are accepted.
//! It can't happen, because the second finds the claim of the first.
//!
//! The bounds. An id is remembered for the window, counted from when its message was accepted, and
//! no longer. Of more ids than the bound, the oldest leaves first. Pending claims are not counted:
//! there is one at most for each publish that is under way.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::time::Duration;

#[cfg(feature = "log")]
use crate::pure::log::retention::Memory;
use crate::types::duration::nanos;
use crate::types::error::SettingError;
use crate::types::range::in_range;

/// How many ids a topic remembers unless it is told.
const DEFAULT_IDS: usize = 65_536;
/// The most ids that one claim lets go for their age, so that none takes long. As a claim adds one
/// id at most, they are let go faster than they come.
const AT_ONCE: usize = 8;

/// The memory of a topic that accepts each dedup id once, for
/// [`TopicBuilder::dedup`](crate::TopicBuilder::dedup).
///
/// An id is forgotten after the window, or earlier if too many newer ones came. A larger window
/// needs more [`ids`](Self::ids). Take the longest time after which a publisher tries again, and
/// the ids that are published meanwhile.
///
/// ```
/// use millstream::{Broker, Dedup};
/// use std::time::Duration;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let broker = Broker::new()?;
/// let five_minutes = Dedup::window(Duration::from_secs(300)).ids(100_000);
/// let orders = broker.topic::<u64>("orders").dedup(five_minutes).open()?;
/// let first = orders.message(42).dedup_id("req-77").publish()?;
/// let again = orders.message(42).dedup_id("req-77").publish()?; // the client tried again
/// assert!(again.is_duplicate());
/// assert_eq!(again.id(), first.id());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "it does nothing until a topic is opened with it"]
pub struct Dedup {
    window: Duration,
    ids: usize,
}

impl Dedup {
    /// Remembers ids for this long, and up to 65,536 of them.
    ///
    /// The window of an id begins when its message is accepted, delayed or not.
    pub fn window(window: Duration) -> Self {
        let ids = DEFAULT_IDS;
        Self { window, ids }
    }

    /// Sets how many ids are remembered. The oldest one is forgotten first.
    ///
    /// The range is 1 to 16,777,216. The memory grows with the ids that are there. Each takes its
    /// text and some 150 bytes. Ids whose window is over are let go as new ones come.
    pub fn ids(mut self, ids: usize) -> Self {
        self.ids = ids;
        self
    }

    /// Returns what a log keeps of the ids.
    #[cfg(feature = "log")]
    pub(crate) fn memory(self) -> Memory {
        Memory {
            window_ms: Some(nanos(self.window).div_ceil(1_000_000)),
            ids: self.ids,
        }
    }

    /// Refuses a window of zero, and numbers of ids out of range.
    pub(crate) fn check(self) -> Result<(), SettingError> {
        if self.window.is_zero() {
            let rule = "must be longer, or no duplicate would be found";
            return Err(SettingError::new("window", "zero", rule));
        }
        in_range("ids", Some(self.ids), self.ids).map(drop)
    }
}

/// The answer to a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Claim<R> {
    /// The id is the caller's, who commits or abandons it.
    New,
    /// Another publisher has claimed the id, and its outcome is open.
    Pending,
    /// A message with this id was accepted, and this was said of it.
    Duplicate(R),
}

/// The state of an id that is known.
enum Known {
    Pending,
    /// Its message was accepted; its place among all accepted ones.
    Accepted(u64),
}

struct Accepted<I, R> {
    id: I,
    at_ns: u64,
    first: R,
}

/// The ids of messages that were accepted, and what was said of each.
pub(crate) struct DedupIds<I, R> {
    settings: Dedup,
    known: HashMap<I, Known>,
    /// The accepted ones, oldest first.
    accepted: BTreeMap<u64, Accepted<I, R>>,
    next: u64,
}

impl<I: Clone + Eq + Hash, R: Clone + PartialEq> DedupIds<I, R> {
    pub(crate) fn new(settings: Dedup) -> Self {
        Self {
            settings,
            known: HashMap::new(),
            accepted: BTreeMap::new(),
            next: 0,
        }
    }

    pub(crate) fn settings(&self) -> Dedup {
        self.settings
    }

    /// Claims an id, unless it is pending or a message with it was accepted within the window.
    pub(crate) fn claim(&mut self, id: &I, now_ns: u64) -> Claim<R> {
        self.forget_old(now_ns);
        match self.known.get(id) {
            Some(Known::Pending) => return Claim::Pending,
            Some(Known::Accepted(place)) if self.remembers(*place, now_ns) => {
                return Claim::Duplicate(self.accepted[place].first.clone());
            }
            _ => self.abandon(id),
        }
        self.known.insert(id.clone(), Known::Pending);
        Claim::New
    }

    /// Remembers an id, and what was said of its message, which was accepted at this time.
    ///
    /// Committing ids again with their times, oldest first, restores them.
    pub(crate) fn commit(&mut self, id: I, first: R, at_ns: u64) {
        self.abandon(&id);
        let place = self.next;
        self.next += 1;
        self.known.insert(id.clone(), Known::Accepted(place));
        let accepted = Accepted { id, at_ns, first };
        self.accepted.insert(place, accepted);
        if self.accepted.len() > self.settings.ids {
            self.forget_oldest();
        }
    }

    /// Forgets an id whose message was refused.
    pub(crate) fn abandon(&mut self, id: &I) {
        if let Some(Known::Accepted(place)) = self.known.remove(id) {
            self.accepted.remove(&place);
        }
    }

    /// Forgets an id whose message was taken back, if this is what was said of it.
    pub(crate) fn forget(&mut self, id: &I, first: &R) {
        if let Some(Known::Accepted(place)) = self.known.get(id)
            && self.accepted[place].first == *first
        {
            self.abandon(id);
        }
    }

    /// Returns the remembered ids with what was said of each and when, oldest first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&I, &R, u64)> {
        let accepted = self.accepted.values();
        accepted.map(|accepted| (&accepted.id, &accepted.first, accepted.at_ns))
    }

    fn remembers(&self, place: u64, now_ns: u64) -> bool {
        now_ns.saturating_sub(self.accepted[&place].at_ns) < nanos(self.settings.window)
    }

    fn forget_old(&mut self, now_ns: u64) {
        for _ in 0..AT_ONCE {
            match self.accepted.first_key_value() {
                Some((&oldest, _)) if !self.remembers(oldest, now_ns) => self.forget_oldest(),
                _ => return,
            }
        }
    }

    fn forget_oldest(&mut self) {
        if let Some((_, oldest)) = self.accepted.pop_first() {
            self.known.remove(&oldest.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(window_ns: u64, most: usize) -> DedupIds<&'static str, u64> {
        DedupIds::new(Dedup::window(Duration::from_nanos(window_ns)).ids(most))
    }

    fn remembered(ids: &DedupIds<&'static str, u64>) -> Vec<(&'static str, u64, u64)> {
        let all: Vec<_> = ids
            .iter()
            .map(|(id, first, at)| (*id, *first, at))
            .collect();
        assert_eq!(
            ids.known.len(),
            all.len(),
            "both agree where nothing is pending"
        );
        all
    }

    fn accept(ids: &mut DedupIds<&'static str, u64>, id: &'static str, first: u64, now: u64) {
        assert_eq!(ids.claim(&id, now), Claim::New);
        ids.commit(id, first, now);
    }

    #[test]
    fn a_claim_is_answered_by_what_became_of_the_one_before() {
        type Ids = DedupIds<&'static str, u64>;
        type Step = fn(&mut Ids);
        let table: [(&str, Step, Claim<u64>); 6] = [
            ("nothing", |_| {}, Claim::New),
            (
                "pending",
                |ids| {
                    ids.claim(&"a", 0);
                },
                Claim::Pending,
            ),
            (
                "accepted",
                |ids| accept(ids, "a", 7, 0),
                Claim::Duplicate(7),
            ),
            (
                "refused",
                |ids| {
                    ids.claim(&"a", 0);
                    ids.abandon(&"a");
                },
                Claim::New,
            ),
            (
                "accepted, then taken back",
                |ids| {
                    accept(ids, "a", 7, 0);
                    ids.forget(&"a", &7);
                },
                Claim::New,
            ),
            (
                "accepted, and another of this id taken back",
                |ids| {
                    accept(ids, "a", 7, 0);
                    ids.forget(&"a", &6);
                },
                Claim::Duplicate(7),
            ),
        ];
        for (before, step, answer) in table {
            let mut ids = ids(10, 4);
            step(&mut ids);
            assert_eq!(ids.claim(&"a", 1), answer, "{before}");
            assert_eq!(ids.claim(&"b", 1), Claim::New, "{before}: another id");
        }
    }

    #[test]
    fn an_id_is_remembered_for_the_window_from_its_acceptance_and_no_longer() {
        for (now, is_duplicate) in [(5, true), (14, true), (15, false), (u64::MAX, false)] {
            let mut ids = ids(10, 4);
            accept(&mut ids, "a", 7, 5);
            let again = ids.claim(&"a", now);
            assert_eq!(again == Claim::Duplicate(7), is_duplicate, "at {now}");
        }
        // A clock that is read on another core may be a little behind.
        let mut ids = ids(10, 4);
        accept(&mut ids, "a", 7, 5);
        assert_eq!(ids.claim(&"a", 4), Claim::Duplicate(7));
    }

    #[test]
    fn a_duplicate_does_not_make_its_id_younger() {
        let mut ids = ids(10, 2);
        accept(&mut ids, "a", 1, 0);
        accept(&mut ids, "b", 2, 1);
        assert_eq!(ids.claim(&"a", 9), Claim::Duplicate(1));
        accept(&mut ids, "c", 3, 9);
        assert_eq!(remembered(&ids), [("b", 2, 1), ("c", 3, 9)]);
        assert_eq!(ids.claim(&"b", 11), Claim::New);
    }

    #[test]
    fn beyond_the_bound_the_oldest_leaves_first() {
        let mut ids = ids(10, 2);
        for (id, first) in [("a", 1), ("b", 2), ("c", 3)] {
            accept(&mut ids, id, first, 0);
        }
        assert_eq!(remembered(&ids), [("b", 2, 0), ("c", 3, 0)]);
        assert_eq!(ids.claim(&"a", 0), Claim::New);
    }

    #[test]
    fn old_ids_are_let_go_faster_than_new_ones_come_and_never_many_at_once() {
        let mut ids = DedupIds::new(Dedup::window(Duration::from_nanos(10)).ids(1_000));
        for id in 0..100_u64 {
            assert_eq!(ids.claim(&id, 0), Claim::New);
            ids.commit(id, id, 0);
        }
        assert_eq!(ids.claim(&99, 10), Claim::New, "old, though still there");
        ids.commit(99, 100, 10);
        assert_eq!(ids.accepted.len(), 100 - AT_ONCE);
        for id in 200..213 {
            ids.claim(&id, 10);
            ids.commit(id, id, 10);
        }
        assert!(ids.iter().all(|(_, _, at)| at == 10));
        assert_eq!(ids.accepted.len(), 14);
    }

    #[test]
    fn ids_that_are_committed_again_with_their_times_are_restored() {
        let mut before = ids(10, 3);
        for (id, first) in [("a", 1), ("b", 2), ("c", 3)] {
            accept(&mut before, id, first, first);
        }
        let mut after = ids(10, 2);
        for (id, first, at) in before.iter() {
            after.commit(id, *first, at);
        }
        assert_eq!(remembered(&after), [("b", 2, 2), ("c", 3, 3)]);
        assert_eq!(after.claim(&"b", 11), Claim::Duplicate(2));
        assert_eq!(after.claim(&"b", 12), Claim::New);
    }

    #[test]
    fn settings_that_find_nothing_or_are_out_of_range_are_refused() {
        let second = Duration::from_secs(1);
        assert!(Dedup::window(second).check().is_ok());
        for settings in [
            Dedup::window(Duration::ZERO),
            Dedup::window(second).ids(0),
            Dedup::window(second).ids((1 << 24) + 1),
        ] {
            assert!(settings.check().is_err(), "{settings:?}");
        }
    }
}
