//! Blocked publishers: woken by room, and by a close.

use loom::sync::Arc;
use loom::thread;
use millstream::internals::{Gate, Refusal, Waiters};
use millstream_loom_tests::{Preemptions, model};

struct World {
    gate: Gate,
    waiters: Waiters,
}

fn full() -> Arc<World> {
    let world = Arc::new(World {
        gate: Gate::new(),
        waiters: Waiters::new(),
    });
    world.gate.admit(1, 1).expect("the topic is empty");
    world
}

/// What a publisher does under `Overflow::Block`.
fn blocking_admit(world: &World) -> Result<(u64, u64), Refusal> {
    let admitted = world
        .waiters
        .wait_for(None, || match world.gate.admit(1, 1) {
            Err(Refusal::Full) => None,
            admitted => Some(admitted),
        });
    admitted.expect("without a deadline it waits for an answer")
}

#[test]
fn a_blocked_publisher_is_woken_by_room() {
    // A lost wake-up shows as a deadlock, which loom reports.
    model("waiters room", Preemptions::up_to(3), || {
        let world = full();
        let publisher = {
            let world = Arc::clone(&world);
            thread::spawn(move || blocking_admit(&world))
        };
        world.gate.release(1);
        world.waiters.wake();
        let admitted = publisher.join().expect("no thread of the model panics");
        assert_eq!(admitted, Ok((2, 1)));
    });
}

#[test]
fn two_blocked_publishers_are_both_woken_by_a_close() {
    model("waiters close", Preemptions::up_to(2), || {
        let world = full();
        let publishers = [(); 2].map(|()| {
            let world = Arc::clone(&world);
            thread::spawn(move || blocking_admit(&world))
        });
        world.gate.close();
        world.waiters.wake();
        for publisher in publishers {
            let refused = publisher.join().expect("no thread of the model panics");
            assert_eq!(refused, Err(Refusal::Closed));
        }
    });
}
