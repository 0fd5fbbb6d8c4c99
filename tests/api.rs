//! The public API as a list, so that a change of it is seen where it is made.
//!
//! `tests/api.txt` has each public item by the module that a user finds it in, and the signatures of
//! its methods. `MILLSTREAM_API=write cargo test --test house api` writes it anew.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use crate::layering::sources;

/// The folders that define what users see.
const FACADE: &[&str] = &[
    "broker",
    "message",
    "observe",
    "pure/decide",
    "pure/policy",
    "pure/protect",
    "subscription",
    "topic",
    "types",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The names that `lib.rs` exports, each with the module where it is found.
fn exports() -> BTreeSet<String> {
    let text = fs::read_to_string(root().join("src/lib.rs")).expect("a readable file");
    let text = text
        .split("#[cfg(millstream_loom)]")
        .next()
        .unwrap_or_default();
    let mut module = String::new();
    let mut names = BTreeSet::new();
    let mut statement = String::new();
    for line in text.lines().map(str::trim) {
        if let Some(opened) = line
            .strip_prefix("pub mod ")
            .and_then(|rest| rest.strip_suffix(" {"))
        {
            module = format!("{opened}::");
        } else if line == "}" && statement.is_empty() {
            module.clear();
        } else if line.starts_with("pub use ") || !statement.is_empty() {
            statement += line;
            if line.ends_with(';') {
                names.extend(exported(&statement).map(|name| format!("{module}{name}")));
                statement.clear();
            }
        }
    }
    names
}

/// The names at the end of a `pub use`.
fn exported(statement: &str) -> impl Iterator<Item = &str> {
    let path = statement
        .trim_start_matches("pub use ")
        .trim_end_matches(';');
    let last = match path.split_once('{') {
        Some((_, list)) => list.trim_end_matches('}'),
        None => path.rsplit("::").next().unwrap_or(path),
    };
    last.split(',')
        .map(str::trim)
        .filter(|name| !name.is_empty())
}

/// The signatures of public functions, by the file that has them.
fn signatures() -> BTreeMap<String, Vec<String>> {
    let mut found = BTreeMap::new();
    for folder in FACADE {
        let mut paths = Vec::new();
        sources(&root().join("src").join(folder), &mut paths);
        for path in paths {
            let text = fs::read_to_string(&path).expect("a readable file");
            let shipped = text
                .split("#[cfg(test)]\nmod tests")
                .next()
                .unwrap_or_default();
            let all = signatures_of(shipped);
            if !all.is_empty() {
                let below = path.strip_prefix(root()).expect("it was found below");
                found.insert(below.to_string_lossy().replace('\\', "/"), all);
            }
        }
    }
    found
}

fn signatures_of(text: &str) -> Vec<String> {
    let mut all = Vec::new();
    let mut signature = String::new();
    for line in text.lines().map(str::trim) {
        let begins = [
            "pub fn ",
            "pub const fn ",
            "pub async fn ",
            "pub enum ",
            "pub struct ",
            "pub trait ",
        ];
        if signature.is_empty() && !begins.iter().any(|begin| line.starts_with(begin)) {
            continue;
        }
        signature += line;
        signature.push(' ');
        if line.ends_with(['{', ';', '}']) {
            let end = signature.trim_end().trim_end_matches('{').trim_end();
            all.push(end.trim_end_matches(',').to_owned());
            signature.clear();
        }
    }
    all.sort();
    all
}

#[test]
fn the_public_api_is_the_one_on_the_list() {
    let mut now = String::from("# Names\n\n");
    for name in exports() {
        now += &format!("millstream::{name}\n");
    }
    for (file, signatures) in signatures() {
        now += &format!("\n# {file}\n\n");
        for signature in signatures {
            now += &format!("{signature}\n");
        }
    }
    let path = root().join("tests/api.txt");
    if std::env::var_os("MILLSTREAM_API").is_some_and(|wish| wish == "write") {
        fs::write(&path, &now).expect("the list can be written");
    }
    let listed = fs::read_to_string(&path).expect("a readable file");
    let new: Vec<_> = now
        .lines()
        .filter(|line| !listed.lines().any(|old| old == *line))
        .collect();
    let gone: Vec<_> = listed
        .lines()
        .filter(|line| !now.lines().any(|new| new == *line))
        .collect();
    assert!(
        new.is_empty() && gone.is_empty(),
        "the public API has changed; if it is meant to, MILLSTREAM_API=write accepts it\n\
         new: {new:#?}\ngone: {gone:#?}"
    );
}
