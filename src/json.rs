//! Strict reading of JSON that comes from outside.

use std::{fmt, sync::LazyLock};

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// Reads one JSON object and nothing else, in one pass.
///
/// Stricter than JSON demands ([RFC 8725 §2.4](https://www.rfc-editor.org/rfc/rfc8725#section-2.4), [RFC 7519
/// §4](https://www.rfc-editor.org/rfc/rfc7519#section-4)): a repeated member anywhere, more than 32 levels and more than 256
/// members in one object are refused, so that whoever reads the same bytes reads the same claims, at a bounded cost. `None` for
/// whatever is not accepted: the text of a parser's error would quote the token.
pub(crate) fn object(bytes: &[u8]) -> Option<Map<String, Value>> {
    // One check of the whole is faster than the parser's own for each string.
    let text = std::str::from_utf8(bytes).ok()?;
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let value = Strict { depth: 1, numbers_as_maps: *NUMBERS_AS_MAPS }.deserialize(&mut deserializer).ok()?;
    deserializer.end().ok()?;
    match value {
        Value::Object(members) => Some(members),
        _ => None,
    }
}

#[derive(Clone, Copy)]
struct Strict {
    depth: usize,
    numbers_as_maps: bool,
}

impl Strict {
    fn deeper<E: Error>(self) -> Result<Self, E> {
        if self.depth > MAX_DEPTH {
            return Err(E::custom("nested too deep"));
        }
        Ok(Self { depth: self.depth + 1, ..self })
    }
}

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("not a finite number"))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E: Error>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let inner = self.deeper()?;
        let mut elements = Vec::new();
        while let Some(element) = seq.next_element_seed(inner)? {
            elements.push(element);
        }
        Ok(Value::Array(elements))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let inner = self.deeper()?;
        let mut members = Map::new();
        while let Some(name) = map.next_key::<String>()? {
            if self.numbers_as_maps && name == NUMBER {
                return map.next_value::<String>()?.parse().map(Value::Number).map_err(A::Error::custom);
            }
            if members.len() == MAX_MEMBERS {
                return Err(A::Error::custom("too many members"));
            }
            let value = map.next_value_seed(inner)?;
            if members.insert(name, value).is_some() {
                return Err(A::Error::custom("a repeated member"));
            }
        }
        Ok(Value::Object(members))
    }
}

const MAX_DEPTH: usize = 32;
const MAX_MEMBERS: usize = 256;

/// With serde_json's feature `arbitrary_precision`, which any crate of the application may switch on, a number reaches a visitor as
/// a map of this one member. Without handling it every token would then be refused.
const NUMBER: &str = "$serde_json::private::Number";
static NUMBERS_AS_MAPS: LazyLock<bool> =
    LazyLock::new(|| serde_json::from_str::<Number>("1.00").is_ok_and(|number| number.to_string() == "1.00"));

#[cfg(test)]
mod tests {
    use serde::de::value::{Error, MapDeserializer};
    use serde_json::json;

    use super::*;

    #[test]
    fn plain_objects_are_read_as_they_are() {
        let text = br#" {"a":1,"b":[-1,1.5,"x\u00e9",null,true],"c":{"a":{}}} "#;
        let expected = json!({"a": 1, "b": [-1, 1.5, "x\u{e9}", null, true], "c": {"a": {}}});
        assert_eq!(object(text).map(Value::Object), Some(expected));
    }

    #[test]
    fn whatever_two_parsers_might_read_differently_is_refused() {
        let deep = |levels: usize| format!("{{\"a\":{}{}}}", "[".repeat(levels), "]".repeat(levels));
        let wide = |members: usize| {
            let members: Vec<_> = (0..members).map(|index| format!("\"m{index}\":0")).collect();
            format!("{{{}}}", members.join(","))
        };
        let accepted = [("31 levels inside", deep(31)), ("256 members", wide(256))];
        for (name, text) in accepted {
            assert!(object(text.as_bytes()).is_some(), "{name}");
        }
        let refused: [(&str, Vec<u8>); 24] = [
            ("empty", b"".to_vec()),
            ("array", b"[]".to_vec()),
            ("string", b"\"a\"".to_vec()),
            ("null", b"null".to_vec()),
            ("repeated member", br#"{"a":1,"a":1}"#.to_vec()),
            ("repeated member, escaped", br#"{"a":1,"\u0061":2}"#.to_vec()),
            ("repeated member, nested", br#"{"a":{"b":[{"c":1,"c":2}]}}"#.to_vec()),
            ("bytes after", b"{}x".to_vec()),
            ("object after", b"{}{}".to_vec()),
            ("NUL after", b"{}\0".to_vec()),
            ("byte order mark", b"\xef\xbb\xbf{}".to_vec()),
            ("invalid UTF-8", b"{\"a\":\"\xff\"}".to_vec()),
            ("overlong UTF-8", b"{\"a\":\"\xc0\xaf\"}".to_vec()),
            ("lone surrogate", br#"{"a":"\ud800"}"#.to_vec()),
            ("control character", b"{\"a\":\"\n\"}".to_vec()),
            ("NaN", br#"{"a":NaN}"#.to_vec()),
            ("infinity", br#"{"a":1e400}"#.to_vec()),
            ("leading zero", br#"{"a":01}"#.to_vec()),
            ("trailing comma", br#"{"a":1,}"#.to_vec()),
            ("comment", br#"{/**/"a":1}"#.to_vec()),
            ("single quotes", b"{'a':1}".to_vec()),
            ("33 levels", deep(32).into_bytes()),
            ("257 members", wide(257).into_bytes()),
            ("a million levels", deep(1_000_000).into_bytes()),
        ];
        for (name, text) in refused {
            assert_eq!(object(&text), None, "{name}");
        }
    }

    #[test]
    fn numbers_arrive_as_numbers_whatever_features_serde_json_has() {
        let number = |numbers_as_maps| {
            let map = MapDeserializer::<_, Error>::new([(NUMBER, "17")].into_iter());
            Strict { depth: 1, numbers_as_maps }.deserialize(map).unwrap()
        };
        assert_eq!(number(true), json!(17));
        assert_eq!(number(false), json!({ NUMBER: "17" }), "an ordinary member where numbers come as numbers");
        assert_eq!(object(br#"{"a":17}"#), Some(Map::from_iter([("a".to_owned(), json!(17))])));
    }
}
