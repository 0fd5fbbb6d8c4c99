//! What the model does not know, as a table: each entry says why, by which rule programs do
//! without it, and which tests hold it instead.

mod rules;
mod table;

use crate::program::{Setup, Step};
use crate::reference::Model;
pub use table::EXCLUSIONS;

/// Something of which the model does not say what becomes of it.
pub struct Exclusion {
    pub what: &'static str,
    pub why: &'static str,
    pub by: Rule,
    /// The tests that hold it, each as `file::name`.
    pub held_by: &'static [&'static str],
}

/// How programs do without it.
pub enum Rule {
    /// Settings become the nearest of which the model knows enough.
    Setup(fn(&mut Setup)),
    /// A step becomes the nearest such, or is left out if this returns `false`.
    Step(fn(&Model, &mut Step) -> bool),
    /// Programs do it, and what must hold is checked: the model follows the engine.
    Judged,
    /// No program does it.
    Never,
}

/// The nearest settings that the model knows.
pub fn within_the_model(mut setup: Setup) -> Setup {
    for exclusion in EXCLUSIONS {
        if let Rule::Setup(adapt) = exclusion.by {
            adapt(&mut setup);
        }
    }
    setup
}

/// The nearest step that the model knows, if there is one.
pub fn step_within(model: &Model, mut step: Step) -> Option<Step> {
    let mut exclusions = EXCLUSIONS.iter();
    let is_known = exclusions.all(|exclusion| match exclusion.by {
        Rule::Step(adapt) => adapt(model, &mut step),
        _ => true,
    });
    is_known.then_some(step)
}

#[test]
fn each_exclusion_is_held_by_tests_that_exist() {
    let tests = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent();
    let tests = tests.expect("the package is in the folder of the tests");
    for exclusion in EXCLUSIONS {
        assert!(!exclusion.why.is_empty(), "{}", exclusion.what);
        assert!(!exclusion.held_by.is_empty(), "{}", exclusion.what);
        for test in exclusion.held_by {
            let (file, name) = test.split_once("::").expect("file::name");
            let text = std::fs::read_to_string(tests.join(file).with_extension("rs"));
            let text = text.unwrap_or_else(|error| panic!("{test}: {error}"));
            let is_there = text.contains(&format!("fn {name}("));
            assert!(is_there, "{}: there is no {test}", exclusion.what);
        }
    }
}
