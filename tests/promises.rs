//! The promises of the README, a file for each. They share one program, which is built
//! once, where each file of its own took as long as this.

#[cfg(feature = "async")]
mod r#async;
#[cfg(feature = "async")]
mod async_handlers;
#[cfg(feature = "async")]
mod async_runtimes;
mod at_least_once;
mod attach;
mod attempts;
mod breaker;
mod broker_dead_letters;
mod buffered;
mod cancel_delayed;
mod conflation;
mod conservation;
mod dedup;
mod drain;
mod drain_pipeline;
mod drain_topic;
#[cfg(feature = "log")]
mod durable;
#[cfg(feature = "log")]
mod durable_attempts;
#[cfg(feature = "log")]
mod durable_dedup;
#[cfg(feature = "log")]
mod durable_delayed;
#[cfg(feature = "log")]
mod durable_shapes;
mod expiry;
mod failures_at_the_end;
mod fair_shares;
mod filter;
mod groups;
mod handler_timeout;
mod handles;
mod harness;
mod hostile_handlers;
mod incident;
mod isolation;
mod kept_alive;
mod lag;
mod latencies;
mod letter_subscribers;
mod lifecycle_events;
mod limits;
mod live_changes;
mod messages;
mod modes;
mod names_and_settings;
mod no_subscribers;
mod observe_only;
mod options;
mod order;
mod order_under_failure;
#[cfg(feature = "log")]
mod outbox;
mod overflow;
mod overflow_conflate;
mod overflow_letters;
mod owned_events;
#[cfg(feature = "parallel")]
mod parallel;
mod partitions;
mod patterns;
mod pause;
mod payloads;
mod pools;
mod priorities;
mod publish_rate;
mod pull;
mod pull_batches;
mod receive_errors;
#[cfg(feature = "async")]
mod redrive_async;
mod redrive_options;
mod request_reply;
mod requeue;
mod retain_last;
mod retry;
mod retry_now;
mod schedules;
mod several_brokers;
mod snooze;
mod starts;
mod strategy_swap;
mod timers;
mod tracked;
mod unsubscribe;
#[cfg(feature = "async")]
mod unsubscribe_async;
mod weight;
