//! One question to a lane's gate: how many deliveries may go.
//!
//! The gates are asked once for several deliveries. Each lets go as many as it can, and what the
//! earlier ones have handed out beyond that is given back at the end.

use crate::engine::gates::limiter::Woken;
use crate::engine::gates::protection::Protection;
use crate::pure::protect::NEVER;
use crate::pure::protect::breaker::Outcome;
use crate::pure::protect::breaker::state::{BreakerStatus, Change, Pass};
use crate::pure::protect::gate::{Answer, Gate, GateSet, Gates, Passage, WaitingFor, pass};
use crate::pure::protect::rate::Gcra;

/// The number of permits of a limit that deliveries take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Calls {
    /// The deliveries go one after the other, or as one batch.
    One,
    /// Each delivery has a call of its own.
    Each,
}

/// How many deliveries may go, and what they have taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Granted {
    pub(crate) deliveries: u32,
    /// Permits of the limiter.
    pub(crate) permits: u32,
}

/// The answer of a lane's gate.
pub(crate) enum Verdict {
    Go(Granted),
    Wait { reason: WaitingFor, until_ns: u64 },
}

/// One question.
struct Asking<'p> {
    protection: &'p mut Protection,
    is_paused: bool,
    calls: Calls,
    now_ns: u64,
    /// How many may go, as far as has been asked.
    most: u32,
    /// Permits of the breaker, if it counts them.
    probes: u32,
    permits: u32,
    tokens: u32,
    effects: Effects,
}

/// The effects of a question on others.
#[derive(Default)]
pub(crate) struct Effects {
    /// The breaker has changed by it.
    pub(crate) change: Option<Change>,
    /// Lanes to wake, which were offered a permit.
    pub(crate) woken: Woken,
}

impl Protection {
    /// Asks for up to `most` deliveries.
    pub(crate) fn ask(
        &mut self,
        is_paused: bool,
        most: u32,
        calls: Calls,
        now_ns: u64,
    ) -> (Verdict, Effects) {
        let gates = [
            (Gate::Pause, is_paused),
            (Gate::Breaker, self.breaker.is_some()),
            (Gate::Limit, self.place.is_some()),
            (Gate::Rate, self.gcra != Gcra::UNLIMITED || self.rate != 0),
        ];
        let asked = gates.into_iter().filter(|(_, is_there)| *is_there);
        let has = asked.fold(GateSet::NONE, |set, (gate, _)| set.with(gate));
        let mut asking = Asking {
            protection: self,
            is_paused,
            calls,
            now_ns,
            most,
            probes: 0,
            permits: 0,
            tokens: 0,
            effects: Effects::default(),
        };
        let verdict = match pass(&mut asking, has) {
            Passage::Go => Verdict::Go(asking.trim()),
            Passage::Held { reason, until_ns } => Verdict::Wait { reason, until_ns },
        };
        (verdict, asking.effects)
    }

    /// Takes back what was granted at this time and not used, but for the permits of the limiter.
    pub(crate) fn take_back(&mut self, unused: u32, asked_ns: u64) {
        self.rate = self.gcra.give_back(self.rate, unused);
        self.end_probes(unused, asked_ns);
    }

    /// Ends probes that were let go at this time and not used.
    fn end_probes(&mut self, unused: u32, asked_ns: u64) {
        let Some(breaker) = &mut self.breaker else {
            return;
        };
        if breaker.status() != BreakerStatus::HalfOpen {
            return;
        }
        for _ in 0..unused {
            let permit = breaker.permit_of(asked_ns);
            let _ = breaker.end(permit, Outcome::Ignored, asked_ns);
        }
    }
}

impl Asking<'_> {
    fn ask_breaker(&mut self) -> Answer {
        let Some(breaker) = &mut self.protection.breaker else {
            return Answer::Open;
        };
        if breaker.status() == BreakerStatus::Closed {
            return Answer::Open;
        }
        for asked in 0..self.most {
            let (pass, change) = breaker.may_pass(self.now_ns);
            self.effects.change = self.effects.change.or(change);
            match pass {
                // All may.
                Pass::Yes(_) => return Answer::Open,
                Pass::Probe(_) => self.probes += 1,
                Pass::Until(until_ns) if asked == 0 => {
                    let reason = WaitingFor::Breaker;
                    return Answer::Held { reason, until_ns };
                }
                Pass::Until(_) => break,
            }
        }
        self.most = self.probes;
        Answer::Open
    }

    fn ask_limit(&mut self) -> Answer {
        let Some(place) = &mut self.protection.place else {
            return Answer::Open;
        };
        let wanted = match self.calls {
            Calls::One => 1,
            Calls::Each => self.most,
        };
        self.permits = place.limiter.take(place.number, wanted);
        place.taken += self.permits;
        if self.permits == 0 {
            return Answer::held(WaitingFor::Limit);
        }
        if self.calls == Calls::Each {
            self.most = self.permits;
        }
        Answer::Open
    }

    fn ask_rate(&mut self) -> Answer {
        let protection = &mut *self.protection;
        match protection
            .gcra
            .take(protection.rate, self.now_ns, self.most)
        {
            Ok((word, granted)) => {
                // A wait that a handler asked for is over, and leaves nothing behind.
                let is_unlimited = protection.gcra == Gcra::UNLIMITED;
                protection.rate = if is_unlimited { 0 } else { word };
                self.tokens = granted;
                self.most = granted;
                Answer::Open
            }
            Err(wait) => Answer::Held {
                reason: wait.reason(),
                until_ns: wait.until_ns,
            },
        }
    }

    /// Gives back what one gate has handed out beyond what a later one lets go.
    fn trim(&mut self) -> Granted {
        let surplus = self.probes.saturating_sub(self.most);
        self.protection.end_probes(surplus, self.now_ns);
        if self.calls == Calls::Each {
            self.return_permits(self.permits.saturating_sub(self.most));
        }
        Granted {
            deliveries: self.most,
            permits: self.permits,
        }
    }

    fn return_permits(&mut self, count: u32) {
        if count == 0 {
            return;
        }
        self.permits -= count;
        self.effects
            .woken
            .add(self.protection.return_permits(count));
    }
}

impl Gates for Asking<'_> {
    fn ask(&mut self, gate: Gate) -> Answer {
        match gate {
            Gate::Pause if self.is_paused => Answer::held(WaitingFor::Paused),
            Gate::Breaker => self.ask_breaker(),
            Gate::Limit => self.ask_limit(),
            Gate::Rate => self.ask_rate(),
            Gate::Pause => Answer::Open,
        }
    }

    fn give_back(&mut self, gate: Gate) {
        match gate {
            Gate::Breaker => self.protection.end_probes(self.probes, self.now_ns),
            Gate::Limit => self.return_permits(self.permits),
            Gate::Rate => {
                let protection = &mut *self.protection;
                protection.rate = protection.gcra.give_back(protection.rate, self.tokens);
            }
            Gate::Pause => {}
        }
    }

    fn leave(&mut self, gate: Gate) {
        if gate == Gate::Limit
            && let Some(place) = &self.protection.place
        {
            self.effects
                .woken
                .add(place.limiter.leave_line(place.number));
        }
    }
}

/// Returns for how long to wait until then, or `None` if nothing but an event ends the wait.
pub(crate) fn wait_ns(until_ns: u64, now_ns: u64) -> Option<u64> {
    (until_ns != NEVER).then(|| until_ns.saturating_sub(now_ns))
}
