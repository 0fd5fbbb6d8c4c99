//! Instructions per message: a cost that does not depend on how busy the machine
//! is, and so a guard that can fail a build.
//!
//! ```text
//! cargo bench --bench instructions               # the table
//! cargo bench --bench instructions -- retry      # only the scenarios named so
//! cargo bench --bench instructions -- --check    # fails if one costs 10 % more than recorded
//! cargo bench --bench instructions -- --record   # rewrites record.json
//! ```
//!
//! A check also fails if a lane with protection costs too much more than one without.
//!
//! The program runs itself under valgrind's callgrind, once for each scenario,
//! and leaves the profiles where the table says. Instructions are not time: a
//! cache miss or a contended line counts as little as an addition here, which is
//! what the other benches are for.
//!
//! Without `--bench`, which `cargo bench` passes and `cargo test` does not, each
//! scenario just runs once, without valgrind.

mod record;
mod scenarios;

use std::env;
use std::error::Error;
use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};

use record::Record;
use scenarios::{PROTECTED, SCENARIOS, Scenario};

type Outcome<V = ()> = Result<V, Box<dyn Error>>;

/// How many percent more than recorded fail a check, and how many less are worth
/// a new record.
const TOLERANCE_PERCENT: f64 = 10.0;
/// How many percent more a lane may cost with a breaker, a rate limit and priorities that hold
/// nothing back.
const PROTECTION_PERCENT: f64 = 25.0;
/// Exit code of a run that could not measure what it was asked for.
const UNMEASURED: u8 = 2;
/// The option this program gives itself: run one scenario.
const CHILD: &str = "--child";
/// Matches [`scenarios::measured`] and nothing else.
const MEASURED: &str = "*scenarios*measured*";
const RECORD: &str = "cargo bench --bench instructions -- --record";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Test,
    Child,
    Table,
    Check,
    Record,
}

fn main() -> Outcome<ExitCode> {
    let mut mode = Mode::Test;
    let mut filter = String::new();
    for argument in env::args().skip(1) {
        match argument.as_str() {
            "--bench" if mode != Mode::Test => {}
            "--bench" => mode = Mode::Table,
            "--check" => mode = Mode::Check,
            "--record" => mode = Mode::Record,
            CHILD => mode = Mode::Child,
            option if option.starts_with('-') => {
                return Err(format!("unknown option {option}").into());
            }
            _ => filter = argument,
        }
    }
    let wanted = SCENARIOS
        .iter()
        .filter(|scenario| scenario.name.contains(&filter));
    match mode {
        Mode::Test => {
            for scenario in wanted {
                println!("{}: {} counted", scenario.name, (scenario.run)());
            }
        }
        Mode::Child => {
            let scenario = SCENARIOS.iter().find(|scenario| scenario.name == filter);
            println!("{}", (scenario.ok_or("no such scenario")?.run)());
        }
        Mode::Table | Mode::Check | Mode::Record => return count(wanted, mode),
    }
    Ok(ExitCode::SUCCESS)
}

/// Counts the instructions of each scenario and compares them with the record.
fn count(wanted: impl Iterator<Item = &'static Scenario>, mode: Mode) -> Outcome<ExitCode> {
    if let Err(error) = Command::new("valgrind").arg("--version").output() {
        eprintln!("valgrind does not start ({error}); try: sudo apt-get install valgrind");
        // A round of all benches goes on without; a check must not pass unchecked.
        let unmeasured = if mode == Mode::Table { 0 } else { UNMEASURED };
        return Ok(ExitCode::from(unmeasured));
    }
    let profiles = Path::new(env!("CARGO_TARGET_TMPDIR")).join("instructions");
    fs::create_dir_all(&profiles)?;
    let record = Record::load()?;
    let mut measured = Vec::new();
    let (mut worse, mut better) = (Vec::new(), Vec::new());
    println!(
        "{:<18} {:>22} {:>10} {:>8}",
        "scenario", "instructions per", "recorded", "change"
    );
    for scenario in wanted {
        let cost = cost(scenario, &profiles.join(scenario.name))?;
        measured.push((scenario.name.to_owned(), cost));
        print!("{:<18} {cost:>12.1} {:<9}", scenario.name, scenario.unit);
        let Some(recorded) = record.get(scenario.name) else {
            println!("{:>11}", "none");
            worse.push(scenario.name);
            continue;
        };
        let change = (cost / recorded - 1.0) * 100.0;
        println!("{recorded:>11.1} {change:>+7.1}%");
        if change > TOLERANCE_PERCENT {
            worse.push(scenario.name);
        } else if change < -TOLERANCE_PERCENT {
            better.push(scenario.name);
        }
    }
    if measured.is_empty() {
        return Err("no scenario is named so".into());
    }
    let is_dear = compare_protected(&measured);
    println!(
        "\nwhere they go: callgrind_annotate {}/…",
        profiles.display()
    );
    if mode == Mode::Record {
        println!("recorded in {}", record.update(measured)?.display());
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(difference) = record.differs() {
        println!("mind: {difference}");
    }
    if !better.is_empty() {
        println!(
            "cheaper than recorded, keep it so: {} ({RECORD})",
            better.join(", ")
        );
    }
    if is_dear {
        println!("protection costs more than {PROTECTION_PERCENT} %");
    }
    if worse.is_empty() || !record.is_comparable() {
        return Ok(ExitCode::from(u8::from(is_dear && mode == Mode::Check)));
    }
    println!(
        "more than {TOLERANCE_PERCENT} % dearer than recorded, or not recorded: {}\nif that is the price of something worth it: {RECORD}",
        worse.join(", ")
    );
    Ok(ExitCode::from(u8::from(mode == Mode::Check)))
}

/// Holds the lanes with protection against those without. Answers whether one of them costs too much.
fn compare_protected(measured: &[(String, f64)]) -> bool {
    let cost = |name| {
        let found = measured.iter().find(|(scenario, _)| scenario == name);
        found.map(|(_, cost)| *cost)
    };
    let mut is_dear = false;
    for (plain, protected) in PROTECTED {
        if let (Some(without), Some(with)) = (cost(plain), cost(protected)) {
            let dearer = (with / without - 1.0) * 100.0;
            println!("{protected} costs {dearer:.1} % more than {plain}");
            is_dear |= dearer > PROTECTION_PERCENT;
        }
    }
    is_dear
}

/// Runs one scenario under callgrind; answers its instructions per unit.
fn cost(scenario: &Scenario, profile: &Path) -> Outcome<f64> {
    let child = Command::new("valgrind")
        .arg("--tool=callgrind")
        .arg(format!("--toggle-collect={MEASURED}"))
        .arg(format!("--callgrind-out-file={}", profile.display()))
        .arg(env::current_exe()?)
        .args([CHILD, scenario.name])
        // A repeated string instruction would count as one for each byte.
        .env("GLIBC_TUNABLES", "glibc.cpu.hwcaps=-ERMS,-FSRM")
        .output()?;
    if !child.status.success() {
        let said = String::from_utf8_lossy(&child.stderr);
        return Err(format!("{} failed under valgrind:\n{said}", scenario.name).into());
    }
    let units: u64 = String::from_utf8(child.stdout)?.trim().parse()?;
    let profile = fs::read_to_string(profile)?;
    let totals = profile
        .lines()
        .find_map(|line| line.strip_prefix("totals: "));
    let instructions: u64 = totals.ok_or("a profile without a total")?.parse()?;
    if instructions == 0 {
        return Err(format!("valgrind has not found {MEASURED}").into());
    }
    Ok(instructions as f64 / units as f64)
}
