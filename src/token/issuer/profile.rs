use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use super::{Issuer, Permissions, Tenants};
use crate::{
    ConfigError,
    key::{Algorithm, SignsFor, Wanted},
    principal::{Audience, ClientId, IssuerId, PrincipalKind},
    token::{TokenError, reader::Reader},
};

/// What is expected of an issuer's tokens: a checked [`Issuer`].
pub(in crate::token) struct Expectations {
    pub(in crate::token) profile: &'static Profile,
    /// `iss` of the tokens, byte by byte: the first is the issuer's own, the others are further names of it.
    pub(in crate::token) ids: Vec<IssuerId>,
    /// The same names, by what [`Profile::tenant_in_name`] says of each.
    pub(in crate::token) parties: HashMap<String, Vec<IssuerId>>,
    /// Empty only where the clients stand in for it.
    pub(in crate::token) audiences: Vec<Audience>,
    pub(in crate::token) algorithms: Vec<Algorithm>,
    /// The clients whose tokens are accepted; `None` when all are.
    pub(in crate::token) clients: Option<HashSet<ClientId>>,
    pub(in crate::token) tenants: Tenants,
    pub(in crate::token) permissions: Permissions,
    pub(in crate::token) leeway: Duration,
    pub(in crate::token) max_lifetime: Duration,
    pub(in crate::token) max_age: Option<Duration>,
    pub(in crate::token) requires_token_id: bool,
}

/// How a kind of issuer writes its tokens. One for each preset, in the preset's file; what it leaves out is as [`Profile::BASE`] has it.
pub(in crate::token) struct Profile {
    pub(in crate::token) algorithms: &'static [Algorithm],
    /// Accepted `typ` of the header, in lower case and without `application/`.
    pub(in crate::token) types: &'static [&'static str],
    pub(in crate::token) type_may_be_absent: bool,
    /// True where a list of clients says for whom a token is, because there is no `aud`.
    pub(in crate::token) clients_name_audience: bool,
    /// Claims that must be there beyond `iss`, `exp`, `aud` and `sub`.
    pub(in crate::token) required: &'static [&'static str],
    /// Claims by which the issuer tells its kinds of token apart, and what an access token says there.
    pub(in crate::token) says: &'static [(&'static str, &'static str)],
    /// Claims that show another kind of token at every other issuer.
    pub(in crate::token) legal: &'static [&'static str],
    /// Claims that name the client; those that are there must agree.
    pub(in crate::token) client: &'static [&'static str],
    /// True where only an ID token has its own client in `aud`.
    pub(in crate::token) audience_is_no_client: bool,
    pub(in crate::token) scope: ScopeClaim,
    pub(in crate::token) permissions: Option<&'static str>,
    pub(in crate::token) roles: fn(&Reader<'_>) -> Result<Vec<Arc<str>>, TokenError>,
    /// The path to the claim that names the tenant.
    pub(in crate::token) tenant: &'static [&'static str],
    pub(in crate::token) token_id: Option<&'static str>,
    /// Claims that are read of these tokens beyond those that are read of all.
    pub(in crate::token) also_read: &'static [&'static str],
    /// Tells who the token is about, after whatever else has to be checked at this kind of issuer.
    pub(in crate::token) party: fn(&Facts<'_>) -> Result<Party, TokenError>,
    /// What the names of one party have in common, and those of another have not, where one configuration is for several tenants.
    pub(in crate::token) tenant_in_name: fn(issuer: &str) -> &str,
    /// Whether a key that names this issuer signs for the issuer that the token names.
    pub(in crate::token) key_signs_for: SignsFor,
    /// True where one key document is for several issuers, and its keys name theirs: a source that does not keep the names is refused.
    pub(in crate::token) keys_name_issuers: bool,
    /// True for SPIFFE's JWT-SVIDs: `iss` may be absent, and the trust domain in `sub` names the issuer.
    pub(in crate::token) is_svid: bool,
    /// True where an issuer may have more names than its own ([`Issuer::add_alias`]).
    pub(in crate::token) has_aliases: bool,
    /// True where an issuer may have more domains than one ([`Issuer::add_domain`]).
    pub(in crate::token) has_domains: bool,
    /// What is wrong with a configuration at this kind of issuer alone.
    pub(in crate::token) check: fn(&Issuer) -> Result<(), ConfigError>,
}

/// Where scope is written, and in which form.
#[derive(Clone, Copy)]
pub(in crate::token) enum ScopeClaim {
    /// Nowhere: what is called scope there is none.
    None,
    /// Words split by single spaces.
    Text(&'static str),
    /// An array of words.
    Array(&'static str),
    /// `scope` as text or, without it, this array.
    TextOrArray(&'static str),
}

/// What a token says of its party, for the rules of its kind of issuer.
pub(in crate::token) struct Facts<'a> {
    pub(in crate::token) claims: Reader<'a>,
    /// The name of the issuer that the token gives.
    pub(in crate::token) issuer: &'a str,
    pub(in crate::token) subject: &'a str,
    pub(in crate::token) client: Option<&'a str>,
    /// True when the subject or the current actor is called an agent: then its kind is known.
    pub(in crate::token) is_agent: bool,
}

/// Who a token is about.
pub(in crate::token) struct Party {
    pub(in crate::token) kind: PrincipalKind,
    /// The stable id, where `sub` is not the best there is.
    pub(in crate::token) user_id: Option<String>,
}

impl From<PrincipalKind> for Party {
    fn from(kind: PrincipalKind) -> Self {
        Self { kind, user_id: None }
    }
}

impl Expectations {
    /// Every name of the party that goes by this one of its names, and no name of another tenant.
    pub(in crate::token) fn names_of(&self, issuer: &IssuerId) -> &[IssuerId] {
        // Each of our names is in a group. Were one in none, too much would be revoked rather than too little.
        self.parties.get((self.profile.tenant_in_name)(issuer.as_str())).unwrap_or(&self.ids)
    }

    /// The keys that may have signed a token which names this issuer: a key that names an issuer signs for that one alone.
    pub(in crate::token) fn wanted<'a>(
        &self,
        issuer: &'a IssuerId,
        kid: Option<&'a str>,
        algorithm: Algorithm,
    ) -> Wanted<'a> {
        Wanted::new(kid, algorithm).signing_for(issuer.as_str(), self.profile.key_signs_for)
    }
}

impl Profile {
    /// The strictest there is, and nobody's: each preset says where it differs.
    pub(in crate::token) const BASE: Self = Self {
        algorithms: &[Algorithm::Rs256],
        types: &["jwt"],
        type_may_be_absent: false,
        clients_name_audience: false,
        required: &[],
        says: &[],
        legal: &[],
        client: &[],
        audience_is_no_client: false,
        scope: ScopeClaim::None,
        permissions: None,
        roles: |_| Ok(Vec::new()),
        tenant: &[],
        token_id: Some("jti"),
        also_read: &[],
        party: |_| Ok(PrincipalKind::User.into()),
        tenant_in_name: |_| "",
        key_signs_for: |key, token| key == token,
        keys_name_issuers: false,
        is_svid: false,
        has_aliases: false,
        has_domains: false,
        check: |_| Ok(()),
    };

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

#[cfg(test)]
mod tests {
    use super::super::{auth0::AUTH0, oauth::OAUTH, rfc9068::RFC9068};

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
            (Some("application-at+jwt"), [false, false, false]),
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
