//! A subscription's side of the log: where it gets its messages from, and what it is done with.

use std::collections::{BTreeMap, VecDeque};

use crate::engine::base::task_state::TaskState;
use crate::engine::outbox::lane_outbox::LaneOutbox;
use crate::log::cursor::Cursor;
use crate::log::reader::TopicReader;
use crate::message::batch::BatchSlice;
use crate::pure::log::feed::Feed;
use crate::pure::log::ranges::Done;
use crate::sync::{Arc, Mutex};
use crate::types::durable::earlier::Earlier;

/// A subscription's side of the log.
pub(crate) struct LaneLog<T> {
    pub(crate) feed: Mutex<Feed>,
    /// The feeder is a task of its own.
    pub(crate) task: TaskState,
    /// Taken out while it runs.
    pub(crate) feeder: Mutex<Option<Feeder<T>>>,
    /// How many letters of an earlier process were put into the dead-letter store with it.
    pub(crate) letters: u64,
    /// The cursor, of a durable subscription.
    pub(crate) cursor: Option<Arc<Cursor>>,
    /// The outbox, of a durable subscription.
    pub(crate) outbox: Option<Arc<LaneOutbox>>,
}

/// The things that the feeder keeps between its turns. Only its task touches it.
pub(crate) struct Feeder<T> {
    pub(crate) reader: Option<TopicReader>,
    /// The message from which on it has read, and not handed over.
    pub(crate) next: u64,
    /// Messages that were read and are still to be handed over.
    pub(crate) held: VecDeque<Held<T>>,
    /// The past of the subscription when it came.
    pub(crate) past: Past,
}

/// The past of a subscription when it came, in earlier processes and in this one.
pub(crate) struct Past {
    /// The messages that it was done with.
    pub(crate) done: Done,
    /// How often its handler was called for others.
    pub(crate) failed: BTreeMap<u64, u32>,
    /// It may have had each message before this one.
    pub(crate) had_before: u64,
}

impl Past {
    /// Makes the past of a subscription that has had nothing.
    pub(crate) fn new(done: Done) -> Self {
        Self {
            done,
            failed: BTreeMap::new(),
            had_before: 0,
        }
    }

    /// Returns what the subscription had done with this message.
    pub(crate) fn of(&self, seq: u64) -> Earlier {
        Earlier {
            tried: self.failed.get(&seq).copied().unwrap_or(0),
            had: seq < self.had_before,
        }
    }
}

/// Messages that were read from the log.
pub(crate) struct Held<T> {
    pub(crate) part: BatchSlice<T>,
    /// The number of the message that comes after them.
    pub(crate) before: u64,
    /// The filter of the subscription has refused all of them. Otherwise it wants all of them.
    pub(crate) is_refused: bool,
}

impl<T> LaneLog<T> {
    /// Makes the side of a subscription that goes on behind what it is done with.
    ///
    /// `waits` says that the thread that acks waits for what was published with the ack.
    pub(crate) fn new(past: Past, cursor: Option<Arc<Cursor>>, waits: bool) -> Self {
        let next = past.done.next();
        let outbox = |cursor| Arc::new(LaneOutbox::new(cursor, waits));
        Self {
            outbox: cursor.clone().map(outbox),
            feed: Mutex::new(Feed::Behind { next }),
            task: TaskState::new(),
            feeder: Mutex::new(Some(Feeder {
                reader: None,
                next,
                held: VecDeque::new(),
                past,
            })),
            letters: 0,
            cursor,
        }
    }
}
