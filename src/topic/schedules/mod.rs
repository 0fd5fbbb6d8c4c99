//! Schedules: messages that are published again and again.

pub(crate) mod ticker;

use std::fmt;
use std::time::Duration;

use crate::message::outgoing::Message;
use crate::pure::policy::ticks::MissedTicks;
use crate::sync::Arc;
use crate::topic::Topic;
use crate::topic::schedules::ticker::{AnyTicker, Ticker};
use crate::types::duration::nanos;
use crate::types::error::SettingError;

/// The shortest period. The timer's own step is a tenth of it.
const SHORTEST: Duration = Duration::from_millis(1);

/// A schedule in the making, from [`Topic::every`].
#[must_use = "a schedule begins when it is told what to publish"]
#[derive(Clone, Copy)]
pub struct Every<'t, T: Send + Sync + 'static> {
    topic: &'t Topic<T>,
    period: Duration,
    missed: MissedTicks,
}

impl<T: Send + Sync + 'static> Topic<T> {
    /// Begins a schedule, which publishes a message in each period.
    ///
    /// The first tick is due one period from now, and each later one a period after the one before,
    /// by a clock that never jumps. A late tick delays no other. The broker's timer keeps the
    /// time, and a worker makes the message and publishes it. On a broker without workers,
    /// [`run_until_idle`](crate::Broker::run_until_idle) does.
    ///
    /// ```
    /// use millstream::Broker;
    /// use millstream::schedule::MissedTicks;
    /// use std::time::Duration;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let broker = Broker::new()?;
    /// let beats = broker.topic::<&str>("beats").open()?;
    /// let every = beats.every(Duration::from_secs(1)).missed(MissedTicks::Once);
    /// let heart = every.publish(|| "still alive")?;
    /// // And later:
    /// heart.cancel();
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// A tick never waits for room. If the topic is full, its overflow policy decides:
    /// [`Block`](crate::Overflow::Block) and [`Reject`](crate::Overflow::Reject) refuse the message,
    /// and the others drop one. A tick whose message was refused is skipped and counted
    /// ([`ticks_skipped`](crate::metrics::TopicMetrics::ticks_skipped)), and observers are told.
    ///
    /// The schedule ends when its handle is cancelled or dropped, when the topic is drained, and when
    /// the broker drains or ends. A drain doesn't wait for ticks.
    pub fn every(&self, period: Duration) -> Every<'_, T> {
        Every {
            topic: self,
            period,
            missed: MissedTicks::default(),
        }
    }
}

impl<T: Send + Sync + 'static> Every<'_, T> {
    /// Sets what to do about ticks that were missed. The default is [`MissedTicks::Skip`].
    pub fn missed(self, missed: MissedTicks) -> Self {
        Self { missed, ..self }
    }

    /// Publishes what `make` returns, from now on.
    ///
    /// `make` is called on a worker, once for each message, and never twice at a time. If it panics,
    /// its tick is skipped and counted, and the next tick calls it again.
    ///
    /// # Errors
    ///
    /// Returns [`SettingError`] for a period below 1 ms, or for more than 1,024 ticks to make up for.
    pub fn publish(
        self,
        mut make: impl FnMut() -> T + Send + 'static,
    ) -> Result<Schedule, SettingError> {
        self.publish_message(move || Message::new(make()))
    }

    /// Publishes the messages that `make` returns, with keys, headers and times to live, as
    /// [`publish`](Self::publish) does with payloads.
    ///
    /// # Errors
    ///
    /// The errors are those of [`publish`](Self::publish).
    pub fn publish_message(
        self,
        make: impl FnMut() -> Message<T> + Send + 'static,
    ) -> Result<Schedule, SettingError> {
        if self.period < SHORTEST {
            let period = format!("{:?}", self.period);
            return Err(SettingError::new("every", period, "must be at least 1 ms"));
        }
        if let MissedTicks::All(most) = self.missed
            && most > MissedTicks::MOST
        {
            let rule = "must be at most 1,024";
            return Err(SettingError::new("missed", most, rule));
        }
        let period_ns = nanos(self.period);
        let ticker = Ticker::start(self.topic.clone(), period_ns, self.missed, Box::new(make));
        Ok(Schedule { ticker })
    }
}

impl<T: Send + Sync + 'static> fmt::Debug for Every<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Every")
            .field("topic", &self.topic.name())
            .field("period", &self.period)
            .field("missed", &self.missed)
            .finish()
    }
}

/// A handle of a schedule, which ends it when it is dropped.
///
/// A schedule counts as a handle of its topic, which can't be removed meanwhile.
#[must_use = "a schedule ends when its handle is dropped; detach it to let it go on"]
pub struct Schedule {
    ticker: Arc<dyn AnyTicker>,
}

impl Schedule {
    /// Ends the schedule, and drops its closure.
    ///
    /// No call of the closure begins from now on. A message that is being made at this moment is not
    /// published, unless its publish has begun. This call doesn't wait for it.
    pub fn cancel(self) {
        drop(self);
    }

    /// Lets the schedule go on until its topic is drained or the broker ends.
    pub fn detach(self) {
        self.ticker.detach();
    }

    /// Returns whether the schedule has ended by itself, because its topic or broker has closed.
    ///
    /// It notices that at its next tick, or at the end of the broker.
    pub fn has_ended(&self) -> bool {
        self.ticker.has_ended()
    }

    /// Returns the number of messages that it has published.
    pub fn published(&self) -> u64 {
        self.ticker.published()
    }

    /// Returns the number of ticks for which it has published no message.
    pub fn skipped(&self) -> u64 {
        self.ticker.skipped()
    }
}

impl Drop for Schedule {
    fn drop(&mut self) {
        self.ticker.leave();
    }
}

impl fmt::Debug for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Schedule")
            .field("ended", &self.has_ended())
            .field("published", &self.published())
            .field("skipped", &self.skipped())
            .finish_non_exhaustive()
    }
}
