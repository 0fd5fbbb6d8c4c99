//! Any text as a pattern and as the name of a topic: one of them is refused, or the
//! topic is followed exactly if the rules say so.

use millstream::error::SubscribeError;
use millstream::{MAX_NAME_LEN, Pattern, Unsubscribe};

use super::{check_books, check_text, manual};

fn is_level(level: &str) -> bool {
    let fine = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    !level.is_empty() && level.bytes().all(fine)
}

/// The grammar, said in another way than the engine says it.
fn is_a_pattern(text: &str) -> bool {
    let levels: Vec<_> = text.split('.').collect();
    let (last, others) = levels.split_last().expect("one level, if an empty one");
    let is_one = |level: &str| level == "*" || is_level(level);
    let others = others.iter().all(|level| is_one(level));
    text.len() <= MAX_NAME_LEN && others && (*last == ">" || is_one(last))
}

/// The rules, said in another way.
fn matches(pattern: &[&str], topic: &[&str]) -> bool {
    match (pattern, topic) {
        ([], []) | ([">"], [_, ..]) => true,
        ([first, rest @ ..], [level, others @ ..]) => {
            (*first == "*" || first == level) && matches(rest, others)
        }
        _ => false,
    }
}

/// A line is a pattern, the rest the name of a topic.
pub fn fuzz(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let (pattern, topic) = text.split_once('\n').unwrap_or((&text, "orders.eu"));
    let (broker, _) = manual();
    let builder = broker.subscription::<u8>("s").matching(pattern);
    let sub = builder.subscribe(|_| Ok(()));
    let parsed = pattern.parse::<Pattern>();
    assert_eq!(parsed.is_ok(), is_a_pattern(pattern), "{pattern:?}");
    let parsed = match parsed {
        Ok(parsed) => parsed,
        Err(why) => {
            check_text(&why);
            let refused = sub.expect_err(pattern);
            return assert_eq!(refused, SubscribeError::Pattern(why));
        }
    };
    assert_eq!(parsed.to_string(), pattern);
    let sub = sub.expect(pattern);
    let Ok(opened) = broker.topic::<u8>(topic).open() else {
        return;
    };
    let wanted: Vec<_> = pattern.split('.').collect();
    let expected = matches(&wanted, &topic.split('.').collect::<Vec<_>>());
    assert_eq!(parsed.matches(topic), expected, "{pattern} and {topic}");
    opened.publish(1).expect(topic);
    broker.run_until_idle();
    let counts = check_books(&broker).deliveries();
    assert_eq!(counts.delivered, u64::from(expected));
    assert_eq!(sub.topics().len(), usize::from(expected));
    drop(opened);
    let mode = Unsubscribe::Cancel;
    sub.remove(pattern, mode).expect(pattern);
    assert_eq!(sub.topics().len(), 0);
    broker.remove_topic(topic).expect(topic);
    check_books(&broker);
}
