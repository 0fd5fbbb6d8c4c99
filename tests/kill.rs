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
    let out = Arc::new(Mutex::new(std::io::stdout()));
    let say = move |line: String| {
        let mut out = out.lock();
        // The parent may be gone.
        let _ = writeln!(out, "{line}").and_then(|()| out.flush());
    };
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

fn run_and_kill(directory: &Path, after: Duration) -> Said {
    let this = std::env::current_exe().expect("this program");
    let mut child = Command::new(this)
        .args(["child", "--exact", "--ignored", "--nocapture"])
        .env(DIRECTORY, directory)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("it starts");
    let out = child.stdout.take().expect("it is piped");
    let reader = std::thread::spawn(move || {
        let mut said = Said::default();
        for line in BufReader::new(out).lines().map_while(Result::ok) {
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
    });
    std::thread::sleep(after);
    child.kill().expect("it runs");
    child.wait().expect("it was ours");
    reader.join().expect("it reads to the end")
}

#[test]
fn a_killed_process_loses_nothing_that_was_acknowledged() {
    let kills = std::env::var("MILLSTREAM_KILLS");
    let kills: u64 = kills.map_or(200, |kills| kills.parse().expect("a number"));
    let directory = Directory::new();
    let mut last = [0; 2];
    let mut handled: [BTreeSet<u64>; 2] = Default::default();
    let (mut repeated, mut total) = (0, 0);
    for kill in 0..kills {
        let said = run_and_kill(&directory.0, Duration::from_millis(20 + kill * 7 % 60));
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
    fn new() -> Self {
        let name = format!("kill-{}", std::process::id());
        Self(PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
