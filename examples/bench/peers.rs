//! Peers are in no build but this one, so that nobody who tests the engine has to
//! build them.

use std::env;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

const PROFILE: [&str; 2] = [
    "profile.release.lto='fat'",
    "profile.release.codegen-units=1",
];

/// Runs this program again, as a build with peers; answers what that one exits with.
pub fn run_again() -> io::Result<ExitCode> {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    // A directory of its own, or this build and the usual one would evict each other.
    let target =
        env::var_os("CARGO_TARGET_DIR").map_or_else(|| package.join("../../target"), PathBuf::from);
    let target = target.join("peers");
    eprintln!(
        "bench: building with peers into {}, fat LTO; the first time takes minutes",
        target.display()
    );
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["run", "--quiet", "--release", "--example", "bench"]);
    cargo.args(["--features", "peers"]);
    cargo.arg("--manifest-path").arg(package.join("Cargo.toml"));
    cargo.arg("--target-dir").arg(target);
    for setting in PROFILE {
        cargo.args(["--config", setting]);
    }
    cargo.env("MILLSTREAM_BENCH_BUILD", "fat LTO, one codegen unit");
    cargo.arg("--").args(env::args_os().skip(1));
    let status = cargo.status()?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(ExitCode::from(code.unwrap_or(1)))
}
