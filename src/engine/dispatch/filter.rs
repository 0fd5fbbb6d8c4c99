//! Filters: a subscription's own word on which messages it wants.
//!
//! The dispatcher asks before a message takes a place in a lane. It asks each filter once about
//! each message of the batch at hand, and remembers the result while the batch waits for room.
//! A refused message needs no room, so it passes a full lane.
//! Then it cuts the batch where the set of lanes that refuse changes. The other lanes get the
//! piece as if those that refuse it weren't there. A piece that all lanes refuse is dispatched all
//! the same.
//!
//! A filter is the user's code, on a worker, with no lock held. If it panics, the message is
//! delivered: whoever can't say that it is unwanted must not lose it.

use crate::engine::base::contain::contain;
use crate::engine::dispatch::room::ALL_WANT;
use crate::engine::parts::dispatcher::Sieve;
use crate::engine::parts::handler::SharedFilter;
use crate::engine::state::lane::Lane;
use crate::engine::state::topic::{Lanes, TopicCore};
use crate::message::batch::BatchSlice;
use crate::observe::event::Hook;
use crate::observe::event::{EventKind, Subject};
use crate::pure::decide::lifecycle::Step;
use crate::pure::words::room::Phase;
use crate::sync::Arc;
use crate::types::config::NoSubscribers;

/// The first messages of a batch, which the same lanes refuse.
pub(crate) struct Piece<T> {
    pub(crate) len: usize,
    /// The id that says which of the other lanes want it.
    pub(crate) id: u64,
    pub(crate) refusing: Lanes<T>,
    pub(crate) others: Lanes<T>,
}

impl<T: Send + Sync + 'static> TopicCore<T> {
    /// Finds the first messages of a part that the same lanes refuse, at most `len` of them. For
    /// all of these, message `id` says which lanes had come when they were accepted.
    #[cold]
    pub(crate) fn sift(
        &self,
        sieve: &mut Sieve<T>,
        part: &BatchSlice<T>,
        (len, id): (usize, u64),
        lanes: &Lanes<T>,
    ) -> Piece<T> {
        let is_open = |lane: &&Arc<Lane<T>>| lane.phase() == Phase::Open;
        // What is retained and wanted by nobody goes to those that are there.
        let all_get_it = self.settings.no_subscribers == NoSubscribers::Retain
            && !lanes.iter().filter(is_open).any(|lane| lane.wants(id));
        let mut piece = Piece {
            len,
            id: if all_get_it { ALL_WANT } else { id },
            refusing: Vec::new(),
            others: Vec::new(),
        };
        for lane in lanes {
            let is_asked = is_open(&lane) && (all_get_it || lane.wants(id));
            let filter = lane.filter.lock().clone().filter(|_| is_asked);
            let Some(filter) = filter else {
                piece.others.push(Arc::clone(lane));
                continue;
            };
            let refused = self.answers(sieve, lane, &filter, part);
            let is_refused = refused[0];
            let alike = refused.iter().take_while(|other| **other == is_refused);
            piece.len = piece.len.min(alike.count());
            match is_refused {
                true => piece.refusing.push(Arc::clone(lane)),
                false => piece.others.push(Arc::clone(lane)),
            }
        }
        piece
    }

    /// Returns whether a lane's filter refuses each message of the part.
    pub(crate) fn answers<'s>(
        &self,
        sieve: &'s mut Sieve<T>,
        lane: &Lane<T>,
        filter: &SharedFilter<T>,
        part: &BatchSlice<T>,
    ) -> &'s [bool] {
        let now_ns = self.engine.clock.now_ns();
        let ask = |index| self.ask(lane, filter, part, index, now_ns);
        sieve.sift(filter, part, ask)
    }

    /// Asks a filter about one message. Returns whether it is refused.
    pub(crate) fn ask(
        &self,
        lane: &Lane<T>,
        filter: &SharedFilter<T>,
        part: &BatchSlice<T>,
        index: usize,
        now_ns: u64,
    ) -> bool {
        let delivery = lane.first_delivery(&part.batch, index, now_ns);
        let is_wanted = contain(|| filter(&delivery)).unwrap_or_else(|_| {
            let hook = Hook::Filter;
            let subject = Subject::of(&lane.name).message(delivery.id());
            self.tell_of(subject, EventKind::HookPanicked { hook });
            true
        });
        !is_wanted
    }

    /// Counts messages that a lane's filter has refused.
    pub(crate) fn refuse(&self, lane: &Arc<Lane<T>>, part: &BatchSlice<T>) {
        let status = self.end_without_place(lane, part, Step::Filter);
        lane.note_end_without_place(part, status);
        if self.bus().observed() {
            for id in part.ids() {
                let subject = Subject::of(&lane.name).message(id).status(status);
                self.tell_of(subject, EventKind::Filtered);
            }
        }
    }
}
