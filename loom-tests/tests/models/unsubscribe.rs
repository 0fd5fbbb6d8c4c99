//! An unsubscribe against deliveries: once it has returned, no call of the handler
//! runs or will start, and all there was is accounted for.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use loom::thread;
use millstream::{Unsubscribe, Unsubscribed};
use millstream_loom_tests::{Log, Preemptions, assert_settled, manual, model, worker};

/// Is noticed when it goes, which is when the handler does.
struct Captured(Arc<AtomicBool>);

impl Drop for Captured {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn check(name: &str, mode: Unsubscribe, most: Preemptions) {
    model(name, most, move || {
        let (broker, _clock) = manual();
        let topic = broker.topic("t").capacity(4).open().unwrap();
        let gone = Arc::new(AtomicBool::new(false));
        let captured = Captured(Arc::clone(&gone));
        let ended = Arc::new(AtomicBool::new(false));
        let has_ended = Arc::clone(&ended);
        let subscription = topic.subscribe("s", move |_| {
            assert!(!captured.0.load(Ordering::Relaxed));
            // Somewhere in here the other thread may go on.
            thread::yield_now();
            assert!(!has_ended.load(Ordering::Relaxed), "it has been told");
            Ok(())
        });
        topic.publish(1).unwrap();
        let worker = worker(&broker);
        let outcome = subscription.unwrap().unsubscribe(mode);
        ended.store(true, Ordering::Relaxed);
        assert!(gone.load(Ordering::Relaxed), "the handler has gone");
        let Unsubscribed::Ended(metrics) = outcome else {
            panic!("it was called outside of any handler");
        };
        assert_eq!(metrics.counts.open(), 0);
        worker.join().unwrap();
        broker.run_until_idle();
        assert_settled(&broker);
        let counts = broker.metrics().deliveries();
        let kept = topic.dead_letters().len() as u64;
        assert_eq!(counts.dead_lettered, kept);
        assert_eq!(counts.delivered + counts.cancelled + kept, counts.made);
    });
}

#[test]
fn what_is_cancelled_is_not_delivered_any_more() {
    let most = Preemptions::up_to(3);
    check("unsubscribe, cancel", Unsubscribe::Cancel, most);
}

#[test]
fn what_is_dead_lettered_is_kept() {
    let most = Preemptions::up_to(2);
    check("unsubscribe, dead-letter", Unsubscribe::DeadLetter, most);
}

#[test]
fn two_subscriptions_of_one_name_are_never_there_at_once() {
    model("subscribe, unsubscribe", Preemptions::up_to(2), || {
        let (broker, _clock) = manual();
        let topic = broker.topic("t").capacity(4).open().unwrap();
        let log = Log::new();
        let first = topic.subscribe("s", log.handler()).unwrap();
        let joiner = {
            let (topic, log) = (topic.clone(), log.clone());
            thread::spawn(move || match topic.subscribe("s", log.handler()) {
                Ok(second) => {
                    second.detach();
                    true
                }
                Err(taken) => {
                    assert!(matches!(
                        taken,
                        millstream::error::SubscribeError::NameTaken { .. }
                    ));
                    false
                }
            })
        };
        first.unsubscribe(Unsubscribe::Cancel);
        let joined = joiner.join().unwrap();
        topic.publish(1).unwrap();
        broker.run_until_idle();
        assert_eq!(log.read().len(), usize::from(joined));
        assert_settled(&broker);
    });
}
