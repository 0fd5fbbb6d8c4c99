//! Durations, for machines and for people.

use std::fmt;
use std::time::Duration;

use crate::types::error::SettingError;

/// Returns a duration in nanoseconds, at most `u64::MAX` (584 years).
pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Returns a time to live in nanoseconds, of a topic or of a message. It refuses zero.
pub(crate) fn check_ttl(ttl: Duration) -> Result<u64, SettingError> {
    match ttl.is_zero() {
        true => Err(zero_ttl()),
        false => Ok(nanos(ttl)),
    }
}

/// Returns the error of a time to live of zero.
pub(crate) fn zero_ttl() -> SettingError {
    let rule = "must be longer, or every message would expire at once";
    SettingError::new("ttl", "zero", rule)
}

/// A duration in at most six characters: `1.2ms`, `345µs`.
pub(crate) struct Short(pub(crate) Duration);

impl fmt::Display for Short {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ns = self.0.as_nanos() as f64;
        let (value, unit) = match ns {
            ns if ns < 1e3 => (ns, "ns"),
            ns if ns < 1e6 => (ns / 1e3, "µs"),
            ns if ns < 1e9 => (ns / 1e6, "ms"),
            ns => (ns / 1e9, "s"),
        };
        let digits = if value < 10.0 && unit != "ns" { 1 } else { 0 };
        f.pad(&format!("{value:.digits$}{unit}"))
    }
}
