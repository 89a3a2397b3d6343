use super::Algorithm;

/// Which keys are asked for: those that may have made the signature of a token.
#[derive(Clone, Copy)]
pub(crate) struct Wanted<'a> {
    kid: Option<&'a str>,
    algorithm: Algorithm,
    issuer: Option<(&'a str, SignsFor)>,
}

/// Whether a key that names the one issuer signs for the other, which a token names.
pub(crate) type SignsFor = fn(key: &str, token: &str) -> bool;

impl<'a> Wanted<'a> {
    /// Keys for this algorithm: with this `kid` or, without one, all of them.
    pub(crate) const fn new(kid: Option<&'a str>, algorithm: Algorithm) -> Self {
        Self { kid, algorithm, issuer: None }
    }

    /// Of these the keys that name no issuer, and those that by this rule sign for the one that the token names.
    pub(crate) const fn signing_for(self, issuer: &'a str, rule: SignsFor) -> Self {
        Self { issuer: Some((issuer, rule)), ..self }
    }

    pub(crate) const fn kid(self) -> Option<&'a str> {
        self.kid
    }

    /// Whether a key that says this of itself is one of them.
    pub(super) fn admits(self, kid: Option<&str>, issuer: Option<&str>, algorithms: &[Algorithm]) -> bool {
        // The names of issuers last: they are read of the few keys whose `kid` fits.
        self.kid.is_none_or(|wanted| kid == Some(wanted))
            && algorithms.contains(&self.algorithm)
            && self.issuer.zip(issuer).is_none_or(|((token, signs_for), key)| signs_for(key, token))
    }
}
