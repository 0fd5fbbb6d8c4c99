//! A bounded channel and a task for each subscriber, on a runtime of its own: a stream of
//! messages, or a task more for each of them.

use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::thread::JoinHandle;

use futures_core::Stream;
use tokio::sync::mpsc;
use tokio::task::{spawn, yield_now};

use super::{Answer, Publisher, System, join, next, on_runtime};
use crate::check::Checker;
use crate::load::Load;
use crate::payload::Payload;

/// A crate's bounded channel between a thread and a task.
pub trait Channel: 'static {
    type Sender<T: Send + 'static>: Clone + Send + 'static;
    type Receiver<T: Send + 'static>: Stream<Item = T> + Unpin + Send + 'static;

    fn bounded<T: Send + 'static>(slots: usize) -> (Self::Sender<T>, Self::Receiver<T>);

    /// Waits for room; `false` if the receiver is gone.
    fn send<T: Send + 'static>(sender: &Self::Sender<T>, item: T) -> bool;
}

pub struct Flume;
pub struct Mpsc;

impl Channel for Flume {
    type Sender<T: Send + 'static> = flume::Sender<T>;
    type Receiver<T: Send + 'static> = flume::r#async::RecvStream<'static, T>;

    fn bounded<T: Send + 'static>(slots: usize) -> (Self::Sender<T>, Self::Receiver<T>) {
        let (sender, receiver) = flume::bounded(slots);
        (sender, receiver.into_stream())
    }

    fn send<T: Send + 'static>(sender: &Self::Sender<T>, item: T) -> bool {
        sender.send(item).is_ok()
    }
}

/// As the stream that everybody wraps it in.
pub struct MpscStream<T>(mpsc::Receiver<T>);

impl<T> Stream for MpscStream<T> {
    type Item = T;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<T>> {
        self.0.poll_recv(context)
    }
}

impl Channel for Mpsc {
    type Sender<T: Send + 'static> = mpsc::Sender<T>;
    type Receiver<T: Send + 'static> = MpscStream<T>;

    fn bounded<T: Send + 'static>(slots: usize) -> (Self::Sender<T>, Self::Receiver<T>) {
        let (sender, receiver) = mpsc::channel(slots);
        (sender, MpscStream(receiver))
    }

    fn send<T: Send + 'static>(sender: &Self::Sender<T>, item: T) -> bool {
        sender.blocking_send(item).is_ok()
    }
}

/// What a subscriber's task does with its messages.
pub trait Way {
    fn take<S, const WORDS: usize>(
        messages: S,
        checker: Checker<WORDS>,
    ) -> impl Future<Output = ()> + Send + 'static
    where
        S: Stream<Item = Payload<WORDS>> + Unpin + Send + 'static;
}

/// Handles them itself.
pub struct Itself;
/// Spawns a task for each.
pub struct Spawning;

impl Way for Itself {
    async fn take<S, const WORDS: usize>(mut messages: S, mut checker: Checker<WORDS>)
    where
        S: Stream<Item = Payload<WORDS>> + Unpin + Send + 'static,
    {
        while let Some(message) = next(&mut messages).await {
            checker.take(&message);
        }
    }
}

impl Way for Spawning {
    async fn take<S, const WORDS: usize>(mut messages: S, checker: Checker<WORDS>)
    where
        S: Stream<Item = Payload<WORDS>> + Unpin + Send + 'static,
    {
        let checker = Arc::new(Mutex::new(checker));
        while let Some(message) = next(&mut messages).await {
            let checker = Arc::clone(&checker);
            // On a runtime of one thread they run in the order in which they were spawned.
            spawn(async move {
                let mut checker = checker.lock().unwrap_or_else(PoisonError::into_inner);
                checker.take(&message);
            });
        }
        while Arc::strong_count(&checker) > 1 {
            yield_now().await;
        }
    }
}

/// The subscribers' runtimes.
pub struct Tasks<C, W> {
    threads: Vec<JoinHandle<()>>,
    _of: PhantomData<(C, W)>,
}

/// By topic, then by subscriber.
pub struct Senders<C: Channel, const WORDS: usize>(Vec<Vec<C::Sender<Payload<WORDS>>>>);

impl<C: Channel, W: Way, const WORDS: usize> System<WORDS> for Tasks<C, W> {
    type Publisher = Senders<C, WORDS>;

    fn start(
        load: &Load,
        checkers: Vec<Vec<Checker<WORDS>>>,
    ) -> Answer<(Self, Vec<Self::Publisher>)> {
        let mut threads = Vec::new();
        let mut topics = Vec::new();
        for checkers in checkers {
            let mut senders = Vec::new();
            for checker in checkers {
                let (sender, receiver) = C::bounded(load.capacity);
                threads.push(on_runtime(W::take(receiver, checker))?);
                senders.push(sender);
            }
            topics.push(senders);
        }
        let publishers = (0..load.publishers).map(|_| Senders(topics.clone()));
        let system = Self {
            threads,
            _of: PhantomData,
        };
        Ok((system, publishers.collect()))
    }

    fn stop(self) -> Answer {
        join(self.threads, "a subscriber")
    }
}

impl<C: Channel, const WORDS: usize> Publisher<WORDS> for Senders<C, WORDS> {
    fn send(&mut self, topic: usize, message: Payload<WORDS>) -> Answer {
        for sender in &self.0[topic] {
            if !C::send(sender, message) {
                return Err("a subscriber's task is gone".into());
            }
        }
        Ok(())
    }
}
