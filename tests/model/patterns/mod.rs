//! Subscriptions to many topics: a program of its own, with a model of its own.
//!
//! Topics are opened and removed, patterns come and go, and plain subscriptions take
//! names. What each topic's deliveries go through is that of any lane, and so not repeated
//! here: the handlers succeed.

mod reference;
mod run;

use millstream::Unsubscribe;
use proptest::prelude::*;

use crate::program::TICK;
use run::Pair;

/// Topics, of which the last has payloads of another type.
const TOPICS: [&str; 6] = ["a", "a.x", "a.y", "b.x", "a.x.q", "b.y"];
const PATTERNS: [&str; 7] = ["a", "a.*", "a.>", "*.x", ">", "*.x.*", "b.y"];
/// The names of subscriptions, be they to patterns or to a topic.
const NAMES: [&str; 2] = ["s", "t"];

#[derive(Clone, Debug)]
enum Step {
    Open(usize),
    RemoveTopic(usize),
    Publish(usize),
    Run,
    /// Subscribes to patterns by this name.
    Follow(usize, Vec<usize>),
    Add(usize, usize),
    Remove(usize, usize, Unsubscribe),
    Unfollow(usize, Unsubscribe),
    /// Subscribes to one topic by this name, or unsubscribes.
    Subscribe(usize, usize),
    Unsubscribe(usize, usize),
}

fn steps() -> impl Strategy<Value = Step> {
    let (topic, pattern, name) = (0..TOPICS.len(), 0..PATTERNS.len(), 0..NAMES.len());
    let mode = prop_oneof![
        Just(Unsubscribe::Cancel),
        Just(Unsubscribe::DeadLetter),
        Just(Unsubscribe::Drain { timeout: TICK }),
    ];
    prop_oneof![
        4 => topic.clone().prop_map(Step::Open),
        2 => topic.clone().prop_map(Step::RemoveTopic),
        8 => topic.clone().prop_map(Step::Publish),
        5 => Just(Step::Run),
        3 => (name.clone(), prop::collection::vec(pattern.clone(), 1..3))
            .prop_map(|(name, patterns)| Step::Follow(name, patterns)),
        3 => (name.clone(), pattern.clone()).prop_map(|(name, at)| Step::Add(name, at)),
        2 => (name.clone(), pattern, mode.clone())
            .prop_map(|(name, at, mode)| Step::Remove(name, at, mode)),
        1 => (name.clone(), mode).prop_map(|(name, mode)| Step::Unfollow(name, mode)),
        1 => (topic.clone(), name.clone()).prop_map(|(topic, name)| Step::Subscribe(topic, name)),
        1 => (topic, name).prop_map(|(topic, name)| Step::Unsubscribe(topic, name)),
    ]
}

proptest! {
    #![proptest_config(crate::config())]

    #[test]
    fn a_pattern_is_subscribed_to_what_it_matches(steps in prop::collection::vec(steps(), 1..50)) {
        let mut pair = Pair::new();
        for step in &steps {
            pair.step(step);
        }
        pair.step(&Step::Run);
    }
}
