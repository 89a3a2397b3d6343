//! How a peer is reached: TCP or a unix socket, with TLS above it where the address says so.

use std::{path::PathBuf, time::Duration};

use http::Uri;
use hyper::rt::{Read, Write};
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::{
    client::legacy::connect::{Connect, Connection, HttpConnector},
    rt::TokioIo,
};
use rustls::ClientConfig;
use tokio::net::UnixStream;
use tower::{BoxError, Service, ServiceExt as _, timeout::Timeout};

use crate::ConfigError;

/// The time limit is shared by the addresses that a name has, so that one that is gone does not take it all.
pub(super) fn tcp(limit: Duration) -> HttpConnector {
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_connect_timeout(Some(limit));
    connector.set_nodelay(true);
    connector.set_keepalive(Some(KEEPALIVE));
    connector.set_keepalive_interval(Some(KEEPALIVE));
    connector.set_keepalive_retries(Some(PROBES));
    // Probes are for connections that nothing is sent on: on one of HTTP/2 requests would be lost for a quarter of an hour.
    #[cfg(any(target_os = "android", target_os = "fuchsia", target_os = "linux"))]
    connector.set_tcp_user_timeout(Some(UNACKNOWLEDGED));
    connector
}

/// Whatever the authority of the request says.
#[cfg(unix)]
pub(super) fn unix(
    path: PathBuf,
) -> Result<
    impl Service<Uri, Response = TokioIo<UnixStream>, Error = std::io::Error, Future: Send> + Clone + Send + Sync,
    ConfigError,
> {
    Ok(tower::service_fn(move |_: Uri| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    }))
}

#[cfg(not(unix))]
pub(super) fn unix(path: PathBuf) -> Result<HttpConnector, ConfigError> {
    let remedy = "this platform has no unix sockets: use a URL";
    Err(ConfigError::invalid("outbound.unix_socket", path.display().to_string(), remedy))
}

/// The time limit covers name resolution, connect and TLS.
pub(super) fn with_tls<C>(
    connector: C,
    tls: ClientConfig,
    only_http2: bool,
    limit: Duration,
) -> impl Connect + Clone + Send + Sync
where
    C: Service<Uri, Error: Into<BoxError>, Future: Send> + Clone + Send + Sync + 'static,
    C::Response: Connection + Read + Write + Send + Unpin + 'static,
{
    let builder = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http();
    // RFC 9113 §3.3: what will not be spoken is not offered, or a peer that prefers it would choose it.
    let builder = if only_http2 { builder.enable_http2() } else { builder.enable_all_versions() };
    Timeout::new(builder.wrap_connector(connector), limit).map_future(Box::pin)
}

/// A peer that is gone without a word is found out by probes of the system: after so long, and so many of them.
const KEEPALIVE: Duration = Duration::from_secs(15);
const PROBES: u32 = 3;
/// How long what was sent may go without a sign that it arrived.
#[cfg(any(target_os = "android", target_os = "fuchsia", target_os = "linux"))]
const UNACKNOWLEDGED: Duration = Duration::from_secs(30);

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use socket2::SockRef;

    use super::*;

    #[tokio::test]
    async fn a_peer_that_is_gone_without_a_word_is_found_out_soon() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        let stream = tcp(Duration::from_secs(9)).oneshot(uri).await.unwrap();
        let socket = SockRef::from(stream.inner());
        assert!(socket.keepalive().unwrap() && socket.tcp_nodelay().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), KEEPALIVE);
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), KEEPALIVE);
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), PROBES);
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(UNACKNOWLEDGED));
    }
}
