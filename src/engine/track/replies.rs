//! The replies to a request.
//!
//! A request is a tracked message whose tracker has room for replies. They are under the same lock as
//! the ends of its deliveries, so the requester sees both at one moment. Steps:
//!
//! - A *handler* offers its reply under the lock, and wakes the requester if the reply was taken.
//! - Whoever ends the last delivery wakes the requester, as it does with every tracker.
//! - The *requester* looks under the lock, and closes the request if the wait is over. In the same
//!   step it takes the replies out.
//!
//! The feared interleavings. A reply comes while the requester's time runs out. Either the requester
//! finds it in its look, or that look has closed the request, and the reply is late. A reply is
//! followed by the end of its delivery. The requester finds the reply first. A requester goes away.
//! It closes the request, so no reply stays in the tracker, which a dead letter may keep.
//!
//! The replies are the user's values. None is dropped under the lock.

use std::any::{Any, TypeId, type_name};
#[cfg(feature = "async")]
use std::task::{Context, Poll};

use crate::engine::base::clock::Clock;
#[cfg(feature = "async")]
use crate::engine::base::contain::discard;
use crate::engine::track::ends::{Ends, Outcome, State};
use crate::pure::decide::asking::{AskEnd, Asking, Look, Offer};
use crate::sync::{Arc, Weak, mutant};

/// The fate of a reply.
///
/// A handler need not look at it. The requester is told what concerns it, and the topic's metrics
/// count [late replies](crate::metrics::TopicMetrics::late_replies).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Replied {
    /// The requester gets the reply.
    Taken,
    /// Nobody waits any more, so the reply was dropped. The time was up, the requester went away, or
    /// it has all the replies that it asked for.
    Late,
    /// The requester asked for a reply of another type. The reply was dropped, and the requester is
    /// told.
    WrongType,
    /// The message is no request. The reply was dropped.
    NotRequested,
}

impl Replied {
    /// Returns whether the requester gets the reply.
    pub fn is_taken(self) -> bool {
        self == Self::Taken
    }
}

/// The topic of a request, as far as its replies know it.
pub(crate) trait ReplyTopic: Send + Sync {
    /// Returns the time by which deadlines are kept.
    fn timer_ns(&self) -> u64;

    /// Counts a reply to the message with this number, which came too late.
    fn note_late(&self, id: u64);
}

/// A reply of any type.
pub(crate) type AnyReply = Box<dyn Any + Send>;

/// The room for replies in a tracker.
pub(super) struct Replies {
    asking: Asking,
    wanted: TypeId,
    /// The type of a reply that was of another one.
    found: Option<&'static str>,
    taken: Vec<AnyReply>,
    topic: Weak<dyn ReplyTopic>,
}

/// The end of a request.
pub(crate) struct Concluded {
    pub(crate) end: AskEnd,
    pub(crate) replies: Vec<AnyReply>,
    /// The type of a reply that was of another one.
    pub(crate) found: Option<&'static str>,
    /// The ends of the deliveries so far.
    pub(crate) outcome: Outcome,
}

impl Ends {
    /// Makes a tracker for a request that wants replies of type `R`.
    pub(crate) fn asking<R: Any>(asking: Asking, topic: Weak<dyn ReplyTopic>) -> Arc<Self> {
        Self::with(Some(Box::new(Replies {
            asking,
            wanted: TypeId::of::<R>(),
            found: None,
            taken: Vec::new(),
            topic,
        })))
    }

    /// Returns whether the message is a request.
    pub(crate) fn is_request(&self) -> bool {
        self.state.lock().replies.is_some()
    }

    /// Offers a reply to the message with this number.
    pub(crate) fn reply<R: Any + Send>(&self, id: u64, reply: R) -> Replied {
        let topic = match &self.state.lock().replies {
            Some(replies) => replies.topic.upgrade(),
            None => return Replied::NotRequested,
        };
        // The requester holds the topic while it waits.
        let Some(topic) = topic else {
            return Replied::Late;
        };
        let now_ns = topic.timer_ns();
        let reply: AnyReply = Box::new(reply);
        let mut state = self.state.lock();
        let Some(replies) = &mut state.replies else {
            return Replied::NotRequested;
        };
        let fits = replies.wanted == TypeId::of::<R>();
        match replies.asking.offer(fits, now_ns) {
            Offer::Take => replies.taken.push(reply),
            Offer::Misfit => replies.found = Some(type_name::<R>()),
            Offer::Late => {
                drop(state);
                topic.note_late(id);
                return Replied::Late;
            }
        }
        mutant!(self.wake(state), "replies.wake", drop(state));
        match fits {
            true => Replied::Taken,
            false => Replied::WrongType,
        }
    }

    /// Returns the time at which the wait for replies ends at the latest.
    #[cfg(feature = "async")]
    pub(crate) fn deadline_ns(&self) -> u64 {
        let state = self.state.lock();
        let replies = state.replies.as_ref();
        replies.map_or(0, |replies| replies.asking.deadline_ns())
    }

    /// Ends a request to a message that was accepted, as if its time were up. All later replies are
    /// late.
    pub(crate) fn conclude(&self, now_ns: u64) -> Concluded {
        let mut state = self.state.lock();
        look(&mut state, now_ns).unwrap_or_else(|_| {
            let forever = look(&mut state, u64::MAX);
            forever.unwrap_or_else(|_| unreachable!("no deadline is later"))
        })
    }

    /// Waits for the end of a request, by a clock that moves by itself.
    pub(crate) fn wait_for_replies(&self, clock: &Clock) -> Concluded {
        let mut state = self.state.lock();
        loop {
            match look(&mut state, clock.timer_ns()) {
                Ok(concluded) => return concluded,
                Err(until_ns) => {
                    let until_ns = Some(until_ns).filter(|until_ns| *until_ns != u64::MAX);
                    let until = until_ns.and_then(|until_ns| clock.instant(until_ns));
                    self.ended.wait(&mut state, until);
                }
            }
        }
    }

    /// Returns the end of a request, or has this task woken at the next change. `until_ns` is set to
    /// the time until which to wait.
    #[cfg(feature = "async")]
    pub(crate) fn poll_replies(
        &self,
        now_ns: u64,
        until_ns: &mut u64,
        context: &Context<'_>,
    ) -> Poll<Concluded> {
        self.poll_by(context, |state| {
            let looked = look(state, now_ns);
            looked.map_err(|again_ns| *until_ns = again_ns).ok()
        })
    }

    /// Takes no more replies, and drops those that nobody has asked for.
    #[cfg(feature = "async")]
    pub(crate) fn abandon(&self) {
        let mut state = self.state.lock();
        let Some(replies) = &mut state.replies else {
            return;
        };
        replies.asking.close();
        let taken = std::mem::take(&mut replies.taken);
        drop(state);
        discard(taken);
    }
}

fn look(state: &mut State, now_ns: u64) -> Result<Concluded, u64> {
    let (all_ended, outcome) = (state.open == 0, state.outcome);
    let replies = state.replies.as_mut();
    let replies = replies.expect("only a requester looks for replies");
    match replies.asking.look(all_ended, now_ns) {
        Look::WaitUntil(until_ns) => Err(until_ns),
        Look::Over(end) => Ok(Concluded {
            end,
            replies: std::mem::take(&mut replies.taken),
            found: replies.found,
            outcome,
        }),
    }
}
