//! Publishes.

use std::fmt::Debug;

use millstream::error::{NotDelayedError, PublishBatchError};
use millstream::protect::Priority;
use millstream::{BatchReceipt, Message, PublishError};

use super::Pair;
use crate::program::{LINES, name_of, ticks};
use crate::reference::{Admitted, Refused};

impl Pair {
    pub fn publish(&mut self, key: Option<u8>, ttl: Option<u64>) {
        let mut level = Priority::Normal;
        let real = match (key, ttl) {
            // What may wait is as good here as what may not: nobody else makes room.
            (None, None) if self.model.issued % 2 == 1 => self.topic.try_publish(7),
            (None, None) => self.topic.publish(7),
            _ => {
                level = Priority::ALL[self.model.issued as usize / 2 % 4];
                let mut message = self.topic.message(7).header("h", "v");
                message = message.priority(level);
                if let Some(key) = key {
                    message = message.key(name_of(key));
                }
                if let Some(ttl) = ttl {
                    message = message.ttl(ticks(ttl));
                }
                match self.model.issued % 3 {
                    0 => message.publish(),
                    1 => message.try_publish(),
                    _ => {
                        let tracker = self.topic.tracker();
                        let published = message.tracked(&tracker).publish();
                        published.inspect(|receipt| {
                            self.tracked.push((tracker, vec![receipt.id().get()]));
                        })
                    }
                }
            }
        };
        match (self.model.admit(&[7]), real) {
            (Ok(admitted), Ok(receipt)) => {
                let message = self.model.accept(7, 0, key, ttl);
                let message = self.model.set_level(message, level);
                assert_eq!(receipt.id().get(), message.id);
                match admitted {
                    Admitted::Dropped { .. } => assert!(receipt.is_dropped()),
                    Admitted::Lettered { .. } => {
                        assert!(receipt.is_dead_letter());
                        self.model.letter(message);
                    }
                    Admitted::Queued { evicted, .. } => {
                        assert!(!receipt.is_dropped() && !receipt.is_dead_letter());
                        assert_eq!(receipt.evicted() as usize, evicted);
                        self.model.queue.push_back(message);
                    }
                }
            }
            (Err(refused), Err(error)) => assert_refusal(&refused, &error),
            (_, real) => panic!("the model disagrees with {real:?}"),
        }
    }

    pub fn publish_once(&mut self, id: u8) {
        let message = self.topic.message(7).dedup_id(name_of(id));
        let real = match self.model.issued % 2 {
            0 => message.publish(),
            _ => message.try_publish(),
        };
        if self.model.setup.dedup.is_none() {
            assert!(matches!(
                real,
                Err(PublishError::Invalid { payload: 7, .. })
            ));
            return;
        }
        if let Some(first) = self.model.first_with(id) {
            let receipt = real.expect("a duplicate needs no room");
            assert!(receipt.is_duplicate());
            assert_eq!(receipt.id().get(), first);
            self.model.duplicates += 1;
            return;
        }
        match (self.model.admit(&[7]), real) {
            (Ok(admitted), Ok(receipt)) => {
                let message = self.model.accept(7, 0, None, None);
                assert_eq!(receipt.id().get(), message.id);
                assert!(!receipt.is_duplicate());
                match admitted {
                    Admitted::Dropped { .. } => assert!(receipt.is_dropped()),
                    Admitted::Lettered { .. } => {
                        assert!(receipt.is_dead_letter());
                        self.model.letter(message);
                        self.model.remember(id, message.id);
                    }
                    Admitted::Queued { .. } => {
                        self.model.queue.push_back(message);
                        self.model.remember(id, message.id);
                    }
                }
            }
            (Err(refused), Err(error)) => assert_refusal(&refused, &error),
            (_, real) => panic!("the model disagrees with {real:?}"),
        }
    }

    pub fn publish_after(&mut self, delay: u64) {
        let real = self.topic.publish_after(ticks(delay), 7);
        match (self.model.admit(&[7]), real) {
            (Ok(Admitted::Dropped { .. }), Ok(receipt)) => {
                assert!(receipt.is_dropped());
                self.model.accept(7, 0, None, None);
            }
            (Ok(Admitted::Lettered { .. }), Ok(receipt)) => {
                assert!(receipt.is_dead_letter());
                let message = self.model.accept(7, 0, None, None);
                self.model.letter(message);
            }
            (Ok(Admitted::Queued { evicted, .. }), Ok(receipt)) => {
                let message = self.model.accept(7, delay, None, None);
                assert_eq!(receipt.id().get(), message.id);
                assert_eq!(receipt.evicted() as usize, evicted);
                self.receipts.push(receipt.id());
                if delay == 0 {
                    self.model.queue.push_back(message);
                } else {
                    let due = self.model.now + delay;
                    self.model.delayed.push((due, message));
                    self.model.has_delayed = true;
                }
            }
            (Err(refused), Err(error)) => assert_refusal(&refused, &error),
            (_, real) => panic!("the model disagrees with {real:?}"),
        }
    }

    /// One of the ids given out, the delayed ones first. The program keeps their receipts.
    pub fn cancel_delayed(&mut self, at: usize) {
        let delayed = self.model.delayed.iter().map(|(_, message)| message.id);
        let others = (1..=self.model.issued).rev();
        let Some(id) = delayed.chain(others).nth(at) else {
            return;
        };
        let Some(receipt) = self.receipts.iter().find(|receipt| receipt.get() == id) else {
            return;
        };
        let real = self.topic.cancel_delayed(*receipt);
        let place = self.model.delayed.iter().position(|(_, of)| of.id == id);
        match (place, real) {
            (Some(place), Ok(message)) => {
                assert_eq!(message, Message::new(7));
                self.model.delayed.remove(place);
                self.model.dropped += 1;
                self.model.short = false;
            }
            (None, Err(NotDelayedError)) => {}
            (_, real) => panic!("the model disagrees with {real:?}"),
        }
    }

    pub fn publish_batch(&mut self, count: usize) {
        let real = self.topic.publish_batch((0..count).map(|at| at as u64));
        let plain = vec![(None, None); count];
        self.compare_batch(&plain, real, |at| at as u64);
    }

    pub fn publish_messages(&mut self, count: usize, key: u8, ttl: Option<u64>) {
        let key_at = |at: usize| at.is_multiple_of(2).then_some((key + at as u8) % LINES);
        let ttl_at = |at: usize| ttl.filter(|_| at.is_multiple_of(3));
        let message = |at: usize| {
            let mut message = Message::new(at as u64).header("h", "v");
            if let Some(key) = key_at(at) {
                message = message.key(name_of(key));
            }
            match ttl_at(at) {
                Some(ttl) => message.ttl(ticks(ttl)),
                None => message,
            }
        };
        let tracker = self.topic.tracker();
        let tracked = (0..count).map(|at| message(at).tracked(&tracker));
        let before = self.model.issued;
        let real = self.topic.publish_messages(tracked);
        let parts: Vec<_> = (0..count).map(|at| (key_at(at), ttl_at(at))).collect();
        self.compare_batch(&parts, real, |at| message(at).tracked(&tracker));
        let accepted = before + 1..=self.model.issued;
        self.tracked.push((tracker, accepted.collect()));
    }

    /// How many go together, from the next on: where the topic is split, a key goes alone.
    fn alike(&self, parts: &[(Option<u8>, Option<u64>)]) -> usize {
        let unkeyed = parts.iter().take_while(|(key, _)| key.is_none()).count();
        match self.model.setup.partitions {
            Some(_) => unkeyed.max(1),
            None => parts.len(),
        }
    }

    fn compare_batch<M: PartialEq + Debug>(
        &mut self,
        parts: &[(Option<u8>, Option<u64>)],
        real: Result<BatchReceipt, PublishBatchError<M>>,
        message: impl Fn(usize) -> M,
    ) {
        let count = parts.len();
        let (mut accepted, mut dropped, mut evicted, mut lettered) = (0, 0, 0, 0);
        let mut refusal = None;
        while accepted < count {
            let wanted = self.alike(&parts[accepted..]);
            let weights: Vec<_> = (accepted..accepted + wanted).map(|at| at as u64).collect();
            match self.model.admit(&weights) {
                Err(refused) => {
                    // The first of them was refused, and the others come back with it.
                    if refused != Refused::TooHeavy {
                        self.model.rejected += (count - accepted - wanted) as u64;
                    }
                    refusal = Some(refused);
                    break;
                }
                Ok(Admitted::Dropped { count }) => {
                    for (at, (key, ttl)) in (accepted..).zip(&parts[accepted..accepted + count]) {
                        self.model.accept(at as u64, 0, *key, *ttl);
                    }
                    accepted += count;
                    dropped += count;
                }
                Ok(Admitted::Lettered { count }) => {
                    for (at, (key, ttl)) in (accepted..).zip(&parts[accepted..accepted + count]) {
                        let message = self.model.accept(at as u64, 0, *key, *ttl);
                        self.model.letter(message);
                    }
                    accepted += count;
                    lettered += count;
                }
                Ok(Admitted::Queued { count, evicted: n }) => {
                    for (at, (key, ttl)) in (accepted..).zip(&parts[accepted..accepted + count]) {
                        let message = self.model.accept(at as u64, 0, *key, *ttl);
                        self.model.queue.push_back(message);
                    }
                    accepted += count;
                    evicted += n;
                }
            }
        }
        match (refusal, real) {
            (None, Ok(receipt)) => {
                assert_eq!(receipt.accepted(), count);
                assert_eq!((receipt.evicted(), receipt.dropped()), (evicted, dropped));
                assert_eq!(receipt.dead_letters(), lettered);
                let last = (count > 0).then_some(self.model.issued);
                assert_eq!(receipt.last().map(|id| id.get()), last);
            }
            (Some(refused), Err(partial)) => {
                assert_eq!(partial.accepted, accepted);
                assert_refusal(&refused, &partial.error);
                let rest: Vec<_> = (accepted..count).map(message).collect();
                assert_eq!(partial.into_inner(), rest, "the rest comes back in order");
            }
            (_, real) => panic!("the model disagrees with {real:?}"),
        }
    }
}

pub fn assert_refusal<T>(refused: &Refused, error: &PublishError<T>) {
    let real = match error {
        PublishError::Full(_) => Refused::Full,
        PublishError::NoSubscribers(_) => Refused::NoSubscribers,
        PublishError::Invalid { invalid, .. } if invalid.setting() == "weight" => Refused::TooHeavy,
        other => panic!("{other:?}"),
    };
    assert_eq!(*refused, real);
}
