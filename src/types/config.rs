//! The choices a user has. Defaults and their reasons are on each of them.

use std::time::Duration;

/// What happens to a publish when the topic's queue is full, and nothing in it has
/// [expired](crate::TopicBuilder::ttl).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Overflow {
    /// [`PublishError::Full`](crate::PublishError::Full) hands the payload back.
    /// The default: the publisher knows at once, and nothing blocks or vanishes.
    #[default]
    Reject,
    /// Wait for room, at most so long, then
    /// [`PublishError::TimedOut`](crate::PublishError::TimedOut). Inside a handler
    /// it never waits but returns `Full` at once: a worker that waited for
    /// workers would never wake. Refused on a broker without worker threads.
    Block {
        /// The longest wait.
        timeout: Duration,
    },
    /// Drop the oldest messages still in the queue until there is room. The
    /// receipt says how many. Delayed messages keep their places: if they have all of
    /// them, a publish returns `Full`. What is dropped is freed with the batch that it was
    /// in, of up to 64 messages, once the last of those has gone.
    DropOldest,
    /// Accept the message and drop it. The receipt says so.
    DropNewest,
}

/// Where the messages without a key go in a topic that is split into partitions.
/// Messages of a batch or of a buffering publisher have none, and go as the chunks
/// that they were published in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unkeyed {
    /// All partitions get about as many messages: the default. Single ones go to one
    /// after the other, and a chunk to the one that has got the fewest in chunks. The
    /// counts stay within one chunk of each other, or one chunk per publisher where
    /// several race. There is no order between two of them, not even of one publisher.
    #[default]
    RoundRobin,
    /// All that one thread publishes to the same partition, so that its order is
    /// kept; a buffering publisher stays with the thread that made it. Threads are
    /// given partitions by turns, in the order in which they first publish so to any
    /// topic; few threads may fill partitions unevenly.
    Sticky,
}

/// What happens to messages of a topic without subscriptions. A message whose subscriptions
/// have all gone counts as one without, even if newer ones are open: it is unrouted, except
/// under [`Retain`](Self::Retain), where the open ones get it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum NoSubscribers {
    /// They are discarded and counted as *unrouted*. The default.
    #[default]
    Discard,
    /// They wait in the topic's queue, up to its capacity, for the first
    /// subscription: the one that comes while no other is open. Those that
    /// [expire](crate::TopicBuilder::ttl) meanwhile are dropped
    /// ([`DropCause::Expired`](crate::DropCause::Expired)).
    Retain,
    /// The publish is refused with
    /// [`PublishError::NoSubscribers`](crate::PublishError::NoSubscribers).
    Reject,
}

/// What happens to a delivery that nobody has handled in its time to live.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnExpired {
    /// It ends there, counted as *expired*. The default: what is too late is
    /// worth nothing to most.
    #[default]
    Drop,
    /// It goes to the dead letters of its subscription, as
    /// [`DeadReason::Expired`](crate::DeadReason::Expired), with the history of its
    /// attempts. A redrive has it handled after all. Its letter does not
    /// [park](OnExhausted::ParkKey) its key: those behind it may be in time.
    ///
    /// A message that expires in a topic without subscriptions has nobody whose
    /// letter it could be, and is dropped.
    DeadLetter,
}

/// What happens when a subscription's lane is full, and nothing that waits in it has
/// [expired](crate::TopicBuilder::ttl).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum LaneFull {
    /// The topic waits with all its messages, without occupying a worker, until
    /// the lane has room: nothing is lost, and in the end the publisher feels it
    /// through the topic's overflow policy. The default. The topic's other
    /// subscriptions wait with it.
    #[default]
    Wait,
    /// The oldest deliveries that wait in the lane for their first attempt are dropped,
    /// whoever is to take them. Those in the hands of the handler, on lease, waiting
    /// for a retry, due again or redriven are not: if they have all the places, the new
    /// ones are dropped.
    DropOldest,
    /// The new deliveries are dropped, for this subscription only.
    DropNewest,
    /// The new deliveries go to the dead letters, from where they can be redriven.
    DeadLetter,
}

/// What the failure of one delivery means for those behind it, in its subscription.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnFailure {
    /// Those behind it go on, and its retry comes after them. The default: one bad
    /// message delays nobody. While deliveries that are due again (or were redriven) and
    /// new ones wait, they take turns, one for one, those that came back in the order in
    /// which they did, so neither kind starves the other.
    #[default]
    Reorder,
    /// Those of the same key wait, wherever they are, until it has been handled or
    /// has ended otherwise; other keys, and messages without one, go on. So order
    /// per key survives failures. A key waits for as long as the retry policy
    /// grants attempts. Keys whose next delivery is due again and those whose next is new
    /// take turns, as under [`Reorder`](Self::Reorder).
    BlockKey,
    /// All of them wait. So the order of the whole subscription survives failures.
    BlockSubscription,
}

/// What follows under [`OnFailure::BlockKey`] when a delivery goes to the dead
/// letters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnExhausted {
    /// Its key is free: the next of it are delivered. The default.
    #[default]
    FreeKey,
    /// Its key is parked: those behind it join the dead letters, in order, for as
    /// long as the store has letters of that key and subscription. A
    /// [redrive](crate::DeadLetters::redrive) returns them in order, and what was
    /// published since follows.
    ///
    /// What never failed is not lost for want of room. Those behind push no letter out of a
    /// full store, whatever its [overflow policy](DeadLetterOverflow): they stay in the lane,
    /// counted as *held*, until a redrive or a purge has made room, and then join the others.
    /// Meanwhile they count against the subscription's
    /// [`hold`](crate::SubscriptionBuilder::hold) and capacity, so a store that nobody
    /// empties stops the subscription in the end. A drain waits for them, and cancels them when
    /// its time is up. A letter that a full store does not keep parks nothing, and those
    /// behind it are delivered. The same happens when another failure evicts the last letter of
    /// the key. Letters of those behind can be evicted then, too, under
    /// [`EvictOldest`](DeadLetterOverflow::EvictOldest); under
    /// [`EvictNewest`](DeadLetterOverflow::EvictNewest) only what failed can be lost.
    ParkKey,
}

/// What happens to the deliveries a subscription still has when it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unsubscribe {
    /// They are cancelled: counted, evented, never handled.
    Cancel,
    /// They go to the dead letters.
    DeadLetter,
    /// They are handled, retries included; what is left after `timeout` is
    /// cancelled. They are those that its lane has: messages still in the topic's
    /// queue come too late for it. On a broker without worker threads it handles
    /// what is due now.
    Drain {
        /// The longest wait.
        timeout: Duration,
    },
}

/// What a worker does when there is no work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Idle {
    /// One of them looks around for some tens of microseconds, then it parks too.
    /// The default: an idle broker costs nothing. The first message after a quiet
    /// moment has a thread to wake, which takes tens of microseconds.
    #[default]
    Park,
    /// One of those without work never stops looking, so that a message is handled
    /// within a microsecond or so. It occupies a core, which it offers to other
    /// threads every few thousand looks; leave one for it. Refused without worker
    /// threads.
    Spin,
}

/// Whether the latencies of deliveries are recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Histograms {
    /// Per subscription: time in the queue, in the handler, and both. The default:
    /// it costs a few nanoseconds per delivery, and 27 to 75 KB for each
    /// subscription that has had one.
    #[default]
    On,
    /// Latency summaries stay empty. Counts are kept all the same.
    Off,
}

/// What the dead-letter store does when it is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum DeadLetterOverflow {
    /// The oldest letter leaves. The default: what failed last tells most. Both
    /// ways the loss is counted (`letters_evicted`) and evented.
    #[default]
    EvictOldest,
    /// The new letter is not kept.
    EvictNewest,
}
