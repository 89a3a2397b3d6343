//! Data documents put together as text, so that numbers keep their digits.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

/// Merges documents, each below its mount, into one object. Members of the same object may come from several; no value from two.
pub(super) fn document<'a>(
    documents: impl IntoIterator<Item = (&'a [String], &'a str)>,
) -> Result<String, DocumentError> {
    let mut whole = Tree::Object(BTreeMap::new());
    for (mount, text) in documents {
        let raw = serde_json::from_str::<&RawValue>(text).map_err(|error| DocumentError::NoJson(at(mount), error))?;
        whole.add(mount, 0, raw.get())?;
    }
    let mut text = String::new();
    whole.write(&mut text);
    Ok(text)
}

#[derive(Debug, thiserror::Error)]
pub(super) enum DocumentError {
    #[error("the document at `{0}` is no JSON")]
    NoJson(String, #[source] serde_json::Error),
    #[error("two documents have a value at `{0}`, or one that has none is no object")]
    Twice(String),
}

enum Tree<'a> {
    Object(BTreeMap<String, Tree<'a>>),
    Raw(&'a str),
}

impl<'a> Tree<'a> {
    fn add(&mut self, mount: &[String], depth: usize, text: &'a str) -> Result<(), DocumentError> {
        let twice = || DocumentError::Twice(at(mount.get(..depth).unwrap_or(mount)));
        let members = self.members().ok_or_else(twice)?;
        if let Some(step) = mount.get(depth) {
            return match members.get_mut(step) {
                Some(below) => below.add(mount, depth + 1, text),
                None => {
                    let inner = mount.iter().skip(depth + 1).rev();
                    let value = inner
                        .fold(Self::Raw(text), |inner, step| Self::Object(BTreeMap::from([(step.clone(), inner)])));
                    members.insert(step.clone(), value);
                    Ok(())
                }
            };
        }
        for (name, value) in object(text).ok_or_else(twice)? {
            match members.get_mut(&name) {
                None => drop(members.insert(name, Self::Raw(value))),
                Some(below) => {
                    let mut place = mount.to_vec();
                    place.push(name);
                    below.add(&place, depth + 1, value)?;
                }
            }
        }
        Ok(())
    }

    fn members(&mut self) -> Option<&mut BTreeMap<String, Self>> {
        if let Self::Raw(text) = self {
            let members = object(text)?;
            *self = Self::Object(members.into_iter().map(|(name, value)| (name, Self::Raw(value))).collect());
        }
        match self {
            Self::Object(members) => Some(members),
            Self::Raw(_) => None,
        }
    }

    fn write(&self, text: &mut String) {
        match self {
            Self::Raw(raw) => text.push_str(raw),
            Self::Object(members) => {
                text.push('{');
                for (number, (name, value)) in members.iter().enumerate() {
                    if number > 0 {
                        text.push(',');
                    }
                    text.push_str(&serde_json::Value::from(name.as_str()).to_string());
                    text.push(':');
                    value.write(text);
                }
                text.push('}');
            }
        }
    }
}

fn object(text: &str) -> Option<BTreeMap<String, &str>> {
    let members: BTreeMap<String, &RawValue> = serde_json::from_str(text).ok()?;
    Some(members.into_iter().map(|(name, value)| (name, value.get())).collect())
}

fn at(mount: &[String]) -> String {
    ["data"].into_iter().chain(mount.iter().map(String::as_str)).collect::<Vec<_>>().join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged(documents: &[(&str, &str)]) -> Result<String, String> {
        let mounts: Vec<Vec<String>> = documents
            .iter()
            .map(|(mount, _)| mount.split('/').filter(|step| !step.is_empty()).map(str::to_owned).collect())
            .collect();
        let documents = mounts.iter().zip(documents).map(|(mount, (_, text))| (mount.as_slice(), *text));
        document(documents).map_err(|error| error.to_string())
    }

    #[test]
    fn documents_come_together_and_numbers_keep_their_digits() {
        for (name, documents, whole) in [
            ("none", &[][..], "{}"),
            (
                "as written",
                &[("", r#"{"a":1.50,"b":123456789012345678901234567890}"#)],
                r#"{"a":1.50,"b":123456789012345678901234567890}"#,
            ),
            ("below", &[("a/b", "1e3")], r#"{"a":{"b":1e3}}"#),
            ("beside", &[("", r#"{"a":{"x":1}}"#), ("a/y", "[2]"), ("b", "{}")], r#"{"a":{"x":1,"y":[2]},"b":{}}"#),
            ("deeper", &[("a", r#"{"b":{"c":1}}"#), ("", r#"{"a":{"b":{"d":2}}}"#)], r#"{"a":{"b":{"c":1,"d":2}}}"#),
            ("escaped", &[("", r#"{"\u0061\"":1}"#), ("b", "2")], r#"{"a\"":1,"b":2}"#),
        ] {
            assert_eq!(merged(documents).as_deref(), Ok(whole), "{name}");
        }
    }

    #[test]
    fn what_contradicts_or_is_no_object_is_named() {
        for (documents, place) in [
            (&[("", "[]")][..], "`data`"),
            (&[("", "{")], "`data`"),
            (&[("a", "1"), ("a", "2")], "`data.a`"),
            (&[("a", "1"), ("a/b", "2")], "`data.a`"),
            (&[("a/b", "2"), ("a", "1")], "`data.a`"),
            (&[("", r#"{"a":{"b":1}}"#), ("a", r#"{"b":{}}"#)], "`data.a.b`"),
        ] {
            let error = merged(documents).unwrap_err();
            assert!(error.contains(place), "{documents:?}: {error}");
        }
    }
}
