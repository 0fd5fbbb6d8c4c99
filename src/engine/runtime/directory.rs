//! Topics and subscriptions to patterns as the engine knows them, of any payload type.

use std::any::Any;

use crate::engine::base::cell::{Cell, Setting};
use crate::engine::base::contain::{SharedPolicy, SharedStrategy};
use crate::engine::runtime::Engine;
use crate::engine::wait::holds::Hold;
use crate::message::MessageId;
use crate::message::meta::Meta;
use crate::observe::event::EventKind;
use crate::observe::metrics::TopicMetrics;
use crate::pure::policy::dedup::Dedup;
use crate::pure::policy::retained::Retain;
use crate::pure::protect::rate::RateLimit;
use crate::pure::words::Packed;
use crate::pure::words::ending::Refuse;
use crate::pure::words::handles::Handles;
use crate::sync::{Arc, Mutex};
use crate::types::config::{
    DeadLetterOverflow, LaneFull, NoSubscribers, OnExpired, Overflow, Unkeyed,
};
use crate::types::duration::nanos;
use crate::types::reason::DeadReason;

use std::num::NonZeroU64;
use std::time::Duration;

/// The work that is still to be done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Survey {
    /// Messages and deliveries that somebody can and will work on now.
    pub(crate) moving: u64,
    /// Retries and delayed messages that wait for their time.
    pub(crate) parked: u64,
    /// A number that grows with everything that happens. So two equal surveys mean that nothing
    /// happened in between.
    pub(crate) activity: u64,
}

/// Settings of a topic that stand, checked.
#[derive(Clone, Debug)]
pub(crate) struct TopicSettings {
    pub(crate) no_subscribers: NoSubscribers,
    pub(crate) on_expired: OnExpired,
    pub(crate) letters: usize,
    pub(crate) letter_overflow: DeadLetterOverflow,
    pub(crate) partitions: Option<Partitions>,
}

impl TopicSettings {
    /// Returns whether a publisher has to look at nothing but the gate and the queue.
    pub(crate) fn is_plain(&self) -> bool {
        self.partitions.is_none() && self.no_subscribers != NoSubscribers::Reject
    }
}

/// A time to live in nanoseconds, if there is one.
pub(crate) type Ttl = Option<NonZeroU64>;

/// Settings of a topic that may change while traffic runs, checked, as they are at one time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LiveSettings {
    pub(crate) capacity: u64,
    pub(crate) overflow: Overflow,
    pub(crate) ttl: Ttl,
    pub(crate) lane_capacity: u32,
    pub(crate) dedup: Option<Dedup>,
    pub(crate) weight_limit: Option<u64>,
    pub(crate) rate: Option<RateLimit>,
    /// Stands, unlike the others.
    pub(crate) retain: Option<Retain>,
}

/// Settings of a topic that may change while traffic runs.
pub(crate) struct Live {
    pub(crate) capacity: Setting<u64>,
    pub(crate) overflow: Setting<Overflow>,
    /// The time to live of messages that enter the queue now. Each batch keeps its own.
    pub(crate) ttl: Setting<Ttl>,
    pub(crate) lane_capacity: Setting<u32>,
}

impl Live {
    pub(crate) fn new(first: LiveSettings) -> Self {
        Self {
            capacity: Setting::new(first.capacity),
            overflow: Setting::new(first.overflow),
            ttl: Setting::new(first.ttl),
            lane_capacity: Setting::new(first.lane_capacity),
        }
    }

    /// Returns the settings now, without those that the topic has elsewhere.
    pub(crate) fn now(&self) -> LiveSettings {
        LiveSettings {
            capacity: self.capacity.get(),
            overflow: self.overflow.get(),
            ttl: self.ttl.get(),
            lane_capacity: self.lane_capacity.get(),
            dedup: None,
            weight_limit: None,
            rate: None,
            retain: None,
        }
    }
}

/// The longest timeout that fits a word beside what policy it is.
const LONGEST_NS: u64 = u64::MAX >> 3;

/// The low bits say which it is, and the others are the timeout in nanoseconds. A timeout above 73
/// years is read as the longest there is.
impl Packed for Overflow {
    fn pack(self) -> u64 {
        match self {
            Self::Reject => 0,
            Self::DropOldest => 1,
            Self::DropNewest => 2,
            Self::DeadLetter => 4,
            Self::Conflate => 5,
            Self::Block { timeout } => nanos(timeout).min(LONGEST_NS) << 3 | 3,
        }
    }

    fn unpack(word: u64) -> Self {
        match word & 7 {
            0 => Self::Reject,
            1 => Self::DropOldest,
            2 => Self::DropNewest,
            4 => Self::DeadLetter,
            5 => Self::Conflate,
            _ => Self::Block {
                timeout: match word >> 3 {
                    LONGEST_NS => Duration::MAX,
                    timeout_ns => Duration::from_nanos(timeout_ns),
                },
            },
        }
    }
}

impl Packed for LaneFull {
    fn pack(self) -> u64 {
        self as u64
    }

    #[inline(always)]
    fn unpack(word: u64) -> Self {
        const ALL: &[LaneFull] = &[
            LaneFull::Wait,
            LaneFull::DropOldest,
            LaneFull::DropNewest,
            LaneFull::DeadLetter,
            #[cfg(feature = "log")]
            LaneFull::CatchUp,
        ];
        ALL[word as usize % ALL.len()]
    }
}

/// The number of a topic's partitions, and where messages without a key go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Partitions {
    pub(crate) count: u16,
    pub(crate) unkeyed: Unkeyed,
}

/// A topic of any payload type.
pub(crate) trait AnyTopic: Send + Sync {
    fn name(&self) -> &Arc<str>;
    fn payload_type(&self) -> &'static str;
    fn into_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync>;
    fn handles(&self) -> &Cell<Handles>;
    fn settings(&self) -> &TopicSettings;
    fn live(&self) -> LiveSettings;
    /// Returns whether it has lanes, even if they are ending.
    fn has_lanes(&self) -> bool;
    /// Returns what it contains that forbids removing it.
    fn contents(&self) -> Option<&'static str>;
    /// Refuses publishes from here on, from outside of handlers or from everybody, and lets waiters
    /// know.
    fn close(self: Arc<Self>, whom: Refuse);
    fn survey(&self) -> Survey;
    /// Returns the addresses of the targets of its deadlines: its own, and those of its lanes.
    fn targets(&self) -> Vec<usize>;
    /// Refuses subscriptions, and cancels from now on what it has.
    fn stop(&self);
    /// Returns the lock that is held while it is drained.
    fn draining(&self) -> &Mutex<()>;
    /// Returns how many delayed messages were dropped and stay in the log.
    fn kept(&self) -> u64;
    /// Adds to the losses of its drains, and returns their sum.
    fn note_cut_off(&self, count: u64) -> u64;
    /// Ends everything that no worker runs, after the broker has stopped, or the topic was drained or
    /// removed.
    fn end(self: Arc<Self>, engine: &Engine);
    /// Lets go of lanes and handlers, for the end of the broker.
    fn release_user_code(&self);
    /// Lets go of its strategy and retry policy, which are no longer called.
    fn release_settings(&self);
    fn metrics(&self) -> TopicMetrics;
    fn strategy(&self) -> SharedStrategy;
    fn retry(&self) -> SharedPolicy;
    /// Returns how many letters are in its store of dead letters.
    fn letter_count(&self) -> usize;
    /// Returns its dead letters, oldest first.
    fn letters(&self) -> Vec<Arc<dyn AnyLetter>>;
    /// Forgets the letter that arrived with this number. Returns whether it was there.
    fn purge_letter(&self, arrival: u64) -> bool;
    /// Pauses all present and future lanes, or ends that pause.
    fn set_paused(&self, by: Hold, is_paused: bool);
    fn swap_strategy(self: Arc<Self>, strategy: SharedStrategy);
    /// Tells observers of something that happened to it.
    fn announce(&self, kind: EventKind);
    /// Tells observers of the lanes that it was opened with.
    fn announce_lanes(&self);
}

/// A dead letter of any payload type.
pub(crate) trait AnyLetter: Send + Sync {
    /// Its number in its store.
    fn arrival(&self) -> u64;
    fn id(&self) -> MessageId;
    fn accepted_ns(&self) -> u64;
    fn meta(&self) -> Option<&Meta>;
    fn subscription(&self) -> &str;
    fn reason(&self) -> DeadReason;
    fn error(&self) -> Option<&str>;
    fn attempts(&self) -> u32;
    fn generation(&self) -> u16;
    fn buried_ns(&self) -> u64;
}

/// All subscriptions to patterns. Under this lock, names of subscriptions are given out, and topics
/// are put on the map and taken off.
pub(crate) type PatternSubs = Mutex<Vec<Arc<dyn AnyPatternSub>>>;

/// A subscription to patterns, for topics of any payload type. Callers hold the lock of the pattern
/// subscriptions, except for the last two methods.
pub(crate) trait AnyPatternSub: Send + Sync {
    fn name(&self) -> &str;
    /// Gives the topic a lane if it matches. Nobody can find the topic yet.
    fn on_topic_opened(&self, topic: &Arc<dyn AnyTopic>);
    /// Reacts to a topic that is off the map. Returns `true` if it had a lane, which will end.
    fn on_topic_removed(&self, topic: &str) -> bool;
    /// Lets go of lanes that have ended, and keeps their counts.
    fn reap_ended(&self);
    /// Makes no more lanes, and lets go of its handler and its policy.
    fn release_user_code(&self);
}
