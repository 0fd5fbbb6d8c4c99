//! Looking into a store that nobody has open, without changing it.
//!
//! Reading order: [`info`] has the facts, [`survey`] gathers them, damaged or not, and [`report`] tells
//! what is lost. [`records`] reads one record after another, and [`content`] shows them.

pub(crate) mod content;
pub(crate) mod info;
pub(crate) mod records;
pub(crate) mod report;
pub(crate) mod survey;

use std::path::Path;

use crate::log::fs::Fs;
use crate::log::fs::real::RealFs;
use crate::log::fs::view::View;
use crate::log::inspect::info::{SegmentInfo, SubscriptionInfo, TopicInfo};
use crate::log::inspect::report::Salvage;
use crate::log::inspect::survey::{Survey, plan_in, survey};
use crate::log::recover::{TornTail, recover};
use crate::pure::log::ranges::missing;
use crate::pure::log::salvage::plan::Phase;
use crate::types::error::store::StoreError;

/// The content of a store, from [`inspect`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Inspection {
    /// The number that tells the store from all others.
    pub store: u128,
    /// Whether it can be opened.
    pub health: Health,
    /// Its files, the oldest first.
    pub segments: Vec<SegmentInfo>,
    /// Its topics, the oldest first. Of a damaged store, what is left of them.
    pub topics: Vec<TopicInfo>,
    /// Its durable subscriptions, the oldest first.
    pub subscriptions: Vec<SubscriptionInfo>,
}

/// Whether a store can be opened.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Health {
    /// Everything in it was read and checked.
    Whole,
    /// A crash has left the end of the log unfinished. Opening the store cuts it off. No receipt
    /// of [`Durability::Synced`](crate::store::Durability::Synced) was given for it.
    Torn(TornTail),
    /// Something is lost that was safe. Only [`salvage`](crate::store::StoreBuilder::salvage) opens
    /// the store. This is what it would report.
    Damaged(Salvage),
}

/// Reads and checks everything in a store. Changes nothing.
///
/// It reads every file twice, one at a time. Meanwhile nobody can open the store.
///
/// ```
/// use millstream::store::{self, Health, Store};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let directory = std::env::temp_dir().join(format!("millstream-inspect-{}", std::process::id()));
/// drop(Store::open(&directory)?);
/// let found = store::inspect(&directory)?;
/// assert_eq!(found.health, Health::Whole);
/// for subscription in &found.subscriptions {
///     println!("{} is {} messages behind", subscription.name, subscription.lag);
/// }
/// # std::fs::remove_dir_all(&directory)?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// Returns a [`StoreError`]: `InUse` if the store is open, `Io` if there is none, `Format`, or
/// another. Damage is no error: [`Inspection::health`] tells of it.
pub fn inspect(directory: impl AsRef<Path>) -> Result<Inspection, StoreError> {
    let directory = directory.as_ref();
    inspect_in(&RealFs::open_to_read(directory)?, directory)
}

pub(crate) fn inspect_in(fs: &dyn Fs, directory: &Path) -> Result<Inspection, StoreError> {
    let view = settled(fs, directory)?;
    let survey = survey(&view, directory)?;
    let report = Salvage::of(&survey);
    let health = match recover(&view, directory, &mut drop) {
        Ok(_) if !report.is_empty() => Health::Damaged(report),
        Ok(recovered) => recovered.opened.torn.map_or(Health::Whole, Health::Torn),
        Err(error) if error.can_be_salvaged() => Health::Damaged(report.or(&error)),
        Err(error) => return Err(error),
    };
    let (topics, subscriptions) = contents(&survey);
    Ok(Inspection {
        store: survey.store,
        health,
        segments: survey.segments,
        topics,
        subscriptions,
    })
}

/// Returns the store as it will be when a salvage that was interrupted is undone or completed.
pub(crate) fn settled<'a>(fs: &'a dyn Fs, directory: &Path) -> Result<View<'a>, StoreError> {
    let plan = plan_in(fs, &survey::list(fs, directory)?)?;
    Ok(match plan {
        None => View::new(fs, 0..u64::MAX, None),
        Some(plan) if plan.phase == Phase::Writing => View::new(fs, 0..plan.first, None),
        Some(plan) => View::new(fs, plan.first..u64::MAX, Some(plan.store)),
    })
}

fn contents(survey: &Survey) -> (Vec<TopicInfo>, Vec<SubscriptionInfo>) {
    let state = &survey.mended.state;
    let topics = state.topics().map(|(id, topic)| {
        let gaps = survey.mended.topics.get(&id);
        let numbers = topic.next_seq - topic.first_seq;
        let absent = gaps.map_or(numbers, |gaps| {
            let absent = missing(&gaps.present, topic.first_seq, topic.next_seq);
            absent.iter().map(|(from, to)| to - from).sum()
        });
        TopicInfo {
            name: topic.name.to_string(),
            first_seq: topic.first_seq,
            next_seq: topic.next_seq,
            messages: numbers - absent,
            bytes: survey.bytes.get(&id).copied().unwrap_or(0),
            delayed: topic.delayed.len() as u64,
        }
    });
    let subscriptions = state.subscriptions().filter_map(|(_, one)| {
        let topic = state.topic(one.topic)?;
        // Nobody waits for messages that are not there.
        let there = survey.mended.topics.get(&one.topic)?;
        let open = missing(&one.done, topic.first_seq, topic.next_seq).into_iter();
        let gone = |(from, to)| {
            let absent = missing(&there.present, from, to);
            absent.iter().map(|(from, to)| to - from).sum::<u64>()
        };
        Some(SubscriptionInfo {
            topic: topic.name.to_string(),
            name: one.name.to_string(),
            next_seq: one.done.next(),
            done_above: one.done.gaps() as u64,
            dead_letters: one.letters.len() as u64,
            failed: one.failed.len() as u64,
            lag: open.map(|(from, to)| to - from - gone((from, to))).sum(),
        })
    });
    (topics.collect(), subscriptions.collect())
}
