//! Serves from tokio: tasks publish with backpressure, pull, and a handler uses tokio's timers.
//!
//! Millstream knows no runtime; any would do. The broker's own workers poll async handlers. The
//! hook `around_polls` enters tokio for them, so that its timers and sockets work there. Run the
//! example with `cargo run --example 18_tokio_service --features async`.

use std::error::Error;
use std::time::Duration;

use millstream::error::StaleError;
use millstream::pull::LeaseStream;
use millstream::{Broker, Nack, Overflow, Pull};
use tokio::runtime::Handle;
use tokio::time::{sleep, timeout};

const REQUESTS: u32 = 1_000;
const SECOND: Duration = Duration::from_secs(1);

/// Handles requests until the subscription ends. Returns how many leases it has settled.
async fn serve(mut requests: LeaseStream<u32>) -> Result<u32, StaleError> {
    let mut settled = 0;
    while let Some(lease) = requests.next().await {
        tokio::task::yield_now().await; // the work
        match (*lease.payload(), lease.attempt()) {
            (100, 1) => lease.nack(Nack::retry_after(SECOND / 100, "busy"))?,
            _ => lease.ack()?,
        }
        settled += 1;
    }
    Ok(settled)
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<(), Box<dyn Error>> {
    let runtime = Handle::current();
    let broker = Broker::builder()
        .workers(1)
        .around_polls(move |poll| {
            let _entered = runtime.enter();
            poll();
        })
        .build()?;
    let block = Overflow::Block { timeout: SECOND };
    let requests = broker.topic::<u32>("requests").capacity(16).overflow(block);
    let requests = requests.open()?;

    // Four tasks of tokio pull.
    let pull = Pull::default().credits(8).ack_deadline(30 * SECOND);
    let service = requests.subscription("service").capacity(16).pull(pull)?;
    let tasks = [(); 4].map(|()| tokio::spawn(serve(service.stream())));

    // The broker calls an async handler: up to 64 calls in flight, on its one worker.
    let audit = requests.subscription("audit");
    let _audit = audit.concurrency(64).subscribe_async(async |request| {
        timeout(SECOND, sleep(Duration::from_millis(1))).await?; // it works: tokio is entered
        match request.attempt() {
            1 if *request.payload() == 200 => Err(Nack::retry_after(SECOND / 100, "busy")),
            _ => Ok(()),
        }
    })?;

    for number in 0..REQUESTS {
        requests.publish_async(number).await?; // waits for room, and blocks no thread
    }
    let report = broker.drain_async(30 * SECOND).await?;
    println!("{report}");
    let mut settled = 0;
    for task in tasks {
        settled += task.await??;
    }
    assert_eq!(report.delivered, 2 * u64::from(REQUESTS));
    assert_eq!(settled, REQUESTS + 1, "one was tried twice");
    Ok(())
}
