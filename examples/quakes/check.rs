//! What must have happened, worked out from the file alone, against what did.

use millstream::Metrics;
use millstream::metrics::{DrainReport, SubscriptionMetrics};

use crate::pipeline::{Catalog, DETECTED, SIGNIFICANT};
use crate::quake::Quake;

/// One fact, known from both sides.
pub struct Fact {
    pub what: &'static str,
    pub expected: u64,
    pub found: u64,
}

impl Fact {
    pub fn holds(&self) -> bool {
        self.expected == self.found
    }
}

/// Counts that the engine had no part in.
pub struct Expected {
    ids: Vec<String>,
    significant: u64,
    made_by_people: u64,
    tripping: u64,
}

impl Expected {
    pub fn of(quakes: &[Quake]) -> Self {
        let count = |which: fn(&Quake) -> bool| quakes.iter().filter(|q| which(q)).count() as u64;
        Self {
            ids: quakes.iter().map(|quake| quake.id.clone()).collect(),
            significant: count(Quake::is_significant),
            made_by_people: count(|quake| quake.made_by_people().is_some()),
            tripping: count(|quake| quake.is_significant() && quake.trips_the_pager()),
        }
    }

    /// Everything that must hold after the replay, besides the engine's own laws.
    pub fn compare(
        &self,
        metrics: &Metrics,
        catalog: &Catalog,
        archived: &[String],
        drained: &DrainReport,
    ) -> Vec<Fact> {
        let all = self.ids.len() as u64;
        let in_order = self.ids.iter().zip(archived).filter(|(a, b)| a == b);
        let published = |topic| metrics.topic(topic).map_or(0, |topic| topic.published);
        let on = |topic, name| {
            let topic = metrics.topic(topic)?;
            topic.subscription(name).cloned()
        };
        let lane = |topic, name| -> SubscriptionMetrics { on(topic, name).unwrap_or_default() };
        let seismologist = lane(DETECTED, "seismologist").counts;
        let pager = lane(SIGNIFICANT, "pager").counts;
        let fact = |what, expected, found| Fact {
            what,
            expected,
            found,
        };
        vec![
            fact("events accepted", all, published(DETECTED)),
            fact(
                "cataloged, over all networks",
                all,
                catalog.networks.values().sum(),
            ),
            fact("archived", all, archived.len() as u64),
            fact("archived in the file's order", all, in_order.count() as u64),
            fact(
                "studied by the seismologist",
                all - self.made_by_people,
                seismologist.delivered,
            ),
            fact(
                "refused as made by people",
                self.made_by_people,
                seismologist.dead_lettered,
            ),
            fact(
                "passed on by triage",
                self.significant,
                published(SIGNIFICANT),
            ),
            fact("paged", self.significant, pager.delivered),
            fact(
                "pages that failed once, then succeeded",
                self.tripping,
                pager.retried,
            ),
            fact(
                "messages in the drain's report",
                all + self.significant,
                drained.dispatched,
            ),
        ]
    }
}
