//! The wall between the engine and user code: nothing that panics gets past it,
//! not even a panic whose payload panics when it is dropped.

use std::any::{Any, TypeId};

use crate::pure::policy::retry::RetryPolicy;
use crate::pure::policy::strategy::{Immediate, Strategy};
use crate::sync::{Arc, catch_panic};

/// Calls user code. A panic comes back as its text.
///
/// State that the code leaves half-done is the user's own. The engine shares no state with it that
/// an unwind could break.
pub(crate) fn contain<R>(call: impl FnOnce() -> R) -> Result<R, String> {
    catch_panic(call).map_err(|payload| {
        let text = match (payload.downcast_ref::<&str>(), payload.downcast_ref()) {
            (Some(text), _) => (*text).to_owned(),
            (None, Some(text)) => String::clone(text),
            (None, None) => "a panic without a text".to_owned(),
        };
        let dropped = catch_panic(|| drop(payload));
        if let Err(again) = dropped {
            // Leak it: there is nothing else left to try.
            std::mem::forget(again);
        }
        text
    })
}

/// Drops a value whose destructor is the user's. If it panics, the panic hook has reported that,
/// and nobody else is told.
pub(crate) fn discard<V>(value: V) {
    if std::mem::needs_drop::<V>() {
        let _ = contain(|| drop(value));
    }
}

/// A strategy in use.
pub(crate) type SharedStrategy = Arc<StrategyInUse>;
/// A retry policy in use.
pub(crate) type PolicyInUse = Contained<Box<dyn AnyPolicy>>;
/// A retry policy in use, shared.
pub(crate) type SharedPolicy = Arc<PolicyInUse>;

/// A strategy of any type, which can be compared with others.
pub(crate) trait AnyStrategy: Strategy + Any {
    fn equals(&self, other: &dyn AnyStrategy) -> bool;
}

impl<S: Strategy> AnyStrategy for S {
    fn equals(&self, other: &dyn AnyStrategy) -> bool {
        let other = (other as &dyn Any).downcast_ref();
        other.is_some_and(|other| self.same_as(other))
    }
}

/// A retry policy of any type, which can be compared with others.
pub(crate) trait AnyPolicy: RetryPolicy + Any {
    fn equals(&self, other: &dyn AnyPolicy) -> bool;
}

impl<P: RetryPolicy> AnyPolicy for P {
    fn equals(&self, other: &dyn AnyPolicy) -> bool {
        let other = (other as &dyn Any).downcast_ref();
        other.is_some_and(|other| self.same_as(other))
    }
}

/// A strategy, and what the engine learned of it when it was installed.
pub(crate) struct StrategyInUse {
    pub(crate) name: Arc<str>,
    /// The strategy is [`Immediate`], whose decision is known without a call.
    pub(crate) is_immediate: bool,
    strategy: Contained<Box<dyn AnyStrategy>>,
}

impl StrategyInUse {
    /// Returns whether the two are one, or decide alike as far as they say so.
    pub(crate) fn agrees(self: &Arc<Self>, other: &Arc<Self>) -> bool {
        // The values are compared, not the boxes, which are strategies as well.
        Arc::ptr_eq(self, other)
            || contain(|| (**self.strategy).equals(&**other.strategy)).unwrap_or(false)
    }
}

impl std::ops::Deref for StrategyInUse {
    type Target = dyn AnyStrategy;

    fn deref(&self) -> &Self::Target {
        &**self.strategy
    }
}

pub(crate) fn share_strategy<S: Strategy>(strategy: S) -> SharedStrategy {
    let name = contain(|| Arc::from(strategy.name()));
    Arc::new(StrategyInUse {
        is_immediate: TypeId::of::<S>() == TypeId::of::<Immediate>(),
        name: name.unwrap_or_else(|_| Arc::from("unnamed")),
        strategy: Contained::new(Box::new(strategy)),
    })
}

/// Returns a stand-in with the name of a strategy that is no longer called.
pub(crate) fn stand_in(strategy: &StrategyInUse) -> SharedStrategy {
    Arc::new(StrategyInUse {
        name: Arc::clone(&strategy.name),
        is_immediate: true,
        strategy: Contained::new(Box::new(Immediate)),
    })
}

pub(crate) fn share_policy(policy: impl RetryPolicy) -> SharedPolicy {
    Arc::new(Contained::new(Box::new(policy)))
}

/// A value of the user's. Its drop is contained, whoever holds it last.
pub(crate) struct Contained<V>(Option<V>);

impl<V> Contained<V> {
    pub(crate) fn new(value: V) -> Self {
        Self(Some(value))
    }
}

impl PolicyInUse {
    /// Returns whether the two are one, or decide alike as far as they say so.
    pub(crate) fn agrees(self: &Arc<Self>, other: &Arc<Self>) -> bool {
        // The values are compared, not the boxes, which are policies as well.
        Arc::ptr_eq(self, other) || contain(|| (****self).equals(&****other)).unwrap_or(false)
    }
}

impl<V> std::ops::Deref for Contained<V> {
    type Target = V;

    fn deref(&self) -> &V {
        self.0.as_ref().expect("it is there until it is dropped")
    }
}

impl<V> std::ops::DerefMut for Contained<V> {
    fn deref_mut(&mut self) -> &mut V {
        self.0.as_mut().expect("it is there until it is dropped")
    }
}

impl<V> Drop for Contained<V> {
    fn drop(&mut self) {
        discard(self.0.take());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_comes_back_as_its_text() {
        assert_eq!(contain(|| 7), Ok(7));
        assert_eq!(
            contain(|| panic!("plain")),
            Err::<(), _>("plain".to_owned())
        );
        let number = 7;
        let formatted = contain(|| panic!("number {number}"));
        assert_eq!(formatted, Err::<(), _>("number 7".to_owned()));
    }

    #[test]
    fn a_panic_whose_payload_panics_is_contained_too() {
        struct Bomb;
        impl Drop for Bomb {
            fn drop(&mut self) {
                panic!("a payload that won't go quietly");
            }
        }
        let text = contain(|| std::panic::panic_any(Bomb));
        assert_eq!(text, Err::<(), _>("a panic without a text".to_owned()));
        discard(Bomb);
    }
}
