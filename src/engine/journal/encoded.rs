//! Messages as bytes, on their way to the log.

use crate::pure::log::message::StoredMessage;

/// The most memory that is kept for the messages that come next.
const MOST_KEPT: usize = 64 << 10;

/// The most bytes that a message takes in the log besides its own.
const OVERHEAD: usize = 48;

/// Messages as bytes, one behind the other. They may go in several parts, because each is encoded
/// once, however often its publisher has to wait for room.
#[derive(Default)]
pub(crate) struct Encoded {
    /// The payload that a codec is at. The codec is the user's. So it gets bytes of their own, in
    /// which it can harm nothing else.
    payload: Vec<u8>,
    bytes: Vec<u8>,
    /// Where each message ends.
    ends: Vec<usize>,
    /// How many of the first are on their way already.
    gone: usize,
}

impl Encoded {
    /// Adds a message with the payload that `put` appends. Returns how many bytes it takes.
    pub(crate) fn add<'a, E>(
        &'a mut self,
        mut message: StoredMessage<'a>,
        put: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
    ) -> Result<usize, E> {
        self.payload.clear();
        put(&mut self.payload)?;
        message.payload = &self.payload;
        let start = self.bytes.len();
        message.put(&mut self.bytes);
        let end = self.bytes.len();
        self.ends.push(end);
        Ok(end - start)
    }

    /// Returns how many messages have yet to go.
    pub(crate) fn len(&self) -> usize {
        self.ends.len() - self.gone
    }

    /// Returns how many bytes all of them take in the log, at most.
    pub(crate) fn size(&self) -> usize {
        self.bytes.len() + self.ends.len() * OVERHEAD
    }

    /// Notes that the first of them are on their way.
    pub(crate) fn skip(&mut self, count: usize) {
        self.gone = self.ends.len().min(self.gone + count);
    }

    /// Lets go of the messages. Returns whether the memory is worth keeping.
    pub(crate) fn clear(&mut self) -> bool {
        self.bytes.clear();
        self.ends.clear();
        self.gone = 0;
        let bytes = self.payload.capacity() + self.bytes.capacity();
        let ends = self.ends.capacity() * size_of::<usize>();
        bytes + ends <= MOST_KEPT
    }

    /// Returns the bytes of each message that has yet to go, in order.
    pub(crate) fn messages(&self) -> impl Iterator<Item = &[u8]> {
        let last_gone = self.gone.checked_sub(1);
        let mut start = last_gone.map_or(0, |last| self.ends[last]);
        self.ends[self.gone..].iter().map(move |end| {
            let message = &self.bytes[start..*end];
            start = *end;
            message
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_back_one_by_one() {
        let mut encoded = Encoded::default();
        let payloads = ["one", "", "three"];
        for payload in payloads {
            let put = |bytes: &mut Vec<u8>| {
                bytes.extend_from_slice(payload.as_bytes());
                Ok::<_, ()>(())
            };
            let added = encoded.add(StoredMessage::default(), put);
            assert_eq!(added, Ok(payload.len() + 1));
        }
        for gone in 0..=payloads.len() {
            assert_eq!(encoded.len(), payloads.len() - gone);
            for (message, payload) in encoded.messages().zip(&payloads[gone..]) {
                let message = StoredMessage::read(message).expect("it was written");
                assert_eq!(message.payload, payload.as_bytes());
            }
            assert_eq!(encoded.messages().count(), payloads.len() - gone);
            encoded.skip(1);
        }
    }
}
