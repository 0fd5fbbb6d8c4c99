//! Takes the steps on the engine and on the model, and compares them.

use std::time::Duration;

use millstream::error::PublishBatchError;
use millstream::store::{Durability, Raw, Start, Store};
use millstream::{
    BatchReceipt, Broker, Dedup, Histograms, ManualClock, Message, MessageId, NoSubscribers,
    Overflow, PublishError, Receipt, Subscription, Topic,
};

use super::calls::{Call, Known};
use super::reference::{self, State, Stored};
use super::store::Directory;
use super::{NAMES, SLOTS, Setup, Step, TOPICS};
use crate::harness::{HOUR, Log, SEED};
use crate::program::{name_of, ticks};

type Handle = (Subscription, Log<Call>);

/// A process, as long as it lives.
struct Process {
    broker: Broker,
    clock: ManualClock,
    topics: [Topic<String>; 2],
}

pub struct Pair {
    pub setup: Setup,
    pub handles: [[Option<Handle>; SLOTS]; 2],
    process: Option<Process>,
    directory: Directory,
    pub model: [reference::Topic; 2],
    /// Makes each payload another one.
    count: u64,
}

impl Pair {
    pub fn new(setup: Setup) -> Self {
        let directory = Directory::new();
        let topic = || reference::Topic::new(setup.shapes, setup.ids);
        Self {
            handles: Default::default(),
            process: Some(Process::begin(&setup, &directory)),
            directory,
            model: [topic(), topic()],
            count: 0,
            setup,
        }
    }

    fn process(&self) -> &Process {
        self.process.as_ref().expect("one has begun")
    }

    pub fn broker(&self) -> &Broker {
        &self.process().broker
    }

    pub fn topic(&self, topic: usize) -> &Topic<String> {
        &self.process().topics[topic]
    }

    pub fn step(&mut self, step: Step) {
        match step {
            Step::Publish(topic, key) => self.publish(topic, key),
            Step::PublishOnce(topic, id) => self.publish_once(topic, id),
            Step::PublishBatch(topic, count) => self.publish_messages(topic, count, None),
            Step::PublishMessages(topic, count, key) => {
                self.publish_messages(topic, count, Some(key));
            }
            Step::Submit(topic, count) => self.submit(topic, count),
            Step::Run => self.run(),
            Step::Advance(by) => self.process().clock.advance(ticks(by)),
            Step::Settle => self.settle(),
            Step::Subscribe(topic, slot) => self.subscribe(topic, slot),
            Step::Unsubscribe(topic, slot, mode) => self.unsubscribe(topic, slot, mode),
            Step::Forget(topic, slot) => self.forget(topic, slot),
            Step::Redrive(topic) => self.redrive(topic),
            Step::Purge(topic) => self.purge(topic),
            Step::Read(topic, from) => self.read(topic, from),
            Step::Restart(rejoins) => self.restart(rejoins),
            Step::Crash(rejoins) => self.crash(rejoins),
        }
        self.check();
    }

    /// At the end all is done, and stored.
    pub fn finish(mut self) {
        self.settle();
        self.check();
        self.restart(true);
        self.settle();
        self.check();
        (0..TOPICS.len()).for_each(|topic| self.read(topic, 0));
    }

    // Publishes.

    fn payload(&mut self) -> String {
        self.count += 1;
        // So many bytes that files come to their end.
        format!("{:.<1$}", self.count, self.count as usize * 37 % 400)
    }

    fn room(&self, topic: usize) -> usize {
        let queued = self.topic(topic).metrics().queued;
        self.setup.capacity - queued as usize
    }

    /// Whether the topic refuses everything, because nobody is there.
    fn is_refused(&self, topic: usize) -> bool {
        self.setup.rejects && !self.model[topic].is_followed()
    }

    fn publish(&mut self, topic: usize, key: Option<u8>) {
        let payload = self.payload();
        let mut message = Message::new(payload.clone());
        let mut builder = self.topic(topic).message(payload.clone());
        if let Some(key) = key {
            message = message.key(name_of(key)).header("h", "v");
            builder = builder.key(name_of(key)).header("h", "v");
        }
        let room = self.room(topic);
        let real = match self.count % 2 {
            0 => builder.publish(),
            _ => builder.try_publish(),
        };
        self.judge_publish(topic, room, Stored { message, key }, real);
    }

    fn judge_publish(
        &mut self,
        topic: usize,
        room: usize,
        stored: Stored,
        real: Result<Receipt, PublishError<String>>,
    ) -> Option<u64> {
        let is_refused = self.is_refused(topic);
        match real {
            Ok(receipt) => {
                assert!(room > 0 && !is_refused);
                assert_eq!(receipt.durability(), Durability::Written);
                assert!(!receipt.is_dropped() && !receipt.is_duplicate());
                let id = self.model[topic].accept(stored);
                assert_eq!(receipt.id().get(), id);
                Some(id)
            }
            Err(PublishError::Full(payload)) => {
                assert_eq!(room, 0, "it has room");
                assert_eq!(payload, stored.message.into_inner());
                None
            }
            Err(PublishError::NoSubscribers(payload)) => {
                assert!(is_refused, "somebody is there");
                assert_eq!(payload, stored.message.into_inner());
                None
            }
            Err(error) => panic!("{error:?}"),
        }
    }

    fn publish_once(&mut self, topic: usize, id: u8) {
        let payload = self.payload();
        let message = Message::new(payload.clone()).dedup_id(name_of(id));
        let room = self.room(topic);
        let real = self.topic(topic).message(payload).dedup_id(name_of(id));
        let real = real.publish();
        let model = &mut self.model[topic];
        if let Some(first) = model.first_with(id) {
            let receipt = real.expect("a duplicate needs no room");
            assert!(receipt.is_duplicate(), "{receipt:?} of {id}");
            assert_eq!(receipt.id().get(), first);
            model.duplicates += 1;
            return;
        }
        let stored = Stored { message, key: None };
        if let Some(first) = self.judge_publish(topic, room, stored, real) {
            self.model[topic].remember(id, first);
        }
    }

    fn publish_messages(&mut self, topic: usize, count: usize, key: Option<u8>) {
        let messages: Vec<_> = (0..count)
            .map(|at| {
                let key = key.filter(|_| at % 2 == 0);
                let message = Message::new(self.payload());
                let message = key
                    .into_iter()
                    .fold(message, |message, key| message.key(name_of(key)));
                Stored { message, key }
            })
            .collect();
        let room = self.room(topic);
        let each = messages.iter().map(|stored| stored.message.clone());
        let (accepted, first, rest) = match key {
            None => {
                let payloads = each.map(Message::into_inner);
                taken(self.topic(topic).publish_batch(payloads))
            }
            Some(_) => taken(self.topic(topic).publish_messages(each)),
        };
        let most = if self.is_refused(topic) { 0 } else { room };
        assert_eq!((accepted, rest), (count.min(most), count - accepted));
        for (at, stored) in messages.into_iter().take(accepted).enumerate() {
            let id = self.model[topic].accept(stored);
            assert!(first.is_none_or(|first| first + at as u64 == id));
        }
    }

    fn submit(&mut self, topic: usize, count: usize) {
        let mut pending = Vec::new();
        for _ in 0..count {
            let payload = self.payload();
            let (room, message) = (self.room(topic), Message::new(payload.clone()));
            let stored = Stored { message, key: None };
            match self.topic(topic).submit(payload) {
                Ok(receipt) => pending.push((receipt, stored)),
                Err(error) => {
                    self.judge_publish(topic, room, stored, Err(error));
                }
            }
        }
        for (receipt, stored) in pending {
            let receipt = receipt.wait().expect("the disk works");
            let id = self.model[topic].accept(stored);
            assert_eq!(receipt.id().get(), id);
        }
    }

    // Time.

    fn run(&mut self) {
        self.broker().run_until_idle();
        self.judge_all();
    }

    fn judge_all(&mut self) {
        for topic in 0..TOPICS.len() {
            for slot in 0..SLOTS {
                if let Some((_, log)) = &self.handles[topic][slot] {
                    let log = log.clone();
                    self.judge(topic, slot, &log);
                }
            }
        }
    }

    pub fn judge(&mut self, topic: usize, slot: usize, log: &Log<Call>) {
        let known = Known::of(&self.model[topic], self.setup.policy);
        for call in log.take() {
            self.model[topic].lanes[slot].judge(call, &known);
        }
    }

    /// Lets everything come to its end.
    fn settle(&mut self) {
        self.run();
        for _ in 0..10_000 {
            let Some(next) = self.broker().next_deadline() else {
                break;
            };
            self.process().clock.advance(next);
            self.run();
            self.check_letters();
        }
        self.check_letters();
        for (topic, model) in self.model.iter_mut().enumerate() {
            for lane in model.lanes.iter_mut().filter(|lane| lane.is_open) {
                for (id, state) in &mut lane.states {
                    if *state == State::PerhapsDone {
                        *state = State::Done;
                    }
                    let is_done = matches!(state, State::Done | State::Letter { .. });
                    let name = NAMES[lane.slot];
                    assert!(is_done, "{id} of {} is {state:?} in {name}", TOPICS[topic]);
                }
            }
        }
    }

    fn restart(&mut self, rejoins: bool) {
        self.run();
        self.check();
        let open = self.end_handles();
        self.process = None;
        self.model.iter_mut().for_each(|topic| {
            topic.lanes.iter_mut().for_each(|lane| lane.restart());
        });
        self.begin(open, rejoins);
    }

    fn crash(&mut self, rejoins: bool) {
        self.run();
        self.check();
        let left = self.directory.copy();
        let open = self.end_handles();
        self.process = None;
        self.directory = left;
        self.model.iter_mut().for_each(|topic| {
            topic.lanes.iter_mut().for_each(|lane| lane.crash());
        });
        self.begin(open, rejoins);
    }

    /// Drops the handles, or leaves that to the end of their broker. Returns whose they were.
    fn end_handles(&mut self) -> Vec<(usize, usize)> {
        let mut open = Vec::new();
        for (topic, handles) in self.handles.iter_mut().enumerate() {
            for (slot, handle) in handles.iter_mut().enumerate() {
                if let Some((subscription, _)) = handle.take() {
                    open.push((topic, slot));
                    match self.count.is_multiple_of(2) {
                        true => drop(subscription),
                        false => subscription.detach(),
                    }
                }
            }
        }
        open
    }

    fn begin(&mut self, open: Vec<(usize, usize)>, rejoins: bool) {
        self.process = Some(Process::begin(&self.setup, &self.directory));
        self.model.iter_mut().for_each(reference::Topic::restart);
        (0..TOPICS.len()).for_each(|topic| self.read(topic, 0));
        if rejoins {
            for (topic, slot) in open {
                self.subscribe(topic, slot);
            }
        }
    }

    // What has to agree.

    /// What is read is what was acknowledged.
    fn read(&self, topic: usize, from: u64) {
        let stored = &self.model[topic].stored;
        let start = match from {
            0 => Start::Earliest,
            from => Start::Seq(from),
        };
        let from = (from.max(1) as usize - 1).min(stored.len());
        let records = self.topic(topic).read(start).expect("all is there");
        let records: Vec<_> = records.map(|one| one.expect("it is sound")).collect();
        assert_eq!(records.len(), stored.len() - from);
        for (at, (record, stored)) in records.iter().zip(&stored[from..]).enumerate() {
            assert_eq!(record.id.get(), (from + at + 1) as u64);
            assert_eq!(record.message, stored.message);
        }
    }

    fn check(&mut self) {
        // Whoever waits for an end on a broker without workers runs it, too.
        self.judge_all();
        self.check_letters();
        let metrics = self.broker().metrics();
        metrics.balance().expect("the books balance");
        for (topic, model) in self.model.iter().enumerate() {
            let real = metrics.topic(TOPICS[topic]).expect("it is open");
            assert_eq!(real.published, model.published);
            assert_eq!(real.duplicates, model.duplicates);
            for (lane, handle) in model.lanes.iter().zip(&self.handles[topic]) {
                if let Some((subscription, _)) = handle {
                    let counts = subscription.metrics().counts;
                    assert_eq!(counts.delivered, lane.delivered);
                }
            }
        }
    }
}

/// How many messages were accepted, the id of the first if it is told, and how many came back.
fn taken<T>(real: Result<BatchReceipt, PublishBatchError<T>>) -> (usize, Option<u64>, usize) {
    match real {
        Ok(receipt) => {
            let first = receipt.first().map(MessageId::get);
            (receipt.accepted(), first, 0)
        }
        Err(error) => (error.accepted, None, error.into_inner().len()),
    }
}

impl Process {
    fn begin(setup: &Setup, directory: &Directory) -> Self {
        let store = Store::builder(directory.path()).segment_size(4 << 10);
        let clock = ManualClock::new();
        let builder = Broker::builder().workers(0).manual_clock(&clock).seed(SEED);
        // Each step asks for the metrics.
        let builder = builder.histograms(Histograms::Off);
        let builder = builder.store(store.open().expect("whatever was left opens"));
        let broker = builder.build().expect("a manual broker starts no threads");
        let no_subscribers = match setup.rejects {
            true => NoSubscribers::Reject,
            false => NoSubscribers::Discard,
        };
        let topics = TOPICS.map(|name| {
            let builder = broker
                .topic::<String>(name)
                .durable(Raw)
                .durability(Durability::Written)
                .capacity(setup.capacity)
                .overflow(Overflow::Reject)
                .no_subscribers(no_subscribers)
                .dedup(Dedup::window(HOUR + Duration::from_secs(1)).ids(setup.ids))
                .retry(setup.policy.real());
            builder.open().expect("the settings are sound")
        });
        Self {
            broker,
            clock,
            topics,
        }
    }
}
