//! Shares the readings of many devices in a consumer group.
//!
//! Each device is with one member at a time. One member leaves while the work goes on. Its
//! devices move to the others, and no reading is lost, handled twice or out of order.

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use millstream::error::SubscribeError;
use millstream::{Broker, ConsumerGroup, Member, Nack, PublishError};

const SOON: Duration = Duration::from_secs(10);
const DEVICES: u64 = 24;

/// Who handled which reading of each device.
type Seen = Arc<Mutex<BTreeMap<u64, Vec<(&'static str, u64)>>>>;

struct Reading {
    device: u64,
    number: u64,
}

fn join(
    group: &ConsumerGroup<Reading>,
    name: &'static str,
    seen: &Seen,
) -> Result<Member, SubscribeError> {
    let seen = Arc::clone(seen);
    group.join(name, move |delivery| {
        let Reading { device, number } = *delivery.payload();
        let mut seen = seen.lock().map_err(|_| Nack::retry("poisoned"))?;
        seen.entry(device).or_default().push((name, number));
        Ok(())
    })
}

fn main() -> Result<(), Box<dyn Error>> {
    let broker = Broker::builder().workers(2).build()?;
    let readings = broker.topic::<Reading>("readings").open()?;
    let group = readings.subscription("store").group()?;

    let seen = Seen::default();
    let one = join(&group, "one", &seen)?;
    let two = join(&group, "two", &seen)?;
    let three = join(&group, "three", &seen)?;

    let publish = |numbers: std::ops::Range<u64>| -> Result<(), Box<dyn Error>> {
        for number in numbers {
            for device in 0..DEVICES {
                let mut reading = Reading { device, number };
                // The topic is bounded: wait for room.
                while let Err(refused) = readings.message(reading).key(device.to_string()).publish()
                {
                    let PublishError::Full(back) = refused else {
                        return Err(refused.to_string().into());
                    };
                    reading = back;
                    std::thread::yield_now();
                }
            }
        }
        Ok(())
    };
    publish(0..100)?;
    two.leave(); // returns when no call of its handler runs or will start
    let when_it_left = seen.lock().expect("no handler panicked").clone();
    publish(100..200)?;

    assert!(broker.wait_until_idle(SOON));
    for member in group.metrics().members {
        println!(
            "{}: {} readings, {:?} in its present call",
            member.name, member.taken, member.busy_for
        );
    }
    drop((one, three));
    println!("{}", broker.drain(SOON)?);

    let seen = seen.lock().expect("no handler panicked");
    let mut moved = 0;
    for (device, of_device) in seen.iter() {
        let numbers: Vec<_> = of_device.iter().map(|(_, number)| *number).collect();
        assert_eq!(numbers, (0..200).collect::<Vec<_>>(), "device {device}");
        let (first, last) = (of_device[0].0, of_device[199].0);
        assert_ne!(last, "two");
        assert!(
            first == last || first == "two",
            "nobody else's devices move"
        );
        moved += usize::from(first != last);
        let after = &of_device[when_it_left.get(device).map_or(0, Vec::len)..];
        assert!(after.iter().all(|(name, _)| *name != "two"), "it had left");
    }
    println!("{moved} of {DEVICES} devices moved when a member left");
    assert_eq!(seen.len(), DEVICES as usize);
    Ok(())
}
