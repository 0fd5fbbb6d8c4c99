//! Who listens to what.
//!
//! ```text
//! quakes.detected ─┬─ catalog      counts by network and by magnitude
//!                  ├─ triage ──────> quakes.significant ── pager
//!                  ├─ archive        writes batches to a file
//!                  └─ seismologist   has no use for explosions
//! ```

use std::collections::BTreeMap;
use std::error::Error;
use std::fs::File;
use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use indicatif::ProgressBar;
use millstream::{
    Backoff, Batched, Broker, Delivery, DeliveryBatch, Nack, Overflow, Subscription, Topic,
};

use crate::quake::Quake;

/// Two topics carry it and five handlers read it; nobody needs a copy.
pub type Shared = Arc<Quake>;

pub const DETECTED: &str = "quakes.detected";
pub const SIGNIFICANT: &str = "quakes.significant";

/// What the catalog knows about a network, or about a magnitude.
pub type Counts<K> = BTreeMap<K, u64>;

/// The catalog's aggregates.
#[derive(Default)]
pub struct Catalog {
    pub networks: Counts<String>,
    /// By whole magnitude; `None` for those not measured.
    pub magnitudes: Counts<Option<i64>>,
    pub strongest: Option<Shared>,
}

/// The topics, and the subscriptions that end when this is dropped.
pub struct Pipeline {
    pub detected: Topic<Shared>,
    pub significant: Topic<Shared>,
    pub catalog: Arc<Mutex<Catalog>>,
    _subscriptions: [Subscription; 5],
}

impl Pipeline {
    pub fn build(
        broker: &Broker,
        archive: File,
        screen: ProgressBar,
    ) -> Result<Self, Box<dyn Error>> {
        // A replay must not lose anything, and the file can wait: so does it,
        // whenever the slowest of the subscribers is a queue behind.
        let detected = broker
            .topic::<Shared>(DETECTED)
            .capacity(512)
            .overflow(Overflow::Block {
                timeout: Duration::from_secs(30),
            })
            .open()?;
        // Triage publishes from inside its handler, where nothing ever blocks: a
        // full topic refuses at once. So this one has room to spare, and what is
        // refused all the same is a nack, which means: again, a little later.
        let significant = broker.topic::<Shared>(SIGNIFICANT).capacity(4_096).open()?;
        let retry = Backoff::exponential(Duration::from_millis(5)).jitter();
        let catalog = Arc::new(Mutex::new(Catalog::default()));

        let subscriptions = [
            detected.subscribe("catalog", catalog_to(Arc::clone(&catalog)))?,
            detected
                .subscription("triage")
                .retry(retry.clone().max_attempts(10))
                .subscribe(triage_to(significant.clone()))?,
            detected.subscription("archive").subscribe_batches(
                Batched::of(64).linger(Duration::from_millis(5)),
                archive_to(archive),
            )?,
            detected.subscribe("seismologist", examine)?,
            significant
                .subscription("pager")
                .retry(retry)
                .subscribe(page_on(screen))?,
        ];
        Ok(Self {
            detected,
            significant,
            catalog,
            _subscriptions: subscriptions,
        })
    }
}

fn catalog_to(
    catalog: Arc<Mutex<Catalog>>,
) -> impl FnMut(&Delivery<'_, Shared>) -> Result<(), Nack> {
    move |delivery| {
        let quake = delivery.payload();
        let mut catalog = catalog.lock().unwrap_or_else(PoisonError::into_inner);
        *catalog.networks.entry(quake.net.clone()).or_default() += 1;
        let magnitude = quake.mag.map(|mag| mag.floor() as i64);
        *catalog.magnitudes.entry(magnitude).or_default() += 1;
        let strongest = catalog.strongest.as_ref().and_then(|quake| quake.mag);
        if quake.mag > strongest {
            catalog.strongest = Some(Arc::clone(quake));
        }
        Ok(())
    }
}

fn triage_to(significant: Topic<Shared>) -> impl FnMut(&Delivery<'_, Shared>) -> Result<(), Nack> {
    move |delivery| {
        let quake = delivery.payload();
        if quake.is_significant() {
            significant.publish(Arc::clone(quake))?;
        }
        Ok(())
    }
}

fn archive_to(mut file: File) -> impl FnMut(&mut DeliveryBatch<'_, Shared>) -> Result<(), Nack> {
    move |batch| {
        // One write for the whole batch is the point of taking batches.
        let mut lines = Vec::new();
        for delivery in batch.iter() {
            serde_json::to_writer(&mut lines, &**delivery.payload())?;
            lines.push(b'\n');
        }
        file.write_all(&lines)?;
        Ok(())
    }
}

/// The seismologist studies faults, not people: trying again won't change what
/// shook the ground, so there is no retry.
fn examine(delivery: &Delivery<'_, Shared>) -> Result<(), Nack> {
    match delivery.payload().made_by_people() {
        Some(kind) => Err(Nack::dead_letter(kind.to_owned())),
        None => Ok(()),
    }
}

fn page_on(screen: ProgressBar) -> impl FnMut(&Delivery<'_, Shared>) -> Result<(), Nack> {
    move |delivery| {
        let quake = delivery.payload();
        if delivery.attempt() == 1 && quake.trips_the_pager() {
            return Err(Nack::retry("the pager's gateway timed out"));
        }
        screen.println(format!("page  {}  {}", quake.magnitude(), quake.place()));
        Ok(())
    }
}
