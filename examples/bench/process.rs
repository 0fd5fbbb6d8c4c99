//! What the operating system knows of this process and machine. All of it may be
//! absent: then it is left out of the figures.

use std::fs;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;

/// Processor time used so far.
pub struct Usage {
    own: Option<Duration>,
    /// By all processes of the machine.
    all: Option<Duration>,
}

/// What a run used.
#[derive(Clone, Copy, Default)]
pub struct Used {
    pub own: Option<Duration>,
    /// What others used meanwhile: a core they had is a core the run didn't have.
    pub others: Option<Duration>,
}

impl Usage {
    pub fn now() -> Self {
        let read = |path, time: fn(&str) -> Option<Duration>| time(&fs::read_to_string(path).ok()?);
        Self {
            own: read("/proc/self/stat", own_time),
            all: read("/proc/stat", time_of_all),
        }
    }

    pub fn until_now(&self) -> Used {
        let now = Self::now();
        let since =
            |now: Option<Duration>, then: Option<Duration>| Some(now?.saturating_sub(then?));
        let (own, all) = (since(now.own, self.own), since(now.all, self.all));
        Used {
            own,
            others: since(all, own),
        }
    }
}

/// User and system time: the 14th and 15th field. The second is the program's
/// name in brackets and may contain anything.
pub fn own_time(stat: &str) -> Option<Duration> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    time([fields.next()?.parse().ok()?, fields.next()?.parse().ok()?])
}

/// Everything in the first line but idling and waiting for devices; guests are
/// in the user's time already.
pub fn time_of_all(stat: &str) -> Option<Duration> {
    let line = stat.lines().next()?.strip_prefix("cpu ")?;
    let ticks: Result<Vec<u64>, _> = line.split_whitespace().take(8).map(str::parse).collect();
    let [user, nice, system, _idle, _iowait, irq, softirq, steal] = ticks.ok()?.try_into().ok()?;
    time([user, nice, system, irq, softirq, steal])
}

/// Linux counts it in hundredths of a second for programs, whatever the kernel's
/// own tick is. Many cores that were busy for many days are more of them than 32
/// bits hold.
fn time<const N: usize>(ticks: [u64; N]) -> Option<Duration> {
    let mut ticks = ticks.into_iter();
    let sum = ticks.try_fold(0_u64, |sum, ticks| sum.checked_add(ticks))?;
    Some(Duration::from_millis(sum.checked_mul(10)?))
}

/// Lets the peak begin anew; where that isn't allowed it stays the process's own.
pub fn forget_peak() {
    let _ = fs::write("/proc/self/clear_refs", "5");
}

/// The most memory that was resident.
pub fn peak_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kibibytes * 1_024)
}

/// Where and when the figures were taken.
#[derive(Clone, Debug, Serialize)]
pub struct Setting {
    pub processor: String,
    pub cores: usize,
    pub date: String,
    pub commit: Option<String>,
    pub build: &'static str,
    pub command: String,
}

impl Setting {
    pub fn look() -> Self {
        let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = info.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            (key.trim() == "model name").then(|| value.trim().to_owned())
        });
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            processor: model.unwrap_or_else(|| format!("unknown {}", std::env::consts::ARCH)),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            date: date(since.unwrap_or_default().as_secs()),
            commit: commit(),
            build: build(),
            command: std::env::args()
                .skip(1)
                .fold("bench".to_owned(), |all, arg| all + " " + &arg),
        }
    }
}

fn build() -> &'static str {
    if cfg!(debug_assertions) {
        return "a debug build: its figures mean nothing";
    }
    option_env!("MILLSTREAM_BENCH_BUILD").unwrap_or("the release profile as it is")
}

fn commit() -> Option<String> {
    let git = |args: &[&str]| {
        let git = Command::new("git")
            .args(args)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output();
        let output = git.ok().filter(|output| output.status.success())?;
        String::from_utf8(output.stdout)
            .ok()
            .map(|text| text.trim().to_owned())
    };
    let commit = git(&["rev-parse", "--short", "HEAD"])?;
    let changed = git(&["status", "--porcelain", "--untracked-files=no"]);
    let changed = changed.is_some_and(|files| !files.is_empty());
    Some(if changed {
        commit + " and changes"
    } else {
        commit
    })
}

/// The day in UTC, by the usual arithmetic on years that begin in March.
fn date(unix_seconds: u64) -> String {
    let days = unix_seconds / 86_400 + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day_of_month = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year + era * 400 + u64::from(month <= 2);
    format!("{year}-{month:02}-{day_of_month:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_found_behind_any_name() {
        let stat = "7 (a) b) R 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20";
        assert_eq!(own_time(stat), Some(Duration::from_secs(3)));
        assert_eq!(own_time("nonsense"), None);
    }

    #[test]
    fn the_machine_is_busy_when_it_neither_idles_nor_waits() {
        let stat = "cpu  100 20 30 4000 5 6 7 8 9 10\ncpu0 1 2 3";
        assert_eq!(time_of_all(stat), Some(Duration::from_millis(1_710)));
        assert_eq!(time_of_all("cpu  1 2"), None);
    }

    #[test]
    fn processor_time_adds_up_on_machines_that_are_large_and_old() {
        let stat = "cpu  4000000000 0 1000000000 1 2 3 4 0 0 0\n";
        assert_eq!(
            time_of_all(stat),
            Some(Duration::from_millis(50_000_000_070))
        );
        let absurd = format!("cpu  {0} {0} 1 1 1 1 1 1", u64::MAX);
        assert_eq!(time_of_all(&absurd), None);
    }

    #[test]
    fn days_are_those_of_the_calendar() {
        assert_eq!(date(0), "1970-01-01");
        assert_eq!(date(951_782_400), "2000-02-29");
        assert_eq!(date(1_767_225_599), "2025-12-31");
        assert_eq!(date(1_767_225_600), "2026-01-01");
    }
}
