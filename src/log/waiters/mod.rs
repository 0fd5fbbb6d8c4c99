//! The threads and tasks that wait for a group.
//!
//! Each brings a slot of its own, in which it is told. So nobody queues for the lock of the log to
//! learn what it waits for.

#[cfg(feature = "async")]
pub(crate) mod task;

use crate::pure::log::step;
use crate::sync::{Arc, Condvar, Mutex};
use crate::types::error::store::StoreError;

/// The group that a record is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket(pub(crate) u64);

/// The result of a group.
pub(crate) type Written = Result<(), StoreError>;

/// The news for a thread that waits for a group.
pub(crate) enum Told {
    Finished(Written),
    /// Nobody leads but this thread. It has to write the group.
    Leads,
}

/// A thread that waits for a group.
pub(crate) struct Sleeper {
    told: Mutex<Option<Told>>,
    is_told: Condvar,
}

impl Sleeper {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            told: Mutex::new(None),
            is_told: Condvar::new(),
        })
    }

    /// Returns when somebody has told it.
    pub(crate) fn wait(&self) -> Told {
        let mut told = self.told.lock();
        loop {
            if let Some(told) = told.take() {
                return told;
            }
            self.is_told.wait(&mut told, None);
        }
    }

    pub(crate) fn tell(&self, what: Told) {
        *self.told.lock() = Some(what);
        self.is_told.notify_one();
    }
}

/// The threads and tasks that wait for the group that is being written, and for the open one.
#[derive(Default)]
pub(crate) struct Waiting([Waiters; 2]);

impl Waiting {
    /// Returns those who wait for a group. Numbers of groups that differ by two share them.
    pub(crate) fn of(&mut self, group: u64) -> &mut Waiters {
        &mut self.0[(group % 2) as usize]
    }
}

/// The threads and tasks that wait for one group.
#[derive(Default)]
pub(crate) struct Waiters {
    sleepers: Vec<Arc<Sleeper>>,
    #[cfg(feature = "async")]
    tasks: Vec<Arc<task::Slot>>,
}

impl Waiters {
    /// Adds the calling thread, which is to wait for what it is told.
    pub(crate) fn add_sleeper(&mut self) -> Arc<Sleeper> {
        let sleeper = Sleeper::new();
        self.sleepers.push(Arc::clone(&sleeper));
        sleeper
    }

    /// Takes out a thread that can lead.
    pub(crate) fn take_sleeper(&mut self) -> Option<Arc<Sleeper>> {
        self.sleepers.pop()
    }

    /// Tells them that their group is finished, and leaves none. No lock may be held, because
    /// wakers are the user's.
    pub(crate) fn finish(&mut self, result: &Written) {
        for sleeper in self.sleepers.drain(..) {
            step!(
                "tell the group",
                sleeper.tell(Told::Finished(result.clone()))
            );
        }
        #[cfg(feature = "async")]
        for task in self.tasks.drain(..) {
            step!("wake the tasks", task.finish(result));
        }
    }
}
