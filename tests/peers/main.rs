//! Tests against real peers: an Open Policy Agent server, and an OpenID provider. All traffic stays on loopback.
//!
//! Where a peer is not there its tests are left out and say which command gets it. With `PORTCULLIS_REQUIRE_PEERS=1` that command is
//! run, and a peer that still is not there is a failure.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test may stop at a failed assumption; clippy.toml knows only those with `#[test]`"
)]

mod opa;
mod process;
mod provider;

use std::{
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    time::Duration,
};

use libtest_mimic::{Arguments, Completion, Failed, Trial};

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let trials = opa::trials().into_iter().chain(provider::trials()).collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// A peer, or why it cannot be had.
type Found<P> = Result<P, String>;

/// A test that is given its peer.
fn trial<P, F, T>(name: &'static str, peer: fn() -> Found<P>, test: F) -> Trial
where
    P: 'static,
    F: FnOnce(P) -> T + Send + 'static,
    T: Future<Output = ()>,
{
    Trial::ignorable_test(name, move || match peer() {
        Ok(peer) => {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
            runtime
                .block_on(async { tokio::time::timeout(LONGEST, test(peer)).await })
                .map_err(|_| Failed::from(format!("not done within {LONGEST:?}")))?;
            Ok(Completion::Completed)
        }
        Err(missing) if is_required() => Err(missing.into()),
        Err(missing) => Ok(Completion::ignored_with(missing)),
    })
}

/// What `find` finds, if need be after `tests/peers/install` got it.
fn installed<P>(name: &str, find: impl Fn() -> Option<P>) -> Found<P> {
    let command = format!("tests/peers/install {name}");
    if let Some(peer) = find() {
        return Ok(peer);
    }
    if is_required() {
        let installed = Command::new(root().join("tests/peers/install")).arg(name).stdin(Stdio::null()).status();
        if !installed.is_ok_and(|status| status.success()) {
            return Err(format!("`{command}` failed"));
        }
    }
    find().ok_or_else(|| format!("run `{command}`"))
}

fn is_required() -> bool {
    std::env::var_os("PORTCULLIS_REQUIRE_PEERS").is_some_and(|value| value == "1")
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn policy_dir() -> PathBuf {
    root().join("examples/policy")
}

/// How long one test may take.
const LONGEST: Duration = Duration::from_secs(300);
