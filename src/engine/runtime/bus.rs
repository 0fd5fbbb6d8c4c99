//! Events on their way to the observers.
//!
//! An emitter pushes into a bounded buffer and goes on; a thread of its own calls the observers. So
//! a slow observer costs events and never deliveries. An observer that panics costs itself that
//! event. With nobody listening an emit is one relaxed load. [`crate::pure::words::news`] argues
//! who wakes the thread, and that no event waits while it sleeps.

use std::io;
use std::iter;

use crate::engine::base::cell::Cell;
use crate::engine::base::contain::{Contained, contain};
use crate::engine::runtime::Engine;
use crate::engine::runtime::context::Inside;
use crate::engine::runtime::pool::EXPLORED;
use crate::engine::wait::quiescence::Quiescence;
use crate::observe::event::{Event, Record};
use crate::observe::note::Note;
use crate::pure::words::news::News;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{
    Arc, CachePadded, Condvar, Instant, JoinHandle, Mutex, OnceLock, Queue, Slot, Thread,
    is_current, mutant, spawn, yield_now,
};

/// Most records that are taken out of the buffer before the first of them is told. They are dropped
/// together, too: a name's reference count travels between two cores once for all.
const BURST: usize = 64;
/// How often the thread looks again, after a yield, before it sleeps. To wake it costs an emitter
/// more than many events do.
const YIELDS: u32 = if EXPLORED { 0 } else { 8 };

/// A user's observer.
pub(crate) type Observer = dyn Fn(&Event<'_>) + Send + Sync;

type Observers = Vec<Listener>;

#[derive(Clone)]
struct Listener {
    number: u64,
    /// The observer hears of events after this one.
    after: u64,
    observer: Arc<Contained<Box<Observer>>>,
}

/// The way of events from the engine to the observers.
pub(crate) struct Bus {
    observed: AtomicBool,
    observers: Slot<Observers>,
    /// How often that list has changed. Reading this is cheaper than looking at the list.
    changes: AtomicU64,
    /// Serializes changes of the list; holds the next observer's number.
    joining: Mutex<u64>,
    capacity: usize,
    buffer: OnceLock<Queue<Note>>,
    /// Written by all emitters.
    news: CachePadded<Cell<News>>,
    missed: AtomicU64,
    panicked: AtomicU64,
    /// Events taken out of the buffer and told to everybody: written by the thread.
    told: CachePadded<AtomicU64>,
    told_all: Quiescence,
    /// Once it stops, how many events are to be told: those sent before.
    stopping: Mutex<Option<u64>>,
    condvar: Condvar,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Bus {
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            observed: AtomicBool::new(false),
            observers: Slot::new(Arc::new(Vec::new())),
            changes: AtomicU64::new(0),
            joining: Mutex::new(0),
            capacity,
            buffer: OnceLock::new(),
            news: CachePadded::new(Cell::new(News::NONE)),
            missed: AtomicU64::new(0),
            panicked: AtomicU64::new(0),
            told: CachePadded::new(AtomicU64::new(0)),
            told_all: Quiescence::new(),
            stopping: Mutex::new(None),
            condvar: Condvar::new(),
            thread: Mutex::new(None),
        }
    }

    /// Returns whether anybody listens.
    #[inline]
    pub(crate) fn observed(&self) -> bool {
        // ORDERING: relaxed. An observer hears of events after it was added, and perhaps of a few
        // while it was being added.
        self.observed.load(Ordering::Relaxed)
    }

    /// Returns whether anybody has ever listened.
    pub(crate) fn was_observed(&self) -> bool {
        self.buffer.get().is_some()
    }

    /// Passes a record on, or counts it as missed if the buffer is full.
    pub(crate) fn send(&self, mut record: Box<Record>) {
        self.send_numbered(record.len(), |sequence| {
            record.sequence = sequence;
            Note::Other(record)
        });
    }

    /// Sends a note of `events` events. The note is made when the number of its first event is
    /// known.
    #[inline]
    pub(crate) fn send_numbered(&self, events: u64, note: impl FnOnce(u64) -> Note) {
        let Some(buffer) = self.buffer.get() else {
            return;
        };
        let (sequence, wake) = self.news.update(|news| news.draw(events));
        if buffer.push(note(sequence)).is_err() {
            self.missed.fetch_add(events, Ordering::Relaxed);
        }
        if wake {
            self.wake();
        }
    }

    #[cold]
    fn wake(&self) {
        mutant!(drop(self.stopping.lock()), "bus.wake-lock");
        self.condvar.notify_one();
    }

    /// Adds an observer; returns its number.
    pub(crate) fn add(&self, observer: Contained<Box<Observer>>) -> u64 {
        self.buffer.get_or_init(|| Queue::new(self.capacity));
        let mut next = self.joining.lock();
        *next += 1;
        let number = *next;
        let mut observers = Observers::clone(&self.observers.load());
        observers.push(Listener {
            number,
            after: self.news.load().drawn,
            observer: Arc::new(observer),
        });
        self.replace(observers);
        self.observed.store(true, Ordering::Relaxed);
        number
    }

    /// Removes an observer. A call of it may still be running.
    pub(crate) fn remove(&self, number: u64) {
        let joining = self.joining.lock();
        let mut observers = Observers::clone(&self.observers.load());
        observers.retain(|listener| listener.number != number);
        let observed = mutant!(!observers.is_empty(), "bus.still-observed", false);
        self.observed.store(observed, Ordering::Relaxed);
        let before = self.replace(observers);
        drop(joining);
        // Dropping an observer runs the user's code.
        drop(before);
    }

    /// Lets go of all observers, for the end of the broker: one may hold it.
    pub(crate) fn release_user_code(&self) {
        drop(self.replace(Observers::new()));
    }

    fn replace(&self, observers: Observers) -> Arc<Observers> {
        let before = self.observers.swap(Arc::new(observers));
        self.changes.fetch_add(1, Ordering::Release);
        before
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

    /// Tells observers of events until the bus is stopped. The observers' thread runs this.
    pub(crate) fn listen(&self) {
        let mut looks = 0;
        let mut burst = Vec::new();
        loop {
            looks = match self.tell_burst(&mut burst) {
                true => 0,
                false => looks + 1,
            };
            self.told_all.notify();
            // Events sent after the end, of refusals say, may go untold.
            let last = *self.stopping.lock();
            if last.is_some_and(|last| self.known() >= last) {
                return;
            }
            let known = mutant!(self.known(), "bus.count-news", self.news.load().drawn);
            // If the word refuses, an emitter is between its numbers and its push.
            if looks < YIELDS || !self.news.update(|news| news.sleep(known)) {
                yield_now();
                continue;
            }
            let mut stopping = self.stopping.lock();
            while self.news.load().asleep && stopping.is_none() {
                self.condvar.wait(&mut stopping, None);
            }
            if self.news.load().asleep {
                return;
            }
        }
    }

    /// Returns how many events have been told or missed.
    fn known(&self) -> u64 {
        let missed = self.missed.load(Ordering::Relaxed);
        self.told.load(Ordering::Acquire) + missed
    }

    /// Tells the observers all events in the buffer, on this thread. Returns `false` if there were
    /// none.
    pub(crate) fn pump(&self) -> bool {
        if !self.was_observed() {
            return false;
        }
        let (mut burst, mut has_told) = (Vec::new(), false);
        while self.tell_burst(&mut burst) {
            has_told = true;
        }
        has_told
    }

    /// Tells some of the events in the buffer, on this thread. Returns `false` if there were none.
    /// `burst` is memory to be used again.
    fn tell_burst(&self, burst: &mut Vec<Note>) -> bool {
        let Some(buffer) = self.buffer.get() else {
            return false;
        };
        burst.extend(iter::from_fn(|| buffer.pop()).take(BURST));
        if burst.is_empty() {
            return false;
        }
        let mut observers = self.observers.reader();
        let mut changes = self.changes.load(Ordering::Acquire);
        let mut listeners = observers.load();
        let mut told = 0;
        for note in burst.iter() {
            // ORDERING: acquire, so that this thread sees the list if it sees the count. It looks
            // for each note, so that an observer that was removed hears nothing more.
            let now = self.changes.load(Ordering::Acquire);
            if now != changes {
                changes = now;
                listeners = observers.load();
            }
            note.tell(|event| self.tell(event, listeners));
            told += note.len();
        }
        // ORDERING: a thread that sees the count sees what the observers did.
        self.told.fetch_add(told, Ordering::Release);
        burst.clear();
        true
    }

    fn tell(&self, event: &Event<'_>, observers: &Observers) {
        let hears = |listener: &&Listener| listener.after < event.sequence();
        for listener in observers.iter().filter(hears) {
            if contain(|| (listener.observer)(event)).is_err() {
                self.panicked.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Waits until everything sent so far has been told. Returns `false` if the time was up.
    pub(crate) fn flush(&self, until: Option<Instant>) -> bool {
        self.flush_to(self.news.load().drawn, until)
    }

    fn flush_to(&self, sent: u64, until: Option<Instant>) -> bool {
        self.told_all.wait(until, || self.known() >= sent)
    }

    /// Returns the number of events that found the buffer full.
    pub(crate) fn missed(&self) -> u64 {
        self.missed.load(Ordering::Relaxed)
    }

    /// Returns the number of observers' panics.
    pub(crate) fn panicked(&self) -> u64 {
        self.panicked.load(Ordering::Relaxed)
    }

    /// Ends the thread once it has told the events in the buffer. Doesn't wait for an observer that
    /// is still busy. Returns `true` if everything has been told.
    pub(crate) fn stop(&self, until: Option<Instant>) -> bool {
        let sent = self.news.load().drawn;
        *self.stopping.lock() = Some(sent);
        self.condvar.notify_one();
        let thread = self.thread.lock().take();
        let Some(thread) = thread else {
            return true;
        };
        if is_current(&thread) || !self.flush_to(sent, until) {
            return false;
        }
        // Observers are contained, and the last one has returned.
        let _ = thread.join();
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::event::EventKind;

    /// An observer sends it here, for each event that it hears of.
    #[test]
    fn what_is_sent_while_the_bus_stops_does_not_keep_it() {
        let bus = Arc::new(Bus::new(64));
        let record = || Box::new(Record::new(Arc::from("t"), 0, EventKind::Drained));
        let feeds = Arc::clone(&bus);
        let observer: Box<Observer> = Box::new(move |_| feeds.send(record()));
        bus.add(Contained::new(observer));
        bus.send(record());
        let listens = Arc::clone(&bus);
        let named = Thread {
            name: "observer".into(),
            stack_size: None,
        };
        let thread = spawn(named, move || listens.listen()).expect("it starts");
        *bus.thread.lock() = Some(thread);
        assert!(bus.stop(None), "all that was sent before has been told");
        bus.release_user_code();
    }
}
