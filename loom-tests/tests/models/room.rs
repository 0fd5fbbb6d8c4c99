//! A lane's room: a topic that waits for a full lane is woken, and a lane that is
//! ending takes nothing after it was found empty.

use loom::sync::Arc;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread;
use millstream::internals::{Cell, Phase, Released, Reserved, Room};
use millstream_loom_tests::{Preemptions, model};

#[test]
fn a_topic_that_waits_for_room_is_rung() {
    model("room wake-up", Preemptions::ALL, || {
        let room = Arc::new(Cell::new(Room {
            occupied: 2,
            ..Room::EMPTY
        }));
        let rings = Arc::new(AtomicUsize::new(0));
        let lane = {
            let (room, rings) = (Arc::clone(&room), Arc::clone(&rings));
            thread::spawn(move || {
                for _ in 0..2 {
                    let released: Released = room.update(|room| room.release(1));
                    if released.wake_topic {
                        rings.fetch_add(1, Ordering::Relaxed);
                    }
                }
            })
        };
        let reserved = room.update(|room| room.reserve(1, 2, true));
        lane.join().expect("no thread of the model panics");
        match reserved {
            Reserved::Full => assert_eq!(rings.load(Ordering::Relaxed), 1),
            Reserved::Granted(places) => assert_eq!(places, 1),
            Reserved::Closed => unreachable!("nobody closes it"),
        }
    });
}

#[test]
fn nothing_enters_a_lane_that_has_ended() {
    model("room end", Preemptions::ALL, || {
        let room = Arc::new(Cell::new(Room::EMPTY));
        let dispatcher = {
            let room = Arc::clone(&room);
            thread::spawn(move || {
                let reserved = room.update(|room| room.reserve(1, 2, false));
                let granted = reserved == Reserved::Granted(1);
                granted && room.update(|room| room.release(1)).ended
            })
        };
        let ended_by_close = room.update(|room| room.close(Phase::Cancelling)).ended;
        let ended_by_release = dispatcher.join().expect("no thread of the model panics");
        assert!(
            ended_by_close ^ ended_by_release,
            "exactly one of them sees the lane end"
        );
    });
}
