//! Runtimes: futures of tokio work in a handler within a hook that enters it, and whatever the
//! hook does costs at most the attempt. Pulls go into `select!`. The same on smol's executor.

use std::future::pending;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use async_executor::Executor;
use futures_lite::future::block_on;
use tokio::runtime::{Builder, Handle};
use tokio::time::{sleep, timeout};

use crate::harness::{HANG, Log, assert_balanced, assert_rests_balanced, manual};
use millstream::retry::FailureKind;
use millstream::{
    Backoff, Broker, BrokerBuilder, ManualClock, Nack, Overflow, OwnedDelivery, Pull, Subscription,
    Topic, Unsubscribe,
};

const MS: Duration = Duration::from_millis(1);

/// A broker with a hook that enters tokio.
fn entered(runtime: Handle) -> Broker {
    let builder = Broker::builder().workers(2).around_polls(move |poll| {
        let _entered = runtime.enter();
        poll();
    });
    builder.build().expect("there are threads to spare")
}

fn open(broker: &Broker) -> Topic<u32> {
    let retry = Backoff::fixed(MS).max_attempts(2);
    broker.topic("t").retry(retry).open().expect("opens")
}

async fn rest(_: OwnedDelivery<u32>) -> Result<(), Nack> {
    // Made in the call, polled in the poll, and again behind another await.
    timeout(HANG, sleep(MS)).await?;
    tokio::task::yield_now().await;
    sleep(MS).await;
    Ok(())
}

fn subscribe(topic: &Topic<u32>) -> Subscription {
    let made = topic.subscription("s").concurrency(8).subscribe_async(rest);
    made.expect("subscribes")
}

#[test]
fn timers_of_tokio_work_in_a_handler_within_the_hook() {
    let threads = Builder::new_multi_thread().enable_time().build();
    let here = Builder::new_current_thread().enable_time().build();
    for runtime in [threads, here].map(|built| built.expect("builds")) {
        let broker = entered(runtime.handle().clone());
        let topic = open(&broker);
        let _calls = subscribe(&topic);
        topic.publish_batch(0..100).expect("there is room");
        let report = runtime.block_on(broker.drain_async(HANG));
        assert_eq!(report.expect("it drains").delivered, 100);
        assert_balanced(&broker);
    }
}

#[test]
fn without_the_hook_they_fail_the_attempt() {
    let broker = Broker::builder().workers(1).build().expect("builds");
    let topic = open(&broker);
    let _calls = subscribe(&topic);
    topic.publish(7).expect("there is room");
    assert_rests_balanced(&broker);
    let letters = topic.dead_letters().list();
    let failures: Vec<_> = letters[0].failures().collect();
    assert!(failures.iter().all(|past| past.kind == FailureKind::Panic));
    let error = letters[0].error().expect("it has failed");
    assert!(error.contains("runtime"), "{error}");
}

/// A manual broker with this hook, a topic, and the text of each failure of its one message.
fn failures_within(hook: impl Fn(&mut dyn FnMut()) + Send + Sync + 'static) -> Vec<String> {
    let clock = ManualClock::new();
    let builder = Broker::builder().workers(0).manual_clock(&clock);
    let broker = builder.around_polls(hook).build().expect("builds");
    let topic = open(&broker);
    let calls = topic
        .subscription("s")
        .concurrency(1)
        .subscribe_async(async |_| Ok(()));
    let _calls = calls.expect("subscribes");
    topic.publish(1).expect("there is room");
    for _ in 0..3 {
        broker.run_until_idle();
        clock.advance(MS);
    }
    assert_balanced(&broker);
    let letters = topic.dead_letters().list();
    let past = letters.iter().flat_map(|letter| letter.failures());
    past.map(|past| past.error.to_owned()).collect()
}

#[test]
fn a_hook_may_do_what_it_likes_and_costs_at_most_the_attempt() {
    assert_eq!(failures_within(|poll| poll()), [""; 0]);
    let twice = |poll: &mut dyn FnMut()| {
        poll();
        poll();
    };
    assert_eq!(failures_within(twice), [""; 0]);
    let never = "around_polls did not call its argument";
    assert_eq!(failures_within(|_| ()), [never; 2]);
    assert_eq!(failures_within(|_| panic!("no runtime")), ["no runtime"; 2]);
    let late = |poll: &mut dyn FnMut()| {
        poll();
        panic!("no exit");
    };
    assert_eq!(failures_within(late), ["no exit"; 2]);
}

thread_local! {
    static DEPTH: AtomicU32 = const { AtomicU32::new(0) };
}

fn depth() -> u32 {
    DEPTH.with(|depth| depth.load(Ordering::Relaxed))
}

/// Says in what depth of hooks it was dropped.
struct Dropped(Log<u32>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.push(depth());
    }
}

#[test]
fn calls_polls_and_drops_are_within_the_hook_and_nothing_else_is() {
    let builder = Broker::builder().workers(0).around_polls(|poll| {
        DEPTH.with(|depth| depth.fetch_add(1, Ordering::Relaxed));
        poll();
        DEPTH.with(|depth| depth.fetch_sub(1, Ordering::Relaxed));
    });
    let broker = builder.build().expect("builds");
    let topic = open(&broker);
    let (depths, plain) = (Log::new(), Log::new());
    let log = depths.clone();
    let calls = topic
        .subscription("calls")
        .concurrency(1)
        .subscribe_async(move |_| {
            let log = log.clone();
            log.push(depth());
            async move {
                let _dropped = Dropped(log.clone());
                log.push(depth());
                pending().await
            }
        });
    let log = plain.clone();
    let _plain = topic.subscribe("plain", move |_| {
        log.push(depth());
        Ok(())
    });
    topic.publish(1).expect("there is room");
    broker.run_until_idle();
    drop(calls.expect("subscribes").unsubscribe(Unsubscribe::Cancel));
    broker.run_until_idle();
    assert_eq!(depths.take(), [1, 1, 1], "called, polled, dropped");
    assert_eq!(plain.take(), [0]);
    assert_balanced(&broker);
}

/// Tokio's `select!` over two subscriptions, which are served as messages come.
#[test]
fn pulls_go_into_select() {
    let runtime = Builder::new_current_thread().enable_time().build();
    let broker = Broker::builder().workers(1).build().expect("builds");
    let topics = ["a", "b"].map(|name| broker.topic::<u32>(name).open().expect("opens"));
    let [mut a, mut b] = topics.each_ref().map(|topic| {
        let pull = topic.subscription("s").pull(Pull::default());
        pull.expect("subscribes").stream()
    });
    let served = async {
        let mut sums = [0, 0];
        loop {
            tokio::select! {
                Some(lease) = a.next() => {
                    sums[0] += *lease.payload();
                    lease.ack().expect("it is in time");
                }
                Some(lease) = b.next() => {
                    sums[1] += *lease.payload();
                    lease.ack().expect("it is in time");
                }
                else => return sums,
            }
        }
    };
    let published = async {
        for number in 1..=100 {
            topics[0].publish_async(number).await.expect("it is open");
            topics[1].publish_async(1).await.expect("it is open");
        }
        broker.drain_async(HANG).await.expect("it drains")
    };
    let both = async { tokio::join!(served, published) };
    let (sums, report) = runtime.expect("builds").block_on(both);
    assert_eq!((sums, report.delivered), ([5_050, 100], 200));
    assert_balanced(&broker);
}

/// A future of `next` that `select!` drops has taken nothing.
#[test]
fn a_next_that_is_dropped_loses_no_lease() {
    let (broker, _clock) = manual();
    let topic = open(&broker);
    let pull = topic.subscription("s").pull(Pull::default());
    let mut stream = pull.expect("subscribes").stream();
    block_on(async {
        for number in 0..10 {
            let nothing = futures_lite::future::poll_once(stream.next()).await;
            assert!(nothing.is_none(), "there is nothing yet");
            topic.publish(number).expect("there is room");
            let lease = stream.next().await.expect("it goes on");
            assert_eq!(*lease.payload(), number);
            lease.ack().expect("it is in time");
        }
    });
    assert_balanced(&broker);
}

/// Publishers, pullers and an async handler together on smol's executor, and no tokio anywhere.
#[test]
fn the_same_works_on_another_executor() {
    const MESSAGES: u32 = 200;
    let executor = Arc::new(Executor::new());
    let (stop, stopped) = mpsc::channel::<()>();
    let runs = Arc::clone(&executor);
    let thread = std::thread::spawn(move || {
        block_on(runs.run(async {
            while stopped.try_recv() == Err(mpsc::TryRecvError::Empty) {
                futures_lite::future::yield_now().await;
            }
        }));
    });
    let broker = BrokerBuilder::default().workers(1).build().expect("builds");
    let block = Overflow::Block { timeout: HANG };
    let topic = broker.topic::<u32>("t").capacity(4).overflow(block);
    let topic = topic.open().expect("opens");
    let pull = topic.subscription("pull").pull(Pull::default());
    let mut stream = pull.expect("subscribes").stream();
    let pulled = executor.spawn(async move {
        let mut sum = 0;
        while let Some(lease) = stream.next().await {
            sum += *lease.payload();
            lease.ack().expect("it is in time");
        }
        sum
    });
    let spawner = Arc::clone(&executor);
    let calls = topic
        .subscription("calls")
        .concurrency(4)
        .subscribe_async(move |of| {
            // The work is a task of the executor, which the call awaits.
            spawner.spawn(async move { u8::try_from(*of.payload()).map(drop).map_err(Nack::from) })
        });
    let _calls = calls.expect("subscribes");
    let publisher = topic.clone();
    let published = executor.spawn(async move {
        for number in 0..MESSAGES {
            publisher.publish_async(number).await.expect("it is open");
        }
    });
    block_on(published);
    let report = block_on(broker.drain_async(HANG)).expect("it drains");
    assert_eq!(block_on(pulled), (0..MESSAGES).sum::<u32>());
    assert_eq!(report.delivered, 2 * u64::from(MESSAGES));
    drop(stop);
    thread.join().expect("the executor ends");
    assert_balanced(&broker);
}
