//! Messages on their way to the log.

use crate::log::waiters::Ticket;
#[cfg(feature = "async")]
use crate::log::waiters::task::Watch;
use crate::message::chunk::Chunk;
use crate::sync::atomic::AtomicU64;
use crate::sync::{Arc, Mutex};

/// Messages on their way to the log. Whoever publishes them and the hook of their group share it.
pub(crate) struct Job<T> {
    /// The messages, until the hook takes them, or their publisher takes them back.
    pub(crate) chunk: Mutex<Option<Chunk<T>>>,
    pub(crate) count: u64,
    /// The number of the first message, once it has one.
    pub(crate) first: AtomicU64,
    /// The ticket of the last message.
    pub(crate) last_ticket: u64,
}

impl<T> Job<T> {
    /// Takes back messages that the log has refused.
    pub(crate) fn take_back(&self) -> Chunk<T> {
        self.chunk.lock().take().unwrap_or(Chunk::EMPTY)
    }
}

/// Messages that are written when the group of their ticket is.
pub(crate) struct Submitted<T> {
    pub(crate) job: Arc<Job<T>>,
    pub(crate) ticket: Ticket,
    /// The wait of its future, if it is one.
    #[cfg(feature = "async")]
    pub(crate) watch: Watch,
}

impl<T> Submitted<T> {
    pub(crate) fn new(job: Arc<Job<T>>, ticket: Ticket) -> Self {
        Self {
            job,
            ticket,
            #[cfg(feature = "async")]
            watch: Watch::new(ticket),
        }
    }
}
