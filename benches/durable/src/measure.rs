//! Directories, and figures of many rounds.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

pub type Outcome<V = ()> = Result<V, Box<dyn Error + Send + Sync>>;

/// A directory on a real disk. It goes when it is dropped.
pub struct Scratch(PathBuf);

impl Scratch {
    /// Makes one beside the program, unless it is to be elsewhere.
    pub fn new(parent: Option<PathBuf>) -> Outcome<Self> {
        let program = std::env::current_exe()?;
        let beside = program.parent().map(Path::to_owned).unwrap_or_default();
        let name = format!("durable-{}", std::process::id());
        let path = parent.unwrap_or(beside).join(name);
        fs::create_dir_all(&path)?;
        Ok(Self(path))
    }

    /// Calls `with` with a directory that isn't there yet, and removes it.
    pub fn lend<V>(&self, with: impl FnOnce(&Path) -> Outcome<V>) -> Outcome<V> {
        let path = self.0.join("data");
        let result = with(&path);
        fs::remove_dir_all(&path)?;
        result
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The middle and the ends of the figures of many rounds.
#[derive(Clone, Copy)]
pub struct Spread {
    pub median: f64,
    min: f64,
    max: f64,
}

impl Spread {
    /// Of at least one figure.
    pub fn of(figures: &[f64]) -> Self {
        let mut sorted = figures.to_vec();
        sorted.sort_by(f64::total_cmp);
        let half = sorted.len() / 2;
        let median = match sorted.len() % 2 {
            1 => sorted[half],
            _ => f64::midpoint(sorted[half - 1], sorted[half]),
        };
        Self {
            median,
            min: sorted[0],
            max: sorted[sorted.len() - 1],
        }
    }

    /// Of the ratios of each round.
    pub fn of_ratios(ours: &[f64], theirs: &[f64]) -> Self {
        let ratios = ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs);
        Self::of(&ratios.collect::<Vec<_>>())
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [median, min, max] = [self.median, self.min, self.max].map(short);
        write!(f, "{median} ({min} to {max})")
    }
}

/// Three digits of a figure, and no fewer before the point.
fn short(figure: f64) -> String {
    match figure {
        _ if figure >= 100.0 => format!("{figure:.0}"),
        _ if figure >= 10.0 => format!("{figure:.1}"),
        _ => format!("{figure:.2}"),
    }
}

/// The figures of one system, a round each.
pub struct Figures {
    pub system: &'static str,
    pub note: &'static str,
    pub each: Vec<f64>,
}

impl Figures {
    pub fn new(system: &'static str, note: &'static str) -> Self {
        Self {
            system,
            note,
            each: Vec::new(),
        }
    }
}

/// A goal for the first system of a table.
pub struct Goal {
    /// The least ratio.
    pub least: f64,
    /// By the best of these systems.
    pub by: &'static [&'static str],
}

/// Prints a table. The first system is ours.
pub fn print(title: &str, unit: &str, figures: &[Figures], goal: Option<&Goal>) {
    println!("\n| {title} | {unit} | ours by it | note |");
    println!("|---|---|---|---|");
    let Some(ours) = figures.first() else {
        return;
    };
    for figures in figures {
        let by = match figures.system == ours.system {
            true => String::new(),
            false => Spread::of_ratios(&ours.each, &figures.each).to_string(),
        };
        let (spread, note) = (Spread::of(&figures.each), figures.note);
        println!("| {} | {spread} | {by} | {note} |", figures.system);
    }
    let Some(Goal { least, by }) = goal else {
        return;
    };
    let theirs = figures
        .iter()
        .filter(|figures| by.contains(&figures.system));
    let ratios = theirs.map(|theirs| Spread::of_ratios(&ours.each, &theirs.each).median);
    if let Some(worst) = ratios.min_by(f64::total_cmp) {
        let word = if worst >= *least { "reached" } else { "missed" };
        println!(
            "\nGoal: {least} times the best of {}: {word}, with {}.",
            by.join(", "),
            short(worst)
        );
    }
}
