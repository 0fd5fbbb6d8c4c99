//! The reader of `examples/quakes`: any bytes are lines, and each line is an event
//! or is skipped with a reason.

#[allow(dead_code, reason = "the example uses all of it")]
#[path = "../../../examples/quakes/quake.rs"]
mod quake;

use super::check_text;
use quake::Quake;

pub fn fuzz(bytes: &[u8]) {
    let mut skipped = Vec::new();
    let quakes = quake::read_lines(bytes, |line, why| {
        check_text(why);
        skipped.push(line);
    });
    let quakes = quakes.expect("bytes in memory can be read");
    let lines = bytes.split(|byte| *byte == b'\n');
    let filled = lines.filter(|line| !line.trim_ascii().is_empty()).count();
    assert_eq!(quakes.len() + skipped.len(), filled);
    assert!(skipped.is_sorted_by(|a, b| a < b));
    quakes.iter().for_each(check);
}

/// What the pipeline does with an event can be done, and the archive can be read.
fn check(quake: &Quake) {
    let _ = (quake.made_by_people(), quake.trips_the_pager());
    assert!(!quake.is_significant() || quake.mag.is_some());
    assert!(quake.magnitude().len() <= 5, "{}", quake.magnitude());
    let line = serde_json::to_vec(quake).expect("it came from JSON");
    assert!(!line.contains(&b'\n'));
    let again = quake::read_lines(&*line, |_, why| panic!("{why}"));
    let again = again.expect("bytes in memory can be read");
    assert_eq!(again.len(), 1);
    assert_eq!((&again[0].id, again[0].time_ms), (&quake.id, quake.time_ms));
    assert_eq!(
        (&again[0].place, &again[0].kind),
        (&quake.place, &quake.kind)
    );
    assert_eq!(again[0].net, quake.net);
}
