//! An event of the feed, and how to read a file of them.

use std::error::Error;
use std::fs::File;
use std::io::{self, BufRead, BufReader};

use serde::{Deserialize, Serialize};

/// From here on somebody is woken up.
const SIGNIFICANT: f64 = 4.5;

/// One seismic event; the fields that this pipeline needs.
#[derive(Debug, Deserialize, Serialize)]
pub struct Quake {
    pub id: String,
    pub time_ms: i64,
    /// The feed has null for events that nobody has measured yet.
    pub mag: Option<f64>,
    pub place: Option<String>,
    #[serde(rename = "type")]
    pub kind: String,
    /// The seismic network that reported it.
    pub net: String,
}

impl Quake {
    fn parse(line: &[u8]) -> Result<Self, String> {
        let quake: Self = serde_json::from_slice(line).map_err(|error| {
            // serde counts lines within the line; ours is the one that helps.
            let text = error.to_string();
            let what = text.split(" at line ").next().unwrap_or(&text);
            format!("column {}: {what}", error.column())
        })?;
        match quake.mag {
            Some(mag) if !(-10.0..=12.0).contains(&mag) => {
                Err(format!("no event has a magnitude of {mag:?}"))
            }
            _ => Ok(quake),
        }
    }

    pub fn is_significant(&self) -> bool {
        self.mag.is_some_and(|mag| mag >= SIGNIFICANT)
    }

    /// Why it isn't the seismologist's business, if it isn't.
    pub fn made_by_people(&self) -> Option<&str> {
        match self.kind.as_str() {
            kind @ ("explosion" | "quarry blast") => Some(kind),
            _ => None,
        }
    }

    /// Whether the pager's sink fails on the first attempt: for a third of all
    /// ids, the same ones in every run. The upper half of the hash, because that
    /// is the half FNV mixes well.
    pub fn trips_the_pager(&self) -> bool {
        (fnv1a(&self.id) >> 32).is_multiple_of(3)
    }

    pub fn place(&self) -> &str {
        self.place.as_deref().unwrap_or("somewhere")
    }

    /// The magnitude for people: `M 4.5`.
    pub fn magnitude(&self) -> String {
        match self.mag {
            Some(mag) => format!("M{mag:4.1}"),
            None => "M   ?".to_owned(),
        }
    }
}

/// FNV-1a, 64 bits. Spelled out because the standard library's hasher may change
/// from one release to the next.
fn fnv1a(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// What a file, or the standard input, had to offer.
pub struct Input {
    pub quakes: Vec<Quake>,
    /// Lines that were no events, each reported on the standard error.
    pub malformed: u64,
}

/// Reads events, one JSON object a line, from a file or, for `-`, from the
/// standard input.
pub fn read(path: &str) -> Result<Input, Box<dyn Error>> {
    let (from, input) = match path {
        "-" => {
            let from = "the standard input";
            (from, read_from(from, io::stdin().lock()))
        }
        path => {
            let file = File::open(path);
            let input = file.and_then(|file| read_from(path, BufReader::new(file)));
            (path, input)
        }
    };
    let input = input.map_err(|error| format!("cannot read {from}: {error}"))?;
    match (input.quakes.len(), input.malformed) {
        (0, 0) => Err(format!("{from} is empty: there is nothing to replay").into()),
        (0, n) => Err(format!("{from} holds no events: all {n} lines are malformed").into()),
        _ => Ok(input),
    }
}

fn read_from(name: &str, from: impl BufRead) -> io::Result<Input> {
    let mut malformed = 0;
    let quakes = read_lines(from, |number, why| {
        eprintln!("{name}, line {number}: skipped, {why}");
        malformed += 1;
    })?;
    Ok(Input { quakes, malformed })
}

/// The events of all lines that hold one; `skipped` is told the number of each line
/// that doesn't, and why.
pub fn read_lines(
    mut from: impl BufRead,
    mut skipped: impl FnMut(u64, String),
) -> io::Result<Vec<Quake>> {
    let mut quakes = Vec::new();
    // Bytes, not strings: a line that isn't UTF-8 is malformed like any other.
    let mut line = Vec::new();
    for number in 1_u64.. {
        line.clear();
        if from.read_until(b'\n', &mut line)? == 0 {
            break;
        }
        if line.trim_ascii().is_empty() {
            continue;
        }
        match Quake::parse(&line) {
            Ok(quake) => quakes.push(quake),
            Err(why) => skipped(number, why),
        }
    }
    Ok(quakes)
}
