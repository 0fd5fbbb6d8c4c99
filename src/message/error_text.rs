//! The text of an error, as letters, events and retry policies get it.

use std::error::Error;
use std::fmt::{self, Write};

/// The most bytes of a text. A letter is kept for long, and an error may quote a whole document.
const MOST_BYTES: usize = 4_096;

/// The most errors of a chain, because a source may be its own.
const MOST_SOURCES: usize = 32;

/// A text that ends where it would become too long.
#[derive(Default)]
struct Bounded {
    text: String,
    is_cut: bool,
}

impl Write for Bounded {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.is_cut {
            return Err(fmt::Error);
        }
        let room = MOST_BYTES - self.text.len();
        if text.len() <= room {
            self.text.push_str(text);
            return Ok(());
        }
        let cut = (0..=room).rev().find(|at| text.is_char_boundary(*at));
        self.text.push_str(&text[..cut.unwrap_or(0)]);
        self.text.push('…');
        self.is_cut = true;
        Err(fmt::Error)
    }
}

/// Returns the text of an error and then of its sources, as in "a: b: c".
///
/// A source is left out if the text before it ends with the same words. A text that is too long is
/// cut, with an ellipsis.
pub(crate) fn error_text<'e>(
    shown: &dyn fmt::Display,
    source: Option<&'e (dyn Error + 'static)>,
) -> String {
    let mut all = Bounded::default();
    // An error that fails to print itself has printed as much as it could.
    let _ = write!(all, "{shown}");
    let next = |error: &&'e (dyn Error + 'static)| <dyn Error>::source(*error);
    let sources = std::iter::successors(source, next);
    for source in sources.take(MOST_SOURCES) {
        if all.is_cut {
            break;
        }
        let mut cause = Bounded::default();
        let _ = write!(cause, "{source}");
        if !all.text.ends_with(&cause.text) {
            let _ = write!(all, ": {}", cause.text);
        }
    }
    all.text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Chained(String, Option<Box<Chained>>);

    impl fmt::Display for Chained {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(&self.0)
        }
    }

    impl Error for Chained {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            Some(&**self.1.as_ref()?)
        }
    }

    fn text(texts: &[&str]) -> String {
        let chain = texts.iter().rev().fold(None, |source, text| {
            Some(Box::new(Chained((*text).to_owned(), source)))
        });
        let error = chain.expect("there is one");
        error_text(&error, error.source())
    }

    #[test]
    fn sources_follow_unless_they_were_printed() {
        assert_eq!(text(&["a"]), "a");
        assert_eq!(text(&["a", "b", "c"]), "a: b: c");
        assert_eq!(text(&["a: b", "b", "c"]), "a: b: c");
    }

    #[test]
    fn a_long_text_is_cut_between_two_characters() {
        let long = "é".repeat(MOST_BYTES);
        for texts in [
            &["x", &long][..],
            &["xx", &long, "y"],
            &[&long],
            &["", &long],
        ] {
            let text = text(texts);
            assert!(text.ends_with("é…"), "{text}");
            let bytes = text.len() - '…'.len_utf8();
            assert!((MOST_BYTES - 1..=MOST_BYTES).contains(&bytes), "{bytes}");
        }
    }

    #[test]
    fn an_error_that_is_its_own_source_ends() {
        #[derive(Debug)]
        struct Own;
        impl fmt::Display for Own {
            fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
                Ok(())
            }
        }
        impl Error for Own {
            fn source(&self) -> Option<&(dyn Error + 'static)> {
                Some(self)
            }
        }
        assert_eq!(error_text(&Own, Own.source()), "");
    }
}
