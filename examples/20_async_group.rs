//! Shares the calls to a slow service among the async members of a consumer group.
//!
//! Each member has calls of many customers in flight at once. The calls of one customer come one
//! after the other, though members join and leave meanwhile. Run the example with
//! `cargo run --example 20_async_group --features async`.

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use millstream::{
    Backoff, Broker, ConsumerGroup, Member, Message, Nack, OnFailure, OwnedDelivery, SubscribeError,
};
use tokio::runtime::Handle;
use tokio::time::sleep;

const CUSTOMERS: u32 = 20;
const CALLS: u32 = 30;
const SOON: Duration = Duration::from_secs(10);

/// The numbers of each customer's calls, as the service has them, and those of each member.
#[derive(Default)]
struct Service {
    calls: Mutex<BTreeMap<String, Vec<u32>>>,
    of_members: Mutex<BTreeMap<&'static str, u32>>,
}

impl Service {
    async fn call(&self, member: &'static str, call: OwnedDelivery<u32>) -> Result<(), Nack> {
        sleep(Duration::from_millis(1)).await;
        if call.payload() % 10 == 9 && call.attempt() == 1 {
            return Err(Nack::retry("the service is busy"));
        }
        let customer = call.key().unwrap_or_default().to_owned();
        let mut calls = self.calls.lock().expect("no call panics");
        calls.entry(customer).or_default().push(*call.payload());
        let mut of_members = self.of_members.lock().expect("no call panics");
        *of_members.entry(member).or_default() += 1;
        Ok(())
    }
}

fn join(
    group: &ConsumerGroup<u32>,
    name: &'static str,
    service: &Arc<Service>,
) -> Result<Member, SubscribeError> {
    let service = Arc::clone(service);
    group.member(name).concurrency(8).join_async(move |call| {
        let service = Arc::clone(&service);
        async move { service.call(name, call).await }
    })
}

#[tokio::main(flavor = "multi_thread", worker_threads = 1)]
async fn main() -> Result<(), Box<dyn Error>> {
    let runtime = Handle::current();
    let enter = move |poll: &mut dyn FnMut()| {
        let _entered = runtime.enter(); // for tokio's timers
        poll();
    };
    let broker = Broker::builder().workers(2).around_polls(enter).build()?;
    let calls = broker.topic::<u32>("calls").open()?;
    let group = calls
        .subscription("service")
        .retry(Backoff::fixed(Duration::from_millis(2)))
        .on_failure(OnFailure::BlockKey) // a customer's later calls wait for one that is retried
        .group()?;

    let service = Arc::new(Service::default());
    let mut members = vec![join(&group, "one", &service)?];
    for number in 0..CALLS {
        match number {
            10 => members.push(join(&group, "two", &service)?),
            20 => members.push(join(&group, "three", &service)?),
            25 => drop(members.remove(0)), // the calls of `one` that are in flight end
            _ => {}
        }
        let of_all = (0..CUSTOMERS).map(|customer| Message::new(number).key(format!("{customer}")));
        calls.publish_messages_async(of_all).await?;
        sleep(Duration::from_millis(2)).await;
    }
    let report = broker.drain_async(SOON).await?;
    println!("{report}");

    let of_members = service.of_members.lock().expect("no call panics");
    println!("calls of each member: {of_members:?}");
    assert_eq!(of_members.values().sum::<u32>(), CUSTOMERS * CALLS);
    let calls = service.calls.lock().expect("no call panics");
    assert_eq!(calls.len(), CUSTOMERS as usize);
    for (customer, numbers) in calls.iter() {
        let all: Vec<_> = (0..CALLS).collect();
        assert_eq!(numbers, &all, "customer {customer}");
    }
    Ok(())
}
