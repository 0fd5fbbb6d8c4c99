//! Events on their way to the observers.
//!
//! Whoever emits pushes into a bounded buffer and goes on; a thread of its own
//! calls the observers. So an observer that is slow costs events and never
//! deliveries, and one that panics costs itself that event. With nobody
//! listening an emit is one relaxed load.

use std::io;

use super::contain::{Contained, contain};
use super::context::Inside;
use super::stillness::Stillness;
use crate::engine::Engine;
use crate::event::{Event, Record};
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{
    Arc, Condvar, Instant, JoinHandle, Mutex, OnceLock, Queue, Slot, Thread, breakable, fence,
    is_current, spawn,
};

/// A user's observer.
pub(crate) type Observer = dyn Fn(&Event<'_>) + Send + Sync;

type Observers = Vec<Listener>;

#[derive(Clone)]
struct Listener {
    number: u64,
    /// It hears what happens after this event.
    after: u64,
    observer: Arc<Contained<Box<Observer>>>,
}

/// The way of events from the engine to the observers.
pub(crate) struct Bus {
    observed: AtomicBool,
    observers: Slot<Observers>,
    /// Serialises changes of the list; holds the next observer's number.
    joining: Mutex<u64>,
    capacity: usize,
    buffer: OnceLock<Queue<Record>>,
    sequence: AtomicU64,
    missed: AtomicU64,
    panicked: AtomicU64,
    /// Events taken out of the buffer and told to everybody.
    told: AtomicU64,
    told_all: Stillness,
    /// The thread has been told to look, or is looking.
    awake: AtomicBool,
    stopping: Mutex<bool>,
    bell: Condvar,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Bus {
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            observed: AtomicBool::new(false),
            observers: Slot::new(Arc::new(Vec::new())),
            joining: Mutex::new(0),
            capacity,
            buffer: OnceLock::new(),
            sequence: AtomicU64::new(0),
            missed: AtomicU64::new(0),
            panicked: AtomicU64::new(0),
            told: AtomicU64::new(0),
            told_all: Stillness::new(),
            awake: AtomicBool::new(false),
            stopping: Mutex::new(false),
            bell: Condvar::new(),
            thread: Mutex::new(None),
        }
    }

    /// Whether anybody listens.
    #[inline]
    pub(crate) fn observed(&self) -> bool {
        // ORDERING: relaxed: an observer hears what happens after it was added
        // and perhaps a little of what happened while it was.
        self.observed.load(Ordering::Relaxed)
    }

    /// Passes a record on, or counts it as missed if the buffer is full.
    pub(crate) fn send(&self, mut record: Record) {
        let Some(buffer) = self.buffer.get() else {
            return;
        };
        let events = record.len();
        record.sequence = self.sequence.fetch_add(events, Ordering::Relaxed) + 1;
        if buffer.push(record).is_err() {
            self.missed.fetch_add(events, Ordering::Relaxed);
            return;
        }
        // ORDERING: pairs with the fence in `listen`: we pushed, now we look
        // whether the thread is; it says that it isn't, then looks.
        breakable!("bus: send without a fence", fence(Ordering::SeqCst));
        if !self.awake.load(Ordering::Relaxed) {
            self.ring();
        }
    }

    fn ring(&self) {
        self.awake.store(true, Ordering::Relaxed);
        breakable!("bus: ring past the lock", drop(self.stopping.lock()));
        self.bell.notify_one();
    }

    /// Adds an observer; answers its number.
    pub(crate) fn add(&self, observer: Contained<Box<Observer>>) -> u64 {
        self.buffer.get_or_init(|| Queue::new(self.capacity));
        let mut next = self.joining.lock();
        *next += 1;
        let number = *next;
        let mut observers = Observers::clone(&self.observers.load());
        observers.push(Listener {
            number,
            after: self.sequence.load(Ordering::Relaxed),
            observer: Arc::new(observer),
        });
        self.observers.swap(Arc::new(observers));
        self.observed.store(true, Ordering::Relaxed);
        number
    }

    /// Removes an observer. A call of it may still be running.
    pub(crate) fn remove(&self, number: u64) {
        let joining = self.joining.lock();
        let mut observers = Observers::clone(&self.observers.load());
        observers.retain(|listener| listener.number != number);
        let observed = breakable!("bus: off when one leaves", !observers.is_empty(), false);
        self.observed.store(observed, Ordering::Relaxed);
        let before = self.observers.swap(Arc::new(observers));
        drop(joining);
        // Dropping an observer runs the user's code.
        drop(before);
    }

    /// Lets go of all observers, for the end of the broker: one may hold it.
    pub(crate) fn let_go(&self) {
        let before = self.observers.swap(Arc::new(Observers::new()));
        drop(before);
    }

    /// Starts the observers' thread unless it runs.
    pub(crate) fn start(engine: &Arc<Engine>) -> io::Result<()> {
        let mut thread = engine.bus.thread.lock();
        if thread.is_none() {
            let for_bus = Arc::clone(engine);
            let named = Thread {
                name: format!("{}-observer", engine.thread_name),
                stack_size: None,
            };
            *thread = Some(spawn(named, move || {
                let _inside = Inside::enter(&for_bus);
                for_bus.bus.listen();
            })?);
        }
        Ok(())
    }

    /// Tells what comes until the bus is stopped: the observers' thread.
    pub(crate) fn listen(&self) {
        loop {
            self.pump();
            self.told_all.look();
            let mut stopping = self.stopping.lock();
            self.awake.store(false, Ordering::Relaxed);
            // ORDERING: pairs with the fence in `send`.
            breakable!("bus: listen without a fence", fence(Ordering::SeqCst));
            if breakable!("bus: listen without a last look", self.has_news(), false) {
                continue;
            }
            if *stopping {
                return;
            }
            while !self.awake.load(Ordering::Relaxed) && !*stopping {
                self.bell.wait(&mut stopping, None);
            }
        }
    }

    fn has_news(&self) -> bool {
        self.buffer.get().is_some_and(|buffer| !buffer.is_empty())
    }

    /// Tells the observers all there is in the buffer, on this thread.
    pub(crate) fn pump(&self) {
        let Some(buffer) = self.buffer.get() else {
            return;
        };
        let mut observers = self.observers.reader();
        while let Some(record) = buffer.pop() {
            let observers = observers.load();
            for event in record.events() {
                self.tell(&event, observers);
            }
            // ORDERING: whoever sees the count sees what the observers did.
            self.told.fetch_add(record.len(), Ordering::Release);
        }
    }

    fn tell(&self, event: &Event<'_>, observers: &Observers) {
        let hears = |listener: &&Listener| listener.after < event.sequence();
        for listener in observers.iter().filter(hears) {
            if contain(|| (listener.observer)(event)).is_err() {
                self.panicked.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Waits until everything sent so far has been told. `false`: time was up.
    pub(crate) fn flush(&self, until: Option<Instant>) -> bool {
        let sent = self.sequence.load(Ordering::Relaxed);
        self.told_all.wait(until, || {
            let missed = self.missed.load(Ordering::Relaxed);
            self.told.load(Ordering::Acquire) + missed >= sent
        })
    }

    /// Events that found the buffer full.
    pub(crate) fn missed(&self) -> u64 {
        self.missed.load(Ordering::Relaxed)
    }

    /// Panics of observers.
    pub(crate) fn panicked(&self) -> u64 {
        self.panicked.load(Ordering::Relaxed)
    }

    /// Ends the thread once it has told what is in the buffer; doesn't wait for
    /// an observer that is still busy. `true`: all has been told.
    pub(crate) fn stop(&self, until: Option<Instant>) -> bool {
        *self.stopping.lock() = true;
        self.bell.notify_one();
        let thread = self.thread.lock().take();
        let Some(thread) = thread else {
            return true;
        };
        if is_current(&thread) || !self.flush(until) {
            return false;
        }
        // Observers are contained, and the last one has returned.
        let _ = thread.join();
        true
    }
}
