//! The one order of the gates before a handler, and the one reason why a lane waits.
//!
//! The order, and why:
//!
//! 1. *Expired?* A delivery that is too late needs nothing of the others, and ends though its lane is
//!    paused. A lane ends those when its turn begins, before it asks anything.
//! 2. *Paused?* A pause is the user's word, and costs nothing to ask for.
//! 3. *Breaker*. A lane whose dependency is down must not take what other lanes share.
//! 4. *Shared limit*. A lane that waits for others must not spend its own rate meanwhile.
//! 5. *Rate*.
//! 6. *Priority*. From here on it is about which delivery, and no longer whether.
//! 7. *Key*. The delivery that was picked may have to wait for one of its key.
//!
//! The gates from the second to the fifth hold the lane, and are asked here. The last two are asked
//! where a delivery is taken out.
//!
//! Some gates hand something out when they open: a breaker's permit, a permit of the limit, a permit
//! of the rate. The feared leak: a later gate holds, and what the earlier ones have handed out is
//! lost. It can't happen, because [`pass`] gives all of that back.
//!
//! The feared stall: a lane has its turn at the shared limit, and an earlier gate holds it, so that
//! the turn is never used. It can't happen, because [`pass`] takes a lane that is held out of the
//! lines of all later gates.

use crate::pure::protect::NEVER;
use crate::types::labels;

/// The reason why the deliveries of a lane wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum WaitingFor {
    /// The subscription, its topic or the broker is paused.
    Paused,
    /// The circuit breaker is open or isolated, or its probes are under way.
    Breaker,
    /// All permits of a limit that it shares are taken.
    Limit,
    /// The rate limit is used up for now.
    Rate,
    /// The handler asked for a pause, because its dependency did.
    HoldOff,
    /// Deliveries of the same key have to end first.
    Key,
    /// All deliveries have failed or were put off, and their next attempts are not due.
    Retry,
}

labels!(WaitingFor {
    Self::Paused => "paused",
    Self::Breaker => "breaker",
    Self::Limit => "limit",
    Self::Rate => "rate",
    Self::HoldOff => "hold_off",
    Self::Key => "key",
    Self::Retry => "retry",
});

/// A gate that holds a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Gate {
    Pause = 0,
    Breaker = 1,
    Limit = 2,
    Rate = 3,
}

impl Gate {
    /// All gates, in the order in which they are asked.
    pub(crate) const ORDER: [Self; 4] = [Self::Pause, Self::Breaker, Self::Limit, Self::Rate];
}

/// The gates that a lane has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct GateSet(u8);

impl GateSet {
    /// A lane without gates, which asks nobody.
    pub(crate) const NONE: Self = Self(0);

    pub(crate) fn with(self, gate: Gate) -> Self {
        Self(self.0 | 1 << gate as u8)
    }

    pub(crate) fn has(self, gate: Gate) -> bool {
        self.0 & 1 << gate as u8 != 0
    }
}

/// The answer of one gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The delivery may pass, and has what the gate hands out.
    Open,
    /// The delivery has to wait. It has nothing of this gate, but may be in its line.
    Held { reason: WaitingFor, until_ns: u64 },
}

impl Answer {
    /// Returns the answer of a gate that an event opens, and no time.
    pub(crate) fn held(reason: WaitingFor) -> Self {
        Self::Held {
            reason,
            until_ns: NEVER,
        }
    }
}

/// The fate of a delivery before the gates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Passage {
    /// Hand it over. It has what each of the gates hands out.
    Go,
    /// Hold its lane: ask again at this time, or when the gate has changed.
    Held { reason: WaitingFor, until_ns: u64 },
}

/// The gates of a lane at work.
pub(crate) trait Gates {
    /// Asks one gate. If it opens, it hands out what it has to.
    fn ask(&mut self, gate: Gate) -> Answer;

    /// Takes back unused what this gate has just handed out.
    fn give_back(&mut self, gate: Gate);

    /// Takes the lane out of this gate's line, if it is in it or has its turn.
    fn leave(&mut self, gate: Gate);
}

/// Asks the gates of a lane in their order, up to the first that holds.
pub(crate) fn pass(gates: &mut impl Gates, has: GateSet) -> Passage {
    let asked = |gate: &Gate| has.has(*gate);
    for gate in Gate::ORDER {
        if !has.has(gate) {
            continue;
        }
        let Answer::Held { reason, until_ns } = gates.ask(gate) else {
            continue;
        };
        let (before, after) = Gate::ORDER.split_at(gate as usize);
        for earlier in before.iter().copied().filter(asked).rev() {
            gates.give_back(earlier);
        }
        for later in after[1..].iter().copied().filter(asked) {
            gates.leave(later);
        }
        return Passage::Held { reason, until_ns };
    }
    Passage::Go
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Gates that always say the same, and note what is done to them.
    struct Fixed {
        answers: [Answer; 4],
        log: Vec<(&'static str, Gate)>,
    }

    impl Gates for Fixed {
        fn ask(&mut self, gate: Gate) -> Answer {
            self.log.push(("ask", gate));
            self.answers[gate as usize]
        }

        fn give_back(&mut self, gate: Gate) {
            self.log.push(("give back", gate));
        }

        fn leave(&mut self, gate: Gate) {
            self.log.push(("leave", gate));
        }
    }

    fn all() -> GateSet {
        Gate::ORDER.into_iter().fold(GateSet::NONE, GateSet::with)
    }

    fn held(reason: WaitingFor, until_ns: u64) -> Answer {
        Answer::Held { reason, until_ns }
    }

    fn asked(has: GateSet, answers: [Answer; 4]) -> (Passage, Vec<(&'static str, Gate)>) {
        let mut gates = Fixed {
            answers,
            log: Vec::new(),
        };
        let passage = pass(&mut gates, has);
        (passage, gates.log)
    }

    #[test]
    fn the_gates_are_asked_in_the_written_order() {
        let (passage, log) = asked(all(), [Answer::Open; 4]);
        assert_eq!(passage, Passage::Go);
        assert_eq!(log, Gate::ORDER.map(|gate| ("ask", gate)));
        assert!(Gate::ORDER.is_sorted());
        let names = Gate::ORDER.map(|gate| format!("{gate:?}"));
        assert_eq!(names, ["Pause", "Breaker", "Limit", "Rate"]);
    }

    #[test]
    fn the_first_gate_that_holds_gives_the_reason_and_the_time() {
        let mut answers = [Answer::Open; 4];
        answers[Gate::Breaker as usize] = held(WaitingFor::Breaker, 70);
        answers[Gate::Rate as usize] = held(WaitingFor::Rate, 80);
        let (passage, log) = asked(all(), answers);
        let expected = Passage::Held {
            reason: WaitingFor::Breaker,
            until_ns: 70,
        };
        assert_eq!(passage, expected);
        let after = [
            ("give back", Gate::Pause),
            ("leave", Gate::Limit),
            ("leave", Gate::Rate),
        ];
        assert_eq!(log[2..], after);
    }

    #[test]
    fn a_gate_that_the_lane_does_not_have_is_left_alone() {
        let has = GateSet::NONE.with(Gate::Breaker).with(Gate::Limit);
        let mut answers = [held(WaitingFor::Paused, 1); 4];
        answers[Gate::Breaker as usize] = Answer::Open;
        answers[Gate::Limit as usize] = Answer::held(WaitingFor::Limit);
        let (passage, log) = asked(has, answers);
        let expected = Passage::Held {
            reason: WaitingFor::Limit,
            until_ns: NEVER,
        };
        assert_eq!(passage, expected);
        let steps = [
            ("ask", Gate::Breaker),
            ("ask", Gate::Limit),
            ("give back", Gate::Breaker),
        ];
        assert_eq!(log, steps);
        let (passage, log) = asked(GateSet::NONE, answers);
        assert_eq!((passage, log), (Passage::Go, vec![]));
    }

    #[test]
    fn reasons_have_labels_that_are_printed() {
        assert_eq!(WaitingFor::Paused.to_string(), "paused");
        assert_eq!(WaitingFor::HoldOff.as_str(), "hold_off");
    }

    proptest! {
        /// Every gate that opened has what it handed out back, unless the delivery goes.
        #[test]
        fn nothing_is_kept_of_any_gate_unless_the_delivery_goes(
            has in 0_u8..16,
            answers in prop::array::uniform4(0_u8..3),
        ) {
            let has = GateSet(has);
            let reason = WaitingFor::Limit;
            let answers = answers.map(|number| match number {
                0 => held(reason, 5),
                _ => Answer::Open,
            });
            let (passage, log) = asked(has, answers);
            let gates = Gate::ORDER.into_iter().filter(|gate| has.has(*gate));
            let is_open = |gate: &Gate| answers[*gate as usize] == Answer::Open;
            let first = gates.clone().find(|gate| !is_open(gate));
            let expected = match first {
                None => Passage::Go,
                Some(_) => Passage::Held { reason, until_ns: 5 },
            };
            prop_assert_eq!(passage, expected);
            for gate in gates {
                let times = |what| log.iter().filter(|step| **step == (what, gate)).count();
                let (is_before, is_after) = match first {
                    Some(first) => (gate < first, gate > first),
                    None => (false, false),
                };
                prop_assert_eq!(times("ask"), usize::from(!is_after));
                prop_assert_eq!(times("give back"), usize::from(is_before));
                prop_assert_eq!(times("leave"), usize::from(is_after));
            }
        }
    }
}
