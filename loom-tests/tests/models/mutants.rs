//! Mutants of the shipped source, by the ids they have there: what each breaks, and the
//! models that must see it. Run them with `cargo loom -- --ignored`.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};
use std::{env, fmt, fs, thread};

/// A mutant, what it breaks, and models that must each fail with it.
type Mutant = (&'static str, &'static str, &'static [&'static str]);

const MUTANTS: &[Mutant] = &[
    (
        "task.notify-fence",
        "a notice is given without a fence",
        &["schedule::two_publishers_one_worker"],
    ),
    (
        "task.notify-running",
        "a runner is not told of news",
        &["schedule::two_publishers_one_worker"],
    ),
    (
        "task.rest-look",
        "a runner rests without a look for news",
        &["schedule::two_publishers_one_worker"],
    ),
    (
        "task.loan",
        "a loan is taken by two",
        &["schedule::a_loan_that_is_taken_is_run_by_one"],
    ),
    (
        "task.notify-lent",
        "a notice waits for the lender",
        &["schedule::what_cannot_wait_for_the_lender_is_not_left_to_it"],
    ),
    (
        "loans.lend-then-watch",
        "the watch is set before the loan",
        &["loans::what_stays_lent_is_taken"],
    ),
    (
        "loans.off-then-look",
        "the watch goes off after its look",
        &["loans::what_stays_lent_is_taken"],
    ),
    (
        "cell.order",
        "steps are relaxed",
        &["handles::nobody_publishes_into_a_topic_that_is_removed"],
    ),
    (
        "cell.swap",
        "a step looks and then stores",
        &[
            "gate::two_publishers_never_overshoot_the_capacity",
            "schedule::two_publishers_one_worker",
            "room::a_topic_that_waits_for_room_is_rung",
        ],
    ),
    (
        "waiters.wait-fence",
        "a waiter waits without a fence",
        &["waiters::a_blocked_publisher_is_woken_by_room"],
    ),
    (
        "waiters.wake-fence",
        "a waiter is woken without a fence",
        &["waiters::a_blocked_publisher_is_woken_by_room"],
    ),
    (
        "waiters.wake-all",
        "one of many waiters is woken",
        &["waiters::two_blocked_publishers_are_both_woken_by_a_close"],
    ),
    (
        "waiters.pass-on",
        "a waiter that was called leaves without passing the call on",
        &["waiters::who_is_called_and_gives_up_passes_the_call_on"],
    ),
    (
        "sleep.successor",
        "a worker that finds work wakes no successor",
        &["sleep::two_workers_leave_no_task_lying"],
    ),
    (
        "sleep.fence",
        "a worker sleeps without a fence",
        &["sleep::one_worker_finds_what_is_submitted_while_it_falls_asleep"],
    ),
    (
        "sleep.look",
        "a worker sleeps without a last look",
        &["sleep::one_worker_finds_what_is_submitted_while_it_falls_asleep"],
    ),
    (
        "sleep.wake-fence",
        "one is woken without a fence",
        &["sleep::one_worker_finds_what_is_submitted_while_it_falls_asleep"],
    ),
    (
        "sleep.wake-all-fence",
        "all are woken without a fence",
        &["threads::an_idle_worker_ends_with_its_broker"],
    ),
    (
        "gate.release-order",
        "a release is relaxed",
        &["gate::who_sees_a_place_free_sees_where_its_message_went"],
    ),
    (
        "gate.lock",
        "a ticket is drawn past the lock",
        &["drain::what_is_accepted_is_delivered_and_what_is_late_is_refused"],
    ),
    (
        "gate.close",
        "a closed gate admits",
        &[
            "gate::a_drain_that_sees_every_ticket_released_has_seen_every_message",
            "drain::what_is_accepted_is_delivered_and_what_is_late_is_refused",
        ],
    ),
    (
        "counters.count-order",
        "counts are relaxed",
        &["books::a_live_snapshot_never_shows_more_ends_than_beginnings"],
    ),
    (
        "counters.read-order",
        "reads of counts are relaxed",
        &["books::a_live_snapshot_never_shows_more_ends_than_beginnings"],
    ),
    (
        "fan-out.count-then-push",
        "a delivery is in its lane before it is counted",
        &["snapshot::what_a_handler_gets_has_been_counted"],
    ),
    (
        "lane.notify-room",
        "a lane makes room without a notice",
        &["lanes::a_topic_that_waits_for_a_full_lane_goes_on_when_it_has_room"],
    ),
    (
        "lane.notify-return",
        "a return is pushed without a notice",
        &["retry::a_retry_that_is_due_before_its_lane_rests_is_not_lost"],
    ),
    (
        "lane.drop-then-retire",
        "the end is told before the handler is gone",
        &["unsubscribe::what_is_cancelled_is_not_delivered_any_more"],
    ),
    (
        "lane.notify-end",
        "nobody hears of the end of a lane",
        &["unsubscribe::what_is_cancelled_is_not_delivered_any_more"],
    ),
    (
        "lanes.start-then-list",
        "a lane is on the list before its start is known",
        &["lanes::a_subscription_that_joins_gets_what_is_published_after_it_and_nothing_before"],
    ),
    (
        "queue.full-first",
        "the open batch goes ahead of a full one",
        &["tail::a_full_batch_is_not_overtaken_by_the_open_one"],
    ),
    (
        "queue.rest-word",
        "a dispatcher rests without asking for a notice",
        &["tail::who_publishes_while_the_dispatcher_goes_to_rest_rings"],
    ),
    (
        "lag.rest-fence",
        "a dispatcher rests without a fence",
        &["lag::what_was_left_open_goes_on_when_the_lane_has_run_dry"],
    ),
    (
        "lag.notify-dry",
        "a lane runs dry without a notice",
        &["lag::what_was_left_open_goes_on_when_the_lane_has_run_dry"],
    ),
    (
        "queue.quiet",
        "a dispatcher asks for quiet while others push",
        &["quiet::two_publishers_complete_a_batch_between_them"],
    ),
    (
        "queue.dry",
        "a dispatcher takes the queue for empty that was notified",
        &["eviction::who_had_expired_messages_looked_for_does_not_hide_the_next_one"],
    ),
    (
        "topic.wake-room",
        "a topic makes room that nobody hears of",
        &["threads::a_blocked_publisher_gets_the_room_that_the_worker_makes"],
    ),
    (
        "topic.notify-close",
        "a topic closes without a notice",
        &["threads::a_drain_flushes_a_pending_batch"],
    ),
    (
        "swap.then-notify",
        "the notice comes before the strategy",
        &["swap::what_the_old_strategy_held_goes_on_under_the_new_one"],
    ),
    (
        "evict.dispatcher",
        "an eviction passes by what the dispatcher keeps",
        &["eviction::two_publishers_evict_and_the_books_agree"],
    ),
    (
        "buffer.unqueue-then-look",
        "a buffer looks before it is off the ready queue",
        &["buffer::what_lingers_while_a_worker_flushes_is_flushed_too"],
    ),
    (
        "partitions.one-set",
        "two sets dispatch at once",
        &["partitions::a_key_keeps_its_order_when_it_moves"],
    ),
    (
        "partitions.push-then-leave",
        "a message leaves before it is in its lanes",
        &["partitions::a_key_keeps_its_order_when_it_moves"],
    ),
    (
        "partitions.notify-empty",
        "a set runs empty without a notice",
        &["partitions::a_key_keeps_its_order_when_it_moves"],
    ),
    (
        "partitions.leave-fence",
        "a dispatcher leaves without a fence",
        &["partitions::a_key_keeps_its_order_when_it_moves"],
    ),
    (
        "partitions.enter-look",
        "a publisher enters without a second look",
        &["partitions::who_enters_the_old_partitions_too_late_finds_the_new_ones"],
    ),
    (
        "partitions.enter-fence",
        "a publisher enters without a fence",
        &["partitions::who_enters_the_old_partitions_too_late_finds_the_new_ones"],
    ),
    (
        "partitions.notify-change",
        "a change is made without a notice",
        &["partitions::what_waits_for_its_batch_goes_on_when_its_partition_is_replaced"],
    ),
    (
        "bus.still-observed",
        "events end when one observer of several leaves",
        &["observers::an_observer_hears_all_while_another_leaves"],
    ),
    (
        "bus.wake-lock",
        "the observers' thread is woken past the lock",
        &["observers::an_event_wakes_the_observers_thread"],
    ),
    (
        "bus.count-news",
        "the observers' thread sleeps with news on its way",
        &["observers::an_event_wakes_the_observers_thread"],
    ),
    (
        "letters.take",
        "a letter is redriven by two",
        &["redrive::a_letter_that_two_redrive_goes_once"],
    ),
    (
        "letters.behind",
        "a letter is redriven past one that is back",
        &["keys::a_letter_that_fails_again_takes_those_redriven_behind_it_along"],
    ),
    (
        "keyed.stop-run",
        "a run goes on past a failure",
        &["keys::a_retry_goes_before_those_that_wait_for_it_and_those_that_come"],
    ),
    (
        "keyed.skip-held",
        "a delivery goes ahead of a failure that it was taken with",
        &["keys::a_retry_that_fails_again_keeps_back_those_that_were_taken_with_it"],
    ),
    (
        "keyed.hold",
        "a failure holds no key",
        &["keys::a_retry_goes_before_those_that_wait_for_it_and_those_that_come"],
    ),
    (
        "keyed.release",
        "a held key is never released",
        &["keys::a_retry_goes_before_those_that_wait_for_it_and_those_that_come"],
    ),
    (
        "keyed.hold-first",
        "a key is put down before it is held",
        &["group::a_failure_in_one_hand_holds_its_key_for_all"],
    ),
    (
        "keyed.put-down-end",
        "a delivery that is put down after the end leaves its lane unended",
        &["group::an_unsubscribe_waits_for_all_seats"],
    ),
    (
        "keyed.judged-look",
        "parked arrivals follow or go on without a last look for returns",
        &[
            "keys::the_last_letter_of_a_parked_key_goes_before_what_was_published_since",
            "keys::a_letter_that_is_redriven_passes_no_delivery_that_follows_into_the_store",
        ],
    ),
    (
        "keyed.parked-look",
        "a key is parked without a last look for returns",
        &["keys::a_letter_that_fails_again_takes_those_redriven_behind_it_along"],
    ),
    (
        "slot.notify-leave",
        "a slot is marked without a notice",
        &[
            "group::a_member_that_has_left_is_gone_and_others_have_its_keys",
            "group::an_unsubscribe_waits_for_all_seats",
        ],
    ),
    (
        "slot.notify-gone",
        "a slot is gone without a notice",
        &["group::a_member_that_has_left_is_gone_and_others_have_its_keys"],
    ),
    (
        "slot.pass-on",
        "a slot is busy without passing the rest on",
        &["group::a_key_moves_to_a_member_that_joins_when_it_is_put_down"],
    ),
    (
        "slot.leaving",
        "a member is forgotten while it leaves",
        &["group::an_unsubscribe_waits_for_a_member_that_was_let_go"],
    ),
    (
        "slot.dismiss",
        "a slot is there when its lane has ended",
        &["group::an_unsubscribe_waits_for_all_seats"],
    ),
    (
        "handles.removed",
        "a removed topic is joined",
        &["handles::nobody_publishes_into_a_topic_that_is_removed"],
    ),
    (
        "patterns.map-lock",
        "a topic is on the map after the lock",
        &["patterns::a_topic_opened_against_a_pattern_has_one_lane_and_misses_nothing"],
    ),
    (
        "patterns.lanes-then-map",
        "a topic is on the map before its lanes",
        &["patterns::who_finds_a_topic_finds_it_with_its_lanes"],
    ),
    (
        "patterns.name-lock",
        "a name is given out without the lock",
        &["patterns::a_name_is_taken_by_one_subscription_as_a_whole"],
    ),
    (
        "pool.submit-wake",
        "a task is submitted without a wake-up",
        &["threads::a_message_wakes_the_worker_and_the_drain_ends_the_threads"],
    ),
    (
        "pool.stop-wake",
        "the pool stops without a wake-up",
        &["threads::an_idle_worker_ends_with_its_broker"],
    ),
    (
        "timer.wake",
        "an earlier deadline is set without a wake-up",
        &["threads::a_retry_wakes_the_timer_and_the_timer_a_worker"],
    ),
    (
        "timer.one-look",
        "the outlook is taken in two looks",
        &["threads::a_retry_wakes_the_timer_and_the_timer_a_worker"],
    ),
    (
        "pull.tenant",
        "a lease is settled by the slot alone",
        &["pull::an_old_lease_and_its_timer_leave_the_next_tenant_alone"],
    ),
    (
        "pull.one-step",
        "leases are looked at in one step and taken out in another",
        &["pull::an_ack_of_a_batch_and_the_deadline_settle_all_of_it_once"],
    ),
    (
        "pull.overdue",
        "the alarm ends every lease",
        &["pull::a_timer_that_fires_for_an_extended_lease_does_not_end_it"],
    ),
    (
        "pull.count-arrived",
        "arrivals are not counted",
        &["pull::a_receiver_that_falls_asleep_hears_of_a_message"],
    ),
    (
        "pull.wake-news",
        "no receiver hears of news",
        &["pull::a_receiver_that_falls_asleep_hears_of_a_message"],
    ),
    (
        "pull.wake-room",
        "no receiver hears of a credit",
        &["pull::two_receivers_share_one_credit"],
    ),
    (
        "pull.wake-end",
        "no receiver hears of the end",
        &["pull::a_receiver_that_waits_hears_of_the_end"],
    ),
    (
        "replies.wake",
        "a reply wakes no requester",
        &["requests::a_requester_that_falls_asleep_hears_of_the_reply"],
    ),
    (
        "schedule.cancelled",
        "a schedule that was cancelled while it ticked goes on",
        &["requests::a_schedule_that_is_cancelled_while_it_ticks_is_gone"],
    ),
];

/// A model that a mutant makes run on and on has not seen it.
const LIMIT: Duration = Duration::from_secs(120);

#[test]
fn the_table_has_every_mutant_in_the_source() {
    let table: BTreeSet<_> = MUTANTS.iter().map(|(id, ..)| (*id).to_owned()).collect();
    assert_eq!(table.len(), MUTANTS.len(), "a mutant is listed twice");
    let mut source = BTreeSet::new();
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("../src");
    collect_ids(&src, &mut source);
    assert_eq!(table, source);
}

fn collect_ids(under: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(under).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect_ids(&path, found);
            continue;
        }
        let text = fs::read_to_string(&path).unwrap_or_default();
        if !text.contains("mutant!(") && !text.contains("in_order!(") {
            continue;
        }
        let shipped = text.split("#[cfg(test)]").next().unwrap_or_default();
        let lines = shipped
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"));
        let quoted = lines.flat_map(|line| line.split('"').skip(1).step_by(2));
        found.extend(quoted.filter(|text| is_id(text)).map(str::to_owned));
    }
}

/// Two words with a dot between them: a file with mutants has no other such string.
fn is_id(text: &str) -> bool {
    let is_word = |word: &str| {
        !word.is_empty()
            && word
                .chars()
                .all(|letter| letter.is_ascii_lowercase() || letter == '-')
    };
    text.split_once('.')
        .is_some_and(|(place, what)| is_word(place) && is_word(what))
}

#[test]
#[ignore = "takes minutes; cargo loom -- --ignored"]
fn every_mutant_is_seen_by_its_models() {
    let only = env::var("MUTANT").unwrap_or_default();
    let chosen = MUTANTS.iter().filter(|(id, ..)| id.contains(&only));
    let pairs = chosen.flat_map(|mutant| mutant.2.iter().map(move |model| (mutant, model)));
    let left = Mutex::new(pairs);
    let survivors = Mutex::new(Vec::new());
    let work = || {
        loop {
            let Some(((id, what, _), model)) = left.lock().unwrap().next() else {
                return;
            };
            let began = Instant::now();
            let verdict = try_mutant(id, model);
            let took = began.elapsed();
            println!("| {id}: {what} | {model} | {verdict} | {took:.1?} |");
            if !matches!(verdict, Verdict::Seen(_)) {
                survivors.lock().unwrap().push((id, model, verdict));
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

/// Runs the model with the mutant in a process of its own: loom often aborts.
fn try_mutant(id: &str, model: &str) -> Verdict {
    let worker = (std::process::id(), thread::current().id());
    let said = env::temp_dir().join(format!("millstream-{worker:?}"));
    let mut child = Command::new(env::current_exe().unwrap())
        .args(["--exact", model, "--nocapture"])
        .env("MILLSTREAM_MUTANT", id)
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
