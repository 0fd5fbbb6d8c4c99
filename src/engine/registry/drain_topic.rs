//! The end of one topic, while the broker lives on.
//!
//! Steps. The topic's gate is *closed* to everybody. Then its work is done: its queue, its lanes,
//! and the retries and delayed messages that are due before the deadline. Then it is *stopped*. From
//! that mark on its dispatcher drops what it finds, and its lanes are cancelled, as those of a
//! broker that has stopped.
//!
//! The feared interleaving: a subscription joins after the lanes were listed to be cancelled, and
//! never ends. But who subscribes looks for the mark after joining, and ends the lane then.
//! Subscriptions to patterns join under a lock that the stop holds.

use std::time::Duration;

use crate::engine::registry::drain::{GRACE, MOMENT, Work, add_messages, of_deliveries};
use crate::engine::runtime::directory::{AnyTopic, Survey};
use crate::engine::runtime::{Engine, context};
use crate::pure::words::ending::Refuse;
use crate::sync::{Arc, Instant};
use crate::types::error::DrainError;
use crate::types::report::DrainReport;

/// The work of one topic.
struct Of<'a>(&'a Engine, &'a dyn AnyTopic);

impl Work for Of<'_> {
    fn survey(&self) -> Option<Survey> {
        let first = self.1.survey();
        (self.1.survey() == first).then_some(first)
    }

    fn outlook(&self) -> (u64, Option<u64>) {
        self.0.timer.outlook_of(&self.1.targets())
    }
}

impl Of<'_> {
    fn is_at_rest(&self) -> bool {
        let is_done = |survey: Survey| survey.moving == 0 && survey.parked == 0;
        self.survey().is_some_and(is_done)
    }

    fn report(&self, took: Duration) -> DrainReport {
        let metrics = self.1.metrics();
        let deliveries = of_deliveries(&metrics.deliveries());
        let mut report = DrainReport { took, ..deliveries };
        add_messages(&mut report, &metrics);
        report
    }
}

impl Engine {
    /// Drains one topic; see [`Topic::drain`](crate::Topic::drain).
    pub(crate) fn drain_topic(
        &self,
        topic: &Arc<dyn AnyTopic>,
        deadline: Duration,
    ) -> Result<DrainReport, DrainError> {
        let began = Instant::now();
        let until = match self.has_lost_its_threads() {
            true => Some(began),
            false => began.checked_add(deadline),
        };
        Arc::clone(topic).close(Refuse::All);
        let work = Of(self, &**topic);
        if context::is_inside(self) {
            return Err(DrainError::InsideHandler(work.report(began.elapsed())));
        }
        // A second drain waits here for the first.
        let _draining = topic.draining().lock();
        self.come_to_rest_with(&work, until);
        let before = work.report(Duration::ZERO);
        self.stop_topic(
            topic,
            &work,
            until.and_then(|until| until.checked_add(GRACE)),
        );
        let mut report = work.report(began.elapsed());
        let kept = topic.kept();
        let cancelled = report.cancelled.saturating_sub(before.cancelled);
        let dropped = report
            .messages_dropped
            .saturating_sub(before.messages_dropped + kept);
        report.cut_off = topic.note_cut_off(cancelled + dropped) + report.remaining;
        match report.is_complete() {
            true => Ok(report),
            false => Err(DrainError::Incomplete(report)),
        }
    }

    /// Works, or waits while others work, until nothing is left to do or the rest is due only
    /// after `until`. Workers that are busy elsewhere tell nobody of it, so it looks again and again.
    fn come_to_rest_with(&self, work: &Of<'_>, until: Option<Instant>) {
        if self.is_manual() {
            return self.come_to_rest(work, until);
        }
        let mut pause = MOMENT;
        loop {
            let time_is_up = until.is_some_and(|until| Instant::now() >= until);
            let soon = Instant::now().checked_add(pause);
            let soon = [soon, until].into_iter().flatten().min();
            let is_done = |survey| self.is_done(work, survey, until);
            let has_come = || work.survey().is_some_and(is_done);
            if time_is_up || self.quiescence.wait(soon, has_come) {
                return;
            }
            pause = GRACE.min(pause * 2);
        }
    }

    /// Cancels what the topic still has, and ends its subscriptions.
    fn stop_topic(&self, topic: &Arc<dyn AnyTopic>, work: &Of<'_>, until: Option<Instant>) {
        let pattern_subs = self.pattern_subs.lock();
        let mut left = pattern_subs.clone();
        topic.stop();
        left.retain(|pattern_sub| pattern_sub.on_topic_removed(topic.name()));
        drop(pattern_subs);
        loop {
            Arc::clone(topic).end(self);
            if work.is_at_rest() || until.is_some_and(|until| Instant::now() >= until) {
                break;
            }
            let soon = Instant::now().checked_add(MOMENT);
            self.quiescence.wait(soon, || work.is_at_rest());
        }
        for pattern_sub in left {
            pattern_sub.reap_ended();
        }
    }
}
