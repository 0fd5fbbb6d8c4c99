//! A topic, as its rate limit knows it.

use std::time::Duration;

use crate::engine::state::topic::TopicCore;
use crate::engine::terms::rate::PublishRate;
use crate::pure::protect::rate::RateLimit;
use crate::sync::Arc;
use crate::sync::atomic::Ordering;
use crate::types::duration::nanos;

impl<T: Send + Sync + 'static> TopicCore<T> {
    /// Changes the rate at which it accepts messages, or lifts the limit.
    pub(crate) fn set_rate_limit(self: &Arc<Self>, limit: Option<RateLimit>) {
        let changing = self.changing.lock();
        let new = || self.rate.get_or_init(|| Box::new(PublishRate::new()));
        if let Some(rate) = limit.map_or_else(|| self.rate.get(), |_| Some(new())) {
            rate.set(limit, self.engine.clock.now_ns());
        }
        let is_plain = self.settings.is_plain() && self.weights.is_none() && !self.is_stored();
        let is_plain = is_plain && limit.is_none();
        self.is_plain.store(is_plain, Ordering::Release);
        drop(changing);
        self.waiters.wake_all();
    }

    /// Returns the time until its rate lets a message pass, if none may pass now.
    pub(crate) fn held_by_rate(&self) -> Option<Duration> {
        let (count, more_ns) = self.rate.get()?.outlook(self.engine.clock.now_ns());
        (count == 0).then_some(Duration::from_nanos(more_ns))
    }

    /// Calls those who wait after this time, when the rate lets a message pass.
    pub(crate) fn call_after(self: &Arc<Self>, delay: Duration) {
        if let Some(rate) = self.rate.get() {
            rate.call(&self.engine, nanos(delay), Arc::clone(self) as _);
        }
    }

    /// Calls those who wait, because the rate lets a message pass. If some go on waiting, and not for
    /// room, they are called again for the next permit.
    pub(crate) fn call_by_rate(self: &Arc<Self>) {
        let Some(rate) = self.rate.get() else {
            return;
        };
        self.call_publishers();
        if self.waiters.are_taken() && self.room() > 0 {
            let (_, more_ns) = rate.outlook(self.engine.clock.now_ns());
            self.call_after(Duration::from_nanos(more_ns));
        }
    }
}
