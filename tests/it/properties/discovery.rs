//! The discovery document, as an issuer under attack could serve it.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use http::{Request, Response, Uri};
use portcullis::{
    key::{KeySource as _, LoadRequest, Remote},
    outbound::{Outbound, OutboundError},
};
use serde_json::{json, value::RawValue};

use super::signer;

const ISSUERS: [&str; 3] = ["https://login.example", "https://login.example/tenant/", "http://localhost:8080/"];

/// Whatever the document says: what is asked is the issuer itself and then, if the document is the issuer's own, one address that
/// is https or, where the issuer is this machine without TLS, this machine.
pub fn check(document: &[u8]) -> bool {
    // Not `any`: each issuer has to be tried.
    ISSUERS.iter().filter(|issuer| loads(issuer, document)).count() > 0
}

fn loads(issuer: &str, document: &[u8]) -> bool {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let source = Remote::discover(issuer).with_outbound(peer(document, &asked)).build().expect("a good issuer");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let loaded = runtime.block_on(Arc::new(source).load(LoadRequest::default()));

    let asked: Vec<Uri> = std::mem::take(&mut asked.lock().unwrap());
    let (metadata, keys) = asked.split_first().expect("the issuer is asked");
    assert_eq!(*metadata, *format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/')));
    let [keys] = keys else {
        assert!(keys.is_empty() && loaded.is_err(), "asked {} times", asked.len());
        return false;
    };
    assert!(is_safe(issuer, keys), "asked an address that is not https, for an issuer that is");
    // What the other members say is nobody's business, so that what stands in them is left as it is.
    let found: BTreeMap<String, &RawValue> =
        serde_json::from_slice(document).expect("a document that is followed is an object");
    let text = |name: &str| serde_json::from_str::<String>(found[name].get()).expect("a text");
    assert_eq!(text("issuer"), issuer, "followed another issuer's document");
    assert!(!text("jwks_uri").is_empty());
    assert!(loaded.is_ok());
    true
}

pub fn seeds() -> Vec<Vec<u8>> {
    let document = |issuer: &str, keys: &str| json!({ "issuer": issuer, "jwks_uri": keys }).to_string().into_bytes();
    let [plain, tenant, local] = ISSUERS;
    vec![
        document(plain, "https://login.example/keys"),
        document(tenant, "https://keys.example:8443/tenant/keys?v=2"),
        document(local, "http://127.0.0.1:8080/keys"),
        document(local, "http://[::1]/keys"),
        document(local, "http://2130706433/keys"),
        document(local, "http://keys.example/keys"),
        document(local, "https://keys.example/keys"),
        document(plain, "http://[::1]/keys"),
        document(plain, "http://login.example/keys"),
        document("https://evil.example", "https://evil.example/keys"),
        document(plain, "https://user:secret@login.example/keys"),
        document(plain, "http://localhost.evil.example/keys"),
        json!([plain, "https://login.example/keys"]).to_string().into_bytes(),
        [b"{\"x\":\"\xff\",", &document(plain, "https://login.example/keys")[1..]].concat(),
    ]
}

/// Answers the first request with the document, and every later one with a good key set.
fn peer(document: &[u8], asked: &Arc<Mutex<Vec<Uri>>>) -> Outbound {
    let (document, asked) = (Bytes::copy_from_slice(document), Arc::clone(asked));
    let keys = Bytes::from(json!({ "keys": [signer::jwk()] }).to_string());
    Outbound::new(tower::service_fn(move |request: Request<Bytes>| {
        let mut asked = asked.lock().unwrap();
        assert!(request.body().is_empty() && !request.headers().contains_key("authorization"));
        let body = if asked.is_empty() { document.clone() } else { keys.clone() };
        asked.push(request.uri().clone());
        std::future::ready(Ok::<_, OutboundError>(Response::new(body)))
    }))
}

/// A document that came over TLS sends nobody where there is none.
fn is_safe(issuer: &str, uri: &Uri) -> bool {
    let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else { return false };
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    let is_local = || host == "localhost" || host.parse::<IpAddr>().is_ok_and(|host| host.to_canonical().is_loopback());
    let is_plain = || issuer.starts_with("http://") && scheme == "http" && is_local();
    !authority.as_str().contains('@') && (scheme == "https" || is_plain())
}
