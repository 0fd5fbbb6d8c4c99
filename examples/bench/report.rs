//! Figures, as they are printed, stored and drawn.

use std::fmt;

use serde::Serialize;

use crate::check::histogram;
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
    /// Rounds run again because it was too much.
    pub repeated: usize,
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
    /// Millions of deliveries a second, whatever the metric is.
    pub throughput: Spread,
    /// Processor cores busy, in the median.
    pub cores: Option<f64>,
    /// Of the whole process, which keeps what the systems before had freed: it
    /// says something about the one system that runs alone.
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
    /// What ours must be by itself.
    OursAtMost(f64),
}

impl Goal {
    /// As far as the two digits go that are printed.
    pub fn is_reached_by(self, ratio: f64, ours: f64) -> bool {
        let rounded = |value: f64| (value * 100.0).round() / 100.0;
        match self {
            Self::AtLeast(least) => rounded(ratio) >= least,
            Self::OursAtMost(most) => rounded(ours) <= most,
        }
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtLeast(least) => write!(f, "at least {least}"),
            Self::OursAtMost(most) => write!(f, "ours at most {most}"),
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

    fn all_of(self, outcomes: &[Outcome]) -> Vec<f64> {
        let of = |outcome: &Outcome| match self {
            Self::Throughput => outcome.throughput() / 1e6,
            Self::MedianLatency => outcome.latency.value_at_quantile(0.5) as f64 / 1e3,
        };
        outcomes.iter().map(of).collect()
    }
}

/// Curves are read at so many places in each tenth of what is left: from 0 to 90,
/// from 90 to 99, from 99 to 99.9 and so on.
const STEPS: u32 = 18;
const TENTHS: i32 = 5;

impl Latency {
    fn of(load: &Load, outcomes: &[Outcome]) -> Self {
        let mut all = histogram();
        for outcome in outcomes {
            all += &outcome.latency;
        }
        let samples = all.len();
        let read = |percentile| (percentile, all.value_at_percentile(percentile));
        Self {
            samples,
            is_open_loop: load.rate.is_some(),
            curve: percentiles(samples).map(read).collect(),
        }
    }

    /// At one of the percentiles that everybody looks at, if there were samples
    /// enough for it.
    pub fn at(&self, percentile: f64) -> Option<u64> {
        let is_it = |(read, _): &&(f64, u64)| (read - percentile).abs() < 1e-9;
        Some(self.curve.iter().find(is_it)?.1)
    }
}

/// Those that at least two of the samples lie above, and the largest value.
fn percentiles(samples: u64) -> impl Iterator<Item = f64> {
    let tenths = (0..TENTHS).flat_map(|tenth| {
        let left = 100.0 / 10_f64.powi(tenth);
        (0..STEPS).map(move |step| 100.0 - left * (1.0 - f64::from(step) / 20.0))
    });
    let told = move |percentile: &f64| samples as f64 * (100.0 - percentile) >= 199.9;
    tenths.filter(told).chain([100.0])
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
            .map(|outcomes| metric.all_of(outcomes))
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
                throughput: Spread::of(&Metric::Throughput.all_of(outcomes)),
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
            repeated: record.repeated,
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
        let median = Spread::of(ours).median;
        Self {
            of_medians: median / Spread::of(theirs).median,
            ratio,
            goal,
            reached: goal.map(|goal| goal.is_reached_by(ratio.median, median)),
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
    fn a_percentile_needs_samples_above_it() {
        let of = |samples| percentiles(samples).collect::<Vec<_>>();
        assert_eq!(of(0), [100.0]);
        assert_eq!(of(4)[10..], [50.0, 100.0]);
        let many = of(1_000_000);
        for percentile in [0.0, 50.0, 90.0, 95.0, 99.0, 99.9, 99.99] {
            let near = |read: &f64| (read - percentile).abs() < 1e-9;
            assert!(many.iter().any(near), "{percentile}");
        }
        assert!(many.is_sorted());
    }

    #[test]
    fn a_goal_is_judged_by_the_digits_that_are_printed() {
        assert!(Goal::AtLeast(1.2).is_reached_by(1.196, 0.0));
        assert!(!Goal::AtLeast(1.2).is_reached_by(1.194, 0.0));
        assert!(Goal::OursAtMost(1.0).is_reached_by(9.0, 1.004));
    }
}
