//! The comparisons this crate holds itself to.

use crate::contest::Contender;
use crate::load::{Full, Load, Publishing};
use crate::report::{Goal, Metric};
use crate::systems::Kind;

/// One question with its contenders, ours first, and a goal for each.
pub struct Row {
    pub title: String,
    pub metric: Metric,
    pub contenders: Vec<Contender>,
    pub goals: Vec<Option<Goal>>,
}

const BATCH: usize = 64;
/// One message every 50 µs.
const PACE: f64 = 20_000.0;

impl Row {
    fn new(title: impl Into<String>, ours: Load) -> Self {
        Self {
            title: title.into(),
            metric: Metric::Throughput,
            contenders: vec![Contender {
                label: named(Kind::Millstream, &ours),
                system: Kind::Millstream,
                load: ours,
            }],
            goals: vec![None],
        }
    }

    /// Against a peer, under a load of its own.
    fn against(mut self, system: Kind, load: &Load, goal: Option<Goal>) -> Self {
        self.contenders.push(Contender {
            label: named(system, load),
            system,
            load: load.clone(),
        });
        self.goals.push(goal);
        self
    }

    /// For orientation.
    fn beside(self, systems: &[Kind], load: &Load) -> Self {
        let add = |row: Self, system: &Kind| row.against(*system, load, None);
        systems.iter().fold(self, add)
    }

    fn label(mut self, at: usize, label: &str) -> Self {
        label.clone_into(&mut self.contenders[at].label);
        self
    }
}

fn named(system: Kind, load: &Load) -> String {
    match load.publishing {
        Publishing::Single => system.to_string(),
        Publishing::Batch(size) => format!("{system}, batches of {size}"),
        Publishing::Buffered(size) => format!("{system}, buffers of {size}"),
    }
}

fn at_least(ratio: f64) -> Option<Goal> {
    Some(Goal::AtLeast(ratio))
}

/// All rows whose title contains the text.
pub fn rows(only: &str) -> Vec<Row> {
    let groups = [
        one_to_one(),
        broadcasts(),
        many_to_one(),
        latency(),
        features(),
    ];
    let rows = groups.into_iter().flatten();
    rows.filter(|row| row.title.contains(only)).collect()
}

fn one_to_one() -> Vec<Row> {
    let others = [Kind::Disruptor, Kind::Tokio, Kind::Kanal, Kind::Flume];
    let mut rows = Vec::new();
    for (capacity, name) in [(1_024, "1,024"), (65_536, "65,536")] {
        let single = Load {
            capacity,
            ..Load::default()
        };
        let row = Row::new(
            format!("1 → 1, one by one, capacity {name}"),
            single.clone(),
        )
        .against(Kind::Crossbeam, &single, at_least(1.2))
        .against(Kind::HandRolled, &single, at_least(2.5))
        .beside(&others, &single);
        rows.push(row);
    }
    for (capacity, name) in [(1_024, "1,024"), (65_536, "65,536")] {
        let single = Load {
            capacity,
            ..Load::default()
        };
        let batch = batched(&single);
        let row = Row::new(
            format!("1 → 1, batches of 64, capacity {name}"),
            batch.clone(),
        )
        .against(Kind::Crossbeam, &single, at_least(4.0))
        .against(Kind::Crossbeam, &batch, at_least(0.9))
        .beside(&[Kind::Disruptor], &batch);
        rows.push(row);
        let buffered = Load {
            publishing: Publishing::Buffered(BATCH),
            ..single.clone()
        };
        let title = format!("1 → 1, a buffering publisher, capacity {name}");
        let row = Row::new(title, buffered)
            .against(Kind::Crossbeam, &single, at_least(4.0))
            .against(Kind::Crossbeam, &batch, at_least(0.9));
        rows.push(row);
    }
    rows
}

fn broadcasts() -> Vec<Row> {
    let mut rows = Vec::new();
    for (subscribers, goal) in [(4, 2.5), (16, 4.0)] {
        let single = broadcast(subscribers);
        let row = Row::new(format!("1 → {subscribers}, one by one"), single.clone())
            .against(Kind::Crossbeam, &single, at_least(goal))
            .beside(&[Kind::Disruptor, Kind::HandRolled, Kind::Tokio], &single);
        rows.push(row);
    }
    for subscribers in [4, 16] {
        let single = broadcast(subscribers);
        let batch = batched(&single);
        let row = Row::new(format!("1 → {subscribers}, batches of 64"), batch.clone())
            .against(Kind::Crossbeam, &single, at_least(5.0))
            .against(Kind::Disruptor, &batch, at_least(1.0))
            .beside(&[Kind::Crossbeam], &batch);
        rows.push(row);
    }
    rows
}

/// Sixteen subscribers keep both cores busy: their publisher is in the way unless it
/// sleeps while there is no room.
fn broadcast(subscribers: usize) -> Load {
    Load {
        subscribers,
        full: if subscribers > 4 {
            Full::Block
        } else {
            Full::Yield
        },
        ..Load::default()
    }
}

fn many_to_one() -> Vec<Row> {
    let single = Load {
        publishers: 4,
        ..Load::default()
    };
    let batch = batched(&single);
    let topics = Load {
        topics: 64,
        ..single.clone()
    };
    vec![
        Row::new("4 → 1, one by one", single.clone())
            .against(Kind::Crossbeam, &single, at_least(1.0))
            .beside(&[Kind::Disruptor, Kind::HandRolled, Kind::Tokio], &single),
        Row::new("4 → 1, batches of 64", batch.clone())
            .against(Kind::Crossbeam, &single, at_least(4.0))
            .beside(&[Kind::Crossbeam, Kind::Disruptor], &batch),
        Row::new("4 publishers, 64 topics", topics.clone())
            .against(Kind::Crossbeam, &topics, at_least(1.2))
            .against(Kind::HandRolled, &topics, at_least(4.0)),
    ]
}

fn latency() -> Vec<Row> {
    let paced = Load {
        rate: Some(PACE),
        ..Load::default()
    };
    let spinning = Load {
        spinning: true,
        ..paced.clone()
    };
    let parked = Row::new("publish to handler, a message every 50 µs", paced.clone()).against(
        Kind::Crossbeam,
        &paced,
        Some(Goal::AtMost(1.1)),
    );
    let spun = Row::new("the same with a spinning worker", spinning)
        .against(Kind::Crossbeam, &paced, Some(Goal::OursAtMost(1.0)))
        .beside(&[Kind::Kanal, Kind::Disruptor], &paced);
    let in_median = |row| Row {
        metric: Metric::MedianLatency,
        ..row
    };
    [parked, spun].map(in_median).into()
}

/// Ours with something, against ours without.
fn features() -> Vec<Row> {
    let plain = Load::default();
    let failing = Load {
        failing: 0.01,
        ..Load::default()
    };
    let observed = Load {
        observed: true,
        ..Load::default()
    };
    let unrecorded = Load {
        histograms: false,
        ..Load::default()
    };
    vec![
        Row::new("latencies recorded", plain.clone())
            .against(Kind::Millstream, &unrecorded, at_least(0.9))
            .label(0, "histograms on")
            .label(1, "off"),
        Row::new("1 % of deliveries fails once", failing)
            .against(Kind::Millstream, &plain, at_least(0.8))
            .label(0, "1 % failing")
            .label(1, "none failing"),
        Row::new("one observer on all events", observed)
            .against(Kind::Millstream, &plain, at_least(0.5))
            .label(0, "one observer")
            .label(1, "none"),
    ]
}

fn batched(load: &Load) -> Load {
    Load {
        publishing: Publishing::Batch(BATCH),
        ..load.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_has_a_goal_and_a_title_of_its_own() {
        let rows = rows("");
        for row in &rows {
            assert!(row.goals.iter().any(Option::is_some), "{}", row.title);
            assert_eq!(row.goals.len(), row.contenders.len());
            let same = rows.iter().filter(|other| other.title == row.title);
            assert_eq!(same.count(), 1, "{}", row.title);
        }
    }

    #[test]
    fn rows_are_chosen_by_a_part_of_their_title() {
        assert_eq!(super::rows("64 topics").len(), 1);
        assert!(super::rows("nothing of the kind").is_empty());
    }
}
