//! What is made of repeated measurements.

use serde::Serialize;

/// The middle and the ends.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    pub median: f64,
    pub min: f64,
    pub max: f64,
}

impl Spread {
    /// Of at least one value.
    pub fn of(values: &[f64]) -> Self {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (Some(min), Some(max)) = (sorted.first(), sorted.last()) else {
            return Self {
                median: f64::NAN,
                min: f64::NAN,
                max: f64::NAN,
            };
        };
        let half = sorted.len() / 2;
        let median = match sorted.len() % 2 {
            1 => sorted[half],
            _ => f64::midpoint(sorted[half - 1], sorted[half]),
        };
        Self {
            median,
            min: *min,
            max: *max,
        }
    }
}

/// One system's figures by another's, round by round. Both of a round were taken
/// within moments, so this survives a machine that changes from round to round.
pub fn ratios(ours: &[f64], theirs: &[f64]) -> Spread {
    let ratios: Vec<_> = ours
        .iter()
        .zip(theirs)
        .map(|(ours, theirs)| ours / theirs)
        .collect();
    Spread::of(&ratios)
}

/// So many messages should take `aim_s`, if `messages` took `took_s`. One step
/// goes no further than sixteenfold, as short runs say little about long ones.
pub fn scaled(messages: u64, took_s: f64, aim_s: f64) -> u64 {
    let factor = (aim_s / took_s.max(1e-9)).clamp(1.0 / 16.0, 16.0);
    ((messages as f64 * factor) as u64).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_in_the_middle() {
        let spread = |median, min, max| Spread { median, min, max };
        assert_eq!(Spread::of(&[3.0]), spread(3.0, 3.0, 3.0));
        assert_eq!(Spread::of(&[9.0, 1.0, 2.0]), spread(2.0, 1.0, 9.0));
        assert_eq!(Spread::of(&[4.0, 1.0, 2.0, 9.0]), spread(3.0, 1.0, 9.0));
    }

    #[test]
    fn a_machine_that_slows_down_for_a_round_leaves_ratios_alone() {
        let ours = [20.0, 2.0, 20.0];
        let theirs = [10.0, 1.0, 10.0];
        assert_eq!(
            ratios(&ours, &theirs),
            Spread {
                median: 2.0,
                min: 2.0,
                max: 2.0
            }
        );
    }

    #[test]
    fn the_next_run_is_as_long_as_wished() {
        assert_eq!(scaled(1_000, 0.1, 0.4), 4_000);
        assert_eq!(scaled(1_000, 0.001, 0.4), 16_000);
        assert_eq!(scaled(1, 10.0, 0.4), 1);
    }
}
