//! A message as it lies in the log: what its publisher added, and the payload's bytes.
//!
//! ```text
//! flags u8 | dedup id | key | ttl in ns | headers: count, then name, kind u8, value | priority u8 |
//! payload
//! ```
//!
//! The flags say which of the parts are there. The payload is the rest.

use crate::pure::log::format::bytes::{Malformed, Reader, put_bytes, put_varint};

const DEDUP_ID: u8 = 1;
const KEY: u8 = 2;
const TTL: u8 = 4;
const HEADERS: u8 = 8;
const PRIORITY: u8 = 16;
const KNOWN: u8 = DEDUP_ID | KEY | TTL | HEADERS | PRIORITY;

const TEXT: u8 = 0;
const BYTES: u8 = 1;

/// The value of a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StoredValue<'a> {
    Text(&'a str),
    Bytes(&'a [u8]),
}

/// A message as it lies in the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct StoredMessage<'a> {
    pub(crate) dedup_id: Option<&'a str>,
    pub(crate) key: Option<&'a str>,
    pub(crate) ttl_ns: Option<u64>,
    pub(crate) headers: Vec<(&'a str, StoredValue<'a>)>,
    /// Its priority, if that isn't the default.
    pub(crate) priority: Option<u8>,
    pub(crate) payload: &'a [u8],
}

impl<'a> StoredMessage<'a> {
    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        let flag = |there: bool, flag: u8| if there { flag } else { 0 };
        out.push(
            flag(self.dedup_id.is_some(), DEDUP_ID)
                | flag(self.key.is_some(), KEY)
                | flag(self.ttl_ns.is_some(), TTL)
                | flag(!self.headers.is_empty(), HEADERS)
                | flag(self.priority.is_some(), PRIORITY),
        );
        for text in [self.dedup_id, self.key].into_iter().flatten() {
            put_bytes(out, text.as_bytes());
        }
        if let Some(ttl_ns) = self.ttl_ns {
            put_varint(out, ttl_ns);
        }
        if !self.headers.is_empty() {
            put_varint(out, self.headers.len() as u64);
            for (name, value) in &self.headers {
                put_bytes(out, name.as_bytes());
                let (kind, value) = match value {
                    StoredValue::Text(text) => (TEXT, text.as_bytes()),
                    StoredValue::Bytes(bytes) => (BYTES, *bytes),
                };
                out.push(kind);
                put_bytes(out, value);
            }
        }
        out.extend(self.priority);
        out.extend_from_slice(self.payload);
    }

    /// Returns whether it is nothing but a payload, for a subscriber.
    pub(crate) fn is_plain(&self) -> bool {
        let has_text = self.key.is_some() || self.dedup_id.is_some();
        let has_number = self.ttl_ns.is_some() || self.priority.is_some();
        !has_text && !has_number && self.headers.is_empty()
    }

    pub(crate) fn read(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(bytes);
        let flags = reader.u8()?;
        if flags & !KNOWN != 0 {
            return Err(Malformed);
        }
        let mut message = Self::default();
        if flags == 0 {
            message.payload = reader.rest();
            return Ok(message);
        }
        let has = |flag: u8| flags & flag != 0;
        if has(DEDUP_ID) {
            message.dedup_id = Some(reader.text()?);
        }
        if has(KEY) {
            message.key = Some(reader.text()?);
        }
        if has(TTL) {
            message.ttl_ns = Some(reader.varint()?);
        }
        if has(HEADERS) {
            for _ in 0..reader.varint()? {
                let name = reader.text()?;
                let value = match reader.u8()? {
                    TEXT => StoredValue::Text(reader.text()?),
                    BYTES => StoredValue::Bytes(reader.bytes()?),
                    _ => return Err(Malformed),
                };
                message.headers.push((name, value));
            }
        }
        if has(PRIORITY) {
            message.priority = Some(reader.u8()?);
        }
        message.payload = reader.rest();
        Ok(message)
    }

    /// Returns the payload of a message that is nothing else.
    #[inline]
    pub(crate) fn plain_payload(bytes: &'a [u8]) -> Option<&'a [u8]> {
        match bytes {
            [0, payload @ ..] => Some(payload),
            _ => None,
        }
    }

    /// Reads the id that a duplicate would have, and nothing else.
    pub(crate) fn read_dedup_id(bytes: &'a [u8]) -> Result<Option<&'a str>, Malformed> {
        let mut reader = Reader::new(bytes);
        let has_id = reader.u8()? & DEDUP_ID != 0;
        has_id.then(|| reader.text()).transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_comes_back_with_any_of_its_parts() {
        for parts in 0..32_u8 {
            let part = |bit: u8| parts & bit != 0;
            let message = StoredMessage {
                dedup_id: part(1).then_some("req-77"),
                key: part(2).then_some("ada"),
                ttl_ns: part(4).then_some(1 << 40),
                headers: if part(8) {
                    vec![
                        ("from", StoredValue::Text("ann")),
                        ("digest", StoredValue::Bytes(&[0, 0xff])),
                    ]
                } else {
                    Vec::new()
                },
                priority: part(16).then_some(3),
                payload: b"rest",
            };
            let mut bytes = Vec::new();
            message.put(&mut bytes);
            assert_eq!(StoredMessage::read(&bytes), Ok(message.clone()));
            assert_eq!(StoredMessage::read_dedup_id(&bytes), Ok(message.dedup_id));
        }
    }

    #[test]
    fn parts_of_a_later_version_are_refused() {
        assert_eq!(StoredMessage::read(&[32]), Err(Malformed));
        assert_eq!(StoredMessage::read(&[]), Err(Malformed));
        assert_eq!(
            StoredMessage::read(&[HEADERS, 0xff, 0xff, 3]),
            Err(Malformed)
        );
    }
}
