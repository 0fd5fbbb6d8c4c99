//! Parking workers: work that is submitted is found, though nobody is woken
//! while somebody looks.

use loom::sync::Arc;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread;
use millstream::internals::{Sleep, Unbounded};
use millstream_loom_tests::{Preemptions, model};

struct World {
    ready: Unbounded<usize>,
    sleep: Sleep,
    found: AtomicUsize,
}

impl World {
    fn submit(&self, task: usize) {
        self.ready.push(task);
        self.sleep.wake();
    }

    /// A worker that ends after `wanted` tasks have been found by anybody, as
    /// the pool's workers end when they are told to stop.
    fn work(&self, wanted: usize) {
        let mut searching = self.sleep.search();
        loop {
            if searching && let Some(_task) = self.ready.pop() {
                let found = self.found.fetch_add(1, Ordering::AcqRel) + 1;
                self.sleep
                    .found(|| !self.ready.is_empty() || found == wanted);
                if found == wanted {
                    return;
                }
                searching = self.sleep.search();
                continue;
            }
            if self.found.load(Ordering::Acquire) == wanted {
                if searching {
                    self.sleep.found(|| true);
                } else {
                    self.sleep.wake();
                }
                return;
            }
            self.sleep.sleep(searching, || {
                !self.ready.is_empty() || self.found.load(Ordering::Acquire) == wanted
            });
            searching = true;
        }
    }
}

fn check(name: &'static str, tasks: usize, workers: usize, preemptions: usize) {
    model(name, Preemptions::up_to(preemptions), move || {
        let world = Arc::new(World {
            ready: Unbounded::new(),
            sleep: Sleep::new(),
            found: AtomicUsize::new(0),
        });
        let threads: Vec<_> = (0..workers)
            .map(|_| {
                let world = Arc::clone(&world);
                thread::spawn(move || world.work(tasks))
            })
            .collect();
        for task in 0..tasks {
            world.submit(task);
        }
        // A lost wake-up shows as a deadlock, which loom reports.
        for thread in threads {
            thread.join().expect("no thread of the model panics");
        }
        assert_eq!(world.found.load(Ordering::Relaxed), tasks);
    });
}

#[test]
fn one_worker_finds_what_is_submitted_while_it_falls_asleep() {
    check("sleep 1 worker", 2, 1, 3);
}

#[test]
fn two_workers_leave_no_task_lying() {
    check("sleep 2 workers", 2, 2, 2);
}
