//! Messages that pass the rate limit of their topic (`src/engine/terms/rate.rs`).
//!
//! Whatever takes a ticket for a message of a publisher pays: from outside or from a handler, due now
//! or later. A message that has its ticket pays no more, when it is due, or for a retry or a redrive.

use std::time::Duration;

use crate::engine::publish::ask::{Admitted, Ask, Refused};
use crate::engine::state::topic::TopicCore;
use crate::pure::words::tickets::Refusal;
use crate::sync::{Arc, Instant};

impl<T: Send + Sync + 'static> TopicCore<T> {
    /// Takes a step at the gate for up to `wanted` messages, as many as the rate lets pass.
    #[inline(always)]
    pub(super) fn by_rate(
        &self,
        ask: Ask<'_>,
        wanted: u64,
        step: impl FnOnce(u64) -> Result<(u64, u64), Refusal>,
    ) -> Result<(u64, u64), Refused> {
        match self.rate.get().is_some() && !ask.has_paid {
            false => Ok(step(wanted)?),
            true => self.by_rate_limit(wanted, step),
        }
    }

    #[cold]
    fn by_rate_limit(
        &self,
        wanted: u64,
        step: impl FnOnce(u64) -> Result<(u64, u64), Refusal>,
    ) -> Result<(u64, u64), Refused> {
        let Some(rate) = self.rate.get() else {
            return Ok(step(wanted)?);
        };
        match rate.pass(self.engine.clock.now_ns(), wanted, step) {
            Ok(passed) => Ok(passed?),
            Err(wait_ns) => Err(self.over_rate(wait_ns)),
        }
    }

    /// Returns why a message is refused that the rate lets not pass for this time.
    fn over_rate(&self, wait_ns: u64) -> Refused {
        match self.is_closed_to_caller() {
            true => Refused::Closed,
            false => Refused::RateLimited(Duration::from_nanos(wait_ns)),
        }
    }

    /// Pays for the messages before `admit`, which may drop others for their room.
    pub(in crate::engine::publish) fn pay_first(
        self: &Arc<Self>,
        ask: Ask<'_>,
        admit: impl FnOnce(Ask<'_>) -> Result<Admitted, Refused>,
    ) -> Result<Admitted, Refused> {
        let Some(rate) = self.rate.get() else {
            return admit(ask);
        };
        let paid = rate.pay(self.engine.clock.now_ns(), ask.wanted);
        let wanted = paid.map_err(|wait_ns| self.over_rate(wait_ns))?;
        let admitted = admit(Ask {
            wanted,
            has_paid: true,
            ..ask
        });
        let used = admitted.as_ref().map_or(0, |admitted| admitted.count);
        rate.give_back(wanted - used);
        admitted
    }

    /// Counts messages that were refused for the rate.
    pub(in crate::engine::publish) fn note_rate_limited(&self, count: u64) {
        if let Some(rate) = self.rate.get() {
            rate.note_refused(count);
        }
    }

    /// Has a publisher called that waits for the rate. Returns `false` if its time is up before then.
    pub(in crate::engine::publish) fn waits_for_rate(
        self: &Arc<Self>,
        retry_after: Duration,
        until: Option<Instant>,
    ) -> bool {
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        let comes_in_time = left.is_none_or(|left| retry_after <= left);
        if comes_in_time {
            self.call_after(retry_after);
        }
        comes_in_time
    }
}
