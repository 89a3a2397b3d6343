//! Whom the client trusts, and who it says that it is.

use std::sync::Arc;

use rustls::{
    ClientConfig, RootCertStore,
    crypto::{CryptoProvider, aws_lc_rs},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use rustls_platform_verifier::Verifier;

use crate::ConfigError;

/// Whose word a peer's certificate needs.
#[derive(Clone)]
pub(super) enum Roots {
    System,
    Own(Vec<u8>),
    None,
}

/// TLS 1.2 and 1.3, by the application's crypto provider where it installed one.
pub(super) fn config(roots: &Roots, identity: Option<&[u8]>) -> Result<ClientConfig, ConfigError> {
    let provider = CryptoProvider::get_default().cloned().unwrap_or_else(|| Arc::new(aws_lc_rs::default_provider()));
    let refuse = |error: rustls::Error| {
        let remedy = "install the system's CA certificates, give roots of your own with `with_roots`, or, for a peer on \
                      loopback or a unix socket, use `without_tls`";
        ConfigError::unusable("outbound.tls", "client", remedy, error)
    };
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(refuse)?;
    let config = match roots {
        Roots::System => {
            let verifier = Verifier::new(provider).map_err(refuse)?;
            config.dangerous().with_custom_certificate_verifier(Arc::new(verifier))
        }
        Roots::Own(pem) => config.with_root_certificates(authorities(pem)?),
        Roots::None => config.with_root_certificates(RootCertStore::empty()),
    };
    let Some(pem) = identity else { return Ok(config.with_no_client_auth()) };
    let unusable = |error| {
        let remedy = "give the certificate chain and its unencrypted private key as PEM in one text";
        ConfigError::unusable("outbound.identity", format!("{} bytes", pem.len()), remedy, error)
    };
    let chain =
        CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(|error| unusable(of_pem(&error)))?;
    let key = PrivateKeyDer::from_pem_slice(pem).map_err(|error| unusable(of_pem(&error)))?;
    config.with_client_auth_cert(chain, key).map_err(unusable)
}

fn authorities(pem: &[u8]) -> Result<RootCertStore, ConfigError> {
    let size = || format!("{} bytes", pem.len());
    let remedy = "give one or more CA certificates as PEM";
    let unusable = |error| ConfigError::unusable("outbound.roots", size(), remedy, error);
    let mut store = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        store.add(certificate.map_err(|error| unusable(of_pem(&error)))?).map_err(unusable)?;
    }
    if store.is_empty() {
        return Err(ConfigError::invalid("outbound.roots", size(), remedy));
    }
    Ok(store)
}

/// The reader's message may quote the text, which is a secret.
fn of_pem(error: &rustls_pki_types::pem::Error) -> rustls::Error {
    use rustls_pki_types::pem::Error::NoItemsFound;
    rustls::Error::General(
        if matches!(error, NoItemsFound) { "nothing of that kind in it" } else { "it is no PEM" }.to_owned(),
    )
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        time::Duration,
    };

    use bytes::Bytes;
    use http::Request;
    use rustls::{ServerConfig, ServerConnection, Stream, server::WebPkiClientVerifier};
    use tower::ServiceExt as _;

    use super::*;
    use crate::outbound::{OutboundBuilder, OutboundError};

    /// A server for `localhost` that wants the same certificate of its client. Serves one connection.
    fn server() -> (u16, std::thread::JoinHandle<()>) {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let roots = Arc::new(authorities(CERTIFICATE.as_bytes()).unwrap());
        let clients = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider)).build().unwrap();
        let certificate = CertificateDer::from_pem_slice(CERTIFICATE.as_bytes()).unwrap();
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(clients)
            .with_single_cert(vec![certificate], PrivateKeyDer::from_pem_slice(KEY.as_bytes()).unwrap())
            .unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let serving = std::thread::spawn(move || {
            let mut tcp = listener.accept().unwrap().0;
            let mut tls = ServerConnection::new(Arc::new(config)).unwrap();
            let mut stream = Stream::new(&mut tls, &mut tcp);
            if stream.read(&mut [0; 1024]).is_ok() {
                let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n");
            }
        });
        (port, serving)
    }

    /// Asks such a server by this name.
    async fn ask(host: &str, build: impl FnOnce(OutboundBuilder) -> OutboundBuilder) -> Result<u16, OutboundError> {
        let (port, serving) = server();
        let client = build(OutboundBuilder::new(Duration::from_secs(10), 1024)).build().unwrap();
        let mut request = Request::new(Bytes::new());
        *request.uri_mut() = format!("https://{host}:{port}/").parse().unwrap();
        let answer = client.oneshot(request).await;
        serving.join().unwrap();
        answer.map(|answer| answer.status().as_u16())
    }

    fn identity(parts: &[&str]) -> Result<ClientConfig, ConfigError> {
        config(&Roots::None, Some(parts.concat().as_bytes()))
    }

    #[tokio::test]
    async fn a_peer_and_a_client_that_own_roots_vouch_for_reach_each_other() {
        let both =
            |builder: OutboundBuilder| builder.with_roots(CERTIFICATE).with_identity([KEY, CERTIFICATE].concat());
        assert_eq!(ask("localhost", both).await.unwrap(), 204);
        let error = ask("127.0.0.1", both).await.unwrap_err();
        let text = format!("{error:?}");
        assert!(matches!(error, OutboundError::Connect(_)), "{text}");
        assert!(text.contains("other names") && text.contains("localhost") && !text.contains("127.0.0.1"), "{text}");
    }

    #[tokio::test]
    async fn nobody_else_is_trusted_or_proves_anything() {
        let error = ask("localhost", |builder| builder.with_identity([KEY, CERTIFICATE].concat())).await.unwrap_err();
        assert!(matches!(error, OutboundError::Connect(_)), "the system does not know it: {error:?}");
        let nobody = |builder: OutboundBuilder| builder.with_roots(CERTIFICATE).without_tls();
        assert!(ask("localhost", nobody).await.is_err());
        assert!(ask("localhost", |builder| builder.with_roots(CERTIFICATE)).await.is_err(), "no certificate was shown");
    }

    #[test]
    fn an_identity_is_read_in_either_order_and_in_each_form_of_key() {
        for key in [KEY, SEC1_KEY] {
            for parts in [[CERTIFICATE, key], [key, CERTIFICATE]] {
                assert!(identity(&parts).is_ok_and(|config| config.client_auth_cert_resolver.has_certs()), "{parts:?}");
            }
        }
        // As `openssl ecparam -genkey` writes it.
        let parameters = "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n";
        assert!(identity(&[parameters, SEC1_KEY, CERTIFICATE]).is_ok());
    }

    #[test]
    fn half_an_identity_or_one_that_is_locked_is_refused_without_quoting_it() {
        let locked = KEY.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
        let broken = KEY.replace("MIGH", "!!!!");
        let other_kind = KEY.replace("PRIVATE KEY", "RSA PRIVATE KEY");
        let of_another = SEC1_KEY.replace("IOic5j69", "IOic5j70");
        for (name, parts) in [
            ("no key", vec![CERTIFICATE]),
            ("no certificate", vec![KEY]),
            ("nothing", vec![]),
            ("encrypted", vec![CERTIFICATE, &locked]),
            ("broken", vec![CERTIFICATE, &broken]),
            ("of another kind than it says", vec![CERTIFICATE, &other_kind]),
            ("of another certificate", vec![CERTIFICATE, &of_another]),
        ] {
            let error = identity(&parts).expect_err(name);
            assert_eq!(error.field(), "outbound.identity", "{name}");
            let text = format!("{error} {error:?}");
            assert!(!text.contains("zgle") && !text.contains("MIGH") && !text.contains("!!!!"), "{name}: {text}");
        }
    }

    /// For `localhost`, signed by itself.
    const CERTIFICATE: &str = "\
-----BEGIN CERTIFICATE-----\n\
MIIBszCCAVmgAwIBAgIUNTnxaOCijEgSRSTGg2KvKUKwfxQwCgYIKoZIzj0EAwIw\n\
FDESMBAGA1UEAwwJbG9jYWxob3N0MCAXDTI2MTEyNDAzNDc0N1oYDzIxMjYxMDMx\n\
MDM0NzQ3WjAUMRIwEAYDVQQDDAlsb2NhbGhvc3QwWTATBgcqhkjOPQIBBggqhkjO\n\
PQMBBwNCAAQfnbIRtD0T8jWFp7rOWEkmxVr/XFAPzIJ5iQnsHpSkYzdNolPqd86E\n\
lBOq1gYxEUhlHHOW0rKrVyRp7M8kAE2io4GGMIGDMB0GA1UdDgQWBBQZuYOYC58f\n\
DpfHL5s3iO8dNsFuSzAfBgNVHSMEGDAWgBQZuYOYC58fDpfHL5s3iO8dNsFuSzAU\n\
BgNVHREEDTALgglsb2NhbGhvc3QwDAYDVR0TAQH/BAIwADAdBgNVHSUEFjAUBggr\n\
BgEFBQcDAQYIKwYBBQUHAwIwCgYIKoZIzj0EAwIDSAAwRQIhANVhwV/HTGQyS6W7\n\
BCeuHzp9uq5wEU/UlDdmGQgBD4hLAiBvgS+mGOIQXI8x09R4dkVwWeJjf3V4vBCt\n\
OvY8yFDpcw==\n\
-----END CERTIFICATE-----\n\
";
    const KEY: &str = "\
-----BEGIN PRIVATE KEY-----\n\
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg6JzmPr3KvaF7maDO\n\
V6IwhI7NU187DT/XYlslQFb7ocuhRANCAAQfnbIRtD0T8jWFp7rOWEkmxVr/XFAP\n\
zIJ5iQnsHpSkYzdNolPqd86ElBOq1gYxEUhlHHOW0rKrVyRp7M8kAE2i\n\
-----END PRIVATE KEY-----\n\
";
    const SEC1_KEY: &str = "\
-----BEGIN EC PRIVATE KEY-----\n\
MHcCAQEEIOic5j69yr2he5mgzleiMISOzVNfOw0/12JbJUBW+6HLoAoGCCqGSM49\n\
AwEHoUQDQgAEH52yEbQ9E/I1hae6zlhJJsVa/1xQD8yCeYkJ7B6UpGM3TaJT6nfO\n\
hJQTqtYGMRFIZRxzltKyq1ckaezPJABNog==\n\
-----END EC PRIVATE KEY-----\n\
";
}
