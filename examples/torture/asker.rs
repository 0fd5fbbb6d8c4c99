//! A thread that asks responders that reply, fail, forget, or reply late: each request has one
//! outcome, and the right one. A schedule ticks in between.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread::sleep;
use std::time::Duration;

use fastrand::Rng;
use millstream::request::{Gather, Replied, RepliesEnd};
use millstream::schedule::MissedTicks;
use millstream::{Backoff, Delivery, Nack, Outcome, RequestError, Topic};

use crate::life::{Actor, Life};
use crate::verdict::check;

/// The topic of the asker.
pub const TOPIC: &str = "asked";
/// The payload of a tick, which nobody asks.
const TICK: u64 = u64::MAX;
/// Ways to answer.
const WAYS: u64 = 7;

/// Asks its own topic until the end.
pub fn asker(life: &Life, actor: &Actor, mut random: Rng) {
    let Some(broker) = life.slot.broker() else {
        return;
    };
    let retry = Backoff::fixed(Duration::from_micros(100)).max_attempts(2);
    let topic = broker.topic::<u64>(TOPIC);
    let Ok(topic) = topic.capacity(64).retry(retry).open() else {
        return;
    };
    drop(broker);
    let late = Arc::new(AtomicU64::new(0));
    let counts = Arc::clone(&late);
    let responder = topic.subscription("responder").concurrency(2);
    let responder = responder.subscribe_shared(move |asked| answer(asked, &counts));
    let every = topic.every(Duration::from_millis(1));
    let schedule = every.missed(MissedTicks::Once).publish(|| TICK);
    let mut number = 0;
    while actor.goes_on(life) {
        number += 1;
        let timeout = Duration::from_micros(random.u64(..3_000));
        match random.u32(..4) {
            0 => ask_many(&topic, number, timeout),
            _ => ask(&topic, number, timeout),
        }
    }
    // Counted before the responder hears of it.
    let heard = late.load(Relaxed);
    check(
        topic.metrics().late_replies >= heard,
        "requests",
        format_args!("{heard} replies were late"),
    );
    drop((schedule, responder));
    topic.dead_letters().purge(|_| true);
}

fn answer(asked: &Delivery<'_, u64>, late: &AtomicU64) -> Result<(), Nack> {
    let number = *asked.payload();
    if number == TICK {
        let replied = asked.reply(TICK);
        let is_right = replied == Replied::NotRequested && !asked.is_request();
        check(is_right, "requests", "a tick was taken for a request");
        return Ok(());
    }
    let reply = |reply| {
        let replied = asked.reply(reply);
        late.fetch_add(u64::from(replied == Replied::Late), Relaxed);
    };
    match number % WAYS {
        0 => reply(number),
        1 => (0..3).for_each(|_| reply(number)),
        2 => {}
        3 => return Err(Nack::dead_letter("no")),
        4 if asked.attempt() == 1 => return Err(Nack::retry("not yet")),
        5 => {
            asked.reply("another type");
        }
        _ => {
            sleep(Duration::from_micros(number % 2_000));
            reply(number);
        }
    }
    Ok(())
}

fn ask(topic: &Topic<u64>, number: u64, timeout: Duration) {
    let outcome = topic.request::<u64>(number, timeout);
    let is_right = match &outcome {
        Ok(reply) => *reply == number && matches!(number % WAYS, 0 | 1 | 4 | 6),
        Err(RequestError::Unanswered(ends)) => ended_rightly(number, *ends),
        Err(RequestError::WrongType { .. }) => number % WAYS == 5,
        Err(RequestError::TimedOut) => true,
        Err(RequestError::Refused(error)) => error.is_full() || error.is_closed(),
        // The end of the broker may close the subscription first.
        Err(RequestError::NoResponder(_)) => true,
        Err(_) => false,
    };
    check(
        is_right,
        "requests",
        format_args!("{number} of way {}: {outcome:?}", number % WAYS),
    );
}

fn ask_many(topic: &Topic<u64>, number: u64, timeout: Duration) {
    let gather = Gather::within(timeout).max(2).stall(timeout / 4);
    let Ok(many) = topic.request_many::<u64>(number, gather) else {
        // Full, or the end.
        return;
    };
    let is_right = many.replies.len() <= 2
        && many.replies.iter().all(|reply| *reply == number)
        && match many.end {
            RepliesEnd::Complete => many.replies.len() == 2 && number % WAYS == 1,
            RepliesEnd::WrongType { .. } => number % WAYS == 5,
            RepliesEnd::Ended(ends) => !many.replies.is_empty() || ended_rightly(number, ends),
            RepliesEnd::Stalled => !many.replies.is_empty(),
            _ => true,
        };
    check(is_right, "requests", format_args!("{number}: {many:?}"));
}

/// Whether a request may end so without a reply.
fn ended_rightly(number: u64, ends: Outcome) -> bool {
    match number % WAYS {
        2 => true,
        3 => ends.dead_lettered == 1 || !ends.is_delivered(),
        _ => !ends.is_delivered(),
    }
}
