//! A subscription's side of the log: where it gets its messages from, and what it is done with.

use std::collections::VecDeque;

use crate::engine::base::task_state::TaskState;
use crate::log::cursor::Cursor;
use crate::log::reader::TopicReader;
use crate::message::batch::BatchSlice;
use crate::pure::log::feed::Feed;
use crate::pure::log::ranges::Done;
use crate::sync::{Arc, Mutex};

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
}

/// The things that the feeder keeps between its turns. Only its task touches it.
pub(crate) struct Feeder<T> {
    pub(crate) reader: Option<TopicReader>,
    /// The message from which on it has read, and not handed over.
    pub(crate) next: u64,
    /// Messages that were read and are still to be handed over.
    pub(crate) held: VecDeque<Held<T>>,
    /// Messages that the subscription was done with when it came.
    pub(crate) done: Done,
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
    /// Makes the side of a subscription that goes on behind `done`.
    pub(crate) fn new(done: Done, cursor: Option<Arc<Cursor>>) -> Self {
        Self {
            feed: Mutex::new(Feed::Behind { next: done.next() }),
            task: TaskState::new(),
            feeder: Mutex::new(Some(Feeder {
                reader: None,
                next: done.next(),
                held: VecDeque::new(),
                done,
            })),
            letters: 0,
            cursor,
        }
    }
}
