//! Making a lane with its consumers.

use crate::engine::gates::protection::ProtectionSettings;
#[cfg(feature = "log")]
use crate::engine::journal::lane_log::LaneLog;
use crate::engine::parts::handler::{Handler, SharedFilter};
use crate::engine::parts::leases::Leasing;
use crate::engine::state::keyed::{Consumers, Keyed};
use crate::engine::state::lane::{Calling, Lane, LaneSettings, Policy, Turn};
use crate::engine::state::slots::{Shared, Slots};
use crate::engine::state::topic::TopicCore;
use crate::engine::wait::waiters::Waiters;
use crate::pure::order::rules::Rules;
use crate::sync::Arc;
use crate::types::config::LaneFull;

/// The consumers that a lane is made with.
pub(crate) enum Equipment<T> {
    /// The lane's own runner, with its handler.
    Runner(Handler<T>),
    /// The slots of a handler that several calls share.
    Slots(Shared<T>),
    /// Members, who join later, and how many calls each has unless it says otherwise.
    Members(u16),
    /// Callers that pull, and the line in which they wait.
    Callers(Leasing, Arc<Waiters>),
}

impl<T> Equipment<T> {
    /// Returns who takes the deliveries. A runner that is in a call can't settle it at its deadline.
    /// So a handler with a timeout has a slot, and the runner settles what is overdue.
    fn consumers(&self, calling: Calling) -> Consumers {
        match self {
            Self::Runner(_) if calling.is_timed => Consumers::Slot,
            Self::Runner(_) => Consumers::Runner,
            Self::Slots(_) => Consumers::Slots,
            Self::Members(calls) => Consumers::Members(*calls),
            Self::Callers(..) => Consumers::Callers,
        }
    }
}

/// The settings of a lane besides its consumers, checked.
pub(crate) struct LanePlan<T> {
    pub(crate) capacity: u32,
    pub(crate) when_full: LaneFull,
    pub(crate) retry: Policy,
    pub(crate) filter: Option<SharedFilter<T>>,
    pub(crate) rules: Rules,
    pub(crate) by_pattern: bool,
    pub(crate) protection: ProtectionSettings,
    pub(crate) calling: Calling,
    #[cfg(feature = "log")]
    pub(crate) stored: Option<Box<LaneLog<T>>>,
}

impl<T: Send + Sync + 'static> Lane<T> {
    /// Makes a lane with its consumers, before it is on the list of its topic.
    pub(crate) fn equipped(
        name: Arc<str>,
        topic: Arc<TopicCore<T>>,
        plan: LanePlan<T>,
        equipment: Equipment<T>,
    ) -> Arc<Self> {
        let consumers = equipment.consumers(plan.calling);
        let receivers = match &equipment {
            Equipment::Callers(_, receivers) => Arc::clone(receivers),
            _ => Arc::default(),
        };
        let is_plain = consumers == Consumers::Runner && !plan.rules.files();
        let keyed = || Keyed::new(plan.rules, consumers, plan.when_full, receivers);
        let protection = plan.protection;
        let settings = LaneSettings {
            capacity: plan.capacity,
            when_full: plan.when_full,
            retry: plan.retry,
            filter: plan.filter,
            by_pattern: plan.by_pattern,
            consumers,
            calling: plan.calling,
            #[cfg(feature = "log")]
            stored: plan.stored,
            nature: plan.rules.nature,
            keyed: (!is_plain).then(keyed),
        };
        let with_handler = |handler| Arc::new(Self::new(name, topic, settings, handler));
        let (lane, slots, leasing) = match equipment {
            Equipment::Runner(handler) if consumers == Consumers::Slot => {
                let slot = Slots::one(Box::new(Turn::new(handler)));
                (with_handler(Handler::External), Some(slot), None)
            }
            Equipment::Runner(handler) => (with_handler(handler), None, None),
            Equipment::Slots(slots) => (with_handler(Handler::External), Some(slots.into()), None),
            Equipment::Members(_) => (with_handler(Handler::External), None, None),
            Equipment::Callers(leasing, _) => {
                (with_handler(Handler::External), None, Some(leasing))
            }
        };
        if !protection.is_none() {
            lane.set_protection(&protection);
        }
        if let Some(keyed) = lane.keyed() {
            keyed.park_by_letters();
            if let Some(slots) = slots {
                keyed.take_slots(slots);
            }
            if let Some(leasing) = leasing {
                keyed.open_leases(leasing);
            }
        }
        lane
    }
}
