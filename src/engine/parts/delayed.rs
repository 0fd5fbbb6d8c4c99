//! Delayed messages: those on the timer wheel, before they enter the queue.

use std::collections::HashMap;
#[cfg(feature = "log")]
use std::collections::VecDeque;
use std::hash::{BuildHasherDefault, Hasher};

use crate::message::MessageId;
use crate::message::batch::Accepted;
use crate::message::meta::Meta;
use crate::pure::wheel::TimerKey;
use crate::pure::wheel::arena::Arena;

/// A message on the timer wheel, by `publish_after`.
pub(crate) struct Delayed<T> {
    pub(crate) message: Accepted<T>,
    pub(crate) meta: Option<Box<Meta>>,
    pub(crate) timer: TimerKey,
    pub(crate) route: Option<u64>,
}

/// Hashes ids, which the topic gives out itself: nobody can choose ids that collide.
#[derive(Default)]
pub(crate) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes
            .iter()
            .for_each(|byte| self.write_u64(u64::from(*byte)));
    }

    fn write_u64(&mut self, number: u64) {
        // An odd number without a pattern spreads neighbors over the upper bits.
        self.0 = (self.0 ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

/// The messages on the timer wheel, by the tag of their timer.
pub(crate) struct DelayedMessages<T> {
    /// Each in a box: a page of large payloads would overflow a stack.
    messages: Arena<Box<Delayed<T>>>,
    tags: HashMap<MessageId, u32, BuildHasherDefault<IdHasher>>,
    /// Messages of a durable topic that are due, and still to be published in the log.
    #[cfg(feature = "log")]
    pub(crate) due: VecDeque<Box<Delayed<T>>>,
}

impl<T> DelayedMessages<T> {
    pub(crate) fn new() -> Self {
        Self {
            messages: Arena::new(),
            tags: HashMap::default(),
            #[cfg(feature = "log")]
            due: VecDeque::new(),
        }
    }

    /// Adds a message, whose timer `set_timer` sets for this tag.
    pub(crate) fn add(
        &mut self,
        message: Box<Delayed<T>>,
        set_timer: impl FnOnce(u32) -> TimerKey,
    ) {
        let id = message.message.stamp.id;
        let tag = self.messages.insert(message);
        self.tags.insert(id, tag);
        let timer = set_timer(tag);
        if let Some(message) = self.messages.get_mut(tag) {
            message.timer = timer;
        }
    }

    /// Takes out the message with this tag.
    pub(crate) fn take(&mut self, tag: u32) -> Option<Box<Delayed<T>>> {
        let message = self.messages.remove(tag)?;
        self.tags.remove(&message.message.stamp.id);
        Some(message)
    }

    /// Takes out a message, if `cancel` takes its timer back.
    pub(crate) fn take_back(
        &mut self,
        id: MessageId,
        cancel: impl FnOnce(TimerKey) -> bool,
    ) -> Option<Box<Delayed<T>>> {
        let tag = *self.tags.get(&id)?;
        let timer = self.messages.get(tag)?.timer;
        cancel(timer).then(|| self.take(tag)).flatten()
    }

    /// Takes out everything that is on the timer wheel.
    pub(crate) fn take_all(&mut self) -> Vec<Box<Delayed<T>>> {
        self.tags = HashMap::default();
        self.messages.drain().collect()
    }
}
