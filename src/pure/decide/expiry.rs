//! When to look for messages and deliveries that have outlived their time to live.

/// The first expiry where nothing can expire.
pub(crate) const NEVER: u64 = u64::MAX;

/// Where more than this many wait, they are not looked through at every tick.
const MANY: usize = 256;
/// How long to leave each of many alone, once it was looked at. It is some fifty times as long as a
/// look takes, so that looking takes a fiftieth of a core at most.
const REST_NS: u64 = 1_000;

/// Returns whether the expiry has passed; `None` never does.
pub(crate) fn has_passed(expires_ns: Option<u64>, now_ns: u64) -> bool {
    expires_ns.is_some_and(|expires_ns| now_ns >= expires_ns)
}

/// Returns when to look again through `waiting` entries, the first of which expires at `first_ns`.
pub(crate) fn next_look(first_ns: u64, waiting: usize, now_ns: u64) -> u64 {
    if first_ns == NEVER || waiting <= MANY {
        return first_ns;
    }
    let rest_ns = REST_NS.saturating_mul(waiting as u64);
    first_ns.max(now_ns.saturating_add(rest_ns))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_are_looked_at_when_the_first_of_them_expires() {
        assert_eq!(next_look(500, MANY, 499), 500);
    }

    #[test]
    fn many_are_not_looked_through_for_each_of_them() {
        assert_eq!(next_look(500, 1_000, 499), 499 + 1_000_000);
        assert_eq!(next_look(5_000_000, 1_000, 499), 5_000_000);
    }

    #[test]
    fn what_never_expires_is_never_looked_for() {
        assert_eq!(next_look(NEVER, 0, 0), NEVER);
        assert_eq!(next_look(NEVER, 1_000, 5), NEVER);
    }
}
