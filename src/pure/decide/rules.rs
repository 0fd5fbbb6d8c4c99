//! What a lane goes by whose order has to survive failures, or that several consumers share.

use crate::types::config::{LaneFull, OnExhausted, OnFailure};
use crate::types::error::InvalidSetting;

/// What a keyed lane goes by.
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

/// The lane that they are for. Whether they make sense for it is asked in one place, be
/// it when it is made or while traffic runs.
#[derive(Clone, Copy)]
pub(crate) struct Fit {
    pub(crate) when_full: LaneFull,
    pub(crate) capacity: u32,
    /// Several consumers may be at it at once.
    pub(crate) is_shared: bool,
    /// Leases that may be out, if a number was asked for: the default gives way to one
    /// at a time.
    pub(crate) credits: Option<u32>,
}

impl Fit {
    /// The lane, with so many leases asked for.
    pub(crate) fn with_credits(self, asked: usize) -> Result<Self, InvalidSetting> {
        let credits = u32::try_from(asked).ok();
        let credits = credits.filter(|credits| (1..=self.capacity).contains(credits));
        let rule = "must be between 1 and the lane's capacity";
        let credits = credits.ok_or_else(|| InvalidSetting::new("credits", asked, rule))?;
        Ok(Self {
            credits: Some(credits),
            ..self
        })
    }
}

impl Rules {
    /// Of a lane whose order doesn't matter.
    pub(crate) fn plain(capacity: u32) -> Self {
        Self {
            on_failure: OnFailure::Reorder,
            on_exhausted: OnExhausted::FreeKey,
            hold: capacity,
        }
    }

    /// These, if they make sense for such a lane.
    pub(crate) fn checked(self, fit: Fit) -> Result<Self, InvalidSetting> {
        let refuse = |setting, value: &str, rule| Err(InvalidSetting::new(setting, value, rule));
        if self.blocks() && matches!(fit.when_full, LaneFull::DropOldest | LaneFull::DeadLetter) {
            let rule = "would tear gaps into the order that on_failure is to keep";
            return refuse("when_full", &format!("{:?}", fit.when_full), rule);
        }
        if fit.is_shared && self.on_failure == OnFailure::BlockSubscription {
            let rule = "needs a subscription that handles one delivery at a time";
            return refuse("on_failure", "BlockSubscription", rule);
        }
        if self.on_exhausted == OnExhausted::ParkKey && self.on_failure != OnFailure::BlockKey {
            let rule = "needs OnFailure::BlockKey, or there are no keys to park";
            return refuse("on_exhausted", "ParkKey", rule);
        }
        match fit.credits {
            Some(credits) if credits > 1 && self.on_failure == OnFailure::BlockSubscription => {
                let rule =
                    "can't be used with OnFailure::BlockSubscription, where one is out at a time";
                refuse("credits", &credits.to_string(), rule)
            }
            _ => Ok(self),
        }
    }

    /// These, with another bound on what is set aside. A bound that was set stays for when
    /// it has an effect again, so only its own door asks whether it has one.
    pub(crate) fn with_hold(self, asked: usize, fit: Fit) -> Result<Self, InvalidSetting> {
        let hold = u32::try_from(asked).unwrap_or(u32::MAX);
        let rule = match hold {
            0 => "must be at least 1",
            hold if hold > fit.capacity => "must be between 1 and the lane's capacity",
            _ if self.keying(fit.is_shared) != Keying::Key => {
                "needs OnFailure::BlockKey or several consumers, or nothing is ever set aside"
            }
            hold => return Self { hold, ..self }.checked(fit),
        };
        Err(InvalidSetting::new("hold", asked, rule))
    }

    /// Whether a failure holds others up.
    pub(crate) fn blocks(self) -> bool {
        self.on_failure != OnFailure::Reorder
    }

    /// Whether what is exhausted takes its key along.
    pub(crate) fn parks(self) -> bool {
        self.on_failure == OnFailure::BlockKey && self.on_exhausted == OnExhausted::ParkKey
    }

    /// What makes deliveries wait for each other; where several consumers are at it at
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
