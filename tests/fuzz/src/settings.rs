//! Any settings: they are refused with an error that names them, or everything
//! works with them, however the clock jumps.

use std::time::Duration;

use arbitrary::{Arbitrary, Unstructured};
use millstream::error::{BuildError, OpenError, SettingError, SubscribeError};
use millstream::{Broker, Histograms, Idle, ManualClock, Nack, Subscription, Topic};

use super::shapes::{How, LaneShape, Linger, Policy, Size, Time, TopicShape, batched};
use super::{check_books, check_text};

#[derive(Debug, Arbitrary)]
struct Settings {
    broker: BrokerShape,
    topic: TopicShape,
    lane: LaneShape,
    later: Option<How>,
    later_policy: Option<Policy>,
    own_policy: Option<Policy>,
    buffer: Option<(Size, Linger)>,
    traffic: Vec<Traffic>,
    patience: Time,
}

#[derive(Debug, Arbitrary)]
struct BrokerShape {
    /// With a manual clock: anything but zero is refused.
    workers: Option<Size>,
    stack: Option<Size>,
    events: Option<Size>,
    spins: bool,
    records: bool,
}

#[derive(Debug, Arbitrary)]
enum Traffic {
    One(u8),
    After(Time, u8),
    Mortal(Time, u8),
    Many(u8),
    Jump(Time),
    Flush,
}

/// So many messages say all there is to say.
const MOST: usize = 64;

pub fn fuzz(bytes: &[u8]) {
    let Ok(settings) = Settings::arbitrary_take_rest(Unstructured::new(bytes)) else {
        return;
    };
    let clock = ManualClock::new();
    let Some(broker) = settings.broker.build(&clock) else {
        return;
    };
    let topic = match settings.topic.open::<u8>(&broker, "topic") {
        Ok(topic) => topic,
        Err(OpenError::Invalid(setting)) => return check_refusal(&setting),
        Err(other) => panic!("{other:?}"),
    };
    let sub = subscribe(&topic, settings.lane);
    if sub.is_none() {
        check_books(&broker);
    }
    settings.set_later(&topic, sub.as_ref());
    settings.send(&broker, &topic, &clock);
    check_books(&broker);
    finish(&broker, settings.patience);
}

impl BrokerShape {
    fn build(&self, clock: &ManualClock) -> Option<Broker> {
        let mut builder = Broker::builder().manual_clock(clock).thread_name("a\0b\n");
        builder = builder.workers(self.workers.map_or(0, |Size(workers)| workers));
        if let Some(Size(bytes)) = self.stack {
            builder = builder.stack_size(bytes);
        }
        if let Some(Size(events)) = self.events {
            builder = builder.event_buffer(events);
        }
        if self.spins {
            builder = builder.idle(Idle::Spin);
        }
        if !self.records {
            builder = builder.histograms(Histograms::Off);
        }
        match builder.build() {
            Ok(broker) => Some(broker),
            Err(BuildError::Invalid(setting)) => {
                check_refusal(&setting);
                None
            }
            Err(other) => panic!("{other:?}"),
        }
    }
}

fn check_refusal(setting: &SettingError) {
    check_text(setting);
    assert!(!setting.setting().is_empty());
}

/// Every third message fails at first.
fn handle(payload: u8, attempt: u32) -> Result<(), Nack> {
    match (payload % 3, attempt) {
        (0, 1..=3) => Err(Nack::retry("every third one")),
        _ => Ok(()),
    }
}

fn subscribe(topic: &Topic<u8>, shape: LaneShape) -> Option<Subscription> {
    let lane = shape.begin(topic, "lane");
    let sub = match shape.batches {
        None => lane.subscribe(|delivery| handle(*delivery.payload(), delivery.attempt())),
        Some((size, linger)) => lane.subscribe_batches(batched(size, linger), |batch| {
            for (at, delivery) in batch.iter().enumerate() {
                if let Err(nack) = handle(*delivery.payload(), delivery.attempt()) {
                    batch.nack(at, nack);
                }
            }
            Ok(())
        }),
    };
    match sub {
        Ok(sub) => Some(sub),
        Err(SubscribeError::Invalid(setting)) => {
            check_refusal(&setting);
            None
        }
        Err(other) => panic!("{other:?}"),
    }
}

impl Settings {
    /// What can be set while traffic runs.
    fn set_later(&self, topic: &Topic<u8>, sub: Option<&Subscription>) {
        let strategy = match self.later {
            None => Ok(()),
            Some(How::Immediate) => topic.set_strategy(millstream::Immediate),
            Some(How::Batched(size, linger)) => topic.set_strategy(batched(size, linger)),
            Some(How::Odd(odd)) => topic.set_strategy(odd),
        };
        let policy = self
            .later_policy
            .map_or(Ok(()), |it| topic.set_retry(it.backoff()));
        let own = sub.zip(self.own_policy);
        let own = own.map_or(Ok(()), |(sub, it)| sub.set_retry(it.backoff()));
        for refused in [strategy, policy, own].into_iter().filter_map(Result::err) {
            check_refusal(&refused);
        }
    }

    fn send(&self, broker: &Broker, topic: &Topic<u8>, clock: &ManualClock) {
        let mut buffer = self.buffer.and_then(|(size, linger)| {
            let buffer = topic.buffered(batched(size, linger));
            buffer.inspect_err(check_refusal).ok()
        });
        for traffic in self.traffic.iter().take(MOST) {
            let refused = match *traffic {
                Traffic::One(payload) => match &mut buffer {
                    Some(buffer) => buffer.publish(payload).err(),
                    None => topic.publish(payload).err(),
                },
                Traffic::After(Time(delay), payload) => topic.publish_after(delay, payload).err(),
                Traffic::Mortal(Time(ttl), payload) => {
                    topic.message(payload).ttl(ttl).publish().err()
                }
                Traffic::Many(count) => {
                    let _ = topic.publish_batch(0..count).map_err(check_text);
                    None
                }
                Traffic::Jump(Time(by)) => {
                    clock.advance(by);
                    broker.run_until_idle();
                    None
                }
                Traffic::Flush => {
                    topic.flush();
                    None
                }
            };
            if let Some(refused) = refused {
                check_text(&refused);
            }
        }
        drop(buffer);
        broker.run_until_idle();
    }
}

/// The end comes at once, and accounts for everything.
fn finish(broker: &Broker, Time(patience): Time) {
    let report = match broker.drain(patience) {
        Ok(report) => {
            assert!(report.is_complete(), "{report:?}");
            report
        }
        Err(error) => {
            error.to_string().lines().for_each(check_text);
            *error.report()
        }
    };
    let ends = report.dispatched + report.unrouted + report.messages_dropped;
    assert_eq!(
        (report.remaining, ends),
        (0, report.published),
        "{report:?}"
    );
    assert!(report.took < Duration::from_secs(60));
    check_books(broker);
}
