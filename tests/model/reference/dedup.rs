//! Which dedup ids a topic remembers.

use super::Model;

impl Model {
    /// The message that was accepted with this id, if the topic remembers it.
    pub fn first_with(&mut self, id: u8) -> Option<u64> {
        let (window, _) = self.setup.dedup?;
        let now = self.now;
        self.ids.retain(|(_, _, at)| now - at < window);
        let mut ids = self.ids.iter();
        ids.find(|(of, _, _)| *of == id).map(|(_, first, _)| *first)
    }

    pub fn remember(&mut self, id: u8, first: u64) {
        self.ids.push_back((id, first, self.now));
        self.forget_the_oldest();
    }

    pub fn forget_the_oldest(&mut self) {
        let most = self.setup.dedup.map_or(0, |(_, most)| most);
        while self.ids.len() > most {
            self.ids.pop_front();
        }
    }
}
