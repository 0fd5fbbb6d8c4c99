//! The grammar of names, and of patterns of names.

use crate::sync::Arc;

/// The longest name, in bytes.
///
/// It fits a file name on every common file system, so that a name can become one some day. Kafka
/// has the same limit.
pub const MAX_NAME_LEN: usize = 249;

/// The reason why a name was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// The name has no characters.
    #[error("a name must not be empty")]
    Empty,
    /// The name is longer than [`MAX_NAME_LEN`].
    #[error("a name has at most {MAX_NAME_LEN} bytes, this one {len}")]
    TooLong {
        /// The length of the name in bytes.
        len: usize,
    },
    /// The name has a character outside the grammar.
    #[error(
        "a name has ASCII letters, digits, '-', '_' and '.', but this one has {found:?} at byte {at}"
    )]
    Character {
        /// The character.
        found: char,
        /// The byte at which the character stands.
        at: usize,
    },
    /// A level between dots is empty, as in `a..b`, `.a` or `a.`.
    #[error("a name must not have an empty level, but this one has one at byte {at}")]
    EmptyLevel {
        /// The byte at which the level would begin.
        at: usize,
    },
}

/// The reason why a pattern was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PatternError {
    /// The pattern would not be a name if it had letters instead of wildcards.
    #[error("in a pattern as in a name: {0}")]
    Name(#[from] NameError),
    /// A wildcard stands beside other characters in its level, as in `ord*`.
    #[error("a wildcard is a whole level, but the one at byte {at} is a part of one")]
    PartOfLevel {
        /// The byte at which the wildcard stands.
        at: usize,
    },
    /// A `>` has levels behind it, as in `orders.>.paid`.
    #[error("'>' is the last level, but there are others after the one at byte {at}")]
    NotLast {
        /// The byte at which the `>` stands.
        at: usize,
    },
}

/// Checks the name of a topic, a subscription or a member.
///
/// A name is levels of `[A-Za-z0-9_-]+` joined by dots, at most [`MAX_NAME_LEN`] bytes in all.
/// There are no wildcards, no path separators and no control characters. So a name is safe to log
/// and to store.
pub(crate) fn parse(name: &str) -> Result<Arc<str>, NameError> {
    check(name)?;
    Ok(Arc::from(name))
}

/// Checks the grammar of [`parse`].
pub(crate) fn check(name: &str) -> Result<(), NameError> {
    if name.is_empty() {
        return Err(NameError::Empty);
    }
    if name.len() > MAX_NAME_LEN {
        return Err(NameError::TooLong { len: name.len() });
    }
    let mut level_began = 0;
    for (at, found) in name.char_indices() {
        match found {
            '.' if at == level_began => return Err(NameError::EmptyLevel { at }),
            '.' => level_began = at + 1,
            'a'..='z' | 'A'..='Z' | '0'..='9' | '-' | '_' => {}
            _ => return Err(NameError::Character { found, at }),
        }
    }
    if level_began == name.len() {
        return Err(NameError::EmptyLevel { at: level_began });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ordinary_names_pass() {
        for name in ["orders", "quakes.detected", "a-b_C.9", &"x".repeat(249)] {
            assert_eq!(&*parse(name).expect(name), name);
        }
    }

    #[test]
    fn hostile_names_are_told_why() {
        let character = |found, at| NameError::Character { found, at };
        let cases = [
            ("", NameError::Empty),
            ("..", NameError::EmptyLevel { at: 0 }),
            (".a", NameError::EmptyLevel { at: 0 }),
            ("a.", NameError::EmptyLevel { at: 2 }),
            ("a..b", NameError::EmptyLevel { at: 2 }),
            ("../../etc", NameError::EmptyLevel { at: 0 }),
            ("/etc", character('/', 0)),
            ("a\0b", character('\0', 1)),
            ("a\nb", character('\n', 1)),
            ("orders.*", character('*', 7)),
            ("orders.>", character('>', 7)),
            ("Grüße", character('ü', 2)),
            ("a b", character(' ', 1)),
        ];
        for (name, why) in cases {
            assert_eq!(parse(name), Err(why), "{name:?}");
        }
        let long = "x".repeat(4_096);
        assert_eq!(parse(&long), Err(NameError::TooLong { len: 4_096 }));
    }

    proptest! {
        #[test]
        fn whatever_passes_is_safe_to_print_and_to_store(name in ".{0,300}") {
            if let Ok(name) = parse(&name) {
                prop_assert!(name.len() <= MAX_NAME_LEN && !name.is_empty());
                prop_assert!(name.split('.').all(|level| !level.is_empty()
                    && level.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')));
            }
        }
    }
}
