//! Figures as text.

use std::fmt::Write;

use indicatif::{HumanBytes, HumanCount};

use crate::process::Setting;
use crate::report::{Compared, Goal, Latency, Metric, Report, Section};
use crate::stats::Spread;

/// Before anything is measured.
pub fn header(setting: &Setting, rounds: usize) -> String {
    let commit = setting.commit.as_deref().unwrap_or("unknown");
    let rounds = match rounds {
        1 => "one round".to_owned(),
        many => format!("{many} rounds"),
    };
    format!(
        "{} · {} cores · {} · commit {commit} · {} · {rounds}",
        setting.processor, setting.cores, setting.date, setting.build,
    )
}

/// What the machine was like meanwhile.
pub fn circumstances(section: &Section) -> String {
    let trip = section.round_trip_ns;
    let [median, min, max] = [trip.median, trip.min, trip.max].map(|ns| micros(ns as u64));
    let mut text = format!("round trip between cores {median} ({min} to {max})");
    if let Some(others) = section.cores_of_others {
        text += &format!(", other processes had {others:.2} cores");
    }
    if section.repeated > 0 {
        text += &format!(", disturbed rounds run again: {}", section.repeated);
    }
    text
}

/// A section as soon as it is measured.
pub fn section(section: &Section) -> String {
    let tail = section.metric == Metric::MedianLatency;
    let mut text = format!("\n{}   ({})\n", section.title, circumstances(section));
    let mut row = |label: &str, cells: [&str; 7]| {
        let [median, spread, tail_value, cores, ratio, medians, goal] = cells;
        let line = if tail {
            format!(
                "  {label:<28} {median:>8} {spread:>16} {tail_value:>9} {cores:>6} {ratio:>20} {medians:>8}  {goal}"
            )
        } else {
            format!(
                "  {label:<28} {median:>8} {spread:>16} {cores:>6} {ratio:>20} {medians:>8}  {goal}"
            )
        };
        text += line.trim_end();
        text.push('\n');
    };
    row(
        "",
        [
            section.metric.unit(),
            "spread",
            "p99",
            "cores",
            "ours by it",
            "medians",
            "goal",
        ],
    );
    for entry in &section.entries {
        let spread = format!("{} to {}", figure(entry.value.min), figure(entry.value.max));
        let ratio = |c: &Compared| {
            let (ratio, min, max) = (c.ratio.median, c.ratio.min, c.ratio.max);
            format!("{ratio:.2} ({min:.2} to {max:.2})")
        };
        let compared = entry.compared.as_ref();
        row(
            &entry.label,
            [
                &figure(entry.value.median),
                &spread,
                &optional(entry.latency.at(99.0), micros),
                &optional(entry.cores, |cores| format!("{cores:.2}")),
                &compared.map(ratio).unwrap_or_default(),
                &compared
                    .map(|c| format!("{:.2}", c.of_medians))
                    .unwrap_or_default(),
                &compared.and_then(verdict).unwrap_or_default(),
            ],
        );
    }
    text.trim_end().to_owned()
}

fn verdict(compared: &Compared) -> Option<String> {
    let (goal, reached) = (compared.goal?, compared.reached?);
    let reached = if reached { "reached" } else { "MISSED" };
    Some(format!("{goal}: {reached}"))
}

/// One system, at length.
pub fn single(section: &Section) -> String {
    let Some(entry) = section.entries.first() else {
        return String::new();
    };
    let mut text = format!("\n{}\n", entry.load.describe());
    let mut line = |what: &str, value: String| {
        text += &format!("  {what:<12} {value}\n");
    };
    let deliveries = HumanCount(entry.load.deliveries());
    line(
        "verified",
        format!("{deliveries} deliveries: count, order, checksum"),
    );
    let Spread { median, min, max } = entry.throughput;
    let spread = format!(" ({} to {})", figure(min), figure(max));
    let spread = if min < max { spread } else { String::new() };
    line(
        "throughput",
        format!("{} million deliveries a second{spread}", figure(median)),
    );
    let about = if entry.latency.is_open_loop {
        "from the intended send time to the handler"
    } else {
        "time in the queue under saturation, of every 256th message"
    };
    line("latency", percentiles(&entry.latency));
    line(
        "",
        format!("{about}, {} samples", HumanCount(entry.latency.samples)),
    );
    line(
        "processor",
        optional(entry.cores, |cores| format!("{cores:.2} cores busy")),
    );
    line(
        "peak memory",
        optional(entry.peak_bytes, |bytes| HumanBytes(bytes).to_string()),
    );
    line("machine", circumstances(section));
    text.trim_end().to_owned()
}

fn percentiles(latency: &Latency) -> String {
    let told = [50.0, 90.0, 99.0, 99.9, 99.99, 100.0]
        .into_iter()
        .filter_map(|p| {
            let name = if p == 100.0 {
                "max".to_owned()
            } else {
                format!("p{p}")
            };
            Some(format!("{name} {}", micros(latency.at(p)?)))
        });
    told.collect::<Vec<_>>().join("  ")
}

/// Nanoseconds in a unit that fits.
pub fn micros(ns: u64) -> String {
    match ns as f64 {
        ns if ns < 1e3 => format!("{ns:.0} ns"),
        ns if ns < 1e6 => format!("{} µs", figure(ns / 1e3)),
        ns if ns < 1e9 => format!("{} ms", figure(ns / 1e6)),
        ns => format!("{:.2} s", ns / 1e9),
    }
}

/// Three digits that matter.
pub fn figure(value: f64) -> String {
    match value {
        v if v < 10.0 => format!("{v:.2}"),
        v if v < 100.0 => format!("{v:.1}"),
        v => format!("{v:.0}"),
    }
}

fn optional<T>(value: Option<T>, format: impl Fn(T) -> String) -> String {
    value.map_or_else(|| "n/a".to_owned(), format)
}

/// All sections as one table for a Markdown file.
pub fn markdown(report: &Report) -> String {
    let mut text = format!("{}\n\n", header(&report.setting, report.rounds));
    text += "| load | system | figure | spread | ours by it | at least | |\n";
    text += "|---|---|---|---|---|---|---|\n";
    for section in &report.sections {
        for (at, entry) in section.entries.iter().enumerate() {
            let title = if at == 0 { section.title.as_str() } else { "" };
            let (value, unit) = (entry.value, section.metric.unit());
            let ratio = entry
                .compared
                .as_ref()
                .map(|c| format!("{:.2}", c.ratio.median));
            let goal = entry.compared.as_ref().and_then(|compared| compared.goal);
            let goal = goal.map(|goal| match goal {
                Goal::AtLeast(least) => least.to_string(),
                Goal::OursAtMost(_) => goal.to_string(),
            });
            let reached = entry
                .compared
                .as_ref()
                .and_then(|compared| compared.reached);
            let reached = reached.map_or("", |reached| if reached { "reached" } else { "missed" });
            let _ = writeln!(
                text,
                "| {title} | {} | {} {unit} | {} to {} | {} | {} | {reached} |",
                entry.label,
                figure(value.median),
                figure(value.min),
                figure(value.max),
                ratio.unwrap_or_default(),
                goal.unwrap_or_default(),
            );
        }
    }
    text
}

/// The last line.
pub fn summary(report: &Report) -> Option<String> {
    match report.goals() {
        (_, 0) => None,
        (reached, all) => Some(format!(
            "\n{reached} of {all} goals reached; every message verified in every run"
        )),
    }
}
