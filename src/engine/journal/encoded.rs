//! Messages as bytes, on their way to the log.

use crate::pure::log::message::StoredMessage;

/// The most memory that is kept for the messages that come next.
const MOST_KEPT: usize = 64 << 10;

/// Messages as bytes, one behind the other.
#[derive(Default)]
pub(crate) struct Encoded {
    /// The payload that a codec is at. The codec is the user's. So it gets bytes of their own, in
    /// which it can harm nothing else.
    payload: Vec<u8>,
    bytes: Vec<u8>,
    /// Where each message ends.
    ends: Vec<usize>,
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

    /// Lets go of the messages. Returns whether the memory is worth keeping.
    pub(crate) fn clear(&mut self) -> bool {
        self.bytes.clear();
        self.ends.clear();
        let bytes = self.payload.capacity() + self.bytes.capacity();
        let ends = self.ends.capacity() * size_of::<usize>();
        bytes + ends <= MOST_KEPT
    }

    /// Returns the bytes of each message, in order.
    pub(crate) fn messages(&self) -> impl Iterator<Item = &[u8]> {
        let mut start = 0;
        self.ends.iter().map(move |end| {
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
        for (message, payload) in encoded.messages().zip(payloads) {
            let message = StoredMessage::read(message).expect("it was written");
            assert_eq!(message.payload, payload.as_bytes());
        }
        assert_eq!(encoded.messages().count(), payloads.len());
    }
}
