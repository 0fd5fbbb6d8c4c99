//! What this crate is made of, beside itself: under which licenses, from where,
//! how often, and with which fixes.
//!
//! Cargo is asked, not the network: what the lock file names is on this machine
//! once the tests have been built, and what other platforms need is fetched once,
//! like any dependency.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// What every crate may be used under: by whoever ships this one, and by us.
const LICENSES: [&str; 3] = ["MIT", "Apache-2.0", "Unicode-3.0"];

/// Memory safety that was mended: no version from before that is let in. Most of
/// these have an advisory; the others, a database of advisories would not find.
const MENDED: [(&str, &str, &str); 10] = [
    (
        "arc-swap",
        "1.9.5",
        "a load could return a value stored into another instance (its #210); no advisory",
    ),
    (
        "bytes",
        "1.11.1",
        "an overflow in `reserve`, out-of-bounds slices after it: RUSTSEC-2026-0007",
    ),
    (
        "crossbeam-channel",
        "0.5.17",
        "a leaked selection on a bounded channel (crossbeam's #1295), no advisory; 0.5.15 for \
         the double free of RUSTSEC-2025-0024",
    ),
    (
        "crossbeam-deque",
        "0.8.1",
        "tasks that are stolen twice: RUSTSEC-2021-0093",
    ),
    (
        "crossbeam-epoch",
        "0.9.20",
        "formatting a pointer follows it: RUSTSEC-2026-0204",
    ),
    (
        "crossbeam-queue",
        "0.2.3",
        "zeroed values of any type: RUSTSEC-2022-0021",
    ),
    (
        "crossbeam-utils",
        "0.8.23",
        "a leaked guard of a sharded lock (crossbeam's #1294), no advisory; 0.8.7 for the data \
         race of RUSTSEC-2022-0041",
    ),
    (
        "dashmap",
        "5.1.0",
        "references that outlive their guard: RUSTSEC-2022-0002",
    ),
    (
        "lock_api",
        "0.4.2",
        "guards that go to other threads too easily: RUSTSEC-2020-0070",
    ),
    (
        "smallvec",
        "1.6.1",
        "a write past the end in `insert_many`: RUSTSEC-2021-0003",
    ),
];

/// The lock files of this repository: the crate's own, and those of the crates
/// that test and measure it.
const LOCKS: [&str; 4] = [
    "Cargo.lock",
    "benches/durable/Cargo.lock",
    "loom-tests/Cargo.lock",
    "tests/fuzz/Cargo.lock",
];

/// A package that a lock file names.
#[derive(Debug, Default)]
struct Locked {
    name: String,
    version: String,
    source: Option<String>,
}

fn locked(file: &str) -> Vec<Locked> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    let text = fs::read_to_string(path).expect(file);
    let mut packages = Vec::new();
    for line in text.lines() {
        if line == "[[package]]" {
            packages.push(Locked::default());
        }
        let (Some(package), Some((key, value))) = (packages.last_mut(), line.split_once(" = "))
        else {
            continue;
        };
        let value = value.trim_matches('"').to_owned();
        match key {
            "name" => package.name = value,
            "version" => package.version = value,
            "source" => package.source = Some(value),
            _ => {}
        }
    }
    assert!(packages.len() > 10, "{file} is not the file it was");
    packages
}

/// All there is to know about the tree, with every feature, on every platform.
fn metadata() -> Value {
    let out = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked"])
        .args(["--all-features", "--manifest-path"])
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))
        .output()
        .expect("cargo has built this test");
    let problem = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{problem}");
    serde_json::from_slice(&out.stdout).expect("cargo writes JSON")
}

fn list(value: &Value) -> &[Value] {
    value.as_array().expect("a list")
}

fn text(value: &Value) -> &str {
    value.as_str().expect("a text")
}

/// Whether a dependency is of the crate as its users build it: not of its tests,
/// and not of its models.
fn is_shipped(dependency: &Value) -> bool {
    let cfg = dependency["target"].as_str().unwrap_or_default();
    dependency["kind"] != "dev" && !cfg.starts_with("cfg(millstream_")
}

/// The packages that the users of the crate build, itself included.
fn shipped(metadata: &Value) -> Vec<&Value> {
    let nodes: BTreeMap<_, _> = list(&metadata["resolve"]["nodes"])
        .iter()
        .map(|node| (text(&node["id"]), node))
        .collect();
    let mut found = BTreeSet::new();
    let mut next = vec![text(&metadata["resolve"]["root"])];
    while let Some(id) = next.pop() {
        if found.insert(id) {
            let edges = list(&nodes[id]["deps"]).iter();
            let shipped = edges.filter(|edge| list(&edge["dep_kinds"]).iter().any(is_shipped));
            next.extend(shipped.map(|edge| text(&edge["pkg"])));
        }
    }
    let packages = list(&metadata["packages"]).iter();
    packages
        .filter(|package| found.contains(text(&package["id"])))
        .collect()
}

/// Whether a license expression leaves a choice within the list. It is read as if
/// "and" bound more loosely than "or", which can only refuse too much.
fn is_allowed(expression: &str) -> bool {
    let parts = expression.split(" AND ");
    let mut choices = parts.map(|part| part.trim_matches(['(', ')']).replace('/', " OR "));
    choices.all(|choice| {
        let mut licenses = choice.split(" OR ").map(str::trim);
        licenses.any(|license| LICENSES.contains(&license))
    })
}

/// The numbers of a version, or of the oldest one that a requirement allows.
fn numbers(version: &str) -> [u64; 3] {
    let plain = version.trim_start_matches(['^', '=', '~']);
    let plain = plain.split(['+', '-']).next().unwrap_or_default();
    let mut parts = plain.split('.').map(|part| {
        let number = part.parse();
        number.unwrap_or_else(|_| panic!("{version} is more than a version"))
    });
    [(); 3].map(|()| parts.next().unwrap_or(0))
}

#[test]
fn every_crate_may_be_used_as_this_one_may() {
    let metadata = metadata();
    for package in list(&metadata["packages"]) {
        let license = package["license"].as_str().unwrap_or("no license at all");
        assert!(
            is_allowed(license),
            "{} is under {license}",
            package["name"]
        );
    }
}

#[test]
fn licenses_are_chosen_by_the_user_and_joined_by_the_author() {
    for fine in [
        "MIT",
        "MIT/Apache-2.0",
        "Unlicense OR MIT",
        "GPL-3.0 OR (MIT OR Apache-2.0)",
        "(MIT OR Apache-2.0) AND Unicode-3.0",
    ] {
        assert!(is_allowed(fine), "{fine}");
    }
    for bad in [
        "",
        "GPL-3.0",
        "MPL-2.0",
        "Apache-2.0 WITH LLVM-exception",
        "MIT AND GPL-3.0",
        "(MIT OR Apache-2.0) AND MPL-2.0",
    ] {
        assert!(!is_allowed(bad), "{bad}");
    }
}

#[test]
fn no_crate_is_in_the_shipped_tree_twice() {
    // With all features, and so with fewer of them, too.
    let metadata = metadata();
    let mut versions: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for package in shipped(&metadata) {
        let versions = versions.entry(text(&package["name"])).or_default();
        versions.push(text(&package["version"]));
    }
    assert!(versions.len() > 10, "a tree without branches: {versions:?}");
    for (name, versions) in versions {
        assert_eq!(versions.len(), 1, "{name} is there as {versions:?}");
    }
}

#[test]
fn every_crate_comes_from_the_registry() {
    for file in LOCKS {
        for package in locked(file) {
            let Locked { name, source, .. } = package;
            let fine = match &source {
                Some(source) => source == "registry+https://github.com/rust-lang/crates.io-index",
                None => name.starts_with("millstream"),
            };
            assert!(fine, "{file}: {name} comes from {source:?}");
        }
    }
}

#[test]
fn no_locked_version_is_older_than_its_last_mend() {
    for file in LOCKS {
        let packages = locked(file);
        for (name, least, why) in MENDED {
            let here = packages.iter().filter(|package| package.name == name);
            for Locked { version, .. } in here {
                assert!(
                    numbers(version) >= numbers(least),
                    "{file}: {name} {version} is older than {least}: {why}"
                );
            }
        }
    }
    let ours = locked("Cargo.lock");
    for (name, ..) in MENDED {
        let is_there = ours.iter().any(|package| package.name == name);
        assert!(is_there, "{name} is gone: take it off the list");
    }
}

#[test]
fn no_requirement_lets_an_unmended_version_in() {
    // The lock file is ours. Our users have their own.
    let metadata = metadata();
    let root = &metadata["resolve"]["root"];
    let packages = list(&metadata["packages"]);
    let this = packages.iter().find(|package| package["id"] == *root);
    let this = this.expect("the package that was asked about");
    for dependency in list(&this["dependencies"]) {
        let (name, least) = (text(&dependency["name"]), text(&dependency["req"]));
        for (_, mended, why) in MENDED.iter().filter(|(mended, ..)| *mended == name) {
            assert!(
                numbers(least) >= numbers(mended),
                "{name} {least} lets in what {mended} mended: {why}"
            );
        }
    }
}
