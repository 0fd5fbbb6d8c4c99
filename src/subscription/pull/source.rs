//! The lanes that a pull subscription takes from: one, or one for each topic of its patterns.

use crate::engine::parts::outstanding::Granted;
use crate::engine::patterns::subscription::PatternSub;
use crate::engine::pull::receive::Attempt;
use crate::engine::pull::sources::Sources;
use crate::engine::state::keyed::KeyedLane;
use crate::engine::state::lane::Lane;
use crate::sync::{Arc, Instant};
use crate::types::error::SettingError;
use crate::types::error::recv::{EndedError, RecvError};

/// The lanes of a pull subscription.
pub(crate) enum Source<T> {
    Topic(Arc<Lane<T>>),
    Patterns(Arc<PatternSub<T>>, Arc<Sources<T>>),
}

impl<T: Send + Sync + 'static> Source<T> {
    /// Leases at most `most` deliveries of one lane, and waits for the first one until `until`.
    /// Passes each run of them to `each`. Returns `None` if the time is up.
    pub(crate) fn receive(
        &self,
        most: usize,
        until: Option<Instant>,
        mut each: impl FnMut(&Arc<Lane<T>>, Granted<T>),
    ) -> Option<Result<(), RecvError>> {
        match self {
            Self::Topic(lane) => match keyed(lane) {
                Ok(keyed) => keyed.receive(most, until, |granted| each(lane, granted)),
                Err(ended) => Some(Err(ended.into())),
            },
            Self::Patterns(_, sources) => sources.receive(most, until, each),
        }
    }

    /// Leases as [`receive`](Self::receive) does, and never waits.
    pub(crate) fn try_receive(
        &self,
        most: usize,
        mut each: impl FnMut(&Arc<Lane<T>>, Granted<T>),
    ) -> Attempt {
        match self {
            Self::Topic(lane) => match keyed(lane) {
                Ok(keyed) => keyed.try_receive(most, &mut |granted| each(lane, granted)),
                Err(ended) => Some(Err(ended)),
            },
            Self::Patterns(_, sources) => sources.try_receive(most, &mut each),
        }
    }

    /// Leases as [`receive`](Self::receive) does, and has a future woken in place of the wait.
    #[cfg(feature = "async")]
    pub(crate) fn poll_receive(
        &self,
        most: usize,
        mut each: impl FnMut(&Arc<Lane<T>>, Granted<T>),
        id: &mut crate::engine::wait::wakers::WaiterId,
        context: &std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), EndedError>> {
        match self {
            Self::Topic(lane) => {
                let each = |granted| each(lane, granted);
                keyed(lane)?.poll_receive(most, each, id, context)
            }
            Self::Patterns(_, sources) => sources.poll_receive(most, each, id, context),
        }
    }

    /// Withdraws a future that receives no more.
    #[cfg(feature = "async")]
    pub(crate) fn leave(&self, id: &mut crate::engine::wait::wakers::WaiterId) {
        match self {
            Self::Topic(lane) => {
                if let Ok(keyed) = keyed(lane) {
                    keyed.leave_receivers(id);
                }
            }
            Self::Patterns(_, sources) => sources.leave(id),
        }
    }

    pub(crate) fn set_credits(&self, leases: usize) -> Result<(), SettingError> {
        match self {
            Self::Topic(lane) => keyed(lane).map_or(Ok(()), |keyed| keyed.set_credits(leases)),
            Self::Patterns(pattern_sub, _) => pattern_sub.set_leasing(|leasing, fit| {
                leasing.credits = fit.with_credits(leases)?.credits;
                Ok(())
            }),
        }
    }

    pub(crate) fn set_ack_deadline(&self, deadline_ns: u64) -> Result<(), SettingError> {
        match self {
            Self::Topic(lane) => {
                if let Ok(keyed) = keyed(lane) {
                    keyed.set_ack_deadline(deadline_ns);
                }
                Ok(())
            }
            Self::Patterns(pattern_sub, _) => pattern_sub.set_leasing(|leasing, _| {
                leasing.deadline_ns = deadline_ns;
                Ok(())
            }),
        }
    }
}

impl<T> Clone for Source<T> {
    fn clone(&self) -> Self {
        match self {
            Self::Topic(lane) => Self::Topic(Arc::clone(lane)),
            Self::Patterns(pattern_sub, sources) => {
                Self::Patterns(Arc::clone(pattern_sub), Arc::clone(sources))
            }
        }
    }
}

fn keyed<T>(lane: &Arc<Lane<T>>) -> Result<KeyedLane<'_, T>, EndedError> {
    lane.keyed().ok_or(EndedError)
}
