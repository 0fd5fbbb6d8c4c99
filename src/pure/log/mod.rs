//! The format of the log, and what its records add up to: functions of bytes.

/// Does a step of the log's protocols, its second expression. A test may break the step: its last
/// expression stands in then, or nothing. `log/tests/breaks.rs` has the table of them, and shows
/// that the tests see the difference.
macro_rules! step {
    ($name:literal, $ships:expr $(, $broken:expr)? $(,)?) => {{
        #[cfg(not(test))]
        {
            $ships
        }
        #[cfg(test)]
        if crate::pure::log::broken::is($name) {
            $($broken)?
        } else {
            $ships
        }
    }};
}
pub(crate) use step;

pub(crate) mod bytes;
pub(crate) mod feed;
pub(crate) mod frame;
pub(crate) mod header;
pub(crate) mod message;
pub(crate) mod ranges;
pub(crate) mod record;
pub(crate) mod retention;
pub(crate) mod state;
pub(crate) mod walk;

/// The step that is broken for tests of the calling thread.
#[cfg(test)]
pub(crate) mod broken {
    use std::cell::Cell;

    thread_local! {
        static BROKEN: Cell<Option<&'static str>> = const { Cell::new(None) };
    }

    pub(crate) fn is(step: &str) -> bool {
        BROKEN.get() == Some(step)
    }

    pub(crate) fn set(step: Option<&'static str>) {
        BROKEN.set(step);
    }
}
