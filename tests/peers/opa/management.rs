//! `policy::BundleAgent` and a real server under one control plane: the same bundles, the same verdicts, the same questions.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    body::Bytes,
    extract::{Path as Segments, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use portcullis::{
    key::Algorithm,
    policy::{
        BundleAgent, Rego,
        bundle::Verification,
        management::{BundleSource, Polling, Service},
    },
};
use serde_json::{Value, json};

use super::{
    bundle::{Key, RSA, Scratch, change, pack, run, with_file, without},
    server::Server,
};

/// What a bundle is made of.
#[derive(Clone)]
struct Recipe<'a> {
    revision: String,
    roots: &'a str,
    rule: &'a str,
    key: Option<&'a Key>,
    scope: &'a str,
    algorithm: Algorithm,
    /// Other files than the policy, which `opa build` might not take.
    more: &'a [(&'a str, &'a str)],
}

/// Both clients are served the same. There is one bundle that only one of them refuses.
pub(crate) async fn it_takes_and_refuses_what_the_server_does((opa, openssl): (PathBuf, PathBuf)) {
    let scratch = Scratch::new();
    let key = Key::make(&scratch, &openssl, Algorithm::Rs256, RSA);
    let other_key = Key::make(&scratch, &openssl, Algorithm::Rs256, RSA);
    let plane = ControlPlane::start().await;
    plane.serve(
        "other",
        pack(vec![(".manifest".into(), br#"{"revision":"o1","roots":["shared"]}"#.into())]),
        "o1",
        "application/gzip",
    );
    let kept = pack(vec![(".manifest".into(), br#"{"revision":"k1","roots":["kept"]}"#.into())]);
    plane.serve("kept", kept, "k1", "application/vnd.openpolicyagent.bundles");

    let recipe = |revision: &str| Recipe {
        revision: revision.to_owned(),
        roots: "\"authz\"",
        rule: "decision := true",
        key: Some(&key),
        scope: "",
        algorithm: Algorithm::Rs256,
        more: &[],
    };
    let built = |recipe: Recipe<'_>| build(&opa, &recipe);
    let is_module = |path: &str| path.ends_with(".rego");
    let tamper = |archive: &[u8], which: &dyn Fn(&str) -> bool| {
        change(archive, |path, content| if which(path) { [&content[..], b"\n\n# x"].concat() } else { content })
    };
    plane.serve("authz", built(recipe("first")), "first", "application/gzip");

    let _server =
        Server::start(&opa).with_arguments(&["--config-file", &plane.configuration(&scratch, &key)]).ready().await;
    let service = Service::builder("control", format!("{}/agent", plane.url)).build().unwrap();
    let often = Polling::between(Duration::from_millis(100), Duration::from_millis(200));
    let unsigned = |name: &str| BundleSource::new(name, Verification::forbidden());
    let agent = BundleAgent::builder(service.clone())
        .add_bundle(BundleSource::new("authz", key.verification(None)).with_polling(often.clone()))
        .add_bundle(unsigned("other").with_polling(often.clone()))
        .add_bundle(unsigned("kept").with_polling(often.with_long_polling(Duration::from_secs(10))))
        .with_status(service)
        .start(Rego::builder())
        .unwrap();
    agent.ready(Duration::from_secs(20)).await.unwrap();
    assert!(plane.verdict("opa", "first").await && plane.verdict("agent", "first").await);

    let data: &[(&str, &str)] = &[("authz/data.json", "{\"x\": 1.50}")];
    let again = |revision| built(Recipe { more: data, ..recipe(revision) });
    let cases: Vec<(&str, Vec<u8>, [bool; 2])> = vec![
        ("good", again("good"), [true, true]),
        ("tampered-module", tamper(&again("tampered-module"), &is_module), [false, false]),
        (
            "tampered-data",
            change(
                &again("tampered-data"),
                |path, content| if path.ends_with("data.json") { b"{}".to_vec() } else { content },
            ),
            [false, false],
        ),
        ("extra-file", with_file(&again("extra-file"), "more.rego", "package authz.more"), [false, false]),
        ("missing-file", without(&again("missing-file"), |path| path.ends_with("data.json")), [false, false]),
        ("wrong-key", built(Recipe { key: Some(&other_key), ..recipe("wrong-key") }), [false, false]),
        ("wrong-algorithm", built(Recipe { algorithm: Algorithm::Rs512, ..recipe("wrong-algorithm") }), [false, false]),
        ("wrong-scope", built(Recipe { scope: "write", ..recipe("wrong-scope") }), [false, false]),
        ("unsigned", built(Recipe { key: None, ..recipe("unsigned") }), [false, false]),
        ("overlap", built(Recipe { roots: "\"authz\", \"shared/x\"", ..recipe("overlap") }), [false, false]),
        ("bad-rego", built(Recipe { rule: "decision := {", ..recipe("bad-rego") }), [false, false]),
        ("recursion", built(Recipe { rule: "decision := decision", ..recipe("recursion") }), [false, false]),
        (
            "outside-roots",
            built(Recipe { more: &[("elsewhere/data.json", "{\"x\": 1}")], ..recipe("outside-roots") }),
            [false, false],
        ),
        (
            "cut-off",
            {
                let whole = again("cut-off");
                whole[..whole.len() - 20].to_vec()
            },
            [false, false],
        ),
        ("good-again", again("good-again"), [true, true]),
        // Applied there without a look at a signature: nothing signs a delta.
        (
            "delta",
            pack(vec![
                (".manifest".into(), br#"{"revision":"delta","roots":["authz"]}"#.into()),
                ("patch.json".into(), br#"{"data":[{"op":"upsert","path":"/authz/x","value":2}]}"#.into()),
            ]),
            [true, false],
        ),
    ];
    let mut active = "first";
    let (mut same, mut refused_here) = (0, Vec::new());
    for (name, archive, expected) in cases {
        plane.serve("authz", archive, name, "application/gzip");
        let found = [plane.verdict("opa", name).await, plane.verdict("agent", name).await];
        assert_eq!(found, expected, "{name}: [server, agent]: {}", plane.status("agent"));
        let [theirs, ours] = ["opa", "agent"].map(|client| plane.question(client, "authz", name));
        assert_eq!(ours.0.as_deref(), Some(active), "{name}: the tag of what is in force");
        assert_eq!(theirs.0, ours.0, "{name}");
        assert_eq!(theirs.1.replace(",delta", ""), ours.1, "{name}: `Prefer`");
        match found {
            [true, false] => refused_here.push(name),
            _ => same += 1,
        }
        if found == [true, true] {
            active = name;
        }
    }
    for client in ["opa", "agent"] {
        let (tag, prefer) = plane.question(client, "kept", "k1");
        assert_eq!((tag, prefer.replace(",delta", "").as_str()), (None, "modes=snapshot;wait=10"), "{client}");
        let (tag, prefer) = plane.waiting(client).await;
        assert_eq!(
            (tag.as_deref(), prefer.replace(",delta", "").as_str()),
            (Some("k1"), "modes=snapshot;wait=10"),
            "{client}"
        );
    }
    // What both say of themselves has the same members.
    let names = |client: &str| {
        let status = plane.status(client);
        let bundle = status["bundles"]["authz"].as_object().unwrap().clone();
        assert!(status["labels"]["id"].is_string() && status["labels"]["version"].is_string(), "{client}");
        assert!(status["plugins"]["bundle"]["state"].is_string(), "{client}: {status}");
        bundle.into_iter().map(|(name, _)| name).collect::<Vec<_>>()
    };
    let theirs = names("opa");
    for name in names("agent") {
        let is_of_failures = matches!(&*name, "code" | "message" | "http_code");
        assert!(theirs.contains(&name) || is_of_failures, "`{name}` is not among {theirs:?}");
    }
    println!("{same} bundles with the same verdict of both; refused by the agent alone: {refused_here:?}");
}

/// In a directory of its own: manifest, policy, data, and a signature over them by the other program.
fn build(opa: &Path, recipe: &Recipe<'_>) -> Vec<u8> {
    let directory = tempfile::tempdir().unwrap();
    let source = directory.path().join("src");
    let manifest = format!(r#"{{"revision":"{}","roots":[{}],"rego_version":1}}"#, recipe.revision, recipe.roots);
    let policy = format!("package authz\n\n{}\n", recipe.rule);
    let files = [(".manifest", &*manifest), ("authz/policy.rego", &*policy)];
    for (path, text) in files.iter().chain(recipe.more) {
        fs::create_dir_all(source.join(path).parent().unwrap()).unwrap();
        fs::write(source.join(path), text).unwrap();
    }
    let mut arguments = Vec::new();
    let claims = directory.path().join("claims.json");
    fs::write(&claims, format!(r#"{{"keyid":"default","scope":"{}"}}"#, recipe.scope)).unwrap();
    if let Some(key) = recipe.key {
        let (private, claims) = (key.private.to_str().unwrap().to_owned(), claims.to_str().unwrap().to_owned());
        arguments = ["--signing-key", &private, "--signing-alg", recipe.algorithm.name(), "--claims-file", &claims]
            .map(str::to_owned)
            .to_vec();
    }
    let out = directory.path().join("bundle.tar.gz");
    let mut building = Command::new(opa);
    building.current_dir(&source).args(["build", "--bundle", ".", "--output"]).arg(&out).args(&arguments);
    if building.output().unwrap().status.success() {
        return fs::read(out).unwrap();
    }
    // What does not compile is not built, and is signed all the same.
    run(Command::new(opa)
        .current_dir(&source)
        .args(["sign", "--bundle", ".", "--output-file-path"])
        .arg(directory.path())
        .args(&arguments));
    let read = |path: PathBuf| fs::read(path).unwrap();
    let mut all: Vec<_> =
        files.iter().chain(recipe.more).map(|(path, _)| ((*path).to_owned(), read(source.join(path)))).collect();
    all.push((".signatures.json".to_owned(), read(directory.path().join(".signatures.json"))));
    pack(all)
}

/// Serves bundles to two clients, each below a path of its own, and takes their status.
#[derive(Clone)]
struct ControlPlane {
    url: String,
    state: Arc<Mutex<Shown>>,
}

#[derive(Default)]
struct Shown {
    /// By name: archive, entity tag, content type.
    bundles: BTreeMap<String, (Vec<u8>, &'static str, &'static str)>,
    /// Who was sent what: client, bundle, tag of what was sent; tag and preferences of the question.
    sent: Vec<(String, String, &'static str, Question)>,
    /// Questions that wait for something new.
    waiting: Vec<(String, Question)>,
    statuses: BTreeMap<String, Vec<(usize, Value)>>,
}

/// `If-None-Match`, where it is not empty, and `Prefer`.
type Question = (Option<String>, String);

impl ControlPlane {
    async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let plane = Self { url, state: Arc::default() };
        let router = Router::new()
            .route("/{client}/bundles/{name}", get(bundle))
            .route("/{client}/status", post(status))
            .with_state(plane.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        plane
    }

    fn serve(&self, name: &str, archive: Vec<u8>, tag: &'static str, kind: &'static str) {
        self.state.lock().unwrap().bundles.insert(name.to_owned(), (archive, tag, kind));
    }

    /// What the server is started with.
    fn configuration(&self, scratch: &Scratch, key: &Key) -> String {
        let pem = fs::read_to_string(&key.public).unwrap();
        let soon = json!({"min_delay_seconds": 1, "max_delay_seconds": 1});
        let configuration = json!({
            "services": {"control": {"url": format!("{}/opa", self.url)}},
            "keys": {"default": {"algorithm": "RS256", "key": pem}},
            "bundles": {
                "authz": {"service": "control", "polling": soon, "signing": {"keyid": "default"}},
                "other": {"service": "control", "polling": soon},
                "kept": {"service": "control", "polling": {"min_delay_seconds": 1, "max_delay_seconds": 1, "long_polling_timeout_seconds": 10}},
            },
            "status": {"service": "control"},
        });
        let path = scratch.path().join("configuration.json");
        fs::write(&path, configuration.to_string()).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// Whether the client put the bundle in force that it was sent under this tag, which is its revision too.
    async fn verdict(&self, client: &str, tag: &str) -> bool {
        loop {
            {
                let shown = self.state.lock().unwrap();
                let sent = shown.sent.iter().position(|(to, _, what, _)| to == client && *what == tag);
                // Told after it was sent; a status of before can say nothing of it.
                let told = shown.statuses.get(client).into_iter().flatten().rev();
                for (after, status) in told.filter(|(after, _)| sent.is_some_and(|sent| sent < *after)) {
                    let bundle = &status["bundles"]["authz"];
                    if bundle["active_revision"] == tag {
                        return true;
                    }
                    // The one that was told while it was being looked at says nothing of it either.
                    let requests =
                        shown.sent.iter().take(*after).filter(|(to, _, what, _)| to == client && *what == tag);
                    if bundle["code"] == "bundle_error" && requests.count() > 1 {
                        return false;
                    }
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// What the client asked when it was first sent this.
    fn question(&self, client: &str, name: &str, tag: &str) -> Question {
        let shown = self.state.lock().unwrap();
        let first = shown.sent.iter().find(|(to, bundle, what, _)| to == client && bundle == name && *what == tag);
        first.unwrap().3.clone()
    }

    async fn waiting(&self, client: &str) -> Question {
        loop {
            let found = self.state.lock().unwrap().waiting.iter().find(|(who, _)| who == client).cloned();
            match found {
                Some((_, question)) => return question,
                None => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    fn status(&self, client: &str) -> Value {
        self.state.lock().unwrap().statuses.get(client).and_then(|all| all.last()).unwrap().1.clone()
    }
}

async fn bundle(
    State(plane): State<ControlPlane>,
    Segments((client, name)): Segments<(String, String)>,
    headers: HeaderMap,
) -> Response {
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default();
    let question = (Some(text("if-none-match")).filter(|tag| !tag.is_empty()), text("prefer"));
    let (answer, waits) = {
        let mut shown = plane.state.lock().unwrap();
        let Some((archive, tag, kind)) = shown.bundles.get(&name).cloned() else {
            return StatusCode::NOT_FOUND.into_response();
        };
        if question.0.as_deref() == Some(tag) {
            let waits = question.1.contains("wait=");
            if waits {
                shown.waiting.push((client, question));
            }
            (StatusCode::NOT_MODIFIED.into_response(), waits)
        } else {
            shown.sent.push((client, name, tag, question));
            (([(header::ETAG, tag), (header::CONTENT_TYPE, kind)], archive).into_response(), false)
        }
    };
    if waits {
        tokio::time::sleep(Duration::from_secs(10)).await;
    }
    answer
}

async fn status(
    State(plane): State<ControlPlane>,
    Segments(client): Segments<String>,
    headers: HeaderMap,
    body: Bytes,
) -> StatusCode {
    // Large ones of the server's are compressed.
    let body = if headers.get(header::CONTENT_ENCODING).is_some_and(|encoding| encoding == "gzip") {
        let mut plain = Vec::new();
        std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&body[..]), &mut plain).unwrap();
        plain.into()
    } else {
        body
    };
    let mut shown = plane.state.lock().unwrap();
    let sent = shown.sent.len();
    shown.statuses.entry(client).or_default().push((sent, serde_json::from_slice(&body).unwrap()));
    StatusCode::OK
}
