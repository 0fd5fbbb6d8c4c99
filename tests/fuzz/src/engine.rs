//! Any program of publishes, subscriptions, failures, swaps, jumps of the clock,
//! redrives and drains, on an engine that runs on this thread: no panic gets
//! through, the books balance after every step, what must be bounded is, and in the
//! end nothing that was published is still alive.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arbitrary::{Arbitrary, Unstructured};
use millstream::dead_letters::DeadLetter;
use millstream::event::Observation;
use millstream::{
    Broker, BufferedPublisher, Delivery, DeliveryBatch, ManualClock, Nack, Subscription, Topic,
    Unsubscribed,
};

use super::shapes::{
    End, How, LaneShape, Linger, Policy, Size, Time, TopicShape, batched, quiet_panic,
};
use super::{check_books, check_text, manual};

#[derive(Debug, Arbitrary)]
struct Program {
    topic: TopicShape,
    steps: Vec<Step>,
}

#[derive(Debug, Arbitrary)]
enum Step {
    Publish(Script),
    Message {
        script: Script,
        key: Option<String>,
        ttl: Option<Time>,
        after: Option<Time>,
    },
    Batch(u8, Script),
    Buffer(u8, Script),
    SetBuffer(Option<(Size, Linger)>),
    Subscribe(Slot, LaneShape),
    Unsubscribe(Slot, End),
    Forget(Slot),
    Detach(Slot),
    Jump(Time),
    Run,
    Flush,
    Swap(How),
    SwapAll(How),
    SetRetry(Policy),
    SetOwnRetry(Slot, Policy),
    Redrive(u8),
    Purge(u8),
    Observe,
    Overlook,
    Remove,
    Drain(Time),
}

/// One of a few places for subscriptions.
#[derive(Clone, Copy, Debug, Arbitrary)]
enum Slot {
    A,
    B,
    C,
}

const NAMES: [&str; 3] = ["a", "b", "c"];

/// What a handler makes of a message: four bits for each of the first attempts.
#[derive(Clone, Copy, Debug, Arbitrary)]
struct Script(u16);

/// So many steps say all there is to say.
const MOST: usize = 64;

/// What is published. It counts itself.
struct Payload {
    script: Script,
    /// How often a handler may publish it again.
    echoes: u8,
    alive: Arc<()>,
}

thread_local! {
    /// What handlers reach for while a program runs.
    static BROKER: RefCell<Option<(Broker, ManualClock)>> = const { RefCell::new(None) };
}

pub fn fuzz(bytes: &[u8]) {
    let Ok(program) = Program::arbitrary_take_rest(Unstructured::new(bytes)) else {
        return;
    };
    let (broker, clock) = manual();
    let Ok(topic) = program.topic.open(&broker, "topic") else {
        return;
    };
    BROKER.set(Some((broker.clone(), clock.clone())));
    let mut world = World {
        shape: program.topic,
        topic: Some(topic),
        buffer: None,
        subs: [const { None }; 3],
        observation: None,
        acked: Arc::default(),
        batched: false,
        alive: Arc::default(),
        broker,
        clock,
    };
    for step in program.steps.iter().take(MOST) {
        world.take(step);
        world.check();
    }
    BROKER.set(None);
    world.end();
}

struct World {
    shape: TopicShape,
    /// `None` once it has been removed.
    topic: Option<Topic<Payload>>,
    buffer: Option<BufferedPublisher<Payload>>,
    subs: [Option<Subscription>; 3],
    observation: Option<Observation>,
    /// Calls of handlers that answered `Ok`.
    acked: Arc<AtomicU64>,
    /// There was a batch handler, whose answers are not counted.
    batched: bool,
    alive: Arc<()>,
    broker: Broker,
    clock: ManualClock,
}

impl World {
    fn payload(&self, script: Script) -> Payload {
        Payload {
            script,
            echoes: 2,
            alive: Arc::clone(&self.alive),
        }
    }

    fn payloads(&self, count: u8, script: Script) -> Vec<Payload> {
        (0..count).map(|_| self.payload(script)).collect()
    }

    fn take(&mut self, step: &Step) {
        let Some(topic) = self.topic.clone() else {
            return;
        };
        match step {
            Step::Publish(script) => said(topic.publish(self.payload(*script))),
            Step::Message {
                script,
                key,
                ttl,
                after,
            } => {
                let mut message = topic.message(self.payload(*script)).header("name", "value");
                if let Some(key) = key {
                    message = message.key(key.as_str()).header(key.as_str(), key.as_str());
                }
                if let Some(Time(ttl)) = ttl {
                    message = message.ttl(*ttl);
                }
                if let Some(Time(delay)) = after {
                    message = message.after(*delay);
                }
                said(message.publish());
            }
            Step::Batch(count, script) => {
                let asked = usize::from(*count);
                match topic.publish_batch(self.payloads(*count, *script)) {
                    Ok(receipt) => assert_eq!(receipt.accepted(), asked),
                    Err(part) => {
                        check_text(&part);
                        assert_eq!(part.accepted + part.into_inner().len(), asked);
                    }
                }
            }
            Step::Buffer(count, script) => {
                let payloads = self.payloads(*count, *script);
                if let Some(buffer) = &mut self.buffer {
                    payloads
                        .into_iter()
                        .for_each(|payload| said(buffer.publish(payload)));
                }
            }
            Step::SetBuffer(None) => self.buffer = None,
            Step::SetBuffer(Some((size, linger))) => {
                self.buffer = topic.buffered(batched(*size, *linger)).ok();
            }
            Step::Subscribe(slot, shape) => self.subscribe(&topic, *slot, *shape),
            Step::Unsubscribe(slot, end) => {
                if let Some(sub) = self.subs[*slot as usize].take() {
                    let ended = sub.unsubscribe(end.mode());
                    assert!(matches!(ended, Unsubscribed::Ended(_)), "{ended:?}");
                }
            }
            Step::Forget(slot) => self.subs[*slot as usize] = None,
            Step::Detach(slot) => {
                if let Some(sub) = self.subs[*slot as usize].take() {
                    sub.detach();
                }
            }
            Step::Jump(Time(by)) => {
                self.clock.advance(*by);
                self.broker.run_until_idle();
            }
            Step::Run => {
                self.broker.run_until_idle();
                assert_eq!(self.broker.run_until_idle(), 0, "idle means idle");
            }
            Step::Flush => topic.flush(),
            Step::Swap(how) => said(match *how {
                How::Immediate => topic.set_strategy(millstream::Immediate),
                How::Batched(size, linger) => topic.set_strategy(batched(size, linger)),
                How::Odd(odd) => topic.set_strategy(odd),
            }),
            Step::SwapAll(how) => said(match *how {
                How::Immediate => self.broker.set_strategy(millstream::Immediate),
                How::Batched(size, linger) => self.broker.set_strategy(batched(size, linger)),
                How::Odd(odd) => self.broker.set_strategy(odd),
            }),
            Step::SetRetry(policy) => said(topic.set_retry(policy.backoff())),
            Step::SetOwnRetry(slot, policy) => {
                if let Some(sub) = &self.subs[*slot as usize] {
                    said(sub.set_retry(policy.backoff()));
                }
            }
            Step::Redrive(bits) => {
                let store = topic.dead_letters();
                let (before, redriven) = (store.len(), store.redrive(chosen(*bits)));
                assert_eq!(store.len(), before - redriven.redriven);
            }
            Step::Purge(bits) => {
                let store = topic.dead_letters();
                let (before, purged) = (store.len(), store.purge(chosen(*bits)));
                assert_eq!(store.len(), before - purged);
            }
            Step::Observe => {
                let observation = self.broker.observe(|event| check_text(event));
                self.observation = observation.ok();
            }
            Step::Overlook => self.observation = None,
            Step::Remove => {
                drop(topic);
                self.remove();
            }
            Step::Drain(Time(patience)) => match self.broker.drain(*patience) {
                Ok(report) => assert!(report.is_complete(), "{report:?}"),
                Err(error) => assert!(!error.report().is_complete(), "{error:?}"),
            },
        }
    }

    fn subscribe(&mut self, topic: &Topic<Payload>, slot: Slot, shape: LaneShape) {
        let name = NAMES[slot as usize];
        let acked = Arc::clone(&self.acked);
        let lane = shape.begin(topic, name);
        let own = topic.clone();
        let sub = match shape.batches {
            None => lane.subscribe(move |delivery| {
                let answer = answer(&own, delivery);
                acked.fetch_add(u64::from(answer.is_ok()), Ordering::Relaxed);
                answer
            }),
            Some((size, linger)) => {
                self.batched = true;
                lane.subscribe_batches(batched(size, linger), move |batch| {
                    answer_batch(&own, batch)
                })
            }
        };
        match sub {
            Ok(sub) => self.subs[slot as usize] = Some(sub),
            Err(error) => check_text(error),
        }
    }

    /// Takes the topic off if nothing refers to it, and is told why not otherwise.
    fn remove(&mut self) {
        let Some(topic) = self.topic.take() else {
            return;
        };
        let is_held = self.buffer.is_some();
        drop(topic);
        match self.broker.remove_topic("topic") {
            Ok(()) => assert!(!is_held),
            Err(error) => {
                check_text(error);
                self.topic = self.broker.topic("topic").open().ok();
            }
        }
    }

    fn check(&self) {
        let metrics = check_books(&self.broker);
        let Some(topic) = metrics.topic("topic") else {
            return;
        };
        let bound = |size: Option<Size>| size.map_or(1_024, |Size(size)| size);
        assert!(topic.queued as usize <= bound(self.shape.capacity));
        assert!(topic.dead_letters <= bound(self.shape.letters));
        if !self.batched {
            let delivered = topic.deliveries().delivered;
            assert_eq!(delivered, self.acked.load(Ordering::Relaxed));
        }
    }

    /// Whatever is dropped last, nothing stays behind.
    fn end(self) {
        let Self {
            topic,
            buffer,
            subs,
            observation,
            broker,
            alive,
            ..
        } = self;
        drop(broker);
        drop((buffer, subs, observation, topic));
        assert_eq!(Arc::strong_count(&alive), 1, "payloads outlive everything");
    }
}

/// A refusal that can be shown.
fn said<V, E: std::fmt::Display>(result: Result<V, E>) {
    if let Err(error) = result {
        check_text(error);
    }
}

fn chosen(bits: u8) -> impl FnMut(&DeadLetter<Payload>) -> bool {
    move |letter| (u64::from(bits) >> (letter.id().get() % 8)) & 1 == 1
}

/// What the handlers do, and answer: by the message's script and the attempt. The
/// fifth attempt succeeds.
fn answer(topic: &Topic<Payload>, delivery: &Delivery<'_, Payload>) -> Result<(), Nack> {
    let Payload { script, echoes, .. } = delivery.payload();
    let step = match delivery.attempt() {
        attempt @ 1..=4 => (script.0 >> (4 * (attempt - 1))) & 15,
        _ => 0,
    };
    match step {
        6 => return Err(Nack::retry("as the policy says")),
        7 => return Err(Nack::retry_after(Duration::ZERO, "at once")),
        8 => return Err(Nack::retry_after(Duration::MAX, "never")),
        9 => return Err(Nack::dead_letter("it can't help")),
        10 => return Err(Nack::discard("it doesn't matter")),
        11 => quiet_panic(),
        12 => "not a number".parse::<u8>().map(drop)?,
        13 if *echoes > 0 => {
            let echo = Payload {
                script: *script,
                echoes: echoes - 1,
                alive: Arc::clone(&delivery.payload().alive),
            };
            said(topic.publish(echo));
        }
        14 => reach_for_everything(topic, script.0),
        15 => said(topic.publish_batch([])),
        _ => {}
    }
    Ok(())
}

fn answer_batch(
    topic: &Topic<Payload>,
    batch: &mut DeliveryBatch<'_, Payload>,
) -> Result<(), Nack> {
    for (at, delivery) in batch.iter().enumerate() {
        if let Err(nack) = answer(topic, &delivery) {
            assert!(batch.nack(at, nack));
        }
    }
    Ok(())
}

/// What a handler had better not do, and may.
fn reach_for_everything(topic: &Topic<Payload>, bits: u16) {
    let Some((broker, clock)) = BROKER.with_borrow(Clone::clone) else {
        return;
    };
    assert_eq!(broker.run_until_idle(), 0);
    assert!(!broker.wait_until_idle(Duration::MAX));
    topic.flush();
    match bits % 5 {
        0 => said(topic.set_strategy(millstream::Immediate)),
        1 => clock.advance(Duration::from_millis(u64::from(bits))),
        2 => {
            let _ = topic.dead_letters().redrive(|_| true);
        }
        3 => {
            let sub = topic.subscribe("inner", |_| Ok(()));
            if let (Ok(sub), true) = (sub, bits & 64 == 0) {
                assert_eq!(
                    sub.unsubscribe(millstream::Unsubscribe::Cancel),
                    Unsubscribed::Ending
                );
            }
        }
        _ if bits & 192 == 0 => {
            broker
                .drain(Duration::ZERO)
                .expect_err("it runs inside a handler");
        }
        _ => {}
    }
}
