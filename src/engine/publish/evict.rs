//! Admission under `Overflow::DropOldest`: room is made by dropping the oldest messages.

use crate::engine::publish::ask::{Admitted, Ask, Refused};
use crate::engine::state::partition_set::QueueRef;
use crate::engine::state::topic::TopicCore;
use crate::message::batch::DeferredDrops;
use crate::sync::{Arc, pause};

/// How often a publisher looks for a message to drop before it gives up. A look finds
/// nothing while the tickets belong to delayed messages, to publishers that have not pushed
/// yet, or to a dispatcher in its turn.
const EVICTION_TRIES: u32 = 1_000;

impl<T: Send + Sync + 'static> TopicCore<T> {
    pub(super) fn admit_by_eviction(
        self: &Arc<Self>,
        ask: Ask<'_>,
        drops: &mut DeferredDrops<T>,
        route: Option<u64>,
    ) -> Result<Admitted, Refused> {
        // Where messages are weighed, one may be enough.
        let most = self.weights.as_ref().map_or(ask.wanted, |_| 1);
        let (mut evicted, mut tries) = (0, 0);
        while tries < EVICTION_TRIES {
            if self.is_closed_to_caller() {
                return Err(Refused::Closed);
            }
            let oldest = match &self.split {
                None => self.drop_oldest(&QueueRef::Plain(&self.plain), most as u32),
                Some(split) => split.drop_oldest(self, route, ask.alone, most),
            };
            match oldest {
                Some(dropped) => {
                    evicted += dropped.len() as u32;
                    drops.add_part(dropped);
                    // A heavy message may need the room of very many.
                    tries += u32::from(self.weights.is_none());
                }
                None => {
                    tries += 1;
                    pause();
                }
            }
            match self.admit_caller(ask, self.live.capacity.get()) {
                Ok(granted) => {
                    return Ok(Admitted {
                        evicted,
                        ..Admitted::plainly(granted)
                    });
                }
                Err(Refused::Full) => {}
                Err(refused) => return Err(refused),
            }
        }
        Err(Refused::Full)
    }
}
