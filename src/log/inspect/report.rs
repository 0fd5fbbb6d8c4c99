//! The report on a salvage: all that is lost.

use std::fmt;
use std::ops::Range;

use crate::log::inspect::info::{Counted, Damage, Inclusive};
use crate::log::inspect::survey::Survey;
use crate::pure::log::ranges::missing;
use crate::types::error::store::StoreError;

/// A list of all that a salvage has found to be lost.
///
/// Its [`Display`](fmt::Display) is a text of several lines for an operator.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Salvage {
    /// The parts of the log that can't be used.
    pub damages: Vec<Damage>,
    /// The topics that have lost messages.
    pub topics: Vec<LostMessages>,
    /// The subscriptions that are affected.
    pub subscriptions: Vec<AffectedSubscription>,
    /// Records about subscriptions of which nothing else is left. They are lost.
    pub unplaced: u64,
    /// The names that the damaged files have now, in the store's directory.
    pub kept: Vec<String>,
}

/// The messages that a topic has lost.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LostMessages {
    /// The topic's name. It is `unnamed-` and a number if the name is lost, too.
    pub topic: String,
    /// The numbers of messages that are lost for sure, in order.
    pub lost: Vec<Range<u64>>,
    /// Numbers that other lost messages may have had. At most so many more are lost. They are not
    /// given again.
    pub skipped: Option<Range<u64>>,
}

/// A subscription that damage affects.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AffectedSubscription {
    /// The name of its topic.
    pub topic: String,
    /// Its name.
    pub name: String,
    /// How many of the messages that are lost for sure it was not done with. It never gets them.
    pub missed: u64,
    /// Whether the end of its cursor's history may be lost. Messages that it was done with may come
    /// again then, and dead letters that were redriven or purged may be back.
    pub may_repeat: bool,
}

impl Salvage {
    /// Reports on a log.
    pub(crate) fn of(survey: &Survey) -> Self {
        let mended = &survey.mended;
        let ranges = |lost: &[(u64, u64)]| lost.iter().map(|(from, to)| *from..*to).collect();
        let topics = mended.state.topics().filter_map(|(id, topic)| {
            let gaps = mended.topics.get(&id)?;
            let is_whole = gaps.lost.is_empty() && gaps.skipped.is_none();
            (!is_whole).then(|| LostMessages {
                topic: topic.name.to_string(),
                lost: ranges(&gaps.lost),
                skipped: gaps.skipped.map(|(from, to)| from..to),
            })
        });
        let subscriptions = mended.state.subscriptions().filter_map(|(_, one)| {
            let gaps = mended.topics.get(&one.topic)?;
            let missed = gaps.lost.iter().flat_map(|(from, to)| {
                let open = missing(&one.done, *from, *to);
                open.into_iter().map(|(from, to)| to - from)
            });
            let missed = missed.sum();
            (missed > 0 || mended.in_doubt).then(|| AffectedSubscription {
                topic: mended
                    .state
                    .topic(one.topic)
                    .map_or_else(String::new, |topic| topic.name.to_string()),
                name: one.name.to_string(),
                missed,
                may_repeat: mended.in_doubt,
            })
        });
        Self {
            damages: survey.damages.clone(),
            topics: topics.collect(),
            subscriptions: subscriptions.collect(),
            unplaced: mended.unplaced,
            kept: Vec::new(),
        }
    }

    /// Adds the damage that an error tells of, if nothing else tells of any.
    pub(crate) fn or(mut self, error: &StoreError) -> Self {
        if let StoreError::Damaged {
            segment,
            offset,
            lsn,
        } = *error
            && self.damages.is_empty()
        {
            self.damages.push(Damage {
                segment,
                offset,
                bytes: 0,
                lsns: lsn..lsn,
            });
        }
        self
    }

    /// Returns whether nothing is lost.
    pub(crate) fn is_empty(&self) -> bool {
        self.damages.is_empty() && self.topics.is_empty()
    }
}

impl fmt::Display for Salvage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "damage:")?;
        for damage in &self.damages {
            writeln!(f, "  {damage}")?;
        }
        if self.topics.is_empty() && self.subscriptions.is_empty() {
            writeln!(f, "no message and no cursor is lost")?;
        }
        for topic in &self.topics {
            writeln!(f, "{topic}")?;
        }
        for subscription in &self.subscriptions {
            writeln!(f, "{subscription}")?;
        }
        if self.unplaced > 0 {
            let records = Counted(self.unplaced, "record");
            writeln!(f, "{records} of unknown subscriptions are lost")?;
        }
        if !self.kept.is_empty() {
            writeln!(f, "the damaged files are kept as:")?;
            for name in &self.kept {
                writeln!(f, "  {name}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for LostMessages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            topic,
            lost,
            skipped,
        } = self;
        write!(f, "topic `{topic}`: ")?;
        let count: u64 = lost.iter().map(|range| range.end - range.start).sum();
        if count > 0 {
            write!(f, "{} lost", Counted(count, "message"))?;
        }
        for (at, range) in lost.iter().enumerate() {
            let before = if at == 0 { ": " } else { ", " };
            write!(f, "{before}{}", Inclusive(range))?;
        }
        let Some(skipped) = skipped else {
            return Ok(());
        };
        let before = if count > 0 { "; perhaps" } else { "perhaps" };
        let more = if count > 0 { "more" } else { "messages" };
        write!(
            f,
            "{before} {more} from {} on, so the next number is {}",
            skipped.start, skipped.end
        )
    }
}

impl fmt::Display for AffectedSubscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { topic, name, .. } = self;
        write!(f, "subscription `{name}` of `{topic}`: ")?;
        let missed = Counted(self.missed, "lost message");
        match (self.missed, self.may_repeat) {
            (0, _) => write!(f, "its cursor may be behind"),
            (_, false) => write!(f, "it will not get {missed}"),
            (_, true) => write!(f, "it will not get {missed}; its cursor may be behind"),
        }
    }
}
