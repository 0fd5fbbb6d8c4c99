//! Delayed messages of durable topics: they outlive the process, and come once, or are cancelled.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, SystemTime};

use crate::harness::{
    HANG, HOUR, Log, advance, assert_balanced, assert_rests_balanced, read, read_by,
};
use millstream::error::NotDelayedError;
use millstream::event::{DropCause, EventKind};
use millstream::store::{
    Codec, CodecError, Content, Durability, Raw, Retention, Start, Store, inspect, read_records,
};
use millstream::{Broker, Dedup, ManualClock, Message, MessageId, Topic, TopicBuilder};

const MS: Duration = Duration::from_millis(1);

/// A directory of a test's own, which goes with it.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("durable-delayed-{}-{number}", std::process::id());
        Self(PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name))
    }

    fn store(&self) -> Store {
        let store = Store::builder(&self.0).segment_size(4_096);
        store.open().expect("it opens")
    }

    fn broker(&self) -> (Broker, ManualClock) {
        let clock = ManualClock::new();
        let builder = Broker::builder().workers(0).manual_clock(&clock);
        let broker = builder.store(self.store()).build();
        (broker.expect("it builds"), clock)
    }

    /// Returns the directory as a process leaves it that is killed now.
    fn killed(&self) -> Self {
        let copy = Self::new();
        std::fs::create_dir(&copy.0).expect("it is new");
        for file in std::fs::read_dir(&self.0).expect("it is there") {
            let file = file.expect("it is there");
            std::fs::copy(file.path(), copy.0.join(file.file_name())).expect("there is room");
        }
        copy
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn notes(broker: &Broker) -> TopicBuilder<'_, String> {
    broker.topic::<String>("notes").durable(Raw)
}

fn open(broker: &Broker) -> Topic<String> {
    notes(broker).open().expect("it opens")
}

fn delay(topic: &Topic<String>, delay: Duration, text: &str) -> MessageId {
    let receipt = topic.publish_after(delay, text.to_owned());
    receipt.expect("it is stored").id()
}

fn durable(topic: &Topic<String>) -> (Log<String>, millstream::Subscription) {
    read_by(topic.subscription("durable").durable())
}

fn stored(topic: &Topic<String>) -> Vec<String> {
    let records = topic.read(Start::Earliest).expect("they are there");
    let payload = |record: millstream::store::StoredRecord<String>| record.message.into_inner();
    records
        .map(|record| payload(record.expect("sound")))
        .collect()
}

/// Waits until so much time has passed on the wall, which is what counts across processes.
fn let_pass(time: Duration) {
    let until = SystemTime::now() + time;
    while SystemTime::now() < until {
        thread::yield_now();
    }
}

#[test]
fn a_delayed_message_outlives_the_process_and_comes_whole_in_its_time() {
    let directory = Directory::new();
    let (broker, clock) = directory.broker();
    let topic = open(&broker);
    let (log, subscription) = durable(&topic);
    let whole = topic.message("late".to_owned()).key("k").header("h", "v");
    let receipt = whole.ttl(HOUR).after(HOUR).publish().expect("stored");
    assert_eq!(receipt.durability(), Durability::Synced);
    advance(&broker, &clock, HOUR / 2);
    assert_eq!((log.len(), stored(&topic).len()), (0, 0));
    assert_balanced(&broker);
    drop((broker, topic, subscription));

    let (broker, clock) = directory.broker();
    let topic = open(&broker);
    let (log, subscription) = durable(&topic);
    let metrics = topic.metrics();
    assert_eq!((metrics.published, metrics.delayed), (1, 1));
    advance(&broker, &clock, HOUR / 2);
    assert_eq!(log.len(), 0);
    advance(&broker, &clock, HOUR / 2);
    assert_eq!(log.take(), ["late"]);
    let record = topic.read(Start::Earliest).expect("it is there").next();
    let record = record.expect("one").expect("sound");
    let whole = Message::new("late".to_owned()).key("k").header("h", "v");
    assert_eq!((record.id.get(), record.message), (1, whole.ttl(HOUR)));
    assert_balanced(&broker);
    drop((broker, topic, subscription));

    let (broker, clock) = directory.broker();
    let topic = open(&broker);
    let (log, _subscription) = durable(&topic);
    advance(&broker, &clock, 9 * HOUR);
    assert_eq!(log.len(), 0, "it has come");
    assert_eq!(stored(&topic), ["late"]);
    assert_balanced(&broker);
}

#[test]
fn overdue_messages_come_at_once_in_the_order_of_their_times() {
    let directory = Directory::new();
    let (broker, _clock) = directory.broker();
    let topic = open(&broker);
    let (_, subscription) = durable(&topic);
    for (after, text) in [(20, "c"), (5, "a"), (10, "b"), (20, "d")] {
        delay(&topic, after * MS, text);
    }
    delay(&topic, HOUR, "e");
    drop((broker, topic, subscription));
    let_pass(30 * MS);
    // A slow machine may have made another order of them.
    let records = read_records(&directory.0).expect("it is whole");
    let mut overdue: Vec<_> = records
        .filter_map(|record| match record.expect("sound").content {
            Content::Delayed {
                id,
                due_ms,
                message,
                ..
            } => Some((due_ms, id, message.payload)),
            _ => None,
        })
        .collect();
    overdue.sort();
    overdue.pop();
    let text = |payload| String::from_utf8(payload).expect("a text");
    let overdue: Vec<_> = overdue.into_iter().map(|(.., it)| text(it)).collect();

    let (broker, clock) = directory.broker();
    let topic = open(&broker);
    let (log, _subscription) = durable(&topic);
    broker.run_until_idle();
    assert_eq!(log.take(), overdue);
    advance(&broker, &clock, HOUR);
    assert_eq!(log.take(), ["e"]);
    assert_balanced(&broker);
}

#[test]
fn a_message_is_cancelled_by_the_number_of_its_receipt_after_a_restart_too() {
    let directory = Directory::new();
    let (broker, _clock) = directory.broker();
    let topic = open(&broker);
    let plain = topic.publish("plain".to_owned()).expect("stored").id();
    let [first, second, third] = ["1", "2", "3"].map(|text| delay(&topic, HOUR, text));
    let cancelled = topic.cancel_delayed(first);
    assert_eq!(cancelled, Ok(Message::new("1".to_owned())));
    assert_balanced(&broker);
    drop((broker, topic));

    let (broker, clock) = directory.broker();
    let topic = open(&broker);
    let (log, _subscription) = read(&topic, "s");
    for gone in [plain, first] {
        assert_eq!(topic.cancel_delayed(gone), Err(NotDelayedError));
    }
    let cancelled = topic.cancel_delayed(second);
    assert_eq!(cancelled, Ok(Message::new("2".to_owned())));
    // A process that is killed as soon as the call has returned has cancelled the message.
    let (killed, clock_there) = directory.killed().broker();
    let (log_there, _there) = read(&open(&killed), "s");
    for (broker, clock, log) in [(&broker, clock, log), (&killed, clock_there, log_there)] {
        advance(broker, &clock, HOUR);
        assert_eq!(log.take(), ["3"]);
        assert_balanced(broker);
    }
    assert_eq!(topic.cancel_delayed(third), Err(NotDelayedError));
    let metrics = topic.metrics();
    assert_eq!((metrics.dropped, metrics.dispatched), (1, 1));
}

#[test]
fn a_number_of_a_receipt_names_one_message_for_ever() {
    let directory = Directory::new();
    let mut given = Vec::new();
    for round in 0..6 {
        let (broker, clock) = directory.broker();
        let topic = open(&broker);
        for text in ["due", "cancelled"] {
            given.push(delay(&topic, HOUR, text));
        }
        topic.cancel_delayed(given[given.len() - 1]).expect("late");
        advance(&broker, &clock, HOUR);
        // So that new files begin.
        topic.publish("-".repeat(3_000)).expect("stored");
        topic.publish("-".repeat(3_000)).expect("stored");
        assert_eq!(stored(&topic).len(), 3 * (round + 1));
        assert_balanced(&broker);
    }
    assert!(given.is_sorted_by(|one, next| one < next), "{given:?}");
    let least = given.iter().map(|id| id.get()).min();
    assert_eq!(least, Some(1 << 52), "no other message has such a number");
}

#[test]
fn retention_takes_no_message_that_is_still_delayed() {
    let directory = Directory::new();
    let (broker, _clock) = directory.broker();
    let topic = notes(&broker).retention(Retention::new().bytes(0));
    let topic = topic.open().expect("it opens");
    delay(&topic, HOUR, "late");
    for _ in 0..20 {
        topic.publish("-".repeat(1_000)).expect("stored");
    }
    broker.run_until_idle();
    drop((broker, topic));
    let found = inspect(&directory.0).expect("it is whole");
    assert!(found.segments[0].number > 1, "the first files are gone");
    assert_eq!(found.topics[0].delayed, 1);

    let (broker, clock) = directory.broker();
    let topic = open(&broker);
    let (log, subscription) = read(&topic, "s");
    advance(&broker, &clock, HOUR);
    assert_eq!(log.take(), ["late"]);
    assert_balanced(&broker);
    drop((broker, topic, subscription));
    let is_due = |content: &Content| matches!(content, Content::DelayedGone { seq: Some(21), .. });
    let records = read_records(&directory.0).expect("it is whole");
    let due = records.filter(|record| is_due(&record.as_ref().expect("sound").content));
    assert_eq!(due.count(), 1);
}

#[test]
fn a_process_that_is_killed_leaves_a_message_delayed_or_published() {
    let directory = Directory::new();
    let (broker, clock) = directory.broker();
    let topic = open(&broker);
    delay(&topic, HOUR, "late");
    let before = directory.killed();
    advance(&broker, &clock, HOUR);
    let after = directory.killed();
    drop((broker, topic));
    for (directory, left) in [(before, 1), (after, 0)] {
        let (broker, clock) = directory.broker();
        let topic = open(&broker);
        assert_eq!(topic.metrics().delayed, left);
        advance(&broker, &clock, HOUR);
        assert_eq!(stored(&topic), ["late"]);
        assert_balanced(&broker);
    }
}

#[test]
fn a_subscription_that_comes_before_a_message_is_due_gets_it() {
    let directory = Directory::new();
    let (broker, clock) = directory.broker();
    let topic = open(&broker);
    let ids = ["1", "2", "3"].map(|text| delay(&topic, HOUR, text));
    topic.publish("before".to_owned()).expect("stored");
    for id in ids {
        topic.cancel_delayed(id).expect("it is late");
    }
    delay(&topic, HOUR, "late");
    let (log, _subscription) = read(&topic, "s");
    broker.run_until_idle();
    assert_eq!(log.len(), 0, "it starts now");
    advance(&broker, &clock, HOUR);
    assert_eq!(log.take(), ["late"]);
    assert_balanced(&broker);
}

#[test]
fn a_drain_keeps_what_is_not_due_and_is_complete() {
    for of_broker in [true, false] {
        let directory = Directory::new();
        let (broker, _clock) = directory.broker();
        let told = Log::new();
        let log = told.clone();
        let observation = broker.observe(move |event| log.push(event.kind().clone()));
        let topic = open(&broker);
        delay(&topic, HOUR, "late");
        let report = match of_broker {
            true => broker.drain(Duration::ZERO),
            false => topic.clone().drain(Duration::ZERO),
        };
        let report = report.expect("nothing is cut off");
        assert_eq!((report.cut_off, report.messages_dropped), (0, 1));
        broker.run_until_idle();
        let cause = DropCause::Kept;
        assert!(told.take().contains(&EventKind::Dropped { cause }));
        assert_balanced(&broker);
        drop((observation, broker, topic));

        let (broker, clock) = directory.broker();
        let topic = open(&broker);
        let (log, _subscription) = read(&topic, "s");
        advance(&broker, &clock, HOUR);
        assert_eq!(log.take(), ["late"]);
        assert_balanced(&broker);
    }
}

#[test]
fn a_drain_delivers_what_is_due_in_time() {
    let directory = Directory::new();
    let broker = Broker::builder().workers(2).store(directory.store());
    let broker = broker.build().expect("it builds");
    let topic = open(&broker);
    let (log, _subscription) = durable(&topic);
    delay(&topic, 20 * MS, "in time");
    delay(&topic, HOUR, "late");
    let report = broker.drain(HANG / 2).expect("nothing is cut off");
    assert_eq!((report.messages_dropped, report.delivered), (1, 1));
    assert_eq!(log.take(), ["in time"]);
    assert_balanced(&broker);
}

#[test]
fn delayed_messages_count_toward_the_capacity_after_a_restart_too() {
    let directory = Directory::new();
    let (broker, _clock) = directory.broker();
    let topic = notes(&broker).capacity(2).open().expect("it opens");
    let first = delay(&topic, HOUR, "1");
    delay(&topic, HOUR, "2");
    let refused = topic.message("3".to_owned()).after(MS).publish();
    assert!(refused.expect_err("it is full").is_full());
    drop((broker, topic));

    let (broker, clock) = directory.broker();
    let topic = notes(&broker).capacity(1);
    let topic = topic.weight_limit(5, |text: &String| 3 * text.len() as u64);
    let topic = topic.open().expect("it opens");
    let (log, _subscription) = read(&topic, "s");
    assert_eq!(topic.metrics().delayed, 2, "both are there");
    assert!(topic.publish("3".to_owned()).is_err());
    topic.cancel_delayed(first).expect("it is late");
    assert!(topic.publish("3".to_owned()).is_err());
    advance(&broker, &clock, HOUR);
    topic.publish("3".to_owned()).expect("there is room");
    broker.run_until_idle();
    assert_eq!(log.take(), ["2", "3"]);
    assert_balanced(&broker);
}

#[test]
fn a_duplicate_of_a_delayed_message_gets_its_receipt_whatever_has_become_of_it() {
    let directory = Directory::new();
    let dedup = Dedup::window(24 * HOUR);
    let with_dedup = |broker: &Broker| notes(broker).dedup(dedup).open().expect("it opens");
    let publish = |topic: &Topic<String>, id: &str| {
        let message = topic.message(id.to_owned()).dedup_id(id);
        let receipt = message.after(HOUR).publish().expect("stored");
        (receipt.id(), receipt.is_duplicate())
    };
    let (broker, clock) = directory.broker();
    let topic = with_dedup(&broker);
    let (a, _) = publish(&topic, "a");
    let (b, _) = publish(&topic, "b");
    assert_eq!(publish(&topic, "a"), (a, true));
    topic.cancel_delayed(b).expect("it is late");
    let (again, is_duplicate) = publish(&topic, "b");
    assert!(again != b && !is_duplicate, "it was taken back");
    topic.cancel_delayed(again).expect("it is late");
    advance(&broker, &clock, HOUR);
    assert_eq!(publish(&topic, "a"), (a, true), "it has been published");
    let (c, _) = publish(&topic, "c");
    assert_balanced(&broker);
    drop((broker, topic));

    let (broker, clock) = directory.broker();
    let topic = with_dedup(&broker);
    assert_eq!(publish(&topic, "a"), (a, true));
    assert_eq!(publish(&topic, "c"), (c, true));
    assert!(!publish(&topic, "b").1);
    advance(&broker, &clock, 2 * HOUR);
    assert_eq!(stored(&topic), ["a", "c", "b"]);
    assert_balanced(&broker);
}

#[test]
fn a_batch_and_a_submit_may_have_delays() {
    let directory = Directory::new();
    let (broker, clock) = directory.broker();
    let topic = open(&broker);
    let late = |text: &str| Message::new(text.to_owned()).after(HOUR);
    let batch = [Message::new("now".to_owned()), late("1"), late("2")];
    let receipt = topic.publish_messages(batch).expect("stored");
    assert_eq!(receipt.accepted(), 3);
    let pending = topic.message("3".to_owned()).after(HOUR).submit();
    let receipt = pending.expect("there is room").wait().expect("stored");
    assert_eq!(topic.metrics().delayed, 3);
    topic.cancel_delayed(receipt.id()).expect("it is late");
    advance(&broker, &clock, HOUR);
    assert_eq!(stored(&topic), ["now", "1", "2"]);
    assert_balanced(&broker);
}

#[cfg(feature = "async")]
#[test]
fn a_future_publishes_delayed_messages_too() {
    use crate::harness::block_on;
    let directory = Directory::new();
    let (broker, clock) = directory.broker();
    let topic = broker.topic("notes").durable(Picky).capacity(3).open();
    let topic = topic.expect("it opens");
    let late = |text: &str| Message::new(text.to_owned()).after(HOUR);
    let receipt = block_on(topic.message("1".to_owned()).after(HOUR).publish_async());
    let id = receipt.expect("stored").id();
    let batch = [late("2"), Message::new("now".to_owned()), late("4")];
    let refused = block_on(topic.publish_messages_async(batch)).expect_err("it is full");
    assert_eq!(refused.into_inner(), [late("4")]);
    broker.run_until_idle();
    let refused = block_on(topic.publish_messages_async([late("bad"), late("5")]));
    let refused = refused.expect_err("it can't be encoded");
    assert_eq!(refused.into_inner(), [late("bad"), late("5")]);
    topic.cancel_delayed(id).expect("it is late");
    advance(&broker, &clock, HOUR);
    assert_eq!(stored(&topic), ["now", "2"]);
    assert_balanced(&broker);
}

/// Refuses some texts.
struct Picky;

impl Codec<String> for Picky {
    fn encode(&self, text: &String, into: &mut Vec<u8>) -> Result<(), CodecError> {
        into.extend_from_slice(text.as_bytes());
        match text.as_str() {
            "bad" => Err("it is bad".into()),
            _ => Ok(()),
        }
    }

    fn decode(&self, bytes: &[u8]) -> Result<String, CodecError> {
        match bytes {
            b"old" => Err("it is old".into()),
            _ => Ok(std::str::from_utf8(bytes)?.to_owned()),
        }
    }
}

#[test]
fn a_message_that_can_not_be_encoded_comes_back_with_its_delay() {
    let directory = Directory::new();
    let (broker, _clock) = directory.broker();
    let topic = broker.topic("notes").durable(Picky).open();
    let topic = topic.expect("it opens");
    let bad = Message::new("bad".to_owned()).key("k").after(HOUR);
    let refused = topic.publish_messages([bad.clone()]);
    assert_eq!(refused.expect_err("it is bad").into_inner(), [bad]);
    assert_eq!(topic.metrics().delayed, 0);
    assert_balanced(&broker);
}

#[test]
fn a_delayed_message_that_can_not_be_decoded_waits_for_a_codec_that_can() {
    let directory = Directory::new();
    let (broker, _clock) = directory.broker();
    let id = delay(&open(&broker), HOUR, "old");
    drop(broker);

    let (broker, clock) = directory.broker();
    let told = Log::new();
    let log = told.clone();
    let observation = broker.observe(move |event| {
        if matches!(event.kind(), EventKind::Undecodable { .. }) {
            log.push(event.id());
        }
    });
    let topic = broker.topic("notes").durable(Picky).open();
    let topic = topic.expect("it opens");
    advance(&broker, &clock, HOUR);
    assert_eq!(told.take(), [Some(id)]);
    assert_eq!(topic.cancel_delayed(id), Err(NotDelayedError));
    assert_eq!(stored(&topic).len(), 0);
    assert_balanced(&broker);
    drop((observation, broker, topic));

    let (broker, _clock) = directory.broker();
    let cancelled = open(&broker).cancel_delayed(id);
    assert_eq!(cancelled, Ok(Message::new("old".to_owned())));
}

#[test]
fn each_message_is_published_or_cancelled_however_close_the_call_comes_to_its_time() {
    let directory = Directory::new();
    let broker = Broker::builder().workers(2).store(directory.store());
    let broker = broker.build().expect("it builds");
    let topic = notes(&broker).durability(Durability::Written);
    let topic = topic.open().expect("it opens");
    let (log, subscription) = durable(&topic);
    let mut expected = Vec::new();
    for number in 0..300_u32 {
        let text = number.to_string();
        let id = delay(&topic, Duration::from_micros(300), &text);
        (0..number % 7).for_each(|_| thread::sleep(Duration::from_micros(50)));
        match topic.cancel_delayed(id) {
            Ok(message) => assert_eq!(message.into_inner(), text),
            Err(NotDelayedError) => expected.push(text),
        }
    }
    assert_rests_balanced(&broker);
    assert_eq!(log.take(), expected);
    assert_eq!(stored(&topic), expected);
    drop((broker, topic, subscription));
    let (broker, clock) = directory.broker();
    let topic = open(&broker);
    advance(&broker, &clock, HOUR);
    assert_eq!(stored(&topic), expected, "nothing is left");
}
