//! Timers by the hundred thousand: a hierarchical hashed timing wheel, after G. Varghese and
//! T. Lauck, "Hashed and Hierarchical Timing Wheels" (SOSP 1987).
//!
//! Insert and cancel take constant time however many timers are pending. The engine needs four
//! things at once, so the wheel is written here. It has no clock or thread of its own. It tells the
//! exact moment to sleep to. Its time may jump any distance. A timer takes 45 bytes, without
//! `unsafe`.
//!
//! Time is cut into ticks of [`TICK_NS`]. Deadlines are rounded up to a tick, so a timer may be up
//! to one tick late and is never early. Each level has 64 slots, and a slot is as wide as the whole
//! level below it:
//!
//! | level | one slot    | whole level |
//! |-------|-------------|-------------|
//! | 0     | 100 µs      | 6.4 ms      |
//! | 1     | 6.4 ms      | 410 ms      |
//! | 2     | 410 ms      | 26.2 s      |
//! | 3     | 26.2 s      | 28 min      |
//! | 4     | 28 min      | 29.8 h      |
//! | 5     | 29.8 h      | 79.5 days   |
//!
//! These properties hold at all times:
//!
//! 1. A timer's slot follows from its deadline and `elapsed` alone ([`place`]). When time enters a
//!    slot above level 0, its timers move down (cascade).
//! 2. Every timer of a level is due before every timer of the levels above it. So the first
//!    occupied level holds both the next slot to visit and the next timer to fire.
//! 3. Below the top level, slots come in the order of their deadlines. The top level also holds
//!    timers that lie beyond the wheel's reach. Such a timer is put back, a turn at a time, until
//!    it is near.
//! 4. A timer that is cancelled is gone at once, out of its slot too. So memory follows the timers
//!    that are pending and not those that have been. That is 45 bytes for each, and at most one
//!    part-filled chunk of [`Buckets`] for each slot. After a storm the memory serves whichever
//!    slots need it, and goes back when no timer is left.
//!
//! The wheel is fast with a million timers because nothing waits for one entry before it can look
//! for the next: see [`Buckets`], and `settle`.

pub(crate) mod arena;
pub(crate) mod buckets;

use crate::pure::wheel::arena::{Arena, NIL};
use crate::pure::wheel::buckets::{Buckets, CHUNK, Item};

/// The timers. `V` is the value that a timer carries. Each timer takes an entry of 16 bytes on top
/// of its value, provided that `V` has a niche (see [`Arena`]). It takes 13 bytes in the bucket of
/// its slot.
pub(crate) struct Wheel<V> {
    /// The last tick that has been dealt with. No timer that was due by then is pending, save those
    /// inserted since, which wait in level 0's slot for this very tick.
    elapsed: u64,
    /// One bit per slot and level, set while the slot has timers.
    occupied: [u64; LEVELS],
    /// No later than the earliest deadline in the slot, and equal to it unless that was cancelled.
    earliest_ns: Box<[[u64; SLOTS]; LEVELS]>,
    /// A bucket for each slot, level by level. An entry and its item know where the other is.
    buckets: Buckets,
    entries: Arena<Entry<V>>,
    next_stamp: u32,
}

/// Names one pending timer. A key outlives its timer harmlessly: it is then stale, and names
/// nothing.
///
/// Staleness is exact unless a key is kept while 2^32 further timers are inserted. Only then could
/// it name another timer that happens to sit in the same place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct TimerKey {
    index: u32,
    stamp: u32,
}

impl TimerKey {
    /// A key that names no timer.
    pub(crate) const NONE: Self = Self {
        index: u32::MAX,
        stamp: 0,
    };
}

/// A timer that has fired.
#[derive(Debug)]
pub(crate) struct Due<V> {
    pub(crate) value: V,
    /// The number the caller gave at insertion; the wheel attaches no meaning to it.
    pub(crate) tag: u32,
    /// The key the timer had, stale by now, for callers that keep their own record of keys.
    pub(crate) key: TimerKey,
    /// The deadline as it was given, not rounded.
    pub(crate) deadline_ns: u64,
}

impl<V> Wheel<V> {
    /// Makes an empty wheel whose time begins at `now_ns`. It takes about 5 KiB until timers are
    /// inserted.
    pub(crate) fn new(now_ns: u64) -> Self {
        Self {
            elapsed: tick_reached(now_ns),
            occupied: [0; LEVELS],
            earliest_ns: Box::new([[u64::MAX; SLOTS]; LEVELS]),
            buckets: Buckets::new(LEVELS * SLOTS),
            entries: Arena::new(),
            next_stamp: 0,
        }
    }

    /// Adds a timer. A deadline that has passed is due at the next [`advance`](Self::advance).
    ///
    /// # Panics
    ///
    /// Panics if nearly 2^32 timers are pending: callers bound them far below that.
    pub(crate) fn insert(&mut self, deadline_ns: u64, tag: u32, value: V) -> TimerKey {
        let stamp = self.next_stamp;
        self.next_stamp = stamp.wrapping_add(1);
        let index = self.entries.insert(Entry {
            value,
            tag,
            stamp,
            place: NIL,
        });
        let place = self.put(Item { deadline_ns, index });
        self.set_place(index, place);
        TimerKey { index, stamp }
    }

    /// Takes a pending timer back, in constant time. `None` means that `key` is stale: the timer
    /// has fired or was cancelled before.
    pub(crate) fn cancel(&mut self, key: TimerKey) -> Option<V> {
        let entry = self.entries.get(key.index)?;
        if entry.stamp != key.stamp {
            return None;
        }
        let place = entry.place;
        let removed = self.buckets.remove(place);
        if let Some(moved) = removed.moved {
            self.set_place(moved.index, place);
        }
        if removed.emptied {
            self.mark_empty(removed.bucket / SLOTS, removed.bucket % SLOTS);
        }
        self.entries.remove(key.index).map(|entry| entry.value)
    }

    /// Returns when [`advance`](Self::advance) will next fire something: the earliest deadline,
    /// rounded up to a tick. Sleeping to exactly this moment misses nothing, and moving timers
    /// between levels needs no wake-ups of its own. The moment is in the past if a timer was
    /// inserted overdue.
    ///
    /// The moment is never late. It may be early if the earliest timer of a slot was cancelled,
    /// since the slot's others are not searched for the new earliest. `advance` at that moment
    /// fires nothing and puts the moment right. So one cancelled timer costs at most one idle
    /// wake-up.
    pub(crate) fn next_deadline_ns(&self) -> Option<u64> {
        let level = self.first_occupied_level()?;
        let earliest_ns = if level == TOP {
            // Slot order says nothing here, because timers may be any number of turns away.
            let slots = self.earliest_ns[TOP].iter();
            slots.fold(u64::MAX, |min, &slot| min.min(slot))
        } else {
            let slot = self.occupied[level].trailing_zeros() as usize;
            self.earliest_ns[level][slot]
        };
        Some(due_tick(earliest_ns).saturating_mul(TICK_NS))
    }

    /// Moves time to `now_ns` and appends to `due` every timer whose deadline, rounded up to a
    /// tick, has been reached. A `now_ns` before an earlier one counts as that earlier one.
    ///
    /// One call appends in order of `deadline_ns`, and equal deadlines in order of insertion. The
    /// exception is around a timer that was pending while 2^32 others were inserted. A timer
    /// inserted overdue cannot be fired before timers that earlier calls have fired.
    ///
    /// The cost follows the occupied slots that time passes and the timers in them, not the length
    /// of the jump. There is no limit on how many timers one call fires.
    pub(crate) fn advance(&mut self, now_ns: u64, due: &mut Vec<Due<V>>) {
        let now = tick_reached(now_ns).max(self.elapsed);
        while let Some(level) = self.first_occupied_level() {
            let (slot, start) = self.next_slot(level);
            if start > now {
                break;
            }
            // Any other timers in this slot are placed anew as seen from here, which is as far as
            // time can move without entering another slot.
            let end = start + slot_ticks(level) - 1;
            self.elapsed = end.min(now);
            self.visit(level, slot, due);
        }
        self.elapsed = now;
    }

    /// Returns the pending timers in no order: their deadlines, rounded up to a tick, tags and
    /// values.
    pub(crate) fn pending(&self) -> impl Iterator<Item = (u64, u32, &V)> {
        self.buckets.all().filter_map(|item| {
            let entry = self.entries.get(item.index)?;
            let due_ns = due_tick(item.deadline_ns).saturating_mul(TICK_NS);
            Some((due_ns, entry.tag, &entry.value))
        })
    }

    /// Returns whether an [`advance`](Self::advance) to `now_ns` could find anything.
    pub(crate) fn is_due(&self, now_ns: u64) -> bool {
        let now = tick_reached(now_ns).max(self.elapsed);
        let level = self.first_occupied_level();
        level.is_some_and(|level| self.next_slot(level).1 <= now)
    }

    /// Returns how many timers are pending, overdue ones included.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn first_occupied_level(&self) -> Option<usize> {
        self.occupied.iter().position(|&slots| slots != 0)
    }

    /// Returns the next slot of `level` that has timers, and the tick at which time enters it.
    /// `level` must be occupied.
    fn next_slot(&self, level: usize) -> (usize, u64) {
        // Level 0's current slot holds timers that were inserted overdue, and is next. The current
        // slot of any other level has been entered already: a timer there is a whole turn away.
        let first = self.elapsed / slot_ticks(level) + u64::from(level > 0);
        let ahead = self.occupied[level].rotate_right((first % SLOTS as u64) as u32);
        let turn = first + u64::from(ahead.trailing_zeros());
        ((turn % SLOTS as u64) as usize, turn * slot_ticks(level))
    }

    /// Empties a slot that time has entered. All timers of one tick share a slot, so sorting the
    /// timers of one visit is enough to put everything in order.
    fn visit(&mut self, level: usize, slot: usize, due: &mut Vec<Due<V>>) {
        let fired_before = due.len();
        self.mark_empty(level, slot);
        let mut emptied = self.buckets.empty(level * SLOTS + slot);
        while let Some(chunk) = self.buckets.next_chunk(&mut emptied) {
            self.settle(chunk.items(), due);
        }
        // Stamps wrap around; counted from the next one to be given out, the oldest is the least.
        let youngest = self.next_stamp;
        due[fired_before..]
            .sort_unstable_by_key(|due| (due.deadline_ns, due.key.stamp.wrapping_sub(youngest)));
    }

    /// Fires the timers that `elapsed` has reached, and moves any other to where it now belongs.
    fn settle(&mut self, items: &[Item], due: &mut Vec<Due<V>>) {
        let mut moved = [(NIL, NIL); CHUNK];
        let mut moves = 0;
        // The newest chunk comes first, so with its items from the last on, timers that were set in
        // order come in reverse. A sort finds that out at once.
        for &item in items.iter().rev() {
            if due_tick(item.deadline_ns) > self.elapsed {
                moved[moves] = (item.index, self.put(item));
                moves += 1;
            } else if let Some(entry) = self.entries.remove(item.index) {
                due.push(entry.fire(item));
            }
        }
        // Entries are far apart, so each of these writes waits for memory. With nothing in between
        // they wait together; and entries of timers about to fire have been fetched by then.
        for &(index, place) in &moved[..moves] {
            self.set_place(index, place);
        }
    }

    /// Puts a timer that is in no slot in the one it belongs to. The caller tells its entry the
    /// place.
    fn put(&mut self, item: Item) -> u32 {
        let (level, slot) = place(self.elapsed, due_tick(item.deadline_ns));
        let earliest_ns = &mut self.earliest_ns[level][slot];
        *earliest_ns = item.deadline_ns.min(*earliest_ns);
        self.occupied[level] |= 1 << slot;
        self.buckets.add(level * SLOTS + slot, item)
    }

    fn mark_empty(&mut self, level: usize, slot: usize) {
        self.earliest_ns[level][slot] = u64::MAX;
        self.occupied[level] &= !(1 << slot);
    }

    fn set_place(&mut self, index: u32, place: u32) {
        let entry = self.entries.get_mut(index);
        entry.expect("slots hold pending timers only").place = place;
    }
}

struct Entry<V> {
    value: V,
    tag: u32,
    /// Tells this timer from earlier and later ones at the same index, and the older of two timers
    /// with equal deadlines.
    stamp: u32,
    /// The place of its item.
    place: u32,
}

impl<V> Entry<V> {
    fn fire(self, item: Item) -> Due<V> {
        Due {
            value: self.value,
            tag: self.tag,
            key: TimerKey {
                index: item.index,
                stamp: self.stamp,
            },
            deadline_ns: item.deadline_ns,
        }
    }
}

/// Returns the level and slot of a timer due at tick `due`. The level is that of the highest digit,
/// in base 64, in which `due` and `elapsed` differ. An overdue timer shares the slot of `elapsed`
/// itself, in which no timer that is still to come can be.
fn place(elapsed: u64, due: u64) -> (usize, usize) {
    let tick = due.max(elapsed);
    let differing = (tick ^ elapsed) | 1;
    let level = ((differing.ilog2() / SLOT_BITS) as usize).min(TOP);
    (level, (tick / slot_ticks(level)) as usize % SLOTS)
}

/// Returns the tick at which a deadline is due: the first that does not begin before it.
pub(crate) fn due_tick(deadline_ns: u64) -> u64 {
    deadline_ns.div_ceil(TICK_NS)
}

/// Returns the last tick that has begun at `now_ns`. The end of time counts as a whole tick, for
/// otherwise the deadlines within the last, broken one could never be reached.
fn tick_reached(now_ns: u64) -> u64 {
    now_ns / TICK_NS + u64::from(now_ns == u64::MAX)
}

/// Returns how many ticks one slot of `level` spans.
fn slot_ticks(level: usize) -> u64 {
    1 << (SLOT_BITS * level as u32)
}

/// The length of a tick: 100 µs, so that a linger of 200 µs still means something. A finer tick
/// would promise more than an operating system's sleep can keep.
pub(crate) const TICK_NS: u64 = 100_000;

/// The number of levels. Six reach 79.5 days; later timers are put back once per turn of the top
/// level.
const LEVELS: usize = 6;
const TOP: usize = LEVELS - 1;

/// The slots of a level: as many as a word has bits, so that one word says which are occupied.
const SLOTS: usize = 1 << SLOT_BITS;
const SLOT_BITS: u32 = 6;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::pure::wheel::arena;

    /// Returns the width of one slot of each level, and last the reach of the whole wheel.
    fn periods_ns() -> impl Iterator<Item = u64> {
        (0..=LEVELS).map(|level| slot_ticks(level) * TICK_NS)
    }

    fn round_up(deadline_ns: u64) -> u64 {
        deadline_ns.div_ceil(TICK_NS).saturating_mul(TICK_NS)
    }

    fn fired(wheel: &mut Wheel<Arc<str>>, now_ns: u64) -> Vec<u32> {
        let mut due = Vec::new();
        wheel.advance(now_ns, &mut due);
        assert_sound(wheel);
        due.into_iter().map(|due| due.tag).collect()
    }

    fn insert(wheel: &mut Wheel<Arc<str>>, deadline_ns: u64, tag: u32) -> TimerKey {
        let key = wheel.insert(deadline_ns, tag, Arc::from("timer"));
        assert_sound(wheel);
        key
    }

    /// Checks the slots, the bitmaps and the minima.
    fn assert_sound<V>(wheel: &Wheel<V>) {
        let mut found = 0;
        for level in 0..LEVELS {
            for slot in 0..SLOTS {
                let places = wheel.buckets.places(level * SLOTS + slot);
                assert_eq!(wheel.occupied[level] >> slot & 1 == 1, !places.is_empty());
                for &(at, item) in &places {
                    let deadline_ns = item.deadline_ns;
                    assert_eq!(wheel.entries.get(item.index).unwrap().place, at);
                    let due = due_tick(deadline_ns);
                    assert_eq!(place(wheel.elapsed, due), (level, slot));
                    assert!(wheel.earliest_ns[level][slot] <= deadline_ns);
                }
                found += places.len();
            }
        }
        assert_eq!(found, wheel.len());
    }

    /// Returns how many timers there is memory for.
    fn capacity<V>(wheel: &Wheel<V>) -> (usize, usize) {
        (wheel.entries.capacity(), wheel.buckets.capacity())
    }

    #[test]
    fn a_timer_takes_29_bytes_on_top_of_what_it_carries() {
        type Value = Arc<dyn Send>;
        assert_eq!(size_of::<arena::Slot<Entry<Value>>>(), 32);
        let wheel: Wheel<Value> = filled(100_000);
        let (_, items) = capacity(&wheel);
        // A chunk for each slot, and the rest of the last page of chunks.
        assert!(items * 192 / CHUNK <= 100_000 * 13 + (LEVELS * SLOTS + 64) * 192);
        assert_eq!(size_of::<TimerKey>(), 8);
    }

    #[test]
    fn an_idle_wheel_takes_a_few_kib() {
        assert!(size_of::<Wheel<Arc<str>>>() <= 152);
        assert!(LEVELS * SLOTS * (size_of::<u64>() + size_of::<u32>()) <= 5 * 1024);
    }

    /// Makes a wheel with `timers` timers, spread over all levels.
    fn filled(timers: u64) -> Wheel<Arc<dyn Send>> {
        let value: Arc<dyn Send> = Arc::new(());
        let mut wheel = Wheel::new(0);
        for n in 0..timers {
            let deadline_ns = (n * n) << (n % 20);
            wheel.insert(deadline_ns, n as u32, Arc::clone(&value));
        }
        wheel
    }

    #[test]
    fn a_million_timers_set_and_cancelled_leave_nothing() {
        const HOUR_NS: u64 = 3_600_000_000_000;
        let mut wheel = Wheel::new(0);
        let first = wheel.insert(HOUR_NS, 0, Box::new(0));
        let before = capacity(&wheel);
        for n in 0..1_000_000 {
            let key = wheel.insert(HOUR_NS + n % 7, 0, Box::new(n));
            assert_eq!(wheel.cancel(key), Some(Box::new(n)));
        }
        assert_eq!(capacity(&wheel), before);
        // Alternating: the older one of two goes, so never the last of its slot.
        let mut older = first;
        for n in 0..1_000_000 {
            let key = wheel.insert(HOUR_NS + n % 7, 0, Box::new(n));
            assert!(wheel.cancel(older).is_some());
            older = key;
        }
        assert_eq!(capacity(&wheel), before);
        assert!(wheel.cancel(older).is_some());
        assert_eq!(wheel.next_deadline_ns(), None);
        assert_sound(&wheel);
    }

    #[test]
    fn after_a_storm_its_memory_serves_other_slots_and_goes_back_with_the_last_timer() {
        let mut wheel = Wheel::new(0);
        let small = capacity(&filled(1));
        for now_ns in [0, 1_000_000_000, 9_000_000_000] {
            for tag in 0..10_000 {
                wheel.insert(now_ns + 500_000_000, tag, Box::new(tag));
            }
            let storm = capacity(&wheel);
            assert!(storm.1 <= 10_000 + 65 * CHUNK);
            // Time goes in steps, so the storm goes down from slot to slot.
            let mut due = Vec::new();
            let lone = wheel.insert(now_ns + 700_000_000, 0, Box::new(0));
            for step in 0..60 {
                wheel.advance(now_ns + step * 10_000_000, &mut due);
            }
            assert!(due.iter().map(|due| due.tag).eq(0..10_000));
            assert!(capacity(&wheel).1 <= storm.1 + 64 * CHUNK);
            assert!(wheel.cancel(lone).is_some());
            assert_eq!(capacity(&wheel), small);
        }
    }

    #[test]
    fn a_timer_is_placed_by_the_highest_digit_in_which_it_differs() {
        for level in 0..LEVELS {
            let width = slot_ticks(level);
            assert_eq!(place(0, width), (level, 1));
            assert_eq!(place(0, width * 63), (level, 63));
            assert_eq!(place(0, width * 64 - 1), (level, 63));
            assert_eq!(place(width - 1, width), (level, 1));
            assert_eq!(place(width, width), (0, width as usize % SLOTS));
        }
        assert_eq!(place(0, slot_ticks(LEVELS)), (TOP, 0));
        assert_eq!(place(0, slot_ticks(LEVELS) + slot_ticks(TOP)), (TOP, 1));
        assert_eq!(place(70, 3), (0, 6));
    }

    #[test]
    fn a_timer_fires_at_its_deadline_rounded_up_and_hands_everything_back() {
        let mut wheel = Wheel::new(0);
        let key = wheel.insert(150_001, 7, Arc::from("payload"));
        assert_eq!(wheel.next_deadline_ns(), Some(200_000));
        let mut due = Vec::new();
        wheel.advance(199_999, &mut due);
        assert!(due.is_empty());
        wheel.advance(200_000, &mut due);
        let Due {
            value,
            tag,
            key: fired_key,
            deadline_ns,
        } = due.pop().unwrap();
        assert_eq!((&*value, tag, deadline_ns), ("payload", 7, 150_001));
        assert_eq!(fired_key, key);
        assert!(wheel.is_empty());
        assert_eq!(wheel.next_deadline_ns(), None);
    }

    #[test]
    fn delays_around_a_period_of_any_level_fire_on_time_from_any_start() {
        let around = |p| {
            [
                p / 2,
                p - 1,
                p,
                p + 1,
                p + TICK_NS,
                p * 3 + p / 2 + 17,
                p * 63,
            ]
        };
        for start in periods_ns().flat_map(around) {
            for delay in periods_ns().flat_map(around) {
                let mut wheel = Wheel::new(start);
                let moment = round_up(start + delay);
                insert(&mut wheel, start + delay, 1);
                assert_eq!(wheel.next_deadline_ns(), Some(moment));
                // Halting half way makes the timer cascade before it is due.
                assert!(fired(&mut wheel, start + delay / 2).is_empty());
                assert!(fired(&mut wheel, moment - 1).is_empty());
                assert_eq!(wheel.next_deadline_ns(), Some(moment));
                assert_eq!(fired(&mut wheel, moment), [1], "{delay} after {start}");
            }
        }
    }

    #[test]
    fn a_timer_beyond_the_reach_of_the_wheel_waits_for_its_turn() {
        let reach = slot_ticks(LEVELS) * TICK_NS;
        let mut wheel = Wheel::new(12_345);
        insert(&mut wheel, reach * 3 + 77, 3);
        insert(&mut wheel, reach * 2 + reach / 2, 2);
        insert(&mut wheel, reach * 40, 40);
        assert_eq!(
            wheel.next_deadline_ns(),
            Some(round_up(reach * 2 + reach / 2))
        );
        assert!(fired(&mut wheel, reach).is_empty());
        assert!(fired(&mut wheel, reach * 2).is_empty());
        assert_eq!(
            wheel.next_deadline_ns(),
            Some(round_up(reach * 2 + reach / 2))
        );
        assert_eq!(fired(&mut wheel, reach * 3), [2]);
        assert_eq!(fired(&mut wheel, reach * 50), [3, 40]);
    }

    #[test]
    fn a_late_advance_fires_everything_it_passed_in_order_of_deadline() {
        let mut wheel = Wheel::new(0);
        let deadlines: Vec<u64> = periods_ns()
            .flat_map(|p| [p, p / 2, p * 5 + 1, p * 9 - 1])
            .collect();
        for (tag, &deadline_ns) in deadlines.iter().enumerate().rev() {
            insert(&mut wheel, deadline_ns, tag as u32);
        }
        let mut due = Vec::new();
        wheel.advance(u64::MAX / 2, &mut due);
        assert_eq!(due.len(), deadlines.len());
        assert!(due.is_sorted_by_key(|due| due.deadline_ns));
    }

    #[test]
    fn equal_deadlines_fire_in_order_of_insertion_even_when_stamps_wrap() {
        let mut wheel = Wheel::new(0);
        wheel.next_stamp = u32::MAX - 2;
        for tag in 0..6 {
            insert(&mut wheel, 40_000_000, tag);
            // A step between inserts puts equal deadlines at different levels at first.
            assert!(fired(&mut wheel, u64::from(tag) * 6_400_000).is_empty());
        }
        assert_eq!(fired(&mut wheel, 40_000_000), [0, 1, 2, 3, 4, 5]);
    }

    #[test]
    fn an_overdue_timer_fires_at_the_next_advance_and_before_what_is_to_come() {
        let mut wheel = Wheel::new(1_000_000_050);
        insert(&mut wheel, 1_000_100_000, 1);
        insert(&mut wheel, 1_000_000_000, 2);
        insert(&mut wheel, 0, 3);
        assert_eq!(wheel.next_deadline_ns(), Some(0));
        assert_eq!(fired(&mut wheel, 1_000_000_050), [3, 2]);
        insert(&mut wheel, 500, 4);
        assert_eq!(fired(&mut wheel, 1_000_100_000), [4, 1]);
    }

    #[test]
    fn time_that_runs_backwards_counts_as_standing_still() {
        let mut wheel = Wheel::new(0);
        assert!(fired(&mut wheel, 10_000_000).is_empty());
        insert(&mut wheel, 10_500_000, 1);
        insert(&mut wheel, 9_000_000, 2);
        assert_eq!(fired(&mut wheel, 0), [2]);
        assert!(fired(&mut wheel, 5).is_empty());
        assert_eq!(fired(&mut wheel, 10_500_000), [1]);
    }

    #[test]
    fn any_timer_of_a_slot_can_be_cancelled() {
        const TIMERS: u32 = 2 * CHUNK as u32 + 1;
        for cancelled in 0..TIMERS {
            let mut wheel = Wheel::new(0);
            let keys: Vec<TimerKey> = (0..TIMERS)
                .map(|tag| insert(&mut wheel, 700_000, tag))
                .collect();
            assert!(wheel.cancel(keys[cancelled as usize]).is_some());
            assert_sound(&wheel);
            let left: Vec<u32> = (0..TIMERS).filter(|&tag| tag != cancelled).collect();
            assert_eq!(fired(&mut wheel, 700_000), left);
        }
    }

    #[test]
    fn a_timer_can_be_cancelled_after_it_has_cascaded() {
        let mut wheel = Wheel::new(0);
        let keys: Vec<TimerKey> = (0..5)
            .map(|tag| insert(&mut wheel, 30_000_000_000 + u64::from(tag), tag))
            .collect();
        for (step, now_ns) in [27_000_000_000, 29_950_000_000, 29_999_000_000]
            .into_iter()
            .enumerate()
        {
            assert!(fired(&mut wheel, now_ns).is_empty());
            assert!(wheel.cancel(keys[step]).is_some());
            assert_sound(&wheel);
        }
        assert_eq!(fired(&mut wheel, 30_000_100_000), [3, 4]);
    }

    #[test]
    fn a_stale_key_names_nothing() {
        let mut wheel = Wheel::new(0);
        let spent = insert(&mut wheel, 100_000, 0);
        assert_eq!(fired(&mut wheel, 100_000), [0]);
        assert_eq!(wheel.cancel(spent), None);
        let tenant = insert(&mut wheel, 200_000, 1);
        assert_eq!(tenant.index, spent.index);
        assert_eq!(wheel.cancel(spent), None);
        assert!(wheel.cancel(tenant).is_some());
        assert_eq!(wheel.cancel(tenant), None);
        assert!(fired(&mut wheel, 1_000_000).is_empty());
    }

    #[test]
    fn a_cancelled_minimum_costs_at_most_one_idle_wake_up() {
        for period in periods_ns() {
            let (first, second) = (period * 10, period * 10 + period / 2);
            let mut wheel = Wheel::new(0);
            let key = insert(&mut wheel, first, 1);
            insert(&mut wheel, second, 2);
            wheel.cancel(key);
            let early = wheel.next_deadline_ns().unwrap();
            assert!(early <= round_up(second));
            if early < round_up(second) {
                assert!(fired(&mut wheel, early).is_empty());
            }
            assert_eq!(wheel.next_deadline_ns(), Some(round_up(second)));
        }
    }

    #[test]
    fn deadlines_at_the_end_of_time_fire_at_the_end_of_time() {
        let mut wheel = Wheel::new(0);
        insert(&mut wheel, u64::MAX, 2);
        insert(&mut wheel, u64::MAX - 1, 1);
        insert(&mut wheel, u64::MAX - TICK_NS, 0);
        assert_eq!(fired(&mut wheel, u64::MAX - 1), [0]);
        assert_eq!(wheel.next_deadline_ns(), Some(u64::MAX));
        assert_eq!(fired(&mut wheel, u64::MAX), [1, 2]);
        insert(&mut wheel, u64::MAX, 3);
        assert_eq!(fired(&mut wheel, u64::MAX), [3]);
    }

    #[derive(Clone, Debug)]
    enum Step {
        InsertAfter(u64),
        InsertBefore(u64),
        InsertAt(u64),
        Cancel(prop::sample::Index),
        AdvanceBy(u64),
        AdvanceToNext,
        TurnBack(u64),
    }

    /// Delays of every size, and above all those next to a boundary between slots.
    fn delay_ns() -> impl Strategy<Value = u64> {
        let near_a_period =
            (0..=LEVELS, 0u64..130, 0..=2 * TICK_NS).prop_map(|(level, n, jitter)| {
                (slot_ticks(level) * TICK_NS * n + jitter).saturating_sub(TICK_NS)
            });
        let of_any_size = (0u32..58).prop_flat_map(|bits| 0..=1u64 << bits);
        prop_oneof![near_a_period, of_any_size, 0..20_000_000u64]
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            8 => delay_ns().prop_map(Step::InsertAfter),
            1 => delay_ns().prop_map(Step::InsertBefore),
            1 => (0..3 * TICK_NS).prop_map(|before| Step::InsertAt(u64::MAX - before)),
            4 => any::<prop::sample::Index>().prop_map(Step::Cancel),
            4 => delay_ns().prop_map(Step::AdvanceBy),
            4 => Just(Step::AdvanceToNext),
            1 => delay_ns().prop_map(Step::TurnBack),
        ]
    }

    /// The wheel as it ought to be: deadlines in a sorted map, and time.
    struct Model {
        pending: BTreeMap<(u64, u32), TimerKey>,
        now_ns: u64,
    }

    impl Model {
        fn advance(&mut self, now_ns: u64) -> Vec<(u64, u32)> {
            self.now_ns = self.now_ns.max(now_ns);
            let is_due = |&(deadline_ns, _): &(u64, u32)| round_up(deadline_ns) <= self.now_ns;
            let due: Vec<(u64, u32)> = self.pending.keys().copied().take_while(is_due).collect();
            for id in &due {
                self.pending.remove(id);
            }
            due
        }

        fn next_deadline_ns(&self) -> Option<u64> {
            let (&(deadline_ns, _), _) = self.pending.first_key_value()?;
            Some(round_up(deadline_ns))
        }
    }

    fn deadlines<V>(due: &[Due<V>]) -> Vec<(u64, u32)> {
        due.iter().map(|due| (due.deadline_ns, due.tag)).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        #[test]
        fn a_wheel_fires_what_a_sorted_map_of_deadlines_would(
            start in delay_ns(),
            steps in prop::collection::vec(step(), 1..120),
        ) {
            let mut wheel = Wheel::new(start);
            let mut model = Model { pending: BTreeMap::new(), now_ns: start };
            let mut issued: Vec<(u64, TimerKey)> = Vec::new();
            let mut has_cancelled = false;
            for step in steps {
                let mut deadline_ns = None;
                let mut advance_to = None;
                match step {
                    Step::InsertAfter(delay) => {
                        deadline_ns = Some(model.now_ns.saturating_add(delay));
                    }
                    Step::InsertBefore(age) => {
                        deadline_ns = Some(model.now_ns.saturating_sub(age));
                    }
                    Step::InsertAt(moment) => deadline_ns = Some(moment),
                    Step::Cancel(_) if issued.is_empty() => {}
                    Step::Cancel(pick) => {
                        let tag = pick.index(issued.len());
                        let (deadline_ns, key) = issued[tag];
                        let expected = model.pending.remove(&(deadline_ns, tag as u32));
                        prop_assert_eq!(wheel.cancel(key).is_some(), expected.is_some());
                        has_cancelled |= expected.is_some();
                    }
                    Step::AdvanceBy(delay) => advance_to = Some(model.now_ns.saturating_add(delay)),
                    Step::AdvanceToNext => advance_to = wheel.next_deadline_ns(),
                    Step::TurnBack(age) => advance_to = Some(model.now_ns.saturating_sub(age)),
                }
                if let Some(deadline_ns) = deadline_ns {
                    let tag = issued.len() as u32;
                    let key = wheel.insert(deadline_ns, tag, Arc::<str>::from("timer"));
                    issued.push((deadline_ns, key));
                    model.pending.insert((deadline_ns, tag), key);
                }
                if let Some(now_ns) = advance_to {
                    let mut due = Vec::new();
                    let is_due = wheel.is_due(now_ns);
                    wheel.advance(now_ns, &mut due);
                    prop_assert!(is_due || due.is_empty());
                    prop_assert_eq!(deadlines(&due), model.advance(now_ns));
                }
                assert_sound(&wheel);
                prop_assert_eq!(wheel.len(), model.pending.len());
                let (wakes, expected) = (wheel.next_deadline_ns(), model.next_deadline_ns());
                prop_assert_eq!(wakes.is_some(), expected.is_some());
                prop_assert!(wakes <= expected);
                prop_assert!(has_cancelled || wakes == expected);
            }
            let mut due = Vec::new();
            wheel.advance(u64::MAX, &mut due);
            prop_assert_eq!(deadlines(&due), model.advance(u64::MAX));
            prop_assert!(wheel.is_empty());
        }
    }
}
