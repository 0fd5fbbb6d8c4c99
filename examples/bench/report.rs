//! Figures, as they are printed, stored and drawn.

use serde::Serialize;

use crate::contest::{Contender, Record};
use crate::load::Load;
use crate::process::Setting;
use crate::run::Outcome;
use crate::stats::{Spread, ratios};
use crate::systems::Kind;

/// Everything one command found out.
#[derive(Serialize)]
pub struct Report {
    pub setting: Setting,
    pub rounds: usize,
    pub sections: Vec<Section>,
}

/// One question. The first entry is ours; the others are what it is compared with.
#[derive(Serialize)]
pub struct Section {
    pub title: String,
    pub metric: Metric,
    /// Between two cores, in nanoseconds, measured beside each round.
    pub round_trip_ns: Spread,
    /// Cores that other processes kept busy meanwhile, in the mean.
    pub cores_of_others: Option<f64>,
    pub entries: Vec<Entry>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Millions of deliveries a second.
    Throughput,
    /// Microseconds from the intended send time to the handler, in the median.
    MedianLatency,
}

#[derive(Serialize)]
pub struct Entry {
    pub label: String,
    pub system: Kind,
    /// With as many messages as the last run had.
    pub load: Load,
    pub value: Spread,
    /// Processor cores busy, in the median.
    pub cores: Option<f64>,
    pub peak_bytes: Option<u64>,
    pub latency: Latency,
    /// How ours compares with it; `None` for ours.
    pub compared: Option<Compared>,
}

/// All rounds together, in nanoseconds.
#[derive(Serialize)]
pub struct Latency {
    pub samples: u64,
    /// Flat out, a sample of the time in the queue under saturation.
    pub is_open_loop: bool,
    /// Percentile and value.
    pub curve: Vec<(f64, u64)>,
}

#[derive(Serialize)]
pub struct Compared {
    pub of_medians: f64,
    /// By round.
    pub ratio: Spread,
    pub goal: Option<Goal>,
    pub reached: Option<bool>,
}

/// What ours by theirs must be.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Goal {
    AtLeast(f64),
    AtMost(f64),
}

impl Goal {
    /// As far as the two digits go that are printed.
    pub fn is_reached_by(self, ratio: f64) -> bool {
        let rounded = (ratio * 100.0).round() / 100.0;
        match self {
            Self::AtLeast(least) => rounded >= least,
            Self::AtMost(most) => rounded <= most,
        }
    }
}

impl Metric {
    pub fn unit(self) -> &'static str {
        match self {
            Self::Throughput => "M/s",
            Self::MedianLatency => "µs, p50",
        }
    }

    fn of(self, outcome: &Outcome) -> f64 {
        match self {
            Self::Throughput => outcome.throughput() / 1e6,
            Self::MedianLatency => outcome.latency.value_at_quantile(0.5) as f64 / 1e3,
        }
    }
}

/// Where a curve is read.
const PERCENTILES: [f64; 16] = [
    0.0, 10.0, 25.0, 50.0, 75.0, 90.0, 95.0, 97.5, 99.0, 99.5, 99.9, 99.95, 99.99, 99.995, 99.999,
    100.0,
];

impl Latency {
    fn of(load: &Load, outcomes: &[Outcome]) -> Self {
        let mut all = crate::check::histogram();
        for outcome in outcomes {
            // It grows by itself as far as it must.
            let _ = all.add(&outcome.latency);
        }
        // A percentile that fewer than two samples lie above says nothing.
        let samples = all.len();
        let told = |p: &f64| *p == 100.0 || samples as f64 * (100.0 - p) >= 200.0;
        let read = |p: f64| (p, all.value_at_percentile(p));
        Self {
            samples,
            is_open_loop: load.rate.is_some(),
            curve: PERCENTILES.into_iter().filter(told).map(read).collect(),
        }
    }

    /// At exactly this percentile, if it was read.
    pub fn at(&self, percentile: f64) -> Option<u64> {
        let read = self.curve.iter().find(|(p, _)| *p == percentile)?;
        Some(read.1)
    }
}

impl Section {
    /// `goals` are by contender, the first being ours; missing ones are none.
    pub fn new(
        title: String,
        metric: Metric,
        contenders: Vec<Contender>,
        goals: &[Option<Goal>],
        record: &Record,
    ) -> Self {
        let values: Vec<Vec<f64>> = record
            .outcomes
            .iter()
            .map(|outcomes| outcomes.iter().map(|o| metric.of(o)).collect())
            .collect();
        let entries = contenders.into_iter().enumerate().map(|(at, contender)| {
            let outcomes = &record.outcomes[at];
            let goal = goals.get(at).copied().flatten();
            let compared = (at > 0).then(|| Compared::new(&values[0], &values[at], goal));
            let cores: Option<Vec<_>> = outcomes.iter().map(Outcome::cores).collect();
            Entry {
                latency: Latency::of(&contender.load, outcomes),
                label: contender.label,
                system: contender.system,
                load: contender.load,
                value: Spread::of(&values[at]),
                cores: cores.map(|cores| Spread::of(&cores).median),
                peak_bytes: outcomes.iter().filter_map(|o| o.peak_bytes).max(),
                compared,
            }
        });
        Self {
            title,
            metric,
            round_trip_ns: Spread::of(&record.round_trips_ns),
            cores_of_others: mean(
                record
                    .outcomes
                    .iter()
                    .flatten()
                    .map(Outcome::cores_of_others),
            ),
            entries: entries.collect(),
        }
    }
}

/// Of all, or of none.
fn mean(values: impl Iterator<Item = Option<f64>>) -> Option<f64> {
    let values: Vec<_> = values.collect::<Option<_>>()?;
    Some(values.iter().sum::<f64>() / values.len() as f64)
}

impl Compared {
    fn new(ours: &[f64], theirs: &[f64], goal: Option<Goal>) -> Self {
        let ratio = ratios(ours, theirs);
        Self {
            of_medians: Spread::of(ours).median / Spread::of(theirs).median,
            ratio,
            goal,
            reached: goal.map(|goal| goal.is_reached_by(ratio.median)),
        }
    }
}

impl Report {
    /// Goals reached, and goals there are.
    pub fn goals(&self) -> (usize, usize) {
        let entries = self.sections.iter().flat_map(|section| &section.entries);
        let goals = entries.filter_map(|entry| entry.compared.as_ref()?.reached);
        goals.fold((0, 0), |(reached, all), is| {
            (reached + usize::from(is), all + 1)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_goal_is_judged_by_the_digits_that_are_printed() {
        assert!(Goal::AtLeast(1.2).is_reached_by(1.196));
        assert!(!Goal::AtLeast(1.2).is_reached_by(1.194));
        assert!(Goal::AtMost(1.1).is_reached_by(1.104));
        assert!(!Goal::AtMost(1.1).is_reached_by(1.106));
    }
}
