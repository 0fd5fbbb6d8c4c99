//! Asks, and waits for the reply or for the reason why there is none. And publishes in each period.

use std::error::Error;
use std::time::Duration;

use millstream::request::Gather;
use millstream::schedule::MissedTicks;
use millstream::{Broker, Nack, RequestError};

fn main() -> Result<(), Box<dyn Error>> {
    let broker = Broker::new()?;
    let second = Duration::from_secs(1);

    println!("nobody is there to reply, and the requester knows it at once");
    let rates = broker.topic::<&'static str>("rates").open()?;
    let asked = rates.request::<f64>("EUR", second);
    assert_eq!(asked, Err(RequestError::NoResponder("EUR")));

    println!("a handler replies, with a value of any type");
    let desk = rates.subscribe("desk", |currency| match *currency.payload() {
        "EUR" => {
            currency.reply(1.07_f64);
            Ok(())
        }
        _ => Err(Nack::dead_letter("the desk knows no such currency")),
    })?;
    let rate: f64 = rates.request("EUR", second)?;
    println!("  a euro is {rate}");

    println!("a dead letter ends the wait, long before the timeout");
    match rates.request::<f64>("XXX", 3_600 * second) {
        Err(RequestError::Unanswered(ends)) => println!("  {ends}"),
        other => panic!("{other:?}"),
    }

    println!("several subscriptions reply to one request");
    let _others = [("north", 1.06_f64), ("south", 1.08)].map(|(name, rate)| {
        rates.subscribe(name, move |currency| {
            currency.reply(rate);
            Ok(())
        })
    });
    let all = rates.request_many::<f64>("EUR", Gather::within(second).max(3))?;
    println!("  {:?}, {:?}", all.replies, all.end);
    assert_eq!(all.replies.len(), 3);

    println!("a schedule publishes in each period until its handle is dropped");
    let beats = broker.topic::<u32>("beats").open()?;
    let _log = beats.subscribe("log", |beat| {
        println!("  beat {}", beat.payload());
        Ok(())
    })?;
    let mut number = 0;
    let every = beats.every(second / 100).missed(MissedTicks::Once);
    let heart = every.publish(move || {
        number += 1;
        number
    })?;
    while heart.published() < 3 {
        std::thread::sleep(second / 1_000);
    }
    heart.cancel();

    drop(desk);
    println!("{}", broker.drain(second)?);
    broker.metrics().balance()?;
    Ok(())
}
