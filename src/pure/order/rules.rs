//! The rules of a keyed lane: its order has to survive failures, or several consumers share it.

use crate::pure::protect::priority::Priorities;
use crate::types::config::{LaneFull, OnExhausted, OnFailure};
use crate::types::error::SettingError;

/// The choices that a subscription makes for good.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Nature {
    /// The newest delivery of a key replaces the one that waits.
    pub(crate) conflates: bool,
    /// It holds nobody up: what finds no room is skipped.
    pub(crate) observes: bool,
}

impl Nature {
    /// Refuses to conflate, where the `rule` says why.
    pub(crate) fn check_conflates_not(self, rule: &'static str) -> Result<(), SettingError> {
        match self.conflates {
            true => Err(SettingError::new("conflate", "set", rule)),
            false => Ok(()),
        }
    }
}

/// The rules of a keyed lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rules {
    pub(crate) on_failure: OnFailure,
    pub(crate) on_exhausted: OnExhausted,
    /// Most deliveries that are set aside.
    pub(crate) hold: u32,
    /// How its levels of priority share its consumers, if it has any.
    pub(crate) priorities: Option<Priorities>,
    pub(crate) nature: Nature,
}

/// The property that makes deliveries wait for each other.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keying {
    Nothing,
    Key,
    /// Every delivery waits for all before it, as if they had one key.
    Everything,
}

/// The facts about a lane that its rules have to fit. They are checked in one place, both when the
/// lane is made and while traffic runs.
#[derive(Clone, Copy)]
pub(crate) struct Fit {
    pub(crate) when_full: LaneFull,
    pub(crate) capacity: u32,
    /// Several consumers may take from it at once.
    pub(crate) is_shared: bool,
    /// Leases that may be out, if a number was asked for. The default gives way to one at a time.
    pub(crate) credits: Option<u32>,
}

impl Fit {
    /// Returns these facts with as many leases as were asked for.
    pub(crate) fn with_credits(self, asked: usize) -> Result<Self, SettingError> {
        let credits = u32::try_from(asked).ok();
        let credits = credits.filter(|credits| (1..=self.capacity).contains(credits));
        let rule = "must be between 1 and the lane's capacity";
        let credits = credits.ok_or_else(|| SettingError::new("credits", asked, rule))?;
        Ok(Self {
            credits: Some(credits),
            ..self
        })
    }
}

/// Refuses batches that a lane of this capacity could never fill.
pub(crate) fn check_batch_size(size: Option<usize>, capacity: u32) -> Result<(), SettingError> {
    match size {
        Some(size) if size > capacity as usize => {
            let rule = "must not exceed the lane's capacity, or it would never fill";
            Err(SettingError::new("batch_size", size, rule))
        }
        _ => Ok(()),
    }
}

impl Rules {
    /// Returns the rules of a lane whose order doesn't matter.
    pub(crate) fn plain(capacity: u32, nature: Nature) -> Self {
        Self {
            on_failure: OnFailure::Reorder,
            on_exhausted: OnExhausted::FreeKey,
            hold: capacity,
            priorities: None,
            nature,
        }
    }

    /// Returns these rules, if they make sense for such a lane.
    pub(crate) fn checked(self, fit: Fit) -> Result<Self, SettingError> {
        let refuse = |setting, value: &str, rule| Err(SettingError::new(setting, value, rule));
        if self.blocks() && matches!(fit.when_full, LaneFull::DropOldest | LaneFull::DeadLetter) {
            let rule = "would tear gaps into the order that on_failure is to keep";
            return refuse("when_full", &format!("{:?}", fit.when_full), rule);
        }
        let skips = matches!(fit.when_full, LaneFull::DropNewest | LaneFull::DropOldest);
        if self.nature.observes && !skips {
            let rule = "must be drop_newest or drop_oldest in a subscription that only observes";
            return refuse("when_full", &fit.when_full.to_string(), rule);
        }
        if fit.is_shared && self.on_failure == OnFailure::BlockSubscription {
            let rule = "needs a subscription that handles one delivery at a time";
            return refuse("on_failure", "BlockSubscription", rule);
        }
        if self.on_exhausted == OnExhausted::ParkKey && self.on_failure != OnFailure::BlockKey {
            let rule = "needs OnFailure::BlockKey, or there are no keys to park";
            return refuse("on_exhausted", "ParkKey", rule);
        }
        if let Some(priorities) = self.priorities {
            self.check_priorities(priorities, fit)?;
        }
        if self.on_exhausted == OnExhausted::ParkKey {
            let rule = "can't be used with OnExhausted::ParkKey, whose deliveries stay in order";
            self.nature.check_conflates_not(rule)?;
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

    fn check_priorities(self, priorities: Priorities, fit: Fit) -> Result<(), SettingError> {
        priorities.check()?;
        let rule = "can't be used with priorities: a newer message takes the place of an older one";
        self.nature.check_conflates_not(rule)?;
        if self.on_failure == OnFailure::BlockSubscription {
            let rule = "can't be used with OnFailure::BlockSubscription, where none overtakes";
            return Err(SettingError::new(
                "priorities",
                format_args!("{priorities:?}"),
                rule,
            ));
        }
        if self.hold < fit.capacity {
            let rule = "must be the lane's capacity, because priorities choose from all that waits";
            return Err(SettingError::new("hold", self.hold, rule));
        }
        Ok(())
    }

    /// Returns whether its deliveries have to be filed, even if only one consumer takes them.
    pub(crate) fn files(self) -> bool {
        self.blocks() || self.priorities.is_some()
    }

    /// Returns these rules with another bound on deliveries that are set aside. A bound that was
    /// set stays for when it has an effect again. So only this function asks whether it has one
    /// now.
    pub(crate) fn with_hold(self, asked: usize, fit: Fit) -> Result<Self, SettingError> {
        let hold = u32::try_from(asked).unwrap_or(u32::MAX);
        let rule = match hold {
            0 => "must be at least 1",
            hold if hold > fit.capacity => "must be between 1 and the lane's capacity",
            _ if self.keying(fit.is_shared) != Keying::Key => {
                "needs OnFailure::BlockKey or several consumers, or nothing is ever set aside"
            }
            hold => return Self { hold, ..self }.checked(fit),
        };
        Err(SettingError::new("hold", asked, rule))
    }

    /// Returns these rules for a lane of this capacity, which bounds what is set aside.
    pub(crate) fn within(self, capacity: u32) -> Self {
        Self {
            hold: self.hold.min(capacity),
            ..self
        }
    }

    /// Returns these rules for a lane whose capacity becomes that of `fit`. The bound on deliveries
    /// that are set aside follows if it is the whole capacity. The lane hands out batches of
    /// `batch_size`, if it does.
    pub(crate) fn with_capacity(
        self,
        before: u32,
        batch_size: Option<usize>,
        fit: Fit,
    ) -> Result<Self, SettingError> {
        if let Some(credits) = fit.credits {
            fit.with_credits(credits as usize)?;
        }
        check_batch_size(batch_size, fit.capacity)?;
        let hold = match self.hold {
            hold if hold == before => fit.capacity,
            hold if hold > fit.capacity => {
                let rule = "must be between 1 and the lane's capacity";
                return Err(SettingError::new("hold", hold, rule));
            }
            hold => hold,
        };
        Self { hold, ..self }.checked(fit)
    }

    /// Returns whether a failure holds others up.
    pub(crate) fn blocks(self) -> bool {
        self.on_failure != OnFailure::Reorder
    }

    /// Returns whether an exhausted delivery parks its key.
    pub(crate) fn parks(self) -> bool {
        self.on_failure == OnFailure::BlockKey && self.on_exhausted == OnExhausted::ParkKey
    }

    /// Returns the property that makes deliveries wait for each other. Where several consumers take
    /// at once, it is the key even if no failure holds deliveries.
    pub(crate) fn keying(self, is_shared: bool) -> Keying {
        match self.on_failure {
            OnFailure::BlockSubscription => Keying::Everything,
            OnFailure::BlockKey => Keying::Key,
            OnFailure::Reorder if is_shared => Keying::Key,
            OnFailure::Reorder => Keying::Nothing,
        }
    }
}
