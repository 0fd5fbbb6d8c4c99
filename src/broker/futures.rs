//! The end of a broker as a future, for any runtime (feature `async`).

use std::time::Duration;

use crate::broker::Broker;
use crate::pure::words::ending::Refuse;
use crate::topic::draining::Drain;

impl Broker {
    /// Ends the broker as [`drain`](Self::drain) does, without blocking the thread that polls.
    ///
    /// The first poll begins the drain, on a thread of its own. If the system refuses that thread,
    /// or the broker has no workers, or a handler of this broker polls, the poll calls `drain`
    /// itself. A future that is dropped after its first poll lets the drain go on.
    ///
    /// ```
    /// # async fn shut_down(broker: millstream::Broker) -> Result<(), millstream::error::DrainError> {
    /// let report = broker.drain_async(std::time::Duration::from_secs(5)).await?;
    /// println!("{report}");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// The errors are those of [`drain`](Self::drain).
    pub fn drain_async(&self, deadline: Duration) -> Drain {
        self.drain_later(deadline, Refuse::All)
    }

    /// Ends the broker as [`drain_pipeline`](Self::drain_pipeline) does, without blocking the
    /// thread that polls. See [`drain_async`](Self::drain_async).
    ///
    /// # Errors
    ///
    /// The errors are those of [`drain`](Self::drain).
    pub fn drain_pipeline_async(&self, deadline: Duration) -> Drain {
        self.drain_later(deadline, Refuse::Outside)
    }

    fn drain_later(&self, deadline: Duration, whom: Refuse) -> Drain {
        let broker = self.clone();
        let drain = move || broker.drain_by(deadline, whom);
        Drain::new(&self.owner.engine, drain)
    }
}
