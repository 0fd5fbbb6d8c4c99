//! The state of a task: nothing pushed is stranded, and one runner at a time.

use loom::sync::Arc;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread;
use millstream::internals::{Queue, TaskState, Then};
use millstream_loom_tests::{Preemptions, model};

/// A schedulable thing: what a topic is to its publishers and workers.
struct World {
    queue: Queue<usize>,
    task: TaskState,
    /// Tokens on the ready queue. A counter orders only what a queue does too:
    /// who takes a token after who put it there.
    ready: AtomicUsize,
    runners: AtomicUsize,
    seen: AtomicUsize,
}

impl World {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            queue: Queue::new(2),
            task: TaskState::new(),
            ready: AtomicUsize::new(0),
            runners: AtomicUsize::new(0),
            seen: AtomicUsize::new(0),
        })
    }

    fn publish(&self, value: usize) {
        self.queue.push(value).expect("as many slots as messages");
        if self.task.notify() == Then::Enqueue {
            self.make_ready();
        }
    }

    /// As a publisher does, for whom a lender is soon enough.
    fn publish_patiently(&self, value: usize) {
        self.queue.push(value).expect("as many slots as messages");
        if self.task.nudge() == Then::Enqueue {
            self.make_ready();
        }
    }

    fn make_ready(&self) {
        self.ready.fetch_add(1, Ordering::Release);
    }

    fn take_ready(&self) -> bool {
        self.ready
            .fetch_update(Ordering::Acquire, Ordering::Relaxed, |tokens| {
                tokens.checked_sub(1)
            })
            .is_ok()
    }

    /// One look at the ready queue, and the turn that it leads to.
    fn work(&self) {
        if self.take_ready() && self.task.start() {
            self.take_all();
            self.rest();
        }
    }

    /// One look at the ready queue, and a turn after which it lends; answers whether it
    /// had news by then.
    fn work_and_lend(&self) -> Option<bool> {
        if !self.take_ready() || !self.task.start() {
            return None;
        }
        self.take_all();
        Some(self.task.lend())
    }

    /// The turn that it owes then.
    fn look_again(&self) {
        if self.task.start() {
            self.take_all();
            self.rest();
        }
    }

    fn take_all(&self) {
        let others = self.runners.fetch_add(1, Ordering::Relaxed);
        assert_eq!(others, 0, "two workers run one topic");
        while self.queue.pop().is_some() {
            self.seen.fetch_add(1, Ordering::Relaxed);
        }
        self.runners.fetch_sub(1, Ordering::Relaxed);
    }

    fn rest(&self) {
        if self.task.rest(false) == Then::Enqueue {
            self.make_ready();
        }
    }

    /// What the pool does in the end: work while anything is ready.
    fn work_until_idle(&self) {
        while self.ready.load(Ordering::Relaxed) > 0 {
            self.work();
        }
    }
}

fn check(name: &'static str, publishers: usize, workers: usize, preemptions: Preemptions) {
    model(name, preemptions, move || {
        let world = World::new();
        let mut threads = Vec::new();
        for value in 0..publishers {
            let world = Arc::clone(&world);
            threads.push(thread::spawn(move || world.publish(value)));
        }
        // The last worker is the main thread.
        for _ in 1..workers {
            let world = Arc::clone(&world);
            threads.push(thread::spawn(move || {
                world.work();
                world.work();
            }));
        }
        world.work();
        for thread in threads {
            thread.join().expect("no thread of the model panics");
        }
        world.work_until_idle();
        let seen = world.seen.load(Ordering::Relaxed);
        assert_eq!(seen, publishers, "a message was stranded");
    });
}

#[test]
fn one_publisher_one_worker() {
    check("schedule 1+1", 1, 1, Preemptions::ALL);
}

#[test]
fn two_publishers_one_worker() {
    check("schedule 2+1", 2, 1, Preemptions::up_to(3));
}

#[test]
fn one_publisher_two_workers() {
    check("schedule 1+2", 1, 2, Preemptions::up_to(3));
}

#[test]
fn two_publishers_two_workers() {
    check("schedule 2+2", 2, 2, Preemptions::up_to(2));
}

#[test]
fn what_a_publisher_leaves_to_the_lender_is_seen() {
    model("schedule, lent", Preemptions::ALL, || {
        let world = World::new();
        world.publish(0);
        let publisher = {
            let world = Arc::clone(&world);
            thread::spawn(move || world.publish_patiently(1))
        };
        if world.work_and_lend().is_some() {
            world.look_again();
        }
        publisher.join().expect("no thread of the model panics");
        world.work_until_idle();
        let seen = world.seen.load(Ordering::Relaxed);
        assert_eq!(seen, 2, "a message was stranded");
    });
}

#[test]
fn what_cannot_wait_for_the_lender_is_not_left_to_it() {
    model("schedule, lent for ever", Preemptions::ALL, || {
        let world = World::new();
        world.publish(0);
        // It doesn't come back.
        let lender = {
            let world = Arc::clone(&world);
            thread::spawn(move || world.work_and_lend())
        };
        world.publish(1);
        let lent = lender.join().expect("no thread of the model panics");
        if lent.expect("it was ready") {
            // It came before the loan did, and the lender knows.
            world.look_again();
        }
        world.work_until_idle();
        let seen = world.seen.load(Ordering::Relaxed);
        assert_eq!(seen, 2, "a message was stranded");
    });
}

#[test]
fn a_loan_that_is_taken_is_run_by_one() {
    model("schedule, lent and taken", Preemptions::up_to(3), || {
        let world = World::new();
        world.publish(0);
        let lender = {
            let world = Arc::clone(&world);
            thread::spawn(move || {
                if world.work_and_lend().is_some() {
                    world.look_again();
                }
            })
        };
        world.publish(1);
        world.work();
        lender.join().expect("no thread of the model panics");
        world.work_until_idle();
        let seen = world.seen.load(Ordering::Relaxed);
        assert_eq!(seen, 2, "a message was stranded");
    });
}
