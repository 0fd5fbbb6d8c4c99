//! Subscribers to dead letters, beside all others who take letters out.

use std::sync::{Arc, Mutex};

use millstream::DeadLetters;
use millstream::dead_letters::{DeadLetter, LetterAction};

use super::explore::explore;
use super::*;

/// The letter that some handler has at the moment.
#[derive(Clone, Default)]
struct InHand(Arc<Mutex<Vec<Sent>>>);

impl InHand {
    fn is_nobodys(&self, sent: Sent) -> bool {
        !self.0.lock().unwrap().contains(&sent)
    }

    fn with(&self, sent: Sent) {
        assert!(self.is_nobodys(sent), "two have {sent:?}");
        self.0.lock().unwrap().push(sent);
        thread::yield_now();
        self.0.lock().unwrap().retain(|other| *other != sent);
    }
}

/// A handler that writes down what it gets, and decides by who published it.
fn decide(
    log: &Log<Sent>,
    in_hand: &InHand,
    action: fn(u64) -> LetterAction,
) -> impl Fn(&DeadLetter<Sent>) -> Result<LetterAction, Box<dyn std::error::Error + Send + Sync>>
+ Send
+ Sync
+ 'static
+ use<> {
    let (log, in_hand) = (log.clone(), in_hand.clone());
    move |letter| {
        in_hand.with(*letter.payload());
        log.push(*letter.payload());
        Ok(action(letter.payload().0))
    }
}

#[test]
fn letters_are_handed_out_while_they_are_redriven_purged_and_evicted() {
    explore(|| {
        let broker = broker();
        let topic = broker.topic::<Sent>("a").dead_letter_capacity(2);
        let topic = topic.open().unwrap();
        let (in_hand, delivered) = (InHand::default(), Log::new());
        let (of_handler, held) = (delivered.clone(), in_hand.clone());
        let subscription = topic.subscribe("x", move |delivery| {
            let sent = *delivery.payload();
            if delivery.generation() == 0 {
                return Err(Nack::dead_letter("not in this life"));
            }
            assert!(held.is_nobodys(sent), "it was redriven out of a hand");
            of_handler.push(sent);
            Ok(())
        });
        subscription.unwrap().detach();
        let (seen, watched) = (Log::new(), Log::new());
        let desk = decide(&seen, &in_hand, |publisher| match publisher {
            0 => LetterAction::Keep,
            1 => LetterAction::Purge,
            _ => LetterAction::Redrive,
        });
        let desk = topic.dead_letters().subscribe("desk", desk).unwrap();
        let watch = decide(&watched, &in_hand, |_| LetterAction::Keep);
        let watch = broker.dead_letters().subscribe("watch", "*", watch);
        watch.unwrap().detach();
        let mut threads = publishers({
            let topic = topic.clone();
            move |publisher| {
                topic.publish((publisher, 0)).unwrap();
            }
        });
        let taken = Arc::new(Mutex::new([0; 2]));
        let take = |act: fn(&DeadLetters<Sent>) -> [u64; 2]| {
            let (letters, taken) = (topic.dead_letters(), Arc::clone(&taken));
            thread::spawn(move || {
                let [purged, redriven] = act(&letters);
                let mut taken = taken.lock().unwrap();
                taken[0] += purged;
                taken[1] += redriven;
            })
        };
        threads.push(take(|letters| {
            [letters.purge(|letter| letter.payload().0 == 3) as u64, 0]
        }));
        threads.push(take(|letters| [0, letters.redrive_all().redriven as u64]));
        let last = desk.unsubscribe().expect("it is outside of all handlers");
        let calls = seen.len() as u64;
        assert_eq!((last.calls, last.running), (calls, 0));
        join(threads);
        let report = drain(&broker);
        assert_eq!(seen.len() as u64, calls, "a call after the end");
        let metrics = topic.metrics();
        let [purged, redriven] = *taken.lock().unwrap();
        let gone = purged + last.purged + redriven + last.redriven + metrics.letters_evicted;
        let left = topic.dead_letters().len() as u64;
        assert_eq!(report.dead_lettered, left + gone);
        assert_eq!(report.delivered, redriven + last.redriven);
        let watched = watched.take();
        for letter in topic.dead_letters().list() {
            assert!(
                watched.contains(letter.payload()),
                "{letter:?} was not seen"
            );
        }
        for mut log in [seen.take(), watched, delivered.take()] {
            log.sort_unstable();
            assert!(log.is_sorted_by(|a, b| a < b), "twice: {log:?}");
        }
    });
}
