//! Chapters: the guarantees, the limits, and how-to guides.
//!
//! They exist only while documentation is built: a program that uses the crate carries none
//! of them.

/// A chapter, and the items of the reference that belong to it.
///
/// Chapters link to each other by name. Each file says itself where a name leads, for those who
/// read it as a file. Here the name leads to a module, and the first of the two counts.
macro_rules! chapter {
    ($name:ident, $file:literal, $summary:literal, [$($($item:ident)::+),+]) => {
        #[doc = $summary]
        #[doc = ""]
        #[doc = "[failures]: crate::docs::failures"]
        #[doc = "[guarantees]: crate::docs::guarantees"]
        #[doc = "[limits]: crate::docs::limits"]
        #[doc = "[memory]: crate::docs::memory"]
        #[doc = "[overload]: crate::docs::overload"]
        #[doc = ""]
        #[doc = include_str!($file)]
        #[doc = "\n## In the reference\n"]
        $(#[doc = concat!(
            "- [`",
            stringify!($($item)::+),
            "`](crate::",
            stringify!($($item)::+),
            ")"
        )])+
        pub mod $name {}
    };
}

chapter!(
    guarantees,
    "guarantees.md",
    "Each promise, with the tests that hold it.",
    [
        Metrics,
        event::Status,
        OnFailure,
        Overflow,
        NoSubscribers,
        metrics::DrainReport
    ]
);
chapter!(
    limits,
    "limits.md",
    "Each limit, with what to do about it.",
    [LaneFull, OnFailure, OnExhausted, Nack, MAX_PAYLOAD]
);
chapter!(
    cookbook,
    "cookbook.md",
    "Twenty-two recipes of at most 25 lines.",
    [
        Broker,
        Topic,
        Subscription,
        PullSubscription,
        Metrics,
        event::Event
    ]
);
chapter!(
    delivery,
    "delivery.md",
    "How to choose the shape of delivery.",
    [
        SubscriptionBuilder,
        ConsumerGroup,
        PullSubscription,
        Lease,
        PatternSubscription,
        Unkeyed
    ]
);
chapter!(
    failures,
    "failures.md",
    "How to retry, dead-letter and redrive.",
    [
        Nack,
        Backoff,
        retry::RetryPolicy,
        OnFailure,
        OnExhausted,
        DeadLetters,
        dead_letters::DeadLetterOverflow
    ]
);
#[cfg(feature = "log")]
chapter!(
    durability,
    "durability.md",
    "How messages outlive the process, and what that costs.",
    [
        store::Store,
        store::Durability,
        store::Start,
        store::Retention,
        TopicBuilder
    ]
);
chapter!(
    overload,
    "overload.md",
    "How to bound what a busy program holds.",
    [
        Overflow,
        LaneFull,
        NoSubscribers,
        OnExpired,
        BufferedPublisher,
        Batched
    ]
);
chapter!(
    protection,
    "protection.md",
    "How to survive a dependency that is down, slow or limited.",
    [
        protect::Breaker,
        protect::Limiter,
        protect::Priorities,
        protect::RateLimit,
        protect::RetryBudget,
        metrics::WaitingFor
    ]
);
chapter!(
    shutdown,
    "shutdown.md",
    "How to end in good order.",
    [
        Broker,
        metrics::DrainReport,
        error::DrainError,
        Unsubscribe,
        Unsubscribed
    ]
);
chapter!(
    speed,
    "speed.md",
    "How fast it is, by what measure, and where it loses.",
    [Topic, BufferedPublisher, pull::LeaseBatch, Idle, Histograms]
);
chapter!(
    memory,
    "memory.md",
    "How many bytes things take, and what bounds them.",
    [TopicBuilder, SubscriptionBuilder, BrokerBuilder, Histograms]
);
chapter!(
    features,
    "features.md",
    "All features in one list.",
    [
        Broker,
        Topic,
        Subscription,
        strategy::Strategy,
        retry::RetryPolicy,
        event::EventKind
    ]
);
chapter!(
    verification,
    "verification.md",
    "How the crate is tested, and how to test with it.",
    [ManualClock, BrokerBuilder]
);
