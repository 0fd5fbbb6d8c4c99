//! What an engine with many topics does while nobody uses it.

use std::collections::BTreeMap;
use std::fs;
use std::thread;
use std::time::Duration;

use millstream::Broker;

use crate::growth::Many;
use crate::table::Table;
use crate::{HANG, Outcome, PAYLOAD, same};

/// What 10,000 topics cost that have been used and now rest.
pub fn silence(table: &mut Table) -> Outcome {
    const TOPICS: usize = 10_000;
    const SETTLING: Duration = Duration::from_secs(1);
    const SILENCE: Duration = Duration::from_secs(5);
    let broker = Broker::new()?;
    let many = Many::open(&broker, TOPICS)?;
    for topic in &many.topics {
        topic.publish(PAYLOAD)?;
    }
    if !broker.wait_until_idle(HANG) {
        return Err("messages are stuck".into());
    }
    same(many.handled(), TOPICS as u64, "deliveries")?;
    // Workers look around for a little while before they sleep.
    thread::sleep(SETTLING);
    let Some(before) = Activity::of_other_threads() else {
        table.row("10,000 idle topics", "0", "unknown without /proc", None);
        return Ok(());
    };
    thread::sleep(SILENCE);
    let after = Activity::of_other_threads().ok_or("/proc is gone")?;
    let threads = after.len();
    let (mut wakes, mut cpu_ns) = (0, 0);
    for (thread, after) in after {
        let before = before.get(&thread).ok_or("a thread was started")?;
        wakes += after.switches - before.switches;
        cpu_ns += after.cpu_ns - before.cpu_ns;
    }
    let what = "10,000 idle topics for 5 s: threads woken";
    table.none(what, wakes, &format!("times ({threads} threads)"));
    let what = "10,000 idle topics for 5 s: processor time";
    table.none(what, cpu_ns, "ns");
    Ok(())
}

/// What a thread has done since it was started.
struct Activity {
    /// How often it was put to sleep or pushed aside, and so woken.
    switches: u64,
    cpu_ns: u64,
}

impl Activity {
    fn of_other_threads() -> Option<BTreeMap<String, Self>> {
        let us = std::process::id().to_string();
        let mut found = BTreeMap::new();
        for thread in fs::read_dir("/proc/self/task").ok()? {
            let thread = thread.ok()?;
            let id = thread.file_name().into_string().ok()?;
            if id == us {
                continue; // the main thread, which is awake to count
            }
            let status = fs::read_to_string(thread.path().join("status")).ok()?;
            let switches = status.lines().filter(|line| line.contains("ctxt_switches"));
            let switches =
                switches.filter_map(|line| line.split_whitespace().last()?.parse::<u64>().ok());
            let scheduled = fs::read_to_string(thread.path().join("schedstat")).ok()?;
            let activity = Self {
                switches: switches.sum(),
                cpu_ns: scheduled.split_whitespace().next()?.parse().ok()?,
            };
            found.insert(id, activity);
        }
        Some(found)
    }
}
