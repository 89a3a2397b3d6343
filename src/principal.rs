//! The authenticated party, as every later stage sees it.

use std::{borrow::Borrow, fmt, sync::Arc};

use serde::Serialize;

use crate::{scope::Scope, time::UnixTime};

/// A string of the token with a meaning of its own, so that two kinds are never mixed up.
macro_rules! text_newtype {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        #[serde(transparent)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Wraps the text as it is: byte for byte, no normalisation.
            #[must_use]
            pub fn new(text: impl Into<Arc<str>>) -> Self {
                Self(text.into())
            }

            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    )*};
}

text_newtype! {
    /// Who issued a token: `iss`, [RFC 7519 §4.1.1](https://www.rfc-editor.org/rfc/rfc7519#section-4.1.1). Compared byte by byte.
    IssuerId;
    /// Whom a token is about: `sub`, [RFC 7519 §4.1.2](https://www.rfc-editor.org/rfc/rfc7519#section-4.1.2). Unique only beside its issuer.
    Subject;
    /// Whom a token is for: one member of `aud`, [RFC 7519 §4.1.3](https://www.rfc-editor.org/rfc/rfc7519#section-4.1.3).
    Audience;
    /// The token's own id: `jti`, [RFC 7519 §4.1.7](https://www.rfc-editor.org/rfc/rfc7519#section-4.1.7) (`uti` at Entra).
    TokenId;
    /// The OAuth client that a token was issued to: `client_id`, [RFC 8693 §4.3](https://www.rfc-editor.org/rfc/rfc8693#section-4.3) (`azp`, `cid` or `appid` at some issuers).
    ClientId;
    /// The tenant or organisation inside the issuer (`org_id`, `tid`, `hd`, a Kubernetes namespace).
    TenantId;
    /// The session that a token was issued in: `sid`. Unique only beside its issuer.
    SessionId;
    /// base64url of a SHA-256: of a token's JWS signing input, or of a key ([RFC 7638](https://www.rfc-editor.org/rfc/rfc7638)).
    Thumbprint;
}

/// What kind of party a principal is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum PrincipalKind {
    /// A person.
    User,
    /// An OAuth client acting for itself (machine to machine).
    Client,
    /// A software agent, acting for itself or for somebody.
    Agent,
    /// A workload with an identity of its own (a pod, a pipeline).
    Workload,
    /// Nobody known: only on routes whose rule is `optional`.
    Anonymous,
}

impl PrincipalKind {
    /// The stable name, as policies and audit records show it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Client => "client",
            Self::Agent => "agent",
            Self::Workload => "workload",
            Self::Anonymous => "anonymous",
        }
    }
}

/// Who acts for the subject: one link of `act`, [RFC 8693 §4.1](https://www.rfc-editor.org/rfc/rfc8693#section-4.1).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Actor {
    /// The actor's `sub`.
    pub subject: Subject,
    /// The actor's `iss`, when the token names it.
    pub issuer: Option<IssuerId>,
    /// The actor's `client_id`, when the token names it.
    pub client: Option<ClientId>,
}

impl Actor {
    /// An actor known by its subject alone.
    #[must_use]
    pub const fn new(subject: Subject) -> Self {
        Self { subject, issuer: None, client: None }
    }
}

/// A key that a token is bound to: `cnf`, [RFC 7800](https://www.rfc-editor.org/rfc/rfc7800).
///
/// No principal has one until a layer checks proofs of possession, and none does today: a bound token is refused
/// ([`TokenError::Bound`](crate::token::TokenError::Bound)), because without its proof anybody could have sent it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", content = "value", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Confirmation {
    /// `jkt`: the thumbprint of the DPoP key, [RFC 9449 §6.1](https://www.rfc-editor.org/rfc/rfc9449#section-6.1).
    Jkt(Thumbprint),
    /// `x5t#S256`: the thumbprint of the client's certificate, [RFC 8705 §3.1](https://www.rfc-editor.org/rfc/rfc8705#section-3.1).
    #[serde(rename = "x5t#S256")]
    CertificateS256(Thumbprint),
}

/// What stands behind a [`Principal`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", content = "thumbprint", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Proof {
    /// A verified token, by its thumbprint.
    Token(Thumbprint),
    /// Nothing: the rule of the route is `optional` and no credentials came.
    Anonymous,
}

/// The authenticated party of a request.
///
/// Made only by a check: the token verifier, or an `optional` rule that met no credentials. It has no public constructor:
///
/// ```compile_fail,E0423
/// use portcullis::principal::Principal;
/// let forged = Principal(Default::default());
/// ```
///
/// Cheap to clone.
#[derive(Clone, PartialEq, Eq)]
pub struct Principal(Arc<Parts>);

/// The facts that a check gathered; crate-private, so that a `Principal` proves that one took place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Parts {
    pub(crate) kind: PrincipalKind,
    pub(crate) issuer: Option<IssuerId>,
    pub(crate) subject: Option<Subject>,
    /// The id that audit and policy know the party by, where the issuer has a better one than `sub`.
    pub(crate) user_id: Option<Subject>,
    pub(crate) client: Option<ClientId>,
    pub(crate) tenant: Option<TenantId>,
    pub(crate) scope: Scope,
    pub(crate) permissions: Vec<Arc<str>>,
    pub(crate) roles: Vec<Arc<str>>,
    /// The current actor first, then those before it.
    pub(crate) actors: Vec<Actor>,
    pub(crate) confirmation: Option<Confirmation>,
    pub(crate) authentication: Authentication,
    pub(crate) proof: Proof,
}

/// How and when the subject signed in, as far as the token tells ([RFC 9470 §6](https://www.rfc-editor.org/rfc/rfc9470#section-6)).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Authentication {
    /// `acr`: the authentication context class reference.
    pub acr: Option<Arc<str>>,
    /// `amr`: the methods that were used.
    pub amr: Vec<Arc<str>>,
    /// `auth_time`: when the subject signed in. Not moved forward by renewing a token.
    pub auth_time: Option<UnixTime>,
}

impl Principal {
    pub(crate) fn from_check(parts: Parts) -> Self {
        Self(Arc::new(parts))
    }

    /// The principal of a request without credentials on an `optional` route.
    pub(crate) fn anonymous() -> Self {
        Self::from_check(Parts {
            kind: PrincipalKind::Anonymous,
            issuer: None,
            subject: None,
            user_id: None,
            client: None,
            tenant: None,
            scope: Scope::default(),
            permissions: Vec::new(),
            roles: Vec::new(),
            actors: Vec::new(),
            confirmation: None,
            authentication: Authentication::default(),
            proof: Proof::Anonymous,
        })
    }

    /// What kind of party it is.
    #[must_use]
    pub fn kind(&self) -> PrincipalKind {
        self.0.kind
    }

    /// True for the principal of an `optional` route that met no credentials.
    #[must_use]
    pub fn is_anonymous(&self) -> bool {
        self.0.kind == PrincipalKind::Anonymous
    }

    /// The issuer of the token; `None` only when anonymous.
    #[must_use]
    pub fn issuer(&self) -> Option<&IssuerId> {
        self.0.issuer.as_ref()
    }

    /// The subject; `None` only when anonymous. Unique only beside the issuer.
    #[must_use]
    pub fn subject(&self) -> Option<&Subject> {
        self.0.subject.as_ref()
    }

    /// The stable id of the party at its issuer, where its tokens have a better one than `sub` (Entra `oid`, Okta `uid`, `repository_id` at
    /// GitHub Actions, the account's uid with it at Kubernetes), else `sub`; `None` only when anonymous.
    #[must_use]
    pub fn user_id(&self) -> Option<&Subject> {
        self.0.user_id.as_ref().or(self.0.subject.as_ref())
    }

    /// The OAuth client that the token was issued to.
    #[must_use]
    pub fn client(&self) -> Option<&ClientId> {
        self.0.client.as_ref()
    }

    /// The tenant or organisation, when the token names one.
    #[must_use]
    pub fn tenant(&self) -> Option<&TenantId> {
        self.0.tenant.as_ref()
    }

    /// What the token grants.
    #[must_use]
    pub fn scope(&self) -> &Scope {
        &self.0.scope
    }

    /// What the issuer calls permissions (Auth0 RBAC). Another namespace than scope: never united with it.
    #[must_use]
    pub fn permissions(&self) -> &[Arc<str>] {
        &self.0.permissions
    }

    /// What the issuer calls roles. Another namespace than scope and permissions.
    #[must_use]
    pub fn roles(&self) -> &[Arc<str>] {
        &self.0.roles
    }

    /// Who acts for the subject: the current actor first, then those before it. Only the first may drive decisions
    /// ([RFC 8693 §4.1](https://www.rfc-editor.org/rfc/rfc8693#section-4.1)).
    #[must_use]
    pub fn actors(&self) -> &[Actor] {
        &self.0.actors
    }

    /// The key that the token is bound to, and that its bearer has shown to hold.
    ///
    /// `None` until a layer checks proofs: none does today, and a token with `cnf` is refused, whatever it says.
    #[must_use]
    pub fn confirmation(&self) -> Option<&Confirmation> {
        self.0.confirmation.as_ref()
    }

    /// How and when the subject signed in.
    #[must_use]
    pub fn authentication(&self) -> &Authentication {
        &self.0.authentication
    }

    /// What stands behind this principal.
    #[must_use]
    pub fn proof(&self) -> &Proof {
        &self.0.proof
    }
}

impl fmt::Debug for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Principal")
            .field("kind", &self.0.kind)
            .field("issuer", &self.0.issuer)
            .field("subject", &self.0.subject)
            .field("client", &self.0.client)
            .field("proof", &self.0.proof)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_anonymous_principal_has_no_names_and_no_scope() {
        let principal = Principal::anonymous();
        assert!(principal.is_anonymous());
        assert_eq!((principal.subject(), principal.user_id(), principal.client()), (None, None, None));
        assert!(principal.scope().is_empty());
        assert_eq!(principal.proof(), &Proof::Anonymous);
    }

    #[test]
    fn the_user_id_falls_back_to_the_subject() {
        let mut parts = (*Principal::anonymous().0).clone();
        parts.subject = Some(Subject::new("pairwise"));
        assert_eq!(Principal::from_check(parts.clone()).user_id().map(Subject::as_str), Some("pairwise"));
        parts.user_id = Some(Subject::new("oid"));
        assert_eq!(Principal::from_check(parts).user_id().map(Subject::as_str), Some("oid"));
    }
}
