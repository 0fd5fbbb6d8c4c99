//! Opening what is left of a damaged store.
//!
//! The damaged files stay as they are. A fresh log of all that is left is written behind them, is
//! read back, and takes their place. The *plan*, a file, makes that one step. The steps:
//!
//! - *survey*: read what is left. Nothing is changed.
//! - *plan*: note the number of the first new segment.
//! - *write*: the new segments, synced, and the report. Read them back as opening a store does.
//! - *commit*: note in the plan that they are complete. This is the step.
//! - *settle*: give the damaged files other names, and remove the plan.
//!
//! Whoever opens the store settles first. A plan without the commit is undone: its new segments are
//! removed. So a crash leaves the damaged store before the commit, and the salvaged one after it.
//!
//! The feared crash is one among the renames of *settle*. Each is done again if its file still has
//! the old name, and the plan goes only when all new names are safe.

pub(crate) mod fresh;
#[cfg(test)]
mod tests;

use std::io;
use std::path::Path;

use crate::log::fs::view::View;
use crate::log::fs::{Fs, write_all};
use crate::log::inspect::report::Salvage;
use crate::log::inspect::survey::{list, plan_in, read_file, survey};
use crate::log::recover::{Progress, Recovered, recover};
use crate::pure::log::format::header::{
    NEW_STORE_FILE, STORE_FILE, StoreFile, segment_name, segment_number,
};
use crate::pure::log::salvage::plan::{NEW_PLAN_FILE, PLAN_FILE, Phase, Plan, next_number};
use crate::types::error::store::StoreError;

/// The name of the report that is kept beside the damaged files.
const REPORT: &str = "report";

/// Opens the log in a directory, as [`recover`] does. If it is damaged and `salvages`, opens what is
/// left.
pub(crate) fn open(
    fs: &dyn Fs,
    directory: &Path,
    salvages: bool,
    progress: &mut dyn FnMut(Progress),
) -> Result<Recovered, StoreError> {
    settle(fs, directory)?;
    let error = match recover(fs, directory, progress) {
        Err(error) if salvages && error.can_be_salvaged() => error,
        other => return other,
    };
    let salvage = salvage(fs, directory, &error)?;
    let mut recovered = recover(fs, directory, progress)?;
    recovered.opened.salvage = Some(salvage);
    Ok(recovered)
}

/// Replaces a damaged log by what is left of it.
fn salvage(fs: &dyn Fs, directory: &Path, error: &StoreError) -> Result<Salvage, StoreError> {
    let survey = survey(fs, directory)?;
    let last = survey.segments.last().map_or(0, |segment| segment.number);
    let mut plan = Plan {
        phase: Phase::Writing,
        store: survey.store,
        first: last.checked_add(1).ok_or_else(|| error.clone())?,
        number: next_number(&list(fs, directory)?),
    };
    write_new(fs, NEW_PLAN_FILE, PLAN_FILE, &plan.encode())?;

    let state = fresh::write(fs, directory, &survey, plan.first)?;
    let view = View::new(fs, plan.first..u64::MAX, Some(plan.store));
    let read_back = recover(&view, directory, &mut drop)?;
    if read_back.state != state {
        let name = segment_name(plan.first);
        return Err(StoreError::io(
            "verify",
            &name,
            io::ErrorKind::InvalidData.into(),
        ));
    }
    let mut report = Salvage::of(&survey).or(error);
    let damaged = survey.segments.iter();
    report.kept = damaged
        .map(|segment| plan.kept_name(&segment_name(segment.number)))
        .collect();
    report.kept.extend(kept_store_file(fs, directory, &plan)?);
    write_report(fs, &plan, &report)?;

    plan.phase = Phase::Written;
    write_new(fs, NEW_PLAN_FILE, PLAN_FILE, &plan.encode())?;
    settle(fs, directory)?;
    Ok(report)
}

/// Undoes a salvage that was interrupted, or completes it.
fn settle(fs: &dyn Fs, directory: &Path) -> Result<(), StoreError> {
    let names = list(fs, directory)?;
    if names.iter().any(|name| name == NEW_PLAN_FILE) {
        remove(fs, NEW_PLAN_FILE)?;
    }
    let Some(plan) = plan_in(fs, &names)? else {
        return Ok(());
    };
    let is_new = |name: &&String| segment_number(name).is_some_and(|it| it >= plan.first);
    let is_damaged = |name: &&String| segment_number(name).is_some_and(|it| it < plan.first);
    match plan.phase {
        Phase::Writing => {
            let report = plan.kept_name(REPORT);
            let is_report = |name: &&String| **name == report;
            let made = names.iter().filter(|name| is_new(name) || is_report(name));
            made.into_iter().try_for_each(|name| remove(fs, name))?;
        }
        Phase::Written => {
            name_store(fs, directory, &plan)?;
            for name in names.iter().filter(is_damaged) {
                rename(fs, name, &plan.kept_name(name))?;
            }
        }
    }
    sync_names(fs)?;
    remove(fs, PLAN_FILE)?;
    sync_names(fs)
}

/// Returns the name that the store's file gets, if that is damaged.
fn kept_store_file(
    fs: &dyn Fs,
    directory: &Path,
    plan: &Plan,
) -> Result<Option<String>, StoreError> {
    let names = list(fs, directory)?;
    if !names.iter().any(|name| name == STORE_FILE) {
        return Ok(None);
    }
    let file = StoreFile::decode(&read_file(fs, STORE_FILE)?);
    let is_whole = file.is_ok_and(|file| file.store == plan.store);
    Ok((!is_whole).then(|| plan.kept_name(STORE_FILE)))
}

/// Writes the store's file, unless it is whole.
fn name_store(fs: &dyn Fs, directory: &Path, plan: &Plan) -> Result<(), StoreError> {
    if let Some(kept) = kept_store_file(fs, directory, plan)? {
        rename(fs, STORE_FILE, &kept)?;
    } else if list(fs, directory)?.iter().any(|name| name == STORE_FILE) {
        return Ok(());
    }
    let file = StoreFile {
        store: plan.store,
        synced: 0,
    };
    write_new(fs, NEW_STORE_FILE, STORE_FILE, &file.encode())
}

fn write_report(fs: &dyn Fs, plan: &Plan, report: &Salvage) -> Result<(), StoreError> {
    let name = plan.kept_name(REPORT);
    write_file(fs, &name, report.to_string().as_bytes())
}

/// Writes a file in place of the one that has its name. It is safe when this returns.
fn write_new(fs: &dyn Fs, new: &str, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
    match fs.remove(new) {
        // A crash left it.
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(source) => return Err(StoreError::io("remove", new, source)),
    }
    write_file(fs, new, bytes)?;
    rename(fs, new, name)?;
    sync_names(fs)
}

fn write_file(fs: &dyn Fs, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
    let error = |operation| move |source| StoreError::io(operation, name, source);
    let file = fs.create(name).map_err(error("create"))?;
    write_all(&*file, bytes, 0).map_err(error("write"))?;
    file.sync().map_err(error("sync"))
}

fn rename(fs: &dyn Fs, from: &str, to: &str) -> Result<(), StoreError> {
    fs.rename(from, to)
        .map_err(|source| StoreError::io("rename", from, source))
}

fn remove(fs: &dyn Fs, name: &str) -> Result<(), StoreError> {
    fs.remove(name)
        .map_err(|source| StoreError::io("remove", name, source))
}

fn sync_names(fs: &dyn Fs) -> Result<(), StoreError> {
    fs.sync_names()
        .map_err(|source| StoreError::io("sync the name of", PLAN_FILE, source))
}
