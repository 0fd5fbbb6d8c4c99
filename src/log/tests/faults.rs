//! A disk that fails: at any operation, in any way that the system reports.

use crate::log::fs::sim::{FaultKind, Faults, Random, SimFs};
use crate::log::tests::model::{Entry, compare};
use crate::log::tests::program::{Outcome, Sure, go_on, run};

/// Runs the program of a seed on a disk that fails at one operation.
fn run_with(seed: u64, kind: FaultKind, at: u64) -> (SimFs, Outcome) {
    let fs = SimFs::default();
    fs.record();
    fs.fail(Faults {
        at: Some(at),
        kind,
        lies: false,
    });
    let program = run(seed, &fs);
    (fs, program)
}

/// Fails each of the operations of a program in turn. Returns how many there were.
pub(super) fn fail_everywhere(seed: u64, kind: FaultKind) -> u64 {
    let mut at = 0;
    loop {
        at += 1;
        let (fs, program) = run_with(seed, kind, at);
        if fs.operations() < at {
            return at;
        }
        let Outcome {
            settings,
            books,
            session,
            error,
        } = program;
        let mut random = Random(seed ^ at << 32);
        if let (Some(mut session), Some(error)) = (session, error) {
            // It stays as it failed, and touches the disk no more.
            let changes = fs.changes();
            for syncs in [false, true] {
                let refused = session.commit(
                    vec![Entry::Failed {
                        seq: 0,
                        attempts: 0,
                    }],
                    syncs,
                );
                let refused = refused.expect_err("it has failed");
                assert_eq!(refused.to_string(), error.to_string());
            }
            // What was acknowledged can be read.
            let shared = &session.log.shared;
            compare(shared, &books.frames, books.written, settings.keeps).expect("it reads");
            session.log.close();
            assert_eq!(fs.changes(), changes, "it writes or syncs after a failure");
        }
        // The system goes on, or loses power.
        fs.fail(Faults::default());
        let sure = Sure {
            now: books.written,
            synced: books.synced,
        };
        go_on(fs.after_kill(), settings, books.clone(), sure, &mut random);
        let sure = Sure {
            now: books.synced,
            synced: books.synced,
        };
        let disk = fs.after_power_cut(&mut random);
        go_on(disk, settings, books, sure, &mut random);
    }
}

#[test]
fn a_failed_operation_ends_the_log_and_costs_nothing_that_was_acknowledged() {
    for seed in 0..6 {
        fail_everywhere(seed, FaultKind::Error);
    }
}

#[test]
fn a_full_disk_ends_the_log_and_costs_nothing_that_was_acknowledged() {
    for seed in 20..26 {
        fail_everywhere(seed, FaultKind::NoSpace);
    }
}

#[test]
fn short_and_interrupted_transfers_are_continued() {
    for kind in [FaultKind::Short, FaultKind::Interrupted] {
        for at in 1..200 {
            let (_, program) = run_with(40, kind, at);
            assert!(program.error.is_none(), "{kind:?}: {:?}", program.error);
        }
    }
}
