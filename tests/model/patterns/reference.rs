//! Topics as lists of messages, and who gets them.

use std::collections::{BTreeMap, BTreeSet};

use super::{NAMES, PATTERNS, TOPICS};

/// One call of a handler: the name of the subscription, topic, payload.
pub type Call = (usize, usize, u64);

/// A topic that is open.
#[derive(Default)]
pub struct Topic {
    /// What waits, by ids, with its payload.
    pub queue: Vec<(u64, u64)>,
    pub issued: u64,
    pub unrouted: u64,
    /// Subscriptions by name, and the last message that came before each.
    pub lanes: BTreeMap<usize, u64>,
    /// The names of those that are to this topic alone.
    pub own: BTreeSet<usize>,
}

#[derive(Default)]
pub struct Model {
    pub topics: BTreeMap<usize, Topic>,
    /// The patterns of each name that follows some, in the order in which they came.
    pub followers: BTreeMap<usize, Vec<usize>>,
    pub calls: Vec<Call>,
    /// Deliveries made for each that follows patterns.
    pub made: BTreeMap<usize, u64>,
}

/// Whether a pattern matches a name, level by level.
fn matches(pattern: &str, name: &str) -> bool {
    let first = |text: &str| match text.split_once('.') {
        Some((first, others)) => (first.to_owned(), Some(others.to_owned())),
        None => (text.to_owned(), None),
    };
    match (first(pattern), first(name)) {
        ((level, None), _) if level == ">" => true,
        ((level, others), (name, more)) if level == "*" || level == name => match (others, more) {
            (Some(others), Some(more)) => matches(&others, &more),
            (others, more) => others.is_none() && more.is_none(),
        },
        _ => false,
    }
}

/// Whether any of these patterns matches a topic; those of another type never do.
fn any_matches(patterns: &[usize], topic: usize) -> bool {
    let is_typed = topic + 1 < TOPICS.len();
    let mut patterns = patterns.iter();
    is_typed && patterns.any(|pattern| matches(PATTERNS[*pattern], TOPICS[topic]))
}

impl Model {
    pub fn open(&mut self, topic: usize) {
        self.topics.entry(topic).or_default();
        self.resolve();
    }

    /// Gives each follower a lane in each topic that it matches, and in no other.
    fn resolve(&mut self) {
        for (at, topic) in &mut self.topics {
            for name in 0..NAMES.len() {
                let patterns = self.followers.get(&name);
                let is_followed = patterns.is_some_and(|patterns| any_matches(patterns, *at));
                let issued = topic.issued;
                if is_followed {
                    topic.lanes.entry(name).or_insert(issued);
                } else if !topic.own.contains(&name) {
                    topic.lanes.remove(&name);
                }
            }
        }
    }

    /// The topics that a name follows.
    pub fn followed(&self, name: usize) -> Vec<&'static str> {
        let topics = self.topics.iter();
        let followed = topics
            .filter(|(_, topic)| topic.lanes.contains_key(&name) && !topic.own.contains(&name));
        let mut names: Vec<_> = followed.map(|(at, _)| TOPICS[*at]).collect();
        names.sort_unstable();
        names
    }

    /// Whether these patterns match a topic in which the name is taken.
    fn clashes(&self, name: usize, patterns: &[usize]) -> bool {
        let mut topics = self.topics.iter();
        topics.any(|(at, topic)| topic.own.contains(&name) && any_matches(patterns, *at))
    }

    /// A name begins to follow patterns. `false`: it can't.
    pub fn follow(&mut self, name: usize, patterns: &[usize]) -> bool {
        if self.followers.contains_key(&name) || self.clashes(name, patterns) {
            return false;
        }
        self.followers.insert(name, Vec::new());
        self.made.insert(name, 0);
        patterns.iter().all(|pattern| self.add(name, *pattern))
    }

    pub fn add(&mut self, name: usize, pattern: usize) -> bool {
        if self.clashes(name, &[pattern]) {
            return false;
        }
        if let Some(patterns) = self.followers.get_mut(&name)
            && !patterns.contains(&pattern)
        {
            patterns.push(pattern);
        }
        self.resolve();
        true
    }

    /// `false`: it has no such pattern.
    pub fn remove(&mut self, name: usize, pattern: usize) -> bool {
        let patterns = self.followers.get_mut(&name);
        let removed = patterns.map_or(0, |patterns| {
            patterns.extract_if(.., |other| *other == pattern).count()
        });
        self.resolve();
        removed > 0
    }

    pub fn unfollow(&mut self, name: usize) {
        self.followers.remove(&name);
        self.resolve();
    }

    pub fn publish(&mut self, topic: usize, payload: u64) {
        if let Some(topic) = self.topics.get_mut(&topic) {
            topic.issued += 1;
            topic.queue.push((topic.issued, payload));
        }
    }

    /// Everything that waits is handled.
    pub fn run(&mut self) {
        for (at, topic) in &mut self.topics {
            for (id, payload) in std::mem::take(&mut topic.queue) {
                let lanes = topic.lanes.iter().filter(|(_, after)| **after < id);
                let names: Vec<_> = lanes.map(|(name, _)| *name).collect();
                topic.unrouted += u64::from(names.is_empty());
                for name in names {
                    self.calls.push((name, *at, payload));
                    if !topic.own.contains(&name) {
                        *self.made.entry(name).or_default() += 1;
                    }
                }
            }
        }
    }
}
