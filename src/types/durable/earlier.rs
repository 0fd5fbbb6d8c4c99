//! The past of messages that are read from the log.

/// The past of messages in a durable subscription, before it resumed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Earlier {
    /// The calls of the handler that are known to have failed. A message with some is alone.
    pub(crate) tried: u32,
    /// Whether the subscription may have had them.
    pub(crate) had: bool,
}

impl Earlier {
    pub(crate) const NOTHING: Self = Self {
        tried: 0,
        had: false,
    };
}
