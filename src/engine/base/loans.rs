//! Loans: the topics that workers have lent, at most one each, and the watch over them.
//!
//! A worker that finds a topic dry lends it while it runs the lanes. Afterwards it looks again: see
//! [`task_state`](crate::engine::base::task_state). A handler may keep the worker from that for as
//! long as it likes. So a watch comes by now and then, as long as anything is lent. It takes each
//! loan that its last visit saw already.
//!
//! Steps. A *lender* writes its loan down, then looks whether the watch is on, and turns it on if
//! not. It takes the loan back, unless that has been taken. The *watch*, when it comes, goes off
//! first, then looks at every loan. It takes each loan that it has seen before. If any loan was
//! written since its last visit, it turns itself on again.
//!
//! The feared interleaving: a lender sees the watch on and leaves it at that, but the watch has
//! passed its loan, and doesn't come again. Both touch the loan under its lock. So a lender that
//! writes down its loan after the watch was there also sees that it went off before. If the lender
//! finds it on again, it will come. Model: `loom-tests/tests/models/loans.rs`.

use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{CachePadded, Mutex, in_order};

/// The loans of a pool's workers.
pub struct Loans<T> {
    /// The watch is going to come.
    is_on: AtomicBool,
    loans: Box<[CachePadded<Mutex<Loan<T>>>]>,
}

struct Loan<T> {
    /// The task on loan, and whether it had news when it was lent.
    lent: Option<(T, bool)>,
    /// Loans so far, and how many there had been when the watch came by last.
    count: u64,
    seen: u64,
}

impl<T> Loans<T> {
    /// Makes room for one loan of each worker.
    pub fn new(workers: usize) -> Self {
        let loan = |_| {
            CachePadded::new(Mutex::new(Loan {
                lent: None,
                count: 0,
                seen: 0,
            }))
        };
        Self {
            is_on: AtomicBool::new(false),
            loans: (0..workers).map(loan).collect(),
        }
    }

    /// Writes down the loan of this worker, and whether there is news of it. Returns `true` if the
    /// watch was off; then the caller sees to it that it comes.
    pub fn lend(&self, worker: usize, what: T, has_news: bool) -> bool {
        let write = || {
            let mut loan = self.loans[worker].lock();
            loan.count += 1;
            loan.lent = Some((what, has_news));
        };
        let was_off;
        // ORDERING: relaxed, because the lock of the loan orders them; see the module's text.
        in_order!(
            write(),
            was_off =
                !self.is_on.load(Ordering::Relaxed) && !self.is_on.swap(true, Ordering::Relaxed),
            "loans.lend-then-watch"
        );
        was_off
    }

    /// Takes this worker's loan back, if nobody took it.
    pub fn take_back(&self, worker: usize) -> Option<T> {
        self.loans[worker].lock().lent.take().map(|(what, _)| what)
    }

    /// Takes this worker's loan back, if nobody took it and there is news of it.
    pub fn take_back_if(&self, worker: usize, has_news: impl FnOnce(&T) -> bool) -> Option<T> {
        let mut loan = self.loans[worker].lock();
        let lent = loan.lent.take_if(|(what, news)| *news || has_news(what));
        lent.map(|(what, _)| what)
    }

    /// Makes one visit of the watch, which hands `take` each loan that its last visit saw already.
    /// Returns `true` if the watch is on, and the caller sees to it that it comes again.
    pub fn watch(&self, mut take: impl FnMut(T)) -> bool {
        let mut overdue = Vec::new();
        let mut goes_on = false;
        // ORDERING: as in `lend`.
        in_order!(
            self.is_on.store(false, Ordering::Relaxed),
            for loan in &self.loans {
                let mut loan = loan.lock();
                if loan.count != loan.seen {
                    loan.seen = loan.count;
                    goes_on = true;
                } else if let Some((what, _)) = loan.lent.take() {
                    overdue.push(what);
                }
            },
            "loans.off-then-look"
        );
        overdue.drain(..).for_each(&mut take);
        goes_on && !self.is_on.swap(true, Ordering::Relaxed)
    }
}
