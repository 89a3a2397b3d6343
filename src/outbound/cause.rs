//! What went wrong, in words that may be logged.

use std::{
    error::Error,
    io,
    iter::{once, successors},
};

use rustls::CertificateError::NotValidForNameContext;

/// An error's text and those of its causes. The errors themselves know, and print, the address; and HTTP/2 lets the peer put into them
/// whatever it likes, such as a header that it was sent.
pub(super) fn of(error: &(dyn Error + 'static)) -> Box<dyn Error + Send + Sync> {
    let said: Vec<_> = once(error).chain(chain(error)).filter_map(said).collect();
    said.join(": ").into()
}

/// What caused it, the nearest cause first.
pub(super) fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    successors(inner(error), |error| inner(*error))
}

fn inner<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    within(error).or_else(|| error.source())
}

/// What an I/O error was made of, which it does not call its source.
fn within<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    let inner = error.downcast_ref::<io::Error>()?.get_ref()?;
    Some(inner)
}

fn said(error: &(dyn Error + 'static)) -> Option<String> {
    if let Some(rustls::Error::InvalidCertificate(NotValidForNameContext { presented, .. })) = error.downcast_ref() {
        return Some(format!("the certificate is for other names: {presented:?}"));
    }
    if let Some(reason) = error.downcast_ref().and_then(h2::Error::reason) {
        return Some(format!("HTTP/2: {reason}"));
    }
    // Its words would be those of what is in it.
    within(error).is_none().then(|| error.to_string())
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::ServerName;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("outside")]
    struct Outside(#[source] io::Error);

    #[test]
    fn all_causes_are_said_once_and_the_address_never() {
        let expected = ServerName::try_from("s3cr3t.example").unwrap();
        let name = NotValidForNameContext { expected, presented: vec!["DnsName(\"other.example\")".to_owned()] };
        let tls = io::Error::new(io::ErrorKind::InvalidData, rustls::Error::InvalidCertificate(name));
        let error = Outside(io::Error::other(tls));
        let text = of(&error).to_string();
        assert!(text.starts_with("outside: the certificate is for other names: ") && text.contains("other.example"));
        assert!(!text.contains("s3cr3t"), "{text}");
        assert_eq!(of(&Outside(io::Error::other("inside"))).to_string(), "outside: inside");
        let plain = of(&Outside(io::ErrorKind::ConnectionReset.into())).to_string();
        assert_eq!(plain, "outside: connection reset");
    }

    #[test]
    fn what_a_peer_says_in_parting_is_not_repeated() {
        let error = Outside(io::Error::other(h2::Error::from(h2::Reason::ENHANCE_YOUR_CALM)));
        assert!(of(&error).to_string().starts_with("outside: HTTP/2: "));
    }
}
