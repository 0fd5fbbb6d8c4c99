//! What is counted: each scenario does its work in rounds on a manual broker, and
//! only what goes through [`measured`] counts.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use millstream::event::Event;
use millstream::protect::{Breaker, Priorities, Priority, RateLimit};
use millstream::{
    Backoff, Broker, BrokerBuilder, Delivery, Lease, ManualClock, Nack, OnFailure, Pull,
    PullSubscription, Subscription, SubscriptionBuilder, Topic,
};

/// One thing whose cost is guarded.
pub struct Scenario {
    pub name: &'static str,
    /// What the instructions are divided by.
    pub unit: &'static str,
    /// Answers how many units were measured.
    pub run: fn() -> u64,
}

pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "publish",
        unit: "message",
        run: publish,
    },
    Scenario {
        name: "publish_batch",
        unit: "message",
        run: publish_batch,
    },
    Scenario {
        name: "publish_by_name",
        unit: "message",
        run: publish_by_name,
    },
    Scenario {
        name: "dispatch",
        unit: "message",
        run: dispatch,
    },
    Scenario {
        name: "deliver_1_to_1",
        unit: "delivery",
        run: || deliver(1),
    },
    Scenario {
        name: "deliver_1_to_16",
        unit: "delivery",
        run: || deliver(16),
    },
    Scenario {
        name: "batches_1_to_1",
        unit: "delivery",
        run: batches,
    },
    Scenario {
        name: "singly",
        unit: "message",
        run: singly,
    },
    Scenario {
        name: "observed",
        unit: "message",
        run: observed,
    },
    Scenario {
        name: "retry",
        unit: "retry",
        run: retry,
    },
    Scenario {
        name: "delayed",
        unit: "message",
        run: delayed,
    },
    Scenario {
        name: "block_key",
        unit: "delivery",
        run: block_key,
    },
    Scenario {
        name: "priorities",
        unit: "delivery",
        run: priorities,
    },
    Scenario {
        name: "protected",
        unit: "delivery",
        run: protected,
    },
    Scenario {
        name: "protected_levels",
        unit: "delivery",
        run: protected_levels,
    },
    Scenario {
        name: "concurrent",
        unit: "delivery",
        run: concurrent,
    },
    Scenario {
        name: "protected_concurrent",
        unit: "delivery",
        run: protected_concurrent,
    },
    Scenario {
        name: "pull_recv",
        unit: "lease",
        run: pull_recv,
    },
    Scenario {
        name: "pull_batch",
        unit: "lease",
        run: pull_batch,
    },
    #[cfg(feature = "async")]
    Scenario {
        name: "stream",
        unit: "lease",
        run: stream,
    },
    #[cfg(feature = "async")]
    Scenario {
        name: "async_handler",
        unit: "delivery",
        run: async_handler,
    },
    Scenario {
        name: "crossbeam_channel",
        unit: "message",
        run: crossbeam_channel,
    },
    Scenario {
        name: "std_sync_channel",
        unit: "message",
        run: std_sync_channel,
    },
];

/// The scenarios that differ by protection alone, without it and with it.
pub const PROTECTED: [(&str, &str); 2] = [
    ("deliver_1_to_1", "protected"),
    ("concurrent", "protected_concurrent"),
];

/// The function whose inside valgrind counts. It is never inlined and ends in no
/// tail call, so that it is entered and left as often as it is called.
#[inline(never)]
pub fn measured(work: &mut dyn FnMut()) {
    work();
    black_box(MESSAGES);
}

/// Messages in a round: the default capacity of a topic and of a lane.
const MESSAGES: usize = 1_024;
/// Measured rounds, after one that allocates what is kept.
const ROUNDS: usize = 16;
/// Messages that share a slot of the queue.
const CHUNK: usize = 64;
const DELAY: Duration = Duration::from_millis(1);
/// By then a delay has passed, rounded up to a tick of the wheel.
const DUE: Duration = Duration::from_micros(1_100);
/// Between two messages, so that each has its own time in the histograms.
const PACE: Duration = Duration::from_nanos(100);
const PAYLOAD: Payload = [7; 64];
const NAME: &str = "bench";

type Payload = [u8; 64];

/// Does `work` once for practice and then measures it; `prepare` comes first each
/// time and never counts. Answers how many messages were measured.
fn rounds(mut prepare: impl FnMut(), mut work: impl FnMut()) -> u64 {
    prepare();
    work();
    for _ in 0..ROUNDS {
        prepare();
        measured(&mut work);
    }
    (ROUNDS * MESSAGES) as u64
}

fn publish() -> u64 {
    publishing(|bench| {
        for _ in 0..MESSAGES {
            let published = bench.topic.publish(black_box(PAYLOAD));
            published.expect("the queue is empty");
        }
    })
}

fn publish_batch() -> u64 {
    let mut chunks = vec![vec![PAYLOAD; CHUNK]; (ROUNDS + 1) * MESSAGES / CHUNK];
    publishing(move |bench| {
        let rest = chunks.len() - MESSAGES / CHUNK;
        for chunk in chunks.drain(rest..) {
            let published = bench.topic.publish_batch(chunk);
            published.expect("the queue is empty");
        }
    })
}

fn publish_by_name() -> u64 {
    publishing(|bench| {
        for _ in 0..MESSAGES {
            let published = bench.broker.publish(NAME, black_box(PAYLOAD));
            published.expect("the queue is empty");
        }
    })
}

/// The caller's part alone: admission, the clock and the queue. Nobody subscribes,
/// so that the heap is the same in every run.
fn publishing(mut publish: impl FnMut(&Bench)) -> u64 {
    let bench = Bench::on_the_real_clock();
    let count = rounds(|| bench.deliver(), || publish(&bench));
    bench.finish(count)
}

/// What a channel takes from `send` to `recv`: to be held against a publish, its dispatch
/// and its delivery.
fn crossbeam_channel() -> u64 {
    let (sender, receiver) = crossbeam_channel::bounded(MESSAGES);
    channel(
        || sender.send(black_box(PAYLOAD)).is_ok(),
        || black_box(receiver.recv()).is_ok(),
    )
}

/// The same of the standard library's.
fn std_sync_channel() -> u64 {
    let (sender, receiver) = std::sync::mpsc::sync_channel(MESSAGES);
    channel(
        || sender.send(black_box(PAYLOAD)).is_ok(),
        || black_box(receiver.recv()).is_ok(),
    )
}

fn channel(send: impl Fn() -> bool, receive: impl Fn() -> bool) -> u64 {
    let turn = || {
        assert!((0..MESSAGES).all(|_| send()), "it has a receiver");
        assert!((0..MESSAGES).all(|_| receive()), "so much was sent");
    };
    rounds(|| {}, turn)
}

/// Taking messages out of the queue and making batches of them. Nobody
/// subscribes, so a batch is discarded as soon as it is made.
fn dispatch() -> u64 {
    let bench = Bench::on_a_manual_clock();
    let count = rounds(|| bench.publish(), || bench.deliver());
    let metrics = bench.topic.metrics();
    assert_eq!(metrics.published, metrics.unrouted);
    bench.finish(count)
}

/// From the queue to the end of the last handler call.
fn deliver(subscriptions: u64) -> u64 {
    let bench = Bench::on_a_manual_clock();
    let sinks: Vec<_> = (0..subscriptions).map(|n| bench.subscribe(n)).collect();
    let count = rounds(|| bench.publish(), || bench.deliver());
    let published = bench.topic.metrics().published;
    for sink in &sinks {
        assert_eq!(sink.metrics().counts.delivered, published);
    }
    bench.finish(count) * subscriptions
}

/// The same for messages that were published in batches.
fn batches() -> u64 {
    let bench = Bench::on_a_manual_clock();
    let sink = bench.subscribe(0);
    let publish = || {
        for _ in 0..MESSAGES / CHUNK {
            bench.clock.advance(PACE);
            let published = bench.topic.publish_batch([PAYLOAD; CHUNK]);
            published.expect("the queue is empty");
        }
    };
    let count = rounds(publish, || bench.deliver());
    let published = bench.topic.metrics().published;
    assert_eq!(sink.metrics().counts.delivered, published);
    bench.finish(count)
}

/// The whole way of a message that travels alone: no batch shares the cost of its
/// turns.
fn singly() -> u64 {
    let bench = Bench::on_a_manual_clock();
    let _sink = bench.subscribe(0);
    let count = rounds(
        || {},
        || {
            for _ in 0..MESSAGES {
                bench.clock.advance(PACE);
                let published = bench.topic.publish(black_box(PAYLOAD));
                published.expect("the queue is empty");
                bench.deliver();
            }
        },
    );
    bench.finish(count)
}

/// The whole way of a message while an observer hears of it: accepted, begun, delivered.
fn observed() -> u64 {
    let bench = Bench::on_a_manual_clock();
    let _sink = bench.subscribe(0);
    let heard = Arc::new(AtomicU64::new(0));
    let of_observer = Arc::clone(&heard);
    let observer = move |event: &Event<'_>| {
        of_observer.fetch_add(event.id().map_or(0, |_| 1), Ordering::Relaxed);
    };
    let _observation = bench.broker.observe(observer).expect("the broker is open");
    let count = rounds(
        || {},
        || {
            bench.publish();
            bench.deliver();
        },
    );
    assert_eq!(
        heard.load(Ordering::Relaxed),
        3 * bench.topic.metrics().published
    );
    assert_eq!(bench.broker.metrics().events_missed, 0);
    bench.finish(count)
}

/// The whole way of a delivery that fails once: dispatch, a failure, the wheel,
/// and a success one millisecond later.
fn retry() -> u64 {
    let bench = Bench::on_a_manual_clock();
    let subscription = bench.topic.subscribe("fragile", |delivery| {
        if delivery.attempt() == 1 {
            return Err(Nack::retry("not now"));
        }
        Ok(())
    });
    let subscription = subscription.expect("the name is free");
    let count = rounds(
        || bench.publish(),
        || {
            bench.deliver();
            bench.clock.advance(DUE);
            bench.deliver();
        },
    );
    let counts = subscription.metrics().counts;
    assert_eq!(counts.retried, bench.topic.metrics().published);
    assert_eq!(counts.delivered, counts.retried);
    bench.finish(count)
}

/// The whole way of a message that is published now and enters the queue one
/// millisecond later, handler included.
fn delayed() -> u64 {
    let bench = Bench::on_a_manual_clock();
    let _sink = bench.subscribe(0);
    let count = rounds(
        || {},
        || {
            for _ in 0..MESSAGES {
                bench.clock.advance(PACE);
                let published = bench.topic.publish_after(DELAY, black_box(PAYLOAD));
                published.expect("the queue is empty");
            }
            bench.clock.advance(DUE);
            bench.deliver();
        },
    );
    bench.finish(count)
}

/// From the queue to the end of the handler call, where failures would hold up their
/// key: each message has one of 64.
fn block_key() -> u64 {
    let bench = Bench::on_a_manual_clock();
    let subscription = bench.topic.subscription("keyed");
    let subscription = subscription.on_failure(OnFailure::BlockKey).subscribe(sink);
    keyed(&bench, &subscription.expect("the name is free"))
}

/// As `deliver_1_to_1`, where messages are taken by their levels, of which there are four.
fn priorities() -> u64 {
    let bench = Bench::on_a_manual_clock();
    let levels = bench.topic.subscription("levels");
    let levels = levels.priorities(Priorities::weighted()).subscribe(sink);
    by_levels(&bench, &levels.expect("the name is free"))
}

/// As `deliver_1_to_1`, of a lane with a breaker, a rate limit and priorities, which hold nothing
/// back. All messages have the default priority.
fn protected() -> u64 {
    let bench = Bench::on_a_manual_clock();
    let subscription = protect(bench.topic.subscription("protected")).subscribe(sink);
    let subscription = subscription.expect("the name is free");
    let count = rounds(|| bench.publish(), || bench.deliver());
    assert_delivered(&bench, &subscription);
    bench.finish(count)
}

/// The same where the messages are of four levels.
fn protected_levels() -> u64 {
    let bench = Bench::on_a_manual_clock();
    let subscription = protect(bench.topic.subscription("protected")).subscribe(sink);
    by_levels(&bench, &subscription.expect("the name is free"))
}

/// As `concurrent`, with the same protection.
fn protected_concurrent() -> u64 {
    let bench = Bench::on_a_manual_clock();
    let subscription = protect(bench.topic.subscription("protected"));
    let subscription = subscription.concurrency(4).subscribe_shared(sink);
    keyed(&bench, &subscription.expect("the name is free"))
}

fn protect(subscription: SubscriptionBuilder<'_, Payload>) -> SubscriptionBuilder<'_, Payload> {
    let rate = RateLimit::new(1_000_000, Duration::from_millis(1)).burst(1_000_000);
    subscription
        .breaker(Breaker::new())
        .rate_limit(rate)
        .priorities(Priorities::weighted())
}

fn by_levels(bench: &Bench, subscription: &Subscription) -> u64 {
    let publish = || {
        for number in 0..MESSAGES {
            bench.clock.advance(PACE);
            let message = bench.topic.message(PAYLOAD);
            let message = message.priority(Priority::ALL[number % 4]);
            message.publish().expect("the queue is empty");
        }
    };
    let count = rounds(publish, || bench.deliver());
    assert_delivered(bench, subscription);
    bench.finish(count)
}

/// As `block_key`, for a subscription with four hands.
fn concurrent() -> u64 {
    let bench = Bench::on_a_manual_clock();
    let subscription = bench.topic.subscription("concurrent");
    let subscription = subscription.concurrency(4).subscribe_shared(sink);
    keyed(&bench, &subscription.expect("the name is free"))
}

/// From the lane to the ack of a lease, one by one: what has been dispatched is taken by
/// the caller.
fn pull_recv() -> u64 {
    pulling(|pull| {
        for _ in 0..MESSAGES {
            handle(pull.try_recv().expect("there is another"));
        }
    })
}

/// The same, 64 at a time, which are acked together.
fn pull_batch() -> u64 {
    pulling(|pull| {
        for _ in 0..MESSAGES / CHUNK {
            let leases = pull.recv_batch(CHUNK, Duration::ZERO);
            let leases = leases.expect("there are more");
            for delivery in leases.iter() {
                black_box(delivery.payload());
            }
            leases.ack_all().expect("they are in time");
        }
    })
}

/// The same, from a stream.
#[cfg(feature = "async")]
fn stream() -> u64 {
    use std::pin::Pin;
    use std::task::{Context, Poll, Waker};

    use futures_core::Stream;

    pulling(|pull| {
        let mut stream = pull.stream();
        let mut context = Context::from_waker(Waker::noop());
        for _ in 0..MESSAGES {
            match Pin::new(&mut stream).poll_next(&mut context) {
                Poll::Ready(Some(lease)) => handle(lease),
                _ => panic!("there is another"),
            }
        }
    })
}

fn pulling(mut work: impl FnMut(&PullSubscription<Payload>)) -> u64 {
    let bench = Bench::on_a_manual_clock();
    let subscription = bench.topic.subscription("pull");
    let pull = subscription.pull(Pull::default());
    let pull = pull.expect("the name is free");
    let prepare = || {
        bench.publish();
        bench.deliver();
    };
    let count = rounds(prepare, || work(&pull));
    let delivered = pull.metrics().counts.delivered;
    assert_eq!(delivered, bench.topic.metrics().published);
    bench.finish(count)
}

fn handle(lease: Lease<Payload>) {
    black_box(lease.payload());
    lease.ack().expect("it is in time");
}

/// From the queue to the end of the call of an async function that is ready when it is
/// first polled.
#[cfg(feature = "async")]
fn async_handler() -> u64 {
    let bench = Bench::on_a_manual_clock();
    let subscription = bench.topic.subscription("async");
    let subscription = subscription
        .concurrency(1)
        .subscribe_async(|delivery| async move {
            black_box(delivery.payload());
            Ok(())
        });
    let subscription = subscription.expect("the name is free");
    let count = rounds(|| bench.publish(), || bench.deliver());
    let delivered = subscription.metrics().counts.delivered;
    assert_eq!(delivered, bench.topic.metrics().published);
    bench.finish(count)
}

fn keyed(bench: &Bench, subscription: &Subscription) -> u64 {
    let keys: Vec<_> = (0..64).map(|number| format!("key-{number}")).collect();
    let publish = || {
        for number in 0..MESSAGES {
            bench.clock.advance(PACE);
            let message = bench.topic.message(PAYLOAD).key(keys[number % 64].as_str());
            message.publish().expect("the queue is empty");
        }
    };
    let count = rounds(publish, || bench.deliver());
    assert_delivered(bench, subscription);
    bench.finish(count)
}

fn assert_delivered(bench: &Bench, subscription: &Subscription) {
    let delivered = subscription.metrics().counts.delivered;
    assert_eq!(delivered, bench.topic.metrics().published);
}

fn sink(delivery: &Delivery<'_, Payload>) -> Result<(), Nack> {
    black_box(delivery.payload());
    Ok(())
}

/// A manual broker with one topic.
struct Bench {
    broker: Broker,
    clock: ManualClock,
    topic: Topic<Payload>,
}

impl Bench {
    /// For what publishers do: reading the clock is part of it.
    fn on_the_real_clock() -> Self {
        Self::new(Broker::builder().workers(0), ManualClock::new())
    }

    /// For what workers do. How many handler calls share a reading of the clock
    /// depends on how long they take, which under valgrind is not only long but
    /// different each time.
    fn on_a_manual_clock() -> Self {
        let clock = ManualClock::new();
        Self::new(Broker::builder().workers(0).manual_clock(&clock), clock)
    }

    fn new(builder: BrokerBuilder, clock: ManualClock) -> Self {
        let broker = builder.build().expect("a manual broker starts no threads");
        let topic = broker
            .topic(NAME)
            .capacity(MESSAGES)
            .lane_capacity(MESSAGES)
            .retry(Backoff::fixed(DELAY).max_attempts(2))
            .open()
            .expect("the name is free");
        Self {
            broker,
            clock,
            topic,
        }
    }

    fn subscribe(&self, number: u64) -> Subscription {
        let subscription = self.topic.subscribe(&format!("sink-{number}"), sink);
        subscription.expect("the name is free")
    }

    fn publish(&self) {
        for _ in 0..MESSAGES {
            self.clock.advance(PACE);
            self.topic.publish(PAYLOAD).expect("the queue is empty");
        }
    }

    fn deliver(&self) {
        self.broker.run_until_idle();
    }

    /// Sees that everything measured was really done.
    fn finish(&self, measured: u64) -> u64 {
        self.deliver();
        let metrics = self.topic.metrics();
        assert_eq!(metrics.published, measured + MESSAGES as u64);
        assert_eq!(metrics.queued, 0);
        self.broker.metrics().balance().expect("nothing is lost");
        measured
    }
}
