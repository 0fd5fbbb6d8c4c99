//! Durable topics.

use std::hint::black_box;
use std::path::Path;
use std::sync::{Mutex, mpsc};
use std::time::Duration;

use millstream::store::{Codec, CodecError, Durability, Raw, Start, Store};
use millstream::{Broker, Overflow, Subscription, Topic};

use crate::measure::Outcome;
use crate::records::{Record, Tally};
use crate::systems::{Synced, Written};

/// A payload made of a record, and read as one.
pub trait Payload: AsRef<[u8]> + From<Record> + Send + Sync + 'static {}

impl<P: AsRef<[u8]> + From<Record> + Send + Sync + 'static> Payload for P {}

/// Stores records as they are.
struct ByValue;

impl Codec<Record> for ByValue {
    fn encode(&self, record: &Record, into: &mut Vec<u8>) -> Result<(), CodecError> {
        into.extend_from_slice(record);
        Ok(())
    }

    fn decode(&self, bytes: &[u8]) -> Result<Record, CodecError> {
        Ok(bytes.try_into()?)
    }
}

/// A topic without subscriptions: a log.
pub struct Ours<P: Send + Sync + 'static = Record> {
    topic: Topic<P>,
    _broker: Broker,
}

impl Ours {
    pub fn written(path: &Path) -> Outcome<Self> {
        Self::open(path, ByValue, Durability::Written)
    }

    pub fn synced(path: &Path) -> Outcome<Self> {
        Self::open(path, ByValue, Durability::Synced)
    }
}

impl Ours<Vec<u8>> {
    pub fn allocated(path: &Path) -> Outcome<Self> {
        Self::open(path, Raw, Durability::Written)
    }
}

impl<P: Payload> Ours<P> {
    fn open(path: &Path, codec: impl Codec<P>, level: Durability) -> Outcome<Self> {
        let broker = Broker::builder().store(Store::open(path)?).build()?;
        let patience = Overflow::Block {
            timeout: Duration::from_secs(60),
        };
        let topic = broker
            .topic("log")
            .overflow(patience)
            .durable(codec)
            .durability(level)
            .open()?;
        Ok(Self {
            topic,
            _broker: broker,
        })
    }
}

impl<P: Payload> Written for Ours<P> {
    fn append(&mut self, batch: &[Record]) -> Outcome {
        self.topic
            .publish_batch(batch.iter().map(|record| P::from(*record)))?;
        Ok(())
    }

    fn replay(&mut self) -> Outcome<Tally> {
        let mut tally = Tally::default();
        for record in self.topic.read(Start::Earliest)? {
            tally.add(record?.message.payload().as_ref());
        }
        Ok(tally)
    }
}

impl Synced for Ours {
    fn append(&self, record: &Record) -> Outcome {
        self.topic.publish(*record)?;
        Ok(())
    }
}

/// A topic with a live subscription. Another subscription reads it back.
pub struct Subscribed {
    _live: Subscription,
    log: Ours,
    count: u64,
}

impl Subscribed {
    pub fn open(path: &Path) -> Outcome<Self> {
        let log = Ours::written(path)?;
        let live = log.topic.subscribe("live", |delivery| {
            black_box(delivery.payload());
            Ok(())
        })?;
        Ok(Self {
            _live: live,
            log,
            count: 0,
        })
    }
}

impl Written for Subscribed {
    fn append(&mut self, batch: &[Record]) -> Outcome {
        self.count += batch.len() as u64;
        Written::append(&mut self.log, batch)
    }

    fn replay(&mut self) -> Outcome<Tally> {
        let (whole, read) = mpsc::channel();
        let (count, tally) = (self.count, Mutex::new(Tally::default()));
        let subscription = self.log.topic.subscription("again").from(Start::Earliest);
        let _again = subscription.subscribe(move |delivery| {
            let mut tally = tally.lock().expect("nobody panics");
            tally.add(delivery.payload());
            if tally.count == count {
                let _ = whole.send(*tally);
            }
            Ok(())
        })?;
        Ok(read.recv_timeout(Duration::from_secs(60))?)
    }
}
