//! Changes to bytes, to JSON and to tokens, reproducible from a number.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Map, Value, json};

/// SplitMix64: small, fast, and the same everywhere.
pub struct Random(u64);

impl Random {
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    /// A number below `bound`; 0 when there is none.
    pub const fn below(&mut self, bound: usize) -> usize {
        match bound {
            0 => 0,
            _ => (self.next() % bound as u64) as usize,
        }
    }

    pub fn pick<'a, T: ?Sized>(&mut self, from: &[&'a T]) -> &'a T {
        from[self.below(from.len())]
    }
}

/// One small change at a random place.
pub fn bytes(data: &[u8], random: &mut Random) -> Vec<u8> {
    let mut changed = data.to_vec();
    let at = random.below(data.len());
    match random.below(6) {
        _ if data.is_empty() => changed.push(random.next().to_le_bytes()[0]),
        0 => changed[at] ^= 1 << random.below(8),
        1 => changed[at] = random.next().to_le_bytes()[0],
        2 => changed.insert(at, random.next().to_le_bytes()[0]),
        3 => drop(changed.remove(at)),
        4 => changed.truncate(at),
        _ => {
            let end = at + random.below(data.len() - at + 1);
            changed.splice(at..at, data[at..end].iter().copied());
        }
    }
    changed
}

/// One change to a JSON text that leaves it JSON: a member is set to something odd, taken away, renamed, wrapped or doubled. Of
/// what is no JSON, a change of its bytes.
pub fn json(text: &[u8], random: &mut Random) -> Vec<u8> {
    let Ok(mut value) = serde_json::from_slice::<Value>(text) else {
        return bytes(text, random);
    };
    let nodes = nodes(&value);
    let chosen = random.below(nodes);
    let Some(members) = object(&mut value, chosen) else {
        // An array or a single value: wrapped, it may be what it should have been.
        return json!({ "keys": value, "issuer": odd(random) }).to_string().into_bytes();
    };
    let names: Vec<String> = members.keys().cloned().collect();
    let name = names.get(random.below(names.len())).cloned().unwrap_or_else(|| random.pick(NAMES).to_owned());
    match random.below(7) {
        0 => drop(members.remove(&name)),
        1 => drop(members.insert(name, odd(random))),
        2 => drop(members.insert(random.pick(NAMES).to_owned(), odd(random))),
        3 => {
            let moved = members.remove(&name).unwrap_or_default();
            members.insert(renamed(&name, random), moved);
        }
        4 => {
            let wrapped = members.remove(&name).unwrap_or_default();
            members.insert(name, if random.below(2) == 0 { json!([wrapped]) } else { json!({ "sub": wrapped }) });
        }
        5 => {
            let moved = members.get(&name).cloned().unwrap_or_default();
            members.insert(random.pick(NAMES).to_owned(), moved);
        }
        // What no JSON value can say: the member stands twice, the second time or the first with something else.
        _ => {
            let (whole, again) = (value.to_string(), format!("{}:{}", json!(name), odd(random)));
            let inner = whole.trim_start_matches('{').trim_end_matches('}');
            let both = if random.below(2) == 0 { [again.as_str(), inner] } else { [inner, again.as_str()] };
            return format!("{{{}}}", both.join(",")).into_bytes();
        }
    }
    value.to_string().into_bytes()
}

/// One change to a compact JWS: to the JSON of its header or payload, to the bytes of one segment, or to the text.
pub fn jws(text: &[u8], random: &mut Random) -> Vec<u8> {
    let mut segments: Vec<Vec<u8>> = text.split(|byte| *byte == b'.').map(<[u8]>::to_vec).collect();
    let at = random.below(segments.len());
    let decoded = URL_SAFE_NO_PAD.decode(&segments[at]).ok();
    match (random.below(8), decoded) {
        (0..4, Some(decoded)) if at < 2 => segments[at] = URL_SAFE_NO_PAD.encode(json(&decoded, random)).into(),
        (0..6, Some(decoded)) => segments[at] = URL_SAFE_NO_PAD.encode(bytes(&decoded, random)).into(),
        (6, _) => {
            let other = random.below(segments.len());
            segments.swap(at, other);
        }
        _ => return bytes(text, random),
    }
    segments.join(&b'.')
}

/// Values that a claim or a member may be made to have.
pub fn odd(random: &mut Random) -> Value {
    const TEXTS: &[&str] = &[
        "",
        " ",
        "\0",
        "*",
        "none",
        "HS256",
        "ES256",
        "EdDSA",
        "enc",
        "JWT",
        "at+jwt",
        "dpop+jwt",
        "https://login.example",
        "https://login.example/",
        "https://login.example/\u{0}",
        "https://user@login.example/",
        "https://login.example#@evil.example/",
        "http://login.example/",
        "http://127.0.0.1:1/",
        "http://localhost.evil.example/",
        "http://[::ffff:127.0.0.1]/",
        "http://169.254.169.254/",
        "http:/\\evil.example/",
        "file:///etc/passwd",
        "https://api.example",
        "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
        "AQAB",
        "AA",
    ];
    match random.below(12) {
        0 => Value::Null,
        1 => json!(random.below(2) == 0),
        2 => json!(random.next()),
        3 => json!(-1),
        4 => json!(1e300),
        5 => json!(1_800_000_000.5 + random.below(1000) as f64 - 500.0),
        6 => json!([]),
        7 => json!({}),
        8 => json!([random.pick(TEXTS), random.pick(TEXTS)]),
        9 => json!({ random.pick(NAMES): random.pick(TEXTS) }),
        _ => json!(random.pick(TEXTS)),
    }
}

/// A name that a careless reader takes for this one.
fn renamed(name: &str, random: &mut Random) -> String {
    match random.below(4) {
        0 => name.to_uppercase(),
        1 => format!("{name}\u{0}"),
        2 => name.replacen('s', "\u{17f}", 1),
        _ => format!(" {name}"),
    }
}

/// How many objects there are in a value.
fn nodes(value: &Value) -> usize {
    match value {
        Value::Object(members) => 1 + members.values().map(nodes).sum::<usize>(),
        Value::Array(elements) => elements.iter().map(nodes).sum(),
        _ => 0,
    }
}

/// The object of this number, counted from outside.
fn object(value: &mut Value, number: usize) -> Option<&mut Map<String, Value>> {
    fn find<'a>(value: &'a mut Value, number: &mut usize) -> Option<&'a mut Map<String, Value>> {
        match value {
            Value::Object(members) => {
                if *number == 0 {
                    return Some(members);
                }
                *number -= 1;
                members.values_mut().find_map(|value| find(value, number))
            }
            Value::Array(elements) => elements.iter_mut().find_map(|value| find(value, number)),
            _ => None,
        }
    }
    find(value, &mut { number })
}

/// Names that mean something, to one reader or another.
const NAMES: &[&str] = &[
    "iss",
    "sub",
    "aud",
    "exp",
    "nbf",
    "iat",
    "jti",
    "azp",
    "client_id",
    "scope",
    "scp",
    "roles",
    "permissions",
    "act",
    "cnf",
    "nonce",
    "at_hash",
    "events",
    "typ",
    "token_use",
    "sub_profile",
    "gty",
    "org_id",
    "auth_time",
    "acr",
    "amr",
    "alg",
    "kid",
    "crit",
    "b64",
    "zip",
    "enc",
    "jwk",
    "jku",
    "x5c",
    "x5u",
    "keys",
    "kty",
    "crv",
    "n",
    "e",
    "x",
    "y",
    "d",
    "k",
    "use",
    "key_ops",
    "issuer",
    "jwks_uri",
];
