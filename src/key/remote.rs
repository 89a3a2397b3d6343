use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Request, Response, StatusCode, Uri,
    header::{ACCEPT, AGE, CACHE_CONTROL},
};
use serde::Deserialize;
use tower::ServiceExt as _;

use super::{JwkSet, KeyError, KeySource, LoadRequest, LoadedKeys};
use crate::{
    ConfigError,
    outbound::{Outbound, OutboundBuilder, OutboundError, secure_url},
};

/// Loads key sets over HTTP: from an issuer's discovery document, or from an address.
///
/// Every load is at most two `GET`s, each inside a deadline and up to a size. An answer counts when its status is 200 exactly (a redirect is
/// a failure, also to the same host) and its body is what it should be. Nothing of a token is ever part of an address.
///
/// ```
/// use portcullis::key::Remote;
///
/// let auth0 = Remote::discover("https://tenant.eu.auth0.com/").build()?;
/// let sidecar = Remote::url("http://localhost:8080/jwks.json").build()?;
/// # let _ = (auth0, sidecar);
/// # Ok::<(), portcullis::ConfigError>(())
/// ```
pub struct Remote {
    outbound: Outbound,
    target: Target,
    deadline: Duration,
    max_document: usize,
}

/// Builds a [`Remote`].
#[derive(Clone)]
pub struct RemoteBuilder {
    outbound: Option<Outbound>,
    address: Address,
    deadline: Duration,
    max_document: usize,
}

#[derive(Clone)]
enum Address {
    Issuer(String),
    KeySet(String),
    Bundle(String),
}

enum Target {
    Issuer { id: String, metadata: Uri },
    KeySet(Uri),
    Bundle(Uri),
}

impl Remote {
    /// Finds the key set through [OpenID Connect Discovery 1.0 §4]: the document is at the issuer, without a final slash, plus
    /// `/.well-known/openid-configuration`; its `issuer` must equal this one byte for byte (Auth0's end in `/`), and its `jwks_uri` must
    /// be `https`. For an issuer that is itself `http` to this machine, `http` to this machine is enough there too: what was found over
    /// TLS never sends us to a port of this machine without it.
    ///
    /// Where the document is served at another place than the issuer's, give the key set's address to [`url`](Self::url).
    ///
    /// [OpenID Connect Discovery 1.0 §4]: https://openid.net/specs/openid-connect-discovery-1_0.html#ProviderConfig
    #[must_use]
    pub fn discover(issuer: &str) -> RemoteBuilder {
        RemoteBuilder::new(Address::Issuer(issuer.to_owned()))
    }

    /// Loads the key set from this address: `https`, or `http` to this machine.
    #[must_use]
    pub fn url(url: &str) -> RemoteBuilder {
        RemoteBuilder::new(Address::KeySet(url.to_owned()))
    }

    /// Loads the keys of JWT-SVIDs from this SPIFFE bundle endpoint: `https`, or `http` to this machine. What counts in a bundle is said at
    /// [`JwkSet::parse_bundle`]; its `spiffe_refresh_hint` goes before `Cache-Control`.
    ///
    /// The endpoint proves itself by a certificate of the web (profile `https_web`). For one with an X.509-SVID (`https_spiffe`) bring a
    /// client that checks it ([`with_outbound`](RemoteBuilder::with_outbound)).
    #[must_use]
    pub fn bundle(url: &str) -> RemoteBuilder {
        RemoteBuilder::new(Address::Bundle(url.to_owned()))
    }

    async fn fetch(&self, uri: Uri) -> Result<Response<Bytes>, KeyError> {
        let mut request = Request::new(Bytes::new());
        *request.uri_mut() = uri;
        request.headers_mut().insert(ACCEPT, HeaderValue::from_static("application/json, application/jwk-set+json"));
        // The client of this crate keeps both bounds itself, and sooner; one that the application brought may not.
        let response = tokio::time::timeout(self.deadline, self.outbound.clone().oneshot(request))
            .await
            .unwrap_or(Err(OutboundError::Timeout(self.deadline)))
            .map_err(|error| match error {
                OutboundError::Timeout(_) => KeyError::timeout(error),
                OutboundError::TooLarge(_) => KeyError::invalid_document(error),
                OutboundError::Connect(_) | OutboundError::Exchange(_) => KeyError::unavailable(error),
            })?;
        if response.body().len() > self.max_document {
            return Err(KeyError::invalid_document(OutboundError::TooLarge(self.max_document)));
        }
        match response.status() {
            StatusCode::OK => Ok(response),
            status => Err(KeyError::unavailable(RemoteError::Status(status))),
        }
    }

    async fn discovered(&self, issuer: &str, metadata: &Uri) -> Result<Uri, KeyError> {
        let document = self.fetch(metadata.clone()).await?;
        // A derived struct would also be read from an array of its members' values, and from bytes that are no text.
        let text = std::str::from_utf8(document.body()).ok().filter(|text| text.trim_start().starts_with('{'));
        let text = text.ok_or_else(|| KeyError::invalid_document(RemoteError::NoObject))?;
        let found: Metadata =
            serde_json::from_str(text).map_err(|error| KeyError::invalid_document(RemoteError::NoMetadata(error)))?;
        // RFC 8414 §3.3: a document of another issuer must not be used, or one issuer could bring another's keys.
        if found.issuer != issuer {
            return Err(KeyError::invalid_document(RemoteError::OtherIssuer { expected: issuer.to_owned() }));
        }
        let keys = secure_url("jwks_uri", &found.jwks_uri).map_err(KeyError::invalid_document)?;
        // Whoever writes the document of an `https` issuer could otherwise have us ask what listens on this machine alone.
        if is_http(&keys) && !is_http(metadata) {
            return Err(KeyError::invalid_document(RemoteError::PlainKeys));
        }
        Ok(keys)
    }
}

#[async_trait]
impl KeySource for Remote {
    async fn load(self: Arc<Self>, _: LoadRequest) -> Result<LoadedKeys, KeyError> {
        let address = match &self.target {
            Target::Issuer { id, metadata } => self.discovered(id, metadata).await?,
            Target::KeySet(address) | Target::Bundle(address) => address.clone(),
        };
        let response = self.fetch(address).await?;
        if let Target::Bundle(_) = &self.target {
            let loaded = LoadedKeys::from_bundle(response.body()).map_err(KeyError::invalid_document)?;
            let max_age = loaded.max_age.or_else(|| max_age(response.headers()));
            return Ok(loaded.with_max_age(max_age));
        }
        let set = JwkSet::parse(response.body()).map_err(KeyError::invalid_document)?;
        Ok(LoadedKeys::new(set).with_max_age(max_age(response.headers())))
    }
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remote")
            .field("deadline", &self.deadline)
            .field("max_document", &self.max_document)
            .finish_non_exhaustive()
    }
}

impl RemoteBuilder {
    fn new(address: Address) -> Self {
        Self { outbound: None, address, deadline: Duration::from_secs(3), max_document: 256 * 1024 }
    }

    /// Sends through this client instead of one of its own: for private roots, a client certificate, a proxy. The deadline and the
    /// size hold around it as well.
    #[must_use]
    pub fn with_outbound(mut self, outbound: Outbound) -> Self {
        self.outbound = Some(outbound);
        self
    }

    /// How long one exchange may take, from name resolution to the last byte. Default 3 s; above zero.
    #[must_use]
    pub fn with_deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// How large a document may be, in bytes. Default 256 KiB; above zero.
    #[must_use]
    pub fn with_max_document(mut self, bytes: usize) -> Self {
        self.max_document = bytes;
        self
    }

    /// Builds the source. It connects to nothing yet.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] when the address is neither `https` nor on this machine, an issuer has a query or fragment, a bound is zero, or
    /// the system's certificate store cannot be used.
    pub fn build(self) -> Result<Remote, ConfigError> {
        for (field, zero) in
            [("key.remote.deadline", self.deadline.is_zero()), ("key.remote.max_document", self.max_document == 0)]
        {
            if zero {
                return Err(ConfigError::invalid(field, "0", "choose a value above zero"));
            }
        }
        let target = match self.address {
            Address::Issuer(id) => {
                let field = "key.remote.issuer";
                if secure_url(field, &id)?.query().is_some() {
                    let (shown, _) = id.split_once('?').unwrap_or((&id, ""));
                    return Err(ConfigError::invalid(
                        field,
                        shown,
                        "an issuer has no query: leave out what follows it",
                    ));
                }
                let metadata = secure_url(field, &format!("{}{WELL_KNOWN}", id.trim_end_matches('/')))?;
                Target::Issuer { id, metadata }
            }
            Address::KeySet(url) => Target::KeySet(secure_url("key.remote.url", &url)?),
            Address::Bundle(url) => Target::Bundle(secure_url("key.remote.url", &url)?),
        };
        let outbound = match self.outbound {
            Some(outbound) => outbound,
            None => {
                let builder = OutboundBuilder::new(self.deadline, self.max_document);
                match &target {
                    Target::KeySet(url) | Target::Bundle(url) if is_http(url) => builder.without_tls().build()?,
                    // A local issuer may name a key set elsewhere; where there is no certificate store, that one is not believed.
                    Target::Issuer { metadata, .. } if is_http(metadata) => {
                        builder.clone().build().or_else(|_| builder.without_tls().build())?
                    }
                    Target::KeySet(_) | Target::Bundle(_) | Target::Issuer { .. } => builder.build()?,
                }
            }
        };
        Ok(Remote { outbound, target, deadline: self.deadline, max_document: self.max_document })
    }
}

impl fmt::Debug for RemoteBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteBuilder")
            .field("deadline", &self.deadline)
            .field("max_document", &self.max_document)
            .finish_non_exhaustive()
    }
}

/// What is read of the discovery document. A member that comes twice, or with another type, refuses the whole.
#[derive(Deserialize)]
struct Metadata {
    issuer: String,
    jwks_uri: String,
}

#[derive(Debug, thiserror::Error)]
enum RemoteError {
    #[error("answered with status {0}")]
    Status(StatusCode),
    #[error("the discovery document is no JSON object")]
    NoObject,
    #[error("the discovery document cannot be read")]
    NoMetadata(#[source] serde_json::Error),
    #[error("the `issuer` of the discovery document is not {expected:?}, byte for byte")]
    OtherIssuer { expected: String },
    #[error("the `jwks_uri` of an https issuer is not https")]
    PlainKeys,
}

/// How long the document stays fresh: `max-age` ([RFC 9111 §5.2.2.1](https://www.rfc-editor.org/rfc/rfc9111#section-5.2.2.1)) less the
/// `Age` that it had when it came out of a cache on the way.
fn max_age(headers: &HeaderMap) -> Option<Duration> {
    let directive = |value: &str| {
        let (name, seconds) = value.split_once('=')?;
        let seconds = seconds.trim().trim_matches('"');
        name.trim().eq_ignore_ascii_case("max-age").then(|| whole_seconds(seconds)).flatten()
    };
    let age = headers.get(AGE).and_then(|value| whole_seconds(value.to_str().ok()?.trim())).unwrap_or_default();
    headers
        .get_all(CACHE_CONTROL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .find_map(directive)
        .map(|seconds| Duration::from_secs(seconds.saturating_sub(age)))
}

fn is_http(uri: &Uri) -> bool {
    uri.scheme_str() == Some("http")
}

fn whole_seconds(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    // RFC 9111 §1.2.2: what is too large to be represented is as good as for ever.
    digits.then(|| text.parse().unwrap_or(u64::MAX))
}

const WELL_KNOWN: &str = "/.well-known/openid-configuration";

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tokio::{
        io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
        net::{TcpListener, TcpStream},
        task::JoinSet,
    };

    use super::*;
    use crate::key::KeyErrorKind;

    const KEYS: &str = r#"{"keys":[{"kty":"EC","crv":"P-256","kid":"a","alg":"ES256","x":"r1C12_pi3enDwZ2XxHwWQA7N_Xh3BUoHNHkJ0xboOwc","y":"iXRbyWlluYjaiEu3O0MYyizIB-Nr2w_5xXZoeH8gEf8"}]}"#;

    /// A loopback peer that answers each path with a text and closes; `{base}` in it stands for the peer's own address.
    struct Peer {
        base: String,
        asked: Arc<Mutex<Vec<String>>>,
        _task: JoinSet<()>,
    }

    impl Peer {
        async fn start(routes: &[(&'static str, String)]) -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let base = format!("http://{}", listener.local_addr().unwrap());
            let (asked, routes) = (Arc::new(Mutex::new(Vec::new())), routes.to_vec());
            let (log, own) = (Arc::clone(&asked), base.clone());
            let mut task = JoinSet::new();
            task.spawn(async move {
                let mut connections = JoinSet::new();
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    connections.spawn(answer(stream, Arc::clone(&log), own.clone(), routes.clone()));
                }
            });
            Self { base, asked, _task: task }
        }

        fn asked(&self) -> Vec<String> {
            std::mem::take(&mut *self.asked.lock().unwrap())
        }
    }

    async fn answer(
        mut stream: TcpStream,
        log: Arc<Mutex<Vec<String>>>,
        base: String,
        routes: Vec<(&'static str, String)>,
    ) {
        let mut head = Vec::new();
        let mut lines = BufReader::new(&mut stream).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            if line.is_empty() {
                break;
            }
            head.push(line);
        }
        let target = head[0].split(' ').nth(1).unwrap().to_owned();
        log.lock().unwrap().push(target.clone());
        let text = routes.iter().find(|(path, _)| *path == target).map_or(NOT_FOUND, |(_, text)| text);
        if let Some(start) = text.strip_suffix("{endless}") {
            let _ = stream.write_all(start.as_bytes()).await;
            while stream.write_all(&[b' '; 65_536]).await.is_ok() {}
        } else if let Some(start) = text.strip_suffix("{drip}") {
            let _ = stream.write_all(start.as_bytes()).await;
            while stream.write_all(b" ").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        } else {
            let _ = stream.write_all(text.replace("{base}", &base).as_bytes()).await;
        }
    }

    const NOT_FOUND: &str = "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n";
    const METADATA: &str = "/.well-known/openid-configuration";

    fn ok(body: &str) -> String {
        format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n\r\n{body}")
    }

    fn metadata(issuer: &str, jwks_uri: &str) -> String {
        ok(&format!(r#"{{"issuer":"{issuer}","token_endpoint":1,"jwks_uri":"{jwks_uri}"}}"#))
    }

    async fn load(builder: RemoteBuilder) -> Result<LoadedKeys, KeyError> {
        let request = LoadRequest { unknown_kid: Some("../../attacker?kid=evil".into()) };
        Arc::new(builder.build().unwrap()).load(request).await
    }

    #[tokio::test]
    async fn keys_are_found_through_discovery_with_exactly_one_slash() {
        let issuers = [
            ("{base}", "", METADATA),
            ("{base}/", "/", METADATA),
            ("{base}/realms/one", "/realms/one", "/realms/one/.well-known/openid-configuration"),
        ];
        for (issuer, path, at) in issuers {
            let peer = Peer::start(&[(at, metadata(issuer, "{base}/jwks.json")), ("/jwks.json", ok(KEYS))]).await;
            let loaded = load(Remote::discover(&format!("{}{path}", peer.base))).await.unwrap();
            assert_eq!(loaded.set.len(), 1, "{issuer}");
            assert_eq!(loaded.max_age, None);
            assert_eq!(peer.asked(), [at, "/jwks.json"], "nothing of a token is in an address");
        }
    }

    #[tokio::test]
    async fn keys_are_loaded_from_an_address_and_keep_its_lifetime() {
        let answer = ok(KEYS).replace("connection", "cache-control: public, max-age=90\r\nage: 30\r\nconnection");
        let peer = Peer::start(&[("/jwks?p=policy", answer)]).await;
        let loaded = load(Remote::url(&format!("{}/jwks?p=policy", peer.base))).await.unwrap();
        assert_eq!((loaded.set.len(), loaded.max_age), (1, Some(Duration::from_secs(60))));
    }

    #[tokio::test]
    async fn of_a_bundle_endpoint_the_keys_of_jwt_svids_and_the_hint_are_taken() {
        let keys = KEYS.replace(r#""kid":"a""#, r#""kid":"a","use":"jwt-svid""#);
        let hinted = keys.replace(r#"{"keys""#, r#"{"spiffe_sequence":1,"spiffe_refresh_hint":300,"keys""#);
        let cached = |keys: &str| ok(keys).replace("\r\n\r\n", "\r\ncache-control: max-age=60\r\n\r\n");
        for (name, answer, max_age) in [
            ("neither", ok(&keys), None),
            ("cache-control", cached(&keys), Some(60)),
            ("both", cached(&hinted), Some(300)),
        ] {
            let peer = Peer::start(&[("/bundle", answer)]).await;
            let loaded = load(Remote::bundle(&format!("{}/bundle", peer.base))).await.unwrap();
            assert_eq!((loaded.set.len(), loaded.max_age), (1, max_age.map(Duration::from_secs)), "{name}");
        }
        let peer = Peer::start(&[("/keys", ok(KEYS))]).await;
        let error = load(Remote::bundle(&format!("{}/keys", peer.base))).await.unwrap_err();
        assert_eq!(error.kind(), KeyErrorKind::InvalidDocument, "a plain key set is no bundle");
        assert_eq!(Remote::bundle("http://spire.example/").build().unwrap_err().field(), "key.remote.url");
    }

    #[tokio::test]
    async fn a_discovery_document_that_is_not_the_issuers_is_refused() {
        let good = "{base}/jwks.json";
        let cases = [
            ("another issuer", metadata("https://evil.example", good)),
            ("a slash more", metadata("{base}/", good)),
            ("other case", metadata("HTTP{base}", good).replace("HTTPhttp", "HTTP")),
            ("no issuer", ok(r#"{"jwks_uri":"{base}/jwks.json"}"#)),
            (
                "issuer twice",
                ok(r#"{"issuer":"https://evil.example","issuer":"{base}","jwks_uri":"{base}/jwks.json"}"#),
            ),
            ("issuer is a list", ok(r#"{"issuer":["{base}"],"jwks_uri":"{base}/jwks.json"}"#)),
            ("no jwks_uri", ok(r#"{"issuer":"{base}"}"#)),
            ("jwks_uri is null", ok(r#"{"issuer":"{base}","jwks_uri":null}"#)),
            ("http elsewhere", metadata("{base}", "http://198.51.100.1/jwks.json")),
            ("a file", metadata("{base}", "file:///etc/jwks.json")),
            ("credentials", metadata("{base}", "https://user:s3cr3t@example.com/jwks.json")),
            ("relative", metadata("{base}", "/jwks.json")),
            ("the values in an array", ok(r#"["{base}","{base}/jwks.json"]"#)),
            ("a page", ok("<!doctype html><title>hello</title>")),
            ("nothing", ok("")),
            ("something after it", ok(r#"{"issuer":"{base}","jwks_uri":"{base}/jwks.json"} {}"#)),
        ];
        for (name, document) in cases {
            let peer = Peer::start(&[(METADATA, document), ("/jwks.json", ok(KEYS))]).await;
            let error = load(Remote::discover(&peer.base)).await.expect_err(name);
            assert_eq!(error.kind(), KeyErrorKind::InvalidDocument, "{name}");
            assert_eq!(peer.asked(), [METADATA], "{name}: no keys are fetched");
            assert!(!format!("{error:?}").contains("s3cr3t"), "{error:?}");
        }
    }

    #[tokio::test]
    async fn the_size_holds_around_a_client_that_does_not_keep_it() {
        for (max, fits) in [(KEYS.len() - 1, false), (KEYS.len(), true), (KEYS.len() + 1, true)] {
            let client = Outbound::new(tower::service_fn(|_: Request<Bytes>| async {
                Ok::<_, OutboundError>(Response::new(Bytes::from_static(KEYS.as_bytes())))
            }));
            let builder = Remote::url("https://issuer.example/jwks.json").with_outbound(client).with_max_document(max);
            let loaded = load(builder).await.map(|_| ()).map_err(|error| error.kind());
            assert_eq!(loaded, if fits { Ok(()) } else { Err(KeyErrorKind::InvalidDocument) }, "{max}");
        }
    }

    #[tokio::test]
    async fn the_keys_of_an_https_issuer_are_never_asked_for_without_tls() {
        let (https, http) = ("https://issuer.example", "http://127.0.0.1:8080");
        for (issuer, jwks_uri, is_followed) in [
            (https, "https://issuer.example/keys", true),
            (https, "https://keys.example:8443/keys", true),
            (https, "http://localhost/keys", false),
            (https, "http://127.0.0.1:8181/v1/data", false),
            (https, "http://127.1/keys", false),
            (https, "http://2130706433/keys", false),
            (https, "http://[::1]/keys", false),
            (https, "http://[::ffff:127.0.0.1]/keys", false),
            (https, "HTTP://LOCALHOST/keys", false),
            (http, "http://localhost:9090/keys", true),
            (http, "http://[::1]/keys", true),
            (http, "https://issuer.example/keys", true),
            (http, "http://issuer.example/keys", false),
        ] {
            let asked = Arc::new(Mutex::new(Vec::new()));
            let log = Arc::clone(&asked);
            let outbound = Outbound::new(tower::service_fn(move |request: Request<Bytes>| {
                let uri = request.uri().to_string();
                let document = format!(r#"{{"issuer":"{issuer}","jwks_uri":"{jwks_uri}"}}"#);
                let body = if uri.ends_with(METADATA) { document } else { KEYS.to_owned() };
                log.lock().unwrap().push(uri);
                async move { Ok(Response::new(Bytes::from(body))) }
            }));
            let loaded = load(Remote::discover(issuer).with_outbound(outbound)).await;
            let refused = loaded.err().map(|error| error.kind());
            assert_eq!(refused, (!is_followed).then_some(KeyErrorKind::InvalidDocument), "{issuer}: {jwks_uri}");
            assert_eq!(asked.lock().unwrap().len(), 1 + usize::from(is_followed), "{issuer}: {jwks_uri}");
        }
    }

    #[tokio::test]
    async fn only_a_key_document_with_status_200_counts() {
        let redirect =
            |status: &str| format!("HTTP/1.1 {status} R\r\nlocation: {{base}}/good\r\ncontent-length: 0\r\n\r\n");
        let with_status = |status: &str| ok(KEYS).replace("200 OK", status);
        use KeyErrorKind::{InvalidDocument, Unavailable};
        let cases = [
            ("301", redirect("301"), Unavailable),
            ("302", redirect("302"), Unavailable),
            ("307", redirect("307"), Unavailable),
            ("308", redirect("308"), Unavailable),
            ("500 with keys", with_status("500 Oh"), Unavailable),
            ("404 with keys", with_status("404 No"), Unavailable),
            ("203 with keys", with_status("203 Altered"), Unavailable),
            ("206 with keys", with_status("206 Part"), Unavailable),
            ("hung up on", String::new(), Unavailable),
            ("not HTTP", "hello\r\n\r\n".to_owned(), Unavailable),
            ("200 with a page", ok("<!doctype html><title>maintenance</title>"), InvalidDocument),
            ("no keys", ok(r#"{"keys":[]}"#), InvalidDocument),
            ("no usable key", ok(r#"{"keys":[{"kty":"oct","k":"c2VjcmV0"}]}"#), InvalidDocument),
            ("endless", ok("{endless}"), InvalidDocument),
            (
                "100 MB announced",
                ok("{}").replace("connection", "content-length: 104857600\r\nconnection"),
                InvalidDocument,
            ),
        ];
        for (name, answer, kind) in cases {
            let peer = Peer::start(&[("/jwks.json", answer), ("/good", ok(KEYS))]).await;
            let error = load(Remote::url(&format!("{}/jwks.json", peer.base))).await.expect_err(name);
            assert_eq!(error.kind(), kind, "{name}: {error:?}");
            assert!(!peer.asked().contains(&"/good".to_owned()), "{name}: a redirect was followed");
        }
    }

    #[test]
    fn a_fetch_is_three_seconds_and_256_kib_unless_told_otherwise() {
        let builder = Remote::url("https://issuer.example/jwks.json");
        assert_eq!((builder.deadline, builder.max_document), (Duration::from_secs(3), 262_144));
    }

    #[tokio::test]
    async fn one_byte_at_a_time_is_cut_off_at_the_deadline() {
        let peer = Peer::start(&[("/jwks.json", ok("{drip}"))]).await;
        let builder = Remote::url(&format!("{}/jwks.json", peer.base)).with_deadline(Duration::from_millis(60));
        assert_eq!(load(builder).await.unwrap_err().kind(), KeyErrorKind::Timeout);
    }

    #[tokio::test]
    async fn the_bounds_hold_around_a_client_of_the_applications_own() {
        let answering = |size: usize| {
            Outbound::new(tower::service_fn(move |_| async move { Ok(Response::new(Bytes::from(vec![b' '; size]))) }))
        };
        let remote = || Remote::url("https://issuer.example/jwks.json").with_max_document(1_000);
        let large = load(remote().with_outbound(answering(1_001))).await.unwrap_err();
        assert_eq!(large.kind(), KeyErrorKind::InvalidDocument);
        let silent = Outbound::new(tower::service_fn(|_| std::future::pending()));
        let slow = load(remote().with_outbound(silent).with_deadline(Duration::from_millis(10))).await.unwrap_err();
        assert_eq!(slow.kind(), KeyErrorKind::Timeout);
    }

    #[test]
    fn an_address_that_cannot_be_trusted_is_refused_while_building() {
        let cases = [
            (Remote::discover("http://issuer.example/"), "key.remote.issuer"),
            (Remote::discover("issuer.example"), "key.remote.issuer"),
            (Remote::discover("https://issuer.example/?tenant=s3cr3t"), "key.remote.issuer"),
            (Remote::discover("https://issuer.example/#x"), "key.remote.issuer"),
            (Remote::url("http://issuer.example/jwks.json"), "key.remote.url"),
            (Remote::url("https://user:s3cr3t@issuer.example/jwks.json"), "key.remote.url"),
            (Remote::url("https://issuer.example").with_deadline(Duration::ZERO), "key.remote.deadline"),
            (Remote::url("https://issuer.example").with_max_document(0), "key.remote.max_document"),
        ];
        for (builder, field) in cases {
            let error = builder.build().unwrap_err();
            assert_eq!(error.field(), field);
            assert!(!error.to_string().contains("s3cr3t"), "{error}");
        }
    }

    #[test]
    fn max_age_is_read_as_http_writes_it() {
        let cases = [
            ("", None),
            ("no-cache", None),
            ("max-age=60", Some(60)),
            ("public, MAX-AGE=60, must-revalidate", Some(60)),
            ("max-age=\"60\"", Some(60)),
            ("s-maxage=9, max-age = 60", Some(60)),
            ("max-age=99999999999999999999", Some(u64::MAX)),
            ("max-age=-1", None),
            ("max-age=+1", None),
            ("max-age=1.5", None),
            ("max-age=", None),
            ("max-age", None),
        ];
        for (text, seconds) in cases {
            let mut headers = HeaderMap::new();
            headers.insert(CACHE_CONTROL, text.parse().unwrap());
            assert_eq!(max_age(&headers), seconds.map(Duration::from_secs), "{text:?}");
        }
        let mut headers = HeaderMap::new();
        headers.append(CACHE_CONTROL, "public".parse().unwrap());
        headers.append(CACHE_CONTROL, "max-age=60".parse().unwrap());
        headers.insert(AGE, "100".parse().unwrap());
        assert_eq!(max_age(&headers), Some(Duration::ZERO));
    }
}
