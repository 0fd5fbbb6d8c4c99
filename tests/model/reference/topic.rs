//! What becomes of a publish.

use millstream::{NoSubscribers, Overflow};

use super::{Admitted, Message, Model, Refused};

impl Model {
    pub fn admit(&mut self, wanted: usize) -> Result<Admitted, Refused> {
        if self.setup.no_subscribers == NoSubscribers::Reject && self.open().next().is_none() {
            self.rejected += wanted as u64;
            return Err(Refused::NoSubscribers);
        }
        let mut evicted = 0;
        loop {
            let inside = (self.queue.len() + self.delayed.len()) as u64;
            let capacity = self.setup.capacity as u64;
            if self.issued - self.seen >= capacity {
                self.seen = self.issued - inside;
            }
            let room = capacity.saturating_sub(self.issued - self.seen);
            let count = wanted.min(room as usize);
            if count > 0 {
                return Ok(Admitted::Queued { count, evicted });
            }
            if self.expire_in_queue() {
                continue;
            }
            match self.setup.overflow {
                Overflow::DropNewest => {
                    self.dropped += wanted as u64;
                    return Ok(Admitted::Dropped { count: wanted });
                }
                Overflow::DropOldest if !self.queue.is_empty() => evicted += self.evict(wanted),
                _ => {
                    self.rejected += wanted as u64;
                    return Err(Refused::Full);
                }
            }
        }
    }

    /// Drops the oldest, no more than there shall be room for.
    pub fn evict(&mut self, wanted: usize) -> usize {
        let count = wanted.min(self.queue.len());
        self.queue.drain(..count);
        self.dropped += count as u64;
        count
    }

    pub fn accept(&mut self, delay: u64, key: Option<u8>, ttl: Option<u64>) -> Message {
        self.issued += 1;
        let accepted = self.now + delay;
        let message = Message {
            id: self.issued,
            accepted,
            key,
            expires: ttl.or(self.setup.ttl).map(|ttl| accepted + ttl),
        };
        self.messages.insert(message.id, message);
        message
    }
}
