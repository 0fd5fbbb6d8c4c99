//! Figures as text.

use std::fmt::Write;

use crate::process::Setting;
use crate::report::{Compared, Entry, Goal, Latency, Report, Section};

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

/// A section as soon as it is measured.
pub fn section(section: &Section) -> String {
    let trip = section.round_trip_ns;
    let mut text = format!(
        "\n{}   (round trip between cores {:.0} ns, {:.0} to {:.0}; others had {} cores)\n",
        section.title,
        trip.median,
        trip.min,
        trip.max,
        optional(section.cores_of_others, |cores| format!("{cores:.2}")),
    );
    text += &format!(
        "  {:<28} {:>9} {:>17} {:>6} {:>9} {:>15} {:>8}  {}\n",
        "",
        section.metric.unit(),
        "spread",
        "cores",
        "peak MiB",
        "ours by it",
        "medians",
        "goal",
    );
    for entry in &section.entries {
        let spread = format!("{} to {}", figure(entry.value.min), figure(entry.value.max));
        // Writing to a string can't fail.
        let _ = write!(
            text,
            "  {:<28} {:>9} {spread:>17} {:>6} {:>9}",
            entry.label,
            figure(entry.value.median),
            optional(entry.cores, |cores| format!("{cores:.2}")),
            optional(entry.peak_bytes, |bytes| format!(
                "{:.0}",
                bytes as f64 / f64::from(1 << 20)
            )),
        );
        if let Some(Compared {
            of_medians, ratio, ..
        }) = &entry.compared
        {
            let _ = write!(
                text,
                " {:>6.2} ({:.2}-{:.2})",
                ratio.median, ratio.min, ratio.max
            );
            let _ = write!(text, " {of_medians:>6.2}  {}", verdict(entry));
        }
        text = text.trim_end().to_owned() + "\n";
    }
    text.trim_end().to_owned()
}

fn verdict(entry: &Entry) -> String {
    let Some(Compared {
        goal: Some(goal),
        reached,
        ..
    }) = &entry.compared
    else {
        return String::new();
    };
    let bound = match goal {
        Goal::AtLeast(least) => format!("at least {least}"),
        Goal::AtMost(most) => format!("at most {most}"),
    };
    let reached = if *reached == Some(true) {
        "reached"
    } else {
        "MISSED"
    };
    format!("{bound}: {reached}")
}

/// One system, at length.
pub fn single(section: &Section) -> String {
    let Some(entry) = section.entries.first() else {
        return String::new();
    };
    let mut text = format!("\n{}\n", entry.load.describe());
    let mut line = |what: &str, value: String| {
        text += &format!("  {what:<22} {value}\n");
    };
    let (value, load) = (entry.value, &entry.load);
    let verified = load.deliveries();
    line(
        "verified",
        format!("{verified} deliveries: count, order, checksum"),
    );
    line(
        "throughput",
        format!("{} million deliveries a second", figure(value.median)),
    );
    if value.min < value.max {
        line(
            "spread",
            format!("{} to {}", figure(value.min), figure(value.max)),
        );
    }
    let about = if entry.latency.is_open_loop {
        "from the intended send time to the handler"
    } else {
        "time in the queue under saturation, sampled"
    };
    line(
        "latency",
        format!(
            "{}\n  {:<22} {about}, {} samples",
            percentiles(&entry.latency),
            "",
            entry.latency.samples
        ),
    );
    line(
        "processor",
        optional(entry.cores, |cores| format!("{cores:.2} cores busy")),
    );
    line(
        "peak memory",
        optional(entry.peak_bytes, |b| {
            format!("{:.1} MiB", b as f64 / f64::from(1 << 20))
        }),
    );
    line(
        "round trip of a line",
        format!("{:.0} ns between two cores", section.round_trip_ns.median),
    );
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
                Goal::AtMost(most) => format!("at most {most}"),
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
