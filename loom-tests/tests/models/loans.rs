//! The watch over what workers have lent: whatever stays lent is taken, and where nothing
//! is lent the watch ends.

use loom::sync::Arc;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread;
use millstream::internals::Loans;
use millstream_loom_tests::{Preemptions, model};

struct World {
    loans: Loans<usize>,
    /// Visits of the watch that are to come.
    visits: AtomicUsize,
    taken: AtomicUsize,
}

impl World {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            loans: Loans::new(2),
            visits: AtomicUsize::new(0),
            taken: AtomicUsize::new(0),
        })
    }

    fn lend(&self, worker: usize) {
        if self.loans.lend(worker, worker, false) {
            self.visits.fetch_add(1, Ordering::Release);
        }
    }

    /// What the timer thread does when the time has come. `false`: it is not to.
    fn visit(&self) -> bool {
        let is_due = self
            .visits
            .fetch_update(Ordering::Acquire, Ordering::Relaxed, |visits| {
                visits.checked_sub(1)
            })
            .is_ok();
        let take = |_| {
            self.taken.fetch_add(1, Ordering::Relaxed);
        };
        if is_due && self.loans.watch(take) {
            self.visits.fetch_add(1, Ordering::Release);
        }
        is_due
    }
}

#[test]
fn what_stays_lent_is_taken() {
    model("loans, a watch about to end", Preemptions::ALL, || {
        let world = World::new();
        // The watch is on, and has seen all there was.
        world.lend(0);
        world.loans.take_back(0);
        assert!(world.visit());
        let lender = {
            let world = Arc::clone(&world);
            thread::spawn(move || world.lend(0))
        };
        world.visit();
        lender.join().expect("no thread of the model panics");
        while world.visit() {}
        let taken = world.taken.load(Ordering::Relaxed);
        assert_eq!(taken, 1, "nobody looks after a loan");
        assert_eq!(world.loans.take_back(0), None, "it is lent and taken");
    });
}

#[test]
fn a_loan_goes_to_the_lender_or_to_the_watch() {
    model("loans, two lenders", Preemptions::up_to(3), || {
        let world = World::new();
        world.lend(1);
        let lender = {
            let world = Arc::clone(&world);
            thread::spawn(move || {
                world.lend(0);
                world.loans.take_back(0).is_some()
            })
        };
        world.visit();
        world.visit();
        let is_back = lender.join().expect("no thread of the model panics");
        while world.visit() {}
        let taken = world.taken.load(Ordering::Relaxed);
        assert_eq!(taken + usize::from(is_back), 2, "each to one");
    });
}
