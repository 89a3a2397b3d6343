use std::{collections::HashSet, fmt, sync::Arc};

use crate::{ConfigError, principal::TenantId};

/// Which tenants of an issuer are accepted: Auth0 organizations, Entra tenants, Google Workspace domains (`hd`), Firebase tenants,
/// owners of GitHub repositories, Kubernetes namespaces.
///
/// ```
/// use portcullis::token::{Issuer, Tenants};
///
/// let issuer = Issuer::auth0("acme.eu.auth0.com", "https://api.acme.example").with_tenants(Tenants::known(["org_a1", "org_b2"]));
/// # let _ = issuer;
/// ```
#[derive(Clone)]
pub struct Tenants(Rule);

#[derive(Clone)]
enum Rule {
    Any,
    Required,
    Listed(Arc<HashSet<TenantId>>),
    KnownBy(Arc<dyn Fn(&TenantId) -> bool + Send + Sync>),
}

impl Tenants {
    /// Every tenant, and tokens that name none. The default: what a tenant may do is then for the policy to say.
    #[must_use]
    pub const fn any() -> Self {
        Self(Rule::Any)
    }

    /// Every tenant, but the token has to name one.
    #[must_use]
    pub const fn required() -> Self {
        Self(Rule::Required)
    }

    /// These tenants alone, compared byte by byte; a token that names none is refused. An empty list or a blank name is a `ConfigError`.
    pub fn known<T: Into<String>>(tenants: impl IntoIterator<Item = T>) -> Self {
        let tenants = tenants.into_iter().map(|tenant| TenantId::new(tenant.into()));
        Self(Rule::Listed(Arc::new(tenants.collect())))
    }

    /// The tenants of which this says `true`; a token that names none is refused. Asked for each token, so it must answer at once.
    pub fn known_by(is_known: impl Fn(&TenantId) -> bool + Send + Sync + 'static) -> Self {
        Self(Rule::KnownBy(Arc::new(is_known)))
    }

    pub(in crate::token) const fn are_required(&self) -> bool {
        !matches!(self.0, Rule::Any)
    }

    pub(in crate::token) fn accept(&self, tenant: &TenantId) -> bool {
        match &self.0 {
            Rule::Any | Rule::Required => true,
            Rule::Listed(known) => known.contains(tenant),
            Rule::KnownBy(is_known) => is_known(tenant),
        }
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let odd = |value: &str, remedy: &'static str| Err(ConfigError::invalid("issuer.tenants", value, remedy));
        match &self.0 {
            Rule::Listed(known) if known.is_empty() => {
                odd("[]", "name at least one tenant, or choose `Tenants::any` or `Tenants::required`")
            }
            Rule::Listed(known) if known.iter().any(|tenant| tenant.as_str().trim().is_empty()) => {
                odd("", "name each tenant as the issuer writes it into its tokens")
            }
            _ => Ok(()),
        }
    }
}

impl Default for Tenants {
    fn default() -> Self {
        Self::any()
    }
}

impl fmt::Debug for Tenants {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Rule::Any => f.write_str("Any"),
            Rule::Required => f.write_str("Required"),
            Rule::Listed(known) => f.debug_tuple("Known").field(known).finish(),
            Rule::KnownBy(_) => f.write_str("KnownBy"),
        }
    }
}
