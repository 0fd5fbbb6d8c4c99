//! Threads that make trouble from outside.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::{sleep, yield_now};
use std::time::Duration;
#[cfg(feature = "async")]
use std::time::Instant;

use fastrand::Rng;
use millstream::dead_letters::{DeadLetter, LetterAction, RedriveOptions};
use millstream::error::RemoveError;
use millstream::{Batched, LaneFull, Unsubscribe, Unsubscribed};

use crate::crowd::{Crowd, PARKS, SWITCHED, Style};
use crate::faults::Fault;
use crate::gates::Gates;
use crate::hooks;
use crate::ledger::{Ledger, Offer};
use crate::life::{Actor, Life};
use crate::partitions::Split;
use crate::process;
use crate::shot::Shot;
#[cfg(feature = "async")]
use crate::source::wait_for;
use crate::source::{Sent, Source};
use crate::temper::Temper;
use crate::verdict::{check, fail};

/// Subscriptions that a churner has at a time.
const CHURNED: usize = 8;

fn source(life: &Life, ledger: &Arc<Ledger>) -> Source {
    let mut source = Source::new(ledger);
    if life.faults.has(Fault::Bombs) {
        source.bombs = 50;
    }
    if life.faults.has(Fault::Cycles) {
        source.hops = 3;
    }
    source
}

/// As much as the first topic takes.
pub fn river(life: &Life, actor: &Actor, _: Rng) {
    let mut source = Source::new(life.river());
    while actor.goes_on(life) {
        if source.publish_batch(64) != Sent::Accepted {
            yield_now();
        }
    }
}

/// A bit of everything, everywhere.
pub fn publisher(life: &Life, actor: &Actor, mut random: Rng) {
    let mut sources: Vec<_> = life
        .ledgers
        .iter()
        .map(|ledger| source(life, ledger))
        .collect();
    let delays = life.faults.has(Fault::Delays);
    while actor.goes_on(life) {
        let at = random.usize(..sources.len());
        match random.u32(..20) {
            0 => sources[at].publish_by_name(life.slot.broker()),
            _ => sources[at].publish(&mut random, delays),
        };
        if random.u32(..30) == 0 {
            sleep(Duration::from_micros(random.u64(..1_000)));
        }
    }
}

/// Publishes without a pause to a topic that is always full.
pub fn flood(life: &Life, actor: &Actor, mut random: Rng) {
    let Some(ledger) = life.ledgers.get(1) else {
        return;
    };
    let mut source = source(life, ledger);
    while actor.goes_on(life) {
        match random.bool() {
            true => source.publish_one(),
            false => source.publish_batch(3),
        };
    }
}

/// Swaps whatever can be swapped.
pub fn swapper(life: &Life, actor: &Actor, mut random: Rng) {
    let hostile = life.faults.has(Fault::Hooks);
    while actor.goes_on(life) {
        let ledger = &life.ledgers[random.usize(..life.ledgers.len())];
        match random.u32(..8) {
            0 => hooks::swap_retry(ledger, &mut random),
            1 => ledger.topic().flush(),
            2 => {
                if let Some(broker) = life.slot.broker() {
                    hooks::swap_all(&broker, &mut random, hostile);
                }
            }
            3 => hooks::swap_capacity(ledger, &mut random),
            _ => hooks::swap_strategy(ledger, &mut random, hostile),
        }
        sleep(Duration::from_micros(random.u64(..200)));
    }
}

fn churned_offer(number: u64, life: &Life, random: &mut Rng) -> Offer {
    let capacity = random.usize(1..200);
    let fails = life.faults.has(Fault::Errors) && random.bool();
    Offer {
        name: format!("churned-{number}"),
        capacity,
        when_full: match random.u32(..4) {
            0 => LaneFull::Wait,
            1 => LaneFull::DropOldest,
            2 => LaneFull::DropNewest,
            _ => LaneFull::DeadLetter,
        },
        batches: random.bool().then(|| Batched::of(capacity.min(16))),
        temper: match fails {
            true => Temper::Failing {
                of_1000: 300,
                panics: life.faults.has(Fault::Panics),
            },
            false => Temper::Calm,
        },
        lasting: false,
    }
}

/// Subscriptions come and go. Whether one has ended when its unsubscribe says so
/// is seen by its witness.
pub fn churner(life: &Life, actor: &Actor, mut random: Rng) {
    let mut held = Vec::new();
    let gates = life
        .faults
        .has(Fault::Gates)
        .then(|| Gates::any(&mut random));
    let mut number = 0;
    while actor.goes_on(life) {
        let ledger = &life.ledgers[random.usize(..life.ledgers.len())];
        number += 1;
        let offer = churned_offer(number, life, &mut random);
        held.extend(ledger.subscribe(offer, &mut random).ok());
        if let Some(gates) = &gates
            && let Some((subscription, _)) = random.choice(&held)
        {
            gates.meddle(subscription, &mut random);
        }
        if let Some((subscription, seat)) = held.last()
            && random.u32(..4) == 0
        {
            seat.hastened.store(true, Relaxed);
            subscription.retry_all_now();
        }
        if held.len() >= CHURNED {
            let (subscription, seat) = held.swap_remove(random.usize(..held.len()));
            let mode = match random.u32(..4) {
                0 => Unsubscribe::Cancel,
                1 => Unsubscribe::DeadLetter,
                2 => Unsubscribe::Drain {
                    timeout: Duration::from_millis(random.u64(..20)),
                },
                _ => {
                    drop(subscription);
                    continue;
                }
            };
            match subscription.unsubscribe(mode) {
                Unsubscribed::Ended(last) => seat.end(&last.counts),
                _ => fail("unsubscribe", "it did not wait outside of a handler"),
            }
        }
        sleep(Duration::from_micros(random.u64(..1_500)));
    }
    drop(held);
    if let Some(gates) = gates {
        gates.check_out();
    }
}

/// Topics come and go; what they had counted stays.
pub fn opener(life: &Life, actor: &Actor, mut random: Rng) {
    let mut number = 0;
    while actor.goes_on(life) {
        number += 1;
        let name = format!("short.{number}");
        let Some(broker) = life.slot.broker() else {
            return;
        };
        let mut terms = life.terms(&mut random);
        terms.capacity = 256;
        terms.split = (life.faults.has(Fault::Partitions) && random.bool())
            .then(|| Split::any(terms.capacity, &mut random));
        let Ok(ledger) = Ledger::open(&broker, &name, 1_000 + number, terms) else {
            return;
        };
        drop(broker);
        life.short
            .lock()
            .expect("nothing panics in here")
            .push(Arc::clone(&ledger));
        let offer = churned_offer(0, life, &mut random);
        let subscribed = ledger.subscribe(offer, &mut random);
        let mut source = Source::new(&ledger);
        source.publish_batch(random.u64(1..100));
        drop(source);
        if random.bool() {
            drain(&ledger, Duration::from_millis(random.u64(..20)));
        }
        if let Ok((subscription, _)) = subscribed {
            subscription.unsubscribe(Unsubscribe::Cancel);
        }
        remove(life, actor, &ledger, &name);
        sleep(Duration::from_micros(random.u64(..2_000)));
    }
}

/// Ends one topic while the others go on.
fn drain(ledger: &Ledger, deadline: Duration) {
    let topic = ledger.topic();
    let report = match topic.drain(deadline) {
        Ok(report) => report,
        Err(error) => *error.report(),
    };
    check(topic.is_closed(), "drain", "a drained topic is open");
    let ends = report.dispatched + report.unrouted + report.messages_dropped;
    check(
        report.published <= ends + report.remaining,
        "drain",
        format_args!("messages are missing: {report}"),
    );
}

fn remove(life: &Life, actor: &Actor, ledger: &Ledger, name: &str) {
    let mut letters = Some(ledger.topic().dead_letters());
    while actor.goes_on(life) {
        if let Some(letters) = letters.take() {
            letters.purge(|_| true);
        }
        ledger.close();
        let Some(broker) = life.slot.broker() else {
            return;
        };
        match broker.remove_topic(name) {
            Ok(()) => {
                return check(
                    broker.remove_topic(name) == Err(RemoveError::Unknown),
                    "topics",
                    "one was removed twice",
                );
            }
            // Something is on its way out.
            Err(RemoveError::NotEmpty {
                what: "dead letters",
            }) => {
                letters = broker
                    .topic(name)
                    .open()
                    .ok()
                    .map(|topic| topic.dead_letters());
            }
            Err(_) => {}
        }
        drop(broker);
        sleep(Duration::from_micros(200));
    }
}

/// Publishes messages with keys.
pub fn keyed(life: &Life, actor: &Actor, mut random: Rng) {
    let Some(ledger) = life.keyed() else { return };
    let mut source = Source::new(ledger);
    while actor.goes_on(life) {
        if source.publish_keyed() != Sent::Accepted || random.u32(..30) == 0 {
            sleep(Duration::from_micros(random.u64(..300)));
        }
    }
}

/// Switches modes, and has hands and members come and go. A few subscriptions of this
/// kind come and go, too.
pub fn musterer(life: &Life, actor: &Actor, mut random: Rng) {
    let Some(ledger) = life.keyed() else { return };
    let mut number = 0;
    while actor.goes_on(life) {
        for crowd in &*life.crowds.lock().expect("nothing panics in here") {
            crowd.meddle(&mut random);
        }
        if random.u32(..8) == 0 {
            number += 1;
            come_and_go(ledger, number, life, &mut random);
        }
        sleep(Duration::from_micros(random.u64(..2_000)));
    }
}

fn come_and_go(ledger: &Ledger, number: u64, life: &Life, random: &mut Rng) {
    let mut styles = Style::all(life.faults, random);
    let mut style = styles.swap_remove(random.usize(..styles.len()));
    style.name = format!("{}-{number}", style.name);
    let Ok(crowd) = Crowd::open(ledger, style, random) else {
        return;
    };
    for _ in 0..random.u32(..8) {
        sleep(Duration::from_micros(random.u64(..1_000)));
        crowd.meddle(random);
    }
    crowd.end(match random.u32(..3) {
        0 => Unsubscribe::Cancel,
        1 => Unsubscribe::DeadLetter,
        _ => Unsubscribe::Drain {
            timeout: Duration::from_millis(random.u64(..20)),
        },
    });
}

/// What may be redriven without tearing its order.
fn may_go(letter: &DeadLetter<Shot>, is_keyed: bool, likes: bool) -> bool {
    match letter.subscription() {
        // Whoever chooses among those of a parked key chooses their order.
        name if is_keyed && name.starts_with(PARKS) => true,
        name if is_keyed => name.starts_with(SWITCHED) && likes,
        _ => letter.generation() < 3 && likes,
    }
}

/// A subscriber to the letters comes and goes. It fails now and then.
fn read_letters(ledger: &Ledger, is_keyed: bool, random: &mut Rng) {
    let mut own = random.fork();
    let read = move |letter: &DeadLetter<Shot>| match own.u32(..8) {
        0 => Err("now and then")?,
        1 => Ok(LetterAction::Snooze(Duration::from_micros(own.u64(..500)))),
        2 => Ok(LetterAction::Purge),
        3 => Ok(LetterAction::Keep),
        _ => Ok(match may_go(letter, is_keyed, true) {
            true => LetterAction::Redrive,
            false => LetterAction::Keep,
        }),
    };
    // It may be too late for it.
    if let Ok(reader) = ledger.topic().dead_letters().subscribe("reader", read) {
        sleep(Duration::from_micros(random.u64(..2_000)));
        match reader.unsubscribe() {
            Some(last) => {
                ledger.purged.fetch_add(last.purged, Relaxed);
                ledger.redriven.fetch_add(last.redriven, Relaxed);
            }
            None => fail("unsubscribe", "it did not wait outside of a handler"),
        }
    }
}

/// Redrives and purges letters, or has a subscriber do so.
pub fn redriver(life: &Life, actor: &Actor, mut random: Rng) {
    while actor.goes_on(life) {
        let ledger = &life.ledgers[random.usize(..life.ledgers.len())];
        let letters = ledger.topic().dead_letters();
        let is_keyed = life.keyed().is_some_and(|keyed| Arc::ptr_eq(keyed, ledger));
        if random.u32(..4) == 0 {
            read_letters(ledger, is_keyed, &mut random);
        } else if random.u32(..4) == 0 {
            let topic = ledger.topic().name().to_owned();
            let purged = match life.slot.broker() {
                Some(broker) if random.bool() => {
                    let all = broker.dead_letters();
                    all.purge(|letter| letter.topic() == topic && random.bool())
                }
                _ => letters.purge(|_| random.bool()),
            };
            ledger.purged.fetch_add(purged as u64, Relaxed);
        } else {
            let wait = Duration::from_micros(random.u64(..500));
            let options = RedriveOptions::new().wait(wait);
            let mut of_filter = random.fork();
            let filter =
                move |letter: &DeadLetter<Shot>| may_go(letter, is_keyed, of_filter.bool());
            let chosen = match random.bool() {
                #[cfg(feature = "async")]
                true => {
                    let mut redrive = letters.redrive_with_async(options, filter);
                    let until = Instant::now() + Duration::from_secs(60);
                    let chosen = wait_for(&mut redrive, until);
                    check(chosen.is_some(), "redrive", "the future was never woken");
                    chosen.and_then(Result::ok)
                }
                _ => letters.redrive_with(options, filter).ok(),
            };
            let redriven = chosen.map_or(0, |chosen| chosen.redriven);
            ledger.redriven.fetch_add(redriven as u64, Relaxed);
        }
        sleep(Duration::from_micros(random.u64(..5_000)));
    }
}

/// Stops the whole process for a while.
pub fn stopper(life: &Life, actor: &Actor, mut random: Rng) {
    sleep(Duration::from_millis(random.u64(100..800)));
    if actor.goes_on(life)
        && let Some(mut child) = process::stop_for(Duration::from_millis(random.u64(500..3_000)))
    {
        // Whatever became of it: we are running.
        let _ = child.wait();
    }
}
