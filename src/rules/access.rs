use std::{collections::BTreeMap, fmt, sync::Arc};

use serde_json::Value;

use crate::{ConfigError, scope::ScopeRequirement};

/// What a row demands of a request. Made by [`scopes`], [`policy_only`], [`optional`] and [`public`].
#[derive(Debug)]
pub struct Access {
    pub(super) demand: Result<Demand, ConfigError>,
    pub(super) tenant_param: Option<Arc<str>>,
    pub(super) concealed: bool,
    pub(super) metadata: Metadata,
}

/// What a row tells the policy about its route.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Metadata {
    pub(crate) action: Option<Arc<str>>,
    pub(crate) resource_type: Option<Arc<str>>,
    pub(crate) attributes: BTreeMap<Arc<str>, Value>,
}

/// What a row demands, once checked.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Demand {
    /// A verified token with this scope, and an allowing policy.
    Scopes(ScopeRequirement),
    /// A verified token and an allowing policy.
    PolicyOnly,
    /// An allowing policy. Whoever brings a token is held to it; whoever brings none is the anonymous principal.
    Optional,
    /// Nothing: no token is read and no policy asked.
    Public {
        /// Why that is right, for whoever reads the start-up report.
        reason: Arc<str>,
    },
}

/// Demands a verified token with this scope, and an allowing policy.
#[must_use]
pub fn scopes(requirement: impl Into<Result<ScopeRequirement, ConfigError>>) -> Access {
    Access::to(requirement.into().map(Demand::Scopes))
}

/// Demands a verified token of any scope, and an allowing policy.
#[must_use]
pub fn policy_only() -> Access {
    Access::to(Ok(Demand::PolicyOnly))
}

/// Lets requests without credentials through to the policy, as the anonymous principal. A token that is present must verify.
#[must_use]
pub fn optional() -> Access {
    Access::to(Ok(Demand::Optional))
}

/// Lets everybody through: no token is read, no policy asked. `reason` says why that is right and stands in the start-up
/// report. Only for exact routes: a template with a parameter or wildcard is a [`ConfigError`].
#[must_use]
pub fn public(reason: impl Into<Arc<str>>) -> Access {
    Access::to(Ok(Demand::Public { reason: reason.into() }))
}

impl Access {
    fn to(demand: Result<Demand, ConfigError>) -> Self {
        Self { demand, tenant_param: None, concealed: false, metadata: Metadata::default() }
    }

    /// Demands that the token's tenant ([`Principal::tenant`](crate::principal::Principal::tenant)) be the one that the path names with
    /// this parameter of the template, byte for byte as the router decoded it. Whoever is of another tenant or of none is refused like
    /// somebody who lacks scope, and an anonymous caller is asked for a token.
    ///
    /// A tenant's name is unique only beside its issuer. In a [`Stack`](crate::Stack) that accepts several issuers which name tenants, or
    /// issuers that are [looked up](crate::token::ResolvedIssuers), it is therefore a [`ConfigError`]: let the policy compare both there. A
    /// `RouteLayer` on its own does not know the issuers and cannot tell.
    ///
    /// A template that has no such parameter is a [`ConfigError`], and so is any use with [`public`] and gRPC methods, which have none.
    #[must_use]
    pub fn with_tenant_param(mut self, name: impl Into<Arc<str>>) -> Self {
        self.tenant_param = Some(name.into());
        self
    }

    /// Hides the route from those who may not use it: its scope and policy refusals are 404 (gRPC 5) instead of 403.
    ///
    /// As soon as one row is concealed, a valid token on a route that does not exist gets the same 404, so that the
    /// hidden route cannot be told from an absent one.
    #[must_use]
    pub fn concealed(mut self) -> Self {
        self.concealed = true;
        self
    }

    /// What the policy calls the action, in place of the HTTP method or the name of the gRPC method: `action.name` of the
    /// [`PolicyInput`](crate::policy::PolicyInput), such as `orders.update`. What the request really used stays in
    /// `action.properties`.
    ///
    /// Blank, or on a [`public`] route, where no policy is asked, it is a [`ConfigError`]; so are the next two.
    #[must_use]
    pub fn with_action(mut self, name: impl Into<Arc<str>>) -> Self {
        self.metadata.action = Some(name.into());
        self
    }

    /// What the policy calls the kind of resource, in place of `route` or `grpc_method`: `resource.type`, such as `order`.
    #[must_use]
    pub fn with_resource_type(mut self, kind: impl Into<Arc<str>>) -> Self {
        self.metadata.resource_type = Some(kind.into());
        self
    }

    /// Tells the policy one more thing about the route: a member of `resource.properties.attributes`, which every request on it has
    /// alike. A second value of one name takes the place of the first.
    ///
    /// ```
    /// use portcullis::rules::{Rules, policy_only};
    ///
    /// let bill = policy_only().with_action("bills.read").with_resource_type("bill").add_attribute("sensitivity", "high");
    /// assert!(Rules::new().get("/bills/{id}", bill).check().is_ok());
    /// ```
    #[must_use]
    pub fn add_attribute(mut self, name: impl Into<Arc<str>>, value: impl Into<Value>) -> Self {
        self.metadata.attributes.insert(name.into(), value.into());
        self
    }
}

impl fmt::Display for Demand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Scopes(requirement) => write!(f, "token with {requirement}, then policy"),
            Self::PolicyOnly => f.write_str("token, then policy"),
            Self::Optional => f.write_str("token if present, then policy"),
            Self::Public { reason } => write!(f, "public: {reason}"),
        }
    }
}
