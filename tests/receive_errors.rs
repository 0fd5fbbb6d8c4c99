//! Each call that receives has an error of its own, which names all that may happen to that
//! call and nothing else. So a `match` without a wildcard compiles.

use std::time::Duration;

use crate::harness::{assert_balanced, manual, threaded};
use millstream::error::{EndedError, RecvError, RecvTimeoutError, TryRecvError};
use millstream::{Pull, Unsubscribe};

const MS: Duration = Duration::from_millis(1);

fn of_recv(error: RecvError) -> &'static str {
    match error {
        RecvError::WouldBlock => "would block",
        RecvError::Ended => "ended",
    }
}

fn of_timeout(error: RecvTimeoutError) -> &'static str {
    match error {
        RecvTimeoutError::WouldBlock => "would block",
        RecvTimeoutError::TimedOut => "timed out",
        RecvTimeoutError::Ended => "ended",
    }
}

fn of_try(error: TryRecvError) -> &'static str {
    match error {
        TryRecvError::Empty => "empty",
        TryRecvError::Ended => "ended",
    }
}

#[test]
fn an_error_says_what_happened_to_this_call() {
    let by_itself = threaded(1);
    let (by_hand, _clock) = manual();
    for (broker, once, in_time) in [
        (&by_itself, None, "timed out"),
        (&by_hand, Some("would block"), "would block"),
    ] {
        let topic = broker.topic::<u32>("jobs").open().expect("opens");
        let worker = topic.subscription("worker").pull(Pull::default());
        let worker = worker.expect("subscribes");
        let tried = worker.try_recv().map_err(of_try);
        assert_eq!(tried.err(), Some("empty"));
        if let Some(once) = once {
            assert_eq!(worker.recv().map_err(of_recv).err(), Some(once));
        }
        let timed = worker.recv_timeout(MS).map_err(of_timeout);
        assert_eq!(timed.err(), Some(in_time));
        let batch = worker.recv_batch(3, MS).map_err(of_timeout);
        assert_eq!(batch.err(), Some(in_time));

        drop(worker.unsubscribe(Unsubscribe::Cancel));
        assert_eq!(worker.try_recv().map_err(of_try).err(), Some("ended"));
        assert_eq!(worker.recv().map_err(of_recv).err(), Some("ended"));
        let timed = worker.recv_timeout(MS).map_err(of_timeout);
        assert_eq!(timed.err(), Some("ended"));
        assert_balanced(broker);
    }
}

#[test]
fn an_error_of_one_call_goes_where_another_is_returned() {
    assert_eq!(RecvError::from(EndedError), RecvError::Ended);
    assert_eq!(TryRecvError::from(EndedError), TryRecvError::Ended);
    for (from, to) in [
        (RecvError::WouldBlock, RecvTimeoutError::WouldBlock),
        (RecvError::Ended, RecvTimeoutError::Ended),
    ] {
        assert_eq!(RecvTimeoutError::from(from), to);
        assert_eq!(from.is_ended(), to.is_ended());
        assert_eq!(from.to_string(), to.to_string());
    }
    assert!(RecvTimeoutError::TimedOut.is_timeout() && !RecvTimeoutError::Ended.is_timeout());
    assert!(TryRecvError::Empty.is_empty() && !TryRecvError::Ended.is_empty());
}

/// A loop that has ended stays so, even where a call that finds nothing ends it.
#[test]
fn an_iterator_that_has_ended_gives_nothing_more() {
    let (broker, _clock) = manual();
    let topic = broker.topic::<u32>("jobs").open().expect("opens");
    let worker = topic.subscription("worker").pull(Pull::default());
    let worker = worker.expect("subscribes");
    let mut leases = worker.iter();
    assert!(leases.next().is_none());
    topic.publish(1).expect("there is room");
    assert!(leases.next().is_none());
    for lease in &worker {
        assert_eq!((*lease.payload(), lease.ack()), (1, Ok(())));
    }
    assert_balanced(&broker);
}
