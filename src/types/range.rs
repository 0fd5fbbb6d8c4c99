//! The ranges that numeric settings may have.

use crate::types::error::SettingError;

/// The largest queue, lane or store. A bound that is out of reach bounds nothing.
pub(crate) const MAX_CAPACITY: usize = 1 << 24;

/// The most threads of one broker. More are a mistake, not a plan.
pub(crate) const MAX_WORKERS: usize = 1_024;

/// Returns the value asked for, or the default. It refuses zero and values above `MAX_CAPACITY`.
pub(crate) fn in_range(
    setting: &'static str,
    asked: Option<usize>,
    default: usize,
) -> Result<usize, SettingError> {
    match asked.unwrap_or(default) {
        0 => Err(SettingError::new(setting, 0, "must be at least 1")),
        n if n > MAX_CAPACITY => Err(SettingError::new(setting, n, "must be at most 16777216")),
        n => Ok(n),
    }
}

/// Refuses zero threads, and more than a broker may have workers.
pub(crate) fn in_range_of_threads(setting: &'static str, count: usize) -> Result<(), SettingError> {
    if (1..=MAX_WORKERS).contains(&count) {
        return Ok(());
    }
    Err(SettingError::new(
        setting,
        count,
        "must be between 1 and 1024",
    ))
}
