//! Levels of priority in a sequencer: their places in its lists, and whose turn it is.
//!
//! Each list is ordered by rank, and the highest bits of a rank are the delivery's *tier*: the most
//! urgent level is the first. So one list holds all levels, each in its order. Where there are no
//! levels, all deliveries have tier zero.
//!
//! A line is in the lists with the rank of its first delivery. So it has that delivery's level: an
//! urgent message waits for an earlier one of its key, whatever the level of that.

use std::collections::BTreeMap;

use crate::pure::order::line::Rank;
use crate::pure::protect::priority::{Picks, Priorities, Priority};

/// The tier in a rank is above these bits.
const SHIFT: u32 = 62;

/// Returns the tier of a level: zero is the most urgent.
fn tier(level: Priority) -> u64 {
    Priority::Urgent as u64 - level as u64
}

/// Returns the tier in this rank.
pub(crate) fn tier_of(rank: Rank) -> u64 {
    rank.0 >> SHIFT
}

/// Returns the rank without its tier.
pub(crate) fn untiered(rank: Rank) -> Rank {
    (rank.0 & !(u64::MAX << SHIFT), rank.1)
}

/// The part of a list that the next delivery is taken from.
pub(crate) trait Window {
    fn first<'a, V>(&self, list: &'a BTreeMap<Rank, V>) -> Option<(Rank, &'a V)>;
    /// Returns its tier, if it has one.
    fn tier(&self) -> u64;
}

/// The whole list.
pub(crate) struct Whole;

impl Window for Whole {
    fn first<'a, V>(&self, list: &'a BTreeMap<Rank, V>) -> Option<(Rank, &'a V)> {
        list.first_key_value().map(|(rank, value)| (*rank, value))
    }

    fn tier(&self) -> u64 {
        0
    }
}

/// The deliveries of one level.
pub(crate) struct Tier(u64);

impl Window for Tier {
    fn first<'a, V>(&self, list: &'a BTreeMap<Rank, V>) -> Option<(Rank, &'a V)> {
        let (rank, value) = list.range((self.0 << SHIFT, 0)..).next()?;
        (tier_of(*rank) == self.0).then_some((*rank, value))
    }

    fn tier(&self) -> u64 {
        self.0
    }
}

/// What the levels have to know of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Urgency {
    pub(crate) level: Priority,
    /// Since when it has waited, unless it has come back.
    pub(crate) since_ns: u64,
}

/// The levels of a sequencer.
pub(crate) struct Levels<D> {
    picks: Picks,
    now_ns: u64,
    /// How many deliveries wait, the lowest level first.
    waiting: [u64; Priority::ALL.len()],
    of: fn(&D) -> Urgency,
}

impl<D> Levels<D> {
    /// Makes the levels of a sequencer without deliveries. The settings have been checked.
    pub(crate) fn new(priorities: Priorities, of: fn(&D) -> Urgency) -> Self {
        Self {
            picks: Picks::new(priorities),
            now_ns: 0,
            waiting: [0; Priority::ALL.len()],
            of,
        }
    }

    /// Changes how the levels share.
    pub(crate) fn set(&mut self, priorities: Priorities) {
        self.picks = Picks::new(priorities);
    }

    pub(crate) fn set_now(&mut self, now_ns: u64) {
        self.now_ns = now_ns;
    }

    /// Returns the time at the latest look.
    pub(crate) fn now_ns(&self) -> u64 {
        self.now_ns
    }

    /// Returns whether it makes a difference how long a delivery has waited.
    pub(crate) fn mind_age(&self) -> bool {
        self.picks.mind_age()
    }

    pub(crate) fn urgency(&self, item: &D) -> Urgency {
        (self.of)(item)
    }

    /// Returns how many deliveries wait, the lowest level first.
    pub(crate) fn waiting(&self) -> [u64; Priority::ALL.len()] {
        self.waiting
    }

    /// Puts the tier of a delivery that comes in into its rank.
    pub(crate) fn enter(&mut self, item: &D, rank: &mut Rank) {
        let level = self.urgency(item).level;
        debug_assert_eq!(tier_of(*rank), 0, "ids stay below the tier");
        rank.0 |= tier(level) << SHIFT;
        self.waiting[level as usize] += 1;
    }

    /// Counts out a delivery with this rank.
    pub(crate) fn leave(&mut self, rank: Rank) {
        let level = Priority::Urgent as usize - tier_of(rank) as usize;
        self.waiting[level] -= 1;
    }

    /// Picks one of the `first` deliveries of the levels, which are asked for with the time since
    /// when they have waited. Also returns the picks for when it has been handed over.
    pub(crate) fn pick<N>(
        &self,
        first: impl Fn(&Tier) -> Option<(N, u64)>,
    ) -> Option<(N, Picks)> {
        let mut firsts = Priority::ALL.map(|level| first(&Tier(tier(level))));
        let heads = firsts
            .each_ref()
            .map(|first| first.as_ref().map(|(_, since_ns)| *since_ns));
        let (picks, level) = self.picks.pick(&heads, self.now_ns)?;
        let (next, _) = firsts[level as usize].take()?;
        Some((next, picks))
    }

    /// Keeps the picks of a delivery that has been handed over.
    pub(crate) fn keep(&mut self, picks: Picks) {
        self.picks = picks;
    }
}

/// Returns the windows of all levels.
pub(crate) fn all_tiers() -> impl Iterator<Item = Tier> {
    Priority::ALL.into_iter().map(|level| Tier(tier(level)))
}

/// Returns how much a rank's level is worth: zero is the lowest, which is dropped first. Where there
/// are no levels, all are alike.
pub(crate) fn worth_of(rank: Rank) -> u64 {
    tier(Priority::Low) - tier_of(rank)
}

/// Returns the rank of a new delivery of this worth.
pub(crate) fn new_rank(worth: u64, id: u64) -> Rank {
    let tier = tier(Priority::Low) - worth;
    (tier << SHIFT | id, 0)
}
