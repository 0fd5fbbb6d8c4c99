//! Calling the user's handlers, behind a wall that no panic gets past.
//!
//! The loop over a run of deliveries is compiled together with the closure it calls. So a run costs
//! one virtual call and one wall, and each delivery costs a direct call. A panic ends the wall's
//! part of the run; the rest has another one.

use std::cell::Cell;

use crate::engine::base::cell;
use crate::engine::base::contain::{Contained, contain, discard};
use crate::engine::parts::pending::Attempts;
use crate::engine::runtime::{Engine, context};
use crate::engine::wait::holds::Holds;
use crate::message::batch::Batch;
use crate::message::delivery_batch::DeliveryBatch;
use crate::message::error_text::error_text;
use crate::message::nack::Nack;
use crate::message::{Address, Delivery};
use crate::pure::policy::retry::FailureKind;
use crate::pure::policy::strategy::Batched;
use crate::pure::policy::verdict::NackAction;
use crate::pure::words::room::Room;
use crate::sync::{Arc, Weak};

/// Why a delivery failed.
pub(crate) enum FailureCause {
    Nack(Nack),
    Panic(String),
    /// A lease was dropped without being settled.
    Abandoned,
    /// A lease outlived its deadline.
    Overdue,
    /// A call outlived its handler's timeout.
    TimedOut,
}

/// One failed delivery of a run.
pub(crate) struct FailedCall {
    /// The delivery's place in the run.
    pub(crate) at: usize,
    pub(crate) cause: Arc<Contained<FailureCause>>,
    /// A publish of its handler was refused because the broker is ending.
    pub(crate) by_shutdown: bool,
}

impl FailedCall {
    pub(crate) fn new(at: usize, cause: FailureCause, by_shutdown: bool) -> Self {
        Self {
            at,
            cause: Arc::new(Contained::new(cause)),
            by_shutdown,
        }
    }
}

impl FailureCause {
    pub(crate) fn kind(&self) -> FailureKind {
        match self {
            Self::Nack(_) => FailureKind::Error,
            Self::Panic(_) => FailureKind::Panic,
            Self::Abandoned => FailureKind::Abandoned,
            Self::Overdue | Self::TimedOut => FailureKind::Timeout,
        }
    }

    pub(crate) fn action(&self) -> NackAction {
        match self {
            Self::Nack(nack) => nack.action(),
            Self::Panic(_) | Self::Abandoned | Self::Overdue | Self::TimedOut => NackAction::Policy,
        }
    }

    pub(crate) fn error(&self) -> Option<&(dyn std::error::Error + Send + Sync + 'static)> {
        match self {
            Self::Nack(nack) => nack.error(),
            Self::Panic(_) | Self::Abandoned | Self::Overdue | Self::TimedOut => None,
        }
    }

    /// Returns the text of it. Writing out an error runs the user's code, which may panic.
    pub(crate) fn text(&self) -> String {
        match self {
            Self::Nack(nack) => {
                let source = || nack.error().and_then(|error| error.source());
                contain(|| error_text(nack, source()))
                    .unwrap_or_else(|_| "an error that panics when it is printed".to_owned())
            }
            Self::Panic(text) => error_text(text, None),
            Self::Abandoned => "its lease was dropped without being settled".to_owned(),
            Self::Overdue => "it was not settled before its ack deadline".to_owned(),
            Self::TimedOut => "its handler did not end within its timeout".to_owned(),
        }
    }
}

/// Turns a handler's result, or its panic, into an outcome.
pub(crate) fn outcome(called: Result<Result<(), Nack>, String>) -> Result<(), FailureCause> {
    match called {
        Ok(Ok(())) => Ok(()),
        Ok(Err(nack)) => Err(FailureCause::Nack(nack)),
        Err(panic) => Err(FailureCause::Panic(panic)),
    }
}

/// Deliveries of one batch that stand next to each other, for one lane.
pub(crate) struct BatchRun<'a, T> {
    pub(crate) batch: &'a Batch<T>,
    pub(crate) from: usize,
    pub(crate) to: usize,
    pub(crate) attempt: u32,
    pub(crate) generation: u16,
    pub(crate) address: Address<'a>,
    pub(crate) now_ns: u64,
    pub(crate) room: &'a cell::Cell<Room>,
    /// The run ends with the first delivery that fails.
    pub(crate) until_fault: bool,
    /// So it does if the lane has a gate. The gate has to know of a failure before the next attempt.
    pub(crate) holds: &'a Holds,
}

impl<'a, T> BatchRun<'a, T> {
    fn ends_with_fault(&self) -> bool {
        self.until_fault || !self.holds.is_clear()
    }

    /// Returns the attempts of a run of first ones.
    pub(crate) fn attempts(&self) -> Attempts {
        Attempts {
            number: self.attempt,
            ..Attempts::first(self.now_ns)
        }
    }

    pub(crate) fn delivery(&self, index: usize) -> Delivery<'a, T> {
        Delivery {
            batch: self.batch,
            index,
            attempt: self.attempt,
            generation: self.generation,
            address: self.address,
            now_ns: self.now_ns,
        }
    }
}

/// A handler that takes deliveries one by one.
pub(crate) trait EachHandler<T>: Send {
    /// Calls the handler for the run, until the lane starts being cancelled. Returns how many calls
    /// were made.
    fn call(
        &mut self,
        run: &BatchRun<'_, T>,
        refused: &Cell<bool>,
        failed_calls: &mut Vec<FailedCall>,
    ) -> usize;
}

impl<T, F> EachHandler<T> for F
where
    F: FnMut(&Delivery<'_, T>) -> Result<(), Nack> + Send,
{
    fn call(
        &mut self,
        run: &BatchRun<'_, T>,
        refused: &Cell<bool>,
        failed_calls: &mut Vec<FailedCall>,
    ) -> usize {
        let mut delivery = run.delivery(run.from);
        // The count is kept outside of the wall, so that the call that panicked is known, and the
        // next one follows.
        let mut calls = 0;
        let failed_call = |calls, cause| FailedCall::new(calls - 1, cause, refused.get());
        loop {
            let called = contain(|| {
                while run.from + calls < run.to && !run.room.load().phase.ends_at_once() {
                    delivery.index = run.from + calls;
                    calls += 1;
                    // A refusal that an earlier call met at shutdown is not this call's.
                    refused.set(false);
                    if let Err(nack) = self(&delivery) {
                        failed_calls.push(failed_call(calls, FailureCause::Nack(nack)));
                        if run.ends_with_fault() {
                            break;
                        }
                    }
                }
            });
            match called {
                Ok(()) => return calls,
                Err(panic) => {
                    failed_calls.push(failed_call(calls, FailureCause::Panic(panic)));
                    if run.ends_with_fault() {
                        return calls;
                    }
                }
            }
        }
    }
}

/// A handler that takes deliveries in batches.
pub(crate) trait BatchHandler<T>: Send {
    /// Calls the handler once.
    fn call(
        &mut self,
        deliveries: Vec<Delivery<'_, T>>,
        refused: &Cell<bool>,
        failed_calls: &mut Vec<FailedCall>,
    );
}

impl<T, F> BatchHandler<T> for F
where
    F: FnMut(&mut DeliveryBatch<'_, T>) -> Result<(), Nack> + Send,
{
    fn call(
        &mut self,
        deliveries: Vec<Delivery<'_, T>>,
        refused: &Cell<bool>,
        failed_calls: &mut Vec<FailedCall>,
    ) {
        let count = deliveries.len();
        let mut batch = DeliveryBatch::new(deliveries);
        let called = contain(|| self(&mut batch));
        let by_shutdown = refused.get();
        match outcome(called) {
            Err(cause) => {
                // One by one: two that panic when dropped must not meet.
                batch.into_nacks().for_each(discard);
                let cause = Arc::new(Contained::new(cause));
                failed_calls.extend((0..count).map(|at| FailedCall {
                    at,
                    cause: Arc::clone(&cause),
                    by_shutdown,
                }));
            }
            Ok(()) => failed_calls.extend(batch.into_nacks().map(|(at, nack)| FailedCall {
                at,
                cause: Arc::new(Contained::new(FailureCause::Nack(nack))),
                by_shutdown,
            })),
        }
    }
}

/// A filter of the user's: whether a subscription wants a message.
pub(crate) type SharedFilter<T> = Arc<Contained<Box<Filter<T>>>>;
/// One that may be gone: its subscription's end takes it along.
pub(crate) type WeakFilter<T> = Weak<Contained<Box<Filter<T>>>>;
type Filter<T> = dyn Fn(&Delivery<'_, T>) -> bool + Send + Sync;

/// The handler of a lane.
pub(crate) enum Handler<T> {
    Each(Box<dyn EachHandler<T>>),
    Batch(Box<dyn BatchHandler<T>>, Batched),
    /// No handler of the lane's own: other consumers take from its keyed state.
    External,
}

impl<T> Handler<T> {
    /// Calls the handler for a run, whichever kind it is. Returns how many calls were made.
    pub(crate) fn call(
        &mut self,
        engine: &Engine,
        run: &BatchRun<'_, T>,
        failed_calls: &mut Vec<FailedCall>,
    ) -> usize {
        context::calling(engine.id(), |refused| match self {
            Self::Each(handler) => handler.call(run, refused, failed_calls),
            Self::Batch(handler, _) => {
                let deliveries = (run.from..run.to).map(|index| run.delivery(index));
                handler.call(deliveries.collect(), refused, failed_calls);
                run.to - run.from
            }
            Self::External => 0,
        })
    }

    /// Calls a handler that takes deliveries one by one for runs of one delivery each, until one fails
    /// or is not called. Returns how many calls were made.
    pub(crate) fn call_singly<'r>(
        &mut self,
        engine: &Engine,
        runs: impl Iterator<Item = BatchRun<'r, T>>,
        failed_calls: &mut Vec<FailedCall>,
    ) -> usize
    where
        T: 'r,
    {
        let Self::Each(handler) = self else {
            return 0;
        };
        context::calling(engine.id(), |refused| {
            let mut calls = 0;
            for run in runs {
                let called = handler.call(&run, refused, failed_calls);
                calls += called;
                if called == 0 || !failed_calls.is_empty() {
                    break;
                }
            }
            calls
        })
    }

    /// Calls a handler that takes batches, once.
    pub(crate) fn call_batch(
        &mut self,
        engine: &Engine,
        deliveries: Vec<Delivery<'_, T>>,
        failed_calls: &mut Vec<FailedCall>,
    ) {
        context::calling(engine.id(), |refused| match self {
            Self::Batch(handler, _) => handler.call(deliveries, refused, failed_calls),
            Self::Each(_) | Self::External => {
                unreachable!("only lanes of batch handlers accumulate")
            }
        })
    }
}
