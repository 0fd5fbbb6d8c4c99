//! Which member of a group has which key.
//!
//! Which one it is nobody promises but rendezvous hashing: each key ranks the members once
//! and for all, and whoever is ranked first of those that are there has it. So a key stays
//! where it is while nobody joins or leaves, and who joins or leaves moves no others.

use std::collections::BTreeSet;

use super::Lane;

/// A call of a member's handler.
pub struct Take {
    /// What tells the member from all others of all times.
    pub member: usize,
    pub key: Option<String>,
}

/// What the calls so far have shown of the ranks: this key ranks the first before the second.
pub type Ranks = BTreeSet<(String, usize, usize)>;

impl Lane {
    /// The members that are there have made these calls.
    pub fn check_takes(&mut self) {
        for Take { member, key } in self.takes.take() {
            assert!(self.members.contains(&member), "nobody else is there");
            let Some(key) = key else { continue };
            for &other in self.members.iter().filter(|other| **other != member) {
                let opposite = (key.clone(), other, member);
                assert!(
                    !self.ranks.contains(&opposite),
                    "{key} has moved from {other} to {member}, who was there before"
                );
                self.ranks.insert((key.clone(), member, other));
            }
        }
    }
}
