//! How settings and steps become such as the model knows.

use millstream::{LaneFull, OnExhausted, OnFailure, Overflow};

use crate::program::{Hands, How, Policy, SLOTS, Scope, Setup, Shape, Step};
use crate::reference::Model;

/// What no program fills.
const ROOMY: usize = 10_000;

fn lingers(setup: &Setup) -> bool {
    setup.shapes.iter().any(|shape| shape.linger().is_some())
}

/// Settings that the engine refuses become such as it takes.
pub fn sound(setup: &mut Setup) {
    for shape in &mut setup.shapes {
        if shape.is_shared() && shape.on_failure == OnFailure::BlockSubscription {
            shape.on_failure = OnFailure::BlockKey;
        }
        match &mut shape.hands {
            Hands::Callers { credits, .. } if shape.on_failure == OnFailure::BlockSubscription => {
                *credits = 1;
            }
            Hands::Callers { credits, .. } => *credits = (*credits).min(shape.capacity),
            Hands::Batches { size, .. } => *size = (*size).min(shape.capacity),
            _ => {}
        }
        let minds_keys = shape.on_failure == OnFailure::BlockKey || shape.is_shared();
        let hold = shape.hold.filter(|_| minds_keys);
        shape.hold = hold.map(|hold| hold.min(shape.capacity));
    }
    let most = setup.capacity;
    setup.partitions = setup.partitions.map(|partitions| partitions.min(most));
}

/// A lane that drops has a plain handler.
pub fn dropping_lanes_are_plain(setup: &mut Setup) {
    for shape in &mut setup.shapes {
        if shape.on_failure != OnFailure::Reorder || shape.hands != Hands::One {
            shape.when_full = LaneFull::Wait;
        }
    }
}

/// A lane that conflates has a plain handler, and room for all.
pub fn conflating_lanes_are_plain_and_roomy(setup: &mut Setup) {
    for shape in setup.shapes.iter_mut().filter(|shape| shape.conflates) {
        shape.hands = Hands::One;
        shape.on_failure = OnFailure::Reorder;
        shape.on_exhausted = OnExhausted::FreeKey;
        shape.capacity = ROOMY;
        shape.when_full = LaneFull::Wait;
        shape.hold = None;
    }
}

/// A lane that takes by level has no bound on what it sets aside, and neither drops nor parks.
pub fn levels_choose_from_all(setup: &mut Setup) {
    for shape in &mut setup.shapes {
        let is_pulled = matches!(shape.hands, Hands::Callers { .. });
        let is_odd = shape.parks() || shape.takes_batches() || !shape.is_exact();
        let blocks_all = shape.on_failure == OnFailure::BlockSubscription;
        shape.by_level &= !(is_pulled || is_odd || blocks_all);
        if shape.by_level {
            shape.hold = None;
        }
    }
}

/// What takes batches minds no keys.
pub fn batches_mind_no_keys(setup: &mut Setup) {
    let takes_batches = |shape: &&mut Shape| shape.takes_batches();
    for shape in setup.shapes.iter_mut().filter(takes_batches) {
        shape.on_failure = OnFailure::Reorder;
        shape.on_exhausted = OnExhausted::FreeKey;
    }
}

/// A batch that lingered never retries: the topic would wait for it. Nor does what might have been
/// replaced.
pub fn what_is_not_predicted_never_retries(setup: &mut Setup) {
    for shape in &mut setup.shapes {
        if shape.linger().is_some() || shape.conflates {
            shape.own = Some(Policy::NEVER_AGAIN);
        }
    }
}

pub fn what_is_not_predicted_goes_on_never_retrying(model: &Model, step: &mut Step) -> bool {
    let Step::SetOwnRetry(slot, _) = *step else {
        return true;
    };
    let shape = &model.setup.shapes[slot];
    shape.linger().is_none() && !shape.conflates
}

pub fn nothing_expires_where_batches_linger(setup: &mut Setup) {
    if lingers(setup) {
        setup.ttl = None;
    }
}

pub fn no_message_expires_where_batches_linger(model: &Model, step: &mut Step) -> bool {
    if let Step::Publish(_, ttl) | Step::PublishMessages(_, _, ttl) = step
        && lingers(&model.setup)
    {
        *ttl = None;
    }
    true
}

pub fn no_gate_closes_where_batches_linger(model: &Model, step: &mut Step) -> bool {
    let lingers = |slot: &usize| model.setup.shapes[*slot].linger().is_some();
    match step {
        Step::SetPaused(Scope::Subscription(slot), true) | Step::HoldOff(slot, _) => !lingers(slot),
        Step::SetPaused(_, true) => !(0..SLOTS).any(|slot| lingers(&slot)),
        _ => true,
    }
}

pub fn gates_that_count_are_of_lanes_that_are_predicted(model: &Model, step: &mut Step) -> bool {
    let (Step::SetRate(slot, _) | Step::Break(slot, _)) = *step else {
        return true;
    };
    let shape = &model.setup.shapes[slot];
    shape.is_exact() && !shape.takes_batches() && !shape.parks()
}

pub fn no_breaker_of_callers(model: &Model, step: &mut Step) -> bool {
    let Step::Break(slot, _) = *step else {
        return true;
    };
    !matches!(model.setup.shapes[slot].hands, Hands::Callers { .. })
}

pub fn no_other_rate_after_a_hold_off(model: &Model, step: &mut Step) -> bool {
    let Step::SetRate(slot, _) = *step else {
        return true;
    };
    let mut lanes = model.open();
    !lanes.any(|lane| lane.slot == slot && lane.gate.is_held_off)
}

pub fn no_flush_of_batches(model: &Model, step: &mut Step) -> bool {
    let mut shapes = model.setup.shapes.iter();
    let is_flush = matches!(step, Step::Flush);
    !is_flush || !shapes.any(|shape| shape.is_exact() && shape.takes_batches())
}

/// Where a key may be parked, the store is never full.
pub fn parking_stores_are_roomy(setup: &mut Setup) {
    if setup.shapes.iter().any(Shape::parks) {
        setup.letters = ROOMY;
    }
}

pub fn callers_park_no_keys(setup: &mut Setup) {
    for shape in &mut setup.shapes {
        if let Hands::Callers { .. } = shape.hands {
            shape.on_exhausted = OnExhausted::FreeKey;
        }
    }
}

/// No lane of a topic that is split is ever full, nor is anything dropped or set aside that
/// might as well be a message of another partition.
pub fn split_topics_have_room(setup: &mut Setup) {
    if setup.partitions.is_none() {
        return;
    }
    // Room for several messages in each partition.
    setup.capacity *= 4;
    if setup.overflow == Overflow::DropOldest {
        setup.overflow = Overflow::DropNewest;
    }
    for shape in &mut setup.shapes {
        shape.capacity = ROOMY;
        shape.when_full = LaneFull::Wait;
        shape.hold = None;
        shape.conflates = false;
        if shape.takes_batches() {
            shape.hands = Hands::One;
        }
        if shape.on_failure == OnFailure::BlockSubscription {
            shape.on_failure = OnFailure::BlockKey;
        }
    }
}

/// No batches of the topic's where it is split, evicts or has delayed messages.
pub fn batches_are_of_whole_topics(model: &Model, step: &mut Step) -> bool {
    let setup = &model.setup;
    let is_unsure = setup.overflow == Overflow::DropOldest
        || !model.delayed.is_empty()
        || setup.partitions.is_some();
    if let Step::Swap(how) = step
        && matches!(how, How::Batched { .. })
        && is_unsure
    {
        *how = How::OneByOne;
    }
    true
}

/// A topic that is split, or whose strategy collects, keeps how much it takes, and what it drops.
pub fn split_topics_and_evictions_of_batches_stay(model: &Model, step: &mut Step) -> bool {
    let is_split = model.setup.partitions.is_some();
    let collects = matches!(model.how, How::Batched { .. });
    match step {
        Step::SetCapacity(_) => !is_split,
        Step::SetOverflow(Overflow::DropOldest) => !is_split && !collects,
        _ => true,
    }
}

pub fn no_delay_with_batches(model: &Model, step: &mut Step) -> bool {
    let is_delayed = matches!(step, Step::PublishAfter(_));
    !is_delayed || !matches!(model.how, How::Batched { .. })
}

pub fn no_delay_where_the_order_is_that_of_ids(model: &Model, step: &mut Step) -> bool {
    let files = |shape: &Shape| {
        let blocks = shape.on_failure == OnFailure::BlockSubscription;
        blocks || matches!(shape.hands, Hands::Callers { .. })
    };
    let is_delayed = matches!(step, Step::PublishAfter(_));
    !is_delayed || !model.setup.shapes.iter().any(files)
}

pub fn split_topics_do_not_weigh(setup: &mut Setup) {
    if setup.partitions.is_some() {
        setup.weight_limit = None;
    }
}

pub fn split_topics_keep_nothing(setup: &mut Setup) {
    if setup.partitions.is_some() {
        setup.retain = None;
    }
}
