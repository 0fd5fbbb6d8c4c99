//! A disk that says it has synced, and has not. Nobody can keep an acknowledged record safe on it.

use crate::log::fs::sim::{Faults, Random, SimFs};
use crate::log::tests::program::{Session, run};
use crate::types::error::store::StoreError;

/// What is lost is lost from the end, or the store is refused: a frame that survives vouches for
/// those before it. A message is never another one, and nothing panics.
#[test]
fn a_disk_that_lies_costs_the_end_of_the_log_or_is_refused() {
    let (mut shorter, mut refused, mut whole) = (0, 0, 0);
    for seed in 0..60 {
        let fs = SimFs::with(Faults {
            lies: true,
            ..Faults::default()
        });
        let program = run(seed, &fs);
        assert!(program.error.is_none(), "a lie is no error");
        let mut random = Random(seed);
        for _ in 0..8 {
            let disk = fs.after_power_cut(&mut random);
            let books = program.books.clone();
            // It compares: what is there is a prefix, with the payloads that were published.
            match Session::open(&disk, program.settings, books, 0) {
                Ok(session) => match session.books.lock().written < program.books.synced {
                    true => shorter += 1,
                    false => whole += 1,
                },
                Err(StoreError::Damaged { .. } | StoreError::Unnamed { .. }) => refused += 1,
                Err(other) => panic!("{other}"),
            }
        }
    }
    println!("{shorter} shorter, {refused} refused, {whole} whole");
    assert!(shorter > 0 && refused > 0 && whole > 0);
}
