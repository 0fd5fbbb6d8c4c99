//! Looking into stores.

use super::*;

#[test]
fn looking_changes_nothing() {
    let (whole, ..) = built();
    let torn = whole.after_kill();
    let mut bytes = content(&torn, *segments(&torn).last().expect("some"));
    bytes.extend_from_slice(b"torn");
    torn.overwrite(&segment_name(*segments(&torn).last().expect("some")), bytes);
    let damaged = whole.after_kill();
    let all = frames(&whole, 2);
    let with_message = all.iter().find(|(_, held)| !held.is_empty());
    damage(&damaged, 2, &with_message.expect("there is one").0);
    let in_the_making = whole.after_kill();
    let next = segments(&whole).len() as u64 + 1;
    in_the_making.overwrite(&segment_name(next), vec![1; 20]);
    for (fs, is_torn, is_damaged) in [
        (whole, false, false),
        (torn, true, false),
        (in_the_making, true, false),
        (damaged, false, true),
    ] {
        let all = |fs: &SimFs| -> Vec<_> {
            let names = list(fs, directory()).expect("it is on");
            names
                .iter()
                .map(|name| (name.clone(), fs.content(name)))
                .collect()
        };
        let before = all(&fs);
        let found = inspect_in(&fs, directory()).expect("it can be read");
        assert_eq!(all(&fs), before);
        assert_eq!(matches!(found.health, Health::Torn(_)), is_torn);
        assert_eq!(matches!(found.health, Health::Damaged(_)), is_damaged);
        let messages: u64 = found.topics.iter().map(|topic| topic.messages).sum();
        assert_eq!(messages, STEPS - u64::from(is_damaged));
    }
}
