//! Messages that were lost to damage.

use crate::pure::log::state::{Inconsistent, State, TopicState};

impl State {
    /// Notes that messages are lost. Every subscription is done with them, those that come later,
    /// too: nobody waits for a message that can't come.
    pub(super) fn lose(&mut self, topic: u32, from: u64, to: u64) -> Result<(), Inconsistent> {
        let state = self.topics.get_mut(&topic).ok_or(Inconsistent)?;
        let before = state.lost.last().map_or(0, |(_, to)| *to);
        // Ranges before the topic's next number are in checkpoints.
        let is_known = to <= state.next_seq;
        let is_next = from == state.next_seq;
        if from >= to || from < before || !(is_known || is_next) {
            return Err(Inconsistent);
        }
        state.next_seq = state.next_seq.max(to);
        state.lost.push((from, to));
        let all = self.subscriptions.values_mut();
        for one in all.filter(|one| one.topic == topic) {
            one.done.add(from, to);
            one.failed.retain(|seq, _| !one.done.contains(*seq));
        }
        Ok(())
    }
}

impl TopicState {
    /// Returns the first message that retention has left and that is not lost.
    pub(super) fn first_not_lost(&self) -> u64 {
        self.lost.iter().fold(self.first_seq, |first, (from, to)| {
            if *from <= first {
                first.max(*to)
            } else {
                first
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pure::log::record::Record;
    use crate::pure::log::state::Place;

    const PLACE: Place = Place {
        segment: 1,
        offset: 56,
    };

    fn lost(from: u64, to: u64) -> Record<'static> {
        Record::Lost { topic: 0, from, to }
    }

    fn subscription(subscription: u32, name: &str) -> Record<'_> {
        Record::Subscription {
            subscription,
            topic: 0,
            next: 1,
            name,
        }
    }

    fn with_topic() -> State {
        let mut state = State::default();
        let topic = Record::Topic {
            topic: 0,
            first_seq: 1,
            next_seq: 1,
            name: "orders",
        };
        state.apply(&topic, PLACE).expect("new");
        state
    }

    #[test]
    fn lost_messages_hold_no_subscription_up_whenever_it_came() {
        let mut state = with_topic();
        state.apply(&subscription(0, "early"), PLACE).expect("new");
        state.apply(&lost(1, 5), PLACE).expect("the next");
        state.apply(&subscription(1, "late"), PLACE).expect("new");
        for (_, one) in state.subscriptions() {
            assert_eq!(one.done.next(), 5, "{}", one.name);
        }
        assert_eq!(state.topic(0).expect("it").next_seq, 5);
        let mut built = State::default();
        state.checkpoint(|record| built.apply(record, PLACE).expect("consistent"));
        assert_eq!(built, state);
    }

    #[test]
    fn retention_forgets_what_was_lost_before_its_first_message() {
        let mut state = with_topic();
        state.apply(&lost(1, 5), PLACE).expect("the next");
        let trim = |first_seq| Record::Trim {
            topic: 0,
            first_seq,
        };
        state.apply(&trim(4), PLACE).expect("forward");
        assert_eq!(state.topic(0).expect("it").lost, [(1, 5)]);
        state.apply(&trim(5), PLACE).expect("forward");
        assert_eq!(state.topic(0).expect("it").lost, []);
    }

    #[test]
    fn what_never_was_is_not_lost() {
        let mut state = with_topic();
        for (from, to) in [(1, 1), (2, 5)] {
            assert_eq!(state.apply(&lost(from, to), PLACE), Err(Inconsistent));
        }
        state.apply(&lost(1, 5), PLACE).expect("the next");
        for (from, to) in [(3, 5), (4, 9), (6, 9)] {
            assert_eq!(state.apply(&lost(from, to), PLACE), Err(Inconsistent));
        }
    }
}
