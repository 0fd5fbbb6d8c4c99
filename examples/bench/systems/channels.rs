//! A bounded channel and a thread for each subscriber, which is what people write
//! when they need a broadcast and have a channel.

use std::thread::{self, JoinHandle};

use super::{Answer, Publisher, System, join};
use crate::check::Checker;
use crate::load::{Load, Publishing};
use crate::payload::Payload;

/// A crate's bounded channel, by its own blocking calls.
pub trait Channel: 'static {
    type Sender<T: Send + 'static>: Clone + Send + 'static;
    type Receiver<T: Send + 'static>: Send + 'static;

    fn bounded<T: Send + 'static>(slots: usize) -> (Self::Sender<T>, Self::Receiver<T>);

    /// Waits for room; `false` if the receiver is gone.
    fn send<T: Send + 'static>(sender: &Self::Sender<T>, item: T) -> bool;

    /// Waits for an item; `None` if all senders are gone.
    fn receive<T: Send + 'static>(receiver: &Self::Receiver<T>) -> Option<T>;
}

pub struct Crossbeam;
pub struct Flume;
pub struct Kanal;

impl Channel for Crossbeam {
    type Sender<T: Send + 'static> = crossbeam_channel::Sender<T>;
    type Receiver<T: Send + 'static> = crossbeam_channel::Receiver<T>;

    fn bounded<T: Send + 'static>(slots: usize) -> (Self::Sender<T>, Self::Receiver<T>) {
        crossbeam_channel::bounded(slots)
    }

    fn send<T: Send + 'static>(sender: &Self::Sender<T>, item: T) -> bool {
        sender.send(item).is_ok()
    }

    fn receive<T: Send + 'static>(receiver: &Self::Receiver<T>) -> Option<T> {
        receiver.recv().ok()
    }
}

impl Channel for Flume {
    type Sender<T: Send + 'static> = flume::Sender<T>;
    type Receiver<T: Send + 'static> = flume::Receiver<T>;

    fn bounded<T: Send + 'static>(slots: usize) -> (Self::Sender<T>, Self::Receiver<T>) {
        flume::bounded(slots)
    }

    fn send<T: Send + 'static>(sender: &Self::Sender<T>, item: T) -> bool {
        sender.send(item).is_ok()
    }

    fn receive<T: Send + 'static>(receiver: &Self::Receiver<T>) -> Option<T> {
        receiver.recv().ok()
    }
}

impl Channel for Kanal {
    type Sender<T: Send + 'static> = kanal::Sender<T>;
    type Receiver<T: Send + 'static> = kanal::Receiver<T>;

    fn bounded<T: Send + 'static>(slots: usize) -> (Self::Sender<T>, Self::Receiver<T>) {
        kanal::bounded(slots)
    }

    fn send<T: Send + 'static>(sender: &Self::Sender<T>, item: T) -> bool {
        sender.send(item).is_ok()
    }

    fn receive<T: Send + 'static>(receiver: &Self::Receiver<T>) -> Option<T> {
        receiver.recv().ok()
    }
}

/// The subscribers' threads.
pub struct Lanes<C> {
    threads: Vec<JoinHandle<()>>,
    _channel: std::marker::PhantomData<C>,
}

/// By topic, then by subscriber. In batches, a slot carries a `Vec`, and there
/// are so many slots that as many messages may wait as singly.
pub enum Senders<C: Channel, const WORDS: usize> {
    Single(Vec<Vec<C::Sender<Payload<WORDS>>>>),
    Batch(Vec<Vec<C::Sender<Vec<Payload<WORDS>>>>>),
}

impl<C: Channel, const WORDS: usize> Clone for Senders<C, WORDS> {
    fn clone(&self) -> Self {
        match self {
            Self::Single(senders) => Self::Single(senders.clone()),
            Self::Batch(senders) => Self::Batch(senders.clone()),
        }
    }
}

impl<C: Channel, const WORDS: usize> System<WORDS> for Lanes<C> {
    type Publisher = Senders<C, WORDS>;

    fn start(
        load: &Load,
        checkers: Vec<Vec<Checker<WORDS>>>,
    ) -> Answer<(Self, Vec<Self::Publisher>)> {
        let mut threads = Vec::new();
        let senders = match load.publishing {
            Publishing::Single | Publishing::Buffered(_) => Senders::Single(open::<C, _, WORDS>(
                load.capacity,
                checkers,
                &mut threads,
                |checker, message| checker.take(&message),
            )?),
            Publishing::Batch(size) => Senders::Batch(open::<C, _, WORDS>(
                (load.capacity / size).max(1),
                checkers,
                &mut threads,
                |checker, batch: Vec<_>| batch.iter().for_each(|message| checker.take(message)),
            )?),
        };
        let publishers = vec![senders; load.publishers];
        let system = Self {
            threads,
            _channel: std::marker::PhantomData,
        };
        Ok((system, publishers))
    }

    fn stop(self) -> Answer {
        join(self.threads, "a subscriber")
    }
}

/// A channel and a thread for each checker.
fn open<C: Channel, T: Send + 'static, const WORDS: usize>(
    slots: usize,
    checkers: Vec<Vec<Checker<WORDS>>>,
    threads: &mut Vec<JoinHandle<()>>,
    take: fn(&mut Checker<WORDS>, T),
) -> Answer<Vec<Vec<C::Sender<T>>>> {
    let mut topics = Vec::new();
    for checkers in checkers {
        let mut senders = Vec::new();
        for mut checker in checkers {
            let (sender, receiver) = C::bounded(slots);
            let subscriber = thread::Builder::new().name("subscriber".to_owned());
            threads.push(subscriber.spawn(move || {
                while let Some(item) = C::receive(&receiver) {
                    take(&mut checker, item);
                }
            })?);
            senders.push(sender);
        }
        topics.push(senders);
    }
    Ok(topics)
}

impl<C: Channel, const WORDS: usize> Publisher<WORDS> for Senders<C, WORDS> {
    fn send(&mut self, topic: usize, message: Payload<WORDS>) -> Answer {
        match self {
            Self::Single(senders) => send_to_all::<C, _>(&senders[topic], message),
            Self::Batch(senders) => send_to_all::<C, _>(&senders[topic], vec![message]),
        }
    }

    fn send_batch(
        &mut self,
        topic: usize,
        mut messages: impl ExactSizeIterator<Item = Payload<WORDS>>,
    ) -> Answer {
        match self {
            Self::Single(_) => messages.try_for_each(|message| self.send(topic, message)),
            Self::Batch(senders) => send_to_all::<C, _>(&senders[topic], messages.collect()),
        }
    }
}

#[inline]
fn send_to_all<C: Channel, T: Clone + Send + 'static>(senders: &[C::Sender<T>], item: T) -> Answer {
    let Some((last, others)) = senders.split_last() else {
        return Ok(());
    };
    for sender in others {
        if !C::send(sender, item.clone()) {
            return Err("a subscriber's thread is gone".into());
        }
    }
    match C::send(last, item) {
        true => Ok(()),
        false => Err("a subscriber's thread is gone".into()),
    }
}
