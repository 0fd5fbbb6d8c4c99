//! The weight of the messages that wait in a topic, against its limit.
//!
//! A message is let in if its weight fits beside what is held. So the limit is never passed, except
//! by a limit that was lowered since. A message that is heavier than the limit never fits. A load
//! that has turned a message away is *short* until something leaves: then the topic counts as full.

/// The weight that is held, and the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Load {
    held: u64,
    limit: u64,
    short: bool,
}

/// The answer to messages that want in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fit {
    /// This number of them fits, from the front: one at least.
    Count(u64),
    /// The first doesn't fit now.
    Short,
    /// The first never fits.
    Never,
}

impl Load {
    pub(crate) fn new(limit: u64) -> Self {
        Self {
            held: 0,
            limit,
            short: false,
        }
    }

    pub(crate) fn held(&self) -> u64 {
        self.held
    }

    pub(crate) fn limit(&self) -> u64 {
        self.limit
    }

    /// Returns whether a message was turned away, and nothing has left since.
    pub(crate) fn is_short(&self) -> bool {
        self.short
    }

    /// Returns how many messages of these weights fit, from the front. Nothing is held yet.
    pub(crate) fn fit(&mut self, weights: impl Iterator<Item = u64>) -> Fit {
        let mut room = self.limit.saturating_sub(self.held);
        let mut count = 0;
        for weight in weights {
            let Some(left) = room.checked_sub(weight) else {
                if count > 0 {
                    break;
                }
                if weight > self.limit {
                    return Fit::Never;
                }
                self.short = true;
                return Fit::Short;
            };
            room = left;
            count += 1;
        }
        Fit::Count(count)
    }

    /// Adds messages of this weight, which fit.
    pub(crate) fn add(&mut self, weight: u64) {
        self.held += weight;
    }

    /// Removes messages that were held.
    pub(crate) fn remove(&mut self, weight: u64) {
        debug_assert!(weight <= self.held, "{weight} of {}", self.held);
        self.held = self.held.saturating_sub(weight);
        self.short = false;
    }

    /// Sets the limit. The messages that are held stay.
    pub(crate) fn set_limit(&mut self, limit: u64) {
        self.limit = limit;
        self.short = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_fit_from_the_front_as_the_limit_has_room_for() {
        let table: [(u64, &[u64], Fit); 9] = [
            (0, &[10], Fit::Count(1)),
            (0, &[11], Fit::Never),
            (0, &[4, 6, 1], Fit::Count(2)),
            (0, &[4, 7, 1], Fit::Count(1)),
            (0, &[4, 11], Fit::Count(1)),
            (4, &[7], Fit::Short),
            (4, &[6, 0], Fit::Count(2)),
            (10, &[0, 1], Fit::Count(1)),
            (10, &[u64::MAX], Fit::Never),
        ];
        for (held, weights, fit) in table {
            let mut load = Load::new(10);
            load.add(held);
            let answer = load.fit(weights.iter().copied());
            assert_eq!(answer, fit, "{weights:?} beside {held}");
            assert_eq!(load.is_short(), fit == Fit::Short);
            assert_eq!(load.held(), held, "asking holds nothing");
        }
    }

    #[test]
    fn it_is_short_until_something_leaves_or_the_limit_changes() {
        let ways: [fn(&mut Load); 2] = [|load| load.remove(3), |load| load.set_limit(11)];
        for way in ways {
            let mut load = Load::new(10);
            load.add(8);
            assert_eq!(load.fit([3].into_iter()), Fit::Short);
            assert!(load.is_short());
            way(&mut load);
            assert!(!load.is_short());
            assert_eq!(load.fit([3].into_iter()), Fit::Count(1));
        }
    }

    #[test]
    fn a_lowered_limit_keeps_what_is_held_and_lets_nothing_in() {
        let mut load = Load::new(10);
        load.add(8);
        load.set_limit(5);
        assert_eq!((load.held(), load.limit()), (8, 5));
        assert_eq!(load.fit([1].into_iter()), Fit::Short);
        load.remove(8);
        assert_eq!(load.fit([5, 1].into_iter()), Fit::Count(1));
    }
}
