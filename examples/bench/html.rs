//! Figures as a page: one file, no script, no network.

use std::fmt::Write;

use crate::charts::{bars, curves, escape};
use crate::report::{Metric, Report, Section};
use crate::terminal::circumstances;

const STYLE: &str = include_str!("page.css");

/// The whole page.
pub fn page(report: &Report) -> String {
    let sections: String = report.sections.iter().map(section).collect();
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>millstream bench, {date}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n\
         {header}{goals}{sections}\
         <footer>Every subscriber of every run verified the count, the order and the checksum of \
         what it got. Bars are medians, their lines go from the slowest round to the fastest; × is \
         ours by theirs, the median over rounds in which both ran next to each other.</footer>\n\
         </body>\n</html>\n",
        date = escape(&report.setting.date),
        header = header(report),
        goals = goals(report),
    )
}

fn header(report: &Report) -> String {
    let setting = &report.setting;
    let commit = setting.commit.as_deref().unwrap_or("unknown");
    let facts = [
        ("processor", setting.processor.clone()),
        ("cores", setting.cores.to_string()),
        ("date", setting.date.clone()),
        ("commit", commit.to_owned()),
        ("built with", setting.build.to_owned()),
        ("rounds", report.rounds.to_string()),
    ];
    let mut html = String::from("<header>\n<h1>millstream bench</h1>\n<dl>");
    for (name, value) in facts {
        // Writing to a string can't fail.
        let _ = write!(
            html,
            "<div><dt>{name}</dt><dd>{}</dd></div>",
            escape(&value)
        );
    }
    let command = escape(&setting.command);
    html + &format!("</dl>\n<pre><code>{command}</code></pre>\n</header>\n")
}

/// All goals at a glance.
fn goals(report: &Report) -> String {
    let (reached, all) = report.goals();
    if all == 0 {
        return String::new();
    }
    let mut html = format!(
        "<section>\n<h2>{reached} of {all} goals reached</h2>\n<table class=\"goals\">\
         <tr><th>load</th><th>against</th><th>ours by it</th><th>goal</th></tr>\n"
    );
    for section in &report.sections {
        let mut title = section.title.as_str();
        for entry in &section.entries {
            let Some(compared) = &entry.compared else {
                continue;
            };
            let (Some(goal), Some(reached)) = (compared.goal, compared.reached) else {
                continue;
            };
            let class = if reached { "reached" } else { "missed" };
            let _ = writeln!(
                html,
                "<tr><td>{}</td><td>{}</td><td><b class=\"chip {class}\">×{:.2}</b> <small>{:.2} to \
                 {:.2}</small></td><td>{goal}: {class}</td></tr>",
                escape(title),
                escape(&entry.label),
                compared.ratio.median,
                compared.ratio.min,
                compared.ratio.max,
            );
            title = "";
        }
    }
    html + "</table>\n</section>\n"
}

fn section(section: &Section) -> String {
    let unit = match section.metric {
        Metric::Throughput => "million deliveries a second; more is better",
        Metric::MedianLatency => {
            "microseconds from the intended send time to the handler, median; less is better"
        }
    };
    let latency = match curves(section) {
        none if none.is_empty() => none,
        plot if section.metric == Metric::MedianLatency => plot,
        plot => format!(
            "<details><summary>Time in the queue under saturation, sampled</summary>{plot}</details>\n"
        ),
    };
    format!(
        "<section>\n<h2>{}</h2>\n<div class=\"soft\">{unit}</div>\n{}{latency}\
         <div class=\"soft machine\">{}</div>\n</section>\n",
        escape(&section.title),
        bars(section),
        escape(&circumstances(section)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::Setting;

    #[test]
    fn a_command_line_can_not_write_the_page() {
        let report = Report {
            setting: Setting {
                command: "bench --only <b>".to_owned(),
                ..Setting::look()
            },
            rounds: 1,
            sections: Vec::new(),
        };
        let page = page(&report);
        assert!(page.contains("bench --only &lt;b&gt;"));
        assert!(!page.contains("<b>"));
    }
}
