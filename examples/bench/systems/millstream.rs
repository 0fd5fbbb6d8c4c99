//! The engine itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use millstream::event::Observation;
use millstream::{
    Backoff, Batched, Broker, BufferedPublisher, Histograms, Idle, Immediate, Lease, Message, Nack,
    Overflow, PublishError, Pull, PullSubscription, Subscription, Topic,
};

use super::{Answer, Publisher, System, join};
use crate::check::Checker;
use crate::load::{Dispatching, Full, Load, Publishing, Taking};
use crate::payload::Payload;

/// What runs; its parts stay because dropping them would end them.
pub struct Millstream {
    broker: Broker,
    _subscriptions: Vec<Subscription>,
    /// Those who pull.
    threads: Vec<JoinHandle<()>>,
    _observation: Option<Observation>,
}

/// A handle to each topic.
pub enum Handles<const WORDS: usize> {
    Plain(Vec<Topic<Payload<WORDS>>>),
    Buffering(Vec<BufferedPublisher<Payload<WORDS>>>),
}

/// After it a failed delivery is tried again.
const RETRY_AFTER: Duration = Duration::from_millis(1);
/// How long a buffering publisher may hold a message.
const BUFFERED_FOR: Duration = Duration::from_millis(1);
/// Leases that are taken at once.
const AT_ONCE: usize = 64;
/// Longer than any run is allowed to take.
const FOR_EVER: Duration = Duration::from_secs(1 << 20);
/// Nothing is left by then, so that only a hang reaches it.
const PATIENCE: Duration = Duration::from_secs(5);

impl<const WORDS: usize> System<WORDS> for Millstream {
    type Publisher = Handles<WORDS>;

    fn start(
        load: &Load,
        checkers: Vec<Vec<Checker<WORDS>>>,
    ) -> Answer<(Self, Vec<Handles<WORDS>>)> {
        let broker = Broker::builder()
            .workers(load.workers)
            .idle(if load.spinning {
                Idle::Spin
            } else {
                Idle::Park
            })
            .histograms(if load.histograms {
                Histograms::On
            } else {
                Histograms::Off
            })
            .build()?;
        let overflow = match load.full {
            Full::Yield => Overflow::Reject,
            Full::Block => Overflow::Block { timeout: FOR_EVER },
        };
        let observation = load.observed.then(|| observe(&broker)).transpose()?;
        let mut topics = Vec::new();
        let mut subscriptions = Vec::new();
        let mut threads = Vec::new();
        for (number, checkers) in checkers.into_iter().enumerate() {
            let topic = broker
                .topic(&format!("topic-{number}"))
                .capacity(load.capacity)
                .lane_capacity(load.capacity)
                .overflow(overflow)
                .retry(Backoff::fixed(RETRY_AFTER).max_attempts(2))
                .open()?;
            match load.strategy {
                Dispatching::Immediate => topic.set_strategy(Immediate)?,
                Dispatching::Batched { size, linger } => {
                    topic.set_strategy(Batched::of(size).linger(linger))?;
                }
            }
            for (number, checker) in checkers.into_iter().enumerate() {
                let name = format!("subscriber-{number}");
                if load.taking == Taking::Handler {
                    subscriptions.push(subscribe(&topic, &name, checker, load.failing > 0.0)?);
                } else if load.taking == Taking::Async {
                    subscriptions.push(subscribe_async(&topic, &name, checker)?);
                } else {
                    let pull = topic.subscription(&name).pull(Pull::default())?;
                    threads.push(receive(pull, checker, load.taking)?);
                }
            }
            topics.push(topic);
        }
        let publishers = (0..load.publishers).map(|_| Handles::of(&topics, load.publishing));
        let publishers = publishers.collect::<Answer<_>>()?;
        let system = Self {
            broker,
            _subscriptions: subscriptions,
            threads,
            _observation: observation,
        };
        Ok((system, publishers))
    }

    fn stop(self) -> Answer {
        if !self.broker.wait_until_idle(PATIENCE) {
            return Err(format!("the broker is busy:\n{}", self.broker.metrics()).into());
        }
        self.broker.metrics().balance()?;
        self.broker.drain(PATIENCE)?;
        join(self.threads, "a subscriber")
    }
}

impl<const WORDS: usize> Handles<WORDS> {
    fn of(topics: &[Topic<Payload<WORDS>>], publishing: Publishing) -> Answer<Self> {
        let Publishing::Buffered(size) = publishing else {
            return Ok(Self::Plain(topics.to_vec()));
        };
        let batches = Batched::of(size).linger(BUFFERED_FOR);
        let buffering = topics.iter().map(|topic| topic.buffered(batches));
        Ok(Self::Buffering(buffering.collect::<Result<_, _>>()?))
    }

    fn publish(
        &mut self,
        topic: usize,
        message: Payload<WORDS>,
    ) -> Result<(), PublishError<Payload<WORDS>>> {
        match self {
            Self::Plain(topics) => topics[topic].publish(message).map(|_| ()),
            Self::Buffering(publishers) => publishers[topic].publish(message),
        }
    }

    fn topic(&self, number: usize) -> &Topic<Payload<WORDS>> {
        match self {
            Self::Plain(topics) => &topics[number],
            Self::Buffering(publishers) => publishers[number].topic(),
        }
    }
}

/// Publishes a batch as a whole, however often it takes.
fn publish_all<const WORDS: usize>(
    topic: &Topic<Payload<WORDS>>,
    messages: impl IntoIterator<Item = Payload<WORDS>>,
) -> Answer {
    let mut answer = topic.publish_batch(messages);
    while let Err(partial) = answer {
        let PublishError::Full(rest) = partial.error else {
            return Err(partial.to_string().into());
        };
        thread::yield_now();
        answer = topic.publish_batch(rest);
    }
    Ok(())
}

fn subscribe<const WORDS: usize>(
    topic: &Topic<Payload<WORDS>>,
    name: &str,
    mut checker: Checker<WORDS>,
    failing: bool,
) -> Answer<Subscription> {
    let subscription = if failing {
        topic.subscribe(name, move |delivery| {
            if checker.take_or_fail(delivery.payload(), delivery.attempt()) {
                return Ok(());
            }
            Err(Nack::retry("chosen to fail once"))
        })
    } else {
        topic.subscribe(name, move |delivery| {
            checker.take(delivery.payload());
            Ok(())
        })
    };
    Ok(subscription?)
}

/// A handler that is an async function; the checker is behind a lock because calls might
/// overlap.
#[cfg(feature = "async")]
fn subscribe_async<const WORDS: usize>(
    topic: &Topic<Payload<WORDS>>,
    name: &str,
    checker: Checker<WORDS>,
) -> Answer<Subscription> {
    use std::sync::{Mutex, PoisonError};

    let checker = Arc::new(Mutex::new(checker));
    let subscription = topic.subscription(name);
    let subscription = subscription
        .concurrency(1)
        .subscribe_async(move |delivery| {
            let checker = Arc::clone(&checker);
            async move {
                let mut checker = checker.lock().unwrap_or_else(PoisonError::into_inner);
                checker.take(delivery.payload());
                Ok(())
            }
        });
    Ok(subscription?)
}

#[cfg(not(feature = "async"))]
fn subscribe_async<const WORDS: usize>(
    _: &Topic<Payload<WORDS>>,
    _: &str,
    _: Checker<WORDS>,
) -> Answer<Subscription> {
    Err(NOT_ASYNC.into())
}

#[cfg(not(feature = "async"))]
const NOT_ASYNC: &str = "async functions and streams are not in this build";

/// Takes leases until the subscription has ended.
fn receive<const WORDS: usize>(
    pull: PullSubscription<Payload<WORDS>>,
    mut checker: Checker<WORDS>,
    taking: Taking,
) -> Answer<JoinHandle<()>> {
    let subscriber = thread::Builder::new().name("subscriber".to_owned());
    match taking {
        #[cfg(feature = "async")]
        Taking::Stream => super::on_runtime(async move {
            let mut stream = pull.stream();
            drop(pull);
            while let Some(lease) = super::next(&mut stream).await {
                take(&mut checker, lease);
            }
        }),
        #[cfg(not(feature = "async"))]
        Taking::Stream => Err(NOT_ASYNC.into()),
        Taking::RecvBatch => Ok(subscriber.spawn(move || {
            while let Ok(leases) = pull.recv_batch(AT_ONCE, FOR_EVER) {
                for delivery in leases.iter() {
                    checker.take(delivery.payload());
                }
                // As below.
                let _ = leases.ack_all();
            }
        })?),
        _ => Ok(subscriber.spawn(move || {
            for lease in &pull {
                take(&mut checker, lease);
            }
        })?),
    }
}

fn take<const WORDS: usize>(checker: &mut Checker<WORDS>, lease: Lease<Payload<WORDS>>) {
    checker.take(lease.payload());
    // A stale one comes back, which the checker sees.
    let _ = lease.ack();
}

/// An observer of all events that does next to nothing with them.
fn observe(broker: &Broker) -> Answer<Observation> {
    let seen = Arc::new(AtomicU64::new(0));
    Ok(broker.observe(move |event| {
        seen.fetch_max(event.sequence(), Ordering::Relaxed);
    })?)
}

/// Unless it blocks, a full topic hands the payload back and the publisher tries
/// again when others have had the core, as it does with the disruptor. In a queue
/// of 1,024 that is the faster way; in one of 65,536 blocking is.
impl<const WORDS: usize> Publisher<WORDS> for Handles<WORDS> {
    fn send(&mut self, topic: usize, message: Payload<WORDS>) -> Answer {
        let mut message = message;
        while let Err(refused) = self.publish(topic, message) {
            let PublishError::Full(back) = refused else {
                return Err(refused.to_string().into());
            };
            message = back;
            thread::yield_now();
        }
        Ok(())
    }

    fn send_batch(
        &mut self,
        topic: usize,
        messages: impl ExactSizeIterator<Item = Payload<WORDS>>,
    ) -> Answer {
        publish_all(self.topic(topic), messages)
    }

    fn flush(&mut self) -> Answer {
        let Self::Buffering(publishers) = self else {
            return Ok(());
        };
        for publisher in publishers {
            if let Err(partial) = publisher.flush() {
                let rest = partial.into_inner().into_iter();
                publish_all(publisher.topic(), rest.map(Message::into_inner))?;
            }
        }
        Ok(())
    }
}
