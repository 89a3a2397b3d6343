use std::time::Duration;

use crate::{
    key::Algorithm,
    principal::{Audience, IssuerId},
};

/// What is expected of an issuer's tokens: a checked [`Issuer`].
pub(in crate::token) struct Expectations {
    pub(in crate::token) profile: &'static Profile,
    /// `iss` of the tokens, byte by byte: the first is the issuer's own, the others are further names of it.
    pub(in crate::token) ids: Vec<IssuerId>,
    pub(in crate::token) audiences: Vec<Audience>,
    pub(in crate::token) algorithms: Vec<Algorithm>,
    pub(in crate::token) leeway: Duration,
    pub(in crate::token) max_lifetime: Duration,
    pub(in crate::token) requires_token_id: bool,
}

/// How a kind of issuer writes its tokens.
pub(in crate::token) struct Profile {
    pub(super) algorithms: &'static [Algorithm],
    /// Accepted `typ` of the header, in lower case and without `application/`.
    types: &'static [&'static str],
    type_may_be_absent: bool,
    /// Claims that must be there beyond `iss`, `exp`, `aud` and `sub`.
    pub(in crate::token) required: &'static [&'static str],
    /// Claims that name the client; those that are there must agree.
    pub(in crate::token) client: &'static [&'static str],
    /// The array that carries scope where there is no `scope`.
    pub(in crate::token) scope_array: Option<&'static str>,
    pub(in crate::token) permissions: Option<&'static str>,
    pub(in crate::token) roles: Option<&'static str>,
    pub(in crate::token) tenant: Option<&'static str>,
    pub(in crate::token) kind: KindRule,
}

/// How the kind of the principal is found.
#[derive(Clone, Copy)]
pub(in crate::token) enum KindRule {
    Auth0,
    /// An agent when `sub_profile` says so, a client when `sub` is the client id, else a user.
    SubjectIsClient,
    /// A workload, by the SPIFFE ID in `sub`. The header is held to JWT-SVID as well.
    Spiffe,
}

impl Profile {
    /// Whether the header's `typ` is that of an access token.
    ///
    /// [RFC 7515 §4.1.9](https://www.rfc-editor.org/rfc/rfc7515#section-4.1.9): case does not matter, and `application/` may be left out.
    pub(in crate::token) fn accepts_type(&self, typ: Option<&str>) -> bool {
        let Some(typ) = typ else {
            return self.type_may_be_absent;
        };
        let name = match typ.split_at_checked("application/".len()) {
            Some((prefix, name)) if prefix.eq_ignore_ascii_case("application/") => name,
            _ => typ,
        };
        self.types.iter().any(|accepted| name.eq_ignore_ascii_case(accepted))
    }
}

pub(super) const AUTH0: Profile = Profile {
    algorithms: &[Algorithm::Rs256, Algorithm::Ps256],
    types: &["jwt", "at+jwt"],
    type_may_be_absent: false,
    required: &[],
    client: &["azp", "client_id"],
    scope_array: None,
    permissions: Some("permissions"),
    roles: None,
    tenant: Some("org_id"),
    kind: KindRule::Auth0,
};

pub(super) const RFC9068: Profile = Profile {
    algorithms: &Algorithm::ALL,
    types: &["at+jwt"],
    type_may_be_absent: false,
    required: &["client_id", "iat", "jti"],
    client: &["client_id"],
    scope_array: None,
    permissions: None,
    roles: Some("roles"),
    tenant: None,
    kind: KindRule::SubjectIsClient,
};

pub(super) const OAUTH: Profile = Profile {
    algorithms: &Algorithm::ALL,
    types: &["at+jwt", "jwt"],
    type_may_be_absent: true,
    required: &[],
    client: &["client_id", "azp"],
    scope_array: Some("scp"),
    permissions: None,
    roles: Some("roles"),
    tenant: None,
    kind: KindRule::SubjectIsClient,
};

pub(super) const SPIFFE: Profile = Profile {
    algorithms: &[Algorithm::Rs256, Algorithm::Ps256, Algorithm::Es256, Algorithm::Es384],
    types: &["jwt", "jose"],
    type_may_be_absent: true,
    required: &[],
    client: &[],
    scope_array: None,
    permissions: None,
    roles: None,
    tenant: None,
    kind: KindRule::Spiffe,
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_issuer_has_its_own_typ_rule() {
        let table = [
            (None, [false, false, true]),
            (Some("at+jwt"), [true, true, true]),
            (Some("AT+JWT"), [true, true, true]),
            (Some("application/at+jwt"), [true, true, true]),
            (Some("Application/AT+jwt"), [true, true, true]),
            (Some("JWT"), [true, false, true]),
            (Some("jwt"), [true, false, true]),
            (Some(""), [false, false, false]),
            (Some("application/"), [false, false, false]),
            (Some("application/application/at+jwt"), [false, false, false]),
            (Some("text/at+jwt"), [false, false, false]),
            (Some("at+jwt "), [false, false, false]),
            (Some("id_token+jwt"), [false, false, false]),
            (Some("dpop+jwt"), [false, false, false]),
            (Some("logout+jwt"), [false, false, false]),
            (Some("secevent+jwt"), [false, false, false]),
            (Some("txntoken+jwt"), [false, false, false]),
            (Some("JOSE"), [false, false, false]),
        ];
        for (typ, [auth0, rfc9068, oauth]) in table {
            assert_eq!(AUTH0.accepts_type(typ), auth0, "auth0 {typ:?}");
            assert_eq!(RFC9068.accepts_type(typ), rfc9068, "rfc9068 {typ:?}");
            assert_eq!(OAUTH.accepts_type(typ), oauth, "oauth {typ:?}");
        }
    }
}
