//! What becomes of a publish.

use millstream::dead_letters::DeadReason;
use millstream::protect::Priority;
use millstream::{NoSubscribers, Overflow};

use super::{Admitted, Message, Model, Refused, Tried};

impl Model {
    /// The weight of all that is in the topic.
    pub fn held(&self) -> u64 {
        let delayed = self.delayed.iter().map(|(_, message)| message);
        let inside = self.queue.iter().chain(delayed);
        inside.map(|message| message.weight).sum()
    }

    /// How many of these fit by their weight, from the front.
    fn fit(&mut self, weights: &[u64]) -> Result<usize, Refused> {
        let Some(limit) = self.setup.weight_limit else {
            return Ok(weights.len());
        };
        let mut held = self.held();
        let fits = |weight: &&u64| {
            held += **weight;
            held <= limit || **weight == 0
        };
        let count = weights.iter().take_while(fits).count();
        if count == 0 && weights[0] > limit {
            return Err(Refused::TooHeavy);
        }
        self.short |= count == 0;
        Ok(count)
    }

    pub fn admit(&mut self, weights: &[u64]) -> Result<Admitted, Refused> {
        let wanted = weights.len();
        if self.setup.no_subscribers == NoSubscribers::Reject && self.open().next().is_none() {
            // They are weighed first, as a duplicate is, which needs nobody.
            let _ = self.fit(weights);
            self.rejected += wanted as u64;
            return Err(Refused::NoSubscribers);
        }
        let mut evicted = 0;
        loop {
            let fits = self.fit(weights)?;
            let inside = (self.queue.len() + self.delayed.len()) as u64;
            let capacity = self.setup.capacity as u64;
            if fits > 0 && self.issued - self.seen >= capacity {
                self.seen = self.issued - inside;
            }
            let room = capacity.saturating_sub(self.issued - self.seen);
            let count = fits.min(room as usize);
            if count > 0 {
                return Ok(Admitted::Queued { count, evicted });
            }
            if self.expire_in_queue() {
                continue;
            }
            match self.setup.overflow {
                Overflow::DeadLetter if self.open().next().is_some() => {
                    return Ok(Admitted::Lettered { count: wanted });
                }
                // Nobody has letters.
                Overflow::DropNewest | Overflow::DeadLetter => {
                    self.dropped += wanted as u64;
                    return Ok(Admitted::Dropped { count: wanted });
                }
                Overflow::DropOldest if !self.queue.is_empty() => {
                    // Where they are weighed, one at a time, because one may be enough.
                    let one = self.setup.weight_limit.map(|_| 1);
                    evicted += self.evict(one.unwrap_or(wanted));
                }
                _ => {
                    self.rejected += wanted as u64;
                    return Err(Refused::Full);
                }
            }
        }
    }

    /// Its publisher gave it this level.
    pub fn set_level(&mut self, message: Message, level: Priority) -> Message {
        let message = Message { level, ..message };
        self.messages.insert(message.id, message);
        message
    }

    /// A message that finds the topic full becomes a letter of each subscription.
    pub fn letter(&mut self, message: Message) {
        let wanting = self.lanes.iter().enumerate();
        let wanting = wanting.filter(|(_, lane)| lane.wants(&message));
        let wanting: Vec<_> = wanting.map(|(at, _)| at).collect();
        match wanting.is_empty() {
            true => self.dropped += 1,
            false => self.dispatched += 1,
        }
        for at in wanting {
            let lane = &mut self.lanes[at];
            lane.counts.made += 1;
            if lane.shape.refuses(message.id) {
                lane.counts.filtered += 1;
            } else if lane.shape.is_exact() {
                self.bury(at, Tried::first(message), DeadReason::Overflow);
            }
        }
    }

    /// Drops the oldest, no more than there shall be room for.
    pub fn evict(&mut self, wanted: usize) -> usize {
        let count = wanted.min(self.queue.len());
        self.queue.drain(..count);
        self.short = false;
        self.dropped += count as u64;
        count
    }

    pub fn accept(
        &mut self,
        payload: u64,
        delay: u64,
        key: Option<u8>,
        ttl: Option<u64>,
    ) -> Message {
        self.issued += 1;
        let accepted = self.now + delay;
        let message = Message {
            id: self.issued,
            accepted,
            key,
            weight: self.setup.weight_limit.map_or(0, |_| payload),
            level: Priority::Normal,
            expires: ttl.or(self.setup.ttl).map(|ttl| accepted + ttl),
        };
        self.messages.insert(message.id, message);
        message
    }
}
