//! Prints the records, one a line.

use std::error::Error;
use std::io::Write;
use std::ops::Range;
use std::path::Path;

use clap::{Args, ValueEnum};
use millstream::store::{Content, LogRecord, MessageInfo, read_records};

use crate::State;
use crate::text::{count, line, time};

/// Which records, and how much of them.
#[derive(Args)]
pub struct Filter {
    /// Only records about this topic
    #[arg(long)]
    pub topic: Option<String>,
    /// Only records about messages from this number on
    #[arg(long, value_name = "NUMBER")]
    pub from: Option<u64>,
    /// Only records about messages before this number
    #[arg(long, value_name = "NUMBER")]
    pub until: Option<u64>,
    /// How payloads are printed
    #[arg(long, value_enum, default_value_t = Form::Text)]
    pub payload: Form,
    /// How many bytes of a payload are printed
    #[arg(long, value_name = "NUMBER", default_value_t = 80)]
    pub bytes: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Form {
    Text,
    Hex,
    None,
}

pub fn run(
    directory: &Path,
    filter: &Filter,
    out: &mut dyn Write,
) -> Result<State, Box<dyn Error>> {
    let mut state = State::Whole;
    for record in read_records(directory)? {
        let record = record?;
        state = match &record.content {
            // The end of the log is torn. Anything behind a hole makes it damage.
            Content::Unreadable(damage) if damage.lsns.is_empty() && state == State::Whole => {
                State::Torn
            }
            Content::Unreadable(_) => State::Damaged,
            _ if state == State::Torn => State::Damaged,
            _ => state,
        };
        if filter.takes(&record) {
            writeln!(out, "{}", filter.text(&record))?;
        }
    }
    Ok(state)
}

impl Filter {
    fn takes(&self, record: &LogRecord) -> bool {
        if matches!(record.content, Content::Unreadable(_)) {
            return true;
        }
        if self.topic.is_some() && self.topic != record.topic {
            return false;
        }
        if self.from.is_none() && self.until.is_none() {
            return true;
        }
        let (from, until) = (self.from.unwrap_or(0), self.until.unwrap_or(u64::MAX));
        let meets = |range: &Range<u64>| range.start < until && from < range.end;
        match &record.content {
            Content::Publish { seq, .. }
            | Content::Failed { seq, .. }
            | Content::Letter { seq, .. }
            | Content::Remembered { seq, .. } => (from..until).contains(seq),
            Content::Done { messages, .. } => messages.iter().any(meets),
            Content::Lost { messages, .. } => meets(messages),
            _ => false,
        }
    }

    fn text(&self, record: &LogRecord) -> String {
        let mut text = format!("{:>8}  {}@{}", record.lsn, record.segment, record.offset);
        let about = [&record.topic, &record.subscription];
        let about: Vec<_> = about.into_iter().flatten().map(|name| line(name)).collect();
        if !about.is_empty() {
            text += &format!("  {}", about.join("/"));
        }
        format!("{text}  {}", self.content(&record.content))
    }

    fn content(&self, content: &Content) -> String {
        match content {
            Content::Topic {
                first_seq,
                next_seq,
                ..
            } => format!("topic: first {first_seq}, next {next_seq}"),
            Content::Subscription { next_seq, .. } => format!("subscription: cursor {next_seq}"),
            Content::Publish {
                seq,
                time_ms,
                message,
                ..
            } => format!(
                "publish {seq} at {}{}",
                time(*time_ms),
                self.message(message)
            ),
            Content::Done { messages, .. } => format!("done {}", ranges(messages)),
            Content::Failed { seq, attempts, .. } => {
                format!("failed {seq}: {}", count((*attempts).into(), "attempt"))
            }
            Content::Letter {
                seq,
                attempts,
                time_ms,
                error,
                message,
                ..
            } => format!(
                "dead letter {seq} at {} after {}: {}{}",
                time(*time_ms),
                count((*attempts).into(), "attempt"),
                line(error),
                self.message(message)
            ),
            Content::Delayed {
                id,
                due_ms,
                message,
                ..
            } => format!(
                "delayed {id} until {}{}",
                time(*due_ms),
                self.message(message)
            ),
            Content::DelayedGone {
                id, seq: Some(seq), ..
            } => format!("delayed {id} is due as {seq}"),
            Content::DelayedGone { id, .. } => format!("delayed {id} is canceled"),
            Content::DelayedNext { next, .. } => format!("next delayed {next}"),
            Content::Trim { first_seq, .. } => format!("trim: first {first_seq}"),
            Content::Unsubscribed => "unsubscribed".to_owned(),
            Content::Remembered { seq, dedup_id, .. } => {
                format!("dedup id {} of {seq}", line(dedup_id))
            }
            Content::Checkpointed => "checkpointed".to_owned(),
            Content::Lost { messages, .. } => {
                format!("lost {}", ranges(std::slice::from_ref(messages)))
            }
            Content::Unreadable(damage) => format!("UNREADABLE: {damage}"),
            _ => "of a later version".to_owned(),
        }
    }

    fn message(&self, message: &MessageInfo) -> String {
        let mut text = String::new();
        if let Some(key) = &message.key {
            text += &format!(", key {}", line(key));
        }
        if let Some(id) = &message.dedup_id {
            text += &format!(", dedup id {}", line(id));
        }
        for (name, value) in &message.headers {
            let value = String::from_utf8_lossy(value);
            text += &format!(", {}: {}", line(name), line(&value));
        }
        let all = &message.payload;
        let shown = &all[..all.len().min(self.bytes)];
        let payload = match self.payload {
            Form::Text => line(&String::from_utf8_lossy(shown)),
            Form::Hex => shown.iter().map(|byte| format!("{byte:02x}")).collect(),
            Form::None => return format!("{text}, {}", count(all.len() as u64, "byte")),
        };
        let more = match all.len() - shown.len() {
            0 => String::new(),
            more => format!("… and {}", count(more as u64, "byte")),
        };
        format!("{text}: {payload}{more}")
    }
}

fn ranges(ranges: &[Range<u64>]) -> String {
    let texts = ranges.iter().map(|range| match range.end - range.start {
        1 => range.start.to_string(),
        _ => format!("{}..={}", range.start, range.end - 1),
    });
    texts.collect::<Vec<_>>().join(", ")
}
