//! A topic that is split into partitions, so that several workers can dispatch it at once.
//!
//! Ids, capacity, lanes and books stay the topic's. A partition is a queue and a task. A message's
//! way is key, partition, queue, dispatcher, lane. Each of them keeps the order of what it is
//! given, and so the messages of a key keep theirs.
//!
//! The number of partitions may change while traffic runs, and then a key may move to another
//! partition. The partitions that exist at a time are a *set*, which is replaced as a whole. Steps:
//!
//! - A *publisher*, which has its ticket, finds its partition in the current set and enters it. It
//!   counts its messages into `entered`, fences, and looks whether the set is still the current
//!   one. If so, it pushes. If not, it leaves again and tries the next.
//! - A *dispatcher* counts messages that it has handed on, or dropped, into `left`, fences, and
//!   looks whether its set has been replaced. If it has, and the partition is empty, it notifies
//!   everybody.
//! - A *change* puts the new set in the place of the old one, and notifies everybody. The
//!   partitions of a new set take messages, and dispatch none before the old set is empty. It is
//!   empty when `left` equals `entered` in all of its partitions.
//!
//! Three interleavings are feared, and none can happen:
//!
//! - A publisher enters the old set while a dispatcher of the new one finds it empty. Then an older
//!   message of a key would follow a newer one. But each would have missed the other's step, which
//!   the fences exclude.
//! - The last message of the old set leaves, and nobody tells the new one. But say the dispatcher
//!   that sees it leave has seen the change: then it notifies. Otherwise it fenced before the
//!   change did. The new set's first look comes after that fence, and sees the message gone.
//! - A message counts as left before it is in its lanes. But it is counted after the push.
//!
//! Two dispatchers may push into one lane at once. Both reserve first, in the order of the list of
//! lanes. A dispatcher that finds too little room in a lane stops there and gives back what it has.
//! So the dispatcher that is first in the first lane goes on. The other may find a lane full of
//! places that are then given back. That release notifies it, as any release does. Model:
//! `loom-tests/tests/models/partitions.rs`.

use std::ops::Deref;

use crate::engine::runtime::Engine;
use crate::engine::runtime::directory::{LiveSettings, Partitions};
use crate::engine::runtime::pool::{After, Task, Worker};
use crate::engine::state::partition_queue::PartitionQueue;
use crate::engine::state::topic::TopicCore;
use crate::engine::wait::fire::{Fire, Tag};
use crate::message::batch::{BatchSlice, QueueEntry};
use crate::message::meta::Meta;
use crate::observe::event::EventKind;
use crate::pure::decide::key_hash::key_hash;
use crate::pure::words::schedule::Then;
use crate::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use crate::sync::{Arc, CachePadded, Mutex, Slot, Weak, fence, mutant, thread_number};
use crate::types::config::Unkeyed;
use crate::types::error::PartitionsError;

/// The partitions of a topic, and the rule for messages without a key.
pub(crate) struct Split<T> {
    set: Slot<PartitionSet<T>>,
    /// Held while the set is replaced.
    change: Mutex<()>,
    unkeyed: Unkeyed,
    /// The partition whose turn it is, under [`Unkeyed::RoundRobin`].
    turn: AtomicU64,
    /// Where the next notify begins: the partition notified first is likely to get the room.
    first: AtomicUsize,
}

/// The partitions of a topic, as long as their number stands.
pub(crate) struct PartitionSet<T> {
    topic: Weak<TopicCore<T>>,
    partitions: Box<[Arc<Partition<T>>]>,
    /// Messages that went to each in chunks, under [`Unkeyed::RoundRobin`].
    chunked: Box<[AtomicU64]>,
    /// The set before this one, until it is empty.
    before: Slot<Option<Arc<PartitionSet<T>>>>,
}

/// One partition of a topic that is split.
pub(crate) struct Partition<T> {
    set: Weak<PartitionSet<T>>,
    queue: PartitionQueue<T>,
    /// Messages that were pushed, or are about to be: they number its messages.
    entered: CachePadded<AtomicU64>,
    /// Messages that are in their lanes, or gone.
    left: AtomicU64,
}

/// The queue that a dispatcher dispatches: all of a topic that is not split, or a partition.
pub(crate) enum QueueRef<'a, T> {
    Plain(&'a PartitionQueue<T>),
    Partition(&'a PartitionSet<T>, &'a Arc<Partition<T>>),
}

impl<T> Deref for QueueRef<'_, T> {
    type Target = PartitionQueue<T>;

    fn deref(&self) -> &PartitionQueue<T> {
        match self {
            Self::Plain(queue) => queue,
            Self::Partition(_, partition) => &partition.queue,
        }
    }
}

impl<T: Send + Sync + 'static> QueueRef<'_, T> {
    /// Returns whether the older messages of all its keys are in their lanes.
    pub(crate) fn may_dispatch(&self) -> bool {
        match self {
            Self::Plain(_) => true,
            Self::Partition(set, _) => set.is_first(),
        }
    }

    /// Returns whether nothing is added to it any more.
    pub(crate) fn is_replaced(&self, topic: &TopicCore<T>) -> bool {
        match self {
            Self::Plain(_) => false,
            Self::Partition(set, _) => !topic.is_current(set),
        }
    }

    /// Notes that `count` of its messages are in their lanes, or gone.
    pub(crate) fn leave(&self, topic: &TopicCore<T>, count: usize) {
        if let (Self::Partition(set, partition), Some(split)) = (self, &topic.split) {
            split.leave(topic, set, partition, count as u64);
        }
    }
}

impl<T: Send + Sync + 'static> Partition<T> {
    /// Returns the messages that have left, and those that had entered by then or have since.
    pub(crate) fn counts(&self) -> (u64, u64) {
        // ORDERING: acquire shows what was pushed into lanes before. This order, so that the second
        // is never less than the first.
        let left = self.left.load(Ordering::Acquire);
        (left, self.entered.load(Ordering::Relaxed))
    }

    pub(crate) fn waiting(&self) -> u64 {
        let (left, entered) = self.counts();
        entered - left
    }

    fn schedule(self: &Arc<Self>, engine: &Engine) {
        if self.queue.task.notify() == Then::Enqueue {
            engine.pool.submit(Arc::clone(self) as _);
        }
    }

    /// Runs a turn of a claimed partition. A set that is gone was empty.
    fn run_claimed(self: &Arc<Self>, worker: &mut Worker<'_>) -> After {
        let set = self.set.upgrade();
        let topic = set.as_ref().and_then(|set| set.topic.upgrade());
        match (set, topic) {
            (Some(set), Some(topic)) => topic.run_claimed(&QueueRef::Partition(&set, self), worker),
            _ => After::Rest,
        }
    }
}

impl<T: Send + Sync + 'static> Task for Partition<T> {
    fn run(self: Arc<Self>, worker: &mut Worker<'_>) {
        if self.queue.task.start() {
            let then = self.run_claimed(worker);
            worker.put_down(self, then);
        }
    }

    fn has_news(&self) -> bool {
        self.waiting() > 0
    }
}

impl<T: Send + Sync + 'static> Fire for Partition<T> {
    /// Schedules the partition: a linger has ended, or something may have expired. It has no other
    /// deadlines.
    fn fire(self: Arc<Self>, _tag: Tag) {
        let set = self.set.upgrade();
        if let Some(topic) = set.and_then(|set| set.topic.upgrade()) {
            self.schedule(&topic.engine);
        }
    }
}

impl<T: Send + Sync + 'static> PartitionSet<T> {
    fn new(
        topic: Weak<TopicCore<T>>,
        live: LiveSettings,
        count: usize,
        before: Option<Arc<Self>>,
    ) -> Arc<Self> {
        Arc::new_cyclic(|set| {
            let partition = |_| {
                Arc::new(Partition {
                    set: Weak::clone(set),
                    queue: PartitionQueue::new(live),
                    entered: CachePadded::new(AtomicU64::new(0)),
                    left: AtomicU64::new(0),
                })
            };
            Self {
                topic,
                partitions: (0..count).map(partition).collect(),
                chunked: (0..count).map(|_| AtomicU64::new(0)).collect(),
                before: Slot::new(Arc::new(before)),
            }
        })
    }

    fn place(&self, hash: u64) -> usize {
        (hash % self.partitions.len() as u64) as usize
    }

    /// Returns the partition that has got the fewest messages in chunks. Chunks are not of one
    /// size, so turns would not give all partitions as many.
    fn place_of_chunk(&self) -> usize {
        let counts = self.chunked.iter().enumerate();
        let fewest = counts.min_by_key(|(_, count)| count.load(Ordering::Relaxed));
        fewest.map_or(0, |(place, _)| place)
    }

    /// Returns the partition for these messages, given their route.
    fn place_for(&self, route: Option<u64>, count: u64) -> usize {
        let Some(route) = route else {
            let place = self.place_of_chunk();
            self.chunked[place].fetch_add(count, Ordering::Relaxed);
            return place;
        };
        self.place(route)
    }

    /// Returns its partitions, beginning with this one.
    fn partitions_from(&self, first: usize) -> impl Iterator<Item = &Arc<Partition<T>>> {
        let (before, from) = self.partitions.split_at(first % self.partitions.len());
        from.iter().chain(before)
    }

    /// Returns whether nothing of the set before it is left.
    fn is_first(&self) -> bool {
        if self.before.peek(Option::is_none) {
            return true;
        }
        // ORDERING: pairs with the fence in `enter`. A publisher that has entered the set before
        // this one, and stays, is seen here.
        fence(Ordering::SeqCst);
        let is_empty = |set: &Option<Arc<Self>>| {
            let mut partitions = set.iter().flat_map(|set| &set.partitions);
            partitions.all(|partition| partition.waiting() == 0)
        };
        let is_first = mutant!(self.before.peek(is_empty), "partitions.one-set", true);
        if is_first {
            self.before.swap(Arc::new(None));
        }
        is_first
    }
}

impl<T: Send + Sync + 'static> Split<T> {
    pub(crate) fn new(
        topic: &Weak<TopicCore<T>>,
        live: LiveSettings,
        Partitions { count, unkeyed }: Partitions,
    ) -> Self {
        let count = usize::from(count);
        Self {
            set: Slot::new(PartitionSet::new(Weak::clone(topic), live, count, None)),
            change: Mutex::new(()),
            unkeyed,
            turn: AtomicU64::new(0),
            first: AtomicUsize::new(0),
        }
    }

    /// Returns the route of `count` messages that travel together, which holds for any number of
    /// partitions. `turns` is 1 for a caller that will send them there, and 0 for one that only
    /// asks. `None` means a chunk without a key, which goes to the partition that has got the
    /// fewest messages in chunks.
    pub(crate) fn route(&self, meta: Option<&Meta>, count: u64, turns: u64) -> Option<u64> {
        match (meta.and_then(|meta| meta.key.as_deref()), self.unkeyed) {
            (Some(key), _) => Some(key_hash(key)),
            (None, Unkeyed::RoundRobin) if count > 1 => None,
            (None, Unkeyed::RoundRobin) => Some(self.turn.fetch_add(turns, Ordering::Relaxed)),
            (None, Unkeyed::Sticky) => Some(thread_number()),
        }
    }

    /// Returns the route of a buffering publisher's messages, whichever thread passes them on.
    pub(crate) fn sticky_route(&self) -> Option<u64> {
        (self.unkeyed == Unkeyed::Sticky).then(thread_number)
    }

    /// Pushes an admitted entry to the partition of `route`, and lets a dispatcher know.
    pub(crate) fn enqueue(
        &self,
        topic: &TopicCore<T>,
        mut entry: QueueEntry<T>,
        route: Option<u64>,
    ) {
        let route = route.or_else(|| self.route(entry.meta(), entry.len() as u64, 1));
        while let Err(back) = self.set.peek(|set| self.enter(topic, set, entry, route)) {
            entry = back;
        }
        // A partition that waits for more must not wait for messages that find no room.
        if topic.is_full() && !topic.strategy.peek(|strategy| strategy.is_immediate) {
            self.schedule(&topic.engine);
        }
    }

    fn enter(
        &self,
        topic: &TopicCore<T>,
        set: &PartitionSet<T>,
        entry: QueueEntry<T>,
        route: Option<u64>,
    ) -> Result<(), QueueEntry<T>> {
        let count = entry.len() as u64;
        let partition = &set.partitions[set.place_for(route, count)];
        let last = partition.entered.fetch_add(count, Ordering::Relaxed) + count;
        // ORDERING: pairs with the fence in `PartitionSet::is_first`; see the module's text.
        mutant!(fence(Ordering::SeqCst), "partitions.enter-fence");
        let is_current = mutant!(topic.is_current(set), "partitions.enter-look", true);
        if !is_current {
            self.leave(topic, set, partition, count);
            return Err(entry);
        }
        if partition.queue.push(entry, last) == Then::Enqueue {
            topic.engine.pool.submit(Arc::clone(partition) as _);
        }
        Ok(())
    }

    fn leave(
        &self,
        topic: &TopicCore<T>,
        set: &PartitionSet<T>,
        partition: &Partition<T>,
        count: u64,
    ) {
        // ORDERING: release, so that a thread that finds the partition empty finds the lanes
        // filled. The fence pairs with the one that begins a turn; see the module's text.
        partition.left.fetch_add(count, Ordering::Release);
        mutant!(fence(Ordering::SeqCst), "partitions.leave-fence");
        if !topic.is_current(set) && partition.waiting() == 0 {
            mutant!(self.schedule(&topic.engine), "partitions.notify-empty");
        }
    }

    /// Returns the current set, and the one before it if that is not empty.
    fn sets(&self) -> (Arc<PartitionSet<T>>, Option<Arc<PartitionSet<T>>>) {
        let set = self.set.load();
        let before = Option::clone(&set.before.load());
        (set, before)
    }

    /// Schedules every partition that has something in it.
    pub(crate) fn schedule(&self, engine: &Engine) {
        // ORDERING: pairs with the fences of a publisher that we find in no partition, and of a
        // change that we miss. They see what we have to tell.
        fence(Ordering::SeqCst);
        let first = self.first.fetch_add(1, Ordering::Relaxed);
        let (set, before) = self.sets();
        for set in before.iter().chain([&set]) {
            for partition in set
                .partitions_from(first)
                .filter(|partition| partition.waiting() > 0)
            {
                partition.schedule(engine);
            }
        }
    }

    /// Returns whether nobody looks for more.
    pub(crate) fn is_idle(&self) -> bool {
        let set = self.set.load();
        set.partitions
            .iter()
            .all(|partition| partition.queue.task.is_idle())
    }

    /// Drops the oldest messages where `wanted` messages would go, or else elsewhere. The set
    /// before comes first.
    pub(crate) fn drop_oldest(
        &self,
        topic: &Arc<TopicCore<T>>,
        route: Option<u64>,
        meta: Option<&Meta>,
        wanted: u64,
    ) -> Option<BatchSlice<T>> {
        let route = route.or_else(|| self.route(meta, wanted, 0));
        let (set, before) = self.sets();
        before.iter().chain([&set]).find_map(|set| {
            let place = route.map_or_else(|| set.place_of_chunk(), |route| set.place(route));
            set.partitions_from(place).find_map(|partition| {
                let source = QueueRef::Partition(set, partition);
                let dropped = topic.drop_oldest(&source, wanted as u32);
                dropped.inspect(|part| source.leave(topic, part.len()))
            })
        })
    }

    /// Looks through every partition for expired messages. Returns whether that made room.
    pub(crate) fn look_for_room(&self, topic: &Arc<TopicCore<T>>) -> bool {
        let (set, before) = self.sets();
        let mut has_room = false;
        for set in before.iter().chain([&set]) {
            for partition in &set.partitions {
                let task = || Arc::clone(partition) as _;
                has_room |= topic.look_for_room(&QueueRef::Partition(set, partition), task);
            }
        }
        has_room
    }

    /// Runs partitions that no worker runs, after the broker has stopped.
    pub(crate) fn end(&self, engine: &Engine) {
        let (set, before) = self.sets();
        for partition in before.iter().chain([&set]).flat_map(|set| &set.partitions) {
            if partition.queue.task.claim() {
                let worker = &mut Worker::new(engine);
                let then = partition.run_claimed(worker);
                worker.put_down(Arc::clone(partition) as _, then);
            }
        }
    }

    pub(crate) fn count(&self) -> usize {
        self.set.peek(|set| set.partitions.len())
    }

    /// Returns the number of messages in each partition.
    pub(crate) fn depths(&self) -> Vec<u64> {
        self.set.peek(|set| {
            set.partitions
                .iter()
                .map(|partition| partition.waiting())
                .collect()
        })
    }

    pub(crate) fn place_of(&self, key: &str) -> usize {
        self.set.peek(|set| set.place(key_hash(key)))
    }

    /// Lets `change` act on every queue. No set is made meanwhile, and later sets have the topic's
    /// settings of then.
    pub(crate) fn change_queues(&self, mut change: impl FnMut(&PartitionQueue<T>)) {
        let _changing = self.change.lock();
        let (set, before) = self.sets();
        for partition in before.iter().chain([&set]).flat_map(|set| &set.partitions) {
            change(&partition.queue);
        }
    }

    /// Changes the number of partitions.
    pub(crate) fn change(
        &self,
        topic: &Arc<TopicCore<T>>,
        to: usize,
    ) -> Result<(), PartitionsError> {
        let changing = self.change.lock();
        let old = self.set.load();
        let from = old.partitions.len();
        if from == to {
            return Ok(());
        }
        if !old.is_first() {
            return Err(PartitionsError::Underway);
        }
        self.set.swap(PartitionSet::new(
            Arc::downgrade(topic),
            topic.live_now(),
            to,
            Some(old),
        ));
        topic.tell(EventKind::PartitionsChanged { from, to });
        drop(changing);
        // A partition of the old set that waits for more waits in vain. An old set that is empty
        // has nobody to say so.
        mutant!(self.schedule(&topic.engine), "partitions.notify-change");
        Ok(())
    }
}

impl<T: Send + Sync + 'static> TopicCore<T> {
    fn is_current(&self, set: &PartitionSet<T>) -> bool {
        let is_same = |current: &PartitionSet<T>| std::ptr::eq(current, set);
        self.split
            .as_deref()
            .is_some_and(|split| split.set.peek(is_same))
    }
}
