use std::{borrow::Cow, sync::Arc};

use super::{
    AccessToken, Claimed, TokenError, VerifiedToken,
    claims::CLAIMED,
    directory::{Answer, Directory, Tenant},
    issuer::{Expectations, SpiffeId},
    jws::Jws,
    trusted::Trusted,
    verified::Parts,
};
use crate::{
    json::Found,
    key::{Algorithm, Jwk, JwkSet, SharedSecret, Wanted},
    principal::IssuerId,
    time::UnixTime,
};

/// A token in good form. No word of it is verified.
pub(super) struct Unverified<'a> {
    pub(super) jws: Jws<'a>,
    /// Nothing else is kept of claims that nobody has signed: they are read whole when somebody has.
    pub(super) claims: [Option<Found<'a>>; CLAIMED.len()],
}

impl<'a> Unverified<'a> {
    /// What comes out borrows the token and the buffer that it is decoded into.
    pub(super) fn read(token: &'a AccessToken, max_size: usize, buffer: &'a mut Vec<u8>) -> Result<Self, TokenError> {
        let jws = Jws::parse(token.as_bytes(), max_size, buffer)?;
        let claims = jws.claims_named(CLAIMED)?;
        Ok(Self { jws, claims })
    }

    pub(super) fn claimed(&self) -> Claimed {
        Claimed::of_read(&self.jws, &self.claims)
    }
}

/// The issuer that a token claims.
pub(super) struct NamedIssuer<'a> {
    /// `iss`, or, without one, the trust domain of a SPIFFE ID in `sub`.
    pub(super) name: Cow<'a, str>,
    is_trust_domain: bool,
}

impl<'a> NamedIssuer<'a> {
    pub(super) fn of(unverified: &'a Unverified<'_>) -> Result<Self, TokenError> {
        match &unverified.claims {
            [Some(Found::Text(name)), ..] => Ok(Self { name: name.as_ref().into(), is_trust_domain: false }),
            [None, Some(Found::Text(subject)), ..] => match SpiffeId::parse(subject) {
                Some(id) => Ok(Self { name: id.issuer().to_owned().into(), is_trust_domain: true }),
                None => Err(TokenError::UnknownIssuer),
            },
            _ => Err(TokenError::UnknownIssuer),
        }
    }
}

pub(super) enum Examined<'a> {
    Candidate(Candidate<'a>),
    Unresolved(Unresolved<'a>),
}

/// A token in good form whose issuer has to be looked up.
pub(super) struct Unresolved<'a> {
    pub(super) jws: &'a Jws<'a>,
    pub(super) named: NamedIssuer<'a>,
    pub(super) directory: &'a Arc<Directory>,
}

impl<'a> Unresolved<'a> {
    pub(super) async fn resolve(self) -> Result<Candidate<'a>, TokenError> {
        let answer = self.directory.resolve(self.named.name.as_ref().into()).await;
        Candidate::of_tenant(self.jws, &self.named, self.directory, answer)
    }
}

/// A token in good form that names one of our issuers. Its signature is not verified yet.
pub(super) struct Candidate<'a> {
    pub(super) jws: &'a Jws<'a>,
    /// The one of its names that the token gives.
    id: IssuerId,
    pub(super) issuer: Arc<Trusted>,
    /// Who is to be told that the issuer is in use.
    tenant: Option<(&'a Directory, Arc<Tenant>)>,
}

impl<'a> Candidate<'a> {
    pub(super) fn of_tenant(
        jws: &'a Jws<'a>,
        named: &NamedIssuer<'_>,
        directory: &'a Directory,
        answer: Answer,
    ) -> Result<Self, TokenError> {
        let tenant = answer?;
        let (id, issuer) = (tenant.id.clone(), Arc::clone(&tenant.trusted));
        Self::new(jws, named, id, issuer, Some((directory, tenant)))
    }

    pub(super) fn new(
        jws: &'a Jws<'a>,
        named: &NamedIssuer<'_>,
        id: IssuerId,
        issuer: Arc<Trusted>,
        tenant: Option<(&'a Directory, Arc<Tenant>)>,
    ) -> Result<Self, TokenError> {
        let Expectations { profile, ids, .. } = &issuer.expectations;
        if named.is_trust_domain && !profile.is_svid {
            return Err(TokenError::UnknownIssuer);
        }
        if !profile.accepts_type(jws.header.typ.as_deref()) {
            return Err(TokenError::Type);
        }
        // JWT-SVID §2: other header parameters are not for SVIDs.
        if profile.is_svid && jws.header.has_others {
            return Err(TokenError::HeaderParameter("more than alg, kid, typ"));
        }
        issuer.proof(jws)?;
        // A trust domain is one party, whatever its SVIDs have in `iss`.
        let id = ids.first().filter(|_| profile.is_svid).cloned().unwrap_or(id);
        Ok(Self { jws, id, issuer, tenant })
    }

    /// The keys that may have signed it.
    pub(super) fn wanted(&self, algorithm: Algorithm) -> Wanted<'_> {
        self.issuer.expectations.wanted(&self.id, self.jws.header.kid.as_deref(), algorithm)
    }

    /// The signature before any claim: of a forged token it matters not whether it has expired.
    pub(super) fn verify(
        self,
        keys: &JwkSet,
        algorithm: Algorithm,
        now: UnixTime,
    ) -> Result<VerifiedToken, TokenError> {
        let most = if self.jws.segments.signed_len() > LARGE { MOST_KEYS_OF_LARGE } else { usize::MAX };
        let key = self.jws.signing_key(algorithm, keys.wanted(self.wanted(algorithm)).take(most))?.clone();
        self.accept(Some(&key), now)
    }

    pub(super) fn verify_mac(self, secret: &SharedSecret, now: UnixTime) -> Result<VerifiedToken, TokenError> {
        if !self.jws.is_made_with(secret) {
            return Err(TokenError::Signature);
        }
        self.accept(None, now)
    }

    /// After the signature: `key` made it, or the secret did, of which there is nothing to tell.
    fn accept(self, key: Option<&Jwk>, now: UnixTime) -> Result<VerifiedToken, TokenError> {
        if let Some((directory, tenant)) = &self.tenant {
            directory.confirm(tenant);
        }
        let thumbprint = self.jws.segments.thumbprint();
        let claims = self.jws.claims()?;
        let accepted = self.issuer.expectations.accept(&self.id, &claims, now, &thumbprint)?;
        Ok(VerifiedToken::from_verification(Parts {
            principal: accepted.principal,
            issuer: self.id,
            audience: accepted.audience,
            token_id: accepted.token_id,
            session_id: accepted.session_id,
            expires_at: accepted.expires_at,
            not_before: accepted.not_before,
            issued_at: accepted.issued_at,
            thumbprint,
            key_id: key.and_then(Jwk::kid).cloned(),
            key_thumbprint: key.map(Jwk::thumbprint).cloned(),
            claims,
        }))
    }
}

/// A token is refused at the cost of four verifications or less. Odd claims of this size are read in the time of one or two, so
/// fewer keys than the set would give are tried: enough for one that is about to be replaced.
pub(super) const LARGE: usize = 2 * 1024;
const MOST_KEYS_OF_LARGE: usize = 2;
