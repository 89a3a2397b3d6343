//! Outgoing HTTP: a boxed Tower service, shared by everything that asks somebody else.
//!
//! Key sets and policy decisions come from outside, so what fetches them is part of the attack surface. The client that
//! [`OutboundBuilder`] makes
//!
//! 1. ends the whole exchange (name resolution, connect, TLS, request, answer) at one deadline,
//! 2. counts the answer's body while it arrives and hangs up at the cap, whatever `Content-Length` promised,
//! 3. hands a redirect to the caller as the answer it is, and follows none, not even on the same host,
//! 4. takes no proxy from the environment, keeps no cookies, and neither asks for nor undoes compression,
//! 5. puts no address, no header value and nothing that the peer wrote into an error, but for the names in a certificate of another one.
//!
//! It does not judge addresses: that is for the part that was configured with one. It does not repeat a request that may have
//! been received. To go through a proxy, sign requests or share a client, hand the part that needs one an [`Outbound`] of your
//! own instead: any Tower service of this shape, which then has to keep the promises above.
//!
//! ```
//! use bytes::Bytes;
//! use http::{Request, Response};
//! use portcullis::outbound::{Outbound, OutboundError};
//!
//! let canned = tower::service_fn(|_: Request<Bytes>| async {
//!     Ok::<_, OutboundError>(Response::new(Bytes::from_static(b"{\"keys\":[]}")))
//! });
//! let outbound = Outbound::new(canned);
//! # let _ = outbound;
//! ```

#[cfg(any(feature = "authzen", feature = "opa", feature = "opa-management", feature = "remote-jwks"))]
mod address;
#[cfg(any(feature = "authzen", feature = "opa", feature = "opa-management"))]
mod base;
mod cause;
mod connect;
mod tls;

use std::{error::Error, fmt, io, path::PathBuf, time::Duration};

use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Request, Response, header::USER_AGENT};
use http_body::Body as _;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{Client, connect::Connect},
    rt::{TokioExecutor, TokioTimer},
};
use tokio::time::{Instant, timeout};
use tower::util::BoxCloneSyncService;

#[cfg(feature = "authzen")]
pub(crate) use self::address::dangerous_url;
#[cfg(any(feature = "authzen", feature = "remote-jwks"))]
pub(crate) use self::address::secure_url;
#[cfg(any(feature = "authzen", feature = "opa", feature = "opa-management"))]
pub(crate) use self::base::{Address, bearer};
use self::tls::Roots;
use crate::ConfigError;

/// A service that sends a request and reads the whole answer: inside a deadline, up to a size, following no redirect.
pub type Outbound = BoxCloneSyncService<Request<Bytes>, Response<Bytes>, OutboundError>;

/// Why there is no answer. The text names neither the address nor anything of the request.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OutboundError {
    /// Nothing was answered: unresolved, refused, not trusted, or closed before an answer's head was complete. Asking again is
    /// safe for anything that only reads.
    #[error("could not connect")]
    Connect(#[source] Box<dyn Error + Send + Sync>),
    /// The deadline passed.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// The answer is larger than the cap, in bytes.
    #[error("the answer is larger than {0} bytes")]
    TooLarge(usize),
    /// The exchange failed after it had begun.
    #[error("the exchange failed")]
    Exchange(#[source] Box<dyn Error + Send + Sync>),
}

/// How to reach somebody.
///
/// Must be used inside a Tokio runtime, but may be built outside one.
#[derive(Clone)]
pub struct OutboundBuilder {
    deadline: Duration,
    connect_timeout: Option<Duration>,
    max_response: usize,
    unix_socket: Option<PathBuf>,
    roots: Roots,
    identity: Option<Vec<u8>>,
    http2_prior_knowledge: bool,
    repeats: bool,
}

impl OutboundBuilder {
    /// A client with this deadline for the whole exchange and this cap, in bytes, for the answer's body. Both above zero.
    #[must_use]
    pub fn new(deadline: Duration, max_response: usize) -> Self {
        Self {
            deadline,
            connect_timeout: None,
            max_response,
            unix_socket: None,
            roots: Roots::System,
            identity: None,
            http2_prior_knowledge: false,
            repeats: true,
        }
    }

    /// How much of the deadline may go into reaching the peer, TLS included. Default: all of it. Above zero.
    #[must_use]
    pub fn with_connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = Some(timeout);
        self
    }

    /// Connects to a unix socket, whatever the authority of the request says.
    #[must_use]
    pub fn with_unix_socket(mut self, path: impl Into<PathBuf>) -> Self {
        self.unix_socket = Some(path.into());
        self
    }

    /// Trusts these certificates (PEM, one or more) **instead of** the system's: a private authority then vouches for its own
    /// peers, and no public one can.
    #[must_use]
    pub fn with_roots(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.roots = Roots::Own(pem.into());
        self
    }

    /// Proves this client to the peer (mutual TLS): a certificate chain and its private key, PEM, in one text.
    #[must_use]
    pub fn with_identity(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.identity = Some(pem.into());
        self
    }

    /// For peers reached without TLS, on loopback or a unix socket: no certificate is trusted, so `https` always fails, and none has
    /// to be installed, so that the client also builds in an image that has no certificate store.
    #[must_use]
    pub fn without_tls(mut self) -> Self {
        self.roots = Roots::None;
        self
    }

    /// Speaks HTTP/2 from the first byte ([RFC 9113 §3.3](https://www.rfc-editor.org/rfc/rfc9113#section-3.3)): many exchanges on one
    /// connection, also without TLS. A peer that speaks HTTP/1 alone then gives no answer. Default: HTTP/1.1 without TLS, and what both
    /// sides agree on with it.
    #[must_use]
    pub fn with_http2_prior_knowledge(mut self) -> Self {
        self.http2_prior_knowledge = true;
        self
    }

    /// Leaves it to the caller to send a request again that an HTTP/2 peer gave back untouched.
    #[cfg(any(feature = "authzen", feature = "opa"))]
    pub(crate) fn without_repeats(mut self) -> Self {
        self.repeats = false;
        self
    }

    /// Builds the client.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] when a bound is zero, or a certificate, the key or the system's certificate store cannot be used.
    pub fn build(self) -> Result<Outbound, ConfigError> {
        for (field, zero) in [
            ("outbound.deadline", self.deadline.is_zero()),
            ("outbound.connect_timeout", self.connect_timeout.is_some_and(|timeout| timeout.is_zero())),
            ("outbound.max_response", self.max_response == 0),
        ] {
            if zero {
                return Err(ConfigError::invalid(field, "0", "choose a value above zero"));
            }
        }
        let tls = tls::config(&self.roots, self.identity.as_deref())?;
        let connect_timeout = self.connect_timeout.unwrap_or(self.deadline);
        let settings = Settings {
            bounds: Bounds { deadline: self.deadline, cap: self.max_response },
            http2_prior_knowledge: self.http2_prior_knowledge,
            repeats: self.repeats,
        };
        let h2 = self.http2_prior_knowledge;
        Ok(match self.unix_socket {
            Some(path) => settings.client(connect::with_tls(connect::unix(path)?, tls, h2, connect_timeout)),
            None => settings.client(connect::with_tls(connect::tcp(connect_timeout), tls, h2, connect_timeout)),
        })
    }
}

impl fmt::Debug for OutboundBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OutboundBuilder")
            .field("deadline", &self.deadline)
            .field("connect_timeout", &self.connect_timeout)
            .field("max_response", &self.max_response)
            .field("unix_socket", &self.unix_socket)
            .field("identity", &self.identity.as_ref().map(|_| "[redacted]"))
            .field("http2_prior_knowledge", &self.http2_prior_knowledge)
            .finish_non_exhaustive()
    }
}

/// A request's extension: its bounds in the place of the client's, where one client serves questions of several sizes. A client that the
/// application brought does not know it.
#[derive(Clone, Copy)]
pub(crate) struct Bounds {
    pub(crate) deadline: Duration,
    pub(crate) cap: usize,
}

/// What every exchange of one client has in common.
#[derive(Clone, Copy)]
struct Settings {
    bounds: Bounds,
    http2_prior_knowledge: bool,
    repeats: bool,
}

impl Settings {
    fn client<C: Connect + Clone + Send + Sync + 'static>(self, connector: C) -> Outbound {
        let client = Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .http2_only(self.http2_prior_knowledge)
            .build(connector);
        Outbound::new(tower::service_fn(move |mut request: Request<Bytes>| {
            let client = client.clone();
            let Bounds { deadline, cap } = request.extensions_mut().remove().unwrap_or(self.bounds);
            request.headers_mut().entry(USER_AGENT).or_insert(OWN_NAME);
            async move {
                let begun = Instant::now();
                // One timer around everything: a peer that sends one byte a second resets nothing.
                match timeout(deadline, self.exchange(&client, request, cap)).await {
                    // Both timers may run out at once, and it is the deadline that counts.
                    Ok(Err(OutboundError::Connect(_))) if begun.elapsed() >= deadline => {
                        Err(OutboundError::Timeout(deadline))
                    }
                    settled => settled.unwrap_or(Err(OutboundError::Timeout(deadline))),
                }
            }
        }))
    }

    async fn exchange<C: Connect + Clone + Send + Sync + 'static>(
        self,
        client: &Client<C, Full<Bytes>>,
        request: Request<Bytes>,
        cap: usize,
    ) -> Result<Response<Bytes>, OutboundError> {
        let request = request.map(Full::new);
        let again = self.repeats.then(|| request.clone());
        let answer = match (client.request(request).await, again) {
            (Err(error), Some(request)) if is_given_back(&error) => client.request(request).await,
            (settled, _) => settled,
        };
        let (head, body) = answer.map_err(OutboundError::of)?.into_parts();
        Ok(Response::from_parts(head, read(body, cap).await?))
    }
}

/// Reads a body up to the cap.
async fn read(mut body: Incoming, cap: usize) -> Result<Bytes, OutboundError> {
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    if announced > cap {
        return Err(OutboundError::TooLarge(cap));
    }
    let mut whole = Bytes::new();
    let mut rest = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| OutboundError::Exchange(cause::of(&error)))?;
        let Ok(data) = frame.into_data() else { continue };
        if data.len() > cap.saturating_sub(whole.len() + rest.len()) {
            return Err(OutboundError::TooLarge(cap));
        }
        if whole.is_empty() && rest.is_empty() {
            // Mostly the only one.
            whole = data;
        } else {
            if rest.is_empty() {
                rest.reserve(announced);
                rest.extend_from_slice(&std::mem::take(&mut whole));
            }
            rest.extend_from_slice(&data);
        }
    }
    Ok(if rest.is_empty() { whole } else { rest.freeze() })
}

impl OutboundError {
    fn of(error: hyper_util::client::legacy::Error) -> Self {
        let cause = cause::of(&error);
        if nothing_was_answered(&error) { Self::Connect(cause) } else { Self::Exchange(cause) }
    }
}

/// A kept-alive connection that the peer has just closed shows as an incomplete message or a reset, not as a failed connect.
fn nothing_was_answered(error: &hyper_util::client::legacy::Error) -> bool {
    error.is_connect()
        || is_given_back(error)
        || cause::chain(error).any(|cause| {
            use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset};
            let io = cause.downcast_ref::<io::Error>().map(io::Error::kind);
            matches!(io, Some(ConnectionReset | ConnectionAborted | BrokenPipe))
                || cause
                    .downcast_ref::<hyper::Error>()
                    .is_some_and(|error| error.is_canceled() || error.is_incomplete_message())
        })
}

/// RFC 9113 §8.7: what an HTTP/2 peer refused or left behind with a graceful GOAWAY, it has not looked at.
fn is_given_back(error: &hyper_util::client::legacy::Error) -> bool {
    cause::chain(error).filter_map(|cause| cause.downcast_ref::<h2::Error>()).any(|error| {
        let is_refused = error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
        let is_left = error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR);
        error.is_remote() && (is_refused || is_left)
    })
}

/// How long a connection is kept for the next request.
const IDLE: Duration = Duration::from_secs(90);
const OWN_NAME: HeaderValue = HeaderValue::from_static(concat!("portcullis/", env!("CARGO_PKG_VERSION")));

#[cfg(test)]
mod tests {
    use http::Uri;
    use tokio::{
        io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
        net::TcpListener,
    };
    use tower::ServiceExt as _;

    use super::*;

    fn _is_shared_between_threads(outbound: Outbound) -> impl Send + Sync + Clone + 'static {
        outbound
    }

    fn client() -> OutboundBuilder {
        OutboundBuilder::new(Duration::from_secs(10), 1024).without_tls()
    }

    async fn read_head(stream: &mut (impl AsyncRead + Unpin)) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match stream.read_u8().await {
                Ok(byte) => head.push(byte),
                Err(_) => break,
            }
        }
        String::from_utf8(head).unwrap()
    }

    async fn answer_once(mut stream: impl AsyncRead + AsyncWrite + Unpin, answer: &[u8]) -> String {
        let head = read_head(&mut stream).await;
        let _ = stream.write_all(answer).await;
        head
    }

    /// Answers the first connection with these bytes and closes it; gives the request's head.
    async fn peer(answer: Vec<u8>) -> (Uri, tokio::task::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri = format!("http://{}/path?secret=s3cr3t", listener.local_addr().unwrap()).parse().unwrap();
        (uri, tokio::spawn(async move { answer_once(listener.accept().await.unwrap().0, &answer).await }))
    }

    fn request(uri: Uri) -> Request<Bytes> {
        let mut request = Request::new(Bytes::new());
        *request.uri_mut() = uri;
        request.headers_mut().insert("authorization", "Bearer s3cr3t".parse().unwrap());
        request
    }

    async fn ask(builder: OutboundBuilder, answer: &[u8]) -> Result<Response<Bytes>, OutboundError> {
        let (uri, _) = peer(answer.to_vec()).await;
        builder.build().unwrap().oneshot(request(uri)).await
    }

    #[tokio::test]
    async fn an_answer_comes_back_whole_and_the_request_asks_for_no_compression() {
        let answer = b"HTTP/1.1 201 Created\r\ncache-control: max-age=7\r\ncontent-length: 2\r\n\r\nok";
        let (uri, head) = peer(answer.to_vec()).await;
        let response = client().build().unwrap().oneshot(request(uri)).await.unwrap();
        assert_eq!((response.status().as_u16(), &response.body()[..]), (201, &b"ok"[..]));
        assert_eq!(response.headers()["cache-control"], "max-age=7");
        let head = head.await.unwrap().to_ascii_lowercase();
        assert!(head.starts_with("get /path?secret=s3cr3t http/1.1\r\n"), "{head}");
        assert!(!head.contains("accept-encoding") && !head.contains("cookie"), "{head}");
    }

    #[tokio::test]
    async fn compressed_bytes_stay_compressed() {
        let answer = b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 3\r\n\r\n\x1f\x8b\x08";
        assert_eq!(&ask(client(), answer).await.unwrap().body()[..], b"\x1f\x8b\x08");
    }

    #[tokio::test]
    async fn a_redirect_is_an_answer_and_is_not_followed() {
        let (elsewhere, asked) = peer(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_vec()).await;
        for status in ["301", "302", "303", "307", "308"] {
            let answer = format!("HTTP/1.1 {status} R\r\nlocation: {elsewhere}\r\ncontent-length: 0\r\n\r\n");
            assert_eq!(ask(client(), answer.as_bytes()).await.unwrap().status().as_str(), status);
        }
        assert!(!asked.is_finished());
        asked.abort();
    }

    #[tokio::test]
    async fn a_body_over_the_cap_is_cut_whether_announced_or_not() {
        let big = "x".repeat(1025);
        let huge = "x".repeat(100_000_000);
        let full = "x".repeat(1024);
        let cases = [
            ("announced", "HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n".to_owned(), false),
            ("announced, one byte over", format!("HTTP/1.1 200 OK\r\ncontent-length: 1025\r\n\r\n{big}"), false),
            ("until close", format!("HTTP/1.1 200 OK\r\n\r\n{huge}"), false),
            (
                "chunked",
                format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n401\r\n{big}\r\n0\r\n\r\n"),
                false,
            ),
            ("exactly the cap", format!("HTTP/1.1 200 OK\r\n\r\n{full}"), true),
        ];
        for (name, answer, fits) in cases {
            match ask(client(), answer.as_bytes()).await {
                Ok(response) => assert!(fits && response.body().len() == 1024, "{name}"),
                Err(OutboundError::TooLarge(1024)) => assert!(!fits, "{name}"),
                Err(other) => panic!("{name}: {other:?}"),
            }
        }
    }

    #[tokio::test]
    async fn the_deadline_covers_head_and_body_and_a_drip_does_not_extend_it() {
        for start in ["", "HTTP/1.1 200 OK\r\nx-drip: ", "HTTP/1.1 200 OK\r\n\r\n"] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let uri = format!("http://{}/", listener.local_addr().unwrap()).parse().unwrap();
            let drip = tokio::spawn(async move {
                let (mut stream, _) = listener.accept().await.unwrap();
                read_head(&mut stream).await;
                stream.write_all(start.as_bytes()).await.unwrap();
                let byte = if start.is_empty() { "" } else { "x" };
                while stream.write_all(byte.as_bytes()).await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            });
            let deadline = Duration::from_millis(60);
            let client = OutboundBuilder::new(deadline, 1024).without_tls().build().unwrap();
            let error = client.oneshot(request(uri)).await.unwrap_err();
            assert!(matches!(error, OutboundError::Timeout(after) if after == deadline), "{start:?}: {error:?}");
            drip.abort();
        }
    }

    #[tokio::test]
    async fn no_answer_is_told_from_a_broken_one() {
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let uri: Uri = format!("http://{free}/").parse().unwrap();
        let refused = client().build().unwrap().oneshot(request(uri)).await.unwrap_err();
        assert!(matches!(refused, OutboundError::Connect(_)), "{refused:?}");

        let closed = ask(client(), b"").await.unwrap_err();
        assert!(matches!(closed, OutboundError::Connect(_)), "{closed:?}");

        for answer in ["NOT HTTP AT ALL\r\n\r\n", "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nshort"] {
            let broken = ask(client(), answer.as_bytes()).await.unwrap_err();
            assert!(matches!(broken, OutboundError::Exchange(_)), "{answer:?}: {broken:?}");
        }
    }

    #[tokio::test]
    async fn a_kept_connection_that_the_peer_closed_is_no_broken_exchange() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri: Uri = format!("http://{}/", listener.local_addr().unwrap()).parse().unwrap();
        let peer = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            read_head(&mut stream).await;
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
            // The second request arrives on the kept connection and finds it closed; no other connection is taken.
            read_head(&mut stream).await;
        });
        let client = client().build().unwrap();
        assert!(client.clone().oneshot(request(uri.clone())).await.is_ok());
        let error = client.oneshot(request(uri)).await.unwrap_err();
        assert!(matches!(error, OutboundError::Connect(_)), "{error:?}");
        peer.await.unwrap();
    }

    #[tokio::test]
    async fn without_tls_https_fails_and_never_falls_back() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri = format!("https://{}/", listener.local_addr().unwrap()).parse().unwrap();
        let peer = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let first = stream.read_u8().await.unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
            first
        });
        let error = client().build().unwrap().oneshot(request(uri)).await.unwrap_err();
        assert!(matches!(error, OutboundError::Connect(_)), "{error:?}");
        const TLS_HANDSHAKE_RECORD: u8 = 22;
        assert_eq!(peer.await.unwrap(), TLS_HANDSHAKE_RECORD);
    }

    #[tokio::test]
    async fn errors_hold_neither_the_address_nor_a_header() {
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let uri: Uri = format!("http://{free}/path?secret=s3cr3t").parse().unwrap();
        let refused = client().build().unwrap().oneshot(request(uri)).await.unwrap_err();
        let broken = ask(client(), b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nshort").await.unwrap_err();
        for error in [refused, broken] {
            let mut text = format!("{error} {error:?}");
            let mut cause = error.source();
            while let Some(error) = cause {
                text += &format!(" {error} {error:?}");
                cause = error.source();
            }
            assert!(!text.contains("s3cr3t") && !text.contains("/path") && !text.contains("127.0.0.1"), "{text}");
        }
    }

    /// The first message of a client that is asked for an `https` address.
    async fn client_hello(builder: OutboundBuilder) -> Vec<u8> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri = format!("https://{}/", listener.local_addr().unwrap()).parse().unwrap();
        let asking = tokio::spawn(builder.build().unwrap().oneshot(request(uri)));
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut record = [0; 5];
        stream.read_exact(&mut record).await.unwrap();
        let mut hello = vec![0; usize::from(u16::from_be_bytes([record[3], record[4]]))];
        stream.read_exact(&mut hello).await.unwrap();
        drop(stream);
        assert!(asking.await.unwrap().is_err());
        hello
    }

    #[tokio::test]
    async fn with_prior_knowledge_nothing_but_http2_is_offered() {
        const HTTP2: &[u8] = b"\x02h2";
        const HTTP1: &[u8] = b"\x08http/1.1";
        for (builder, offered) in [(client(), [true, true]), (client().with_http2_prior_knowledge(), [true, false])] {
            let hello = client_hello(builder).await;
            let offers = |protocol: &[u8]| hello.windows(protocol.len()).any(|window| window == protocol);
            assert_eq!([offers(HTTP2), offers(HTTP1)], offered);
        }
    }

    #[tokio::test]
    async fn what_is_not_answered_in_time_is_too_late_however_far_it_came() {
        // It takes connections and says nothing.
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        for millis in 1..25 {
            let deadline = Duration::from_millis(millis);
            let client = OutboundBuilder::new(deadline, 1024).without_tls().build().unwrap();
            let uri = format!("https://{address}/").parse().unwrap();
            let error = client.oneshot(request(uri)).await.unwrap_err();
            assert!(matches!(error, OutboundError::Timeout(_)), "{error:?}");
        }
        let impatient = client().with_connect_timeout(Duration::from_millis(50)).build().unwrap();
        let error = impatient.oneshot(request(format!("https://{address}/").parse().unwrap())).await.unwrap_err();
        assert!(matches!(error, OutboundError::Connect(_)), "{error:?}");
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn a_unix_socket_is_reached_whatever_the_authority_says() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("opa.sock");
        let listener = tokio::net::UnixListener::bind(&path).unwrap();
        let peer = tokio::spawn(async move {
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
            answer_once(listener.accept().await.unwrap().0, answer).await
        });
        let client = client().with_unix_socket(&path).build().unwrap();
        let response = client.oneshot(request("http://localhost/v1".parse().unwrap())).await.unwrap();
        assert_eq!(&response.body()[..], b"ok");
        assert!(peer.await.unwrap().starts_with("GET /v1 HTTP/1.1\r\n"));
    }

    #[test]
    fn a_client_builds_without_a_runtime_and_bad_settings_name_their_field() {
        assert!(client().build().is_ok());
        let second = Duration::from_secs(1);
        let cases = [
            (OutboundBuilder::new(Duration::ZERO, 1), "outbound.deadline"),
            (OutboundBuilder::new(second, 0), "outbound.max_response"),
            (client().with_connect_timeout(Duration::ZERO), "outbound.connect_timeout"),
            (client().with_roots("no certificate"), "outbound.roots"),
            (client().with_roots("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"), "outbound.roots"),
            (client().with_identity("s3cr3t"), "outbound.identity"),
        ];
        for (builder, field) in cases {
            let error = builder.build().unwrap_err();
            assert_eq!(error.field(), field);
            assert!(!format!("{error} {error:?}").contains("s3cr3t"), "{error:?}");
        }
    }

    #[test]
    fn the_private_key_is_not_printed() {
        let text = format!("{:?}", client().with_identity("s3cr3t"));
        assert!(text.contains("redacted") && !text.contains("s3cr3t"), "{text}");
    }
}
