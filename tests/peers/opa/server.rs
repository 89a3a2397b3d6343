use std::{
    ffi::{OsStr, OsString},
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
    time::{Duration, Instant},
};

use tempfile::TempDir;

use crate::{
    Found, installed, policy_dir,
    process::{Process, free_port},
    root,
};

/// The `opa` program: the pinned one, or the one on `PATH`.
pub(crate) fn find() -> Found<PathBuf> {
    static FOUND: OnceLock<Found<PathBuf>> = OnceLock::new();
    let candidates = [root().join("target/tools/opa"), PathBuf::from("opa")];
    FOUND.get_or_init(|| installed("opa", || candidates.iter().find(|opa| runs(opa, "version")).cloned())).clone()
}

pub(crate) fn find_with_openssl() -> Found<(PathBuf, PathBuf)> {
    let openssl = PathBuf::from("openssl");
    let missing = "run `apt-get install openssl`, which makes the certificates";
    if runs(&openssl, "version") { Ok((find()?, openssl)) } else { Err(missing.to_owned()) }
}

fn runs(program: &Path, argument: &str) -> bool {
    let silent = || Stdio::null();
    let status = Command::new(program).arg(argument).stdin(silent()).stdout(silent()).stderr(silent()).status();
    status.is_ok_and(|status| status.success())
}

/// A server that answers. It is killed when this is dropped.
pub(crate) struct Server {
    _process: Process,
    url: String,
    port: u16,
    directory: TempDir,
}

/// What a [`Server`] is started with.
pub(crate) struct Start {
    opa: PathBuf,
    arguments: Vec<OsString>,
    directory: TempDir,
    port: Option<u16>,
    unix_socket: bool,
    scheme: &'static str,
    probe: reqwest::ClientBuilder,
}

impl Server {
    pub(crate) fn start(opa: &Path) -> Start {
        Start {
            opa: opa.to_owned(),
            // Without the last, the server asks the network for newer versions of itself.
            arguments: ["run", "--server", "--log-level=error", "--skip-version-check"].map(OsString::from).into(),
            directory: tempfile::tempdir().unwrap(),
            port: None,
            unix_socket: false,
            scheme: "http",
            probe: reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(2)),
        }
    }

    /// As `Opa::builder` takes it.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Ends it at once, without a word to anybody. Gives the port, which is free again.
    pub(crate) fn kill(self) -> u16 {
        self.port
    }

    /// Waits for a line of the server's log that has this in it.
    pub(crate) async fn log_line_with(&self, needle: &str) -> String {
        let started = Instant::now();
        loop {
            let log = fs::read_to_string(self.directory.path().join("log")).unwrap();
            if let Some(line) = log.lines().find(|line| line.contains(needle)) {
                return line.to_owned();
            }
            assert!(started.elapsed() < LONGEST_START, "{needle} is not in the log:\n{log}");
            tokio::time::sleep(PAUSE).await;
        }
    }
}

impl Start {
    pub(crate) fn with_arguments<A: AsRef<OsStr>>(mut self, arguments: &[A]) -> Self {
        self.arguments.extend(arguments.iter().map(|argument| argument.as_ref().to_owned()));
        self
    }

    /// The policy of the examples.
    pub(crate) fn with_policy_dir(self) -> Self {
        self.with_arguments(&[policy_dir()])
    }

    pub(crate) fn with_policy(self, name: &str, text: &str) -> Self {
        let path = self.directory.path().join(name);
        fs::write(&path, text).unwrap();
        self.with_arguments(&[path])
    }

    pub(crate) fn with_bundle(self, path: &Path) -> Self {
        self.with_arguments(&[OsStr::new("--bundle"), path.as_os_str()])
    }

    pub(crate) fn on_port(mut self, port: u16) -> Self {
        self.port = Some(port);
        self
    }

    pub(crate) fn on_unix_socket(mut self) -> Self {
        self.unix_socket = true;
        self.probe = self.probe.unix_socket(self.directory.path().join("opa.sock"));
        self
    }

    pub(crate) fn with_tls(mut self, certificates: &Certificates) -> Self {
        self.scheme = "https";
        let ca = reqwest::Certificate::from_pem(certificates.ca().as_bytes()).unwrap();
        let client = reqwest::Identity::from_pem(certificates.client().as_bytes()).unwrap();
        self.probe = self.probe.tls_certs_only([ca]).identity(client);
        let (certificate, key) = (certificates.path("server.pem"), certificates.path("server.key"));
        self.with_arguments(&[
            OsStr::new("--tls-cert-file"),
            certificate.as_os_str(),
            OsStr::new("--tls-private-key-file"),
            key.as_os_str(),
        ])
    }

    /// Demands a client certificate, and takes its subject for the client's identity.
    pub(crate) fn with_client_certificates(self, certificates: &Certificates) -> Self {
        let ca = certificates.path("ca.pem");
        self.with_arguments(&["--authentication=tls", "--authorization=basic", "--tls-ca-cert-file"])
            .with_arguments(&[ca])
    }

    /// Starts it and waits until it answers, on whatever port is free.
    pub(crate) async fn ready(self) -> Server {
        let probe = self.probe.build().unwrap();
        let socket = self.directory.path().join("opa.sock");
        for _ in 0..5 {
            let port = self.port.unwrap_or_else(free_port);
            let (address, url, base) = if self.unix_socket {
                let url = format!("unix://{}", socket.display());
                (url.clone(), url, "http://localhost".to_owned())
            } else {
                let url = format!("{}://127.0.0.1:{port}", self.scheme);
                (format!("127.0.0.1:{port}"), url.clone(), url)
            };
            let log = fs::File::create(self.directory.path().join("log")).unwrap();
            let mut process = Process::start(
                Command::new(&self.opa)
                    .args(&self.arguments)
                    .args(["--addr", &address])
                    .current_dir(&self.directory)
                    .stdout(log.try_clone().unwrap())
                    .stderr(log),
            );
            let started = Instant::now();
            while started.elapsed() < LONGEST_START && !process.has_ended() {
                // Any answer: where clients have to prove themselves, this one gets a 401.
                if probe.get(format!("{base}/health")).send().await.is_ok() && !process.has_ended() {
                    return Server { _process: process, url, port, directory: self.directory };
                }
                tokio::time::sleep(PAUSE).await;
            }
            assert!(process.has_ended(), "no answer within {LONGEST_START:?}");
        }
        let log = fs::read_to_string(self.directory.path().join("log")).unwrap();
        panic!("the server ends at once: {log}");
    }
}

/// An authority, and certificates of it for a server on 127.0.0.1 and for a client `CN=portcullis`.
pub(crate) struct Certificates(TempDir);

impl Certificates {
    pub(crate) fn make(openssl: &Path) -> Self {
        let made = Self(tempfile::tempdir().unwrap());
        let request = |name: &str, extra: &[&str]| {
            let subject = format!("/CN={}", if name == "client" { "portcullis" } else { name });
            let done = Command::new(openssl)
                .current_dir(&made.0)
                .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"])
                .args(["-subj", &subject, "-keyout", &format!("{name}.key"), "-out", &format!("{name}.pem")])
                .args(extra)
                .output()
                .unwrap();
            assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        };
        let signed = ["-CA", "ca.pem", "-CAkey", "ca.key", "-addext", "basicConstraints=critical,CA:FALSE", "-addext"];
        request("ca", &["-addext", "keyUsage=critical,keyCertSign"]);
        request(
            "server",
            &[&signed[..], &["subjectAltName=IP:127.0.0.1", "-addext", "extendedKeyUsage=serverAuth"]].concat(),
        );
        request("client", &[&signed[..], &["extendedKeyUsage=clientAuth"]].concat());
        made
    }

    pub(crate) fn ca(&self) -> String {
        self.text("ca.pem")
    }

    /// Certificate and key.
    pub(crate) fn client(&self) -> String {
        self.text("client.pem") + &self.text("client.key")
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

const LONGEST_START: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(20);
