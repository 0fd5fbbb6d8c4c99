//! Members of a group that is subscribed to patterns: each is a member in every topic.

use crate::engine::base::contain::discard;
use crate::engine::state::lane::Lane;
use crate::engine::state::slots::{MakeSlots, Member};
use crate::observe::metrics::MemberMetrics;
use crate::pure::words::room::Phase;
use crate::sync::{Arc, Mutex};

/// A member in all topics of a subscription to patterns.
pub(crate) struct PatternMember<T> {
    pub(crate) name: Arc<str>,
    joined: Mutex<Joined<T>>,
}

/// A lane, and the member as it is there.
type InLane<T> = (Arc<Lane<T>>, Arc<Member<T>>);

struct Joined<T> {
    /// The function is `None` from the moment at which the member begins to leave.
    make: Option<MakeSlots<T>>,
    /// How many calls run at once in each topic, or `None` for a handler of one call at a time.
    concurrency: Option<usize>,
    lanes: Vec<InLane<T>>,
}

impl<T: Send + Sync + 'static> PatternMember<T> {
    /// Makes a member that has no lane yet.
    pub(crate) fn new(name: Arc<str>, concurrency: Option<usize>, make: MakeSlots<T>) -> Self {
        Self {
            name,
            joined: Mutex::new(Joined {
                make: Some(make),
                concurrency,
                lanes: Vec::new(),
            }),
        }
    }

    /// Returns whether its handler takes batches. Only such a handler is for one call at a time.
    pub(crate) fn takes_batches(&self) -> bool {
        self.joined.lock().concurrency.is_none()
    }

    /// Joins a lane, unless it has begun to leave.
    pub(crate) fn join(&self, lane: &Arc<Lane<T>>) {
        let mut joined = self.joined.lock();
        joined.lanes.retain(|(lane, _)| !lane.is_retired());
        let (Some(make), Some(keyed)) = (&joined.make, lane.keyed()) else {
            return;
        };
        let slots = make(joined.concurrency.unwrap_or(1));
        if let Some(member) = keyed.add_member(Arc::clone(&self.name), slots) {
            joined.lanes.push((Arc::clone(lane), member));
        }
    }

    /// Joins no more lanes, and lets go of its own reference to the handler.
    pub(crate) fn release_handler(&self) {
        let make = self.joined.lock().make.take();
        discard(make);
    }

    /// Leaves the lanes that have begun to end. The end of a lane may have passed by before the
    /// member was there.
    pub(crate) fn leave_ending(&self) {
        self.leave_lanes(|lane| lane.phase() != Phase::Open);
    }

    /// Begins to leave all lanes, and joins no others.
    pub(crate) fn begin_to_leave(&self) {
        self.release_handler();
        self.leave_lanes(|_| true);
    }

    fn leave_lanes(&self, chosen: impl Fn(&Arc<Lane<T>>) -> bool) {
        let lanes = self.joined.lock().lanes.clone();
        for (lane, member) in lanes {
            if chosen(&lane)
                && let Some(keyed) = lane.keyed()
            {
                keyed.remove_member(&member);
            }
        }
    }

    /// Returns whether no call of its handler runs or will start, and the handler is gone.
    pub(crate) fn has_left(&self) -> bool {
        let joined = self.joined.lock();
        joined.make.is_none() && joined.lanes.iter().all(|(_, member)| member.has_left())
    }

    /// Changes how many calls run at once in each topic. Returns `false` if its handler is for one
    /// call at a time.
    pub(crate) fn resize(&self, concurrency: usize) -> bool {
        let mut joined = self.joined.lock();
        match &mut joined.concurrency {
            Some(present) => *present = concurrency,
            None => return false,
        }
        let lanes = joined.lanes.clone();
        drop(joined);
        for (lane, member) in lanes {
            if let Some(keyed) = lane.keyed() {
                keyed.resize(&member, concurrency);
            }
        }
        true
    }

    /// Returns the sum of its work over all topics.
    pub(crate) fn read_metrics(&self) -> MemberMetrics {
        let joined = self.joined.lock();
        let mut sum = MemberMetrics {
            name: self.name.to_string(),
            ..MemberMetrics::default()
        };
        for (lane, member) in &joined.lanes {
            sum.add(&member.read_metrics(lane.engine().clock.now_ns()));
        }
        sum
    }
}
