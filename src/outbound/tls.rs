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
