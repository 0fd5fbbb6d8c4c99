//! Generates load, verifies every message, and compares with other libraries.
//!
//! ```text
//! cargo run --release --example bench                                    # flat out
//! cargo run --release --example bench -- --publishers 4 --subscribers 4 --batch 64
//! cargo run --release --example bench -- --rate 20000                    # open loop
//! cargo run --release --example bench -- --peer                          # same load, peers beside it
//! cargo run --release --example bench -- --table --html table.html       # the goals of this crate
//! ```
//!
//! Every subscriber checks the count, the order and the checksum of what it gets.
//! With `--rate`, latency counts from the time at which a message was *meant* to
//! be sent. So a stall is charged to the system that caused it. Exits with 1 if a
//! check fails or a run doesn't end, with 2 if the arguments make no sense.

#![forbid(unsafe_code)]

mod args;
mod chart;
mod charts;
mod check;
mod contest;
mod html;
mod load;
mod payload;
mod peers;
mod process;
mod publish;
mod report;
mod round_trip;
mod run;
mod screen;
mod stats;
mod systems;
mod table;
mod terminal;

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use crate::args::{Plan, Task};
use crate::contest::{Contender, Contest};
use crate::load::Load;
use crate::process::Setting;
use crate::report::{Metric, Report, Section};
use crate::screen::Screen;
use crate::systems::{Answer, Kind};

fn main() -> ExitCode {
    let plan = Plan::parse();
    let is_short_of_async = plan.needs_async() && !cfg!(feature = "async");
    if is_short_of_async || plan.needs_peers() && !cfg!(feature = "peers") {
        return peers::run_again().unwrap_or_else(|error| {
            eprintln!("bench: cargo can't be run: {error}");
            ExitCode::FAILURE
        });
    }
    match carry_out(&plan) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn carry_out(plan: &Plan) -> Answer {
    // Before minutes of measuring, not after.
    let json = plan.json.as_ref().map(create).transpose()?;
    let page = plan.html.as_ref().map(create).transpose()?;
    let picture = plan.chart.as_ref().map(create).transpose()?;
    let screen = Screen::new();
    let setting = Setting::look();
    screen.print(&terminal::header(&setting, plan.rounds));
    let contest = Contest {
        rounds: plan.rounds,
        aim: plan.aim,
        limit: plan.limit,
        repeats: plan.repeats,
        screen: &screen,
    };
    let sections = match &plan.task {
        Task::Load { load, systems } => vec![one_load(&contest, load, systems)?],
        Task::Table { only } => all_rows(&contest, only)?,
    };
    screen.leave();
    let report = Report {
        setting,
        rounds: plan.rounds,
        sections,
    };
    if plan.markdown {
        println!("\n{}", terminal::markdown(&report));
    }
    if let Some(mut file) = json {
        serde_json::to_writer_pretty(&mut file, &report)?;
        file.flush()?;
    }
    if let Some(mut file) = page {
        file.write_all(html::page(&report).as_bytes())?;
        file.flush()?;
    }
    if let Some(mut file) = picture {
        file.write_all(chart::picture(&report).as_bytes())?;
        file.flush()?;
    }
    if let Some(summary) = terminal::summary(&report) {
        println!("{summary}");
    }
    Ok(())
}

fn create(path: &PathBuf) -> Answer<BufWriter<File>> {
    let file = File::create(path).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(BufWriter::new(file))
}

fn one_load(contest: &Contest<'_>, load: &Load, systems: &[Kind]) -> Answer<Section> {
    let contender = |system: &Kind| Contender {
        label: system.to_string(),
        system: *system,
        load: load.clone(),
    };
    let mut contenders: Vec<_> = systems.iter().map(contender).collect();
    let record = contest.run("load", &mut contenders)?;
    let metric = match load.rate {
        None => Metric::Throughput,
        Some(_) => Metric::MedianLatency,
    };
    let title = load.describe();
    let section = Section::new(title, metric, contenders, &[], &record);
    let text = match systems {
        [_] => terminal::single(&section),
        _ => terminal::section(&section),
    };
    contest.screen.print(&text);
    Ok(section)
}

fn all_rows(contest: &Contest<'_>, only: &str) -> Answer<Vec<Section>> {
    let rows = table::rows(only);
    if rows.is_empty() {
        return Err(format!("no row's title contains `{only}`").into());
    }
    let mut sections = Vec::new();
    for mut row in rows {
        let record = contest.run(&row.title, &mut row.contenders)?;
        let section = Section::new(row.title, row.metric, row.contenders, &row.goals, &record);
        contest.screen.print(&terminal::section(&section));
        sections.push(section);
    }
    Ok(sections)
}
