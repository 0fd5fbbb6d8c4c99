//! The wake-up call of a task that waits for a batch to fill: a dispatcher, the lane of a batch
//! handler, or a buffer.

use crate::engine::runtime::Engine;
use crate::engine::wait::fire::{Fire, Tag};
use crate::pure::wheel::{TimerKey, due_tick};
use crate::sync::Arc;

/// At most one deadline, by the timer's clock.
#[derive(Default)]
pub(crate) struct Linger(Option<(TimerKey, u64)>);

impl Linger {
    /// Has `target` look again in `delay_ns` at the latest; `None` takes the call back. An earlier
    /// call stays, and so does one in the same tick.
    pub(crate) fn set(&mut self, engine: &Engine, delay_ns: Option<u64>, target: Arc<dyn Fire>) {
        let Some(delay_ns) = delay_ns else {
            return self.cancel(engine);
        };
        let now_ns = engine.clock.timer_ns();
        let due_ns = now_ns.saturating_add(delay_ns);
        let to_come = self.0.filter(|(_, at_ns)| *at_ns > now_ns);
        if to_come.is_some_and(|(_, at_ns)| due_tick(at_ns) <= due_tick(due_ns)) {
            return;
        }
        self.cancel(engine);
        let key = engine.timer.insert(due_ns, Tag::Look, target);
        self.0 = Some((key, due_ns));
    }

    /// Takes the call back.
    pub(crate) fn cancel(&mut self, engine: &Engine) {
        if let Some((key, _)) = self.0.take() {
            engine.timer.cancel(key);
        }
    }
}
