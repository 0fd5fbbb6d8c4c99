//! How many handler calls share one reading of the clock.
//!
//! Reading the clock costs about as much as a short handler. A slow handler deserves a reading per
//! call, and a fast one can't afford it. So the number of calls between two readings grows while
//! they stay short, and falls back to one as soon as they don't. A span of several calls is longer
//! than [`SPAN_NS`] only when its calls have just become slower. Its calls are reported with their
//! average latency, at most [`MOST`] of them.

/// The longest span that several calls may share without falling back to one.
const SPAN_NS: u64 = 4_000;
/// Most calls that may share a span.
const MOST: usize = 64;

/// The number of handler calls to make before the clock is read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stride(usize);

impl Stride {
    /// The first stride: a reading per call.
    pub(crate) const ONE: Self = Self(1);

    /// Returns the number of calls to make now.
    pub(crate) fn calls(self) -> usize {
        self.0
    }

    /// Returns the next stride, given how long the last span took.
    pub(crate) fn after(self, elapsed_ns: u64) -> Self {
        if elapsed_ns > SPAN_NS {
            Self::ONE
        } else if elapsed_ns <= SPAN_NS / 2 {
            Self((self.0 * 2).min(MOST))
        } else {
            self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_calls_share_a_reading_and_one_slow_call_ends_that() {
        let mut stride = Stride::ONE;
        for _ in 0..10 {
            stride = stride.after(100);
        }
        assert_eq!(stride.calls(), MOST);
        assert_eq!(stride.after(SPAN_NS + 1), Stride::ONE);
    }

    #[test]
    fn a_span_that_is_long_enough_keeps_its_size() {
        let stride = Stride(8);
        assert_eq!(stride.after(SPAN_NS * 3 / 4), stride);
        assert_eq!(stride.after(SPAN_NS), stride, "the longest it may be");
    }
}
