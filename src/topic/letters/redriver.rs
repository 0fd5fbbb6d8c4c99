//! The work of a redrive, letter by letter. Whoever redrives waits between two tries, on a thread
//! or as a future.
//!
//! A letter goes back in one step, which does not wait. A place in the lane is reserved, and under
//! the store's lock the letter moves from the store to the lane. So whoever gives up between two
//! steps has lost no letter, and sent none twice.

use std::collections::HashMap;

use crate::engine::reading::redrive::{Line, Stays};
use crate::engine::state::dead_letter_store::Claim;
use crate::engine::state::lane::Lane;
use crate::engine::state::topic::TopicCore;
use crate::message::Receipt;
use crate::message::meta::{Meta, Value};
use crate::observe::event::{EventKind, Subject};
use crate::pure::words::room::Reserved;
use crate::sync::Arc;
use crate::topic::Topic;
use crate::topic::letters::dead_letters::{DeadLetter, DeadLetters};
use crate::topic::letters::redrive::Redrive;
use crate::types::error::PublishError;

/// The letters to look at, in the order of their messages, and the number of arrivals by then.
pub(crate) struct Listing<T> {
    pub(crate) all: Vec<DeadLetter<T>>,
    seen: u64,
}

impl<T: Send + Sync + 'static> DeadLetters<T> {
    /// Lists the letters for a redrive.
    pub(crate) fn in_order(&self) -> Listing<T> {
        let store = self.topic.core.letters().lock();
        let (seen, letters) = (store.arrivals(), store.list());
        drop(store);
        let mut all = self.show(letters);
        all.sort_by_cached_key(DeadLetter::id);
        Listing { all, seen }
    }
}

/// A redrive under way.
pub(crate) struct Redriver<'l, T: Send + Sync + 'static> {
    core: &'l Arc<TopicCore<T>>,
    seen: u64,
    lines: HashMap<(&'l str, &'l str), Line>,
    /// The lanes that were found before.
    lanes: HashMap<&'l str, Arc<Lane<T>>>,
    outcome: Redrive,
}

impl<'l, T: Send + Sync + 'static> Redriver<'l, T> {
    pub(crate) fn new(topic: &'l Topic<T>, letters: &Listing<T>) -> Self {
        Self {
            core: &topic.core,
            seen: letters.seen,
            lines: HashMap::new(),
            lanes: HashMap::new(),
            outcome: Redrive::default(),
        }
    }

    /// Returns an error if an earlier letter of the same key stays.
    pub(crate) fn may_go(&self, letter: &'l DeadLetter<T>) -> Result<(), Stays> {
        self.line(letter).stays.map_or(Ok(()), Err)
    }

    fn line(&self, letter: &'l DeadLetter<T>) -> Line {
        let line = line_of(letter).and_then(|line| self.lines.get(&line));
        line.copied().unwrap_or(Line::after(self.seen))
    }

    fn set_line(&mut self, letter: &'l DeadLetter<T>, line: Line) {
        if let Some(key) = line_of(letter) {
            self.lines.insert(key, line);
        }
    }

    /// Counts a letter that has gone, that somebody else has taken, or that stays.
    pub(crate) fn count(&mut self, letter: &'l DeadLetter<T>, gone: Result<bool, Stays>) {
        match gone {
            Ok(redriven) => self.outcome.redriven += usize::from(redriven),
            Err(stays) => {
                let mut line = self.line(letter);
                line.stays = Some(stays);
                self.set_line(letter, line);
                *match stays {
                    Stays::NoRoom => &mut self.outcome.no_room,
                    Stays::NoSubscription => &mut self.outcome.no_subscription,
                    Stays::Behind => &mut self.outcome.behind,
                    Stays::Refused => &mut self.outcome.refused,
                } += 1;
            }
        }
    }

    pub(crate) fn outcome(self) -> Redrive {
        self.outcome
    }

    /// Returns the lane of the subscription that failed.
    pub(crate) fn lane_of(&mut self, letter: &'l DeadLetter<T>) -> Result<Arc<Lane<T>>, Stays> {
        let name = letter.subscription();
        match self.lanes.get(name) {
            Some(lane) if lane.answers_to(name) => Ok(Arc::clone(lane)),
            _ => {
                let all = self.core.lanes.load();
                let found = all.iter().find(|lane| lane.answers_to(name));
                let lane = found.ok_or(Stays::NoSubscription)?;
                self.lanes.insert(name, Arc::clone(lane));
                Ok(Arc::clone(lane))
            }
        }
    }

    /// Sends a letter back, and returns whether it did. It does not if another call has redriven or
    /// purged the letter. Returns `None` if there is no room. If the caller `waits` for it, the
    /// topic's redrives are called then.
    ///
    /// The letter stays if an earlier delivery of the same key is back and parks the key.
    pub(crate) fn send_back(
        &mut self,
        letter: &'l DeadLetter<T>,
        lane: &Arc<Lane<T>>,
        waits: bool,
    ) -> Option<Result<bool, Stays>> {
        let _motion = lane.books.motions.begin(1);
        match lane.reserve_for_letter(waits) {
            Reserved::Granted(_) => Some(self.put_back(letter, lane)),
            Reserved::Full => None,
            Reserved::Closed => Some(Err(Stays::NoSubscription)),
        }
    }

    /// Moves a letter to the place that was reserved for it.
    fn put_back(&mut self, shown: &'l DeadLetter<T>, lane: &Arc<Lane<T>>) -> Result<bool, Stays> {
        let letter = &shown.letter;
        let mut line = self.line(shown);
        let gone = lane.take_back(letter, &mut line, |letters| letters.take(letter.arrival));
        self.set_line(shown, line);
        gone
    }

    /// Claims a letter, unless somebody has taken it. A subscriber that has it may leave it there.
    pub(crate) fn claim(&self, letter: &DeadLetter<T>) -> Result<Option<Claim<'l, T>>, Stays> {
        let letter = &letter.letter;
        match self.core.claim(letter) {
            None if self.core.letters().lock().is_claimed(letter.arrival) => Err(Stays::Behind),
            claim => Ok(claim),
        }
    }

    /// Ends the claim of a letter that another topic has accepted, or says why it stays.
    pub(crate) fn moved(
        &self,
        letter: &DeadLetter<T>,
        to: &Topic<T>,
        claim: Claim<'_, T>,
        published: Result<Receipt, PublishError<T>>,
    ) -> Result<bool, Stays> {
        match published {
            Ok(receipt) if !receipt.is_dropped() => {}
            Ok(_)
            | Err(
                PublishError::Full(_)
                | PublishError::TimedOut(_)
                | PublishError::RateLimited { .. },
            ) => return Err(Stays::NoRoom),
            Err(_) => return Err(Stays::Refused),
        }
        claim.end();
        self.core.tell_of(
            Subject::of(&letter.letter.subscription).message(letter.id()),
            EventKind::LetterMoved {
                to: Arc::clone(&to.core.name),
            },
        );
        Ok(true)
    }
}

/// Returns the subscription and the key of a letter, if it has a key.
fn line_of<T>(letter: &DeadLetter<T>) -> Option<(&str, &str)> {
    Some((letter.subscription(), letter.key()?))
}

/// Returns the key, the priority and the headers of a letter that is to be a new message.
pub(crate) fn meta_of<T>(letter: &DeadLetter<T>) -> Box<Meta> {
    let origin = [
        ("dead-letter-topic", letter.topic().to_owned()),
        ("dead-letter-subscription", letter.subscription().to_owned()),
        ("dead-letter-id", letter.id().to_string()),
        ("dead-letter-reason", letter.reason().as_str().to_owned()),
    ];
    let kept = letter.headers();
    let kept = kept.map(|(name, value)| (Box::from(name), Value::from(value)));
    let origin = origin.map(|(name, value)| (Box::from(name), Value::Text(value.into())));
    Box::new(Meta {
        key: letter.key().map(Box::from),
        priority: letter.priority(),
        headers: kept.chain(origin).collect(),
        ..Meta::default()
    })
}
