use std::{fmt, fs, io, io::Read as _, path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Request, Response,
    header::{
        ACCEPT_ENCODING, AUTHORIZATION, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HOST,
        IF_NONE_MATCH, TRANSFER_ENCODING,
    },
};
use tokio::sync::Mutex;
use tower::ServiceExt as _;

pub(crate) use super::address::Resource;
use crate::{
    ConfigError,
    outbound::{Address, Bounds, Outbound, OutboundBuilder, OutboundError, bearer},
};

/// A peer of Open Policy Agent's management APIs, over HTTP: one entry of its
/// [`services`](https://www.openpolicyagent.org/docs/configuration#services). Cheap to clone.
///
/// ```
/// use portcullis::policy::management::Service;
///
/// let bundles = Service::builder("control-plane", "https://bundles.acme.example")
///     .with_bearer_file("/run/secrets/bundles/token")
///     .build()?;
/// let store = Service::builder("store", "unix:///run/bundles.sock").build()?;
/// assert_eq!((bundles.name(), store.name()), ("control-plane", "store"));
/// # Ok::<(), portcullis::ConfigError>(())
/// ```
///
/// What bounds an exchange is what [`OutboundBuilder`] promises: one deadline, a cap for the answer, no redirects, no proxy of the
/// environment. It connects to nothing before something is asked of it.
#[derive(Clone)]
pub struct Service(Arc<Inner>);

struct Inner {
    name: String,
    address: Address,
    outbound: Outbound,
    headers: HeaderMap,
    credential: Option<Credential>,
    deadline: Duration,
}

/// Gathers how a [`Service`] is reached.
#[derive(Clone)]
#[must_use = "nothing can be asked before `build`"]
pub struct ServiceBuilder {
    name: String,
    url: String,
    headers: Vec<(String, Secret)>,
    credential: Option<Credential>,
    roots: Option<Vec<u8>>,
    identity: Option<Secret>,
    outbound: Option<Outbound>,
    deadline: Duration,
    plain_http: bool,
}

#[derive(Clone)]
enum Credential {
    Bearer(Secret),
    /// With whose turn it is to read the file: on a disk that hangs, readers would otherwise become ever more.
    File(PathBuf, Arc<Mutex<()>>),
}

/// Why a service did not answer. The text holds no address, no header and nothing of what was sent.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServiceError {
    #[error("{0}")]
    Exchange(#[from] OutboundError),
    #[error("the file with the bearer token cannot be used: {0}")]
    Credential(#[source] io::Error),
}

impl Service {
    /// Starts with a name for messages, and the address that all of its resources are below: `https`, `http` to this machine, or
    /// `unix:///path/to.sock`.
    pub fn builder(name: impl Into<String>, url: impl Into<String>) -> ServiceBuilder {
        ServiceBuilder {
            name: name.into(),
            url: url.into(),
            headers: Vec::new(),
            credential: None,
            roots: None,
            identity: None,
            outbound: None,
            deadline: Duration::from_secs(10),
            plain_http: false,
        }
    }

    /// The name that it was configured with.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// How long one exchange may take.
    pub(crate) fn deadline(&self) -> Duration {
        self.0.deadline
    }

    /// Puts the address of a resource together, once; `field` is what a [`ConfigError`] calls the path.
    pub(crate) fn resource(&self, field: &'static str, path: &str) -> Result<Resource, ConfigError> {
        Resource::at(&self.0.address, field, path)
    }

    /// Sends a request, whose address is not looked at, to a resource of this service, and reads the whole answer: within the deadline,
    /// and up to `cap` bytes.
    pub(crate) async fn send(
        &self,
        resource: &Resource,
        mut request: Request<Bytes>,
        deadline: Duration,
        cap: usize,
    ) -> Result<Response<Bytes>, ServiceError> {
        *request.uri_mut() = resource.uri().clone();
        for (name, value) in &self.0.headers {
            request.headers_mut().append(name, value.clone());
        }
        request.extensions_mut().insert(Bounds { deadline, cap });
        let exchange = async {
            if let Some(credential) = &self.0.credential {
                let authorization = credential.authorization().await.map_err(ServiceError::Credential)?;
                request.headers_mut().insert(AUTHORIZATION, authorization);
            }
            Ok::<_, ServiceError>(self.0.outbound.clone().oneshot(request).await?)
        };
        // The client of this crate keeps both bounds itself; one that the application brought, and a file, may not.
        let answer = tokio::time::timeout(deadline, exchange)
            .await
            .unwrap_or_else(|_| Err(OutboundError::Timeout(deadline).into()))?;
        if answer.body().len() > cap {
            return Err(OutboundError::TooLarge(cap).into());
        }
        Ok(answer)
    }
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service")
            .field("name", &self.0.name)
            .field("deadline", &self.0.deadline)
            .finish_non_exhaustive()
    }
}

impl ServiceBuilder {
    /// Sends this header with every request: an API key, a tenant. May be called several times; the value is shown nowhere.
    pub fn add_header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), Secret(value.into().into_bytes())));
        self
    }

    /// Proves this process to the service with a bearer token ([RFC 6750 §2.1](https://www.rfc-editor.org/rfc/rfc6750#section-2.1)). It
    /// is shown nowhere.
    pub fn with_bearer(mut self, token: impl Into<String>) -> Self {
        self.credential = Some(Credential::Bearer(Secret(token.into().into_bytes())));
        self
    }

    /// As [`with_bearer`](Self::with_bearer), with the token in a file that is read again for each request: a token that expires is
    /// replaced there by whoever renews it. White space around it is left out. A file that cannot be read is a request that fails.
    pub fn with_bearer_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.credential = Some(Credential::File(path.into(), Arc::default()));
        self
    }

    /// Trusts these certificates (PEM, one or more) instead of the system's. For `https` only.
    pub fn with_roots(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.roots = Some(pem.into());
        self
    }

    /// Proves this process to the service with a certificate chain and its private key (PEM, in one text). For `https` only.
    pub fn with_identity(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.identity = Some(Secret(pem.into()));
        self
    }

    /// Sends through this client instead of one of its own: for a proxy, or a cloud's way of signing requests. Roots and identity are then that client's
    /// matter, and so is to connect to a unix socket (requests to one are addressed to `http://localhost`). Deadline and cap hold around
    /// it as well.
    pub fn with_outbound(mut self, outbound: Outbound) -> Self {
        self.outbound = Some(outbound);
        self
    }

    /// How long one exchange may take, from the connection to the last byte of the answer. Default 10 s; 100 ms to 10 min. Where an
    /// answer is waited for on purpose (long polling), that time comes on top.
    pub const fn with_deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Takes an `http` address of another machine. Whoever is on the way there then learns the credential, reads the policies, and, where
    /// bundles are not signed, **writes them**: only where something else encrypts and authenticates, such as a mesh.
    pub const fn dangerous_allow_plain_http(mut self) -> Self {
        self.plain_http = true;
        self
    }

    /// Builds the service. It connects to nothing yet, and reads no file.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] for an address that is neither `https`, nor `http` to this machine, nor a unix socket; an empty name, or one of more
    /// than 128 bytes or of other characters than letters, digits and `-._`; a header that is none or that the protocol itself uses; a bearer token that is none; a
    /// deadline out of bounds; certificates that cannot be used, or are given where there is no TLS or another client; and a system without a certificate
    /// store where one is needed.
    pub fn build(self) -> Result<Service, ConfigError> {
        check_name("policy.management.service", &self.name)?;
        if !(MIN_DEADLINE..=MAX_DEADLINE).contains(&self.deadline) {
            let remedy = format!("choose {MIN_DEADLINE:?} to {MAX_DEADLINE:?}");
            return Err(ConfigError::invalid("policy.management.deadline", format!("{:?}", self.deadline), remedy));
        }
        let address = Address::read("policy.management.url".to_owned(), &self.url, self.plain_http)?;
        if let Some(Credential::Bearer(token)) = &self.credential {
            bearer(&token.0).ok_or_else(|| {
                let remedy =
                    "give the token alone: letters, digits and `-._~+/=`, without `Bearer` and without a line break";
                ConfigError::invalid("policy.management.bearer", "[redacted]", remedy)
            })?;
        }
        let headers = self.headers()?;
        let uses_certificates = address.is_https && self.outbound.is_none();
        if !uses_certificates && (self.roots.is_some() || self.identity.is_some()) {
            let remedy = "certificates are for `https`, and for a client of the service's own: give such an address and no \
                          `with_outbound`, or leave them out";
            return Err(ConfigError::invalid("policy.management.tls", self.name, remedy));
        }
        let outbound = match self.outbound {
            Some(outbound) => outbound,
            None => {
                let mut client = OutboundBuilder::new(self.deadline, DEFAULT_CAP);
                client = if address.is_https { client } else { client.without_tls() };
                if let Some(socket) = &address.socket {
                    client = client.with_unix_socket(socket);
                }
                if let Some(roots) = self.roots {
                    client = client.with_roots(roots);
                }
                if let Some(identity) = self.identity {
                    client = client.with_identity(identity.0);
                }
                client.build()?
            }
        };
        let inner =
            Inner { name: self.name, address, outbound, headers, credential: self.credential, deadline: self.deadline };
        Ok(Service(Arc::new(inner)))
    }

    fn headers(&self) -> Result<HeaderMap, ConfigError> {
        let mut headers = HeaderMap::new();
        for (name, value) in &self.headers {
            let refused =
                |remedy: &'static str| ConfigError::invalid("policy.management.headers", name.as_str(), remedy);
            let known = HeaderName::from_bytes(name.as_bytes()).map_err(|_| refused("give the name of a header"))?;
            if RESERVED.contains(&known) || known == "prefer" {
                return Err(refused("leave it out: the protocol says what is in it"));
            }
            if known == AUTHORIZATION && self.credential.is_some() {
                return Err(refused("give one credential: this header, or a bearer token"));
            }
            let mut value =
                HeaderValue::from_bytes(&value.0).map_err(|_| refused("give it a value without line breaks"))?;
            value.set_sensitive(true);
            headers.append(known, value);
        }
        Ok(headers)
    }
}

impl fmt::Debug for ServiceBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServiceBuilder")
            .field("name", &self.name)
            .field("deadline", &self.deadline)
            .field("plain_http", &self.plain_http)
            .finish_non_exhaustive()
    }
}

impl Credential {
    async fn authorization(&self) -> io::Result<HeaderValue> {
        let no_token = || io::Error::new(io::ErrorKind::InvalidData, "it holds no bearer token");
        match self {
            Self::Bearer(token) => bearer(&token.0).ok_or_else(no_token),
            Self::File(path, turn) => {
                let (path, turn) = (path.clone(), Arc::clone(turn).lock_owned().await);
                // A mounted secret may lie on a disk that hangs.
                let read = tokio::task::spawn_blocking(move || {
                    let _turn = turn;
                    let mut token = Vec::new();
                    fs::File::open(path)?.take(MAX_TOKEN).read_to_end(&mut token)?;
                    bearer(token.trim_ascii()).ok_or_else(no_token)
                });
                read.await.unwrap_or_else(|error| Err(io::Error::other(error)))
            }
        }
    }
}

/// A name that is one word in a log, a path and a metric.
pub(crate) fn check_name(field: &'static str, name: &str) -> Result<(), ConfigError> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    if (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(is_plain) && !name.starts_with('.') {
        return Ok(());
    }
    let remedy = "give a name of letters, digits and `-._`, of at most 128 bytes, that does not begin with a dot";
    Err(ConfigError::invalid(field, name, remedy))
}

/// A credential or a private key: not printed.
#[derive(Clone)]
struct Secret(Vec<u8>);

const MIN_DEADLINE: Duration = Duration::from_millis(100);
const MAX_DEADLINE: Duration = Duration::from_secs(600);
/// Every request comes with a cap of its own.
const DEFAULT_CAP: usize = 64 * 1024;
const MAX_TOKEN: u64 = 64 * 1024;
const MAX_NAME: usize = 128;
const RESERVED: [HeaderName; 8] = [
    ACCEPT_ENCODING,
    CONNECTION,
    CONTENT_ENCODING,
    CONTENT_LENGTH,
    CONTENT_TYPE,
    HOST,
    IF_NONE_MATCH,
    TRANSFER_ENCODING,
];

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// A service whose requests end in the list.
    fn recorded(build: impl FnOnce(ServiceBuilder) -> ServiceBuilder) -> (Service, Arc<Mutex<Vec<Request<Bytes>>>>) {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&seen);
        let outbound = Outbound::new(tower::service_fn(move |request| {
            log.lock().unwrap().push(request);
            async { Ok(Response::new(Bytes::from_static(b"12345678"))) }
        }));
        let builder = Service::builder("s", "https://a.example/v1").with_outbound(outbound);
        (build(builder).build().unwrap(), seen)
    }

    async fn send(service: &Service, cap: usize) -> Result<Response<Bytes>, ServiceError> {
        let resource = service.resource("r", "bundles/b").unwrap();
        service.send(&resource, Request::default(), Duration::from_secs(1), cap).await
    }

    #[tokio::test]
    async fn a_request_goes_to_the_resource_with_headers_and_credential() {
        let (service, seen) =
            recorded(|builder| builder.add_header("x-key", "k").add_header("x-key", "l").with_bearer("s3cr3t"));
        send(&service, 8).await.unwrap();
        let seen = seen.lock().unwrap().pop().unwrap();
        assert_eq!(seen.uri(), "https://a.example/v1/bundles/b");
        assert_eq!(seen.headers()[AUTHORIZATION], "Bearer s3cr3t");
        assert_eq!(seen.headers().get_all("x-key").iter().collect::<Vec<_>>(), ["k", "l"]);
        assert!(!format!("{seen:?}").contains("s3cr3t"));
    }

    #[tokio::test]
    async fn the_file_with_the_token_is_read_for_each_request() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        let (service, seen) = recorded(|builder| builder.with_bearer_file(&path));
        for (content, sent) in
            [(" first\n", Ok("Bearer first")), ("second", Ok("Bearer second")), ("", Err(())), ("a b", Err(()))]
        {
            fs::write(&path, content).unwrap();
            let answer = send(&service, 8).await;
            let seen = seen.lock().unwrap().pop().map(|request| request.headers()[AUTHORIZATION].clone());
            assert_eq!(seen.as_ref().map(|value| value.to_str().unwrap()).ok_or(()), sent);
            assert_eq!(answer.is_ok(), sent.is_ok());
        }
        fs::remove_file(&path).unwrap();
        let error = send(&service, 8).await.unwrap_err().to_string();
        assert!(
            error.starts_with("the file with the bearer token cannot be used") && !error.contains("token\""),
            "{error}"
        );
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn a_file_that_cannot_be_read_in_time_holds_up_one_thread_and_no_request() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        // As a disk that hangs: whoever opens it to read waits until somebody writes.
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        let (service, seen) = recorded(|builder| builder.with_bearer_file(&path));
        let resource = service.resource("r", "bundles/b").unwrap();
        let begun = std::time::Instant::now();
        for _ in 0..3 {
            let sent = service.send(&resource, Request::default(), Duration::from_millis(50), 8).await;
            assert!(matches!(sent, Err(ServiceError::Exchange(OutboundError::Timeout(_)))));
        }
        assert!(begun.elapsed() < Duration::from_secs(5));
        fs::write(&path, "late").unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, "token").unwrap();
        send(&service, 8).await.unwrap();
        assert_eq!(seen.lock().unwrap().pop().unwrap().headers()[AUTHORIZATION], "Bearer token");
    }

    #[tokio::test]
    async fn a_client_of_the_application_is_held_to_the_cap_as_well() {
        let (service, _) = recorded(|builder| builder);
        assert!(send(&service, 8).await.is_ok());
        let error = send(&service, 7).await.unwrap_err();
        assert!(matches!(error, ServiceError::Exchange(OutboundError::TooLarge(7))), "{error}");
    }

    #[tokio::test]
    async fn the_bounds_of_a_request_are_those_of_the_client() {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await.unwrap());
                }
                let body = "x".repeat(DEFAULT_CAP + 1);
                let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        let service = Service::builder("s", url).build().unwrap();
        assert_eq!(send(&service, DEFAULT_CAP + 1).await.unwrap().body().len(), DEFAULT_CAP + 1);
        assert!(matches!(
            send(&service, DEFAULT_CAP).await.unwrap_err(),
            ServiceError::Exchange(OutboundError::TooLarge(DEFAULT_CAP))
        ));
    }

    #[test]
    fn what_cannot_be_right_is_refused_without_showing_a_secret() {
        type Change = fn(ServiceBuilder) -> ServiceBuilder;
        let cases: [(&str, Change); 11] = [
            ("policy.management.service", |b| ServiceBuilder { name: "a b".into(), ..b }),
            ("policy.management.service", |b| ServiceBuilder { name: "..".into(), ..b }),
            ("policy.management.url", |b| ServiceBuilder { url: "http://a.example".into(), ..b }),
            ("policy.management.deadline", |b| b.with_deadline(Duration::ZERO)),
            ("policy.management.deadline", |b| b.with_deadline(Duration::from_secs(601))),
            ("policy.management.bearer", |b| b.with_bearer("s3cr3t\n")),
            ("policy.management.headers", |b| b.add_header("x", "s3cr3t\n")),
            ("policy.management.headers", |b| b.add_header("Prefer", "s3cr3t")),
            ("policy.management.headers", |b| b.with_bearer("t").add_header("Authorization", "s3cr3t")),
            ("policy.management.tls", |b| b.with_identity("s3cr3t")),
            ("policy.management.tls", |b| {
                let nobody = Outbound::new(tower::service_fn(|_| std::future::pending()));
                ServiceBuilder { url: "https://a.example".into(), ..b }.with_roots("PEM").with_outbound(nobody)
            }),
        ];
        for (field, change) in cases {
            let builder = change(Service::builder("s", "http://localhost"));
            let shown = format!("{builder:?}");
            let error = builder.build().unwrap_err();
            assert_eq!(error.field(), field);
            assert!(!format!("{error} {error:?} {shown}").contains("s3cr3t"), "{error:?}");
        }
        let patient = Service::builder("s", "http://localhost").with_deadline(Duration::from_secs(600)).build();
        assert_eq!(patient.unwrap().deadline(), Duration::from_secs(600));
    }
}
