//! Subscriptions whose order is to survive failures, or that several hands share.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fastrand::Rng;
use millstream::error::SubscribeError;
use millstream::protect::Priorities;
use millstream::{
    Batched, ConsumerGroup, Delivery, DeliveryBatch, Member, Nack, OnExhausted, OnFailure,
    Subscription, Unsubscribe, Unsubscribed,
};

use crate::faults::{Fault, Faults};
use crate::hands::{Hands, Keeps};
use crate::ledger::Ledger;
use crate::shot::Shot;
use crate::verdict::{check, fail};
use crate::witness::Seat;

/// Members that come and go, of one group, at a time.
const MEMBERS: usize = 3;

/// Who handles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// One at a time.
    Alone,
    /// Several calls of one handler.
    Several,
    /// Members of a group.
    Members,
}

/// How such a subscription is made.
#[derive(Clone, Debug)]
pub struct Style {
    pub name: String,
    pub who: Who,
    pub mode: OnFailure,
    pub exhausted: OnExhausted,
    pub keeps: Keeps,
    pub capacity: usize,
    /// So many of a thousand calls fail.
    pub of_1000: u32,
    /// Some of those by a panic.
    pub panics: bool,
}

/// Subscriptions by the beginning of their names: what may be redriven without
/// tearing their order.
pub const PARKS: &str = "parks";
pub const SWITCHED: &str = "switched";

impl Style {
    /// All that there are at a time, as far as the faults ask for them.
    pub fn all(faults: Faults, random: &mut Rng) -> Vec<Self> {
        use {Keeps::Everything, Keeps::Keys, Keeps::Nothing};
        use {OnExhausted::FreeKey, OnExhausted::ParkKey};
        use {OnFailure::BlockKey, OnFailure::BlockSubscription, OnFailure::Reorder};
        let alone = [
            ("blocks", BlockKey, FreeKey, Keys),
            ("stands", BlockSubscription, FreeKey, Everything),
            (PARKS, BlockKey, ParkKey, Keys),
            (SWITCHED, Reorder, FreeKey, Nothing),
        ];
        let shared = [
            ("blocks", BlockKey, FreeKey, Keys),
            (PARKS, BlockKey, ParkKey, Keys),
            (SWITCHED, Reorder, FreeKey, Nothing),
        ];
        let mut all = Vec::new();
        let mut add = |who, kinds: &[(&str, OnFailure, OnExhausted, Keeps)]| {
            for (name, mode, exhausted, keeps) in kinds {
                all.push(Self {
                    name: format!("{name}-{who:?}").to_lowercase(),
                    who,
                    mode: *mode,
                    exhausted: *exhausted,
                    keeps: *keeps,
                    capacity: [16, 64][random.usize(..2)],
                    of_1000: [0, 50, 500][random.usize(..3)],
                    panics: faults.has(Fault::Panics),
                });
            }
        };
        if faults.has(Fault::Order) {
            add(Who::Alone, &alone);
        }
        if faults.has(Fault::Groups) {
            add(Who::Several, &shared);
            add(Who::Members, &shared);
        }
        all
    }
}

fn priorities(random: &mut Rng) -> Priorities {
    match random.u32(..3) {
        0 => Priorities::weighted(),
        1 => Priorities::strict(),
        _ => Priorities::strict().aging(Duration::from_millis(random.u64(1..20))),
    }
}

/// Whom the engine has given the subscription to.
enum Held {
    One(Subscription),
    Group(ConsumerGroup<Shot>),
}

/// The end of a member.
#[derive(Clone, Default)]
struct End {
    /// The handler has been dropped.
    gone: Arc<AtomicBool>,
    /// No call may come any more.
    told: Arc<AtomicBool>,
}

/// Lives in a member's handler.
struct Joined {
    hands: Arc<Hands>,
    end: End,
}

impl Joined {
    fn call(&self, delivery: &Delivery<'_, Shot>) -> Result<(), Nack> {
        let told = self.end.told.load(Relaxed);
        check(!told, "members", format_args!("{delivery:?} after the end"));
        self.hands.call(delivery)
    }
}

impl Drop for Joined {
    fn drop(&mut self) {
        self.end.gone.store(true, Relaxed);
    }
}

/// A subscription and those who handle it.
pub struct Crowd {
    seat: Arc<Seat>,
    hands: Arc<Hands>,
    style: Style,
    held: Held,
    members: Mutex<Vec<(Member, End)>>,
    joined: AtomicU64,
    /// Says which kind of handler the next member has.
    kinds: AtomicU64,
}

impl Crowd {
    pub fn open(ledger: &Ledger, style: Style, random: &mut Rng) -> Result<Self, SubscribeError> {
        let seat = ledger.seat(style.name.clone(), style.capacity);
        let hands = Hands::new(&seat, &style, random);
        let topic = ledger.topic();
        let builder = topic
            .subscription(&style.name)
            .capacity(style.capacity)
            .on_failure(style.mode)
            .on_exhausted(style.exhausted);
        // Whatever its levels are, the order that a style keeps has to stand.
        let builder = match style.mode != OnFailure::BlockSubscription && random.bool() {
            true => builder.priorities(priorities(random)),
            false => builder,
        };
        let handler = {
            let hands = Arc::clone(&hands);
            move |delivery: &Delivery<'_, Shot>| hands.call(delivery)
        };
        let held = match style.who {
            Who::Alone => Held::One(builder.subscribe(handler)?),
            Who::Several => Held::One(builder.concurrency(3).subscribe_shared(handler)?),
            Who::Members => Held::Group(builder.group()?),
        };
        ledger.join(&seat);
        let crowd = Self {
            seat,
            hands,
            style,
            held,
            members: Mutex::default(),
            joined: AtomicU64::new(0),
            kinds: AtomicU64::new(random.u64(..)),
        };
        // One is there from the first message to the last.
        if let Some((member, _)) = crowd.join(2) {
            member.detach();
        }
        Ok(crowd)
    }

    fn join(&self, concurrency: usize) -> Option<(Member, End)> {
        let Held::Group(group) = &self.held else {
            return None;
        };
        let end = End::default();
        let joined = Joined {
            hands: Arc::clone(&self.hands),
            end: end.clone(),
        };
        let name = format!("member-{}", self.joined.fetch_add(1, Relaxed));
        let member = group.member(&name);
        let each = move |delivery: &Delivery<'_, Shot>| joined.call(delivery);
        // After the end it is refused.
        let member = match self.kinds.fetch_add(1, Relaxed) % 3 {
            #[cfg(feature = "async")]
            1 => member.concurrency(concurrency).join_async(move |delivery| {
                let outcome = each(&delivery.delivery());
                async move { outcome }
            }),
            2 => {
                let batches = Batched::of(1 + concurrency).linger(Duration::from_micros(300));
                member.join_batches(batches, move |batch| call_each(batch, &each))
            }
            _ => member.concurrency(concurrency).join_shared(each),
        };
        let member = member.ok()?;
        Some((member, end))
    }

    /// Changes what can be changed.
    pub fn meddle(&self, random: &mut Rng) {
        match self.style.who {
            Who::Alone => {}
            Who::Several => {
                // After the end there is nobody to set it for.
                if let Held::One(subscription) = &self.held {
                    let _ = subscription.set_concurrency(random.usize(1..=4));
                }
            }
            Who::Members => self.come_or_go(random),
        }
        // Refused where all wait for all, and with a bound on what is held.
        let priorities = random.bool().then(|| priorities(random));
        let _ = match &self.held {
            Held::One(subscription) => subscription.set_priorities(priorities),
            Held::Group(group) => group.set_priorities(priorities),
        };
        if self.style.keeps == Keeps::Nothing {
            self.switch(random);
        }
    }

    fn switch(&self, random: &mut Rng) {
        let set_mode = |mode| match &self.held {
            Held::One(subscription) => subscription.set_on_failure(mode),
            Held::Group(group) => group.set_on_failure(mode),
        };
        let set_exhausted = |then| match &self.held {
            Held::One(subscription) => subscription.set_on_exhausted(then),
            Held::Group(group) => group.set_on_exhausted(then),
        };
        // What makes no sense together is refused.
        let _ = match random.u32(..5) {
            0 => set_mode(OnFailure::Reorder),
            1 => set_mode(OnFailure::BlockSubscription),
            2 => set_mode(OnFailure::BlockKey),
            3 => set_exhausted(OnExhausted::FreeKey),
            _ => set_exhausted(OnExhausted::ParkKey),
        };
        let hold = random.usize(1..=self.style.capacity);
        let _ = match &self.held {
            Held::One(subscription) => subscription.set_hold(hold),
            Held::Group(group) => group.set_hold(hold),
        };
        let capacity = random.usize(1..=self.style.capacity);
        let _ = match &self.held {
            Held::One(subscription) => subscription.set_capacity(capacity),
            Held::Group(group) => group.set_capacity(capacity),
        };
    }

    fn come_or_go(&self, random: &mut Rng) {
        let mut members = self.members.lock().expect("nothing panics in here");
        if members.len() < MEMBERS {
            members.extend(self.join(random.usize(1..=3)));
            return;
        }
        let (member, end) = members.swap_remove(random.usize(..MEMBERS));
        drop(members);
        match random.u32(..4) {
            0 => drop(member),
            1 => {
                // After the end there is nobody to set it for.
                let _ = member.set_concurrency(random.usize(1..=4));
                let mut members = self.members.lock().expect("nothing panics in here");
                members.push((member, end));
            }
            _ => {
                member.leave();
                end.told.store(true, Relaxed);
                let gone = end.gone.load(Relaxed);
                check(gone, "members", "a handler is there after it has left");
            }
        }
    }

    /// Ends it.
    pub fn end(self, mode: Unsubscribe) {
        let Self {
            seat, hands, held, ..
        } = self;
        let ended = match held {
            Held::One(subscription) => subscription.unsubscribe(mode),
            Held::Group(group) => group.unsubscribe(mode),
        };
        drop(hands);
        match ended {
            Unsubscribed::Ended(last) => seat.end(&last.counts),
            _ => fail("unsubscribe", "it did not wait outside of a handler"),
        }
    }
}

/// Calls a handler for each delivery of a batch, and nacks those that fail. A panic is that
/// of one delivery.
fn call_each(
    batch: &mut DeliveryBatch<'_, Shot>,
    each: &impl Fn(&Delivery<'_, Shot>) -> Result<(), Nack>,
) -> Result<(), Nack> {
    for at in 0..batch.len() {
        let Some(delivery) = batch.get(at) else {
            continue;
        };
        let called = catch_unwind(AssertUnwindSafe(|| each(&delivery)));
        let outcome = called.unwrap_or_else(|bomb| {
            // It may go off when it is dropped.
            let _ = catch_unwind(AssertUnwindSafe(|| drop(bomb)));
            Err(Nack::retry("a panic"))
        });
        if let Err(nack) = outcome {
            batch.nack(at, nack);
        }
    }
    Ok(())
}
