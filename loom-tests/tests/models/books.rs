//! The books: a live snapshot never shows more ends than beginnings, and balances but
//! for what moved.

use loom::sync::Arc;
use loom::thread;
use millstream::event::Status;
use millstream::internals::{Cell, LaneBooks, Reserved, Room, Step};
use millstream_loom_tests::{Preemptions, model};

#[test]
fn a_live_snapshot_never_shows_more_ends_than_beginnings() {
    model("books snapshot", Preemptions::up_to(3), || {
        let books = Arc::new(LaneBooks::default());
        let lane = {
            let books = Arc::clone(&books);
            thread::spawn(move || {
                let queued = books.record(Status::Created, Step::Accept, 2);
                let delivering = books.record(queued, Step::Start, 2);
                books.record(delivering, Step::Ack, 1);
                let failed = books.record(delivering, Step::Fail, 1);
                books.record(failed, Step::Bury, 1);
            })
        };
        let counts = books.read();
        assert!(counts.ended() <= counts.made, "{counts:?}");
        assert!(counts.delivered <= counts.attempts, "{counts:?}");
        lane.join().expect("no thread of the model panics");
        assert_eq!(books.read().open(), 0);
    });
}

#[test]
fn a_live_snapshot_balances_but_for_what_moved() {
    model("books in motion", Preemptions::up_to(3), || {
        let lane = Arc::new((LaneBooks::default(), Cell::new(Room::EMPTY)));
        let runner = {
            let lane = Arc::clone(&lane);
            thread::spawn(move || {
                let (books, room) = &*lane;
                let arrives = books.motions.begin(1);
                let reserved = room.update(|room| room.reserve(1, 1, false));
                assert_eq!(reserved, Reserved::Granted(1));
                let queued = books.record(Status::Created, Step::Accept, 1);
                drop(arrives);
                let delivering = books.record(queued, Step::Start, 1);
                let _ends = books.motions.begin(1);
                books.record(delivering, Step::Ack, 1);
                let _ = room.update(|room| room.release(1));
            })
        };
        let (books, room) = &*lane;
        let done = books.motions.done();
        let counts = books.read();
        let found = counts.ended() + u64::from(room.load().occupied);
        let moving = books.motions.since(done);
        assert!(found.abs_diff(counts.made) <= moving, "{moving} {counts:?}");
        runner.join().expect("no thread of the model panics");
        assert_eq!(books.motions.since(books.motions.done()), 0);
    });
}
