//! What an engineer writes in an afternoon, and what this crate wants to replace: a
//! map of channels by topic name, a thread for each topic, boxed handlers under
//! `catch_unwind`, clocks, counters and a histogram.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, bounded};
use dashmap::DashMap;
use hdrhistogram::Histogram;
use parking_lot::Mutex;

use super::{Answer, Publisher, System, join};
use crate::check::{Checker, histogram};
use crate::load::Load;
use crate::payload::Payload;

struct Broker<T> {
    topics: DashMap<String, Sender<Envelope<T>>>,
    counters: Arc<Counters>,
}

struct Envelope<T> {
    accepted: Instant,
    payload: T,
}

struct Counters {
    published: AtomicU64,
    delivered: AtomicU64,
    failed: AtomicU64,
    latency: Mutex<Histogram<u64>>,
}

type Handler<T> = Box<dyn FnMut(&T) -> Result<(), String> + Send>;

impl<T: Send + 'static> Broker<T> {
    fn new() -> Self {
        let counters = Counters {
            published: AtomicU64::new(0),
            delivered: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            latency: Mutex::new(histogram()),
        };
        Self {
            topics: DashMap::new(),
            counters: Arc::new(counters),
        }
    }

    fn open(
        &self,
        name: &str,
        capacity: usize,
        handlers: Vec<Handler<T>>,
    ) -> std::io::Result<JoinHandle<()>> {
        let (sender, receiver) = bounded(capacity);
        let counters = Arc::clone(&self.counters);
        let thread = thread::Builder::new().name(name.to_owned());
        let thread = thread.spawn(move || deliver(&receiver, handlers, &counters))?;
        self.topics.insert(name.to_owned(), sender);
        Ok(thread)
    }

    fn publish(&self, name: &str, payload: T) -> Result<(), String> {
        let Some(topic) = self.topics.get(name) else {
            return Err(format!("no topic {name}"));
        };
        let envelope = Envelope {
            accepted: Instant::now(),
            payload,
        };
        topic
            .send(envelope)
            .map_err(|_| format!("{name} is closed"))?;
        self.counters.published.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

fn deliver<T>(
    receiver: &Receiver<Envelope<T>>,
    mut handlers: Vec<Handler<T>>,
    counters: &Counters,
) {
    for envelope in receiver {
        for handler in &mut handlers {
            let handled = catch_unwind(AssertUnwindSafe(|| handler(&envelope.payload)));
            let counter = match handled {
                Ok(Ok(())) => &counters.delivered,
                _ => &counters.failed,
            };
            counter.fetch_add(1, Ordering::Relaxed);
        }
        let latency_ns = envelope.accepted.elapsed().as_nanos() as u64;
        *counters.latency.lock() += latency_ns.max(1);
    }
}

/// The threads end when the last publisher, and with it the map, is gone.
pub struct HandRolled {
    threads: Vec<JoinHandle<()>>,
    counters: Arc<Counters>,
    deliveries: u64,
}

pub struct ByName<const WORDS: usize> {
    broker: Arc<Broker<Payload<WORDS>>>,
    names: Vec<String>,
}

impl<const WORDS: usize> System<WORDS> for HandRolled {
    type Publisher = ByName<WORDS>;

    fn start(
        load: &Load,
        checkers: Vec<Vec<Checker<WORDS>>>,
    ) -> Answer<(Self, Vec<ByName<WORDS>>)> {
        let broker = Arc::new(Broker::new());
        let names: Vec<_> = (0..load.topics)
            .map(|number| format!("topic-{number}"))
            .collect();
        let mut threads = Vec::new();
        for (name, checkers) in names.iter().zip(checkers) {
            let handlers = checkers.into_iter().map(handler).collect();
            threads.push(broker.open(name, load.capacity, handlers)?);
        }
        let publisher = |_| ByName {
            broker: Arc::clone(&broker),
            names: names.clone(),
        };
        let publishers = (0..load.publishers).map(publisher).collect();
        let system = Self {
            threads,
            counters: Arc::clone(&broker.counters),
            deliveries: load.deliveries(),
        };
        Ok((system, publishers))
    }

    fn stop(self) -> Answer {
        join(self.threads, "a topic")?;
        match self.counters.delivered.load(Ordering::Relaxed) {
            delivered if delivered == self.deliveries => Ok(()),
            delivered => Err(format!("it counted {delivered} deliveries").into()),
        }
    }
}

fn handler<const WORDS: usize>(mut checker: Checker<WORDS>) -> Handler<Payload<WORDS>> {
    Box::new(move |message| {
        checker.take(message);
        Ok(())
    })
}

impl<const WORDS: usize> Publisher<WORDS> for ByName<WORDS> {
    fn send(&mut self, topic: usize, message: Payload<WORDS>) -> Answer {
        Ok(self.broker.publish(&self.names[topic], message)?)
    }
}
