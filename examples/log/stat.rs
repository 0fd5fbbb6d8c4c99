//! Lists the files, topics and subscriptions.

use std::error::Error;
use std::io::Write;
use std::path::Path;

use millstream::store::inspect;

use crate::State;
use crate::text::table;
use crate::verify::tell;

pub fn run(directory: &Path, out: &mut dyn Write) -> Result<State, Box<dyn Error>> {
    let found = inspect(directory)?;
    writeln!(out, "store {:032x}", found.store)?;
    let state = tell(&found, out)?;

    let head = [
        "segment",
        "bytes",
        "frames",
        "records",
        "first lsn",
        "last lsn",
        "synced",
    ];
    let rows = found.segments.iter().map(|segment| {
        let last = segment.lsns.end.saturating_sub(1);
        let numbers = [
            segment.number,
            segment.bytes,
            segment.frames,
            segment.records,
            segment.lsns.start,
            last,
            segment.synced,
        ];
        numbers.map(|number| number.to_string()).to_vec()
    });
    table(out, &head, 0, rows)?;

    let head = ["topic", "first", "next", "messages", "bytes", "delayed"];
    let rows = found.topics.iter().map(|topic| {
        let numbers = [
            topic.first_seq,
            topic.next_seq,
            topic.messages,
            topic.bytes,
            topic.delayed,
        ];
        let mut row = vec![topic.name.clone()];
        row.extend(numbers.map(|number| number.to_string()));
        row
    });
    table(out, &head, 1, rows)?;

    let head = [
        "subscription",
        "topic",
        "cursor",
        "done above",
        "failed",
        "letters",
        "lag",
    ];
    let rows = found.subscriptions.iter().map(|subscription| {
        let numbers = [
            subscription.next_seq,
            subscription.done_above,
            subscription.failed,
            subscription.dead_letters,
            subscription.lag,
        ];
        let mut row = vec![subscription.name.clone(), subscription.topic.clone()];
        row.extend(numbers.map(|number| number.to_string()));
        row
    });
    table(out, &head, 2, rows)?;
    Ok(state)
}
