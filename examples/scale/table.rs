//! The table, printed as it is measured.

use std::time::Duration;

use crate::{Outcome, ROUNDS};

pub struct Table {
    pub missed: u32,
}

impl Table {
    pub fn new() -> Self {
        println!("{:<58} {:>9} {:>40}  verdict", "what", "limit", "measured");
        Self { missed: 0 }
    }

    /// Millions of something a second.
    pub fn rate(&mut self, what: &str, limit: f64, things: usize, time: Duration) {
        let rate = things as f64 / time.as_secs_f64() / 1e6;
        let measured = format!("{rate:.2} million/s");
        self.row(what, &format!("≥ {limit}"), &measured, Some(rate >= limit));
    }

    /// Something that must not happen at all.
    pub fn none(&mut self, what: &str, count: u64, unit: &str) {
        self.row(what, "0", &format!("{count} {unit}"), Some(count == 0));
    }

    /// The calmest of a few rounds of lateness.
    pub fn percentiles(
        &mut self,
        what: &str,
        limit: Option<Duration>,
        round: impl Fn() -> Outcome<Vec<Duration>>,
    ) -> Outcome {
        let percentiles = |mut times: Vec<Duration>| {
            times.sort_unstable();
            let us = |percent: usize| times[(times.len() - 1) * percent / 100].as_micros();
            (us(99), us(50), us(90), us(100))
        };
        let mut best = percentiles(round()?);
        for _ in 1..ROUNDS {
            best = best.min(percentiles(round()?));
        }
        let (p99, p50, p90, most) = best;
        let measured = format!("p50 {p50}, p90 {p90}, p99 {p99}, max {most} µs");
        let limit = limit.map(|limit| limit.as_micros());
        let shown = limit.map_or_else(String::new, |limit| format!("p99 ≤ {limit}"));
        self.row(what, &shown, &measured, limit.map(|limit| p99 <= limit));
        Ok(())
    }

    /// A cost by how many there are of what grows, as a multiple of the least with
    /// as many or fewer.
    pub fn growth(
        &mut self,
        what: &str,
        limit: Option<f64>,
        counts: &[usize],
        cost_ns: impl Fn(usize) -> Outcome<f64>,
    ) -> Outcome {
        let mut least_ns = f64::INFINITY;
        let shown = limit.map_or_else(String::new, |limit| format!("≤ {limit} x"));
        for count in counts {
            let cost_ns = cost_ns(*count)?;
            least_ns = cost_ns.min(least_ns);
            let times = cost_ns / least_ns;
            let measured = format!("{cost_ns:.1} ns, {times:.2} x");
            let kept = limit.map(|limit| times <= limit);
            self.row(&format!("{what}: {count}"), &shown, &measured, kept);
        }
        Ok(())
    }

    pub fn row(&mut self, what: &str, limit: &str, measured: &str, kept: Option<bool>) {
        let verdict = match kept {
            None => "",
            Some(true) => "kept",
            Some(false) => {
                self.missed += 1;
                "MISSED"
            }
        };
        println!("{what:<58} {limit:>9} {measured:>40}  {verdict}");
    }
}
