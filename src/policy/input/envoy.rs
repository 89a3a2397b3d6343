//! The question as Envoy's external authorization puts it to Open Policy Agent's plugin.

use std::collections::BTreeMap;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Serialize, Serializer, ser::SerializeMap as _};
use serde_json::{Value, json};

use super::PolicyInput;

/// Serializes a [`PolicyInput`] under the names of `envoy.service.auth.v3.CheckRequest`.
pub(super) struct CheckRequest<'a>(pub(super) &'a PolicyInput);

impl Serialize for CheckRequest<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let input = self.0;
        let properties = &input.resource.properties;
        let mut map = serializer.serialize_map(Some(6))?;
        map.serialize_entry("attributes", &attributes(input))?;
        map.serialize_entry("parsed_path", &properties.path)?;
        map.serialize_entry("parsed_query", &properties.query)?;
        // No body is read before a decision.
        map.serialize_entry("parsed_body", &Value::Null)?;
        map.serialize_entry("truncated_body", &false)?;
        map.serialize_entry("version", &json!({"encoding": "protojson", "ext_authz": "v3"}))?;
        map.end()
    }
}

fn attributes(input: &PolicyInput) -> Value {
    let PolicyInput { subject, action, resource, context, credential: _ } = input;
    let path = path(input);
    let mut headers: BTreeMap<&str, String> =
        context.headers.iter().map(|(name, values)| (name.as_str(), values.join(","))).collect();
    headers.insert(":authority", context.host.clone());
    headers.insert(":method", action.method.clone());
    headers.insert(":path", path.clone());
    headers.insert("x-request-id", context.request_id.clone());
    let mut claims = subject.properties.claims.clone();
    // What was verified goes over a claim of the same name that was asked for.
    for (name, value) in [
        ("iss", &subject.properties.issuer),
        ("sub", &subject.properties.subject),
        ("client_id", &subject.properties.client_id),
        ("scope", &subject.properties.scopes.join(" ")),
    ] {
        claims.insert(name.to_owned(), json!(value));
    }
    let is_text = |(name, value): (&String, &Value)| Some((name.clone(), value.as_str()?.to_owned()));
    let extensions: BTreeMap<_, _> = resource.properties.attributes.iter().filter_map(is_text).collect();
    json!({
        "source": {"address": {"socketAddress": {"address": context.peer.ip}}, "principal": ""},
        "destination": {"address": {}, "principal": ""},
        "request": {"http": {
            "id": context.request_id,
            "method": action.method,
            "path": path,
            "host": context.host,
            "headers": headers,
            "scheme": "",
            "protocol": "",
            "body": "",
        }},
        "contextExtensions": extensions,
        "metadataContext": {"filterMetadata": {
            "envoy.filters.http.jwt_authn": {"verified_jwt": claims},
            "portcullis": input,
        }},
    })
}

/// The path and query as the gate understood them: encoded anew from what was decoded, so that no two readers differ.
fn path(input: &PolicyInput) -> String {
    let properties = &input.resource.properties;
    let mut path = String::new();
    for segment in &properties.path {
        path.push('/');
        path.extend(utf8_percent_encode(segment, ENCODED));
    }
    if path.is_empty() {
        path.push('/');
    }
    if !properties.query.is_empty() {
        path.push('?');
        let pairs = properties.query.iter().flat_map(|(name, values)| values.iter().map(move |value| (name, value)));
        path = form_urlencoded::Serializer::for_suffix(path.clone(), path.len()).extend_pairs(pairs).finish();
    }
    path
}

/// Everything but what RFC 3986 §2.3 leaves as it is.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{policy::InputFormat, testing::policy_input};

    #[test]
    fn an_envoy_policy_finds_what_it_reads_where_it_reads_it() {
        let mut input = policy_input("PUT", "/orders/{id}");
        input.subject.properties.issuer = "https://login.example".to_owned();
        input.subject.properties.subject = "u1".to_owned();
        input.subject.properties.scopes = vec!["orders:read".to_owned(), "orders:write".to_owned()];
        input.subject.properties.claims.insert("sub".to_owned(), json!("somebody else"));
        input.subject.properties.claims.insert("team".to_owned(), json!("north"));
        input.resource.properties.path = vec!["orders".to_owned(), "a/b c".to_owned()];
        input.resource.properties.query =
            [("expand".to_owned(), vec!["lines".to_owned(), "a&b".to_owned()])].into_iter().collect();
        input.resource.properties.attributes.insert("tier".to_owned(), json!("gold"));
        input.resource.properties.attributes.insert("rank".to_owned(), json!(7));
        input.context.headers.insert("x-tier".to_owned(), vec!["gold".to_owned(), "silver".to_owned()]);
        input.context.host = "api.example".to_owned();
        input.context.request_id = "r1".to_owned();
        input.context.peer.ip = "203.0.113.7".to_owned();
        let document = serde_json::to_value(InputFormat::Envoy.document(&input)).unwrap();
        let path = "/orders/a%2Fb%20c?expand=lines&expand=a%26b";
        assert_eq!(
            document["attributes"]["request"]["http"],
            json!({"id": "r1", "method": "PUT", "path": path, "host": "api.example", "scheme": "", "protocol": "", "body": "",
                "headers": {"x-tier": "gold,silver", ":authority": "api.example", ":method": "PUT", ":path": path, "x-request-id": "r1"}})
        );
        assert_eq!(document["parsed_path"], json!(["orders", "a/b c"]));
        assert_eq!(document["parsed_query"], json!({"expand": ["lines", "a&b"]}));
        assert_eq!((&document["parsed_body"], &document["truncated_body"]), (&Value::Null, &json!(false)));
        let attributes = &document["attributes"];
        assert_eq!(attributes["source"]["address"]["socketAddress"]["address"], "203.0.113.7");
        assert_eq!(attributes["contextExtensions"], json!({"tier": "gold"}));
        let metadata = &attributes["metadataContext"]["filterMetadata"];
        assert_eq!(
            metadata["envoy.filters.http.jwt_authn"]["verified_jwt"],
            json!({"iss": "https://login.example", "sub": "u1", "client_id": "", "scope": "orders:read orders:write", "team": "north"})
        );
        assert_eq!(metadata["portcullis"], serde_json::to_value(&input).unwrap());
    }

    #[test]
    fn a_path_without_segments_is_the_root() {
        let mut input = policy_input("GET", "/");
        input.resource.properties.path.clear();
        assert_eq!(path(&input), "/");
    }
}
