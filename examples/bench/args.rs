//! The command line, and what it must not ask for.

use std::fmt::Display;
use std::path::PathBuf;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};

use crate::load::{Dispatching, Full, Load, Publishing, Taking};
use crate::payload::{MAX_PUBLISHERS, MAX_RUN_SECONDS, MAX_TOPICS};
use crate::systems::{Kind, SIZES};

/// Puts a load on the engine, verifies every message, and says how fast it was.
#[derive(Clone, Debug, Parser)]
#[command(name = "bench")]
pub struct Args {
    /// Threads that publish
    #[arg(long, default_value_t = 1)]
    publishers: usize,
    /// Topics; every publisher publishes to all of them in turn
    #[arg(long, default_value_t = 1)]
    topics: usize,
    /// Subscribers of each topic
    #[arg(long, default_value_t = 1)]
    subscribers: usize,
    /// Bytes of a payload: 16, 64, 256 or 1024
    #[arg(long, default_value_t = 64)]
    size: usize,
    /// Messages that may wait for a topic, and for a subscriber
    #[arg(long, default_value_t = 1_024)]
    capacity: usize,
    /// Publish in batches of so many
    #[arg(long, value_name = "N")]
    batch: Option<usize>,
    /// Publish one by one, through a publisher that collects so many
    #[arg(long, value_name = "N", conflicts_with_all = ["batch", "peer"])]
    buffered: Option<usize>,
    /// Messages in all; by default as many as take --seconds
    #[arg(long, value_name = "N")]
    messages: Option<u64>,
    /// How long one run should take, if --messages doesn't say how much it is
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Messages a second in all, each with the time it was meant to be sent at;
    /// by default flat out
    #[arg(long, value_name = "N")]
    rate: Option<f64>,
    /// When the engine hands on what waits: immediate, batched:SIZE, batched:SIZE:MICROS
    #[arg(long, default_value = "immediate")]
    strategy: Dispatching,
    /// What the engine's publishers do when a topic is full
    #[arg(long, default_value = "block")]
    full: Full,
    /// How subscribers get their messages
    #[arg(long, default_value = "handler")]
    taking: Taking,
    /// The engine's worker threads
    #[arg(long, default_value_t = 2)]
    workers: usize,
    /// The part of deliveries that fails once and is retried after 1 ms, 0 to 1
    #[arg(long, value_name = "PART", default_value_t = 0.0)]
    failing: f64,
    /// Let an observer listen to all events
    #[arg(long)]
    observe: bool,
    /// Let a worker without work spin instead of parking
    #[arg(long, conflicts_with = "peer")]
    spin: bool,
    /// Record no latencies in the engine
    #[arg(long, conflicts_with = "peer")]
    no_histograms: bool,
    /// Seconds after which a run is given up
    #[arg(long, default_value_t = 60)]
    limit: u64,
    /// How often each system runs; by default once, five times in comparisons
    #[arg(long, value_name = "N")]
    rounds: Option<usize>,
    /// Run rounds again, up to so many for each load, in which other processes had
    /// more than a quarter of a core
    #[arg(long, value_name = "N", default_value_t = 0)]
    calm: usize,
    /// Compare with peers under the same load: all of them, or those named
    #[arg(
        long,
        value_name = "NAMES",
        num_args = 0..,
        value_delimiter = ',',
        require_equals = true,
        conflicts_with = "table"
    )]
    peer: Option<Vec<Kind>>,
    /// Run the fixed set of comparisons
    #[arg(long)]
    table: bool,
    /// Of the table, only the rows whose title contains this
    #[arg(long, value_name = "TEXT", requires = "table")]
    only: Option<String>,
    /// Print a table for a Markdown file
    #[arg(long)]
    markdown: bool,
    /// Write all figures into this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write a page with bars and latency curves into this file
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Write a picture of the table at a glance into this file
    #[arg(long, value_name = "FILE", requires = "table")]
    chart: Option<PathBuf>,
}

/// What to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Task {
    /// One load, by these systems.
    Load { load: Load, systems: Vec<Kind> },
    /// The fixed comparisons whose title contains the text.
    Table { only: String },
}

/// Checked arguments.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    pub task: Task,
    pub rounds: usize,
    /// How long a run should take; `None`: the load says how much it is.
    pub aim: Option<Duration>,
    pub limit: Duration,
    pub repeats: usize,
    pub markdown: bool,
    pub json: Option<PathBuf>,
    pub html: Option<PathBuf>,
    pub chart: Option<PathBuf>,
}

const PEERS: [Kind; 6] = [
    Kind::Crossbeam,
    Kind::Flume,
    Kind::Kanal,
    Kind::Tokio,
    Kind::Disruptor,
    Kind::HandRolled,
];
const ROUNDS_COMPARING: usize = 5;
/// A measurement of the table: long enough for a figure, short enough for all rows.
const TABLE_AIM: Duration = Duration::from_millis(400);
const MAX_THREADS: usize = 1_024;
const MAX_ROUNDS: usize = 1_000;
const MAX_CAPACITY: usize = 1 << 24;
const MAX_SUBSCRIPTIONS: usize = 1 << 16;
const MAX_MESSAGES: u64 = 1 << 36;

impl Plan {
    /// From the command line; a wrong one ends the process with exit code 2.
    pub fn parse() -> Self {
        let args = Args::parse();
        args.plan().unwrap_or_else(|problem| {
            let mut command = Args::command();
            command.error(ErrorKind::ValueValidation, problem).exit()
        })
    }

    /// Whether anything but the engine takes part.
    pub fn needs_peers(&self) -> bool {
        match &self.task {
            Task::Table { .. } => true,
            Task::Load { systems, .. } => systems.len() > 1,
        }
    }

    /// Whether tasks take part.
    pub fn needs_async(&self) -> bool {
        match &self.task {
            Task::Table { .. } => true,
            Task::Load { load, .. } => matches!(load.taking, Taking::Stream | Taking::Async),
        }
    }
}

impl Args {
    fn plan(self) -> Result<Plan, String> {
        let comparing = self.table || self.peer.is_some();
        let rounds = self
            .rounds
            .unwrap_or(if comparing { ROUNDS_COMPARING } else { 1 });
        within("--rounds", rounds, 1, MAX_ROUNDS)?;
        within("--calm", self.calm, 0, MAX_ROUNDS)?;
        within("--limit", self.limit, 1, MAX_RUN_SECONDS)?;
        if !(0.01..=self.limit as f64).contains(&self.seconds) {
            return Err("--seconds must be between 0.01 and --limit".to_owned());
        }
        let aim = match self.messages {
            _ if self.table => Some(TABLE_AIM),
            Some(_) => None,
            None => Some(Duration::from_secs_f64(self.seconds)),
        };
        let (limit, markdown) = (Duration::from_secs(self.limit), self.markdown);
        let (json, html, chart) = (self.json.clone(), self.html.clone(), self.chart.clone());
        let task = if self.table {
            Task::Table {
                only: self.only.unwrap_or_default(),
            }
        } else {
            Task::Load {
                systems: self.systems()?,
                load: self.load()?,
            }
        };
        Ok(Plan {
            task,
            rounds,
            aim,
            limit,
            repeats: self.calm,
            markdown,
            json,
            html,
            chart,
        })
    }

    fn systems(&self) -> Result<Vec<Kind>, String> {
        let mut systems = vec![Kind::Millstream];
        let Some(peers) = &self.peer else {
            return Ok(systems);
        };
        if self.failing > 0.0 {
            return Err("--peer can't be had with --failing: peers have no retries".to_owned());
        }
        let has_some = match self.taking {
            Taking::Handler | Taking::Recv | Taking::RecvBatch => &PEERS[..],
            Taking::Stream => &[Kind::Flume, Kind::Tokio],
            Taking::Async => &[Kind::Tokio],
        };
        if self.observe {
            return Err("--peer can't be had with --observe: peers have no events".to_owned());
        }
        for peer in if peers.is_empty() { has_some } else { peers } {
            if !has_some.contains(peer) {
                return Err(format!("--peer: {peer} can't be had with this --taking"));
            }
            if !systems.contains(peer) {
                systems.push(*peer);
            }
        }
        Ok(systems)
    }

    fn load(&self) -> Result<Load, String> {
        within(
            "--publishers",
            self.publishers,
            1,
            MAX_THREADS.min(MAX_PUBLISHERS),
        )?;
        within("--topics", self.topics, 1, MAX_TOPICS)?;
        within("--subscribers", self.subscribers, 1, MAX_SUBSCRIPTIONS)?;
        within("--capacity", self.capacity, 1, MAX_CAPACITY)?;
        within("--workers", self.workers, 1, MAX_THREADS)?;
        within("--batch", self.batch.unwrap_or(1), 1, self.capacity)?;
        within("--buffered", self.buffered.unwrap_or(1), 1, self.capacity)?;
        within("--messages", self.messages.unwrap_or(1), 1, MAX_MESSAGES)?;
        let subscriptions = self.topics * self.subscribers;
        within(
            "--topics times --subscribers",
            subscriptions,
            1,
            MAX_SUBSCRIPTIONS,
        )?;
        if self.failing > 0.0 && self.taking != Taking::Handler {
            return Err("--failing needs --taking handler".to_owned());
        }
        if self.peer.is_some() {
            // Nearly all of them have a thread for each.
            within(
                "--topics times --subscribers, with --peer,",
                subscriptions,
                1,
                MAX_THREADS,
            )?;
        }
        if !SIZES.contains(&self.size) {
            return Err(format!(
                "--size must be one of {SIZES:?}, not {}",
                self.size
            ));
        }
        if !(0.0..=1.0).contains(&self.failing) {
            return Err("--failing must be between 0 and 1".to_owned());
        }
        if self.rate.is_some_and(|rate| !(1.0..=1e9).contains(&rate)) {
            return Err(
                "--rate must be between 1 and a billion; leave it out for flat out".to_owned(),
            );
        }
        if let Dispatching::Batched { size, .. } = self.strategy {
            within("the strategy's batch", size, 1, self.capacity)?;
        }
        Ok(Load {
            publishers: self.publishers,
            topics: self.topics,
            subscribers: self.subscribers,
            size: self.size,
            capacity: self.capacity,
            publishing: match (self.batch, self.buffered) {
                (Some(size), _) => Publishing::Batch(size),
                (None, Some(size)) => Publishing::Buffered(size),
                (None, None) => Publishing::Single,
            },
            messages: self.messages.unwrap_or(0),
            rate: self.rate,
            failing: self.failing,
            workers: self.workers,
            strategy: self.strategy,
            full: self.full,
            taking: self.taking,
            observed: self.observe,
            spinning: self.spin,
            histograms: !self.no_histograms,
        })
    }
}

fn within<N: PartialOrd + Copy + Display>(
    what: &str,
    n: N,
    least: N,
    most: N,
) -> Result<(), String> {
    if (least..=most).contains(&n) {
        return Ok(());
    }
    Err(format!(
        "{what} must be between {least} and {most}, not {n}"
    ))
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::*;

    /// Any option, any value that some option takes, and nonsense.
    fn word() -> impl Strategy<Value = String> {
        let command = Args::command();
        let options = command.get_arguments().filter_map(|arg| arg.get_long());
        let options: Vec<_> = options.map(|name| format!("--{name}")).collect();
        let values = vec![
            "0",
            "1",
            "2",
            "64",
            "1024",
            "65536",
            "4294967296",
            "18446744073709551615",
            "-1",
            "0.5",
            "1e9",
            "1e400",
            "nan",
            "inf",
            "immediate",
            "batched:256:1",
            "yield",
            "x",
        ];
        prop_oneof![
            2 => select(options.clone()),
            2 => (select(options), select(values.clone())).prop_map(|(name, value)| format!("{name}={value}")),
            3 => select(values).prop_map(str::to_owned),
            1 => "\\PC{0,8}",
        ]
    }

    proptest! {
        #[test]
        fn whatever_is_typed_is_a_plan_or_a_problem(words in vec(word(), 0..8)) {
            match plan(&words.join(" ")) {
                Ok(Plan { task: Task::Load { load, .. }, .. }) => {
                    prop_assert!(load.deliveries() >= load.published());
                    prop_assert!(!load.describe().is_empty());
                }
                Ok(_) => {}
                Err(problem) => prop_assert!(!problem.is_empty()),
            }
        }
    }

    fn plan(line: &str) -> Result<Plan, String> {
        let words = std::iter::once("bench").chain(line.split_whitespace());
        let args = Args::try_parse_from(words).map_err(|error| error.to_string())?;
        args.plan()
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        for (line, named) in [
            ("--publishers 0", "--publishers"),
            ("--topics 0", "--topics"),
            ("--subscribers 0", "--subscribers"),
            ("--size 65", "--size"),
            ("--rate 0", "--rate"),
            ("--rate nan", "--rate"),
            ("--rate -5", "-5"),
            ("--workers 0", "--workers"),
            ("--batch 0", "--batch"),
            ("--batch 2000", "--batch"),
            ("--failing 1.5", "--failing"),
            ("--messages 0", "--messages"),
            ("--limit 0", "--limit"),
            ("--rounds 0", "--rounds"),
            ("--seconds 0", "--seconds"),
            ("--seconds nan", "--seconds"),
            ("--strategy often", "--strategy"),
            ("--strategy batched:0", "strategy"),
            ("--peer --failing 0.1", "--failing"),
            ("--peer --observe", "--observe"),
            ("--peer --spin", "--spin"),
            ("--buffered 0", "--buffered"),
            ("--buffered 8 --batch 8", "--batch"),
            ("--taking stream --peer=crossbeam", "crossbeam"),
            ("--taking recv --failing 0.1", "--failing"),
            ("--peer=nats", "nats"),
            ("--peer --table", "--table"),
            ("--only x", "--table"),
        ] {
            let problem = plan(line).expect_err(line);
            assert!(problem.contains(named), "{line}: {problem}");
        }
    }

    #[test]
    fn peers_are_all_or_those_named() {
        let systems = |line| match plan(line).expect("it is sound").task {
            Task::Load { systems, .. } => systems,
            Task::Table { .. } => unreachable!("it wasn't asked for"),
        };
        assert_eq!(systems(""), [Kind::Millstream]);
        assert_eq!(systems("--peer").len(), 1 + PEERS.len());
        assert_eq!(systems("--peer --taking stream").len(), 3);
        let two = [Kind::Millstream, Kind::Flume, Kind::HandRolled];
        assert_eq!(systems("--peer=flume,hand-rolled,flume"), two);
    }
}
