//! Which messages a topic keeps for subscriptions that come late, and what one gets.

use super::{Lane, Letter, Message, Model};
use crate::program::Retain;

impl Model {
    /// Keeps a message that leaves the queue for the lanes, if there are any.
    pub fn keep(&mut self, message: Message) {
        let most = match self.setup.retain {
            None => return,
            Some(Retain::Last(most)) => most,
            Some(Retain::PerKey(most)) => {
                self.kept.retain(|other| other.key != message.key);
                most
            }
        };
        self.kept.push(message);
        let surplus = self.kept.len().saturating_sub(most);
        self.kept.drain(..surplus);
    }

    /// Whether a subscription of this name has got the message of a letter again.
    pub fn is_there_twice(&self, letter: &Letter, all: &[Letter]) -> bool {
        let Letter { slot, id, .. } = *letter;
        let letters = all
            .iter()
            .filter(|other| (other.slot, other.id) == (slot, id));
        let mut lanes = self.lanes.iter().filter(|lane| lane.slot == slot);
        self.setup.retain.is_some() && (letters.count() > 1 || lanes.any(|lane| lane.has(id)))
    }

    /// Gives a lane that joins what is kept: the newest, as far as it has room.
    pub fn give_kept(&self, lane: &mut Lane) {
        let is_fresh = |message: &&Message| message.expires.is_none_or(|at| self.now < at);
        let fresh = self.kept.iter().filter(is_fresh);
        let (refused, wanted): (Vec<Message>, Vec<Message>) =
            fresh.partition(|message| lane.shape.refuses(message.id));
        let surplus = wanted.len().saturating_sub(lane.shape.capacity);
        lane.retained = wanted.len() - surplus;
        lane.counts.made += (refused.len() + lane.retained) as u64;
        lane.counts.filtered += refused.len() as u64;
        for message in &wanted[surplus..] {
            lane.offered.push(message.id);
            if lane.shape.is_exact() {
                lane.queue.push_back(*message);
            }
        }
    }
}
