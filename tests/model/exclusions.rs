//! What the model does not know.

use millstream::{LaneFull, OnExhausted, OnFailure, Overflow};

use crate::program::{Hands, How, Policy, Setup, Shape};

/// A store that no program fills.
const ROOMY: usize = 10_000;

/// The nearest settings of which the model can say what becomes of a message.
pub fn within_the_model(mut setup: Setup) -> Setup {
    if setup.partitions.is_some() {
        split_within(&mut setup);
    }
    setup.shapes = setup.shapes.map(shape_within);
    if setup.shapes.iter().any(|shape| shape.linger().is_some()) {
        setup.ttl = None;
    }
    if setup.shapes.iter().any(Shape::parks) {
        setup.letters = ROOMY;
    }
    setup
}

/// Between partitions there is no order: so no lane of a topic that is split is ever full,
/// nor is anything dropped or set aside that might as well be another message.
fn split_within(setup: &mut Setup) {
    // Room enough for several in each partition.
    setup.capacity *= 4;
    let most = setup.capacity;
    setup.partitions = setup.partitions.map(|partitions| partitions.min(most));
    if setup.overflow == Overflow::DropOldest {
        setup.overflow = Overflow::DropNewest;
    }
    if let How::Batched { .. } = setup.how {
        setup.how = How::Immediate;
    }
    for shape in &mut setup.shapes {
        shape.capacity = ROOMY;
        shape.when_full = LaneFull::Wait;
        shape.hold = None;
        if shape.takes_batches() {
            shape.hands = Hands::One;
        }
        if shape.on_failure == OnFailure::BlockSubscription {
            shape.on_failure = OnFailure::BlockKey;
        }
    }
}

fn shape_within(mut shape: Shape) -> Shape {
    let is_plain = shape.on_failure == OnFailure::Reorder && shape.hands == Hands::One;
    if !is_plain {
        shape.when_full = LaneFull::Wait;
    }
    match &mut shape.hands {
        Hands::One => {}
        Hands::Several(_) | Hands::Members(_) => {
            if shape.on_failure == OnFailure::BlockSubscription {
                shape.on_failure = OnFailure::BlockKey;
            }
        }
        Hands::Callers { credits, .. } => {
            *credits = match shape.on_failure {
                OnFailure::BlockSubscription => 1,
                _ => (*credits).min(shape.capacity),
            };
            // Which of them follow while nobody pulls depends on how they travel.
            shape.on_exhausted = OnExhausted::FreeKey;
        }
        Hands::Batches { size, linger } => {
            *size = (*size).min(shape.capacity);
            shape.on_failure = OnFailure::Reorder;
            shape.on_exhausted = OnExhausted::FreeKey;
            if linger.is_some() {
                // The topic would wait for the retries of a lane that the model doesn't know.
                shape.own = Some(Policy::NEVER_AGAIN);
            }
        }
    }
    let minds_keys = shape.on_failure == OnFailure::BlockKey || shape.is_shared();
    let hold = shape.hold.filter(|_| minds_keys);
    shape.hold = hold.map(|hold| hold.min(shape.capacity));
    shape
}
