use std::borrow::Cow;

use bytes::Bytes;
use http::{Response, StatusCode, Uri};
use serde_json::Value;

use crate::{
    ConfigError, json,
    outbound::{dangerous_url, secure_url},
    policy::remote::is_json,
};

/// Where a decision point publishes its metadata, and who it has to be.
pub(super) struct Directory {
    identifier: String,
    pub(super) uri: Uri,
    plain_http: bool,
}

/// The addresses that are asked.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Endpoints {
    pub(super) evaluation: Uri,
    pub(super) evaluations: Option<Uri>,
}

/// Why an answer is no metadata.
pub(super) enum Fault {
    /// Nothing is known: it may be there later.
    Away(Cow<'static, str>),
    /// It is there, and must not be used.
    Lies(ConfigError),
}

impl Directory {
    /// The well-known address is the identifier's, with the well-known path between host and path
    /// ([RFC 8615](https://www.rfc-editor.org/rfc/rfc8615)).
    pub(super) fn new(identifier: String, plain_http: bool) -> Result<Self, ConfigError> {
        let field = "policy.authzen.url";
        let url = read(field, &identifier, plain_http)?;
        let (scheme, authority) = (url.scheme_str().unwrap_or_default(), url.authority().map_or("", |a| a.as_str()));
        let path = if url.path() == "/" { "" } else { url.path() };
        let uri = format!("{scheme}://{authority}{WELL_KNOWN}{path}");
        let uri = uri
            .parse()
            .map_err(|error| ConfigError::unusable(field, identifier.as_str(), "choose a shorter path", error))?;
        Ok(Self { identifier, uri, plain_http })
    }

    pub(super) fn read(&self, answer: &Response<Bytes>) -> Result<Endpoints, Fault> {
        match answer.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => {
                return Err(Fault::Away(
                    "the decision point publishes no metadata: name its addresses (`without_discovery`, `with_endpoints`)".into(),
                ));
            }
            status => {
                return Err(Fault::Away(
                    format!("the decision point answered {status} to the question for its metadata").into(),
                ));
            }
        }
        let field = "policy.authzen.metadata";
        let invalid = |remedy| Fault::Lies(ConfigError::invalid(field, self.uri.to_string(), remedy));
        if !is_json(answer.headers()) {
            return Err(invalid("it is no JSON: is this the decision point?"));
        }
        // A repeated member is refused: two readers could see two decision points in it.
        let members =
            json::object(answer.body()).ok_or_else(|| invalid("it is no JSON object, or repeats a member"))?;
        let text = |name| members.get(name).and_then(Value::as_str);
        let named = text("policy_decision_point").unwrap_or_default();
        // §9.2.3: metadata of another decision point must not be used, or one could bring another's decisions.
        if named != self.identifier {
            let named: String = named.chars().take(200).collect();
            let remedy = format!(
                "the metadata must name the decision point exactly as it is configured, {:?}: if both are right but for the spelling, \
                 configure it as the metadata has it",
                self.identifier
            );
            return Err(Fault::Lies(ConfigError::invalid(
                "policy.authzen.metadata.policy_decision_point",
                named,
                remedy,
            )));
        }
        let Some(evaluation) = text("access_evaluation_endpoint") else {
            return Err(invalid("it must name an `access_evaluation_endpoint`"));
        };
        let evaluations = match members.get("access_evaluations_endpoint") {
            None | Some(Value::Null) => None,
            Some(Value::String(url)) => Some(&**url),
            Some(_) => return Err(invalid("its `access_evaluations_endpoint` must be a URL")),
        };
        let endpoint = |name: &'static str, url| self.endpoint(name, url).map_err(Fault::Lies);
        Ok(Endpoints {
            evaluation: endpoint("policy.authzen.metadata.access_evaluation_endpoint", evaluation)?,
            evaluations: evaluations
                .map(|url| endpoint("policy.authzen.metadata.access_evaluations_endpoint", url))
                .transpose()?,
        })
    }

    /// What was found over TLS never sends us to where there is none, nor to a port of this machine that way.
    fn endpoint(&self, field: &'static str, url: &str) -> Result<Uri, ConfigError> {
        let found = read(field, url, self.plain_http)?;
        if found.scheme() != self.uri.scheme() {
            return Err(ConfigError::invalid(field, shown(&found), "it must have the scheme of the identifier"));
        }
        Ok(found)
    }
}

pub(super) fn read(field: &'static str, url: &str, plain_http: bool) -> Result<Uri, ConfigError> {
    if plain_http { dangerous_url(field, url) } else { secure_url(field, url) }
}

/// The address without its query, which may be secret.
pub(super) fn shown(uri: &Uri) -> String {
    uri.to_string().split('?').next().unwrap_or_default().to_owned()
}

const WELL_KNOWN: &str = "/.well-known/authzen-configuration";

#[cfg(test)]
mod tests {
    use http::header::CONTENT_TYPE;

    use super::*;

    const PDP: &str = "https://pdp.example/tenant1";

    fn answer(status: u16, content_type: &str, body: &str) -> Response<Bytes> {
        let response = Response::builder().status(status).header(CONTENT_TYPE, content_type);
        response.body(Bytes::copy_from_slice(body.as_bytes())).unwrap()
    }

    fn read(identifier: &str, body: &str) -> Result<Endpoints, Fault> {
        Directory::new(identifier.to_owned(), false).unwrap().read(&answer(200, "application/json", body))
    }

    fn lie(identifier: &str, body: &str) -> ConfigError {
        match read(identifier, body) {
            Err(Fault::Lies(error)) => error,
            Err(Fault::Away(detail)) => panic!("{body}: {detail}"),
            Ok(found) => panic!("{body}: {found:?}"),
        }
    }

    #[test]
    fn the_well_known_path_is_inserted_between_host_and_path() {
        let cases = [
            ("https://pdp.example", "https://pdp.example/.well-known/authzen-configuration"),
            ("https://pdp.example/", "https://pdp.example/.well-known/authzen-configuration"),
            (PDP, "https://pdp.example/.well-known/authzen-configuration/tenant1"),
            ("https://pdp.example:8443/a/b", "https://pdp.example:8443/.well-known/authzen-configuration/a/b"),
            ("http://[::1]:8080", "http://[::1]:8080/.well-known/authzen-configuration"),
        ];
        for (identifier, uri) in cases {
            assert_eq!(Directory::new(identifier.to_owned(), false).unwrap().uri, uri, "{identifier}");
        }
        assert!(Directory::new("http://pdp.example".to_owned(), false).is_err());
    }

    #[test]
    fn endpoints_are_read_and_what_is_unknown_is_ignored() {
        let body = r#"{"search_subject_endpoint": 7, "policy_decision_point": "https://pdp.example/tenant1", "capabilities": ["x"],
            "access_evaluation_endpoint": "https://api.pdp.example/e?tenant=1", "access_evaluations_endpoint": "https://pdp.example/es"}"#;
        let found = read(PDP, body).unwrap_or_else(|_| panic!("metadata"));
        assert_eq!(found.evaluation, "https://api.pdp.example/e?tenant=1");
        assert_eq!(found.evaluations.unwrap(), "https://pdp.example/es");
        let alone = r#"{"policy_decision_point": "https://pdp.example/tenant1", "access_evaluation_endpoint": "https://pdp.example/e"}"#;
        assert_eq!(read(PDP, alone).unwrap_or_else(|_| panic!("metadata")).evaluations, None);
    }

    #[test]
    fn metadata_of_another_decision_point_is_refused() {
        for named in [
            r#""https://pdp.example""#,
            r#""https://pdp.example/tenant1/""#,
            r#""https://PDP.example/tenant1""#,
            r#""https://pdp.example/tenant2""#,
            r#"["https://pdp.example/tenant1"]"#,
            "null",
        ] {
            let body = format!(
                r#"{{"policy_decision_point": {named}, "access_evaluation_endpoint": "https://pdp.example/e"}}"#
            );
            let error = lie(PDP, &body);
            assert_eq!(error.field(), "policy.authzen.metadata.policy_decision_point", "{named}");
            assert!(error.to_string().contains(PDP), "{error}");
        }
    }

    #[test]
    fn an_endpoint_that_is_no_secure_url_is_refused() {
        let bad = [
            "http://pdp.example/e",
            // Loopback is good enough for who is there, and not for who was found elsewhere.
            "http://localhost/e",
            "http://169.254.169.254/latest",
            "ftp://pdp.example/e",
            "/access/v1/evaluation",
            "https://user:s3cr3t@pdp.example/e",
            "https://pdp.example/e#f",
            "",
        ];
        for url in bad {
            for (first, second) in [(url, "https://pdp.example/e"), ("https://pdp.example/e", url)] {
                let body = format!(
                    r#"{{"policy_decision_point": "{PDP}", "access_evaluation_endpoint": "{first}", "access_evaluations_endpoint": "{second}"}}"#
                );
                let error = lie(PDP, &body);
                assert!(error.field().starts_with("policy.authzen.metadata.access_evaluation"), "{url}: {error}");
                assert!(!error.to_string().contains("s3cr3t"), "{error}");
            }
        }
        let local =
            r#"{"policy_decision_point": "http://localhost:1", "access_evaluation_endpoint": "http://127.0.0.1:2/e"}"#;
        assert!(read("http://localhost:1", local).is_ok());
        let up = r#"{"policy_decision_point": "http://localhost:1", "access_evaluation_endpoint": "https://pdp.example/e?k=s3cr3t"}"#;
        let error = lie("http://localhost:1", up).to_string();
        assert!(error.contains("scheme") && error.contains("pdp.example/e") && !error.contains("s3cr3t"), "{error}");
    }

    #[test]
    fn an_answer_that_is_no_metadata_is_refused_and_one_that_is_none_at_all_says_nothing() {
        let whole = r#"{"policy_decision_point": "https://pdp.example/tenant1", "access_evaluation_endpoint": "https://pdp.example/e"}"#;
        let bodies = [
            "",
            "[]",
            "true",
            r#"{"policy_decision_point": "https://pdp.example/tenant1"}"#,
            r#"{"policy_decision_point": "https://pdp.example/tenant1", "access_evaluation_endpoint": 7}"#,
            r#"{"policy_decision_point": "https://pdp.example/tenant1", "access_evaluation_endpoint": "https://pdp.example/e", "access_evaluations_endpoint": 7}"#,
            r#"{"policy_decision_point": "https://evil.example", "policy_decision_point": "https://pdp.example/tenant1", "access_evaluation_endpoint": "https://pdp.example/e"}"#,
            &format!("{whole}{whole}"),
            &whole[..whole.len() - 1],
        ];
        for body in bodies {
            assert_eq!(lie(PDP, body).field().split('.').nth(2), Some("metadata"), "{body}");
        }
        let directory = Directory::new(PDP.to_owned(), false).unwrap();
        assert!(matches!(directory.read(&answer(200, "text/html", whole)), Err(Fault::Lies(_))));
        for status in [201, 204, 301, 307, 401, 403, 404, 429, 500, 503] {
            let found = directory.read(&answer(status, "application/json", whole));
            assert!(matches!(found, Err(Fault::Away(_))), "{status}");
        }
    }
}
