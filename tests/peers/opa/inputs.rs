//! Questions for one policy of the corpus, drawn from what its `inputs.json` says that it reacts to.

use std::collections::BTreeSet;

use portcullis::{
    policy::{ActorInput, PolicyInput},
    testing::policy_input,
};
use serde::Deserialize;
use serde_json::{Value, json};

/// What may be asked: for each member of the input, where it is drawn from.
#[derive(Debug, Deserialize)]
pub(super) struct Inputs {
    /// In percent: how often a member is the first one of its list, by which most policies allow.
    usual: u64,
    draw: serde_json::Map<String, Value>,
}

/// The same numbers in each run.
pub(super) struct Random(u64);

impl Inputs {
    /// As many different questions as asked for. `actor` is copied, since nobody else can make one.
    pub(super) fn questions(&self, name: &str, count: usize, actor: &ActorInput) -> Vec<PolicyInput> {
        let mut random = Random::seeded(name);
        let (mut questions, mut seen) = (Vec::new(), BTreeSet::new());
        for _ in 0..count * 100 {
            if questions.len() == count {
                break;
            }
            let mut drawn: Vec<_> = self.draw.iter().map(|(path, from)| (path, self.one(from, &mut random))).collect();
            if random.percent(15) {
                let at = random.below(drawn.len());
                drawn[at].1 = odd(drawn[at].0, &drawn[at].1, &mut random);
            }
            if seen.insert(json!(drawn).to_string()) {
                let drawn: Vec<_> = drawn.iter().map(|(path, value)| (path.as_str(), value)).collect();
                questions.push(question(&drawn, questions.len(), actor));
            }
        }
        questions
    }

    /// A list stands for one of its items, `subset` for some of its items in their order, `between` for a whole number.
    fn one(&self, from: &Value, random: &mut Random) -> Value {
        match from {
            Value::Array(items) if random.percent(self.usual) => items[0].clone(),
            Value::Array(items) => items[random.below(items.len())].clone(),
            Value::Object(members) => match (members.get("subset"), members.get("between")) {
                (Some(Value::Array(items)), None) => {
                    let share = if random.percent(self.usual) { 80 } else { 35 };
                    items.iter().filter(|_| random.percent(share)).cloned().collect()
                }
                (None, Some(bounds)) => {
                    let (low, high) = (bounds[0].as_u64().unwrap(), bounds[1].as_u64().unwrap());
                    json!(low + random.next() % (high - low + 1))
                }
                _ => panic!("{from} is neither a list, a subset nor a range"),
            },
            _ => panic!("{from} is neither a list, a subset nor a range"),
        }
    }
}

impl Random {
    pub(super) fn seeded(name: &str) -> Self {
        Self(
            name.bytes()
                .fold(0xcbf2_9ce4_8422_2325, |seed, byte| (seed ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)),
        )
    }

    /// SplitMix64.
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(bound).unwrap()).unwrap()
    }

    fn percent(&mut self, share: u64) -> bool {
        self.next() % 100 < share
    }

    fn of<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }
}

/// Something of the same type that a well-meaning caller would not send. What the application or the issuer puts in has any type.
fn odd(path: &str, value: &Value, random: &mut Random) -> Value {
    match (path.split('.').next().unwrap(), value) {
        ("claims" | "context" | "attributes", _) => random
            .of(&[
                json!(null),
                json!(true),
                json!(0),
                json!(-1),
                json!(1.0),
                json!(1e3),
                json!(0.1),
                json!(u64::MAX),
                json!(1e300),
                json!(""),
                json!([]),
                json!({}),
                json!([[]]),
                json!({"a": {"b": [1]}}),
            ])
            .clone(),
        ("route" | "method" | "kind", _) | ("query" | "headers", Value::Null) => value.clone(),
        (_, Value::Number(_)) => random.of(&[json!(0), json!(1), json!(u64::MAX), json!(i64::MAX)]).clone(),
        (_, Value::Array(items)) if items.iter().all(Value::is_string) => {
            let twice: Vec<_> = items.iter().chain(items).cloned().collect();
            random.of(&[json!([]), json!([""]), json!(twice), json!(["*"]), json!(["\u{e9}\u{1f600}"])]).clone()
        }
        (_, Value::Array(_)) => json!([]),
        _ => random
            .of(&[
                "",
                " ",
                "*",
                "..",
                "a/b",
                "%2F",
                "null",
                "true",
                "0",
                "ADMIN",
                "admin ",
                "\u{e9}",
                "\u{1f600}",
                "\u{0}",
            ])
            .to_owned()
            .into(),
    }
}

fn question(drawn: &[(&str, &Value)], number: usize, actor: &ActorInput) -> PolicyInput {
    let said = |path| drawn.iter().find(|(drawn, _)| *drawn == path).map(|(_, value)| text(value));
    let route = said("route").unwrap_or_else(|| "/".to_owned());
    let method = said("method").unwrap_or_else(|| "GET".to_owned());
    let mut input = policy_input(&method, &route);
    input.subject.r#type = "user";
    input.context.request_id = format!("request-{number}");
    input.context.time_ns = 1_772_442_000_000_000_000;
    if !route.starts_with('/') {
        input.action.name = route.clone();
        input.action.properties.protocol = "grpc";
        input.resource.r#type = "grpc_method".to_owned();
        input.resource.properties.path = route.split('/').map(str::to_owned).collect();
    }
    for (path, value) in drawn {
        set(&mut input, path, value, actor);
    }
    let params = input.resource.properties.params.clone();
    for segment in &mut input.resource.properties.path {
        let name = segment.strip_prefix('{').and_then(|name| name.strip_suffix('}'));
        if let Some(value) = name.and_then(|name| params.get(name)) {
            segment.clone_from(value);
        }
    }
    input
}

fn set(input: &mut PolicyInput, path: &str, value: &Value, actor: &ActorInput) {
    let PolicyInput { subject, action, resource, context, .. } = input;
    let (properties, text) = (&mut subject.properties, || text(value));
    let texts = || value.as_array().unwrap().iter().map(self::text).collect::<Vec<_>>();
    let shared = || texts().into_iter().map(Into::into).collect::<Vec<_>>();
    let (member, name) = path.split_once('.').unwrap_or((path, ""));
    match member {
        "route" | "method" => {}
        "kind" => subject.r#type = KINDS.into_iter().find(|kind| *kind == text()).unwrap(),
        "id" => subject.id = text(),
        "subject" => properties.subject = text(),
        "issuer" => properties.issuer = text(),
        "client" => properties.client_id = text(),
        "tenant" => properties.tenant = text(),
        "scopes" => properties.scopes = texts(),
        "permissions" => properties.permissions = shared(),
        "roles" => properties.roles = shared(),
        "acr" => properties.acr = text(),
        "amr" => properties.amr = shared(),
        "auth_time" => properties.auth_time = value.as_u64().unwrap(),
        "actor" => {
            let link = |id| {
                let mut link = actor.clone();
                (link.id, link.client_id, link.issuer) = (id, "".to_owned(), "https://login.example/".to_owned());
                link
            };
            properties.actor = texts().into_iter().map(link).collect();
        }
        "action" => action.name = text(),
        "resource_type" => resource.r#type = text(),
        "host" => context.host = text(),
        "trace_id" => context.trace_id = text(),
        "ip" => context.peer.ip = text(),
        "seconds" => context.time_ns = value.as_u64().unwrap().saturating_mul(1_000_000_000),
        // What may be absent: null leaves it out.
        _ if value.is_null() => {}
        "claims" => drop(properties.claims.insert(name.to_owned(), value.clone())),
        "attributes" => drop(resource.properties.attributes.insert(name.to_owned(), value.clone())),
        "context" => drop(context.attributes.insert(name.to_owned(), value.clone())),
        "params" => drop(resource.properties.params.insert(name.to_owned(), text())),
        "query" => drop(resource.properties.query.insert(name.to_owned(), texts())),
        "headers" => drop(context.headers.insert(name.to_owned(), texts())),
        _ => panic!("the input has no member {path}"),
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text")).to_owned()
}

const KINDS: [&str; 5] = ["user", "client", "agent", "workload", "anonymous"];
