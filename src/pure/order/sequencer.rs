//! Which of a lane's deliveries may be handed out now, and to which consumer.
//!
//! The oldest message goes first, but for deliveries of a key that has to wait. A key waits while
//! one of its deliveries is out, or *holds* it until a retry. So a key is never with two consumers
//! at once, and with holds never out of order, while the other keys go on.
//!
//! Deliveries that come back would always be older than new ones. While both may go, each owner
//! takes them by turns. Each key has one [owner](crate::pure::order::owners) among the consumers.
//!
//! With [levels](crate::pure::order::levels), the level is picked first. Within it all this holds.

mod free;
mod next;

use std::collections::hash_map::Entry as MapEntry;
use std::collections::{BTreeMap, HashMap};
use std::hash::BuildHasherDefault;

use crate::pure::order::levels::{DEFAULT_TIER, LevelRule, Levels, tier_of, worth_of};
pub(crate) use crate::pure::order::line::{Class, Key};
use crate::pure::order::line::{Entry, Hashed, Line, Rank, Ready};
use crate::pure::order::owners::{Owner, owner_of, owns};
use crate::pure::order::sequencer::free::Free;

/// How many deliveries of one key a consumer may take at once. With `All` it handles them together
/// or one after the other. With `One` the others wait until that one is put down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PerKey {
    One,
    All,
}

/// A delivery on its way out.
pub(crate) struct Taken<D> {
    pub(crate) key: Option<Key>,
    pub(crate) item: D,
}

/// The deliveries that wait in a lane, in order.
pub(crate) struct Sequencer<D> {
    /// Deliveries without a key. Any owner may have them.
    pub(super) free: Free<D>,
    pub(super) lines: HashMap<Key, Line<D>, BuildHasherDefault<Hashed>>,
    pub(super) owners: Vec<Owner>,
    waiting: usize,
    /// How many of the waiting deliveries are new.
    waiting_new: usize,
    /// Deliveries filed so far that were not new.
    filed: u64,
    /// The new deliveries among all that wait, by their worth and message id. They are kept only
    /// where the oldest of them may have to make room.
    pub(super) droppable: Option<BTreeMap<(u64, u64), Option<Key>>>,
    pub(super) levels: Option<Box<Levels<D>>>,
}

impl<D> Sequencer<D> {
    pub(crate) fn new() -> Self {
        Self {
            free: Free::EMPTY,
            lines: HashMap::default(),
            owners: Vec::new(),
            waiting: 0,
            waiting_new: 0,
            filed: 0,
            droppable: None,
            levels: None,
        }
    }

    /// Sets the levels of priority, or removes them. They only take effect on deliveries that are
    /// filed from then on, so nothing may wait unless there are levels before and after.
    pub(crate) fn set_levels(&mut self, levels: Option<LevelRule<D>>) {
        match (&mut self.levels, levels) {
            (Some(levels), Some((priorities, _))) => levels.set(priorities),
            (before, levels) => {
                debug_assert_eq!(self.waiting, 0, "what waits has no place among the levels");
                *before = levels.map(|(priorities, of)| Box::new(Levels::new(priorities, of)));
            }
        }
    }

    /// Returns whether there are levels of priority.
    #[inline(always)]
    pub(crate) fn has_levels(&self) -> bool {
        self.levels.is_some()
    }

    /// Tells it the time, by which deliveries age.
    #[inline(always)]
    pub(crate) fn set_now(&mut self, now_ns: u64) {
        if let Some(levels) = &mut self.levels {
            levels.set_now(now_ns);
        }
    }

    /// Returns how many deliveries of each level wait here, the lowest level first.
    pub(crate) fn waiting_by_level(&self) -> Option<[u64; 4]> {
        self.levels.as_ref().map(|levels| levels.waiting())
    }

    /// Returns the number of deliveries that wait here.
    pub(crate) fn len(&self) -> usize {
        self.waiting
    }

    /// Returns the number of deliveries that wait here for their first attempt.
    pub(crate) fn len_new(&self) -> usize {
        self.waiting_new
    }

    /// Returns the number of deliveries that wait for their held key, and of keys that are held.
    pub(crate) fn held(&self) -> (usize, usize) {
        let held = self.lines.values().filter(|line| line.holds > 0);
        held.fold((0, 0), |(deliveries, keys), line| {
            (deliveries + line.queue.len(), keys + 1)
        })
    }

    /// Returns whether any key is held.
    pub(crate) fn holds_any(&self) -> bool {
        self.lines.values().any(|line| line.holds > 0)
    }

    /// Adds an owner. It takes over the keys for which it has the highest weight, once none of
    /// their deliveries is in flight.
    pub(crate) fn join(&mut self, id: u64) {
        self.owners.push(Owner::new(id));
        self.deal_again();
    }

    /// Removes an owner: the others take over.
    pub(crate) fn leave(&mut self, id: u64) {
        self.owners.retain(|owner| owner.id != id);
        self.deal_again();
    }

    fn deal_again(&mut self) {
        for owner in &mut self.owners {
            owner.ready = Ready::EMPTY;
        }
        for (key, line) in &self.lines {
            if let Some((class, rank)) = line.next()
                && let Some(owner) = owner_of(&mut self.owners, *key)
            {
                owner.ready.of_mut(class).insert(rank, *key);
            }
        }
    }

    /// Files a delivery: a new one, one that comes back, or one that was taken and not tried.
    pub(crate) fn file(&mut self, id: u64, key: Option<Key>, class: Class, item: D) {
        let rank = match class {
            Class::New => (id, 0),
            Class::Requeued => (id, self.count()),
            Class::Again => {
                let now_ns = self.levels.as_ref().map_or(0, |levels| levels.now_ns());
                (self.count(), now_ns)
            }
        };
        self.enter(
            key,
            Entry {
                id,
                class,
                rank,
                item,
            },
        );
    }

    /// Files a delivery that was put back, behind this message; `at` is its place in the line of
    /// its key.
    pub(crate) fn file_behind(&mut self, behind: u64, at: u64, key: Option<Key>, item: D) {
        let entry = Entry {
            id: at,
            class: Class::Requeued,
            rank: (behind, self.count()),
            item,
        };
        self.enter(key, entry);
    }

    fn count(&mut self) -> u64 {
        self.filed += 1;
        self.filed
    }

    fn enter(&mut self, key: Option<Key>, mut entry: Entry<D>) {
        self.waiting += 1;
        if let Some(levels) = &mut self.levels {
            levels.enter(&entry.item, &mut entry.rank);
        }
        if entry.class == Class::New {
            self.waiting_new += 1;
            if let Some(droppable) = &mut self.droppable {
                droppable.insert((worth_of(entry.rank), entry.id), key);
            }
        }
        match key {
            None => self.free.insert(entry),
            Some(key) => self.change(key, |line| line.insert(entry)),
        }
    }

    /// Returns whether nothing that waits may go to this owner now.
    pub(crate) fn is_at_rest(&self, owner: u64) -> bool {
        self.wanted_consumers(owner) == 0
    }

    /// Returns whether all deliveries that may go to this owner now are new, and there are some.
    pub(crate) fn has_only_new(&self, owner: u64) -> bool {
        let owner = self.owners.iter().find(|other| other.id == owner);
        let new = self.free.new.len() + owner.map_or(0, |owner| owner.ready.new.len());
        let all = self.free.len() + owner.map_or(0, |owner| owner.ready.len());
        new > 0 && new == all
    }

    /// Returns whether no key waits, is out or is held.
    pub(crate) fn has_no_lines(&self) -> bool {
        self.lines.is_empty()
    }

    /// Returns whether a new delivery of this key may go to this owner without being filed, given
    /// that [nothing filed may](Self::is_at_rest). It may if no delivery of the key waits, is out
    /// or holds it, and the key is this owner's. With levels, it has the default one.
    pub(crate) fn may_pass(&self, owner: u64, key: Option<Key>) -> bool {
        key.is_none_or(|key| !self.lines.contains_key(&key) && owns(&self.owners, owner, key))
    }

    /// Lets a new delivery out without filing it, if it [may](Self::may_pass) go.
    #[inline(always)]
    pub(crate) fn pass(&mut self, owner: u64, key: Option<Key>) -> bool {
        if let Some(key) = key {
            let is_own = owns(&self.owners, owner, key);
            let MapEntry::Vacant(line) = self.lines.entry(key) else {
                return false;
            };
            if !is_own {
                return false;
            }
            line.insert(Line::EMPTY).out = 1;
        }
        if let Some(owner) = self.owners.iter_mut().find(|other| other.id == owner) {
            let tier = self.levels.as_ref().map_or(0, |_| DEFAULT_TIER);
            owner.note_new(tier);
        }
        true
    }

    /// Ends the flight of a delivery of the key, which has ended or has been filed again.
    pub(crate) fn put_down(&mut self, key: Option<Key>) {
        let Some(key) = key else { return };
        match self.lines.entry(key) {
            // The common case: nobody waits for it.
            MapEntry::Occupied(place) if place.get().is_last_out() => {
                place.remove();
            }
            _ => self.change(key, |line| line.out = line.out.saturating_sub(1)),
        }
    }

    /// Holds this key: none of its deliveries goes out until it is released as often.
    pub(crate) fn hold(&mut self, key: Key) {
        self.change(key, |line| line.holds += 1);
    }

    /// Takes back a hold.
    pub(crate) fn release(&mut self, key: Key) {
        self.change(key, |line| line.holds = line.holds.saturating_sub(1));
    }

    /// Takes back all holds.
    pub(crate) fn release_all(&mut self) {
        for line in self.lines.values_mut() {
            line.holds = 0;
        }
        self.lines
            .retain(|_, line| line.out > 0 || !line.queue.is_empty());
        self.deal_again();
    }

    /// Returns how many deliveries an owner could take now, next in their line or behind one of
    /// this class. Counts no further than `enough`.
    pub(crate) fn available(&self, owner: u64, class: Class, enough: usize) -> usize {
        let mut found = self.free.of(class).len();
        let owner = self.owners.iter().find(|other| other.id == owner);
        for key in owner
            .iter()
            .flat_map(|owner| owner.ready.of(class).values())
        {
            if found >= enough {
                break;
            }
            found += self.lines.get(key).map_or(0, |line| line.queue.len());
        }
        found
    }

    /// Returns how many consumers of this owner would have something to do now. Each line counts
    /// once, because lines can't be shared.
    pub(crate) fn wanted_consumers(&self, owner: u64) -> usize {
        let owner = self.owners.iter().find(|other| other.id == owner);
        self.free.len() + owner.map_or(0, |owner| owner.ready.len())
    }

    /// Takes deliveries that this owner may have, at most `most`, of one class `only` or by turns.
    /// By turns, it stops when one kind has run out. With `PerKey::One` it takes one of each key.
    #[inline(never)]
    pub(crate) fn take(
        &mut self,
        owner: u64,
        most: usize,
        per_key: PerKey,
        only: Option<Class>,
    ) -> Vec<Taken<D>> {
        let mut taken: Vec<Taken<D>> = Vec::new();
        let Some(at) = self.owners.iter().position(|other| other.id == owner) else {
            return taken;
        };
        if only.is_none() && self.is_for_levels_alone() {
            self.take_by_levels(at, most, &mut taken);
            return taken;
        }
        let (mut first, mut by_turns) = (None, false);
        // The next deliveries of lines that this call has begun, which nobody else may take.
        let mut begun = Ready::EMPTY;
        while taken.len() < most {
            let Some((next, picks)) = self.next(&self.owners[at], &begun, only) else {
                break;
            };
            let (class, rank, key) = next;
            let is_again = class == Class::Again;
            by_turns |= is_again != *first.get_or_insert(is_again) && picks.is_none();
            if by_turns && is_again == self.owners[at].last_was_again(0) {
                // The others have run out, here: there may be more where they come from.
                break;
            }
            let entry = match key {
                None => self.free.of_mut(class).remove(rank),
                Some(key) => {
                    self.owners[at].ready.of_mut(class).remove(&rank);
                    if per_key == PerKey::All {
                        begun.of_mut(class).remove(&rank);
                    }
                    self.lines.get_mut(&key).and_then(|line| {
                        let entry = line.queue.pop_front()?;
                        line.out += 1;
                        if let Some(next) = line.queue.front().filter(|_| per_key == PerKey::All) {
                            begun.of_mut(next.class).insert(next.rank, key);
                        }
                        Some(entry)
                    })
                }
            };
            let Some(entry) = entry else { break };
            self.owners[at].note_taken(tier_of(rank), is_again);
            if let (Some(levels), Some(picks)) = (&mut self.levels, picks) {
                levels.keep(picks);
            }
            self.forget(&entry);
            let item = entry.item;
            taken.push(Taken { key, item });
        }
        taken
    }

    /// Counts out an entry that waits no longer.
    pub(super) fn forget(&mut self, entry: &Entry<D>) {
        self.waiting -= 1;
        if let Some(levels) = &mut self.levels {
            levels.leave(entry.rank);
        }
        if entry.class == Class::New {
            self.waiting_new -= 1;
            if let Some(droppable) = &mut self.droppable {
                droppable.remove(&(worth_of(entry.rank), entry.id));
            }
        }
    }

    /// Takes all deliveries of one key that wait behind this message.
    pub(crate) fn drain_behind(&mut self, key: Key, id: u64) -> Vec<D> {
        let queue = self.change(key, |line| {
            let from = line.queue.partition_point(|other| other.id <= id);
            line.queue.split_off(from)
        });
        queue.iter().for_each(|entry| self.forget(entry));
        queue.into_iter().map(|entry| entry.item).collect()
    }

    /// Takes all deliveries that are chosen, and leaves the others as they are.
    pub(crate) fn extract(&mut self, mut chosen: impl FnMut(&D) -> bool) -> Vec<D> {
        let mut gone = self.free.extract(&mut chosen);
        let mut places: Vec<(Key, Class, Rank)> = Vec::new();
        for (key, line) in &self.lines {
            let queue = line.queue.iter().filter(|entry| chosen(&entry.item));
            places.extend(queue.map(|entry| (*key, entry.class, entry.rank)));
        }
        for (key, class, rank) in places {
            gone.extend(self.change(key, |line| line.remove(class, rank)));
        }
        gone.iter().for_each(|entry| self.forget(entry));
        gone.into_iter().map(|entry| entry.item).collect()
    }

    /// Takes everything, oldest first. Deliveries that are out stay out.
    pub(crate) fn drain(&mut self) -> Vec<D> {
        let mut all: Vec<Entry<D>> = self.free.drain().collect();
        for line in self.lines.values_mut() {
            all.extend(line.queue.drain(..));
        }
        self.lines.retain(|_, line| line.out > 0 || line.holds > 0);
        for owner in &mut self.owners {
            owner.ready = Ready::EMPTY;
        }
        all.iter().for_each(|entry| self.forget(entry));
        all.sort_by_key(|entry| entry.id);
        all.into_iter().map(|entry| entry.item).collect()
    }

    /// Forgets the lines, because the rule that made them has changed. Returns the deliveries that
    /// waited.
    pub(crate) fn begin_again(&mut self) -> Vec<D> {
        let all = self.drain();
        self.lines.clear();
        all
    }

    /// Changes a line, and keeps the lists of ready deliveries in step.
    pub(super) fn change<R>(&mut self, key: Key, change: impl FnOnce(&mut Line<D>) -> R) -> R {
        let mut place = match self.lines.entry(key) {
            MapEntry::Occupied(place) => place,
            MapEntry::Vacant(place) => place.insert_entry(Line::EMPTY),
        };
        let line = place.get_mut();
        let before = line.next();
        let answer = change(line);
        let after = line.next();
        if line.queue.is_empty() && line.out == 0 && line.holds == 0 {
            place.remove();
        }
        if before != after
            && let Some(owner) = owner_of(&mut self.owners, key)
        {
            if let Some((class, rank)) = before {
                owner.ready.of_mut(class).remove(&rank);
            }
            if let Some((class, rank)) = after {
                owner.ready.of_mut(class).insert(rank, key);
            }
        }
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pure::decide::key_hash::mix;
    use proptest::prelude::*;
    use std::collections::{BTreeSet, VecDeque};

    const ME: u64 = 1;

    fn key(hash: u64) -> Key {
        Key { hash, epoch: 0 }
    }

    fn sequencer(filed: &[(u64, Option<u64>)]) -> Sequencer<u64> {
        let mut sequencer = Sequencer::new();
        sequencer.join(ME);
        for (id, hash) in filed {
            sequencer.file(*id, hash.map(key), Class::New, *id);
        }
        sequencer
    }

    fn take(sequencer: &mut Sequencer<u64>, most: usize, per_key: PerKey) -> Vec<u64> {
        let taken = sequencer.take(ME, most, per_key, None);
        taken.into_iter().map(|taken| taken.item).collect()
    }

    #[test]
    fn the_oldest_goes_first_whatever_its_key() {
        let mut all = sequencer(&[(3, None), (1, Some(7)), (2, Some(8)), (4, Some(7))]);
        assert_eq!(all.peek(ME, Class::New), Some(&1));
        assert_eq!(all.available(ME, Class::New, 9), 4);
        assert_eq!(take(&mut all, 9, PerKey::All), [1, 2, 3, 4]);
        assert_eq!(all.len(), 0);
    }

    #[test]
    fn what_passes_is_out_and_none_passes_those_of_its_key() {
        let mut all = sequencer(&[]);
        assert!(all.has_no_lines() && all.is_at_rest(ME));
        assert!(all.pass(ME, Some(key(7))) && all.pass(ME, None));
        assert!(!all.may_pass(ME, Some(key(7))) && !all.pass(ME, Some(key(7))));
        all.file(2, Some(key(7)), Class::New, 2);
        assert!(all.is_at_rest(ME), "it waits for the first");
        all.put_down(Some(key(7)));
        assert!(!all.is_at_rest(ME) && all.has_only_new(ME));
        assert_eq!(take(&mut all, 9, PerKey::One), [2]);
        all.put_down(Some(key(7)));
        assert!(all.has_no_lines());
        all.join(ME + 1);
        let own = |owner: u64| -> Vec<u64> {
            let keys = 0..100;
            keys.filter(|hash| all.may_pass(owner, Some(key(*hash))))
                .collect()
        };
        let (mine, others) = (own(ME), own(ME + 1));
        assert_eq!(mine.len() + others.len(), 100);
        assert!(mine.iter().all(|hash| !others.contains(hash)));
    }

    #[test]
    fn a_key_that_is_out_waits_and_the_others_go_on() {
        let mut all = sequencer(&[(1, Some(7)), (2, Some(7)), (3, Some(8)), (4, None)]);
        assert_eq!(take(&mut all, 9, PerKey::One), [1, 3, 4]);
        assert!(take(&mut all, 9, PerKey::One).is_empty());
        all.put_down(Some(key(7)));
        assert_eq!(take(&mut all, 9, PerKey::One), [2]);
    }

    #[test]
    fn a_held_key_waits_for_its_retry_which_goes_before_its_followers() {
        let mut all = sequencer(&[(1, Some(7)), (2, Some(7)), (3, Some(8))]);
        assert_eq!(take(&mut all, 1, PerKey::All), [1]);
        all.hold(key(7));
        all.put_down(Some(key(7)));
        assert_eq!((all.held(), all.holds_any()), ((1, 1), true));
        assert_eq!(take(&mut all, 9, PerKey::All), [3]);
        all.file(1, Some(key(7)), Class::Again, 1);
        assert!(take(&mut all, 9, PerKey::All).is_empty());
        all.release(key(7));
        assert_eq!(take(&mut all, 9, PerKey::All), [1, 2]);
    }

    #[test]
    fn what_was_taken_and_not_tried_goes_back_to_its_place() {
        let mut all = sequencer(&[(1, Some(7)), (2, Some(7)), (3, Some(7))]);
        assert_eq!(take(&mut all, 2, PerKey::All), [1, 2]);
        all.file(2, Some(key(7)), Class::New, 2);
        all.put_down(Some(key(7)));
        assert!(take(&mut all, 9, PerKey::All).is_empty(), "1 is still out");
        all.put_down(Some(key(7)));
        assert_eq!(take(&mut all, 9, PerKey::All), [2, 3]);
    }

    #[test]
    fn those_behind_a_message_leave_their_key_to_those_before_it() {
        let mut all = sequencer(&[(1, Some(7)), (2, Some(7)), (3, Some(7)), (4, Some(8))]);
        assert_eq!(all.drain_behind(key(7), 1), [2, 3]);
        assert_eq!(all.len(), 2);
        assert_eq!(take(&mut all, 9, PerKey::All), [1, 4]);
    }

    #[test]
    fn what_is_extracted_leaves_lines_and_holds_as_they_are() {
        let filed = [
            (1, Some(7)),
            (2, Some(8)),
            (3, Some(7)),
            (4, None),
            (5, Some(9)),
        ];
        let mut all = sequencer(&filed);
        all.hold(key(7));
        let mut out = all.extract(|id| [1, 2, 4].contains(id));
        out.sort_unstable();
        assert_eq!(out, [1, 2, 4]);
        assert_eq!(all.len(), 2);
        assert_eq!(take(&mut all, 9, PerKey::All), [5], "7 is still held");
        all.release(key(7));
        assert_eq!(take(&mut all, 9, PerKey::All), [3]);
    }

    #[test]
    fn a_change_of_rule_forgets_what_is_out() {
        let mut all = sequencer(&[(1, Some(7)), (2, Some(7))]);
        assert_eq!(take(&mut all, 1, PerKey::All), [1]);
        assert_eq!(all.begin_again(), [2]);
        let next = Key { hash: 7, epoch: 1 };
        all.file(2, Some(next), Class::New, 2);
        all.put_down(Some(key(7)));
        assert_eq!(take(&mut all, 9, PerKey::All), [2]);
    }

    #[test]
    fn what_is_put_back_goes_behind_those_that_were_there_and_is_new_to_the_turns() {
        let mut all = sequencer(&[(2, None), (3, Some(7)), (5, None)]);
        all.file_behind(3, 3, Some(key(7)), 31);
        all.file_behind(3, 3, None, 32);
        all.file(1, None, Class::Again, 1);
        all.file(4, None, Class::Again, 4);
        assert_eq!((all.len(), all.len_new()), (6 + 1, 3));
        assert_eq!(all.available(ME, Class::New, 9), 2 + 2);
        assert_eq!(take(&mut all, 5, PerKey::All), [1, 2, 4, 3]);
        assert_eq!(
            take(&mut all, 9, PerKey::All),
            [32, 5],
            "31 waits for its key"
        );
        all.put_down(Some(key(7)));
        assert_eq!(take(&mut all, 9, PerKey::All), [31]);
    }

    #[test]
    fn where_order_is_kept_what_is_put_back_stays_the_first_of_its_key() {
        let mut all = sequencer(&[(1, Some(7)), (2, Some(7)), (3, Some(8))]);
        assert_eq!(take(&mut all, 1, PerKey::One), [1]);
        all.file_behind(3, 1, Some(key(7)), 1);
        all.put_down(Some(key(7)));
        assert_eq!(take(&mut all, 9, PerKey::One), [3, 1]);
        all.put_down(Some(key(7)));
        assert_eq!(take(&mut all, 9, PerKey::One), [2]);
    }

    #[test]
    fn the_oldest_new_one_is_told_from_what_was_put_back_in_its_place() {
        let mut all = Sequencer::new();
        all.join(ME);
        all.file_behind(2, 2, Some(key(7)), 20);
        all.file(2, Some(key(7)), Class::New, 2);
        all.file(3, None, Class::New, 3);
        assert!(all.take_oldest_new(9).is_empty());
        all.may_drop();
        all.file(1, None, Class::New, 1);
        all.file(4, None, Class::Again, 4);
        assert_eq!(all.take_oldest_new(2), [1, 2]);
        assert_eq!(all.take_oldest_new(9), [3]);
        assert_eq!(take(&mut all, 1, PerKey::All), [4]);
        assert_eq!(take(&mut all, 9, PerKey::All), [20]);
    }

    /// Several owners take, settle, fail, come and go, in any order.
    #[derive(Clone, Debug)]
    enum Act {
        File(Option<u64>),
        Pass(u64, Option<u64>),
        Take(u64, usize),
        Settle(usize),
        Fail(usize),
        Return(usize),
        Drop(usize),
        Expire(u64),
        Join(u64),
        Leave(u64),
    }

    fn act() -> impl Strategy<Value = Act> {
        prop_oneof![
            4 => proptest::option::of(0..4_u64).prop_map(Act::File),
            4 => (0..3_u64, proptest::option::of(0..4_u64)).prop_map(|(owner, hash)| Act::Pass(owner, hash)),
            4 => (0..3_u64, 1..4_usize).prop_map(|(owner, most)| Act::Take(owner, most)),
            4 => (0..8_usize).prop_map(Act::Settle),
            2 => (0..8_usize).prop_map(Act::Fail),
            2 => (0..8_usize).prop_map(Act::Return),
            1 => (1..4_usize).prop_map(Act::Drop),
            1 => (1..6_u64).prop_map(Act::Expire),
            1 => (0..3_u64).prop_map(Act::Join),
            1 => (0..3_u64).prop_map(Act::Leave),
        ]
    }

    #[test]
    fn a_call_that_takes_by_turns_ends_when_one_kind_has_run_out() {
        let mut all = sequencer(&[(5, None), (6, None), (7, Some(7))]);
        for id in 1..4 {
            all.file(id, Some(key(id)), Class::Again, id);
        }
        assert_eq!(take(&mut all, 4, PerKey::All), [1, 5, 2, 6]);
        all.file(4, None, Class::Again, 4);
        assert_eq!(take(&mut all, 9, PerKey::All), [3, 7, 4]);
        all.file(8, None, Class::New, 8);
        all.file(1, None, Class::Again, 1);
        all.file(2, None, Class::Again, 2);
        assert_eq!(take(&mut all, 9, PerKey::All), [8, 1], "more may be fed");
        assert_eq!(take(&mut all, 9, PerKey::All), [2]);
    }

    proptest! {
        #[test]
        fn no_key_overlaps_overtakes_or_is_forgotten(acts in proptest::collection::vec(act(), 0..200)) {
            let mut all: Sequencer<u64> = Sequencer::new();
            all.may_drop();
            let mut new: BTreeSet<u64> = BTreeSet::new();
            let mut here: Vec<u64> = Vec::new();
            let mut out: Vec<(u64, Taken<u64>)> = Vec::new();
            let mut failed: Vec<Taken<u64>> = Vec::new();
            let mut settled: BTreeMap<u64, u64> = BTreeMap::new();
            let mut filed = 0;
            let mut ended = 0;
            for act in acts {
                match act {
                    Act::File(hash) => {
                        filed += 1;
                        new.insert(filed);
                        all.file(filed, hash.map(key), Class::New, filed);
                    }
                    Act::Pass(owner, hash) => {
                        filed += 1;
                        let key = hash.map(key);
                        let may = all.is_at_rest(owner) && all.may_pass(owner, key);
                        prop_assert!(!may || key.is_none() || here.contains(&owner));
                        if may && here.contains(&owner) {
                            prop_assert!(all.pass(owner, key));
                            let is_here = |other: Option<Key>| key.is_some() && other == key;
                            prop_assert!(!out.iter().any(|(_, taken)| is_here(taken.key)));
                            prop_assert!(!failed.iter().any(|failed| is_here(failed.key)));
                            out.push((owner, Taken { key, item: filed }));
                        } else {
                            new.insert(filed);
                            all.file(filed, key, Class::New, filed);
                        }
                    }
                    Act::Take(owner, most) => {
                        for taken in all.take(owner, most, PerKey::All, None) {
                            prop_assert!(here.contains(&owner));
                            new.remove(&taken.item);
                            if let Some(key) = taken.key {
                                let elsewhere = out.iter().any(|(other, taken)| *other != owner && taken.key == Some(key));
                                prop_assert!(!elsewhere, "two consumers' hands have one key");
                                prop_assert!(failed.iter().all(|failed| failed.key != Some(key)), "a held key was handed out");
                            }
                            out.push((owner, taken));
                        }
                    }
                    Act::Settle(at) if at < out.len() => {
                        // Consumers settle the deliveries of a key in its order.
                        let chosen = out[at].1.key;
                        let at = out.iter().position(|(_, taken)| taken.key == chosen && chosen.is_some()).unwrap_or(at);
                        let (_, taken) = out.remove(at);
                        if let Some(key) = taken.key {
                            let last = settled.insert(key.hash, taken.item).unwrap_or(0);
                            prop_assert!(last < taken.item, "{} after {last}", taken.item);
                        }
                        all.put_down(taken.key);
                        ended += 1;
                    }
                    Act::Fail(at) if at < out.len() => {
                        let chosen = out[at].1.key;
                        let mut first = true;
                        for (owner, taken) in std::mem::take(&mut out) {
                            // The first of its key fails, and its followers go back untried.
                            if taken.key != chosen || chosen.is_none() {
                                out.push((owner, taken));
                            } else if first {
                                first = false;
                                taken.key.into_iter().for_each(|key| all.hold(key));
                                all.put_down(taken.key);
                                failed.push(taken);
                            } else {
                                new.insert(taken.item);
                                all.file(taken.item, taken.key, Class::New, taken.item);
                                all.put_down(taken.key);
                            }
                        }
                    }
                    Act::Drop(most) => {
                        let oldest: Vec<u64> = new.iter().copied().take(most).collect();
                        new.retain(|id| !oldest.contains(id));
                        ended += oldest.len() as u64;
                        prop_assert_eq!(all.take_oldest_new(most), oldest);
                    }
                    Act::Return(at) if at < failed.len() => {
                        let taken = failed.remove(at);
                        all.file(taken.item, taken.key, Class::Again, taken.item);
                        taken.key.into_iter().for_each(|key| all.release(key));
                    }
                    Act::Expire(each) => {
                        let expired = all.extract(|id| id % each == 0);
                        prop_assert!(expired.iter().all(|id| id % each == 0));
                        new.retain(|id| !expired.contains(id));
                        ended += expired.len() as u64;
                    }
                    Act::Join(owner) if !here.contains(&owner) => {
                        here.push(owner);
                        all.join(owner);
                    }
                    Act::Leave(owner) => {
                        here.retain(|other| *other != owner);
                        all.leave(owner);
                    }
                    Act::Settle(_) | Act::Fail(_) | Act::Return(_) | Act::Join(_) => {}
                }
                prop_assert_eq!(all.len() as u64 + out.len() as u64 + failed.len() as u64 + ended, filed);
            }
            // Everything can be taken in the end, by the owners that are there.
            for (_, taken) in out.drain(..) {
                all.file(taken.item, taken.key, Class::Again, taken.item);
                all.put_down(taken.key);
            }
            for taken in failed.drain(..) {
                all.file(taken.item, taken.key, Class::Again, taken.item);
                taken.key.into_iter().for_each(|key| all.release(key));
            }
            if here.is_empty() {
                here.push(9);
                all.join(9);
            }
            let mut left = 0;
            for owner in here {
                // A call may end when one kind has run out.
                loop {
                    let taken = all.take(owner, usize::MAX, PerKey::All, None);
                    if taken.is_empty() {
                        break;
                    }
                    left += taken.len() as u64;
                    taken.iter().for_each(|taken| all.put_down(taken.key));
                }
            }
            prop_assert_eq!(left + ended, filed);
            prop_assert_eq!(all.len(), 0);
        }

        /// Whatever is taken, filed and held meanwhile, both kinds get their turns. Of two
        /// deliveries that wait next in line, the one of the other class than was taken last goes.
        /// Among deliveries that came back, the first to do so goes.
        #[test]
        fn both_kinds_get_their_turns(acts in proptest::collection::vec((0..4_u8, 0..6_u64), 0..200)) {
            let mut all: Sequencer<(Class, u64)> = Sequencer::new();
            all.join(ME);
            let mut ids = 1_000..;
            let mut last = Some(Class::New);
            let mut came_back = VecDeque::new();
            for (act, hash) in acts {
                let hash = (hash > 0).then_some(hash);
                match act {
                    0 | 1 => {
                        let class = if act == 0 { Class::New } else { Class::Again };
                        let id = ids.next().expect("there are more");
                        // A delivery that comes back has any id, and here a key of its own or none.
                        let (id, key) = match class {
                            Class::New => (id, hash.map(key)),
                            Class::Requeued | Class::Again => (mix(id), hash.map(|_| key(id))),
                        };
                        if class == Class::Again {
                            came_back.push_back(id);
                        }
                        all.file(id, key, class, (class, id));
                    }
                    _ => {
                        let there = [Class::New, Class::Again].map(|class| all.peek(ME, class).is_some());
                        let Some(taken) = all.take(ME, 1, PerKey::One, None).pop() else {
                            prop_assert_eq!(there, [false, false]);
                            continue;
                        };
                        let (class, id) = taken.item;
                        if there == [true, true] {
                            prop_assert_ne!(Some(class), last, "twice in a row");
                        }
                        if class == Class::Again {
                            prop_assert_eq!(came_back.pop_front(), Some(id));
                        }
                        last = Some(class);
                        if act == 2 {
                            all.put_down(taken.key);
                        }
                    }
                }
            }
        }
    }
}
