//! Peers are in no build but this one, so that nobody who tests the engine has to
//! build them.

use std::env;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

const CFG: &str = "--cfg millstream_peers";
const PROFILE: [&str; 2] = [
    "profile.release.lto='fat'",
    "profile.release.codegen-units=1",
];

/// Runs this program again, as a build with peers; answers what that one exits with.
pub fn run_again() -> io::Result<ExitCode> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    // A directory of its own, or this build and the usual one would evict each other.
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let target = target.join("peers");
    eprintln!(
        "bench: building with peers into {}, fat LTO; the first time takes minutes",
        target.display()
    );
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["run", "--quiet", "--release", "--example", "bench"]);
    cargo.args(["--features", "async"]);
    cargo.arg("--manifest-path").arg(root.join("Cargo.toml"));
    cargo.arg("--target-dir").arg(target);
    for setting in PROFILE {
        cargo.args(["--config", setting]);
    }
    let (variable, flags) = flags(|name| env::var(name).ok());
    cargo.env(variable, flags);
    cargo.env("MILLSTREAM_BENCH_BUILD", "fat LTO, one codegen unit");
    cargo.arg("--").args(env::args_os().skip(1));
    let status = cargo.status()?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(ExitCode::from(code.unwrap_or(1)))
}

/// Flags in the environment hide those of any configuration, so that is where ours
/// must go, after whatever is there.
fn flags(environment: impl Fn(&str) -> Option<String>) -> (&'static str, String) {
    const ENCODED: &str = "CARGO_ENCODED_RUSTFLAGS";
    const PLAIN: &str = "RUSTFLAGS";
    if let Some(there) = environment(ENCODED).filter(|there| !there.is_empty()) {
        return (
            ENCODED,
            format!("{there}\u{1f}{}", CFG.replace(' ', "\u{1f}")),
        );
    }
    let there = environment(PLAIN).unwrap_or_default();
    (PLAIN, format!("{there} {CFG}").trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_that_are_there_stay() {
        let only = |set: &'static str, to: &'static str| {
            move |name: &str| (name == set).then(|| to.to_owned())
        };
        let (name, value) = flags(|_| None);
        assert_eq!((name, value.as_str()), ("RUSTFLAGS", CFG));
        let (name, value) = flags(only("RUSTFLAGS", "-g"));
        assert_eq!(
            (name, value.as_str()),
            ("RUSTFLAGS", "-g --cfg millstream_peers")
        );
        let (name, value) = flags(only("CARGO_ENCODED_RUSTFLAGS", "-g"));
        let encoded = "-g\u{1f}--cfg\u{1f}millstream_peers";
        assert_eq!((name, value.as_str()), ("CARGO_ENCODED_RUSTFLAGS", encoded));
    }
}
