use crate::key::KeyErrorKind;

/// Why a token was refused. For operators: a caller learns none of it.
///
/// Checks run in the order of the variants, so each variant says by its place what had been verified before. One has two places:
/// [`Malformed`](Self::Malformed) is also what claims are that were signed and can be read in more than one way.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// Longer than the cap; not looked at.
    #[error("the token is longer than {limit} bytes")]
    TooLong {
        /// The cap in bytes.
        limit: usize,
    },
    /// Not three base64url segments with JSON objects in the first two: nothing was verified. Or the claims repeat a member, nest too deep or
    /// hold too much, which is found out after the signature.
    #[error("not a compact JWS: {0}")]
    Malformed(&'static str),
    /// The header names an extension that must be understood and is not (`crit`), or one that is never accepted (`b64`, `zip`, `enc`);
    /// in a JWT-SVID any but `alg`, `kid` and `typ`.
    #[error("the header has `{0}`, which is not accepted")]
    HeaderParameter(&'static str),
    /// The payload has no `iss`, or none that is configured or that the resolver knows. Nothing was verified.
    #[error("`iss` is none of the configured issuers")]
    UnknownIssuer,
    /// The header's `typ` is not that of an access token of this issuer. Nothing was verified.
    #[error("`typ` is not that of an access token of this issuer")]
    Type,
    /// The header's `alg` is not allowed for this issuer. Nothing was verified.
    #[error("`alg` is not allowed for this issuer")]
    Algorithm,
    /// The issuer's keys cannot be had, or the issuer cannot be looked up now: an outage on our side, not a bad token.
    #[error("the keys of the issuer are not available")]
    KeysUnavailable(KeyErrorKind),
    /// No key of the issuer has the header's `kid` and algorithm.
    #[error("no key of the issuer has this `kid` and algorithm")]
    UnknownKey,
    /// The signature does not verify under the issuer's key.
    #[error("the signature does not verify")]
    Signature,
    /// A claim is missing. The signature was verified.
    #[error("`{0}` is missing")]
    MissingClaim(&'static str),
    /// A claim has the wrong JSON type, is empty, contradicts another one, or has a look-alike that differs by case. The signature
    /// was verified.
    #[error("`{0}` is not well formed")]
    MalformedClaim(&'static str),
    /// `aud` does not name us. The signature was verified.
    #[error("`aud` does not name this service")]
    Audience,
    /// The client is none of those that were listed for this issuer. Signature, issuer and audience were verified.
    #[error("the client is not on the list of this issuer's clients")]
    Client,
    /// The tenant is none of those that are accepted of this issuer. Signature, issuer and audience were verified.
    #[error("the tenant is not one that is accepted")]
    Tenant,
    /// The token is of another kind than an access token (ID, logout, DPoP, event, introspection, transaction). The signature was verified.
    #[error("`{0}` shows another kind of token than an access token")]
    WrongKind(&'static str),
    /// `exp` has passed. Signature, issuer and audience were verified.
    #[error("`exp` has passed")]
    Expired,
    /// `nbf` lies in the future. Signature, issuer and audience were verified.
    #[error("`nbf` lies in the future")]
    NotYetValid,
    /// `iat` lies in the future. Signature, issuer and audience were verified.
    #[error("`iat` lies in the future")]
    IssuedInFuture,
    /// `iat` lies longer ago than the age cap. Signature, issuer and audience were verified.
    #[error("`iat` lies longer ago than the age cap")]
    TooOld,
    /// The token lives longer than the cap. Signature, issuer and audience were verified.
    #[error("the token lives longer than the cap")]
    Lifetime,
    /// The token is bound to a key (`cnf`) and came as a plain bearer token ([RFC 9449 §7.2](https://www.rfc-editor.org/rfc/rfc9449#section-7.2)).
    #[error("`cnf` binds the token to a key whose possession was not proven")]
    Bound,
    /// The token was revoked ([`RevocationList`](crate::revocation::RevocationList)). Everything else about it is in order.
    #[error("the token was revoked")]
    Revoked,
}

impl TokenError {
    /// The stable code, as audit records show it.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::TooLong { .. } => "token_too_long",
            Self::Malformed(_) => "token_malformed",
            Self::HeaderParameter(_) => "token_header_parameter",
            Self::UnknownIssuer => "token_issuer",
            Self::Type => "token_type",
            Self::Algorithm => "token_algorithm",
            Self::KeysUnavailable(_) => "keys_unavailable",
            Self::UnknownKey => "token_unknown_key",
            Self::Signature => "token_signature",
            Self::MissingClaim(_) => "token_claim_missing",
            Self::MalformedClaim(_) => "token_claim_malformed",
            Self::Audience => "token_audience",
            Self::Client => "token_client",
            Self::Tenant => "token_tenant",
            Self::WrongKind(_) => "token_wrong_kind",
            Self::Expired => "token_expired",
            Self::NotYetValid => "token_not_yet_valid",
            Self::IssuedInFuture => "token_issued_in_future",
            Self::TooOld => "token_too_old",
            Self::Lifetime => "token_lifetime",
            Self::Bound => "token_bound",
            Self::Revoked => "token_revoked",
        }
    }

    /// True when the fault lies with us (keys cannot be had), not with the token.
    #[must_use]
    pub const fn is_unavailable(&self) -> bool {
        matches!(self, Self::KeysUnavailable(_))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_code_is_its_own_and_only_an_outage_is_ours() {
        let errors = [
            TokenError::TooLong { limit: 1 },
            TokenError::Malformed("x"),
            TokenError::HeaderParameter("x"),
            TokenError::UnknownIssuer,
            TokenError::Type,
            TokenError::Algorithm,
            TokenError::KeysUnavailable(KeyErrorKind::Timeout),
            TokenError::UnknownKey,
            TokenError::Signature,
            TokenError::MissingClaim("x"),
            TokenError::MalformedClaim("x"),
            TokenError::Audience,
            TokenError::Client,
            TokenError::Tenant,
            TokenError::WrongKind("x"),
            TokenError::Expired,
            TokenError::NotYetValid,
            TokenError::IssuedInFuture,
            TokenError::TooOld,
            TokenError::Lifetime,
            TokenError::Bound,
            TokenError::Revoked,
        ];
        let codes: BTreeSet<_> = errors.iter().map(TokenError::code).collect();
        assert_eq!(codes.len(), errors.len());
        let ours: Vec<_> = errors.iter().filter(|error| error.is_unavailable()).map(TokenError::code).collect();
        assert_eq!(ours, ["keys_unavailable"]);
    }
}
