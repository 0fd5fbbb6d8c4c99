//! Progress, on a terminal only.

use indicatif::{ProgressBar, ProgressStyle};

pub struct Screen(ProgressBar);

impl Screen {
    /// It hides by itself where nobody could see it.
    pub fn new() -> Self {
        let bar = ProgressBar::new(0);
        let style =
            ProgressStyle::with_template("{msg} {wide_bar} {human_pos}/{human_len} {elapsed}");
        if let Ok(style) = style {
            bar.set_style(style);
        }
        Self(bar)
    }

    /// What is going on.
    pub fn stage(&self, what: String) {
        self.0.set_message(what);
    }

    /// A run of so many deliveries begins.
    pub fn expect(&self, deliveries: u64) {
        self.0.set_length(deliveries);
        self.0.set_position(0);
    }

    pub fn reach(&self, handled: u64) {
        self.0.set_position(handled);
    }

    /// Prints lines without a bar through them.
    pub fn print(&self, text: &str) {
        self.0.suspend(|| println!("{text}"));
    }

    pub fn leave(&self) {
        self.0.finish_and_clear();
    }
}
