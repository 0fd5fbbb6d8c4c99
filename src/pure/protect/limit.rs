//! A limit on deliveries that are handled at once, shared by several lanes.
//!
//! Steps. A lane takes a permit for each delivery that it hands out, and the delivery's ending gives
//! it back. A lane that gets none waits in line, once, however many deliveries it has. A permit that
//! is free goes to the first lane in line as an *offer*, and the lane is woken to take it. A lane
//! that wants another one goes to the end of the line. So lanes that always have work get equal
//! shares, and a lane that was just woken is not overtaken.
//!
//! The feared loss: a lane is woken for a permit that it no longer needs, and the others wait
//! forever. It can't happen if each lane that was woken and takes nothing calls
//! [`LimitState::leave`], as each lane that ends does. That passes its offer on.

pub(crate) mod adaptive;

use std::collections::VecDeque;

/// The permits of one limit, and the lanes that wait for one.
#[derive(Debug)]
pub(crate) struct LimitState<L> {
    limit: u32,
    /// Permits that are taken or offered. It exceeds the limit after that was lowered.
    out: u32,
    /// The lanes that have been woken for a permit and have not come for it yet.
    offered: Vec<L>,
    /// The lanes in line. While there are any, no permit is free.
    waiting: VecDeque<L>,
}

/// The answer to a lane that wants a permit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Take {
    /// It has one, which comes back by [`LimitState::give_back`].
    Taken,
    /// It waits in line.
    Queued,
}

impl<L: Copy + PartialEq> LimitState<L> {
    /// All permits are free. A limit of zero would let nothing pass.
    pub(crate) fn new(limit: u32) -> Self {
        Self {
            limit,
            out: 0,
            offered: Vec::new(),
            waiting: VecDeque::new(),
        }
    }

    pub(crate) fn limit(&self) -> u32 {
        self.limit
    }

    /// Returns how many permits are not free.
    pub(crate) fn out(&self) -> u32 {
        self.out
    }

    /// Takes a permit for this lane, or puts it in line.
    pub(crate) fn try_take(&mut self, lane: L) -> Take {
        if self.take_offer(lane) {
            return Take::Taken;
        }
        if self.out < self.limit {
            self.out += 1;
            return Take::Taken;
        }
        if !self.waiting.contains(&lane) {
            self.waiting.push_back(lane);
        }
        Take::Queued
    }

    /// Puts one permit back, used or not. Returns the lane to wake, if any.
    #[must_use = "the lane waits to be woken"]
    pub(crate) fn give_back(&mut self) -> Option<L> {
        // In release builds, too: past zero no permit would be free ever again.
        assert!(self.out > 0, "no permit of {} is out", self.limit);
        self.out -= 1;
        self.offer()
    }

    /// Takes a lane out of the line, and passes on what it was offered. Returns the lane to wake, if
    /// any.
    ///
    /// The permits that the lane has taken come back one by one, as their deliveries end.
    #[must_use = "the lane waits to be woken"]
    pub(crate) fn leave(&mut self, lane: L) -> Option<L> {
        self.waiting.retain(|waiting| *waiting != lane);
        match self.take_offer(lane) {
            true => self.give_back(),
            false => None,
        }
    }

    /// Sets the limit, and returns the lanes to wake. Permits above a lower limit vanish as they
    /// come back.
    #[must_use = "the lanes wait to be woken"]
    pub(crate) fn set_limit(&mut self, limit: u32) -> Vec<L> {
        self.limit = limit;
        std::iter::from_fn(|| self.offer()).collect()
    }

    fn take_offer(&mut self, lane: L) -> bool {
        let at = self.offered.iter().position(|offered| *offered == lane);
        at.map(|at| self.offered.swap_remove(at)).is_some()
    }

    /// Offers a permit to the first lane in line, if one is free.
    fn offer(&mut self) -> Option<L> {
        if self.out >= self.limit {
            return None;
        }
        let lane = self.waiting.pop_front()?;
        self.out += 1;
        self.offered.push(lane);
        Some(lane)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    fn full(limit: u32, lane: char) -> LimitState<char> {
        let mut state = LimitState::new(limit);
        for _ in 0..limit {
            assert_eq!(state.try_take(lane), Take::Taken);
        }
        state
    }

    #[test]
    fn the_first_lane_in_line_is_woken_for_the_first_permit_that_comes_back() {
        let mut state = full(2, 'a');
        for lane in ['b', 'c', 'b', 'a'] {
            assert_eq!(state.try_take(lane), Take::Queued, "{lane}");
        }
        assert_eq!(state.give_back(), Some('b'));
        assert_eq!(state.try_take('c'), Take::Queued, "it is not c's");
        assert_eq!(state.try_take('b'), Take::Taken);
        assert_eq!(state.try_take('b'), Take::Queued, "behind a");
        for lane in ['c', 'a', 'b'] {
            assert_eq!(state.give_back(), Some(lane));
            assert_eq!(state.try_take(lane), Take::Taken);
        }
        assert_eq!((state.give_back(), state.give_back()), (None, None));
        assert_eq!((state.out(), state.limit()), (0, 2));
    }

    #[test]
    fn a_lane_that_leaves_passes_its_offer_on() {
        let mut state = full(1, 'a');
        for lane in ['b', 'c', 'd'] {
            assert_eq!(state.try_take(lane), Take::Queued);
        }
        assert_eq!(state.leave('c'), None, "it was in line");
        assert_eq!(state.give_back(), Some('b'));
        assert_eq!(state.leave('b'), Some('d'));
        assert_eq!(state.leave('d'), None);
        assert_eq!(state.out(), 0);
        assert_eq!(state.leave('d'), None, "once");
    }

    #[test]
    fn a_limit_that_changes_wakes_as_many_as_it_has_room_for_and_takes_nothing_back() {
        let mut state = full(3, 'a');
        for lane in ['b', 'c', 'd'] {
            assert_eq!(state.try_take(lane), Take::Queued);
        }
        assert_eq!(state.set_limit(1), []);
        assert_eq!((state.give_back(), state.give_back()), (None, None));
        assert_eq!(state.out(), 1);
        assert_eq!(state.set_limit(3), ['b', 'c']);
        assert_eq!(state.set_limit(u32::MAX), ['d']);
    }

    #[test]
    #[should_panic = "no permit of 2 is out"]
    fn who_gives_back_more_than_was_taken_is_told() {
        let _ = LimitState::<char>::new(2).give_back();
    }

    #[test]
    fn lanes_that_always_have_work_get_equal_shares() {
        for (lanes, limit) in [(2, 1), (3, 2), (5, 3), (7, 10)] {
            let mut state = LimitState::new(limit);
            let mut out = VecDeque::new();
            let mut served = vec![0_u32; lanes];
            // The first one is greedy: it takes all it can get before the others come.
            while state.try_take(0) == Take::Taken {
                out.push_back(0);
            }
            for lane in 1..lanes {
                assert_eq!(state.try_take(lane), Take::Queued);
            }
            for _ in 0..1_000 * lanes {
                out.pop_front();
                let woken = state.give_back().expect("all others wait");
                assert_eq!(state.try_take(woken), Take::Taken);
                served[woken] += 1;
                out.push_back(woken);
                assert_eq!(state.try_take(woken), Take::Queued);
            }
            assert!(served.iter().all(|count| *count == 1_000), "{served:?}");
        }
    }

    #[derive(Clone, Debug)]
    enum Op {
        Take(u8),
        GiveBack(usize),
        Leave(u8),
        SetLimit(u32),
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            8 => (0_u8..5).prop_map(Op::Take),
            6 => any::<usize>().prop_map(Op::GiveBack),
            2 => (0_u8..5).prop_map(Op::Leave),
            1 => (1_u32..5).prop_map(Op::SetLimit),
        ]
    }

    proptest! {
        /// The model is told who was woken, and keeps the line and the permits by itself.
        #[test]
        fn no_permit_is_lost_and_nobody_waits_beside_a_free_one(
            ops in prop::collection::vec(op(), 0..200),
            limit in 1_u32..5,
        ) {
            let mut state = LimitState::new(limit);
            let mut taken: Vec<u8> = Vec::new();
            let mut woken: HashSet<u8> = HashSet::new();
            let mut line: Vec<u8> = Vec::new();
            for op in ops {
                let wakes = match op {
                    Op::Take(lane) => {
                        match state.try_take(lane) {
                            Take::Taken => {
                                let is_free = (taken.len() + woken.len()) < state.limit() as usize;
                                prop_assert!(woken.remove(&lane) || is_free);
                                taken.push(lane);
                            }
                            Take::Queued if !line.contains(&lane) => line.push(lane),
                            Take::Queued => {}
                        }
                        Vec::new()
                    }
                    Op::GiveBack(at) if !taken.is_empty() => {
                        taken.swap_remove(at % taken.len());
                        Vec::from_iter(state.give_back())
                    }
                    Op::GiveBack(_) => Vec::new(),
                    Op::Leave(lane) => {
                        line.retain(|waiting| *waiting != lane);
                        woken.remove(&lane);
                        Vec::from_iter(state.leave(lane))
                    }
                    Op::SetLimit(limit) => state.set_limit(limit),
                };
                for lane in wakes {
                    prop_assert_eq!(lane, line.remove(0), "in the order in which they came");
                    prop_assert!(woken.insert(lane));
                    prop_assert!((taken.len() + woken.len()) <= state.limit() as usize);
                }
                prop_assert_eq!(state.out() as usize, taken.len() + woken.len());
                prop_assert!(line.is_empty() || state.out() >= state.limit());
            }
        }
    }
}
