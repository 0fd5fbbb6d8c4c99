//! What can be done to an engine.

use std::fmt;
use std::str::FromStr;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    Errors,
    Panics,
    Bombs,
    Slow,
    Stuck,
    Churn,
    Topics,
    Swaps,
    Hooks,
    Full,
    Retries,
    Observers,
    Cycles,
    Meddling,
    Delays,
    Expiry,
    Redrive,
    Partitions,
    Patterns,
    Async,
    Order,
    Groups,
    Pull,
    Stop,
    Drain,
    Drop,
    Log,
    Gates,
}

use Fault::{
    Async, Bombs, Churn, Cycles, Delays, Drain, Drop, Errors, Expiry, Full, Gates, Groups, Hooks,
    Log, Meddling, Observers, Order, Panics, Partitions, Patterns, Pull, Redrive, Retries, Slow,
    Stop, Stuck, Swaps, Topics,
};

/// All of them, by name, and what each does.
pub const ALL: [(Fault, &str, &str); 28] = [
    (
        Errors,
        "errors",
        "handlers refuse 1 %, 50 % or all, in every way there is",
    ),
    (
        Panics,
        "panics",
        "handlers panic: with a text, a string, a payload whose drop panics",
    ),
    (Bombs, "bombs", "messages whose drop panics"),
    (Slow, "slow", "handlers that take up to 500 ms"),
    (
        Stuck,
        "stuck",
        "handlers, one or as many as workers, that don't return before the broker has ended",
    ),
    (Churn, "churn", "subscriptions come and go, in every mode"),
    (Topics, "topics", "topics come and go"),
    (
        Swaps,
        "swaps",
        "strategies and retry policies are swapped without a pause",
    ),
    (
        Hooks,
        "hooks",
        "strategies that panic, never hand on or answer nonsense; policies that panic",
    ),
    (
        Full,
        "full",
        "sixteen publishers at a topic that is always full",
    ),
    (
        Retries,
        "retries",
        "retries with hardly a delay, many at once",
    ),
    (
        Observers,
        "observers",
        "observers that count, panic and dawdle",
    ),
    (
        Cycles,
        "cycles",
        "handlers that publish in a circle, until all is full",
    ),
    (
        Meddling,
        "meddling",
        "handlers that subscribe, unsubscribe, swap, wait and drain",
    ),
    (Delays, "delays", "messages that are due later"),
    (Expiry, "expiry", "messages with a time to live"),
    (Redrive, "redrive", "dead letters are redriven and purged"),
    (
        Partitions,
        "partitions",
        "topics are split, and the number of their partitions changes",
    ),
    (
        Patterns,
        "patterns",
        "subscriptions to patterns come and go, and their patterns change",
    ),
    (
        Async,
        "async",
        "async handlers that are woken late, too often or never (with the feature `async`)",
    ),
    (
        Order,
        "order",
        "subscriptions whose order survives failures, in every mode; modes are switched",
    ),
    (
        Groups,
        "groups",
        "subscriptions with several hands, groups whose members come and go",
    ),
    (
        Pull,
        "pull",
        "subscriptions that are pulled, with leases settled late, dropped and forgotten",
    ),
    (
        Stop,
        "stop",
        "the process is stopped for seconds (SIGSTOP) and goes on",
    ),
    (
        Drain,
        "drain",
        "a drain while publishers publish, with hardly any time",
    ),
    (
        Drop,
        "drop",
        "the broker is dropped while publishers publish",
    ),
    (
        Log,
        "log",
        "a store of durable topics is closed under load and opened again (with the feature `log`)",
    ),
    (
        Gates,
        "gates",
        "pauses, rates, breakers, budgets and shared limits close and open",
    ),
];

/// Some faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Faults(u32);

impl Faults {
    pub const NONE: Self = Self(0);

    pub fn all() -> Self {
        let mut all = Self::NONE;
        ALL.iter().for_each(|(fault, ..)| all.add(*fault));
        all
    }

    pub fn add(&mut self, fault: Fault) {
        self.0 |= 1 << fault as u32;
    }

    pub fn has(self, fault: Fault) -> bool {
        self.0 & (1 << fault as u32) != 0
    }

    /// Each of them with a chance of two in three, so that they meet in all ways.
    pub fn some(self, random: &mut fastrand::Rng) -> Self {
        let mut some = Self::NONE;
        for (fault, ..) in ALL {
            if random.u32(..3) > 0 && self.has(fault) {
                some.add(fault);
            }
        }
        some
    }
}

impl FromStr for Faults {
    type Err = String;

    fn from_str(list: &str) -> Result<Self, String> {
        match list {
            "all" => return Ok(Self::all()),
            "none" => return Ok(Self::NONE),
            _ => {}
        }
        let mut faults = Self::NONE;
        for name in list.split(',') {
            let found = ALL.iter().find(|(_, known, _)| *known == name.trim());
            let (fault, ..) = found.ok_or_else(|| format!("no fault is called {name:?}"))?;
            faults.add(*fault);
        }
        Ok(faults)
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let chosen = ALL.iter().filter(|(fault, ..)| self.has(*fault));
        let names: Vec<_> = chosen.map(|(_, name, _)| *name).collect();
        f.write_str(if names.is_empty() { "none" } else { "" })?;
        f.write_str(&names.join(" "))
    }
}
