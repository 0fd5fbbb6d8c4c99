//! Atomics whose loads and stores may be read-modify-writes.

use super::rmw_only;
use std::mem::ManuallyDrop;
pub(crate) use std::sync::atomic::Ordering;

macro_rules! integer {
    ($name:ident, $value:ty) => {
        /// Never dropped: loom takes a drop for an access, and can't see that the counts of
        /// `std::sync::Arc` order it after all others.
        #[derive(Debug, Default)]
        pub(crate) struct $name(ManuallyDrop<loom::sync::atomic::$name>);

        #[allow(dead_code, reason = "one set of operations for all widths")]
        impl $name {
            pub(crate) fn new(value: $value) -> Self {
                Self(ManuallyDrop::new(loom::sync::atomic::$name::new(value)))
            }

            pub(crate) fn load(&self, order: Ordering) -> $value {
                if rmw_only() {
                    self.0.fetch_add(0, order)
                } else {
                    self.0.load(order)
                }
            }

            pub(crate) fn store(&self, value: $value, order: Ordering) {
                if rmw_only() {
                    self.0.swap(value, order);
                } else {
                    self.0.store(value, order);
                }
            }

            pub(crate) fn swap(&self, value: $value, order: Ordering) -> $value {
                self.0.swap(value, order)
            }

            pub(crate) fn fetch_add(&self, value: $value, order: Ordering) -> $value {
                self.0.fetch_add(value, order)
            }

            pub(crate) fn fetch_sub(&self, value: $value, order: Ordering) -> $value {
                self.0.fetch_sub(value, order)
            }

            pub(crate) fn fetch_min(&self, value: $value, order: Ordering) -> $value {
                self.0.fetch_min(value, order)
            }

            pub(crate) fn fetch_max(&self, value: $value, order: Ordering) -> $value {
                self.0.fetch_max(value, order)
            }

            pub(crate) fn fetch_update(
                &self,
                set: Ordering,
                fetch: Ordering,
                step: impl FnMut($value) -> Option<$value>,
            ) -> Result<$value, $value> {
                self.0.fetch_update(set, fetch, step)
            }

            pub(crate) fn compare_exchange_weak(
                &self,
                current: $value,
                new: $value,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$value, $value> {
                self.0.compare_exchange(current, new, success, failure)
            }
        }
    };
}

integer!(AtomicU64, u64);
integer!(AtomicUsize, usize);

#[derive(Debug, Default)]
pub(crate) struct AtomicBool(AtomicUsize);

impl AtomicBool {
    pub(crate) fn new(value: bool) -> Self {
        Self(AtomicUsize::new(usize::from(value)))
    }

    pub(crate) fn load(&self, order: Ordering) -> bool {
        self.0.load(order) != 0
    }

    pub(crate) fn store(&self, value: bool, order: Ordering) {
        self.0.store(usize::from(value), order);
    }

    pub(crate) fn swap(&self, value: bool, order: Ordering) -> bool {
        self.0.swap(usize::from(value), order) != 0
    }
}
