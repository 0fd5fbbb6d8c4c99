//! Changes of a subscription to patterns while traffic runs, in all present and future lanes.

use crate::engine::base::contain::SharedPolicy;
use crate::engine::gates::protection::{ChangeBreaker, ProtectionSettings};
use crate::engine::parts::leases::Leasing;
use crate::engine::patterns::members::PatternMember;
use crate::engine::patterns::plan::{Template, check_when_full};
use crate::engine::patterns::subscription::PatternSub;
use crate::engine::runtime::context::Inside;
use crate::engine::slots::timed_calls::check_timeout;
use crate::engine::state::keyed::ChangeRules;
use crate::engine::wait::holds::Hold;
use crate::message::{HoldOff, MessageId};
use crate::observe::event::EventKind;
use crate::pure::order::rules::{Fit, Nature};
use crate::sync::Arc;
use crate::types::config::LaneFull;
use crate::types::error::{SettingError, SubscribeError};
use std::time::Duration;

impl<T: Send + Sync + 'static> PatternSub<T> {
    pub(crate) fn set_retry(&self, policy: SharedPolicy) {
        // These are dropped after the lock is released.
        let mut before = Vec::new();
        let mut resolved = self.resolved.lock();
        for lane in resolved.all() {
            before.push(lane.retry.swap(Arc::new(Some(Arc::clone(&policy)))));
        }
        before.push(Arc::new(resolved.retry.replace(policy)));
    }

    /// Changes the rules of all present and future lanes.
    pub(crate) fn set_rules(&self, change: &ChangeRules) -> Result<(), SettingError> {
        let mut resolved = self.resolved.lock();
        let Some(template) = &resolved.template else {
            return Ok(());
        };
        let rules = change(
            resolved.rules,
            template.fit(resolved.capacity, resolved.when_full),
        )?;
        resolved.rules = rules;
        let lanes: Vec<_> = resolved.all().cloned().collect();
        drop(resolved);
        for lane in lanes {
            lane.set_rules(&move |_, fit| rules.within(fit.capacity).checked(fit))?;
        }
        Ok(())
    }

    /// Changes the capacity of all present and future lanes.
    pub(crate) fn set_capacity(&self, capacity: u32) -> Result<(), SettingError> {
        let mut resolved = self.resolved.lock();
        let Some(template) = &resolved.template else {
            return Ok(());
        };
        let before = resolved.capacity.unwrap_or(u32::MAX);
        let fit = template.fit(Some(capacity), resolved.when_full);
        let rules = resolved
            .rules
            .with_capacity(before, template.batch_size(), fit)?;
        resolved.rules = rules;
        resolved.capacity = Some(capacity);
        let lanes: Vec<_> = resolved.all().cloned().collect();
        drop(resolved);
        lanes
            .iter()
            .try_for_each(|lane| lane.set_capacity(capacity))
    }

    /// Changes the policy for all present and future lanes when they are full.
    pub(crate) fn set_when_full(&self, policy: LaneFull) -> Result<(), SettingError> {
        check_when_full(policy)?;
        let mut resolved = self.resolved.lock();
        let Some(template) = &resolved.template else {
            return Ok(());
        };
        let fit = template.fit(resolved.capacity, policy);
        resolved.rules.checked(fit)?;
        resolved.when_full = policy;
        let lanes: Vec<_> = resolved.all().cloned().collect();
        drop(resolved);
        lanes.iter().try_for_each(|lane| lane.set_when_full(policy))
    }

    /// Pauses all present and future lanes, or ends that pause.
    pub(crate) fn set_paused(&self, is_paused: bool) {
        let mut resolved = self.resolved.lock();
        resolved.is_paused = is_paused;
        let lanes: Vec<_> = resolved.all().cloned().collect();
        for lane in &lanes {
            lane.set_paused(Hold::Subscription, is_paused);
        }
        drop(resolved);
        // The last reference to a lane may go with them.
        drop(lanes);
    }

    /// Changes the protection of all present and future lanes.
    pub(crate) fn set_protection(
        &self,
        change: &dyn Fn(&mut ProtectionSettings),
    ) -> Result<(), SettingError> {
        let mut resolved = self.resolved.lock();
        let is_pulled = matches!(resolved.template, Some(Template::Callers(..)));
        let mut settings = resolved.protection.clone();
        change(&mut settings);
        settings.check(is_pulled)?;
        // The rules of a breaker are the user's. They are dropped after the lock is released.
        let before = std::mem::replace(&mut resolved.protection, settings.clone());
        let lanes: Vec<_> = resolved.all().cloned().collect();
        drop(resolved);
        drop(before);
        for lane in lanes {
            lane.set_protection(&settings);
        }
        Ok(())
    }

    /// Changes the longest time of calls in all present and future lanes, if they can have one.
    pub(crate) fn set_timeout(&self, timeout_ns: u64) -> Result<(), SettingError> {
        let mut resolved = self.resolved.lock();
        let (takes_batches, has_slots) = match &resolved.template {
            None => return Ok(()),
            Some(Template::Runner(_, size)) => (size.is_some(), resolved.calling.is_timed),
            Some(_) => (false, true),
        };
        let takes_batches =
            takes_batches || resolved.members.iter().any(|member| member.takes_batches());
        check_timeout(timeout_ns, takes_batches, has_slots)?;
        resolved.calling.timeout_ns = timeout_ns;
        let lanes: Vec<_> = resolved.all().cloned().collect();
        drop(resolved);
        lanes
            .iter()
            .try_for_each(|lane| lane.set_timeout(timeout_ns))
    }

    /// Changes the breakers of all present lanes by hand. Returns `false` if there is none.
    pub(crate) fn change_breaker(&self, change: ChangeBreaker) -> bool {
        let resolved = self.resolved.lock();
        let lanes: Vec<_> = resolved.all().cloned().collect();
        drop(resolved);
        let changed = lanes.iter().map(|lane| lane.change_breaker(change));
        changed.fold(false, |any, changed| any | changed)
    }

    /// Hands out nothing for this time, in all present lanes.
    pub(crate) fn hold_off(&self, time: Duration) {
        let lanes: Vec<_> = self.resolved.lock().all().cloned().collect();
        lanes.iter().for_each(|lane| lane.hold_off(time));
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.resolved.lock().is_paused
    }

    /// Has deliveries that wait for their next attempt come now, in all topics. Returns their number.
    pub(crate) fn retry_now(&self, only: Option<MessageId>) -> usize {
        let lanes: Vec<_> = self.resolved.lock().all().cloned().collect();
        lanes.iter().map(|lane| lane.retry_now(only)).sum()
    }

    /// Changes how many calls run at once in each topic, if the handler is for several.
    pub(crate) fn set_concurrency(&self, concurrency: usize) -> bool {
        let mut resolved = self.resolved.lock();
        match &mut resolved.template {
            Some(Template::Slots(_, present)) => *present = concurrency,
            _ => return false,
        }
        let lanes: Vec<_> = resolved.all().cloned().collect();
        drop(resolved);
        for keyed in lanes.iter().filter_map(|lane| lane.keyed()) {
            keyed.set_concurrency(concurrency);
        }
        true
    }

    /// Changes how leases are given in each topic, if callers pull. Leases that are out stay.
    pub(crate) fn set_leasing(
        &self,
        change: impl FnOnce(&mut Leasing, Fit) -> Result<(), SettingError>,
    ) -> Result<(), SettingError> {
        let mut resolved = self.resolved.lock();
        let rules = resolved.rules;
        let (capacity, when_full) = (resolved.capacity, resolved.when_full);
        let Some(template) = &mut resolved.template else {
            return Ok(());
        };
        let fit = template.fit(capacity, when_full);
        let Template::Callers(leasing, sources) = template else {
            return Ok(());
        };
        let mut changed = *leasing;
        change(&mut changed, fit)?;
        rules.checked(Fit {
            credits: changed.credits,
            ..fit
        })?;
        *leasing = changed;
        let receivers = Arc::clone(&sources.receivers);
        let lanes: Vec<_> = resolved.all().cloned().collect();
        drop(resolved);
        for keyed in lanes.iter().filter_map(|lane| lane.keyed()) {
            keyed.open_leases(changed);
        }
        receivers.wake_all();
        Ok(())
    }

    pub(crate) fn nature(&self) -> Nature {
        self.resolved.lock().rules.nature
    }

    /// Adds a member to the group, in all present and future lanes.
    pub(crate) fn add_member(
        &self,
        member: PatternMember<T>,
    ) -> Result<Arc<PatternMember<T>>, SubscribeError> {
        // The member is dropped after the lock is released.
        let member = Arc::new(member);
        let mut resolved = self.resolved.lock();
        if resolved.template.is_none() {
            return Err(SubscribeError::Closed);
        }
        check_timeout(resolved.calling.timeout_ns, member.takes_batches(), true)?;
        if resolved
            .members
            .iter()
            .any(|other| other.name == member.name)
        {
            let name = member.name.to_string();
            return Err(SubscribeError::MemberTaken { name });
        }
        resolved.members.push(Arc::clone(&member));
        let lanes: Vec<_> = resolved.lanes.values().cloned().collect();
        drop(resolved);
        for lane in lanes {
            member.join(&lane);
            let member = Arc::clone(&member.name);
            lane.tell_of_member(EventKind::MemberJoined { member });
        }
        member.leave_ending();
        Ok(member)
    }

    /// Has a member leave all lanes.
    pub(crate) fn remove_member(&self, member: &Arc<PatternMember<T>>) {
        let mut resolved = self.resolved.lock();
        resolved.members.retain(|other| !Arc::ptr_eq(other, member));
        drop(resolved);
        let _inside = Inside::enter(&self.engine);
        member.begin_to_leave();
        self.engine.quiescence.notify();
    }
}
