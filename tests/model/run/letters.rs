//! Redrives and purges dead letters.

use std::sync::mpsc;

use millstream::OnExpired;
use millstream::dead_letters::{DeadLetter, LetterAction, Redrive};

use super::Pair;
use crate::program::{NAMES, SLOTS, Shape};
use crate::reference::{Letter, Phase, Tried};

impl Pair {
    /// The letters in the store, oldest first.
    pub fn letters(&self) -> Vec<Letter> {
        let list = self.topic.dead_letters().list();
        let letter = |letter: &DeadLetter<u64>| {
            let slot = slot_of(letter.subscription());
            Letter {
                slot,
                id: letter.id().get(),
                generation: letter.generation(),
                attempts: letter.attempts(),
                reason: letter.reason(),
                of_parking: self.model.setup.shapes[slot].parks(),
            }
        };
        list.iter().map(letter).collect()
    }

    pub fn purge(&mut self, slot: Option<usize>) {
        let chosen = |other: usize| slot.is_none_or(|slot| slot == other);
        let before = self.letters();
        let expected = before.iter().filter(|letter| chosen(letter.slot)).count();
        let letters = self.topic.dead_letters();
        let purged = letters.purge(|letter| chosen(slot_of(letter.subscription())));
        assert_eq!(purged, expected);
        self.taken += purged;
        self.model.letters.retain(|letter| !chosen(letter.slot));
    }

    /// Hands the letters to a subscriber, which keeps some and purges the others. It purges none
    /// where others might follow into the room.
    pub fn read(&mut self) {
        self.broker.run_until_idle();
        self.model.run();
        let purges = !self.model.setup.shapes.iter().any(Shape::parks);
        let is_purged = move |id: u64| purges && id.is_multiple_of(2);
        let before = self.letters();
        let (hand, handed) = mpsc::channel();
        let subscribed = self
            .topic
            .dead_letters()
            .subscribe("reader", move |letter| {
                let id = letter.id().get();
                let known = (slot_of(letter.subscription()), id, letter.generation());
                hand.send(known).expect("it is waited for");
                Ok(match is_purged(id) {
                    true => LetterAction::Purge,
                    false => LetterAction::Keep,
                })
            });
        let reader = subscribed.expect("nobody else has the name");
        self.broker.run_until_idle();
        self.model.run();
        let last = reader.unsubscribe().expect("it is outside of all handlers");
        let handed: Vec<_> = handed.iter().collect();
        assert_eq!(handed, before.iter().map(Letter::order).collect::<Vec<_>>());
        let purged = before.iter().filter(|letter| is_purged(letter.id)).count();
        assert_eq!(last.purged, purged as u64);
        assert_eq!(last.kept, (before.len() - purged) as u64);
        self.taken += purged;
        self.model.letters.retain(|letter| !is_purged(letter.id));
    }

    pub fn redrive(&mut self, slot: Option<usize>) {
        let is_unsure = self
            .model
            .setup
            .shapes
            .iter()
            .any(|shape| !shape.is_exact());
        if self.model.setup.on_expired == OnExpired::DeadLetter || is_unsure {
            // Otherwise a letter of what expires to make room might push out another, and what
            // has expired in a lane that drops might make room.
            self.broker.run_until_idle();
            self.model.run();
        }
        let mut before = self.letters();
        let all = before.clone();
        before.retain(|letter| !self.model.is_there_twice(letter, &all));
        before.retain(|letter| slot.is_none_or(|slot| slot == letter.slot));
        before.retain(|letter| !self.model.is_ahead(letter));
        before.sort_by_key(|letter| letter.id);
        let chosen: Vec<_> = before.iter().map(Letter::order).collect();
        let metrics = self.topic.metrics();
        let real = self.topic.dead_letters().redrive(|letter| {
            let slot = slot_of(letter.subscription());
            chosen.contains(&(slot, letter.id().get(), letter.generation()))
        });
        let mut expected = Redrive::default();
        let mut redriven = [0; SLOTS];
        for letter in before {
            let Letter {
                slot,
                id,
                generation,
                ..
            } = letter;
            let mut lanes = self.model.lanes.iter_mut();
            let Some(lane) = lanes.find(|lane| lane.slot == slot && lane.phase == Phase::Open)
            else {
                expected.no_subscription += 1;
                continue;
            };
            let is_full = lane.shape.is_exact() && lane.is_full();
            if is_full {
                let at = self.place_of(slot);
                self.model.expire_in_lane(at);
            }
            let message = self.model.messages[&id];
            let lane = self.lane(slot);
            let occupied = match lane.shape.is_exact() {
                true => lane.occupied(),
                false => {
                    // Lanes that are ending may have the same name.
                    let mut lanes = metrics.subscriptions.iter().rev();
                    let real = lanes.find(|lane| lane.name == NAMES[slot]);
                    let counts = real.expect("it is open").counts;
                    (counts.made - counts.ended()) as usize + redriven[slot]
                }
            };
            // Strays may wait for the room that the letter leaves.
            if occupied >= lane.shape.capacity + lane.strays.len() {
                expected.no_room += 1;
                continue;
            }
            expected.redriven += 1;
            redriven[slot] += 1;
            lane.counts.made += 1;
            lane.counts.redriven += 1;
            if lane.shape.is_exact() {
                lane.rejoin(Tried {
                    generation: generation + 1,
                    ..Tried::first(message)
                });
                let letters = &mut self.model.letters;
                let at = letters.iter().position(|other| *other == letter);
                letters.remove(at.expect("the store has what the model has"));
            }
        }
        assert_eq!(real, expected);
        self.taken += real.redriven;
    }
}

pub fn slot_of(name: &str) -> usize {
    let at = NAMES.iter().position(|other| *other == name);
    at.expect("nobody else subscribed")
}
