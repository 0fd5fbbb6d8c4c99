//! The settings that are choices. Each variant says whether it is the default, and why.

use std::time::Duration;

/// The policy for a publish into a full topic.
///
/// The policy applies when the topic's queue is full, and no message in it has
/// [expired](crate::TopicBuilder::ttl).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Overflow {
    /// Refuses the message: [`PublishError::Full`](crate::PublishError::Full) hands the payload
    /// back.
    ///
    /// This is the default: the publisher knows at once, and nothing blocks or vanishes.
    #[default]
    Reject,
    /// Waits for room until `timeout` has passed, then returns
    /// [`PublishError::TimedOut`](crate::PublishError::TimedOut).
    ///
    /// Inside a handler of the same broker the publish never waits, and returns `Full` at once. A
    /// worker that waited for workers would never wake. A broker without worker threads refuses
    /// this policy.
    Block {
        /// The longest wait.
        timeout: Duration,
    },
    /// Drops the oldest messages in the queue until there is room. The receipt says how many.
    ///
    /// Delayed messages keep their places. If they have all the places, a publish returns `Full`. A
    /// dropped message is freed with its batch of up to 64 messages, once the last of these has
    /// gone.
    DropOldest,
    /// Accepts the message and drops it. The receipt says so.
    DropNewest,
    /// Accepts the message, and makes it a dead letter of each subscription. The receipt says so.
    ///
    /// The reason is [`DeadReason::Overflow`](crate::dead_letters::DeadReason::Overflow). Each
    /// subscription that wants the message gets a letter, and a redrive hands it to that one. Filters
    /// are asked on the publisher's thread. The letters come before messages that wait in the queue,
    /// and a delayed message becomes a letter at once. Without subscriptions, the message is dropped.
    ///
    /// A publisher never waits. The store of letters bounds the memory, and its
    /// [policy](DeadLetterOverflow) says what goes when it is full. A buffer that has lingered keeps its
    /// messages until there is room. Durable topics refuse this policy.
    DeadLetter,
    /// Lets the message take the place of the older ones with its key that wait in the queue.
    ///
    /// The older ones are dropped ([`DropCause::Conflated`](crate::event::DropCause::Conflated)), and
    /// the receipt says how many. The message stands where the oldest of them stood. So a key that
    /// changes often neither starves the others nor waits longer than they do. The messages of a key
    /// keep their order.
    ///
    /// A message that finds none to replace is refused, as by [`Reject`](Self::Reject). That holds for
    /// one without a key, for a delayed one, and where no message of the key waits. So the newest value
    /// of a key is never lost. Delayed messages are not replaced before they are due. Give the topic
    /// room for all of its keys.
    ///
    /// A publish into the full queue looks through the keys of all messages that wait. Durable topics
    /// refuse this policy, and so do topics with [partitions](crate::TopicBuilder::partitions) or a
    /// [weight limit](crate::TopicBuilder::weight_limit).
    /// [`SubscriptionBuilder::conflate`](crate::SubscriptionBuilder::conflate) does the same in a
    /// lane, whether it is full or not.
    Conflate,
}

labels!(Overflow {
    Self::Reject => "reject",
    Self::Block { .. } => "block",
    Self::DropOldest => "drop_oldest",
    Self::DropNewest => "drop_newest",
    Self::DeadLetter => "dead_letter",
    Self::Conflate => "conflate",
});

/// The placement of messages without a key in a topic that is split into partitions.
///
/// The messages of a batch or of a buffering publisher have no key. They go as the chunks that they
/// were published in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unkeyed {
    /// Every partition gets about as many messages as the others. This is the default.
    ///
    /// Single messages go to the partitions by turns. A chunk goes to the partition that has
    /// received the fewest messages in chunks. These counts stay within one chunk of each other, or
    /// within one chunk per publisher where several race. There is no order between two messages,
    /// not even of one publisher.
    #[default]
    RoundRobin,
    /// Each publishing thread keeps one partition, so its own order is preserved.
    ///
    /// A buffering publisher keeps the partition of the thread that made it. Threads get their
    /// partitions round-robin, in the order in which they first publish to any topic with this
    /// setting. With few threads the load may be uneven.
    Sticky,
}

labels!(Unkeyed {
    Self::RoundRobin => "round_robin",
    Self::Sticky => "sticky",
});

/// The policy for messages of a topic without subscriptions.
///
/// A message whose subscriptions have all gone counts as one without, even if newer subscriptions
/// are open. It is unrouted, except under [`Retain`](Self::Retain), where the open subscriptions
/// get it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum NoSubscribers {
    /// The messages are discarded and counted as *unrouted*. This is the default.
    #[default]
    Discard,
    /// The messages wait in the topic's queue, up to its capacity, for the first subscription.
    ///
    /// The first subscription is the one that comes while no other is open. Messages that
    /// [expire](crate::TopicBuilder::ttl) meanwhile are dropped
    /// ([`DropCause::Expired`](crate::event::DropCause::Expired)).
    Retain,
    /// The publish is refused with
    /// [`PublishError::NoSubscribers`](crate::PublishError::NoSubscribers).
    Reject,
}

labels!(NoSubscribers {
    Self::Discard => "discard",
    Self::Retain => "retain",
    Self::Reject => "reject",
});

/// The policy for a delivery that was not handled within its time to live.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnExpired {
    /// The delivery ends there, counted as *expired*.
    ///
    /// This is the default: most programs have no use for a late delivery.
    #[default]
    Drop,
    /// The delivery becomes a dead letter of its subscription, with the history of its attempts.
    ///
    /// The reason is [`DeadReason::Expired`](crate::dead_letters::DeadReason::Expired). After a redrive it is
    /// handled all the same. Its letter does not [park](OnExhausted::ParkKey) its key: deliveries
    /// behind it may be in time.
    ///
    /// A message that expires in a topic without subscriptions has no subscription to be a letter
    /// of. It is dropped.
    DeadLetter,
}

labels!(OnExpired {
    Self::Drop => "drop",
    Self::DeadLetter => "dead_letter",
});

/// The policy for a full lane, which is the queue of one subscription.
///
/// The policy applies when no delivery that waits in the lane has
/// [expired](crate::TopicBuilder::ttl).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum LaneFull {
    /// The topic waits with all its messages until the lane has room. This is the default.
    ///
    /// Nothing is lost, and waiting occupies no worker. In the end the publisher feels it, through
    /// the topic's overflow policy. The topic's other subscriptions wait as well.
    #[default]
    Wait,
    /// The oldest deliveries that wait in the lane for their first attempt are dropped.
    ///
    /// Deliveries that are in flight, on lease, waiting for a retry, due again or redriven are not
    /// dropped. If they have all the places, the new deliveries are dropped.
    DropOldest,
    /// The new deliveries are dropped, for this subscription only.
    DropNewest,
    /// The new deliveries go to the dead letters, from where they can be redriven.
    DeadLetter,
    /// The subscription reads what it has missed from the log, once it has room (feature `log`).
    ///
    /// Nothing is lost, and nobody waits. It is the default of subscriptions that are
    /// [durable](crate::SubscriptionBuilder::durable) or start
    /// [from](crate::SubscriptionBuilder::from) an earlier message, and needs one of these. So a
    /// subscription to patterns can't have it.
    #[cfg(feature = "log")]
    CatchUp,
}

labels!(LaneFull {
    Self::Wait => "wait",
    Self::DropOldest => "drop_oldest",
    Self::DropNewest => "drop_newest",
    Self::DeadLetter => "dead_letter",
    #[cfg(feature = "log")]
    Self::CatchUp => "catch_up",
});

/// The effect of a failed delivery on later deliveries of its subscription.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnFailure {
    /// Later deliveries go on, and the retry comes after them.
    ///
    /// This is the default: one bad message delays nobody. Deliveries that came back (a due retry,
    /// or a redrive) and new ones take turns, one for one, while both wait. So neither kind starves
    /// the other. Deliveries that came back keep the order in which they did.
    #[default]
    Reorder,
    /// Later deliveries with the same key wait until the failed one has been handled or has ended
    /// otherwise.
    ///
    /// Other keys, and messages without a key, go on. So the order of each key survives failures. A
    /// key waits for as long as the retry policy grants attempts. Keys whose next delivery came
    /// back and keys whose next delivery is new take turns, as under [`Reorder`](Self::Reorder).
    BlockKey,
    /// All later deliveries wait. So the order of the whole subscription survives failures.
    BlockSubscription,
}

labels!(OnFailure {
    Self::Reorder => "reorder",
    Self::BlockKey => "block_key",
    Self::BlockSubscription => "block_subscription",
});

/// The fate of a key under [`OnFailure::BlockKey`] when a delivery of it goes to the dead letters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnExhausted {
    /// The key is released, and its later deliveries are handled. This is the default.
    #[default]
    FreeKey,
    /// The key is parked: its later deliveries join the dead letters behind it, in order.
    ///
    /// The key stays parked for as long as the store has letters of that key and subscription. A
    /// [redrive](crate::DeadLetters::redrive) returns them in order, and messages published since
    /// follow.
    ///
    /// A delivery that never failed is not lost for want of room. It pushes no letter out of a full
    /// store, whatever the [overflow policy](DeadLetterOverflow). It stays in the lane, counted as
    /// *held*, until a redrive or a purge makes room, and then joins the others.
    ///
    /// Meanwhile it counts against the subscription's [`hold`](crate::SubscriptionBuilder::hold)
    /// and its capacity. So a store that nobody empties stops the subscription in the end. A drain
    /// waits for such deliveries, and cancels them when its time is up.
    ///
    /// A letter that a full store does not keep parks nothing, and the deliveries behind it are
    /// handled. The same happens when another failure evicts the last letter of the key. Under
    /// [`EvictOldest`](DeadLetterOverflow::EvictOldest), letters of deliveries that never failed
    /// can then be evicted, too. Under [`EvictNewest`](DeadLetterOverflow::EvictNewest), only
    /// deliveries that failed can be lost.
    ParkKey,
}

labels!(OnExhausted {
    Self::FreeKey => "free_key",
    Self::ParkKey => "park_key",
});

/// The fate of the deliveries that a subscription still has when it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unsubscribe {
    /// The deliveries are cancelled: counted, reported as events, and never handled.
    Cancel,
    /// The deliveries go to the dead letters.
    DeadLetter,
    /// The deliveries are handled, retries included. Deliveries still left after `timeout` are
    /// cancelled.
    ///
    /// Only deliveries in the lane count: messages still in the topic's queue come too late for it.
    /// On a broker without worker threads, the call handles the deliveries that are due now.
    Drain {
        /// The longest wait.
        timeout: Duration,
    },
}

labels!(Unsubscribe {
    Self::Cancel => "cancel",
    Self::DeadLetter => "dead_letter",
    Self::Drain { .. } => "drain",
});

/// The behavior of workers that have no work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Idle {
    /// One idle worker looks for work for some tens of microseconds, then it parks like the others.
    ///
    /// This is the default: an idle broker costs nothing. The first message after a quiet moment
    /// has a thread to wake, which takes tens of microseconds.
    #[default]
    Park,
    /// One idle worker never stops looking, so that a message is handled within a microsecond or
    /// so.
    ///
    /// It occupies a core, which it offers to other threads every few thousand looks; leave one for
    /// it. A broker without worker threads refuses this setting.
    Spin,
}

labels!(Idle {
    Self::Park => "park",
    Self::Spin => "spin",
});

/// Whether the latencies of deliveries are recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Histograms {
    /// Each subscription records the time in the queue, the time in the handler, and both together.
    ///
    /// This is the default: it costs a few nanoseconds per delivery. It takes 27 to 75 KB for each
    /// subscription that has had a delivery.
    #[default]
    On,
    /// Latency summaries stay empty. Counts are kept all the same.
    Off,
}

labels!(Histograms {
    Self::On => "on",
    Self::Off => "off",
});

/// The policy of a full dead-letter store. Either way the loss is counted (`letters_evicted`) and
/// reported as an event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum DeadLetterOverflow {
    /// The oldest letter is evicted. This is the default: the latest failures tell most.
    #[default]
    EvictOldest,
    /// The new letter is not kept.
    EvictNewest,
}

labels!(DeadLetterOverflow {
    Self::EvictOldest => "evict_oldest",
    Self::EvictNewest => "evict_newest",
});
