//! Which of a lane's deliveries may be handed out now, and to whom.
//!
//! The oldest message goes first, but for those of a key that has to wait: one of its deliveries is
//! in other hands, or *holds* it until a retry. So a key is never in two hands, and with holds never
//! out of order, while the other keys go on. Each key has one owner among those who take
//! deliveries: the one with the highest weight for it (rendezvous hashing; Thaler and Ravishankar,
//! 1996), so that whoever joins or leaves moves no keys but its own.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};

use super::retry::mix;

/// A key, as far as order is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key {
    /// What tells it from others.
    pub(crate) hash: u64,
    /// By which rule it became a key. What is out when the rule changes belongs to
    /// a line that is no more.
    pub(crate) epoch: u32,
}

/// How many deliveries of one key may be taken at once: into the same hands, which
/// try them one after the other, or into several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Each {
    Once,
    Many,
}

/// A delivery on its way out.
pub(crate) struct Taken<D> {
    pub(crate) key: Option<Key>,
    pub(crate) item: D,
}

/// The deliveries of one key.
struct Line<D> {
    /// By message id.
    queue: VecDeque<(u64, D)>,
    /// How many are in somebody's hands.
    out: u32,
    /// How many reasons there are to hand out none.
    holds: u32,
}

impl<D> Line<D> {
    const EMPTY: Self = Self {
        queue: VecDeque::new(),
        out: 0,
        holds: 0,
    };

    /// The message it would hand out next, if it may.
    fn next(&self) -> Option<u64> {
        let may = self.out == 0 && self.holds == 0;
        self.queue.front().filter(|_| may).map(|(id, _)| *id)
    }

    fn insert(&mut self, id: u64, item: D) {
        let at = self.queue.partition_point(|(other, _)| *other < id);
        self.queue.insert(at, (id, item));
    }

    fn remove(&mut self, id: u64) -> Option<D> {
        let at = self.queue.binary_search_by_key(&id, |(other, _)| *other);
        self.queue.remove(at.ok()?).map(|(_, item)| item)
    }
}

/// The hash of what is one already.
#[derive(Default)]
struct Hashed(u64);

impl Hasher for Hashed {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u32((*byte).into()));
    }

    fn write_u32(&mut self, epoch: u32) {
        self.0 = self.0.rotate_left(8) ^ u64::from(epoch);
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 ^= hash;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// Somebody who takes deliveries.
struct Owner {
    id: u64,
    /// Lines that may go on, by the message that is next.
    ready: BTreeMap<u64, Key>,
}

/// The deliveries that wait in a lane, in order.
pub(crate) struct Sequencer<D> {
    /// Those without a key, by message id. Anybody may have them.
    free: BTreeMap<u64, D>,
    lines: HashMap<Key, Line<D>, BuildHasherDefault<Hashed>>,
    owners: Vec<Owner>,
    waiting: usize,
    /// The new ones among all that wait, by message id: kept only where the oldest of them
    /// may have to make room.
    droppable: Option<BTreeMap<u64, Option<Key>>>,
}

impl<D> Sequencer<D> {
    pub(crate) fn new() -> Self {
        Self {
            free: BTreeMap::new(),
            lines: HashMap::default(),
            owners: Vec::new(),
            waiting: 0,
            droppable: None,
        }
    }

    /// One that can be asked for [the oldest new ones](Self::take_oldest_new).
    pub(crate) fn dropping() -> Self {
        Self {
            droppable: Some(BTreeMap::new()),
            ..Self::new()
        }
    }

    /// Deliveries that wait here.
    pub(crate) fn len(&self) -> usize {
        self.waiting
    }

    /// Deliveries that wait for their key, and keys that are held.
    pub(crate) fn held(&self) -> (usize, usize) {
        let held = self.lines.values().filter(|line| line.holds > 0);
        held.fold((0, 0), |(deliveries, keys), line| {
            (deliveries + line.queue.len(), keys + 1)
        })
    }

    /// Whether any key is held.
    pub(crate) fn holds_any(&self) -> bool {
        self.lines.values().any(|line| line.holds > 0)
    }

    /// Somebody joins: takes over the keys that it has the highest weight for, once
    /// they are in nobody's hands.
    pub(crate) fn join(&mut self, id: u64) {
        self.owners.push(Owner {
            id,
            ready: BTreeMap::new(),
        });
        self.deal_again();
    }

    /// Somebody leaves: the others take over.
    pub(crate) fn leave(&mut self, id: u64) {
        self.owners.retain(|owner| owner.id != id);
        self.deal_again();
    }

    fn deal_again(&mut self) {
        for owner in &mut self.owners {
            owner.ready.clear();
        }
        for (key, line) in &self.lines {
            if let Some(next) = line.next()
                && let Some(owner) = owner_of(&mut self.owners, *key)
            {
                owner.ready.insert(next, *key);
            }
        }
    }

    /// Files a delivery: a new one, one that comes back, or one that was taken
    /// and not tried.
    pub(crate) fn file(&mut self, id: u64, key: Option<Key>, is_new: bool, item: D) {
        self.waiting += 1;
        if is_new && let Some(droppable) = &mut self.droppable {
            droppable.insert(id, key);
        }
        match key {
            None => {
                self.free.insert(id, item);
            }
            Some(key) => self.change(key, |line| line.insert(id, item)),
        }
    }

    /// A delivery of the key that was out has come to its end, or has been filed
    /// again.
    pub(crate) fn put_down(&mut self, key: Option<Key>) {
        if let Some(key) = key {
            self.change(key, |line| line.out = line.out.saturating_sub(1));
        }
    }

    /// Hands out nothing of this key until it is released as often.
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

    /// How many deliveries an owner could take now; counts no further than
    /// `enough`.
    pub(crate) fn available(&self, owner: u64, enough: usize) -> usize {
        let mut found = self.free.len();
        let owner = self.owners.iter().find(|other| other.id == owner);
        for key in owner.iter().flat_map(|owner| owner.ready.values()) {
            if found >= enough {
                break;
            }
            found += self.lines.get(key).map_or(0, |line| line.queue.len());
        }
        found
    }

    /// How many owners' hands have something to do, given as many hands as each
    /// has: lines can't be shared.
    pub(crate) fn wanted_hands(&self, owner: u64) -> usize {
        let owner = self.owners.iter().find(|other| other.id == owner);
        self.free.len() + owner.map_or(0, |owner| owner.ready.len())
    }

    /// The oldest delivery that this owner could take.
    pub(crate) fn peek(&self, owner: u64) -> Option<&D> {
        let owner = self.owners.iter().find(|other| other.id == owner)?;
        let free = self.free.first_key_value();
        let line = owner.ready.first_key_value();
        match (free, line) {
            (Some((id, item)), Some((other, _))) if id < other => Some(item),
            (Some((_, item)), None) => Some(item),
            (_, Some((_, key))) => self.lines.get(key)?.queue.front().map(|(_, item)| item),
            (None, None) => None,
        }
    }

    /// Takes the oldest deliveries that this owner may have, at most so many, and
    /// no further than the first that `may` refuses. `Each::Once`: of each key one.
    pub(crate) fn take(
        &mut self,
        owner: u64,
        most: usize,
        each: Each,
        mut may: impl FnMut(&D) -> bool,
    ) -> Vec<Taken<D>> {
        let mut taken: Vec<Taken<D>> = Vec::new();
        let Some(at) = self.owners.iter().position(|other| other.id == owner) else {
            return taken;
        };
        // What is next of the lines that this call has begun: nobody else's.
        let mut begun: BTreeMap<u64, Key> = BTreeMap::new();
        while taken.len() < most {
            let lines = [first(&self.owners[at].ready), first(&begun)];
            let line = lines.into_iter().flatten().min();
            let free = self.free.first_key_value().map(|(id, _)| *id);
            let (id, key) = match (free, line) {
                (Some(id), Some((other, _))) if id < other => (id, None),
                (_, Some((id, key))) => (id, Some(key)),
                (Some(id), None) => (id, None),
                (None, None) => break,
            };
            let Some(key) = key else {
                if !self.free.get(&id).is_some_and(&mut may) {
                    break;
                }
                let item = self.free.remove(&id);
                forget(&mut self.droppable, id);
                taken.extend(item.map(|item| Taken { key: None, item }));
                continue;
            };
            let Some(line) = self.lines.get_mut(&key) else {
                break;
            };
            if !line.queue.front().is_some_and(|(_, item)| may(item)) {
                break;
            }
            self.owners[at].ready.remove(&id);
            begun.remove(&id);
            if let Some((_, item)) = line.queue.pop_front() {
                forget(&mut self.droppable, id);
                line.out += 1;
                let key = Some(key);
                taken.push(Taken { key, item });
            }
            if each == Each::Many
                && let Some((next, _)) = line.queue.front()
            {
                begun.insert(*next, key);
            }
        }
        self.waiting -= taken.len();
        taken
    }

    /// Takes the oldest of those that are new, at most so many, to be dropped. Whoever
    /// owns their keys, and whether those are out, makes no difference to them.
    pub(crate) fn take_oldest_new(&mut self, most: usize) -> Vec<D> {
        let mut oldest = Vec::new();
        while oldest.len() < most
            && let Some((id, key)) = self.droppable.as_mut().and_then(BTreeMap::pop_first)
        {
            let item = match key {
                None => self.free.remove(&id),
                Some(key) => self.change(key, |line| line.remove(id)),
            };
            self.waiting -= usize::from(item.is_some());
            oldest.extend(item);
        }
        oldest
    }

    /// Takes all that wait of one key behind this message.
    pub(crate) fn drain_behind(&mut self, key: Key, id: u64) -> Vec<D> {
        let queue = self.change(key, |line| {
            let from = line.queue.partition_point(|(other, _)| *other <= id);
            line.queue.split_off(from)
        });
        self.waiting -= queue.len();
        for (id, _) in &queue {
            forget(&mut self.droppable, *id);
        }
        queue.into_iter().map(|(_, item)| item).collect()
    }

    /// Takes everything, oldest first. What is out stays out.
    pub(crate) fn drain(&mut self) -> Vec<D> {
        let mut all: Vec<(u64, D)> = std::mem::take(&mut self.free).into_iter().collect();
        for line in self.lines.values_mut() {
            all.extend(line.queue.drain(..));
        }
        self.lines.retain(|_, line| line.out > 0 || line.holds > 0);
        for owner in &mut self.owners {
            owner.ready.clear();
        }
        self.waiting = 0;
        self.droppable.iter_mut().for_each(BTreeMap::clear);
        all.sort_by_key(|(id, _)| *id);
        all.into_iter().map(|(_, item)| item).collect()
    }

    /// Forgets the lines: the rule that made them has changed. Answers what waited.
    pub(crate) fn begin_again(&mut self) -> Vec<D> {
        let all = self.drain();
        self.lines.clear();
        all
    }

    /// Changes a line, and keeps the lists of what is ready in step.
    fn change<R>(&mut self, key: Key, change: impl FnOnce(&mut Line<D>) -> R) -> R {
        let line = self.lines.entry(key).or_insert(Line::EMPTY);
        let before = line.next();
        let answer = change(line);
        let after = line.next();
        if line.queue.is_empty() && line.out == 0 && line.holds == 0 {
            self.lines.remove(&key);
        }
        if before != after
            && let Some(owner) = owner_of(&mut self.owners, key)
        {
            if let Some(id) = before {
                owner.ready.remove(&id);
            }
            if let Some(id) = after {
                owner.ready.insert(id, key);
            }
        }
        answer
    }
}

fn owner_of(owners: &mut [Owner], key: Key) -> Option<&mut Owner> {
    owners
        .iter_mut()
        .max_by_key(|owner| mix(key.hash ^ mix(owner.id)))
}

fn forget(droppable: &mut Option<BTreeMap<u64, Option<Key>>>, id: u64) {
    if let Some(droppable) = droppable {
        droppable.remove(&id);
    }
}

fn first(ready: &BTreeMap<u64, Key>) -> Option<(u64, Key)> {
    ready.first_key_value().map(|(id, key)| (*id, *key))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    const ME: u64 = 1;

    fn key(hash: u64) -> Key {
        Key { hash, epoch: 0 }
    }

    fn sequencer(filed: &[(u64, Option<u64>)]) -> Sequencer<u64> {
        let mut sequencer = Sequencer::new();
        sequencer.join(ME);
        for (id, hash) in filed {
            sequencer.file(*id, hash.map(key), true, *id);
        }
        sequencer
    }

    fn take(sequencer: &mut Sequencer<u64>, most: usize, each: Each) -> Vec<u64> {
        let taken = sequencer.take(ME, most, each, |_| true);
        taken.into_iter().map(|taken| taken.item).collect()
    }

    #[test]
    fn the_oldest_goes_first_whatever_its_key() {
        let mut all = sequencer(&[(3, None), (1, Some(7)), (2, Some(8)), (4, Some(7))]);
        assert_eq!(all.peek(ME), Some(&1));
        assert_eq!(all.available(ME, 9), 4);
        assert_eq!(take(&mut all, 9, Each::Many), [1, 2, 3, 4]);
        assert_eq!(all.len(), 0);
    }

    #[test]
    fn a_key_that_is_out_waits_and_the_others_go_on() {
        let mut all = sequencer(&[(1, Some(7)), (2, Some(7)), (3, Some(8)), (4, None)]);
        assert_eq!(take(&mut all, 9, Each::Once), [1, 3, 4]);
        assert_eq!(take(&mut all, 9, Each::Once), []);
        all.put_down(Some(key(7)));
        assert_eq!(take(&mut all, 9, Each::Once), [2]);
    }

    #[test]
    fn a_held_key_waits_for_its_retry_which_goes_before_its_followers() {
        let mut all = sequencer(&[(1, Some(7)), (2, Some(7)), (3, Some(8))]);
        assert_eq!(take(&mut all, 1, Each::Many), [1]);
        all.hold(key(7));
        all.put_down(Some(key(7)));
        assert_eq!((all.held(), all.holds_any()), ((1, 1), true));
        assert_eq!(take(&mut all, 9, Each::Many), [3]);
        all.file(1, Some(key(7)), false, 1);
        assert_eq!(take(&mut all, 9, Each::Many), []);
        all.release(key(7));
        assert_eq!(take(&mut all, 9, Each::Many), [1, 2]);
    }

    #[test]
    fn what_was_taken_and_not_tried_goes_back_to_its_place() {
        let mut all = sequencer(&[(1, Some(7)), (2, Some(7)), (3, Some(7))]);
        assert_eq!(take(&mut all, 2, Each::Many), [1, 2]);
        all.file(2, Some(key(7)), true, 2);
        all.put_down(Some(key(7)));
        assert_eq!(take(&mut all, 9, Each::Many), [], "1 is still out");
        all.put_down(Some(key(7)));
        assert_eq!(take(&mut all, 9, Each::Many), [2, 3]);
    }

    #[test]
    fn those_behind_a_message_leave_their_key_to_those_before_it() {
        let mut all = sequencer(&[(1, Some(7)), (2, Some(7)), (3, Some(7)), (4, Some(8))]);
        assert_eq!(all.drain_behind(key(7), 1), [2, 3]);
        assert_eq!(all.len(), 2);
        assert_eq!(take(&mut all, 9, Each::Many), [1, 4]);
    }

    #[test]
    fn a_change_of_rule_forgets_what_is_out() {
        let mut all = sequencer(&[(1, Some(7)), (2, Some(7))]);
        assert_eq!(take(&mut all, 1, Each::Many), [1]);
        assert_eq!(all.begin_again(), [2]);
        let next = Key { hash: 7, epoch: 1 };
        all.file(2, Some(next), true, 2);
        all.put_down(Some(key(7)));
        assert_eq!(take(&mut all, 9, Each::Many), [2]);
    }

    /// Several owners take, settle, fail, come and go, in any order.
    #[derive(Clone, Debug)]
    enum Act {
        File(Option<u64>),
        Take(u64, usize),
        Settle(usize),
        Fail(usize),
        Return(usize),
        Drop(usize),
        Join(u64),
        Leave(u64),
    }

    fn act() -> impl Strategy<Value = Act> {
        prop_oneof![
            4 => proptest::option::of(0..4_u64).prop_map(Act::File),
            4 => (0..3_u64, 1..4_usize).prop_map(|(owner, most)| Act::Take(owner, most)),
            4 => (0..8_usize).prop_map(Act::Settle),
            2 => (0..8_usize).prop_map(Act::Fail),
            2 => (0..8_usize).prop_map(Act::Return),
            1 => (1..4_usize).prop_map(Act::Drop),
            1 => (0..3_u64).prop_map(Act::Join),
            1 => (0..3_u64).prop_map(Act::Leave),
        ]
    }

    proptest! {
        #[test]
        fn no_key_overlaps_overtakes_or_is_forgotten(acts in proptest::collection::vec(act(), 0..200)) {
            let mut all: Sequencer<u64> = Sequencer::dropping();
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
                        all.file(filed, hash.map(key), true, filed);
                    }
                    Act::Take(owner, most) => {
                        for taken in all.take(owner, most, Each::Many, |_| true) {
                            prop_assert!(here.contains(&owner));
                            new.remove(&taken.item);
                            if let Some(key) = taken.key {
                                let elsewhere = out.iter().any(|(other, taken)| *other != owner && taken.key == Some(key));
                                prop_assert!(!elsewhere, "two hands have one key");
                                prop_assert!(failed.iter().all(|failed| failed.key != Some(key)), "a held key was handed out");
                            }
                            out.push((owner, taken));
                        }
                    }
                    Act::Settle(at) if at < out.len() => {
                        // Hands settle what they have of a key in its order.
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
                                all.file(taken.item, taken.key, true, taken.item);
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
                        all.file(taken.item, taken.key, false, taken.item);
                        taken.key.into_iter().for_each(|key| all.release(key));
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
            // Everything can be taken in the end, by whoever is there.
            for (_, taken) in out.drain(..) {
                all.file(taken.item, taken.key, false, taken.item);
                all.put_down(taken.key);
            }
            for taken in failed.drain(..) {
                all.file(taken.item, taken.key, false, taken.item);
                taken.key.into_iter().for_each(|key| all.release(key));
            }
            if here.is_empty() {
                here.push(9);
                all.join(9);
            }
            let mut left = 0;
            for owner in here {
                left += all.take(owner, usize::MAX, Each::Many, |_| true).len() as u64;
            }
            prop_assert_eq!(left + ended, filed);
            prop_assert_eq!(all.len(), 0);
        }
    }
}
