//! Requests as futures, for any runtime (feature `async`).

use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use crate::engine::publish::ask::Refused;
use crate::engine::runtime::Engine;
use crate::engine::track::ends::Ends;
use crate::engine::track::replies::Concluded;
use crate::engine::wait::alarm::Alarm;
use crate::engine::wait::fire::Tag;
use crate::message::outgoing::Message;
use crate::pure::wheel::TimerKey;
use crate::sync::Arc;
use crate::topic::Topic;
use crate::topic::publishing::futures::Publish;
use crate::topic::publishing::message::MessageBuilder;
use crate::topic::requests::error::RequestError;
use crate::topic::requests::gather::{Gather, Replies};
use crate::topic::requests::{admissible, all_replies, only_reply, slot};

/// A request that waits without blocking its thread, made by [`Topic::request_async`].
#[must_use = "a future does nothing until it is polled"]
pub struct Request<T: Send + Sync + 'static, R> {
    asked: Asked<T>,
    reply: PhantomData<fn() -> R>,
}

/// A request to many that waits without blocking its thread, made by
/// [`Topic::request_many_async`].
#[must_use = "a future does nothing until it is polled"]
pub struct RequestMany<T: Send + Sync + 'static, R> {
    asked: Asked<T>,
    reply: PhantomData<fn() -> R>,
}

impl<T: Send + Sync + 'static> Topic<T> {
    /// Publishes a message, and waits for a reply without blocking the thread.
    ///
    /// It is [`request`](Self::request) as a future. The timeout counts from this call, by the
    /// broker's clock. It may be awaited inside an async handler, too, if another subscription
    /// replies. On a broker without worker threads each poll runs the broker first.
    ///
    /// A future that is dropped waits no longer: a later reply is dropped and counted. If the message
    /// was not accepted by then, its payload is dropped with the future.
    ///
    /// ```
    /// use millstream::Broker;
    /// use std::time::Duration;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let broker = Broker::new()?;
    /// let users = broker.topic::<u64>("users").open()?;
    /// let _store = users.subscription("store").subscribe_async(async |id| {
    ///     id.reply(format!("user {}", id.payload()));
    ///     Ok(())
    /// })?;
    /// let user: String = users.request_async(7, Duration::from_secs(5)).await?;
    /// assert_eq!(user, "user 7");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// The errors are those of [`request`](Self::request), except `WouldBlock`.
    pub fn request_async<R: Send + 'static>(&self, payload: T, timeout: Duration) -> Request<T, R> {
        self.message(payload).request_async(timeout)
    }

    /// Publishes a message, and collects replies to it without blocking the thread.
    ///
    /// It is [`request_many`](Self::request_many) as a future, and waits as
    /// [`request_async`](Self::request_async) does.
    ///
    /// # Errors
    ///
    /// The errors are those of [`request_many`](Self::request_many), except `WouldBlock`.
    pub fn request_many_async<R: Send + 'static>(
        &self,
        payload: T,
        gather: Gather,
    ) -> RequestMany<T, R> {
        self.message(payload).request_many_async(gather)
    }
}

impl<T: Send + Sync + 'static> MessageBuilder<'_, T> {
    /// Publishes the message, and waits for a reply without blocking the thread, as
    /// [`Topic::request_async`] does.
    ///
    /// # Errors
    ///
    /// The errors are those of [`Topic::request_async`].
    pub fn request_async<R: Send + 'static>(self, timeout: Duration) -> Request<T, R> {
        let gather = Gather::within(timeout).max(1);
        Request {
            asked: Asked::new::<R>(self, gather),
            reply: PhantomData,
        }
    }

    /// Publishes the message, and collects replies to it without blocking the thread, as
    /// [`Topic::request_many_async`] does.
    ///
    /// # Errors
    ///
    /// The errors are those of [`Topic::request_many_async`].
    pub fn request_many_async<R: Send + 'static>(self, gather: Gather) -> RequestMany<T, R> {
        RequestMany {
            asked: Asked::new::<R>(self, gather),
            reply: PhantomData,
        }
    }
}

/// A request, and how far it has come.
struct Asked<T: Send + Sync + 'static> {
    topic: Topic<T>,
    gather: Gather,
    ends: Arc<Ends>,
    stage: Stage<T>,
    alarm: Option<Sleep>,
    /// The time until which to wait for the topic's room, and for replies thereafter.
    until_ns: u64,
}

enum Stage<T: Send + Sync + 'static> {
    New(Message<T>),
    Publishing(Publish<T>),
    Waiting,
    Over,
}

impl<T: Send + Sync + 'static> Asked<T> {
    fn new<R: 'static>(builder: MessageBuilder<'_, T>, gather: Gather) -> Self {
        let core = &builder.topic.core;
        let ends = slot::<T, R>(core, &gather);
        Self {
            topic: builder.topic.clone(),
            gather,
            until_ns: ends.deadline_ns(),
            stage: Stage::New(builder.message.track(&ends)),
            ends,
            alarm: None,
        }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<Concluded, RequestError<T>>> {
        let polled = self.poll_stages(context);
        if polled.is_ready() {
            self.stage = Stage::Over;
            self.alarm = None;
        }
        polled
    }

    fn poll_stages(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Result<Concluded, RequestError<T>>> {
        let engine = &self.topic.core.engine;
        engine.run_until_idle();
        self.stage = match std::mem::replace(&mut self.stage, Stage::Over) {
            Stage::New(message) => {
                let message = admissible(&self.topic.core, message, &self.gather)?;
                Stage::Publishing(Publish::new(&self.topic, message))
            }
            stage => stage,
        };
        if let Stage::Publishing(publish) = &mut self.stage {
            match Pin::new(&mut *publish).poll(context) {
                Poll::Ready(published) => {
                    published?;
                    self.stage = Stage::Waiting;
                    engine.run_until_idle();
                }
                Poll::Pending => {
                    ready!(Sleep::until(&mut self.alarm, engine, self.until_ns).poll(context));
                    let message = publish.take_back().expect("it was not accepted");
                    self.topic.core.note_refused(&Refused::TimedOut, 1);
                    let timed_out = Refused::TimedOut.error(message.into_inner());
                    return Poll::Ready(Err(timed_out.into()));
                }
            }
        }
        self.poll_replies(context).map(Ok)
    }

    fn poll_replies(&mut self, context: &Context<'_>) -> Poll<Concluded> {
        assert!(
            matches!(self.stage, Stage::Waiting),
            "polled after it was ready"
        );
        let engine = &self.topic.core.engine;
        let now_ns = engine.clock.timer_ns();
        let polled = self.ends.poll_replies(now_ns, &mut self.until_ns, context);
        if let Poll::Ready(concluded) = polled {
            return Poll::Ready(concluded);
        }
        // The alarm goes off when the timer has stopped, too. Nobody would end the wait then.
        ready!(Sleep::until(&mut self.alarm, engine, self.until_ns).poll(context));
        Poll::Ready(self.ends.conclude(engine.clock.timer_ns()))
    }
}

impl<T: Send + Sync + 'static> Drop for Asked<T> {
    fn drop(&mut self) {
        self.ends.forget_waker();
        self.ends.abandon();
    }
}

/// An alarm that is set, until it is no longer wanted.
struct Sleep {
    engine: Arc<Engine>,
    alarm: Alarm,
    timer: TimerKey,
    until_ns: u64,
}

impl Sleep {
    /// Returns the alarm for this time, which replaces an alarm for another time.
    fn until<'s>(slot: &'s mut Option<Self>, engine: &Arc<Engine>, until_ns: u64) -> &'s Alarm {
        if slot.as_ref().is_none_or(|sleep| sleep.until_ns != until_ns) {
            let alarm = Alarm::default();
            let timer = engine.timer.insert(until_ns, Tag::Look, alarm.trigger());
            *slot = Some(Self {
                engine: Arc::clone(engine),
                alarm,
                timer,
                until_ns,
            });
        }
        &slot.as_ref().expect("it was set").alarm
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        self.alarm.forget_waker();
        self.engine.timer.cancel(self.timer);
    }
}

/// No field is pinned: the payload is only moved.
impl<T: Send + Sync + 'static, R> Unpin for Request<T, R> {}

impl<T: Send + Sync + 'static, R: Send + 'static> Future for Request<T, R> {
    type Output = Result<R, RequestError<T>>;

    /// Publishes the message, or has the task woken when the wait for its reply is over.
    ///
    /// # Panics
    ///
    /// Panics if the future has been ready before.
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let concluded = ready!(self.asked.poll(context))?;
        Poll::Ready(only_reply(concluded))
    }
}

impl<T: Send + Sync + 'static, R> fmt::Debug for Request<T, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("topic", &self.asked.topic.name())
            .finish_non_exhaustive()
    }
}

/// No field is pinned: the payload is only moved.
impl<T: Send + Sync + 'static, R> Unpin for RequestMany<T, R> {}

impl<T: Send + Sync + 'static, R: Send + 'static> Future for RequestMany<T, R> {
    type Output = Result<Replies<R>, RequestError<T>>;

    /// Publishes the message, or has the task woken when the wait for its replies is over.
    ///
    /// # Panics
    ///
    /// Panics if the future has been ready before.
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let concluded = ready!(self.asked.poll(context))?;
        Poll::Ready(Ok(all_replies(concluded)))
    }
}

impl<T: Send + Sync + 'static, R> fmt::Debug for RequestMany<T, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestMany")
            .field("topic", &self.asked.topic.name())
            .finish_non_exhaustive()
    }
}
