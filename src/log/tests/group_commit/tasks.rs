//! Tasks that wait for a group, or for room in one.

use std::task::{Context, Poll, Wake, Waker};

use crate::log::commit::Due;
use crate::log::tests::group_commit::{Shared, committers, join, start};
use crate::log::waiters::task::Watch;
use crate::pure::log::format::frame::FrameBuffer;
use crate::pure::log::record::Record;
use crate::sync::{Arc, Condvar, Mutex, explore};

/// Polls a future's part until it is ready. It sleeps until its waker is called.
fn block_on<R>(mut poll: impl FnMut(&Context<'_>) -> Poll<R>) -> R {
    struct Rings(Mutex<bool>, Condvar);
    impl Wake for Rings {
        fn wake(self: Arc<Self>) {
            *self.0.lock() = true;
            self.1.notify_one();
        }
    }
    let rings = Arc::new(Rings(Mutex::new(false), Condvar::new()));
    let waker = Waker::from(Arc::clone(&rings));
    loop {
        if let Poll::Ready(result) = poll(&Context::from_waker(&waker)) {
            return result;
        }
        let mut is_rung = rings.0.lock();
        while !*is_rung {
            rings.1.wait(&mut is_rung, None);
        }
        *is_rung = false;
    }
}

#[test]
pub(super) fn a_task_that_waits_is_woken() {
    struct Panics;
    impl Wake for Panics {
        fn wake(self: Arc<Self>) {
            panic!("a waker of the user's");
        }
    }
    explore(|| {
        let shared = Shared::open(None).with_topic();
        let flusher = shared.flusher();
        let (threads, _) = committers(&shared, 10);
        let hook = Some(shared.hook(10));
        let put = |frame: &mut FrameBuffer| {
            let gone = Record::DelayedGone {
                topic: 0,
                id: 9,
                seq: 0,
            };
            gone.put(frame.record());
        };
        let ticket = shared.log.submit(true, Due::Now, put, hook);
        let ticket = ticket.map_err(|(error, _)| error).expect("it is open");
        let mut panicking = Watch::new(ticket);
        if cfg!(not(millstream_shuttle)) {
            let panics = Waker::from(Arc::new(Panics));
            let context = Context::from_waker(&panics);
            let _ = shared.log.poll(&mut panicking, &context);
        }
        let mut watch = Watch::new(ticket);
        let result = block_on(|context| shared.log.poll(&mut watch, context));
        result.expect("it is written");
        assert!(shared.told.hooks.lock().contains(&(10, true)));
        join(threads);
        shared.log.close();
        join(vec![flusher]);
    });
}

/// Futures find a full group, and threads fill it, too.
#[test]
fn a_task_that_finds_the_group_full_waits_for_the_next() {
    explore(|| {
        let shared = Shared::open(None).with_topic();
        let flusher = shared.flusher();
        let (mut threads, _) = committers(&shared, 150);
        for number in [10, 11] {
            let shared = shared.clone();
            threads.push(start(move || {
                let mut awaited = None;
                block_on(|context| shared.log.poll_room(&mut awaited, context));
                assert!(shared.submit(number, 300, true, Due::Awaited).is_some());
            }));
        }
        join(threads);
        shared.wait_for_hooks(8);
        shared.log.close();
        join(vec![flusher]);
        let stored = shared.stored(&shared.fs.after_kill());
        assert_eq!(stored, [0, 1, 2, 3, 4, 5, 10, 11]);
    });
}

/// The log has no waker of a future that is gone, and one of a future that is polled often.
#[test]
fn a_future_leaves_no_waker_behind() {
    struct Counts;
    impl Wake for Counts {
        fn wake(self: Arc<Self>) {}
    }
    explore(|| {
        let shared = Shared::open(None).with_topic();
        let put = |frame: &mut FrameBuffer| {
            let gone = Record::DelayedGone {
                topic: 0,
                id: 9,
                seq: 0,
            };
            gone.put(frame.record());
        };
        let ticket = shared.log.submit(true, Due::Now, put, None);
        let ticket = ticket.map_err(|(error, _)| error).expect("it is open");
        let counts = Arc::new(Counts);
        let mut watch = Watch::new(ticket);
        for _ in 0..10 {
            let waker = Waker::from(Arc::clone(&counts));
            let polled = shared.log.poll(&mut watch, &Context::from_waker(&waker));
            assert!(polled.is_pending());
        }
        assert_eq!(Arc::strong_count(&counts), 2);
        drop(watch);
        assert_eq!(Arc::strong_count(&counts), 1);
        shared.log.close();
    });
}
