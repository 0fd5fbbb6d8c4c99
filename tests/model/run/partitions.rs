//! Changes the number of partitions.

use millstream::error::PartitionsError;
use millstream::key_hash;

use super::Pair;
use crate::program::{LINES, name_of};

impl Pair {
    pub fn split(&mut self, partitions: usize) {
        let Some(now) = self.model.setup.partitions else {
            return;
        };
        let real = self.topic.set_partitions(partitions);
        if partitions > self.model.setup.capacity {
            assert!(matches!(real, Err(PartitionsError::Invalid(_))), "{real:?}");
        } else if partitions != now && self.model.is_changing() {
            assert!(matches!(real, Err(PartitionsError::Underway)), "{real:?}");
        } else {
            real.expect("the last change is done");
            self.model.setup.partitions = Some(partitions);
            if partitions != now {
                let waiting = self.model.queue.iter().map(|message| message.id);
                self.model.before_change = waiting.collect();
            }
        }
        self.check_partitions();
    }

    /// Each key goes to the partition that its frozen hash says.
    fn check_partitions(&self) {
        let partitions = self.model.setup.partitions.unwrap_or(1);
        assert_eq!(self.topic.partitions(), partitions);
        for key in (0..LINES).map(name_of) {
            let expected = key_hash(&key) % partitions as u64;
            assert_eq!(self.topic.partition_of(&key) as u64, expected);
        }
    }
}
