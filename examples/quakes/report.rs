//! The report at the end, for people. The verdict is its last line.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::time::Duration;

use indicatif::HumanCount;
use millstream::Metrics;
use millstream::dead_letters::DeadLetter;
use millstream::metrics::DeliveryCounts;

use crate::check::Fact;
use crate::pipeline::{Catalog, DETECTED, Shared};
use crate::quake::Quake;
use crate::replay::Pace;

/// Letters shown of each reason, unless all are.
const EXAMPLES: usize = 3;
const BAR_WIDTH: u64 = 50;

pub fn catalog(out: &mut impl Write, catalog: &Catalog) -> io::Result<()> {
    writeln!(out, "Catalog")?;
    let mut networks: Vec<_> = catalog.networks.iter().collect();
    networks.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    for line in networks.chunks(12) {
        for (network, count) in line {
            write!(out, "  {network} {}", HumanCount(**count))?;
        }
        writeln!(out)?;
    }
    let most = catalog.magnitudes.values().copied().max().unwrap_or(1);
    for (magnitude, count) in &catalog.magnitudes {
        let label = match magnitude {
            Some(whole) => format!("{whole:>2} to {:<2}", whole + 1),
            None => "unknown".to_owned(),
        };
        // Rounded up, so that a single event is still seen.
        let bar = "█".repeat((count * BAR_WIDTH).div_ceil(most) as usize);
        let count = HumanCount(*count).to_string();
        writeln!(out, "{label:<8} {count:>7} {bar}")?;
    }
    if let Some(quake) = &catalog.strongest {
        writeln!(out, "strongest: {}, {}", quake.magnitude(), quake.place())?;
    }
    Ok(())
}

/// The engine's own table. Its times are end to end: from acceptance to the end of an
/// attempt, so that those of a retry include the wait for it.
pub fn metrics(out: &mut impl Write, metrics: &Metrics) -> io::Result<()> {
    write!(out, "\nMetrics\n{metrics}")
}

/// What the table's times are. At a pace they are latencies. Flat out they are a backlog:
/// the replay publishes faster than anybody handles, so most of a time is spent in line.
pub fn times(
    out: &mut impl Write,
    pace: Pace,
    latest: Duration,
    metrics: &Metrics,
) -> io::Result<()> {
    write!(out, "The times are from publish to handled: ")?;
    match pace {
        Pace::FlatOut => {
            writeln!(out, "flat out a backlog; --speed 86400 shows the latency.")?;
            if let Some(topic) = metrics.topic(DETECTED) {
                let (wait, handler) = (topic.queue_wait.p50, topic.handler.p50);
                writeln!(
                    out,
                    "In {DETECTED} the median wait in line is {wait:.1?}, the median call {handler:.1?}."
                )?;
            }
            Ok(())
        }
        Pace::Times(_) => {
            writeln!(out, "the latency, waits on purpose included.")?;
            writeln!(
                out,
                "The second half waits up to 2ms for a batch, the archive up to 5ms, the pager for \
                 its retries."
            )?;
            writeln!(
                out,
                "No event was published more than {latest:.1?} after it was due."
            )
        }
    }
}

/// Says what the strategies have made of it.
pub fn strategy(out: &mut impl Write, last: &str, batches: &[u64]) -> io::Result<()> {
    writeln!(
        out,
        "Strategy: immediate, then from halfway on {last}: {} messages in {} batches.",
        HumanCount(batches.iter().sum()),
        batches.len(),
    )
}

/// How many letters there are, by reason, with a few examples; or all of them.
pub fn dead_letters(
    out: &mut impl Write,
    letters: &[DeadLetter<Shared>],
    all: bool,
) -> io::Result<()> {
    let mut reasons: BTreeMap<(&str, &str), Vec<&Quake>> = BTreeMap::new();
    for letter in letters {
        let why = letter.error().unwrap_or("never handled");
        let reason = (letter.subscription(), why);
        reasons.entry(reason).or_default().push(letter.payload());
    }
    let hint = if all { "" } else { " (--letters lists them)" };
    writeln!(out, "\nDead letters in the store: {}{hint}", letters.len())?;
    for ((subscription, why), quakes) in reasons {
        write!(out, "{:>5} of {subscription}: {why}", quakes.len())?;
        if all {
            writeln!(out)?;
            for quake in quakes {
                let (magnitude, place) = (quake.magnitude(), quake.place());
                writeln!(out, "         {:<11} {magnitude}  {place}", quake.id)?;
            }
        } else {
            let ids = quakes.iter().map(|quake| quake.id.as_str());
            let examples: Vec<_> = ids.take(EXAMPLES).collect();
            writeln!(out, ", such as {}", examples.join(", "))?;
        }
    }
    Ok(())
}

/// What the file implies, and what has come of it.
pub fn facts(out: &mut impl Write, facts: &[Fact]) -> io::Result<()> {
    writeln!(
        out,
        "\n{:<41}{:>10}{:>10}",
        "The books", "expected", "found"
    )?;
    for fact in facts {
        let mark = if fact.holds() { "✓" } else { "✗" };
        let Fact {
            what,
            expected,
            found,
        } = fact;
        writeln!(out, "{mark} {what:<39}{expected:>10}{found:>10}")?;
    }
    Ok(())
}

/// What happened, how fast, and whether all of it is accounted for: by the engine's own
/// laws, and by `facts`.
pub fn verdict(
    out: &mut impl Write,
    malformed: u64,
    took: Duration,
    metrics: &Metrics,
    facts: &[Fact],
) -> io::Result<bool> {
    let published: u64 = metrics.topics.iter().map(|topic| topic.published).sum();
    let dispatched: u64 = metrics.topics.iter().map(|topic| topic.dispatched).sum();
    let of = |count: fn(&DeliveryCounts) -> u64| -> u64 {
        let topics = metrics.topics.iter();
        topics.map(|topic| count(&topic.deliveries())).sum()
    };
    let (made, delivered, dead) = (of(|c| c.made), of(|c| c.delivered), of(|c| c.dead_lettered));
    let rate = |count| HumanCount((count as f64 / took.as_secs_f64()) as u64);
    writeln!(
        out,
        "\n{} messages and {} deliveries a second, for {took:.1?}, the wait for retries included.",
        rate(published),
        rate(made),
    )?;
    writeln!(
        out,
        "{} messages published = {} dispatched + {} otherwise; {} malformed lines skipped.",
        HumanCount(published),
        HumanCount(dispatched),
        HumanCount(published.saturating_sub(dispatched)),
        HumanCount(malformed),
    )?;
    writeln!(
        out,
        "{} deliveries made = {} delivered + {} dead-lettered + {} otherwise.",
        HumanCount(made),
        HumanCount(delivered),
        HumanCount(dead),
        HumanCount(made.saturating_sub(delivered + dead)),
    )?;
    let balance = metrics.balance();
    if let Err(imbalance) = &balance {
        writeln!(out, "OUT OF BALANCE: {imbalance}")?;
    }
    let wrong = facts.iter().filter(|fact| !fact.holds()).count();
    let balanced = balance.is_ok() && wrong == 0;
    if balanced {
        writeln!(
            out,
            "The books balance: every message and every delivery is accounted for."
        )?;
    } else {
        writeln!(
            out,
            "THE BOOKS DO NOT BALANCE: {wrong} of {} counts are not what the events imply.",
            facts.len(),
        )?;
    }
    Ok(balanced)
}
