//! The settings of a subscription to patterns, from which each of its lanes is made.

use crate::engine::gates::protection::ProtectionSettings;
use crate::engine::parts::handler::{Handler, SharedFilter};
use crate::engine::parts::leases::Leasing;
use crate::engine::pull::sources::Sources;
use crate::engine::registry::equip::Equipment;
use crate::engine::state::lane::{Calling, Policy};
use crate::engine::state::slots::Shared;
use crate::pure::order::rules::{Fit, Rules};
use crate::sync::Arc;
use crate::types::config::LaneFull;
use crate::types::error::SettingError;

/// Makes the consumers of each lane.
pub(crate) enum Template<T> {
    /// A handler for one call at a time in each topic, and the size of its batches if it takes any.
    Runner(Box<dyn Fn() -> Handler<T> + Send + Sync>, Option<usize>),
    /// A handler for so many calls at once in each topic.
    Slots(Box<dyn Fn(usize) -> Shared<T> + Send + Sync>, usize),
    /// The members of a group, and how many calls each has unless it says otherwise.
    Members(u16),
    /// Callers that pull.
    Callers(Leasing, Arc<Sources<T>>),
}

impl<T> Template<T> {
    /// Returns the consumers of a lane.
    pub(super) fn equip(&self) -> Equipment<T> {
        match self {
            Self::Runner(make, _) => Equipment::Runner(make()),
            Self::Slots(make, concurrency) => Equipment::Slots(make(*concurrency)),
            Self::Members(calls) => Equipment::Members(*calls),
            Self::Callers(leasing, sources) => {
                Equipment::Callers(*leasing, Arc::clone(&sources.receivers))
            }
        }
    }

    pub(super) fn batch_size(&self) -> Option<usize> {
        match self {
            Self::Runner(_, batch_size) => *batch_size,
            _ => None,
        }
    }

    /// Returns the facts that the rules of the lanes have to fit.
    pub(crate) fn fit(&self, capacity: Option<u32>, when_full: LaneFull) -> Fit {
        Fit {
            is_shared: matches!(self, Self::Slots(..) | Self::Members(_)),
            credits: match self {
                Self::Callers(leasing, _) => leasing.credits,
                _ => None,
            },
            ..fit_of_any(capacity, when_full)
        }
    }
}

/// Refuses to catch up from the log: the lanes of a pattern have no cursors in it.
pub(crate) fn check_when_full(when_full: LaneFull) -> Result<LaneFull, SettingError> {
    #[cfg(feature = "log")]
    if when_full == LaneFull::CatchUp {
        let rule = "needs a subscription to one durable topic, and this one is to patterns";
        return Err(SettingError::new("when_full", when_full, rule));
    }
    Ok(when_full)
}

/// Returns the facts that the settings of the lanes have to fit, whoever consumes from them.
///
/// Without a capacity of its own, each lane has that of its topic, which then bounds.
pub(crate) fn fit_of_any(capacity: Option<u32>, when_full: LaneFull) -> Fit {
    Fit {
        when_full,
        capacity: capacity.unwrap_or(u32::MAX),
        is_shared: false,
        credits: None,
    }
}

/// The settings of a subscription to patterns, checked.
pub(crate) struct PatternPlan<T> {
    /// The capacity of each lane, unless it is the topic's.
    pub(crate) capacity: Option<u32>,
    pub(crate) when_full: LaneFull,
    pub(crate) retry: Policy,
    pub(crate) protection: ProtectionSettings,
    pub(crate) calling: Calling,
    pub(crate) filter: Option<SharedFilter<T>>,
    /// The rules of each lane, as far as its capacity allows.
    pub(crate) rules: Rules,
    pub(crate) template: Template<T>,
}
