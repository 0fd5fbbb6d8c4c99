//! Bad input is refused where it is given, with an error that says what is wrong,
//! and a payload that is refused comes back. An option that could never take
//! effect is bad input. Absurd durations are none: they mean "for ever".

use std::time::{Duration, Instant};

use crate::harness::{HANG, advance, assert_balanced, assert_rests_balanced, manual, threaded};
use millstream::dead_letters::DeadLetterOverflow;
use millstream::error::{
    BuildError, NameError, OpenError, PartitionsError, RemoveError, SettingError, SubscribeError,
};
use millstream::retry::{Decision, FailedAttempt, RetryPolicy};
use millstream::strategy::{Backlog, Plan, Strategy};
use millstream::{
    Backoff, Batched, Broker, Idle, LaneFull, MAX_NAME_LEN, ManualClock, Nack, NoSubscribers,
    OnExhausted, OnExpired, OnFailure, Overflow, PublishError, Pull, Topic, TopicBuilder,
    Unsubscribe, Unsubscribed,
};

const MS: Duration = Duration::from_millis(1);
const HUGE: usize = (1 << 24) + 1;

/// The name of the setting that a broker, topic or subscription was refused for.
trait Culprit {
    fn culprit(self) -> &'static str;
}

impl Culprit for BuildError {
    fn culprit(self) -> &'static str {
        match self {
            Self::Invalid(invalid) => invalid.setting(),
            other => panic!("{other:?}"),
        }
    }
}

impl Culprit for OpenError {
    fn culprit(self) -> &'static str {
        match self {
            Self::Invalid(invalid) => invalid.setting(),
            Self::Clash { setting, .. } => setting,
            other => panic!("{other:?}"),
        }
    }
}

impl Culprit for SubscribeError {
    fn culprit(self) -> &'static str {
        match self {
            Self::Invalid(invalid) => invalid.setting(),
            other => panic!("{other:?}"),
        }
    }
}

// Names.

fn bad_names() -> Vec<(String, NameError)> {
    let character = |found, at| NameError::Character { found, at };
    let empty = |at| NameError::EmptyLevel { at };
    let long = MAX_NAME_LEN + 1;
    vec![
        (String::new(), NameError::Empty),
        ("x".repeat(long), NameError::TooLong { len: long }),
        ("a b".into(), character(' ', 1)),
        ("a/b".into(), character('/', 1)),
        ("a\0".into(), character('\0', 1)),
        ("a\n".into(), character('\n', 1)),
        ("bücher".into(), character('ü', 1)),
        ("*".into(), character('*', 0)),
        ("a.>".into(), character('>', 2)),
        (".".into(), empty(0)),
        (".a".into(), empty(0)),
        ("a.".into(), empty(2)),
        ("a..b".into(), empty(2)),
    ]
}

#[test]
fn names_of_topics_and_subscriptions_keep_one_grammar() {
    let (broker, _clock) = manual();
    let topic = broker.topic::<u8>("t").open().unwrap();
    for (name, why) in bad_names() {
        let opened = broker.topic::<u8>(&name).open();
        assert_eq!(
            opened.unwrap_err(),
            OpenError::Name(why.clone()),
            "{name:?}"
        );
        let subscribed = topic.subscribe(&name, |_| Ok(()));
        assert_eq!(
            subscribed.unwrap_err(),
            SubscribeError::Name(why),
            "{name:?}"
        );
    }
    let longest = "x".repeat(MAX_NAME_LEN);
    for name in [
        "a",
        "A-Z_0-9",
        "orders.eu.new",
        "..".replace('.', "a").as_str(),
        &longest,
    ] {
        broker.topic::<u8>(name).open().unwrap();
        topic.subscribe(name, |_| Ok(())).unwrap().detach();
    }
    assert_balanced(&broker);
}

#[test]
fn an_error_of_a_name_reads_as_a_sentence() {
    let (broker, _clock) = manual();
    for (name, why) in bad_names() {
        let error = broker.topic::<u8>(&name).open().unwrap_err();
        assert_eq!(error.to_string(), why.to_string());
        assert!(error.to_string().starts_with("a name "), "{error}");
    }
    assert_balanced(&broker);
}

// Brokers.

#[test]
fn a_broker_that_makes_no_sense_is_not_built() {
    let clock = ManualClock::new();
    let builder = Broker::builder;
    let refused = [
        (builder().workers(1_025), "workers"),
        (builder().workers(usize::MAX), "workers"),
        (builder().workers(1).manual_clock(&clock), "workers"),
        (builder().manual_clock(&clock), "workers"),
        (builder().workers(0).stack_size(1 << 20), "workers"),
        (builder().workers(1).thread_name("a\0b"), "thread_name"),
        (builder().workers(0).thread_name("\0"), "thread_name"),
        (builder().workers(0).idle(Idle::Spin), "workers"),
        (builder().workers(0).event_buffer(0), "event_buffer"),
        (
            builder().workers(0).event_buffer(usize::MAX),
            "event_buffer",
        ),
    ];
    for (builder, culprit) in refused {
        let said = format!("{builder:?}");
        assert_eq!(builder.build().unwrap_err().culprit(), culprit, "{said}");
    }
    let named = Broker::builder()
        .workers(1)
        .thread_name("")
        .build()
        .unwrap();
    assert_rests_balanced(&named);
}

#[test]
fn a_stack_that_the_system_refuses_is_an_error_and_no_panic() {
    let built = Broker::builder().workers(2).stack_size(usize::MAX).build();
    assert!(matches!(
        built,
        Err(BuildError::Spawn(_) | BuildError::Invalid(_))
    ));
}

// Topics.

type Change = fn(TopicBuilder<'_, u8>) -> TopicBuilder<'_, u8>;

#[test]
fn a_topic_that_makes_no_sense_is_not_opened() {
    let (broker, _clock) = manual();
    let refused: [(Change, &str); 12] = [
        (|topic| topic.capacity(0), "capacity"),
        (|topic| topic.capacity(HUGE), "capacity"),
        (|topic| topic.capacity(usize::MAX), "capacity"),
        (|topic| topic.lane_capacity(0), "lane_capacity"),
        (|topic| topic.lane_capacity(HUGE), "lane_capacity"),
        (
            |topic| topic.dead_letter_capacity(0),
            "dead_letter_capacity",
        ),
        (
            |topic| topic.dead_letter_capacity(HUGE),
            "dead_letter_capacity",
        ),
        (|topic| topic.ttl(Duration::ZERO), "ttl"),
        (
            |topic| topic.overflow(Overflow::Block { timeout: MS }),
            "overflow",
        ),
        (|topic| topic.strategy(Batched::of(0)), "batch_size"),
        (
            |topic| topic.retry(Backoff::fixed(MS).max_attempts(0)),
            "max_attempts",
        ),
        (|topic| topic.retry(Backoff::fixed(MS * 2).cap(MS)), "cap"),
    ];
    for (at, (change, culprit)) in refused.into_iter().enumerate() {
        let opened = change(broker.topic::<u8>("t")).open();
        let Err(error) = opened else {
            panic!("case {at} ({culprit}) was accepted");
        };
        assert_eq!(error.culprit(), culprit);
        assert!(
            broker.metrics().topic("t").is_none(),
            "nothing is left of it"
        );
    }
    // The limits themselves are fine, and cost nothing before the first message.
    let largest = broker
        .topic::<u8>("t")
        .capacity(HUGE - 1)
        .lane_capacity(HUGE - 1);
    largest.dead_letter_capacity(HUGE - 1).open().unwrap();
    assert_balanced(&broker);
}

#[test]
fn a_topic_of_another_type_is_refused_by_an_error_that_names_both() {
    let (broker, _clock) = manual();
    let _t = broker.topic::<u8>("t").open().unwrap();
    let error = broker.topic::<String>("t").open().unwrap_err();
    assert_eq!(
        error,
        OpenError::WrongType {
            topic: "t".into(),
            existing: "u8",
            requested: "alloc::string::String",
        }
    );
    let text = error.to_string();
    assert!(text.contains("u8") && text.contains("String"), "{text}");
    assert_balanced(&broker);
}

#[test]
fn joining_a_topic_with_settings_that_differ_is_a_clash_and_with_equal_ones_is_not() {
    let (broker, _clock) = manual();
    let as_opened: [Change; 8] = [
        |topic| topic.capacity(8),
        |topic| topic.overflow(Overflow::DropOldest),
        |topic| topic.no_subscribers(NoSubscribers::Retain),
        |topic| topic.ttl(MS),
        |topic| topic.on_expired(OnExpired::DeadLetter),
        |topic| topic.lane_capacity(8),
        |topic| topic.dead_letter_capacity(8),
        |topic| topic.dead_letter_overflow(DeadLetterOverflow::EvictNewest),
    ];
    let build = |topic| as_opened.iter().fold(topic, |topic, set| set(topic));
    let _t = build(broker.topic::<u8>("t")).open().unwrap();
    build(broker.topic::<u8>("t")).open().unwrap();
    broker.topic::<u8>("t").open().unwrap();
    for set in as_opened {
        set(broker.topic::<u8>("t")).open().unwrap();
    }
    let otherwise: [(Change, &str); 10] = [
        (|topic| topic.capacity(1_024), "capacity"),
        (|topic| topic.overflow(Overflow::Reject), "overflow"),
        (
            |topic| topic.no_subscribers(NoSubscribers::Discard),
            "no_subscribers",
        ),
        (|topic| topic.ttl(MS * 2), "ttl"),
        (|topic| topic.on_expired(OnExpired::Drop), "on_expired"),
        (|topic| topic.lane_capacity(1_024), "lane_capacity"),
        (
            |topic| topic.dead_letter_capacity(1_024),
            "dead_letter_capacity",
        ),
        (
            |topic| topic.dead_letter_overflow(DeadLetterOverflow::EvictOldest),
            "dead_letter_overflow",
        ),
        (|topic| topic.strategy(Batched::of(2)), "strategy"),
        (|topic| topic.retry(Backoff::none()), "retry"),
    ];
    for (set, culprit) in otherwise {
        let error = set(broker.topic::<u8>("t")).open().unwrap_err();
        assert!(matches!(&error, OpenError::Clash { topic, .. } if topic == "t"));
        assert_eq!(error.culprit(), culprit);
    }
    assert_balanced(&broker);
}

/// Who reports a setting in a form of its own has all parts of the sentence.
#[test]
fn a_refused_setting_says_its_name_its_value_and_the_rule() {
    let (broker, _clock) = manual();
    let OpenError::Invalid(invalid) = broker.topic::<u8>("t").capacity(0).open().unwrap_err()
    else {
        panic!("it is the capacity that is refused");
    };
    let (setting, value, rule) = (invalid.setting(), invalid.value(), invalid.rule());
    assert_eq!((setting, value), ("capacity", "0"));
    assert_eq!(rule, "must be at least 1");
    assert_eq!(
        invalid.to_string(),
        format!("{setting} is {value}, but it {rule}")
    );
}

#[test]
fn what_swaps_in_later_is_checked_like_what_was_there_first() {
    let (broker, _clock) = manual();
    let topic = broker.topic::<u8>("t").capacity(4).open().unwrap();
    let sub = topic.subscribe("s", |_| Ok(())).unwrap();
    let setting = |checked: Result<(), SettingError>| checked.unwrap_err().setting();
    let endless = || Backoff::fixed(MS).max_attempts(0);
    assert_eq!(setting(topic.set_strategy(Batched::of(0))), "batch_size");
    assert_eq!(setting(broker.set_strategy(Batched::of(0))), "batch_size");
    assert_eq!(setting(topic.set_retry(endless())), "max_attempts");
    assert_eq!(setting(sub.set_retry(endless())), "max_attempts");
    assert_eq!(broker.metrics().topic("t").unwrap().strategy, "immediate");
    assert_balanced(&broker);
}

/// What two doors said to one value.
type Doors = (SettingError, SettingError);

/// The refusal of a topic or a subscription.
trait Refusal {
    fn refusal(self) -> SettingError;
}

impl<V: std::fmt::Debug> Refusal for Result<V, OpenError> {
    fn refusal(self) -> SettingError {
        match self {
            Err(OpenError::Invalid(invalid)) => invalid,
            other => panic!("{other:?}"),
        }
    }
}

impl<V: std::fmt::Debug> Refusal for Result<V, SubscribeError> {
    fn refusal(self) -> SettingError {
        match self {
            Err(SubscribeError::Invalid(invalid)) => invalid,
            other => panic!("{other:?}"),
        }
    }
}

impl Refusal for Result<(), SettingError> {
    fn refusal(self) -> SettingError {
        self.expect_err("a setter refuses what its builder does")
    }
}

/// Values that a topic's builder refuses, given to its setters, too.
fn by_topic(broker: &Broker) -> Vec<Doors> {
    let build = || broker.topic::<u8>("new");
    let topic = broker.topic::<u8>("t").capacity(8).partitions(1);
    let topic = topic.open().unwrap();
    let no_batch = || Batched::of(0);
    let mut said = vec![
        (
            build().strategy(no_batch()).open().refusal(),
            topic.set_strategy(no_batch()).refusal(),
        ),
        (
            build().strategy(no_batch()).open().refusal(),
            broker.set_strategy(no_batch()).refusal(),
        ),
        (
            build().ttl(Duration::ZERO).open().refusal(),
            match topic.message(7).ttl(Duration::ZERO).publish() {
                Err(PublishError::Invalid {
                    payload: 7,
                    invalid,
                }) => *invalid,
                other => panic!("{other:?}"),
            },
        ),
    ];
    for partitions in [0, 9, 257, usize::MAX] {
        let set = match topic.set_partitions(partitions) {
            Err(PartitionsError::Invalid(invalid)) => invalid,
            other => panic!("{other:?}"),
        };
        let built = build().capacity(8).partitions(partitions).open();
        said.push((built.refusal(), set));
    }
    for retry in useless_policies() {
        said.push((
            build().retry(retry.clone()).open().refusal(),
            topic.set_retry(retry).refusal(),
        ));
    }
    said
}

fn useless_policies() -> [Backoff; 3] {
    [
        Backoff::fixed(MS).max_attempts(0),
        Backoff::fixed(MS * 2).cap(MS),
        Backoff::fixed(MS).max_elapsed(Duration::ZERO),
    ]
}

/// The same for subscriptions with handlers, and to patterns.
fn by_subscription(broker: &Broker) -> Vec<Doors> {
    use OnFailure::{BlockKey, BlockSubscription};
    let topic = broker.topic::<u8>("t").lane_capacity(8).open().unwrap();
    let ok = |_: &millstream::Delivery<'_, u8>| Ok(());
    let build = || topic.subscription("new");
    let plain = topic.subscribe("plain", ok).unwrap();
    let of_topics = || broker.subscription::<u8>("new").matching("t");
    let pattern = broker.subscription::<u8>("pattern").matching("t");
    let pattern = pattern.subscribe(ok).unwrap();
    let mut said = Vec::new();
    for retry in useless_policies() {
        said.push((
            build().retry(retry.clone()).subscribe(ok).refusal(),
            plain.set_retry(retry.clone()).refusal(),
        ));
        said.push((
            of_topics().retry(retry.clone()).subscribe(ok).refusal(),
            pattern.set_retry(retry).refusal(),
        ));
    }
    // What a failure means, in a lane that drops.
    for when_full in [LaneFull::DropOldest, LaneFull::DeadLetter] {
        let name = format!("{when_full:?}");
        let drops = topic.subscription(&name).when_full(when_full);
        let drops = drops.subscribe(ok).unwrap();
        let pattern = broker.subscription::<u8>("drops").matching("t");
        let pattern = pattern.when_full(when_full).subscribe(ok).unwrap();
        for mode in [BlockKey, BlockSubscription] {
            let built = build().when_full(when_full).on_failure(mode);
            said.push((
                built.subscribe(ok).refusal(),
                drops.set_on_failure(mode).refusal(),
            ));
            let built = of_topics().when_full(when_full).on_failure(mode);
            said.push((
                built.subscribe(ok).refusal(),
                pattern.set_on_failure(mode).refusal(),
            ));
        }
        pattern.unsubscribe(Unsubscribe::Cancel);
    }
    // Parking without keys that block.
    let parking = OnExhausted::ParkKey;
    said.push((
        build().on_exhausted(parking).subscribe(ok).refusal(),
        plain.set_on_exhausted(parking).refusal(),
    ));
    said.push((
        of_topics().on_exhausted(parking).subscribe(ok).refusal(),
        pattern.set_on_exhausted(parking).refusal(),
    ));
    // How many are set aside.
    let keys = topic
        .subscription("keys")
        .on_failure(BlockKey)
        .subscribe(ok)
        .unwrap();
    for hold in [0, 9, usize::MAX] {
        let built = build().on_failure(BlockKey).hold(hold);
        said.push((built.subscribe(ok).refusal(), keys.set_hold(hold).refusal()));
    }
    let stands = topic
        .subscription("stands")
        .on_failure(BlockSubscription)
        .subscribe(ok)
        .unwrap();
    for hold in [0, 1, 8, 9] {
        let new = || build().hold(hold);
        said.push((
            new().subscribe(ok).refusal(),
            plain.set_hold(hold).refusal(),
        ));
        said.push((
            new().on_failure(BlockSubscription).subscribe(ok).refusal(),
            stands.set_hold(hold).refusal(),
        ));
    }
    said
}

/// The same for those with several hands.
fn by_hands(broker: &Broker) -> Vec<Doors> {
    let topic = broker.topic::<u8>("t").lane_capacity(8).open().unwrap();
    let ok = |_: &millstream::Delivery<'_, u8>| Ok(());
    let build = || topic.subscription("new");
    let at_once = topic
        .subscription("at-once")
        .concurrency(2)
        .subscribe_shared(ok);
    let at_once = at_once.unwrap();
    let group = topic.subscription("group").group().unwrap();
    let member = group
        .member("member")
        .concurrency(2)
        .join_shared(ok)
        .unwrap();
    let one_by_one = || build().on_failure(OnFailure::BlockSubscription);
    let mode = OnFailure::BlockSubscription;
    let mut said = vec![
        (
            one_by_one().concurrency(2).subscribe_shared(ok).refusal(),
            at_once.set_on_failure(mode).refusal(),
        ),
        (
            one_by_one().group().refusal(),
            group.set_on_failure(mode).refusal(),
        ),
    ];
    for hold in [0, 9, usize::MAX] {
        said.push((
            build()
                .hold(hold)
                .concurrency(2)
                .subscribe_shared(ok)
                .refusal(),
            at_once.set_hold(hold).refusal(),
        ));
        said.push((
            build().hold(hold).group().refusal(),
            group.set_hold(hold).refusal(),
        ));
    }
    for concurrency in [0, 1_025, usize::MAX] {
        said.push((
            build()
                .concurrency(concurrency)
                .subscribe_shared(ok)
                .refusal(),
            at_once.set_concurrency(concurrency).refusal(),
        ));
        said.push((
            group
                .member("new")
                .concurrency(concurrency)
                .join_shared(ok)
                .refusal(),
            member.set_concurrency(concurrency).refusal(),
        ));
    }
    said
}

/// The same for those that are pulled.
fn by_pull(broker: &Broker) -> Vec<Doors> {
    use OnFailure::{BlockSubscription, Reorder};
    let topic = broker.topic::<u8>("t").lane_capacity(8).open().unwrap();
    let build = || topic.subscription("new");
    let pull = Pull::default();
    let pulled = topic.subscription("pulled").pull(pull).unwrap();
    let mut said = vec![(
        build().pull(pull.ack_deadline(Duration::ZERO)).refusal(),
        pulled.set_ack_deadline(Duration::ZERO).refusal(),
    )];
    for credits in [0, 9, usize::MAX] {
        said.push((
            build().pull(pull.credits(credits)).refusal(),
            pulled.set_credits(credits).refusal(),
        ));
    }
    // The default gives way to one at a time; a number that was asked for does not.
    pulled.set_on_failure(BlockSubscription).unwrap();
    let one_by_one = || build().on_failure(BlockSubscription);
    for credits in [2, 8, 9] {
        said.push((
            one_by_one().pull(pull.credits(credits)).refusal(),
            pulled.set_credits(credits).refusal(),
        ));
    }
    pulled.set_credits(1).unwrap();
    pulled.set_on_failure(Reorder).unwrap();
    pulled.set_credits(4).unwrap();
    let asked = topic.subscription("asked").pull(pull.credits(4)).unwrap();
    for pulled in [pulled, asked] {
        said.push((
            one_by_one().pull(pull.credits(4)).refusal(),
            pulled.set_on_failure(BlockSubscription).refusal(),
        ));
    }
    said
}

#[test]
fn a_setter_refuses_what_its_builder_refuses_and_says_the_same() {
    let tables: [fn(&Broker) -> Vec<Doors>; 4] = [by_topic, by_subscription, by_hands, by_pull];
    for table in tables {
        let (broker, _clock) = manual();
        for (built, set) in table(&broker) {
            assert_eq!(set, built);
        }
        assert_balanced(&broker);
    }
}

#[test]
fn a_message_that_makes_no_sense_comes_back_and_counts_for_nothing() {
    let (broker, _clock) = manual();
    let topic = broker.topic::<String>("t").ttl(MS).open().unwrap();
    let message = || topic.message("mine".to_owned()).ttl(Duration::ZERO);
    for refused in [message().publish(), message().after(MS).publish()] {
        let refused = refused.unwrap_err();
        assert_eq!(
            refused.to_string(),
            "ttl is zero, but it must be longer, or every message would expire at once"
        );
        assert_eq!(format!("{refused:?}"), "Invalid(..)");
        assert_eq!(refused.into_inner(), "mine");
    }
    let metrics = assert_balanced(&broker);
    let counts = metrics.topic("t").unwrap();
    assert_eq!((counts.published, counts.rejected), (0, 0));
}

// Subscriptions.

#[test]
fn a_subscription_that_makes_no_sense_is_not_made() {
    let (broker, _clock) = manual();
    let topic = broker.topic::<u8>("t").lane_capacity(4).open().unwrap();
    let make = || topic.subscription("s");
    let refused = [
        (make().capacity(0).subscribe(|_| Ok(())), "capacity"),
        (make().capacity(HUGE).subscribe(|_| Ok(())), "capacity"),
        (
            make()
                .retry(Backoff::fixed(MS).max_attempts(0))
                .subscribe(|_| Ok(())),
            "max_attempts",
        ),
        (
            make().subscribe_batches(Batched::of(0), |_| Ok(())),
            "batch_size",
        ),
        (
            make().subscribe_batches(Batched::of(5), |_| Ok(())),
            "batch_size",
        ),
        (
            make()
                .capacity(8)
                .subscribe_batches(Batched::of(9), |_| Ok(())),
            "batch_size",
        ),
        (
            make()
                .capacity(0)
                .subscribe_batches(Batched::of(1), |_| Ok(())),
            "capacity",
        ),
    ];
    for (made, culprit) in refused {
        assert_eq!(made.unwrap_err().culprit(), culprit);
    }
    assert!(topic.metrics().subscriptions.is_empty());
    let _exact = make()
        .capacity(8)
        .subscribe_batches(Batched::of(8), |_| Ok(()));
    let taken = topic.subscribe("s", |_| Ok(())).unwrap_err();
    assert_eq!(taken, SubscribeError::NameTaken { name: "s".into() });
    assert_eq!(taken.to_string(), "the topic has a subscription named s");
    // Another topic has names of its own.
    let other = broker.topic::<u8>("other").open().unwrap();
    other.subscribe("s", |_| Ok(())).unwrap().detach();
    assert_balanced(&broker);
}

// Publishing by name, and removing.

#[test]
fn publishing_by_name_hands_the_payload_back_when_there_is_no_such_topic() {
    let (broker, _clock) = manual();
    let topic = broker.topic::<String>("t").open().unwrap();
    let payload = || "mine".to_owned();
    assert_eq!(broker.publish("t", payload()).unwrap().id().get(), 1);
    for name in ["u", "", "a..b", "\0"] {
        let unknown = broker.publish(name, payload()).unwrap_err();
        assert!(matches!(unknown, PublishError::UnknownTopic(_)), "{name:?}");
        assert_eq!(unknown.into_inner(), "mine");
    }
    let wrong = broker.publish("t", 7_u8).unwrap_err();
    assert!(wrong.to_string().contains("String"), "{wrong}");
    assert!(matches!(
        wrong,
        PublishError::WrongType { payload: 7, existing } if existing.contains("String")
    ));
    drop(topic);
    broker.run_until_idle();
    assert_balanced(&broker);
    broker.remove_topic("t").unwrap();
    let removed = broker.publish("t", payload()).unwrap_err();
    assert!(matches!(removed, PublishError::UnknownTopic(_)));
    assert_balanced(&broker);
}

#[test]
fn no_error_prints_a_payload() {
    let (broker, _clock) = manual();
    let topic = broker.topic::<&str>("t").capacity(1).open().unwrap();
    topic.publish("secret").unwrap();
    let full = topic.publish("secret").unwrap_err();
    let partial = topic.publish_batch(["secret"]).unwrap_err();
    let unknown = broker.publish("u", "secret").unwrap_err();
    for text in [
        format!("{full} {full:?}"),
        format!("{partial} {partial:?}"),
        format!("{unknown} {unknown:?}"),
    ] {
        assert!(!text.contains("secret"), "{text}");
    }
    assert_balanced(&broker);
}

#[test]
fn a_topic_is_removed_only_when_nothing_refers_to_it() {
    let (broker, clock) = manual();
    assert_eq!(broker.remove_topic("t"), Err(RemoveError::Unknown));
    let open = || {
        broker
            .topic::<u8>("t")
            .retry(Backoff::none())
            .open()
            .unwrap()
    };
    let not_empty = |what| Err(RemoveError::NotEmpty { what });
    let (first, second) = (open(), broker.topic::<u8>("t").open().unwrap());
    assert_eq!(
        broker.remove_topic("t"),
        Err(RemoveError::InUse { handles: 2 })
    );
    drop(second);
    let sub = first.subscribe("s", |_| Err(Nack::retry("no"))).unwrap();
    drop(first);
    assert_eq!(broker.remove_topic("t"), not_empty("subscriptions"));
    broker.publish("t", 1_u8).unwrap();
    broker.run_until_idle();
    sub.unsubscribe(Unsubscribe::Cancel);
    assert_eq!(broker.remove_topic("t"), not_empty("dead letters"));
    let topic = broker.topic::<u8>("t").open().unwrap();
    assert_eq!(topic.dead_letters().purge(|_| true), 1);
    topic.publish_after(MS, 1).unwrap();
    drop(topic);
    assert_eq!(broker.remove_topic("t"), not_empty("messages"));
    advance(&broker, &clock, MS);
    assert_eq!(broker.remove_topic("t"), Ok(()));
    assert_eq!(broker.remove_topic("t"), Err(RemoveError::Unknown));
    let metrics = assert_balanced(&broker);
    assert_eq!(metrics.removed.expect("it counts on").published, 2);
    // The name is free for a topic of another type.
    broker.topic::<String>("t").open().unwrap();
    assert_balanced(&broker);
}

// Absurd durations.

/// Waits as long as anybody can.
struct Endless;

impl Strategy for Endless {
    fn plan(&self, _: &Backlog) -> Plan {
        Plan::Wait {
            until_waiting: usize::MAX,
            at_most: Some(Duration::MAX),
        }
    }

    fn name(&self) -> &str {
        "endless"
    }
}

impl RetryPolicy for Endless {
    fn decide(&self, _: &FailedAttempt<'_>) -> Decision {
        Decision::RetryAfter(Duration::MAX)
    }
}

/// Durations that are no mistake but mean "for ever": the longest, those that reach to
/// the last instant of the platform and just not beyond, and the longest in 64 bits of
/// nanoseconds.
fn absurd_durations() -> Vec<Duration> {
    let (mut within, mut beyond) = (Duration::ZERO, Duration::MAX);
    while beyond - within > MS {
        let middle = within + (beyond - within) / 2;
        match Instant::now().checked_add(middle) {
            Some(_) => within = middle,
            None => beyond = middle,
        }
    }
    // Time goes on: what is a little less is out of reach soon, or after a second.
    let just_within = [0, 1, 20, 45, 1_000].map(|less| within - MS * less);
    let longest = [Duration::MAX, Duration::from_nanos(u64::MAX)];
    longest.into_iter().chain(just_within).collect()
}

/// Uses such a duration wherever one can be given.
fn be_absurd(broker: &Broker, absurd: Duration) -> Topic<u8> {
    let topic = broker
        .topic::<u8>("t")
        .ttl(absurd)
        .retry(
            Backoff::exponential(absurd)
                .cap(absurd)
                .max_attempts(u32::MAX),
        )
        .strategy(Batched::of(100).linger(absurd))
        .open()
        .unwrap();
    let retries = [
        Backoff::fixed(absurd),
        Backoff::linear(absurd).max_elapsed(absurd),
        Backoff::exponential(absurd).full_jitter(1),
    ];
    for (at, retry) in retries.into_iter().enumerate() {
        let sub = topic.subscription(&format!("s{at}")).retry(retry);
        sub.subscribe(|_| Err(Nack::retry("no"))).unwrap().detach();
    }
    let sub = topic.subscribe("after", move |_| Err(Nack::retry_after(absurd, "no")));
    sub.unwrap().detach();
    let sub = topic.subscription("own").retry(Endless);
    sub.subscribe(|_| Err(Nack::retry("no"))).unwrap().detach();
    let batches = Batched::of(100).linger(absurd);
    let sub = topic
        .subscription("batches")
        .subscribe_batches(batches, |_| Ok(()));
    sub.unwrap().detach();

    topic.publish(1).unwrap();
    topic.publish_after(absurd, 2).unwrap();
    topic
        .message(3)
        .ttl(absurd)
        .after(absurd)
        .publish()
        .unwrap();
    topic.message(4).ttl(absurd).publish().unwrap();
    broker.run_until_idle();
    topic.set_strategy(Endless).unwrap();
    topic.publish(5).unwrap();
    broker.run_until_idle();
    topic.flush();
    broker.run_until_idle();
    topic
}

#[test]
fn absurd_durations_by_a_manual_clock_mean_for_ever() {
    for absurd in absurd_durations() {
        let (broker, clock) = manual();
        let topic = be_absurd(&broker, absurd);
        assert!(broker.next_deadline().is_some());
        for _ in 0..3 {
            clock.advance(Duration::from_secs(3_600 * 24 * 365 * 90));
            broker.run_until_idle();
        }
        let counts = assert_balanced(&broker).deliveries();
        // Three messages, six subscriptions. A retry at the end of time comes too late
        // for a message that expires there.
        assert_eq!((counts.made, counts.delivered), (18, 3), "{absurd:?}");
        assert_eq!(counts.dead_lettered + counts.dropped + counts.cancelled, 0);
        assert_eq!(topic.metrics().delayed, 2);
        let report = *broker.drain(absurd).unwrap_err().report();
        assert_eq!((report.published, report.remaining), (5, 0));
        assert_balanced(&broker);
    }
}

#[test]
fn a_manual_clock_moved_as_far_as_it_goes_stops_there() {
    let (broker, clock) = manual();
    let topic = broker.topic::<u8>("t").open().unwrap();
    let _s = topic.subscribe("s", |_| Ok(()));
    topic.publish_after(Duration::MAX, 1).unwrap();
    clock.advance(MS);
    clock.advance(Duration::MAX);
    let far = clock.elapsed();
    assert!(far > Duration::from_secs(3_600 * 24 * 365 * 100), "{far:?}");
    broker.run_until_idle();
    clock.advance(Duration::MAX);
    assert!(clock.elapsed() >= far, "a clock doesn't go back");
    broker.run_until_idle();
    assert_balanced(&broker);
}

#[test]
fn where_a_manual_clock_stops_waits_go_on_and_nothing_spins() {
    let (broker, clock) = manual();
    let topic = broker
        .topic::<u8>("t")
        .strategy(Batched::of(2))
        .retry(Backoff::fixed(MS).max_attempts(u32::MAX))
        .open()
        .unwrap();
    let _fails = topic.subscribe("fails", |_| Err(Nack::retry("again and again")));
    let batches = topic.subscription("batches");
    let _batches = batches.subscribe_batches(Batched::of(4), |_| Ok(()));
    let mut buffer = topic.buffered(Batched::of(3)).unwrap();
    clock.advance(Duration::MAX);
    topic.publish(1).unwrap();
    buffer.publish(2).unwrap();
    broker.run_until_idle();
    assert_eq!((topic.metrics().queued, buffer.buffered()), (1, 1));
    buffer.flush().unwrap();
    broker.run_until_idle();
    let waiting = |name| topic.metrics().subscription(name).cloned().unwrap();
    assert_eq!(waiting("fails").counts.awaiting_retry, 2);
    assert_eq!(waiting("batches").queued, 2);
    clock.advance(Duration::MAX);
    broker.run_until_idle();
    assert_eq!(waiting("fails").counts.attempts, 2);
    assert_balanced(&broker);
}

#[test]
fn absurd_durations_on_threads_mean_for_ever() {
    for absurd in absurd_durations() {
        let broker = threaded(2);
        let topic = be_absurd(&broker, absurd);
        // Until its workers have nothing in hand: three messages, five handlers that fail.
        let began = std::time::Instant::now();
        while broker.metrics().deliveries().failed < 15 {
            assert!(began.elapsed() < HANG, "{}", broker.metrics());
            std::thread::yield_now();
        }
        assert!(!broker.wait_until_idle(MS * 20), "retries wait for ever");
        let report = *broker.drain(MS * 20).unwrap_err().report();
        assert_eq!((report.published, report.remaining), (5, 0), "{absurd:?}");
        assert!(matches!(topic.publish(1), Err(PublishError::Closed(1))));
        assert_balanced(&broker);
    }
}

/// Waits with such a limit wherever one can be given, for what is there or comes.
fn wait_absurdly(broker: &Broker, absurd: Duration) {
    let drain = Unsubscribe::Drain { timeout: absurd };
    let ended = |unsubscribed| match unsubscribed {
        Unsubscribed::Ended(last) => last.counts.delivered,
        other => panic!("{other:?}"),
    };
    let topic = broker.topic::<u8>("orders").open().unwrap();
    let sub = topic.subscribe("sub", |_| Ok(())).unwrap();
    let group = topic.subscription("group").group().unwrap();
    let _member = group.join("member", |_| Ok(())).unwrap();
    let pull = Pull::default().ack_deadline(absurd);
    let pull = topic.subscription("pull").pull(pull).unwrap();
    pull.set_ack_deadline(absurd).unwrap();
    let by_pattern = broker.subscription::<u8>("by-pattern");
    let by_pattern = by_pattern.matching("orders").matching("*");
    let by_pattern = by_pattern.subscribe(|_| Ok(())).unwrap();
    for payload in 0..3 {
        topic.publish(payload).unwrap();
    }
    let mut lease = pull.recv_timeout(absurd).unwrap();
    lease.extend(absurd).unwrap();
    lease.ack().unwrap();
    for lease in pull.recv_batch(2, absurd).unwrap() {
        lease.ack().unwrap();
    }
    while pull.metrics().counts.delivered < 3 {
        pull.recv_timeout(absurd).unwrap().ack().unwrap();
    }
    assert!(broker.wait_until_idle(absurd));
    by_pattern.remove("*", drain).unwrap();
    assert_eq!(ended(by_pattern.unsubscribe(drain)), 3);
    assert_eq!(ended(pull.unsubscribe(drain)), 3);
    assert_eq!(ended(group.unsubscribe(drain)), 3);
    assert_eq!(ended(sub.unsubscribe(drain)), 3);
    let report = broker.drain(absurd).unwrap();
    assert_eq!((report.published, report.delivered), (3, 12));
    assert_balanced(broker);
}

#[test]
fn whoever_waits_for_an_absurd_time_waits_for_what_comes() {
    for absurd in absurd_durations() {
        wait_absurdly(&threaded(2), absurd);
        wait_absurdly(&Broker::builder().workers(0).build().unwrap(), absurd);
        wait_absurdly(&manual().0, absurd);
    }
}

#[test]
fn blocking_draining_and_unsubscribing_for_ever_end_when_there_is_room_or_nothing_left() {
    for absurd in absurd_durations() {
        let broker = threaded(1);
        let topic = broker
            .topic::<u8>("t")
            .capacity(1)
            .overflow(Overflow::Block { timeout: absurd })
            .open()
            .unwrap();
        let sub = topic.subscribe("s", |_| Ok(())).unwrap();
        for round in 0..200 {
            topic.publish(round).unwrap();
        }
        assert!(broker.wait_until_idle(absurd));
        let mode = Unsubscribe::Drain { timeout: absurd };
        assert!(
            matches!(sub.unsubscribe(mode), Unsubscribed::Ended(last) if last.counts.delivered == 200)
        );
        let report = broker.drain(absurd).unwrap();
        assert!(report.took < HANG);
        assert_eq!(report.delivered, 200);
        assert_balanced(&broker);
    }
}

/// A payload that can do nothing.
struct Mute;

#[test]
fn handles_ask_nothing_of_their_payload() {
    fn clones_and_prints<H: Clone + std::fmt::Debug>() {}
    fn prints<H: std::fmt::Debug>() {}
    clones_and_prints::<Topic<Mute>>();
    clones_and_prints::<millstream::DeadLetters<Mute>>();
    clones_and_prints::<millstream::dead_letters::DeadLetter<Mute>>();
    clones_and_prints::<millstream::PullSubscription<Mute>>();
    clones_and_prints::<millstream::Delivery<'_, Mute>>();
    prints::<millstream::BufferedPublisher<Mute>>();
    prints::<millstream::ConsumerGroup<Mute>>();
    prints::<millstream::Member>();
    prints::<millstream::Lease<Mute>>();
    prints::<millstream::pull::Leases<'_, Mute>>();
    prints::<millstream::pull::LeaseBatch<Mute>>();
    prints::<millstream::pull::IntoLeases<Mute>>();
    prints::<millstream::DeliveryBatch<'_, Mute>>();
    prints::<millstream::PatternSubscription>();
    prints::<PublishError<Mute>>();
    #[cfg(feature = "async")]
    {
        clones_and_prints::<millstream::OwnedDelivery<Mute>>();
        prints::<millstream::futures::Publish<Mute>>();
        prints::<millstream::pull::Recv<Mute>>();
        prints::<millstream::pull::LeaseStream<Mute>>();
    }
}

#[test]
fn a_name_is_taken_once_among_very_many_and_free_again_when_its_subscription_goes() {
    let (broker, clock) = manual();
    let topic = broker.topic::<u32>("t").open().expect("opens");
    let name = |number: usize| format!("s{number}");
    let subscribe = |number: usize| topic.subscribe(&name(number), |_| Ok(()));
    let mut subscriptions: Vec<_> = (0..300).map(|n| subscribe(n).expect("free")).collect();
    let assert_taken = |number: usize| {
        let refused = subscribe(number).expect_err("it is taken");
        assert!(matches!(refused, SubscribeError::NameTaken { .. }));
    };
    (0..300).for_each(assert_taken);
    // Down to a short list, and up again; from the front, the middle and the end.
    for number in (0..300).filter(|n| n % 7 > 0).rev() {
        let gone = subscriptions.remove(number);
        gone.unsubscribe(Unsubscribe::Cancel);
    }
    assert_eq!(topic.metrics().subscriptions.len(), 43);
    (0..300).filter(|n| n % 7 == 0).for_each(assert_taken);
    let again = (0..300).filter(|n| n % 7 > 0);
    subscriptions.extend(again.map(|n| subscribe(n).expect("free again")));
    (0..300).for_each(assert_taken);
    let pattern = broker.subscription::<u32>(&name(8)).matching("t");
    let refused = pattern.subscribe(|_: &millstream::Delivery<'_, u32>| Ok(()));
    let refused = refused.expect_err("it is taken");
    assert!(matches!(refused, SubscribeError::NameTakenOn { .. }));
    topic.publish(1).expect("there is room");
    broker.run_until_idle();
    assert_eq!(assert_balanced(&broker).deliveries().delivered, 300);
    // One that ends slowly leaves its name to a successor, and a successor of that.
    let slow = |number: u32| {
        let subscribed = topic.subscribe("slow", move |_| Err(Nack::retry_after(MS * number, "")));
        subscribed.expect("its predecessor is ending")
    };
    for number in 1..4 {
        let ending = slow(number);
        topic.publish(2).expect("there is room");
        broker.run_until_idle();
        drop(ending);
    }
    let _last = slow(4);
    topic.subscribe("slow", |_| Ok(())).expect_err("taken");
    advance(&broker, &clock, HANG);
    assert_eq!(topic.metrics().subscriptions.len(), 301);
    assert_balanced(&broker);
}
