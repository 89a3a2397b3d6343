use std::{
    io::{BufRead as _, BufReader},
    path::PathBuf,
    process::{Command, Stdio},
    sync::{OnceLock, mpsc},
    thread,
    time::Duration,
};

use serde::Deserialize;

use crate::{Found, installed, process::Process, root};

/// The provider's program, with its packages beside it.
pub(crate) type Script = PathBuf;

pub(crate) fn find() -> Found<Script> {
    static FOUND: OnceLock<Found<Script>> = OnceLock::new();
    let script = root().join("tests/peers/provider/server.mjs");
    let packages = root().join("tests/peers/provider/node_modules/.package-lock.json");
    let node = || {
        let node = Command::new("node").arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).status();
        node.is_ok_and(|status| status.success())
    };
    FOUND
        .get_or_init(|| {
            if !node() {
                return Err("install Node.js 20 or newer, then run `tests/peers/install provider`".to_owned());
            }
            installed("provider", || packages.exists().then(|| script.clone()))
        })
        .clone()
}

/// A provider that answers. It ends when this is dropped, and when its standard input closes.
pub(crate) struct Provider {
    ready: Ready,
    _process: Process,
}

#[derive(Deserialize)]
struct Ready {
    issuer: String,
    port: u16,
}

#[derive(Deserialize)]
struct Granted {
    access_token: String,
}

impl Provider {
    /// Starts one with keys of its own. Port 0 is any.
    pub(crate) async fn start(script: &Script, port: u16, algorithm: &str) -> Self {
        let mut command = Command::new("node");
        command.arg(script).args(["--port", &port.to_string()]).env("PROVIDER_ALG", algorithm);
        command.stdout(Stdio::piped()).stderr(Stdio::null());
        let mut process = Process::start(&mut command);
        let stdout = process.take_stdout().expect("it is a pipe");
        let (ready, line) = mpsc::channel();
        thread::spawn(move || {
            let mut line = String::new();
            let _ = BufReader::new(stdout).read_line(&mut line);
            let _ = ready.send(line);
        });
        let line = line.recv_timeout(LONGEST_START).expect("the provider says when it is ready");
        let ready = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"));
        Self { ready, _process: process }
    }

    pub(crate) fn issuer(&self) -> &str {
        &self.ready.issuer
    }

    /// Ends it. Gives the port, which is free again.
    pub(crate) fn stop(self) -> u16 {
        self.ready.port
    }

    /// An access token by the client credentials grant (RFC 6749 §4.4).
    pub(crate) async fn token(&self, scope: &str) -> String {
        let client = reqwest::Client::builder().no_proxy().timeout(LONGEST_START).build().unwrap();
        let answer = client
            .post(format!("{}/token", self.issuer()))
            .basic_auth("jobs-client", Some("jobs-secret-for-tests-only"))
            .header("content-type", "application/x-www-form-urlencoded")
            .body(format!("grant_type=client_credentials&scope={}", scope.replace(' ', "+")))
            .send()
            .await
            .unwrap();
        let status = answer.status();
        assert_eq!(status, 200, "the provider grants no token");
        answer.json::<Granted>().await.unwrap().access_token
    }
}

const LONGEST_START: Duration = Duration::from_secs(30);
