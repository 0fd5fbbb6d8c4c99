//! Durable subscriptions of all shapes resume after a restart: batches, async and parallel handlers,
//! groups, pulls. Patterns get what durable topics store, and not before. What a durable topic
//! can't do is refused, and the error says so.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::harness::{HANG, Log, assert_balanced, assert_rests_balanced};
use millstream::error::{OpenError, PartitionsError, SubscribeError};
use millstream::store::{Durability, Raw, Retention, Start, Store};
use millstream::{
    Batched, Broker, ConsumerGroup, Delivery, LaneFull, Member, Nack, Pull, PullSubscription,
    SubscriptionOptions, Topic,
};

/// A directory of a test's own, which goes with it.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("shapes-{}-{number}", std::process::id());
        Self(PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name))
    }

    fn open(&self, workers: usize) -> (Broker, Topic<String>) {
        let store = Store::open(&self.0).expect("it opens");
        let builder = Broker::builder().workers(workers).store(store);
        let broker = builder.build().expect("it builds");
        let notes = notes(&broker, "notes");
        (broker, notes)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn notes(broker: &Broker, name: &str) -> Topic<String> {
    let topic = broker.topic::<String>(name).durable(Raw);
    topic.open().expect("it opens")
}

fn texts(numbers: std::ops::RangeInclusive<u64>) -> impl Iterator<Item = String> {
    numbers.map(|number| number.to_string())
}

/// Runs a subscription in three processes, the first of which makes it. Each process publishes ten
/// messages before it subscribes, and ten after. `subscribe` appends the ids that it handles.
fn resumes<S>(workers: usize, subscribe: impl Fn(&Topic<String>, Log<u64>) -> S) {
    let directory = Directory::new();
    let handled = Log::new();
    for run in 0..3 {
        let (broker, topic) = directory.open(workers);
        if run > 0 {
            topic.publish_batch(texts(1..=10)).expect("stored");
        }
        let subscription = subscribe(&topic, handled.clone());
        topic.publish_batch(texts(1..=10)).expect("stored");
        match workers {
            0 => assert!(broker.run_until_idle() > 0),
            _ => drop(assert_rests_balanced(&broker)),
        };
        assert_balanced(&broker);
        drop((subscription, topic, broker));
    }
    let mut handled = handled.take();
    handled.sort_unstable();
    assert_eq!(handled, (1..=50).collect::<Vec<_>>());
}

#[test]
fn batches_resume() {
    resumes(0, |topic, handled| {
        let durable = topic.subscription("billing").durable();
        let batches = durable.subscribe_batches(Batched::of(5), move |batch| {
            batch.iter().for_each(|note| handled.push(note.id().get()));
            Ok(())
        });
        batches.expect("subscribed")
    });
}

#[test]
fn concurrent_handlers_resume() {
    resumes(2, |topic, handled| {
        let durable = topic.subscription("billing").durable().concurrency(4);
        let shared = durable.subscribe_shared(move |note: &Delivery<'_, String>| {
            handled.push(note.id().get());
            Ok(())
        });
        shared.expect("subscribed")
    });
}

#[test]
#[cfg(feature = "async")]
fn async_handlers_resume() {
    resumes(2, |topic, handled| {
        let durable = topic.subscription("billing").durable();
        let asynchronous = durable.subscribe_async(move |note| {
            let handled = handled.clone();
            async move {
                handled.push(note.id().get());
                Ok(())
            }
        });
        asynchronous.expect("subscribed")
    });
}

#[test]
#[cfg(feature = "parallel")]
fn parallel_handlers_resume() {
    resumes(2, |topic, handled| {
        let durable = topic.subscription("billing").durable();
        let parallel = durable.subscribe_parallel(Batched::of(4), move |note| {
            handled.push(note.id().get());
            Ok(())
        });
        parallel.expect("subscribed")
    });
}

fn join(group: &ConsumerGroup<String>, name: &'static str, handled: &Log<u64>) -> Member {
    let handled = handled.clone();
    let handler = move |note: &Delivery<'_, String>| {
        handled.push(note.id().get());
        Ok(())
    };
    group.join(name, handler).expect("joined")
}

#[test]
fn a_group_of_two_resumes() {
    resumes(2, |topic, handled| {
        let group = topic.subscription("billing").durable().group();
        let group = group.expect("subscribed");
        let members = ["one", "two"].map(|name| join(&group, name, &handled));
        (group, members)
    });
}

/// The group of another process has other members.
#[test]
fn messages_that_no_member_of_a_group_was_done_with_go_to_the_members_that_come() {
    let directory = Directory::new();
    let (broker, topic) = directory.open(0);
    let group = topic.subscription("billing").durable().group();
    let group = group.expect("subscribed");
    let first = Log::new();
    let steady = join(&group, "steady", &first);
    let stuck = group.join("stuck", |_| Err(Nack::retry("not now")));
    let stuck = stuck.expect("joined");
    for number in 1..=40_u64 {
        let note = topic.message(number.to_string());
        let note = note.key(format!("key-{}", number % 8)).publish();
        note.expect("stored");
    }
    broker.run_until_idle();
    assert_balanced(&broker);
    drop((steady, stuck, group, topic, broker));
    let first = first.take();
    assert!((1..40).contains(&first.len()), "each has some keys");

    let (broker, topic) = directory.open(0);
    let second = Log::new();
    let group = topic.subscription("billing").durable().group();
    let group = group.expect("it resumes");
    let _members = ["one", "two"].map(|name| join(&group, name, &second));
    broker.run_until_idle();
    let second = second.take();
    // The order of each key is kept.
    for key in 0..8 {
        let of_key: Vec<_> = second.iter().filter(|id| *id % 8 == key).collect();
        assert!(of_key.is_sorted(), "{second:?}");
    }
    let mut all = [first, second].concat();
    all.sort_unstable();
    assert_eq!(all, (1..=40).collect::<Vec<_>>());
    assert_balanced(&broker);
}

#[test]
fn a_pull_subscription_resumes_with_what_was_not_acked() {
    let directory = Directory::new();
    let pull = |topic: &Topic<String>| -> PullSubscription<String> {
        let durable = topic.subscription("worker").durable();
        durable.pull(Pull::default()).expect("subscribed")
    };
    let (broker, topic) = directory.open(0);
    let worker = pull(&topic);
    topic.publish_batch(texts(1..=10)).expect("stored");
    broker.run_until_idle();
    let mut held = Vec::new();
    for number in 1..=8 {
        let lease = worker.try_recv().expect("there is one");
        assert_eq!(lease.id().get(), number);
        match number {
            3 => lease.nack(Nack::dead_letter("no such job")).expect("out"),
            5 | 7 => held.push(lease),
            _ => lease.ack().expect("it is out"),
        }
    }
    assert_balanced(&broker);
    drop((held, worker, topic, broker));

    let (broker, topic) = directory.open(0);
    let worker = pull(&topic);
    broker.run_until_idle();
    let again: Vec<_> = std::iter::from_fn(|| worker.try_recv().ok())
        .map(|lease| {
            lease.ack().expect("it is out");
            assert!(lease.is_replayed());
            lease.id().get()
        })
        .collect();
    assert_eq!(again, [5, 7, 9, 10]);
    let letters = topic.dead_letters().list();
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].id().get(), 3);
    assert_balanced(&broker);
}

#[test]
fn a_pattern_gets_what_durable_topics_store_and_not_before() {
    let directory = Directory::new();
    let (broker, topic) = directory.open(2);
    let early = topic.clone();
    let seen = Log::new();
    let all = broker
        .subscription("all")
        .matching("notes")
        .matching("notes.*");
    let all = all.subscribe({
        let (seen, broker) = (seen.clone(), broker.clone());
        move |note: &Delivery<'_, String>| {
            let topic = notes(&broker, note.topic());
            let mut stored = topic.read(Start::Seq(note.id().get())).expect("readable");
            let record = stored.next().expect("it is stored").expect("whole");
            assert_eq!(record.message.payload(), note.payload());
            seen.push((note.topic().to_owned(), note.id().get()));
            Ok(())
        }
    });
    let all = all.expect("subscribed");
    let late = notes(&broker, "notes.late");
    let pending: Vec<_> = (0..50)
        .map(|number| late.submit(number.to_string()).expect("submitted"))
        .collect();
    early.publish_batch(texts(1..=50)).expect("stored");
    for receipt in pending {
        receipt.wait().expect("stored");
    }
    assert_rests_balanced(&broker);
    let seen = seen.take();
    for topic in ["notes", "notes.late"] {
        let of_topic = seen.iter().filter(|(name, _)| name == topic);
        let ids: Vec<_> = of_topic.map(|(_, id)| *id).collect();
        assert_eq!(ids, (1..=50).collect::<Vec<_>>(), "{topic}");
    }
    drop(all);

    // The pattern has no cursor: the next of its name starts with what comes then.
    let pulled = broker.subscription::<String>("all").matching("notes");
    let pulled = pulled.pull(Pull::default()).expect("subscribed");
    topic.publish("51".to_owned()).expect("stored");
    let lease = pulled.recv_timeout(HANG).expect("there is one");
    assert_eq!(lease.id().get(), 51);
    lease.ack().expect("it is out");
    assert_rests_balanced(&broker);
}

/// A pattern has no `durable` and no `from`. It could be told to catch up, and lost what its full
/// lane had no room for.
#[test]
fn a_pattern_that_is_to_catch_up_is_refused() {
    let directory = Directory::new();
    let (broker, topic) = directory.open(0);
    let options = SubscriptionOptions::new().when_full(LaneFull::CatchUp);
    let pattern = || broker.subscription::<String>("all").matching("notes");
    let refusals = [
        pattern().options(&options).subscribe(|_| Ok(())).map(drop),
        pattern().when_full(LaneFull::CatchUp).group().map(drop),
        pattern().options(&options).pull(Pull::default()).map(drop),
    ];
    for refused in refusals {
        let Err(SubscribeError::Invalid(error)) = refused else {
            panic!("{refused:?}");
        };
        let text = error.to_string();
        assert!(
            text.contains("needs a subscription to one durable topic"),
            "{text}"
        );
    }
    let all = pattern().capacity(2).subscribe(|_| Ok(()));
    let all = all.expect("it waits for room");
    let refused = all.set_when_full(LaneFull::CatchUp);
    assert!(refused.is_err());
    topic.publish_batch(texts(1..=10)).expect("stored");
    broker.run_until_idle();
    assert_eq!(all.metrics().counts.delivered, 10);
    assert_balanced(&broker);
}

#[test]
fn a_durable_topic_cannot_be_split_later_either() {
    let directory = Directory::new();
    let (broker, topic) = directory.open(0);
    let refused = topic.set_partitions(4).expect_err("it is durable");
    assert!(matches!(refused, PartitionsError::Invalid(_)), "{refused}");
    let joins = broker.topic::<String>("notes").partitions(4).open();
    assert!(matches!(
        joins,
        Err(OpenError::Clash {
            setting: "partitions",
            ..
        })
    ));
}

#[test]
fn a_topic_that_is_open_in_memory_does_not_pass_for_a_durable_one() {
    let directory = Directory::new();
    let (broker, _notes) = directory.open(0);
    let _plain = broker.topic::<String>("plain").open().expect("it opens");
    let written = || {
        let topic = broker.topic::<String>("written").durable(Raw);
        let topic = topic.durability(Durability::Written);
        topic.retention(Retention::new().bytes(1 << 20))
    };
    let open = written().open().expect("it opens");
    let joined = written().open().expect("it agrees");
    joined.publish("1".to_owned()).expect("stored");
    assert_eq!(open.metrics().published, 1);
    let opens = broker.topic::<String>("written").open();
    opens.expect("it joins, and asks for nothing");
    let clashes = [
        ("durable", broker.topic::<String>("plain").durable(Raw)),
        ("durability", written().durability(Durability::Synced)),
        ("retention", written().retention(Retention::new())),
    ];
    for (asked, topic) in clashes {
        match topic.open() {
            Err(OpenError::Clash { setting, .. }) => assert_eq!(setting, asked),
            other => panic!("{asked}: {other:?}"),
        }
    }
}

#[test]
fn a_topic_in_memory_refuses_what_needs_the_log() {
    let broker = Broker::builder().workers(0).build().expect("it builds");
    let plain = broker.topic::<String>("plain").open().expect("it opens");
    let refusals = [
        (
            "durable",
            plain.subscription("a").durable().group().map(drop),
        ),
        (
            "from",
            plain
                .subscription("a")
                .from(Start::Earliest)
                .pull(Pull::default())
                .map(drop),
        ),
    ];
    for (setting, refused) in refusals {
        let Err(SubscribeError::Invalid(error)) = refused else {
            panic!("{refused:?}");
        };
        let text = error.to_string();
        assert!(
            text.contains(setting) && text.contains("durable topic"),
            "{text}"
        );
    }
}
