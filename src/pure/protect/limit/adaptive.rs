//! A limit that finds its own size: additive increase, multiplicative decrease (AIMD).
//!
//! Endings are judged by windows of [`ENDINGS`] or [`WINDOW_NS`], whichever is over first. A window
//! in which somebody waited for the limit, and in which nothing was overloaded, raises it by one. An
//! overload lowers it by a tenth at once.
//!
//! One overload often shows in many calls that are under way. So an overload of a call that began
//! before the last decrease lowers nothing: that decrease has not had its effect yet. It still keeps
//! its window from raising the limit.

use crate::types::error::SettingError;

/// The endings of a window.
const ENDINGS: u32 = 100;
/// The longest window.
const WINDOW_NS: u64 = 1_000_000_000;

/// The settings of a limit that adapts to its dependency: how many deliveries are handled at once.
///
/// The limit grows by one per 100 endings, or per second, as long as deliveries wait for it and
/// nothing is overloaded. It shrinks by a tenth when a call times out or says that the dependency is
/// overloaded.
///
/// ```
/// use millstream::protect::Adaptive;
///
/// let limit = Adaptive::between(2, 200).start(20);
/// # let _ = limit;
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "it does nothing until a limiter has it"]
pub struct Adaptive {
    min: u32,
    max: u32,
    start: u32,
}

impl Adaptive {
    /// Keeps the limit between these two, both of which it may have. It starts with the lower one.
    pub fn between(min: u32, max: u32) -> Self {
        let start = min;
        Self { min, max, start }
    }

    /// Sets the limit to start with. The default is the lower bound.
    pub fn start(self, limit: u32) -> Self {
        Self {
            start: limit,
            ..self
        }
    }

    /// Refuses bounds that let nothing pass, or that contradict each other.
    pub(crate) fn check(self) -> Result<(), SettingError> {
        if self.min == 0 {
            return Err(SettingError::new("min", 0, "must be at least 1"));
        }
        if self.max < self.min {
            let rule = "must not be below the lower bound";
            return Err(SettingError::new("max", self.max, rule));
        }
        if !(self.min..=self.max).contains(&self.start) {
            let rule = "must be between the two bounds";
            return Err(SettingError::new("start", self.start, rule));
        }
        Ok(())
    }
}

/// The meaning of an ending for the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Load {
    /// Nothing is known to be overloaded.
    Normal,
    /// The call timed out, or said that its dependency is overloaded.
    Overload,
}

/// The state of one adaptive limit.
#[derive(Debug)]
pub(crate) struct AdaptiveState {
    settings: Adaptive,
    limit: u32,
    /// When the window began.
    began_ns: u64,
    /// The endings in the window.
    endings: u32,
    /// The limit made somebody wait within the window.
    was_reached: bool,
    /// An overload showed within the window.
    was_overloaded: bool,
    /// When the limit was lowered last. An overload of an earlier call lowers nothing.
    lowered_ns: u64,
}

impl AdaptiveState {
    /// The first window begins now. The settings have been checked.
    pub(crate) fn new(settings: Adaptive, now_ns: u64) -> Self {
        Self {
            settings,
            limit: settings.start,
            began_ns: now_ns,
            endings: 0,
            was_reached: false,
            was_overloaded: false,
            lowered_ns: 0,
        }
    }

    pub(crate) fn limit(&self) -> u32 {
        self.limit
    }

    /// Notes that a delivery waits because of the limit.
    pub(crate) fn reached(&mut self) {
        self.was_reached = true;
    }

    /// Counts the ending of a call that began at `called_ns`. Returns the new limit, if it changes.
    #[must_use = "the permits have to follow the limit"]
    pub(crate) fn end(&mut self, called_ns: u64, load: Load, now_ns: u64) -> Option<u32> {
        let before = self.limit;
        self.endings += 1;
        if load == Load::Overload {
            self.was_overloaded = true;
            if called_ns >= self.lowered_ns {
                let lower = self.limit - (self.limit / 10).max(1).min(self.limit);
                self.limit = lower.max(self.settings.min);
                self.lowered_ns = now_ns;
            }
        }
        let is_over = self.endings >= ENDINGS || now_ns.saturating_sub(self.began_ns) >= WINDOW_NS;
        if is_over {
            if self.was_reached && !self.was_overloaded {
                self.limit = self.limit.saturating_add(1).min(self.settings.max);
            }
            self.began_ns = now_ns;
            self.endings = 0;
            self.was_reached = false;
            self.was_overloaded = false;
        }
        (self.limit != before).then_some(self.limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn adaptive(start: u32) -> AdaptiveState {
        AdaptiveState::new(Adaptive::between(2, 50).start(start), 0)
    }

    /// Ends calls that took no time until a window is over.
    fn window(state: &mut AdaptiveState, now: u64) -> Option<u32> {
        (0..ENDINGS).find_map(|_| state.end(now, Load::Normal, now))
    }

    #[test]
    fn a_window_raises_the_limit_only_if_somebody_waited_for_it() {
        let mut state = adaptive(10);
        assert_eq!(window(&mut state, 1), None, "it was not the reason");
        state.reached();
        assert_eq!(window(&mut state, 2), Some(11));
        assert_eq!(window(&mut state, 3), None, "nobody waited since");
        assert_eq!(state.limit(), 11);
    }

    #[test]
    fn a_window_is_over_after_a_second_too() {
        for (now, limit) in [(WINDOW_NS - 1, None), (WINDOW_NS, Some(11))] {
            let mut state = adaptive(10);
            state.reached();
            assert_eq!(state.end(0, Load::Normal, now), limit);
        }
    }

    #[test]
    fn an_overload_lowers_the_limit_by_a_tenth_but_not_below_the_bound() {
        for (before, after) in [(50, 45), (39, 36), (10, 9), (5, 4), (3, 2), (2, 2)] {
            let mut state = adaptive(before);
            let changed = (after != before).then_some(after);
            assert_eq!(state.end(0, Load::Overload, 9), changed, "{before}");
        }
    }

    #[test]
    fn calls_that_began_before_a_decrease_lower_nothing_more() {
        let mut state = adaptive(50);
        assert_eq!(state.end(5, Load::Overload, 10), Some(45));
        for called in 0..10 {
            assert_eq!(state.end(called, Load::Overload, 12), None);
        }
        assert_eq!(state.end(10, Load::Overload, 13), Some(41));
    }

    #[test]
    fn a_window_with_an_overload_raises_nothing() {
        let mut state = adaptive(50);
        assert_eq!(state.end(0, Load::Overload, 10), Some(45));
        state.reached();
        assert_eq!(window(&mut state, 11), None);
        state.reached();
        // An old call is a sign all the same.
        assert_eq!(state.end(0, Load::Overload, 12), None);
        assert_eq!(window(&mut state, 12), None);
        state.reached();
        assert_eq!(window(&mut state, 13), Some(46));
    }

    #[test]
    fn bounds_without_sense_are_refused_by_their_name() {
        let table = [
            ("", Adaptive::between(1, 1)),
            ("", Adaptive::between(2, 9).start(9)),
            ("min", Adaptive::between(0, 9)),
            ("max", Adaptive::between(2, 1)),
            ("start", Adaptive::between(2, 9).start(1)),
            ("start", Adaptive::between(2, 9).start(10)),
        ];
        for (setting, adaptive) in table {
            let refused = adaptive.check().err();
            let refused = refused.as_ref().map_or("", SettingError::setting);
            assert_eq!(refused, setting, "{adaptive:?}");
        }
    }

    /// A dependency that bears this many calls at once: where more are made, one is overloaded.
    #[test]
    fn it_finds_what_a_dependency_bears_and_stays_near_it() {
        for capacity in [5, 12, 40] {
            let mut state = adaptive(2);
            let mut now = 0;
            let mut limits = Vec::new();
            for round in 0..20_000 {
                now += 1_000;
                state.reached();
                let is_overloaded = state.limit() > capacity && round % 10 == 0;
                let load = [Load::Normal, Load::Overload][usize::from(is_overloaded)];
                let _ = state.end(now, load, now);
                limits.push(state.limit());
            }
            let late = &limits[10_000..];
            let low = late.iter().min().expect("some");
            assert!(*low + 1 >= capacity * 9 / 10, "{low} of {capacity}");
            assert!(late.iter().all(|limit| *limit <= capacity + 1));
        }
    }

    proptest! {
        #[test]
        fn the_limit_stays_within_its_bounds_and_says_when_it_changes(
            min in 1_u32..20,
            more in 0_u32..20,
            endings in prop::collection::vec(
                (0_u64..WINDOW_NS / 2, any::<bool>(), 0_u32..10, 0_u64..WINDOW_NS),
                0..300,
            ),
        ) {
            let max = min + more;
            let mut state = AdaptiveState::new(Adaptive::between(min, max), 0);
            let mut now = 0;
            for (passed, is_reached, load, took) in endings {
                now += passed;
                if is_reached {
                    state.reached();
                }
                let before = state.limit();
                let load = if load == 0 { Load::Overload } else { Load::Normal };
                let changed = state.end(now.saturating_sub(took), load, now);
                prop_assert_eq!(changed, (state.limit() != before).then_some(state.limit()));
                prop_assert!((min..=max).contains(&state.limit()));
                prop_assert!(load == Load::Normal || state.limit() <= before);
                prop_assert!(state.limit() <= before + 1);
            }
        }
    }
}
