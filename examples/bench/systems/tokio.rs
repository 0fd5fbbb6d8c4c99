//! tokio's broadcast channel, a thread for each subscriber.
//!
//! It overwrites what a slow receiver has not read, so whoever wants nothing lost
//! must hold its publishers back by hand.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

use crossbeam_utils::CachePadded;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::sync::broadcast::{Receiver, Sender, channel};

use super::{Answer, Publisher, System, join};
use crate::check::Checker;
use crate::load::{Load, Publishing};
use crate::payload::Payload;

pub struct Broadcast {
    threads: Vec<JoinHandle<()>>,
}

/// A topic as a publisher sees it. Batches are shared, as a clone for every
/// receiver would be a copy.
pub struct Line<T> {
    sender: Sender<T>,
    brake: Arc<Brake>,
    /// What the slowest receiver had handled when last looked at.
    behind: u64,
}

/// About as often as a receiver of crossbeam's yields.
const LOOKS: usize = 4;

/// Counts slots sent and handled, so that no more are between than there is room for.
struct Brake {
    room: u64,
    sent: CachePadded<AtomicU64>,
    handled: Vec<CachePadded<AtomicU64>>,
}

pub enum Lines<const WORDS: usize> {
    Single(Vec<Line<Payload<WORDS>>>),
    Batch(Vec<Line<Arc<[Payload<WORDS>]>>>),
}

impl<T> Clone for Line<T> {
    fn clone(&self) -> Self {
        Self {
            sender: self.sender.clone(),
            brake: Arc::clone(&self.brake),
            behind: self.behind,
        }
    }
}

impl<T: Clone + Send + 'static> Line<T> {
    fn send(&mut self, item: T) -> Answer {
        let ticket = self.brake.sent.fetch_add(1, Ordering::Relaxed);
        let mut wanted = (ticket + 1).saturating_sub(self.brake.room);
        while self.behind < wanted {
            // Acquire: what the receiver did with the slot comes before its reuse.
            let handled = self.brake.handled.iter();
            let slowest = handled.map(|handled| handled.load(Ordering::Acquire)).min();
            self.behind = slowest.unwrap_or(u64::MAX);
            if self.behind < wanted {
                // One free slot isn't worth the wake-up of a receiver.
                wanted = (ticket + 1).saturating_sub((self.brake.room / 2).max(1));
                thread::yield_now();
            }
        }
        match self.sender.send(item) {
            Ok(_) => Ok(()),
            Err(_) => Err("the subscribers' threads are gone".into()),
        }
    }
}

impl<const WORDS: usize> System<WORDS> for Broadcast {
    type Publisher = Lines<WORDS>;

    fn start(load: &Load, checkers: Vec<Vec<Checker<WORDS>>>) -> Answer<(Self, Vec<Lines<WORDS>>)> {
        let mut threads = Vec::new();
        let capacity = load.capacity / load.publishing.batch();
        let publishers = match load.publishing {
            Publishing::Single | Publishing::Buffered(_) => {
                let take = |checker: &mut Checker<WORDS>, message| checker.take(&message);
                let lines = open(capacity, checkers, &mut threads, take)?;
                (0..load.publishers)
                    .map(|_| Lines::Single(lines.clone()))
                    .collect()
            }
            Publishing::Batch(_) => {
                let take = |checker: &mut Checker<WORDS>, batch: Arc<[_]>| {
                    batch.iter().for_each(|message| checker.take(message));
                };
                let lines = open(capacity, checkers, &mut threads, take)?;
                (0..load.publishers)
                    .map(|_| Lines::Batch(lines.clone()))
                    .collect()
            }
        };
        Ok((Self { threads }, publishers))
    }

    fn stop(self) -> Answer {
        join(self.threads, "a subscriber")
    }
}

fn open<T: Clone + Send + 'static, const WORDS: usize>(
    capacity: usize,
    checkers: Vec<Vec<Checker<WORDS>>>,
    threads: &mut Vec<JoinHandle<()>>,
    take: fn(&mut Checker<WORDS>, T),
) -> Answer<Vec<Line<T>>> {
    let mut lines = Vec::new();
    for checkers in checkers {
        let room = capacity.max(1);
        let (sender, _) = channel(room);
        let brake = Arc::new(Brake {
            room: room as u64,
            sent: CachePadded::new(AtomicU64::new(0)),
            handled: checkers.iter().map(|_| CachePadded::default()).collect(),
        });
        for (number, mut checker) in checkers.into_iter().enumerate() {
            let (receiver, brake) = (sender.subscribe(), Arc::clone(&brake));
            let subscriber = thread::Builder::new().name("subscriber".to_owned());
            threads.push(subscriber.spawn(move || {
                receive(receiver, &brake.handled[number], |item| {
                    take(&mut checker, item)
                });
            })?);
        }
        lines.push(Line {
            sender,
            brake,
            behind: 0,
        });
    }
    Ok(lines)
}

fn receive<T: Clone>(mut receiver: Receiver<T>, handled: &AtomicU64, mut take: impl FnMut(T)) {
    let mut count = 0;
    loop {
        match next(&mut receiver) {
            Ok(item) => take(item),
            // The checker notices the gap by itself.
            Err(RecvError::Lagged(missed)) => count += missed - 1,
            Err(RecvError::Closed) => return,
        }
        count += 1;
        handled.store(count, Ordering::Release);
    }
}

/// A channel for threads looks again for a while before it lets its thread sleep;
/// this one is made for tasks and doesn't, so that is done for it.
fn next<T: Clone>(receiver: &mut Receiver<T>) -> Result<T, RecvError> {
    for _ in 0..LOOKS {
        match receiver.try_recv() {
            Err(TryRecvError::Empty) => thread::yield_now(),
            Ok(item) => return Ok(item),
            Err(TryRecvError::Lagged(missed)) => return Err(RecvError::Lagged(missed)),
            Err(TryRecvError::Closed) => return Err(RecvError::Closed),
        }
    }
    receiver.blocking_recv()
}

impl<const WORDS: usize> Publisher<WORDS> for Lines<WORDS> {
    fn send(&mut self, topic: usize, message: Payload<WORDS>) -> Answer {
        match self {
            Self::Single(lines) => lines[topic].send(message),
            Self::Batch(lines) => lines[topic].send(Arc::new([message])),
        }
    }

    fn send_batch(
        &mut self,
        topic: usize,
        mut messages: impl ExactSizeIterator<Item = Payload<WORDS>>,
    ) -> Answer {
        match self {
            Self::Single(lines) => messages.try_for_each(|message| lines[topic].send(message)),
            Self::Batch(lines) => lines[topic].send(messages.collect()),
        }
    }
}
