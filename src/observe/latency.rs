//! Latency histograms of a subscription, and their summary.

use crate::types::duration::Short;

use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;

/// The significant digits. With two of them, a reported percentile is at most 1 % off.
const DIGITS: u8 = 2;
/// Times below this are not told apart.
const LOWEST_NS: u64 = 64;
/// Times above this, an hour, are recorded as this.
const HIGHEST_NS: u64 = 3_600_000_000_000;

/// The three histograms of a lane, made with its first delivery.
///
/// They take a few kilobytes, and grow with the largest time seen to some 75 KiB.
pub(crate) struct Latencies {
    pub(crate) queue_wait: Histogram<u64>,
    pub(crate) handler: Histogram<u64>,
    pub(crate) end_to_end: Histogram<u64>,
}

impl Latencies {
    pub(crate) fn new() -> Self {
        let histogram = || {
            let mut histogram = Histogram::new_with_bounds(LOWEST_NS, LOWEST_NS * 1_024, DIGITS)
                .expect("the bounds are constants that hdrhistogram accepts");
            histogram.auto(true);
            histogram
        };
        Self {
            queue_wait: histogram(),
            handler: histogram(),
            end_to_end: histogram(),
        }
    }

    pub(crate) fn add(&mut self, other: &Self) {
        merge(&mut self.queue_wait, &other.queue_wait);
        merge(&mut self.handler, &other.handler);
        merge(&mut self.end_to_end, &other.end_to_end);
    }
}

fn merge(into: &mut Histogram<u64>, from: &Histogram<u64>) {
    into.add(from)
        .expect("both resize themselves, so every value fits");
}

/// Records the value `ns` `count` times.
pub(crate) fn record(histogram: &mut Histogram<u64>, ns: u64, count: u64) {
    histogram
        .record_n(ns.min(HIGHEST_NS), count)
        .expect("it resizes itself, and an hour fits");
}

/// Records the time from each of these beginnings until `until_ns`.
///
/// Neighbors in a queue have waited about equally long. So the times that fall into one bucket of
/// the histogram cost one comparison each, and are recorded together.
#[inline]
pub(crate) fn record_since(
    histogram: &mut Histogram<u64>,
    until_ns: u64,
    mut began_ns: impl ExactSizeIterator<Item = u64>,
) {
    if began_ns.len() == 1
        && let Some(began_ns) = began_ns.next()
    {
        return record(histogram, until_ns.saturating_sub(began_ns), 1);
    }
    record_all_since(histogram, until_ns, began_ns);
}

fn record_all_since(
    histogram: &mut Histogram<u64>,
    until_ns: u64,
    mut began_ns: impl Iterator<Item = u64>,
) {
    let mut next = began_ns.next();
    while let Some(first_ns) = next.take() {
        let elapsed_ns = until_ns.saturating_sub(first_ns);
        // A bucket is as wide as a power of two, and begins at a multiple of that.
        let width_ns = histogram.equivalent_range(elapsed_ns);
        let shortest_ns = elapsed_ns & !(width_ns - 1);
        let earliest = until_ns.saturating_sub(shortest_ns + (width_ns - 1));
        let latest = match shortest_ns {
            0 => u64::MAX,
            _ => until_ns - shortest_ns,
        };
        let mut count = 1;
        for began_ns in began_ns.by_ref() {
            if began_ns.wrapping_sub(earliest) > latest - earliest {
                next = Some(began_ns);
                break;
            }
            count += 1;
        }
        record(histogram, elapsed_ns, count);
    }
}

/// The summary of a histogram. Values above an hour are recorded as an hour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LatencySummary {
    /// The number of values recorded.
    pub count: u64,
    /// The mean of all values.
    pub mean: Duration,
    /// The median: half of the values are not above this.
    pub p50: Duration,
    /// The 90th percentile: 90 % of the values are not above this.
    pub p90: Duration,
    /// The 99th percentile: 99 % of the values are not above this.
    pub p99: Duration,
    /// The 99.9th percentile: 99.9 % of the values are not above this.
    pub p999: Duration,
    /// The largest value.
    pub max: Duration,
}

impl LatencySummary {
    pub(crate) fn of(histogram: &Histogram<u64>) -> Self {
        if histogram.is_empty() {
            return Self::default();
        }
        let at = |quantile| Duration::from_nanos(histogram.value_at_quantile(quantile));
        Self {
            count: histogram.len(),
            mean: Duration::from_nanos(histogram.mean() as u64),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: Duration::from_nanos(histogram.max()),
        }
    }
}

/// Prints the percentiles in one line.
impl fmt::Display for LatencySummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "p50 {} p90 {} p99 {} p99.9 {} max {}",
            Short(self.p50),
            Short(self.p90),
            Short(self.p99),
            Short(self.p999),
            Short(self.max),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_is_within_a_percent_up_to_an_hour() {
        let mut latencies = Latencies::new();
        for ms in 1..=1_000 {
            record(&mut latencies.handler, ms * 1_000_000, 1);
        }
        record(&mut latencies.handler, u64::MAX, 1);
        let summary = LatencySummary::of(&latencies.handler);
        assert_eq!(summary.count, 1_001);
        let p90 = summary.p90.as_secs_f64();
        assert!((0.891..=0.911).contains(&p90), "{p90}");
        assert!(summary.max >= Duration::from_secs(3_600));
    }

    #[test]
    fn neighbors_are_counted_as_if_recorded_one_by_one() {
        let until_ns = 10_000_000;
        let late = [until_ns, until_ns + 1, u64::MAX];
        let began: Vec<_> = (0..until_ns).step_by(61).chain(late).collect();
        let (mut together, mut singly) = (Latencies::new(), Latencies::new());
        record_since(&mut together.end_to_end, until_ns, began.iter().copied());
        for began_ns in began {
            record(&mut singly.end_to_end, until_ns.saturating_sub(began_ns), 1);
        }
        assert_eq!(together.end_to_end, singly.end_to_end);
    }

    #[test]
    fn short_durations_are_short() {
        let short = |ns| Short(Duration::from_nanos(ns)).to_string();
        assert_eq!(
            [short(7), short(1_240), short(345_000), short(2_500_000_000)],
            ["7ns", "1.2µs", "345µs", "2.5s"]
        );
    }
}
