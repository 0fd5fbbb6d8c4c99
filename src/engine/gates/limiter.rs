//! A limit on calls of handlers, shared by several subscriptions.
//!
//! [`LimitState`] decides who gets the next permit. Here are the threads: a lane that is offered a
//! permit is scheduled, after the lock is released. It is known by a weak reference, so
//! that a limiter keeps nothing alive.

use std::collections::HashMap;
use std::fmt;

use crate::engine::wait::fire::{Fire, Tag};
use crate::pure::protect::limit::adaptive::{Adaptive, AdaptiveState, Load};
use crate::pure::protect::limit::{LimitState, Take};
use crate::sync::{Arc, Mutex, Weak};
use crate::types::error::SettingError;

/// The number of a lane at a limiter.
pub(crate) type LaneNumber = u64;

/// A limit on how many calls of handlers run at once, which several subscriptions share.
///
/// It protects what their handlers have in common: a pool of connections, a service that bears so
/// many requests. Each running call has one of the permits. So does a call for a batch, and a worker
/// that calls a handler for a few deliveries in a row. Subscriptions that wait for a permit get one
/// by turns, whatever their number of deliveries. While one waits, no attempt is made and no worker
/// is kept.
///
/// Clones are handles to the same limit. Subscriptions of several brokers may share one.
///
/// ```
/// use millstream::protect::Limiter;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let broker = millstream::Broker::new()?;
/// let (orders, refunds) = (broker.topic::<u64>("orders").open()?, broker.topic::<u64>("refunds").open()?);
/// let bank = Limiter::new(4)?;
/// let _pay = orders
///     .subscription("pay")
///     .concurrency(8)
///     .limiter(&bank)
///     .subscribe_shared(|_| Ok(()))?;
/// let _refund = refunds.subscription("refund").limiter(&bank).subscribe(|_| Ok(()))?;
/// assert_eq!(bank.in_use(), 0);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Limiter(Arc<Mutex<State>>);

struct State {
    permits: LimitState<LaneNumber>,
    /// It sets the limit, if the limit adapts.
    adaptive: Option<AdaptiveState>,
    /// The lanes that take permits.
    lanes: HashMap<LaneNumber, Weak<dyn Fire>>,
    last_number: LaneNumber,
}

impl Limiter {
    /// Returns a limit of so many calls at once.
    ///
    /// # Errors
    ///
    /// Returns [`SettingError`] for zero, which would let nothing pass.
    pub fn new(calls: u32) -> Result<Self, SettingError> {
        check(calls)?;
        Ok(Self::of(calls, None))
    }

    /// Returns a limit that finds its own size.
    ///
    /// # Errors
    ///
    /// Returns [`SettingError`] for bounds that contradict each other or let nothing pass.
    pub fn adaptive(settings: Adaptive) -> Result<Self, SettingError> {
        settings.check()?;
        let adaptive = AdaptiveState::new(settings, 0);
        Ok(Self::of(adaptive.limit(), Some(adaptive)))
    }

    fn of(calls: u32, adaptive: Option<AdaptiveState>) -> Self {
        Self(Arc::new(Mutex::new(State {
            permits: LimitState::new(calls),
            adaptive,
            lanes: HashMap::new(),
            last_number: 0,
        })))
    }

    /// Returns how many calls may run at once now.
    pub fn limit(&self) -> u32 {
        self.0.lock().permits.limit()
    }

    /// Returns how many permits are taken, or about to be.
    pub fn in_use(&self) -> u32 {
        self.0.lock().permits.out()
    }

    /// Sets how many calls may run at once, while traffic runs.
    ///
    /// Calls that run go on, even if they are more. A limit that adapts goes on from there at its
    /// next step.
    ///
    /// # Errors
    ///
    /// Returns [`SettingError`] for zero.
    pub fn set_limit(&self, calls: u32) -> Result<(), SettingError> {
        check(calls)?;
        let mut state = self.0.lock();
        let offered = state.permits.set_limit(calls);
        let woken = state.find(offered);
        drop(state);
        woken.wake();
        Ok(())
    }

    /// Returns a number for a lane that takes permits from now on.
    pub(crate) fn join(&self, lane: Weak<dyn Fire>) -> LaneNumber {
        let mut state = self.0.lock();
        state.last_number += 1;
        let number = state.last_number;
        state.lanes.insert(number, lane);
        number
    }

    /// Takes up to `wanted` permits. Puts the lane in line if there are fewer.
    pub(crate) fn take(&self, number: LaneNumber, wanted: u32) -> u32 {
        let mut state = self.0.lock();
        for taken in 0..wanted {
            if state.permits.try_take(number) == Take::Queued {
                if let Some(adaptive) = &mut state.adaptive {
                    adaptive.reached();
                }
                return taken;
            }
        }
        wanted
    }

    /// Gives permits back, used or not.
    pub(crate) fn give_back(&self, count: u32) -> Woken {
        let mut state = self.0.lock();
        let offered: Vec<_> = (0..count)
            .filter_map(|_| state.permits.give_back())
            .collect();
        state.find(offered)
    }

    /// Takes a lane out of the line, and passes on what it was offered.
    pub(crate) fn leave_line(&self, number: LaneNumber) -> Woken {
        let mut state = self.0.lock();
        let offered = state.permits.leave(number);
        state.find(offered)
    }

    /// Forgets a lane, which has given all its permits back.
    pub(crate) fn part(&self, number: LaneNumber) {
        let lane = self.0.lock().lanes.remove(&number);
        // The last reference to a lane may go with it.
        drop(lane);
        self.leave_line(number).wake();
    }

    /// Notes how calls have ended, for a limit that adapts.
    pub(crate) fn note_ends(&self, began_ns: u64, loads: impl Iterator<Item = Load>, now_ns: u64) {
        let mut state = self.0.lock();
        let Some(adaptive) = &mut state.adaptive else {
            return;
        };
        let limits = loads.filter_map(|load| adaptive.end(began_ns, load, now_ns));
        let Some(limit) = limits.last() else {
            return;
        };
        let offered = state.permits.set_limit(limit);
        let woken = state.find(offered);
        drop(state);
        woken.wake();
    }

    /// Returns whether the two are handles to one limit.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl State {
    fn find(&self, seats: impl IntoIterator<Item = LaneNumber>) -> Woken {
        let found = |number| self.lanes.get(&number).and_then(Weak::upgrade);
        let lanes: Vec<_> = seats.into_iter().filter_map(found).collect();
        Woken((!lanes.is_empty()).then_some(lanes))
    }
}

/// Lanes that were offered a permit, and are to look.
#[derive(Default)]
#[must_use = "the lanes wait to be woken"]
pub(crate) struct Woken(Option<Vec<Arc<dyn Fire>>>);

impl Woken {
    /// Has them look. No lock may be held: the last reference to a lane may go here.
    #[inline(always)]
    pub(crate) fn wake(self) {
        if let Some(lanes) = self.0 {
            lanes.into_iter().for_each(|lane| lane.fire(Tag::Look));
        }
    }

    pub(crate) fn add(&mut self, others: Self) {
        if let Some(others) = others.0 {
            self.0.get_or_insert_default().extend(others);
        }
    }
}

fn check(calls: u32) -> Result<(), SettingError> {
    match calls {
        0 => {
            let rule = "must be at least 1; to let nothing pass, pause";
            Err(SettingError::new("limit", 0, rule))
        }
        _ => Ok(()),
    }
}

impl fmt::Debug for Limiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.0.lock();
        f.debug_struct("Limiter")
            .field("limit", &state.permits.limit())
            .field("in_use", &state.permits.out())
            .finish_non_exhaustive()
    }
}
