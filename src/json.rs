//! Strict reading of JSON that comes from outside.

use std::{borrow::Cow, cell::Cell, fmt, sync::LazyLock};

use serde::{
    Deserialize,
    de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Number, Value};

/// Reads one JSON object and nothing else, in one pass.
///
/// Stricter than JSON demands ([RFC 8725 §2.4](https://www.rfc-editor.org/rfc/rfc8725#section-2.4), [RFC 7519
/// §4](https://www.rfc-editor.org/rfc/rfc7519#section-4)): a repeated member anywhere, more than 32 levels, more than 256 members in
/// one object, and more than 1024 values in all are refused (in a text over 16 KiB, more than one for each 16 bytes), so that whoever
/// reads the same bytes reads the same claims, at a bounded cost. `None` for whatever is not accepted: the text of a parser's error
/// would quote the token.
pub(crate) fn object(bytes: &[u8]) -> Option<Map<String, Value>> {
    object_of(bytes, &max_values(bytes))
}

/// As strict as [`object`], with as many values as there are: for documents that the operator of this service writes.
pub(crate) fn own_object(bytes: &[u8]) -> Option<Map<String, Value>> {
    object_of(bytes, &Cell::new(usize::MAX))
}

fn object_of(bytes: &[u8], max_values: &Cell<usize>) -> Option<Map<String, Value>> {
    match read(bytes, Strict::keeping(max_values))? {
        Found::Other(Value::Object(members)) => Some(members),
        _ => None,
    }
}

/// Looks for texts and numbers of these names, in this order, at the top level of one JSON object, and passes over everything else
/// without reading it: what somebody says who has proven nothing, at the cost of little more than finding the end of it.
///
/// Where [`object`] accepts the same bytes, it finds the same: a repeated one of these names is refused here too. A value that is
/// neither text nor number is found as `null`.
pub(crate) fn glance<'a, const N: usize>(bytes: &'a [u8], names: [&str; N]) -> Option<[Option<Found<'a>>; N]> {
    read(bytes, Glance { names })
}

/// Reads the members of these names, in this order, from the top level of one JSON object, and tells how many there are in all.
///
/// As strict as [`object`] with every other member too, and keeps none of them, so that odd input costs next to no memory.
pub(crate) fn members<'a, const N: usize>(
    bytes: &'a [u8],
    names: [&str; N],
) -> Option<([Option<Found<'a>>; N], usize)> {
    read(bytes, Members { strict: Strict::walking(&max_values(bytes)), names })
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

/// Over all levels. `[0,0,…` takes many times its text in memory and `["","",…` the time of many signatures; a token with a thousand
/// group ids stays below, because an id is longer than that.
fn max_values(text: &[u8]) -> Cell<usize> {
    Cell::new((text.len() / 16).max(MIN_MAX_VALUES))
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

    fn count<E: Error>(self, values: usize) -> Result<(), E> {
        self.left.set(self.left.get().checked_sub(values).ok_or_else(|| E::custom("too many values"))?);
        Ok(())
    }

    fn deeper<E: Error>(self) -> Result<Self, E> {
        if self.depth > MAX_DEPTH {
            return Err(E::custom("nested too deep"));
        }
        Ok(Self { depth: self.depth + 1, ..self })
    }

    fn keep<'de, A: MapAccess<'de>>(self, mut map: A, first: Option<Name<'de>>) -> Result<Value, A::Error> {
        let (mut members, mut next) = (Map::new(), first);
        while let Some(Name(name)) = next {
            if members.len() == MAX_MEMBERS {
                return Err(A::Error::custom("too many members"));
            }
            let value = map.next_value_seed(self)?;
            if members.insert(name.into_owned(), value.into()).is_some() {
                return Err(A::Error::custom("a repeated member"));
            }
            next = map.next_key()?;
        }
        Ok(Value::Object(members))
    }

    fn walk<'de, A: MapAccess<'de>>(
        self,
        mut map: A,
        first: Option<Name<'de>>,
        mut member: impl FnMut(&str, Found<'de>),
    ) -> Result<(), A::Error> {
        let (mut names, mut next) = (Vec::new(), first);
        while let Some(Name(name)) = next {
            if names.len() == MAX_MEMBERS {
                return Err(A::Error::custom("too many members"));
            }
            member(&name, map.next_value_seed(self)?);
            names.push(name);
            next = map.next_key()?;
        }
        // Sorted, because comparing each with each would let a small token ask for much work.
        names.sort_unstable();
        if names.array_windows().any(|[one, next]| one == next) {
            return Err(A::Error::custom("a repeated member"));
        }
        Ok(())
    }

    /// What holds for the members of an object.
    fn inside<'de, E: Error>(self, first: Option<&Name<'de>>) -> Result<Self, E> {
        if first.is_some() {
            self.count(OBJECT_WEIGHT - 1)?;
        }
        self.deeper()
    }
}

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = Found<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Found<'de>, D::Error> {
        self.count(1)?;
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

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Found<'de>, A::Error> {
        let first = map.next_key()?;
        if self.numbers_as_maps && matches!(&first, Some(Name(name)) if name == NUMBER) {
            return map.next_value::<String>()?.parse().map(Found::Number).map_err(A::Error::custom);
        }
        let inside = self.inside(first.as_ref())?;
        if self.keeps {
            return inside.keep(map, first).map(Found::Other);
        }
        inside.walk(map, first, |_, _| ())?;
        Ok(Found::Other(Value::Null))
    }
}

/// One object, of which the named members are kept.
struct Members<'b, 'n, const N: usize> {
    strict: Strict<'b>,
    names: [&'n str; N],
}

impl<'de, const N: usize> DeserializeSeed<'de> for Members<'_, '_, N> {
    type Value = ([Option<Found<'de>>; N], usize);

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        self.strict.count(1)?;
        deserializer.deserialize_map(self)
    }
}

impl<'de, const N: usize> Visitor<'de> for Members<'_, '_, N> {
    type Value = ([Option<Found<'de>>; N], usize);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let (mut found, mut count) = ([const { None }; N], 0);
        let first = map.next_key()?;
        self.strict.inside(first.as_ref())?.walk(map, first, |name, value| {
            count += 1;
            let place = std::iter::zip(&mut found, self.names).find(|(_, wanted)| name == *wanted);
            if let Some((place, _)) = place {
                *place = Some(value);
            }
        })?;
        Ok((found, count))
    }
}

/// One object, of which the named members are looked at.
struct Glance<'n, const N: usize> {
    names: [&'n str; N],
}

impl<'de, const N: usize> DeserializeSeed<'de> for Glance<'_, N> {
    type Value = [Option<Found<'de>>; N];

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de, const N: usize> Visitor<'de> for Glance<'_, N> {
    type Value = [Option<Found<'de>>; N];

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = [const { None }; N];
        while let Some(Name(name)) = map.next_key()? {
            match std::iter::zip(&mut found, self.names).find(|(_, wanted)| name == *wanted) {
                None => drop(map.next_value::<IgnoredAny>()?),
                Some((Some(_), _)) => return Err(A::Error::custom("a repeated member")),
                Some((place, _)) => *place = Some(map.next_value::<Scalar<'de>>()?.0),
            }
        }
        Ok(found)
    }
}

/// A text or a number; anything else is passed over.
struct Scalar<'de>(Found<'de>);

impl<'de> Deserialize<'de> for Scalar<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = Found<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("JSON")
            }

            fn visit_unit<E: Error>(self) -> Result<Found<'de>, E> {
                Ok(Found::Other(Value::Null))
            }

            fn visit_bool<E: Error>(self, _: bool) -> Result<Found<'de>, E> {
                self.visit_unit()
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
                Ok(Found::Text(value.to_owned().into()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Found<'de>, A::Error> {
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                self.visit_unit()
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Found<'de>, A::Error> {
                let mut next = map.next_key()?;
                if *NUMBERS_AS_MAPS && matches!(&next, Some(Name(name)) if name == NUMBER) {
                    return map.next_value::<String>()?.parse().map(Found::Number).map_err(A::Error::custom);
                }
                while next.is_some() {
                    map.next_value::<IgnoredAny>()?;
                    next = map.next_key::<Name<'de>>()?;
                }
                self.visit_unit()
            }
        }

        deserializer.deserialize_any(Either).map(Self)
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

const MAX_DEPTH: usize = 32;
const MAX_MEMBERS: usize = 256;
const MIN_MAX_VALUES: usize = 1024;
/// An object with a member counts as two values: it takes memory for eleven members at once.
const OBJECT_WEIGHT: usize = 2;

/// With serde_json's feature `arbitrary_precision`, which any crate of the application may switch on, a number reaches a visitor as
/// a map of this one member. Without handling it every token would then be refused.
const NUMBER: &str = "$serde_json::private::Number";
static NUMBERS_AS_MAPS: LazyLock<bool> =
    LazyLock::new(|| serde_json::from_str::<Number>("1.00").is_ok_and(|number| number.to_string() == "1.00"));

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::de::value::{Error, MapDeserializer};
    use serde_json::json;

    use super::*;

    /// Whether a text is accepted, which must not hang on what is kept of it.
    fn accepts(bytes: &[u8]) -> bool {
        let kept = object(bytes).is_some();
        let start = &bytes[..bytes.len().min(80)];
        assert_eq!(members(bytes, ["a"]).is_some(), kept, "keeping or not: {}", start.escape_ascii());
        kept
    }

    #[test]
    fn plain_objects_are_read_as_they_are() {
        let text = br#" {"a":1,"b":[-1,1.5,"x\u00e9",null,true],"c":{"a":{}}} "#;
        let expected = json!({"a": 1, "b": [-1, 1.5, "x\u{e9}", null, true], "c": {"a": {}}});
        assert_eq!(object(text).map(Value::Object), Some(expected));
    }

    #[test]
    fn the_members_that_are_asked_for_are_found_by_their_exact_names() {
        let text = br#"{"A":"0","a":"x","b":"\u0079","c":1,"d":[1,{"a":2}],"\u0065":null,"f ":"z"}"#;
        let names = ["a", "b", "c", "d", "e", "f", "g"];
        let (found, count) = members(text, names).unwrap();
        assert_eq!(count, 7);
        for (how, [a, b, c, d, e, f, g]) in [("read", found), ("glanced at", glance(text, names).unwrap())] {
            assert!(matches!(a, Some(Found::Text(Cow::Borrowed("x")))), "{how}");
            assert!(matches!(b, Some(Found::Text(Cow::Owned(text))) if text == "y"), "{how}");
            assert!(matches!(c, Some(Found::Number(number)) if number == 1.into()), "{how}");
            assert!(matches!(d, Some(Found::Other(Value::Null))), "{how}: not kept");
            assert!(matches!(e, Some(Found::Other(Value::Null))), "{how}");
            assert!(f.is_none() && g.is_none(), "{how}");
        }
    }

    #[test]
    fn a_glance_passes_over_what_is_odd_and_refuses_what_it_looks_for_twice() {
        let passed_over = [
            r#"{"x":[{"b":1,"b":2}],"x":0,"a":7}"#,
            r#"{"a":7,"x":{"a":1,"a":2}}"#,
            &format!(r#"{{"x":{}{},"a":7}}"#, "[".repeat(5_000), "]".repeat(5_000)),
            &format!(r#"{{"x":[0{}],"a":7}}"#, ",0".repeat(5_000)),
        ];
        for text in passed_over {
            let [a] = glance(text.as_bytes(), ["a"]).unwrap();
            assert!(matches!(a, Some(Found::Number(number)) if number == 7.into()), "{}", &text[..20]);
            assert!(object(text.as_bytes()).is_none(), "{}", &text[..20]);
        }
        let other = [r#"{"a":true}"#, r#"{"a":null}"#, r#"{"a":["x"]}"#, r#"{"a":{"x":"y"}}"#, r#"{"a":[{},[]]}"#];
        for text in other {
            assert!(matches!(glance(text.as_bytes(), ["a"]), Some([Some(Found::Other(Value::Null))])), "{text}");
        }
        let numbers = [("-1", (-1).into()), ("1.5", Number::from_f64(1.5).unwrap())];
        for (text, expected) in numbers {
            let found = glance(format!(r#"{{"a":{text}}}"#).as_bytes(), ["a"]).map(|[a]| a.map(Value::from));
            assert_eq!(found, Some(Some(Value::Number(expected))));
        }
        let refused = [
            "",
            "[]",
            "null",
            "{",
            r#"{"a":1"#,
            r#"{"a":1}x"#,
            r#"{"a":1,"a":1}"#,
            r#"{"a":1,"\u0061":1}"#,
            r#"{"a":[]],"b":0}"#,
            r#"{"x":"#,
            r#"{"a":1e999}"#,
            "{\"x\":\"\u{1}\"}",
        ];
        for text in refused {
            assert!(glance(text.as_bytes(), ["a"]).is_none(), "{text}");
        }
        assert!(glance(b"{\"x\":\"\xff\"}", ["a"]).is_none(), "no UTF-8");
    }

    #[test]
    fn whatever_two_parsers_might_read_differently_is_refused() {
        let deep = |levels: usize| format!("{{\"a\":{}{}}}", "[".repeat(levels), "]".repeat(levels));
        let wide = |members: usize| {
            let members: Vec<_> = (0..members).map(|index| format!("\"m{index}\":0")).collect();
            format!("{{{}}}", members.join(","))
        };
        // The array is a value, too.
        let many = |values: usize| format!("{{\"a\":[0{}]}}", ",0".repeat(values - OBJECT_WEIGHT - 2));
        let accepted = [
            ("31 levels inside", deep(31)),
            ("256 members", wide(256)),
            ("as many values as may be", many(MIN_MAX_VALUES)),
        ];
        for (name, text) in accepted {
            assert!(accepts(text.as_bytes()), "{name}");
        }
        let refused: [(&str, Vec<u8>); 30] = [
            ("empty", b"".to_vec()),
            ("array", b"[]".to_vec()),
            ("string", b"\"a\"".to_vec()),
            ("null", b"null".to_vec()),
            ("repeated member", br#"{"a":1,"a":1}"#.to_vec()),
            ("repeated member, escaped", br#"{"a":1,"\u0061":2}"#.to_vec()),
            ("repeated member, nested", br#"{"a":{"b":[{"c":1,"c":2}]}}"#.to_vec()),
            ("repeated member, nested aside", br#"{"x":{"b":[{"c":1,"d":0,"c":2}]}}"#.to_vec()),
            ("bytes after", b"{}x".to_vec()),
            ("object after", b"{}{}".to_vec()),
            ("NUL after", b"{}\0".to_vec()),
            ("byte order mark", b"\xef\xbb\xbf{}".to_vec()),
            ("invalid UTF-8", b"{\"a\":\"\xff\"}".to_vec()),
            ("overlong UTF-8", b"{\"a\":\"\xc0\xaf\"}".to_vec()),
            ("lone surrogate", br#"{"a":"\ud800"}"#.to_vec()),
            ("lone surrogate in a name", br#"{"\udc00":1}"#.to_vec()),
            ("control character", b"{\"a\":\"\n\"}".to_vec()),
            ("NaN", br#"{"a":NaN}"#.to_vec()),
            ("infinity", br#"{"a":1e400}"#.to_vec()),
            ("infinity aside", br#"{"x":[-1e999]}"#.to_vec()),
            ("leading zero", br#"{"a":01}"#.to_vec()),
            ("trailing comma", br#"{"a":1,}"#.to_vec()),
            ("comment", br#"{/**/"a":1}"#.to_vec()),
            ("single quotes", b"{'a':1}".to_vec()),
            ("33 levels", deep(32).into_bytes()),
            ("257 members", wide(257).into_bytes()),
            ("257 members inside", format!("{{\"x\":{}}}", wide(257)).into_bytes()),
            ("one value too many", many(MIN_MAX_VALUES + 1).into_bytes()),
            (
                "too many values at all depths",
                format!("{{\"a\":[0{}]}}", ",[{},0]".repeat(MIN_MAX_VALUES / 3)).into_bytes(),
            ),
            ("a million levels", deep(1_000_000).into_bytes()),
        ];
        for (name, text) in refused {
            assert!(!accepts(&text), "{name}");
        }
    }

    /// The bytes that a value takes, rounded up: a map's nodes have room for eleven members and hold at least five, but for the first.
    fn footprint(value: &Value) -> usize {
        size_of::<Value>()
            + match value {
                Value::String(text) => text.capacity(),
                Value::Array(elements) => {
                    let spare = elements.capacity() - elements.len();
                    spare * size_of::<Value>() + elements.iter().map(footprint).sum::<usize>()
                }
                Value::Object(members) => {
                    let node = 11 * (size_of::<String>() + size_of::<Value>()) + 32;
                    let inside = |(name, value): (&String, &Value)| name.capacity() + footprint(value);
                    members.len().div_ceil(4) * node + members.iter().map(inside).sum::<usize>()
                }
                Value::Null | Value::Bool(_) | Value::Number(_) => 0,
            }
    }

    #[test]
    fn what_is_kept_of_a_text_takes_a_bounded_multiple_of_it() {
        let filled = |value: &str, times| format!("{{\"a\":[0{}]}}", format!(",{value}").repeat(times));
        let kept = |text: &str| footprint(&Value::Object(object(text.as_bytes()).unwrap()));
        let wide = (0..255).map(|index| format!("\"{index}\":0,")).collect::<String>();
        let wide = format!("{{{wide}\"\":0}}");
        let deep = format!("{}0{}", "{\"a\":[".repeat(14), "]}".repeat(14));
        for value in ["0", "\"\"", "\"a\"", "[]", "[0]", "{}", "{\"\":0}", &wide, &deep] {
            // What a token of 16 KiB has room for.
            let times: Vec<_> = (0..=12 * 1024 / (value.len() + 1)).collect();
            let most = filled(value, times.partition_point(|times| accepts(filled(value, *times).as_bytes())) - 1);
            assert!(kept(&most) <= 320 * 1024, "{value}: {} bytes of {}", kept(&most), most.len());
        }
        let spaced = |value: &str, width: usize| format!("{value:width$}");
        for value in [
            spaced("\"a\"", 17),
            spaced("[0]", 34),
            spaced("{\"\":0}", 50),
            wide.replace("\":", "            \":"),
            spaced(&deep, deep.len() + 16 * 45),
            format!("\"{}\"", "x".repeat(300)),
            format!("\"{}\"", "\\u00e9".repeat(50)),
        ] {
            // What a token of 1 MiB, the most that can be configured, has room for.
            let most = filled(&value, 768 * 1024 / (value.len() + 1));
            assert!(kept(&most) <= 12 * 1024 * 1024, "{value}: {} bytes of {}", kept(&most), most.len());
        }
    }

    #[test]
    fn numbers_arrive_as_numbers_whatever_features_serde_json_has() {
        let number = |numbers_as_maps, keeps| {
            let left = Cell::new(if numbers_as_maps { 1 } else { OBJECT_WEIGHT + 1 });
            let map = MapDeserializer::<_, Error>::new([(NUMBER, "17")].into_iter());
            let depth = if numbers_as_maps { MAX_DEPTH + 1 } else { MAX_DEPTH };
            let strict = Strict { numbers_as_maps, keeps, depth, ..Strict::keeping(&left) };
            strict.deserialize(map).map(Value::from).unwrap()
        };
        assert_eq!(number(true, true), json!(17), "neither weighs nor nests like an object");
        assert_eq!(number(true, false), json!(17));
        assert_eq!(number(false, true), json!({ NUMBER: "17" }), "an ordinary member where numbers come as numbers");
        assert_eq!(object(br#"{"a":17}"#), Some(Map::from_iter([("a".to_owned(), json!(17))])));
    }

    proptest! {
        #[test]
        fn what_is_kept_changes_no_verdict(text in "(\\{(\"[ab]\":([01]|\"x\"|\\[[01,]{0,3}\\]|\\{\"[ab]\":0,\"[ab]\":1\\}),?){0,3}\\}|.{0,20})", bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            accepts(text.as_bytes());
            accepts(&bytes);
        }

        #[test]
        fn a_glance_finds_what_the_reader_finds(text in "\\{(\"(a|b|\\\\u0061)\":(-?[0-9]{1,3}(\\.5)?|\"x?\"|true|null|\\[[01,]{0,3}\\]|\\{\"[ab]\":0\\}),?){0,3}\\}") {
            if let Some(members) = object(text.as_bytes()) {
                let found = glance(text.as_bytes(), ["a", "b"]).map(|found| found.map(|found| found.map(Value::from)));
                let scalar = |name| members.get(name).map(|value| match value {
                    Value::String(_) | Value::Number(_) => value.clone(),
                    _ => Value::Null,
                });
                prop_assert_eq!(found, Some([scalar("a"), scalar("b")]));
            }
        }

        #[test]
        fn what_is_written_is_read_back(pairs in prop::collection::btree_map(".{0,6}", ".{0,6}", 0..8)) {
            let written = Value::Object(pairs.into_iter().map(|(name, value)| (name, value.into())).collect());
            prop_assert_eq!(object(written.to_string().as_bytes()).map(Value::Object), Some(written));
        }
    }
}
