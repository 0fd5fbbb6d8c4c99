//! Plain types that the whole API names: settings, names and patterns, errors, reasons, reports.

/// Gives an enum `as_str`, and a `Display` that prints the same.
macro_rules! labels {
    ($name:ident { $($(#[$attr:meta])* $variant:pat => $label:literal),+ $(,)? }) => {
        impl $name {
            /// Returns a label in snake case, for metrics and logs. It doesn't change between
            /// versions.
            pub fn as_str(self) -> &'static str {
                match self {
                    $($(#[$attr])* $variant => $label),+
                }
            }
        }

        /// Prints the label.
        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }
    };
}

pub(crate) use labels;

pub(crate) mod config;
#[cfg(feature = "log")]
pub(crate) mod durable;
pub(crate) mod duration;
pub(crate) mod error;
pub(crate) mod name;
pub(crate) mod pattern;
pub(crate) mod range;
pub(crate) mod reason;
pub(crate) mod report;
