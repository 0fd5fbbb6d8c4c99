//! How many handler calls share one reading of the clock.
//!
//! Reading the clock costs about as much as a short handler. A slow handler
//! deserves a reading per call, a fast one can't afford it. So the number of
//! calls between two readings grows while they stay short and falls back to one
//! as soon as they don't: every measured span is below [`SPAN_NS`] or a single
//! call, which bounds the error of every latency we report.

/// Longest span that several calls may share.
const SPAN_NS: u64 = 4_000;
/// Most calls that may share a span.
const MOST: usize = 64;

/// The number of handler calls to make before the clock is read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stride(usize);

impl Stride {
    /// Begins carefully: a reading per call.
    pub(crate) const ONE: Self = Self(1);

    /// Calls to make now.
    pub(crate) fn calls(self) -> usize {
        self.0
    }

    /// What the last span teaches about the next one.
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
