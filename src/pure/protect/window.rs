//! Counts of two kinds of events over a window of time.
//!
//! The window is cut into ten buckets, and the oldest bucket leaves it as a whole. So the counts
//! cover between nine and ten tenths of the window, and adding to them takes constant time and no
//! memory.

/// The number of buckets of a window.
const BUCKETS: u64 = 10;

/// How often each of two kinds of events has happened.
pub(crate) type Counts = [u32; 2];

/// The counts of the last window of time.
#[derive(Clone, Debug)]
pub(crate) struct Window {
    /// The length of one bucket.
    width_ns: u64,
    /// The number of the newest bucket, counted from the clock's zero.
    newest: u64,
    /// The end of the newest bucket.
    ends_ns: u64,
    /// The bucket of each number, at that number modulo [`BUCKETS`].
    buckets: [Counts; BUCKETS as usize],
}

impl Window {
    pub(crate) fn new(length_ns: u64) -> Self {
        let width_ns = length_ns.div_ceil(BUCKETS).max(1);
        Self {
            width_ns,
            newest: 0,
            ends_ns: width_ns,
            buckets: [[0; 2]; BUCKETS as usize],
        }
    }

    /// Adds `count` events of this kind, 0 or 1.
    ///
    /// A time before the newest bucket counts as that bucket's.
    pub(crate) fn add(&mut self, kind: usize, count: u32, now_ns: u64) {
        self.advance(now_ns);
        let sum = &mut self.buckets[(self.newest % BUCKETS) as usize][kind];
        *sum = sum.saturating_add(count);
    }

    /// Returns how many events of each kind the window holds.
    pub(crate) fn sums(&mut self, now_ns: u64) -> [u64; 2] {
        self.advance(now_ns);
        let add = |sums: [u64; 2], counts: &Counts| {
            [
                sums[0] + u64::from(counts[0]),
                sums[1] + u64::from(counts[1]),
            ]
        };
        self.buckets.iter().fold([0; 2], add)
    }

    /// Returns when the oldest events of this kind leave the window, if it holds any.
    pub(crate) fn leave_ns(&self, kind: usize) -> Option<u64> {
        let ages = (0..BUCKETS.min(self.newest.saturating_add(1))).rev();
        let numbers = ages.map(|age| self.newest - age);
        let holds = |number: &u64| self.buckets[(number % BUCKETS) as usize][kind] > 0;
        let oldest = numbers.into_iter().find(holds)?;
        Some(oldest.saturating_add(BUCKETS).saturating_mul(self.width_ns))
    }

    /// Forgets all events.
    pub(crate) fn clear(&mut self) {
        self.buckets = [[0; 2]; BUCKETS as usize];
    }

    /// Lets the buckets go that this time has left behind.
    fn advance(&mut self, now_ns: u64) {
        if now_ns < self.ends_ns {
            return;
        }
        let number = now_ns / self.width_ns;
        // The multiplication saturates for the last bucket of all time alone, which is then
        // looked for again each time.
        for passed in 1..=(number - self.newest).min(BUCKETS) {
            self.buckets[((self.newest + passed) % BUCKETS) as usize] = [0; 2];
        }
        // A jump over all buckets has emptied them all, whichever comes next.
        self.newest = number;
        self.ends_ns = number.saturating_add(1).saturating_mul(self.width_ns);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_event_leaves_with_its_bucket() {
        // Ten buckets of 10 ns each. The event is in the one from 20 to 30.
        for (now, held) in [(25, 3), (29, 3), (30, 3), (119, 3), (120, 0), (u64::MAX, 0)] {
            let mut window = Window::new(100);
            window.add(1, 3, 25);
            assert_eq!(window.leave_ns(1), Some(120));
            assert_eq!(window.leave_ns(0), None);
            assert_eq!(window.sums(now), [0, held], "at {now}");
            assert_eq!(window.leave_ns(1).is_some(), held > 0, "at {now}");
        }
    }

    #[test]
    fn a_time_before_the_newest_bucket_counts_as_now() {
        let mut window = Window::new(100);
        window.add(0, 1, 55);
        window.add(0, 1, 5);
        assert_eq!(window.sums(5), [2, 0]);
        assert_eq!(window.leave_ns(0), Some(150));
    }

    #[test]
    fn neither_the_end_of_time_nor_a_flood_of_events_overflows() {
        for length in [0, 1, 100, u64::MAX] {
            let mut window = Window::new(length);
            for now in [0, u64::MAX - 1, u64::MAX, u64::MAX] {
                window.add(0, u32::MAX, now);
                window.add(0, u32::MAX, now);
                let [sum, _] = window.sums(now);
                assert!(sum >= u64::from(u32::MAX), "{length} at {now}");
            }
            window.clear();
            assert_eq!((window.sums(0), window.leave_ns(0)), ([0, 0], None));
        }
    }

    proptest! {
        /// The model keeps every event, with the number of its bucket.
        #[test]
        fn it_counts_what_a_list_of_all_events_counts(
            length in 1_u64..500,
            steps in prop::collection::vec((0_u64..120, 0_usize..2, 0_u32..4), 0..80),
        ) {
            let mut window = Window::new(length);
            let width = length.div_ceil(10);
            let mut events: Vec<(u64, usize, u32)> = Vec::new();
            let mut now = 0;
            for (passed, kind, count) in steps {
                now += passed;
                window.add(kind, count, now);
                events.push((now / width, kind, count));
                let number = now / width;
                let held = |kind| {
                    let events = events.iter();
                    events.filter(move |(at, of, count)| *of == kind && *count > 0 && at + 10 > number)
                };
                let sum = |kind| held(kind).map(|(_, _, count)| u64::from(*count)).sum::<u64>();
                prop_assert_eq!(window.sums(now), [sum(0), sum(1)]);
                for kind in [0, 1] {
                    let oldest = held(kind).map(|(number, _, _)| (number + 10) * width).min();
                    prop_assert_eq!(window.leave_ns(kind), oldest);
                }
            }
        }
    }
}
