mod envoy;

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use http::{HeaderMap, HeaderName, Request};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::{
    principal::{Principal, Thumbprint},
    route::{Route, RouteKey, authority},
    rules::{Metadata, Rule},
    time::UnixTime,
};

/// The question put to a policy: who wants to do what to which resource, under which circumstances.
///
/// The four top members are those of OpenID AuthZEN. Every member is always present and always of the same type (an empty
/// list or map, `""` or `"anonymous"` instead of nothing), because policy engines disagree about the negation of what is
/// absent. It never holds a token, a cookie or a header that was not asked for.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct PolicyInput {
    /// Who asks.
    pub subject: SubjectInput,
    /// What they want to do.
    pub action: Action,
    /// What they want to do it to.
    pub resource: Resource,
    /// Under which circumstances.
    pub context: Context,
    /// The credential behind the subject. Not a part of what an engine reads.
    #[serde(skip)]
    pub(crate) credential: Option<Credential>,
}

/// Which credential the caller showed, and how long it is good for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Credential {
    pub(crate) thumbprint: Thumbprint,
    pub(crate) expires_at: UnixTime,
}

/// Who asks.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct SubjectInput {
    /// `user`, `client`, `agent`, `workload` or `anonymous`.
    pub r#type: &'static str,
    /// The user id of the principal; `""` when anonymous. Unique only beside the issuer.
    pub id: String,
    /// What else is known.
    pub properties: SubjectProperties,
}

/// What else is known of the subject.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct SubjectProperties {
    /// `iss`; `""` when anonymous.
    pub issuer: String,
    /// `sub`; `""` when anonymous.
    pub subject: String,
    /// The client that the token was issued to; `""` when unknown.
    pub client_id: String,
    /// The tenant; `""` when the token names none.
    pub tenant: String,
    /// What the token grants.
    pub scopes: Vec<String>,
    /// What the issuer calls permissions.
    pub permissions: Vec<Arc<str>>,
    /// What the issuer calls roles.
    pub roles: Vec<Arc<str>>,
    /// Who acts for the subject, the current actor first. Only that one may drive decisions.
    pub actor: Vec<ActorInput>,
    /// `acr`; `""` when the token has none.
    pub acr: String,
    /// `amr`.
    pub amr: Vec<Arc<str>>,
    /// `auth_time` in seconds since the epoch; 0 when the token has none.
    pub auth_time: u64,
    /// The claims that the layer was told to pass on.
    pub claims: Map<String, Value>,
}

/// One link of the actor chain.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ActorInput {
    /// The actor's `sub`.
    pub id: String,
    /// The actor's `iss`; `""` when the token does not name it.
    pub issuer: String,
    /// The actor's `client_id`; `""` when the token does not name it.
    pub client_id: String,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Action {
    /// What the rule calls it ([`Access::with_action`](crate::rules::Access::with_action)), else the HTTP method in upper case, or
    /// `package.Service/Method`.
    pub name: String,
    /// Transport facts.
    pub properties: ActionProperties,
    /// The HTTP method; the same as in `properties`, for backends written in Rust.
    #[serde(skip)]
    pub method: String,
}

/// Transport facts of the action.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ActionProperties {
    /// `http` or `grpc`.
    pub protocol: &'static str,
    /// The HTTP method as it came.
    pub method: String,
}

/// What it is to be done to.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Resource {
    /// What the rule calls it ([`Access::with_resource_type`](crate::rules::Access::with_resource_type)), else `route` or `grpc_method`.
    pub r#type: String,
    /// The router's template (`/jobs/{id}`), or `package.Service/Method`. Never the raw path.
    pub id: String,
    /// The concrete resource.
    pub properties: ResourceProperties,
}

/// The concrete resource.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ResourceProperties {
    /// The path segments, split first and decoded then.
    pub path: Vec<String>,
    /// The path parameters.
    pub params: BTreeMap<String, String>,
    /// The query parameters, each name with every value; those that carry credentials are left out.
    pub query: BTreeMap<String, Vec<String>>,
    /// What the rule says of every request on this route ([`Access::add_attribute`](crate::rules::Access::add_attribute)).
    pub attributes: Map<String, Value>,
}

/// The circumstances.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Context {
    /// The version of this document: `"1"`.
    pub schema: &'static str,
    /// The request id, as in the audit record and the response.
    pub request_id: String,
    /// The trace id of a valid `traceparent`; `""` without one.
    pub trace_id: String,
    /// Whether the sender of that `traceparent` may have recorded the trace. For what is forwarded: no policy is shown it.
    #[serde(skip)]
    pub(crate) trace_sampled: bool,
    /// Nanoseconds since the epoch.
    pub time_ns: u64,
    /// The authority that the request names: lower case, without a trailing dot and default port; `""` when it names none.
    pub host: String,
    /// The headers that the layer was told to pass on, each with every value; bytes outside printable ASCII and `%` itself
    /// are percent-encoded.
    pub headers: BTreeMap<String, Vec<String>>,
    /// The other end of the connection.
    pub peer: Peer,
    /// What the application adds ([`AuthorizeLayer::add_enrichment`](crate::layer::AuthorizeLayer::add_enrichment)).
    pub attributes: Map<String, Value>,
}

/// The other end of the connection.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Peer {
    /// Its address; `""` when the server does not tell it. Forwarded headers play no part.
    pub ip: String,
}

/// The document that a policy engine reads a [`PolicyInput`] as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum InputFormat {
    /// The members of [`PolicyInput`] under their own names, those of OpenID AuthZEN at the top.
    #[default]
    AuthZen,
    /// The names of Envoy's external authorization (`envoy.service.auth.v3.CheckRequest`) with the additions of Open Policy Agent's
    /// plugin for it, so that a policy that was written for Envoy runs unchanged: `attributes.request.http`, `parsed_path`,
    /// `parsed_query`, the verified claims in the metadata of `envoy.filters.http.jwt_authn` (`verified_jwt`), and the whole
    /// [`PolicyInput`] in the metadata of `portcullis`. Texts among the route's attributes are `contextExtensions`.
    ///
    /// Not as there: `headers` has those alone that the layer was told to pass on, never `authorization`; `scheme`, `protocol` and `body`
    /// are empty; `path` is encoded anew from its decoded segments, without query parameters that carry credentials.
    Envoy,
}

impl InputFormat {
    /// The question in this form, to be serialized for an engine: for backends of your own as well.
    ///
    /// ```
    /// use portcullis::policy::{InputFormat, PolicyInput};
    ///
    /// fn question(input: &PolicyInput) -> serde_json::Result<String> {
    ///     serde_json::to_string(&InputFormat::Envoy.document(input))
    /// }
    /// # let _ = question;
    /// ```
    #[must_use]
    pub fn document(self, input: &PolicyInput) -> impl Serialize + use<'_> {
        #[derive(Serialize)]
        #[serde(untagged)]
        enum Document<'a> {
            AuthZen(&'a PolicyInput),
            Envoy(envoy::CheckRequest<'a>),
        }
        match self {
            Self::AuthZen => Document::AuthZen(input),
            Self::Envoy => Document::Envoy(envoy::CheckRequest(input)),
        }
    }
}

/// Something that must stand in the request before a policy can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InputError {
    /// No `Principal`: `AuthenticateLayer` is missing or stands further inside.
    #[error("the request has no `Principal`: put `AuthenticateLayer` outside of `AuthorizeLayer`")]
    NoPrincipal,
    /// No `Route`: `RouteLayer` is missing or stands further inside.
    #[error("the request has no `Route`: put `RouteLayer` outside of `AuthorizeLayer`")]
    NoRoute,
}

impl PolicyInput {
    /// Gathers the question from the request: its `Principal`, its [`Route`], and those `headers` that are named.
    ///
    /// Request id, trace id, time and claims are left empty: whoever asks fills in what it has.
    ///
    /// # Errors
    ///
    /// [`InputError`] when an earlier layer is missing.
    pub fn from_request<B>(request: &Request<B>, headers: &[HeaderName]) -> Result<Self, InputError> {
        let principal = request.extensions().get::<Principal>().ok_or(InputError::NoPrincipal)?;
        let route = request.extensions().get::<Route>().ok_or(InputError::NoRoute)?;
        let method = request.method().as_str();
        let metadata = route.rule().map(Rule::metadata);
        let said = |of: fn(&Metadata) -> Option<&Arc<str>>| metadata.and_then(of).map(ToString::to_string);
        let (protocol, kind, name, id) = match route.key() {
            Some(RouteKey::Grpc { method }) => ("grpc", "grpc_method", method.to_string(), method.to_string()),
            Some(RouteKey::Http { template, .. }) => ("http", "route", method.to_owned(), template.to_string()),
            None => ("http", "route", method.to_owned(), String::new()),
        };
        Ok(Self {
            subject: SubjectInput::of(principal),
            action: Action {
                name: said(|metadata| metadata.action.as_ref()).unwrap_or(name),
                properties: ActionProperties { protocol, method: method.to_owned() },
                method: method.to_owned(),
            },
            resource: Resource {
                r#type: said(|metadata| metadata.resource_type.as_ref()).unwrap_or_else(|| kind.to_owned()),
                id,
                properties: ResourceProperties {
                    path: route.path().to_vec(),
                    params: route.params().iter().map(|(name, value)| (name.to_string(), value.clone())).collect(),
                    query: query(request.uri().query().unwrap_or_default()),
                    attributes: metadata
                        .iter()
                        .flat_map(|metadata| &metadata.attributes)
                        .map(|(name, value)| (name.to_string(), value.clone()))
                        .collect(),
                },
            },
            context: Context {
                schema: "1",
                request_id: String::new(),
                trace_id: String::new(),
                trace_sampled: false,
                time_ns: 0,
                host: authority(request.uri(), request.headers()),
                headers: allowed(request.headers(), headers),
                peer: Peer { ip: route.peer().map(|peer| canonical(peer.ip())).unwrap_or_default() },
                attributes: Map::new(),
            },
            credential: None,
        })
    }
}

impl SubjectInput {
    fn of(principal: &Principal) -> Self {
        let text = |value: Option<&str>| value.unwrap_or_default().to_owned();
        let authentication = principal.authentication();
        Self {
            r#type: principal.kind().as_str(),
            id: text(principal.user_id().map(|id| id.as_str())),
            properties: SubjectProperties {
                issuer: text(principal.issuer().map(|id| id.as_str())),
                subject: text(principal.subject().map(|id| id.as_str())),
                client_id: text(principal.client().map(|id| id.as_str())),
                tenant: text(principal.tenant().map(|id| id.as_str())),
                scopes: principal.scope().iter().map(ToString::to_string).collect(),
                permissions: principal.permissions().to_vec(),
                roles: principal.roles().to_vec(),
                actor: principal
                    .actors()
                    .iter()
                    .map(|actor| ActorInput {
                        id: actor.subject.to_string(),
                        issuer: text(actor.issuer.as_ref().map(|id| id.as_str())),
                        client_id: text(actor.client.as_ref().map(|id| id.as_str())),
                    })
                    .collect(),
                acr: text(authentication.acr.as_deref()),
                amr: authentication.amr.clone(),
                auth_time: authentication.auth_time.map(UnixTime::as_secs).unwrap_or_default(),
                claims: Map::new(),
            },
        }
    }
}

/// Query parameters that carry credentials (RFC 6750 §2.3 and its relatives): policy engines log their input.
#[rustfmt::skip]
const CREDENTIAL_PARAMETERS: [&str; 25] = [
    "access_token", "actor_token", "api_key", "apikey", "assertion", "authorization", "bearer", "client_assertion", "client_secret",
    "code", "code_verifier", "device_code", "id_token", "id_token_hint", "jwt", "logout_token", "password", "refresh_token",
    "samlrequest", "samlresponse", "sig", "subject_token", "token", "x-amz-security-token", "x-amz-signature",
];

/// Also behind a semicolon, which older readers take for `&`.
fn is_credential(name: &str, value: &str) -> bool {
    let is_listed = |name: &str| CREDENTIAL_PARAMETERS.iter().any(|listed| name.trim().eq_ignore_ascii_case(listed));
    let hidden = value.split(';').skip(1).filter_map(|pair| pair.split('=').next());
    name.split(';').chain(hidden).any(is_listed)
}

/// True when a query string has a parameter that carries credentials.
pub(crate) fn carries_credentials(query: &str) -> bool {
    form_urlencoded::parse(query.as_bytes()).any(|(name, value)| is_credential(&name, &value))
}

fn query(text: &str) -> BTreeMap<String, Vec<String>> {
    let mut query = BTreeMap::<String, Vec<String>>::new();
    for (name, value) in form_urlencoded::parse(text.as_bytes()) {
        if !is_credential(&name, &value) {
            query.entry(name.into_owned()).or_default().push(value.into_owned());
        }
    }
    query
}

fn allowed(headers: &HeaderMap, names: &[HeaderName]) -> BTreeMap<String, Vec<String>> {
    let present = |name: &&HeaderName| headers.contains_key(*name);
    names
        .iter()
        .filter(present)
        .map(|name| (name.to_string(), headers.get_all(name).iter().map(lossless).collect()))
        .collect()
}

/// Bytes outside printable ASCII, and `%` itself, are percent-encoded: no two values look the same.
fn lossless(value: &http::HeaderValue) -> String {
    const AMBIGUOUS: &percent_encoding::AsciiSet = &percent_encoding::CONTROLS.add(b'%');
    percent_encoding::percent_encode(value.as_bytes(), AMBIGUOUS).to_string()
}

/// An IPv4 address is written as one, also where the socket is IPv6.
fn canonical(ip: IpAddr) -> String {
    ip.to_canonical().to_string()
}

#[cfg(test)]
mod tests {
    use http::Method;
    use serde_json::json;

    use super::*;
    use crate::rules::{Rules, policy_only};

    fn request(uri: &str) -> Request<()> {
        let rules = Rules::new().get("/jobs/{id}", policy_only()).into_table().unwrap();
        let key = RouteKey::Http { method: Method::GET, template: "/jobs/{id}".into() };
        let route = Route::matched(&rules, key)
            .with_path(vec!["jobs".into(), "7".into()])
            .with_params(vec![("id".into(), "7".into())])
            .with_peer(Some("[::ffff:203.0.113.7]:999".parse().unwrap()));
        let mut request = Request::get(uri)
            .header("host", "API.Example.:443")
            .header("x-tier", "gold")
            .header("x-tier", "b\u{e4}d")
            .body(())
            .unwrap();
        request.extensions_mut().insert(Principal::anonymous());
        request.extensions_mut().insert(route);
        request
    }

    #[test]
    fn every_member_is_there_even_for_an_anonymous_caller() {
        let input = PolicyInput::from_request(&request("/jobs/7?expand=lines&expand=all"), &[]).unwrap();
        assert_eq!(
            serde_json::to_value(&input).unwrap(),
            json!({
                "subject": {"type": "anonymous", "id": "", "properties": {
                    "issuer": "", "subject": "", "client_id": "", "tenant": "", "scopes": [], "permissions": [], "roles": [], "actor": [],
                    "acr": "", "amr": [], "auth_time": 0, "claims": {}}},
                "action": {"name": "GET", "properties": {"protocol": "http", "method": "GET"}},
                "resource": {"type": "route", "id": "/jobs/{id}", "properties": {
                    "path": ["jobs", "7"], "params": {"id": "7"}, "query": {"expand": ["lines", "all"]}, "attributes": {}}},
                "context": {"schema": "1", "request_id": "", "trace_id": "", "time_ns": 0, "host": "api.example", "headers": {},
                    "peer": {"ip": "203.0.113.7"}, "attributes": {}}
            })
        );
    }

    #[test]
    fn headers_come_only_by_name_with_every_value_and_without_loss() {
        let input = PolicyInput::from_request(&request("/jobs/7"), &[HeaderName::from_static("x-tier")]).unwrap();
        assert_eq!(input.context.headers["x-tier"], ["gold", "b%C3%A4d"]);
    }

    #[test]
    fn credentials_in_the_query_are_left_out() {
        let input =
            PolicyInput::from_request(&request("/jobs/7?access_token=s3cret&Token=s3cret&page=2"), &[]).unwrap();
        assert!(!serde_json::to_string(&input).unwrap().contains("s3cret"));
        for query in ["a=1;access_token=s3cret", "a;token=s3cret", "a=1;b=2;%54oken=s3cret", "a=%3Bjwt%3Ds3cret"] {
            assert!(carries_credentials(query), "{query}");
        }
        assert!(!carries_credentials("a=1;b=token;c=code&tokens=2"));
        assert_eq!(input.resource.properties.query["page"], ["2"]);
    }

    #[test]
    fn a_missing_layer_is_named() {
        let mut bare = request("/");
        bare.extensions_mut().remove::<Route>();
        assert_eq!(PolicyInput::from_request(&bare, &[]).unwrap_err(), InputError::NoRoute);
        bare.extensions_mut().remove::<Principal>();
        assert_eq!(PolicyInput::from_request(&bare, &[]).unwrap_err(), InputError::NoPrincipal);
    }
}
