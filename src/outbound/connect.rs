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

pub(super) fn tcp() -> HttpConnector {
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector.set_keepalive(Some(KEEPALIVE));
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
pub(super) fn with_tls<C>(connector: C, tls: ClientConfig, limit: Duration) -> impl Connect + Clone + Send + Sync
where
    C: Service<Uri, Error: Into<BoxError>, Future: Send> + Clone + Send + Sync + 'static,
    C::Response: Connection + Read + Write + Send + Unpin + 'static,
{
    let builder = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_all_versions();
    Timeout::new(builder.wrap_connector(connector), limit).map_future(Box::pin)
}

/// A peer that is gone without a word is found out by probes of the system.
const KEEPALIVE: Duration = Duration::from_secs(15);
