//! Deliveries that come back to a keyed lane: retries that are due, and letters that were
//! redriven. The deadlines of leases come the same way.

use crate::engine::parts::pending::Return;
use crate::engine::state::keyed::{KeyedLane, State};
use crate::pure::decide::lifecycle::{Status, Step};
use crate::sync::mutant;

impl<T: Send + Sync + 'static> KeyedLane<'_, T> {
    /// Files everything that has come back.
    pub(crate) fn file_returns(self, state: &mut State<T>) {
        while let Some(returned) = self.lane.pop_return() {
            self.file_return(state, returned);
        }
    }

    /// Files the next return: a retry that is due, a redriven letter, or a deadline of leases.
    /// Returns `false` if nothing has come back.
    pub(crate) fn file_next_return(self, now_ns: u64) -> bool {
        // Under the lock, a return is either still in the queue or filed.
        let mut state = self.keyed.state.lock();
        state.sequencer.set_now(now_ns);
        let returned = self.lane.pop_return();
        let is_some = returned.is_some();
        if let Some(returned) = returned {
            self.file_return(&mut state, returned);
        }
        is_some
    }

    fn file_return(self, state: &mut State<T>, returned: Return<T>) {
        match returned {
            Return::Redriven(again) => self.keyed.rejoin(state, *again),
            Return::Overdue => state.leases.note_overdue(),
            Return::Due(tag) if self.lane.is_put_off(tag) => {}
            Return::Due(tag) => {
                let Some(again) = self.lane.waiting.lock().remove(tag) else {
                    return;
                };
                if again.behind().is_none() {
                    self.lane
                        .books
                        .record(Status::RetryScheduled, Step::Requeue, 1);
                }
                self.lane.note_return(&again);
                self.keyed.file(state, again);
                if let Some(key) = state.holding.remove(&tag) {
                    mutant!(state.sequencer.release(key), "keyed.release");
                }
            }
        }
    }
}
