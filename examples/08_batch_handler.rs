//! Handles batches, and nacks single elements of them.
//!
//! Writing a hundred rows in one go is cheaper than a hundred writes. But one bad
//! row must not fail its neighbors: it is nacked by its place in the batch, and
//! comes back alone.

use std::error::Error;
use std::sync::mpsc;
use std::time::Duration;

use millstream::{Backoff, Batched, Broker, Nack};

const SOON: Duration = Duration::from_secs(10);

fn main() -> Result<(), Box<dyn Error>> {
    let broker = Broker::builder().workers(2).build()?;
    let rows = broker
        .topic::<i64>("rows")
        .retry(Backoff::fixed(Duration::from_millis(2)))
        .open()?;

    let (written, writes) = mpsc::channel();
    let table = rows.subscription("table").subscribe_batches(
        // Four rows, or fewer if the oldest has waited for 5 ms.
        Batched::of(4).linger(Duration::from_millis(5)),
        move |batch| {
            let mut write = Vec::new();
            for (at, delivery) in batch.iter().enumerate() {
                let row = *delivery.payload();
                if row < 0 {
                    batch.nack(at, Nack::dead_letter("negative"));
                } else if row == 7 && delivery.attempt() == 1 {
                    batch.nack(at, Nack::retry("row 7 is locked"));
                } else {
                    write.push(row);
                }
            }
            written.send((batch.len(), write))?;
            Ok(()) // acks every element that was not nacked
        },
    )?;

    rows.publish_batch([1, 2, -3, 4, 5, 6, 7, 8, 9, 10])?;
    assert!(broker.wait_until_idle(SOON));

    let mut stored = Vec::new();
    for (taken, write) in writes.try_iter() {
        println!("a batch of {taken}: wrote {write:?}");
        assert!(taken <= 4);
        stored.extend(write);
    }
    stored.sort_unstable();
    assert_eq!(
        stored,
        [1, 2, 4, 5, 6, 7, 8, 9, 10],
        "each row once, 7 included"
    );

    let counts = table.metrics().counts;
    assert_eq!(
        (counts.delivered, counts.retried, counts.dead_lettered),
        (9, 1, 1)
    );
    let letters = rows.dead_letters().list();
    assert_eq!(
        letters
            .iter()
            .map(|letter| *letter.payload())
            .collect::<Vec<_>>(),
        [-3]
    );
    broker.drain(SOON)?;
    println!("row 7 came back alone, row -3 is a dead letter, the others were done at once");
    Ok(())
}
