//! Priorities: from which level the next delivery is taken.
//!
//! Weighted picks are smooth weighted round-robin. In each pick, every level that has something earns
//! its weight. The level with the most credit is picked, and pays for all that was earned. So the
//! credits always add up to zero, the picks of a level are spread, and no level starves. A level that
//! has nothing keeps its credit. So a level that is often empty gets neither more nor less for it.
//!
//! Strict picks go to the highest level. With *aging*, a delivery counts as one level higher for each
//! time that it has waited. It counts without limit, so that it overtakes even a level that never
//! runs dry.
//!
//! A pick is a value: the caller keeps the new state only if the delivery is really handed over.

use std::time::Duration;

use crate::types::duration::nanos;
use crate::types::error::SettingError;
use crate::types::labels;

/// The number of levels.
const LEVELS: usize = 4;
/// The weight of each level, lowest first.
const WEIGHTS: [i16; LEVELS] = [1, 2, 4, 8];

/// The priority of a message.
///
/// The order is by urgency: `Low` is less than `Urgent`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Priority {
    /// The lowest. Its weight is 1.
    Low = 0,
    /// The default, between low and high. Its weight is 2.
    #[default]
    Normal = 1,
    /// Above normal. Its weight is 4.
    High = 2,
    /// The highest. Its weight is 8.
    Urgent = 3,
}

labels!(Priority {
    Self::Low => "low",
    Self::Normal => "normal",
    Self::High => "high",
    Self::Urgent => "urgent",
});

impl Priority {
    /// All priorities, the lowest first.
    pub const ALL: [Self; LEVELS] = [Self::Low, Self::Normal, Self::High, Self::Urgent];

    /// Returns the priority with this number. A later version may have stored a higher one.
    #[cfg(feature = "log")]
    pub(crate) fn nearest(number: u8) -> Self {
        let found = Self::ALL.get(usize::from(number));
        found.copied().unwrap_or(Self::Urgent)
    }
}

/// The settings of a lane with priorities: how its levels share the handler.
///
/// ```
/// use millstream::protect::Priorities;
/// use std::time::Duration;
///
/// let shared = Priorities::weighted(); // 8 urgent ones, 4 high, 2 normal, 1 low
/// let strict = Priorities::strict().aging(Duration::from_secs(5));
/// # let _ = (shared, strict);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "it does nothing until a topic or a subscription has it"]
pub struct Priorities {
    is_strict: bool,
    aging: Option<Duration>,
}

impl Priorities {
    /// Hands out 8 urgent deliveries for 4 high ones, 2 normal ones and 1 low one. This is the
    /// default.
    ///
    /// The shares hold while every level has deliveries. Levels that have none leave theirs to the
    /// others, and a level that is alone gets all.
    pub fn weighted() -> Self {
        Self {
            is_strict: false,
            aging: None,
        }
    }

    /// Hands out nothing of a level while a higher one has deliveries.
    ///
    /// A lower level can wait forever, unless there is [`aging`](Self::aging).
    pub fn strict() -> Self {
        Self {
            is_strict: true,
            aging: None,
        }
    }

    /// Counts a delivery as one level higher for each `step` that it has waited. By default its
    /// level never changes.
    ///
    /// Of deliveries that count alike, the one that has waited longest is first. It needs
    /// [`strict`](Self::strict).
    pub fn aging(self, step: Duration) -> Self {
        Self {
            aging: Some(step),
            ..self
        }
    }

    /// Refuses aging that could not take effect.
    pub(crate) fn check(self) -> Result<(), SettingError> {
        match self.aging {
            Some(Duration::ZERO) => {
                let rule = "must be longer, or levels would mean nothing";
                Err(SettingError::new("aging", "zero", rule))
            }
            Some(step) if !self.is_strict => {
                let rule = "needs Priorities::strict, because no weighted level starves";
                Err(SettingError::new("aging", format_args!("{step:?}"), rule))
            }
            _ => Ok(()),
        }
    }
}

impl Default for Priorities {
    fn default() -> Self {
        Self::weighted()
    }
}

/// The state of the picks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Picks {
    rule: Rule,
    /// The credit that each level has earned and not spent.
    credits: [i16; LEVELS],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    Weighted,
    Strict { step_ns: Option<u64> },
}

/// The time since when the first delivery of each level has waited, lowest level first, or `None`
/// where there is none.
pub(crate) type Heads = [Option<u64>; LEVELS];

impl Picks {
    /// No level has earned anything. The settings have been checked.
    pub(crate) fn new(priorities: Priorities) -> Self {
        let rule = match priorities.is_strict {
            true => Rule::Strict {
                step_ns: priorities.aging.map(nanos),
            },
            false => Rule::Weighted,
        };
        Self {
            rule,
            credits: [0; LEVELS],
        }
    }

    /// Returns whether it makes a difference how long a delivery has waited.
    pub(crate) fn mind_age(&self) -> bool {
        matches!(self.rule, Rule::Strict { step_ns: Some(_) })
    }

    /// Picks the level whose first delivery is next. Returns the state for when it has been handed
    /// over, or `None` if no level has a delivery.
    pub(crate) fn pick(self, heads: &Heads, now_ns: u64) -> Option<(Self, Priority)> {
        let Rule::Strict {
            step_ns: Some(step_ns),
        } = self.rule
        else {
            return self.pick_of(heads.map(|head| head.is_some()));
        };
        let levels = Priority::ALL.into_iter().zip(heads);
        let waiting = levels.filter_map(|(level, since_ns)| Some((level, (*since_ns)?)));
        let first = waiting.max_by_key(|(level, since_ns)| {
            let age_ns = now_ns.saturating_sub(*since_ns);
            let counts_as = (age_ns / step_ns).saturating_add(*level as u64);
            // Of equals the last one is picked, which has the highest level.
            (counts_as, age_ns)
        });
        first.map(|(level, _)| (self, level))
    }

    /// As [`pick`](Self::pick), where no age counts: picks one of the levels that have a delivery,
    /// lowest level first.
    pub(crate) fn pick_of(mut self, has_some: [bool; LEVELS]) -> Option<(Self, Priority)> {
        let (mut picked, mut earned) = (None, 0);
        for level in Priority::ALL {
            let at = level as usize;
            if !has_some[at] {
                continue;
            }
            self.credits[at] += WEIGHTS[at];
            earned += WEIGHTS[at];
            // Of equals the last one is picked, which has the highest level.
            let is_next = |before: Priority| self.credits[at] >= self.credits[before as usize];
            if self.rule != Rule::Weighted || picked.is_none_or(is_next) {
                picked = Some(level);
            }
        }
        let picked = picked?;
        match self.rule {
            Rule::Weighted => self.credits[picked as usize] -= earned,
            Rule::Strict { .. } => self.credits = [0; LEVELS],
        }
        Some((self, picked))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Priority::{High, Low, Normal, Urgent};
    use proptest::prelude::*;

    /// The heads of levels that have waited since zero.
    fn heads(levels: &[Priority]) -> Heads {
        Priority::ALL.map(|level| levels.contains(&level).then_some(0))
    }

    fn run(picks: &mut Picks, heads: &Heads, count: usize) -> Vec<Priority> {
        let picked = (0..count).map(|_| {
            let (next, level) = picks.pick(heads, 0).expect("a level has something");
            *picks = next;
            level
        });
        picked.collect()
    }

    fn shares(picked: &[Priority]) -> [usize; LEVELS] {
        Priority::ALL.map(|level| picked.iter().filter(|one| **one == level).count())
    }

    #[test]
    fn weighted_levels_get_their_shares_and_each_is_spread() {
        let table: [(&[Priority], [usize; LEVELS]); 5] = [
            (&Priority::ALL, [1, 2, 4, 8]),
            (&[Low, Urgent], [1, 0, 0, 8]),
            (&[Normal, High], [0, 1, 2, 0]),
            (&[Low, Normal, High], [1, 2, 4, 0]),
            (&[Low], [1, 0, 0, 0]),
        ];
        for (levels, expected) in table {
            let mut picks = Picks::new(Priorities::weighted());
            let cycle = expected.iter().sum();
            for _ in 0..3 {
                let picked = run(&mut picks, &heads(levels), cycle);
                assert_eq!(shares(&picked), expected, "{levels:?}");
            }
        }
        let mut picks = Picks::new(Priorities::weighted());
        let picked = run(&mut picks, &heads(&Priority::ALL), 15);
        let first = [Urgent, High, Urgent, Normal, Urgent, High, Urgent, Low];
        assert_eq!(
            picked[..8],
            first,
            "of levels with equal credit, the higher"
        );
        assert!(!picked.windows(4).any(|four| four == [Urgent; 4]));
    }

    #[test]
    fn a_level_that_had_nothing_for_long_neither_floods_nor_starves() {
        let mut picks = Picks::new(Priorities::weighted());
        let before = run(&mut picks, &heads(&[Low]), 1_000);
        assert_eq!(shares(&before), [1_000, 0, 0, 0], "alone it gets all");
        let after = run(&mut picks, &heads(&Priority::ALL), 15);
        assert_eq!(shares(&after), [1, 2, 4, 8]);
        // A level that comes and goes has its share of the picks that it was there for.
        let mut picked = Vec::new();
        for turn in 0..900 {
            let levels: &[Priority] = if turn % 2 == 0 {
                &[Low, Urgent]
            } else {
                &[Low]
            };
            picked.extend(run(&mut picks, &heads(levels), 1));
        }
        let [low, _, _, urgent] = shares(&picked);
        assert_eq!((low, urgent), (500, 400));
    }

    #[test]
    fn strict_levels_go_by_rank_and_by_age_if_that_was_asked_for() {
        let step = Duration::from_nanos(100);
        let strict = Priorities::strict();
        let aging = strict.aging(step);
        let table = [
            (strict, [Some(0), Some(0), None, Some(999)], Urgent),
            (strict, [Some(0), Some(0), Some(500), None], High),
            (aging, [Some(950), Some(950), Some(950), Some(999)], Urgent),
            // It has waited for three steps, and counts as urgent, too.
            (aging, [Some(700), None, None, Some(999)], Low),
            (aging, [Some(701), None, None, Some(999)], Urgent),
            (aging, [Some(700), Some(799), Some(899), None], Low),
            (aging, [Some(600), Some(500), None, None], Normal),
            (aging, [None, None, Some(950), Some(950)], Urgent),
            (aging, [Some(0), None, None, Some(0)], Urgent),
        ];
        for (priorities, heads, expected) in table {
            let picks = Picks::new(priorities);
            assert_eq!(
                picks.pick(&heads, 1_000),
                Some((picks, expected)),
                "{heads:?}"
            );
        }
    }

    #[test]
    fn where_nothing_waits_nothing_is_picked() {
        for priorities in [Priorities::weighted(), Priorities::strict()] {
            assert_eq!(Picks::new(priorities).pick(&[None; LEVELS], 0), None);
        }
    }

    #[test]
    fn with_aging_a_level_that_never_runs_dry_is_overtaken() {
        let aging = Priorities::strict().aging(Duration::from_nanos(100));
        let picks = Picks::new(aging);
        let waited = (0..).find(|now| {
            let heads = [Some(0), None, None, Some(*now)]; // an urgent one comes at every moment
            matches!(picks.pick(&heads, *now), Some((_, Low)))
        });
        assert_eq!(waited, Some(300));
    }

    #[test]
    fn aging_without_effect_is_refused() {
        let second = Duration::from_secs(1);
        let (weighted, strict) = (Priorities::weighted(), Priorities::strict());
        for fine in [weighted, strict, strict.aging(second)] {
            assert_eq!(fine.check(), Ok(()));
        }
        for wrong in [strict.aging(Duration::ZERO), weighted.aging(second)] {
            let error = wrong.check().expect_err("it has no effect");
            assert_eq!(error.setting(), "aging");
        }
    }

    proptest! {
        /// Credits add up to zero and stay small, and no level waits for long, whoever comes and
        /// goes.
        #[test]
        fn no_weighted_level_starves_whoever_comes_and_goes(
            sets in prop::collection::vec(prop::array::uniform4(prop::bool::weighted(0.7)), 1..400),
        ) {
            let mut picks = Picks::new(Priorities::weighted());
            let mut waited = [0; LEVELS];
            for set in sets {
                let heads = set.map(|is_there| is_there.then_some(0));
                let Some((next, level)) = picks.pick(&heads, 0) else {
                    continue;
                };
                picks = next;
                prop_assert!(set[level as usize], "it picks what is there");
                prop_assert_eq!(picks.credits.iter().sum::<i16>(), 0);
                prop_assert!(picks.credits.iter().all(|credit| credit.abs() <= 30));
                for at in 0..LEVELS {
                    waited[at] += usize::from(set[at]);
                }
                waited[level as usize] = 0;
                prop_assert!(waited.iter().all(|picks| *picks <= 30), "{:?}", waited);
            }
        }

        /// Under overload the shares are within 5% of the weights, from any state.
        #[test]
        fn under_overload_shares_are_those_of_the_weights(
            sets in prop::collection::vec(prop::array::uniform4(any::<bool>()), 0..60),
            levels in prop::array::uniform4(any::<bool>()),
        ) {
            let mut picks = Picks::new(Priorities::weighted());
            for set in sets {
                let heads = set.map(|is_there| is_there.then_some(0));
                picks = picks.pick(&heads, 0).map_or(picks, |(next, _)| next);
            }
            let heads = levels.map(|is_there| is_there.then_some(0));
            prop_assume!(levels.contains(&true));
            let picked = shares(&run(&mut picks, &heads, 3_000));
            let all: i16 = (0..LEVELS).filter(|at| levels[*at]).map(|at| WEIGHTS[at]).sum();
            for at in (0..LEVELS).filter(|at| levels[*at]) {
                let share = 3_000.0 * f64::from(WEIGHTS[at]) / f64::from(all);
                let off = (picked[at] as f64 - share).abs() / share;
                prop_assert!(off <= 0.05, "{:?} of {:?}", picked, levels);
            }
        }
    }
}
