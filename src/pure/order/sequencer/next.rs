//! The delivery that an owner takes next, and the one that is dropped next.

use crate::pure::order::levels::{Levels, Whole, Window, all_tiers, new_rank, untiered, worth_of};
use crate::pure::order::line::{Class, Entry, Key, Rank, Ready};
use crate::pure::order::owners::Owner;
use crate::pure::order::sequencer::{Sequencer, Taken};
use crate::pure::protect::priority::{Picks, Priority};

/// The next delivery for an owner: its class, its rank, and its line if it has one.
pub(crate) type Next = (Class, Rank, Option<Key>);

impl<D> Sequencer<D> {
    /// Returns the class from which this owner would take next; `None` if there is nothing for it.
    pub(crate) fn next_class(&self, owner: u64) -> Option<Class> {
        let owner = self.owners.iter().find(|other| other.id == owner)?;
        let ((class, ..), _) = self.next(owner, &Ready::EMPTY, None)?;
        Some(class)
    }

    /// Returns the first delivery of a class that this owner could take, of any level.
    pub(crate) fn peek(&self, owner: u64, class: Class) -> Option<&D> {
        let owner = self.owners.iter().find(|other| other.id == owner)?;
        let first = match &self.levels {
            None => self.next_within(&Whole, owner, &Ready::EMPTY, Some(class))?,
            Some(_) => {
                let firsts = all_tiers();
                let firsts = firsts
                    .filter_map(|tier| self.next_within(&tier, owner, &Ready::EMPTY, Some(class)));
                firsts.min_by_key(|(_, rank, _)| untiered(*rank))?
            }
        };
        Some(&self.entry(first)?.item)
    }

    /// Returns a delivery that may go next.
    fn entry(&self, (class, rank, key): Next) -> Option<&Entry<D>> {
        match key {
            None => self.free.of(class).get(rank),
            Some(key) => self.lines.get(&key)?.queue.front(),
        }
    }

    /// Returns the delivery that this owner takes next, `begun` lines included. Where there are
    /// levels, also returns the picks for when it has been taken.
    #[inline(always)]
    pub(crate) fn next(
        &self,
        owner: &Owner,
        begun: &Ready,
        only: Option<Class>,
    ) -> Option<(Next, Option<Picks>)> {
        match &self.levels {
            None => Some((self.next_within(&Whole, owner, begun, only)?, None)),
            Some(levels) => self.next_by_level(levels, owner, begun, only),
        }
    }

    #[cold]
    fn next_by_level(
        &self,
        levels: &Levels<D>,
        owner: &Owner,
        begun: &Ready,
        only: Option<Class>,
    ) -> Option<(Next, Option<Picks>)> {
        if only.is_none() && self.free.len() == self.len() && !levels.mind_age() {
            let (tier, picks) = levels.pick_by_depth()?;
            let next = self.next_within(&tier, owner, begun, None)?;
            return Some((next, Some(picks)));
        }
        let picked = levels.pick(|tier| {
            let next = self.next_within(tier, owner, begun, only)?;
            let since_ns = match next {
                _ if !levels.mind_age() => 0,
                (Class::Again, (_, since_ns), _) => since_ns,
                next => levels.urgency(&self.entry(next)?.item).since_ns,
            };
            Some((next, since_ns))
        });
        picked.map(|(next, picks)| (next, Some(picks)))
    }

    /// Returns whether the levels alone decide what goes next, and not by age: nothing that waits has
    /// come back, or has a key.
    pub(super) fn is_for_levels_alone(&self) -> bool {
        let mind_no_age = |levels: &Levels<D>| !levels.mind_age();
        self.levels.as_deref().is_some_and(mind_no_age) && self.free.new.len() == self.len()
    }

    /// Takes at most `most` deliveries for this owner, where the levels alone decide.
    pub(super) fn take_by_levels(&mut self, owner: usize, most: usize, taken: &mut Vec<Taken<D>>) {
        taken.reserve(most.min(self.len()));
        while taken.len() < most
            && let Some(levels) = &mut self.levels
            && let Some((tier, picks)) = levels.pick_by_depth()
            && let Some(entry) = self.free.new.pop(tier.tier())
        {
            levels.keep(picks);
            self.owners[owner].note_new(tier.tier());
            self.forget(&entry);
            let item = entry.item;
            taken.push(Taken { key: None, item });
        }
    }

    /// Returns the delivery of this part of the lists that this owner takes next.
    #[inline(always)]
    fn next_within(
        &self,
        window: &impl Window,
        owner: &Owner,
        begun: &Ready,
        only: Option<Class>,
    ) -> Option<Next> {
        let first = |class| {
            let free = self.free.of(class).first(window.tier());
            let free = free.map(|entry| (class, entry.rank, None));
            let lines = [owner.ready.of(class), begun.of(class)].map(|list| window.first(list));
            let lines = lines.into_iter().flatten();
            let lines = lines.map(|(rank, key)| (class, rank, Some(*key)));
            lines.chain(free).min()
        };
        let in_line = || {
            let both = [first(Class::New), first(Class::Requeued)].into_iter();
            both.flatten().min_by_key(|(_, rank, _)| *rank)
        };
        match only {
            Some(class) => first(class),
            None if owner.last_was_again(window.tier()) => {
                in_line().or_else(|| first(Class::Again))
            }
            None => first(Class::Again).or_else(in_line),
        }
    }

    /// Makes it keep what it takes to find [the oldest new ones](Self::take_oldest_new).
    pub(crate) fn may_drop(&mut self) {
        if self.droppable.is_none() {
            let lines = self.lines.iter();
            let lines =
                lines.flat_map(|(key, line)| line.queue.iter().map(|one| (one, Some(*key))));
            let all = lines.chain(self.free.new.iter().map(|one| (one, None)));
            let new = all.filter(|(one, _)| one.class == Class::New);
            let by_worth = new.map(|(one, key)| ((worth_of(one.rank), one.id), key));
            self.droppable = Some(by_worth.collect());
        }
    }

    /// Takes the oldest new deliveries, at most `most`, to be dropped. It makes no difference who
    /// owns their keys, and whether those are out. Deliveries of lower levels go first.
    pub(crate) fn take_oldest_new(&mut self, most: usize) -> Vec<D> {
        self.take_oldest_below(Priority::Urgent, most)
    }

    /// As [`take_oldest_new`](Self::take_oldest_new), but takes none above this level.
    pub(crate) fn take_oldest_below(&mut self, highest: Priority, most: usize) -> Vec<D> {
        let mut oldest = Vec::new();
        while oldest.len() < most
            && let Some((worth, id, key)) = self.least_worth()
            && worth <= highest as u64
        {
            let entry = match key {
                None => self.free.new.remove(new_rank(worth, id)),
                Some(key) => self.change(key, |line| line.remove_new(id)),
            };
            let Some(entry) = entry else { break };
            self.forget(&entry);
            oldest.push(entry.item);
        }
        oldest
    }

    /// Returns the worth, the id and the key of the new delivery that is dropped first.
    fn least_worth(&self) -> Option<(u64, u64, Option<Key>)> {
        let ((worth, id), key) = self.droppable.as_ref()?.first_key_value()?;
        Some((*worth, *id, *key))
    }
}
