//! Adapts a pull by pattern to the interface that a framework of jobs wants of its queue.
//!
//! Such frameworks take a few jobs at a time, and settle each by a token. The adapter keeps the
//! lease behind each token. It needs no thread of its own, and knows topics that are opened later.

use std::collections::HashMap;
use std::error::Error;
use std::time::Duration;

use millstream::error::{RecvTimeoutError, SubscribeError};
use millstream::{Backoff, Broker, Lease, Nack, Pull, PullSubscription};

const SECOND: Duration = Duration::from_secs(1);

/// Jobs, each with its token.
type Taken<J> = Vec<(u64, J)>;

/// The interface of the framework.
trait Queue {
    type Job;
    type Error;

    /// Takes up to `max` jobs. `None` means that the queue has ended.
    fn take(&mut self, max: usize) -> Result<Option<Taken<Self::Job>>, Self::Error>;

    /// Settles a job. Returns whether it was in time.
    fn settle(&mut self, token: u64, result: Result<(), String>) -> bool;
}

/// The queue of all topics that match a pattern.
struct Matching<T: Send + Sync + 'static> {
    subscription: PullSubscription<T>,
    taken: HashMap<u64, Lease<T>>,
    last: u64,
}

impl<T: Send + Sync + 'static> Matching<T> {
    fn new(broker: &Broker, pattern: &str, pull: Pull) -> Result<Self, SubscribeError> {
        let retry = Backoff::fixed(Duration::ZERO).max_attempts(2);
        let subscription = broker.subscription("jobs").matching(pattern).retry(retry);
        Ok(Self {
            subscription: subscription.pull(pull)?,
            taken: HashMap::new(),
            last: 0,
        })
    }
}

impl<T: Clone + Send + Sync + 'static> Queue for Matching<T> {
    type Job = (String, T);
    type Error = RecvTimeoutError;

    fn take(&mut self, max: usize) -> Result<Option<Taken<Self::Job>>, Self::Error> {
        let leases = match self.subscription.recv_batch(max, SECOND / 100) {
            Ok(leases) => leases,
            Err(RecvTimeoutError::Ended) => return Ok(None),
            Err(none) if none.is_timeout() => return Ok(Some(Vec::new())),
            Err(other) => return Err(other),
        };
        let jobs = leases.into_iter().map(|lease| {
            let job = (lease.topic().to_owned(), lease.payload().clone());
            self.last += 1;
            self.taken.insert(self.last, lease);
            (self.last, job)
        });
        Ok(Some(jobs.collect()))
    }

    fn settle(&mut self, token: u64, result: Result<(), String>) -> bool {
        let settled = self.taken.remove(&token).map(|lease| match result {
            Ok(()) => lease.ack(),
            Err(reason) => lease.nack(Nack::retry(reason)),
        });
        settled.is_some_and(|in_time| in_time.is_ok())
    }
}

/// The framework: it knows nothing of brokers. Returns how often it called `work`.
fn run<Q: Queue>(
    queue: &mut Q,
    mut work: impl FnMut(&Q::Job) -> Result<(), String>,
) -> Result<u32, Q::Error> {
    let mut calls = 0;
    while let Some(jobs) = queue.take(8)? {
        for (token, job) in jobs {
            calls += 1;
            let result = work(&job);
            assert!(queue.settle(token, result), "a second is enough");
        }
    }
    Ok(calls)
}

fn main() -> Result<(), Box<dyn Error>> {
    let broker = Broker::builder().workers(1).build()?;
    let images = broker.topic::<u32>("jobs.images").open()?;
    let pull = Pull::default().credits(4).ack_deadline(10 * SECOND);
    let mut queue = Matching::<u32>::new(&broker, "jobs.*", pull)?;
    let mails = broker.topic::<u32>("jobs.mails").open()?; // opened later
    images.publish_batch(0..50)?;
    mails.publish_batch(0..50)?;

    let framework = std::thread::spawn(move || {
        let mut refused = false;
        run(&mut queue, |(topic, number)| match topic.as_str() {
            "jobs.mails" if *number == 7 => Err("no such address".to_owned()),
            "jobs.images" if *number == 7 && !refused => {
                refused = true;
                Err("the disk was full".to_owned())
            }
            _ => Ok(()),
        })
    });
    let report = broker.drain(10 * SECOND)?; // ends the queue, and so the framework
    let calls = framework.join().expect("the framework doesn't panic")?;

    println!("{report}");
    assert_eq!((report.delivered, report.dead_lettered), (99, 1));
    assert_eq!(calls, 102, "two jobs were tried twice");
    assert_eq!(mails.dead_letters().list()[0].attempts(), 2);
    Ok(())
}
