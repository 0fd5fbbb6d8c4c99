//! Settings that change while traffic runs.
//!
//! A change *sets* a word, then *notifies* those that act on it: the dispatcher, the lane's runner,
//! publishers that wait. A thread that has read the word before the change acts once more after it.
//! A change drops nothing that is there, and allocates nothing: a queue that was allocated for fewer
//! messages spills.
//!
//! Two changes let others take from a queue that only its owner took from: a policy that drops the
//! oldest, and a time to live. They take effect when the owner agrees; see
//! [`Shared`](crate::engine::base::cell::Shared).

#[cfg(feature = "log")]
use crate::engine::journal::lane_log::LaneLog;
use crate::engine::runtime::directory::Ttl;
use crate::engine::state::keyed::KeyedLane;
use crate::engine::state::lane::Lane;
use crate::engine::state::partition_queue::PartitionQueue;
use crate::engine::state::topic::TopicCore;
use crate::pure::order::rules::{Fit, Rules};
use crate::sync::Arc;
use crate::types::config::{LaneFull, Overflow};
use crate::types::error::SettingError;

impl<T: Send + Sync + 'static> TopicCore<T> {
    fn change_queues(&self, mut change: impl FnMut(&PartitionQueue<T>)) {
        match &self.split {
            None => change(&self.plain),
            Some(split) => split.change_queues(change),
        }
    }

    /// Changes how many messages may wait, if `check` allows it. No other setting changes meanwhile.
    pub(crate) fn set_capacity(
        self: &Arc<Self>,
        capacity: u64,
        check: impl FnOnce() -> Result<(), SettingError>,
    ) -> Result<(), SettingError> {
        let changing = self.changing.lock();
        check()?;
        self.live.capacity.set(capacity);
        drop(changing);
        // The dispatcher may wait for more messages than there is room for now.
        self.schedule();
        self.call_publishers();
        Ok(())
    }

    /// Changes the policy for a full queue. Publishers that wait go on waiting.
    pub(crate) fn set_overflow(self: &Arc<Self>, overflow: Overflow) {
        let changing = self.changing.lock();
        self.live.overflow.set(overflow);
        if overflow == Overflow::DropOldest {
            self.change_queues(|queue| queue.evicts.ask());
        }
        drop(changing);
        self.schedule();
    }

    /// Changes the time to live of messages that enter the queue from now on.
    pub(crate) fn set_ttl(self: &Arc<Self>, ttl: Ttl) {
        let now_ns = self.engine.clock.now_ns();
        let changing = self.changing.lock();
        self.live.ttl.set(ttl);
        self.change_queues(|queue| queue.set_ttl(ttl, now_ns));
        drop(changing);
        if ttl.is_some() {
            for lane in self.lanes.load().iter() {
                lane.shared.ask();
                lane.schedule();
            }
        }
        self.schedule();
    }
}

impl<T: Send + Sync + 'static> Lane<T> {
    /// Changes the capacity, if the other settings fit the new one.
    pub(crate) fn set_capacity(self: &Arc<Self>, capacity: u32) -> Result<(), SettingError> {
        let fitted = |rules: Rules, fit| {
            let before = self.capacity.get();
            rules.with_capacity(before, self.batch_size, fit)
        };
        self.change(|fit| Fit { capacity, ..fit }, fitted)?;
        if let Some(keyed) = self.keyed() {
            keyed.fit_credits();
        }
        // The topic may wait for room in the lane, and a batch for more than there is room for.
        self.topic.schedule();
        self.schedule();
        Ok(())
    }

    /// Changes the policy for the full lane, if the rules fit the new one.
    pub(crate) fn set_when_full(self: &Arc<Self>, policy: LaneFull) -> Result<(), SettingError> {
        #[cfg(feature = "log")]
        self.check_catch_up(policy)?;
        let when_full = policy;
        self.change(|fit| Fit { when_full, ..fit }, Rules::checked)?;
        if policy == LaneFull::DropOldest {
            self.shared.ask();
        }
        self.stop_lagging();
        self.topic.schedule();
        self.schedule();
        Ok(())
    }

    /// Refuses to catch up where there is no log, and to lose what a durable subscription may not.
    #[cfg(feature = "log")]
    fn check_catch_up(&self, policy: LaneFull) -> Result<(), SettingError> {
        let is_durable = |stored: &LaneLog<T>| stored.cursor.is_some();
        let rule = match (policy == LaneFull::CatchUp, self.stored.as_deref()) {
            (true, None) => "needs a subscription that is durable, or starts from a message",
            (false, Some(stored)) if is_durable(stored) => {
                "must be catch_up in a durable subscription, which loses nothing"
            }
            _ => return Ok(()),
        };
        Err(SettingError::new("when_full", policy, rule))
    }

    /// Changes the facts that the rules have to fit.
    fn change(
        self: &Arc<Self>,
        facts: impl Fn(Fit) -> Fit,
        fitted: impl Fn(Rules, Fit) -> Result<Rules, SettingError>,
    ) -> Result<(), SettingError> {
        let _changing = self.changing.lock();
        let set = |fit: Fit| {
            self.capacity.set(fit.capacity);
            self.when_full.set(fit.when_full);
        };
        let Some(KeyedLane { keyed, .. }) = self.keyed() else {
            let fit = facts(self.fit(false, None));
            fitted(self.plain_rules(), fit)?;
            set(fit);
            return Ok(());
        };
        if facts(self.fit(keyed.is_shared, None)).when_full == LaneFull::DropOldest {
            keyed.state.lock().sequencer.may_drop();
        }
        keyed.set_rules(|rules, credits| {
            let fit = facts(self.fit(keyed.is_shared, credits));
            let rules = fitted(rules, fit)?;
            set(fit);
            Ok(rules)
        })
    }
}
