use serde::Serialize;
use serde_json::{Map, Number, Value};

use crate::policy::PolicyInput;

/// One question, as [AuthZEN 1.0] puts it: may this subject do this to this resource, under these circumstances?
///
/// Made from a [`PolicyInput`]; what it is made into is the mapping of [`AuthZenBuilder::with_mapping`](super::AuthZenBuilder::with_mapping).
///
/// ```
/// use portcullis::policy::{AuthZen, authzen::Evaluation};
///
/// // For a decision point that knows accounts by the path parameter.
/// let backend = AuthZen::builder("https://pdp.example").with_mapping(|input| {
///     let mut evaluation = Evaluation::of(input);
///     if let Some(id) = input.resource.properties.params.get("account") {
///         evaluation.resource.r#type = "account".to_owned();
///         evaluation.resource.id = id.clone();
///     }
///     evaluation
/// });
/// # let _ = backend;
/// ```
///
/// Before it is sent, members that are null are left out, and whole numbers that a double cannot hold become texts, in decimal
/// ([RFC 7493 §2.2](https://www.rfc-editor.org/rfc/rfc7493#section-2.2)): `context.time_ns` always does. Maps that are empty are left out on the
/// top, as the specification has them optional.
///
/// [AuthZEN 1.0]: https://openid.net/specs/authorization-api-1_0.html
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Evaluation {
    /// Who asks.
    pub subject: Entity,
    /// What they want to do.
    pub action: Action,
    /// What they want to do it to.
    pub resource: Entity,
    /// Under which circumstances.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub context: Map<String, Value>,
}

/// A subject or a resource.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Entity {
    /// Of which kind it is.
    pub r#type: String,
    /// Which one of that kind.
    pub id: String,
    /// What else is known of it.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub properties: Map<String, Value>,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Action {
    /// Its name.
    pub name: String,
    /// What else is known of it.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub properties: Map<String, Value>,
}

/// When a decision point stops deciding several questions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Semantic {
    /// Never: every question is decided.
    #[default]
    ExecuteAll,
    /// At the first deny: all of them are needed.
    DenyOnFirstDeny,
    /// At the first allow: one of them is enough.
    PermitOnFirstPermit,
}

impl Evaluation {
    /// The four members of the [`PolicyInput`] under their own names: the default.
    #[must_use]
    pub fn of(input: &PolicyInput) -> Self {
        Self {
            subject: Entity {
                r#type: input.subject.r#type.to_owned(),
                id: input.subject.id.clone(),
                properties: members(&input.subject.properties),
            },
            action: Action { name: input.action.name.clone(), properties: members(&input.action.properties) },
            resource: Entity {
                r#type: input.resource.r#type.clone(),
                id: input.resource.id.clone(),
                properties: members(&input.resource.properties),
            },
            context: members(&input.context),
        }
    }

    /// In the words that API gateways use: the subject is an `identity` with the `sub` of its token, the action the HTTP method, the resource
    /// the `route` by its template (or the `grpc_method`). Rules that name actions and resource types otherwise have no say.
    ///
    /// `sub` alone is unique within one issuer only: with several issuers, let the policy look at `subject.properties.issuer` too.
    #[must_use]
    pub fn gateway(input: &PolicyInput) -> Self {
        let mut evaluation = Self::of(input);
        "identity".clone_into(&mut evaluation.subject.r#type);
        evaluation.subject.id.clone_from(&input.subject.properties.subject);
        let is_grpc = input.action.properties.protocol == "grpc";
        if is_grpc { &input.resource.id } else { &input.action.method }.clone_into(&mut evaluation.action.name);
        if is_grpc { "grpc_method" } else { "route" }.clone_into(&mut evaluation.resource.r#type);
        evaluation
    }

    /// As it may be sent.
    pub(super) fn into_legal(mut self) -> Self {
        let parts = [
            &mut self.subject.properties,
            &mut self.action.properties,
            &mut self.resource.properties,
            &mut self.context,
        ];
        for part in parts {
            *part = legal(std::mem::take(part));
        }
        self
    }
}

fn members(part: &impl Serialize) -> Map<String, Value> {
    #[expect(clippy::expect_used, reason = "texts, numbers, lists and maps with text names: none of it can fail")]
    let value = serde_json::to_value(part).expect("a part of a policy input is JSON");
    match value {
        Value::Object(members) => members,
        other => Map::from_iter([("value".to_owned(), other)]),
    }
}

fn legal(members: Map<String, Value>) -> Map<String, Value> {
    members.into_iter().filter(|(_, value)| !value.is_null()).map(|(name, value)| (name, legal_value(value))).collect()
}

fn legal_value(value: Value) -> Value {
    match value {
        Value::Object(members) => Value::Object(legal(members)),
        // A null among others holds a place.
        Value::Array(items) => Value::Array(items.into_iter().map(legal_value).collect()),
        Value::Number(number) if !is_exact(&number) => Value::String(number.to_string()),
        other => other,
    }
}

/// Whether a reader that knows doubles alone reads the same whole number.
fn is_exact(number: &Number) -> bool {
    match number.as_i64().map(i64::unsigned_abs).or_else(|| number.as_u64()) {
        Some(size) => size <= MAX_SAFE,
        // A whole number too large for either, which serde_json keeps where a crate of the application told it so.
        None => number.to_string().bytes().any(|byte| matches!(byte, b'.' | b'e' | b'E')),
    }
}

/// RFC 7493 §2.2.
const MAX_SAFE: u64 = (1 << 53) - 1;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::policy_input;

    fn sent(evaluation: Evaluation) -> Value {
        serde_json::to_value(evaluation.into_legal()).unwrap()
    }

    #[test]
    fn the_default_has_the_members_of_the_input_under_their_own_names() {
        let input = policy_input("GET", "/jobs/{id}");
        let mut expected = serde_json::to_value(&input).unwrap();
        expected["context"]["time_ns"] = json!(0);
        assert_eq!(sent(Evaluation::of(&input)), expected);
    }

    #[test]
    fn what_is_sent_has_no_null_member_and_no_number_that_a_double_cannot_hold() {
        let mut input = policy_input("GET", "/jobs");
        input.context.time_ns = 1_800_000_000_000_000_001;
        let claims = json!({"none": null, "deep": {"none": null, "list": [null, {"none": null, "n": -9_007_199_254_740_992_i64}]},
            "safe": 9_007_199_254_740_991_u64, "unsafe": 9_007_199_254_740_992_u64, "half": 0.5, "huge": 1e300});
        let Value::Object(claims) = claims else { unreachable!() };
        input.subject.properties.claims = claims;
        let sent = sent(Evaluation::of(&input));
        assert_eq!(sent["context"]["time_ns"], "1800000000000000001");
        assert_eq!(
            sent["subject"]["properties"]["claims"],
            json!({"deep": {"list": [null, {"n": "-9007199254740992"}]}, "safe": 9_007_199_254_740_991_u64,
                "unsafe": "9007199254740992", "half": 0.5, "huge": 1e300})
        );
    }

    #[test]
    fn a_gateway_asks_about_identities_methods_and_routes() {
        let mut input = policy_input("GET", "/todos/{todoId}");
        input.subject.id = "https://login.example|rick".into();
        input.subject.properties.subject = "rick".into();
        input.action.name = "todos.read".into();
        input.resource.r#type = "todo".into();
        let http = Evaluation::gateway(&input);
        input.action.properties.protocol = "grpc";
        input.resource.id = "todo.v1.Todos/Get".into();
        let grpc = Evaluation::gateway(&input);
        for (evaluation, action, kind, id) in
            [(http, "GET", "route", "/todos/{todoId}"), (grpc, "todo.v1.Todos/Get", "grpc_method", "todo.v1.Todos/Get")]
        {
            assert_eq!((&*evaluation.subject.r#type, &*evaluation.subject.id), ("identity", "rick"));
            assert_eq!(
                (&*evaluation.action.name, &*evaluation.resource.r#type, &*evaluation.resource.id),
                (action, kind, id)
            );
        }
    }
}
