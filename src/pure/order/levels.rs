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

/// The tier of messages without a priority of their own.
pub(crate) const DEFAULT_TIER: u64 = Priority::Urgent as u64 - Priority::Normal as u64;

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
        if list.is_empty() {
            return None;
        }
        let (rank, value) = list.range((self.0 << SHIFT, 0)..).next()?;
        (tier_of(*rank) == self.0).then_some((*rank, value))
    }

    fn tier(&self) -> u64 {
        self.0
    }
}

/// The properties of a delivery that the levels have to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Urgency {
    pub(crate) level: Priority,
    /// Since when it has waited, unless it has come back.
    pub(crate) since_ns: u64,
}

/// How levels share, and what they have to know of a delivery.
pub(crate) type LevelRule<D> = (Priorities, fn(&D) -> Urgency);

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
    #[inline(never)]
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
    pub(crate) fn pick<N>(&self, first: impl Fn(&Tier) -> Option<(N, u64)>) -> Option<(N, Picks)> {
        let mut firsts = Priority::ALL.map(|level| match self.waiting[level as usize] {
            0 => None,
            _ => first(&Tier(tier(level))),
        });
        let heads = firsts
            .each_ref()
            .map(|first| first.as_ref().map(|(_, since_ns)| *since_ns));
        let (picks, level) = self.picks.pick(&heads, self.now_ns)?;
        let (next, _) = firsts[level as usize].take()?;
        Some((next, picks))
    }

    /// Picks one of the levels that have deliveries, where all of them may go and none ages.
    pub(crate) fn pick_by_depth(&self) -> Option<(Tier, Picks)> {
        let has_some = self.waiting.map(|waiting| waiting > 0);
        let (picks, level) = self.picks.pick_of(has_some)?;
        Some((Tier(tier(level)), picks))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pure::order::sequencer::{Class, Key, PerKey, Sequencer, Taken};
    use Priority::{High, Low, Normal, Urgent};
    use proptest::prelude::*;
    use std::time::Duration;

    const ME: u64 = 0;

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct Item {
        id: u64,
        level: Priority,
        since_ns: u64,
    }

    fn urgency(item: &Item) -> Urgency {
        Urgency {
            level: item.level,
            since_ns: item.since_ns,
        }
    }

    fn key(hash: u64) -> Key {
        Key { hash, epoch: 0 }
    }

    fn sequencer(priorities: Priorities) -> Sequencer<Item> {
        let mut sequencer = Sequencer::new();
        sequencer.join(ME);
        sequencer.set_levels(Some((priorities, urgency)));
        sequencer.may_drop();
        sequencer
    }

    fn file(all: &mut Sequencer<Item>, id: u64, hash: Option<u64>, level: Priority) {
        let item = Item {
            id,
            level,
            since_ns: id,
        };
        all.file(id, hash.map(key), Class::New, item);
    }

    fn ids(items: impl IntoIterator<Item = Item>) -> Vec<u64> {
        items.into_iter().map(|item| item.id).collect()
    }

    fn take(all: &mut Sequencer<Item>, most: usize) -> Vec<u64> {
        let taken = all.take(ME, most, PerKey::One, None);
        ids(taken.into_iter().map(|taken| taken.item))
    }

    #[test]
    fn the_highest_level_goes_first_and_each_in_its_order() {
        let mut all = sequencer(Priorities::strict());
        for (id, level) in [(1, Low), (2, Urgent), (3, Normal), (4, Urgent), (5, High)] {
            file(&mut all, id, None, level);
        }
        assert_eq!(all.waiting_by_level(), Some([1, 1, 1, 2]));
        assert_eq!(take(&mut all, 3), [2, 4, 5]);
        file(&mut all, 6, None, High);
        assert_eq!(take(&mut all, 9), [6, 3, 1]);
        assert_eq!(all.waiting_by_level(), Some([0; 4]));
    }

    #[test]
    fn one_take_shares_among_the_levels_as_many_do() {
        let levels = || (1..=60).map(|id| (id, Priority::ALL[id as usize % 4]));
        let (mut at_once, mut one_by_one) = (
            sequencer(Priorities::weighted()),
            sequencer(Priorities::weighted()),
        );
        for (id, level) in levels() {
            file(&mut at_once, id, None, level);
            file(&mut one_by_one, id, None, level);
        }
        let all = take(&mut at_once, 15);
        let each: Vec<u64> = (0..15).flat_map(|_| take(&mut one_by_one, 1)).collect();
        assert_eq!(all, each);
        let mut shares = [0; 4];
        all.iter().for_each(|id| shares[*id as usize % 4] += 1);
        assert_eq!(shares, [1, 2, 4, 8]);
    }

    #[test]
    fn an_urgent_delivery_waits_for_an_earlier_one_of_its_key() {
        let mut all = sequencer(Priorities::strict());
        file(&mut all, 1, Some(7), Low);
        file(&mut all, 2, Some(7), Urgent);
        file(&mut all, 3, Some(8), Normal);
        assert_eq!(take(&mut all, 9), [3, 1]);
        assert!(take(&mut all, 9).is_empty());
        all.put_down(Some(key(7)));
        assert_eq!(take(&mut all, 9), [2]);
    }

    #[test]
    fn a_retry_keeps_its_level_and_takes_turns_with_the_new_ones_there() {
        let mut all = sequencer(Priorities::strict());
        let item = |id| Item {
            id,
            level: Normal,
            since_ns: 0,
        };
        for id in [1, 2] {
            all.file(id, None, Class::Again, item(id));
        }
        for id in [3, 4] {
            file(&mut all, id, None, Normal);
        }
        file(&mut all, 5, None, High);
        file(&mut all, 6, None, Low);
        assert_eq!(take(&mut all, 9), [5, 1, 3, 2, 4, 6]);
    }

    #[test]
    fn what_is_dropped_is_of_the_lowest_level_and_the_oldest_there() {
        let mut all = sequencer(Priorities::weighted());
        let levels = [Urgent, Low, Normal, Low, Urgent, Normal];
        for (id, level) in (1..).zip(levels) {
            file(&mut all, id, (id % 2 == 0).then_some(id), level);
        }
        assert_eq!(ids(all.take_oldest_below(Low, 9)), [2, 4]);
        assert_eq!(ids(all.take_oldest_below(High, 1)), [3]);
        assert_eq!(ids(all.take_oldest_new(2)), [6, 1]);
        assert_eq!((all.len(), all.waiting_by_level()), (1, Some([0, 0, 0, 1])));
    }

    #[test]
    fn a_delivery_ages_from_when_it_was_accepted_and_a_retry_from_when_it_came_back() {
        let aging = Priorities::strict().aging(Duration::from_nanos(100));
        for (now_ns, first) in [(100, 2), (101, 1)] {
            let mut all = sequencer(aging);
            file(&mut all, 1, None, Normal);
            let high = Item {
                id: 2,
                level: High,
                since_ns: now_ns,
            };
            all.file(2, None, Class::New, high);
            all.set_now(now_ns);
            assert_eq!(take(&mut all, 1), [first], "after {now_ns} ns");
        }
        let mut all = sequencer(aging);
        all.set_now(1_000);
        let low = Item {
            id: 1,
            level: Low,
            since_ns: 0,
        };
        all.file(1, None, Class::Again, low);
        file(&mut all, 950, None, Normal);
        assert_eq!(take(&mut all, 2), [950, 1]);
    }

    #[test]
    fn the_oldest_of_all_levels_is_at_the_front_for_a_batch() {
        let mut all = sequencer(Priorities::strict());
        file(&mut all, 1, None, Low);
        file(&mut all, 2, None, Urgent);
        assert_eq!(all.peek(ME, Class::New).map(|item| item.id), Some(1));
        assert_eq!(all.available(ME, Class::New, 9), 2);
    }

    #[derive(Clone, Debug)]
    enum Act {
        File(Option<u64>, Priority),
        Take(usize),
        Settle(usize),
        /// Fails, and holds its key until it returns.
        Fail(usize),
        Return(usize),
        Drop(Priority, usize),
        Expire(u64),
    }

    fn act() -> impl Strategy<Value = Act> {
        let level = || prop::sample::select(&Priority::ALL[..]);
        prop_oneof![
            6 => (prop::option::of(0_u64..4), level()).prop_map(|(key, level)| Act::File(key, level)),
            4 => (1_usize..4).prop_map(Act::Take),
            3 => (0_usize..8).prop_map(Act::Settle),
            2 => (0_usize..8).prop_map(Act::Fail),
            2 => (0_usize..8).prop_map(Act::Return),
            1 => (level(), 1_usize..3).prop_map(|(level, most)| Act::Drop(level, most)),
            1 => (2_u64..6).prop_map(Act::Expire),
        ]
    }

    /// A delivery that waits in the plainest model.
    #[derive(Clone, Copy, Debug)]
    struct Waits {
        item: Item,
        key: Option<u64>,
        /// Its number among those that came back.
        again: Option<u64>,
    }

    struct Model {
        waiting: Vec<Waits>,
        busy: Vec<u64>,
        picks: Picks,
        last_was_again: [bool; 4],
    }

    impl Model {
        /// Returns the delivery of the level that goes next: one that came back and one that did not
        /// by turns.
        fn first(&self, level: Priority) -> Option<usize> {
            let may_go = |waits: &Waits| {
                let Some(key) = waits.key else { return true };
                let mut of_key = self.waiting.iter().filter(|other| other.key == Some(key));
                !self.busy.contains(&key) && of_key.all(|other| other.item.id >= waits.item.id)
            };
            let all = self.waiting.iter().enumerate();
            let all = all.filter(|(_, waits)| waits.item.level == level && may_go(waits));
            let new = all.clone().filter(|(_, waits)| waits.again.is_none());
            let new = new.min_by_key(|(_, waits)| waits.item.id);
            let again = all.filter(|(_, waits)| waits.again.is_some());
            let again = again.min_by_key(|(_, waits)| waits.again);
            let first = match self.last_was_again[level as usize] {
                true => new.or(again),
                false => again.or(new),
            };
            first.map(|(at, _)| at)
        }

        fn take(&mut self) -> Option<Waits> {
            let firsts = Priority::ALL.map(|level| self.first(level));
            let heads = firsts.map(|at| at.map(|_| 0));
            let (picks, level) = self.picks.pick(&heads, 0)?;
            self.picks = picks;
            let waits = self.waiting.remove(firsts[level as usize]?);
            self.last_was_again[level as usize] = waits.again.is_some();
            self.busy.extend(waits.key);
            Some(waits)
        }

        fn free_key(&mut self, key: Option<u64>) {
            let at = self.busy.iter().position(|busy| Some(*busy) == key);
            at.map(|at| self.busy.remove(at));
        }
    }

    proptest! {
        /// Whatever is filed, taken, failed, dropped and expired, it takes what the plainest model
        /// takes, and loses nothing.
        #[test]
        fn levels_take_what_the_plainest_model_takes(
            strict in any::<bool>(),
            acts in prop::collection::vec(act(), 0..200),
        ) {
            let priorities = if strict { Priorities::strict() } else { Priorities::weighted() };
            let mut all = sequencer(priorities);
            let mut model = Model {
                waiting: Vec::new(),
                busy: Vec::new(),
                picks: Picks::new(priorities),
                last_was_again: [false; 4],
            };
            let (mut next_id, mut came_back) = (1, 0);
            let mut out: Vec<Waits> = Vec::new();
            let mut failed: Vec<Waits> = Vec::new();
            for act in acts {
                match act {
                    Act::File(hash, level) => {
                        file(&mut all, next_id, hash, level);
                        let item = Item { id: next_id, level, since_ns: next_id };
                        model.waiting.push(Waits { item, key: hash, again: None });
                        next_id += 1;
                    }
                    Act::Take(most) => {
                        let taken = all.take(ME, most, PerKey::One, None);
                        let expected: Vec<_> = std::iter::from_fn(|| model.take()).take(most).collect();
                        let taken = taken.into_iter().map(|Taken { key, item }| (key, item));
                        let wanted = expected.iter().map(|waits| (waits.key.map(key), waits.item));
                        prop_assert_eq!(taken.collect::<Vec<_>>(), wanted.collect::<Vec<_>>());
                        out.extend(expected);
                    }
                    Act::Settle(at) if at < out.len() => {
                        let waits = out.remove(at);
                        all.put_down(waits.key.map(key));
                        model.free_key(waits.key);
                    }
                    Act::Fail(at) if at < out.len() => {
                        let waits = out.remove(at);
                        waits.key.into_iter().for_each(|hash| all.hold(key(hash)));
                        all.put_down(waits.key.map(key));
                        failed.push(waits);
                    }
                    Act::Return(at) if at < failed.len() => {
                        let mut waits = failed.remove(at);
                        came_back += 1;
                        waits.again = Some(came_back);
                        all.file(waits.item.id, waits.key.map(key), Class::Again, waits.item);
                        waits.key.into_iter().for_each(|hash| all.release(key(hash)));
                        model.free_key(waits.key);
                        model.waiting.push(waits);
                    }
                    Act::Drop(highest, most) => {
                        let new = |waits: &&Waits| waits.again.is_none() && waits.item.level <= highest;
                        let mut low: Vec<Item> = model.waiting.iter().filter(new).map(|waits| waits.item).collect();
                        low.sort_by_key(|item| (item.level, item.id));
                        low.truncate(most);
                        model.waiting.retain(|waits| !low.contains(&waits.item));
                        prop_assert_eq!(all.take_oldest_below(highest, most), low);
                    }
                    Act::Expire(each) => {
                        let mut expired = ids(all.extract(|item| item.id % each == 0));
                        let late = model.waiting.extract_if(.., |waits| waits.item.id % each == 0);
                        let mut late = ids(late.map(|waits| waits.item));
                        late.sort_unstable();
                        expired.sort_unstable();
                        prop_assert_eq!(expired, late);
                    }
                    Act::Settle(_) | Act::Fail(_) | Act::Return(_) => {}
                }
                let mut depths = [0; 4];
                for waits in &model.waiting {
                    depths[waits.item.level as usize] += 1;
                }
                prop_assert_eq!(all.waiting_by_level(), Some(depths));
                prop_assert_eq!(all.len(), model.waiting.len());
            }
        }
    }
}
