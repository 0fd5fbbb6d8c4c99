//! What the promise tests share.
#![allow(dead_code, reason = "each test file uses its part")]

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use millstream::event::{DropCause, EventKind, Observation};
use millstream::{Broker, ManualClock, Metrics, Subscription, SubscriptionBuilder, Topic};
// Not the standard library's, into which the thread sanitizer does not see.
use parking_lot::Mutex;

/// Long enough that only a hang reaches it: the one bound that tests hold against the
/// clock on the wall. Beside busy neighbors and under a sanitizer, what takes a
/// second otherwise has taken half a minute. So it says that something ends, and never
/// how fast it is. What must not wait for a deadline of so long takes less than half of
/// it; what must wait for nothing else has an [`HOUR`] of it to do.
pub const HANG: Duration = Duration::from_secs(120);

/// What no test waits for.
pub const HOUR: Duration = Duration::from_secs(3_600);

/// For what has to happen before a deadline that must pass: tries with ever longer
/// ones, until `attempt` says that its deadline left time enough. So no machine is too
/// slow for it, and a quick one doesn't wait.
pub fn with_time_enough(mut attempt: impl FnMut(Duration) -> bool) {
    let mut deadline = Duration::from_millis(50);
    while !attempt(deadline) {
        assert!(deadline < HANG, "no time is enough");
        deadline *= 4;
    }
}

/// What jitter is drawn from, so that a run can be repeated.
pub const SEED: u64 = 42;

/// A broker that runs on the test's thread, by a clock that the test moves.
pub fn manual() -> (Broker, ManualClock) {
    let clock = ManualClock::new();
    let broker = Broker::builder()
        .workers(0)
        .manual_clock(&clock)
        .seed(SEED)
        .build()
        .expect("a manual broker starts no threads");
    (broker, clock)
}

/// A broker with worker threads.
pub fn threaded(workers: usize) -> Broker {
    Broker::builder()
        .workers(workers)
        .seed(SEED)
        .build()
        .expect("the machine has threads to spare")
}

/// Moves the clock and runs what that makes due.
pub fn advance(broker: &Broker, clock: &ManualClock, by: Duration) {
    clock.advance(by);
    broker.run_until_idle();
}

/// The law of conservation, at rest. Answers the metrics it was checked on.
pub fn assert_balanced(broker: &Broker) -> Metrics {
    let metrics = broker.metrics();
    if let Err(imbalance) = metrics.balance() {
        panic!("{imbalance}\n{metrics}\n{metrics:#?}");
    }
    metrics
}

/// Waits for a threaded broker to come to rest, then checks the books.
pub fn assert_rests_balanced(broker: &Broker) -> Metrics {
    assert!(
        broker.wait_until_idle(HANG),
        "the broker never came to rest:\n{}",
        broker.metrics()
    );
    assert_balanced(broker)
}

/// A list that handlers append to and tests read.
pub struct Log<T>(Arc<Mutex<Vec<T>>>);

impl<T> Log<T> {
    pub fn new() -> Self {
        Self(Arc::new(Mutex::new(Vec::new())))
    }

    pub fn push(&self, entry: T) {
        self.0.lock().push(entry);
    }

    /// Takes out all there is.
    pub fn take(&self) -> Vec<T> {
        std::mem::take(&mut *self.0.lock())
    }

    pub fn len(&self) -> usize {
        self.0.lock().len()
    }

    /// The entry at this place, if there is one.
    pub fn get(&self, at: usize) -> Option<T>
    where
        T: Copy,
    {
        self.0.lock().get(at).copied()
    }
}

impl<T> Clone for Log<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

/// The ids of what was dropped, with the cause, as events tell. All are of this subscription, or of none.
pub fn drops(broker: &Broker, of: Option<&'static str>) -> (Log<(u64, DropCause)>, Observation) {
    let log = Log::new();
    let observation = broker.observe({
        let log = log.clone();
        move |event| {
            if let EventKind::Dropped { cause } = *event.kind() {
                assert_eq!(event.subscription(), of);
                log.push((event.id().expect("a message").get(), cause));
            }
        }
    });
    (log, observation.expect("observes"))
}

/// Subscribes to a topic what appends payloads to a log.
pub fn read<T>(topic: &Topic<T>, name: &str) -> (Log<T>, Subscription)
where
    T: Clone + Send + Sync + 'static,
{
    read_by(topic.subscription(name))
}

/// As [`read`], by a subscription of one's own settings.
pub fn read_by<T>(builder: SubscriptionBuilder<'_, T>) -> (Log<T>, Subscription)
where
    T: Clone + Send + Sync + 'static,
{
    let log = Log::new();
    let entries = log.clone();
    let subscribed = builder.subscribe(move |delivery| {
        entries.push(delivery.payload().clone());
        Ok(())
    });
    (log, subscribed.expect("subscribes"))
}

/// Polls until it is ready, and sleeps in between.
pub fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(std::thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = pin!(future);
    let began = Instant::now();
    while began.elapsed() < HANG {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(ready) => return ready,
            Poll::Pending => std::thread::park_timeout(HANG),
        }
    }
    panic!("nobody woke it");
}

/// Polls once.
pub fn poll<F: Future + Unpin>(future: &mut F, waker: &Waker) -> Poll<F::Output> {
    Pin::new(future).poll(&mut Context::from_waker(waker))
}

/// Counts how often it is woken; panics if told to.
pub struct Bell(AtomicUsize, bool);

impl Bell {
    /// How often it was woken.
    pub fn count(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
        assert!(!self.1, "a waker that panics");
    }
}

/// A waker that counts, and its count.
pub fn bell() -> (Arc<Bell>, Waker) {
    waker(Bell(AtomicUsize::new(0), false))
}

/// A waker that counts and panics.
pub fn cracked_bell() -> (Arc<Bell>, Waker) {
    waker(Bell(AtomicUsize::new(0), true))
}

fn waker(bell: Bell) -> (Arc<Bell>, Waker) {
    let bell = Arc::new(bell);
    (Arc::clone(&bell), Waker::from(bell))
}
