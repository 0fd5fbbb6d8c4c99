//! Which deliveries have to wait for another one of their key.

use millstream::dead_letters::DeadReason;

use super::{Lane, Letter, Message, Model, Tried};

/// What makes deliveries wait for each other: those of one line do.
pub type Line = u8;

impl Lane {
    fn line_of(&self, message: &Message) -> Option<Line> {
        self.shape.line_of(message.key)
    }

    /// Whether a retry holds the line up, or one of it is out on lease.
    fn is_held(&self, line: Line) -> bool {
        let waiting = self.waiting.iter().filter(|_| self.shape.blocks());
        let waiting = waiting.map(|(_, tried)| tried);
        let mut others = waiting.chain(self.out.iter().map(|leased| &leased.tried));
        others.any(|tried| self.line_of(&tried.message) == Some(line))
    }

    /// Whether a delivery may go: no retry holds its line up, and none of it is before it.
    pub fn may_go(&self, message: &Message) -> bool {
        let Some(line) = self.line_of(message) else {
            return true;
        };
        let others = self.returns.iter().map(|tried| &tried.message);
        let mut others = others.chain(&self.queue);
        let is_before =
            |other: &Message| other.id < message.id && self.line_of(other) == Some(line);
        !self.is_held(line) && !others.any(is_before)
    }

    /// The place of a delivery that has come back and may be tried.
    pub fn ready_return(&self) -> Option<usize> {
        let mut returns = self.returns.iter();
        returns.position(|tried| self.may_go(&tried.message))
    }

    /// The place of the first new delivery that may be tried. At most as many are set
    /// aside before it as the lane may hold.
    pub fn ready_new(&self) -> Option<usize> {
        let mut within = self.queue.iter().take(self.room_aside());
        within.position(|message| self.may_go(message))
    }

    /// How many more may be set aside.
    fn room_aside(&self) -> usize {
        let hold = self.shape.hold.unwrap_or(self.shape.capacity);
        hold.saturating_sub(self.strays.len())
    }

    /// Keys that wait for a retry.
    pub fn held_lines(&self) -> usize {
        let mut lines: Vec<_> = match self.shape.blocks() {
            true => self
                .waiting
                .iter()
                .filter_map(|(_, tried)| self.line_of(&tried.message))
                .collect(),
            false => Vec::new(),
        };
        lines.sort_unstable();
        lines.dedup();
        lines.len()
    }

    /// A letter that was redriven comes back, unless one before it is on its way to the
    /// dead letters.
    pub fn rejoin(&mut self, redriven: Tried) {
        let line = self.line_of(&redriven.message);
        let is_before = |stray: &Tried| {
            stray.message.id < redriven.message.id && self.line_of(&stray.message) == line
        };
        if line.is_some() && self.strays.iter().any(is_before) {
            self.strays.push_back(redriven);
        } else {
            self.returns.push_back(redriven);
        }
    }

    /// What was redriven and is behind a letter of its line is set aside, to follow it.
    pub fn set_aside_behind(&mut self, head: &Message) {
        let line = self.line_of(head);
        let (shape, id) = (self.shape, head.id);
        let follows = |other: &Message| other.id > id && shape.line_of(other.key) == line;
        let again = self.returns.iter().filter(|other| follows(&other.message));
        self.strays.extend(again.copied());
        self.returns.retain(|other| !follows(&other.message));
        let strays = self.strays.make_contiguous();
        strays.sort_by_key(|stray| stray.message.id);
    }
}

impl Model {
    /// Whether the store has letters that park this key in this subscription.
    fn is_parked(&self, slot: usize, key: Option<Line>) -> bool {
        let mut letters = self.letters.iter().filter(|letter| letter.slot == slot);
        let parks = |letter: &Letter| letter.parks() && self.messages[&letter.id].key == key;
        key.is_some() && letters.any(parks)
    }

    /// Whether one before this letter of its line still waits for its first attempt: it
    /// expired, and nobody says which of the two goes first if it is redriven.
    pub fn is_ahead(&self, letter: &Letter) -> bool {
        let lanes = self.lanes.iter().filter(|lane| lane.slot == letter.slot);
        lanes.into_iter().any(|lane| {
            let line = lane.line_of(&self.messages[&letter.id]);
            let waiting = lane.queue.iter().chain(&self.queue);
            let mut before = waiting.filter(|other| other.id < letter.id);
            line.is_some() && before.any(|other| lane.line_of(other) == line)
        })
    }

    /// Keys of a subscription whose deliveries follow others into the dead letters.
    pub fn parked_lines(&self, slot: usize) -> usize {
        let letters = self.letters.iter().filter(|letter| letter.slot == slot);
        let mut keys: Vec<_> = letters
            .filter(|letter| letter.parks())
            .filter_map(|letter| self.messages[&letter.id].key)
            .collect();
        keys.sort_unstable();
        keys.dedup();
        keys.len()
    }

    /// What was set aside follows its key into the dead letters, or goes on if that is not
    /// parked any more. A gate holds none of it. Whether there was any.
    pub fn judge_strays(&mut self, at: usize) -> bool {
        let Some(stray) = self.lanes[at].strays.pop_front() else {
            return false;
        };
        if self.is_parked(self.lanes[at].slot, stray.message.key) {
            match self.now >= stray.expires() {
                true => self.expire(at, stray),
                false => self.bury(at, stray, DeadReason::KeyParked),
            }
        } else if stray.generation == 0 {
            let queue = &mut self.lanes[at].queue;
            let place = queue.partition_point(|other| other.id < stray.message.id);
            queue.insert(place, stray.message);
        } else {
            self.lanes[at].returns.push_back(stray);
        }
        true
    }

    /// Something that waits of a parked key is set aside. Whether there was any.
    pub fn park(&mut self, at: usize) -> bool {
        if !self.lanes[at].shape.parks() {
            return false;
        }
        let slot = self.lanes[at].slot;
        let lane = &self.lanes[at];
        let mut within = lane.queue.iter().take(lane.room_aside());
        let Some(place) = within.position(|message| self.is_parked(slot, message.key)) else {
            return false;
        };
        if let Some(follower) = self.lanes[at].queue.remove(place) {
            self.lanes[at].strays.push_back(Tried::first(follower));
        }
        true
    }
}
