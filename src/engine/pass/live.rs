//! The settings of a lane's protection, which change while traffic runs.

use crate::engine::gates::protection::{ChangeBreaker, ProtectionSettings};
use crate::engine::state::lane::Lane;
use crate::engine::wait::fire::Fire;
use crate::engine::wait::holds::Hold;
use crate::message::HoldOff;
use crate::pure::protect::breaker::state::BreakerStatus;
use crate::sync::{Arc, Weak};
use crate::types::duration::nanos;
use crate::types::error::SettingError;
use std::time::Duration;

impl<T: Send + Sync + 'static> Lane<T> {
    /// Sets the protection. Counts and states stay, as far as they fit the new settings.
    pub(crate) fn set_protection(self: &Arc<Self>, settings: &ProtectionSettings) {
        let now_ns = self.engine().clock.now_ns();
        let mut protection = self.gate.protection();
        let lane = || Arc::downgrade(self) as Weak<dyn Fire>;
        let place = protection.set(settings, self.salt, lane, now_ns);
        let before = std::mem::replace(&mut protection.settings, settings.clone());
        let is_any = protection.is_any();
        self.gate.holds.set(Hold::Protection, is_any);
        let has_place = protection.place.is_some();
        self.gate.holds.set(Hold::Limit, has_place);
        drop(protection);
        if !is_any && !self.gate.holds.is_paused() {
            // Nobody asks a gate that has nothing to say.
            self.note_waiting(None);
        }
        // The rules of a breaker are the user's. They are dropped after the lock is released.
        drop(before);
        if let Some(place) = place {
            place.part();
        }
        if self.is_retired() {
            self.end_protection();
        }
        self.schedule();
    }

    /// Changes the protection, if the new settings make sense.
    pub(crate) fn change_protection(
        self: &Arc<Self>,
        change: &dyn Fn(&mut ProtectionSettings),
    ) -> Result<(), SettingError> {
        let _changing = self.changing.lock();
        let mut settings = self.gate.protection().settings.clone();
        change(&mut settings);
        settings.check(self.consumers.pull())?;
        self.set_protection(&settings);
        Ok(())
    }

    /// Gives up what its protection has of others, because the lane has ended.
    pub(crate) fn end_protection(&self) {
        let Some(mut protection) = self.gate.known() else {
            return;
        };
        let place = protection.place.take();
        protection.wake.cancel(self.engine());
        let settings = std::mem::take(&mut protection.settings);
        let breaker = protection.breaker.take();
        drop(protection);
        // The rules of a breaker are the user's, and go as its handler went.
        drop((settings, breaker));
        if let Some(place) = place {
            place.part();
        }
    }

    /// Changes the breaker by hand. Returns `false` if there is none.
    pub(crate) fn change_breaker(self: &Arc<Self>, change: ChangeBreaker) -> bool {
        let now_ns = self.engine().clock.now_ns();
        let mut protection = self.gate.protection();
        let Some(breaker) = &mut protection.breaker else {
            return false;
        };
        let changed = change(breaker, now_ns);
        drop(protection);
        if let Some(changed) = changed {
            self.tell_change(changed);
        }
        self.schedule();
        true
    }

    pub(crate) fn breaker_status(&self) -> Option<BreakerStatus> {
        let protection = self.gate.known()?;
        protection.breaker.as_ref().map(|breaker| breaker.status())
    }

    /// Returns how many retries the budget has put off.
    pub(crate) fn deferred(&self) -> u64 {
        self.gate
            .known()
            .map_or(0, |protection| protection.deferred)
    }
}

impl<T: Send + Sync + 'static> HoldOff for Lane<T> {
    /// Nobody has to be told: whoever takes a delivery asks before.
    fn hold_off(&self, time: Duration) {
        let until_ns = self.engine().clock.now_ns().saturating_add(nanos(time));
        let mut protection = self.gate.protection();
        protection.rate = protection.gcra.hold_off(protection.rate, until_ns);
        self.gate.holds.set(Hold::Protection, true);
    }
}
