//! Handlers whose calls for one batch run side by side, on a rayon pool of the subscription's own.
//! The process-wide pool is left alone: a call that blocks in it holds up everybody.

use std::cell::Cell;
use std::io;

use rayon::iter::{IntoParallelRefIterator, ParallelIterator};
use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::engine::base::contain::{Contained, contain};
use crate::engine::parts::handler::{BatchHandler, FailedCall, outcome};
use crate::engine::runtime::context::{self, EngineId, Inside};
use crate::message::Delivery;
use crate::message::nack::Nack;
use crate::sync::Arc;

/// A handler and the threads it runs on.
pub(crate) struct Parallel<F> {
    handler: F,
    pool: ThreadPool,
    engine: EngineId,
}

impl<F> Parallel<F> {
    pub(crate) fn new(
        handler: F,
        threads: usize,
        name: &str,
        engine: EngineId,
    ) -> io::Result<Self> {
        let name = name.to_owned();
        let pool = ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(move |number| format!("{name}-{number}"))
            // For as long as the thread lives, and for everything that the handler spreads over the
            // pool.
            .start_handler(move |_| Inside::enter_for_life(engine))
            .build();
        Ok(Self {
            handler,
            pool: pool.map_err(io::Error::other)?,
            engine,
        })
    }
}

impl<F> Parallel<F> {
    /// Calls the handler for each delivery, on the pool.
    fn call<T>(&self, deliveries: Vec<Delivery<'_, T>>, failed_calls: &mut Vec<FailedCall>)
    where
        T: Send + Sync,
        F: Fn(&Delivery<'_, T>) -> Result<(), Nack> + Send + Sync,
    {
        let (handler, engine) = (&self.handler, self.engine);
        let call = |delivery| {
            // On this thread of the pool, whose refusals these are.
            context::calling(engine, |refused| {
                let cause = outcome(contain(|| handler(delivery))).err()?;
                Some(FailedCall::new(0, cause, refused.get()))
            })
        };
        let outcomes: Vec<_> = self
            .pool
            .install(|| deliveries.par_iter().map(call).collect());
        let outcomes = outcomes.into_iter().enumerate();
        failed_calls.extend(
            outcomes.filter_map(|(at, failed_call)| Some(FailedCall { at, ..failed_call? })),
        );
    }
}

/// Lanes of several topics may share the handler and its pool.
impl<T, F> BatchHandler<T> for Arc<Contained<Parallel<F>>>
where
    T: Send + Sync,
    F: Fn(&Delivery<'_, T>) -> Result<(), Nack> + Send + Sync,
{
    fn call(
        &mut self,
        deliveries: Vec<Delivery<'_, T>>,
        _refused: &Cell<bool>,
        failed_calls: &mut Vec<FailedCall>,
    ) {
        Parallel::call(self, deliveries, failed_calls);
    }
}
