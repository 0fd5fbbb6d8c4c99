//! Many threads commit at once, by real threads or by shuttle's schedules:
//!
//! ```sh
//! cargo shuttle-log
//! ```

#[cfg(feature = "async")]
mod tasks;

use std::path::Path;
use std::time::Duration;

use crate::log::commit::{Due, Hook, Log};
use crate::log::fs::sim::{FaultKind, Faults, SimFs};
use crate::log::recover::recover;
use crate::log::writer::Writer;
use crate::pure::log::format::frame::FrameBuffer;
use crate::pure::log::record::Record;
use crate::sync::{Arc, Condvar, JoinHandle, Mutex, Thread, explore, spawn};
use crate::types::error::store::StoreError;

/// Numbers of records, and whether each is written.
type Results = Mutex<Vec<(u64, bool)>>;

/// A log that threads share, and what they were told.
#[derive(Clone)]
struct Shared {
    fs: SimFs,
    log: Arc<Log>,
    told: Arc<Told>,
}

/// The results that the hooks were told, in their order.
struct Told {
    hooks: Results,
    is_more: Condvar,
}

impl Shared {
    fn open(sync_every: Option<Duration>) -> Self {
        let fs = SimFs::default();
        let recovered = recover(&fs, Path::new("data"), &mut drop).expect("a new one");
        let writer = Writer::new(Arc::new(fs.clone()), recovered, 300);
        Self {
            fs,
            log: Arc::new(Log::new(writer, sync_every)),
            told: Arc::new(Told {
                hooks: Mutex::new(Vec::new()),
                is_more: Condvar::new(),
            }),
        }
    }

    fn hook(&self, number: u64) -> Hook {
        let told = Arc::clone(&self.told);
        Box::new(move |result| {
            told.hooks.lock().push((number, result.is_ok()));
            told.is_more.notify_one();
        })
    }

    /// Submits a record of so many bytes. `None` if it was refused.
    fn submit(
        &self,
        number: u64,
        size: usize,
        syncs: bool,
        due: Due,
    ) -> Option<impl FnOnce() -> bool> {
        let put = |frame: &mut FrameBuffer| {
            let name = format!("\0{number}{}", "-".repeat(size));
            // The ids are given as the records come.
            let topic = number as u32;
            Record::Delayed {
                topic: 0,
                id: u64::from(topic),
                time_ms: 0,
                due_ms: 0,
                message: name.as_bytes(),
            }
            .put(frame.record());
        };
        let hook = Some(self.hook(number));
        let ticket = self.log.submit(syncs, due, put, hook).ok()?;
        let log = Arc::clone(&self.log);
        Some(move || log.wait(ticket).is_ok())
    }

    /// Makes the topic to which the records belong.
    fn with_topic(self) -> Self {
        let topic = Record::Topic {
            topic: 0,
            first_seq: 1,
            next_seq: 1,
            name: "orders",
        };
        let put = |frame: &mut FrameBuffer| topic.put(frame.record());
        let ticket = self.log.submit(true, Due::Waits, put, None);
        let ticket = ticket.map_err(|(error, _)| error).expect("it is open");
        self.log.wait(ticket).expect("it is written");
        self
    }

    fn flusher(&self) -> JoinHandle<()> {
        let log = Arc::clone(&self.log);
        start(move || log.flush_when_due())
    }

    /// Waits until so many hooks were called.
    fn wait_for_hooks(&self, count: usize) {
        let mut hooks = self.told.hooks.lock();
        while hooks.len() < count {
            self.told.is_more.wait(&mut hooks, None);
        }
    }

    /// Returns the numbers of the records that a store which opens has.
    fn stored(&self, fs: &SimFs) -> Vec<u64> {
        let recovered = recover(fs, Path::new("data"), &mut drop).expect("it opens");
        let topic = recovered.state.topic(0).expect("it was synced");
        topic.delayed.keys().copied().collect()
    }
}

pub(super) fn start(body: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
    let thread = Thread {
        name: "a thread".to_owned(),
        stack_size: None,
    };
    spawn(thread, body).expect("it starts")
}

pub(super) fn join(threads: Vec<JoinHandle<()>>) {
    for thread in threads {
        thread.join().expect("it does not panic");
    }
}

/// Three threads that commit twice each. Returns what each was told of its records.
fn committers(shared: &Shared, size: usize) -> (Vec<JoinHandle<()>>, Arc<Results>) {
    let results = Arc::new(Mutex::new(Vec::new()));
    let threads = (0..3).map(|thread| {
        let shared = shared.clone();
        let results = Arc::clone(&results);
        start(move || {
            for number in [2 * thread, 2 * thread + 1] {
                if let Some(wait) = shared.submit(number, size, thread != 1, Due::Waits) {
                    let is_written = wait();
                    results.lock().push((number, is_written));
                }
            }
        })
    });
    (threads.collect(), results)
}

/// Asserts that each record's hook was called once, and said what its thread was told.
fn assert_told(shared: &Shared, results: &Results) -> Vec<u64> {
    let mut hooks = shared.told.hooks.lock().clone();
    let failed = hooks.iter().position(|(_, is_written)| !is_written);
    let after = failed.map_or(&[][..], |failed| &hooks[failed..]);
    assert!(after.iter().all(|(_, is_written)| !is_written), "{hooks:?}");
    let mut results = results.lock().clone();
    hooks.sort_unstable();
    results.sort_unstable();
    assert_eq!(hooks, results);
    let written = results.iter().filter(|(_, is_written)| *is_written);
    written.map(|(number, _)| *number).collect()
}

#[test]
fn every_record_is_written_and_its_hook_called_once() {
    for (size, has_flusher) in [(10, false), (150, false), (10, true), (300, true)] {
        explore(move || {
            let shared = Shared::open(None).with_topic();
            let flusher = has_flusher.then(|| shared.flusher());
            let (threads, results) = committers(&shared, size);
            join(threads);
            assert_eq!(assert_told(&shared, &results), [0, 1, 2, 3, 4, 5]);
            assert_eq!(shared.stored(&shared.fs.after_kill()), [0, 1, 2, 3, 4, 5]);
            shared.log.close();
            join(flusher.into_iter().collect());
        });
    }
}

#[test]
fn a_failure_reaches_every_thread_and_every_hook() {
    for (size, at) in [
        (10, 1),
        (10, 2),
        (150, 2),
        (150, 5),
        (300, 1),
        (300, 3),
        (300, 9),
    ] {
        explore(move || {
            let shared = Shared::open(None).with_topic();
            let flusher = (at % 2 == 1).then(|| shared.flusher());
            shared.fs.fail(Faults {
                at: Some(at),
                kind: FaultKind::Error,
                lies: false,
            });
            let (threads, results) = committers(&shared, size);
            join(threads);
            let written = assert_told(&shared, &results);
            let stored = shared.stored(&shared.fs.after_kill());
            assert!(written.iter().all(|number| stored.contains(number)));
            shared.log.close();
            join(flusher.into_iter().collect());
        });
    }
}

#[test]
fn what_was_accepted_before_the_close_is_synced_by_it() {
    for (size, has_flusher) in [(10, true), (10, false), (150, true), (300, false)] {
        explore(move || {
            let shared = Shared::open(None).with_topic();
            let flusher = has_flusher.then(|| shared.flusher());
            let (mut threads, results) = committers(&shared, size);
            for number in [10, 11] {
                let shared = shared.clone();
                threads.push(start(move || {
                    // Nobody waits for it.
                    let accepted = shared.submit(number, size, false, Due::Now);
                    if accepted.is_some() {
                        shared.log.close();
                        let hooks = shared.told.hooks.lock().clone();
                        assert!(hooks.contains(&(number, true)), "{number}: {hooks:?}");
                    }
                    shared.log.close();
                }));
            }
            join(threads);
            join(flusher.into_iter().collect());
            let written = results.lock().clone();
            assert!(written.iter().all(|(_, is_written)| *is_written));
            let hooks = shared.told.hooks.lock().clone();
            let mut numbers: Vec<_> = hooks.iter().map(|(number, _)| *number).collect();
            numbers.sort_unstable();
            // Closed: all of it is on the disk, not in the system's memory.
            let mut none = crate::log::fs::sim::Random(0);
            let stored = shared.stored(&shared.fs.after_power_cut(&mut none));
            assert_eq!(stored, numbers);
            let late = shared.submit(12, 10, true, Due::Now);
            assert!(late.is_none(), "it is closed");
        });
    }
}

#[test]
fn records_for_which_nobody_waits_are_written_by_the_flusher() {
    let soon = Due::Now;
    for dues in [[Due::Now, Due::Now], [soon, Due::Now], [soon, soon]] {
        explore(move || {
            let shared = Shared::open(Some(Duration::from_millis(5))).with_topic();
            let flusher = shared.flusher();
            let threads = (0..).zip(dues).map(|(thread, due)| {
                let shared = shared.clone();
                start(move || {
                    let waits = shared.submit(2 * thread, 10, thread == 0, Due::Waits);
                    shared.submit(2 * thread + 1, 200, false, due);
                    if thread == 0 {
                        assert!(waits.expect("it is open")());
                    }
                })
            });
            join(threads.collect());
            shared.wait_for_hooks(4);
            shared.log.close();
            join(vec![flusher]);
            assert_eq!(shared.stored(&shared.fs.after_kill()), [0, 1, 2, 3]);
        });
    }
}

/// The last holder of a store may be a hook, on the flusher.
#[test]
fn a_store_that_is_dropped_by_a_hook_is_closed() {
    struct Closes(Arc<Log>);
    impl Drop for Closes {
        fn drop(&mut self) {
            self.0.close_soon();
        }
    }
    explore(|| {
        let shared = Shared::open(None).with_topic();
        let flusher = shared.flusher();
        let holder = Closes(Arc::clone(&shared.log));
        let hook: Hook = Box::new(move |_| drop(holder));
        let put = |frame: &mut FrameBuffer| {
            let gone = Record::DelayedGone {
                topic: 0,
                id: 9,
                seq: 0,
            };
            gone.put(frame.record());
        };
        let submitted = shared.log.submit(false, Due::Now, put, Some(hook));
        assert!(submitted.is_ok());
        // Others go on until the end.
        let waits = shared.submit(1, 10, false, Due::Waits);
        let is_written = waits.is_some_and(|wait| wait());
        join(vec![flusher]);
        assert!(matches!(shared.log.failure(), Some(StoreError::Closed)));
        let mut none = crate::log::fs::sim::Random(0);
        let stored = shared.stored(&shared.fs.after_power_cut(&mut none));
        assert_eq!(stored.contains(&1), is_written);
    });
}

/// The schedules see it if a step that wakes a thread is left out.
#[cfg(millstream_shuttle)]
#[test]
fn every_broken_step_is_seen_by_schedules() {
    use crate::pure::log::broken;

    let breaks: &[(&str, fn())] = &[
        (
            "tell the group",
            every_record_is_written_and_its_hook_called_once,
        ),
        (
            "tell the next leader",
            every_record_is_written_and_its_hook_called_once,
        ),
        (
            "tell the next leader",
            a_failure_reaches_every_thread_and_every_hook,
        ),
        (
            "look and sleep at once",
            every_record_is_written_and_its_hook_called_once,
        ),
        (
            "wake the flusher",
            records_for_which_nobody_waits_are_written_by_the_flusher,
        ),
        #[cfg(feature = "async")]
        ("wake the tasks", tasks::a_task_that_waits_is_woken),
    ];
    for (step, scenario) in breaks {
        broken::set(Some(*step));
        let seen = std::panic::catch_unwind(*scenario);
        broken::set(None);
        assert!(seen.is_err(), "nobody sees it: {step}");
    }
}
