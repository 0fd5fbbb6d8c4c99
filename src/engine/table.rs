//! A topic that is split into partitions, so that several workers can dispatch it
//! at once. What is the topic's stays the topic's: its ids, capacity, lanes and books.
//! A partition is a queue and a task. A message's way is key, partition, queue,
//! dispatcher, lane: each keeps the order of what it is given, and so the messages
//! of a key keep theirs.
//!
//! The number of partitions may change while traffic runs, and then a key may move
//! to another partition. Steps. The partitions there are at a time are a *table*,
//! which is replaced as a whole. A *publisher*, who has its ticket, finds its
//! partition in the current table and enters it: counts its messages into `entered`,
//! fences, and looks whether the table is still the current one. If it isn't, it
//! leaves again and tries the next. Otherwise it pushes. A *dispatcher* counts what it
//! has handed on, or dropped, into `left`, fences, and looks whether its table has been
//! replaced. If it has, and the partition is empty, it rings everybody. A *change* puts
//! the new table in the place of the old one, and rings everybody. The partitions of a
//! new table take messages, and dispatch none before the old table is empty: `left`
//! equals `entered` in all of its partitions.
//!
//! The feared interleavings. A publisher enters the old table while a dispatcher of the
//! new one finds it empty, so that an older message of a key follows a newer one: each
//! would have missed the other's step, which the fences exclude. The last message of the
//! old table leaves, and nobody tells the new one: who sees it leave has either seen the
//! change, and rings, or fenced before the change did, and then the new table's first
//! look, which comes after that fence, sees it gone. A message has left before it is in
//! its lanes: it is counted after the push.
//!
//! Two dispatchers may push into one lane at once. Both reserve first, in the order of
//! the list of lanes, and who comes short in one stops there and gives back what it has:
//! so who is first in the first of them goes on. One that finds a lane full because
//! another has taken what it then gives back, is rung by that, as by any release.
//! Model: `loom-tests/tests/models/partitions.rs`.

use std::ops::Deref;

use super::partition::Partition;
use super::pool::{After, Task, Worker};
use super::timer::Fire;
use super::topic::{Partitions, TopicCore, TopicSettings};
use crate::batch::{Meta, Parcel, Part};
use crate::config::Unkeyed;
use crate::engine::Engine;
use crate::error::PartitionsError;
use crate::event::EventKind;
use crate::pure::key_hash::key_hash;
use crate::pure::schedule::Then;
use crate::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use crate::sync::{Arc, CachePadded, Mutex, Slot, Weak, breakable, fence, thread_number};

/// How a topic is split.
pub(crate) struct Split<T> {
    table: Slot<Table<T>>,
    /// Held while the table is replaced.
    change: Mutex<()>,
    unkeyed: Unkeyed,
    /// Whose turn it is, under [`Unkeyed::RoundRobin`].
    turn: AtomicU64,
    /// Where the next ring begins: who is rung first is likely to get the room.
    first: AtomicUsize,
}

/// The partitions of a topic, as long as their number stands.
pub(crate) struct Table<T> {
    topic: Weak<TopicCore<T>>,
    lots: Box<[Arc<Lot<T>>]>,
    /// Messages that went to each in chunks, under [`Unkeyed::RoundRobin`].
    chunked: Box<[AtomicU64]>,
    /// The table before this one, until it is empty.
    before: Slot<Option<Arc<Table<T>>>>,
}

/// One partition of a topic that is split.
pub(crate) struct Lot<T> {
    table: Weak<Table<T>>,
    partition: Partition<T>,
    /// Messages that were pushed, or are about to be: they number its messages.
    entered: CachePadded<AtomicU64>,
    /// Messages that are in their lanes, or gone.
    left: AtomicU64,
}

/// What a dispatcher dispatches: all of a topic that is not split, or a partition.
pub(super) enum Source<'a, T> {
    Plain(&'a Partition<T>),
    Lot(&'a Table<T>, &'a Arc<Lot<T>>),
}

impl<T> Deref for Source<'_, T> {
    type Target = Partition<T>;

    fn deref(&self) -> &Partition<T> {
        match self {
            Self::Plain(partition) => partition,
            Self::Lot(_, lot) => &lot.partition,
        }
    }
}

impl<T: Send + Sync + 'static> Source<'_, T> {
    /// Whether the older messages of all its keys are in their lanes.
    pub(super) fn may_dispatch(&self) -> bool {
        match self {
            Self::Plain(_) => true,
            Self::Lot(table, _) => table.is_first(),
        }
    }

    /// Whether nothing is added to it any more.
    pub(super) fn is_replaced(&self, topic: &TopicCore<T>) -> bool {
        match self {
            Self::Plain(_) => false,
            Self::Lot(table, _) => !topic.is_current(table),
        }
    }

    /// So many of its messages are in their lanes, or gone.
    pub(super) fn leave(&self, topic: &TopicCore<T>, count: usize) {
        if let (Self::Lot(table, lot), Some(split)) = (self, &topic.split) {
            split.leave(topic, table, lot, count as u64);
        }
    }
}

impl<T: Send + Sync + 'static> Lot<T> {
    /// Messages that have left, and those that had entered by then or have since.
    pub(super) fn counts(&self) -> (u64, u64) {
        // ORDERING: acquire shows what was pushed into lanes before. This order,
        // so that the second is never less than the first.
        let left = self.left.load(Ordering::Acquire);
        (left, self.entered.load(Ordering::Relaxed))
    }

    pub(super) fn waiting(&self) -> u64 {
        let (left, entered) = self.counts();
        entered - left
    }

    fn ring(self: &Arc<Self>, engine: &Engine) {
        if self.partition.baton.notify() == Then::Enqueue {
            engine.pool.submit(Arc::clone(self) as _);
        }
    }

    /// Runs a turn for whoever holds the baton. A table that is gone was empty.
    fn run_claimed(self: &Arc<Self>, worker: &mut Worker<'_>) -> After {
        let table = self.table.upgrade();
        let topic = table.as_ref().and_then(|table| table.topic.upgrade());
        match (table, topic) {
            (Some(table), Some(topic)) => topic.run_claimed(&Source::Lot(&table, self), worker),
            _ => After::Rest,
        }
    }
}

impl<T: Send + Sync + 'static> Task for Lot<T> {
    fn run(self: Arc<Self>, worker: &mut Worker<'_>) {
        if self.partition.baton.start() {
            let then = self.run_claimed(worker);
            worker.put_down(self, then);
        }
    }

    fn has_news(&self) -> bool {
        self.waiting() > 0
    }
}

impl<T: Send + Sync + 'static> Fire for Lot<T> {
    /// A linger has ended, or something may have expired: it has no other deadlines.
    fn fire(self: Arc<Self>, _tag: u32) {
        let table = self.table.upgrade();
        if let Some(topic) = table.and_then(|table| table.topic.upgrade()) {
            self.ring(&topic.engine);
        }
    }
}

impl<T: Send + Sync + 'static> Table<T> {
    fn new(
        topic: Weak<TopicCore<T>>,
        settings: &TopicSettings,
        count: usize,
        before: Option<Arc<Self>>,
    ) -> Arc<Self> {
        Arc::new_cyclic(|table| {
            let lot = |_| {
                Arc::new(Lot {
                    table: Weak::clone(table),
                    partition: Partition::new(settings),
                    entered: CachePadded::new(AtomicU64::new(0)),
                    left: AtomicU64::new(0),
                })
            };
            Self {
                topic,
                lots: (0..count).map(lot).collect(),
                chunked: (0..count).map(|_| AtomicU64::new(0)).collect(),
                before: Slot::new(Arc::new(before)),
            }
        })
    }

    fn place(&self, hash: u64) -> usize {
        (hash % self.lots.len() as u64) as usize
    }

    /// The partition that has got the fewest messages in chunks. They are not of one
    /// size, so turns would not give all as many.
    fn place_of_chunk(&self) -> usize {
        let counts = self.chunked.iter().enumerate();
        let fewest = counts.min_by_key(|(_, count)| count.load(Ordering::Relaxed));
        fewest.map_or(0, |(place, _)| place)
    }

    /// Where these messages go, given their route.
    fn place_for(&self, route: Option<u64>, count: u64) -> usize {
        let Some(route) = route else {
            let place = self.place_of_chunk();
            self.chunked[place].fetch_add(count, Ordering::Relaxed);
            return place;
        };
        self.place(route)
    }

    /// Its partitions, beginning with this one.
    fn lots_from(&self, first: usize) -> impl Iterator<Item = &Arc<Lot<T>>> {
        let (before, from) = self.lots.split_at(first % self.lots.len());
        from.iter().chain(before)
    }

    /// Whether nothing of the table before it is left.
    fn is_first(&self) -> bool {
        if self.before.peek(Option::is_none) {
            return true;
        }
        // ORDERING: pairs with the fence in `enter`: who has entered the table before
        // this one, and stays, is seen here.
        fence(Ordering::SeqCst);
        let is_empty = |table: &Option<Arc<Self>>| {
            let mut lots = table.iter().flat_map(|table| &table.lots);
            lots.all(|lot| lot.waiting() == 0)
        };
        let is_first = breakable!(
            "partitions: two tables at once",
            self.before.peek(is_empty),
            true
        );
        if is_first {
            self.before.swap(Arc::new(None));
        }
        is_first
    }
}

impl<T: Send + Sync + 'static> Split<T> {
    pub(super) fn new(
        topic: &Weak<TopicCore<T>>,
        settings: &TopicSettings,
        Partitions { count, unkeyed }: Partitions,
    ) -> Self {
        let count = usize::from(count);
        Self {
            table: Slot::new(Table::new(Weak::clone(topic), settings, count, None)),
            change: Mutex::new(()),
            unkeyed,
            turn: AtomicU64::new(0),
            first: AtomicUsize::new(0),
        }
    }

    /// What says where so many messages that travel together go, whatever the number of
    /// partitions. `turns` is one for who will send them there, and none for who only
    /// asks. `None`: a chunk without a key, which goes by what the partitions have got.
    pub(super) fn route(&self, meta: Option<&Meta>, count: u64, turns: u64) -> Option<u64> {
        match (meta.and_then(|meta| meta.key.as_deref()), self.unkeyed) {
            (Some(key), _) => Some(key_hash(key)),
            (None, Unkeyed::RoundRobin) if count > 1 => None,
            (None, Unkeyed::RoundRobin) => Some(self.turn.fetch_add(turns, Ordering::Relaxed)),
            (None, Unkeyed::Sticky) => Some(thread_number()),
        }
    }

    /// Where a buffering publisher's messages go, whoever passes them on.
    pub(super) fn sticky_route(&self) -> Option<u64> {
        (self.unkeyed == Unkeyed::Sticky).then(thread_number)
    }

    /// Pushes an admitted parcel to where `route` says, and lets a dispatcher know.
    pub(super) fn enqueue(&self, topic: &TopicCore<T>, mut parcel: Parcel<T>, route: Option<u64>) {
        let route = route.or_else(|| self.route(parcel.meta(), parcel.len() as u64, 1));
        while let Err(back) = self
            .table
            .peek(|table| self.enter(topic, table, parcel, route))
        {
            parcel = back;
        }
        // A partition that waits for more must not wait for what finds no room.
        if topic.is_full() && !topic.strategy.peek(|strategy| strategy.is_immediate) {
            self.ring(&topic.engine);
        }
    }

    fn enter(
        &self,
        topic: &TopicCore<T>,
        table: &Table<T>,
        parcel: Parcel<T>,
        route: Option<u64>,
    ) -> Result<(), Parcel<T>> {
        let count = parcel.len() as u64;
        let lot = &table.lots[table.place_for(route, count)];
        let last = lot.entered.fetch_add(count, Ordering::Relaxed) + count;
        // ORDERING: pairs with the fence in `Table::is_first`; see the module's text.
        breakable!("partitions: enter without a fence", fence(Ordering::SeqCst));
        let is_current = breakable!(
            "partitions: enter without a second look",
            topic.is_current(table),
            true
        );
        if !is_current {
            self.leave(topic, table, lot, count);
            return Err(parcel);
        }
        if lot.partition.push(parcel, last) == Then::Enqueue {
            topic.engine.pool.submit(Arc::clone(lot) as _);
        }
        Ok(())
    }

    fn leave(&self, topic: &TopicCore<T>, table: &Table<T>, lot: &Lot<T>, count: u64) {
        // ORDERING: release, so that who finds the partition empty finds the lanes
        // filled. The fence pairs with the one that begins a turn; see the module's text.
        lot.left.fetch_add(count, Ordering::Release);
        breakable!("partitions: leave without a fence", fence(Ordering::SeqCst));
        if !topic.is_current(table) && lot.waiting() == 0 {
            breakable!(
                "partitions: an empty table that nobody hears of",
                self.ring(&topic.engine)
            );
        }
    }

    /// The current table, and the one before it if that is not empty.
    fn tables(&self) -> (Arc<Table<T>>, Option<Arc<Table<T>>>) {
        let table = self.table.load();
        let before = Option::clone(&table.before.load());
        (table, before)
    }

    /// Has every partition looked at that has something in it.
    pub(super) fn ring(&self, engine: &Engine) {
        // ORDERING: pairs with the fences of a publisher that we find in no partition,
        // and of a change that we miss: what we have to tell is seen by them.
        fence(Ordering::SeqCst);
        let first = self.first.fetch_add(1, Ordering::Relaxed);
        let (table, before) = self.tables();
        for table in before.iter().chain([&table]) {
            for lot in table.lots_from(first).filter(|lot| lot.waiting() > 0) {
                lot.ring(engine);
            }
        }
    }

    /// Whether nobody looks for more.
    pub(super) fn is_idle(&self) -> bool {
        let table = self.table.load();
        table.lots.iter().all(|lot| lot.partition.baton.is_idle())
    }

    /// Drops the oldest there is where so many messages would go, or else elsewhere; of
    /// the table before first.
    pub(super) fn drop_oldest(
        &self,
        topic: &TopicCore<T>,
        route: Option<u64>,
        meta: Option<&Meta>,
        wanted: u64,
    ) -> Option<Part<T>> {
        let route = route.or_else(|| self.route(meta, wanted, 0));
        let (table, before) = self.tables();
        before.iter().chain([&table]).find_map(|table| {
            let place = route.map_or_else(|| table.place_of_chunk(), |route| table.place(route));
            table.lots_from(place).find_map(|lot| {
                let source = Source::Lot(table, lot);
                let dropped = topic.drop_oldest(&source, wanted as u32);
                dropped.inspect(|part| source.leave(topic, part.len()))
            })
        })
    }

    /// Has every partition looked through for what has expired.
    pub(super) fn look_for_room(&self, topic: &Arc<TopicCore<T>>) -> bool {
        let (table, before) = self.tables();
        let mut has_room = false;
        for table in before.iter().chain([&table]) {
            for lot in &table.lots {
                let task = || Arc::clone(lot) as _;
                has_room |= topic.look_for_room(&Source::Lot(table, lot), task);
            }
        }
        has_room
    }

    /// Runs what no worker has in hand, after the broker has stopped.
    pub(super) fn end(&self, engine: &Engine) {
        let (table, before) = self.tables();
        for lot in before.iter().chain([&table]).flat_map(|table| &table.lots) {
            if lot.partition.baton.claim() {
                let worker = &mut Worker::new(engine);
                let then = lot.run_claimed(worker);
                worker.put_down(Arc::clone(lot) as _, then);
            }
        }
    }

    pub(crate) fn count(&self) -> usize {
        self.table.peek(|table| table.lots.len())
    }

    /// Messages in each partition.
    pub(crate) fn depths(&self) -> Vec<u64> {
        self.table
            .peek(|table| table.lots.iter().map(|lot| lot.waiting()).collect())
    }

    pub(crate) fn place_of(&self, key: &str) -> usize {
        self.table.peek(|table| table.place(key_hash(key)))
    }

    /// Changes the number of partitions.
    pub(crate) fn change(
        &self,
        topic: &Arc<TopicCore<T>>,
        to: usize,
    ) -> Result<(), PartitionsError> {
        let changing = self.change.lock();
        let old = self.table.load();
        let from = old.lots.len();
        if from == to {
            return Ok(());
        }
        if !old.is_first() {
            return Err(PartitionsError::Underway);
        }
        self.table.swap(Table::new(
            Arc::downgrade(topic),
            &topic.settings,
            to,
            Some(old),
        ));
        topic.tell(EventKind::PartitionsChanged { from, to });
        drop(changing);
        // What waits for more of the old table's waits in vain; and an old table that is
        // empty has nobody to say so.
        breakable!(
            "partitions: a change that nobody hears of",
            self.ring(&topic.engine)
        );
        Ok(())
    }
}

impl<T: Send + Sync + 'static> TopicCore<T> {
    fn is_current(&self, table: &Table<T>) -> bool {
        let is_same = |current: &Table<T>| std::ptr::eq(current, table);
        self.split
            .as_deref()
            .is_some_and(|split| split.table.peek(is_same))
    }
}
