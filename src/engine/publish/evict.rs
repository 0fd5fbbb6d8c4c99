//! Admission under `Overflow::DropOldest`: room is made by dropping the oldest messages.

use crate::engine::publish::admit::{Admitted, Refused};
use crate::engine::state::partition_set::QueueRef;
use crate::engine::state::topic::TopicCore;
use crate::message::batch::DeferredDrops;
use crate::message::meta::Meta;
use crate::pure::words::tickets::Refusal;
use crate::sync::{Arc, pause};

/// How often a publisher looks for a message to drop before it gives up. A look finds
/// nothing while the tickets belong to delayed messages, to publishers that have not pushed
/// yet, or to a dispatcher in its turn.
const EVICTION_TRIES: u32 = 1_000;

impl<T: Send + Sync + 'static> TopicCore<T> {
    pub(super) fn admit_by_eviction(
        self: &Arc<Self>,
        wanted: u64,
        drops: &mut DeferredDrops<T>,
        route: Option<u64>,
        meta: Option<&Meta>,
    ) -> Result<Admitted, Refused> {
        let mut evicted = 0;
        for _ in 0..EVICTION_TRIES {
            if self.is_closed_to_caller() {
                return Err(Refused::Closed);
            }
            let oldest = match &self.split {
                None => self.drop_oldest(&QueueRef::Plain(&self.plain), wanted as u32),
                Some(split) => split.drop_oldest(self, route, meta, wanted),
            };
            match oldest {
                Some(dropped) => {
                    evicted += dropped.len() as u32;
                    drops.add_part(dropped);
                }
                None => pause(),
            }
            match self.admit_caller(wanted, self.live.capacity.get()) {
                Ok(granted) => {
                    return Ok(Admitted {
                        evicted,
                        ..Admitted::plainly(granted)
                    });
                }
                Err(Refusal::Closed) => return Err(Refused::Closed),
                Err(Refusal::Full) => {}
            }
        }
        Err(Refused::Full)
    }
}
