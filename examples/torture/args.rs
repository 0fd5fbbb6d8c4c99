//! The command line.

use std::time::Duration;

use clap::Parser;

use crate::faults::{ALL, Faults};

/// Does everything to the engine that it must withstand, and checks every delivery.
#[derive(Debug, Parser)]
#[command(name = "torture")]
pub struct Args {
    /// What chooses the faults, so that they can be had again; by default another
    /// one each time
    #[arg(long)]
    seed: Option<u64>,
    /// How long; the last broker is allowed to finish
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Which faults: a list with commas, `all` or `none`
    #[arg(long, default_value = "all")]
    pub faults: Faults,
    /// The number of the first broker, to go where a run had failed
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    pub from: u64,
    /// How many brokers, if not as many as the seconds are enough for
    #[arg(long, value_name = "NUMBER", default_value_t = u64::MAX, hide_default_value = true)]
    pub lives: u64,
    /// Tell what the faults are, and do nothing
    #[arg(long)]
    pub list: bool,
}

impl Args {
    pub fn seed(&self) -> u64 {
        self.seed.unwrap_or_else(|| u64::from(fastrand::u32(..)))
    }

    pub fn duration(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }
}

/// Prints what the faults are.
pub fn list() {
    for (_, name, what) in ALL {
        println!("{name:<10} {what}");
    }
}
