use std::{fmt, sync::Arc};

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::{Claims, ClaimsError};
use crate::{
    principal::{Audience, IssuerId, Principal, SessionId, Thumbprint, TokenId},
    time::UnixTime,
};

/// A token that passed every check: form, issuer, algorithm, key, signature, and each claim.
///
/// Comes only out of [`Verifier::verify`](super::Verifier::verify):
///
/// ```compile_fail,E0423
/// use portcullis::token::VerifiedToken;
/// let forged = VerifiedToken(Default::default());
/// ```
///
/// Cheap to clone. Its `Debug` shows no claim but issuer, id and times; the compact token is not kept.
#[derive(Clone)]
pub struct VerifiedToken(Arc<Parts>);

/// What verification established; filled in by the verifier alone.
pub(super) struct Parts {
    pub(super) principal: Principal,
    pub(super) issuer: IssuerId,
    pub(super) audience: Audience,
    pub(super) token_id: Option<TokenId>,
    pub(super) session_id: Option<SessionId>,
    pub(super) expires_at: UnixTime,
    pub(super) not_before: Option<UnixTime>,
    pub(super) issued_at: Option<UnixTime>,
    pub(super) thumbprint: Thumbprint,
    pub(super) key_id: Option<Arc<str>>,
    pub(super) key_thumbprint: Option<Thumbprint>,
    pub(super) claims: Map<String, Value>,
}

impl VerifiedToken {
    pub(super) fn from_verification(parts: Parts) -> Self {
        Self(Arc::new(parts))
    }

    /// The party that the token authenticates.
    #[must_use]
    pub fn principal(&self) -> &Principal {
        &self.0.principal
    }

    /// `iss`: one of the configured issuers.
    #[must_use]
    pub fn issuer(&self) -> &IssuerId {
        &self.0.issuer
    }

    /// The member of `aud` that names us; the client where clients stand in for the audience
    /// ([`Issuer::cognito`](super::Issuer::cognito)).
    #[must_use]
    pub fn audience(&self) -> &Audience {
        &self.0.audience
    }

    /// The token's own id (`jti`, `uti` at Entra), when it has one.
    #[must_use]
    pub fn token_id(&self) -> Option<&TokenId> {
        self.0.token_id.as_ref()
    }

    /// The session that the token was issued in (`sid`,
    /// [OpenID Connect Back-Channel Logout §2.1](https://openid.net/specs/openid-connect-backchannel-1_0.html)), when it names one.
    #[must_use]
    pub fn session_id(&self) -> Option<&SessionId> {
        self.0.session_id.as_ref()
    }

    /// `exp`.
    #[must_use]
    pub fn expires_at(&self) -> UnixTime {
        self.0.expires_at
    }

    /// `nbf`, when the token has one.
    #[must_use]
    pub fn not_before(&self) -> Option<UnixTime> {
        self.0.not_before
    }

    /// `iat`, when the token has one.
    #[must_use]
    pub fn issued_at(&self) -> Option<UnixTime> {
        self.0.issued_at
    }

    /// base64url(SHA-256(JWS signing input)): names the token without enabling its use. Unlike a hash of the whole text it
    /// cannot be varied by re-encoding the signature.
    #[must_use]
    pub fn thumbprint(&self) -> &Thumbprint {
        &self.0.thumbprint
    }

    /// `kid` of the key that verified the signature, when that key has one.
    #[must_use]
    pub fn key_id(&self) -> Option<&str> {
        self.0.key_id.as_deref()
    }

    /// RFC 7638 thumbprint of the key that verified the signature. `None` under a shared secret: a published hash of it would let anyone
    /// guess it at leisure.
    #[must_use]
    pub fn key_thumbprint(&self) -> Option<&Thumbprint> {
        self.0.key_thumbprint.as_ref()
    }

    /// Every claim, as the issuer wrote it. The registered ones have been checked.
    #[must_use]
    pub fn claims(&self) -> &Map<String, Value> {
        &self.0.claims
    }

    /// The claims as a type of your own. Nothing is converted on the way: a `"true"` is no `bool` and a `null` no text.
    ///
    /// # Errors
    ///
    /// [`ClaimsError`] when the claims have another shape.
    pub fn claims_as<T: DeserializeOwned>(&self) -> Result<Claims<T>, ClaimsError> {
        T::deserialize(self.claims()).map(Claims).map_err(|_| ClaimsError)
    }
}

impl fmt::Debug for VerifiedToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerifiedToken")
            .field("issuer", &self.0.issuer)
            .field("token_id", &self.0.token_id)
            .field("expires_at", &self.0.expires_at)
            .field("thumbprint", &self.0.thumbprint)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
impl VerifiedToken {
    /// A token that nobody verified, for the tests of later stages.
    pub(crate) fn for_tests(principal: Principal, token_id: &str) -> Self {
        Self::from_verification(Parts {
            principal,
            issuer: IssuerId::new("https://issuer.example/"),
            audience: Audience::new("https://api.example"),
            token_id: Some(TokenId::new(token_id)),
            session_id: None,
            expires_at: UnixTime::from_secs(1_800_000_000),
            not_before: None,
            issued_at: None,
            thumbprint: Thumbprint::new("token-thumbprint"),
            key_id: Some("kid-1".into()),
            key_thumbprint: Some(Thumbprint::new("key-thumbprint")),
            claims: Map::new(),
        })
    }
}
