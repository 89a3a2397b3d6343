//! Strict reading of JSON that comes from outside.

use std::{borrow::Cow, cell::Cell, fmt, sync::LazyLock};

use serde::{
    Deserialize,
    de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Number, Value};

/// Reads one JSON object and nothing else, in one pass.
///
/// Stricter than JSON demands ([RFC 8725 §2.4](https://www.rfc-editor.org/rfc/rfc8725#section-2.4), [RFC 7519
/// §4](https://www.rfc-editor.org/rfc/rfc7519#section-4)): a repeated member anywhere, more than 32 levels, more than 256 members in
/// one object and more than 4096 values in all are refused, so that whoever reads the same bytes reads the same claims, at a bounded
/// cost. `None` for whatever is not accepted: the text of a parser's error would quote the token.
pub(crate) fn object(bytes: &[u8]) -> Option<Map<String, Value>> {
    match read(bytes, Strict::keeping(&Cell::new(MAX_VALUES)))? {
        Found::Other(Value::Object(members)) => Some(members),
        _ => None,
    }
}

/// Reads the members of these names, in this order, from the top level of one JSON object.
///
/// As strict as [`object`] with every other member too, and keeps none of them, so that odd input costs next to no memory.
pub(crate) fn members<'a, const N: usize>(bytes: &'a [u8], names: [&str; N]) -> Option<[Option<Found<'a>>; N]> {
    read(bytes, Members { strict: Strict::walking(&Cell::new(MAX_VALUES)), names })
}

/// A value that was read.
pub(crate) enum Found<'de> {
    /// Borrowed unless the text has escapes.
    Text(Cow<'de, str>),
    Number(Number),
    /// `null`, a boolean, an array or an object; `null` in place of one that is not kept.
    Other(Value),
}

impl From<Found<'_>> for Value {
    fn from(found: Found<'_>) -> Self {
        match found {
            Found::Text(text) => Self::String(text.into_owned()),
            Found::Number(number) => Self::Number(number),
            Found::Other(value) => value,
        }
    }
}

fn read<'de, S: DeserializeSeed<'de>>(bytes: &'de [u8], seed: S) -> Option<S::Value> {
    // One check of the whole is faster than the parser's own for each string.
    let text = std::str::from_utf8(bytes).ok()?;
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let value = seed.deserialize(&mut deserializer).ok()?;
    deserializer.end().ok()?;
    Some(value)
}

/// One value, with everything in it.
#[derive(Clone, Copy)]
struct Strict<'b> {
    depth: usize,
    /// How many more values the document may have.
    left: &'b Cell<usize>,
    /// False to walk arrays and objects without keeping what is in them.
    keeps: bool,
    numbers_as_maps: bool,
}

impl<'b> Strict<'b> {
    fn keeping(left: &'b Cell<usize>) -> Self {
        Self { depth: 1, left, keeps: true, numbers_as_maps: *NUMBERS_AS_MAPS }
    }

    fn walking(left: &'b Cell<usize>) -> Self {
        Self { keeps: false, ..Self::keeping(left) }
    }

    fn deeper<E: Error>(self) -> Result<Self, E> {
        if self.depth > MAX_DEPTH {
            return Err(E::custom("nested too deep"));
        }
        Ok(Self { depth: self.depth + 1, ..self })
    }

    fn keep<'de, A: MapAccess<'de>>(self, mut map: A) -> Result<Found<'de>, A::Error> {
        let mut members = Map::new();
        while let Some(Name(name)) = map.next_key()? {
            if self.is_number(&name) {
                return number(map);
            }
            if members.len() == MAX_MEMBERS {
                return Err(A::Error::custom("too many members"));
            }
            let value = map.next_value_seed(self)?;
            if members.insert(name.into_owned(), value.into()).is_some() {
                return Err(A::Error::custom("a repeated member"));
            }
        }
        Ok(Found::Other(Value::Object(members)))
    }

    fn walk<'de, A: MapAccess<'de>>(self, mut map: A) -> Result<Found<'de>, A::Error> {
        let mut names = Names::default();
        while let Some(Name(name)) = map.next_key()? {
            if self.is_number(&name) {
                return number(map);
            }
            names.add(name)?;
            map.next_value_seed(self)?;
        }
        names.check_distinct()?;
        Ok(Found::Other(Value::Null))
    }

    fn is_number(&self, name: &str) -> bool {
        self.numbers_as_maps && name == NUMBER
    }
}

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = Found<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Found<'de>, D::Error> {
        let left = self.left.get().checked_sub(1).ok_or_else(|| D::Error::custom("too many values"))?;
        self.left.set(left);
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = Found<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E: Error>(self) -> Result<Found<'de>, E> {
        Ok(Found::Other(Value::Null))
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Found<'de>, E> {
        Ok(Found::Other(Value::Bool(value)))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Found<'de>, E> {
        Ok(Found::Number(value.into()))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Found<'de>, E> {
        Ok(Found::Number(value.into()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Found<'de>, E> {
        Number::from_f64(value).map(Found::Number).ok_or_else(|| E::custom("not a finite number"))
    }

    fn visit_borrowed_str<E: Error>(self, value: &'de str) -> Result<Found<'de>, E> {
        Ok(Found::Text(value.into()))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Found<'de>, E> {
        self.visit_string(value.to_owned())
    }

    fn visit_string<E: Error>(self, value: String) -> Result<Found<'de>, E> {
        Ok(Found::Text(value.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Found<'de>, A::Error> {
        let inner = self.deeper()?;
        let mut elements = Vec::new();
        while let Some(element) = seq.next_element_seed(inner)? {
            if self.keeps {
                elements.push(element.into());
            }
        }
        Ok(Found::Other(if self.keeps { Value::Array(elements) } else { Value::Null }))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Found<'de>, A::Error> {
        let inner = self.deeper()?;
        if self.keeps { inner.keep(map) } else { inner.walk(map) }
    }
}

/// One object, of which the named members are kept.
struct Members<'b, 'n, const N: usize> {
    strict: Strict<'b>,
    names: [&'n str; N],
}

impl<'de, const N: usize> DeserializeSeed<'de> for Members<'_, '_, N> {
    type Value = [Option<Found<'de>>; N];

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de, const N: usize> Visitor<'de> for Members<'_, '_, N> {
    type Value = [Option<Found<'de>>; N];

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let inner = self.strict.deeper()?;
        let mut found = [const { None }; N];
        let mut names = Names::default();
        while let Some(Name(name)) = map.next_key()? {
            let value = map.next_value_seed(inner)?;
            let places = std::iter::zip(&mut found, self.names);
            if let Some((place, _)) = places.into_iter().find(|(_, wanted)| name == *wanted) {
                *place = Some(value);
            }
            names.add(name)?;
        }
        names.check_distinct()?;
        Ok(found)
    }
}

/// The names of one object whose members are not kept.
#[derive(Default)]
struct Names<'de>(Vec<Cow<'de, str>>);

impl<'de> Names<'de> {
    fn add<E: Error>(&mut self, name: Cow<'de, str>) -> Result<(), E> {
        if self.0.len() == MAX_MEMBERS {
            return Err(E::custom("too many members"));
        }
        self.0.push(name);
        Ok(())
    }

    /// Sorted, because comparing each with each would let a small token ask for much work.
    fn check_distinct<E: Error>(mut self) -> Result<(), E> {
        self.0.sort_unstable();
        if self.0.array_windows().any(|[one, next]| one == next) {
            return Err(E::custom("a repeated member"));
        }
        Ok(())
    }
}

/// A member's name, borrowed unless it has escapes.
struct Name<'de>(Cow<'de, str>);

impl<'de> Deserialize<'de> for Name<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;

        impl<'de> Visitor<'de> for Text {
            type Value = Name<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name")
            }

            fn visit_borrowed_str<E: Error>(self, value: &'de str) -> Result<Name<'de>, E> {
                Ok(Name(value.into()))
            }

            fn visit_str<E: Error>(self, value: &str) -> Result<Name<'de>, E> {
                Ok(Name(value.to_owned().into()))
            }
        }

        deserializer.deserialize_str(Text)
    }
}

/// With serde_json's feature `arbitrary_precision`, a number is a map whose one member is [`NUMBER`].
fn number<'de, A: MapAccess<'de>>(mut map: A) -> Result<Found<'de>, A::Error> {
    map.next_value::<String>()?.parse().map(Found::Number).map_err(A::Error::custom)
}

const MAX_DEPTH: usize = 32;
const MAX_MEMBERS: usize = 256;
/// Over all levels. An array of numbers grows in memory to many times its text; tokens with a thousand group ids stay below.
const MAX_VALUES: usize = 4096;

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
