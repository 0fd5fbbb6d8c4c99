//! Pull: callers take deliveries on lease with their own threads. A lease is settled
//! exactly once: by an ack, a nack or a drop, by its deadline, or by the end of its
//! subscription; what comes later is stale and changes nothing. Credits bound what is out.
//! Retry, order under failure, drain and unsubscribe are as for handlers, and the books
//! balance.

use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::with_time_enough;
use crate::harness::{
    HANG, Log, advance, assert_balanced, assert_rests_balanced, manual, threaded,
};
use millstream::dead_letters::DeadReason;
use millstream::error::{
    DrainError, RecvError, RecvTimeoutError, StaleError, SubscribeError, TryRecvError,
};
use millstream::event::EventKind;
use millstream::pull::LeaseBatch;
use millstream::retry::FailureKind;
use millstream::{
    Backoff, Broker, LaneFull, Lease, ManualClock, Nack, OnExhausted, OnFailure, Pull,
    PullSubscription, Topic, Unsubscribe, Unsubscribed,
};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

fn open(broker: &Broker) -> Topic<u32> {
    let retry = Backoff::fixed(10 * MS).max_attempts(2);
    broker.topic("jobs").retry(retry).open().expect("opens")
}

fn pull(topic: &Topic<u32>) -> PullSubscription<u32> {
    pull_with(topic, Pull::default().ack_deadline(SECOND))
}

fn pull_with(topic: &Topic<u32>, settings: Pull) -> PullSubscription<u32> {
    topic
        .subscription("worker")
        .pull(settings)
        .expect("subscribes")
}

/// A manual broker with a few messages for one pull subscription.
fn pulled(messages: u32) -> (Broker, ManualClock, Topic<u32>, PullSubscription<u32>) {
    let (broker, clock) = manual();
    let topic = open(&broker);
    let worker = pull(&topic);
    topic.publish_batch(1..=messages).expect("there is room");
    (broker, clock, topic, worker)
}

fn payloads(leases: &[Lease<u32>]) -> Vec<u32> {
    leases.iter().map(|lease| *lease.payload()).collect()
}

fn payloads_of(batch: &LeaseBatch<u32>) -> Vec<u32> {
    batch.iter().map(|delivery| *delivery.payload()).collect()
}

/// All there is now.
fn take(worker: &PullSubscription<u32>) -> Vec<Lease<u32>> {
    let taken = worker.recv_batch(usize::MAX, Duration::ZERO);
    taken.into_iter().flatten().collect()
}

/// However the deadlines of those that are out lie, each ends its own lease and no other.
#[test]
fn each_lease_has_its_own_deadline() {
    let (broker, clock, _topic, worker) = pulled(4);
    let first = worker.recv().expect("it is there");
    advance(&broker, &clock, 100 * MS);
    let mut second = worker.recv().expect("it is there");
    advance(&broker, &clock, 100 * MS);
    let third = worker.recv().expect("it is there");
    // Earlier than all of them.
    worker.set_ack_deadline(50 * MS).expect("in range");
    let fourth = worker.recv().expect("it is there");
    let timed_out = || worker.metrics().timed_out;
    advance(&broker, &clock, 60 * MS);
    assert_eq!((timed_out(), fourth.ack()), (1, Err(StaleError)));
    assert_eq!(first.ack(), Ok(()));
    second.extend(2 * SECOND).expect("it is in time");
    // The first and the second would have ended by now.
    advance(&broker, &clock, 890 * MS);
    assert_eq!(timed_out(), 1);
    advance(&broker, &clock, 60 * MS);
    assert_eq!((timed_out(), third.ack()), (2, Err(StaleError)));
    advance(&broker, &clock, 3 * SECOND);
    assert_eq!((timed_out(), second.ack()), (3, Err(StaleError)));
    assert_balanced(&broker);
}

/// One alarm serves all deadlines: it is there as long as a lease is, and no longer.
#[test]
fn a_pull_at_rest_has_no_deadline() {
    let (broker, clock, topic, worker) = pulled(3);
    let first = worker.recv().expect("it is there");
    let second = worker.recv().expect("it is there");
    assert_eq!(second.ack(), Ok(()));
    assert_eq!(broker.next_deadline(), Some(SECOND), "the first is out");
    assert_eq!(first.ack(), Ok(()));
    let third = worker.recv().expect("it is there");
    assert_eq!(third.ack(), Ok(()));
    assert_eq!(
        broker.next_deadline(),
        None,
        "nothing is out, and nothing waits"
    );

    advance(&broker, &clock, 100 * MS);
    topic.publish(4).expect("there is room");
    drop(worker.recv().expect("it is there"));
    let retry = Some(10 * MS);
    assert_eq!(broker.next_deadline(), retry, "the retry, and no lease");
    advance(&broker, &clock, 10 * MS);
    let fourth = worker.recv().expect("it has come back");
    assert_eq!(broker.next_deadline(), Some(SECOND), "it is out");
    assert_eq!(fourth.ack(), Ok(()));
    assert_eq!(broker.next_deadline(), None);
    assert_balanced(&broker);
}

/// They have nobody to wait for.
#[test]
fn what_follows_a_parked_key_is_buried_even_if_nobody_pulls() {
    let (broker, _clock) = manual();
    let topic = open(&broker);
    let worker = topic
        .subscription("worker")
        .on_failure(OnFailure::BlockKey)
        .on_exhausted(OnExhausted::ParkKey)
        .pull(Pull::default())
        .expect("subscribes");
    let publish = |payload| topic.message(payload).key("k").publish();
    publish(1).expect("there is room");
    let first = worker.recv().expect("it is there");
    first
        .nack(Nack::dead_letter("never"))
        .expect("it is in time");
    publish(2).expect("there is room");
    broker.run_until_idle();
    assert_eq!(worker.metrics().counts.dead_lettered, 2);
    assert_balanced(&broker);
}

#[test]
fn what_is_acked_is_delivered_once_and_in_order() {
    let (broker, _clock, _topic, worker) = pulled(3);
    for expected in 1..=3 {
        let lease = worker.recv().expect("it is there");
        assert_eq!(
            (*lease.payload(), lease.id().get(), lease.attempt()),
            (expected, u64::from(expected), 1)
        );
        assert_eq!((lease.topic(), lease.subscription()), ("jobs", "worker"));
        assert_eq!(lease.ack(), Ok(()));
    }
    assert_eq!(worker.recv().err(), Some(RecvError::WouldBlock));
    let counts = assert_balanced(&broker).deliveries();
    assert_eq!((counts.delivered, counts.attempts), (3, 3));
}

#[test]
fn a_lease_knows_key_and_headers() {
    let (_broker, clock, topic, worker) = pulled(0);
    let message = topic.message(7).key("k").header("a", "1").header("b", "2");
    message.publish().expect("there is room");
    clock.advance(3 * MS);
    let lease = worker.recv().expect("it is there");
    assert_eq!((lease.key(), lease.header("b")), (Some("k"), Some("2")));
    assert_eq!(
        lease.headers().collect::<Vec<_>>(),
        [("a", "1".into()), ("b", "2".into())]
    );
    assert_eq!((lease.age(), lease.remaining()), (3 * MS, SECOND));
    assert_eq!(lease.delivery().key(), Some("k"));
    assert!(format!("{lease:?}").contains("worker"));
    lease.ack().expect("in time");
}

/// What a service keeps of a job that it works on.
struct Job {
    lease: Lease<u32>,
}

impl Job {
    fn finish(&self, is_done: bool) -> Result<(), StaleError> {
        match is_done {
            true => self.lease.ack(),
            false => self.lease.nack(Nack::retry("not yet")),
        }
    }
}

#[test]
fn a_lease_in_a_struct_is_settled_by_reference_and_once() {
    for is_done in [true, false] {
        let (broker, clock, _topic, worker) = pulled(1);
        let lease = worker.recv().expect("it is there");
        let job = Job { lease };
        assert!(!job.lease.is_stale());
        assert_eq!(job.finish(is_done), Ok(()));
        assert!(job.lease.is_stale());
        assert_eq!(job.finish(true), Err(StaleError));
        assert_eq!(job.finish(false), Err(StaleError));
        assert_eq!(*job.lease.payload(), 1, "it can still be read");
        drop(job);
        let metrics = worker.metrics();
        assert_eq!((metrics.stale, metrics.abandoned), (2, 0));
        let ended = (metrics.counts.delivered, metrics.counts.failed);
        assert_eq!(ended, if is_done { (1, 0) } else { (0, 1) });
        // What was nacked comes again; what was acked does not.
        advance(&broker, &clock, 10 * MS);
        let again = worker.try_recv();
        assert_eq!(again.is_ok(), !is_done);
        again
            .into_iter()
            .for_each(|lease| assert_eq!(lease.ack(), Ok(())));
        assert_rests_balanced(&broker);
    }
}

#[test]
fn a_lease_says_that_it_is_stale_once_its_deadline_or_its_subscription_has_ended() {
    let (broker, clock, _topic, worker) = pulled(2);
    let late = worker.recv().expect("it is there");
    clock.advance(SECOND);
    assert!(late.is_stale(), "even if nobody has noticed yet");
    assert_eq!(late.ack(), Err(StaleError));
    let cut_off = worker.recv().expect("it is there");
    assert!(!cut_off.is_stale());
    let _ = worker.unsubscribe(Unsubscribe::Cancel);
    assert!(cut_off.is_stale());
    assert_eq!(cut_off.nack(Nack::discard("late")), Err(StaleError));
    drop((late, cut_off));
    assert_balanced(&broker);
}

#[test]
fn of_two_threads_that_settle_one_lease_one_is_stale() {
    let broker = threaded(2);
    let topic = open(&broker);
    let worker = pull(&topic);
    for round in 0..200 {
        topic.publish(round).expect("there is room");
        let lease = worker.recv_timeout(HANG).expect("it comes");
        let both = thread::scope(|scope| {
            let other = scope.spawn(|| lease.ack());
            [
                lease.nack(Nack::discard("no")),
                other.join().expect("no panic"),
            ]
        });
        let settled = both.iter().filter(|settled| settled.is_ok());
        assert_eq!(settled.count(), 1);
    }
    let metrics = worker.metrics();
    assert_eq!(metrics.stale, 200);
    assert_eq!(metrics.counts.ended(), 200);
    assert_rests_balanced(&broker);
}

#[test]
fn a_nack_says_what_a_handlers_would() {
    let (broker, clock, topic, worker) = pulled(5);
    let nacks = [
        Nack::retry("again"),
        Nack::retry_after(50 * MS, "later"),
        Nack::dead_letter("never"),
        Nack::discard("whatever"),
        Nack::from(std::fmt::Error),
    ];
    for nack in nacks {
        let lease = worker.recv().expect("it is there");
        assert_eq!(lease.nack(nack), Ok(()));
    }
    assert_eq!(take(&worker).len(), 0);
    advance(&broker, &clock, 10 * MS);
    let due = take(&worker);
    assert_eq!(payloads(&due), [1, 5]);
    assert_eq!(due[0].attempt(), 2);
    advance(&broker, &clock, 40 * MS);
    let later = take(&worker);
    assert_eq!(payloads(&later), [2]);
    for lease in due.into_iter().chain(later) {
        lease
            .nack(Nack::retry("the last attempt"))
            .expect("in time");
    }
    let counts = assert_balanced(&broker).deliveries();
    assert_eq!((counts.dead_lettered, counts.dropped), (4, 1));
    let letters = topic.dead_letters().list();
    let reasons = letters
        .iter()
        .map(|letter| (letter.id().get(), letter.reason()));
    let mut reasons: Vec<_> = reasons.collect();
    reasons.sort_by_key(|(id, _)| *id);
    let exhausted = DeadReason::Exhausted;
    assert_eq!(
        reasons,
        [
            (1, exhausted),
            (2, exhausted),
            (3, DeadReason::Rejected),
            (5, exhausted)
        ]
    );
}

#[test]
fn a_deadline_that_passes_is_a_failed_attempt_and_a_late_ack_changes_nothing() {
    let (broker, clock, _topic, worker) = pulled(1);
    let stale = Log::new();
    let told = stale.clone();
    let watch = broker.observe(move |event| match event.kind() {
        EventKind::StaleSettlement => told.push((event.id().map(|id| id.get()), event.attempt())),
        EventKind::Failed { kind, .. } => assert_eq!(*kind, FailureKind::Timeout),
        _ => {}
    });
    let _watch = watch.expect("observes");
    let late = worker.recv().expect("it is there");
    clock.advance(SECOND - MS);
    assert_eq!(take(&worker).len(), 0);
    assert_eq!(worker.metrics().timed_out, 0, "not yet");
    advance(&broker, &clock, 2 * MS);
    let metrics = worker.metrics();
    assert_eq!(
        (metrics.timed_out, metrics.counts.failed, metrics.leased),
        (1, 1, 0)
    );
    assert_eq!(late.remaining(), Duration::ZERO);
    advance(&broker, &clock, 10 * MS);
    let again = worker.recv().expect("it is due");
    assert_eq!(again.attempt(), 2);
    // The slot is the new lease's now; the old one must not touch it.
    assert_eq!(late.ack(), Err(StaleError));
    assert_eq!(worker.metrics().leased, 1);
    assert_eq!(again.ack(), Ok(()));
    let metrics = worker.metrics();
    assert_eq!((metrics.stale, metrics.counts.delivered), (1, 1));
    broker.run_until_idle();
    assert_eq!(stale.take(), [(Some(1), Some(1))]);
    assert_balanced(&broker);
}

#[test]
fn after_its_deadline_a_lease_is_stale_even_if_nobody_has_noticed_yet() {
    let (broker, clock, _topic, worker) = pulled(3);
    let mut leases = take(&worker);
    clock.advance(SECOND);
    assert_eq!(leases[0].extend(SECOND), Err(StaleError));
    assert_eq!(
        leases.remove(0).nack(Nack::discard("late")),
        Err(StaleError)
    );
    assert_eq!(leases.remove(0).ack(), Err(StaleError));
    drop(leases);
    let metrics = worker.metrics();
    assert_eq!(
        (metrics.stale, metrics.abandoned, metrics.leased),
        (3, 0, 3)
    );
    broker.run_until_idle();
    let metrics = worker.metrics();
    assert_eq!((metrics.timed_out, metrics.leased), (3, 0));
    assert_balanced(&broker);
}

#[test]
fn a_lease_that_is_extended_is_good_for_at_least_so_long_from_now() {
    let (broker, clock, _topic, worker) = pulled(1);
    let mut lease = worker.recv().expect("it is there");
    advance(&broker, &clock, SECOND / 2);
    assert_eq!(lease.extend(2 * SECOND), Ok(()));
    assert_eq!(lease.remaining(), 2 * SECOND);
    advance(&broker, &clock, 2 * SECOND - MS);
    assert_eq!(worker.metrics().timed_out, 0);
    assert_eq!(lease.extend(10 * MS), Ok(()));
    for shorter in [Duration::ZERO, Duration::from_nanos(1), 9 * MS] {
        assert_eq!(lease.extend(shorter), Ok(()));
        assert_eq!(lease.remaining(), 10 * MS, "it has no less than before");
    }
    advance(&broker, &clock, 9 * MS);
    assert_eq!(worker.metrics().timed_out, 0);
    advance(&broker, &clock, 2 * MS);
    assert_eq!(lease.extend(SECOND), Err(StaleError));
    assert_eq!(worker.metrics().timed_out, 1);
    assert_balanced(&broker);
}

#[test]
fn a_timer_of_the_last_tenant_changes_nothing_for_the_next() {
    let (broker, clock, _topic, worker) = pulled(2);
    worker.set_ack_deadline(10 * MS).expect("more than nothing");
    let first = worker.recv().expect("it is there");
    worker.set_ack_deadline(SECOND).expect("more than nothing");
    clock.advance(9 * MS);
    first.ack().expect("in time");
    let second = worker.recv().expect("it is there");
    advance(&broker, &clock, 5 * MS);
    assert_eq!(worker.metrics().timed_out, 0);
    assert_eq!(second.ack(), Ok(()));
    assert_balanced(&broker);
}

#[test]
fn dropping_a_lease_is_a_failed_attempt() {
    let (broker, clock, topic, worker) = pulled(1);
    drop(worker.recv().expect("it is there"));
    assert_eq!(worker.metrics().abandoned, 1);
    advance(&broker, &clock, 10 * MS);
    let again = worker.recv().expect("it is due");
    let panicked = thread::scope(|scope| {
        let holder = scope.spawn(move || {
            let _lease = again;
            panic!("a worker that fails");
        });
        holder.join()
    });
    assert!(panicked.is_err());
    let letters = topic.dead_letters().list();
    let failures: Vec<_> = letters[0].failures().map(|past| past.kind).collect();
    assert_eq!(failures, [FailureKind::Abandoned; 2]);
    assert_balanced(&broker);
}

#[test]
fn credits_bound_what_is_out() {
    let (broker, _clock) = manual();
    let topic = open(&broker);
    let worker = pull_with(&topic, Pull::default().credits(2));
    topic.publish_batch(1..=5).expect("there is room");
    let mut leases = take(&worker);
    assert_eq!(payloads(&leases), [1, 2]);
    assert_eq!(worker.try_recv().err(), Some(TryRecvError::Empty));
    leases.remove(0).ack().expect("in time");
    assert_eq!(payloads(&take(&worker)), [3], "one credit came back");
    assert_eq!(worker.metrics().abandoned, 1);
    drop(leases);
    assert_balanced(&broker);
}

#[test]
fn credits_and_deadline_can_be_changed_while_leases_are_out() {
    let (broker, clock) = manual();
    let topic = open(&broker);
    let settings = Pull::default().credits(3).ack_deadline(SECOND);
    let worker = pull_with(&topic, settings);
    topic.publish_batch(1..=9).expect("there is room");
    let mut old = take(&worker);
    worker.set_credits(1).expect("in range");
    worker.set_ack_deadline(10 * SECOND).expect("in range");
    assert_eq!(old.len(), 3);
    old.pop()
        .map(|lease| lease.ack())
        .expect("there are three")
        .expect("it stays out");
    assert_eq!(
        take(&worker).len(),
        0,
        "two are out, and there is one credit"
    );
    worker.set_credits(4).expect("in range");
    let new = take(&worker);
    assert_eq!(payloads(&new), [4, 5]);
    advance(&broker, &clock, 2 * SECOND);
    assert_eq!(
        worker.metrics().timed_out,
        2,
        "the old ones had their old deadline"
    );
    for lease in new {
        assert_eq!(lease.ack(), Ok(()));
    }
    assert!(old.into_iter().all(|lease| lease.ack() == Err(StaleError)));
    assert!(worker.set_credits(0).is_err());
    assert!(worker.set_credits(1 << 30).is_err());
    assert!(worker.set_ack_deadline(Duration::ZERO).is_err());
    assert_balanced(&broker);
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    let (broker, _clock) = manual();
    let topic = broker.topic::<u32>("jobs").open().expect("opens");
    let small = || topic.subscription("worker").capacity(4);
    let setting = |refused: Result<PullSubscription<u32>, SubscribeError>| match refused {
        Err(SubscribeError::Invalid(invalid)) => invalid.setting(),
        other => panic!("{other:?}"),
    };
    let pull = Pull::default();
    assert_eq!(setting(small().pull(pull.credits(0))), "credits");
    assert_eq!(setting(small().pull(pull.credits(5))), "credits");
    let never = pull.ack_deadline(Duration::ZERO);
    assert_eq!(setting(small().pull(never)), "ack_deadline");
    let one_by_one = small().on_failure(OnFailure::BlockSubscription);
    assert_eq!(setting(one_by_one.pull(pull.credits(2))), "credits");
    let gaps = small()
        .on_failure(OnFailure::BlockKey)
        .when_full(LaneFull::DropOldest);
    assert_eq!(setting(gaps.pull(pull)), "when_full");
    let no_keys = small().on_exhausted(OnExhausted::ParkKey);
    assert_eq!(setting(no_keys.pull(pull)), "on_exhausted");
    assert_eq!(setting(small().hold(2).pull(pull)), "hold");
    let _small = small()
        .pull(pull)
        .expect("the default is what the lane can hold");
    assert!(matches!(
        small().pull(pull),
        Err(SubscribeError::NameTaken { .. })
    ));
}

fn publish_keyed(topic: &Topic<u32>, messages: &[(&str, u32)]) {
    for (key, number) in messages {
        let message = topic.message(*number).key(*key);
        message.publish().expect("there is room");
    }
}

#[test]
fn of_a_key_that_must_keep_its_order_one_is_out_at_a_time() {
    let (broker, clock) = manual();
    let topic = open(&broker);
    let builder = topic.subscription("worker").on_failure(OnFailure::BlockKey);
    let worker = builder.pull(Pull::default()).expect("subscribes");
    publish_keyed(&topic, &[("a", 1), ("a", 2), ("b", 3), ("a", 4), ("b", 5)]);
    topic.publish(6).expect("there is room");
    let mut leases = take(&worker);
    assert_eq!(payloads(&leases), [1, 3, 6]);
    leases.remove(1).ack().expect("in time");
    leases
        .remove(0)
        .nack(Nack::retry("not yet"))
        .expect("in time");
    leases.remove(0).ack().expect("in time");
    let b = take(&worker);
    assert_eq!(payloads(&b), [5], "a waits for its retry");
    assert_eq!(worker.metrics().blocked_keys, 1);
    advance(&broker, &clock, 10 * MS);
    for number in [1, 2, 4] {
        let leases = take(&worker);
        assert_eq!(payloads(&leases), [number]);
        leases
            .into_iter()
            .for_each(|lease| lease.ack().expect("in time"));
    }
    b.into_iter()
        .for_each(|lease| lease.ack().expect("in time"));
    assert_eq!(assert_balanced(&broker).deliveries().delivered, 6);
}

#[test]
fn where_all_must_keep_their_order_one_is_out_in_all() {
    let (broker, clock) = manual();
    let topic = open(&broker);
    let builder = topic
        .subscription("worker")
        .on_failure(OnFailure::BlockSubscription);
    let worker = builder
        .pull(Pull::default().ack_deadline(SECOND))
        .expect("subscribes");
    topic.publish_batch(1..=3).expect("there is room");
    let first = take(&worker);
    assert_eq!(payloads(&first), [1]);
    advance(&broker, &clock, SECOND);
    assert_eq!(take(&worker).len(), 0, "it waits for its retry");
    advance(&broker, &clock, 10 * MS);
    let again = take(&worker);
    assert_eq!((payloads(&again), again[0].attempt()), (vec![1], 2));
    worker.set_on_failure(OnFailure::Reorder).expect("in range");
    let rest = take(&worker);
    assert_eq!(payloads(&rest), [2, 3], "the change lets them go");
    drop(first);
    again
        .into_iter()
        .chain(rest)
        .for_each(|lease| lease.ack().expect("in time"));
    assert_balanced(&broker);
}

#[test]
fn what_is_exhausted_takes_its_key_along() {
    let (broker, clock) = manual();
    let topic = open(&broker);
    let builder = topic.subscription("worker").on_failure(OnFailure::BlockKey);
    let builder = builder.on_exhausted(OnExhausted::ParkKey);
    let worker = builder.pull(Pull::default()).expect("subscribes");
    publish_keyed(&topic, &[("a", 1), ("b", 2), ("a", 3)]);
    let mut leases = take(&worker);
    assert_eq!(payloads(&leases), [1, 2]);
    leases
        .remove(0)
        .nack(Nack::dead_letter("no"))
        .expect("in time");
    publish_keyed(&topic, &[("a", 4)]);
    assert_eq!(take(&worker).len(), 0);
    broker.run_until_idle();
    assert_eq!(topic.dead_letters().len(), 3);
    assert_eq!(topic.dead_letters().redrive(|_| true).redriven, 3);
    for (number, generation) in [(1, 1), (3, 1), (4, 1)] {
        let lease = worker.recv().expect("it is back");
        assert_eq!((*lease.payload(), lease.generation()), (number, generation));
        lease.ack().expect("in time");
    }
    leases
        .into_iter()
        .for_each(|lease| lease.ack().expect("in time"));
    advance(&broker, &clock, SECOND);
    assert_balanced(&broker);
}

#[test]
fn what_has_outlived_its_time_is_not_leased() {
    let (broker, clock, topic, worker) = pulled(0);
    for number in 1..=3 {
        let ttl = if number == 2 { SECOND } else { MS };
        topic
            .message(number)
            .ttl(ttl)
            .publish()
            .expect("there is room");
    }
    clock.advance(2 * MS);
    let lease = worker.recv().expect("one is left");
    assert_eq!(*lease.payload(), 2);
    lease.ack().expect("in time");
    assert_eq!(worker.try_recv().err(), Some(TryRecvError::Empty));
    assert_eq!(assert_balanced(&broker).deliveries().expired, 2);
}

#[test]
fn a_batch_is_what_there_is_at_most_so_many() {
    let broker = threaded(1);
    let topic = open(&broker);
    let worker = pull_with(&topic, Pull::default().credits(3));
    assert_eq!(worker.recv_batch(0, HANG).map(|batch| batch.len()), Ok(0));
    let began = Instant::now();
    let nothing = worker.recv_batch(4, 20 * MS);
    assert_eq!(nothing.err(), Some(RecvTimeoutError::TimedOut));
    assert!(began.elapsed() >= 20 * MS);
    topic.publish_batch(1..=5).expect("there is room");
    let batch = worker.recv_batch(2, HANG).expect("it is on its way");
    assert_eq!(payloads_of(&batch), [1, 2]);
    let rest = worker.recv_batch(9, HANG).expect("it is there");
    assert_eq!(payloads_of(&rest), [3], "as many as there are credits");
    batch
        .into_iter()
        .chain(rest)
        .for_each(|lease| lease.ack().expect("in time"));
    let last = worker.recv_batch(9, HANG).expect("it is there");
    last.into_iter()
        .for_each(|lease| lease.ack().expect("in time"));
    assert_eq!(assert_rests_balanced(&broker).deliveries().delivered, 5);
}

#[test]
fn a_receiver_that_waits_is_woken_by_a_message_a_credit_a_key_and_a_retry() {
    let broker = threaded(1);
    let topic = open(&broker);
    let builder = topic.subscription("worker").on_failure(OnFailure::BlockKey);
    let worker = builder
        .pull(Pull::default().credits(1))
        .expect("subscribes");
    let (said, heard) = mpsc::channel();
    let receiver = {
        let worker = worker.clone();
        thread::spawn(move || {
            while let Ok(lease) = worker.recv() {
                said.send(lease).expect("somebody listens");
            }
        })
    };
    let next = || heard.recv_timeout(HANG).expect("the receiver is woken");
    publish_keyed(&topic, &[("a", 1), ("a", 2), ("b", 3)]);
    let first = next();
    thread::sleep(5 * MS);
    assert!(heard.try_recv().is_err(), "no credit");
    worker.set_credits(2).expect("in range");
    let third = next();
    assert_eq!(*third.payload(), 3, "the key of 2 is out");
    third.ack().expect("in time");
    first.nack(Nack::retry("not yet")).expect("in time");
    let first = next();
    assert_eq!((*first.payload(), first.attempt()), (1, 2));
    first.ack().expect("in time");
    let second = next();
    assert_eq!(*second.payload(), 2);
    second.ack().expect("in time");
    assert_rests_balanced(&broker);
    drop(worker.unsubscribe(Unsubscribe::Cancel));
    receiver.join().expect("it ends");
}

#[test]
fn several_receivers_share_the_deliveries() {
    const MESSAGES: u32 = 20_000;
    let broker = threaded(2);
    let topic = open(&broker);
    let worker = pull_with(&topic, Pull::default().credits(8));
    let done = Log::new();
    let receivers: Vec<_> = (0..3)
        .map(|_| {
            let (worker, done) = (worker.clone(), done.clone());
            thread::spawn(move || {
                for lease in &worker {
                    done.push(*lease.payload());
                    lease.ack().expect("in time");
                }
            })
        })
        .collect();
    for number in 0..MESSAGES {
        while topic.publish(number).is_err() {
            thread::yield_now();
        }
    }
    let report = broker
        .drain(HANG)
        .expect("receivers go on until all is done");
    assert_eq!(report.delivered, u64::from(MESSAGES));
    for receiver in receivers {
        receiver.join().expect("it ends with the broker");
    }
    let mut done = done.take();
    done.sort_unstable();
    assert!(done.into_iter().eq(0..MESSAGES));
    assert_balanced(&broker);
}

/// Unsubscribes with one delivery out, one queued and one awaiting a retry.
fn end_with(mode: Unsubscribe) -> (Broker, Topic<u32>, Lease<u32>, PullSubscription<u32>) {
    let (broker, _clock, topic, worker) = pulled(3);
    let nacked = worker.recv().expect("it is there");
    nacked
        .nack(Nack::retry_after(SECOND, "later"))
        .expect("in time");
    let out = worker.recv().expect("it is there");
    let Unsubscribed::Ended(metrics) = worker.unsubscribe(mode) else {
        panic!("not inside a handler");
    };
    assert_eq!((metrics.counts.open(), metrics.leased), (0, 0));
    (broker, topic, out, worker)
}

#[test]
fn an_unsubscribe_cancels_what_is_out_with_the_rest() {
    let (broker, _topic, out, worker) = end_with(Unsubscribe::Cancel);
    assert_eq!(worker.recv().err(), Some(RecvError::Ended));
    assert_eq!(worker.try_recv().err(), Some(TryRecvError::Ended));
    assert_eq!(
        worker.recv_batch(1, HANG).err(),
        Some(RecvTimeoutError::Ended)
    );
    assert!(worker.iter().next().is_none() && worker.has_ended());
    assert_eq!(*out.payload(), 2, "it can still be read");
    assert_eq!(out.ack(), Err(StaleError));
    let counts = assert_balanced(&broker).deliveries();
    assert_eq!((counts.cancelled, counts.delivered), (3, 0));
}

#[test]
fn an_unsubscribe_dead_letters_what_is_out_with_the_rest() {
    let (broker, topic, out, _worker) = end_with(Unsubscribe::DeadLetter);
    assert_eq!(out.nack(Nack::discard("late")), Err(StaleError));
    let letters = topic.dead_letters().list();
    let mut letters: Vec<_> = letters
        .iter()
        .map(|letter| (letter.id().get(), letter.reason(), letter.attempts()))
        .collect();
    letters.sort_unstable_by_key(|(id, ..)| *id);
    let reason = DeadReason::Unsubscribed;
    assert_eq!(letters, [(1, reason, 1), (2, reason, 1), (3, reason, 0)]);
    let counts = assert_balanced(&broker).deliveries();
    assert_eq!((counts.dead_lettered, counts.failed), (3, 1));
}

#[test]
fn an_unsubscribe_that_drains_waits_for_receivers_and_leases() {
    let broker = threaded(1);
    let topic = open(&broker);
    let worker = pull(&topic);
    topic.publish_batch(1..=3).expect("there is room");
    let first = worker.recv().expect("it comes");
    let drainer = {
        let worker = worker.clone();
        thread::spawn(move || worker.unsubscribe(Unsubscribe::Drain { timeout: HANG }))
    };
    thread::sleep(5 * MS);
    assert!(!drainer.is_finished());
    let second = worker.recv().expect("receivers go on");
    second.nack(Nack::retry("once more")).expect("in time");
    worker
        .recv()
        .expect("receivers go on")
        .ack()
        .expect("in time");
    worker
        .recv()
        .expect("retries come, too")
        .ack()
        .expect("in time");
    first.ack().expect("leases can be settled");
    assert_eq!(worker.recv().err(), Some(RecvError::Ended));
    let Unsubscribed::Ended(metrics) = drainer.join().expect("it ends") else {
        panic!("not inside a handler");
    };
    assert_eq!(metrics.counts.delivered, 3);
    assert_rests_balanced(&broker);
}

#[test]
fn an_unsubscribe_that_drains_cancels_when_its_time_is_up() {
    let broker = threaded(1);
    let topic = open(&broker);
    let worker = pull(&topic);
    topic.publish_batch(1..=2).expect("there is room");
    let lease = worker.recv().expect("it comes");
    let ended = worker.unsubscribe(Unsubscribe::Drain { timeout: 5 * MS });
    let Unsubscribed::Ended(metrics) = ended else {
        panic!("not inside a handler");
    };
    assert_eq!(metrics.counts.cancelled, 2);
    assert_eq!(lease.ack(), Err(StaleError));
    assert_rests_balanced(&broker);
}

#[test]
fn dropping_the_last_handle_unsubscribes() {
    let (broker, _clock, topic, worker) = pulled(2);
    let lease = worker.recv().expect("it is there");
    let clone = worker.clone();
    drop(worker);
    broker.run_until_idle();
    assert!(!clone.has_ended());
    drop(clone);
    broker.run_until_idle();
    assert_eq!(lease.ack(), Err(StaleError));
    assert_eq!(topic.metrics().ended.cancelled, 2);
    assert_balanced(&broker);
}

#[test]
fn a_drain_waits_for_leases_until_its_deadline() {
    with_time_enough(|deadline| {
        let broker = threaded(1);
        let topic = open(&broker);
        let worker = pull(&topic);
        topic.publish_batch(1..=3).expect("there is room");
        let done = worker.recv().expect("it comes");
        let stuck = worker.recv().expect("it comes");
        let settler = {
            let broker = broker.clone();
            thread::spawn(move || {
                while !broker.is_closed() {
                    thread::yield_now();
                }
                done.ack()
            })
        };
        let Err(DrainError::Incomplete(report)) = broker.drain(deadline) else {
            panic!("one is out");
        };
        let acked = settler.join().expect("it ends").is_ok();
        let delivered = u64::from(acked);
        assert_eq!(
            (report.delivered, report.cancelled),
            (delivered, 3 - delivered)
        );
        assert_eq!((report.cut_off, report.remaining), (3 - delivered, 0));
        assert_eq!(worker.recv().err(), Some(RecvError::Ended));
        assert_eq!(stuck.ack(), Err(StaleError));
        assert_balanced(&broker);
        acked
    });
}

#[test]
fn a_drain_ends_with_the_last_ack() {
    let broker = threaded(1);
    let topic = open(&broker);
    let worker = pull_with(&topic, Pull::default().ack_deadline(HANG));
    topic.publish(1).expect("there is room");
    let lease = worker.recv().expect("it comes");
    let settler = thread::spawn(move || {
        thread::sleep(10 * MS);
        lease.ack()
    });
    let began = Instant::now();
    let report = broker.drain(HANG).expect("it is acked");
    assert!(began.elapsed() < HANG / 2, "nobody was told of the ack");
    assert!(report.is_complete());
    assert_eq!(settler.join().expect("it ends"), Ok(()));
}

#[test]
fn a_failure_that_the_end_of_the_broker_causes_is_not_a_failure() {
    let broker = threaded(1);
    let topic = open(&broker);
    let log = broker.topic::<u32>("log").open().expect("opens");
    let worker = pull(&topic);
    topic.publish(1).expect("there is room");
    let lease = worker.recv().expect("it comes");
    let drainer = {
        let broker = broker.clone();
        thread::spawn(move || broker.drain(HANG))
    };
    // Without a subscription, so that what comes too early is gone at once.
    let refused = loop {
        match log.publish(2) {
            Ok(_) => thread::yield_now(),
            Err(refused) => break refused,
        }
    };
    lease.nack(refused.into()).expect("in time");
    let report = drainer
        .join()
        .expect("it ends")
        .expect_err("the end of it is that it was cancelled");
    let report = report.report();
    assert_eq!((report.cancelled, report.dead_lettered), (1, 0));
    assert_eq!((report.cut_off, report.remaining), (1, 0));
    assert_balanced(&broker);
}

#[test]
fn a_receiver_that_waits_ends_when_its_broker_is_dropped() {
    let broker = threaded(1);
    let topic = open(&broker);
    let worker = pull(&topic);
    topic.publish(1).expect("there is room");
    let lease = worker.recv().expect("it comes");
    let receiver = {
        let worker = worker.clone();
        thread::spawn(move || worker.recv().err())
    };
    thread::sleep(5 * MS);
    drop(broker);
    assert_eq!(receiver.join().expect("it ends"), Some(RecvError::Ended));
    assert_eq!(lease.ack(), Err(StaleError));
    assert!(worker.has_ended());
}

#[test]
fn inside_a_handler_nobody_waits() {
    let broker = threaded(1);
    let topic = open(&broker);
    let worker = pull(&topic);
    let other = broker.topic::<()>("other").open().expect("opens");
    let (said, heard) = mpsc::channel();
    let _handler = other.subscribe("handler", {
        let worker = worker.clone();
        move |_| {
            let answers = [
                worker.recv().err().map(RecvTimeoutError::from),
                worker.recv_timeout(HANG).err(),
                worker.recv_batch(3, HANG).err(),
            ];
            said.send(answers)?;
            Ok(())
        }
    });
    other.publish(()).expect("there is room");
    let answers = heard.recv_timeout(HANG).expect("it didn't wait");
    assert_eq!(answers, [Some(RecvTimeoutError::WouldBlock); 3]);
    assert_rests_balanced(&broker);
}

#[test]
fn a_policy_that_panics_on_the_callers_thread_loses_nothing() {
    struct Bomb;
    impl millstream::retry::RetryPolicy for Bomb {
        fn decide(&self, _: &millstream::retry::FailedAttempt<'_>) -> millstream::retry::Decision {
            panic!("a policy that fails")
        }
    }
    let (broker, _clock) = manual();
    let topic = open(&broker);
    let builder = topic.subscription("worker").retry(Bomb);
    let worker = builder.pull(Pull::default()).expect("subscribes");
    topic.publish_batch(1..=2).expect("there is room");
    let first = worker.recv().expect("it is there");
    first.nack(Nack::retry("no")).expect("in time");
    drop(worker.recv().expect("it is there"));
    let letters = topic.dead_letters().list();
    assert!(
        letters
            .iter()
            .all(|letter| letter.reason() == DeadReason::PolicyPanicked)
    );
    assert_eq!(letters.len(), 2);
    assert_balanced(&broker);
}

#[test]
fn leases_and_handles_can_be_sent_and_shared() {
    fn is_send<V: Send>() {}
    fn is_sync<V: Sync>() {}
    is_send::<Lease<u32>>();
    is_send::<PullSubscription<u32>>();
    is_sync::<PullSubscription<u32>>();
}

#[test]
fn deadlines_acks_and_ends_race_without_a_loss() {
    let broker = threaded(2);
    let retry = Backoff::fixed(Duration::from_micros(200)).max_attempts(3);
    let topic = broker.topic("jobs").retry(retry).capacity(4_096).open();
    let topic: Topic<u32> = topic.expect("opens");
    let settings = Pull::default().credits(32).ack_deadline(MS);
    let worker = pull_with(&topic, settings);
    let receivers: Vec<_> = (0..3_u32)
        .map(|number| {
            let worker = worker.clone();
            thread::spawn(move || {
                let mut held = Vec::new();
                for lease in &worker {
                    // Some are kept past their deadline, some are dropped.
                    match (*lease.payload() + number) % 8 {
                        0 => held.push(lease),
                        1 => drop(lease),
                        2 => _ = lease.nack(Nack::retry("no")),
                        _ => _ = lease.ack(),
                    }
                    if held.len() > 4 {
                        held.drain(..).for_each(|lease| _ = lease.ack());
                    }
                }
            })
        })
        .collect();
    for number in 0..10_000 {
        while topic.publish(number).is_err() {
            thread::yield_now();
        }
    }
    drop(worker.unsubscribe(Unsubscribe::Drain { timeout: 200 * MS }));
    for receiver in receivers {
        receiver.join().expect("it ends");
    }
    let counts = assert_rests_balanced(&broker).deliveries();
    assert_eq!(counts.open(), 0);
    assert_eq!(counts.illegal, 0);
    assert!(counts.failed > 0);
}

/// By the system's slices of time alone, one of them would get nearly all. A busy machine may
/// let a thread wait while the others take all there is, but not each time.
#[test]
fn threads_that_share_a_pull_get_about_as_many_each() {
    let mut rounds = Vec::new();
    while rounds.len() < 5 {
        let shares = shares_of_a_pull();
        let even = shares.iter().sum::<u32>() / shares.len() as u32;
        if shares.iter().all(|share| *share >= even / 4) {
            return;
        }
        rounds.push(shares);
    }
    panic!("{rounds:?}");
}

/// How many messages each of four threads gets that receive until there are no more.
fn shares_of_a_pull() -> Vec<u32> {
    const THREADS: usize = 4;
    const MESSAGES: u32 = 200_000;
    let broker = threaded(1);
    let topic = broker.topic("t").capacity(MESSAGES as usize);
    let topic = topic.lane_capacity(MESSAGES as usize).open();
    let topic: Topic<u32> = topic.expect("opens");
    let worker = pull(&topic);
    topic.publish_batch(0..MESSAGES).expect("there is room");
    let all_there = std::sync::Barrier::new(THREADS);
    let shares: Vec<u32> = thread::scope(|scope| {
        let receive = || {
            all_there.wait();
            let mut acked = 0;
            while let Ok(lease) = worker.recv_timeout(SECOND) {
                lease.ack().expect("in time");
                acked += 1;
            }
            acked
        };
        let receivers: Vec<_> = (0..THREADS).map(|_| scope.spawn(receive)).collect();
        let shares = receivers.into_iter().map(|receiver| receiver.join());
        shares.map(|share| share.expect("no panic")).collect()
    });
    assert_eq!(shares.iter().sum::<u32>(), MESSAGES);
    assert_rests_balanced(&broker);
    shares
}
