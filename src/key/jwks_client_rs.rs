//! Any source of the crate `jwks_client_rs` as a [`KeySource`], for applications that already have one.
//!
//! ```no_run
//! use jwks_client_rs::source::WebSource;
//! use portcullis::{key::jwks_client_rs::JwksClientSource, token::{Issuer, Verifier}};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let web = WebSource::builder().build("https://tenant.eu.auth0.com/.well-known/jwks.json".parse()?)?;
//! let issuer = Issuer::auth0("tenant.eu.auth0.com", "https://api.example").with_key_source(JwksClientSource::new(web));
//! let verifier = Verifier::builder(issuer).build()?;
//! # let _ = verifier;
//! # Ok(())
//! # }
//! ```
//!
//! Only the source is used: what portcullis does after a load (checking each key, caching, verifying) is the same as everywhere. But
//! what that crate's types cannot express is gone before portcullis sees it. [`Remote`](super::Remote) has none of these limits:
//!
//! 1. **No size cap.** The source reads a document whole, however large, and follows redirects. Only the cache's load deadline ends it.
//! 2. **All or nothing.** A set in which one key has a type other than `RSA`, `EC` or `OKP`, no `kid`, or a `use` other than `sig` and
//!    `enc`, fails whole: an issuer that adds such a key makes every reload fail, and once the stale limit is over, verification.
//! 3. **Lost members.** `use` is kept for RSA keys only, `key_ops` for none. An EC or OKP key that the issuer published for encryption
//!    is taken for a signing key. `issuer` is lost for all: where the keys of one document sign for different issuers, as Microsoft's do,
//!    each would sign for every one of them. So this source is a `ConfigError` at [`Issuer::entra`](crate::token::Issuer::entra) and
//!    [`Issuer::entra_multi_tenant`](crate::token::Issuer::entra_multi_tenant).
//! 4. **No lifetime.** `Cache-Control` is not seen: the cache's own soft lifetime holds.

use std::{error::Error, fmt, sync::Arc};

use ::jwks_client_rs::{JsonWebKey, JwksClientError, source::JwksSource};
use async_trait::async_trait;
use serde_json::{Value, json};

use super::{JwkSet, KeyError, KeySource, LoadRequest, LoadedKeys};

/// A [`JwksSource`] as a [`KeySource`]. The [module](self) names what is lost on the way.
pub struct JwksClientSource<S>(S);

impl<S> JwksClientSource<S> {
    /// Wraps the source.
    #[must_use]
    pub const fn new(source: S) -> Self {
        Self(source)
    }
}

#[async_trait]
impl<S: JwksSource + Send + Sync + 'static> KeySource for JwksClientSource<S> {
    async fn load(self: Arc<Self>, _: LoadRequest) -> Result<LoadedKeys, KeyError> {
        let keys = self.0.fetch_keys().await.map_err(|error| failure(&error))?;
        let keys: Vec<Value> = keys.keys().iter().map(document).collect();
        // Written out and read again: there is one reader of keys, and its checks hold for these too.
        let set = JwkSet::parse(json!({ "keys": keys }).to_string().as_bytes()).map_err(KeyError::invalid_document)?;
        Ok(LoadedKeys::new(set))
    }

    fn keeps_key_issuers(&self) -> bool {
        false
    }
}

impl<S> fmt::Debug for JwksClientSource<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JwksClientSource").finish_non_exhaustive()
    }
}

fn document(key: &JsonWebKey) -> Value {
    let mut document = match key {
        JsonWebKey::Rsa(rsa) => json!({ "kty": "RSA", "n": rsa.modulus(), "e": rsa.exponent() }),
        JsonWebKey::Ec(ec) => json!({ "kty": "EC", "crv": ec.curve(), "x": ec.x(), "y": ec.y() }),
        JsonWebKey::Okp(okp) => json!({ "kty": "OKP", "crv": okp.curve(), "x": okp.x() }),
    };
    if let Value::Object(members) = &mut document {
        members.insert("kid".to_owned(), key.key_id().into());
        // `null` is not the same as absent: a member that is there must have the right type.
        if let Some(algorithm) = key.alg() {
            members.insert("alg".to_owned(), algorithm.into());
        }
        if let JsonWebKey::Rsa(rsa) = key
            && let Some(r#use) = rsa.r#use()
        {
            // The type of `use` cannot be named from outside that crate, but its two variants print as their names.
            members.insert("use".to_owned(), format!("{use:?}", use = r#use).to_lowercase().into());
        }
    }
    document
}

/// The texts of that crate name the address, which may carry what its owner holds secret; the innermost cause does not.
fn failure(error: &JwksClientError) -> KeyError {
    let mut innermost: &(dyn Error + 'static) = error;
    let mut unreadable = false;
    while let Some(cause) = innermost.source() {
        unreadable |= cause.is::<serde_json::Error>();
        innermost = cause;
    }
    let text = innermost.to_string();
    let (text, _) = text.split_once(" for url (").unwrap_or((&text, ""));
    let cause = text.to_owned();
    if unreadable { KeyError::invalid_document(cause) } else { KeyError::unavailable(cause) }
}

#[cfg(test)]
mod tests {
    use ::jwks_client_rs::{JsonWebKeySet, source::WebSource};
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;
    use crate::{
        key::{Algorithm, Jwk, KeyErrorKind},
        token::{Issuer, Verifier},
    };

    const RSA: &str = r#""kty":"RSA","e":"AQAB","n":"7kMLsIkxn0QE9kPJOARtx__qjW2lyIHU5KPzLDO-SJ5opLwOG8mbiT0f-wh5iiEK7_Jz1fVdLQ75LOQgFalWt_frrV4AcEJQ-JTk26TZW-2o5xrIeC2vVpPfLNd819Szn1K2PGRVlTTf4hItPToIC6d0MdFycc30aH0u9b_9d1mBPhEtRoYJSSJeWXLDYkccYYwQuY2NqL9Uu4B6a_cBBZVn8GRWz4e-utsCUJiRlNwUMUvsc-z6eQAz5yz2ul3cD_ZANZ4wwK41xGRJ1kK6pmG_pfF_kJak9UAtI6CgFQ8oLROFdPRQ1DaPwEJaXUJihfPzUA-4I43e2_Kbw9H7dQ""#;
    const EC: &str = r#""kty":"EC","crv":"P-256","x":"r1C12_pi3enDwZ2XxHwWQA7N_Xh3BUoHNHkJ0xboOwc","y":"iXRbyWlluYjaiEu3O0MYyizIB-Nr2w_5xXZoeH8gEf8""#;
    const OKP: &str = r#""kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo""#;

    fn keys(members: &[&str]) -> String {
        let keys: Vec<String> = members.iter().map(|members| format!("{{{members}}}")).collect();
        format!(r#"{{"keys":[{}]}}"#, keys.join(","))
    }

    struct Canned(JsonWebKeySet);

    #[async_trait]
    impl JwksSource for Canned {
        async fn fetch_keys(&self) -> Result<JsonWebKeySet, JwksClientError> {
            Ok(self.0.clone())
        }
    }

    async fn load(document: &str) -> Result<LoadedKeys, KeyError> {
        let set = serde_json::from_str(document).unwrap();
        Arc::new(JwksClientSource::new(Canned(set))).load(LoadRequest::default()).await
    }

    /// Through that crate's own web source and a loopback peer.
    async fn fetch(status_and_headers: &str, body: String) -> Result<LoadedKeys, KeyError> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/jwks?secret=s3cr3t", listener.local_addr().unwrap());
        let answer = format!("HTTP/1.1 {status_and_headers}\r\nconnection: close\r\n\r\n{body}");
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 4_096]).await;
            let _ = stream.write_all(answer.as_bytes()).await;
        });
        let source = WebSource::builder().build(url.parse().unwrap()).unwrap();
        Arc::new(JwksClientSource::new(source)).load(LoadRequest::default()).await
    }

    #[tokio::test]
    async fn keys_of_each_type_come_through_with_kid_and_algorithm() {
        let document = keys(&[
            &format!(r#"{RSA},"kid":"r","alg":"RS256","use":"sig""#),
            &format!(r#"{EC},"kid":"e","alg":"ES256""#),
            &format!(r#"{OKP},"kid":"o""#),
        ]);
        let set = load(&document).await.unwrap().set;
        assert_eq!(set.len(), 3);
        for (kid, algorithm) in [("r", Algorithm::Rs256), ("e", Algorithm::Es256), ("o", Algorithm::Ed25519)] {
            assert_eq!(set.candidates(Some(kid), algorithm).count(), 1, "{kid}");
        }
        let direct = JwkSet::parse(document.as_bytes()).unwrap();
        assert!(set.iter().zip(direct.iter()).all(|(one, other)| one.thumbprint() == other.thumbprint()));
    }

    #[tokio::test]
    async fn the_use_of_an_rsa_key_is_kept() {
        let enc = format!(r#"{RSA},"kid":"enc","alg":"RS256","use":"enc""#);
        let sig = format!(r#"{RSA},"kid":"sig","alg":"RS256","use":"sig""#);
        assert_eq!(load(&keys(&[&enc, &sig])).await.unwrap().set.len(), 1);
        assert_eq!(load(&keys(&[&enc])).await.unwrap_err().kind(), KeyErrorKind::InvalidDocument);
    }

    #[tokio::test]
    async fn limit_there_is_no_size_cap() {
        let document = keys(&[&format!(r#"{EC},"kid":"e""#)]) + &" ".repeat(1_000_000);
        assert_eq!(fetch("200 OK", document).await.unwrap().set.len(), 1);
    }

    #[tokio::test]
    async fn limit_one_odd_key_fails_the_whole_set() {
        let good = format!(r#"{EC},"kid":"e""#);
        let odd = [
            ("unknown key type", r#""kty":"AKP","kid":"x","alg":"ML-DSA-44","pub":"AA""#.to_owned()),
            ("symmetric", r#""kty":"oct","kid":"x","k":"AA""#.to_owned()),
            ("no kid", OKP.to_owned()),
            ("unknown use", format!(r#"{RSA},"kid":"x","use":"tls""#)),
        ];
        for (name, odd) in odd {
            let document = keys(&[&good, &odd]);
            assert!(JwkSet::parse(document.as_bytes()).is_ok(), "{name}: alone, portcullis skips it");
            let error = fetch("200 OK", document).await.expect_err(name);
            assert_eq!(error.kind(), KeyErrorKind::InvalidDocument, "{name}");
        }
    }

    #[tokio::test]
    async fn limit_use_and_key_ops_of_ec_and_okp_keys_are_lost() {
        for key in [EC, OKP] {
            for purpose in [r#""use":"enc""#, r#""key_ops":["deriveKey"]"#] {
                let document = keys(&[&format!(r#"{key},"kid":"x",{purpose}"#)]);
                assert!(JwkSet::parse(document.as_bytes()).is_err(), "alone, portcullis refuses it: {document}");
                assert_eq!(load(&document).await.unwrap().set.len(), 1, "{document}");
            }
        }
    }

    #[tokio::test]
    async fn limit_the_issuer_that_a_key_names_is_lost_so_issuers_that_need_it_refuse_the_source() {
        let document = keys(&[&format!(r#"{RSA},"kid":"r","issuer":"https://login.example""#)]);
        let named = |set: &JwkSet| set.iter().filter_map(Jwk::issuer).count();
        assert_eq!(named(&JwkSet::parse(document.as_bytes()).unwrap()), 1);
        assert_eq!(named(&load(&document).await.unwrap().set), 0);

        let tenant = "11111111-aaaa-4bbb-8ccc-000000000001";
        let source = || Arc::new(JwksClientSource::new(Canned(serde_json::from_str(&document).unwrap())));
        for issuer in [Issuer::entra(tenant, "api"), Issuer::entra_multi_tenant("api", [tenant])] {
            let error = Verifier::builder(issuer.with_key_source(source())).build().unwrap_err();
            assert_eq!(error.field(), "issuer.key_source");
            assert!(error.to_string().contains("leave `with_key_source` out"), "{error}");
        }
        let elsewhere = Issuer::auth0("acme.eu.auth0.com", "api").with_key_source(source());
        assert!(Verifier::builder(elsewhere).build().is_ok());
    }

    #[tokio::test]
    async fn limit_the_lifetime_of_the_document_is_not_seen() {
        let document = keys(&[&format!(r#"{EC},"kid":"e""#)]);
        let loaded = fetch("200 OK\r\ncache-control: max-age=60", document).await.unwrap();
        assert_eq!(loaded.max_age, None);
    }

    #[tokio::test]
    async fn failures_are_told_apart_and_do_not_show_the_address() {
        let cases = [
            ("500", fetch("500 Oh", String::new()).await, KeyErrorKind::Unavailable),
            ("a page", fetch("200 OK", "<html>".to_owned()).await, KeyErrorKind::InvalidDocument),
            ("not HTTP", fetch("what", String::new()).await, KeyErrorKind::Unavailable),
        ];
        for (name, loaded, kind) in cases {
            let error = loaded.expect_err(name);
            assert_eq!(error.kind(), kind, "{name}: {error:?}");
            assert!(!format!("{error:?}").contains("s3cr3t"), "{name}: {error:?}");
        }
    }
}
