//! What numbers a setting may have.

use crate::types::error::InvalidSetting;

/// The largest queue, lane or store: a bound that is out of reach is none.
pub(crate) const MAX_CAPACITY: usize = 1 << 24;

/// More threads than this on one broker are a mistake, not a plan.
pub(crate) const MAX_WORKERS: usize = 1_024;

/// The value asked for, or the default; refused if zero or out of reach.
pub(crate) fn in_range(
    setting: &'static str,
    asked: Option<usize>,
    default: usize,
) -> Result<usize, InvalidSetting> {
    match asked.unwrap_or(default) {
        0 => Err(InvalidSetting::new(setting, 0, "must be at least 1")),
        n if n > MAX_CAPACITY => Err(InvalidSetting::new(setting, n, "must be at most 16777216")),
        n => Ok(n),
    }
}

/// Refuses none at all, and more than a broker may have workers.
pub(crate) fn in_range_of_threads(
    setting: &'static str,
    count: usize,
) -> Result<(), InvalidSetting> {
    if (1..=MAX_WORKERS).contains(&count) {
        return Ok(());
    }
    Err(InvalidSetting::new(
        setting,
        count,
        "must be between 1 and 1024",
    ))
}
