//! Finds or starts an Open Policy Agent with the policy of the quick start.

use std::{
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

/// How to come by a server, and how to use one that is running.
pub fn how_to_start() -> String {
    let version = include_str!("../../tests/peers/opa.version").trim();
    format!(
        "\
There is no `opa` on PATH. Get it, for instance with the Go tools:

  CGO_ENABLED=0 GOBIN=$PWD/target/tools go install github.com/open-policy-agent/opa@{version}

and run this example again, or start it yourself and say where it is:

  opa run --server --addr 127.0.0.1:8181 --ignore '*_test.rego' examples/policy
  cargo run --features opa --example opa_server -- http://127.0.0.1:8181"
    )
}

/// An Open Policy Agent; one that was started here ends with it.
pub struct Server {
    url: String,
    started: Option<Child>,
}

impl Server {
    /// The one that the command line names, or a new one. `None` when there is no `opa`.
    pub async fn find() -> Result<Option<Self>, Box<dyn std::error::Error>> {
        if let Some(url) = std::env::args().find(|argument| argument.starts_with("http")) {
            return Ok(Some(Self { url, started: None }));
        }
        let Some(program) = program() else { return Ok(None) };
        // The port is free a moment later still, or the server says so and ends.
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let policy = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/policy");
        let child = Command::new(program)
            .args([
                "run",
                "--server",
                "--log-level",
                "error",
                "--ignore",
                "*_test.rego",
                "--addr",
                &address.to_string(),
            ])
            .arg(policy)
            .stdin(Stdio::null())
            .spawn()?;
        let server = Self { url: format!("http://{address}"), started: Some(child) };
        server.wait().await?;
        Ok(Some(server))
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    async fn wait(&self) -> Result<(), Box<dyn std::error::Error>> {
        let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(1)).build()?;
        for _ in 0..200 {
            match client.get(format!("{}/health", self.url)).send().await {
                Ok(answer) if answer.status().is_success() => return Ok(()),
                _ => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
        Err(format!("opa did not become ready at {} within 10 s", self.url).into())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(child) = &mut self.started {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn program() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let local = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools");
    std::env::split_paths(&path).chain([local]).map(|folder| folder.join("opa")).find(|file| file.is_file())
}
