//! Damage of every kind.

use super::*;

/// The messages that are left are as they were. All others are reported.
fn assert_accounted(fs: &SimFs, messages: &Messages, salvage: Option<&Salvage>) {
    let left = read_messages(fs);
    for (at, message) in &left {
        assert!(messages.get(at) == Some(message), "{at:?} was changed");
    }
    let Some(report) = salvage else {
        return;
    };
    let gone = lost(report);
    for (topic, seq) in messages.keys() {
        let is_told = gone.contains(&(*topic, *seq)) || skipped(report, *topic).contains(seq);
        let is_left = left.contains_key(&(*topic, *seq));
        assert!(is_told != is_left, "{topic}/{seq}: {report}");
    }
}

#[test]
fn a_log_that_lost_either_end_tells_it() {
    let (whole, _, messages) = built();
    let numbers = segments(&whole);
    let last = *numbers.last().expect("some");
    let first_lost = whole.after_kill();
    first_lost.remove(&segment_name(1)).expect("it was there");
    // The store's file says how much was safe.
    let last_lost = whole.after_kill();
    last_lost.remove(&segment_name(last)).expect("it was there");
    let cut = whole.after_kill();
    let length = frames(&whole, last)[1].0.end;
    cut.overwrite(
        &segment_name(last),
        content(&whole, last)[..length].to_vec(),
    );
    let all_lost = whole.after_kill();
    for number in &numbers {
        all_lost
            .remove(&segment_name(*number))
            .expect("it was there");
    }
    for fs in [first_lost, last_lost, cut, all_lost] {
        let opened = open_log(&fs, true).expect("it is salvaged");
        let report = opened.opened.salvage.expect("it was damaged");
        assert!(!report.damages.is_empty());
        let left = read_messages(&fs);
        let known = opened.state.topics().count();
        for (topic, seq) in messages.keys().filter(|(id, _)| (*id as usize) < known) {
            let is_told =
                lost(&report).contains(&(*topic, *seq)) || skipped(&report, *topic).contains(seq);
            let is_left = left.contains_key(&(*topic, *seq));
            assert!(is_told != is_left, "{topic}/{seq}: {report}");
        }
    }
}

/// Does something bad to one of the files.
fn damage_somehow(fs: &SimFs, random: &mut Random) {
    let numbers = segments(fs);
    let mut pick = |bound: usize| random.below(bound.max(1) as u64) as usize;
    let number = numbers[pick(numbers.len())];
    let name = segment_name(number);
    let mut bytes = content(fs, number);
    let from = pick(bytes.len());
    let to = (from + pick(700)).min(bytes.len());
    match pick(8) {
        0 => bytes[from..to].fill(0),
        1 => bytes[from..to].fill_with(|| pick(256) as u8),
        2 => bytes.truncate(from),
        3 => drop(bytes.drain(from / 8 * 8..to / 8 * 8)),
        4 => bytes = content(fs, numbers[pick(numbers.len())]),
        5 if numbers.len() > 1 => return fs.remove(&name).expect("it is there"),
        _ => bytes[from] ^= 1 << pick(8),
    }
    fs.overwrite(&name, bytes);
}

#[test]
fn whatever_is_damaged_nothing_is_lost_silently() {
    let (whole, _, messages) = built();
    let mut salvaged = 0;
    for seed in 0..300 {
        let mut random = Random(seed);
        let fs = whole.after_kill();
        for _ in 0..=random.below(4) {
            damage_somehow(&fs, &mut random);
        }
        let looked = inspect_in(&fs, directory()).expect("it can be read");
        let opened = open_log(&fs, true).expect("something is left");
        let report = opened.opened.salvage;
        assert_eq!(
            matches!(looked.health, Health::Damaged(_)),
            report.is_some()
        );
        assert_accounted(&fs, &messages, report.as_ref());
        salvaged += u32::from(report.is_some());
    }
    assert!(salvaged > 200, "{salvaged}");
}
