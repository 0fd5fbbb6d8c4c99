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

/// The bounds of the buckets, in nanoseconds.
const BOUNDS_NS: [u64; 22] = {
    const US: u64 = 1_000;
    const MS: u64 = 1_000 * US;
    const S: u64 = 1_000 * MS;
    [
        US,
        5 * US / 2,
        5 * US,
        10 * US,
        25 * US,
        50 * US,
        100 * US,
        250 * US,
        500 * US,
        MS,
        5 * MS / 2,
        5 * MS,
        10 * MS,
        25 * MS,
        50 * MS,
        100 * MS,
        250 * MS,
        500 * MS,
        S,
        5 * S / 2,
        5 * S,
        10 * S,
    ]
};

/// The summary of a histogram. Values above an hour are recorded as an hour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LatencySummary {
    /// The number of values recorded.
    pub count: u64,
    /// The sum of all values, at most 1 % off.
    pub sum: Duration,
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
    /// The number of values that are not above each bound.
    within: [u64; BOUNDS_NS.len()],
}

impl LatencySummary {
    pub(crate) fn of(histogram: &Histogram<u64>) -> Self {
        if histogram.is_empty() {
            return Self::default();
        }
        let at = |quantile| Duration::from_nanos(histogram.value_at_quantile(quantile));
        let (sum, within) = sums(histogram);
        let count = histogram.len();
        Self {
            count,
            sum: nanoseconds(sum),
            mean: nanoseconds(sum / u128::from(count)),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: Duration::from_nanos(histogram.max()),
            within,
        }
    }

    /// Returns bounds in ascending order, each with the number of values that are not above it.
    ///
    /// These are the buckets of a Prometheus histogram, but for the last one, which has all values
    /// ([`count`](Self::count)). The bounds are 1, 2.5 and 5 times powers of ten, from a microsecond
    /// to ten seconds. A value within 1 % of a bound may count on either side of it.
    pub fn buckets(&self) -> impl Iterator<Item = (Duration, u64)> + use<> {
        let bounds = BOUNDS_NS.map(Duration::from_nanos);
        bounds.into_iter().zip(self.within)
    }
}

/// Returns the sum of all values, and how many are not above each bound.
fn sums(histogram: &Histogram<u64>) -> (u128, [u64; BOUNDS_NS.len()]) {
    let (mut sum, mut within) = (0, [0; BOUNDS_NS.len()]);
    for values in histogram.iter_recorded() {
        let value_ns = histogram.median_equivalent(values.value_iterated_to());
        let count = values.count_at_value();
        sum += u128::from(value_ns) * u128::from(count);
        if let Some(at) = BOUNDS_NS.iter().position(|bound_ns| value_ns <= *bound_ns) {
            within[at] += count;
        }
    }
    for at in 1..within.len() {
        within[at] += within[at - 1];
    }
    (sum, within)
}

fn nanoseconds(ns: u128) -> Duration {
    const SECOND: u128 = 1_000_000_000;
    let seconds = u64::try_from(ns / SECOND).unwrap_or(u64::MAX);
    Duration::new(seconds, (ns % SECOND) as u32)
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
    fn buckets_count_the_values_up_to_their_bounds_and_the_sum_is_of_all() {
        let mut latencies = Latencies::new();
        for ms in 1..=1_000 {
            record(&mut latencies.handler, ms * 1_000_000 - 500_000, 1);
        }
        record(&mut latencies.handler, 3_000_000_000_000, 3);
        let summary = LatencySummary::of(&latencies.handler);
        let within = |ms| {
            let bound = Duration::from_millis(ms);
            let mut buckets = summary.buckets();
            buckets.find_map(|(up_to, count)| (up_to == bound).then_some(count))
        };
        for (ms, count) in [(1, 1), (5, 5), (10, 10), (50, 50), (100, 100)] {
            assert_eq!(within(ms), Some(count), "{ms} ms");
        }
        assert_eq!(summary.buckets().next().map(|(_, count)| count), Some(0));
        assert_eq!(
            summary.buckets().last().map(|(_, count)| count),
            Some(1_000)
        );
        assert_eq!(summary.count, 1_003);
        let sum = summary.sum.as_secs_f64();
        assert!((9_405.0..=9_595.0).contains(&sum), "{sum}");
        assert_eq!(summary.mean, summary.sum / 1_003);
        let counts: Vec<_> = summary.buckets().map(|(_, count)| count).collect();
        assert!(counts.is_sorted());
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
