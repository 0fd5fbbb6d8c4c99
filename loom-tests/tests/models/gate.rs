//! Admission: capacity is exact, ids are unique, and when the books say that
//! every ticket is released, nothing accepted is still on its way.

use loom::sync::Arc;
use loom::thread;
use millstream::internals::{Gate, Queue, Refusal, TopicBooks};
use millstream_loom_tests::{Preemptions, model};

#[test]
fn two_publishers_never_overshoot_the_capacity() {
    model("gate capacity", Preemptions::ALL, || {
        let gate = Arc::new(Gate::new(0));
        let publisher = {
            let gate = Arc::clone(&gate);
            thread::spawn(move || gate.admit(1, 1))
        };
        let ours = gate.admit(1, 1);
        let theirs = publisher.join().expect("no thread of the model panics");
        let admitted = [ours, theirs]
            .iter()
            .filter(|admitted| admitted.is_ok())
            .count();
        assert_eq!(admitted, 1);
        assert_eq!(gate.issued(), 1);
    });
}

#[test]
fn room_made_by_the_consumer_is_found_and_the_slot_is_free() {
    model("gate reuse", Preemptions::ALL, || {
        let world = Arc::new((Gate::new(0), Queue::new(1)));
        world.0.admit(1, 1).expect("the topic is empty");
        world.1.push(1).expect("a ticket is a slot");
        let consumer = {
            let world = Arc::clone(&world);
            thread::spawn(move || {
                let popped = world.1.pop();
                assert_eq!(popped, Some(1));
                world.0.release(1);
            })
        };
        if world.0.admit(1, 1).is_ok() {
            world.1.push(2).expect("a ticket is a slot");
        }
        consumer.join().expect("no thread of the model panics");
    });
}

#[test]
fn who_sees_a_place_free_sees_where_its_message_went() {
    model("gate books", Preemptions::ALL, || {
        let world = Arc::new((Gate::new(0), TopicBooks::default()));
        world.0.admit(1, 1).expect("the topic is empty");
        let dispatcher = {
            let world = Arc::clone(&world);
            thread::spawn(move || {
                world.1.dispatched.add(1);
                world.0.release(1);
            })
        };
        if world.0.outstanding() == 0 {
            assert_eq!(world.1.dispatched.get(), 1);
        }
        dispatcher.join().expect("no thread of the model panics");
    });
}

#[test]
fn a_drain_that_sees_every_ticket_released_has_seen_every_message() {
    model("gate close", Preemptions::up_to(3), || {
        let world = Arc::new((Gate::new(0), Queue::new(2)));
        let publisher = {
            let world = Arc::clone(&world);
            thread::spawn(move || match world.0.admit(1, 2) {
                Ok((id, _)) => {
                    world.1.push(id).expect("a ticket is a slot");
                    true
                }
                Err(refusal) => {
                    assert_eq!(refusal, Refusal::Closed);
                    false
                }
            })
        };
        world.0.close();
        let mut seen = 0;
        while world.0.outstanding() > 0 {
            match world.1.pop() {
                Some(_) => {
                    seen += 1;
                    world.0.release(1);
                }
                None => thread::yield_now(),
            }
        }
        let accepted = publisher.join().expect("no thread of the model panics");
        assert_eq!(seen, u64::from(accepted));
        assert!(world.1.is_empty());
        assert_eq!(world.0.admit(1, 2), Err(Refusal::Closed));
    });
}

#[test]
fn a_handler_is_let_in_until_the_seal_and_others_until_the_close() {
    model("gate close by stages", Preemptions::ALL, || {
        let gate = Arc::new(Gate::new(0));
        let publisher = {
            let gate = Arc::clone(&gate);
            thread::spawn(move || {
                let outside = gate.admit(1, 4).is_ok();
                (outside, gate.admit_handler(1, 4).is_ok())
            })
        };
        gate.close_outside();
        let at_close = gate.issued();
        gate.close();
        let at_seal = gate.issued();
        let (outside, handler) = publisher.join().expect("no thread of the model panics");
        // Neither comes after its end, and the count stands after the seal.
        assert_eq!(at_seal, u64::from(outside) + u64::from(handler));
        assert!(at_close >= u64::from(outside));
        assert_eq!(gate.issued(), at_seal);
        assert_eq!(gate.admit(1, 4), Err(Refusal::Closed));
        assert_eq!(gate.admit_handler(1, 4), Err(Refusal::Closed));
    });
}
