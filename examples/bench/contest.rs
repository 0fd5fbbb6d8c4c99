//! Systems taking turns.

use std::time::Duration;

use crate::load::Load;
use crate::round_trip;
use crate::run::Outcome;
use crate::screen::Screen;
use crate::stats::scaled;
use crate::systems::{Answer, Kind};

/// A system and its load.
pub struct Contender {
    pub label: String,
    pub system: Kind,
    pub load: Load,
}

/// How they are measured.
pub struct Contest<'a> {
    pub rounds: usize,
    /// How long a run should take; `None`: the loads say how much it is.
    pub aim: Option<Duration>,
    pub limit: Duration,
    /// How many disturbed rounds may be run again.
    pub repeats: usize,
    pub screen: &'a Screen,
}

/// What came of it.
pub struct Record {
    /// By contender, then by round.
    pub outcomes: Vec<Vec<Outcome>>,
    /// One for each round.
    pub round_trips_ns: Vec<f64>,
    /// Rounds that were thrown away because other processes disturbed them.
    pub repeated: usize,
}

/// Cores that other processes may have without disturbing.
const QUIET: f64 = 0.25;

/// The first guess is small enough for the slowest.
const FIRST_GUESS: u64 = 20_000;
const MAX_GUESSES: usize = 8;

impl Contest<'_> {
    /// Runs all contenders once in each round, so that a change of the machine
    /// meets all of them alike, and begins each round with another one, so that
    /// nobody is always the first.
    pub fn run(&self, title: &str, contenders: &mut [Contender]) -> Answer<Record> {
        for contender in contenders.iter_mut() {
            self.screen
                .stage(format!("{title}: a try of {}", contender.label));
            self.calibrate(contender)?;
        }
        let mut record = Record {
            outcomes: contenders.iter().map(|_| Vec::new()).collect(),
            round_trips_ns: Vec::new(),
            repeated: 0,
        };
        while record.round_trips_ns.len() < self.rounds {
            let number = record.round_trips_ns.len();
            let round_trip_ns = round_trip::measure_ns();
            let outcomes = self.round(title, number, contenders)?;
            if is_disturbed(&outcomes) && record.repeated < self.repeats {
                record.repeated += 1;
                continue;
            }
            record.round_trips_ns.push(round_trip_ns);
            for (all, outcome) in record.outcomes.iter_mut().zip(outcomes) {
                all.push(outcome);
            }
        }
        Ok(record)
    }

    /// Everybody once; the outcomes are in the order of the contenders.
    fn round(
        &self,
        title: &str,
        number: usize,
        contenders: &mut [Contender],
    ) -> Answer<Vec<Outcome>> {
        let mut outcomes: Vec<Option<Outcome>> = contenders.iter().map(|_| None).collect();
        for turn in 0..contenders.len() {
            let at = (number + turn) % contenders.len();
            let (contender, shown) = (&mut contenders[at], number + 1);
            self.screen.stage(format!(
                "{title}: round {shown} of {}, {}",
                self.rounds, contender.label
            ));
            let outcome = self.measure(contender)?;
            self.adjust(contender, &outcome);
            outcomes[at] = Some(outcome);
        }
        Ok(outcomes.into_iter().flatten().collect())
    }

    fn measure(&self, contender: &Contender) -> Answer<Outcome> {
        self.screen.expect(contender.load.deliveries());
        let watch = &mut |handled| self.screen.reach(handled);
        let outcome = contender.system.run(&contender.load, self.limit, watch);
        outcome.map_err(|error| format!("{}: {error}", contender.label).into())
    }

    /// Finds out how many messages take the time wished.
    fn calibrate(&self, contender: &mut Contender) -> Answer {
        let Some(aim) = self.aim else {
            return Ok(());
        };
        if let Some(rate) = contender.load.rate {
            contender.load.messages = (rate * aim.as_secs_f64()).ceil() as u64;
            return Ok(());
        }
        contender.load.messages = FIRST_GUESS;
        for _ in 0..MAX_GUESSES {
            let outcome = self.measure(contender)?;
            self.adjust(contender, &outcome);
            if outcome.elapsed >= aim / 8 {
                break;
            }
        }
        Ok(())
    }

    /// Every run decides how long the next one is.
    fn adjust(&self, contender: &mut Contender, outcome: &Outcome) {
        if let (Some(aim), None) = (self.aim, contender.load.rate) {
            let took_s = outcome.elapsed.as_secs_f64();
            let published = contender.load.published();
            contender.load.messages = scaled(published, took_s, aim.as_secs_f64());
        }
    }
}

/// Whether other processes took too much of the machine during any of the runs. A
/// round is judged as a whole, whatever its figures say, so that throwing it away
/// favors nobody.
fn is_disturbed(outcomes: &[Outcome]) -> bool {
    let others = outcomes.iter().filter_map(Outcome::cores_of_others);
    others.fold(0.0, f64::max) > QUIET
}
