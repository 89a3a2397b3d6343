//! Values as modules write them: JSON with sets, and with keys of any type.

use std::collections::{BTreeMap, BTreeSet};

use regorus::Value;
use serde_json::Map;

/// `None` for what is no value, too deep, or has a number that would not come through whole.
pub(super) fn read(text: &str) -> Option<Value> {
    whole(text, true)
}

/// An object as JSON has it: sets are arrays in their order, names are texts. As Open Policy Agent answers to others.
pub(super) fn object(text: &str) -> Option<Map<String, serde_json::Value>> {
    match json(&whole(text, false)?)? {
        serde_json::Value::Object(members) => Some(members),
        _ => None,
    }
}

fn whole(text: &str, is_exact: bool) -> Option<Value> {
    let mut reader = Reader { rest: text, is_exact };
    let value = reader.value(MAX_DEPTH)?;
    reader.rest.is_empty().then_some(value)
}

fn json(value: &Value) -> Option<serde_json::Value> {
    match value {
        Value::Array(items) => items.iter().map(json).collect(),
        Value::Set(items) => items.iter().map(json).collect(),
        Value::Object(members) => {
            let mut object = Map::new();
            for (name, value) in members.iter() {
                let name = match name {
                    Value::String(name) => name.as_ref().to_owned(),
                    name => json(name)?.to_string(),
                };
                // Two names that become one would be two readings.
                if object.insert(name, json(value)?).is_some() {
                    return None;
                }
            }
            Some(serde_json::Value::Object(object))
        }
        _ => serde_json::to_value(value).ok(),
    }
}

/// `None` for what has no such form.
pub(super) fn write(value: &Value) -> Option<String> {
    let list = |items: &mut dyn Iterator<Item = Option<String>>| Some(items.collect::<Option<Vec<_>>>()?.join(","));
    match value {
        Value::Array(items) => Some(format!("[{}]", list(&mut items.iter().map(write))?)),
        Value::Set(items) if items.is_empty() => Some("set()".to_owned()),
        Value::Set(items) => Some(format!("{{{}}}", list(&mut items.iter().map(write))?)),
        Value::Object(members) => {
            let member = |(name, value): (&Value, &Value)| Some(format!("{}:{}", write(name)?, write(value)?));
            Some(format!("{{{}}}", list(&mut members.iter().map(member))?))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.to_json_str().ok(),
        _ => None,
    }
}

struct Reader<'a> {
    rest: &'a str,
    /// Whether numbers have to come through whole.
    is_exact: bool,
}

impl<'a> Reader<'a> {
    fn value(&mut self, depth: usize) -> Option<Value> {
        let depth = depth.checked_sub(1)?;
        self.space();
        let value = match self.rest.chars().next()? {
            '"' => self.string(),
            '[' => {
                self.take("[");
                let mut items = Vec::new();
                while !self.ends(!items.is_empty(), "]")? {
                    items.push(self.value(depth)?);
                }
                Some(Value::from(items))
            }
            '{' => self.braces(depth),
            _ => self.word(),
        };
        self.space();
        value
    }

    /// A set, or an object, which the empty braces are.
    fn braces(&mut self, depth: usize) -> Option<Value> {
        self.take("{");
        let (mut items, mut members) = (BTreeSet::new(), BTreeMap::new());
        while !self.ends(!(items.is_empty() && members.is_empty()), "}")? {
            let first = self.value(depth)?;
            if self.take(":") {
                let value = self.value(depth)?;
                if members.insert(first, value).is_some() {
                    return None;
                }
            } else {
                items.insert(first);
            }
        }
        match (items.is_empty(), members.is_empty()) {
            (true, _) => Some(Value::from(members)),
            (false, true) => Some(Value::from(items)),
            (false, false) => None,
        }
    }

    /// Whether the closing sign comes; else, after something, there has to be a comma.
    fn ends(&mut self, is_after: bool, sign: &str) -> Option<bool> {
        self.space();
        if self.take(sign) {
            return Some(true);
        }
        (!is_after || self.take(",")).then_some(false)
    }

    fn string(&mut self) -> Option<Value> {
        let mut is_escaped = false;
        let end = self.rest.bytes().skip(1).position(|byte| {
            let is_end = byte == b'"' && !is_escaped;
            is_escaped = byte == b'\\' && !is_escaped;
            is_end
        })?;
        let (text, rest) = self.rest.split_at_checked(end + 2)?;
        self.rest = rest;
        serde_json::from_str::<String>(text).ok().map(Value::from)
    }

    fn word(&mut self) -> Option<Value> {
        for (word, value) in [
            ("null", Value::Null),
            ("true", Value::Bool(true)),
            ("false", Value::Bool(false)),
            ("set()", Value::from(BTreeSet::new())),
        ] {
            if self.take(word) {
                return Some(value);
            }
        }
        let end = self.rest.find(|char: char| !(char.is_ascii_digit() || "+-.eE".contains(char)));
        let (number, rest) = self.rest.split_at_checked(end.unwrap_or(self.rest.len()))?;
        self.rest = rest;
        let is_exact = !self.is_exact
            || number.parse::<i64>().is_ok()
            || number.bytes().filter(u8::is_ascii_digit).count() <= EXACT_DIGITS && !number.contains(['e', 'E']);
        if is_exact { Value::from_json_str(number).ok() } else { None }
    }

    fn take(&mut self, sign: &str) -> bool {
        let rest = self.rest.strip_prefix(sign);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn space(&mut self) {
        self.rest = self.rest.trim_ascii_start();
    }
}

const MAX_DEPTH: usize = 64;

/// Of a fraction: with more of them two can be the same to the machine.
const EXACT_DIGITS: usize = 15;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_is_written_as_it_was() {
        for text in [
            "null",
            "true",
            "-7",
            "9223372036854775807",
            "1.5",
            r#""a\"b\\""#,
            "[]",
            "[1,[2]]",
            "{}",
            r#"{"a":{"b":1}}"#,
            "set()",
            "{1,2}",
            r#"{"a",[1]}"#,
            r#"{1:{"x"}}"#,
            r#"{{"a":1}}"#,
            "\"\u{e9}\u{1f600}\"",
        ] {
            assert_eq!(read(text).and_then(|value| write(&value)).as_deref(), Some(text), "{text}");
        }
        assert_eq!(read(r#" { "a" : [ 1 , 2 ] } "#), read(r#"{"a":[1,2]}"#));
    }

    #[test]
    fn what_is_no_value_or_would_not_come_through_whole_is_refused() {
        for text in [
            "",
            "[",
            "[1",
            "[1 2]",
            "[,1]",
            "{1,2:3}",
            "{1:}",
            "{1",
            "\"",
            "\"a",
            "\"\\\"",
            "nul",
            "1 2",
            "]",
            "1e400",
            "18446744073709551616",
            "0.1234567890123456",
            "1e3",
            "--1",
            "NaN",
            "{\"a\"",
            "\"\\x\"",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
        assert!(read(&format!("{}{}", "[".repeat(64), "]".repeat(64))).is_some());
        assert!(read(&"[".repeat(100_000)).is_none());
    }

    #[test]
    fn as_json_sets_are_in_order_and_names_are_texts() {
        for (text, expected) in [
            (r#"{"result":{"b","a",{"c"},[2]}}"#, Some(r#"{"result":["a","b",[2],["c"]]}"#)),
            (
                r#"{"a":set(),"b":{1:2},"c":0.1234567890123456789}"#,
                Some(r#"{"a":[],"b":{"1":2},"c":0.12345678901234568}"#),
            ),
            (r#"{"a":{[1]:2}}"#, Some(r#"{"a":{"[1]":2}}"#)),
            (r#"{"a":{1:2,"1":3}}"#, None),
            (r#"{"a":1,"a":{2}}"#, None),
            (r#"{"a"}"#, None),
            ("1", None),
            (r#"{"a":1}{"a":1}"#, None),
        ] {
            let found = object(text).map(|members| serde_json::Value::Object(members).to_string());
            assert_eq!(found.as_deref(), expected, "{text}");
        }
    }
}
