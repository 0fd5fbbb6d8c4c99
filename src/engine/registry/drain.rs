//! The end of a broker: the drain, and its immediate version, the drop.

use std::time::Duration;

use crate::engine::base::counters::DeliveryCounts;
use crate::engine::runtime::directory::Survey;
use crate::engine::runtime::{Engine, context};
use crate::observe::event::{EventKind, Record};
use crate::observe::metrics::{Metrics, TopicMetrics};
use crate::pure::words::ending::{Ending, Refuse};
use crate::sync::atomic::Ordering;
use crate::sync::{Arc, Instant, Mutex, sleep};
use crate::types::error::DrainError;
use crate::types::report::DrainReport;

/// Sums up the counts of all topics.
fn report_of(metrics: &Metrics, took: Duration) -> DrainReport {
    let mut report = DrainReport {
        took,
        ..of_deliveries(&metrics.deliveries())
    };
    for topic in metrics.all() {
        add_messages(&mut report, topic);
    }
    report
}

/// Reports the ends of deliveries.
pub(crate) fn of_deliveries(counts: &DeliveryCounts) -> DrainReport {
    DrainReport {
        made: counts.made - counts.filtered,
        delivered: counts.delivered,
        dead_lettered: counts.dead_lettered,
        dropped: counts.dropped,
        expired: counts.expired,
        cancelled: counts.cancelled,
        remaining: counts.open(),
        ..DrainReport::default()
    }
}

/// Adds the messages of a topic to a report.
pub(crate) fn add_messages(report: &mut DrainReport, topic: &TopicMetrics) {
    report.published += topic.published;
    report.dispatched += topic.dispatched;
    report.unrouted += topic.unrouted;
    report.messages_dropped += topic.dropped;
    report.remaining += topic.queued;
}

/// The result of the first drain, for all later ones to return.
#[derive(Default)]
pub(crate) struct Outcome(Mutex<Option<Result<DrainReport, DrainError>>>);

/// How long to wait after the deadline for things that end by themselves. These are
/// publishers between their ticket and their push, observers, and threads that have nothing
/// left to do.
pub(crate) const GRACE: Duration = Duration::from_millis(50);
/// How long to wait for steps of other threads that take almost no time: a push after its
/// ticket, the end of a turn.
pub(crate) const MOMENT: Duration = Duration::from_millis(1);
/// How long the drop of a broker waits for running handlers.
pub(crate) const DROP_GRACE: Duration = Duration::from_secs(1);

/// The work that a drain waits for.
pub(crate) trait Work {
    /// Returns what is still to do, or `None` if that changed during the look.
    fn survey(&self) -> Option<Survey>;
    /// Returns the number of retries and delayed messages whose time has not come, and a time no
    /// later than that of the first.
    fn outlook(&self) -> (u64, Option<u64>);
}

/// The work of all topics.
struct Whole<'a>(&'a Engine);

impl Work for Whole<'_> {
    fn survey(&self) -> Option<Survey> {
        self.0.survey()
    }

    fn outlook(&self) -> (u64, Option<u64>) {
        self.0.timer.outlook()
    }
}

/// Returns the later of the two; `None` is never.
fn later(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    one.zip(other).map(|(one, other)| one.max(other))
}

impl Engine {
    /// Drains the broker; see [`Broker::drain`](crate::Broker::drain).
    pub(crate) fn drain(
        self: &Arc<Self>,
        deadline: Duration,
        whom: Refuse,
        outcome: &Outcome,
    ) -> Result<DrainReport, DrainError> {
        let began = Instant::now();
        let until = match self.has_lost_its_threads() {
            true => Some(began),
            false => began.checked_add(deadline),
        };
        let is_first = self.ending.update(|ending| ending.advance(Ending::Closing));
        // A drain by stages that already runs keeps its stages.
        self.refuse(if is_first { whom } else { Refuse::Outside });
        if context::is_inside(self) {
            let report = report_of(&self.read_metrics(), began.elapsed());
            return Err(DrainError::InsideHandler(report));
        }
        // A second drain waits here for the result of the first.
        let mut outcome = outcome.0.lock();
        if let Some(done) = &*outcome {
            return done.clone();
        }
        self.announce(EventKind::DrainStarted);
        if whom == Refuse::Outside {
            // At rest no handler runs, so no handler is refused a publish that was granted
            // until then.
            self.come_to_rest(&Whole(self), until);
        }
        self.refuse(Refuse::All);
        self.come_to_rest(&Whole(self), until);
        let report = self.stop(until.and_then(|until| until.checked_add(GRACE)), began);
        let result = if report.is_complete() {
            Ok(report)
        } else {
            Err(DrainError::Incomplete(report))
        };
        #[cfg(feature = "log")]
        if let Some(store) = &self.store {
            // The cursors. If it fails, deliveries come again.
            let _ = store.inner.log.flush();
        }
        *outcome = Some(result.clone());
        result
    }

    /// Closes all present and future topics to these publishers.
    fn refuse(&self, whom: Refuse) {
        self.ending.update(|ending| ending.advance(Ending::Closing));
        // A topic that is being opened is on the map before this look, or never will be.
        let opening = self.pattern_subs.lock();
        let topics = self.topics.values();
        drop(opening);
        for topic in topics {
            topic.close(whom);
        }
        // The ending advances once it is true of every topic.
        self.ending
            .update(|ending| ending.advance(Ending::Draining));
    }

    /// Works, or waits while others work, until nothing is left to do or the rest is due only
    /// after `until`.
    pub(crate) fn come_to_rest(&self, work: &dyn Work, until: Option<Instant>) {
        if !self.is_manual() {
            let is_done = |survey| self.is_done(work, survey, until);
            self.quiescence
                .wait(until, || work.survey().is_some_and(is_done));
            return;
        }
        let mut last = None;
        // Work that is due now is done in any case, but not forever. Handlers may publish or
        // put back as much as they handle.
        let at_least = Instant::now().checked_add(GRACE);
        let late = later(until, at_least);
        loop {
            self.run_until(late);
            let survey = work.survey();
            let time_is_up = until.is_some_and(|until| Instant::now() >= until);
            if time_is_up || survey.is_some_and(|survey| self.is_done(work, survey, until)) {
                return;
            }
            // Deliveries that were put back are tried again for a while, because they may
            // succeed.
            let is_put_off = !self.next_run.lock().is_empty()
                && at_least.is_some_and(|at_least| Instant::now() < at_least);
            let stands = |survey| !is_put_off && self.stands(work, survey, last);
            if self.clock.is_manual() && survey.is_some_and(stands) {
                // The rest waits for the clock, which nobody moves now.
                return;
            }
            last = survey;
            let next_ns = self.timer.next_deadline_ns();
            let wake = next_ns.and_then(|at_ns| self.clock.instant(at_ns));
            let pause = wake.map_or(MOMENT, |wake| {
                wake.saturating_duration_since(Instant::now())
            });
            sleep(pause.min(GRACE));
        }
    }

    /// Whether nothing is left to do, or only work that is due after `until`.
    pub(crate) fn is_done(&self, work: &dyn Work, survey: Survey, until: Option<Instant>) -> bool {
        survey.moving == 0 && !self.is_coming(work, survey.parked, until)
    }

    /// Whether nothing will move on a manual engine before its clock does. That is so if no
    /// other thread runs the engine, and nothing has been done for a moment.
    fn stands(&self, work: &dyn Work, survey: Survey, last: Option<Survey>) -> bool {
        let is_settled = survey.moving == 0 && survey.parked <= work.outlook().0;
        self.pool.alive() == 0 && (is_settled || last == Some(survey))
    }

    /// Whether any of the `parked` retries and delayed messages is due before `until`.
    fn is_coming(&self, work: &dyn Work, parked: u64, until: Option<Instant>) -> bool {
        if parked == 0 {
            return false;
        }
        let (still_parked, next_ns) = work.outlook();
        if parked > still_parked {
            // The time of one of them has come, and it is on its way.
            return true;
        }
        match (next_ns.and_then(|at_ns| self.clock.instant(at_ns)), until) {
            (Some(due), Some(until)) => due <= until,
            (Some(_), None) => true,
            (None, _) => false,
        }
    }

    /// Returns how many delayed messages were dropped and stay in the log.
    fn kept(&self) -> u64 {
        self.all_topics().iter().map(|topic| topic.kept()).sum()
    }

    /// Cancels the rest, ends the threads, and returns the report.
    pub(crate) fn stop(self: &Arc<Self>, until: Option<Instant>, began: Instant) -> DrainReport {
        self.refuse(Refuse::All);
        let before = report_of(&self.read_metrics(), Duration::ZERO);
        let refused = self.cancelled_by_end.load(Ordering::Acquire);
        let kept_before = self.kept();
        self.ending.update(|ending| ending.advance(Ending::Stopped));
        self.release_pattern_subs();
        let mut ended;
        loop {
            // Workers do the same with the tasks that they run. The thread that claims a lane
            // or a topic ends it.
            for topic in self.all_topics() {
                Arc::clone(&topic).end(self);
            }
            ended = self.is_at_rest();
            if ended || until.is_some_and(|until| Instant::now() >= until) {
                break;
            }
            let soon = Instant::now().checked_add(MOMENT);
            self.quiescence.wait(soon, || self.is_at_rest());
        }
        if !self.has_lost_its_threads() {
            ended &= self.stop_threads(until);
        }
        if ended {
            self.release_settings();
        }
        let mut report = report_of(&self.read_metrics(), began.elapsed());
        let kept = self.kept().saturating_sub(kept_before);
        let cancelled = report.cancelled.saturating_sub(before.cancelled);
        let dropped = report
            .messages_dropped
            .saturating_sub(before.messages_dropped + kept);
        // A delivery that was refused between the two reads above is in both counts, so the sum
        // is bounded by all that was lost.
        let lost = report.cancelled + report.messages_dropped + report.remaining;
        report.cut_off = lost.min(refused + cancelled + dropped + report.remaining);
        report
    }

    /// Ends the threads and passes the last events to observers. Returns `false` if some are
    /// still busy.
    fn stop_threads(&self, until: Option<Instant>) -> bool {
        self.pool.stop();
        self.timer.stop();
        self.announce(EventKind::Drained);
        if self.is_manual() {
            let _inside = context::Inside::enter(self);
            self.bus.pump();
        }
        // Threads that have nothing left to do may use the rest of the time.
        let soon = later(until, Instant::now().checked_add(GRACE));
        let all_gone = || self.quiescence.wait(soon, || self.pool.alive() == 0);
        let all_gone = !context::is_inside(self) && all_gone();
        if all_gone {
            self.pool.join();
        } else {
            self.pool.abandon();
        }
        self.pool.clear();
        let all_told = self.bus.stop(soon);
        if all_told {
            self.bus.release_user_code();
        }
        all_gone && all_told
    }

    fn announce(&self, kind: EventKind) {
        if self.bus.observed() {
            let now_ns = self.clock.now_ns();
            let record = Record::new(Arc::from(""), now_ns, kind);
            self.bus.send(Box::new(record));
        }
    }

    /// Waits until nothing is left to do; on an engine without workers, does the work.
    pub(crate) fn wait_until_idle(&self, timeout: Duration) -> bool {
        if context::is_inside(self) {
            return false;
        }
        if self.is_manual() {
            self.run_until_idle();
            return self.is_at_rest();
        }
        let until = Instant::now().checked_add(timeout);
        let still = self.quiescence.wait(until, || self.is_at_rest());
        still && self.bus.flush(until)
    }

    /// Returns the time until the next retry, linger or delayed message.
    pub(crate) fn next_deadline(&self) -> Option<Duration> {
        let next_ns = self.timer.next_deadline_ns()?;
        Some(Duration::from_nanos(
            next_ns.saturating_sub(self.clock.timer_ns()),
        ))
    }
}
