//! Publishes the events, flat out or at the pace of history.

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use millstream::{Batched, Topic};

use crate::pipeline::Shared;
use crate::quake::Quake;

/// When events are due.
#[derive(Clone, Copy)]
pub enum Pace {
    /// All of them at the beginning.
    FlatOut,
    /// As long after the first as in history, divided by this.
    Times(f64),
}

impl Pace {
    pub fn parse(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(0.0) => Ok(Self::FlatOut),
            Ok(speed) if f64::is_finite(speed) && speed > 0.0 => Ok(Self::Times(speed)),
            _ => Err("not a number from zero up".to_owned()),
        }
    }

    fn due(self, since_ms: i64) -> Duration {
        match self {
            Self::FlatOut => Duration::ZERO,
            Self::Times(speed) => {
                let due = Duration::try_from_secs_f64(since_ms as f64 / 1e3 / speed);
                due.unwrap_or(Duration::MAX) // so slow that it never comes
            }
        }
    }

    /// Only a replay at a pace is worth watching.
    pub fn screen(self, events: usize) -> Result<ProgressBar, Box<dyn Error>> {
        match self {
            Self::FlatOut => Ok(ProgressBar::hidden()),
            Self::Times(_) => {
                let template = "{msg:>9} {wide_bar} {human_pos}/{human_len}";
                let style = ProgressStyle::with_template(template)?;
                Ok(ProgressBar::new(events as u64).with_style(style))
            }
        }
    }
}

/// Publishes in the order of `quakes`, and returns how long an event had been due, at most,
/// when it was accepted. Halfway the strategy is swapped under full load: nothing may be
/// lost, stranded or reordered by it.
pub fn replay(
    quakes: Vec<Quake>,
    detected: &Topic<Shared>,
    pace: Pace,
    screen: &ProgressBar,
) -> Result<Duration, Box<dyn Error>> {
    let (began, half) = (Instant::now(), quakes.len() / 2);
    let first_ms = quakes.first().map_or(0, |quake| quake.time_ms);
    let mut latest = Duration::ZERO;
    for (at, quake) in quakes.into_iter().enumerate() {
        if at == half {
            detected.set_strategy(Batched::of(32).linger(Duration::from_millis(2)))?;
        }
        let since_ms = quake.time_ms.saturating_sub(first_ms).max(0);
        let due = pace.due(since_ms);
        std::thread::sleep(due.saturating_sub(began.elapsed()));
        if !screen.is_hidden() {
            screen.set_message(format!("hour {}", since_ms / 3_600_000));
        }
        detected.publish(Arc::new(quake))?;
        latest = latest.max(began.elapsed().saturating_sub(due));
        screen.inc(1);
    }
    Ok(latest)
}
