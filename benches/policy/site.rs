//! The real server, and everybody who decides.

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use portcullis::policy::{Cached, Opa, PolicyBackend, Rego, Wasm, dangerous_allow_all};
use tempfile::TempDir;

use crate::{
    bare::{self, Address, Bare},
    decider::{Awaited, Decider, Inline, runtime},
    world::{POLICY, World},
};

/// A server that is killed when this is dropped.
pub(crate) struct Site {
    server: Child,
    tcp: Address,
    unix: Address,
    _directory: TempDir,
}

impl Site {
    pub(crate) fn start(world: &World) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let file = |name: &str| directory.path().join(name);
        fs::write(file("authz.rego"), POLICY).expect("a file");
        fs::write(file("data.json"), world.data().to_string()).expect("a file");
        let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").port();
        let (tcp, unix) = (Address::Tcp(port), Address::Unix(file("opa.sock")));
        let server = Command::new(opa())
            .args(["run", "--server", "--log-level=error", "--skip-version-check"])
            .args(["--addr", &format!("127.0.0.1:{port}"), "--addr", &bare::url(&unix)])
            .args([file("authz.rego"), file("data.json")])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the program was found");
        let site = Self { server, tcp, unix, _directory: directory };
        let began = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(began.elapsed() < LONGEST_START, "the server does not listen");
            thread::sleep(Duration::from_millis(20));
        }
        site
    }

    pub(crate) fn deciders(&self, world: &World) -> Vec<Decider> {
        let rego =
            || Rego::builder().with_policies(world.policy_set()).with_time_limit(PATIENCE).build().expect("a policy");
        let cached = Cached::builder(Arc::new(rego())).with_lifetime(Duration::from_secs(60)).build().expect("a cache");
        let requests = bare::requests_of_opa(world.inputs());
        let inline = |backend: Arc<dyn PolicyBackend>| move || Box::new(Inline(backend.clone())) as Box<_>;
        let rest = |address: &Address| {
            let url = bare::url(address);
            move || {
                let runtime = runtime();
                let opa =
                    Opa::builder(&*url).with_deadline(PATIENCE).without_health_checks().build().expect("a backend");
                Box::new(Awaited { runtime, backend: Arc::new(opa) }) as Box<_>
            }
        };
        let bare = |address: &Address| {
            let (address, requests) = (address.clone(), requests.clone());
            move || Box::new(Bare::connect(&address, requests.clone())) as Box<_>
        };
        let wasm = Wasm::builder()
            .with_policy(world.compiled(&opa()))
            .with_memory_limit(1 << 30)
            .with_time_limit(PATIENCE)
            .build()
            .expect("a policy");
        vec![
            Decider::constant(FIXED, inline(Arc::new(dangerous_allow_all()))),
            Decider::new(CACHED, inline(Arc::new(cached))),
            Decider::new(WASM, inline(Arc::new(wasm))),
            Decider::new(REGO, inline(Arc::new(rego()))),
            Decider::new(TCP, rest(&self.tcp)),
            Decider::new(BARE_TCP, bare(&self.tcp)),
            Decider::new(UNIX, rest(&self.unix)),
            Decider::new(BARE_UNIX, bare(&self.unix)),
        ]
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// The pinned program, or the one on `PATH`.
fn opa() -> PathBuf {
    let pinned = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/opa");
    let program = if pinned.exists() { pinned } else { PathBuf::from("opa") };
    let runs =
        Command::new(&program).arg("version").stdout(Stdio::null()).status().is_ok_and(|status| status.success());
    assert!(runs, "the bench needs Open Policy Agent: run `tests/peers/install opa`");
    program
}

pub(crate) const FIXED: &str = "fixed";
pub(crate) const CACHED: &str = "Cached, hit";
pub(crate) const WASM: &str = "Wasm";
pub(crate) const REGO: &str = "Rego";
pub(crate) const TCP: &str = "Opa, TCP";
pub(crate) const BARE_TCP: &str = "bare bytes, TCP";
pub(crate) const UNIX: &str = "Opa, unix socket";
pub(crate) const BARE_UNIX: &str = "bare bytes, unix socket";
/// A machine with other work shows in the slowest calls, not in the absence of some.
const PATIENCE: Duration = Duration::from_secs(1);
const LONGEST_START: Duration = Duration::from_secs(30);
