//! A question made up of arguments.

use std::sync::Arc;

use clap::{Args, ValueEnum};
use http::{HeaderMap, Method, Request, Uri};
use serde_json::{Map, Value};

use super::Failure;
use crate::{
    policy::{ActorInput, InputFormat, PolicyInput, Recorded},
    principal::Principal,
    route::{Route, RouteKey, fit, target},
    rules::Rules,
    time::{Clock as _, SystemClock},
};

/// What a request would ask.
#[derive(Args, Debug)]
#[command(next_help_heading = "A question instead of `--input`")]
pub(super) struct Question {
    /// The HTTP method.
    #[arg(long, default_value = "GET")]
    method: Method,

    /// The path and query of the request.
    #[arg(long, value_name = "PATH", default_value = "/")]
    path: String,

    /// The router's template that matches the path (`/jobs/{id}`); the path itself unless given.
    #[arg(long, value_name = "TEMPLATE")]
    route: Option<String>,

    /// A gRPC method, `package.Service/Method`, instead of method, path and route.
    #[arg(long, value_name = "METHOD", conflicts_with_all = ["method", "path", "route"])]
    grpc: Option<String>,

    /// Who asks; nobody, unless given.
    #[arg(long, value_name = "ID")]
    subject: Option<String>,

    /// What kind of party that is.
    #[arg(long, value_enum, default_value_t = Kind::User)]
    subject_type: Kind,

    /// The issuer of the token.
    #[arg(long, value_name = "URL")]
    issuer: Option<String>,

    /// The OAuth client that the token was issued to.
    #[arg(long, value_name = "ID")]
    client: Option<String>,

    /// The tenant that the token names.
    #[arg(long, value_name = "TENANT")]
    tenant: Option<String>,

    /// A scope that the token grants; several times for several, or separated by spaces.
    #[arg(long, value_name = "SCOPE")]
    scope: Vec<String>,

    /// A role; several times for several.
    #[arg(long, value_name = "ROLE")]
    role: Vec<String>,

    /// A permission; several times for several.
    #[arg(long, value_name = "PERMISSION")]
    permission: Vec<String>,

    /// Who acts for the subject, the current actor first.
    #[arg(long, value_name = "ID")]
    actor: Vec<String>,

    /// A claim that the policy is shown, as NAME=VALUE; the value is JSON, or else a text.
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    claim: Vec<(String, Value)>,

    /// Something else of the question, as PATH=VALUE: `resource.properties.attributes.tier=gold`.
    #[arg(long, value_name = "PATH=VALUE", value_parser = pair)]
    attribute: Vec<(String, Value)>,
}

/// The arguments that make a question up.
pub(super) const ARGUMENTS: [&str; 15] = [
    "method",
    "path",
    "route",
    "grpc",
    "subject",
    "subject_type",
    "issuer",
    "client",
    "tenant",
    "scope",
    "role",
    "permission",
    "actor",
    "claim",
    "attribute",
];

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    User,
    Client,
    Agent,
    Workload,
}

impl Kind {
    const fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Client => "client",
            Self::Agent => "agent",
            Self::Workload => "workload",
        }
    }
}

impl Question {
    /// As a request without credentials would put it, with what the arguments say of the caller instead.
    pub(super) fn recorded(&self) -> Result<Recorded, Failure> {
        let mut input = self.request()?;
        let subject = &mut input.subject;
        if let Some(id) = &self.subject {
            subject.r#type = self.subject_type.as_str();
            subject.id.clone_from(id);
            subject.properties.subject.clone_from(id);
        }
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        let shared = |values: &[String]| values.iter().map(|value| Arc::from(&**value)).collect();
        let properties = &mut subject.properties;
        properties.issuer = text(&self.issuer);
        properties.client_id = text(&self.client);
        properties.tenant = text(&self.tenant);
        properties.scopes = self.scope.iter().flat_map(|scope| scope.split_whitespace()).map(str::to_owned).collect();
        properties.roles = shared(&self.role);
        properties.permissions = shared(&self.permission);
        let actor = |id: &String| ActorInput { id: id.clone(), issuer: String::new(), client_id: String::new() };
        properties.actor = self.actor.iter().map(actor).collect();
        properties.claims = self.claim.iter().cloned().collect();
        input.context.time_ns = u64::try_from(SystemClock.now().since_epoch().as_nanos()).unwrap_or(u64::MAX);
        let mut document = Recorded::of(&input, InputFormat::AuthZen).input().clone();
        for (path, value) in &self.attribute {
            set(&mut document, path, value.clone()).ok_or_else(|| {
                Failure::Usage(format!("`--attribute {path}`: something that is no object is in its way"))
            })?;
        }
        Recorded::from_value(document).map_err(|error| Failure::Work(error.to_string()))
    }

    fn request(&self) -> Result<PolicyInput, Failure> {
        let usage = |message: String| Failure::Usage(message);
        let path = self.grpc.as_ref().map_or_else(|| self.path.clone(), |method| format!("/{method}"));
        let uri: Uri = path.parse().map_err(|_| usage(format!("`{path}` is no path of a request")))?;
        let steps = target(&uri, &HeaderMap::new()).map_err(|error| usage(format!("`{path}`: {error}")))?;
        let method = if self.grpc.is_some() { Method::POST } else { self.method.clone() };
        let (key, params) = match (&self.grpc, &self.route) {
            (Some(method), _) => (RouteKey::Grpc { method: method.as_str().into() }, Vec::new()),
            (None, route) => {
                let template = route.as_deref().unwrap_or_else(|| uri.path());
                let params = match route {
                    Some(template) => {
                        let fitting = fit(template, uri.path());
                        fitting
                            .ok_or_else(|| {
                                usage(format!("the route `{template}` does not fit the path `{}`", uri.path()))
                            })?
                            .1
                    }
                    None => Vec::new(),
                };
                (RouteKey::Http { method: method.clone(), template: template.into() }, params)
            }
        };
        let rules = Rules::new().into_table()?;
        let mut request = Request::new(());
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        request.extensions_mut().insert(Principal::anonymous());
        request.extensions_mut().insert(Route::matched(&rules, key).with_path(steps).with_params(params));
        PolicyInput::from_request(&request, &[]).map_err(|error| Failure::Work(error.to_string()))
    }
}

/// Reads `NAME=VALUE`.
fn pair(text: &str) -> Result<(String, Value), String> {
    let (name, value) = text.split_once('=').filter(|(name, _)| !name.is_empty()).ok_or("write it as NAME=VALUE")?;
    Ok((name.to_owned(), serde_json::from_str(value).unwrap_or_else(|_| value.into())))
}

fn set(document: &mut Value, path: &str, value: Value) -> Option<()> {
    let (first, rest) = path.split_once('.').map_or((path, None), |(first, rest)| (first, Some(rest)));
    let members = document.as_object_mut()?;
    match rest {
        Some(rest) => set(members.entry(first).or_insert_with(|| Value::Object(Map::new())), rest, value),
        None => {
            members.insert(first.to_owned(), value);
            Some(())
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Alone {
        #[command(flatten)]
        question: Question,
    }

    fn ask(arguments: &[&str]) -> Result<Value, String> {
        let alone = Alone::try_parse_from(["x"].iter().chain(arguments)).map_err(|error| error.to_string())?;
        alone.question.recorded().map(|recorded| recorded.input().clone()).map_err(|error| error.to_string())
    }

    #[test]
    fn arguments_become_the_question_that_a_request_would_put() {
        let input = ask(&[
            "--method",
            "POST",
            "--path",
            "/jobs/a%20b?page=2&access_token=x",
            "--route",
            "/jobs/{id}",
            "--subject",
            "auth0|alice",
            "--scope",
            "jobs:read jobs:write",
            "--scope",
            "more",
            "--tenant",
            "north",
            "--role",
            "clerk",
            "--actor",
            "agent-7",
            "--claim",
            "level=3",
            "--claim",
            "team=blue",
            "--attribute",
            "resource.properties.attributes.tier=gold",
        ])
        .unwrap();
        assert_eq!(input["subject"]["id"], "auth0|alice");
        assert_eq!(input["subject"]["type"], "user");
        let properties = &input["subject"]["properties"];
        assert_eq!(properties["scopes"], serde_json::json!(["jobs:read", "jobs:write", "more"]));
        assert_eq!((&properties["tenant"], &properties["roles"][0]), (&"north".into(), &"clerk".into()));
        assert_eq!((&properties["claims"]["level"], &properties["claims"]["team"]), (&3.into(), &"blue".into()));
        assert_eq!(properties["actor"][0]["id"], "agent-7");
        assert_eq!((&input["action"]["name"], &input["resource"]["id"]), (&"POST".into(), &"/jobs/{id}".into()));
        assert_eq!(input["resource"]["properties"]["params"]["id"], "a b");
        assert_eq!(input["resource"]["properties"]["query"], serde_json::json!({"page": ["2"]}));
        assert_eq!(input["resource"]["properties"]["attributes"]["tier"], "gold");
    }

    #[test]
    fn nobody_asks_unless_somebody_is_named_and_grpc_has_no_path() {
        let input = ask(&["--grpc", "jobs.v1.Jobs/List"]).unwrap();
        assert_eq!((&input["subject"]["type"], &input["subject"]["id"]), (&"anonymous".into(), &"".into()));
        assert_eq!(
            (&input["action"]["name"], &input["resource"]["type"]),
            (&"jobs.v1.Jobs/List".into(), &"grpc_method".into())
        );
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        for (arguments, words) in [
            (&["--path", "/jobs", "--route", "/jobs/{id}"][..], "does not fit"),
            (&["--path", "/a/../b"], "dot segment"),
            (&["--path", "a b"], "no path"),
            (&["--grpc", "a.B/C", "--path", "/x"], "cannot be used with"),
            (&["--claim", "level"], "NAME=VALUE"),
            (&["--attribute", "subject.id.x=1"], "no object"),
        ] {
            let error = ask(arguments).unwrap_err();
            assert!(error.contains(words), "{arguments:?}: {error}");
        }
    }
}
