//! Gates that close and open under load: pauses, rates, breakers and limits that subscriptions share.

use std::thread::sleep;
use std::time::{Duration, Instant};

use fastrand::Rng;
use millstream::Subscription;
use millstream::protect::{Adaptive, Breaker, Limiter, RateLimit, RetryBudget};

use crate::end::SLACK;
use crate::life::{Actor, Life};
use crate::verdict::check;

/// Nothing is held for longer, so that nobody has to wait for it.
const MOST_US: u64 = 2_000;

fn moment(random: &mut Rng) -> Duration {
    Duration::from_micros(random.u64(1..MOST_US))
}

fn rate(random: &mut Rng) -> RateLimit {
    let every = Duration::from_millis(random.u64(1..20));
    RateLimit::new(random.u32(20..2_000), every).burst(random.u32(1..100))
}

/// The gates of subscriptions that come and go, which have a limit in common.
pub struct Gates {
    limiter: Limiter,
}

impl Gates {
    pub fn any(random: &mut Rng) -> Self {
        let limiter = match random.bool() {
            true => Limiter::new(random.u32(1..3)),
            false => Limiter::adaptive(Adaptive::between(1, random.u32(2..4))),
        };
        Self {
            limiter: limiter.expect("in range"),
        }
    }

    /// Closes a gate of the subscription for a moment, or gives it another one.
    pub fn meddle(&self, subscription: &Subscription, random: &mut Rng) {
        let some = random.bool();
        let set = match random.u32(..16) {
            0 => {
                subscription.pause();
                sleep(moment(random));
                subscription.resume();
                Ok(())
            }
            1 => {
                subscription.hold_off(moment(random));
                Ok(())
            }
            2 => subscription.set_rate_limit(some.then(|| rate(random))),
            3 | 4 => {
                let open = moment(random);
                let breaker = Breaker::new()
                    .consecutive_failures(random.u32(1..4))
                    .open_for(open)
                    .max_open(open)
                    .probes(random.u32(1..4));
                subscription.set_breaker(some.then_some(breaker))
            }
            5 => subscription.set_retry_budget(some.then(|| RetryBudget::new().min_per_sec(500))),
            6 => {
                subscription.isolate_breaker();
                sleep(moment(random));
                subscription.reset_breaker();
                Ok(())
            }
            // Most have it, so that they wait for each other.
            _ => {
                let some = random.u32(..8) > 0;
                subscription.set_limiter(some.then_some(&self.limiter))
            }
        };
        check(set.is_ok(), "gates", format_args!("refused: {set:?}"));
    }

    /// Sees that every permit comes back from subscriptions that are gone.
    pub fn check_out(&self) {
        let began = Instant::now();
        while self.limiter.in_use() > 0 && began.elapsed() < SLACK {
            sleep(Duration::from_millis(1));
        }
        let left = self.limiter.in_use();
        check(left == 0, "gates", format_args!("{left} permits are lost"));
    }
}

/// Pauses topics and the broker, and has topics accept at a rate, for a moment each.
pub fn warden(life: &Life, actor: &Actor, mut random: Rng) {
    while actor.goes_on(life) {
        let topic = life.ledgers[random.usize(..life.ledgers.len())].topic();
        match random.u32(..8) {
            0 => {
                let Some(broker) = life.slot.broker() else {
                    return;
                };
                broker.pause();
                sleep(moment(&mut random));
                broker.resume();
            }
            1..4 => {
                let set = topic.set_rate_limit(Some(rate(&mut random)));
                check(set.is_ok(), "gates", format_args!("refused: {set:?}"));
                sleep(moment(&mut random));
                let lifted = topic.set_rate_limit(None);
                check(lifted.is_ok(), "gates", format_args!("refused: {lifted:?}"));
            }
            _ => {
                topic.pause();
                sleep(moment(&mut random));
                topic.resume();
            }
        }
        sleep(moment(&mut random) * 4);
    }
}
