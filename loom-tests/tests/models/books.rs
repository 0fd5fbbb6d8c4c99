//! The books: a live snapshot never shows more ends than beginnings.

use loom::sync::Arc;
use loom::thread;
use millstream::Status;
use millstream::internals::{LaneBooks, Step};
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
