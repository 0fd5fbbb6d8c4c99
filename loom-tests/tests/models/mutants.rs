//! Deliberate breaks of the shipped source, by the names they have there, and the
//! models that must see each of them. Run it with `cargo loom -- --ignored`.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};
use std::{env, fmt, fs, thread};

/// A break, and models that must each fail with it.
type Mutant = (&'static str, &'static [&'static str]);

const MUTANTS: &[Mutant] = &[
    (
        "task: notify without a fence",
        &["schedule::two_publishers_one_worker"],
    ),
    (
        "task: a runner is not told of news",
        &["schedule::two_publishers_one_worker"],
    ),
    (
        "task: rest without a look for news",
        &["schedule::two_publishers_one_worker"],
    ),
    (
        "task: a loan for two",
        &["schedule::a_loan_that_is_taken_is_run_by_one"],
    ),
    (
        "task: a notice that waits for the lender",
        &["schedule::what_cannot_wait_for_the_lender_is_not_left_to_it"],
    ),
    (
        "loans: the loan, then the watch",
        &["loans::what_stays_lent_is_taken"],
    ),
    (
        "loans: off, then a look",
        &["loans::what_stays_lent_is_taken"],
    ),
    (
        "cell: relaxed steps",
        &["handles::nobody_publishes_into_a_topic_that_is_removed"],
    ),
    (
        "cell: look, then store",
        &[
            "gate::two_publishers_never_overshoot_the_capacity",
            "schedule::two_publishers_one_worker",
            "room::a_topic_that_waits_for_room_is_rung",
        ],
    ),
    (
        "waiters: wait without a fence",
        &["waiters::a_blocked_publisher_is_woken_by_room"],
    ),
    (
        "waiters: wake without a fence",
        &["waiters::a_blocked_publisher_is_woken_by_room"],
    ),
    (
        "waiters: wake one of many",
        &["waiters::two_blocked_publishers_are_both_woken_by_a_close"],
    ),
    (
        "waiters: called, and gone without a word",
        &["waiters::who_is_called_and_gives_up_passes_the_call_on"],
    ),
    (
        "sleep: a finder wakes no successor",
        &["sleep::two_workers_leave_no_task_lying"],
    ),
    (
        "sleep: sleep without a fence",
        &["sleep::one_worker_finds_what_is_submitted_while_it_falls_asleep"],
    ),
    (
        "sleep: sleep without a last look",
        &["sleep::one_worker_finds_what_is_submitted_while_it_falls_asleep"],
    ),
    (
        "sleep: wake without a fence",
        &["sleep::one_worker_finds_what_is_submitted_while_it_falls_asleep"],
    ),
    (
        "sleep: wake all without a fence",
        &["threads::an_idle_worker_ends_with_its_broker"],
    ),
    (
        "gate: a relaxed release",
        &["gate::who_sees_a_place_free_sees_where_its_message_went"],
    ),
    (
        "gate: past the lock",
        &["drain::what_is_accepted_is_delivered_and_what_is_late_is_refused"],
    ),
    (
        "gate: a close that admits",
        &[
            "gate::a_drain_that_sees_every_ticket_released_has_seen_every_message",
            "drain::what_is_accepted_is_delivered_and_what_is_late_is_refused",
        ],
    ),
    (
        "books: relaxed counts",
        &["books::a_live_snapshot_never_shows_more_ends_than_beginnings"],
    ),
    (
        "books: relaxed reads",
        &["books::a_live_snapshot_never_shows_more_ends_than_beginnings"],
    ),
    (
        "fan-out: the books, then the push",
        &["snapshot::what_a_handler_gets_has_been_counted"],
    ),
    (
        "lane: room without a notice",
        &["lanes::a_topic_that_waits_for_a_full_lane_goes_on_when_it_has_room"],
    ),
    (
        "lane: a return without a notice",
        &["retry::a_retry_that_is_due_before_its_lane_rests_is_not_lost"],
    ),
    (
        "lane: the handler goes, then who waits is told",
        &["unsubscribe::what_is_cancelled_is_not_delivered_any_more"],
    ),
    (
        "lane: an end that nobody waits for",
        &["unsubscribe::what_is_cancelled_is_not_delivered_any_more"],
    ),
    (
        "lanes: the start, then the list",
        &["lanes::a_subscription_that_joins_gets_what_is_published_after_it_and_nothing_before"],
    ),
    (
        "queue: the open batch first",
        &["tail::a_full_batch_is_not_overtaken_by_the_open_one"],
    ),
    (
        "queue: at rest without a word",
        &["tail::who_publishes_while_the_dispatcher_goes_to_rest_rings"],
    ),
    (
        "lag: rest without a fence",
        &["lag::what_was_left_open_goes_on_when_the_lane_has_run_dry"],
    ),
    (
        "lag: dry without a notice",
        &["lag::what_was_left_open_goes_on_when_the_lane_has_run_dry"],
    ),
    (
        "queue: quiet while others push",
        &["quiet::two_publishers_complete_a_batch_between_them"],
    ),
    (
        "queue: dry before the notice",
        &["eviction::who_had_expired_messages_looked_for_does_not_hide_the_next_one"],
    ),
    (
        "topic: room that nobody hears of",
        &["threads::a_blocked_publisher_gets_the_room_that_the_worker_makes"],
    ),
    (
        "topic: a close that nobody hears of",
        &["threads::a_drain_flushes_a_pending_batch"],
    ),
    (
        "swap: the strategy, then a notice",
        &["swap::what_the_old_strategy_held_goes_on_under_the_new_one"],
    ),
    (
        "eviction: past the dispatcher",
        &["eviction::two_publishers_evict_and_the_books_agree"],
    ),
    (
        "buffer: off the ready queue, then a look",
        &["buffer::what_lingers_while_a_worker_flushes_is_flushed_too"],
    ),
    (
        "partitions: two tables at once",
        &["partitions::a_key_keeps_its_order_when_it_moves"],
    ),
    (
        "partitions: into the lanes, then left",
        &["partitions::a_key_keeps_its_order_when_it_moves"],
    ),
    (
        "partitions: an empty table that nobody hears of",
        &["partitions::a_key_keeps_its_order_when_it_moves"],
    ),
    (
        "partitions: leave without a fence",
        &["partitions::a_key_keeps_its_order_when_it_moves"],
    ),
    (
        "partitions: enter without a second look",
        &["partitions::who_enters_the_old_partitions_too_late_finds_the_new_ones"],
    ),
    (
        "partitions: enter without a fence",
        &["partitions::who_enters_the_old_partitions_too_late_finds_the_new_ones"],
    ),
    (
        "partitions: a change that nobody hears of",
        &["partitions::what_waits_for_its_batch_goes_on_when_its_partition_is_replaced"],
    ),
    (
        "bus: off when one leaves",
        &["observers::an_observer_hears_all_while_another_leaves"],
    ),
    (
        "bus: wake past the lock",
        &["observers::an_event_wakes_the_observers_thread"],
    ),
    (
        "bus: asleep with news on its way",
        &["observers::an_event_wakes_the_observers_thread"],
    ),
    (
        "letters: redriven by two",
        &["redrive::a_letter_that_two_redrive_goes_once"],
    ),
    (
        "letters: redriven past one that is back",
        &["keys::a_letter_that_fails_again_takes_those_redriven_behind_it_along"],
    ),
    (
        "keys: past a failure in a run",
        &["keys::a_retry_goes_before_those_that_wait_for_it_and_those_that_come"],
    ),
    (
        "keys: past a failure in flight",
        &["keys::a_retry_that_fails_again_keeps_back_those_that_were_taken_with_it"],
    ),
    (
        "keys: a failure holds nobody",
        &["keys::a_retry_goes_before_those_that_wait_for_it_and_those_that_come"],
    ),
    (
        "keys: held for ever",
        &["keys::a_retry_goes_before_those_that_wait_for_it_and_those_that_come"],
    ),
    (
        "keys: put down, then held",
        &["group::a_failure_in_one_hand_holds_its_key_for_all"],
    ),
    (
        "keys: put down after the end",
        &["group::an_unsubscribe_waits_for_all_seats"],
    ),
    (
        "keys: freed without a last look",
        &["keys::the_last_letter_of_a_parked_key_goes_before_what_was_published_since"],
    ),
    (
        "keys: parked without a last look",
        &["keys::a_letter_that_fails_again_takes_those_redriven_behind_it_along"],
    ),
    (
        "slot: marked without a notice",
        &[
            "group::a_member_that_has_left_is_gone_and_others_have_its_keys",
            "group::an_unsubscribe_waits_for_all_seats",
        ],
    ),
    (
        "slot: gone without a word",
        &["group::a_member_that_has_left_is_gone_and_others_have_its_keys"],
    ),
    (
        "slot: busy without a word",
        &["group::a_key_moves_to_a_member_that_joins_when_it_is_put_down"],
    ),
    (
        "slot: forgotten while it leaves",
        &["group::an_unsubscribe_waits_for_a_member_that_was_let_go"],
    ),
    (
        "slot: there when its lane ends",
        &["group::an_unsubscribe_waits_for_all_seats"],
    ),
    (
        "handles: a removed topic is joined",
        &["handles::nobody_publishes_into_a_topic_that_is_removed"],
    ),
    (
        "patterns: on the map after the lock",
        &["patterns::a_topic_opened_against_a_pattern_has_one_lane_and_misses_nothing"],
    ),
    (
        "patterns: the lanes, then the map",
        &["patterns::who_finds_a_topic_finds_it_with_its_lanes"],
    ),
    (
        "patterns: a name without the lock",
        &["patterns::a_name_is_taken_by_one_subscription_as_a_whole"],
    ),
    (
        "pool: a task without a wake-up",
        &["threads::a_message_wakes_the_worker_and_the_drain_ends_the_threads"],
    ),
    (
        "pool: a stop without a wake-up",
        &["threads::an_idle_worker_ends_with_its_broker"],
    ),
    (
        "timer: an earlier deadline without a wake-up",
        &["threads::a_retry_wakes_the_timer_and_the_timer_a_worker"],
    ),
    (
        "timer: the outlook in two looks",
        &["threads::a_retry_wakes_the_timer_and_the_timer_a_worker"],
    ),
    (
        "pull: any tenant will do",
        &["pull::an_old_lease_and_its_timer_leave_the_next_tenant_alone"],
    ),
    (
        "pull: looked at, then taken out",
        &["pull::an_ack_of_a_batch_and_the_deadline_settle_all_of_it_once"],
    ),
    (
        "pull: an alarm ends whom it finds",
        &["pull::a_timer_that_fires_for_an_extended_lease_does_not_end_it"],
    ),
    (
        "pull: what has arrived is not counted",
        &["pull::a_receiver_that_falls_asleep_hears_of_a_message"],
    ),
    (
        "pull: news that no receiver hears of",
        &["pull::a_receiver_that_falls_asleep_hears_of_a_message"],
    ),
    (
        "pull: room that no receiver hears of",
        &["pull::two_receivers_share_one_credit"],
    ),
    (
        "pull: an end that no receiver hears of",
        &["pull::a_receiver_that_waits_hears_of_the_end"],
    ),
];

/// A model that a break makes run on and on has not seen it.
const LIMIT: Duration = Duration::from_secs(120);

#[test]
fn the_table_has_every_break_in_the_source() {
    let table: BTreeSet<_> = MUTANTS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(table.len(), MUTANTS.len(), "a break is listed twice");
    let mut source = BTreeSet::new();
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("../src");
    collect_breaks(&src, &mut source);
    assert_eq!(table, source);
}

fn collect_breaks(under: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(under).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect_breaks(&path, found);
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        let breaks = ["breakable!(", "in_order!("];
        let after = breaks.iter().flat_map(|begins| text.split(begins).skip(1));
        for after in after {
            let name = after.trim_start().strip_prefix('"');
            let name = name.and_then(|name| name.split('"').next());
            found.insert(name.expect("a break begins with its name").to_owned());
        }
    }
}

#[test]
#[ignore = "takes minutes; cargo loom -- --ignored"]
fn every_break_is_seen_by_its_models() {
    let only = env::var("MUTANT").unwrap_or_default();
    let pairs = MUTANTS.iter().filter(|(name, _)| name.contains(&only));
    let pairs = pairs.flat_map(|(name, models)| models.iter().map(move |model| (name, model)));
    let left = Mutex::new(pairs);
    let survivors = Mutex::new(Vec::new());
    let work = || {
        loop {
            let Some((name, model)) = left.lock().unwrap().next() else {
                return;
            };
            let began = Instant::now();
            let verdict = try_break(name, model);
            let took = began.elapsed();
            println!("| {name} | {model} | {verdict} | {took:.1?} |");
            if !matches!(verdict, Verdict::Seen(_)) {
                survivors.lock().unwrap().push((name, model, verdict));
            }
        }
    };
    let workers = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(work);
        }
    });
    let survivors = survivors.into_inner().unwrap();
    assert!(survivors.is_empty(), "survived: {survivors:#?}");
}

#[derive(Debug)]
enum Verdict {
    /// It failed, and said this.
    Seen(String),
    /// The model passed.
    Survived,
    /// The model did not end.
    Endless,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Seen(said) => write!(f, "seen: {said}"),
            Self::Survived => f.write_str("SURVIVED"),
            Self::Endless => f.write_str("DID NOT END"),
        }
    }
}

/// The line after the first panic's place.
fn first_panic(said: &str) -> String {
    let mut lines = said
        .lines()
        .skip_while(|line| !line.contains("panicked at"));
    lines.nth(1).unwrap_or_default().to_owned()
}

/// Runs the model with the break in a process of its own: loom often aborts.
fn try_break(name: &str, model: &str) -> Verdict {
    let worker = (std::process::id(), thread::current().id());
    let said = env::temp_dir().join(format!("millstream-{worker:?}"));
    let mut child = Command::new(env::current_exe().unwrap())
        .args(["--exact", model, "--nocapture"])
        .env("MILLSTREAM_BREAK", name)
        .env("RUST_BACKTRACE", "0")
        .stdout(Stdio::null())
        .stderr(fs::File::create(&said).unwrap())
        .spawn()
        .unwrap();
    let began = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return if status.success() {
                Verdict::Survived
            } else {
                Verdict::Seen(first_panic(&fs::read_to_string(&said).unwrap()))
            };
        }
        if began.elapsed() > LIMIT {
            child.kill().unwrap();
            child.wait().unwrap();
            return Verdict::Endless;
        }
        thread::sleep(Duration::from_millis(20));
    }
}
