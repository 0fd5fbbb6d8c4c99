//! The table at a glance: a picture by itself, for a README.

use std::fmt::Write;

use crate::charts::escape;
use crate::load::{Full, Publishing};
use crate::report::{Entry, Metric, Report, Section};
use crate::terminal::figure;

const WIDTH: f64 = 860.0;
/// Where bars begin, and where the longest ends.
const LEFT: f64 = 280.0;
const RIGHT: f64 = 790.0;
const TOP: f64 = 34.0;
const BAR: f64 = 13.0;
const ROW: f64 = 2.0 * BAR + 12.0;

const STYLE: &str = "text { font: 13px system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif; fill: #1d2129 } \
.soft { fill: #667080 } .ours { fill: #c2410c } .theirs { fill: #2563a8 } \
.spread { stroke: #1d2129; stroke-width: 1.5; opacity: .7 } \
@media (prefers-color-scheme: dark) { text { fill: #e7e6e2 } .soft { fill: #97a0ae } .ours { fill: #fb7d3c } \
.theirs { fill: #6ea8ea } .spread { stroke: #e7e6e2 } }";

/// Ours and the first it is compared with, for each load of single messages into topics that
/// block while they are full.
pub fn picture(report: &Report) -> String {
    let pairs: Vec<_> = report.sections.iter().filter_map(pair).collect();
    let values = pairs.iter().flat_map(|(_, pair)| pair);
    let longest = values.map(|entry| entry.value.max).fold(1.0, f64::max);
    let height = TOP + ROW * pairs.len() as f64;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" \
         aria-label=\"Million deliveries a second, Millstream and what one would pick instead\">\n\
         <style>{STYLE}</style>\n\
         <text class=\"soft\" x=\"{LEFT}\" y=\"16\">million deliveries a second: median, and the \
         slowest to the fastest of {} rounds</text>\n",
        report.rounds,
    );
    for (at, (title, pair)) in pairs.iter().enumerate() {
        let top = TOP + ROW * at as f64;
        // Writing to a string can't fail.
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            LEFT - 12.0,
            top + BAR - 2.0,
            escape(title),
        );
        let [ours, theirs] = pair;
        svg += &bar(ours, "ours", top, longest);
        svg += &bar(theirs, "theirs", top + BAR, longest);
        let _ = writeln!(
            svg,
            "<text class=\"soft\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            LEFT - 12.0,
            top + 2.0 * BAR,
            escape(&format!("and {}", theirs.label)),
        );
    }
    svg + "</svg>\n"
}

fn pair(section: &Section) -> Option<(&str, [&Entry; 2])> {
    let [ours, theirs, ..] = section.entries.as_slice() else {
        return None;
    };
    let is_natural =
        ours.load.publishing == Publishing::Single && matches!(ours.load.full, Full::Block);
    let is_shown =
        section.metric == Metric::Throughput && ours.system != theirs.system && is_natural;
    is_shown.then_some((section.title.as_str(), [ours, theirs]))
}

fn bar(entry: &Entry, class: &str, top: f64, longest: f64) -> String {
    let long = |value: f64| (RIGHT - LEFT) * value / longest;
    let value = entry.value;
    let middle = top + (BAR - 1.0) / 2.0;
    format!(
        "<rect class=\"{class}\" x=\"{LEFT}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{:.1}\"/>\
         <line class=\"spread\" x1=\"{:.1}\" y1=\"{middle:.1}\" x2=\"{:.1}\" y2=\"{middle:.1}\"/>\
         <text x=\"{:.1}\" y=\"{:.1}\">{}</text>\n",
        long(value.median),
        BAR - 1.0,
        LEFT + long(value.min),
        LEFT + long(value.max),
        LEFT + long(value.max) + 8.0,
        top + BAR - 2.0,
        figure(value.median),
    )
}
