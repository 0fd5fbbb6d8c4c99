//! Telling observers of what happens to a topic and its messages.

use crate::engine::runtime::bus::Bus;
use crate::engine::state::dead_letter_store::{Left, notify};
use crate::engine::state::topic::TopicCore;
use crate::message::MessageId;
use crate::observe::event::{About, EventKind, Record, Subject};
use crate::pure::decide::lifecycle::Status;
use crate::sync::Arc;

impl<T: Send + Sync + 'static> TopicCore<T> {
    pub(crate) fn bus(&self) -> &Bus {
        &self.engine.bus
    }

    /// Tells observers of something that happened to this topic.
    pub(crate) fn tell(&self, kind: EventKind) {
        self.tell_of(Subject::default(), kind);
    }

    /// Tells observers of something that happened to one message.
    pub(crate) fn tell_message(&self, id: MessageId, status: Status, kind: EventKind) {
        self.tell_of(Subject::default().message(id).status(status), kind);
    }

    /// Tells observers, if there are any.
    pub(crate) fn tell_of(&self, subject: Subject<'_>, kind: EventKind) {
        if self.bus().observed() {
            let now_ns = self.engine.clock.now_ns();
            let record = Record::about(subject, Arc::clone(&self.name), now_ns, kind);
            self.bus().send(Box::new(record));
        }
    }

    /// Tells observers, if there are any, of something that happened at once to several messages.
    pub(crate) fn tell_each(
        &self,
        ids: impl Iterator<Item = MessageId>,
        status: Status,
        at_ns: u64,
        kind: EventKind,
    ) {
        self.tell_about(ids, |name| Record {
            status: Some(status),
            ..Record::new(name, at_ns, kind)
        });
    }

    /// Tells observers, if there are any, of attempts of one subscription at several messages.
    pub(crate) fn tell_attempts(
        &self,
        subscription: &Arc<str>,
        ids: impl Iterator<Item = MessageId>,
        attempt: u32,
        status: Status,
        at_ns: u64,
        kind: EventKind,
    ) {
        self.tell_about(ids, |name| Record {
            subscription: Some(Arc::clone(subscription)),
            attempt,
            status: Some(status),
            ..Record::new(name, at_ns, kind)
        });
    }

    fn tell_about(
        &self,
        ids: impl Iterator<Item = MessageId>,
        record: impl FnOnce(Arc<str>) -> Record,
    ) {
        if !self.bus().observed() {
            return;
        }
        let about = About::these(ids);
        if !matches!(about, About::None) {
            let record = record(Arc::clone(&self.name));
            self.bus().send(Box::new(Record { about, ..record }));
        }
    }

    /// Tells observers of a letter that had to leave the store, and the lanes that waited for that.
    pub(crate) fn tell_evicted(&self, evicted: Option<Left<T>>) {
        let Some(Left { letter, waiting }) = evicted else {
            return;
        };
        letter.note_gone();
        self.tell_of(
            Subject::of(&letter.subscription)
                .message(letter.id())
                .attempt(letter.attempts)
                .status(Status::DeadLetter),
            EventKind::LetterEvicted,
        );
        notify(waiting);
    }
}
