//! The costs that later ones are compared with, in a file that a person can read.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::{Deserialize, Serialize};

use crate::Outcome;

#[derive(Deserialize, Serialize)]
pub struct Record {
    /// What compiled the program that was recorded. Another version may well
    /// cost a few percent more or less.
    rustc: String,
    /// The kind of machine. Another kind has other instructions altogether.
    machine: String,
    /// Instructions per unit of each scenario.
    instructions: BTreeMap<String, f64>,
}

impl Record {
    pub fn load() -> Outcome<Self> {
        Ok(serde_json::from_str(&fs::read_to_string(path())?)?)
    }

    pub fn get(&self, scenario: &str) -> Option<f64> {
        self.instructions.get(scenario).copied()
    }

    /// What makes the record and this run no equals, if anything does.
    pub fn differs(&self) -> Option<String> {
        let told = |recorded: &str, here: String| {
            (recorded != here).then(|| format!("recorded with {recorded}, this is {here}"))
        };
        told(&self.machine, machine()).or_else(|| told(&self.rustc, rustc()))
    }

    /// Whether the instructions are of one kind with this machine's.
    pub fn is_comparable(&self) -> bool {
        self.machine == machine()
    }

    /// Writes these costs over those recorded, and keeps the others.
    pub fn update(mut self, measured: impl IntoIterator<Item = (String, f64)>) -> Outcome<PathBuf> {
        // Exact to a tenth: more digits would only make every diff longer.
        let rounded = measured
            .into_iter()
            .map(|(scenario, cost)| (scenario, (cost * 10.0).round() / 10.0));
        self.instructions.extend(rounded);
        self.rustc = rustc();
        self.machine = machine();
        fs::write(path(), serde_json::to_string_pretty(&self)? + "\n")?;
        Ok(path())
    }
}

fn path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("record.json")
}

fn machine() -> String {
    format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS)
}

fn rustc() -> String {
    let asked = Command::new("rustc").arg("--version").output();
    asked.map_or_else(
        |_| "an unknown rustc".to_owned(),
        |answer| String::from_utf8_lossy(&answer.stdout).trim().to_owned(),
    )
}
