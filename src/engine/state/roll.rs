//! Changes of a topic's list of lanes.
//!
//! The dispatcher reads the list for each batch. It wants a plain vector that never changes, so
//! each change makes a new one. To copy it all for each of many subscribers in a row would take
//! time by the square of their number.
//!
//! So a long list has a twin: the list before it, brought up to date, if no reader holds it any
//! more. The next change is made to the twin, and the two change places. Names are looked up in an
//! index. Short lists have neither, and cost nothing more.

use std::collections::HashMap;

use crate::engine::state::lane::Lane;
use crate::engine::state::topic::Lanes;
use crate::sync::{Arc, Mutex, Slot};

/// The number of lanes from which on a list is long.
const LONG: usize = 64;

/// The twin and the index of a long list. They are used under the lock of `TopicCore::ended`. Their
/// lanes are in the list as well, so none is dropped in here.
pub(crate) struct Roll<T>(Mutex<State<T>>);

struct State<T> {
    twin: Option<Arc<Lanes<T>>>,
    /// The latest lane of each name; empty if the index has yet to be made.
    names: HashMap<Arc<str>, Arc<Lane<T>>>,
}

impl<T> State<T> {
    fn new() -> Self {
        Self {
            twin: None,
            names: HashMap::new(),
        }
    }
}

impl<T: Send + Sync + 'static> Roll<T> {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(State::new()))
    }

    /// Returns the open lane of this name, if there is one.
    pub(crate) fn find_open(&self, list: &Slot<Lanes<T>>, name: &str) -> Option<Arc<Lane<T>>> {
        let answers = |lane: &&Arc<Lane<T>>| lane.answers_to(name);
        let lanes = list.load();
        if lanes.len() < LONG {
            return lanes.iter().find(answers).cloned();
        }
        let mut state = self.0.lock();
        if state.names.is_empty() {
            let named = lanes
                .iter()
                .map(|lane| (Arc::clone(&lane.name), Arc::clone(lane)));
            state.names.extend(named);
        }
        state.names.get(name).filter(answers).cloned()
    }

    /// Puts a lane on the list.
    pub(crate) fn add(&self, list: &Slot<Lanes<T>>, lane: &Arc<Lane<T>>) {
        let mut state = self.0.lock();
        if !state.names.is_empty() {
            state.names.insert(Arc::clone(&lane.name), Arc::clone(lane));
        }
        state.change(list, |lanes| lanes.push(Arc::clone(lane)));
    }

    /// Takes a lane off the list.
    pub(crate) fn remove(&self, list: &Slot<Lanes<T>>, lane: &Arc<Lane<T>>) {
        let mut state = self.0.lock();
        let is_latest = |latest: &Arc<Lane<T>>| Arc::ptr_eq(latest, lane);
        if state.names.get(&lane.name).is_some_and(is_latest) {
            state.names.remove(&lane.name);
        }
        state.change(list, |lanes| {
            lanes.retain(|other| !Arc::ptr_eq(other, lane))
        });
    }

    /// Forgets twin and index, for the end. The caller drops them where no lock is held.
    pub(crate) fn release_user_code(&self) -> impl Sized + use<T> {
        std::mem::replace(&mut *self.0.lock(), State::new())
    }
}

impl<T: Send + Sync + 'static> State<T> {
    fn change(&mut self, list: &Slot<Lanes<T>>, change: impl Fn(&mut Lanes<T>)) {
        let twin = self.twin.take().and_then(Arc::into_inner);
        let mut next = twin.unwrap_or_else(|| Lanes::clone(&list.load()));
        change(&mut next);
        let is_long = next.len() >= LONG;
        let mut before = list.swap(Arc::new(next));
        if !is_long {
            self.names = HashMap::new();
        } else if let Some(twin) = Arc::get_mut(&mut before) {
            change(twin);
            self.twin = Some(before);
        }
    }
}
