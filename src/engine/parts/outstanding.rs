//! Deliveries that are out on lease, in runs that were taken together.
//!
//! Neighbors in a batch that are leased at once are one entry of an arena, with a bit for each of
//! them. So a batch of leases costs about as much as one. The entry has a number that tells it from
//! the next tenant of its slot. Each delivery of a run is settled by itself or with others; the
//! entry goes with the last of them. A delivery that was tried before, or has a key, is a run of
//! one.

use crate::engine::parts::pending::Attempts;
use crate::engine::parts::pending::PendingDelivery;
use crate::message::batch::{Batch, BatchSlice};
use crate::message::{Address, Delivery, MessageId};
use crate::pure::order::sequencer::{Key, Taken};
use crate::pure::wheel::arena::Arena;
use crate::sync::{Arc, mutant};

/// Most deliveries of a run: it has a bit for each.
pub(crate) const RUN: usize = u64::BITS as usize;

/// A run that is out.
struct Leased<T> {
    number: u64,
    /// The deadline, by the clock of the timers.
    due_ns: u64,
    began_ns: u64,
    /// The deliveries that are out, one bit each, by the distance from the first.
    out: u64,
    key: Option<Key>,
    what: What<T>,
}

enum What<T> {
    /// First attempts: neighbors in a batch, from this place on.
    New {
        batch: Arc<Batch<T>>,
        from: u8,
    },
    Again(Box<PendingDelivery<T>>),
}

/// When a run was taken, and until when it is out.
#[derive(Clone, Copy)]
pub(crate) struct Span {
    pub(crate) began_ns: u64,
    /// The deadline, by the clock of the timers.
    pub(crate) due_ns: u64,
}

/// The proof that the holder of a run shows.
#[derive(Clone, Copy)]
struct Claim {
    slot: u32,
    number: u64,
}

/// Some deliveries of a run.
pub(crate) struct Chosen(u64);

/// A run for its holder: the deliveries of it that the holder still has.
pub(crate) struct Granted<T> {
    claim: Claim,
    pub(crate) due_ns: u64,
    pub(crate) began_ns: u64,
    pub(crate) batch: Arc<Batch<T>>,
    pub(crate) key: Option<Key>,
    /// The holder's deliveries, one bit each by the distance from the first, and their number.
    out: u64,
    count: u8,
    from: u8,
    pub(crate) is_first: bool,
    pub(crate) generation: u16,
    pub(crate) attempt: u32,
}

impl<T> Granted<T> {
    /// Returns how many deliveries the holder has.
    pub(crate) fn len(&self) -> usize {
        usize::from(self.count)
    }

    /// Returns the place of the first delivery in its batch.
    pub(crate) fn index(&self) -> usize {
        usize::from(self.from) + self.out.trailing_zeros() as usize
    }

    /// Returns the places of all deliveries.
    pub(crate) fn indices(&self) -> impl Iterator<Item = usize> + use<T> {
        let from = usize::from(self.from);
        bits(self.out).map(move |at| from + at as usize)
    }

    /// Returns the delivery at this place of the batch, as a handler would see it.
    pub(crate) fn delivery<'g>(
        &'g self,
        index: usize,
        address: Address<'g>,
        now_ns: u64,
    ) -> Delivery<'g, T> {
        Delivery {
            batch: &self.batch,
            index,
            attempt: self.attempt,
            generation: self.generation,
            address,
            now_ns,
        }
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = MessageId> {
        self.indices().map(|index| self.batch.stamp(index).id)
    }

    /// Returns the places again, by stretches of neighbors.
    pub(crate) fn stretches(&self) -> impl Iterator<Item = std::ops::Range<usize>> + use<T> {
        let (from, mut left) = (usize::from(self.from), self.out);
        std::iter::from_fn(move || {
            let begin = left.trailing_zeros();
            let length = left.checked_shr(begin)?.trailing_ones();
            left &= !mask(begin, length);
            let begin = from + begin as usize;
            Some(begin..begin + length as usize)
        })
    }

    /// Takes the first of several deliveries out, to be settled by itself.
    fn split_first(&mut self) -> Self {
        self.split(self.out.trailing_zeros())
    }

    /// Takes one delivery out.
    fn split(&mut self, at: u32) -> Self {
        let out = 1 << at;
        self.out &= !out;
        self.count -= 1;
        Self {
            batch: Arc::clone(&self.batch),
            out,
            count: 1,
            ..*self
        }
    }

    /// Takes the first delivery out of a run; `None` is left of a run of one.
    pub(crate) fn take_first(mut self) -> (Self, Option<Self>) {
        if self.len() == 1 {
            return (self, None);
        }
        (self.split_first(), Some(self))
    }

    /// Asks of each delivery whether it is `chosen`; takes nothing out yet.
    pub(crate) fn choose(&self, mut chosen: impl FnMut(usize) -> bool) -> Chosen {
        let from = usize::from(self.from);
        let chosen = bits(self.out).filter(|at| chosen(from + *at as usize));
        Chosen(chosen.fold(0, |all, at| all | 1 << at))
    }

    /// Takes the chosen deliveries out, each by itself.
    pub(crate) fn take_chosen(&mut self, chosen: Chosen) -> impl Iterator<Item = Self> {
        bits(chosen.0).map(|at| self.split(at))
    }
}

/// All runs that are out.
pub(crate) struct Outstanding<T> {
    runs: Arena<Leased<T>>,
    /// The number of deliveries in all runs.
    count: usize,
    /// The next run's number, and the leases granted so far.
    next: u64,
}

impl<T> Outstanding<T> {
    pub(crate) const NONE: Self = Self {
        runs: Arena::new(),
        count: 0,
        next: 0,
    };

    /// Returns how many deliveries are out.
    pub(crate) fn len(&self) -> usize {
        self.count
    }

    /// Returns how many leases were ever granted.
    pub(crate) fn granted(&self) -> u64 {
        self.next
    }

    /// Leases neighbors that were never tried, at most [`RUN`] of them. They have a key only if
    /// there is one of them.
    pub(crate) fn grant_new(
        &mut self,
        part: BatchSlice<T>,
        key: Option<Key>,
        span: Span,
    ) -> Granted<T> {
        let (count, from) = (part.len() as u8, part.from as u8);
        let what = What::New {
            batch: Arc::clone(&part.batch),
            from,
        };
        let attempt = part.batch.tried() + 1;
        let out = mask(0, u32::from(count));
        let claim = self.insert(out, count, key, what, span);
        Granted {
            claim,
            due_ns: span.due_ns,
            began_ns: span.began_ns,
            batch: part.batch,
            key,
            out,
            count,
            from,
            is_first: true,
            generation: 0,
            attempt,
        }
    }

    /// Leases a delivery that had been filed.
    pub(crate) fn grant(&mut self, taken: Taken<PendingDelivery<T>>, span: Span) -> Granted<T> {
        let Taken { key, mut item } = taken;
        if item.is_new() {
            return self.grant_new(item.into_part(), key, span);
        }
        let Attempts {
            number: attempt,
            is_first,
            ..
        } = item.begin(span.began_ns);
        let (batch, from, generation) = (Arc::clone(&item.batch), item.index, item.generation);
        let claim = self.insert(1, 1, key, What::Again(Box::new(item)), span);
        Granted {
            claim,
            due_ns: span.due_ns,
            began_ns: span.began_ns,
            batch,
            key,
            out: 1,
            count: 1,
            from,
            is_first,
            generation,
            attempt,
        }
    }

    fn insert(
        &mut self,
        out: u64,
        count: u8,
        key: Option<Key>,
        what: What<T>,
        span: Span,
    ) -> Claim {
        let number = self.next;
        self.next += u64::from(count);
        self.count += usize::from(count);
        let slot = self.runs.insert(Leased {
            number,
            due_ns: span.due_ns,
            began_ns: span.began_ns,
            out,
            key,
            what,
        });
        Claim { slot, number }
    }

    /// Finds the run of these deliveries, as long as they are the holder's.
    fn held(&mut self, granted: &Granted<T>, timer_ns: u64) -> Option<&mut Leased<T>> {
        let Claim { slot, number } = granted.claim;
        self.runs.get_mut(slot).filter(|leased| {
            let is_tenant = leased.number == number && leased.out & granted.out == granted.out;
            mutant!(is_tenant, "pull.tenant", true) && timer_ns < leased.due_ns
        })
    }

    /// Returns whether the holder's claim is not stale.
    pub(crate) fn holds(&mut self, granted: &Granted<T>, timer_ns: u64) -> bool {
        self.held(granted, timer_ns).is_some()
    }

    /// Takes out deliveries that are [held](Self::holds). The holder keeps the batch alive, so that
    /// nothing of the user's is dropped here.
    pub(crate) fn end(&mut self, granted: &Granted<T>) {
        let slot = granted.claim.slot;
        let Some(leased) = self.runs.get_mut(slot) else {
            return;
        };
        leased.out &= !granted.out;
        if leased.out == 0 {
            self.runs.vacate(slot);
        }
        self.count -= granted.len();
    }

    /// Takes this delivery out, unless its claim is stale.
    pub(crate) fn take(
        &mut self,
        granted: &Granted<T>,
        timer_ns: u64,
    ) -> Option<Taken<PendingDelivery<T>>> {
        let leased = self.held(granted, timer_ns)?;
        let is_last = leased.out == granted.out;
        leased.out &= !granted.out;
        self.count -= 1;
        let what = match is_last {
            true => Some(self.runs.remove(granted.claim.slot)?.what),
            false => None,
        };
        let item = match what {
            Some(What::Again(item)) => *item,
            _ => PendingDelivery::first(&granted.batch, granted.index(), granted.began_ns),
        };
        let key = granted.key;
        Some(Taken { key, item })
    }

    /// Takes this delivery out even if its deadline has passed, unless somebody else did.
    pub(crate) fn take_late(&mut self, granted: &Granted<T>) -> Option<Taken<PendingDelivery<T>>> {
        self.take(granted, 0)
    }

    /// Extends the lease of this delivery until `due_ns`, unless it was longer. The delivery leaves
    /// the run it was taken with. Returns `false` if the claim is stale.
    pub(crate) fn extend(&mut self, granted: &mut Granted<T>, due_ns: u64, timer_ns: u64) -> bool {
        let Some(leased) = self.held(granted, timer_ns) else {
            return false;
        };
        let due_ns = leased.due_ns.max(due_ns);
        if leased.out == granted.out {
            leased.due_ns = due_ns;
        } else {
            leased.out &= !granted.out;
            self.count -= 1;
            let began_ns = granted.began_ns;
            let part = BatchSlice {
                batch: Arc::clone(&granted.batch),
                from: granted.index() as u32,
                to: granted.index() as u32 + 1,
            };
            *granted = self.grant_new(part, granted.key, Span { began_ns, due_ns });
        }
        granted.due_ns = due_ns;
        true
    }

    /// Takes out deliveries that have outlived their deadline, with the time at which each was
    /// taken.
    pub(crate) fn take_overdue(&mut self, timer_ns: u64) -> Vec<(Taken<PendingDelivery<T>>, u64)> {
        let is_late = |leased: &Leased<T>| {
            let is_late = timer_ns >= leased.due_ns;
            mutant!(is_late, "pull.overdue", true)
        };
        let mut late = Vec::new();
        for leased in self.runs.extract(is_late) {
            let began_ns = leased.began_ns;
            leased.pass_each(|taken| late.push((taken, began_ns)));
        }
        self.count -= late.len();
        late
    }

    /// Takes everything out.
    pub(crate) fn drain(&mut self) -> Vec<PendingDelivery<T>> {
        self.count = 0;
        let mut all = Vec::new();
        for leased in self.runs.drain() {
            leased.pass_each(|taken| all.push(taken.item));
        }
        all
    }

    /// Returns the first deadline, if anything is out.
    pub(crate) fn first_due_ns(&self) -> Option<u64> {
        self.runs.values().map(|leased| leased.due_ns).min()
    }
}

impl<T> Leased<T> {
    fn pass_each(self, mut each: impl FnMut(Taken<PendingDelivery<T>>)) {
        let key = self.key;
        match self.what {
            What::Again(item) => each(Taken { key, item: *item }),
            What::New { batch, from } => {
                for at in bits(self.out) {
                    let index = usize::from(from) + at as usize;
                    let item = PendingDelivery::first(&batch, index, self.began_ns);
                    each(Taken { key, item });
                }
            }
        }
    }
}

/// Returns a mask of `length` bits, from `begin` on.
fn mask(begin: u32, length: u32) -> u64 {
    let ones = u64::MAX.checked_shr(u64::BITS - length).unwrap_or(0);
    ones << begin
}

fn bits(mut of: u64) -> impl Iterator<Item = u32> {
    std::iter::from_fn(move || {
        let at = of.trailing_zeros();
        (of != 0).then(|| of &= of - 1)?;
        Some(at)
    })
}
