//! What is asked of a system.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use clap::ValueEnum;
use serde::Serialize;

/// A load, the same for every system.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Load {
    pub publishers: usize,
    pub topics: usize,
    /// For each topic.
    pub subscribers: usize,
    /// Bytes of a payload.
    pub size: usize,
    /// Messages that may wait for a topic, and for a subscriber.
    pub capacity: usize,
    pub publishing: Publishing,
    /// Messages over all publishers and topics, roughly: see [`Self::each`].
    pub messages: u64,
    /// Messages a second over all publishers; `None` is flat out.
    pub rate: Option<f64>,
    /// The part of deliveries that fails once.
    pub failing: f64,
    pub workers: usize,
    pub strategy: Dispatching,
    pub full: Full,
    pub taking: Taking,
    /// Whether an observer listens to every event.
    pub observed: bool,
    /// Whether a worker without work spins instead of parking.
    pub spinning: bool,
    /// Whether latencies are recorded.
    pub histograms: bool,
}

/// How messages are handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Publishing {
    Single,
    Batch(usize),
    /// One by one, to a publisher that collects as many.
    Buffered(usize),
}

/// What the engine's publishers do at a full topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Full {
    /// Leave the waiting to the topic
    Block,
    /// Let other threads run, and try again
    Yield,
}

/// How subscribers get their messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Taking {
    /// A handler is called, or a thread receives
    Handler,
    /// A thread receives one after the other
    Recv,
    /// A thread receives up to 64 at once
    RecvBatch,
    /// A task takes them from a stream
    Stream,
    /// A handler that is an async function, or a task for each message
    Async,
}

/// When the engine hands on what waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Dispatching {
    Immediate,
    Batched { size: usize, linger: Duration },
}

/// What 64-byte payloads, one publisher and one subscriber come to.
impl Default for Load {
    fn default() -> Self {
        Self {
            publishers: 1,
            topics: 1,
            subscribers: 1,
            size: 64,
            capacity: 1_024,
            publishing: Publishing::Single,
            messages: 1_000_000,
            rate: None,
            failing: 0.0,
            workers: 2,
            strategy: Dispatching::Immediate,
            full: Full::Block,
            taking: Taking::Handler,
            observed: false,
            spinning: false,
            histograms: true,
        }
    }
}

impl Load {
    /// Messages each publisher sends to each topic: the same number for all of
    /// them, in whole batches, so that every count is known beforehand.
    pub fn each(&self) -> u64 {
        let batch = self.publishing.batch() as u64;
        let share = self.messages / (self.publishers * self.topics) as u64;
        share.div_ceil(batch).max(1) * batch
    }

    /// Messages published in all.
    pub fn published(&self) -> u64 {
        self.each() * (self.publishers * self.topics) as u64
    }

    /// Deliveries that must be handled.
    pub fn deliveries(&self) -> u64 {
        self.published() * self.subscribers as u64
    }

    /// Nanoseconds between two messages of one publisher.
    pub fn interval_ns(&self) -> Option<f64> {
        let rate = self.rate? / self.publishers as f64;
        Some(1e9 / rate)
    }

    /// In one line.
    pub fn describe(&self) -> String {
        let mut text = format!(
            "{} to {} with {} each, {} bytes {}, capacity {}",
            count(self.publishers, "publisher"),
            count(self.topics, "topic"),
            count(self.subscribers, "subscriber"),
            self.size,
            self.publishing,
            self.capacity,
        );
        match self.rate {
            None => text += ", flat out",
            Some(rate) => text += &format!(", {rate} messages a second, open loop"),
        }
        if self.failing > 0.0 {
            text += &format!(", {} % failing once", self.failing * 100.0);
        }
        let taking = match self.taking {
            Taking::Handler => "",
            Taking::Recv => ", received one by one",
            Taking::RecvBatch => ", received 64 at a time",
            Taking::Stream => ", from a stream",
            Taking::Async => ", by async functions",
        };
        text += taking;
        for (is, what) in [
            (self.observed, ", observed"),
            (self.spinning, ", with a spinning worker"),
            (!self.histograms, ", without histograms"),
        ] {
            text += if is { what } else { "" };
        }
        text
    }
}

fn count(n: usize, what: &str) -> String {
    let plural = if n == 1 { "" } else { "s" };
    format!("{n} {what}{plural}")
}

impl Publishing {
    /// Messages handed over at once.
    pub fn batch(self) -> usize {
        match self {
            Self::Single | Self::Buffered(_) => 1,
            Self::Batch(size) => size,
        }
    }
}

impl fmt::Display for Publishing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Single => f.write_str("one by one"),
            Self::Batch(size) => write!(f, "in batches of {size}"),
            Self::Buffered(size) => write!(f, "through buffers of {size}"),
        }
    }
}

/// `immediate`, `batched:256` or `batched:256:200` (microseconds to linger).
impl FromStr for Dispatching {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let usage = || format!("`{text}` is none of immediate, batched:SIZE, batched:SIZE:MICROS");
        let mut parts = text.split(':');
        let strategy = match (parts.next(), parts.next(), parts.next()) {
            (Some("immediate"), None, None) => Self::Immediate,
            (Some("batched"), Some(size), micros) => {
                let micros = micros.unwrap_or("200").parse().map_err(|_| usage())?;
                Self::Batched {
                    size: size.parse().map_err(|_| usage())?,
                    linger: Duration::from_micros(micros),
                }
            }
            _ => return Err(usage()),
        };
        match parts.next() {
            None => Ok(strategy),
            Some(_) => Err(usage()),
        }
    }
}

impl fmt::Display for Dispatching {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Immediate => f.write_str("immediate"),
            Self::Batched { size, linger } => write!(f, "batched:{size}:{}", linger.as_micros()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_publisher_sends_every_topic_the_same_number_in_whole_batches() {
        let load = Load {
            publishers: 4,
            topics: 3,
            subscribers: 2,
            publishing: Publishing::Batch(64),
            messages: 1_000,
            ..Load::default()
        };
        assert_eq!(load.each(), 128);
        assert_eq!(load.published(), 128 * 12);
        assert_eq!(load.deliveries(), 128 * 24);
        let tiny = Load {
            messages: 1,
            ..load
        };
        assert_eq!(tiny.each(), 64);
    }

    #[test]
    fn a_rate_is_shared_by_the_publishers() {
        let load = Load {
            publishers: 2,
            rate: Some(20_000.0),
            ..Load::default()
        };
        assert_eq!(load.interval_ns(), Some(100_000.0));
    }

    #[test]
    fn strategies_are_read_as_they_are_written() {
        for text in ["immediate", "batched:256:50"] {
            assert_eq!(text.parse::<Dispatching>().unwrap().to_string(), text);
        }
        for text in ["", "batched", "batched:x", "batched:1:2:3", "immediate:1"] {
            assert!(text.parse::<Dispatching>().is_err(), "{text}");
        }
    }
}
