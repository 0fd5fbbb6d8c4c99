//! Subscriptions that fall behind and join again while threads publish, and publishers of one dedup
//! id, by real threads or by shuttle's schedules:
//!
//! ```sh
//! cargo shuttle-log
//! ```

#[cfg(not(millstream_shuttle))]
mod bounds;

use std::time::Duration;

use crate::event::EventKind;
use crate::log::fs::sim::{FaultKind, Faults, SimFs};
use crate::log::store::Store;
use crate::pure::policy::dedup::Dedup;
use crate::sync::{Arc, Condvar, JoinHandle, Mutex, Thread, explore, spawn};
use crate::types::config::Overflow;
use crate::types::durable::codec::{Codec, Raw};
use crate::types::durable::durability::Durability;
use crate::types::durable::start::Start;
use crate::{Broker, Delivery, Nack, PublishError, Receipt, Subscription, Topic};

const FOREVER: Duration = Duration::MAX;

/// The ids that a handler has had, in its order.
struct Seen {
    ids: Mutex<Vec<u64>>,
    is_more: Condvar,
}

impl Seen {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            ids: Mutex::new(Vec::new()),
            is_more: Condvar::new(),
        })
    }

    fn handler(
        self: &Arc<Self>,
    ) -> impl FnMut(&Delivery<'_, String>) -> Result<(), Nack> + Send + 'static {
        let seen = Arc::clone(self);
        move |delivery| {
            seen.ids.lock().push(delivery.id().get());
            seen.is_more.notify_one();
            Ok(())
        }
    }

    /// Waits until there are so many, and returns them.
    fn wait_for(&self, count: usize) -> Vec<u64> {
        let mut ids = self.ids.lock();
        while ids.len() < count {
            self.is_more.wait(&mut ids, None);
        }
        ids.clone()
    }
}

fn open(fs: &SimFs) -> (Broker, Topic<String>) {
    open_with(fs, 2, Raw)
}

/// Opens a topic with room for two messages.
fn open_with(fs: &SimFs, workers: usize, codec: impl Codec<String>) -> (Broker, Topic<String>) {
    let store = Store::builder("data").start_in(Arc::new(fs.clone()));
    let store = store.expect("it opens");
    let broker = Broker::builder().workers(workers).store(store).build();
    let broker = broker.expect("it builds");
    let overflow = match workers {
        0 => Overflow::Reject,
        _ => Overflow::Block { timeout: FOREVER },
    };
    let topic = broker.topic::<String>("notes").durable(codec).capacity(2);
    let topic = topic
        .durability(Durability::Written)
        .overflow(overflow)
        .dedup(Dedup::window(Duration::from_secs(3_600)))
        .open();
    let topic = topic.expect("it opens");
    (broker, topic)
}

/// The receipts of those that publish one dedup id at once, of those that get one.
type Receipts = Arc<Mutex<Vec<Receipt>>>;

fn publish_once(topic: &Topic<String>) -> Result<Receipt, PublishError<String>> {
    topic.message("x".to_owned()).dedup_id("a").publish()
}

fn publisher_once(topic: &Topic<String>, receipts: &Receipts) -> JoinHandle<()> {
    let (topic, receipts) = (topic.clone(), Arc::clone(receipts));
    let thread = Thread {
        name: "publisher".to_owned(),
        stack_size: None,
    };
    let publish = move || match publish_once(&topic) {
        Ok(receipt) => receipts.lock().push(receipt),
        Err(PublishError::NotStored { payload, .. }) => assert_eq!(payload, "x"),
        Err(error) => panic!("{error}"),
    };
    spawn(thread, publish).expect("it starts")
}

/// Both publish at once. Returns the receipts that they get.
fn race(topic: &Topic<String>) -> Vec<Receipt> {
    let receipts = Receipts::default();
    let publishers = [0; 2].map(|_| publisher_once(topic, &receipts));
    for publisher in publishers {
        publisher.join().expect("it published");
    }
    let receipts = receipts.lock().clone();
    let accepted = receipts.iter().filter(|receipt| !receipt.is_duplicate());
    assert!(accepted.count() <= 1, "{receipts:?}");
    let is_same = |pair: &[Receipt]| pair[0].id() == pair[1].id();
    assert!(receipts.windows(2).all(is_same), "{receipts:?}");
    receipts
}

fn publisher(topic: &Topic<String>, count: usize) -> JoinHandle<()> {
    let topic = topic.clone();
    let thread = Thread {
        name: "publisher".to_owned(),
        stack_size: None,
    };
    let publish = move || {
        for _ in 0..count {
            topic.publish(String::new()).expect("stored");
        }
    };
    spawn(thread, publish).expect("it starts")
}

fn slow(topic: &Topic<String>, seen: &Arc<Seen>) -> Subscription {
    let slow = topic.subscription("slow").durable().capacity(1);
    slow.subscribe(seen.handler()).expect("subscribed")
}

#[test]
fn a_subscription_that_falls_behind_again_and_again_has_no_gap_and_no_double() {
    explore(|| {
        let (broker, topic) = open(&SimFs::default());
        let (fast, behind) = (Seen::new(), Seen::new());
        let _fast = topic.subscribe("fast", fast.handler()).expect("subscribed");
        let _slow = slow(&topic, &behind);
        let publishers = [publisher(&topic, 3), publisher(&topic, 3)];
        assert_eq!(behind.wait_for(6), [1, 2, 3, 4, 5, 6]);
        assert_eq!(fast.wait_for(6), [1, 2, 3, 4, 5, 6]);
        for publisher in publishers {
            publisher.join().expect("it published");
        }
        assert!(broker.wait_until_idle(FOREVER));
        broker.metrics().balance().expect("balanced");
    });
}

#[test]
fn a_subscription_that_comes_while_others_publish_has_all_from_its_start() {
    explore(|| {
        let (broker, topic) = open(&SimFs::default());
        topic.publish(String::new()).expect("stored");
        let publisher = publisher(&topic, 3);
        let seen = Seen::new();
        let audit = topic.subscription("audit").from(Start::Earliest);
        let _audit = audit.subscribe(seen.handler()).expect("subscribed");
        assert_eq!(seen.wait_for(4), [1, 2, 3, 4]);
        publisher.join().expect("it published");
        assert!(broker.wait_until_idle(FOREVER));
        broker.metrics().balance().expect("balanced");
    });
}

#[test]
fn a_subscription_that_ends_at_any_time_goes_on_with_what_it_was_not_done_with() {
    explore(|| {
        let fs = SimFs::default();
        let (broker, topic) = open(&fs);
        let first = Seen::new();
        let subscription = slow(&topic, &first);
        let publisher = publisher(&topic, 3);
        subscription.unsubscribe(crate::Unsubscribe::Cancel);
        publisher.join().expect("it published");
        let second = Seen::new();
        let first = first.ids.lock().clone();
        let _slow = slow(&topic, &second);
        // Its ends are in the log before the next one looks, so nothing comes twice.
        let had = first.len() as u64;
        assert_eq!(
            second.wait_for(3 - first.len()),
            (had + 1..=3).collect::<Vec<_>>()
        );
        broker.metrics().balance().expect("balanced");
    });
}

#[test]
fn of_publishers_of_one_dedup_id_one_is_accepted_and_the_other_gets_its_receipt() {
    explore(|| {
        let (broker, topic) = open(&SimFs::default());
        let seen = Seen::new();
        let _all = topic.subscribe("all", seen.handler()).expect("subscribed");
        let receipts = race(&topic);
        let duplicates = receipts.iter().filter(|receipt| receipt.is_duplicate());
        assert_eq!((receipts.len(), duplicates.count()), (2, 1));
        assert_eq!(seen.wait_for(1), [1]);
        assert!(broker.wait_until_idle(FOREVER));
        assert_eq!(seen.ids.lock().len(), 1);
        broker.metrics().balance().expect("balanced");
    });
}

#[test]
fn a_dedup_id_that_a_failed_store_has_accepted_or_not_is_known_so_when_it_opens_again() {
    for kind in [FaultKind::Error, FaultKind::NoSpace] {
        for at in 1..4 {
            explore(move || {
                let fs = SimFs::default();
                let (broker, topic) = open(&fs);
                let (at, lies) = (Some(at), false);
                fs.fail(Faults { at, kind, lies });
                let receipts = race(&topic);
                broker.metrics().balance().expect("balanced");
                let left = fs.after_kill();
                left.fail(Faults::default());
                drop((topic, broker));
                let (broker, topic) = open(&left);
                let stored = topic.read(Start::Earliest).expect("it is sound").count();
                assert!(stored <= 1 && receipts.len() <= 2 * stored);
                let again = publish_once(&topic).expect("the disk works");
                assert_eq!(again.is_duplicate(), stored == 1);
                assert!(receipts.iter().all(|first| first.id() == again.id()));
                assert!(broker.wait_until_idle(FOREVER));
                broker.metrics().balance().expect("balanced");
            });
        }
    }
}

#[test]
fn observers_hear_that_a_message_is_there_before_anybody_is_handed_it() {
    explore(|| {
        let (broker, topic) = open(&SimFs::default());
        let told = Arc::new(Mutex::new(Vec::new()));
        let listener = Arc::clone(&told);
        let observed = broker.observe(move |event| {
            let is_there = match event.kind() {
                EventKind::MessageEnqueued { .. } => true,
                EventKind::Delivering => false,
                _ => return,
            };
            let id = event.id().map(|id| id.get());
            listener.lock().push((id, is_there));
        });
        let _observed = observed.expect("it observes");
        // One that comes later is behind, and is fed as soon as there is anything.
        topic.publish(String::new()).expect("stored");
        let seen = Seen::new();
        let slow = topic.subscription("slow").durable().capacity(1);
        let slow = slow.from(Start::Earliest).subscribe(seen.handler());
        let _slow = slow.expect("subscribed");
        let publisher = publisher(&topic, 3);
        assert_eq!(seen.wait_for(4), [1, 2, 3, 4]);
        publisher.join().expect("it published");
        assert!(broker.wait_until_idle(FOREVER));
        broker.metrics().balance().expect("balanced");
        assert!(topic.core.bus().flush(None));
        let told = told.lock().clone();
        for (at, (id, _)) in told
            .iter()
            .enumerate()
            .filter(|(_, (_, is_there))| !is_there)
        {
            assert!(told[..at].contains(&(*id, true)), "{id:?} in {told:?}");
        }
    });
}
