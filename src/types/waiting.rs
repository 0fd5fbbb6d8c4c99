//! Why the deliveries of a subscription wait.

use std::fmt;
use std::time::Duration;

/// The reason why the deliveries of a subscription wait, though a handler is free.
///
/// The reasons are in the order in which they are asked: the first that holds is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum WaitingFor {
    /// The subscription, its topic or its broker is paused.
    Resume,
}

impl WaitingFor {
    /// Returns the label of the reason, as in `resume`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Resume => "resume",
        }
    }
}

/// Prints the label.
impl fmt::Display for WaitingFor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A wait of a subscription's deliveries, as a snapshot shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Waiting {
    /// The reason.
    pub reason: WaitingFor,
    /// The time for which it has held.
    pub since: Duration,
}
