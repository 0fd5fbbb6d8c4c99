//! Payloads that their publisher hands in together.

use crate::message::batch::Stamp;
use crate::message::meta::Meta;
use crate::message::outgoing::Message;
#[cfg(feature = "log")]
use crate::pure::decide::lifecycle::Status;

/// Payloads in order, and the parts added to some of them.
///
/// The parts are sorted by the index of their payload. There are none in most chunks.
pub(crate) struct Chunk<T> {
    pub(crate) payloads: Vec<T>,
    pub(crate) meta: Vec<(u32, Box<Meta>)>,
}

impl<T> Chunk<T> {
    pub(crate) const EMPTY: Self = Self::plain(Vec::new());

    /// Makes a chunk of payloads to which nothing is added.
    pub(crate) const fn plain(payloads: Vec<T>) -> Self {
        Self {
            payloads,
            meta: Vec::new(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.payloads.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.payloads.is_empty()
    }

    pub(crate) fn push(&mut self, payload: T, meta: Option<Box<Meta>>) {
        if let Some(meta) = meta {
            self.meta.push((self.payloads.len() as u32, meta));
        }
        self.payloads.push(payload);
    }

    /// Returns the parts added to the first payload, if there are any.
    pub(crate) fn first_meta(&self) -> Option<&Meta> {
        let (index, meta) = self.meta.first()?;
        (*index == 0).then_some(&**meta)
    }

    /// Returns how many payloads come before the first whose parts are so.
    pub(crate) fn before(&self, is_so: impl Fn(&Meta) -> bool) -> usize {
        let first = self.meta.iter().find(|(_, meta)| is_so(meta));
        first.map_or(self.len(), |(index, _)| *index as usize)
    }

    /// Returns the first time when one of these expires by a time to live of its own, if they are
    /// accepted with these stamps.
    #[inline(always)]
    pub(crate) fn own_expires_ns(&self, first: Stamp) -> Option<u64> {
        let expiries = self.meta.iter().map(|(_, meta)| meta.expires_ns(first));
        expiries.flatten().min()
    }

    /// Takes out the first `count`, which were accepted. `take` takes their payloads out of the
    /// vector.
    #[inline(always)]
    pub(crate) fn take_front(
        &mut self,
        count: usize,
        take: impl FnOnce(&mut Vec<T>, usize) -> Vec<T>,
    ) -> Self {
        let payloads = take(&mut self.payloads, count);
        let meta = match self.meta.is_empty() {
            true => Vec::new(),
            false => self.take_meta(count as u32),
        };
        Self { payloads, meta }
    }

    #[cold]
    fn take_meta(&mut self, count: u32) -> Vec<(u32, Box<Meta>)> {
        let split = self.meta.partition_point(|(index, _)| *index < count);
        let left = self.meta.split_off(split);
        let taken = std::mem::replace(&mut self.meta, left);
        self.meta.iter_mut().for_each(|(index, _)| *index -= count);
        taken.iter().for_each(|(_, meta)| meta.begin());
        taken
    }

    /// Notes what the payloads weigh of which that is not known.
    pub(crate) fn weigh(&mut self, weigh: impl Fn(&T) -> u64) {
        let known = std::mem::take(&mut self.meta);
        let mut known = known.into_iter().peekable();
        for (at, payload) in self.payloads.iter().enumerate() {
            let own = known.next_if(|(index, _)| *index as usize == at);
            let mut meta = own.map_or_else(Box::default, |(_, meta)| meta);
            meta.weight.get_or_insert_with(|| weigh(payload));
            self.meta.push((at as u32, meta));
        }
    }

    /// Returns each payload with the parts added to it, in order.
    pub(crate) fn into_each(self) -> impl Iterator<Item = (T, Option<Box<Meta>>)> {
        let mut meta = self.meta.into_iter().peekable();
        let payloads = self.payloads.into_iter().zip(0..);
        payloads.map(move |(payload, at)| {
            let own = meta.next_if(|(index, _)| *index == at);
            (payload, own.map(|(_, meta)| meta))
        })
    }

    /// Returns each payload with the parts added to it.
    #[cfg(feature = "log")]
    pub(crate) fn each(&self) -> impl Iterator<Item = (&T, Option<&Meta>)> {
        let mut meta = self.meta.iter().peekable();
        self.payloads.iter().enumerate().map(move |(at, payload)| {
            let own = meta.next_if(|(index, _)| *index as usize == at);
            (payload, own.map(|(_, meta)| &**meta))
        })
    }

    /// Notes that the messages are in the log. The first one says so for all that go with it.
    #[cfg(feature = "log")]
    pub(crate) fn mark_logged(&mut self) {
        if self.first_meta().is_none() {
            self.meta.insert(0, (0, Box::default()));
        }
        if let Some((_, meta)) = self.meta.first_mut() {
            meta.is_logged = true;
        }
    }

    /// Tells those who wait for the end of the messages how they have ended.
    #[cfg(feature = "log")]
    pub(crate) fn end_tracked(&self, end: Status) {
        let trackers = self.meta.iter().filter_map(|(_, meta)| meta.tracker());
        trackers.for_each(|tracker| tracker.end(end));
    }

    /// Takes out the only message, unless there are more.
    #[cfg(feature = "log")]
    pub(crate) fn into_one(mut self) -> Result<(T, Option<Box<Meta>>), Self> {
        match (self.payloads.pop(), self.payloads.is_empty()) {
            (Some(only), true) => Ok((only, self.meta.pop().map(|(_, meta)| meta))),
            (last, _) => {
                self.payloads.extend(last);
                Err(self)
            }
        }
    }

    /// Puts messages back that were taken from the front.
    #[cfg(feature = "log")]
    pub(crate) fn put_front(&mut self, taken: Self) {
        let rest = std::mem::replace(self, taken);
        let by = self.payloads.len() as u32;
        self.payloads.extend(rest.payloads);
        let moved = rest.meta.into_iter();
        self.meta
            .extend(moved.map(|(index, meta)| (index + by, meta)));
    }

    /// Returns each as the message that it was made of.
    pub(crate) fn into_messages(self) -> impl Iterator<Item = Message<T>> {
        self.into_each().map(Message::from_parts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keyed(key: u32) -> Box<Meta> {
        let key = Some(key.to_string().into());
        Box::new(Meta {
            key,
            ..Meta::default()
        })
    }

    #[test]
    fn parts_stay_with_their_payload_wherever_a_chunk_is_cut() {
        for cut in 0..=5 {
            let mut chunk = Chunk::EMPTY;
            for payload in 0..5 {
                let meta = (payload % 2 == 1).then(|| keyed(payload));
                chunk.push(payload, meta);
            }
            let front = chunk.take_front(cut, |payloads, count| payloads.drain(..count).collect());
            assert_eq!((front.len(), chunk.len()), (cut, 5 - cut));
            for (payload, meta) in front.into_each().chain(chunk.into_each()) {
                assert_eq!(meta, (payload % 2 == 1).then(|| keyed(payload)));
            }
        }
    }

    #[test]
    fn the_payloads_before_the_first_key_are_counted() {
        let mut chunk = Chunk::EMPTY;
        let text = Box::new(Meta {
            ttl_ns: Some(1),
            ..Meta::default()
        });
        for (payload, meta) in [None, Some(text), None, Some(keyed(1))]
            .into_iter()
            .enumerate()
        {
            assert_eq!(chunk.before(|meta| meta.key.is_some()), payload);
            chunk.push(payload, meta);
        }
        assert_eq!(chunk.before(|meta| meta.key.is_some()), 3);
    }
}
