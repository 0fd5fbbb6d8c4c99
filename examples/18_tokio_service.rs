//! Serves from tokio: tasks publish with backpressure and handle a stream of leases.
//!
//! Millstream knows no runtime; any would do. Run the example with
//! `cargo run --example 18_tokio_service --features async`.

use std::error::Error;
use std::future::poll_fn;
use std::pin::pin;
use std::time::Duration;

use futures_core::Stream;
use millstream::{Broker, Nack, Overflow, Pull};

const REQUESTS: u32 = 1_000;
const SECOND: Duration = Duration::from_secs(1);

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<(), Box<dyn Error>> {
    let broker = Broker::builder().workers(1).build()?;
    let block = Overflow::Block { timeout: SECOND };
    let requests = broker.topic::<u32>("requests").capacity(16).overflow(block);
    let requests = requests.open()?;
    let pull = Pull::default().credits(8).ack_deadline(30 * SECOND);
    let service = requests.subscription("service").capacity(16).pull(pull)?;

    let handlers: Vec<_> = (0..4)
        .map(|_| {
            let stream = service.stream();
            tokio::spawn(async move {
                let mut stream = pin!(stream);
                let mut handled = 0_u32;
                // With the futures crate: while let Some(lease) = stream.next().await
                while let Some(lease) = poll_fn(|cx| stream.as_mut().poll_next(cx)).await {
                    tokio::task::yield_now().await; // what the service does
                    match (*lease.payload(), lease.attempt()) {
                        (100, 1) => lease.nack(Nack::retry_after(SECOND / 100, "busy"))?,
                        _ => lease.ack()?,
                    }
                    handled += 1;
                }
                Ok::<_, millstream::Stale>(handled)
            })
        })
        .collect();

    for number in 0..REQUESTS {
        requests.publish_async(number).await?; // waits for room, and blocks no thread
    }
    let report = broker.drain_async(30 * SECOND).await?;
    println!("{report}");
    let mut handled = 0;
    for handler in handlers {
        handled += handler.await??;
    }
    assert_eq!(report.delivered, u64::from(REQUESTS));
    assert_eq!(handled, REQUESTS + 1, "one was tried twice");
    Ok(())
}
