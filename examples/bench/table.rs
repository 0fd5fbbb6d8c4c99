//! The comparisons this crate holds itself to.

use crate::contest::Contender;
use crate::load::{Full, Load, Publishing, Taking};
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
/// What is left of the throughput of a ring with consumers that are fixed before the start,
/// that never fail, and spin: a goal for the day after tomorrow.
const OF_DISRUPTOR: f64 = 0.7;

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
        taken(),
        features(),
    ];
    let rows = groups.into_iter().flatten();
    rows.filter(|row| row.title.contains(only)).collect()
}

fn one_to_one() -> Vec<Row> {
    let others = [Kind::HandRolled, Kind::Tokio, Kind::Kanal, Kind::Flume];
    let small = Load {
        size: 16,
        ..Load::default()
    };
    let yielding = Load {
        full: Full::Yield,
        ..Load::default()
    };
    let mut rows = vec![
        Row::new("1 → 1, 16 bytes", small.clone())
            .against(Kind::Crossbeam, &small, at_least(1.0))
            .against(Kind::Disruptor, &small, at_least(OF_DISRUPTOR)),
        Row::new("1 → 1, by a publisher that tries again instead", yielding).against(
            Kind::Crossbeam,
            &Load::default(),
            at_least(1.5),
        ),
    ];
    for (capacity, name, goal) in [(1_024, "1,024", 1.5), (65_536, "65,536", 1.0)] {
        let single = of_capacity(capacity);
        let batch = batched(&single);
        let title = format!("1 → 1, capacity {name}");
        let row = Row::new(title, single.clone())
            .against(Kind::Crossbeam, &single, at_least(goal))
            .against(Kind::Disruptor, &single, at_least(OF_DISRUPTOR))
            .beside(&others, &single);
        rows.push(row);
        rows.push(in_batches(
            &format!("1 → 1, capacity {name}"),
            &batch,
            at_least(0.9),
        ));
        let buffered = Load {
            publishing: Publishing::Buffered(BATCH),
            ..single
        };
        let title = format!("1 → 1, a buffering publisher, capacity {name}");
        rows.push(Row::new(title, buffered).against(Kind::Crossbeam, &batch, at_least(0.9)));
    }
    rows
}

/// Against a channel of vectors, and the disruptor.
fn in_batches(title: &str, batch: &Load, goal: Option<Goal>) -> Row {
    Row::new(format!("{title}, batches of 64"), batch.clone())
        .against(Kind::Crossbeam, batch, goal)
        .against(Kind::Disruptor, batch, at_least(OF_DISRUPTOR))
}

fn broadcasts() -> Vec<Row> {
    let mut rows = Vec::new();
    for (subscribers, goal) in [(4, 2.5), (16, 4.0)] {
        let single = Load {
            subscribers,
            ..Load::default()
        };
        let title = format!("1 → {subscribers}");
        let row = Row::new(title.clone(), single.clone())
            .against(Kind::Crossbeam, &single, at_least(goal))
            .against(Kind::Disruptor, &single, at_least(OF_DISRUPTOR))
            .beside(&[Kind::HandRolled, Kind::Tokio], &single);
        rows.push(row);
        rows.push(in_batches(&title, &batched(&single), None));
    }
    rows
}

fn many_to_one() -> Vec<Row> {
    let of_four = |load: Load| Load {
        publishers: 4,
        ..load
    };
    let mut rows = Vec::new();
    for (capacity, name, goal) in [(1_024, "1,024", 1.5), (65_536, "65,536", 1.0)] {
        let single = of_four(of_capacity(capacity));
        let title = format!("4 → 1, capacity {name}");
        let row = Row::new(title, single.clone())
            .against(Kind::Crossbeam, &single, at_least(goal))
            .against(Kind::Disruptor, &single, at_least(OF_DISRUPTOR));
        rows.push(row);
    }
    let topics = Load {
        topics: 64,
        ..of_four(Load::default())
    };
    rows.push(in_batches(
        "4 → 1",
        &batched(&of_four(Load::default())),
        at_least(0.9),
    ));
    rows.push(
        Row::new("4 publishers, 64 topics", topics.clone())
            .against(Kind::Crossbeam, &topics, at_least(1.3))
            .beside(&[Kind::HandRolled], &topics),
    );
    rows.push(
        Row::new("4 publishers, 64 topics, batches of 64", batched(&topics)).against(
            Kind::Crossbeam,
            &batched(&topics),
            at_least(0.9),
        ),
    );
    rows
}

fn latency() -> Vec<Row> {
    let at = |rate| Load {
        rate: Some(rate),
        ..Load::default()
    };
    let paced = [
        (20_000.0, "20,000", 1.5),
        (1e5, "100,000", 1.0),
        (1e6, "1,000,000", 1.0),
    ];
    let mut rows: Vec<_> = paced
        .map(|(rate, name, most)| {
            let title = format!("publish to handler at {name} a second");
            Row::new(title, at(rate))
                .against(Kind::Crossbeam, &at(rate), Some(Goal::OursAtMost(most)))
                .beside(&[Kind::Kanal, Kind::Disruptor], &at(rate))
        })
        .into();
    let spinning = Load {
        spinning: true,
        ..at(20_000.0)
    };
    rows.push(
        Row::new("the same at 20,000 with a spinning worker", spinning).against(
            Kind::Crossbeam,
            &at(20_000.0),
            Some(Goal::OursAtMost(1.0)),
        ),
    );
    let in_median = |row| Row {
        metric: Metric::MedianLatency,
        ..row
    };
    rows.into_iter().map(in_median).collect()
}

/// Without a handler that is called, and with one that is an async function.
fn taken() -> Vec<Row> {
    let blocking = |taking| Load {
        taking,
        ..Load::default()
    };
    let [recv, batch, stream, tasks] = [
        Taking::Recv,
        Taking::RecvBatch,
        Taking::Stream,
        Taking::Async,
    ]
    .map(blocking);
    vec![
        Row::new("pull", batch)
            .label(0, "recv_batch(64)")
            .against(Kind::Crossbeam, &recv, at_least(0.8))
            .beside(&[Kind::Millstream], &recv)
            .label(2, "recv"),
        Row::new("a stream of leases", stream.clone())
            .against(Kind::Flume, &stream, at_least(0.8))
            .label(1, "flume, a stream")
            .beside(&[Kind::Tokio], &stream)
            .label(2, "tokio mpsc"),
        Row::new("async functions that are ready at once", tasks.clone())
            .against(Kind::Tokio, &tasks, at_least(1.5))
            .label(1, "a tokio task for each"),
    ]
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

fn of_capacity(capacity: usize) -> Load {
    Load {
        capacity,
        ..Load::default()
    }
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
        assert_eq!(super::rows("tries again").len(), 1);
        assert!(super::rows("nothing of the kind").is_empty());
    }
}
