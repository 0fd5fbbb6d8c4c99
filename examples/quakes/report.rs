//! The report at the end, for people.

use std::collections::BTreeMap;
use std::io::{self, Write};

use indicatif::HumanCount;
use millstream::{DeadLetter, Imbalance, Metrics, SubscriptionMetrics, TopicMetrics};

use crate::check::Fact;
use crate::pipeline::{Catalogue, Shared};

/// Letters shown one by one; a week has fewer, a decade more.
const LETTERS_SHOWN: usize = 40;
const BAR_WIDTH: u64 = 50;

fn heading(out: &mut impl Write, title: &str) -> io::Result<()> {
    writeln!(out, "\n{title}\n{}", "─".repeat(title.chars().count()))
}

pub fn metrics(out: &mut impl Write, metrics: &Metrics) -> io::Result<()> {
    heading(out, "Metrics")?;
    write!(out, "{metrics}")
}

/// From acceptance to the end of the attempt, retries included: what a user of
/// the subscription would notice.
pub fn latencies(out: &mut impl Write, metrics: &Metrics) -> io::Result<()> {
    heading(out, "Latency, from publish to done")?;
    writeln!(
        out,
        "{:<34}{:>10}{:>10}{:>10}{:>10}{:>10}",
        "subscription", "p50", "p90", "p99", "p99.9", "max"
    )?;
    for topic in &metrics.topics {
        for lane in &topic.subscriptions {
            latency(out, topic, lane)?;
        }
    }
    Ok(())
}

fn latency(
    out: &mut impl Write,
    topic: &TopicMetrics,
    lane: &SubscriptionMetrics,
) -> io::Result<()> {
    let times = &lane.end_to_end;
    write!(out, "{:<34}", format!("{}/{}", topic.name, lane.name))?;
    for time in [times.p50, times.p90, times.p99, times.p999, times.max] {
        write!(out, "{time:>10.1?}")?;
    }
    writeln!(out)
}

pub fn dead_letters(out: &mut impl Write, letters: &[DeadLetter<Shared>]) -> io::Result<()> {
    heading(out, "Dead letters")?;
    let mut reasons: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    for letter in letters {
        let why = letter.error().unwrap_or("never handled");
        *reasons.entry((letter.subscription(), why)).or_default() += 1;
    }
    for ((subscription, why), count) in reasons {
        writeln!(out, "{count:>5} of {subscription}: {why}")?;
    }
    writeln!(out)?;
    for letter in letters.iter().take(LETTERS_SHOWN) {
        let quake = letter.payload();
        writeln!(
            out,
            "{:>5}  {:<11} {}  {:<13} {}",
            letter.id().get(),
            quake.id,
            quake.magnitude(),
            letter.error().unwrap_or_default(),
            quake.place(),
        )?;
    }
    match letters.len().saturating_sub(LETTERS_SHOWN) {
        0 => Ok(()),
        more => writeln!(out, "       … and {more} more"),
    }
}

pub fn catalogue(out: &mut impl Write, catalogue: &Catalogue) -> io::Result<()> {
    heading(out, "Networks")?;
    let mut networks: Vec<_> = catalogue.networks.iter().collect();
    networks.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    for line in networks.chunks(6) {
        for (network, count) in line {
            write!(out, "{network:>5} {:>6}", HumanCount(**count).to_string())?;
        }
        writeln!(out)?;
    }

    heading(out, "Magnitudes")?;
    let most = catalogue.magnitudes.values().copied().max().unwrap_or(1);
    for (magnitude, count) in &catalogue.magnitudes {
        let label = match magnitude {
            Some(whole) => format!("{whole:>2} to {:<2}", whole + 1),
            None => "unknown".to_owned(),
        };
        // Rounded up, so that a single event is still seen.
        let bar = "█".repeat((count * BAR_WIDTH).div_ceil(most) as usize);
        writeln!(
            out,
            "{label:<8} {:>7} {bar}",
            HumanCount(*count).to_string()
        )?;
    }
    if let Some(quake) = &catalogue.strongest {
        writeln!(out, "strongest: {}, {}", quake.magnitude(), quake.place())?;
    }
    Ok(())
}

/// The engine's own laws, then the facts that the file implies.
pub fn books(
    out: &mut impl Write,
    metrics: &Metrics,
    balance: Result<(), &Imbalance>,
    facts: &[Fact],
) -> io::Result<()> {
    heading(out, "The books")?;
    for topic in &metrics.topics {
        writeln!(
            out,
            "{:<19} {:>6} published = {} dispatched + {} unrouted + {} dropped + {} queued",
            topic.name,
            topic.published,
            topic.dispatched,
            topic.unrouted,
            topic.dropped,
            topic.queued,
        )?;
        let counts = topic.deliveries();
        writeln!(
            out,
            "{:<19} {:>6} deliveries = {} delivered + {} dead-lettered + {} otherwise",
            "",
            counts.made,
            counts.delivered,
            counts.dead_lettered,
            counts.made - counts.delivered - counts.dead_lettered,
        )?;
    }
    if let Err(imbalance) = balance {
        writeln!(out, "OUT OF BALANCE: {imbalance}")?;
    }
    writeln!(out, "\n{:<41}{:>10}{:>10}", "", "expected", "found")?;
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
