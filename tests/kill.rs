//! A process that publishes is killed at any moment, again and again. What it was told to be stored
//! is stored, and its durable subscription misses nothing. What its handler publishes with its acks is
//! there once for each message.
//!
//! The directory lies under `target/`, because a temporary one may be in memory, where a sync is
//! free. `MILLSTREAM_KILLS` sets how often: 200 times unless it says otherwise.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use millstream::store::{Durability, Raw, Start, Store};
use millstream::{Broker, Overflow, Topic};
use parking_lot::Mutex;

/// The environment variable that tells the child where its store is.
const DIRECTORY: &str = "MILLSTREAM_KILLED_IN";

/// The environment variable that tells the child how many were killed before.
const RUN: &str = "MILLSTREAM_KILLED_BEFORE";

/// Topics by their level: a killed process loses nothing of either.
const LEVELS: [(&str, Durability); 2] = [
    ("synced", Durability::Synced),
    ("written", Durability::Written),
];

fn broker(directory: &Path) -> Broker {
    let store = Store::builder(directory).segment_size(256 << 10);
    let store = store
        .open()
        .expect("a killed process leaves a store that opens");
    let broker = Broker::builder().workers(2).store(store).build();
    broker.expect("it builds")
}

fn topic(broker: &Broker, name: &str, level: Durability) -> Topic<Vec<u8>> {
    let overflow = Overflow::Block {
        timeout: Duration::from_secs(60),
    };
    let topic = broker.topic::<Vec<u8>>(name).durable(Raw).durability(level);
    topic.overflow(overflow).open().expect("it opens")
}

/// Returns what prints a line.
fn say() -> impl Fn(String) + Clone {
    let out = Arc::new(Mutex::new(std::io::stdout()));
    move |line: String| {
        let mut out = out.lock();
        // The parent may be gone.
        let _ = writeln!(out, "{line}").and_then(|()| out.flush());
    }
}

/// The topic of what the handlers publish with their acks.
fn bills(broker: &Broker) -> Topic<Vec<u8>> {
    let bills = broker.topic::<Vec<u8>>("bills").durable(Raw);
    let bills = bills.durability(Durability::Written).capacity(1 << 20);
    bills.open().expect("it opens")
}

fn bill(name: &str, id: u64) -> Vec<u8> {
    format!("{name} {id}").into_bytes()
}

/// The process that is killed. It says what was stored, and what its subscription has handled.
#[test]
#[ignore = "the other test runs it as a process of its own"]
fn child() {
    let directory = std::env::var_os(DIRECTORY).expect("the parent says where");
    let broker = broker(Path::new(&directory));
    let say = say();
    let mut threads = Vec::new();
    let bills = bills(&broker);
    for (name, level) in LEVELS {
        let topic = topic(&broker, name, level);
        let bills = bills.clone();
        let handled = say.clone();
        let billing = topic.subscription("billing").durable().capacity(16);
        let billing = billing.subscribe(move |message| {
            message.publish(&bills, bill(name, message.id().get()))?;
            handled(format!("handled {name} {}", message.id()));
            Ok(())
        });
        billing.expect("subscribed").detach();
        for thread in 0..3_u8 {
            let (topic, say) = (topic.clone(), say.clone());
            threads.push(std::thread::spawn(move || {
                for round in 0..u64::MAX {
                    let payload = |at: u64| {
                        let mut payload = vec![thread; 20 + (round % 300) as usize];
                        payload.extend_from_slice(&at.to_le_bytes());
                        payload
                    };
                    let stored = match round % 3 {
                        0 => {
                            let batch = topic.publish_batch((0..10).map(payload));
                            batch.ok().and_then(|receipt| receipt.last())
                        }
                        _ => topic
                            .publish(payload(round))
                            .ok()
                            .map(|receipt| receipt.id()),
                    };
                    let Some(id) = stored else { return };
                    say(format!("stored {name} {id}"));
                }
            }));
        }
    }
    threads
        .into_iter()
        .for_each(|thread| thread.join().expect("it ends by a kill"));
}

/// What one process said before it was killed.
#[derive(Default)]
struct Said {
    stored: [BTreeSet<u64>; 2],
    handled: [BTreeSet<u64>; 2],
}

/// Runs this test of this program for so long. Returns the lines that it has printed.
fn run_and_kill(test: &str, run: u64, directory: &Path, after: Duration) -> Vec<String> {
    let this = std::env::current_exe().expect("this program");
    let mut child = Command::new(this)
        .args([test, "--exact", "--ignored", "--nocapture"])
        .env(DIRECTORY, directory)
        .env(RUN, run.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("it starts");
    let out = child.stdout.take().expect("it is piped");
    let reader = std::thread::spawn(move || {
        let lines = BufReader::new(out).lines().map_while(Result::ok);
        lines.collect::<Vec<String>>()
    });
    std::thread::sleep(after);
    child.kill().expect("it runs");
    child.wait().expect("it was ours");
    reader.join().expect("it reads to the end")
}

impl Said {
    fn parse(lines: &[String]) -> Self {
        let mut said = Self::default();
        for line in lines {
            // The harness prints before the first line, on the same one.
            let words: Vec<&str> = line.split_whitespace().rev().take(3).collect();
            let [id, name, what] = words[..] else {
                continue;
            };
            let Some(at) = LEVELS.iter().position(|level| level.0 == name) else {
                continue;
            };
            let Ok(id) = id.parse() else { continue };
            match what {
                "stored" => said.stored[at].insert(id),
                "handled" => said.handled[at].insert(id),
                _ => false,
            };
        }
        said
    }
}

#[test]
fn a_killed_process_loses_nothing_that_was_acknowledged() {
    let kills = std::env::var("MILLSTREAM_KILLS");
    let kills: u64 = kills.map_or(200, |kills| kills.parse().expect("a number"));
    let directory = Directory::new("all");
    let mut last = [0; 2];
    let mut handled: [BTreeSet<u64>; 2] = Default::default();
    let (mut repeated, mut total) = (0, 0);
    for kill in 0..kills {
        let after = Duration::from_millis(20 + kill * 7 % 60);
        let said = Said::parse(&run_and_kill("child", kill, &directory.0, after));
        let broker = broker(&directory.0);
        for (at, (name, level)) in LEVELS.into_iter().enumerate() {
            let topic = topic(&broker, name, level);
            let records = topic.read(Start::Earliest).expect("all are kept");
            let mut next = 1;
            for record in records {
                let record = record.expect("it can be read");
                assert_eq!(record.id.get(), next, "{name} has a gap");
                next += 1;
            }
            let acknowledged = said.stored[at].last().copied().unwrap_or(0);
            assert!(
                acknowledged < next,
                "{name}: {acknowledged} of {next} is lost"
            );
            assert!(
                last[at] < next,
                "{name}: a message of an earlier run is lost"
            );
            last[at] = acknowledged.max(last[at]);
            for id in &said.handled[at] {
                assert!(*id < next, "{name}: {id} was handled, and is not stored");
                repeated += u64::from(!handled[at].insert(*id));
            }
            total = handled[at].len() as u64 + total * u64::from(at == 1);
        }
        billed(&bills(&broker));
    }
    // All that no process has handled comes now.
    let broker = broker(&directory.0);
    let bills = bills(&broker);
    let mut expected = BTreeSet::new();
    for (at, (name, level)) in LEVELS.into_iter().enumerate() {
        let topic = topic(&broker, name, level);
        let rest = Arc::new(Mutex::new(BTreeSet::new()));
        let billing = topic.subscription("billing").durable().subscribe({
            let (rest, bills) = (Arc::clone(&rest), bills.clone());
            move |message| {
                message.publish(&bills, bill(name, message.id().get()))?;
                rest.lock().insert(message.id().get());
                Ok(())
            }
        });
        let _billing = billing.expect("it resumes");
        assert!(broker.wait_until_idle(Duration::from_secs(120)));
        handled[at].extend(rest.lock().iter());
        let stored = topic.read(Start::Earliest).expect("all are kept").count() as u64;
        let all: BTreeSet<u64> = (1..=stored).collect();
        assert_eq!(handled[at], all, "{name}: the subscription has missed some");
        expected.extend(all.into_iter().map(|id| bill(name, id)));
    }
    assert_eq!(billed(&bills), expected, "one bill for each message");
    println!("{kills} kills: {total} messages handled, {repeated} of them again");
    broker.metrics().balance().expect("balanced");
}

/// The process that is killed while messages are delayed. It says which it has delayed and which it
/// has cancelled.
#[test]
#[ignore = "the other test runs it as a process of its own"]
fn child_that_delays() {
    let directory = std::env::var_os(DIRECTORY).expect("the parent says where");
    let run = std::env::var(RUN).expect("the parent says how many");
    let broker = broker(Path::new(&directory));
    let topic = topic(&broker, "late", Durability::Written);
    let say = say();
    std::thread::scope(|scope| {
        for thread in 0..3_u64 {
            let (topic, say, run) = (&topic, &say, &run);
            scope.spawn(move || {
                for round in 0..u64::MAX {
                    let name = format!("{run}-{thread}-{round}");
                    let delay = Duration::from_micros(round * 977 % 30_000);
                    let stored = topic.publish_after(delay, name.clone().into_bytes());
                    let Ok(receipt) = stored else { return };
                    say(format!("delayed {name}"));
                    if round % 3 == 0 {
                        std::thread::sleep(delay * (round % 2) as u32);
                        let cancelled = topic.cancel_delayed(receipt.id());
                        if cancelled.is_ok() {
                            say(format!("cancelled {name}"));
                        }
                    }
                }
            });
        }
    });
}

#[test]
fn a_killed_process_leaves_each_delayed_message_to_come_once_unless_it_was_cancelled() {
    let kills = std::env::var("MILLSTREAM_KILLS");
    let kills: u64 = kills.map_or(50, |kills| kills.parse().expect("a number"));
    let directory = Directory::new("delayed");
    let mut said: [BTreeSet<String>; 2] = Default::default();
    for kill in 0..kills {
        let after = Duration::from_millis(20 + kill * 7 % 60);
        let lines = run_and_kill("child_that_delays", kill, &directory.0, after);
        for line in lines {
            let words: Vec<&str> = line.split_whitespace().rev().take(2).collect();
            match words[..] {
                [name, "delayed"] => said[0].insert(name.to_owned()),
                [name, "cancelled"] => said[1].insert(name.to_owned()),
                _ => false,
            };
        }
    }
    let broker = broker(&directory.0);
    let topic = topic(&broker, "late", Durability::Written);
    assert!(broker.wait_until_idle(Duration::from_secs(120)));
    let mut published = BTreeSet::new();
    for record in topic.read(Start::Earliest).expect("all are kept") {
        let name = record.expect("it can be read").message.into_inner();
        let name = String::from_utf8(name).expect("a name");
        assert!(!said[1].contains(&name), "{name} was cancelled");
        assert!(published.insert(name.clone()), "{name} came twice");
    }
    for name in &said[0] {
        let is_cancelled = said[1].contains(name);
        // A cancel that nobody was told of may be in the log.
        let may_be_cancelled = name.rsplit('-').next().is_some_and(|round| {
            let round: u64 = round.parse().expect("a number");
            round.is_multiple_of(3)
        });
        let has_come = published.contains(name);
        assert!(
            has_come || is_cancelled || may_be_cancelled,
            "{name} is lost"
        );
    }
    let [delayed, cancelled] = said.map(|names| names.len());
    println!("{kills} kills: {delayed} messages delayed, {cancelled} of them cancelled");
    broker.metrics().balance().expect("balanced");
}

/// Returns all bills, none of which is there twice.
fn billed(bills: &Topic<Vec<u8>>) -> BTreeSet<Vec<u8>> {
    let mut all = BTreeSet::new();
    for record in bills.read(Start::Earliest).expect("all are kept") {
        let bill = record.expect("it can be read").message.into_inner();
        let text = String::from_utf8_lossy(&bill).into_owned();
        assert!(all.insert(bill), "{text} is there twice");
    }
    all
}

/// A directory of the test's own, which goes with it.
struct Directory(PathBuf);

impl Directory {
    fn new(test: &str) -> Self {
        let name = format!("kill-{test}-{}", std::process::id());
        Self(PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
