//! Topics by name, whatever they carry.

use std::any::{Any, type_name};

use crate::engine::base::cell::Cell;
use crate::engine::base::contain::{SharedPolicy, SharedStrategy, share_policy, stand_in};
use crate::engine::base::gate::Gate;
use crate::engine::runtime::Engine;
use crate::engine::runtime::context::Inside;
use crate::engine::runtime::directory::{AnyLetter, AnyTopic, LiveSettings, Survey, TopicSettings};
use crate::engine::runtime::pool::Worker;
use crate::engine::state::dead_letter_store::notify;
use crate::engine::state::lane::Lane;
use crate::engine::state::partition_set::QueueRef;
use crate::engine::state::topic::TopicCore;
use crate::engine::wait::holds::Hold;
use crate::observe::event::EventKind;
use crate::observe::metrics::TopicMetrics;
use crate::pure::policy::retry::Backoff;
use crate::pure::words::ending::Refuse;
use crate::pure::words::handles::Handles;
use crate::pure::words::room::Phase;
use crate::sync::atomic::Ordering;
use crate::sync::{Arc, Mutex, in_order, mutant};

impl<T: Send + Sync + 'static> AnyTopic for TopicCore<T> {
    fn name(&self) -> &Arc<str> {
        &self.name
    }

    fn payload_type(&self) -> &'static str {
        type_name::<T>()
    }

    fn into_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
        self
    }

    fn handles(&self) -> &Cell<Handles> {
        &self.handles
    }

    fn settings(&self) -> &TopicSettings {
        &self.settings
    }

    fn live(&self) -> LiveSettings {
        self.live_now()
    }

    fn has_lanes(&self) -> bool {
        self.lanes.peek(|lanes| !lanes.is_empty())
    }

    fn contents(&self) -> Option<&'static str> {
        let any = |is: fn(&Lane<T>) -> bool| self.lanes.peek(|all| all.iter().any(|lane| is(lane)));
        let mut readers = self.letter_readers().into_iter();
        if any(|lane| !lane.by_pattern) || readers.any(|reader| !reader.is_by_pattern()) {
            Some("subscriptions")
        } else if self.gate.outstanding() > 0 {
            Some("messages")
        } else if any(|lane| lane.room.load().occupied > 0) {
            // Deliveries are looked for after messages, because messages become deliveries.
            Some("deliveries")
        } else if self.letter_counts().0 > 0 {
            Some("dead letters")
        } else {
            None
        }
    }

    fn close(self: Arc<Self>, whom: Refuse) {
        match whom {
            Refuse::Outside => self.at_gate(Gate::close_outside),
            Refuse::All => self.at_gate(Gate::close),
        }
        self.waiters.wake_all();
        mutant!(self.schedule(), "topic.notify-close");
        // A drain also flushes the batches that lanes accumulate.
        for lane in self.lanes.load().iter() {
            lane.schedule();
        }
    }

    fn survey(&self) -> Survey {
        let delayed = self.books.delayed.get();
        let outstanding = self.gate.outstanding();
        let lanes = self.lanes.load();
        let mut survey = Survey {
            moving: outstanding.saturating_sub(delayed),
            parked: delayed,
            activity: self.gate.issued(),
        };
        if self.retains(&lanes) && !self.has_stopped() {
            survey.moving = 0;
        }
        for lane in lanes.iter() {
            let awaiting = lane.books.read().awaiting_retry;
            let occupied = u64::from(lane.room.load().occupied);
            let counts = lane.books.read();
            survey.moving += occupied.saturating_sub(awaiting) + self.unfed(lane);
            survey.parked += awaiting;
            // An attempt that was requeued has achieved nothing.
            survey.activity +=
                counts.made + counts.ended() + counts.attempts.saturating_sub(counts.requeued);
            // A lane that is ending comes to rest when its handler is gone.
            if lane.phase() != Phase::Open && !lane.is_retired() {
                survey.moving += 1;
            }
        }
        for reader in self.letter_readers() {
            survey.moving += u64::from(!reader.is_idle());
            survey.activity += reader.metrics().calls;
        }
        survey
    }

    fn targets(&self) -> Vec<usize> {
        let lanes = self.lanes.load();
        let lanes = lanes.iter().map(|lane| Arc::as_ptr(lane).addr());
        lanes.chain([std::ptr::from_ref(self).addr()]).collect()
    }

    fn stop(&self) {
        self.is_stopped.store(true, Ordering::Release);
    }

    fn draining(&self) -> &Mutex<()> {
        &self.draining
    }

    fn kept(&self) -> u64 {
        self.books.kept.get()
    }

    fn note_cut_off(&self, count: u64) -> u64 {
        self.books.cut_off.add(count);
        self.books.cut_off.get()
    }

    fn end(self: Arc<Self>, engine: &Engine) {
        let _inside = Inside::enter(engine);
        if let Some(split) = &self.split {
            split.end(engine);
        } else if self.plain.task.claim() {
            let worker = &mut Worker::new(engine);
            let then = self.run_claimed(&QueueRef::Plain(&self.plain), worker);
            worker.put_down(Arc::clone(&self) as _, then);
        }
        for lane in self.lanes.load().iter() {
            lane.close(Phase::Cancelling);
            lane.end(engine);
        }
        self.end_letter_readers();
        self.forget_retained();
    }

    fn release_user_code(&self) {
        // User code may hold a handle of this very topic.
        self.release_lanes();
        self.forget_retained();
        self.end_letter_readers();
        self.release_settings();
    }

    fn release_settings(&self) {
        let stand_in = stand_in(&self.strategy.load());
        drop(self.strategy.swap(stand_in));
        drop(self.retry.swap(share_policy(Backoff::default())));
    }

    fn metrics(&self) -> TopicMetrics {
        self.read_metrics()
    }

    fn strategy(&self) -> SharedStrategy {
        self.strategy.load()
    }

    fn retry(&self) -> SharedPolicy {
        self.retry.load()
    }

    fn letter_count(&self) -> usize {
        self.letter_counts().0
    }

    fn letters(&self) -> Vec<Arc<dyn AnyLetter>> {
        if self.letter_count() == 0 {
            return Vec::new();
        }
        let letters = self.letters().lock().list();
        letters.into_iter().map(|letter| letter as _).collect()
    }

    fn purge_letter(&self, arrival: u64) -> bool {
        let left = self.letters().lock().take(arrival);
        left.map(|left| {
            left.letter.note_gone();
            notify(left.waiting);
        })
        .is_some()
    }

    fn set_paused(&self, by: Hold, is_paused: bool) {
        self.pause_lanes(by, is_paused);
    }

    fn swap_strategy(self: Arc<Self>, strategy: SharedStrategy) {
        let to = Arc::clone(&strategy.name);
        let old;
        in_order!(
            old = self.strategy.swap(strategy),
            self.schedule(),
            "swap.then-notify"
        );
        let from = Arc::clone(&old.name);
        self.tell(EventKind::StrategySwapped { from, to });
    }

    fn announce(&self, kind: EventKind) {
        self.tell(kind);
    }

    fn announce_lanes(&self) {
        for lane in self.lanes.load().iter() {
            lane.announce();
        }
    }
}

impl<T: Send + Sync + 'static> TopicCore<T> {
    /// Returns how many messages of the log a lane has yet to be fed. After a close they stay there.
    fn unfed(&self, lane: &Lane<T>) -> u64 {
        #[cfg(feature = "log")]
        if let (Some(stored), Some(log)) = (&lane.stored, self.stored())
            && let Some(next) = stored.feed.lock().next()
            && lane.phase() == Phase::Open
            && !self.gate.is_closed()
        {
            return log.visible().saturating_sub(next);
        }
        let _ = lane;
        0
    }

    fn forget_retained(&self) {
        let forgotten = self.retained.as_ref().map(|retained| retained.release());
        drop(forgotten);
    }

    fn end_letter_readers(&self) {
        for reader in self.letter_readers() {
            reader.end();
        }
    }

    /// Whether messages wait for a first subscription.
    pub(crate) fn retains(&self, lanes: &[Arc<Lane<T>>]) -> bool {
        self.settings.no_subscribers == crate::types::config::NoSubscribers::Retain
            && lanes.iter().all(|lane| lane.phase() != Phase::Open)
    }
}

impl<T: Send + Sync + 'static> Lane<T> {
    /// Runs the end of a lane on the calling thread. Returns `false` if a worker runs the lane.
    pub(crate) fn end(self: &Arc<Self>, engine: &Engine) -> bool {
        let _inside = Inside::enter(engine);
        let mut has_run = false;
        while self.task.claim() {
            has_run = true;
            if !self.run_claimed() {
                break;
            }
        }
        has_run
    }

    /// Runs the lane's end if it may have come, without waiting for a free worker. All workers
    /// may be busy elsewhere.
    pub(crate) fn come_to_end(self: &Arc<Self>) {
        if !self.phase().ends_at_once() || !self.end(self.engine()) {
            self.schedule();
        }
    }
}

impl Engine {
    /// Returns the topics on the map, and the topics that were removed and have not ended.
    pub(crate) fn all_topics(&self) -> Vec<Arc<dyn AnyTopic>> {
        let mut topics = self.topics.values();
        topics.extend(self.retired_topics.lock().iter().cloned());
        topics
    }

    /// Remembers a removed topic until its lanes are gone.
    pub(crate) fn retire_topic(&self, topic: &Arc<dyn AnyTopic>) {
        let mut retired_topics = self.retired_topics.lock();
        let (here, gone): (Vec<_>, Vec<_>) = std::mem::take(&mut *retired_topics)
            .into_iter()
            .partition(|topic| topic.has_lanes());
        *retired_topics = here;
        retired_topics.push(Arc::clone(topic));
        drop(retired_topics);
        // A topic may hold the last of user code, so it is dropped after the lock is released.
        drop(gone);
    }

    /// Drops strategies and policies after the stop. They may hold the broker, which would then
    /// never be dropped.
    pub(crate) fn release_settings(&self) {
        for topic in self.all_topics() {
            topic.release_settings();
        }
        let stand_in = stand_in(&self.strategy.load());
        drop(self.strategy.swap(stand_in));
    }

    /// Returns what all topics still have to do, or `None` if that changed during the look.
    pub(crate) fn survey(&self) -> Option<Survey> {
        let look = || {
            let mut sum = Survey::default();
            for topic in self.all_topics() {
                let survey = topic.survey();
                sum.moving += survey.moving;
                sum.parked += survey.parked;
                sum.activity += survey.activity;
            }
            sum
        };
        let first = look();
        (look() == first).then_some(first)
    }

    /// Whether nothing is left to do, now or later.
    pub(crate) fn is_at_rest(&self) -> bool {
        self.survey()
            .is_some_and(|survey| survey.moving == 0 && survey.parked == 0)
    }
}
