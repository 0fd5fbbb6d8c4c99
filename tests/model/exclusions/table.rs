//! The table itself. Rules for settings apply in this order.

use super::Rule::{Judged, Never, Setup, Step};
use super::{Exclusion, rules};

pub const EXCLUSIONS: &[Exclusion] = &[
    Exclusion {
        what: "full lanes, evictions, batches, BlockSubscription, holds and conflation in a topic that is \
               split",
        why: "between partitions there is no order, so that which message comes first, finds no \
              room or is the oldest nobody promises",
        by: Setup(rules::split_topics_have_room),
        held_by: &[
            "partitions::full_lanes_hold_several_dispatchers_back_and_lose_nothing",
            "partitions::a_lane_that_is_full_is_shared_by_all_partitions_and_starves_none",
            "partitions::drop_oldest_takes_from_the_messages_own_partition_first",
        ],
    },
    Exclusion {
        what: "a weight limit of a topic that is split",
        why: "its messages with keys go alone, and the others as far as they fit",
        by: Setup(rules::split_topics_do_not_weigh),
        held_by: &["weight::messages_fit_up_to_the_limit_and_go_when_they_are_dispatched"],
    },
    Exclusion {
        what: "what a topic that is split keeps for subscriptions that come late",
        why: "which of its messages are the last depends on the order between partitions",
        by: Setup(rules::split_topics_keep_nothing),
        held_by: &["retain_last::partitions_share_what_is_kept_and_each_keeps_its_order"],
    },
    Exclusion {
        what: "another capacity of a topic that is split, and evictions that begin where it collects",
        why: "the same as for such topics that are made so",
        by: Step(rules::split_topics_and_evictions_of_batches_stay),
        held_by: &[
            "live_changes::a_raised_capacity_holds_far_more_than_the_queue_was_allocated_for_in_order",
            "live_changes::a_topic_comes_to_drop_its_oldest_and_ceases_to",
        ],
    },
    Exclusion {
        what: "lanes that get smaller, or another policy, and times to live that change",
        why: "which deliveries a lane then has is not the model's to say",
        by: Never,
        held_by: &[
            "live_changes::a_lane_with_more_room_lets_its_topic_go_on_and_one_with_less_drops_nothing",
            "live_changes::a_topic_that_waits_for_a_full_lane_goes_on_when_the_lane_is_to_drop",
            "live_changes::a_time_to_live_holds_for_messages_accepted_from_then_on",
        ],
    },
    Exclusion {
        what: "keys, several hands, groups and pull where a full lane drops",
        why: "the model does not predict which deliveries such a lane has",
        by: Setup(rules::dropping_lanes_are_plain),
        held_by: &[
            "overflow::a_full_lane_drops_the_oldest_of_those_that_nobody_has_pulled",
            "overflow::a_full_lane_of_several_hands_drops_the_oldest_of_those_that_wait_for_one",
            "requeue::what_was_requeued_is_not_dropped_to_make_room",
        ],
    },
    Exclusion {
        what: "which deliveries a full lane drops or dead-letters",
        why: "that depends on how many messages travel together, which nobody promises; checked is \
              that there are as many as were dispatched, never more than the capacity at once, \
              first attempts in accept order, and attempts without gaps and only after failures",
        by: Judged,
        held_by: &[
            "overflow::a_full_lane_that_drops_the_newest_keeps_what_it_has",
            "overflow::a_full_lane_that_drops_its_oldest_keeps_the_newest",
            "overflow::a_full_lane_that_dead_letters_can_be_redriven",
        ],
    },
    Exclusion {
        what: "keys that wait, several hands, groups, pull and full lanes where a lane conflates",
        why: "the model does not predict which deliveries such a lane has",
        by: Setup(rules::conflating_lanes_are_plain_and_roomy),
        held_by: &[
            "conflation::every_kind_of_consumer_gets_the_newest_only",
            "conflation::what_waits_for_its_key_is_replaced_as_well",
            "conflation::a_full_lane_takes_what_replaces_and_follows_its_policy_for_the_rest",
        ],
    },
    Exclusion {
        what: "which deliveries are replaced while a lane goes on",
        why: "that depends on how many messages travel together; checked is that the newest of each \
              key and all without a key are handled, those of a key in order, and that one of each \
              key waits while the lane is held",
        by: Judged,
        held_by: &["conflation::the_newest_of_a_key_takes_the_place_of_the_one_that_waits"],
    },
    Exclusion {
        what: "keys in batch handlers",
        why: "which messages share a batch then depends on who waits for whom",
        by: Setup(rules::batches_mind_no_keys),
        held_by: &[
            "order_under_failure::a_batch_has_one_of_each_key_so_that_none_passes_a_failure",
            "order_under_failure::a_batch_that_is_due_goes_whatever_has_to_wait_for_its_key",
        ],
    },
    Exclusion {
        what: "which messages share a batch that has lingered",
        why: "so which one begins the next is nobody's to know; checked is that none lingers too \
              long, and what is checked of lanes that drop",
        by: Judged,
        held_by: &["strategy_swap::lingering_batches_reach_everybody_in_time_on_threads"],
    },
    Exclusion {
        what: "retries of handlers whose batches linger, and in lanes that conflate, from the beginning",
        why: "the topic would wait for a lane whose contents the model does not predict",
        by: Setup(rules::what_is_not_predicted_never_retries),
        held_by: &["fair_shares::what_comes_back_and_batches_that_are_due_take_turns"],
    },
    Exclusion {
        what: "retries of handlers whose batches linger, and in lanes that conflate, later",
        why: "the topic would wait for a lane whose contents the model does not predict",
        by: Step(rules::what_is_not_predicted_goes_on_never_retrying),
        held_by: &["fair_shares::what_comes_back_and_batches_that_are_due_take_turns"],
    },
    Exclusion {
        what: "a topic's time to live where batches linger",
        why: "which of what lingers shares a batch with what expires is nobody's to know",
        by: Setup(rules::nothing_expires_where_batches_linger),
        held_by: &["expiry::what_lingers_for_a_batch_expires_meanwhile"],
    },
    Exclusion {
        what: "a message's own time to live where batches linger",
        why: "which of what lingers shares a batch with what expires is nobody's to know",
        by: Step(rules::no_message_expires_where_batches_linger),
        held_by: &["model/found::a_message_that_expires_in_the_middle_of_a_batch_is_not_handled"],
    },
    Exclusion {
        what: "pauses and waits of handlers whose batches linger",
        why: "the topic would wait for a lane whose contents the model does not predict",
        by: Step(rules::no_gate_closes_where_batches_linger),
        held_by: &[
            "pause::a_paused_subscription_of_any_kind_is_handed_nothing_until_it_is_resumed",
        ],
    },
    Exclusion {
        what: "rates and breakers of batch handlers, and of lanes that drop or park keys",
        why: "which deliveries share a batch depends on how many may go; what a lane that \
              drops has the model does not predict; those of a parked key follow as far as a lane \
              has looked",
        by: Step(rules::gates_that_count_are_of_lanes_that_are_predicted),
        held_by: &["limits::no_more_deliveries_go_than_the_rate_and_its_burst_let_go"],
    },
    Exclusion {
        what: "breakers of callers that pull",
        why: "a lease counts if it was taken in the present status, which the model does not keep",
        by: Step(rules::no_breaker_of_callers),
        held_by: &["breaker::a_lease_is_a_probe_and_so_are_its_endings"],
    },
    Exclusion {
        what: "how long a breaker is open by itself, and its probes",
        why: "the time is spread at random; a breaker of the model is closed by hand",
        by: Never,
        held_by: &["breaker::an_open_breaker_burns_no_attempt_and_lets_one_probe_pass_at_its_time"],
    },
    Exclusion {
        what: "another rate between a hold-off and the next delivery",
        why: "whether the wait or the rate then holds depends on who has asked since",
        by: Step(rules::no_other_rate_after_a_hold_off),
        held_by: &["limits::a_handler_that_holds_off_gets_nothing_until_the_time_is_up"],
    },
    Exclusion {
        what: "a flush where handlers take batches",
        why: "what is accepted after it may share a batch with what was accepted before",
        by: Step(rules::no_flush_of_batches),
        held_by: &["strategy_swap::a_flush_reaches_the_batches_that_subscriptions_accumulate"],
    },
    Exclusion {
        what: "a full dead-letter store where keys are parked",
        why: "which letters it keeps, and so which keys are parked, depends on the order in which \
              subscriptions get their turns",
        by: Setup(rules::parking_stores_are_roomy),
        held_by: &[
            "order_under_failure::a_small_store_loses_nothing_good_and_no_order",
            "order_under_failure::those_behind_a_parked_key_push_no_letter_out_but_wait_for_room",
        ],
    },
    Exclusion {
        what: "which letters a full store keeps",
        why: "that depends on the order in which subscriptions get their turns; checked is that \
              letters are conserved, and that each was written",
        by: Judged,
        held_by: &["conservation::a_letter_that_leaves_a_full_store_is_counted"],
    },
    Exclusion {
        what: "parked keys where callers pull",
        why: "how many of those behind follow while nobody pulls depends on how they travel",
        by: Setup(rules::callers_park_no_keys),
        held_by: &[
            "pull::what_follows_a_parked_key_is_buried_even_if_nobody_pulls",
            "pull::what_is_exhausted_takes_its_key_along",
        ],
    },
    Exclusion {
        what: "settings that are refused",
        why: "nothing would happen",
        by: Setup(rules::sound),
        held_by: &[
            "order_under_failure::settings_that_make_no_sense_are_refused_when_they_are_made",
            "groups::what_makes_no_sense_is_refused",
            "pull::settings_that_make_no_sense_are_refused",
            "partitions::numbers_that_make_no_sense_are_refused",
        ],
    },
    Exclusion {
        what: "batches of a topic that is split, evicts or has delayed messages",
        why: "what evicts takes away what a plan has counted, and a delayed message fills the \
              topic without waiting in it; whether a plan had been made by then depends on who \
              has looked while lanes were full",
        by: Step(rules::batches_are_of_whole_topics),
        held_by: &[
            "model/found::a_batch_whose_first_message_was_evicted_still_ends_its_linger",
            "partitions::a_batch_is_full_when_its_partition_has_enough",
            "partitions::a_batch_lingers_by_the_age_of_its_partition",
        ],
    },
    Exclusion {
        what: "delayed messages while the topic batches",
        why: "as the other way round",
        by: Step(rules::no_delay_with_batches),
        held_by: &[
            "model/found::a_batch_goes_when_delayed_messages_leave_it_no_room_to_grow",
            "strategy_swap::a_strategy_that_waits_for_ever_is_overruled_when_delayed_messages_fill_the_queue",
        ],
    },
    Exclusion {
        what: "delayed messages where all wait for each other, or callers pull",
        why: "one that is due stands behind younger ones where they arrive, and before them where \
              they have to wait, so that the order depends on who had to",
        by: Step(rules::no_delay_where_the_order_is_that_of_ids),
        held_by: &[
            "timers::tick_by_tick_retries_and_delayed_messages_come_in_the_order_of_their_deadlines",
        ],
    },
    Exclusion {
        what: "delayed messages with keys",
        why: "the same",
        by: Never,
        held_by: &["partitions::a_delayed_message_goes_where_it_belongs_when_it_is_due"],
    },
    Exclusion {
        what: "the redrive of an expired letter while one before it of its key has not been tried",
        why: "nobody says which of the two goes first",
        by: Judged,
        held_by: &["order_under_failure::a_redrive_passes_no_letter_that_has_come_back_meanwhile"],
    },
    Exclusion {
        what: "the redrive of a letter while another delivery of its message is there",
        why: "a subscription that comes again gets what the topic has kept once more; nobody says \
              which of the two goes first",
        by: Judged,
        held_by: &[
            "retain_last::retries_and_letters_of_kept_messages_stay_marked_and_keep_their_parts",
        ],
    },
    Exclusion {
        what: "whether what came back or what is new is leased next",
        why: "the model follows the engine, and judges whether that one could go",
        by: Judged,
        held_by: &["fair_shares::who_pulls_gets_exactly_what_two_queues_by_turns_would_give"],
    },
    Exclusion {
        what: "which member has a key",
        why: "promised is only that each key ranks the members once and for all",
        by: Judged,
        held_by: &["groups::each_delivery_goes_to_one_member_and_each_key_to_the_same"],
    },
    Exclusion {
        what: "requeues",
        why: "the place of what is put back is counted in messages, not in deliveries",
        by: Never,
        held_by: &[
            "requeue::a_requeued_delivery_goes_behind_all_that_the_topic_had_accepted_then",
            "requeue::a_requeued_delivery_stays_the_first_of_its_key_where_order_survives_failures",
        ],
    },
    Exclusion {
        what: "snoozes that handlers ask for",
        why: "what a handler says depends on the message and the attempt, so it would say so for \
              ever; callers that pull ask for them",
        by: Never,
        held_by: &[
            "snooze::a_snoozed_delivery_comes_after_its_time_as_the_same_attempt_and_no_policy_is_asked",
            "snooze::those_behind_a_snoozed_delivery_wait_only_where_order_survives_failures",
        ],
    },
    Exclusion {
        what: "redrives that wait for room, keep to a rate, or go to another topic",
        why: "they need other threads, the time on the wall, or a second topic",
        by: Never,
        held_by: &[
            "redrive_options::a_redrive_waits_for_room_and_no_longer_than_it_may",
            "redrive_options::a_letter_stays_in_its_place_if_the_other_topic_refuses_it",
            "redrive_options::two_that_move_the_same_letters_move_each_once",
            "redrive_async::it_is_woken_when_there_is_room_and_goes_on_with_the_next_letter",
        ],
    },
    Exclusion {
        what: "changes of OnFailure, OnExhausted, hold, credits, deadlines and concurrency",
        why: "what waits by then holds up what it did before",
        by: Never,
        held_by: &[
            "order_under_failure::the_mode_changes_while_deliveries_wait",
            "order_under_failure::a_key_that_is_parked_goes_on_when_parking_ends",
            "pull::credits_and_deadline_can_be_changed_while_leases_are_out",
        ],
    },
    Exclusion {
        what: "levels in lanes that drop, park keys, take batches, block, or are pulled from",
        why: "the model follows the engine, and has to know what the lane has when one is taken",
        by: Setup(rules::levels_choose_from_all),
        held_by: &["priorities::a_full_lane_drops_its_oldest_from_the_lowest_level"],
    },
    Exclusion {
        what: "which level is next where keys wait for each other, and what came back",
        why: "a worker takes a few at once, and a failure among them changes which may go",
        by: Judged,
        held_by: &["priorities::nothing_overtakes_within_a_key_whatever_its_level"],
    },
    Exclusion {
        what: "weighted levels, and aging",
        why: "a model of their own, of what waits in one lane, knows which delivery is next",
        by: Never,
        held_by: &["priorities::shares_under_overload_are_those_of_the_weights_whoever_takes"],
    },
    Exclusion {
        what: "failures under a pattern, and what a pattern that is removed leaves behind",
        why: "each topic has a lane as any other; the model of patterns knows who gets what",
        by: Never,
        held_by: &[
            "patterns::failures_hold_up_their_key_in_their_topic_alone",
            "patterns::what_a_removed_pattern_leaves_is_cancelled_dead_lettered_or_drained",
        ],
    },
    Exclusion {
        what: "publishers that block or buffer",
        why: "a broker without workers refuses the first; the second are chunks as any other",
        by: Never,
        held_by: &[
            "overflow::a_blocked_publisher_goes_on_as_soon_as_there_is_room",
            "buffered::a_full_buffer_goes_as_one_chunk",
        ],
    },
    Exclusion {
        what: "async and parallel handlers",
        why: "they need more than the test's thread",
        by: Never,
        held_by: &[
            "async_handlers::a_manual_broker_runs_them_too",
            "parallel::each_call_fails_for_itself_and_is_retried_alone",
        ],
    },
    Exclusion {
        what: "observers",
        why: "another property test compares the books with what they hear",
        by: Never,
        held_by: &["conservation::whatever_happens_the_books_balance_and_agree_with_the_events"],
    },
    Exclusion {
        what: "jitter, classifiers and policies of the user's own",
        why: "the model has the shapes of delays; the rest is one call each",
        by: Never,
        held_by: &[
            "retry::jitter_repeats_with_the_brokers_seed_on_any_number_of_threads",
            "retry::a_classifier_can_tell_errors_apart_by_their_type",
            "retry::a_policy_of_the_users_own_decides_and_sees_what_it_needs",
        ],
    },
];
