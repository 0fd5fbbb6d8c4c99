//! Bars and curves, as inline SVG and HTML that a style sheet colors.

use std::collections::HashSet;
use std::fmt::Write;

use indicatif::HumanCount;

use crate::report::{Entry, Section};
use crate::terminal::{figure, micros};

/// Text that may stand anywhere in a page.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped += "&amp;",
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '"' => escaped += "&quot;",
            '\'' => escaped += "&#39;",
            other => escaped.push(other),
        }
    }
    escaped
}

/// A class for each entry: a color for the system, and dashes from its second
/// appearance on.
pub fn classes(section: &Section) -> Vec<String> {
    let mut seen = HashSet::new();
    let class = |entry: &Entry| {
        let again = if seen.insert(entry.system.key()) {
            ""
        } else {
            " again"
        };
        format!("{}{again}", entry.system.key())
    };
    section.entries.iter().map(class).collect()
}

/// A bar for each entry, with a line from its slowest round to its fastest.
pub fn bars(section: &Section) -> String {
    let widest = section.entries.iter().map(|entry| entry.value.max);
    let widest = widest.fold(f64::MIN_POSITIVE, f64::max);
    let percent = |value: f64| value / widest * 100.0;
    let mut html = String::from("<div class=\"bars\">\n");
    for (entry, class) in section.entries.iter().zip(classes(section)) {
        let (value, unit) = (entry.value, section.metric.unit());
        let spread = format!("{} to {} {unit}", figure(value.min), figure(value.max));
        // Writing to a string can't fail.
        let _ = writeln!(
            html,
            "<span class=\"name\">{}</span><span class=\"track {class}\" title=\"{spread}\">\
             <i class=\"bar\" style=\"width:{:.2}%\"></i>\
             <i class=\"whisker\" style=\"left:{:.2}%;width:{:.2}%\"></i></span>\
             <span class=\"value\">{}</span><span class=\"ratio\">{}</span>",
            escape(&entry.label),
            percent(value.median),
            percent(value.min),
            percent(value.max - value.min),
            figure(value.median),
            ratio(entry),
        );
    }
    html + "</div>\n"
}

fn ratio(entry: &Entry) -> String {
    let Some(compared) = &entry.compared else {
        return String::new();
    };
    let class = match compared.reached {
        None => "",
        Some(true) => " reached",
        Some(false) => " missed",
    };
    let goal = compared.goal.map(|goal| format!(" <small>{goal}</small>"));
    let goal = goal.unwrap_or_default();
    format!(
        "<b class=\"chip{class}\">×{:.2}</b>{goal}",
        compared.ratio.median
    )
}

/// The frame of a plot, in pixels of its view box.
const WIDTH: f64 = 880.0;
const HEIGHT: f64 = 320.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 14.0;
const BOTTOM: f64 = 44.0;

/// Where a percentile and a latency lie in a plot: both logarithmic, the
/// percentiles by what is left above them.
struct Scale {
    nines: f64,
    lowest: f64,
    highest: f64,
}

impl Scale {
    fn of(section: &Section) -> Self {
        let points = || section.entries.iter().flat_map(drawn);
        let nines = points().map(|(percentile, _)| nines(percentile));
        let values = || points().map(|(_, ns)| (ns.max(1) as f64).log10());
        let lowest = values().fold(f64::MAX, f64::min).floor();
        let highest = values().fold(f64::MIN, f64::max).ceil();
        Self {
            nines: nines.fold(1.0, f64::max),
            lowest,
            highest: highest.max(lowest + 1.0),
        }
    }

    fn x(&self, percentile: f64) -> f64 {
        LEFT + (WIDTH - LEFT - RIGHT) * nines(percentile) / self.nines
    }

    fn y(&self, ns: f64) -> f64 {
        let part = (ns.max(1.0).log10() - self.lowest) / (self.highest - self.lowest);
        HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * part
    }
}

/// 0 for 0 %, 1 for 90 %, 2 for 99 %.
fn nines(percentile: f64) -> f64 {
    (100.0 / (100.0 - percentile)).log10()
}

/// The largest value has no place on an axis that never ends.
fn drawn(entry: &Entry) -> impl Iterator<Item = (f64, u64)> {
    let curve = entry.latency.curve.iter().copied();
    curve.filter(|(percentile, _)| *percentile < 100.0)
}

/// Latency by percentile, one curve for each entry; nothing if nothing was sampled.
pub fn curves(section: &Section) -> String {
    if section
        .entries
        .iter()
        .all(|entry| drawn(entry).next().is_none())
    {
        return String::new();
    }
    let scale = Scale::of(section);
    let title = escape(&section.title);
    let mut svg = format!(
        "<svg class=\"plot\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" \
         aria-label=\"Latency by percentile: {title}\">\n"
    );
    svg += &grid(&scale);
    for (entry, class) in section.entries.iter().zip(classes(section)) {
        let point =
            |(percentile, ns)| format!("{:.1},{:.1}", scale.x(percentile), scale.y(ns as f64));
        let points: Vec<_> = drawn(entry).map(point).collect();
        let (points, label) = (points.join(" "), escape(&entry.label));
        let _ = writeln!(
            svg,
            "<polyline class=\"curve {class}\" points=\"{points}\"><title>{label}</title></polyline>"
        );
    }
    svg += "</svg>\n";
    svg + &legend(section)
}

fn grid(scale: &Scale) -> String {
    let mut svg = String::new();
    let (bottom, right) = (HEIGHT - BOTTOM, WIDTH - RIGHT);
    for percentile in [0.0, 50.0, 90.0, 99.0, 99.9, 99.99, 99.999] {
        if nines(percentile) > scale.nines {
            continue;
        }
        let x = scale.x(percentile);
        let _ = writeln!(
            svg,
            "<line class=\"grid\" x1=\"{x:.1}\" y1=\"{TOP}\" x2=\"{x:.1}\" y2=\"{bottom}\"/>\
             <text class=\"tick\" x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{percentile}</text>",
            bottom + 17.0,
        );
    }
    for power in scale.lowest as i32..=scale.highest as i32 {
        let ns = 10_f64.powi(power);
        let y = scale.y(ns);
        let _ = writeln!(
            svg,
            "<line class=\"grid\" x1=\"{LEFT}\" y1=\"{y:.1}\" x2=\"{right}\" y2=\"{y:.1}\"/>\
             <text class=\"tick\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            LEFT - 8.0,
            y + 4.0,
            decade(power),
        );
    }
    let middle = f64::midpoint(LEFT, right);
    let below = HEIGHT - 6.0;
    svg + &format!(
        "<text class=\"tick\" x=\"{middle}\" y=\"{below}\" text-anchor=\"middle\">percentile</text>\n"
    )
}

/// A power of ten of nanoseconds.
fn decade(power: i32) -> String {
    let unit = ["ns", "µs", "ms", "s"]
        .get((power / 3) as usize)
        .copied()
        .unwrap_or("s");
    let over = power - (power / 3).min(3) * 3;
    format!("{} {unit}", 10_u64.pow(over as u32))
}

/// The colors with the percentiles that everybody looks at.
fn legend(section: &Section) -> String {
    const TOLD: [f64; 4] = [50.0, 99.0, 99.9, 100.0];
    let mut html = String::from(
        "<table class=\"legend\"><tr><th></th><th>p50</th><th>p99</th><th>p99.9</th><th>max</th>\
         <th>samples</th></tr>\n",
    );
    for (entry, class) in section.entries.iter().zip(classes(section)) {
        let told =
            TOLD.map(|percentile| entry.latency.at(percentile).map_or("–".to_owned(), micros));
        let cells = told.map(|ns| format!("<td>{ns}</td>")).concat();
        let _ = writeln!(
            html,
            "<tr><th><svg class=\"key\" viewBox=\"0 0 24 8\"><line class=\"curve {class}\" x1=\"0\" \
             y1=\"4\" x2=\"24\" y2=\"4\"/></svg> {}</th>{cells}<td>{}</td></tr>",
            escape(&entry.label),
            HumanCount(entry.latency.samples),
        );
    }
    html + "</table>\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_gets_out_of_its_place() {
        let hostile = "<script>alert(\"1\" & '2')</script>";
        let escaped = escape(hostile);
        assert!(!escaped.contains(['<', '>', '"', '\'']), "{escaped}");
        assert_eq!(escape("1 → 4"), "1 → 4");
    }

    #[test]
    fn every_nine_is_as_wide_as_the_one_before() {
        assert!((nines(99.0) - 2.0 * nines(90.0)).abs() < 1e-9);
        assert!((nines(99.9) - 3.0 * nines(90.0)).abs() < 1e-9);
        assert_eq!(nines(0.0), 0.0);
    }

    #[test]
    fn powers_of_ten_have_units_that_fit() {
        let all = [0, 2, 3, 5, 6, 9, 10].map(decade);
        assert_eq!(
            all,
            ["1 ns", "100 ns", "1 µs", "100 µs", "1 ms", "1 s", "10 s"]
        );
    }
}
