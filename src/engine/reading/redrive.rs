//! One letter on its way back into its lane.

use crate::engine::parts::pending::{PendingDelivery, Return};
use crate::engine::state::dead_letter_store::{Claim, DeadLetterStore, Left, Letter, notify};
use crate::engine::state::lane::Lane;
use crate::message::MessageId;
use crate::observe::event::{EventKind, Subject};
use crate::pure::decide::lifecycle::{Status, Step};
use crate::pure::words::room::Reserved;
use crate::sync::{Arc, mutant};

/// The reason why a letter stays in the store.
#[derive(Clone, Copy)]
pub(crate) enum Stays {
    NoRoom,
    NoSubscription,
    Behind,
    Refused,
}

/// The progress of a redrive for one key of one subscription.
///
/// The redrive goes through the key's letters in the order of their messages. No letter that
/// arrives meanwhile is looked at twice, so each letter costs the same, however many there are.
#[derive(Clone, Copy, Default)]
pub(crate) struct Line {
    /// The number of arrivals in the store that the redrive has looked at.
    seen: u64,
    /// The first message among those that have come back meanwhile and park the key.
    back: Option<MessageId>,
    /// The reason why a letter stayed. Later letters of the key stay as well.
    pub(crate) stays: Option<Stays>,
}

impl Line {
    /// Begins after this number of arrivals.
    pub(crate) fn after(seen: u64) -> Self {
        Self {
            seen,
            ..Self::default()
        }
    }
}

impl<T: Send + Sync + 'static> Lane<T> {
    /// Takes a letter out of the store by `take`, and puts it into a place that is reserved for it.
    /// Returns whether it did.
    ///
    /// It does not if another call has redriven or purged the letter. The letter stays if an
    /// earlier delivery of the same key is back and parks the key, or if somebody has claimed it.
    pub(crate) fn take_back(
        self: &Arc<Self>,
        letter: &Letter<T>,
        line: &mut Line,
        take: impl FnOnce(&mut DeadLetterStore<T>) -> Option<Left<T>>,
    ) -> Result<bool, Stays> {
        let core = &self.topic;
        let mut letters = core.letters().lock();
        let since = letters.parking_since(letter, line.seen);
        line.back = line.back.into_iter().chain(since).min();
        line.seen = letters.arrivals();
        let is_behind = mutant!(
            line.back.is_some_and(|back| back < letter.id()),
            "letters.behind",
            false
        );
        let taken = if is_behind { None } else { take(&mut letters) };
        if !mutant!(taken.is_some(), "letters.take", true) {
            let stays = is_behind || letters.is_claimed(letter.arrival);
            drop(letters);
            if self.release(1) {
                self.come_to_end();
            }
            core.engine.quiescence.notify();
            return if stays { Err(Stays::Behind) } else { Ok(false) };
        }
        let status = self.books.record(Status::DeadLetter, Step::Redrive, 1);
        let id = letter.id();
        core.tell_of(
            Subject::of(&self.name).message(id).status(status),
            EventKind::Redriven,
        );
        let mut again = PendingDelivery::first(&letter.batch, usize::from(letter.index), 0);
        again.attempts = 0;
        again.generation = letter.generation.saturating_add(1);
        // The lock is held until the lane has the delivery. So a consumer that finds the key freed
        // finds this delivery before any that was published since.
        self.push_return(Return::Redriven(Box::new(again)));
        drop(letters);
        self.schedule_for_return();
        if let Some(left) = taken {
            notify(left.waiting);
        }
        if self.phase().ends_at_once() {
            // The end may have passed by while the delivery was on its way.
            self.come_to_end();
        }
        Ok(true)
    }
}

impl<T: Send + Sync + 'static> Claim<'_, T> {
    /// Sends the letter back to the subscription that failed. If it can't go, it is put back.
    ///
    /// It stays behind any letter of an earlier message that parks its key. So a subscriber that
    /// sends letters back one by one keeps the order of a parked key.
    pub(crate) fn redrive(self) -> Result<(), Stays> {
        let letter = Arc::clone(self.letter());
        let core = self.topic();
        let lane = core.find_open(&letter.subscription);
        let lane = lane.ok_or(Stays::NoSubscription)?;
        let _motion = lane.books.motions.begin(1);
        match lane.reserve_for_letter(false) {
            Reserved::Granted(_) => {}
            Reserved::Full => return Err(Stays::NoRoom),
            Reserved::Closed => return Err(Stays::NoSubscription),
        }
        let mut claim = Some(self);
        let take = |letters: &mut DeadLetterStore<T>| Some(claim.take()?.end_in(letters));
        lane.take_back(&letter, &mut Line::default(), take)
            .map(drop)
    }
}

impl Stays {
    /// Returns the reason in words.
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::NoRoom => "its subscription has no room for it",
            Self::NoSubscription => "its subscription has ended",
            Self::Behind => "an earlier letter of its key is still there",
            Self::Refused => "the other topic refused it",
        }
    }
}
