//! Handlers whose calls for one batch run side by side, on a rayon pool of the
//! subscription's own. The process-wide pool is left alone: whoever blocks in it
//! holds up everybody.

use std::io;

use rayon::iter::{IntoParallelRefIterator, ParallelIterator};
use rayon::{ThreadPool, ThreadPoolBuilder};

use super::context::{self, Inside};
use super::handler::{BatchHandler, Fault, attempt};
use crate::message::Delivery;
use crate::nack::Nack;

/// A handler and the threads it runs on.
pub(crate) struct Parallel<F> {
    handler: F,
    pool: ThreadPool,
}

impl<F> Parallel<F> {
    pub(crate) fn new(handler: F, threads: usize, name: &str) -> io::Result<Self> {
        let name = name.to_owned();
        let pool = ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(move |number| format!("{name}-{number}"))
            // For as long as the thread lives, and whatever the handler spreads
            // over the pool.
            .start_handler(|_| std::mem::forget(Inside::enter()))
            .build();
        Ok(Self {
            handler,
            pool: pool.map_err(io::Error::other)?,
        })
    }
}

impl<T, F> BatchHandler<T> for Parallel<F>
where
    T: Send + Sync,
    F: Fn(&Delivery<'_, T>) -> Result<(), Nack> + Send + Sync,
{
    fn call(&mut self, deliveries: Vec<Delivery<'_, T>>, faults: &mut Vec<Fault>) {
        let handler = &self.handler;
        let call = |delivery| {
            context::take_refusal();
            attempt(0, || handler(delivery))
        };
        let outcomes: Vec<_> = self
            .pool
            .install(|| deliveries.par_iter().map(call).collect());
        let outcomes = outcomes.into_iter().enumerate();
        faults.extend(outcomes.filter_map(|(at, fault)| Some(Fault { at, ..fault? })));
    }
}
