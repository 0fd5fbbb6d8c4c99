//! Redrives as futures, for any runtime (feature `async`).
//!
//! A future waits in line with threads that redrive, or with publishers of the topic where letters
//! go. An alarm of the engine's timer ends the wait, and keeps the rate. Between two letters
//! nothing is on its way, so the future may be dropped there. A letter that waits for room in
//! another topic is claimed; the claim puts it back.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll};

use crate::engine::publish::ask::{Refused, Wait};
use crate::engine::reading::redrive::Stays;
use crate::engine::runtime::Engine;
use crate::engine::wait::alarm::Alarm;
use crate::engine::wait::fire::Tag;
use crate::engine::wait::waiters::Waiters;
use crate::engine::wait::wakers::WaiterId;
use crate::message::outgoing::Message;
use crate::pure::wheel::TimerKey;
use crate::topic::letters::dead_letters::{DeadLetter, DeadLetters};
use crate::topic::letters::redrive::{Elsewhere, Redrive, RedriveOptions};
use crate::topic::letters::redriver::{Redriver, meta_of};
use crate::topic::publishing::futures::Publish;
use crate::types::duration::nanos;
use crate::types::error::SettingError;

/// A redrive that waits without blocking its thread, made by [`DeadLetters::redrive_with_async`].
#[must_use = "a future does nothing until it is polled"]
pub struct RedriveFuture(Pin<Box<dyn Future<Output = Result<Redrive, SettingError>> + Send>>);

impl Future for RedriveFuture {
    type Output = Result<Redrive, SettingError>;

    /// Sends the letters that may go now, and registers the task for the next one.
    ///
    /// # Panics
    ///
    /// Panics if the filter does, or the payload's `clone`. It also panics if the future has been
    /// ready before.
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(context)
    }
}

impl fmt::Debug for RedriveFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedriveFuture").finish_non_exhaustive()
    }
}

impl<T: Send + Sync + 'static> DeadLetters<T> {
    /// Sends the letters that `filter` chooses, as the options say, without blocking the thread.
    ///
    /// It does what [`redrive_with`](Self::redrive_with) does, except for the waits. No thread is
    /// occupied while it waits for room, or for the time of the next letter. So it waits inside a
    /// handler, too, and keeps its time by a manual clock. On a broker without workers somebody has
    /// to run the broker meanwhile.
    ///
    /// The letters are listed at the first poll. A future that is dropped stops between two letters.
    /// Letters that have not gone by then stay in the store.
    ///
    /// ```
    /// use millstream::dead_letters::RedriveOptions;
    /// use millstream::{Broker, Nack};
    /// use std::time::Duration;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let broker = Broker::new()?;
    /// let mails = broker.topic::<&str>("mails").open()?;
    /// let _sender = mails.subscribe("sender", |mail| match mail.generation() {
    ///     0 => Err(Nack::dead_letter("the server is down")),
    ///     _ => Ok(()),
    /// })?;
    /// mails.publish_batch(["ann", "bob"])?;
    /// # broker.wait_until_idle(Duration::from_secs(5));
    ///
    /// let gently = RedriveOptions::new().rate(100).wait(Duration::from_secs(5));
    /// let redrive = mails.dead_letters().redrive_with_async(gently, |_| true).await?;
    /// assert_eq!(redrive.redriven, 2);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// The future returns [`SettingError`] for a rate of zero.
    pub fn redrive_with_async(
        &self,
        options: RedriveOptions<T>,
        filter: impl FnMut(&DeadLetter<T>) -> bool + Send + 'static,
    ) -> RedriveFuture {
        let letters = self.clone();
        RedriveFuture(Box::pin(async move {
            options.check_rate()?;
            Ok(letters.send_async(&options, filter).await)
        }))
    }

    async fn send_async(
        &self,
        options: &RedriveOptions<T>,
        mut filter: impl FnMut(&DeadLetter<T>) -> bool,
    ) -> Redrive {
        let mut pace = Pace {
            engine: &self.topic.core.engine,
            wait_ns: nanos(options.wait),
            interval_ns: nanos(options.interval()),
            next_ns: 0,
        };
        let letters = self.in_order();
        let mut redriver = Redriver::new(&self.topic, &letters);
        for letter in letters.all.iter().filter(|letter| filter(letter)) {
            pace.keep().await;
            let gone = match (redriver.may_go(letter), &options.to) {
                (Err(stays), _) => Err(stays),
                (Ok(()), None) => self.send_back_async(&mut redriver, letter, &mut pace).await,
                (Ok(()), Some(to)) => self.move_to_async(to, &redriver, letter, &mut pace).await,
            };
            if gone.is_ok() {
                pace.note();
            }
            redriver.count(letter, gone);
        }
        redriver.outcome()
    }

    /// Sends a letter back, and waits for room as long as it may.
    async fn send_back_async<'l>(
        &self,
        redriver: &mut Redriver<'l, T>,
        letter: &'l DeadLetter<T>,
        pace: &mut Pace<'_>,
    ) -> Result<bool, Stays> {
        let lane = redriver.lane_of(letter)?;
        if let Some(gone) = redriver.send_back(letter, &lane, false) {
            return gone;
        }
        let mut place = Place {
            line: self.topic.core.redrives(),
            id: WaiterId::default(),
        };
        let sent = pace.patiently(|context| {
            let attempt = || redriver.send_back(letter, &lane, true);
            // All are called at once, so nobody passes a call on.
            place.line.poll_for(&mut place.id, context, attempt, || 0)
        });
        sent.await.unwrap_or(Err(Stays::NoRoom))
    }

    /// Publishes a letter to another topic, and returns whether it did. It does not if another call
    /// has taken the letter.
    async fn move_to_async<'l>(
        &self,
        to: &Elsewhere<T>,
        redriver: &Redriver<'l, T>,
        letter: &'l DeadLetter<T>,
        pace: &mut Pace<'_>,
    ) -> Result<bool, Stays> {
        // The user's code runs before the letter is claimed.
        let payload = (to.copy)(letter.payload());
        let Some(claim) = redriver.claim(letter)? else {
            return Ok(false);
        };
        let message = Message::from_parts((payload, Some(meta_of(letter))));
        let core = &to.topic.core;
        let published = if pace.wait_ns == 0 {
            core.publish_message(message, Wait::Never)
        } else {
            let mut publish = Publish::patient(&to.topic, message);
            let published = pace.patiently(|context| Pin::new(&mut publish).poll(context));
            published.await.ok_or_else(|| {
                core.note_refused(&Refused::TimedOut, 1);
                Stays::NoRoom
            })?
        };
        redriver.moved(letter, &to.topic, claim, published)
    }
}

/// The rest of the patience of a redrive, and the time at which its next letter may go.
struct Pace<'e> {
    engine: &'e Engine,
    wait_ns: u64,
    interval_ns: u64,
    next_ns: u64,
}

impl Pace<'_> {
    /// Waits until the next letter may go.
    async fn keep(&self) {
        if self.engine.clock.timer_ns() < self.next_ns {
            let sleep = Sleep::until(self.engine, self.next_ns);
            poll_fn(|context| sleep.alarm.poll(context)).await;
        }
    }

    /// Notes that a letter has gone.
    fn note(&mut self) {
        if self.interval_ns > 0 {
            let now_ns = self.engine.clock.timer_ns();
            self.next_ns = now_ns.saturating_add(self.interval_ns);
        }
    }

    /// Polls `attempt` for as long as it may wait, and takes off what it has waited.
    async fn patiently<R>(
        &mut self,
        mut attempt: impl FnMut(&mut Context<'_>) -> Poll<R>,
    ) -> Option<R> {
        if self.wait_ns == 0 {
            return None;
        }
        let began_ns = self.engine.clock.timer_ns();
        let until_ns = began_ns.saturating_add(self.wait_ns);
        let mut sleep = None;
        let result = poll_fn(|context| match attempt(context) {
            Poll::Ready(result) => Poll::Ready(Some(result)),
            Poll::Pending => {
                let sleep = sleep.get_or_insert_with(|| Sleep::until(self.engine, until_ns));
                sleep.alarm.poll(context).map(|()| None)
            }
        });
        let result = result.await;
        let waited_ns = self.engine.clock.timer_ns() - began_ns;
        self.wait_ns = self.wait_ns.saturating_sub(waited_ns);
        result
    }
}

/// A place in a line of waiters, until the wait is over.
struct Place<'w> {
    line: &'w Waiters,
    id: WaiterId,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.line.leave(&mut self.id, || 0);
    }
}

/// An alarm that is set, until it is no longer wanted.
struct Sleep<'e> {
    engine: &'e Engine,
    alarm: Alarm,
    timer: TimerKey,
}

impl<'e> Sleep<'e> {
    fn until(engine: &'e Engine, due_ns: u64) -> Self {
        let alarm = Alarm::default();
        let timer = engine.timer.insert(due_ns, Tag::Look, alarm.trigger());
        Self {
            engine,
            alarm,
            timer,
        }
    }
}

impl Drop for Sleep<'_> {
    fn drop(&mut self) {
        self.alarm.forget_waker();
        self.engine.timer.cancel(self.timer);
    }
}
