//! The errors of receiving: one for each way to wait, so that a `match` names nothing that can't
//! happen.

/// The error of a receive on a subscription that has ended. No delivery will come any more.
///
/// Receiving as a future has no other error, because a future may wait anywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the subscription has ended")]
pub struct EndedError;

/// The reason why [`recv`](crate::PullSubscription::recv) returned no lease.
///
/// There are no other reasons, and none will be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecvError {
    /// There is nothing to lease now, and no call that blocks its thread waits here.
    ///
    /// That is so inside a handler of the broker, and on a broker without worker threads.
    #[error("there is nothing to lease now, and no call waits here")]
    WouldBlock,
    /// The subscription has ended, and no delivery will come any more.
    #[error("the subscription has ended")]
    Ended,
}

impl RecvError {
    /// Returns whether no delivery will come any more.
    pub fn is_ended(self) -> bool {
        self == Self::Ended
    }
}

impl From<EndedError> for RecvError {
    fn from(EndedError: EndedError) -> Self {
        Self::Ended
    }
}

/// The reason why [`recv_timeout`](crate::PullSubscription::recv_timeout) or
/// [`recv_batch`](crate::PullSubscription::recv_batch) returned no lease.
///
/// There are no other reasons, and none will be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecvTimeoutError {
    /// There is nothing to lease now, and no call that blocks its thread waits here.
    ///
    /// That is so inside a handler of the broker, and on a broker without worker threads.
    #[error("there is nothing to lease now, and no call waits here")]
    WouldBlock,
    /// No delivery could be leased before the timeout.
    #[error("there was nothing to lease in time")]
    TimedOut,
    /// The subscription has ended, and no delivery will come any more.
    #[error("the subscription has ended")]
    Ended,
}

impl RecvTimeoutError {
    /// Returns whether the time was up.
    pub fn is_timeout(self) -> bool {
        self == Self::TimedOut
    }

    /// Returns whether no delivery will come any more.
    pub fn is_ended(self) -> bool {
        self == Self::Ended
    }
}

impl From<EndedError> for RecvTimeoutError {
    fn from(EndedError: EndedError) -> Self {
        Self::Ended
    }
}

impl From<RecvError> for RecvTimeoutError {
    fn from(error: RecvError) -> Self {
        match error {
            RecvError::WouldBlock => Self::WouldBlock,
            RecvError::Ended => Self::Ended,
        }
    }
}

/// The reason why [`try_recv`](crate::PullSubscription::try_recv) returned no lease.
///
/// There are no other reasons, and none will be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TryRecvError {
    /// There is nothing to lease now.
    #[error("there is nothing to lease now")]
    Empty,
    /// The subscription has ended, and no delivery will come any more.
    #[error("the subscription has ended")]
    Ended,
}

impl TryRecvError {
    /// Returns whether there was nothing to lease. A later try may succeed.
    pub fn is_empty(self) -> bool {
        self == Self::Empty
    }

    /// Returns whether no delivery will come any more.
    pub fn is_ended(self) -> bool {
        self == Self::Ended
    }
}

impl From<EndedError> for TryRecvError {
    fn from(EndedError: EndedError) -> Self {
        Self::Ended
    }
}
