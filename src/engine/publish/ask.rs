//! The patience of publishers, and the results of their admission.

use std::time::Duration;

use crate::message::meta::Meta;
use crate::message::{Fate, MessageId, Receipt};
use crate::pure::words::tickets::Refusal;
use crate::sync::{Arc, Instant};
use crate::types::config::Overflow;
use crate::types::duration::zero_ttl;
#[cfg(feature = "log")]
use crate::types::error::store::StoreError;
use crate::types::error::{PublishError, SettingError};

/// How long a publisher waits for room in a topic that drops nothing.
#[derive(Clone, Copy, Default)]
pub(crate) enum Wait {
    /// As long as the topic's overflow policy says.
    #[default]
    ByPolicy,
    Never,
    For(Duration),
    /// As long as the policy says, and no longer than this.
    UpTo(Duration),
}

/// The patience of a publisher, and whether observers have been told that it waits.
#[derive(Default)]
pub(crate) struct Patience {
    wait: Wait,
    /// The time at which a wait must end. The first wait sets it.
    until: Option<Instant>,
    /// Whether observers know that the publisher waits.
    pub(crate) told: bool,
    /// Whether the publisher holds a lock, under which no user code may run.
    pub(crate) is_locked: bool,
}

impl Patience {
    /// The patience of a publisher that waits this long.
    pub(crate) fn of(wait: Wait) -> Self {
        Self {
            wait,
            ..Self::default()
        }
    }

    /// The patience of a worker that publishes the content of a buffer under the buffer's lock.
    /// `told` says whether observers know already that the buffer waits.
    pub(crate) fn locked(told: bool) -> Self {
        Self {
            told,
            is_locked: true,
            ..Self::default()
        }
    }

    /// When the wait for room must end, if the publisher waits under this policy, which drops
    /// nothing.
    pub(crate) fn until(&mut self, overflow: Overflow) -> Option<Option<Instant>> {
        let timeout = match (self.wait, overflow) {
            (Wait::For(timeout), _) | (Wait::ByPolicy, Overflow::Block { timeout }) => timeout,
            (Wait::UpTo(most), Overflow::Block { timeout }) => timeout.min(most),
            _ => return None,
        };
        if self.until.is_none() {
            self.until = Instant::now().checked_add(timeout);
        }
        Some(self.until)
    }
}

/// The result of an admission.
pub(crate) struct Admitted {
    pub(crate) first_id: u64,
    /// Zero for a duplicate.
    pub(crate) count: u64,
    pub(crate) evicted: u32,
    /// Whether the messages go elsewhere, because the topic was full.
    pub(crate) fate: Fate,
}

impl Admitted {
    /// An admission to a queue that had room, from the first id and the number of messages.
    pub(crate) fn plainly((first_id, count): (u64, u64)) -> Self {
        Self {
            first_id,
            count,
            evicted: 0,
            fate: Fate::Queued,
        }
    }

    /// Whether the message is to be dropped because one with its dedup id was accepted before,
    /// which has the first id.
    pub(crate) fn is_duplicate(&self) -> bool {
        self.count == 0
    }

    pub(crate) fn last_id(&self) -> u64 {
        self.first_id + self.count - 1
    }

    /// Returns the receipt for the first of these messages.
    pub(crate) fn receipt(&self) -> Receipt {
        Receipt {
            duplicate: self.is_duplicate(),
            ..Receipt::volatile(MessageId::new(self.first_id), self.evicted, self.fate)
        }
    }
}

/// The wish of a publisher at the gate.
#[derive(Clone, Copy)]
pub(crate) struct Ask<'m> {
    /// The most messages, one at least.
    pub(crate) wanted: u64,
    /// The parts of the message, if it goes alone.
    pub(crate) alone: Option<&'m Meta>,
    /// The parts of messages that go together.
    pub(crate) together: &'m [(u32, Box<Meta>)],
    /// Whether the messages pass the topic's limit on weight by.
    pub(crate) is_weightless: bool,
    /// Whether the topic's rate has let them pass.
    pub(crate) has_paid: bool,
}

impl<'m> Ask<'m> {
    /// Asks for one message with these parts.
    pub(crate) fn one(alone: Option<&'m Meta>) -> Self {
        let (wanted, together) = (1, &[][..]);
        Self {
            wanted,
            alone,
            together,
            is_weightless: false,
            has_paid: false,
        }
    }

    /// Asks for so many messages, whatever they are.
    pub(crate) fn any(wanted: u64) -> Self {
        let (alone, together) = (None, &[][..]);
        Self {
            wanted,
            alone,
            together,
            is_weightless: false,
            has_paid: false,
        }
    }

    /// Asks for the same messages, which do not go into the queue.
    pub(crate) fn past_the_queue(self) -> Self {
        Self {
            is_weightless: true,
            ..self
        }
    }

    pub(crate) fn dedup_id(&self) -> Option<&'m Arc<str>> {
        self.alone?.dedup_id.as_ref()
    }

    /// Returns what each message weighs.
    pub(crate) fn weights(&self) -> impl Iterator<Item = u64> + use<'m> {
        let together = self.together.iter().take(self.wanted as usize);
        let metas = self
            .alone
            .into_iter()
            .chain(together.map(|(_, meta)| &**meta));
        metas.map(|meta| meta.weight.unwrap_or(0))
    }
}

/// Why nothing was admitted.
#[derive(Clone)]
pub(crate) enum Refused {
    Full,
    /// The topic's rate lets no message pass for this time.
    RateLimited(Duration),
    TimedOut,
    Closed,
    NoSubscribers,
    /// The message asks for a time to live of zero.
    ZeroTtl,
    /// The message has a dedup id, and the topic remembers none.
    NoDedup,
    /// The message is heavier than the topic's limit.
    TooHeavy,
    /// A message with its dedup id is on its way to the log. Its publisher waits for that one.
    Claimed,
    /// The log did not take it.
    #[cfg(feature = "log")]
    NotStored(Box<StoreError>),
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Full => Self::Full,
            Refusal::Closed => Self::Closed,
        }
    }
}

impl Refused {
    /// Whether the topic may accept the message a little later, and a blocking policy waits.
    pub(crate) fn may_wait(&self) -> bool {
        matches!(self, Self::Full | Self::RateLimited(_))
    }

    pub(crate) fn error<P>(self, payload: P) -> PublishError<P> {
        match self {
            Self::Full => PublishError::Full(payload),
            Self::RateLimited(retry_after) => PublishError::RateLimited {
                payload,
                retry_after,
            },
            Self::TimedOut => PublishError::TimedOut(payload),
            Self::Closed => PublishError::Closed(payload),
            Self::NoSubscribers => PublishError::NoSubscribers(payload),
            Self::ZeroTtl => PublishError::Invalid {
                payload,
                invalid: Box::new(zero_ttl()),
            },
            Self::NoDedup => PublishError::Invalid {
                payload,
                invalid: Box::new(no_dedup()),
            },
            Self::TooHeavy => PublishError::Invalid {
                payload,
                invalid: Box::new(too_heavy()),
            },
            Self::Claimed => unreachable!("its publisher waits for the other one"),
            #[cfg(feature = "log")]
            Self::NotStored(error) => PublishError::NotStored { payload, error },
        }
    }
}

fn too_heavy() -> SettingError {
    let rule = "must not exceed the topic's weight limit";
    SettingError::new("weight", "too high", rule)
}

fn no_dedup() -> SettingError {
    let rule = "needs a topic that was opened with dedup";
    SettingError::new("dedup_id", "set", rule)
}
