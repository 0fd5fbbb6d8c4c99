//! What a load can be run through.

mod millstream;

#[cfg(feature = "peers")]
mod channels;
#[cfg(feature = "peers")]
mod disruptor;
#[cfg(feature = "peers")]
mod hand_rolled;
#[cfg(feature = "peers")]
mod tasks;
#[cfg(feature = "peers")]
mod tokio;

use std::error::Error;
use std::fmt;
use std::time::Duration;

use clap::ValueEnum;
use serde::Serialize;

use crate::check::Checker;
use crate::load::Load;
#[cfg(feature = "peers")]
use crate::load::Taking;
use crate::payload::Payload;
use crate::run::{Outcome, run};

pub type Answer<V = ()> = Result<V, Box<dyn Error + Send + Sync>>;

/// Something with topics and subscribers, running.
pub trait System<const WORDS: usize>: Sized {
    type Publisher: Publisher<WORDS>;

    /// Starts it around the checkers, which come by topic; answers with as many
    /// publishers as the load has.
    fn start(
        load: &Load,
        checkers: Vec<Vec<Checker<WORDS>>>,
    ) -> Answer<(Self, Vec<Self::Publisher>)>;

    /// Ends it after its publishers are gone. Every checker is dropped when this
    /// returns, and has seen whatever came too much.
    fn stop(self) -> Answer;
}

/// A publisher's end. Sending waits for room and loses nothing.
pub trait Publisher<const WORDS: usize>: Send + 'static {
    fn send(&mut self, topic: usize, message: Payload<WORDS>) -> Answer;

    /// Sends them as the system's users would send a batch: one by one, where it has none.
    fn send_batch(
        &mut self,
        topic: usize,
        mut messages: impl ExactSizeIterator<Item = Payload<WORDS>>,
    ) -> Answer {
        messages.try_for_each(|message| self.send(topic, message))
    }

    /// Lets go of what it has collected, if it collects.
    fn flush(&mut self) -> Answer {
        Ok(())
    }
}

/// Waits for the threads of a system that has ended; `whose` they are, if one has
/// panicked.
fn join(threads: Vec<std::thread::JoinHandle<()>>, whose: &str) -> Answer {
    for thread in threads {
        let panicked = |_| format!("{whose}'s thread panicked");
        thread.join().map_err(panicked)?;
    }
    Ok(())
}

/// Runs a subscriber's task on a runtime of one thread.
#[cfg(feature = "async")]
fn on_runtime(
    task: impl Future<Output = ()> + Send + 'static,
) -> Answer<std::thread::JoinHandle<()>> {
    let runtime = ::tokio::runtime::Builder::new_current_thread().build()?;
    let thread = std::thread::Builder::new().name("subscriber".to_owned());
    Ok(thread.spawn(move || runtime.block_on(task))?)
}

/// The next item of a stream.
#[cfg(feature = "async")]
async fn next<S: futures_core::Stream + Unpin>(stream: &mut S) -> Option<S::Item> {
    std::future::poll_fn(|context| std::pin::Pin::new(&mut *stream).poll_next(context)).await
}

/// The systems by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    #[value(skip)]
    Millstream,
    Crossbeam,
    Flume,
    Kanal,
    Tokio,
    Disruptor,
    HandRolled,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tokio => "tokio broadcast",
            other => other.key(),
        })
    }
}

/// Payload sizes on offer, in bytes.
pub const SIZES: [usize; 4] = [16, 64, 256, 1_024];

impl Kind {
    /// As it is called in arguments and style sheets.
    pub fn key(self) -> &'static str {
        match self {
            Self::Millstream => "millstream",
            Self::Crossbeam => "crossbeam",
            Self::Flume => "flume",
            Self::Kanal => "kanal",
            Self::Tokio => "tokio",
            Self::Disruptor => "disruptor",
            Self::HandRolled => "hand-rolled",
        }
    }

    /// Runs a load through it once.
    pub fn run(self, load: &Load, limit: Duration, watch: &mut dyn FnMut(u64)) -> Answer<Outcome> {
        match load.size {
            16 => self.run_sized::<2>(load, limit, watch),
            64 => self.run_sized::<8>(load, limit, watch),
            256 => self.run_sized::<32>(load, limit, watch),
            1_024 => self.run_sized::<128>(load, limit, watch),
            other => Err(format!("payloads of {other} bytes are not on offer").into()),
        }
    }

    fn run_sized<const WORDS: usize>(
        self,
        load: &Load,
        limit: Duration,
        watch: &mut dyn FnMut(u64),
    ) -> Answer<Outcome> {
        match self {
            Self::Millstream => run::<WORDS, millstream::Millstream>(load, limit, watch),
            #[cfg(feature = "peers")]
            Self::Flume if load.taking == Taking::Stream => {
                run::<WORDS, tasks::Tasks<tasks::Flume, tasks::Itself>>(load, limit, watch)
            }
            #[cfg(feature = "peers")]
            Self::Tokio if load.taking == Taking::Stream => {
                run::<WORDS, tasks::Tasks<tasks::Mpsc, tasks::Itself>>(load, limit, watch)
            }
            #[cfg(feature = "peers")]
            Self::Tokio if load.taking == Taking::Async => {
                run::<WORDS, tasks::Tasks<tasks::Mpsc, tasks::Spawning>>(load, limit, watch)
            }
            #[cfg(feature = "peers")]
            Self::Crossbeam => {
                run::<WORDS, channels::Lanes<channels::Crossbeam>>(load, limit, watch)
            }
            #[cfg(feature = "peers")]
            Self::Flume => run::<WORDS, channels::Lanes<channels::Flume>>(load, limit, watch),
            #[cfg(feature = "peers")]
            Self::Kanal => run::<WORDS, channels::Lanes<channels::Kanal>>(load, limit, watch),
            #[cfg(feature = "peers")]
            Self::Tokio => run::<WORDS, tokio::Broadcast>(load, limit, watch),
            #[cfg(feature = "peers")]
            Self::Disruptor => run::<WORDS, disruptor::Rings>(load, limit, watch),
            #[cfg(feature = "peers")]
            Self::HandRolled => run::<WORDS, hand_rolled::HandRolled>(load, limit, watch),
            #[cfg(not(feature = "peers"))]
            peer => Err(format!("{peer} is not in this build").into()),
        }
    }
}
