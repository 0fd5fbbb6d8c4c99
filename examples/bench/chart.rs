//! The table at a glance: a picture by itself, for a README.
//!
//! It shows ratios, because those hold where figures don't: how near two cores are to each
//! other changes from machine to machine, and from hour to hour.

use std::fmt::Write;

use crate::charts::escape;
use crate::load::{Full, Publishing};
use crate::report::{Compared, Entry, Metric, Report, Section};
use crate::terminal::figure;

const WIDTH: f64 = 940.0;
/// Where bars begin, and where the longest ends.
const LEFT: f64 = 270.0;
const RIGHT: f64 = 640.0;
const TOP: f64 = 40.0;
const BAR: f64 = 16.0;
const ROW: f64 = BAR + 10.0;

const STYLE: &str = "text { font: 13px system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif; fill: #1d2129 } \
.soft { fill: #667080 } .more { fill: #1a7f4b } .less { fill: #c2410c } \
line { stroke: #1d2129; stroke-width: 1.5; opacity: .7 } \
@media (prefers-color-scheme: dark) { text { fill: #e7e6e2 } .soft { fill: #97a0ae } .more { fill: #6fd29b } \
.less { fill: #fb7d3c } line { stroke: #e7e6e2 } }";

/// Ours by the first it is compared with.
struct Row<'a> {
    title: &'a str,
    ours: &'a Entry,
    theirs: &'a Entry,
    compared: &'a Compared,
}

/// A bar for each load of single messages into topics that block while they are full.
pub fn picture(report: &Report) -> String {
    let rows: Vec<_> = report.sections.iter().filter_map(Row::of).collect();
    let longest = rows.iter().map(|row| row.compared.ratio.max);
    let scale = (RIGHT - LEFT) / longest.fold(1.0, f64::max);
    let height = TOP + ROW * rows.len() as f64;
    let even = LEFT + scale;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" \
         aria-label=\"Deliveries a second by those of what one would pick instead\">\n\
         <style>{STYLE}</style>\n\
         <text class=\"soft\" x=\"{LEFT}\" y=\"16\">Millstream's deliveries a second by those of \
         what one would pick instead, {}</text>\n\
         <line x1=\"{even:.1}\" y1=\"{:.1}\" x2=\"{even:.1}\" y2=\"{height:.1}\"/>\
         <text class=\"soft\" x=\"{even:.1}\" y=\"{:.1}\" text-anchor=\"middle\">1</text>\n",
        escape(&report.setting.date),
        TOP - 5.0,
        TOP - 9.0,
    );
    for (at, row) in rows.iter().enumerate() {
        svg += &row.draw(TOP + ROW * at as f64, scale);
    }
    svg + "</svg>\n"
}

impl<'a> Row<'a> {
    fn of(section: &'a Section) -> Option<Self> {
        let [ours, theirs, ..] = section.entries.as_slice() else {
            return None;
        };
        let load = &ours.load;
        let is_natural = load.publishing == Publishing::Single && load.full == Full::Block;
        let is_shown = section.metric == Metric::Throughput && ours.system != theirs.system;
        let compared = theirs.compared.as_ref()?;
        (is_natural && is_shown).then_some(Self {
            title: &section.title,
            ours,
            theirs,
            compared,
        })
    }

    fn draw(&self, top: f64, scale: f64) -> String {
        let ratio = self.compared.ratio;
        let class = if ratio.median >= 1.0 { "more" } else { "less" };
        let (middle, baseline) = (top + BAR / 2.0, top + BAR - 3.0);
        let mut svg = String::new();
        // Writing to a string can't fail.
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{baseline:.1}\" text-anchor=\"end\">{}</text>\
             <rect class=\"{class}\" x=\"{LEFT}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{BAR}\"/>\
             <line x1=\"{:.1}\" y1=\"{middle:.1}\" x2=\"{:.1}\" y2=\"{middle:.1}\"/>\
             <text x=\"{:.1}\" y=\"{baseline:.1}\">{:.2} <tspan class=\"soft\">{}</tspan></text>",
            LEFT - 12.0,
            escape(self.title),
            scale * ratio.median,
            LEFT + scale * ratio.min,
            LEFT + scale * ratio.max,
            LEFT + scale * ratio.max.max(1.0) + 10.0,
            ratio.median,
            escape(&format!(
                "{} to {} M/s of {}",
                figure(self.ours.value.median),
                figure(self.theirs.value.median),
                self.theirs.label,
            )),
        );
        svg
    }
}
