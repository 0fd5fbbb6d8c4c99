//! A queue, and what whoever dispatches it needs: a topic has one of these, or one
//! for each of its partitions.

use super::baton::Baton;
use super::dispatch::Desk;
use super::expiry::Expiry;
use crate::batch::Parcel;
use crate::pure::schedule::Then;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Channel, Mutex, OnceLock, breakable, fence};

/// Who touches what: publishers the queue; the dispatcher, which is whoever holds
/// the baton, the desk.
pub(crate) struct Partition<T> {
    /// Bounded by the gate, exactly and in messages, which slots can't be: a slot
    /// may hold a chunk. Allocated with the first message, and grows with them.
    queue: OnceLock<Channel<Parcel<T>>>,
    pub(super) baton: Baton,
    /// Publishers whose message has a number below this need not ring: the
    /// dispatcher waits for more, or for something else.
    pub(super) quiet_below: AtomicU64,
    pub(super) desk: Mutex<Option<Box<Desk<T>>>>,
    /// When the first of what waits here expires, as far as that is known: of what its
    /// topic says how long it lives, only once a dispatcher has come to rest.
    pub(super) expiry: Expiry,
}

impl<T> Partition<T> {
    pub(super) fn new() -> Self {
        Self {
            queue: OnceLock::new(),
            baton: Baton::new(),
            quiet_below: AtomicU64::new(0),
            desk: Mutex::new(None),
            expiry: Expiry::new(),
        }
    }

    /// Pushes a parcel, given the number of its last message, and answers whether
    /// the dispatcher is to be put on the ready queue.
    #[inline(always)]
    pub(super) fn push(&self, parcel: Parcel<T>, last: u64, has_meta: bool) -> Then {
        if has_meta {
            return self.push_with_meta(parcel, last);
        }
        self.push_then(parcel, last, || false)
    }

    /// Pushes what may have a time to live of its own.
    #[inline(never)]
    fn push_with_meta(&self, parcel: Parcel<T>, last: u64) -> Then {
        let own_expires_ns = parcel.expires_ns(None);
        let expires_first = || own_expires_ns.is_some_and(|at_ns| self.expiry.note(at_ns));
        self.push_then(parcel, last, expires_first)
    }

    #[inline(always)]
    fn push_then(
        &self,
        parcel: Parcel<T>,
        last: u64,
        expires_first: impl FnOnce() -> bool,
    ) -> Then {
        self.queue.get_or_init(Channel::new).push(parcel);
        // ORDERING: pairs with the fence in `TopicCore::turn`: we pushed, now we
        // look whether the dispatcher wants to know; it says that it does, then
        // looks.
        breakable!("queue: push without a fence", fence(Ordering::SeqCst));
        if !expires_first() && last < self.quiet_below.load(Ordering::Relaxed) {
            return Then::Nothing;
        }
        self.baton.notify_fenced()
    }

    pub(super) fn pop(&self) -> Option<Parcel<T>> {
        self.queue.get()?.pop()
    }

    /// Slots of the queue that are taken.
    pub(super) fn slots(&self) -> usize {
        self.queue.get().map_or(0, Channel::len)
    }
}
