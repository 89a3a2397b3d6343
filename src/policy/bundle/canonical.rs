use std::{borrow::Cow, fmt::Write as _, ops::Range};

use super::{error::Fault, text::Text};

/// The form of a JSON text that a bundle's signature is over, so that white space and the order of members do not matter.
///
/// Open Policy Agent hashes what its Go program writes: objects with their members sorted by the bytes of their names, no white space,
/// strings as Go's encoder writes them without its escapes for HTML, and **numbers as they are in the file**. Stricter than there: a
/// repeated member, half a surrogate pair and bytes that are not UTF-8 are refused, because readers disagree about them.
pub(super) fn canonical(text: &[u8]) -> Result<String, Fault> {
    let (mut text, mut out) = (Text::new(text)?, String::with_capacity(text.len()));
    value(&mut text, &mut out)?;
    text.end()?;
    Ok(out)
}

fn value(text: &mut Text<'_>, out: &mut String) -> Result<(), Fault> {
    match text.peek() {
        Some(b'{') => object(text, out)?,
        Some(b'[') => {
            let start = out.len();
            text.array(|text| {
                out.push(if out.len() == start { '[' } else { ',' });
                value(text, out)
            })?;
            if out.len() == start {
                out.push('[');
            }
            out.push(']');
        }
        Some(b'"') => string(&text.string()?, out),
        _ => out.push_str(text.scalar()?),
    }
    Ok(())
}

fn object(text: &mut Text<'_>, out: &mut String) -> Result<(), Fault> {
    let start = out.len();
    let mut members = Vec::<(Cow<'_, str>, Range<usize>)>::new();
    text.object(|text, name| {
        out.push(if members.is_empty() { '{' } else { ',' });
        let from = out.len() - start;
        string(&name, out);
        out.push(':');
        value(text, out)?;
        members.push((name, from..out.len() - start));
        Ok(())
    })?;
    if members.is_empty() {
        out.push('{');
    }
    if !members.is_sorted_by(|(one, _), (next, _)| one < next) {
        members.sort_by(|(one, _), (other, _)| one.cmp(other));
        if let Some([(name, _), _]) = members.array_windows().find(|[(one, _), (next, _)]| one == next) {
            return Err(text.repeated(name));
        }
        let unsorted = out.split_off(start);
        for (index, (_, range)) in members.into_iter().enumerate() {
            out.push(if index == 0 { '{' } else { ',' });
            out.push_str(unsorted.get(range).unwrap_or_default());
        }
    }
    out.push('}');
    Ok(())
}

/// As Go's `encoding/json` does with `SetEscapeHTML(false)`: U+2028 and U+2029 are escaped all the same.
fn string(value: &str, out: &mut String) {
    out.push('"');
    for character in value.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\0'..='\u{1f}' | '\u{2028}' | '\u{2029}' => {
                let _ = write!(out, "\\u{:04x}", u32::from(character));
            }
            _ => out.push(character),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn of(text: &str) -> String {
        canonical(text.as_bytes()).unwrap()
    }

    #[test]
    fn members_are_sorted_white_space_is_gone_and_numbers_are_left_alone() {
        for (written, expected) in [
            (" { } ", "{}"),
            ("[ ]", "[]"),
            (
                "[ 1.50 , 1e3,-0.0, 1E+5, 123456789012345678901234567890 ]",
                "[1.50,1e3,-0.0,1E+5,123456789012345678901234567890]",
            ),
            (r#"{"b":1,"a":{"d":[],"c":[{},{"f":1,"e":2}]}}"#, r#"{"a":{"c":[{},{"e":2,"f":1}],"d":[]},"b":1}"#),
            // `"` is written `\"`, and a backslash would sort after `!` and `a` where `"` sorts between them.
            (r##"{"a":1,"\"":2,"!":3,"#":4}"##, r##"{"!":3,"\"":2,"#":4,"a":1}"##),
            ("{\"\u{ff5e}\":1,\"\u{1f600}\":2}", "{\"\u{ff5e}\":1,\"\u{1f600}\":2}"),
            (r#"{"\u00e9":1,"z":2}"#, "{\"z\":2,\"é\":1}"),
            (
                "\"\u{2028}\\u2029\\u007f\\/<>&\\ud83d\\ude00\\u0000\\b\\f\\n\\r\\t\\u001f\"",
                "\"\\u2028\\u2029\u{7f}/<>&😀\\u0000\\b\\f\\n\\r\\t\\u001f\"",
            ),
        ] {
            assert_eq!(of(written), expected);
        }
    }

    #[test]
    fn a_repeated_member_is_refused_wherever_it_is() {
        for odd in [r#"{"a":1,"a":1}"#, r#"{"a":1,"b":2,"\u0061":3}"#, r#"[{"x":{"b":1,"a":2,"b":3}}]"#] {
            assert!(canonical(odd.as_bytes()).is_err(), "{odd}");
        }
    }

    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "[a-z\"\\\\\u{0}-\u{1f}é\u{1f600}]{0,6}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 40, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                prop::collection::btree_map("[a-c\"\\\\\n]{0,2}", inner, 0..5)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn for_plain_documents_it_is_what_serde_json_writes(value in json(), pretty in any::<bool>()) {
            let written = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) };
            prop_assert_eq!(of(&written.unwrap()), value.to_string());
        }

        #[test]
        fn twice_is_once_and_the_order_of_members_does_not_matter(
            members in prop::collection::btree_map("[a-d\u{2028}\"]{0,3}", "-?[1-9][0-9]{0,20}(\\.[0-9]{1,3})?([eE][+-]?[0-9]{1,4})?", 0..6),
        ) {
            let member = |(name, number): (&String, &String)| format!(" {} : {number}", Value::from(name.as_str()));
            let forward: Vec<_> = members.iter().map(member).collect();
            let backward: Vec<_> = members.iter().rev().map(member).collect();
            let once = of(&format!("{{{}}}", forward.join(",")));
            prop_assert_eq!(&of(&format!("{{{}\n}}", backward.join(" ,"))), &once);
            prop_assert_eq!(&of(&once), &once);
            for number in members.values() {
                prop_assert!(once.contains(number.as_str()), "{} in {}", number, once);
            }
        }
    }
}
