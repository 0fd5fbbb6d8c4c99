//! Runs a scenario by many schedules, or once more by the one that failed.

use std::cell::RefCell;
use std::sync::Once;
use std::time::{Instant, SystemTime};
use std::{env, panic, thread};

use shuttle::scheduler::{
    PctScheduler, RandomScheduler, ReplayScheduler, Schedule, Scheduler, Task, TaskId,
};
use shuttle::{Config, MaxSteps, Runner};

/// Schedules per scenario and scheduler, unless `MILLSTREAM_SCHEDULES` says otherwise.
const SCHEDULES: usize = 20_000;
/// Changes of priority in a schedule of PCT, and one.
const DEPTH: usize = 3;
/// The schedules of every run, unless `MILLSTREAM_SEED` is a number or `fresh`.
const SEED: u64 = 0x6d69_6c6c;
/// More steps than any scenario needs: who takes them spins for ever.
const MAX_STEPS: usize = 100_000;
/// Where somebody else could run, time passes once in so many steps.
const TIME_IS_SLOW: u64 = 16;

thread_local! {
    /// The panics on this thread, which runs all threads of a schedule. The engine
    /// contains what its threads do, and the scenario has to fail all the same.
    static PANICS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Runs `scenario`, which is the test of the calling thread's name, by
/// [`SCHEDULES`] random schedules and as many of PCT, or by the one schedule in
/// `MILLSTREAM_SCHEDULE`.
pub fn explore(scenario: fn()) {
    remember_panics();
    let run = move || {
        scenario();
        assert_none_panicked();
    };
    if let Ok(schedule) = env::var("MILLSTREAM_SCHEDULE") {
        let mut scheduler = ReplayScheduler::new_from_encoded(schedule.trim());
        scheduler.set_allow_incomplete();
        Runner::new(scheduler, config()).run(run);
        assert_none_panicked();
        panic!("this schedule no longer fails");
    }
    let (schedules, seed) = (schedules(), seed());
    let random = RandomScheduler::new_from_seed(seed, schedules);
    run_by("random", random, seed, run);
    let pct = PctScheduler::new_from_seed(seed, DEPTH, schedules);
    run_by("PCT", pct, seed, run);
}

fn run_by(
    name: &str,
    scheduler: impl Scheduler + 'static,
    seed: u64,
    run: impl Fn() + Send + Sync + 'static,
) {
    let began = Instant::now();
    let scheduler = Slowly { scheduler, seed };
    let schedules = Runner::new(scheduler, config()).run(run);
    assert_none_panicked();
    println!(
        "{}: {schedules} schedules by {name} from seed {seed}, {:.1?}",
        thread::current().name().unwrap_or_default(),
        began.elapsed(),
    );
}

fn config() -> Config {
    let mut config = Config::default();
    config.stack_size = 256 * 1_024;
    config.max_steps = MaxSteps::FailAfter(MAX_STEPS);
    // The destructors of a scenario that fails run steps of all threads.
    config
        .ungraceful_shutdown_config
        .immediately_return_on_panic = true;
    config.silence_warnings = true;
    config
}

fn schedules() -> usize {
    let asked = env::var("MILLSTREAM_SCHEDULES").ok();
    asked.map_or(SCHEDULES, |asked| {
        asked.parse().expect("a number of schedules")
    })
}

fn seed() -> u64 {
    match env::var("MILLSTREAM_SEED").as_deref() {
        Err(_) => SEED,
        Ok("fresh") => {
            let since = SystemTime::UNIX_EPOCH.elapsed();
            since.expect("a clock after 1970").as_nanos() as u64
        }
        Ok(seed) => seed.parse().expect("a number, or `fresh`"),
    }
}

fn remember_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            PANICS.with_borrow_mut(|panics| panics.push(info.to_string()));
            let scenario = thread::current().name().unwrap_or_default().to_owned();
            eprintln!("replay: MILLSTREAM_SCHEDULE=<the lines above> cargo shuttle {scenario}");
            before(info);
        }));
    });
}

fn assert_none_panicked() {
    let panics = PANICS.take();
    assert!(panics.is_empty(), "contained: {}", panics.join("\n"));
}

/// Lets time pass seldom: the thread of the engine's time is the only one that is
/// detached.
#[derive(Debug)]
struct Slowly<S> {
    scheduler: S,
    seed: u64,
}

impl<S: Scheduler> Scheduler for Slowly<S> {
    fn new_execution(&mut self) -> Option<Schedule> {
        self.scheduler.new_execution()
    }

    fn next_task(
        &mut self,
        runnable: &[&Task],
        current: Option<TaskId>,
        is_yielding: bool,
    ) -> Option<TaskId> {
        self.seed = self
            .seed
            .wrapping_mul(0x5851_f42d_4c95_7f2d)
            .wrapping_add(0x1405_7b7e_f767_814f);
        if !(self.seed >> 33).is_multiple_of(TIME_IS_SLOW) {
            let others: Vec<_> = runnable
                .iter()
                .copied()
                .filter(|task| !task.is_detached())
                .collect();
            if !others.is_empty() {
                return self.scheduler.next_task(&others, current, is_yielding);
            }
        }
        self.scheduler.next_task(runnable, current, is_yielding)
    }

    fn next_u64(&mut self) -> u64 {
        self.scheduler.next_u64()
    }
}
