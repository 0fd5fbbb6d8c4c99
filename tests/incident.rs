//! Promise: a subscription with a breaker survives a dependency that is down for 30 seconds under
//! 10,000 messages a second. It burns at most one attempt in a hundred of those that it would have
//! burnt without, loses nothing, keeps the order of each key, and recovers within one interval of
//! probes.

use std::time::Duration;

use millstream::metrics::WaitingFor;

#[path = "../examples/breaker.rs"]
#[allow(dead_code, reason = "the example has a `main`, too")]
mod breaker;

#[test]
fn an_outage_burns_few_attempts_and_loses_and_reorders_nothing() {
    let without = breaker::live_through(None).expect("it goes on");
    let with = breaker::live_through(Some(breaker::breaker())).expect("it goes on");
    assert!(
        with.burnt * 100 <= without.burnt,
        "{} of {}",
        with.burnt,
        without.burnt
    );
    assert_eq!((without.lost, with.lost), (0, 0));
    assert!(without.in_order && with.in_order);
    assert!(
        with.recovery <= Duration::from_secs(5),
        "{:?}",
        with.recovery
    );
    assert_eq!(with.waited_for, Some(WaitingFor::Breaker));
    assert_eq!(without.waited_for, Some(WaitingFor::Key));
}
