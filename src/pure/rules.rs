//! What a lane goes by whose order has to survive failures, or that several hands share.

use crate::config::{LaneFull, OnExhausted, OnFailure};
use crate::error::InvalidSetting;

/// What a crew goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rules {
    pub(crate) on_failure: OnFailure,
    pub(crate) on_exhausted: OnExhausted,
    /// Most deliveries that are set aside.
    pub(crate) hold: u32,
}

/// What makes deliveries wait for each other.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keying {
    Nothing,
    Key,
    /// They are all of one key, so to speak.
    Everything,
}

impl Rules {
    /// Whether they make sense for such a lane.
    pub(crate) fn check(
        self,
        when_full: LaneFull,
        capacity: u32,
        is_shared: bool,
    ) -> Result<(), InvalidSetting> {
        let refuse = |setting, value: &str, rule| Err(InvalidSetting::new(setting, value, rule));
        if self.blocks() && matches!(when_full, LaneFull::DropOldest | LaneFull::DeadLetter) {
            let rule = "would tear gaps into the order that on_failure is to keep";
            return refuse("when_full", &format!("{when_full:?}"), rule);
        }
        if is_shared && self.on_failure == OnFailure::BlockSubscription {
            let rule = "needs a subscription that handles one delivery at a time";
            return refuse("on_failure", "BlockSubscription", rule);
        }
        if self.on_exhausted == OnExhausted::ParkKey && self.on_failure != OnFailure::BlockKey {
            let rule = "needs OnFailure::BlockKey, or there are no keys to park";
            return refuse("on_exhausted", "ParkKey", rule);
        }
        if !(1..=capacity).contains(&self.hold) {
            let rule = "must be between 1 and the lane's capacity";
            return refuse("hold", &self.hold.to_string(), rule);
        }
        Ok(())
    }

    /// The refusal of a bound on what is set aside where nothing ever is.
    pub(crate) fn nothing_to_hold(self) -> InvalidSetting {
        let rule = "needs OnFailure::BlockKey or several hands, or nothing is ever set aside";
        InvalidSetting::new("hold", self.hold, rule)
    }

    /// Whether a failure holds others up.
    pub(crate) fn blocks(self) -> bool {
        self.on_failure != OnFailure::Reorder
    }

    /// Whether what is exhausted takes its key along.
    pub(crate) fn parks(self) -> bool {
        self.on_failure == OnFailure::BlockKey && self.on_exhausted == OnExhausted::ParkKey
    }

    /// What makes deliveries wait for each other; where several hands are at it at
    /// once, keys do even if no failure holds them.
    pub(crate) fn keying(self, is_shared: bool) -> Keying {
        match self.on_failure {
            OnFailure::BlockSubscription => Keying::Everything,
            OnFailure::BlockKey => Keying::Key,
            OnFailure::Reorder if is_shared => Keying::Key,
            OnFailure::Reorder => Keying::Nothing,
        }
    }
}
