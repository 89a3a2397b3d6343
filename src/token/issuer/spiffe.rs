use super::{
    Issuer, Keys, Profile,
    profile::{Facts, Party},
};
use crate::{ConfigError, key::Algorithm, principal::PrincipalKind, token::TokenError};

impl Issuer {
    /// A [SPIFFE](https://github.com/spiffe/spiffe/blob/main/standards/JWT-SVID.md) trust domain, by its name (`prod.example`), whose
    /// workloads prove themselves with JWT-SVIDs: the issuer is `spiffe://{trust domain}`.
    ///
    /// RS, PS or ES; nothing else can be configured. `typ` is absent, `JWT` or `JOSE`, and no header parameter but `alg`, `kid` and
    /// `typ` may be there. `sub` is the SPIFFE ID of a workload in exactly this trust domain: `spiffe://`, the trust domain in lower
    /// case, and a path without empty, `.` or `..` segments, at most 2 048 bytes in all. Everybody is a workload, known by its SPIFFE ID.
    ///
    /// An SVID without `iss` belongs to the trust domain that its `sub` names. One with an `iss` belongs to the issuer of that name:
    /// `spiffe://{trust domain}`, or what [`add_alias`](Self::add_alias) adds; any other is an unknown issuer.
    ///
    /// The keys have no default place: take them from the trust bundle ([`with_bundle_url`](Self::with_bundle_url), or
    /// [`with_keys`](Self::with_keys) with [`JwkSet::parse_bundle`](crate::key::JwkSet::parse_bundle)), or from the plain key set that SPIRE's
    /// OIDC discovery provider publishes ([`with_jwks_url`](Self::with_jwks_url), `with_keys`). A bundle read as a key set, and the
    /// reverse, has no usable key.
    ///
    /// ```
    /// use portcullis::token::Issuer;
    ///
    /// let workloads = Issuer::spiffe("prod.example", "spiffe://prod.example/jobs")
    ///     .with_bundle_url("https://spire.prod.example/bundle");
    /// assert_eq!(workloads.url(), "spiffe://prod.example");
    /// ```
    pub fn spiffe(trust_domain: impl Into<String>, audience: impl Into<String>) -> Self {
        Self {
            keys: Keys::Given,
            ..Self::new(&SPIFFE, vec![format!("{SCHEME}{}", trust_domain.into())], vec![audience.into()])
        }
    }

    /// Takes the keys from this SPIFFE bundle endpoint ([`key::Remote::bundle`](crate::key::Remote::bundle)). Needs the feature
    /// `remote-jwks`.
    #[must_use]
    pub fn with_bundle_url(mut self, url: impl Into<String>) -> Self {
        self.keys = Keys::Bundle(url.into());
        self
    }
}

/// What is special of a trust domain.
fn check(issuer: &Issuer) -> Result<(), ConfigError> {
    let name = issuer.url().strip_prefix(SCHEME).unwrap_or_default();
    if !is_trust_domain(name) {
        let remedy = "give the bare name in lower case, such as `prod.example`: no scheme, no port, no path";
        return Err(ConfigError::invalid("issuer.trust_domain", name, remedy));
    }
    let mut algorithms = issuer.algorithms.iter().flatten();
    if let Some(odd) = algorithms.find(|algorithm| !SPIFFE.algorithms.contains(algorithm)) {
        let remedy = "JWT-SVIDs are signed with RS, PS or ES algorithms only";
        return Err(ConfigError::invalid("issuer.algorithms", odd.name(), remedy));
    }
    if matches!(issuer.keys, Keys::Given) {
        let remedy =
            "say where the keys are: `with_bundle_url` for a trust bundle, `with_jwks_url` for a plain key set";
        return Err(ConfigError::missing("issuer.keys", remedy));
    }
    Ok(())
}

fn party(facts: &Facts<'_>) -> Result<Party, TokenError> {
    let is_own = SpiffeId::parse(facts.subject).is_some_and(|id| id.issuer() == facts.issuer && !id.path.is_empty());
    if is_own { Ok(PrincipalKind::Workload.into()) } else { Err(TokenError::MalformedClaim("sub")) }
}

const SPIFFE: Profile = Profile {
    algorithms: &[
        Algorithm::Rs256,
        Algorithm::Rs384,
        Algorithm::Rs512,
        Algorithm::Ps256,
        Algorithm::Ps384,
        Algorithm::Ps512,
        Algorithm::Es256,
        Algorithm::Es384,
        Algorithm::Es512,
    ],
    types: &["jwt", "jose"],
    type_may_be_absent: true,
    is_svid: true,
    has_aliases: true,
    party,
    check,
    ..Profile::BASE
};

/// A [SPIFFE ID](https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE-ID.md): `spiffe://trust-domain/path`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::token) struct SpiffeId<'a> {
    text: &'a str,
    trust_domain: &'a str,
    /// Empty for the trust domain itself.
    path: &'a str,
}

impl<'a> SpiffeId<'a> {
    /// `None` for anything outside the grammar. Nothing is normalised, so that two texts are never one identity.
    pub(in crate::token) fn parse(text: &'a str) -> Option<Self> {
        if text.len() > MAX_ID {
            return None;
        }
        let rest = text.strip_prefix(SCHEME)?;
        let (trust_domain, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        // The path begins with its slash, so what stands before that is no segment.
        let is_sound = is_trust_domain(trust_domain) && path.split('/').skip(1).all(is_segment);
        is_sound.then_some(Self { text, trust_domain, path })
    }

    /// `spiffe://trust-domain`.
    pub(in crate::token) fn issuer(&self) -> &'a str {
        self.text.get(..SCHEME.len() + self.trust_domain.len()).unwrap_or_default()
    }
}

/// SPIFFE-ID §2.1. No colon and no `@` can pass, hence no port and no user; a percent sign neither.
fn is_trust_domain(name: &str) -> bool {
    let is_legal = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_');
    (1..=MAX_TRUST_DOMAIN).contains(&name.len()) && name.bytes().all(is_legal)
}

/// SPIFFE-ID §2.2.
fn is_segment(segment: &str) -> bool {
    let is_legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    !matches!(segment, "" | "." | "..") && segment.bytes().all(is_legal)
}

const SCHEME: &str = "spiffe://";
/// SPIFFE-ID §2.3, in bytes.
const MAX_ID: usize = 2048;
const MAX_TRUST_DOMAIN: usize = 255;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        key::{Algorithm, JwkSet},
        principal::PrincipalKind,
        token::{
            AccessToken, TokenError, VerifiedToken, Verifier,
            test_tokens::{NOW, now, public_key, public_keys, seal, with},
        },
    };

    const AUDIENCE: &str = "spiffe://prod.example/jobs";

    fn prod() -> Issuer {
        Issuer::spiffe("prod.example", AUDIENCE)
    }

    fn keys_of(algorithm: Algorithm) -> JwkSet {
        [public_key(algorithm)].into_iter().collect()
    }

    fn verifier() -> Verifier {
        Verifier::builder(prod().with_keys(public_keys())).build().unwrap()
    }

    fn claims() -> Value {
        json!({"sub": "spiffe://prod.example/ns/web", "aud": [AUDIENCE], "exp": NOW + 300})
    }

    fn svid(algorithm: Algorithm, header: Value, claims: Value) -> AccessToken {
        let header = with(&json!({"alg": algorithm.name(), "kid": algorithm.name(), "typ": "JWT"}), header);
        let claims = with(&self::claims(), claims);
        seal(algorithm, header.to_string(), claims.to_string())
    }

    fn verified(verifier: &Verifier, svid: &AccessToken) -> Result<VerifiedToken, TokenError> {
        verifier.verify_now(svid, now()).unwrap()
    }

    fn with_claims(changes: Value) -> Option<TokenError> {
        verified(&verifier(), &svid(Algorithm::Es256, json!({}), changes)).err()
    }

    fn with_header(changes: Value) -> Option<TokenError> {
        verified(&verifier(), &svid(Algorithm::Es256, changes, json!({}))).err()
    }

    #[test]
    fn an_svid_makes_a_workload_that_is_known_by_its_spiffe_id() {
        for algorithm in [Algorithm::Rs256, Algorithm::Ps256, Algorithm::Es256, Algorithm::Es384] {
            let verified = verified(&verifier(), &svid(algorithm, json!({}), json!({}))).unwrap();
            let principal = verified.principal();
            assert_eq!(principal.kind(), PrincipalKind::Workload, "{algorithm}");
            assert_eq!(principal.user_id().unwrap().as_str(), "spiffe://prod.example/ns/web");
            assert_eq!(principal.issuer().unwrap().as_str(), "spiffe://prod.example");
            assert_eq!(verified.issuer().as_str(), "spiffe://prod.example");
            assert_eq!((principal.client(), principal.tenant()), (None, None));
        }
    }

    #[test]
    fn nothing_is_signed_with_eddsa_or_hmac() {
        assert_eq!(
            verified(&verifier(), &svid(Algorithm::Ed25519, json!({}), json!({}))).err(),
            Some(TokenError::Algorithm)
        );
        for alg in ["EdDSA", "HS256", "HS384", "HS512", "none"] {
            assert_eq!(with_header(json!({"alg": alg})), Some(TokenError::Algorithm), "{alg}");
        }
        let error =
            Verifier::builder(prod().with_keys(public_keys()).with_algorithms(Algorithm::ALL)).build().unwrap_err();
        assert_eq!(error.field(), "issuer.algorithms");
        let fewer = prod().with_keys(public_keys()).with_algorithms([Algorithm::Es384]);
        let fewer = Verifier::builder(fewer).build().unwrap();
        assert_eq!(verified(&fewer, &svid(Algorithm::Es256, json!({}), json!({}))).err(), Some(TokenError::Algorithm));
    }

    #[test]
    fn the_header_has_alg_kid_and_typ_and_nothing_else() {
        for (header, refused) in [
            (json!({}), None),
            (json!({"typ": null}), None),
            (json!({"typ": "JOSE"}), None),
            (json!({"kid": null}), None),
            (json!({"typ": "at+jwt"}), Some(TokenError::Type)),
            (json!({"typ": "wit+jwt"}), Some(TokenError::Type)),
            (json!({"typ": ""}), Some(TokenError::Type)),
        ] {
            assert_eq!(with_header(header.clone()), refused, "{header}");
        }
        for name in ["jku", "jwk", "x5u", "x5c", "x5t", "cty", "iss", "foo", ""] {
            let refused = with_header(json!({name: "x"}));
            assert!(matches!(refused, Some(TokenError::HeaderParameter(_))), "{name}: {refused:?}");
        }
    }

    #[test]
    fn audience_and_expiry_are_required_and_membership_is_exact() {
        let missing = |claim| Some(TokenError::MissingClaim(claim));
        for (name, changes, refused) in [
            ("one of several", json!({"aud": ["other", AUDIENCE]}), None),
            ("a string", json!({"aud": AUDIENCE}), None),
            ("another", json!({"aud": ["spiffe://prod.example/other"]}), Some(TokenError::Audience)),
            ("below ours", json!({"aud": ["spiffe://prod.example/jobs/1"]}), Some(TokenError::Audience)),
            ("nobody", json!({"aud": []}), Some(TokenError::Audience)),
            ("other case", json!({"aud": [AUDIENCE.to_uppercase()]}), Some(TokenError::Audience)),
            ("no audience", json!({"aud": null}), missing("aud")),
            ("no expiry", json!({"exp": null}), missing("exp")),
            ("expired", json!({"exp": NOW - 30}), Some(TokenError::Expired)),
            ("no token id", json!({"jti": null}), None),
            ("bound, as a WIT-SVID is", json!({"cnf": {"jwk": {}}}), Some(TokenError::Bound)),
        ] {
            assert_eq!(with_claims(changes), refused, "{name}");
        }
    }

    #[test]
    fn without_iss_the_trust_domain_of_the_subject_selects_the_issuer() {
        for subject in [
            json!(null),
            json!(7),
            json!(""),
            json!("alice"),
            json!("https://prod.example/ns/web"),
            json!("spiffe://other.example/ns/web"),
            json!("spiffe://prod.example.evil/ns/web"),
            json!("spiffe://sub.prod.example/ns/web"),
            json!("spiffe://PROD.example/ns/web"),
            json!("spiffe://prod.example:443/ns/web"),
            json!("spiffe://prod.example@evil/ns/web"),
            json!("spiffe://prod.example/ns/../web"),
            json!("spiffe://prod.example//ns"),
            json!("spiffe://prod.example/"),
            json!("spiffe://prod.example/ns?x"),
            json!("spiffe://prod.example/ns#x"),
            json!(["spiffe://prod.example/ns/web"]),
        ] {
            assert_eq!(with_claims(json!({"sub": subject})), Some(TokenError::UnknownIssuer), "{subject}");
        }
        // The trust domain itself is no workload.
        assert_eq!(with_claims(json!({"sub": "spiffe://prod.example"})), Some(TokenError::MalformedClaim("sub")));
        for issuer in [json!(""), json!([]), json!(false), json!(["spiffe://prod.example"])] {
            assert_eq!(with_claims(json!({"iss": issuer})), Some(TokenError::UnknownIssuer), "{issuer}");
        }
        let null =
            r#"{"iss":null,"sub":"spiffe://prod.example/ns/web","aud":"spiffe://prod.example/jobs","exp":1800000300}"#;
        let null = seal(Algorithm::Es256, r#"{"alg":"ES256"}"#, null);
        assert_eq!(verified(&verifier(), &null).err(), Some(TokenError::UnknownIssuer));
    }

    #[test]
    fn an_iss_must_be_a_name_of_the_trust_domain_and_the_subject_inside_it() {
        let spire = "https://spire.prod.example";
        let named = Verifier::builder(prod().with_keys(public_keys()).add_alias(spire)).build().unwrap();
        let refused = |changes| verified(&named, &svid(Algorithm::Es256, json!({}), changes)).err();
        assert_eq!(refused(json!({})), None);
        assert_eq!(refused(json!({"iss": "spiffe://prod.example"})), None);
        assert_eq!(refused(json!({"iss": "https://spire.prod.example/"})), Some(TokenError::UnknownIssuer));
        assert_eq!(refused(json!({"iss": "prod.example"})), Some(TokenError::UnknownIssuer));
        assert_eq!(with_claims(json!({"iss": spire})), Some(TokenError::UnknownIssuer), "not configured");

        let svid_with_name = svid(Algorithm::Es256, json!({}), json!({"iss": spire}));
        let verified = verified(&named, &svid_with_name).unwrap();
        assert_eq!(verified.principal().issuer().unwrap().as_str(), "spiffe://prod.example");
        for subject in
            ["spiffe://other.example/ns/web", "spiffe://prod.example/a/./b", "spiffe://prod.example", "alice"]
        {
            let outside = refused(json!({"iss": spire, "sub": subject}));
            assert_eq!(outside, Some(TokenError::MalformedClaim("sub")), "{subject}");
        }
    }

    #[test]
    fn an_svid_of_one_trust_domain_never_verifies_under_the_keys_of_another() {
        let both = Verifier::builder(prod().with_keys(keys_of(Algorithm::Es256)))
            .add_issuer(Issuer::spiffe("test.example", AUDIENCE).with_keys(keys_of(Algorithm::Es384)))
            .add_issuer(Issuer::oauth("https://login.example", "https://api.example").with_keys(public_keys()))
            .build()
            .unwrap();
        let of = |algorithm, domain: &str| {
            svid(algorithm, json!({"kid": null}), json!({"sub": format!("spiffe://{domain}/web")}))
        };
        assert_eq!(verified(&both, &of(Algorithm::Es256, "prod.example")).err(), None);
        assert_eq!(verified(&both, &of(Algorithm::Es384, "test.example")).err(), None);
        for crossed in [of(Algorithm::Es384, "prod.example"), of(Algorithm::Es256, "test.example")] {
            assert_eq!(verified(&both, &crossed).err(), Some(TokenError::UnknownKey));
        }
        // An issuer of another kind is never found by a subject.
        let of_nobody = svid(Algorithm::Es256, json!({}), json!({"sub": "https://login.example"}));
        assert_eq!(verified(&both, &of_nobody).err(), Some(TokenError::UnknownIssuer));
    }

    #[test]
    fn a_bundle_gives_its_jwt_svid_keys_and_no_other() {
        // One key each for X.509-SVIDs, WIT-SVIDs and JWT-SVIDs, all of them the same numbers.
        let point = crate::token::test_tokens::public_bytes(Algorithm::Es256);
        let text = crate::token::test_tokens::base64url;
        let key = |kid: &str, usage: &str| json!({"kty": "EC", "crv": "P-256", "kid": kid, "use": usage, "x": text(&point[1..33]), "y": text(&point[33..])});
        let bundle = json!({
            "keys": [key("x", "x509-svid"), key("w", "wit-svid"), key("s", "sig"), key("j", "jwt-svid")],
            "spiffe_sequence": 3, "spiffe_refresh_hint": 300,
        });
        let keys = JwkSet::parse_bundle(bundle.to_string().as_bytes()).unwrap();
        let verifier = Verifier::builder(prod().with_keys(keys)).build().unwrap();
        for (kid, refused) in [
            ("j", None),
            ("x", Some(TokenError::UnknownKey)),
            ("w", Some(TokenError::UnknownKey)),
            ("s", Some(TokenError::UnknownKey)),
        ] {
            let svid = svid(Algorithm::Es256, json!({"kid": kid}), json!({}));
            assert_eq!(verified(&verifier, &svid).err(), refused, "{kid}");
        }
    }

    #[test]
    fn a_wrong_configuration_names_its_field() {
        let domain = |name: &str| Issuer::spiffe(name, AUDIENCE).with_keys(public_keys());
        let table = [
            ("no keys", prod(), "issuer.keys"),
            ("a URL as bundle address", prod().with_bundle_url("http://spire.example/"), "key.remote.url"),
            ("with scheme", domain("spiffe://prod.example"), "issuer.trust_domain"),
            ("empty", domain(""), "issuer.trust_domain"),
            ("upper case", domain("Prod.example"), "issuer.trust_domain"),
            ("port", domain("prod.example:80"), "issuer.trust_domain"),
            ("path", domain("prod.example/"), "issuer.trust_domain"),
            ("user", domain("a@prod.example"), "issuer.trust_domain"),
            ("too long", domain(&"a".repeat(256)), "issuer.trust_domain"),
            ("blank name", domain("prod.example").add_alias(" "), "issuer.url"),
            ("other domain", domain("prod.example").add_alias("spiffe://b.example"), "issuer.url"),
            ("blank audience", domain("prod.example").add_audience(""), "issuer.audience"),
        ];
        for (name, issuer, field) in table {
            assert_eq!(Verifier::builder(issuer).build().unwrap_err().field(), field, "{name}");
        }
        let spire = "https://spire.example";
        let named_twice = domain("prod.example").add_alias(spire);
        let twice = Verifier::builder(named_twice).add_issuer(domain("b.example").add_alias(spire));
        assert_eq!(twice.build().unwrap_err().field(), "issuer.url", "one name, two trust domains");
        assert!(Verifier::builder(domain("prod_1-a.example")).build().is_ok());
    }

    #[test]
    fn a_spiffe_id_has_exactly_one_form() {
        let longest = format!("spiffe://a/{}", "p".repeat(MAX_ID - 11));
        for (text, trust_domain, path) in [
            ("spiffe://prod.example", "prod.example", ""),
            ("spiffe://prod.example/ns/web", "prod.example", "/ns/web"),
            ("spiffe://a/B.c-D_9", "a", "/B.c-D_9"),
            ("spiffe://a_b-c.9/...", "a_b-c.9", "/..."),
            ("spiffe://1.2.3.4/x", "1.2.3.4", "/x"),
            (&longest, "a", &longest[10..]),
        ] {
            let id = SpiffeId::parse(text).unwrap();
            assert_eq!((id.trust_domain, id.path), (trust_domain, path), "{text}");
            assert_eq!(id.issuer(), format!("spiffe://{trust_domain}"));
        }
        for odd in [
            "",
            "spiffe",
            "spiffe:",
            "spiffe:/a/b",
            "spiffe://",
            "spiffe:///a",
            "SPIFFE://a/b",
            "Spiffe://a/b",
            " spiffe://a/b",
            "spiffe://a/b ",
            "https://a/b",
            "//a/b",
            "spiffe://A/b",
            "spiffe://a:80/b",
            "spiffe://a:/b",
            "spiffe://u@a/b",
            "spiffe://u:p@a/b",
            "spiffe://[::1]/b",
            "spiffe://a%2eb/c",
            "spiffe://\u{e4}/b",
            "spiffe://a?x",
            "spiffe://a#x",
            "spiffe://a/",
            "spiffe://a//",
            "spiffe://a//b",
            "spiffe://a/b/",
            "spiffe://a/b//c",
            "spiffe://a/.",
            "spiffe://a/..",
            "spiffe://a/./b",
            "spiffe://a/b/../c",
            "spiffe://a/b/..",
            "spiffe://a/b?c",
            "spiffe://a/b#c",
            "spiffe://a/%2e%2e/b",
            "spiffe://a/b%2Fc",
            "spiffe://a/b\\c",
            "spiffe://a/b:c",
            "spiffe://a/b\0",
            "spiffe://a/b\n",
            "spiffe://a/\u{fc}",
            "spiffe://a/b c",
            &format!("{longest}p"),
            &format!("spiffe://{}/b", "a".repeat(256)),
        ] {
            assert_eq!(SpiffeId::parse(odd), None, "{odd:?}");
        }
    }

    proptest! {
        #[test]
        fn every_id_of_the_grammar_is_read_as_it_was_written(domain in "[a-z0-9._-]{1,60}", segments in prop::collection::vec("[A-Za-z0-9_-][A-Za-z0-9._-]{0,20}", 0..6)) {
            let path: String = segments.iter().map(|segment| format!("/{segment}")).collect();
            let text = format!("spiffe://{domain}{path}");
            let id = SpiffeId::parse(&text).unwrap();
            prop_assert_eq!((id.trust_domain, id.path), (domain.as_str(), path.as_str()));
            prop_assert_eq!(id.issuer(), format!("spiffe://{domain}"));
        }

        #[test]
        fn what_is_read_has_the_grammar_whatever_came(text in "(spiffe://)?[a-zA-Z0-9./_:@?#% \\\\-]{0,40}") {
            if let Some(id) = SpiffeId::parse(&text) {
                prop_assert_eq!(format!("spiffe://{}{}", id.trust_domain, id.path), text.clone());
                prop_assert!(!text[SCHEME.len()..].contains([':', '@', '?', '#', '%', ' ', '\\']));
                prop_assert!(!id.trust_domain.is_empty() && !id.trust_domain.contains(char::is_uppercase));
                prop_assert!(id.path.split('/').skip(1).all(|segment| !matches!(segment, "" | "." | "..")));
            }
        }
    }
}
