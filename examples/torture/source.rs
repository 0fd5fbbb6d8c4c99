//! A publisher, and what it counts.

use std::mem::take;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::sleep;
use std::time::{Duration, Instant};

use fastrand::Rng;
use millstream::error::PublishBatchError;
use millstream::protect::Priority;
use millstream::{
    BatchReceipt, Batched, Broker, Message, PublishError, Receipt, Topic, Tracker, Unkeyed,
};

use crate::ledger::Ledger;
use crate::partitions::Split;
use crate::shot::Shot;
use crate::verdict::check;

/// The longest delay of a message.
const MAX_DELAY_MS: u64 = 40;

/// Keys of one publisher.
const KEYS: u64 = 4;

/// What became of a publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    Accepted,
    Refused,
    Closed,
}

/// Publishes one stream to one topic, and keeps an account of it. A sequence that
/// was refused is used again, so that streams have no gaps.
pub struct Source {
    ledger: Arc<Ledger>,
    topic: Topic<Shot>,
    stream: u32,
    /// What all of the stream has in a topic that is split, or nothing of it.
    key: Option<String>,
    /// It is published by whichever thread.
    roams: bool,
    /// The last one that was accepted.
    last: u64,
    /// The broker's end has refused something.
    pub was_closed: bool,
    /// One in so many is a bomb; 0: none.
    pub bombs: u32,
    /// How often handlers may pass on what comes from here.
    pub hops: u8,
}

impl Source {
    pub fn new(ledger: &Arc<Ledger>) -> Self {
        let stream = ledger.new_stream();
        let has_key = ledger.terms.split.is_some() && stream % 2 == 1;
        Self {
            ledger: Arc::clone(ledger),
            topic: ledger.topic(),
            stream,
            key: has_key.then(|| format!("stream {stream}")),
            roams: false,
            last: 0,
            was_closed: false,
            bombs: 0,
            hops: 0,
        }
    }

    fn shot(&self, sequence: u64) -> Shot {
        let mut shot = Shot::new(self.ledger.number, self.stream, sequence);
        shot.hops = self.hops;
        shot.in_order = self.is_in_order();
        shot.bomb = self.bombs > 0 && sequence.is_multiple_of(u64::from(self.bombs));
        shot
    }

    /// A topic that is split keeps the order of a key, and at most that of a thread.
    fn is_in_order(&self) -> bool {
        let split = self.ledger.terms.split;
        let by_thread = |split: Split| split.unkeyed == Unkeyed::Sticky && !self.roams;
        self.key.is_some() || split.is_none_or(by_thread)
    }

    /// Publishes in one way or another, up to 200 messages.
    pub fn publish(&mut self, random: &mut Rng, delays: bool) -> Sent {
        match random.u32(..20) {
            0..=7 => self.publish_one(),
            8..=11 => self.publish_batch(random.u64(1..200)),
            12..=13 => self.publish_messages(random.u64(1..200), random),
            18 if self.ledger.terms.dedups => self.publish_again(random),
            #[cfg(feature = "async")]
            17 => self.publish_awaited(random),
            14 => self.publish_marked(random),
            15 if delays => self.publish_late(random),
            16 => self.publish_buffered(random),
            _ => self.publish_batch(64),
        }
    }

    pub fn publish_one(&mut self) -> Sent {
        let shot = self.shot(self.last + 1);
        let sent = match &self.key {
            Some(key) => self.topic.message(shot).key(key.as_str()).publish(),
            None => self.topic.publish(shot),
        };
        self.one(sent)
    }

    /// One by one, as what has a key can't go otherwise; up to the first refusal.
    fn publish_each(&mut self, count: u64) -> Sent {
        let sent = (0..count).map(|_| self.publish_one());
        let mut refused = sent.skip_while(|sent| *sent == Sent::Accepted);
        refused.next().unwrap_or(Sent::Accepted)
    }

    /// A message of one of a few keys of its own.
    pub fn publish_keyed(&mut self) -> Sent {
        let sequence = self.last + 1;
        let key = format!("{}-{}", self.stream, sequence % KEYS);
        let mut shot = self.shot(sequence);
        // Between its keys there is none, where several hands are at it.
        shot.in_order = false;
        let sent = self.topic.message(shot).key(key).publish();
        self.one(sent)
    }

    /// Finds the topic by its name, if there is a broker to ask.
    pub fn publish_by_name(&mut self, broker: Option<Broker>) -> Sent {
        let Some(broker) = broker else {
            return Sent::Closed;
        };
        if self.key.is_some() {
            return self.publish_one();
        }
        let sent = broker.publish(self.topic.name(), self.shot(self.last + 1));
        self.one(sent)
    }

    /// Passes something on.
    pub fn relay(&mut self, hops: u8, random: &mut Rng) -> Sent {
        self.hops = hops;
        self.roams = true;
        match random.bool() {
            true => self.publish_one(),
            false => self.publish_batch(2),
        }
    }

    fn publish_marked(&mut self, random: &mut Rng) -> Sent {
        let mut message = self.topic.message(self.shot(self.last + 1));
        if let Some(key) = self.key_of_one() {
            message = message.key(key);
        }
        if random.bool() {
            message = message.header("a header", "with a value");
        }
        if self.ledger.terms.expires && random.bool() {
            message = message.ttl(Duration::from_micros(random.u64(1..3_000)));
        }
        message = message.priority(level(random));
        let sent = match random.u32(..4) {
            0 => message.publish(),
            1 => message.try_publish(),
            2 => {
                let tracker = self.topic.tracker();
                let published = message.tracked(&tracker).publish();
                published.inspect(|_| self.ledger.track(Some(tracker), 1))
            }
            _ => message.publish_timeout(Duration::from_micros(random.u64(..2_000))),
        };
        self.one(sent)
    }

    /// A message that is published again, as if its publisher had not heard of the receipt.
    fn publish_again(&mut self, random: &mut Rng) -> Sent {
        let id = format!("{}-{}", self.stream, self.last + 1);
        let message = || {
            let shot = self.shot(self.last + 1);
            let message = self.topic.message(shot).dedup_id(id.as_str());
            match self.key_of_one() {
                Some(key) => message.key(key),
                None => message,
            }
        };
        let sent = message().publish();
        let first = sent.as_ref().ok().copied();
        let again = first.filter(|first| !first.is_dropped()).map(|first| {
            let wait = Duration::from_micros(random.u64(..2_000));
            (first, message().publish_timeout(wait))
        });
        if let Some((first, again)) = again {
            self.ledger.duplicates.fetch_add(1, Relaxed);
            let is_known = |again: &Receipt| again.is_duplicate() && again.id() == first.id();
            check(
                again.as_ref().is_ok_and(is_known),
                "dedup",
                format_args!("{id} is {first}, and then {again:?}"),
            );
        }
        self.one(sent)
    }

    /// A key that leaves a message in the order of its stream.
    fn key_of_one(&self) -> Option<&str> {
        // Another key would part it from the others of its stream.
        let is_split = self.ledger.terms.split.is_some();
        self.key.as_deref().or((!is_split).then_some("a key"))
    }

    /// One of several messages that are published together, marked in one way or another.
    fn message(&self, sequence: u64, random: &mut Rng) -> Message<Shot> {
        let mut message = Message::new(self.shot(sequence));
        let must_have = self.key.is_some();
        if let Some(key) = self.key_of_one()
            && (must_have || random.bool())
        {
            message = message.key(key);
        }
        if random.u32(..4) == 0 {
            message = message.header("a header", "with a value");
            message = message.header_bytes("another", sequence.to_be_bytes());
        }
        message = message.priority(level(random));
        if self.ledger.terms.dedups && random.u32(..4) == 0 {
            message = message.dedup_id(format!("{}-{sequence}", self.stream));
        }
        if self.ledger.terms.expires && random.u32(..4) == 0 {
            message = message.ttl(Duration::from_micros(random.u64(1..3_000)));
        }
        message
    }

    /// A message that is due later has no place in the order of its stream.
    fn publish_late(&mut self, random: &mut Rng) -> Sent {
        let delay = Duration::from_micros(random.u64(..MAX_DELAY_MS * 1_000));
        let mut shot = self.shot(0);
        shot.due = Some(Instant::now() + delay);
        let sent = self.topic.publish_after(delay, shot);
        let (last, receipt) = (self.last, sent.as_ref().ok().copied());
        let sent = self.one(sent);
        self.last = last;
        if let Some(receipt) = receipt
            && random.u32(..4) == 0
        {
            sleep(Duration::from_micros(random.u64(..MAX_DELAY_MS * 100)));
            if let Ok(message) = self.topic.cancel_delayed(receipt.id()) {
                self.ledger.dropped.fetch_add(1, Relaxed);
                message.into_inner().defuse();
            }
        }
        sent
    }

    fn one(&mut self, sent: Result<Receipt, PublishError<Shot>>) -> Sent {
        let ledger = &self.ledger;
        match sent {
            Ok(receipt) => {
                self.last += 1;
                ledger.accepted.fetch_add(1, Relaxed);
                let dropped = u64::from(receipt.evicted()) + u64::from(receipt.is_dropped());
                ledger.dropped.fetch_add(dropped, Relaxed);
                Sent::Accepted
            }
            Err(error) => {
                ledger.refused.fetch_add(1, Relaxed);
                let closed = matches!(error, PublishError::Closed(_));
                error.into_inner().defuse();
                self.refused(closed)
            }
        }
    }

    pub fn publish_batch(&mut self, count: u64) -> Sent {
        if self.key.is_some() {
            return self.publish_each(count);
        }
        let (first, last) = (self.last + 1, self.last + count);
        let shots: Vec<_> = (first..=last).map(|n| self.shot(n)).collect();
        self.last = last;
        let sent = self.topic.publish_batch(shots);
        self.many(sent)
    }

    fn publish_messages(&mut self, count: u64, random: &mut Rng) -> Sent {
        let (shots, tracker) = self.messages(count, random);
        let sent = self.topic.publish_messages(shots);
        let accepted = match &sent {
            Ok(receipt) => receipt.accepted(),
            Err(partial) => partial.accepted,
        };
        self.ledger.track(tracker, accepted);
        self.many(sent)
    }

    /// Messages that are published together, and the tracker that some of these batches have.
    fn messages(&mut self, count: u64, random: &mut Rng) -> (Vec<Message<Shot>>, Option<Tracker>) {
        let (first, last) = (self.last + 1, self.last + count);
        self.last = last;
        let tracker = (random.u32(..4) == 0).then(|| self.topic.tracker());
        let shots = (first..=last).map(|sequence| {
            let message = self.message(sequence, random);
            match &tracker {
                Some(tracker) => message.tracked(tracker),
                None => message,
            }
        });
        (shots.collect(), tracker)
    }

    /// By a future, which is given up after a while.
    #[cfg(feature = "async")]
    fn publish_awaited(&mut self, random: &mut Rng) -> Sent {
        let (shots, tracker) = self.messages(random.u64(1..200), random);
        let mut publishing = self.topic.publish_messages_async(shots);
        let until = Instant::now() + Duration::from_micros(random.u64(..3_000));
        let sent = wait_for(&mut publishing, until);
        self.ledger.track(tracker, publishing.receipt().accepted());
        if let Some(sent) = sent {
            return self.many(sent);
        }
        let (receipt, rest) = (publishing.receipt(), publishing.into_inner());
        self.last -= rest.len() as u64;
        for message in rest {
            message.into_inner().defuse();
        }
        self.many::<Message<Shot>>(Ok(receipt))
    }

    /// Through a publisher that collects; slowly at times, so that a worker finds
    /// what has lingered.
    fn publish_buffered(&mut self, random: &mut Rng) -> Sent {
        let most = self.ledger.terms.capacity.min(64);
        let batches = Batched::of(random.usize(1..=most)).linger(Duration::from_micros(200));
        let Ok(mut publisher) = self.topic.buffered(batches) else {
            return Sent::Refused;
        };
        for _ in 0..random.u32(1..100) {
            let sequence = self.last + 1;
            let published = if self.key.is_some() || random.u32(..4) == 0 {
                let published = publisher.publish_message(self.message(sequence, random));
                published.map_err(|error| error.into_inner().into_inner())
            } else {
                let published = publisher.publish(self.shot(sequence));
                published.map_err(PublishError::into_inner)
            };
            match published {
                Ok(()) => self.last += 1,
                Err(refused) => {
                    self.ledger.refused.fetch_add(1, Relaxed);
                    refused.defuse();
                }
            }
            if random.u32(..40) == 0 {
                sleep(Duration::from_micros(random.u64(..600)));
            }
        }
        let sent = publisher.flush();
        self.many(sent)
    }

    /// What was refused of several is a tail of them.
    fn many<M: Into<Message<Shot>>>(
        &mut self,
        sent: Result<BatchReceipt, PublishBatchError<M>>,
    ) -> Sent {
        let ledger = &self.ledger;
        match sent {
            Ok(receipt) => {
                ledger
                    .accepted
                    .fetch_add(receipt.accepted() as u64, Relaxed);
                let dropped = (receipt.evicted() + receipt.dropped()) as u64;
                ledger.dropped.fetch_add(dropped, Relaxed);
                Sent::Accepted
            }
            Err(partial) => {
                ledger.accepted.fetch_add(partial.accepted as u64, Relaxed);
                // How many were dropped for those that were accepted, it doesn't say.
                ledger.unsure.store(true, Relaxed);
                let closed = matches!(partial.error, PublishError::Closed(_));
                let rest = partial.into_inner().into_iter();
                let rest: Vec<_> = rest.map(|one| one.into().into_inner()).collect();
                ledger.refused.fetch_add(rest.len() as u64, Relaxed);
                self.last = rest.first().map_or(self.last, |shot| shot.sequence - 1);
                rest.into_iter().for_each(Shot::defuse);
                self.refused(closed)
            }
        }
    }

    fn refused(&mut self, closed: bool) -> Sent {
        self.was_closed |= closed;
        if closed { Sent::Closed } else { Sent::Refused }
    }
}

/// Polls on this thread, until the future is ready or the time is up.
#[cfg(feature = "async")]
pub fn wait_for<F: Future + Unpin>(future: &mut F, until: Instant) -> Option<F::Output> {
    struct Unpark(std::thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Arc::new(Unpark(std::thread::current())).into();
    let context = &mut std::task::Context::from_waker(&waker);
    loop {
        match std::pin::Pin::new(&mut *future).poll(context) {
            std::task::Poll::Ready(output) => return Some(output),
            std::task::Poll::Pending => {}
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return None;
        }
        std::thread::park_timeout(left);
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.ledger.close_stream(self.stream, take(&mut self.last));
    }
}

/// Half of the messages are of the default.
fn level(random: &mut Rng) -> Priority {
    match random.bool() {
        true => Priority::Normal,
        false => Priority::ALL[random.usize(..4)],
    }
}
