//! A topic, as the replies to its requests know it.

use crate::engine::state::topic::TopicCore;
use crate::engine::track::replies::ReplyTopic;
use crate::message::MessageId;
use crate::observe::event::{EventKind, Subject};

impl<T: Send + Sync + 'static> ReplyTopic for TopicCore<T> {
    fn timer_ns(&self) -> u64 {
        self.engine.clock.timer_ns()
    }

    fn note_late(&self, id: u64) {
        self.books.late_replies.add(1);
        let subject = Subject::default().message(MessageId::new(id));
        self.tell_of(subject, EventKind::LateReply);
    }
}
