//! Blocked publishers: one is woken for each place, all by a close, and a call that is not
//! used is passed on.

use loom::sync::Arc;
use loom::thread::{self, JoinHandle};
use millstream::internals::{Gate, Refusal, Waiters};
use millstream_loom_tests::{Preemptions, model};

struct World {
    gate: Gate,
    waiters: Waiters,
}

fn full() -> Arc<World> {
    let world = Arc::new(World {
        gate: Gate::new(0),
        waiters: Waiters::new(),
    });
    world.gate.admit(1, 1).expect("the topic is empty");
    world
}

/// What a publisher does under `Overflow::Block`.
fn blocking_admit(world: &World) -> Result<(u64, u64), Refusal> {
    let attempt = || match world.gate.admit(1, 1) {
        Err(Refusal::Full) => None,
        admitted => Some(admitted),
    };
    let admitted = world.waiters.wait_for(None, attempt, || room(world));
    admitted.expect("without a deadline it waits for an answer")
}

fn blocked(world: &Arc<World>) -> JoinHandle<Result<(u64, u64), Refusal>> {
    let world = Arc::clone(world);
    thread::spawn(move || blocking_admit(&world))
}

fn room(world: &World) -> usize {
    1_usize.saturating_sub(world.gate.outstanding() as usize)
}

fn release(world: &World) {
    world.gate.release(1);
    world.waiters.wake(|| room(world));
}

#[test]
fn a_blocked_publisher_is_woken_by_room() {
    // A lost wake-up shows as a deadlock, which loom reports.
    model("waiters room", Preemptions::up_to(3), || {
        let world = full();
        let publisher = blocked(&world);
        release(&world);
        let admitted = publisher.join().expect("no thread of the model panics");
        assert_eq!(admitted, Ok((2, 1)));
    });
}

#[test]
fn two_blocked_publishers_are_both_woken_by_a_close() {
    model("waiters close", Preemptions::up_to(2), || {
        let world = full();
        let publishers = [(); 2].map(|()| blocked(&world));
        world.gate.close();
        world.waiters.wake_all();
        for publisher in publishers {
            let refused = publisher.join().expect("no thread of the model panics");
            assert_eq!(refused, Err(Refusal::Closed));
        }
    });
}

#[test]
fn room_that_two_make_one_after_the_other_wakes_two() {
    model("waiters two places", Preemptions::up_to(2), || {
        let world = full();
        let publishers = [(); 2].map(|()| {
            let world = Arc::clone(&world);
            // Each makes room for the other.
            thread::spawn(move || {
                let admitted = blocking_admit(&world);
                release(&world);
                admitted
            })
        });
        release(&world);
        for publisher in publishers {
            let admitted = publisher.join().expect("no thread of the model panics");
            assert!(admitted.is_ok());
        }
    });
}

#[test]
fn who_is_called_and_gives_up_passes_the_call_on() {
    model("waiters give up", Preemptions::up_to(2), || {
        let world = full();
        let fickle = {
            let world = Arc::clone(&world);
            thread::spawn(move || {
                let mut looks = 0;
                let give_up = || {
                    looks += 1;
                    (looks > 1 || room(&world) > 0).then_some(())
                };
                world.waiters.wait_for(None, give_up, || room(&world))
            })
        };
        let publisher = blocked(&world);
        release(&world);
        // If the publisher was first, it has taken the place: so that nobody waits for ever.
        let admitted = publisher.join().expect("no thread of the model panics");
        assert_eq!(admitted, Ok((2, 1)));
        release(&world);
        assert_eq!(
            fickle.join().expect("no thread of the model panics"),
            Some(())
        );
    });
}
