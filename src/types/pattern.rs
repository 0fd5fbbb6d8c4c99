//! Patterns of topic names, with the words and rules of NATS.

use std::fmt;
use std::str::FromStr;

use crate::types::name::PatternError;

/// A pattern of topic names, such as `orders.*` or `orders.>`.
///
/// [`Broker::subscription`](crate::Broker::subscription) makes a subscription to patterns. A
/// pattern has levels between dots, as a name has. Two levels stand for others:
///
/// - `*` stands for exactly one level, whatever it is.
/// - `>` stands for one or more levels, and only at the end.
///
/// So `orders.*` matches `orders.eu` and not `orders.eu.paid`. `orders.>` matches both and not
/// `orders`. A name matches itself alone. A wildcard is a whole level: `ord*` is refused. The other
/// levels, and the length, obey the rules of names.
///
/// ```
/// use millstream::Pattern;
///
/// let pattern: Pattern = "orders.*.paid".parse()?;
/// assert!(pattern.matches("orders.eu.paid"));
/// assert!(!pattern.matches("orders.paid"));
/// # Ok::<(), millstream::error::PatternError>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pattern(Box<str>);

impl Pattern {
    /// Returns the pattern as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns whether the pattern matches a topic of this name.
    ///
    /// The match is one pass over the two, level by level, and allocates nothing.
    pub fn matches(&self, topic: &str) -> bool {
        let mut levels = topic.split('.');
        for wanted in self.0.split('.') {
            match (wanted, levels.next()) {
                (_, None) => return false,
                (">", Some(_)) => return true,
                ("*", Some(_)) => {}
                (wanted, Some(level)) if wanted == level => {}
                (_, Some(_)) => return false,
            }
        }
        levels.next().is_none()
    }
}

impl FromStr for Pattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        // A letter is as long as a wildcard, so the place of an error stays the same.
        crate::types::name::check(&text.replace(['*', '>'], "x"))?;
        let mut begins = 0;
        for level in text.split('.') {
            if let Some(at) = level.find(['*', '>']) {
                if level.len() > 1 {
                    return Err(PatternError::PartOfLevel { at: begins + at });
                }
                if level == ">" && begins + 1 < text.len() {
                    return Err(PatternError::NotLast { at: begins });
                }
            }
            begins += level.len() + 1;
        }
        Ok(Self(text.into()))
    }
}

impl TryFrom<&str> for Pattern {
    type Error = PatternError;

    fn try_from(text: &str) -> Result<Self, PatternError> {
        text.parse()
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pattern({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::name::NameError;
    use proptest::prelude::*;

    fn pattern(text: &str) -> Pattern {
        text.parse().expect(text)
    }

    #[test]
    fn it_reads_as_it_was_written() {
        let all = pattern("orders.*.>");
        assert_eq!(all.as_str(), "orders.*.>");
        assert_eq!(format!("{all} {all:?}"), "orders.*.> Pattern(orders.*.>)");
    }

    /// The cases are the examples in NATS's documentation of subjects, and the edges of its rules.
    #[test]
    fn patterns_match_as_those_of_nats() {
        let cases = [
            ("time.us", "time.us", true),
            ("time.us", "time.us.east", false),
            ("time.us", "time", false),
            ("time.us", "time.usa", false),
            ("time.*.east", "time.us.east", true),
            ("time.*.east", "time.eu.east", true),
            ("time.*.east", "time.us.west", false),
            ("time.*.east", "time.east", false),
            ("time.*.east", "time.new.york.east", false),
            ("time.us.*", "time.us.east", true),
            ("time.us.*", "time.us", false),
            ("time.us.*", "time.us.east.atlanta", false),
            ("time.us.>", "time.us.east", true),
            ("time.us.>", "time.us.east.atlanta", true),
            ("time.us.>", "time.us", false),
            ("time.us.>", "time.eu.east", false),
            ("*.*.east.>", "time.us.east.atlanta", true),
            ("*.*.east.>", "time.us.east", false),
            ("*.>", "time.us", true),
            ("*.>", "time", false),
            ("*", "time", true),
            ("*", "time.us", false),
            (">", "time", true),
            (">", "time.us.east", true),
        ];
        for (text, topic, matches) in cases {
            assert_eq!(pattern(text).matches(topic), matches, "{text} and {topic}");
        }
    }

    #[test]
    fn hostile_patterns_are_told_why_and_where() {
        let part = |at| PatternError::PartOfLevel { at };
        let not_last = |at| PatternError::NotLast { at };
        let empty = |at| NameError::EmptyLevel { at }.into();
        let character = |found, at| NameError::Character { found, at }.into();
        let cases = [
            ("", NameError::Empty.into()),
            (".", empty(0)),
            ("orders.", empty(7)),
            ("orders..>", empty(7)),
            ("*.", empty(2)),
            ("ord*", part(3)),
            ("orders.e*", part(8)),
            ("**", part(0)),
            (">>", part(0)),
            ("orders.*>", part(7)),
            ("orders.>.paid", not_last(7)),
            (">.>", not_last(0)),
            ("orders.?", character('?', 7)),
            ("*.ü", character('ü', 2)),
            ("a b.*", character(' ', 1)),
        ];
        for (text, why) in cases {
            assert_eq!(text.parse::<Pattern>(), Err(why), "{text:?}");
        }
        let long = format!("{}.>", "x".repeat(248));
        let why = NameError::TooLong { len: 250 }.into();
        assert_eq!(Pattern::try_from(&*long), Err(why));
        let longest = format!("{}.>", "x".repeat(247));
        assert_eq!(pattern(&longest).to_string(), longest);
    }

    /// The same rules, written in another way.
    fn matches_naively(pattern: &[&str], topic: &[&str]) -> bool {
        match pattern {
            [] => topic.is_empty(),
            [">"] => !topic.is_empty(),
            [first, rest @ ..] => {
                let Some((level, others)) = topic.split_first() else {
                    return false;
                };
                (*first == "*" || first == level) && matches_naively(rest, others)
            }
        }
    }

    fn levels(
        of: &'static [&'static str],
        most: usize,
    ) -> impl Strategy<Value = Vec<&'static str>> {
        prop::collection::vec(prop::sample::select(of), 1..=most)
    }

    proptest! {
        #[test]
        fn every_pattern_matches_what_a_naive_matcher_does(
            mut wanted in levels(&["a", "b", "aa", "*"], 5),
            open in any::<bool>(),
            topic in levels(&["a", "b", "aa"], 6),
        ) {
            if open {
                wanted.push(">");
            }
            let expected = matches_naively(&wanted, &topic);
            prop_assert_eq!(pattern(&wanted.join(".")).matches(&topic.join(".")), expected);
        }

        #[test]
        fn a_name_is_a_pattern_of_itself_alone(
            name in levels(&["a", "b", "c-1"], 4),
            other in levels(&["a", "b", "c-1"], 4),
        ) {
            let (name, other) = (name.join("."), other.join("."));
            prop_assert!(pattern(&name).matches(&name));
            prop_assert_eq!(pattern(&name).matches(&other), name == other);
        }
    }
}
