//! The room of a lane, whether its topic waits for it, and how the lane ends.
//!
//! One word holds three facts that must change together. The first is how many deliveries occupy
//! the lane (queued, in flight or awaiting their retry). The others are whether the topic waits for
//! room, and the lane's phase.
//!
//! Two interleavings are feared. In the first, the topic finds the lane full and goes to rest while
//! the last delivery is settled, so nobody wakes it. In the second, a delivery enters the lane
//! after its unsubscribe decided that the lane is empty. Both are impossible, because every step is
//! one read-modify-write on this word. The model is `loom-tests/tests/models/room.rs`.

const COUNT: u64 = 0xffff_ffff;
const AWAITED: u64 = 1 << 32;
const PHASE_SHIFT: u32 = 33;

/// How far a lane is on its way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Phase {
    /// The lane takes deliveries.
    Open = 0,
    /// The lane takes none; it works off what it has, retries included.
    Draining = 1,
    /// The lane takes none; what it has goes to the dead letters.
    DeadLettering = 2,
    /// The lane takes none; what it has is cancelled.
    Cancelling = 3,
}

impl Phase {
    const ALL: [Self; 4] = [
        Self::Open,
        Self::Draining,
        Self::DeadLettering,
        Self::Cancelling,
    ];

    /// Whether the lane tries no further delivery: what it has ends where the phase says.
    pub fn ends_at_once(self) -> bool {
        self > Self::Draining
    }
}

/// The room word of one lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Deliveries that hold a place.
    pub occupied: u32,
    /// The topic rests until a place is released.
    pub awaited: bool,
    /// Open, or how it ends.
    pub phase: Phase,
}

/// The result of asking for places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Reserved {
    /// The number of places granted, at least one.
    Granted(u32),
    /// No place is free.
    Full,
    /// The lane takes nothing any more.
    Closed,
}

/// The consequences of releasing places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Released {
    /// The topic waits for this room: notify it.
    pub wake_topic: bool,
    /// The lane is on its way out and now empty: it has ended.
    pub ended: bool,
}

impl Room {
    /// Open and empty.
    pub const EMPTY: Self = Self {
        occupied: 0,
        awaited: false,
        phase: Phase::Open,
    };

    /// Asks for up to `wanted` places. With `wait`, a refusal for want of room is remembered, and
    /// the next release says so.
    pub fn reserve(self, wanted: u32, capacity: u32, wait: bool) -> (Self, Reserved) {
        if self.phase != Phase::Open {
            return (self, Reserved::Closed);
        }
        match capacity.saturating_sub(self.occupied).min(wanted) {
            0 => (
                Self {
                    awaited: self.awaited || wait,
                    ..self
                },
                Reserved::Full,
            ),
            granted => (
                Self {
                    occupied: self.occupied + granted,
                    ..self
                },
                Reserved::Granted(granted),
            ),
        }
    }

    /// Gives back `places` whose deliveries reached a final state.
    pub fn release(self, places: u32) -> (Self, Released) {
        // In release builds, too: past zero the lane would be full forever.
        assert!(
            places <= self.occupied,
            "released {places} places of {self:?}"
        );
        let occupied = self.occupied - places;
        let released = Released {
            wake_topic: self.awaited,
            ended: occupied == 0 && self.phase != Phase::Open,
        };
        let next = Self {
            occupied,
            awaited: false,
            ..self
        };
        (next, released)
    }

    /// Starts or hastens the end. A phase never goes back: asking to drain a lane that is being
    /// cancelled changes nothing.
    pub fn close(self, phase: Phase) -> (Self, Released) {
        let next = Self {
            phase: self.phase.max(phase),
            awaited: false,
            ..self
        };
        let released = Released {
            wake_topic: self.awaited,
            ended: next.occupied == 0 && next.phase != Phase::Open,
        };
        (next, released)
    }
}

impl crate::pure::words::Packed for Room {
    fn pack(self) -> u64 {
        u64::from(self.occupied)
            | if self.awaited { AWAITED } else { 0 }
            | (self.phase as u64) << PHASE_SHIFT
    }

    fn unpack(word: u64) -> Self {
        Self {
            occupied: (word & COUNT) as u32,
            awaited: word & AWAITED != 0,
            phase: Phase::ALL[(word >> PHASE_SHIFT) as usize % Phase::ALL.len()],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pure::words::Packed;

    #[test]
    fn every_room_survives_packing() {
        for occupied in [0, 1, u32::MAX] {
            for awaited in [false, true] {
                for phase in [
                    Phase::Open,
                    Phase::Draining,
                    Phase::DeadLettering,
                    Phase::Cancelling,
                ] {
                    let room = Room {
                        occupied,
                        awaited,
                        phase,
                    };
                    assert_eq!(Room::unpack(room.pack()), room);
                }
            }
        }
    }

    #[test]
    fn a_full_lane_remembers_who_waits_and_tells_the_next_release() {
        let (room, reserved) = Room::EMPTY.reserve(5, 3, true);
        assert_eq!(reserved, Reserved::Granted(3));
        let (room, reserved) = room.reserve(1, 3, true);
        assert_eq!(reserved, Reserved::Full);
        let (room, released) = room.release(1);
        assert!(released.wake_topic && !released.ended);
        let (_, released) = room.release(1);
        assert!(!released.wake_topic, "the topic is woken once");
    }

    #[test]
    fn who_does_not_wait_is_not_woken() {
        let (room, _) = Room::EMPTY.reserve(1, 1, false);
        let (room, reserved) = room.reserve(1, 1, false);
        assert_eq!(reserved, Reserved::Full);
        assert!(!room.release(1).1.wake_topic);
    }

    #[test]
    fn a_closed_lane_takes_nothing_and_ends_when_it_is_empty() {
        let (room, _) = Room::EMPTY.reserve(2, 4, false);
        let (room, released) = room.close(Phase::Draining);
        assert!(!released.ended);
        assert_eq!(room.reserve(1, 4, true).1, Reserved::Closed);
        let (room, released) = room.release(1);
        assert!(!released.ended);
        assert!(room.release(1).1.ended);
    }

    #[test]
    fn an_empty_lane_ends_at_once_and_wakes_a_waiting_topic() {
        assert!(Room::EMPTY.close(Phase::Cancelling).1.ended);
        let (room, _) = Room::EMPTY.reserve(1, 1, true);
        let (room, _) = room.reserve(1, 1, true);
        let (room, released) = room.close(Phase::Cancelling);
        assert!(released.wake_topic);
        assert!(!room.release(1).1.wake_topic, "the topic is woken once");
    }

    #[test]
    #[should_panic = "released 2 places of Room { occupied: 1, awaited: false, phase: Open }"]
    fn who_releases_more_than_was_reserved_is_told_the_state() {
        let _ = Room::EMPTY.reserve(1, 1, false).0.release(2);
    }

    #[test]
    fn a_phase_never_goes_back() {
        let (room, _) = Room::EMPTY.close(Phase::Cancelling);
        assert_eq!(room.close(Phase::Draining).0.phase, Phase::Cancelling);
    }
}
