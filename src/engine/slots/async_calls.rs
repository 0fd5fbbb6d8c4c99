//! Handlers that are async functions. A slot has one call at a time and polls it on
//! whichever worker runs the slot; between polls the call occupies no worker. The slot
//! itself is the waker: waking it notifies it. The call's future lives in a box of the
//! slot's work, which the next future reuses.

use std::future::Future;
use std::iter;
use std::pin::Pin;
use std::task::{Context, Poll, Wake, Waker};

use crate::engine::base::contain::{Contained, contain, discard};
use crate::engine::deliver::turn::{SHARE_LOOKS, SHARE_NS};
use crate::engine::keyed::take::Settlements;
use crate::engine::parts::handler::{FailedCall, FailureCause};
use crate::engine::parts::pending::PendingDelivery;
use crate::engine::runtime::poll_hook::{Nothing, PollHook, Within};
use crate::engine::runtime::{Engine, context};
use crate::engine::slots::slot::share_by;
use crate::engine::state::keyed::KeyedLane;
use crate::engine::state::lane::Lane;
use crate::engine::state::slots::{ConsumerSlot, Shared, Work};
use crate::engine::wait::fire::Tag;
use crate::message::nack::Nack;
use crate::message::owned::{Names, OwnedDelivery};
use crate::pure::decide::expiry::NEVER;
use crate::pure::decide::lifecycle::{Status, Step};
use crate::pure::order::sequencer::Taken;
use crate::pure::wheel::TimerKey;
use crate::sync::Arc;

/// A call that has begun.
struct Begun<T> {
    taken: Taken<PendingDelivery<T>>,
    began_ns: u64,
    /// The time by which the call has to end, by the clock of the timers, or [`NEVER`].
    due_ns: u64,
    /// Schedules the slot at that time, once the call waits.
    alarm: TimerKey,
    /// Whether a publish of the call was refused because the broker is ending.
    was_refused: bool,
    /// The panic of the handler, if it panicked before it returned a future.
    panic: Option<Arc<Contained<FailureCause>>>,
}

/// The work of a slot that polls async calls.
struct AsyncCalls<T, F, R, W> {
    handler: Arc<Contained<F>>,
    within: W,
    names: Option<Arc<Names>>,
    begun: Option<Begun<T>>,
    /// The user's future. Nothing wraps it that could drop it while a panic of its own unwinds.
    future: Pin<Box<Option<R>>>,
    last_error: Option<Arc<str>>,
}

/// Returns the work of `count` slots that share an async handler.
pub(crate) fn share<T, F, R>(
    hook: Option<PollHook>,
    handler: &Arc<Contained<F>>,
    count: usize,
) -> Shared<T>
where
    T: Send + Sync + 'static,
    F: Fn(OwnedDelivery<T>) -> R + Send + Sync + 'static,
    R: Future<Output = Result<(), Nack>> + Send + 'static,
{
    match hook {
        None => share_within(Nothing, handler, count),
        Some(hook) => share_within(hook, handler, count),
    }
}

fn share_within<T, F, R, W>(within: W, handler: &Arc<Contained<F>>, count: usize) -> Shared<T>
where
    T: Send + Sync + 'static,
    F: Fn(OwnedDelivery<T>) -> R + Send + Sync + 'static,
    R: Future<Output = Result<(), Nack>> + Send + 'static,
    W: Within,
{
    share_by(handler, count, move |handler| {
        Box::new(AsyncCalls {
            handler,
            within: within.clone(),
            names: None,
            begun: None,
            future: Box::pin(None),
            last_error: None,
        })
    })
}

impl<T, F, R, W> Work<T> for AsyncCalls<T, F, R, W>
where
    T: Send + Sync + 'static,
    F: Fn(OwnedDelivery<T>) -> R + Send + Sync + 'static,
    R: Future<Output = Result<(), Nack>> + Send + 'static,
    W: Within,
{
    fn work(&mut self, slot: &Arc<ConsumerSlot<T>>, keyed: KeyedLane<'_, T>) -> bool {
        let lane = keyed.lane;
        let engine = lane.engine();
        let waker = Waker::from(Arc::clone(slot));
        let turn_began_ns = engine.clock.now_ns();
        let mut now_ns = turn_began_ns;
        let mut looks = 0;
        loop {
            if lane.phase().ends_at_once() {
                self.cancel(keyed);
                return false;
            }
            if now_ns.saturating_sub(turn_began_ns) >= SHARE_NS || looks == SHARE_LOOKS {
                return true;
            }
            looks += 1;
            if self.begun.is_none() {
                if slot.is_leaving() {
                    return false;
                }
                let Some(taken) = slot.take(keyed, now_ns) else {
                    return false;
                };
                self.begin(lane, taken, now_ns);
            }
            let Some(failed_call) = self.poll(&waker, slot, engine) else {
                return false;
            };
            now_ns = engine.clock.now_ns();
            self.settle(keyed, failed_call, now_ns);
        }
    }

    fn is_busy(&self) -> bool {
        self.begun.is_some()
    }
}

impl<T, F, R, W> AsyncCalls<T, F, R, W>
where
    T: Send + Sync + 'static,
    F: Fn(OwnedDelivery<T>) -> R,
    R: Future<Output = Result<(), Nack>>,
    W: Within,
{
    /// Calls the handler, which returns a future that has yet to be polled.
    fn begin(&mut self, lane: &Arc<Lane<T>>, mut taken: Taken<PendingDelivery<T>>, began_ns: u64) {
        let names = self.names.get_or_insert_with(|| {
            Arc::new(Names {
                topic: Arc::clone(&lane.topic.name),
                subscription: Arc::clone(&lane.name),
                lane: Arc::downgrade(lane) as _,
                #[cfg(feature = "log")]
                outbox: lane.shared_outbox(),
                gaps: lane.gaps.clone(),
            })
        });
        let timer_ns = lane.engine().clock.timer_ns();
        let item = &mut taken.item;
        let attempts = item.begin(began_ns);
        let delivery = OwnedDelivery {
            batch: Arc::clone(&item.batch),
            index: usize::from(item.index),
            attempt: attempts.number,
            generation: item.generation,
            #[cfg(feature = "log")]
            call: names
                .outbox
                .as_ref()
                .map(|outbox| outbox.begin(item.id().get())),
            names: Arc::clone(names),
            now_ns: began_ns,
        };
        lane.tell_attempts(iter::once(item.id()), attempts);
        lane.books.record(Status::Queued, Step::Start, 1);
        let (future, was_refused) = context::calling(lane.topic.engine.id(), |refused| {
            let call = || (**self.handler)(delivery);
            (contain(|| self.within.call(call)), refused.get())
        });
        let panic = match future {
            Ok(future) => {
                self.future.set(Some(future));
                None
            }
            Err(panic) => Some(Arc::new(Contained::new(FailureCause::Panic(panic)))),
        };
        self.begun = Some(Begun {
            taken,
            began_ns,
            due_ns: match lane.timeout_ns.get() {
                NEVER => NEVER,
                timeout_ns => timer_ns.saturating_add(timeout_ns),
            },
            alarm: TimerKey::NONE,
            was_refused,
            panic,
        });
    }

    /// Polls the call, unless its time is up. Returns its failure, if it failed, when it has ended. A
    /// call that is past its deadline has timed out, whatever it returns.
    fn poll(
        &mut self,
        waker: &Waker,
        slot: &Arc<ConsumerSlot<T>>,
        engine: &Engine,
    ) -> Option<Option<FailedCall>> {
        let begun = self.begun.as_mut()?;
        let is_overdue = |due_ns| due_ns != NEVER && engine.clock.timer_ns() >= due_ns;
        if begun.alarm != TimerKey::NONE && is_overdue(begun.due_ns) {
            let failed_call = FailedCall::new(0, FailureCause::TimedOut, begun.was_refused);
            return Some(Some(failed_call));
        }
        if let Some(cause) = begun.panic.take() {
            let by_shutdown = begun.was_refused;
            let failed_call = FailedCall {
                at: 0,
                cause,
                by_shutdown,
            };
            return Some(Some(failed_call));
        }
        let polled = match self.future.as_mut().as_pin_mut() {
            Some(future) => context::calling(engine.id(), |refused| {
                let poll = || future.poll(&mut Context::from_waker(waker));
                let polled = contain(|| self.within.call(poll));
                begun.was_refused |= refused.get();
                polled
            }),
            None => Err(String::new()),
        };
        let cause = match polled {
            Ok(Poll::Pending) if is_overdue(begun.due_ns) => Some(FailureCause::TimedOut),
            Ok(Poll::Pending) => {
                if begun.due_ns != NEVER && begun.alarm == TimerKey::NONE {
                    let target = Arc::clone(slot) as _;
                    begun.alarm = engine.timer.insert(begun.due_ns, Tag::Look, target);
                }
                return None;
            }
            Ok(Poll::Ready(outcome)) if is_overdue(begun.due_ns) => {
                // Its error is the user's.
                discard(outcome);
                Some(FailureCause::TimedOut)
            }
            Ok(Poll::Ready(outcome)) => outcome.err().map(FailureCause::Nack),
            Err(panic) => Some(FailureCause::Panic(panic)),
        };
        Some(cause.map(|cause| FailedCall::new(0, cause, begun.was_refused)))
    }

    fn settle(&mut self, keyed: KeyedLane<'_, T>, failed_call: Option<FailedCall>, now_ns: u64) {
        self.drop_future();
        let Some(begun) = self.begun.take() else {
            return;
        };
        let Begun {
            taken,
            began_ns,
            alarm,
            ..
        } = begun;
        if alarm != TimerKey::NONE {
            keyed.lane.engine().timer.cancel(alarm);
        }
        if let Some(failed_call) = &failed_call
            && matches!(**failed_call.cause, FailureCause::TimedOut)
        {
            keyed.keyed.state.lock().leases.timed_out += 1;
        }
        let error = &mut self.last_error;
        keyed.settle_alone(error, taken, failed_call, (began_ns, now_ns));
    }

    /// Drops the future in its place, and contains a panic as
    /// [`discard`](crate::engine::base::contain::discard) does.
    ///
    /// A hook may refuse to call what it is to call. The future is dropped all the same.
    fn drop_future(&mut self) {
        let _ = contain(|| self.within.call(|| self.future.set(None)));
        if W::MAY_REFUSE {
            let _ = contain(|| self.future.set(None));
        }
    }

    /// Ends the call where it stands, and its delivery with it, because the lane is being
    /// cancelled.
    fn cancel(&mut self, keyed: KeyedLane<'_, T>) {
        let Some(Begun { taken, alarm, .. }) = self.begun.take() else {
            return;
        };
        keyed.lane.engine().timer.cancel(alarm);
        self.drop_future();
        let Taken { key, mut item } = taken;
        let _motion = keyed.lane.books.motions.begin(1);
        item.remember_latest();
        item.attempts += 1;
        keyed.lane.end_pending(item, Status::Delivering);
        let mut settlements = Settlements::new(1);
        settlements.end(key);
        keyed.put_down(settlements);
    }
}

impl<T: Send + Sync + 'static> Wake for ConsumerSlot<T> {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if let Some(lane) = self.lane() {
            self.schedule(&lane.topic.engine);
        }
    }
}
