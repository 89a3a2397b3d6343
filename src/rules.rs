//! What each route demands: the one table of who may even ask.
//!
//! A route without a row is denied. Rows are compared with what the router matched (the template, or the gRPC service and
//! method), never with the raw path. Nothing here is a pattern: `{id}` and `*` are literal text of the template.
//!
//! ```
//! use portcullis::{rules::{Rules, optional, policy_only, public, scopes}, scope::{all_of, any_of}};
//!
//! let rules = Rules::new()
//!     .get("/jobs", scopes(all_of(["jobs:read"])))
//!     .post("/jobs", scopes(any_of(["jobs:write", "jobs:admin"])))
//!     .get("/reports/{id}", policy_only().concealed())
//!     .get("/orgs/{org}/bills", scopes(all_of(["bills:read"])).with_tenant_param("org"))
//!     .get("/catalogue", optional())
//!     .get("/livez", public("liveness must survive an outage of the policy engine"))
//!     .grpc("jobs.v1.Jobs/List", scopes(all_of(["jobs:read"])));
//! rules.check()?;
//! assert!(rules.to_string().contains("GET  /jobs"));
//! # Ok::<(), portcullis::ConfigError>(())
//! ```

mod access;

use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::Arc,
};

use http::Method;

pub(crate) use self::access::Metadata;
pub use self::access::{Access, Demand, optional, policy_only, public, scopes};
use crate::{ConfigError, route::RouteKey, scope::ScopeRequirement};

/// What one route demands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    demand: Demand,
    tenant_param: Option<Arc<str>>,
    concealed: bool,
    metadata: Metadata,
}

impl Rule {
    /// The demand.
    #[must_use]
    pub const fn demand(&self) -> &Demand {
        &self.demand
    }

    /// True when refusals hide that the route exists.
    #[must_use]
    pub const fn is_concealed(&self) -> bool {
        self.concealed
    }

    /// The scope that the rule demands, when it demands one.
    #[must_use]
    pub const fn required_scope(&self) -> Option<&ScopeRequirement> {
        match &self.demand {
            Demand::Scopes(requirement) => Some(requirement),
            Demand::PolicyOnly | Demand::Optional | Demand::Public { .. } => None,
        }
    }

    /// The path parameter that must name the token's tenant, when the rule demands that.
    #[must_use]
    pub fn tenant_param(&self) -> Option<&str> {
        self.tenant_param.as_deref()
    }

    /// What the policy is told about the route.
    pub(crate) const fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// The tenant that the path names, where the rule demands one. `None` when no parameter names it, or several that differ: then
    /// nobody's tenant is the right one.
    pub(crate) fn tenant_of_path<'a>(&self, params: &'a [(Arc<str>, String)]) -> Option<&'a str> {
        let wanted = self.tenant_param.as_deref()?;
        let mut named = params.iter().filter(|(name, _)| &**name == wanted).map(|(_, value)| value.as_str());
        let first = named.next()?;
        named.all(|other| other == first).then_some(first)
    }

    /// The proof that the route is public, which stands in for principal and permit there.
    pub(crate) const fn public_access(&self) -> Option<PublicAccess> {
        match self.demand {
            Demand::Public { .. } => Some(PublicAccess(())),
            Demand::Scopes(_) | Demand::PolicyOnly | Demand::Optional => None,
        }
    }
}

/// Proof that a `public` row matched. Made only from such a row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PublicAccess(());

/// The table of rules. Deny is what happens to a route that is not in it.
#[derive(Debug, Default)]
pub struct Rules {
    rows: Vec<(RouteKey, Access)>,
}

impl Rules {
    /// A table without rows: every route is denied.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A row for `GET` on the template, which covers `HEAD` unless `HEAD` has a row of its own.
    #[must_use]
    pub fn get(self, template: impl Into<Arc<str>>, access: Access) -> Self {
        self.on(Method::GET, template, access)
    }

    /// A row for `POST` on the template.
    #[must_use]
    pub fn post(self, template: impl Into<Arc<str>>, access: Access) -> Self {
        self.on(Method::POST, template, access)
    }

    /// A row for `PUT` on the template.
    #[must_use]
    pub fn put(self, template: impl Into<Arc<str>>, access: Access) -> Self {
        self.on(Method::PUT, template, access)
    }

    /// A row for `PATCH` on the template.
    #[must_use]
    pub fn patch(self, template: impl Into<Arc<str>>, access: Access) -> Self {
        self.on(Method::PATCH, template, access)
    }

    /// A row for `DELETE` on the template.
    #[must_use]
    pub fn delete(self, template: impl Into<Arc<str>>, access: Access) -> Self {
        self.on(Method::DELETE, template, access)
    }

    /// A row for any method on the template, as the router writes it (`/jobs/{id}`).
    #[must_use]
    pub fn on(mut self, method: Method, template: impl Into<Arc<str>>, access: Access) -> Self {
        self.rows.push((RouteKey::Http { method, template: template.into() }, access));
        self
    }

    /// A row for one gRPC method, as `package.Service/Method`.
    #[must_use]
    pub fn grpc(mut self, method: impl Into<Arc<str>>, access: Access) -> Self {
        self.rows.push((RouteKey::Grpc { method: method.into() }, access));
        self
    }

    /// Checks every row without keeping the result.
    ///
    /// # Errors
    ///
    /// As for building a stack: see [`RuleTable`].
    pub fn check(&self) -> Result<(), ConfigError> {
        for (index, (key, access)) in self.rows.iter().enumerate() {
            let field = || format!("rules[{index}]");
            check_key(key).map_err(|remedy| ConfigError::invalid(field(), key.to_string(), remedy))?;
            check_tenant(key, access).map_err(|remedy| ConfigError::invalid(field(), key.to_string(), remedy))?;
            check_metadata(access).map_err(|remedy| ConfigError::invalid(field(), key.to_string(), remedy))?;
            match &access.demand {
                Ok(Demand::Public { reason }) => {
                    if key.has_parameter() {
                        return Err(ConfigError::invalid(
                            field(),
                            key.to_string(),
                            "`public` takes an exact route: write one row per route, or use `optional` and let policy decide",
                        ));
                    }
                    if reason.trim().is_empty() {
                        return Err(ConfigError::invalid(
                            field(),
                            key.to_string(),
                            "`public` takes a reason: say why nobody needs to be authenticated",
                        ));
                    }
                    if access.concealed {
                        return Err(ConfigError::invalid(
                            field(),
                            key.to_string(),
                            "a public route cannot be concealed: drop one of the two",
                        ));
                    }
                }
                Ok(_) => {}
                Err(error) => {
                    return Err(ConfigError::invalid(field(), key.to_string(), error.to_string()));
                }
            }
            if self.rows.iter().take(index).any(|(earlier, _)| earlier == key) {
                return Err(ConfigError::invalid(field(), key.to_string(), "the route has two rows: keep one"));
            }
        }
        Ok(())
    }

    /// Checks every row and makes the table that routes are looked up in.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Invalid`] with the row's number for: a template that does not start with `/`, an empty or odd gRPC
    /// method, a template that has two parameters of one name, a scope requirement that did not build, a tenant parameter that the
    /// template does not have, a blank action, resource type or attribute, a `public` row with a parameter, a wildcard, no reason or
    /// something that only a policy would read, two rows for one route.
    pub fn into_table(self) -> Result<RuleTable, ConfigError> {
        self.check()?;
        let mut rows = HashMap::with_capacity(self.rows.len());
        let (mut conceals, mut tenant_row) = (false, None);
        for (number, (key, access)) in self.rows.into_iter().enumerate() {
            conceals |= access.concealed;
            if access.tenant_param.is_some() && tenant_row.is_none() {
                tenant_row = Some((number, key.clone()));
            }
            rows.insert(
                key,
                Arc::new(Rule {
                    demand: access.demand?,
                    tenant_param: access.tenant_param,
                    concealed: access.concealed,
                    metadata: access.metadata,
                }),
            );
        }
        Ok(RuleTable(Arc::new(Table { rows, conceals, tenant_row })))
    }
}

fn check_key(key: &RouteKey) -> Result<(), &'static str> {
    match key {
        RouteKey::Http { template, .. } => {
            if !template.starts_with('/') || template.contains(|c: char| c.is_ascii_control() || c == '?' || c == '#') {
                return Err(
                    "write the template as the router does: it starts with `/` and has no query, fragment or control character",
                );
            }
            let mut names = HashSet::new();
            // A policy finds parameters by name: of two it would see one, and the handler perhaps the other.
            if !parameters(template).all(|name| names.insert(name.trim_start_matches('*'))) {
                return Err("give each parameter of the template a name of its own");
            }
        }
        RouteKey::Grpc { method } => {
            let name = |part: &str| {
                !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.' || b == b'_')
            };
            if !method
                .split_once('/')
                .is_some_and(|(service, method)| name(service) && name(method) && !method.contains('.'))
            {
                return Err("write the method as `package.Service/Method`");
            }
        }
    }
    Ok(())
}

fn check_tenant(key: &RouteKey, access: &Access) -> Result<(), &'static str> {
    let Some(wanted) = access.tenant_param.as_deref() else {
        return Ok(());
    };
    match key {
        RouteKey::Grpc { .. } => Err("a gRPC method has no path parameter: let policy compare the tenant"),
        RouteKey::Http { .. } if matches!(access.demand, Ok(Demand::Public { .. })) => {
            Err("nobody has a tenant on a public route: drop one of the two")
        }
        // A wildcard holds several segments, and a tenant is one.
        RouteKey::Http { template, .. }
            if wanted.starts_with('*') || !parameters(template).any(|name| name == wanted) =>
        {
            Err("name a parameter of the template as the tenant's, without braces")
        }
        RouteKey::Http { .. } => Ok(()),
    }
}

fn check_metadata(access: &Access) -> Result<(), &'static str> {
    let Metadata { action, resource_type, attributes } = &access.metadata;
    let mut names = action.iter().chain(resource_type).chain(attributes.keys());
    if names.any(|name| name.trim().is_empty()) {
        return Err("give actions, resource types and attributes a name that is not blank");
    }
    let is_public = matches!(access.demand, Ok(Demand::Public { .. }));
    if is_public && access.metadata != Metadata::default() {
        return Err("no policy is asked on a public route: drop what only a policy would read");
    }
    Ok(())
}

/// What stands in braces, in the template's order; a wildcard with its star. Doubled braces are literal ones.
fn parameters(template: &str) -> impl Iterator<Item = &str> {
    let mut rest = template;
    std::iter::from_fn(move || {
        loop {
            let (_, after) = rest.split_once('{')?;
            if let Some(literal) = after.strip_prefix('{') {
                rest = literal;
                continue;
            }
            let (name, after) = after.split_once('}')?;
            rest = after;
            return Some(name);
        }
    })
}

/// The start-up report: a line per row, in the order in which they were written.
impl fmt::Display for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.rows.iter().map(|(key, _)| key.to_string().len()).max().unwrap_or_default();
        for (key, access) in &self.rows {
            let key = key.to_string();
            match &access.demand {
                Ok(demand) => write!(f, "{key:<width$}  {demand}")?,
                Err(error) => write!(f, "{key:<width$}  {error}")?,
            }
            if let Some(name) = &access.tenant_param {
                write!(f, "  (tenant must be {{{name}}})")?;
            }
            if let Some(action) = &access.metadata.action {
                write!(f, "  (action {action})")?;
            }
            writeln!(f, "{}", if access.concealed { "  (concealed)" } else { "" })?;
        }
        Ok(())
    }
}

/// Checked [`Rules`], ready to be looked up. Cheap to clone.
#[derive(Clone, Debug)]
pub struct RuleTable(Arc<Table>);

#[derive(Debug)]
struct Table {
    rows: HashMap<RouteKey, Arc<Rule>>,
    conceals: bool,
    /// The first row that compares tenants.
    tenant_row: Option<(usize, RouteKey)>,
}

impl RuleTable {
    /// The rule of a route: its own row, or for `HEAD` the row of `GET`.
    #[must_use]
    pub fn find(&self, key: &RouteKey) -> Option<Arc<Rule>> {
        self.0.rows.get(key).or_else(|| self.0.rows.get(&key.as_get()?)).cloned()
    }

    /// True when a route that is not in the table must look like a concealed one.
    #[must_use]
    pub fn conceals_absent_routes(&self) -> bool {
        self.0.conceals
    }

    /// The routes that have a row, in no order.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &RouteKey> {
        self.0.rows.keys()
    }

    /// The first row that compares tenants, and its number.
    pub(crate) fn tenant_row(&self) -> Option<&(usize, RouteKey)> {
        self.0.tenant_row.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scope::all_of;

    fn field_and_text(rules: Rules) -> (String, String) {
        let error = rules.into_table().unwrap_err();
        (error.field().to_owned(), error.to_string())
    }

    #[test]
    fn get_rows_cover_head_and_nothing_else() {
        let table = Rules::new().get("/jobs", policy_only()).into_table().unwrap();
        let find = |method: Method| table.find(&RouteKey::Http { method, template: "/jobs".into() });
        assert!(find(Method::GET).is_some() && find(Method::HEAD).is_some());
        for method in [Method::POST, Method::OPTIONS, Method::TRACE, Method::CONNECT] {
            assert!(find(method.clone()).is_none(), "{method}");
        }
    }

    #[test]
    fn a_head_row_wins_over_the_get_row() {
        let table = Rules::new()
            .get("/jobs", policy_only())
            .on(Method::HEAD, "/jobs", public("existence is public"))
            .into_table()
            .unwrap();
        let head = table.find(&RouteKey::Http { method: Method::HEAD, template: "/jobs".into() }).unwrap();
        assert!(head.public_access().is_some());
    }

    #[test]
    fn star_dot_and_brackets_are_literal() {
        let table = Rules::new().get("/files/*.txt", policy_only()).into_table().unwrap();
        assert!(table.find(&RouteKey::Http { method: Method::GET, template: "/files/a.txt".into() }).is_none());
    }

    #[test]
    fn bad_rows_are_named_with_their_number() {
        let cases = [
            (Rules::new().get("/a", policy_only()).get("/a", optional()), "rules[1]", "two rows"),
            (Rules::new().get("a", policy_only()), "rules[0]", "starts with `/`"),
            (Rules::new().get("/{*rest}", public("all")), "rules[0]", "exact route"),
            (Rules::new().get("/{id}", public("all")), "rules[0]", "exact route"),
            (Rules::new().get("/a", public(" ")), "rules[0]", "reason"),
            (Rules::new().get("/a", scopes(all_of::<&str>([]))), "rules[0]", "at least one scope"),
            (Rules::new().grpc("jobs.v1.Jobs", policy_only()), "rules[0]", "package.Service/Method"),
            (Rules::new().grpc("/jobs.v1.Jobs/List", policy_only()), "rules[0]", "package.Service/Method"),
            (Rules::new().grpc("jobs.v1.Jobs/*", policy_only()), "rules[0]", "package.Service/Method"),
            (Rules::new().get("/a", public("x").concealed()), "rules[0]", "concealed"),
            (Rules::new().get("/{id}/b/{id}", policy_only()), "rules[0]", "a name of its own"),
            (Rules::new().get("/{id}/{*id}", policy_only()), "rules[0]", "a name of its own"),
            (Rules::new().get("/a", policy_only().with_tenant_param("org")), "rules[0]", "as the tenant's"),
            (Rules::new().get("/org", policy_only().with_tenant_param("org")), "rules[0]", "as the tenant's"),
            (Rules::new().get("/{orgs}", policy_only().with_tenant_param("org")), "rules[0]", "as the tenant's"),
            (Rules::new().get("/{{org}}", policy_only().with_tenant_param("org")), "rules[0]", "as the tenant's"),
            (Rules::new().get("/{*org}", policy_only().with_tenant_param("org")), "rules[0]", "as the tenant's"),
            (Rules::new().get("/{*org}", policy_only().with_tenant_param("*org")), "rules[0]", "without braces"),
            (Rules::new().get("/{org}", policy_only().with_tenant_param("{org}")), "rules[0]", "without braces"),
            (Rules::new().get("/{org}", policy_only().with_tenant_param("")), "rules[0]", "without braces"),
            (Rules::new().get("/livez", public("x").with_tenant_param("org")), "rules[0]", "public route"),
            (Rules::new().grpc("jobs.v1.Jobs/List", policy_only().with_tenant_param("org")), "rules[0]", "gRPC"),
            (Rules::new().get("/a", policy_only().with_action(" ")), "rules[0]", "not blank"),
            (Rules::new().get("/a", policy_only().with_resource_type("")), "rules[0]", "not blank"),
            (Rules::new().get("/a", policy_only().add_attribute("", 1)), "rules[0]", "not blank"),
            (Rules::new().get("/a", public("x").add_attribute("a", 1)), "rules[0]", "public route"),
            (Rules::new().get("/a", public("x").with_action("a")), "rules[0]", "public route"),
        ];
        for (rules, field, words) in cases {
            let (actual, text) = field_and_text(rules);
            assert_eq!(actual, field, "{text}");
            assert!(text.contains(words), "{text}");
        }
    }

    #[test]
    fn the_report_lines_up() {
        let report = Rules::new()
            .get("/livez", public("liveness"))
            .post("/jobs", scopes(all_of(["jobs:write"])))
            .get("/admin", policy_only().concealed())
            .get("/{org}", policy_only().with_tenant_param("org").concealed())
            .to_string();
        assert_eq!(
            report,
            "GET  /livez  public: liveness\n\
             POST /jobs   token with all of jobs:write, then policy\n\
             GET  /admin  token, then policy  (concealed)\n\
             GET  /{org}  token, then policy  (tenant must be {org})  (concealed)\n"
        );
    }

    #[test]
    fn the_parameters_of_a_template_are_what_stands_in_single_braces() {
        for (template, expected) in [
            ("/", vec![]),
            ("/{org}/bills/{id}", vec!["org", "id"]),
            ("/{{org}}/{id}", vec!["id"]),
            ("/a{org}b/{*rest}", vec!["org", "*rest"]),
            ("/{org", vec![]),
        ] {
            assert_eq!(parameters(template).collect::<Vec<_>>(), expected, "{template}");
        }
    }

    #[test]
    fn a_path_names_one_tenant_or_none() {
        let table = Rules::new().get("/{org}/{id}", policy_only().with_tenant_param("org")).into_table().unwrap();
        let rule = table.find(&RouteKey::Http { method: Method::GET, template: "/{org}/{id}".into() }).unwrap();
        let named = |params: &[(&str, &str)]| {
            let params: Vec<_> = params.iter().map(|(name, value)| (Arc::from(*name), (*value).to_owned())).collect();
            rule.tenant_of_path(&params).map(str::to_owned)
        };
        assert_eq!(named(&[("id", "7"), ("org", "acme")]).as_deref(), Some("acme"));
        assert_eq!(named(&[("id", "acme"), ("Org", "acme")]), None);
        // Nested routers can bring two of one name: those that agree are one.
        assert_eq!(named(&[("org", "acme"), ("org", "acme")]).as_deref(), Some("acme"));
        assert_eq!(named(&[("org", "evil"), ("org", "acme")]), None);
        assert_eq!(named(&[("org", "acme"), ("org", "evil")]), None);
    }
}
