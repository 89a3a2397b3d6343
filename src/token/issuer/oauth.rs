use super::{Issuer, Profile, ScopeClaim, rfc9068};
use crate::key::Algorithm;

impl Issuer {
    /// Any other OAuth issuer of JWT access tokens.
    ///
    /// As [`rfc9068`](Self::rfc9068), but `typ` may also be `JWT` or absent, the claims beyond `iss`, `exp`, `aud` and `sub` may be
    /// absent, the client may be `azp`, and scope may be an array `scp` when there is no `scope`. Because `typ` may not tell ID tokens
    /// from access tokens here, the audience must never be a client id.
    pub fn oauth(url: impl Into<String>, audience: impl Into<String>) -> Self {
        Self::new(&OAUTH, vec![url.into()], vec![audience.into()])
    }
}

pub(super) const OAUTH: Profile = Profile {
    algorithms: &Algorithm::ALL,
    types: &["at+jwt", "jwt"],
    type_may_be_absent: true,
    client: &["client_id", "azp"],
    scope: ScopeClaim::TextOrArray("scp"),
    roles: |claims| claims.roles("roles"),
    has_aliases: true,
    party: rfc9068::party,
    ..Profile::BASE
};
